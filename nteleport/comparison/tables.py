"""A comparison as a file: Markdown for people, CSV and JSON for programs."""

from __future__ import annotations

import html
import json
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import pandas as pd

from nteleport.comparison.comparison import Comparison

__all__ = ["FORMATS", "as_csv", "as_json", "as_markdown"]

_HEADER = ("Arm", "Outcome", "n", "Baseline", "Arm's", "Difference [95 %]", "p", "Holm", "p of ≈", "Result")


def as_markdown(comparison: Comparison) -> str:
    """The notes, then for each cell its verdicts and a table; numbers rounded."""
    lines = [f"- {_safe(note)}" for note in comparison.notes]
    for values, rows in _cells(comparison, comparison.rows):
        title = ", ".join(values.values()) or "All jobs"
        lines += ["", f"## {_safe(title)}", ""]
        for each in _of_cell(comparison.verdicts, values).to_dict("records"):
            arm = f"{_safe(each['arm'])}: " if each["arm"] else ""
            lines += [f"- {arm}**{each['verdict']}** ({_safe(each['because'])})"]
        lines += ["", _line(_HEADER), _line(["---"] * len(_HEADER))]
        lines += [_line(_in_words(row)) for row in rows.to_dict("records")]
    lines += ["", f"Baseline: {_safe(comparison.baseline)}. {_EXPLAINED}"]
    return "\n".join(lines).lstrip("\n") + "\n"


_EXPLAINED = (
    "Differences are arm minus baseline over pairs of one seed, with 95 % t intervals; p is that of a "
    "sign-flip test, Holm's that of the first outcome among the arms of a cell, p of ≈ that of two one-sided "
    "t tests against the band of equivalence. Accuracies are in percent, their differences in points."
)


def _cells(comparison: Comparison, table: pd.DataFrame) -> Iterator[tuple[dict[str, str], pd.DataFrame]]:
    """The rows of each cell, with its values."""
    by = list(comparison.by)
    for values in table[by].drop_duplicates().to_dict("records"):
        named = {str(key): str(value) for key, value in values.items()}
        yield named, _of_cell(table, named)


def _of_cell(table: pd.DataFrame, values: Mapping[str, str]) -> pd.DataFrame:
    keep = pd.Series(True, index=table.index)
    for key, value in values.items():
        keep &= table[key] == value
    return table[keep]


def _in_words(row: Mapping[Any, Any]) -> list[str]:
    n = f"{row['n']}" if not row["missing"] else f"{row['n']} of {row['n'] + row['missing']}"
    unit = f" {row['unit']}" if row["unit"] else ""
    difference = f"{_number(row['difference'], '+.3g')} [{_number(row['low'])}, {_number(row['high'])}]"
    error = f" ± {row['p_error']:.1g}" if row["p_error"] > 0 else ""
    p = f"{_number(row['p'], '.2g')}{error}"
    censored = [f" ({row[key]} never)" if row[key] else "" for key in ("baseline_censored", "censored")]
    values = [
        f"{_number(row[key], '.4g')}{unit}{cut}"
        for key, cut in zip(("baseline", "value"), censored, strict=True)
    ]
    same = _number(row["p_equivalent"], ".2g")
    band = f"{same} (± {row['band']})" if same else ""
    holm = _number(row["p_holm"], ".2g")
    result = row["result"] if row["n"] else "no pairs"
    arm = f"{row['arm']} ({row['point']})" if row["point"] else row["arm"]
    return [_safe(arm), row["outcome"], n, *values, difference, p, holm, band, result]


def _number(value: float, style: str = ".3g") -> str:
    return "" if math.isnan(value) else format(value, style).replace("-", "−")


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _safe(text: object) -> str:
    """Text that Markdown shows as it is: names of files may hold markup."""
    escaped = html.escape(str(text), quote=False)
    return re.sub(r"[\\`*\[\]|~]|(?<!\w)_|_(?!\w)", r"\\\g<0>", escaped)


def as_csv(comparison: Comparison) -> str:
    """The rows with all digits, each with the verdict on its arm, so that neither goes without the other."""
    keys = [*comparison.by, "arm", "outcome"]
    table = comparison.rows.merge(comparison.verdicts, how="left", on=keys, sort=False)
    return str(table.to_csv(index=False, lineterminator="\n"))


def as_json(comparison: Comparison) -> str:
    """Everything, pairs included; what is not a number is null."""
    content = {
        "notes": list(comparison.notes),
        "baseline": comparison.baseline,
        "by": list(comparison.by),
        "outcomes": [
            {
                "name": outcome.name,
                "unit": outcome.unit,
                "larger_is_better": outcome.larger_is_better,
                "band": None if outcome.band is None else str(outcome.band),
            }
            for outcome in comparison.outcomes
        ],
        "verdicts": _records(comparison.verdicts),
        "rows": _records(comparison.rows),
        "pairs": _records(comparison.pairs),
    }
    return json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _records(table: pd.DataFrame) -> list[dict[str, Any]]:
    return [
        {
            str(key): None if isinstance(value, float) and not math.isfinite(value) else value
            for key, value in row.items()
        }
        for row in table.to_dict("records")
    ]


FORMATS: Mapping[str, Callable[[Comparison], str]] = {"md": as_markdown, "csv": as_csv, "json": as_json}
"""By the ending of a file."""
