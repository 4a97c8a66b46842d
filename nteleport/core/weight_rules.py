"""Rules of the operators that own parameters: products with a weight, normalizations, lookups.

Each uses its parameters with one factor per side (section 3 of the paper): ``w'_ij = w_ij τ_i / τ_j``,
``b'_i = b_i τ_i``, ``γ'_i = γ_i τ_i``. A rule returns None when the operator must be treated as unknown.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from nteleport.core.calls import arguments, operator_name, result_shapes
from nteleport.core.labels import pinned, reduce_to, reshape, spread
from nteleport.core.parameter_views import ParameterView
from nteleport.core.products import Letters, Product
from nteleport.core.walk import Flow, Propagation, Use, pinned_like

WeightRule = Callable[[Node, Propagation], Flow | None]


def weighted(product: Product, node: Node, walk: Propagation) -> Flow | None:
    """A layer that is linear in its input: input labels become the input side of the weight, fresh labels its
    output side."""
    if walk.parameter(product.right) is None or walk.labels_of(product.right) is not None:
        product = product.swapped()
    source, view = product.left, walk.parameter(product.right)
    if view is None or not is_activation(source, walk):
        return None
    if product.right_shape is not None:
        shape = product.right_shape
        view = view.moved(lambda elements: elements.reshape(tuple(shape)))
    use = _weight_use(product, view, node, walk)
    if use is None:
        return None
    axes = product.right_axes
    shape = product.result_shape or result_shapes(node)
    result = arranged(use.outputs, axes, product.result_axes).expand(tuple(shape))
    result = reshape(result, result_shapes(node))
    shape = product.left_shape or result_shapes(source)
    demanded = pinned(result_shapes(source))
    if use.inputs is not None:
        demanded = arranged(use.inputs, axes, product.left_axes).expand(tuple(shape))
        demanded = reshape(demanded, result_shapes(source))
    weights = {product.right: use}
    if product.bias is not None:
        joined = _join_bias(product, result, node, walk)
        if joined is None:  # it cannot carry the scale of the result
            return Flow(result, walk.unscaled(walk.activations(node)), weights, conjugated=True)
        weights[product.bias] = joined
    return Flow(result, {source: demanded}, weights)


def _weight_use(product: Product, view: ParameterView, node: Node, walk: Propagation) -> Use | None:
    axes, source_axes = product.right_axes, product.left_axes
    kind = ("product", tuple((a in source_axes, a in product.result_axes) for a in axes))
    known, operator = walk.known_use(view, kind), operator_name(node)
    if known:
        known.count += 1
        return known
    free = walk.is_free(view)
    if not free and walk.ties is None:
        return None
    carried = walk.labels_of(product.left)
    assert carried is not None
    labels = reshape(carried, product.left_shape or carried.shape)
    absent = [position for position, a in enumerate(source_axes) if a not in axes]
    constant = walk.constant_along(labels, absent, operator)
    inputs = None if constant is None else arranged(constant, source_axes, axes)
    sizes = [n if a in product.result_axes else 1 for a, n in zip(axes, view.shape, strict=True)]
    outputs = walk.fresh_labels(view, sizes)
    if outputs is None:
        return None
    if not free:
        return walk.tied_use(view, kind, operator, outputs=outputs, inputs=inputs)
    ended_by = walk.ended_by.get(product.left)
    return walk.use(view, kind, operator, outputs=outputs, inputs=inputs, ended_by=ended_by)


def arranged(labels: Tensor | None, axes: Letters, wanted: Letters) -> Tensor:
    """Labels over ``axes`` as labels over the axes ``wanted``, of size 1 where ``axes`` lack one. They must
    be constant along the axes that are dropped."""
    assert labels is not None
    kept = [position for position, a in enumerate(axes) if a in wanted]
    for position in range(labels.dim()):
        if position not in kept:
            labels = labels.narrow(position, 0, min(1, labels.shape[position]))
    present = [axes[position] for position in kept]
    labels = labels.reshape([labels.shape[position] for position in kept])
    labels = labels.permute([present.index(a) for a in wanted if a in present])
    for position, a in enumerate(wanted):
        if a not in present:
            labels = labels.unsqueeze(position)
    return labels


def is_activation(node: Any, walk: Propagation, axis: int = -1) -> bool:
    """Whether ``node`` has labels. A value that does not depend on the network's inputs gets some where it
    takes the place of an activation: constants are pinned, parameters (learned tokens) get fresh ones along
    their channel ``axis``."""
    if walk.labels_of(node) is not None:
        return True
    view = walk.parameter(node)
    if view is None:
        shape = result_shapes(node) if isinstance(node, Node) else None
        if not isinstance(shape, torch.Size):
            return False
        labels = pinned(shape)
    elif not view.shape:
        return False
    elif not view.exact:
        labels = pinned(view.shape)
    elif any(user in walk.flows for user in node.users):  # which treated it as a parameter
        return False
    else:
        found = _tokens(view, walk, axis)
        if found is None:
            return False
        labels = found.expand(view.shape)
    walk.let_stand_for_activation(node, labels)
    return True


def _tokens(view: ParameterView, walk: Propagation, axis: int) -> Tensor | None:
    sizes = [n if a == axis % len(view.shape) else 1 for a, n in enumerate(view.shape)]
    use = walk.use_with_fresh_outputs(view, ("tokens", axis), "tokens", sizes)
    return use.outputs if use else None


def _join_bias(product: Product, result: Tensor, node: Node, walk: Propagation) -> Use | None:
    shape = result_shapes(product.bias)
    if product.bias_axis is None:
        labels = walk.reduced_to(result, shape, operator_name(node))
        return join(walk, product.bias, labels, operator_name(node), None)
    along = [1] * result.dim()
    along[product.bias_axis] = shape.numel()
    found = reduce_to(result, along)
    labels = found.reshape(shape) if found is not None else None
    return join(walk, product.bias, labels, operator_name(node), None)


def join(
    walk: Propagation, node: Any, labels: Tensor | None, operator: str, ended_by: str | None
) -> Use | None:
    """Let parameters take the labels of the activations that they are added to or concatenated with."""
    view = walk.parameter(node)
    if view is None or labels is None:
        return None
    known = walk.known_use(view, "joined")
    if known is not None and known.outputs is not None and torch.equal(known.outputs, labels):
        known.count += 1
        return known
    if not walk.is_free(view):
        return walk.tied_use(view, "joined", operator, outputs=labels)
    return walk.use(view, "joined", operator, outputs=labels, ended_by=ended_by)


def bilinear(node: Node, walk: Propagation) -> Flow | None:
    """``x1 W x2``: the first input's labels are the input side; the second arrives unscaled."""
    given = arguments(node)
    first, second = given["input1"], given["input2"]
    if walk.labels_of(first) is None:
        return None
    positions = [("position", axis) for axis in range(len(result_shapes(first)) - 1)]
    product = Product(
        first,
        given["weight"],
        [*positions, "in"],
        ["out", "in", "second"],
        [*positions, "out"],
        bias=given["bias"],
    )
    flow = weighted(product, node, walk)
    if flow is None or second is first:  # it cannot arrive both scaled and unscaled
        return flow and Flow(flow.result, walk.unscaled([first]), flow.weights, conjugated=True)
    flow.operands.update(walk.unscaled([second]))
    return flow


