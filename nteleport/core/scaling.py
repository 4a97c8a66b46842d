"""Multiplying many large tensors by scales that are products of small factors, as fast as memory allows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import reduce
from itertools import chain
from operator import mul

import torch
from torch import Tensor

_PIECE_ELEMENTS = 2**20
"""How many elements of a tensor stay in a CPU's cache while several factors multiply it."""


def multiply(tensors: Mapping[str, Tensor], factors: Mapping[str, list[Tensor]]) -> None:
    """Multiply tensors in place, each by its factors if it has any, in one call.

    Args:
        factors: by the name of a tensor, from ``fast_factors``.
    """
    pieces, operands = _pairs(tensors, factors)
    if operands:
        torch._foreach_mul_(pieces, operands)


def divide(tensors: Mapping[str, Tensor], factors: Mapping[str, list[Tensor]]) -> None:
    """Undo ``multiply`` by the same factors, with one rounding per factor."""
    pieces, operands = _pairs(tensors, factors)
    if operands:
        torch._foreach_div_(pieces, operands)


def _pairs(
    tensors: Mapping[str, Tensor], factors: Mapping[str, list[Tensor]]
) -> tuple[list[Tensor], list[Tensor]]:
    """Pieces of tensors, and the factor that belongs to each."""
    found = (_products(tensors[name], each) for name, each in factors.items() if name in tensors)
    pairs = list(chain.from_iterable(found))
    return [tensor for tensor, _ in pairs], [factor for _, factor in pairs]


def multiply_into(target: Tensor, source: Tensor, factors: list[Tensor]) -> None:
    """Write ``source`` times its factors to ``target``. At least one factor; no autograd graph is built."""
    if _is_large(source, factors):
        for rows, part in _pieces(source, factors):
            multiply_into(target[rows], source[rows], part)
        return
    torch.mul(source, factors[0], out=target)
    for factor in factors[1:]:
        target.mul_(factor)


def fast_factors(parameter: Tensor, scale: tuple[Tensor, ...]) -> list[Tensor]:
    """The factors of a scale in the form that multiplies a tensor fastest.

    CUDA multiplies a list in one kernel, but each tensor only by one of the same shape. The CPU broadcasts
    just as fast and processes a list in order, so there a product is formed only where it is much smaller
    than the parameter.
    """
    factors = [_in_dtype_of(parameter, factor) for factor in scale]
    if parameter.device.type != "cpu":
        return [reduce(mul, factors).expand_as(parameter).contiguous()]
    if len(factors) == 2 and 4 * factors[0].numel() * factors[1].numel() <= parameter.numel():
        return [factors[0] * factors[1]]
    return factors


def multiply_sparse(gradient: Tensor, factors: list[Tensor]) -> None:
    """Multiply a sparse tensor in place by factors that broadcast to it."""
    rows = gradient._indices()
    for factor in factors:
        index = tuple(
            positions if factor.shape[axis] > 1 else torch.zeros_like(positions)
            for axis, positions in enumerate(rows)
        )
        gradient._values().mul_(factor[index])


def _in_dtype_of(parameter: Tensor, factor: Tensor) -> Tensor:
    """Factors of a parameter in lower precision stay as they are: products are formed in the wider dtype."""
    if torch.promote_types(parameter.dtype, factor.dtype) != parameter.dtype:
        return factor
    return factor if parameter.is_complex() else factor.to(parameter.dtype)


def _products(tensor: Tensor, factors: list[Tensor]) -> Iterable[tuple[Tensor, Tensor]]:
    """What to multiply by what, in this order."""
    if not _is_large(tensor, factors):
        return [(tensor, factor) for factor in factors]
    found = (_products(tensor[rows], part) for rows, part in _pieces(tensor, factors))
    return chain.from_iterable(found)


def _is_large(tensor: Tensor, factors: list[Tensor]) -> bool:
    """Whether it would be read from memory again for its second factor."""
    return len(factors) > 1 and len(tensor) > 1 and tensor.numel() > _PIECE_ELEMENTS


def _pieces(tensor: Tensor, factors: list[Tensor]) -> Iterator[tuple[slice, list[Tensor]]]:
    """Rows of a large tensor that stay in the cache, and the matching parts of its factors."""
    step = max(1, _PIECE_ELEMENTS * len(tensor) // tensor.numel())
    for start in range(0, len(tensor), step):
        rows = slice(start, start + step)
        yield rows, [factor[rows] if len(factor) > 1 else factor for factor in factors]
