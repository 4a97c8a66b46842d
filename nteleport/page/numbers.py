"""Numbers for charts, rounded, and numbers for people, as text."""

from __future__ import annotations

import math
from collections.abc import Iterable

from nteleport.jobs.state import duration
from nteleport.page.parts import Kind, Value

_DIGITS = 4
"""Significant digits of a number in a chart: finer than a pixel."""


def rounded(value: float) -> float | int | None:
    """The value with four significant digits, None if it is not finite: for JSON, which has no NaN."""
    if not math.isfinite(value):
        return None
    short = float(f"{value:.{_DIGITS}g}")
    return int(short) if short.is_integer() and abs(short) < 1e15 else short


def all_rounded(values: Iterable[float]) -> list[float | int | None]:
    """Each of the values, `rounded`."""
    return [rounded(value) for value in values]


def in_words(value: Value, kind: Kind) -> str:
    """A value of a table as text; "" where there is none, or a number that is not finite."""
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return ""
    if isinstance(value, (str, bool)):
        return str(value)
    if kind == "percent":
        return f"{100 * value:.2f}"
    if kind == "seconds":
        return f"{value:.2g} s" if value < 10 else duration(value)
    return str(value) if isinstance(value, int) else f"{value:.4g}"


def counted(number: int, thing: str) -> str:
    """`1 job`, `2 jobs`."""
    return f"{number:,} {thing}{'' if number == 1 else 's'}"
