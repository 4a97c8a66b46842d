"""The numbers of a picture. A figure is drawn from its table, which is written beside it, so they agree.

Both tables have one row per group and epoch: `group` (position in `Panel.groups`), `epoch`, `n` (runs with a
finite value there), then the statistics over these runs. Non-finite values count as missing.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from nteleport.jobs.table import Results
from nteleport.plots.panels import Panel

__all__ = [
    "BANDS",
    "FEW",
    "QUANTITIES",
    "box_table",
    "by_group",
    "curve_table",
    "early_middle_last",
    "in_words",
    "panel_values",
]

BANDS = ("std", "minmax", "none")
"""What the band around a mean curve can show: one standard deviation, all runs, or there is none."""

FEW = 10
"""Up to this many runs, a box plot shows each run as a point; beyond, only those outside the whiskers."""

QUANTITIES = ("whisker_low", "q1", "median", "q3", "whisker_high")
"""The five numbers of a box, in ascending order."""


def panel_values(results: Results, panel: Panel, metric: str) -> pd.DataFrame:
    """The finite values of `metric` in one picture: one row `group`, `job`, `epoch`, `value` each."""
    group_of = np.full(len(results.jobs), -1)
    for position, group in enumerate(panel.groups):
        group_of[list(group.jobs)] = position
    groups = group_of[results.epochs["job"].to_numpy()]
    values = results.epochs[metric].to_numpy()
    chosen = (groups >= 0) & np.isfinite(values)
    return pd.DataFrame(
        {
            "group": groups[chosen],
            "job": results.epochs["job"].to_numpy()[chosen],
            "epoch": results.epochs["epoch"].to_numpy()[chosen],
            "value": values[chosen],
        }
    )


def curve_table(values: pd.DataFrame, band: str = "std") -> pd.DataFrame:
    """The mean over the runs of each group, by epoch, and what the band around it shows.

    `values` is made by `panel_values`, `band` is one of `BANDS`. Columns: group, epoch, n, mean; then std,
    the sample standard deviation (n − 1; missing for one run); or min and max over the runs; or nothing.
    """
    grouped = values.groupby(["group", "epoch"], sort=True)["value"]
    table = grouped.agg(n="count", mean="mean")
    for name in {"std": ("std",), "minmax": ("min", "max"), "none": ()}[band]:
        table[name] = grouped.agg(name)
    return table.reset_index()


def early_middle_last(values: pd.DataFrame) -> tuple[int, ...]:
    """The three default epochs: after 30% and 60% of all epochs, and the last."""
    last = int(values["epoch"].max())
    return tuple(sorted({int(0.3 * (last + 1)), int(0.6 * (last + 1)), last}))


def box_table(values: pd.DataFrame, epochs: Sequence[int]) -> pd.DataFrame:
    """The boxes of each group at `epochs`: quartiles, whiskers to the furthest run within 1.5 box heights.

    `values` is made by `panel_values`. Columns: group, epoch, n, whisker_low, q1, median, q3, whisker_high,
    points (the runs drawn individually, see `FEW`, in the order of the jobs). Quartiles are interpolated
    linearly.
    """
    rows = []
    chosen = values[values["epoch"].isin(list(epochs))]
    for (group, epoch), at_epoch in chosen.groupby(["group", "epoch"], sort=True):
        runs = at_epoch["value"].to_numpy()
        q1, median, q3 = np.percentile(runs, [25, 50, 75])
        reach = 1.5 * (q3 - q1)
        # Quartiles lie between runs, so a whisker could end inside its box: then its length is 0.
        low = min(runs[runs >= q1 - reach].min(), q1)
        high = max(runs[runs <= q3 + reach].max(), q3)
        points = runs if len(runs) <= FEW else runs[(runs < low) | (runs > high)]
        rows.append((group, epoch, len(runs), low, q1, median, q3, high, tuple(points.tolist())))
    return pd.DataFrame(rows, columns=["group", "epoch", "n", *QUANTITIES, "points"])


def by_group(table: pd.DataFrame) -> dict[int, pd.DataFrame]:
    """The rows of each group, by its position in `Panel.groups`."""
    return {int(position): table[table["group"] == position] for position in sorted(table["group"].unique())}


def in_words(table: pd.DataFrame, panel: Panel, metric: str) -> pd.DataFrame:
    """A table as written beside its picture: with data set, model and hyper-parameters in each row.

    The column `group` becomes the label in the legend; points are separated by spaces.
    """
    position = table["group"].to_numpy()
    words: dict[str, object] = dict(panel.shared)
    for word in panel.groups[0].values:
        column = pd.Series([group.values[word] for group in panel.groups], dtype=object)
        words[word] = column.take(position).to_numpy()
    words["group"] = [panel.groups[each].label for each in position]
    words["metric"] = metric
    numbers = table.drop(columns="group")
    if "points" in numbers:
        numbers["points"] = [" ".join(map(repr, points)) for points in numbers["points"]]
    return pd.concat([pd.DataFrame(words, index=table.index), numbers], axis=1)
