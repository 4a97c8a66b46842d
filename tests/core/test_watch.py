"""Weights that are written into a network between two steps of its optimizer are trained from there."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from nteleport import TeleportableModel, TeleportedOptimizer, analyze, sample_cob
from nteleport.core.watch import Watch
from nteleport.errors import TeleportationError

X = torch.linspace(-1, 1, 12, dtype=torch.float64).reshape(4, 3)
Y = torch.tensor([0, 1, 2, 0])
OPTIMIZERS: dict[str, dict[str, Any]] = {
    "SGD": {"lr": 0.05, "momentum": 0.9},
    "Adam": {"lr": 0.01},
    "RMSprop": {"lr": 0.01},
    "LBFGS": {"lr": 0.1, "max_iter": 4},
}
each_optimizer = pytest.mark.parametrize("name", OPTIMIZERS)


def network(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3)).double()


QUIVER = analyze(network(), X)
COB = sample_cob(QUIVER.cob_size, 0.9, "inter_landscape", generator=torch.Generator().manual_seed(3)).double()


def fast(name: str, teleported: bool = True) -> TeleportedOptimizer:
    optimizer = TeleportedOptimizer(network(), QUIVER, getattr(torch.optim, name), **OPTIMIZERS[name])
    if teleported:
        optimizer.teleport(COB)
    return optimizer


def step(optimizer: Any, module: nn.Module, batches: int = 1) -> None:
    """A step with the gradients of some batches accumulated."""

    def closure() -> Tensor:
        optimizer.zero_grad()
        for part in range(batches):
            loss = nn.functional.cross_entropy(module(X * (part + 1)), Y)
            loss.backward()
        return loss

    if isinstance(getattr(optimizer, "optimizer", optimizer), torch.optim.LBFGS):
        optimizer.step(closure)
    else:
        closure()
        optimizer.step()


def load(module: nn.Module) -> None:
    module.load_state_dict(network(1).state_dict())


def copy_each(module: nn.Module) -> None:
    with torch.no_grad():
        for parameter, other in zip(module.parameters(), network(1).parameters(), strict=True):
            parameter.copy_(other)


def copy_one(module: nn.Module) -> None:
    with torch.no_grad():
        module[2].weight.copy_(network(1)[2].weight)  # type: ignore[index,operator]


def edit(module: nn.Module) -> None:
    with torch.no_grad():
        module[2].weight[0] *= 2  # type: ignore[index,operator]


def set_data(module: nn.Module) -> None:
    module[0].bias.data = torch.full((5,), 0.3, dtype=torch.float64)  # type: ignore[index]


def from_vector(module: nn.Module) -> None:
    vector_to_parameters(parameters_to_vector(network(1).parameters()).detach(), module.parameters())


@each_optimizer
@pytest.mark.parametrize("write", [load, copy_each, copy_one, edit, set_data, from_vector])
@pytest.mark.parametrize("teleported", [True, False], ids=["teleported", "plain"])
def test_training_goes_on_from_weights_written_into_the_network(
    name: str, write: Callable[[nn.Module], None], teleported: bool
) -> None:
    optimizer, simple = fast(name, teleported), network()
    model = TeleportableModel(simple, X, QUIVER)
    if teleported:
        model.teleport(COB)
    plain = getattr(torch.optim, name)(model.parameters(), **OPTIMIZERS[name])
    for round_ in range(4):
        if round_ == 2:
            write(optimizer.network)
            # The same write to the weights at the CoB 1, carried over to the teleported ones.
            at_one = copy.deepcopy(simple)
            view = TeleportableModel(at_one, X, QUIVER)
            view.load_position(model.weight_vector(), model.cob)
            view.undo_teleportation()
            write(at_one)
            view = TeleportableModel(at_one, X, QUIVER)
            view.teleport(model.cob)
            model.load_weight_vector(view.weight_vector())
        step(optimizer, optimizer.network)
        step(plain, model)
    torch.testing.assert_close(optimizer.network(X), model(X), rtol=1e-8, atol=1e-10)
    found = parameters_to_vector(list(optimizer.teleported_weights().values()))
    torch.testing.assert_close(found, model.weight_vector(), rtol=1e-8, atol=1e-10)


@each_optimizer
@pytest.mark.parametrize("teleported", [True, False], ids=["teleported", "plain"])
def test_ordinary_training_adopts_nothing(
    name: str, teleported: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the watch, every step takes the weights that the last one left: it must change no bit."""
    trained = []
    for watched in (False, True):
        with monkeypatch.context() as patch:
            if not watched:
                patch.setattr(Watch, "changed", lambda *_, **__: [])
            optimizer = fast(name, teleported)
            adopted: list[list[str]] = []
            patch.setattr(optimizer, "_adopt", adopted.append)
            for batches in (1, 3, 2):
                step(optimizer, optimizer.network, batches)
                optimizer.teleported_weights()
            assert adopted == []
            trained.append([p.detach().clone() for p in optimizer.network.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*trained, strict=True))


