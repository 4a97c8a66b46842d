"""Training through ``TeleportedOptimizer`` is training the teleported weights."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from support.optimizers import OPTIMIZERS
from support.precision import double
from support.zoo.reference import Residual
from torch import Tensor, nn
from torch.optim import Optimizer

from nteleport import Quiver, TeleportableModel, TeleportedOptimizer, analyze, sample_cob
from nteleport.errors import TeleportationError

STEPS = 10
each_optimizer = pytest.mark.parametrize("name", OPTIMIZERS)


_double = pytest.fixture(autouse=True)(double)


@cache
def quiver_of_the_problem() -> Quiver:
    return analyze(Residual(), torch.zeros(8, 3, 6, 6))


class Problem:
    """A small residual network, a batch, and a CoB; every instance starts the same."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.network = Residual()
        self.x, self.y = torch.randn(8, 3, 6, 6), torch.arange(8) % 5
        self.quiver = quiver_of_the_problem()

    def cob(self, seed: int = 1) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        return sample_cob(self.quiver.cob_size, 0.9, "inter_landscape", generator=generator).double()

    def optimizer(self, name: str) -> TeleportedOptimizer:
        optimizer_class, options = OPTIMIZERS[name]
        return TeleportedOptimizer(self.network, self.quiver, optimizer_class, **options)

    def train(self, optimizer: Any, network: nn.Module | None = None, steps: int = STEPS) -> Tensor:
        losses = []
        for _ in range(steps):
            optimizer.zero_grad()
            loss = F.cross_entropy((network or self.network)(self.x), self.y)
            loss.backward()
            optimizer.step()
            losses.append(loss.detach())
        return torch.stack(losses)


def assert_same(actual: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float = 1e-10) -> None:
    assert actual.keys() == expected.keys()
    for name in expected:
        torch.testing.assert_close(actual[name], expected[name], rtol=tolerance, atol=tolerance)


def named(network: nn.Module) -> dict[str, Tensor]:
    return {name: p.detach() for name, p in network.named_parameters()}


@each_optimizer
def test_ten_steps_equal_those_of_the_teleportable_model(name: str) -> None:
    fast, simple = Problem(), Problem()
    optimizer = fast.optimizer(name)
    optimizer.teleport(fast.cob())
    model = TeleportableModel(simple.network, simple.x, simple.quiver)
    model.teleport(simple.cob())
    optimizer_class, options = OPTIMIZERS[name]
    expected = simple.train(optimizer_class(model.parameters(), **options), model)
    torch.testing.assert_close(fast.train(optimizer), expected, rtol=1e-10, atol=1e-10)
    assert_same(optimizer.teleported_weights(), named(model.network))


