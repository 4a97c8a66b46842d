"""A certificate says what became of the outputs, and taking it leaves no trace."""

from __future__ import annotations

import copy
import hashlib
import json
import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from nteleport import Certificate, OutputChange, Quiver, analyze, teleport_, weights_digest
from nteleport.core.certificate import Snapshot
from nteleport.errors import TeleportationError

X = torch.linspace(-1, 1, 24).view(8, 3)


def scale_by(factor: float) -> Any:
    """A wrong move: it multiplies all weights and biases of the last layer."""

    @torch.no_grad()
    def move(network: nn.Module) -> None:
        for parameter in list(network.parameters())[-2:]:
            parameter.mul_(factor)

    return move


def network_and_quiver() -> tuple[nn.Sequential, Quiver]:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    return network, analyze(network, X, activations="kept")


def certificate_of(network: nn.Module, quiver: Quiver, move: Any, full: bool = False) -> Certificate:
    snapshot = Snapshot(network, X, full=full)
    move(network)
    return snapshot.certify(quiver, torch.ones(quiver.cob_size), move)


def change(certificate: Certificate) -> tuple[float | None, float | None]:
    return certificate.absolute, certificate.relative


def test_a_change_of_the_outputs_is_measured() -> None:
    network, quiver = network_and_quiver()
    largest = network(X).abs().max().item()

    certificate = certificate_of(network, quiver, scale_by(1.5))

    assert certificate.absolute == pytest.approx(0.5 * largest, rel=1e-5)
    assert certificate.relative == pytest.approx(0.5 / 1.5, rel=1e-5)
    assert certificate.largest_relative == certificate.relative


def test_outputs_that_stay_have_changed_by_zero() -> None:
    network, quiver = network_and_quiver()
    assert change(certificate_of(network, quiver, scale_by(1.0))) == (0.0, 0.0)
    assert change(certificate_of(scaled(network, 0.0), quiver, scale_by(2.0))) == (0.0, 0.0)  # all are 0


def scaled(network: nn.Module, factor: float) -> nn.Module:
    scale_by(factor)(network)
    return network


def test_a_number_that_is_no_longer_finite_is_an_infinite_change() -> None:
    network, quiver = network_and_quiver()
    certificate = certificate_of(network, quiver, scale_by(math.inf))
    assert change(certificate) == (math.inf, math.inf)
    assert json.loads(json.dumps(certificate.to_dict()))["relative"] is None
    assert change(certificate_of(network, quiver, scale_by(1.0))) == (0.0, 0.0)  # it was not before, either


@dataclass
class Unregistered:
    values: Tensor
    aside: dict[str, tuple[Tensor, int]]


class Structured(nn.Module):
    """Its outputs are tensors in a dataclass, a dictionary and a tuple; one is a view of a parameter."""

    def __init__(self, where: str) -> None:
        super().__init__()
        self.where, self.layer = where, nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Any:
        y = self.layer(x)
        fixed = torch.ones(2)
        if self.where == "dataclass":
            return Unregistered(y, {"a": (fixed, 1)})
        if self.where == "nested":
            return Unregistered(fixed, {"a": (y, 1)})
        if self.where == "whole numbers":
            return fixed, (y.detach() * 100).round().long()
        return {"fixed": fixed, "parameter": self.layer.bias}


@pytest.mark.parametrize("where", ["dataclass", "nested", "whole numbers", "parameter"])
def test_every_tensor_in_the_outputs_counts(where: str) -> None:
    torch.manual_seed(0)
    network = Structured(where)
    quiver = Quiver(0, {}, ())
    certificate = certificate_of(network, quiver, scale_by(4.0))
    assert certificate.relative == pytest.approx(0.75, rel=0.01)


def test_a_network_without_tensors_in_its_outputs_is_refused() -> None:
    class Silent(nn.Linear):
        def forward(self, x: Tensor) -> Any:
            return "nothing"

    with pytest.raises(TeleportationError, match="Silent returns no tensor"):
        Snapshot(Silent(3, 2), X)


def test_inputs_of_a_wrong_shape_are_refused_in_one_line() -> None:
    network, _ = network_and_quiver()
    with pytest.raises(TeleportationError, match="Sequential cannot run on the example inputs: ") as found:
        Snapshot(network, torch.ones(2, 5))
    assert "\n" not in str(found.value)


