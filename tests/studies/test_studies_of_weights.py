"""The studies `weights` and `dot-product` against a truly teleported network."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch.nn import functional

from nteleport import TeleportableModel
from nteleport.errors import CheckpointError, StudyError
from nteleport.jobs.job import Component
from nteleport.randomness import generator_for
from nteleport.studies.angles import draw_candidates
from nteleport.studies.dot_product import DotProductSettings
from nteleport.studies.dot_product.compute import weight_angles
from nteleport.studies.subject import draw_cob, one_subject
from nteleport.studies.weights import WeightsSettings
from nteleport.studies.weights.compute import weight_densities
from nteleport.studies.weights.picture import draw as draw_weights

TINY = Component("mlp", {"hidden_layers": [30, 20]})
SETTINGS = WeightsSettings(models=(TINY,), per_layer=True, bins=20)


@pytest.fixture(scope="module")
def densities() -> pd.DataFrame:
    return weight_densities(SETTINGS)


def test_a_density_over_all_weights_integrates_to_one(densities: pd.DataFrame) -> None:
    whole = densities[densities["view"] == "whole"]
    mass = (
        (whole["density"] * (whole["right"] - whole["left"]))
        .groupby([whole["layer"], whole["weights"]])
        .sum()
    )
    assert len(mass) == 9
    np.testing.assert_allclose(mass, 1, rtol=1e-12)


def test_densities_before_and_after_are_histograms_of_a_truly_teleported_network(
    densities: pd.DataFrame,
) -> None:
    subject = one_subject(SETTINGS)
    model = TeleportableModel(subject.network, torch.zeros(2, *subject.data.input_shape), subject.quiver)
    for which in ("before", "after"):
        rows = densities[
            (densities["layer"] == "3") & (densities["weights"] == which) & (densities["view"] == "whole")
        ]
        weights = subject.network[3].weight.detach().double().numpy()
        edges = np.append(rows["left"], rows["right"].iloc[-1])
        expected = np.histogram(weights, edges)[0] / (weights.size * np.diff(edges))
        np.testing.assert_allclose(rows["density"], expected, atol=1.01 / (weights.size * np.diff(edges)[0]))
        model.teleport(draw_cob(subject, 0.9, "intra_landscape", generator_for("study", 0, "weights cob")))


def test_the_redrawn_weights_spread_like_the_teleported_ones_and_not_like_those_before() -> None:
    table = weight_densities(WeightsSettings(models=(Component("mlp", {"hidden_layers": [200, 200]}),)))
    whole = table[table["view"] == "whole"].assign(middle=lambda t: (t["left"] + t["right"]) / 2)
    mass = whole["density"] * (whole["right"] - whole["left"]) * whole["middle"] ** 2
    variance = mass.groupby(whole["weights"]).sum()
    assert variance["same_distr"] == pytest.approx(variance["after"], rel=0.05)
    assert variance["after"] > 1.2 * variance["before"]


def test_dot_products_equal_those_of_truly_teleported_weights() -> None:
    settings = DotProductSettings(models=(TINY,), ranges=3, teleportations=2, cob_sampling="inter_landscape")
    table = weight_angles(settings)
    subject = one_subject(settings)
    example = torch.zeros(2, *subject.data.input_shape, dtype=torch.float64)
    model = TeleportableModel(subject.network.double(), example, subject.quiver)
    plain = model.weight_vector()
    cosines = []
    for cob in draw_candidates(subject, settings, "dot-product").cobs:
        model.teleport(cob)
        cosines.append(float(functional.cosine_similarity(plain, model.weight_vector(), dim=0)))
    np.testing.assert_allclose(table["cosine"], cosines, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(table["angle"], [math.degrees(math.acos(c)) for c in cosines], rtol=1e-4)


def test_given_weights_are_those_that_a_study_looks_at(tmp_path: Path) -> None:
    settings = WeightsSettings(models=(TINY,))
    network = one_subject(settings).network
    for parameter in network.parameters():
        torch.nn.init.constant_(parameter, 0.25)
    torch.save(network.state_dict(), tmp_path / "w.pt")
    table = weight_densities(WeightsSettings(models=(TINY,), weights=tmp_path / "w.pt"))
    before = table[(table["weights"] == "before") & (table["density"] > 0) & (table["view"] == "whole")]
    assert [(low <= 0.25 <= high) for low, high in zip(before["left"], before["right"], strict=True)] == [
        True
    ]


def test_weights_of_another_network_are_refused_with_the_reason(tmp_path: Path) -> None:
    other = one_subject(WeightsSettings(models=(Component("mlp", {"hidden_layers": [3]}),))).network
    torch.save(other.state_dict(), tmp_path / "w.pt")
    with pytest.raises(CheckpointError, match=r"1\.weight of shape 3x1024, in the model 30x1024"):
        weight_densities(WeightsSettings(models=(TINY,), weights=tmp_path / "w.pt"))


def test_a_window_limits_the_bins_and_the_height_of_the_picture() -> None:
    settings = WeightsSettings(models=(TINY,), bins=20, xlim=(-0.1, 0.3), ylim_max=50.0)
    table = weight_densities(settings)
    whole = table[table["view"] == "whole"]
    assert (whole["left"].min(), whole["right"].max()) == pytest.approx((-0.1, 0.3))
    panel = draw_weights(table).axes[0]
    assert panel.get_xlim() == pytest.approx((-0.1, 0.3))
    inside = (whole["right"] - whole["left"]) * whole["density"]
    weights = torch.cat(
        [p.flatten() for n, p in one_subject(settings).network.named_parameters() if "weight" in n]
    )
    share = ((weights >= -0.1) & (weights <= 0.3)).double().mean().item()
    assert inside[whole["weights"] == "before"].sum() == pytest.approx(share, abs=1e-6)


@pytest.mark.parametrize("xlim", [(0.1,), (0.3, 0.1), (1.0, 2.0, 3.0)])
def test_a_window_has_two_sides_in_order(xlim: tuple[float, ...]) -> None:
    with pytest.raises(StudyError, match="expected two weights, the smaller first"):
        WeightsSettings(xlim=xlim)
