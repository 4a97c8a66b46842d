"""The coordinates in which an optimizer works: two strategies with one interface.

The optimizer's step belongs in teleported coordinates, where weights are ``θ' = s ⊙ θ`` and gradients
``g / s``. For SGD a step there is a step on the plain weights with gradients multiplied by ``1 / s²``, so
``PlainCoordinates`` need no second copy of the weights. Every other optimizer works on ``θ'`` itself
(``TeleportedCoordinates``), and after its step ``θ = θ' / s`` is written back.

The optimizer always trains the parameters of the network. During a step, ``parameter.data`` is ``θ'``:
scaling the weights in and out of place instead would round them twice per step, whatever the step was.
"""

from __future__ import annotations

from collections.abc import Container, Mapping
from typing import Protocol

import torch
from torch import Tensor
from torch.optim import Optimizer

from nteleport.core.optimizer_state import scale_momentum, transport
from nteleport.core.scaling import multiply, multiply_into

Weights = Mapping[str, Tensor]
Factors = Mapping[str, list[Tensor]]


class Coordinates(Protocol):
    """How an optimizer sees the parameters of the plain network.

    Attributes:
        gradient_power: ``k`` of the scale ``sᵏ`` that multiplies plain gradients for the optimizer.
        holds_weights: whether ``θ'`` is held beside the weights of the network, where ``s`` is not 1.
    """

    gradient_power: int
    holds_weights: bool

    def move_state(self, optimizer: Optimizer, ratios: Mapping[Tensor, Tensor], exactly: bool) -> None:
        """Follow a teleportation that multiplies the scales by ``ratios``: transport the optimizer's state
        exactly, or keep its values."""

    def hold(self, teleported: Weights) -> None:
        """Take these weights ``θ'`` for those of the optimizer from now on."""

    def hold_only(self, names: Container[str]) -> None:
        """Forget ``θ'`` of all others: there the optimizer works on the weights of the network."""

    def own_weights(self) -> dict[str, Tensor]:
        """The weights ``θ'`` that are held beside those of the network."""

    def enter(self) -> None:
        """Show the optimizer its weights in the parameters."""

    def leave(self) -> None:
        """Give the parameters the weights of the network again."""

    def write_back(self, factors: Factors) -> None:
        """Write the weights to the network after a step; the product of ``factors`` is ``1 / s``."""


class PlainCoordinates:
    """For SGD: it updates the plain weights, so nothing is ever copied."""

    gradient_power = -2
    holds_weights = False

    def move_state(self, optimizer: Optimizer, ratios: Mapping[Tensor, Tensor], exactly: bool) -> None:
        scale_momentum(optimizer, ratios, -2 if exactly else -1)

    def hold(self, teleported: Weights) -> None: ...

    def hold_only(self, names: Container[str]) -> None: ...

    def own_weights(self) -> dict[str, Tensor]:
        return {}

    def enter(self) -> None: ...

    def leave(self) -> None: ...

    def write_back(self, factors: Factors) -> None: ...


class TeleportedCoordinates:
    """For any optimizer: it updates ``θ'``, which is held for the parameters whose scale is not 1."""

    gradient_power = -1
    holds_weights = True

    def __init__(self, parameters: Weights) -> None:
        self._parameters = parameters
        self._own: dict[str, Tensor] = {}
        self._plain: dict[str, Tensor] = {}  # during a step

    def move_state(self, optimizer: Optimizer, ratios: Mapping[Tensor, Tensor], exactly: bool) -> None:
        if exactly:
            transport(optimizer, ratios)

    def hold(self, teleported: Weights) -> None:
        for name, weight in teleported.items():
            if name in self._own:  # in place, for whoever has captured the step
                self._own[name].copy_(weight)
            else:
                self._own[name] = weight

    def hold_only(self, names: Container[str]) -> None:
        self._own = {name: weight for name, weight in self._own.items() if name in names}

    def own_weights(self) -> dict[str, Tensor]:
        return dict(self._own)

    def enter(self) -> None:
        self._plain = {name: self._parameters[name].detach() for name in self._own}
        for name, weight in self._own.items():
            self._parameters[name].data = weight

    def leave(self) -> None:
        for name, weight in self._plain.items():
            self._parameters[name].data = weight
        self._plain = {}

    @torch.no_grad()
    def write_back(self, factors: Factors) -> None:
        if not self._own:
            return
        plain = {name: self._parameters[name].detach() for name in self._own}
        device = next(iter(plain.values())).device
        if device.type == "cpu":  # memory-bound: the first factor multiplies during the copy
            for name, weight in self._own.items():
                multiply_into(plain[name], weight, factors[name])
        else:
            torch._foreach_copy_(list(plain.values()), list(self._own.values()))
            multiply(plain, factors)
