"""Inputs of normalizations that move: exact by running statistics, and up to eps over the variance by others.

Every law is against the unmodified network. Where ``eps`` is next to nothing, nothing but rounding is left.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from support.precision import double_and_seeded
from support.zoo.constructs import Wired
from support.zoo.constructs_run import assert_same, call, kept, largest, made
from support.zoo.networks import CONSTRUCTS
from torch import Tensor, nn
from torchvision import models

from nteleport import (
    Quiver,
    TeleportableModel,
    TeleportedOptimizer,
    analyze,
    choose_cob,
    sample_cob,
    scales,
    teleport_,
    teleported,
)
from nteleport.core.certificate import UP_TO_EPS_TOLERANCE
from nteleport.core.cob import admitted_cob
from nteleport.core.quiver import Factor, corrections
from nteleport.errors import AnalysisError, TeleportationError

NEXT_TO_NOTHING = 1e-20


_double_and_seeded = pytest.fixture(autouse=True)(double_and_seeded)


def up_to_eps(network: nn.Module, inputs: Any, **options: Any) -> Quiver:
    return analyze(network, inputs, activations="kept", norms="up_to_eps", **options)


def drawn(quiver: Quiver, seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    cob = sample_cob(quiver.cob_size, 0.9, "intra_landscape", generator=generator)
    return admitted_cob(quiver, cob, generator).double()


def with_eps(network: nn.Module, eps: float) -> nn.Module:
    for module in network.modules():
        if hasattr(module, "eps"):
            module.eps = eps
    return network


def move(network: nn.Module, quiver: Quiver, cob: Tensor) -> None:
    """Load the teleported state, and nothing else."""
    network.load_state_dict({**network.state_dict(), **teleported(network.state_dict(), quiver, cob)})


class Chain(nn.Module):
    """Convolutions, each with a batch norm and a ReLU, and a linear layer."""

    def __init__(self, eps: float = 1e-5) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 4, 3)
        self.bn1, self.bn2 = nn.BatchNorm2d(6, eps), nn.BatchNorm2d(4, eps)
        self.last = nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))))
        return self.last(h.mean((2, 3)))


IMAGES = torch.randn(8, 3, 8, 8, generator=torch.Generator().manual_seed(5), dtype=torch.float64)


@cache
def quiver_of_the_chain(eps: float = 1e-5) -> Quiver:
    return up_to_eps(Chain(eps), IMAGES)


def chain(eps: float = 1e-5) -> Chain:
    """A chain whose running statistics and weights of norms are no longer 0 and 1."""
    torch.manual_seed(3)
    network = Chain(eps)
    with torch.no_grad():
        for norm in (network.bn1, network.bn2):
            norm.weight.uniform_(0.5, 2)
            norm.bias.uniform_(-1, 1)
        for _ in range(10):
            network(IMAGES * 1.5 + 0.2)
    return network


def state(network: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in network.state_dict().items()}


# Laws

WITH_NORMS = """
network-residual network-residual_reversed network-residual_inplace network-residual_projection
network-depthwise network-norm_used_twice network-every_norm network-layer_scale network-three_dimensional
attention-encoder_layer attention-encoder_layer_norm_first attention-decoder_layer attention-transformer
attention-normalized_queries norm-batch norm-batch_1d norm-batch_1d_of_sequences norm-batch_3d
norm-batch_without_statistics norm-batch_cumulative norm-instance norm-group norm-layer
norm-layer_without_bias norm-layer_over_two_axes norm-layer_channels_first norm-rms norm-batch_called_twice
norm-batch_of_one_value
""".split()


@pytest.mark.parametrize("name", WITH_NORMS)
def test_without_eps_the_unmodified_network_is_kept_in_both_modes(name: str) -> None:
    """Outputs and running statistics after each of two passes; the latter scaled as the quiver says."""
    construct = CONSTRUCTS[name]
    network, inputs = made(construct)
    with_eps(network, NEXT_TO_NOTHING)
    traced = next(mode for mode in construct.traced if mode in construct.modes)
    with kept(network):
        quiver = up_to_eps(network, inputs, training=traced)
        exact = analyze(network, inputs, activations="kept", training=traced)
    assert quiver.cob_size > exact.cob_size
    cob = drawn(quiver)
    for training in construct.modes:
        plain, moved = (with_eps(made(construct)[0], NEXT_TO_NOTHING).train(training) for _ in range(2))
        move(moved, quiver, cob)
        with torch.no_grad():
            for turn in range(2):
                assert_same(call(moved, inputs, turn), call(plain, inputs, turn), 1e-9)
                statistics = teleported(plain.state_dict(), quiver, cob)
                assert_same(moved.state_dict(), statistics, 1e-9)


@pytest.mark.parametrize("name", ["norm-batch", "network-every_norm", "attention-encoder_layer"])
def test_every_entry_moves_some_weight(name: str) -> None:
    network, inputs = made(CONSTRUCTS[name])
    quiver = up_to_eps(network, inputs)
    for entry in range(quiver.cob_size):
        cob = torch.ones(quiver.cob_size)
        cob[entry] = 2.0
        assert any((scale != 1).any() for scale in scales(quiver, cob).values()), entry


@pytest.mark.parametrize("eps", [1e-5, 0.5])
def test_evaluation_mode_is_exact_however_large_eps_is(eps: float) -> None:
    network, quiver = chain(eps).eval(), quiver_of_the_chain(eps)
    before, outputs, cob = state(network), network(IMAGES), drawn(quiver)
    move(network, quiver, cob)
    torch.testing.assert_close(network(IMAGES), outputs, rtol=1e-10, atol=1e-12)
    # By hand: the input entries of the first norm are those of the bias of its convolution.
    tau = network.conv1.bias / before["conv1.bias"]
    mean, variance = before["bn1.running_mean"], before["bn1.running_var"]
    torch.testing.assert_close(network.bn1.running_mean, mean * tau)
    torch.testing.assert_close(network.bn1.running_var, variance * tau**2)
    feeds = network.bn1.bias / before["bn1.bias"]
    gamma = before["bn1.weight"] * feeds * (tau**2 * variance + eps).sqrt() / (tau * (variance + eps).sqrt())
    torch.testing.assert_close(network.bn1.weight, gamma)
    assert (tau - 1).abs().min() > 1e-3


def test_a_tracking_instance_norm_is_exact_in_evaluation_mode() -> None:
    norm = nn.InstanceNorm2d(4, affine=True, track_running_stats=True, eps=0.5)
    network = nn.Sequential(nn.Conv2d(3, 4, 3), norm, nn.ReLU(), nn.Conv2d(4, 2, 1))
    network(IMAGES)
    quiver = up_to_eps(network, IMAGES)
    outputs = network.eval()(IMAGES)
    assert set(quiver.buffers) == {"1.running_mean", "1.running_var"}
    move(network, quiver, drawn(quiver))
    torch.testing.assert_close(network(IMAGES), outputs, rtol=1e-10, atol=1e-12)


def group_statistics(x: Tensor, norm: str) -> Tensor:
    """The variance (of an rms norm, the mean square) by which each element is normalized."""
    if norm == "rms":
        return x.square().mean(1, keepdim=True).expand(x.shape)
    if norm == "group":
        grouped = x.unflatten(1, (2, -1))
        return grouped.var((2, 3), unbiased=False, keepdim=True).expand(grouped.shape).flatten(1, 2)
    axes = {"layer": (1,), "instance": (2,), "batch": (0, 2)}[norm]
    return x.var(axes, unbiased=False, keepdim=True).expand(x.shape)


class Features(nn.Module):
    """A norm over the features of every position."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.norm = norm

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x.transpose(1, 2)).transpose(1, 2)


