"""Find the change of basis that carries one set of weights nearest to another.

Two networks may be the same up to a teleportation. :func:`solve_cob` finds it: the CoB ``τ`` that minimises
``‖s(τ) ⊙ θ − t‖²``. An exact teleportation is found exactly; otherwise the result is the nearest point
that descent from the closed form reaches. :func:`recover_cob` is the study: how well a known CoB is found
under noise.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping

import pandas as pd
import torch
from torch import Tensor

from nteleport.core.cob import SMALLEST_ENTRY
from nteleport.core.cob_fitting import Distance, LayerwiseFit, distance_to
from nteleport.core.model import TeleportableModel
from nteleport.core.quiver import Quiver, teleported
from nteleport.errors import StudyError, TeleportationError, nearest
from nteleport.randomness import generator_for
from nteleport.studies.recover import METHODS, RecoverSettings
from nteleport.studies.study import Progress, no_progress
from nteleport.studies.subject import Subject, draw_cob, one_subject
from nteleport.studies.weight_files import load_weights

Weights = Mapping[str, Tensor]

_STEPS_A_ROUND = 50
_LARGEST_LOGARITHM = -math.log(SMALLEST_ENTRY)


def solve_cob(
    model: TeleportableModel,
    target_weights: Tensor | Weights,
    method: str = "least_squares",
    *,
    max_iterations: int = 500,
    tolerance: float = 1e-6,
) -> Tensor:
    """The CoB that teleports ``model`` nearest to ``target_weights``.

    ``least_squares`` minimises over one layer after the other, in closed form: once in execution order
    from what feeds each layer, then in sweeps from both of its sides (for the last layer the output side is
    pinned) until the distance settles. ``gradient`` descends by L-BFGS on the logarithms of all entries at
    once; signs are discrete and come from the same first pass.

    Entries on which no weight depends are 1. Buffers play no part. Solved on the CPU in float64.

    Args:
        model: the network to teleport. It is left alone.
        target_weights: a vector as :meth:`TeleportableModel.get_weights` returns it, or parameters by name.
        method: ``least_squares`` or ``gradient``.
        max_iterations: sweeps, or steps of L-BFGS.
        tolerance: stop when an iteration lessens the squared distance that a CoB can lessen by a smaller
            share.

    Returns:
        A CoB for ``model.teleport``, shape ``(cob_size,)``: total, that is relative to the network as it
        was given.

    Raises:
        TeleportationError: an unknown method, weights of another shape, or weights that are not finite.
    """
    if method not in METHODS:
        known = " or ".join(METHODS)
        raise TeleportationError(f"unknown method {method!r}: expected {known}{nearest(method, METHODS)}")
    target = named_weights(model, target_weights)
    distance = distance_to(model.quiver, plain_weights(model), target)
    solve = _least_squares if method == "least_squares" else _gradient
    return solve(model.quiver, distance, max_iterations, tolerance).to(model.cob)


def plain_weights(model: TeleportableModel) -> dict[str, Tensor]:
    """The weights of ``model`` at the CoB of ones, on the CPU."""
    parameters = {name: p.detach() for name, p in model.network.named_parameters()}
    plain = teleported(parameters, model.quiver, model.cob.detach(), power=-1)
    return {name: weight.cpu() for name, weight in plain.items()}


def named_weights(model: TeleportableModel, weights: Tensor | Weights) -> dict[str, Tensor]:
    """Weights given as a vector or by name, by name on the CPU.

    Raises:
        TeleportationError: they do not fit the parameters of ``model``, or are not finite.
    """
    parameters = dict(model.network.named_parameters())
    if isinstance(weights, Tensor):
        expected = sum(p.numel() for p in parameters.values())
        if weights.shape != (expected,):
            raise TeleportationError(
                f"the weights of this network have shape ({expected},), got {tuple(weights.shape)}"
            )
        pieces = weights.split([p.numel() for p in parameters.values()])
        weights = {
            name: piece.view_as(p) for (name, p), piece in zip(parameters.items(), pieces, strict=True)
        }
    for name, parameter in parameters.items():
        if name not in weights or weights[name].shape != parameter.shape:
            got = tuple(weights[name].shape) if name in weights else "nothing"
            raise TeleportationError(
                f"weights for {name!r} have shape {tuple(parameter.shape)} here, got {got}"
            )
        if not bool(torch.isfinite(weights[name]).all()):
            raise TeleportationError(f"the target weights of {name!r} are not finite")
    return {name: weights[name].detach().cpu() for name in parameters}


def _least_squares(quiver: Quiver, distance: Distance, max_iterations: int, tolerance: float) -> Tensor:
    fit = LayerwiseFit(quiver, distance)
    fit.first_pass()
    left = float(distance.reducible(fit.extended))
    for _ in range(max_iterations):
        before = left
        fit.sweep()
        left = float(distance.reducible(fit.extended))
        if before - left <= tolerance * before:
            break
    return fit.extended[1:]


def _gradient(quiver: Quiver, distance: Distance, max_iterations: int, tolerance: float) -> Tensor:
    fit = LayerwiseFit(quiver, distance)
    fit.first_pass()
    signs = fit.extended[1:].sign()
    logarithm = torch.zeros(quiver.cob_size, dtype=torch.float64)
    done, left = 0, float(distance.reducible(_extended(signs)))
    while done < max_iterations:
        before = left
        logarithm, steps = _descend(distance, signs, logarithm, min(_STEPS_A_ROUND, max_iterations - done))
        done, left = done + steps, float(distance.reducible(_extended(signs * logarithm.exp())))
        if before - left <= tolerance * before:
            break
    return signs * logarithm.exp()


def _descend(distance: Distance, signs: Tensor, start: Tensor, steps: int) -> tuple[Tensor, int]:
    """A round of L-BFGS on the logarithms, in units of the distance's curvature at the start.

    Returns:
        The new logarithms, and how many steps were made.
    """
    unit = _curvature(distance, _extended(signs * start.exp())).rsqrt()
    moved = torch.zeros_like(start, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [moved], max_iter=steps, history_size=20, tolerance_grad=0, tolerance_change=0,
        line_search_fn="strong_wolfe",
    )  # fmt: skip

    def logarithm() -> Tensor:
        return (start + unit * moved).clamp(-_LARGEST_LOGARITHM, _LARGEST_LOGARITHM)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = distance.reducible(_extended(signs * logarithm().exp()))
        loss.backward()
        return loss

    optimizer.step(closure)
    return logarithm().detach(), int(optimizer.state[moved]["n_iter"])


def _curvature(distance: Distance, extended: Tensor) -> Tensor:
    """The Gauss–Newton diagonal of the distance in the logarithms; 1 where nothing depends on an entry."""
    each = 2 * distance.squares * (extended[distance.upper] / extended[distance.lower]).square()
    found = torch.zeros_like(extended).index_add_(0, distance.upper, each).index_add_(0, distance.lower, each)
    return torch.where(found[1:] > 0, found[1:], 1.0)


def _extended(cob: Tensor) -> Tensor:
    return torch.cat([cob.new_ones(1), cob])


def recover_cob(settings: RecoverSettings, *, progress: Progress = no_progress) -> dict[str, pd.DataFrame]:
    """Recover a random CoB from teleported weights with noise, or, with ``settings.target``, one nobody
    knows.

    Noise of level ``n`` adds to each weight a normal deviate times ``n`` times the root mean square of the
    weights of its tensor, after teleporting.

    Returns:
        ``recover``: a row for each entry and noise level, ``noise, layer, entry, true, recovered``;
        ``true`` is empty for a target from a file. ``recover-distances``: a row for each noise level,
        ``noise, before, after, wrong_signs, median_error, largest_error``: the distance between the two sets
        of weights before and after teleporting by the recovered CoB, relative to the target's size; errors
        are relative to the true entries.

    Raises:
        NTeleportError: settings that cannot be run.
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
    """The true CoB, if there is one, and the weights to come near to, by name."""
    weights = plain_weights(model)
    if settings.target is not None:
        network = copy.deepcopy(model.network)
        load_weights(network, settings.target)
        return None, {name: p.detach().cpu() for name, p in network.named_parameters()}
    generator = generator_for("study", settings.seed, "recover")
    true = draw_cob(subject, settings.cob_range, settings.cob_sampling, generator).cpu()
    exact = teleported(weights, subject.quiver.to("cpu"), true)
    deviates = {name: torch.randn(p.shape, generator=generator, dtype=p.dtype) for name, p in exact.items()}
    return true, {name: p + noise * p.square().mean().sqrt() * deviates[name] for name, p in exact.items()}


def _quality(
    model: TeleportableModel, target: Weights, found: Tensor, true: Tensor | None
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
