"""``Quiver.axes`` against specifications written by hand, and as a full account of how parameters scale."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any, Literal

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision import models

from nteleport import Quiver, analyze, scales

Specification = dict[str, list[tuple[int, str, int]]]
"""By parameter: axis, group and power."""


def simple(axes: Any) -> Specification:
    """The axes of a network in which every axis is one whole group, one position for each entry."""
    for parts in axes["parameters"].values():
        for part in parts:
            assert (part["start"], part["step"], part["repeat"], part["within"]) == (0, 1, 1, [])
    return {
        name: [(part["axis"], part["group"], part["power"]) for part in parts]
        for name, parts in axes["parameters"].items()
    }


def rebuilt(axes: Any, shapes: dict[str, torch.Size], cob: Tensor) -> dict[str, Tensor]:
    """Scales from nothing but axes, as their documentation says."""
    result = {name: torch.ones(shape, dtype=cob.dtype) for name, shape in shapes.items()}
    for name, parts in axes["parameters"].items():
        for part in parts:
            scale, axis, group = result[name], part["axis"], axes["groups"][part["group"]]
            factor = torch.ones(scale.shape[axis], dtype=cob.dtype)
            entries = torch.arange(group["size"])
            for r in range(part["repeat"]):
                positions = part["start"] + part["step"] * entries + r
                factor[positions] = cob[group["start"] + entries] ** part["power"]
            box = [slice(None)] * scale.dim()
            for span in part["within"]:
                box[span["axis"]] = slice(span["start"], span["stop"])
            scale[tuple(box)] *= factor.view([-1 if a == axis else 1 for a in range(scale.dim())])
    return result


def random_cob(quiver: Quiver) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return 0.5 + torch.rand(quiver.cob_size, dtype=torch.float64, generator=generator)


class Perceptron(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2, self.fc3 = nn.Linear(7, 5), nn.Linear(5, 4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc3(F.relu(self.fc2(F.relu(self.fc1(x)))))


def test_a_perceptron_has_the_specification_written_by_hand() -> None:
    axes = analyze(Perceptron(), torch.zeros(2, 7), activations="kept").axes()
    assert axes["groups"] == {
        "fc1": {"start": 0, "size": 5, "admits": "positive"},
        "fc2": {"start": 5, "size": 4, "admits": "positive"},
    }
    assert simple(axes) == {
        "fc1.weight": [(0, "fc1", 1)],
        "fc1.bias": [(0, "fc1", 1)],
        "fc2.weight": [(0, "fc2", 1), (1, "fc1", -1)],
        "fc2.bias": [(0, "fc2", 1)],
        "fc3.weight": [(1, "fc2", -1)],
        "fc3.bias": [],
    }


class Block(nn.Module):
    """A basic block of He et al. (arXiv 1512.03385), with projection shortcuts (their option B)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        stride = outputs // inputs
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut = nn.Sequential()
        if stride > 1:
            projection = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
            self.shortcut = nn.Sequential(projection, nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(h)) + self.shortcut(x))


