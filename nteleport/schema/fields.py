"""The vocabulary of checks that an experiment file is read with.

A *check* turns one node into a value or raises `Refused` with what was expected. A *collector* (`fields`,
`axis`) goes through many nodes, keeps the values that pass and notes every refusal with its place, so that
one reading finds all problems of a file.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

from nteleport.errors import NTeleportError, nearest
from nteleport.schema.yaml_source import Node, Problems

T = TypeVar("T")
Check = Callable[[Node], T]


class Refused(Exception):
    """A value that is not what was expected; the text says both."""


def whole_number(minimum: int, maximum: int | None = None) -> Check[int]:
    """An integer of at least `minimum` and, if there is one, at most `maximum`."""
    expected = f"of at least {minimum}" if maximum is None else f"from {minimum} to {maximum}"

    def check(node: Node) -> int:
        most = math.inf if maximum is None else maximum
        if isinstance(node.value, int) and not isinstance(node.value, bool) and minimum <= node.value <= most:
            return node.value
        raise Refused(f"{node.described()}, expected a whole number {expected}")

    return check


def number(expected: str, allowed: Callable[[float], bool]) -> Check[float]:
    """A finite number that is `allowed`; `expected` completes "expected a number …"."""

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


def one_of(*choices: str) -> Check[str]:
    """One of a few words."""

    def check(node: Node) -> str:
        if node.value in choices:
            return str(node.value)
        hint = nearest(node.value, choices) if isinstance(node.value, str) else ""
        expected = " or ".join(choices) if len(choices) < 3 else f"one of {', '.join(choices)}"
        raise Refused(f"{node.described()}, expected {expected}{hint}")

    return check


def optional(check: Check[T]) -> Check[T | None]:
    """What `check` accepts, or null."""
    return lambda node: None if node.value is None else check(node)


def boolean_or(word: str) -> Check[bool | str]:
    """True, false or one word."""

    def check(node: Node) -> bool | str:
        if isinstance(node.value, bool) or node.value == word:
            return node.value
        raise Refused(f"{node.described()}, expected {word}, true or false")

    return check


def known_name(canonical: Callable[[str], str], expected: str) -> Check[str]:
    """A name that `canonical` knows; its `NTeleportError` tells what is wrong with another one."""

    def check(node: Node) -> str:
        if not isinstance(node.value, str):
            raise Refused(f"{node.described()}, expected {expected}")
        try:
            return canonical(node.value)
        except NTeleportError as error:
            raise Refused(str(error)) from error

    return check


def mapping(node: Node, problems: Problems, what: str) -> dict[str, Node]:
    """The entries of a mapping, or a problem and none."""
    if isinstance(node.value, dict):
        return node.value
    problems.add(node.mark, f"{what}: {node.described()}, expected a mapping")
    return {}


def unknown_key(key: str, node: Node, known: Iterable[str], problems: Problems, what: str) -> None:
    """Note that `key` means nothing in `what`."""
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
    """The entries of an axis: the items of a list, or a single value that stands for a list of one."""
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
