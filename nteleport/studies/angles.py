"""Many changes of basis of a subject, at several ranges, and the angles they turn a vector by."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from nteleport.core.norms import TeleportedNorms
from nteleport.studies.ranges_settings import RangesSettings
from nteleport.studies.subject import Subject, draw_cob, named_generator


@dataclass(frozen=True, eq=False)
class Candidates:
    """Changes of basis to compare with no teleportation at all.

    Attributes:
        ranges: of each.
        numbers: each counts those of its range, from 0.
        cobs: shape (n, cob_size).
    """

    ranges: list[float]
    numbers: list[int]
    cobs: Tensor

    def positions(self, ranges: Collection[float]) -> list[int]:
        """Where those of some ranges are."""
        return [position for position, each in enumerate(self.ranges) if each in ranges]

    def at(self, positions: Sequence[int]) -> Candidates:
        """Some of them."""
        ranges, numbers = ([listed[k] for k in positions] for listed in (self.ranges, self.numbers))
        return Candidates(list(ranges), list(map(int, numbers)), self.cobs[list(positions)])

    def norms(self, subject: Subject) -> TeleportedNorms:
        """Norms at a CoB of ones, then at each candidate: those of one run have the same rounding."""
        ones = self.cobs.new_ones(1, self.cobs.shape[1])
        return TeleportedNorms(subject.quiver, torch.cat([ones, self.cobs]))

    def table(self, columns: Mapping[str, Tensor]) -> pd.DataFrame:
        """A row for each candidate and batch: `batch, cob_range, teleportation`, then `columns`.

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
    """The teleportations of every range; they follow from the seed and `purpose`."""
    generator = named_generator(settings.seed, purpose)
    ranges = [each for each in settings.spaced_ranges() for _ in range(settings.teleportations)]
    numbers = list(range(settings.teleportations)) * settings.ranges
    cobs = [draw_cob(subject, each, settings.cob_sampling, generator) for each in ranges]
    return Candidates(ranges, numbers, torch.stack(cobs))


def angles(products: Tensor, squares: Tensor) -> Tensor:
    """The angles between a vector and its teleported ones, in degrees.

    With A = ‖w‖², B = w·w' and C = ‖w'‖² the tangent is √(AC − B²) / B. For w' = (1 + e) ⊙ w with
    E₁ = Σ w² e = B − A and E₂ = Σ w² e² = C − 2B + A, the root is of A·E₂ − E₁²: nothing large cancels when e
    is small.

    Args:
        products: w·w' at a CoB of ones, then at each teleportation.
        squares: ‖w'‖², likewise.

    Returns:
        For each teleportation.
    """
    before, product, square = products[0], products[1:], squares[1:]
    first, second = product - before, (square - before) - 2 * (product - before)
    crossed = (before * second - first.square()).clamp(min=0)
    return torch.rad2deg(torch.atan2(crossed.sqrt(), product))
