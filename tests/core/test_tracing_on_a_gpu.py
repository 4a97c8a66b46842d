"""Networks on a GPU are traced as on the CPU.

Tensors are fake: they have a device and no numbers, and no GPU is needed.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from support.zoo.constructs_run import CONSTRUCTS, made
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._pytree import tree_map

from nteleport.core.network_graph import trace_functional
from nteleport.core.tracing import as_call

OF_DEVICES = ["attention", "convolution", "norm", "recurrent", "resample"]
"""Kinds of layers that torch computes by other operators on a GPU."""

NOT_THERE = {
    "attention-heads_repeated",
    "attention-sdpa_bool_mask",
    "norm-batch_frozen",
    "recurrent-gru_cell",
}
"""Networks that hold a tensor which is no buffer, and a cell whose outputs torch asks a real GPU for."""

NAMES = [
    name
    for name, construct in CONSTRUCTS.items()
    if name.partition("-")[0] in OF_DEVICES and name not in NOT_THERE
]


@pytest.fixture(autouse=True)
def _no_random_state_of_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda _device: torch.get_rng_state())
    monkeypatch.setattr(torch.cuda, "set_rng_state", lambda _state, _device: None)


def on_a_gpu(network: nn.Module, inputs: Any) -> Any:
    """Move parameters and buffers to a fake GPU in place; returns the inputs there."""

    def moved(value: Any) -> Any:
        return mode.from_tensor(value.detach()).to("cuda") if isinstance(value, Tensor) else value

    mode = torch._guards.detect_fake_mode()
    weights: dict[int, Tensor] = {}
    for module in network.modules():
        for named in (module._parameters, module._buffers):
            for name, value in named.items():
                if value is not None:
                    fake = nn.Parameter(moved(value)) if isinstance(value, nn.Parameter) else moved(value)
                    named[name] = weights.setdefault(id(value), fake)
        if isinstance(module, nn.RNNBase):
            module._flat_weights = [weights[id(each)] for each in module._flat_weights]
    return tree_map(moved, inputs)


def operators(network: nn.Module, inputs: Any) -> list[str]:
    program = trace_functional(network, *as_call(inputs), training=None).program
    return [str(node.target) for node in program.graph.nodes if node.op == "call_function"]


@pytest.mark.parametrize("name", NAMES)
def test_a_trace_on_a_gpu_is_that_on_the_cpu(name: str) -> None:
    expected = operators(*made(CONSTRUCTS[name]))
    network, inputs = made(CONSTRUCTS[name])
    with FakeTensorMode(allow_non_fake_inputs=True), torch.device("cuda"):
        assert operators(network, on_a_gpu(network, inputs)) == expected
