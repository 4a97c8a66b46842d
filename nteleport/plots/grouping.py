"""Sorts the jobs of some results into the pictures they share, and in each into runs of the same thing."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from nteleport.jobs.table import JobResult, Results, Scalar
from nteleport.plots import completeness, wording
from nteleport.plots.hyper_parameters import expand, hyper_parameters, identity, of_teleportation, value_of
from nteleport.plots.panels import Group, Panel

__all__ = ["arrange"]


def arrange(results: Results, group_by: Sequence[str]) -> list[Panel]:
    """Split the jobs of `results` into panels, and the jobs of each into groups.

    Raises:
        ResultsError: a word of `group_by` is no hyper-parameter; the message lists those there are.
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
        warnings = completeness.warnings(groups, results.jobs, grouped)
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
    expected = completeness.expected_runs([[jobs[i] for i in bucket] for bucket in buckets], grouped)
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
    """The jobs at `positions` in buckets that agree in `keys`, sorted by their values."""
    buckets: dict[tuple[object, ...], list[int]] = {}
    for position in positions:
        hparams = jobs[position].hparams
        buckets.setdefault(tuple(identity(hparams.get(key)) for key in keys), []).append(position)
    return sorted(
        buckets.values(), key=lambda bucket: [_rank(jobs[bucket[0]].hparams.get(key)) for key in keys]
    )


def _rank(value: Scalar | None) -> tuple[int, float, str]:
    """Sort key of a hyper-parameter: none, then numbers, then words."""
    if value is None:
        return 0, 0.0, ""
    return (2, 0.0, value) if isinstance(value, str) else (1, float(value), "")


def _mode(jobs: Sequence[JobResult], bucket: Sequence[int]) -> str:
    modes = {str(jobs[position].hparams.get("teleport.mode", "")) for position in bucket}
    return modes.pop() if len(modes) == 1 else ""


def _titles(heads: Sequence[Mapping[str, Scalar]], shared: Sequence[str]) -> list[str]:
    """ "ResNet-18 on CIFAR-10"; models of one class are told apart by the arguments in which they differ."""
    arguments = [key for key in shared if key.startswith("model.") and key != "model.cls"]
    titles = []
    for head in heads:
        alike = [other for other in heads if other.get("model.cls") == head.get("model.cls")]
        differing = wording.setting_labels(alike, arguments)[alike.index(head)]
        model = wording.model_name(str(head["model.cls"])) if "model.cls" in shared else ""
        model = " ".join(part for part in (model, differing and f"({differing})") if part)
        dataset = wording.dataset_name(str(head["dataset"])) if "dataset" in shared else ""
        titles.append(" on ".join(part for part in (model, dataset) if part))
    return titles


def _file_name(head: Mapping[str, Scalar], shared: Sequence[str]) -> str:
    words = [head.get("dataset"), head.get("model.cls")]
    names = [str(word) for word, key in zip(words, ("dataset", "model.cls"), strict=True) if key in shared]
    return re.sub(r"[^A-Za-z0-9._]+", "-", "-".join(names)).strip("-.") or "all"


def _unique(names: Sequence[str]) -> list[str]:
    """The names, numbered from the second on where one comes again."""
    seen: dict[str, int] = {}
    unique = []
    for name in names:
        seen[name] = seen.get(name, 0) + 1
        unique.append(name if seen[name] == 1 else f"{name}-{seen[name]}")
    return unique
