"""The section `teleportations` of an experiment file: modes, and the product of their options.

Options are given under `teleport` for all modes, or under one mode for that mode alone, where they take
precedence. Each may be a list. The product of a mode covers only the options that have an effect in it. Of
the options that say when to teleport, a block or mode has one; `epochs` is itself a list, so an axis of it is
a list of lists.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from itertools import product
from typing import Any

from nteleport.jobs.job import Plateau, Teleportation, TrainingParams
from nteleport.schema.fields import (
    Check,
    Refused,
    axis,
    axis_nodes,
    mapping,
    one_of,
    options_of,
    read_options,
    unknown_key,
)
from nteleport.schema.yaml_source import Node, Problems
from nteleport.vocabulary import MODES, SCHEDULES, Mode, sampling_problem

Choices = dict[str, list[tuple[Any, Node]]]
"""The values of each option, each with its place."""

_MOST_COMBINATIONS = 1_000_000
"""Of one mode; beyond any matrix that could be trained."""

_TELEPORTING = tuple(mode for mode in MODES if mode != "no_teleport")

_CHECKS: dict[str, Check[Any]] = {name: each.check for name, (each, _) in options_of(Teleportation).items()}
_OPTIONS = (*_CHECKS, "on_plateau")


def read_teleportations(
    node: Node, training: Sequence[TrainingParams], problems: Problems
) -> tuple[Teleportation, ...]:
    """All teleportations of the section, in the order of the file; `training` gives the number of epochs."""
    entries = mapping(node, problems, "teleportations")
    if isinstance(node.value, dict) and not entries:
        problems.add(node.mark, "teleportations: an empty axis, expected no_teleport or teleport")
    found: list[Teleportation] = []
    for key, entry in entries.items():
        if key == "no_teleport":
            found.append(Teleportation())
            if entry.value not in (None, {}):
                problems.add(entry.mark, f"no_teleport: {entry.described()}, expected nothing")
        elif key == "teleport" or key.startswith("teleport_"):  # blocks of their own, as published
            found.extend(_read_teleport(entry, training, problems))
        else:
            unknown_key(key, entry, ("no_teleport", "teleport"), problems, "teleportations")
    return tuple(found)


def _read_teleport(node: Node, training: Sequence[TrainingParams], problems: Problems) -> list[Teleportation]:
    entries = dict(mapping(node, problems, "teleport"))
    modes_node = entries.pop("mode", None)
    if modes_node is None:
        if isinstance(node.value, dict):
            problems.add(node.mark, f"teleport without a mode, expected mode: {' or '.join(_TELEPORTING)}")
        return []
    modes = _read_modes(modes_node, problems)
    known = dict.fromkeys(option for mode, _ in modes for option in MODES[mode].options)
    shared = _read_options(entries, known or _OPTIONS, problems, "teleport")
    found: list[Teleportation] = []
    for mode, mode_node in modes:
        own: Choices = {}
        if mode_node.value is not None:
            own = _read_options(mapping(mode_node, problems, mode), MODES[mode].options, problems, mode)
        replaced = SCHEDULES if own.keys() & set(SCHEDULES) else ()
        relevant = [key for key in MODES[mode].options if key in shared and key not in replaced]
        choices = {**{key: shared[key] for key in relevant}, **own}
        found += _product(mode, mode_node, choices, training, problems)
    return found


def _read_modes(node: Node, problems: Problems) -> list[tuple[Mode, Node]]:
    """Each mode with the node of its options: from a mapping, a list or a name."""
    found: list[tuple[Mode, Node]] = []
    for item in axis_nodes(node, problems, "mode"):
        named = [(item, Node(None, item.mark))]
        if isinstance(item.value, dict):
            named = [(Node(key, each.key_mark or each.mark), each) for key, each in item.value.items()]
        if not named:
            problems.add(item.mark, f"mode: an empty axis, expected {' or '.join(_TELEPORTING)}")
        for name, options in named:
            try:
                found.append((one_of(*_TELEPORTING)(name), options))
            except Refused as refusal:
                problems.add(name.mark, f"mode: {refusal}")
    return found


def _read_options(entries: dict[str, Node], known: Iterable[str], problems: Problems, what: str) -> Choices:
    """The values of each known option."""
    known = tuple(known)
    choices: Choices = {}
    for key, node in entries.items():
        if key in known:
            values = _read_axis(key, node, problems)
            if values:  # with none left, continue with the default to find other problems
                choices[key] = values
        elif key in _OPTIONS:
            problems.add(
                node.key_mark or node.mark, f"{key} has no effect in {what}, expected {', '.join(known)}"
            )
        else:
            unknown_key(key, node, ("mode", *known) if what == "teleport" else known, problems, what)
    for other in [key for key in entries if key in SCHEDULES][1:]:
        message = f"{other}: a second schedule, expected only one of {', '.join(SCHEDULES)}"
        problems.add(entries[other].key_mark or entries[other].mark, f"{message} in a block teleport_…")
    return choices


def _read_axis(key: str, node: Node, problems: Problems) -> list[tuple[Any, Node]]:
    """The values of one option, each with its place."""
    if key == "on_plateau":
        plateaus = []
        for item in axis_nodes(node, problems, key):
            found = len(problems)
            options = read_options(Plateau, item, problems, key)
            if len(problems) == found:
                plateaus.append((Plateau(**options), item))
        return plateaus
    if key == "epochs" and not any(isinstance(item.value, list) for item in _items(node)):
        node = Node([node], node.mark)  # one list of epochs is one value
    return axis(node, _CHECKS[key], problems, key)


def _items(node: Node) -> list[Node]:
    return node.value if isinstance(node.value, list) else []


def _product(
    mode: Mode, mode_node: Node, choices: Choices, training: Sequence[TrainingParams], problems: Problems
) -> list[Teleportation]:
    """Every combination of the options of one mode; an impossible one is a problem."""
    options = [key for key in MODES[mode].options if key in choices]
    count = math.prod(len(choices[key]) for key in options)
    if count > _MOST_COMBINATIONS:
        message = f"{mode}: {count:,} combinations of options, expected at most {_MOST_COMBINATIONS:,}"
        problems.add(mode_node.key_mark or mode_node.mark, message)
        return []
    found: list[Teleportation] = []
    for combination in product(*(choices[key] for key in options)):
        values = {key: value for key, (value, _) in zip(options, combination, strict=True)}
        marks = {key: node.mark for key, (_, node) in zip(options, combination, strict=True)}
        teleportation = Teleportation(mode, **values)
        for option, message in _impossibilities(teleportation, training):
            problems.add(marks.get(option, mode_node.key_mark or mode_node.mark), message)
        found.append(teleportation)
    return found


def _impossibilities(
    teleportation: Teleportation, training: Sequence[TrainingParams]
) -> Iterator[tuple[str, str]]:
    """What is impossible about this teleportation, each with the responsible option."""
    forbidden = sampling_problem(teleportation.cob_sampling, teleportation.cob_range, teleportation.center)
    if forbidden:
        yield "cob_range", forbidden
    if teleportation.schedule == "epochs" and teleportation.teleport_only_once:
        expected = ", ".join(each for each in SCHEDULES if each != "epochs")
        yield "teleport_only_once", f"teleport_only_once has no effect with epochs, expected {expected}"
    needs_kept = teleportation.mode == "optimize" and teleportation.objective == "path_conditioning"
    if needs_kept and teleportation.activations == "conjugated":
        yield (
            "objective",
            "objective: path_conditioning with activations conjugated, expected activations: kept",
        )
    shortest = min((params.epochs for params in training), default=None)
    if shortest is None:
        return
    counted = f"epochs count from 0 and there are {shortest}"
    starts = {
        "every_n_epochs": teleportation.every_n_epochs,
        "epochs": max(teleportation.epochs or (0,)),
    }
    last = starts.get(teleportation.schedule, 0)
    if last >= shortest:
        message = f"{teleportation.schedule} {last} is past the end of training"
        yield teleportation.schedule, f"{message}, expected at most {shortest - 1}: {counted}"
    if teleportation.on_plateau is not None and teleportation.on_plateau.patience > shortest - 3:
        message = f"on_plateau: a patience of {teleportation.on_plateau.patience} outlasts the training"
        expected = f"at most {shortest - 3}" if shortest > 2 else "epochs of at least 3"
        yield "on_plateau", f"{message}, expected {expected}: {counted}"
