"""Tracing: forms of example inputs, what can be traced, and what is said of what cannot."""

from __future__ import annotations

import logging
import subprocess
import sys
import textwrap
import warnings
from collections import UserDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from support.releases import needs_torch
from torch import Tensor, nn

from nteleport.core.tracing import as_call, trace
from nteleport.errors import AnalysisError

X = torch.arange(24.0).view(6, 4).sin()


class Net(nn.Module):
    """Two linear layers and a forward that is given as a function of the module."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.a, self.b, self.function = nn.Linear(4, 8), nn.Linear(8, 3), function

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.function(self, *args, **kwargs)

    def layers(self, x: Tensor) -> Tensor:
        return self.b(self.a(x).relu())


@dataclass
class Outputs:
    logits: Tensor
    loss: Tensor | None = None


@dataclass
class Outer:
    inner: Outputs


@pytest.mark.parametrize(
    ("example_inputs", "args", "kwargs"),
    [
        (X, (X,), {}),
        ((X, X), (X, X), {}),
        ([X, None], (X, None), {}),
        ({"x": X}, (), {"x": X}),
        (UserDict(x=X), (), {"x": X}),
        (((X,), {"mask": None}), (X,), {"mask": None}),
        (((), {"x": X}), (), {"x": X}),
        ((({"x": X},), {}), ({"x": X},), {}),
        ((X, {"x": X}), (X, {"x": X}), {}),
        ([(X,), {"x": X}], ((X,), {"x": X}), {}),
        (((X,), {"x": X}, 3), ((X,), {"x": X}, 3), {}),
        ((), (), {}),
    ],
    ids=[
        "a tensor",
        "a tuple",
        "a list",
        "a dict",
        "a mapping",
        "both",
        "both, without arguments",
        "a dict by position",
        "a tensor and a dict",
        "a list of a tuple and a dict",
        "three arguments",
        "nothing",
    ],
)
def test_forms_of_example_inputs(example_inputs: Any, args: Any, kwargs: Any) -> None:
    found_args, found_kwargs = as_call(example_inputs)
    assert type(found_args) is tuple
    assert type(found_kwargs) is dict
    assert repr((found_args, found_kwargs)) == repr((args, kwargs))


@pytest.mark.parametrize(
    ("example_inputs", "said"),
    [
        (3, "a tensor or a tuple of arguments, got int"),
        ("x", "got str"),
        (None, "got NoneType"),
        ({X}, "got set"),
        ({3: X}, r"keywords .* are strings, got 3; .* \(\(dictionary,\), {}\)"),
        (((X,), {0: X}), "keywords .* are strings, got 0"),
    ],
    ids=["a number", "a string", "nothing", "a set", "keywords that are numbers", "both, with numbers"],
)
def test_other_example_inputs_are_refused(example_inputs: Any, said: str) -> None:
    with pytest.raises(AnalysisError, match=said):
        as_call(example_inputs)


CALLS: dict[str, tuple[Callable[..., Any], Any]] = {
    "dict by position": (lambda n, d: n.layers(d["x"]), (({"x": X},), {})),
    "keywords only": (lambda n, *, x, scale: n.layers(x) * scale, {"x": X, "scale": 2}),
    "dict returned": (lambda n, x: {"y": n.layers(x), "pair": (x, None)}, X),
    "dataclass returned": (lambda n, x: Outputs(n.layers(x)), X),
    "nested dataclass returned": (lambda n, x: [Outer(Outputs(n.layers(x), x.sum()))], X),
    "dataclass given": (lambda n, o: n.layers(o.logits), (Outputs(X),)),
    "None, bool, int, str, nested tuples": (
        lambda n, x, none, flag, number, name, nested: n.layers(x + nested[1][0]) * number,
        (X, None, True, 3, "mean", (X, (X, None))),
    ),
}


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=needs_torch("2.7" if name == "dataclass given" else "2.6")) for name in CALLS],
)
def test_what_goes_in_and_out(name: str) -> None:
    function, example_inputs = CALLS[name]
    network = Net(function)
    args, kwargs = as_call(example_inputs)
    program, _ = trace(network, args, kwargs)
    assert repr(program.module()(*args, **kwargs)) == repr(network(*args, **kwargs))


def test_outputs_of_transformers() -> None:
    transformers = pytest.importorskip("transformers")
    network = transformers.BertModel(
        transformers.BertConfig(
            hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8, vocab_size=9
        )
    ).eval()
    inputs = transformers.BatchEncoding(
        {"input_ids": torch.arange(8)[None], "attention_mask": torch.ones(1, 8, dtype=torch.int64)}
    )
    args, kwargs = as_call(inputs)
    program, _ = trace(network, args, kwargs, training=False)
    expected, found = network(**inputs), program.module()(**inputs)
    torch.testing.assert_close(found.last_hidden_state, expected.last_hidden_state)


class TestModes:
    def dropouts(self, network: nn.Module, **mode: Any) -> tuple[list[object], bool]:
        program, training = trace(network, (X[:1],), {}, **mode)
        nodes = program.graph.find_nodes(op="call_function", target=torch.ops.aten.dropout.default)
        return [node.args[2] for node in nodes], training

    @pytest.mark.parametrize("mode", [True, False])
    @pytest.mark.parametrize("present", [True, False])
    def test_the_mode_asked_for(self, mode: bool, present: bool) -> None:
        network = nn.Sequential(nn.Dropout(), nn.Linear(4, 3)).train(present)
        assert self.dropouts(network, training=mode) == ([mode], mode)
        assert {m.training for m in network.modules()} == {present}

    def test_training_comes_first(self) -> None:
        assert self.dropouts(nn.Sequential(nn.Dropout(), nn.Linear(4, 3)).eval()) == ([True], True)

    def test_evaluation_where_training_is_impossible(self) -> None:
        network = nn.Sequential(nn.Dropout(), nn.BatchNorm1d(4))
        assert self.dropouts(network) == ([False], False)
        with pytest.raises(AnalysisError, match=r"in layer 1 \(BatchNorm1d\): Expected more than 1 value"):
            trace(network, (X[:1],), {}, training=True)

    def test_each_module_gets_its_own_mode_back(self) -> None:
        network = nn.Sequential(nn.Linear(4, 3), nn.Dropout(), nn.Dropout())
        network[1].eval()
        trace(network, (X,), {})
        assert [m.training for m in network.modules()] == [True, True, False, True]

    def test_a_module_that_refuses_keeps_its_mode(self) -> None:
        exported = torch.export.export(nn.Sequential(nn.Linear(4, 4), nn.Dropout()).eval(), (X[:1],)).module()
        network = nn.Sequential(exported, nn.Dropout())
        assert self.dropouts(exported)[0] == [False]
        assert self.dropouts(network, training=False)[0] == [False, False]
        assert self.dropouts(network, training=True)[0] == [False, True]

    def test_of_two_failures_that_of_evaluation_mode_is_reported(self) -> None:
        def training_only(n: Net, x: Tensor) -> Tensor:
            if n.training:
                raise ValueError("needs labels in training mode")
            return n.layers(x) if x.sum() > 0 else x

        with pytest.raises(AnalysisError, match="depends on values of its data"):
            trace(Net(training_only), (X,), {})
        branching = Net(lambda n, x: n.layers(x) if x.sum() > 0 else x)
        with pytest.raises(AnalysisError, match="depends on values of its data"):
            trace(nn.Sequential(nn.BatchNorm1d(4), branching), (X[:1],), {})


FAILURES: dict[str, tuple[str, tuple[str, ...]]] = {
    # what forward returns, and what the message says
    "branch on data": ("self.a(x) if x.sum() > 0 else -self.a(x)", ("values of its data", "torch.where")),
    "item": ("self.a(x) * len(range(int(x.sum())))", ("values of its data", "torch.where")),
    "size from data": ("self.a(x) if len(x.nonzero()) > 2 else -self.a(x)", ("values of its data",)),
    "unique": ("self.a(x) * len(x.unique())", ("values of its data", "torch.where")),
    "numpy": ("self.a(x) * float(x.numpy().sum())", ("NumPy", "torch operators")),
    "data_ptr": ("self.a(x) * x.data_ptr()", ("data_ptr", "torch operators")),
    "wrong shape": ("self.a(x.T)", ("[4, 6] X [4, 8]", "in layer a (Linear)", "shapes that")),
    "wrong view": ("self.a(x).view(7, -1)", ("invalid for input of size 48", "shapes that")),
    "too few arguments": ("self.a()", ("missing 1 required positional argument", "as forward takes them")),
    "own assertion": (
        "torch._assert(x.ndim == 3, 'a sequence, please')",
        ("a sequence, please. ", "inputs that the network accepts"),
    ),
    "own error": ("self.refuse(x)", ("bad input: give 3 channels", "inputs that the network accepts")),
}
NETWORK = """
import torch
from torch import nn

