"""Names of classes in an experiment file, and their keyword arguments: checked against signatures."""

from __future__ import annotations

import inspect
from collections.abc import Container, Mapping
from typing import Any

from nteleport.errors import UnknownNameError, nearest
from nteleport.plugins import is_reference, keywords_of, look_up
from nteleport.schema.yaml_source import Node, Problems

_GIVEN = frozenset({"params", "defaults", "optimizer", "last_epoch"})
"""Arguments that training itself passes to optimizers and schedulers."""


def find_class(module: Any, base: type, place: Node, what: str, problems: Problems) -> type | None:
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


def defaults_of(cls: type) -> dict[str, Any] | None:
    """The keyword arguments of a class, with their defaults; see `keywords_of`."""
    return keywords_of(cls, without=_GIVEN)


def check_arguments(
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


def check_complete(
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


def name_node(node: Node, key: str = "cls") -> Node:
    """The node of a class's name: the entry itself, or its `cls`."""
    return node.value.get(key, node) if isinstance(node.value, dict) else node


def arguments_of(node: Node, *names: str) -> dict[str, Node]:
    """The keyword arguments beside a class's name."""
    entries = node.value if isinstance(node.value, dict) else {}
    return {key: value for key, value in entries.items() if key not in (names or ("cls",))}
