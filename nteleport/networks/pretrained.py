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
        with torch.random.fork_rng(devices=[]):  # torchvision's own network knows the names of old files
            network: nn.Module = models.get_model(name, weights=weights, progress=False)
    except (OSError, RuntimeError, EOFError) as error:  # offline, or a damaged file
        file = os.path.basename(weights.url)
        folder = os.path.join(torch.hub.get_dir(), "checkpoints")
        raise ModelError(
            f"pretrained weights of {name!r} cannot be had ({error}): download {weights.url} elsewhere and "
            f"put {file} into {folder}"
        ) from error
    return network.state_dict()


def load_where_shapes_fit(network: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Load weights into the layers whose tensors all have their shapes; the other layers stay as they are.

    The head of another number of classes and a first convolution fitted to other images do not fit.
    """
    own = network.state_dict()
    others = {
        name.rpartition(".")[0]
        for name, w in own.items()
        if name not in weights or weights[name].shape != w.shape
    }
    fitting = {name: weights[name] for name in own if name.rpartition(".")[0] not in others}
    network.load_state_dict({**own, **fitting})
