"""Rates: training with them is plain PyTorch with larger or smaller steps, and what a teleportation does."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from support.optimizers import OPTIMIZERS
from support.precision import double
from support.zoo.reference import DenseUpsample, Residual
from torch import Tensor, nn

from nteleport import Quiver, TeleportableModel, TeleportedOptimizer, analyze, sample_cob
from nteleport.core.cob import layer_cob
from nteleport.core.quiver import scales
from nteleport.core.rates import layer_rates, own_rates, rate_exponent, shuffled_rates
from nteleport.errors import TeleportationError

each_optimizer = pytest.mark.parametrize("name", OPTIMIZERS)
SGDS = [name for name in OPTIMIZERS if name.startswith("SGD")]
NETWORKS: dict[str, Callable[[], nn.Module]] = {"residual": Residual, "concatenation": DenseUpsample}


_double = pytest.fixture(autouse=True)(double)


@cache
def quiver_of(kind: str) -> Quiver:
    return analyze(NETWORKS[kind](), torch.zeros(8, 3, 6, 6))


class Problem:
    """A small network and a batch; every instance starts the same."""

    def __init__(self, kind: str = "residual") -> None:
        self.quiver = quiver_of(kind)
        torch.manual_seed(0)
        self.network = NETWORKS[kind]()
        self.x, self.y = torch.randn(8, 3, 6, 6), torch.arange(8) % 5

    def cob(self) -> Tensor:
        generator = torch.Generator().manual_seed(1)
        return sample_cob(self.quiver.cob_size, 0.9, "inter_landscape", generator=generator).double()

    def optimizer(self, name: str, **changed: Any) -> TeleportedOptimizer:
        optimizer_class, options = OPTIMIZERS[name]
        return TeleportedOptimizer(self.network, self.quiver, optimizer_class, **{**options, **changed})

    def train(
        self,
        optimizer: Any,
        network: nn.Module | None = None,
        *,
        steps: int = 8,
        before_step: Callable[[], None] = lambda: None,
    ) -> Tensor:
        losses = []
        for _ in range(steps):
            optimizer.zero_grad()
            loss = F.cross_entropy((network or self.network)(self.x), self.y)
            loss.backward()
            before_step()
            optimizer.step()
            losses.append(loss.detach())
        return torch.stack(losses)

    def random_rates(self, seed: int = 2) -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(seed)
        return {
            name: torch.rand(p.shape, generator=generator) * 3 + 0.2
            for name, p in self.network.named_parameters()
        }


def weights(network: nn.Module) -> dict[str, Tensor]:
    return {name: p.detach() for name, p in network.named_parameters()}


def assert_same(actual: Mapping[str, Tensor], expected: Mapping[str, Tensor], tolerance: float) -> None:
    assert actual.keys() == expected.keys()
    for name in expected:
        torch.testing.assert_close(actual[name], expected[name], rtol=tolerance, atol=tolerance, msg=name)


def multiply_gradients(network: nn.Module, rates: Mapping[str, Tensor]) -> Callable[[], None]:
    def multiply() -> None:
        for name, parameter in network.named_parameters():
            if name in rates:
                parameter.grad.mul_(rates[name])  # type: ignore[union-attr]

    return multiply


@pytest.mark.parametrize("name", SGDS)
def test_sgd_multiplies_gradients(name: str) -> None:
    ours, plain = Problem(), Problem()
    optimizer = ours.optimizer(name)
    optimizer.set_rates(ours.random_rates())
    theirs = torch.optim.SGD(plain.network.parameters(), **OPTIMIZERS[name][1])
    multiply = multiply_gradients(plain.network, plain.random_rates())

    losses = ours.train(optimizer)

    torch.testing.assert_close(losses, plain.train(theirs, before_step=multiply), rtol=1e-10, atol=1e-10)
    assert_same(weights(ours.network), weights(plain.network), 1e-10)


def test_other_optimizers_multiply_steps_but_not_their_decoupled_weight_decay() -> None:
    """θ ← (1 − lr wd) θ + r Δ, where plain AdamW gives (1 − lr wd) θ + Δ; without eps."""
    ours, plain = Problem(), Problem()
    optimizer, lr, decay = ours.optimizer("AdamW", eps=1e-30), 0.01, 0.1
    optimizer.set_rates(ours.random_rates())
    theirs = torch.optim.AdamW(plain.network.parameters(), lr=lr, weight_decay=decay, eps=1e-30)
    for _ in range(8):
        decayed = {name: (1 - lr * decay) * p for name, p in copy.deepcopy(weights(plain.network)).items()}
        plain.train(theirs, steps=1)
        with torch.no_grad():
            for name, p in plain.network.named_parameters():
                p.copy_(decayed[name] + plain.random_rates()[name] * (p - decayed[name]))

    ours.train(optimizer)

    assert_same(weights(ours.network), weights(plain.network), 1e-8)


GROUPS: dict[str, Callable[[dict[str, Any], float], dict[str, Any]]] = {
    "SGD": lambda given, r: {"lr": given["lr"] * r},
    "SGD Nesterov": lambda given, r: {"lr": given["lr"] * r, "weight_decay": given["weight_decay"] / r},
    "Adam": lambda given, r: {
        "lr": given["lr"] * r, "eps": 1e-8 / r, "weight_decay": given["weight_decay"] / r**2,
    },
    "AdamW": lambda given, r: {
        "lr": given["lr"] * r, "eps": 1e-8 / r, "weight_decay": given["weight_decay"] / r,
    },
    "NAdam": lambda given, r: {"lr": given["lr"] * r, "eps": 1e-8 / r},
    "Adamax": lambda given, r: {"lr": given["lr"] * r, "eps": 1e-8 / r},
    "Adagrad": lambda given, r: {"lr": given["lr"] * r, "eps": 1e-10 / r},
    "RMSprop": lambda given, r: {"lr": given["lr"] * r, "eps": 1e-8 / r},
    "Rprop": lambda given, r: {"lr": given["lr"] * r, "step_sizes": (1e-6 * r, 50 * r)},
    "ASGD": lambda given, r: {"lr": given["lr"] * r, "lambd": 1e-4 / r},
}  # fmt: skip
"""The parameter groups of plain PyTorch that constant rates are."""


@pytest.mark.parametrize("name", GROUPS)
def test_layer_rates_are_parameter_groups(name: str) -> None:
    ours, plain = Problem(), Problem()
    optimizer_class, options = OPTIMIZERS[name]
    exponent = rate_exponent(optimizer_class)
    expanded = scales(plain.quiver, plain.cob())
    means = {each: float((s.abs() ** -exponent).mean()) for each, s in expanded.items()}
    groups = [
        {"params": [parameter], **GROUPS[name](options, means[each])}
        for each, parameter in plain.network.named_parameters()
    ]
    optimizer = ours.optimizer(name)
    optimizer.set_rates(layer_rates(own_rates(ours.quiver, ours.cob(), exponent)))
    theirs = optimizer_class(groups, **options)

    losses = ours.train(optimizer)

    torch.testing.assert_close(losses, plain.train(theirs), rtol=1e-9, atol=1e-9)
    assert_same(weights(ours.network), weights(plain.network), 1e-8)


@each_optimizer
def test_rates_of_one_are_the_torch_optimizer_bit_for_bit(name: str) -> None:
    ours, plain = Problem(), Problem()
    optimizer = ours.optimizer(name)
    optimizer.set_rates({each: torch.ones_like(p) for each, p in ours.network.named_parameters()})
    optimizer_class, options = OPTIMIZERS[name]
    fused = {"fused": True} if optimizer.optimizer.defaults.get("fused") else {}
    theirs = optimizer_class(plain.network.parameters(), **options, **fused)

    assert torch.equal(ours.train(optimizer), plain.train(theirs))
    assert all(torch.equal(p, weights(plain.network)[n]) for n, p in weights(ours.network).items())


@each_optimizer
def test_the_rates_of_a_teleportation_train_as_it_does(name: str) -> None:
    ours, teleported = Problem(), Problem()
    optimizer_class, options = OPTIMIZERS[name]
    optimizer = ours.optimizer(name)
    optimizer.set_rates(own_rates(ours.quiver, ours.cob(), optimizer.rate_exponent))
    model = TeleportableModel(teleported.network, teleported.x, teleported.quiver)
    model.teleport(teleported.cob())

    losses = ours.train(optimizer)

    expected = teleported.train(optimizer_class(model.parameters(), **options), model)
    torch.testing.assert_close(losses, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", SGDS)
@pytest.mark.parametrize("kind", NETWORKS)
def test_a_layer_cob_trains_as_gradients_times_its_own_rates(kind: str, name: str) -> None:
    ours, plain = Problem(kind), Problem(kind)
    cob = layer_cob(ours.quiver, ours.cob())
    optimizer = ours.optimizer(name)
    optimizer.teleport(cob)
    theirs = torch.optim.SGD(plain.network.parameters(), **OPTIMIZERS[name][1])
    rates = {each: s**-2 for each, s in scales(plain.quiver, cob).items()}

    losses = ours.train(optimizer)

    expected = plain.train(theirs, before_step=multiply_gradients(plain.network, rates))
    torch.testing.assert_close(losses, expected, rtol=1e-10, atol=1e-10)
    assert_same(weights(ours.network), weights(plain.network), 1e-9)
    numbers = {each: len(rate.unique()) for each, rate in rates.items()}
    if kind == "residual":
        assert set(numbers.values()) == {1}
    else:
        assert numbers["convt.weight"] == 3  # it reads as many layers


def test_a_layer_cob_has_the_root_mean_square_of_each_layer() -> None:
    network = nn.Sequential(nn.Linear(3, 2), nn.ReLU(), nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 1))
    quiver = analyze(network, torch.zeros(2, 3))
    found = layer_cob(quiver, torch.tensor([3.0, -4.0, 1.0, 1.0, 2.0, 2.0]))
    expected = torch.tensor([12.5] * 2 + [2.5] * 4).sqrt()
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("activation", [nn.ReLU, nn.Tanh])
def test_a_layer_cob_is_admitted_where_activations_are_kept(activation: type[nn.Module]) -> None:
    network = nn.Sequential(nn.Linear(3, 5), activation(), nn.Linear(5, 2))
    quiver = analyze(network, torch.zeros(2, 3), activations="kept")
    drawn = torch.tensor([1.0, -1.0, 1.0, -1.0, -1.0]) if activation is nn.Tanh else torch.rand(5) + 0.5
    optimizer = TeleportedOptimizer(network, quiver, torch.optim.SGD, lr=0.1)
    optimizer.teleport(layer_cob(quiver, drawn))
    assert len(optimizer.cob.unique()) == 1


def test_shuffled_rates_are_the_same_numbers_in_another_order() -> None:
    problem = Problem()
    own = own_rates(problem.quiver, problem.cob(), 2)
    shuffled = shuffled_rates(problem.quiver, own, torch.Generator().manual_seed(3))
    again = shuffled_rates(problem.quiver, own, torch.Generator().manual_seed(3))
    for name, rate in own.items():
        whole = rate.expand(problem.quiver.parameters[name].shape)
        assert torch.equal(shuffled[name].flatten().sort().values, whole.flatten().sort().values)
        assert not torch.equal(shuffled[name], whole)
        assert torch.equal(shuffled[name], again[name])


def test_rates_and_a_teleportation_multiply() -> None:
    ours, plain = Problem(), Problem()
    optimizer = ours.optimizer("SGD Nesterov")
    optimizer.set_rates(ours.random_rates())
    optimizer.teleport(ours.cob())
    theirs = torch.optim.SGD(plain.network.parameters(), **OPTIMIZERS["SGD Nesterov"][1])
    product = {n: r / scales(plain.quiver, plain.cob())[n] ** 2 for n, r in plain.random_rates().items()}

    losses = ours.train(optimizer)

    expected = plain.train(theirs, before_step=multiply_gradients(plain.network, product))
    torch.testing.assert_close(losses, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", [name for name in OPTIMIZERS if name != "Rprop"])  # it moves at any rate
def test_a_transported_state_is_what_it_would_be_had_the_rates_been_there(name: str) -> None:
    moved, there = Problem(), Problem()
    still: dict[str, Any] = {"lr": 0.0, "weight_decay": 0.0}
    optimizers = []
    for problem in (moved, there):
        kept = {"eps": 1e-30} if "eps" in problem.optimizer(name).optimizer.defaults else {}
        optimizers.append(problem.optimizer(name, **still, **kept))
    optimizers[0].set_rates(moved.random_rates(3))
    optimizers[1].set_rates(there.random_rates(4))
    for problem, optimizer in zip((moved, there), optimizers, strict=True):
        problem.train(optimizer, steps=4)

    optimizers[0].set_rates(moved.random_rates(4), optimizer_state="transport")

    found, expected = (each.optimizer.state_dict()["state"] for each in optimizers)
    for index, entries in expected.items():
        for key, value in entries.items():
            if isinstance(value, Tensor) and key != "acc_delta":  # of Adadelta: made of steps
                torch.testing.assert_close(found[index][key], value, rtol=1e-9, atol=1e-12)


def test_rates_cross_a_saved_state_and_go() -> None:
    ours, other, plain = Problem(), Problem(), Problem()
    optimizer = ours.optimizer("Adam")
    assert "rates" not in optimizer.state_dict()
    optimizer.set_rates(ours.random_rates())
    ours.train(optimizer, steps=3)
    saved = copy.deepcopy(optimizer.state_dict())
    other.network.load_state_dict(copy.deepcopy(ours.network.state_dict()))
    again = other.optimizer("Adam")
    again.load_state_dict(saved)
    assert torch.equal(other.train(again), ours.train(optimizer))

    again.set_rates({})
    assert "rates" not in again.state_dict()
    plain.network.load_state_dict(copy.deepcopy(other.network.state_dict()))
    expected = plain.train(plain.optimizer("Adam"))
    torch.testing.assert_close(other.train(again), expected, rtol=1e-12, atol=0)


BAD: dict[str, tuple[Any, str]] = {
    "no mapping": (torch.ones(3), "mapping from names to tensors, got Tensor"),
    "an unknown name": ({"fc.weights": torch.ones(5, 8)}, "'fc.weights', which is no parameter.*fc.weight"),
    "a list": ({"fc.bias": [1.0]}, "got list"),
    "whole numbers": ({"fc.bias": torch.ones(5, dtype=torch.long)}, "got torch.int64"),
    "another shape": ({"fc.bias": torch.ones(4)}, r"shape \(4,\), expected \(5,\)"),
    "a missing axis": ({"fc.weight": torch.ones(8)}, r"shape \(8,\), expected \(5, 8\)"),
    "zero": ({"fc.bias": torch.zeros(5)}, "from 0.0e[+]00 to 0.0e[+]00; expected positive numbers"),
    "below zero": ({"fc.bias": -torch.ones(1)}, "expected positive numbers"),
    "no number": ({"fc.bias": torch.full((1,), torch.nan)}, "expected positive numbers"),
    "too large": (
        {"fc.bias": torch.full((1,), 1e200, dtype=torch.float64)},
        "with their squares in torch.float64",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_unusable_rates_are_refused_and_nothing_is_changed(case: str) -> None:
    rates, message = BAD[case]
    problem, plain = Problem(), Problem()
    optimizer = problem.optimizer("SGD momentum")
    with pytest.raises(TeleportationError, match=message):
        optimizer.set_rates(rates)
    with pytest.raises(TeleportationError, match=message):
        optimizer.load_state_dict({**optimizer.state_dict(), "rates": rates})
    assert torch.equal(problem.train(optimizer), plain.train(plain.optimizer("SGD momentum")))


def test_rates_of_sparse_gradients() -> None:
    embeddings = [nn.Embedding(6, 3, sparse=True) for _ in range(2)]
    embeddings[1].load_state_dict(embeddings[0].state_dict())
    rate = torch.rand(6, 3) + 0.5
    for constant in (False, True):
        r = rate.mean().view(1, 1) if constant else rate
        ours = TeleportedOptimizer(embeddings[0], Quiver(0, {}, ()), torch.optim.SGD, lr=0.1)
        ours.set_rates({"weight": r})
        for embedding in embeddings:
            embedding.zero_grad()
            embedding(torch.tensor([1, 4, 1])).square().sum().backward()
        with torch.no_grad():
            embeddings[1].weight -= 0.1 * r * embeddings[1].weight.grad.to_dense()  # type: ignore[union-attr]
        ours.step()
        torch.testing.assert_close(embeddings[0].weight, embeddings[1].weight)
