"""Teleporting in place: the same objects, other weights, the same function, and the right training."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from support.precision import double
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.swa_utils import AveragedModel

from nteleport import (
    Quiver,
    TeleportableModel,
    TeleportedOptimizer,
    analyze,
    sample_cob,
    scales,
    teleport_,
)
from nteleport.core.quiver import Factor
from nteleport.errors import TeleportationError

OPTIMIZERS: dict[str, tuple[type[Optimizer], dict[str, Any]]] = {
    "SGD": (torch.optim.SGD, {"lr": 0.05}),
    "SGD momentum": (torch.optim.SGD, {"lr": 0.05, "momentum": 0.9, "weight_decay": 0.01}),
    "Adam": (torch.optim.Adam, {"lr": 0.01, "weight_decay": 0.01}),
    "Adam AMSGrad": (torch.optim.Adam, {"lr": 0.01, "amsgrad": True}),
    "AdamW": (torch.optim.AdamW, {"lr": 0.01, "weight_decay": 0.1}),
    "RMSprop": (torch.optim.RMSprop, {"lr": 0.01, "momentum": 0.9, "centered": True}),
    "Adagrad": (torch.optim.Adagrad, {"lr": 0.01}),
    "Rprop": (torch.optim.Rprop, {"lr": 0.01}),
}
each_optimizer = pytest.mark.parametrize("name", OPTIMIZERS)


_double = pytest.fixture(autouse=True)(double)


class Small(nn.Module):
    """Convolutions, a grouped one among them, and linear layers, with ReLU."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 8, 3, groups=2)
        self.hidden, self.last = nn.Linear(8, 7), nn.Linear(7, 5)

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.conv2(F.relu(self.conv1(x))))
        return self.last(F.relu(self.hidden(h.flatten(2).mean(2))))


@cache
def quiver_of_the_problem() -> Quiver:
    return analyze(Small(), torch.zeros(8, 3, 6, 6), activations="kept")


class Problem:
    """A small network, its quiver, a batch, and a CoB; every instance starts the same."""

    def __init__(self, name: str = "SGD") -> None:
        torch.manual_seed(0)
        self.network = Small()
        self.x, self.y = torch.randn(8, 3, 6, 6), torch.arange(8) % 5
        self.quiver = quiver_of_the_problem()
        generator = torch.Generator().manual_seed(1)
        self.cob = sample_cob(self.quiver.cob_size, 0.9, "intra_landscape", generator=generator).double()
        self.optimizer_class, self.options = OPTIMIZERS[name]
        self.optimizer = self.optimizer_class(self.network.parameters(), **self.options)

    def teleport(self, **options: Any) -> Any:
        given = {"cob": self.cob, "quiver": self.quiver, "optimizer": self.optimizer, **options}
        return teleport_(self.network, self.x, **given)

    def train(self, steps: int = 10, optimizer: Any = None, network: nn.Module | None = None) -> None:
        optimizer = optimizer or self.optimizer
        for _ in range(steps):
            optimizer.zero_grad()
            F.cross_entropy((network or self.network)(self.x), self.y).backward()
            optimizer.step()


def weights(network: nn.Module) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in network.named_parameters()}


def state_of(problem: Problem) -> dict[tuple[str, str], Tensor]:
    named = problem.network.named_parameters()
    return {(n, k): v.clone() for n, p in named for k, v in problem.optimizer.state[p].items() if v.ndim}


def assert_same(actual: dict[Any, Tensor], expected: dict[Any, Tensor], tolerance: float = 1e-10) -> None:
    assert actual.keys() == expected.keys()
    for name in expected:
        torch.testing.assert_close(actual[name], expected[name], rtol=tolerance, atol=tolerance)


def assert_identical(actual: dict[Any, Tensor], expected: dict[Any, Tensor]) -> None:
    assert actual.keys() == expected.keys()
    assert all(torch.equal(actual[name], expected[name]) for name in expected)


