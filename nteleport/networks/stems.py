"""Fitting the first layers of a torchvision classifier to the images of a data set.

torchvision's classifiers expect color images of about 224×224. Two things are changed, in place, right after
construction:

- **small images**. Up to 32×32, the ResNet family (ResNet, ResNeXt, Wide ResNet) begins with a 3×3
  convolution of stride 1 and no max pooling, as usual for CIFAR: the stem `cifar`. The stem `published` is
  that of the paper's code: on color images the 3×3 convolution is followed by the max pooling, which makes a
  ResNet-18 four times cheaper; ResNeXt, and every network on gray images, keeps torchvision's 7×7 stem of
  stride 2, which the stem `imagenet` is everywhere. Below 63×63 AlexNet, whose last pooling would get a 1×1
  image, pads its first convolution by 5 and pools 2×2. Every other family keeps its layers.
- **the number of channels**. The first convolution is rebuilt for the channels of the data, with the same
  hyper-parameters.

A convolution made here is initialized by the rule its family uses for all its convolutions; where the rule
depends on the fan-in, it depends on the new one.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from nteleport.vocabulary import Stem

_SMALL = 32
"""Images of at most this height and width get a ResNet's stem for small images."""

_ALEXNET_SIZE = 63
"""The smallest height and width that AlexNet takes as it is."""

_COLORS = 3


def _kaiming_fan_out(weight: Tensor) -> Tensor:
    return nn.init.kaiming_normal_(weight, mode="fan_out", nonlinearity="relu")


def _kaiming_fan_in(weight: Tensor) -> Tensor:
    return nn.init.kaiming_normal_(weight)


def _kaiming_uniform(weight: Tensor) -> Tensor:
    return nn.init.kaiming_uniform_(weight)


def _patch_projection(weight: Tensor) -> Tensor:
    return nn.init.trunc_normal_(weight, std=math.sqrt(1 / weight[0].numel()))


def _truncated(std: float) -> Callable[[Tensor], Tensor]:
    return lambda weight: nn.init.trunc_normal_(weight, std=std)


def _normal(std: float) -> Callable[[Tensor], Tensor]:
    return lambda weight: nn.init.normal_(weight, std=std)


# By the name of torchvision's class. A family that is not listed leaves its first convolution as nn.Conv2d
# initializes it.
_STEM_INITIALIZERS: dict[str, Callable[[Tensor], Tensor]] = {
    "ConvNeXt": _truncated(0.02),
    "DenseNet": _kaiming_fan_in,
    "EfficientNet": _kaiming_fan_out,
    "GoogLeNet": _truncated(0.01),
    "Inception3": _truncated(0.1),
    "MNASNet": _kaiming_fan_out,
    "MaxVit": _normal(0.02),
    "MobileNetV2": _kaiming_fan_out,
    "MobileNetV3": _kaiming_fan_out,
    "RegNet": _kaiming_fan_out,
    "ResNet": _kaiming_fan_out,
    "SqueezeNet": _kaiming_uniform,
    "VGG": _kaiming_fan_out,
    "VisionTransformer": _patch_projection,
}


def fit_stem(
    network: nn.Module,
    input_shape: tuple[int, int, int],
    *,
    stem: Stem = "cifar",
    default_weights: bool = False,
) -> None:
    """Change a freshly made torchvision classifier, in place, to take images of ``input_shape``.

    Args:
        network: the classifier, made for color images.
        input_shape: (channels, height, width).
        stem: of the ResNet family on small images, see the module.
        default_weights: the network was made with ``init_weights=False``: leave new layers as torch
            initializes them.
    """
    channels, height, width = input_shape
    name, first = next(
        (name, layer) for name, layer in network.named_modules() if isinstance(layer, nn.Conv2d)
    )
    family = type(network).__name__
    changes: dict[str, Any] = {}
    if family == "ResNet" and max(height, width) <= _SMALL and _has_small_stem(network, stem, channels):
        changes = {"kernel_size": 3, "stride": 1, "padding": 1}
        if stem == "cifar":
            network.set_submodule("maxpool", nn.Identity())
    elif family == "AlexNet" and min(height, width) < _ALEXNET_SIZE:
        changes = {"padding": 5}
        _pool_by_two(network)
    if changes or channels != _COLORS:
        network.set_submodule(name, _remade(first, channels, None if default_weights else family, **changes))


def _has_small_stem(network: nn.Module, stem: Stem, channels: int) -> bool:
    if stem == "published":
        grouped = any(isinstance(layer, nn.Conv2d) and layer.groups > 1 for layer in network.modules())
        return channels == _COLORS and not grouped  # a ResNeXt is the one with groups
    return stem == "cifar"


def _remade(stem: nn.Conv2d, channels: int, family: str | None, **changes: Any) -> nn.Conv2d:
    """A new convolution like ``stem`` but for its input channels and ``changes``, initialized as ``family``
    does it."""
    settings: dict[str, Any] = {
        "kernel_size": stem.kernel_size,
        "stride": stem.stride,
        "padding": stem.padding,
        "dilation": stem.dilation,
        "bias": stem.bias is not None,
        "padding_mode": stem.padding_mode,
    }
    layer = nn.Conv2d(channels, stem.out_channels, **{**settings, **changes})
    initialize = _STEM_INITIALIZERS.get(family or "")
    if initialize is not None:
        initialize(layer.weight)
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)
    return layer


def _pool_by_two(network: nn.Module) -> None:
    """AlexNet's three poolings as 2×2 of stride 2, which reduce 8×8 to 1×1."""
    for name, layer in list(network.named_modules()):
        if isinstance(layer, nn.MaxPool2d):
            network.set_submodule(name, nn.MaxPool2d(kernel_size=2, stride=2))
