"""A network exported to ONNX before and after its weights are teleported, run by another engine."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import resnet18

import nteleport

onnx: Any = pytest.importorskip("onnx")
onnxruntime: Any = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")


def exported(network: nn.Module, images: Tensor, path: Path) -> tuple[Tensor, list[str]]:
    """What onnxruntime computes with ``network``, and the operators that it runs."""
    with warnings.catch_warnings(action="ignore"):
        torch.onnx.export(network, (images,), path, dynamo=True, verbose=False)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (name,) = (each.name for each in session.get_inputs())
    (outputs,) = session.run(None, {name: images.numpy()})
    return torch.from_numpy(outputs), [node.op_type for node in onnx.load(path).graph.node]


def test_a_teleported_network_exports_as_it_is_and_computes_the_same(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network, images = resnet18(num_classes=10).eval(), torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        expected = network(images)
    before, operators = exported(network, images, tmp_path / "before.onnx")
    weights = network.fc.weight.detach().clone()
    nteleport.teleport_(network, images, generator=torch.Generator().manual_seed(0))
    after, same_operators = exported(network, images, tmp_path / "after.onnx")
    assert same_operators == operators
    assert not torch.equal(network.fc.weight, weights)
    for found in (before, after):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5 * float(expected.abs().max()))
