"""Activations before and after: their ratio is the change of basis that was drawn."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from support.training_jobs import CPU

from nteleport.jobs.job import Component
from nteleport.randomness import generator_for
from nteleport.studies.activations import ActivationsSettings
from nteleport.studies.activations.compute import neuron_activations
from nteleport.studies.activations.picture import draw
from nteleport.studies.subject import draw_cob, one_subject

MLP = Component("mlp", {"hidden_layers": [6, 5], "activation": "tanh"})


def test_the_ratio_of_a_neuron_is_its_entry_and_1_at_the_output() -> None:
    settings = ActivationsSettings(models=(MLP,), images=8, cob_sampling="inter_landscape", device="cpu")
    table = neuron_activations(settings)["activations"]
    generator = generator_for("study", settings.seed, "activations")
    cob = draw_cob(one_subject(settings), settings.cob_range, settings.cob_sampling, generator)
    ratios = table["ratio"].to_numpy()
    np.testing.assert_allclose(ratios[:11], cob.numpy(), rtol=1e-10)
    np.testing.assert_allclose(ratios[11:], 1, rtol=1e-10)
    np.testing.assert_allclose(table["std_after"], table["std_before"] * np.abs(ratios), rtol=1e-9)
    np.testing.assert_allclose(table["mean_after"], table["mean_before"] * ratios, rtol=1e-9, atol=1e-12)
    assert cob.device == CPU


def test_feature_maps_are_those_of_the_plain_network_times_the_ratio() -> None:
    model = Component("squeezenet1_1")
    settings = ActivationsSettings(models=(model,), images=2, maps=2, device="cpu")
    tables = neuron_activations(settings)
    maps = tables["activations-maps"]
    first = maps[(maps["layer"] == maps["layer"].iloc[0]) & (maps["neuron"] == 1)]
    neurons = tables["activations"]
    ratio = neurons[(neurons["layer"] == maps["layer"].iloc[0]) & (neurons["neuron"] == 1)]["ratio"].item()
    np.testing.assert_allclose(first["after"], first["before"] * ratio, rtol=1e-9, atol=1e-12)

    subject = one_subject(settings)
    split = subject.data.test.select(torch.arange(2))
    network = subject.network.double().eval()
    seen = []
    layer = dict(network.named_modules())[maps["layer"].iloc[0]]
    layer.register_forward_hook(lambda module, given, output: seen.append(output.detach().clone()))
    network(split.normalized(split.images).double())
    np.testing.assert_allclose(first["before"], seen[0][0, 1].flatten().numpy(), rtol=1e-9, atol=1e-12)


SQUEEZENET = Component("squeezenet1_1")
PICTURES = [(MLP, {"activations"}), (SQUEEZENET, {"activations", "activations-maps"})]


@pytest.mark.parametrize(("model", "names"), PICTURES)
def test_there_are_pictures_of_maps_where_there_are_convolutions(model: Component, names: set[str]) -> None:
    settings = ActivationsSettings(models=(model,), images=2, device="cpu")
    assert set(draw(neuron_activations(settings))) == names
