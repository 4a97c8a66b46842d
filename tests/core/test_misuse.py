"""Wrong arguments of the Python interface: one clear error of this package, none of the libraries below."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from nteleport import (
    TeleportableModel,
    TeleportedOptimizer,
    analyze,
    materialize,
    sample_cob,
    scales,
    solve_cob,
    teleported,
)
from nteleport.errors import TeleportationError

X = torch.ones(2, 3)
SIZE = 4
WEIGHTS = 3 * 4 + 4 + 4 * 2 + 2


def network() -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))


QUIVER = analyze(network(), X)


def model() -> TeleportableModel:
    return TeleportableModel(network(), X, QUIVER)


def optimizer(kind: Any = torch.optim.Adam, module: Any = None) -> TeleportedOptimizer:
    return TeleportedOptimizer(module or network(), QUIVER, kind, lr=0.1)


def parameters(holder: Any) -> list[Tensor]:
    return [p.detach().clone() for p in holder.network.parameters()]


def position_at(cob: Any) -> Any:
    moved = model()
    return moved.load_position(moved.weight_vector(), cob)


TAKERS_OF_A_COB: dict[str, Callable[[Any], Any]] = {
    "model": lambda cob: model().teleport(cob),
    "optimizer": lambda cob: optimizer().teleport(cob),
    "state": lambda cob: optimizer().load_state_dict({**optimizer().state_dict(), "cob": cob}),
    "position": position_at,
    "scales": lambda cob: scales(QUIVER, cob),
    "teleported": lambda cob: teleported(dict(network().named_parameters()), QUIVER, cob),
}


@pytest.mark.parametrize("taker", TAKERS_OF_A_COB)
@pytest.mark.parametrize(
    ("cob", "message"),
    [
        (None, r"shape \(4,\), got NoneType"),
        ([1.0, 2.0, 3.0, 4.0], r"shape \(4,\), got list"),
        (np.ones(SIZE), r"shape \(4,\), got ndarray"),
        (torch.ones(SIZE - 1), r"shape \(4,\), got \(3,\)"),
        (torch.ones(SIZE, 1), r"shape \(4,\), got \(4, 1\)"),
        (torch.ones(SIZE, dtype=torch.complex64), "got torch.complex64"),
        (torch.ones(SIZE, dtype=torch.bool), "got torch.bool"),
        (torch.ones(SIZE).to_sparse(), "got torch.sparse_coo"),
    ],
)
def test_what_is_no_change_of_basis_is_refused(taker: str, cob: Any, message: str) -> None:
    with pytest.raises(TeleportationError, match=message):
        TAKERS_OF_A_COB[taker](cob)


@pytest.mark.parametrize("taker", [t for t in TAKERS_OF_A_COB if t != "scales"])
def test_a_change_of_basis_without_values_is_refused(taker: str) -> None:
    with pytest.raises(TeleportationError, match="meta"):
        TAKERS_OF_A_COB[taker](torch.ones(SIZE, device="meta"))


@pytest.mark.parametrize("size", [-1, 2.5, None, "3", True, 10**20])
def test_a_size_that_counts_nothing_is_refused(size: Any) -> None:
    with pytest.raises(TeleportationError, match="a whole number of at least 0"):
        sample_cob(size, 0.5, "positive")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"cob_range": None}, "numbers, got None"),
        ({"cob_range": "a"}, "numbers, got 'a'"),
        ({"center": [1]}, r"numbers, got \[1\]"),
        ({"sampling": None}, "unknown sampling None"),
        ({"cob_range": 1e60}, "beyond float32"),
        ({"generator": 3}, "expected a torch.Generator on the CPU or None, got 3"),
    ],
)
def test_what_cannot_be_sampled_is_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(TeleportationError, match=message):
        sample_cob(**{"size": 3, "cob_range": 0.5, "sampling": "positive", **arguments})


def frozen() -> nn.Module:
    return network().requires_grad_(False)


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda: optimizer(module=frozen()), "no parameter of Sequential requires a gradient"),
        (
            lambda: TeleportedOptimizer(nn.ReLU(), analyze(nn.ReLU(), X), torch.optim.SGD, lr=1),
            "no parameter of ReLU requires a gradient",
        ),
        (lambda: TeleportedOptimizer(None, QUIVER, torch.optim.SGD), "expected a Module, got NoneType"),  # type: ignore[arg-type]
        (
            lambda: TeleportedOptimizer(network(), None, torch.optim.SGD),  # type: ignore[arg-type]
            "expected a Quiver, got NoneType",
        ),
        (lambda: optimizer("SGD"), "expected a class of torch.optim.*got 'SGD'"),
        (lambda: TeleportableModel(None, X), "expected a torch.nn.Module"),  # type: ignore[arg-type]
        (lambda: TeleportableModel(nn.Linear(3, 4), X, QUIVER), "expected the quiver of this network"),
        (lambda: materialize(network()), "expected a TeleportableModel, got Sequential"),  # type: ignore[arg-type]
        (lambda: solve_cob(network(), X), "expected a TeleportableModel, got Sequential"),  # type: ignore[arg-type]
        (lambda: solve_cob(model(), None), "weights are a vector or tensors by name"),  # type: ignore[arg-type]
        (lambda: model().gradient_vector(X, X, lambda a, _: a), r"one number, got \(2, 2\)"),
    ],
)
def test_arguments_of_another_kind_are_refused(act: Callable[[], Any], message: str) -> None:
    with pytest.raises(TeleportationError, match=message):
        act()


@pytest.mark.parametrize(
    "vector",
    [
        None,
        [0.0] * WEIGHTS,
        torch.ones(WEIGHTS - 1),
        torch.ones(WEIGHTS, dtype=torch.int64),
        torch.ones(WEIGHTS, dtype=torch.complex64),
        torch.ones(WEIGHTS, device="meta"),
    ],
)
def test_a_weight_vector_that_the_parameters_cannot_hold_is_refused(vector: Any) -> None:
    moved = model()
    before, cob = parameters(moved), moved.cob.clone()
    for act in (
        lambda: moved.load_weight_vector(vector),
        lambda: moved.load_position(vector, torch.full((SIZE,), 2.0)),
    ):
        with pytest.raises(TeleportationError, match="the weights of this network"):
            act()
    assert all(torch.equal(a, b) for a, b in zip(before, parameters(moved), strict=True))
    assert torch.equal(moved.cob, cob)


def test_a_weight_vector_of_another_real_dtype_is_rounded() -> None:
    moved = model()
    moved.load_weight_vector(torch.full((WEIGHTS,), 0.1, dtype=torch.float64))
    assert torch.equal(moved.weight_vector(), torch.full((WEIGHTS,), 0.1))


def test_a_network_on_another_device_than_its_change_of_basis_is_refused() -> None:
    moved = model()
    moved.network.to("meta")
    with pytest.raises(TeleportationError, match=r"is on meta and the change of basis on \S+"):
        moved(X.to("meta"))


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.Adam])
def test_an_optimizer_whose_network_moved_to_another_device_is_refused(kind: Any) -> None:
    trained = optimizer(kind)
    trained.network.to("meta")
    for act in (trained.step, trained.teleported_weights, lambda: trained.teleport(torch.ones(SIZE))):
        with pytest.raises(TeleportationError, match=r"parameter 0\.weight of the network was replaced"):
            act()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: None, "has the keys cob, optimizer, teleported_weights; got NoneType"),
        (lambda state: {}, "has the keys cob, optimizer, teleported_weights; got none"),
        (lambda state: {**state, "optimizer": {}}, r"state of Adam is not of groups of \[4\] parameters"),
        (lambda state: {**state, "teleported_weights": {"a": X}}, r"weights a of .*, the network none of"),
        (
            lambda state: {**state, "teleported_weights": {"0.bias": X}},
            r"weights 0\.bias of shape \(2, 3\), the network shape \(4,\)",
        ),
    ],
)
def test_a_state_of_another_optimizer_is_refused(change: Callable[[Any], Any], message: str) -> None:
    trained = optimizer()
    trained.teleport(torch.full((SIZE,), 2.0))
    state = trained.state_dict()
    with pytest.raises(TeleportationError, match=message):
        trained.load_state_dict(change({**state, "cob": torch.full((SIZE,), 3.0)}))
    assert torch.equal(trained.cob, torch.full((SIZE,), 2.0))
