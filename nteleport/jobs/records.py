"""The records of a job for people and plots: its description, metrics, result and log. No torch.

This module is the only writer and the only reader of each file. Every file is replaced as a whole, so a crash
never leaves half a row. `config.yml` and `hparams.yml` exist before the first job of a run starts;
`metrics.csv` has one row per completed epoch; `result.json` appears last and means that the job is over.
"""

from __future__ import annotations

import contextlib
import errno
import json
import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from datetime import datetime
from pathlib import Path
from typing import Any

from nteleport.errors import JobError, ResultsError
from nteleport.jobs.atomic import write_json_atomic, write_text_atomic
from nteleport.jobs.job import Job
from nteleport.jobs.paths import JobPaths, printable
from nteleport.schema.yaml_source import to_yaml

_NO_OUTPUT = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS}
"""The disk is full, a quota or limit is reached, or the disk is read-only."""


def prevents_output(error: BaseException) -> bool:
    """Whether no job can be written because of this error."""
    return isinstance(error, OSError) and error.errno in _NO_OUTPUT


@dataclass(frozen=True)
class MetricRow:
    """One row of `metrics.csv`: one epoch.

    `lr` is the learning rate of the epoch's first step; losses are in nats, accuracies in [0, 1], and NaN
    where targets are numbers; `teleported` is how often the mode acted, at the start of the epoch or
    between its steps; the norms are those of `nteleport.training.metrics`; `seconds` is the time of the epoch
    including its validation.
    """

    epoch: int
    lr: float
    train_loss: float
    train_accuracy: float
    train_accuracy_top5: float
    val_loss: float
    val_accuracy: float
    val_accuracy_top5: float
    teleported: int
    grad_norm: float
    weight_norm: float
    seconds: float


_ENDLESS = 1e12
"""No job takes so many seconds or epochs."""

COLUMNS: tuple[str, ...] = tuple(field.name for field in fields(MetricRow))
"""The header of `metrics.csv`; without accuracies where targets are numbers."""


def measured(row: MetricRow) -> dict[str, Any]:
    """A row by column, without the accuracies that it has not."""
    return {key: value for key, value in asdict(row).items() if not _is_missing(key, value)}


def _is_missing(key: str, value: float) -> bool:
    return "accuracy" in key and math.isnan(value)


@dataclass(frozen=True)
class TrainingResult:
    """How a training ended.

    Attributes:
        state: `finished`; `diverged`, when the training loss became non-finite; or `stopped`, on request:
            then there is no `result.json`, and the same call continues from the checkpoint.
        rows: one per epoch, including those of earlier calls.
        test: loss, accuracy and accuracy_top5 on the test split; empty unless finished.
    """

    state: str
    rows: tuple[MetricRow, ...]
    test: Mapping[str, float]

    def as_json(self, digest: str | None = None) -> dict[str, Any]:
        """The content of `result.json` of the job with this digest; a non-finite number becomes null, as JSON
        has none.
        """
        best = max(self.rows, key=_quality, default=None)
        by = "val_loss" if best is not None and math.isnan(best.val_accuracy) else "val_accuracy"
        return {
            "state": self.state,
            "epochs": len(self.rows),
            "final": _finite(measured(self.rows[-1])) if self.rows else None,
            "best": _finite({"epoch": best.epoch, by: getattr(best, by)}) if best else None,
            "test": _finite({key: x for key, x in self.test.items() if not _is_missing(key, x)}) or None,
            "seconds": sum(row.seconds for row in self.rows),
            "digest": digest,
        }


def metrics_csv(rows: Sequence[MetricRow]) -> str:
    """The content of `metrics.csv`: numbers with all their digits, so that they are read back exactly."""
    columns = list(measured(rows[-1])) if rows else COLUMNS
    lines = [",".join(columns)]
    lines += [",".join(repr(getattr(row, column)) for column in columns) for row in rows]
    return "\n".join(lines) + "\n"


