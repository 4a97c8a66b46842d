"""What runs are compared by: the value of each outcome for each run, with its unit and its direction."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from nteleport.data.catalog import DATASETS
from nteleport.errors import ResultsError, nearest
from nteleport.jobs.paths import JobPaths
from nteleport.jobs.records import read_provenance
from nteleport.jobs.state import JobState
from nteleport.jobs.table import JobResult, Results

__all__ = ["BANDS", "Band", "Outcome", "analysis_seconds", "measured", "read_bands", "read_outcomes"]

_SCORES = tuple(
    f"{split}_{score}"
    for split in ("test", "val", "train")
    for score in ("accuracy", "accuracy_top5", "loss")
)
_TIMES = ("seconds_to", "epochs_to")
_NAMES = (*_SCORES, "seconds", *_TIMES, "divergences", "lr_width")

_UNITS = {"seconds": "s", "seconds_to": "s", "epochs_to": "epochs", "lr_width": "decades", "divergences": "%"}

_ENDLESS = 1e12
"""No analysis takes so many seconds."""

BANDS: Mapping[str, str] = {
    "test_accuracy": "0.5",
    "val_accuracy": "0.5",
    "seconds": "5%",
    "seconds_to": "5%",
    "epochs_to": "5%",
}
"""The bands of equivalence that hold unless others are given."""


@dataclass(frozen=True)
class Band:
    """How far from its baseline an arm may lie to count as equivalent.

    Attributes:
        size: in the unit of the outcome, or a share.
        relative: whether it is a share of the baseline's mean.
    """

    size: float
    relative: bool = False

    def __str__(self) -> str:
        return f"{100 * self.size:g} %" if self.relative else f"{self.size:g}"


@dataclass(frozen=True)
class Outcome:
    """What runs are compared by.

    Attributes:
        name: as in a command: `test_accuracy`, `seconds_to:0.9`.
        kind: the name without a target.
        target: the validation accuracy to reach, in [0, 1]; None for outcomes without one.
        band: of equivalence; None if no band was stated.
    """

    name: str
    kind: str
    target: float | None = None
    band: Band | None = None

    @property
    def unit(self) -> str:
        """Accuracies are in percent, so that their differences are points."""
        if self.kind in _UNITS:
            return _UNITS[self.kind]
        return "nats" if self.kind.endswith("loss") else "%"

    @property
    def unit_of_differences(self) -> str:
        return "points" if self.unit == "%" else self.unit

    @property
    def larger_is_better(self) -> bool:
        return self.kind.endswith(("accuracy", "accuracy_top5")) or self.kind == "lr_width"

    @property
    def is_time(self) -> bool:
        """Whether it is the time to a target, which some runs never reach."""
        return self.kind in _TIMES


def read_outcomes(names: Sequence[str], bands: Mapping[str, str | float] | None = None) -> list[Outcome]:
    """The outcomes with these names, each once, and with their bands.

    Raises:
        ResultsError: a name, a target or a band is unknown or malformed.
    """
    if not names:
        raise ResultsError(f"no outcome to compare by, expected some of {', '.join(_NAMES)}")
    outcomes = [_outcome(name) for name in dict.fromkeys(names)]
    return read_bands(outcomes, bands or {})


def _outcome(name: str) -> Outcome:
    kind, colon, target = name.partition(":")
    if kind not in _NAMES:
        raise ResultsError(
            f"unknown outcome {name!r}{nearest(kind, _NAMES)}\nthese exist: {', '.join(_with_target(_NAMES))}"
        )
    if kind not in _TIMES:
        if colon:
            raise ResultsError(
                f"outcome {name!r}: expected {kind!r}, only {' and '.join(_TIMES)} have a target"
            )
        return Outcome(kind, kind)
    reach = _number(target)
    if reach is None or not 0 < reach <= 1:
        raise ResultsError(
            f"outcome {name!r}: expected {kind}:A, with a validation accuracy A above 0 and at most 1, "
            f"such as {kind}:0.9"
        )
    return Outcome(f"{kind}:{reach:g}", kind, reach)


def _with_target(names: Sequence[str]) -> list[str]:
    return [f"{name}:0.9" if name in _TIMES else name for name in names]


def read_bands(outcomes: Sequence[Outcome], bands: Mapping[str, str | float]) -> list[Outcome]:
    """The outcomes with their bands: 0.5 is in the unit of the outcome, "5%" a share of the baseline.

    A band of `seconds_to` is for all its targets.

    Raises:
        ResultsError: a band is for none of the outcomes, or is not one.
    """
    known = [*dict.fromkeys(name for outcome in outcomes for name in (outcome.name, outcome.kind))]
    for name in bands:
        if name not in known:
            raise ResultsError(
                f"a band of equivalence for {name!r}, which is not an outcome of this comparison"
                f"{nearest(name, known)} (its outcomes: {', '.join(outcome.name for outcome in outcomes)})"
            )
    chosen = {**BANDS, **bands}
    found = []
    for outcome in outcomes:
        text = chosen.get(outcome.name, chosen.get(outcome.kind))
        band = None if text is None else _band(outcome, str(text))
        found.append(Outcome(outcome.name, outcome.kind, outcome.target, band))
    return found


def _band(outcome: Outcome, text: str) -> Band:
    size = _number(text.strip().removesuffix("%"))
    relative = text.strip().endswith("%")
    if size is None or not size > 0 or (relative and size >= 100):
        raise ResultsError(
            f"band of equivalence {outcome.name}={text}: expected a number above 0 "
            f"(in {outcome.unit_of_differences}), or a percentage of the baseline such as 5%"
        )
    return Band(size / 100 if relative else size, relative)


def _number(text: str) -> float | None:
    if not re.fullmatch(r"\d*\.?\d+(e[-+]?\d+)?|\d+\.", text.strip(), re.IGNORECASE):
        return None
    return float(text)


def measured(results: Results, outcome: Outcome) -> pd.DataFrame:
    """The outcome for every job, indexed by its position in `results.jobs`.

    Columns: `value`, NaN where the job says nothing; `end`, for times: how long the job was watched, infinite
    where it diverged, since then it never reaches the target. A time that is not reached is infinite.
    Jobs that are not over have no value. A diverged job has the accuracy of chance.
    """
    if outcome.kind == "lr_width":
        raise ValueError("the width of a range of rates belongs to an arm, not to a job")
    if outcome.is_time:
        return _times(results, outcome)
    last = results.epochs.groupby("job").last() if not results.epochs.empty else results.epochs
    values = [_value(job, position, last, outcome) for position, job in enumerate(results.jobs)]
    if outcome.kind == "seconds":
        spent = _clocks(results).groupby(results.epochs["job"]).last()
        values = [
            float(spent.get(position, math.nan)) if job.state == JobState.FINISHED else math.nan
            for position, job in enumerate(results.jobs)
        ]
    return pd.DataFrame({"value": np.array(values, dtype=np.float64), "end": math.nan})


def _value(job: JobResult, position: int, last: pd.DataFrame, outcome: Outcome) -> float:
    if job.state not in (JobState.FINISHED, JobState.DIVERGED):
        return math.nan
    if outcome.kind == "divergences":
        return 100.0 * (job.state == JobState.DIVERGED)
    if job.state == JobState.DIVERGED:
        return _chance(job, outcome.kind)
    found: Any = None
    split, _, score = outcome.kind.partition("_")
    if split == "test":
        found = (job.result.get("test") or {}).get(score)
    if found is None and outcome.kind in last and position in last.index:
        found = last.at[position, outcome.kind]
    scale = 100.0 if outcome.unit == "%" else 1.0
    return math.nan if found is None else scale * float(found)


def _chance(job: JobResult, kind: str) -> float:
    """The accuracy in percent of a network that guesses; NaN for other outcomes and unknown data sets."""
    dataset = DATASETS.get(str(job.hparams.get("dataset")))
    if dataset is None or kind.endswith("loss"):
        return math.nan
    guesses = min(5, dataset.num_classes) if kind.endswith("top5") else 1
    return 100.0 * guesses / dataset.num_classes


def _clocks(results: Results) -> pd.Series[float]:
    """The seconds from the start of a job to the end of each of its epochs, NaN after an epoch without any.

    Epochs include teleporting: the search, what it measures, the transport of the optimizer's state and the
    certificate. The analysis of the network comes before the first one.
    """
    epochs = results.epochs
    if "seconds" not in epochs:
        return pd.Series(math.nan, index=epochs.index)
    seconds = epochs["seconds"].where(epochs["seconds"] >= 0)
    unknown = seconds.isna().groupby(epochs["job"]).cummax()
    analysis = np.nan_to_num(analysis_seconds(results))
    clock = seconds.groupby(epochs["job"]).cumsum() + analysis[epochs["job"].to_numpy()]
    known: pd.Series[float] = clock.mask(unknown)
    return known


def analysis_seconds(results: Results) -> npt.NDArray[np.float64]:
    """What the analysis of each job's network took, as if it were alone; NaN where that is not recorded."""
    recorded = (read_provenance(JobPaths(results.directory, job.name)) for job in results.jobs)
    return np.array([_seconds(content.get("analysis_seconds")) for content in recorded], dtype=np.float64)


def _seconds(value: object) -> float:
    return float(value) if isinstance(value, (int, float)) and 0 <= value < _ENDLESS else math.nan


def _times(results: Results, outcome: Outcome) -> pd.DataFrame:
    epochs, index = results.epochs, range(len(results.jobs))
    if epochs.empty or "val_accuracy" not in epochs:
        return pd.DataFrame({"value": math.nan, "end": math.nan}, index=index)
    clock = _clocks(results) if outcome.kind == "seconds_to" else epochs["epoch"] + 1.0
    reached = epochs.assign(clock=clock)[epochs["val_accuracy"] >= outcome.target].drop_duplicates("job")
    diverged = np.array([job.state == JobState.DIVERGED for job in results.jobs])
    finished = np.array([job.state == JobState.FINISHED and not _lacks_rows(job) for job in results.jobs])
    end = clock.groupby(epochs["job"]).last().reindex(index).mask(diverged, math.inf)
    value = pd.Series(math.inf, index=index)
    value[reached["job"]] = reached["clock"].to_numpy()
    return pd.DataFrame({"value": value.where((finished | diverged) & end.notna()), "end": end})


def _lacks_rows(job: JobResult) -> bool:
    return job.epochs < int(job.result.get("epochs", 0))
