"""Teleported training by an optimizer that the user built, in the loops in which people train."""

from __future__ import annotations

import copy
import gc
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from support.precision import double
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounter
from torch.optim import Optimizer
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from nteleport import Quiver, TeleportableModel, analyze, attach, sample_cob
from nteleport.core.attachment import Attachment
from nteleport.errors import TeleportationError

X = torch.linspace(-1, 1, 48, dtype=torch.float64).reshape(16, 3)
Y = torch.arange(16) % 4
_Groups = Callable[[nn.Module], list[dict[str, Any]]]


def network() -> nn.Sequential:
    torch.manual_seed(0)
    layers = [nn.Linear(3, 8), nn.ReLU(), nn.LayerNorm(8), nn.Linear(8, 6), nn.Tanh(), nn.Linear(6, 4)]
    return nn.Sequential(*layers).double()


@pytest.fixture(scope="module")
def quiver() -> Quiver:
    return analyze(network(), X)


_double = pytest.fixture(autouse=True)(double)


def cob_of(quiver: Quiver, seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return sample_cob(quiver.cob_size, 0.8, "inter_landscape", generator=generator).double()


def decayed_and_rest(module: nn.Module) -> list[dict[str, Any]]:
    """The parameter groups of most training scripts, and a layer with a rate of its own."""
    named = dict(module.named_parameters())
    last = [p for name, p in named.items() if name.startswith(("5.", "network.5."))]
    others = [p for p in named.values() if not any(p is each for each in last)]
    return [
        {"params": [p for p in others if p.dim() > 1], "weight_decay": 0.1},
        {"params": [p for p in others if p.dim() == 1], "weight_decay": 0.0},
        {"params": last, "lr": 3e-3},
    ]


OPTIMIZERS: dict[str, Callable[[nn.Module], Optimizer]] = {
    "SGD": lambda m: torch.optim.SGD(decayed_and_rest(m), lr=0.05, momentum=0.9, nesterov=True),
    "AdamW": lambda m: torch.optim.AdamW(decayed_and_rest(m), lr=0.01),
    "AdamW for-each": lambda m: torch.optim.AdamW(decayed_and_rest(m), lr=0.01, foreach=True),
    "AdamW fused": lambda m: torch.optim.AdamW(decayed_and_rest(m), lr=0.01, fused=True),
    "RMSprop": lambda m: torch.optim.RMSprop(decayed_and_rest(m), lr=0.01, momentum=0.9),
}
each_optimizer = pytest.mark.parametrize("name", OPTIMIZERS)


def loss_of(module: nn.Module) -> Tensor:
    return F.cross_entropy(module(X.to(next(module.parameters()).dtype)), Y)


def train(module: nn.Module, optimizer: Optimizer, steps: int = 5) -> list[float]:
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = loss_of(module)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


class Pair:
    """The same training twice: attached, and by a plain optimizer of the teleported network."""

    def __init__(self, quiver: Quiver, make: Callable[[nn.Module], Optimizer], seed: int | None = 1) -> None:
        self.quiver, self.network = quiver, network()
        self.optimizer = make(self.network)
        self.attached = attach(self.optimizer, self.network, quiver)
        self.model = TeleportableModel(network(), X, quiver)
        self.plain = make(self.model)
        if seed is not None:
            self.teleport(seed)

    def teleport(self, seed: int) -> None:
        self.attached.teleport(cob_of(self.quiver, seed), optimizer_state="keep")
        self.model.teleport(cob_of(self.quiver, seed))

    def assert_same(self, tolerance: float = 1e-10) -> None:
        expected = {name: p.detach() for name, p in self.model.network.named_parameters()}
        found = self.attached.teleported_weights()
        assert found.keys() == expected.keys()
        for name, weight in expected.items():
            torch.testing.assert_close(found[name], weight, rtol=tolerance, atol=tolerance, msg=name)
        torch.testing.assert_close(self.network(X), self.model(X), rtol=1e-8, atol=tolerance)


@each_optimizer
def test_parameter_groups_train_as_those_of_the_teleported_network(name: str, quiver: Quiver) -> None:
    pair = Pair(quiver, OPTIMIZERS[name])
    torch.testing.assert_close(train(pair.network, pair.optimizer), train(pair.model, pair.plain))
    pair.assert_same()
    pair.teleport(2)
    train(pair.network, pair.optimizer)
    train(pair.model, pair.plain)
    pair.assert_same(1e-9)


@each_optimizer
def test_until_it_teleports_no_bit_changes(name: str, quiver: Quiver) -> None:
    plain, attached = network(), network()
    optimizer = OPTIMIZERS[name](attached)
    attach(optimizer, attached, quiver)
    assert train(attached, optimizer) == train(plain, OPTIMIZERS[name](plain))
    assert all(torch.equal(a, b) for a, b in zip(attached.parameters(), plain.parameters(), strict=True))


@each_optimizer
def test_detached_it_is_the_plain_optimizer_again(name: str, quiver: Quiver) -> None:
    """With its state where it would be had every step been taken at the CoB 1: learning rate 0."""
    plain, attached = network(), network()
    optimizers = [OPTIMIZERS[name](each) for each in (plain, attached)]
    rates = [[group["lr"] for group in optimizer.param_groups] for optimizer in optimizers]
    attachment = attach(optimizers[1], attached, quiver)
    attachment.teleport(cob_of(quiver))
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = group["weight_decay"] = 0.0
            group["eps"] = 1e-30  # what keeps a division finite has no scale to move with
    for module, optimizer in zip((plain, attached), optimizers, strict=True):
        train(module, optimizer, 3)
    attachment.detach()
    for optimizer, before in zip(optimizers, rates, strict=True):
        for group, rate in zip(optimizer.param_groups, before, strict=True):
            group["lr"] = rate
    expected = train(plain, optimizers[0])
    torch.testing.assert_close(train(attached, optimizers[1]), expected, rtol=1e-8, atol=1e-10)
    attach(optimizers[1], attached, quiver)  # nothing of the first is left


def test_parameters_that_are_not_the_networks_step_as_usual(quiver: Quiver) -> None:
    temperatures = [nn.Parameter(torch.tensor(2.0)) for _ in range(2)]
    modules = [network() for _ in temperatures]
    optimizers = [
        torch.optim.AdamW([{"params": [t]}, {"params": list(m.parameters()), "lr": 0.0}], lr=0.1)
        for t, m in zip(temperatures, modules, strict=True)
    ]
    attach(optimizers[0], modules[0], quiver).teleport(cob_of(quiver))
    for temperature, module, optimizer in zip(temperatures, modules, optimizers, strict=True):
        for group in optimizer.param_groups:
            group["weight_decay"] = 0.0
        for _ in range(3):
            optimizer.zero_grad()
            F.cross_entropy(module(X) / temperature, Y).backward()
            optimizer.step()
    torch.testing.assert_close(temperatures[0], temperatures[1], rtol=1e-10, atol=1e-12)


def test_frozen_parameters_stay_and_train_once_thawed(quiver: Quiver) -> None:
    def make(module: nn.Module) -> Optimizer:
        return torch.optim.AdamW(module.parameters(), lr=0.01)

    pair = Pair(quiver, make)
    frozen = [pair.network[0].weight, dict(pair.model.named_parameters())["network.0.weight"]]
    for parameter in frozen:
        parameter.requires_grad_(False)
    before = [parameter.detach().clone() for parameter in frozen]
    train(pair.network, pair.optimizer)
    train(pair.model, pair.plain)
    pair.assert_same()
    torch.testing.assert_close(
        frozen[0].detach(), before[0], rtol=1e-14, atol=0
    )  # written back, rounded once
    torch.testing.assert_close(frozen[1].detach(), before[1], rtol=0, atol=0)
    for parameter in frozen:
        parameter.requires_grad_(True)
    train(pair.network, pair.optimizer)
    train(pair.model, pair.plain)
    pair.assert_same()


def test_schedulers_and_saved_states_see_an_ordinary_optimizer(quiver: Quiver) -> None:
    pair = Pair(quiver, OPTIMIZERS["AdamW"])
    schedulers = [
        torch.optim.lr_scheduler.OneCycleLR(each, 0.02, total_steps=8)
        for each in (pair.optimizer, pair.plain)
    ]
    for _ in range(6):
        train(pair.network, pair.optimizer, 1)
        train(pair.model, pair.plain, 1)
        for scheduler in schedulers:
            scheduler.step()
    pair.assert_same()
    saved, expected = pair.optimizer.state_dict(), pair.plain.state_dict()
    assert saved["param_groups"] == expected["param_groups"]
    for index, entries in expected["state"].items():
        for key, value in entries.items():
            torch.testing.assert_close(saved["state"][index][key], value, rtol=1e-9, atol=1e-12)


@each_optimizer
def test_a_saved_attachment_resumes_bit_for_bit(name: str, quiver: Quiver) -> None:
    module = network()
    optimizer = OPTIMIZERS[name](module)
    attached = attach(optimizer, module, quiver)
    attached.teleport(cob_of(quiver))
    train(module, optimizer)
    saved = copy.deepcopy({"network": module.state_dict(), "attachment": attached.state_dict()})
    expected = train(module, optimizer)
    again = network()
    resumed = OPTIMIZERS[name](again)
    attachment = attach(resumed, again, quiver)
    again.load_state_dict(saved["network"])
    attachment.load_state_dict(saved["attachment"])
    assert train(again, resumed) == expected
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), module.parameters(), strict=True))


