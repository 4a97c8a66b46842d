"""The picture of the study `weights`: densities before, after and redrawn, with a zoom."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from nteleport.plots.figures import COLUMN, DARK, PAGE, column_figure, paper_style, subject_names

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MOST_IN_A_COLUMN, _PAGE_COLUMNS = 6, 3
"""With more panels than this, the figure spans the whole page; text keeps its size."""

_PANEL_HEIGHT = 1.35
_SHARE = {"alone": 0.58, "among others": 0.53}
"""Fraction of a panel's height for the logarithmic density; smaller panels need more room for inset ticks."""

_INSET = (0.56, 0.66, 0.44, 0.33)

_NAMES = {"before": "before", "after": "after teleporting", "same_distr": "redrawn (same_distr)"}
_COLORS = {"before": DARK[5], "after": DARK[0], "same_distr": DARK[1]}
_DASHES = {"before": "-", "after": "-", "same_distr": (0, (3, 1.5))}


def draw(table: pd.DataFrame) -> Figure:
    """One panel per subject and layer; the density is logarithmic, linear in the inset."""
    names = subject_names(table)
    single = names.nunique() == 1
    layers = table["layer"] if single else names + ", " + table["layer"]
    if table["layer"].nunique() == 1:
        layers = names
    shown = list(dict.fromkeys(layers))
    columns = 1 if len(shown) <= _MOST_IN_A_COLUMN else _PAGE_COLUMNS
    rows = -(-len(shown) // columns)
    with paper_style():
        height = 2.7 if len(shown) == 1 else _PANEL_HEIGHT * rows + 0.6
        figure, axes = column_figure(height, rows, columns, width=COLUMN if columns == 1 else PAGE)
        for panel, name in zip(axes.flat, shown, strict=False):
            _panel(panel, table[layers == name], _SHARE["alone" if len(shown) == 1 else "among others"])
            if len(shown) > 1:
                panel.set_title(_titled(name), loc="left")
        for panel in axes.flat[len(shown) :]:
            panel.set_axis_off()
        figure.supxlabel("weight", fontsize=8)
        figure.supylabel("density (logarithmic; inset linear)", fontsize=8)
        handles = axes[0, 0].get_legend_handles_labels()
        figure.legend(*handles, loc="outside upper center", ncols=3, frameon=False)
    return figure


def _panel(panel: Axes, table: pd.DataFrame, share: float) -> None:
    """The logarithmic density takes the lower part of the panel, the inset is above its right tail."""
    whole, zoom = (table[table["view"] == view] for view in ("whole", "zoom"))
    _curves(panel, whole)
    panel.set_yscale("log")
    low = whole.loc[whole["density"] > 0, "density"].min() / 1.5
    top = whole["ylim_max"].iloc[0] if "ylim_max" in whole else whole["density"].max()
    panel.set_ylim(low, low * (max(top, 2 * low) / low) ** (1 / share))
    panel.axvspan(zoom["left"].min(), zoom["right"].max(), color="#EEEEEE", lw=0, zorder=0)
    inset = panel.inset_axes(_INSET)
    _curves(inset, zoom)
    inset.set_facecolor("#EEEEEE")
    inset.set_ylim(bottom=0)
    inset.tick_params(labelsize=6, pad=1.5, length=2)
    inset.xaxis.set_major_locator(MaxNLocator(3, symmetric=True))
    inset.yaxis.set_major_locator(MaxNLocator(2))


def _curves(panel: Axes, table: pd.DataFrame) -> None:
    for which, rows in table.groupby("weights", sort=False):
        key = str(which)
        edges = np.append(rows["left"].to_numpy(), rows["right"].iloc[-1])
        density = rows["density"].where(rows["density"] > 0).to_numpy()
        panel.stairs(
            density, edges, baseline=None, color=_COLORS[key], ls=_DASHES[key], lw=0.9, label=_NAMES[key]
        )
    panel.set_xlim(table["left"].min(), table["right"].max())


def _titled(layer: str) -> str:
    """Prefix "layer" to layers that only have a number."""
    return f"layer {layer}" if layer.isdecimal() else layer
