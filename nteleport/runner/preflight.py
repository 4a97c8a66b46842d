"""Checks of an experiment file that need torch or the user's own code.

Each class of an experiment is checked in three steps. Does the class exist? Does its signature have each
keyword, and is the value of the same type as the default (`nteleport.runner.signatures`)? Does it work:
networks and losses try two inputs (`nteleport.runner.trial`), optimizers and schedulers take a step
(`nteleport.runner.optimizer_trial`).
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from itertools import product
from pathlib import Path

from nteleport.data.catalog import DatasetInfo, DataSource
from nteleport.data.loaded import described, source_keywords
from nteleport.errors import (
    DatasetError,
    ExperimentError,
    ModelError,
    NTeleportError,
    PluginError,
    Problem,
    UnknownNameError,
)
from nteleport.experiment.components import Placed
from nteleport.experiment.experiment import Experiment, read_experiment
from nteleport.jobs.job import Component
from nteleport.networks.models import check_model, model_defaults
from nteleport.plugins import is_reference
from nteleport.runner.optimizer_trial import check_optimizer
from nteleport.runner.signatures import arguments_of, check_arguments, check_complete, name_node
from nteleport.runner.trial import trial
from nteleport.schema.yaml_source import Node, Problems
from nteleport.training.losses import find_loss

_PLAIN = frozenset({"cross_entropy"})
"""The losses that every network of nteleport's own takes on every data set of its own."""


def load_checked(path: Path | str, *, overrides: Sequence[str] = ()) -> Experiment:
    """Read an experiment file and check it completely; see `load_experiment`.

    Raises:
        ExperimentError: with all problems, in the order of the file.
        PluginError: a plugin that the experiment refers to cannot be run.
    """
    experiment, problems = read_experiment(Path(path), overrides)
    problems += signature_problems(experiment)
    if problems:
        raise ExperimentError(sorted(set(problems)))
    return experiment


def signature_problems(experiment: Experiment) -> list[Problem]:
    """Everything that torch, the models and the user's own code would reject, with places."""
    problems = Problems()
    for dataset, node in zip(experiment.datasets, experiment.dataset_nodes, strict=True):
        _check_source(dataset, node, problems)
    _check_losses(experiment, problems)
    for model in experiment.models:
        _check_model(model, experiment, problems)
    for entry in experiment.optimizers:
        check_optimizer(entry, experiment, problems)
    if not problems:
        _try_together(experiment, problems)
    return problems


def _check_source(dataset: str | DataSource, node: Node, problems: Problems) -> None:
    """Check the arguments of a function that loads a data set, and what it returns."""
    if not isinstance(dataset, DataSource):
        return
    place = name_node(node, "load")
    arguments = arguments_of(node, "load", "name")
    try:
        keywords = source_keywords(dataset)
        if check_arguments(keywords, arguments, dataset.load, problems):
            check_complete(keywords, arguments, dataset.load, place, problems)
            described(dataset)
    except PluginError:
        raise
    except NTeleportError as error:
        problems.add(place.mark, f"datasets: {error}")


def _check_losses(experiment: Experiment, problems: Problems) -> None:
    for params, node in zip(experiment.training, experiment.training_nodes, strict=False):
        try:
            find_loss(params.loss)
        except PluginError:
            raise
        except NTeleportError as error:
            problems.add(_loss_node(node).mark, f"loss: {error}")


def _check_model(model: Placed[Component], experiment: Experiment, problems: Problems) -> None:
    name, place = model.value.cls, name_node(model.node)
    try:
        keywords = model_defaults(name)
    except PluginError:
        raise
    except NTeleportError as error:
        problems.add(place.mark, f"models: {error}")
        return
    arguments = arguments_of(model.node)
    if not check_arguments(keywords, arguments, f"model {name}", problems):
        return
    if is_reference(name):  # whether it works is tried below
        check_complete(keywords, arguments, f"model {name}", place, problems)
        return
    for info in _infos(experiment):
        try:
            check_model(name, model.value.kwargs, input_shape=info.input_shape, num_classes=info.num_classes)
        except ModelError as error:
            problems.add(place.mark, f"models: {error}")


def _infos(experiment: Experiment) -> list[DatasetInfo]:
    """The data sets as they are served; those that cannot be loaded are reported elsewhere."""
    found: dict[DatasetInfo, None] = {}
    for dataset, way in product(
        experiment.datasets, {params.preprocessing: None for params in experiment.training}
    ):
        with contextlib.suppress(DatasetError, UnknownNameError):
            found[described(dataset, way)] = None
    return list(found)


def _try_together(experiment: Experiment, problems: Problems) -> None:
    """Check that networks, losses and data sets fit each other, where one of them is the user's."""
    losses = dict.fromkeys(params.loss for params in experiment.training)
    ways = dict.fromkeys(params.preprocessing for params in experiment.training)
    for (dataset, node), way in product(
        zip(experiment.datasets, experiment.dataset_nodes, strict=True), ways
    ):
        _check_accuracies(dataset, experiment, node, problems)
        for model in experiment.models:
            if not (is_reference(model.value.cls) or isinstance(dataset, DataSource) or set(losses) - _PLAIN):
                continue
            found = trial(model.value, dataset, way, tuple(losses))
            if found.of_network:
                problems.add(name_node(model.node).mark, f"models: {found.of_network}")
            for loss, message in found.of_losses.items():
                nodes = [
                    each
                    for params, each in zip(experiment.training, experiment.training_nodes, strict=False)
                    if params.loss == loss
                ]
                problems.add((_loss_node(nodes[0]) if nodes else node).mark, f"loss: {message}")


def _check_accuracies(
    dataset: str | DataSource, experiment: Experiment, node: Node, problems: Problems
) -> None:
    """Check that nothing asks for an accuracy where there is none."""
    monitors = {each.on_plateau.monitor for each in experiment.teleportations if each.on_plateau is not None}
    without = sorted(monitor for monitor in monitors if "accuracy" in monitor)
    if not (without or experiment.tune) or not described(dataset).has_numbers:
        return
    if without:
        message = f"targets of {dataset} are numbers, so on_plateau cannot monitor {without[0]}"
        problems.add(node.mark, f"datasets: {message}, expected monitor: val_loss")
    if experiment.tune is not None:
        message = f"targets of {dataset} are numbers, so there is no accuracy to tune by"
        problems.add(node.mark, f"datasets: {message}, expected no tune")


def _loss_node(node: Node) -> Node:
    return node.value.get("loss", node) if isinstance(node.value, dict) else node
