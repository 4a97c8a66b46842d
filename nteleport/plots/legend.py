"""The figure around the data: axes of fixed size, a title, and below them a legend that never covers them.
On request the legend is inside the axes instead, at one of matplotlib's places.

Sizes are in inches, so that the axes of several pictures line up side by side in a paper. The figure grows
downward with its legend. If the groups are all combinations of settings and kinds, the legend has two blocks:
the first explains light and dark, the second has one line per setting.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.legend import Legend
from matplotlib.legend_handler import HandlerTuple
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from nteleport.plots.panels import Group
from nteleport.plots.style import COLUMN, DARK, LIGHT, GroupStyle
from nteleport.plots.wording import metric_label

__all__ = ["PLACES", "LegendEntry", "figure_with_legend", "legend_blocks", "metric_axis"]

PLACES: tuple[str, ...] = tuple(Legend.codes)
"""Places of a legend inside its axes, as matplotlib calls them: "best", "upper right", …"""

_LEFT, _RIGHT, _TOP, _BOTTOM = 0.55, 0.08, 0.24, 0.38
_HEIGHT = 1.9
_GAP = 0.07
_WIDE_SPAN = 100.0
"""An axis that may be logarithmic is, if its largest value exceeds this multiple of the smallest."""


@dataclass(frozen=True)
class LegendEntry:
    """One line of a legend: swatches side by side, and their meaning."""

    swatches: tuple[Artist, ...]
    text: str


def legend_blocks(
    groups: Sequence[Group],
    styles: Sequence[GroupStyle],
    counts: Mapping[int, Sequence[int]],
    swatch: Callable[[GroupStyle], Artist],
) -> list[list[LegendEntry]]:
    """The legend of `groups`, with the number of runs of each.

    `counts` maps the position of a group to its numbers of runs at the epochs shown; `swatch` draws a sample.
    """
    runs = [_runs(counts.get(position, ()), group.expected) for position, group in enumerate(groups)]
    settings = list(dict.fromkeys(group.setting for group in groups))
    kinds = list(dict.fromkeys(group.kind for group in groups))
    if len(settings) == 1 or len(kinds) == 1:
        return [
            [
                LegendEntry((swatch(style),), f"{group.label} ({count})")
                for group, style, count in zip(groups, styles, runs, strict=True)
            ]
        ]
    of_kind = {kind: {runs[i] for i, group in enumerate(groups) if group.kind == kind} for kind in kinds}
    common = all(len(numbers) == 1 for numbers in of_kind.values())
    first = [
        LegendEntry(
            (swatch(_neutral(groups, styles, kind)),), f"{kind} ({min(of_kind[kind])})" if common else kind
        )
        for kind in kinds
    ]
    second = []
    for setting in settings:
        members = [position for position, group in enumerate(groups) if group.setting == setting]
        numbers = list(dict.fromkeys(runs[position] for position in members))
        numbers = numbers if len(numbers) == 1 else [runs[position] for position in members]
        text = setting if common else f"{setting} ({'; '.join(numbers)})"
        second.append(LegendEntry(tuple(swatch(styles[position]) for position in members), text))
    return [first, second]


def figure_with_legend(
    title: str,
    note: str,
    blocks: Sequence[Sequence[LegendEntry]],
    *,
    width: float = COLUMN,
    place: str | None = None,
) -> tuple[Figure, Axes]:
    """A figure `width` inches wide with empty axes; above them `title` (left) and `note` (right).

    The legend is below the axes, or with `place`, one of `PLACES`, inside them; axes too low for it grow.
    """
    figure = Figure(figsize=(width, 3.0))
    FigureCanvasAgg(figure)
    if place is None:
        axes = _axes_over_legends(figure, blocks)
    else:
        axes = _axes_around_legend(figure, [entry for block in blocks for entry in block], place)
    total = figure.get_figheight()
    above = 1 - 0.5 * _TOP / total
    figure.text(_LEFT / width, above, title, ha="left", va="center", fontsize=8)
    figure.text(1 - _RIGHT / width, above, note, ha="right", va="center", fontsize=7, color="#555555")
    return figure, axes


def _axes_over_legends(figure: Figure, blocks: Sequence[Sequence[LegendEntry]]) -> Axes:
    width = figure.get_figwidth()
    legends = [_fitting_legend(figure, block, width - 0.1) for block in blocks if block]
    heights = [_extent(figure, legend)[1] for legend in legends]
    below = _BOTTOM + sum(_GAP + height for height in heights) + 0.05
    axes = _sized_axes(figure, _HEIGHT, below)
    top = below - _BOTTOM
    for legend, height in zip(legends, heights, strict=True):
        legend.set_bbox_to_anchor((width / 2, top - _GAP), transform=figure.dpi_scale_trans)
        top -= _GAP + height
    return axes


def _axes_around_legend(figure: Figure, entries: Sequence[LegendEntry], place: str) -> Axes:
    """Axes with the legend inside; they are higher than usual if it needs that."""
    room = figure.get_figwidth() - _LEFT - _RIGHT - 4 * _GAP
    trial = _legend(figure, entries, 1)
    width = _extent(figure, trial)[0]
    trial.remove()
    if width > room:
        entries = _wrapped(entries, (room - 0.4) / width)
    trial = _legend(figure, entries, 1)
    height = _extent(figure, trial)[1]
    trial.remove()
    axes = _sized_axes(figure, max(_HEIGHT, height + 4 * _GAP), _BOTTOM + 0.05)
    legend = _legend(axes, entries, 1, loc=place, frameon=True, borderpad=0.4, borderaxespad=0.5)
    legend.set_zorder(5)
    return axes


def _sized_axes(figure: Figure, height: float, below: float) -> Axes:
    """Axes `height` inches high, `below` inches over the lower edge of the figure, which fits them."""
    width, total = figure.get_figwidth(), _TOP + height + below
    figure.set_size_inches(width, total)
    return figure.add_axes((_LEFT / width, below / total, (width - _LEFT - _RIGHT) / width, height / total))


def metric_axis(axes: Axes, metric: str, values: npt.NDArray[np.float64], *, nats: bool = True) -> None:
    """Label and scale the y axis for `metric`: fractions in percent, wide ranges logarithmic."""
    label = metric_label(metric, nats=nats)
    axes.set_ylabel(label.text)
    axes.grid(axis="y")
    if label.percent:
        axes.yaxis.set_major_formatter(FuncFormatter(_percent))
    if label.may_be_logarithmic and values.min() > 0 and values.max() > _WIDE_SPAN * values.min():
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(numticks=7))
        axes.yaxis.set_major_formatter(FuncFormatter(_plain))
        axes.yaxis.set_minor_formatter(NullFormatter())


def _percent(fraction: float, _: object) -> str:
    return f"{round(100 * fraction, 6):g}"


def _plain(value: float, _: object) -> str:
    return f"{value:g}"


def _runs(counts: Sequence[int], expected: int) -> str:
    """The number of runs: "n = 5", "n = 4 of 5", or "n = 3–5" if it changes with the epoch."""
    if len(counts) == 0:
        return f"n = 0 of {expected}"
    low, high = min(counts), max(counts)
    number = f"{high}" if low == high else f"{low}–{high}"
    return f"n = {number}" if high >= expected else f"n = {number} of {expected}"


def _neutral(groups: Sequence[Group], styles: Sequence[GroupStyle], kind: str) -> GroupStyle:
    """The style that all groups of a kind share, without the hue of a setting."""
    style = next(style for group, style in zip(groups, styles, strict=True) if group.kind == kind)
    return GroupStyle(DARK[-1] if style.dark else LIGHT[-1], style.dashes, style.hatch, "", style.dark)


def _fitting_legend(figure: Figure, entries: Sequence[LegendEntry], width: float) -> Legend:
    """The legend with as many columns as fit `width` inches; if not even one fits, lines are wrapped."""
    for columns in range(min(len(entries), 4), 0, -1):
        legend = _legend(figure, entries, columns)
        got = _extent(figure, legend)[0]
        if got <= width:
            return legend
        legend.remove()
    return _legend(figure, _wrapped(entries, (width - 0.4) / got), 1)


def _wrapped(entries: Sequence[LegendEntry], share: float) -> list[LegendEntry]:
    """The entries with lines of at most this share of the longest text."""
    characters = max(1, int(max(len(entry.text) for entry in entries) * share))
    return [LegendEntry(entry.swatches, textwrap.fill(entry.text, characters)) for entry in entries]


def _legend(parent: Figure | Axes, entries: Sequence[LegendEntry], columns: int, **options: Any) -> Legend:
    widest = max(len(entry.swatches) for entry in entries)
    swatches: Any = [entry.swatches for entry in entries]
    placed: dict[str, Any] = {
        "loc": "upper center",
        "frameon": False,
        "borderpad": 0,
        "borderaxespad": 0,
    } | options
    legend: Legend = parent.legend(
        swatches,
        [entry.text for entry in entries],
        handler_map={tuple: HandlerTuple(ndivide=None, pad=0.3)},
        ncols=columns,
        **placed,
        labelspacing=0.35,
        columnspacing=1.4,
        handlelength=1.5 + 1.3 * (widest - 1),
        handletextpad=0.6,
    )
    return legend


def _extent(figure: Figure, legend: Legend) -> tuple[float, float]:
    """Width and height of a legend in inches."""
    canvas: Any = figure.canvas
    box = legend.get_window_extent(canvas.get_renderer())
    return box.width / figure.dpi, box.height / figure.dpi
