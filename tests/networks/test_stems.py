"""Stems of the ResNet family on small images: the usual one for CIFAR, the published one, torchvision's."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from nteleport.errors import ModelError
from nteleport.networks.models import build_model

CIFAR, MNIST = (3, 32, 32), (1, 28, 28)


def mega_flops(stem: str) -> float:
    """Of one image, by torch's own counter."""
    network = build_model("resnet18", input_shape=CIFAR, num_classes=10, stem=stem).eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(torch.zeros(1, *CIFAR))
    return counter.get_total_flops() / 1e6


@pytest.mark.parametrize(("stem", "expected"), [("cifar", 1111), ("published", 280)])
def test_a_stem_costs_what_the_networks_of_that_code_cost(stem: str, expected: float) -> None:
    assert mega_flops(stem) == pytest.approx(expected, rel=0.01)


def layers(name: str, stem: str, shape: tuple[int, int, int]) -> tuple[tuple[int, ...], type]:
    network = build_model(name, input_shape=shape, num_classes=10, stem=stem)
    return network.conv1.kernel_size, type(network.maxpool)  # type: ignore[return-value,union-attr]


def test_the_published_stem_of_color_images_keeps_the_pooling() -> None:
    assert layers("resnet18", "published", CIFAR) == ((3, 3), nn.MaxPool2d)
    assert layers("resnet18", "cifar", CIFAR) == ((3, 3), nn.Identity)


@pytest.mark.parametrize(("name", "shape"), [("resnext50_32x4d", CIFAR), ("resnet18", MNIST)])
def test_the_published_code_keeps_the_large_stem_elsewhere(name: str, shape: tuple[int, int, int]) -> None:
    assert layers(name, "published", shape) == ((7, 7), nn.MaxPool2d)
    assert layers(name, "imagenet", shape) == ((7, 7), nn.MaxPool2d)


def test_an_unknown_stem_is_answered_with_the_nearest() -> None:
    with pytest.raises(ModelError, match="did you mean 'published'"):
        build_model("resnet18", input_shape=CIFAR, num_classes=10, stem="publishd")


def test_other_families_have_no_choice_of_stem() -> None:
    with pytest.raises(ModelError, match="takes no argument 'stem'"):
        build_model("vgg11_bn", input_shape=CIFAR, num_classes=10, stem="cifar")
