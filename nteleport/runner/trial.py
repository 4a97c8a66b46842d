"""A trial of the user's code before a run: two inputs through a network, its outputs through the losses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from nteleport.core.preserving import keeping_random_states
from nteleport.data.catalog import DataSource
from nteleport.data.loaded import described, load_source
from nteleport.errors import ModelError, NTeleportError, PluginError
from nteleport.jobs.job import Component
from nteleport.networks.models import build_model
from nteleport.plugins import is_reference, located, one_line
from nteleport.training.losses import check_loss, check_outputs
from nteleport.vocabulary import Preprocessing


@dataclass(frozen=True)
class Trial:
    """What went wrong: with the network, or with losses by name."""

    of_network: str = ""
    of_losses: Mapping[str, str] = field(default_factory=dict)


def trial(
    model: Component, dataset: str | DataSource, preprocessing: Preprocessing, losses: Sequence[str]
) -> Trial:
    """Make a network and run it on two inputs, in evaluation and in training mode, then its losses.

    The inputs are the first of a data set of the user's, or random ones in the shape of one of the catalog,
    which need not be on this machine. Random states stay as they were.
    """
    info = described(dataset, preprocessing)
    with keeping_random_states(torch.device("cpu")):
        inputs, targets = _examples(dataset, info.input_shape)
        try:
            network = build_model(
                model.cls, input_shape=info.input_shape, num_classes=info.num_classes, **model.kwargs
            )
            outputs = _outputs(network, inputs, model.cls, str(dataset))
            checked = check_outputs(outputs, targets, info.num_classes, f"model {model.cls} on {dataset}")
        except PluginError:
            raise
        except NTeleportError as error:
            return Trial(str(error))
        found = {loss: _complaint(loss, checked, targets, str(dataset)) for loss in losses}
    return Trial(of_losses={loss: message for loss, message in found.items() if message})


def _examples(dataset: str | DataSource, shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    if isinstance(dataset, DataSource):
        train = load_source(dataset).train
        rows = torch.arange(2) % len(train)
        return train.normalized(train.images[rows]), train.labels[rows]
    return torch.randn(2, *shape), torch.zeros(2, dtype=torch.int64)


def _outputs(network: nn.Module, inputs: Tensor, name: str, dataset: str) -> object:
    """The outputs in evaluation mode, once it also runs in training mode.

    Raises:
        ModelError: it does not run.
    """
    try:
        with torch.no_grad():
            network.train()(inputs)
            return network.eval()(inputs)
    except (Exception, SystemExit) as error:  # whatever the user's code raises
        kind = "tokens" if not inputs.is_floating_point() else "inputs"
        shape = list(inputs.shape)
        reason = located(name, error) if is_reference(name) else one_line(error)
        raise ModelError(f"model {name} fails on {kind} {shape} of {dataset}: {reason}") from error


def _complaint(loss: str, outputs: Tensor, targets: Tensor, dataset: str) -> str:
    try:
        check_loss(loss, outputs, targets)
    except NTeleportError as error:
        return str(error)
    except (Exception, SystemExit) as error:  # whatever the user's code raises
        reason = located(loss, error) if is_reference(loss) else one_line(error)
        shapes = f"outputs {list(outputs.shape)} and targets {list(targets.shape)}"
        return f"{loss} fails on {shapes} of {dataset}: {reason}"
    return ""
