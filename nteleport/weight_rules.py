"""Rules of the operators that own parameters: linear and convolution layers, normalisations, embeddings.

Each claims its parameters with one factor per side (section 3 of the paper): ``w'_ij = w_ij τ_i / τ_j``,
``b'_i = b_i τ_i``, ``γ'_i = γ_i τ_i``. A rule returns None when the operator must be treated as unknown.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from nteleport.labels import along_axis, is_pinned, pinned, reduce_to, spread
from nteleport.propagation import Claim, Flow, ParameterRead, Propagation, operator_name, result_shapes
from nteleport.quiver import Factor

WeightRule = Callable[[Node, Propagation], Flow | None]


@dataclass(frozen=True)
class WeightLayout:
    """Where the two sides of a weight lie: axes 0 and 1, ``groups`` blocks along axis 0.

    ``outputs_first`` holds for linear layers and convolutions ``(out, in / groups, …)``; transposed
    convolutions and the right-hand side of a matrix product are ``(in, out / groups, …)``.
    """

    outputs_first: bool
    groups: int = 1

    def sizes(self, shape: torch.Size) -> tuple[int, int]:
        """Numbers of input and output channels."""
        first, second = shape[0], shape[1] * self.groups
        return (second, first) if self.outputs_first else (first, second)

    def factors(self, inputs: Tensor, outputs: Tensor, dim: int) -> tuple[Factor, ...]:
        """Index tensors of both sides, broadcastable to a weight of ``dim`` axes. A pinned side has no
        factor."""
        first, second = (outputs, inputs) if self.outputs_first else (inputs, outputs)
        trailing = (1,) * (dim - 2)
        block = second.view(self.groups, -1)
        if self.groups > 1:
            block = block.repeat_interleave(len(first) // self.groups, dim=0)
        index = {
            self.outputs_first: first.view(-1, 1, *trailing),
            not self.outputs_first: block.view(*block.shape, *trailing),
        }
        sides = (Factor(index[True], 1), Factor(index[False], -1))
        return tuple(side for side in sides if not is_pinned(side.index))

    def outputs_of(self, index: Tensor) -> Tensor:
        """The output labels that :meth:`factors` turned into ``index``."""
        if self.outputs_first:
            return index.flatten()
        return index.flatten(1)[:: max(1, index.shape[0] // self.groups)].flatten()


def _weighted(
    node: Node,
    walk: Propagation,
    source: Any,
    weight: Any,
    bias: Any,
    layout: WeightLayout,
    channel_axis: int,
) -> Flow | None:
    """A layer that is linear in its input: input labels become the input side, fresh labels the output
    side."""
    read = walk.parameter(weight)
    if read is None or walk.labels.get(weight) is not None or walk.parameter(source) is not None:
        return None
    if read.transposed:
        layout = WeightLayout(not layout.outputs_first, layout.groups)
    shape = torch.Size(reversed(result_shapes(weight))) if read.transposed else result_shapes(weight)
    known = walk.claims.get(read.name)
    if (known and known.kind != layout) or not _bias_fits(bias, known, walk):
        return None
    claim = known or _claim_weight(
        walk, read, layout, shape, walk.labels_of(source), channel_axis, operator_name(node)
    )
    if known:
        known.uses += 1
    if bias is not None:
        _claim_bias(walk, bias, claim)
    operands = {}
    if walk.labels_of(source) is not None and claim.inputs is not None:
        operands = {source: spread(claim.inputs, channel_axis, result_shapes(source))}
    result = spread(claim.outputs, channel_axis, result_shapes(node))
    return Flow(result, operands, frozenset([weight] if bias is None else [weight, bias]))


def _claim_weight(
    walk: Propagation,
    read: ParameterRead,
    layout: WeightLayout,
    shape: torch.Size,
    source: Tensor | None,
    channel_axis: int,
    operator: str,
) -> Claim:
    in_channels, out_channels = layout.sizes(shape)
    inputs = along_axis(source, channel_axis) if source is not None else None
    if inputs is None:  # they vary over positions that share the weight
        inputs = pinned((in_channels,))
    outputs = walk.fresh(read.name, out_channels, layout.outputs_of)
    claim = Claim(layout, inputs, outputs, layout.factors(inputs, outputs, len(shape)), operator)
    walk.claim(read.name, claim)
    return claim


def _bias_fits(bias: Any, claim: Claim | None, walk: Propagation) -> bool:
    """Whether a bias can carry the output labels of a weight that has ``claim``, or none so far."""
    if bias is None:
        return True
    read = walk.parameter(bias)
    known = walk.claims.get(read.name) if read else None
    if read is None or read.transposed:
        return False
    return known is None or (claim is not None and torch.equal(known.outputs, claim.outputs))


def _claim_bias(walk: Propagation, bias: Node, owner: Claim) -> None:
    name = walk.parameters[bias].name
    if name in walk.claims:
        walk.claims[name].uses += 1
    else:
        factors = _output_factor(owner.outputs.view(result_shapes(bias)))
        walk.claim(name, Claim("bias", None, owner.outputs, factors, owner.operator))


def _output_factor(index: Tensor) -> tuple[Factor, ...]:
    return () if is_pinned(index) else (Factor(index, 1),)


def _argument(node: Node, position: int, name: str, default: Any = None) -> Any:
    return node.args[position] if len(node.args) > position else node.kwargs.get(name, default)


def _operands(node: Node) -> tuple[Any, ...]:
    return node.args


def _linear(node: Node, walk: Propagation) -> Flow | None:
    weight, bias = node.args[1], _argument(node, 2, "bias")
    return _weighted(node, walk, node.args[0], weight, bias, WeightLayout(outputs_first=True), -1)


def _convolution(node: Node, walk: Propagation) -> Flow | None:
    name = operator_name(node)
    source, weight, bias = *_operands(node)[:2], _argument(node, 2, "bias")
    transposed = "transpose" in name or (name == "convolution" and bool(node.args[6]))
    position = 8 if name == "convolution" else 6
    groups = _argument(node, position, "groups", 1)
    layout = WeightLayout(outputs_first=not transposed, groups=groups)
    return _weighted(node, walk, source, weight, bias, layout, 1 - len(result_shapes(weight)))


def _matrix_product(node: Node, walk: Propagation) -> Flow | None:
    source, weight = _operands(node)[:2]
    if walk.parameter(weight) is None or len(result_shapes(weight)) != 2:
        return None
    return _weighted(node, walk, source, weight, None, WeightLayout(outputs_first=False), -1)


def _addmm(node: Node, walk: Propagation) -> Flow | None:
    bias, source, weight = _operands(node)[:3]
    if node.kwargs or len(result_shapes(bias)) != 1:  # alpha, beta; a matrix of biases
        return None
    return _weighted(node, walk, source, weight, bias, WeightLayout(outputs_first=False), -1)


WEIGHTED: dict[str, WeightRule] = {
    "linear": _linear,
    "mm": _matrix_product,
    "addmm": _addmm,
    **dict.fromkeys(["conv1d", "conv2d", "conv3d", "convolution"], _convolution),
    **dict.fromkeys(["conv_transpose1d", "conv_transpose2d", "conv_transpose3d"], _convolution),
}


def embedding(node: Node, walk: Propagation) -> Flow | None:
    """A table of vectors: fresh labels for its columns."""
    table = _operands(node)[0]
    read = walk.parameter(table)
    if read is None:
        return None
    shape = result_shapes(table)
    claim = walk.claims.get(read.name)
    if claim is None:
        outputs = walk.fresh(read.name, shape[1], torch.flatten)
        claim = Claim("embedding", None, outputs, _output_factor(outputs.view(1, -1)), "embedding")
        walk.claim(read.name, claim)
    elif claim.kind != "embedding":
        return None
    else:
        claim.uses += 1
    return Flow(spread(claim.outputs, -1, result_shapes(node)), {}, frozenset([table]))


def _normalisation(weight_position: int, *, per_feature: bool) -> WeightRule:
    """Normalisation with affine parameters: it runs on unscaled input, fresh labels for what it puts out.

    ``per_feature``: the parameters span the last axes of the input (layer norm), not its channel axis 1.
    """

    def rule(node: Node, walk: Propagation) -> Flow | None:
        source, weight = _operands(node)[0], _argument(node, weight_position, "weight")
        bias = _argument(node, weight_position + 1, "bias") if operator_name(node) != "rms_norm" else None
        read = walk.parameter(weight)
        if read is None or walk.labels_of(source) is None:
            return None
        known = walk.claims.get(read.name)
        if (known and known.kind != "normalisation") or not _bias_fits(bias, known, walk):
            return None
        shape, source_shape = result_shapes(weight), result_shapes(source)
        if known:
            known.uses += 1
        else:
            outputs = walk.fresh(read.name, shape.numel(), torch.flatten)
            known = Claim(
                "normalisation", None, outputs, _output_factor(outputs.view(shape)), operator_name(node)
            )
            walk.claim(read.name, known)
        if bias is not None:
            _claim_bias(walk, bias, known)
        labels = (
            known.outputs.view(shape).expand(source_shape)
            if per_feature
            else spread(known.outputs, 1, source_shape)
        )
        raw = frozenset([weight] if bias is None else [weight, bias])
        return Flow(labels, {source: pinned(source_shape)}, raw)

    return rule


NORMS: dict[str, WeightRule] = {
    "batch_norm": _normalisation(1, per_feature=False),
    "instance_norm": _normalisation(1, per_feature=False),
    "group_norm": _normalisation(2, per_feature=False),
    "layer_norm": _normalisation(2, per_feature=True),
    "rms_norm": _normalisation(2, per_feature=True),
}


def add_parameter(node: Node, walk: Propagation, activation: Node, parameter: Node) -> Flow | None:
    """A parameter added to an activation is a bias: it takes the labels of what it is added to."""
    read, labels, shape = walk.parameters[parameter], walk.labels_of(activation), result_shapes(parameter)
    result = result_shapes(node)
    index = reduce_to(labels.expand(result), shape) if labels is not None else None
    if index is None or read.transposed:
        return None
    known = walk.claims.get(read.name)
    if known is None:
        walk.claim(
            read.name, Claim("added", None, index.flatten(), _output_factor(index), operator_name(node))
        )
    elif torch.equal(known.outputs, index.flatten()):
        known.uses += 1
    else:
        return None
    assert labels is not None
    return Flow(labels.expand(result), {}, frozenset([parameter]))


def multiply_parameter(node: Node, walk: Propagation, activation: Node, parameter: Node) -> Flow | None:
    """A parameter multiplied with an activation is a diagonal weight: ``p'_i = p_i τ_i / τ_j`` (layer
    scale)."""
    read, labels, shape = walk.parameters[parameter], walk.labels_of(activation), result_shapes(parameter)
    if labels is None or read.transposed or read.name in walk.claims or result_shapes(node) != labels.shape:
        return None
    inputs = reduce_to(labels, shape)
    operands = {} if inputs is not None else walk.unscaled([activation])
    outputs = walk.fresh(read.name, shape.numel(), torch.flatten).view(shape)
    factors = _output_factor(outputs)
    if inputs is not None and not is_pinned(inputs):
        factors += (Factor(inputs, -1),)
    vector = pinned((shape.numel(),)) if inputs is None else inputs.flatten()
    walk.claim(read.name, Claim("multiplied", vector, outputs.flatten(), factors, operator_name(node)))
    return Flow(outputs.expand(labels.shape), operands, frozenset([parameter]))