def test_gradients_accumulate_over_batches(quiver: Quiver) -> None:
    pair = Pair(quiver, OPTIMIZERS["AdamW"])
    for module, optimizer in ((pair.network, pair.optimizer), (pair.model, pair.plain)):
        for _ in range(3):
            optimizer.zero_grad()
            for part in range(4):
                (F.cross_entropy(module(X[part::4]), Y[part::4]) / 4).backward()
            optimizer.step()
    pair.assert_same()


def test_a_closure_is_evaluated_at_the_plain_weights(quiver: Quiver) -> None:
    pair = Pair(quiver, lambda module: torch.optim.LBFGS(module.parameters(), lr=0.1, max_iter=5))

    def closure_of(module: nn.Module, optimizer: Optimizer) -> Callable[[], Tensor]:
        def closure() -> Tensor:
            optimizer.zero_grad()
            loss = loss_of(module)
            loss.backward()
            return loss

        return closure

    for _ in range(3):
        found = pair.optimizer.step(closure_of(pair.network, pair.optimizer))
        expected = pair.plain.step(closure=closure_of(pair.model, pair.plain))
        torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-10)
    pair.assert_same(1e-7)


@pytest.mark.parametrize("fused", [False, True])
def test_a_gradient_scaler_scales_and_skips(fused: bool, quiver: Quiver) -> None:
    def make(module: nn.Module) -> Optimizer:
        return torch.optim.AdamW(module.parameters(), lr=0.01, fused=fused)

    pair = Pair(quiver, make)
    for module, optimizer in ((pair.network, pair.optimizer), (pair.model, pair.plain)):
        scaler = torch.amp.GradScaler(X.device.type, init_scale=1024.0, growth_interval=2)
        for step in range(6):
            optimizer.zero_grad()
            loss = loss_of(module) * (torch.inf if step == 2 else 1.0)  # skipped
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
        assert scaler.get_scale() == 2048.0  # grown twice, and halved once
    pair.assert_same()


