"""Laws of teleportation, over a zoo of tiny networks, in float64."""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves
from zoo.constructs import CONSTRUCT_MAKERS, LOW_PRECISION, ONLY_IN_EVALUATION
from zoo.networks import ZOO as NETWORKS
from zoo.networks import mlp, residual

from nteleport import Quiver, TeleportableModel, analyze, materialize, sample_cob, scales
from nteleport.errors import AnalysisError, TeleportationError
from nteleport.quiver import Factor
from nteleport.tracing import as_call

ZOO: dict[str, Callable[[], tuple[nn.Module, Any]]] = {**NETWORKS, **CONSTRUCT_MAKERS}
ULP = torch.finfo(torch.float64).eps


@pytest.fixture(autouse=True)
def _double_and_seeded() -> Iterator[None]:
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@dataclass(frozen=True)
class Case:
    """A network of the zoo, made anew for each test from the same seed."""

    name: str
    training: bool | None = None

    @property
    def tolerance(self) -> float:
        """What the rounding of a construct's own arithmetic allows, relative to that of float64."""
        return LOW_PRECISION.get(self.name, 0.0)

    def network(self) -> tuple[nn.Module, Any]:
        torch.manual_seed(0)
        network, inputs = ZOO[self.name]()
        args, kwargs = as_call(inputs)
        with torch.no_grad():
            network(*args, **kwargs)  # running statistics that are not the initial ones
        return network, inputs

    def model(self) -> TeleportableModel:
        network, inputs = self.network()
        quiver = quiver_of(self.name, self.training)
        if quiver is None:
            pytest.skip("cannot be traced in training mode")
        model = TeleportableModel(network, inputs, quiver)
        return model if self.training is None else model.train(self.training)


@cache
def quiver_of(name: str, training: bool | None) -> Quiver | None:
    try:
        return analyze(*Case(name).network(), training=training)
    except AnalysisError:
        assert training
        assert name in ONLY_IN_EVALUATION
        return None


@pytest.fixture(params=ZOO)
def case(request: pytest.FixtureRequest) -> Case:
    return Case(request.param)


@pytest.fixture
def model(case: Case) -> TeleportableModel:
    return case.model()


def seeded() -> None:
    torch.manual_seed(7)
    random.seed(7)
    np.random.seed(7)


def tensors(found: Any) -> list[Tensor]:
    return [leaf.clone() for leaf in tree_leaves(found) if isinstance(leaf, Tensor)]


def outputs(function: Callable[..., Any], model: TeleportableModel) -> list[Tensor]:
    """All outputs, with the same dropout and without keeping what the network does to its buffers."""
    buffers = [(buffer, buffer.clone()) for buffer in model.network.buffers()]
    seeded()
    with torch.no_grad():
        found = tensors(function(*model.example_inputs, **model.example_kwargs))
        for buffer, value in buffers:
            buffer.copy_(value)
    return found


def inter(model: TeleportableModel, seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return sample_cob(model.cob_size, 0.9, "inter_landscape", generator=generator).double()


def assert_equal(actual: list[Tensor], expected: list[Tensor], tolerance: float) -> None:
    for a, e in zip(actual, expected, strict=True):
        largest = max(1.0, float(e.abs().max())) if e.numel() and e.dtype != torch.bool else 1.0
        torch.testing.assert_close(a, e, rtol=tolerance, atol=tolerance * largest)


def weights(model: TeleportableModel) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in model.network.named_parameters()}


@pytest.mark.parametrize("training", [True, False])
def test_teleporting_keeps_the_function(case: Case, training: bool) -> None:
    model = case.model().train(training)
    before = outputs(model.network, model)
    model.teleport(inter(model))
    for _ in range(3):
        assert_equal(outputs(model, model), before, 1e-11 + case.tolerance)


@pytest.mark.parametrize("training", [True, False])
def test_materialized_network_agrees(case: Case, training: bool) -> None:
    model = replace(case, training=training).model()
    before = outputs(model.network, model)
    model.teleport(inter(model))
    materialized = materialize(model)
    assert_equal(outputs(materialized, model), before, 1e-10 + case.tolerance)
    held = dict(materialized.named_parameters())
    assert all(torch.equal(held[name], p) for name, p in weights(model).items() if name in held)


def test_materialized_network_agrees_in_the_mode_in_which_it_was_not_analyzed(case: Case) -> None:
    model = case.model().train(not case.model().quiver.training)
    before = outputs(model.network, model)
    model.teleport(inter(model))
    if not model.quiver.training and case.name in ONLY_IN_EVALUATION:
        pytest.skip("cannot be traced in training mode")
    assert_equal(outputs(materialize(model), model), before, 1e-10 + case.tolerance)


