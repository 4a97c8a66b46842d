"""Curves over the epochs for each data set and network, and where the runs of each arm ended up."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from nteleport.jobs.state import JobState
from nteleport.jobs.table import JobResult
from nteleport.page.arms import color
from nteleport.page.charts import curves_spec
from nteleport.page.folder import Folder
from nteleport.page.numbers import all_rounded, counted
from nteleport.page.parts import Chart, Column, Note, Part, Section, Table, Value
from nteleport.plots.grouping import arrange
from nteleport.plots.panels import Group, Panel, default_group_by
from nteleport.plots.tables import curve_table, panel_values
from nteleport.plots.wording import metric_label

_FIRST = (
    "val_accuracy", "train_loss", "val_loss", "train_accuracy", "grad_norm", "weight_norm", "lr", "seconds",
)  # fmt: skip
"""The order of measures: the first is shown, and the last lose their single runs first."""

_MOST_EPOCHS = 300
"""Longer curves are thinned to so many epochs."""

_MOST_RUN_VALUES = 600_000
"""Values of single runs on a page: about 4 MB."""

_MOST_CHARTS = 60
_MOST_GROUPS = 400

_DASHES = ([1, 0], [6, 3], [2, 2], [8, 3, 2, 3], [12, 3], [3, 3, 1, 3])

_Values = npt.NDArray[np.float64]


def section(folder: Folder) -> Section:
    """The section of `folder`."""
    results = folder.results
    if results.epochs.empty:
        return Section("curves", "Curves", (Note("No job has completed an epoch yet."),))
    panels = arrange(results, default_group_by(results.jobs))
    room = _MOST_RUN_VALUES
    parts: list[Part] = []
    for panel in panels[:_MOST_CHARTS]:
        chart, room = _chart(folder, panel, room)
        parts.append(chart)
    if len(panels) > _MOST_CHARTS:
        parts.append(Note(f"{counted(len(panels) - _MOST_CHARTS, 'more chart')} left out.", urgent=True))
    parts += [_outcomes(folder, panels), _jobs(folder)]
    return Section("curves", "Curves and outcomes", tuple(parts))


def incomplete(folder: Folder) -> list[str]:
    """Why the curves may mislead."""
    panels = arrange(folder.results, default_group_by(folder.results.jobs))
    return [warning for panel in panels for warning in panel.warnings]


def _chart(folder: Folder, panel: Panel, room: int) -> tuple[Chart, int]:
    """The chart of a panel, and how many values of single runs may still follow."""
    groups = panel.groups[:_MOST_GROUPS]
    panel = Panel(panel.title, panel.shared, panel.name, groups, panel.warnings)
    epochs = _epochs(folder, panel)
    measures = []
    for metric in _ordered(folder.results.metrics):
        values = panel_values(folder.results, panel, metric)
        values = values[values["epoch"].isin(epochs)]
        if values.empty:
            continue
        needed = sum(len(group.jobs) for group in groups) * len(epochs)
        measures.append(_measure(metric, values, groups, epochs, runs=needed <= room))
        room -= needed if needed <= room else 0
    data = {"x": epochs.tolist(), "measures": measures}
    caption = (
        "The mean of the runs of each arm; the band is one standard deviation to either side, and the line is thin "
        "where runs are missing. Drag across the chart to zoom in, double-click to see all again."
    )
    arms = _styles(folder, groups)
    chart = Chart(panel.title, caption, curves_spec(), data, arms, "curves", {"y": False})
    return chart, room


def _epochs(folder: Folder, panel: Panel) -> npt.NDArray[np.int64]:
    """The epochs of a panel, thinned evenly if there are many; the last one stays."""
    members = [job for group in panel.groups for job in group.jobs]
    table = folder.results.epochs
    found = np.unique(table["epoch"].to_numpy()[table["job"].isin(members)])
    if len(found) > _MOST_EPOCHS:
        found = found[np.unique(np.linspace(0, len(found) - 1, _MOST_EPOCHS).round().astype(np.int64))]
    return found


def _ordered(metrics: Sequence[str]) -> list[str]:
    return [*(each for each in _FIRST if each in metrics), *(each for each in metrics if each not in _FIRST)]


def _measure(
    metric: str, values: pd.DataFrame, groups: Sequence[Group], epochs: npt.NDArray[np.int64], *, runs: bool
) -> dict[str, Any]:
    """One measure of a chart: for each group `mean`, `std` and `n` at each epoch, and the values of its runs."""
    label = metric_label(metric)
    scaled = values.assign(value=values["value"] * (100 if label.percent else 1))
    table = curve_table(scaled)
    mean, std, number = (_grid(table, "group", name, len(groups), epochs) for name in ("mean", "std", "n"))
    whole = np.nan_to_num(number).astype(int)
    measure: dict[str, Any] = {
        "name": metric,
        "label": label.text,
        "mean": [all_rounded(row) for row in mean.tolist()],
        "std": [all_rounded(row) for row in std.tolist()],
        "n": [row.tolist() if len(set(row.tolist())) > 1 else int(row[0]) for row in whole],
    }
    if runs:
        members = [job for group in groups for job in group.jobs]
        places = {job: at for at, job in enumerate(members)}
        grid = _grid(scaled.assign(job=scaled["job"].map(places)), "job", "value", len(members), epochs)
        measure["runs"] = [[all_rounded(grid[places[job]].tolist()) for job in group.jobs] for group in groups]
    return measure


def _grid(table: pd.DataFrame, row: str, value: str, rows: int, epochs: npt.NDArray[np.int64]) -> _Values:
    """The values by row and epoch; NaN where there is none."""
    grid = np.full((rows, len(epochs)), np.nan)
    grid[table[row].to_numpy(), np.searchsorted(epochs, table["epoch"].to_numpy())] = table[value].to_numpy()
    return grid


def _styles(folder: Folder, groups: Sequence[Group]) -> list[dict[str, Any]]:
    """Label, color and dashes of each group: the color of its arm, or of its setting where all share an arm."""
    kinds = [folder.arms.of(folder.results.jobs[group.jobs[0]]) for group in groups]
    alone = len({arm.key for arm in kinds}) == 1 < len(groups)
    seen: Counter[str] = Counter()
    styles = []
    for number, (group, arm) in enumerate(zip(groups, kinds, strict=True)):
        style = {
            "label": group.label,
            "color": color(number + 1) if alone else arm.color,
            "dash": _DASHES[0 if alone else seen[arm.key] % len(_DASHES)],
        }
        seen[arm.key] += 1
        styles.append(style)
    return styles


def _outcomes(folder: Folder, panels: Sequence[Panel]) -> Table:
    """Where the runs of each group ended up."""
    rows: list[list[Value]] = []
    for panel in panels:
        for group in panel.groups:
            jobs = [folder.results.jobs[at] for at in group.jobs]
            finished = [job for job in jobs if job.state == JobState.FINISHED]
            row: list[Value] = [panel.title, group.label, len(finished), group.expected]
            for outcome in (_test_accuracy, _final_accuracy, _best_accuracy):
                row += _mean_and_std(outcome(job) for job in finished)
            seconds = [folder.seconds[at] for at in group.jobs if folder.results.jobs[at] in finished]
            rows.append([*row, float(np.mean(seconds)) if seconds else None])
    columns = [Column("network and data"), Column("arm"), Column("finished runs", "number"), Column("of", "number")]
    for title in ("test accuracy (%)", "last validation accuracy (%)", "best validation accuracy (%)"):
        columns += [Column(title, "percent"), Column("± std", "percent")]
    return Table("Outcomes", (*columns, Column("time", "seconds")), rows)


def _jobs(folder: Folder) -> Table:
    rows: list[list[Value]] = []
    for at, job in enumerate(folder.results.jobs):
        accuracies = [outcome(job) for outcome in (_test_accuracy, _final_accuracy, _best_accuracy)]
        rows.append(
            [job.name, folder.arms.of(job).label, str(folder.state(job)), job.epochs, *accuracies, folder.seconds[at]]
        )
    columns = (
        Column("job", "code"), Column("arm"), Column("state"), Column("epochs", "number"),
        Column("test accuracy (%)", "percent"), Column("last validation accuracy (%)", "percent"),
        Column("best validation accuracy (%)", "percent"), Column("time", "seconds"),
    )  # fmt: skip
    return Table("All jobs", columns, rows, long=True)


def _mean_and_std(values: Iterable[float | None]) -> list[Value]:
    known = [value for value in values if value is not None]
    return [
        float(np.mean(known)) if known else None,
        float(np.std(known, ddof=1)) if len(known) > 1 else None,
    ]


def _test_accuracy(job: JobResult) -> float | None:
    return _number(job.result.get("test"), "accuracy")


def _final_accuracy(job: JobResult) -> float | None:
    return _number(job.result.get("final"), "val_accuracy")


def _best_accuracy(job: JobResult) -> float | None:
    return _number(job.result.get("best"), "val_accuracy")


def _number(content: Mapping[str, Any] | None, key: str) -> float | None:
    value = content.get(key) if isinstance(content, dict) else None
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None
