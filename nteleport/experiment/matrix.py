"""Expands an experiment into its jobs, or into files with one cell or one run each.

The order is fixed: data set, training parameters, model, initializer, optimizer, teleportation, run; the last
varies fastest. A job that a matrix describes twice, for instance by an option that has no effect in one of
its modes, appears once. Files are named after their content, so names are stable when a matrix is reordered
or extended.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

from nteleport.errors import ExperimentError, JobError, Problem
from nteleport.experiment.experiment import Experiment
from nteleport.jobs.atomic import write_text_atomic
from nteleport.jobs.job import Job
from nteleport.schema.yaml_source import to_yaml

MOST_JOBS = 100_000
"""A matrix with more jobs than this is refused unless asked for: most likely a slip."""


def cells(experiment: Experiment, most_jobs: int = MOST_JOBS) -> list[Job]:
    """The cells of the matrix: for each, its first run.

    Raises:
        JobError: the matrix has more jobs than `most_jobs`; nothing has been built then.
        ExperimentError: the experiment is tuned, so that its cells lack their optimizer's best arguments.
    """
    if experiment.tune is not None:
        mark = experiment.tune.node.key_mark or experiment.tune.node.mark
        message = (
            "tune: the jobs to report follow from tuning, in which all arms of a cell take part; expected "
            "`nteleport train` or `submit`, which write a config.yml for each job"
        )
        raise ExperimentError([Problem(mark.file, mark.line, mark.column, message)])
    axes = (
        experiment.datasets,
        experiment.training,
        experiment.models,
        experiment.initializers,
        experiment.optimizers,
        experiment.teleportations,
    )
    count = math.prod(len(axis) for axis in (*axes, experiment.runs))
    if count > most_jobs:
        raise JobError(
            f"{experiment.path} describes {count:,} jobs, expected at most {most_jobs:,}: shorten its lists, "
            "or raise the limit"
        )
    jobs = (
        Job(
            dataset=dataset,
            training=training,
            model=model.value,
            initializer=initializer,
            optimizer=chosen.value.optimizer,
            scheduler=chosen.value.scheduler,
            teleportation=teleportation,
            run=experiment.runs[0],
        )
        for dataset, training, model, initializer, chosen, teleportation in product(*axes)
    )
    return list(dict.fromkeys(jobs))


def expand(experiment: Experiment, most_jobs: int = MOST_JOBS) -> list[Job]:
    """All jobs, in the order above.

    Raises:
        JobError: there are more than `most_jobs`; or two of them have the same name, which is rare: hashes
            have 32 bits.
    """
    jobs = [replace(cell, run=run) for cell in cells(experiment, most_jobs) for run in experiment.runs]
    return list(by_name(jobs).values())


def by_name(jobs: Sequence[Job], name: Callable[[Job], str] = lambda job: job.name) -> dict[str, Job]:
    """The jobs by name.

    Raises:
        JobError: two of them share one.
    """
    names = [name(job) for job in jobs]
    named = dict(zip(names, jobs, strict=True))
    if len(named) < len(jobs):
        twice = next(name for name, count in Counter(names).items() if count > 1)
        raise JobError(f"two different jobs have the name {twice!r}: split the experiment in two")
    return named


def unravel(
    experiment: Experiment, out: Path, *, per_run: bool = False, most_jobs: int = MOST_JOBS
) -> list[Path]:
    """Write a file per cell, or with `per_run` per run, that `train` expands into the same jobs.

    Returns:
        The files in the order of the matrix, `<out>/<slug>-<hash>.yml`.

    Raises:
        JobError: `out` cannot be written, or the matrix has more than `most_jobs` jobs.
        ExperimentError: the experiment is tuned.
    """
    if per_run:
        files = {job.name: job.to_experiment() for job in expand(experiment, most_jobs)}
    else:
        found = cells(experiment, most_jobs)
        named = by_name(found, lambda cell: cell.cell_name)
        files = {name: cell.to_experiment(experiment.runs) for name, cell in named.items()}
    written: dict[str, str] = {}
    try:
        out.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            _write_if_new(out / f"{name}.yml", _file_text(content, written))
    except OSError as error:
        raise JobError(f"cannot write to {out}: {error.strerror}, expected a writable folder") from error
    return [out / f"{name}.yml" for name in files]


def _file_text(content: dict[str, Any], written: dict[str, str]) -> str:
    """The content as YAML. Cells share most sections, so each distinct section is serialized only once."""
    text = ""
    for key, section in content.items():
        known = json.dumps({key: section})
        if known not in written:
            written[known] = to_yaml({key: section})
        text += written[known]
    return text


def _write_if_new(path: Path, text: str) -> None:
    """Write `text`, but leave a file that already has this content, and its modification time, untouched."""
    if not (path.is_file() and path.read_bytes() == text.encode()):
        write_text_atomic(path, text)