@pytest.mark.parametrize("name", ["SGD", "Adam"])
@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda o: pickle.loads(pickle.dumps(o))])  # noqa: S301
def test_a_copy_trains_on_bit_for_bit(name: str, duplicate: Callable[[Any], Any]) -> None:
    optimizer = fast(name)
    step(optimizer, optimizer.network)
    other = duplicate(optimizer)
    for each in (optimizer, other):
        step(each, each.network)
    for a, b in zip(optimizer.network.parameters(), other.network.parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_copy_remembers_what_was_written() -> None:
    optimizer = fast("Adam")
    load(optimizer.network)
    other = copy.deepcopy(optimizer)
    expected = optimizer.teleported_weights()
    assert all(torch.equal(other.teleported_weights()[name], expected[name]) for name in expected)


def test_a_saved_state_has_the_weights_that_were_written() -> None:
    optimizer = fast("Adam")
    load(optimizer.network)
    saved, fresh = optimizer.state_dict(), fast("Adam")
    load(fresh.network)
    fresh.load_state_dict(saved)
    for each in (optimizer, fresh):
        step(each, each.network)
    for a, b in zip(optimizer.network.parameters(), fresh.network.parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("name", ["SGD", "Adam"])
@pytest.mark.parametrize("teleported", [True, False])
def test_a_network_of_another_dtype_is_refused(name: str, teleported: bool) -> None:
    optimizer = fast(name, teleported)
    optimizer.network.float()
    nn.functional.cross_entropy(optimizer.network(X.float()), Y).backward()
    message = r"parameter 0\.weight is now torch\.float32 of shape \(5, 3\) on \S+, and was torch\.float64"
    for act in (optimizer.step, optimizer.reload_weights, lambda: optimizer.teleport(COB)):
        with pytest.raises(TeleportationError, match=message):
            act()


@pytest.mark.parametrize("name", ["SGD", "Adam"])
def test_a_network_whose_parameters_were_replaced_is_refused(name: str) -> None:
    optimizer = fast(name)
    optimizer.network.load_state_dict(network(1).state_dict(), assign=True)
    nn.functional.cross_entropy(optimizer.network(X), Y).backward()
    for act in (optimizer.step, optimizer.reload_weights, lambda: optimizer.teleport(COB)):
        with pytest.raises(TeleportationError, match=r"parameter 0\.weight of the network was replaced"):
            act()


def test_a_step_reads_no_value_of_a_parameter(monkeypatch: pytest.MonkeyPatch) -> None:
    optimizer = fast("Adam")
    load(optimizer.network)
    nn.functional.cross_entropy(optimizer.network(X), Y).backward()
    for reading in ("item", "__bool__", "tolist", "cpu", "__float__"):
        monkeypatch.setattr(Tensor, reading, lambda *_, **__: pytest.fail("waits for the device"))
    optimizer._take_over_writes()
    optimizer._push_gradients()
    optimizer._write_back()
