"""A network as a graph that rules can read, and properties of its parameters that the graph lacks."""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind

from nteleport.core.mutations import Mutations
from nteleport.core.tracing import quiet, trace


class Traced(NamedTuple):
    """A network as a graph that rules can read.

    Attributes:
        program: the graph and what it holds.
        training: the mode in which it was traced.
        changed: names of the parameters and buffers that the network itself changes in place.
    """

    program: ExportedProgram
    training: bool
    changed: frozenset[str]


def trace_functional(
    network: nn.Module, args: tuple[object, ...], kwargs: dict[str, object], *, training: bool | None
) -> Traced:
    """Trace ``network``, and rewrite its in-place operators where others read the memory that they change."""
    program, mode = trace(network, args, kwargs, training=training)
    specs = {spec.arg.name: spec for spec in program.graph_signature.input_specs}
    placeholders = program.graph.find_nodes(op="placeholder")
    scaled = (InputKind.USER_INPUT, InputKind.PARAMETER)
    mutations = Mutations(program.graph, [n for n in placeholders if specs[n.name].kind in scaled])
    names = canonical_names(network)
    targets = (str(specs[node.name].target) for node in mutations.changed if node.op == "placeholder")
    changed = frozenset(names.get(target, target) for target in targets)
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
    found: dict[str, str] = {}
    for name, parameter in network.named_parameters():
        if name in changed:
            found[name] = "changed in place by the network itself"
        elif not (parameter.is_floating_point() or parameter.is_complex()):
            found[name] = f"holds numbers of type {parameter.dtype}"
        elif parameter.layout == torch.strided and torch._debug_has_internal_overlap(parameter) == 1:
            found[name] = "its elements share memory"
    return _sharing(network) | found


def movable_buffers(network: nn.Module, changed: Collection[str] = ()) -> dict[str, str]:
    """Buffers that can be multiplied by a scale of their own and that belong to the state of ``network``, not
    changed by its own code: for each of their names the first, that in ``network.named_buffers()``."""
    first: dict[int, str] = {}
    names = {
        name: first.setdefault(id(buffer), name)
        for name, buffer in network.named_buffers(remove_duplicate=False)
    }
    fixed = {names[name] for name in changed if name in names} | _sharing(network, buffers=True).keys()
    for prefix, module in network.named_modules(remove_duplicate=False):
        paths = (f"{prefix}.{name}".lstrip(".") for name in module._non_persistent_buffers_set)
        fixed |= {names[path] for path in paths if path in names}
    for name, buffer in network.named_buffers():
        dense = buffer.is_floating_point() and buffer.layout == torch.strided
        if not dense or torch._debug_has_internal_overlap(buffer) == 1:
            fixed.add(name)
    return {alias: name for alias, name in names.items() if name not in fixed}


def _sharing(network: nn.Module, *, buffers: bool = False) -> dict[str, str]:
    """Parameters that share memory with another parameter or a buffer; ``buffers``: these too, by name."""
    named = network.named_buffers() if buffers else (("", buffer) for buffer in network.buffers())
    tensors = [*network.named_parameters(), *named]
    spans = [(*_span(t), name) for name, t in tensors if t.layout == torch.strided and t.numel()]
    found: dict[str, str] = {}
    memory = last = 0
    owner = ""
    for place, start, end, name in sorted(spans):
        if place == memory and start < last:
            found.setdefault(owner, f"shares memory with {name or 'a buffer'}")
            found.setdefault(name, f"shares memory with {owner or 'a buffer'}")
        if place != memory or end > last:
            memory, last, owner = place, end, name
    return found


def _span(tensor: Tensor) -> tuple[int, int, int]:
    """The memory of a tensor, its first byte there, and the byte after its last."""
    size = tensor.element_size()
    start = int(tensor.storage_offset()) * size
    reach = sum((n - 1) * step for n, step in zip(tensor.shape, tensor.stride(), strict=True))
    return tensor.untyped_storage().data_ptr(), start, start + (1 + int(reach)) * size
