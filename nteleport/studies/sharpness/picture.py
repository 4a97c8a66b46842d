"""The picture of the study `sharpness`: bars of each layer, before and after teleporting."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from nteleport.plots.figures import (
    COLUMN,
    CURVATURE_NOTE,
    DARK,
    PAGE,
    column_figure,
    note_below,
    paper_style,
    subject_names,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_NAMES = {"plain": "before", "teleported": "after teleporting"}
_COLOURS = {"plain": DARK[5], "teleported": DARK[0]}
_LABELS = {
    "trace": "trace of H",
    "eigenvalue 1": "largest eigenvalue",
    "invariant trace": "Σ θ² H (invariant)",
}

_MOST_IN_A_COLUMN = 8
"""Layers; more take the whole page."""

_DECADES = 1.5
"""Positive values that span more are shown on a logarithmic axis."""


def draw(table: pd.DataFrame) -> Figure:
    """A row of panels for each quantity, a column for each model and data set.

    The axis is logarithmic where all values are positive and span more than a decade and a half. Bars of
    traces have their standard error, and a note says why teleporting changes one of them.
    """
    names = subject_names(table)
    shown = list(dict.fromkeys(names))
    quantities = [each for each in _LABELS if each in set(table["quantity"])]
    layers = max(table.loc[names == name, "layer"].nunique() for name in shown)
    width = COLUMN if len(shown) == 1 and layers <= _MOST_IN_A_COLUMN else PAGE
    with paper_style():
        figure, axes = column_figure(
            0.5 + 1.35 * len(quantities), len(quantities), len(shown), width=width, sharex="col"
        )
        for column, name in enumerate(shown):
            for row, quantity in enumerate(quantities):
                chosen = table[(names == name) & (table["quantity"] == quantity)]
                _bars(axes[row, column], chosen, legible=layers * len(shown) <= 2 * _MOST_IN_A_COLUMN)
            if len(shown) > 1:
                axes[0, column].set_title(name)
            axes[-1, column].set_xlabel("layer")
        for row, quantity in enumerate(quantities):
            axes[row, 0].set_ylabel(_LABELS[quantity])
        handles = axes[0, 0].get_legend_handles_labels()
        figure.legend(*handles, loc="outside upper center", ncols=2, frameon=False)
        figure.align_ylabels()
        if {"trace", "invariant trace"} <= set(quantities):
            note_below(figure, CURVATURE_NOTE)
    return figure


def _bars(panel: Axes, rows: pd.DataFrame, *, legible: bool) -> None:
    """Two bars for each layer; names of many layers stand upright."""
    layers = list(dict.fromkeys(rows["layer"]))
    values = rows["value"]
    logarithmic = bool((values > 0).all()) and values.max() > 10**_DECADES * values.min()
    if logarithmic:
        panel.set_yscale("log")
        panel.set_ylim(values.min() / 3, values.max() * 3)
    for position, (coordinates, name) in enumerate(_NAMES.items()):
        found = rows[rows["coordinates"] == coordinates].set_index("layer").reindex(layers)
        errors = found["standard_error"].fillna(0).to_numpy()
        below = np.minimum(errors, 0.9 * found["value"]) if logarithmic else errors
        panel.bar(
            np.arange(len(layers)) + 0.4 * (position - 0.5), found["value"], 0.4,
            yerr=np.stack([below, errors]) if errors.any() else None,
            color=_COLOURS[coordinates], label=name, error_kw={"elinewidth": 0.6, "ecolor": "#888888"},
        )  # fmt: skip
    if not logarithmic:
        panel.axhline(0, color="black", lw=0.5)
    panel.set_xticks(range(len(layers)), layers)
    panel.tick_params(axis="x", length=0)
    if not legible or max(map(len, layers)) > 10:
        panel.tick_params(axis="x", labelrotation=90, labelsize=6)
    panel.grid(axis="y")
