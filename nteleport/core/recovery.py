"""Find the change of basis that carries one set of weights closest to another.

Two networks may be the same up to a teleportation. ``solve_cob`` finds it: the CoB ``τ`` that minimizes
``‖s(τ) ⊙ θ − t‖²``. An exact teleportation is found exactly; otherwise the result is the nearest point that
descent from the closed form reaches.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from nteleport.core.cob import SMALLEST_ENTRY
from nteleport.core.cob_fitting import Distance, LayerwiseFit, distance_to
from nteleport.core.model import TeleportableModel
from nteleport.core.quiver import Quiver, teleported
from nteleport.errors import TeleportationError, nearest
from nteleport.vocabulary import RECOVERY_METHODS, RecoveryMethod

Weights = Mapping[str, Tensor]

_STEPS_PER_ROUND = 50
_LARGEST_LOGARITHM = -math.log(SMALLEST_ENTRY)


def solve_cob(
    model: TeleportableModel,
    target_weights: Tensor | Weights,
    method: RecoveryMethod = "least_squares",
    *,
    max_iterations: int = 500,
    tolerance: float = 1e-6,
) -> Tensor:
    """The CoB that teleports ``model`` closest to ``target_weights``.

    ``least_squares`` minimizes over one layer at a time, in closed form: once in execution order from what
    feeds each layer, then in sweeps from both of its sides (for the last layer the output side is pinned)
    until the distance converges. ``gradient`` descends by L-BFGS on the logarithms of all entries at once;
    signs are discrete and come from the same first pass.

    Entries on which no weight depends are 1. Buffers are ignored. Solved on the CPU in float64.

    Args:
        model: the network to teleport. It is left unchanged.
        target_weights: a vector as ``TeleportableModel.weight_vector`` returns it, or parameters by name.
        method: ``least_squares`` or ``gradient``.
        max_iterations: sweeps, or steps of L-BFGS.
        tolerance: stop when an iteration reduces the part of the squared distance that depends on the CoB by
            a smaller fraction.

    Returns:
        A CoB for ``model.teleport``, shape ``(cob_size,)``: total, that is, relative to the network as it was
        given.

    Raises:
        TeleportationError: an unknown method, weights of the wrong shape, or weights that are not finite.
    """
    if not isinstance(model, TeleportableModel):
        raise TeleportationError(f"expected a TeleportableModel, got {type(model).__name__}")
    if method not in RECOVERY_METHODS:
        known = " or ".join(RECOVERY_METHODS)
        raise TeleportationError(
            f"unknown method {method!r}: expected {known}{nearest(str(method), RECOVERY_METHODS)}"
        )
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
    """Weights given as a vector or by name, returned by name on the CPU.

    Raises:
        TeleportationError: they do not fit the parameters of ``model``, or are not finite.
    """
    parameters = dict(model.network.named_parameters())
    if not isinstance(weights, (Tensor, Mapping)):
        raise TeleportationError(
            f"weights are a vector or tensors by name, got an object of type {type(weights).__name__}"
        )
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
        logarithm, steps = _descend(distance, signs, logarithm, min(_STEPS_PER_ROUND, max_iterations - done))
        done, left = done + steps, float(distance.reducible(_extended(signs * logarithm.exp())))
        if before - left <= tolerance * before:
            break
    return signs * logarithm.exp()


def _descend(distance: Distance, signs: Tensor, start: Tensor, steps: int) -> tuple[Tensor, int]:
    """A round of L-BFGS on the logarithms, in units of the distance's curvature at the start.

    Returns:
        The new logarithms, and how many steps were taken.
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
