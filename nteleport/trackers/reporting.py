"""Telling trackers what a run reports, and keeping their failures away from it.

`TrackingReporter` stands before the reporter that a person looks at, in the process that trains, and passes
everything on. A tracker that raises is let go for the present job, with one warning a run; after three jobs
in a row it is not tried again, for each try may have to wait for a network that is not there.
"""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nteleport.jobs.job import Job
from nteleport.jobs.paths import JobPaths
from nteleport.trackers.tracker import Row, Tracker, summary_of

if TYPE_CHECKING:
    from nteleport.jobs.records import MetricRow
    from nteleport.runner.local import JobOutcome, RunReporter

__all__ = ["TrackingReporter"]

_TRIES = 3


class TrackingReporter:
    """A `RunReporter` that opens a tracker of each kind for each job that is trained below `out`.

    Args:
        report: told of everything first.
        trackers: for each name, what makes a tracker: `tracker.load_trackers` gives them.
        out: the output folder of the run.
    """

    def __init__(self, report: RunReporter, trackers: Mapping[str, Callable[[], Tracker]], out: Path) -> None:
        self._report, self._trackers, self._out = report, trackers, out
        self._job: Job | None = None
        self._started = False
        self._active: dict[str, Tracker] = {}
        self._failed_in_a_row: Counter[str] = Counter()
        self._warned: set[str] = set()

    def run_started(self, jobs: Sequence[Job]) -> None:
        self._report.run_started(jobs)

    def job_started(self, job: Job) -> None:
        self._report.job_started(job)
        self._job, self._started, self._active = job, False, {}
        if not JobPaths(self._out, job.name).checkpoint.exists():  # else `resumed` may follow
            self._start(job, ())

    def resumed(self, epochs: int) -> None:
        self._report.resumed(epochs)
        if self._job is not None and not self._started:
            self._start(self._job, _rows(JobPaths(self._out, self._job.name).metrics)[:epochs])

    def epoch_finished(self, row: MetricRow) -> None:
        self._report.epoch_finished(row)
        if self._job is not None and not self._started:  # the checkpoint was damaged: all begins again
            self._start(self._job, ())
        for name, tracker in list(self._active.items()):
            self._guarded(name, tracker.log, asdict(row))

    def warning(self, text: str) -> None:
        self._report.warning(text)

    def job_ended(self, outcome: JobOutcome) -> None:
        if not outcome.skipped and self._job is not None:
            self._finish(self._job, outcome)
        self._job = None
        self._report.job_ended(outcome)

    def _start(self, job: Job, earlier: Sequence[Row]) -> None:
        self._started = True
        for name, make in self._trackers.items():
            if self._failed_in_a_row[name] < _TRIES:
                self._guarded(name, self._open, name, make, job, earlier)

    def _open(self, name: str, make: Callable[[], Tracker], job: Job, earlier: Sequence[Row]) -> None:
        tracker = make()
        tracker.start(job, self._out, earlier)
        self._active[name] = tracker

    def _finish(self, job: Job, outcome: JobOutcome) -> None:
        if not self._started:
            self._start(job, ())
        summary = summary_of(_result(outcome.paths.result)) if outcome.state != "stopped" else {}
        for name, tracker in list(self._active.items()):
            self._guarded(name, tracker.finish, outcome.state, summary)
            if name in self._active:
                self._failed_in_a_row[name] = 0

    def _guarded(self, name: str, action: Callable[..., None], *arguments: Any) -> None:
        """Do it; on an error let the tracker go and warn, but only once."""
        try:
            action(*arguments)
        except Exception as error:  # whatever a service or its client comes up with
            self._active.pop(name, None)
            self._failed_in_a_row[name] += 1
            if name not in self._warned:
                self._warned.add(name)
                reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
                self.warning(f"the tracker {name} failed, training goes on without it: {reason}")


def _rows(metrics: Path) -> list[dict[str, float]]:
    """The rows of a `metrics.csv`; none if there is no such file."""
    try:
        with metrics.open(encoding="utf-8", newline="") as file:
            return [{key: float(text) for key, text in row.items()} for row in csv.DictReader(file)]
    except FileNotFoundError:
        return []


def _result(path: Path) -> dict[str, Any]:
    """The content of a `result.json`, empty if there is none."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
