"""A training step, teleported against plain with the same optimizer, and against rescaled activations."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from nteleport import analyze

from .baselines.activation_rescaling import rescaling_network
from .baselines.plain_loop import Steps, plain_step
from .networks import BATCH_SIZES, Batch, make_network, plain, random_batch, random_cob, teleported
from .timing import Action, Figure, Setting, compare, take_turns

SECONDS = {"mlp": 8.0, "vgg11_bn": 16.0, "resnet18": 20.0, "densenet121": 14.0}

PLAIN_TARGETS = {
    "SGD momentum": {"mlp": 1.04, "vgg11_bn": 1.02, "resnet18": 1.02, "densenet121": 1.02},
    "Adam": {"mlp": 1.15, "vgg11_bn": 1.05, "resnet18": 1.05, "densenet121": 1.05},
}
RESCALING_TARGETS = {"mlp": 0.97, "resnet18": 0.75}


def steps_with_sgd(setting: Setting) -> Iterator[Figure]:
    """SGD with momentum, every network."""
    for name in BATCH_SIZES:
        yield from compare_steps(name, "SGD momentum", setting, SECONDS[name])


def steps_with_adam(setting: Setting) -> Iterator[Figure]:
    """Adam, every network."""
    for name in BATCH_SIZES:
        yield from compare_steps(name, "Adam", setting, SECONDS[name])


def compare_steps(
    name: str, optimizer: str, setting: Setting, seconds: float, *, against_rescaling: bool = True
) -> Iterator[Figure]:
    """The step of one network against the plain one, and if wanted against rescaled activations where there
    is a target for that.
    """
    batch = random_batch(setting, BATCH_SIZES[name])
    actions = [plain_action(name, optimizer, batch), teleported_action(name, optimizer, batch)]
    rescaled = against_rescaling and optimizer == "SGD momentum" and name in RESCALING_TARGETS
    if rescaled:
        actions.append(rescaling_action(name, optimizer, batch))
    times = take_turns(actions, setting, seconds)
    group, what = ("step" if optimizer == "SGD momentum" else "adam"), f"step, {optimizer}: {name}"
    target = PLAIN_TARGETS[optimizer][name]
    yield compare(group, what, "plain step", times[1], times[0], target=target)
    if rescaled:
        target = RESCALING_TARGETS[name]
        yield compare(group, what, "step of rescaled activations", times[1], times[2], target=target)


def plain_action(name: str, optimizer: str, batch: Batch) -> Action:
    """A step of the plain network."""
    network = make_network(name, batch.images.device)
    return partial(plain_step, network, plain(network, optimizer), *batch)


def teleported_action(name: str, optimizer: str, batch: Batch) -> Action:
    """A step of the network at teleported weights."""
    network = make_network(name, batch.images.device)
    return partial(plain_step, network, teleported(network, optimizer), *batch)


def rescaling_action(name: str, optimizer: str, batch: Batch) -> Action:
    """A step of the baseline that rescales activations, at the same teleported weights."""
    network = make_network(name, batch.images.device)
    cob = random_cob(analyze(network, batch.images[:2])).to(batch.images.device)
    rescaling = rescaling_network(network, cob)
    made: Steps = plain(rescaling, optimizer)
    return partial(plain_step, rescaling, made, *batch)
