"""Tuning: which jobs to train, which values to choose, and which jobs to report at them.

`plan` is a pure function of the experiment and the scores of the tuning jobs, so it is the same after an
interruption, and in two commands at once. An *arm* is a job without the tuned arguments, apart from its run;
a *cell* is the arms that differ in the teleportation only. All arms of a cell have the same grid:

1. Each arm is trained at each point of the grid, in each tuning run.
2. The best point of an arm has the highest mean score; of equal ones, it is the first: the smallest number of
   a grid, the first of a list, the first key before the others.
3. If the best point of any arm is at an end of a grid that may be extended, the grid becomes
   `POINTS_PER_EXTENSION` points longer there for every arm, by the same ratio, and the cell returns to 1,
   `MOST_EXTENSIONS` times at most.
4. Each arm is reported at its best point.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

from nteleport.data.catalog import dataset_info
from nteleport.errors import JobError, NTeleportError
from nteleport.experiment.experiment import Experiment
from nteleport.experiment.grids import MOST_EXTENSIONS, POINTS_PER_EXTENSION, Tuning
from nteleport.experiment.matrix import MOST_JOBS, by_name, cells
from nteleport.jobs.job import Job, Teleportation
from nteleport.jobs.paths import JobPaths
from nteleport.jobs.records import check_digest, read_result
from nteleport.jobs.tuning import TuningRow, arm_of, score_of, tuning_folder

Score = Callable[[Job], float | None]
"""The score of a tuning job; None until it has one."""

Positions = tuple[int, ...]
"""A point: the position of the value of each tuned key."""


@dataclass(frozen=True)
class Plan:
    """What tuning needs and what it has decided.

    Attributes:
        tuning: all tuning jobs of the grids as far as they are known.
        reported: the jobs at the chosen points, in the order of the matrix.
        rows: the table of tuning.
        arms: how many there are.
        chosen: for how many of them the point is chosen.
    """

    tuning: tuple[Job, ...]
    reported: tuple[Job, ...]
    rows: tuple[TuningRow, ...]
    arms: int
    chosen: int

    @property
    def is_complete(self) -> bool:
        """Whether all jobs to report are known."""
        return self.chosen == self.arms


def plan(experiment: Experiment, score: Score, most_jobs: int = MOST_JOBS) -> Plan:
    """The state of the tuning of an experiment that has a section `tune`.

    Raises:
        JobError: with all possible extensions there are more jobs than `most_jobs`; or two jobs have the same
            name.
    """
    tuning = experiment.tune
    assert tuning is not None
    arms = cells(replace(experiment, tune=None), most_jobs)
    _check_count(experiment, tuning, len(arms), most_jobs)
    alike: dict[str, list[Job]] = {}
    for arm in arms:
        alike.setdefault(replace(arm, teleportation=Teleportation(), run=0).digest, []).append(arm)
    planned = [_Cell(members, tuning, score) for members in alike.values()]
    chosen = {arm: job for cell in planned for arm, job in cell.chosen.items()}
    reported = [replace(chosen[arm], run=run) for arm in arms if arm in chosen for run in experiment.runs]
    return Plan(
        tuple(by_name([job for cell in planned for job in cell.jobs]).values()),
        tuple(by_name(reported).values()),
        tuple(row for cell in planned for row in cell.rows),
        len(arms),
        len(chosen),
    )


def recorded_plan(experiment: Experiment, out: Path, most_jobs: int = MOST_JOBS) -> Plan:
    """The plan that follows from the results in the output folder `out`.

    Raises:
        JobError: see `plan`.
    """
    tuning = experiment.tune
    assert tuning is not None
    folder, by = tuning_folder(out), tuning.by
    known: dict[str, float | None] = {}

    def score(job: Job) -> float | None:
        if job.digest not in known:
            paths = JobPaths(folder, job.name)
            try:
                result = read_result(paths)
                check_digest(paths, result, job)
            except NTeleportError:  # the attempt to train it will say so
                result = {}
            known[job.digest] = score_of(result, by, _chance(job))
        return known[job.digest]

    return plan(experiment, score, most_jobs)


def _chance(job: Job) -> float:
    """The accuracy of chance; 0 where only calling a function of the user's would tell."""
    return 1 / dataset_info(job.dataset).num_classes if isinstance(job.dataset, str) else 0.0


