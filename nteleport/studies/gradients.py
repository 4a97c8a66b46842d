"""Teleportation changes the gradient, the more so the wider the change of basis (paper, section 4.3, Fig. 7).

Two questions: how much the normalised gradient ‖dW‖/‖W‖ differs from ‖dTW‖/‖TW‖, and by what angle dTW is
turned against dW. Neither needs a teleportation to be carried out: the gradient at the teleported weights is
`g / s`, so :mod:`nteleport.norms` has the norms of all teleportations of a batch from its one backward pass.
"""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd

from nteleport.studies.candidates import angles, draw_candidates
from nteleport.studies.settings.gradients import GradientsSettings
from nteleport.studies.study import Progress, no_progress
from nteleport.studies.subject import Subject, subjects
from nteleport.studies.vectors import loss_gradients

DIFFERENCES, ANGLES = "gradients", "gradients-angles"
"""The two tables."""


def gradient_changes(
    settings: GradientsSettings, *, progress: Progress = no_progress
) -> dict[str, pd.DataFrame]:
    """How gradients change with a teleportation, for every model and data set of the settings.

    Returns:
        `gradients`: a row for each teleportation and batch, `model, dataset, batch, cob_range, teleportation,
        before, after, difference`, where `before` is ‖dW‖/‖W‖ and `after` ‖dTW‖/‖TW‖.
        `gradients-angles`: the same, with `angle` between dW and dTW in degrees, for the smallest, the middle
        and the largest range.

    Raises:
        NTeleportError: settings that cannot be run.
    """
    total = len(settings.models) * len(settings.datasets) * settings.batches
    found: dict[str, list[pd.DataFrame]] = {DIFFERENCES: [], ANGLES: []}
    for subject in subjects(settings):
        for batch, (changes, turned) in enumerate(_changes(subject, settings)):
            for name, table in ((DIFFERENCES, changes), (ANGLES, turned)):
                origin: dict[str, str | int] = {
                    "model": subject.model.label,
                    "dataset": subject.dataset,
                    "batch": batch,
                }
                for position, (column, value) in enumerate(origin.items()):
                    table.insert(position, column, value)
                found[name].append(table)
            progress(len(found[DIFFERENCES]), total)
    return {name: pd.concat(tables, ignore_index=True) for name, tables in found.items()}


def _changes(subject: Subject, settings: GradientsSettings) -> Iterator[tuple[pd.DataFrame, pd.DataFrame]]:
    """Both tables of each batch."""
    ranges = settings.spaced_ranges()
    drawn = draw_candidates(subject, settings, "gradients")
    few = drawn.at([ranges[0], ranges[len(ranges) // 2], ranges[-1]])
    norms, few_norms = drawn.norms(subject), few.norms(subject)
    squared_weights = norms.squared_weights({n: p.detach() for n, p in subject.network.named_parameters()})
    stream = subject.batches(settings.batch_size, "gradients")
    for _, batch in zip(range(settings.batches), stream, strict=False):
        gradients = loss_gradients(subject.network, batch)
        ratios = (norms.squared_gradients(gradients) / squared_weights).sqrt()
        before, after = ratios[:1].expand(len(ratios) - 1), ratios[1:]
        turned = angles(few_norms.gradient_products(gradients), few_norms.squared_gradients(gradients))
        changes = drawn.table({"before": before, "after": after, "difference": (before - after).abs()})
        yield changes, few.table({"angle": turned})
