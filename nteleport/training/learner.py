"""A network with its optimizer, as the modes of teleportation and the loop see it."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from nteleport.core.optimizer import TeleportedOptimizer
from nteleport.core.quiver import compact_scales
from nteleport.training.metrics import teleported_norms


@dataclass(frozen=True)
class Learner:
    """A network in training.

    Attributes:
        network: holds the plain weights and buffers.
        optimizer: holds the change of basis.
        forward: images to logits through `network`, possibly compiled, in the precision and memory layout of
            the job.
    """

    network: nn.Module
    optimizer: TeleportedOptimizer
    forward: Callable[[Tensor], Tensor]

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return next(self.network.parameters()).device

    def loss(self, images: Tensor, labels: Tensor) -> Tensor:
        """Mean cross-entropy of a batch, in float32."""
        return cross_entropy(self.forward(images), labels)

    def backward(self, images: Tensor, labels: Tensor) -> Tensor:
        """Fill the gradients of the plain network afresh from a batch; the logits are returned."""
        self.optimizer.zero_grad()
        logits = self.forward(images)
        cross_entropy(logits, labels).backward()
        return logits.detach()

    def step(self, images: Tensor, labels: Tensor) -> None:
        """One step of the optimizer from the gradients that `backward` left.

        An optimizer that evaluates the loss itself, as LBFGS does, evaluates it on this batch.
        """
        if not _evaluates_loss(self.optimizer.optimizer):
            self.optimizer.step()
            return

        def evaluate() -> Tensor:
            self.optimizer.zero_grad()
            loss = self.loss(images, labels)
            loss.backward()
            return loss

        self.optimizer.step(evaluate)

    def norms(self) -> Tensor:
        """Norms of the teleported gradient and weights: see `nteleport.training.metrics`."""
        with torch.no_grad():
            return teleported_norms(self.network, compact_scales(self.optimizer.quiver, self.optimizer.cob))


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """The loss of every training: mean cross-entropy, computed in float32."""
    return functional.cross_entropy(logits.float(), labels)


def _evaluates_loss(optimizer: torch.optim.Optimizer) -> bool:
    closure = inspect.signature(type(optimizer).step).parameters.get("closure")
    return closure is not None and closure.default is inspect.Parameter.empty
