"""The two controls: a displacement of the length of a teleportation, and weights of its distribution."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from nteleport import TeleportableModel, analyze, sample_cob, scales
from nteleport.training.controls import displace_at_random, redraw_same_distribution, sample_like


def network_and_scales() -> tuple[nn.Module, Tensor, dict[str, Tensor]]:
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 30), nn.ReLU(),
        nn.Linear(30, 3),
    ).double()  # fmt: skip
    nn.init.normal_(network[1].bias)  # type: ignore[arg-type]  # or it would be 0 and stay
    quiver = analyze(network, torch.zeros(2, 1, 6, 6, dtype=torch.float64))
    cob = sample_cob(quiver.cob_size, 0.9, "inter_landscape", generator=generator()).double()
    return network, cob, scales(quiver, cob)


def generator(seed: int = 7) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def values(network: nn.Module) -> dict[str, Tensor]:
    return {name: parameter.detach().clone() for name, parameter in network.named_parameters()}


def test_pseudo_teleportation_moves_each_parameter_as_far_as_a_teleportation() -> None:
    network, cob, factors = network_and_scales()
    before = values(network)
    model = TeleportableModel(network, torch.zeros(2, 1, 6, 6, dtype=torch.float64))
    model.teleport(cob)
    lengths = {name: float((p - before[name]).abs().sum()) for name, p in values(network).items()}
    model.undo_teleportation()

    displace_at_random(network, factors, generator())

    moved = {name: float((p - before[name]).abs().sum()) for name, p in values(network).items()}
    assert moved == pytest.approx(lengths, rel=1e-9)
    assert all(length > 0 for name, length in lengths.items() if name != "6.bias")


def test_pseudo_teleportation_goes_in_a_random_direction() -> None:
    network, _, factors = network_and_scales()
    before = values(network)["4.weight"]
    directions = []
    for seed in (1, 2):
        with torch.no_grad():
            network[4].weight.copy_(before)  # type: ignore[union-attr,operator,index]
        displace_at_random(network, factors, generator(seed))
        directions.append((values(network)["4.weight"] - before).flatten())

    one, other = directions
    cosine = torch.nn.functional.cosine_similarity(one, other, dim=0)
    assert abs(float(cosine)) < 4 / len(one) ** 0.5  # four standard deviations of independent directions
    assert abs(float((one > 0).double().mean()) - 0.5) < 4 * 0.5 / len(one) ** 0.5


def test_same_distribution_redraws_linear_and_conv_weights_and_keeps_the_rest() -> None:
    network, _, factors = network_and_scales()
    before = values(network)

    redraw_same_distribution(network, factors, generator())

    changed = {name for name, p in values(network).items() if not torch.equal(p, before[name])}
    assert changed == {"0.weight", "4.weight", "6.weight"}


def test_same_distribution_is_that_of_the_teleported_weights_not_of_the_present_ones() -> None:
    network, _, factors = network_and_scales()
    teleported = values(network)["4.weight"] * factors["4.weight"]

    redraw_same_distribution(network, factors, generator())

    drawn = values(network)["4.weight"]
    assert largest_gap(drawn, teleported) < largest_gap(drawn, teleported / factors["4.weight"]) / 3
    assert largest_gap(drawn, teleported) < 1.95 * (2 / drawn.numel()) ** 0.5  # Kolmogorov–Smirnov, 0.1 %


def test_a_histogram_bin_that_is_empty_is_never_drawn() -> None:
    two_clusters = torch.cat([torch.linspace(0, 0.1, 500), torch.linspace(0.9, 1, 1500)]).double()

    drawn = sample_like(two_clusters, generator())

    assert not bool(((drawn > 0.101) & (drawn < 0.899)).any())
    assert float((drawn < 0.5).double().mean()) == pytest.approx(0.25, abs=0.04)
    assert 0 <= float(drawn.min()) <= float(drawn.max()) <= 1
    assert drawn.unique().numel() == 2000  # uniform within a bin, not its middle


def test_constant_weights_stay() -> None:
    assert torch.equal(sample_like(torch.full((3, 4), 0.5), generator()), torch.full((3, 4), 0.5))


def largest_gap(one: Tensor, other: Tensor) -> float:
    """The largest difference between two empirical distribution functions."""
    points = torch.cat([one.flatten(), other.flatten()]).sort().values
    shares = [
        torch.searchsorted(x.flatten().sort().values, points, right=True) / x.numel() for x in (one, other)
    ]
    return float((shares[0] - shares[1]).abs().max())


def test_one_histogram_of_the_network_gives_every_linear_weight_one_distribution() -> None:
    """The published control: values are bin centers of one histogram, biases and convolutions stay."""
    network = nn.Sequential(nn.Conv2d(1, 2, 1), nn.Flatten(), nn.Linear(32, 200), nn.Linear(200, 300))
    with torch.no_grad():
        network[2].weight.mul_(10)
    before = {name: p.detach().clone() for name, p in network.named_parameters()}
    everything = torch.cat([p.flatten() for p in before.values()]).double()
    redraw_same_distribution(network, {}, torch.Generator().manual_seed(0), "network")
    width = (everything.max() - everything.min()) / 1000
    for name, parameter in network.named_parameters():
        if name in ("2.weight", "3.weight"):
            assert parameter.std().item() == pytest.approx(everything.std().item(), rel=0.05)
            position = (parameter.detach().double() - everything.min()) / width
            torch.testing.assert_close(position % 1, torch.full_like(position, 0.5), rtol=0, atol=1e-3)
        else:
            assert torch.equal(parameter, before[name])
