"""All pictures of a folder of results, each with its numbers beside it."""

from __future__ import annotations

import io
import re
from collections.abc import Container, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from nteleport.errors import ResultsError, nearest
from nteleport.jobs.atomic import replacing
from nteleport.jobs.published import our_name
from nteleport.jobs.table import Results, read_results
from nteleport.jobs.tuning import read_tuning, tuning_table
from nteleport.plots import tables
from nteleport.plots.boxes import draw_boxes
from nteleport.plots.curves import draw_curves
from nteleport.plots.grouping import arrange
from nteleport.plots.legend import PLACES
from nteleport.plots.panels import Panel, default_group_by
from nteleport.plots.style import paper_style
from nteleport.plots.sweeps import draw_sweep, sweep_table
from nteleport.plots.tables import BANDS

__all__ = ["BANDS", "FORMATS", "METRICS", "PlotReport", "plot_results", "plot_sweep"]

FORMATS = ("png", "pdf", "svg")

METRICS = ("val_accuracy", "train_loss")
"""The metrics drawn when none is named."""

_READABLE = 16
"""More groups than this in one picture are hard to distinguish."""

_SAVING: dict[str, Any] = {  # no dates or versions in the file: equal results give equal files
    "png": {"metadata": {"Software": None}, "pil_kwargs": {"compress_level": 4}},
    "pdf": {"metadata": {"CreationDate": None, "Creator": None, "Producer": None}},
    "svg": {"metadata": {"Date": None, "Creator": None}},
}


@dataclass(frozen=True)
class PlotReport:
    """What was drawn: `files` in the order of writing, and `warnings` for the reader, one line each."""

    files: tuple[Path, ...]
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class _Look:
    """How each metric is drawn."""

    boxplot: bool
    box_epochs: Sequence[int] | None
    band: str
    legend: str | None


@dataclass
class _Output:
    """Writes pictures and tables."""

    folder: Path
    fmt: str
    files: list[Path] = field(default_factory=list)

    def add(self, name: str, figure: Figure, table: pd.DataFrame) -> None:
        """Write `name`.FORMAT and `name`.csv, each by rename, so that a picture is complete or unchanged."""
        picture = io.BytesIO()
        with paper_style():
            figure.savefig(picture, format=self.fmt, **_SAVING[self.fmt])
        self._write(f"{name}.{self.fmt}", picture.getvalue())
        self._write(f"{name}.csv", table.to_csv(index=False, lineterminator="\n").encode())

    def _write(self, name: str, content: bytes) -> None:
        path = self.folder / name
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with replacing(path) as temporary:
                temporary.write_bytes(content)
        except OSError as error:
            raise ResultsError(f"cannot write {path}: {error.strerror or error}") from error
        self.files.append(path)


def plot_results(
    out: str | Path,
    *,
    metrics: Sequence[str] = METRICS,
    group_by: Sequence[str] | None = None,
    boxplot: bool = False,
    box_epochs: Sequence[int] | None = None,
    out_dir: str | Path | None = None,
    fmt: str = "png",
    band: str = "std",
    legend_pos: str | None = None,
    only: Container[str] | None = None,
) -> PlotReport:
    """Draw the results in `out`: mean curves for each data set, model and metric, and box plots on request.

    Args:
        out: the output folder of `nteleport train --out`.
        metrics: columns of `metrics.csv`; the published name `validate_accuracy` is `val_accuracy`.
        group_by: hyper-parameters (`optimizer.lr`) or whole parts (`teleport`, `optimizer`); runs that agree
            in all of them form a group. By default, the teleportation and everything else that differs.
        boxplot: also draw box plots.
        box_epochs: the epochs of the boxes, counted from 0; by default an early, a middle and the last epoch.
        out_dir: the folder for pictures; by default `plots` in `out`.
        fmt: one of `FORMATS`.
        band: what the band around a mean curve shows, one of `BANDS`: a standard deviation on both sides, the
            lowest to the highest run, or there is none.
        legend_pos: a place inside the axes for the legend, as matplotlib calls it: "best", "lower right"; by
            default it is below them.
        only: the names of the jobs to draw; by default all.

    Raises:
        ResultsError: there is nothing to draw, or a name is unknown; nothing is written then.
    """
    _check_choice("format", fmt, FORMATS)
    _check_choice("band", band, BANDS)
    if legend_pos is not None:
        legend_pos = legend_pos.replace("_", " ").replace("-", " ")
        _check_choice("place of the legend", legend_pos, PLACES)
    look = _Look(boxplot, box_epochs, band, legend_pos)
    metrics = [our_name(metric) for metric in metrics]
    results = read_results(out) if only is None else read_results(out).among(only)
    _check(results, metrics, box_epochs)
    panels = arrange(results, default_group_by(results.jobs) if group_by is None else group_by)
    warnings = [f"left out {reason}" for reason in results.skipped]
    warnings += _repeated(results)
    output = _Output(Path(out) / "plots" if out_dir is None else Path(out_dir), fmt)
    for panel in panels:
        warnings += panel.warnings
        if len(panel.groups) > _READABLE:
            warnings.append(
                f"{panel.title}: {len(panel.groups)} groups in one picture; group by less to tell them apart"
            )
        for metric in dict.fromkeys(metrics):
            warnings += _draw(results, panel, metric, output, look)
    return PlotReport(tuple(output.files), tuple(warnings))


