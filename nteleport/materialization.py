"""The teleported network made visible: teleported weights, conjugated activations.

:func:`materialize` executes what the paper describes, operator by operator: linear and convolution layers run
untouched on teleported weights and scaled activations, everything else runs as ``x ↦ τ f(x / τ)``. It never
divides a teleported weight of such a layer by its scale, so it is an independent check of the quiver: with a
wrong label its outputs differ from the network's.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor
from torch.fx import Graph, GraphModule, Node

from nteleport.analysis import canonical_names, export, walk_graph
from nteleport.labels import collapse
from nteleport.propagation import FreshLabels, ParameterRead, Propagation, result_shapes
from nteleport.quiver import Quiver, compact_scales
from nteleport.teleport import TeleportableModel


def materialize(model: TeleportableModel) -> GraphModule:
    """Build a graph module that runs the teleported weights of ``model``.

    It is traced in the present mode of the network (call ``model.eval()`` first for an evaluation graph), for
    inputs of the shape of ``model.example_inputs``, and shares no memory with the model.

    Returns:
        A ``torch.fx.GraphModule`` with the outputs of the network. Its parameters hold the teleported
        weights.

    Raises:
        AnalysisError: the network cannot be traced in its present mode.
    """
    network = copy.deepcopy(model.network)
    names = canonical_names(network)
    module = export(network, model.example_inputs).module()
    assert isinstance(module, GraphModule)
    graph = module.graph
    _remove_guards(graph)
    reads = {
        n: ParameterRead(names[str(n.target)], False)
        for n in graph.find_nodes(op="get_attr")
        if n.target in names
    }
    walk = walk_graph(graph, reads, graph.find_nodes(op="placeholder"), _labels_from(model.quiver))
    _Conjugation(module, walk, model.quiver, model.cob.detach()).apply()
    graph.lint()
    module.recompile()
    return module


def _remove_guards(graph: Graph) -> None:
    """Drop the checks of input shapes that export adds: they are not part of the computation."""
    for node in graph.find_nodes(op="call_module", target="_guards_fn"):
        graph.erase_node(node)


def _labels_from(quiver: Quiver) -> FreshLabels:
    """Labels of claims as the quiver has them, in place of new ones."""

    def fresh(parameter: str, size: int, outputs_of: Callable[[Tensor], Tensor]) -> Tensor:
        for factor in quiver.parameters[parameter].factors:
            if factor.power == 1:
                return outputs_of(factor.index.cpu())
        return torch.zeros(size, dtype=torch.int64)

    return fresh


class _Conjugation:
    """Rewrites a graph, node by node, as its flows say."""

    def __init__(self, module: GraphModule, walk: Propagation, quiver: Quiver, cob: Tensor) -> None:
        self.module, self.walk = module, walk
        self.scales = compact_scales(quiver, cob)
        self.extended = torch.cat([cob.new_ones(1), cob])
        self.scaled: dict[Node, Node] = {}  # what stands for a conjugated operator's result

    def apply(self) -> None:
        for node, flow in self.walk.flows.items():
            for operand, wanted in flow.operands.items():
                carried = self.walk.labels_of(operand)
                if carried is not None and not torch.equal(carried, wanted):
                    ratio = self._at(wanted) / self._at(carried)
                    self._multiply_operand(node, self.scaled.get(operand, operand), ratio)
            for operand in node.all_input_nodes:
                self._unscale_parameter(node, operand)
            if flow.conjugated and isinstance(flow.result, Tensor) and bool(collapse(flow.result).any()):
                self._multiply_result(node, self._at(flow.result))

    def _at(self, labels: Tensor) -> Tensor:
        return self.extended[collapse(labels).to(self.extended.device)]

    def _multiply_operand(self, node: Node, operand: Node, factor: Tensor) -> None:
        with self.module.graph.inserting_before(node):
            node.replace_input_with(operand, self._product(operand, factor))

    def _multiply_result(self, node: Node, factor: Tensor) -> None:
        with self.module.graph.inserting_after(node):
            # The product needs the constant before it, and both stand right behind the node.
            constant = self._constant(factor)
        with self.module.graph.inserting_after(constant):
            product = self.module.graph.call_function(torch.ops.aten.mul.Tensor, (node, constant))
        node.replace_all_uses_with(product, delete_user_cb=lambda user: user is not product)
        self.scaled[node] = product

    def _product(self, value: Node, factor: Tensor) -> Node:
        return self.module.graph.call_function(torch.ops.aten.mul.Tensor, (value, self._constant(factor)))

    def _constant(self, tensor: Tensor) -> Node:
        name = f"_scale_{len(list(self.module.buffers()))}"
        self.module.register_buffer(name, tensor)
        return self.module.graph.get_attr(name)

    def _unscale_parameter(self, node: Node, operand: Node) -> None:
        """Divide a teleported parameter by its scale where an operator needs it as it was."""
        read = self.walk.parameters.get(operand)
        if read is None or operand in self.walk.flows[node].raw_parameters or read.name not in self.scales:
            return
        scale = self.scales[read.name].expand(result_shapes(operand)[:: -1 if read.transposed else 1])
        scale = scale.t() if read.transposed else scale
        self._multiply_operand(node, operand, scale.reciprocal().contiguous())
