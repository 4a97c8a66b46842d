"""Chosen changes of basis reach what closed forms, brute force and published weights say is best."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.zoo.networks import ZOO
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from nteleport import TeleportableModel, analyze, choose_cob, sample_cob, scales, teleported
from nteleport.core.objectives import OBJECTIVES
from nteleport.core.path_norms import path_slopes
from nteleport.core.power_sums import PowerSum
from nteleport.core.quiver import Quiver
from nteleport.core.task import Task
from nteleport.errors import TeleportationError
from nteleport.vocabulary import OBJECTIVES as NAMES

REFERENCE = Path(__file__).parent / "reference" / "chosen_mlp.npz"
SGD = partial(torch.optim.SGD, lr=0.1)
OPTIONS: dict[str, dict[str, Any]] = {"lookahead": {"optimizer": SGD}, "sharpness": {"probes": 3}}


def mlp(*sizes: int, activation: type[nn.Module] = nn.ReLU) -> nn.Sequential:
    torch.manual_seed(5)
    layers = [part for pair in itertools.pairwise(sizes) for part in (nn.Linear(*pair), activation())]
    return nn.Sequential(*layers[:-1]).double()


def conv_network() -> nn.Sequential:
    torch.manual_seed(6)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3, groups=2), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
        nn.Linear(16, 6), nn.ReLU(), nn.Linear(6, 3),
    ).double()  # fmt: skip


def batch_for(network: nn.Module, count: int = 8) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(9)
    shape = (1, 8, 8) if isinstance(network[0], nn.Conv2d) else (network[0].in_features,)
    inputs = torch.randn(count, *shape, generator=generator, dtype=torch.double)
    return inputs, torch.randint(3, (count,), generator=generator)


def weights_of(network: nn.Module) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in network.named_parameters()}


def gradients_of(network: nn.Module, batch: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
    loss = cross_entropy(network(batch[0]), batch[1])
    return dict(zip(weights_of(network), torch.autograd.grad(loss, list(network.parameters())), strict=True))


def reached(quiver: Quiver) -> list[str]:
    return [name for name, scaling in quiver.parameters.items() if scaling.factors]


def best_of_adam(value: Callable[[Tensor], Tensor], size: int, bound: float = 20.0) -> float:
    """The least value that another optimizer finds over ``log|τ|``."""
    logarithm = torch.zeros(size, dtype=torch.double, requires_grad=True)
    optimizer = torch.optim.Adam([logarithm], lr=0.05)
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.99)
    for _ in range(1200):
        optimizer.zero_grad()
        value(logarithm.clamp(-bound, bound).exp()).backward()
        optimizer.step()
        scheduler.step()
    return float(value(logarithm.detach().clamp(-bound, bound).exp()))


# --- sums of powers -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("power", [1, 2, -2, -4])
@pytest.mark.parametrize("name", ZOO)
def test_sums_of_powers_and_their_slopes_equal_those_of_the_scales(name: str, power: int) -> None:
    network, inputs = ZOO[name]()
    quiver = analyze(network, inputs)
    generator = torch.Generator().manual_seed(1)
    values = {
        n: torch.rand(p.shape, generator=generator, dtype=torch.double)
        for n, p in network.named_parameters()
        if n in reached(quiver)
    }
    logarithm = torch.rand(quiver.cob_size, generator=generator, dtype=torch.double) - 0.5
    logarithm.requires_grad_()
    found = scales(quiver, logarithm.exp())
    expected = sum((values[n] * found[n] ** power).sum() for n in values)
    sums = PowerSum(quiver, values, power)
    slopes = sums.at(logarithm.detach())
    assert float(slopes.value) == pytest.approx(float(expected.detach()), rel=1e-12)
    if quiver.cob_size:
        (gradient,) = torch.autograd.grad(expected, logarithm)
        torch.testing.assert_close(sums.gradient(slopes), gradient)


# --- published weights --------------------------------------------------------------------------------------


def published() -> tuple[nn.Sequential, dict[str, Tensor]]:
    """The network of the reference at its initial weights, and all arrays."""
    with np.load(REFERENCE) as file:
        arrays = {key: torch.from_numpy(file[key]) for key in file.files}
    layers = [nn.Linear(20, 32), nn.ReLU(), nn.Linear(32, 24), nn.ReLU(), nn.Linear(24, 5, bias=False)]
    network = nn.Sequential(*layers).double()
    initial = {key.removeprefix("init/model."): a for key, a in arrays.items() if key.startswith("init/")}
    network.load_state_dict(initial)
    return network, arrays


@pytest.mark.parametrize("objective", ["path_conditioning", "balance"])
def test_published_implementations_find_the_same_weights(objective: str) -> None:
    network, arrays = published()
    inputs = torch.zeros(2, 20, dtype=torch.double)
    quiver = analyze(network, inputs, activations="kept")
    chosen = choose_cob(quiver, network, objective, batches=[(inputs, None)])
    for name, weight in teleported(weights_of(network), quiver, chosen.cob).items():
        torch.testing.assert_close(weight, arrays[f"{objective}/model.{name}"], rtol=1e-4, atol=1e-6)


def test_the_slopes_of_the_path_norm_are_the_published_ones() -> None:
    network, arrays = published()
    inputs = torch.zeros(2, 20, dtype=torch.double)
    task = Task(
        analyze(network, inputs, activations="kept"), network, [(inputs, None)], 0, "path_conditioning"
    )
    found = torch.cat([slopes.flatten() for slopes in path_slopes(task).values()])
    torch.testing.assert_close(found, arrays["diag_G"], rtol=1e-4, atol=1e-8)


# --- closed forms -------------------------------------------------------------------------------------------


def norm_after(quiver: Quiver, network: nn.Module, p: int) -> Callable[[Tensor], Tensor]:
    def value(cob: Tensor) -> Tensor:
        moved = teleported(weights_of(network), quiver, cob)
        return torch.stack([moved[name].abs().pow(p).sum() for name in reached(quiver)]).sum()

    return value


@pytest.mark.parametrize("p", [1, 2])
@pytest.mark.parametrize("made", [partial(mlp, 4, 6, 5, 3), conv_network], ids=["mlp", "conv"])
def test_balancing_finds_the_least_norm(made: Callable[[], nn.Sequential], p: int) -> None:
    network = made()
    inputs, _ = batch_for(network)
    quiver = analyze(network, inputs, activations="kept")
    chosen = choose_cob(quiver, network, "balance", p=p)
    value = norm_after(quiver, network, p)
    assert float(value(chosen.cob)) == pytest.approx(chosen.history[-1], rel=1e-9)
    assert chosen.history[-1] == pytest.approx(best_of_adam(value, quiver.cob_size), rel=1e-5)
    moved = network.__class__(*network)
    before = network(inputs)
    with torch.no_grad():
        for name, parameter in moved.named_parameters():
            parameter.copy_(teleported(weights_of(network), quiver, chosen.cob)[name])
    torch.testing.assert_close(moved(inputs), before, rtol=1e-10, atol=1e-10)


def test_equi_normalization_meets_its_fixed_point() -> None:
    """At the minimum, what enters a neuron has the norm of what leaves it."""
    network = mlp(4, 6, 5, 3)
    quiver = analyze(network, torch.zeros(2, 4, dtype=torch.double), activations="kept")
    moved = teleported(weights_of(network), quiver, choose_cob(quiver, network, "balance").cob)
    for enters, leaves in (("0", "2"), ("2", "4")):
        entering = moved[f"{enters}.weight"].square().sum(1) + moved[f"{enters}.bias"].square()
        torch.testing.assert_close(entering, moved[f"{leaves}.weight"].square().sum(0), rtol=1e-7, atol=0)


def test_balancing_one_neuron_has_the_closed_form() -> None:
    network = mlp(3, 1, 2)
    quiver = analyze(network, torch.zeros(2, 3, dtype=torch.double))
    w = weights_of(network)
    entering = w["0.weight"].square().sum() + w["0.bias"].square().sum()
    expected = (w["2.weight"].square().sum() / entering) ** 0.25
    assert float(choose_cob(quiver, network, "balance").cob) == pytest.approx(float(expected), rel=1e-9)


@pytest.mark.parametrize("objective", ["balance", "path_conditioning"])
def test_where_a_layer_feeds_itself_descent_takes_the_place_of_sweeps(objective: str) -> None:
    """Two layers with the same entries, as where a residual stream ties them."""
    network = mlp(4, 5, 5, 3)
    inputs, _ = batch_for(network)
    quiver = analyze(network, inputs, activations="kept")

    def tied(index: Tensor) -> Tensor:
        return torch.where(index > 5, index - 5, index)

    parameters = {
        name: replace(p, factors=tuple(replace(f, index=tied(f.index)) for f in p.factors))
        for name, p in quiver.parameters.items()
    }
    shared = replace(
        quiver, cob_size=5, parameters=parameters, layers=quiver.layers[:1], admits=("positive",) * 5
    )
    chosen = choose_cob(shared, network, objective, batches=[(inputs, None)])
    value = norm_after(shared, network, 2) if objective == "balance" else mean_ratio(shared, network, inputs)
    assert float(value(chosen.cob)) == pytest.approx(best_of_adam(value, 5), rel=1e-6)
    assert chosen.history[-1] < chosen.history[0]


def mean_ratio(quiver: Quiver, network: nn.Module, inputs: Tensor) -> Callable[[Tensor], Tensor]:
    """The arithmetic over the geometric mean of ``G / s²``, with ``G`` from plain PyTorch."""
    squared = {name: w.square().requires_grad_() for name, w in weights_of(network).items()}
    outputs = torch.func.functional_call(network.eval(), squared, (torch.ones_like(inputs[:1]),))
    names = reached(quiver)
    slopes = dict(zip(names, torch.autograd.grad(outputs.sum(), [squared[n] for n in names]), strict=True))

    def value(cob: Tensor) -> Tensor:
        found = scales(quiver, cob)
        terms = torch.cat([(slopes[n] / found[n].square())[slopes[n] > 0] for n in names])
        return terms.mean() / terms.log().mean().exp()

    return value


@pytest.mark.parametrize("made", [partial(mlp, 4, 6, 5, 3), conv_network], ids=["mlp", "conv"])
def test_path_conditioning_reports_the_mean_ratio_and_finds_its_minimum(
    made: Callable[[], nn.Sequential],
) -> None:
    network = made()
    inputs, _ = batch_for(network)
    quiver = analyze(network, inputs, activations="kept")
    value = mean_ratio(quiver, network, inputs)
    chosen = choose_cob(quiver, network, "path_conditioning", batches=[(inputs, None)])
    assert chosen.history[0] == pytest.approx(float(value(torch.ones_like(chosen.cob))), rel=1e-9)
    assert chosen.history[-1] == pytest.approx(float(value(chosen.cob)), rel=1e-9)
    assert 1 <= chosen.history[-1] < chosen.history[0]
    assert chosen.history[-1] == pytest.approx(best_of_adam(value, quiver.cob_size), rel=1e-6)


def test_path_conditioning_of_one_neuron_solves_the_published_quadratic() -> None:
    network = mlp(3, 1, 2)
    inputs, _ = batch_for(network)
    quiver = analyze(network, inputs, activations="kept")
    squared = {n: w.square().requires_grad_() for n, w in weights_of(network).items()}
    outputs = torch.func.functional_call(network, squared, (torch.ones_like(inputs[:1]),)).sum()
    enters_w, enters_b, leaves = torch.autograd.grad(
        outputs, [squared[n] for n in ("0.weight", "0.bias", "2.weight")]
    )
    number, more = 6, 2 - 4  # parameters in the sums; those that leave minus those that enter
    entering, leaving = float(enters_w.sum() + enters_b.sum()), float(leaves.sum())
    (x,) = [float(r) for r in np.roots([(more + number) * entering, 0, (more - number) * leaving]) if r > 0]
    chosen = choose_cob(quiver, network, "path_conditioning", batches=[(inputs, None)])
    assert float(chosen.cob) == pytest.approx(x**-0.5, rel=1e-8)


@pytest.mark.parametrize("bound", [None, 0.3])
def test_activation_ranges_become_level_in_every_layer(bound: float | None) -> None:
    network = mlp(4, 6, 5, 3)
    inputs, labels = batch_for(network)
    quiver = analyze(network, inputs, activations="kept")
    chosen = choose_cob(quiver, network, "activation_range", batches=[(inputs, labels)], max_log_range=bound)
    for layer, outputs in ((slice(0, 6), network[:1](inputs)), (slice(6, 11), network[:3](inputs))):
        ranges = outputs.detach().abs().amax(0)
        cob = chosen.cob[layer]
        assert float(cob.log().sum()) == pytest.approx(0, abs=1e-9)
        if bound is None:
            torch.testing.assert_close(cob * ranges, ranges.log().mean().exp().expand(len(ranges)))
        else:
            free = cob.log().abs() < bound - 1e-9
            level = (cob * ranges)[free]
            torch.testing.assert_close(level, level[:1].expand(len(level)))
            assert (cob.log().abs() <= bound + 1e-9).all()


def test_a_neuron_that_is_never_active_stays_as_it_is() -> None:
    network = mlp(4, 3, 2)
    with torch.no_grad():
        network[0].weight[1] = 0
        network[0].bias[1] = 0
    batch = batch_for(network)
    quiver = analyze(network, batch[0])
    assert float(choose_cob(quiver, network, "activation_range", batches=[batch]).cob[1]) == 1
    assert float(choose_cob(quiver, network, "balance").cob[1]) == 1


def test_an_entry_with_nothing_on_one_side_stays_as_it_is() -> None:
    network = mlp(4, 3, 2)
    with torch.no_grad():
        network[2].weight[:, 2] = 0
    inputs, _ = batch_for(network)
    quiver = analyze(network, inputs, activations="kept")
    for objective in ("balance", "path_conditioning"):
        for bound in (None, 0.5):
            chosen = choose_cob(quiver, network, objective, batches=[(inputs, None)], max_log_range=bound)
            assert float(chosen.cob[2]) == 1
            assert bool((chosen.cob[:2] != 1).all())


# --- gradients ----------------------------------------------------------------------------------------------


def gradient_norm(quiver: Quiver, network: nn.Module, batch: tuple[Tensor, Tensor], cob: Tensor) -> float:
    """Of a network that really is teleported."""
    model = TeleportableModel(network, batch[0], quiver=quiver)
    model.teleport(cob)
    loss = cross_entropy(model(batch[0]), batch[1])
    parameters = dict(network.named_parameters())
    found = torch.autograd.grad(loss, [parameters[name] for name in reached(quiver)])
    model.undo_teleportation()
    return float(torch.stack([g.square().sum() for g in found]).sum().sqrt())


def test_the_largest_gradient_norm_is_that_of_the_best_corner() -> None:
    """The norm is convex in ``log|τ|``, so its largest value lies at a corner: all of them are tried."""
    network = mlp(3, 3, 3, 2)
    batch = batch_for(network)
    batch = batch[0], batch[1] % 2
    quiver = analyze(network, batch[0])
    chosen = choose_cob(quiver, network, "grad_norm", batches=[batch], max_log_range=0.7)
    corners = itertools.product((-0.7, 0.7), repeat=6)
    values = [gradient_norm(quiver, network, batch, torch.tensor(c).double().exp()) for c in corners]
    assert chosen.history[-1] == pytest.approx(max(values), rel=1e-6)
    assert chosen.history[0] == pytest.approx(
        gradient_norm(quiver, network, batch, torch.ones(6).double()), rel=1e-9
    )


def test_the_weighted_gradient_norm_is_measured_at_the_teleported_weights() -> None:
    network = mlp(4, 5, 3)
    batch = batch_for(network)
    quiver = analyze(network, batch[0])
    chosen = choose_cob(quiver, network, "weighted_grad_norm", batches=[batch])
    gradients, found = gradients_of(network, batch), scales(quiver, chosen.cob)
    ratios = [gradients[n] / (found[n].square() * w) for n, w in weights_of(network).items()]
    names = list(gradients)
    kept_ratios = [r for n, r in zip(names, ratios, strict=True) if n in reached(quiver)]
    expected = torch.stack([r.square().sum() for r in kept_ratios]).sum().sqrt()
    assert chosen.history[-1] == pytest.approx(float(expected), rel=1e-9)
    generator = torch.Generator().manual_seed(0)
    for _ in range(200):
        drawn = scales(quiver, (2 * torch.rand(5, generator=generator).double() - 1).exp())
        tried = [
            (gradients[n] / (drawn[n].square() * w)).square().sum()
            for n, w in weights_of(network).items()
            if n in reached(quiver)
        ]
        assert float(torch.stack(tried).sum().sqrt()) <= chosen.history[-1]


def test_several_batches_give_the_gradient_of_their_mean_loss() -> None:
    network = mlp(4, 5, 3)
    inputs, labels = batch_for(network)
    quiver = analyze(network, inputs)
    halves = [(inputs[:4], labels[:4]), (inputs[4:], labels[4:])]
    whole = choose_cob(quiver, network, "grad_norm", batches=[(inputs, labels)])
    split = choose_cob(quiver, network, "grad_norm", batches=iter(halves))
    assert split.history == pytest.approx(whole.history, rel=1e-9)


def test_zero_gradients_move_nothing() -> None:
    network = mlp(4, 5, 3)
    with torch.no_grad():
        network[0].weight.zero_()
        network[0].bias.fill_(-1.0)
        network[2].weight.zero_()
        network[2].bias.zero_()
    inputs = torch.zeros(3, 4, dtype=torch.double)
    quiver = analyze(network, inputs)
    for objective in ("grad_norm", "weighted_grad_norm"):
        chosen = choose_cob(quiver, network, objective, batches=[(inputs, torch.arange(3))])
        assert torch.equal(chosen.cob, torch.ones(5, dtype=torch.double))
        assert set(chosen.history) == {0.0}


def loss_after_step(
    quiver: Quiver, network: nn.Module, batch: tuple[Tensor, Tensor], cob: Tensor, optimizer: Any
) -> float:
    """A real step of a real optimizer on a network that really is teleported."""
    model = TeleportableModel(network, batch[0], quiver=quiver)
    before = weights_of(network)
    model.teleport(cob)
    cross_entropy(model(batch[0]), batch[1]).backward()
    optimizer(list(network.parameters())).step()
    with torch.no_grad():
        loss = float(cross_entropy(model(batch[0]), batch[1]))
        for name, parameter in network.named_parameters():
            parameter.copy_(before[name])
            parameter.grad = None
    return loss


@pytest.mark.parametrize(
    "optimizer",
    [
        SGD,
        partial(torch.optim.SGD, lr=0.05, momentum=0.9, weight_decay=0.01),
        partial(torch.optim.Adam, lr=0.01),
        partial(torch.optim.AdamW, lr=0.01),
        partial(torch.optim.RMSprop, lr=0.001),
    ],
    ids=["SGD", "SGD decay", "Adam", "AdamW", "RMSprop"],
)
def test_lookahead_is_the_loss_after_a_real_step(optimizer: Any) -> None:
    network = mlp(4, 5, 3)
    batch = batch_for(network)
    quiver = analyze(network, batch[0])
    chosen = choose_cob(quiver, network, "lookahead", batches=[batch], steps=5, optimizer=optimizer)
    after = loss_after_step(quiver, network, batch, chosen.cob, optimizer)
    # Differentiable Adam computes its bias corrections in float32.
    assert chosen.history[-1] == pytest.approx(after, rel=1e-6)
    assert chosen.history[-1] < chosen.history[0]


def hessian_diagonal(network: nn.Module, batch: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
    names, sizes = zip(*((n, p.shape) for n, p in network.named_parameters()), strict=True)
    vector = nn.utils.parameters_to_vector(network.parameters()).detach()

    def loss(vector: Tensor) -> Tensor:
        pieces = vector.split([size.numel() for size in sizes])
        weights = {n: piece.view(size) for n, piece, size in zip(names, pieces, sizes, strict=True)}
        return cross_entropy(torch.func.functional_call(network, weights, (batch[0],)), batch[1])

    diagonal = torch.autograd.functional.hessian(loss, vector).diagonal()
    return {
        n: piece.view(size)
        for n, piece, size in zip(names, diagonal.split([s.numel() for s in sizes]), sizes, strict=True)
    }


@pytest.mark.parametrize("goal", ["minimum", "maximum"])
def test_sharpness_estimates_the_trace_of_the_hessian_within_its_error(goal: str) -> None:
    network = mlp(3, 4, 3, activation=nn.Tanh)
    batch = batch_for(network)
    quiver = analyze(network, batch[0])
    chosen = choose_cob(
        quiver, network, "sharpness", batches=[batch], goal=goal, probes=2000, max_log_range=0.5
    )
    diagonal, found = hessian_diagonal(network, batch), scales(quiver, chosen.cob)
    exact = float(sum((diagonal[n] / found[n].square()).sum() for n in reached(quiver)))
    assert chosen.standard_error is not None
    assert abs(chosen.history[-1] - exact) < 5 * chosen.standard_error
    assert 0 < chosen.standard_error < 0.2 * abs(exact)
    start = float(sum(diagonal[n].sum() for n in reached(quiver)))
    assert exact < start if goal == "minimum" else exact > start


# --- nearest, and the user's own ----------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["conjugated", "kept"])
def test_nearest_finds_an_exact_move(form: str) -> None:
    network = mlp(4, 5, 3)
    quiver = analyze(network, torch.zeros(2, 4, dtype=torch.double))
    cob = sample_cob(5, 0.8, "inter_landscape", generator=torch.Generator().manual_seed(4)).double()
    if form == "kept":
        quiver = analyze(network, torch.zeros(2, 4, dtype=torch.double), activations="kept")
        cob = cob.abs()
    target = teleported(weights_of(network), quiver, cob)
    torch.testing.assert_close(choose_cob(quiver, network, "nearest", target=target).cob, cob)


def test_nearest_stays_within_the_bound() -> None:
    network = mlp(4, 5, 3)
    quiver = analyze(network, torch.zeros(2, 4, dtype=torch.double), activations="kept")
    target = teleported(weights_of(network), quiver, torch.linspace(0.3, 3, 5).double())

    def distance(cob: Tensor) -> Tensor:
        moved = teleported(weights_of(network), quiver, cob)
        return torch.stack([(moved[n] - target[n]).square().sum() for n in moved]).sum()

    chosen = choose_cob(quiver, network, "nearest", target=target, max_log_range=0.4)
    assert float(chosen.cob.log().abs().max()) <= 0.4 + 1e-12
    assert chosen.history[-1] ** 2 == pytest.approx(best_of_adam(distance, 5, bound=0.4), rel=1e-4)


def test_a_function_of_the_user_is_minimized() -> None:
    network = mlp(4, 5, 3)
    batch = batch_for(network)
    quiver = analyze(network, batch[0])

    def sum_of_all(
        found: dict[str, Tensor], parameters: dict[str, Tensor], gradients: dict[str, Tensor]
    ) -> Tensor:
        return torch.stack([(found[n] * parameters[n]).square().sum() for n in parameters]).sum() + 0 * sum(
            g.sum() for g in gradients.values()
        )

    own = choose_cob(quiver, network, sum_of_all, batches=[batch], max_log_range=None)
    torch.testing.assert_close(own.cob, choose_cob(quiver, network, "balance").cob, rtol=1e-4, atol=1e-4)


# --- what holds for all -------------------------------------------------------------------------------------


def test_every_name_has_an_objective() -> None:
    assert tuple(OBJECTIVES) == NAMES


@pytest.mark.parametrize("objective", NAMES)
@pytest.mark.parametrize("form", ["conjugated", "kept"])
def test_the_result_is_never_worse_bounded_deterministic_and_leaves_no_trace(
    form: str, objective: str
) -> None:
    torch.manual_seed(8)
    network = nn.Sequential(
        nn.Linear(4, 5), nn.ReLU(), nn.Dropout(0.3), nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 3)
    ).train()
    inputs = torch.randn(6, 4)
    quiver = analyze(network, inputs, activations=form)  # type: ignore[arg-type]
    if form == "conjugated" and objective == "path_conditioning":
        pytest.skip("defined for positive entries only")
    options = OPTIONS.get(objective, {})
    if objective == "nearest":
        options = {"target": {name: w + 0.1 for name, w in weights_of(network).items()}}
    before, random = weights_of(network), torch.get_rng_state()
    results = [
        choose_cob(
            quiver, network, objective, batches=[(inputs, torch.arange(6) % 3)], steps=10,
            max_log_range=0.5, generator=torch.Generator().manual_seed(2), **options,
        )
        for _ in range(2)
    ]  # fmt: skip
    first, second = results
    assert torch.equal(first.cob, second.cob)
    assert first.history == second.history
    largest = "grad_norm" in objective
    assert first.history[-1] >= first.history[0] if largest else first.history[-1] <= first.history[0]
    assert first.cob.dtype == torch.float32
    assert first.seconds > 0
    assert float(first.cob.abs().log().abs().max()) <= 0.5 + 1e-6
    if form == "kept":
        assert float(first.cob.min()) > 0
    assert all(torch.equal(before[n], p) and p.grad is None for n, p in network.named_parameters())
    assert torch.equal(random, torch.get_rng_state())
    assert network.training


def test_running_statistics_stay_as_they_are() -> None:
    torch.manual_seed(1)
    network = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 3)).train()
    inputs = torch.randn(6, 4)
    before = {name: buffer.clone() for name, buffer in network.named_buffers()}
    quiver = analyze(network, inputs)
    for objective in ("grad_norm", "lookahead", "sharpness"):
        options = OPTIONS.get(objective, {})
        choose_cob(quiver, network, objective, batches=[(inputs, torch.arange(6) % 3)], steps=3, **options)
    assert all(torch.equal(before[name], buffer) for name, buffer in network.named_buffers())


def test_entries_that_admit_only_a_sign_stay_one() -> None:
    network = mlp(4, 5, 3)
    batch = batch_for(network)
    admits = ("sign", "positive", "sign", "nonzero", "positive")
    quiver = replace(analyze(network, batch[0]), activations="kept", admits=admits)
    for objective in ("balance", "grad_norm", "activation_range"):
        cob = choose_cob(quiver, network, objective, batches=[batch]).cob
        assert cob[[0, 2]].tolist() == [1, 1]
        assert bool((cob[[1, 3, 4]] != 1).all())


def test_a_network_without_free_entries_has_an_empty_change_of_basis() -> None:
    network = nn.Sequential(nn.Linear(4, 3)).double()
    batch = batch_for(network)
    quiver = analyze(network, batch[0], activations="kept")
    for objective in ("grad_norm", "balance", "activation_range"):
        assert choose_cob(quiver, network, objective, batches=[batch]).cob.shape == (0,)


# --- errors -------------------------------------------------------------------------------------------------


def test_a_negative_slope_of_the_path_norm_names_the_parameter() -> None:
    network = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 3))
    network[1].running_mean.fill_(100.0)
    network[1].weight.data.fill_(1.0)
    network[1].bias.data.fill_(50.0)
    inputs = torch.zeros(2, 4)
    quiver = analyze(network, inputs, activations="kept")
    with pytest.raises(TeleportationError, match=r"not defined .* of 1\.weight is -"):
        choose_cob(quiver, network, "path_conditioning", batches=[(inputs, None)])


def test_path_conditioning_says_which_entries_are_not_positive() -> None:
    network = mlp(4, 5, 6, 3)
    inputs, _ = batch_for(network)
    quiver = analyze(network, inputs)
    with pytest.raises(TeleportationError, match="entries 0 to 10 may be negative"):
        choose_cob(quiver, network, "path_conditioning", batches=[(inputs, None)])
    partly = replace(analyze(network, inputs, activations="kept"), admits=("positive",) * 6 + ("sign",) * 5)
    with pytest.raises(TeleportationError, match="5 of layer 2 are 1 or -1, the first is entry 6"):
        choose_cob(partly, network, "path_conditioning", batches=[(inputs, None)])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"objective": "grad_nrom"}, "unknown objective 'grad_nrom'.*did you mean 'grad_norm'"),
        ({"objective": 3}, "a name or a function, got an object of type int"),
        ({"objective": "grad_norm"}, "grad_norm needs batches"),
        ({"objective": "grad_norm", "batches": [3]}, "batches are pairs of inputs and labels, got int"),
        ({"objective": "grad_norm", "batches": 3}, "batches are pairs of inputs and labels, got int"),
        ({"objective": "grad_norm", "batches": [(torch.ones(2, 4), None)]}, "with labels, got None"),
        ({"objective": "path_conditioning"}, "path_conditioning needs"),
        ({"objective": "balance", "p": 3}, "p = 1 or 2, got 3"),
        ({"objective": "balance", "q": 3}, "balance has no option 'q': expected p"),
        ({"objective": "lookahead"}, "lookahead needs the option 'optimizer'"),
        ({"objective": "balance", "steps": 0}, "steps is a whole number of at least 1, got 0"),
        ({"objective": "balance", "max_log_range": -1}, "max_log_range is a number above 0, or None; got -1"),
        ({"objective": "balance", "max_log_range": "wide"}, "max_log_range is a number above 0"),
        ({"objective": lambda s, p, g: 3.0}, "a tensor of one number, got float"),
        ({"objective": lambda s, p, g: s["0.bias"]}, r"a tensor of one number, got \(5,\)"),
        ({"objective": lambda s, p, g: s["0.bias"].sum() / 0}, "is inf"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(arguments: dict[str, Any], message: str) -> None:
    network = mlp(4, 5, 3).float()
    quiver = analyze(network, torch.zeros(2, 4), activations="kept")
    with pytest.raises(TeleportationError, match=message):
        choose_cob(quiver, network, **arguments)


@pytest.mark.parametrize("objective", ["grad_norm", "weighted_grad_norm", "lookahead", "sharpness"])
def test_objectives_without_a_minimum_need_a_bound(objective: str) -> None:
    network = mlp(4, 5, 3)
    batch = batch_for(network)
    quiver = analyze(network, batch[0])
    with pytest.raises(TeleportationError, match=f"{objective} needs a bound"):
        choose_cob(
            quiver, network, objective, batches=[batch], max_log_range=None, **OPTIONS.get(objective, {})
        )


@pytest.mark.parametrize("optimizer", [torch.optim.LBFGS, partial(torch.optim.SGD, lr=0.1, fused=True), 3])
def test_lookahead_refuses_optimizers_that_cannot_be_differentiated(optimizer: Any) -> None:
    network = mlp(4, 5, 3)
    batch = batch_for(network)
    quiver = analyze(network, batch[0])
    with pytest.raises(TeleportationError, match="optimizer"):
        choose_cob(quiver, network, "lookahead", batches=[batch], optimizer=optimizer)
