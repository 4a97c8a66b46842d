"""Sampled changes of basis follow their laws."""

from __future__ import annotations

import pytest
import torch

from nteleport import sample_cob
from nteleport.errors import TeleportationError

SIZE = 200_000


def drawn(cob_range: float, sampling: str, center: float = 1.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return sample_cob(SIZE, cob_range, sampling, center=center, generator=generator).double()


@pytest.mark.parametrize(
    ("sampling", "cob_range", "center", "low", "high"),
    [
        ("intra_landscape", 0.9, 1.0, 0.1, 1.9),
        ("positive", 0.7, 1.0, 0.0, 0.7),
        ("negative", 0.7, 1.0, -0.7, 0.0),
        ("centered", 0.5, 3.0, 2.5, 3.5),
    ],
)
def test_uniform_over_its_interval(
    sampling: str, cob_range: float, center: float, low: float, high: float
) -> None:
    cob = drawn(cob_range, sampling, center)
    width = high - low
    error = 5 * width / (12 * SIZE) ** 0.5  # five standard errors of the mean of a uniform variable
    assert cob.min() >= low - 1e-6
    assert cob.max() <= high + 1e-6
    assert abs(float(cob.mean()) - (low + high) / 2) < error
    quantiles = torch.quantile(cob, torch.tensor([0.25, 0.75], dtype=torch.float64))
    torch.testing.assert_close(
        quantiles, torch.tensor([low + width / 4, low + 3 * width / 4]).double(), atol=0.01, rtol=0
    )


def test_inter_landscape_is_half_positive_half_negative() -> None:
    cob = drawn(0.9, "inter_landscape")
    assert abs(float((cob > 0).double().mean()) - 0.5) < 5 * 0.5 / SIZE**0.5
    assert (cob.abs() >= 0.1 - 1e-6).all()
    assert (cob.abs() <= 1.9 + 1e-6).all()


@pytest.mark.parametrize(("sampling", "sign"), [("positive", 1), ("negative", -1)])
def test_entries_keep_away_from_zero_with_their_sign(sampling: str, sign: int) -> None:
    cob = drawn(1e-7, sampling)
    torch.testing.assert_close(cob, torch.full_like(cob, sign * 1e-6))


def test_the_generator_decides() -> None:
    assert torch.equal(drawn(0.5, "inter_landscape"), drawn(0.5, "inter_landscape"))


def test_no_entries() -> None:
    assert sample_cob(0, 0.5, "intra_landscape").shape == (0,)


@pytest.mark.parametrize(
    ("sampling", "cob_range", "message"),
    [
        ("intra_landscape", 1.5, "intra_landscape"),
        ("centered", 2.0, "centered"),
        ("intra_landscap", 0.5, "intra_landscape"),
    ],
)
def test_a_sampling_that_forbids_the_range_is_refused(sampling: str, cob_range: float, message: str) -> None:
    with pytest.raises(TeleportationError, match=message):
        sample_cob(3, cob_range, sampling)
