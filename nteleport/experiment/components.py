"""The sections of an experiment file that name a class and its keyword arguments.

An entry is a name or a mapping, `{cls: SGD, lr: 0.01}`. Names that are known without torch are checked here:
models, initializers, activations; of a reference to a plugin, that the plugin is admitted. So are formulas,
which torch would never see. Whether a class takes its keyword arguments is checked by
`nteleport.runner.preflight`; it finds their places through `Placed.node`.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, TypeVar

from nteleport.data.catalog import DATASETS, DataSource, dataset_info
from nteleport.errors import ExpressionError
from nteleport.expression import compile_lambda
from nteleport.jobs.job import Component, Scheduler
from nteleport.plugins import check_reference, is_reference
from nteleport.schema.fields import (
    LARGEST_INTEGER,
    Check,
    Refused,
    axis_nodes,
    fields,
    known_name,
    mapping,
    number,
    one_of,
    optional,
)
from nteleport.schema.yaml_source import Node, Problems
from nteleport.vocabulary import ACTIVATIONS, INITIALIZERS, NON_LINEARITIES, canonical_name

T = TypeVar("T")

_DATASET_NAME = re.compile(r"\w[\w. -]{0,40}")
"""It is part of names of folders, and of legends."""

_INITIALIZER: dict[str, Check[Any]] = {
    "gain": optional(number("above 0, or null", lambda gain: gain > 0)),
    "non_linearity": optional(one_of(*NON_LINEARITIES)),
}


@dataclass(frozen=True)
class Placed(Generic[T]):
    """A value and the node it was read from."""

    value: T
    node: Node


@dataclass(frozen=True)
class OptimizerChoice:
    """An optimizer and the scheduler of its learning rate."""

    optimizer: Component
    scheduler: Scheduler | None = None


def read_datasets(node: Node, problems: Problems) -> list[Placed[str | DataSource]]:
    """Each data set: a name of the catalog, or `{load: module:function, name: NAME, …}`."""
    catalog = known_name(lambda name: dataset_info(name).name, "the name of a data set")
    found: list[Placed[str | DataSource]] = []
    for item in axis_nodes(node, problems, "datasets"):
        if isinstance(item.value, dict):
            source = _read_source(item, problems)
            if source is not None:
                if any(str(each.value) == source.name and each.value != source for each in found):
                    message = f"name: {source.name!r} twice, expected different names"
                    problems.add(item.value["name"].mark, message)
                found.append(Placed(source, item))
            continue
        try:
            found.append(Placed(catalog(item), item))
        except Refused as refusal:
            problems.add(item.mark, f"datasets: {refusal}")
    return found


def _read_source(item: Node, problems: Problems) -> DataSource | None:
    entry = _read_entry(item, _source_function, problems, "datasets", key="load")
    if entry is None:
        return None
    load, arguments = entry
    check_finite(arguments, problems)
    name = arguments.pop("name", Node(None, item.mark))
    if not isinstance(name.value, str) or not _DATASET_NAME.fullmatch(name.value):
        problems.add(name.mark, f"name: {name.described()}, expected a name for the data set, such as moons")
    elif name.value in DATASETS:
        problems.add(name.mark, f"name: {name.value} is another data set, expected another name")
    else:
        return DataSource(name.value, load, _plain(arguments))
    return None


def _source_function(node: Node) -> str:
    if is_reference(node.value):
        return known_name(check_reference, "a function")(node)
    raise Refused(f"{node.described()}, expected module:function, such as my_data:load")


def read_models(node: Node, problems: Problems) -> list[Placed[Component]]:
    """Each model, by its canonical name."""
    known = known_name(canonical_name, "the name of a model")
    known = _or_reference(known, libraries=True)
    found: list[Placed[Component]] = []
    for item in axis_nodes(node, problems, "models"):
        entry = _read_entry(item, known, problems, "models")
        if entry is None:
            continue
        name, arguments = entry
        check_finite(arguments, problems)
        if "pretrained" in arguments and arguments["pretrained"].value is False:
            del arguments["pretrained"]  # the same job as without it
        if name in ("mlp", "cnn") and "activation" in arguments:
            chosen = {"activation": arguments["activation"]}
            fields(chosen, {"activation": one_of(*ACTIVATIONS)}, problems, name)
        found.append(Placed(Component(name, _plain(arguments)), item))
    return found


def read_initializers(node: Node, problems: Problems) -> list[Component]:
    """Each initializer. Options without effect are dropped: all of `none`, the gain of `kaiming`."""
    found: list[Component] = []
    for item in axis_nodes(node, problems, "initializers"):
        entry = _read_entry(item, one_of(*INITIALIZERS), problems, "initializers", key="type")
        if entry is not None:
            name, arguments = entry
            options = fields(arguments, _INITIALIZER, problems, "an initializer")
            given = {key: value for key, value in options.items() if value is not None}
            if name == "kaiming":  # its gain is that of the non-linearity, as in the published code
                given.pop("gain", None)
            found.append(Component(name, {} if name == "none" else given))
    return found


def read_optimizers(node: Node, problems: Problems) -> list[Placed[OptimizerChoice]]:
    """Each optimizer with its scheduler; whether torch has such classes is checked elsewhere."""
    found: list[Placed[OptimizerChoice]] = []
    for item in axis_nodes(node, problems, "optimizers"):
        entry = _read_entry(item, _any_name, problems, "optimizers")
        if entry is not None:
            name, arguments = entry
            check_finite(arguments, problems)
            scheduler = _read_scheduler(arguments.pop("lr_scheduler", None), problems)
            found.append(Placed(OptimizerChoice(Component(name, _plain(arguments)), scheduler), item))
    return found


def _read_scheduler(node: Node | None, problems: Problems) -> Scheduler | None:
    if node is None or node.value is None:
        return None
    entry = _read_entry(node, _any_name, problems, "lr_scheduler")
    if entry is None:
        return None
    name, arguments = entry
    own = {key: arguments.pop(key) for key in ("interval",) if key in arguments}
    # ReduceLROnPlateau follows the validation accuracy, which is known once per epoch
    intervals = ("epoch",) if name == "ReduceLROnPlateau" else ("epoch", "step")
    interval = fields(own, {"interval": one_of(*intervals)}, problems, name).get("interval", "epoch")
    for key, argument in arguments.items():
        _check_formulas(argument, key, problems)
    return Scheduler(name, _plain(arguments), interval)


def check_finite(arguments: dict[str, Node], problems: Problems) -> None:
    """Reject `.nan` and `.inf` at any depth: torch accepts many of them, and every job would diverge."""
    for key, node in arguments.items():
        for item in node.value if isinstance(node.value, list) else [node]:
            if isinstance(item.value, dict):
                check_finite(item.value, problems)
            elif isinstance(item.value, float) and not math.isfinite(item.value):
                problems.add(item.mark, f"{key}: {item.described()}, expected a finite number")
            elif isinstance(item.value, int) and abs(item.value) > LARGEST_INTEGER:
                problems.add(item.mark, f"{key}: a number beyond 64 bits, expected a smaller one")


def _check_formulas(node: Node, key: str, problems: Problems) -> None:
    """Check every string that is a formula, at any depth."""
    if isinstance(node.value, (list, dict)):
        for item in node.value if isinstance(node.value, list) else node.value.values():
            _check_formulas(item, key, problems)
    elif isinstance(node.value, str) and (key == "lr_lambda" or node.value.lstrip().startswith("lambda")):
        try:
            compile_lambda(node.value)
        except ExpressionError as error:
            problems.add(node.mark, f"{key}: {error}")


def _read_entry(
    node: Node, check: Check[str], problems: Problems, what: str, key: str = "cls"
) -> tuple[str, dict[str, Node]] | None:
    """A name and its keyword arguments, from `name` or `{cls: name, **arguments}`; None after a problem."""
    arguments: dict[str, Node] = {}
    name = node
    if not isinstance(node.value, str):
        arguments = dict(mapping(node, problems, what))
        if key not in arguments:
            if isinstance(node.value, dict):
                problems.add(node.mark, f"{what}: an entry without {key}, expected {{{key}: NAME, …}}")
            return None
        name = arguments.pop(key)
    try:
        return check(name), arguments
    except Refused as refusal:
        problems.add(name.mark, f"{what}: {refusal}")
        return None


def _or_reference(check: Check[str], *, libraries: bool = False) -> Check[str]:
    """A name that `check` accepts, or a reference to what an admitted plugin has."""
    reference = known_name(partial(check_reference, libraries=libraries), "a name")
    return lambda node: reference(node) if is_reference(node.value) else check(node)


def _class_name(node: Node) -> str:
    if isinstance(node.value, str) and node.value:
        return node.value
    raise Refused(f"{node.described()}, expected the name of a class")


_any_name = _or_reference(_class_name)


def _plain(arguments: dict[str, Node]) -> dict[str, Any]:
    return {key: node.plain() for key, node in arguments.items()}
