"""Reading trained jobs back: every epoch of every job of an output folder, as tidy tables.

A folder of results holds one folder per job (`nteleport.jobs.paths.JobPaths`), in it or in subfolders.
Nothing is assumed about the progress of a job: it may be running while it is read, killed in the middle of a
line, diverged, failed or empty. Everything readable is read, and problems of a job are listed in its
`JobResult.problems`. The rows of all jobs are parsed at once, so that thousands of jobs take seconds.

    results = read_results("results/quickstart")
    results.jobs[0].hparams["optimizer.lr"], results.jobs[0].state
    results.epochs             # one row per epoch; the column `job` is the position in `results.jobs`
    collect("results")         # the same rows with state and hyper-parameters as columns

No torch is imported.
"""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from nteleport.errors import ResultsError
from nteleport.jobs.folders import TUNING, job_names
from nteleport.jobs.paths import JobPaths, printable
from nteleport.jobs.published import PlainLoader, epochs_of_steps, flattened, is_finished, is_published
from nteleport.jobs.records import MetricRows, read_result, read_rows, read_text
from nteleport.jobs.state import ENDED, JobState, recorded_state

__all__ = [
    "JobResult",
    "Results",
    "Scalar",
    "collect",
    "epochs_table",
    "jobs_table",
    "read_results",
]

Scalar = str | int | float | bool

_EXACT = 2**63
"""Larger integers are kept as text."""


@dataclass(frozen=True)
class JobResult:
    """What the files of one job say.

    Attributes:
        name: the path of the job's folder in the output folder.
        state: one of `ENDED`, or unfinished: it waits, runs, or was killed.
        hparams: hyper-parameters under dotted keys, without those that are null.
        epochs: how many epochs `metrics.csv` holds.
        result: the content of `result.json`, empty while there is none.
        problems: what could not be read, in words.
    """

    name: str
    state: JobState
    hparams: Mapping[str, Scalar]
    epochs: int
    result: Mapping[str, Any] = field(default_factory=dict)
    problems: tuple[str, ...] = ()


@dataclass(frozen=True)
class Results:
    """All jobs of a folder.

    Attributes:
        directory: the folder that was read.
        jobs: sorted by name.
        epochs: one row per epoch of each job, sorted: `job` (position in `jobs`), `epoch` (from 0), then
            the columns of `metrics.csv` as floats (NaN where there is no number).
        skipped: folders that look like jobs but have no readable hyper-parameters, each with the reason.
    """

    directory: Path
    jobs: tuple[JobResult, ...]
    epochs: pd.DataFrame
    skipped: tuple[str, ...] = ()

    @property
    def metrics(self) -> tuple[str, ...]:
        """The columns that hold a value for each epoch, in the order of the files."""
        return tuple(name for name in self.epochs.columns if name not in ("job", "epoch"))

    def among(self, names: Container[str]) -> Results:
        """The results of the jobs that have one of these names."""
        kept = [position for position, job in enumerate(self.jobs) if job.name in names]
        numbers = {position: number for number, position in enumerate(kept)}
        rows = self.epochs[self.epochs["job"].isin(numbers)]
        epochs = rows.assign(job=rows["job"].map(numbers)).reset_index(drop=True)
        return Results(self.directory, tuple(self.jobs[position] for position in kept), epochs, self.skipped)


