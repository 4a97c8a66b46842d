"""Sorts the jobs of a results folder into panels, and the jobs of each panel into groups."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence

from nteleport.jobs.table import JobResult, Results, Scalar
from nteleport.plots import wording
from nteleport.plots.panels import (
    REPETITION,
    Group,
    Panel,
    expand,
    hyper_parameters,
    identity,
    of_teleportation,
    value_of,
)
from nteleport.plots.wording import number

__all__ = ["arrange"]


def arrange(results: Results, group_by: Sequence[str]) -> list[Panel]:
    """Split the jobs of `results` into panels, and the jobs of each into groups.

    Raises:
        ResultsError: a word of `group_by` is not a hyper-parameter; the message lists the existing ones.
    """
    keys = hyper_parameters(results.jobs)
    grouped = tuple(dict.fromkeys(key for word in group_by for key in expand(word, keys)))
    shared = tuple(key for key in keys if key.split(".")[0] in ("dataset", "model") and key not in grouped)
    members = _split(results.jobs, range(len(results.jobs)), shared)
    heads = [results.jobs[positions[0]].hparams for positions in members]
    names = _unique([_file_name(head, shared) for head in heads])
    panels = []
    for positions, head, title, name in zip(members, heads, _titles(heads, shared), names, strict=True):
        groups = _groups(results.jobs, positions, group_by, grouped)
        warnings = completeness_warnings(groups, results.jobs, grouped)
        prefix = f"{title}: " if title else ""
        described = {
            part: value_of(head, part) for part in dict.fromkeys(key.split(".")[0] for key in shared)
        }
        panels.append(Panel(title, described, name, groups, tuple(prefix + text for text in warnings)))
    return panels


def _groups(
    jobs: Sequence[JobResult], positions: Sequence[int], group_by: Sequence[str], grouped: Sequence[str]
) -> tuple[Group, ...]:
    setting_keys = [key for key in grouped if not of_teleportation(key)]
    kind_keys = [key for key in grouped if of_teleportation(key)]
    buckets = [
        kind
        for setting in _split(jobs, positions, setting_keys)
        for kind in sorted(
            _split(jobs, setting, kind_keys), key=lambda bucket: wording.mode_order(_mode(jobs, bucket))
        )
    ]
    heads = [jobs[bucket[0]].hparams for bucket in buckets]
    modes = [_mode(jobs, bucket) for bucket in buckets]
    settings = wording.setting_labels(heads, setting_keys)
    kinds = wording.teleport_labels(heads, kind_keys, modes) if kind_keys else [""] * len(buckets)
    expected = expected_runs([[jobs[i] for i in bucket] for bucket in buckets], grouped)
    return tuple(
        Group(
            setting,
            kind,
            ", ".join(part for part in (setting, kind) if part) or "all runs",
            mode,
            tuple(bucket),
            runs,
            {word: value_of(head, word) for word in group_by},
        )
        for setting, kind, mode, bucket, runs, head in zip(
            settings, kinds, modes, buckets, expected, heads, strict=True
        )
    )


def _split(jobs: Sequence[JobResult], positions: Sequence[int], keys: Sequence[str]) -> list[list[int]]:
    """The jobs at `positions` in buckets with equal values of `keys`, sorted by these values."""
    buckets: dict[tuple[object, ...], list[int]] = {}
    for position in positions:
        hparams = jobs[position].hparams
        buckets.setdefault(tuple(identity(hparams.get(key)) for key in keys), []).append(position)
    return sorted(
        buckets.values(), key=lambda bucket: [_rank(jobs[bucket[0]].hparams.get(key)) for key in keys]
    )


def _rank(value: Scalar | None) -> tuple[int, float, str]:
    """Sort key of a hyper-parameter: missing values, then numbers, then words."""
    if value is None:
        return 0, 0.0, ""
    return (2, 0.0, value) if isinstance(value, str) else (1, float(value), "")


def _mode(jobs: Sequence[JobResult], bucket: Sequence[int]) -> str:
    modes = {str(jobs[position].hparams.get("teleport.mode", "")) for position in bucket}
    return modes.pop() if len(modes) == 1 else ""


def _titles(heads: Sequence[Mapping[str, Scalar]], shared: Sequence[str]) -> list[str]:
    """ "ResNet-18 on CIFAR-10"; models of one class are distinguished by differing arguments."""
    arguments = [key for key in shared if key.startswith("model.") and key != "model.cls"]
    titles = []
    for head in heads:
        alike = [other for other in heads if other.get("model.cls") == head.get("model.cls")]
        differing = wording.setting_labels(alike, arguments)[alike.index(head)]
        model = wording.model_name(str(head.get("model.cls", "?"))) if "model.cls" in shared else ""
        model = " ".join(part for part in (model, differing and f"({differing})") if part)
        dataset = wording.dataset_name(str(head.get("dataset", "?"))) if "dataset" in shared else ""
        titles.append(" on ".join(part for part in (model, dataset) if part))
    return titles


def _file_name(head: Mapping[str, Scalar], shared: Sequence[str]) -> str:
    words = [head.get("dataset"), head.get("model.cls")]
    names = [str(word) for word, key in zip(words, ("dataset", "model.cls"), strict=True) if key in shared]
    return re.sub(r"[^A-Za-z0-9._]+", "-", "-".join(names)).strip("-.") or "all"


def _unique(names: Sequence[str]) -> list[str]:
    """The names; a repeated name is numbered from its second occurrence."""
    seen: dict[str, int] = {}
    unique = []
    for name in names:
        seen[name] = seen.get(name, 0) + 1
        unique.append(name if seen[name] == 1 else f"{name}-{seen[name]}")
    return unique


def expected_runs(groups: Sequence[Sequence[JobResult]], grouped: Sequence[str]) -> list[int]:
    """For each group of jobs, how many runs it would have if none were missing.

    `grouped` are the hyper-parameters that distinguish the groups.

    Every cell (all hyper-parameters but run and seed) should have as many runs as the fullest cell of the
    picture, and every run that any cell has. The cells of a group are those of its jobs.
    """
    if any(key in grouped for key in REPETITION):  # each run is its own group: none can be missing
        return [len(group) for group in groups]
    cells = [Counter(_cell(job) for job in group) for group in groups]
    fullest = max(count for counter in cells for count in counter.values())
    known = {job.hparams["run"] for group in groups for job in group if "run" in job.hparams}
    return [len(counter) * max(fullest, len(known)) for counter in cells]


def completeness_warnings(
    groups: Sequence[Group], jobs: Sequence[JobResult], grouped: Sequence[str]
) -> list[str]:
    """Warnings about the groups of one picture for its reader.

    `grouped` are the hyper-parameters that distinguish the groups.
    """
    return [*_missing_runs(groups, jobs), *_missing_groups(groups), *_mixtures(groups, jobs, grouped)]


def _missing_runs(groups: Sequence[Group], jobs: Sequence[JobResult]) -> list[str]:
    """One line for each group with runs that are missing, unfinished, failed, diverged or damaged."""
    known = {jobs[position].hparams.get("run") for group in groups for position in group.jobs}
    found = []
    for group in groups:
        members = [jobs[position] for position in group.jobs]
        remarks = [remark for job in members if (remark := _remark(job))]
        absent = group.expected - len(members)
        if absent > 0:
            missing = sorted(known - {job.hparams.get("run") for job in members} - {None}, key=str)
            named = f" (run {', '.join(map(str, missing))})" if len(missing) == absent else ""
            remarks.append(f"{absent} missing{named}")
        if remarks:
            finished = f"{sum(job.state == 'finished' for job in members)} of {group.expected} runs finished"
            found.append(f"{group.label!r} has {finished}: {'; '.join(remarks)}")
    return found


def _remark(job: JobResult) -> str:
    """The problems of one job; "" if there are none."""
    run = f"run {job.hparams['run']}" if "run" in job.hparams else job.name
    epochs = "1 epoch" if job.epochs == 1 else f"{job.epochs} epochs"
    state = "" if job.state == "finished" else f"{job.state} after {epochs}"
    details = ", ".join(part for part in (state, *job.problems) if part)
    return f"{run} {details}" if details else ""


def _missing_groups(groups: Sequence[Group]) -> list[str]:
    """Combinations of a setting and a kind without any job, if most combinations exist."""
    settings = dict.fromkeys(group.setting for group in groups)
    kinds = dict.fromkeys(group.kind for group in groups)
    present = {(group.setting, group.kind) for group in groups}
    absent = [(setting, kind) for setting in settings for kind in kinds if (setting, kind) not in present]
    if len(absent) >= len(present):
        return []
    return [f"no runs at all of {', '.join(pair)!r}" for pair in absent]


def _mixtures(groups: Sequence[Group], jobs: Sequence[JobResult], grouped: Sequence[str]) -> list[str]:
    """Hyper-parameters that differ within groups: the average would treat the difference as chance."""
    mixed: dict[str, None] = {}
    for key in hyper_parameters(jobs):
        if key in grouped or key in REPETITION:
            continue
        if any(len(_values(group, jobs, key)) > 1 for group in groups):
            mixed[key] = None
    if not mixed:
        return []
    everything = {value for group in groups for key in mixed for value in _values(group, jobs, key)}
    shown = ", ".join(mixed)
    if len(mixed) == 1 and len(everything) <= 6:
        values = sorted("unset" if value is None else number(value) for _, value in everything)
        shown += f" ({', '.join(values)})"
    return [f"groups mix runs that differ in {shown}: group by what matters too"]


def _values(group: Group, jobs: Sequence[JobResult], key: str) -> set[tuple[bool, str | int | float | None]]:
    """The values of a hyper-parameter within a group. Those of a teleportation do not apply to a baseline."""
    values = {identity(jobs[position].hparams.get(key)) for position in group.jobs}
    return values - {identity(None)} if of_teleportation(key) else values


def _cell(job: JobResult) -> Hashable:
    return frozenset((key, identity(value)) for key, value in job.hparams.items() if key not in REPETITION)
