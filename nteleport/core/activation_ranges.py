"""The largest absolute output of every neuron, as the modules of a network put it out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd

from nteleport.core.sides import Side, side_of
from nteleport.core.task import Task
from nteleport.errors import TeleportationError


def activation_ranges(task: Task) -> Tensor:
    """The largest absolute output of each neuron on the batches, in the present mode of the network.

    Outputs of linear layers, convolutions, embeddings and normalizations are seen, before the activation
    function: the numbers that have to be held. Neurons of anything else have 0.

    Returns:
        Shape ``(cob_size,)``, like ``Task.start``.

    Raises:
        TeleportationError: no neuron is seen at all.
    """
    found = torch.cat([task.start().new_zeros(1), task.start()])
    hooks = [
        module.register_forward_hook(partial(_note, found, axis, side))
        for module, axis, side in _observable(task)
    ]
    if task.quiver.cob_size and not hooks:
        raise TeleportationError(
            "activation_range sees the outputs of linear layers, convolutions, embeddings and normalizations "
            "that are modules, and this network has none that the change of basis scales"
        )
    try:
        torch.manual_seed(task.seed)
        with torch.no_grad():
            for inputs, _ in task.batches:
                task.outputs(inputs)
    finally:
        for hook in hooks:
            hook.remove()
    return found[1:]


def _observable(task: Task) -> Iterator[tuple[nn.Module, Callable[[Tensor], int], Side]]:
    """Modules whose outputs are scaled neurons: with the axis of these neurons, and which they are."""
    names = {id(p): name for name, p in task.network.named_parameters()}
    for module in task.network.modules():
        axis = _neuron_axis(module)
        weight = module._parameters.get("weight")
        if axis is None or weight is None or names[id(weight)] not in task.quiver.parameters:
            continue
        for factor in task.quiver.parameters[names[id(weight)]].factors:
            side = side_of(factor, weight.dim()) if factor.power == 1 else None
            if side is not None:
                yield module, axis, side


def _neuron_axis(module: nn.Module) -> Callable[[Tensor], int] | None:
    match module:
        case nn.Linear() | nn.Bilinear() | nn.Embedding() | nn.LayerNorm():
            return lambda output: output.dim() - 1
        case _ConvNd():
            spatial = len(module.kernel_size)
            return lambda output: output.dim() - spatial - 1
        case _NormBase() | nn.GroupNorm():
            return lambda output: 1
    return None


def _note(
    found: Tensor, axis: Callable[[Tensor], int], side: Side, _module: nn.Module, _inputs: Any, output: Any
) -> None:
    """Raise the ranges to those of one output."""
    if not isinstance(output, Tensor) or not output.numel():
        return
    sizes = output.detach().abs().movedim(axis(output), 0).flatten(1).amax(1).to(found)
    labels = side.labels.repeat_interleave(side.repeats).to(found.device)
    if len(labels) == len(sizes):
        found.scatter_reduce_(0, labels, sizes, "amax")
