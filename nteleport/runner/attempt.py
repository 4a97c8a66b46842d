"""One attempt at one job: lease it, describe it, train it, and record how it ended.

Everything that trains jobs goes through `attempt`: a command that trains them in turn, each slot of a command
that trains several in parallel, and the task of a cluster. It never raises an error of a job: the error
becomes an outcome, with the traceback in the job's `log.txt`, and the job is tried again next time, from its
checkpoint if it has one.
"""

from __future__ import annotations

import contextlib
import shutil
import traceback
from collections.abc import Callable, Iterator

import torch

from nteleport.errors import NTeleportError
from nteleport.jobs.atomic import is_being_written, write_json_atomic
from nteleport.jobs.events import JobEnded, JobStarted, Report
from nteleport.jobs.job import Job
from nteleport.jobs.lease import HeldLease, is_recent, leased
from nteleport.jobs.options import RunOptions
from nteleport.jobs.paths import JobPaths
from nteleport.jobs.records import (
    TrainingResult,
    check_digest,
    describe,
    log_line,
    measured,
    prevents_output,
    read_result,
)
from nteleport.jobs.state import ENDED, recorded_state
from nteleport.runner.queue import Ticket
from nteleport.training.checkpoint import remove_checkpoints
from nteleport.training.loop import Clock, train_job


class _LeaseLost(Exception):
    """Another process took over the job while this one was suspended."""


def known_outcome(ticket: Ticket, *, redo: bool) -> JobEnded | None:
    """The outcome of a job that needs no attempt: it was over before, or another command has ended it.

    A job whose result cannot be read, or is that of another job, fails without an attempt: all its files stay
    as they are, even if it is to be redone.
    """
    try:
        result = read_result(ticket.paths)
        check_digest(ticket.paths, result, ticket.job)
    except NTeleportError as error:
        return JobEnded(ticket.job, ticket.paths, "failed", skipped=True, error=str(error))
    state = recorded_state(result)
    if state is None or (redo and not ticket.ended_since):
        return None
    if state.is_over:
        with contextlib.suppress(OSError):
            remove_checkpoints(ticket.paths)  # left by a crash right after the result was written
    elif not ticket.ended_since:  # a failed job is tried again
        return None
    return JobEnded(
        ticket.job,
        ticket.paths,
        state,
        skipped=True,
        error=result.get("error", ""),
        val_accuracy=result.get("final", {}).get("val_accuracy"),
        seconds=result.get("seconds"),
    )


def attempt(
    ticket: Ticket,
    options: RunOptions,
    report: Report,
    *,
    stop_requested: Callable[[], bool] = lambda: False,
    clock: Clock | None = None,
) -> JobEnded | None:
    """Train a job unless it needs no attempt; None if another process is training it.

    `JobStarted` and the events of the training are reported; `JobEnded` is returned for the caller to report.
    """
    outcome = known_outcome(ticket, redo=options.redo)
    if outcome is not None:
        return outcome
    try:
        with leased(ticket.paths) as lease:
            if lease is None:
                return None
            outcome = known_outcome(ticket, redo=options.redo)  # it may have ended a moment ago
            return outcome or _train(ticket, lease, options, report, stop_requested, clock or Clock())
    except OSError as error:  # of the lease
        report(JobStarted(ticket.job))
        return _failed(ticket, error)


def record_failure(outcome: JobEnded, clock: Clock, details: str = "") -> None:
    """Record the error and the state of a failed job; a full disk may have no room even for that. The result
    of a job that is over, or one that cannot be read, is never replaced by a failure.
    """
    with contextlib.suppress(OSError):
        log_line(outcome.paths, clock.now(), f"failed: {outcome.error}\n{details}")
    with contextlib.suppress(OSError, NTeleportError):
        recorded = recorded_state(read_result(outcome.paths))
        if recorded is None or not recorded.is_over:
            content = {"state": "failed", "error": outcome.error, "digest": outcome.job.digest}
            write_json_atomic(outcome.paths.result, content)


