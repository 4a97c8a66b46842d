"""Directions in weight space along which a loss surface is evaluated.

Random directions are filter-normalized (Li et al., *Visualizing the Loss Landscape of Neural Nets*, NeurIPS
2018): each filter, the incoming weights of one neuron, has the same length in the direction as in the
network, and biases and normalizations do not move unless asked for. Directions of a training are the
principal components of its weights.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

Weights = Mapping[str, Tensor]


def filter_normalized(
    weights: Weights, generator: torch.Generator, *, vectors: bool = False
) -> dict[str, Tensor]:
    """A random direction whose every filter has the length of the filter of ``weights``.

    Args:
        weights: by name; the filters of a tensor lie along its first axis.
        generator: on the CPU. What is drawn depends on the shapes alone, so equal generators give the same
            raw direction at a network and at its teleportation.
        vectors: move tensors of fewer than two axes, too: biases and normalizations. Each is as long as a
            whole as in ``weights``, so one of zeros stays.

    Returns:
        By name, like ``weights``; zero for tensors of fewer than two axes unless ``vectors``.
    """
    found = {}
    for name, weight in weights.items():
        raw = torch.randn(weight.shape, generator=generator).to(weight)
        if weight.dim() < 2 and not vectors:
            found[name] = torch.zeros_like(weight)
            continue
        axes = list(range(1, weight.dim())) or None
        length = torch.linalg.vector_norm(weight, dim=axes, keepdim=True)
        found[name] = raw * (length / torch.linalg.vector_norm(raw, dim=axes, keepdim=True))
    return found


@dataclass(frozen=True, eq=False)
class PrincipalPlane:
    """The plane through the last of several positions along their first two principal components.

    Attributes:
        directions: orthonormal, shape ``(2, n)``.
        coordinates: of each position in the plane, shape ``(positions, 2)``, float64; the last is at 0.
        shares: the fraction of the positions' variance explained by each component.
    """

    directions: Tensor
    coordinates: Tensor
    shares: tuple[float, float]


def principal_plane(positions: Sequence[Tensor], generator: torch.Generator) -> PrincipalPlane:
    """The plane that captures most of the variance of ``positions``.

    Args:
        positions: at least 2 vectors of the same length. If they lie on a line, the second direction is
            random.
        generator: for the random direction.
    """
    count, last = len(positions), positions[-1]
    gram = torch.empty(count, count, dtype=torch.float64)
    offsets = [position - last for position in positions]
    for i in range(count):
        for j in range(i + 1):
            gram[i, j] = gram[j, i] = torch.dot(offsets[i].double(), offsets[j].double())
    centring = torch.eye(count, dtype=torch.float64) - 1 / count
    variances, mixtures = torch.linalg.eigh(centring @ gram @ centring)
    variances = variances.flip(0).clamp(min=0)
    directions: list[Tensor] = []
    for component in range(2):
        # A principal component is a linear combination of the centered positions; its coefficients sum to 0,
        # so offsets work as well.
        direction = sum(
            (float(m) * o for m, o in zip(mixtures[:, -1 - component], offsets, strict=True)), last * 0
        )
        if variances[component] <= 1e-12 * variances[0]:
            direction = torch.randn(len(last), generator=generator).to(last)
        for earlier in directions:
            direction = direction - torch.dot(direction, earlier) * earlier
        directions.append(direction / direction.norm())
    coordinates = torch.tensor(
        [[float(torch.dot(o, d)) for d in directions] for o in offsets], dtype=torch.float64
    )
    total = max(float(variances.sum()), 1e-300)
    return PrincipalPlane(
        torch.stack(directions), coordinates, (float(variances[0]) / total, float(variances[1]) / total)
    )