def test_undoing_restores_to_two_ulp(model: TeleportableModel) -> None:
    before = weights(model)
    model.teleport(inter(model))
    model.undo_teleportation()
    for name, after in weights(model).items():
        if after.dtype.is_floating_point or after.is_complex():
            ulp = torch.finfo(after.dtype).eps
            assert ((after - before[name]).abs() <= 2 * ulp * before[name].abs()).all(), name
    assert (model.cob == 1).all()


def test_composing_is_teleporting_by_the_product(case: Case) -> None:
    model = case.model()
    start = weights(model)
    first, second = inter(model, 1), inter(model, 2)
    model.teleport(first)
    model.teleport(second, reset=False)
    composed, cob = weights(model), model.cob.clone()
    model.undo_teleportation()
    model.teleport(first * second)
    torch.testing.assert_close(cob, model.cob)
    for name, direct in weights(model).items():
        torch.testing.assert_close(composed[name], direct, rtol=1e-13 + case.tolerance, atol=1e-13)
        assert_scaled(direct, start[name], scales(model.quiver, first * second)[name])


def assert_scaled(after: Tensor, before: Tensor, scale: Tensor) -> None:
    """After is before times scale, rounded to its own dtype a few times."""
    if before.is_floating_point() or before.is_complex():
        rtol = 8 * torch.finfo(before.dtype).eps
        torch.testing.assert_close(after, (before * scale).to(before.dtype), rtol=rtol, atol=0)
    else:
        assert torch.equal(after, before)


def test_teleporting_again_starts_from_the_original(model: TeleportableModel) -> None:
    start, cob = weights(model), inter(model, 2)
    model.teleport(inter(model, 1))
    model.teleport(cob)
    for name, weight in weights(model).items():
        assert_scaled(weight, start[name], scales(model.quiver, cob)[name])


def test_ones_change_nothing(model: TeleportableModel) -> None:
    before = weights(model)
    model.teleport(torch.ones(model.cob_size))
    assert all(torch.equal(after, before[name]) for name, after in weights(model).items())


def test_every_entry_changes_some_weight(model: TeleportableModel) -> None:
    reached = [factor.index.flatten() for p in model.quiver.parameters.values() for factor in p.factors]
    assert torch.equal(torch.cat(reached).unique()[-model.cob_size :], torch.arange(1, model.cob_size + 1))
    for entry in range(model.cob_size):
        cob = torch.ones(model.cob_size)
        cob[entry] = 2.0
        assert any((scale != 1).any() for scale in scales(model.quiver, cob).values()), entry


def test_gradients_are_those_of_the_plain_network_over_the_scale(case: Case) -> None:
    def gradients(function: Callable[..., Any]) -> list[Tensor | None]:
        buffers = [(buffer, buffer.clone()) for buffer in model.network.buffers()]
        seeded()
        found = tree_leaves(function(*model.example_inputs, **model.example_kwargs))
        leaves = [o for o in found if isinstance(o, Tensor) and o.requires_grad]
        model.network.zero_grad()
        sum((o.abs().square().sum() for o in leaves), torch.zeros(())).backward()
        with torch.no_grad():
            for buffer, value in buffers:
                buffer.copy_(value)
        return [None if p.grad is None else p.grad.to_dense() for p in model.network.parameters()]

    model = case.model().eval()
    plain = gradients(model.network)
    cob = inter(model)
    model.teleport(cob)
    for g, h, scale in zip(plain, gradients(model), scales(model.quiver, cob).values(), strict=True):
        assert (g is None) == (h is None)
        if g is not None and h is not None:
            expected = (g / scale).to(h.dtype)
            rough = 10 * case.tolerance
            atol = 1e-13 + (1e-11 + rough) * float(expected.abs().max())
            torch.testing.assert_close(h, expected, rtol=1e-9 + rough, atol=atol)


def test_the_report_says_what_moves(model: TeleportableModel) -> None:
    cob = 1 + torch.rand(model.cob_size)
    scale = scales(model.quiver, cob)
    for row in model.quiver.report():
        assert (row.status == "untouched") == bool((scale[row.name] == 1).all()), row


def test_analysis_keeps_every_parameter_attribute_and_random_state(case: Case) -> None:
    network, inputs = case.network()
    seeded()

    def state() -> dict[str, object]:
        found: dict[str, object] = {
            f"{path}.{name}": {key: id(each) for key, each in value.items()}
            if isinstance(value, dict)
            else id(value)
            for path, module in network.named_modules()
            for name, value in vars(module).items()
        }
        found |= {name: b.numpy().tobytes() for name, b in network.named_buffers()}
        randomness = (
            random.getstate(),
            np.random.get_state()[1].tobytes(),
            torch.get_rng_state().numpy().tobytes(),
        )
        return {**found, "random": randomness, "modes": [m.training for m in network.modules()]}

    before = state()
    analyze(network, inputs)
    assert state() == before


