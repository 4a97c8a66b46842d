"""Rules: what each ATen operator does to a scaling of its operands.

A table keyed by operator name and grouped by algebraic property (section 2 of the design). An operator
without a rule is safe: its result is pinned and the parameters it reads stay untouched, so a missing rule
makes a teleportation poorer, never wrong.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node
from torch.fx.node import map_arg

from nteleport.labels import is_constant, is_pinned, pinned, reduce_to
from nteleport.propagation import Flow, Labels, ParameterRead, Propagation, operator_name, result_shapes
from nteleport.weight_rules import NORMS, WEIGHTED, add_parameter, embedding, multiply_parameter

Rule = Callable[[Node, Propagation], Flow]

MOVES_DATA = frozenset(
    """view _unsafe_view reshape flatten unflatten permute transpose t numpy_T mT mH adjoint movedim
    moveaxis swapaxes swapdims squeeze unsqueeze expand expand_as view_as reshape_as broadcast_to cat
    concat stack hstack vstack chunk split split_with_sizes tensor_split unsafe_chunk unsafe_split
    unbind select slice narrow roll flip contiguous detach alias repeat repeat_interleave tile unfold
    channel_shuffle pixel_shuffle pixel_unshuffle getitem""".split()
)
"""They only move elements: the same operator moves the labels."""

ELEMENTWISE = frozenset(
    """dropout feature_dropout alpha_dropout feature_alpha_dropout clone lift_fresh to type_as float double
    relu relu6 leaky_relu rrelu prelu elu celu selu gelu silu mish softplus softsign softshrink
    hardshrink hardtanh hardsigmoid hardswish tanhshrink threshold sigmoid logsigmoid log_sigmoid tanh
    add sub rsub mul div where maximum minimum clamp""".split()
)
"""They act on each element alone (besides all that torch tags as pointwise): conjugated, labels pass."""

POOLS = frozenset(
    [
        f"{kind}{d}d"
        for d in (1, 2, 3)
        for kind in ("max_pool", "avg_pool", "adaptive_avg_pool", "adaptive_max_pool")
    ]
    + [
        "upsample_nearest1d",
        "upsample_nearest2d",
        "upsample_nearest3d",
        "upsample_linear1d",
        "upsample_bilinear2d",
    ]
    + ["upsample_bicubic2d", "upsample_trilinear3d", "_upsample_nearest_exact2d", "_upsample_bilinear2d_aa"]
)
"""They mix positions within a channel: conjugated, labels pass per channel."""

REDUCTIONS = frozenset(["mean", "sum", "amax", "amin", "logsumexp"])
"""They fold whole axes: conjugated, labels pass where they are constant along those axes."""

# A view of the activation need not be a view of its (expanded) labels.
_LABEL_OPERATORS = {"view": torch.reshape, "_unsafe_view": torch.reshape, "view_as": torch.reshape}


def propagate(node: Node, walk: Propagation) -> None:
    """Apply the rule of one ``call_function`` node to the walk."""
    walk.finish(node, _rule_for(node)(node, walk))


def _rule_for(node: Node) -> Rule:
    name = operator_name(node)
    value = node.meta.get("val")
    if isinstance(value, Tensor) and not value.is_floating_point():
        return unknown
    if name in RULES:
        return RULES[name]
    return elementwise if _tagged_pointwise(node, name) else unknown


def _tagged_pointwise(node: Node, name: str) -> bool:
    if not isinstance(node.target, torch._ops.OpOverload):
        return False
    functional = getattr(torch.ops.aten, name, None)
    overloads = [node.target] + (
        [getattr(functional, o) for o in functional.overloads()] if functional else []
    )
    return any(torch.Tag.pointwise in overload.tags for overload in overloads)


def unknown(node: Node, walk: Propagation) -> Flow:
    """Operands arrive unscaled and the result is pinned."""
    operands = walk.activations(node)
    if not operands:
        return Flow(None)
    return Flow(_pinned_like(result_shapes(node)), walk.unscaled(operands))


def _pinned_like(shapes: Any) -> Labels:
    if isinstance(shapes, list):
        return [_pinned_like(s) for s in shapes]
    return None if shapes is None else pinned(shapes)


def elementwise(node: Node, walk: Propagation) -> Flow:
    """Labels of the operand computed first pass; the operator is conjugated, ``x ↦ τ f(x / τ)``.

    For the sum or product of two activations this is the identity edge of section 3 of the paper: the second
    operand is brought to the scale of the first.
    """
    operands = walk.activations(node)
    labels = walk.labels_of(operands[0]) if operands else None
    if labels is None:
        return unknown(node, walk)
    if len(operands) == 1 and isinstance(node.args[0], Node):
        with_parameter = _binary_with_parameter(node, operands[0], walk)
        if with_parameter:
            return with_parameter
    return Flow(labels.expand(result_shapes(node)), walk.unscaled(operands), conjugated=True)


def _binary_with_parameter(node: Node, activation: Node, walk: Propagation) -> Flow | None:
    name = operator_name(node)
    others = [n for n in node.args[:2] if isinstance(n, Node) and n is not activation]
    if len(others) != 1 or walk.parameter(others[0]) is None:
        return None
    if name in ("add", "sub"):
        return add_parameter(node, walk, activation, others[0])
    return multiply_parameter(node, walk, activation, others[0]) if name == "mul" else None


def move_data(node: Node, walk: Propagation) -> Flow:
    """Run the same operator on the labels; the operator runs as it is on scaled activations."""
    if not walk.activations(node):
        read = _transposed_parameter(node, walk)
        if read is None:
            return Flow(None)
        walk.parameters[node] = read
        return Flow(None, raw_parameters=frozenset(node.all_input_nodes))

    def stand_in(operand: Node) -> Any:
        labels, shapes = walk.labels.get(operand), result_shapes(operand)
        return _pinned_like(shapes) if labels is None and shapes is not None else labels

    run: Any = _LABEL_OPERATORS.get(operator_name(node), node.target)
    args, kwargs = map_arg((node.args, node.kwargs), stand_in)
    if operator_name(node) == "view_as":
        args = (args[0], result_shapes(node))
    moved = run(*args, **kwargs)
    return Flow(list(moved) if isinstance(moved, tuple) else moved)


def _transposed_parameter(node: Node, walk: Propagation) -> ParameterRead | None:
    """The matrix parameter that ``node`` transposes, if that is what it does."""
    read = walk.parameter(node.args[0])
    source = node.all_input_nodes[0] if node.all_input_nodes else None
    if read is None or source is None or len(result_shapes(source)) != 2:
        return None
    name = operator_name(node)
    swaps = name in ("t", "numpy_T", "mT") or (
        name in ("transpose", "swapaxes", "swapdims") and int(node.args[1]) % 2 != int(node.args[2]) % 2  # type: ignore[arg-type]
    )
    if name == "permute":
        swaps = [int(axis) % 2 for axis in node.args[1]] == [1, 0]  # type: ignore[union-attr,arg-type]
    return ParameterRead(read.name, not read.transposed) if swaps else None


def pad(node: Node, walk: Propagation) -> Flow:
    """Padding moves data; zeros may carry any labels, so they take those of their neighbours."""
    source = node.args[0]
    labels, widths = walk.labels_of(source), node.args[1]
    mode = node.args[2] if operator_name(node) == "pad" and len(node.args) > 2 else "constant"
    value = node.args[-1] if isinstance(node.args[-1], (int, float)) else node.kwargs.get("value", 0)
    if labels is None or not isinstance(widths, (list, tuple)):
        return unknown(node, walk)
    if mode != "constant" or value:
        moved = torch.nn.functional.pad(labels.double(), widths, mode=str(mode))  # type: ignore[arg-type]
        return Flow(moved.long())
    for axis, (before, after) in enumerate(zip(widths[::2], widths[1::2], strict=True)):
        axis, size = labels.dim() - 1 - axis, labels.shape[labels.dim() - 1 - axis]
        positions = torch.arange(-int(before), size + int(after)).clamp(0, size - 1)
        labels = labels.index_select(axis, positions)
    return Flow(labels)


def pool(node: Node, walk: Propagation) -> Flow:
    """Pooling and resampling over the last axes, as many as the operator's name says."""
    labels, name = walk.labels_of(node.args[0]), operator_name(node)
    spatial = range(-int(next(c for c in name if c.isdigit())), 0)
    shape = result_shapes(node)
    if labels is None or isinstance(shape, list) or not all(is_constant(labels, axis) for axis in spatial):
        return unknown(node, walk)
    for axis in spatial:
        labels = labels.narrow(axis, 0, 1)
    return Flow(labels.expand(shape), walk.unscaled(walk.activations(node)), conjugated=True)