def embedding(node: Node, walk: Propagation) -> Flow | None:
    """A table of vectors: fresh labels for its columns."""
    given = arguments(node)
    return _lookup(given["weight"], node, walk, 1)


def index_select(node: Node, walk: Propagation) -> Flow | None:
    """Rows of a table, chosen at run time."""
    given = arguments(node)
    if walk.parameter(given["self"]) is None or given["dim"] % len(result_shapes(given["self"])):
        return None
    return _lookup(given["self"], node, walk, 1)


def index(node: Node, walk: Propagation) -> Flow | None:
    """Indexing the first axes of a parameter, by numbers known only at run time."""
    given = arguments(node)
    indices = list(given["indices"])
    while indices and indices[-1] is None:
        indices.pop()
    if not indices or None in indices:
        return None
    return _lookup(given["self"], node, walk, len(indices))


def _lookup(table: Any, node: Node, walk: Propagation, depth: int) -> Flow | None:
    """Entries found by the first ``depth`` axes of a table: fresh labels for the remaining axes."""
    view = walk.parameter(table)
    if view is None:
        return None
    sizes = (1,) * depth + tuple(view.shape[depth:])
    known = walk.use_with_fresh_outputs(view, ("lookup", depth), operator_name(node), sizes)
    if known is None or known.outputs is None:
        return None
    shape = result_shapes(node)
    entries = known.outputs.reshape(known.outputs.shape[depth:])
    if isinstance(shape, list):  # embedding_bag, which may take a maximum
        result = [entries.expand(shape[0]), *map(pinned_like, shape[1:])]
        return Flow(result, {}, {table: known}, conjugated=True)
    return Flow(entries.expand(shape), {}, {table: known})


