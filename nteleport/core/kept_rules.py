"""Rules of the operators that would be conjugated, where activations are kept.

Such an operator must commute with the scaling of its operands as it is. What it admits follows from its kind:
linear maps any non-zero number, maps that are linear on each side of 0 positive numbers, odd maps a sign.
Operands that meet are tied. A rule returns None where nothing commutes: then operands and result are pinned.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor
from torch.fx import Node

from nteleport.core.activation_rules import as_result, is_scalable, reduced_shape
from nteleport.core.calls import arguments, is_zero, operator_name, result_shapes
from nteleport.core.kept_product_rules import attention, product
from nteleport.core.kept_recurrent_rules import recurrent
from nteleport.core.labels import is_pinned, reduce_to
from nteleport.core.parameter_rules import view_of
from nteleport.core.products import PRODUCTS
from nteleport.core.ties import Restriction
from nteleport.core.walk import Flow, Propagation, Use, pinned_like
from nteleport.core.weight_rules import add_product, embedding, is_activation, join, multiply_parameter

Rule = Callable[[Node, Propagation], Flow | None]
_Admits = Restriction | None
"""What a map admits: positive numbers, a sign, or any non-zero number (None)."""


def _restricted(labels: Tensor, admits: _Admits, node: Node, walk: Propagation) -> Tensor:
    assert walk.ties is not None
    if admits is not None:
        walk.ties.restrict(labels, admits, operator_name(node))
    return walk.ties.resolve(labels)


def one_operand(node: Node, walk: Propagation, admits: _Admits = None) -> Flow | None:
    """An elementwise map of the first operand; parameters beside it are read as they are."""
    if not walk.activations(node):
        return view_of(node, walk)
    labels = walk.labels_of(node.args[0])
    if labels is None or not is_scalable(node.all_input_nodes[0]):
        return None
    others = [n for n in walk.activations(node) if n is not node.args[0]]
    return Flow(
        as_result(_restricted(labels, admits, node, walk), result_shapes(node)), walk.unscaled(others)
    )


def clamp(node: Node, walk: Propagation) -> Flow | None:
    """``clamp``, ``hardtanh``: linear on each side of 0, or odd, as the bounds say."""
    given = arguments(node)
    low, high = (given.get(a, given.get(b)) for a, b in (("min", "min_val"), ("max", "max_val")))
    if (low, high) in ((0, None), (None, 0)):
        return one_operand(node, walk, "positive")
    if isinstance(low, (int, float)) and isinstance(high, (int, float)) and low == -high:
        return one_operand(node, walk, "sign")
    return None


def threshold(node: Node, walk: Propagation) -> Flow | None:
    """A ReLU where both numbers are 0."""
    given = arguments(node)
    return one_operand(node, walk, "positive") if given["threshold"] == given["value"] == 0 else None


def masked(node: Node, walk: Propagation) -> Flow | None:
    """``masked_fill`` with zeros."""
    return one_operand(node, walk) if arguments(node)["value"] == 0 else None


def shape_alone(node: Node, walk: Propagation) -> Flow | None:
    """The result does not depend on the numbers in its operands."""
    return Flow(pinned_like(result_shapes(node)))


def merged(node: Node, walk: Propagation, admits: _Admits = None, *, first: int = 0) -> Flow | None:
    """Sums, selections and maxima of two operands, ``first`` and the one after it: position by position they
    must agree. A parameter takes the labels of the activation beside it; a constant pins, unless it is 0."""
    assert walk.ties is not None
    if not walk.activations(node):
        return view_of(node, walk)
    operands, shape, name = list(node.args[first : first + 2]), result_shapes(node), operator_name(node)
    known = [labels for n in operands if (labels := walk.labels_of(n)) is not None]
    if not known or not isinstance(shape, torch.Size):
        return None
    labels, weights = known[0].expand(shape), dict[Node, Use]()
    for other in known[1:]:
        walk.ties.tie(labels, other.expand(shape), name)
    for operand in operands:
        if walk.labels_of(operand) is not None:
            continue
        if isinstance(operand, Node) and walk.parameter(operand) is not None:
            along = walk.reduced_to(labels, result_shapes(operand), name)
            use = join(walk, operand, along, name, None)
            if use is None:
                return None
            weights[operand] = use
        elif not is_zero(operand):
            return None
    conditions = [n for n in walk.activations(node) if n not in operands]
    return Flow(_restricted(labels, admits, node, walk), walk.unscaled(conditions), weights)


def largest(node: Node, walk: Propagation) -> Flow | None:
    """``max``, ``min``: of two operands, or along an axis."""
    two = len(node.args) > 1 and isinstance(node.args[1], Node)
    return merged(node, walk, "positive") if two else reduced(node, walk, "positive")


def multiplied(node: Node, walk: Propagation) -> Flow | None:
    """A product keeps the labels of one operand: the other is a parameter, a constant or pinned. Of two
    activations the one computed second is pinned."""
    assert walk.ties is not None
    operands, shape = walk.activations(node), result_shapes(node)
    if not operands:
        return view_of(node, walk)
    factors = [n for n in node.args[:2] if isinstance(n, Node)]
    if len(operands) == 1:
        parameters = [n for n in factors if walk.parameter(n) is not None]
        if parameters and factors[0] is not factors[-1]:
            flow = _by_parameter(node, walk, operands[0], parameters[0])
            if flow is not None:
                return flow
        if factors.count(operands[0]) != 1:
            return None
    labels = [walk.labels_of(n) for n in operands]
    free = [n for n, own in zip(operands, labels, strict=True) if own is not None and not is_pinned(own)]
    kept = free[0] if free else operands[0]
    own = walk.labels_of(kept)
    if own is None:
        return None
    return Flow(own.expand(shape), walk.unscaled(n for n in operands if n is not kept))


def _by_parameter(node: Node, walk: Propagation, activation: Node, parameter: Node) -> Flow | None:
    """A diagonal weight, where the labels do not vary between positions that share an element of it."""
    carried, view = walk.labels_of(activation), walk.parameter(parameter)
    assert carried is not None
    assert view is not None
    shape = torch.broadcast_shapes(carried.shape, view.shape)
    if reduce_to(carried.expand(shape), view.shape) is None:
        return None
    return multiply_parameter(node, walk, activation, parameter)


def divided(node: Node, walk: Propagation) -> Flow | None:
    """A quotient keeps the labels of its numerator; the denominator is pinned."""
    if not walk.activations(node):
        return view_of(node, walk)
    given = arguments(node)
    labels, below = walk.labels_of(node.args[0]), node.args[1]
    if labels is None or given.get("rounding_mode") is not None or below is node.args[0]:
        return None
    demanded = walk.unscaled([below]) if isinstance(below, Node) else {}
    return Flow(labels.expand(result_shapes(node)), demanded)


def affine(node: Node, walk: Propagation) -> Flow | None:
    """``addcmul`` as a diagonal weight with a bias."""
    return add_product(node, walk)


def pooled(node: Node, walk: Propagation, admits: _Admits = None) -> Flow | None:
    """Pooling and resampling over the last axes, as many as the operator's name says: labels are tied along
    them."""
    spatial = range(-int(next(c for c in operator_name(node) if c.isdigit())), 0)
    if not walk.activations(node) and walk.parameter(node.args[0]) is not None:  # a table, resized
        is_activation(node.args[0], walk, spatial[0] - 1)
    labels = walk.labels_of(node.args[0])
    if labels is None:
        return None
    labels = walk.constant_along(labels, spatial, operator_name(node))
    assert labels is not None
    for axis in spatial:
        labels = labels.narrow(axis, 0, 1)
    return Flow(as_result(_restricted(labels, admits, node, walk), result_shapes(node)))


def reduced(node: Node, walk: Propagation, admits: _Admits = None) -> Flow | None:
    """Sums, means, maxima and norms: labels are tied along the axes that they reduce or mix."""
    if not walk.activations(node):
        return view_of(node, walk)
    given = arguments(node)
    labels = walk.labels_of(node.args[0])
    if labels is None or given.get("ord", given.get("p")) == 0:
        return None
    axes = given.get("dim")
    axes = [axes] if isinstance(axes, int) else list(axes or range(labels.dim()))
    labels = walk.constant_along(labels, axes, operator_name(node))
    assert labels is not None
    shape = result_shapes(node)
    labels = _restricted(reduced_shape(labels, axes, shape), admits, node, walk)
    if operator_name(node) in ("std_mean", "aminmax"):
        return Flow([labels.expand(s) for s in shape])
    return Flow(as_result(labels, shape))


def gated(node: Node, walk: Propagation) -> Flow | None:
    """``glu``: the first half of an axis passes, the gates are pinned."""
    assert walk.ties is not None
    labels, axis = walk.labels_of(node.args[0]), int(arguments(node)["dim"])
    if labels is None:
        return None
    half, gates = labels.chunk(2, axis)
    walk.ties.pin(gates, operator_name(node))
    return Flow(walk.ties.resolve(half))


def bagged(node: Node, walk: Propagation) -> Flow | None:
    """``embedding_bag``: sums, means or maxima of rows."""
    flow = embedding(node, walk)
    if flow is None or not isinstance(flow.result, list):
        return flow
    labels = _restricted(flow.result[0], "positive" if arguments(node)["mode"] == 2 else None, node, walk)
    return Flow([labels, *flow.result[1:]], flow.operands, flow.weights)


def _rules(words: str, rule: Rule) -> dict[str, Rule]:
    return dict.fromkeys(words.split(), rule)


def _for_each_size(kinds: Sequence[str]) -> str:
    return " ".join(kind.format(d) for kind in kinds for d in (1, 2, 3))


_POSITIVE, _SIGN = partial(one_operand, admits="positive"), partial(one_operand, admits="sign")

SHAPE_ALONE = frozenset(
    """zeros_like ones_like full_like empty_like rand_like randn_like new_zeros new_ones new_full
    new_empty""".split()
)
"""Operators whose result does not depend on the numbers in their operands."""

KEPT_RULES: dict[str, Rule] = {
    **_rules(
        """dropout feature_dropout native_dropout clone lift_fresh lift_fresh_copy to _to_copy type_as float
        double half bfloat16 contiguous neg negative positive""",
        one_operand,
    ),
    **_rules("relu leaky_relu rrelu rrelu_with_noise prelu _prelu_kernel abs absolute", _POSITIVE),
    **_rules(
        """tanh sin sinh asin asinh tan atan arctan atanh erf erfinv softsign tanhshrink softshrink
        hardshrink round trunc fix""",
        _SIGN,
    ),
    **_rules("clamp clip hardtanh", clamp),
    "threshold": threshold,
    "masked_fill": masked,
    **dict.fromkeys(SHAPE_ALONE, shape_alone),
    **_rules("add sub subtract rsub", merged),
    "where": partial(merged, first=1),
    **_rules("maximum minimum fmax fmin", partial(merged, admits="positive")),
    **_rules("max min", largest),
    **_rules("mul multiply", multiplied),
    **_rules("div divide true_divide", divided),
    "addcmul": affine,
    **_rules(
        _for_each_size(
            [
                *("avg_pool{}d", "adaptive_avg_pool{}d", "_adaptive_avg_pool{}d"),
                *("upsample_nearest{}d", "_upsample_nearest_exact{}d"),
            ]
        )
        + """ upsample_linear1d upsample_bilinear2d upsample_bicubic2d upsample_trilinear3d
        _upsample_bilinear2d_aa _upsample_bicubic2d_aa""",
        pooled,
    ),
    **_rules(
        _for_each_size(["max_pool{}d", "max_pool{}d_with_indices", "adaptive_max_pool{}d"])
        + " fractional_max_pool2d fractional_max_pool3d",
        partial(pooled, admits="positive"),
    ),
    **_rules("mean sum cumsum", reduced),
    **_rules(
        """amax amin aminmax median mode kthvalue topk sort cummax cummin norm linalg_vector_norm std
        std_mean quantile""",
        partial(reduced, admits="positive"),
    ),
    "glu": gated,
    **dict.fromkeys(PRODUCTS, product),
    "scaled_dot_product_attention": attention,
    **_rules("embedding_bag _embedding_bag", bagged),
    **_rules("lstm gru rnn_tanh rnn_relu lstm_cell gru_cell rnn_tanh_cell rnn_relu_cell", recurrent),
}
"""In place of the rules of conjugated operators; operators that move data or own parameters have one rule."""
