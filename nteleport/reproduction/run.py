"""Runs the missing trainings and studies of a reproduction. Existing results are left untouched."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager

from nteleport.data.sources import availability, is_present
from nteleport.jobs.events import Report
from nteleport.jobs.job import Job
from nteleport.jobs.options import RunOptions
from nteleport.reproduction.claims import Claim, StudyClaim, TrainingClaim
from nteleport.reproduction.folder import Layout, StudyRun
from nteleport.reproduction.trainings import pairs_of
from nteleport.runner.places import available_cores
from nteleport.runner.run import run
from nteleport.studies.study import Progress, run_study
from nteleport.training.device import find_device

StopRequested = Callable[[], bool]


def missing_studies(claims: Sequence[Claim], layout: Layout) -> list[StudyRun]:
    """The studies of these claims that have not run completely."""
    runs = [
        layout.study(claim, seed)
        for claim in claims
        if isinstance(claim, StudyClaim)
        for seed in range(claim.seeds)
    ]
    return [each for each in runs if each.tables() is None]


def run_studies(
    runs: Sequence[StudyRun],
    progress_for: Callable[[str], AbstractContextManager[Progress]],
    stop_requested: StopRequested,
) -> None:
    """Run studies one after another. A stop takes effect at the next step of a study, which starts over next
    time.

    Args:
        progress_for: gives the progress of the study with this name.
    """
    for each in runs:
        each.clear()
        try:
            with progress_for(each.folder.name) as progress:
                run_study(
                    each.study, each.settings, each.folder, progress=_stoppable(progress, stop_requested)
                )
        except _Stopped:
            return


class _Stopped(Exception):
    """A stop was requested while a study was running."""


def _stoppable(progress: Progress, stop_requested: StopRequested) -> Progress:
    def step(done: int, total: int) -> None:
        if stop_requested():
            raise _Stopped
        progress(done, total)

    return step


def jobs_of(claims: Sequence[Claim], layout: Layout, *, download: bool) -> list[Job]:
    """The jobs of all pairs of these claims, each once.

    Args:
        download: download data sets that are not on this machine; otherwise their jobs are left out.

    Raises:
        DatasetError: a data set can neither be found nor downloaded.
    """
    trainings = [claim for claim in claims if isinstance(claim, TrainingClaim)]
    pairs = [pair for claim in trainings for pair in pairs_of(layout.expand(claim), claim)]
    jobs = [job for pair in pairs for job in (pair.baseline, pair.treated)]
    datasets = dict.fromkeys(str(job.dataset) for job in jobs)
    if download:
        for dataset in datasets:
            availability(dataset, layout.data_dir)
    present = {dataset for dataset in datasets if is_present(dataset, layout.data_dir)}
    return list(dict.fromkeys(job for job in jobs if str(job.dataset) in present))


def train(
    jobs: Sequence[Job], layout: Layout, slots: int | None, report: Report, stop_requested: StopRequested
) -> None:
    """Train jobs that are not over, `slots` at a time, or one per core if there is no GPU."""
    on_cpu = find_device(layout.device).type == "cpu"
    options = RunOptions(
        data_dir=layout.data_dir,
        device=layout.device,
        slots=slots or (available_cores() if on_cpu else 1),
        command=tuple(sys.argv),
    )
    run(jobs, layout.jobs, options, report, stop_requested=stop_requested)