NORMS: dict[str, tuple[Callable[[float], nn.Module], int]] = {
    "batch": (lambda eps: nn.BatchNorm1d(6, eps), 6),
    "instance": (lambda eps: nn.InstanceNorm1d(6, eps, affine=True), 6),
    "group": (lambda eps: nn.GroupNorm(2, 6, eps), 2),
    "layer": (lambda eps: Features(nn.LayerNorm(6, eps)), 1),
    "rms": (lambda eps: Features(nn.RMSNorm(6, eps)), 1),
}


@pytest.mark.parametrize("norm", NORMS)
def test_the_error_by_statistics_of_the_input_is_bounded_by_eps_over_the_variance(norm: str) -> None:
    """With ``y = γ (x − μ) / √(v + ε) + β`` the moved layer gives ``y' − β = ρ (y − β)``. Without running
    statistics ``ρ² = (v + ε) / (v + ε / τ²)``, so that ``|log ρ| ≤ ε |1/τ² − 1| / 2v``. γ of a batch norm is
    corrected by the square root of ``(u + ε / τ²) / (u + ε)``, of the running variance u, which goes the
    other way: with the smaller of v and u the bound holds as well."""
    make, entries = NORMS[norm]
    errors = []
    for eps in (0.1, 1e-3, 1e-5, 1e-16):
        torch.manual_seed(2)
        layers = [nn.Conv1d(3, 6, 1), make(eps)]
        plain, x = nn.Sequential(*layers), torch.randn(4, 3, 5)
        with torch.no_grad():
            for _ in range(5):
                plain(1.3 * x)
            for parameter in plain[1].parameters():
                parameter.uniform_(0.5, 1.5)
        quiver = up_to_eps(plain, x)
        assert quiver.admits == ("positive",) * entries
        moved, cob = copy.deepcopy(plain), drawn(quiver)
        move(moved, quiver, cob)
        tau = (moved[0].bias / plain[0].bias)[:, None].detach()
        found = []
        for training in (True, False):
            if norm == "batch" and not training:
                continue
            plain.train(training)
            moved.train(training)
            with torch.no_grad():
                h = plain[0](x)
                smallest = group_statistics(h, norm)
                if norm == "batch":
                    smallest = torch.minimum(smallest, plain[1].running_var[:, None])
                beta = next((p for n, p in plain[1].named_parameters() if n.endswith("bias")), 0)
                beta = beta[:, None] if isinstance(beta, Tensor) else beta
                y = plain(x)
                bound = (eps * (tau**-2 - 1).abs() / (2 * smallest)).expm1() * (y - beta).abs()
                change = (moved(x) - y).abs()
            assert bool((change <= bound + 1e-13).all())
            found.append(change.max().item())
        errors.append(max(found))
    assert errors[0] > 1e-3
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 1e-10


