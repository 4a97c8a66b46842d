"""Which axes of which parameters share a group of neurons, as plain data.

A quiver says for every position of every parameter which entry of the change of basis (CoB) scales it. Here
the same is said per axis: entries that occur together, in one order, wherever they occur, are a *group*, and
an axis is made of *parts*, each a whole group. Model merging calls this the permutation specification of a
network and writes it by hand (Ainsworth et al., *Git Re-Basin*, arXiv 2209.04836).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence, Set
from itertools import pairwise
from typing import NamedTuple, TypedDict

import torch
from torch import Tensor


class Group(TypedDict):
    """A run of entries of the CoB: ``size`` of them, from entry ``start``, all admitting the same numbers."""

    start: int
    size: int
    admits: str


class Span(TypedDict):
    """Positions ``start`` to ``stop - 1`` of an axis."""

    axis: int
    start: int
    stop: int


class Part(TypedDict):
    """A group on an axis: entry ``i`` of it scales the positions ``start + i · step + r``, for
    ``0 ≤ r < repeat``, by its value to the ``power``.

    ``power`` is +1 on the side of the neurons that the parameter feeds and −1 on the side of those it reads.
    ``within`` restricts the part to spans of other axes; it is empty except where a scale varies along
    several axes, as in grouped convolutions.
    """

    axis: int
    group: str
    power: int
    start: int
    step: int
    repeat: int
    within: list[Span]


class Axes(TypedDict):
    """Groups by name, in the order of their entries, and the parts of each parameter by its name."""

    groups: dict[str, Group]
    parameters: dict[str, list[Part]]


class Scaling(NamedTuple):
    """How one parameter is scaled: for each factor, the entry of the extended CoB at every position,
    broadcastable to ``shape``, and the power."""

    shape: Sequence[int]
    factors: Sequence[tuple[Tensor, int]]


class Owner(NamedTuple):
    """The layer ``name`` owns ``size`` entries from ``start``."""

    name: str
    start: int
    size: int


class _Run(NamedTuple):
    """``repeat`` neighboring positions from ``start`` that one entry scales."""

    start: int
    repeat: int


class _Occurrence(NamedTuple):
    """The entries of one factor along one axis, in a box of the others: by entry, where it occurs."""

    axis: int
    power: int
    within: list[Span]
    runs: dict[int, list[_Run]]


def axes(parameters: Mapping[str, Scaling], owners: Sequence[Owner], admits: Sequence[str]) -> Axes:
    """See ``Quiver.axes``.

    Args:
        parameters: by name.
        owners: of all entries.
        admits: what each entry may be.
    """
    occurrences = {
        name: [found for index, power in p.factors for found in _occurrences(index.cpu(), power, p.shape)]
        for name, p in parameters.items()
    }
    words = enumerate(pairwise(admits), start=1)
    known = {owner.start for owner in owners} | {k for k, (before, word) in words if word != before}
    starts = known.union(*(_starts(each, known) for found in occurrences.values() for each in found))
    bounds = [*sorted(starts - {len(admits)}), len(admits)]
    runs = dict(zip(_names(owners, bounds), pairwise(bounds), strict=True))
    groups = {start: (name, stop - start) for name, (start, stop) in runs.items()}
    return {
        "groups": {
            name: {"start": start, "size": stop - start, "admits": admits[start]}
            for name, (start, stop) in runs.items()
        },
        "parameters": {
            name: [part for occurrence in found for part in _parts(occurrence, groups)]
            for name, found in occurrences.items()
        },
    }


def _occurrences(index: Tensor, power: int, shape: Sequence[int]) -> Iterator[_Occurrence]:
    """A factor as vectors of entries along one axis, one for each box of the other axes."""
    # Along the axis of the neurons, an entry is followed by the next; a shuffled one is at least the longest.
    axis = max(range(index.dim()), key=lambda a: (int((index.diff(dim=a) == 1).sum()), index.shape[a]))
    sizes = [shape[a] if a == axis else size for a, size in enumerate(index.shape)]
    others = [a for a in range(index.dim()) if a != axis]
    for within, vector in _boxes(index.expand(sizes).movedim(axis, -1), others):
        entries, counts = torch.unique_consecutive(vector, return_counts=True)
        runs: dict[int, list[_Run]] = {}
        position = 0
        for entry, count in zip(entries.tolist(), counts.tolist(), strict=True):
            if entry:  # 0 is pinned
                runs.setdefault(entry - 1, []).append(_Run(position, count))
            position += count
        yield _Occurrence(axis, power, within, runs)


def _boxes(index: Tensor, others: Sequence[int]) -> Iterator[tuple[list[Span], Tensor]]:
    """Boxes of the axes ``others`` in which ``index`` does not vary, and its vector along the last axis."""
    if not others:
        yield [], index
        return
    size = index.shape[0]
    changes = (index.diff(dim=0) != 0).flatten(1).any(1).nonzero().flatten() + 1
    for start, stop in pairwise([0, *changes.tolist(), size]):
        span: list[Span] = [{"axis": others[0], "start": start, "stop": stop}] if len(changes) else []
        for within, vector in _boxes(index[start], others[1:]):
            yield span + within, vector


def _starts(occurrence: _Occurrence, known: Set[int]) -> set[int]:
    """The entries that begin a group here, ``known`` ones aside: from the entry before to such a one, the
    step is not that by which the group has gone so far."""
    starts: set[int] = set()
    last: list[int] | None = None
    for entry in sorted(occurrence.runs):
        step = _steps(occurrence.runs.get(entry - 1), occurrence.runs[entry])
        if entry in known or step is None or (last is not None and step != last):
            starts.add(entry)
            last = None
        else:
            last = step
        if entry + 1 not in occurrence.runs:
            starts.add(entry + 1)
    return starts


def _steps(before: list[_Run] | None, after: list[_Run]) -> list[int] | None:
    """How far each run of an entry lies from that of the entry before; None if they do not correspond."""
    if before is None or [run.repeat for run in before] != [run.repeat for run in after]:
        return None
    return [b.start - a.start for a, b in zip(before, after, strict=True)]


def _names(owners: Sequence[Owner], bounds: Sequence[int]) -> list[str]:
    """Names of the groups: that of their layer, with the range of its entries if it owns several groups."""
    sizes: Counter[str] = Counter()
    places: list[tuple[str, int]] = []
    for owner in sorted(owners, key=lambda owner: owner.start):
        places += ((owner.name, sizes[owner.name] + k) for k in range(owner.size))
        sizes[owner.name] += owner.size
    names = []
    for start, stop in pairwise(bounds):
        name, place = places[start]
        size = stop - start
        names.append(name if size == sizes[name] else f"{name}[{place}:{place + size}]")
    return names


def _parts(occurrence: _Occurrence, groups: Mapping[int, tuple[str, int]]) -> list[Part]:
    """The groups, by their first entry, that are found in an occurrence, by position."""
    parts: list[Part] = []
    for entry in occurrence.runs.keys() & groups.keys():
        name, size = groups[entry]
        runs = occurrence.runs[entry]
        following = occurrence.runs[entry + 1] if size > 1 else [_Run(r.start + 1, 1) for r in runs]
        for run, after in zip(runs, following, strict=True):
            part: Part = {
                "axis": occurrence.axis,
                "group": name,
                "power": occurrence.power,
                "start": run.start,
                "step": after.start - run.start,
                "repeat": run.repeat,
                "within": occurrence.within,
            }
            parts.append(part)
    return sorted(parts, key=lambda part: part["start"])
