"""The answers as Markdown and JSON. No torch."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from nteleport.errors import ResultsError
from nteleport.plots.report import plot_results
from nteleport.reproduction.answers import DOES_NOT_HOLD, HOLDS, NOT_RUN, Row
from nteleport.reproduction.claims import Claim, StudyClaim, TrainingClaim
from nteleport.reproduction.folder import Layout

_RULES = """\
Accuracies are validation accuracies, and differences are paired: both trainings of a pair start from the
same weights and see the same batches. Brackets are 95% t intervals over the seeds. A gain holds when its
interval lies above zero at the early or the middle epoch and below zero at none; "no gain" holds when it
lies above zero at neither of the two. Trainings are compared at the published learning rates, the same for
both sides. Teleporting multiplies the rate of each weight, so these verdicts do not say which side is better
at its own best rate.\
"""


def markdown(rows: Sequence[Row], tier: str, pictures: Sequence[Picture], folder: Path) -> str:
    """A table with one row per claim, the rules of judgment, and the pictures.

    Args:
        folder: the folder of the text; picture paths are relative to it.
    """
    lines = [f"Tier `{tier}`: {summary(rows)}.", "", *_RULES.splitlines(), ""]
    lines += ["| Fig. | The paper says | Here | Measured | Verdict |", "|---|---|---|---|---|"]
    for row in rows:
        verdict = f"**{row.verdict}** {row.condition}".rstrip()
        cells = (str(row.figure), row.says, row.here, row.measured, verdict)
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


_SEED = 0
"""The seed whose study pictures are shown."""


@dataclass(frozen=True)
class Picture:
    """A picture and what it shows, in words."""

    figure: int
    shows: str
    path: Path


def draw_pictures(claims: Sequence[Claim], layout: Layout) -> list[Picture]:
    """Draw every experiment as far as it is trained; returns these pictures and those of the studies."""
    pictures: list[Picture] = []
    drawn: set[tuple[str, ...]] = set()
    for claim in claims:
        if isinstance(claim, StudyClaim):
            pictures += _of_study(claim, layout)
        elif claim.experiments not in drawn:
            drawn.add(claim.experiments)
            pictures += _of_experiment(claim, layout)
    return pictures


def _of_study(claim: StudyClaim, layout: Layout) -> Iterator[Picture]:
    folder = layout.study(claim, _SEED).folder
    for path in sorted(folder.glob("*.png")):
        yield Picture(claim.figure, f"study {path.stem}, {claim.name}, seed {_SEED}", path)


def _of_experiment(claim: TrainingClaim, layout: Layout) -> Iterator[Picture]:
    """Curves and boxes are drawn; only the boxes are shown."""
    names = {job.name for job in layout.expand(claim)}
    experiment = Path(claim.experiments[0]).stem
    try:
        drawn = plot_results(
            layout.jobs,
            metrics=["val_accuracy"],
            boxplot=True,
            out_dir=layout.pictures / experiment,
            only=names,
        )
    except ResultsError:  # nothing of it is trained yet
        return
    for path in drawn.files:
        if path.match("*-boxes.png"):
            yield Picture(claim.figure, f"{experiment}.yml", path)