def test_moves_compose_and_have_inverses() -> None:
    network, quiver = chain(0.5), quiver_of_the_chain(0.5)
    first, second = drawn(quiver, 1), drawn(quiver, 2)
    start = state(network)
    both = teleported(teleported(start, quiver, first), quiver, second)
    assert_same(both, teleported(start, quiver, first * second), 1e-14)
    assert_same(teleported(both, quiver, first * second, power=-1), start, 1e-14)


# In place


class Problem:
    """A chain, a batch and a CoB; every instance starts the same."""

    def __init__(self, eps_of_norms: float = 1e-5, make: Any = torch.optim.SGD, **options: Any) -> None:
        self.network, self.quiver = chain(eps_of_norms), quiver_of_the_chain(eps_of_norms)
        self.cob = drawn(self.quiver)
        self.optimizer = make(self.network.parameters(), **{"lr": 0.01, **options})

    def teleport(self, **options: Any) -> Any:
        given = {"cob": self.cob, "quiver": self.quiver, "optimizer": self.optimizer, **options}
        return teleport_(self.network, IMAGES, **given)

    def train(self, steps: int = 3) -> None:
        for _ in range(steps):
            self.optimizer.zero_grad()
            F.cross_entropy(self.network(IMAGES), torch.arange(8) % 5).backward()
            self.optimizer.step()


def test_in_place_it_is_the_teleported_state_and_the_objects_stay() -> None:
    problem = Problem(0.5)
    problem.network.eval()
    tensors = {name: id(t) for name, t in problem.network.state_dict(keep_vars=True).items()}
    expected = teleported(state(problem.network), problem.quiver, problem.cob)
    done = problem.teleport()
    assert_same(state(problem.network), expected, 1e-14)
    assert {name: id(t) for name, t in problem.network.state_dict(keep_vars=True).items()} == tensors
    assert done.certificate.relative < 1e-13
    assert done.certificate.entries == 20


def test_undoing_divides_by_what_was_multiplied() -> None:
    """Bit for bit where entries are powers of two, but for the weights that were corrected for eps."""
    problem = Problem(0.5)
    start = state(problem.network)
    problem.teleport(certificate=False).undo()
    assert_same(state(problem.network), start, 1e-15)
    problem = Problem(0.5)
    powers = 2.0 ** torch.randint(-3, 4, (problem.quiver.cob_size,))
    problem.teleport(cob=powers, certificate=False).undo()
    after = state(problem.network)
    differing = {name for name in start if not torch.equal(after[name], start[name])}
    assert differing <= {"bn1.weight", "bn2.weight"}
    assert_same(after, start, 1e-15)


