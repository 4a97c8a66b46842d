"""Quivers with activations kept, of networks where they follow from the paper's."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor, nn

from nteleport import Quiver, analyze


def relu_quiver(network: nn.Module, x: Tensor) -> Quiver:
    """The quiver of linear layers, convolutions and ReLU alone: ``τ relu(x / τ)`` is ``relu(x)`` for each
    positive ``τ``."""
    quiver = analyze(network, x)
    return replace(quiver, activations="kept", admits=("positive",) * quiver.cob_size)
