"""The pictures of the study `activations`: spread of every neuron, and feature maps."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from nteleport.plots.figures import DARK, column_figure, paper_style, subject_names

_SIDES = (("before", DARK[5], -0.2, "before"), ("after", DARK[0], 0.2, "after teleporting"))

_MOST_LAYERS = 4
"""Layers whose feature maps are shown: the first ones."""


def draw(tables: Mapping[str, pd.DataFrame]) -> dict[str, Figure]:
    """The spread of each neuron before and after; and feature maps, where there are convolutions."""
    figures = {"activations": _spreads(tables["activations"])}
    if len(tables["activations-maps"]):
        figures["activations-maps"] = _maps(tables["activations-maps"])
    return figures


def _spreads(table: pd.DataFrame) -> Figure:
    names = subject_names(table)
    with paper_style():
        figure, axes = column_figure(2.2 * names.nunique() + 0.4, names.nunique(), sharex=False)
        for panel, (name, rows) in zip(axes[:, 0], table.groupby(names, sort=False), strict=True):
            layers = list(dict.fromkeys(rows["layer"]))
            place = rows["layer"].map({layer: number for number, layer in enumerate(layers)})
            for which, color, side, label in _SIDES:
                spread = rows[f"std_{which}"].where(rows["std_before"] > 0)  # a dead neuron has none
                panel.plot(place + side + _within(rows), spread, ".", ms=1.5, color=color, label=label)
            panel.set_yscale("log")
            panel.set_ylabel("std of a neuron")
            panel.set_xticks(range(len(layers)), layers, rotation=90 if len(layers) > 8 else 0)
            if names.nunique() > 1:
                panel.set_title(str(name), loc="left")
        axes[-1, 0].set_xlabel("layer")
        handles = axes[0, 0].get_legend_handles_labels()
        figure.legend(*handles, loc="outside upper center", ncols=2, frameon=False, markerscale=4)
    return figure


def _within(rows: pd.DataFrame) -> pd.Series[float]:
    """Where a neuron stands beside the others of its layer."""
    size = rows.groupby("layer")["neuron"].transform("max").clip(lower=1)
    return 0.3 * rows["neuron"] / size - 0.15


def _maps(table: pd.DataFrame) -> Figure:
    first = table[(table["model"] == table["model"].iloc[0]) & (table["dataset"] == table["dataset"].iloc[0])]
    layers = list(dict.fromkeys(first["layer"]))[:_MOST_LAYERS]
    neurons = sorted(set(first["neuron"]))
    with paper_style():
        figure, axes = column_figure(0.95 * 2 * len(layers) + 0.3, 2 * len(layers), len(neurons))
        for number, layer in enumerate(layers):
            for column, neuron in enumerate(neurons):
                rows = first[(first["layer"] == layer) & (first["neuron"] == neuron)]
                for offset, which in enumerate(("before", "after")):
                    panel = axes[2 * number + offset, column]
                    _one_map(panel, rows, which)
                    if column == 0:
                        panel.set_ylabel(f"{layer}\n{which}", fontsize=5)
    return figure


def _one_map(panel, rows: pd.DataFrame, which: str) -> None:  # type: ignore[no-untyped-def]
    panel.set_xticks([])
    panel.set_yticks([])
    if rows.empty:
        return
    image = rows.pivot(index="row", columns="column", values=which).to_numpy()
    reach = float(np.abs(image).max()) or 1.0
    panel.imshow(image, cmap="RdBu_r", vmin=-reach, vmax=reach)
    panel.set_title(f"neuron {rows['neuron'].iloc[0]}, ± {reach:.2g}", fontsize=6, pad=2)