def test_the_weights_are_those_of_the_scales_and_the_outputs_stay() -> None:
    problem = Problem()
    before, outputs = weights(problem.network), problem.network(problem.x)

    done = problem.teleport()

    expected = {name: before[name] * scale for name, scale in scales(problem.quiver, problem.cob).items()}
    assert_same(weights(problem.network), expected, 1e-14)
    assert not torch.allclose(problem.network.conv1.weight, before["conv1.weight"])
    torch.testing.assert_close(problem.network(problem.x), outputs, rtol=1e-12, atol=1e-12)
    assert done.quiver is problem.quiver
    assert torch.equal(done.cob, problem.cob)
    assert 0 <= done.certificate.relative < 1e-12


@each_optimizer
def test_ten_steps_from_the_start_equal_those_of_the_teleportable_model(name: str) -> None:
    moved, simple = Problem(name), Problem(name)
    moved.teleport()
    moved.train()
    model = TeleportableModel(simple.network, simple.x, simple.quiver)
    model.teleport(simple.cob)
    simple.train(10, simple.optimizer, model)
    assert_same(weights(moved.network), weights(model.network))


@pytest.mark.parametrize("policy", ["transport", "reset", "keep"])
@each_optimizer
def test_ten_steps_from_mid_training_equal_those_of_the_teleported_optimizer(name: str, policy: Any) -> None:
    moved, wrapped = Problem(name), Problem(name)
    optimizer = TeleportedOptimizer(
        wrapped.network, wrapped.quiver, wrapped.optimizer_class, **wrapped.options
    )
    moved.train(4)
    moved.teleport(optimizer_state=policy)
    moved.train()
    wrapped.train(4, optimizer)
    optimizer.teleport(wrapped.cob, policy)
    wrapped.train(10, optimizer)
    assert_same(weights(moved.network), dict(optimizer.teleported_weights()))


@pytest.mark.parametrize("name", ["SGD momentum", "Adam AMSGrad", "AdamW", "Adagrad"])
def test_transported_state_is_the_state_gathered_at_the_other_weights(name: str) -> None:
    """Plain PyTorch on both sides: with a learning rate of 0 all gradients are taken at one place."""
    moved, there = Problem(name), Problem(name)
    there.teleport(optimizer=None)
    for problem in (moved, there):
        for group in problem.optimizer.param_groups:
            group.update(lr=0.0, weight_decay=0.0)
        problem.train(4)
    moved.teleport()
    assert_same(state_of(moved), state_of(there))


@pytest.mark.parametrize("policy", ["transport", "reset", "keep"])
@each_optimizer
def test_no_object_is_replaced(name: str, policy: Any) -> None:
    problem = Problem(name)
    problem.train(2)
    parameters = list(problem.network.parameters())
    places = [p.data_ptr() for p in parameters]
    versions = [p._version for p in parameters]
    entries = [problem.optimizer.state[p] for p in parameters]
    tensors = [{key: id(value) for key, value in entry.items()} for entry in entries]

    problem.teleport(optimizer_state=policy)

    assert [id(p) for p in problem.network.parameters()] == [id(p) for p in parameters]
    assert [p.data_ptr() for p in parameters] == places
    moved = [p._version > version for p, version in zip(parameters, versions, strict=True)]
    assert moved == [p is not problem.network.last.bias for p in parameters]
    assert all(problem.optimizer.state[p] is entry for p, entry in zip(parameters, entries, strict=True))
    assert problem.optimizer.param_groups[0]["params"] == parameters
    if policy != "reset":
        assert [{key: id(value) for key, value in entry.items()} for entry in entries] == tensors


def test_a_backward_pass_through_the_old_weights_fails() -> None:
    problem = Problem()
    loss = problem.network(problem.x).sum()
    problem.teleport()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_gradients_that_are_there_follow_the_weights() -> None:
    moved, there = Problem(), Problem()
    there.teleport()
    for problem in (moved, there):
        F.cross_entropy(problem.network(problem.x), problem.y).backward()
    moved.teleport()
    gradients = [{n: p.grad for n, p in each.network.named_parameters()} for each in (moved, there)]
    assert_same(gradients[0], gradients[1], 1e-12)  # type: ignore[arg-type]


