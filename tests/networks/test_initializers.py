"""Initializers against their closed forms, and what they leave alone."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from nteleport.errors import ModelError, UnknownNameError
from nteleport.networks.initializers import INITIALIZERS, initialize

FAN_IN, FAN_OUT = 300, 200


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(
    ("kind", "arguments", "std"),
    [
        ("normal", {}, 0.02),
        ("normal", {"gain": 0.3}, 0.3),
        ("xavier", {}, math.sqrt(2 / (FAN_IN + FAN_OUT))),
        ("xavier", {"gain": 0.02}, 0.02 * math.sqrt(2 / (FAN_IN + FAN_OUT))),
        ("xavier", {"non_linearity": "tanh"}, 5 / 3 * math.sqrt(2 / (FAN_IN + FAN_OUT))),
        ("xavier_uniform", {"gain": 3}, 3 * math.sqrt(2 / (FAN_IN + FAN_OUT))),
        ("kaiming", {}, math.sqrt(2 / FAN_IN)),
        ("kaiming", {"non_linearity": "linear"}, math.sqrt(1 / FAN_IN)),
        ("kaiming", {"non_linearity": "leakyrelu"}, math.sqrt(2 / (1 + 0.01**2) / FAN_IN)),
        ("kaiming", {"gain": 0.02, "non_linearity": "relu"}, math.sqrt(2 / FAN_IN)),  # as published
        ("Orthogonal", {"gain": 2.0}, 2 / math.sqrt(FAN_IN)),
    ],
)
def test_standard_deviation_is_the_closed_form(kind: str, arguments: dict[str, object], std: float) -> None:
    layer = nn.Linear(FAN_IN, FAN_OUT)
    initialize(layer, kind, generator=seeded(), **arguments)
    # 60,000 draws: the sample's deviation is off by 0.3 % of itself, its mean by 0.4 % of the deviation.
    assert layer.weight.std().item() == pytest.approx(std, rel=0.015)
    assert abs(layer.weight.mean().item()) < 0.02 * std
    assert not layer.bias.any()


@pytest.mark.parametrize("layer", [nn.Conv1d(30, 40, 5), nn.Conv2d(30, 40, 3), nn.ConvTranspose2d(40, 30, 3)])
def test_convolutions_count_their_kernel_in_the_fan(layer: nn.Module) -> None:
    initialize(layer, "kaiming", generator=seeded())
    expected = nn.init._calculate_fan_in_and_fan_out(layer.weight)[0]
    assert layer.weight.std().item() == pytest.approx(math.sqrt(2 / expected), rel=0.05)


def test_xavier_uniform_stays_within_its_bound_and_normal_does_not() -> None:
    bound = math.sqrt(6 / (FAN_IN + FAN_OUT))
    largest = {}
    for kind in ("xavier_uniform", "xavier"):
        layer = nn.Linear(FAN_IN, FAN_OUT)
        initialize(layer, kind, generator=seeded())
        largest[kind] = layer.weight.abs().max().item()
    assert 0.99 * bound < largest["xavier_uniform"] <= bound < largest["xavier"]


def test_orthogonal_rows_are_orthogonal_with_the_length_of_the_gain() -> None:
    layer = nn.Linear(50, 20)
    initialize(layer, "orthogonal", gain=3.0, generator=seeded())
    torch.testing.assert_close(layer.weight @ layer.weight.T, 9 * torch.eye(20), atol=1e-4, rtol=0)


def test_none_leaves_everything_as_it_was_made() -> None:
    network = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5))
    before = {name: value.clone() for name, value in network.state_dict().items()}
    initialize(network, "none", generator=seeded())
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())
    assert network[0].bias.any()


@pytest.mark.parametrize("kind", [kind for kind in INITIALIZERS if kind != "none"])
def test_only_linear_and_convolution_layers_are_redrawn(kind: str) -> None:
    network = nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 3))
    nn.init.constant_(network[1].weight, 7.0)
    nn.init.constant_(network[1].bias, 8.0)
    before = [network[0].weight.clone(), network[3].weight.clone()]
    initialize(network, kind, generator=seeded())
    assert not torch.equal(network[0].weight, before[0])
    assert not torch.equal(network[3].weight, before[1])
    assert torch.equal(network[1].weight, torch.full((4,), 7.0))
    assert torch.equal(network[1].bias, torch.full((4,), 8.0))


@pytest.mark.parametrize("kind", [kind for kind in INITIALIZERS if kind != "none"])
def test_the_draw_depends_on_the_generator_alone(kind: str) -> None:
    layers = [nn.Linear(9, 9) for _ in range(3)]
    for layer, seed in zip(layers, (1, 1, 2), strict=True):
        torch.rand(3)
        initialize(layer, kind, generator=seeded(seed))
    assert torch.equal(layers[0].weight, layers[1].weight)
    assert not torch.equal(layers[0].weight, layers[2].weight)


def test_an_unknown_initializer_names_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'xavier'"):
        initialize(nn.Linear(2, 2), "xavierr")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"gain": 0}, "gain is 0"), ({"gain": float("nan")}, "gain is nan"), ({"gain": "big"}, "gain is 'big'"),
     ({"gain": True}, "gain is True"), ({"non_linearity": "rilu"}, "did you mean 'relu'")],
)  # fmt: skip
def test_bad_arguments_are_refused(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        initialize(nn.Linear(2, 2), "xavier", **arguments)
