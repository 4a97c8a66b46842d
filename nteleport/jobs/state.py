"""How the jobs of an output folder stand, read straight from their files. No torch is imported.

Only a job that is not over has its `metrics.csv` read, so that thousands of finished jobs take a moment. A
folder without `result.json` whose claim has lost its owner is *stale*: the process that trained it was
killed, and the command that began it goes on with it.
"""

from __future__ import annotations

import csv
import io
import os
import re
import statistics
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nteleport.errors import ResultsError
from nteleport.jobs.lease import read_claim
from nteleport.jobs.paths import JobPaths
from nteleport.runner.states import OVER, recorded_result

STATES = ("running", "stale", "unfinished", "pending", "failed", "diverged", "finished")
"""The states of `nteleport.runner.states`, and `stale`; in the order in which they ask for attention."""

_EPOCHS = re.compile(r"\btraining\.epochs: (\d+)")
_RECENT_EPOCHS = 5


@dataclass(frozen=True)
class JobStatus:
    """How one job stands.

    Attributes:
        job: the name of its folder.
        state: one of `STATES`.
        epochs: how many are behind it.
        of_epochs: how many it is to have; None if its files do not say.
        val_accuracy: of the last epoch, in [0, 1]; None before that.
        seconds: spent in its epochs.
        eta_seconds: what the epochs that are left will take, at the speed of the last ones; None if unknown.
        owner: `host:pid` of the process that trains it, or that was killed while it did.
        error: why it failed.
    """

    job: str
    state: str
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
        states: how many jobs are in each state, those of `STATES` that occur.
        eta_seconds: until all are over, if as many as now go on side by side; None while nothing runs or no
            epoch has been timed.
    """

    states: dict[str, int]
    eta_seconds: float | None


def read_status(out: Path) -> list[JobStatus]:
    """The status of every job in `out`, sorted by state as in `STATES`, then by name.

    Raises:
        ResultsError: `out` is not a folder that can be read, or holds no job.
    """
    try:
        with os.scandir(out) as entries:
            names = [entry.name for entry in entries if entry.is_dir()]
    except OSError as error:
        raise ResultsError(
            f"cannot read {out}: {error.strerror}; expected the --out of `nteleport train`"
        ) from error
    found = [_job_status(paths) for paths in (JobPaths(out, name) for name in names) if paths.config.exists()]
    if not found:
        raise ResultsError(f"no jobs in {out}: expected the --out of `nteleport train`")
    return sorted(found, key=lambda status: (STATES.index(status.state), status.job))


def summarize(jobs: Sequence[JobStatus]) -> Summary:
    """Counts of states, and when all will be over."""
    counts = Counter(job.state for job in jobs)
    epochs = sum(job.epochs for job in jobs)
    eta = None
    if counts["running"] and epochs:
        pace = sum(job.seconds for job in jobs) / epochs
        left = (_seconds_left(job, pace) for job in jobs if job.state not in OVER)
        eta = sum(left) / counts["running"]
    return Summary({state: counts[state] for state in STATES if counts[state]}, eta)


def _seconds_left(job: JobStatus, pace: float) -> float:
    if job.eta_seconds is not None:
        return job.eta_seconds
    return pace * max(0, (job.of_epochs or 0) - job.epochs)


def _job_status(paths: JobPaths) -> JobStatus:
    result = recorded_result(paths)
    state = result.get("state")
    of_epochs = _planned_epochs(paths)
    if state in OVER:
        final = result.get("final") or {}
        return JobStatus(
            paths.name,
            str(state),
            int(result.get("epochs") or 0),
            of_epochs,
            val_accuracy=final.get("val_accuracy"),
            seconds=float(result.get("seconds") or 0.0),
        )
    claim = read_claim(paths)
    owner = f"{claim.owner.host}:{claim.owner.pid}" if claim and claim.owner else ""
    if claim is not None:
        state = "running" if claim.is_alive() else "stale"
    elif state != "failed":
        state = "unfinished" if paths.log.exists() else "pending"
    rows = _rows(paths.metrics)
    seconds = [float(row["seconds"]) for row in rows]
    left = max(0, (of_epochs or 0) - len(rows))
    return JobStatus(
        paths.name,
        str(state),
        len(rows),
        of_epochs,
        val_accuracy=float(rows[-1]["val_accuracy"]) if rows else None,
        seconds=sum(seconds),
        eta_seconds=statistics.fmean(seconds[-_RECENT_EPOCHS:]) * left if rows and of_epochs else None,
        owner=owner,
        error=str(result.get("error", "")) if state == "failed" else "",
    )


def _planned_epochs(paths: JobPaths) -> int | None:
    """Found by its key: to parse the YAML of thousands of jobs would take seconds."""
    try:
        found = _EPOCHS.search(paths.hparams.read_text(encoding="utf-8", errors="replace"))
    except OSError:
        return None
    return int(found[1]) if found else None


def _rows(metrics: Path) -> list[dict[str, Any]]:
    """The whole rows of a `metrics.csv`; none if it cannot be read."""
    try:
        text = metrics.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    rows = csv.DictReader(io.StringIO(text))
    return [row for row in rows if _is_number(row.get("seconds")) and _is_number(row.get("val_accuracy"))]


def _is_number(text: str | None) -> bool:
    try:
        float(text or "")
    except ValueError:
        return False
    return True


def as_table(jobs: Iterable[JobStatus]) -> list[dict[str, Any]]:
    """One mapping a job, for CSV and JSON."""
    return [
        {name: getattr(job, name) for name in JobStatus.__dataclass_fields__}  # asdict copies, and is slow
        for job in jobs
    ]
