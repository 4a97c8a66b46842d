"""Tracing leaves no trace: on the network, on what it reaches, on random states."""

from __future__ import annotations

import functools
import random
import warnings
from collections.abc import Callable, Iterator
from types import FunctionType, MethodType
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from support.releases import needs_torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations
from torch.utils._pytree import tree_leaves

from nteleport.core.preserving import preserved
from nteleport.core.tracing import trace

Made = tuple[nn.Module, tuple[Tensor, ...]]


@functools.lru_cache
def positions(size: int) -> Tensor:
    return torch.arange(size) / size


@functools.cache
def unbounded_positions(size: int) -> tuple[Tensor, ...]:
    return (torch.arange(size) / size,)


def positions_by_default(size: int, kept: dict[int, Tensor] = {}) -> Tensor:  # noqa: B006
    return kept.setdefault(size, torch.arange(size) / size)


MASKS: dict[str, dict[int, Tensor]] = {"causal": {}}
LAST_MASK: Tensor | None = None
CALLS = torch.zeros(1)


def mask_in_globals(size: int) -> Tensor:
    global LAST_MASK
    if LAST_MASK is None:
        LAST_MASK = torch.ones(size, size).triu()
    CALLS.add_(1)
    return MASKS["causal"].setdefault(size, torch.ones(size)) * LAST_MASK[0]


class Rotary:
    """A helper that is no module, as in many implementations of attention."""

    tables: ClassVar[dict[int, Tensor]] = {}

    def __init__(self) -> None:
        self.size, self.table = 0, None

    def __call__(self, size: int) -> Tensor:
        if size != self.size:
            self.size, self.table = size, torch.arange(size) / size
        assert self.table is not None
        return self.table + self.tables.setdefault(size, torch.ones(size))


class Keeps(nn.Module):
    """Two linear layers and between them something that is kept, given as a function of the module."""

    shared: ClassVar[dict[int, Tensor]] = {}

    def __init__(self, between: Callable[[Keeps, Tensor], Tensor], **attributes: Any) -> None:
        super().__init__()
        self.a, self.b, self.between = nn.Linear(4, 8), nn.Linear(8, 3), between
        for name, value in attributes.items():
            setattr(self, name, value)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.between(self, self.a(x)))


def keeps(between: Callable[[Any, Tensor], Tensor], **attributes: Callable[[], Any]) -> Callable[[], Made]:
    return lambda: (Keeps(between, **{n: make() for n, make in attributes.items()}), (torch.randn(6, 4),))


def register_in_forward(n: Keeps, h: Tensor) -> Tensor:
    if not hasattr(n, "positions"):
        n.register_buffer("positions", torch.arange(8.0), persistent=False)
    return h + n.positions


def store_activation(n: Keeps, h: Tensor) -> Tensor:
    n.history.append(h)
    n.last = h + sum(n.history)
    return n.last


def count(n: Keeps, h: Tensor) -> Tensor:
    n.calls.add_(1)
    n.python_calls += 1
    return h * n.calls + n.python_calls


def class_attributes(n: Keeps, h: Tensor) -> Tensor:
    type(n).created_late = h
    return h + n.shared.setdefault(8, torch.ones(8))


def drawn(n: Keeps, h: Tensor) -> Tensor:
    mask = torch.from_numpy(np.random.rand(8) > 0.3) & torch.tensor(random.random() > -1)
    own = torch.from_numpy(n.numpy_generator.random(8)).float()
    return h * mask * own * torch.rand(8, generator=n.generator).sum() * n.python_generator.random()


def alias(n: Keeps, h: Tensor) -> Tensor:
    return n.hidden_modules[0](h)


def of_torch(wrap: Callable[[nn.Module], nn.Module]) -> Callable[[], Made]:
    return lambda: (nn.Sequential(wrap(nn.Linear(4, 8)), nn.ReLU(), nn.Linear(8, 3)), (torch.randn(6, 4),))


