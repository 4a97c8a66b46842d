"""Label tensors: which entry of the extended change of basis scales each element of an activation.

A label tensor is int64 and has the shape of its activation; 0 means pinned (scaled by the constant 1). Labels
mostly vary along the channel axis only, so they are kept as expanded views (stride 0), which makes the
queries below cheap.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor


def pinned(shape: Sequence[int]) -> Tensor:
    """Labels of an activation that no CoB entry scales."""
    return torch.zeros((), dtype=torch.int64).expand(tuple(shape))


def is_pinned(labels: Tensor) -> bool:
    """Whether no CoB entry scales any element."""
    return not bool(_strip_expanded(labels).any())


def is_constant(labels: Tensor, axis: int) -> bool:
    """Whether labels do not vary along ``axis``."""
    if labels.shape[axis] <= 1 or labels.stride(axis) == 0:
        return True
    stripped = _strip_expanded(labels)
    return bool((stripped == stripped.narrow(axis, 0, 1)).all())


def reduce_to(labels: Tensor, shape: Sequence[int]) -> Tensor | None:
    """Labels of a tensor that broadcasts from ``shape`` to the labels' shape; None if they vary where it
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


def along_last_axis(labels: Tensor | None) -> Tensor | None:
    """The labels along the last axis as a vector; None if there are none or they vary along another axis."""
    if labels is None or labels.dim() == 0:
        return None
    reduced = reduce_to(labels, [1] * (labels.dim() - 1) + [labels.shape[-1]])
    return None if reduced is None else reduced.reshape(-1)


def spread(vector: Tensor, axis: int, shape: Sequence[int]) -> Tensor:
    """Labels of ``shape`` that vary along ``axis`` only, as ``vector`` does."""
    axis %= len(shape)
    return vector.view([-1 if a == axis else 1 for a in range(len(shape))]).expand(tuple(shape))


def collapse(labels: Tensor) -> Tensor:
    """Labels with every axis along which they are constant reduced to size 1."""
    for axis in range(labels.dim()):
        if labels.shape[axis] > 1 and is_constant(labels, axis):
            labels = labels.narrow(axis, 0, 1)
    return labels


def moved(operator: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Labels after an operator that only moves elements, again with stride 0 where they are constant."""
    result = operator(*args, **kwargs)
    return [_expanded(r) for r in result] if isinstance(result, (tuple, list)) else _expanded(result)


def mapped(function: Callable[[Tensor], Tensor], labels: Tensor) -> Tensor:
    """An elementwise function of labels, computed once where they are expanded."""
    return function(_strip_expanded(labels)).expand(labels.shape)


def reshape(labels: Tensor, shape: Sequence[int]) -> Tensor:
    """``labels.reshape(shape)`` without materializing axes along which labels are constant."""
    if labels.numel() == 0 or labels.numel() != math.prod(shape):
        return labels.reshape(tuple(shape))
    sizes = []
    for before, after in _reshape_groups(labels.shape, shape):
        if all(labels.shape[axis] == 1 or labels.stride(axis) == 0 for axis in before):
            for axis in before:
                labels = labels.narrow(axis, 0, 1)
            sizes += [1] * len(after)
        else:
            sizes += [shape[axis] for axis in after]
    return labels.reshape(sizes).expand(tuple(shape))


def concatenate(parts: Sequence[Tensor], axis: int) -> Tensor:
    """``torch.cat`` of labels without materializing axes along which all of them are constant."""
    parts = [part for part in parts if part.shape != (0,)] or list(parts[:1])
    axis %= parts[0].dim()
    shape = list(parts[0].shape)
    shape[axis] = sum(part.shape[axis] for part in parts)
    for other in range(len(shape)):
        if other != axis and all(part.stride(other) == 0 for part in parts):
            parts = [part.narrow(other, 0, min(1, part.shape[other])) for part in parts]
    return torch.cat(list(parts), axis).expand(shape)


def _reshape_groups(before: Sequence[int], after: Sequence[int]) -> list[tuple[list[int], list[int]]]:
    """Which axes map to which: the finest runs of axes with equal numbers of elements."""
    groups: list[tuple[list[int], list[int]]] = []
    i = j = 0
    while i < len(before) or j < len(after):
        left, right = [], []
        sizes = [1, 1]
        while True:
            if i < len(before) and (sizes[0] <= sizes[1] or j == len(after)):
                sizes[0] *= before[i]
                left.append(i)
                i += 1
            elif j < len(after):
                sizes[1] *= after[j]
                right.append(j)
                j += 1
            if sizes[0] == sizes[1] and ((left and right) or i == len(before) or j == len(after)):
                break
        groups.append((left, right))
    return groups


def _expanded(labels: Tensor) -> Tensor:
    return collapse(labels).expand(labels.shape) if labels.is_contiguous() else labels


def _strip_expanded(labels: Tensor) -> Tensor:
    for axis in range(labels.dim()):
        if labels.shape[axis] > 1 and labels.stride(axis) == 0:
            labels = labels.narrow(axis, 0, 1)
    return labels
