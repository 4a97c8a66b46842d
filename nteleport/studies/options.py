"""What a study can be told, declared once: the default, the check and the help of each field.

A field of a settings class is made by `option(...)`. From the same declaration come the command line
(`--cob-range`), the entries of a `study.yml` and their checks, so the three cannot drift apart. No torch.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nteleport.data.catalog import DATASETS, dataset_info
from nteleport.errors import UnknownNameError, nearest
from nteleport.experiment.components import read_models
from nteleport.jobs.job import Component
from nteleport.schema.fields import Check, Refused, axis, boolean, fields, known_name, mapping
from nteleport.schema.yaml_source import Node, Problems

_KEY = "option"


@dataclass(frozen=True)
class Option:
    """How one field is checked and shown.

    Attributes:
        check: turns a YAML node into a value of the field, or into one item of it if there are several.
        help: one sentence, for the command line.
        several: the field is a tuple, given as a list.
        flag: the long option without dashes; the name of the field unless given.
        metavar: what stands for the value in the help.
    """

    check: Check[Any]
    help: str
    several: bool = False
    flag: str = ""
    metavar: str = "VALUE"

    @property
    def is_switch(self) -> bool:
        """Whether it is true or false, a pair of options without a value on the command line."""
        return self.check is boolean


def option(
    default: Any,
    check: Check[Any],
    help: str,
    *,
    several: bool = False,
    flag: str = "",
    metavar: str = "VALUE",
) -> Any:
    """A field of a settings dataclass; see `Option`."""
    metadata = {_KEY: Option(check, help, several, flag, metavar)}
    return dataclasses.field(default=default, metadata=metadata)


def redefault(settings: Any, name: str, default: Any) -> Any:
    """The field `name` of a settings class with another default, for a subclass."""
    return dataclasses.field(default=default, metadata=dict(settings.__dataclass_fields__[name].metadata))


def options_of(settings: type) -> dict[str, tuple[Option, Any]]:
    """Name, option and default of every field of a settings class."""
    return {
        each.name: (each.metadata[_KEY], each.default)
        for each in dataclasses.fields(settings)
        if _KEY in each.metadata
    }


def read_options(settings: type, root: Node, problems: Problems, what: str) -> dict[str, Any]:
    """The fields of `settings` that a mapping gives, checked; what is wrong goes to `problems`."""
    entries = mapping(root, problems, what)
    known = {name: each for name, (each, _) in options_of(settings).items()}
    checks = {name: _axis_check(name, each) if each.several else each.check for name, each in known.items()}
    return fields(entries, checks, problems, what)


def _axis_check(name: str, each: Option) -> Check[tuple[Any, ...]]:
    def check(node: Node) -> tuple[Any, ...]:
        problems = Problems()
        values = tuple(value for value, _ in axis(node, each.check, problems, name))
        if problems:
            raise Refused(problems[0].message.removeprefix(f"{name}: "))
        return values

    return check


def plain_settings(settings: Any) -> dict[str, Any]:
    """The fields as plain data, as `read_options` reads them back."""
    return {name: _plain(getattr(settings, name)) for name in options_of(type(settings))}


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    if isinstance(value, Component):
        return value.settings() if value.kwargs else value.cls
    return str(value) if isinstance(value, Path) else value


def path(node: Node) -> Path:
    """A file or folder."""
    if isinstance(node.value, (str, int, float)) and not isinstance(node.value, bool):
        return Path(str(node.value))
    raise Refused(f"{node.described()}, expected a path")


def text(node: Node) -> str:
    """Any word."""
    if isinstance(node.value, (str, int, float)) and not isinstance(node.value, bool):
        return str(node.value)
    raise Refused(f"{node.described()}, expected a word")


def model(node: Node) -> Component:
    """A model as in an experiment file: a name, or `{cls: name, …}`."""
    problems = Problems()
    found = read_models(node, problems)
    if problems or len(found) != 1:
        raise Refused(problems[0].message.removeprefix("models: ") if problems else "expected one model")
    return found[0].value


def _study_dataset(name: str) -> str:
    """The canonical name of a data set of a study: one of the catalogue, `random` or `random:NAME`."""
    lowered = name.strip().lower()
    kind, _, like = lowered.partition(":")
    if kind == "random":
        return f"random:{dataset_info(like).name}" if like else "random"
    if lowered not in DATASETS:
        known = (*DATASETS, "random")
        expected = f"expected one of {', '.join(known)}{nearest(lowered, known)}"
        raise UnknownNameError(f"unknown data set {name!r}: {expected}")
    return lowered


dataset: Callable[[Node], str] = known_name(_study_dataset, "the name of a data set, or random")
"""A data set of the catalogue, or random data of its shape: `random:mnist`; `random` is like CIFAR-10."""
