"""The picture of the study `recover`: recovered against true entries, one panel per noise level."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator

from nteleport.plots.figures import DARK, column_figure, paper_style

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_COLUMNS = 3
_MOST_POINTS = 3000
"""Points per panel; with more entries, every n-th is drawn."""
_EXACT = 1e-16


def draw(tables: Mapping[str, pd.DataFrame]) -> dict[str, Figure]:
    """One figure. Without true entries it shows the recovered entries along the layers instead."""
    entries, distances = tables["recover"], tables["recover-distances"]
    known = bool(entries["true"].notna().all())
    return {"recover": _known(entries, distances) if known else _unknown(entries, distances)}


def _known(entries: pd.DataFrame, distances: pd.DataFrame) -> Figure:
    levels = list(dict.fromkeys(entries["noise"]))
    columns = min(_COLUMNS, len(levels) + 1)
    rows = -(-(len(levels) + 1) // columns)
    reach = 1.1 * float(entries["true"].abs().max())
    with paper_style():
        figure, axes = column_figure(0.35 + 1.15 * rows * _COLUMNS / columns, rows, columns)
        panels = list(axes.flat)
        for position, level in enumerate(levels):
            _scatter(panels[position], entries[entries["noise"] == level], reach, level)
            if position % columns == 0:
                panels[position].set_ylabel("recovered τ")
            if position // columns == rows - 1:
                panels[position].set_xlabel("true τ")
        _errors(panels[len(levels)], distances)
        for spare in panels[len(levels) + 1 :]:
            spare.set_axis_off()
    return figure


def _scatter(panel: Axes, entries: pd.DataFrame, reach: float, noise: float) -> None:
    shown = entries.iloc[:: max(1, len(entries) // _MOST_POINTS)]
    panel.plot([-reach, reach], [-reach, reach], color="#BBBBBB", lw=0.8, zorder=1)
    panel.scatter(
        shown["true"], shown["recovered"], s=2, color=DARK[0], alpha=0.5, lw=0, zorder=2, rasterized=True
    )
    panel.set(xlim=(-reach, reach), ylim=(-reach, reach), aspect="equal")
    panel.xaxis.set_major_locator(MaxNLocator(3, integer=True))
    panel.yaxis.set_major_locator(MaxNLocator(3, integer=True))
    panel.set_title(f"noise {noise:g}", fontsize=7.5, pad=2)


def _errors(panel: Axes, distances: pd.DataFrame) -> None:
    """Median relative error of an entry; exact entries are on the lower edge."""
    noise, error = distances["noise"], distances["median_error"].clip(lower=_EXACT)
    positions = np.arange(len(noise))
    panel.plot(positions, error, color=DARK[1], marker="o", ms=3, lw=1)
    panel.set_yscale("log")
    panel.set_ylim(_EXACT / 3, 10)
    panel.yaxis.set_major_locator(LogLocator(base=10, numticks=5))
    panel.set_xticks(positions, [f"{each:g}" for each in noise], fontsize=6, rotation=45)
    panel.set_xlabel("noise")
    panel.set_title("median error", fontsize=7.5, pad=2)
    panel.grid(axis="y")


def _unknown(entries: pd.DataFrame, distances: pd.DataFrame) -> Figure:
    layers = list(dict.fromkeys(entries["layer"]))
    with paper_style():
        figure, axes = column_figure(2.1)
        panel = axes[0, 0]
        panel.axhline(1, color="#BBBBBB", lw=0.8)
        panel.scatter(
            entries["entry"], entries["recovered"], s=2, color=DARK[0], lw=0, alpha=0.6, rasterized=True
        )
        for layer in layers[1:]:
            start = float(entries.loc[entries["layer"] == layer, "entry"].min())
            panel.axvline(start, color="#DDDDDD", lw=0.5)
        row = distances.iloc[0]
        panel.set_xlabel("entry of the change of basis, in order of execution")
        panel.set_ylabel("recovered τ")
        panel.set_title(f"distance to the target {row['before']:.3g} before, {row['after']:.3g} after")
    return figure
