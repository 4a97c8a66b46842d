"""Running a tuned experiment: its tuning jobs, those of each extension of its grids, the jobs to report.

A phase is a `run` of its own. What comes next is planned from the results on disk alone, so a command that
was interrupted continues, and several commands on one folder come to the same plan: each waits for the jobs
of a phase that others are training.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from nteleport.experiment.experiment import Experiment
from nteleport.experiment.matrix import MOST_JOBS
from nteleport.experiment.trials import Plan, recorded_plan
from nteleport.jobs.events import Event, JobEnded, Report, RunStarted
from nteleport.jobs.job import Job
from nteleport.jobs.options import RunOptions
from nteleport.jobs.tuning import tuning_folder, write_tuning
from nteleport.runner.places import places
from nteleport.runner.preparation import prepare
from nteleport.runner.run import run
from nteleport.training.loop import Clock

Select = Callable[[Sequence[Job], Path], Sequence[Job]]
"""Some of the jobs, given the folder of their results."""


@dataclass(frozen=True)
class Tuned:
    """How a tuned experiment ended.

    Attributes:
        plan: the last plan.
        tuning: the outcomes of the tuning jobs.
        jobs: the jobs to report that this run was to train.
        reported: their outcomes.
        interrupted: the run ended early: it was stopped, or a failure ended it.
    """

    plan: Plan
    tuning: tuple[JobEnded, ...]
    jobs: tuple[Job, ...] = ()
    reported: tuple[JobEnded, ...] = ()
    interrupted: bool = False


def run_tuned(
    experiment: Experiment,
    out: Path,
    options: RunOptions,
    report: Report,
    *,
    select: Select = lambda jobs, out: jobs,
    most_jobs: int = MOST_JOBS,
    stop_requested: Callable[[], bool] = lambda: False,
    clock: Clock | None = None,
) -> Tuned:
    """Train the tuning jobs, choose, and train the jobs to report of every cell that is decided.

    A tuning job that fails does not stop the others, but its cell waits: repeating the call tries again.

    Args:
        experiment: with a section `tune`.
        out: the folder of the results.
        options, report, stop_requested, clock: see `nteleport.runner.run.run`.
        select: which of the jobs to train.
        most_jobs: see `nteleport.experiment.trials.plan`.

    Raises:
        NTeleportError: the run cannot start; nothing has been written then.
    """
    plan = recorded_plan(experiment, out, most_jobs)
    places(options, os.environ)
    prepare(plan.tuning, options)
    folder = tuning_folder(out)
    ended: dict[Job, JobEnded] = {}
    while True:
        write_tuning(out, plan.rows)
        fresh = [job for job in select(plan.tuning, folder) if job not in ended]
        if not fresh:
            break
        named = _named(report, "extension" if ended else "tuning")
        outcomes = run(fresh, folder, options, named, stop_requested=stop_requested, clock=clock)
        ended.update((outcome.job, outcome) for outcome in outcomes)
        plan = recorded_plan(experiment, out, most_jobs)
        if _interrupted(fresh, outcomes, options) or stop_requested():
            write_tuning(out, plan.rows)
            return Tuned(plan, tuple(ended.values()), interrupted=True)
    jobs = tuple(select(plan.reported, out))
    reported: list[JobEnded] = []
    if jobs:
        named = _named(report, "reported")
        reported = run(jobs, out, options, named, stop_requested=stop_requested, clock=clock)
    return Tuned(plan, tuple(ended.values()), jobs, tuple(reported), _interrupted(jobs, reported, options))


def _interrupted(jobs: Sequence[Job], outcomes: Sequence[JobEnded], options: RunOptions) -> bool:
    """Whether a run ended early, or would have if there had been more jobs."""
    ends = ("stopped", "failed") if options.fail_fast else ("stopped",)
    return len(outcomes) < len(jobs) or any(each.state in ends or each.ends_run for each in outcomes)


def _named(report: Report, what: str) -> Report:
    """A report that says which jobs a run trains."""

    def named(event: Event) -> None:
        report(replace(event, what=what) if isinstance(event, RunStarted) else event)

    return named
