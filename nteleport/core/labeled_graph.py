"""A traced network that can run, and which entry of a quiver scales each of its activations."""

from __future__ import annotations

from collections.abc import Callable
from operator import attrgetter

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Node

from nteleport.core.analysis import Runs, Sources, walk_graph
from nteleport.core.calls import operator_name
from nteleport.core.labels import collapse, is_pinned, pinned
from nteleport.core.network_graph import Traced, canonical_names, movable_buffers, unscalable
from nteleport.core.quiver import Quiver
from nteleport.core.ties import Ties
from nteleport.core.walk import FreshLabels, Propagation


def runnable(traced: Traced) -> GraphModule:
    """The traced network as a module, which shares its parameters and buffers with the network."""
    module = traced.program.module()
    assert isinstance(module, GraphModule)
    _remove_checks(module)
    return module


def conjugated_walk(module: GraphModule, network: nn.Module, traced: Traced, quiver: Quiver) -> Propagation:
    """A walk over the graph of ``runnable`` in which every use has the labels of a quiver whose activations
    are conjugated."""
    walk = Propagation(_labels_from(quiver))
    walk_graph(module.graph, _sources(module, network, traced, walk), walk)
    return walk


def activation_labels(
    module: GraphModule, network: nn.Module, traced: Traced, quiver: Quiver
) -> dict[Node, Tensor]:
    """For each activation that a quiver scales, at each of its elements the entry that multiplies it.

    Args:
        module: of ``runnable(traced)``.
        quiver: of ``network``, of either kind.

    Returns:
        By node, labels of entries of the extended change of basis, which broadcast to the activation; 0 also
        where an activation is divided by an entry.
    """
    if quiver.activations == "conjugated":
        walk = conjugated_walk(module, network, traced, quiver)
        return _tensors(walk, lambda labels: labels)
    ties = Ties()
    runs = Runs(ties)
    walk = Propagation(runs.fresh, ties, quiver.norms)
    walk_graph(module.graph, _sources(module, network, traced, walk), walk)
    entries = torch.zeros(runs.count, dtype=torch.int64)
    for name, found in runs.by_parameter.items():
        for labels, known in zip(found, quiver.parameters[name].outputs, strict=False):
            if len(labels) == len(known):
                entries[ties.resolve(labels).abs()] = known.cpu()
    entries[0] = 0
    return _tensors(walk, lambda labels: entries[ties.resolve(labels).clamp(min=0)])


def _tensors(walk: Propagation, entries: Callable[[Tensor], Tensor]) -> dict[Node, Tensor]:
    """Labels of single tensors, those alone that are not pinned."""
    found = ((node, each) for node, each in walk.labels.items() if isinstance(each, Tensor))
    scaled = {node: entries(collapse(labels)) for node, labels in found}
    return {node: labels for node, labels in scaled.items() if not is_pinned(labels)}


def _remove_checks(module: GraphModule) -> None:
    """Drop the checks of shapes and types that export adds: they are not part of the computation."""
    for node in module.graph.find_nodes(op="call_module", target="_guards_fn"):
        module.graph.erase_node(node)
    for part in module.modules():
        if isinstance(part, GraphModule):
            for node in list(part.graph.nodes):
                if operator_name(node) == "_assert_tensor_metadata":
                    part.graph.erase_node(node)


def _sources(module: GraphModule, network: nn.Module, traced: Traced, walk: Propagation) -> Sources:
    names, fixed = canonical_names(network), unscalable(network, traced.changed)
    buffers = movable_buffers(network, traced.changed) if walk.norms == "up_to_eps" else {}
    sources = Sources({}, module.graph.find_nodes(op="placeholder"), {}, {})
    for node in module.graph.find_nodes(op="get_attr"):
        target = str(node.target)
        if target in names and names[target] not in fixed:
            sources.parameters[node] = names[target]
        elif target not in traced.changed:
            sources.add_constant(node, attrgetter(target)(module))
            if target in buffers:
                sources.buffers[node] = buffers[target]
    return sources


def _labels_from(quiver: Quiver) -> FreshLabels:
    """Labels of uses taken from the quiver, in place of fresh ones."""
    left = {name: list(p.outputs) for name, p in quiver.parameters.items()}

    def fresh(parameter: str, size: int) -> Tensor:
        labels = left[parameter].pop(0).cpu() if left.get(parameter) else pinned((size,))
        return labels if len(labels) == size else pinned((size,))

    return fresh
