"""The section `tune` of an experiment file: which arguments of the optimizer to try which values of.

A tuned key is `optimizer.ARGUMENT` with a list of values or with a grid, `{log_grid: [1e-4, 1], points: 13,
extend: true}`. All combinations of the values are tried. Whether the optimizers take the argument is checked
by `nteleport.runner.preflight`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from nteleport.errors import nearest
from nteleport.experiment.components import OptimizerChoice, Placed, check_finite
from nteleport.jobs.job import Component, Job, TrainingParams
from nteleport.schema.fields import (
    axis,
    axis_nodes,
    boolean,
    fields,
    mapping,
    number,
    one_of,
    unknown_key,
    whole_number,
)
from nteleport.schema.yaml_source import Node, Problems
from nteleport.vocabulary import TUNING_SCORES, TuningScore

MOST_EXTENSIONS = 3
"""How often the grids of a cell are extended at most."""

POINTS_PER_EXTENSION = 2
"""How many points an extension adds at an end of a grid."""

_PREFIX = "optimizer."
_LARGEST = 1e15
_MOST_POINTS = 1000
_DIGITS = 4
"""Significant digits of the points between the ends of a grid, which appear in the names of jobs."""


@dataclass(frozen=True)
class LogGrid:
    """Numbers with equal ratios: `points` of them from `low` to `high`, more if it is extended."""

    low: float
    high: float
    points: int
    extend: bool = False

    def value(self, position: int) -> float:
        """The number at a position from 0; those below 0 and from `points` on belong to extensions."""
        if position in (0, self.points - 1):
            return self.low if position == 0 else self.high
        exponent = math.log10(self.high / self.low) * position / (self.points - 1)
        return float(f"{self.low * 10**exponent:.{_DIGITS}g}")


@dataclass(frozen=True)
class TunedKey:
    """An argument of the optimizer and its values.

    Attributes:
        argument: its name: `lr`.
        node: its value in the file, with the place of its key.
        listed: the values of a list; empty for a grid.
        grid: None for a list.
    """

    argument: str
    node: Node
    listed: tuple[Placed[Any], ...] = ()
    grid: LogGrid | None = None

    @property
    def name(self) -> str:
        """The key in the file."""
        return f"{_PREFIX}{self.argument}"

    @property
    def size(self) -> int:
        """The number of values as written."""
        return len(self.listed) if self.grid is None else self.grid.points

    @property
    def reach(self) -> range:
        """The positions of all values, those of all possible extensions included."""
        beyond = MOST_EXTENSIONS * POINTS_PER_EXTENSION if self.is_extensible else 0
        return range(-beyond, self.size + beyond)

    @property
    def is_extensible(self) -> bool:
        return self.grid is not None and self.grid.extend

    def value(self, position: int) -> Any:
        """The value at a position in `reach`."""
        return self.listed[position].value if self.grid is None else self.grid.value(position)

    def nodes(self) -> list[Node]:
        """Each value as if it were written alone; of a grid the two ends of its reach."""
        key = self.node.key_mark
        if self.grid is None:
            return [Node(each.node.value, each.node.mark, key) for each in self.listed]
        return [Node(self.value(end), self.node.mark, key) for end in (self.reach[0], self.reach[-1])]


@dataclass(frozen=True)
class Tuning:
    """What is tuned, and how the best is chosen.

    Attributes:
        keys: the tuned arguments.
        runs: the runs it is chosen on; none of them is reported.
        by: the score of a run.
        node: the section, for messages.
    """

    keys: tuple[TunedKey, ...]
    runs: tuple[int, ...]
    by: TuningScore
    node: Node

    def applied(self, job: Job, positions: Sequence[int]) -> Job:
        """The job with each argument at its position."""
        values = {key.argument: key.value(at) for key, at in zip(self.keys, positions, strict=True)}
        return replace(job, optimizer=Component(job.optimizer.cls, {**job.optimizer.kwargs, **values}))


def read_tune(
    node: Node,
    runs: Sequence[int],
    training: Sequence[TrainingParams],
    optimizers: Sequence[Placed[OptimizerChoice]],
    problems: Problems,
) -> Tuning | None:
    """The section, checked against the rest of the experiment; None after a problem.

    Args:
        node: the section.
        runs: the runs that are reported.
        training, optimizers: of the experiment.
        problems: receives all problems.
    """
    found = len(problems)
    entries = _flattened(mapping(node, problems, "tune"))
    tuned = {key: entries.pop(key) for key in list(entries) if _is_tunable(key)}
    for key in [key for key in entries if key not in ("by", "runs")]:
        _refuse_key(key, entries.pop(key), problems)
    checked = fields(
        {key: value for key, value in entries.items() if key == "by"},
        {"by": one_of(*TUNING_SCORES)},
        problems,
        "tune",
    )
    if isinstance(node.value, dict) and not tuned and len(problems) == found:
        problems.add(node.mark, "tune without a key to tune, expected one such as optimizer.lr")
    keys = [_read_key(key.removeprefix(_PREFIX), value, problems) for key, value in tuned.items()]
    own = _read_runs(entries.get("runs"), node, runs, problems)
    for entry in optimizers:
        _check_untouched(entry, [key for key in keys if key is not None], problems)
    if any(params.validation is None for params in training):
        problems.add(
            node.key_mark or node.mark,
            "tune without data held out: choosing must not see the test split, expected training_params with "
            "validation, such as validation: 0.1",
        )
    if len(problems) > found:
        return None
    return Tuning(tuple(filter(None, keys)), own, checked.get("by", TUNING_SCORES[0]), node)


def _flattened(entries: dict[str, Node]) -> dict[str, Node]:
    """The entries with those of a mapping `optimizer`, as `--set` makes it, under their dotted names."""
    flat: dict[str, Node] = {}
    for key, node in entries.items():
        if key == _PREFIX[:-1] and isinstance(node.value, dict):
            flat.update({f"{_PREFIX}{name}": value for name, value in node.value.items()})
        else:
            flat[key] = node
    return flat


def _is_tunable(key: str) -> bool:
    return key.startswith(_PREFIX) and key.removeprefix(_PREFIX) not in ("", "cls", "lr_scheduler")


def _refuse_key(key: str, node: Node, problems: Problems) -> None:
    if key.startswith(_PREFIX):
        message = f"{key} cannot be tuned, expected an argument of the optimizer, such as optimizer.lr"
    else:
        hint = nearest(key, ("optimizer.lr", "optimizer.weight_decay", "optimizer.momentum", "by", "runs"))
        hint = hint or f", did you mean {_PREFIX + key!r}?"
        message = f"unknown key {key!r} in tune, expected optimizer.ARGUMENT, by or runs{hint}"
    problems.add(node.key_mark or node.mark, message)


def _read_key(argument: str, node: Node, problems: Problems) -> TunedKey | None:
    if isinstance(node.value, dict):
        grid = _read_grid(f"{_PREFIX}{argument}", node, problems)
        return None if grid is None else TunedKey(argument, node, grid=grid)
    items = axis_nodes(node, problems, f"{_PREFIX}{argument}")
    check_finite({argument: node}, problems)
    known: set[str] = set()
    for item in items:
        text = json.dumps(item.plain(), sort_keys=True)
        if text in known:
            problems.add(
                item.mark, f"{_PREFIX}{argument}: {item.described()} twice, expected different values"
            )
        known.add(text)
    return TunedKey(argument, node, tuple(Placed(item.plain(), item) for item in items))


def _read_grid(name: str, node: Node, problems: Problems) -> LogGrid | None:
    found = len(problems)
    entries = dict(mapping(node, problems, name))
    ends_node = entries.pop("log_grid", None)
    for key in [key for key in entries if key not in ("points", "extend")]:
        unknown_key(key, entries.pop(key), ("log_grid", "points", "extend"), problems, name)
    checks = {"points": whole_number(2, _MOST_POINTS), "extend": boolean}
    values = fields(entries, checks, problems, name)
    if ends_node is None or "points" not in entries:
        if len(problems) == found:
            expected = "expected {log_grid: [LOW, HIGH], points: N, extend: true}"
            missing = "log_grid" if ends_node is None else "points"
            problems.add(node.mark, f"{name}: a grid without {missing}, {expected}")
        return None
    allowed = number(
        f"from {1 / _LARGEST:g} to {_LARGEST:g}", lambda value: 1 / _LARGEST <= value <= _LARGEST
    )
    ends = [value for value, _ in axis(ends_node, allowed, problems, "log_grid")]
    if len(problems) == found and (len(ends) != 2 or ends[0] >= ends[1]):
        problems.add(ends_node.mark, "log_grid: expected two numbers, the smaller one first")
    if len(problems) > found:
        return None
    grid = LogGrid(ends[0], ends[1], values["points"], values.get("extend", False))
    if len({grid.value(position) for position in range(grid.points)}) < grid.points:
        problems.add(node.mark, f"{name}: {grid.points} points are too close, expected fewer")
        return None
    return grid


def _read_runs(
    node: Node | None, section: Node, reported: Sequence[int], problems: Problems
) -> tuple[int, ...]:
    if node is None:
        if isinstance(section.value, dict):
            expected = "expected runs that are not reported, such as runs: [0, 1, 2]"
            problems.add(section.key_mark or section.mark, f"tune without runs, {expected}")
        return ()
    runs: list[int] = []
    for run, place in axis(node, whole_number(0), problems, "runs"):
        if run in runs:
            problems.add(place.mark, f"runs: {run} twice, expected different runs")
        elif run in reported:
            problems.add(
                place.mark,
                f"runs: run {run} is reported too, expected runs that are not among those to report",
            )
        runs.append(run)
    return tuple(runs)


def _check_untouched(entry: Placed[OptimizerChoice], keys: Sequence[TunedKey], problems: Problems) -> None:
    """Check that an optimizer has no argument that is tuned."""
    given = entry.node.value if isinstance(entry.node.value, dict) else {}
    for key in keys:
        if key.argument in given:
            node = given[key.argument]
            problems.add(node.key_mark or node.mark, f"{key.argument} is tuned, expected it only in tune")