def error_in_words(error: BaseException) -> str:
    """An error in one line: memory and disk errors are named as such, our own need no class name."""
    line = (str(error).strip().splitlines() or ["no reason given"])[0]
    for cause in _causes(error):
        text = str(cause)
        if isinstance(cause, (MemoryError, torch.OutOfMemoryError)) or "can't allocate memory" in text:
            return f"out of memory: {line}"
        if isinstance(cause, OSError) and prevents_output(cause):
            return f"cannot write results: {cause.strerror}"
    return line if isinstance(error, NTeleportError) else f"{type(error).__name__}: {line}"


def _train(
    ticket: Ticket,
    lease: HeldLease,
    options: RunOptions,
    report: Report,
    stop_requested: Callable[[], bool],
    clock: Clock,
) -> JobEnded | None:
    job, paths = ticket.job, ticket.paths

    def stop() -> bool:
        if lease.lost():
            raise _LeaseLost
        return stop_requested()

    try:
        if options.redo:
            _set_results_aside(paths)
        report(JobStarted(job))
        _clear_away_leftovers(paths)
        describe(job, paths)
        if job.training.compile:
            torch.compiler.reset()  # earlier compilations change how this job is compiled
        result = train_job(job, paths, options, report, stop_requested=stop, clock=clock)
    except _LeaseLost:
        return None
    except Exception as error:  # a failed job must not end the others
        outcome = _failed(ticket, error)
        record_failure(outcome, clock, traceback.format_exc())
        return outcome
    finally:
        if torch.cuda.is_initialized():
            torch.cuda.empty_cache()  # for jobs of other processes on this device
    if result.state in ENDED:
        shutil.rmtree(paths.before, ignore_errors=True)
    return _outcome(job, paths, result)


def _clear_away_leftovers(paths: JobPaths) -> None:
    """Remove the result of a failed attempt and the half-written files of killed processes. Another command
    may be describing its jobs at this moment, and keeps its files.
    """
    paths.result.unlink(missing_ok=True)
    for leftover in paths.directory.glob(".*.tmp"):
        if leftover.is_dir():  # only the owner of the lease makes folders
            shutil.rmtree(leftover)
        elif not is_being_written(leftover, lambda file: is_recent(paths, file)):
            leftover.unlink(missing_ok=True)


def _set_results_aside(paths: JobPaths) -> None:
    """Let the job start from scratch. Complete results are kept in the folder `before` until there are new
    ones; the copy is complete before the first original is removed.
    """
    files = (
        paths.result,
        paths.metrics,
        paths.certificates,
        paths.provenance,
        paths.log,
        paths.weights,
    )
    recorded = recorded_state(read_result(paths))
    if recorded is not None and recorded.is_over:
        copy = paths.before.with_name(f".{paths.before.name}.tmp")
        shutil.rmtree(copy, ignore_errors=True)
        copy.mkdir()
        for file in files:
            if file.exists():
                shutil.copy2(file, copy)
        shutil.rmtree(paths.before, ignore_errors=True)
        copy.rename(paths.before)
    for file in files:
        file.unlink(missing_ok=True)
    remove_checkpoints(paths)


def _outcome(job: Job, paths: JobPaths, result: TrainingResult) -> JobEnded:
    last = result.rows[-1] if result.rows else None
    return JobEnded(
        job,
        paths,
        result.state,
        val_accuracy=measured(last).get("val_accuracy") if last else None,
        seconds=sum(row.seconds for row in result.rows),
    )


def _failed(ticket: Ticket, error: Exception) -> JobEnded:
    ends_run = any(prevents_output(cause) for cause in _causes(error))
    return JobEnded(ticket.job, ticket.paths, "failed", error=error_in_words(error), ends_run=ends_run)


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """The error and its causes."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