def test_sparse_gradients_follow_the_weights() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Embedding(5, 3, sparse=True), nn.ReLU(), nn.Linear(3, 2))
    x = torch.tensor([1, 1, 4])
    network(x).sum().backward()
    quiver = analyze(network, x, activations="kept")
    teleport_(network, x, quiver=quiver, cob=torch.tensor([0.5, 2.0, 3.0]))
    moved = network[0].weight.grad.to_dense()
    network.zero_grad()
    network(x).sum().backward()
    torch.testing.assert_close(moved, network[0].weight.grad.to_dense())


def test_parameters_in_several_groups_or_in_none_are_moved() -> None:
    problem = Problem()
    network = problem.network
    groups = [{"params": [network.conv1.weight]}, {"params": network.hidden.parameters(), "lr": 0.1}]
    problem.optimizer = torch.optim.Adam(groups)
    network.conv2.weight.requires_grad_(False)
    problem.train(1)
    outputs, before = network(problem.x), weights(network)
    problem.teleport()
    torch.testing.assert_close(network(problem.x), outputs, rtol=1e-12, atol=1e-12)
    changed = {name for name, weight in weights(network).items() if not torch.equal(weight, before[name])}
    assert changed == set(before) - {"last.bias"}


def test_tied_weights_are_moved_once() -> None:
    torch.manual_seed(0)
    layers = nn.Linear(3, 4), nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 2)
    network = nn.Sequential(layers[0], nn.ReLU(), layers[1], nn.ReLU(), layers[2], nn.ReLU(), layers[3])
    x, shared = torch.randn(6, 3), layers[1].weight
    layers[2].weight = shared
    # Where one weight maps the first hidden layer to the second, and that to the third, all three have the
    # same entries.
    entries = torch.arange(1, 5)
    out, into = Factor(entries[:, None], 1), Factor(entries, -1)
    factors = {"0.weight": [out], "2.weight": [out, into], "6.weight": [into], "6.bias": []}
    known = analyze(network, x).parameters
    biases = (Factor(entries, 1),)
    parameters = {n: replace(p, factors=tuple(factors.get(n, biases))) for n, p in known.items()}
    quiver = Quiver(4, parameters, (), activations="kept", admits=("positive",) * 4)
    outputs, cob = network(x), torch.tensor([0.5, 3.0, 0.1, 1.9])
    expected = shared.detach() * cob[:, None] / cob

    teleport_(network, x, quiver=quiver, cob=cob)

    assert layers[1].weight is layers[2].weight is shared
    torch.testing.assert_close(shared.detach(), expected)
    torch.testing.assert_close(network(x), outputs, rtol=1e-12, atol=1e-12)


def test_an_averaged_copy_moves_by_the_same_change_of_basis() -> None:
    problem = Problem("Adam")
    averaged = AveragedModel(problem.network)
    for _ in range(3):
        problem.train(1)
        averaged.update_parameters(problem.network)
    outputs = averaged(problem.x)
    plain = weights(averaged.module)

    done = problem.teleport()
    teleport_(averaged.module, problem.x, cob=done.cob, quiver=done.quiver)

    torch.testing.assert_close(averaged(problem.x), outputs, rtol=1e-12, atol=1e-12)
    scale = scales(done.quiver, done.cob)
    assert_same(weights(averaged.module), {name: plain[name] * scale[name] for name in plain}, 1e-14)
    problem.train(1)
    averaged.update_parameters(problem.network)  # the average goes on in the same coordinates
    undone = {name: weight / scale[name] for name, weight in weights(averaged.module).items()}
    now = {name: weight / scale[name] for name, weight in weights(problem.network).items()}
    assert_same(undone, {name: plain[name] + (now[name] - plain[name]) / 4 for name in plain}, 1e-12)


