"""What an objective is measured on: a network, its quiver, and batches; and the passes that measure it.

Nothing is left changed: gradients, buffers, modes and random states are as before. All passes of one task see
the same dropout masks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils._pytree import tree_map

from nteleport.core.plain_weights import replaced
from nteleport.core.preserving import keeping_buffers, keeping_modes, keeping_random_states
from nteleport.core.quiver import Quiver, cob_dtype
from nteleport.core.tracing import as_call
from nteleport.errors import TeleportationError
from nteleport.randomness import wide_dtype

Batch = tuple[Any, Any]
"""Inputs of the network (a tensor, a tuple of positional or a mapping of keyword arguments), and labels."""


@dataclass(frozen=True, eq=False)
class Task:
    """A network at the CoB of ones, and the data to measure it on.

    Attributes:
        batches: on the device of the network.
        seed: of the random numbers of every pass.
        objective: its name, for messages.
        criterion: the loss, from outputs and labels to their mean.
    """

    quiver: Quiver
    network: nn.Module
    batches: Sequence[Batch]
    seed: int
    objective: str
    criterion: Callable[[Tensor, Tensor], Tensor] = cross_entropy

    @cached_property
    def parameters(self) -> dict[str, Tensor]:
        """The parameters by name, detached."""
        return {name: p.detach() for name, p in self.network.named_parameters()}

    @cached_property
    def trained(self) -> dict[str, nn.Parameter]:
        """The parameters that take gradients, by name."""
        return {name: p for name, p in self.network.named_parameters() if p.requires_grad}

    @property
    def device(self) -> torch.device:
        """The device of the parameters."""
        return next(iter(self.parameters.values())).device if self.parameters else torch.device("cpu")

    @cached_property
    def scalable(self) -> Tensor:
        """Mask of the entries of the CoB that admit more than a sign."""
        admitted = [word != "sign" for word in self.quiver.admits]
        return torch.tensor(admitted, dtype=torch.bool, device=self.device)

    @cached_property
    def reached(self) -> list[str]:
        """The names of the parameters that the CoB scales."""
        known = self.quiver.parameters
        return [name for name in self.parameters if name in known and known[name].factors]

    def start(self) -> Tensor:
        """The logarithms of a CoB of ones."""
        return torch.zeros(self.quiver.cob_size, dtype=wide_dtype(self.device), device=self.device)

    def cob(self, logarithm: Tensor) -> Tensor:
        """A positive CoB from ``log|τ|``, in the dtype of changes of basis of this network."""
        return logarithm.exp().to(cob_dtype(self.parameters.values()))

    def loss(self, weights: Mapping[str, Tensor] | None = None) -> Tensor:
        """The mean over batches of the mean loss, at other weights if these are given."""
        self.require_batches(labels=True)
        named = dict(self.network.named_parameters())
        slots = {id(named[name]): weight for name, weight in (weights or {}).items()}
        torch.manual_seed(self.seed)
        with replaced(self.network, slots):
            losses = [
                self.criterion(_logits(self.outputs(inputs)), labels) for inputs, labels in self.batches
            ]
        return torch.stack(losses).mean()

    def gradients(self) -> dict[str, Tensor]:
        """The gradient of the loss by name, zeros where the loss does not depend on a parameter that takes
        gradients: one backward pass."""
        return self.gradients_of(self.loss())

    def gradients_of(self, loss: Tensor, *, create_graph: bool = False) -> dict[str, Tensor]:
        """The gradient of a loss in the trained parameters, by name."""
        if not self.trained:
            raise TeleportationError(f"{self.objective} needs a network with parameters that take gradients")
        found = torch.autograd.grad(
            loss, list(self.trained.values()), allow_unused=True, create_graph=create_graph
        )
        pairs = zip(self.trained.items(), found, strict=True)
        return {name: torch.zeros_like(p) if g is None else _dense(g) for (name, p), g in pairs}

    def outputs(self, inputs: Any) -> Any:
        """What the network returns."""
        args, kwargs = self.call(inputs)
        return self.network(*args, **kwargs)

    @staticmethod
    def call(inputs: Any) -> tuple[tuple[object, ...], dict[str, object]]:
        """Inputs of a batch as positional and keyword arguments."""
        return as_call(inputs if isinstance(inputs, (tuple, Mapping)) else (inputs,))

    @contextmanager
    def preserved(self) -> Iterator[None]:
        """Run the network in the block without a trace; passes and their backward passes belong inside."""
        with (
            keeping_random_states(self.device),
            keeping_modes(self.network),
            keeping_buffers(self.network),
            torch.enable_grad(),
        ):
            yield

    def require_batches(self, *, labels: bool) -> None:
        """Raise ``TeleportationError`` unless there are batches, with labels if these are needed."""
        if not self.batches:
            raise TeleportationError(f"{self.objective} needs batches: pairs of inputs and labels")
        if labels and any(found is None for _, found in self.batches):
            raise TeleportationError(f"{self.objective} needs batches with labels, got None")


def _logits(outputs: Any) -> Any:
    """The logits among outputs: those of transformers are mappings with more."""
    return outputs["logits"] if isinstance(outputs, Mapping) and "logits" in outputs else outputs


def _dense(gradient: Tensor) -> Tensor:
    return gradient if gradient.layout == torch.strided else gradient.to_dense()


def batches_of(batches: object, device: torch.device) -> list[Batch]:
    """Batches as pairs on ``device``.

    Raises:
        TeleportationError: not an iterable of pairs of inputs and labels.
    """

    def moved(value: Any) -> Any:
        return value.to(device) if isinstance(value, Tensor) else value

    expected = "batches are pairs of inputs and labels"
    if batches is None:
        return []
    if isinstance(batches, (Tensor, Mapping, str)):
        raise TeleportationError(f"{expected}, got {type(batches).__name__}")
    try:
        found = list(batches)  # type: ignore[call-overload]
    except TypeError:
        raise TeleportationError(f"{expected}, got {type(batches).__name__}") from None
    for batch in found:
        if not isinstance(batch, (tuple, list)) or len(batch) != 2:
            raise TeleportationError(f"{expected}, got {type(batch).__name__}")
    return [(tree_map(moved, inputs), tree_map(moved, labels)) for inputs, labels in found]
