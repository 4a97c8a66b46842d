"""Pictures of a comparison: a forest plot of the differences, and the pairs behind them."""

from __future__ import annotations

import io
import re
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from nteleport.comparison.outcomes import Outcome
from nteleport.errors import ResultsError
from nteleport.jobs.atomic import replacing
from nteleport.plots.figures import DARK, PAGE, paper_style

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from nteleport.comparison.comparison import Comparison

__all__ = ["draw_forest", "draw_pairs", "write_pictures"]

_COLORS = {"better": DARK[0], "worse": DARK[1], "equivalent": DARK[2], "undecided": "#7A7A7A"}
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
_ROW = 0.2
"""Inches per line of the forest plot."""

_LETTERS = 58
"""The longest line of a name."""

_TITLE = 34
"""The longest line of a title."""

_PANEL, _ACROSS = 2.3, 3
"""Width in inches of a panel of pairs, and how many stand side by side."""


def draw_forest(comparison: Comparison, outcome: Outcome) -> Figure:
    """The mean difference of each arm with its 95 % t interval and the band of equivalence, cell by cell."""
    rows = comparison.rows[comparison.rows["outcome"] == outcome.name]
    lines = list(_lines(rows, comparison.by))
    with paper_style():
        height = 0.75 + _ROW * sum(text.count("\n") + 1 for text, _ in lines)
        figure = Figure(figsize=(PAGE, height), layout="constrained")
        axes = figure.subplots()
        place, places, texts = 0.0, [], []
        for text, row in lines:
            middle = place + text.count("\n") / 2
            places.append(middle)
            texts.append(text)
            if row is not None:
                _draw_interval(axes, middle, row, outcome)
            place += text.count("\n") + 1
        axes.set_ylim(place - 0.4, -0.6)
        axes.set_yticks(places, texts)
        axes.tick_params(axis="y", length=0)
        for label, (_, row) in zip(axes.get_yticklabels(), lines, strict=True):
            if row is None:
                label.set_fontweight("bold")
        axes.spines["left"].set_visible(False)
        axes.axvline(0, color="#222222", linewidth=0.7, zorder=1)
        axes.grid(axis="x")
        axes.set_xlabel(_difference_label(outcome))
        _color_legend(figure, rows, outcome)
    return figure


def _lines(rows: pd.DataFrame, by: Sequence[str]) -> Any:
    """A heading for each cell, then a line for each of its arms."""
    for values, arms in rows.groupby(list(by), sort=False) if by else [((), rows)]:
        if values:
            yield _wrapped(", ".join(map(str, values))), None
        for row in arms.to_dict("records"):
            yield _wrapped(f"{row['arm']}  (n = {row['n']})"), row


def _wrapped(text: str) -> str:
    return "\n".join(textwrap.wrap(_literal(text), _LETTERS, max_lines=3)) or "–"


def _literal(text: str) -> str:
    """Text that matplotlib shows as it is: a pair of dollars would be a formula."""
    return text.replace("$", r"\$")


def _draw_interval(axes: Axes, place: float, row: dict[str, Any], outcome: Outcome) -> None:
    band = _half_band(row, outcome)
    if band is not None:
        axes.fill_betweenx(
            [place - 0.42, place + 0.42], -band, band, color="#3F8A67", alpha=0.14, linewidth=0
        )
    if not np.isfinite(row["difference"]):
        return
    color = _COLORS[row["result"]]
    if np.isfinite(row["low"]):
        axes.plot(
            [row["low"], row["high"]], [place, place], color=color, linewidth=1.2, solid_capstyle="butt"
        )
    axes.plot(row["difference"], place, "o", color=color, markersize=4)


def _half_band(row: dict[str, Any], outcome: Outcome) -> float | None:
    if outcome.band is None:
        return None
    size = outcome.band.size * (abs(row["baseline"]) if outcome.band.relative else 1)
    return float(size) if np.isfinite(size) else None


def _difference_label(outcome: Outcome) -> str:
    better = "right" if outcome.larger_is_better else "left"
    name = _spoken(outcome)
    return f"difference in {name}, arm − baseline ({outcome.unit_of_differences}); better to the {better}"


def _spoken(outcome: Outcome) -> str:
    return outcome.name.replace("_", " ").replace(":", " ")


def _color_legend(figure: Figure, rows: pd.DataFrame, outcome: Outcome) -> None:
    present = [result for result in _COLORS if result in set(rows["result"])]
    handles: list[Any] = [
        Line2D([], [], color=_COLORS[result], marker="o", markersize=4, linewidth=1.2) for result in present
    ]
    if outcome.band is not None:
        handles.append(Line2D([], [], color="#3F8A67", alpha=0.25, linewidth=6))
        present.append(f"band of equivalence, ± {outcome.band}")
    figure.legend(handles, present, loc="outside upper center", ncols=len(present), frameon=False)


