"""The layer graph: who reads whose outputs, how many entries each layer owns, and its picture."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from torch import Tensor, nn

from nteleport import analyze
from nteleport.cli.inspect import inspect
from nteleport.core.layer_graph import LayerGraph, layer_graph
from nteleport.networks.models import build_model


def graph_of(network: nn.Module, x: Tensor) -> LayerGraph:
    return layer_graph(network, x, analyze(network, x))


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.inner, self.head = nn.Linear(4, 6), nn.Linear(6, 6), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        h = self.stem(x).relu()
        return self.head(h + self.inner(h).tanh())


def test_a_layer_reads_what_reaches_it_without_passing_another() -> None:
    graph = graph_of(Residual(), torch.randn(3, 4))
    assert set(graph.edges) == {
        ("input", "stem"), ("stem", "inner"), ("stem", "head"), ("inner", "head"), ("head", "output"),
    }  # fmt: skip
    assert graph.entries == {"stem": 6, "inner": 6, "head": 0}
    assert graph.shapes["head"] == {"weight": (2, 6), "bias": (2,)}
    assert graph.ranks() == {"input": 0, "stem": 1, "inner": 2, "head": 3, "output": 4}


def test_a_weight_that_is_used_twice_marks_its_layer() -> None:
    twice = nn.Linear(4, 4)
    network = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), twice, nn.ReLU(), twice, nn.Linear(4, 2))
    assert graph_of(network, torch.randn(3, 4)).tied == {"2"}


def test_the_entries_of_a_resnet_are_all_there_and_its_shortcuts_are_edges() -> None:
    network, x = build_model("resnet18", input_shape=(3, 32, 32), num_classes=10), torch.zeros(2, 3, 32, 32)
    graph = graph_of(network, x)
    assert sum(graph.entries.values()) == analyze(network, x).cob_size
    assert {("bn1", "layer1.0.conv1"), ("bn1", "layer1.1.conv1"), ("layer4.1.bn2", "fc")} <= set(graph.edges)
    assert ("layer1.0.conv1", "layer1.0.conv2") not in graph.edges


@pytest.mark.parametrize("suffix", ["svg", "png", "pdf"])
def test_the_picture_is_drawn(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"graph.{suffix}"
    done = CliRunner().invoke(inspect, ["mlp", "--dataset", "digits", "--graph", str(path)])
    assert done.exit_code == 0, done.output
    if suffix == "svg":
        text = path.read_text()
        for layer in ("input", "1  ·  500", "9  ·  500", "11  ·  pinned", "output"):
            assert layer in text
    assert path.stat().st_size > 1000


def test_another_suffix_is_refused_before_the_analysis(tmp_path: Path) -> None:
    done = CliRunner().invoke(inspect, ["mlp", "--graph", str(tmp_path / "graph.sgv")])
    assert done.exit_code == 2
    assert "did you mean '.svg'" in done.output
