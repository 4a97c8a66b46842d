"""The modes that take a teleportation apart: each is what plain PyTorch does with what `random` drew."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from support.training_jobs import CPU, run, small_job
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from nteleport import Quiver, TeleportedOptimizer, analyze
from nteleport.errors import TeleportationError
from nteleport.experiment.experiment import load_experiment
from nteleport.experiment.matrix import expand
from nteleport.jobs.job import Component, Teleportation
from nteleport.jobs.schedule import teleports_at
from nteleport.randomness import generator_for
from nteleport.training.assembly import assemble
from nteleport.training.learner import Learner
from nteleport.training.modes import teleport, teleport_seed

BATCHES = [(torch.randn(6, 4, dtype=torch.float64), torch.tensor([0, 1, 2, 0, 1, 2])) for _ in range(4)]
DRAWING = ("layer_rates", "shuffled_rates", "layer_cob", "matched_norms")
ARMS = (*DRAWING, "optimizer_reset")
OPTIMIZERS: dict[str, tuple[type[torch.optim.Optimizer], dict[str, Any]]] = {
    "SGD": (torch.optim.SGD, {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.01}),
    "ASGD": (torch.optim.ASGD, {"lr": 0.1}),
    "AdamW": (torch.optim.AdamW, {"lr": 0.01, "weight_decay": 0.1}),
}
each_optimizer = pytest.mark.parametrize("name", OPTIMIZERS)
Activations = pytest.mark.parametrize("activations", ["conjugated", "kept"])


def a_network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3)).double()


@cache
def the_quiver(activations: Any) -> Quiver:
    return analyze(a_network(), BATCHES[0][0], activations=activations)


def a_learner(name: str = "SGD", activations: str = "conjugated") -> Learner:
    """A small network that is one step into its training, so that the optimizer has a state."""
    network = a_network()
    optimizer_class, options = OPTIMIZERS[name]
    optimizer = TeleportedOptimizer(network, the_quiver(activations), optimizer_class, **options)
    learner = Learner(network, optimizer, network)
    learner.backward(*BATCHES[0])
    learner.step(*BATCHES[0])
    return learner


def acted(learner: Learner, mode: str, *, state: str = "reset", number: int = 0, **options: Any) -> bool:
    settings = {"cob_sampling": "inter_landscape", "cob_range": 0.9, **options}
    generator = generator_for(teleport_seed(3, mode), number)
    return teleport(learner, Teleportation(mode, **settings), state, generator, no_batches)


def no_batches(count: int) -> Iterator[tuple[Tensor, Tensor]]:
    raise AssertionError("an arm looks at no batch")


def scales_of_random(name: str, activations: str) -> dict[str, Tensor]:
    learner = a_learner(name, activations)
    acted(learner, "random")
    return learner.optimizer.scales()


def rates(learner: Learner) -> dict[str, Tensor]:
    """Of every parameter; those that no change of basis reaches have none."""
    one = torch.ones((), dtype=torch.float64)
    return {name: learner.optimizer.rates.get(name, one) for name, _ in learner.network.named_parameters()}


@Activations
@each_optimizer
def test_layer_rates_are_means_of_what_random_would_do(name: str, activations: str) -> None:
    learner = a_learner(name, activations)
    assert acted(learner, "layer_rates")
    exponent = 1 if name == "AdamW" else 2
    assert bool((learner.optimizer.cob == 1).all())
    for each, scale in scales_of_random(name, activations).items():
        rate = rates(learner)[each]
        assert rate.numel() == 1
        assert float(rate) == pytest.approx(float((scale.abs() ** -exponent).mean()), rel=1e-12)


@Activations
@each_optimizer
def test_shuffled_rates_are_what_random_would_do_in_another_order(name: str, activations: str) -> None:
    learner = a_learner(name, activations)
    assert acted(learner, "shuffled_rates")
    exponent = 1 if name == "AdamW" else 2
    assert bool((learner.optimizer.cob == 1).all())
    for each, scale in scales_of_random(name, activations).items():
        own = scale.abs() ** -exponent
        rate = rates(learner)[each].expand_as(own)
        torch.testing.assert_close(rate.flatten().sort().values, own.flatten().sort().values)
        assert each == "4.bias" or not torch.allclose(rate, own)


@Activations
def test_layer_cob_moves_to_root_mean_squares_of_what_random_would_draw(activations: str) -> None:
    learner, random = a_learner("SGD", activations), a_learner("SGD", activations)
    acted(random, "random")
    before = learner.network(BATCHES[1][0])
    assert acted(learner, "layer_cob")
    torch.testing.assert_close(learner.network(BATCHES[1][0]), before)
    first, second = random.optimizer.cob[:6], random.optimizer.cob[6:]
    expected = torch.cat([each.square().mean().sqrt().expand_as(each) for each in (first, second)])
    torch.testing.assert_close(learner.optimizer.cob, expected, rtol=1e-6, atol=0)  # drawn in float32


@Activations
@pytest.mark.parametrize("state", ["reset", "keep"])
def test_matched_norms_are_those_of_the_teleported_weights(state: str, activations: str) -> None:
    learner, random = a_learner("AdamW", activations), a_learner("AdamW", activations)
    before = {name: p.detach().clone() for name, p in learner.network.named_parameters()}
    acted(random, "random")
    assert acted(learner, "matched_norms", state=state)
    for name, moved in random.optimizer.teleported_weights().items():
        weight = learner.network.get_parameter(name).detach()
        torch.testing.assert_close(weight.norm(), moved.norm(), rtol=1e-6, atol=0)
        torch.testing.assert_close(weight / weight.norm(), before[name] / before[name].norm())
    assert bool(learner.optimizer.optimizer.state) is (state == "keep")


def test_matched_norms_leave_zeros_alone() -> None:
    learner = a_learner()
    with torch.no_grad():
        learner.network.get_parameter("0.bias").zero_()
    acted(learner, "matched_norms")
    assert bool((learner.network.get_parameter("0.bias") == 0).all())


@pytest.mark.parametrize("state", ["reset", "transport", "keep"])
@each_optimizer
def test_optimizer_reset_is_a_new_optimizer_of_plain_pytorch_in_mid_training(name: str, state: str) -> None:
    learner = a_learner(name)
    plain = copy.deepcopy(learner.network)
    optimizer_class, options = OPTIMIZERS[name]
    theirs = optimizer_class(plain.parameters(), **options)

    assert acted(learner, "optimizer_reset", state=state)

    for images, labels in BATCHES[1:]:
        learner.backward(images, labels)
        learner.step(images, labels)
        theirs.zero_grad()
        cross_entropy(plain(images).float(), labels).backward()
        theirs.step()
    for ours, expected in zip(learner.network.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-12, atol=1e-15)


@each_optimizer
@pytest.mark.parametrize("mode", ["layer_rates", "shuffled_rates"])
def test_second_rates_replace_the_first(mode: str, name: str) -> None:
    twice, once = a_learner(name), a_learner(name)
    acted(twice, mode, number=0)
    acted(twice, mode, number=1)
    acted(once, mode, number=1)
    for ours, expected in zip(rates(twice).values(), rates(once).values(), strict=True):
        assert torch.equal(ours, expected)


STATES: dict[str, Callable[[Tensor, Tensor], Tensor | None]] = {
    "reset": lambda before, rate: None,
    "keep": lambda before, rate: before,
    "transport": lambda before, rate: before * rate,
}


@pytest.mark.parametrize("policy", STATES)
def test_momentum_after_new_rates_follows_the_policy(policy: str) -> None:
    learner = a_learner("AdamW")  # its state is of gradients times rates
    trained = learner.optimizer.optimizer.param_groups[0]["params"][0]
    before = learner.optimizer.optimizer.state[trained]["exp_avg"].clone()

    acted(learner, "shuffled_rates", state=policy)

    expected = STATES[policy](before, learner.optimizer.rates["0.weight"])
    found = learner.optimizer.optimizer.state[trained].get("exp_avg")
    assert found is None if expected is None else torch.allclose(found, expected, rtol=1e-12)


@pytest.mark.parametrize("mode", DRAWING)
def test_an_arm_acts_when_random_does(mode: str) -> None:
    moments = {
        each: [acted(a_learner(), each, number=number, teleport_prob=0.5) for number in range(20)]
        for each in ("random", mode)
    }
    assert moments[mode] == moments["random"]
    assert 0 < sum(moments[mode]) < 20


@pytest.mark.parametrize("mode", ARMS)
def test_arms_have_their_own_digests_and_the_seed_of_the_baseline(mode: str) -> None:
    job, random = small_job(mode), small_job("random")
    assert job.seed == random.seed == small_job().seed
    assert job.digest not in (random.digest, small_job().digest)
    assert job.name.split("-run0")[0].endswith(f"-{mode}")


def test_what_optimizer_state_says_is_nothing_to_a_reset() -> None:
    assert small_job("optimizer_reset", optimizer_state="transport") == small_job("optimizer_reset")
    assert small_job("layer_rates", optimizer_state="transport") != small_job("layer_rates")


@pytest.mark.parametrize("mode", ARMS)
def test_an_arm_is_written_in_an_experiment_file_and_trained(mode: str, tmp_path: Path) -> None:
    options = "" if mode == "optimizer_reset" else ", cob_range: 0.5, cob_sampling: inter_landscape"
    file = tmp_path / "experiment.yml"
    file.write_text(
        "datasets: digits\nmodels: {cls: mlp, hidden_layers: [8]}\ninitializers: {type: none}\n"
        "optimizers: {cls: Adam, lr: 0.01}\ntraining_params: {epochs: 3, max_batch: 2}\n"
        f"teleportations: {{teleport: {{mode: {mode}, every_n_epochs: 1{options}}}}}\n"
    )
    (job,) = expand(load_experiment(file))
    rows = run(job, tmp_path).rows
    due = [teleports_at(epoch, job.teleportation, 3, rows[:epoch]) for epoch in range(3)]
    assert [bool(row.teleported) for row in rows] == due
    assert any(due)


def test_a_reset_needs_no_analysis_and_rates_need_one(tmp_path: Path) -> None:
    sizes = {
        mode: assemble(small_job(mode), data_dir=tmp_path, device=CPU).learner.optimizer.quiver.cob_size
        for mode in ("optimizer_reset", "layer_rates")
    }
    assert sizes == {"optimizer_reset": 0, "layer_rates": 28}


def test_a_state_that_cannot_be_transported_is_refused_before_training(tmp_path: Path) -> None:
    job = small_job("layer_rates", optimizer=Component("Adafactor", {}), optimizer_state="transport")
    with pytest.raises(TeleportationError, match="Adafactor cannot be transported"):
        assemble(job, data_dir=tmp_path, device=CPU)
