"""The CoB between two sets of weights is found: exactly where there is one, and the nearest otherwise."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import resnet18
from torchvision.models.vgg import make_layers

from nteleport import TeleportableModel, sample_cob
from nteleport.core.cob_fitting import best_entry
from nteleport.core.recovery import solve_cob
from nteleport.errors import StudyError, TeleportationError
from nteleport.jobs.job import Component
from nteleport.studies.recover import RecoverSettings
from nteleport.studies.recover.compute import recover_cob
from nteleport.studies.recover.picture import draw

METHODS = ("least_squares", "gradient")


class ResidualNetwork(nn.Module):
    """Residual blocks with BatchNorm and with groups; the flatten gives each channel several positions."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(2, 6, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(6)
        self.conv = nn.Conv2d(6, 6, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(6)
        self.grouped = nn.Conv2d(6, 6, 3, padding=1, groups=3)
        self.head = nn.Linear(6 * 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm1(self.stem(x)))
        x = x + torch.relu(self.norm2(self.conv(x)))
        x = x + torch.relu(self.grouped(x))
        return self.head(nn.functional.adaptive_avg_pool2d(x, 2).flatten(1))


def _mlp() -> tuple[nn.Module, Tensor]:
    layers = (nn.Linear(7, 12), nn.ReLU(), nn.Linear(12, 9), nn.Tanh(), nn.Linear(9, 4))
    return nn.Sequential(*layers), torch.randn(2, 7)


def _residual() -> tuple[nn.Module, Tensor]:
    return ResidualNetwork(), torch.randn(2, 2, 8, 8)


def _vgg() -> tuple[nn.Module, Tensor]:
    features = make_layers([8, "M", 16, "M", 16, 16, "M"], batch_norm=True)
    return nn.Sequential(features, nn.Flatten(), nn.Linear(16 * 16, 10)), torch.randn(2, 3, 32, 32)


def _resnet18() -> tuple[nn.Module, Tensor]:
    return resnet18(num_classes=10), torch.randn(2, 3, 32, 32)


NETWORKS = {"mlp": _mlp, "residual": _residual, "vgg": _vgg}


def teleportable(name: str) -> TeleportableModel:
    torch.manual_seed(0)
    network, x = {**NETWORKS, "resnet18": _resnet18}[name]()
    return TeleportableModel(network.double(), x.double())


def teleported(model: TeleportableModel, seed: int = 1) -> tuple[Tensor, Tensor]:
    """A random CoB with both signs, and the weights it gives."""
    generator = torch.Generator().manual_seed(seed)
    cob = sample_cob(model.cob_size, 0.9, "inter_landscape", generator=generator).double()
    moved = copy.deepcopy(model)
    moved.teleport(cob)
    return cob, moved.weight_vector()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", NETWORKS)
def test_a_known_cob_is_found_to_1e_6(name: str, method: str) -> None:
    model = teleportable(name)
    cob, target = teleported(model)
    torch.testing.assert_close(solve_cob(model, target, method), cob, rtol=1e-6, atol=0)


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_a_known_cob_of_resnet18_is_found_to_1e_6(method: str) -> None:
    model = teleportable("resnet18")
    cob, target = teleported(model)
    torch.testing.assert_close(solve_cob(model, target, method), cob, rtol=1e-6, atol=0)


def test_the_cob_found_is_relative_to_the_network_as_it_was_given() -> None:
    model = teleportable("residual")
    cob, target = teleported(model)
    model.random_teleport(0.5, "intra_landscape", generator=torch.Generator().manual_seed(3))
    model.teleport(solve_cob(model, target))
    torch.testing.assert_close(model.weight_vector(), target, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(model.cob, cob, rtol=1e-12, atol=0)


def _noisy(model: TeleportableModel) -> Tensor:
    _, target = teleported(model)
    return target + 0.1 * target.std() * torch.randn(target.shape, dtype=target.dtype)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", ["mlp", "residual"])
def test_the_distance_to_a_noisy_target_is_stationary(name: str, method: str) -> None:
    """The oracle: plain teleportation, differentiated numerically in random directions of the CoB."""
    model = teleportable(name)
    target = _noisy(model)
    found = solve_cob(model, target, method, tolerance=1e-12)

    def distance(cob: Tensor) -> float:
        model.teleport(cob)
        return float((model.weight_vector() - target).square().sum())

    best = distance(found)
    for _ in range(20):
        direction = torch.randn_like(found) * found.abs()
        h = 1e-4
        there, back = distance(found + h * direction), distance(found - h * direction)
        assert abs(there - back) / (2 * h) < 1e-3 * best
        assert min(there, back) > best


def test_both_methods_find_the_same_cob_under_noise() -> None:
    model = teleportable("residual")
    target = _noisy(model)
    first, second = (solve_cob(model, target, method, tolerance=1e-12) for method in METHODS)
    torch.testing.assert_close(first, second, rtol=1e-4, atol=1e-6)


def test_one_neuron_of_two_hidden_is_least_squares_by_hand() -> None:
    """Network y = v·w·x with one hidden neuron: minimize (w τ − w')² + (v/τ − v')² on a fine grid."""
    network = nn.Sequential(nn.Linear(1, 1, bias=False), nn.Tanh(), nn.Linear(1, 1, bias=False)).double()
    model = TeleportableModel(network, torch.ones(1, 1, dtype=torch.float64))
    model.load_weight_vector(torch.tensor([0.7, -1.3], dtype=torch.float64))
    w, v = 0.7, -1.3
    grid = torch.cat([torch.linspace(-5, -0.01, 400001), torch.linspace(0.01, 5, 400001)]).double()
    values = (w * grid + 0.9).square() + (v / grid - 0.4).square()
    expected = grid[values.argmin()]
    found = solve_cob(model, torch.tensor([-0.9, 0.4], dtype=torch.float64))
    torch.testing.assert_close(found[0], expected, rtol=1e-4, atol=0)


def test_best_entry_is_not_worse_than_any_on_a_grid() -> None:
    generator = torch.Generator().manual_seed(0)
    a, c = torch.rand(2, 300, generator=generator, dtype=torch.float64)
    b, d = torch.randn(2, 300, generator=generator, dtype=torch.float64)
    # One-sided neurons: no bias and no incoming weights, or no outgoing ones.
    a[:20], b[:20], c[20:40], d[20:40] = 0, 0, 0, 0

    def value(entry: Tensor) -> Tensor:
        return a * entry.square() - 2 * b * entry + c / entry.square() - 2 * d / entry

    best = value(best_entry(a, b, c, d, torch.ones(300, dtype=torch.float64)))
    size = torch.logspace(-3, 3, 4001, dtype=torch.float64).unsqueeze(1)
    on_grid = torch.cat([value(size), value(-size)]).amin(0)
    assert bool((best <= on_grid + 1e-9 * on_grid.abs()).all())


def test_an_entry_on_which_no_weight_depends_is_one() -> None:
    model = teleportable("mlp")
    with torch.no_grad():
        first, second = model.network[0], model.network[2]  # type: ignore[index]
        first.weight[3], first.bias[3], second.weight[:, 3] = 0, 0, 0
    cob, target = teleported(model)
    found = solve_cob(model, target)
    assert found[3] == 1
    kept = torch.arange(len(cob)) != 3
    torch.testing.assert_close(found[kept], cob[kept], rtol=1e-6, atol=0)


def test_wrong_targets_are_refused() -> None:
    model = teleportable("mlp")
    target = model.weight_vector()
    with pytest.raises(TeleportationError, match=r"have shape \(\d+,\), got \(3,\)"):
        solve_cob(model, target[:3])
    with pytest.raises(TeleportationError, match="did you mean 'gradient'"):
        solve_cob(model, target, "gradients")
    with pytest.raises(TeleportationError, match=r"'0.weight' have shape \(12, 7\) here, got nothing"):
        solve_cob(model, {})
    with pytest.raises(TeleportationError, match="not finite"):
        solve_cob(model, target * torch.nan)


def test_a_target_without_any_weight_is_refused(tmp_path: Path) -> None:
    from nteleport.studies.subject import build_network, dataset_info

    network = build_network(SMALL[0], dataset_info("digits"), 0)
    torch.save({name: 0 * tensor for name, tensor in network.state_dict().items()}, tmp_path / "zero.pt")
    with pytest.raises(StudyError, match="all weights of the target are 0"):
        recover_cob(RecoverSettings(models=SMALL, target=tmp_path / "zero.pt", device="cpu"))


SMALL = (Component("mlp", {"hidden_layers": [16, 16]}),)


def test_the_study_finds_the_cob_exactly_without_noise_and_nearly_with_it() -> None:
    tables = recover_cob(RecoverSettings(models=SMALL, noise=(0.0, 0.1), device="cpu"))
    entries, distances = tables["recover"], tables["recover-distances"].set_index("noise")
    exact = entries[entries["noise"] == 0]
    assert len(exact) == 32
    assert exact["layer"].value_counts().tolist() == [16, 16]
    torch.testing.assert_close(
        torch.tensor(exact["recovered"].to_numpy()), torch.tensor(exact["true"].to_numpy()), rtol=1e-6, atol=0
    )
    # Noise of a tenth of the weights leaves about a tenth of the distance, whatever the CoB.
    assert 0.08 < distances.loc[0.1, "after"] < 0.1 < distances.loc[0.1, "before"]
    assert distances.loc[0.1, "wrong_signs"] == 0
    axes = draw(tables)["recover"].axes
    assert {each.get_title() for each in axes} >= {"noise 0", "noise 0.1", "median error"}


def test_the_study_takes_a_target_from_a_file(tmp_path: Path) -> None:
    from nteleport.studies.subject import build_network, dataset_info

    network = build_network(SMALL[0], dataset_info("digits"), 0)
    model = TeleportableModel(network, torch.zeros(2, 1, 32, 32))
    cob = sample_cob(model.cob_size, 0.5, "inter_landscape", generator=torch.Generator().manual_seed(2))
    model.teleport(cob)
    torch.save({"weights": network.state_dict(), "cob": cob}, tmp_path / "weights.pt")
    tables = recover_cob(RecoverSettings(models=SMALL, target=tmp_path / "weights.pt", device="cpu"))
    found = torch.tensor(tables["recover"]["recovered"].to_numpy())
    torch.testing.assert_close(found, cob.double(), rtol=1e-4, atol=0)
    assert tables["recover"]["true"].isna().all()
    assert len(draw(tables)["recover"].axes) == 1


def test_several_models_are_refused() -> None:
    with pytest.raises(StudyError, match="one model and one data set"):
        RecoverSettings(models=(*SMALL, *SMALL))
