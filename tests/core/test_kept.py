"""Changes of basis that the unmodified network allows: teleported weights, and nothing else, must keep it."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
from support.precision import double_and_seeded
from support.releases import needs_torch
from support.zoo.constructs import Inputs, Wired
from support.zoo.constructs_run import assert_same, call, kept, largest, made
from support.zoo.marks import each_construct, each_construct_and_mode
from support.zoo.networks import CONSTRUCTS
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision import models

from nteleport import Quiver, TeleportableModel, analyze, materialize, sample_cob, scales, teleported
from nteleport.core.cob import admitted_cob
from nteleport.core.kept import noticing_mode_reads
from nteleport.errors import AnalysisError, TeleportationError

_double_and_seeded = pytest.fixture(autouse=True)(double_and_seeded)


@cache
def kept_quiver(name: str) -> Quiver:
    network, inputs = made(CONSTRUCTS[name])
    with kept(network):
        return analyze(network, inputs, training=traced_mode(name), activations="kept")


def traced_mode(name: str) -> bool:
    """A mode in which a construct runs and a trace stands for it."""
    construct = CONSTRUCTS[name]
    return next((mode for mode in construct.modes if mode in construct.traced), construct.traced[0])


def drawn(quiver: Quiver, seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    cob = sample_cob(quiver.cob_size, 0.9, "inter_landscape", generator=generator)
    return admitted_cob(quiver, cob, generator).double()


def move(network: nn.Module, quiver: Quiver, cob: Tensor) -> None:
    """Write teleported weights into a network, and nothing else."""
    parameters = dict(network.named_parameters())
    with torch.no_grad():
        for name, value in teleported(parameters, quiver, cob).items():
            parameters[name].copy_(value)


@each_construct_and_mode
def test_teleported_weights_keep_the_unmodified_network(name: str, training: bool) -> None:
    construct = CONSTRUCTS[name]
    network, inputs = made(construct)
    plain, _ = made(construct)
    network.train(training)
    plain.train(training)
    quiver = kept_quiver(name)
    move(network, quiver, drawn(quiver))
    with torch.no_grad():
        for turn in range(2):
            assert_same(call(network, inputs, turn), call(plain, inputs, turn), construct.tolerance(1e-10))
    buffers = dict(plain.named_buffers())
    assert_same(dict(network.named_buffers()), buffers, construct.tolerance(1e-10))


@each_construct
def test_every_entry_moves_some_weight(name: str) -> None:
    quiver = kept_quiver(name)
    for entry in range(quiver.cob_size):
        cob = torch.ones(quiver.cob_size)
        cob[entry] = -1.0 if quiver.admits[entry] == "sign" else 2.0
        assert any((scale != 1).any() for scale in scales(quiver, cob).values()), entry


@each_construct
def test_entries_are_fewer_than_with_conjugated_activations(name: str) -> None:
    network, inputs = made(CONSTRUCTS[name])
    with kept(network):
        conjugated = analyze(network, inputs, training=traced_mode(name))
    quiver = kept_quiver(name)
    assert quiver.activations == "kept"
    assert len(quiver.admits) == quiver.cob_size <= conjugated.cob_size
    assert set(conjugated.admits) <= {"nonzero"}


def sequential(*layers: nn.Module) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(5, 4), *layers), torch.randn(6, 5)


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.inner, self.last = nn.Linear(5, 4), nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x)
        return self.last(h + torch.relu(self.inner(h)))


def change(network: nn.Module, inputs: Inputs, quiver: Quiver, cob: Tensor) -> float:
    """By how much the outputs of a network differ after a move that its quiver may not admit."""
    with torch.no_grad(), kept(network):
        before = call(network, inputs)
        move(network, quiver, cob)
        return largest(call(network, inputs) - before)


class TestNegativeControls:
    def test_a_sign_where_only_positive_numbers_are_admitted(self) -> None:
        network, inputs = sequential(nn.ReLU(), nn.Linear(4, 3))
        quiver = analyze(network, inputs, activations="kept")
        assert quiver.admits == ("positive",) * 4
        cob = torch.ones(4)
        cob[0] = -1
        assert change(network, inputs, quiver, cob) > 1e-3
        with pytest.raises(TeleportationError, match=r"entry 0 .* admits a positive number"):
            TeleportableModel(network, inputs, quiver).teleport(cob)

    def test_a_size_where_only_signs_are_admitted(self) -> None:
        network, inputs = sequential(nn.Tanh(), nn.Linear(4, 3))
        quiver = analyze(network, inputs, activations="kept")
        assert quiver.admits == ("sign",) * 4
        cob = torch.tensor([1.0, 2.0, 1.0, 1.0])
        assert change(network, inputs, quiver, cob) > 1e-3
        with pytest.raises(TeleportationError, match=r"entry 1 .* admits 1 or -1"):
            TeleportableModel(network, inputs, quiver).teleport(cob)

    def test_an_entry_that_is_split_where_a_residual_ties_it(self) -> None:
        torch.manual_seed(4)
        network, inputs = Residual(), torch.randn(6, 5)
        quiver = analyze(network, inputs, activations="kept")
        assert quiver.cob_size == 4
        inner = quiver.parameters["inner.weight"]
        rows = [
            replace(f, index=torch.where(f.index == 1, 2, f.index)) if f.power == 1 else f
            for f in inner.factors
        ]
        split = {**quiver.parameters, "inner.weight": replace(inner, factors=tuple(rows))}
        cob = drawn(quiver)
        assert change(network, inputs, quiver, cob) < 1e-12
        assert change(network, inputs, replace(quiver, parameters=split), cob) > 1e-3

    def test_an_entry_that_is_changed_where_a_sigmoid_pins_it(self) -> None:
        network, inputs = sequential(nn.Sigmoid(), nn.Linear(4, 3))
        assert analyze(network, inputs, activations="kept").cob_size == 0
        conjugated = analyze(network, inputs)
        assert change(network, inputs, conjugated, drawn(conjugated).abs()) > 1e-3


class Recurrent(nn.Module):
    """Embeds vectors, runs a recurrent network from given states or none, and reads what it hides."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.first, self.layer = nn.Linear(3, 4), layer
        self.last = nn.Linear(getattr(layer, "proj_size", 0) or 5, 2)

    def forward(self, x: Tensor, states: Any = None) -> Tensor:
        return self.last(self.layer(torch.tanh(self.first(x)), states)[0])