def test_layers_are_runs_that_fill_the_cob(model: TeleportableModel) -> None:
    ends = [0, *(layer.start + layer.size for layer in model.quiver.layers)]
    assert [layer.start for layer in model.quiver.layers] == ends[:-1]
    assert ends[-1] == model.cob_size


def test_analysis_leaves_no_trace() -> None:
    network, inputs = residual()
    network.eval()
    network.bn.train()
    before = {name: t.clone() for name, t in network.state_dict().items()}
    modes = [m.training for m in network.modules()]
    random_state = torch.get_rng_state()
    TeleportableModel(network, inputs)
    assert torch.equal(torch.get_rng_state(), random_state)
    assert [m.training for m in network.modules()] == modes
    assert all(torch.equal(t, before[name]) for name, t in network.state_dict().items())


@pytest.mark.parametrize(
    "name", ["mlp", "residual", "concat", "grouped", "transposed", "every_norm", "tied_weights"]
)
def test_a_corrupted_label_makes_the_materialized_network_disagree(name: str) -> None:
    network, inputs = ZOO[name]()
    quiver = analyze(network, inputs, training=False)
    parameter = next(n for n, p in quiver.parameters.items() if any(f.power == -1 for f in p.factors))
    model = TeleportableModel(network.eval(), inputs, quiver=_corrupted(quiver, parameter))
    before = outputs(network, model)
    model.teleport(inter(model))
    assert_equal(outputs(model, model), before, 1e-11)  # the function cannot break ...
    after = outputs(materialize(model), model)  # ... but the oracle notices
    assert max(float((a - b).abs().max()) for a, b in zip(after, before, strict=True)) > 1e-4


def _corrupted(quiver: Quiver, name: str) -> Quiver:
    """The same quiver with the labels on the input side of one weight rotated by one."""
    parameter = quiver.parameters[name]
    factors = tuple(
        Factor(f.index.flatten().roll(1).view_as(f.index), -1) if f.power == -1 else f
        for f in parameter.factors
    )
    return replace(quiver, parameters={**quiver.parameters, name: replace(parameter, factors=factors)})


class TestLimitsOfThePublishedCode:
    """Its layers must be replaced by hand, used once each, and skip operands written in one order."""

    def test_operations_in_forward(self) -> None:
        network, inputs = ZOO["functional_only"]()
        report = TeleportableModel(network, inputs).quiver.report()
        assert {row.name for row in report if row.status != "teleported"} == {"bias"}  # of the outputs

    def test_a_module_used_more_than_once(self) -> None:
        network, inputs = ZOO["module_used_twice"]()
        rows = {row.name: row for row in TeleportableModel(network, inputs).quiver.report()}
        assert rows["again.weight"].status == "tied"
        assert "used 2 times" in rows["again.weight"].reason

    def test_order_of_skip_operands(self) -> None:
        written = {}
        for name in ("residual", "residual_reversed", "residual_inplace"):
            torch.manual_seed(0)
            network, inputs = ZOO[name]()
            model = TeleportableModel(network, inputs)
            model.teleport(inter(model))
            written[name] = model.get_weights()
        assert torch.equal(written["residual"], written["residual_reversed"])
        assert torch.equal(written["residual"], written["residual_inplace"])


class TestReport:
    def test_names_the_operator_that_has_no_rule(self) -> None:
        network, inputs = ZOO["unknown_operator"]()
        rows = {row.name: row for row in TeleportableModel(network, inputs).quiver.report()}
        assert rows["scale"].status == "untouched"
        assert "linalg_vector_norm" in rows["scale"].reason
        assert rows["first.weight"].status == "teleported"

    def test_says_which_parameters_are_never_reached(self) -> None:
        network = nn.Sequential(nn.Linear(3, 2))
        network.register_parameter("spare", nn.Parameter(torch.zeros(2)))
        rows = {row.name: row for row in TeleportableModel(network, torch.zeros(1, 3)).quiver.report()}
        assert rows["spare"][2:] == ("untouched", "not reached from the inputs")

    def test_names_both_owners_of_a_tied_weight(self) -> None:
        network, inputs = ZOO["tied_weights"]()
        rows = {row.name: row for row in TeleportableModel(network, inputs).quiver.report()}
        assert rows["encode.weight"].status == "tied"
        assert "encode.weight, decode.weight" in rows["encode.weight"].reason


