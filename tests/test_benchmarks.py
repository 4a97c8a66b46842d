"""The baselines of the benchmarks compute what they claim to, and ratios mean what the table says."""

from __future__ import annotations

import importlib

import numpy as np
import pytest
import torch
from benchmarks.baselines.activation_rescaling import rescaling_network
from benchmarks.baselines.per_sample_pipeline import InMemoryCifar, PerSamplePipeline
from benchmarks.growth import exponent
from benchmarks.timing import Setting, compare, take_turns
from torch import nn
from torch.nn.functional import cross_entropy

from nteleport import TeleportedOptimizer, analyze, sample_cob
from nteleport.networks.models import build_model


def network_of(name: str) -> nn.Module:
    torch.manual_seed(0)
    network = build_model(name, input_shape=(3, 32, 32), num_classes=10).double()
    return network.train()


@pytest.mark.parametrize("name", ["mlp", "resnet18"])
def test_rescaling_activations_trains_as_the_teleported_optimizer_does(name: str) -> None:
    """Two ways to train a teleported network that share no code: the same losses, step by step."""
    images, labels = torch.randn(4, 3, 32, 32, dtype=torch.double), torch.tensor([0, 3, 5, 9])
    network = network_of(name)
    quiver = analyze(network, images)
    cob = sample_cob(quiver.cob_size, 0.4, "inter_landscape").double()
    rescaling = rescaling_network(network, cob)
    hyper_parameters = {"lr": 0.01, "momentum": 0.9, "weight_decay": 0.01}
    ours = TeleportedOptimizer(network, quiver, torch.optim.SGD, **hyper_parameters)
    ours.teleport(cob)
    theirs = torch.optim.SGD(rescaling.parameters(), **hyper_parameters)
    losses: list[list[float]] = []
    for trained, optimizer in ((network, ours), (rescaling, theirs)):
        losses.append([])
        for _ in range(3):
            optimizer.zero_grad()
            loss = cross_entropy(trained(images), labels)
            loss.backward()
            optimizer.step()
            losses[-1].append(loss.item())

    assert losses[0] == pytest.approx(losses[1], rel=1e-9)
    assert abs(losses[0][2] - losses[0][0]) > 1e-3


def test_a_change_of_basis_of_another_length_is_refused() -> None:
    with pytest.raises(ValueError, match="2500 entries"):
        rescaling_network(network_of("mlp").double(), torch.ones(2501).double())


def test_the_per_sample_pipeline_normalises_and_validates_every_image() -> None:
    images = np.random.default_rng(0).integers(0, 256, (30, 32, 32, 3), dtype=np.uint8)
    labels = np.arange(30) % 10
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2) / 255
    expected = (pixels - torch.tensor((0.4914, 0.4822, 0.4465)).view(3, 1, 1)) / torch.tensor(
        (0.2470, 0.2435, 0.2616)
    ).view(3, 1, 1)
    served = InMemoryCifar(images, labels, train=False)
    torch.testing.assert_close(torch.stack([served[k][0] for k in range(30)]), expected)
    network = nn.Sequential(nn.Flatten(), nn.Linear(3072, 10))
    optimizer = torch.optim.SGD(network.parameters(), lr=0.0)

    pipeline = PerSamplePipeline((images, labels), (images, labels), batch_size=10)
    loss, accuracy = pipeline.epoch(network, optimizer)

    logits = network(expected).detach()
    assert loss == pytest.approx(float(cross_entropy(logits, torch.from_numpy(labels))), rel=1e-5)
    assert accuracy == pytest.approx(float((logits.argmax(1) == torch.from_numpy(labels)).double().mean()))


def test_actions_take_turns_and_each_is_first_equally_often() -> None:
    order: list[str] = []
    setting = Setting(torch.device("cpu"), effort=0)

    times = take_turns(
        [lambda: order.append("a"), lambda: order.append("b")], setting, 1, at_least=4, warm_up=1
    )

    assert [len(each) for each in times] == [4, 4]
    assert "".join(order) == "ab" + "abbaabba"


def test_a_figure_has_the_ratio_of_medians_and_quartiles_of_the_rounds() -> None:
    figure = compare("step", "a", "b", [1.0, 2.0, 9.0], [1.0, 4.0, 3.0], target=0.6)
    assert (figure.ours, figure.theirs, figure.ratio) == (2000.0, 3000.0, 2 / 3)
    assert (figure.low, figure.high) == (0.75, 2.0)  # of the ratios 1, 0.5 and 3
    assert figure.reached is False


def test_the_exponent_of_a_power_law_is_found() -> None:
    assert exponent([1.0, 10.0, 100.0], [3.0, 3.0 * 10**1.5, 3000.0]) == pytest.approx(1.5)


@pytest.mark.parametrize("module", ["benchmarks.__main__", "bench_runner", "bench_step"])
def test_every_benchmark_can_be_imported(module: str) -> None:
    importlib.import_module(module)
