"""Letting several actions take turns, and what comes of it.

Actions run one after the other, round after round, and each round begins with another one. A ratio is that of
the medians; its spread is the range from the 25th to the 75th percentile of the ratios within a round.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

Action = Callable[[], object]

WARM_UP = 2
AT_LEAST = 5


@dataclass(frozen=True)
class Setting:
    """Where and how long to measure.

    Attributes:
        device: on which networks run.
        effort: factor of the time given to each comparison; 1 is what the command needs ten minutes for.
        clock: what seconds are: of the wall clock, or of this process on its CPUs.
    """

    device: torch.device
    effort: float = 1.0
    clock: Callable[[], float] = time.perf_counter


@dataclass(frozen=True)
class Figure:
    """One comparison: medians of both sides, their ratio, and what was aimed at.

    Attributes:
        comparison: the group it belongs to, a word for `--only`.
        what, against: both sides, in words.
        unit: of `ours` and `theirs`.
        ratio: `ours / theirs`; `low` and `high` are its quartiles over rounds.
        target: the ratio to reach; None where there is none.
    """

    comparison: str
    what: str
    against: str
    unit: str
    ours: float
    theirs: float
    ratio: float
    low: float
    high: float
    rounds: int
    target: float | None = None

    @property
    def reached(self) -> bool | None:
        """Whether the target is reached; None where there is none."""
        return None if self.target is None else self.ratio <= self.target


def compare(
    comparison: str,
    what: str,
    against: str,
    ours: Sequence[float],
    theirs: Sequence[float],
    *,
    unit: str = "ms",
    factor: float = 1e3,
    target: float | None = None,
) -> Figure:
    """The figure that two series of the same rounds give; `factor` brings them to `unit`."""
    mine, other = statistics.median(ours), statistics.median(theirs)
    ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
    low, high = ratios[0], ratios[0]
    if len(ratios) > 1:
        low, _, high = statistics.quantiles(ratios, n=4, method="inclusive")
    return Figure(
        comparison, what, against, unit, mine * factor, other * factor, mine / other, low, high, len(ratios),
        target,
    )  # fmt: skip


def take_turns(
    actions: Sequence[Action],
    setting: Setting,
    seconds: float,
    *,
    at_least: int = AT_LEAST,
    warm_up: int = WARM_UP,
) -> list[list[float]]:
    """Run all actions in turns for about `seconds` (times the effort), and at least so many rounds.

    Returns:
        For each action its seconds, one number a round; the warm-up is not among them.
    """
    for _ in range(warm_up):
        for action in actions:
            timed(action, setting)
    times: list[list[float]] = [[] for _ in actions]
    end = time.perf_counter() + seconds * setting.effort
    while len(times[0]) < at_least or time.perf_counter() < end:
        first = len(times[0]) % len(actions)
        for place in range(len(actions)):
            which = (first + place) % len(actions)
            times[which].append(timed(actions[which], setting))
    return times


def timed(action: Action, setting: Setting) -> float:
    """The seconds that an action takes until the device has done it."""
    began = setting.clock()
    action()
    if setting.device.type == "cuda":
        torch.cuda.synchronize(setting.device)
    return setting.clock() - began
