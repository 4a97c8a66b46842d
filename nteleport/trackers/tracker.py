"""The protocol of a tracker, and the available trackers by name.

One object follows one job, in the process that trains it. A resumed job is started again with the rows of its
completed epochs: a tracker shows each epoch once, however often its job was interrupted.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from nteleport.errors import UnknownNameError, nearest
from nteleport.extras import import_extra
from nteleport.jobs.job import Job

__all__ = ["PROJECT", "TRACKER_NAMES", "Row", "Tracker", "load_trackers", "summary_of"]

PROJECT = "nteleport"
"""The project, or experiment, for jobs when the tracker's own settings name no other."""

Row = Mapping[str, float]
"""A row of `metrics.csv`: the epoch and its metrics."""


class Tracker(Protocol):
    """Follows one job. Any of its methods may raise: see `reporting`."""

    def start(self, job: Job, out: Path, earlier: Sequence[Row]) -> None:
        """A job starts or continues.

        Args:
            job: its name, its digest (the same whenever it is run) and its hyper-parameters.
            out: the output folder, where a tracker that writes files creates its own folder.
            earlier: the rows of the completed epochs of a resumed job.
        """

    def log(self, row: Row) -> None:
        """An epoch is over."""

    def finish(self, state: str, summary: Mapping[str, float]) -> None:
        """The job is `finished`, `diverged`, `failed` or `stopped`.

        Args:
            state: one of these.
            summary: summary numbers, see `summary_of`; none for a stopped job.
        """


@dataclass(frozen=True)
class TrackerPlace:
    """The location of a tracker: our class, and the package it needs."""

    module: str
    cls: str
    package: str


TRACKERS = {
    "tensorboard": TrackerPlace("nteleport.trackers.tensorboard", "TensorBoardTracker", "tensorboard"),
    "wandb": TrackerPlace("nteleport.trackers.wandb", "WandbTracker", "wandb"),
    "comet": TrackerPlace("nteleport.trackers.comet", "CometTracker", "comet_ml"),
    "mlflow": TrackerPlace("nteleport.trackers.mlflow", "MLflowTracker", "mlflow"),
}

TRACKER_NAMES = tuple(TRACKERS)


def load_trackers(names: Iterable[str]) -> dict[str, type[Tracker]]:
    """The classes of the trackers called `names`, in this order; their packages are imported.

    Raises:
        UnknownNameError: there is no such tracker.
        MissingExtraError: its package is not installed.
    """
    return {name: _load(name) for name in names}


def _load(name: str) -> type[Tracker]:
    if name not in TRACKERS:
        expected = ", ".join(TRACKER_NAMES)
        raise UnknownNameError(
            f"unknown tracker {name!r}: expected one of {expected}{nearest(name, TRACKER_NAMES)}"
        )
    place = TRACKERS[name]
    import_extra(place.package, extra="tracking", purpose=f"the tracker {name}")
    module = import_extra(place.module, extra="tracking", purpose=f"the tracker {name}")
    tracker: type[Tracker] = getattr(module, place.cls)
    return tracker


def summary_of(result: Mapping[str, object]) -> dict[str, float]:
    """The numbers of a `result.json` under dotted keys: `best.val_accuracy`, `test.accuracy`, `seconds`, …

    The last row is left out: the tracker has it.
    """
    flat: dict[str, float] = {}
    for key, value in result.items():
        inner = value if isinstance(value, Mapping) else {"": value}
        for name, number in inner.items():
            if key != "final" and isinstance(number, (int, float)) and not isinstance(number, bool):
                flat[f"{key}.{name}".rstrip(".")] = number
    return flat
