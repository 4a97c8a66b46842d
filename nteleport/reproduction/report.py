"""The answers as Markdown and JSON. No torch."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from nteleport.reproduction.answers import DOES_NOT_HOLD, HOLDS, NOT_RUN, Row
from nteleport.reproduction.pictures import Picture

_RULES = """\
Accuracies are validation accuracies, and differences are paired: both trainings of a pair start from the
same weights and see the same batches. Brackets are 95 % t intervals over the seeds. A gain holds when its
interval lies above zero at the early or the middle epoch and below zero at none; "no gain" holds when it
lies above zero at neither of the two.\
"""


def markdown(rows: Sequence[Row], tier: str, pictures: Sequence[Picture], folder: Path) -> str:
    """A table with one row a claim, how it was judged, and the pictures behind it.

    Args:
        folder: in which the text will be; pictures are named relative to it.
    """
    lines = [f"Tier `{tier}`: {summary(rows)}.", "", *_RULES.splitlines(), ""]
    lines += ["| Fig. | The paper says | Here | Measured | Verdict |", "|---|---|---|---|---|"]
    for row in rows:
        cells = (str(row.figure), row.says, row.here, row.measured, f"**{row.verdict}**")
        lines.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
    for picture in pictures:
        caption = f"Fig. {picture.figure}: {picture.shows}"
        lines += ["", f"![{caption}]({picture.path.relative_to(folder).as_posix()})", "", caption]
    return "\n".join(lines) + "\n"


def as_json(rows: Sequence[Row], tier: str) -> str:
    """The same as JSON; a bound that does not exist is null."""
    content = {"tier": tier, "summary": dict(verdicts(rows)), "rows": [_finite(asdict(row)) for row in rows]}
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"


def summary(rows: Sequence[Row]) -> str:
    """How many claims hold, do not hold, and were not run."""
    counts = verdicts(rows)
    return ", ".join(f"{counts[verdict]} {verdict}" for verdict in (HOLDS, DOES_NOT_HOLD, NOT_RUN))


def verdicts(rows: Sequence[Row]) -> Counter[str]:
    """How many rows have each verdict."""
    return Counter(row.verdict for row in rows)


def _finite(row: dict[str, Any]) -> dict[str, Any]:
    numbers = {key: value if math.isfinite(value) else None for key, value in row["numbers"].items()}
    return {**row, "numbers": numbers}
