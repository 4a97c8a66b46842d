"""How jobs are run: what a run's jobs have in common and no job's results depend on. No torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class RunOptions:
    """The options of a run.

    Attributes:
        data_dir: where data sets are, or are downloaded to.
        device: auto, cpu, cuda, cuda:1 or mps.
        slots: how many jobs to train side by side; None for one, or for as many as the other options give.
        devices: CUDA devices to train on side by side, in place of `device`.
        jobs_per_device: slots on each of `devices`.
        save_weights: leave `weights.pt`: the plain `weights` (a `state_dict`) and the change of basis `cob`.
        redo: train jobs that are over once more, from the start.
        fail_fast: begin no other job after one has failed.
        trackers: names of experiment trackers.
        command: the command line, for the record.
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
