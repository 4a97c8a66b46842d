"""Checks for the values of a file, and dataclass fields that carry their check.

A *check* turns one node into a value or raises `Refused` with what was expected. A *collector* (`fields`,
`axis`) goes through many nodes, keeps the values that pass and records every refusal with its place, so that
one pass finds all problems of a file.

A dataclass field defined by `option(default, check)` declares its bounds once: the file reader and, for a
field with a flag, the command line follow from it.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from nteleport.errors import NTeleportError, nearest
from nteleport.schema.yaml_source import Node, Problems

T = TypeVar("T")
Word = TypeVar("Word", bound=str)
Check = Callable[[Node], T]


LARGEST_INTEGER = 2**63 - 1


class Refused(Exception):
    """An unexpected value; the text gives the value and what was expected."""


def whole_number(minimum: int, maximum: int | None = None) -> Check[int]:
    """An integer of at least `minimum` and at most `maximum`, or 64 bits."""
    expected = f"of at least {minimum}" if maximum is None else f"from {minimum} to {maximum}"
    most = LARGEST_INTEGER if maximum is None else maximum

    def check(node: Node) -> int:
        if isinstance(node.value, int) and not isinstance(node.value, bool) and minimum <= node.value <= most:
            return node.value
        if isinstance(node.value, int) and node.value > LARGEST_INTEGER:
            raise Refused("a number beyond 64 bits, expected a whole number " + expected)
        raise Refused(f"{node.described()}, expected a whole number {expected}")

    return check


def number(expected: str, allowed: Callable[[float], bool]) -> Check[float]:
    """A finite number accepted by `allowed`; `expected` completes "expected a number …"."""

    def check(node: Node) -> float:
        match node.value:
            case bool():
                pass
            case int() | float() as value if math.isfinite(value) and allowed(value):
                return float(value)
        raise Refused(f"{node.described()}, expected a number {expected}".rstrip())

    return check


def boolean(node: Node) -> bool:
    """True or false."""
    if isinstance(node.value, bool):
        return node.value
    raise Refused(f"{node.described()}, expected true or false")


def one_of(*choices: Word) -> Check[Word]:
    """One of a few words."""

    def check(node: Node) -> Word:
        if node.value in choices:
            return choices[choices.index(node.value)]
        hint = nearest(node.value, choices) if isinstance(node.value, str) else ""
        expected = " or ".join(choices) if len(choices) < 3 else f"one of {', '.join(choices)}"
        raise Refused(f"{node.described()}, expected {expected}{hint}")

    return check


def optional(check: Check[T]) -> Check[T | None]:
    """Anything `check` accepts, or null."""
    return lambda node: None if node.value is None else check(node)


def boolean_or(word: str) -> Check[bool | str]:
    """True, false or one word."""

    def check(node: Node) -> bool | str:
        if isinstance(node.value, bool) or node.value == word:
            return node.value
        raise Refused(f"{node.described()}, expected {word}, true or false")

    return check


def known_name(canonical: Callable[[str], str], expected: str) -> Check[str]:
    """A name that `canonical` knows; its `NTeleportError` explains what is wrong with any other."""

    def check(node: Node) -> str:
        if not isinstance(node.value, str):
            raise Refused(f"{node.described()}, expected {expected}")
        try:
            return canonical(node.value)
        except NTeleportError as error:
            raise Refused(str(error)) from error

    return check


def mapping(node: Node, problems: Problems, what: str) -> dict[str, Node]:
    """The entries of a mapping; anything else is a problem and gives none."""
    if isinstance(node.value, dict):
        return node.value
    problems.add(node.mark, f"{what}: {node.described()}, expected a mapping")
    return {}


def unknown_key(key: str, node: Node, known: Iterable[str], problems: Problems, what: str) -> None:
    """Record that `key` is unknown in `what`."""
    known = tuple(known)
    message = f"unknown key {key!r} in {what}, expected {', '.join(known)}{nearest(key, known)}"
    problems.add(node.key_mark or node.mark, message)


def fields(
    entries: Mapping[str, Node], checks: Mapping[str, Check[Any]], problems: Problems, what: str
) -> dict[str, Any]:
    """Check each entry by its key; the result holds those that pass."""
    values: dict[str, Any] = {}
    for key, node in entries.items():
        if key not in checks:
            unknown_key(key, node, checks, problems, what)
            continue
        try:
            values[key] = checks[key](node)
        except Refused as refusal:
            problems.add(node.mark, f"{key}: {refusal}")
    return values


def axis_nodes(node: Node, problems: Problems, what: str) -> list[Node]:
    """The entries of an axis: the items of a list, or a single value, which means a list of one."""
    nodes = node.value if isinstance(node.value, list) else [node] if node.value is not None else []
    if not nodes:
        problems.add(node.mark, f"{what}: an empty axis, expected at least one entry")
    return nodes


def axis(node: Node, check: Check[T], problems: Problems, what: str) -> list[tuple[T, Node]]:
    """The entries of an axis that pass `check`, each with its node."""
    passed: list[tuple[T, Node]] = []
    for item in axis_nodes(node, problems, what):
        try:
            passed.append((check(item), item))
        except Refused as refusal:
            problems.add(item.mark, f"{what}: {refusal}")
    return passed


_KEY = "option"


@dataclass(frozen=True)
class Option:
    """How one field is checked and shown.

    Attributes:
        check: turns a YAML node into a value of the field, or into one item of it if `several`.
        help: one sentence, for the command line; none if the field has no option there.
        several: the field is a tuple, given as a list.
        flag: the long option without dashes; by default the name of the field.
        metavar: the placeholder for the value in the help.
    """

    check: Check[Any]
    help: str
    several: bool = False
    flag: str = ""
    metavar: str = "VALUE"

    @property
    def is_switch(self) -> bool:
        """Whether it is boolean: a pair of options without a value on the command line."""
        return self.check is boolean


def option(
    default: Any,
    check: Check[Any],
    help: str = "",
    *,
    several: bool = False,
    flag: str = "",
    metavar: str = "VALUE",
) -> Any:
    """A field of a dataclass; see `Option`."""
    metadata = {_KEY: Option(check, help, several, flag, metavar)}
    return dataclasses.field(default=default, metadata=metadata)


def redefault(settings: Any, name: str, default: Any) -> Any:
    """The field `name` of a settings class with a different default, for a subclass."""
    return dataclasses.field(default=default, metadata=dict(settings.__dataclass_fields__[name].metadata))


def options_of(settings: type) -> dict[str, tuple[Option, Any]]:
    """The option and default of every field of a settings class, by name."""
    return {
        each.name: (each.metadata[_KEY], each.default)
        for each in dataclasses.fields(settings)
        if _KEY in each.metadata
    }


def read_options(settings: type, node: Node, problems: Problems, what: str) -> dict[str, Any]:
    """The fields of `settings` given by a mapping, checked; errors are added to `problems`."""
    entries = mapping(node, problems, what)
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
