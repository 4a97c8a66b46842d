"""A folder of results as a comparison of arms: statistics, verdicts in words, and what to know first."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import pandas as pd

from nteleport.comparison.arms import Arm, Cell, arm_named, cells_of, values_of
from nteleport.comparison.families import Family, family_of, shortage_in_words
from nteleport.comparison.outcomes import Outcome, analysis_seconds, measured, read_outcomes
from nteleport.comparison.tuned import Tuned, points_of, read_choices, width_cell
from nteleport.comparison.verdicts import (
    INCONCLUSIVE,
    NO_ARMS,
    REPAIR,
    TELEPORTING,
    Start,
    companions_of,
    is_repair,
    judge,
)
from nteleport.errors import ResultsError
from nteleport.jobs.table import Results

_Key = TypeVar("_Key")

__all__ = ["Comparison", "compare"]


@dataclass(frozen=True)
class Comparison:
    """Arms compared with their baseline.

    Attributes:
        by: what cells differ in: the first columns of each table.
        outcomes: the first is the primary one, which is corrected by Holm and judged.
        baseline: the label of the arm that the others are compared with.
        rows: one row per cell, arm and outcome; the columns are listed in `docs/comparing.md`.
        verdicts: one row per cell and teleporting arm: `arm`, `outcome`, `verdict`, `because`.
        pairs: one row per pair: `arm`, `outcome`, `run`, `seed`, `baseline`, `value`, `difference`, and
            whether one of its times was cut off at the horizon: `baseline_censored`, `censored`.
        notes: what a reader must know before the numbers, one line each, the gravest first.
    """

    by: tuple[str, ...]
    outcomes: tuple[Outcome, ...]
    baseline: str
    rows: pd.DataFrame
    verdicts: pd.DataFrame
    pairs: pd.DataFrame
    notes: tuple[str, ...]


def compare(
    results: Results,
    *,
    baseline: str = "no_teleport",
    outcomes: Sequence[str] = ("test_accuracy",),
    by: Sequence[str] | None = None,
    equivalent: Mapping[str, str | float] | None = None,
    tuning: pd.DataFrame | None = None,
) -> Comparison:
    """Compare the arms of each cell with their baseline, over pairs of runs with the same seed.

    Args:
        results: made by `read_results`.
        baseline: the mode or the label of an arm.
        outcomes: the primary one first: `test_accuracy` and other scores, `seconds`, `seconds_to:A` and
            `epochs_to:A` with a validation accuracy A, `divergences`, `lr_width`.
        by: what cells differ in, as words of `nteleport plot --group-by`; by default data set, model,
            initializer and optimizer.
        equivalent: the band of equivalence of an outcome: a number in its unit (points for accuracies), or a
            share of the baseline such as "5%". By default 0.5 points for accuracies, 5 % for times.
        tuning: made by `nteleport.jobs.tuning.read_tuning`; None where nothing was tuned.

    Raises:
        ResultsError: an outcome, arm, word or band is unknown; arms were tuned on data that are reported,
            too; or there is nothing to compare.
        MissingExtraError: scipy or statsmodels is not installed.
    """
    wanted = read_outcomes(outcomes, equivalent)
    tuned = read_choices(results, tuning)
    cells, notes = cells_of(results, tuned.positions, by, tuned.keys)
    label = arm_named(baseline, cells)
    if all(len(cell.arms) == 1 for cell in cells):
        raise ResultsError(
            f"nothing to compare in {results.directory}: each cell has one arm, {label!r} or another"
        )
    families: list[Family] = []
    for number, outcome in enumerate(wanted):
        found, more = _families(cells, outcome, label, results, tuned, primary=number == 0)
        families += found
        notes += more
    words = list(cells[0].values)
    return Comparison(
        by=tuple(words),
        outcomes=tuple(wanted),
        baseline=label,
        rows=_table(words, _ROW, [row for family in families for row in _rows(family, results, tuned)]),
        verdicts=_table(words, _VERDICT, _verdicts(families)),
        pairs=_table(words, _PAIR, [row for family in families for row in _pairs(family)]),
        notes=(*_warnings(families), *tuned.notes, *notes, *_left_out(results, cells, label)),
    )


def _is_reached(family: Family, arm: Arm) -> bool:
    return bool(np.isfinite(family.measured(arm)).any())


_ROW = (
    "arm mode outcome unit n missing baseline value difference low high p p_error p_holm band p_equivalent "
    "pairs_needed result horizon baseline_censored censored baseline_point point"
).split()
_VERDICT = "arm outcome verdict because".split()
_PAIR = "arm outcome run seed baseline value difference baseline_censored censored".split()


def _table(words: Sequence[str], columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    return pd.DataFrame(list(rows), columns=[*words, *columns])


def _families(
    cells: Sequence[Cell], outcome: Outcome, baseline: str, results: Results, tuned: Tuned, *, primary: bool
) -> tuple[list[Family], list[str]]:
    """The families of one outcome, and notes."""
    notes, found, open_ended, widths = [], [], 0, 0
    measures = pd.DataFrame() if outcome.kind == "lr_width" else measured(results, outcome)
    for cell in cells:
        complaint = tuned.complaint(cell)
        if outcome.kind == "lr_width":
            cell, measures, several = width_cell(cell, tuned)
            open_ended, widths = open_ended + several, widths + len(measures)
        family = family_of(cell, outcome, baseline, measures, primary=primary, complaint=complaint)
        if family is not None:
            found.append(family)
    if outcome.kind.startswith("seconds"):
        unknown = np.isnan(analysis_seconds(results))
        uncounted = sum(
            bool(unknown[position])
            for family in found
            for label in family.pairs
            for position in family.cell.arms[label].jobs.values()
        )
        if uncounted:
            notes.append(
                f"{outcome.name}: the analysis of {uncounted} jobs is not recorded, so it is not counted"
            )
    if open_ended:
        notes.append(f"lr_width: {open_ended} of {widths} ranges reach an end of their grid and may be wider")
    never = [
        family.cell.name for family in found if outcome.is_time and not _is_reached(family, family.baseline)
    ]
    if never:
        notes.append(
            f"{outcome.name}: the baseline never gets there ({_some(never)}), "
            "expected a target that it reaches"
        )
    return found, notes


def _rows(family: Family, results: Results, tuned: Tuned) -> Iterator[dict[str, Any]]:
    outcome = family.outcome
    lr_width = outcome.kind == "lr_width"
    for label, finding in family.findings.items():
        pairs, found = family.pairs[label], finding.contrast
        arm = family.cell.arms[label]
        yield {
            **family.cell.values,
            "arm": label,
            "mode": arm.mode,
            "outcome": outcome.name,
            "unit": outcome.unit,
            "n": found.n,
            "missing": family.missing(label),
            "baseline": pairs["baseline"].mean(),
            "value": pairs["value"].mean(),
            "difference": found.mean,
            "low": found.low,
            "high": found.high,
            "p": found.p,
            "p_error": found.p_error,
            "p_holm": finding.p if family.primary else math.nan,
            "band": "" if outcome.band is None else str(outcome.band),
            "p_equivalent": math.nan if finding.equivalence is None else finding.equivalence.p,
            "pairs_needed": 0 if finding.equivalence is None else finding.equivalence.pairs,
            "result": finding.result,
            "horizon": family.horizon,
            "baseline_censored": int(pairs["baseline_censored"].sum()),
            "censored": int(pairs["censored"].sum()),
            "baseline_point": "" if lr_width else points_of(family.baseline, results, tuned.keys),
            "point": "" if lr_width else points_of(arm, results, tuned.keys),
        }


def _pairs(family: Family) -> Iterator[dict[str, Any]]:
    for label, table in family.pairs.items():
        for pair in table.to_dict("records"):
            yield {**family.cell.values, "arm": label, "outcome": family.outcome.name} | {
                str(key): value for key, value in pair.items()
            }


def _verdicts(families: Sequence[Family]) -> Iterator[dict[str, Any]]:
    """A verdict for each teleporting arm of each cell, on the primary outcome."""
    primary = [family for family in families if family.primary]
    for family in primary:
        judged = [
            arm
            for arm in family.cell.arms.values()
            if arm.mode in TELEPORTING and arm.label in family.findings
        ]
        shared = {**family.cell.values, "outcome": family.outcome.name}
        if not judged:
            yield {**shared, "arm": "", "verdict": NO_ARMS, "because": "no arm of this cell teleports"}
        for arm in judged:
            teleported = family.findings[arm.label]
            companions = {
                mode: (family.findings[other.label], family.against(arm, other))
                for mode, other in companions_of(arm, family.cell).items()
            }
            verdict, because = judge(teleported, companions)
            if repair := _repair(arm.label, family, primary):
                verdict, because = REPAIR, f"{because}; {repair}"
            if family.complaint:
                verdict, because = INCONCLUSIVE, f"{family.complaint}; {because}"
            yield {**shared, "arm": arm.label, "verdict": verdict, "because": because}


_PYTORCH = "none"


def _repair(label: str, family: Family, families: Sequence[Family]) -> str:
    """Why a gain is a repair of the initialization; "" if it is not, or other initializers were not run."""
    values = dict(family.cell.values)
    if values.get("initializer") != _PYTORCH:
        return ""
    others = {
        other.cell.values["initializer"]: other
        for other in families
        if {**other.cell.values, "initializer": _PYTORCH} == values
        and other is not family
        and label in other.findings
        and not other.complaint
    }
    horizon = np.fmin.reduce([family.horizon, *(other.horizon for other in others.values())])

    def start(chosen: Family) -> Start:
        arms = (chosen.baseline, chosen.cell.arms[label])
        plain, arm = (values_of(each, chosen.measures, horizon) for each in arms)
        return Start(plain, arm, chosen.findings[label])

    return is_repair(start(family), {name: start(other) for name, other in others.items()}, family.outcome)


def _warnings(families: Sequence[Family]) -> list[str]:
    """What would mislead who does not know it: unequal tuning, too few pairs, pairs that are missing."""
    primary = [family for family in families if family.primary]
    complaints = _grouped((family.complaint, family.cell.name) for family in primary if family.complaint)
    notes = [
        why if len(cells) == len(primary) else f"{why} ({_some(cells)})" for why, cells in complaints.items()
    ]
    short = _grouped((family.shortage(), family.cell.name) for family in primary if family.shortage())
    notes += [shortage_in_words(*short_of, len(cells)) for short_of, cells in short.items() if short_of]
    undecidable = {family.cell.name: family.undecidable() for family in primary if family.undecidable()}
    if undecidable:
        band, name = primary[0].outcome.band, primary[0].outcome.name
        needed = [pairs for each in undecidable.values() for pairs in each]
        arms = "an arm lies" if len(needed) == 1 else f"{len(needed)} arms lie"
        notes.append(
            f"too few pairs to decide whether {arms} within {band} of the baseline in {name} "
            f"({_some(list(undecidable))}); {max(needed):,} pairs would do"
        )
    lacking: dict[str, list[str]] = {family.outcome.name: [] for family in families}
    for family in families:
        lacking[family.outcome.name] += family.incomplete()
    notes += [f"{name}: pairs are missing: {_some(some)}" for name, some in lacking.items() if some]
    if len(families) > len(primary):
        notes.append(
            "outcomes after the first are not corrected for their number: they suggest, and decide nothing"
        )
    return notes


def _left_out(results: Results, cells: Sequence[Cell], baseline: str) -> list[str]:
    """What cannot be compared at all."""
    alone = [cell.name for cell in cells if baseline not in cell.arms]
    notes = [f"no baseline {baseline!r}, so nothing is compared: {_some(alone)}"] if alone else []
    return notes + [f"left out {reason}" for reason in results.skipped]


def _some(names: Sequence[str]) -> str:
    shown = "; ".join(names[:3])
    return shown if len(names) <= 3 else f"{shown}; and {len(names) - 3} more"


def _grouped(items: Iterable[tuple[_Key, str]]) -> dict[_Key, list[str]]:
    groups: dict[_Key, list[str]] = {}
    for key, name in items:
        groups.setdefault(key, []).append(name)
    return groups