class ResNet20(nn.Module):
    """The ResNet-20 for CIFAR of He et al., section 4.2."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16)
        self.layer1 = nn.Sequential(Block(16, 16), Block(16, 16), Block(16, 16))
        self.layer2 = nn.Sequential(Block(16, 32), Block(32, 32), Block(32, 32))
        self.layer3 = nn.Sequential(Block(32, 64), Block(64, 64), Block(64, 64))
        self.fc = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.fc(x.mean((2, 3)))


def conv(name: str, reads: str | None, feeds: str | None) -> Specification:
    sides = ((0, feeds, 1), (1, reads, -1))
    return {f"{name}.weight": [(axis, group, power) for axis, group, power in sides if group]}


def norm(name: str, group: str) -> Specification:
    return {f"{name}.weight": [(0, group, 1)], f"{name}.bias": [(0, group, 1)]}


def conjugated(name: str, reads: str) -> Specification:
    """A block in which every layer has neurons of its own."""
    return {
        **conv(f"{name}.conv1", reads, f"{name}.conv1"), **norm(f"{name}.bn1", f"{name}.bn1"),
        **conv(f"{name}.conv2", f"{name}.bn1", f"{name}.conv2"), **norm(f"{name}.bn2", f"{name}.bn2"),
    }  # fmt: skip


def projection(name: str, reads: str) -> Specification:
    name = f"{name}.shortcut"
    return {**conv(f"{name}.0", reads, f"{name}.0"), **norm(f"{name}.1", f"{name}.1")}


# A sum is scaled as the operand that is computed first: the stream where it is passed on, the block where it
# is projected.
CONJUGATED: Specification = {
    **conv("conv1", None, "conv1"), **norm("bn1", "bn1"),
    **conjugated("layer1.0", "bn1"), **conjugated("layer1.1", "bn1"), **conjugated("layer1.2", "bn1"),
    **conjugated("layer2.0", "bn1"), **projection("layer2.0", "bn1"),
    **conjugated("layer2.1", "layer2.0.bn2"), **conjugated("layer2.2", "layer2.0.bn2"),
    **conjugated("layer3.0", "layer2.0.bn2"), **projection("layer3.0", "layer2.0.bn2"),
    **conjugated("layer3.1", "layer3.0.bn2"), **conjugated("layer3.2", "layer3.0.bn2"),
    "fc.weight": [(1, "layer3.0.bn2", -1)], "fc.bias": [],
}  # fmt: skip


def kept(name: str, reads: str, feeds: str) -> Specification:
    """A block that adds to the stream ``feeds``; norms undo the scale of what they read."""
    return {
        **conv(f"{name}.conv1", reads, None), **norm(f"{name}.bn1", f"{name}.bn1"),
        **conv(f"{name}.conv2", f"{name}.bn1", None), **norm(f"{name}.bn2", feeds),
    }  # fmt: skip


FIRST, SECOND, THIRD = "bn1", "layer2.0.bn2", "layer3.0.bn2"  # the streams, by their first owners
KEPT: Specification = {
    **conv("conv1", None, None), **norm("bn1", FIRST),
    **kept("layer1.0", FIRST, FIRST), **kept("layer1.1", FIRST, FIRST), **kept("layer1.2", FIRST, FIRST),
    **kept("layer2.0", FIRST, SECOND),
    **conv("layer2.0.shortcut.0", FIRST, None), **norm("layer2.0.shortcut.1", SECOND),
    **kept("layer2.1", SECOND, SECOND), **kept("layer2.2", SECOND, SECOND),
    **kept("layer3.0", SECOND, THIRD),
    **conv("layer3.0.shortcut.0", SECOND, None), **norm("layer3.0.shortcut.1", THIRD),
    **kept("layer3.1", THIRD, THIRD), **kept("layer3.2", THIRD, THIRD),
    "fc.weight": [(1, THIRD, -1)], "fc.bias": [],
}  # fmt: skip


@pytest.mark.parametrize(("activations", "expected"), [("conjugated", CONJUGATED), ("kept", KEPT)])
def test_a_resnet_20_has_the_specification_written_by_hand(
    activations: Literal["conjugated", "kept"], expected: Specification
) -> None:
    network = ResNet20()
    quiver = analyze(network, torch.zeros(2, 3, 32, 32), activations=activations)
    axes = quiver.axes()
    assert simple(axes) == expected
    shapes = {name: parameter.shape for name, parameter in network.named_parameters()}
    sizes = {group: shapes[name][axis] for name, parts in expected.items() for axis, group, _ in parts}
    assert {name: group["size"] for name, group in axes["groups"].items()} == sizes
    assert sum(sizes.values()) == quiver.cob_size


class Concatenated(nn.Module):
    """Two convolutions side by side, read by a grouped one and, flattened, by a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(1, 2, 1), nn.Conv2d(1, 4, 1)
        self.grouped = nn.Conv2d(6, 6, 1, groups=3)
        self.fc = nn.Linear(6 * 4, 2)

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(torch.cat([self.b(x), self.a(x)], 1))
        return self.fc(F.relu(self.grouped(h)).flatten(1))


