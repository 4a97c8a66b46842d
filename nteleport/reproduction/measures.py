"""What the tables of studies say about a claim: for each measure a statistic of a seed, and how it is judged.

The rules are fixed here, before anything is run: a claim holds when the t interval over the seeds lies
wholly on the side that is asked for.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from nteleport.reproduction.statistics import Interval, t_interval

Tables = Mapping[str, pd.DataFrame]
"""The tables of one run of a study, by name."""

MUCH_NEARER = 0.1
"""Angles that are this many times as far from 90° as those of random vectors count as orthogonal."""

MONOTONE = 0.9
"""The least rank correlation that counts as growing."""


@dataclass(frozen=True)
class Answer:
    """What was measured, in words and numbers, and whether the claim holds."""

    text: str
    holds: bool
    numbers: Mapping[str, float]


def orthogonal(seeds: Sequence[Tables]) -> Answer:
    """`micro`: how far from 90° a micro-teleportation is, over how far random vectors are."""
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
    """`interpolate`: how much more the loss rises next to teleported minima than next to plain ones."""
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
    """`gradients`: the rank correlation of range and mean difference, of the model where it is lowest."""
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
    """`weights`: the standard deviation of the weights after over before."""
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
"""By the name that a claim gives."""
