"""In-memory training, one epoch at a time, for studies that examine the network during training.

It is the training of `nteleport.training` without its files: the same batches, steps and measures, on the
subject of a study. What happens between epochs, a teleportation or a record of the weights, is up to the
study.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from nteleport.data.batching import EVALUATION_BATCH, batches
from nteleport.data.splits import Split
from nteleport.errors import StudyError
from nteleport.jobs.job import Component
from nteleport.randomness import generator_for, seed_of
from nteleport.studies.angles import takes_batches
from nteleport.studies.subject import Subject
from nteleport.training.assembly import build_optimizer
from nteleport.training.learner import Learner, evaluate, leaves_lone_image, train_epoch
from nteleport.training.metrics import Scores


class Diverged(StudyError):
    """A training whose loss is no longer finite."""


class Training:
    """A network in training.

    Attributes:
        subject: its network is trained in place.
        learner: the network with its optimizer.

    Args:
        subject: what to train.
        optimizer: the optimizer to use.
        batch_size: images per batch; at most all of them.
        purpose: names the sequence of batches; equal purposes give equal batches.

    Raises:
        JobError: torch has no such optimizer, or refuses its arguments.
    """

    def __init__(self, subject: Subject, optimizer: Component, batch_size: int, purpose: str) -> None:
        self.subject = subject
        self.batch_size = min(batch_size, len(subject.data.train))
        self._seed = seed_of("study", subject.seed, purpose)
        self._drops_last = leaves_lone_image(subject.network, len(subject.data.train), self.batch_size)
        self.learner = Learner(
            subject.network, build_optimizer(optimizer, subject.network, subject.quiver), subject.network
        )

    @property
    def cob(self) -> Tensor:
        """The current change of basis."""
        return self.learner.optimizer.cob

    def teleport(self, cob: Tensor) -> None:
        """Move to this change of basis and reset the state of the optimizer."""
        self.learner.optimizer.teleport(cob)

    def run_epoch(self, epoch: int) -> Scores:
        """Train on every batch of an epoch; the scores are those before each step.

        Raises:
            Diverged: the loss is no longer finite.
            StudyError: the network cannot take a batch of this size.
        """
        data = self.subject.data
        passes = batches(
            data.train, batch_size=self.batch_size, generator=generator_for("epoch", self._seed, epoch),
            augment=data.augmented, drop_last=self._drops_last,
        )  # fmt: skip
        with takes_batches(self.batch_size):
            found = train_epoch(self.learner, passes).sums.read()
        if found.loss != found.loss:
            raise Diverged(f"the training diverged in epoch {epoch}; a smaller learning rate may help")
        return found

    def scores(self, split: Split) -> Scores:
        """The scores of the current network, in evaluation mode."""
        return evaluate(self.learner, batches(split, batch_size=EVALUATION_BATCH)).read()

    def state_dict(self) -> dict[str, Any]:
        """A copy of everything that changes during training."""
        learner = self.learner
        return copy.deepcopy(
            {"network": learner.network.state_dict(), "optimizer": learner.optimizer.state_dict()}
        )

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the state returned by `state_dict`."""
        self.learner.network.load_state_dict(state["network"])
        self.learner.optimizer.load_state_dict(copy.deepcopy(state["optimizer"]))
