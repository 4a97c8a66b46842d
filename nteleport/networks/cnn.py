"""A small convolutional network without normalization: by default three convolutions and a hidden layer."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from nteleport.errors import ModelError
from nteleport.networks.mlp import MLP, activation_class, checked_sizes

__all__ = ["CNN"]


class CNN(nn.Sequential):
    """3×3 convolutions, each with an activation and a 2×2 max pooling, followed by a multilayer perceptron.

    Args:
        input_shape: (channels, height, width) of an image.
        num_classes: size of the output.
        channels: outputs of the convolutions, first to last. Each pooling halves height and width, rounded
            down.
        hidden_layers: sizes of the hidden linear layers, first to last.
        activation: relu, elu, leakyrelu, tanh or sigmoid, as for ``MLP``.

    Raises:
        ModelError: an empty list, a size that is not a positive whole number, an unknown activation, or an
            image that the poolings reduce to nothing.
    """

    def __init__(
        self,
        *,
        input_shape: tuple[int, int, int],
        num_classes: int,
        channels: Sequence[int] = (16, 32, 64),
        hidden_layers: Sequence[int] = (128,),
        activation: str = "relu",
    ) -> None:
        sizes, activated = checked_sizes(channels, "channels"), activation_class(activation)
        colors, height, width = input_shape
        if min(height, width) < 2 ** len(sizes):
            raise ModelError(
                f"model 'cnn' cannot take images of {height}×{width}: {len(sizes)} poolings need at least "
                f"{2 ** len(sizes)}×{2 ** len(sizes)}"
            )
        layers: list[nn.Module] = []
        for fan_in, fan_out in zip([colors, *sizes], sizes, strict=False):
            layers += [nn.Conv2d(fan_in, fan_out, 3, padding=1), activated(), nn.MaxPool2d(2)]
        reduced = (sizes[-1], height >> len(sizes), width >> len(sizes))
        classifier = MLP(
            input_shape=reduced, num_classes=num_classes, hidden_layers=hidden_layers, activation=activation
        )
        super().__init__(*layers, *classifier)
