"""The teleported network made explicit: teleported weights, conjugated activations.

``materialize`` executes what the paper describes, operator by operator: linear and convolution layers run
untouched on teleported weights and scaled activations, everything else runs as ``x ↦ τ f(x / τ)``. It never
divides a teleported weight of such a layer by its scale, so it is an independent check of the quiver: with a
wrong label its outputs differ from the network's.

Layers that compute in lower precision than the change of basis, and layers that the network wires differently
in the mode in which the quiver was found, are conjugated too: they run on unscaled operands and weights.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Graph, GraphModule, Node

from nteleport.core.analysis import used_factors
from nteleport.core.calls import operator_name
from nteleport.core.checks import checked_cob
from nteleport.core.labeled_graph import conjugated_walk, runnable
from nteleport.core.labels import collapse, is_pinned, pinned
from nteleport.core.model import TeleportableModel
from nteleport.core.mutations import region
from nteleport.core.network_graph import Traced, trace_functional
from nteleport.core.parameter_views import ParameterView
from nteleport.core.quiver import ParameterScaling, Quiver, scales
from nteleport.core.walk import Flow, Labels, Propagation
from nteleport.errors import TeleportationError

_aten = torch.ops.aten


def materialize(model: TeleportableModel) -> GraphModule:
    """Build a graph module that runs the teleported weights of ``model``.

    Its activations are conjugated, unless the quiver of the model keeps them.

    It is traced in the current mode of the network (call ``model.eval()`` first for an evaluation graph), for
    inputs of the shape of the model's example inputs, and shares no memory with the model.

    Returns:
        A ``torch.fx.GraphModule`` with the outputs of the network. Its parameters hold the teleported
        weights.

    Raises:
        AnalysisError: the network cannot be traced in its current mode.
        TeleportationError: the CoB of the model was replaced by one that is not usable.
    """
    if not isinstance(model, TeleportableModel):
        raise TeleportationError(f"expected a TeleportableModel, got {type(model).__name__}")
    network, quiver = model.network, model.quiver
    cob = checked_cob(quiver, model.cob, model.cob, dict(network.named_parameters()))
    traced = trace_functional(network, model.example_inputs, model.example_kwargs, training=network.training)
    module = runnable(traced)
    _separate_memory(module)
    if quiver.activations == "conjugated":
        _conjugate(module, network, traced, quiver, cob)
    for graph_module in module.modules():
        if isinstance(graph_module, GraphModule):
            graph_module.graph.lint()
            graph_module.recompile()
    return module


def _conjugate(module: GraphModule, network: nn.Module, traced: Traced, quiver: Quiver, cob: Tensor) -> None:
    """Rewrite a traced network so that it runs on scaled activations."""
    walk = conjugated_walk(module, network, traced, quiver)
    otherwise_wired = (
        {n for n, p in quiver.parameters.items() if not _agrees(p, n, walk)}
        if traced.training != quiver.training
        else set()
    )
    _Conjugation(module, walk, quiver, cob, otherwise_wired).apply()


def _separate_memory(module: nn.Module) -> None:
    """Give an exported module parameters and buffers of its own; shared ones stay shared."""
    copies: dict[Tensor, Tensor] = {}
    for part in module.modules():
        for name, parameter in part._parameters.items():
            if parameter is not None:
                copy = nn.Parameter(parameter.detach().clone(), parameter.requires_grad)
                part._parameters[name] = copies.setdefault(parameter, copy)  # type: ignore[assignment]
        for name, buffer in part._buffers.items():
            if buffer is not None:
                part._buffers[name] = copies.setdefault(buffer, buffer.detach().clone())


def _agrees(scaling: ParameterScaling, name: str, walk: Propagation) -> bool:
    """Whether this graph scales a parameter as the quiver does."""
    found = {f.power: collapse(f.index) for f in used_factors(walk.uses.get(name, []), name)}
    found = {power: index for power, index in found.items() if not is_pinned(index)}
    known = {f.power: collapse(f.index).cpu() for f in scaling.factors}
    return found.keys() == known.keys() and all(torch.equal(found[p], known[p]) for p in known)


class _Conjugation:
    """Rewrites a graph, node by node, according to its flows.

    The output of a narrow operator is scaled in the dtype of the CoB and kept in it until an operator needs
    its original dtype, so that scaling and unscaling do not cost the last digit.
    """

    def __init__(
        self, module: GraphModule, walk: Propagation, quiver: Quiver, cob: Tensor, conjugated: set[str]
    ) -> None:
        self.walk, self.conjugated = walk, conjugated
        self.scales = scales(quiver, cob, expand=False)
        self.extended = torch.cat([cob.new_ones(1), cob])
        self.origin: dict[Node, Node] = {}  # of a scaled result: the operator that computed it
        self.widened: set[Node] = set()
        self.outer = {
            placeholder: operand for node in module.graph.nodes for placeholder, operand in _bindings(node)
        }
        self.outermost = module.graph

    def apply(self) -> None:
        for node, flow in self.walk.flows.items():
            conjugated = flow.conjugated or self._must_be_conjugated(node, flow)
            moves = not (conjugated or flow.operands or node.op == "output")
            for operand in list(node.all_input_nodes):
                if operand in self.walk.parameters:
                    self._bring_parameter(node, flow, operand, conjugated)
                else:
                    self._bring(node, flow, operand, conjugated, keep_width=moves)
            if conjugated:
                self._scale_results(node, flow.result)
            elif moves:
                self._pass_width_on(node)

    def _must_be_conjugated(self, node: Node, flow: Flow) -> bool:
        if not flow.weights:
            return False
        if any(name in self.conjugated for use in flow.weights.values() for name in use.view.names):
            return True
        origins = (self.origin.get(n, n) for n in (node, *node.all_input_nodes))
        return any(self._is_narrow(n.meta.get("val")) for n in origins)

    def _is_narrow(self, value: Any) -> bool:
        return isinstance(value, Tensor) and _bits(value.dtype) < _bits(self.extended.dtype)

    def _bring(self, node: Node, flow: Flow, operand: Node, conjugated: bool, *, keep_width: bool) -> None:
        """Bring an activation to the labels and the dtype that ``node`` needs."""
        origin = self.origin.get(operand, operand)
        carried = self.walk.labels_of(origin)
        if carried is None:
            return
        wanted = flow.operands.get(origin, carried)
        if conjugated or (node.op == "output" and node.graph is self.outermost):
            wanted = pinned(carried.shape)
        value = operand
        with node.graph.inserting_before(node):
            if not torch.equal(collapse(wanted), collapse(carried)):
                value = self._product(value, self._at(wanted) / self._at(carried))
            too_wide = value is not operand or self._is_wide(operand)
            if too_wide and not keep_width and self._is_narrow(origin.meta.get("val")):
                value = node.graph.call_function(_aten.to.dtype, (value, origin.meta["val"].dtype))
        if value is not operand:
            node.replace_input_with(operand, value)

    def _bring_parameter(self, node: Node, flow: Flow, operand: Node, conjugated: bool) -> None:
        """Bring a parameter, or what is computed from it, to the scale at which ``node`` reads it."""
        view, use = self.walk.parameters[operand], flow.weights.get(operand)
        if flow.moves_parameters:
            return
        scaled = use is not None and not conjugated
        if scaled == view.exact:
            return
        if scaled:
            assert use is not None
            one = self.extended[0]
            above = one if use.outputs is None else self._at(use.outputs)
            below = one if use.inputs is None else self._at(use.inputs)
            factor = (above / below).expand(use.view.shape).reshape(view.shape)
        else:
            factor = self._scale_of(view).reciprocal()
        with node.graph.inserting_before(node):
            value = self._product(operand, factor)
            if self._is_narrow(operand.meta["val"]):
                value = node.graph.call_function(_aten.to.dtype, (value, operand.meta["val"].dtype))
        node.replace_input_with(operand, value)

    def _scale_of(self, view: ParameterView) -> Tensor:
        one = self.extended[0]
        return view.push({name: self.scales.get(name, one) for name in view.names})

    def _scale_results(self, node: Node, labels: Labels) -> None:
        if isinstance(labels, list):
            for user in list(node.users):
                if operator_name(user) == "getitem":
                    self._scale_results(user, labels[user.args[1]])  # type: ignore[index]
        elif labels is not None and not is_pinned(labels):
            # The product needs the constant before it, and both come right after the node.
            with node.graph.inserting_after(node):
                constant = self._constant(node.graph, self._at(labels))
            with node.graph.inserting_after(constant):
                product = node.graph.call_function(_aten.mul.Tensor, (node, constant))
            node.replace_all_uses_with(product, delete_user_cb=lambda user: user is not product)
            self.origin[product] = node

    def _is_wide(self, node: Node) -> bool:
        """Whether a node of narrow dtype is held in the dtype of the CoB."""
        if node in self.origin:
            return self._is_narrow(self.origin[node].meta["val"])
        return node in self.widened or (node in self.outer and self._is_wide(self.outer[node]))

    def _pass_width_on(self, node: Node) -> None:
        """Moved elements stay in the dtype in which they are held; all operands of a move need it."""
        inner = region(node)
        if inner is not None:
            results: Any = inner[0].output_node().args[0]
            taken = ((user, user.args[1]) for user in node.users if operator_name(user) == "getitem")
            self.widened.update(user for user, position in taken if self._is_wide(results[position]))
            return
        operands = [n for n in node.all_input_nodes if n in self.origin or n in self.walk.labels]
        if not any(self._is_wide(n) for n in operands):
            return
        self.widened.add(node)
        for operand in operands:
            if not self._is_wide(operand) and self._is_narrow(operand.meta.get("val")):
                with node.graph.inserting_before(node):
                    value = node.graph.call_function(_aten.to.dtype, (operand, self.extended.dtype))
                node.replace_input_with(operand, value)

    def _at(self, labels: Tensor) -> Tensor:
        return self.extended[collapse(labels).to(self.extended.device)]

    def _product(self, value: Node, factor: Tensor) -> Node:
        return value.graph.call_function(_aten.mul.Tensor, (value, self._constant(value.graph, factor)))

    def _constant(self, graph: Graph, tensor: Tensor) -> Node:
        module = graph.owning_module
        assert module is not None
        name = f"_scale_{len(module._buffers)}"
        module.register_buffer(name, tensor.contiguous())
        return graph.get_attr(name)


def _bits(dtype: torch.dtype) -> int:
    """Bits of a floating-point number, of the real part if it is complex; of others, more than of any."""
    if not (dtype.is_floating_point or dtype.is_complex):
        return 1_000
    return torch.finfo(dtype).bits


def _bindings(node: Node) -> Iterator[tuple[Node, Node]]:
    """Placeholders inside a region, each with its operand."""
    inner = region(node)
    if inner is not None:
        graph, operands = inner
        yield from zip(graph.find_nodes(op="placeholder"), operands, strict=True)
        for each in graph.nodes:
            yield from _bindings(each)