def test_autocast_trains_as_plain_pytorch_with_its_rates(quiver: Quiver) -> None:
    """For SGD a step in teleported coordinates is one with gradients times 1 / s²."""
    modules = [network().float() for _ in range(2)]
    optimizers = [torch.optim.SGD(module.parameters(), lr=0.05, momentum=0.9) for module in modules]
    attached = attach(optimizers[0], modules[0], quiver)
    attached.teleport(cob_of(quiver))
    rates = {name: scale.pow(-2) for name, scale in attached.scales().items()}
    for _ in range(5):
        for module, optimizer in zip(modules, optimizers, strict=True):
            optimizer.zero_grad()
            with torch.autocast(X.device.type, dtype=torch.bfloat16):
                loss = F.cross_entropy(module(X.float()), Y)
            loss.backward()
            if module is modules[1]:
                for name, parameter in module.named_parameters():
                    assert parameter.grad is not None
                    parameter.grad.mul_(rates[name])
            optimizer.step()
    for a, b in zip(modules[0].parameters(), modules[1].parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


@each_optimizer
def test_clipping_sees_the_teleported_gradients(name: str, quiver: Quiver) -> None:
    pair = Pair(quiver, OPTIMIZERS[name])
    norms = []
    for _ in range(5):
        for module, optimizer in ((pair.network, pair.optimizer), (pair.model, pair.plain)):
            optimizer.zero_grad()
            loss_of(module).backward()
        found = pair.attached.clip_grad_norm_(0.1)
        norms.append(nn.utils.clip_grad_norm_(pair.model.parameters(), 0.1))
        torch.testing.assert_close(found, norms[-1], rtol=1e-9, atol=0)
        pair.optimizer.step()
        pair.plain.step()
    assert min(norms) > 0.1
    pair.assert_same()


def test_averages_are_of_the_plain_weights(quiver: Quiver) -> None:
    module = network()
    optimizer = OPTIMIZERS["AdamW"](module)
    attach(optimizer, module, quiver).teleport(cob_of(quiver))
    averages = [AveragedModel(module), AveragedModel(module, multi_avg_fn=get_ema_multi_avg_fn(0.9))]
    seen = []
    for _ in range(4):
        train(module, optimizer, 1)
        seen.append([p.detach().clone() for p in module.parameters()])
        for average in averages:
            average.update_parameters(module)
    ema = seen[0]
    for weights in seen[1:]:
        ema = [0.9 * a + 0.1 * b for a, b in zip(ema, weights, strict=True)]
    expected = [[torch.stack(each).mean(0) for each in zip(*seen, strict=True)], ema]
    for average, weights in zip(averages, expected, strict=True):
        for a, b in zip(average.module.parameters(), weights, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-14)


def test_compiled_models_and_steps_are_compiled_once(quiver: Quiver) -> None:
    counts = [CompileCounter() for _ in range(2)]
    module, plain = network(), network()
    compiled = torch.compile(module, backend=counts[0])
    optimizer = torch.optim.AdamW(module.parameters(), lr=torch.tensor(0.01))
    attached = attach(optimizer, compiled, quiver)
    step = torch.compile(optimizer.step, backend=counts[1])
    theirs = torch.optim.AdamW(plain.parameters(), lr=torch.tensor(0.01))
    reference = attach(theirs, plain, quiver)
    for seed in (1, 2):
        attached.teleport(cob_of(quiver, seed), optimizer_state="transport")
        reference.teleport(cob_of(quiver, seed), optimizer_state="transport")
        for _ in range(3):
            optimizer.zero_grad()
            F.cross_entropy(compiled(X), Y).backward()
            step()
        train(plain, theirs, 3)
    assert [count.frame_count for count in counts] == [1, 1]
    for a, b in zip(module.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


def test_the_layout_of_weights_in_memory_stays() -> None:
    def make() -> nn.Sequential:
        torch.manual_seed(0)
        return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 3)).to(
            memory_format=torch.channels_last
        )

    images = torch.randn(2, 3, 8, 8)
    module = make()
    quiver = analyze(module, images)
    optimizer = torch.optim.AdamW(module.parameters(), lr=0.01, fused=True)
    attach(optimizer, module, quiver).teleport(cob_of(quiver))
    model = TeleportableModel(make(), images, quiver)
    model.teleport(cob_of(quiver))
    plain = torch.optim.AdamW(model.parameters(), lr=0.01)
    for stepped, stepping in ((module, optimizer), (model, plain)):
        for _ in range(3):
            stepping.zero_grad()
            stepped(images.to(memory_format=torch.channels_last)).square().mean().backward()
            stepping.step()
    assert all(
        p.is_contiguous(memory_format=torch.channels_last) for p in module.parameters() if p.dim() == 4
    )
    torch.testing.assert_close(module(images), model(images), rtol=1e-10, atol=1e-12)


