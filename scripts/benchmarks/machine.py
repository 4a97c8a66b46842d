"""The machine that figures are of: a description, and how fast it multiplies matrices."""

from __future__ import annotations

import ctypes
import os
import platform
import statistics

import torch
import torchvision

import nteleport
from nteleport.training.device import device_name

from .timing import Setting, take_turns

MATRIX_SIZE = 2048

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of malloc.h


def keep_freed_memory() -> None:
    """Let glibc keep the memory that tensors give back, as far as it can (blocks of up to 32 MiB).

    Otherwise the luck of two addresses decides whether the gradients of one side are new pages in every step,
    which costs a wide MLP a quarter of a step; that says nothing about what is compared.
    """
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        libc.mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
        libc.mallopt(_M_MMAP_THRESHOLD, 2**25)


def describe(device: torch.device) -> dict[str, str]:
    """Hardware, versions and load, in words."""
    gigabytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {
        "device": f"{device.type}, {device_name(device)}",
        "cores": f"{os.cpu_count()}, of which torch uses {torch.get_num_threads()}",
        "memory": f"{gigabytes:.0f} GiB",
        "load": " ".join(f"{value:.2f}" for value in os.getloadavg()) + " (1, 5 and 15 minutes before)",
        "system": platform.platform(),
        "software": f"Python {platform.python_version()}, torch {torch.__version__}, "
        f"torchvision {torchvision.__version__}, nteleport {nteleport.__version__}",
    }


def matmul_rate(setting: Setting) -> float:
    """Floating-point operations a second in products of two square float32 matrices: the median."""
    left, right = torch.randn(2, MATRIX_SIZE, MATRIX_SIZE, device=setting.device)
    product = torch.empty_like(left)
    (times,) = take_turns([lambda: torch.mm(left, right, out=product)], setting, 3.0)
    return 2 * MATRIX_SIZE**3 / statistics.median(times)
