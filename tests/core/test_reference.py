"""Every array that the published implementation computed is matched, by both training views."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from support.zoo.reference import NAMES, build
from torch import Tensor, nn

from nteleport import TeleportableModel, TeleportedOptimizer, analyze, materialize

SGD = {"lr": 0.01, "momentum": 0.9, "weight_decay": 0.01}
STEPS = 10


class Reference:
    """The network of one reference file, in float64 with its published initial weights, and the arrays."""

    def __init__(self, name: str) -> None:
        with np.load(Path(__file__).parent / "reference" / f"{name}.npz") as file:
            self.arrays = {key: torch.from_numpy(file[key]) for key in file.files if key != "cob_layers"}
            self.layers = tuple(zip(file["cob_layers"].tolist(), file["cob_sizes"].tolist(), strict=True))
        self.network = build(name).double()
        self.network.load_state_dict(self.group("init"), strict=False)
        self.x, self.y, self.cob = (self.arrays[key] for key in ("x", "y", "cob"))

    def group(self, prefix: str) -> dict[str, Tensor]:
        found = {key: value for key, value in self.arrays.items() if key.startswith(f"{prefix}/")}
        return {key.removeprefix(f"{prefix}/"): value for key, value in found.items()}

    def model(self) -> TeleportableModel:
        model = TeleportableModel(self.network, self.x)
        model.teleport(self.cob)
        return model


@pytest.fixture(params=NAMES)
def reference(request: pytest.FixtureRequest) -> Reference:
    return Reference(request.param)


def assert_close(actual: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float) -> None:
    assert actual.keys() == expected.keys()
    for name in expected:
        torch.testing.assert_close(actual[name], expected[name], rtol=tolerance, atol=tolerance)


def parameters(network: nn.Module) -> dict[str, Tensor]:
    return {name: p.detach() for name, p in network.named_parameters()}


def train(reference: Reference, network: Any, optimizer: Any) -> Tensor:
    losses = []
    for _ in range(STEPS):
        optimizer.zero_grad()
        loss = F.cross_entropy(network(reference.x), reference.y)
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    return torch.stack(losses)


def test_layers_own_the_same_entries(reference: Reference) -> None:
    quiver = analyze(reference.network, reference.x)
    assert tuple((layer.name, layer.size) for layer in quiver.layers) == reference.layers
    assert quiver.cob_size == len(reference.cob)


def test_teleported_weights(reference: Reference) -> None:
    assert_close(parameters(reference.model().network), reference.group("teleported"), 1e-14)


@pytest.mark.parametrize("view", [lambda model: model, materialize], ids=["model", "materialized"])
def test_outputs_of_the_teleported_network(reference: Reference, view: Any) -> None:
    reference.network.eval()
    outputs = view(reference.model())(reference.x)
    torch.testing.assert_close(outputs, reference.arrays["output_eval"], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(outputs, reference.arrays["output_eval_teleported"], rtol=1e-12, atol=1e-12)


def test_gradients_of_the_model(reference: Reference) -> None:
    model = reference.model()
    F.cross_entropy(model(reference.x), reference.y).backward()
    gradients = {name: p.grad for name, p in model.network.named_parameters() if p.grad is not None}
    assert_close(gradients, reference.group("grad"), 1e-10)


def test_gradients_of_the_optimizer(reference: Reference) -> None:
    optimizer = teleported_sgd(reference)
    F.cross_entropy(reference.network(reference.x), reference.y).backward()
    assert_close(optimizer.teleported_gradients(), reference.group("grad"), 1e-10)


def test_ten_steps_of_the_model(reference: Reference) -> None:
    model = reference.model()
    losses = train(reference, model, torch.optim.SGD(model.parameters(), **SGD))
    torch.testing.assert_close(losses, reference.arrays["losses_sgd"], rtol=1e-10, atol=1e-10)
    assert_close(parameters(model.network), reference.group("after_sgd"), 1e-10)


def test_ten_steps_of_the_optimizer(reference: Reference) -> None:
    optimizer = teleported_sgd(reference)
    losses = train(reference, reference.network, optimizer)
    torch.testing.assert_close(losses, reference.arrays["losses_sgd"], rtol=1e-10, atol=1e-10)
    assert_close(optimizer.teleported_weights(), reference.group("after_sgd"), 1e-10)


def teleported_sgd(reference: Reference) -> TeleportedOptimizer:
    quiver = analyze(reference.network, reference.x)
    optimizer = TeleportedOptimizer(reference.network, quiver, torch.optim.SGD, **SGD)
    optimizer.teleport(reference.cob)
    return optimizer
