"""Tests of paired differences: t interval, sign flips, Holm, equivalence, and how many pairs they need.

The statistics are those of scipy and statsmodels, which the extra `compare` installs. Except for `holm`,
arrays have their pairs along the last axis, so that many comparisons are one call.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from nteleport.extras import import_extra

__all__ = [
    "ALPHA",
    "Contrast",
    "Equivalence",
    "contrast",
    "equivalence",
    "holm",
    "pairs_for_band",
    "pairs_for_holm",
    "sign_flip_p",
    "smallest_p",
    "t_interval",
    "welch_p",
]

Array = npt.NDArray[np.float64]

ALPHA = 0.05
"""The level of every test; intervals have the confidence 1 − ALPHA."""

_POWER = 0.8

_MOST_EXACT = 14
"""Up to this many pairs, all 2^n signs are enumerated."""

_DRAWS = 99_999
"""Random signs where there are more; their seed is fixed."""

_MOST_PAIRS = 1_000_000


def _stats() -> Any:
    return import_extra("scipy.stats", extra="compare", purpose="nteleport compare")


@dataclass(frozen=True)
class Contrast:
    """What paired differences say.

    Attributes:
        n: the number of pairs.
        mean: of the differences; NaN without a pair.
        low, high: the 95 % t interval of the mean; NaN for fewer than two pairs.
        p: of the two-sided sign-flip test; NaN without a pair.
        p_error: the standard error of p where signs are drawn; 0 where all are enumerated.
    """

    n: int
    mean: float
    low: float
    high: float
    p: float
    p_error: float


def contrast(differences: Array) -> Contrast:
    """The mean of paired differences, shape (n,), with its t interval and sign-flip test."""
    n = len(differences)
    if n == 0:
        return Contrast(0, math.nan, math.nan, math.nan, math.nan, math.nan)
    low, high = t_interval(differences)
    p = float(sign_flip_p(differences))
    error = 0.0 if n <= _MOST_EXACT else 2 * math.sqrt(p / 2 * (1 - p / 2) / _DRAWS)
    return Contrast(n, float(differences.mean()), float(low), float(high), p, error)


def t_interval(differences: Array, confidence: float = 1 - ALPHA) -> tuple[Array, Array]:
    """The ends of the t interval of the mean, for differences of shape (…, n); NaN where n is 1."""
    n = differences.shape[-1]
    mean = differences.mean(-1)
    if n < 2:
        return np.full_like(mean, np.nan), np.full_like(mean, np.nan)
    margin = _stats().t.ppf((1 + confidence) / 2, n - 1) * differences.std(-1, ddof=1) / math.sqrt(n)
    return mean - margin, mean + margin


def sign_flip_p(differences: Array) -> Array:
    """The two-sided p of the sign-flip permutation test, for differences of shape (…, n).

    Under the null hypothesis that arm and baseline are exchangeable within a pair, each difference is as
    likely to have the other sign; p is the share of all signs whose mean is at least as far from 0. Up to 14
    pairs all 2^n are enumerated; otherwise 99,999 are drawn with a fixed seed, and the observed one counts
    as a draw (Phipson and Smyth, 2010).
    """
    if differences.shape[-1] < 2:
        return np.ones(differences.shape[:-1])
    scale = np.abs(differences).max(-1, keepdims=True)
    scaled = np.divide(differences, scale, out=np.zeros_like(differences), where=scale > 0)
    n = differences.shape[-1]
    found = _stats().permutation_test(
        (scaled, np.zeros_like(scaled)),  # exchanged within a pair: the sign of the difference
        _rounded_mean,
        permutation_type="samples",
        n_resamples=np.inf if n <= _MOST_EXACT else _DRAWS,
        batch=max(1, 4_000_000 // max(1, differences.size)),
        axis=-1,
        vectorized=True,
        rng=np.random.default_rng(0),
    )
    return np.asarray(found.pvalue, dtype=np.float64)


def _rounded_mean(first: Array, second: Array, axis: int) -> Array:
    """Means rounded so that equal sums of shares such as 1/360 are equal whatever the order of the terms."""
    rounded: Array = np.round((first - second).mean(axis=axis), 12)
    return rounded


def holm(p: Array) -> Array:
    """The p values of a family, shape (k,), adjusted by Holm's step-down procedure (1979).

    An arm may be called different from the baseline where its adjusted p is at most 0.05; then the
    probability of any false call in the family is at most 0.05. NaN stays NaN, and does not count.
    """
    known = np.isfinite(p)
    adjusted = np.full_like(p, np.nan)
    if known.any():
        multitest = import_extra("statsmodels.stats.multitest", extra="compare", purpose="nteleport compare")
        adjusted[known] = multitest.multipletests(p[known], method="holm")[1]
    return adjusted


@dataclass(frozen=True)
class Equivalence:
    """Two one-sided t tests of whether a mean lies in a band (Schuirmann, 1987).

    Attributes:
        p: the larger p of the two; NaN for fewer than two pairs. At most 0.05 means equivalent.
        decidable: whether a mean in the middle of the band could be told from both its ends.
        pairs: how many pairs decide it with a probability of 80 % where there is no difference.
    """

    p: float
    decidable: bool
    pairs: int

    @property
    def holds(self) -> bool:
        return self.p <= ALPHA


def equivalence(arm: Array, baseline: Array, band: float, *, relative: bool) -> Equivalence:
    """Whether an arm lies within `band` of its baseline; both of shape (n,), paired.

    A relative band is a share of the mean of the baseline, which is estimated too: then the tests are of the
    means of `arm − (1 ± band) · baseline`, which needs no estimate of it.
    """
    above = arm - (1 + band) * baseline if relative else arm - baseline - band
    below = arm - (1 - band) * baseline if relative else arm - baseline + band
    if relative and baseline.mean() < 0:
        above, below = below, above
    n = len(arm)
    if n < 2:
        return Equivalence(math.nan, False, 0)
    p = max(_one_sided_p(above, "less"), _one_sided_p(below, "greater"))
    spread = float(max(above.std(ddof=1), below.std(ddof=1)))
    half = float((below.mean() - above.mean()) / 2)
    margin = float(_stats().t.ppf(1 - ALPHA, n - 1)) * spread / math.sqrt(n)
    return Equivalence(p, margin <= half, pairs_for_band(spread, half))


def _one_sided_p(differences: Array, alternative: str) -> float:
    """The p of a one-sided t test against a mean of 0; differences without spread are certain."""
    if np.ptp(differences) == 0:
        below = differences[0] < 0 if alternative == "less" else differences[0] > 0
        return 0.0 if below else 1.0
    return float(_stats().ttest_1samp(differences, 0.0, alternative=alternative).pvalue)


def smallest_p(n: int) -> float:
    """The smallest two-sided p that a sign-flip test of n pairs can reach."""
    return float(2.0 ** (1 - n)) if n <= _MOST_EXACT else 2 / (_DRAWS + 1)


def pairs_for_holm(arms: int) -> int:
    """How many pairs an arm needs for the smallest p to pass Holm's first step among so many arms."""
    return next(n for n in range(1, _MOST_EXACT + 1) if smallest_p(n) <= ALPHA / arms or n == _MOST_EXACT)


def pairs_for_band(spread: float, half: float) -> int:
    """How many pairs show equivalence with a probability of 80 % where there is no difference.

    Args:
        spread: the standard deviation of paired differences.
        half: half of the width of the band.
    """
    if not half > 0:
        return 0
    t, normal = _stats().t, _stats().norm
    ends = (1 - ALPHA, (1 + _POWER) / 2)
    needed = (float(sum(normal.ppf(ends))) * spread / half) ** 2  # Student's t asks for a few more
    n = max(2, math.ceil(min(needed, _MOST_PAIRS)))
    while n < _MOST_PAIRS and float(sum(t.ppf(ends, n - 1))) * spread > half * math.sqrt(n):
        n += 1
    return n


def welch_p(one: Array, other: Array) -> float:
    """The p of Welch's one-sided t test that the mean of `one` is larger; NaN for fewer than two values."""
    if len(one) < 2 or len(other) < 2:
        return math.nan
    if np.ptp(one) == 0 and np.ptp(other) == 0:
        return 0.0 if one[0] > other[0] else 1.0
    return float(_stats().ttest_ind(one, other, equal_var=False, alternative="greater").pvalue)
