"""Baseline: the simplest correct training step in PyTorch, on a batch that is in memory already."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor, nn
from torch.nn.functional import cross_entropy


class Steps(Protocol):
    """What a training step needs of an optimizer."""

    def zero_grad(self) -> None: ...

    def step(self) -> object: ...


def plain_step(network: nn.Module, optimizer: Steps, images: Tensor, labels: Tensor) -> None:
    """Forward, backward and a step of the optimizer."""
    optimizer.zero_grad()
    cross_entropy(network(images), labels).backward()
    optimizer.step()
