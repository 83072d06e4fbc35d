"""Conformal thresholds: the order statistic without rounding, what is refused, what is promised in words, ranks."""

from __future__ import annotations

import math
import re
import time
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from uadctl.metrics import is_anomalous
from uadctl.thresholds import (
    Asked,
    Labelled,
    Shares,
    Tail,
    Threshold,
    TooFew,
    choose,
    conformal_threshold,
    describe_threshold,
    expected_shares,
    fit_threshold,
    images_needed,
    p_value,
)


def float32_above(value: float) -> float:
    return float(np.nextafter(np.float32(value), np.float32(np.inf)))


def ranks(n: int) -> np.ndarray:
    """1..n in some order: the k-th smallest is k."""
    return np.random.default_rng(n).permutation(np.arange(1, n + 1)).astype(np.float32)


# (n, alpha, k): ceil((n + 1)(1 - alpha)) in decimal arithmetic. In floating point the first three come out as k + 1;
# those and the next three do where alpha is taken as the exact binary number.
ORDER = [
    (9, 0.7, 3),
    (119, 0.7, 36),
    (19, 0.95, 1),
    (99, 0.29, 71),
    (19, 0.15, 17),
    (9, 0.3, 7),
    (9, 0.1, 9),
    (19, 0.05, 19),
    (99, 0.01, 99),
    (100, 0.01, 100),
    (199, 0.01, 198),
    (10, 0.3, 8),
    (29, 0.9, 3),
    (3, 0.25, 3),
    (1, 0.5, 1),
    (8, 1 / 3, 7),  # 0.3333333333333333, which is printed for it, is less than a third
]


@pytest.mark.parametrize(("n", "alpha", "k"), ORDER)
def test_the_order_statistic_is_counted_without_rounding(n: int, alpha: float, k: int) -> None:
    threshold = conformal_threshold(ranks(n), alpha=alpha)
    assert threshold == float32_above(k)
    assert conformal_threshold(ranks(n), alpha=np.float64(alpha)) == threshold
    assert is_anomalous(ranks(n), threshold).sum() == n - k


def test_the_table_holds_cases_that_floating_point_gets_wrong() -> None:
    assert [math.ceil((n + 1) * (1 - alpha)) - k for n, alpha, k in ORDER[:3]] == [1, 1, 1]
    assert [math.ceil((n + 1) * (1 - Fraction(alpha))) - k for n, alpha, k in ORDER[:6]] == [1] * 6


def test_the_fewest_images_for_an_alpha() -> None:
    table = {0.5: 1, 0.3: 3, 0.7: 1, 0.1: 9, 0.05: 19, 0.01: 99, 0.001: 999, 0.03: 33, 1e-9: 999_999_999}
    assert {alpha: images_needed(Asked("conformal", alpha)) for alpha in table} == table
    assert {alpha: images_needed(Asked("quantile", alpha)) for alpha in table} == table
    assert images_needed(Asked("conformal", 0.01, 0.05)) == 299
    assert images_needed(Asked("conformal", 0.05, 0.05)) == 59
    assert images_needed(Asked("conformal", 0.001, 0.01)) == 4603
    assert images_needed(Asked("conformal", 0.1, 0.81)) == 2  # 0.9² is 0.81; in floating point it is more
    assert images_needed(Asked("conformal", 0.1, 0.729)) == 3
    assert images_needed(Asked("conformal", 0.9, 0.5)) == 1
    assert images_needed(Asked("evt", 0.01)) == 60


@pytest.mark.parametrize(
    ("alpha", "delta", "needed", "level"),
    [
        (0.01, None, 99, "alpha 0.01"),
        (0.1, None, 9, "alpha 0.1"),
        (0.01, 0.05, 299, "alpha 0.01 and delta 0.05"),
        (0.1, 0.81, 2, "alpha 0.1 and delta 0.81"),
    ],
)
def test_too_few_images_are_refused_with_the_number_needed(
    alpha: float, delta: float | None, needed: int, level: str
) -> None:
    conformal_threshold(ranks(needed), alpha=alpha, delta=delta)
    few = needed - 1
    message = f'method "conformal" needs at least {needed} normal images for {level}, there are {few}'
    with pytest.raises(TooFew, match=f"^{re.escape(message)}$") as refused:
        conformal_threshold(ranks(few), alpha=alpha, delta=delta)
    assert refused.value.needed == needed
    with pytest.raises(TooFew, match=f"^{re.escape(message)}$"):
        choose(ranks(few), Asked("conformal", alpha, delta), source="holdout")


