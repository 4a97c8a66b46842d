"""Multiplying many large tensors by scales that are products of small factors, as fast as memory allows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import reduce
from operator import mul
from types import EllipsisType

import torch
from torch import Tensor

_PIECE_ELEMENTS = 2**20
"""How much of a tensor stays in the cache of a CPU while several factors multiply it."""


def multiply(tensors: Mapping[str, Tensor], factors: Mapping[str, list[Tensor]]) -> None:
    """Multiply tensors in place, each by its factors if it has any, in one call.

    Args:
        factors: by the name of a tensor, from :func:`fast_factors`.
    """
    pairs = [
        (tensors[name][rows], factor)
        for name, found in factors.items()
        if name in tensors
        for rows, part in pieces(tensors[name], found)
        for factor in part
    ]
    if pairs:
        torch._foreach_mul_([tensor for tensor, _ in pairs], [factor for _, factor in pairs])


def fast_factors(parameter: Tensor, scale: tuple[Tensor, ...]) -> list[Tensor]:
    """The factors of a scale as they multiply a tensor fastest.

    CUDA multiplies a list in one kernel, but only by one tensor of the same shape for each. The CPU
    broadcasts as fast and goes through a list in order, so that there a product is formed only where it is
    much smaller than the parameter.
    """
    factors = [factor.to(parameter.dtype) for factor in scale]
    if parameter.device.type != "cpu":
        return [reduce(mul, factors).expand_as(parameter).contiguous()]
    if len(factors) == 2 and 4 * factors[0].numel() * factors[1].numel() <= parameter.numel():
        return [factors[0] * factors[1]]
    return factors


def pieces(tensor: Tensor, factors: list[Tensor]) -> Iterator[tuple[slice | EllipsisType, list[Tensor]]]:
    """Rows of a tensor, few enough to stay in the cache of a CPU, and what belongs to them of its factors.

    A large tensor is then read from memory once, not once for each factor.
    """
    if len(factors) == 1 or tensor.numel() <= _PIECE_ELEMENTS:
        yield ..., factors
        return
    step = max(1, _PIECE_ELEMENTS * len(tensor) // tensor.numel())
    for start in range(0, len(tensor), step):
        rows = slice(start, start + step)
        yield rows, [factor[rows] if len(factor) > 1 else factor for factor in factors]
