"""Rules of the operators that move, reduce, mix or join activations.

A rule returns None when the operator must be treated as unknown.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node
from torch.fx.node import map_arg

from nteleport.core.calls import arguments, as_int, operator_name, result_shapes
from nteleport.core.labels import concatenate, is_constant, is_pinned, moved, pinned, reduce_to, reshape
from nteleport.core.parameter_rules import parameters_beside, view_of
from nteleport.core.products import MATMULS, PRODUCTS
from nteleport.core.walk import Flow, Labels, Propagation, pinned_like
from nteleport.core.weight_rules import (
    LOOKUPS,
    add_parameter,
    add_product,
    arranged,
    is_activation,
    multiply_parameter,
    normalization,
    weighted,
)


def unknown(node: Node, walk: Propagation) -> Flow:
    """Operands arrive unscaled and the result is pinned."""
    operands = walk.activations(node)
    if not operands:
        return Flow(None)
    return Flow(pinned_like(result_shapes(node)), walk.unscaled(operands))


def elementwise(node: Node, walk: Propagation) -> Flow | None:
    """The labels of the operand computed first pass through; the operator is conjugated, ``x ↦ τ f(x / τ)``.

    For the sum or product of two activations this is the identity edge of section 3 of the paper: the second
    operand is brought to the scale of the first.
    """
    operands = walk.activations(node)
    if not operands:
        return view_of(node, walk)
    scalable = [n for n in operands if is_scalable(n) and walk.labels_of(n) is not None]
    if not scalable:
        return None
    if len(operands) == 1:
        with_parameter = _binary_with_parameter(node, operands[0], walk)
        if with_parameter:
            return with_parameter
    labels = walk.labels_of(scalable[0])
    assert labels is not None
    shape = result_shapes(node)
    result = as_result(labels, shape)
    return Flow(result, walk.unscaled(operands), conjugated=True)


def affine(node: Node, walk: Propagation) -> Flow | None:
    """``addcmul``: a diagonal weight and a bias, or an elementwise operator."""
    return add_product(node, walk) or elementwise(node, walk)


def as_result(labels: Tensor, shape: Any) -> Labels:
    """Labels of a result of this shape. Of several results the first is scaled; the others are masks and
    indices."""
    if not isinstance(shape, list):
        return labels.expand(shape)
    return [labels.expand(shape[0]), *(pinned_like(s) for s in shape[1:])]


def is_scalable(node: Node) -> bool:
    """Whether a node holds numbers that can be multiplied by a scale."""
    value = node.meta.get("val")
    return isinstance(value, Tensor) and (value.is_floating_point() or value.is_complex())


def _binary_with_parameter(node: Node, activation: Node, walk: Propagation) -> Flow | None:
    name = operator_name(node)
    others = [n for n in node.args[:2] if isinstance(n, Node) and n is not activation]
    if name not in ("add", "sub", "mul") or len(others) != 1 or walk.parameter(others[0]) is None:
        return None
    rule = multiply_parameter if name == "mul" else add_parameter
    return rule(node, walk, activation, others[0])


def _with_labels(node: Node, walk: Propagation) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments of ``node`` with labels in place of activations."""

    def stand_in(operand: Node) -> Any:
        value = operand.meta.get("val")
        if operand in walk.constants and not is_scalable(operand):
            return walk.constants[operand]
        if isinstance(value, (torch.SymInt, int)):
            return as_int(value)
        labels, shapes = walk.labels.get(operand), result_shapes(operand)
        return pinned_like(shapes) if labels is None and shapes is not None else labels

    args, kwargs = map_arg((node.args, node.kwargs), stand_in)
    return args, kwargs


def move_data(node: Node, walk: Propagation) -> Flow | None:
    """Run the same operator on the labels; on scaled activations it runs unchanged."""
    if not walk.activations(node):
        return view_of(node, walk)
    args, kwargs = _with_labels(node, walk)
    labels = moved(_functional(node.target), *args, **kwargs)
    return Flow(labels if not isinstance(labels, list) else list(labels))


def _functional(target: Any) -> Any:
    """The out-of-place variant of an in-place operator."""
    name = target.overloadpacket.__name__ if isinstance(target, torch._ops.OpOverload) else ""
    if not name.endswith("_") or name.startswith("__"):
        return target
    return getattr(getattr(torch.ops.aten, name.rstrip("_")), target._overloadname)