def _check_count(experiment: Experiment, tuning: Tuning, arms: int, most_jobs: int) -> None:
    points = math.prod(len(key.reach) for key in tuning.keys)
    count = arms * (points * len(tuning.runs) + len(experiment.runs))
    if count > most_jobs:
        raise JobError(
            f"{experiment.path} describes up to {count:,} jobs, all extensions of its grids included, "
            f"expected at most {most_jobs:,}: shorten its lists and grids, or raise the limit"
        )


class _Cell:
    """The arms of one cell, and what is decided about them."""

    def __init__(self, arms: Sequence[Job], tuning: Tuning, score: Score) -> None:
        self._arms, self._tuning, self._score = arms, tuning, score
        self._ends = [range(key.size) for key in tuning.keys]
        self._rounds: dict[Positions, int] = {}
        self._best: list[Positions] = []
        self._made: dict[tuple[Job, Positions], list[Job]] = {}
        for number in range(MOST_EXTENSIONS + 1):
            for point in product(*self._ends):
                self._rounds.setdefault(point, number)
            best = [self._best_point(arm) for arm in arms]
            known = [point for point in best if point is not None]
            if len(known) < len(arms):
                return
            wider = self._extended(known)
            if wider == self._ends or number == MOST_EXTENSIONS:
                self._best = known
                return
            self._ends = wider

    @property
    def chosen(self) -> dict[Job, Job]:
        """Each arm at its best point; empty while that is not known."""
        return {
            arm: self._tuning.applied(arm, point) for arm, point in zip(self._arms, self._best, strict=False)
        }

    @property
    def jobs(self) -> list[Job]:
        """All tuning jobs, those of the grid as written first."""
        points = sorted(self._rounds, key=lambda point: self._rounds[point])
        return [job for point in points for arm in self._arms for job in self._jobs(arm, point)]

    @property
    def rows(self) -> list[TuningRow]:
        """One row per arm and point."""
        best = dict(zip(self._arms, self._best, strict=False))
        rows = []
        for arm in self._arms:
            names = arm_of(arm)
            for point in sorted(self._rounds):
                is_best = best.get(arm) == point
                rows.append(
                    TuningRow(
                        names,
                        {key.name: key.value(at) for key, at in zip(self._tuning.keys, point, strict=True)},
                        self._rounds[point],
                        {job.run: self._score(job) for job in self._jobs(arm, point)},
                        self._tuning.by,
                        chosen=is_best,
                        edge=is_best and self._on_edge(point),
                    )
                )
        return rows

    def _jobs(self, arm: Job, point: Positions) -> list[Job]:
        """One per tuning run. Made once: the digest of a job takes time."""
        if (arm, point) not in self._made:
            job = self._tuning.applied(arm, point)
            self._made[arm, point] = [replace(job, run=run) for run in self._tuning.runs]
        return self._made[arm, point]

    def _best_point(self, arm: Job) -> Positions | None:
        """The best of the grid; None while a score is missing."""
        scores: dict[Positions, float] = {}
        for point in product(*self._ends):
            found = [self._score(job) for job in self._jobs(arm, point)]
            known = [score for score in found if score is not None]
            if len(known) < len(found):
                return None
            scores[point] = math.fsum(known) / len(known)
        return max(scores, key=lambda point: (scores[point], [-position for position in point]))

    def _extended(self, best: Sequence[Positions]) -> list[range]:
        """The positions of each key, with more of them where the best of an arm is at an end."""
        wider = []
        for place, (key, ends) in enumerate(zip(self._tuning.keys, self._ends, strict=True)):
            low, high = ends.start, ends.stop
            if key.is_extensible:
                low -= POINTS_PER_EXTENSION * any(point[place] == ends[0] for point in best)
                high += POINTS_PER_EXTENSION * any(point[place] == ends[-1] for point in best)
            wider.append(range(low, high))
        return wider

    def _on_edge(self, point: Positions) -> bool:
        """Whether the value of a grid is at its end."""
        return any(
            key.grid is not None and position in (ends[0], ends[-1])
            for key, position, ends in zip(self._tuning.keys, point, self._ends, strict=True)
        )
