"""Laws of teleportation on networks that other libraries wrote, in float64. Run by ``scripts/test --zoo``."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest

pytest.importorskip("timm")
pytest.importorskip("transformers")
pytest.importorskip("segmentation_models_pytorch")
pytest.importorskip("torch_geometric")

import numpy as np
import torch
from support.zoo.library import IN_SINGLE_PRECISION, LIBRARY, UNTRACEABLE, UNTRAINABLE, build
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from nteleport import (
    Quiver,
    TeleportableModel,
    TeleportedOptimizer,
    analyze,
    materialize,
    sample_cob,
    teleported,
)
from nteleport.core.cob import admitted_cob
from nteleport.core.tracing import as_call
from nteleport.errors import AnalysisError

pytestmark = pytest.mark.zoo

TOLERANCE = 1e-8
ULP = torch.finfo(torch.float64).eps


def states(network: nn.Module) -> dict[str, object]:
    """Every attribute of every module, by identity where it is an object, and the random states."""
    found: dict[str, object] = {
        "python": random.getstate(),
        "numpy": np.random.get_state()[1].tobytes(),  # type: ignore[union-attr]
        "torch": torch.get_rng_state().numpy().tobytes(),
    }
    for path, module in network.named_modules():
        for name, value in vars(module).items():
            kept = value
            if isinstance(value, dict):
                kept = {key: id(each) for key, each in value.items()}
            elif not isinstance(value, (bool, int, float, str, type(None))):
                kept = id(value)
            found[f"{path}.{name}"] = kept
    for name, buffer in network.named_buffers():
        found[f"value of {name}"] = buffer.numpy().tobytes()
    return found


TRACEABLE = [
    pytest.param(name, marks=pytest.mark.xdist_group(name)) for name in LIBRARY if name not in UNTRACEABLE
]


@pytest.fixture(scope="module", params=TRACEABLE)
def case(request: pytest.FixtureRequest) -> tuple[str, Quiver]:
    """A network's name and its quiver, and that analysis leaves no trace."""
    network, inputs = build(request.param)
    before = states(network.eval())
    quiver = analyze(network, inputs)
    assert states(network) == before
    return request.param, quiver


def seeded() -> None:
    torch.manual_seed(7)
    random.seed(7)
    np.random.seed(7)


def floats(outputs: Any) -> list[Tensor]:
    leaves = [leaf for leaf in tree_leaves(outputs) if isinstance(leaf, Tensor)]
    return [leaf.detach().clone() for leaf in leaves if leaf.is_floating_point()]


def called(function: Callable[..., Any], network: nn.Module, inputs: Any) -> list[Tensor]:
    """Floating outputs of a call, its dropout always the same; buffers are put back."""
    buffers = [(buffer, buffer.clone()) for buffer in network.buffers()]
    args, kwargs = as_call(inputs)
    seeded()
    with torch.no_grad():
        found = floats(function(*args, **kwargs))
        for buffer, value in buffers:
            buffer.copy_(value)
    return found


def assert_near(found: list[Tensor], expected: list[Tensor], tolerance: float = TOLERANCE) -> None:
    assert len(found) == len(expected) > 0
    for a, e in zip(found, expected, strict=True):
        assert a.dtype == e.dtype
        torch.testing.assert_close(a, e, rtol=0, atol=tolerance * max(1e-3, float(e.abs().max())))


def moved(network: nn.Module, inputs: Any, quiver: Quiver) -> TeleportableModel:
    model = TeleportableModel(network, inputs, quiver)
    generator = torch.Generator().manual_seed(1)
    model.teleport(sample_cob(model.cob_size, 0.9, "inter_landscape", generator=generator))
    return model


@pytest.mark.parametrize("training", [False, True])
def test_the_function_is_kept_and_the_materialized_network_agrees(
    case: tuple[str, Quiver], training: bool
) -> None:
    name, quiver = case
    network, inputs = build(name)
    network.train(training)
    expected = called(network, network, inputs)
    model = moved(network, inputs, quiver)
    for _ in range(3):
        assert_near(called(model, network, inputs), expected)
    if training and not quiver.training:
        return  # training mode cannot be traced
    materialized = materialize(model)
    assert_near(called(materialized, materialized, inputs), expected)


@pytest.mark.parametrize("name", TRACEABLE)
def test_teleported_weights_keep_the_unmodified_network(name: str) -> None:
    network, inputs = build(name)
    quiver = analyze(network, inputs, activations="kept")
    expected = {training: called(network.train(training), network, inputs) for training in (False, True)}
    generator = torch.Generator().manual_seed(1)
    drawn = sample_cob(quiver.cob_size, 0.9, "inter_landscape", generator=generator)
    parameters = dict(network.named_parameters())
    with torch.no_grad():
        for parameter, value in teleported(
            parameters, quiver, admitted_cob(quiver, drawn, generator).double()
        ).items():
            parameters[parameter].copy_(value)
    for training in (False, True):
        found = called(network.train(training), network, inputs)
        assert_near(found, expected[training], IN_SINGLE_PRECISION.get(name, TOLERANCE))


def test_undoing_is_exact(case: tuple[str, Quiver]) -> None:
    name, quiver = case
    network, inputs = build(name)
    before = {name: p.detach().clone() for name, p in network.named_parameters()}
    model = moved(network, inputs, quiver)
    assert model.cob_size > 0
    model.undo_teleportation()
    for parameter, value in network.named_parameters():
        assert ((value - before[parameter]).abs() <= 2 * ULP * before[parameter].abs()).all(), parameter


@pytest.mark.parametrize("training", [False, True])
def test_both_views_train_alike(case: tuple[str, Quiver], training: bool) -> None:
    name, quiver = case
    fast, inputs = build(name)
    simple, _ = build(name)
    if (name, training) in UNTRAINABLE:
        pytest.skip(UNTRAINABLE[name, training])
    model = moved(simple.train(training), inputs, quiver)
    plain = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)
    teleported = TeleportedOptimizer(fast.train(training), quiver, torch.optim.SGD, lr=1e-3, momentum=0.9)
    teleported.teleport(model.cob)
    args, kwargs = as_call(inputs)
    for _ in range(2):
        for network, stepping in ((model, plain), (fast, teleported)):
            stepping.zero_grad()
            seeded()
            leaves = tree_leaves(network(*args, **kwargs))
            outputs = [o for o in leaves if isinstance(o, Tensor) and o.requires_grad]
            # The logarithm keeps steps small where a network without trained weights puts out 1e11.
            sum(o.square().mean().log1p() for o in outputs).backward()  # type: ignore[union-attr]
            stepping.step()
    found = teleported.teleported_weights()
    for parameter, value in simple.named_parameters():
        if parameter in found:
            atol = TOLERANCE * max(1e-3, float(value.detach().abs().max()))
            torch.testing.assert_close(found[parameter], value, rtol=0, atol=atol)


@pytest.mark.parametrize("name", UNTRACEABLE)
def test_what_cannot_be_traced_is_said_clearly(name: str) -> None:
    network, inputs = build(name)
    with pytest.raises(AnalysisError, match=UNTRACEABLE[name]):
        analyze(network, inputs)
