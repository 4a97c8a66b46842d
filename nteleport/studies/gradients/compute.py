"""Teleportation changes the gradient, more so the wider the change of basis (paper, section 4.3, Fig. 7).

Two questions: how much the normalized gradient ‖dW‖/‖W‖ differs from ‖dTW‖/‖TW‖, and the angle between dTW
and dW. Neither requires an actual teleportation: the gradient at the teleported weights is `g / s`, so
``nteleport.core.norms`` computes the norms of all teleportations of a batch from a single backward pass.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pandas as pd
import torch
from torch import Tensor

from nteleport.studies.angles import Candidates, angles, draw_candidates, loss_gradients
from nteleport.studies.gradients import GradientsSettings
from nteleport.studies.study import Progress, no_progress
from nteleport.studies.subject import Subject, seeded, subjects

DIFFERENCES, ANGLES = "gradients", "gradients-angles"
"""The two tables."""


@seeded
def gradient_changes(
    settings: GradientsSettings, *, progress: Progress = no_progress
) -> dict[str, pd.DataFrame]:
    """How gradients change with a teleportation, for every model and data set of the settings.

    Returns:
        `gradients`: one row per teleportation and batch, `model, dataset, batch, cob_range, teleportation,
        before, after, difference`, where `before` is ‖dW‖/‖W‖ and `after` ‖dTW‖/‖TW‖.
        `gradients-angles`: the same, with `angle` between dW and dTW in degrees, for the smallest, the middle
        and the largest range.

    Raises:
        NTeleportError: invalid settings.
    """
    total = len(settings.models) * len(settings.datasets) * settings.batches
    found: dict[str, list[pd.DataFrame]] = {DIFFERENCES: [], ANGLES: []}
    for number, subject in enumerate(subjects(settings)):
        drawn = draw_candidates(subject, settings, "gradients")
        batches = []
        for batch in _changes(subject, settings, drawn):
            batches.append(batch)
            progress(number * settings.batches + len(batches), total)
        for name, table in _tables(drawn, settings, batches).items():
            table.insert(0, "model", subject.model.label)
            table.insert(1, "dataset", subject.dataset)
            found[name].append(table)
    return {name: pd.concat(tables, ignore_index=True) for name, tables in found.items()}


@dataclass(frozen=True, eq=False)
class _Change:
    """The effect of teleporting on the gradient of one batch.

    Attributes:
        ratios: ‖dTW‖/‖TW‖ without a teleportation, then at each.
        angles: for each of the few teleportations whose angles are requested.
    """

    ratios: Tensor
    angles: Tensor


def _changes(subject: Subject, settings: GradientsSettings, drawn: Candidates) -> Iterator[_Change]:
    """The changes of each batch, after one backward pass."""
    kept = drawn.positions(_few(settings))
    norms, few_norms = drawn.norms(subject), drawn.at(kept).norms(subject)
    squared_weights = norms.squared_weights({n: p.detach() for n, p in subject.network.named_parameters()})
    stream = subject.batches(settings.batch_size, "gradients")
    for _, batch in zip(range(settings.batches), stream, strict=False):
        gradients = loss_gradients(subject.network, batch)
        squares, products = norms.squared_gradients(gradients), few_norms.gradient_products(gradients)
        of_few = squares[[0, *(position + 1 for position in kept)]]
        yield _Change((squares / squared_weights).sqrt(), angles(products, of_few))


def _few(settings: GradientsSettings) -> list[float]:
    """The ranges whose angles are shown: the smallest, the middle and the largest."""
    ranges = settings.spaced_ranges()
    return [ranges[0], ranges[len(ranges) // 2], ranges[-1]]


def _tables(
    drawn: Candidates, settings: GradientsSettings, batches: Sequence[_Change]
) -> dict[str, pd.DataFrame]:
    """Both tables of one subject."""
    ratios = torch.stack([batch.ratios for batch in batches])
    before, after = ratios[:, :1].expand(-1, ratios.shape[1] - 1), ratios[:, 1:]
    differences = {"before": before, "after": after, "difference": (before - after).abs()}
    few = drawn.at(drawn.positions(_few(settings)))
    return {
        DIFFERENCES: drawn.table(differences),
        ANGLES: few.table({"angle": torch.stack([batch.angles for batch in batches])}),
    }
