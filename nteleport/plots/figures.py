"""Single-column figures for a paper, in the sizes and colors of `nteleport.plots.style`.

Draw within `paper_style()`; text then stays legible at column width.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from nteleport.plots.style import COLUMN, DARK, LIGHT, PAGE, paper_style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from numpy.typing import NDArray

__all__ = [
    "COLUMN", "CURVATURE_NOTE", "DARK", "PAGE", "column_figure", "legend_above", "line_style", "note_below",
    "paper_style",
]  # fmt: skip

CURVATURE_NOTE = (
    "Rescaling divides Hᵢᵢ by sᵢ², so tr H changes by construction;\nΣ θ²H cannot, since θᵢ² grows by sᵢ²."
)
"""What a reader must know who compares traces before and after teleporting."""

_MARKERS = ("o", "s", "^", "D", "v", "P")
"""One for each color."""

_LEGEND_ROW = 0.15
"""Inches."""

_WIDE, _NARROW = 22, 10
"""Letters of a name: above the larger number a name needs its own row, up to the smaller three fit in one."""


def line_style(position: int) -> dict[str, Any]:
    """Color and marker of the n-th line of a panel: twelve distinct styles."""
    colors = (*DARK, *LIGHT)
    return {"color": colors[position % len(colors)], "marker": _MARKERS[position % len(_MARKERS)]}


def legend_above(figure: Figure, panel: Axes) -> None:
    """Put the legend of a panel above the figure, where it covers no data; the figure grows accordingly."""
    handles, names = panel.get_legend_handles_labels()
    longest = max(map(len, names))
    columns = 1 if longest > _WIDE else 3 if longest <= _NARROW else 2
    figure.set_figheight(figure.get_figheight() + _LEGEND_ROW * -(-len(names) // columns))
    figure.legend(handles, names, loc="outside upper center", ncols=columns, frameon=False)


def note_below(figure: Figure, note: str) -> None:
    """Put a note in small letters under everything else; the figure grows accordingly."""
    lines = 1 + note.count("\n")
    figure.set_figheight(figure.get_figheight() + 0.11 * lines)
    figure.supxlabel(note, fontsize=6, color="#555555")


def column_figure(
    height: float, rows: int = 1, columns: int = 1, *, width: float = COLUMN, **options: Any
) -> tuple[Figure, NDArray[Any]]:
    """A figure and its axes, an array [rows, columns]; call it within `paper_style`.

    Args:
        height: in inches.
        rows, columns: the numbers of rows and columns of axes.
        width: in inches.
        options: for `Figure.subplots`, such as `sharex`.
    """
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, **options)
    return figure, np.asarray(axes)


def subject_names(table: pd.DataFrame) -> pd.Series[str]:
    """The model of each row, with its data set if there are several."""
    if table["dataset"].nunique() == 1:
        return table["model"].rename("subject")
    return (table["model"] + ", " + table["dataset"]).rename("subject")
