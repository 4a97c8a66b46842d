"""Baseline: a teleported network that runs at its teleported weights, as the paper's text describes it.

Every linear layer and convolution holds ``w_ij τ_i / τ_j`` and runs as it is. Every activation, BatchNorm and
pooling is a wrapped layer that divides its input by the change of basis and multiplies its output with it,
``x ↦ τ f(x / τ)``; a BatchNorm multiplies by way of its own weights, and a sum brings its second operand to
the scale of the first. Any torch optimizer trains it. (Armenta et al., arXiv 2012.01118, section 3.)

It covers networks that `torch.fx` can trace, made of the layers named here: the MLP, VGG and ResNet families.
Its change of basis has the order of `nteleport.analyze`, so that both can be put at the same point.
"""

from __future__ import annotations

import copy
import operator

import torch
from torch import Tensor, fx, nn

UNWRAPPED = (nn.Linear, nn.Conv2d)
WRAPPED = (nn.ReLU, nn.MaxPool2d, nn.AdaptiveAvgPool2d, nn.Dropout)


class Rescaled(nn.Module):
    """A layer that divides by the change of basis, runs, and multiplies by it."""

    def __init__(self, layer: nn.Module, cob: Tensor) -> None:
        super().__init__()
        self.layer = layer
        self.register_buffer("cob", cob)

    def forward(self, values: Tensor) -> Tensor:
        result: Tensor = self.layer(values / self.cob) * self.cob
        return result


class RescaledBatchNorm(nn.Module):
    """A BatchNorm that divides by the change of basis; its weights carry the one of its output."""

    def __init__(self, layer: nn.BatchNorm2d, cob: Tensor) -> None:
        super().__init__()
        self.layer = layer
        self.register_buffer("cob", cob)

    def forward(self, values: Tensor) -> Tensor:
        result: Tensor = self.layer(values / self.cob)
        return result


class RescaledSum(nn.Module):
    """A sum whose second operand is brought to the scale of the first, which was computed before it."""

    def __init__(self, ratio: Tensor) -> None:
        super().__init__()
        self.register_buffer("ratio", ratio)

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        return first + second * self.ratio


def rescaling_network(network: nn.Module, cob: Tensor) -> fx.GraphModule:
    """`network`, teleported by `cob`; a copy.

    Args:
        network: its layers are those named above.
        cob: shape (cob_size,): one entry for each output of each linear layer, convolution and BatchNorm but
            the last, in the order in which they run.

    Raises:
        NotImplementedError: a layer or function that this baseline does not cover.
        ValueError: `cob` has another length.
    """
    return _Rescaling(network, cob).built()


class _Rescaling:
    """One walk over the graph of a network; `scales` holds the change of basis of each activation, a vector
    of its channels.
    """

    def __init__(self, network: nn.Module, cob: Tensor) -> None:
        self._graph_module = fx.symbolic_trace(copy.deepcopy(network))
        self._cob, self._used = cob, 0
        self._scales: dict[fx.Node, Tensor] = {}
        owners = [node for node in self._graph_module.graph.nodes if self._claims_entries(node)]
        self._last = owners[-1]

    def built(self) -> fx.GraphModule:
        for node in list(self._graph_module.graph.nodes):
            if node.op == "placeholder":
                self._scales[node] = self._cob.new_ones(3)
            elif node.op == "call_module":
                self._module(node)
            elif node.op == "call_function":
                self._function(node)
            elif node.op != "output":
                raise NotImplementedError(f"{node.op} {node.target}")
        if self._used != len(self._cob):
            raise ValueError(f"{self._used} entries of the change of basis are used, of {len(self._cob)}")
        self._graph_module.recompile()
        return self._graph_module

    def _claims_entries(self, node: fx.Node) -> bool:
        return node.op == "call_module" and isinstance(self._layer(node), (*UNWRAPPED, nn.BatchNorm2d))

    def _layer(self, node: fx.Node) -> nn.Module:
        return self._graph_module.get_submodule(str(node.target))

    def _module(self, node: fx.Node) -> None:
        layer, source = self._layer(node), self._scales[node.all_input_nodes[0]]
        if isinstance(layer, (*UNWRAPPED, nn.BatchNorm2d)):
            outputs = self._next_entries(node, layer.weight.shape[0])
            self._scales[node] = outputs
            if isinstance(layer, nn.BatchNorm2d):
                _scale(layer, outputs, None)
                self._replace(node, RescaledBatchNorm(layer, _for_channels(source, 4)))
            else:
                _scale(layer, outputs, source)
        elif isinstance(layer, WRAPPED):
            self._scales[node] = source
            flat = isinstance(self._layer_after_flattening(node), nn.Linear)
            self._replace(node, Rescaled(layer, _for_channels(source, 2 if flat else 4)))
        elif isinstance(layer, (nn.Flatten, nn.Identity)):
            self._scales[node] = source
        else:
            raise NotImplementedError(type(layer).__name__)

    def _layer_after_flattening(self, node: fx.Node) -> nn.Module | None:
        """The linear layer whose output `node` works on, or None while activations are images."""
        before = node.all_input_nodes[0]
        while before.op == "call_module":
            layer = self._layer(before)
            if isinstance(layer, nn.Linear):
                return layer
            if isinstance(layer, (nn.Conv2d, nn.BatchNorm2d, RescaledBatchNorm)):
                return None
            before = before.all_input_nodes[0]
        return None

    def _function(self, node: fx.Node) -> None:
        operands = sorted(node.all_input_nodes)
        first, *others = (self._scales[operand] for operand in operands)
        if node.target is torch.flatten:
            self._scales[node] = first
        elif node.target in (operator.add, operator.iadd) and len(others) == 1:
            self._scales[node] = first
            node.args = tuple(operands)
            self._replace(node, RescaledSum(_for_channels(first / others[0], 4)))
        else:
            raise NotImplementedError(str(node.target))

    def _next_entries(self, node: fx.Node, size: int) -> Tensor:
        if node is self._last:
            return self._cob.new_ones(size)
        self._used += size
        return self._cob[self._used - size : self._used]

    def _replace(self, node: fx.Node, layer: nn.Module) -> None:
        """Let `node` call `layer`, which no other node calls: reused layers have a scale for each use."""
        name = f"rescaled_{node.name}"
        self._graph_module.add_submodule(name, layer)
        node.op, node.target = "call_module", name


def _for_channels(scale: Tensor, dim: int) -> Tensor:
    return scale.view(1, -1, *[1] * (dim - 2))


@torch.no_grad()
def _scale(layer: nn.Module, outputs: Tensor, inputs: Tensor | None) -> None:
    """Teleport the weights of one layer."""
    weight, bias = layer.weight, layer.bias
    assert isinstance(weight, Tensor)
    weight *= outputs.view(-1, *[1] * (weight.dim() - 1))
    if inputs is not None:
        repeats = weight.shape[1] // len(inputs)  # of a channel that was flattened with its positions
        weight /= inputs.repeat_interleave(repeats).view(1, -1, *[1] * (weight.dim() - 2))
    if isinstance(bias, Tensor):
        bias *= outputs
