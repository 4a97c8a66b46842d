"""Scores and norms, against counting by hand and against a really teleported network."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from nteleport import TeleportableModel, analyze, sample_cob, scales
from nteleport.training.metrics import ScoreSums, teleported_norms


def test_scores_are_means_over_all_images_of_all_batches() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(1000, 7, generator=generator)
    labels = torch.randint(0, 7, (1000,), generator=generator)
    sums = ScoreSums()
    for part in range(0, 1000, 13):  # more batches than are kept, the last one smaller
        sums.add(logits[part : part + 13], labels[part : part + 13])

    scores = sums.read()

    ranked = logits.double().argsort(1, descending=True)
    hits = (ranked == labels[:, None]).double()
    assert scores.accuracy == float(hits[:, :1].sum()) / 1000
    assert scores.accuracy_top5 == float(hits[:, :5].sum()) / 1000
    losses = -torch.log_softmax(logits.double(), 1)[torch.arange(1000), labels]
    assert scores.loss == pytest.approx(float(losses.mean()), rel=1e-6)


def test_top_5_of_three_classes_is_always_a_hit() -> None:
    sums = ScoreSums()
    sums.add(torch.tensor([[3.0, 2.0, 1.0]]), torch.tensor([2]))

    assert sums.read().accuracy_top5 == 1


def test_a_network_that_says_the_same_of_every_class_hits_only_the_first() -> None:
    sums = ScoreSums()
    sums.add(torch.zeros(10, 10), torch.arange(10))

    scores = sums.read()

    assert (scores.accuracy, scores.accuracy_top5) == (0.1, 0.5)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_logit_that_is_no_number_is_not_a_hit(value: float) -> None:
    logits = torch.zeros(2, 6)
    logits[0, 3] = value
    sums = ScoreSums()
    sums.add(logits, torch.tensor([3, 0]))

    scores = sums.read()

    assert (scores.accuracy, scores.accuracy_top5) == (0.5, 0.5)
    assert math.isnan(scores.loss)


def test_reading_twice_counts_once() -> None:
    sums = ScoreSums()
    sums.add(torch.eye(3), torch.arange(3))

    assert sums.read() == sums.read()


def test_nothing_counted_is_an_error() -> None:
    with pytest.raises(ValueError, match="no batch"):
        ScoreSums().read()


def test_norms_are_those_of_the_teleported_network() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 3)).double()
    inputs = torch.randn(8, 4, dtype=torch.float64)
    quiver = analyze(network, inputs)
    cob = sample_cob(quiver.cob_size, 0.9, "inter_landscape").double()
    network(inputs).square().sum().backward()

    norms = teleported_norms(network, scales(quiver, cob))

    model = TeleportableModel(network, inputs)
    model.teleport(cob)
    model.zero_grad()
    model(inputs).square().sum().backward()
    gradient = torch.cat([p.grad.flatten() for p in network.parameters() if p.grad is not None])
    weights = torch.cat([p.detach().flatten() for p in network.parameters()])
    assert norms.tolist() == pytest.approx([float(gradient.norm()), float(weights.norm())], rel=1e-10)