def kth(n: int, alpha: float, delta: float) -> int:
    """k of the threshold of 1..n."""
    threshold = conformal_threshold(np.arange(1, n + 1), alpha=alpha, delta=delta)
    return int(np.float32(threshold))


def test_the_stricter_order_statistic_by_hand() -> None:
    # P(Bin(2, 1/2) >= 2) = 1/4. P(Bin(3, 1/2) >= 3) = 1/8, >= 2: 1/2. P(Bin(2, 0.9) >= 2) = 0.81 exactly.
    assert kth(2, 0.5, 0.25) == 2
    assert kth(3, 0.5, 0.49) == 3
    assert kth(3, 0.5, 0.5) == 2
    assert kth(2, 0.1, 0.81) == 2
    # P(Bin(4, 0.9) >= 4) = 0.6561, >= 3: 0.9477.
    assert (kth(4, 0.1, 0.6561), kth(4, 0.1, 0.9476), kth(4, 0.1, 0.9477)) == (4, 4, 3)
    # The table that testers use (Wilks 1941): 59, 93, 124 and 153 for 95 % at 95 % with 0, 1, 2 and 3 above.
    for above, n in enumerate([59, 93, 124, 153]):
        assert kth(n, 0.05, 0.05) == n - above
        if above:
            assert kth(n - 1, 0.05, 0.05) == n - above


@pytest.mark.parametrize("delta", [0.001, 0.05, 0.1, 0.5, 0.9])
@pytest.mark.parametrize("alpha", [0.005, 0.05, 0.3, 0.7])
def test_the_stricter_order_statistic_equals_scipys_binomial_and_beta(alpha: float, delta: float) -> None:
    fewest = images_needed(Asked("conformal", alpha, delta))
    assert fewest == math.ceil(math.log(delta) / math.log1p(-alpha))
    for n in (fewest, fewest + 1, 2 * fewest + 7, 1000 + fewest):
        every = np.arange(1, n + 1)
        k = kth(n, alpha, delta)
        assert k == every[stats.binom.sf(every - 1, n, 1 - alpha) <= delta][0]
        assert k == every[stats.beta.cdf(1 - alpha, every, n - every + 1) <= delta][0]


def test_a_million_images_are_counted_fast_and_right() -> None:
    scores = np.arange(1, 1_000_001)
    before = time.perf_counter()
    for alpha, delta in ((0.01, 0.05), (0.5, 1e-6), (0.99, 0.1), (1e-5, 0.05)):
        k = 1_000_000 - int(is_anomalous(scores, conformal_threshold(scores, alpha=alpha, delta=delta)).sum())
        tail = stats.binom.sf([k - 1, k - 2], 1_000_000, 1 - alpha)
        assert tail[0] <= delta < tail[1]
    assert time.perf_counter() - before < 10  # a second or two: no matter of n²


@settings(deadline=None, derandomize=True, max_examples=100)
@given(
    n=st.integers(1, 60),
    per_hundred=st.integers(1, 99),
    delta=st.sampled_from(["0.01", "0.05", "0.1", "0.25", "0.5", "0.729", "0.81", "0.9"]),
)
def test_the_stricter_order_statistic_equals_the_exact_sum(n: int, per_hundred: int, delta: str) -> None:
    alpha = Fraction(per_hundred, 100)

    def tail(k: int) -> Fraction:
        return sum((math.comb(n, i) * (1 - alpha) ** i * alpha ** (n - i) for i in range(k, n + 1)), Fraction(0))

    allowed = [k for k in range(1, n + 1) if tail(k) <= Fraction(delta)]
    if allowed:
        assert kth(n, per_hundred / 100, float(delta)) == allowed[0]
    else:
        with pytest.raises(TooFew) as refused:
            kth(n, per_hundred / 100, float(delta))
        needed = refused.value.needed
        assert (1 - alpha) ** needed <= Fraction(delta) < (1 - alpha) ** (needed - 1)


def test_the_stricter_threshold_is_no_lower() -> None:
    for n in (59, 100, 300, 1000):
        scores = ranks(n)
        plain = conformal_threshold(scores, alpha=0.05)
        assert conformal_threshold(scores, alpha=0.05, delta=0.05) > plain


def test_tied_scores_are_all_normal() -> None:
    scores = [1.0] * 5 + [2.0] * 14
    assert conformal_threshold(scores, alpha=0.3) == float32_above(2)
    assert not is_anomalous(scores, conformal_threshold(scores, alpha=0.3)).any()
    assert conformal_threshold(scores, alpha=0.75) == float32_above(1)