class Stochastic(nn.Module):
    """Keeps statistics, draws numbers, writes to its input, and counts its calls."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.drop = nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout()
        self.last = nn.Linear(4, 2)
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        x.add_(float(np.random.rand()))
        return self.last(self.drop(torch.relu(self.norm(self.first(x)))) + torch.rand(4))


@pytest.mark.parametrize("full", [False, True])
def test_taking_a_certificate_leaves_no_trace(full: bool) -> None:
    torch.manual_seed(0)
    network, x = Stochastic(), X.clone()
    network.drop.eval()
    before = copy.deepcopy(network.state_dict())
    states = torch.get_rng_state(), np.random.get_state()[1].copy()
    modes = [module.training for module in network.modules()]

    snapshot = Snapshot(network, x, full=full)
    certificate = snapshot.certify(Quiver(0, {}, ()), torch.ones(0), lambda _: None)

    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert torch.equal(torch.get_rng_state(), states[0])
    assert np.array_equal(np.random.get_state()[1], states[1])
    assert [module.training for module in network.modules()] == modes
    assert network.calls == 0
    assert torch.equal(x, X)
    # The same draws before and after, or dropout and noise would change the outputs.
    assert certificate.largest_relative == 0.0
    assert len(certificate.further) == (8 if full else 0)


def test_a_full_certificate_separates_rounding_from_a_change_of_the_function() -> None:
    network, quiver = network_and_quiver()
    done = teleport_(network, X, quiver=quiver, certificate="full", generator=torch.Generator())
    assert done.certificate is not None
    further = done.certificate.further
    assert set(further) == {
        f"{precision}{mode}, {inputs} inputs"
        for precision in ("", "float64, ")
        for mode in ("train", "eval")
        for inputs in ("given", "random")
    }
    for name, change in further.items():
        assert change.relative <= (1e-14 if "float64" in name else 1e-5)
    assert any(change.relative > 1e-9 for name, change in further.items() if "float64" not in name)
    wrong = certificate_of(network, quiver, scale_by(1.0 + 1e-7), full=True)
    assert wrong.further["float64, eval, given inputs"].relative == pytest.approx(1e-7, rel=1e-3)


def test_a_full_certificate_sees_what_the_given_inputs_hide() -> None:
    class Hidden(nn.Module):
        """One weight acts in training only, the other only where inputs are not 0."""

        def __init__(self) -> None:
            super().__init__()
            self.table, self.extra = nn.Embedding(100, 3), nn.Parameter(torch.ones(2))

        def forward(self, i: Tensor, x: Tensor) -> Tensor:
            y = self.table(i).sum() + x.sum() * 0
            return y * (self.extra[0] if self.training else 1.0) * (self.extra[1] if x.any() else 1.0)

    def move(network: nn.Module, position: int) -> None:
        with torch.no_grad():
            network.extra[position] *= 2

    for position, seen in ((0, "train, given inputs"), (1, "eval, random inputs")):
        network = Hidden().eval()
        snapshot = Snapshot(network, (torch.tensor([7, 90]), torch.zeros(3)), full=True)
        move(network, position)
        certificate = snapshot.certify(Quiver(0, {}, ()), torch.ones(0), lambda n, p=position: move(n, p))
        assert certificate.relative == 0.0
        assert certificate.further[seen].relative == pytest.approx(0.5)
        assert certificate.further[f"float64, {seen}"].relative == pytest.approx(0.5)
        assert certificate.skipped == {}  # random positions lie in the table


def test_complex_weights_are_compared_in_twice_their_precision() -> None:
    network = nn.Sequential(nn.Linear(3, 4, dtype=torch.complex64), nn.Linear(4, 2, dtype=torch.complex64))
    done = teleport_(network, X.to(torch.complex64), certificate="full")
    assert done.certificate is not None
    assert done.certificate.skipped == {}
    assert done.certificate.further["float64, eval, random inputs"].relative < 1e-14
    assert all(p.dtype == torch.complex64 for p in network.parameters())


def test_what_a_network_cannot_run_is_skipped_with_the_reason() -> None:
    class OnlyFloat32(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            if self.training:
                raise RuntimeError("not in training\nat all")
            return super().forward(x.float())

    network = OnlyFloat32(3, 2).eval()
    certificate = Snapshot(network, X, full=True).certify(Quiver(0, {}, ()), torch.ones(0), lambda _: None)
    assert certificate.skipped["train, given inputs"] == "not in training"
    assert "dtype" in certificate.skipped["float64, eval, random inputs"]
    assert set(certificate.further) == {"eval, given inputs", "eval, random inputs"}


def test_casts_that_autocast_keeps_do_not_hide_a_change() -> None:
    network, quiver = network_and_quiver()
    with torch.autocast(X.device.type, dtype=torch.bfloat16):
        network(X)  # autocast keeps the cast weights until its block ends
        certificate = certificate_of(network, quiver, scale_by(2.0))
    assert certificate.relative == pytest.approx(0.5, rel=0.02)


def test_condition_entries_and_admitted_sets_are_those_of_the_change_of_basis() -> None:
    _, quiver = network_and_quiver()
    mixed = replace(quiver, admits=("positive", "nonzero", "sign", "positive"))
    certificate = Certificate.of(mixed, torch.tensor([0.5, -4.0, 1.0, 2.0]), ("a", "b"))
    assert (certificate.condition, certificate.entries) == (8.0, 4)
    assert certificate.admitted == {"nonzero": 1, "positive": 2, "sign": 1}
    assert change(certificate) == (None, None)
    assert Certificate.of(Quiver(0, {}, ()), torch.ones(0), ("a", "a")).condition == 1.0
    assert json.loads(json.dumps(certificate.to_dict())) == certificate.to_dict()


def test_the_digest_is_that_of_names_dtypes_shapes_and_bytes() -> None:
    a, b = np.arange(6, dtype=np.float32).reshape(2, 3), np.array(7, dtype=np.int64)
    expected = hashlib.sha256()
    for name, array in (("a", a), ("b.c", b)):
        expected.update(f"{name} torch.{array.dtype} {array.shape}\n".encode() + array.tobytes())
    tensors = {"a": torch.from_numpy(a.T.copy()).T, "b.c": torch.tensor(7)}  # column-major in memory
    assert weights_digest(tensors) == expected.hexdigest()
    changed = {**tensors, "a": torch.nextafter(tensors["a"], torch.tensor(torch.inf))}
    assert len({weights_digest(each) for each in (tensors, changed, {"x": torch.zeros(0)})}) == 3
    assert len(weights_digest({"half": torch.ones(3, dtype=torch.bfloat16)})) == 64


def test_the_digests_are_those_of_the_weights_before_and_after() -> None:
    network, quiver = network_and_quiver()
    before = weights_digest(network.state_dict())
    done = teleport_(network, X, quiver=quiver)
    assert done.certificate is not None
    assert done.certificate.weights_before == before
    assert done.certificate.weights_after == weights_digest(network.state_dict()) != before


def test_digests_see_neither_statistics_of_a_forward_pass_nor_halves_of_one() -> None:
    class Clamped(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            with torch.no_grad():
                for parameter in self[0].parameters():
                    parameter.clamp_(-2.0, 2.0)
            return super().forward(x)

    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)).train()
    certificate = certificate_of(network, Quiver(0, {}, ()), lambda _: None)
    expected = weights_digest({**dict(network.named_parameters()), **dict(network.named_buffers())})
    assert certificate.weights_before == certificate.weights_after == expected

    network = Clamped(nn.Linear(3, 400), nn.ReLU(), nn.Linear(400, 2))
    before = weights_digest(network.state_dict())
    certificate = certificate_of(network, Quiver(0, {}, ()), lambda each: each[0].weight.data.fill_(5.0))
    assert network[0].weight.max() == 2.0
    assert (certificate.weights_before, certificate.weights_after) == (
        before,
        weights_digest(network.state_dict()),
    )


@pytest.mark.parametrize(
    ("dtype", "expected"), [(torch.float64, 1.5e-8), (torch.float32, 3.5e-4), (torch.bfloat16, 0.088)]
)
def test_the_tolerance_follows_the_dtype(dtype: torch.dtype, expected: float) -> None:
    network = nn.Linear(3, 2, dtype=dtype)
    assert Snapshot(network, X.to(dtype)).tolerance == pytest.approx(expected, rel=0.05)


def test_under_autocast_the_tolerance_is_that_of_the_outputs() -> None:
    with torch.autocast(X.device.type, dtype=torch.bfloat16):
        tolerance = Snapshot(nn.Linear(3, 2), X).tolerance
    assert tolerance == pytest.approx(0.088, rel=0.05)


def test_outputs_of_another_shape_are_an_infinite_change() -> None:
    class Selecting(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            y = super().forward(x)
            return y[y.abs() > 1e3]

    network = Selecting(3, 2)
    certificate = certificate_of(network, Quiver(0, {}, ()), scale_by(1e9))
    assert change(certificate) == OutputChange(math.inf, math.inf)
