"""Micro-teleportations are orthogonal to the gradient (section 4.2 of the paper, Fig. 4).

With activations such as ReLU, for which `f(τ x) = τ f(x)`, a teleportation by a positive change of basis
also preserves the loss of the plain network, so an infinitesimal one moves along a level set, to which the
gradient is orthogonal. (With tanh it moves along one only together with its activations, and the angle is
not 90°.) Two random high-dimensional vectors are nearly orthogonal as well: the controls show how far from
90° random vectors are.
"""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd
import torch

from nteleport.core.quiver import scales
from nteleport.randomness import generator_for
from nteleport.studies.angles import angle_of_products, loss_gradients
from nteleport.studies.micro import MicroSettings
from nteleport.studies.study import Progress, no_progress
from nteleport.studies.subject import Subject, draw_cob, seeded, subjects

PAIRS = (
    "gradient, teleportation",
    "gradient, random vector",
    "teleportation, random vector",
    "two random vectors",
)
"""The measured angles: the claim, then its three controls."""

_PAIRS = ((0, 1), (0, 2), (1, 2), (2, 3))
"""The same pairs as positions among gradient, teleportation and two random vectors."""

_PIECE = 2**20
"""Vectors are processed in chunks of this many weights, so that four of them in float64 fit anywhere."""


@seeded
def micro_angles(settings: MicroSettings, *, progress: Progress = no_progress) -> pd.DataFrame:
    """Angles between the loss gradient, the displacement of a micro-teleportation and random vectors.

    Returns:
        One row per angle, in degrees: `model, dataset, batch_size, repeat, pair, angle`, where `pair` is
        one of `PAIRS`.

    Raises:
        NTeleportError: invalid settings.
    """
    total = (
        len(settings.models) * len(settings.datasets) * len(settings.batch_sizes) * settings.teleportations
    )
    rows: list[dict[str, object]] = []
    done = 0
    for subject in subjects(settings):
        for batch_size in settings.batch_sizes:
            for repeat, angles in enumerate(_angles(subject, batch_size, settings)):
                origin = {"model": subject.model.label, "dataset": subject.dataset, "batch_size": batch_size}
                rows += [
                    {**origin, "repeat": repeat, "pair": p, "angle": a}
                    for p, a in zip(PAIRS, angles, strict=True)
                ]
                done += 1
                progress(done, total)
    return pd.DataFrame(rows)


def _angles(subject: Subject, batch_size: int, settings: MicroSettings) -> Iterator[list[float]]:
    """The angles of `PAIRS` for each teleportation."""
    purpose = f"micro {batch_size}"
    generator = generator_for("study", settings.seed, purpose)
    for _, batch in zip(range(settings.teleportations), subject.batches(batch_size, purpose), strict=False):
        gradients = loss_gradients(subject.network, batch)
        cob = draw_cob(subject, settings.cob_range, settings.cob_sampling, generator)
        reached = scales(subject.quiver, cob, expand=False)
        products = torch.zeros(4, 4, dtype=cob.dtype, device=subject.device)
        for name, parameter in subject.network.named_parameters():
            scale = reached.get(name, cob.new_ones(())).expand_as(parameter)
            pieces = (each.flatten().split(_PIECE) for each in (gradients[name], parameter.detach(), scale))
            for gradient, weight, factor in zip(*pieces, strict=True):
                noise = torch.randn(2, len(gradient), generator=generator).to(cob)
                vectors = torch.stack([gradient.to(cob), (factor - 1) * weight, *noise])
                products += vectors @ vectors.T
        yield [float(angle_of_products(products, first, second)) for first, second in _PAIRS]
