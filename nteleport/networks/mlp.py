"""The multilayer perceptron of the experiments: by default five hidden layers of 500 units, as published."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import nn

from nteleport.errors import ModelError, nearest
from nteleport.vocabulary import ACTIVATIONS

__all__ = ["MLP"]

_ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "elu": nn.ELU,
    "leakyrelu": nn.LeakyReLU,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
}


class MLP(nn.Sequential):
    """A multilayer perceptron: flatten, then linear layers with an activation between consecutive ones.

    Args:
        input_shape: (channels, height, width) of an image.
        num_classes: size of the output.
        hidden_layers: sizes of the hidden layers, first to last.
        activation: relu, elu, leakyrelu, tanh or sigmoid; case, ``_`` and a prefix ``nn.`` do not matter.

    Raises:
        ModelError: an empty list, a size that is not a positive whole number, or an unknown activation.
    """

    def __init__(
        self,
        *,
        input_shape: tuple[int, ...],
        num_classes: int,
        hidden_layers: Sequence[int] = (500, 500, 500, 500, 500),
        activation: str = "relu",
    ) -> None:
        sizes = _checked_sizes(hidden_layers)
        activation_class = _activation_class(activation)
        layers: list[nn.Module] = [nn.Flatten()]
        for fan_in, fan_out in zip([math.prod(input_shape), *sizes], sizes, strict=False):
            layers += [nn.Linear(fan_in, fan_out), activation_class()]
        super().__init__(*layers, nn.Linear(sizes[-1], num_classes))


def _checked_sizes(hidden_layers: Sequence[int]) -> list[int]:
    sizes: list[int] = list(hidden_layers) if isinstance(hidden_layers, (list, tuple)) else []
    if not sizes or not all(type(size) is int and size > 0 for size in sizes):
        raise ModelError(
            f"hidden_layers is {hidden_layers!r}: expected a list of whole numbers of at least 1"
        )
    return sizes


def _activation_class(activation: str) -> type[nn.Module]:
    key = str(activation).lower().rpartition(".")[2].replace("_", "")
    if key not in _ACTIVATIONS:
        raise ModelError(
            f"unknown activation {activation!r}: expected one of {', '.join(ACTIVATIONS)}"
            f"{nearest(key, ACTIVATIONS)}"
        )
    return _ACTIVATIONS[key]
