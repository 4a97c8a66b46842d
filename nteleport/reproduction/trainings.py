"""What pairs of trainings say about a claim.

A pair is two jobs that differ only in their teleportation: the same seed, so the same initial weights and
batches. For each pair, the validation accuracies at an early, a middle and the last epoch are compared, and
the number of epochs until an accuracy is reached. Within a row of the report the differences of one seed are
averaged over the optimizer settings, and the interval is over the seeds.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import pandas as pd

from nteleport.jobs.job import Job, Teleportation
from nteleport.reproduction.claims import EARLY_MIDDLE_LAST, REACH, TrainingClaim
from nteleport.reproduction.measures import Interval, t_interval

Curves = Mapping[str, Sequence[float]]
"""The validation accuracy of each epoch, by the name of a finished or diverged job."""


@dataclass(frozen=True)
class Pair:
    """Two jobs that differ only in their teleportation."""

    treated: Job
    baseline: Job


@dataclass(frozen=True)
class Comparison:
    """The results of the pairs of one row; differences are treated minus baseline.

    Attributes:
        epochs: the early, the middle and the last epoch, counted from 0.
        gains: differences in validation accuracy at these epochs, in [−1, 1].
        reach: the accuracy to reach.
        sooner: difference in epochs until it is reached; a training that never reaches it counts as its
            number of epochs plus one.
        treated_epochs, baseline_epochs: the mean numbers of epochs until then.
        never: how many treated and baseline trainings never reach it.
        pairs: the number of pairs.
    """

    epochs: tuple[int, ...]
    gains: tuple[Interval, ...]
    reach: float
    sooner: Interval
    treated_epochs: float
    baseline_epochs: float
    never: tuple[int, int]
    pairs: int

    @property
    def gains_early(self) -> bool:
        """Better at the early or the middle epoch, and worse at none of the three."""
        better = any(gain.is_positive for gain in self.gains[:2])
        return better and not any(gain.is_negative for gain in self.gains)


def rows_of(jobs: Iterable[Job]) -> dict[tuple[str, ...], list[Job]]:
    """The jobs of each row of a report, by data set, model, initializer and optimizer in words."""
    rows: dict[tuple[str, ...], list[Job]] = defaultdict(list)
    for job in jobs:
        momentum = job.optimizer.kwargs.get("momentum", 0)
        optimizer = f"{job.optimizer.cls} with momentum {momentum:g}" if momentum else f"{job.optimizer.cls}"
        initializer = "" if job.initializer.cls == "none" else f"{job.initializer.label} initialization"
        rows[(str(job.dataset), job.model.label, initializer, optimizer)].append(job)
    return dict(rows)


def pairs_of(jobs: Iterable[Job], claim: TrainingClaim) -> list[Pair]:
    """All pairs among the jobs of a row; jobs of other modes are left out."""
    by_mode: dict[str, dict[str, Job]] = defaultdict(dict)
    for job in jobs:
        plain = replace(job, teleportation=Teleportation())
        by_mode[job.teleportation.mode][plain.digest] = job
    treated, baselines = by_mode[claim.treated], by_mode[claim.baseline]
    return [Pair(treated[key], baselines[key]) for key in treated if key in baselines]


def curves_of(epochs: pd.DataFrame) -> dict[str, list[float]]:
    """Validation accuracies by job, from rows of `job, epoch, val_accuracy`."""
    ordered = epochs.sort_values(["job", "epoch"])
    return {str(job): list(rows) for job, rows in ordered.groupby("job")["val_accuracy"]}


def compare(pairs: Sequence[Pair], curves: Curves) -> Comparison | None:
    """Compare all pairs; None if one of their trainings is missing."""
    jobs = [job for pair in pairs for job in (pair.treated, pair.baseline)]
    if not pairs or any(not curves.get(job.name) for job in jobs):
        return None
    length = pairs[0].treated.training.epochs
    epochs = tuple(min(int(share * length), length - 1) for share in EARLY_MIDDLE_LAST)
    reach = REACH[str(pairs[0].treated.dataset)]
    gains = tuple(_over_seeds(pairs, partial(_accuracy, curves, epoch)) for epoch in epochs)
    waits = {job.name: epochs_until(curves[job.name], reach, length) for job in jobs}
    treated, baseline = ([waits[job.name] for job in side] for side in zip(*_both(pairs), strict=True))
    return Comparison(
        epochs, gains, reach, _over_seeds(pairs, lambda job: float(waits[job.name])),
        sum(treated) / len(treated), sum(baseline) / len(baseline),
        (sum(wait > length for wait in treated), sum(wait > length for wait in baseline)), len(pairs),
    )  # fmt: skip


def epochs_until(curve: Sequence[float], reach: float, length: int) -> int:
    """The number of epochs until the accuracy first reaches `reach`, or `length` + 1."""
    reached = (number for number, accuracy in enumerate(curve, start=1) if accuracy >= reach)
    return next(reached, length + 1)


def _both(pairs: Sequence[Pair]) -> list[tuple[Job, Job]]:
    return [(pair.treated, pair.baseline) for pair in pairs]


def _at(curve: Sequence[float], epoch: int) -> float:
    """The accuracy at an epoch; for a training that diverged earlier, its last accuracy."""
    value = curve[min(epoch, len(curve) - 1)]
    return 0.0 if math.isnan(value) else value


def _accuracy(curves: Curves, epoch: int, job: Job) -> float:
    return _at(curves[job.name], epoch)


def _over_seeds(pairs: Sequence[Pair], value: Callable[[Job], float]) -> Interval:
    """The paired differences of a value: the mean over the pairs of a seed, the interval over the seeds."""
    by_seed: dict[int, list[float]] = defaultdict(list)
    for pair in pairs:
        by_seed[pair.treated.run].append(value(pair.treated) - value(pair.baseline))
    return t_interval([math.fsum(each) / len(each) for each in by_seed.values()])
