"""A network as a user names it: by a known name, a reference, or as a class in a Python file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nteleport.errors import ModelError, nearest
from nteleport.networks.models import build_model
from nteleport.plugins import Plugin, one_line, run_file


def chosen_network(
    model: str, arguments: Mapping[str, Any], *, input_shape: tuple[int, ...], num_classes: int
) -> nn.Module:
    """Make a network, with random weights.

    Args:
        model: a name or reference for ``build_model``, or ``FILE.py:CLASS``. The file is run, and the class
            (or function) called with ``arguments`` alone.
        arguments: of the model. ``num_classes`` among them goes before that of the data set.
        input_shape: of one input, without the batch: for torchvision (channels, height, width).
        num_classes: of the data set.

    Raises:
        UnknownNameError: no model has this name.
        PluginError: a file that cannot be run.
        ModelError: a class that the file does not have, arguments that the model does not take, or inputs of
            a shape that it cannot take.
    """
    file, _, name = model.rpartition(":")
    if file.endswith(".py"):
        return _from_file(Path(file), name, arguments)
    if model.endswith(".py"):
        raise ModelError(f"model {model!r}: expected the class after a colon, as in {model}:MyNetwork")
    settings = {"num_classes": num_classes, **arguments}
    try:
        return build_model(model, input_shape=input_shape, **settings)
    except (TypeError, RuntimeError) as error:  # values of another kind, or more weights than memory
        raise ModelError(f"model {model!r} cannot be made: {one_line(error)}") from error


def random_inputs(shape: Sequence[int], generator: torch.Generator) -> Tensor:
    """Two normal inputs of ``shape``, float32: ``(2, *shape)``.

    Raises:
        ModelError: they need more memory than there is.
    """
    try:
        return torch.randn(2, *shape, generator=generator)
    except RuntimeError as error:
        raise ModelError(f"inputs of {'x'.join(map(str, shape))} need more memory than there is") from error


def _from_file(path: Path, name: str, arguments: Mapping[str, Any]) -> nn.Module:
    module = run_file(Plugin.read(path, f"_network_{path.stem}"))
    make = module.get(name)
    if not callable(make):
        classes = [key for key, value in module.items() if isinstance(value, type)]
        raise ModelError(f"{path} has no class {name!r}{nearest(name, classes)}")
    try:
        network = make(**arguments)
    except Exception as error:
        raise ModelError(f"{path}:{name} cannot be made with {dict(arguments)}: {one_line(error)}") from error
    if not isinstance(network, nn.Module):
        raise ModelError(f"{path}:{name} makes a {type(network).__name__}, expected a torch.nn.Module")
    return network
