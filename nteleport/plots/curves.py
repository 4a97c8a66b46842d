"""Mean curves over the epochs, with a band of one standard deviation, or from the lowest run to the highest.

Where some runs of a group have no value (diverged or unfinished), the mean of the others could be mistaken
for the mean of all. There the line is thin and has no band.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from nteleport.plots.legend import figure_with_legend, legend_blocks, metric_axis
from nteleport.plots.panels import Panel
from nteleport.plots.style import GroupStyle, group_styles, paper_style
from nteleport.plots.tables import by_group

__all__ = ["draw_curves"]

_Values = npt.NDArray[np.float64]

_MARKS = 6
"""Approximate number of markers on a curve."""


def draw_curves(
    table: pd.DataFrame, panel: Panel, metric: str, *, legend: str | None = None, nats: bool = True
) -> Figure:
    """Draw a table made by `nteleport.plots.tables.curve_table`: one line per group, and the band it holds.

    `legend` is for `nteleport.plots.legend.figure_with_legend`, `nats` for `wording.metric_label`.
    """
    styles = group_styles(panel.groups)
    curves = by_group(table)
    counts = {position: rows["n"].tolist() for position, rows in curves.items()}
    with paper_style():
        blocks = legend_blocks(panel.groups, styles, counts, _swatch)
        partial = any(min(n) < max(n) for n in counts.values())
        figure, axes = figure_with_legend(panel.title, _note(table, partial=partial), blocks, place=legend)
        for position, rows in curves.items():
            _draw_curve(axes, rows, styles[position], position, len(panel.groups))
        _epoch_axis(axes, table["epoch"].unique())
        metric_axis(axes, metric, table["mean"].to_numpy(), nats=nats)
    return figure


def _note(table: pd.DataFrame, *, partial: bool) -> str:
    low, high = _band(table)
    band = " ± std" if "std" in table else ", band: min to max"
    parts = [
        f"mean{band}" if np.isfinite(high - low).any() else "mean",
        "thin: fewer runs" if partial else "",
    ]
    return ", ".join(part for part in parts if part)


def _band(rows: pd.DataFrame) -> tuple[_Values, _Values]:
    """The lower and the upper edge of the band at each epoch; NaN where there is none."""
    mean = rows["mean"].to_numpy(dtype=float)
    if "std" in rows:
        std = rows["std"].to_numpy(dtype=float)
        return mean - std, mean + std
    if "min" in rows:
        several = rows["n"].to_numpy() > 1
        low, high = (np.where(several, rows[name].to_numpy(dtype=float), np.nan) for name in ("min", "max"))
        return low, high
    return np.full_like(mean, np.nan), np.full_like(mean, np.nan)


def _epoch_axis(axes: Axes, epochs: npt.NDArray[np.int64]) -> None:
    axes.set_xlabel("epoch")
    axes.margins(x=0.01)
    if len(epochs) == 1:
        axes.set_xticks(epochs)
    else:
        axes.xaxis.set_major_locator(MaxNLocator(nbins=7, integer=True, steps=[1, 2, 5, 10]))


def _draw_curve(axes: Axes, rows: pd.DataFrame, style: GroupStyle, position: int, groups: int) -> None:
    epochs, mean = (rows[name].to_numpy(dtype=float) for name in ("epoch", "mean"))
    complete = rows["n"].to_numpy() == rows["n"].max()
    line: dict[str, Any] = {"color": style.color, "linestyle": style.dashes, "solid_capstyle": "round"}
    if not complete.all():
        axes.plot(epochs, mean, linewidth=0.5, zorder=2, **line)
    every = max(1, round(len(epochs) / _MARKS))
    axes.plot(
        epochs,
        np.where(complete, mean, np.nan),
        linewidth=1.2,
        marker=style.marker or ("o" if len(epochs) == 1 else ""),
        markersize=2.6,
        markevery=(int(position / groups * every), every),
        markeredgewidth=0,
        label=str(position),
        zorder=3 if style.dark else 2.5,
        **line,
    )
    low, high = _band(rows)
    band = complete & np.isfinite(high - low)
    axes.fill_between(epochs, low, high, where=band, color=style.color, alpha=0.18, linewidth=0)


def _swatch(style: GroupStyle) -> Line2D:
    return Line2D(
        [],
        [],
        color=style.color,
        linestyle=style.dashes,
        linewidth=1.6,
        marker=style.marker,
        markersize=3,
        markeredgewidth=0,
    )
