"""The studies `micro` and `gradients` against the long way: truly teleported networks and their gradients."""

from __future__ import annotations

import copy
import math

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from nteleport import TeleportableModel
from nteleport.errors import StudyError
from nteleport.jobs.job import Component
from nteleport.randomness import generator_for
from nteleport.studies.angles import angle_of_products, angles, draw_candidates, loss_gradients
from nteleport.studies.gradients import GradientsSettings
from nteleport.studies.gradients.compute import gradient_changes
from nteleport.studies.micro import MicroSettings
from nteleport.studies.micro.compute import micro_angles
from nteleport.studies.subject import Subject, one_subject

TINY = Component("mlp", {"hidden_layers": [6, 5], "activation": "tanh"})
RELU = Component("mlp", {"hidden_layers": [6, 5]})
SETTINGS = GradientsSettings(models=(TINY,), ranges=3, teleportations=2, batches=2, batch_size=16)


def degrees_between(first: Tensor, second: Tensor) -> float:
    cosine = float(functional.cosine_similarity(first, second, dim=0))
    return math.degrees(math.acos(cosine))


def doubled(subject: Subject) -> TeleportableModel:
    """The subject's network as a model in float64, in which small differences of gradients have digits."""
    network = copy.deepcopy(subject.network).double()
    return TeleportableModel(
        network, torch.zeros(2, *subject.data.input_shape, dtype=torch.float64), subject.quiver
    )


@pytest.fixture(scope="module")
def tables() -> dict[str, pd.DataFrame]:
    return gradient_changes(SETTINGS)


def test_dropout_follows_from_the_seed_and_leaves_the_random_state_alone() -> None:
    dropping = GradientsSettings(
        models=(Component("mobilenet_v2"),), datasets=("random",), ranges=1, teleportations=1, batches=2,
        batch_size=4,
    )  # fmt: skip
    first = gradient_changes(dropping)["gradients"]
    torch.manual_seed(1)
    expected = torch.rand(1)
    torch.manual_seed(1)
    pd.testing.assert_frame_equal(gradient_changes(dropping)["gradients"], first, check_exact=True)
    assert torch.equal(torch.rand(1), expected)


def long_way(settings: GradientsSettings) -> dict[str, list[float]]:
    """What the study computes, by teleporting and running backward for each change of basis and batch."""
    subject = one_subject(settings)
    model = doubled(subject)
    cobs = draw_candidates(subject, settings, "gradients").cobs
    found: dict[str, list[float]] = {"before": [], "after": [], "angle": []}
    for _, (x, y) in zip(
        range(settings.batches), subject.batches(settings.batch_size, "gradients"), strict=False
    ):
        model.undo_teleportation()
        plain = model.gradient_vector(x.double(), y, functional.cross_entropy)
        before = float(plain.norm() / model.weight_vector().norm())
        for cob in cobs:
            model.teleport(cob)
            moved = model.gradient_vector(x.double(), y, functional.cross_entropy)
            found["before"].append(before)
            found["after"].append(float(moved.norm() / model.weight_vector().norm()))
            found["angle"].append(degrees_between(plain, moved))
    return found


def test_gradient_changes_equal_those_of_truly_teleported_networks(tables: dict[str, pd.DataFrame]) -> None:
    expected = long_way(SETTINGS)
    table = tables["gradients"]
    np.testing.assert_allclose(table["before"], expected["before"], rtol=1e-5)
    np.testing.assert_allclose(table["after"], expected["after"], rtol=1e-5)
    difference = np.abs(np.subtract(expected["before"], expected["after"]))
    np.testing.assert_allclose(table["difference"], difference, rtol=1e-3)


def test_angles_between_gradients_equal_those_of_truly_teleported_networks(
    tables: dict[str, pd.DataFrame],
) -> None:
    table = tables["gradients-angles"]
    assert len(table) == 3 * SETTINGS.teleportations * SETTINGS.batches
    np.testing.assert_allclose(table["angle"], long_way(SETTINGS)["angle"], rtol=1e-4)


def test_each_teleportation_and_batch_has_its_row(tables: dict[str, pd.DataFrame]) -> None:
    table = tables["gradients"]
    assert list(table.columns) == [
        "model", "dataset", "batch", "cob_range", "teleportation", "before", "after", "difference",
    ]  # fmt: skip
    cells = table[["batch", "cob_range", "teleportation"]].itertuples(index=False, name=None)
    assert list(cells) == [(b, r, t) for b in (0, 1) for r in (0.01, 0.455, 0.9) for t in (0, 1)]


