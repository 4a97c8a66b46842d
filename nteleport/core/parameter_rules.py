"""What happens to parameters on the way to the layer that uses them as its weights.

Operators that only move elements, or multiply them by constants, commute with scaling: the resulting tensor
is an exact view. Others (weight standardization, ``1 + γ``) run on unscaled parameters, and the tensor is
scaled where a layer uses it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node
from torch.fx.node import map_arg

from nteleport.core.calls import arguments, as_int, operator_name, result_shapes
from nteleport.core.labels import is_constant
from nteleport.core.parameter_views import ParameterView, combined
from nteleport.core.walk import Flow, Propagation, Use
from nteleport.core.weight_rules import join

MOVES_PARAMETERS = frozenset(
    """view _unsafe_view reshape flatten unflatten view_as reshape_as _reshape_alias permute transpose t
    numpy_T mT mH adjoint movedim moveaxis swapaxes swapdims squeeze unsqueeze expand expand_as broadcast_to
    chunk split split_with_sizes tensor_split unsafe_chunk unsafe_split unbind select slice narrow diagonal
    roll flip contiguous detach alias clone repeat repeat_interleave tile index_select index gather getitem
    lift_fresh""".split()
)
"""They only move elements of one tensor."""

_JOINS = frozenset(["cat", "concat", "concatenate", "stack"])
_MULTIPLIES = frozenset(["mul", "div", "neg", "dropout", "feature_dropout"])
"""They multiply by numbers that no parameter's scale affects."""


def view_of(node: Node, walk: Propagation) -> Flow | None:
    """Record ``node``, which depends on parameters and constants alone, as a view of them where possible."""
    operands = [n for n in node.all_input_nodes if n in walk.parameters or n in walk.parameter_lists]
    if not operands:
        return None
    name = operator_name(node)
    if name in _JOINS:
        view = _joined(node, walk)
    elif name in MOVES_PARAMETERS and operands == list(node.args[:1]):
        return _moved(node, operands[0], walk)
    else:
        view = _computed(node, walk)
    if view is None:
        return None
    walk.parameters[node] = view
    return Flow(None, moves_parameters=view.exact)


def _moved(node: Node, source: Node, walk: Propagation) -> Flow | None:
    if source in walk.parameter_lists:
        view: Any = walk.parameter_lists[source][node.args[1]]  # type: ignore[index]
    else:
        view = walk.parameters[source].moved(_on_elements(node, source, walk))
    if isinstance(view, list):
        walk.parameter_lists[node] = view
        exact = all(each.exact for each in view)
    else:
        if view.shape != result_shapes(node):
            return None
        walk.parameters[node] = view
        exact = view.exact
    return Flow(None, moves_parameters=exact)


def _on_elements(node: Node, source: Node, walk: Propagation) -> Any:
    """The operator of ``node`` as a function of one tensor."""
    name = operator_name(node)
    if name in ("view", "_unsafe_view", "reshape", "view_as", "reshape_as", "_reshape_alias"):
        shape = result_shapes(node)
        if source.meta["val"].dtype != node.meta["val"].dtype:
            raise TypeError("a view with another dtype")
        return lambda elements: elements.reshape(shape)
    if name in ("expand_as", "broadcast_to", "expand"):
        return lambda elements: elements.expand(result_shapes(node))

    def stand_in(operand: Node, elements: Tensor) -> Any:
        if operand is source:
            return elements
        value = operand.meta.get("val")
        return as_int(value) if isinstance(value, (int, torch.SymInt)) else walk.constants[operand]

    def run(elements: Tensor) -> Any:
        args, kwargs = map_arg((node.args, node.kwargs), lambda operand: stand_in(operand, elements))
        return node.target(*args, **kwargs)  # type: ignore[operator]

    return run


def _joined(node: Node, walk: Propagation) -> ParameterView | None:
    given = arguments(node)
    parts: list[ParameterView | Tensor] = []
    for part in given["tensors"]:
        view = walk.parameter(part)
        parts.append(torch.full(result_shapes(part), -1) if view is None else view)
    join_with = torch.stack if operator_name(node) == "stack" else torch.cat
    return combined(lambda elements: join_with(elements, int(given.get("dim", 0))), parts)


def _computed(node: Node, walk: Propagation) -> ParameterView | None:
    """The view of the first operand whose elements correspond one to one to those of the result."""
    shape, name = result_shapes(node), operator_name(node)
    views = [(n, walk.parameters[n]) for n in node.all_input_nodes if n in walk.parameters]
    for operand, view in views:
        if view.shape != shape:
            continue
        commutes = name in _MULTIPLIES and (name == "mul" or node.args[0] is operand)
        same_dtype = operand.meta["val"].dtype == node.meta["val"].dtype
        return view if commutes and same_dtype and len(views) == 1 else view.inexact()
    return None


def parameters_beside(node: Node, walk: Propagation, parts: Sequence[Any], axis: int) -> dict[Node, Use]:
    """Uses of the parameters among ``parts`` of a concatenation, which take the labels of the activations
    beside them (class tokens)."""
    neighbors = [(part, walk.labels_of(part)) for part in parts if walk.labels_of(part) is not None]
    source, labels = neighbors[0]
    assert labels is not None
    if not is_constant(labels, axis):
        return {}
    uses: dict[Node, Use] = {}
    for part in parts:
        if walk.parameter(part) is not None:
            own = labels.narrow(axis, 0, 1).expand(result_shapes(part))
            use = join(walk, part, own, operator_name(node), walk.ended_by.get(source))
            uses |= {part: use} if use else {}
    return uses
