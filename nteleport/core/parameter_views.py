"""Tensors computed from parameters alone, before a layer uses them as its weights.

A network may reshape, slice, mask, concatenate or normalize its parameters on the way to the layer that uses
them. A ``ParameterView`` records which element of which parameter stands at each position, so that
labels of the weight that a layer sees can be *pulled back* to labels of the parameters.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from nteleport.core.labels import collapse, is_constant, reshape


class Owner(NamedTuple):
    """A parameter, and the number of its first element in a view."""

    name: str
    shape: torch.Size
    start: int


@dataclass(frozen=True, eq=False)
class ParameterView:
    """Which parameter elements a tensor is made of.

    Attributes:
        owners: the parameters.
        elements: of the tensor's shape. While there is one owner and nothing was copied, a uint8 stand-in
            with the same layout in its own (never touched) memory as the tensor has in the parameter's;
            otherwise int64, the number of each element, −1 where it comes from no parameter.
        exact: each element is one of a parameter times a constant, so that scaled parameters give a scaled
            tensor. Otherwise the tensor is computed from unscaled parameters and scaled where it is used.
    """

    owners: tuple[Owner, ...]
    elements: Tensor
    exact: bool = True

    @property
    def shape(self) -> torch.Size:
        """The shape of the tensor."""
        return self.elements.shape

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the parameters."""
        return tuple(owner.name for owner in self.owners)

    @property
    def _is_strided(self) -> bool:
        return self.elements.dtype == torch.uint8

    def numbers(self) -> Tensor:
        """The number of each element: int64, of the tensor's shape."""
        if not self._is_strided:
            return self.elements
        numbers = torch.arange(self.owners[0].shape.numel())
        e = self.elements
        return numbers.as_strided(e.shape, e.stride(), e.storage_offset())

    def moved(self, operator: Callable[[Tensor], Any]) -> Any:
        """The view after an operator that only moves elements; a list of views where it returns several."""
        result = operator(self.elements)
        if self._is_strided:
            memory = self.elements.untyped_storage().data_ptr()
            results = result if isinstance(result, (tuple, list)) else [result]
            if any(r.untyped_storage().data_ptr() != memory for r in results):
                result = operator(self.numbers())
        if isinstance(result, (tuple, list)):
            return [replace(self, elements=r) for r in result]
        return replace(self, elements=result)

    def inexact(self) -> ParameterView:
        """The same elements, after a computation that does not commute with scaling."""
        return replace(self, exact=False)

    def is_same(self, other: ParameterView) -> bool:
        """Whether the same elements stand at the same positions."""
        if self.names != other.names or self.shape != other.shape:
            return False
        if self._is_strided and other._is_strided:
            a, b = self.elements, other.elements
            return bool(a.stride() == b.stride() and a.storage_offset() == b.storage_offset())
        return torch.equal(self.numbers(), other.numbers())

    def repeats(self) -> bool:
        """Whether an element occurs at several positions."""
        if self._is_strided and torch._debug_has_internal_overlap(self.elements) == 0:
            return False
        numbers = self.numbers().reshape(-1)
        numbers = numbers[numbers >= 0]
        return bool(numbers.unique().numel() < numbers.numel())

    def pull(self, labels: Tensor) -> dict[str, Tensor] | None:
        """Labels of the tensor as labels of its parameters, 0 where an element is not in it.

        Args:
            labels: broadcastable to the tensor.

        Returns:
            By name, labels broadcastable to the parameter and with as many axes; None if one element of a
            parameter would need two labels.
        """
        labels = labels.expand(self.shape)
        if self._is_strided:
            pulled = self._pull_strided(labels)
            if pulled is not None:
                return {self.owners[0].name: collapse(pulled)}
        numbers = self.numbers().reshape(-1)
        used = numbers >= 0
        numbers, labels = numbers[used], labels.reshape(-1)[used]
        flat = torch.zeros(sum(owner.shape.numel() for owner in self.owners), dtype=torch.int64)
        flat[numbers] = labels
        if not torch.equal(flat[numbers], labels):
            return None
        pieces = flat.split([owner.shape.numel() for owner in self.owners])
        return {
            owner.name: collapse(piece.view(owner.shape))
            for owner, piece in zip(self.owners, pieces, strict=True)
        }

    def push(self, values: Mapping[str, Tensor]) -> Tensor:
        """Values of the parameters' elements, by name, arranged as in the tensor; 1 for no parameter."""
        flat = torch.cat([values[owner.name].expand(owner.shape).reshape(-1) for owner in self.owners])
        flat = torch.cat([flat, flat.new_ones(1)])
        return flat[self.numbers().to(flat.device)]

    def _pull_strided(self, labels: Tensor) -> Tensor | None:
        elements, shape = self.elements, self.owners[0].shape
        for axis in range(elements.dim()):
            if elements.shape[axis] > 1 and elements.stride(axis) == 0:  # repeated by expand
                if not is_constant(labels, axis):
                    return None
                elements, labels = elements.narrow(axis, 0, 1), labels.narrow(axis, 0, 1)
        steps = elements.stride()
        order = sorted(
            range(elements.dim()), key=lambda axis: (steps[axis], elements.shape[axis]), reverse=True
        )
        if elements.numel() == math.prod(shape) and elements.permute(order).is_contiguous():
            return reshape(labels.permute(order), shape)
        if torch._debug_has_internal_overlap(elements):
            return None
        pulled = torch.zeros(shape, dtype=torch.int64)
        pulled.as_strided(elements.shape, elements.stride(), elements.storage_offset()).copy_(labels)
        return pulled


def whole(name: str, shape: Sequence[int]) -> ParameterView:
    """A parameter itself."""
    shape = torch.Size(shape)
    return ParameterView((Owner(name, shape, 0),), torch.empty(shape, dtype=torch.uint8))


def combined(
    operator: Callable[[list[Tensor]], Any], parts: Sequence[ParameterView | Tensor]
) -> ParameterView:
    """The view after an operator that moves the elements of several tensors, some of them constants.

    Constants do not follow the scale, so a view that contains one is not exact.
    """
    starts: dict[str, Owner] = {}
    for part in parts:
        for owner in part.owners if isinstance(part, ParameterView) else ():
            last = list(starts.values())[-1:]
            start = last[0].start + last[0].shape.numel() if last else 0
            starts.setdefault(owner.name, Owner(owner.name, owner.shape, start))
    views = [part for part in parts if isinstance(part, ParameterView)]
    numbers = [_renumbered(part, starts) if isinstance(part, ParameterView) else part for part in parts]
    exact = len(views) == len(parts) and all(view.exact for view in views)
    return ParameterView(tuple(starts.values()), operator(numbers), exact)


def _renumbered(view: ParameterView, starts: Mapping[str, Owner]) -> Tensor:
    numbers = view.numbers()
    shifted = torch.full_like(numbers, -1)
    for owner in view.owners:
        inside = (numbers >= owner.start) & (numbers < owner.start + owner.shape.numel())
        shifted = torch.where(inside, numbers - owner.start + starts[owner.name].start, shifted)
    return shifted
