"""The networks that are compared, plain and teleported, on the same weights and the same batch."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from nteleport import TeleportedOptimizer, analyze, sample_cob
from nteleport.core.quiver import Quiver
from nteleport.networks.models import build_model

from .timing import Setting

INPUT_SHAPE = (3, 32, 32)
NUM_CLASSES = 10

BATCH_SIZES = {"mlp": 256, "vgg11_bn": 32, "resnet18": 32, "densenet121": 32}
"""Images a batch of each network."""

#: So small that weights stay put: a run that diverges would measure the arithmetic of infinities.
LEARNING_RATE = 1e-9

OPTIMIZERS: dict[str, tuple[type[torch.optim.Optimizer], dict[str, Any]]] = {
    "SGD momentum": (torch.optim.SGD, {"lr": LEARNING_RATE, "momentum": 0.9, "fused": True}),
    "Adam": (torch.optim.Adam, {"lr": LEARNING_RATE, "fused": True}),
}

COB_RANGE, SAMPLING = 0.9, "inter_landscape"


class Batch(NamedTuple):
    """Images and labels, on the device."""

    images: Tensor
    labels: Tensor


def random_batch(setting: Setting, size: int) -> Batch:
    """Normalized images of the shape of CIFAR-10."""
    generator = torch.Generator().manual_seed(2)
    images = torch.randn(size, *INPUT_SHAPE, generator=generator)
    labels = torch.randint(NUM_CLASSES, (size,), generator=generator)
    return Batch(images.to(setting.device), labels.to(setting.device))


def make_network(name: str, device: torch.device, **arguments: Any) -> nn.Module:
    """The network in training mode, always with the same weights."""
    torch.manual_seed(0)
    network = build_model(name, input_shape=INPUT_SHAPE, num_classes=NUM_CLASSES, **arguments)
    return network.to(device).train()


def plain(network: nn.Module, optimizer: str) -> torch.optim.Optimizer:
    """The optimizer as anybody would make it."""
    optimizer_class, hyper_parameters = OPTIMIZERS[optimizer]
    return optimizer_class(network.parameters(), **hyper_parameters)


def teleported(network: nn.Module, optimizer: str, quiver: Quiver | None = None) -> TeleportedOptimizer:
    """The optimizer at teleported weights: one teleportation, inter-landscape, range 0.9."""
    device = next(network.parameters()).device
    quiver = (quiver or analyze(network, torch.zeros(2, *INPUT_SHAPE, device=device))).to(device)
    optimizer_class, hyper_parameters = OPTIMIZERS[optimizer]
    made = TeleportedOptimizer(network, quiver, optimizer_class, **hyper_parameters)
    made.teleport(random_cob(quiver).to(device))
    return made


def random_cob(quiver: Quiver, seed: int = 1) -> Tensor:
    """A change of basis, always the same for a seed."""
    generator = torch.Generator().manual_seed(seed)
    return sample_cob(quiver.cob_size, COB_RANGE, SAMPLING, generator=generator)
