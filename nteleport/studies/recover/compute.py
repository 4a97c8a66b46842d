"""How well a known change of basis is recovered from teleported weights with noise."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping

import pandas as pd
import torch
from torch import Tensor

from nteleport.checkpoints.files import read_checkpoint
from nteleport.checkpoints.fitting import load_into
from nteleport.core.model import TeleportableModel
from nteleport.core.quiver import teleported
from nteleport.core.recovery import plain_weights, solve_cob
from nteleport.errors import StudyError
from nteleport.randomness import generator_for
from nteleport.studies.recover import RecoverSettings
from nteleport.studies.study import Progress, no_progress
from nteleport.studies.subject import Subject, draw_cob, one_subject


def recover_cob(settings: RecoverSettings, *, progress: Progress = no_progress) -> dict[str, pd.DataFrame]:
    """Recover a random CoB from teleported weights with noise, or, with ``settings.target``, an unknown one.

    Noise of level ``n`` adds to each weight a standard normal deviate times ``n`` times the root mean square
    of the weights of its tensor, after teleporting.

    Returns:
        ``recover``: one row per entry and noise level, ``noise, layer, entry, true, recovered``;
        ``true`` is empty for a target from a file. ``recover-distances``: one row per noise level,
        ``noise, before, after, wrong_signs, median_error, largest_error``: the distance between the two sets
        of weights before and after teleporting by the recovered CoB, relative to the target's size; errors
        are relative to the true entries.

    Raises:
        NTeleportError: invalid settings.
    """
    subject = one_subject(settings)
    network = subject.network.double() if subject.device.type != "mps" else subject.network
    model = TeleportableModel(network, torch.zeros(1), quiver=subject.quiver)
    layers = [layer.name for layer in subject.quiver.layers for _ in range(layer.size)]
    entries, distances = [], []
    levels = settings.noise if settings.target is None else (0.0,)
    for done, noise in enumerate(levels):
        true, target = _target(subject, model, settings, noise)
        found = solve_cob(model, target, settings.method).cpu()
        columns = {"true": math.nan if true is None else true.numpy(), "recovered": found.numpy()}
        rows = {"noise": noise, "layer": layers, "entry": range(len(found)), **columns}
        entries.append(pd.DataFrame(rows, index=range(len(found))))
        distances.append({"noise": noise, **_quality(model, target, found, true)})
        progress(done + 1, len(levels))
    return {"recover": pd.concat(entries, ignore_index=True), "recover-distances": pd.DataFrame(distances)}


def _target(
    subject: Subject, model: TeleportableModel, settings: RecoverSettings, noise: float
) -> tuple[Tensor | None, dict[str, Tensor]]:
    """The true CoB, if there is one, and the target weights by name."""
    weights = plain_weights(model)
    if settings.target is not None:
        network = copy.deepcopy(model.network)
        load_into(network, read_checkpoint(settings.target))
        return None, {name: p.detach().cpu() for name, p in network.named_parameters()}
    generator = generator_for("study", settings.seed, "recover")
    true = draw_cob(subject, settings.cob_range, settings.cob_sampling, generator).cpu()
    exact = teleported(weights, subject.quiver.to("cpu"), true)
    deviates = {name: torch.randn(p.shape, generator=generator, dtype=p.dtype) for name, p in exact.items()}
    return true, {name: p + noise * p.square().mean().sqrt() * deviates[name] for name, p in exact.items()}


def _quality(
    model: TeleportableModel, target: Mapping[str, Tensor], found: Tensor, true: Tensor | None
) -> dict[str, float]:
    weights = plain_weights(model)
    size = sum(float(t.square().sum()) for t in target.values())
    if size == 0:
        raise StudyError("all weights of the target are 0, expected those of a network")
    before, after = (
        math.sqrt(sum(float((w[name] - t).square().sum()) for name, t in target.items()) / size)
        for w in (weights, teleported(weights, model.quiver.to("cpu"), found))
    )
    if true is None:
        return {"before": before, "after": after}
    errors = (found / true - 1).abs()
    return {
        "before": before,
        "after": after,
        "wrong_signs": int((found * true < 0).sum()),
        "median_error": float(errors.median()),
        "largest_error": float(errors.max()),
    }
