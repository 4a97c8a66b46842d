"""Minimize a function of ``log|τ|`` between bounds: L-BFGS on what is free, steepest descent where it fails.

Entries at a bound whose gradient points outward are held; the rest moves along the direction of L-BFGS, and
is projected onto the bounds (two-metric projection: Bertsekas, *Projected Newton methods for optimization
problems with simple constraints*, SIAM J. Control Optim. 20(2), 1982). Where the function is concave, as
gradient norms to be maximized are, there is no curvature to learn: then a step goes far enough to reach the
bounds, where such a function has its minima.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import torch
from torch import Tensor

Evaluate = Callable[[Tensor], tuple[Tensor, Tensor]]
"""The value, a scalar, and the gradient at a point."""

_MEMORY = 10
_HALVINGS = 20
_SUFFICIENT = 1e-4
_NEGLIGIBLE = 1e-14


def minimize(
    evaluate: Evaluate, start: Tensor, bound: float | None, steps: int
) -> tuple[Tensor, list[float]]:
    """Descend from ``start``; every step reduces the value, so the result is never worse.

    Args:
        evaluate: the function.
        start: within the bounds.
        bound: of the absolute value of every coordinate; None for none.
        steps: at most; fewer if the descent has converged.

    Returns:
        The last point, and the value at the start and after each step.
    """
    point = start
    value, gradient = evaluate(point)
    values = [float(value)]
    pairs: deque[tuple[Tensor, Tensor]] = deque(maxlen=_MEMORY)
    for _ in range(steps):
        slope = _free(point, gradient, bound)
        if not bool(torch.isfinite(slope).all()) or not bool(slope.any()):
            break
        reached = None
        if pairs:
            reached = _search(evaluate, point, values[-1], gradient, _quasi_newton(slope, pairs), bound)
        if reached is None:
            pairs.clear()
            steepest = -slope * ((bound or 1.0) / slope.abs().mean())
            reached = _search(evaluate, point, values[-1], gradient, steepest, bound)
        if reached is None:
            break
        new, value, new_gradient = reached
        moved, bent = new - point, new_gradient - gradient
        if float(moved @ bent) > _NEGLIGIBLE * float(bent @ bent):
            pairs.append((moved, bent))
        point, gradient = new, new_gradient
        values.append(float(value))
        if values[-2] - values[-1] <= _NEGLIGIBLE * abs(values[-1]):
            break
    return point, values


def _free(point: Tensor, gradient: Tensor, bound: float | None) -> Tensor:
    """The gradient, 0 where it points out of the bounds."""
    if bound is None:
        return gradient
    held = ((point >= bound) & (gradient < 0)) | ((point <= -bound) & (gradient > 0))
    return gradient.masked_fill(held, 0)


def _search(
    evaluate: Evaluate, point: Tensor, value: float, gradient: Tensor, direction: Tensor, bound: float | None
) -> tuple[Tensor, Tensor, Tensor] | None:
    """Halve the step until it reduces the value enough; None if none does."""
    for _ in range(_HALVINGS):
        new = point + direction
        new = new if bound is None else new.clamp(-bound, bound)
        promised = float(gradient @ (new - point))
        if promised < 0:
            reached, slope = evaluate(new)
            if float(reached) <= value + _SUFFICIENT * promised:
                return new, reached, slope
        direction = direction / 2
    return None


def _quasi_newton(slope: Tensor, pairs: deque[tuple[Tensor, Tensor]]) -> Tensor:
    """The direction of L-BFGS (Nocedal and Wright, *Numerical Optimization*, algorithm 7.4), on what is
    free."""
    free = slope != 0
    direction = -slope
    used: list[tuple[Tensor, Tensor, float, float]] = []
    for moved, bent in reversed(pairs):
        moved, bent = moved * free, bent * free
        curvature = float(moved @ bent)
        if curvature > 0:
            weight = float(moved @ direction) / curvature
            direction = direction - weight * bent
            used.append((moved, bent, curvature, weight))
    if used:
        _, bent, curvature, _ = used[0]
        direction = direction * (curvature / float(bent @ bent))
    for moved, bent, curvature, weight in reversed(used):
        direction = direction + (weight - float(bent @ direction) / curvature) * moved
    return direction * free
