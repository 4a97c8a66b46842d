"""A network as a user names it: by a known name, or as a class in a Python file of the user's."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nteleport.errors import ModelError, nearest
from nteleport.networks.models import build_model


def chosen_network(
    model: str, arguments: Mapping[str, Any], *, input_shape: tuple[int, ...], num_classes: int
) -> nn.Module:
    """Make a network, with random weights.

    Args:
        model: a name for ``build_model``, or ``FILE.py:CLASS``. The file is run, and the class (or function)
            called with ``arguments`` alone.
        arguments: of the model. ``num_classes`` among them goes before that of the data set.
        input_shape: of one input, without the batch: for a model by name (channels, height, width).
        num_classes: of the data set.

    Raises:
        UnknownNameError: no model has this name.
        ModelError: a file that cannot be run, a class that it does not have, arguments that the model does
            not take, or inputs of a shape that it cannot take.
    """
    file, _, name = model.rpartition(":")
    if file.endswith(".py"):
        return _from_file(Path(file), name, arguments)
    if model.endswith(".py"):
        raise ModelError(f"model {model!r}: expected the class after a colon, as in {model}:MyNetwork")
    if len(input_shape) != 3:
        raise ModelError(f"model {model!r} takes images of channels, height, width; got {input_shape}")
    channels, height, width = input_shape
    settings = {"num_classes": num_classes, **arguments}
    try:
        return build_model(model, input_shape=(channels, height, width), **settings)
    except (TypeError, RuntimeError) as error:  # values of another kind, or more weights than memory
        raise ModelError(f"model {model!r} cannot be made: {_line(error)}") from error


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
    module = _run(path)
    make = module.get(name)
    if not callable(make):
        classes = [key for key, value in module.items() if isinstance(value, type)]
        raise ModelError(f"{path} has no class {name!r}{nearest(name, classes)}")
    try:
        network = make(**arguments)
    except Exception as error:
        raise ModelError(f"{path}:{name} cannot be made with {dict(arguments)}: {_line(error)}") from error
    if not isinstance(network, nn.Module):
        raise ModelError(f"{path}:{name} makes a {type(network).__name__}, expected a torch.nn.Module")
    return network


def _run(path: Path) -> Mapping[str, Any]:
    """The names that a file defines. As for ``python FILE.py``, it can import what lies beside it."""
    spec = importlib.util.spec_from_file_location(f"_network_{path.stem}", path)
    if spec is None or spec.loader is None or not path.is_file():
        raise ModelError(f"{path}: no such file, expected one with the class of a network")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses, pickle and inspect look for it
    sys.path.insert(0, str(path.parent.resolve()))
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        raise ModelError(f"{path} cannot be run: {_line(error)}") from error
    finally:
        sys.path.pop(0)
    return vars(module)


def _line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
