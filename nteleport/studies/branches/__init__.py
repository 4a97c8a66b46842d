"""The study `branches`: its settings."""

from __future__ import annotations

from dataclasses import dataclass

from nteleport.schema.fields import option, redefault, whole_number
from nteleport.studies.settings import OneTrainingSettings
from nteleport.studies.study import Study

MOST_LEAVES = 1024


@dataclass(frozen=True, kw_only=True)
class BranchesSettings(OneTrainingSettings):
    """Every few epochs each network branches into teleported copies that continue training.

    All see the same batches; in addition, one network trains without ever being teleported.
    """

    epochs: int = redefault(OneTrainingSettings, "epochs", 15)
    every: int = option(5, whole_number(1), "Epochs between branchings.", metavar="N")
    branches: int = option(3, whole_number(1), "Teleported copies of each network.", metavar="N")

    def problem(self) -> str | None:
        """Why these settings cannot run, or None."""
        if self.epochs < 1:
            return "epochs 0, expected at least 1"
        if self.leaves > MOST_LEAVES:
            return (
                f"{self.branches} branches every {self.every} of {self.epochs} epochs are {self.leaves} "
                f"networks at the end, expected at most {MOST_LEAVES}"
            )
        return super().problem()

    @property
    def branchings(self) -> int:
        """The number of branchings: at the start of epochs ``every``, 2 · ``every``, … of the training."""
        return (self.epochs - 1) // self.every

    @property
    def leaves(self) -> int:
        """The number of networks at the end."""
        return int(self.branches**self.branchings)

    @property
    def trained_epochs(self) -> int:
        """The number of epochs of all networks together."""
        lengths = [min(self.every, self.epochs - k * self.every) for k in range(self.branchings + 1)]
        in_the_tree: int = sum(self.branches**k * length for k, length in enumerate(lengths))
        return in_the_tree + self.epochs - lengths[0]


STUDY = Study("branches", "A training tree of teleported copies.", BranchesSettings, "branched_training")