def test_undoing_after_training_keeps_the_function_of_the_present() -> None:
    problem = Problem(0.5)
    done = problem.teleport(certificate=False)
    problem.train()
    outputs = problem.network.eval()(IMAGES)
    done.undo()
    torch.testing.assert_close(problem.network(IMAGES), outputs, rtol=1e-10, atol=1e-12)


def test_a_move_that_changes_too_much_is_rolled_back_bit_for_bit() -> None:
    """Where a variance is next to eps, the scale of the input is seen."""
    problem = Problem(0.5, torch.optim.Adam)
    problem.train()
    start = state(problem.network)
    moments = {p: s["exp_avg"].clone() for p, s in problem.optimizer.state.items()}
    with pytest.raises(TeleportationError, match=r"variance .* not large against eps.*norms='exact'"):
        problem.teleport()
    after = state(problem.network)
    assert all(torch.equal(after[name], start[name]) for name in start)
    assert all(torch.equal(problem.optimizer.state[p]["exp_avg"], m) for p, m in moments.items())


def test_the_certificate_shows_the_error_and_accepts_a_small_one() -> None:
    problem = Problem(1e-5)
    plain = copy.deepcopy(problem.network)
    done = problem.teleport(certificate="full")
    further = {name: change.relative for name, change in done.certificate.further.items()}
    assert 1e-9 < further["train, given inputs"] < UP_TO_EPS_TOLERANCE
    assert further["eval, given inputs"] < 1e-13
    with torch.no_grad():
        before, after = plain(IMAGES), problem.network(IMAGES)
    assert further["train, given inputs"] == pytest.approx(
        float((before - after).abs().max() / torch.stack([before, after]).abs().max()), rel=1e-6
    )
    with pytest.raises(TeleportationError, match=r"more than the tolerance of 1\.0e-09"):
        Problem(1e-5).teleport(tolerance=1e-9)


@pytest.mark.parametrize(
    ("make", "options"),
    [(torch.optim.SGD, {"momentum": 0.9}), (torch.optim.Adam, {}), (torch.optim.RMSprop, {})],
)
def test_the_state_of_an_optimizer_is_transported(make: Any, options: Any) -> None:
    """In evaluation mode, where the move is exact, the moved network trains as the plain one does in
    coordinates that are scaled by the quotient of both weights."""
    moved, plain = Problem(0.5, make, **options), Problem(0.5, make, **options)
    for problem in (moved, plain):
        problem.network.eval()
        problem.train(2)
    moved.teleport()
    named = dict(plain.network.named_parameters())
    ratios = {n: (p / named[n]).detach() for n, p in moved.network.named_parameters()}
    moved.train(4)
    coordinates = {name: nn.Parameter(p.detach() * ratios[name]) for name, p in named.items()}
    optimizer = make(coordinates.values(), **{"lr": 0.01, **options})
    powers = {"momentum_buffer": -1, "exp_avg": -1, "exp_avg_sq": -2, "square_avg": -2}
    for name, p in named.items():
        optimizer.state[coordinates[name]] = {
            key: value * ratios[name] ** powers[key] if key in powers else value
            for key, value in plain.optimizer.state[p].items()
        }
    for _ in range(4):
        optimizer.zero_grad()
        weights = {name: p / ratios[name] for name, p in coordinates.items()}
        outputs = torch.func.functional_call(plain.network, weights, IMAGES)
        F.cross_entropy(outputs, torch.arange(8) % 5).backward()
        optimizer.step()
    found = {name: p.detach() for name, p in moved.network.named_parameters()}
    assert_same(found, {name: p.detach() for name, p in coordinates.items()}, 1e-10)


def test_gradients_move_with_the_weights() -> None:
    problem = Problem(0.5)
    problem.network.eval()
    F.cross_entropy(problem.network(IMAGES), torch.arange(8) % 5).backward()
    problem.teleport()
    left = {name: p.grad.clone() for name, p in problem.network.named_parameters() if p.grad is not None}
    problem.optimizer.zero_grad()
    F.cross_entropy(problem.network(IMAGES), torch.arange(8) % 5).backward()
    assert_same(left, {n: p.grad for n, p in problem.network.named_parameters()}, 1e-10)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_network_in_lower_precision_is_kept_to_its_rounding(dtype: torch.dtype) -> None:
    network = chain().to(dtype).eval()
    images = IMAGES.to(dtype)
    done = teleport_(network, images, norms="up_to_eps", cob_range=0.5)
    assert {t.dtype for t in network.state_dict().values()} == {dtype, torch.int64}
    assert done.certificate.relative < 30 * torch.finfo(dtype).eps


