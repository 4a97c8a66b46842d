"""The modes of teleportation while training."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from nteleport import Quiver, TeleportableModel, TeleportedOptimizer, analyze, sample_cob
from nteleport.jobs.job import Teleportation
from nteleport.randomness import generator_for
from nteleport.training.learner import Learner
from nteleport.training.modes import teleport, teleport_seed
from nteleport.training.selection import score_candidates
from nteleport.vocabulary import MODES

BATCHES = [(torch.randn(6, 4, dtype=torch.float64), torch.tensor([0, 1, 2, 0, 1, 2])) for _ in range(3)]


def a_network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Dropout(0.2), nn.Linear(6, 3)
    ).double()


@cache
def the_quiver() -> Quiver:
    return analyze(a_network(), BATCHES[0][0])


def a_learner(optimizer: type[torch.optim.Optimizer] = torch.optim.SGD, **hyper_parameters: Any) -> Learner:
    """A small network that is one step into its training, so that the optimizer has a state."""
    network = a_network()
    settings = {"lr": 0.1} | hyper_parameters
    learner = Learner(network, TeleportedOptimizer(network, the_quiver(), optimizer, **settings), network)
    learner.backward(*BATCHES[1])
    learner.step(*BATCHES[1])
    learner.optimizer.zero_grad()
    return learner


def teleported(learner: Learner, mode: str, *, optimizer_state: str = "reset", **options: Any) -> bool:
    """Whether the mode moved the learner."""
    settings = {"cob_sampling": "inter_landscape", "cob_range": 0.9, **options}
    generator = generator_for(teleport_seed(3, mode), 0)
    return teleport(learner, Teleportation(mode, **settings), optimizer_state, generator, batches)


def batches(count: int) -> Iterator[tuple[Tensor, Tensor]]:
    return iter(BATCHES[:count])


def everything(learner: Learner) -> dict[str, Any]:
    """All that a mode may not leave changed when it declines or only measures."""
    return copy.deepcopy(
        {
            "network": learner.network.state_dict(),
            "cob": learner.optimizer.cob,
            "optimizer": learner.optimizer.state_dict(),
            "random": torch.get_rng_state(),
            "mode": [module.training for module in learner.network.modules()],
            "gradients": [p.grad for p in learner.network.parameters()],
        }
    )


def same(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor):
        return isinstance(other, Tensor) and one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


@pytest.mark.parametrize(
    ("mode", "keeps"),
    [("random", True), ("optim", True), ("optimize", True), ("pseudo", False), ("same_distr", False)],
)
def test_only_the_controls_change_the_function(mode: str, keeps: bool) -> None:
    learner = a_learner()
    learner.network.eval()
    before = learner.forward(BATCHES[0][0])
    weights = learner.optimizer.teleported_weights()

    assert teleported(learner, mode)

    learner.network.eval()
    after = learner.forward(BATCHES[0][0])
    assert torch.allclose(before, after, rtol=1e-12) is keeps
    assert not torch.allclose(weights["0.weight"], learner.optimizer.teleported_weights()["0.weight"])


def test_choosing_leaves_all_but_the_move_as_it_was() -> None:
    """Weights, buffers, random states, modes and gradients; and the same choice a second time is no move."""
    learner = a_learner()
    learner.network.eval()
    before = everything(learner)

    assert teleported(learner, "optimize", objective="balance")
    chosen = everything(learner)
    assert not teleported(learner, "optimize", objective="balance")

    untouched = ("network", "random", "mode", "gradients")
    assert same([chosen[key] for key in untouched], [before[key] for key in untouched])
    assert same(everything(learner), chosen)


def test_no_teleport_stays() -> None:
    learner = a_learner()
    before = everything(learner)

    assert not teleported(learner, "no_teleport")
    assert same(everything(learner), before)


@pytest.mark.parametrize("mode", [mode for mode in MODES if mode not in ("no_teleport", "optimizer_reset")])
def test_what_happens_depends_on_job_and_epoch_alone(mode: str) -> None:
    moved = []
    for noise in range(2):
        learner = a_learner()
        torch.rand(noise + 1)  # the default generator is elsewhere
        teleported(learner, mode)
        moved.append(learner.optimizer.teleported_weights()["0.weight"])

    assert torch.equal(*moved)


def test_generators_of_epochs_modes_and_jobs_differ() -> None:
    seeds = {
        generator_for(teleport_seed(*key[:2]), key[2]).initial_seed()
        for key in [(1, "random", 0), (1, "random", 1), (1, "optim", 0), (2, "random", 0)]
    }

    assert len(seeds) == 4


def test_random_moves_to_the_sampled_change_of_basis_with_its_probability() -> None:
    learner = a_learner()
    moves = []
    for epoch in range(60):
        chosen = Teleportation("random", teleport_prob=0.25, cob_range=0.5)
        generator = generator_for(teleport_seed(3, "random"), epoch)
        before = everything(learner)
        moved = teleport(learner, chosen, "keep", generator, batches)
        moves.append(moved)
        if not moved:
            assert same(everything(learner), before)

    assert 5 <= sum(moves) <= 26  # 15 expected; outside once in 2,000 seeds
    assert bool(((learner.optimizer.cob > 0.5) & (learner.optimizer.cob < 1.5)).all())


@pytest.mark.parametrize("metric", ["weighted_grad_norm", "loss_lookahead_diff"])
@pytest.mark.parametrize(
    ("optimizer", "settings", "state"),
    [
        (torch.optim.SGD, {"momentum": 0.9}, "reset"),
        (torch.optim.SGD, {"momentum": 0.9}, "transport"),
        (torch.optim.SGD, {"momentum": 0.9}, "keep"),
        (torch.optim.Adam, {}, "reset"),
        (torch.optim.Adam, {}, "transport"),
        (torch.optim.LBFGS, {"max_iter": 2}, "keep"),
    ],
)
def test_measuring_leaves_no_trace(
    metric: str, optimizer: type[torch.optim.Optimizer], settings: dict[str, Any], state: str
) -> None:
    learner = a_learner(optimizer, **settings)
    size = learner.optimizer.quiver.cob_size
    learner.optimizer.teleport(sample_cob(size, 0.5, "intra_landscape"), "keep")
    learner.network.eval()
    cobs = torch.rand(3, size, dtype=torch.float64) + 0.5
    before = everything(learner)

    score_candidates(metric, learner, cobs, batches(2), optimizer_state=state)

    assert same(everything(learner), before)


def gradient_over_weights(learner: Learner, cob: Tensor, batch: tuple[Tensor, Tensor]) -> float:
    """‖g' / θ'‖ of a copy that was really teleported, weights that are 0 left out."""
    model = TeleportableModel(copy.deepcopy(learner.network), batch[0], the_quiver())
    model.teleport(cob)
    cross_entropy(model(batch[0]), batch[1]).backward()
    ratios = [(p.grad / p)[p != 0].flatten() for p in model.network.parameters() if p.grad is not None]
    return float(torch.cat(ratios).detach().norm())


def test_weighted_grad_norm_is_that_of_really_teleported_networks_averaged_over_batches() -> None:
    learner = a_learner()
    learner.network[3].p = 0.0  # type: ignore[union-attr,operator,index]
    with torch.no_grad():
        learner.network[0].weight[::2] = 0  # type: ignore[index,union-attr,operator]
    size = learner.optimizer.quiver.cob_size
    cobs = torch.stack([sample_cob(size, 0.9, "inter_landscape").double() for _ in range(3)])

    scores = score_candidates("weighted_grad_norm", learner, cobs, batches(2))

    expected = [sum(gradient_over_weights(learner, cob, batch) for batch in BATCHES[:2]) / 2 for cob in cobs]
    assert scores.tolist() == pytest.approx(expected, rel=1e-5)  # losses are in float32


def looked_ahead(learner: Learner, cob: Tensor, batch: tuple[Tensor, Tensor]) -> float:
    """The loss before minus after one step of plain torch SGD on a teleported copy."""
    network = copy.deepcopy(learner.network)
    for module in network.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    model = TeleportableModel(network, batch[0], the_quiver())
    model.teleport(cob)
    optimizer = torch.optim.SGD(model.network.parameters(), lr=0.1, momentum=0.9)
    before = cross_entropy(model(batch[0]), batch[1])
    before.backward()
    optimizer.step()
    return float((before - cross_entropy(model(batch[0]), batch[1])).detach())


def test_loss_lookahead_is_the_drop_of_a_real_step_averaged_over_batches() -> None:
    learner = a_learner(momentum=0.9)
    learner.network[3].p = 0.0  # type: ignore[union-attr,operator,index]
    size = learner.optimizer.quiver.cob_size
    cobs = torch.stack([sample_cob(size, 0.9, "inter_landscape").double() for _ in range(3)])

    scores = score_candidates("loss_lookahead_diff", learner, cobs, batches(2))

    expected = [sum(looked_ahead(learner, cob, batch) for batch in BATCHES[:2]) / 2 for cob in cobs]
    assert scores.tolist() == pytest.approx(expected, rel=1e-5)  # losses are in float32


def test_loss_lookahead_of_the_present_change_of_basis_keeps_the_state_of_the_optimizer() -> None:
    learner = a_learner(momentum=0.9)
    present = learner.optimizer.cob.clone()
    with_state = score_candidates("loss_lookahead_diff", learner, present[None], batches(1))
    learner.optimizer.reset_state()
    without_state = score_candidates("loss_lookahead_diff", learner, present[None], batches(1))

    assert float(with_state) != float(without_state)


@pytest.mark.parametrize("metric", ["weighted_grad_norm", "loss_lookahead_diff"])
def test_optim_moves_to_the_best_of_its_candidates(metric: str) -> None:
    learner = a_learner()
    learner.network[3].p = 0.0  # type: ignore[union-attr,operator,index]  # scores depend on masks
    size = learner.optimizer.quiver.cob_size
    drawn = [
        sample_cob(size, 0.9, "inter_landscape", generator=generator)
        for generator in [generator_for(teleport_seed(3, "optim"), 0)]
        for _ in range(4)
    ]
    cobs = torch.stack([torch.ones(size), *drawn]).double()
    scores = score_candidates(metric, learner, cobs, batches(2))

    moved = teleported(learner, "optim", metric=metric, num_teleportations=4, num_batches=2)

    assert moved == (int(scores.argmax()) > 0)
    assert torch.equal(learner.optimizer.cob, cobs[scores.argmax()])


def test_optim_stays_where_the_present_change_of_basis_is_the_best() -> None:
    learner = a_learner(momentum=0.9)
    size = learner.optimizer.quiver.cob_size
    learner.optimizer.teleport(torch.full((size,), 1e-3), "keep")  # gradients there are enormous
    before = everything(learner)

    assert not teleported(learner, "optim", cob_range=0.1, cob_sampling="intra_landscape")
    assert same(everything(learner), before)


def test_a_candidate_that_leads_to_no_number_never_wins() -> None:
    learner = a_learner(lr=1e300)

    scores = score_candidates(
        "loss_lookahead_diff", learner, torch.ones(1, learner.optimizer.quiver.cob_size), batches(1)
    )

    assert scores.tolist() == [-torch.inf]


STATES = {"reset": lambda before, scale: None, "keep": lambda before, scale: before,
          "transport": lambda before, scale: before / scale}  # fmt: skip


@pytest.mark.parametrize("policy", STATES)
def test_momentum_after_a_random_teleportation_follows_the_policy(policy: str) -> None:
    learner = a_learner(torch.optim.Adam)  # its state is in teleported coordinates
    trained = learner.optimizer.optimizer.param_groups[0]["params"][0]
    before = learner.optimizer.optimizer.state[trained]["exp_avg"].clone()

    teleported(learner, "random", optimizer_state=policy)

    expected = STATES[policy](before, learner.optimizer.scales()["0.weight"])
    found = learner.optimizer.optimizer.state[trained].get("exp_avg")
    assert found is None if expected is None else torch.allclose(found, expected, rtol=1e-12)


@pytest.mark.parametrize("mode", ["pseudo", "same_distr"])
@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.Adam])
@pytest.mark.parametrize("policy", ["reset", "transport", "keep"])
def test_a_control_trains_on_from_where_it_moved_to(
    mode: str, optimizer: type[torch.optim.Optimizer], policy: str
) -> None:
    learner = a_learner(optimizer)
    plain = copy.deepcopy(learner.network)
    theirs = optimizer(plain.parameters(), lr=0.1)  # type: ignore[call-arg]
    theirs.load_state_dict(copy.deepcopy(learner.optimizer.optimizer.state_dict()))

    teleported(learner, mode, optimizer_state=policy)
    with torch.no_grad():
        for parameter, moved in zip(plain.parameters(), learner.network.parameters(), strict=True):
            parameter.copy_(moved)
    if policy == "reset":
        theirs.state.clear()
    learner.network.eval(), plain.eval()  # no dropout, no batch statistics
    learner.backward(*BATCHES[0])
    learner.step(*BATCHES[0])
    cross_entropy(plain(BATCHES[0][0]).float(), BATCHES[0][1]).backward()
    theirs.step()

    for ours, expected in zip(learner.network.parameters(), plain.parameters(), strict=True):
        assert torch.allclose(ours, expected, rtol=1e-12)
