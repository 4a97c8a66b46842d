"""When a job teleports: at the start of which epochs, and before which steps. No torch.

A schedule is a function of numbers that are on disk: of epochs, of steps, and of the rows of finished epochs.
So a job that is resumed decides as one that never stopped. A mode may still decline: `random` with its
`teleport_prob`, `optim` when the current change of basis is the best.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from nteleport.jobs.job import Plateau, Teleportation
from nteleport.jobs.records import MetricRow


def teleports_at(
    epoch: int, teleportation: Teleportation, epochs: int, rows: Sequence[MetricRow] = ()
) -> bool:
    """Whether the schedule asks for a teleportation at the start of `epoch` in a training of `epochs` epochs.

    With n = `every_n_epochs`: `teleport_only_once` means only at epoch n; otherwise at n, 2n, … until the end
    of training. n = 0 without "once" means only at epoch 0. An epoch outside 0 … `epochs` − 1 never starts,
    so nothing happens there.

    Args:
        epoch: counted from 0.
        teleportation: its schedule is asked.
        epochs: of the whole training.
        rows: of the epochs before this one, in which `on_plateau` looks for plateaus.

    Example:
        >>> every_two = Teleportation(mode="random", every_n_epochs=2)
        >>> [epoch for epoch in range(7) if teleports_at(epoch, every_two, 7)]
        [2, 4, 6]
    """
    if teleportation.mode == "no_teleport" or not 0 <= epoch < epochs:
        return False
    if teleportation.schedule == "every_n_steps":
        return False
    if teleportation.epochs is not None and teleportation.schedule == "epochs":
        return epoch in teleportation.epochs
    if teleportation.on_plateau is not None and teleportation.schedule == "on_plateau":
        found = list(_plateaus(teleportation.on_plateau, rows[:epoch]))
        return epoch in (found[:1] if teleportation.teleport_only_once else found)
    return _is_due(epoch, teleportation.every_n_epochs, once=teleportation.teleport_only_once)


def teleports_before(step: int, teleportation: Teleportation) -> bool:
    """Whether the schedule asks for a teleportation before `step`, counted from 0 through all epochs.

    With n = `every_n_steps`, before steps n, 2n, …, or with `teleport_only_once` before step n alone.
    """
    n = teleportation.every_n_steps
    if n is None or teleportation.schedule != "every_n_steps":
        return False
    return _is_due(step, n, once=teleportation.teleport_only_once)


def _is_due(number: int, n: int, *, once: bool) -> bool:
    return number == n if once or n == 0 else number > 0 and number % n == 0


def _plateaus(plateau: Plateau, rows: Sequence[MetricRow]) -> Iterator[int]:
    """The epochs that follow a plateau of the metric."""
    better = -1.0 if plateau.monitor.endswith("loss") else 1.0
    best, bad = -math.inf, 0
    for row in rows:
        value = better * float(getattr(row, plateau.monitor))
        best, bad = (value, 0) if value > best else (best, bad + 1)
        if bad > plateau.patience:
            yield row.epoch + 1
            bad = 0
