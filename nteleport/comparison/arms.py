"""Cells, arms and pairs: which jobs of a folder differ in nothing but what is compared.

A cell is a combination of `by`. Its arms are its teleportations, one of which is the baseline. Two jobs form
a pair where they agree in everything but the teleportation and the tuned values, the seed included, so that
they start from the same initial weights and see the same batches.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from nteleport.errors import ResultsError, nearest
from nteleport.jobs.table import JobResult, Results, Scalar
from nteleport.plots.panels import REPETITION, expand, hyper_parameters, identity, of_teleportation, value_of
from nteleport.plots.wording import labels_with_state
from nteleport.vocabulary import MODES

__all__ = [
    "BY",
    "Arm",
    "Cell",
    "arm_named",
    "cells_of",
    "differences_of",
    "horizon_of",
    "one_line",
    "untuned_label",
    "values_of",
]

BY = ("dataset", "model", "initializer", "optimizer")
"""What cells differ in unless something else is asked for."""

_OF_ARMS = "training.certificates"
"""A hyper-parameter that a job without teleportations does not have; of no influence on the training."""

Unit = tuple[str, str]
"""Run and seed: what a pair shares."""

Setting = frozenset[tuple[str, tuple[bool, Scalar | None]]]
"""All other hyper-parameters that a pair shares."""


@dataclass(frozen=True)
class Arm:
    """The jobs of one teleportation in one cell.

    Attributes:
        label: the teleportation in words: "random, once at 0, inter 0.9".
        mode: its mode; "" where the jobs do not say.
        options: its other hyper-parameters, `teleport.*`.
        jobs: positions in `Results.jobs`, by setting and unit.
    """

    label: str
    mode: str
    options: Mapping[str, Scalar]
    jobs: dict[tuple[Setting, Unit], int] = field(default_factory=dict)

    @property
    def units(self) -> set[Unit]:
        return {unit for _, unit in self.jobs}


@dataclass(frozen=True)
class Cell:
    """The arms of one combination of `by`, the baseline among them where it has jobs.

    Attributes:
        values: of each word of `by`, in words.
        arms: by label, in the order of legends.
    """

    values: Mapping[str, str]
    arms: Mapping[str, Arm]

    @property
    def name(self) -> str:
        return ", ".join(self.values.values()) or "all jobs"


def cells_of(
    results: Results, positions: Sequence[int], by: Sequence[str] | None, tuned: Sequence[str]
) -> tuple[list[Cell], list[str]]:
    """The cells of the jobs at `positions`, and what a reader must know of them.

    Args:
        results: the jobs.
        positions: those that are compared.
        by: words that tell cells apart: hyper-parameters or whole parts; None for `BY`, where they exist.
        tuned: hyper-parameters that were tuned for each arm, and so do not tell cells apart.

    Raises:
        ResultsError: a word is not a hyper-parameter.
    """
    jobs = [results.jobs[position] for position in positions]
    keys = hyper_parameters(jobs)
    present = {key.split(".")[0] for key in keys}
    words = [word for word in BY if word in present] if by is None else list(dict.fromkeys(by))
    told = [key for word in words for key in expand(word, keys) if key not in tuned]
    teleporting = [key for key in told if of_teleportation(key)]
    if teleporting:
        raise ResultsError(
            f"cells cannot differ in {teleporting[0]!r}, which is of arms: expected words such as "
            f"{', '.join(BY)}"
        )
    shared = [key for key in keys if not (of_teleportation(key) or key in (*tuned, *REPETITION, _OF_ARMS))]
    labels = _labels(jobs)
    cells: dict[tuple[object, ...], Cell] = {}
    copies = 0
    for position, job, label in zip(positions, jobs, labels, strict=True):
        place = tuple(identity(job.hparams.get(key)) for key in told)
        cell = cells.setdefault(place, Cell({word: _in_words(job, word, tuned) for word in words}, {}))
        options = {key: value for key, value in job.hparams.items() if key.startswith("teleport.")}
        mode = str(options.pop("teleport.mode", ""))
        arms = cell.arms
        assert isinstance(arms, dict)
        arm = arms.setdefault(label, Arm(label, mode, options))
        setting = frozenset((key, identity(job.hparams.get(key))) for key in shared)
        copies += (setting, _unit(job)) in arm.jobs
        arm.jobs.setdefault((setting, _unit(job)), position)
    notes = [f"{copies} copies of jobs are left out: each training counts once"] if copies else []
    return [Cell(cell.values, _in_order(cell.arms)) for cell in cells.values()], notes


def _unit(job: JobResult) -> Unit:
    return str(job.hparams.get("run", "")), str(job.hparams.get("seed", ""))


def _labels(jobs: Sequence[JobResult]) -> list[str]:
    """The arm of each job; what happens to the optimizer's state is named where it tells arms apart."""
    labels = [one_line(value_of(job.hparams, "teleport") or "no teleportation") for job in jobs]
    return labels_with_state(labels, [job.hparams.get("training.optimizer_state") for job in jobs])


