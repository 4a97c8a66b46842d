"""Gradients of a network and angles between vectors."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional

from nteleport.errors import StudyError

Batch = tuple[Tensor, Tensor]


@contextmanager
def takes_batches(size: int) -> Iterator[None]:
    """Tell what torch says of a batch that a network cannot take: BatchNorm has no variance of one value.

    Raises:
        StudyError: it did.
    """
    try:
        yield
    except ValueError as error:
        raise StudyError(f"batch size {size}: {error}; a larger batch may help") from error


def loss_gradients(network: nn.Module, batch: Batch) -> dict[str, Tensor]:
    """The gradient of the mean cross-entropy of a batch for every parameter by name; `.grad` is left alone.

    A parameter that is frozen or not used has gradient 0.

    Raises:
        StudyError: the network takes no batch of this size.
    """
    images, labels = batch
    parameters = dict(network.named_parameters())
    trained = {name: p for name, p in parameters.items() if p.requires_grad}
    with takes_batches(len(images)):
        loss = functional.cross_entropy(network(images).float(), labels)
    gradients = torch.autograd.grad(loss, list(trained.values()), allow_unused=True)
    found = dict(zip(trained, gradients, strict=True))
    return {
        name: torch.zeros_like(p) if found.get(name) is None else found[name]
        for name, p in parameters.items()
    }


def angle_of_products(products: Tensor, first: int, second: int) -> Tensor:
    """The angle between two of several vectors in degrees, from the matrix of their inner products.

    As atan2(√(AC − B²), B), exact to rounding around 90°, and a number even where rounding puts a cosine
    above 1. Near 0 and 180 half of the digits are lost, as with `acos`.
    """
    a, b, c = products[first, first], products[first, second], products[second, second]
    return torch.rad2deg(torch.atan2((a * c - b.square()).clamp(min=0).sqrt(), b))
