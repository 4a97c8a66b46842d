"""What `tuning.csv` says of the jobs that are compared: the chosen point of each arm, and how it was."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd

from nteleport.comparison.arms import Arm, Cell, one_line, untuned_label
from nteleport.errors import ResultsError
from nteleport.jobs.table import JobResult, Results, Scalar
from nteleport.jobs.tuning import ARM, good_range, run_columns, training_of, tuned_keys
from nteleport.plots.wording import number

__all__ = ["Tuned", "points_of", "read_choices", "width_cell"]

_HELD_OUT = "held out"
_RATE = "optimizer.lr"

BY_NAME = (
    "there is no tuning.csv: arms are compared at the same learning rate by name, which teleporting "
    "multiplies; this decides nothing"
)


@dataclass(frozen=True)
class Tuned:
    """The jobs that are compared, and how their values were chosen.

    Attributes:
        positions: in `Results.jobs`.
        keys: the tuned hyper-parameters.
        groups: the rows of the table of each job's arm, by position; absent where the arm was not tuned.
        notes: what a reader must know.
    """

    positions: Sequence[int]
    keys: Sequence[str] = ()
    groups: Mapping[int, pd.DataFrame] = field(default_factory=dict)
    notes: Sequence[str] = ()

    def complaint(self, cell: Cell) -> str:
        """Why the arms of a cell are not comparable: how they were tuned; "" if they are."""
        if not self.keys:
            return BY_NAME
        effort: dict[str, set[Hashable]] = {
            label: {_effort(self.groups.get(position)) for position in arm.jobs.values()}
            for label, arm in cell.arms.items()
        }
        untuned = [label for label, efforts in effort.items() if None in efforts]
        if untuned:
            return f"not tuned: {'; '.join(untuned)}"
        if len(set(map(frozenset, effort.values()))) > 1:
            counts = "; ".join(f"{label}: {_trials(efforts)}" for label, efforts in effort.items())
            return f"arms were tuned unequally ({counts})"
        return ""


def _effort(group: pd.DataFrame | None) -> Hashable:
    """The points of the grid as written, the runs at each, and the score that chose."""
    if group is None:
        return None
    written = group[group["round"] == 0]
    keys, runs = _keys_of(group), run_columns(group)
    points = frozenset(zip(*(written[key].tolist() for key in keys), strict=True))
    tried = frozenset(run for run in runs if written[run].notna().any())
    return points, tried, frozenset(group["by"])


def _keys_of(group: pd.DataFrame) -> list[str]:
    """The keys that were tuned for an arm: another experiment in the folder may have tuned others."""
    return [key for key in tuned_keys(group) if not (group[key].isna() | (group[key] == "")).all()]


def _trials(efforts: set[Hashable]) -> str:
    found = [f"{len(points)} points × {len(runs)} runs" for points, runs, _ in efforts]  # type: ignore[misc, has-type]
    return " and ".join(sorted(found))


def read_choices(results: Results, tuning: pd.DataFrame | None) -> Tuned:
    """The jobs at the points that were chosen, on runs that did not choose.

    Jobs at other points, and those with the run of a tuning job, are left out.

    Raises:
        ResultsError: the table lacks columns; an arm was chosen on data that are reported, too; or no job is
            left.
    """
    everything = range(len(results.jobs))
    if tuning is None or tuning.empty:
        return Tuned(everything)
    _check(tuning)
    keys = tuned_keys(tuning)
    arms = _Arms(tuning)
    groups: dict[int, pd.DataFrame] = {}
    kept: list[int] = []
    lost: Counter[str] = Counter()
    for position, job in enumerate(results.jobs):
        group = arms.of(job)
        reason = "" if group is None else _why_not(job, group)
        if reason:
            lost[reason] += 1
            continue
        kept.append(position)
        if group is not None:
            groups[position] = group
    notes = [f"{count} jobs are left out: {reason}" for reason, count in lost.items()]
    if not kept:
        raise ResultsError(f"no job of {results.directory} can be compared: {'; '.join(notes)}")
    edges = dict.fromkeys(
        one_line(results.jobs[position].hparams.get("teleport"))
        for position, group in groups.items()
        if group.loc[group["chosen"], "edge"].iloc[0]
    )
    if edges:
        notes.append(
            "chosen on the edge of a grid that could not be extended, so perhaps not the best: "
            f"{'; '.join(edges)}"
        )
    return Tuned(kept, keys, groups, notes)


def _check(tuning: pd.DataFrame) -> None:
    """Check the columns of a table of tuning, and that no score was measured on data that are reported.

    Raises:
        ResultsError: see there.
    """
    expected = (*ARM, "round", "score", "chosen", "edge", "by", "data")
    missing = [name for name in expected if name not in tuning]
    if missing:
        raise ResultsError(f"the table of tuning has no column {missing[0]!r}, expected that of tuning.csv")
    seen = sorted({str(data) for data in tuning["data"]} - {_HELD_OUT})
    if seen:
        raise ResultsError(
            f"the tuned values were chosen on data that are reported, too ({', '.join(seen)}): expected a "
            "score on images that were held out, by `validation` in training_params"
        )


def _why_not(job: JobResult, group: pd.DataFrame) -> str:
    """Why a job of a tuned arm is no reported job; "" if it is one."""
    chosen = group[group["chosen"]]
    if chosen.empty:
        return "the tuning of their arm is not over yet"
    if not all(_same(job.hparams.get(key), chosen[key].iloc[0]) for key in _keys_of(group)):
        return "their tuned values were not chosen"
    runs = {int(name.rpartition(" ")[2]) for name in run_columns(group) if group[name].notna().any()}
    if job.hparams.get("run") in runs:
        return "their run chose the tuned values, so it does not count as a result"
    return ""


class _Arms:
    """The rows of the table, by arm."""

    def __init__(self, tuning: pd.DataFrame) -> None:
        self.groups: dict[tuple[str, ...], list[tuple[dict[str, Any], pd.DataFrame]]] = {}
        """By the tuned keys and the labels."""
        self.tuned: dict[tuple[str, ...], None] = {}
        for values, group in tuning.groupby(list(ARM), sort=False):
            *labels, training = map(str, values)
            keys = tuple(_keys_of(group))
            self.tuned[keys] = None
            self.groups.setdefault((*keys, *labels), []).append((_training(training), group))

    def of(self, job: JobResult) -> pd.DataFrame | None:
        """The rows of a job's arm; None if it was not tuned."""
        for keys in self.tuned:
            labels = (untuned_label(str(job.hparams.get(part)), part, keys) for part in ARM[:-1])
            for training, group in self.groups.get((*keys, *labels), ()):
                if all(_same(job.hparams.get(f"training.{key}"), value) for key, value in training.items()):
                    return group
        return None