def test_undo_restores_weights_and_state_to_two_units_in_the_last_place() -> None:
    problem = Problem("Adam AMSGrad")
    problem.train(3)
    before, state = weights(problem.network), state_of(problem)
    done = problem.teleport()
    done.undo()
    assert_same(weights(problem.network), before, 5e-16)
    assert_same(state_of(problem), state, 2e-15)
    with pytest.raises(TeleportationError, match="undone already"):
        done.undo()


def test_undo_of_powers_of_two_is_exact() -> None:
    problem = Problem("Adam")
    problem.train(3)
    before, state = weights(problem.network), state_of(problem)
    powers = 2.0 ** torch.randint(-2, 3, (problem.quiver.cob_size,))
    problem.teleport(cob=powers).undo()
    assert_identical(weights(problem.network), before)
    assert_identical(state_of(problem), state)


def test_undo_after_training_is_training_that_was_never_undone() -> None:
    moved, wrapped = Problem("Adam"), Problem("Adam")
    optimizer = TeleportedOptimizer(wrapped.network, wrapped.quiver, torch.optim.Adam, **wrapped.options)
    done = moved.teleport()
    moved.train(5)
    done.undo()
    moved.train(5)
    optimizer.teleport(wrapped.cob, "transport")
    wrapped.train(5, optimizer)
    optimizer.teleport(torch.ones_like(wrapped.cob), "transport")
    wrapped.train(5, optimizer)
    assert_same(weights(moved.network), weights(wrapped.network))


def wrong_quiver(problem: Problem) -> Quiver:
    """A quiver that forgets that the hidden layer feeds the last one."""
    known = problem.quiver.parameters
    parameters = {**known, "last.weight": replace(known["last.weight"], factors=())}
    return replace(problem.quiver, parameters=parameters)


@pytest.mark.parametrize("policy", ["transport", "reset", "keep"])
def test_above_the_tolerance_everything_is_rolled_back_bit_for_bit(policy: Any) -> None:
    problem = Problem("Adam")
    problem.train(3)
    before, state = weights(problem.network), state_of(problem)
    gradients = {n: p.grad.clone() for n, p in problem.network.named_parameters() if p.grad is not None}
    with pytest.raises(TeleportationError, match=r"outputs changed by .* tolerance of 1.5e-08") as found:
        problem.teleport(quiver=wrong_quiver(problem), optimizer_state=policy)
    assert "\n" not in str(found.value)
    assert_identical(weights(problem.network), before)
    assert_identical(state_of(problem), state)
    assert_identical({n: p.grad for n, p in problem.network.named_parameters()}, gradients)


def test_a_network_that_fails_at_the_moved_weights_is_rolled_back() -> None:
    problem = Problem()
    before = weights(problem.network)

    def fail(_module: nn.Module, _args: Any) -> None:
        if not torch.equal(problem.network.conv1.weight, before["conv1.weight"]):
            raise KeyboardInterrupt

    problem.network.register_forward_pre_hook(fail)
    with pytest.raises(KeyboardInterrupt):
        problem.teleport()
    assert_identical(weights(problem.network), before)


def test_the_certificate_of_a_wrong_quiver_shows_the_change() -> None:
    problem = Problem()
    before = problem.network(problem.x).detach()
    done = problem.teleport(quiver=wrong_quiver(problem), tolerance=float("inf"))
    after = problem.network(problem.x).detach()
    assert done.certificate.absolute == pytest.approx(float((after - before).abs().max()))
    assert done.certificate.relative > 0.01
    assert problem.teleport(quiver=wrong_quiver(problem), certificate=False).certificate is None


def test_a_negative_entry_before_a_relu_changes_the_outputs() -> None:
    problem = Problem()
    cob = problem.cob.clone()
    cob[-1] *= -1
    with pytest.raises(TeleportationError, match=f"entry {len(cob) - 1} .* admits a positive number"):
        problem.teleport(cob=cob)
    admitting = replace(problem.quiver, admits=("nonzero",) * len(cob))
    done = problem.teleport(cob=cob, quiver=admitting, tolerance=float("inf"))
    assert done.certificate.relative > 1e-3


