"""Where a job runs: finding the device, naming it, and the precision of its arithmetic."""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

from nteleport.errors import JobError, nearest

_KINDS = ("auto", "cpu", "cuda", "mps")


def find_device(name: str) -> torch.device:
    """The device called `auto`, `cpu`, `cuda`, `cuda:N` or `mps`; `auto` is the fastest available kind.

    Raises:
        JobError: this machine has no such device.
    """
    kind, _, number = name.partition(":")
    if kind not in _KINDS or (number and not (kind == "cuda" and number.isdecimal())):
        raise JobError(
            f"unknown device {name!r}: expected auto, cpu, cuda, cuda:1 or mps{nearest(name, _KINDS)}"
        )
    if kind == "auto":
        kind = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    if kind == "mps" and not torch.backends.mps.is_available():
        raise JobError("there is no device mps: expected an Apple GPU; the device cpu works anywhere")
    if kind == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if int(number or 0) >= count:
            raise JobError(
                f"there is no device {name}: torch sees {count} CUDA devices; the device cpu works anywhere"
            )
        return torch.device("cuda", int(number or torch.cuda.current_device()))
    return torch.device(kind)


def device_name(device: torch.device) -> str:
    """The name of the hardware, for the record."""
    if device.type == "cuda":
        return str(torch.cuda.get_device_name(device))
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or platform.machine()


@contextmanager
def arithmetic(precision: str, device: torch.device) -> Iterator[None]:
    """Set the floating-point rules for one job, and restore the previous ones afterwards.

    On CUDA, TF32 inside matrix products and convolutions is enabled for `tf32` only. On a CPU, denormal
    numbers are flushed to zero: they change no result visibly, and computing with them is many times slower.
    """
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32, _flushes_denormals()
    if device.type == "cuda":
        torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
        torch.backends.cudnn.allow_tf32 = precision == "tf32"
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        if device.type == "cuda":
            torch.set_float32_matmul_precision(before[0])
            torch.backends.cudnn.allow_tf32 = before[1]
        torch.set_flush_denormal(before[2])


def _flushes_denormals() -> bool:
    smallest = torch.tensor(torch.finfo(torch.float32).tiny)
    return float(smallest / 2) == 0


def forward_of(
    network: nn.Module, device: torch.device, *, precision: str, compile: bool, channels_last: bool
) -> Callable[[Tensor], Tensor]:
    """The forward pass through `network`: compiled or not, in bfloat16 or float32, in either memory layout.

    Weights stay in float32 and in place, so that a teleportation leaves a compiled graph valid.
    """
    run: Callable[[Tensor], Tensor] = torch.compile(network) if compile else network
    if precision != "bf16" and not channels_last:
        return run

    def forward(images: Tensor) -> Tensor:
        if channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
            return run(images)

    return forward
