"""Student's t, against published tables, and its intervals."""

from __future__ import annotations

import math

import pytest

from nteleport.reproduction.measures import t_interval, t_probability, t_quantile

# From the tables of Student's t (two-sided 95 % and 99 %), rounded as printed there.
PUBLISHED = {
    (0.975, 1): 12.706, (0.975, 2): 4.303, (0.975, 3): 3.182, (0.975, 4): 2.776, (0.975, 5): 2.571,
    (0.975, 9): 2.262, (0.975, 10): 2.228, (0.975, 29): 2.045, (0.975, 30): 2.042, (0.975, 120): 1.980,
    (0.995, 1): 63.657, (0.995, 2): 9.925, (0.995, 4): 4.604, (0.995, 9): 3.250, (0.9, 4): 1.533,
}  # fmt: skip


@pytest.mark.parametrize(("probability", "degrees"), PUBLISHED)
def test_quantiles_are_those_of_the_published_tables(probability: float, degrees: int) -> None:
    assert round(t_quantile(probability, degrees), 3) == PUBLISHED[probability, degrees]


@pytest.mark.parametrize("probability", [0.001, 0.3, 0.5, 0.8, 0.9999])
def test_one_and_two_degrees_of_freedom_have_closed_forms(probability: float) -> None:
    cauchy = math.tan(math.pi * (probability - 0.5))
    two = (2 * probability - 1) * math.sqrt(2 / (4 * probability * (1 - probability)))
    assert t_quantile(probability, 1) == pytest.approx(cauchy, rel=1e-9, abs=1e-12)
    assert t_quantile(probability, 2) == pytest.approx(two, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("degrees", [1, 2, 3, 4, 7, 8, 25])
@pytest.mark.parametrize("value", [-2.5, -0.4, 0.0, 0.7, 3.0])
def test_the_probability_is_the_integral_of_the_density(value: float, degrees: int) -> None:
    scale = math.gamma((degrees + 1) / 2) / math.gamma(degrees / 2) / math.sqrt(math.pi * degrees)
    steps = 4000
    points = [value * k / steps for k in range(steps + 1)]
    density = [scale * (1 + t * t / degrees) ** (-(degrees + 1) / 2) for t in points]
    integral = value / steps * (math.fsum(density) - (density[0] + density[-1]) / 2)  # trapezoids
    assert t_probability(value, degrees) == pytest.approx(0.5 + integral, abs=1e-7)


def test_an_interval_is_the_textbook_one() -> None:
    found = t_interval([1.0, 2.0, 3.0, 4.0, 5.0])
    margin = 2.776445105 * math.sqrt(2.5) / math.sqrt(5)
    assert (found.mean, found.count) == (3.0, 5)
    assert found.low == pytest.approx(3 - margin, rel=1e-9)
    assert found.high == pytest.approx(3 + margin, rel=1e-9)
    assert found.is_positive
    assert not found.is_negative


def test_one_value_has_no_interval_and_is_neither_positive_nor_negative() -> None:
    found = t_interval([2.0])
    assert found.mean == 2
    assert math.isnan(found.low)
    assert not found.is_positive
    assert not found.is_negative


@pytest.mark.parametrize(("probability", "degrees"), [(0, 3), (1, 3), (0.5, 0)])
def test_a_quantile_that_does_not_exist_is_refused(probability: float, degrees: int) -> None:
    with pytest.raises(ValueError, match="expected"):
        t_quantile(probability, degrees)