def _in_words(job: JobResult, word: str, tuned: Sequence[str]) -> str:
    """The value of a word of `by`, in one line."""
    text = str(value_of(job.hparams, word))
    if word in job.hparams:
        text = untuned_label(text, word, tuned)
    return one_line(text)


def one_line(text: object) -> str:
    """Text from a file as one line that every terminal can show."""
    return "".join(each if each.isprintable() else "?" for each in " ".join(str(text).split()))


def untuned_label(label: str, part: str, tuned: Sequence[str]) -> str:
    """A label of `Job.hparams` without tuned values: "SGD lr=0.01 momentum=0.9" as "SGD momentum=0.9"."""
    for key in tuned:
        owner, _, name = key.partition(".")
        if owner == part:
            label = re.sub(rf" {re.escape(name)}=.*?(?= \w+=|$)", "", label, flags=re.DOTALL)
    return label


def _in_order(arms: Mapping[str, Arm]) -> dict[str, Arm]:
    order = list(MODES)
    return dict(
        sorted(
            arms.items(),
            key=lambda item: (order.index(item[1].mode) if item[1].mode in order else len(order), item[0]),
        )
    )


def arm_named(name: str, cells: Sequence[Cell]) -> str:
    """The label of the arm with this label or this mode.

    Raises:
        ResultsError: there is none, or several arms have the mode.
    """
    arms = {arm.label: arm for cell in cells for arm in cell.arms.values()}
    if name in arms:
        return name
    labels = [label for label, arm in arms.items() if arm.mode == name]
    if len(labels) == 1:
        return labels[0]
    modes = list(dict.fromkeys(arm.mode for arm in arms.values() if arm.mode))
    if labels:
        raise ResultsError(
            f"several arms have the mode {name!r}, expected one of {'; '.join(map(repr, labels))}"
        )
    raise ResultsError(
        f"no arm {name!r}{nearest(name, [*modes, *arms])}\n"
        f"these exist: {'; '.join(map(repr, [*modes, *arms]))}"
    )


def differences_of(first: Arm, second: Arm, measures: pd.DataFrame, horizon: float) -> pd.DataFrame:
    """The pairs of two arms: a row for each unit, averaged over the settings that it has in both.

    Args:
        first, second: the arms; the differences are first minus second.
        measures: made by `nteleport.comparison.outcomes.measured`.
        horizon: times are cut off there; NaN for outcomes that are no times.

    Returns:
        Columns: `run`, `seed`, `baseline`, `value` (of the first arm), `difference`, and whether one of the
        runs was cut off: `baseline_censored`, `censored`.
    """
    rows: dict[Unit, list[tuple[float, float, bool, bool]]] = {}
    value = measures["value"].to_numpy()
    for key in first.jobs.keys() & second.jobs.keys():
        one, other = float(value[first.jobs[key]]), float(value[second.jobs[key]])
        if math.isnan(one) or math.isnan(other):
            continue
        cut = (other > horizon, one > horizon)
        if not math.isnan(horizon):
            one, other = min(one, horizon), min(other, horizon)
        if math.isfinite(one) and math.isfinite(other):
            rows.setdefault(key[1], []).append((other, one, *cut))
    table = pd.DataFrame(
        [
            (*unit, *np.mean([row[:2] for row in rows[unit]], axis=0), *_any(rows[unit]))
            for unit in sorted(rows, key=_numerically)
        ],
        columns=["run", "seed", "baseline", "value", "baseline_censored", "censored"],
    )
    table.insert(4, "difference", table["value"] - table["baseline"])
    return table


def _any(rows: Sequence[tuple[float, float, bool, bool]]) -> tuple[bool, bool]:
    return any(row[2] for row in rows), any(row[3] for row in rows)


def _numerically(unit: Unit) -> tuple[int, str, str]:
    run = unit[0]
    return (int(run) if run.isdecimal() and len(run) < 20 else -1, *unit)


def values_of(arm: Arm, measures: pd.DataFrame, horizon: float) -> np.ndarray:
    """The values of an arm: one for each unit, averaged over its settings."""
    return differences_of(arm, arm, measures, horizon)["value"].to_numpy(dtype=np.float64)


def horizon_of(cell: Cell, measures: pd.DataFrame) -> float:
    """The longest time for which every run of the cell that did not diverge was watched; NaN if none was."""
    watched = measures.iloc[list(_positions(cell))]
    ends = watched.loc[watched["value"].notna() & np.isfinite(watched["end"]), "end"]
    return float(ends.min()) if len(ends) else math.nan


def _positions(cell: Cell) -> Iterator[int]:
    for arm in cell.arms.values():
        yield from arm.jobs.values()
