"""What the tables of studies say about a claim: each measure has a per-seed statistic and a criterion.

The rules are fixed here, before anything is run: a claim holds when the t interval over the seeds lies
entirely on the required side.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

Tables = Mapping[str, pd.DataFrame]
"""The tables of one run of a study, by name."""

MUCH_NEARER = 0.1
"""Angles count as orthogonal up to this multiple of the deviation of random vectors from 90°."""

MONOTONE = 0.9
"""The smallest rank correlation that counts as growing."""


@dataclass(frozen=True)
class Answer:
    """The measurement, in words and numbers, and whether the claim holds."""

    text: str
    holds: bool
    numbers: Mapping[str, float]


def orthogonal(seeds: Sequence[Tables]) -> Answer:
    """`micro`: the deviation of micro-teleportations from 90°, relative to that of random vectors."""
    found, chance = ([_mean_deviation(t["micro"], pair) for t in seeds] for pair in _PAIRS)
    ratio = t_interval([a / b for a, b in zip(found, chance, strict=True)])
    deviation = t_interval(found)
    text = (
        f"mean |angle − 90°| {deviation.mean:.2g}° [{deviation.low:.2g}, {deviation.high:.2g}]; "
        f"of two random vectors {_mean(chance):.2g}°"
    )
    return Answer(text, ratio.high < MUCH_NEARER, _numbers(ratio) | {"degrees": deviation.mean})


_PAIRS = ("gradient, teleportation", "two random vectors")


def _mean_deviation(table: pd.DataFrame, pair: str) -> float:
    return float((table.loc[table["pair"] == pair, "angle"] - 90).abs().mean())


def sharper(seeds: Sequence[Tables]) -> Answer:
    """`interpolate`: how much more the loss rises near teleported minima than near plain ones."""
    rises = [t["interpolate-sharpness"].groupby("line")["rise"].mean() for t in seeds]
    excess = t_interval([rise[_TELEPORTED] - rise[_PLAIN] for rise in rises])
    plain, teleported = _mean([rise[_PLAIN] for rise in rises]), _mean([rise[_TELEPORTED] for rise in rises])
    text = (
        f"mean rise of the training loss within 0.1 of a minimum {teleported:.3g} against {plain:.3g}: "
        f"{in_words(excess, 3, signed=True)}"
    )
    return Answer(text, excess.is_positive, _numbers(excess) | {"plain": plain, "teleported": teleported})


_PLAIN, _TELEPORTED = "A to B", "T(A) to T(B)"


def grows(seeds: Sequence[Tables]) -> Answer:
    """`gradients`: the rank correlation of range and mean difference, for the model with the lowest one."""
    means = [tables["gradients"].groupby(["model", "cob_range"])["difference"].mean() for tables in seeds]
    correlation = t_interval([min(_rank_correlation(m[model]) for model in _models(m)) for m in means])
    first, last = (means[0].index.get_level_values("cob_range")[end] for end in (0, -1))
    factors = {
        model: _mean([m[model].iloc[-1] / m[model].iloc[0] for m in means]) for model in _models(means[0])
    }
    growth = ", ".join(f"{model} × {factor:,.0f}" for model, factor in factors.items())
    text = (
        f"rank correlation of range and difference, lowest of all models {in_words(correlation, 2)}; "
        f"from range {first:g} to {last:g}: {growth}"
    )
    return Answer(text, correlation.low > MONOTONE, _numbers(correlation) | factors)


def _models(means: pd.Series[float]) -> list[str]:
    return list(dict.fromkeys(means.index.get_level_values("model")))


def _rank_correlation(means: pd.Series[float]) -> float:
    """Spearman's correlation of a series with its index."""
    return float(pd.Series(means.index).rank().corr(means.reset_index(drop=True).rank()))


def wider(seeds: Sequence[Tables]) -> Answer:
    """`weights`: the ratio of the standard deviations of the weights after and before."""
    spreads = [_spreads(tables["weights"]) for tables in seeds]
    ratio = t_interval([spread["after"] / spread["before"] for spread in spreads])
    redrawn = _mean([spread["same_distr"] / spread["before"] for spread in spreads])
    text = f"standard deviation × {in_words(ratio, 2)}; redrawn by same_distr × {redrawn:.2f}"
    return Answer(text, ratio.low > 1, _numbers(ratio) | {"same_distr": redrawn})


