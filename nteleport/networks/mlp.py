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
        sizes, activated = checked_sizes(hidden_layers, "hidden_layers"), activation_class(activation)
        layers: list[nn.Module] = [nn.Flatten()]
        for fan_in, fan_out in zip([math.prod(input_shape), *sizes], sizes, strict=False):
            layers += [nn.Linear(fan_in, fan_out), activated()]
        super().__init__(*layers, nn.Linear(sizes[-1], num_classes))


def checked_sizes(sizes: Sequence[int], name: str) -> list[int]:
    """The sizes of layers as a list.

    Raises:
        ModelError: no list, an empty one, or a size that is not a positive whole number.
    """
    checked: list[int] = list(sizes) if isinstance(sizes, (list, tuple)) else []
    if not checked or not all(type(size) is int and size > 0 for size in checked):
        raise ModelError(f"{name} is {sizes!r}: expected a list of whole numbers of at least 1")
    return checked


def activation_class(activation: str) -> type[nn.Module]:
    """The class of an activation, by its name as for ``MLP``.

    Raises:
        ModelError: no activation has this name.
    """
    key = str(activation).lower().rpartition(".")[2].replace("_", "")
    if key not in _ACTIVATIONS:
        raise ModelError(
            f"unknown activation {activation!r}: expected one of {', '.join(ACTIVATIONS)}"
            f"{nearest(key, ACTIVATIONS)}"
        )
    return _ACTIVATIONS[key]
