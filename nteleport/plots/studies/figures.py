"""Figures of one column of a paper, in the sizes and colours of `nteleport.plots.style`.

Draw within `paper_style()`; type then stays legible at the width of a column.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure

from nteleport.plots.style import COLUMN, DARK, LIGHT, PAGE, paper_style

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["COLUMN", "DARK", "LIGHT", "MARKERS", "PAGE", "column_figure", "paper_style"]

MARKERS = ("o", "s", "^", "D", "v", "P")
"""One for each of the colours."""


def column_figure(
    height: float, rows: int = 1, columns: int = 1, *, width: float = COLUMN, **options: Any
) -> tuple[Figure, NDArray[Any]]:
    """A figure and its axes, an array [rows, columns]; call it within `paper_style`.

    Args:
        height: in inches.
        rows, columns: of axes.
        width: in inches.
        options: of `Figure.subplots`, such as `sharex`.
    """
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, **options)
    return figure, np.asarray(axes)