def reduce_axes(node: Node, walk: Propagation) -> Flow:
    """Mean, sum and the like over given axes."""
    labels = walk.labels_of(node.args[0])
    axes = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim")
    axes = [axes] if isinstance(axes, int) else axes
    if labels is None or not isinstance(axes, (list, tuple)) or not axes:
        return unknown(node, walk)
    if not all(is_constant(labels, int(axis)) for axis in axes):
        return unknown(node, walk)
    kept = bool(node.args[2]) if len(node.args) > 2 else bool(node.kwargs.get("keepdim", False))
    reduced = labels.amax([int(axis) for axis in axes], keepdim=kept)
    return Flow(reduced, walk.unscaled(walk.activations(node)), conjugated=True)


def product(node: Node, walk: Propagation) -> Flow:
    """Matrix product of two activations: columns keep their scale where the other operand is pinned
    (attention)."""
    left, right = (walk.labels_of(n) for n in node.args[:2])
    shape = result_shapes(node)
    labels = None
    if right is not None and right.dim() > 1 and (left is None or is_pinned(left)) and is_constant(right, -2):
        labels = right.narrow(-2, 0, 1)
    elif (
        left is not None and left.dim() > 1 and (right is None or is_pinned(right)) and is_constant(left, -1)
    ):
        labels = left.narrow(-1, 0, 1)
    return _conjugated_with(labels, shape, node, walk)


