"""Parameters and modules that are shared: used several times, under several names, or in one memory."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .constructs import Construct, Table, Wired, linear, vectors, weight, whole

TIES: Table = {
    "module_used_twice_on_two_layers": vectors(
        lambda n, h: n.again(torch.relu(n.a(h))) + n.again(torch.tanh(n.b(h))),
        a=linear(8, 8),
        b=linear(8, 8),
        again=linear(8, 6),
    ),
    "module_used_in_a_loop": vectors(
        lambda n, h: [h := torch.tanh(n.again(h)) for _ in range(3)][-1], again=linear(8, 8)
    ),
    "siamese": whole(
        lambda n, x, y: n.last((torch.relu(n.twin(x)) - torch.relu(n.twin(y))).abs()),
        lambda: (torch.randn(4, 7), torch.randn(4, 7)),
        twin=linear(7, 8),
        last=linear(8, 3),
    ),
    "parameter_used_three_ways": vectors(
        lambda n, h: (torch.tanh(h @ n.w) + n.w[0]) * n.w.sum(), w=weight(8, 8)
    ),
    "weight_and_its_transpose": vectors(
        lambda n, h: F.linear(torch.relu(n.layer(h)), n.layer.weight.mT), layer=linear(8, 6)
    ),
    "weight_in_its_own_penalty": vectors(
        lambda n, h: n.layer(h) / (1 + n.layer.weight.norm()), layer=linear(8, 6)
    ),
    "one_bias_of_two_layers": vectors(
        lambda n, h: torch.relu(F.linear(torch.relu(F.linear(h, n.a, n.b)), n.c, n.b)),
        a=weight(8, 8),
        b=weight(8),
        c=weight(8, 8),
    ),
    "scale_of_inputs_and_outputs": vectors(lambda n, h: n.gain * torch.relu(n.gain * h), gain=weight(8)),
    "scalar_used_everywhere": vectors(lambda n, h: n.t * torch.relu(n.t * h) + n.t, t=weight(1)),
}


def tied(make: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
    """Enter a maker of a network on inputs of shape (4, 7) into the table of ties."""
    TIES[make.__name__] = Construct(lambda: (make(), torch.randn(4, 7)))
    return make


def _chain(*sizes: int) -> Wired:
    def forward(n: Wired, x: Tensor) -> Tensor:
        for layer in n.layers[:-1]:
            x = torch.relu(layer(x))
        return n.layers[-1](x)

    return Wired(forward, layers=nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(sizes)))


@tied
def module_under_two_names() -> nn.Module:
    network = Wired(lambda n, x: n.last(torch.relu(n.alias(x))), first=nn.Linear(7, 8), last=nn.Linear(8, 3))
    network.alias = network.first
    return network


@tied
def module_in_a_list_and_as_attribute() -> nn.Module:
    network = _chain(7, 8, 8, 3)
    network.middle = network.layers[1]
    return network


@tied
def module_twice_in_a_list() -> nn.Module:
    network = _chain(7, 8, 8, 8, 3)
    network.layers[2] = network.layers[1]
    return network


@tied
def parameter_under_two_names() -> nn.Module:
    network = _chain(7, 8, 8, 8, 3)
    network.layers[2].weight = network.layers[1].weight
    return network


@tied
def two_parameters_in_one_memory() -> nn.Module:
    network = _chain(7, 7, 7, 3)
    network.layers[1].weight = nn.Parameter(network.layers[0].weight.data)
    return network


@tied
def transposed_parameter_in_one_memory() -> nn.Module:
    network = _chain(7, 8, 7, 3)
    network.layers[1].weight = nn.Parameter(network.layers[0].weight.data.t())
    return network


@tied
def slice_of_a_parameter_in_one_memory() -> nn.Module:
    network = _chain(7, 8, 7, 3)
    network.layers[1].bias = nn.Parameter(network.layers[0].bias.data[:7])
    return network


@tied
def expanded_parameter() -> nn.Module:
    network = _chain(7, 8, 3)
    network.layers[0].bias = nn.Parameter(torch.randn(1).expand(8))
    return network


@tied
def buffer_in_the_memory_of_a_parameter() -> nn.Module:
    def forward(n: Wired, x: Tensor) -> Tensor:
        return n.last(torch.relu(n.first(x)) + F.linear(x, n.copy))

    network = Wired(forward, first=nn.Linear(7, 8), last=nn.Linear(8, 3))
    network.register_buffer("copy", network.first.weight.data)
    return network


@tied
def encoder_and_decoder() -> nn.Module:
    def forward(n: Wired, x: Tensor) -> Tensor:
        code = torch.tanh(n.inner(torch.tanh(n.outer(x))))
        return F.linear(torch.tanh(F.linear(code, n.inner.weight.t())), n.outer.weight.t())

    return Wired(forward, outer=nn.Linear(7, 8), inner=nn.Linear(8, 4))
