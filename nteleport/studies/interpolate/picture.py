"""The picture of the study `interpolate`: loss and accuracy along each line, on both splits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from nteleport.plots.figures import CURVATURE_NOTE, DARK, column_figure, note_below, paper_style
from nteleport.plots.ticks import logarithmic_ticks

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from numpy.typing import NDArray

_COLORS = {"train": DARK[0], "validation": DARK[1]}
_WORDS = {"train": "training", "validation": "validation"}
_HIGHEST = 1e3
"""Losses far beyond this are not informative; the axis ends there."""
_LOWEST = 1e-4


def draw(tables: Mapping[str, pd.DataFrame]) -> dict[str, Figure]:
    """One column of panels per line: the loss above, the accuracy below it, then both traces at the ends, if
    they were measured.
    """
    table = tables["interpolate"]
    lines = list(dict.fromkeys(table["line"]))
    low, high = _limits(table["loss"].to_numpy())
    with paper_style():
        ends = tables.get("interpolate-sharpness", pd.DataFrame())
        measured = "trace" in ends and bool(np.isfinite(ends["trace"]).any())
        rows = 3 if measured else 2
        figure, axes = column_figure(1.3 * rows, rows, len(lines), sharex="col", sharey="row")
        for column, line in enumerate(lines):
            shown = table[table["line"] == line]
            loss, accuracy = axes[0, column], axes[1, column]
            _curves(loss, shown, "loss", 1)
            _curves(accuracy, shown, "accuracy", 100)
            loss.set_yscale("log")
            loss.set_ylim(low / 1.5, high * 1.5)
            logarithmic_ticks(loss.yaxis, low, high)
            accuracy.set_ylim(0, 103)
            accuracy.set_yticks([0, 25, 50, 75, 100])
            loss.set_title(line)
            if measured:
                _traces(axes[2, column], ends[ends["line"] == line])
            _name_ends(axes[-1, column], *line.split(" to "))
        axes[0, 0].set_ylabel("loss (nats)")
        axes[1, 0].set_ylabel("accuracy (%)")
        if measured:
            axes[2, 0].set_ylabel("curvature")
            axes[2, 0].legend(loc="best", fontsize=6, handletextpad=0.2)
            note_below(figure, f"α\n{CURVATURE_NOTE}")
        else:
            figure.supxlabel("α", fontsize=8)
        handles = [Line2D([], [], color=_COLORS[split], label=_WORDS[split]) for split in _COLORS]
        figure.legend(handles=handles, loc="outside upper center", ncols=2, frameon=False)
    return {"interpolate": figure}


def _limits(losses: NDArray[Any]) -> tuple[float, float]:
    """The limits of the loss axis; losses beyond `_HIGHEST` count only if there are no others."""
    finite = losses[np.isfinite(losses)]
    shown = finite[finite < _HIGHEST] if (finite < _HIGHEST).any() else finite
    if len(shown) == 0:
        return 1.0, 10.0
    low = max(float(shown.min()), _LOWEST)
    return low, max(float(shown.max()), 2 * low)


def _curves(panel: Axes, table: pd.DataFrame, column: str, unit: float) -> None:
    numbers = table["teleportation"].nunique()
    for (split, _), points in table.groupby(["split", "teleportation"], sort=False):
        panel.plot(
            points["alpha"], points[column] * unit, color=_COLORS[str(split)], lw=1.1,
            alpha=1 if numbers == 1 else max(0.25, 1 / numbers),
        )  # fmt: skip
    for end in (0, 1):
        panel.axvline(end, color="#BBBBBB", lw=0.6, zorder=0)
    panel.grid(axis="y")


def _traces(panel: Axes, ends: pd.DataFrame) -> None:
    """Both traces of the Hessian at each end; negative estimates are left out of the logarithmic axis."""
    for column, name, marker in (("trace", "tr H", "o"), ("invariant_trace", "Σ θ²H", "D")):
        panel.plot(ends["end"], ends[column], marker, color=DARK[0], ms=3.5, label=name,
                   mfc="white" if marker == "D" else DARK[0])  # fmt: skip
    panel.set_yscale("log")
    panel.grid(axis="y")


def _name_ends(panel: Axes, first: str, second: str) -> None:
    panel.set_xticks([0, 1], [f"0\n{first}", f"1\n{second}"])
