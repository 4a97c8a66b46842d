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
from nteleport.core.labels import is_pinned, pinned, reduce_to
from nteleport.core.parameter_rules import view_of
from nteleport.core.parameter_views import ParameterView
from nteleport.core.products import MATMULS, PRODUCTS, Product
from nteleport.core.recurrent_rules import KINDS, Step, project, steps_of
from nteleport.core.ties import Restriction
from nteleport.core.walk import Flow, Propagation, Use, pinned_like
from nteleport.core.weight_rules import (
    add_product,
    arranged,
    embedding,
    is_activation,
    join,
    multiply_parameter,
    weighted,
)

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


def product(node: Node, walk: Propagation) -> Flow | None:
    """A product with a parameter is a linear layer. Of two activations, either one is pinned and the other's
    labels pass, or they are inverse to one another along the axes that both have (queries and keys)."""
    found = PRODUCTS[operator_name(node)](node)
    if found is None:
        return None
    if not walk.activations(node) and operator_name(node) in MATMULS:  # part of computing a weight
        return view_of(node, walk)
    as_weight = weighted(found, node, walk)
    if as_weight is not None:
        return as_weight
    result = _of_activations(found, node, walk)
    if result is None or found.bias is None or is_zero(found.bias):
        return result
    assert isinstance(result.result, Tensor)
    if not is_pinned(result.result):
        return None
    result.operands.update(walk.unscaled([found.bias]))
    return result


def _of_activations(found: Product, node: Node, walk: Propagation) -> Flow | None:
    """A product without a weight."""
    for side in (found.swapped(), found):
        labels, other = walk.labels_of(side.left), walk.labels_of(side.right)
        if labels is not None and (other is None or is_pinned(other)) and side.left is not side.right:
            return _passed(side, labels, node, walk)
    return _inverse(found, node, walk)


def _passed(side: Product, labels: Tensor, node: Node, walk: Propagation) -> Flow | None:
    """The labels of the left operand, tied along the axes that are summed over."""
    axes, name = side.left_axes, operator_name(node)
    if side.left_shape is not None:
        return None
    dropped = [position for position, a in enumerate(axes) if a not in side.result_axes]
    constant = walk.constant_along(labels, dropped, name)
    assert constant is not None
    result = arranged(constant, axes, side.result_axes)
    unscaled = walk.unscaled([side.right]) if isinstance(side.right, Node) else {}
    return Flow(result.expand(result_shapes(node)), unscaled)


def _inverse(found: Product, node: Node, walk: Propagation) -> Flow | None:
    """Both operands are scaled, each other's inverse along the axes that both have."""
    assert walk.ties is not None
    left, right = walk.labels_of(found.left), walk.labels_of(found.right)
    if left is None or right is None or found.left_shape is not None or found.left is found.right:
        return None
    name = operator_name(node)
    shared = [a for a in found.left_axes if a in found.right_axes]
    sides = []
    for labels, axes in ((left, found.left_axes), (right, found.right_axes)):
        own = [position for position, a in enumerate(axes) if a not in shared]
        constant = walk.constant_along(labels, own, name)
        sides.append(arranged(constant, axes, shared))
    walk.ties.tie(sides[0], -sides[1], name)
    return Flow(pinned(result_shapes(node)))


def attention(node: Node, walk: Propagation) -> Flow | None:
    """Scaled dot-product attention: queries and keys are inverse to one another, per head and channel; the
    labels of values pass. All are tied along tokens."""
    assert walk.ties is not None
    given, name = arguments(node), operator_name(node)
    operands = [given["query"], given["key"], given["value"]]
    labels = [walk.labels_of(n) for n in operands]
    if any(own is None for own in labels) or len(set(operands)) < 3:
        return None
    query, key, value = (
        walk.ties.tie_along(own, [-2], name).narrow(-2, 0, 1) for own in labels if own is not None
    )
    if given.get("enable_gqa"):
        groups = query.shape[-3] // key.shape[-3]
        key, value = (own.repeat_interleave(groups, -3) for own in (key, value))
    walk.ties.tie(query, -key, name)
    others = [n for n in walk.activations(node) if n not in operands]
    return Flow(walk.ties.resolve(value).expand(result_shapes(node)), walk.unscaled(others))


def bagged(node: Node, walk: Propagation) -> Flow | None:
    """``embedding_bag``: sums, means or maxima of rows."""
    flow = embedding(node, walk)
    if flow is None or not isinstance(flow.result, list):
        return flow
    labels = _restricted(flow.result[0], "positive" if arguments(node)["mode"] == 2 else None, node, walk)
    return Flow([labels, *flow.result[1:]], flow.operands, flow.weights)


