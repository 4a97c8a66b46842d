"""Label tensors: which entry of the extended change of basis scales each element of an activation.

A label tensor is int64 and has the shape of its activation; 0 means pinned (scaled by the constant 1). Labels
mostly vary along the channel axis only, so they are kept as expanded views (stride 0), which makes the
questions asked here cheap.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def pinned(shape: Sequence[int]) -> Tensor:
    """Labels of an activation that no CoB entry scales."""
    return torch.zeros((), dtype=torch.int64).expand(tuple(shape))


def is_pinned(labels: Tensor) -> bool:
    """Whether no CoB entry scales any element."""
    return not bool(collapse(labels).any())


def is_constant(labels: Tensor, axis: int) -> bool:
    """Whether labels do not vary along ``axis``."""
    if labels.shape[axis] <= 1 or labels.stride(axis) == 0:
        return True
    stripped = _strip_expanded(labels)
    return bool((stripped == stripped.narrow(axis, 0, 1)).all())


def reduce_to(labels: Tensor, shape: Sequence[int]) -> Tensor | None:
    """Labels of something that broadcasts from ``shape`` to the labels' shape; None if they vary where it
    cannot.

    Axes are aligned at the right, as in broadcasting.
    """
    missing = labels.dim() - len(shape)
    if missing < 0:
        return None
    for axis, size in enumerate([1] * missing + list(shape)):
        if size == labels.shape[axis]:
            continue
        if size != 1 or not is_constant(labels, axis):
            return None
        labels = labels.narrow(axis, 0, 1)
    return labels.reshape(tuple(shape))


def along_axis(labels: Tensor, axis: int) -> Tensor | None:
    """The labels along ``axis`` as a vector; None if they vary along any other axis."""
    axis %= labels.dim()
    shape = [size if a == axis else 1 for a, size in enumerate(labels.shape)]
    reduced = reduce_to(labels, shape)
    return None if reduced is None else reduced.reshape(-1)


def spread(vector: Tensor, axis: int, shape: Sequence[int]) -> Tensor:
    """The inverse of :func:`along_axis`: labels of ``shape`` that vary along ``axis`` only."""
    axis %= len(shape)
    return vector.view([-1 if a == axis else 1 for a in range(len(shape))]).expand(tuple(shape))


def collapse(labels: Tensor) -> Tensor:
    """Labels with every axis along which they are constant cut to size 1."""
    for axis in range(labels.dim()):
        if labels.shape[axis] > 1 and is_constant(labels, axis):
            labels = labels.narrow(axis, 0, 1)
    return labels


def _strip_expanded(labels: Tensor) -> Tensor:
    for axis in range(labels.dim()):
        if labels.shape[axis] > 1 and labels.stride(axis) == 0:
            labels = labels.narrow(axis, 0, 1)
    return labels
