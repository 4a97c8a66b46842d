"""The events of a run, as values: training code reports them, observers match on them. No torch.

A report is any function that takes an event. The training of a job reports to the caller of `attempt`; the
report of a worker sends the event to its command, that of a slot forwards what it receives, trackers wrap a
report, and the progress display on a terminal is one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from nteleport.jobs.job import Job
from nteleport.jobs.paths import JobPaths
from nteleport.jobs.records import MetricRow


@dataclass(frozen=True)
class RunStarted:
    """Reported before the first job; in a tuned experiment once per phase, whose name is `what`."""

    jobs: tuple[Job, ...]
    what: str = ""


@dataclass(frozen=True)
class JobStarted:
    """A job that is not over starts or continues."""

    job: Job


@dataclass(frozen=True)
class Resumed:
    """A job continues after this many completed epochs."""

    job: Job
    epochs: int


@dataclass(frozen=True)
class EpochFinished:
    """An epoch of a job is over."""

    job: Job
    row: MetricRow


@dataclass(frozen=True)
class Warned:
    """A warning for the user."""

    text: str


@dataclass(frozen=True)
class JobEnded:
    """The outcome of a job in this run. Reported once per job; for a skipped job without `JobStarted`.

    Attributes:
        job: the job.
        paths: where its files are.
        state: `finished`, `diverged`, `failed` or `stopped`.
        skipped: the job ended outside this run: before it, or meanwhile in another command.
        error: why it failed, in one line.
        val_accuracy: of the last epoch, in [0, 1]; None when unknown.
        seconds: spent in this and earlier runs; None when unknown.
        ends_run: the error would affect every other job too: the output cannot be written.
    """

    job: Job
    paths: JobPaths
    state: str
    skipped: bool = False
    error: str = ""
    val_accuracy: float | None = None
    seconds: float | None = None
    ends_run: bool = False


Event = RunStarted | JobStarted | Resumed | EpochFinished | Warned | JobEnded
Report = Callable[[Event], None]


def ignore(event: Event) -> None:
    """The null report."""
