"""An experiment: a matrix of jobs, read from a YAML file and checked completely.

`read_experiment` returns the `Experiment` and all its problems, each with its place: names, types and
combinations. The keyword arguments of optimizers, schedulers and models need torch and are checked by
`nteleport.runner.preflight`; nothing here needs torch. The axes keep the nodes they were read from, so that
later checks can point at the file too.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nteleport.data.catalog import DataSource
from nteleport.errors import ExperimentError, Problem
from nteleport.experiment.components import (
    OptimizerChoice,
    Placed,
    read_datasets,
    read_initializers,
    read_models,
    read_optimizers,
)
from nteleport.experiment.grids import Tuning, read_tune
from nteleport.experiment.teleportations import read_teleportations
from nteleport.jobs.job import Component, Teleportation, TrainingParams
from nteleport.schema.fields import (
    axis,
    axis_nodes,
    fields,
    mapping,
    read_options,
    unknown_key,
    whole_number,
)
from nteleport.schema.overrides import apply_overrides
from nteleport.schema.yaml_source import Mark, Node, Problems, parse_yaml

_KEYS = (
    "runs_per_config",
    "runs",
    "datasets",
    "models",
    "initializers",
    "optimizers",
    "training_params",
    "teleportations",
    "tune",
)
_REQUIRED = ("datasets", "models", "optimizers")

_LARGEST_FILE = 5_000_000
"""Bytes. The largest published matrix has 2,000."""

_MOST_RUNS = 10_000
"""Maximum runs per cell; a typo beyond that would fill the memory with jobs."""


@dataclass(frozen=True)
class Experiment:
    """The axes of a matrix of jobs; `nteleport.experiment.matrix.expand` gives the jobs, or with `tune`
    `nteleport.experiment.trials.plan`.
    """

    path: Path
    datasets: tuple[str | DataSource, ...] = ()
    training: tuple[TrainingParams, ...] = ()
    models: tuple[Placed[Component], ...] = ()
    initializers: tuple[Component, ...] = (Component("none"),)
    optimizers: tuple[Placed[OptimizerChoice], ...] = ()
    teleportations: tuple[Teleportation, ...] = (Teleportation(),)
    runs: tuple[int, ...] = (0,)
    tune: Tuning | None = None
    dataset_nodes: tuple[Node, ...] = ()
    """Where each of `datasets` was read."""
    training_nodes: tuple[Node, ...] = ()
    """Where each of `training` was read; none if it is all defaults."""


def read_experiment(path: Path, overrides: Sequence[str] = ()) -> tuple[Experiment, list[Problem]]:
    """The experiment, as far as it can be read, and all its problems."""
    problems = Problems()
    try:
        size = path.stat().st_size
        if size > _LARGEST_FILE:
            message = f"{size:,} bytes, expected an experiment file of at most {_LARGEST_FILE:,}"
            return Experiment(path), [Problem(str(path), 0, 0, message)]
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        return Experiment(path), [Problem(str(path), 0, 0, f"{error.strerror}, expected an experiment file")]
    except UnicodeDecodeError:
        return Experiment(path), [Problem(str(path), 0, 0, "not UTF-8 text, expected an experiment file")]
    root = parse_yaml(text, Mark(str(path)), problems)
    if root is None and problems:
        return Experiment(path), problems
    root = root or Node(None, Mark(str(path)))
    apply_overrides(root, overrides, problems)
    return _read(path, root, problems), problems


def _read(path: Path, root: Node, problems: Problems) -> Experiment:
    """Read every section; an omitted section keeps its default."""
    entries = mapping(root, problems, "an experiment")
    for key, node in entries.items():
        if key not in _KEYS:
            unknown_key(key, node, _KEYS, problems, "an experiment")
    if isinstance(root.value, dict):
        for key in _REQUIRED:
            if key not in entries:
                problems.add(root.mark, f"missing key {key!r}, expected at least {', '.join(_REQUIRED)}")
    placed = _read_training(entries.get("training_params"), problems)
    training = tuple(each.value for each in placed) or (TrainingParams(),)
    sections: dict[str, tuple[Any, ...]] = {"training": training, "runs": _read_runs(entries, problems)}
    sections["training_nodes"] = tuple(each.node for each in placed)
    for key, read in _SECTIONS.items():
        if key in entries:
            sections[key] = tuple(read(entries[key], problems))
    sources: tuple[Placed[str | DataSource], ...] = sections.pop("datasets", ())
    sections["datasets"] = tuple(each.value for each in sources)
    sections["dataset_nodes"] = tuple(each.node for each in sources)
    if "teleportations" in entries:
        sections["teleportations"] = read_teleportations(entries["teleportations"], training, problems)
    tune = None
    if "tune" in entries:
        optimizers = sections.get("optimizers", ())
        tune = read_tune(entries["tune"], sections["runs"], training, optimizers, problems)
    return Experiment(path, **sections, tune=tune)


_SECTIONS: dict[str, Callable[[Node, Problems], list[Any]]] = {
    "datasets": read_datasets,
    "models": read_models,
    "initializers": read_initializers,
    "optimizers": read_optimizers,
}


def _read_training(node: Node | None, problems: Problems) -> list[Placed[TrainingParams]]:
    items = [] if node is None else axis_nodes(node, problems, "training_params")
    return [
        Placed(TrainingParams(**read_options(TrainingParams, item, problems, "training_params")), item)
        for item in items
    ]


def _read_runs(entries: dict[str, Node], problems: Problems) -> tuple[int, ...]:
    """`runs_per_config: 3` is short for `runs: [0, 1, 2]`."""
    if "runs" not in entries:
        known = {key: node for key, node in entries.items() if key == "runs_per_config"}
        count = fields(known, {"runs_per_config": whole_number(1, _MOST_RUNS)}, problems, "an experiment")
        return tuple(range(count.get("runs_per_config", 1)))
    node = entries["runs"]
    if "runs_per_config" in entries:
        problems.add(node.key_mark or node.mark, "runs beside runs_per_config, expected one of them")
    runs: list[int] = []
    for run, place in axis(node, whole_number(0), problems, "runs"):
        if run in runs:
            problems.add(place.mark, f"runs: {run} twice, expected different runs")
        runs.append(run)
    return tuple(runs)


def load_experiment(path: Path | str, *, overrides: Sequence[str] = ()) -> Experiment:
    """Read an experiment file and check everything that needs no torch.

    `nteleport.runner.preflight.load_checked` checks keyword arguments as well.

    Args:
        path: the file.
        overrides: changes such as `training_params.epochs=5`, applied in order before the checks.

    Raises:
        ExperimentError: with all problems, in the order of the file.
    """
    experiment, problems = read_experiment(Path(path), overrides)
    if problems:
        raise ExperimentError(sorted(set(problems)))
    return experiment
