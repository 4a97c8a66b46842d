"""The rows of many `metrics.csv` files as one table of numbers, whatever state the files are in. No torch."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd


@dataclass(frozen=True)
class MetricRows:
    """The whole rows of one `metrics.csv`, still text."""

    header: str = ""
    lines: Sequence[str] = ()


def read_text(path: Path) -> str | None:
    """The text of `path`, or None if it cannot be read; bytes that are no UTF-8 become replacement marks."""
    try:
        return path.read_bytes().decode("utf-8", errors="replace")
    except OSError:
        return None


def read_rows(path: Path, problems: list[str], *, complete: bool) -> MetricRows:
    """The whole lines of a `metrics.csv`.

    While a job runs, its last line may be half-written: without its line end it does not count, for `0.1` may
    be the start of `0.15`. A line with too few or too many fields is damaged and left out.
    """
    text = read_text(path) or ""
    if not complete:
        text = text[: text.rfind("\n") + 1]
    header, *lines = text.replace("\r\n", "\n").split("\n")
    if "epoch" not in header.split(","):
        if lines:
            problems.append("metrics.csv has no column 'epoch'")
        return MetricRows()
    lines = [line for line in lines if line.strip()]
    commas = header.count(",")
    whole = [line for line in lines if line.count(",") == commas and "\0" not in line]
    if len(whole) < len(lines):
        problems.append(f"metrics.csv has damaged lines ({len(lines) - len(whole)}), left out")
    return MetricRows(header, whole)


def parse_rows(rows: Sequence[MetricRows]) -> pd.DataFrame:
    """All rows of all jobs as numbers. Files with the same header are parsed as one."""
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
    """Parse the rows of `members`, whose files have the same header. Text that is no number becomes NaN."""
    lines = [line for position in members for line in rows[position].lines]
    text = io.StringIO("\n".join([header, *lines]))
    frame = pd.read_csv(text, quoting=csv.QUOTE_NONE, skipinitialspace=True, low_memory=False)
    frame.columns = frame.columns.str.strip()
    for name in frame.columns:
        frame[name] = pd.to_numeric(frame[name], errors="coerce").astype(np.float64)
    lengths = [len(rows[position].lines) for position in members]
    frame["job"] = np.repeat(np.asarray(members, dtype=np.int64), lengths)
    numbered: pd.DataFrame = frame.loc[np.isfinite(frame["epoch"])]
    return numbered.astype({"epoch": np.int64})
