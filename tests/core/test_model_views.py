"""Both views of teleported networks that are unusual: shared modules, recomputation, several precisions."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import torchvision
from support.releases import needs_torch
from support.zoo.networks import Wired
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint, create_selective_checkpoint_contexts

from nteleport import TeleportableModel, TeleportedOptimizer, analyze, sample_cob, scales
from nteleport.errors import TeleportationError


def random_cob(size: int, seed: int = 1) -> Tensor:
    return sample_cob(size, 0.9, "inter_landscape", generator=torch.Generator().manual_seed(seed))


def perceptron(forward: Callable[..., Any], **parts: Any) -> nn.Module:
    torch.manual_seed(0)
    hidden = nn.Sequential(nn.Linear(8, 8), nn.ReLU())
    return Wired(forward, a=nn.Linear(4, 8), b=hidden, o=nn.Linear(8, 3), **parts).double()


def inputs(*shape: int) -> Tensor:
    return torch.randn(*(shape or (6, 4)), dtype=torch.float64, generator=torch.Generator().manual_seed(2))


class TestModulesUnderTwoNames:
    def network(self) -> nn.Module:
        network = perceptron(lambda n, x: n.o(n.layers[1](n.layers[0](x))))
        network.layers = nn.ModuleList([network.a, network.b])
        return network

    def test_every_forward_keeps_the_function(self) -> None:
        network, x = self.network(), inputs()
        expected = copy.deepcopy(network)(x)
        model = TeleportableModel(network, x)
        model.teleport(random_cob(model.cob_size))
        for _ in range(3):
            torch.testing.assert_close(model(x), expected, rtol=1e-12, atol=1e-12)

    def test_the_parameters_stay_in_their_slots(self) -> None:
        network, x = self.network(), inputs()
        before = [(name, id(p)) for name, p in network.named_parameters(remove_duplicate=False)]
        model = TeleportableModel(network, x)
        model.teleport(random_cob(model.cob_size))
        model(x)
        with pytest.raises(RuntimeError):
            model(inputs(6, 5))
        assert [(name, id(p)) for name, p in network.named_parameters(remove_duplicate=False)] == before


def gradients(
    network: nn.Module, x: Tensor, call: Callable[[Tensor], Any] | None = None
) -> dict[str, Tensor]:
    network.zero_grad()
    (call or network)(x).square().sum().backward()
    return {name: p.grad.clone() for name, p in network.named_parameters() if p.grad is not None}


class Recomputed(torch.autograd.Function):
    """A layer that keeps its input alone and runs again in the backward pass, as reversible networks do."""

    @staticmethod
    def forward(ctx: Any, layer: nn.Module, x: Tensor) -> Tensor:
        ctx.layer = layer
        ctx.save_for_backward(x)
        with torch.no_grad():
            return layer(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, Tensor]:
        x = ctx.saved_tensors[0].detach().requires_grad_()
        with torch.enable_grad():
            ctx.layer(x).backward(gradient)
        assert x.grad is not None
        return None, x.grad


CHECKPOINTED: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "non-reentrant": lambda n, x: n.o(checkpoint(n.b, n.a(x), use_reentrant=False)),
    "reentrant": lambda n, x: n.o(checkpoint(n.b, n.a(x), use_reentrant=True)),
    "one in another": lambda n, x: checkpoint(
        lambda h: n.o(checkpoint(n.b, n.a(h), use_reentrant=False)), x, use_reentrant=False
    ),
    "parameters read directly": lambda n, x: n.o(
        checkpoint(lambda h: F.linear(h, n.b[0].weight, n.b[0].bias).relu(), n.a(x), use_reentrant=False)
    ),
    "a weight used inside and outside": lambda n, x: n.o(n.b(checkpoint(n.b, n.a(x), use_reentrant=False))),
    "all parameters of a layer": lambda n, x: n.o(
        checkpoint(lambda h: F.linear(h, *n.b[0].parameters()).relu(), n.a(x), use_reentrant=False)
    ),
    "selective": lambda n, x: n.o(
        checkpoint(
            n.b,
            n.a(x),
            use_reentrant=False,
            context_fn=lambda: create_selective_checkpoint_contexts([torch.ops.aten.addmm.default]),
        )
    ),
    "an own autograd function": lambda n, x: n.o(Recomputed.apply(n.b, n.a(x))),
}


@pytest.mark.parametrize("forward", CHECKPOINTED.values(), ids=CHECKPOINTED)
def test_gradients_are_right_where_the_backward_pass_runs_forward_again(
    forward: Callable[[Any, Tensor], Tensor],
) -> None:
    network, x = perceptron(forward), inputs()
    quiver = analyze(perceptron(lambda n, x: n.o(n.b(n.b(n.a(x))))), x)
    expected = gradients(copy.deepcopy(network), x)
    model = TeleportableModel(network, x, quiver)
    cob = random_cob(model.cob_size).double()
    model.teleport(cob)
    scale = scales(model.quiver, cob)
    for _ in range(2):
        found = gradients(network, x, model)
        for name, gradient in expected.items():
            torch.testing.assert_close(found[name] * scale[name], gradient, rtol=1e-10, atol=1e-10)


def test_gradients_of_a_memory_efficient_densenet_are_right() -> None:
    torch.manual_seed(0)
    network = torchvision.models.DenseNet(4, (2, 2), 8, num_classes=3, memory_efficient=True).double()
    x = inputs(2, 3, 32, 32)
    expected = gradients(copy.deepcopy(network), x)
    model = TeleportableModel(network, x)
    cob = random_cob(model.cob_size).double()
    model.teleport(cob)
    found, scale = gradients(network, x, model), scales(model.quiver, cob)
    assert model.cob_size > 50
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name] * scale[name], gradient, rtol=1e-8, atol=1e-9)


def test_a_recurrent_layer_that_runs_again_is_refused() -> None:
    network = Wired(
        lambda n, x: n.o(checkpoint(n.l, n.a(x), use_reentrant=False)[0]),
        a=nn.Linear(4, 8),
        l=nn.LSTM(8, 8),
        o=nn.Linear(8, 3),
    ).double()
    x = inputs(5, 2, 4)
    model = TeleportableModel(network, x)
    model.teleport(random_cob(model.cob_size))
    with pytest.raises(TeleportationError, match=r"LSTM runs again .* train with TeleportedOptimizer"):
        model(x).sum().backward()


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda n: pickle.loads(pickle.dumps(n))])  # noqa: S301
def test_a_copy_of_the_network_is_a_plain_network(copied: Callable[[nn.Module], nn.Module]) -> None:
    network, x = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)).double(), inputs()
    model = TeleportableModel(network, x)
    model.teleport(random_cob(model.cob_size))
    model(x).sum().backward()
    twin = copied(network)
    assert type(twin[0]._parameters) is dict
    assert torch.equal(twin[0].weight, network[0].weight)


class TestRecurrent:
    @pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
    def test_teleported_weights_reach_the_recurrence_and_come_back(self, kind: type[nn.RNNBase]) -> None:
        torch.manual_seed(0)
        layer = kind(8, 5, num_layers=2, bidirectional=True)
        network = Wired(lambda n, x: n.o(n.l(n.a(x))[0]), a=nn.Linear(4, 8), l=layer, o=nn.Linear(10, 3))
        network, x = network.double(), inputs(7, 2, 4)
        expected, flat = network(x), list(layer._flat_weights)
        model = TeleportableModel(network, x)
        model.teleport(random_cob(model.cob_size))
        assert not torch.equal(network(x), expected)
        torch.testing.assert_close(model(x), expected, rtol=1e-12, atol=1e-12)
        assert all(a is b for a, b in zip(layer._flat_weights, flat, strict=True))


class TestDtypes:
    @pytest.mark.parametrize(
        ("first", "expected"),
        [
            (torch.arange(4), torch.float32),
            (torch.ones(4, dtype=torch.bool), torch.float32),
            (torch.ones(4, dtype=torch.bfloat16), torch.float32),
            (torch.ones(4, dtype=torch.complex64), torch.float32),
            (torch.ones(4, dtype=torch.complex128), torch.float64),
            (torch.ones(4, dtype=torch.float64), torch.float64),
        ],
    )
    def test_the_cob_has_the_widest_real_dtype(self, first: Tensor, expected: torch.dtype) -> None:
        network = Wired(
            lambda n, x: n.o(n.a(x).relu()) + 0 * n.c.to(torch.complex64).abs().sum(),
            c=nn.Parameter(first, requires_grad=False),
            a=nn.Linear(4, 8),
            o=nn.Linear(8, 3),
        )
        x = inputs().float()
        before = network(x)
        model = TeleportableModel(network, x)
        assert model.cob.dtype == expected
        start = network.a.weight.detach().clone()
        model.teleport(random_cob(model.cob_size))
        assert not torch.equal(network.a.weight, start)
        torch.testing.assert_close(model(x), before, rtol=1e-5, atol=1e-5)
        model.undo_teleportation()
        torch.testing.assert_close(network.a.weight, start, rtol=1e-6, atol=0)

    def mixed(self) -> nn.Module:
        torch.manual_seed(0)
        half = {"b": nn.Linear(8, 8).bfloat16(), "o": nn.Linear(8, 3).bfloat16()}
        return Wired(lambda n, x: n.o(n.b(n.a(x).relu().bfloat16()).relu()), a=nn.Linear(4, 8), **half)

    def test_a_network_of_two_precisions_keeps_its_function_and_its_dtypes(self) -> None:
        network, x = self.mixed(), inputs().float()
        expected, dtypes = network(x), [p.dtype for p in network.parameters()]
        model = TeleportableModel(network, x)
        model.teleport(random_cob(model.cob_size))
        found = model(x)
        assert found.dtype == torch.bfloat16
        torch.testing.assert_close(found, expected, rtol=0.02, atol=0.02)  # eps of bfloat16 is 0.008
        assert [p.dtype for p in network.parameters()] == dtypes

    @pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.Adam])
    def test_a_network_of_two_precisions_trains_as_its_model_does(self, optimizer: Any) -> None:
        fast, simple, x = self.mixed(), self.mixed(), inputs().float()
        quiver = analyze(fast, x)
        cob = random_cob(quiver.cob_size).abs()
        model = TeleportableModel(simple, x, quiver)
        model.teleport(cob)
        plain = optimizer(model.parameters(), lr=0.01)
        teleported = TeleportedOptimizer(fast, quiver, optimizer, lr=0.01)
        teleported.teleport(cob)
        for network, stepping in ((model, plain), (fast, teleported)):
            stepping.zero_grad()
            network(x).float().square().sum().backward()
            stepping.step()
        found = teleported.teleported_weights()
        for name, parameter in simple.named_parameters():
            assert found[name].dtype == parameter.dtype
            torch.testing.assert_close(found[name], parameter, rtol=0.02, atol=0.02)

    @pytest.mark.parametrize("view", ["model", "optimizer"])
    def test_a_scale_that_half_precision_cannot_hold_is_refused_by_name(self, view: str) -> None:
        network = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)).half()
        x = inputs().half()
        quiver = analyze(network, x)
        cob = torch.full((8,), 1e-5)  # its inverse is beyond 65504
        before = network[0].weight.detach().clone()
        moved = (
            TeleportableModel(network, x, quiver)
            if view == "model"
            else TeleportedOptimizer(network, quiver, torch.optim.SGD, lr=0.1)
        )
        with pytest.raises(TeleportationError, match=r"scale of 0\.weight .* torch\.float16"):
            moved.teleport(cob)
        assert torch.equal(network[0].weight, before)

    def test_an_entry_that_vanishes_in_the_dtype_in_use_is_refused(self) -> None:
        model = TeleportableModel(
            nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)), torch.ones(1, 4)
        )
        with pytest.raises(TeleportationError, match=r"entry 0 .* is 1e-60; .* torch\.float32"):
            model.teleport(torch.full((8,), 1e-60, dtype=torch.float64))


def test_a_network_without_parameters_is_a_model() -> None:
    model = TeleportableModel(nn.Sequential(nn.ReLU(), nn.Flatten()), torch.ones(2, 3))
    model.random_teleport(0.9, "inter_landscape")
    assert torch.equal(model(-torch.ones(2, 3)), torch.zeros(2, 3))


def test_a_random_teleportation_is_drawn_around_its_center() -> None:
    network = nn.Sequential(nn.Linear(4, 400), nn.ReLU(), nn.Linear(400, 3)).double()
    x = torch.ones(2, 4, dtype=torch.float64)
    expected = network(x)
    model = TeleportableModel(network, x)
    model.random_teleport(0.5, "centered", center=3.0, generator=torch.Generator().manual_seed(0))
    assert 2.5 <= model.cob.min() < 2.6
    assert 3.4 < model.cob.max() <= 3.5
    torch.testing.assert_close(model(x), expected)


def test_a_center_within_the_range_of_zero_is_refused() -> None:
    model = TeleportableModel(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)), torch.ones(1, 4))
    with pytest.raises(TeleportationError, match="centered"):
        model.random_teleport(0.5, "centered", center=0.25)


class TestKeywords:
    def test_a_model_of_keyword_arguments(self) -> None:
        network = perceptron(lambda n, x: n.o(n.b(n.a(x))))
        network.forward = lambda *, x: network.o(network.b(network.a(x)))  # type: ignore[method-assign]
        model = TeleportableModel(network, {"x": inputs()})
        assert (model.example_inputs, list(model.example_kwargs)) == ((), ["x"])
        expected = network(x=inputs())
        model.teleport(random_cob(model.cob_size))
        torch.testing.assert_close(model(x=inputs()), expected, rtol=1e-12, atol=1e-12)

    def test_gradients_take_keyword_arguments(self) -> None:
        network = perceptron(lambda n, x: n.o(n.b(n.a(x))))
        model, x, y = TeleportableModel(network, inputs()), inputs(), torch.arange(6) % 3
        expected = model.gradient_vector(x, y, F.cross_entropy)
        network.forward = lambda *, x: network.o(network.b(network.a(x)))  # type: ignore[method-assign]
        assert torch.equal(model.gradient_vector({"x": x}, y, F.cross_entropy), expected)


class TestSparseGradients:
    def network(self) -> nn.Module:
        torch.manual_seed(0)
        parts = {"e": nn.Embedding(20, 8, sparse=True), "o": nn.Linear(8, 3)}
        return Wired(lambda n, t: n.o(n.e(t).mean(1)), **parts).double()

    @pytest.mark.parametrize(
        ("optimizer", "options"),
        [
            (torch.optim.SGD, {"lr": 0.1}),
            (torch.optim.SGD, {"lr": 0.1, "momentum": 0.9}),
            (torch.optim.Adagrad, {}),
        ],
    )
    def test_both_views_train_alike(self, optimizer: Any, options: dict[str, Any]) -> None:
        fast, simple = self.network(), self.network()
        tokens = torch.tensor([[1, 2, 2], [4, 1, 19]])
        quiver = analyze(fast, tokens)
        cob = random_cob(quiver.cob_size).double()
        model = TeleportableModel(simple, tokens, quiver)
        model.teleport(cob)
        plain = optimizer(model.parameters(), **options)
        teleported = TeleportedOptimizer(fast, quiver, optimizer, **options)
        teleported.teleport(cob)
        for _ in range(3):
            for network, stepping in ((model, plain), (fast, teleported)):
                stepping.zero_grad()
                network(tokens).square().sum().backward()
                stepping.step()
        for name, weights in teleported.teleported_weights().items():
            torch.testing.assert_close(weights, simple.get_parameter(name), rtol=1e-9, atol=1e-10)

    @needs_torch("2.9")
    def test_an_embedding_that_renormalizes_itself_trains_alike(self) -> None:
        networks = []
        for _ in range(2):
            torch.manual_seed(0)
            parts = {"e": nn.Embedding(20, 8, max_norm=1.0), "a": nn.Linear(8, 5), "o": nn.Linear(5, 3)}
            networks.append(Wired(lambda n, t: n.o(n.a(n.e(t).mean(1)).relu()), **parts).double())
        tokens = torch.tensor([[1, 2, 2], [4, 1, 19]])
        quiver = analyze(networks[0], tokens)
        assert quiver.parameters["e.weight"].status == "untouched"
        assert "in place" in quiver.parameters["e.weight"].reason
        cob = random_cob(quiver.cob_size).double()
        model = TeleportableModel(networks[1], tokens, quiver)
        model.teleport(cob)
        plain = torch.optim.SGD(model.parameters(), lr=0.5)
        teleported = TeleportedOptimizer(networks[0], quiver, torch.optim.SGD, lr=0.5)
        teleported.teleport(cob)
        for _ in range(3):
            for network, stepping in ((model, plain), (networks[0], teleported)):
                stepping.zero_grad()
                network(tokens).square().sum().backward()
                stepping.step()
        for name, weights in teleported.teleported_weights().items():
            torch.testing.assert_close(weights, networks[1].get_parameter(name), rtol=1e-9, atol=1e-10)


def test_a_network_that_is_frozen_has_no_optimizer() -> None:
    network = nn.Linear(4, 3).requires_grad_(False)
    with pytest.raises(TeleportationError, match="no parameter of Linear requires a gradient"):
        TeleportedOptimizer(network, analyze(network, torch.ones(1, 4)), torch.optim.SGD, lr=0.1)


def test_a_compiled_model_keeps_the_function() -> None:
    model = TeleportableModel(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)).double(), inputs())
    expected = model(inputs())
    model.teleport(random_cob(model.cob_size))
    compiled = torch.compile(model, backend="eager")
    torch.testing.assert_close(compiled(inputs()), expected, rtol=1e-12, atol=1e-12)
