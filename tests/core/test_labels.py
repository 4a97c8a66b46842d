"""Label tensors: operators on expanded views give what they give on written-out tensors."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from nteleport.core.labels import (
    along_last_axis,
    collapse,
    concatenate,
    is_constant,
    is_pinned,
    pinned,
    reshape,
)


@st.composite
def factorizations(draw: st.DrawFn, number: int) -> list[int]:
    """Shapes with a given number of elements."""
    shape = []
    for _ in range(draw(st.integers(0, 4))):
        divisors = [d for d in range(1, number + 1) if number % d == 0]
        shape.append(draw(st.sampled_from(divisors)))
        number //= shape[-1]
    return [*shape, number]


@st.composite
def labels_of(draw: st.DrawFn, shape: Sequence[int]) -> Tensor:
    """Labels of a shape, constant along some axes."""
    varying = [size if draw(st.booleans()) else 1 for size in shape]
    count = int(torch.tensor(varying).prod())
    values = draw(st.lists(st.integers(0, 9), min_size=count, max_size=count))
    return torch.tensor(values).view(varying).expand(tuple(shape))


@given(st.data())
def test_reshaping_is_that_of_torch(data: st.DataObject) -> None:
    number = data.draw(st.sampled_from([1, 6, 8, 12, 24, 30]))
    labels = data.draw(labels_of(data.draw(factorizations(number))))
    shape = data.draw(factorizations(number))
    assert torch.equal(reshape(labels, shape), labels.reshape(shape))


@given(st.data())
def test_concatenating_is_that_of_torch(data: st.DataObject) -> None:
    axis = data.draw(st.integers(0, 2))
    shapes = [[2, 3, 4] for _ in range(data.draw(st.integers(1, 3)))]
    for shape in shapes:
        shape[axis] = data.draw(st.integers(0, 4))
    parts = [data.draw(labels_of(shape)) for shape in shapes]
    assert torch.equal(concatenate(parts, axis), torch.cat(parts, axis))


def test_reshaping_writes_only_the_axes_that_vary() -> None:
    labels = torch.arange(5).view(1, 5, 1, 1).expand(64, 5, 100, 100)
    assert reshape(labels, (64, 5, 10_000)).untyped_storage().nbytes() == 5 * 8
    assert reshape(labels, (8, 8, 5, 100, 100)).untyped_storage().nbytes() == 5 * 8


def test_collapsing_keeps_what_varies() -> None:
    labels = torch.arange(5).view(1, 5, 1).repeat(2, 1, 3)
    assert torch.equal(collapse(labels), torch.arange(5).view(1, 5, 1))
    assert [is_constant(labels, axis) for axis in range(3)] == [True, False, True]


def test_labels_along_the_last_axis_need_the_others_constant() -> None:
    vector = torch.arange(4)
    found = along_last_axis(vector.expand(2, 3, 4))
    assert found is not None
    assert torch.equal(found, vector)
    assert along_last_axis(torch.arange(6).view(2, 3)) is None


def test_pinned_labels_are_pinned() -> None:
    assert is_pinned(pinned((3, 4)))
    assert not is_pinned(torch.tensor([0, 1]))
