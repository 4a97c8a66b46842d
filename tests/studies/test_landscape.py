"""Loss surfaces: their directions, their points, and that an interrupted one continues."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn
from torch.nn import functional

from nteleport import TeleportableModel, sample_cob
from nteleport.data.batching import batches
from nteleport.data.splits import random_split
from nteleport.errors import StudyError
from nteleport.jobs.job import Component
from nteleport.plots.ticks import round_numbers, tick_labels
from nteleport.randomness import generator_for, seed_of
from nteleport.studies.landscape import LandscapeSettings
from nteleport.studies.landscape import compute as landscape
from nteleport.studies.landscape.compute import PLAIN, TELEPORTED, UNFINISHED, loss_landscape
from nteleport.studies.landscape.directions import filter_normalized, principal_plane
from nteleport.studies.landscape.picture import draw
from nteleport.studies.landscape.surface import Plane, evaluate_surface, grid
from nteleport.studies.points import Evaluation, PointScorer
from nteleport.studies.study import find_study, load_study, settings_yaml
from nteleport.studies.subject import draw_cob, one_subject

SMALL = (Component("mlp", {"hidden_layers": [12, 12]}),)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def network() -> nn.Module:
    torch.manual_seed(0)
    layers = (nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 5), nn.Tanh(), nn.Linear(5, 3))
    return nn.Sequential(*layers).double()


def test_every_filter_of_a_direction_is_as_long_as_that_of_the_network() -> None:
    weights = {name: p.detach() for name, p in network().named_parameters()}
    direction = filter_normalized(weights, generator())
    for name, weight in weights.items():
        if weight.dim() == 1:
            assert not direction[name].any()
        for row, filter_ in zip(direction[name], weight, strict=True):
            if weight.dim() > 1:
                assert float(row.norm()) == pytest.approx(float(filter_.norm()), rel=1e-12)


def test_the_filters_of_a_direction_point_anywhere() -> None:
    """Signs and places are random: the mean over many filters is near zero, and no two are equal."""
    direction = filter_normalized({"w": torch.ones(4000, 9)}, generator())["w"]
    assert float(direction.mean(0).abs().max()) < 4 / 4000**0.5
    assert len(direction.unique(dim=0)) == 4000


def test_principal_components_are_those_of_a_singular_value_decomposition() -> None:
    positions = torch.randn(6, 40, generator=generator(), dtype=torch.float64) * torch.linspace(1, 5, 40)
    plane = principal_plane(list(positions), generator())
    centered = positions - positions.mean(0)
    _, sizes, components = torch.linalg.svd(centered, full_matrices=False)
    for found, expected in zip(plane.directions, components[:2], strict=True):
        assert abs(float(torch.dot(found, expected.double()))) == pytest.approx(1, abs=1e-10)
    variances = sizes.square() / sizes.square().sum()
    assert plane.shares == pytest.approx(variances[:2].tolist())
    offsets = positions - positions[-1]
    torch.testing.assert_close(plane.coordinates, offsets @ plane.directions.T)


def test_positions_on_a_line_get_a_second_direction_across_it() -> None:
    positions = [torch.tensor([0.0, 1.0, 2.0]) * k for k in range(4)]
    plane = principal_plane(positions, generator())
    torch.testing.assert_close(plane.directions @ plane.directions.T, torch.eye(2), rtol=0, atol=1e-5)
    assert plane.coordinates[:, 1].abs().max() < 1e-5
    assert plane.shares[0] == pytest.approx(1)


def _scorer(model: nn.Module, points_per_pass: int = 1) -> PointScorer:
    split = random_split((1, 6, 6), 3, 40, generator())
    return PointScorer(model, Evaluation({"train": split}, points_per_pass=points_per_pass))


def _plane(model: nn.Module) -> Plane:
    weights = {name: p.detach() for name, p in model.named_parameters()}
    first, second = (filter_normalized(weights, generator(seed)) for seed in (1, 2))
    return Plane(weights, first, second, grid([-1.0, 0.0, 0.5], [-0.2, 0.0, 1.0]))


@pytest.mark.parametrize("points_per_pass", [1, 4])
def test_a_surface_holds_the_loss_of_the_network_at_each_place(points_per_pass: int) -> None:
    model = network()
    scorer, plane = _scorer(model, points_per_pass), _plane(model)
    table = evaluate_surface(scorer, plane)
    split = scorer.evaluation.splits["train"]
    assert list(zip(table["x"], table["y"], strict=True)) == plane.places
    for row in table.itertuples():
        moved = copy.deepcopy(model)
        with torch.no_grad():
            for name, p in moved.named_parameters():
                p += row.x * plane.first[name] + row.y * plane.second[name]
            logits = moved(split.normalized(split.images).double())
        assert row.loss == pytest.approx(float(functional.cross_entropy(logits, split.labels)), rel=1e-10)
        assert row.accuracy == pytest.approx(float((logits.argmax(1) == split.labels).double().mean()))


class Interrupted(Exception):
    pass


def test_an_interrupted_surface_computes_only_what_is_missing(tmp_path: Path) -> None:
    model = network()
    scorer, plane, file = _scorer(model), _plane(model), tmp_path / "surface.npz"
    expected = evaluate_surface(_scorer(model), plane)

    def stop(done: int, total: int) -> None:
        if done == 4:
            raise Interrupted

    with pytest.raises(Interrupted):
        evaluate_surface(scorer, plane, file=file, key="k", progress=stop)
    asked: list[int] = []

    class Watched(Plane):
        def __getitem__(self, position: int) -> Any:
            asked.append(position)
            return super().__getitem__(position)

    watched = Watched(plane.center, plane.first, plane.second, plane.places)
    told: list[int] = []
    table = evaluate_surface(
        scorer, watched, file=file, key="k", progress=lambda done, total: told.append(done)
    )
    assert asked == [4, 5, 6, 7, 8]
    assert told == [4, 5, 6, 7, 8, 9]
    pd.testing.assert_frame_equal(table, expected)
    assert [path.name for path in tmp_path.iterdir()] == ["surface.npz"]


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 half a file", None])
def test_a_damaged_file_or_one_of_another_surface_is_started_afresh(
    tmp_path: Path, content: bytes | None
) -> None:
    model, file = network(), tmp_path / "surface.npz"
    plane = _plane(model)
    if content is None:
        wrong = {"loss": np.zeros(9), "accuracy": np.zeros(9), "done": np.ones(9, bool)}
        np.savez(file, key=np.array("another"), **wrong)
    else:
        file.write_bytes(content)
    table = evaluate_surface(_scorer(model), plane, file=file, key="k")
    pd.testing.assert_frame_equal(table, evaluate_surface(_scorer(model), plane))


def small(**changes: object) -> LandscapeSettings:
    defaults = {"models": SMALL, "epochs": 3, "points": 4, "line_points": 5, "images": 60, "device": "cpu"}
    return LandscapeSettings(**{**defaults, **changes})  # type: ignore[arg-type]


def test_the_teleported_surface_is_that_of_a_teleported_network() -> None:
    """The oracle: a TeleportableModel whose own weights are moved along the direction."""
    x = torch.randn(4, 1, 6, 6, dtype=torch.float64)
    model = TeleportableModel(network(), x)
    plain = {name: p.detach().clone() for name, p in model.network.named_parameters()}
    cob = sample_cob(model.cob_size, 0.9, "inter_landscape", generator=generator()).double()
    model.teleport(cob)
    settings = small(seed=7)
    direction = filter_normalized(
        dict(model.network.named_parameters()), landscape.generator_for("study", 7, "landscape x")
    )
    subject = type("Subject", (), {"quiver": model.quiver})()
    trained = landscape.Trained(plain, cob, pd.DataFrame(), {})
    found = landscape._random(subject, trained, settings, TELEPORTED, "x")  # type: ignore[arg-type]
    with torch.no_grad():
        for name, p in model.network.named_parameters():
            p += 0.3 * direction[name]
    moved = network()
    moved.load_state_dict({name: w + 0.3 * found[name] for name, w in plain.items()})
    torch.testing.assert_close(moved(x), model(x), rtol=1e-9, atol=1e-9)


def test_both_surfaces_meet_at_the_network_and_the_path_lies_on_its_surface() -> None:
    tables = loss_landscape(small(points=5))
    line = tables["landscape-line"].set_index(["coordinates", "x"])["loss"]
    center = tables["landscape"].set_index(["coordinates", "x", "y"])["loss"]
    path = tables["landscape-path"].set_index(["coordinates", "epoch"])
    for coordinates in (PLAIN, TELEPORTED):
        end = path.loc[(coordinates, 3)]
        assert [end["x"], end["y"]] == pytest.approx([0, 0], abs=1e-5)
        assert line[coordinates, 0.0] == pytest.approx(end["loss"], rel=1e-5)
        assert center[coordinates, 0.0, 0.0] == pytest.approx(end["loss"], rel=1e-5)
        assert list(path.loc[coordinates]["teleported"]) == [False, True, False, False]
    assert path.loc[PLAIN]["loss"].tolist() == path.loc[TELEPORTED]["loss"].tolist()
    assert center[PLAIN, 1.0, 1.0] != pytest.approx(center[TELEPORTED, 1.0, 1.0], rel=1e-3)
    figures = draw(tables)
    assert sorted(figures) == ["landscape", "landscape-line", "landscape-path"]
    curvature = tables["landscape-sharpness"].set_index("coordinates")
    assert curvature.loc[TELEPORTED, "invariant_trace"] == pytest.approx(
        curvature.loc[PLAIN, "invariant_trace"], rel=1e-3
    )
    note = figures["landscape"].get_supxlabel()
    assert f"tr H = {curvature.loc[PLAIN, 'trace']:.3g} before" in note
    assert "tr H changes by construction" in note
    assert figures["landscape-path"].axes[0].get_xlabel().startswith("PC 1 (")


@pytest.mark.parametrize("epochs", [(), (1, 2)])
def test_an_interrupted_study_ends_with_the_same_tables_and_trains_once(
    epochs: tuple[int, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = small(teleport_epochs=epochs)
    expected = loss_landscape(settings)
    trainings: list[int] = []
    train = landscape._train
    monkeypatch.setattr(landscape, "_train", lambda *given: trainings.append(1) or train(*given))

    def stop(done: int, total: int) -> None:
        if done == 30:
            raise Interrupted

    with pytest.raises(Interrupted):
        loss_landscape(settings, progress=stop, folder=tmp_path)
    assert (tmp_path / UNFINISHED).is_dir()
    found = loss_landscape(settings, folder=tmp_path)
    assert trainings == [1]
    assert list(tmp_path.iterdir()) == []
    for name, table in expected.items():
        pd.testing.assert_frame_equal(found[name], table)


def test_other_settings_do_not_continue_what_is_there(tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        loss_landscape(small(), progress=lambda done, _: _raise(), folder=tmp_path)
    found = loss_landscape(small(seed=1), folder=tmp_path)
    pd.testing.assert_frame_equal(found["landscape"], loss_landscape(small(seed=1))["landscape"])


def test_weights_that_were_replaced_are_not_taken_for_those_before(tmp_path: Path) -> None:
    file, out = tmp_path / "w.pt", tmp_path / "out"
    out.mkdir()
    settings = small(epochs=0, weights=file)
    for seed in (1, 2):
        network = one_subject(small(seed=seed)).network
        torch.save(network.state_dict(), file)
        if seed == 1:
            with pytest.raises(Interrupted):
                loss_landscape(settings, progress=lambda done, _: _raise(), folder=out)
    found = loss_landscape(settings, folder=out)
    pd.testing.assert_frame_equal(found["landscape"], loss_landscape(settings)["landscape"])


def _raise() -> None:
    raise Interrupted


def test_without_training_there_are_surfaces_alone() -> None:
    tables = loss_landscape(small(epochs=0, points=2))
    assert sorted(tables) == ["landscape", "landscape-line", "landscape-sharpness"]
    assert sorted(draw(tables)) == ["landscape", "landscape-line"]


def test_a_teleportation_past_the_end_is_refused() -> None:
    with pytest.raises(StudyError, match="teleport_epoch 3 is past the last epoch 2"):
        small(teleport_epoch=3)


def test_one_epoch_in_a_list_is_the_same_study_as_that_epoch() -> None:
    expected = loss_landscape(small(teleport_epoch=2))
    found = loss_landscape(small(teleport_epochs=(2,)))
    for name, table in expected.items():
        pd.testing.assert_frame_equal(found[name], table)


def test_several_teleportations_are_drawn_anew_and_the_last_one_names_the_coordinates(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    moves: list[torch.Tensor] = []
    teleport = landscape.Training.teleport
    monkeypatch.setattr(
        landscape.Training, "teleport", lambda self, cob: moves.append(cob) or teleport(self, cob)
    )
    ends: list[torch.Tensor] = []
    trained = landscape.Trained
    monkeypatch.setattr(landscape, "Trained", lambda *given: ends.append(given[1]) or trained(*given))
    tables = loss_landscape(small(epochs=5, teleport_epochs=(4, 1, 2), points=3))
    assert len(moves) == 3
    assert not any(torch.equal(moves[i], moves[j]) for i in range(3) for j in range(i))
    assert torch.equal(ends[0], moves[-1])
    path = tables["landscape-path"].set_index(["coordinates", "epoch"])["teleported"]
    for coordinates in (PLAIN, TELEPORTED):
        assert path[coordinates].tolist() == [False, True, True, False, True, False]
    figure = draw(tables)["landscape-path"]
    stars = [line for line in figure.axes[0].get_lines() if line.get_marker() == "*"]
    assert [len(line.get_xdata()) for line in stars] == [3]


def test_a_training_with_two_teleportations_is_that_of_a_network_that_is_truly_teleported() -> None:
    """The oracle: plain gradient descent on a TeleportableModel, moved to each CoB before its epoch."""
    sgd = Component("SGD", {"lr": 0.05})
    settings = small(epochs=3, teleport_epochs=(1, 2), optimizer=sgd, batch_size=512, images=60)
    subject = one_subject(settings)
    draws = generator_for("study", 0, "landscape")
    cobs = [draw_cob(subject, 0.9, "intra_landscape", draws) for _ in range(2)]
    example = torch.zeros(2, *subject.data.input_shape)
    model = TeleportableModel(copy.deepcopy(subject.network), example)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    for epoch in range(3):
        if epoch:
            model.teleport(cobs[epoch - 1].float())
        seed = seed_of("study", 0, "landscape")
        for images, labels in batches(
            subject.data.train, batch_size=512, generator=generator_for("epoch", seed, epoch),
            augment=subject.data.augmented, drop_last=False,
        ):  # fmt: skip
            optimizer.zero_grad()
            functional.cross_entropy(model(images), labels).backward()
            optimizer.step()
    model.undo_teleportation()
    state = landscape._train(one_subject(settings), landscape._scorer(subject, settings), settings)
    for name, weight in model.network.state_dict().items():
        torch.testing.assert_close(state["network"][name], weight, rtol=1e-4, atol=1e-5)


def test_two_lists_of_epochs_are_refused_and_so_is_one_past_the_end() -> None:
    with pytest.raises(StudyError, match="teleport_epoch and teleport_epochs are both given"):
        small(teleport_epoch=1, teleport_epochs=(1, 2))
    with pytest.raises(StudyError, match="teleport_epochs 3 is past the last epoch 2"):
        small(teleport_epochs=(3, 1))


def test_a_study_without_a_list_of_epochs_runs_again_from_its_settings(tmp_path: Path) -> None:
    study = find_study("landscape")
    for settings in (small(), small(teleport_epochs=(1, 2), reach_x=2.0, directions="all")):
        (tmp_path / "study.yml").write_text(settings_yaml(study, settings), encoding="utf-8")
        assert load_study(tmp_path / "study.yml") == (study, settings)


def test_a_window_has_the_reach_of_each_direction_and_the_line_that_of_the_first() -> None:
    tables = loss_landscape(small(epochs=0, reach=0.5, reach_x=2.0))
    surface, line = tables["landscape"], tables["landscape-line"]
    assert surface["x"].agg(["min", "max"]).tolist() == [-2, 2]
    assert surface["y"].agg(["min", "max"]).tolist() == [-0.5, 0.5]
    assert line["x"].agg(["min", "max"]).tolist() == [-2, 2]
    narrow = loss_landscape(small(epochs=0, reach_y=0.5, reach=2.0))
    pd.testing.assert_frame_equal(narrow["landscape"], surface)
    assert all(panel.get_aspect() == "auto" for panel in draw(tables)["landscape"].axes[:2])


def test_a_direction_of_all_parameters_moves_each_bias_by_its_own_length() -> None:
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(64, 3)).double()
    nn.init.normal_(model[1].bias, generator=generator(5))
    weights = {name: p.detach() for name, p in model.named_parameters()}
    alone = filter_normalized(weights, generator())
    every = filter_normalized(weights, generator(), vectors=True)
    assert {name for name, weight in weights.items() if weight.dim() == 1} == {
        "0.bias", "1.weight", "1.bias", "3.bias",
    }  # fmt: skip
    for name, weight in weights.items():
        if weight.dim() > 1:
            assert torch.equal(every[name], alone[name])
        else:
            assert float(every[name].norm()) == pytest.approx(float(weight.norm()), rel=1e-12)
            assert len(every[name].div(weight).unique()) == len(weight)  # no multiple of the vector


def test_directions_of_all_parameters_give_another_surface_around_the_same_centre() -> None:
    some, every = (
        loss_landscape(small(epochs=0, points=3, directions=word))["landscape"].set_index(
            ["coordinates", "x", "y"]
        )["loss"]
        for word in ("filters", "all")
    )
    for coordinates in (PLAIN, TELEPORTED):
        assert every[coordinates, 0.0, 0.0] == some[coordinates, 0.0, 0.0]
        assert every[coordinates, 1.0, 1.0] != some[coordinates, 1.0, 1.0]


@pytest.mark.parametrize(
    ("low", "high", "labels"),
    [
        (0.11, 2.3, ["0.2", "0.5", "1", "2"]),
        (0.02, 40, ["0.1", "1", "10"]),
        (1e-12, 1e3, ["$10^{-12}$", "$10^{-9}$", "$10^{-6}$", "0.001", "1", "1000"]),
        (21, 90, ["25", "50", "75"]),
        (0.111, 0.119, ["0.111", "0.114", "0.117"]),
        (1e11, 6e11, ["$10^{11}$", "$2×10^{11}$", "$5×10^{11}$"]),
    ],
)
def test_ticks_are_few_round_numbers(low: float, high: float, labels: list[str]) -> None:
    assert tick_labels(round_numbers(low, high)) == labels
