"""How far a teleportation rotates the weights: cosine and angle between W and T(W), against the range.

Both follow from norms that ``nteleport.core.norms`` computes for all teleportations at once. For a CoB
drawn from U[1−σ, 1+σ] the expectations per weight, E[s] and E[s²], predict the cosine (see the tests).
"""

from __future__ import annotations

import pandas as pd

from nteleport.studies.angles import angles, draw_candidates
from nteleport.studies.dot_product import DotProductSettings
from nteleport.studies.study import Progress, no_progress
from nteleport.studies.subject import subjects


def weight_angles(settings: DotProductSettings, *, progress: Progress = no_progress) -> pd.DataFrame:
    """Cosine and angle between the weights and the teleported weights.

    Returns:
        One row per teleportation: `model, dataset, cob_range, teleportation, cosine, angle` (degrees).

    Raises:
        NTeleportError: invalid settings.
    """
    total = len(settings.models) * len(settings.datasets)
    tables: list[pd.DataFrame] = []
    for subject in subjects(settings):
        drawn = draw_candidates(subject, settings, "dot-product")
        norms = drawn.norms(subject)
        weights = {name: p.detach() for name, p in subject.network.named_parameters()}
        products, squares = norms.weight_products(weights), norms.squared_weights(weights)
        cosines = products[1:] / (squares[0] * squares[1:]).sqrt()
        columns = {"cosine": cosines[None], "angle": angles(products, squares)[None]}
        table = drawn.table(columns).drop(columns="batch")
        table.insert(0, "model", subject.model.label)
        table.insert(1, "dataset", subject.dataset)
        tables.append(table)
        progress(len(tables), total)
    return pd.concat(tables, ignore_index=True)
