"""The table of tuning, `tuning.csv` in an output folder, and the folder of tuning jobs beside it. No torch.

This module is the only writer and the only reader of the table. It has one row per arm, cell and point of the
grid. Its columns are, in this order:

========================  ============================================================================
`ARM`                     the arm and its cell: labels as in `Job.hparams`, but `optimizer` without the
                          tuned values; `training` is the JSON text of the training parameters
`optimizer.lr`, …         the point: one column per tuned key
`round`                   0 for the grid as written, k for its k-th extension
`run 0`, …                one column per tuning run with its score, empty while it is missing
`score`                   their mean, empty while one is missing
`chosen`                  whether the arm is reported at this point
`edge`                    whether it is chosen on the edge of a grid that could not be extended
`by`                      what the score is, such as `val_accuracy`
`data`                    what the score was measured on: `held out`
========================  ============================================================================
"""

from __future__ import annotations

import csv
import io
import json
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nteleport.errors import JobError, ResultsError
from nteleport.jobs.atomic import write_text_atomic
from nteleport.jobs.folders import TUNING
from nteleport.jobs.job import Job
from nteleport.jobs.state import JobState, recorded_state
from nteleport.vocabulary import TuningScore

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "ARM",
    "GoodRange",
    "TuningRow",
    "arm_of",
    "good_range",
    "read_tuning",
    "run_columns",
    "score_of",
    "training_of",
    "tuned_keys",
    "tuning_folder",
    "tuning_table",
    "write_tuning",
]

ARM = ("dataset", "model", "initializer", "optimizer", "lr_scheduler", "teleport", "training")
"""The columns that tell arms, and their cells, from each other."""

_END = ("score", "chosen", "edge", "by", "data")
_RUN = "run "
_TUNED_KEY = re.compile(r"[A-Za-z_]\w*(\.\w+)*")
_HELD_OUT = "held out"
_LARGEST_FILE = 200_000_000
"""Bytes; 100,000 tuning jobs take fewer than 40,000,000."""


def tuning_folder(out: Path) -> Path:
    """The folder of the tuning jobs of an output folder: an output folder, too."""
    return out / TUNING


def tuning_table(out: Path) -> Path:
    """The path of `tuning.csv`."""
    return out / f"{TUNING}.csv"


@dataclass(frozen=True)
class TuningRow:
    """One arm of a cell at one point of the grid.

    Attributes:
        arm: the values of `ARM`.
        point: the value of each tuned key, by its dotted name.
        round: 0 for the grid as written, k for its k-th extension.
        scores: of each tuning run, in [0, 1]; None while it is missing.
        by: what the score is.
        chosen: whether the arm is reported at this point.
        edge: whether it is chosen on the edge of a grid that could not be extended.
    """

    arm: Mapping[str, str]
    point: Mapping[str, Any]
    round: int
    scores: Mapping[int, float | None]
    by: str
    chosen: bool = False
    edge: bool = False

    @property
    def score(self) -> float | None:
        """The mean over the runs, which does not depend on their order; None while one is missing."""
        known = [score for score in self.scores.values() if score is not None]
        return math.fsum(known) / len(known) if len(known) == len(self.scores) else None

    def as_text(self) -> dict[str, str]:
        """The row as in the file."""
        return {
            **self.arm,
            **{
                key: value if isinstance(value, str) else json.dumps(value)
                for key, value in self.point.items()
            },
            "round": str(self.round),
            **{f"{_RUN}{run}": _number(score) for run, score in self.scores.items()},
            "score": _number(self.score),
            "chosen": json.dumps(self.chosen),
            "edge": json.dumps(self.edge),
            "by": self.by,
            "data": _HELD_OUT,
        }


def arm_of(job: Job) -> dict[str, str]:
    """The values of `ARM` for a job whose optimizer lacks the tuned values."""
    hparams = job.hparams()
    training = {
        key.removeprefix("training."): value for key, value in hparams.items() if key.startswith("training.")
    }
    return {**{key: str(hparams[key]) for key in ARM[:-1]}, "training": json.dumps(training)}


