"""What Python does around the operators: control flow, sizes, hooks, buffers."""

from __future__ import annotations

import functools
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .constructs import (
    Construct,
    Made,
    Table,
    Wired,
    entry,
    linear,
    noise,
    sequences,
    two_layers,
    vectors,
    weight,
    whole,
)

CONTROL: Table = {
    "branch_on_shape": vectors(lambda n, h: n.even(h) if h.shape[1] % 2 == 0 else h, even=linear(8, 6)),
    "branch_on_training": vectors(
        lambda n, h: h + torch.relu(n.extra(h)) if n.training else h.cumsum(-1), extra=linear(8, 8)
    ),
    "noise_in_training": vectors(lambda n, h: h + torch.randn_like(h) if n.training else h),
    "numpy_noise_in_training": vectors(
        lambda n, h: h * torch.from_numpy(np.random.rand(8) > 0.3) if n.training else h, traced=(False,)
    ),
    "choice_by_random": vectors(lambda n, h: h.roll(1, 1) if random.random() < 2 else h),
    "loop": vectors(
        lambda n, h: functools.reduce(lambda z, layer: z + torch.relu(layer(z)), n.layers, h),
        layers=lambda: nn.ModuleList(nn.Linear(8, 8) for _ in range(3)),
    ),
    "assertion": vectors(lambda n, h: torch._assert(h.shape[0] == 4, "batch of four") or h),
    "cond": vectors(
        lambda n, h: torch.cond(h.sum() > 0, lambda z: torch.relu(n.a(z)), lambda z: n.b(z).tanh(), (h,)),
        a=linear(8, 8),
        b=linear(8, 8),
    ),
    "dense_connections": vectors(
        lambda n, h: functools.reduce(lambda z, layer: torch.cat([z, torch.relu(layer(z))], 1), n.layers, h),
        layers=lambda: nn.ModuleList(nn.Linear(8 + 2 * k, 2) for k in range(3)),
    ),
    "reversible": vectors(
        lambda n, h: (
            lambda a, b: (lambda y: torch.cat([y, b + torch.tanh(n.g(y))], 1))(a + torch.tanh(n.f(b)))
        )(*h.chunk(2, 1)),
        f=linear(4, 4),
        g=linear(4, 4),
    ),
    "vmap": sequences(lambda n, h: torch.vmap(lambda z: torch.tanh(n.mix(z)))(h), mix=linear(8, 8)),
}

SIZES: Table = {
    "mask": vectors(lambda n, h: h[h.detach().sum(1) > -9]),
    "mask_then_mean": vectors(lambda n, h: h[h[:, 0] > -9].mean(0, keepdim=True)),
    "nonzero": vectors(lambda n, h: h[(h[:, 0] > -9).nonzero().squeeze(1)]),
    "masked_select": vectors(lambda n, h: h + h.masked_select(h > 0).sum()),
    "repeat_interleave": vectors(lambda n, h: h.repeat_interleave(torch.tensor([1, 2, 0, 3]), 0)),
    "split_by_buffer": vectors(
        lambda n, h: torch.cat([torch.relu(piece) for piece in h.split(n.sizes.tolist())]),
        sizes=lambda: torch.tensor([1, 3]),
    ),
    "unique": vectors(lambda n, h: h + torch.unique(h > 0).shape[0]),
    "item": vectors(lambda n, h: h * n.factor.item(), factor=lambda: torch.tensor(3.0)),
}


def _hooked(hook: Callable[[Wired], Any]) -> Construct:
    """Two layers, and what a hook makes of them."""

    def make() -> Made:
        network = Wired(
            lambda n, x: n.last(torch.relu(n.first(x))), first=nn.Linear(7, 8), last=nn.Linear(8, 3)
        )
        hook(network)
        return network, torch.randn(4, 7)

    return Construct(make)


HOOKS: Table = {
    "changes_the_output": _hooked(lambda n: n.first.register_forward_hook(lambda m, x, y: torch.tanh(y) * 2)),
    "changes_the_input": _hooked(lambda n: n.last.register_forward_pre_hook(lambda m, x: (x[0].flip(1),))),
    "keeps_an_activation": _hooked(
        lambda n: n.first.register_forward_hook(lambda m, x, y: setattr(n, "_kept", y.detach()))
    ),
    "on_the_network": _hooked(lambda n: n.register_forward_hook(lambda m, x, y: (y, y.softmax(1)))),
    "on_gradients": _hooked(
        lambda n: n.first.register_full_backward_hook(
            lambda m, x, y: (2 * x[0],) if x[0] is not None else None
        )
    ),
    "on_a_parameter": _hooked(lambda n: n.last.weight.register_hook(lambda g: 3 * g)),
    "replaced_forward": _hooked(
        lambda n: setattr(n.first, "forward", functools.partial(F.linear, weight=n.first.weight))
    ),
}


