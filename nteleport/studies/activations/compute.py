"""Activations before and after a teleportation.

The teleported network is really run: materialized, with its weights moved and its activations conjugated. Its
graph is run once at a change of basis of ones and once at the drawn one, and the outputs of all linear layers
and convolutions are recorded. A neuron's activations are multiplied by its entry, so the ratio of the two is
the change of basis, as the network itself shows it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn
from torch.fx import Interpreter, Node

from nteleport.core.calls import operator_name
from nteleport.core.materialization import materialize
from nteleport.core.model import TeleportableModel
from nteleport.randomness import generator_for
from nteleport.studies.activations import ActivationsSettings
from nteleport.studies.points import first_images
from nteleport.studies.study import Progress, no_progress
from nteleport.studies.subject import Subject, draw_cob, subjects

_LAYERS = ("linear", "conv1d", "conv2d", "conv3d", "addmm", "convolution")


def neuron_activations(
    settings: ActivationsSettings, *, progress: Progress = no_progress
) -> dict[str, pd.DataFrame]:
    """Activations of every neuron before and after a teleportation, in evaluation mode.

    Returns:
        ``activations``: a row per neuron, ``model, dataset, layer, neuron, mean_before, std_before,
        mean_after, std_after, ratio``; over images and positions. The ratio is the neuron's entry of the CoB.
        ``activations-maps``: a row per pixel of the first feature maps of each convolution for one image,
        ``model, dataset, layer, neuron, row, column, before, after``.

    Raises:
        NTeleportError: invalid settings, or a network that cannot be traced.
    """
    neurons: list[dict[str, Any]] = []
    pixels: list[pd.DataFrame] = []
    found = list(subjects(settings))
    for done, subject in enumerate(found, start=1):
        origin = {"model": subject.model.label, "dataset": subject.dataset}
        for layer, before, after in _layers(subject, settings):
            neurons += [{**origin, "layer": layer, **row} for row in _statistics(before, after)]
            if before.dim() == 4:
                pixels += [
                    _map(origin, layer, before, after, n) for n in range(min(settings.maps, before.shape[1]))
                ]
        progress(done, len(found))
    maps = pd.concat(pixels, ignore_index=True) if pixels else pd.DataFrame(columns=_MAP_COLUMNS)
    return {"activations": pd.DataFrame(neurons), "activations-maps": maps}


_MAP_COLUMNS = ["model", "dataset", "layer", "neuron", "row", "column", "before", "after"]


def _layers(subject: Subject, settings: ActivationsSettings) -> Iterator[tuple[str, Tensor, Tensor]]:
    """For each linear layer and convolution its name, and its outputs before and after."""
    split = first_images(subject.data.test, settings.images)
    network = subject.network.double().eval() if subject.device.type != "mps" else subject.network.eval()
    images = split.normalized(split.images).to(next(network.parameters()).dtype)
    model = TeleportableModel(network, images, quiver=subject.quiver)
    recorded = [_recorded(materialize(model), images)]
    generator = generator_for("study", settings.seed, "activations")
    model.teleport(draw_cob(subject, settings.cob_range, settings.cob_sampling, generator))
    recorded.append(_recorded(materialize(model), images))
    for name, before in recorded[0].items():
        yield name, before, recorded[1][name]


def _recorded(graph: nn.Module, images: Tensor) -> dict[str, Tensor]:
    recorder = _Recorder(graph)
    with torch.no_grad():
        recorder.run(images)
    return recorder.outputs


class _Recorder(Interpreter):
    """Runs a graph and keeps what its layers put out, by the name of the layer in the network."""

    def __init__(self, graph: Any) -> None:
        super().__init__(graph)
        self.outputs: dict[str, Tensor] = {}

    def run_node(self, n: Node) -> Any:
        value = super().run_node(n)
        if n.op == "call_function" and operator_name(n) in _LAYERS and isinstance(value, Tensor):
            self.outputs[_layer_of(n, self.outputs)] = value.detach()
        return value


def _layer_of(node: Node, taken: Iterable[str]) -> str:
    """The path of the module that an operator comes from, or the operator's name in the graph."""
    stack = node.meta.get("nn_module_stack") or {}
    path = next(reversed(stack.values()))[0].removeprefix("L['self'].") if stack else ""
    return path if path and path not in set(taken) else node.name


def _statistics(before: Tensor, after: Tensor) -> Iterator[dict[str, float]]:
    """Mean and standard deviation of each neuron, and by what its activations were multiplied."""
    axis = 1 if before.dim() in (2, 4) else before.dim() - 1
    first, second = (each.transpose(0, axis).flatten(1) for each in (before, after))
    products, squares = (first * second).sum(1), first.square().sum(1)
    columns = {
        "mean_before": first.mean(1),
        "std_before": first.std(1, correction=0),
        "mean_after": second.mean(1),
        "std_after": second.std(1, correction=0),
        "ratio": products / squares,
    }
    lists = {name: values.tolist() for name, values in columns.items()}
    for neuron in range(len(first)):
        yield {"neuron": neuron, **{name: values[neuron] for name, values in lists.items()}}


def _map(origin: dict[str, str], layer: str, before: Tensor, after: Tensor, neuron: int) -> pd.DataFrame:
    height, width = before.shape[2:]
    rows = torch.arange(height).repeat_interleave(width)
    return pd.DataFrame(
        {
            **origin,
            "layer": layer,
            "neuron": neuron,
            "row": rows.numpy(),
            "column": torch.arange(width).repeat(height).numpy(),
            "before": before[0, neuron].flatten().cpu().numpy(),
            "after": after[0, neuron].flatten().cpu().numpy(),
        }
    )
