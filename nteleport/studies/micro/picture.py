"""The picture of the study `micro`: histograms of angles, the claim above its three controls."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from nteleport.plots.figures import DARK, column_figure, paper_style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from numpy.typing import NDArray

_BINS = 41
_PANEL_HEIGHT = 0.95


def draw(table: pd.DataFrame) -> Figure:
    """Rows of panels are the pairs of vectors, columns the subjects, colors the batch sizes."""
    pairs = list(dict.fromkeys(table["pair"]))
    subjects = list(dict.fromkeys(zip(table["model"], table["dataset"], strict=True)))
    batch_sizes = list(dict.fromkeys(table["batch_size"]))
    reach = float((table["angle"] - 90).abs().max()) * 1.05 or 1.0
    bins = np.linspace(90 - reach, 90 + reach, _BINS + 1)
    with paper_style():
        figure, axes = column_figure(
            _PANEL_HEIGHT * len(pairs) + 0.5, len(pairs), len(subjects), sharex=True, sharey="row"
        )
        for column, (model, dataset) in enumerate(subjects):
            axes[0, column].set_title(f"{model}, {dataset}" if len({m for m, _ in subjects}) > 1 else dataset)
            for row, pair in enumerate(pairs):
                chosen = table[
                    (table["model"] == model) & (table["dataset"] == dataset) & (table["pair"] == pair)
                ]
                _panel(axes[row, column], chosen, batch_sizes, bins)
                axes[row, column].yaxis.set_major_locator(MaxNLocator(2, integer=True))
                if column == 0:
                    axes[row, column].set_ylabel(_broken(pair), fontsize=6.5)
        figure.supxlabel("angle (degrees)", fontsize=8)
        figure.supylabel("number of angles between", fontsize=8)
        if len(batch_sizes) > 1:
            handles = axes[0, 0].get_legend_handles_labels()
            figure.legend(*handles, loc="outside upper center", ncols=len(batch_sizes), frameon=False)
    return figure


def _panel(axes: Axes, table: pd.DataFrame, batch_sizes: list[int], bins: NDArray[Any]) -> None:
    for color, batch_size in zip(DARK, batch_sizes, strict=False):
        chosen = table.loc[table["batch_size"] == batch_size, "angle"]
        axes.hist(
            chosen,
            bins=list(bins),
            histtype="stepfilled",
            color=color,
            alpha=0.55,
            label=f"batch of {batch_size}",
        )
    angles = table["angle"]
    spread = f"\n± {angles.std():.2g}" if len(angles) > 1 else ""
    axes.text(
        0.98, 0.93, f"{angles.mean():.2f}{spread}", transform=axes.transAxes, ha="right",
        va="top", fontsize=6.5,
    )  # fmt: skip
    axes.set_xlim(bins[0], bins[-1])


def _broken(pair: str) -> str:
    """The name of a pair on two short lines."""
    return pair.replace(", ", ",\n").replace("two ", "two\n")