class RegistersInForward(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(7, 8), nn.Linear(8, 3)
        self.register_buffer("positions", None, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        if self.positions is None:
            self.register_buffer("positions", torch.arange(8.0), persistent=False)
        return self.last(torch.relu(self.first(x)) + self.positions)


def _remembering(recall: Callable[[Wired, int], Tensor], memory: Callable[[], Any]) -> Construct:
    """Two layers between which something is added that the network computes in its first call alone."""

    def make() -> Made:
        network = Wired(
            lambda n, x: n.last(torch.relu(n.first(x)) + recall(n, 8)),
            first=nn.Linear(7, 8),
            last=nn.Linear(8, 3),
            memory=memory(),
        )
        return network, torch.randn(4, 7)

    return Construct(make)


def _recall_attribute(n: Wired, count: int) -> Tensor:
    if n.memory is None:
        n.memory = torch.arange(count) / count
    return n.memory


def _recall_by_size(n: Wired, count: int) -> Tensor:
    if count not in n.memory:
        n.memory[count] = torch.arange(count) / count
    return n.memory[count]


def _buffered(forward: Callable[..., Tensor], **parts: Any) -> Construct:
    """Two layers between which a buffer ``state`` of shape (8,) is read or written."""
    return vectors(forward, state=lambda: nn.Buffer(torch.zeros(8)), **parts)


STATES: Table = {
    "buffer_registered_in_forward": Construct(lambda: (RegistersInForward(), torch.randn(4, 7))),
    "memory_of_a_function": _remembering(
        lambda n, count: n.memory(count),
        lambda: functools.lru_cache(lambda count: torch.arange(count) / count),
    ),
    "memory_in_an_attribute": _remembering(_recall_attribute, lambda: None),
    "memory_in_a_mapping": _remembering(_recall_by_size, dict),
    "running_average_in_place": _buffered(
        lambda n, h: (n.state.mul_(0.9).add_(h.detach().mean(0)), h - n.state)[1]
    ),
    "running_average_copied": _buffered(
        lambda n, h: (n.state.copy_(0.9 * n.state + h.detach().mean(0)), h - n.state)[1]
    ),
    "running_average_assigned": _buffered(lambda n, h: h - _assign(n, 0.9 * n.state + h.detach().mean(0))),
    "counter": vectors(
        lambda n, h: (n.count.add_(1), h / n.count)[1],
        count=lambda: nn.Buffer(torch.ones((), dtype=torch.int64)),
    ),
    "queue": _buffered(
        lambda n, h: (n.state.copy_(torch.cat([n.state[1:], h.detach()[0, :1]])), h + n.state)[1]
    ),
    "frozen_layer": two_layers(
        lambda n, x: n.last(torch.relu(n.frozen(torch.relu(n.first(x))))),
        frozen=lambda: nn.Linear(8, 8).requires_grad_(False),
    ),
    "frozen_first_layer": whole(
        lambda n, x: n.last(torch.relu(n.frozen(x))),
        noise(4, 7),
        frozen=lambda: nn.Linear(7, 8).requires_grad_(False),
        last=linear(8, 3),
    ),
    "unused_parameter": two_layers(lambda n, x: n.last(torch.relu(n.first(x))), spare=weight(5)),
    "unused_layer": two_layers(lambda n, x: n.last(torch.relu(n.first(x))), spare=linear(5, 5)),
    "parameter_without_elements": two_layers(
        lambda n, x: torch.cat([n.last(torch.relu(n.first(x))), x @ n.none], 1), none=weight(7, 0)
    ),
    "parameter_list": vectors(
        lambda n, h: sum(torch.relu(h @ w) for w in n.ws),
        ws=lambda: nn.ParameterList(torch.randn(8, 6) for _ in range(3)),
    ),
    "parameter_dict": vectors(
        lambda n, h: h @ n.ws["w"] + n.ws["b"],
        ws=lambda: nn.ParameterDict({"w": torch.randn(8, 6), "b": torch.randn(6)}),
    ),
    "module_dict": vectors(
        lambda n, h: torch.relu(n.layers["a"](h)) + n.layers["b"](h),
        layers=lambda: nn.ModuleDict({"a": nn.Linear(8, 6), "b": nn.Linear(8, 6)}),
    ),
    "dotted_depth": vectors(
        lambda n, h: n.deep(h),
        deep=lambda: nn.Sequential(nn.Sequential(nn.Sequential(nn.Linear(8, 6), nn.ReLU()))),
    ),
    "single_layer": Construct(lambda: (nn.Linear(7, 3), torch.randn(4, 7))),
    "one_neuron": Construct(
        lambda: (nn.Sequential(nn.Linear(1, 1), nn.Tanh(), nn.Linear(1, 1)), torch.randn(4, 1))
    ),
}


def _assign(n: Wired, state: Tensor) -> Tensor:
    n.state = state
    return n.state


@entry(CONTROL, whole, noise(4, 7), first=linear(7, 8), early=linear(8, 3), last=linear(8, 3))
def early_exit(n: Wired, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
    h = torch.relu(n.first(x))
    if not n.training:
        return n.early(h)
    return n.early(h), n.last(torch.tanh(h))


@entry(CONTROL, vectors, mix=linear(8, 8))
def steps_of_a_differential_equation(n: Wired, h: Tensor) -> Tensor:
    for _ in range(3):
        slope = torch.tanh(n.mix(h))
        h = h + 0.1 * (slope + torch.tanh(n.mix(h + 0.1 * slope))) / 2
    return h
