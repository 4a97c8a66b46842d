"""Laws of teleportation, over tiny networks that each have one construct, in float64."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from support.precision import double_and_seeded
from support.releases import needs_torch
from support.zoo.constructs import Construct, Inputs
from support.zoo.constructs_run import analyzed, assert_same, call, is_inexact, kept, largest, leaves, made
from support.zoo.constructs_untraceable import UNTRACEABLE
from support.zoo.marks import (
    each_construct,
    each_construct_and_mode,
    each_construct_and_traced_mode,
    each_construct_of_both_modes,
)
from support.zoo.networks import CONSTRUCTS, ZOO, mlp, residual
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from nteleport import Quiver, TeleportableModel, analyze, materialize, sample_cob, scales
from nteleport.core.quiver import Factor
from nteleport.errors import AnalysisError, TeleportationError

_double_and_seeded = pytest.fixture(autouse=True)(double_and_seeded)


@dataclass(frozen=True)
class Subject:
    """A construct whose running statistics are not the initial ones, ready to be teleported."""

    construct: Construct
    inputs: Inputs
    model: TeleportableModel

    def outputs(self, function: Callable[..., Any]) -> Any:
        """Copies of all outputs, with the same dropout and without keeping what BatchNorm does to its
        statistics."""
        with torch.no_grad(), kept(self.model.network):
            found = call(function, self.inputs)
            return tree_map(lambda o: o.clone() if isinstance(o, Tensor) else o, found)


def prepared(name: str, training: bool | None = None, analyzed_in: bool | None = None) -> Subject:
    """A construct in one mode, with the quiver of this or of another mode."""
    construct = CONSTRUCTS[name]
    mode = construct.modes[0] if training is None else training
    network, inputs = made(construct)
    with torch.no_grad():
        call(network.train(construct.modes[0]), inputs)
    quiver = analyzed(name, mode if analyzed_in is None else analyzed_in).quiver
    model = TeleportableModel(network.train(mode), inputs, quiver)
    return Subject(construct, inputs, model)


def inter(model: TeleportableModel, seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return sample_cob(model.cob_size, 0.9, "inter_landscape", generator=generator).double()


def weights(model: TeleportableModel) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in model.network.named_parameters()}


def assert_weights(actual: Tensor, expected: Tensor, roundings: int, atol: float = 0.0) -> None:
    """Equal up to so many roundings of their type; where it has none, equal."""
    assert actual.dtype == expected.dtype or not is_inexact(actual)
    rtol = roundings * torch.finfo(actual.dtype).eps if is_inexact(actual) else 0.0
    torch.testing.assert_close(actual, expected.to(actual.dtype), rtol=rtol, atol=atol)


@each_construct_and_mode
def test_teleporting_keeps_the_function_on_every_call(name: str, training: bool) -> None:
    construct, found = CONSTRUCTS[name], analyzed(name, training)
    plain, inputs = made(construct)
    plain.train(training)
    with torch.no_grad(), kept(found.network):
        model = TeleportableModel(found.network, found.inputs, found.quiver).train(training)
        model.teleport(inter(model))
        for turn in range(3):
            expected = call(plain, inputs, turn)
            assert_same(call(model, found.inputs, turn), expected, construct.tolerance(1e-11))
    assert all(p is found.before.parameters[n] for n, p in found.network.named_parameters())


@each_construct_and_mode
def test_analysis_leaves_no_trace_in_any_network(name: str, training: bool) -> None:
    found = analyzed(name, training)
    before, after = found.before, found.after
    assert after.parameters.keys() == before.parameters.keys()
    assert all(p is before.parameters[n] and isinstance(p, nn.Parameter) for n, p in after.parameters.items())
    assert after.buffers.keys() == before.buffers.keys()
    assert all(buffer is before.buffers[n] for n, buffer in after.buffers.items())
    assert all(torch.equal(tensor, before.tensors[n]) for n, tensor in after.tensors.items())
    assert after.attributes.keys() == before.attributes.keys()
    assert all(value is before.attributes[n] for n, value in after.attributes.items())
    assert after.modes == before.modes
    assert after.randomness == before.randomness


def test_analysis_uses_up_no_random_numbers_of_numpy() -> None:
    network, inputs = made(CONSTRUCTS["control-numpy_noise_in_training"])
    position = np.random.get_state()[2]
    analyze(network, inputs, training=True)
    assert np.random.get_state()[2] == position


@each_construct_and_traced_mode
def test_materialized_network_agrees(name: str, training: bool) -> None:
    subject = prepared(name, training)
    model = subject.model
    before = subject.outputs(model.network)
    model.teleport(inter(model))
    materialized = materialize(model)
    assert_same(subject.outputs(materialized), before, subject.construct.tolerance(1e-10))
    held = dict(materialized.named_parameters())
    assert all(torch.equal(held[name], p) for name, p in weights(model).items() if name in held)


@each_construct_of_both_modes
def test_materialized_network_agrees_in_evaluation_mode_when_analyzed_in_training_mode(name: str) -> None:
    subject = prepared(name, training=False, analyzed_in=True)
    before = subject.outputs(subject.model.network)
    subject.model.teleport(inter(subject.model))
    assert_same(subject.outputs(materialize(subject.model)), before, subject.construct.tolerance(1e-10))


@each_construct
def test_undoing_restores_to_two_ulp(name: str) -> None:
    model = prepared(name).model
    before = weights(model)
    model.teleport(inter(model))
    model.undo_teleportation()
    for parameter, after in weights(model).items():
        assert_weights(after, before[parameter], roundings=2)
    assert (model.cob == 1).all()


@each_construct
def test_composing_is_teleporting_by_the_product(name: str) -> None:
    model = prepared(name).model
    start = weights(model)
    first, second = inter(model, 1), inter(model, 2)
    model.teleport(first)
    model.teleport(second, reset=False)
    composed, cob = weights(model), model.cob.clone()
    model.undo_teleportation()
    model.teleport(first * second)
    torch.testing.assert_close(cob, model.cob)
    for parameter, direct in weights(model).items():
        assert_weights(composed[parameter], direct, roundings=16, atol=1e-15)
        scale = scales(model.quiver, first * second)[parameter]
        assert_weights(direct, (start[parameter] * scale).to(direct.dtype), roundings=16)


@each_construct
def test_teleporting_again_starts_from_the_original(name: str) -> None:
    model = prepared(name).model
    start, cob = weights(model), inter(model, 2)
    model.teleport(inter(model, 1))
    model.teleport(cob)
    for parameter, weight in weights(model).items():
        scale = scales(model.quiver, cob)[parameter]
        assert_weights(weight, (start[parameter] * scale).to(weight.dtype), roundings=16)


@each_construct
def test_ones_change_nothing(name: str) -> None:
    model = prepared(name).model
    before = weights(model)
    model.teleport(torch.ones(model.cob_size))
    assert all(torch.equal(after, before[n]) for n, after in weights(model).items())


@each_construct
def test_every_entry_changes_some_weight(name: str) -> None:
    quiver = prepared(name).model.quiver
    reached = [factor.index.flatten() for p in quiver.parameters.values() for factor in p.factors]
    pinned = torch.zeros(1, dtype=torch.int64)
    assert torch.equal(torch.cat([pinned, *reached]).unique(), torch.arange(quiver.cob_size + 1))
    for entry in range(quiver.cob_size):
        cob = torch.ones(quiver.cob_size)
        cob[entry] = 2.0
        assert any((scale != 1).any() for scale in scales(quiver, cob).values()), entry


@each_construct
def test_the_report_says_untouched_of_what_does_not_move(name: str) -> None:
    model = prepared(name).model
    moved = {n: bool((scale != 1).any()) for n, scale in scales(model.quiver, inter(model)).items()}
    report = {row.name: row.status for row in model.quiver.report()}
    assert report.keys() == moved.keys() == dict(model.network.named_parameters()).keys()
    assert {n for n, status in report.items() if status == "untouched"} == {n for n in moved if not moved[n]}


@each_construct
def test_gradients_are_those_of_the_plain_network_over_the_scale(name: str) -> None:
    subject = prepared(name, training=False)
    model = subject.model

    def gradients(function: Callable[..., Any]) -> dict[str, Tensor]:
        model.network.zero_grad()
        with kept(model.network):
            found = [
                o.abs().square().sum() for _, o in leaves(call(function, subject.inputs)) if is_inexact(o)
            ]
            sum(found, torch.zeros((), requires_grad=True)).backward()
        return {
            n: torch.zeros_like(p) if p.grad is None else p.grad.to_dense()
            for n, p in model.network.named_parameters()
            if p.requires_grad
        }

    plain = gradients(model.network)
    cob = inter(model)
    model.teleport(cob)
    scale, tolerance = scales(model.quiver, cob), subject.construct.tolerance
    for parameter, teleported in gradients(model).items():
        expected = (plain[parameter] / scale[parameter]).to(teleported.dtype)
        atol = tolerance(1e-11) * largest(expected) + 1e-13
        torch.testing.assert_close(teleported, expected, rtol=tolerance(1e-9), atol=atol)


@each_construct
def test_layers_are_runs_that_fill_the_cob(name: str) -> None:
    quiver = prepared(name).model.quiver
    ends = [0, *(layer.start + layer.size for layer in quiver.layers)]
    assert [layer.start for layer in quiver.layers] == ends[:-1]
    assert ends[-1] == quiver.cob_size


_SAID_SINCE = {"lstm_packed": "2.8", "gradient_in_forward": "2.13"}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=needs_torch(_SAID_SINCE.get(name, "2.6"))) for name in UNTRACEABLE]
)
def test_what_torch_cannot_trace_is_one_clear_error(name: str) -> None:
    construct, words = UNTRACEABLE[name]
    network, inputs = made(construct)
    with pytest.raises(AnalysisError, match=words):
        analyze(network, inputs)


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
    with torch.no_grad():
        before = network(*inputs)
        model.teleport(inter(model))
        assert_same(model(*inputs), before, 1e-11)  # the function cannot break ...
        assert largest(materialize(model)(*inputs) - before) > 1e-4  # ... but the oracle notices


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
        assert {row.status for row in report if row.name != "bias"} == {"teleported"}  # it feeds the outputs

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
            written[name] = model.weight_vector()
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
        vector = torch.randn_like(model.weight_vector())
        model.load_weight_vector(vector)
        assert torch.equal(model.weight_vector(), vector)
        assert torch.equal(vector[:162].view(6, 3, 3, 3), model.network.stem.weight.detach())

    def test_set_params_restores_a_position(self) -> None:
        model = TeleportableModel(*residual())
        model.eval()
        model.teleport(inter(model))
        position, expected = model.position(), model(*model.example_inputs)
        model.reset_parameters()
        assert not torch.equal(model(*model.example_inputs), expected)
        model.load_position(*position)
        assert torch.equal(model(*model.example_inputs), expected)

    def test_get_grad_is_autograd_and_leaves_grad_alone(self) -> None:
        model = TeleportableModel(*mlp())
        model.teleport(inter(model))
        (x,), y = model.example_inputs, torch.tensor([0, 1, 2, 0])
        vector = model.gradient_vector(x, y, F.cross_entropy)
        assert all(p.grad is None for p in model.parameters())
        F.cross_entropy(model(x), y).backward()
        assert torch.equal(
            vector, torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
        )

    def test_get_grad_is_zero_where_a_parameter_is_frozen(self) -> None:
        model = TeleportableModel(*mlp())
        model.network[0].weight.requires_grad_(False)
        vector = model.gradient_vector(model.example_inputs[0], torch.tensor([0, 1, 2, 0]), F.cross_entropy)
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
        model.reset_parameters()
        torch.manual_seed(3)
        expected = nn.Linear(7, 6)
        assert torch.equal(model.network[0].weight, expected.weight)
        assert (model.cob == 1).all()

    @pytest.mark.parametrize(
        ("cob", "message"),
        [
            (torch.ones(3), r"shape \(11,\), got \(3,\)"),
            ([1.0] * 11, r"real numbers of shape \(11,\), got list"),
            (torch.ones(11) * 1j, r"real numbers of shape \(11,\), got torch.complex64"),
            (torch.ones(11).index_fill(0, torch.tensor([4]), 0.0), "entry 4 .* is 0.0"),
            (torch.ones(11).index_fill(0, torch.tensor([2]), torch.inf), "entry 2 .* is inf"),
        ],
    )
    def test_an_unusable_cob_is_refused_and_nothing_moves(self, cob: Tensor, message: str) -> None:
        model = TeleportableModel(*mlp())
        before = model.weight_vector()
        with pytest.raises(TeleportationError, match=message):
            model.teleport(cob)
        assert torch.equal(model.weight_vector(), before)

    @pytest.mark.parametrize(
        ("network", "inputs", "message"),
        [
            (3, torch.ones(1, 7), "expected a torch.nn.Module, got int"),
            (nn.Linear(7, 2), 3, "a tensor or a tuple of arguments, got int"),
            (nn.Linear(7, 2), None, "a tensor or a tuple of arguments, got NoneType"),
        ],
    )
    def test_what_cannot_be_analyzed_is_reported(self, network: Any, inputs: Any, message: str) -> None:
        with pytest.raises(AnalysisError, match=message):
            analyze(network, inputs)

    def test_inputs_of_a_wrong_shape_are_reported_without_the_log_of_torch(self) -> None:
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