# Negative controls


def change(network: nn.Module, quiver: Quiver, cob: Tensor, inputs: Tensor = IMAGES) -> float:
    network = copy.deepcopy(network)
    with torch.no_grad():
        before = call(network, inputs)
        move(network, quiver, cob)
        return largest(call(network, inputs) - before)


class TestNegativeControls:
    def test_a_negative_entry(self) -> None:
        network, quiver = chain().eval(), quiver_of_the_chain()
        assert set(quiver.admits) == {"positive"}
        cob = torch.ones(quiver.cob_size)
        cob[0] = -1
        assert change(network, quiver, cob) > 1e-3
        with pytest.raises(TeleportationError, match="admits a positive number"):
            teleport_(network, IMAGES, cob=cob, quiver=quiver)

    def test_an_entry_that_is_split_inside_a_group(self) -> None:
        network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.GroupNorm(2, 4, NEXT_TO_NOTHING), nn.Conv2d(4, 2, 1))
        quiver = up_to_eps(network, IMAGES)
        inputs = Counter(quiver.parameters["0.bias"].factors[0].index.tolist())
        assert sorted(inputs.values()) == [2, 2]
        cob = drawn(quiver)
        assert change(network, quiver, cob) < 1e-10
        alone = quiver.cob_size + 1
        split = {
            name: replace(p, factors=(Factor(p.factors[0].index.clone(), 1),))
            for name, p in quiver.parameters.items()
            if name in ("0.weight", "0.bias")
        }
        for scaling in split.values():
            scaling.factors[0].index[0] = alone
        broken = replace(quiver, cob_size=alone, parameters={**quiver.parameters, **split}, admits=())
        assert change(network, broken, torch.cat([cob, torch.tensor([3.0])])) > 1e-3

    def test_running_statistics_that_stay(self) -> None:
        network, quiver = chain().eval(), quiver_of_the_chain()
        still = replace(quiver, buffers={}, corrections=())
        assert change(network, quiver, drawn(quiver)) < 1e-12
        assert change(network, still, drawn(quiver)) > 1e-3
        with pytest.raises(TeleportationError, match="the weights are restored"):
            teleport_(network, IMAGES, cob=drawn(quiver), quiver=still)

    def test_weights_that_are_not_corrected_for_eps(self) -> None:
        network, quiver = chain(0.5).eval(), quiver_of_the_chain(0.5)
        assert change(network, replace(quiver, corrections=()), drawn(quiver)) > 1e-3


# Counts


def test_counts_of_a_chain() -> None:
    """Exactly: the 6 and 4 neurons after each batch norm, and none before. Up to eps these are free, too: one
    for each channel that a batch norm reads."""
    quiver = quiver_of_the_chain()
    assert analyze(Chain(), IMAGES, activations="kept").cob_size == 6 + 4
    assert Counter(layer.name for layer in quiver.layers) == Counter(["conv1", "bn1", "conv2", "bn2"])
    assert {layer.name: layer.size for layer in quiver.layers} == {"conv1": 6, "bn1": 6, "conv2": 4, "bn2": 4}
    assert quiver.admits == ("positive",) * 20
    assert len(quiver.buffers) == 4
    assert not quiver.lost


@pytest.mark.parametrize(
    ("model", "size", "count", "statistics"),
    [
        # 2,880 exactly. The stem reads 64 channels into its norm, a stage of width w four times w (two blocks
        # of two convolutions), its projection w once, from the second stage on:
        # 64 + 4 (64 + 128 + 256 + 512) + (128 + 256 + 512) = 64 + 3,840 + 896 = 4,800. 20 batch norms.
        ("resnet18", 64, 2880 + 4800, 2 * 20),
        # 12,416 exactly: 8,192 of the two hidden linear layers, and 2·64 + 2·128 + 3·256 + 6·512 = 4,224
        # after the 13 batch norms. As many again before them: 16,640, as many as in the paper's form.
        ("vgg16_bn", 32, 12416 + 4224, 2 * 13),
    ],
)
def test_counts_of_networks_of_torchvision(model: str, size: int, count: int, statistics: int) -> None:
    torch.set_default_dtype(torch.float32)
    quiver = up_to_eps(models.get_model(model, weights=None), torch.randn(2, 3, size, size))
    assert Counter(quiver.admits) == Counter({"positive": count})
    assert len(quiver.buffers) == statistics
    assert len(quiver.corrections) == statistics // 2


