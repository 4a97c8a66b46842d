"""Scores at many points are those of the network with those weights, however many go in a pass."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from nteleport.data.splits import Split, random_split
from nteleport.studies.points import Evaluation, PointScorer


class Branching(nn.Module):
    """Its path depends on the data, which vmap cannot follow."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(36, 4), nn.Linear(36, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(1)
        return self.first(x) if float(self.first.weight.sum()) > 0 else self.second(x)


def convolutional() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 5, 3), nn.BatchNorm2d(5), nn.ReLU(), nn.Dropout(0.5), nn.Conv2d(5, 5, 3, groups=5),
        nn.BatchNorm2d(5), nn.Flatten(), nn.Linear(20, 4),
    )  # fmt: skip


def splits() -> dict[str, Split]:
    generator = torch.Generator().manual_seed(0)
    return {
        "train": random_split((1, 6, 6), 4, 70, generator),
        "validation": random_split((1, 6, 6), 4, 30, generator),
    }


def points(network: nn.Module, count: int = 7) -> list[dict[str, Tensor]]:
    torch.manual_seed(1)
    return [{name: torch.randn_like(p) for name, p in network.named_parameters()} for _ in range(count)]


def plain_loss_and_accuracy(network: nn.Module, split: Split) -> tuple[float, float]:
    network.eval()
    with torch.no_grad():
        logits = network(split.normalized(split.images).double())
    loss = functional.cross_entropy(logits, split.labels)
    return float(loss), float((logits.argmax(1) == split.labels).double().mean())


@pytest.mark.parametrize("make", [convolutional, Branching])
@pytest.mark.parametrize("points_per_pass", [1, 3, 7])
def test_scores_are_those_of_a_network_with_these_weights(
    make: type[nn.Module], points_per_pass: int
) -> None:
    torch.manual_seed(0)
    network = make().double()
    chosen, data = points(network), splits()
    scorer = PointScorer(network, Evaluation(data, points_per_pass=points_per_pass, batch_size=32))
    found = dict(scorer.scores(chosen))
    assert list(found) == list(range(7))
    for position, point in enumerate(chosen):
        other = copy.deepcopy(network)
        other.load_state_dict(point, strict=False)
        for name, split in data.items():
            loss, accuracy = plain_loss_and_accuracy(other, split)
            assert found[position][name].loss == pytest.approx(loss, rel=1e-12)
            assert found[position][name].accuracy == pytest.approx(accuracy)


@pytest.mark.parametrize("points_per_pass", [1, 3])
def test_calibrated_statistics_are_those_of_the_training_images(points_per_pass: int) -> None:
    """The oracle: one forward pass of BatchNorm in training mode over all images, momentum 1."""
    torch.manual_seed(0)
    network = convolutional().double()
    chosen, data = points(network, 3), splits()
    evaluation = Evaluation(data, calibration=data["train"], points_per_pass=points_per_pass)
    for position, scores in PointScorer(network, evaluation).scores(chosen):
        other = copy.deepcopy(network)
        other.load_state_dict(chosen[position], strict=False)
        other.eval()
        for module in other:  # type: ignore[attr-defined]
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = 1.0
                module.train()
        other(data["train"].normalized(data["train"].images).double())
        loss, _ = plain_loss_and_accuracy(other, data["validation"])
        assert scores["validation"].loss == pytest.approx(loss, rel=1e-12)


def test_the_network_stays_as_it_was() -> None:
    network = convolutional()
    network[3].eval()  # type: ignore[index]
    before = copy.deepcopy(network.state_dict())
    modes = [module.training for module in network.modules()]
    data = splits()
    list(PointScorer(network, Evaluation(data, data["train"], 2)).scores(points(network, 3)))
    assert [module.training for module in network.modules()] == modes
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())
    assert network[1].momentum == 0.1  # type: ignore[index]


def test_memory_that_runs_out_makes_passes_smaller(monkeypatch: pytest.MonkeyPatch) -> None:
    network = convolutional().double()
    chosen, data = points(network), splits()
    scorer = PointScorer(network, Evaluation(data, points_per_pass=7))
    expected = dict(scorer.scores(chosen))
    whole, sizes = scorer._scores, []

    def scarce(state: dict[str, Tensor], count: int) -> object:
        if count > 2:
            raise torch.OutOfMemoryError
        sizes.append(count)
        return whole(state, count)

    monkeypatch.setattr(scorer, "_scores", scarce)
    found = dict(scorer.scores(chosen))
    assert sizes == [1, 1, 1, 1, 1, 1, 1]  # 7, 3, then 1 at a time
    for position in expected:
        assert found[position]["train"].loss == pytest.approx(expected[position]["train"].loss, rel=1e-12)


def test_progress_counts_points() -> None:
    network = convolutional()
    told: list[tuple[int, int]] = []
    scorer = PointScorer(network, Evaluation(splits(), points_per_pass=3))
    list(scorer.scores(points(network), lambda done, total: told.append((done, total))))
    assert told == [(3, 7), (6, 7), (7, 7)]
