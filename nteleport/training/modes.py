"""Teleportation modes during training (section 4 of the paper, and its controls).

=================  ======================================================================================
mode               at the start of an epoch, or before a step, that the schedule names
=================  ======================================================================================
`random`           with probability `teleport_prob`, move to a random change of basis
`optim`            move to the best of `num_teleportations` random ones and the current one, by `metric`
`optimize`         move to the change of basis that is best for `objective`, see `nteleport.choose_cob`
`pseudo`           control: move each parameter as far as a teleportation would, in a random direction
`same_distr`       control: redraw every Linear and Conv weight from the distribution of the teleported ones
`layer_rates`      arm: train each tensor at the mean of the rates that the teleportation would give it
`shuffled_rates`   arm: train at these rates in a random order within each tensor
`layer_cob`        arm: move to one entry per layer, the root mean square of its random ones
`optimizer_reset`  arm: reset the optimizer's state
`matched_norms`    control and arm: scale each tensor to the norm of the teleported one
=================  ======================================================================================

Every change of basis drawn is relative to the plain network: a second teleportation replaces the first, and
so do second rates. When a mode declines (`teleport_prob`, or the current change of basis is the best) nothing
is touched, the optimizer's state included. The controls leave the change of basis at 1 and treat the
optimizer's state as a teleportation would.

The *arms* take a teleportation apart. Each but `optimizer_reset` acts when `random` would and starts from the
draw `τ` of `random` with the same `cob_range`, `cob_sampling` and run, with scales `s(τ)`:

- `layer_rates`: a rate per tensor, `r = mean |s|⁻ᵖ`, and no teleportation. For SGD and ASGD (`p = 2`) it
  multiplies gradients, `θ ← θ − lr (r g + wd θ)`; for other optimizers (`p = 1`) steps, `θ ← (1 − lr wd) θ +
  r Δ` with `wd` a decoupled weight decay and `Δ` their own step. `nteleport.core.rates` has the details.
- `shuffled_rates`: rates `|s|⁻ᵖ` of each element, permuted within each tensor.
- `layer_cob`: a teleportation to `τ_i = (mean τ_j²)^½` over all `j` in the layer of `i`.
- `optimizer_reset`: a teleportation to `τ = 1` with `optimizer_state: reset`, whatever the job says.
- `matched_norms`: `θ ← θ ‖s θ‖ / ‖θ‖` for each tensor.

`random` is then its rates (mean and pattern, for which `layer_rates` and `shuffled_rates` stand), its place
(`layer_cob`), and its restart (`optimizer_reset`).

With `activations: kept` the quiver holds what the unmodified network allows. The steps are then those of that
network with its weights moved in place, so the same optimizer takes them.

All randomness comes from a generator recreated from `teleport_seed` and the epoch or step: a resumed job
needs no hidden state, and neither the initial weights nor the batches depend on the mode.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from nteleport.core.choosing import choose_cob
from nteleport.core.cob import admitted_cob, layer_cob, sample_cob
from nteleport.core.optimizer import TeleportedOptimizer
from nteleport.core.optimizer_state import maker_like
from nteleport.core.preserving import keeping_modes
from nteleport.core.quiver import scales
from nteleport.core.rates import layer_rates, own_rates, shuffled_rates
from nteleport.jobs.job import Teleportation
from nteleport.randomness import seed_of, wide_dtype
from nteleport.training.controls import displace_at_random, match_norms, redraw_same_distribution
from nteleport.training.learner import Batch, Learner
from nteleport.training.selection import score_candidates
from nteleport.vocabulary import MODES, Mode, OptimizerState

_Act = Callable[[TeleportedOptimizer, Tensor, OptimizerState, torch.Generator], None]
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
        Whether it did anything.
    """
    return MODE_ACTIONS[how.mode](learner, how, optimizer_state, generator, batches)