def test_counts_of_a_transformer() -> None:
    """The residual stream of a transformer that normalizes first has one entry for all features together, as
    ViT-B/16 does: 37,633 in place of 37,632."""
    torch.set_default_dtype(torch.float32)
    network = models.VisionTransformer(16, 8, 2, 2, 8, 16, num_classes=3)
    images = torch.randn(2, 3, 16, 16)
    exact = analyze(network, images, activations="kept")
    quiver = up_to_eps(network, images)
    assert Counter(quiver.admits) == Counter(exact.admits) + Counter(positive=1)
    stream = quiver.admits.index("positive") + 1
    assert bool((quiver.parameters["class_token"].factors[0].index == stream).all())


# What stays pinned


def norm_network(forward: Callable[..., Any], **parts: Any) -> nn.Module:
    given = {"a": nn.Conv2d(3, 4, 3), "norm": nn.BatchNorm2d(4), "b": nn.Conv2d(4, 2, 1), **parts}
    return Wired(forward, **given)


def shared_memory() -> nn.Module:
    network = norm_network(lambda n, x: n.b(n.norm(n.a(x))))
    memory = torch.ones(8)
    network.norm.running_mean, network.norm.running_var = memory[:4], memory[2:6]  # type: ignore[union-attr]
    return network


def not_in_the_state() -> nn.Module:
    network = norm_network(lambda n, x: n.b(n.norm(n.a(x))))
    network.norm.register_buffer("running_var", torch.ones(4), persistent=False)  # type: ignore[operator]
    return network


def tied_to_another() -> nn.Module:
    network = norm_network(lambda n, x: n.b(n.norm(n.a(x)) + n.other(n.a(x))), other=nn.BatchNorm2d(4))
    network.other.weight = network.norm.weight
    return network


def updates_its_own(n: Any, x: Tensor) -> Tensor:
    h = n.a(x)
    with torch.no_grad():
        n.norm.running_mean.mul_(0.5)
    return n.b(n.norm(h))


def reads_when_evaluated(n: Any, x: Tensor) -> Tensor:
    h = n.norm(n.a(x))
    return n.b(h if n.training else h * n.norm.running_var.mean())


PINNED: dict[str, Callable[[], nn.Module]] = {
    "a batch norm without weight": lambda: norm_network(
        lambda n, x: n.b(n.norm(n.a(x))), norm=nn.BatchNorm2d(4, affine=False)
    ),
    "a running variance that is read": lambda: norm_network(
        lambda n, x: n.b(n.norm(n.a(x))) + n.norm.running_var.sum()
    ),
    "a running mean that is returned": lambda: norm_network(
        lambda n, x: (n.b(n.norm(n.a(x))), n.norm.running_mean)
    ),
    "a weight that is read": lambda: norm_network(lambda n, x: n.b(n.norm(n.a(x))) + n.norm.weight.sum()),
    "a weight of two norms": tied_to_another,
    "a weight that another norm uses": lambda: norm_network(
        lambda n, x: n.b(F.group_norm(n.norm(n.a(x)), 2, n.norm.weight, n.norm.bias))
    ),
    "a bias that is the weight": lambda: norm_network(
        lambda n, x: n.b(
            F.batch_norm(n.a(x), n.norm.running_mean, n.norm.running_var, n.norm.weight, n.norm.weight, True)
        )
    ),
    "statistics that share memory": shared_memory,
    "statistics that are not in the state": not_in_the_state,
    "statistics that the network changes": lambda: norm_network(updates_its_own),
    "statistics that are read in evaluation mode": lambda: norm_network(reads_when_evaluated),
    "an odd function before the norm": lambda: norm_network(lambda n, x: n.b(n.norm(n.a(x).tanh()))),
}


