"""The metric `weighted_grad_norm` of many changes of basis, from one backward pass.

At weights teleported by `s` the gradient is `g / s`, so its ratio to the weights is `(g / s) / (s θ) = (g /
θ) / s²`, and

    ‖g' / θ'‖² = Σ (g / θ)² s⁻⁴ .

The matrix `R = (g / θ)²` does not depend on the change of basis. It is summed once over the axes along which
no scale varies, such as the positions of a kernel; what is left is, for a weight between two layers, the
bilinear form `uᵀ R v` with `u = τ_out⁻⁴` and `v = τ_in⁴`: for all changes of basis together one matrix
product.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from nteleport.quiver import Factor, ParameterScaling, Quiver

_POWER = -4
_ROWS_ELEMENTS = 2**24
"""A large weight is taken in slices of about this many elements, so that no float64 copy of it is ever
whole.
"""


def weighted_grad_norms(network: nn.Module, quiver: Quiver, cobs: Tensor) -> Tensor:
    """‖g' / θ'‖ after teleporting by each of `cobs`, weights that are 0 left out.

    Args:
        network: holds the plain weights `θ` and, in `.grad`, the plain gradient `g`.
        quiver: of the network.
        cobs: shape (candidates, cob_size), relative to the plain network.

    Returns:
        Shape (candidates,), in float64 where the device has it.
    """
    parameters = [p for p in network.parameters() if p.grad is not None]
    device = parameters[0].device
    wide = torch.float32 if device.type == "mps" else torch.float64
    extended = torch.cat([cobs.new_ones(len(cobs), 1), cobs], dim=1).to(device, wide)
    total = extended.new_zeros(len(cobs))
    for name, parameter in network.named_parameters():
        if parameter.grad is not None:
            total += _squared_norms(parameter.detach(), parameter.grad, quiver.parameters[name], extended)
    return total.sqrt()


def _squared_norms(weight: Tensor, gradient: Tensor, scaling: ParameterScaling, extended: Tensor) -> Tensor:
    """The share of one parameter in the squared norm, shape (candidates,)."""
    sums = _summed_squares(weight, gradient, scaling, extended.dtype)
    factors = scaling.factors
    if not factors:
        return sums.sum()
    axes = [_varying_axes(factor) for factor in factors]
    if len(factors) == 2 and len(axes[0]) == 1 and len(axes[1]) == 1 and axes[0] != axes[1]:
        return _bilinear(sums, factors, axes, extended)
    return torch.stack([_one_by_one(sums, factors, candidate) for candidate in extended])


def _bilinear(sums: Tensor, factors: tuple[Factor, ...], axes: list[list[int]], extended: Tensor) -> Tensor:
    """`uᵀ R v` for each row of `extended`, when one factor varies along one axis and the other along
    another.
    """
    first, second = (axis[0] for axis in axes)
    matrix = sums.movedim((first, second), (0, 1)).flatten(1)
    u, v = (extended[:, f.index.flatten().to(extended.device)] ** (_POWER * f.power) for f in factors)
    return ((u @ matrix) * v).sum(1)


def _one_by_one(sums: Tensor, factors: tuple[Factor, ...], extended: Tensor) -> Tensor:
    """Σ R s⁻⁴ for one change of basis, whatever the factors."""
    for factor in factors:
        sums = sums * extended[factor.index.to(extended.device)] ** (_POWER * factor.power)
    return sums.sum()


def _summed_squares(weight: Tensor, gradient: Tensor, scaling: ParameterScaling, wide: torch.dtype) -> Tensor:
    """`(g / θ)²`, 0 where θ is 0, summed over the axes along which no scale varies; these keep size 1."""
    varying = {axis for factor in scaling.factors for axis in _varying_axes(factor)}
    constant = [axis for axis in range(weight.dim()) if axis not in varying]
    if weight.dim() == 0 or 0 not in varying:
        return _reduced(weight, gradient, constant, wide)
    rows = max(1, _ROWS_ELEMENTS * len(weight) // max(1, weight.numel()))
    slices = zip(weight.split(rows), gradient.split(rows), strict=True)
    return torch.cat([_reduced(w, g, constant, wide) for w, g in slices])


def _reduced(weight: Tensor, gradient: Tensor, axes: list[int], wide: torch.dtype) -> Tensor:
    ratio = torch.where(weight == 0, 0, gradient / weight).to(wide).square()
    return ratio.sum(axes, keepdim=True) if axes else ratio


def _varying_axes(factor: Factor) -> list[int]:
    return [axis for axis, size in enumerate(factor.index.shape) if size > 1]
