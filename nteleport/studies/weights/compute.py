"""The distribution of the weights widens with a teleportation (paper, Fig. 11).

Three distributions are compared: the weights before and after a teleportation, and those of the control
`same_distr`, redrawn independently from the histogram of the teleported weights: the same density without the
structure of the teleportation. Weights are those of linear and convolution layers, which the control redraws.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping

import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from nteleport.core.quiver import scales, teleported
from nteleport.randomness import generator_for
from nteleport.studies.study import Progress, no_progress
from nteleport.studies.subject import Subject, draw_cob, subjects
from nteleport.studies.weights import WeightsSettings
from nteleport.training.controls import redraw_same_distribution

WHOLE_MODEL = "whole model"
BEFORE, AFTER, REDRAWN = "before", "after", "same_distr"
WHOLE, ZOOM = "whole", "zoom"

Weights = Mapping[str, Tensor]


def weight_densities(settings: WeightsSettings, *, progress: Progress = no_progress) -> pd.DataFrame:
    """Densities of the weights before, after and redrawn.

    Returns:
        One row per bin: `model, dataset, layer, view, weights, left, right, density`, and `ylim_max` where
        the settings have one. `weights` is `before`, `after` or `same_distr`; the bins of `view` `whole` span
        all three or `xlim`, those of `zoom` the weights before. A density integrates to 1 over all weights,
        so to less over fewer bins.

    Raises:
        NTeleportError: invalid settings.
    """
    total = len(settings.models) * len(settings.datasets)
    tables: list[pd.DataFrame] = []
    for done, subject in enumerate(subjects(settings), start=1):
        for layer, values in _by_layer(_three(subject, settings), settings.per_layer):
            for view, (low, high) in _windows(values, settings.xlim).items():
                tables.append(_densities(values, low, high, settings.bins))
                origin = {
                    "model": subject.model.label,
                    "dataset": subject.dataset,
                    "layer": layer,
                    "view": view,
                }
                for position, (column, value) in enumerate(origin.items()):
                    tables[-1].insert(position, column, value)
        progress(done, total)
    table = pd.concat(tables, ignore_index=True)
    return table if settings.ylim_max is None else table.assign(ylim_max=settings.ylim_max)


def _three(subject: Subject, settings: WeightsSettings) -> dict[str, Weights]:
    """The weights of the network by layer: before, after and redrawn."""
    cob = draw_cob(
        subject,
        settings.cob_range,
        settings.cob_sampling,
        generator_for("study", settings.seed, "weights cob"),
    )
    scale = scales(subject.quiver, cob, expand=False)
    before = _layer_weights(subject.network)
    by_parameter = {f"{layer}.weight": weight for layer, weight in before.items()}
    after = dict(zip(before, teleported(by_parameter, subject.quiver, cob).values(), strict=True))
    redrawn = copy.deepcopy(subject.network)
    draws = generator_for("study", settings.seed, "weights redrawn")
    redraw_same_distribution(redrawn, scale, draws, settings.histogram)
    return {BEFORE: before, AFTER: after, REDRAWN: _layer_weights(redrawn)}


def _layer_weights(network: nn.Module) -> dict[str, Tensor]:
    layers = ((name, m) for name, m in network.named_modules() if isinstance(m, (nn.Linear, _ConvNd)))
    return {name: layer.weight.detach().double() for name, layer in layers}


def _by_layer(three: Mapping[str, Weights], per_layer: bool) -> Iterator[tuple[str, Weights]]:
    """The names of what is shown together, each with its three vectors of weights."""
    if not per_layer:
        yield (
            WHOLE_MODEL,
            {which: torch.cat([w.flatten() for w in layers.values()]) for which, layers in three.items()},
        )
        return
    for layer in three[BEFORE]:
        yield layer, {which: layers[layer].flatten() for which, layers in three.items()}


def _windows(values: Weights, xlim: tuple[float, ...]) -> dict[str, tuple[float, float]]:
    """Between which weights the bins of each view lie."""
    largest = max(float(each.abs().max()) for each in values.values()) or 1.0
    near = 1.5 * float(values[BEFORE].abs().max()) or 1.0
    return {WHOLE: (xlim[0], xlim[1]) if xlim else (-largest, largest), ZOOM: (-near, near)}


def _densities(values: Weights, low: float, high: float, bins: int) -> pd.DataFrame:
    count = len(values[BEFORE])
    edges = torch.linspace(low, high, max(10, min(bins, math.isqrt(count))) + 1, dtype=torch.float64)
    frames = []
    for which, weights in values.items():
        counts = torch.histogram(weights.cpu(), edges).hist
        density = counts / (len(weights) * (edges[1:] - edges[:-1]))
        columns = {"left": edges[:-1].numpy(), "right": edges[1:].numpy(), "density": density.numpy()}
        frames.append(pd.DataFrame({"weights": which, **columns}))
    return pd.concat(frames, ignore_index=True)