def attention(node: Node, walk: Propagation) -> Flow:
    """Scaled dot-product attention averages values over tokens: the scale of the values' channels passes."""
    values = walk.labels_of(node.args[2])
    labels = values.narrow(-2, 0, 1) if values is not None and is_constant(values, -2) else None
    return _conjugated_with(labels, result_shapes(node), node, walk)


def _conjugated_with(labels: Tensor | None, shape: torch.Size, node: Node, walk: Propagation) -> Flow:
    if labels is None or reduce_to(pinned(shape), labels.shape) is None:
        return unknown(node, walk)
    return Flow(labels.expand(shape), walk.unscaled(walk.activations(node)), conjugated=True)


def matmul(node: Node, walk: Propagation) -> Flow:
    """A product with a parameter is a linear layer; with another activation, see :func:`product`."""
    return WEIGHTED["mm"](node, walk) or product(node, walk)


def _or_unknown(rule: Callable[[Node, Propagation], Flow | None]) -> Rule:
    return lambda node, walk: rule(node, walk) or unknown(node, walk)


def _norm(node: Node, walk: Propagation) -> Flow:
    return NORMS[operator_name(node)](node, walk) or elementwise(node, walk)


RULES: dict[str, Rule] = {
    **dict.fromkeys(MOVES_DATA, move_data),
    **dict.fromkeys(ELEMENTWISE, elementwise),
    **dict.fromkeys(POOLS, pool),
    **dict.fromkeys(REDUCTIONS, reduce_axes),
    **{name: _or_unknown(rule) for name, rule in WEIGHTED.items()},
    **dict.fromkeys(NORMS, _norm),
    "embedding": _or_unknown(embedding),
    "pad": pad,
    "constant_pad_nd": pad,
    "matmul": matmul,
    "mm": matmul,
    "bmm": product,
    "scaled_dot_product_attention": attention,
    operator.getitem.__name__: move_data,
}
