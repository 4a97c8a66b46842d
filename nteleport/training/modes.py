"""The modes of teleportation while training (section 4 of the paper, and its controls).

=============  ==========================================================================================
mode           at the start of an epoch that the schedule names
=============  ==========================================================================================
`random`       with probability `teleport_prob`, move to a random change of basis
`optim`        move to the best of `num_teleportations` random ones and the present one, by `metric`
`pseudo`       control: move each parameter as far as a teleportation would, in a random direction
`same_distr`   control: redraw every Linear and Conv weight from the distribution of the teleported ones
=============  ==========================================================================================

Every change of basis drawn is relative to the plain network: a second teleportation replaces the first. When
a mode declines (`teleport_prob`, or the present change of basis is the best) nothing is touched, the
optimizer's state included. The controls leave the change of basis at 1 and treat the optimizer's state as a
teleportation would.

All randomness comes from `teleport_generator`, made anew from the job and the epoch: a resumed job needs no
hidden state, and neither the initial weights nor the batches depend on the mode.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from nteleport.core.cob import sample_cob
from nteleport.core.quiver import compact_scales
from nteleport.jobs.job import Teleportation
from nteleport.training.controls import displace_at_random, redraw_same_distribution
from nteleport.training.learner import Learner
from nteleport.training.selection import Batch, score_candidates


@dataclass(frozen=True)
class Occasion:
    """The start of an epoch at which the schedule asks for a teleportation.

    Attributes:
        learner: what to move.
        teleportation: how.
        optimizer_state: what happens to the optimizer's state: `reset`, `transport` or `keep`.
        generator: source of all randomness, on the CPU.
        batches: gives the first n training batches of an epoch of its own, for `optim`.
    """

    learner: Learner
    teleportation: Teleportation
    optimizer_state: str
    generator: torch.Generator
    batches: Callable[[int], Iterable[Batch]]

    def sample(self) -> Tensor:
        """A random change of basis, shape (cob_size,), on the CPU."""
        chosen = self.teleportation
        return sample_cob(
            self.learner.optimizer.quiver.cob_size,
            chosen.cob_range,
            chosen.cob_sampling,
            center=chosen.center,
            generator=self.generator,
        )


def teleport(occasion: Occasion) -> bool:
    """Do what the mode of `occasion` does; returns whether the weights were moved."""
    return _MODES[occasion.teleportation.mode](occasion)


def teleport_seed(seed: int, mode: str) -> int:
    """A 63-bit seed for the teleportations of a job, apart from the seeds of its weights and batches."""
    return int.from_bytes(hashlib.sha256(f"teleport {seed} {mode}".encode()).digest()[:8], "big") >> 1


def teleport_generator(seed: int, mode: str, epoch: int) -> torch.Generator:
    """A CPU generator for the teleportation at the start of one epoch of the job with this seed."""
    digest = hashlib.sha256(f"{teleport_seed(seed, mode)} {epoch}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


def _stay(occasion: Occasion) -> bool:
    return False


def _random(occasion: Occasion) -> bool:
    if float(torch.rand((), generator=occasion.generator)) >= occasion.teleportation.teleport_prob:
        return False
    occasion.learner.optimizer.teleport(occasion.sample(), occasion.optimizer_state)
    return True


def _best(occasion: Occasion) -> bool:
    chosen, optimizer = occasion.teleportation, occasion.learner.optimizer
    drawn = [occasion.sample() for _ in range(chosen.num_teleportations)]
    cobs = torch.stack([optimizer.cob.cpu(), *(cob.to(optimizer.cob.dtype) for cob in drawn)])
    batches = occasion.batches(chosen.num_batches)
    scores = score_candidates(
        chosen.metric,
        occasion.learner,
        cobs,
        batches,
        optimizer_state=occasion.optimizer_state,
        seed=int(torch.randint(2**62, (), generator=occasion.generator)),
    )
    winner = int(scores.argmax())
    if not scores[winner] > scores[0]:  # among equals the present one wins
        return False
    optimizer.teleport(cobs[winner], occasion.optimizer_state)
    return True


def _pseudo(occasion: Occasion) -> bool:
    displace_at_random(occasion.learner.network, _would_be_scales(occasion), occasion.generator)
    _finish_control(occasion)
    return True


def _same_distribution(occasion: Occasion) -> bool:
    redraw_same_distribution(occasion.learner.network, _would_be_scales(occasion), occasion.generator)
    _finish_control(occasion)
    return True


def _would_be_scales(occasion: Occasion) -> dict[str, Tensor]:
    optimizer = occasion.learner.optimizer
    return compact_scales(optimizer.quiver, occasion.sample().to(optimizer.cob))


def _finish_control(occasion: Occasion) -> None:
    """Tell the optimizer that its weights were written to; nothing was scaled, so its state is reset or
    stays.
    """
    optimizer = occasion.learner.optimizer
    optimizer.reload_weights()
    if occasion.optimizer_state == "reset":
        optimizer.reset_state()


_MODES: dict[str, Callable[[Occasion], bool]] = {
    "no_teleport": _stay,
    "random": _random,
    "optim": _best,
    "pseudo": _pseudo,
    "same_distr": _same_distribution,
}
