"""What teleportations did to outputs: the certificates of all jobs."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from nteleport.jobs.records import read_certificates
from nteleport.jobs.table import JobResult
from nteleport.page.folder import Folder
from nteleport.page.parts import Column, Kind, Note, Section, Table, Value

_COLUMNS: tuple[tuple[str, Kind], ...] = (
    ("teleportations", "number"),
    ("rolled back", "number"),
    ("entries", "number"),
    ("largest max|τ| / min|τ|", "number"),
    ("largest relative change of outputs", "number"),
)


def section(folder: Folder) -> Section | None:
    """The section of `folder`; None where there is no certificate."""
    found = {job.name: read_certificates(folder.paths(job)) for job in folder.results.jobs}
    certified = [job for job in folder.results.jobs if found[job.name]]
    if not certified:
        return None
    rows = [
        [arm.label, *_summary([row for job in certified if folder.arms.of(job) is arm for row in found[job.name]])]
        for arm in folder.arms
        if any(folder.arms.of(job) is arm for job in certified)
    ]
    note = Note(
        "Each teleportation is certified. Where activations are kept, the unmodified network ran before and after "
        "it, and a teleportation that changed its outputs by more than rounding was rolled back. Where they are "
        "conjugated, a job trains its plain weights, so that no outputs can differ, and none were compared."
    )
    columns = tuple(Column(title, kind) for title, kind in _COLUMNS)
    per_arm = Table("Certificates of each arm", (Column("arm"), *columns), rows)
    per_job = Table(
        "Certificates of each job",
        (Column("job", "code"), *columns),
        [[job.name, *_summary(found[job.name])] for job in certified],
        long=True,
    )
    return Section("certificates", "Certificates", (note, per_arm, *_rolled_back(certified, found), per_job))


def _summary(rows: Sequence[Mapping[str, Any]]) -> list[Value]:
    return [
        len(rows),
        sum(row.get("rolled_back") is True for row in rows),
        _largest(row.get("entries") for row in rows),
        _largest(row.get("condition") for row in rows),
        _largest(row.get("relative") for row in rows),
    ]


def _largest(values: Iterable[Any]) -> float | int | None:
    numbers = [value for value in values if _is_number(value)]
    return max(numbers) if numbers else None


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _rolled_back(jobs: Iterable[JobResult], found: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[Table]:
    keys = ("epoch", "step", "condition", "relative")
    rows = [
        [job.name, *(row.get(key) if _is_number(row.get(key)) else None for key in keys)]
        for job in jobs
        for row in found[job.name]
        if row.get("rolled_back") is True
    ]
    columns = (Column("job", "code"), *(Column(key, "number") for key in keys))
    return [Table("Teleportations that were rolled back", columns, rows)] if rows else []
