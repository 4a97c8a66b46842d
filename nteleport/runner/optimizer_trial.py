"""A trial of optimizers and their schedulers before a run: each is created and takes a step.

So a negative learning rate or a cyclic momentum without momentum is found now, not hours into a run.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Sequence
from itertools import product
from typing import Any

import torch
from torch.optim import lr_scheduler

from nteleport.core.optimizer_state import check_transportable
from nteleport.data.loaded import described
from nteleport.errors import DatasetError, NTeleportError, UnknownNameError
from nteleport.experiment.components import OptimizerChoice, Placed
from nteleport.experiment.experiment import Experiment
from nteleport.experiment.grids import TunedKey
from nteleport.expression import compile_lambda
from nteleport.jobs.job import Component, Scheduler
from nteleport.plugins import is_reference, located
from nteleport.runner.preparation import steps_per_epoch
from nteleport.runner.signatures import (
    arguments_of,
    check_arguments,
    check_complete,
    defaults_of,
    find_class,
    name_node,
)
from nteleport.schema.yaml_source import Node, Problems
from nteleport.training.assembly import optimizer_class
from nteleport.training.learning_rate import Watched, build_learning_rate
from nteleport.vocabulary import MODES

_COMPUTED = frozenset({"total_steps", "steps_per_epoch", "epochs", "T_max"})
"""Arguments that training computes for schedulers when they are left out."""

_DEVICE_DEPENDENT = frozenset({"capturable", "fused"})
"""Arguments that may work only on the training device, so they are not tried here."""


def check_optimizer(entry: Placed[OptimizerChoice], experiment: Experiment, problems: Problems) -> None:
    """Check an optimizer, its scheduler and what is tuned: their arguments, then a trial of each."""
    chosen, scheduler = entry.value.optimizer, entry.value.scheduler
    place = name_node(entry.node)
    arguments = arguments_of(entry.node)
    scheduler_node = arguments.pop("lr_scheduler", entry.node)
    found = len(problems)
    cls = find_class(torch.optim, torch.optim.Optimizer, place, "optimizer", problems)
    if cls is not None:
        check_arguments(defaults_of(cls), arguments, chosen.cls, problems, lists=False)
        fused = [params.fused for params in experiment.training if params.fused != "auto"]
        defaults = defaults_of(cls)
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
        _try(chosen, scheduler, experiment, name_node(scheduler_node), problems)


def _check_tuned_arguments(cls: type, keys: Sequence[TunedKey], problems: Problems) -> None:
    for key in keys:
        for node in key.nodes():
            given = {key.argument: node}
            if not check_arguments(defaults_of(cls), given, cls.__name__, problems, lists=False):
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
    place = name_node(node)
    arguments = arguments_of(node)
    parts = arguments.get("schedulers")
    for part in parts.value if parts is not None and isinstance(parts.value, list) else []:
        _check_scheduler_class(part, problems)
    arguments.pop("interval", None)
    cls = find_class(lr_scheduler, lr_scheduler.LRScheduler, place, "learning-rate scheduler", problems)
    if cls is None:
        return
    defaults = defaults_of(cls)
    check_arguments(defaults, arguments, cls.__name__, problems)
    check_complete(defaults, arguments, cls.__name__, place, problems, computed=_COMPUTED)


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
            found.add((params.epochs, steps_per_epoch(dataset, params), watches))
    return found or {(1, 1, "accuracy")}


def _transports(experiment: Experiment) -> bool:
    moves = any(MODES[each.mode].changes_basis for each in experiment.teleportations)
    return moves and any(params.optimizer_state == "transport" for params in experiment.training)
