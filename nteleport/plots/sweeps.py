"""Scores of tuning against one tuned number, as in `nteleport plot DIR --curve optimizer.lr`.

A panel per cell, a line per arm: the mean score over the tuning runs, and a band from the lowest to the
highest of them. Where other keys are tuned as well, a point shows the best of their values. The ring is the
chosen point. Bars below show the good range of each arm: where its score is within one point of its best.
"""

from __future__ import annotations

import json
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from nteleport.errors import ResultsError, nearest
from nteleport.jobs.tuning import ARM, good_range, run_columns, training_of, tuned_keys
from nteleport.plots.figures import COLUMN, PAGE, line_style, paper_style
from nteleport.plots.style import LIGHT
from nteleport.plots.ticks import logarithmic_ticks
from nteleport.plots.wording import dataset_name, metric_label
from nteleport.vocabulary import MODES

__all__ = ["WITHIN", "draw_sweep", "sweep_table"]

WITHIN = 0.01
"""The good range: scores at most one point of accuracy below the best."""

_CELL = ("dataset", "model", "initializer", "optimizer", "lr_scheduler")
_OF_TELEPORTATION = ("optimizer_state", "certificates")
_MOST_COLUMNS = 3
_CURVES, _BAR, _MARGINS = 1.7, 0.13, 0.75
"""Inches: the height of the curves, of a bar, and of the title and labels of a panel."""

_WIDTH_OF_LETTER = 0.062
_WIDTH_IN_LEGEND = 0.05
_BASELINE = "no teleport"
_GRAY = LIGHT[-1]
_LEGEND_ROW = 0.16
_WIDE = 30.0
"""From this ratio of its ends on, an axis has enough powers of ten."""


def sweep_table(tuning: pd.DataFrame, key: str) -> pd.DataFrame:
    """One row per cell, arm and value of `key` that has a score.

    The columns are `ARM` and `arm` (its label), `key` and the other tuned keys (at their best for this
    value), `n` (runs), `mean`, `min`, `max`, `chosen`; and for each arm `good_low`, `good_high`,
    `good_decades`, and whether the range is open: `open_below`, `open_above`.

    Args:
        tuning: the table of tuning, see `nteleport.jobs.tuning.read_tuning`.
        key: a tuned key with positive numbers.

    Raises:
        ResultsError: there is no such key, or nothing to draw.
    """
    keys = tuned_keys(tuning)
    numeric = [
        each
        for each in keys  # another experiment in the folder need not tune it
        if pd.api.types.is_numeric_dtype(tuning[each]) and (tuning[each].dropna() > 0).all()
    ]
    if key not in numeric:
        known = f"expected one of {', '.join(numeric)}{nearest(key, numeric)}" if numeric else "there is none"
        raise ResultsError(f"{key!r} is no tuned key with numbers above 0, {known}")
    scored = tuning[tuning["score"].notna() & tuning[key].notna()]
    if scored.empty:
        raise ResultsError("nothing to draw: no point of the tuning has all its scores yet")
    frames = [_of_arm(rows, key, keys) for _, rows in scored.groupby(list(ARM), sort=False)]
    table = pd.concat(frames, ignore_index=True)
    table.insert(len(ARM), "arm", _arm_labels(table))
    return table


def _of_arm(rows: pd.DataFrame, key: str, keys: Sequence[str]) -> pd.DataFrame:
    """The rows of one arm, best for each value of `key`; of equal ones the first."""
    ranked = rows.sort_values([key, "score"], ascending=[True, False], kind="stable")
    best = ranked.drop_duplicates(key)
    runs = best[run_columns(rows)]
    low_high = good_range(best[key].tolist(), best["score"].tolist(), WITHIN)
    columns: dict[str, Any] = {
        **{name: best[name] for name in (*ARM, key, *(each for each in keys if each != key))},
        "n": runs.notna().sum(axis=1),
        "mean": best["score"],
        "min": runs.min(axis=1),
        "max": runs.max(axis=1),
        "chosen": best[key].isin(rows.loc[rows["chosen"], key]),
        "by": best["by"],
        "good_low": low_high.low,
        "good_high": low_high.high,
        "good_decades": low_high.decades,
        "open_below": low_high.open_below,
        "open_above": low_high.open_above,
    }
    return pd.DataFrame(columns)