def _training(text: str) -> dict[str, Any]:
    training = training_of(text)
    if training is None:
        raise ResultsError(f"the table of tuning has training {text[:60]!r}, expected a mapping as JSON")
    return training


def _same(one: Scalar | None, other: Any) -> bool:
    """Whether two values are the same choice, however numbers are written."""
    try:
        return math.isclose(float(one), float(other), rel_tol=1e-9)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return str(one) == str(other)


def width_cell(cell: Cell, tuned: Tuned) -> tuple[Cell, pd.DataFrame, int]:
    """A cell as its tuning saw it, the width of the good range of rates of each tuning run, and how many of
    these ranges reach an end of their grid, so that they are at least so wide.

    A width is in decades: of the rates around the best whose score is at most one point lower, each at its
    best with respect to the other tuned values.

    Raises:
        ResultsError: no learning rate was tuned.
    """
    if _RATE not in tuned.keys:
        raise ResultsError(
            f"lr_width needs a tuning.csv with {_RATE}, which a key `tune` in the experiment file makes"
        )
    widths: list[float] = []
    arms = {}
    open_ended = 0
    for label, arm in cell.arms.items():
        seen: dict[Any, int] = {}
        for (setting, _), position in arm.jobs.items():
            group = tuned.groups.get(position)
            for run in run_columns(group) if group is not None else ():
                unit = (run.rpartition(" ")[2], "tuning")
                best = group.groupby(_RATE)[run].max().dropna()  # type: ignore[union-attr]
                if (setting, unit) in seen or len(best) == 0:
                    continue
                found = good_range(best.index.tolist(), best.tolist())
                seen[setting, unit] = len(widths)
                widths.append(found.decades)
                open_ended += found.open_below or found.open_above
        arms[label] = replace(arm, jobs=seen)
    measures = pd.DataFrame({"value": np.array(widths, dtype=np.float64), "end": math.nan})
    return Cell(cell.values, arms), measures, open_ended


def points_of(arm: Arm, results: Results, keys: Sequence[str]) -> str:
    """The tuned values of an arm: "lr 0.1, weight_decay 0.01"."""
    found = {_point(results.jobs[position], keys) for position in arm.jobs.values()}
    return "; ".join(sorted(found))


def _point(job: JobResult, keys: Sequence[str]) -> str:
    values = {key.rpartition(".")[2]: job.hparams.get(key) for key in keys}
    return ", ".join(f"{name} {number(value)}" for name, value in values.items() if value is not None)
