"""No change of basis turns weights into numbers that are not finite: it is refused before anything moves."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from nteleport import Quiver, TeleportableModel, TeleportedOptimizer, analyze, materialize, sample_cob
from nteleport.core import checks
from nteleport.errors import TeleportationError

X = torch.ones(2, 3)


def network(dtype: torch.dtype = torch.float32) -> nn.Sequential:
    """Two hidden layers of two neurons: entries 0 and 1 of the CoB scale the first, 2 and 3 the second."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(3, 2), nn.Tanh(), nn.Linear(2, 2), nn.Tanh(), nn.Linear(2, 3, dtype=torch.float32)
    ).to(dtype)


@cache
def quiver() -> Quiver:
    return analyze(network(), X)


def model(dtype: torch.dtype = torch.float32) -> TeleportableModel:
    return TeleportableModel(network(dtype), X.to(dtype), quiver())


def optimizer(kind: Any = torch.optim.SGD) -> TeleportedOptimizer:
    return TeleportedOptimizer(network(), quiver(), kind, lr=0.1)


def entries(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def weights(holder: Any) -> Tensor:
    return torch.cat([p.detach().flatten() for p in holder.network.parameters()])


each_holder = pytest.mark.parametrize(
    "make", [model, optimizer, lambda: optimizer(torch.optim.Adam)], ids=["model", "SGD", "Adam"]
)
sizes = st.builds(
    lambda exponent, sign: sign * 10.0**exponent, st.floats(-46, 46), st.sampled_from([1.0, -1.0])
)
cobs = st.lists(sizes, min_size=4, max_size=4)


@settings(max_examples=150, deadline=None)
@given(cobs, cobs, st.sampled_from(["model", "SGD", "Adam"]), st.sampled_from(["reset", "transport"]))
def test_any_change_of_basis_is_refused_or_gives_finite_weights(
    first: list[float], second: list[float], kind: str, state: str
) -> None:
    holder: Any = model() if kind == "model" else optimizer(getattr(torch.optim, kind))
    for values in (first, second):
        before = weights(holder)
        try:
            if kind == "model":
                holder.teleport(entries(*values))
            else:
                holder.teleport(entries(*values), state)
        except TeleportationError:
            assert torch.equal(weights(holder), before)
            continue
        moved = holder.network if kind == "model" else None
        teleported = named(moved) if moved is not None else holder.teleported_weights()
        assert all(bool(torch.isfinite(each).all()) for each in teleported.values())
        factors = getattr(holder, "_factors", {})
        assert all(bool((torch.isfinite(f) & (f != 0)).all()) for each in factors.values() for f in each)


def named(module: nn.Module) -> dict[str, Tensor]:
    return {name: p.detach() for name, p in module.named_parameters()}


@each_holder
@pytest.mark.parametrize("value", [1e300, -1e-300, 1e-39, 1e39, float("nan"), 0.0])
def test_an_entry_without_an_inverse_in_float32_is_named(make: Callable[[], Any], value: float) -> None:
    holder = make()
    with pytest.raises(
        TeleportationError, match=rf"entry 2 .* is {re.escape(str(value))}; .* in torch\.float32"
    ):
        holder.teleport(entries(1, 1, value, 1))


@each_holder
def test_a_product_of_entries_beyond_float32_names_its_parameter(make: Callable[[], Any]) -> None:
    holder = make()
    before = weights(holder)
    with pytest.raises(TeleportationError, match=r"scale of 2\.weight .* torch\.float32"):
        holder.teleport(entries(1e18, 1, 1, 1e-22))
    assert torch.equal(weights(holder), before)
    assert torch.equal(holder.cob, torch.ones(4))


def test_a_model_takes_scales_whose_squares_would_not_fit_but_an_optimizer_does_not() -> None:
    moved, cob = model(), entries(1e25, 1e25, 1e25, 1e25)
    expected = moved(X)
    moved.teleport(cob)
    torch.testing.assert_close(moved(X), expected)
    with pytest.raises(TeleportationError, match=r"scale of 0\.weight .* powers of 2"):
        optimizer().teleport(cob)


def test_a_move_between_usable_places_that_are_too_far_apart_is_refused() -> None:
    moved = model()
    moved.teleport(entries(1e25, 1e25, 1e25, 1e25))
    before = weights(moved)
    with pytest.raises(TeleportationError, match="new change of basis over the current one: entry 0"):
        moved.teleport(entries(1e-25, 1e-25, 1e-25, 1e-25))
    assert torch.equal(weights(moved), before)


def test_a_move_that_overflows_between_two_factors_is_refused() -> None:
    moved = model()
    moved.teleport(entries(1, 1e-26, 1, 1))
    before = weights(moved)
    with pytest.raises(TeleportationError, match=r"2\.weight cannot move there in one step"):
        moved.teleport(entries(1, 1, 1, 1e14))
    assert torch.equal(weights(moved), before)


def test_the_same_change_of_basis_is_usable_in_float64() -> None:
    moved = model(torch.float64)
    expected = moved(X.double())
    moved.teleport(entries(1e80, 1e-80, 1e-100, 1e100))
    torch.testing.assert_close(moved(X.double()), expected)


def test_an_unusable_change_of_basis_in_a_saved_state_is_refused() -> None:
    saved = optimizer().state_dict()
    fresh = optimizer()
    with pytest.raises(TeleportationError, match="entry 1"):
        fresh.load_state_dict({**saved, "cob": entries(1, 1e-300, 1, 1)})
    with pytest.raises(TeleportationError, match=r"scale of 2\.weight"):
        fresh.load_state_dict({**saved, "cob": entries(1e18, 1, 1, 1e-22)})


def test_a_model_whose_change_of_basis_was_overwritten_is_not_materialized() -> None:
    moved = model()
    moved.cob[:] = torch.tensor([1e30, 1, 1, 1e-30])
    with pytest.raises(TeleportationError, match=r"scale of 2\.weight"):
        materialize(moved)


def test_no_scale_is_formed_to_check_a_sampled_change_of_basis(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise AssertionError("a scale was formed")

    monkeypatch.setattr(checks, "factor_scales", refuse)
    for holder in (model(), optimizer()):
        for sampling in ("positive", "inter_landscape"):
            holder.teleport(sample_cob(4, 0.9, sampling))