def write_metrics(paths: JobPaths, rows: Sequence[MetricRow]) -> None:
    """Replace `metrics.csv`."""
    write_text_atomic(paths.metrics, metrics_csv(rows))


def write_certificates(paths: JobPaths, rows: Sequence[Mapping[str, Any]]) -> None:
    """Replace `certificates.json`; without a row there is none."""
    if rows:
        write_json_atomic(paths.certificates, rows)
    else:
        paths.certificates.unlink(missing_ok=True)


def write_result(paths: JobPaths, result: TrainingResult, digest: str | None = None) -> None:
    """Write `result.json` of the job with this digest: from now on the job is over."""
    write_json_atomic(paths.result, result.as_json(digest), durable=True)


def log_line(paths: JobPaths, now: datetime, text: str) -> None:
    """Add a line to `log.txt`."""
    with paths.log.open("a", encoding="utf-8") as log:
        log.write(f"{now.isoformat(sep=' ', timespec='seconds')}  {text}\n")


def _quality(row: MetricRow) -> tuple[float, int]:
    """Orders epochs by validation accuracy, or by loss where there is none; of equal epochs the earlier is
    better, and a loss that is NaN is worst.
    """
    if not math.isnan(row.val_accuracy):
        return row.val_accuracy, -row.epoch
    return (-math.inf if math.isnan(row.val_loss) else -row.val_loss), -row.epoch


def _finite(values: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: None if isinstance(value, float) and not math.isfinite(value) else value
        for key, value in values.items()
    }


def describe(job: Job, paths: JobPaths) -> None:
    """Write `config.yml`, which runs this job again, and `hparams.yml`, which describes it."""
    paths.directory.mkdir(parents=True, exist_ok=True)
    write_text_atomic(paths.hparams, to_yaml(job.hparams()))
    write_text_atomic(paths.config, to_yaml(job.to_experiment()))


def describe_new(jobs: Iterable[Job], out: Path) -> None:
    """Describe those of `jobs` that have no description in `out` yet. This needs no lease. A job whose own
    folder cannot be written to is left to its attempt, which fails, so that it is not in the way of others.

    Raises:
        JobError: `out` cannot be written to.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        for job in jobs:
            paths = JobPaths(out, job.name)
            try:
                if not paths.config.exists():
                    describe(job, paths)
            except OSError as error:
                if prevents_output(error):
                    raise
    except OSError as error:
        raise JobError(f"cannot write to {out}: {error.strerror}; results there are as they were") from error


@dataclass(frozen=True)
class MetricRows:
    """The complete rows of one `metrics.csv`, still text."""

    header: str = ""
    lines: Sequence[str] = ()


def read_text(path: Path) -> str | None:
    """The text of `path`, or None if it is missing; invalid UTF-8 becomes replacement characters.

    Raises:
        OSError: it exists and cannot be read.
    """
    try:
        return path.read_bytes().decode("utf-8", errors="replace")
    except (FileNotFoundError, NotADirectoryError):
        return None


def read_rows(path: Path, problems: list[str], *, complete: bool) -> MetricRows:
    """The complete lines of a `metrics.csv`.

    While a job runs, its last line may be half-written: without its newline it does not count, since `0.1`
    may be the start of `0.15`. A line with too few or too many fields is damaged and left out. A file that
    cannot be read has no lines.
    """
    try:
        text = read_text(path) or ""
    except OSError as error:
        problems.append(f"metrics.csv cannot be read: {error.strerror}")
        return MetricRows()
    if not complete:
        text = text[: text.rfind("\n") + 1]
    header, *lines = text.replace("\r\n", "\n").split("\n")
    names = [name.strip() for name in header.split(",")]
    if {"epoch", "step"}.isdisjoint(header.split(",")):  # the published implementation writes steps
        if lines:
            problems.append(
                "metrics.csv has no column 'epoch' (nor 'step', as the published implementation writes)"
            )
        return MetricRows()
    if len(set(names)) < len(names) or not header.isprintable():
        problems.append("metrics.csv has a damaged header: expected the names of columns, each once")
        return MetricRows()
    lines = [line for line in lines if line.strip()]
    commas = header.count(",")
    whole = [line for line in lines if line.count(",") == commas and line.isprintable()]
    if len(whole) < len(lines):
        problems.append(f"metrics.csv has damaged lines ({len(lines) - len(whole)}), left out")
    return MetricRows(header, whole)


def metric_rows(paths: JobPaths) -> list[dict[str, float]]:
    """The complete rows of a job's `metrics.csv` as numbers; rows with anything else are left out."""
    found = read_rows(paths.metrics, [], complete=False)
    names = found.header.split(",")
    rows = []
    for line in found.lines:
        with contextlib.suppress(ValueError):
            rows.append(dict(zip(names, map(float, line.split(",")), strict=True)))
    return rows