def test_without_a_change_of_basis_an_admitted_one_is_drawn() -> None:
    problem = Problem()
    drawn = sample_cob(len(problem.cob), 0.5, "inter_landscape", generator=torch.Generator().manual_seed(3))
    assert bool((drawn < 0).any())
    done = problem.teleport(
        cob=None, cob_range=0.5, sampling="inter_landscape", generator=torch.Generator().manual_seed(3)
    )
    assert torch.equal(done.cob, drawn.abs().double())


def test_the_network_is_analyzed_where_no_quiver_is_given() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 2))
    x = torch.randn(6, 3)
    outputs, before = network(x), weights(network)
    done = teleport_(network, x, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(network(x), outputs, rtol=1e-12, atol=1e-12)
    signs = weights(network)["0.weight"] / before["0.weight"]
    torch.testing.assert_close(signs.abs(), torch.ones(4, 3))
    assert set(signs.sign().unique().tolist()) == {1.0, -1.0}
    assert done.certificate is not None
    assert done.certificate.admitted == {"nonzero": 0, "positive": 5, "sign": 4}
    assert done.quiver.activations == "kept"


@pytest.mark.parametrize("objective", ["balance", "path_conditioning", "activation_range"])
def test_an_objective_chooses_the_change_of_basis(objective: Any) -> None:
    problem = Problem()
    outputs, squares = problem.network(problem.x), sum_of_squares(problem.network)
    done = problem.teleport(cob=None, objective=objective)
    torch.testing.assert_close(problem.network(problem.x), outputs, rtol=1e-12, atol=1e-12)
    assert not torch.allclose(done.cob, torch.ones(()))
    if objective == "balance":
        assert sum_of_squares(problem.network) < squares


def sum_of_squares(network: nn.Module) -> float:
    return sum(p.detach().square().sum().item() for p in network.parameters())


def test_objectives_that_need_labels_or_are_unknown_are_refused() -> None:
    problem = Problem()
    for objective, message in (("grad_norm", "labels"), ("balanced", "did you mean 'balance'")):
        with pytest.raises(TeleportationError, match=message):
            problem.teleport(cob=None, objective=objective)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_lower_precision_stays_within_the_tolerance_of_its_dtype(dtype: torch.dtype) -> None:
    problem = Problem()
    problem.network.to(dtype)
    done = teleport_(problem.network, problem.x.to(dtype), quiver=problem.quiver, cob=problem.cob)
    assert done.certificate.relative > 0
    assert all(p.dtype == dtype for p in problem.network.parameters())


def test_it_works_in_inference_mode() -> None:
    problem = Problem()
    outputs = problem.network(problem.x)
    with torch.inference_mode():
        teleport_(problem.network, problem.x * 1.0, quiver=problem.quiver, cob=problem.cob)
    torch.testing.assert_close(problem.network(problem.x), outputs, rtol=1e-12, atol=1e-12)


def test_batch_statistics_and_buffers_stay() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    x = torch.randn(8, 3)
    quiver = analyze(network[1:], x, activations="kept")
    norm = {name: p for name, p in analyze(network, x).parameters.items() if name[0] == "0"}
    untouched = {name: replace(p, factors=()) for name, p in norm.items()}
    before = {name: b.clone() for name, b in network.named_buffers()}
    teleport_(
        network, x, quiver=replace(quiver, parameters={**untouched, **quiver.parameters}), certificate="full"
    )
    assert_identical(dict(network.named_buffers()), before)


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "both": ({"objective": "balance"}, "either given or chosen by an objective, not both"),
    "activations": ({"activations": "keep"}, "unknown activations 'keep', .*did you mean 'kept'"),
    "conjugated": ({"activations": "conjugated"}, "nteleport.TeleportableModel"),
    "policy": ({"optimizer_state": "transports"}, "unknown optimizer_state .*did you mean 'transport'"),
    "certificate": ({"certificate": "complete"}, "unknown certificate .*True, False or 'full'"),
    "tolerance": ({"tolerance": -1}, "tolerance is a number of at least 0"),
    "sampling": ({"cob": None, "sampling": "intra"}, "unknown sampling .*did you mean 'intra_landscape'"),
    "no optimizer": ({"optimizer": "Adam"}, "expected a torch.optim.Optimizer, got str"),
    "short": ({"cob": torch.ones(3)}, r"shape \(\d+,\), got \(3,\)"),
    "zero": ({"cob": torch.zeros(21)}, "entry 0 of the change of basis is 0.0"),
    "no quiver": ({"quiver": "small"}, "expected a Quiver, got str"),
}


