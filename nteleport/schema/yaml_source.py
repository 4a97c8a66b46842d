"""YAML where every value knows its place in the file, and YAML that is read back exactly as written.

An experiment file is data, so the dialect is the plain part of YAML: scalars, lists, mappings, anchors,
aliases and merge keys. Tags are errors, and so are duplicate keys, which PyYAML accepts. Scalars mean what a
scientist expects: `1e-3` is a number, `010` is ten and `1:30` is text. `yes`, `no`, `on` and `off` are
booleans.

All problems of a file are collected, not raised, so that a user sees them at once.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import yaml

from nteleport.errors import Problem

_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_Dumper: Any = getattr(yaml, "CSafeDumper", yaml.SafeDumper)

DEEPEST = 30
_MOST_VALUES = 100_000
"""Aliases of aliases grow exponentially; no experiment has this many values."""

_WIDTH = 110
"""Maximum width of a written line."""

_CONSTANTS = {
    **dict.fromkeys(("", "~", "null"), None),
    **dict.fromkeys(("true", "yes", "on"), True),
    **dict.fromkeys(("false", "no", "off"), False),
    **dict.fromkeys((".inf", "+.inf"), float("inf")),
    "-.inf": float("-inf"),
    ".nan": float("nan"),
}
_INTEGER = re.compile(r"[-+]?[0-9][0-9_]{0,30}")
_FLOAT = re.compile(r"[-+]?([0-9][0-9_]*\.?[0-9_]*|\.[0-9][0-9_]*)([eE][-+]?[0-9]{1,5})?")

_OPENING = (yaml.BlockMappingStartToken, yaml.BlockSequenceStartToken, yaml.FlowMappingStartToken,
            yaml.FlowSequenceStartToken)  # fmt: skip
_CLOSING = (yaml.BlockEndToken, yaml.FlowMappingEndToken, yaml.FlowSequenceEndToken)

Scalar = None | bool | int | float | str


@dataclass(frozen=True)
class Mark:
    """A place in a file; `line` and `column` count from 1."""

    file: str
    line: int = 1
    column: int = 1

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}"


@dataclass
class Node:
    """A value, its place, and the place of its key, if any."""

    value: Scalar | list[Node] | dict[str, Node]
    mark: Mark
    key_mark: Mark | None = None

    def plain(self) -> Any:
        """The value as ordinary lists, dicts and scalars."""
        if isinstance(self.value, list):
            return [item.plain() for item in self.value]
        if isinstance(self.value, dict):
            return {key: item.plain() for key, item in self.value.items()}
        return self.value

    def described(self) -> str:
        """A description for messages: `a list`, `the text 'fast'`, `nothing`."""
        match self.value:
            case list():
                return "a list"
            case dict():
                return "a mapping"
            case None:
                return "nothing"
            case bool():
                return str(self.value).lower()
            case str():
                return f"the text {self.value[:60]!r}"
            case _:
                return f"the number {self.value}"


class Problems(list[Problem]):
    """The problems found so far."""

    def add(self, mark: Mark, message: str) -> None:
        self.append(Problem(mark.file, mark.line, mark.column, message))


def parse_yaml(text: str, origin: Mark, problems: Problems) -> Node | None:
    """Read one YAML document.

    Args:
        text: the document.
        origin: the place of its first character, for the marks of its values.
        problems: receives all problems.

    Returns:
        The root, or None if the document is empty or its syntax is broken.
    """
    reader = _Reader(origin, problems)
    try:
        if not reader.tokens_are_safe(text):
            return None
        root = yaml.compose(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = reader.place(mark) if mark else origin
        if mark and mark.index >= len(text):  # libyaml points at a line after the last one
            place = reader.end_of(text)
        reason = error.problem or error.context
        if mark and text[mark.index : mark.index + 1] == "\t":  # libyaml only says that it is not a token
            reason = "a tab, expected spaces"
        problems.add(place, f"not valid YAML: {reason}")
    except yaml.YAMLError as error:
        problems.add(origin, f"not valid YAML: {str(error).splitlines()[0]}")
    else:
        return reader.node(root) if root is not None else None
    return None


def resolve(text: str) -> Scalar:
    """The meaning of an unquoted scalar."""
    if text.lower() in _CONSTANTS:
        return _CONSTANTS[text.lower()]
    if _INTEGER.fullmatch(text):
        return int(text)
    if _FLOAT.fullmatch(text):
        return float(text)
    return text


class _Reader:
    """Turns PyYAML's nodes into ours; `count` guards against aliases that multiply."""

    def __init__(self, origin: Mark, problems: Problems) -> None:
        self.origin = origin
        self.problems = problems
        self.count: float = 0

    def place(self, mark: Any) -> Mark:
        """PyYAML's mark, counted from the origin."""
        first_line = mark.line == 0
        column = mark.column + (self.origin.column if first_line else 1)
        return Mark(self.origin.file, self.origin.line + mark.line, column)

    def end_of(self, text: str) -> Mark:
        """The place of the last character."""
        before = text.rstrip()[:-1]
        column = len(before) - (before.rfind("\n") + 1)
        return Mark(
            self.origin.file,
            self.origin.line + before.count("\n"),
            column + (1 if "\n" in before else self.origin.column),
        )

    def tokens_are_safe(self, text: str) -> bool:
        """Report tags, and reject nesting that would exhaust the stack."""
        depth = 0
        for token in yaml.scan(text, Loader=_Loader):
            if isinstance(token, yaml.TagToken):
                written = "".join(part or "" for part in token.value)
                message = f"YAML tag {written!r}: tags are not allowed, expected plain values"
                self.problems.add(self.place(token.start_mark), message)
            depth += isinstance(token, _OPENING) - isinstance(token, _CLOSING)
            if depth > DEEPEST:
                self.problems.add(self.place(token.start_mark), f"nested deeper than {DEEPEST} levels")
                return False
        return True

    def node(self, source: Any, key_mark: Mark | None = None, depth: int = 0) -> Node:
        mark = self.place(source.start_mark)
        if self.grows_without_end(mark, depth):
            return Node(None, mark, key_mark)
        if isinstance(source, yaml.ScalarNode):
            return Node(source.value if source.style else resolve(source.value), mark, key_mark)
        if isinstance(source, yaml.SequenceNode):
            return Node([self.node(item, depth=depth + 1) for item in source.value], mark, key_mark)
        return Node(self.mapping(source, depth + 1), mark, key_mark)

    def grows_without_end(self, mark: Mark, depth: int) -> bool:
        """Count one more value; whether aliases have produced too many, which is reported once."""
        self.count += 1
        if depth <= DEEPEST and self.count <= _MOST_VALUES:
            return False
        if self.count != math.inf:
            self.problems.add(mark, "an alias inside its own anchor, or too many: expected a small file")
            self.count = math.inf
        return True

    def mapping(self, source: Any, depth: int) -> dict[str, Node]:
        """The entries of a mapping; its own keys take precedence over merged ones."""
        own: dict[str, Node] = {}
        merged: dict[str, Node] = {}
        for key, value in source.value:
            key_mark = self.place(key.start_mark)
            if not isinstance(key, yaml.ScalarNode):
                self.problems.add(key_mark, "a list or mapping as a key, expected a name")
            elif key.value == "<<" and not key.style:
                for base in self.merge_bases(value):
                    if not self.grows_without_end(key_mark, depth):
                        merged = {**self.mapping(base, depth + 1), **merged}
            elif key.value in own:
                first = own[key.value].key_mark or self.origin
                self.problems.add(key_mark, f"duplicate key {key.value!r}, first given on line {first.line}")
            else:
                own[key.value] = self.node(value, key_mark, depth)
        return {**merged, **own}

    def merge_bases(self, value: Any) -> Iterator[Any]:
        for base in value.value if isinstance(value, yaml.SequenceNode) else [value]:
            if isinstance(base, yaml.MappingNode):
                yield base
            else:
                self.problems.add(self.place(base.start_mark), "`<<` merges mappings, expected an alias")


def to_yaml(data: Any) -> str:
    """Write plain data as YAML that `parse_yaml` reads back as equal data.

    The outermost collection has one entry per line; others with only scalars are on one line.
    """
    layout: dict[str, Any] = {
        "sort_keys": False, "allow_unicode": True, "default_flow_style": None, "width": _WIDTH,
    }  # fmt: skip
    return str(yaml.dump(data, Dumper=_ExactDumper, **layout))


class _ExactDumper(_Dumper):  # type: ignore[misc]
    """Quotes every string that would be read back as something else, such as '1e-3'."""

    def ignore_aliases(self, data: Any) -> bool:
        return True

    def represent(self, data: Any) -> None:
        node = self.represent_data(data)
        if isinstance(node, yaml.CollectionNode):
            node.flow_style = False
        self.serialize(node)


def _represent_text(dumper: Any, text: str) -> Any:
    style = None if isinstance(resolve(text), str) else "'"
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_ExactDumper.add_representer(str, _represent_text)
