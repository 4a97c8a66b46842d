"""Checks before a run: everything that needs torch, the devices or the disk.

Each class of an experiment is checked in three steps. Does the class exist? Does its signature have each
keyword, and is the value of the same type as the default? Does it work: a small instance is created and takes
a step, so a negative learning rate or a cyclic momentum without momentum is found now, not hours into a run.
"""

from __future__ import annotations

import contextlib
import inspect
import warnings
from collections.abc import Container, Iterable, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch.optim import lr_scheduler

from nteleport.core.optimizer_state import check_transportable
from nteleport.data.batching import num_batches
from nteleport.data.catalog import DatasetInfo, DataSource
from nteleport.data.loaded import described, source_keywords
from nteleport.data.sources import availability
from nteleport.errors import (
    DatasetError,
    ExperimentError,
    JobError,
    ModelError,
    NTeleportError,
    PluginError,
    Problem,
    UnknownNameError,
    nearest,
)
from nteleport.experiment.components import OptimizerChoice, Placed
from nteleport.experiment.experiment import Experiment, read_experiment
from nteleport.experiment.grids import TunedKey
from nteleport.expression import compile_lambda
from nteleport.jobs.job import Component, Job, Scheduler, TrainingParams
from nteleport.jobs.options import RunOptions
from nteleport.networks.models import check_model, model_defaults
from nteleport.networks.pretrained import pretrained_weights
from nteleport.plugins import is_reference, keywords_of, located, look_up
from nteleport.runner.trial import trial
from nteleport.schema.yaml_source import Node, Problems
from nteleport.trackers.tracker import load_trackers
from nteleport.training.assembly import optimizer_class
from nteleport.training.device import find_device
from nteleport.training.learning_rate import Watched, build_learning_rate
from nteleport.training.losses import find_loss
from nteleport.vocabulary import MODES

_GIVEN = frozenset({"params", "defaults", "optimizer", "last_epoch"})
"""Arguments that training itself passes to optimizers and schedulers."""

_COMPUTED = frozenset({"total_steps", "steps_per_epoch", "epochs", "T_max"})
"""Arguments that training computes for schedulers when they are left out."""

_PLAIN = frozenset({"cross_entropy"})
"""The losses that every network of nteleport's own takes on every data set of its own."""

_DEVICE_DEPENDENT = frozenset({"capturable", "fused"})
"""Arguments that may work only on the training device, so they are not tried here."""


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
        _check_optimizer(entry, experiment, problems)
    if not problems:
        _try_together(experiment, problems)
    return problems


def _check_source(dataset: str | DataSource, node: Node, problems: Problems) -> None:
    """Check the arguments of a function that loads a data set, and what it returns."""
    if not isinstance(dataset, DataSource):
        return
    place = _name_node(node, "load")
    arguments = _arguments(node, "load", "name")
    try:
        keywords = source_keywords(dataset)
        if _check_arguments(keywords, arguments, dataset.load, problems):
            _check_complete(keywords, arguments, dataset.load, place, problems)
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
    name, place = model.value.cls, _name_node(model.node)
    try:
        keywords = model_defaults(name)
    except PluginError:
        raise
    except NTeleportError as error:
        problems.add(place.mark, f"models: {error}")
        return
    arguments = _arguments(model.node)
    if not _check_arguments(keywords, arguments, f"model {name}", problems):
        return
    if is_reference(name):  # whether it works is tried below
        _check_complete(keywords, arguments, f"model {name}", place, problems)
        return
    for info in _infos(experiment):
        try:
            check_model(name, model.value.kwargs, input_shape=info.input_shape, num_classes=info.num_classes)
        except ModelError as error:
            problems.add(place.mark, f"models: {error}")


def _check_complete(
    keywords: Mapping[str, Any] | None,
    arguments: Mapping[str, Node],
    what: str,
    place: Node,
    problems: Problems,
    *,
    computed: Container[str] = (),
) -> None:
    """Check that each argument without a default is given, or computed."""
    required = [key for key, default in (keywords or {}).items() if default is inspect.Parameter.empty]
    missing = [key for key in required if key not in arguments and key not in computed]
    if missing:
        problems.add(place.mark, f"{what} without {', '.join(missing)}, which it needs")


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
                problems.add(_name_node(model.node).mark, f"models: {found.of_network}")
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


def _check_optimizer(entry: Placed[OptimizerChoice], experiment: Experiment, problems: Problems) -> None:
    chosen, scheduler = entry.value.optimizer, entry.value.scheduler
    place = _name_node(entry.node)
    arguments = _arguments(entry.node)
    scheduler_node = arguments.pop("lr_scheduler", entry.node)
    found = len(problems)
    cls = _find_class(torch.optim, torch.optim.Optimizer, place, "optimizer", problems)
    if cls is not None:
        _check_arguments(_defaults(cls), arguments, chosen.cls, problems, lists=False)
        fused = [params.fused for params in experiment.training if params.fused != "auto"]
        defaults = _defaults(cls)
        if fused and defaults is not None and "fused" not in defaults:
            problems.add(
                place.mark, f"{chosen.cls} has no fused form, expected training_params with fused: auto"
            )
    if scheduler is not None:
        _check_scheduler_class(scheduler_node, problems)
    tuned = experiment.tune.keys if experiment.tune is not None else ()
    if cls is not None:
        _check_tuned_arguments(cls, tuned, problems)
    if len(problems) == found:
        _check_tuned(chosen, tuned, experiment, problems)
    chosen = Component(chosen.cls, {**chosen.kwargs, **_first_values(tuned)})
    if len(problems) == found:
        _try(chosen, None, experiment, place, problems)
    if len(problems) == found and scheduler is not None:
        _try(chosen, scheduler, experiment, _name_node(scheduler_node), problems)


