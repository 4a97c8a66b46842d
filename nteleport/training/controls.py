"""The two controls of the paper: displacements that look like a teleportation but change the function.

Both start from the scale `s` that a teleportation would have applied to each parameter. Both draw on the CPU,
so that every device gets the same weights from the same generator.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

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
    network: nn.Module, scales: Mapping[str, Tensor], generator: torch.Generator
) -> None:
    """Give every Linear and Conv weight new values from the distribution of its teleported ones.

    This is the control of Fig. 11 of the paper. Each weight tensor is treated on its own: the new values are
    drawn independently from a histogram of `s θ` with 1000 bins. Biases and normalization layers keep their
    values.
    """
    redrawn = {
        id(module.weight): module.weight
        for module in network.modules()
        if isinstance(module, (nn.Linear, _ConvNd))
    }
    for name, parameter in network.named_parameters():
        if id(parameter) in redrawn:
            teleported = parameter * scales[name] if name in scales else parameter
            parameter.copy_(sample_like(teleported, generator))


def sample_like(values: Tensor, generator: torch.Generator, bins: int = HISTOGRAM_BINS) -> Tensor:
    """A tensor of the shape of `values`, drawn independently from their histogram.

    The histogram has equal bins from the smallest to the largest value, and is uniform within a bin. Constant
    values are returned as they are.
    """
    known = values.detach().flatten().to("cpu", torch.float64)
    low, high = known.min(), known.max()
    width = (high - low) / bins
    if width == 0:
        return values.clone()
    counts = torch.bincount(((known - low) / width).long().clamp_(max=bins - 1), minlength=bins)
    shares = counts.cumsum(0) / len(known)
    drawn = torch.rand(len(known), generator=generator, dtype=torch.float64)
    bin_of_each = torch.searchsorted(shares, drawn, right=True).clamp_(max=bins - 1)
    within = torch.rand(len(known), generator=generator, dtype=torch.float64)
    return (low + width * (bin_of_each + within)).to(values).view_as(values)
