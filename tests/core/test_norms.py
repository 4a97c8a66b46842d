"""Norms at many teleported positions equal the norms of weights and gradients that were truly teleported."""

from __future__ import annotations

import pytest
import torch
from support.zoo.networks import ZOO
from torch import Tensor, nn

from nteleport import TeleportableModel, analyze, sample_cob
from nteleport.core.norms import TeleportedNorms
from nteleport.errors import TeleportationError

CANDIDATES = 4


def loss_of(outputs: Tensor | tuple[Tensor, ...]) -> Tensor:
    parts = outputs if isinstance(outputs, tuple) else (outputs,)
    return sum((part * torch.linspace(-1, 1, part.numel()).view_as(part).to(part)).sum() for part in parts)


def made(name: str) -> tuple[nn.Module, tuple[Tensor, ...]]:
    torch.manual_seed(7)
    network, inputs = ZOO[name]()
    return network.double(), tuple(x.double() if x.is_floating_point() else x for x in inputs)


def gradients_of(network: nn.Module, run: nn.Module, inputs: tuple[Tensor, ...]) -> dict[str, Tensor]:
    parameters = dict(network.named_parameters())
    found = torch.autograd.grad(loss_of(run(*inputs)), list(parameters.values()), allow_unused=True)
    return {name: g for name, g in zip(parameters, found, strict=True) if g is not None}


def inner(first: dict[str, Tensor], second: dict[str, Tensor]) -> float:
    return float(sum((first[name] * second[name]).sum() for name in first))


@pytest.mark.parametrize("name", ZOO)
def test_norms_equal_those_of_a_truly_teleported_network(name: str) -> None:
    network, inputs = made(name)
    weights = {n: p.detach().clone() for n, p in network.named_parameters()}
    gradients = gradients_of(network, network, inputs)
    model = TeleportableModel(network, inputs)
    generator = torch.Generator().manual_seed(3)
    cobs = torch.stack(
        [sample_cob(model.cob_size, 0.8, "inter_landscape", generator=generator) for _ in range(CANDIDATES)]
    ).double()
    norms = TeleportedNorms(model.quiver, cobs)
    for position, cob in enumerate(cobs):
        model.teleport(cob)
        moved = {n: p.detach() for n, p in network.named_parameters()}
        slopes = gradients_of(network, model, inputs)
        ratios = {n: torch.where(moved[n] == 0, 0, g / moved[n]) for n, g in slopes.items()}
        expected = {
            "squared_weights": inner(moved, moved),
            "weight_products": inner(weights, moved),
            "squared_gradients": inner(slopes, slopes),
            "gradient_products": inner(gradients, slopes),
        }
        for quantity, value in expected.items():
            values = weights if "weight" in quantity else gradients
            assert float(getattr(norms, quantity)(values)[position]) == pytest.approx(value, rel=1e-9), (
                quantity
            )
        found = norms.squared_ratios(weights, gradients)
        assert float(found[position]) == pytest.approx(inner(ratios, ratios), rel=1e-9)


def test_weights_that_are_zero_do_not_count_in_the_ratio_of_gradient_to_weight() -> None:
    network = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False))
    quiver = analyze(network, torch.zeros(2, 2))
    norms = TeleportedNorms(quiver, torch.tensor([[2.0, 1.0]], dtype=torch.float64))
    weights = {"0.weight": torch.tensor([[0.0, 2.0], [1.0, 1.0]])}
    gradients = {"0.weight": torch.tensor([[5.0, 6.0], [0.0, 4.0]])}
    # Row 0 is multiplied by 2, its gradient divided by 2: (6/2 / 4)². Row 1 stays: (4/1)².
    assert norms.squared_ratios(weights, gradients).tolist() == [(3 / 4) ** 2 + 16]


def test_small_teleportations_keep_their_digits_in_single_precision() -> None:
    torch.manual_seed(1)
    network = nn.Sequential(nn.Linear(40, 50), nn.ReLU(), nn.Linear(50, 60), nn.ReLU(), nn.Linear(60, 5))
    quiver = analyze(network, torch.zeros(2, 40))
    cobs = torch.stack([sample_cob(quiver.cob_size, 1e-5, "intra_landscape") for _ in range(3)])
    single = {n: p.detach() for n, p in network.named_parameters()}
    double = {n: p.double() for n, p in single.items()}
    cobs[0] = 1.0
    found = TeleportedNorms(quiver, cobs).squared_weights(single)
    exact = TeleportedNorms(quiver, cobs).squared_weights(double)
    torch.testing.assert_close(found[1:] - found[0], exact[1:] - exact[0], rtol=1e-4, atol=0)


def test_a_large_weight_is_summed_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    network, inputs = made("residual_projection")
    quiver = analyze(network, inputs)
    cobs = torch.stack([sample_cob(quiver.cob_size, 0.9, "intra_landscape") for _ in range(3)]).double()
    weights = {n: p.detach() for n, p in network.named_parameters()}
    gradients = gradients_of(network, network, inputs)
    whole = TeleportedNorms(quiver, cobs).squared_ratios(weights, gradients)
    monkeypatch.setattr("nteleport.core.sides._PIECE_ELEMENTS", {"cpu": 20})
    pieces = TeleportedNorms(quiver, cobs).squared_ratios(weights, gradients)
    torch.testing.assert_close(pieces, whole, rtol=1e-13, atol=0)


def test_ratios_of_extreme_size_do_not_overflow_in_single_precision() -> None:
    network = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False))
    quiver = analyze(network, torch.zeros(2, 2))
    norms = TeleportedNorms(quiver, torch.full((1, 2), 1e-6))
    weights, gradients = {"0.weight": torch.full((2, 2), 1e-12)}, {"0.weight": torch.ones(2, 2)}
    expected = 4 / float(torch.tensor(1e-12)) ** 2 / float(torch.tensor(1e-6)) ** 4
    assert float(norms.squared_ratios(weights, gradients)) == pytest.approx(expected, rel=1e-12)


def test_changes_of_basis_of_a_wrong_shape_are_refused() -> None:
    quiver = analyze(nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 2)), torch.zeros(2, 2))
    with pytest.raises(TeleportationError, match=r"\(n, 3\), got \(2, 4\)"):
        TeleportedNorms(quiver, torch.ones(2, 4))
