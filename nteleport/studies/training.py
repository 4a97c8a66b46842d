"""A training in memory, an epoch at a time, for studies that look at the network on its way.

It is the training of `nteleport.training` without its files: the same batches, steps and measures, on the
subject of a study. What happens between two epochs, a teleportation or a record of the weights, is the
study's.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from nteleport.data import Split, batches, epoch_generator
from nteleport.errors import StudyError
from nteleport.jobs.job import Component
from nteleport.studies.subject import Subject, named_seed
from nteleport.studies.vectors import takes_batches
from nteleport.training.assembly import build_optimizer
from nteleport.training.learner import Learner
from nteleport.training.metrics import Scores, ScoreSums

_EVALUATION_BATCH = 256


class Diverged(StudyError):
    """A training whose loss is no number any more."""


class Training:
    """A network in training.

    Attributes:
        subject: its network is trained in place.
        learner: the network with its optimizer.

    Args:
        subject: what to train.
        optimizer: with which optimizer.
        batch_size: images a batch; at most all of them.
        purpose: names the sequence of batches; equal purposes see equal batches.

    Raises:
        JobError: torch has no such optimizer, or refuses its arguments.
    """

    def __init__(self, subject: Subject, optimizer: Component, batch_size: int, purpose: str) -> None:
        self.subject = subject
        self.batch_size = min(batch_size, len(subject.data.train))
        self._seed = named_seed(subject.seed, purpose)
        # BatchNorm has no variance of a single image.
        self._drops_last = self.batch_size > 1 and len(subject.data.train) % self.batch_size == 1
        self.learner = Learner(
            subject.network, build_optimizer(optimizer, subject.network, subject.quiver), subject.network
        )

    @property
    def cob(self) -> Tensor:
        """The present change of basis."""
        return self.learner.optimizer.cob

    def teleport(self, cob: Tensor) -> None:
        """Move to this change of basis and start the state of the optimizer afresh."""
        self.learner.optimizer.teleport(cob)

    def run_epoch(self, epoch: int) -> Scores:
        """Train on every batch of an epoch; the scores are those before each step.

        Raises:
            Diverged: the loss is no number any more.
            StudyError: the network takes no batch of this size.
        """
        data, sums = self.subject.data, ScoreSums()
        self.learner.network.train()
        passes = batches(
            data.train, batch_size=self.batch_size, generator=epoch_generator(self._seed, epoch),
            augment=data.augmented, drop_last=self._drops_last,
        )  # fmt: skip
        for images, labels in passes:
            with takes_batches(len(images)):
                sums.add(self.learner.backward(images, labels), labels)
            self.learner.step(images, labels)
        found = sums.read()
        if found.loss != found.loss:
            raise Diverged(f"the training diverged in epoch {epoch}; a smaller learning rate may help")
        return found

    def scores(self, split: Split) -> Scores:
        """The scores of the network as it is, in evaluation mode."""
        sums = ScoreSums()
        self.learner.network.eval()
        with torch.no_grad():
            for images, labels in batches(split, batch_size=_EVALUATION_BATCH):
                sums.add(self.learner.forward(images), labels)
        return sums.read()

    def state_dict(self) -> dict[str, Any]:
        """A copy of all that changes while training."""
        learner = self.learner
        return copy.deepcopy(
            {"network": learner.network.state_dict(), "optimizer": learner.optimizer.state_dict()}
        )

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go back to what `state_dict` gave."""
        self.learner.network.load_state_dict(state["network"])
        self.learner.optimizer.load_state_dict(copy.deepcopy(state["optimizer"]))
