"""Norms at many teleported positions at once, without teleporting.

At the change of basis τ the weights are ``θ' = s ⊙ θ`` and the gradient is ``g / s`` (paper, section 3), so
the norms and inner products of interest are all of the form ``Σ R ⊙ s(τ)^k``, with an ``R`` that does not
depend on τ:

=====================  =========  ====
quantity               R          k
=====================  =========  ====
``‖θ'‖²``              ``θ²``      2
``θ · θ'``             ``θ²``      1
``‖g'‖²``              ``g²``     −2
``g · g'``             ``g²``     −1
``‖g' / θ'‖²``         ``(g/θ)²`` −4
=====================  =========  ====

For a weight between two layers ``s`` is an outer product, so its contribution is the bilinear form ``uᵀ R v``
with ``u`` and ``v`` powers of the CoB and ``R`` summed once over kernel positions. A thousand changes of
basis cost one matrix product per layer, and all of their gradient norms cost one backward pass.

Products are computed in the precision of the weights, only on the differences from 1: with ``u = 1 + a`` and
``v = 1 + b``, ``uᵀ R v = Σ R + a·(R 1) + b·(Rᵀ 1) + aᵀ R b``. A small teleportation changes norms only
slightly, and this change keeps its digits even in float32: compare with the norms at a CoB of ones, which
have the same ``Σ R``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from nteleport.core.quiver import ParameterScaling, Quiver
from nteleport.core.sides import Side, as_matrix, piece_elements, pieces, side_of
from nteleport.errors import TeleportationError

Tensors = Mapping[str, Tensor]

_Values = tuple[Tensor] | tuple[Tensor, Tensor]
"""The values whose squares are summed: one tensor, or the ratio of the first to the second."""


class TeleportedNorms:
    """Norms of weights and gradients at many changes of basis of one network.

    Args:
        quiver: of the network.
        cobs: shape ``(n, cob_size)``, relative to the plain network.

    All methods take tensors of the *plain* network by parameter name, leave them unchanged, and return a
    tensor of shape ``(n,)`` in float64 (float32 on a device without it), on the device of ``cobs``. A
    parameter that is not given does not contribute.

    Raises:
        TeleportationError: ``cobs`` has the wrong shape.
    """

    def __init__(self, quiver: Quiver, cobs: Tensor) -> None:
        if cobs.ndim != 2 or cobs.shape[1] != quiver.cob_size:
            raise TeleportationError(
                f"changes of basis of this network have shape (n, {quiver.cob_size}), got {tuple(cobs.shape)}"
            )
        wide = torch.float32 if cobs.device.type == "mps" else torch.float64
        self._extended = torch.cat([cobs.new_ones(len(cobs), 1), cobs], dim=1).to(wide)
        self._scalings = quiver.parameters
        self._sides = {
            name: [side_of(factor, len(p.shape)) for factor in p.factors]
            for name, p in quiver.parameters.items()
        }
        self._excesses: dict[tuple[int, torch.dtype], Tensor] = {}

    def squared_weights(self, weights: Tensors) -> Tensor:
        """``‖θ'‖²``."""
        return self.sums(weights, 2)

    def weight_products(self, weights: Tensors) -> Tensor:
        """``θ · θ'``."""
        return self.sums(weights, 1)

    def squared_gradients(self, gradients: Tensors) -> Tensor:
        """``‖g'‖²``."""
        return self.sums(gradients, -2)

    def gradient_products(self, gradients: Tensors) -> Tensor:
        """``g · g'``."""
        return self.sums(gradients, -1)

    def squared_ratios(self, weights: Tensors, gradients: Tensors) -> Tensor:
        """``‖g' / θ'‖²``, excluding weights that are 0; in float64 throughout, as ratios span many
        decades."""
        total = self._zeros()
        for name, gradient in gradients.items():
            total += self._sum(name, (gradient, weights[name]), -4)
        return total

    def sums(self, values: Tensors, power: int) -> Tensor:
        """``Σ values² ⊙ s^power`` over all parameters in ``values``."""
        total = self._zeros()
        for name, value in values.items():
            total += self._sum(name, (value,), power)
        return total

    def _zeros(self) -> Tensor:
        return self._extended.new_zeros(len(self._extended))

    def _sum(self, name: str, values: _Values, power: int) -> Tensor:
        """The contribution of one parameter."""
        match self._sides[name]:
            case []:
                total = self._squares([value.reshape(1, -1) for value in values])
                return self._widened(total).expand(len(self._extended))
            case [Side() as side]:
                return self._linear(values, side, power)
            case [Side() as rows, Side() as columns] if rows.axis != columns.axis:
                return self._bilinear(values, rows, columns, power)
            case _:
                return self._elementwise(values, self._scalings[name], power)

    def _linear(self, values: _Values, side: Side, power: int) -> Tensor:
        """``R · u``: the scale varies along one axis."""
        matrices = [value.movedim(side.axis, 0).reshape(side.count, -1) for value in values]
        squares = [self._squares([matrix[rows] for matrix in matrices]) for rows in pieces(matrices[0])]
        sums = self._widened(torch.cat(squares))
        result: Tensor = sums.sum() + self._excess(side, power, sums.dtype) @ sums
        return result

    def _bilinear(self, values: _Values, rows: Side, columns: Side, power: int) -> Tensor:
        """``uᵀ R v``: one factor varies along one axis, the other along another."""
        matrices = [as_matrix(value, rows, columns) for value in values]
        total = self._zeros()
        for piece in pieces(matrices[0]):
            squares = self._squares([matrix[piece] for matrix in matrices])
            a = self._excess(rows, power, squares.dtype)[:, piece]
            b = self._excess(columns, power, squares.dtype)
            by_row, by_column = squares.sum(1), squares.sum(0)
            total += self._widened(by_row).sum()
            total += a @ by_row + b @ by_column + ((a @ squares) * b).sum(1)
        return total

    def _elementwise(self, values: _Values, scaling: ParameterScaling, power: int) -> Tensor:
        """Any factors, such as those of grouped convolutions, whose input side varies along two axes."""
        shape = torch.broadcast_shapes(*(factor.index.shape for factor in scaling.factors))
        constant = [axis for axis, size in enumerate(shape) if size == 1]
        squares = self._widened(self._squares([value.unsqueeze(-1) for value in values]))
        squares = squares.sum(constant, keepdim=True) if constant else squares
        total = self._zeros()
        step = max(1, piece_elements(squares) // max(1, squares.numel()))
        for start in range(0, len(total), step):
            chosen = slice(start, start + step)
            scaled = squares
            for factor in scaling.factors:
                powers = self._extended[chosen].pow(power * factor.power)
                scaled = scaled * powers[:, factor.index.to(powers.device)]
            total[chosen] = scaled.flatten(1).sum(1)
        return total

    def _squares(self, values: Sequence[Tensor]) -> Tensor:
        """``R`` summed over the last axis: squares of one tensor, or of the ratio of two."""
        if len(values) == 2:
            gradient, weight = (self._widened(value) for value in values)
            found = torch.where(weight == 0, 0, gradient / weight)
        else:
            found = values[0]
        return (
            found[..., 0].square()
            if found.shape[-1] == 1
            else torch.linalg.vector_norm(found, dim=-1).square_()
        )

    def _excess(self, side: Side, power: int, dtype: torch.dtype) -> Tensor:
        """The scale of every position of a side, raised to ``power``, minus 1: shape (n, positions)."""
        key = power * side.power, dtype
        if key not in self._excesses:
            self._excesses[key] = (self._extended.pow(key[0]) - 1).to(dtype)
        found = self._excesses[key]
        if side.start is not None:
            return found[:, side.start : side.start + side.count]
        return found[:, side.labels.to(found.device)]

    def _widened(self, values: Tensor) -> Tensor:
        return values.to(self._extended.dtype)
