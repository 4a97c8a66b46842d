"""The small networks of this package, `cnn` and `vit`: what they are, and that both views teleport them."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

from nteleport import (
    TeleportableModel,
    TeleportedOptimizer,
    analyze,
    materialize,
    sample_cob,
    teleported,
)
from nteleport.core.cob import admitted_cob
from nteleport.networks.models import build_model

SMALL = {
    "cnn": {"channels": [4, 6], "hidden_layers": [9]},
    "vit": {"patch_size": 8, "num_layers": 2, "num_heads": 2, "hidden_dim": 8, "mlp_dim": 12},
}


def made(name: str, channels: int) -> tuple[nn.Module, Tensor]:
    """A small network in float64 with no weights of zero, and images."""
    torch.manual_seed(0)
    network = build_model(name, input_shape=(channels, 32, 32), num_classes=5, **SMALL[name]).double()
    for parameter in network.parameters():  # torchvision begins with a head of zeros
        nn.init.normal_(parameter, std=0.3)
    return network, torch.randn(3, channels, 32, 32, dtype=torch.float64)


def test_cnn_is_convolutions_with_pooling_and_a_multilayer_perceptron() -> None:
    network = build_model("cnn", input_shape=(1, 32, 32), num_classes=10)
    block = [nn.Conv2d, nn.ReLU, nn.MaxPool2d]
    assert [type(layer) for layer in network] == [*block * 3, nn.Flatten, nn.Linear, nn.ReLU, nn.Linear]
    shapes = [tuple(p.shape) for p in network.parameters() if p.ndim > 1]
    assert shapes == [(16, 1, 3, 3), (32, 16, 3, 3), (64, 32, 3, 3), (128, 64 * 4 * 4), (10, 128)]


def test_vit_is_a_transformer_of_patches() -> None:
    network = build_model("vit", input_shape=(3, 32, 32), num_classes=10)
    assert network.conv_proj.weight.shape == (128, 3, 4, 4)
    assert network.encoder.pos_embedding.shape == (1, 1 + 64, 128)
    assert len(network.encoder.layers) == 6
    assert build_model("vit", input_shape=(1, 32, 32), num_classes=10).conv_proj.weight.shape[1] == 1


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", SMALL)
def test_a_teleportation_keeps_the_function_and_the_materialized_network_agrees(
    name: str, channels: int
) -> None:
    network, x = made(name, channels)
    model = TeleportableModel(network, x)
    before, weights = network(x).detach(), model.weight_vector()
    model.random_teleport(0.9, "inter_landscape", generator=torch.Generator().manual_seed(1))
    moved = (model.weight_vector() - weights).abs() > 0
    untouched = sum(row.status == "untouched" for row in model.quiver.report())
    assert untouched == 1  # the bias of the last layer
    assert moved.sum() == len(weights) - 5
    torch.testing.assert_close(model(x), before, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(materialize(model)(x), before, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", SMALL)
def test_with_activations_kept_the_weights_load_into_the_unmodified_network(name: str) -> None:
    network, x = made(name, 3)
    quiver = analyze(network, x, activations="kept")
    generator = torch.Generator().manual_seed(2)
    drawn = sample_cob(quiver.cob_size, 0.9, "intra_landscape", generator=generator)
    cob = admitted_cob(quiver, drawn.double())
    parameters = {key: p.detach() for key, p in network.named_parameters()}
    moved = teleported(parameters, quiver, cob)
    assert sum(not torch.equal(moved[key], p) for key, p in parameters.items()) >= 6
    torch.testing.assert_close(functional_call(network, moved, x), network(x), rtol=1e-10, atol=1e-10)


def test_every_channel_and_neuron_of_cnn_has_an_entry() -> None:
    network, x = made("cnn", 3)
    for activations in ("conjugated", "kept"):
        assert analyze(network, x, activations=activations).cob_size == 4 + 6 + 9


@pytest.mark.parametrize("name", SMALL)
def test_a_step_of_the_teleported_optimizer_is_a_step_of_the_materialized_network(name: str) -> None:
    network, x = made(name, 3)
    model = TeleportableModel(copy.deepcopy(network), x)
    model.random_teleport(0.5, "inter_landscape", generator=torch.Generator().manual_seed(3))
    oracle = materialize(model)
    optimizer = TeleportedOptimizer(network, model.quiver, torch.optim.SGD, lr=0.01)
    optimizer.teleport(model.cob)
    plain = torch.optim.SGD(oracle.parameters(), lr=0.01)
    for stepped, step in ((network, optimizer), (oracle, plain)):
        nn.functional.cross_entropy(stepped(x), torch.tensor([0, 1, 2])).backward()
        step.step()
    torch.testing.assert_close(network(x), oracle(x), rtol=1e-10, atol=1e-10)
