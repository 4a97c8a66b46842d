"""A network with its optimizer, and the passes over an epoch that train and evaluate it."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from nteleport.core.optimizer import TeleportedOptimizer
from nteleport.core.quiver import scales
from nteleport.training.losses import Loss, cross_entropy
from nteleport.training.metrics import ScoreSums, teleported_norms

Batch = tuple[Tensor, Tensor]
"""Images and labels."""


@dataclass(frozen=True)
class Learner:
    """A network in training.

    Attributes:
        network: holds the plain weights and buffers.
        optimizer: holds the change of basis.
        forward: images to logits through `network`, possibly compiled, in the precision and memory layout of
            the job.
        criterion: the loss.
    """

    network: nn.Module
    optimizer: TeleportedOptimizer
    forward: Callable[[Tensor], Tensor]
    criterion: Loss = cross_entropy

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return next(self.network.parameters()).device

    def loss(self, images: Tensor, labels: Tensor) -> Tensor:
        """The mean loss of a batch."""
        return self.criterion(self.forward(images), labels)

    def backward(self, images: Tensor, labels: Tensor) -> Tensor:
        """Recompute the gradients of the plain network on a batch; returns the logits."""
        self.optimizer.zero_grad()
        logits = self.forward(images)
        self.criterion(logits, labels).backward()
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
            return teleported_norms(
                self.network, scales(self.optimizer.quiver, self.optimizer.cob, expand=False)
            )


def _evaluates_loss(optimizer: torch.optim.Optimizer) -> bool:
    closure = inspect.signature(type(optimizer).step).parameters.get("closure")
    return closure is not None and closure.default is inspect.Parameter.empty


class StopRequested(Exception):  # a request, not an error
    """The training was asked to stop, at a batch boundary."""


class EpochProgress:
    """Progress of the training pass of an epoch, whose loss is `criterion`.

    Attributes:
        steps: number of completed batches.
        sums: their scores.
        norms: the teleported norms of gradient and weights at the first of them, a tensor of shape (2,).
    """

    def __init__(self, criterion: Loss = cross_entropy) -> None:
        self.steps = 0
        self.sums = ScoreSums(criterion)
        self.norms = torch.zeros(2)

    def state_dict(self) -> dict[str, Any]:
        """The whole state, as tensors and numbers."""
        return {"steps": self.steps, "sums": self.sums.state_dict(), "norms": self.norms}

    def load_state_dict(self, state: Mapping[str, Any], device: torch.device) -> None:
        """Restore what `state_dict` returned."""
        self.steps, self.norms = state["steps"], state["norms"].to(device)
        self.sums.load_state_dict(state["sums"], device)


def train_epoch(
    learner: Learner,
    batches: Iterable[Batch],
    *,
    step_starts: Callable[[int], None] = lambda step: None,
    step_finished: Callable[[], None] = lambda: None,
    stop_requested: Callable[[], bool] = lambda: False,
    progress: EpochProgress | None = None,
) -> EpochProgress:
    """Train on every batch of an epoch, or on those that `progress` has not completed.

    During the pass the host never waits for the device; each batch is scored before its step.

    Args:
        learner: what to train.
        batches: pairs of images and labels, on the device of the network; always all batches of the epoch.
        step_starts: called before each step with its number in the epoch, once it is certain to be taken.
        step_finished: called after each step, for the learning rate.
        stop_requested: asked before each batch.
        progress: of an epoch begun earlier; updated in place.

    Raises:
        StopRequested: `stop_requested` returned True before a batch. `progress` records which.
    """
    progress = progress or EpochProgress(learner.criterion)
    learner.network.train()
    for step, (images, labels) in enumerate(batches):
        if step < progress.steps:
            continue
        if stop_requested():
            raise StopRequested
        step_starts(step)
        progress.sums.add(learner.backward(images, labels), labels)
        if step == 0:
            progress.norms = learner.norms()
        learner.step(images, labels)
        step_finished()
        progress.steps = step + 1
    return progress


def evaluate(learner: Learner, batches: Iterable[Batch]) -> ScoreSums:
    """The sums of the scores on all batches, in evaluation mode."""
    sums = ScoreSums(learner.criterion)
    learner.network.eval()
    with torch.no_grad():
        for images, labels in batches:
            sums.add(learner.forward(images), labels)
    return sums


def leaves_lone_image(network: nn.Module, images: int, batch_size: int) -> bool:
    """Whether the last batch of an epoch would be a single image, for which BatchNorm has no variance.

    Such a batch is dropped, in `train` and in studies alike.
    """
    normalized = any(isinstance(module, _BatchNorm) for module in network.modules())
    return normalized and batch_size > 1 and images > 1 and images % batch_size == 1
