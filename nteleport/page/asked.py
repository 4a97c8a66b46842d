"""What was asked: the matrix, and the arms with all their options."""

from __future__ import annotations

from collections.abc import Iterable

from nteleport.jobs.table import JobResult, Scalar
from nteleport.page.folder import Folder
from nteleport.page.parts import Column, Note, Section, Table, Value
from nteleport.plots.panels import hyper_parameters, value_of
from nteleport.plots.wording import number

_AXES = {
    "dataset": "data set",
    "model": "network",
    "initializer": "initial weights",
    "optimizer": "optimizer",
    "lr_scheduler": "learning-rate schedule",
    "run": "run",
}
_MOST_VALUES = 24


def section(folder: Folder) -> Section:
    """The section of `folder`."""
    jobs = folder.results.jobs
    rows: list[list[Value]] = []
    for key, title in _AXES.items():
        rows.append([title, *_values(value_of(job.hparams, key) for job in jobs)])
    for key in hyper_parameters(jobs):
        if key.startswith("training."):
            found = _values(job.hparams.get(key) for job in jobs)
            rows.append([key.removeprefix("training.").replace("_", " "), *found])
    matrix = Table("Matrix", (Column("axis"), Column("values"), Column("number", "number")), rows)
    options = [key for key in hyper_parameters(jobs) if key.startswith("teleport.") and key != "teleport.mode"]
    heads = {folder.arms.of(job).key: job for job in reversed(jobs)}
    arms = Table(
        "Arms",
        (Column("arm"), Column("mode", "code"), Column("options"), Column("jobs", "number")),
        [[arm.label, arm.mode, _options(heads[arm.key], options), arm.jobs] for arm in folder.arms],
    )
    note = Note(
        "Every job is one combination of the axes. Jobs with the same run, data set, network and initial "
        "weights start from the same weights and see the same batches, whatever their arm: they are pairs."
    )
    return Section("asked", "What was asked", (note, matrix, arms))


def _values(values: Iterable[Scalar | None]) -> tuple[str, int]:
    """Distinct values in one line, numbers in order, and how many there are."""
    distinct = set(values) - {None}
    ordered = sorted(distinct, key=lambda value: (isinstance(value, str), str(value) if isinstance(value, str) else value))
    shown = [number(value) for value in ordered[:_MOST_VALUES] if value is not None]
    return "; ".join([*shown, "…"] if len(ordered) > _MOST_VALUES else shown), len(ordered)


def _options(job: JobResult, keys: Iterable[str]) -> str:
    present = ((key, job.hparams.get(key)) for key in keys)
    return ", ".join(f"{key.removeprefix('teleport.')} {number(value)}" for key, value in present if value is not None)