def reshape_data(node: Node, walk: Propagation) -> Flow | None:
    """Views of other shapes, with the elements in the same order."""
    if not walk.activations(node):
        return view_of(node, walk)
    source, shape = node.args[0], result_shapes(node)
    labels = walk.labels_of(source)
    if labels is None or not isinstance(source, Node) or source.meta["val"].dtype != node.meta["val"].dtype:
        return None
    return Flow(reshape(labels, shape))


def join_data(node: Node, walk: Propagation) -> Flow | None:
    """``cat``: parameters concatenated with activations take their labels."""
    if not walk.activations(node):
        return view_of(node, walk)
    parts, axis = arguments(node)["tensors"], int(arguments(node).get("dim", 0))
    weights = parameters_beside(node, walk, parts, axis)
    labels = []
    for part in parts:
        own = weights[part].outputs if part in weights else walk.labels_of(part)
        labels.append(pinned(result_shapes(part)) if own is None else own.expand(result_shapes(part)))
    return Flow(concatenate(labels, axis), {}, weights)


def move_or_look_up(node: Node, walk: Propagation) -> Flow | None:
    """``index``, ``index_select``, ``gather``: known positions move data; positions known only at run time
    look up entries of a parameter, or pass labels that are constant along the axes they index."""
    given = arguments(node)
    indices = given.get("indices", [given.get("index", given.get("indices"))])
    if all(i is None or i in walk.constants for i in indices):
        return move_data(node, walk)
    if walk.parameter(given["self"]) is not None:
        return LOOKUPS[operator_name(node)](node, walk) if operator_name(node) in LOOKUPS else None
    labels = walk.labels_of(given["self"])
    if labels is None:
        return None
    name, shape = operator_name(node), result_shapes(node)
    if name != "index":
        axis = int(given["dim"])
        if not is_constant(labels, axis):
            return None
        return Flow(labels.narrow(axis, 0, 1).expand(shape))
    return _index_at_run_time(labels, list(given["indices"]), shape)


def _index_at_run_time(labels: Tensor, indices: list[Any], shape: torch.Size) -> Flow | None:
    """Leading axes are indexed and labels do not vary along them: the labels of the remaining axes stay."""
    taken = 0
    for position in indices:
        if position is None:
            return None
        value = position.meta["val"]
        taken += value.dim() if value.dtype in (torch.bool, torch.uint8) else 1
    if not all(is_constant(labels, axis) for axis in range(taken)):
        return None
    for _ in range(taken):
        labels = labels.select(0, 0) if labels.shape[0] else labels.sum(0)
    return Flow(labels.expand(shape))


def pad(node: Node, walk: Propagation) -> Flow | None:
    """Padding moves data; zeros may carry any labels, so they take those of their neighbors."""
    given = arguments(node)
    labels, widths = walk.labels_of(given["self"]), given["pad"]
    mode, value = given.get("mode", "constant"), given.get("value") or 0
    if not walk.activations(node):
        return view_of(node, walk)
    if labels is None or not isinstance(widths, (list, tuple)):
        return None
    if mode != "constant" or value:
        values = torch.nn.functional.pad(labels.double(), widths, mode=mode)
        return Flow(moved(Tensor.long, values))
    for axis, (before, after) in enumerate(zip(widths[::2], widths[1::2], strict=True)):
        axis, size = labels.dim() - 1 - axis, labels.shape[labels.dim() - 1 - axis]
        if is_constant(labels, axis):
            wider = list(labels.shape)
            wider[axis] = size + int(before) + int(after)
            labels = labels.narrow(axis, 0, 1).expand(wider)
        else:
            positions = torch.arange(-int(before), size + int(after)).clamp(0, size - 1)
            labels = labels.index_select(axis, positions)
    return Flow(labels)


def pool(node: Node, walk: Propagation) -> Flow | None:
    """Pooling and resampling over the last axes, as many as the operator's name says."""
    spatial = range(-int(next(c for c in operator_name(node) if c.isdigit())), 0)
    if not walk.activations(node) and walk.parameter(node.args[0]) is not None:  # a table, resized
        is_activation(node.args[0], walk, spatial[0] - 1)
    labels = walk.labels_of(node.args[0])
    if labels is None or not all(is_constant(labels, axis) for axis in spatial):
        return None
    for axis in spatial:
        labels = labels.narrow(axis, 0, 1)
    shape = result_shapes(node)
    result = as_result(labels, shape)
    return Flow(result, walk.unscaled(walk.activations(node)), conjugated=True)


