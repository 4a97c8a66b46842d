"""Ranges of activations, against those recorded by hand and against how they must move with the weights."""

from __future__ import annotations

import copy

import pytest
import torch
from support.zoo.networks import ZOO
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision import models

from nteleport import Quiver, analyze, sample_cob, teleport_
from nteleport.core.activation_ranges import activation_ranges
from nteleport.core.cob import admitted_cob
from nteleport.core.quiver import Activations
from nteleport.core.task import Task


def ranges_of(network: nn.Module, quiver: Quiver, *batches: object) -> Tensor:
    task = Task(quiver, network, [(batch, None) for batch in batches], 0, "activation_range")
    with task.preserved():
        return activation_ranges(task)


def largest(*activations: Tensor) -> Tensor:
    """The largest number of each channel, the second axis, in any of these activations."""
    return torch.stack([a.detach().abs().transpose(0, 1).flatten(1).amax(1) for a in activations]).amax(0)


class Functional(nn.Module):
    """A residual network without a single module of torch."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.inner, self.back, self.head = (
            nn.Parameter(torch.randn(shape)) for shape in ((5, 2, 3, 3), (7, 5, 1, 1), (5, 7, 1, 1), (3, 5))
        )

    def forward(self, x: Tensor) -> Tensor:
        stream, _, branch = self.activations(x)
        return F.linear(F.relu(stream + branch).mean((2, 3)), self.head)

    def activations(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        stream = F.conv2d(x, self.stem)
        inner = F.conv2d(F.relu(stream), self.inner)
        return stream, inner, F.conv2d(F.relu(inner), self.back)


@pytest.mark.parametrize("activations", ["kept", "conjugated"])
def test_activations_of_functions_are_seen(activations: Activations) -> None:
    torch.manual_seed(0)
    network, batches = Functional(), [torch.randn(4, 2, 6, 6), torch.randn(3, 2, 8, 5)]
    quiver = analyze(network, batches[0], activations=activations)
    recorded = []
    for stream, inner, branch in map(network.activations, batches):
        owners = [largest(stream, stream + branch), largest(inner), largest(branch)]
        if activations == "kept":  # the branch belongs to the stream that it is added to
            owners = [torch.maximum(owners[0], owners.pop()), owners[1]]
        recorded.append(torch.cat(owners))
    expected = torch.stack(recorded).amax(0)
    torch.testing.assert_close(ranges_of(network, quiver, *batches).float(), expected, rtol=1e-5, atol=1e-6)


def test_residual_streams_of_resnet18_are_seen_as_a_whole() -> None:
    torch.manual_seed(0)
    network, images = models.resnet18(num_classes=10).eval(), torch.randn(2, 3, 64, 64)
    quiver = analyze(network, images, activations="kept")
    found = ranges_of(network, quiver, images).float()

    expected: dict[str, Tensor] = {}
    with torch.no_grad():
        x = network.bn1(network.conv1(images))
        streams = [[x]]
        x = network.maxpool(F.relu(x))
        for number, stage in enumerate((network.layer1, network.layer2, network.layer3, network.layer4), 1):
            for position, block in enumerate(stage):
                hidden = block.bn1(block.conv1(x))
                expected[f"layer{number}.{position}.bn1"] = largest(hidden)
                branch = block.bn2(block.conv2(F.relu(hidden)))
                if block.downsample is not None:
                    x = block.downsample(x)
                    streams.append([x])
                streams[-1] += [branch, branch + x]
                x = F.relu(branch + x)
    by_size = {len(each[0][0]): largest(*each) for each in streams}
    owners = {layer.name: found[layer.start : layer.start + layer.size] for layer in quiver.layers}
    assert len(owners) == 8 + 4
    for name, ranges in owners.items():
        torch.testing.assert_close(ranges, expected.get(name, by_size[len(ranges)]), rtol=1e-5, atol=0)


@pytest.mark.parametrize(
    "name",
    """mlp residual_inplace residual_projection concat channel_shuffle self_attention explicit_attention
    tied_weights functional_only every_norm layer_scale padded_and_resampled""".split(),
)
def test_ranges_move_with_the_weights(name: str) -> None:
    torch.manual_seed(0)
    network, inputs = ZOO[name]()
    network = network.double().eval()
    inputs = tuple(x.double() if x.is_floating_point() else x for x in inputs)
    quiver = analyze(network, inputs, activations="kept")
    before = ranges_of(network, quiver, inputs)
    moved = copy.deepcopy(network)
    generator = torch.Generator().manual_seed(1)
    cob = sample_cob(quiver.cob_size, 0.9, "inter_landscape", generator=generator).double()
    cob = admitted_cob(quiver, cob, generator)
    teleport_(moved, inputs, quiver=quiver, cob=cob)
    assert bool((before > 0).any())
    torch.testing.assert_close(ranges_of(moved, quiver, inputs), before * cob.abs(), rtol=1e-9, atol=1e-12)


def test_statistics_and_inputs_stay_as_they_are() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(inplace=True), nn.Linear(4, 2))
    network.train()
    inputs = torch.randn(8, 3)
    before, given = copy.deepcopy(network.state_dict()), inputs.clone()
    quiver = analyze(network, inputs)
    found = ranges_of(network, quiver, inputs)
    assert torch.equal(inputs, given)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    hidden = network[0](inputs)
    normalized = F.batch_norm(hidden, None, None, network[1].weight, network[1].bias, training=True)
    torch.testing.assert_close(found.float(), torch.cat([largest(hidden), largest(normalized)]))
