"""How the values of each arm were chosen: scores over the tuned number, and every chosen point."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

import pandas as pd

from nteleport.jobs.tuning import (
    ARM,
    GoodRange,
    good_range,
    read_tuning,
    run_columns,
    training_of,
    tuned_keys,
)
from nteleport.page.charts import columns, learning_rate_spec
from nteleport.page.folder import Folder
from nteleport.page.numbers import counted, rounded
from nteleport.page.parts import Chart, Column, Note, Part, Section, Table, Value
from nteleport.plots.wording import dataset_name, labels_with_state, metric_label, model_name

_MOST_CHARTS = 60


def section(folder: Folder, table: pd.DataFrame | None) -> Section | None:
    """The section of `folder`, whose `tuning.csv` is `table`; None where nothing was tuned.

    Raises:
        ResultsError: `tuning.csv` is damaged.
    """
    if table is None or table.empty:
        return None
    keys = tuned_keys(table)
    table = _by_cell(table)
    cell_keys = [key for key in ARM if key != "teleport"]
    cells = [(values, rows) for values, rows in table.groupby(cell_keys, sort=False)]
    names = _names([dict(zip(cell_keys, values, strict=True)) for values, _ in cells])
    key = next((each for each in keys if pd.api.types.is_numeric_dtype(table[each])), None)
    parts: list[Part] = [
        _lead(folder, table, keys),
        *_edges(folder, names, [rows for _, rows in cells], keys),
    ]
    if key is not None:
        shown = list(zip(names, (rows for _, rows in cells), strict=True))
        parts += [_chart(folder, name, rows, key, keys) for name, rows in shown[:_MOST_CHARTS]]
        if len(shown) > _MOST_CHARTS:
            parts.append(Note(f"{counted(len(shown) - _MOST_CHARTS, 'more chart')} left out.", urgent=True))
    parts.append(_chosen(folder, names, [rows for _, rows in cells], keys, key))
    return Section("tuning", "Learning rates and other tuned values", tuple(parts))


def _by_cell(table: pd.DataFrame) -> pd.DataFrame:
    """The table where all arms of a cell have the same `training`, without what only teleportations have.

    What happens to the optimizer's state is in the label of an arm where that tells arms apart.
    """
    trainings = [_training(text) for text in table["training"]]
    states = [str(training.pop("optimizer_state", "")) for training in trainings]
    for training in trainings:
        training.pop("certificates", None)
    labels = labels_with_state(table["teleport"].tolist(), states)
    return table.assign(teleport=labels, training=[json.dumps(each, sort_keys=True) for each in trainings])


def tuning_of(folder: Folder) -> pd.DataFrame | None:
    """The content of `tuning.csv`.

    Raises:
        ResultsError: it is damaged.
    """
    return read_tuning(folder.directory)


def _lead(folder: Folder, table: pd.DataFrame, keys: Sequence[str]) -> Note:
    verb = "will be" if folder.only_tuning else "is"
    runs = ", ".join(name.removeprefix("run ") for name in run_columns(table))
    by = ", ".join(sorted(set(table["by"].astype(str))))
    data = ", ".join(sorted(set(table["data"].astype(str))))
    return Note(
        f"Each arm of each cell {verb} reported at its own best {' and '.join(keys)}: the point with the "
        f"best mean {by} ({data}) over the runs {runs}, which are reported nowhere else. A run that diverged "
        "counts as chance."
    )


def _edges(
    folder: Folder, names: Sequence[str], cells: Sequence[pd.DataFrame], keys: Sequence[str]
) -> list[Note]:
    """A note for each chosen point on the edge of its grid."""
    return [
        Note(
            f"{name}, {folder.arms.named(str(row['teleport'])).label}: the best point "
            f"({_point(row, keys)}) lies on an edge of the grid, so that a better one may lie beyond",
            urgent=True,
        )
        for name, rows in zip(names, cells, strict=True)
        for _, row in rows[rows["edge"] & rows["chosen"]].iterrows()
    ]


def _chart(folder: Folder, name: str, rows: pd.DataFrame, key: str, keys: Sequence[str]) -> Chart:
    arms = [
        (folder.arms.named(str(label)), members) for label, members in rows.groupby("teleport", sort=False)
    ]
    order = {arm.key: at for at, arm in enumerate(folder.arms)}
    arms.sort(key=lambda pair: order.get(pair[0].key, len(order)))
    best: list[tuple[Any, ...]] = []
    points: list[tuple[Any, ...]] = []
    for number, (arm, members) in enumerate(arms):
        scored = members[members["score"].notna() & members[key].notna()]
        highest = scored.groupby(key, sort=True)["score"].max()
        of_value = zip(highest.index.tolist(), highest.tolist(), strict=True)
        best += [(number, rounded(value), _percent(score)) for value, score in of_value]
        for _, row in scored.iterrows():
            runs = ", ".join(f"{100 * row[run]:.2f}" for run in run_columns(rows) if not math.isnan(row[run]))
            remark = "chosen, on the edge of the grid" if row["edge"] else "chosen" if row["chosen"] else ""
            words = (
                arm.label,
                _point(row, keys),
                f"{100 * row['score']:.2f} %",
                runs,
                str(row["round"]),
                remark,
            )
            points.append((number, rounded(row[key]), _percent(row["score"]), bool(row["chosen"]), *words))
    data = {
        "best": columns(("g", "x", "y"), best),
        "points": columns(
            ("g", "x", "y", "chosen", "arm", "point", "score", "runs", "round", "remark"), points
        ),
    }
    others = " The line is the best over all other tuned values." if len(keys) > 1 else ""
    caption = f"The mean score at each point of the grid; the chosen one is a large diamond.{others}"
    label = metric_label("val_accuracy").text
    styles = [{"label": arm.label, "color": arm.color, "dash": [1, 0]} for arm, _ in arms]
    positive = bool((rows[key].dropna() > 0).all())
    spec = learning_rate_spec(key, label)
    return Chart(name, caption, spec, data, styles, "table", {"x": True} if positive else {})


def _chosen(
    folder: Folder, names: Sequence[str], cells: Sequence[pd.DataFrame], keys: Sequence[str], key: str | None
) -> Table:
    rows: list[list[Value]] = []
    for name, cell in zip(names, cells, strict=True):
        for label, members in cell.groupby("teleport", sort=False):
            reported = members[members["chosen"]]
            point = reported.iloc[0] if len(reported) else None
            good = _good_range(members, key) if key else None
            rows.append(
                [
                    name,
                    folder.arms.named(str(label)).label,
                    *(None if point is None else _plain(point[each]) for each in keys),
                    None if point is None else _plain(point["score"]),
                    len(members),
                    _range(good) if good else None,
                    good.decades if good else None,
                ]
            )
    columns_ = [Column("cell"), Column("arm"), *(Column(f"chosen {each}", "number") for each in keys)]
    columns_ += [Column("score (%)", "percent"), Column("points", "number")]
    columns_ += [Column(f"within 1 point of the best {key or ''}".strip()), Column("decades", "number")]
    return Table("Chosen values", tuple(columns_), rows)


def _range(good: GoodRange) -> str:
    beyond = " or beyond" if good.open_below or good.open_above else ""
    return f"{good.low:.3g} to {good.high:.3g}{beyond}"


def _good_range(rows: pd.DataFrame, key: str) -> GoodRange | None:
    scored = rows[rows["score"].notna() & (rows[key] > 0)]
    best = scored.groupby(key, sort=True)["score"].max()
    return good_range(best.index.tolist(), best.tolist()) if len(best) else None


def _point(row: pd.Series[Any], keys: Sequence[str]) -> str:
    return ", ".join(f"{key} {_plain(row[key])}" for key in keys)


def _plain(value: Any) -> Value:
    value = value.item() if hasattr(value, "item") else value
    return float(f"{value:.6g}") if isinstance(value, float) and math.isfinite(value) else value


def _percent(score: float) -> float | int | None:
    return rounded(100 * score)


def _names(cells: Sequence[dict[str, Any]]) -> list[str]:
    """ "MLP on MNIST, SGD": each cell in as few words as tell them apart."""
    differing = [
        key for key in ("initializer", "optimizer", "lr_scheduler") if len({cell[key] for cell in cells}) > 1
    ]
    trainings = [_training(cell["training"]) for cell in cells]
    told = [
        key
        for key in dict.fromkeys(key for each in trainings for key in each)
        if len({str(each.get(key)) for each in trainings}) > 1
    ]
    return [
        ", ".join(
            [
                f"{model_name(str(cell['model']))} on {dataset_name(str(cell['dataset']))}",
                *(
                    str(cell[key]) if key == "optimizer" else f"{key.replace('_', ' ')} {cell[key]}"
                    for key in differing
                ),
                *(f"{key} {training.get(key)}" for key in told),
            ]
        )
        for cell, training in zip(cells, trainings, strict=True)
    ]


def _training(text: Any) -> dict[str, Any]:
    """The training parameters of an arm; the text itself where it is damaged."""
    training = training_of(str(text))
    return {"training": str(text)} if training is None else training
