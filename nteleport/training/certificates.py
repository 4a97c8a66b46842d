"""Teleportations that are certified: what each did to weights and outputs, and none that did harm.

With activations kept, the moved weights must give the outputs that they gave before in the network as it is.
A copy of it runs on a batch, in training mode, with the weights before and after the move; a move that
changes outputs by more than rounding is rolled back. With activations conjugated no forward pass can differ,
since a job runs its plain weights: the certificate holds condition, entries and digests.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from nteleport.core.certificate import Certificate, Snapshot, weights_digest
from nteleport.core.quiver import teleported
from nteleport.training.learner import Learner


@dataclass(frozen=True)
class Certified:
    """A teleportation and what it did.

    Attributes:
        certificate: of the move from the change of basis before to the one after it.
        tolerance: the relative change of outputs beyond which it is rolled back; None if none were compared.
    """

    certificate: Certificate
    tolerance: float | None = None

    @property
    def rolled_back(self) -> bool:
        """Whether outputs changed by more than the tolerance."""
        return self.tolerance is not None and not self.certificate.largest_relative <= self.tolerance

    def row(self, epoch: int, step: int) -> dict[str, Any]:
        """A row of `certificates.json`; `step` counts from 0 through all epochs."""
        content = self.certificate.to_dict()
        values = {key: value for key, value in content.items() if key not in ("further", "skipped")}
        return {"epoch": epoch, "step": step, **values, "rolled_back": self.rolled_back}


def certified(
    learner: Learner, act: Callable[[], bool], images: Callable[[], Tensor]
) -> tuple[bool, Certified | None]:
    """Let a mode act, and certify the move of the change of basis, if it moved.

    Args:
        learner: what is moved; after a move that is rolled back it is as before, bit for bit.
        act: moves it, and returns whether it did.
        images: a batch, for the outputs.

    Returns:
        Whether it is moved now, and the certificate; None where the change of basis stayed.
    """
    optimizer = learner.optimizer
    before, compares = optimizer.cob, optimizer.quiver.activations == "kept"
    state = copy.deepcopy(optimizer.state_dict()) if compares else {}
    if not act():
        return False, None
    if torch.equal(before, optimizer.cob):
        return True, None
    found = _compared(learner, before, images()) if compares else _digested(learner, before)
    if found.rolled_back:
        optimizer.load_state_dict(state)
    return not found.rolled_back, found


def _digested(learner: Learner, before: Tensor) -> Certified:
    optimizer, buffers = learner.optimizer, dict(learner.network.named_buffers())
    first, second = (weights_digest({**_weights(learner, cob), **buffers}) for cob in (before, optimizer.cob))
    return Certified(Certificate.of(optimizer.quiver, optimizer.cob, (first, second)))


def _compared(learner: Learner, before: Tensor, images: Tensor) -> Certified:
    optimizer = learner.optimizer
    unmodified = copy.deepcopy(learner.network).train()
    _load(unmodified, _weights(learner, before))
    snapshot = Snapshot(unmodified, images)
    _load(unmodified, _weights(learner, optimizer.cob))
    certificate = snapshot.certify(optimizer.quiver, optimizer.cob, lambda network: None)
    return Certified(certificate, snapshot.tolerance)


def _weights(learner: Learner, cob: Tensor) -> dict[str, Tensor]:
    """The weights at a change of basis."""
    plain = {name: p.detach() for name, p in learner.network.named_parameters()}
    moved = teleported(plain, learner.optimizer.quiver, cob)
    return {name: weight.to(plain[name].dtype) for name, weight in moved.items()}


def _load(network: nn.Module, weights: Mapping[str, Tensor]) -> None:
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            parameter.copy_(weights[name])
