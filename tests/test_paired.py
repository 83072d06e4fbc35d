"""Paired intervals and rank tests: by hand, by every sign there is, and beside SciPy."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from scipy import stats

from uadctl.metrics import holm, mean_replicates, paired_interval, wilcoxon_signed_rank


def test_an_interval_is_of_the_differences_and_not_of_the_two():
    before = np.linspace(0, 1, 101)
    assert paired_interval(before, before) == (0.0, 0.0)
    assert paired_interval(before, before - 0.25) == pytest.approx((-0.25, -0.25))
    assert paired_interval(np.zeros(101), np.linspace(-1, 0, 101)) == pytest.approx((-0.975, -0.025))


def test_an_interval_does_not_end_where_metrics_do():
    low, high = paired_interval(np.full(5, 1.0), np.zeros(5)) or (0, 0)
    assert (low, high) == (-1.0, -1.0)


def test_resamples_count_where_both_are_defined():
    nan = np.nan
    assert paired_interval([0.0, nan, 0.0, 0.0], [1.0, 5.0, nan, 1.0]) == (1.0, 1.0)
    assert paired_interval([0.0, nan, 0.0, nan], [1.0, 5.0, 1.0, nan]) == (1.0, 1.0)
    assert paired_interval([0.0, nan, nan], [1.0, 1.0, 1.0]) is None
    assert paired_interval([], []) is None
    assert paired_interval([nan], [nan]) is None


@pytest.mark.parametrize("n", [2, 4, 9])
def test_categories_that_are_drawn_alike_are_resampled_independently_in_a_mean(n):
    """The standard error of a mean of n independent categories is 1/sqrt(n) of one's, or 0 if opposites cancelled."""
    before = np.zeros(4000)
    for sign in (1, -1):
        one = np.random.default_rng(5).normal(0, 0.1, 4000)
        drawn = [one * sign**i for i in range(n)]
        low, high = paired_interval(mean_replicates([before] * n), mean_replicates(drawn)) or (0, 0)
        alone = paired_interval(before, one) or (0, 0)
        assert (high - low) / (alone[1] - alone[0]) == pytest.approx(1 / np.sqrt(n), rel=0.08)


def test_a_mean_over_categories_by_hand():
    assert mean_replicates([np.array([1.0, 2.0, 3.0])]).tolist() == [1.0, 2.0, 3.0]
    found = mean_replicates(
        [np.array([1.0, 2.0, 3.0]), np.array([10.0, 20.0, np.nan]), np.array([100.0, 200.0, 300.0])]
    )
    assert np.isnan(found[0])  # 1, NaN, 200
    assert found[1:].tolist() == [(2 + 10 + 300) / 3, (3 + 20 + 100) / 3]


def test_a_mean_of_two_runs_stays_paired():
    rng = np.random.default_rng(1)
    before = [rng.normal(0.8, 0.1, 200) for _ in range(3)]
    after = [one - 0.01 for one in before]
    assert paired_interval(mean_replicates(before), mean_replicates(after)) == pytest.approx((-0.01, -0.01))


@pytest.mark.parametrize(("lengths", "said"), [([2, 3], r"\[2, 3\]"), ([], r"\[\]")])
def test_a_mean_needs_as_many_resamples_of_each_category(lengths, said):
    with pytest.raises(ValueError, match=f"^as many resamples of each category are needed, not {said}$"):
        mean_replicates([np.zeros(n) for n in lengths])


def every_sign(sizes: np.ndarray, positive: float) -> float:
    """The two-sided p-value by looking at all 2^n signs of mid-ranks."""
    ranks = stats.rankdata(sizes)
    sums = np.array([sum(r for r, sign in zip(ranks, signs, strict=True) if sign) for signs in _signs(len(sizes))])
    observed = positive
    return min(1.0, 2 * min(np.mean(sums <= observed + 1e-9), np.mean(sums >= observed - 1e-9)))


def _signs(n: int) -> list[tuple[int, ...]]:
    return list(product((0, 1), repeat=n))


@pytest.mark.parametrize("seed", range(12))
def test_the_signed_rank_test_is_exact_with_ties(seed):
    rng = np.random.default_rng(seed)
    differences = rng.integers(-4, 6, size=4 + seed % 8).astype(float) / 64
    differences = differences[differences != 0]
    ranks = stats.rankdata(np.abs(differences))
    expected = every_sign(np.abs(differences), ranks[differences > 0].sum())
    assert wilcoxon_signed_rank(differences) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("n", [1, 2, 6, 15, 40])
def test_the_signed_rank_test_is_that_of_scipy_without_ties(n):
    rng = np.random.default_rng(n)
    for shift in (0.0, 0.3, -0.8):
        differences = rng.normal(shift, 1, n)
        expected = stats.wilcoxon(differences, method="exact").pvalue
        assert wilcoxon_signed_rank(differences) == pytest.approx(expected, abs=1e-12)


def test_many_categories_come_near_the_normal_distribution():
    differences = np.random.default_rng(3).normal(0.2, 1, 150)
    expected = stats.wilcoxon(differences, method="approx").pvalue
    assert wilcoxon_signed_rank(differences) == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize(("n", "smallest"), [(1, 1.0), (2, 0.5), (5, 0.0625), (6, 0.03125), (10, 2 / 1024)])
def test_the_smallest_p_value_of_so_many_categories(n, smallest):
    assert wilcoxon_signed_rank(-np.arange(1.0, n + 1)) == smallest
    assert wilcoxon_signed_rank(np.full(n, 0.01)) == smallest


def test_differences_of_zero_are_left_out_and_rounding_is_none():
    assert wilcoxon_signed_rank([]) == 1.0
    assert wilcoxon_signed_rank([0.0, 0.0, 1e-15]) == 1.0
    assert wilcoxon_signed_rank([0.0, 0.1, 0.2, 0.3, 0.0, 0.4, 0.5, 0.6]) == 0.03125
    # 0.3 - 0.2 and 0.2 - 0.1 differ in the last digit, and are one size: ranks 1.5, 1.5 and 3, and not 1, 2 and 3.
    rounded = [-(0.3 - 0.2), 0.2 - 0.1, 0.5]
    assert abs(rounded[0]) < abs(rounded[1])
    assert wilcoxon_signed_rank(rounded) == wilcoxon_signed_rank([-0.1, 0.1, 0.5]) == 0.75


def test_holm_by_hand():
    # (m - i) p in ascending order, never below what came before: 0.03, 0.06, 0.06
    assert holm([0.03, 0.01, 0.04]).tolist() == pytest.approx([0.06, 0.03, 0.06])
    assert holm([0.2]).tolist() == [0.2]
    assert holm([0.5, 0.9]).tolist() == [1.0, 1.0]
    assert holm([]).tolist() == []


def test_holm_rejects_what_the_procedure_rejects_step_by_step():
    rng = np.random.default_rng(0)
    for _ in range(50):
        p_values = rng.uniform(0, 0.1, 7)
        rejected = np.zeros(7, bool)
        for i, number in enumerate(np.argsort(p_values)):
            if p_values[number] > 0.05 / (7 - i):
                break
            rejected[number] = True
        assert ((holm(p_values) <= 0.05) == rejected).all()