RECURRENT: dict[str, tuple[Callable[[], nn.Module], dict[str, int]]] = {
    "rnn_tanh": (lambda: nn.RNN(4, 5, batch_first=True), {"sign": 4 + 5}),
    "rnn_relu": (lambda: nn.RNN(4, 5, nonlinearity="relu", batch_first=True), {"sign": 4, "positive": 5}),
    "lstm": (lambda: nn.LSTM(4, 5, batch_first=True), {"sign": 4 + 5}),
    "lstm_projected": (
        lambda: nn.LSTM(4, 5, proj_size=3, batch_first=True),
        {"sign": 4 + 5, "nonzero": 3},
    ),
    "gru": (lambda: nn.GRU(4, 5, batch_first=True), {"sign": 4 + 5}),
}


@pytest.mark.parametrize("name", RECURRENT)
class TestHiddenStates:
    def analyzed(self, name: str, *states: Any) -> tuple[nn.Module, Quiver, Tensor]:
        torch.manual_seed(0)
        make, _ = RECURRENT[name]
        network, x = Recurrent(make()), torch.randn(2, 6, 3)
        return network, analyze(network, (x, *states), activations="kept"), x

    def test_they_admit_what_their_activation_does(self, name: str) -> None:
        network, quiver, x = self.analyzed(name)
        assert Counter(quiver.admits) == Counter(RECURRENT[name][1])
        for seed in range(3):
            assert change(network, (x,), quiver, drawn(quiver, seed)) < 1e-12

    def test_they_admit_no_more_than_that(self, name: str) -> None:
        network, quiver, x = self.analyzed(name)
        for entry, word in enumerate(quiver.admits):
            if word != "nonzero":
                cob = torch.ones(quiver.cob_size)
                cob[entry] = 2.0 if word == "sign" else -1.0
                assert change(copy.deepcopy(network), (x,), quiver, cob) > 1e-6, entry

    def test_states_that_are_given_pin_them_unless_they_are_zeros(self, name: str) -> None:
        network, free, x = self.analyzed(name)
        width = 3 if name == "lstm_projected" else 5
        states: Any = torch.randn(1, 2, width)
        if name.startswith("lstm"):
            states = (states, torch.randn(1, 2, 5))
        _, quiver, _ = self.analyzed(name, states)
        assert Counter(quiver.admits) == Counter({"sign": 4})
        assert change(copy.deepcopy(network), (x, states), quiver, drawn(quiver)) < 1e-12
        cob = torch.where(torch.arange(free.cob_size) < 4, 1.0, drawn(free))
        assert change(copy.deepcopy(network), (x, states), free, cob) > 1e-6


