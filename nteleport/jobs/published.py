"""Results of the published implementation (vitalab/neuralteleportation), read as results of nteleport.

Its jobs are folders with `hparams.yml` and a `metrics.csv` whose rows have a `step`, where ours have an
`epoch`. Rows of one step may fill different columns: training, validation and test are written one after the
other. What is read differently:

============================  ==========================================================================
`step`                        the epoch; all rows of a step are one row, later values win
`validate_*`                  `val_*`
`loss`                        `train_loss`, which is written for the first epoch only
only `test_*` in the last     the last epoch has these values
nested hyper-parameters       dotted keys: `optimizer: {lr: 0.1}` is `optimizer.lr`
`optimizer: SGD`              `optimizer.cls`, and likewise of model, initializer and teleport
a value in `test_*`           the job is finished: it is tested after its training, and has no `result.json`
============================  ==========================================================================

Python objects in `hparams.yml` are read as the plain data they are written with; none is created.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd
import yaml

from nteleport.jobs.records import MetricRows
from nteleport.vocabulary import MODES

__all__ = ["PlainLoader", "epochs_of_steps", "flattened", "is_finished", "is_published", "our_name"]

_CLASS_KEYS = {
    "model": "model.cls",
    "optimizer": "optimizer.cls",
    "initializer": "initializer.type",
    "teleport": "teleport.mode",
}

_Base: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # ten times faster, where libyaml is installed


class PlainLoader(_Base):  # type: ignore[misc]
    """A safe loader that reads a Python object as the sequence, mapping or text it is written with."""


def _plain(loader: Any, suffix: str, node: Any) -> Any:
    if isinstance(node, yaml.MappingNode):
        return loader.construct_mapping(node, deep=True)
    if isinstance(node, yaml.SequenceNode):
        return loader.construct_sequence(node, deep=True)
    return loader.construct_scalar(node) or suffix.partition(":")[2]


PlainLoader.add_multi_constructor("tag:yaml.org,2002:python/", _plain)


def is_published(rows: MetricRows) -> bool:
    """Whether rows are numbered by `step`."""
    names = _names(rows)
    return "step" in names and "epoch" not in names


def is_finished(rows: MetricRows) -> bool:
    """Whether a published job was tested, which is the last that it does."""
    tested = [position for position, name in enumerate(_names(rows)) if name.startswith("test_")]
    return any(fields[each].strip() for line in rows.lines for fields in [line.split(",")] for each in tested)


def _names(rows: MetricRows) -> list[str]:
    return [name.strip() for name in rows.header.split(",")]


def our_name(metric: str) -> str:
    """`validate_accuracy` is `val_accuracy`; other names stay."""
    return f"val_{metric.removeprefix('validate_')}" if metric.startswith("validate_") else metric


def epochs_of_steps(frame: pd.DataFrame) -> pd.DataFrame:
    """Rows with `job` and `step` as one row for each epoch, with our columns.

    Args:
        frame: one row per line of the files, all numbers; NaN where a line has none.
    """
    frame = frame[np.isfinite(frame["step"])].rename(columns={"step": "epoch"})
    frame = frame.loc[:, [not str(name).startswith("Unnamed") for name in frame.columns]]
    merged = frame.groupby(["job", "epoch"], as_index=False, sort=True).last()
    for name in [name for name in merged.columns if our_name(name) != name or name == "loss"]:
        ours = "train_loss" if name == "loss" else our_name(name)
        values = merged.pop(name)
        merged[ours] = merged[ours].combine_first(values) if ours in merged else values
    return _with_tests_in_the_last_epoch(merged)


def _with_tests_in_the_last_epoch(merged: pd.DataFrame) -> pd.DataFrame:
    tests = [name for name in merged.columns if name.startswith("test_")]
    others = [name for name in merged.columns if name not in (*tests, "job", "epoch")]
    trained = merged[others].notna().any(axis=1)
    alone = ~trained & trained.groupby(merged["job"]).transform("any")
    if not tests or not alone.any():
        return merged
    last = merged[trained].groupby("job")["epoch"].max()
    moved = merged.assign(epoch=merged["epoch"].mask(alone, merged["job"].map(last)))
    return moved.groupby(["job", "epoch"], as_index=False, sort=True).last()


def flattened(hparams: Mapping[Any, Any]) -> dict[str, Any]:
    """Nested hyper-parameters under dotted keys, and classes under the keys that ours have."""
    flat = dict(_leaves(hparams, ""))
    for part, key in _CLASS_KEYS.items():
        named = flat.get(part)
        if isinstance(named, str) and (part != "teleport" or named in MODES):
            flat.setdefault(key, named)
    unteleported = "no_teleport" in hparams or ("teleport" in hparams and hparams["teleport"] is None)
    if unteleported and not any(key.startswith("teleport.") for key in flat):
        flat["teleport.mode"] = "no_teleport"
    return flat


def _leaves(mapping: Mapping[Any, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for key, value in mapping.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{key}.")
        elif value is not None:
            yield f"{prefix}{key}", value
