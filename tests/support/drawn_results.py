"""Figures of synthetic results, and what was written for them: shared by the tests of pictures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from nteleport.jobs.job import Job
from nteleport.jobs.table import Results, read_results
from nteleport.plots import tables
from nteleport.plots.boxes import draw_boxes
from nteleport.plots.curves import draw_curves
from nteleport.plots.grouping import arrange
from nteleport.plots.panels import Panel
from support.synthetic_results import (
    learning_curve,
    matrix,
)

EPOCHS = 10
PAIR = matrix(runs=5, epochs=EPOCHS)


def read_panel(out: Path, group_by: str = "teleport,optimizer") -> tuple[Results, Panel]:
    results = read_results(out)
    (panel,) = arrange(results, group_by.split(","))
    return results, panel


def curves(
    out: Path,
    metric: str = "val_accuracy",
    group_by: str = "teleport,optimizer",
    band: str = "std",
    legend: str | None = None,
) -> Figure:
    results, panel = read_panel(out, group_by)
    table = tables.curve_table(tables.panel_values(results, panel, metric), band)
    return draw_curves(table, panel, metric, legend=legend)


def boxes(
    out: Path, epochs: Sequence[int], metric: str = "val_accuracy", legend: str | None = None
) -> Figure:
    results, panel = read_panel(out)
    table = tables.box_table(tables.panel_values(results, panel, metric), epochs)
    return draw_boxes(table, panel, metric, epochs, legend=legend)


def written(jobs: Sequence[Job], mode: str, metric: str = "val_accuracy") -> np.ndarray:
    """What was written for the jobs of one mode: runs × epochs."""
    chosen = [job for job in jobs if job.teleportation.mode == mode]
    return np.array([[row[metric] for row in learning_curve(job, job.training.epochs)] for job in chosen])


def lines_of(figure: Figure, group: int) -> np.ndarray:
    """The thick line of a group: epochs and means."""
    (line,) = [line for line in figure.axes[0].lines if line.get_label() == str(group)]
    return np.array([line.get_xdata(), line.get_ydata()], dtype=float)


def legend_texts(figure: Figure) -> list[str]:
    return [text.get_text() for legend in figure.legends for text in legend.get_texts()]
