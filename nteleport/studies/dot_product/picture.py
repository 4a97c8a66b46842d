"""The picture of the study `dot-product`: cosine and angle against the range."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd
from matplotlib.figure import Figure

from nteleport.plots.figures import column_figure, legend_above, line_style, paper_style, subject_names

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_LABELS = {"cosine": "cosine of W and T(W)", "angle": "angle (degrees)"}


def draw(table: pd.DataFrame) -> Figure:
    """Mean and standard deviation over teleportations, one line per model and data set."""
    with paper_style():
        figure, axes = column_figure(2.9, 2, sharex=True)
        for panel, (quantity, label) in zip(axes[:, 0], _LABELS.items(), strict=True):
            _lines(panel, table, quantity)
            panel.set_ylabel(label)
            panel.grid(axis="y")
        legend_above(figure, axes[0, 0])
        axes[1, 0].set_ylim(bottom=0)
        axes[1, 0].set_xlabel("range of the change of basis")
        figure.align_ylabels()
    return figure


def _lines(panel: Axes, table: pd.DataFrame, quantity: str) -> None:
    groups = table.groupby(subject_names(table), sort=False)
    for position, (name, rows) in enumerate(groups):
        found = rows.groupby("cob_range")[quantity].agg(["mean", "std"])
        panel.errorbar(
            found.index, found["mean"], found["std"].fillna(0), **line_style(position),
            ms=3, lw=1.1, capsize=1.5, label=str(name),
        )  # fmt: skip
