"""One model of each torchvision classification family works as it is."""

from __future__ import annotations

import copy
import re
from itertools import pairwise
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, nn

from nteleport import TeleportableModel, analyze, materialize, sample_cob, teleported
from nteleport.core.cob import admitted_cob

COB_SIZES = {"resnet18": 9600, "vgg16_bn": 16640, "densenet121": 52064}

CONVOLUTIONAL = {
    "alexnet": 64,
    "vgg11_bn": 32,
    "resnet18": 32,
    "resnext50_32x4d": 32,
    "wide_resnet50_2": 32,
    "densenet121": 32,
    "googlenet": 64,
    "inception_v3": 299,
    "squeezenet1_1": 32,
    "mobilenet_v2": 32,
    "mobilenet_v3_small": 32,
    "shufflenet_v2_x0_5": 32,
    "mnasnet0_5": 32,
    "efficientnet_b0": 32,
    "regnet_y_400mf": 32,
    "convnext_tiny": 32,
}
TRANSFORMERS = {"vit_b_32": 64, "swin_t": 32, "maxvit_t": 224}
UNTOUCHED = {
    "relative_position_bias_table": r"add: joins what (matmul|einsum) leaves unscaled",  # of scores
    "bias": r"(linear|conv2d): feeds an output of the network",  # of the last layer
}


def build(name: str, size: int) -> tuple[nn.Module, Tensor]:
    options: dict[str, Any] = {"num_classes": 10, "weights": None}
    if name in ("googlenet", "inception_v3"):
        options["init_weights"] = False
    if name == "vit_b_32":
        options["image_size"] = size
    torch.manual_seed(0)
    network = getattr(torchvision.models, name)(**options)
    return network.double(), torch.randn(2, 3, size, size, dtype=torch.float64)


@pytest.fixture(scope="module", params=[*CONVOLUTIONAL, *TRANSFORMERS])
def family(request: pytest.FixtureRequest) -> tuple[str, TeleportableModel]:
    network, x = build(request.param, {**CONVOLUTIONAL, **TRANSFORMERS}[request.param])
    return request.param, TeleportableModel(network.eval(), x)


def first(found: Any) -> Tensor:
    return found if isinstance(found, Tensor) else found[0]


def test_function_survives_and_the_materialized_network_agrees(family: tuple[str, TeleportableModel]) -> None:
    _, model = family
    (x,) = model.example_inputs
    with torch.no_grad():
        before = first(model.network(x))
        model.random_teleport(0.9, "inter_landscape", generator=torch.Generator().manual_seed(1))
        allowed = 1e-8 * float(before.abs().max())
        assert float((first(model(x)) - before).abs().max()) <= allowed
        assert float((first(materialize(model)(x)) - before).abs().max()) <= allowed
        model.undo_teleportation()


def test_report_says_what_is_teleported_and_why_not(family: tuple[str, TeleportableModel]) -> None:
    name, model = family
    rows = model.quiver.report()
    untouched = {row.name.rpartition(".")[2]: row.reason for row in rows if row.status == "untouched"}
    assert all(re.fullmatch(UNTOUCHED[part], reason) for part, reason in untouched.items())
    assert len([row for row in rows if row.reason.endswith("an output of the network")]) <= 3  # one per head
    scaled = [row.name for row in rows if "scaled" in row.reason and row.name.endswith("weight")]
    if name in TRANSFORMERS:
        assert [n for n in scaled if "attn" in n or "self_attention" in n]
        assert [n for n in scaled if "mlp" in n]


@pytest.mark.parametrize("name", COB_SIZES)
def test_cob_sizes_of_the_published_models(name: str) -> None:
    assert analyze(*build(name, 32)).cob_size == COB_SIZES[name]


def test_cob_size_of_the_published_perceptron() -> None:
    widths = [3072, 500, 500, 500, 500, 500, 10]
    layers = [layer for i, o in pairwise(widths) for layer in (nn.Linear(i, o), nn.ReLU())]
    assert analyze(nn.Sequential(nn.Flatten(), *layers[:-1]), torch.zeros(2, 3, 32, 32)).cob_size == 2500


@pytest.mark.parametrize("name", [*CONVOLUTIONAL, *TRANSFORMERS])
def test_teleported_weights_keep_the_unmodified_network(name: str) -> None:
    network, x = build(name, {**CONVOLUTIONAL, **TRANSFORMERS}[name])
    quiver = analyze(network, x, activations="kept")
    assert quiver.cob_size > 0
    generator = torch.Generator().manual_seed(1)
    drawn = sample_cob(quiver.cob_size, 0.9, "inter_landscape", generator=generator)
    moved = copy.deepcopy(network)
    plain = {name: p.detach() for name, p in network.named_parameters()}
    for name, weight in teleported(plain, quiver, admitted_cob(quiver, drawn, generator).double()).items():
        moved.get_parameter(name).data.copy_(weight)
    # Batch norm over the few values of a small batch divides rounding errors by next to nothing.
    images = torch.randn(16 if x.shape[-1] == 32 else 2, *x.shape[1:], generator=generator, dtype=x.dtype)
    for training in (False, True):
        with torch.no_grad():
            found = []
            for each in (network, moved):
                torch.manual_seed(2)
                found.append(first(each.train(training)(images)))
        assert float((found[1] - found[0]).abs().max()) <= 1e-10 * float(found[0].abs().max())
    for ours, theirs in zip(moved.buffers(), network.buffers(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)
