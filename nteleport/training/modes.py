"""Teleportation modes during training (section 4 of the paper, and its controls).

=============  ==========================================================================================
mode           at the start of an epoch, or before a step, that the schedule names
=============  ==========================================================================================
`random`       with probability `teleport_prob`, move to a random change of basis
`optim`        move to the best of `num_teleportations` random ones and the current one, by `metric`
`optimize`     move to the change of basis that is best for `objective`, see `nteleport.choose_cob`
`pseudo`       control: move each parameter as far as a teleportation would, in a random direction
`same_distr`   control: redraw every Linear and Conv weight from the distribution of the teleported ones
=============  ==========================================================================================

Every change of basis drawn is relative to the plain network: a second teleportation replaces the first. When
a mode declines (`teleport_prob`, or the current change of basis is the best) nothing is touched, the
optimizer's state included. The controls leave the change of basis at 1 and treat the optimizer's state as a
teleportation would.

With `activations: kept` the quiver holds what the unmodified network allows. The steps are then those of that
network with its weights moved in place, so the same optimizer takes them.

All randomness comes from a generator recreated from `teleport_seed` and the epoch or step: a resumed job
needs no hidden state, and neither the initial weights nor the batches depend on the mode.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from nteleport.core.choosing import choose_cob
from nteleport.core.cob import admitted_cob, sample_cob
from nteleport.core.preserving import keeping_modes
from nteleport.core.quiver import scales
from nteleport.jobs.job import Teleportation
from nteleport.randomness import seed_of
from nteleport.training.controls import displace_at_random, redraw_same_distribution
from nteleport.training.learner import Batch, Learner
from nteleport.training.selection import score_candidates
from nteleport.vocabulary import OptimizerState

_IMPLEMENTATIONS = ("fused", "foreach", "capturable", "differentiable")
"""Arguments of optimizers that say how a step is computed, and not what it is."""

_Change = Callable[[nn.Module, Mapping[str, Tensor], torch.Generator, Teleportation], None]
ModeAction = Callable[
    [Learner, Teleportation, OptimizerState, torch.Generator, Callable[[int], Iterable[Batch]]], bool
]


def teleport(
    learner: Learner,
    how: Teleportation,
    optimizer_state: OptimizerState,
    generator: torch.Generator,
    batches: Callable[[int], Iterable[Batch]],
) -> bool:
    """Do what the mode of a teleportation does when the schedule says so.

    Args:
        learner: what to move.
        how: the teleportation.
        optimizer_state: what happens to the optimizer's state.
        generator: source of all randomness, on the CPU: ``generator_for(teleport_seed(…), epoch or step)``.
        batches: returns the first n training batches of a separate epoch, for `optim`.

    Returns:
        Whether the weights were moved.
    """
    return MODE_ACTIONS[how.mode](learner, how, optimizer_state, generator, batches)


def teleport_seed(seed: int, mode: str, number: Literal["epoch", "step"] = "epoch") -> int:
    """A seed for the teleportations of a job, separate from the seeds of its weights and batches.

    Each teleportation has a number below it: that of its epoch or, in another sequence, that of its step.
    """
    found = seed_of("teleport", seed, mode)
    return found if number == "epoch" else seed_of("step", found)


def _sample(learner: Learner, how: Teleportation, generator: torch.Generator) -> Tensor:
    """A random change of basis that the quiver admits, shape (cob_size,), on the CPU."""
    quiver = learner.optimizer.quiver
    drawn = sample_cob(
        quiver.cob_size, how.cob_range, how.cob_sampling, center=how.center, generator=generator
    )
    return admitted_cob(quiver, drawn, generator)


def _random(
    learner: Learner,
    how: Teleportation,
    optimizer_state: OptimizerState,
    generator: torch.Generator,
    batches: Callable[[int], Iterable[Batch]],
) -> bool:
    if float(torch.rand((), generator=generator)) >= how.teleport_prob:
        return False
    learner.optimizer.teleport(_sample(learner, how, generator), optimizer_state)
    return True


def _best(
    learner: Learner,
    how: Teleportation,
    optimizer_state: OptimizerState,
    generator: torch.Generator,
    batches: Callable[[int], Iterable[Batch]],
) -> bool:
    optimizer = learner.optimizer
    drawn = [_sample(learner, how, generator) for _ in range(how.num_teleportations)]
    cobs = torch.stack([optimizer.cob.cpu(), *(cob.to(optimizer.cob.dtype) for cob in drawn)])
    scores = score_candidates(
        how.metric,
        learner,
        cobs,
        batches(how.num_batches),
        optimizer_state=optimizer_state,
        seed=int(torch.randint(2**62, (), generator=generator)),
    )
    winner = int(scores.argmax())
    if not scores[winner] > scores[0]:  # the current one wins ties
        return False
    optimizer.teleport(cobs[winner], optimizer_state)
    return True


def _chosen(
    learner: Learner,
    how: Teleportation,
    optimizer_state: OptimizerState,
    generator: torch.Generator,
    batches: Callable[[int], Iterable[Batch]],
) -> bool:
    optimizer = learner.optimizer
    options: dict[str, Any] = {}
    if how.objective == "lookahead":
        options["optimizer"] = _fresh(optimizer.optimizer)
    with keeping_modes(learner.network):
        learner.network.train()
        chosen = choose_cob(
            optimizer.quiver,
            learner.network,
            how.objective,
            batches=batches(how.num_batches),
            steps=how.steps,
            max_log_range=how.max_log_range,
            generator=generator,
            loss=learner.criterion,
            **options,
        )
    if torch.equal(chosen.cob, optimizer.cob):
        return False
    optimizer.teleport(chosen.cob, optimizer_state)
    return True


def _fresh(optimizer: Optimizer) -> partial[Optimizer]:
    """Makes an optimizer of other tensors, with the present hyper-parameters of its first group."""
    known = inspect.signature(type(optimizer)).parameters.keys() - {"params", *_IMPLEMENTATIONS}
    group = optimizer.param_groups[0]
    return partial(type(optimizer), **{key: group[key] for key in known & group.keys()})


def _control(change: _Change) -> ModeAction:
    """A mode that modifies the weights with `change` and leaves the change of basis at 1."""

    def run(
        learner: Learner,
        how: Teleportation,
        optimizer_state: OptimizerState,
        generator: torch.Generator,
        batches: Callable[[int], Iterable[Batch]],
    ) -> bool:
        optimizer = learner.optimizer
        would_be = _sample(learner, how, generator).to(optimizer.cob)
        change(learner.network, scales(optimizer.quiver, would_be, expand=False), generator, how)
        optimizer.reload_weights()
        if optimizer_state == "reset":  # otherwise it is kept, because nothing was scaled
            optimizer.reset_state()
        return True

    return run


def _displace(
    network: nn.Module, scales: Mapping[str, Tensor], generator: torch.Generator, how: Teleportation
) -> None:
    displace_at_random(network, scales, generator)


def _redraw(
    network: nn.Module, scales: Mapping[str, Tensor], generator: torch.Generator, how: Teleportation
) -> None:
    redraw_same_distribution(network, scales, generator, how.histogram)


MODE_ACTIONS: dict[str, ModeAction] = {
    "no_teleport": lambda *given: False,
    "random": _random,
    "optim": _best,
    "optimize": _chosen,
    "pseudo": _control(_displace),
    "same_distr": _control(_redraw),
}
