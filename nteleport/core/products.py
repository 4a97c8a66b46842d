"""Products of two operands, as sums over axes that both share: linear layers, convolutions, ``einsum``.

The rule of weights (``nteleport.core.weight_rules``) needs to know which axes of a weight are its input
side and which its output side. Each multiplying operator declares this by giving its axes letters, as
``torch.einsum`` does.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch.fx import Node

from nteleport.core.calls import arguments, operator_name, result_shapes

Letters = Sequence[Hashable]
"""A name for each axis of a tensor."""


@dataclass(frozen=True)
class Product:
    """A sum of products of two operands, as in ``torch.einsum``: their axes, each with a letter.

    Attributes:
        left, right: the operands.
        left_axes, right_axes, result_axes: the letter of each axis. A letter of both operands is summed over
            unless the result has it.
        left_shape, right_shape, result_shape: the shapes that these axes belong to, where the operands are
            viewed with axes other than their own (grouped convolutions).
        bias: added to the product.
        bias_axis: the axis of the result along which the bias lies; None if it broadcasts to the result.
    """

    left: Any
    right: Any
    left_axes: Letters
    right_axes: Letters
    result_axes: Letters
    left_shape: Sequence[int] | None = None
    right_shape: Sequence[int] | None = None
    result_shape: Sequence[int] | None = None
    bias: Any = None
    bias_axis: int | None = None

    def swapped(self) -> Product:
        """The same product with its operands exchanged."""
        return replace(
            self,
            left=self.right,
            right=self.left,
            left_axes=self.right_axes,
            right_axes=self.left_axes,
            left_shape=self.right_shape,
            right_shape=self.left_shape,
        )


def linear_product(node: Node) -> Product:
    given = arguments(node)
    positions = [("position", axis) for axis in range(len(result_shapes(given["input"])) - 1)]
    outputs = ["out"] if len(result_shapes(given["weight"])) == 2 else []
    return Product(
        given["input"],
        given["weight"],
        [*positions, "in"],
        [*outputs, "in"],
        [*positions, *outputs],
        bias=given["bias"],
    )


def convolution_product(node: Node) -> Product:
    """Groups are an axis that both operands and the result share."""
    given, name = arguments(node), operator_name(node)
    groups, weight = int(given["groups"]), given["weight"]
    transposed = bool(given.get("transposed", "transpose" in name))
    source, result, kernel = (result_shapes(n) for n in (given["input"], node, weight))
    spatial = len(kernel) - 2
    batch = list(range(len(source) - spatial - 1))
    first, second = ("in", "out") if transposed else ("out", "in")

    def split(shape: torch.Size) -> list[int]:
        channels = shape[len(batch)]
        return [*shape[: len(batch)], groups, channels // groups, *shape[len(batch) + 1 :]]

    def spots(of: str) -> list[Hashable]:
        return [(of, axis) for axis in range(spatial)]

    return Product(
        given["input"],
        weight,
        [*batch, "group", "in", *spots("source")],
        ["group", first, second, *spots("kernel")],
        [*batch, "group", "out", *spots("result")],
        split(source),
        [groups, kernel[0] // groups, *kernel[1:]],
        split(result),
        bias=given["bias"],
        bias_axis=len(batch),
    )


def matmul_product(node: Node) -> Product | None:
    """``matmul`` of any ranks, ``mm``, ``bmm``, ``mv``, ``dot`` and their variants with an added term."""
    operands = [n for n in node.args if isinstance(n, Node)]
    if operator_name(node) in ("addmm", "baddbmm", "addmv"):
        if len(operands) != 3:
            return None
        bias, left, right = operands
    else:
        bias, (left, right) = None, operands[:2]
    left_shape, right_shape = result_shapes(left), result_shapes(right)
    rows = ["row"] if len(left_shape) > 1 else []
    columns = ["column"] if len(right_shape) > 1 else []

    def batch(shape: torch.Size) -> list[Hashable]:
        # Axes are aligned at the right; one that broadcasts is summed over by neither operand.
        depth = max(len(shape) - 2, 0)
        return [
            ("batch", depth - axis) if shape[axis] > 1 else ("single", depth - axis, id(shape))
            for axis in range(depth)
        ]

    depth = max(len(left_shape), len(right_shape)) - 2
    batches = [("batch", depth - axis) for axis in range(depth)]
    return Product(
        left,
        right,
        [*batch(left_shape), *rows, "inner"],
        [*batch(right_shape), "inner", *columns],
        [*batches, *rows, *columns],
        bias=bias,
    )


def einsum_product(node: Node) -> Product | None:
    given = arguments(node)
    operands = given["tensors"]
    left, arrow, result = given["equation"].replace(" ", "").partition("->")
    terms = left.split(",")
    if len(operands) != 2 or len(terms) != 2:
        return None
    if not arrow:
        letters = left.replace(",", "").replace(".", "")
        result = "..." * ("..." in left) + "".join(sorted(c for c in set(letters) if letters.count(c) == 1))
    axes = [_letters(term, len(result_shapes(n))) for term, n in zip(terms, operands, strict=True)]
    found = _letters(result, len(result_shapes(node)))
    if any(len(set(a)) != len(a) for a in (*axes, found)):  # diagonals
        return None
    return Product(operands[0], operands[1], axes[0], axes[1], found)


def _letters(term: str, ndim: int) -> list[Hashable]:
    before, dots, after = term.partition("...")
    hidden = ndim - len(before) - len(after) if dots else 0
    return [*before, *(("dots", hidden - axis) for axis in range(hidden)), *after]


def tensordot_product(node: Node) -> Product:
    given = arguments(node)
    left, right = given["self"], given["other"]
    ranks = len(result_shapes(left)), len(result_shapes(right))
    left_axes: list[Hashable] = [("left", axis) for axis in range(ranks[0])]
    right_axes: list[Hashable] = [("right", axis) for axis in range(ranks[1])]
    for a, b in zip(given["dims_self"], given["dims_other"], strict=True):
        right_axes[b] = left_axes[a] = ("inner", a % ranks[0])
    result = [a for a in (*left_axes, *right_axes) if a[0] != "inner"]  # type: ignore[index]
    return Product(left, right, left_axes, right_axes, result)


MATMULS = ("matmul", "mm", "bmm", "mv", "dot", "addmm", "baddbmm", "addmv")

PRODUCTS: dict[str, Callable[[Node], Product | None]] = {
    "linear": linear_product,
    **dict.fromkeys(["conv1d", "conv2d", "conv3d", "convolution", "_convolution"], convolution_product),
    **dict.fromkeys(["conv_transpose1d", "conv_transpose2d", "conv_transpose3d"], convolution_product),
    **dict.fromkeys(MATMULS, matmul_product),
    "einsum": einsum_product,
    "tensordot": tensordot_product,
}