LOOKUPS: dict[str, WeightRule] = {
    "embedding": embedding,
    "embedding_bag": embedding,
    "_embedding_bag": embedding,
    "index_select": index_select,
    "index": index,
}


def normalization(node: Node, walk: Propagation) -> Flow | None:
    """Normalization with affine parameters: it runs on unscaled input; its output gets fresh labels."""
    given = arguments(node)
    source, weight, bias = given["input"], given.get("weight"), given.get("bias")
    view, operator = walk.parameter(weight), operator_name(node)
    if view is None or not is_activation(source, walk):
        return None
    known = walk.use_with_fresh_outputs(view, "normalization", operator, view.shape)
    if known is None or known.outputs is None:
        return None
    shape = result_shapes(source)
    per_feature = "layer_norm" in operator or "rms_norm" in operator
    labels = known.outputs.expand(shape) if per_feature else spread(known.outputs.reshape(-1), 1, shape)
    weights: dict[Node, Use] = {given["weight"]: known}
    conjugated = False
    if bias is not None:
        joined = join(walk, bias, known.outputs.reshape(result_shapes(bias)), operator, None)
        conjugated = joined is None
        weights |= {bias: joined} if joined else {}
    found = result_shapes(node)
    result: Any = [labels, *map(pinned_like, found[1:])] if isinstance(found, list) else labels
    return Flow(result, {source: pinned(shape)}, weights, conjugated)


NORMALIZATIONS = frozenset(
    """batch_norm instance_norm group_norm layer_norm rms_norm _fused_rms_norm native_batch_norm
    native_group_norm native_layer_norm _native_batch_norm_legit _native_batch_norm_legit_functional
    _native_batch_norm_legit_no_training cudnn_batch_norm miopen_batch_norm _batch_norm_with_update
    _batch_norm_with_update_functional _batch_norm_no_update""".split()
)


def add_parameter(node: Node, walk: Propagation, activation: Node, parameter: Node) -> Flow | None:
    """A parameter added to an activation is a bias: it takes the labels of what it is added to."""
    labels = walk.labels_of(activation)
    assert labels is not None
    result = labels.expand(result_shapes(node))
    index = walk.reduced_to(result, result_shapes(parameter), operator_name(node))
    use = join(walk, parameter, index, operator_name(node), walk.ended_by.get(activation))
    return Flow(result, {}, {parameter: use}) if use else None


def multiply_parameter(node: Node, walk: Propagation, activation: Node, parameter: Node) -> Flow | None:
    """A parameter multiplied with an activation is a diagonal weight: ``p'_i = p_i τ_i / τ_j`` (layer
    scale)."""
    view, carried = walk.parameters[parameter], walk.labels_of(activation)
    assert carried is not None
    shape = torch.broadcast_shapes(carried.shape, view.shape)
    inputs, ended_by = reduce_to(carried.expand(shape), view.shape), walk.ended_by.get(activation)
    use = walk.use_with_fresh_outputs(
        view, "multiplied", operator_name(node), view.shape, inputs=inputs, ended_by=ended_by
    )
    if use is None or use.outputs is None:
        return None
    demanded: Tensor | None = pinned(carried.shape)
    if use.inputs is not None:
        demanded = reduce_to(use.inputs.expand(shape), carried.shape)
    if demanded is None:
        return None
    return Flow(use.outputs.expand(shape), {activation: demanded}, {parameter: use})


def add_product(node: Node, walk: Propagation) -> Flow | None:
    """``addcmul`` of an activation with a factor and a summand that are parameters (affine layers)."""
    given = arguments(node)
    factors = [given["tensor1"], given["tensor2"]]
    activation = next((n for n in factors if walk.labels_of(n) is not None), None)
    parameter = next((n for n in factors if walk.parameter(n) is not None), None)
    if activation is None or parameter is None or walk.parameter(given["self"]) is None:
        return None
    flow = multiply_parameter(node, walk, activation, parameter)
    if flow is None or not isinstance(flow.result, Tensor):
        return None
    labels = reduce_to(flow.result, result_shapes(given["self"]))
    use = join(walk, given["self"], labels, operator_name(node), None)
    if use is None:
        return Flow(flow.result, walk.unscaled([activation]), flow.weights, conjugated=True)
    flow.weights[given["self"]] = use
    return flow
