"""The layers of a network and what flows between them, for a picture."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn
from torch.fx import Node

from nteleport.core.network_graph import canonical_names, trace_functional
from nteleport.core.quiver import Quiver
from nteleport.core.tracing import ExampleInputs, as_call

INPUT, OUTPUT = "input", "output"


@dataclass(frozen=True)
class LayerGraph:
    """Layers, in execution order, and the connections between them.

    Attributes:
        shapes: for each layer that owns parameters, the shapes of these by their last name.
        entries: how many entries of the CoB each layer owns; 0 where its outputs are pinned or tied.
        tied: layers with a parameter that is used again.
        edges: pairs of layers, or `INPUT` and `OUTPUT`, of which the second reads what the first puts out,
            possibly through operators without parameters.
    """

    shapes: dict[str, dict[str, tuple[int, ...]]]
    entries: dict[str, int]
    tied: frozenset[str]
    edges: tuple[tuple[str, str], ...]

    def ranks(self) -> dict[str, int]:
        """For each layer, the length of the longest way to it from the input."""
        ranks = {INPUT: 0}
        for name in (*self.shapes, OUTPUT):
            before = [ranks[source] for source, target in self.edges if target == name and source in ranks]
            ranks[name] = 1 + max(before, default=0)
        return ranks


def layer_graph(network: nn.Module, example_inputs: ExampleInputs, quiver: Quiver) -> LayerGraph:
    """Trace a network and reduce its graph to the layers that own parameters.

    Args:
        network: any module that ``torch.export`` can trace.
        example_inputs: as for ``nteleport.analyze``.
        quiver: of the network.

    Raises:
        AnalysisError: the network cannot be traced.
    """
    args, kwargs = as_call(example_inputs)
    program = trace_functional(network, args, kwargs, training=None).program
    first = canonical_names(network)
    inputs = {spec.arg.name: spec.target for spec in program.graph_signature.input_specs}
    parameters = dict(network.named_parameters())
    shapes: dict[str, dict[str, tuple[int, ...]]] = {}
    edges: dict[tuple[str, str], None] = {}
    sources: dict[Node, dict[str, None]] = {}
    for node in program.graph.nodes:
        if node.op == "placeholder":
            target = inputs.get(node.name)
            is_input = target is None
            sources[node] = {INPUT: None} if is_input else {}
            continue
        read = [first.get(str(inputs.get(n.name)), "") for n in node.all_input_nodes if n.op == "placeholder"]
        owned = [name for name in read if name in parameters]
        reached = {name: None for n in node.all_input_nodes for name in sources[n]}
        layer = owned[0].rpartition(".")[0] or "network" if owned else OUTPUT if node.op == "output" else ""
        if layer:
            edges |= {(source, layer): None for source in reached if source != layer}
        for name in owned:
            shapes.setdefault(layer, {})[name.rpartition(".")[2]] = tuple(parameters[name].shape)
        sources[node] = {layer: None} if owned else reached
    entries = dict.fromkeys(shapes, 0)
    for run in quiver.layers:
        if run.name in entries:
            entries[run.name] += run.size
    tied = {row.name.rpartition(".")[0] for row in quiver.report() if row.status == "tied"}
    return LayerGraph(shapes, entries, frozenset(tied & shapes.keys()), tuple(edges))
