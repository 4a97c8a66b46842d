"""Running jobs in turn, in this process.

A job that is over is skipped, so the same command again does what is missing. A job that fails is recorded,
with the traceback in its `log.txt`, and the others go on; it is tried again next time, from its checkpoint if
it has one.
"""

from __future__ import annotations

import contextlib
import json
import traceback
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch

from nteleport.data import dataset_info, num_batches
from nteleport.errors import NTeleportError
from nteleport.runner.paths import JobPaths, write_json_atomic, write_text_atomic
from nteleport.runner.yaml_source import to_yaml
from nteleport.training.checkpoint import remove_checkpoints
from nteleport.training.job import Job
from nteleport.training.loop import Clock, TrainingReport, train_job
from nteleport.training.records import TrainingResult, log_line

OVER = ("finished", "diverged")
"""The states in which there is nothing left to do for a job."""


@dataclass(frozen=True)
class JobOutcome:
    """What became of a job in one run.

    Attributes:
        job: the job.
        paths: where its files are.
        state: `finished`, `diverged`, `failed` or `stopped`.
        skipped: it was over before this run.
        error: why it failed, in one line.
        val_accuracy: of the last epoch, in [0, 1]; None when unknown.
        seconds: spent in this and earlier runs; None when unknown.
    """

    job: Job
    paths: JobPaths
    state: str
    skipped: bool = False
    error: str = ""
    val_accuracy: float | None = None
    seconds: float | None = None


class RunReporter(TrainingReport, Protocol):
    """Who wants to hear how a run gets on; of each training it hears what a `TrainingReport` does."""

    def run_started(self, jobs: Sequence[Job]) -> None:
        """Once, before the first job."""

    def job_started(self, job: Job) -> None:
        """A job that is not over starts or continues."""

    def job_ended(self, outcome: JobOutcome) -> None:
        """Once for each job that is over, failed or stopped; for a skipped one without `job_started`."""


def run_jobs(
    jobs: Sequence[Job],
    out: Path,
    *,
    data_dir: Path | str,
    device: torch.device,
    report: RunReporter,
    save_weights: bool = False,
    stop_requested: Callable[[], bool] = lambda: False,
    clock: Clock | None = None,
    command: Sequence[str] = (),
) -> list[JobOutcome]:
    """Train every job that is not over, in turn; arguments as for `train_job`.

    Returns:
        What became of each job, in the order of `jobs`; shorter when the run was asked to stop.
    """
    clock = clock or Clock()
    outcomes: list[JobOutcome] = []
    report.run_started(jobs)
    for job in jobs:
        paths = JobPaths(out, job.name)
        outcome = _skipped(job, paths)
        if outcome is None:
            if stop_requested():
                break
            report.job_started(job)
            try:
                _describe(job, paths)
                result = train_job(
                    job,
                    paths,
                    data_dir=data_dir,
                    device=device,
                    save_weights=save_weights,
                    stop_requested=stop_requested,
                    report=report,
                    clock=clock,
                    command=command,
                )
                outcome = _outcome(job, paths, result)
            except Exception as error:  # one job must not take the others with it
                outcome = JobOutcome(job, paths, "failed", error=error_in_words(error))
                _record_failure(outcome, clock)
        outcomes.append(outcome)
        report.job_ended(outcome)
        if outcome.state == "stopped":
            break
    return outcomes


def recorded_result(paths: JobPaths) -> dict[str, Any]:
    """The content of a job's `result.json`; empty when there is none that can be read."""
    try:
        content = json.loads(paths.result.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


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


def error_in_words(error: BaseException) -> str:
    """An error as one line: running out of memory is called that, and ours need no class name."""
    lines = str(error).strip().splitlines() or ["no reason given"]
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "can't allocate memory" in lines[0]:
        return f"out of memory: {lines[0]}"
    if isinstance(error, NTeleportError):
        return lines[0]
    return f"{type(error).__name__}: {lines[0]}"


def _skipped(job: Job, paths: JobPaths) -> JobOutcome | None:
    """The outcome of a job that was over before, None for one that has something left to do."""
    result = recorded_result(paths)
    if result.get("state") not in OVER:
        return None
    remove_checkpoints(paths)  # a crash right after the result was written leaves them
    accuracy = (result.get("final") or {}).get("val_accuracy")
    return JobOutcome(
        job, paths, result["state"], skipped=True, val_accuracy=accuracy, seconds=result.get("seconds")
    )


def _describe(job: Job, paths: JobPaths) -> None:
    """Write `config.yml`, which runs this job again, and `hparams.yml`; clear away what a killed run left
    behind.
    """
    paths.directory.mkdir(parents=True, exist_ok=True)
    paths.result.unlink(missing_ok=True)
    for leftover in paths.directory.glob(".*.tmp"):
        leftover.unlink(missing_ok=True)
    write_text_atomic(paths.config, to_yaml(job.to_experiment()))
    write_text_atomic(paths.hparams, to_yaml(job.hparams()))


def _outcome(job: Job, paths: JobPaths, result: TrainingResult) -> JobOutcome:
    last = result.rows[-1] if result.rows else None
    return JobOutcome(
        job,
        paths,
        result.state,
        val_accuracy=last.val_accuracy if last else None,
        seconds=sum(row.seconds for row in result.rows),
    )


def _record_failure(outcome: JobOutcome, clock: Clock) -> None:
    """Keep the traceback and the state; on a full disk there may be no room even for that."""
    with contextlib.suppress(OSError):
        log_line(outcome.paths, clock.now(), f"failed: {outcome.error}\n{traceback.format_exc()}")
        write_json_atomic(outcome.paths.result, {"state": "failed", "error": outcome.error})
