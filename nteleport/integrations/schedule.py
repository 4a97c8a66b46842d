"""Read when and how a callback teleports: the options of experiment files, with their checks, from Python."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from nteleport.errors import TeleportationError
from nteleport.jobs.job import Teleportation
from nteleport.schema.fields import Refused, fields, mapping, options_of
from nteleport.schema.yaml_source import Mark, Node, Problems
from nteleport.vocabulary import SCHEDULES, sampling_problem

SCHEDULE_WORDS = ("every_n_epochs", "epochs", "every_n_steps")
"""Of the schedules of experiment files, those that need no metrics."""

_ONCE = "teleport_only_once"
_CHECKS = {name: each.check for name, (each, _) in options_of(Teleportation).items()}


def read_teleportation(schedule: object, options: Mapping[str, object]) -> Teleportation:
    """A teleportation at random by this schedule.

    Args:
        schedule: one of ``SCHEDULE_WORDS`` with its value, and ``teleport_only_once`` if need be.
        options: other fields of ``Teleportation``.

    Raises:
        TeleportationError: everything that is wrong with them.
    """
    problems = Problems()
    entries = mapping(_node(schedule), problems, "schedule")
    known = {word: _CHECKS[word] for word in (*SCHEDULE_WORDS, _ONCE)}
    chosen = fields(entries, known, problems, "schedule")
    given = [word for word in SCHEDULES if word in entries]
    if not problems and len(given) != 1:
        expected = f"expected one of {', '.join(SCHEDULE_WORDS)}"
        problems.add(_PLACE, f"schedule: {expected}, got {' and '.join(given) or 'none'}")
    if "epochs" in chosen and chosen.get(_ONCE):
        problems.add(_PLACE, f"schedule: {_ONCE} has no effect with epochs")
    chosen |= fields({name: _node(value) for name, value in options.items()}, _CHECKS, problems, "options")
    if not problems:
        teleportation = Teleportation("random", **chosen)
        forbidden = sampling_problem(teleportation.cob_sampling, teleportation.cob_range)
        if not forbidden:
            return teleportation
        problems.add(_PLACE, forbidden)
    raise TeleportationError("; ".join(each.message for each in problems))


def check_option(name: str, value: object) -> None:
    """Raise ``TeleportationError`` unless ``value`` is one of a field of ``Teleportation``."""
    try:
        _CHECKS[name](_node(value))
    except Refused as refusal:
        raise TeleportationError(f"{name}: {refusal}") from None


_PLACE = Mark("schedule")


def _node(value: object) -> Node:
    """A Python value as if it had been read from a file."""
    if isinstance(value, Mapping):
        return Node({str(key): _node(each) for key, each in value.items()}, _PLACE)
    if isinstance(value, Iterable) and not isinstance(value, str):
        return Node([_node(each) for each in value], _PLACE)
    if value is None or isinstance(value, (bool, int, float, str)):
        return Node(value, _PLACE)
    return Node(repr(value), _PLACE)  # which no check accepts