def local_cache() -> Made:
    @functools.lru_cache
    def local(size: int) -> Tensor:
        return torch.arange(size) / size

    return Keeps(lambda n, h: h + local(8)), (torch.randn(6, 4),)


def hooked() -> Made:
    network = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 3))
    seen: list[Tensor] = []
    network[0].register_forward_hook(lambda module, args, output: seen.append(output))
    return network, (torch.randn(6, 4),)


def quantization_aware() -> Made:
    from torch.ao.quantization import QuantStub, get_default_qat_qconfig, prepare_qat

    network = nn.Sequential(QuantStub(), nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    network.qconfig = get_default_qat_qconfig()
    return prepare_qat(network.train()), (torch.randn(6, 4),)


def wav2vec2() -> Made:
    transformers = pytest.importorskip("transformers")
    config = transformers.Wav2Vec2Config(
        hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8, conv_dim=[8, 8],
        conv_kernel=[4, 4], conv_stride=[2, 2], num_conv_pos_embedding_groups=2, num_conv_pos_embeddings=4,
        mask_time_prob=0.5, mask_time_length=2, return_dict=False,
    )  # fmt: skip
    return transformers.Wav2Vec2Model(config), (torch.randn(2, 200),)


NETWORKS: dict[str, Callable[[], Made]] = {
    "buffer registered in forward": keeps(register_in_forward),
    "lru_cache": keeps(lambda n, h: h + positions(8)),
    "cache": keeps(lambda n, h: h + unbounded_positions(8)[0]),
    "local lru_cache": local_cache,
    "mutable default argument": keeps(
        lambda n, h: h + n.positions(8), positions=lambda: positions_by_default
    ),
    "globals": keeps(lambda n, h: h + mask_in_globals(8)),
    "class attributes": keeps(class_attributes),
    "plain object": keeps(lambda n, h: h + n.rotary(8), rotary=Rotary),
    "plain object in containers": keeps(
        lambda n, h: h + n.rotary["r"][0](8), rotary=lambda: {"r": [Rotary()]}
    ),
    "bound method": keeps(lambda n, h: h + n.rotary(8), rotary=lambda: Rotary().__call__),
    "partial": keeps(lambda n, h: h + n.rotary(), rotary=lambda: functools.partial(Rotary(), 8)),
    "stored activation": keeps(store_activation, history=list),
    "plain tensor written in place": keeps(count, calls=lambda: torch.zeros(1), python_calls=int),
    "generators": keeps(
        drawn,
        numpy_generator=lambda: np.random.default_rng(0),
        generator=lambda: torch.Generator().manual_seed(0),
        python_generator=lambda: random.Random(0),
    ),
    "modules in a plain list": keeps(alias, hidden_modules=lambda: [nn.BatchNorm1d(8)]),
    "forward hook": hooked,
    "old spectral_norm": of_torch(nn.utils.spectral_norm),
    "old weight_norm": of_torch(nn.utils.weight_norm),
    "spectral_norm": of_torch(parametrizations.spectral_norm),
    "weight_norm": of_torch(parametrizations.weight_norm),
    "batch norm": of_torch(lambda linear: nn.Sequential(linear, nn.BatchNorm1d(8), nn.Dropout())),
    "lstm": lambda: (nn.LSTM(4, 3), (torch.randn(2, 5, 4),)),
    "quantization-aware": quantization_aware,
    "wav2vec2": wav2vec2,
}


def contents(value: object, path: str, seen: set[int]) -> Iterator[tuple[str, object]]:
    """Everything within reach of ``value``, under its path; of tensors a copy, too."""
    yield path, value
    if id(value) in seen or isinstance(value, type):
        return
    seen.add(id(value))
    parts: dict[object, object] = {}
    if isinstance(value, Tensor):
        yield f"{path}: values", value.detach().clone()
    elif isinstance(value, dict):
        parts = {repr(key): each for key, each in value.items()}
    elif isinstance(value, (list, tuple, set)):
        parts = dict(enumerate(value))
    elif isinstance(value, FunctionType):
        parts = dict(enumerate(cell.cell_contents for cell in value.__closure__ or ()))
        parts["defaults"] = value.__defaults__
    elif isinstance(value, functools.partial):
        parts = {"func": value.func}
    elif isinstance(value, MethodType):
        parts = {"self": value.__self__}
    elif hasattr(value, "__dict__"):
        parts = {"dict": vars(value)}
    for name, each in parts.items():
        yield from contents(each, f"{path}/{name}", seen)


def world(network: nn.Module) -> dict[str, object]:
    roots = {"network": network, "MASKS": MASKS, "LAST_MASK": LAST_MASK, "CALLS": CALLS}
    roots |= {f"{kind.__name__}.{name}": v for kind in (Keeps, Rotary) for name, v in vars(kind).items()}
    seen: set[int] = set()
    return {path: v for name, root in roots.items() for path, v in contents(root, name, seen)}


_SINCE = {"stored activation": "2.10", "lstm": "2.10", "generators": "2.13"}


@pytest.fixture(params=[pytest.param(name, marks=needs_torch(_SINCE.get(name, "2.6"))) for name in NETWORKS])
def make(request: pytest.FixtureRequest) -> Callable[[], Made]:
    def seeded() -> Made:
        torch.manual_seed(0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # old spectral_norm, weight_norm and quantization are deprecated
            return NETWORKS[request.param]()

    return seeded


def seed_everything() -> None:
    random.seed(7)
    np.random.seed(7)
    torch.manual_seed(7)


@pytest.fixture(autouse=True)
def _fresh_caches() -> Iterator[None]:
    yield
    for cache in (MASKS["causal"], Keeps.shared, Rotary.tables, positions_by_default.__defaults__[0]):
        cache.clear()
    positions.cache_clear()
    unbounded_positions.cache_clear()
    globals()["LAST_MASK"] = None


def test_everything_within_reach_is_as_before(make: Callable[[], Made]) -> None:
    network, inputs = make()
    before = world(network)
    trace(network, inputs, {})
    after = world(network)
    assert list(after) == list(before)
    for path, value in before.items():
        if path.endswith(": values"):
            torch.testing.assert_close(after[path], value, rtol=0, atol=0, equal_nan=True)
        else:
            assert after[path] is value, path


def test_random_states_are_as_before(make: Callable[[], Made]) -> None:
    network, inputs = make()
    seed_everything()
    expected = (random.random(), np.random.rand(), float(torch.rand(())))
    seed_everything()
    trace(network, inputs, {})
    assert (random.random(), np.random.rand(), float(torch.rand(()))) == expected


def test_the_network_runs_like_an_untouched_one(make: Callable[[], Made]) -> None:
    (network, inputs), (twin, _) = make(), make()
    trace(network, inputs, {})
    found = []
    for each in (network, twin):
        seed_everything()
        found.append([t for t in tree_leaves(each(*inputs)) if t is not None])
    for actual, expected in zip(*found, strict=True):
        assert type(actual) is type(expected) is Tensor
        assert torch.equal(actual, expected)


def test_everything_is_put_back_after_an_error() -> None:
    network = Keeps(store_activation, history=[])

    def break_it() -> None:
        with preserved(network):
            network(torch.randn(6, 4))
            network.eval()
            del network.a
            raise KeyError

    with pytest.raises(KeyError):
        break_it()
    assert network.training
    assert network.history == []
    assert list(network._modules) == ["a", "b"]
    assert not hasattr(network, "last")


def test_results_that_hold_no_fake_tensor_stay_cached() -> None:
    @functools.lru_cache
    def local(size: int) -> Tensor:
        return torch.arange(size)

    with preserved(Keeps(lambda n, h: h + local(8))):
        kept = local(8)
    assert local(8) is kept
