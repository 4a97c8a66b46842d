"""Progress display while jobs run: bars on a terminal, plain lines elsewhere. All output goes to stderr."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import count
from typing import Any, TextIO

import click
from tqdm import tqdm

from nteleport.jobs.events import (
    EpochFinished,
    Event,
    JobEnded,
    JobStarted,
    Report,
    Resumed,
    RunStarted,
    Warned,
)
from nteleport.jobs.job import Job
from nteleport.jobs.records import MetricRow, measured

_SECONDS_BETWEEN_LINES = 30.0
_LONGEST_NAME = 60


@contextmanager
def progress_on(stream: TextIO) -> Iterator[Report]:
    """Show a run on `stream`, as bars if it is a terminal, else as lines; yields a report for its events."""
    shown = Bars(stream) if stream.isatty() else Lines(stream)

    def show(event: Event) -> None:
        with suppress(OSError):  # a full disk or a closed terminal: the training matters more
            shown(event)

    try:
        yield show
    finally:
        if isinstance(shown, Bars):
            with suppress(OSError):
                shown.close()


def outcome_line(outcome: JobEnded) -> str:
    """The outcome of a job in one line."""
    name = outcome.job.name
    if outcome.state == "failed":
        return f"{name}: failed: {outcome.error}"
    words = [f"{name}: {outcome.state}"]
    if outcome.val_accuracy is not None:
        words.append(f"val_accuracy {outcome.val_accuracy:.4f}")
    if outcome.seconds is not None:
        words.append(f"in {outcome.seconds:.1f} s")
    return " ".join(words)


def _validated(row: MetricRow, digits: int) -> str:
    """The validation accuracy, or the loss where targets are numbers."""
    has_accuracy = "val_accuracy" in measured(row)
    name = "val_accuracy" if has_accuracy else "val_loss"
    return f"{name} {getattr(row, name):.{digits}f}"


class Lines:
    """A line for each job that ends, and occasional lines during a long one."""

    def __init__(self, stream: TextIO, seconds: Callable[[], float] = time.monotonic) -> None:
        self._stream, self._seconds = stream, seconds
        self._jobs = self._ended = 0
        self._what = ""
        self._last: dict[str, float] = {}

    def __call__(self, event: Event) -> None:
        match event:
            case RunStarted(jobs, what):
                self._jobs, self._ended = len(jobs), 0
                self._what = f"{what} " if what else ""
            case JobStarted(job):
                self._last[job.name] = self._seconds()
            case Resumed(job, epochs):
                self._say(f"{job.name}: continues after epoch {epochs} of {job.training.epochs}")
            case EpochFinished(job, row):
                now = self._seconds()
                if now - self._last.setdefault(job.name, now) >= _SECONDS_BETWEEN_LINES:
                    self._last[job.name] = now
                    place = f"epoch {row.epoch + 1} of {job.training.epochs}"
                    self._say(f"{job.name}: {place}, {_validated(row, 4)}")
            case Warned(text):
                self._say(f"warning: {text}")
            case JobEnded():
                self._ended += event.state != "stopped"
                if not event.skipped:
                    self._say(outcome_line(event))

    def _say(self, text: str) -> None:
        click.echo(f"[{self._what}{self._ended}/{self._jobs}] {text}", file=self._stream)


class Bars:
    """A bar over all jobs, and below it one over the epochs of each job being trained."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._total: Any = None
        self._bars: dict[str, Any] = {}

    def __call__(self, event: Event) -> None:
        match event:
            case RunStarted(jobs, what):
                self.close()
                self._total = _bar(self._stream, 0, total=len(jobs), desc=what or "jobs", unit="job")
            case JobStarted(job):
                self._open(job)
            case Resumed(job, epochs):
                self._bars[job.name].initial = epochs  # these took none of the time
                self._bars[job.name].update(epochs)
            case EpochFinished(job, row):
                bar = self._bars[job.name]
                bar.set_postfix_str(_validated(row, 3), refresh=False)
                bar.update()
            case Warned(text):
                self._write(f"warning: {text}")
            case JobEnded():
                self._count(event)

    def close(self) -> None:
        """Remove the bars of jobs, leave the one over all jobs in place and move to a new line."""
        for name in list(self._bars):
            self._close(name)
        if self._total is not None:
            self._total.close()

    def _open(self, job: Job) -> None:
        self._close(job.name)
        taken = {-bar.pos for bar in self._bars.values()}
        position = next(place for place in count(1) if place not in taken)
        self._bars[job.name] = _bar(
            self._stream, position, total=job.training.epochs, desc=_short(job), unit="epoch", leave=False
        )

    def _close(self, name: str) -> None:
        bar = self._bars.pop(name, None)
        if bar is not None:
            bar.close()

    def _count(self, end: JobEnded) -> None:
        """Count a job; one that was not trained here does not affect the estimated time."""
        if not end.skipped:
            self._close(end.job.name)
            if end.state in ("failed", "diverged"):
                self._write(outcome_line(end))
        if end.skipped:
            self._total.initial += 1
        if end.state != "stopped":
            self._total.update()

    def _write(self, text: str) -> None:
        """Write a line above the bars."""
        tqdm.write(text, file=self._stream)


def _bar(stream: TextIO, position: int, **options: Any) -> Any:
    return tqdm(file=stream, position=position, dynamic_ncols=True, **options)


def _short(job: Job) -> str:
    name = job.name
    return name if len(name) <= _LONGEST_NAME else f"{job.slug[: _LONGEST_NAME - 9]}…{job.hash8}"
