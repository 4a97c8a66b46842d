"""Reading the weights of a trained network from a file, and explaining why they do not fit."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nteleport.errors import StudyError


def load_weights(network: nn.Module, path: Path) -> None:
    """Load the plain weights written by `nteleport train --save-weights`, or a state dict.

    Raises:
        StudyError: no such file, not a state dict, of another network, or with non-finite numbers.
    """
    state = _read(path)
    problem = _mismatch(network.state_dict(), state)
    if problem:
        raise StudyError(f"{path}: {problem}; expected the weights of this model for this data set")
    network.load_state_dict(state)


def _read(path: Path) -> Mapping[str, Any]:
    """The state dict of a file, not yet checked."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise StudyError(f"{path}: no such file, expected the weights.pt of a training") from error
    except Exception as error:  # torch.load may raise anything for a damaged file
        sentences = str(error).strip().splitlines() or [type(error).__name__]
        reason = sentences[0].partition(". ")[0]
        raise StudyError(
            f"{path}: cannot be read ({reason}); expected the weights.pt of a training"
        ) from error
    if isinstance(state, Mapping) and isinstance(state.get("weights", state), Mapping):
        found: Mapping[str, Any] = state.get("weights", state)
        return found
    raise StudyError(f"{path}: holds no weights by name, expected the weights.pt of a training")


def _mismatch(expected: Mapping[str, Tensor], state: Mapping[str, Any]) -> str | None:
    """The first reason why `state` does not fit the network; None if it fits."""
    for name in state:
        if name not in expected:
            return f"{name!r} is not in the network"
    for name, tensor in expected.items():
        found = state.get(name)
        if not isinstance(found, Tensor):
            return f"has no {name!r}"
        if found.shape != tensor.shape:
            return f"{name!r} has shape {tuple(found.shape)}, not {tuple(tensor.shape)}"
        if not bool(torch.isfinite(found).all()):
            return f"{name!r} holds numbers that are not finite"
    return None
