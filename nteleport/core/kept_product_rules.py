"""Rules of products and of attention, where activations are kept.

A product commutes with the scaling of one factor, or of both where they are inverse to one another. Labels
are tied along the axes that are summed over. A rule returns None where nothing commutes.
"""

from __future__ import annotations

from torch import Tensor
from torch.fx import Node

from nteleport.core.calls import arguments, is_zero, operator_name, result_shapes
from nteleport.core.labels import is_pinned, pinned
from nteleport.core.parameter_rules import view_of
from nteleport.core.products import MATMULS, PRODUCTS, Product
from nteleport.core.walk import Flow, Propagation
from nteleport.core.weight_rules import arranged, weighted


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
