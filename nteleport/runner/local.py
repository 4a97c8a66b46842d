"""Running jobs in turn, in this process.

A job that is over is skipped, so the same command again does what is missing; a job that another command
trains is waited for. A job that fails does not stop the others, unless it is asked to.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import torch

from nteleport.data import dataset_info, num_batches
from nteleport.jobs.job import Job
from nteleport.jobs.records import describe_new
from nteleport.runner.attempt import Attempts, JobOutcome, RunReporter, attempt
from nteleport.runner.queue import Queue, Ticket
from nteleport.training.loop import Clock

__all__ = ["JobOutcome", "RunReporter", "check_trainable", "in_order", "run_jobs"]

_BETWEEN_LOOKS = 0.2


def run_jobs(
    jobs: Sequence[Job],
    out: Path,
    *,
    data_dir: Path | str,
    device: torch.device,
    report: RunReporter,
    save_weights: bool = False,
    redo: bool = False,
    fail_fast: bool = False,
    stop_requested: Callable[[], bool] = lambda: False,
    clock: Clock | None = None,
    command: Sequence[str] = (),
) -> list[JobOutcome]:
    """Train every job that is not over, in turn.

    Args:
        jobs: what to train.
        out: the folder of their results.
        report: told of everything.
        redo: train jobs that are over too, from the start.
        fail_fast: end with the first job that fails.
        data_dir, device, save_weights, stop_requested, clock, command: as for `train_job`.

    Returns:
        What became of each job, in the order of `jobs`; shorter when the run was stopped.
    """
    how = Attempts(device, report, data_dir, save_weights, redo, stop_requested, clock or Clock(), command)
    outcomes: list[JobOutcome] = []
    report.run_started(jobs)
    describe_new(jobs, out)
    queue = Queue(Ticket.issue(job, out) for job in jobs)
    while queue and not stop_requested():
        ticket = queue.next()
        if ticket is None:
            if waits_for := queue.announcement():
                report.warning(waits_for)
            time.sleep(_BETWEEN_LOOKS)
            continue
        outcome = attempt(ticket, how)
        if outcome is None:
            queue.put_off(ticket)
            continue
        outcomes.append(outcome)
        report.job_ended(outcome)
        if ends_run(outcome, fail_fast=fail_fast):
            break
    return in_order(outcomes, jobs)


def ends_run(outcome: JobOutcome, *, fail_fast: bool) -> bool:
    """Whether no other job is begun after this one."""
    return outcome.state == "stopped" or outcome.ends_run or (fail_fast and outcome.state == "failed")


def in_order(outcomes: Iterable[JobOutcome], jobs: Sequence[Job]) -> list[JobOutcome]:
    """The outcomes in the order of their jobs."""
    place = {job.digest: number for number, job in enumerate(jobs)}
    return sorted(outcomes, key=lambda outcome: place[outcome.job.digest])


def check_trainable(jobs: Iterable[Job]) -> None:
    """Check that every job has a batch to train on, before anything is written.

    Raises:
        DatasetError: one of them has none.
    """
    for dataset, params in {(job.dataset, job.training) for job in jobs}:
        images = round(dataset_info(dataset).train_size * (1 - (params.validation or 0)))
        num_batches(
            images,
            batch_size=params.batch_size,
            drop_last=params.drop_last_batch,
            max_batch=params.max_batch,
        )
