"""Calls of operators in an exported graph: which operator, its arguments, and the shapes of its results."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node


def operator_name(node: Node) -> str:
    """The name of the operator of a call, without namespace, overload and in-place underscore."""
    target = node.target
    if isinstance(target, torch._ops.OpOverload):
        name = str(target.overloadpacket.__name__)
    else:
        name = getattr(target, "__name__", str(target))
    return name.rstrip("_") if not name.startswith("__") else name


def arguments(node: Node) -> dict[str, Any]:
    """The arguments of a call of an ATen operator by name, defaults included."""
    if not isinstance(node.target, torch._ops.OpOverload):
        return dict(node.kwargs)
    names, defaults = _schema(node.target)
    return {**defaults, **dict(zip(names, node.args, strict=False)), **node.kwargs}


@cache
def _schema(operator: torch._ops.OpOverload) -> tuple[list[str], dict[str, Any]]:
    given = operator._schema.arguments
    defaults = {a.name: a.default_value for a in given if a.has_default_value()}
    return [a.name for a in given], defaults


def is_zero(operand: Any) -> bool:
    """Whether an operand is 0 whatever the network's parameters and buffers hold."""
    if not isinstance(operand, Node):
        return bool(operand == 0)
    if operand.op != "call_function":
        return False
    name, given = operator_name(operand), arguments(operand)
    value = given.get("fill_value", given.get("s"))
    return name in ("zeros", "new_zeros") or (name in ("full", "scalar_tensor") and value == 0)


def result_shapes(node: Any) -> Any:
    """Shapes of the result of ``node``: a ``torch.Size``, a list of them, or None where it is not a
    tensor."""

    def shape(value: Any) -> Any:
        if isinstance(value, (list, tuple)):
            return [shape(v) for v in value]
        return torch.Size(as_int(s) for s in value.shape) if isinstance(value, Tensor) else None

    return shape(node.meta.get("val"))


def axes_of_unknown_size(node: Node) -> list[int]:
    """Axes of the result whose size is known only at run time."""
    value = node.meta.get("val")
    if not isinstance(value, Tensor):
        return []
    sizes: list[Any] = list(value.shape)
    return [axis for axis, size in enumerate(sizes) if not isinstance(size, int) and not _is_known(size)]


def as_int(size: Any) -> int:
    """A size as a number. One that is known only at run time is replaced by a unique number, so that equal
    sizes stay equal and products of sizes stay products."""
    if isinstance(size, int):
        return size
    if _is_known(size):
        return int(size)
    expression = size.node.expr
    stand_ins = {symbol: _stand_in(str(symbol)) for symbol in expression.free_symbols}
    return int(expression.xreplace(stand_ins))


def _is_known(size: Any) -> bool:
    return size.node.maybe_as_int() is not None or bool(size.node.has_hint())


@cache
def _stand_in(symbol: str) -> Any:
    import sympy

    return sympy.Integer(sympy.nextprime(10_007 + 30 * int("".join(filter(str.isdigit, symbol)) or 0)))