def read_result(paths: JobPaths) -> dict[str, Any]:
    """The content of a job's `result.json`; empty if there is none, or one that is damaged.

    Only what has the expected type is in it: `state`, `error` and `digest` are text, `epochs` and `seconds`
    numbers, `final`, `best` and `test` mappings of names to numbers or None. All numbers are finite.

    Raises:
        ResultsError: it exists and cannot be read, which says nothing of what is in it.
    """
    try:
        content = json.loads(_text_of_result(paths) or "")
        return _well_formed(content) if isinstance(content, dict) else {}
    except OSError as error:
        raise ResultsError(
            f"{paths.result} cannot be read: {error.strerror}; the files of the job are kept as they are"
        ) from error
    except (ValueError, RecursionError):
        return {}


def read_provenance(paths: JobPaths) -> dict[str, Any]:
    """The content of a job's `provenance.json`; empty if there is none, or one that is damaged."""
    content = _json_of(paths.provenance)
    return content if isinstance(content, dict) else {}


def read_certificates(paths: JobPaths) -> list[dict[str, Any]]:
    """The rows of a job's `certificates.json`; empty if there is none, or one that is damaged."""
    content = _json_of(paths.certificates)
    return [row for row in content if isinstance(row, dict)] if isinstance(content, list) else []


def _json_of(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes().decode("utf-8", errors="replace"))
    except (OSError, ValueError, RecursionError):
        return None


def check_digest(paths: JobPaths, result: Mapping[str, Any], job: Job) -> None:
    """Check that a `result.json` is that of `job`, as far as it says: names of jobs hold only 32 bits of it.

    Raises:
        JobError: it is that of another job with the same name.
    """
    found = result.get("digest")
    if found is not None and found != job.digest:
        raise JobError(
            f"{paths.result} is the result of another job with the same name: its digest is {found}, "
            f"expected {job.digest}; train one of the two with another --out"
        )


def _text_of_result(paths: JobPaths) -> str | None:
    try:
        return read_text(paths.result)
    except OSError as error:
        if error.errno != errno.ESTALE:  # replaced at this moment, on a file server
            raise
        return read_text(paths.result)


def _well_formed(content: Mapping[str, Any]) -> dict[str, Any]:
    kept: dict[str, Any] = {}
    for key in ("state", "error", "digest"):
        if isinstance(content.get(key), str):
            kept[key] = printable(content[key])
    for key in ("epochs", "seconds"):
        if (value := _number(content.get(key))) is not None and 0 <= value < _ENDLESS:
            kept[key] = int(value) if key == "epochs" else value
    for key in ("final", "best", "test"):
        if isinstance(content.get(key), dict):
            kept[key] = {printable(name): _number(value) for name, value in content[key].items()}
    return kept


def _number(value: Any) -> float | int | None:
    """A finite number, else None; an integer that no float can hold is none."""
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return value if is_number and abs(value) <= sys.float_info.max else None