def test_activations_may_be_computed_again_in_the_backward_pass(quiver: Quiver) -> None:
    pair = Pair(quiver, OPTIMIZERS["AdamW"])
    for _ in range(3):
        pair.optimizer.zero_grad()
        logits = torch.utils.checkpoint.checkpoint_sequential(
            pair.network, 2, X.requires_grad_(), use_reentrant=False
        )
        F.cross_entropy(logits, Y).backward()
        pair.optimizer.step()
    train(pair.model, pair.plain, 3)
    X.requires_grad_(False)
    pair.assert_same()


def test_parameters_that_join_or_leave_after_attaching_are_refused(quiver: Quiver) -> None:
    def attached() -> tuple[nn.Module, Optimizer]:
        module = network()
        optimizer = OPTIMIZERS["AdamW"](module)
        attach(optimizer, module, quiver).teleport(cob_of(quiver))
        loss_of(module).backward()
        return module, optimizer

    _, optimizer = attached()
    optimizer.add_param_group({"params": [nn.Parameter(torch.zeros(2))]})
    with pytest.raises(
        TeleportationError, match="AdamW were added, removed or replaced after it was attached"
    ):
        optimizer.step()
    _, optimizer = attached()
    optimizer.param_groups[0]["params"].pop()
    with pytest.raises(TeleportationError, match="added, removed or replaced"):
        optimizer.step()
    module, optimizer = attached()
    module.load_state_dict(network().state_dict(), assign=True)
    optimizer.zero_grad()
    loss_of(module).backward()
    with pytest.raises(TeleportationError, match=r"parameter 0\.weight of the network was replaced"):
        optimizer.step()


