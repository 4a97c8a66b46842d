"""A network as a graph that rules can read, and what the graph does not say of its parameters."""

from __future__ import annotations

from collections.abc import Collection
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import nn
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind

from nteleport.mutations import Mutations
from nteleport.tracing import quiet, trace


class Traced(NamedTuple):
    """A network as a graph that rules can read.

    Attributes:
        program: the graph and what it holds.
        training: the mode in which it was traced.
        changed: names of the parameters that the network itself changes in place.
    """

    program: ExportedProgram
    training: bool
    changed: frozenset[str]


def trace_functional(
    network: nn.Module, args: tuple[object, ...], kwargs: dict[str, object], *, training: bool | None
) -> Traced:
    """Trace ``network``, and rewrite its in-place operators where others read the memory they change."""
    program, mode = trace(network, args, kwargs, training=training)
    specs = {spec.arg.name: spec for spec in program.graph_signature.input_specs}
    placeholders = program.graph.find_nodes(op="placeholder")
    inputs = [node for node in placeholders if specs[node.name].kind == InputKind.USER_INPUT]
    mutations = Mutations(program.graph, inputs)
    names = canonical_names(network)
    targets = (str(specs[node.name].target) for node in mutations.changed if node.op == "placeholder")
    changed = frozenset(names[target] for target in targets if target in names)
    if mutations.must_be_functionalized:
        with quiet():
            program = program.run_decompositions({})
    return Traced(program, mode, changed)


def canonical_names(network: nn.Module) -> dict[str, str]:
    """For every name of every parameter, the first name of the same parameter (weights can be tied)."""
    first: dict[int, str] = {}
    return {
        name: first.setdefault(id(parameter), name)
        for name, parameter in network.named_parameters(remove_duplicate=False)
    }


def unscalable(network: nn.Module, changed: Collection[str] = ()) -> dict[str, str]:
    """Parameters that cannot be multiplied by a scale of their own, each with the reason."""
    found = dict.fromkeys(changed, "changed in place by the network itself")
    spans: list[tuple[int, int, int, str]] = []
    for name, parameter in network.named_parameters():
        if not (parameter.is_floating_point() or parameter.is_complex()):
            found[name] = f"holds numbers of type {parameter.dtype}"
        elif parameter.layout == torch.strided and parameter.numel():
            if torch._debug_has_internal_overlap(parameter) == 1:
                found[name] = "its elements share memory"
            start = parameter.storage_offset() * parameter.element_size()
            reach = sum((n - 1) * step for n, step in zip(parameter.shape, parameter.stride(), strict=True))
            end = start + (1 + reach) * parameter.element_size()
            spans.append((parameter.untyped_storage().data_ptr(), int(start), int(end), name))
    spans.sort()
    for (memory, _, end, one), (other_memory, start, _, other) in pairwise(spans):
        if memory == other_memory and start < end:
            found.setdefault(one, f"shares memory with {other}")
            found.setdefault(other, f"shares memory with {one}")
    return found
