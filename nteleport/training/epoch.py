"""One epoch: a pass of training steps and a pass of evaluation.

Inside a pass the host never waits for the device; it reads the sums at the end.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from nteleport.data import Split
from nteleport.training.assembly import Assembly
from nteleport.training.metrics import ScoreSums


class StopRequested(Exception):  # a request, not an error
    """The training was asked to stop, at a batch boundary."""


class EpochProgress:
    """How far the training pass of an epoch has come.

    Attributes:
        steps: batches that are behind it.
        sums: the scores of these.
        norms: the teleported norms of gradient and weights at the first of them, a tensor of 2.
    """

    def __init__(self) -> None:
        self.steps = 0
        self.sums = ScoreSums()
        self.norms = torch.zeros(2)

    def state_dict(self) -> dict[str, Any]:
        """All of it, as tensors and numbers."""
        return {"steps": self.steps, "sums": self.sums.state_dict(), "norms": self.norms}

    def load_state_dict(self, state: Mapping[str, Any], device: torch.device) -> None:
        """Take up what `state_dict` gave."""
        self.steps, self.norms = state["steps"], state["norms"].to(device)
        self.sums.load_state_dict(state["sums"], device)


def train_epoch(
    assembly: Assembly,
    epoch: int,
    stop_requested: Callable[[], bool],
    progress: EpochProgress | None = None,
) -> tuple[ScoreSums, Tensor]:
    """Train on every batch of an epoch, or on those that `progress` has not behind it.

    Returns:
        The sums of its scores, each batch measured before its step; and the teleported norms of gradient and
        weights at its first batch, a tensor of 2. Both are still on the device.

    Raises:
        StopRequested: `stop_requested` said so before a batch. `progress` tells which.
    """
    learner, progress = assembly.learner, progress or EpochProgress()
    learner.network.train()
    for step, (images, labels) in enumerate(assembly.training_batches(assembly.job.seed, epoch)):
        if step < progress.steps:
            continue
        if stop_requested():
            raise StopRequested
        progress.sums.add(learner.backward(images, labels), labels)
        if step == 0:
            progress.norms = learner.norms()
        learner.step(images, labels)
        assembly.learning_rate.step_finished()
        progress.steps = step + 1
    return progress.sums, progress.norms


def evaluate(assembly: Assembly, split: Split) -> ScoreSums:
    """The sums of the scores on every image of `split`, in evaluation mode."""
    sums = ScoreSums()
    assembly.learner.network.eval()
    with torch.no_grad():
        for images, labels in assembly.evaluation_batches(split):
            sums.add(assembly.learner.forward(images), labels)
    return sums
