"""Does it help: the arms compared with their baseline, as `nteleport compare` does it, and what follows."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from nteleport.comparison import Comparison, compare
from nteleport.comparison.outcomes import Outcome
from nteleport.errors import MissingExtraError, ResultsError
from nteleport.page.arms import Arm
from nteleport.page.charts import columns, forest_spec, pairs_spec
from nteleport.page.folder import Folder
from nteleport.page.numbers import rounded
from nteleport.page.parts import Chart, Column, Kind, Note, Part, Section, Table, Value

_MOST_PAIRS = 20_000


def compared(folder: Folder, tuning: pd.DataFrame | None, options: Mapping[str, Any]) -> Comparison | str:
    """The comparison of the arms; without options that ask for one, why there is none, in words.

    Args:
        folder: the results.
        tuning: the content of `tuning.csv`.
        options: of `nteleport.comparison.compare`; those that are None or empty are left at their defaults.

    Raises:
        ResultsError: a comparison was asked for, and is impossible.
        MissingExtraError: a comparison was asked for, and scipy or statsmodels is not installed.
    """
    given = {name: value for name, value in options.items() if value}
    if folder.only_tuning:
        reason = f"no jobs in {folder.directory} but those of its tuning"
        if given:
            raise ResultsError(f"{reason}: expected jobs to report")
        return reason
    try:
        return compare(folder.results, tuning=tuning, **given)
    except (ResultsError, MissingExtraError) as error:
        if given:
            raise
        return " ".join(str(error).split())


def notes(comparison: Comparison | str) -> list[str]:
    """What a reader must know before the verdicts."""
    return [] if isinstance(comparison, str) else list(comparison.notes)


def section(folder: Folder, comparison: Comparison | str) -> Section:
    """The section of `folder`."""
    if isinstance(comparison, str):
        return Section("verdicts", "Does it help?", (Note(f"Nothing is compared: {comparison}"),))
    parts: list[Part] = [_verdicts(folder, comparison)]
    for outcome in comparison.outcomes:
        rows = comparison.rows[comparison.rows["outcome"] == outcome.name]
        if rows["difference"].notna().any():
            parts.append(_forest(folder, comparison, outcome, rows))
    parts.append(_rows(folder, comparison))
    for outcome in comparison.outcomes:
        pairs = comparison.pairs[comparison.pairs["outcome"] == outcome.name]
        if len(pairs):
            parts.append(_scatter(folder, comparison, outcome, pairs))
    return Section("verdicts", "Does it help?", tuple(parts))


def _verdicts(folder: Folder, comparison: Comparison) -> Table:
    rows = [
        [
            _cell(row, comparison.by),
            _label(folder, row["arm"]),
            row["outcome"],
            row["verdict"],
            row["because"],
        ]
        for row in comparison.verdicts.to_dict("records")
    ]
    titles = ("cell", "arm", "outcome", "verdict", "because")
    return Table("Verdicts", tuple(Column(title) for title in titles), rows)


_ROWS: tuple[tuple[str, str, Kind], ...] = (
    ("outcome", "outcome", "text"),
    ("n", "pairs", "number"),
    ("missing", "missing", "number"),
    ("baseline", "baseline", "number"),
    ("value", "arm's value", "number"),
    ("difference", "difference", "number"),
    ("low", "95 % from", "number"),
    ("high", "to", "number"),
    ("unit", "unit", "text"),
    ("p", "p", "number"),
    ("p_holm", "p (Holm)", "number"),
    ("band", "band", "text"),
    ("p_equivalent", "p of equivalence", "number"),
    ("result", "result", "text"),
    ("baseline_point", "baseline at", "text"),
    ("point", "arm at", "text"),
)


def _rows(folder: Folder, comparison: Comparison) -> Table:
    shown = [each for each in _ROWS if each[0] in comparison.rows]
    rows: list[list[Value]] = [
        [_cell(row, comparison.by), _label(folder, row["arm"]), *(row[key] for key, _, _ in shown)]
        for row in comparison.rows.to_dict("records")
    ]
    heads = (Column("cell"), Column("arm"), *(Column(title, kind) for _, title, kind in shown))
    return Table(f"Differences from the baseline ({_label(folder, comparison.baseline)})", heads, rows)


def _forest(folder: Folder, comparison: Comparison, outcome: Outcome, rows: pd.DataFrame) -> Chart:
    arms = _arms(folder, rows)
    order = {arm.key: number for number, arm in enumerate(arms)}
    lines: list[tuple[Any, ...]] = []
    bands: list[tuple[Any, ...]] = []
    cell = None
    for row in rows.to_dict("records"):
        here = _cell(row, comparison.by)
        if here != cell:
            lines.append((len(lines), None, here, True, *[None] * 3, *[""] * 7))
            cell = here
        arm = folder.arms.named(str(row["arm"]))
        unit = outcome.unit_of_differences
        words = (
            arm.label, here, f"{_signed(row['difference'])} {unit}",
            f"{_signed(row['low'])} to {_signed(row['high'])}", _p(row),
            f"{row['n']}, {row['missing']} missing" if row["missing"] else str(row["n"]), str(row["result"]),
        )  # fmt: skip
        numbers = (rounded(row[name]) for name in ("difference", "low", "high"))
        text = f"{arm.label}: {_signed(row['difference'])} {unit}, {row['result']}"
        if outcome.band is not None:
            size = outcome.band.size * (abs(row["baseline"]) if outcome.band.relative else 1)
            if math.isfinite(size):
                bands.append((len(lines), order[arm.key], rounded(-size), rounded(size)))
        lines.append((len(lines), order[arm.key], text, False, *numbers, *words))
    names = "i g text heading mean low high arm cell difference interval p pairs verdict".split()
    data = {
        "rows": columns(names, lines),
        "band": columns(("i", "g", "low", "high"), bands),
        "zero": {"x": [0]},
    }
    better = "right" if outcome.larger_is_better else "left"
    band = f" The shaded band, ± {outcome.band}, counts as equivalent." if outcome.band else ""
    caption = (
        f"Mean paired difference from the baseline, {_label(folder, comparison.baseline)}, with its 95 % "
        f"interval, for each arm of each cell; better is to the {better}.{band}"
    )
    title = f"difference ({outcome.unit_of_differences})"
    return Chart(f"{outcome.name}: differences", caption, forest_spec(title), data, _styles(arms), "table")


def _scatter(folder: Folder, comparison: Comparison, outcome: Outcome, pairs: pd.DataFrame) -> Chart:
    arms = _arms(folder, pairs)
    order = {arm.key: number for number, arm in enumerate(arms)}
    shown = pairs.head(_MOST_PAIRS)
    points = [
        (
            order[folder.arms.named(str(row["arm"])).key],
            rounded(row["baseline"]),
            rounded(row["value"]),
            folder.arms.named(str(row["arm"])).label,
            _cell(row, comparison.by),
            str(row["run"]),
            f"{row['baseline']:.4g}",
            f"{row['value']:.4g}",
        )
        for row in shown.to_dict("records")
    ]
    ends = [float(shown[["baseline", "value"]].min().min()), float(shown[["baseline", "value"]].max().max())]
    line = [rounded(end) for end in ends]
    data = {
        "pairs": columns(("g", "x", "y", "arm", "cell", "run", "baseline", "value"), points),
        "diagonal": {"x": line, "y": line},
    }
    caption = "A point for each pair of runs with the same seed; on the dashed line, both are equal."
    spec = pairs_spec(f"{outcome.name} ({outcome.unit})")
    return Chart(f"{outcome.name}: pairs of runs", caption, spec, data, _styles(arms), "table")


def _arms(folder: Folder, table: pd.DataFrame) -> list[Arm]:
    """The arms of a table, in the order of legends."""
    found = {arm.key: arm for arm in (folder.arms.named(str(label)) for label in table["arm"].unique())}
    order = {arm.key: at for at, arm in enumerate(folder.arms)}
    return sorted(found.values(), key=lambda arm: order.get(arm.key, len(order)))


def _styles(arms: Sequence[Arm]) -> list[dict[str, Any]]:
    return [{"label": arm.label, "color": arm.color} for arm in arms]


def _label(folder: Folder, key: Any) -> str:
    return folder.arms.named(str(key)).label if key else ""


def _cell(row: Mapping[Any, Any], by: Sequence[str]) -> str:
    return ", ".join(str(row[word]) for word in by) or "all jobs"


def _signed(value: float) -> str:
    return f"{value:+.3g}".replace("-", "−") if math.isfinite(value) else "–"


def _p(row: Mapping[Any, Any]) -> str:
    words = [f"{row['p']:.2g}" if math.isfinite(row["p"]) else "–"]
    if math.isfinite(row["p_holm"]):
        words.append(f"{row['p_holm']:.2g} (Holm)")
    return ", ".join(words)