def reduce_axes(node: Node, walk: Propagation) -> Flow | None:
    """Mean, maximum, sum and the like, over the given axes or all of them."""
    if not walk.activations(node):
        return view_of(node, walk)
    given, shape = arguments(node), result_shapes(node)
    labels = walk.labels_of(node.args[0])
    if labels is None:
        return None
    axes = given.get("dim")
    axes = [axes] if isinstance(axes, int) else list(axes or range(labels.dim()))
    if not all(is_constant(labels, int(axis)) for axis in axes):
        return None
    labels = reduced_shape(labels, axes, shape)
    every = operator_name(node) in ("std_mean", "var_mean", "aminmax")
    result: Labels = [labels.expand(s) for s in shape] if every else as_result(labels, shape)
    return Flow(result, walk.unscaled(walk.activations(node)), conjugated=True)


def reduced_shape(labels: Tensor, axes: Sequence[int], shape: Any) -> Tensor:
    """Labels that are constant along ``axes``, broadcastable to the (first) result of a reduction."""
    for axis in axes:
        labels = labels.narrow(int(axis), 0, min(1, labels.shape[int(axis)]))
    first = shape[0] if isinstance(shape, list) else shape
    if first is None or len(first) < labels.dim():
        for axis in sorted((int(axis) % labels.dim() for axis in axes), reverse=True):
            labels = labels.select(axis, 0)
    return labels


def gated(node: Node, walk: Propagation) -> Flow | None:
    """``glu``: the first half of an axis, gated by the second."""
    labels, axis = walk.labels_of(node.args[0]), int(arguments(node)["dim"])
    if labels is None:
        return None
    half = labels.narrow(axis, 0, labels.shape[axis] // 2)
    return Flow(half, walk.unscaled(walk.activations(node)), conjugated=True)


def product(node: Node, walk: Propagation) -> Flow | None:
    """A product with a parameter is a linear layer. In a product of two activations, the axes of one operand
    keep their scale where the other is pinned (attention)."""
    found = PRODUCTS[operator_name(node)](node)
    if found is None:
        return None
    if not walk.activations(node) and operator_name(node) in MATMULS:  # part of computing a weight
        return view_of(node, walk)
    as_weight = weighted(found, node, walk)
    if as_weight is not None or found.bias is not None:
        return as_weight
    for side in (found.swapped(), found):
        labels, other = walk.labels_of(side.left), walk.labels_of(side.right)
        axes = side.left_axes
        if labels is None or walk.parameter(side.right) or not (other is None or is_pinned(other)):
            continue
        dropped = [position for position, a in enumerate(axes) if a not in side.result_axes]
        if side.left_shape is None and all(is_constant(labels, position) for position in dropped):
            return _conjugated_with(arranged(labels, axes, side.result_axes), node, walk)
    return None


def attention(node: Node, walk: Propagation) -> Flow | None:
    """Scaled dot-product attention averages values over tokens: the scale of the values' channels passes
    through."""
    values = walk.labels_of(node.args[2])
    labels = values.narrow(-2, 0, 1) if values is not None and is_constant(values, -2) else None
    return _conjugated_with(labels, node, walk)


def _conjugated_with(labels: Tensor | None, node: Node, walk: Propagation) -> Flow | None:
    shape = result_shapes(node)
    if labels is None or reduce_to(pinned(shape), labels.shape) is None:
        return None
    return Flow(labels.expand(shape), walk.unscaled(walk.activations(node)), conjugated=True)


def normalize(node: Node, walk: Propagation) -> Flow | None:
    """With affine parameters, see ``normalization``; without, an elementwise operator. Normalizing a
    weight (weight standardization) is part of computing it."""
    name = operator_name(node)
    if not walk.activations(node) and "layer_norm" not in name and "rms_norm" not in name:
        return view_of(node, walk)
    flow = normalization(node, walk)
    return flow or (elementwise(node, walk) if walk.activations(node) else None)
