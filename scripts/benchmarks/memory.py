"""The peak memory of a training step, teleported against plain.

Each side runs in a process of its own, forked from one that has imported everything already. After a step on
two images, whose memory is given back, the libraries are where they will be; what counts is the largest
resident memory while stepping beyond that: weights, gradients, optimizer state, activations and scratch
memory. Linux only.
"""

from __future__ import annotations

import ctypes
import gc
import multiprocessing
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import torch

from nteleport import analyze
from nteleport.core.quiver import Quiver

from .baselines.plain_loop import plain_step
from .networks import BATCH_SIZES, INPUT_SHAPE, OPTIMIZERS, make_network, plain, random_batch, teleported
from .timing import Figure, Setting, compare

ROUNDS = 1
STEPS = 2
TARGET = 1.25


def peak_memory(setting: Setting) -> Iterator[Figure]:
    """Every network with both optimizers; the processes take turns."""
    for name, size in BATCH_SIZES.items():
        network = make_network(name, torch.device("cpu"))
        quiver = analyze(network, torch.zeros(2, *INPUT_SHAPE))
        for optimizer in OPTIMIZERS:
            ours, theirs = peaks(name, optimizer, size, quiver, rounds=ROUNDS)
            what = f"peak memory of a step, {optimizer}: {name}"
            yield compare("memory", what, "plain step", ours, theirs, unit="MB", factor=1e-6, target=TARGET)


def peaks(
    name: str, optimizer: str, size: int, quiver: Quiver, *, rounds: int = 1, **arguments: Any
) -> tuple[list[int], list[int]]:
    """Bytes of the teleported and of the plain step, one number a round.

    Args:
        name, arguments: as for `make_network`.
        size: of the batch.
        quiver: of the network.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["benchmarks.memory"])
    ours, theirs = [], []
    for _ in range(rounds):
        for found, chosen in ((ours, quiver), (theirs, None)):
            with ProcessPoolExecutor(1, mp_context=context) as pool:
                threads = torch.get_num_threads()
                task = pool.submit(_peak, name, optimizer, size, chosen, threads, arguments)
                found.append(task.result())
    return ours, theirs


def _peak(
    name: str, optimizer: str, size: int, quiver: Quiver | None, threads: int, arguments: dict[str, Any]
) -> int:
    """In a fresh process: bytes at the peak of a few steps; teleported if there is a quiver."""
    torch.set_num_threads(threads)
    _steps(name, optimizer, 2, quiver, arguments)
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    before = _kilobytes("VmRSS")
    _steps(name, optimizer, size, quiver, arguments)
    return 1024 * (_kilobytes("VmHWM") - before)


def _steps(name: str, optimizer: str, size: int, quiver: Quiver | None, arguments: dict[str, Any]) -> None:
    setting = Setting(torch.device("cpu"))
    network = make_network(name, setting.device, **arguments)
    made = plain(network, optimizer) if quiver is None else teleported(network, optimizer, quiver)
    batch = random_batch(setting, size)
    plain_step(network, made, *batch)
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # forget the peak so far
    for _ in range(STEPS):
        plain_step(network, made, *batch)


def _kilobytes(field: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:"))
