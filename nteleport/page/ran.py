"""How it ran: states, seconds, machines, versions, and what failed and why."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from nteleport.jobs.paths import printable
from nteleport.jobs.state import JobState
from nteleport.page.folder import Folder
from nteleport.page.numbers import counted
from nteleport.page.parts import Column, Note, Part, Section, Table, Value

_LONGEST = 300
"""Characters of a value from a file that are shown."""


def section(folder: Folder) -> Section:
    """The section of `folder`."""
    parts: list[Part] = [*_time(folder), _states(folder)]
    if any(folder.provenance):
        parts += [_machines(folder), _versions(folder)]
    parts += _failures(folder)
    return Section("ran", "How it ran", tuple(parts))


def version_notes(folder: Folder) -> list[str]:
    """A warning for each package of which jobs used several versions."""
    found: dict[str, set[str]] = {}
    for name, version in (pair for each in folder.provenance for pair in _pairs(each)):
        found.setdefault(name, set()).add(version)
    return [
        f"jobs ran with {len(versions)} versions of {name}: {', '.join(sorted(versions)[:4])}"
        for name, versions in found.items()
        if len(versions) > 1
    ]


def hosts(folder: Folder) -> list[str]:
    """The name of every machine that a training ran on, once."""
    found = (text(each.get("host")) for each in _trainings(folder))
    return list(dict.fromkeys(filter(None, found)))


def text(value: Any) -> str:
    """A value from a file as one line of text; "" for what is neither text nor a number."""
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        return ""
    line = " ".join(printable(str(value)).split())
    return line if len(line) <= _LONGEST else f"{line[:_LONGEST]}…"


def _time(folder: Folder) -> list[Note]:
    starts = sorted(filter(None, (text(each.get("start")) for each in _trainings(folder))))
    ends = sorted(filter(None, (text(each.get("end")) for each in _trainings(folder))))
    if not starts:
        return []
    until = f" to {ends[-1]}" if ends else ""
    return [Note(f"From {starts[0]}{until}, in {counted(sum(1 for _ in _trainings(folder)), 'training')}.")]


def _trainings(folder: Folder) -> Iterable[Mapping[str, Any]]:
    """What is recorded of each training, those that were interrupted included."""
    for content in folder.provenance:
        earlier = content.get("earlier")
        yield from (each for each in (earlier if isinstance(earlier, list) else []) if isinstance(each, dict))
        if content:
            yield content


def _states(folder: Folder) -> Table:
    states = tuple(folder.states)
    rows: list[list[Value]] = []
    for arm in folder.arms:
        members = [i for i, job in enumerate(folder.results.jobs) if folder.arms.of(job) is arm]
        counts = Counter(folder.state(folder.results.jobs[i]) for i in members)
        over = [folder.seconds[i] for i in members if folder.results.jobs[i].state == JobState.FINISHED]
        rows.append(
            [
                arm.label,
                *(counts[state] for state in states),
                sum(over) / len(over) if over else None,
                sum(folder.seconds[i] for i in members),
            ]
        )
    columns = [Column("arm"), *(Column(str(state), "number") for state in states)]
    columns += [Column("mean time of a finished job", "seconds"), Column("time of all epochs", "seconds")]
    return Table("Jobs and seconds", tuple(columns), rows)


def _machines(folder: Folder) -> Table:
    keys = ("host", "device", "device_name", "threads", "platform")
    counts = Counter(tuple(text(each.get(key)) for key in keys) for each in folder.provenance if each)
    columns = (*(Column(key.replace("_", " ")) for key in keys), Column("jobs", "number"))
    return Table("Machines", columns, [[*values, number] for values, number in counts.most_common()])


def _versions(folder: Folder) -> Table:
    counts = Counter(pair for each in folder.provenance for pair in _pairs(each))
    rows: list[list[Value]] = [[name, version, number] for (name, version), number in counts.most_common()]
    return Table("Versions", (Column("package"), Column("version", "code"), Column("jobs", "number")), rows)


def _pairs(content: Mapping[str, Any]) -> list[tuple[str, str]]:
    versions = content.get("versions")
    pairs = (
        [(text(name), text(version)) for name, version in versions.items()]
        if isinstance(versions, dict)
        else []
    )
    if commit := text(content.get("git_commit")):
        pairs.append(
            (
                "source of nteleport (git)",
                f"{commit}{' with changes' if content.get('git_dirty') is True else ''}",
            )
        )
    return [pair for pair in pairs if all(pair)]


def _failures(folder: Folder) -> list[Part]:
    rows: list[list[Value]] = []
    for job in folder.results.jobs:
        state, status = folder.state(job), folder.statuses.get(job.name)
        said = text(job.result.get("error")) or (status.error if status else "")
        why = "; ".join(part for part in (said, *job.problems) if part)
        if why or state in (JobState.FAILED, JobState.DIVERGED, JobState.STALE, JobState.UNFINISHED):
            rows.append([job.name, str(state), job.epochs, why])
    rows += [
        [reason.partition(": ")[0], "left out", None, reason.partition(": ")[2]]
        for reason in folder.results.skipped
    ]
    if not rows:
        return [Note("Nothing failed, diverged or was damaged.")]
    columns = (Column("job", "code"), Column("state"), Column("epochs", "number"), Column("why"))
    return [Table("What did not finish, and why", columns, rows)]