def test_scores_of_double_precision_lie_below_a_float32() -> None:
    scores = np.full(9, 0.1)
    threshold = conformal_threshold(scores, alpha=0.1)
    assert threshold > 0.1
    assert threshold == float(np.float32(threshold)) == float(np.float32(0.1))  # the float32 of 0.1 is above it
    assert conformal_threshold(scores.astype(np.float32), alpha=0.1) == float32_above(0.1)
    assert conformal_threshold(np.arange(9), alpha=0.1) == float32_above(8)


REFUSED: list[tuple[Any, float, float | None, str]] = [
    ([], 0.5, None, "there is no score; a threshold needs at least one normal image outside the model's training"),
    ([0.1, math.nan], 0.5, None, "scores[1] is nan; expected finite numbers"),
    ([0.1], 0.0, None, "alpha is 0.0; expected a share of normal images above 0 and below 1"),
    ([0.1], 1.0, None, "alpha is 1.0; expected a share of normal images above 0 and below 1"),
    ([0.1], 0.5, 0.0, "delta is 0.0; expected a probability above 0 and below 1"),
    ([0.1], 0.5, 1.0, "delta is 1.0; expected a probability above 0 and below 1"),
    ([0.1], 0.5, math.nan, "delta is nan; expected a probability above 0 and below 1"),
    ([1e39], 0.5, None, "the score 1e+39 is beyond float32; no threshold lies above it"),
]


