"""Metrics measured during training, without ever making the device wait.

Logits and labels of a few batches are kept on the device, turned into sums there, and the sums are read by
the host once per epoch (`ScoreSums.read`). A top-k hit means that fewer than k classes rank before the
correct one; among equal logits the lower class ranks first. An image with a logit that is not finite is never
a hit. Where targets are numbers there are no hits: shares are NaN, which no share of hits ever is.

`grad_norm` and `weight_norm` of a row of metrics are the Euclidean norms of the *teleported* gradient `g / s`
and the *teleported* weights `s ⊙ θ` at the first batch of the epoch, before its step: the point where a
teleportation at the start of the epoch has just landed. Their ratio is the ‖dTW‖/‖TW‖ of Fig. 7 of the paper.
At one batch per epoch, their cost is negligible. Both are taken parameter by parameter, so no second copy of
the network is ever made.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from nteleport.training.losses import Loss, cross_entropy

_TOP = 5
_BATCHES_KEPT = 32
_ONE = torch.ones(())


@dataclass(frozen=True)
class Scores:
    """Means over images: the loss (cross-entropy in nats), and shares in [0, 1] of top-1 and top-5 hits."""

    loss: float
    accuracy: float
    accuracy_top5: float


class ScoreSums:
    """Sums of loss and hits, on the device of the logits. Top-5 is top-min(5, classes)."""

    def __init__(self, criterion: Loss = cross_entropy) -> None:
        self._criterion = criterion
        self._kept: list[tuple[Tensor, Tensor]] = []
        self._sums: Tensor | None = None
        self._count = 0

    def add(self, logits: Tensor, labels: Tensor) -> None:
        """Count a batch: logits of shape (n, classes), labels of shape (n,). Nothing is read back."""
        self._kept.append((logits.detach(), labels))
        self._count += len(labels)
        if len(self._kept) == _BATCHES_KEPT:
            self._flush()

    def read(self) -> Scores:
        """The means so far; the only point where the host waits for the device."""
        self._flush()
        if self._sums is None:
            raise ValueError("no batch has been counted")
        loss, top1, top5 = self._sums.tolist()
        return Scores(loss / self._count, top1 / self._count, top5 / self._count)

    def state_dict(self) -> dict[str, Any]:
        """The whole state, as tensors and numbers. Pending batches are stored separately, because sums of
        floats depend on their order.
        """
        return {"kept": list(self._kept), "sums": self._sums, "count": self._count}

    def load_state_dict(self, state: Mapping[str, Any], device: torch.device) -> None:
        """Restore what `state_dict` returned."""
        self._kept = [(logits.to(device), labels.to(device)) for logits, labels in state["kept"]]
        self._sums = None if state["sums"] is None else state["sums"].to(device)
        self._count = state["count"]

    def _flush(self) -> None:
        if not self._kept:
            return
        logits = torch.cat([logits for logits, _ in self._kept]).float()
        labels = torch.cat([labels for _, labels in self._kept])
        self._kept.clear()
        sums = score_sums(logits, labels, self._criterion)
        self._sums = sums if self._sums is None else self._sums + sums


def score_sums(logits: Tensor, labels: Tensor, criterion: Loss = cross_entropy) -> Tensor:
    """Sums over a batch of the loss, top-1 hits and top-5 hits: a tensor of shape (3,).

    It is float64 on all devices that support it.

    Args:
        logits: shape (n, classes).
        labels: int64, shape (n,); or numbers, float32, for which there are no hits.
        criterion: the loss.
    """
    wide = torch.float32 if logits.device.type == "mps" else torch.float64
    if criterion is cross_entropy:
        losses = functional.cross_entropy(logits, labels, reduction="none")
    else:
        losses = criterion(logits, labels) * len(labels)
    if labels.is_floating_point():
        no_share = torch.full((), torch.nan, dtype=wide, device=logits.device)
        return torch.stack([losses.sum(dtype=wide), no_share, no_share])
    rank, finite = _rank_of_label(logits, labels)
    top = min(_TOP, logits.shape[1])
    return torch.stack(
        [
            losses.sum(dtype=wide),
            ((rank < 1) & finite).sum(dtype=wide),
            ((rank < top) & finite).sum(dtype=wide),
        ]
    )


def _rank_of_label(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """How many classes rank before the correct one, and whether all logits of the image are finite."""
    right = logits.gather(1, labels.unsqueeze(1))
    earlier = torch.arange(logits.shape[1], device=logits.device) < labels.unsqueeze(1)
    before = (logits > right) | ((logits == right) & earlier)
    return before.sum(1), torch.isfinite(logits).all(1)


def teleported_norms(network: nn.Module, scales: Mapping[str, Tensor]) -> Tensor:
    """Norms of the teleported gradient and the teleported weights: shape (2,), on the network's device.

    Args:
        network: holds the plain weights `θ` and, in `.grad`, the plain gradient `g`.
        scales: `s` of each parameter that is scaled, broadcastable to it; it is 1 for the others.
    """
    gradients: list[Tensor] = []
    weights: list[Tensor] = []
    for name, parameter in network.named_parameters():
        scale = scales.get(name, _ONE)
        weights.append(torch.linalg.vector_norm(parameter.detach() * scale))
        if parameter.grad is not None:
            gradients.append(torch.linalg.vector_norm(parameter.grad / scale))
    return torch.stack([torch.linalg.vector_norm(torch.stack(norms)) for norms in (gradients, weights)])
