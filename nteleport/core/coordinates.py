"""The coordinates in which a wrapped optimizer works: two strategies with one interface.

The optimizer's step belongs in teleported coordinates, where weights are ``θ' = s ⊙ θ`` and gradients
``g / s``. For SGD a step there is a step on the plain weights with gradients multiplied by ``1 / s²``, so
``PlainCoordinates`` need no second copy of the weights. Every other optimizer works on ``θ'`` itself
(``TeleportedCoordinates``), and after its step ``θ = θ' / s`` is written back.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from nteleport.core.optimizer_state import scale_momentum, transport
from nteleport.core.scaling import multiply, multiply_into

Weights = Mapping[str, Tensor]
Factors = Mapping[str, list[Tensor]]


class Coordinates(Protocol):
    """How the tensors of an optimizer relate to the parameters of the plain network.

    Attributes:
        gradient_power: ``k`` of the scale ``sᵏ`` that multiplies plain gradients for the optimizer.
        holds_weights: whether ``θ'`` is held beside the weights of the network, unless the CoB is 1.
    """

    gradient_power: int
    holds_weights: bool

    @property
    def trained(self) -> Mapping[str, Tensor]:
        """The tensors that the optimizer updates, by name."""

    def move_state(self, optimizer: Optimizer, ratios: Mapping[Tensor, Tensor], exactly: bool) -> None:
        """Follow a teleportation that multiplies the scales by ``ratios``: transport the optimizer's state
        exactly, or keep its values."""

    def load_weight_vector(self, teleported: Weights) -> None:
        """Adopt these weights ``θ'`` after the network was written to or teleported."""

    def own_weights(self) -> dict[str, Tensor]:
        """The weights ``θ'`` where they are held separately from the network; otherwise empty."""

    def hand_over_gradients(self) -> None:
        """Give the optimizer the gradients, which are already scaled."""

    def write_back(self, factors: Factors) -> None:
        """Write the weights to the network after a step; the product of ``factors`` is ``1 / s``."""


class PlainCoordinates:
    """For SGD: it updates the parameters themselves, so nothing is ever copied."""

    gradient_power = -2
    holds_weights = False

    def __init__(self, parameters: Weights) -> None:
        self._parameters = parameters

    @property
    def trained(self) -> Weights:
        return self._parameters

    def move_state(self, optimizer: Optimizer, ratios: Mapping[Tensor, Tensor], exactly: bool) -> None:
        scale_momentum(optimizer, ratios, -2 if exactly else -1)

    def load_weight_vector(self, teleported: Weights) -> None: ...

    def own_weights(self) -> dict[str, Tensor]:
        return {}

    def hand_over_gradients(self) -> None: ...

    def write_back(self, factors: Factors) -> None: ...


class TeleportedCoordinates:
    """For any optimizer: it updates ``θ'``, which shares memory with the parameters while the CoB is 1."""

    gradient_power = -1
    holds_weights = True

    def __init__(self, parameters: Weights) -> None:
        self._parameters = parameters
        self._trained = {name: nn.Parameter(p.detach()) for name, p in parameters.items()}

    @property
    def trained(self) -> Weights:
        return self._trained

    def move_state(self, optimizer: Optimizer, ratios: Mapping[Tensor, Tensor], exactly: bool) -> None:
        if exactly:
            transport(optimizer, ratios)

    def load_weight_vector(self, teleported: Weights) -> None:
        for name, weight in teleported.items():
            self._trained[name].data = weight

    def own_weights(self) -> dict[str, Tensor]:
        return {name: trained.detach() for name, trained in self._trained.items()}

    def hand_over_gradients(self) -> None:
        for name, trained in self._trained.items():
            trained.grad = self._parameters[name].grad

    @torch.no_grad()
    def write_back(self, factors: Factors) -> None:
        if not factors:
            return
        plain = {name: p.detach() for name, p in self._parameters.items()}
        device = next(iter(factors.values()))[0].device
        if device.type == "cpu":  # memory-bound: the first factor multiplies during the copy
            one = [torch.ones((), device=device)]
            for name, trained in self._trained.items():
                multiply_into(plain[name], trained, factors.get(name, one))
        else:
            torch._foreach_copy_(list(plain.values()), [each.detach() for each in self._trained.values()])
            multiply(plain, factors)
