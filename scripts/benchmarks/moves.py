"""Moving: what it costs to analyze a network, to teleport it, and to choose where to."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from itertools import cycle

import torch
from torch import Tensor, nn

from nteleport import Quiver, TeleportableModel, TeleportedOptimizer, analyze, choose_cob, teleport_
from nteleport.jobs.job import Teleportation
from nteleport.training.learner import Learner
from nteleport.training.modes import teleport

from .networks import (
    BATCH_SIZES,
    COB_RANGE,
    INPUT_SHAPE,
    OPTIMIZERS,
    SAMPLING,
    Batch,
    make_network,
    random_batch,
    random_cob,
    teleported,
)
from .timing import Figure, Setting, compare, take_turns

OPTIM = Teleportation(mode="optim", cob_range=COB_RANGE, cob_sampling=SAMPLING, num_teleportations=10)


def teleporting(setting: Setting) -> Iterator[Figure]:
    """`teleport()` of VGG-16-BN against two copies of its weights."""
    network = make_network("vgg16_bn", setting.device)
    model = TeleportableModel(network, torch.zeros(2, *INPUT_SHAPE, device=setting.device))
    cobs = cycle([random_cob(model.quiver, seed) for seed in (1, 2)])
    weights = [parameter.detach() for parameter in network.parameters()]
    millions = sum(weight.numel() for weight in weights) / 1e6

    def copies() -> object:
        return [weight.clone() for weight in weights], [weight.clone() for weight in weights]

    ours, theirs = take_turns([lambda: model.teleport(next(cobs)), copies], setting, 4.0)
    what = f"TeleportableModel.teleport: vgg16_bn, {millions:.0f} M"
    yield compare("teleport", what, "two copies of the weights", ours, theirs, target=2.5)
    optimizer = TeleportedOptimizer(network, model.quiver, *_sgd())
    ours, theirs = take_turns([lambda: optimizer.teleport(next(cobs)), copies], setting, 2.0)
    what = f"TeleportedOptimizer.teleport, SGD: vgg16_bn, {millions:.0f} M"
    yield compare("teleport", what, "two copies of the weights", ours, theirs, target=2.5)


def _sgd() -> tuple[type[torch.optim.Optimizer]]:
    return (OPTIMIZERS["SGD momentum"][0],)


def in_place(setting: Setting) -> Iterator[Figure]:
    """`teleport_` with its certificate and a given quiver, against the two forward passes that it makes."""
    for name in ("mlp", "resnet18", "vgg11_bn"):
        network, size = make_network(name, setting.device), BATCH_SIZES[name]
        images = random_batch(setting, size).images
        quiver = analyze(network, images[:2], activations="kept").to(setting.device)
        ours, theirs = take_turns(
            [
                partial(_moved_and_back, network, images, quiver, cycle((1.0, -1.0))),
                partial(_two_forward_passes, network, images),
            ],
            setting,
            4.0,
        )
        what = f"teleport_ with certificate: {name}, batch {size}"
        yield compare("in_place", what, "its two forward passes", ours, theirs, target=2.0)


def _moved_and_back(network: nn.Module, images: Tensor, quiver: Quiver, powers: Iterator[float]) -> object:
    """One teleportation, every other one back, so that the weights keep their size."""
    cob = random_cob(quiver).abs().pow(next(powers))
    return teleport_(network, images, quiver=quiver, cob=cob)


def _two_forward_passes(network: nn.Module, images: Tensor) -> object:
    with torch.no_grad():
        return network(images), network(images)


def analyzing(setting: Setting) -> Iterator[Figure]:
    """`analyze` of DenseNet-121 against `torch.export` of it alone; of networks whose activations are kept
    against the paper's."""
    network = make_network("densenet121", setting.device)
    inputs = (torch.zeros(2, *INPUT_SHAPE, device=setting.device),)
    export = partial(torch.export.export, network, inputs, strict=False)
    actions = [partial(analyze, network, inputs), export]
    ours, theirs = take_turns(actions, setting, 8.0, at_least=4, warm_up=1)
    yield compare("analysis", "analysis: densenet121", "torch.export alone", ours, theirs, target=1.3)
    for name in ("densenet121", "vgg16_bn"):
        network = make_network(name, setting.device)
        actions = [partial(analyze, network, inputs, activations=kind) for kind in ("kept", "conjugated")]
        ours, theirs = take_turns(actions, setting, 8.0, at_least=4, warm_up=1)
        yield compare("analysis", f"activations kept: {name}", "conjugated", ours, theirs, target=1.3)


def choosing(setting: Setting) -> Iterator[Figure]:
    """The mode `optim` with 10 candidates, drawn, scored and the best one moved to, against a forward and
    backward pass on the same batch.
    """
    for name, size in BATCH_SIZES.items():
        network = make_network(name, setting.device)
        learner = Learner(network, teleported(network, "SGD momentum"), network)
        batch = random_batch(setting, size)
        generator = torch.Generator().manual_seed(3)
        optim = partial(teleport, learner, OPTIM, "reset", generator, lambda count, b=batch: [b] * count)
        actions = [optim, partial(learner.backward, *batch)]
        ours, theirs = take_turns(actions, setting, 4.0)
        what = f"optim, 10 candidates: {name}"
        yield compare("optim", what, "one backward pass", ours, theirs, target=2.0)


def choosing_by_gradient(setting: Setting) -> Iterator[Figure]:
    """`choose_cob` by the gradient norm, at most 50 steps, against three forward and backward passes on the
    same batch.
    """
    for name in ("mlp", "vgg11_bn", "resnet18"):
        network = make_network(name, setting.device)
        learner = Learner(network, teleported(network, "SGD momentum"), network)
        batch = random_batch(setting, BATCH_SIZES[name])
        choose = partial(
            choose_cob, learner.optimizer.quiver, network, "grad_norm", batches=[batch], steps=50
        )

        def passes(learner: Learner = learner, batch: Batch = batch) -> None:
            for _ in range(3):
                learner.backward(*batch)

        ours, theirs = take_turns([choose, passes], setting, 6.0)
        what = f"choose_cob, grad_norm, 50 steps: {name}"
        yield compare("choose", what, "three backward passes", ours, theirs, target=1.0)
