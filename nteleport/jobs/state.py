"""The state of jobs, read from their files: of one job, of a folder, and jobs chosen by state. No torch.

`metrics.csv` is read only for jobs that are not over, so that thousands of finished jobs take a moment.
"""

from __future__ import annotations

import math
import os
import re
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from nteleport.errors import ResultsError
from nteleport.jobs.folders import job_names
from nteleport.jobs.job import Job
from nteleport.jobs.lease import Lease, read_lease
from nteleport.jobs.paths import JobPaths, holds_a_job, printable
from nteleport.jobs.records import check_digest, metric_rows, read_result


class JobState(StrEnum):
    """The state of a job, in the order in which states need attention.

    ============  ==========================================================================
    `running`     a live process holds its lease
    `stale`       the process that held its lease was killed; running it again continues it
    `unfinished`  started and interrupted; running it again continues from its checkpoint
    `pending`     never started
    `failed`      an error ended it; running it again tries again
    `diverged`    its loss became non-finite; over too, the rows until then are kept
    `finished`    trained to the end
    ============  ==========================================================================
    """

    RUNNING = "running"
    STALE = "stale"
    UNFINISHED = "unfinished"
    PENDING = "pending"
    FAILED = "failed"
    DIVERGED = "diverged"
    FINISHED = "finished"

    @property
    def is_over(self) -> bool:
        """Whether nothing is left to do."""
        return self in (JobState.FINISHED, JobState.DIVERGED)


ENDED = (JobState.FINISHED, JobState.DIVERGED, JobState.FAILED)
"""The states that a `result.json` can give."""

_EPOCHS = re.compile(r"\btraining\.epochs: (\d{1,9})\b")
_RECENT_EPOCHS = 5
_ENDLESS = 1e9
"""No epoch takes so many seconds."""


@dataclass(frozen=True)
class JobStatus:
    """The status of one job.

    Attributes:
        job: the path of its folder in the output folder.
        state: its state.
        epochs: how many are completed.
        of_epochs: how many are planned; None if its files do not say.
        val_accuracy: of the last epoch, in [0, 1]; None before the first.
        seconds: spent in its epochs.
        eta_seconds: the time for the remaining epochs, at the speed of the last ones; None if unknown.
        owner: `host:pid` of the process that trains it, or that was killed while training it.
        error: why it failed.
    """

    job: str
    state: JobState
    epochs: int
    of_epochs: int | None = None
    val_accuracy: float | None = None
    seconds: float = 0.0
    eta_seconds: float | None = None
    owner: str = ""
    error: str = ""


@dataclass(frozen=True)
class Summary:
    """All jobs of a folder together.

    Attributes:
        states: how many jobs are in each state that occurs, in the order of `JobState`.
        eta_seconds: until all are over, if as many jobs as now keep running in parallel; None while nothing
            runs or no epoch has been timed.
    """

    states: dict[JobState, int]
    eta_seconds: float | None


def read_status(out: Path) -> list[JobStatus]:
    """The status of every job in `out` and its subfolders, sorted by state as in `JobState`, then by name.
    Tuning jobs are among them; their names begin with `tuning/`.

    Raises:
        ResultsError: `out` is not a readable folder, or holds no job.
    """
    names = job_names(out, tuning=True)
    folders = [JobPaths(out, name) for name in names]
    found = [_status_of(paths) for paths in folders if holds_a_job(paths, [paths.config])]
    if not found:
        raise ResultsError(f"no jobs in {out}: {_instead(out, names)}")
    order = list(JobState)
    return sorted(found, key=lambda status: (order.index(status.state), status.job))


def _instead(out: Path, names: Sequence[str]) -> str:
    """What was expected in a folder without jobs, and what it has."""
    bare = [name for name in names if os.path.exists(JobPaths(out, name).metrics)]
    if bare:
        return (
            f"{bare[0]} has metrics.csv but no config.yml, so it has no state; "
            "`nteleport plot` and `collect` read it"
        )
    return "expected the output folder of `nteleport train`"


def summarize(jobs: Sequence[JobStatus]) -> Summary:
    """The number of jobs per state, and the time until all are over."""
    counts = Counter(job.state for job in jobs)
    epochs = sum(job.epochs for job in jobs)
    eta = None
    if counts[JobState.RUNNING] and epochs:
        pace = sum(job.seconds for job in jobs) / epochs
        left = (_seconds_left(job, pace) for job in jobs if not job.state.is_over)
        eta = sum(left) / counts[JobState.RUNNING]
    return Summary({state: counts[state] for state in JobState if counts[state]}, eta)


def _seconds_left(job: JobStatus, pace: float) -> float:
    if job.eta_seconds is not None:
        return job.eta_seconds
    return pace * max(0, (job.of_epochs or 0) - job.epochs)


