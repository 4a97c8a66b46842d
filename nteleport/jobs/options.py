"""How jobs are run: options that all jobs of a run share and that do not affect results. No torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class RunOptions:
    """The options of a run.

    Attributes:
        data_dir: where data sets are, or are downloaded to.
        device: auto, cpu, cuda, cuda:1 or mps.
        slots: how many jobs to train in parallel; None for one, or for as many as the other options give.
        devices: CUDA devices to train on in parallel, instead of `device`.
        jobs_per_device: slots on each of `devices`.
        save_weights: save `weights.pt`: the plain `weights` (a `state_dict`) and the change of basis `cob`.
        redo: train jobs that are over again, from the start.
        fail_fast: start no other job after one has failed.
        trackers: names of experiment trackers.
        command: the command line, for provenance.
        plugins: files that the command line admits; worker processes admit them, too.
    """

    data_dir: Path = Path("data")
    device: str = "auto"
    slots: int | None = None
    devices: tuple[int, ...] = ()
    jobs_per_device: int = 1
    save_weights: bool = False
    redo: bool = False
    fail_fast: bool = False
    trackers: tuple[str, ...] = ()
    command: tuple[str, ...] = ()
    plugins: tuple[Path, ...] = ()