def draw_pairs(comparison: Comparison, outcome: Outcome) -> Figure:
    """Every pair: the arm over its baseline, a panel per cell; hollow where a time was cut off."""
    pairs = comparison.pairs[comparison.pairs["outcome"] == outcome.name]
    by = list(comparison.by)
    cells = list(pairs.groupby(by, sort=False)) if by else [((), pairs)]
    named = [word for word in by if pairs[word].nunique() > 1]
    arms = list(dict.fromkeys(pairs["arm"]))
    across = min(_ACROSS, max(len(cells), 1)) if len(cells) != 4 else 2
    down = -(-max(len(cells), 1) // across)
    with paper_style():
        figure = Figure(figsize=(_PANEL * across + 0.2, (_PANEL + 0.25) * down + 0.18 * len(arms)))
        figure.set_layout_engine("constrained")
        panels = figure.subplots(down, across, squeeze=False)
        for axes in panels.flat[len(cells) :]:
            axes.set_axis_off()
        for axes, (_, table) in zip(panels.flat, cells, strict=False):
            values = {word: str(table[word].iloc[0]) for word in named}
            title = ", ".join(f"{word} none" if each == "none" else each for word, each in values.items())
            axes.set_title("\n".join(textwrap.wrap(_literal(title), _TITLE, max_lines=3)), fontsize=7)
            _draw_cell(axes, table, arms)
        name = f"{_spoken(outcome)} ({outcome.unit})"
        figure.supxlabel(f"baseline: {_literal(name)}", fontsize=8)
        figure.supylabel(f"arm: {_literal(name)}", fontsize=8)
        handles = [_swatch(number) for number in range(len(arms))]
        texts = [_wrapped(arm) for arm in arms]
        if pairs[["censored", "baseline_censored"]].to_numpy(dtype=bool).any():
            handles.append(
                Line2D([], [], linestyle="none", marker="o", color="#7A7A7A", markerfacecolor="white")
            )
            texts.append("hollow: one of the two was cut off at the horizon")
        if handles:
            figure.legend(handles, texts, loc="outside upper center", ncols=1, frameon=False)
    return figure


def _swatch(number: int) -> Line2D:
    return Line2D([], [], linestyle="none", **_look(number), markerfacecolor=_look(number)["color"])


def _look(number: int) -> dict[str, Any]:
    return {"color": DARK[number % len(DARK)], "marker": _MARKERS[number % len(_MARKERS)], "markersize": 4}


def _draw_cell(axes: Axes, table: pd.DataFrame, arms: Sequence[str]) -> None:
    for number, arm in enumerate(arms):
        mine = table[table["arm"] == arm]
        cut = mine["censored"].astype(bool) | mine["baseline_censored"].astype(bool)
        for some, fill in ((mine[~cut], _look(number)["color"]), (mine[cut], "white")):
            axes.plot(
                some["baseline"], some["value"], linestyle="none", **_look(number), markerfacecolor=fill,
                markeredgewidth=0.8, alpha=0.85,
            )  # fmt: skip
    values = table[["baseline", "value"]].to_numpy(dtype=np.float64)
    if values.size:
        low, high = values.min(), values.max()
        room = 0.06 * (high - low) or 0.5
        ends = [low - room, high + room]
        axes.plot(ends, ends, color="#222222", linewidth=0.6, zorder=1)
        axes.set(xlim=ends, ylim=ends)
    axes.set_aspect("equal")
    axes.locator_params(nbins=5)
    axes.grid()


def write_pictures(comparison: Comparison, folder: Path) -> list[Path]:
    """Write a forest plot and the pairs of each outcome as PNG; returns the files.

    Raises:
        ResultsError: they cannot be written.
    """
    files = []
    for outcome in comparison.outcomes:
        name = re.sub(r"[^a-z0-9.]+", "-", outcome.name)
        for kind, draw in (("forest", draw_forest), ("pairs", draw_pairs)):
            picture = io.BytesIO()
            figure = draw(comparison, outcome)
            with paper_style():
                figure.savefig(picture, format="png", metadata={"Software": None})
            path = folder / f"compare-{name}-{kind}.png"
            try:
                folder.mkdir(parents=True, exist_ok=True)
                with replacing(path) as temporary:
                    temporary.write_bytes(picture.getvalue())
            except OSError as error:
                raise ResultsError(f"cannot write {path}: {error.strerror or error}") from error
            files.append(path)
    return files
