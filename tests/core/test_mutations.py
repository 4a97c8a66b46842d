"""In-place operators: when a graph must be functionalized, and which parameters a network changes."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from support.zoo.networks import Wired
from torch import Tensor, nn
from torch.export.graph_signature import InputKind

from nteleport.core.mutations import Mutations


def mutations_of(network: nn.Module, x: Tensor) -> Mutations:
    program = torch.export.export(network, (x,), strict=False)
    kinds = {spec.arg.name: spec.kind for spec in program.graph_signature.input_specs}
    inputs = [n for n in program.graph.find_nodes(op="placeholder") if kinds[n.name] == InputKind.USER_INPUT]
    return Mutations(program.graph, inputs)


def assigned(n: Wired, x: Tensor) -> Tensor:
    h = n.a(x)
    h[:, 2:5] = 0
    return n.o(h)


def through_a_view(n: Wired, x: Tensor) -> Tensor:
    h = n.a(x)
    h.view(-1).relu_()
    return n.o(h)


def filled(n: Wired, x: Tensor) -> Tensor:
    h = torch.zeros(len(x), 8)
    h[:, :4] = n.a(x)[:, :4]
    return n.o(h)


def inside_no_grad(n: Wired, x: Tensor) -> Tensor:
    h = n.a(x)
    with torch.no_grad():
        h.mul_(2)
    return n.o(h)


def in_a_chain(n: Wired, x: Tensor) -> Tensor:
    return n.o(n.a(x).relu_().add_(1).mul_(2))


def residual(n: Wired, x: Tensor) -> Tensor:
    h = n.a(x).relu_()
    g = n.b(h)
    g += h
    return n.o(g.relu_())


def several_results(n: Wired, x: Tensor) -> Tensor:
    values, positions = n.a(x).topk(3)
    values /= values.sum(-1, keepdim=True)
    return n.o(torch.zeros(len(x), 8).scatter(1, positions, values))


def filled_with_a_constant(n: Wired, x: Tensor) -> Tensor:
    mask = x.new_zeros(len(x), 8)
    mask[:, 2:5] = 1
    return n.o(n.a(x) * mask)


def counted(n: Wired, x: Tensor) -> Tensor:
    n.calls.add_(1)
    return n.o(n.a(x)) * n.calls


@pytest.mark.parametrize("forward", [assigned, through_a_view, filled, inside_no_grad])
def test_memory_written_through_one_view_and_read_through_another(
    forward: Callable[[Wired, Tensor], Tensor],
) -> None:
    assert mutations_of(network_of(forward), torch.randn(6, 4)).must_be_functionalized


@pytest.mark.parametrize("forward", [in_a_chain, residual, several_results, filled_with_a_constant, counted])
def test_memory_of_which_only_the_result_is_read(forward: Callable[[Wired, Tensor], Tensor]) -> None:
    assert not mutations_of(network_of(forward), torch.randn(6, 4)).must_be_functionalized


def test_a_parameter_that_the_network_changes_is_found() -> None:
    network = Wired(lambda n, t: n.e(t), e=nn.Embedding(5, 3, max_norm=1.0))
    changed = mutations_of(network, torch.tensor([1, 2])).changed
    assert [node.name for node in changed] == ["p_e_weight"]


def network_of(forward: Callable[[Wired, Tensor], Tensor]) -> Wired:
    network = Wired(forward, a=nn.Linear(4, 8), b=nn.Linear(8, 8), o=nn.Linear(8, 3))
    network.register_buffer("calls", torch.zeros(()))
    return network
