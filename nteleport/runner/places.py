"""The placement of a command's slots: the device and the number of CPU threads of each. No torch."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from nteleport.errors import JobError
from nteleport.jobs.options import RunOptions

_VISIBLE = "CUDA_VISIBLE_DEVICES"
_THREADS = "OMP_NUM_THREADS"


@dataclass(frozen=True)
class Place:
    """One slot.

    Attributes:
        device: what its worker passes to `find_device`.
        threads: CPU threads for arithmetic.
        visible: the only CUDA device it sees, as named in `CUDA_VISIBLE_DEVICES`; None to see all.
    """

    device: str
    threads: int
    visible: str | None = None

    def environment(self, inherited: Mapping[str, str]) -> dict[str, str]:
        """The environment variables of its worker, which finds the same modules as this process."""
        search = os.pathsep.join(folder for folder in sys.path if folder)
        changed = {_THREADS: str(self.threads), "MKL_NUM_THREADS": str(self.threads), "PYTHONPATH": search}
        if self.visible is not None:
            changed[_VISIBLE] = self.visible
        return {**inherited, **changed}


def places(options: RunOptions, environment: Mapping[str, str]) -> list[Place]:
    """Lay out the slots of a run.

    Args:
        options: `slots`, `device`, `devices` and `jobs_per_device` matter.
        environment: the environment variables of this process. Devices are positions in an inherited
            `CUDA_VISIBLE_DEVICES`, else device numbers.

    Returns:
        The slots, alternating between devices, so that a few jobs spread over many devices.

    Raises:
        JobError: the options contradict each other or the environment.
    """
    device, devices = options.device, options.devices
    if not devices:
        count = options.slots or 1
        return [Place(device, _threads(count, environment))] * count
    if device not in ("auto", "cuda"):
        raise JobError(f"device {device} beside devices {_listed(devices)}: expected one of them")
    if len(set(devices)) < len(devices):
        raise JobError(f"devices {_listed(devices)}: expected different devices, or several jobs per device")
    count = len(devices) * options.jobs_per_device
    if options.slots not in (None, count):
        raise JobError(
            f"{options.slots} jobs in parallel on devices {_listed(devices)} with {options.jobs_per_device} "
            f"jobs each: expected {count}"
        )
    threads, visible = _threads(count, environment), _visible(devices, environment)
    return [Place("cuda", threads, name) for _ in range(options.jobs_per_device) for name in visible]


def available_cores() -> int:
    """CPU cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _threads(slots: int, environment: Mapping[str, str]) -> int:
    """An equal share of the cores, or of `OMP_NUM_THREADS` if that is set."""
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
            f"devices {_listed(devices)}, but {_VISIBLE}={inherited} leaves {len(names)}: "
            f"expected positions in it, counted from 0"
        )
    return [names[number] for number in devices]


def _listed(devices: Sequence[int]) -> str:
    return ",".join(map(str, devices))