def _spreads(table: pd.DataFrame) -> dict[str, float]:
    """The standard deviation of each kind of weights, about 0, from their densities."""
    whole = table[table["view"] == "whole"]
    middle, width = (whole["left"] + whole["right"]) / 2, whole["right"] - whole["left"]
    variances = (whole["density"] * width * middle**2).groupby(whole["weights"]).sum()
    return {str(which): math.sqrt(variance) for which, variance in variances.items()}


def in_words(interval: Interval, digits: int, *, signed: bool = False) -> str:
    """`mean [low, high]`."""
    style = f"{'+' if signed else ''}.{digits}f"
    mean, low, high = (
        format(value, style).replace("-", "−") for value in (interval.mean, interval.low, interval.high)
    )
    return f"{mean} [{low}, {high}]"


def _numbers(interval: Interval) -> dict[str, float]:
    return {"mean": interval.mean, "low": interval.low, "high": interval.high, "seeds": interval.count}


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


MEASURES: Mapping[str, Callable[[Sequence[Tables]], Answer]] = {
    "orthogonal": orthogonal,
    "sharper": sharper,
    "grows": grows,
    "wider": wider,
}
"""The measures by the name used in a claim."""


CONFIDENCE = 0.95


@dataclass(frozen=True)
class Interval:
    """A mean and its t interval; the bounds are NaN if there is only one value.

    Attributes:
        mean: of the values.
        low, high: bounds of the interval.
        count: number of values.
    """

    mean: float
    low: float
    high: float
    count: int

    @property
    def is_positive(self) -> bool:
        """Whether the whole interval lies above 0."""
        return self.low > 0

    @property
    def is_negative(self) -> bool:
        """Whether the whole interval lies below 0."""
        return self.high < 0

    def scaled(self, factor: float) -> Interval:
        """The interval in other units; `factor` is positive."""
        return Interval(self.mean * factor, self.low * factor, self.high * factor, self.count)


def t_interval(values: Sequence[float], confidence: float = CONFIDENCE) -> Interval:
    """The mean of independent values, such as one difference per seed, with its t interval.

    Raises:
        ValueError: no values.
    """
    if not values:
        raise ValueError("an interval needs at least one value")
    count = len(values)
    mean = math.fsum(values) / count
    if count == 1:
        return Interval(mean, math.nan, math.nan, 1)
    variance = math.fsum((value - mean) ** 2 for value in values) / (count - 1)
    margin = t_quantile((1 + confidence) / 2, count - 1) * math.sqrt(variance / count)
    return Interval(mean, mean - margin, mean + margin, count)


def t_quantile(probability: float, degrees: int) -> float:
    """The quantile of Student's t distribution with `degrees` degrees of freedom at `probability`.

    Computed by bisection of ``t_probability``.

    Raises:
        ValueError: a probability outside (0, 1), or less than one degree of freedom.
    """
    if not 0 < probability < 1 or degrees < 1:
        raise ValueError(f"probability {probability}, degrees {degrees}: expected (0, 1) and at least 1")
    if probability < 0.5:
        return -t_quantile(1 - probability, degrees)
    low, high = 0.0, 1.0
    while t_probability(high, degrees) < probability:
        high *= 2
    for _ in range(200):
        middle = (low + high) / 2
        if middle in (low, high):
            break
        low, high = (middle, high) if t_probability(middle, degrees) < probability else (low, middle)
    return (low + high) / 2


def t_probability(value: float, degrees: int) -> float:
    """The cumulative distribution of Student's t with an integer number of degrees of freedom at `value`.

    For integer degrees it is a finite sum in the angle atan(t / √ν): Abramowitz and Stegun,
    Handbook of Mathematical Functions, 26.7.3 and 26.7.4.
    """
    angle = math.atan(abs(value) / math.sqrt(degrees))
    cosine, sine = math.cos(angle), math.sin(angle)
    odd = degrees % 2
    term = cosine if odd else 1.0
    total = term if degrees > 1 else 0.0
    for k in range(3 if odd else 2, degrees - 1, 2):
        term *= cosine**2 * (k - 1) / k
        total += term
    within = 2 / math.pi * (angle + sine * total) if odd else sine * total
    return 0.5 + math.copysign(within / 2, value)
