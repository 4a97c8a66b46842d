"""Labels of a weight that is computed from parameters, pulled back to the parameters element by element."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from nteleport.core.parameter_views import combined, whole

SHAPE = (4, 6)

MOVES: dict[str, Callable[[Tensor], Tensor]] = {
    "nothing": lambda w: w,
    "transposed": lambda w: w.t(),
    "reshaped": lambda w: w.reshape(2, 3, 4),
    "reshaped and back": lambda w: w.reshape(1, 4, -1).reshape(4, 6),
    "permuted": lambda w: w.view(2, 2, 6).permute(2, 0, 1),
    "sliced": lambda w: w[1:3, ::2],
    "one row": lambda w: w[2],
    "expanded": lambda w: w.unsqueeze(0).expand(3, -1, -1),
    "flipped": lambda w: w.flip(0),
    "rolled": lambda w: w.roll(2, 1),
    "indexed": lambda w: w[torch.tensor([3, 0])],
    "diagonal": lambda w: w.diagonal(),
    "transposed and reshaped": lambda w: w.t().reshape(3, 8),
}


@pytest.mark.parametrize("move", MOVES.values(), ids=MOVES)
def test_a_pulled_label_lies_where_the_element_came_from(move: Callable[[Tensor], Tensor]) -> None:
    """Oracle: labels that are a function of the element are that function over the parameter."""
    element = torch.arange(24).view(SHAPE)
    view = whole("w", SHAPE).moved(move)
    pulled = view.pull(10 + move(element))
    assert pulled is not None
    present = torch.isin(element, move(element))
    assert torch.equal(pulled["w"].expand(SHAPE), torch.where(present, 10 + element, 0))


@pytest.mark.parametrize("move", MOVES.values(), ids=MOVES)
def test_pushing_values_is_moving_them(move: Callable[[Tensor], Tensor]) -> None:
    values = torch.randn(SHAPE)
    assert torch.equal(whole("w", SHAPE).moved(move).push({"w": values}), move(values))


def test_two_labels_for_one_element_cannot_be_pulled() -> None:
    view = whole("w", SHAPE).moved(lambda w: w.unsqueeze(0).expand(3, -1, -1))
    assert view.pull(torch.arange(3).view(3, 1, 1)) is None
    repeated = whole("w", SHAPE).moved(lambda w: w[torch.tensor([0, 0])])
    assert repeated.pull(torch.tensor([[1], [2]])) is None


def test_parts_of_several_parameters_are_pulled_to_each() -> None:
    parts = [whole("a", (2,)), torch.full((3,), -1), whole("b", (4,))]
    view = combined(torch.cat, parts)
    pulled = view.pull(torch.arange(1, 10))
    assert pulled is not None
    assert torch.equal(pulled["a"], torch.tensor([1, 2]))
    assert torch.equal(pulled["b"], torch.tensor([6, 7, 8, 9]))
    assert not view.exact
    found = view.push({"a": torch.tensor([2.0, 3.0]), "b": torch.full((4,), 5.0)})
    assert found.tolist() == [2, 3, 1, 1, 1, 5, 5, 5, 5]


def test_one_parameter_twice_is_one_owner() -> None:
    part = whole("a", (2, 3))
    view = combined(torch.cat, [part.moved(lambda w: w[:1]), part.moved(lambda w: w[1:])])
    assert view.names == ("a",)
    pulled = view.pull(torch.tensor([[1], [2]]))
    assert pulled is not None
    assert torch.equal(pulled["a"], torch.tensor([[1], [2]]))


def test_views_are_the_same_where_the_same_elements_stand() -> None:
    w = whole("w", SHAPE)
    assert w.moved(lambda t: t.t().t()).is_same(w)
    assert not w.moved(lambda t: t.flip(0)).is_same(w)
    assert not w.moved(lambda t: t[:2]).is_same(w.moved(lambda t: t[2:]))
    assert not whole("v", SHAPE).is_same(w)


def test_no_memory_is_touched_before_elements_are_copied() -> None:
    view = whole("w", (2**20, 2**12)).moved(lambda w: w.t().reshape(2**12, 2**10, 2**10))
    pulled = view.pull(torch.arange(2**12).view(-1, 1, 1))
    assert pulled is not None
    assert pulled["w"].shape == (1, 2**12)
