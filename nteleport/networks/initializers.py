"""Redrawing the initial weights of a network.

An initializer redraws the weight of every linear and convolution layer (transposed ones too) and sets their
biases to 0; normalization layers, embeddings and free parameters keep what their module gave them. ``none``
leaves the whole network as it was built. The gain is what multiplies the family's standard deviation:

================  ===================================================  ===============
type              standard deviation (of a uniform draw: bound / √3)   default gain
================  ===================================================  ===============
`normal`          gain                                                 0.02
`xavier`          gain · √(2 / (fan_in + fan_out)), normal             1
`xavier_uniform`  gain · √(2 / (fan_in + fan_out)), uniform            1
`kaiming`         gain / √fan_in, normal                               √2
`orthogonal`      a (semi-)orthogonal matrix times gain                1
================  ===================================================  ===============

A ``non_linearity`` without a ``gain`` sets the gain to the one torch recommends for it
(``torch.nn.init.calculate_gain``). ``kaiming`` ignores a ``gain``, as the published implementation does: its
gain is always that of the non-linearity, ``relu`` by default.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from nteleport.errors import ModelError, UnknownNameError, nearest
from nteleport.vocabulary import INITIALIZERS, NON_LINEARITIES

__all__ = ["INITIALIZERS", "initialize"]

Draw = Callable[[Tensor, float, torch.Generator | None], Tensor]


def _kaiming(weight: Tensor, gain: float, generator: torch.Generator | None) -> Tensor:
    fan_in = weight[0].numel()  # also for a transposed convolution: as torch counts it
    return nn.init.normal_(weight, 0.0, gain / math.sqrt(fan_in), generator=generator)


# Each type's draw, and its default gain.
_DRAWS: dict[str, tuple[Draw, float]] = {
    "normal": (lambda w, gain, g: nn.init.normal_(w, 0.0, gain, generator=g), 0.02),
    "xavier": (lambda w, gain, g: nn.init.xavier_normal_(w, gain, generator=g), 1.0),
    "xavier_uniform": (lambda w, gain, g: nn.init.xavier_uniform_(w, gain, generator=g), 1.0),
    "kaiming": (_kaiming, math.sqrt(2.0)),
    "orthogonal": (lambda w, gain, g: nn.init.orthogonal_(w, gain, generator=g), 1.0),
}


def initialize(
    module: nn.Module,
    type: str,
    *,
    gain: float | None = None,
    non_linearity: str | None = None,
    generator: torch.Generator | None = None,
) -> None:
    """Redraw the linear and convolution weights of ``module`` in place, and set their biases to 0.

    Args:
        module: the network; its parameters must be on the generator's device (the CPU, by default).
        type: none, normal, xavier, xavier_uniform, kaiming or orthogonal.
        gain: see the table above; for ``normal`` it is the standard deviation.
        non_linearity: linear, relu, leaky_relu (or leakyrelu), tanh, sigmoid or selu; gives the gain if
            ``gain`` is None.
        generator: source of randomness; torch's default generator if None.

    Raises:
        UnknownNameError: no initializer has this name.
        ModelError: a gain that is not a positive finite number, or an unknown non-linearity.
    """
    kind = str(type).strip().lower()
    if kind not in INITIALIZERS:
        raise UnknownNameError(
            f"unknown initializer {type!r}: expected one of {', '.join(INITIALIZERS)}"
            f"{nearest(kind, INITIALIZERS)}"
        )
    factor = _checked_gain(kind, gain, non_linearity)
    if kind == "none":
        return
    draw, _ = _DRAWS[kind]
    for layer in module.modules():
        if isinstance(layer, (nn.Linear, _ConvNd)):
            draw(layer.weight, factor, generator)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def _checked_gain(kind: str, gain: float | None, non_linearity: str | None) -> float:
    """The gain to draw with: the given one, else that of the non-linearity, else that of the type."""
    recommended = None if non_linearity is None else _recommended_gain(non_linearity)
    if gain is None or kind == "kaiming":
        return recommended if recommended is not None else _DRAWS.get(kind, (None, 1.0))[1]
    if isinstance(gain, bool) or not isinstance(gain, (int, float)) or not 0 < gain < math.inf:
        raise ModelError(f"initializer {kind!r}: gain is {gain!r}, expected a positive finite number")
    return float(gain)


def _recommended_gain(non_linearity: str) -> float:
    key = str(non_linearity).strip().lower()
    key = "leaky_relu" if key == "leakyrelu" else key
    if key not in NON_LINEARITIES:
        raise ModelError(
            f"unknown non_linearity {non_linearity!r}: expected one of {', '.join(NON_LINEARITIES)}"
            f"{nearest(key, NON_LINEARITIES)}"
        )
    return nn.init.calculate_gain(key)  # type: ignore[arg-type]
