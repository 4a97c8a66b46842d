"""Rules: how each ATen operator acts on a scaling of its operands.

A table keyed by operator name and grouped by algebraic property. An operator without a rule, or with
arguments that its rule does not cover, is safe: its result is pinned and the parameters it reads stay
untouched, so a missing rule makes a teleportation less general, never wrong.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node
from torch.fx.node import map_arg

from nteleport.core.activation_rules import (
    affine,
    attention,
    elementwise,
    gated,
    join_data,
    move_data,
    move_or_look_up,
    normalize,
    pad,
    pool,
    product,
    reduce_axes,
    reshape_data,
    unknown,
)
from nteleport.core.calls import axes_of_unknown_size, operator_name, result_shapes
from nteleport.core.kept_rules import KEPT_RULES, SHAPE_ALONE
from nteleport.core.labels import is_constant
from nteleport.core.norm_rules import scaled_normalization
from nteleport.core.parameter_rules import view_of
from nteleport.core.products import PRODUCTS
from nteleport.core.recurrent_rules import RECURRENT
from nteleport.core.walk import Flow, Propagation
from nteleport.core.weight_rules import LOOKUPS, NORMALIZATIONS, bilinear

Rule = Callable[[Node, Propagation], Flow | None]

ASSERTIONS = frozenset(
    """_assert_tensor_metadata _assert_async _assert_scalar _functional_assert_async
    _functional_assert_scalar _functional_sym_constrain_range sym_constrain_range
    sym_constrain_range_for_size sym_size sym_numel sym_stride _has_compatible_shallow_copy_type""".split()
)
"""They compute nothing."""

RESHAPES = frozenset("view _unsafe_view reshape flatten unflatten view_as reshape_as _reshape_alias".split())
"""They keep the order of elements."""

MOVES_DATA = frozenset(
    """permute transpose t numpy_T mT mH adjoint movedim moveaxis swapaxes swapdims squeeze unsqueeze expand
    expand_as broadcast_to stack hstack vstack column_stack chunk split split_with_sizes tensor_split
    unsafe_chunk unsafe_split unbind select slice narrow diagonal roll flip fliplr flipud rot90 contiguous
    detach alias repeat repeat_interleave tile unfold tril triu channel_shuffle native_channel_shuffle
    pixel_shuffle pixel_unshuffle getitem slice_scatter select_scatter diagonal_scatter as_strided_scatter
    take_along_dim gather index_select index split_copy split_with_sizes_copy unbind_copy""".split()
)
"""They only move elements: the same operator moves the labels."""

ELEMENTWISE = frozenset(
    """dropout feature_dropout alpha_dropout feature_alpha_dropout native_dropout clone lift_fresh
    lift_fresh_copy to _to_copy type_as float double half bfloat16 contiguous copy fill relu relu6 leaky_relu
    rrelu rrelu_with_noise prelu _prelu_kernel elu celu selu gelu silu mish softplus softsign softshrink
    hardshrink hardtanh hardsigmoid hardswish tanhshrink threshold sigmoid logsigmoid log_sigmoid
    log_sigmoid_forward tanh add sub rsub mul div where maximum minimum clamp masked_fill
    nan_to_num""".split()
)
"""They act on each element alone (besides all that torch tags as pointwise): conjugated, labels pass
through."""

POOLS = frozenset(
    [
        f"{kind}{d}d{rest}"
        for d in (1, 2, 3)
        for kind in ("max_pool", "avg_pool", "adaptive_avg_pool", "_adaptive_avg_pool", "adaptive_max_pool")
        for rest in ("", "_with_indices")
    ]
    + ["fractional_max_pool2d", "fractional_max_pool3d"]
    + [
        f"{kind}{d}d{rest}"
        for kind, d in (
            *(("upsample_nearest", d) for d in (1, 2, 3)),
            *(("_upsample_nearest_exact", d) for d in (1, 2, 3)),
            *(("upsample_linear", 1), ("upsample_bilinear", 2), ("upsample_bicubic", 2)),
            *(("upsample_trilinear", 3), ("_upsample_bilinear", 2), ("_upsample_bicubic", 2)),
        )
        for rest in ("", "_aa")
    ]
)
"""They mix positions within a channel: conjugated, labels pass through per channel."""

REDUCTIONS = frozenset(
    """mean sum nansum nanmean amax amin aminmax max min median nanmedian mode kthvalue prod std var std_mean
    var_mean logsumexp norm linalg_vector_norm topk sort cummax cummin cumsum cumprod logcumsumexp
    quantile""".split()
)
"""They reduce or mix whole axes: conjugated, labels pass through where they are constant along those axes."""

LARGEST_CONSTANT = 2**20
"""The largest number of elements of a constant that rules inspect."""

_RULE_ERRORS = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    IndexError,
    KeyError,
    NotImplementedError,
    RuntimeError,
    TypeError,
    ValueError,
)
"""What a rule raises when its operator has shapes or arguments that it was not written for."""


def propagate(node: Node, walk: Propagation) -> None:
    """Apply the rule of one ``call_function`` node to the walk."""
    if operator_name(node) in ASSERTIONS:
        walk.labels[node] = None
        walk.flows[node] = Flow(None)
        return
    walk.begin()
    try:
        _evaluate_constant(node, walk)
        flow = _rule_for(node, walk)(node, walk)
        if flow is not None and not _fits(node, flow):
            flow = None
        if flow is not None and flow.conjugated and walk.ties is not None:
            flow = None
    except _RULE_ERRORS:
        flow = None
    if flow is None:
        walk.forget()
        walk.parameters.pop(node, None)
        flow = unknown(node, walk)
    walk.finish(node, flow)


def _evaluate_constant(node: Node, walk: Propagation) -> None:
    """Compute integer tensors whose values are known: later operators may move elements to these
    positions."""
    value, operands = node.meta.get("val"), node.all_input_nodes
    if not isinstance(value, Tensor) or value.is_floating_point() or value.is_complex():
        return
    pure = isinstance(node.target, torch._ops.OpOverload) and not node.target._schema.is_mutable
    seeded = torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ())
    if pure and not seeded and value.numel() <= LARGEST_CONSTANT and walk.constants.keys() >= set(operands):
        args, kwargs = map_arg((node.args, node.kwargs), walk.constants.__getitem__)
        walk.constants[node] = node.target(*args, **kwargs).cpu()  # type: ignore[operator]


def _view_or_unknown(node: Node, walk: Propagation) -> Flow:
    return (None if walk.activations(node) else view_of(node, walk)) or unknown(node, walk)


def _fits(node: Node, flow: Flow) -> bool:
    """Whether labels have the shape of the result and do not vary where its size is not known yet."""
    if flow.result is None or isinstance(flow.result, list):
        return True
    if flow.result.shape != result_shapes(node):
        return False
    return all(is_constant(flow.result, axis) for axis in axes_of_unknown_size(node))


def _rule_for(node: Node, walk: Propagation) -> Rule:
    name, value = operator_name(node), node.meta.get("val")
    whole = isinstance(value, Tensor) and not (value.is_floating_point() or value.is_complex())
    if walk.ties is not None and name in KEPT_RULES and (not whole or name in SHAPE_ALONE):
        return KEPT_RULES[name]
    if walk.norms == "up_to_eps" and name in NORMALIZATIONS:
        return scaled_normalization
    if name in LOOKUPS or name in PRODUCTS or name in NORMALIZATIONS or name in RECURRENT:
        return RULES[name]
    if whole:
        return _view_or_unknown
    if name in RULES:
        return RULES[name]
    return elementwise if _is_pointwise(node.target) else _view_or_unknown


@cache
def _is_pointwise(target: Any) -> bool:
    if not isinstance(target, torch._ops.OpOverload):
        return False
    functional = getattr(torch.ops.aten, target.overloadpacket.__name__.rstrip("_"), None)
    overloads = [target] + ([getattr(functional, o) for o in functional.overloads()] if functional else [])
    return any(torch.Tag.pointwise in overload.tags for overload in overloads)


RULES: dict[str, Rule] = {
    **dict.fromkeys(MOVES_DATA, move_data),
    **dict.fromkeys(RESHAPES, reshape_data),
    **dict.fromkeys(ELEMENTWISE, elementwise),
    **dict.fromkeys(POOLS, pool),
    **dict.fromkeys(REDUCTIONS, reduce_axes),
    **dict.fromkeys(PRODUCTS, product),
    **dict.fromkeys(NORMALIZATIONS, normalize),
    **LOOKUPS,
    **dict.fromkeys(["index", "index_select", "gather", "take_along_dim"], move_or_look_up),
    **RECURRENT,
    "cat": join_data,
    "concat": join_data,
    "concatenate": join_data,
    "bilinear": bilinear,
    "addcmul": affine,
    "glu": gated,
    "pad": pad,
    "constant_pad_nd": pad,
    "scaled_dot_product_attention": attention,
    operator.getitem.__name__: move_data,
}
