"""The squared distance between teleported weights and a target, as a function of the change of basis.

A teleportation multiplies each weight by a ratio ``r = τ_i / τ_j``, so the distance ``‖s(τ) ⊙ θ − t‖²``
depends on the weights only through two sums for each pair of CoB entries: ``p = Σ θ²`` and ``q = Σ θ t`` over
the weights between the two neurons. ``Distance`` holds these sums, for any quiver (residuals,
normalizations and shared parameters are pairs like all others), in a form without cancellation near the
minimum: ``Σ p (r − q / p)²`` plus a remainder that no CoB changes.

With all other entries fixed, the distance as a function of one entry is ::

    a τ² − 2 b τ + c / τ² − 2 d / τ + constant

where ``a`` and ``b`` come from the weights and the bias that feed the neuron and ``c`` and ``d`` from those
that it feeds. Its minimum is a root of a quartic polynomial (``best_entry``). Two entries of one layer
never appear in the same ratio, so a whole layer is minimized at once, exactly (``LayerwiseFit``).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from nteleport.core.cob import SMALLEST_ENTRY
from nteleport.core.quiver import Factor, ParameterScaling, Quiver


@dataclass(frozen=True, eq=False)
class Distance:
    """``‖s(τ) ⊙ θ − t‖² = Σ squares · (τ[upper] / τ[lower] − ratios)² + rest``, one term per pair.

    Attributes:
        upper, lower: entries of the extended CoB (0 is the constant 1), int64.
        squares: ``Σ θ²`` of each term, positive, float64.
        ratios: ``Σ θ t / Σ θ²`` of each term: the ratio that minimizes it.
        rest: the part of the distance that no CoB changes.
    """

    upper: Tensor
    lower: Tensor
    squares: Tensor
    ratios: Tensor
    rest: float

    def reducible(self, extended: Tensor) -> Tensor:
        """The distance minus ``rest`` at an extended CoB: a differentiable scalar."""
        return (self.squares * (extended[self.upper] / extended[self.lower] - self.ratios).square()).sum()

    def where(self, chosen: Tensor) -> Distance:
        """The terms that the mask ``chosen`` selects."""
        return Distance(
            self.upper[chosen], self.lower[chosen], self.squares[chosen], self.ratios[chosen], self.rest
        )


def distance_to(quiver: Quiver, weights: Mapping[str, Tensor], target: Mapping[str, Tensor]) -> Distance:
    """Sum over the weights of each pair of CoB entries.

    Args:
        quiver: how the CoB acts on the parameters.
        weights: the weights ``θ`` at the CoB of ones, by parameter name.
        target: the weights ``t`` to approach, by parameter name.
    """
    found: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []
    rest = 0.0
    for name, scaling in quiver.parameters.items():
        theta, goal = weights[name].detach().cpu(), target[name].detach().cpu()
        if scaling.factors:
            found.append(_sums_of(scaling, theta, goal))
            rest += float(goal.double().square().sum())
        else:
            rest += float((theta.double() - goal.double()).square().sum())
    none = torch.zeros(0)
    first = (none.long(), none.long(), none.double(), none.double())
    upper, lower, squares, products = (torch.cat(each) for each in zip(first, *found, strict=True))
    felt = squares > 0
    upper, lower, squares, products = (each[felt] for each in (upper, lower, squares, products))
    rest = max(0.0, rest - float((products.square() / squares).sum()))
    return Distance(upper, lower, squares, products / squares, rest)


def _sums_of(scaling: ParameterScaling, theta: Tensor, goal: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    index = {power: _index(scaling.factors, power, theta.dim()) for power in (1, -1)}
    squares, products = (theta.double() * other for other in (theta, goal))
    for axis in range(theta.dim()):
        varying = [power for power in (1, -1) if index[power].shape[axis] > 1]
        if not varying:
            squares, products = squares.sum(axis, keepdim=True), products.sum(axis, keepdim=True)
        elif len(varying) == 1 and index[varying[0]].numel() == theta.shape[axis]:
            # After a flatten, many positions belong to one entry.
            entries, place = index[varying[0]].flatten().unique(return_inverse=True)
            index[varying[0]] = entries.view([-1 if each == axis else 1 for each in range(theta.dim())])
            squares, products = (
                _sum_by_place(each, axis, place, len(entries)) for each in (squares, products)
            )
    upper, lower = (index[power].expand(squares.shape).flatten() for power in (1, -1))
    return upper, lower, squares.flatten(), products.flatten()


def _sum_by_place(values: Tensor, axis: int, place: Tensor, size: int) -> Tensor:
    if size == len(place):
        # unique() sorts: bring the values into its order.
        return values.index_select(axis, place.argsort())
    shape = [size if each == axis else length for each, length in enumerate(values.shape)]
    return values.new_zeros(shape).index_add_(axis, place, values)


def _index(factors: tuple[Factor, ...], power: int, dim: int) -> Tensor:
    for factor in factors:
        if factor.power == power:
            index = factor.index.cpu()
            return index.view((1,) * (dim - index.dim()) + tuple(index.shape))
    return torch.zeros((1,) * dim, dtype=torch.int64)


class LayerwiseFit:
    """Minimizes a distance over one layer of CoB entries at a time, in execution order.

    Attributes:
        extended: the extended CoB found so far, float64; initially ones.
    """

    def __init__(self, quiver: Quiver, distance: Distance) -> None:
        self.extended = torch.ones(quiver.cob_size + 1, dtype=torch.float64)
        self._runs = [(layer.start + 1, layer.size) for layer in quiver.layers]
        self._fed_by, self._feeds = [], []
        for start, size in self._runs:
            self._fed_by.append(distance.where((distance.upper >= start) & (distance.upper < start + size)))
            self._feeds.append(distance.where((distance.lower >= start) & (distance.lower < start + size)))

    def first_pass(self) -> None:
        """Find each layer from the parameters that feed it; the layers after it are not known yet.

        This minimizes ``Σ (θ τ_i − t τ_j)²``: multiplied out in this way, a small ``τ_j`` corrupted by noise
        does not weigh more than the others. It recovers an exact teleportation where each neuron is fed by
        some weight.
        """
        for (start, size), fed_by in zip(self._runs, self._fed_by, strict=True):
            wanted = fed_by.squares * fed_by.ratios * self.extended[fed_by.lower]
            sums = torch.zeros(2, size, dtype=torch.float64)
            sums.index_add_(1, fed_by.upper - start, torch.stack([fed_by.squares, wanted]))
            self.extended[start : start + size] = _within_bounds(sums[1] / sums[0]).nan_to_num(nan=1.0)

    def sweep(self) -> None:
        """Minimize over each layer in turn, from both of its sides; the distance never increases."""
        for run in range(len(self._runs)):
            self._minimize(run)

    def _minimize(self, run: int) -> None:
        (start, size), fed_by, feeds = self._runs[run], self._fed_by[run], self._feeds[run]

        def collect(position: Tensor, values: Tensor) -> Tensor:
            return torch.zeros(size, dtype=torch.float64).index_add_(0, position - start, values)

        below, above = self.extended[fed_by.lower], self.extended[feeds.upper]
        incoming, outgoing = fed_by.squares / below, feeds.squares * above
        self.extended[start : start + size] = best_entry(
            collect(fed_by.upper, incoming / below),
            collect(fed_by.upper, incoming * fed_by.ratios),
            collect(feeds.lower, outgoing * above),
            collect(feeds.lower, outgoing * feeds.ratios),
            self.extended[start : start + size],
        )


def best_entry(a: Tensor, b: Tensor, c: Tensor, d: Tensor, current: Tensor) -> Tensor:
    """The ``τ`` that minimizes ``a τ² − 2 b τ + c / τ² − 2 d / τ``, over both signs, elementwise.

    Candidates are the real roots of the derivative, the minima of either half alone, and the current value,
    which is therefore kept where nothing depends on the entry. All absolute values lie within [1e-6, 1e6].

    Args:
        a, c: non-negative, float64, shape ``(n,)``.
        b, d: float64, shape ``(n,)``.
        current: the current values, of the same shape and dtype.
    """
    candidates = torch.stack([current, *(_within_bounds(each) for each in _stationary(a, b, c, d))])
    values = a * candidates.square() - 2 * b * candidates + c / candidates.square() - 2 * d / candidates
    best = values.nan_to_num(nan=torch.inf).argmin(0, keepdim=True)
    return candidates.gather(0, best).squeeze(0)


def _within_bounds(entry: Tensor) -> Tensor:
    size = entry.abs().clamp(SMALLEST_ENTRY, 1 / SMALLEST_ENTRY)
    return torch.where(entry < 0, -size, size)


def _stationary(a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> Iterator[Tensor]:
    yield b / a
    yield c / d
    # With x = τ / (c / a)^(1/4) the derivative vanishes where x⁴ − β x³ + δ x − 1 = 0.
    unit, height = (c / a).pow(0.25), (a * c).sqrt()
    beta, delta = b * unit / height, d / (unit * height)
    companion = a.new_zeros(len(a), 4, 4)
    companion[:, 0, 0], companion[:, 0, 2], companion[:, 0, 3] = beta, -delta, 1.0
    companion[:, [1, 2, 3], [0, 1, 2]] = 1.0
    solvable = torch.isfinite(companion).all(dim=(1, 2))
    companion[~solvable] = torch.eye(4).to(companion)
    # A double root comes out as a complex pair; its real part is as good a candidate as any.
    roots = _sharpened(torch.linalg.eigvals(companion).real.T, beta, delta)
    yield from torch.where(solvable, roots * unit, torch.nan)


def _sharpened(x: Tensor, beta: Tensor, delta: Tensor) -> Tensor:
    """Newton steps toward a root of x⁴ − β x³ + δ x − 1, kept where they reduce the residual."""

    def residual(x: Tensor) -> Tensor:
        cube = x * x * x
        return cube * (x - beta) + delta * x - 1

    error = residual(x)
    for _ in range(6):
        moved = x - error / (x * x * (4 * x - 3 * beta) + delta)
        moved_error = residual(moved)
        better = moved_error.abs() < error.abs()
        x, error = torch.where(better, moved, x), torch.where(better, moved_error, error)
    return x