def teleport_seed(seed: int, mode: Mode, number: Literal["epoch", "step"] = "epoch") -> int:
    """A seed for the teleportations of a job, separate from the seeds of its weights and batches.

    Modes that share their draws share it. Each teleportation has a number below it: that of its epoch or, in
    another sequence, that of its step.
    """
    found = seed_of("teleport", seed, MODES[mode].draws_as or mode)
    return found if number == "epoch" else seed_of("step", found)


def _sample(learner: Learner, how: Teleportation, generator: torch.Generator) -> Tensor:
    """A random change of basis that the quiver admits, shape (cob_size,), on the CPU."""
    quiver = learner.optimizer.quiver
    drawn = sample_cob(
        quiver.cob_size, how.cob_range, how.cob_sampling, center=how.center, generator=generator
    )
    return admitted_cob(quiver, drawn, generator)


def _drawing(act: _Act) -> ModeAction:
    """A mode that draws a change of basis with probability `teleport_prob`, and acts on it."""

    def run(
        learner: Learner,
        how: Teleportation,
        optimizer_state: OptimizerState,
        generator: torch.Generator,
        batches: Callable[[int], Iterable[Batch]],
    ) -> bool:
        if float(torch.rand((), generator=generator)) >= how.teleport_prob:
            return False
        act(learner.optimizer, _sample(learner, how, generator), optimizer_state, generator)
        return True

    return run


def _move(
    optimizer: TeleportedOptimizer, cob: Tensor, state: OptimizerState, generator: torch.Generator
) -> None:
    optimizer.teleport(cob, state)


def _move_by_layer(
    optimizer: TeleportedOptimizer, cob: Tensor, state: OptimizerState, generator: torch.Generator
) -> None:
    optimizer.teleport(layer_cob(optimizer.quiver, cob), state)


def _rate_layers(
    optimizer: TeleportedOptimizer, cob: Tensor, state: OptimizerState, generator: torch.Generator
) -> None:
    optimizer.set_rates(layer_rates(_own_rates(optimizer, cob)), state)


def _shuffle_rates(
    optimizer: TeleportedOptimizer, cob: Tensor, state: OptimizerState, generator: torch.Generator
) -> None:
    optimizer.set_rates(shuffled_rates(optimizer.quiver, _own_rates(optimizer, cob), generator), state)


def _own_rates(optimizer: TeleportedOptimizer, cob: Tensor) -> dict[str, Tensor]:
    """The rates of a teleportation, in the widest dtype, for the sake of means."""
    place = optimizer.cob.device
    return own_rates(optimizer.quiver, cob.to(place, wide_dtype(place)), optimizer.rate_exponent)


def _match_norms(
    optimizer: TeleportedOptimizer, cob: Tensor, state: OptimizerState, generator: torch.Generator
) -> None:
    match_norms(optimizer.network, scales(optimizer.quiver, cob.to(optimizer.cob), expand=False))
    _adopt_weights(optimizer, state)


def _reset(
    learner: Learner,
    how: Teleportation,
    optimizer_state: OptimizerState,
    generator: torch.Generator,
    batches: Callable[[int], Iterable[Batch]],
) -> bool:
    learner.optimizer.reset_state()
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
        options["optimizer"] = maker_like(optimizer.optimizer)
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
        _adopt_weights(optimizer, optimizer_state)
        return True

    return run


def _adopt_weights(optimizer: TeleportedOptimizer, optimizer_state: OptimizerState) -> None:
    """Continue from weights that a control has moved."""
    optimizer.reload_weights()
    if optimizer_state == "reset":  # otherwise it is kept, because nothing was scaled
        optimizer.reset_state()


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
    "random": _drawing(_move),
    "optim": _best,
    "optimize": _chosen,
    "pseudo": _control(_displace),
    "same_distr": _control(_redraw),
    "layer_rates": _drawing(_rate_layers),
    "shuffled_rates": _drawing(_shuffle_rates),
    "layer_cob": _drawing(_move_by_layer),
    "optimizer_reset": _reset,
    "matched_norms": _drawing(_match_norms),
}
