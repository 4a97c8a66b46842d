"""The norm of gradients over weights of many changes of basis, against teleporting and measuring each."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from nteleport import TeleportableModel, analyze, sample_cob
from nteleport.training.gradient_norms import weighted_grad_norms

NETWORKS = {
    "multilayer perceptron": (
        lambda: nn.Sequential(nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, 6), nn.Tanh(), nn.Linear(6, 3)),
        (5,),
    ),
    "convolutions with BatchNorm": (
        lambda: nn.Sequential(
            nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 6, 3), nn.ReLU(),
            nn.Flatten(), nn.Linear(6 * 4, 3),
        ),
        (2, 6, 6),
    ),
    "grouped, depthwise and transposed convolutions": (
        lambda: nn.Sequential(
            nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Conv2d(4, 6, 3, groups=2), nn.ReLU(),
            nn.Conv2d(6, 6, 1, groups=6), nn.ReLU(), nn.ConvTranspose2d(6, 4, 2), nn.ReLU(),
            nn.ConvTranspose2d(4, 4, 2, groups=2), nn.ReLU(), nn.Flatten(), nn.LazyLinear(3),
        ),
        (2, 6, 6),
    ),
    "layers of one neuron": (lambda: nn.Sequential(nn.Linear(2, 1), nn.Tanh(), nn.Linear(1, 3)), (2,)),
}  # fmt: skip


def norm_by_teleporting(network: nn.Module, inputs: Tensor, labels: Tensor, cob: Tensor) -> float:
    """‖g' / θ'‖ of a network that was really teleported, weights that are 0 left out."""
    model = TeleportableModel(network, inputs)
    model.teleport(cob)
    model.zero_grad()
    nn.functional.cross_entropy(model(inputs), labels).backward()
    ratios = [(p.grad / p)[p != 0].flatten() for p in model.network.parameters() if p.grad is not None]
    model.undo_teleportation()
    return float(torch.cat(ratios).detach().norm())


@pytest.mark.parametrize("name", NETWORKS)
def test_norms_are_those_of_really_teleported_networks(name: str) -> None:
    make, shape = NETWORKS[name]
    torch.manual_seed(0)
    network = make().double()
    inputs, labels = torch.randn(4, *shape, dtype=torch.float64), torch.tensor([0, 1, 2, 1])
    network(inputs)  # LazyLinear takes its size
    with torch.no_grad():
        first = next(network.parameters())
        first.view(-1)[::2] = 0  # a weight of 0 has no ratio
    quiver = analyze(network, inputs)
    generator = torch.Generator().manual_seed(1)
    cobs = torch.stack(
        [sample_cob(quiver.cob_size, 0.9, "inter_landscape", generator=generator).double() for _ in range(3)]
    )

    nn.functional.cross_entropy(network(inputs), labels).backward()
    norms = weighted_grad_norms(network, quiver, cobs)

    expected = [norm_by_teleporting(network, inputs, labels, cob) for cob in cobs]
    assert norms.tolist() == pytest.approx(expected, rel=1e-9)


def test_a_large_weight_taken_in_slices_gives_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    network = nn.Sequential(nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, 3)).double()
    inputs = torch.randn(4, 5, dtype=torch.float64)
    quiver = analyze(network, inputs)
    cobs = torch.rand(2, quiver.cob_size, dtype=torch.float64) + 0.5
    network(inputs).square().sum().backward()
    whole = weighted_grad_norms(network, quiver, cobs)

    monkeypatch.setattr("nteleport.training.gradient_norms._ROWS_ELEMENTS", 11)

    assert weighted_grad_norms(network, quiver, cobs).tolist() == pytest.approx(whole.tolist(), rel=1e-12)