def recurrent(node: Node, walk: Propagation) -> Flow | None:
    """``lstm``, ``gru`` and their like, over a sequence or as cells.

    Inputs are read through linear maps, which undo any scaling. A hidden unit may change its sign, with a
    ReLU its size: an LSTM's candidate ``g`` does, then ``c = f · c + i · g``, then ``h = o · tanh(c)``; a
    GRU's ``n`` does, then ``h = (1 − z) · n + z · h``. Gates are pinned. The states at the start must have
    the same scaling: zeros have any.
    """
    assert walk.ties is not None
    given, name = arguments(node), operator_name(node)
    source = given.get("input", given.get("data"))
    labels = walk.labels_of(source)
    if labels is None:
        return None
    labels = walk.constant_along(labels, range(labels.dim() - 1), name)
    assert labels is not None
    inputs, weights = labels[(0,) * (labels.dim() - 1)], dict[Node, Use]()
    is_cell, directions = "w_ih" in given, 1 + bool(given.get("bidirectional"))
    if is_cell:
        biases = tuple(given[bias] for bias in ("b_ih", "b_hh") if given[bias] is not None)
        steps = [Step(given["w_ih"], given["w_hh"], biases, None)]
    else:
        steps = steps_of(given["params"], int(given["num_layers"]) * directions, bool(given["has_biases"]))
    hidden, memory = list[Tensor](), list[Tensor]()
    for position, step in enumerate(steps):
        if position and position % directions == 0:
            inputs = torch.cat(hidden[-directions:])
        found = _recurrent_step(step, inputs, node, walk, weights)
        if found is None:
            return None
        hidden.append(found[0])
        memory.append(found[1])
    states = given["hx"] if isinstance(given["hx"], (list, tuple)) else [given["hx"]]
    shapes = result_shapes(node)
    shapes = shapes if isinstance(shapes, list) else [shapes]
    final = [
        each[0] if is_cell else torch.stack(each).view(len(each), *[1] * (len(shape) - 2), -1)
        for each, shape in zip((hidden, memory), shapes[-len(states) :], strict=False)
    ]
    for state, wanted in zip(states, final, strict=True):
        if not is_zero(state):
            carried = walk.labels_of(state)
            walk.ties.tie(wanted, pinned(()) if carried is None else carried, name)
    results = final if is_cell else [torch.cat(hidden[-directions:]), *final]
    resolved = [walk.ties.resolve(r.expand(s)) for r, s in zip(results, shapes, strict=True)]
    others = walk.unscaled(n for n in walk.activations(node) if n is not source and n not in states)
    return Flow(resolved if isinstance(result_shapes(node), list) else resolved[0], others, weights)


def _recurrent_step(
    step: Step, inputs: Tensor, node: Node, walk: Propagation, weights: dict[Node, Use]
) -> tuple[Tensor, Tensor] | None:
    """Use the parameters of one layer in one direction; returns the labels of its hidden state and of its
    neurons, which are also those of an LSTM's memory. They are pinned if a parameter cannot follow."""
    assert walk.ties is not None
    ties, name = walk.ties, operator_name(node)
    kind = KINDS[name.removesuffix("_cell")]
    view = walk.parameter(step.weight_ih)
    if view is None:
        return None
    rows = None if walk.known_use(view, "recurrent") else walk.fresh(view.names[0], view.shape[0])
    use = _used_again(view, rows, inputs, name, walk)
    if use is None or use.outputs is None:
        return None
    weights[step.weight_ih] = use
    rows = use.outputs.reshape(-1)
    gates = rows.view(kind.gates, -1)
    neurons = gates[kind.candidate]
    ties.pin(torch.cat([gates[: kind.candidate], gates[kind.candidate + 1 :]]), name)
    ties.restrict(neurons, kind.admits, name)
    hidden: Tensor | None = neurons
    if step.projection is not None:
        hidden = project(step.projection, neurons, name, walk, weights)
    found = {bias: join(walk, bias, rows, name, None) for bias in step.biases}
    view = walk.parameter(step.weight_hh)
    if view is not None and hidden is not None:
        found[step.weight_hh] = _used_again(view, rows, hidden, name, walk)
    used = {parameter: each for parameter, each in found.items() if each is not None}
    weights.update(used)
    if hidden is None or len(used) < 1 + len(step.biases):
        ties.pin(rows, name)
        hidden = pinned(result_shapes(step.projection)[:1] if step.projection else neurons.shape)
    return hidden, neurons


def _used_again(
    view: ParameterView, rows: Tensor | None, columns: Tensor, operator: str, walk: Propagation
) -> Use | None:
    """The use of a matrix of a recurrent network; an earlier one is tied to these labels."""
    assert walk.ties is not None
    known = walk.known_use(view, "recurrent")
    if known is None or known.outputs is None or known.inputs is None:
        take = walk.use if walk.is_free(view) else walk.tied_use
        outputs = None if rows is None else rows.view(-1, 1)
        return take(view, "recurrent", operator, outputs=outputs, inputs=columns.view(1, -1))
    known.count += 1
    walk.ties.tie(columns, known.inputs.view(-1), operator)
    if rows is not None:
        walk.ties.tie(rows, known.outputs.reshape(-1), operator)
    return known


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
