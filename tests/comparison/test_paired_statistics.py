"""Statistics of pairs against independent computations, and against simulated data with a known answer."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from fractions import Fraction

import numpy as np
import numpy.typing as npt
import pytest

from nteleport.comparison.statistics import (
    contrast,
    equivalence,
    holm,
    pairs_for_band,
    pairs_for_holm,
    sign_flip_p,
    smallest_p,
    t_interval,
    welch_p,
)
from nteleport.reproduction.measures import t_probability, t_quantile

Array = npt.NDArray[np.float64]


def exact_p(differences: list[int]) -> Fraction:
    """The share of all signs whose sum is at least as far from 0, in whole numbers."""
    observed = abs(sum(differences))
    signs = itertools.product((1, -1), repeat=len(differences))
    far = sum(abs(sum(s * d for s, d in zip(each, differences, strict=True))) >= observed for each in signs)
    return Fraction(far, 2 ** len(differences))


@pytest.mark.parametrize(
    "differences",
    [
        [3],
        [1, 2],
        [1, -2, 3],
        [4, 4, 4, 4, 4, 4],
        [0, 0, 0],
        [0, 5, 5, -5],
        [1, 2, 3, 4, 5, 6, -7, 8],
        [-9, 1, 1],
    ],
)
def test_a_sign_flip_test_enumerates_all_signs(differences: list[int]) -> None:
    assert float(sign_flip_p(np.array(differences, dtype=np.float64))) == float(exact_p(differences))


@pytest.mark.parametrize("count", [360, 10_000])
def test_equal_sums_of_shares_count_as_ties(count: int) -> None:
    whole = [1, 2, -2, 3, 1, -1, 2, 4, 1]
    shares = np.array([100 * (each + 91) / count - 100 * 91 / count for each in whole])
    assert float(sign_flip_p(shares)) == float(exact_p(whole))


def test_drawn_signs_come_near_the_exact_p_within_the_error_that_they_state() -> None:
    differences = [3, -1, 4, 1, -5, 9, 2, -6, 5, 3, 5, -8, 9, 7, -9, 3, 2, 3, -8, 4]
    sums = Counter({0: 1})  # the exact distribution of the sum, term by term
    for each in differences:
        sums = Counter(
            {
                total: sums[total - each] + sums[total + each]
                for total in {s + t for s in sums for t in (each, -each)}
            }
        )
    exact = sum(n for total, n in sums.items() if abs(total) >= abs(sum(differences))) / 2 ** len(differences)
    found = contrast(np.array(differences, dtype=np.float64))
    assert 0 < found.p_error < 0.005
    assert abs(found.p - exact) < 4 * found.p_error
    assert found == contrast(np.array(differences, dtype=np.float64))


def test_the_interval_is_that_of_student() -> None:
    differences = np.array([0.3, -0.1, 0.8, 0.5, 0.2, 0.9, -0.4, 0.6])
    found = contrast(differences)
    margin = t_quantile(0.975, 7) * math.sqrt(sum((differences - differences.mean()) ** 2) / 7 / 8)
    assert found.n == 8
    assert found.mean == pytest.approx(3.2 / 8 - 0.05)
    assert (found.low, found.high) == pytest.approx((found.mean - margin, found.mean + margin), abs=1e-12)


def test_one_pair_and_none_have_no_interval() -> None:
    one, none = contrast(np.array([2.0])), contrast(np.array([]))
    assert (one.n, one.mean, one.p) == (1, 2.0, 1.0)
    assert math.isnan(one.low)
    assert none.n == 0
    assert math.isnan(none.p)


def test_a_sign_flip_test_is_not_fooled_by_skewed_pairs_of_exchangeable_runs() -> None:
    """Both runs of a pair from one skewed distribution: at every level, p is at most so small so often."""
    runs = np.random.default_rng(7).exponential(1.0, (4000, 2, 8))
    p = sign_flip_p(runs[:, 0] - runs[:, 1])
    for level in (0.01, 0.05, 0.2, 0.5):
        exact = math.floor(level * 2**7) / 2**7  # p comes in steps of 2/2^8
        assert abs((p <= level).mean() - exact) < 4 * math.sqrt(exact * (1 - exact) / len(p))


def test_intervals_cover_the_true_mean_as_often_as_they_say() -> None:
    simulations = 20_000
    draws = np.random.default_rng(0).normal(0.7, 2.0, (simulations, 6))
    low, high = t_interval(draws)
    covered = ((low <= 0.7) & (high >= 0.7)).mean()
    assert abs(covered - 0.95) < 4 * math.sqrt(0.95 * 0.05 / simulations)


def test_holm_by_hand() -> None:
    adjusted = holm(np.array([0.01, 0.04, 0.03, 0.005]))
    assert adjusted == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm(np.array([0.02, math.nan, 0.5])) == pytest.approx([0.04, math.nan, 0.5], nan_ok=True)
    assert holm(np.array([0.9, 0.8])) == pytest.approx([1.0, 1.0])


def test_holm_is_the_closed_test_of_bonferroni() -> None:
    """An adjusted p is the largest that Bonferroni gives to any set of hypotheses with this one in it."""
    for p in np.random.default_rng(6).uniform(0, 0.2, (30, 5)):
        sets = [each for size in range(1, 6) for each in itertools.combinations(range(5), size)]
        closed = [
            max(min(1, len(each) * min(p[at] for at in each)) for each in sets if one in each)
            for one in range(5)
        ]
        assert holm(p) == pytest.approx(closed, rel=1e-12)


def test_a_family_without_effects_is_called_different_in_at_most_five_percent() -> None:
    simulations, arms, pairs = 4000, 4, 9
    rng = np.random.default_rng(1)
    runs = rng.standard_t(3, (simulations, arms + 1, pairs))  # heavy tails, and a baseline that arms share
    p = sign_flip_p(runs[:, 1:] - runs[:, :1])
    wrong = (np.apply_along_axis(holm, -1, p) <= 0.05).any(-1).mean()
    uncorrected = (p <= 0.05).any(-1).mean()
    assert wrong <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / simulations)
    assert wrong > 0.015  # it is not merely silent
    assert uncorrected > 0.1


def test_an_effect_of_one_arm_is_found_among_others_without() -> None:
    rng = np.random.default_rng(2)
    differences = rng.normal(0, 1, (500, 3, 10)) + np.array([1.6, 0, 0])[:, None]
    called = (np.apply_along_axis(holm, -1, sign_flip_p(differences)) <= 0.05).mean(0)
    assert called[0] > 0.9
    assert called[1:].max() < 0.05


def one_sided(differences: Array, bound: float) -> float:
    """The probability of Student's t above that of the mean against `bound`."""
    n = len(differences)
    t = (differences.mean() - bound) / (differences.std(ddof=1) / math.sqrt(n))
    return 1 - t_probability(float(t), n - 1)


