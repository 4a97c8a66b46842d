"""What a job certifies of its teleportations, and that it keeps none that does harm."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from support.training_jobs import Events, run, small_job, stop_after
from torch import Tensor, nn

from nteleport import Quiver, TeleportedOptimizer, analyze
from nteleport.core.certificate import weights_digest
from nteleport.jobs.job import Component, Job
from nteleport.jobs.paths import JobPaths
from nteleport.networks.models import seeded_model
from nteleport.training import assembly

STILL = Component("SGD", {"lr": 0.0})
"""Weights that no step changes."""


def certificates(job: Job, out: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(JobPaths(out, job.name).certificates.read_text())
    return found


def initial_digest(job: Job) -> str:
    network = seeded_model(
        job.model.cls, job.model.kwargs, input_shape=(1, 32, 32), num_classes=10, seed=job.seed
    )
    return weights_digest({**dict(network.named_parameters()), **dict(network.named_buffers())})


@pytest.mark.parametrize("activations", ["conjugated", "kept"])
def test_each_teleportation_has_a_row_that_continues_the_one_before(activations: str, tmp_path: Path) -> None:
    job = small_job("random", teleport={"every_n_steps": 3, "activations": activations}, optimizer=STILL)
    run(job, tmp_path)

    rows = certificates(job, tmp_path)

    assert [(row["epoch"], row["step"]) for row in rows] == [(0, 3), (1, 6), (2, 9)]
    digests = [row["weights_before"] for row in rows] + [rows[-1]["weights_after"]]
    assert digests[0] == initial_digest(job)
    assert digests[1:] == [row["weights_after"] for row in rows]
    assert len(set(digests)) == 4
    assert [row["entries"] for row in rows] == [16 + 12] * 3


def test_the_condition_is_that_of_the_change_of_basis(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cobs: list[Tensor] = []
    teleport = TeleportedOptimizer.teleport

    def noted(self: TeleportedOptimizer, cob: Tensor, *given: Any) -> None:
        cobs.append(cob.abs())
        teleport(self, cob, *given)

    monkeypatch.setattr(TeleportedOptimizer, "teleport", noted)
    job = small_job("random", teleport={"every_n_epochs": 1})
    run(job, tmp_path)

    expected = [float(cob.max()) / float(cob.min()) for cob in cobs]
    assert [row["condition"] for row in certificates(job, tmp_path)] == pytest.approx(expected)


def test_outputs_are_compared_where_activations_are_kept(tmp_path: Path) -> None:
    teleport = {"every_n_epochs": 1}
    kept = small_job("random", teleport={**teleport, "activations": "kept"})
    conjugated = small_job("random", teleport=teleport)
    run(kept, tmp_path)
    run(conjugated, tmp_path)

    for row in certificates(kept, tmp_path):
        assert 0 < row["relative"] < 1e-5
        assert 0 < row["absolute"] < 1e-4
        assert row["admitted"] == {"nonzero": 0, "positive": 28, "sign": 0}
        assert row["rolled_back"] is False
    for row in certificates(conjugated, tmp_path):
        assert (row["relative"], row["absolute"]) == (None, None)


def test_certificates_change_no_result(tmp_path: Path) -> None:
    teleport = {"every_n_steps": 3, "activations": "kept"}
    job = small_job("random", teleport=teleport)
    without = small_job("random", teleport=teleport, certificates=False)

    assert run(without, tmp_path).rows == run(job, tmp_path).rows
    assert not JobPaths(tmp_path, without.name).certificates.exists()


@pytest.mark.parametrize("mode", ["no_teleport", "pseudo", "same_distr"])
def test_what_moves_no_change_of_basis_has_no_certificate(mode: str, tmp_path: Path) -> None:
    job = small_job(mode)
    run(job, tmp_path)

    assert not JobPaths(tmp_path, job.name).certificates.exists()


@pytest.fixture
def wrong_quivers(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Quivers that admit what the network does not: its activations would have to be conjugated."""

    def analyzed(network: nn.Module, example: Tensor, *, activations: str) -> Quiver:
        quiver = analyze(network, example)
        return replace(quiver, activations="kept", admits=("positive",) * quiver.cob_size)

    monkeypatch.setattr(assembly, "analyze", analyzed)
    assembly._architecture.cache_clear()
    yield
    assembly._architecture.cache_clear()


@pytest.mark.parametrize("optimizer_state", ["reset", "transport"])
@pytest.mark.parametrize("optimizer", ["SGD", "Adam"])
def test_a_teleportation_that_changes_outputs_is_rolled_back(
    optimizer: str, optimizer_state: str, tmp_path: Path, wrong_quivers: None
) -> None:
    """What is left is the plain training, of the optimizer's state too."""
    model = Component("mlp", {"hidden_layers": [16, 12], "activation": "tanh"})
    chosen = Component("SGD", {"lr": 0.05, "momentum": 0.9}) if optimizer == "SGD" else Component("Adam")
    teleport = {"every_n_steps": 3, "activations": "kept"}
    job = small_job(
        "random", teleport=teleport, model=model, optimizer=chosen, optimizer_state=optimizer_state
    )
    plain = run(small_job(model=model, optimizer=chosen), tmp_path)
    events = Events()

    result = run(job, tmp_path, report=events)

    assert result.rows == plain.rows
    assert [row["rolled_back"] for row in certificates(job, tmp_path)] == [True] * 3
    assert all(row["relative"] > 1e-2 for row in certificates(job, tmp_path))
    assert len(events.warnings) == 3
    assert "the teleportation before step 3 was rolled back: outputs changed by" in events.warnings[0]
    assert "rolled back" in JobPaths(tmp_path, job.name).log.read_text()


def test_a_job_that_starts_over_has_no_rows_of_before(tmp_path: Path) -> None:
    job = small_job("random", teleport={"every_n_steps": 1})
    paths = JobPaths(tmp_path, job.name)
    run(job, tmp_path, stop_requested=stop_after(11))
    assert len(certificates(job, tmp_path)) > 1
    for path in (paths.checkpoint, paths.checkpoint_before):
        path.unlink()

    run(job, tmp_path)

    assert [row["step"] for row in certificates(job, tmp_path)] == list(range(1, 12))


def test_random_states_are_as_without_certificates(tmp_path: Path) -> None:
    torch.manual_seed(4)
    expected = torch.rand(3)
    torch.manual_seed(4)
    run(small_job("random", teleport={"activations": "kept"}, epochs=1), tmp_path)

    assert torch.equal(torch.rand(3), expected)