def test_concatenations_groups_and_flattened_maps_are_parts() -> None:
    axes = analyze(Concatenated(), torch.zeros(1, 1, 2, 2)).axes()
    # The layer that runs first owns the first entries; the groups of the convolution split the four of b.
    assert {name: group["size"] for name, group in axes["groups"].items()} == {
        "b[0:2]": 2, "b[2:4]": 2, "a": 2, "grouped": 6,
    }  # fmt: skip

    def within(start: int, stop: int) -> list[dict[str, int]]:
        return [{"axis": 0, "start": start, "stop": stop}]

    plain = {"start": 0, "step": 1, "repeat": 1, "within": []}
    assert axes["parameters"]["b.bias"] == [
        {"axis": 0, "group": "b[0:2]", "power": 1, **plain},
        {"axis": 0, "group": "b[2:4]", "power": 1, **plain, "start": 2},
    ]
    assert axes["parameters"]["grouped.weight"] == [
        {"axis": 0, "group": "grouped", "power": 1, **plain},
        {"axis": 1, "group": "b[0:2]", "power": -1, **plain, "within": within(0, 2)},
        {"axis": 1, "group": "b[2:4]", "power": -1, **plain, "within": within(2, 4)},
        {"axis": 1, "group": "a", "power": -1, **plain, "within": within(4, 6)},
    ]
    assert axes["parameters"]["fc.weight"] == [
        {"axis": 1, "group": "grouped", "power": -1, "start": 0, "step": 4, "repeat": 4, "within": []}
    ]


class Shuffled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(3, 6), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x).relu()
        return self.second(h.view(-1, 2, 3).transpose(1, 2).flatten(1))


def test_a_channel_shuffle_is_a_step() -> None:
    """Channels 0 to 5 arrive as 0, 3, 1, 4, 2, 5."""
    parts = analyze(Shuffled(), torch.zeros(1, 3)).axes()["parameters"]["second.weight"]
    assert [(part["group"], part["start"], part["step"]) for part in parts] == [
        ("first[0:3]", 0, 2),
        ("first[3:6]", 1, 2),
    ]


SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("densenet121", "swin_t")]
NETWORKS = ["mobilenet_v2", "regnet_y_400mf", "resnet18", "shufflenet_v2_x1_0", *SLOW]


@pytest.mark.parametrize("activations", ["conjugated", "kept"])
@pytest.mark.parametrize("name", NETWORKS)
def test_axes_say_all_that_scales_need(name: str, activations: Literal["conjugated", "kept"]) -> None:
    network = getattr(models, name)()
    quiver = analyze(network, torch.zeros(2, 3, 64, 64), activations=activations)
    shapes = {parameter: p.shape for parameter, p in network.named_parameters()}
    cob = random_cob(quiver)
    found = rebuilt(json.loads(json.dumps(quiver.axes())), shapes, cob)
    for parameter, expected in scales(quiver, cob).items():
        torch.testing.assert_close(found[parameter], expected, rtol=1e-12, atol=0)


def test_groups_partition_the_entries_and_never_mix_what_they_admit() -> None:
    quiver = analyze(Perceptron(), torch.zeros(2, 7))
    words = ("sign",) * 2 + ("positive",) * 7
    groups = replace(quiver, activations="kept", admits=words).axes()["groups"]
    assert {name: (group["start"], group["size"], group["admits"]) for name, group in groups.items()} == {
        "fc1[0:2]": (0, 2, "sign"),
        "fc1[2:5]": (2, 3, "positive"),
        "fc2": (5, 4, "positive"),
    }


def test_a_network_without_free_entries_has_no_groups() -> None:
    assert analyze(nn.Linear(3, 2), torch.zeros(1, 3)).axes() == {
        "groups": {},
        "parameters": {"weight": [], "bias": []},
    }