def read_results(out: str | Path) -> Results:
    """Read every job of the folder `out` and its subfolders, without tuning jobs unless `out` is theirs.

    Raises:
        ResultsError: `out` is not a folder, or holds no job.
    """
    directory = Path(out)
    jobs: list[JobResult] = []
    rows: list[MetricRows] = []
    skipped: list[str] = []
    for name in job_names(directory):
        paths = JobPaths(directory, name)
        hparams, problem = _read_hparams(paths.hparams)
        if not hparams:
            skipped.append(f"{printable(name)}: {problem}{_of_published(paths)}")
            continue
        job, job_rows = _read_job(paths, hparams)
        jobs.append(job)
        rows.append(job_rows)
    if not jobs and skipped:
        raise ResultsError(f"no readable job in {directory}: {'; '.join(skipped[:3])}")
    if not jobs and (directory / TUNING).is_dir() and job_names(directory / TUNING):
        raise ResultsError(
            f"no jobs in {directory} but those of its tuning: expected jobs to report, or the folder "
            f"{directory / TUNING}"
        )
    if not jobs:
        raise ResultsError(
            f"no jobs in {directory}: expected folders with hparams.yml and metrics.csv, as `nteleport train "
            "CONFIG` writes them"
        )
    epochs = _parse_rows(rows)
    counts = np.bincount(epochs["job"].to_numpy(), minlength=len(jobs))
    counted = tuple(_with_epochs(job, int(count)) for job, count in zip(jobs, counts, strict=True))
    return Results(directory, counted, epochs, tuple(skipped))


def collect(out: str | Path) -> pd.DataFrame:
    """One tidy row per epoch of each job in `out`: `job`, `state`, hyper-parameters, `epoch`, metrics.

    Hyper-parameters that a job does not have are missing values. Jobs without a completed epoch have no row.
    """
    return epochs_table(read_results(out))


def epochs_table(results: Results) -> pd.DataFrame:
    """The table of `collect`, for results that have already been read."""
    position = results.epochs["job"].to_numpy()
    described = jobs_table(results).drop(columns="epochs").take(position).reset_index(drop=True)
    table = pd.concat([described, results.epochs.drop(columns="job")], axis=1)
    return table.loc[:, ~table.columns.duplicated()]


def jobs_table(results: Results) -> pd.DataFrame:
    """One row per job: `job` (its name), `state`, `epochs` (their number), then the hyper-parameters."""
    table: dict[str, Any] = {
        "job": [job.name for job in results.jobs],
        "state": [str(job.state) for job in results.jobs],
        "epochs": [job.epochs for job in results.jobs],
    }
    keys = dict.fromkeys(key for job in results.jobs for key in job.hparams)
    for key in keys:
        if key in ("job", "state", "epochs"):  # no hyper-parameter of ours
            continue
        table[key] = _column([job.hparams.get(key) for job in results.jobs])
    return pd.DataFrame(table)


def _read_hparams(path: Path) -> tuple[dict[Any, Any], str]:
    """The hyper-parameters, or none and the reason."""
    try:
        text = read_text(path)
    except OSError as error:
        return {}, f"hparams.yml cannot be read: {error.strerror}"
    if text is None:
        return {}, "no hparams.yml (yet)"
    try:
        content = yaml.load(text, Loader=PlainLoader)  # a safe loader
    except (yaml.YAMLError, ValueError, TypeError, RecursionError):  # such as a date in month 13
        return {}, "hparams.yml is not YAML"
    if not isinstance(content, dict) or not content:
        return {}, "hparams.yml is not a mapping of names to values"
    try:
        values = _scalars(content)
    except (ValueError, TypeError, RecursionError):  # such as a list that contains itself
        return {}, "hparams.yml is not a mapping of names to values"
    return (content, "") if values else ({}, "hparams.yml has no values")


def _of_published(paths: JobPaths) -> str:
    """What to add about a job without hyper-parameters if its metrics are of the published implementation."""
    if is_published(read_rows(paths.metrics, [], complete=True)):
        return "; its metrics.csv is of the published implementation, which writes hparams.yml beside it"
    return ""


def _scalars(hparams: Mapping[Any, Any]) -> dict[str, Scalar]:
    return {printable(str(key)): _scalar(value) for key, value in hparams.items() if value is not None}


def _scalar(value: Any) -> Scalar:
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, int) and abs(value) >= _EXACT:
        return str(value)
    return value if isinstance(value, (int, float, bool)) else json.dumps(value, default=str)


