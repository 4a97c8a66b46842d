"""The pictures of the study `landscape`: contours and a section along random directions, and a path."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullLocator

from nteleport.plots.figures import CURVATURE_NOTE, DARK, column_figure, note_below, paper_style
from nteleport.plots.ticks import logarithmic_ticks, round_numbers, tick_labels

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from numpy.typing import NDArray

_LEVELS = 13
_WIDEST = 1e4
"""The largest loss shown, as a multiple of the smallest."""


def draw(tables: Mapping[str, pd.DataFrame]) -> dict[str, Figure]:
    """One figure of each kind: `landscape`, `landscape-line` and, with training, `landscape-path`."""
    figures = {
        "landscape": _contours(tables["landscape"], None, tables.get("landscape-sharpness")),
        "landscape-line": _lines(tables["landscape-line"]),
    }
    if "landscape-path" in tables:
        figures["landscape-path"] = _contours(tables["landscape-path-surface"], tables["landscape-path"])
    return figures


def _lines(table: pd.DataFrame) -> Figure:
    with paper_style():
        figure, axes = column_figure(2.0, 1, 2)
        for color, (coordinates, points) in zip(DARK, table.groupby("coordinates", sort=False), strict=False):
            label = _name(str(coordinates))
            axes[0, 0].plot(points["x"], points["loss"], color=color, label=label)
            axes[0, 1].plot(points["x"], points["accuracy"] * 100, color=color)
        axes[0, 0].set_yscale("log")
        logarithmic_ticks(axes[0, 0].yaxis, *axes[0, 0].get_ylim())
        axes[0, 0].set_ylabel("training loss (nats)")
        axes[0, 1].set_ylabel("training accuracy (%)")
        axes[0, 1].set_ylim(0, 103)
        for panel in axes.flat:
            panel.grid(axis="y")
        figure.supxlabel("random direction (filter lengths)", fontsize=8)
        figure.legend(loc="outside upper center", ncols=2, frameon=False)
    return figure


def _contours(
    table: pd.DataFrame, path: pd.DataFrame | None, curvature: pd.DataFrame | None = None
) -> Figure:
    finite = table.loc[np.isfinite(table["loss"]) & (table["loss"] > 0), "loss"]
    highest = float(finite.max()) if len(finite) else 1.0
    low = max(float(finite.min()), highest / _WIDEST) if len(finite) else highest / _WIDEST
    norm = LogNorm(low, max(highest, low * 1.01))
    levels = np.geomspace(norm.vmin or low, norm.vmax or low, _LEVELS)
    with paper_style():
        figure, axes = column_figure(2.3, 1, 2)
        filled: Any = None
        for panel, (coordinates, points) in zip(
            axes.flat, table.groupby("coordinates", sort=False), strict=False
        ):
            filled = _surface(panel, points, levels, norm)
            if path is None:
                panel.set_title(_name(str(coordinates)))
                if np.ptp(points["x"]) == np.ptp(points["y"]):  # any other window fills its panel
                    panel.set_aspect("equal")
                panel.set_xlabel("direction 1 (filter lengths)", fontsize=7)
                panel.set_ylabel("direction 2 (filter lengths)" if panel is axes[0, 0] else "", fontsize=7)
            else:
                panel.set_title(f"{coordinates} weights")
                _path(panel, path[path["coordinates"] == coordinates])
        bar = figure.colorbar(filled, ax=list(axes.flat), location="bottom", shrink=0.8, aspect=30, pad=0.03)
        bar.set_label("training loss (nats)")
        ticks = round_numbers(levels[0], levels[-1])
        bar.set_ticks(ticks, labels=tick_labels(ticks))
        bar.ax.xaxis.set_minor_locator(NullLocator())
        if path is not None:
            figure.legend(
                *axes[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=4, frameon=False,
                columnspacing=1.2, handletextpad=0.4,
            )  # fmt: skip
        if curvature is not None:
            note_below(figure, f"{_traces(curvature)}\n{CURVATURE_NOTE}")
    return figure


def _traces(curvature: pd.DataFrame) -> str:
    """Both traces of the Hessian at the center of each surface, in a line."""
    values = curvature.set_index("coordinates")
    pairs = {"tr H": values["trace"], "Σ θ²H": values["invariant_trace"]}
    return "; ".join(
        f"{name} = {v['plain']:.3g} before, {v['teleported']:.3g} after" for name, v in pairs.items()
    )


def _surface(panel: Axes, points: pd.DataFrame, levels: NDArray[Any], norm: LogNorm) -> Any:
    table = points.pivot(index="y", columns="x", values="loss")
    losses = np.nan_to_num(table.to_numpy(), nan=levels[-1], posinf=levels[-1])
    losses = np.clip(losses, levels[0], levels[-1])
    filled = panel.contourf(table.columns, table.index, losses, levels=levels, norm=norm, cmap="viridis_r")
    panel.contour(table.columns, table.index, losses, levels=levels, colors="white", linewidths=0.25)
    panel.xaxis.set_major_locator(MaxNLocator(3))
    panel.yaxis.set_major_locator(MaxNLocator(4))
    return filled


def _path(panel: Axes, path: pd.DataFrame) -> None:
    teleported = path[path["teleported"]]
    panel.plot(path["x"], path["y"], color=DARK[1], marker="o", ms=2.2, lw=1, label="epochs")
    panel.plot(path["x"].iloc[:1], path["y"].iloc[:1], "s", color="white", mec=DARK[1], ms=4.5, label="start")
    panel.plot(
        path["x"].iloc[-1:],
        path["y"].iloc[-1:],
        "D",
        color="white",
        mec=DARK[1],
        ms=4.5,
        label="end",
        zorder=3,  # seen where a late teleportation lies at the same place
    )
    panel.plot(
        teleported["x"],
        teleported["y"],
        "*",
        color="white",
        mec="black",
        mew=0.6,
        ms=9,
        label="teleportation",
    )
    panel.set_xlabel(f"PC 1 ({path['share_x'].iloc[0]:.0%})")
    panel.set_ylabel(f"PC 2 ({path['share_y'].iloc[0]:.0%})")


def _name(coordinates: str) -> str:
    return {"plain": "before", "teleported": "after teleporting"}.get(coordinates, coordinates)
