"""ImageNet weights of torchvision's classifiers: `pretrained: true` in an experiment file."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from nteleport.errors import ModelError


def pretrained_weights(name: str) -> Mapping[str, Tensor]:
    """The weights of a torchvision classifier by name, downloaded through torchvision when they are missing.

    Raises:
        ModelError: torchvision has none, or they cannot be downloaded: then it says which file goes where.
    """
    from torchvision import models

    try:
        weights: Any = models.get_model_weights(name).DEFAULT
    except (ValueError, AttributeError) as error:
        raise ModelError(f"torchvision has no pretrained weights of {name!r}") from error
    try:
        found: Mapping[str, Tensor] = weights.get_state_dict(progress=False, check_hash=True)
    except (OSError, RuntimeError, EOFError) as error:  # offline, or a damaged file
        file = os.path.basename(weights.url)
        folder = os.path.join(torch.hub.get_dir(), "checkpoints")
        raise ModelError(
            f"pretrained weights of {name!r} cannot be had ({error}): download {weights.url} elsewhere and "
            f"put {file} into {folder}"
        ) from error
    return found


def load_where_shapes_fit(network: nn.Module, weights: Mapping[str, Tensor]) -> list[str]:
    """Load weights into the parameters and buffers that have their shapes; the others stay as they are.

    The head of another number of classes and a first convolution fitted to other images do not fit.

    Returns:
        The names of those that were left.
    """
    own = network.state_dict()
    fitting = {name: w for name, w in weights.items() if name in own and own[name].shape == w.shape}
    network.load_state_dict({**own, **fitting})
    return [name for name in own if name not in fitting]
