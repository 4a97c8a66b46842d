"""A family: the arms of one cell against its baseline, on one outcome."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from nteleport.comparison.arms import Arm, Cell, differences_of, horizon_of
from nteleport.comparison.outcomes import Outcome
from nteleport.comparison.statistics import ALPHA, holm, pairs_for_holm, smallest_p
from nteleport.comparison.verdicts import Finding, finding_of

__all__ = ["Family", "family_of"]


@dataclass(frozen=True)
class Family:
    """The arms of a cell against its baseline.

    Attributes:
        cell: with jobs, or with tuning runs where the outcome is of these.
        outcome: what is compared.
        primary: whether its p are adjusted and judged.
        baseline: the arm that the others are compared with.
        measures: made by `nteleport.comparison.outcomes.measured`.
        horizon: times are cut off there; NaN for outcomes that are no times.
        pairs: of each arm with the baseline, by label.
        findings: what they say, by label; of the primary outcome with adjusted p.
        complaint: why its arms are not comparable: how they were tuned; "" if they are.
    """

    cell: Cell
    outcome: Outcome
    primary: bool
    baseline: Arm
    measures: pd.DataFrame
    horizon: float
    pairs: Mapping[str, pd.DataFrame]
    findings: Mapping[str, Finding]
    complaint: str = ""

    def against(self, first: Arm, second: Arm) -> Finding:
        """How two of its arms compare with each other."""
        return finding_of(differences_of(first, second, self.measures, self.horizon), self.outcome)

    def missing(self, label: str) -> int:
        """How many units of the cell have no pair of this arm and the baseline."""
        units = set[tuple[str, str]]().union(*(arm.units for arm in self.cell.arms.values()))
        return len(units) - len(self.pairs[label])

    def shortage(self) -> tuple[int, int] | None:
        """The pairs and the arms of a family in which no p can pass Holm, because there are too few pairs."""
        counts = [finding.contrast.n for finding in self.findings.values() if finding.contrast.n]
        if not self.primary or not counts or smallest_p(max(counts)) * len(counts) <= ALPHA:
            return None
        return max(counts), len(counts)

    def undecidable(self) -> list[int]:
        """For each arm whose pairs cannot decide whether it lies in the band: how many would do."""
        return [
            finding.equivalence.pairs
            for finding in self.findings.values()
            if finding.result == "undecided"
            and finding.equivalence is not None
            and finding.contrast.n > 1
            and not finding.equivalence.decidable
        ]

    def incomplete(self) -> list[str]:
        """For each arm with pairs that are missing: how many of how many."""
        return [
            f"{missing} of {missing + len(self.pairs[label])} of {label} ({self.cell.name})"
            for label in self.pairs
            if (missing := self.missing(label))
        ]

    def measured(self, arm: Arm) -> np.ndarray:
        """The values of all jobs of an arm."""
        return self.measures["value"].to_numpy(dtype=np.float64)[list(arm.jobs.values())]


def family_of(
    cell: Cell,
    outcome: Outcome,
    baseline: str,
    measures: pd.DataFrame,
    *,
    primary: bool,
    complaint: str = "",
) -> Family | None:
    """Compare the arms of a cell with its baseline; None if it has no baseline."""
    if baseline not in cell.arms:
        return None
    reference = cell.arms[baseline]
    horizon = horizon_of(cell, measures) if outcome.is_time else math.nan
    pairs = {
        label: differences_of(arm, reference, measures, horizon)
        for label, arm in cell.arms.items()
        if label != baseline
    }
    findings = {label: finding_of(table, outcome) for label, table in pairs.items()}
    if primary and findings:
        adjusted = holm(np.array([finding.p for finding in findings.values()]))
        findings = {
            label: replace(finding, p=float(p))
            for (label, finding), p in zip(findings.items(), adjusted, strict=True)
        }
    return Family(cell, outcome, primary, reference, measures, horizon, pairs, findings, complaint)


def shortage_in_words(pairs: int, arms: int, cells: int) -> str:
    """The note about families with too few pairs."""
    where = "" if cells == 1 else f" ({cells} cells)"
    return (
        f"{pairs} {'pair' if pairs == 1 else 'pairs'} cannot show a difference{where}: the smallest p is "
        f"{smallest_p(pairs):.2g}, and "
        f"Holm asks for {ALPHA / arms:.2g} among {arms} {'arm' if arms == 1 else 'arms'}; "
        f"{pairs_for_holm(arms)} pairs would do"
    )
