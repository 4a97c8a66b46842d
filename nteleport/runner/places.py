"""Where the slots of a command are: which device each sees and how many CPU threads it has. No torch."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from nteleport.errors import JobError

_VISIBLE = "CUDA_VISIBLE_DEVICES"
_THREADS = "OMP_NUM_THREADS"


@dataclass(frozen=True)
class Place:
    """One slot.

    Attributes:
        device: what its worker passes to `find_device`.
        threads: for the arithmetic on the CPU.
        visible: the one CUDA device it sees, as `CUDA_VISIBLE_DEVICES` names it; None to see all.
    """

    device: str
    threads: int
    visible: str | None = None

    def environment(self, inherited: Mapping[str, str]) -> dict[str, str]:
        """The variables of its worker, which finds the same modules as this process."""
        search = os.pathsep.join(folder for folder in sys.path if folder)
        changed = {_THREADS: str(self.threads), "MKL_NUM_THREADS": str(self.threads), "PYTHONPATH": search}
        if self.visible is not None:
            changed[_VISIBLE] = self.visible
        return {**inherited, **changed}


def places(
    *,
    jobs: int | None,
    device: str,
    devices: Sequence[int] = (),
    jobs_per_device: int = 1,
    environment: Mapping[str, str],
) -> list[Place]:
    """Lay out the slots.

    Args:
        jobs: how many, or None for what follows from the other arguments.
        device: for all of them, unless there are `devices`.
        devices: CUDA devices: positions in an inherited `CUDA_VISIBLE_DEVICES`, else numbers.
        jobs_per_device: slots on each of `devices`.
        environment: the variables of this process.

    Returns:
        The slots; those of a device are not neighbours, so that few jobs spread over many devices.

    Raises:
        JobError: the arguments contradict each other or the environment.
    """
    if not devices:
        count = jobs or 1
        return [Place(device, _threads(count, environment))] * count
    if device not in ("auto", "cuda"):
        raise JobError(f"--device {device} beside --devices: expected one of them")
    if len(set(devices)) < len(devices):
        raise JobError(f"--devices {_listed(devices)}: expected different devices (see --jobs-per-device)")
    count = len(devices) * jobs_per_device
    if jobs not in (None, count):
        raise JobError(
            f"--jobs {jobs} beside --devices {_listed(devices)} with {jobs_per_device} jobs each: "
            f"expected {count}, or leave --jobs out"
        )
    threads, visible = _threads(count, environment), _visible(devices, environment)
    return [Place("cuda", threads, name) for _ in range(jobs_per_device) for name in visible]


def available_cores() -> int:
    """CPU cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _threads(slots: int, environment: Mapping[str, str]) -> int:
    """An equal share of the cores, or of `OMP_NUM_THREADS` where that is set."""
    given = environment.get(_THREADS, "").partition(",")[0]
    whole = int(given) if given.isdecimal() and int(given) > 0 else available_cores()
    return max(1, whole // slots)


def _visible(devices: Sequence[int], environment: Mapping[str, str]) -> list[str]:
    inherited = environment.get(_VISIBLE)
    if inherited is None:
        return [str(number) for number in devices]
    names = [name.strip() for name in inherited.split(",") if name.strip()]
    if max(devices) >= len(names):
        raise JobError(
            f"--devices {_listed(devices)}, but {_VISIBLE}={inherited} leaves {len(names)}: "
            f"expected positions in it, counted from 0"
        )
    return [names[number] for number in devices]


def _listed(devices: Sequence[int]) -> str:
    return ",".join(map(str, devices))
