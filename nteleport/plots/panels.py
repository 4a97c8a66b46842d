"""Panels, the jobs that share a picture, and groups, the runs that are averaged.

A `Panel` has the jobs of one picture: one data set and one model, unless these are compared. Within it, jobs
that agree in every hyper-parameter of `group_by` form a `Group`. A group has two coordinates:

- its *setting*: all of `group_by` except the teleportation ("lr 0.01, momentum 0.9");
- its *kind*: the teleportation ("no teleport", "teleported").

So a baseline and its teleported counterpart are two kinds of one setting, and can be drawn as a pair.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from nteleport.errors import ResultsError, nearest
from nteleport.jobs.table import JobResult, Scalar

__all__ = ["Group", "Panel"]

_BASELINE = "no_teleport"


@dataclass(frozen=True)
class Group:
    """Runs that agree in every hyper-parameter of `group_by`.

    Attributes:
        setting, kind: its two coordinates in words; "" if there is nothing to distinguish.
        label: both, unique in its panel.
        mode: the teleportation mode of its jobs, "" if they differ or have none.
        jobs: positions in `Results.jobs`.
        expected: how many runs it would have if none were missing.
        values: its value for each word of `group_by`, for tables.
    """

    setting: str
    kind: str
    label: str
    mode: str
    jobs: tuple[int, ...]
    expected: int
    values: Mapping[str, Scalar | None]

    @property
    def is_baseline(self) -> bool:
        return self.mode == _BASELINE


@dataclass(frozen=True)
class Panel:
    """The groups of one picture.

    Attributes:
        title: model and data set in words, as far as all groups share them.
        shared: the same by name, for tables.
        name: the same as a file name, unique among panels.
        groups: ordered by setting, then kind, the baseline first.
        warnings: warnings for the reader, without which the picture would mislead.
    """

    title: str
    shared: Mapping[str, Scalar | None]
    name: str
    groups: tuple[Group, ...]
    warnings: tuple[str, ...]


__all__ = [
    "COMPONENTS",
    "REPETITION",
    "default_group_by",
    "expand",
    "hyper_parameters",
    "identity",
    "of_teleportation",
    "value_of",
]

COMPONENTS = ("teleport", "optimizer", "model", "initializer", "dataset", "lr_scheduler", "training")
"""Words that denote a whole part of a job: every hyper-parameter whose key starts with them."""

REPETITION = ("run", "seed")
"""The hyper-parameters that distinguish the runs of a cell."""


def hyper_parameters(jobs: Iterable[JobResult]) -> tuple[str, ...]:
    """Every hyper-parameter of `jobs` once, in the order of the files.

    `hparams.yml` also has a label for each part of a job (`optimizer: SGD lr=0.01`). It repeats the
    hyper-parameters of the part, so it is omitted here.
    """
    keys = dict.fromkeys(key for job in jobs for key in job.hparams)
    parts = {key.split(".")[0] for key in keys if "." in key}
    return tuple(key for key in keys if key not in parts)


def expand(word: str, keys: Sequence[str]) -> tuple[str, ...]:
    """The hyper-parameters among `keys` that `word` denotes: itself, or those of a whole part.

    Raises:
        ResultsError: there is no such hyper-parameter; the message lists the existing ones.
    """
    if word in keys:
        return (word,)
    inside = tuple(key for key in keys if key.startswith(f"{word}."))
    if word in COMPONENTS and inside:
        return inside
    parts = [part for part in COMPONENTS if any(key.split(".")[0] == part for key in keys)]
    same_ending = [key for key in keys if key.rpartition(".")[2] == word]
    hint = nearest(word, [*parts, *keys])
    if same_ending:
        hint = f", did you mean {' or '.join(map(repr, same_ending))}?"
    raise ResultsError(
        f"unknown hyper-parameter {word!r}{hint}\n"
        f"these exist: {', '.join(parts)}; {', '.join(sorted(set(keys) - set(COMPONENTS)))}"
    )


def default_group_by(jobs: Sequence[JobResult]) -> tuple[str, ...]:
    """The teleportation, then every other part in which jobs differ.

    Data sets and models are omitted: each has its own picture.
    """
    keys = hyper_parameters(jobs)
    words = dict.fromkeys(["teleport"] if any(key.split(".")[0] == "teleport" for key in keys) else [])
    for key in keys:
        part = key.split(".")[0]
        present = {identity(job.hparams[key]) for job in jobs if key in job.hparams}
        absent = any(key not in job.hparams for job in jobs) and not of_teleportation(key)
        if len(present) + absent > 1 and part not in ("dataset", "model", *REPETITION):
            words[key if part == "training" else part] = None
    return tuple(words)


def of_teleportation(key: str) -> bool:
    """Whether a hyper-parameter belongs to the teleportation, so that it does not apply to a baseline."""
    return key.split(".")[0] == "teleport" or key == "training.optimizer_state"


def value_of(hparams: Mapping[str, Scalar], word: str) -> Scalar | None:
    """The value of a job for a word of `group_by`: the value, the label of a whole part, or None."""
    if word in hparams:
        return hparams[word]
    inside = {key: value for key, value in hparams.items() if key.startswith(f"{word}.")}
    return " ".join(f"{key.partition('.')[2]}={value}" for key, value in inside.items()) or None


def identity(value: Scalar | None) -> tuple[bool, Scalar | None]:
    """Identity of a value as a choice: `True` and `1` are equal in Python but are different choices."""
    return isinstance(value, bool), value