@pytest.mark.parametrize("name", PINNED)
def test_a_batch_norm_whose_statistics_cannot_move_keeps_its_input(name: str) -> None:
    network = PINNED[name]()
    quiver = up_to_eps(network, IMAGES)
    assert not quiver.buffers
    assert not quiver.corrections
    assert not quiver.parameters["a.weight"].factors
    before = {name: p.factors for name, p in quiver.parameters.items() if p.factors}
    exact = analyze(network, IMAGES, activations="kept")
    if "another norm" not in name:
        assert before.keys() == {name for name, p in exact.parameters.items() if p.factors}


def in_a_region(n: Any, x: Tensor) -> Tensor:
    with torch.no_grad():
        h = n.norm(n.a(x))
    return n.b(n.norm(h.relu()))


def beside_views(n: Any, x: Tensor) -> Tensor:
    h = n.norm(n.a(x))
    h[:, :2].mul_(2.0)
    return n.b(n.norm(h.relu()))


@pytest.mark.parametrize("forward", [in_a_region, beside_views])
@pytest.mark.parametrize("training", [True, False])
def test_a_trace_with_other_operators_of_batch_norm_keeps_both_modes(forward: Any, training: bool) -> None:
    """In training mode they return new running statistics, and keep their inputs pinned."""
    network = with_eps(norm_network(forward), NEXT_TO_NOTHING)
    quiver = up_to_eps(network, IMAGES, training=training)
    assert len(quiver.buffers) == (0 if training else 2)
    for mode in (True, False):
        assert change(network.train(mode), quiver, drawn(quiver)) < 1e-12


def test_other_statistics_of_a_norm_pin() -> None:
    def forward(n: Any, x: Tensor) -> Tensor:
        h, mean, _ = torch.native_layer_norm(n.a(x), [4], n.norm.weight, n.norm.bias, 1e-5)
        return n.b(h) + mean

    network = Wired(forward, a=nn.Linear(3, 4), norm=nn.LayerNorm(4), b=nn.Linear(4, 2))
    quiver = up_to_eps(network, torch.randn(5, 3))
    assert not quiver.parameters["a.weight"].factors
    assert quiver.parameters["norm.weight"].factors


def test_norms_without_parameters_free_what_they_read() -> None:
    def forward(n: Any, x: Tensor) -> Tensor:
        return n.b(F.layer_norm(n.a(x), (4,), eps=NEXT_TO_NOTHING))

    network = Wired(forward, a=nn.Linear(3, 4), b=nn.Linear(4, 2))
    x = torch.randn(5, 3)
    quiver = up_to_eps(network, x)
    assert quiver.admits == ("positive",)
    assert change(network, quiver, torch.tensor([3.0]), x) < 1e-12


def test_one_norm_under_two_names_moves_once() -> None:
    network = Wired(lambda n, x: n.b(n.again(n.a(x))), a=nn.Conv2d(3, 4, 3), b=nn.Conv2d(4, 2, 1))
    network.norm = network.again = nn.BatchNorm2d(4, 0.5)
    quiver = up_to_eps(network, IMAGES)
    assert set(quiver.buffers) == {"norm.running_mean", "norm.running_var"}
    outputs = network.eval()(IMAGES)
    teleport_(network, IMAGES, quiver=quiver, cob=drawn(quiver))
    torch.testing.assert_close(network(IMAGES), outputs, rtol=1e-10, atol=1e-12)


# What works besides, and what refuses


@pytest.mark.parametrize("objective", ["grad_norm", "weighted_grad_norm", "balance", "activation_range"])
def test_changes_of_basis_are_chosen(objective: Any) -> None:
    network, quiver = chain(NEXT_TO_NOTHING).eval(), quiver_of_the_chain(NEXT_TO_NOTHING)
    labels = torch.arange(8) % 5
    found = choose_cob(quiver, network, objective, batches=[(IMAGES, labels)])
    done = teleport_(network, IMAGES, quiver=quiver, cob=found.cob)
    assert done.certificate is not None
    assert done.certificate.relative < 1e-12
    if objective == "grad_norm":  # the gradient of the network that was moved
        F.cross_entropy(network(IMAGES), labels).backward()
        norm = torch.stack([p.grad.square().sum() for p in network.parameters()]).sum().sqrt()  # type: ignore[union-attr]
        assert norm.item() == pytest.approx(found.history[-1], rel=1e-2)
        assert found.history[-1] > 1.5 * found.history[0]


