"""A tree of trainings: every few epochs each network branches into teleported copies that continue training.

All copies compute the same function when they branch and see the same batches from then on. They differ only
in the teleportation. A node of the tree is a network between two branchings, named by its path from the root:
``root/0/2`` is the third copy of the first copy.
"""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd

from nteleport.randomness import generator_for
from nteleport.studies.branches import BranchesSettings
from nteleport.studies.study import Progress, no_progress
from nteleport.studies.subject import draw_cob, one_subject, seeded
from nteleport.studies.training import Diverged, Training

ROOT, BASELINE = "root", "no teleport"

Row = dict[str, object]

_COLUMNS = [
    "node", "parent", "teleportations", "epoch", "train_loss", "train_accuracy", "val_loss", "val_accuracy",
]  # fmt: skip


@seeded
def branched_training(
    settings: BranchesSettings, *, progress: Progress = no_progress
) -> dict[str, pd.DataFrame]:
    """Train a tree of teleported networks.

    Returns:
        ``branches``: one row per epoch of each node, ``node, parent, teleportations, epoch, train_loss,
        train_accuracy, val_loss, val_accuracy``. The node ``no teleport`` continues from the root unchanged.
        A node that diverged ends with a row without numbers and has no branches.
        ``branches-leaves``: the last row of every network without branches, the best first.

    Raises:
        NTeleportError: invalid settings, or a training that diverges before its first branching.
    """
    subject = one_subject(settings)
    training = Training(subject, settings.optimizer, settings.batch_size, "branches")
    rows: list[Row] = []
    for row in _Tree(training, settings).grow(ROOT, 0):
        rows.append(row)
        progress(len(rows), settings.trained_epochs)
    table = pd.DataFrame(rows, columns=_COLUMNS)
    progress(settings.trained_epochs, settings.trained_epochs)
    return {"branches": table, "branches-leaves": leaves(table)}


def leaves(table: pd.DataFrame) -> pd.DataFrame:
    """The last row of each node without branches, by validation accuracy; a diverged one comes last."""
    last = table.groupby("node", sort=False).tail(1)
    ends = last[~last["node"].isin(table["parent"])]
    return ends.sort_values("val_accuracy", ascending=False, kind="stable", ignore_index=True)


class _Tree:
    """Trains one node after another, depth first."""

    def __init__(self, training: Training, settings: BranchesSettings) -> None:
        self.training, self.settings = training, settings

    def grow(self, node: str, epoch: int, parent: str = "", teleportations: int = 0) -> Iterator[Row]:
        """The rows of a node starting at ``epoch``, then those of its branches."""
        length = self.settings.epochs if node == BASELINE else self.settings.every
        end = min(epoch + length, self.settings.epochs)
        origin: Row = {"node": node, "parent": parent, "teleportations": teleportations}
        for each in range(epoch, end):
            scores = self._epoch(each, root=node == ROOT)
            yield {**origin, "epoch": each, **scores}
            if not scores:
                return
        if end == self.settings.epochs:
            return
        parting = self.training.state_dict()
        for number in range(self.settings.branches):
            child = f"{node}/{number}"
            self.training.load_state_dict(parting)
            self._teleport(child)
            yield from self.grow(child, end, node, teleportations + 1)
        if node == ROOT:
            self.training.load_state_dict(parting)
            yield from self.grow(BASELINE, end, node)

    def _epoch(self, epoch: int, *, root: bool) -> dict[str, float]:
        """The scores of an epoch; none if the network diverged in it. A diverging root is an error."""
        try:
            train = self.training.run_epoch(epoch)
        except Diverged:
            if root:
                raise
            return {}
        validation = self.training.scores(self.training.subject.data.test)
        return {
            "train_loss": train.loss,
            "train_accuracy": train.accuracy,
            "val_loss": validation.loss,
            "val_accuracy": validation.accuracy,
        }

    def _teleport(self, node: str) -> None:
        settings = self.settings
        generator = generator_for("study", settings.seed, f"branches {node}")
        cob = draw_cob(self.training.subject, settings.cob_range, settings.cob_sampling, generator)
        self.training.teleport(cob.float())
