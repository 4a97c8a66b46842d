"""Run a network on weights other than its parameters, for one call and whatever that call recomputes.

Each slot (a module and the name of one of its parameters) is filled once, however many names the module has
in the network. Activation checkpointing and reversible layers run parts of ``forward`` again inside the
backward pass, when the parameters are back in their slots; so the parameters of a module whose weights were
replaced read as the replacements while a backward pass runs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils._python_dispatch import _disable_current_modes

from nteleport.errors import TeleportationError

Replace = Callable[[Tensor], Tensor]
"""Returns the weight to use in place of a parameter, or the parameter itself where none replaces it."""


@contextmanager
def replaced(network: nn.Module, weights: Mapping[int, Tensor]) -> Iterator[None]:
    """Fill the slots of parameters with ``weights``, by the ``id`` of the parameter, during the block."""
    slots: list[tuple[dict[str, Any], str, Any]] = []
    for module in network.modules():
        for name, parameter in module._parameters.items():
            if id(parameter) in weights:
                slots.append((module._parameters, name, parameter))
        flat = module.__dict__.get("_flat_weights")  # recurrent networks keep their own list
        if isinstance(flat, list):
            slots.append((module.__dict__, "_flat_weights", flat))
    try:
        for holder, name, value in slots:
            if isinstance(value, list):
                holder[name] = [weights.get(id(weight), weight) for weight in value]
            else:
                holder[name] = weights[id(value)]
        yield
    finally:
        for holder, name, value in slots:
            holder[name] = value


def read_as_replaced_in_backward(network: nn.Module, replace: Replace) -> None:
    """Let parameters of ``network`` read as their replacements while a backward pass runs."""
    for module in network.modules():
        if module._parameters and not isinstance(module._parameters, _Parameters):
            module._parameters = _Parameters(module._parameters, replace)
            if "_flat_weights" in module.__dict__:
                module.register_forward_pre_hook(_refuse_in_backward)
        elif isinstance(module._parameters, _Parameters):
            module._parameters.replace = replace


class _Parameters(dict[str, Any]):
    """The parameters of one module, which read as their replacements while a backward pass runs."""

    def __init__(self, parameters: Mapping[str, Any], replace: Replace) -> None:
        super().__init__(parameters)
        self.replace = replace

    def __getitem__(self, name: str) -> Any:
        value = super().__getitem__(name)
        return self._replaced(value) if _in_backward() else value

    def items(self) -> Any:
        # A recomputed forward pass needs gradients; hooks that inspect the parameters do not.
        if not (_in_backward() and torch.is_grad_enabled()):
            return super().items()
        return {name: self._replaced(value) for name, value in super().items()}.items()

    def values(self) -> Any:
        return dict(self.items()).values()

    def _replaced(self, value: Tensor | None) -> Tensor | None:
        # Hidden from checkpointing, which counts saved tensors and the operators that run.
        with saved_tensors_hooks(_as_it_is, _as_it_is), _disable_current_modes():
            return None if value is None else self.replace(value)

    def __reduce__(self) -> tuple[Any, ...]:  # a copy of the module is a plain module
        return dict, (self.copy(),)


def _as_it_is(tensor: Tensor) -> Tensor:
    return tensor


def _in_backward() -> bool:
    # Dynamo (torch.compile, torch.cond) traces forward passes, and cannot trace this check.
    return not torch.compiler.is_compiling() and torch._C._current_graph_task_id() != -1


def _refuse_in_backward(module: nn.Module, _args: object) -> None:
    if _in_backward():
        raise TeleportationError(
            f"{type(module).__name__} runs again in the backward pass (activation checkpointing), where "
            "TeleportableModel cannot give it its weights; train with TeleportedOptimizer instead"
        )