def test_what_cannot_move_buffers_says_so() -> None:
    network, quiver = chain(), quiver_of_the_chain()
    for refused in (
        lambda: TeleportableModel(network, IMAGES, quiver),
        lambda: TeleportedOptimizer(network, quiver, torch.optim.SGD, lr=0.1),
        lambda: choose_cob(quiver, network, "nearest", target=dict(network.named_parameters())),
    ):
        with pytest.raises(TeleportationError, match=r"bn1.running_mean.*norms='exact', or nteleport.tel"):
            refused()
    with pytest.raises(TeleportationError, match=r"path_conditioning is not defined .* norms='exact'"):
        choose_cob(quiver, network, "path_conditioning", batches=[(IMAGES, None)])
    with pytest.raises(TeleportationError, match=r"bn1.weight moves together with bn1.running_var"):
        teleported(dict(network.named_parameters()), quiver, drawn(quiver))
    with pytest.raises(TeleportationError, match=r"there \(power 1\) or back"):
        corrections(quiver, drawn(quiver), network.state_dict(), power=2)


def test_a_quiver_without_running_statistics_is_for_teleportable_models_too() -> None:
    network = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.ReLU(), nn.Linear(4, 2))
    x = torch.randn(5, 3)
    model = TeleportableModel(network, x, up_to_eps(network, x))
    before = model(x)
    model.teleport(drawn(model.quiver))
    torch.testing.assert_close(model(x), before, rtol=1e-12, atol=1e-12)


def test_wrong_words_are_refused() -> None:
    network = chain()
    with pytest.raises(AnalysisError, match="exact or up_to_eps, got 'upto'"):
        analyze(network, IMAGES, activations="kept", norms="upto")  # type: ignore[arg-type]
    with pytest.raises(AnalysisError, match="only with activations kept"):
        analyze(network, IMAGES, norms="up_to_eps")
    with pytest.raises(TeleportationError, match=r"unknown norms 'upto_eps'.*up_to_eps"):
        teleport_(network, IMAGES, norms="upto_eps")  # type: ignore[arg-type]
    exact = analyze(network, IMAGES, activations="kept")
    with pytest.raises(TeleportationError, match="this quiver has norms='exact'"):
        teleport_(network, IMAGES, norms="up_to_eps", quiver=exact)


def test_buffers_of_another_network_are_refused() -> None:
    network, quiver = chain(), quiver_of_the_chain()
    network.bn1.register_buffer("running_var", torch.ones(1))
    with pytest.raises(TeleportationError, match=r"bn1.running_var has shape \(1,\), in .* \(6,\)"):
        teleport_(network, IMAGES, quiver=quiver)


def test_a_running_variance_that_cannot_move_is_refused() -> None:
    network, quiver = chain(0.5), quiver_of_the_chain(0.5)
    with torch.no_grad():
        network.bn1.running_var[2] = -0.4  # with eps the layer still works; scaled by 9 it would not
    start = state(network)
    cob = torch.full((quiver.cob_size,), 3.0)
    for certificate in (True, False):
        with pytest.raises(TeleportationError, match=r"bn1.weight .* variance that is negative or not"):
            teleport_(network, IMAGES, quiver=quiver, cob=cob, certificate=certificate)
    assert_same(state(network), start, 0)


def test_a_dead_channel_without_eps_is_left_alone() -> None:
    """Its layer divides by 0, before as after; its weight must not become anything but a number. (torch runs
    such a layer in evaluation mode only.)"""
    network, quiver = chain(), quiver_of_the_chain()
    quiver = replace(quiver, corrections=tuple(replace(each, eps=0.0) for each in quiver.corrections))
    with torch.no_grad():
        network.bn1.running_var[2] = 0.0
    found = corrections(quiver, drawn(quiver), network.state_dict())
    torch.testing.assert_close(found["bn1.weight"], torch.ones(6))


def test_the_report_says_what_is_corrected() -> None:
    reasons = {row.name: (row.status, row.reason) for row in quiver_of_the_chain().report()}
    assert reasons["bn1.weight"] == ("teleported", "batch_norm: output side scaled; corrected for eps")
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    (status, reason), *_ = [row[2:] for row in up_to_eps(network, IMAGES).report() if row.name == "1.weight"]
    assert status == "teleported"
    assert reason.endswith("; corrected for eps")


def test_a_quiver_moves_to_a_device_with_its_buffers() -> None:
    quiver = quiver_of_the_chain()
    assert {f.index.device.type for p in quiver.to("meta").buffers.values() for f in p.factors} == {"meta"}
