"""The verdicts in words, and the rules that lead to them. They are fixed before anything is run.

`>` means better than, by the sign-flip test, and not equivalent; `≈` equivalent: both one-sided tests place
the difference within the band. Arms against the baseline are corrected by Holm. A verdict needs all of its
parts, each at the level 0.05, so it needs no further correction (an intersection-union test).

====================================  ================================================================
`a change of learning rate`           teleported ≈ plain, and so are the arms that share what it changes
`a repair of the initialization`      teleported > plain from PyTorch's initial weights; from another
                                      initializer teleported ≈ plain, and there plain is better than from
                                      PyTorch's, and no worse than teleported from there
`per-layer learning rates`            layer rates ≈ teleported, both > plain
`the pattern matters`                 teleported > plain, > layer rates and > shuffled rates
`worse than the baseline`             teleported < plain
`no arms to tell`                     teleported > plain, but the arms are missing that would tell why
`inconclusive`                        anything else, and all that is not tuned equally
====================================  ================================================================
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from nteleport.comparison.arms import Arm, Cell, differences_of
from nteleport.comparison.outcomes import Outcome
from nteleport.comparison.statistics import ALPHA, Contrast, Equivalence, contrast, equivalence, welch_p

CHANGE_OF_RATE = "a change of learning rate"
REPAIR = "a repair of the initialization"
LAYER_RATES = "per-layer learning rates"
PATTERN = "the pattern matters"
WORSE = "worse than the baseline"
NO_ARMS = "no arms to tell"
INCONCLUSIVE = "inconclusive"

TELEPORTING = ("random", "optim", "optimize")
"""The modes that teleport and are judged."""

COMPANIONS = ("layer_rates", "shuffled_rates", "layer_cob")
"""The modes of the arms that share what a teleportation changes."""


@dataclass(frozen=True)
class Finding:
    """How one arm compares with another, on one outcome.

    Attributes:
        contrast: of the paired differences.
        p: what is held against the level: adjusted where the comparison belongs to a family.
        equivalence: None where no band was stated.
        sign: 1 where larger is better, else −1.
        unit: of the differences.
    """

    contrast: Contrast
    p: float
    equivalence: Equivalence | None
    sign: int
    unit: str

    @property
    def result(self) -> str:
        """`better`, `worse`, `equivalent` or `undecided`."""
        if self.equivalence is not None and self.equivalence.holds:
            return "equivalent"
        if self.p <= ALPHA:
            return "better" if self.sign * self.contrast.mean > 0 else "worse"
        return "undecided"

    def __str__(self) -> str:
        found, number = self.contrast, f"{self.contrast.mean:+.3g}".replace("-", "−")
        if self.result == "equivalent" and self.equivalence is not None:
            return f"{number} {self.unit}, p of equivalence {self.equivalence.p:.2g}"
        return f"{number} {self.unit}, p {self.p:.2g}" if found.n else "no pairs"


def finding(first: Arm, second: Arm, outcome: Outcome, measures: pd.DataFrame, horizon: float) -> Finding:
    """How `first` compares with `second`."""
    return finding_of(differences_of(first, second, measures, horizon), outcome)


def finding_of(pairs: pd.DataFrame, outcome: Outcome) -> Finding:
    """What a table of pairs says, made by `nteleport.comparison.arms.differences_of`."""
    found = contrast(pairs["difference"].to_numpy(dtype=np.float64))
    same = None
    told_nothing = bool((pairs["censored"] & pairs["baseline_censored"]).all())  # no run reached the target
    if outcome.band is not None and not told_nothing:
        arm, baseline = (pairs[name].to_numpy(dtype=np.float64) for name in ("value", "baseline"))
        same = equivalence(arm, baseline, outcome.band.size, relative=outcome.band.relative)
    return Finding(found, found.p, same, 1 if outcome.larger_is_better else -1, outcome.unit_of_differences)


_AGAINST_BASELINE = {
    "better": "better than the baseline",
    "worse": "worse than the baseline",
    "equivalent": "equivalent to the baseline",
    "undecided": "not told from the baseline",
}


def companions_of(arm: Arm, cell: Cell) -> dict[str, Arm]:
    """The arms of `COMPANIONS` whose options a teleporting arm has, too, by mode.

    An arm that chooses its change of basis draws none, so it has no companions.
    """
    found: dict[str, Arm] = {}
    for other in cell.arms.values():
        alike = all(arm.options.get(key) == value for key, value in other.options.items())
        if other.mode in COMPANIONS and alike:
            found.setdefault(other.mode, other)
    return found


def judge(teleported: Finding, companions: Mapping[str, tuple[Finding, Finding]]) -> tuple[str, str]:
    """The verdict on a teleporting arm, and why.

    Args:
        teleported: the arm against the baseline.
        companions: by mode, the companion against the baseline, and the arm against the companion.
    """
    against = {mode: second for mode, (_, second) in companions.items()}
    layer, shuffled = against.get("layer_rates"), against.get("shuffled_rates")
    because = "; ".join(
        [
            f"{_AGAINST_BASELINE[teleported.result]} ({teleported})",
            *(f"{mode}: {first.result} ({first})" for mode, (first, _) in companions.items()),
            *(f"against {mode}: {second.result} ({second})" for mode, second in against.items()),
        ]
    )
    if all(
        each.result == "equivalent" for each in (teleported, *(first for first, _ in companions.values()))
    ):
        return CHANGE_OF_RATE, because
    if teleported.result == "worse":
        return WORSE, because
    if teleported.result != "better":
        return INCONCLUSIVE, because
    if layer is None:
        return NO_ARMS, f"{because}; no arm layer_rates with the same change of basis"
    if layer.result == "equivalent" and companions["layer_rates"][0].result == "better":
        return LAYER_RATES, because
    if layer.result == "better" and shuffled is None:
        return NO_ARMS, f"{because}; no arm shuffled_rates with the same change of basis"
    if layer.result == "better" and shuffled is not None and shuffled.result == "better":
        return PATTERN, because
    return INCONCLUSIVE, because


@dataclass(frozen=True)
class Start:
    """What one initializer gives: the values of the baseline and of an arm, and how these compare."""

    baseline: np.ndarray
    arm: np.ndarray
    finding: Finding


def is_repair(pytorch: Start, others: Mapping[str, Start], outcome: Outcome) -> str:
    """Why a gain from PyTorch's initial weights is a repair of the initialization; "" if it is not.

    Initializers have seeds of their own, so they are compared by Welch's t test, not in pairs.
    """
    if pytorch.finding.result != "better" or outcome.band is None:
        return ""
    if any(other.finding.result == "better" for other in others.values()):
        return ""
    sign = 1 if outcome.larger_is_better else -1
    for name, other in others.items():
        band = outcome.band.size * (abs(pytorch.baseline.mean()) if outcome.band.relative else 1)
        gives = welch_p(sign * other.baseline, sign * pytorch.baseline)
        no_worse = welch_p(sign * other.baseline + band, sign * pytorch.arm)
        if other.finding.result == "equivalent" and max(gives, no_worse) <= ALPHA:
            return (
                f"{name} gives the gain without it (p {gives:.2g}; no worse than teleported from PyTorch's "
                f"initial weights, p {no_worse:.2g}), and there it adds nothing ({other.finding})"
            )
    return ""
