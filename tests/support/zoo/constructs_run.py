"""Running the networks of constructs: from the same seeds, on fresh copies of their inputs."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields, is_dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from nteleport import Quiver, analyze

from .constructs import Construct, Inputs
from .networks import CONSTRUCTS


def seed(value: int) -> None:
    torch.manual_seed(value)
    np.random.seed(value)
    random.seed(value)


def made(construct: Construct) -> tuple[nn.Module, Inputs]:
    """A network and its inputs, the same ones each time."""
    seed(0)
    return construct()


def call(function: Callable[..., Any], inputs: Inputs, start: int = 7) -> Any:
    """Outputs of a network; it draws the same random numbers each time, and may write into its inputs."""
    inputs = copy.deepcopy(inputs)
    seed(start)
    if isinstance(inputs, Mapping):
        return function(**inputs)
    if isinstance(inputs, Tensor):
        return function(inputs)
    if len(inputs) == 2 and isinstance(inputs[0], tuple) and isinstance(inputs[1], Mapping):
        return function(*inputs[0], **inputs[1])
    return function(*inputs)


def leaves(found: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """All values of nested outputs, with where they are."""
    if isinstance(found, Mapping):
        inner = [(f"[{key!r}]", value) for key, value in found.items()]
    elif isinstance(found, (list, tuple)):
        inner = [(f"[{position}]", value) for position, value in enumerate(found)]
    elif is_dataclass(found):
        inner = [(f".{field.name}", getattr(found, field.name)) for field in fields(found)]
    else:
        yield path, found
        return
    for key, value in inner:
        yield from leaves(value, path + key)


def is_inexact(value: Any) -> bool:
    return isinstance(value, Tensor) and (value.is_floating_point() or value.is_complex())


def largest(tensor: Tensor) -> float:
    return float(tensor.abs().max()) if tensor.numel() else 0.0


def assert_same(actual: Any, expected: Any, tolerance: float) -> None:
    """Outputs of the same form and types; integers equal, other numbers to ``tolerance`` of the largest."""
    for (place, a), (wanted, e) in zip(leaves(actual), leaves(expected), strict=True):
        assert place == wanted
        if is_inexact(e):
            atol = tolerance * max(1.0, largest(e))
            torch.testing.assert_close(
                a, e, rtol=tolerance, atol=atol, msg=lambda m, p=place: f"output{p}: {m}"
            )
        elif isinstance(e, Tensor):
            assert a.dtype == e.dtype
            assert torch.equal(a, e), place
        else:
            assert a == e, place


@contextmanager
def kept(network: nn.Module) -> Iterator[None]:
    """Parameters and buffers are afterwards what they were, also those that forward registers."""
    modules = [(module, dict(module._buffers)) for module in network.modules()]
    storages = [tensor.untyped_storage() for tensor in [*network.parameters(), *network.buffers()]]
    values = [storage.clone() for storage in storages]  # whatever views of them the tensors are
    try:
        yield
    finally:
        for module, held in modules:
            module._buffers.clear()
            module._buffers.update(held)
        for storage, value in zip(storages, values, strict=True):
            storage.copy_(value)


_OF_EVERY_MODULE = vars(nn.Module()).keys()


@dataclass(frozen=True)
class Trace:
    """What analysis could leave behind in a network and in the process."""

    parameters: dict[str, nn.Parameter]
    tensors: dict[str, Tensor]
    buffers: dict[str, Tensor | None]
    attributes: dict[str, Any]
    modes: list[bool]
    randomness: tuple[Any, ...]

    @classmethod
    def of(cls, network: nn.Module) -> Trace:
        named = [*network.named_parameters(remove_duplicate=False), *network.named_buffers()]
        return cls(
            dict(network.named_parameters(remove_duplicate=False)),
            {name: tensor.detach().clone() for name, tensor in named},
            {f"{path}.{n}": b for path, m in network.named_modules() for n, b in m._buffers.items()},
            {
                f"{path}.{n}{place}": leaf
                for path, module in network.named_modules()
                for n, value in vars(module).items()
                if n not in _OF_EVERY_MODULE
                for place, leaf in leaves(value)
            },
            [module.training for module in network.modules()],
            (
                torch.get_rng_state().tolist(),
                np.random.get_state()[1].tolist(),
                np.random.get_state()[2],
                random.getstate(),
            ),
        )


@dataclass(frozen=True)
class Analyzed:
    """A network that was never called, and what analyzing it gave."""

    network: nn.Module
    inputs: Inputs
    quiver: Quiver
    before: Trace
    after: Trace


@cache
def analyzed(name: str, training: bool) -> Analyzed:
    """The analysis of a construct in one mode, once per session; in its other mode where it has no trace."""
    construct = CONSTRUCTS[name]
    network, inputs = made(construct)
    before = Trace.of(network)
    mode = training if training in construct.traced else construct.traced[0]
    quiver = analyze(network, inputs, training=mode)
    return Analyzed(network, inputs, quiver, before, Trace.of(network))