def plot_sweep(
    out: str | Path, key: str, *, out_dir: str | Path | None = None, fmt: str = "png"
) -> PlotReport:
    """Draw the scores of a tuning against the values of `key`, such as `optimizer.lr`: a panel per cell.

    Args:
        out: the output folder of an experiment with a section `tune`.
        key: a tuned key with positive numbers.
        out_dir: the folder for the picture and its table; by default `plots` in `out`.
        fmt: one of `FORMATS`.

    Raises:
        ResultsError: there is no table of tuning, or no such key in it; nothing is written then.
    """
    _check_choice("format", fmt, FORMATS)
    tuning = read_tuning(Path(out))
    if tuning is None:
        raise ResultsError(
            f"no {tuning_table(Path(out))}: expected the --out of `nteleport train` with a section tune"
        )
    table = sweep_table(tuning, key)
    output = _Output(Path(out) / "plots" if out_dir is None else Path(out_dir), fmt)
    output.add(f"tuning-{re.sub(r'[^A-Za-z0-9._]+', '-', key)}", draw_sweep(table, key), table)
    missing = int(tuning["score"].isna().sum())
    waiting = f"{missing} of {len(tuning)} points have no score yet, and are left out"
    return PlotReport(tuple(output.files), (waiting,) if missing else ())


def _repeated(results: Results) -> list[str]:
    """A warning if one training is in several subfolders: its copies count as runs of their own."""
    folders: dict[str, list[str]] = {}
    for job in results.jobs:
        if "seed" in job.hparams:  # the name ends in the digest of everything that determines the results
            folders.setdefault(job.name.rpartition("/")[2], []).append(job.name)
    several = [names for names in folders.values() if len(names) > 1]
    if not several:
        return []
    return [
        f"{len(several)} of the jobs are in several subfolders and each copy counts as a run, such as "
        f"{' and '.join(several[0])}"
    ]


def _check_choice(what: str, name: str, choices: Sequence[str]) -> None:
    if name not in choices:
        raise ResultsError(f"unknown {what} {name!r}{nearest(name, choices)} (one of {', '.join(choices)})")


def _check(results: Results, metrics: Sequence[str], box_epochs: Sequence[int] | None) -> None:
    if results.epochs.empty:
        raise ResultsError(
            f"nothing to draw in {results.directory}: "
            f"none of its {len(results.jobs)} jobs has a whole epoch yet"
        )
    for metric in metrics:
        if metric not in results.metrics:
            raise ResultsError(
                f"unknown metric {metric!r}{nearest(metric, results.metrics)}\n"
                f"these exist: {', '.join(results.metrics)}"
            )
    last = int(results.epochs["epoch"].max())
    for epoch in box_epochs or ():
        if not 0 <= epoch <= last:
            raise ResultsError(f"no epoch {epoch} for a box plot: the results have epochs 0 to {last}")


def _draw(results: Results, panel: Panel, metric: str, output: _Output, look: _Look) -> list[str]:
    """Draw one metric of one panel; returns warnings."""
    values = tables.panel_values(results, panel, metric)
    if values.empty:
        return [f"{panel.title}: no values of {metric}, nothing drawn"]
    name = f"{panel.name}-{metric}"
    nats = not any("training.loss" in job.hparams for job in results.jobs)
    curves = tables.curve_table(values, look.band)
    figure = draw_curves(curves, panel, metric, legend=look.legend, nats=nats)
    output.add(f"{name}-curves", figure, tables.in_words(curves, panel, metric))
    if not look.boxplot:
        return []
    epochs = look.box_epochs
    wanted = tables.early_middle_last(values) if epochs is None else tuple(dict.fromkeys(epochs))
    boxes = tables.box_table(values, wanted)
    there = tuple(epoch for epoch in wanted if epoch in set(boxes["epoch"]))
    if there:
        figure = draw_boxes(boxes, panel, metric, there, legend=look.legend, nats=nats)
        output.add(f"{name}-boxes", figure, tables.in_words(boxes, panel, metric))
    missing = [str(epoch) for epoch in wanted if epoch not in there]
    return [f"{panel.title}: no values of {metric} at epoch {', '.join(missing)}"] if missing else []