def _read_job(paths: JobPaths, hparams: Mapping[Any, Any]) -> tuple[JobResult, MetricRows]:
    problems: list[str] = []
    try:
        result = read_result(paths)
    except ResultsError as error:
        result = {}
        problems.append(str(error))
    state = recorded_state(result)
    if state is None and not problems and os.path.exists(paths.result):
        problems.append(f"result.json is damaged: expected a state, one of {', '.join(ENDED)}")
        result = {}
    rows = read_rows(paths.metrics, problems, complete=state is not None)
    if is_published(rows):
        hparams = flattened(hparams)
        if state is None and is_finished(rows):
            state = JobState.FINISHED
    name, found = printable(paths.name), state or JobState.UNFINISHED
    return JobResult(name, found, _scalars(hparams), 0, result, tuple(problems)), rows


def _with_epochs(job: JobResult, epochs: int) -> JobResult:
    """The job with its number of rows; a finished job with fewer rows than epochs is a problem."""
    problems = job.problems
    trained = job.result.get("epochs")
    if job.state == "finished" and isinstance(trained, int) and epochs < trained:
        problems = (*problems, f"metrics.csv holds {epochs} of {trained} epochs")
    return JobResult(job.name, job.state, job.hparams, epochs, job.result, problems)


def _column(values: Iterable[Scalar | None]) -> pd.Series[Any]:
    """A column with the narrowest type that holds all values exactly, missing ones included."""
    listed = list(values)
    kinds = {type(value) for value in listed if value is not None}
    missing = any(value is None for value in listed)
    if kinds == {bool}:
        return pd.Series(listed, dtype="boolean" if missing else "bool")
    if kinds == {int}:
        return pd.Series(listed, dtype="Int64" if missing else "int64")
    if kinds <= {int, float}:
        return pd.Series(listed, dtype="float64")
    return pd.Series([None if value is None else str(value) for value in listed], dtype="str")


def _parse_rows(rows: Sequence[MetricRows]) -> pd.DataFrame:
    """All rows of all jobs as numbers. Files with the same header are parsed together."""
    by_header: dict[str, list[int]] = {}
    for position, job_rows in enumerate(rows):
        if job_rows.lines:
            by_header.setdefault(job_rows.header, []).append(position)
    frames = [_parse_alike(header, members, rows) for header, members in by_header.items()]
    if not frames:
        return pd.DataFrame({"job": np.array([], dtype=np.int64), "epoch": np.array([], dtype=np.int64)})
    epochs = pd.concat(frames, ignore_index=True)
    key = ["job", "epoch"]
    epochs = epochs.drop_duplicates(key, keep="last").sort_values(key, ignore_index=True)
    return epochs[key + [name for name in epochs.columns if name not in key]]


def _parse_alike(header: str, members: Sequence[int], rows: Sequence[MetricRows]) -> pd.DataFrame:
    """Parse the rows of `members`, whose files share a header. Text that is not a number becomes NaN."""
    lines = [line for position in members for line in rows[position].lines]
    text = io.StringIO("\n".join([header, *lines]))
    frame = pd.read_csv(
        text, quoting=csv.QUOTE_NONE, skipinitialspace=True, low_memory=False, index_col=False
    )
    frame.columns = frame.columns.str.strip()
    for name in frame.columns:
        frame[name] = pd.to_numeric(frame[name], errors="coerce").astype(np.float64)
    lengths = [len(rows[position].lines) for position in members]
    frame["job"] = np.repeat(np.asarray(members, dtype=np.int64), lengths)
    if "epoch" not in frame:
        frame = epochs_of_steps(frame)
    epoch = frame["epoch"]
    numbered: pd.DataFrame = frame.loc[(epoch >= 0) & (epoch < 2**53) & (epoch == np.floor(epoch))]
    return numbered.astype({"epoch": np.int64})