def _check_tuned_arguments(cls: type, keys: Sequence[TunedKey], problems: Problems) -> None:
    for key in keys:
        for node in key.nodes():
            given = {key.argument: node}
            if not _check_arguments(_defaults(cls), given, cls.__name__, problems, lists=False):
                break


def _check_tuned(
    chosen: Component, keys: Sequence[TunedKey], experiment: Experiment, problems: Problems
) -> None:
    """Try each value that is tuned, of a grid those at its furthest ends. One that does not work alone, such
    as `nesterov` without `momentum`, is tried with the first values of the other keys.
    """
    first = _first_values(keys)
    for key in keys:
        for node in key.nodes():
            value = {key.argument: node.plain()}
            alone, among_others = Problems(), Problems()
            _try(Component(chosen.cls, {**chosen.kwargs, **value}), None, experiment, node, alone)
            if alone:
                together = Component(chosen.cls, {**chosen.kwargs, **first, **value})
                _try(together, None, experiment, node, among_others)
            problems += among_others
            if among_others:
                break


def _first_values(keys: Sequence[TunedKey]) -> dict[str, Any]:
    return {key.argument: key.nodes()[0].plain() for key in keys}


def _check_scheduler_class(node: Node, problems: Problems) -> None:
    """Check the name and keyword arguments of a scheduler, and of the schedulers inside it."""
    place = _name_node(node)
    arguments = _arguments(node)
    parts = arguments.get("schedulers")
    for part in parts.value if parts is not None and isinstance(parts.value, list) else []:
        _check_scheduler_class(part, problems)
    arguments.pop("interval", None)
    cls = _find_class(lr_scheduler, lr_scheduler.LRScheduler, place, "learning-rate scheduler", problems)
    if cls is None:
        return
    defaults = _defaults(cls)
    _check_arguments(defaults, arguments, cls.__name__, problems)
    _check_complete(defaults, arguments, cls.__name__, place, problems, computed=_COMPUTED)


def _try(
    chosen: Component, scheduler: Scheduler | None, experiment: Experiment, place: Node, problems: Problems
) -> None:
    """Create the optimizer and its scheduler for a weight and a bias and take a step; report any error."""
    parameters = [torch.nn.Parameter(torch.ones(2, 2)), torch.nn.Parameter(torch.ones(2))]
    for parameter in parameters:
        parameter.grad = torch.ones_like(parameter)
    kwargs = {key: value for key, value in chosen.kwargs.items() if key not in _DEVICE_DEPENDENT}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for epochs, steps, watches in _lengths(experiment):
                optimizer: Any = optimizer_class(chosen.cls)(parameters, **kwargs)
                rate = build_learning_rate(
                    optimizer,
                    scheduler,
                    epochs=epochs,
                    steps_per_epoch=steps,
                    compile_lambda=compile_lambda,
                    watches=watches,
                )
            optimizer.step(lambda: torch.ones(()))
            rate.step_finished()
            rate.epoch_finished(0.5)
            if _transports(experiment):
                check_transportable(optimizer)
    except NTeleportError as error:
        problems.add(place.mark, str(error))
    except (Exception, SystemExit) as error:  # whatever torch or the user's code raises for an invalid value
        name = scheduler.cls if scheduler else chosen.cls
        problems.add(place.mark, f"{name}: {located(name, error) if is_reference(name) else error}")


def _lengths(experiment: Experiment) -> set[tuple[int, int, Watched]]:
    """Epochs, steps per epoch and what a plateau is one of, for every combination of data set and training
    parameters."""
    found: set[tuple[int, int, Watched]] = set()
    for dataset, params in product(experiment.datasets, experiment.training):
        with contextlib.suppress(DatasetError, UnknownNameError):  # no batch can be made: reported elsewhere
            watches: Watched = "loss" if described(dataset).has_numbers else "accuracy"
            found.add((params.epochs, _steps_per_epoch(dataset, params), watches))
    return found or {(1, 1, "accuracy")}


def _steps_per_epoch(dataset: str | DataSource, params: TrainingParams) -> int:
    """Batches of an epoch.

    Raises:
        DatasetError: there is none.
    """
    images = round(described(dataset).train_size * (1 - (params.validation or 0)))
    images = min(images, params.train_images or images)
    return num_batches(
        images,
        batch_size=params.batch_size,
        drop_last=params.drop_last_batch,
        max_batch=params.max_batch,
    )