def training_of(text: str) -> dict[str, Any] | None:
    """The training parameters in the column `training` of `ARM`; None if they are damaged."""
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return content if isinstance(content, dict) else None


def score_of(result: Mapping[str, Any], by: TuningScore, chance: float) -> float | None:
    """The score of a tuning job, from the content of its `result.json`; None if it has none (yet).

    A diverged job, and one whose accuracy is no number, has the score of chance. A failed one has none.
    """
    state = recorded_state(result)
    if state is None or not state.is_over:
        return None
    kept: Mapping[str, Any] = result.get("best" if by == "best_val_accuracy" else "final", {})
    score = kept.get("val_accuracy") if state is JobState.FINISHED else None
    return chance if score is None else float(score)


def write_tuning(out: Path, rows: Sequence[TuningRow]) -> None:
    """Replace the rows of these arms in `tuning.csv`; rows of other arms stay, after them.

    Raises:
        JobError: it cannot be written.
        ResultsError: there is a `tuning.csv` that is not such a table; it stays as it is.
    """
    ours = [row.as_text() for row in rows]
    arms = {_arm(row) for row in ours}
    table = [*ours, *(row for row in _read_text(tuning_table(out)) if _arm(row) not in arms)]
    present = dict.fromkeys(name for row in table for name in row)
    keys = [name for name in present if name not in (*ARM, "round", *_END) and not _is_run(name)]
    runs = sorted((name for name in present if _is_run(name)), key=_run_number)
    text = io.StringIO()
    writer = csv.DictWriter(text, [*ARM, *keys, "round", *runs, *_END], restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(table)
    try:
        out.mkdir(parents=True, exist_ok=True)
        write_text_atomic(tuning_table(out), text.getvalue())
    except OSError as error:
        raise JobError(f"cannot write {tuning_table(out)}: {error.strerror}") from error


def read_tuning(out: Path) -> pd.DataFrame | None:
    """The table of tuning of an output folder; None if it has none.

    Tuned keys are numbers where all their values are; `round` is an integer, the scores are floats (NaN where
    one is missing), `chosen` and `edge` are booleans, the rest is text.

    Raises:
        ResultsError: the file cannot be read, or is not such a table.
    """
    import pandas as pd

    path = tuning_table(out)
    if not path.exists():
        return None
    rows = _read_text(path)
    table = pd.DataFrame(rows, dtype="str")
    for name in table.columns:
        if name in tuned_keys(table):
            numbers = pd.to_numeric(table[name].where(table[name] != ""), errors="coerce")
            if numbers.notna().eq(table[name] != "").all():
                table[name] = numbers
        elif name == "score" or _is_run(name):
            table[name] = pd.to_numeric(table[name].where(table[name] != "")).astype("float64")
        elif name == "round":
            table[name] = table[name].astype("int64")
        elif name in ("chosen", "edge"):
            table[name] = table[name] == "true"
    return table


def tuned_keys(table: pd.DataFrame) -> list[str]:
    """The columns of a table of tuning that are tuned keys."""
    names = list(table.columns)
    return names[len(ARM) : names.index("round")]


def run_columns(table: pd.DataFrame) -> list[str]:
    """The columns of a table of tuning that hold the scores of the runs."""
    return [name for name in table.columns if _is_run(name)]


@dataclass(frozen=True)
class GoodRange:
    """The values of a tuned number around the best whose score is good enough.

    Attributes:
        low, high: its ends; between two points of the grid the score is linear in the logarithm.
        open_below, open_above: whether it reaches the end of the grid, and may be wider.
    """

    low: float
    high: float
    open_below: bool
    open_above: bool

    @property
    def decades(self) -> float:
        """Its width."""
        return math.log10(self.high / self.low)


def good_range(values: Sequence[float], scores: Sequence[float], within: float = 0.01) -> GoodRange:
    """The range around the best score where the score is at most `within` (a fraction) lower.

    Args:
        values: positive and increasing; shape (points,).
        scores: of each value; shape (points,), none missing. Of equal scores, the first is the best.
        within: in the unit of the scores: 0.01 is one point of an accuracy.
    """
    best = max(range(len(scores)), key=lambda at: (scores[at], -at))
    enough = scores[best] - within

    def end(step: int) -> tuple[float, bool]:
        at = best
        while 0 <= at + step < len(scores) and scores[at + step] >= enough:
            at += step
        beyond = at + step
        if not 0 <= beyond < len(scores):
            return values[at], True
        share = (scores[at] - enough) / (scores[at] - scores[beyond])
        return values[at] * (values[beyond] / values[at]) ** share, False

    (low, open_below), (high, open_above) = end(-1), end(1)
    return GoodRange(low, high, open_below, open_above)


def _read_text(path: Path) -> list[dict[str, str]]:
    """The rows of a table of tuning, as text; none if there is no file.

    Raises:
        ResultsError: it cannot be read, or is not such a table.
    """
    try:
        if path.stat().st_size > _LARGEST_FILE:
            raise ResultsError(f"{path} has more than {_LARGEST_FILE:,} bytes, expected a table of tuning")
        text = path.read_bytes().decode("utf-8")
    except FileNotFoundError:
        return []
    except OSError as error:
        raise ResultsError(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError:
        raise ResultsError(f"{path} is not UTF-8 text, expected a table of tuning") from None
    try:
        header, *rows = csv.reader(io.StringIO(text, newline=""), strict=True)
    except (csv.Error, ValueError):
        header, rows = [], []
    _check_header(path, header)
    table = []
    for number, row in enumerate(rows, start=2):
        named = dict(zip(header, row, strict=False))
        if len(row) != len(header) or not _is_row(named):
            raise ResultsError(f"{path}: row {number} is damaged, expected a row of a table of tuning")
        table.append(named)
    chosen = Counter(_arm(row) for row in table if row["chosen"] == "true")
    if chosen and max(chosen.values()) > 1:
        raise ResultsError(f"{path} is damaged: several rows of an arm are chosen, expected one")
    return table


def _check_header(path: Path, header: Sequence[str]) -> None:
    """Check the names of the columns and their order.

    Raises:
        ResultsError: these are not the columns of a table of tuning.
    """
    at = header.index("round") if "round" in header else 0
    keys, runs = header[len(ARM) : at], header[at + 1 : -len(_END)]
    expected = [*ARM, *keys, "round", *runs, *_END]
    once = len(set(header)) == len(header)
    named = all(_TUNED_KEY.fullmatch(key) for key in keys)
    if keys and named and runs and all(map(_is_run, runs)) and once and list(header) == expected:
        return
    raise ResultsError(
        f"{path} is not a table of tuning: expected the columns {', '.join((*ARM, '…', 'round'))}, …"
    )


def _is_row(row: Mapping[str, str]) -> bool:
    """Whether the numbers of a row are numbers, and its truth values true or false."""
    numbers = [row["score"], *(value for name, value in row.items() if _is_run(name))]
    return (
        row["round"].isdecimal()
        and len(row["round"]) < 10
        and {row["chosen"], row["edge"]} <= {"true", "false"}
        and all(map(_is_score, filter(None, numbers)))
    )


def _is_score(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def _arm(row: Mapping[str, str]) -> tuple[str, ...]:
    return tuple(row[name] for name in ARM)


def _is_run(name: str) -> bool:
    number = name.removeprefix(_RUN)
    return name.startswith(_RUN) and number.isdecimal() and len(number) < 20


def _run_number(name: str) -> int:
    return int(name.removeprefix(_RUN))


def _number(score: float | None) -> str:
    return "" if score is None else repr(float(score))
