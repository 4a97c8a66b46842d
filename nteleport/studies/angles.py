"""Many changes of basis of a subject, at several ranges, and the angles by which they rotate a vector."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn import functional

from nteleport.core.norms import TeleportedNorms
from nteleport.errors import StudyError
from nteleport.randomness import generator_for
from nteleport.studies.settings import RangesSettings
from nteleport.studies.subject import Subject, draw_cob


@dataclass(frozen=True, eq=False)
class Candidates:
    """Changes of basis to compare with no teleportation.

    Attributes:
        ranges: the range of each.
        numbers: the index of each within its range, from 0.
        cobs: shape (n, cob_size).
    """

    ranges: list[float]
    numbers: list[int]
    cobs: Tensor

    def positions(self, ranges: Collection[float]) -> list[int]:
        """The positions of the candidates of some ranges."""
        return [position for position, each in enumerate(self.ranges) if each in ranges]

    def at(self, positions: Sequence[int]) -> Candidates:
        """The candidates at these positions."""
        ranges, numbers = ([listed[k] for k in positions] for listed in (self.ranges, self.numbers))
        return Candidates(list(ranges), list(map(int, numbers)), self.cobs[list(positions)])

    def norms(self, subject: Subject) -> TeleportedNorms:
        """Norms at a CoB of ones, then at each candidate: computed together, they have the same rounding."""
        ones = self.cobs.new_ones(1, self.cobs.shape[1])
        return TeleportedNorms(subject.quiver, torch.cat([ones, self.cobs]))

    def table(self, columns: Mapping[str, Tensor]) -> pd.DataFrame:
        """One row per candidate and batch: `batch, cob_range, teleportation`, then `columns`.

        Args:
            columns: shape (batches, candidates).
        """
        batches = len(next(iter(columns.values())))
        origin = {
            "batch": np.repeat(np.arange(batches), len(self.ranges)),
            "cob_range": np.tile(self.ranges, batches),
            "teleportation": np.tile(self.numbers, batches),
        }
        found = {name: values.flatten().cpu().numpy() for name, values in columns.items()}
        return pd.DataFrame({**origin, **found})


def draw_candidates(subject: Subject, settings: RangesSettings, purpose: str) -> Candidates:
    """The teleportations of every range, determined by the seed and `purpose`."""
    generator = generator_for("study", settings.seed, purpose)
    ranges = [each for each in settings.spaced_ranges() for _ in range(settings.teleportations)]
    numbers = list(range(settings.teleportations)) * settings.ranges
    cobs = [draw_cob(subject, each, settings.cob_sampling, generator) for each in ranges]
    return Candidates(ranges, numbers, torch.stack(cobs))


def angles(products: Tensor, squares: Tensor) -> Tensor:
    """The angles between a vector and its teleported versions, in degrees.

    With A = ‖w‖², B = w·w' and C = ‖w'‖² the tangent is √(AC − B²) / B. For w' = (1 + e) ⊙ w with
    E₁ = Σ w² e = B − A and E₂ = Σ w² e² = C − 2B + A, the radicand is A·E₂ − E₁²: nothing large cancels when
    e is small.

    Args:
        products: w·w' at a CoB of ones, then at each teleportation.
        squares: ‖w'‖², likewise.

    Returns:
        One angle per teleportation.
    """
    before, product, square = products[0], products[1:], squares[1:]
    first, second = product - before, (square - before) - 2 * (product - before)
    crossed = (before * second - first.square()).clamp(min=0)
    return torch.rad2deg(torch.atan2(crossed.sqrt(), product))


Batch = tuple[Tensor, Tensor]


@contextmanager
def takes_batches(size: int) -> Iterator[None]:
    """Report torch's error for a batch that a network cannot take: BatchNorm needs more than one value.

    Raises:
        StudyError: torch refused the batch.
    """
    try:
        yield
    except ValueError as error:
        raise StudyError(f"batch size {size}: {error}; a larger batch may help") from error


def loss_gradients(network: nn.Module, batch: Batch) -> dict[str, Tensor]:
    """The gradient of the mean cross-entropy of a batch for every parameter by name; `.grad` is unchanged.

    A frozen or unused parameter has gradient 0.

    Raises:
        StudyError: the network cannot take a batch of this size.
    """
    images, labels = batch
    parameters = dict(network.named_parameters())
    trained = {name: p for name, p in parameters.items() if p.requires_grad}
    with takes_batches(len(images)):
        loss = functional.cross_entropy(network(images).float(), labels)
    gradients = torch.autograd.grad(loss, list(trained.values()), allow_unused=True)
    found = dict(zip(trained, gradients, strict=True))
    return {
        name: torch.zeros_like(p) if found.get(name) is None else found[name]
        for name, p in parameters.items()
    }


def angle_of_products(products: Tensor, first: int, second: int) -> Tensor:
    """The angle between two of several vectors in degrees, from the matrix of their inner products.

    Computed as atan2(√(AC − B²), B): exact to rounding around 90°, and finite even where rounding puts a
    cosine above 1. Near 0° and 180° half of the digits are lost, as with `acos`.
    """
    a, b, c = products[first, first], products[first, second], products[second, second]
    return torch.rad2deg(torch.atan2((a * c - b.square()).clamp(min=0).sqrt(), b))
