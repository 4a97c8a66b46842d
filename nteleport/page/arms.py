"""The arms of a folder, that is its teleportations: one label and one color for each on the whole page."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from nteleport.jobs.table import JobResult, Scalar
from nteleport.plots.panels import hyper_parameters, value_of
from nteleport.plots.wording import mode_order, split_state, teleport_labels

COLORS = 9
"""Colors of the style sheet beside the gray of the baseline, `--arm-1` to `--arm-9`."""

BASELINE = "no_teleport"


@dataclass(frozen=True)
class Arm:
    """A teleportation.

    Attributes:
        key: its label in `hparams.yml`, "random, once at 0, inter 0.9".
        label: in words, and no longer than it takes to tell the arms apart.
        mode: its mode.
        color: for CSS.
        jobs: how many jobs it has.
    """

    key: str
    label: str
    mode: str
    color: str
    jobs: int


def color(number: int) -> str:
    """The color of the n-th arm; number 0 is the baseline."""
    return f"var(--arm-{1 + (number - 1) % COLORS if number else 0})"


class Arms:
    """All arms of a folder, in the order of legends: the baseline first."""

    def __init__(self, jobs: Sequence[JobResult]) -> None:
        heads: dict[str, Mapping[str, Scalar]] = {}
        for job in jobs:
            heads.setdefault(_key(job), job.hparams)
        keys = sorted(heads, key=lambda key: (mode_order(_mode(heads[key])), key))
        modes = [_mode(heads[key]) for key in keys]
        options = [key for key in hyper_parameters(jobs) if key.startswith("teleport.")]
        labels = teleport_labels([heads[key] for key in keys], options, modes)
        often = Counter(labels)
        counts = Counter(_key(job) for job in jobs)
        number = 0
        self._arms: dict[str, Arm] = {}
        for key, mode, label in zip(keys, modes, labels, strict=True):
            number += mode != BASELINE
            shown = label if label and often[label] == 1 else key or "all jobs"
            self._arms[key] = Arm(key, shown, mode, color(0 if mode == BASELINE else number), counts[key])

    def __iter__(self) -> Iterator[Arm]:
        return iter(self._arms.values())

    def __len__(self) -> int:
        return len(self._arms)

    def of(self, job: JobResult) -> Arm:
        """The arm of a job."""
        return self._arms[_key(job)]

    def named(self, key: str) -> Arm:
        """The arm with this label in `hparams.yml`; one that has no job here is gray.

        `nteleport.comparison` adds what happens to the optimizer's state where that tells arms apart, and
        writes labels on one line.
        """
        if key in self._arms:
            return self._arms[key]
        plain, state = split_state(key)
        arm = next((each for each in self if " ".join(each.key.split()) in (key, plain)), None)
        if arm is None:
            return Arm(key, key, "", color(0), 0)
        return replace(arm, key=key, label=arm.label + state)

    @cached_property
    def baseline(self) -> Arm | None:
        """The first arm that does not teleport."""
        return next((arm for arm in self if arm.mode == BASELINE), None)


def _key(job: JobResult) -> str:
    return str(value_of(job.hparams, "teleport") or "")


def _mode(hparams: Mapping[str, Scalar]) -> str:
    return str(hparams.get("teleport.mode", ""))