class TestModel:
    def test_gradients_with_respect_to_the_cob_match_finite_differences(self) -> None:
        network, inputs = mlp()
        model = TeleportableModel(network, inputs)
        start = inter(model).abs() + 0.5

        def loss(cob: Tensor) -> Tensor:
            model.cob = cob
            return model(*inputs).square().sum()

        assert torch.autograd.gradcheck(loss, start.requires_grad_())

    def test_set_weights_inverts_get_weights(self) -> None:
        model = TeleportableModel(*residual())
        vector = torch.randn_like(model.get_weights())
        model.set_weights(vector)
        assert torch.equal(model.get_weights(), vector)
        assert torch.equal(vector[:162].view(6, 3, 3, 3), model.network.stem.weight.detach())

    def test_set_params_restores_a_position(self) -> None:
        model = TeleportableModel(*residual())
        model.eval()
        model.teleport(inter(model))
        position, expected = model.get_params(), outputs(model, model)
        model.reset_weights()
        assert not torch.equal(outputs(model, model)[0], expected[0])
        model.set_params(*position)
        assert torch.equal(outputs(model, model)[0], expected[0])

    def test_get_grad_is_autograd_and_leaves_grad_alone(self) -> None:
        model = TeleportableModel(*mlp())
        model.teleport(inter(model))
        (x,), y = model.example_inputs, torch.tensor([0, 1, 2, 0])
        vector = model.get_grad(x, y, F.cross_entropy)
        assert all(p.grad is None for p in model.parameters())
        F.cross_entropy(model(x), y).backward()
        assert torch.equal(
            vector, torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
        )

    def test_get_grad_is_zero_where_a_parameter_is_frozen(self) -> None:
        model = TeleportableModel(*mlp())
        model.network[0].weight.requires_grad_(False)
        vector = model.get_grad(model.example_inputs[0], torch.tensor([0, 1, 2, 0]), F.cross_entropy)
        assert (vector[:42] == 0).all()
        assert (vector[42:] != 0).any()

    def test_state_dict_carries_the_position(self) -> None:
        source, target = TeleportableModel(*mlp()), TeleportableModel(*mlp())
        source.teleport(inter(source))
        target.load_state_dict(source.state_dict())
        assert torch.equal(target.cob, source.cob)
        assert torch.equal(target(*source.example_inputs), source(*source.example_inputs))

    def test_reset_weights_starts_afresh(self) -> None:
        model = TeleportableModel(*mlp())
        model.teleport(inter(model))
        torch.manual_seed(3)
        model.reset_weights()
        torch.manual_seed(3)
        expected = nn.Linear(7, 6)
        assert torch.equal(model.network[0].weight, expected.weight)
        assert (model.cob == 1).all()

    @pytest.mark.parametrize(
        ("cob", "message"),
        [
            (torch.ones(3), r"shape \(11,\), got \(3,\)"),
            ([1.0] * 11, "a tensor of 11 real numbers, got list"),
            (torch.ones(11) * 1j, "a tensor of 11 real numbers, got torch.complex64"),
            (torch.ones(11).index_fill(0, torch.tensor([4]), 0.0), "entry 4 .* is 0.0"),
            (torch.ones(11).index_fill(0, torch.tensor([2]), torch.inf), "entry 2 .* is inf"),
        ],
    )
    def test_an_unusable_cob_is_refused_and_nothing_moves(self, cob: Tensor, message: str) -> None:
        model = TeleportableModel(*mlp())
        before = model.get_weights()
        with pytest.raises(TeleportationError, match=message):
            model.teleport(cob)
        assert torch.equal(model.get_weights(), before)

    @pytest.mark.parametrize(
        ("network", "inputs", "message"),
        [
            (3, torch.ones(1, 7), "expected a torch.nn.Module, got int"),
            (nn.Linear(7, 2), 3, "a tensor or a tuple of arguments, got int"),
            (nn.Linear(7, 2), None, "a tensor or a tuple of arguments, got NoneType"),
        ],
    )
    def test_what_cannot_be_analyzed_is_told(self, network: Any, inputs: Any, message: str) -> None:
        with pytest.raises(AnalysisError, match=message):
            analyze(network, inputs)

    def test_inputs_of_a_wrong_shape_are_told_without_the_log_of_torch(self) -> None:
        program = (
            "import torch, nteleport\n"
            "try:\n    nteleport.analyze(torch.nn.Linear(4, 2), torch.ones(3, 7))\n"
            "except nteleport.errors.AnalysisError as error:\n    print(error)"
        )
        ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
        assert ended.stdout.startswith("Linear cannot be traced")
        assert "Traceback" not in ended.stderr

    def test_a_network_that_cannot_be_traced_is_one_clear_error(self) -> None:
        class Branching(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.layer = nn.Linear(3, 3)

            def forward(self, x: Tensor) -> Tensor:
                return self.layer(x) if x.sum() > 0 else x

        with pytest.raises(AnalysisError, match="Branching cannot be traced"):
            TeleportableModel(Branching(), torch.zeros(1, 3))
