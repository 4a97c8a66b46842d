"""Controls: displacements that look like a teleportation but change the function.

All start from the scale `s` that a teleportation would have applied to each parameter. The two of the paper
draw on the CPU, so that every device gets the same weights from the same generator.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from nteleport.vocabulary import Histogram

HISTOGRAM_BINS = 1000


@torch.no_grad()
def displace_at_random(network: nn.Module, scales: Mapping[str, Tensor], generator: torch.Generator) -> None:
    """Pseudo-teleportation (Fig. 10 of the paper): the length of a teleportation, in a random direction.

    Each parameter tensor is moved along a normally distributed direction by the L1 length `Σ |s θ − θ|` that
    the teleportation would have moved it. A parameter without a scale is left unchanged.
    """
    for name, parameter in network.named_parameters():
        if name not in scales:
            continue
        direction = torch.randn(parameter.shape, generator=generator).to(parameter)
        length = ((scales[name] - 1) * parameter).abs().sum()
        parameter.add_(direction * (length / direction.abs().sum()))


@torch.no_grad()
def redraw_same_distribution(
    network: nn.Module,
    scales: Mapping[str, Tensor],
    generator: torch.Generator,
    histogram: Histogram = "tensor",
) -> None:
    """Give weights new values from the distribution of the teleported ones.

    This is the control of Fig. 11 of the paper; histograms of `s θ` have 1000 bins. Biases and normalization
    layers keep their values.

    Args:
        network: changed in place.
        scales: of the would-be teleportation; a parameter without one counts as it is.
        generator: source of the draws, on the CPU.
        histogram: `tensor` redraws every Linear and Conv weight from a histogram of its own, uniformly within
            a bin. `network` is the published control: one histogram of all parameters, from whose bin centers
            the Linear weights are redrawn, so that the scale of each layer is lost.
    """
    layers = (nn.Linear,) if histogram == "network" else (nn.Linear, _ConvNd)
    redrawn = {id(module.weight) for module in network.modules() if isinstance(module, layers)}
    teleported = {
        name: parameter * scales[name] if name in scales else parameter
        for name, parameter in network.named_parameters()
    }
    everything = torch.cat([values.flatten() for values in teleported.values()])
    for name, parameter in network.named_parameters():
        if id(parameter) not in redrawn:
            continue
        if histogram == "network":
            drawn = draw_like(everything, parameter.numel(), generator, at_centers=True)
            parameter.copy_(drawn.view_as(parameter))
        else:
            parameter.copy_(sample_like(teleported[name], generator))


@torch.no_grad()
def match_norms(network: nn.Module, scales: Mapping[str, Tensor]) -> None:
    """Scale each parameter to the norm that it would have after the teleportation: `θ ‖s θ‖ / ‖θ‖`.

    Parameters that are zero, or without a scale, are left unchanged.
    """
    for name, parameter in network.named_parameters():
        if name in scales:
            norm = parameter.norm()
            parameter.mul_(torch.where(norm > 0, (scales[name] * parameter).norm() / norm, 1.0))


def sample_like(values: Tensor, generator: torch.Generator, bins: int = HISTOGRAM_BINS) -> Tensor:
    """A tensor of the shape of `values`, drawn independently from their histogram; see `draw_like`."""
    return draw_like(values, values.numel(), generator, bins=bins).view_as(values)


def draw_like(
    values: Tensor,
    count: int,
    generator: torch.Generator,
    *,
    bins: int = HISTOGRAM_BINS,
    at_centers: bool = False,
) -> Tensor:
    """`count` values drawn independently from the histogram of `values`, in their dtype and on their device.

    The histogram has equal bins from the smallest to the largest value. Draws are uniform within a bin, or at
    its center. Constant values give that constant.
    """
    known = values.detach().flatten().to("cpu", torch.float64)
    low, high = known.min(), known.max()
    width = (high - low) / bins
    if width == 0:
        return known[:1].expand(count).to(values)
    counts = torch.bincount(((known - low) / width).long().clamp_(max=bins - 1), minlength=bins)
    shares = counts.cumsum(0) / len(known)
    drawn = torch.rand(count, generator=generator, dtype=torch.float64)
    bin_of_each = torch.searchsorted(shares, drawn, right=True).clamp_(max=bins - 1)
    within = (
        torch.full((), 0.5) if at_centers else torch.rand(count, generator=generator, dtype=torch.float64)
    )
    return (low + width * (bin_of_each + within)).to(values)
