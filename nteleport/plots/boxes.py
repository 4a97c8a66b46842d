"""Box plots at a few epochs, all groups side by side (as in Figure 6 of the paper).

A box spans the quartiles, its line is the median, and its whiskers end at the furthest run within 1.5 box
heights. With few runs each is also drawn as a point: five runs are five numbers, and a reader may see them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from nteleport.plots.legend import figure_with_legend, legend_blocks, metric_axis
from nteleport.plots.panels import Group, Panel
from nteleport.plots.style import COLUMN, PAGE, GroupStyle, group_styles, paper_style
from nteleport.plots.tables import QUANTITIES, by_group

__all__ = ["draw_boxes"]

_Points = tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]

_BOX = 0.8
_CAP = 0.4
_BETWEEN_SETTINGS = 0.5
_BETWEEN_EPOCHS = 1.6
_MOST_IN_A_COLUMN = 24
"""With more boxes than this, the figure spans both columns of the page."""


def draw_boxes(
    table: pd.DataFrame,
    panel: Panel,
    metric: str,
    epochs: Sequence[int],
    *,
    legend: str | None = None,
    nats: bool = True,
) -> Figure:
    """Draw a table made by `nteleport.plots.tables.box_table`: one box per group at each epoch.

    `legend` is for `nteleport.plots.legend.figure_with_legend`, `nats` for `wording.metric_label`.
    """
    styles = group_styles(panel.groups)
    counts = {position: rows["n"].tolist() for position, rows in by_group(table).items()}
    offsets, span = _offsets(panel.groups)
    step = span + _BETWEEN_EPOCHS
    with paper_style():
        blocks = legend_blocks(panel.groups, styles, counts, _swatch)
        width = COLUMN if len(panel.groups) * len(epochs) <= _MOST_IN_A_COLUMN else PAGE
        figure, axes = figure_with_legend(panel.title, "", blocks, width=width, place=legend)
        for position, rows in by_group(table).items():
            places = [list(epochs).index(epoch) * step + offsets[position] for epoch in rows["epoch"]]
            _draw_group(axes, places, rows, styles[position])
        centers = np.arange(len(epochs)) * step
        axes.set_xticks(centers, [str(epoch) for epoch in epochs])
        axes.tick_params(axis="x", length=0)
        for between in centers[:-1] + step / 2:
            axes.axvline(between, color="#C8C8C8", linewidth=0.5, zorder=0)
        axes.set_xlim(-step / 2, centers[-1] + step / 2)
        axes.set_xlabel("epoch")
        metric_axis(axes, metric, table[list(QUANTITIES)].to_numpy(), nats=nats)
    return figure


def _offsets(groups: Sequence[Group]) -> tuple[list[float], float]:
    """The offset of each group from the center of an epoch, and the width of all groups together."""
    places: list[float] = []
    for position, group in enumerate(groups):
        step = 0.0 if position == 0 else 1.0
        if position and group.setting != groups[position - 1].setting and len(groups) > 2:
            step += _BETWEEN_SETTINGS
        places.append((places[-1] if places else 0.0) + step)
    middle = places[-1] / 2
    return [place - middle for place in places], places[-1] + 1


def _draw_group(axes: Axes, places: Sequence[float], rows: pd.DataFrame, style: GroupStyle) -> None:
    """Draw the boxes of one group, each kind of line as one artist: a figure has dozens of boxes.

    The outline is drawn over the median, so that a flat box still shows its color.
    """
    low, q1, median, q3, high = (rows[name].to_numpy() for name in QUANTITIES)
    left, middle, right = np.asarray(places) - _BOX / 2, np.asarray(places), np.asarray(places) + _BOX / 2
    corners = np.stack([[left, right, right, left], [q1, q1, q3, q3]], axis=-1).swapaxes(0, 1)
    line = {"color": style.color, "linewidth": 0.9, "solid_capstyle": "butt"}
    axes.add_collection(
        PolyCollection(
            list(corners), facecolor=style.color, edgecolor="white", linewidth=0, hatch=style.hatch
        )
    )
    axes.add_collection(
        PolyCollection(list(corners), facecolor="none", edgecolor=style.color, linewidth=0.9, zorder=3.2)
    )
    _segments(axes, (left, median), (right, median), **line | {"color": style.contrast, "zorder": 3.1})
    _segments(axes, (middle, low), (middle, q1), **line)
    _segments(axes, (middle, q3), (middle, high), **line)
    for end in (low, high):
        _segments(axes, (middle - _CAP / 2, end), (middle + _CAP / 2, end), **line)
    points = [
        (place, value) for place, values in zip(places, rows["points"], strict=True) for value in values
    ]
    axes.plot(
        [place for place, _ in points],
        [value for _, value in points],
        linestyle="none",
        marker="o",
        markersize=1.7,
        markerfacecolor="white",
        markeredgecolor="#222222",
        markeredgewidth=0.35,
        zorder=4,
    )


def _segments(axes: Axes, start: _Points, end: _Points, **line: Any) -> None:
    """Separate straight lines as one artist: a gap (NaN) follows each."""
    gap = np.full(len(start[0]), np.nan)
    x, y = (np.stack([first, last, gap], axis=1).ravel() for first, last in zip(start, end, strict=True))
    axes.plot(x, y, **line)


def _swatch(style: GroupStyle) -> Patch:
    return Patch(facecolor=style.color, edgecolor="white", linewidth=0, hatch=style.hatch)