class Decoder(nn.Module):
    """A decoder starts from the states of an encoder, and another one from zeros that it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder = nn.LSTM(3, 5, batch_first=True), nn.LSTM(3, 5, batch_first=True)
        self.cell, self.last = nn.GRUCell(5, 5), nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        y, _ = self.decoder(x, self.encoder(x)[1])
        state = x.new_zeros(len(x), 5)
        for step in y.unbind(1):
            state = self.cell(step, state)
        return self.last(state)


@needs_torch("2.13")
def test_states_of_an_encoder_are_tied_to_those_of_its_decoder() -> None:
    torch.manual_seed(0)
    network, x = Decoder(), torch.randn(2, 4, 3)
    quiver = analyze(network, x, activations="kept")
    assert Counter(quiver.admits) == Counter({"sign": 5 + 5})
    assert change(network, (x,), quiver, drawn(quiver)) < 1e-12
    assert {name for name, p in quiver.parameters.items() if p.factors} >= {
        "encoder.weight_hh_l0", "decoder.weight_hh_l0", "cell.weight_ih", "cell.weight_hh", "last.weight",
    }  # fmt: skip


MLP_LAYERS: dict[str, Callable[[], nn.Module]] = {"relu": nn.ReLU, "tanh": nn.Tanh, "sigmoid": nn.Sigmoid}


@pytest.mark.parametrize(
    ("activation", "admits", "size"), [("relu", "positive", 2500), ("tanh", "sign", 2500), ("sigmoid", "", 0)]
)
def test_counts_of_a_multilayer_perceptron(activation: str, admits: str, size: int) -> None:
    make = MLP_LAYERS[activation]
    hidden = [m for _ in range(4) for m in (nn.Linear(500, 500), make())]
    network = nn.Sequential(nn.Linear(20, 500), make(), *hidden, nn.Linear(500, 10))
    quiver = analyze(network, torch.randn(2, 20), activations="kept")
    assert Counter(quiver.admits) == Counter({admits: size} if size else {})
    assert [(lost.operator, lost.pinned) for lost in quiver.lost] == [("sigmoid", True)] * (
        5 if not size else 0
    )


@pytest.mark.parametrize(
    ("model", "size", "counts"),
    [
        ("resnet18", 64, {"positive": 2880}),
        ("vgg16_bn", 32, {"positive": 12416}),
        ("vit_b_16", 224, {"nonzero": 37632}),
    ],
)
def test_counts_of_networks_of_torchvision(model: str, size: int, counts: dict[str, int]) -> None:
    torch.set_default_dtype(torch.float32)
    network = models.get_model(model, weights=None)
    inputs = torch.randn(2, 3, size, size)
    assert Counter(analyze(network, inputs, activations="kept").admits) == Counter(counts)


def test_streams_of_a_resnet_are_tied_by_their_sums() -> None:
    quiver = analyze(models.resnet18(), torch.randn(2, 3, 64, 64), activations="kept")
    owned = Counter({layer.name: layer.size for layer in quiver.layers})
    inside = sum(size for name, size in owned.items() if name.endswith("bn1") and name != "bn1")
    assert (inside, sum(owned.values()) - inside) == (1920, 960)
    tied = {lost.layer: lost.operator for lost in quiver.lost if not lost.pinned}
    assert tied["layer1.0.bn2"] == "add"


def test_queries_and_keys_are_inverse_to_one_another() -> None:
    torch.manual_seed(1)
    network = nn.MultiheadAttention(8, 2, batch_first=True)
    inputs = (torch.randn(2, 3, 8),) * 3
    quiver = analyze(network, inputs, activations="kept")
    assert quiver.cob_size == 16  # 8 of queries and keys, 8 of values and the output projection
    cob = torch.ones(16)
    cob[0] = 2.0
    scale = scales(quiver, cob)["in_proj_bias"]
    assert sorted(scale[:16].tolist()) == [0.5] + [1.0] * 14 + [2.0]


def test_rotary_embeddings_leave_one_entry_for_each_rotated_pair() -> None:
    def forward(n: Any, x: Tensor) -> Tensor:
        q, k, v = (layer(x) for layer in (n.q, n.k, n.v))
        angles = torch.arange(3.0)[:, None] * torch.tensor([1.0, 0.1, 1.0, 0.1])
        rotated = [h * angles.cos() + torch.cat([-h[..., 2:], h[..., :2]], -1) * angles.sin() for h in (q, k)]
        return n.out(nn.functional.scaled_dot_product_attention(*rotated, v))

    torch.manual_seed(2)
    network = Wired(forward, **{name: nn.Linear(4, 4) for name in "qkv"}, out=nn.Linear(4, 4))
    inputs = torch.randn(2, 3, 4)
    quiver = analyze(network, inputs, activations="kept")
    assert quiver.cob_size == 2 + 4
    assert change(network, inputs, quiver, drawn(quiver)) < 1e-12


def test_kept_and_conjugated_activations_train_alike() -> None:
    """For SGD, momentum, Adam, AdamW and RMSprop: the moved network, and the plain one seen from there."""
    x, y = torch.randn(16, 5), torch.randint(0, 3, (16,))
    makers: list[Callable[[Any], torch.optim.Optimizer]] = [
        lambda p: torch.optim.SGD(p, 0.1),
        lambda p: torch.optim.SGD(p, 0.05, momentum=0.9, weight_decay=0.01),
        lambda p: torch.optim.Adam(p, 0.01),
        lambda p: torch.optim.AdamW(p, 0.01),
        lambda p: torch.optim.RMSprop(p, 0.01),
    ]
    for make in makers:
        plain, _ = sequential(nn.ReLU(), nn.Linear(4, 3))
        moved = copy.deepcopy(plain)
        quiver = analyze(plain, x, activations="kept")
        cob = drawn(quiver)
        move(moved, quiver, cob)
        model = TeleportableModel(plain, x, quiver)
        model.teleport(cob)
        for network in (moved, model):
            optimizer = make(network.parameters())
            for _ in range(10):
                optimizer.zero_grad()
                nn.functional.cross_entropy(network(x), y).backward()
                optimizer.step()
        torch.testing.assert_close(
            nn.utils.parameters_to_vector(moved.parameters()), model.weight_vector(), rtol=1e-10, atol=1e-12
        )


def test_signs_change_nothing_for_the_trajectory() -> None:
    x, y = torch.randn(16, 5), torch.randint(0, 3, (16,))
    ends = []
    plain, _ = sequential(nn.Linear(4, 4), nn.Linear(4, 3))
    for sign in (1.0, -1.0):
        network = copy.deepcopy(plain)
        quiver = analyze(network, x, activations="kept")
        assert set(quiver.admits) == {"nonzero"}
        cob = drawn(quiver).abs() * torch.where(torch.arange(quiver.cob_size) % 2 == 0, sign, 1.0)
        move(network, quiver, cob)
        optimizer = torch.optim.Adam(network.parameters(), 0.01)
        for _ in range(10):
            optimizer.zero_grad()
            nn.functional.cross_entropy(network(x), y).backward()
            optimizer.step()
        ends.append([p.detach().abs() for p in network.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*ends, strict=True))


def test_undoing_and_composing() -> None:
    network, inputs = sequential(nn.ReLU(), nn.Linear(4, 3))
    quiver = analyze(network, inputs, activations="kept")
    first, second = drawn(quiver, 1), drawn(quiver, 2)
    start = nn.utils.parameters_to_vector(network.parameters()).clone()
    move(network, quiver, first)
    move(network, quiver, second)
    both = nn.utils.parameters_to_vector(network.parameters()).clone()
    move(network, quiver, (first * second).reciprocal())
    torch.testing.assert_close(nn.utils.parameters_to_vector(network.parameters()), start, rtol=1e-14, atol=0)
    move(network, quiver, first * second)
    torch.testing.assert_close(nn.utils.parameters_to_vector(network.parameters()), both, rtol=1e-14, atol=0)


class ModeDependent(nn.Module):
    """Two layers in a row, with a ReLU between them in training mode only."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(5, 4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x)
        return self.b(torch.relu(h) if self.training else torch.tanh(h))