@pytest.mark.parametrize("name", ["SGD momentum", "Adam"])
def test_large_weights_are_scaled_in_pieces(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = []
    for elements in (2**20, 20):  # one weight, of 8 × 6, has two factors that are multiplied one by one
        monkeypatch.setattr("nteleport.core.scaling._PIECE_ELEMENTS", elements)
        problem = Problem()
        optimizer = problem.optimizer(name)
        optimizer.teleport(problem.cob())
        problem.train(optimizer)
        weights.append(dict(problem.network.named_parameters()))
    assert all(torch.equal(weights[0][each], weights[1][each]) for each in weights[0])


@each_optimizer
def test_without_teleportation_it_is_the_torch_optimizer(name: str) -> None:
    wrapped, plain = Problem(), Problem()
    optimizer = wrapped.optimizer(name)
    hyper_parameters = optimizer.optimizer.defaults
    optimizer_class, options = OPTIMIZERS[name]
    fused = {"fused": True} if hyper_parameters.get("fused") else {}
    expected = plain.train(optimizer_class(plain.network.parameters(), **options, **fused))
    assert torch.equal(wrapped.train(optimizer), expected)
    assert all(torch.equal(p, named(plain.network)[n]) for n, p in named(wrapped.network).items())


@each_optimizer
def test_a_teleported_optimizer_sees_another_geometry(name: str) -> None:
    teleported, plain = Problem(), Problem()
    optimizer = teleported.optimizer(name)
    optimizer.teleport(teleported.cob())
    assert not torch.allclose(teleported.train(optimizer), plain.train(plain.optimizer(name)), rtol=1e-6)


@pytest.mark.parametrize(
    "name", [name for name in OPTIMIZERS if name != "Rprop"]
)  # it moves whatever its rate
def test_transport_carries_on_as_if_always_there(name: str) -> None:
    """The state after steps at one CoB, transported to another, is the state gathered at the other.

    The oracle gathers its state at the second CoB from the same sequence of networks: learning rate 0.
    """
    start, other = Problem(), Problem()
    moved, there = (_without_learning(p.optimizer(name)) for p in (start, other))
    moved.teleport(start.cob(1))
    there.teleport(other.cob(2))
    start.train(moved, steps=4)
    other.train(there, steps=4)
    moved.teleport(start.cob(2), optimizer_state="transport")
    state, expected = moved.optimizer.state_dict()["state"], there.optimizer.state_dict()["state"]
    for index, entries in expected.items():
        for key, value in entries.items():
            if (
                isinstance(value, Tensor) and key != "acc_delta"
            ):  # of Adadelta: made of steps, not of gradients
                torch.testing.assert_close(
                    state[index][key], value, rtol=1e-9, atol=1e-12, msg=f"{index} {key}"
                )


def _without_learning(optimizer: TeleportedOptimizer) -> TeleportedOptimizer:
    for group in optimizer.optimizer.param_groups:
        group["lr"] = 0.0
        group["weight_decay"] = 0.0
        if "eps" in group:
            group["eps"] = 1e-30  # what keeps a division finite has no scale to move with
    return optimizer


def test_transported_momentum_steps_like_the_moved_one_of_plain_pytorch() -> None:
    fast, simple = Problem(), Problem()
    optimizer = fast.optimizer("SGD momentum")
    model = TeleportableModel(simple.network, simple.x, simple.quiver)
    plain = torch.optim.SGD(model.parameters(), **OPTIMIZERS["SGD momentum"][1])
    for seed in (1, 2, 3):
        before = optimizer.scales()
        optimizer.teleport(fast.cob(seed), optimizer_state="transport")
        model.teleport(simple.cob(seed))
        for name, parameter in model.network.named_parameters():
            if parameter in plain.state:
                plain.state[parameter]["momentum_buffer"].mul_(before[name] / optimizer.scales()[name])
        expected = simple.train(plain, model, steps=4)
        torch.testing.assert_close(fast.train(optimizer, steps=4), expected, rtol=1e-9, atol=1e-10)
    assert_same(optimizer.teleported_weights(), named(model.network), 1e-9)


@pytest.mark.parametrize("name", ["SGD momentum", "Adam", "RMSprop"])
def test_keep_leaves_the_teleported_state_as_it_is(name: str) -> None:
    fast, simple = Problem(), Problem()
    optimizer = fast.optimizer(name)
    model = TeleportableModel(simple.network, simple.x, simple.quiver)
    plain = OPTIMIZERS[name][0](model.parameters(), **OPTIMIZERS[name][1])
    for seed in (1, 2):
        optimizer.teleport(fast.cob(seed), optimizer_state="keep")
        model.teleport(simple.cob(seed))
        expected = simple.train(plain, model, steps=4)
        torch.testing.assert_close(fast.train(optimizer, steps=4), expected, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("name", ["SGD momentum", "Adam", "Adagrad"])
def test_reset_starts_afresh_and_keeps_hyper_parameters(name: str) -> None:
    fast, simple = Problem(), Problem()
    optimizer = fast.optimizer(name)
    fast.train(optimizer, steps=3)
    optimizer.optimizer.param_groups[0]["lr"] = 0.003
    optimizer.teleport(fast.cob())
    simple.network.load_state_dict(fast.network.state_dict())
    model = TeleportableModel(simple.network, simple.x, simple.quiver)
    model.teleport(simple.cob())
    optimizer_class, options = OPTIMIZERS[name]
    expected = simple.train(optimizer_class(model.parameters(), **{**options, "lr": 0.003}), model)
    torch.testing.assert_close(fast.train(optimizer), expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("optimizer_class", [torch.optim.LBFGS, torch.optim.Adafactor])
def test_a_state_that_cannot_be_transported_is_refused(optimizer_class: type[Optimizer]) -> None:
    problem = Problem()
    optimizer = TeleportedOptimizer(problem.network, problem.quiver, optimizer_class)
    with pytest.raises(TeleportationError, match=f"{optimizer_class.__name__} cannot be transported"):
        optimizer.teleport(problem.cob(), optimizer_state="transport")
    assert (optimizer.cob == 1).all()


def test_an_unknown_policy_is_refused() -> None:
    problem = Problem()
    with pytest.raises(TeleportationError, match="reset, transport, keep; got 'forget'"):
        problem.optimizer("SGD").teleport(problem.cob(), optimizer_state="forget")


def test_a_closure_sees_the_plain_network_at_every_evaluation() -> None:
    fast, simple = Problem(), Problem()
    optimizer = TeleportedOptimizer(fast.network, fast.quiver, torch.optim.LBFGS, lr=0.1, max_iter=5)
    optimizer.teleport(fast.cob())
    model = TeleportableModel(simple.network, simple.x, simple.quiver)
    model.teleport(simple.cob())
    plain = torch.optim.LBFGS(model.parameters(), lr=0.1, max_iter=5)

    def closure_of(problem: Problem, network: nn.Module, stepping: Any) -> Any:
        def closure() -> Tensor:
            stepping.zero_grad()
            loss = F.cross_entropy(network(problem.x), problem.y)
            loss.backward()
            return loss

        return closure

    for _ in range(3):
        actual = optimizer.step(closure_of(fast, fast.network, optimizer))
        expected = plain.step(closure_of(simple, model, plain))
        torch.testing.assert_close(actual, expected, rtol=1e-8, atol=1e-10)
    assert_same(optimizer.teleported_weights(), named(model.network), 1e-7)


@pytest.mark.parametrize("name", ["SGD Nesterov", "Adam"])
def test_state_dict_resumes_byte_for_byte(name: str) -> None:
    whole, resumed = Problem(), Problem()
    optimizer = whole.optimizer(name)
    optimizer.teleport(whole.cob())
    whole.train(optimizer, steps=3)
    saved = {"network": whole.network.state_dict(), "optimizer": optimizer.state_dict()}
    saved = {key: _copied(value) for key, value in saved.items()}
    continued = whole.train(optimizer, steps=3)
    again = resumed.optimizer(name)
    resumed.network.load_state_dict(saved["network"])
    again.load_state_dict(saved["optimizer"])
    assert torch.equal(resumed.train(again, steps=3), continued)
    assert all(torch.equal(p, named(whole.network)[n]) for n, p in named(resumed.network).items())


def _copied(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.clone()
    if isinstance(value, dict):
        return {key: _copied(v) for key, v in value.items()}
    return [_copied(v) for v in value] if isinstance(value, list) else value


def test_schedulers_attach_and_survive_a_teleportation() -> None:
    problem = Problem()
    optimizer = problem.optimizer("SGD momentum")
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer.optimizer, step_size=1, gamma=0.5)
    problem.train(optimizer, steps=1)
    scheduler.step()
    optimizer.teleport(problem.cob())
    problem.train(optimizer, steps=1)
    scheduler.step()
    assert optimizer.optimizer.param_groups[0]["lr"] == 0.05 * 0.25


def test_frozen_parameters_stay() -> None:
    problem = Problem()
    problem.network.conv0.weight.requires_grad_(False)
    before = problem.network.conv0.weight.clone()
    optimizer = problem.optimizer("Adam")
    optimizer.teleport(problem.cob())
    problem.train(optimizer, steps=2)
    assert torch.equal(problem.network.conv0.weight, before)
    assert "conv0.weight" not in optimizer.teleported_weights()


@pytest.mark.parametrize("name", ["SGD", "Adam"])
def test_weights_written_from_outside_are_taken_over(name: str) -> None:
    problem = Problem()
    optimizer = problem.optimizer(name)
    optimizer.teleport(problem.cob())
    with torch.no_grad():
        problem.network.fc.weight.fill_(0.5)
    optimizer.reload_weights()
    expected = 0.5 * optimizer.scales()["fc.weight"]
    torch.testing.assert_close(optimizer.teleported_weights()["fc.weight"], expected)


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="this torch has no Muon")
def test_muon_trains_and_transports_matrices() -> None:
    networks = []
    for _ in range(2):
        torch.manual_seed(0)
        networks.append(nn.Sequential(nn.Linear(7, 6, bias=False), nn.Tanh(), nn.Linear(6, 5, bias=False)))
    x, y = torch.randn(8, 7), torch.arange(8) % 5
    optimizer = TeleportedOptimizer(networks[0], analyze(networks[0], x), torch.optim.Muon, lr=0.01)
    model = TeleportableModel(networks[1], x)
    plain = torch.optim.Muon(model.parameters(), lr=0.01)
    for sign in (1.0, -1.0):
        cob = sign * torch.linspace(0.5, 1.5, 6)
        before = optimizer.scales()
        optimizer.teleport(cob, optimizer_state="transport")
        model.teleport(cob)
        for name, parameter in model.network.named_parameters():
            if parameter in plain.state:
                plain.state[parameter]["momentum_buffer"].mul_(before[name] / optimizer.scales()[name])
        for network, stepping in ((networks[0], optimizer), (model, plain)):
            stepping.zero_grad()
            F.cross_entropy(network(x), y).backward()
            stepping.step()
    assert_same(optimizer.teleported_weights(), named(model.network), 1e-8)


@pytest.mark.parametrize("other", [nn.Linear(3, 2), nn.Sequential(nn.Linear(4, 5))], ids=["names", "shapes"])
def test_the_quiver_of_another_network_is_refused(other: nn.Module) -> None:
    quiver = analyze(nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 2)), torch.ones(1, 3))
    with pytest.raises(TeleportationError, match="expected the quiver of this network"):
        TeleportedOptimizer(other, quiver, torch.optim.SGD, lr=0.1)