def _arm_labels(table: pd.DataFrame) -> list[str]:
    """The mode of each row in words, or all about its teleportation where a mode has several."""
    modes = table["teleport"].str.partition(",")[0]
    several = table.groupby(modes)["teleport"].nunique()
    known: dict[str, str] = {str(mode): about.label for mode, about in MODES.items()}
    labels = [
        known.get(mode, mode) if several[mode] == 1 else label
        for mode, label in zip(modes, table["teleport"], strict=True)
    ]
    states = [_training(text).get("optimizer_state", "") for text in table["training"]]
    if len(set(filter(None, states))) < 2:
        return labels
    return [f"{label}, {state}" if state else label for label, state in zip(labels, states, strict=True)]


@dataclass(frozen=True)
class _Panel:
    title: str
    rows: pd.DataFrame


def draw_sweep(table: pd.DataFrame, key: str) -> Figure:
    """Draw a table made by `sweep_table`: one panel per cell, all with the same axes."""
    panels, shared = _panels(table)
    styles = _styles(list(dict.fromkeys(table["arm"])))
    columns = 2 if len(panels) == 4 else min(len(panels), _MOST_COLUMNS)
    lines = -(-len(panels) // columns)
    bars = _BAR * len(styles) + 0.05
    with paper_style():
        width = COLUMN if columns == 1 else PAGE
        size = (width, lines * (_CURVES + bars + _MARGINS))
        figure = Figure(figsize=size, layout="constrained")
        axes = figure.subplots(
            2 * lines, columns, sharex=True, squeeze=False, height_ratios=[_CURVES, bars] * lines
        )
        low, high = float(table["min"].min()), float(table["max"].max())
        for number in range(lines * columns):
            line, column = divmod(number, columns)
            upper, lower = axes[2 * line, column], axes[2 * line + 1, column]
            if number >= len(panels):
                upper.set_axis_off()
                lower.set_axis_off()
                continue
            rows = panels[number].rows
            _draw_curves(upper, rows, key, styles)
            _draw_bars(lower, rows, styles)
            letters = int(0.8 * width / columns / _WIDTH_OF_LETTER)
            upper.set_title(textwrap.fill(panels[number].title, letters), fontsize=7.5)
            upper.set_ylim(low - 0.04 * (high - low), high + 0.06 * (high - low) + 1e-9)
            upper.tick_params(labelleft=column == 0)
            if column == 0:
                upper.set_ylabel(_score_label(table))
            lower.tick_params(labelbottom=number + columns >= len(panels))
            if number + columns >= len(panels):
                lower.set_xlabel(_key_label(key))
        _value_axis(axes[0, 0], table[key])
        _legend(figure, styles, _key_label(key), shared, int(width / _WIDTH_IN_LEGEND))
    return figure


def _panels(table: pd.DataFrame) -> tuple[list[_Panel], str]:
    """The panels, titled by what differs between them, and what they share in words."""
    cells = table[list(_CELL)].assign(training=[_training_of_cell(text) for text in table["training"]])
    named = cells.assign(
        dataset=[dataset_name(name) for name in cells["dataset"]],
        initializer=[_initializer(name) for name in cells["initializer"]],
        lr_scheduler=["" if name == "none" else name for name in cells["lr_scheduler"]],
    )
    differing = [name for name in cells if cells[name].nunique() > 1]
    trainings = [_training(text) for text in cells["training"].unique()]
    changing = [
        name for name in trainings[0] if any(each.get(name) != trainings[0][name] for each in trainings)
    ]
    panels = []
    for _, rows in cells.groupby(list(cells), sort=False):
        words = [str(named[name][rows.index[0]]) for name in differing if name != "training"]
        training = _training(rows["training"].iloc[0])
        words += [f"{name.replace('_', ' ')} {training.get(name)}" for name in changing]
        panels.append(_Panel(", ".join(filter(None, words)), table.loc[rows.index]))
    shared = [
        named[name].iloc[0]
        for name in _CELL
        if name not in differing and not (name == "initializer" and cells[name].iloc[0] == "none")
    ]
    return panels, ", ".join(filter(None, shared))


def _initializer(name: str) -> str:
    return "PyTorch's init" if name == "none" else f"{name} init"


def _training_of_cell(text: str) -> str:
    """The training parameters that all arms of a cell share."""
    return json.dumps({key: value for key, value in _training(text).items() if key not in _OF_TELEPORTATION})


def _training(text: str) -> dict[str, Any]:
    """The training parameters of an arm.

    Raises:
        ResultsError: they are damaged.
    """
    training = training_of(text)
    if training is None:
        raise ResultsError("the table of tuning is damaged: expected training parameters as JSON")
    return training


def _styles(arms: Sequence[str]) -> dict[str, dict[str, Any]]:
    """The baseline is gray, each other arm has a color and a marker."""
    others = [arm for arm in arms if arm != _BASELINE]
    styles = {arm: line_style(position) for position, arm in enumerate(others)}
    return {arm: styles.get(arm, {"color": _GRAY, "marker": "o"}) for arm in arms}


def _draw_curves(axes: Axes, rows: pd.DataFrame, key: str, styles: dict[str, dict[str, Any]]) -> None:
    axes.grid(axis="y")
    axes.yaxis.set_major_formatter(FuncFormatter(lambda fraction, _: f"{round(100 * fraction, 6):g}"))
    for arm, points in rows.groupby("arm", sort=False):
        style = styles[str(arm)]
        values, mean, low, high = (points[name].to_numpy(dtype=float) for name in (key, "mean", "min", "max"))
        axes.fill_between(values, low, high, color=style["color"], alpha=0.15, linewidth=0)
        axes.plot(values, mean, linewidth=1.1, markersize=2.8, markeredgewidth=0, zorder=3, **style)
        best = points[points["chosen"]]
        ring: dict[str, Any] = {"markersize": 7.5, "markerfacecolor": "none", "markeredgewidth": 1.1}
        axes.plot(
            best[key], best["mean"], "o", markeredgecolor=style["color"], linestyle="none", zorder=4, **ring
        )


def _draw_bars(axes: Axes, rows: pd.DataFrame, styles: dict[str, dict[str, Any]]) -> None:
    """The good range of each arm, its width in decades on the right; an arrow where the grid ends in it."""
    for arm, points in rows.groupby("arm", sort=False):
        first = points.iloc[0]
        height = list(styles).index(str(arm))
        color = styles[str(arm)]["color"]
        ends = [first["good_low"], first["good_high"]]
        axes.plot(ends, [height, height], color=color, linewidth=3.2, solid_capstyle="butt")
        arrows = (("open_below", "<", ends[0]), ("open_above", ">", ends[1]))
        for name, marker, value in arrows:
            if first[name]:
                axes.plot(value, height, marker, color=color, markersize=4, markeredgewidth=0, clip_on=False)
        at_least = "≥ " if first["open_below"] or first["open_above"] else ""
        text = f"{at_least}{first['good_decades']:.1f}"
        axes.text(
            1.01, height, text, transform=axes.get_yaxis_transform(), fontsize=6, va="center", color="#222222"
        )
    axes.set_ylim(len(styles) - 0.4, -0.6)
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)


