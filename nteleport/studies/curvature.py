"""The curvature of the loss at one point in two measures: one that rescaling changes, and one that it cannot.

Teleporting divides every Hᵢᵢ by sᵢ², so the trace Σ Hᵢᵢ changes by construction, though the function stays.
Σ θᵢ² Hᵢᵢ does not change, because θᵢ² grows by the same sᵢ².
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from nteleport.data.batching import batches
from nteleport.data.splits import Split
from nteleport.errors import StudyError
from nteleport.randomness import generator_for
from nteleport.studies.hessian import Batch, Estimate, Hessian, teleported_product, traces
from nteleport.studies.points import first_images

COLUMNS = ("trace", "trace_error", "invariant_trace", "invariant_trace_error")
"""Σ Hᵢᵢ and Σ θᵢ² Hᵢᵢ, each with its standard error."""

_MOST_IMAGES = 256


def curvature_batches(split: Split, most: int | None) -> list[Batch]:
    """The images whose loss is differentiated: the first of a split, not more than cost little memory."""
    images = first_images(split, min(most or _MOST_IMAGES, _MOST_IMAGES))
    return list(batches(images, batch_size=_MOST_IMAGES))


def curvature(
    network: nn.Module, given: Sequence[Batch], scale: Mapping[str, Tensor], *, probes: int, seed: int
) -> dict[str, float]:
    """Both measures at the teleported weights s ⊙ θ, estimated from random probes.

    Args:
        network: at its plain weights θ; it runs in evaluation mode.
        given: images and labels; the loss is the mean cross-entropy over them.
        scale: s by the name of a parameter, in its shape; ones measure the network as it is.
        probes: random vectors of each estimate, at least 2.
        seed: of the study; all points of a study are measured with the same probes.

    Returns:
        The values of ``COLUMNS``; not a number where torch cannot differentiate the network twice.
    """
    hessian = Hessian(network, given)
    point = hessian.point()
    flat = torch.cat([scale[name].flatten() for name in hessian.names]).to(point)
    product = teleported_product(hessian.product, flat)
    everything = {"all": torch.ones(len(point), dtype=torch.bool)}

    def estimate(weights: Tensor) -> Estimate:
        generator = generator_for("study", seed, "curvature probes")
        return traces(product, weights, everything, probes, generator)["all"]

    found: tuple[float, ...]
    try:
        found = (*estimate(torch.ones_like(point)), *estimate(flat * point))
    except StudyError:
        found = (math.nan,) * len(COLUMNS)
    return dict(zip(COLUMNS, found, strict=True))