def _transports(experiment: Experiment) -> bool:
    moves = any(MODES[each.mode].changes_basis for each in experiment.teleportations)
    return moves and any(params.optimizer_state == "transport" for params in experiment.training)


def _find_class(module: Any, base: type, place: Node, what: str, problems: Problems) -> type | None:
    """The subclass of `base` that `module` or a plugin has under the name at `place`; None with a problem."""
    classes = {
        key: value
        for key, value in vars(module).items()
        if inspect.isclass(value) and issubclass(value, base) and value is not base and key[0] != "_"
    }
    name = str(place.value)
    if is_reference(name):
        return _plugin_class(name, base, place, what, problems)
    if name not in classes:
        known = f"expected one of {', '.join(sorted(classes))}{nearest(name, classes)}"
        problems.add(place.mark, f"unknown {what} {name!r}, {known}")
    return classes.get(name)


def _plugin_class(name: str, base: type, place: Node, what: str, problems: Problems) -> type | None:
    try:
        cls = look_up(name)
    except UnknownNameError as error:
        problems.add(place.mark, f"{what}: {error}")
        return None
    if not (inspect.isclass(cls) and issubclass(cls, base)):
        problems.add(place.mark, f"{name} is no {what}, expected a subclass of torch's {base.__name__}")
        return None
    return cls


def _defaults(cls: type) -> dict[str, Any] | None:
    """The keyword arguments of a class, with their defaults; see `keywords_of`."""
    return keywords_of(cls, without=_GIVEN)


def _check_arguments(
    defaults: Mapping[str, Any] | None,
    arguments: Mapping[str, Node],
    what: str,
    problems: Problems,
    *,
    lists: bool = True,
) -> bool:
    """Whether each argument is known and of the type of its default, as far as these are known."""
    if defaults is None:
        return True
    found = len(problems)
    for key, node in arguments.items():
        if key not in defaults:
            known = ", ".join(defaults) or "none"
            message = f"{what} takes no argument {key!r}, expected {known}{nearest(key, defaults)}"
            problems.add(node.key_mark or node.mark, message)
            continue
        expected = _implausible(node.plain(), defaults[key], lists)
        if expected:
            problems.add(node.mark, f"{key}: {node.described()}, expected {expected}")
    return len(problems) == found


def _implausible(value: Any, default: Any, lists: bool) -> str | None:
    """What was expected, if `value` cannot replace `default`.

    With `lists`, a list of numbers may replace a number: schedulers take one number per parameter group.
    """
    match default:
        case bool():
            return None if isinstance(value, bool) else "true or false"
        case int() | float():
            numbers = value if lists and isinstance(value, list) else [value]
            plausible = all(isinstance(each, (int, float)) and not isinstance(each, bool) for each in numbers)
            return None if plausible else "a number"
        case tuple():
            plausible = isinstance(value, list) and len(value) == len(default)
            return None if plausible else f"a list of {len(default)}"
        case str():
            return None if isinstance(value, str) else "text"
    return None


def _name_node(node: Node, key: str = "cls") -> Node:
    """The node of a class's name: the entry itself, or its `cls`."""
    return node.value.get(key, node) if isinstance(node.value, dict) else node


def _arguments(node: Node, *names: str) -> dict[str, Node]:
    """The keyword arguments beside a class's name."""
    entries = node.value if isinstance(node.value, dict) else {}
    return {key: value for key, value in entries.items() if key not in (names or ("cls",))}


def prepare(jobs: Sequence[Job], options: RunOptions, *, here: bool = True) -> None:
    """Check what a run needs besides its experiment, and download data sets that are missing.

    Args:
        jobs: the jobs to train.
        options: how to train them.
        here: whether they run on this machine; else its devices are not checked.

    Raises:
        NTeleportError: a tracker, device or data set is unavailable, or a job has no batch to train on.
    """
    load_trackers(options.trackers)
    check_trainable(jobs)
    if here:
        _check_devices(options)
    for dataset in dict.fromkeys(job.dataset for job in jobs):
        if isinstance(dataset, str):
            availability(dataset, options.data_dir)
    for name in dict.fromkeys(job.model.cls for job in jobs if job.model.kwargs.get("pretrained")):
        if not is_reference(name):
            pretrained_weights(name)


def check_trainable(jobs: Iterable[Job]) -> None:
    """Check that every job has a batch to train on, and reaches its first teleportation, before anything is
    written.

    Raises:
        DatasetError: one of them has none.
        JobError: the first teleportation of one is past its last step.
    """
    for dataset, params, first in {
        (job.dataset, job.training, job.teleportation.settings().get("every_n_steps", 0)) for job in jobs
    }:
        steps = params.epochs * _steps_per_epoch(dataset, params)
        if first >= steps:
            raise JobError(
                f"every_n_steps {first} is past the end of training, expected at most {steps - 1}: steps "
                f"count from 0 and there are {steps} in {params.epochs} epochs of {dataset}"
            )


def _check_devices(options: RunOptions) -> None:
    """Check that the devices exist, without using any of them."""
    named = "cuda:0" if options.device == "cuda" else options.device
    for name in [f"cuda:{number}" for number in options.devices] or [named]:
        if name != "auto":
            find_device(name)
