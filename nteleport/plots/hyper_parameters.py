"""The words to group by: a hyper-parameter such as `optimizer.lr`, or a whole part of a job, `optimizer`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from nteleport.errors import ResultsError, nearest
from nteleport.jobs.table import JobResult, Scalar

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
"""Words that stand for a whole part of a job: every hyper-parameter whose key starts with them."""

REPETITION = ("run", "seed")
"""What tells runs of the same thing apart."""


def hyper_parameters(jobs: Iterable[JobResult]) -> tuple[str, ...]:
    """Every hyper-parameter of `jobs` once, in the order of the files.

    `hparams.yml` also has a label for each part of a job (`optimizer: SGD lr=0.01`). That repeats the
    hyper-parameters of the part, so it is left out here.
    """
    keys = dict.fromkeys(key for job in jobs for key in job.hparams)
    parts = {key.split(".")[0] for key in keys if "." in key}
    return tuple(key for key in keys if key not in parts)


def expand(word: str, keys: Sequence[str]) -> tuple[str, ...]:
    """The hyper-parameters among `keys` that `word` stands for: itself, or those of a whole part.

    Raises:
        ResultsError: there is no such hyper-parameter; the message lists those there are.
    """
    if word in keys:
        return (word,)
    if word in COMPONENTS:
        return tuple(key for key in keys if key.startswith(f"{word}."))
    same_ending = [key for key in keys if key.rpartition(".")[2] == word]
    hint = nearest(word, [*COMPONENTS, *keys])
    if same_ending:
        hint = f", did you mean {' or '.join(map(repr, same_ending))}?"
    raise ResultsError(
        f"unknown hyper-parameter {word!r}{hint}\n"
        f"these exist: {', '.join(COMPONENTS)}; {', '.join(sorted(set(keys) - set(COMPONENTS)))}"
    )


def default_group_by(jobs: Sequence[JobResult]) -> tuple[str, ...]:
    """The teleportation, then every other part in which jobs differ.

    Data sets and models are left out: each has its own picture.
    """
    words = dict.fromkeys(["teleport"])
    for key in hyper_parameters(jobs):
        part = key.split(".")[0]
        present = {identity(job.hparams[key]) for job in jobs if key in job.hparams}
        absent = any(key not in job.hparams for job in jobs) and not of_teleportation(key)
        if len(present) + absent > 1 and part not in ("dataset", "model", *REPETITION):
            words[key if part == "training" else part] = None
    return tuple(words)


def of_teleportation(key: str) -> bool:
    """Whether a hyper-parameter belongs to the teleportation: a baseline has no use for it."""
    return key.split(".")[0] == "teleport" or key == "training.optimizer_state"


def value_of(hparams: Mapping[str, Scalar], word: str) -> Scalar | None:
    """What a job has for a word to group by: the value, or the label of a whole part, or None."""
    if word in hparams:
        return hparams[word]
    inside = {key: value for key, value in hparams.items() if key.startswith(f"{word}.")}
    return " ".join(f"{key.partition('.')[2]}={value}" for key, value in inside.items()) or None


def identity(value: Scalar | None) -> tuple[bool, Scalar | None]:
    """What makes two values the same choice: `True` and `1` are equal in Python and still two choices."""
    return isinstance(value, bool), value
