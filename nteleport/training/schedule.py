"""When a job teleports.

A teleportation happens at the *start* of an epoch, and epochs count from 0: one at epoch 0 moves the initial
weights. This module imports no torch, so that a plan can be shown before anything is trained.
"""

from __future__ import annotations

from nteleport.jobs.job import Teleportation


def teleports_at(epoch: int, teleportation: Teleportation, epochs: int) -> bool:
    """Whether the schedule asks for a teleportation at the start of `epoch` of a training of `epochs` epochs.

    With n = `every_n_epochs`: `teleport_only_once` means at epoch n alone; otherwise at n, 2n, … while epochs
    last. n = 0 without "once" means at epoch 0 alone. An epoch outside 0 … `epochs` − 1 never starts, so
    nothing happens at it.

    A mode may still decline when asked: `random` with its `teleport_prob`, `optim` when the present change of
    basis is the best.

    Example:
        >>> every_two = Teleportation(mode="random", every_n_epochs=2)
        >>> [epoch for epoch in range(7) if teleports_at(epoch, every_two, 7)]
        [2, 4, 6]
    """
    n = teleportation.every_n_epochs
    if teleportation.mode == "no_teleport" or not 0 <= epoch < epochs:
        return False
    if teleportation.teleport_only_once or n == 0:
        return epoch == n
    return epoch > 0 and epoch % n == 0