def duration(seconds: float) -> str:
    """`45 s`, `3 min`, `2 h 05 min` or `3 d 4 h`."""
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{seconds:.0f} s"
    if minutes < 90:
        return f"{minutes} min"
    if minutes < 48 * 60:
        return f"{minutes // 60} h {minutes % 60:02d} min"
    return f"{minutes // 1440} d {minutes % 1440 // 60} h"


def _status_of(paths: JobPaths) -> JobStatus:
    """The status of a job; a folder that cannot be read is a failure of the job, so that others are shown."""
    try:
        return _job_status(paths)
    except OSError as error:
        reason = f"{error.filename or paths.directory} cannot be read: {error.strerror}"
        return JobStatus(printable(paths.name), JobState.FAILED, 0, error=printable(reason))


def _readable_result(paths: JobPaths) -> dict[str, Any]:
    """The content of `result.json`; one that cannot be read is that of a failed job."""
    try:
        return read_result(paths)
    except ResultsError as error:
        return {"state": JobState.FAILED, "error": printable(str(error))}


def _job_status(paths: JobPaths) -> JobStatus:
    result = _readable_result(paths)
    recorded = recorded_state(result)
    of_epochs = _planned_epochs(paths)
    if recorded is not None and recorded.is_over:
        return JobStatus(
            printable(paths.name),
            recorded,
            result.get("epochs", 0),
            of_epochs,
            val_accuracy=result.get("final", {}).get("val_accuracy"),
            seconds=float(result.get("seconds", 0.0)),
        )
    lease = read_lease(paths)
    state = _state_until_over(paths, recorded, lease)
    rows = metric_rows(paths)
    seconds = [taken for row in rows if 0 <= (taken := row.get("seconds", 0.0)) < _ENDLESS]
    accuracy = rows[-1].get("val_accuracy") if rows else None
    left = max(0, (of_epochs or 0) - len(rows))
    return JobStatus(
        printable(paths.name),
        state,
        len(rows),
        of_epochs,
        val_accuracy=accuracy if accuracy is not None and math.isfinite(accuracy) else None,
        seconds=sum(seconds),
        eta_seconds=statistics.fmean(seconds[-_RECENT_EPOCHS:]) * left if seconds and of_epochs else None,
        owner=f"{lease.owner.host}:{lease.owner.pid}" if lease and lease.owner else "",
        error=str(result.get("error", "")) if state is JobState.FAILED else "",
    )


def _planned_epochs(paths: JobPaths) -> int | None:
    """Found by its key: parsing the YAML of thousands of jobs would take seconds."""
    try:
        found = _EPOCHS.search(paths.hparams.read_text(encoding="utf-8", errors="replace"))
    except OSError:
        return None
    return int(found[1]) if found else None


def as_table(jobs: Iterable[JobStatus]) -> list[dict[str, Any]]:
    """One mapping per job, for CSV and JSON."""
    return [
        {name: getattr(job, name) for name in JobStatus.__dataclass_fields__}  # asdict copies, and is slow
        for job in jobs
    ]


def recorded_state(result: Mapping[str, Any]) -> JobState | None:
    """The state recorded in the content of a `result.json`; None if there is none."""
    word = result.get("state")
    return JobState(word) if word in ENDED else None


def job_state(paths: JobPaths, job: Job | None = None) -> JobState:
    """The state of a job; one whose files cannot be read has failed.

    Raises:
        JobError: `paths` hold the result of another job than `job`.
    """
    result = _readable_result(paths)
    if job is not None:
        check_digest(paths, result, job)
    recorded = recorded_state(result)
    if recorded is not None and recorded.is_over:
        return recorded
    try:
        return _state_until_over(paths, recorded, read_lease(paths))
    except OSError:
        return JobState.FAILED


def _state_until_over(paths: JobPaths, recorded: JobState | None, lease: Lease | None) -> JobState:
    if lease is not None and lease.is_alive():
        return JobState.RUNNING
    if recorded is not None:  # it failed, and perhaps its process died before releasing the lease
        return recorded
    if lease is not None:
        return JobState.STALE
    return JobState.UNFINISHED if os.path.exists(paths.log) else JobState.PENDING


def matching(jobs: Iterable[Job], out: Path, wanted: Sequence[str]) -> list[Job]:
    """The jobs that match at least one of `wanted`, in their order.

    Args:
        jobs: to choose from.
        out: the folder of their results.
        wanted: a state, where `pending` means every job without a result and `unfinished` includes stale
            jobs; or a shell pattern for the name of a job: `*` is any text, `?` any character, `[ab]` one of
            these.
    """
    return [job for job in jobs if any(_is(word, job, out) for word in wanted)]


def _is(word: str, job: Job, out: Path) -> bool:
    if word not in tuple(JobState):
        return fnmatchcase(job.name, word)
    state = job_state(JobPaths(out, job.name), job)
    if word == JobState.PENDING:
        return state not in ENDED
    return state == word or (word == JobState.UNFINISHED and state == JobState.STALE)