def test_a_network_is_kept_in_both_modes_whichever_it_is_analyzed_in() -> None:
    for training in (True, False):
        quiver = analyze(ModeDependent(), torch.randn(2, 5), training=training, activations="kept")
        assert quiver.cob_size == 0  # positive, and 1 or −1
        assert not any(lost.operator == "" for lost in quiver.lost)


def test_the_materialized_network_is_the_network_at_its_new_weights() -> None:
    network, inputs = sequential(nn.ReLU(), nn.Linear(4, 3))
    model = TeleportableModel(network, inputs, analyze(network, inputs, activations="kept"))
    with torch.no_grad():
        before = network(inputs)
        model.random_teleport(0.9, "inter_landscape", generator=torch.Generator().manual_seed(1))
        assert bool((model.cob > 0).all())
        assert not torch.equal(model.cob, torch.ones(4))
        torch.testing.assert_close(materialize(model)(inputs), before, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(model.network(inputs), before, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    "middle",
    [
        lambda n, h: h.to(torch.int64).to(h.dtype),
        lambda n, h: h + n.shift,  # zero now, and whatever a checkpoint says later
        lambda n, h: torch.where(h > 0, h, h.new_ones(())),
        lambda n, h: h.clamp(-1, 2),
        lambda n, h: torch.linalg.vector_norm(h, 0, dim=-1, keepdim=True) * torch.ones(4),
    ],
)
def test_what_commutes_with_no_scaling_pins(middle: Callable[[Any, Tensor], Tensor]) -> None:
    network = Wired(lambda n, x: n.b(middle(n, n.a(x))), a=nn.Linear(5, 4), b=nn.Linear(4, 3))
    network.register_buffer("shift", torch.zeros(4))
    assert analyze(network, torch.randn(2, 5), activations="kept").cob_size == 0


@pytest.mark.parametrize(
    ("middle", "admits", "size"),
    [
        (lambda h: torch.where(h > 0, h.new_zeros(()), h * 2), "", 0),  # a comparison
        (lambda h: h.masked_fill(torch.eye(2, 4) > 0, 0), "nonzero", 4),
        (lambda h: h.amax(-1, keepdim=True) + torch.zeros(4), "positive", 1),
        (lambda h: h.clamp(min=0) - 0, "positive", 4),
        (lambda h: nn.functional.hardtanh(h), "sign", 4),
        (lambda h: h[:, :2] - h[:, 2:], "nonzero", 2),
        (lambda h: torch.cat([h, h.sin()], 1), "sign", 4),
    ],
)
def test_what_operators_admit(middle: Callable[[Tensor], Tensor], admits: str, size: int) -> None:
    inputs = torch.randn(2, 5)
    first = nn.Linear(5, 4)
    last = nn.Linear(middle(first(inputs)).shape[1], 3)
    network = Wired(lambda n, x: n.b(middle(n.a(x))), a=first, b=last)
    quiver = analyze(network, inputs, activations="kept")
    assert quiver.admits == (admits,) * size
    assert change(network, inputs, quiver, drawn(quiver)) < 1e-12


def test_the_report_names_what_pins_a_parameter() -> None:
    network, inputs = sequential(nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 4), nn.Sigmoid(), nn.Linear(4, 3))
    reasons = {row.name: row.reason for row in analyze(network, inputs, activations="kept").report()}
    assert reasons["0.weight"] == "linear: outputs pinned by batch_norm"
    assert reasons["3.bias"] == "linear: outputs pinned by sigmoid"
    assert reasons["5.bias"].endswith("an output of the network")


def test_unknown_activations_are_refused() -> None:
    with pytest.raises(AnalysisError, match="conjugated or kept"):
        analyze(nn.Linear(2, 2), torch.randn(1, 2), activations="frozen")  # type: ignore[arg-type]


class Thinned(nn.Module):
    """Asks for its mode only where it drops something, as the dense layers of torchvision do."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate, self.first, self.second = rate, nn.Linear(3, 4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.first(x).relu()
        return self.second(F.dropout(hidden, self.rate, self.training) if self.rate else hidden)


@pytest.mark.parametrize(("rate", "asks"), [(0.0, False), (0.5, True)])
def test_a_network_is_traced_in_both_modes_only_where_it_asks_for_its_own(rate: float, asks: bool) -> None:
    network = Thinned(rate)
    with noticing_mode_reads(network) as asked:
        network.eval()(torch.zeros(2, 3))
    assert asked == [__name__] * asks
    assert "training" not in vars(nn.Module)
    assert not network.training