class Branching(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Linear(4, 8)

    def refuse(self, x):
        raise ValueError("bad input:\\n  give 3 channels")

    def forward(self, x):
        return EXPRESSION
"""


@needs_torch("2.8")
def test_failures_are_explained_in_one_line_with_file_and_line(tmp_path: Path) -> None:
    """In one process of its own: torch logs some things once only, and to the true stderr."""
    for number, (expression, _) in enumerate(FAILURES.values()):
        (tmp_path / f"network_{number}.py").write_text(NETWORK.replace("EXPRESSION", expression))
    code = f"""
    import importlib, torch
    from nteleport.errors import AnalysisError
    from nteleport.core.tracing import trace
    for number in range({len(FAILURES)}):
        try:
            trace(importlib.import_module(f"network_{{number}}").Branching(), (torch.randn(6, 4),), {{}})
        except AnalysisError as error:
            print(error)
    """
    ended = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=False,
    )
    assert ended.stderr == ""
    lines = ended.stdout.splitlines()
    for number, (line, (name, (expression, said))) in enumerate(zip(lines, FAILURES.items(), strict=True)):
        place, source = ("11", "raise ValueError") if name == "own error" else ("14", f"return {expression}")
        assert line.startswith("Branching cannot be traced"), line
        assert f"at {tmp_path}/network_{number}.py:{place}, `{source}" in line
        assert all(words in line for words in said), line


def _gradient(n: Net, x: Tensor) -> Tensor:
    x = x.clone().requires_grad_()
    return torch.autograd.grad(n.layers(x).sum(), x, create_graph=True)[0]


def _quantized() -> nn.Module:
    return torch.ao.quantization.quantize_dynamic(nn.Sequential(nn.Linear(4, 3)).cpu(), {nn.Linear})


class Opaque:
    """Neither a container nor a tensor."""


class DynamicCache:
    """Stands for the cache that decoders return."""


@pytest.mark.parametrize(
    ("make", "inputs", "said"),
    [
        (lambda: nn.Sequential(nn.LazyLinear(3)), (X,), "no weights yet. Run the network once"),
        pytest.param(
            lambda: Net(_gradient),
            (X,),
            r"test_tracing.py:\d+\): it differentiates .* Take that out",
            marks=needs_torch("2.10"),
        ),
        pytest.param(
            lambda: Net(lambda n, x: n.layers(x).sum().backward()),
            (X,),
            "it differentiates",
            marks=needs_torch("2.10"),
        ),
        pytest.param(
            lambda: Net(lambda n, x: torch.func.grad(lambda z: n.a(z).sum())(x)),
            (X,),
            "it differentiates",
            marks=needs_torch("2.13"),
        ),
        (lambda: torch.jit.script(nn.Linear(4, 3)), (X,), "TorchScript module. Analyze the nn.Module that"),
        (lambda: torch.jit.trace(nn.Linear(4, 3), X), (X,), "TorchScript module. Analyze the nn.Module that"),
        (
            lambda: nn.Sequential(torch.ao.quantization.FakeQuantize()),
            (X,),
            r"layer 0 \(FakeQuantize\): .* Analyze the network before it is prepared",
        ),
        (_quantized, (X,), "quantized modules .* before it is converted"),
        (lambda: nn.Linear(4, 3), (X, X), "too many positional arguments. Give example inputs as forward"),
        pytest.param(
            lambda: nn.Linear(4, 3, device="meta"),
            (X,),
            r"\S+ and meta. Put network and example inputs on one",
            marks=needs_torch("2.13"),
        ),
        pytest.param(
            lambda: nn.Sequential(nn.Embedding(4, 3)),
            (X,),
            r"in layer 0 \(Embedding\): .* the dtypes that",
            marks=needs_torch("2.13"),
        ),
        (
            lambda: nn.Sequential(nn.Conv2d(3, 4, 3)),
            (torch.ones(1, 1, 8, 8),),
            "3 channels.* the shapes that",
        ),
        (lambda: nn.Linear(4, 3), (torch.ones(5, 5),), r"\[5, 5\] X \[4, 3\].* the shapes that"),
        (lambda: Net(lambda n, x: Opaque()), (X,), f"it returns a {__name__}.Opaque. Return tensors"),
        (
            lambda: Net(lambda n, x: DynamicCache()),
            (X,),
            "DynamicCache. Set network.config.use_cache = False",
        ),
        (lambda: Net(lambda n, o: o), (Opaque(),), f"an input is a {__name__}.Opaque. Give it tensors"),
    ],
)
def test_what_to_do(make: Callable[[], nn.Module], inputs: tuple[object, ...], said: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TorchScript and quantization are deprecated
        network = make()
    with pytest.raises(AnalysisError, match=said) as caught:
        trace(network, inputs, {})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("decoder", ["GPT2", "Llama"])
def test_a_decoder_with_a_cache(decoder: str) -> None:
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 9}
    config = getattr(transformers, f"{decoder}Config")(**sizes, bos_token_id=0, eos_token_id=0)
    network = getattr(transformers, f"{decoder}Model")(config)
    inputs = (torch.arange(8)[None],)
    with pytest.raises(AnalysisError, match=r"DynamicCache. Set network.config.use_cache = False"):
        trace(network, inputs, {})
    network.config.use_cache = False
    assert trace(network, inputs, {})[1]


def test_logs_and_warnings_are_as_before() -> None:
    logger = logging.getLogger("torch")
    before = [(h, h.level) for h in logger.handlers], logger.level, logger.disabled, list(warnings.filters)
    with pytest.raises(AnalysisError):
        trace(nn.Linear(4, 3), (torch.ones(5, 5),), {})
    after = [(h, h.level) for h in logger.handlers], logger.level, logger.disabled, list(warnings.filters)
    assert after == before


@needs_torch("2.10")
def test_nothing_is_printed_where_tracing_succeeds(capfd: pytest.CaptureFixture[str]) -> None:
    def store(n: Net, x: Tensor) -> Tensor:
        n.last = n.a(x)
        return n.b(n.last)

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trace(Net(store), (X,), {})
    assert caught == []
    assert capfd.readouterr() == ("", "")