@pytest.mark.parametrize(("scores", "alpha", "delta", "message"), REFUSED)
def test_what_gives_no_threshold_is_refused(scores: Any, alpha: float, delta: float | None, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        conformal_threshold(scores, alpha=alpha, delta=delta)


def test_a_p_value_is_the_rank_among_the_normal_images() -> None:
    scores = [0.1, 0.2, 0.2, 0.4]
    assert [p_value(s, scores) for s in (0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5)] == [
        *(1.0, 1.0, 0.8, 0.8, 0.4, 0.4, 0.2),
    ]
    assert p_value(1, [0]) == 0.5
    for score in (math.nan, math.inf):
        with pytest.raises(ValueError, match=f"^the score is {score}; expected a finite number$"):
            p_value(score, scores)
    with pytest.raises(ValueError, match="^there is no score; "):
        p_value(0.1, [])


FLOAT32 = st.floats(-1e6, 1e6, width=32)


@settings(deadline=None, derandomize=True)
@given(scores=st.lists(FLOAT32, min_size=1, max_size=60), score=FLOAT32, per_mille=st.integers(1, 999))
def test_a_score_reaches_the_threshold_iff_its_p_value_is_at_most_alpha(
    scores: list[float], score: float, per_mille: int
) -> None:
    alpha = per_mille / 1000
    if len(scores) < images_needed(Asked("conformal", alpha)):
        return
    threshold = conformal_threshold(scores, alpha=alpha)
    for value in (score, *scores):
        assert is_anomalous([value], threshold)[0] == (p_value(value, scores) <= alpha)


def test_choosing_keeps_what_was_asked_and_where_from() -> None:
    scores = np.arange(1, 301, dtype=np.float32)
    assert choose(scores, Asked("quantile", 0.01), source="leave-one-out") == Threshold(
        value=float32_above(297), method="quantile", alpha=0.01, n=300, source="leave-one-out"
    )
    assert choose(scores, Asked("conformal", 0.01), source="validation") == Threshold(
        value=float32_above(298),
        method="conformal",
        alpha=0.01,
        n=300,
        source="validation",
        guarantee="On average over calibrations like this one at most 1 % of new normal images reach this threshold, "
        "provided that they are exchangeable with the 300 normal images it was chosen from (taken in the same way, in "
        "no order that matters) and that none of those is in the model.",
    )
    assert choose(scores, Asked("conformal", 0.025, 0.005), source="given") == Threshold(
        value=float32_above(299),
        method="conformal",
        alpha=0.025,
        delta=0.005,
        n=300,
        source="given",
        guarantee="With a probability of at least 99.5 % at most 2.5 % of new normal images reach this threshold, "
        "provided that they and the 300 normal images it was chosen from are drawn independently of each other in the "
        "same way, and that none of those is in the model.",
    )
    evt = choose(scores, Asked("evt", 0.001), source="leave-one-out")
    assert isinstance(evt.tail, Tail)
    assert (evt.method, evt.alpha, evt.n, evt.guarantee) == ("evt", 0.001, 300, None)


@pytest.mark.parametrize(
    ("asked", "source", "message"),
    [
        (
            Asked("conformal", 0.1),
            "leave-one-out",
            'method "conformal" promises nothing of leave-one-out scores: each is of a model without its image, a new '
            "image is scored by the model with all of them; give normal images that are not in the model (validation "
            "images, a holdout), or use another method",
        ),
        (
            Asked("conformal", 0.1),
            "training",
            'method "conformal" promises nothing of training scores: the model may have learned these images, and then '
            "scores them lower than new ones; give normal images that are not in the model (validation images, a "
            "holdout), or use another method",
        ),
        (
            Asked("quantile", 0.1, 0.05),
            "holdout",
            'delta is 0.05, but has no effect with method "quantile"; only "conformal" has one',
        ),
        (
            Asked("evt", 0.1, 0.05),
            "holdout",
            'delta is 0.05, but has no effect with method "evt"; only "conformal" has one',
        ),
        (Asked("median", 0.1), "holdout", 'method is "median"; expected "quantile", "conformal" or "evt"'),
    ],
)
def test_what_cannot_be_promised_is_refused(asked: Any, source: Any, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        choose(ranks(100), asked, source=source)


def test_expected_shares_count_the_new_image_among_the_others() -> None:
    scores = np.arange(1, 100, dtype=np.float32)
    high = choose(scores, Asked("conformal", 0.01), source="holdout")
    low = choose(scores, Asked("conformal", 0.05), source="holdout")
    assert expected_shares(scores, high) == Shares(good=0.99, review=0.0, anomaly=0.01)
    both = expected_shares(scores, high, low)
    assert (both.good, both.review, both.anomaly) == pytest.approx((0.95, 0.04, 0.01), abs=1e-15)
    none = Threshold(value=None, alpha=0.05, reason="too few")
    assert expected_shares(scores, high, none) == expected_shares(scores, high)
    with pytest.raises(ValueError, match="^there is no threshold to expect anything of: too few$"):
        expected_shares(scores, none)


def test_expected_shares_with_labelled_defects_are_those_of_cross_validation() -> None:
    """Counting would not do: defects have a say in which rank the threshold lies above."""
    rng = np.random.default_rng(3)
    told, counted, true = [], [], []
    for _ in range(300):
        normal, defects = rng.normal(size=20), rng.normal(1, 1, size=20)
        value = fit_threshold(normal, defects)
        labelled = describe_threshold(normal, defects)
        chosen = Threshold(value=value, method="few-shot", n=20, source="given", labelled=labelled)
        told.append(expected_shares(normal, chosen).anomaly)
        counted.append(p_value(value, normal))
        true.append(stats.norm.sf(value))
    error = 4 * float(np.std(np.subtract(told, true))) / math.sqrt(300)
    assert abs(np.mean(told) - np.mean(true)) < error + 0.02  # of thresholds from a fifth fewer images
    assert np.mean(true) - np.mean(counted) > 0.02
    none = Threshold(
        value=0.5,
        method="few-shot",
        source="given",
        labelled=Labelled(objective="f1", defects=1, separable=True, folds=0),
    )
    with pytest.raises(ValueError, match="^the threshold was not cross-validated: there are too few images"):
        expected_shares([0.1, 0.2], none)


def test_expected_shares_of_a_tail_are_its_own() -> None:
    scores = np.random.default_rng(0).exponential(size=99).astype(np.float32)
    tail = choose(scores, Asked("evt", 0.0001), source="holdout")
    review = choose(scores, Asked("quantile", 0.05), source="holdout")
    shares = expected_shares(scores, tail, review)
    assert shares.anomaly == 0.0001
    assert shares.anomaly + shares.review == pytest.approx(0.05)
    # A threshold of counted rank above a tail's review threshold: no more than nothing is left for review.
    high = choose(scores, Asked("conformal", 0.01), source="holdout")
    assert expected_shares(scores, high, tail) == Shares(good=0.99, review=0.0, anomaly=0.01)


@settings(deadline=None, derandomize=True)
@given(scores=st.lists(FLOAT32, min_size=1, max_size=40), high=FLOAT32, low=FLOAT32)
def test_expected_shares_sum_to_one(scores: list[float], high: float, low: float) -> None:
    shares = expected_shares(
        scores, Threshold(value=max(high, low), source="given"), Threshold(value=min(high, low), source="given")
    )
    assert min(shares.good, shares.review, shares.anomaly) >= 0
    assert shares.good + shares.review + shares.anomaly == pytest.approx(1, abs=1e-15)
    assert shares.anomaly == p_value(max(high, low), scores)
