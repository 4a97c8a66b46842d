"""What a person sees while jobs run: bars on a terminal, plain lines elsewhere. Everything goes to stderr.

There is one reporter for each slot; they share a count of all jobs. On a terminal this is a bar over the jobs
and below it one for each slot, over the epochs of its present job.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TextIO

import click
from tqdm import tqdm

if TYPE_CHECKING:
    from nteleport.jobs.job import Job
    from nteleport.jobs.records import MetricRow
    from nteleport.runner.attempt import JobOutcome, RunReporter

_SECONDS_BETWEEN_LINES = 30.0
_LONGEST_NAME = 60


@contextmanager
def progress_on(stream: TextIO, slots: int = 1) -> Iterator[list[RunReporter]]:
    """Show a run on `stream`, as bars if it is a terminal, else as lines; yields a reporter for each slot."""
    if not stream.isatty():
        count = Count()
        yield [Lines(stream, count=count) for _ in range(slots)]
        return
    total = TotalBar(stream)
    bars = [Bars(stream, total, position) for position in range(slots)]
    try:
        yield [*bars]
    finally:
        for bar in bars:
            bar.close()
        total.close()


def outcome_line(outcome: JobOutcome) -> str:
    """The end of a job in one line."""
    name = outcome.job.name
    if outcome.state == "failed":
        return f"{name}: failed: {outcome.error}"
    words = [f"{name}: {outcome.state}"]
    if outcome.val_accuracy is not None:
        words.append(f"val_accuracy {outcome.val_accuracy:.4f}")
    if outcome.seconds is not None:
        words.append(f"in {outcome.seconds:.1f} s")
    return " ".join(words)


class Count:
    """How many jobs there are and how many have ended, in all slots together."""

    def __init__(self) -> None:
        self.jobs = self.ended = 0


class Lines:
    """A line for each job that ends, and one now and then from within a long one."""

    def __init__(
        self,
        stream: TextIO,
        seconds: Callable[[], float] = time.monotonic,
        count: Count | None = None,
    ) -> None:
        self._stream, self._seconds, self._count = stream, seconds, count or Count()
        self._job: Job | None = None
        self._last = seconds()

    def run_started(self, jobs: Sequence[Job]) -> None:
        self._count.jobs = len(jobs)

    def job_started(self, job: Job) -> None:
        self._job = job

    def resumed(self, epochs: int) -> None:
        if self._job is not None:
            self._say(f"{self._job.name}: goes on after epoch {epochs} of {self._job.training.epochs}")

    def epoch_finished(self, row: MetricRow) -> None:
        if self._job is not None and self._seconds() - self._last >= _SECONDS_BETWEEN_LINES:
            epochs = self._job.training.epochs
            self._say(
                f"{self._job.name}: epoch {row.epoch + 1} of {epochs}, val_accuracy {row.val_accuracy:.4f}"
            )

    def warning(self, text: str) -> None:
        self._say(f"warning: {text}")

    def job_ended(self, outcome: JobOutcome) -> None:
        self._count.ended += outcome.state != "stopped"
        if not outcome.skipped:
            self._say(outcome_line(outcome))

    def _say(self, text: str) -> None:
        self._last = self._seconds()
        click.echo(f"[{self._count.ended}/{self._count.jobs}] {text}", file=self._stream)


class TotalBar:
    """The bar over all jobs."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._bar: Any = None

    def begin(self, jobs: int) -> None:
        self._bar = _bar(self._stream, 0, total=jobs, desc="jobs", unit="job")

    def add(self, outcome: JobOutcome) -> None:
        """Count a job; one that was not trained here says nothing about how long the others take."""
        if outcome.skipped:
            self._bar.initial += 1
        if outcome.state != "stopped":
            self._bar.update()

    def write(self, text: str) -> None:
        """A line above the bars."""
        tqdm.write(text, file=self._stream)

    def close(self) -> None:
        """Leave the bar as it is and go to a new line."""
        if self._bar is not None:
            self._bar.close()


class Bars:
    """The bar of one slot: the job, its epochs, the accuracy and the time left."""

    def __init__(self, stream: TextIO, total: TotalBar, slot: int) -> None:
        self._stream, self._total, self._slot = stream, total, slot
        self._bar: Any = None

    def run_started(self, jobs: Sequence[Job]) -> None:
        self._total.begin(len(jobs))

    def job_started(self, job: Job) -> None:
        self.close()
        epochs = job.training.epochs
        self._bar = _bar(
            self._stream, 1 + self._slot, total=epochs, desc=_short(job), unit="epoch", leave=False
        )

    def resumed(self, epochs: int) -> None:
        self._bar.initial = epochs  # these took none of the time
        self._bar.update(epochs)

    def epoch_finished(self, row: MetricRow) -> None:
        self._bar.set_postfix_str(f"val_accuracy {row.val_accuracy:.3f}", refresh=False)
        self._bar.update()

    def warning(self, text: str) -> None:
        self._total.write(f"warning: {text}")

    def job_ended(self, outcome: JobOutcome) -> None:
        if not outcome.skipped:
            self.close()
            if outcome.state in ("failed", "diverged"):
                self._total.write(outcome_line(outcome))
        self._total.add(outcome)

    def close(self) -> None:
        """Take the bar away."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None


def _bar(stream: TextIO, position: int, **options: Any) -> Any:
    return tqdm(file=stream, position=position, dynamic_ncols=True, **options)


def _short(job: Job) -> str:
    name = job.name
    return name if len(name) <= _LONGEST_NAME else f"{job.slug[: _LONGEST_NAME - 9]}…{job.hash8}"
