"""The line between two networks, and between their teleportations."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from nteleport import TeleportableModel, analyze, sample_cob
from nteleport.data.batching import batches
from nteleport.data.splits import load_dataset
from nteleport.errors import CheckpointError, JobError, StudyError
from nteleport.jobs.job import Component
from nteleport.randomness import generator_for, seed_of
from nteleport.studies.interpolate import InterpolateSettings
from nteleport.studies.interpolate.compute import (
    ITSELF,
    PLAIN,
    TELEPORTED,
    Line,
    Position,
    interpolate_networks,
    sharpness,
)
from nteleport.studies.interpolate.picture import draw
from nteleport.studies.settings import StudySettings
from nteleport.studies.subject import build_network, one_subject
from nteleport.studies.training import Training

SMALL = (Component("mlp", {"hidden_layers": [16, 16]}),)
SGD = Component("SGD", {"lr": 0.05, "momentum": 0.9})


def small(**changes: object) -> InterpolateSettings:
    defaults = {"models": SMALL, "epochs": 1, "batch_size_a": 64, "points": 9, "images": 100, "device": "cpu"}
    return InterpolateSettings(**{**defaults, **changes})  # type: ignore[arg-type]


def network() -> nn.Module:
    layers = (
        nn.Conv2d(1, 4, 3),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(64, 5),
        nn.Tanh(),
        nn.Linear(5, 3),
    )
    return nn.Sequential(*layers).double()


@pytest.mark.parametrize("alpha", [-0.5, 0.0, 0.3, 1.0, 1.5])
def test_a_point_of_the_line_computes_what_a_teleported_model_there_computes(alpha: float) -> None:
    """The oracle: interpolate the weights and the CoB of a TeleportableModel and run it."""
    torch.manual_seed(0)
    x = torch.randn(5, 1, 6, 6, dtype=torch.float64)
    models = [TeleportableModel(network(), x) for _ in range(2)]
    quiver = models[0].quiver
    positions = []
    for model in models:
        plain = {name: p.detach().clone() for name, p in model.network.named_parameters()}
        model.teleport(sample_cob(model.cob_size, 0.9, "intra_landscape").double())
        positions.append(Position(plain, torch.ones_like(model.cob), {}).teleported(quiver, model.cob))
        torch.testing.assert_close(positions[-1].weights, dict(model.network.named_parameters()))
    (first, first_cob), (second, second_cob) = (model.position() for model in models)
    between = models[0].eval()
    between.load_position((1 - alpha) * first + alpha * second, (1 - alpha) * first_cob + alpha * second_cob)
    point = Line(quiver, positions[0], positions[1], [alpha])[0]
    plain_network = network().eval()
    plain_network.load_state_dict(point, strict=False)
    torch.testing.assert_close(plain_network(x), between(x), rtol=1e-9, atol=1e-9)


def test_interpolated_variances_do_not_become_negative() -> None:
    quiver = analyze(network(), torch.zeros(2, 1, 6, 6, dtype=torch.float64))
    ones = torch.ones(quiver.cob_size, dtype=torch.float64)
    ends = [
        Position(
            dict(network().named_parameters()),
            ones,
            {"1.running_mean": m * torch.ones(4), "1.running_var": m * torch.ones(4)},
        )
        for m in (1.0, 4.0)
    ]
    point = Line(quiver, ends[0], ends[1], [-0.5], moves_statistics=True)[0]
    assert point["1.running_mean"].tolist() == [-0.5] * 4
    assert point["1.running_var"].tolist() == [0.0] * 4


def test_an_entry_of_the_cob_that_meets_zero_keeps_the_loss_a_number() -> None:
    quiver = analyze(network(), torch.zeros(2, 1, 6, 6, dtype=torch.float64))
    weights = dict(network().named_parameters())
    plus = Position(weights, torch.ones(quiver.cob_size, dtype=torch.float64), {})
    minus = Position(weights, -torch.ones(quiver.cob_size, dtype=torch.float64), {})
    point = Line(quiver, plus, minus, [0.5])[0]
    assert all(bool(torch.isfinite(value).all()) for value in point.values())


def _loss(table: pd.DataFrame, line: str, split: str = "train") -> Tensor:
    chosen = table[(table["line"] == line) & (table["split"] == split)]
    return torch.tensor(chosen["loss"].to_numpy())


def test_teleporting_both_by_the_same_cob_leaves_the_line_as_it_is() -> None:
    table = interpolate_networks(small(cob="same"))["interpolate"]
    torch.testing.assert_close(_loss(table, TELEPORTED), _loss(table, PLAIN), rtol=1e-4, atol=1e-5)


def test_each_line_runs_through_the_networks_at_its_ends() -> None:
    tables = interpolate_networks(small(teleportations=2))
    table = tables["interpolate"].set_index(["line", "teleportation", "split", "alpha"])["loss"]
    assert len(table) == 9 * 2 * 5
    for split in ("train", "validation"):
        for number in range(2):
            for end, name in ((0.0, "A"), (1.0, "B")):
                teleported = table[TELEPORTED, number, split, end]
                assert teleported == pytest.approx(table[PLAIN, 0, split, end], rel=1e-4), name
            assert table[ITSELF, number, split, 1.0] == pytest.approx(table[PLAIN, 0, split, 0.0], rel=1e-4)
        assert table[PLAIN, 0, split, 0.5] != pytest.approx(table[TELEPORTED, 0, split, 0.5], rel=1e-3)


def test_loaded_weights_are_the_ends_of_the_line(tmp_path: Path) -> None:
    data = load_dataset("digits", tmp_path)
    expected = []
    for name, seed in (("a", 5), ("b", 6)):
        chosen = build_network(SMALL[0], data.info, seed)
        torch.save({"weights": chosen.state_dict(), "cob": torch.ones(32)}, tmp_path / f"{name}.pt")
        logits = chosen(data.test.normalized(data.test.images)).detach()
        expected.append(float(functional.cross_entropy(logits, data.test.labels)))
    settings = small(weights=tmp_path / "a.pt", weights_b=tmp_path / "b.pt", images=None)
    table = interpolate_networks(settings)["interpolate"]
    plain = table[(table["line"] == PLAIN) & (table["split"] == "validation")].set_index("alpha")["loss"]
    assert [plain[0.0], plain[1.0]] == pytest.approx(expected, rel=1e-5)


def test_sharpness_is_the_mean_rise_near_an_end() -> None:
    alphas = [k / 100 for k in range(-50, 151)]
    losses = [2 + 3 * alpha * alpha for alpha in alphas]
    origin = {"line": PLAIN, "teleportation": 0, "split": "train"}
    parabola = pd.DataFrame({**origin, "alpha": alphas, "loss": losses})
    found = sharpness(parabola).set_index("end")
    expected = 3 * sum((k / 100) ** 2 for k in range(-10, 11)) / 21
    assert found.loc[0.0, "rise"] == pytest.approx(expected)
    assert found.loc[0.0, "loss"] == pytest.approx(2)


def test_ends_have_a_trace_that_teleporting_changes_and_one_that_it_does_not() -> None:
    found = interpolate_networks(small(points=5))["interpolate-sharpness"]
    assert list(found.columns[-4:]) == ["trace", "trace_error", "invariant_trace", "invariant_trace_error"]
    at = found.set_index(["line", "end"])
    for end in (0.0, 1.0):
        plain, moved = at.loc[(PLAIN, end)], at.loc[(TELEPORTED, end)]
        assert moved["invariant_trace"] == pytest.approx(plain["invariant_trace"], rel=1e-3)  # in float32
        assert moved["trace"] != pytest.approx(plain["trace"], rel=0.2)
    assert at.loc[(ITSELF, 1.0), "trace"] == pytest.approx(at.loc[(TELEPORTED, 0.0), "trace"])
    assert "trace" not in interpolate_networks(small(points=5, epochs=0, probes=0))["interpolate-sharpness"]


def test_the_picture_has_a_column_for_each_line() -> None:
    figure = draw(interpolate_networks(small(epochs=0)))["interpolate"]
    assert [axes.get_title() for axes in figure.axes[:3]] == [PLAIN, TELEPORTED, ITSELF]
    assert figure.axes[0].get_ylabel() == "loss (nats)"
    assert figure.axes[6].get_ylabel() == "curvature"
    assert "tr H changes by construction" in figure.get_supxlabel()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [({"weights_b": Path("none.pt")}, "no such file"), ({"optimizer_b": Component("SGDD")}, "'SGD'")],
)
def test_what_is_wrong_with_the_second_network_is_reported_before_the_first_is_trained(
    monkeypatch: pytest.MonkeyPatch, wrong: dict[str, object], message: str
) -> None:
    monkeypatch.setattr(Training, "run_epoch", lambda *_: pytest.fail("it was trained"))
    with pytest.raises((CheckpointError, JobError), match=message):
        interpolate_networks(small(**wrong))


@pytest.mark.parametrize("losses", [(2e11, 3e12), (float("inf"), float("nan")), (1e-9, 2e-9)])
def test_losses_of_any_size_can_be_drawn(losses: tuple[float, float]) -> None:
    rows = [
        {"line": PLAIN, "teleportation": 0, "alpha": alpha, "split": "train", "loss": loss, "accuracy": 0.1}
        for alpha, loss in zip((0.0, 1.0), losses, strict=True)
    ]
    low, high = draw({"interpolate": pd.DataFrame(rows)})["interpolate"].axes[0].get_ylim()
    assert 0 < low < high
    known = [loss for loss in losses if 1e-4 < loss < float("inf")]
    assert all(low < loss < high for loss in known)


def test_a_training_is_that_of_plain_torch() -> None:
    settings = StudySettings(models=SMALL, device="cpu", seed=3)
    subject = one_subject(settings)
    plain = build_network(SMALL[0], subject.data.info, 3)
    training = Training(subject, SGD, 100, "test")
    optimizer = torch.optim.SGD(plain.parameters(), **SGD.kwargs)
    for epoch in range(2):
        training.run_epoch(epoch)
        generator = generator_for("epoch", seed_of("study", 3, "test"), epoch)
        for images, labels in batches(subject.data.train, batch_size=100, generator=generator):
            optimizer.zero_grad()
            functional.cross_entropy(plain(images), labels).backward()
            optimizer.step()
    for name, parameter in plain.named_parameters():
        torch.testing.assert_close(subject.network.get_parameter(name), parameter, rtol=1e-4, atol=1e-6)


def test_a_training_continues_from_its_state_as_if_nothing_had_happened() -> None:
    subject = one_subject(StudySettings(models=SMALL, device="cpu"))
    training = Training(subject, SGD, 200, "test")
    training.teleport(sample_cob(subject.quiver.cob_size, 0.5, "inter_landscape"))
    training.run_epoch(0)
    state = training.state_dict()
    first = training.run_epoch(1)
    training.run_epoch(2)
    training.load_state_dict(state)
    assert training.run_epoch(1) == first


def test_a_training_that_diverges_and_an_unknown_optimizer_are_reported() -> None:
    subject = one_subject(StudySettings(models=SMALL, device="cpu"))
    training = Training(subject, Component("SGD", {"lr": 1e30}), 100, "test")
    with pytest.raises(StudyError, match="diverged in epoch 0"):
        training.run_epoch(0)
    with pytest.raises(JobError, match="did you mean 'SGD'"):
        Training(subject, Component("SGDD"), 100, "test")
    with pytest.raises(StudyError, match=r"alpha_from 2 is not below alpha_to 1\.5"):
        InterpolateSettings(alpha_from=2.0)
