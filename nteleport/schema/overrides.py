"""`--set a.b=value`: changes to an experiment file from the command line.

The path consists of keys, and list positions from 0. A key applied to a list applies to every item, so
`optimizers.lr=0.1` sets the rate of all optimizers and `optimizers.0.lr=0.1` that of the first. Missing parts
of the path are created. The value is YAML. The n-th `--set` has the place `--set:n:column` in messages.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from copy import deepcopy

from nteleport.schema.yaml_source import DEEPEST, Mark, Node, Problems, parse_yaml

_OVERRIDE = re.compile(r"(?P<path>[^=\s.]+(\.[^=\s.]+)*)\s*=(?P<value>.*)", re.DOTALL)


def apply_overrides(root: Node, overrides: Sequence[str], problems: Problems) -> None:
    """Apply each `path=value` to `root` in place; one that cannot be applied is a problem."""
    for position, override in enumerate(overrides, start=1):
        mark = Mark("--set", position, 1)
        match = _OVERRIDE.fullmatch(override)
        if match is None:
            problems.add(mark, f"{override[:60]!r}: expected path=value, such as training_params.epochs=5")
            continue
        path = match["path"].split(".")
        if len(path) > DEEPEST:
            problems.add(mark, f"a path of {len(path)} parts, expected at most {DEEPEST}")
            continue
        origin = Mark("--set", position, match.start("value") + 1)
        found = len(problems)
        value = parse_yaml(match["value"], origin, problems) or Node(None, origin)
        if len(problems) == found:
            _set(root, path, value, mark, problems)


def _set(node: Node, path: Sequence[str], value: Node, mark: Mark, problems: Problems) -> None:
    """Set the value at `path` below `node`."""
    if node.value is None:
        node.value = {}
    if isinstance(node.value, dict):
        key, rest = _longest_key(node.value, path)
        if rest:
            _set(node.value.setdefault(key, Node(None, value.mark, mark)), rest, value, mark, problems)
        else:
            node.value[key] = Node(deepcopy(value.value), value.mark, mark)
    elif isinstance(node.value, list):
        _set_in_list(node.value, path, value, mark, problems)
    else:
        problems.add(mark, f"cannot set {path[0]!r} of {node.described()}: expected a mapping there")


def _longest_key(entries: Mapping[str, Node], path: Sequence[str]) -> tuple[str, Sequence[str]]:
    """The first key of the path and the rest of it; a key that has dots itself counts if it is there."""
    for length in range(len(path), 1, -1):
        key = ".".join(path[:length])
        if key in entries:
            return key, path[length:]
    return path[0], path[1:]


def _set_in_list(items: list[Node], path: Sequence[str], value: Node, mark: Mark, problems: Problems) -> None:
    """Set the value in one item, or in all if the path names no position."""
    key, *rest = path
    if not key.isdecimal():
        for item in items:
            _set(item, path, value, mark, problems)
    elif int(key) >= len(items):
        problems.add(mark, f"no item {key} in a list of {len(items)}: expected 0 to {len(items) - 1}")
    elif rest:
        _set(items[int(key)], rest, value, mark, problems)
    else:
        items[int(key)] = Node(deepcopy(value.value), value.mark, mark)
