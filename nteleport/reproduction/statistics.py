"""Means with confidence intervals from a few paired seeds: Student's t, exact, without further packages."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Interval:
    """A mean and its t interval; the bounds are not numbers when there is one value only.

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
    """The mean of independent values, such as one difference for each seed, with its t interval.

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
    """The value that Student's t with `degrees` degrees of freedom stays below with `probability`.

    Bisection of :func:`t_probability`.

    Raises:
        ValueError: a probability outside (0, 1), or no degree of freedom.
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
    """The probability that Student's t with a whole number of degrees of freedom stays below `value`.

    For whole degrees the distribution is a finite sum in the angle atan(t / √ν): Abramowitz and Stegun,
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