def test_a_study_runs_one_backward_pass_a_batch_whatever_the_number_of_teleportations(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    passes = []
    real = torch.autograd.grad
    monkeypatch.setattr(torch.autograd, "grad", lambda *a, **k: passes.append(1) or real(*a, **k))
    gradient_changes(GradientsSettings(models=(TINY,), ranges=5, teleportations=4, batches=3))
    assert len(passes) == 3


def test_micro_teleportations_are_orthogonal_to_the_gradient_and_controls_as_near_as_chance() -> None:
    table = micro_angles(
        MicroSettings(models=(RELU,), datasets=("random",), batch_sizes=(16,), teleportations=60)
    )
    spread = table.groupby("pair")["angle"].agg(lambda angles: (angles - 90).abs().max())
    weights = 3072 * 6 + 6 + 6 * 5 + 5 + 5 * 10 + 10
    chance = math.degrees(1 / math.sqrt(weights))  # standard deviation of the angle of two random vectors
    assert spread["gradient, teleportation"] < 0.2 * chance
    std = table[table["pair"] == "two random vectors"]["angle"].std()
    assert std == pytest.approx(chance, rel=4 / math.sqrt(2 * 60))


def test_the_angle_of_a_micro_teleportation_is_that_of_the_weights_that_move() -> None:
    settings = MicroSettings(
        models=(TINY,), datasets=("digits",), cob_range=0.4, batch_sizes=(8,), teleportations=1
    )
    found = micro_angles(settings).set_index("pair")["angle"]["gradient, teleportation"]
    subject = one_subject(settings)
    model = doubled(subject)
    x, y = next(subject.batches(8, "micro 8"))
    gradient, before = model.gradient_vector(x.double(), y, functional.cross_entropy), model.weight_vector()
    from nteleport.studies.subject import draw_cob

    model.teleport(draw_cob(subject, 0.4, "intra_landscape", generator_for("study", 0, "micro 8")))
    assert found == pytest.approx(degrees_between(gradient, model.weight_vector() - before), rel=1e-5)


def test_a_batch_that_a_network_cannot_take_is_one_message() -> None:
    network = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.BatchNorm1d(3))
    with pytest.raises(StudyError, match=r"batch size 1: Expected more than 1 value.* a larger batch"):
        loss_gradients(network, (torch.zeros(1, 4), torch.zeros(1, dtype=torch.long)))


def test_every_batch_of_a_study_is_fresh() -> None:
    subject = one_subject(MicroSettings(models=(TINY,), datasets=("digits",)))
    drawn = [
        x for _, (x, _) in zip(range(60), subject.batches(64, "test"), strict=False)
    ]  # almost three epochs
    assert len({x.numpy().tobytes() for x in drawn}) == 60


@pytest.mark.parametrize(
    ("degrees", "precision"),
    [(0.0, 1e-5), (30.0, 1e-11), (89.99999, 1e-12), (90.0, 1e-12), (120.0, 1e-11), (180.0, 1e-5)],
)
def test_angles_are_exact_around_90_degrees_and_numbers_everywhere(degrees: float, precision: float) -> None:
    radians = math.radians(degrees)
    for length in (1e-3, 0.1, 7.0):
        x, y = 3.0, 0.1
        turned = [
            x * math.cos(radians) - y * math.sin(radians),
            x * math.sin(radians) + y * math.cos(radians),
        ]
        vectors = torch.tensor([[x, y], [length * each for each in turned]], dtype=torch.float64)
        found = float(angle_of_products(vectors @ vectors.T, 0, 1))
        assert found == pytest.approx(degrees, abs=precision)


@pytest.mark.parametrize("size", [1e-4, 0.01, 0.5])
def test_angles_of_small_teleportations_keep_their_digits(size: float) -> None:
    """The oracle: w' = w + size · v with v across w, so the tangent is size · ‖v‖ / ‖w‖."""
    scales = torch.tensor([1.0 + size, 1.0 - size], dtype=torch.float64)
    weights = torch.ones(2, dtype=torch.float64)
    moved = torch.stack([weights, scales * weights])
    found = angles(moved @ weights, moved.square().sum(1))
    assert float(found) == pytest.approx(math.degrees(math.atan(size)), rel=1e-6)
