"""The largest absolute activation of every neuron, wherever in the network it is computed."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule
from torch.utils._pytree import tree_flatten

from nteleport.core.labeled_graph import activation_labels, runnable
from nteleport.core.network_graph import trace_functional
from nteleport.core.task import Task


def activation_ranges(task: Task) -> Tensor:
    """The largest absolute activation of each neuron on the batches, in the present mode of the network.

    Seen is every activation that an entry multiplies: outputs of layers, before and after the activation
    function, and sums of them in residual streams; computed by modules or by functions. The network is traced
    once for each shape of the batches.

    Returns:
        Shape ``(cob_size,)``, like ``Task.start``; 0 for entries that multiply no activation.

    Raises:
        AnalysisError: the network cannot be traced on these batches in its present mode.
    """
    found = torch.cat([task.start().new_zeros(1), task.start()])
    observed: dict[object, GraphModule] = {}
    for inputs, _ in task.batches:
        form = _form(inputs)
        if form not in observed:
            observed[form] = _observed(task, inputs, found)
    torch.manual_seed(task.seed)
    with torch.no_grad():
        for inputs, _ in task.batches:
            args, kwargs = task.call(inputs)
            observed[_form(inputs)](*args, **kwargs)
    return found[1:]


def _form(inputs: Any) -> object:
    """Equal for inputs that one graph can run on."""
    leaves, structure = tree_flatten(inputs)
    return str(structure), tuple((x.shape, x.dtype) if isinstance(x, Tensor) else repr(x) for x in leaves)


def _observed(task: Task, inputs: Any, found: Tensor) -> GraphModule:
    """The network with an observer after each activation that is scaled."""
    traced = trace_functional(task.network, *task.call(inputs), training=task.network.training)
    module = runnable(traced)
    labels = activation_labels(module, task.network, traced, task.quiver)
    for node, entries in labels.items():
        graph = node.graph
        owner = graph.owning_module
        assert owner is not None
        name = f"_observer_{len(owner._modules)}"
        owner.add_submodule(name, _Observer(found, entries.to(found.device)))
        with graph.inserting_after(node):
            graph.call_module(name, (node,))
    for part in module.modules():
        if isinstance(part, GraphModule):
            part.recompile()
    return module


class _Observer(nn.Module):
    """Raises ranges to those of one activation, directly after it was computed: it may be written to later.

    Args:
        found: the ranges of all entries of the extended change of basis.
        entries: labels that broadcast to the activation.
    """

    def __init__(self, found: Tensor, entries: Tensor) -> None:
        super().__init__()
        self._found, self._entries = found, entries

    def forward(self, activation: Tensor) -> None:
        """See the class."""
        if not activation.numel() or not (activation.is_floating_point() or activation.is_complex()):
            return
        axes = [axis for axis, size in enumerate(self._entries.shape) if size == 1]
        sizes = activation.detach().abs()
        sizes = (sizes.amax(axes) if axes else sizes).to(self._found)
        self._found.scatter_reduce_(0, self._entries.flatten(), sizes.flatten(), "amax")
