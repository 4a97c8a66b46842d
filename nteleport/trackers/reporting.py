"""Forwarding the events of a run to trackers, and isolating the run from their failures.

`tracking` wraps the report of the process that trains. A tracker that raises is dropped for the current job,
with one warning per run; after three failed jobs in a row it is not tried again, since each try may wait for
an unreachable network.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from nteleport.errors import ResultsError
from nteleport.jobs.events import EpochFinished, Event, JobEnded, JobStarted, Report, Resumed, Warned
from nteleport.jobs.job import Job
from nteleport.jobs.paths import JobPaths
from nteleport.jobs.records import measured, metric_rows, read_result
from nteleport.trackers.tracker import Row, Tracker, load_trackers, summary_of

_TRIES = 3


def tracking(report: Report, names: Sequence[str], out: Path) -> Report:
    """A report that also forwards events to these trackers.

    Raises:
        UnknownNameError: there is no such tracker.
        MissingExtraError: its package is not installed.
    """
    return Tracking(report, load_trackers(names), out) if names else report


class Tracking:
    """A report that opens a tracker of each kind for each job trained in `out`.

    Args:
        report: receives every event first.
        trackers: a factory for each name, from `tracker.load_trackers`.
        out: the output folder of the run.
    """

    def __init__(self, report: Report, trackers: Mapping[str, Callable[[], Tracker]], out: Path) -> None:
        self._report, self._trackers, self._out = report, trackers, out
        self._started = False
        self._active: dict[str, Tracker] = {}
        self._failed_in_a_row: Counter[str] = Counter()
        self._warned: set[str] = set()

    def __call__(self, event: Event) -> None:
        if not isinstance(event, JobEnded):
            self._report(event)
        match event:
            case JobStarted(job):
                self._started, self._active = False, {}
                if not JobPaths(self._out, job.name).checkpoint.exists():  # else `Resumed` may follow
                    self._start(job, ())
            case Resumed(job, epochs) if not self._started:
                self._start(job, metric_rows(JobPaths(self._out, job.name))[:epochs])
            case EpochFinished(job, row):
                if not self._started:  # the checkpoint was damaged: the job starts over
                    self._start(job, ())
                for name, tracker in list(self._active.items()):
                    self._guarded(name, tracker.log, measured(row))
            case JobEnded():
                if not event.skipped:
                    self._finish(event)
                self._report(event)

    def _start(self, job: Job, earlier: Sequence[Row]) -> None:
        self._started = True
        for name, make in self._trackers.items():
            if self._failed_in_a_row[name] < _TRIES:
                self._guarded(name, self._open, name, make, job, earlier)

    def _open(self, name: str, make: Callable[[], Tracker], job: Job, earlier: Sequence[Row]) -> None:
        tracker = make()
        tracker.start(job, self._out, earlier)
        self._active[name] = tracker

    def _finish(self, end: JobEnded) -> None:
        if not self._started:
            self._start(end.job, ())
        summary: Mapping[str, float] = {}
        if end.state != "stopped":
            with contextlib.suppress(ResultsError):  # unreadable right after it was written
                summary = summary_of(read_result(end.paths))
        for name, tracker in list(self._active.items()):
            self._guarded(name, tracker.finish, end.state, summary)
            if name in self._active:
                self._failed_in_a_row[name] = 0

    def _guarded(self, name: str, action: Callable[..., None], *arguments: Any) -> None:
        """Run `action`; on an error drop the tracker and warn, but only once."""
        try:
            action(*arguments)
        except Exception as error:  # whatever a service or its client raises
            self._active.pop(name, None)
            self._failed_in_a_row[name] += 1
            if name not in self._warned:
                self._warned.add(name)
                reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
                self._report(Warned(f"the tracker {name} failed, training continues without it: {reason}"))