def test_equivalence_is_two_one_sided_tests() -> None:
    rng = np.random.default_rng(3)
    baseline = rng.normal(90, 1, 8)
    arm = baseline + rng.normal(0.1, 0.3, 8)
    found = equivalence(arm, baseline, 0.5, relative=False)
    expected = max(one_sided(arm - baseline, -0.5), one_sided(baseline - arm, -0.5))
    assert found.p == pytest.approx(expected, abs=1e-9)
    shares = equivalence(arm, baseline, 0.01, relative=True)
    expected = max(one_sided(arm - 0.99 * baseline, 0), one_sided(1.01 * baseline - arm, 0))
    assert shares.p == pytest.approx(expected, abs=1e-9)


def test_arms_without_any_spread_are_equivalent_where_they_lie_in_the_band() -> None:
    baseline = np.full(5, 90.0)
    assert equivalence(baseline + 0.4, baseline, 0.5, relative=False).p == 0
    assert equivalence(baseline + 0.5, baseline, 0.5, relative=False).p == 1
    assert equivalence(baseline - 3, baseline, 0.5, relative=False).p == 1
    assert math.isnan(equivalence(baseline[:1], baseline[:1], 0.5, relative=False).p)


@pytest.mark.parametrize("relative", [False, True])
def test_an_arm_on_the_edge_of_the_band_is_called_equivalent_in_at_most_five_percent(relative: bool) -> None:
    rng = np.random.default_rng(4)
    simulations, edge = 700, 1.05 * 10.0 if relative else 10.5
    wrong = sum(
        equivalence(edge + noise[0], 10 + noise[1], 0.05 if relative else 0.5, relative=relative).holds
        for noise in rng.normal(0, 0.15, (simulations, 2, 6))
    )
    assert 0.02 < wrong / simulations < 0.05 + 3 * math.sqrt(0.05 * 0.95 / simulations)


def test_so_many_pairs_decide_the_band_in_four_of_five_cases() -> None:
    pairs = pairs_for_band(1.0, 0.6)
    rng = np.random.default_rng(5)

    def power(n: int) -> float:
        draws = rng.normal(0, 1, (400, n))
        return float(np.mean([equivalence(d, np.zeros(n), 0.6, relative=False).holds for d in draws]))

    assert power(pairs) == pytest.approx(0.8, abs=0.07)
    assert power(pairs - 8) < 0.75
    assert not equivalence(rng.normal(0, 1, 4), np.zeros(4), 0.6, relative=False).decidable
    assert equivalence(rng.normal(0, 1, 40), np.zeros(40), 0.6, relative=False).decidable


def test_the_smallest_p_decides_how_many_pairs_holm_needs() -> None:
    assert smallest_p(5) == float(exact_p([1, 1, 1, 1, 1])) == 1 / 16
    # 2/2^n ≤ 0.05/arms
    assert [pairs_for_holm(arms) for arms in (1, 2, 3, 4, 5, 6, 7)] == [6, 7, 7, 8, 8, 8, 9]


def test_unpaired_means_are_compared_by_welch() -> None:
    one, other = np.array([1.0, 2.0, 3.0, 4.0]), np.array([3.0, 4.0, 5.0, 6.0])
    # equal sizes and variances: the degrees of freedom are those of the pooled test, 6
    t = (one.mean() - other.mean()) / math.sqrt(2 * (5 / 3) / 4)
    assert welch_p(one, other) == pytest.approx(1 - t_probability(t, 6), abs=1e-9)
    assert welch_p(other, one) == pytest.approx(t_probability(t, 6), abs=1e-9)
    assert welch_p(np.full(3, 2.0), np.full(3, 1.0)) == 0
    assert math.isnan(welch_p(one[:1], other))
