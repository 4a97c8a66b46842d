"""Factors that vary along one axis, and a parameter as a matrix between two of them.

For a weight between two layers the scale is an outer product of two such sides, so what matters of the weight
is one number for each pair of CoB entries.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from nteleport.core.quiver import Factor

_PIECE_ELEMENTS = {"cpu": 2**18, "cuda": 2**24}
"""A large weight is processed in pieces of about this many elements: it is never copied as a whole, and on a
CPU the intermediate results of a piece stay in cache."""


@dataclass(frozen=True, eq=False)
class Side:
    """A factor that varies along one axis only.

    Attributes:
        axis: of the parameter.
        power: +1 or −1.
        labels: extended CoB entry of each position, one for each run of ``repeats`` equal ones.
        start, count: the labels are ``start, start + 1, …``; ``start`` is None if they are not.
        repeats: how many neighbors share a label, as after a flattened convolution.
    """

    axis: int
    power: int
    labels: Tensor
    start: int | None
    count: int
    repeats: int


def side_of(factor: Factor, ndim: int) -> Side | None:
    """The factor as a side, or None if it varies along several axes."""
    shape = (1,) * (ndim - factor.index.ndim) + tuple(factor.index.shape)
    varying = [axis for axis, size in enumerate(shape) if size > 1] or [0]
    if len(varying) > 1:
        return None
    labels = factor.index.flatten()
    repeats = _repeats(labels)
    labels = labels[::repeats]
    start = int(labels[0])
    in_order = torch.equal(labels, torch.arange(start, start + len(labels), device=labels.device))
    return Side(varying[0], factor.power, labels, start if in_order else None, len(labels), repeats)


def _repeats(labels: Tensor) -> int:
    """The length of the runs of equal labels, if all have the same; else 1."""
    changes = (labels[1:] != labels[:-1]).nonzero().flatten() + 1
    if len(changes) == 0 or len(labels) % int(changes[0]):
        return 1
    length = int(changes[0])
    regular = torch.arange(length, len(labels), length, device=labels.device)
    return length if torch.equal(changes, regular) else 1


def as_matrix(value: Tensor, rows: Side, columns: Side) -> Tensor:
    """A parameter as [row labels, column labels, the rest]."""
    matrix: Tensor = value.movedim((rows.axis, columns.axis), (0, 1))
    matrix = matrix.unflatten(0, (rows.count, rows.repeats)).movedim(1, -1)
    matrix = matrix.unflatten(1, (columns.count, columns.repeats)).movedim(2, -1).flatten(2)
    return matrix


def piece_elements(values: Tensor) -> int:
    """How many elements of a tensor like this one to process at a time."""
    return _PIECE_ELEMENTS.get(values.device.type, _PIECE_ELEMENTS["cpu"])


def pieces(matrix: Tensor) -> Iterator[slice]:
    """The rows of a matrix, one piece at a time."""
    step = max(1, piece_elements(matrix) * len(matrix) // max(1, matrix.numel()))
    return (slice(start, start + step) for start in range(0, len(matrix), step))
