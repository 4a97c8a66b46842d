"""The pictures of the study `gradients`: differences against the range, and histograms of angles."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from nteleport.plots.figures import DARK, column_figure, legend_above, line_style, paper_style, subject_names

_BINS = 40

_LOWEST = 0.25
"""The axis is logarithmic: the band never extends below this fraction of the mean."""


def draw(tables: Mapping[str, pd.DataFrame]) -> dict[str, Figure]:
    """Both figures."""
    drawing = {"gradients": draw_differences, "gradients-angles": draw_angles}
    return {name: drawing[name](table) for name, table in tables.items()}


def draw_differences(table: pd.DataFrame) -> Figure:
    """Mean and standard deviation over teleportations and batches, one line per model and data set."""
    with paper_style():
        figure, axes = column_figure(2.1)
        panel = axes[0, 0]
        names = subject_names(table)
        for position, (name, rows) in enumerate(table.groupby(names, sort=False)):
            found = rows.groupby("cob_range")["difference"].agg(["mean", "std"])
            style = line_style(position)
            panel.plot(found.index, found["mean"], **style, ms=3, label=name)
            low = (found["mean"] - found["std"]).clip(lower=found["mean"] * _LOWEST)
            panel.fill_between(
                found.index, low, found["mean"] + found["std"], color=style["color"], alpha=0.2, lw=0
            )
        means = table.groupby([names, "cob_range"])["difference"].mean()
        if (means > 0).any():  # a network without any gradient has no differences
            panel.set_yscale("log")
            panel.set_ylim(means[means > 0].min() / 3)
        panel.set_xlabel("range of the change of basis")
        panel.set_ylabel("| ‖dW‖/‖W‖ − ‖dTW‖/‖TW‖ |")
        panel.grid(axis="y")
        legend_above(figure, panel)
    return figure


def draw_angles(table: pd.DataFrame) -> Figure:
    """One histogram per range, one row of panels per model and data set."""
    names = subject_names(table)
    shown = list(dict.fromkeys(names))
    ranges = sorted(set(table["cob_range"]))
    bins = list(np.linspace(0, max(90.0, float(table["angle"].max())), _BINS + 1))
    with paper_style():
        figure, axes = column_figure(0.75 + 1.1 * len(shown), len(shown), sharex=True)
        for panel, name in zip(axes[:, 0], shown, strict=True):
            for color, each in zip(DARK, ranges, strict=False):
                chosen = table.loc[(names == name) & (table["cob_range"] == each), "angle"]
                weights = np.full(len(chosen), 100 / len(chosen))
                panel.hist(
                    chosen, bins=bins, weights=weights, color=color, alpha=0.6, label=f"range {each:.2g}"
                )
            panel.text(0.99, 0.95, name, transform=panel.transAxes, ha="right", va="top")
            panel.set_ylabel("gradients (%)")
        axes[-1, 0].set_xlabel("angle between dW and dTW (degrees)")
        figure.legend(
            *axes[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=3, frameon=False
        )
    return figure
