"""A sum of coefficients times powers of scales, ``Σ c ⊙ s(τ)^k``, and its slopes in ``log|τ|``.

Most objectives of a chosen change of basis are of this form: squared gradients with k = −2, squared weights
with k = 2. The coefficients are summed once for every pair of CoB entries; from then on an evaluation costs
two products of a matrix and a vector per weight between two layers, and a parameter with a single side costs
next to nothing, because all of these are one vector.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import reduce
from itertools import combinations, product
from operator import mul
from typing import NamedTuple

import torch
from torch import Tensor

from nteleport.core.quiver import Factor, ParameterScaling, Quiver
from nteleport.core.sides import Side, as_matrix, pieces, side_of
from nteleport.randomness import wide_dtype

Coefficient = Callable[[Tensor], Tensor]
"""An elementwise function."""


class Slopes(NamedTuple):
    """A power sum at one change of basis.

    Attributes:
        value: scalar.
        entering: shape ``(cob_size,)``: what of the value comes from parameters that enter each neuron.
        leaving: likewise, from those that leave it. The gradient in ``log|τ|`` is ``power · (entering −
            leaving)``.
    """

    value: Tensor
    entering: Tensor
    leaving: Tensor


class PowerSum:
    """``Σ c ⊙ s^power`` over the parameters in ``coefficients`` that the CoB reaches, for positive scales.

    Args:
        quiver: of the network.
        values: by parameter name, real, of the shape of each parameter, all on one device.
        power: of the scales.
        coefficient: makes the coefficients of values, elementwise; a piece at a time in the widest dtype.
    """

    def __init__(
        self,
        quiver: Quiver,
        values: Mapping[str, Tensor],
        power: int,
        coefficient: Coefficient = torch.positive,
    ) -> None:
        self.power, self._coefficient = power, coefficient
        device = next((each.device for each in values.values()), torch.device("cpu"))
        self._dtype = wide_dtype(device)
        self._constant = torch.zeros((), dtype=self._dtype, device=device)
        self._single = {sign: self._constant.new_zeros(quiver.cob_size + 1) for sign in (1, -1)}
        self._matrices: list[tuple[Tensor, Tensor, Tensor]] = []
        self._terms: list[tuple[Tensor, list[tuple[Tensor, int]]]] = []
        for name, each in values.items():
            if name in quiver.parameters and quiver.parameters[name].factors:
                self._add(quiver.parameters[name], each.abs() if each.is_complex() else each)

    def at(self, logarithm: Tensor) -> Slopes:
        """The sum and its two sides at ``log|τ|``, a tensor of shape ``(cob_size,)``."""
        extended = torch.cat([logarithm.new_zeros(1), logarithm]).to(self._constant)
        scale = {1: (self.power * extended).exp()}
        scale[-1] = scale[1].reciprocal()
        sides = {sign: self._single[sign] * scale[sign] for sign in (1, -1)}
        value = self._constant + sides[1].sum() + sides[-1].sum()
        for matrix, rows, columns in self._matrices:
            above, below = scale[1][rows], scale[-1][columns]
            entering = above * (matrix @ below)
            sides[1].index_add_(0, rows, entering)
            sides[-1].index_add_(0, columns, below * (above @ matrix))
            value = value + entering.sum()
        for coefficients, factors in self._terms:
            terms = reduce(mul, (scale[sign][index] for index, sign in factors), coefficients)
            for index, sign in factors:
                sides[sign].index_add_(0, index, terms)
            value = value + terms.sum()
        return Slopes(value, sides[1][1:], sides[-1][1:])

    def gradient(self, slopes: Slopes) -> Tensor:
        """The gradient of the sum in ``log|τ|``."""
        return self.power * (slopes.entering - slopes.leaving)

    def independent(self, runs: Sequence[slice]) -> list[Tensor] | None:
        """Masks of entries that share no term, made of whole runs of the CoB: a greedy coloring. None if two
        entries of one run share a term."""
        run_of = self._single[1].new_full((len(self._single[1]),), -1).long()
        for number, run in enumerate(runs):
            run_of[1:][run] = number
        coupled: set[tuple[int, int]] = set()
        for _, rows, columns in self._matrices:
            coupled |= set(product(run_of[rows].unique().tolist(), run_of[columns].unique().tolist()))
        for _, factors in self._terms:
            for (first, _), (second, _) in combinations(factors, 2):
                free = (first > 0) & (second > 0)
                pairs = torch.stack([run_of[first[free]], run_of[second[free]]])
                coupled |= {(a, b) for a, b in pairs.unique(dim=1).T.tolist()}
        coupled |= {(b, a) for a, b in coupled}
        if any(a == b for a, b in coupled):
            return None
        colors: list[set[int]] = []
        for number in range(len(runs)):
            fits = (color for color in colors if not any((number, other) in coupled for other in color))
            color = next(fits, None)
            if color is None:
                colors.append(color := set())
            color.add(number)
        return [torch.isin(run_of[1:], run_of.new_tensor(sorted(color))) for color in colors]

    def _add(self, scaling: ParameterScaling, values: Tensor) -> None:
        sides = [side_of(factor, len(scaling.shape)) for factor in scaling.factors]
        match sides:
            case [Side() as side]:
                rows = values.movedim(side.axis, 0).reshape(len(side.labels), -1)
                self._add_single(side.labels.to(values.device), side.power, self._sums(rows))
            case [Side(power=1) as rows, Side(power=-1) as columns] if rows.axis != columns.axis:
                self._add_matrix(self._sums(as_matrix(values, rows, columns)), rows, columns)
            case _:
                self._add_terms(scaling.factors, self._coefficient(values.to(self._dtype)))

    def _add_single(self, labels: Tensor, sign: int, sums: Tensor) -> None:
        self._constant = self._constant + sums[labels == 0].sum()
        self._single[sign].index_add_(0, labels, torch.where(labels == 0, 0, sums))

    def _add_matrix(self, matrix: Tensor, above: Side, below: Side) -> None:
        rows, columns = above.labels.to(matrix.device), below.labels.to(matrix.device)
        fixed = rows[:, None] == columns[None, :]
        if bool(fixed.any()):
            self._constant = self._constant + matrix[fixed].sum()
            matrix = matrix.masked_fill(fixed, 0)
        for labels, sign, axis in ((columns, -1, 0), (rows, 1, 1)):
            pinned = (rows if sign == -1 else columns) == 0
            if bool(pinned.any()):
                chosen = matrix[pinned].sum(0) if axis == 0 else matrix[:, pinned].sum(1)
                self._add_single(labels, sign, chosen)
        rows_free, columns_free = rows > 0, columns > 0
        free = matrix if bool(rows_free.all()) else matrix[rows_free]
        free = free if bool(columns_free.all()) else free[:, columns_free]
        if free.numel():
            self._matrices.append((free.contiguous(), rows[rows_free], columns[columns_free]))

    def _add_terms(self, factors: tuple[Factor, ...], values: Tensor) -> None:
        """Any factors: a term for each element that they tell apart, as in grouped convolutions."""
        indices = torch.broadcast_tensors(*(factor.index.to(values.device) for factor in factors))
        shape = (1,) * (values.ndim - indices[0].ndim) + tuple(indices[0].shape)
        constant = [axis for axis, size in enumerate(shape) if size == 1]
        sums = (values.sum(constant) if constant else values).flatten()
        labels = [index.flatten() for index in indices]
        signs = [factor.power for factor in factors]
        if signs == [1, -1]:
            fixed = labels[0] == labels[1]
            self._constant = self._constant + sums[fixed].sum()
            sums, labels = sums[~fixed], [index[~fixed] for index in labels]
        self._terms.append((sums, list(zip(labels, signs, strict=True))))

    def _sums(self, values: Tensor) -> Tensor:
        """The coefficients, summed over the last axis."""
        sums = [self._coefficient(values[rows].to(self._dtype)).sum(-1) for rows in pieces(values)]
        return torch.cat(sums)
