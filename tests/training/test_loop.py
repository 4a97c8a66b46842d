"""Training a job, against plain PyTorch and against itself without interruption."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from support.training_jobs import CPU, STANDING_CLOCK, Events, run, small_job, stop_after
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import lr_scheduler
from torch.utils._python_dispatch import TorchDispatchMode

from nteleport import TeleportableModel, sample_cob
from nteleport.data.batching import batches, hold_out, some_of
from nteleport.data.splits import load_dataset
from nteleport.errors import NTeleportError
from nteleport.jobs.job import Component, Job, Plateau, Scheduler
from nteleport.jobs.paths import JobPaths
from nteleport.jobs.records import COLUMNS, metrics_csv, read_provenance
from nteleport.networks.models import seeded_model
from nteleport.randomness import generator_for
from nteleport.training.assembly import assemble
from nteleport.training.learner import evaluate, train_epoch
from nteleport.training.modes import MODE_ACTIONS, teleport_seed

DIGITS = load_dataset("digits", "data", "cpu")


def initial_network(job: Job) -> nn.Module:
    return seeded_model(
        job.model.cls, job.model.kwargs, input_shape=(1, 32, 32), num_classes=10, seed=job.seed
    )


def training_batches(job: Job, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
    params = job.training
    return batches(
        DIGITS.train,
        batch_size=params.batch_size,
        generator=generator_for("epoch", job.seed, epoch),
        max_batch=params.max_batch,
    )


def plain_epoch(model: nn.Module, optimizer: torch.optim.Optimizer, job: Job, epoch: int) -> dict[str, float]:
    """One epoch as anybody would write it."""
    loss_sum, hits, seen = 0.0, 0, 0
    model.train()
    for images, labels in training_batches(job, epoch):
        optimizer.zero_grad()
        logits = model(images)
        loss = cross_entropy(logits, labels)
        loss.backward()
        optimizer.step()
        loss_sum += loss.item() * len(labels)
        hits += int((logits.argmax(1) == labels).sum())
        seen += len(labels)
    model.eval()
    with torch.no_grad():
        logits = torch.cat([model(images) for images, _ in batches(DIGITS.test, batch_size=60)])
    return {
        "train_loss": loss_sum / seen,
        "train_accuracy": hits / seen,
        "val_loss": float(cross_entropy(logits, DIGITS.test.labels)),
        "val_accuracy": float((logits.argmax(1) == DIGITS.test.labels).double().mean()),
    }


OPTIMIZERS: dict[str, tuple[Component, Any]] = {
    "SGD": (
        Component("SGD", {"lr": 0.05, "momentum": 0.9, "weight_decay": 0.01}),
        lambda p: torch.optim.SGD(p, 0.05, 0.9, weight_decay=0.01),
    ),
    "Adam": (Component("Adam", {"lr": 0.01}), lambda p: torch.optim.Adam(p, 0.01)),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_job_without_teleportation_is_a_plain_training(name: str, tmp_path: Path) -> None:
    component, torch_optimizer = OPTIMIZERS[name]
    job = small_job(optimizer=component, scheduler=Scheduler("StepLR", {"step_size": 2}))
    network = initial_network(job)
    optimizer = torch_optimizer(network.parameters())
    scheduler = lr_scheduler.StepLR(optimizer, 2)

    result = run(job, tmp_path)

    for row in result.rows:
        assert row.lr == optimizer.param_groups[0]["lr"]
        expected = plain_epoch(network, optimizer, job, row.epoch)
        assert {key: getattr(row, key) for key in expected} == pytest.approx(expected, rel=1e-4)
        scheduler.step()
    assert result.state == "finished"
    assert len(result.rows) == 3


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_teleported_job_is_a_plain_training_of_the_teleported_network(name: str, tmp_path: Path) -> None:
    component, torch_optimizer = OPTIMIZERS[name]
    job = small_job("random", optimizer=component)
    model = TeleportableModel(initial_network(job), torch.zeros(2, 1, 32, 32))
    generator = generator_for(teleport_seed(job.seed, "random"), 0)
    torch.rand((), generator=generator)  # teleport_prob
    model.teleport(sample_cob(model.cob_size, 0.5, "inter_landscape", generator=generator))
    optimizer = torch_optimizer(model.parameters())

    result = run(job, tmp_path)

    for row in result.rows:
        expected = plain_epoch(model, optimizer, job, row.epoch)
        assert {key: getattr(row, key) for key in expected} == pytest.approx(expected, rel=1e-3)
        assert row.teleported == (row.epoch == 0)


def test_a_job_and_its_baseline_start_from_the_same_weights_and_see_the_same_batches(tmp_path: Path) -> None:
    baseline = run(small_job(), tmp_path)
    teleported = run(small_job("random", teleport={"every_n_epochs": 2}), tmp_path)

    assert teleported.rows[:2] == baseline.rows[:2]
    assert teleported.rows[2].teleported == 1
    assert teleported.rows[2] != baseline.rows[2]


def test_norms_of_a_row_are_those_right_after_the_teleportation(tmp_path: Path) -> None:
    job = small_job("random", epochs=1)
    model = TeleportableModel(initial_network(job), torch.zeros(2, 1, 32, 32))
    generator = generator_for(teleport_seed(job.seed, "random"), 0)
    torch.rand((), generator=generator)
    model.teleport(sample_cob(model.cob_size, 0.5, "inter_landscape", generator=generator))
    images, labels = next(training_batches(job, 0))
    cross_entropy(model(images), labels).backward()

    row = run(job, tmp_path).rows[0]

    gradient = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
    weights = torch.cat([p.detach().flatten() for p in model.parameters()])
    assert (row.grad_norm, row.weight_norm) == pytest.approx(
        (float(gradient.norm()), float(weights.norm())), rel=1e-4
    )


INTERRUPTED = {
    "plain": small_job(),
    "random every 2 epochs, momentum": small_job("random", teleport={"every_n_epochs": 2}, epochs=5),
    "random, transported Adam": small_job(
        "random",
        teleport={"every_n_epochs": 1, "teleport_prob": 0.6},
        optimizer=Component("Adam", {"lr": 0.01}),
        optimizer_state="transport",
        epochs=5,
    ),
    "optim by gradient norm": small_job("optim", teleport={"every_n_epochs": 1, "num_teleportations": 3}),
    "optim by lookahead": small_job(
        "optim",
        teleport={
            "every_n_epochs": 1,
            "num_teleportations": 2,
            "metric": "loss_lookahead_diff",
            "num_batches": 2,
        },
        optimizer_state="keep",
    ),
    "pseudo, OneCycle by step": small_job(
        "pseudo",
        teleport={"every_n_epochs": 1},
        scheduler=Scheduler("OneCycleLR", {"max_lr": 0.1}, interval="step"),
    ),
    "same_distr, plateau": small_job(
        "same_distr",
        teleport={"every_n_epochs": 1},
        scheduler=Scheduler("ReduceLROnPlateau", {"mode": "max", "patience": 0}),
    ),
    "random every 3 steps, transported Adam": small_job(
        "random",
        teleport={"every_n_steps": 3},
        optimizer=Component("Adam", {"lr": 0.01}),
        optimizer_state="transport",
    ),
    "optim every 2 steps": small_job("optim", teleport={"every_n_steps": 2, "num_teleportations": 3}),
    "chosen every 3 steps": small_job(
        "optimize", teleport={"every_n_steps": 3, "objective": "weighted_grad_norm", "steps": 3}
    ),
    "random every 3 steps, activations kept": small_job(
        "random", teleport={"every_n_steps": 3, "activations": "kept"}, optimizer_state="transport"
    ),
    "layer rates every 3 steps, momentum transported": small_job(
        "layer_rates", teleport={"every_n_steps": 3, "teleport_prob": 0.7}, optimizer_state="transport"
    ),
    "shuffled rates every epoch, Adam kept": small_job(
        "shuffled_rates",
        teleport={"every_n_epochs": 1},
        optimizer=Component("Adam", {"lr": 0.01}),
        optimizer_state="keep",
    ),
    "layer CoB on plateaus": small_job(
        "layer_cob", teleport={"on_plateau": Plateau(0, "val_loss")}, epochs=6
    ),
    "optimizer reset": small_job("optimizer_reset", teleport={"epochs": (1,)}),
    "matched norms at epochs": small_job(
        "matched_norms", teleport={"epochs": (0, 2)}, optimizer_state="keep"
    ),
    "random on plateaus": small_job("random", teleport={"on_plateau": Plateau(0, "val_loss")}, epochs=6),
    "BatchNorm and dropout": small_job(epochs=4),
}


def network_with_dropout(name: str, arguments: Any, **settings: Any) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(settings["seed"])
        return nn.Sequential(
            nn.AvgPool2d(4), nn.Flatten(), nn.Linear(64, 20), nn.BatchNorm1d(20), nn.ReLU(), nn.Dropout(0.3),
            nn.Linear(20, 10),
        )  # fmt: skip


@pytest.mark.parametrize("name", INTERRUPTED)
def test_an_interrupted_job_ends_byte_for_byte_as_an_uninterrupted_one(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = INTERRUPTED[name]
    if name == "BatchNorm and dropout":
        monkeypatch.setattr("nteleport.training.assembly.seeded_model", network_with_dropout)
    whole, parts = JobPaths(tmp_path / "whole", job.name), JobPaths(tmp_path / "parts", job.name)
    run(job, whole.out, save_weights=True)

    stops = 0
    for calls in (2, 7, 6, 1, 3, 5, 99):  # at the start, in the middle and at the end of epochs
        torch.rand(3)  # the process is another one, with another history
        final = run(job, parts.out, stop_requested=stop_after(calls), save_weights=True)
        stops += final.state == "stopped"
        if final.state == "finished":
            break

    assert stops >= 4
    assert final.state == "finished"
    assert parts.metrics.read_bytes() == whole.metrics.read_bytes()
    assert parts.weights.read_bytes() == whole.weights.read_bytes()
    if whole.certificates.exists():
        assert parts.certificates.read_bytes() == whole.certificates.read_bytes()
    assert parts.result.read_bytes() == whole.result.read_bytes()


def test_no_batch_is_lost_by_a_stop(tmp_path: Path) -> None:
    """An epoch of 4 batches, in processes that are stopped after one batch each."""
    job = small_job(epochs=1)
    asked = [run(job, tmp_path, stop_requested=stop_after(2)).state for _ in range(4)]

    assert asked == ["stopped", "stopped", "stopped", "finished"]
    whole = run(job, tmp_path / "whole")
    assert JobPaths(tmp_path, job.name).metrics.read_text() == metrics_csv(whole.rows)


def test_a_stop_leaves_the_rows_of_whole_epochs_and_a_checkpoint(tmp_path: Path) -> None:
    job = small_job()
    paths = JobPaths(tmp_path, job.name)

    result = run(job, tmp_path, stop_requested=stop_after(7))  # in the middle of the second epoch

    assert result.state == "stopped"
    assert len(paths.metrics.read_text().splitlines()) == 1 + 1
    assert paths.checkpoint.exists()
    assert not paths.result.exists()


def test_rows_beyond_the_checkpoint_are_cut_back(tmp_path: Path) -> None:
    job = small_job()
    paths = JobPaths(tmp_path, job.name)
    run(job, tmp_path, stop_requested=stop_after(7))
    paths.metrics.write_text(paths.metrics.read_text() + "1,0.1,half a ro")

    run(job, tmp_path, stop_requested=stop_after(0))

    assert [line.split(",")[0] for line in paths.metrics.read_text().splitlines()] == ["epoch", "0"]


def test_a_damaged_checkpoint_means_a_warning_and_the_one_before(tmp_path: Path) -> None:
    job = small_job(epochs=4)
    paths, events = JobPaths(tmp_path, job.name), Events()
    run(job, tmp_path, stop_requested=stop_after(16))
    paths.checkpoint.write_bytes(paths.checkpoint.read_bytes()[:1000])

    run(job, tmp_path, report=events)

    assert "checkpoint.pt is damaged" in events.words[0]
    assert events.words[1:] == ["resumed 2", "epoch 2", "epoch 3"]
    assert "checkpoint.pt is damaged" in paths.log.read_text()


def test_resuming_under_other_versions_warns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job, events = small_job(), Events()
    run(job, tmp_path, stop_requested=stop_after(7))
    monkeypatch.setattr("nteleport.training.provenance.versions", lambda: {"torch": "99"})

    run(job, tmp_path, report=events)

    assert any("continues with 99" in text for text in events.warnings)


def test_what_a_finished_job_leaves(tmp_path: Path) -> None:
    job = small_job()
    paths = JobPaths(tmp_path, job.name)

    result = run(job, tmp_path, command=["nteleport", "train", "a b.yml"])

    written = json.loads(paths.result.read_text())
    assert written["state"] == "finished"
    assert written["epochs"] == 3
    assert written["final"]["val_accuracy"] == result.rows[-1].val_accuracy
    best = max(result.rows, key=lambda row: row.val_accuracy)
    assert written["best"] == {"epoch": best.epoch, "val_accuracy": best.val_accuracy}
    header, *rows = paths.metrics.read_text().splitlines()
    assert tuple(header.split(",")) == COLUMNS
    assert [float(row.split(",")[5]) for row in rows] == [row.val_loss for row in result.rows]
    provenance = json.loads(paths.provenance.read_text())
    assert provenance["command"] == "nteleport train 'a b.yml'"
    assert provenance["versions"]["torch"] == torch.__version__
    assert provenance["end"] is not None
    assert sorted(path.name for path in paths.directory.iterdir()) == [
        "log.txt", "metrics.csv", "provenance.json", "result.json",
    ]  # fmt: skip


def test_teleporting_counts_in_the_seconds_of_its_epoch_and_the_analysis_in_the_provenance(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    draw = MODE_ACTIONS["random"]

    def slow(*arguments: Any) -> bool:
        now[0] += 100
        return draw(*arguments)

    monkeypatch.setitem(MODE_ACTIONS, "random", slow)
    job = small_job("random")
    result = run(job, tmp_path, clock=replace(STANDING_CLOCK, seconds=lambda: now[0]))
    assert [row.seconds for row in result.rows] == [100, 0, 0]
    found = {}
    for name, each in {"teleported": job, "plain": small_job()}.items():
        run(each, tmp_path)
        found[name] = read_provenance(JobPaths(tmp_path, each.name))["analysis_seconds"]
    assert found["teleported"] > 0
    assert found["plain"] == 0


def test_weights_are_left_on_request_and_are_those_of_the_plain_network(tmp_path: Path) -> None:
    job = small_job("random")
    result = run(job, tmp_path, save_weights=True)

    saved = torch.load(JobPaths(tmp_path, job.name).weights, weights_only=True)

    network = initial_network(job)
    network.load_state_dict(saved["weights"])
    network.eval()
    with torch.no_grad():
        loss = cross_entropy(network(DIGITS.test.normalized(DIGITS.test.images)), DIGITS.test.labels)
    assert float(loss) == pytest.approx(result.rows[-1].val_loss, rel=1e-4)
    assert saved["cob"].shape == (16 + 12,)


def test_a_loss_that_is_no_number_ends_the_job_as_diverged_with_its_rows(tmp_path: Path) -> None:
    job = small_job(optimizer=Component("SGD", {"lr": 1e20}), epochs=9)
    paths = JobPaths(tmp_path, job.name)

    result = run(job, tmp_path)

    assert result.state == "diverged"
    assert not math.isfinite(result.rows[-1].train_loss)
    assert len(paths.metrics.read_text().splitlines()) == 1 + len(result.rows)
    written = json.loads(paths.result.read_text(), parse_constant=pytest.fail)  # NaN is not JSON
    assert (written["state"], written["test"]) == ("diverged", None)
    assert written["final"]["train_loss"] is None
    assert not paths.checkpoint.exists()


def test_held_out_images_are_validated_on_and_the_test_split_is_kept_for_the_end(tmp_path: Path) -> None:
    job = small_job(validation=0.2, epochs=1)
    result = run(job, tmp_path, save_weights=True)

    saved = torch.load(JobPaths(tmp_path, job.name).weights, weights_only=True)
    network = initial_network(job)
    network.load_state_dict(saved["weights"])
    _, held_out = hold_out(DIGITS.train, 0.2, job.seed)
    with torch.no_grad():
        losses = [
            float(cross_entropy(network(split.normalized(split.images)), split.labels))
            for split in (held_out, DIGITS.test)
        ]
    assert [result.rows[0].val_loss, result.test["loss"]] == pytest.approx(losses, rel=1e-4)


def test_some_images_alone_are_trained_on_in_every_epoch(tmp_path: Path) -> None:
    job = small_job(validation=0.2, train_images=48, batch_size=48, epochs=3)
    result = run(job, tmp_path)

    rest, held_out = hold_out(DIGITS.train, 0.2, job.seed)
    chosen = some_of(rest, 48, job.seed)
    network = initial_network(job)
    optimizer = torch.optim.SGD(network.parameters(), **job.optimizer.kwargs)
    for _ in range(3):  # each epoch is one batch of all of them, in whatever order
        optimizer.zero_grad()
        cross_entropy(network(chosen.normalized(chosen.images)), chosen.labels).backward()
        optimizer.step()
    with torch.no_grad():
        expected = float(cross_entropy(network(held_out.normalized(held_out.images)), held_out.labels))
    assert result.rows[-1].val_loss == pytest.approx(expected, rel=1e-4)


class _Waits(TorchDispatchMode):
    """Counts what makes the host wait for a device: some operators, and methods that read values."""

    METHODS = ("tolist", "item", "cpu", "numpy", "__bool__", "__int__", "__float__", "__index__")

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__()
        self.count = 0
        for name in self.METHODS:
            monkeypatch.setattr(Tensor, name, self._counting(getattr(Tensor, name)))

    def _counting(self, method: Any) -> Any:
        def counted(*args: Any, **kwargs: Any) -> Any:
            self.count += 1
            return method(*args, **kwargs)

        return counted

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        waiting = ("_local_scalar_dense", "nonzero", "masked_select", "equal", "unique")
        self.count += any(word in func.__name__ for word in waiting)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_an_epoch_never_waits_for_the_device(
    optimizer: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = small_job("random", optimizer=OPTIMIZERS[optimizer][0], max_batch=None)
    assembly = assemble(job, data_dir=tmp_path, device=CPU)
    teleported = assembly.learner.optimizer
    teleported.teleport(sample_cob(teleported.quiver.cob_size, 0.9, "inter_landscape"))
    teleported.set_rates(
        {name: torch.rand_like(p) + 0.5 for name, p in assembly.learner.network.named_parameters()}
    )
    with _Waits(monkeypatch) as waits:
        progress = train_epoch(assembly.learner, assembly.training_batches(0, 0))
        evaluation = evaluate(assembly.learner, assembly.evaluation_batches(assembly.test))
        assert waits.count == 0
        progress.sums.read(), evaluation.read(), progress.norms.tolist()
        assert waits.count == 3  # reading them does


def test_a_last_batch_of_one_image_is_left_out_where_there_is_batch_norm(tmp_path: Path) -> None:
    # 1,437 images: 359 batches of 4 and one image.
    normalized = small_job(model=Component("mobilenet_v3_small", {}), batch_size=4, max_batch=None)
    plain = small_job(batch_size=4, max_batch=None)

    assert assemble(normalized, data_dir=tmp_path, device=CPU).drops_last
    assert not assemble(plain, data_dir=tmp_path, device=CPU).drops_last


@pytest.mark.parametrize("optimizer", ["SGD", "Adam"])
@pytest.mark.parametrize("fused", [True, False])
def test_fused_and_unfused_optimizers_agree(optimizer: str, fused: bool, tmp_path: Path) -> None:
    job = small_job(optimizer=OPTIMIZERS[optimizer][0])
    same = run(job, tmp_path).rows[-1].train_loss

    assert run(replace(job, training=replace(job.training, fused=fused)), tmp_path).rows[
        -1
    ].train_loss == pytest.approx(same, rel=1e-4)


def test_channels_last_changes_the_layout_and_not_the_numbers(tmp_path: Path) -> None:
    job = small_job(model=Component("squeezenet1_1", {}), epochs=1, batch_size=8, max_batch=2)
    plain = run(job, tmp_path).rows[0]
    strided = replace(job, training=replace(job.training, channels_last=True))

    row = run(strided, tmp_path).rows[0]

    network = assemble(strided, data_dir=tmp_path, device=CPU).learner.network
    weight = next(p for p in network.parameters() if p.dim() == 4 and p.shape[2] > 1)
    assert weight.is_contiguous(memory_format=torch.channels_last)
    assert (row.train_loss, row.val_loss) == pytest.approx((plain.train_loss, plain.val_loss), rel=1e-3)


def test_bf16_trains_near_fp32_with_weights_in_fp32(tmp_path: Path) -> None:
    job = small_job("random")
    plain = run(job, tmp_path).rows[-1]
    halved = replace(job, training=replace(job.training, precision="bf16"))

    row = run(halved, tmp_path).rows[-1]

    assembly = assemble(halved, data_dir=tmp_path, device=CPU)
    assert {p.dtype for p in assembly.learner.network.parameters()} == {torch.float32}
    assert assembly.learner.forward(torch.zeros(1, 1, 32, 32)).dtype == torch.bfloat16
    assert row.train_loss != plain.train_loss
    assert row.train_loss == pytest.approx(plain.train_loss, rel=0.1)


def test_an_optimizer_that_evaluates_the_loss_itself_trains(tmp_path: Path) -> None:
    job = small_job(
        "random", optimizer=Component("LBFGS", {"lr": 0.5, "max_iter": 4}), epochs=4, batch_size=64
    )

    result = run(job, tmp_path)

    assert result.rows[-1].train_loss < result.rows[0].train_loss / 1.2


@pytest.mark.parametrize(
    ("job", "message"),
    [
        (small_job(optimizer=Component("Adamm", {})), "no optimizer 'Adamm', did you mean 'Adam'"),
        (small_job(optimizer=Component("SGD", {"speed": 1})), "refuses the arguments of the optimizer SGD"),
        (small_job(batch_size=2000, drop_last_batch=True), "no batch can be made of 1437 images"),
        (
            small_job("random", optimizer=Component("LBFGS"), optimizer_state="transport"),
            "state of LBFGS cannot be transported",
        ),
    ],
)
def test_a_job_that_cannot_be_says_why(job: Job, message: str, tmp_path: Path) -> None:
    with pytest.raises(NTeleportError, match=message):
        run(job, tmp_path)


def test_the_default_generator_of_the_caller_is_left_alone(tmp_path: Path) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)

    run(small_job("random", epochs=1), tmp_path)

    assert torch.equal(torch.rand(3), expected)
