"""The picture of the study `branches`: the tree of networks, colored by error, and the final errors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from matplotlib.cm import ScalarMappable
from matplotlib.collections import LineCollection
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullLocator

from nteleport.plots.figures import COLUMN, DARK, paper_style
from nteleport.plots.ticks import round_numbers, tick_labels

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_LEAF_HEIGHT = 0.16
_TALLEST = 9.0
_COLORS = "viridis"


def draw(tables: Mapping[str, pd.DataFrame]) -> dict[str, Figure]:
    """One figure: the tree on the left, the final error of each leaf on the right."""
    table, ends = tables["branches"], tables["branches-leaves"]
    errors = (1 - table["val_accuracy"].dropna()) * 100
    positive = errors[errors > 0]
    low = float(positive.min()) if len(positive) else 1.0
    norm = LogNorm(low, max(float(errors.max()), 2 * low))
    places = _places(table, ends)
    with paper_style():
        height = min(_TALLEST, 1.2 + _LEAF_HEIGHT * len(ends))
        figure = Figure(figsize=(COLUMN, height), layout="constrained")
        tree, final = figure.subplots(1, 2, width_ratios=[3, 1.2], sharey=True)
        _tree(tree, table, places, norm)
        _final(final, ends, places)
        bar = figure.colorbar(
            ScalarMappable(norm, _COLORS),
            ax=[tree, final],
            location="bottom",
            shrink=0.8,
            aspect=30,
            pad=0.03,
        )
        ticks = round_numbers(low, float(norm.vmax or low))
        bar.set_ticks(ticks, labels=tick_labels(ticks))
        bar.ax.xaxis.set_minor_locator(NullLocator())
        bar.set_label("validation error (%)")
    return {"branches": figure}


def _places(table: pd.DataFrame, ends: pd.DataFrame) -> dict[str, float]:
    """The height of each node: leaves in the order of the tree, others centered on their branches."""
    parents = dict(zip(table["node"], table["parent"], strict=True))
    leaves = [node for node in parents if node in set(ends["node"])]
    places = {node: float(position) for position, node in enumerate(leaves)}
    for node in reversed(list(parents)):  # branches come after their node
        if node not in places:
            below = [places[child] for child, parent in parents.items() if parent == node]
            places[node] = float(np.mean(below))
    return places


def _tree(panel: Axes, table: pd.DataFrame, places: Mapping[str, float], norm: LogNorm) -> None:
    segments: list[Any] = []
    colors: list[float] = []
    for node, rows in table.groupby("node", sort=False):
        y = places[str(node)]
        start, parent = int(rows["epoch"].iloc[0]), str(rows["parent"].iloc[0])
        if parent in places:
            panel.plot([start, start], [places[parent], y], color="#999999", lw=0.8, zorder=1)
            if str(node) != "no teleport":
                panel.plot([start], [y], marker="*", color="black", ms=4, zorder=3)
        segments += [[(epoch, y), (epoch + 1, y)] for epoch in rows["epoch"]]
        colors += [100 * (1 - accuracy) for accuracy in rows["val_accuracy"]]
    shown = np.clip(np.nan_to_num(colors, nan=100.0), norm.vmin, None)
    panel.add_collection(LineCollection(segments, array=shown, norm=norm, cmap=_COLORS, linewidths=3))
    panel.set_xlim(0, int(table["epoch"].max()) + 1)
    panel.set_ylim(max(places.values()) + 1.4, -0.7)
    panel.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    panel.yaxis.set_major_locator(NullLocator())
    panel.spines["left"].set_visible(False)
    panel.set_xlabel("epoch (★ teleportation)")
    baseline = places.get("no teleport")
    if baseline is not None:
        # Below its own line, which is the lowest: there may be no room above or before it.
        end = int(table["epoch"].max()) + 1
        panel.text(end, baseline + 0.3, "no teleport", fontsize=6.5, va="top", ha="right")


def _final(panel: Axes, ends: pd.DataFrame, places: Mapping[str, float]) -> None:
    known = ends.dropna(subset="val_accuracy")
    errors = (1 - known["val_accuracy"]) * 100
    heights = [places[node] for node in known["node"]]
    plain = (known["node"] == "no teleport").to_numpy()
    panel.scatter(errors[~plain], np.array(heights)[~plain], s=10, color=DARK[0], zorder=2)
    panel.scatter(errors[plain], np.array(heights)[plain], s=14, color=DARK[1], marker="D", zorder=2)
    for error in errors[plain]:
        panel.axvline(error, color=DARK[1], lw=0.8, zorder=1)
    panel.set_xlim(0, 1.1 * float(errors.max()) if len(errors) else 1.0)
    panel.xaxis.set_major_locator(MaxNLocator(3))
    panel.set_xlabel("at the end (%)")
    panel.spines["left"].set_visible(False)
    panel.tick_params(left=False)
    panel.grid(axis="x")
