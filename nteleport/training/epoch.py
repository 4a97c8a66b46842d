"""One epoch: a pass of training steps and a pass of evaluation.

Inside a pass the host never waits for the device; it reads the sums at the end.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from nteleport.data import Split
from nteleport.training.assembly import Assembly
from nteleport.training.metrics import ScoreSums


class StopRequested(Exception):  # a request, not an error
    """The training was asked to stop, at a batch boundary."""


def train_epoch(
    assembly: Assembly, epoch: int, stop_requested: Callable[[], bool]
) -> tuple[ScoreSums, Tensor]:
    """Train on every batch of an epoch.

    Returns:
        The sums of its scores, each batch measured before its step; and the teleported norms of gradient and
        weights at its first batch, a tensor of 2. Both are still on the device.

    Raises:
        StopRequested: `stop_requested` said so before a batch. The epoch is then half done.
    """
    learner, sums = assembly.learner, ScoreSums()
    norms = torch.zeros(2)
    learner.network.train()
    for step, (images, labels) in enumerate(assembly.training_batches(assembly.job.seed, epoch)):
        if stop_requested():
            raise StopRequested
        sums.add(learner.backward(images, labels), labels)
        if step == 0:
            norms = learner.norms()
        learner.step(images, labels)
        assembly.learning_rate.step_finished()
    return sums, norms


def evaluate(assembly: Assembly, split: Split) -> ScoreSums:
    """The sums of the scores on every image of `split`, in evaluation mode."""
    sums = ScoreSums()
    assembly.learner.network.eval()
    with torch.no_grad():
        for images, labels in assembly.evaluation_batches(split):
            sums.add(assembly.learner.forward(images), labels)
    return sums