@pytest.mark.parametrize("problem_name", REFUSED)
def test_wrong_arguments_are_refused_and_nothing_moves(problem_name: str) -> None:
    problem = Problem()
    before = weights(problem.network)
    options, message = REFUSED[problem_name]
    with pytest.raises(TeleportationError, match=message):
        problem.teleport(**options)
    assert_identical(weights(problem.network), before)


def test_quivers_that_do_not_fit_are_refused() -> None:
    problem = Problem()
    with pytest.raises(TeleportationError, match="conjugates activations"):
        problem.teleport(quiver=replace(problem.quiver, activations="conjugated"))
    deeper = nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 3))
    quiver = analyze(deeper, torch.ones(2, 3), activations="kept")
    for other in (deeper[:3], Small()):  # the quiver has all names and shapes of the first
        with pytest.raises(TeleportationError, match="expected the quiver of this network"):
            teleport_(other, torch.ones(2, 3), quiver=quiver)


def test_optimizers_whose_state_has_no_rule_are_refused_unless_reset_or_kept() -> None:
    class Own(torch.optim.SGD):
        pass

    problem = Problem()
    optimizer = Own(problem.network.parameters(), lr=0.1, momentum=0.9)
    problem.train(1, optimizer)
    with pytest.raises(TeleportationError, match="state of Own cannot be transported"):
        problem.teleport(optimizer=optimizer)
    problem.teleport(optimizer=optimizer, optimizer_state="reset")
    assert all(not entry for entry in optimizer.state.values())


@pytest.mark.parametrize("wrapper", [nn.DataParallel, AveragedModel])
def test_wrappers_of_networks_are_refused(wrapper: Any) -> None:
    problem = Problem()
    with pytest.raises(TeleportationError, match=f"{wrapper.__name__} wraps a network"):
        teleport_(wrapper(problem.network), problem.x)


def test_things_that_are_no_network_and_weights_without_memory_are_refused() -> None:
    refuse: Callable[..., Any] = teleport_
    with pytest.raises(TeleportationError, match=r"expected a torch\.nn\.Module, got dict"):
        refuse({}, torch.ones(2, 3))
    problem = Problem()
    with pytest.raises(TeleportationError, match="device 'meta'"):
        teleport_(copy.deepcopy(problem.network).to("meta"), problem.x, quiver=problem.quiver)
    with torch.inference_mode():
        network = Small()
    with pytest.raises(TeleportationError, match="made in inference mode"):
        teleport_(network, problem.x, quiver=problem.quiver)


def test_a_change_of_basis_without_entries_moves_nothing() -> None:
    network = nn.Sequential(nn.Linear(3, 4), nn.Sigmoid(), nn.Linear(4, 2))
    x = torch.ones(2, 3)
    known = analyze(network, x).parameters
    quiver = Quiver(0, {n: replace(p, factors=()) for n, p in known.items()}, (), activations="kept")
    before = weights(network)
    done = teleport_(network, x, quiver=quiver)
    assert done.certificate is not None
    assert (done.certificate.entries, done.certificate.relative) == (0, 0.0)
    assert_identical(weights(network), before)
