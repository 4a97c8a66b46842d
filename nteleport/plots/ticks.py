"""Ticks of a logarithmic axis that are readable over half a decade as well as over ten."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from matplotlib.ticker import FixedFormatter, FixedLocator, MaxNLocator, NullLocator

if TYPE_CHECKING:
    from matplotlib.axis import Axis

_FEWEST, _MOST = 3, 6


def round_numbers(low: float, high: float, most: int = _MOST) -> list[float]:
    """The numbers 1, 2, 5, 10, 20 … between two positive numbers, or powers of 10 if there would be too many.

    If there would be fewer than three, as between 21 and 90, they are evenly spaced instead.
    """
    inside = [factor * 10.0**power for power in range(-15, 16) for factor in (1, 2, 5)]
    inside = [each for each in inside if low <= each <= high]
    if len(inside) < _FEWEST:
        spaced = MaxNLocator(_FEWEST).tick_values(low, high)
        return [float(each) for each in spaced if low <= each <= high]
    if len(inside) <= most:
        return inside
    powers = [each for each in inside if f"{each:e}".startswith("1.")]
    return powers[:: -(-len(powers) // most)]


def logarithmic_ticks(axis: Axis, low: float, high: float) -> None:
    """Put ticks at round numbers, written in full."""
    ticks = round_numbers(low, high)
    axis.set_major_locator(FixedLocator(ticks))
    axis.set_major_formatter(FixedFormatter(tick_labels(ticks)))
    axis.set_minor_locator(NullLocator())


def tick_labels(ticks: Sequence[float]) -> list[str]:
    """Each number in its shortest form."""
    return [f"{tick:g}" if 1e-4 < tick < 1e5 else _scientific(tick) for tick in ticks]


def _scientific(number: float) -> str:
    factor, _, power = f"{number:e}".partition("e")
    times = "" if float(factor) == 1 else f"{float(factor):g}×"
    return f"${times}10^{{{int(power)}}}$"
