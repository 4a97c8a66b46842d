"""The squared path norm of a network, and its slopes in the squares of the weights.

It is ``φ``, the sum of the outputs in evaluation mode of the network with every weight squared, on an input
of ones: for a network of linear layers and ReLU the sum over paths of the product of squared weights.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from nteleport.core.plain_weights import replaced
from nteleport.core.preserving import keeping_modes
from nteleport.core.task import Task
from nteleport.errors import TeleportationError


def path_slopes(task: Task) -> dict[str, Tensor]:
    """``G = ∂φ / ∂(θ²)`` by name, of the parameters that the CoB reaches: one backward pass.

    Raises:
        TeleportationError: entries that are not positive or free up to eps only, or a ``G`` that is negative
            (running means, attention) or not finite.
    """
    _require_positive(task)
    task.require_batches(labels=False)
    squares = {name: weight.square() for name, weight in task.parameters.items()}
    reached = [squares[name].requires_grad_() for name in task.reached]
    slots = {id(p): squares[name] for name, p in task.network.named_parameters()}
    with keeping_modes(task.network), replaced(task.network, slots):
        task.network.eval()
        outputs = task.outputs(tree_map(_ones_of_one_sample, task.batches[0][0]))
    total = sum(leaf.sum() for leaf in tree_leaves(outputs) if isinstance(leaf, Tensor))
    if not isinstance(total, Tensor) or not total.requires_grad:
        raise TeleportationError("path_conditioning needs outputs that depend on parameters of the quiver")
    found = torch.autograd.grad(total, reached, allow_unused=True)
    slopes: dict[str, Tensor] = {}
    for name, square, slope in zip(task.reached, reached, found, strict=True):
        slopes[name] = torch.zeros_like(square) if slope is None else slope
        refused = ~(slopes[name] >= 0) | slopes[name].isinf()
        if bool(refused.any()):
            raise TeleportationError(
                f"path_conditioning is not defined for this network: the derivative of its squared path norm "
                f"in the square of a weight of {name} is {slopes[name][refused][0].item():.3g}, expected at "
                "least 0"
            )
    return slopes


def _ones_of_one_sample(value: Any) -> Any:
    if isinstance(value, Tensor) and value.is_floating_point():
        return torch.ones_like(value[:1] if value.dim() else value)
    return value[:1] if isinstance(value, Tensor) and value.dim() else value


def _require_positive(task: Task) -> None:
    """Raise ``TeleportationError`` where path conditioning is not defined, naming the entries."""
    quiver = task.quiver
    if quiver.activations == "conjugated" and quiver.cob_size:
        raise TeleportationError(
            f"path_conditioning needs entries that are positive; with activations conjugated, entries 0 to "
            f"{quiver.cob_size - 1} may be negative: expected a quiver with activations kept"
        )
    if quiver.norms == "up_to_eps":
        raise TeleportationError(
            "path_conditioning is not defined where inputs of normalizations move, since paths through these "
            "do not: expected a quiver with norms='exact'"
        )
    refused = ~task.scalable
    if not bool(refused.any()):
        return
    found = []
    for layer in quiver.layers:
        count = int(refused[layer.start : layer.start + layer.size].sum())
        if count:
            found.append(f"{count} of layer {layer.name}")
    first = int(refused.nonzero()[0])
    raise TeleportationError(
        f"path_conditioning needs entries that are positive; {', '.join(found)} are 1 or -1, the first is "
        f"entry {first}"
    )