def test_what_does_not_belong_together_is_refused(quiver: Quiver) -> None:
    module = network()
    optimizer = OPTIMIZERS["SGD"](module)
    with pytest.raises(TeleportationError, match="SGD trains no parameter of this Sequential"):
        attach(optimizer, network(), quiver)
    with pytest.raises(TeleportationError):
        attach(torch.optim.SGD(nn.Linear(3, 2).parameters(), lr=0.1), nn.Linear(3, 2), quiver)
    attach(optimizer, module, quiver)
    with pytest.raises(
        TeleportationError, match="this SGD is attached to a network already: detach it first"
    ):
        attach(optimizer, module, quiver)


def test_a_step_that_fails_leaves_the_plain_weights_when_the_next_begins(quiver: Quiver) -> None:
    module = network()
    optimizer = OPTIMIZERS["AdamW"](module)
    attach(optimizer, module, quiver).teleport(cob_of(quiver))
    before = [p.detach().clone() for p in module.parameters()]
    loss_of(module).backward()
    optimizer.param_groups[0]["lr"] = None
    with pytest.raises(TypeError):
        optimizer.step()
    optimizer.param_groups[0]["lr"] = 0.0
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    optimizer.zero_grad()
    optimizer.step()
    for parameter, weight in zip(module.parameters(), before, strict=True):
        torch.testing.assert_close(parameter.detach(), weight, rtol=1e-14, atol=0)


def test_an_attached_optimizer_is_freed_with_its_network(quiver: Quiver) -> None:
    module = network()
    optimizer = OPTIMIZERS["AdamW"](module)
    attached: Attachment | None = attach(optimizer, module, quiver)
    watched = weakref.ref(attached)
    del attached, optimizer, module
    gc.collect()
    assert watched() is None
