"""The mode `optim`: which of several changes of basis is the best to train from.

Both metrics are measured on a few training batches and averaged over them; the largest wins. Neither has side
effects: weights, buffers, optimizer and random states are restored afterwards, and gradients are cleared.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from nteleport.core.norms import TeleportedNorms
from nteleport.core.preserving import (
    keeping_buffers,
    keeping_modes,
    keeping_random_states,
    random_states,
    restore_random_states,
)
from nteleport.training.learner import Batch, Learner
from nteleport.vocabulary import OptimizerState


def score_candidates(
    metric: str,
    learner: Learner,
    cobs: Tensor,
    batches: Iterable[Batch],
    *,
    optimizer_state: OptimizerState = "reset",
    seed: int = 0,
) -> Tensor:
    """The metric of each change of basis, larger is better.

    Args:
        metric: `weighted_grad_norm`, ‖g'/θ'‖ excluding weights that are 0; or `loss_lookahead_diff`, the loss
            before minus the loss after one real step of the optimizer in teleported coordinates.
        learner: at the current change of basis.
        cobs: shape (candidates, cob_size), relative to the plain network.
        batches: pairs of images and labels, on the device of the network.
        optimizer_state: what a teleportation to a candidate does to the optimizer's state.
        seed: for dropout during the measurement.

    Returns:
        Shape (candidates,). A candidate without a finite score gets −∞.
    """
    measure = _METRICS[metric]
    with keeping_all_but_weights(learner):
        torch.manual_seed(seed)
        learner.network.train()
        scores = torch.stack([measure(learner, cobs, batch, optimizer_state) for batch in batches]).mean(0)
    return torch.where(torch.isfinite(scores), scores, -torch.inf)


def _grad_norms(learner: Learner, cobs: Tensor, batch: Batch, optimizer_state: OptimizerState) -> Tensor:
    """One backward pass for all candidates. The optimizer's state is not used."""
    learner.backward(*batch)
    weights = {name: p.detach() for name, p in learner.network.named_parameters() if p.grad is not None}
    gradients = {name: p.grad for name, p in learner.network.named_parameters() if p.grad is not None}
    norms = TeleportedNorms(learner.optimizer.quiver, cobs.to(learner.device))
    return norms.squared_ratios(weights, gradients).sqrt()


def _loss_drops(learner: Learner, cobs: Tensor, batch: Batch, optimizer_state: OptimizerState) -> Tensor:
    """A real step for each candidate. All share one gradient at the plain weights, computed once.

    All losses see the same dropout masks, so that they can be compared.
    """
    states = random_states(learner.device)
    with torch.no_grad():
        before = learner.loss(*batch)
    restore_random_states(states, learner.device)
    learner.backward(*batch)
    gradients = {p: p.grad.clone() for p in learner.network.parameters() if p.grad is not None}
    drops = []
    for cob in cobs:
        restore_random_states(states, learner.device)
        with keeping_weights(learner), keeping_all_but_weights(learner):
            if not torch.equal(cob.to(learner.optimizer.cob), learner.optimizer.cob):
                learner.optimizer.teleport(cob, optimizer_state)
            for parameter, gradient in gradients.items():
                parameter.grad = gradient.clone()
            learner.step(*batch)
            restore_random_states(states, learner.device)
            with torch.no_grad():
                drops.append(before - learner.loss(*batch))
    return torch.stack(drops)


@contextmanager
def keeping_weights(learner: Learner) -> Iterator[None]:
    """Restore the weights and the optimizer with its change of basis."""
    parameters = list(learner.network.parameters())
    weights = [parameter.detach().clone() for parameter in parameters]
    state = copy.deepcopy(learner.optimizer.state_dict())
    try:
        yield
    finally:
        with torch.no_grad():
            for parameter, weight in zip(parameters, weights, strict=True):
                parameter.copy_(weight)
        learner.optimizer.load_state_dict(state)


@contextmanager
def keeping_all_but_weights(learner: Learner) -> Iterator[None]:
    """Restore buffers, training mode and random states, and clear the gradients."""
    network = learner.network
    with keeping_random_states(learner.device), keeping_modes(network), keeping_buffers(network):
        try:
            yield
        finally:
            learner.optimizer.zero_grad()


_METRICS: dict[str, Callable[[Learner, Tensor, Batch, OptimizerState], Tensor]] = {
    "weighted_grad_norm": _grad_norms,
    "loss_lookahead_diff": _loss_drops,
}
