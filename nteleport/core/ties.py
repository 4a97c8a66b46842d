"""Which entries of a change of basis must agree where activations are kept, and what they may be.

Labels are signed here: ``−k`` stands for the inverse of entry ``k``. An operator that commutes with a scaling
only if two entries agree *ties* them, ``τ_a = τ_b^{±1}``; one that commutes with fewer numbers *restricts*
them. An entry that is tied to its own inverse is 1 or −1, and one that must be positive besides is 1: pinned.
All of this only ever adds up, so the order in which operators are met does not matter.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from nteleport.core.labels import collapse, mapped, pinned
from nteleport.core.quiver import Admitted

Restriction = Literal["positive", "sign"]

_BITS: dict[Restriction, int] = {"positive": 1, "sign": 2}
_ADMITTED: dict[int, Admitted] = {0: "nonzero", 1: "positive", 2: "sign"}


class _State(NamedTuple):
    """Tensors over all labels, never changed in place.

    Attributes:
        roots: the signed label that stands for each label; 0 where it is pinned.
        bits: the restrictions of each label that stands for itself.
        ended_by: number of the operator that pinned a label, or tied it to an earlier one; −1 if none did.
    """

    roots: Tensor
    bits: Tensor
    ended_by: Tensor


class Ties:
    """A union-find over signed labels, in which label 0 is the constant 1.

    Methods take label tensors of any shape.
    """

    def __init__(self) -> None:
        zero = torch.zeros(1, dtype=torch.int64)
        self._state = _State(zero, zero, zero - 1)
        self._operators: list[str] = []

    def grow(self, count: int) -> None:
        """Make room for ``count`` labels; new ones are free."""
        known = len(self._state.roots)
        more = torch.arange(known, count)
        self._state = _State(
            torch.cat([self._state.roots, more]),
            torch.cat([self._state.bits, torch.zeros_like(more)]),
            torch.cat([self._state.ended_by, torch.full_like(more, -1)]),
        )

    def saved(self) -> _State:
        """What is known now, for ``restore``."""
        return self._state

    def restore(self, state: _State) -> None:
        """Forget what was learned since ``saved``; labels that are new since then are free again."""
        count = len(self._state.roots)
        self._state = state
        self.grow(count)

    def resolve(self, labels: Tensor) -> Tensor:
        """The labels that stand for these: equal where entries must agree, 0 where they are pinned."""
        return mapped(self._resolve, labels)

    def _resolve(self, labels: Tensor) -> Tensor:
        found = self._state.roots[labels.abs()] * labels.sign()
        return torch.where(self._state.bits[found.abs()] == _BITS["sign"], found.abs(), found)

    def tie(self, left: Tensor, right: Tensor, operator: str) -> None:
        """Make two label tensors, which broadcast to each other, agree."""
        left, right = torch.broadcast_tensors(collapse(self.resolve(left)), collapse(self.resolve(right)))
        differ = left != right
        if bool(differ.any()):
            self._unite(torch.stack([left[differ], right[differ]], 1).unique(dim=0).tolist(), operator)

    def pin(self, labels: Tensor, operator: str) -> None:
        """Make entries 1."""
        self.tie(labels, pinned(()), operator)

    def tie_along(self, labels: Tensor, axes: Sequence[int], operator: str) -> Tensor:
        """Make labels constant along ``axes``; returns them so."""
        for axis in axes:
            if labels.shape[axis] > 1:
                first = labels.narrow(axis, 0, 1)
                self.tie(labels, first, operator)
                labels = first.expand(labels.shape)
        return self.resolve(labels)

    def restrict(self, labels: Tensor, to: Restriction, operator: str) -> None:
        """Admit only positive numbers, or only 1 and −1."""
        roots = self.resolve(collapse(labels)).abs().unique()
        bits = self._state.bits.index_put((roots,), self._state.bits[roots] | _BITS[to])
        bits[0] = 0
        self._state = self._state._replace(bits=bits)
        self.pin(roots[bits[roots] == _BITS["positive"] | _BITS["sign"]], operator)

    def admitted(self, labels: Tensor) -> tuple[Admitted, ...]:
        """What each of these labels, which stand for themselves, may be."""
        return tuple(_ADMITTED[bits] for bits in self._state.bits[labels].tolist())

    def ended_by(self, labels: Tensor) -> list[str]:
        """The operators that pinned these labels, or tied them to earlier ones; "" where none did."""
        return [self._operators[n] if n >= 0 else "" for n in self._state.ended_by[labels].tolist()]

    def _unite(self, pairs: list[list[int]], operator: str) -> None:
        parents: dict[int, int] = {}
        bits = self._state.bits.clone()

        def find(label: int) -> int:
            root, sign = abs(label), 1 if label > 0 else -1
            while root in parents:
                sign = sign if parents[root] > 0 else -sign
                root = abs(parents[root])
            return sign * root

        for pair in pairs:
            left, right = sorted(map(find, pair), key=abs)
            if left == right:
                continue
            if left == -right:
                bits[abs(right)] |= _BITS["sign"]
            elif left == 0:
                parents[abs(right)] = 0
            else:
                parents[abs(right)] = left if right > 0 else -left
                bits[abs(left)] |= bits[abs(right)]
            if left and int(bits[abs(left)]) == _BITS["positive"] | _BITS["sign"]:
                parents[abs(left)] = 0
        children = torch.tensor(list(parents), dtype=torch.int64)
        now = torch.arange(len(bits))
        now[children] = torch.tensor([find(child) for child in parents], dtype=torch.int64)
        before = self._state.roots
        roots = before.sign() * now[before.abs()]
        ended = (before != roots) & ((self._state.ended_by < 0) | (roots == 0))
        bits[0] = 0
        self._operators.append(operator)
        ended_by = torch.where(ended, len(self._operators) - 1, self._state.ended_by)
        self._state = _State(roots, bits, ended_by)
