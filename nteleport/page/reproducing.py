"""How to run it again: the experiment file of these jobs, and the commands that were recorded."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

from nteleport.errors import NTeleportError
from nteleport.experiment.experiment import load_experiment
from nteleport.experiment.matrix import expand
from nteleport.experiment.trials import recorded_plan
from nteleport.jobs.job import Job
from nteleport.jobs.tuning import tuning_table
from nteleport.page.folder import Folder
from nteleport.page.numbers import counted
from nteleport.page.parts import Code, Note, Part, Section
from nteleport.page.ran import text
from nteleport.schema.yaml_source import to_yaml

_MOST_COMMANDS = 10
_MOST_FILES = 12
_MOST_TRIED = 20_000
"""Larger products of all axes are no matrix that anyone has trained."""

_WITHOUT_EFFECT: dict[str, Any] = {"optimizer_state": "reset", "certificates": True}
"""Defaults of what a job without teleportations does not say."""


def section(folder: Folder, experiment: Path | None = None) -> Section:
    """The section of `folder`; `experiment` is the experiment file of its jobs, if the caller has it.

    Raises:
        ExperimentError: the experiment file cannot be read.
    """
    parts = _experiments(folder) if experiment is None else _given(folder, experiment)
    if experiment is None and tuning_table(folder.directory).exists():
        parts.append(
            Note("An experiment file with a section tune chose the values; --experiment CONFIG shows it.")
        )
    commands = Counter(filter(None, (text(each.get("command")) for each in folder.provenance)))
    for command, jobs in commands.most_common(_MOST_COMMANDS):
        parts.append(Code(f"Command, as recorded by {counted(jobs, 'job')}", command))
    if len(commands) > _MOST_COMMANDS:
        parts.append(Note(f"and {counted(len(commands) - _MOST_COMMANDS, 'further command')}"))
    if not commands:
        parts.append(Code("Command", "nteleport train experiment.yml --out results"))
    return Section("reproduce", "Run it again", tuple(parts))


def _given(folder: Folder, path: Path) -> list[Part]:
    """The text of an experiment file, and how many jobs of the folder it describes."""
    experiment = load_experiment(path)
    if experiment.tune is None:
        jobs: Sequence[Job] = expand(experiment)
    else:
        plan = recorded_plan(experiment, folder.directory)
        jobs = plan.tuning if folder.only_tuning else plan.reported
    described = {job.name for job in jobs}
    others = sum(job.name.rpartition("/")[2] not in described for job in folder.results.jobs)
    text = Code(f"Experiment file, {path.name}", path.read_text(encoding="utf-8-sig"))
    if not others:
        return [text]
    return [
        Note(f"This experiment file does not describe {counted(others, 'job')} of this folder.", urgent=True),
        text,
    ]


def _experiments(folder: Folder) -> list[Part]:
    """The jobs as one experiment file where they form a matrix, else as a file for each cell."""
    jobs, unread = _described(folder)
    if not jobs:
        return [Note("No job has a config.yml that describes it.")]
    about = f" {counted(unread, 'job')} without a readable config.yml not included." if unread else ""
    files = experiment_files(jobs)
    if len(files) == 1:
        note = Note(
            f"One experiment file describes {counted(len(jobs), 'job')}, put together from theirs.{about}"
        )
        return [note, Code("Experiment file", to_yaml(files[0]))]
    shown = [
        Code(f"Experiment file, cell {at + 1} of {len(files)}", to_yaml(each))
        for at, each in enumerate(files[:_MOST_FILES])
    ]
    note = Note(
        f"The jobs are no whole matrix: there is an experiment file for each of {len(files)} cells.{about}"
    )
    left = len(files) - len(shown)
    return [
        note,
        *shown,
        *(
            [Note(f"{counted(left, 'further file')} left out; each job has its own in config.yml.")]
            if left
            else []
        ),
    ]


def _described(folder: Folder) -> tuple[list[Job], int]:
    """The jobs as their `config.yml` describes them, and how many have none that can be read."""
    jobs: list[Job] = []
    for job in folder.results.jobs:
        try:
            jobs += expand(load_experiment(folder.paths(job).config), most_jobs=1)
        except NTeleportError:
            continue
    return list(dict.fromkeys(jobs)), len(folder.results.jobs) - len(jobs)


def experiment_files(jobs: Sequence[Job]) -> list[dict[str, Any]]:
    """Contents of experiment files that expand to exactly these jobs: one if they are a whole matrix."""
    axes = _axes(jobs)
    if math.prod(map(len, axes.values())) <= _MOST_TRIED and _jobs_of(axes) == set(jobs):
        return [_content(axes)]
    cells: dict[str, list[Job]] = {}
    for job in jobs:
        cells.setdefault(job.cell_name, []).append(job)
    return [members[0].to_experiment(sorted(job.run for job in members)) for members in cells.values()]


def _axes(jobs: Sequence[Job]) -> dict[str, list[Any]]:
    """What these jobs differ in, by the fields of `Job`.

    What a job without teleportations does to the optimizer's state has no effect, so it has no value there.
    """
    teleporting = [job for job in jobs if job.teleportation.mode != "no_teleport"]
    trainings = _distinct(job.training for job in teleporting)
    known = [replace(each, **_WITHOUT_EFFECT) for each in trainings]
    others = _distinct(job.training for job in jobs if replace(job.training, **_WITHOUT_EFFECT) not in known)
    return {
        "dataset": _distinct(job.dataset for job in jobs),
        "training": [*trainings, *(each for each in others if each not in trainings)],
        "model": _distinct(job.model for job in jobs),
        "initializer": _distinct(job.initializer for job in jobs),
        "optimizer": _distinct((job.optimizer, job.scheduler) for job in jobs),
        "teleportation": _distinct(job.teleportation for job in jobs),
        "run": sorted({job.run for job in jobs}),
    }


def _distinct(values: Iterable[Any]) -> list[Any]:
    """Each value once; a component has lists among its arguments, and no hash."""
    found: list[Any] = []
    for value in values:
        if value not in found:
            found.append(value)
    return found


def _jobs_of(axes: Mapping[str, Sequence[Any]]) -> set[Job]:
    combined = (dict(zip(axes, values, strict=True)) for values in product(*axes.values()))
    return {
        Job(**{**each, "optimizer": each["optimizer"][0], "scheduler": each["optimizer"][1]})
        for each in combined
    }


def _content(axes: Mapping[str, Sequence[Any]]) -> dict[str, Any]:
    """The matrix as the content of one experiment file."""
    first = Job(**{**{key: values[0] for key, values in axes.items()}, "optimizer": axes["optimizer"][0][0]})
    baseline = [each for each in axes["teleportation"] if each.mode == "no_teleport"]
    others = [each for each in axes["teleportation"] if each.mode != "no_teleport"]
    job = replace(first, teleportation=others[0] if others else first.teleportation)  # names all settings

    def one(**changes: Any) -> dict[str, Any]:
        return replace(job, **changes).to_experiment()

    trainings = [one(training=each)["training_params"] for each in axes["training"]]
    optimizers = [one(optimizer=each, scheduler=how)["optimizers"] for each, how in axes["optimizer"]]
    blocks = [one(teleportation=each)["teleportations"]["teleport"] for each in others]
    return {
        "runs": list(axes["run"]),
        "datasets": list(axes["dataset"]),
        "models": [item for each in axes["model"] for item in one(model=each)["models"]],
        "initializers": [
            item for each in axes["initializer"] for item in one(initializer=each)["initializers"]
        ],
        "optimizers": [item for each in optimizers for item in each],
        "training_params": trainings if len(trainings) > 1 else trainings[0],
        "teleportations": {
            **({"no_teleport": None} if baseline else {}),
            **{f"teleport_{at}" if at else "teleport": block for at, block in enumerate(blocks)},
        },
    }