def _value_axis(axes: Axes, values: pd.Series[float]) -> None:
    """The logarithmic axis of all panels."""
    axes.set_xscale("log")
    ratio = values.max() / values.min()
    margin = max(ratio, 1.5) ** 0.04
    axes.set_xlim(values.min() / margin, values.max() * margin)
    if ratio < _WIDE:
        logarithmic_ticks(axes.xaxis, values.min(), values.max())
    else:
        axes.xaxis.set_major_locator(LogLocator(numticks=7))
        axes.xaxis.set_minor_locator(NullLocator())


def _legend(figure: Figure, styles: dict[str, dict[str, Any]], what: str, shared: str, letters: int) -> None:
    """Above the panels, where it covers none of them; the figure grows accordingly."""
    handles = [Line2D([], [], linewidth=1.4, markersize=3.5, **style) for style in styles.values()]
    ring = Line2D(
        [], [], linestyle="none", marker="o", markersize=6, markerfacecolor="none", markeredgecolor="#222222"
    )
    bar = Line2D([], [], color="#222222", linewidth=3.2)
    band = Patch(facecolor="#222222", alpha=0.15, linewidth=0)
    names = [*styles, f"chosen {what}", "lowest to highest run", "within 1 point (decades)"]
    longest = max(map(len, names))
    columns = max(1, min(len(names), letters // (longest + 8)))
    title = textwrap.fill(shared, letters)
    rows = -(-len(names) // columns) + title.count("\n") + bool(title)
    figure.set_figheight(figure.get_figheight() + _LEGEND_ROW * rows)
    figure.legend(
        [*handles, ring, band, bar],
        names,
        loc="outside upper center",
        ncols=columns,
        frameon=False,
        title=title or None,
        title_fontsize=8,
    )


def _score_label(table: pd.DataFrame) -> str:
    label = metric_label("val_accuracy").text
    return f"best {label}" if (table["by"] == "best_val_accuracy").all() else label


def _key_label(key: str) -> str:
    argument = key.partition(".")[2]
    return "learning rate" if argument == "lr" else argument.replace("_", " ")
