"""What a person sees while jobs run: bars on a terminal, plain lines elsewhere. Everything goes to stderr."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TextIO

import click
from tqdm import tqdm

if TYPE_CHECKING:
    from nteleport.runner.local import JobOutcome, RunReporter
    from nteleport.training.job import Job
    from nteleport.training.records import MetricRow

_SECONDS_BETWEEN_LINES = 30.0
_LONGEST_NAME = 60


@contextmanager
def progress_on(stream: TextIO) -> Iterator[RunReporter]:
    """Show a run on `stream`: as bars if it is a terminal, as lines if not."""
    if not stream.isatty():
        yield Lines(stream)
        return
    bars = Bars(stream)
    try:
        yield bars
    finally:
        bars.close()


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


class Lines:
    """A line for each job that ends, and one now and then from within a long one."""

    def __init__(self, stream: TextIO, seconds: Callable[[], float] = time.monotonic) -> None:
        self._stream, self._seconds = stream, seconds
        self._jobs = self._done = 0
        self._job: Job | None = None
        self._last = seconds()

    def run_started(self, jobs: Sequence[Job]) -> None:
        self._jobs = len(jobs)

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
        self._done += 1
        if not outcome.skipped:
            self._say(outcome_line(outcome))

    def _say(self, text: str) -> None:
        self._last = self._seconds()
        click.echo(f"[{self._done}/{self._jobs}] {text}", file=self._stream)


class Bars:
    """A bar over the jobs, and under it one over the epochs of the present job."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._jobs: Any = None
        self._epochs: Any = None

    def run_started(self, jobs: Sequence[Job]) -> None:
        self._jobs = tqdm(total=len(jobs), desc="jobs", unit="job", file=self._stream, dynamic_ncols=True)

    def job_started(self, job: Job) -> None:
        name = job.name if len(job.name) <= _LONGEST_NAME else f"{job.slug[: _LONGEST_NAME - 9]}…{job.hash8}"
        self._epochs = tqdm(
            total=job.training.epochs,
            desc=name,
            unit="epoch",
            leave=False,
            file=self._stream,
            dynamic_ncols=True,
        )

    def resumed(self, epochs: int) -> None:
        self._epochs.update(epochs)

    def epoch_finished(self, row: MetricRow) -> None:
        self._epochs.set_postfix_str(f"val_accuracy {row.val_accuracy:.3f}", refresh=False)
        self._epochs.update()

    def warning(self, text: str) -> None:
        self._jobs.write(f"warning: {text}", file=self._stream)

    def job_ended(self, outcome: JobOutcome) -> None:
        if self._epochs is not None:
            self._epochs.close()
            self._epochs = None
        if outcome.state in ("failed", "diverged") and not outcome.skipped:
            self._jobs.write(outcome_line(outcome), file=self._stream)
        self._jobs.update()

    def close(self) -> None:
        """Leave the bars as they are and go to a new line."""
        for bar in (self._epochs, self._jobs):
            if bar is not None:
                bar.close()
