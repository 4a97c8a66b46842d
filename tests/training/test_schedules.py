"""Jobs that teleport by schedules other than every few epochs, or with activations kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from support.training_jobs import run, small_job
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from nteleport import TeleportedOptimizer
from nteleport.data.batching import batches
from nteleport.data.splits import load_dataset
from nteleport.jobs.job import Component, Job, Plateau
from nteleport.networks.models import seeded_model
from nteleport.randomness import generator_for
from nteleport.training.modes import teleport_seed
from nteleport.vocabulary import OBJECTIVES

DIGITS = load_dataset("digits", "data", "cpu")


@pytest.fixture
def moves(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, Tensor]]:
    """Every teleportation of the jobs of a test: the number of steps taken before it, and where it went."""
    found: list[tuple[int, Tensor]] = []
    steps = 0
    teleport, step = TeleportedOptimizer.teleport, TeleportedOptimizer.step

    def counted(self: TeleportedOptimizer, *given: Any) -> Any:
        nonlocal steps
        steps += 1
        return step(self, *given)

    def noted(self: TeleportedOptimizer, cob: Tensor, *given: Any) -> None:
        found.append((steps, cob.clone()))
        teleport(self, cob, *given)

    monkeypatch.setattr(TeleportedOptimizer, "step", counted)
    monkeypatch.setattr(TeleportedOptimizer, "teleport", noted)
    return found


# Three epochs of four batches.
SCHEDULES: dict[str, tuple[dict[str, Any], list[int], list[int]]] = {
    "every 3 steps": ({"every_n_steps": 3}, [3, 6, 9], [1, 1, 1]),
    "every 4 steps, between epochs": ({"every_n_steps": 4}, [4, 8], [0, 1, 1]),
    "every step": ({"every_n_steps": 1}, list(range(1, 12)), [3, 4, 4]),
    "once before step 5": ({"every_n_steps": 5, "teleport_only_once": True}, [5], [0, 1, 0]),
    "at epochs 0 and 2": ({"epochs": (0, 2)}, [0, 8], [1, 0, 1]),
}


@pytest.mark.parametrize("case", SCHEDULES)
def test_a_job_moves_before_the_steps_of_its_schedule(
    case: str, tmp_path: Path, moves: list[tuple[int, Tensor]]
) -> None:
    schedule, before, per_epoch = SCHEDULES[case]

    result = run(small_job("random", teleport=schedule), tmp_path)

    assert [steps for steps, _ in moves] == before
    assert [row.teleported for row in result.rows] == per_epoch
    assert len({tuple(cob.tolist()) for _, cob in moves}) == len(moves)  # none is drawn twice


def test_a_job_moves_after_the_plateaus_of_its_own_rows(
    tmp_path: Path, moves: list[tuple[int, Tensor]]
) -> None:
    job = small_job(
        "random",
        teleport={"on_plateau": Plateau(0, "val_loss")},
        optimizer=Component("SGD", {"lr": 1.0, "momentum": 0.9}),
        epochs=8,
    )
    result = run(job, tmp_path)

    losses = [row.val_loss for row in result.rows]
    worse = [epoch for epoch in range(1, 8) if losses[epoch - 1] > min([*losses[: epoch - 1], float("inf")])]
    assert [steps // 4 for steps, _ in moves] == worse
    assert [row.epoch for row in result.rows if row.teleported] == worse
    assert worse


def test_the_start_of_a_schedule_in_steps_is_a_plain_training(tmp_path: Path) -> None:
    plain = run(small_job(), tmp_path)
    late = run(small_job("random", teleport={"every_n_steps": 9}), tmp_path)

    assert late.rows[:2] == plain.rows[:2]
    assert late.rows[2] != plain.rows[2]


def initial_network(job: Job) -> nn.Module:
    return seeded_model(
        job.model.cls, job.model.kwargs, input_shape=(1, 32, 32), num_classes=10, seed=job.seed
    )


OPTIMIZERS: dict[str, tuple[Component, Any]] = {
    "SGD": (
        Component("SGD", {"lr": 0.05, "momentum": 0.9, "weight_decay": 0.01}),
        lambda p: torch.optim.SGD(p, 0.05, 0.9, weight_decay=0.01),
    ),
    "Adam": (Component("Adam", {"lr": 0.01}), lambda p: torch.optim.Adam(p, 0.01)),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_job_with_activations_kept_is_a_training_of_the_unmodified_network_from_moved_weights(
    name: str, tmp_path: Path, moves: list[tuple[int, Tensor]]
) -> None:
    component, torch_optimizer = OPTIMIZERS[name]
    job = small_job("random", teleport={"activations": "kept"}, optimizer=component, epochs=1, max_batch=10)
    result = run(job, tmp_path)
    ((_, cob),) = moves
    network = initial_network(job)
    images = DIGITS.test.normalized(DIGITS.test.images)
    before = network(images).detach()
    first, second, third = (module for module in network.modules() if isinstance(module, nn.Linear))
    one, two = cob[:16], cob[16:]
    with torch.no_grad():
        first.weight *= one[:, None]
        first.bias *= one
        second.weight *= two[:, None] / one
        second.bias *= two
        third.weight /= two

    assert bool((cob > 0).all())
    assert float((cob - 1).abs().max()) > 0.1
    assert torch.allclose(network(images), before, atol=1e-5)

    optimizer = torch_optimizer(network.parameters())
    losses = []
    for images, labels in batches(
        DIGITS.train, batch_size=32, generator=generator_for("epoch", job.seed, 0), max_batch=10
    ):
        optimizer.zero_grad()
        loss = cross_entropy(network(images), labels)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert len(losses) == 10
    assert result.rows[0].train_loss == pytest.approx(sum(losses) / 10, rel=1e-4)
    network.eval()
    with torch.no_grad():
        loss = cross_entropy(network(DIGITS.test.normalized(DIGITS.test.images)), DIGITS.test.labels)
    assert result.rows[0].val_loss == pytest.approx(float(loss), rel=1e-4)


@pytest.mark.parametrize("mode", ["random", "optim", "pseudo", "same_distr"])
def test_with_positive_draws_keeping_activations_changes_nothing(mode: str, tmp_path: Path) -> None:
    """An intra-landscape draw is admitted as it is, so that both jobs are at the same place."""
    teleport = {"cob_sampling": "intra_landscape", "every_n_epochs": 1, "num_batches": 1}
    conjugated = run(small_job(mode, teleport=teleport), tmp_path)
    unmodified = run(small_job(mode, teleport={**teleport, "activations": "kept"}), tmp_path)

    assert unmodified.rows == conjugated.rows


def test_with_activations_kept_a_job_draws_absolute_values(
    tmp_path: Path, moves: list[tuple[int, Tensor]]
) -> None:
    run(small_job("random", teleport={"epochs": (0,)}), tmp_path)
    run(small_job("random", teleport={"epochs": (0,), "activations": "kept"}), tmp_path)

    (_, drawn), (_, admitted) = moves
    assert bool((drawn < 0).any())
    assert torch.equal(admitted, drawn.abs())


@pytest.mark.parametrize("objective", [each for each in OBJECTIVES if each != "nearest"])
def test_a_chosen_change_of_basis_stays_within_its_bound_whatever_the_objective(
    objective: str, tmp_path: Path, moves: list[tuple[int, Tensor]]
) -> None:
    teleport = {"objective": objective, "steps": 3, "max_log_range": 0.25, "every_n_steps": 5}
    teleport["activations"] = "kept" if objective == "path_conditioning" else "conjugated"
    result = run(small_job("optimize", teleport=teleport, epochs=2), tmp_path)

    ((steps, cob),) = moves
    assert steps == 5
    assert [row.teleported for row in result.rows] == [0, 1]
    assert float(cob.abs().log().abs().max()) == pytest.approx(0.25, rel=1e-4)


def test_a_balanced_job_starts_where_each_neuron_has_equal_norms_on_both_sides(
    tmp_path: Path, moves: list[tuple[int, Tensor]]
) -> None:
    """Equi-normalization: Stock et al., arXiv 1902.10416."""
    job = small_job("optimize", teleport={"objective": "balance", "max_log_range": None}, epochs=1)
    run(job, tmp_path)
    ((_, cob),) = moves
    network = initial_network(job)
    first, second, third = (module for module in network.modules() if isinstance(module, nn.Linear))
    one, two = cob[:16], cob[16:]

    def squares(weight: Tensor, bias: Tensor | None = None) -> Tensor:
        entering = weight.square().sum(1)
        return entering if bias is None else entering + bias.square()

    middle = second.weight * two[:, None] / one
    entering = [squares(first.weight * one[:, None], first.bias * one), squares(middle, second.bias * two)]
    leaving = [squares(middle.T), squares((third.weight / two).T)]
    for there, here in zip(entering, leaving, strict=True):
        assert torch.allclose(there, here, rtol=1e-4)
    assert float((cob - 1).abs().max()) > 0.01


def test_a_job_that_chooses_by_gradient_norm_starts_with_a_larger_one(tmp_path: Path) -> None:
    plain = run(small_job(epochs=1), tmp_path)
    chosen = run(small_job("optimize", teleport={"objective": "grad_norm"}, epochs=1), tmp_path)

    assert chosen.rows[0].grad_norm > 1.5 * plain.rows[0].grad_norm


def test_steps_have_draws_of_their_own() -> None:
    assert teleport_seed(5, "random") != teleport_seed(5, "random", "step")
