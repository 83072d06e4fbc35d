"""Thresholds between normal images and labelled defects: by hand, against every threshold there is, and scikit-learn."""

from __future__ import annotations

import itertools
import math
import re
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import f1_score, roc_curve

from uadctl.metrics import is_anomalous
from uadctl.thresholds import Labelled, describe_threshold, fit_threshold
from uadctl.thresholds.labelled import folds_of

OBJECTIVES = ("f1", "youden", "cost")


def float32_above(value: float) -> float:
    return float(np.nextafter(np.float32(value), np.float32(np.inf)))


def f32(value: float) -> float:
    return float(np.float32(value))


# ---- the middle of the gap


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_separable_sides_are_parted_in_the_middle_of_the_gap(objective: Any) -> None:
    threshold = fit_threshold([0.1, 0.2, 0.3], [0.9, 0.8], objective=objective)
    assert 0.3 < threshold < 0.8
    assert threshold == pytest.approx(0.55, abs=1e-7)
    assert f32(threshold) == threshold
    assert float(repr(threshold)) == threshold


@pytest.mark.parametrize("costs", [(50, 1), (1, 50), (0, 1), (1, 0)])
def test_costs_do_not_move_it(costs: tuple[float, float]) -> None:
    # Where one of them is 0, thresholds in the wide intervals on its side cost nothing either.
    assert fit_threshold([-9, 1], [3, 14], objective="cost", cost_miss=costs[0], cost_false_alarm=costs[1]) == 2


@pytest.mark.parametrize("low", [0.0, 1.0, 0.1, -0.1, -1.0, 1e30, 1e-44])
def test_between_the_closest_scores_that_float32_tells_apart(low: float) -> None:
    low = f32(low)
    middle = float32_above(low)
    high = float32_above(middle)
    # One float32 lies strictly between.
    assert fit_threshold([low], [high]) == middle
    # None does: the higher score itself, which is anomalous.
    assert fit_threshold([low], [middle]) == middle


def test_scores_of_float64_are_parted_where_a_float32_can() -> None:
    # Rounded to float32, 0.1 would lie above itself, and 0.7 below: neither would be on its side of such a threshold.
    for low, high in ((0.1, np.nextafter(f32(0.1), 1)), (np.nextafter(f32(0.7), 0), 0.7), (0.1, 0.1 + 1e-8)):
        threshold = fit_threshold([low], [high])
        assert f32(threshold) == threshold
        assert low < threshold <= high
    # Between 0.1 and the next float64 there is no float32: both are anomalous, which is one error, and F1 2/3.
    close = fit_threshold([0.1], [np.nextafter(0.1, 1)])
    assert close <= 0.1
    assert not describe_threshold([0.1], [np.nextafter(0.1, 1)]).separable


# ---- which decision, where the sides overlap

# (normal, anomaly, settings, threshold), each counted by hand.
BY_HAND = [
    # Between 3 and 4 there is one miss, F1 2/3; between 1 and 2 one false alarm, F1 4/5; between 0 and 1 two, F1 2/3.
    ([0, 1, 3], [2, 4], {}, 1.5),
    # Recall 1 at a false-alarm rate of 1/3, against recall 1/2 at 0.
    ([0, 1, 3], [2, 4], {"objective": "youden"}, 1.5),
    ([0, 1, 3], [2, 4], {"objective": "cost", "cost_miss": 2}, 1.5),
    ([0, 1, 3], [2, 4], {"objective": "cost", "cost_false_alarm": 2}, 3.5),
    # One error in either case: the wider interval, 4 to 9 against 1 to 2.
    ([0, 1, 4], [2, 9], {"objective": "cost"}, 6.5),
    # Equally wide: the lower, which misses nothing.
    ([0, 1, 3], [2, 4], {"objective": "cost"}, 1.5),
    # Nothing tells them apart. F1: all anomalous. Cost 1 and 1: all or nothing, both cost 2; the lower.
    ([5, 6], [1, 2], {}, 1.0),
    ([5, 5], [5, 5], {"objective": "cost"}, 5.0),
    # A false alarm is dearer: nothing anomalous.
    ([5, 5], [5, 5], {"objective": "cost", "cost_false_alarm": 3}, float32_above(5)),
    ([5, 5], [5], {"objective": "cost"}, float32_above(5)),
    # Youden is 0 at both ends and between 2 and 3: what lies between scores is preferred.
    ([2, 3], [2, 3], {"objective": "youden"}, 2.5),
    # False alarms cost nothing: everything up to the lowest defect is equally good; the widest interval there.
    ([0, 5, 6, 9], [7, 8], {"objective": "cost", "cost_false_alarm": 0}, 2.5),
    # Three times 0.1 is 0.3: the same cost, 3 misses or 1 false alarm, and the upper interval is wider.
    ([0, 9], [5, 6, 7, 30], {"objective": "cost", "cost_miss": 0.1, "cost_false_alarm": 0.3}, 19.5),
]


@pytest.mark.parametrize(("normal", "anomaly", "asked", "expected"), BY_HAND)
def test_by_hand(normal: list[float], anomaly: list[float], asked: dict[str, Any], expected: float) -> None:
    assert fit_threshold(normal, anomaly, **asked) == expected


def loss(normal: list[float], anomaly: list[float], asked: dict[str, Any], threshold: float) -> Fraction:
    """What the objective loses at a threshold, counted score by score; less is better."""
    fp, fn = sum(s >= threshold for s in normal), sum(s < threshold for s in anomaly)
    tp = len(anomaly) - fn
    if asked["objective"] == "f1":
        return -Fraction(2 * tp, 2 * tp + fp + fn)
    if asked["objective"] == "youden":
        return Fraction(fp, len(normal)) - Fraction(tp, len(anomaly))
    costs = (Fraction(str(asked[name])) for name in ("cost_miss", "cost_false_alarm"))
    return sum((n * cost for n, cost in zip((fn, fp), costs, strict=True)), Fraction())


def by_brute_force(normal: list[float], anomaly: list[float], asked: dict[str, Any]) -> float:
    """The threshold by trying every decision, for scores that are float32 with room between them."""
    edges = sorted({*normal, *anomaly})
    tried = [(edges[0], -1.0)]
    tried += [(f32((low + high) / 2), high - low) for low, high in itertools.pairwise(edges)]
    tried.append((float32_above(edges[-1]), -1.0))
    if max(normal) < min(anomaly):
        return f32((max(normal) + min(anomaly)) / 2)
    return min(tried, key=lambda t: (loss(normal, anomaly, asked, t[0]), -t[1], t[0]))[0]


WHOLE = st.lists(st.integers(-12, 12).map(float), min_size=1, max_size=15)
FLOATS = st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=15)
COSTS = st.sampled_from([0.1, 0.3, 1, 2, 50])
ASKED = st.one_of(
    st.sampled_from([{"objective": "f1"}, {"objective": "youden"}]),
    st.fixed_dictionaries({"objective": st.just("cost"), "cost_miss": COSTS, "cost_false_alarm": COSTS}),
)


@settings(deadline=None, derandomize=True, max_examples=400)
@given(normal=WHOLE, anomaly=WHOLE, asked=ASKED)
def test_as_by_brute_force(normal: list[float], anomaly: list[float], asked: dict[str, Any]) -> None:
    assert fit_threshold(normal, anomaly, **asked) == by_brute_force(normal, anomaly, asked)


@settings(deadline=None, derandomize=True, max_examples=200)
@given(normal=FLOATS, anomaly=FLOATS, asked=ASKED)
def test_no_threshold_at_all_is_better(normal: list[float], anomaly: list[float], asked: dict[str, Any]) -> None:
    found = fit_threshold(normal, anomaly, **asked)
    assert f32(found) == found
    # Every decision has a threshold among the scores and the next float32 above the highest.
    every = [*normal, *anomaly, float32_above(max(normal + anomaly))]
    assert loss(normal, anomaly, asked, found) == min(loss(normal, anomaly, asked, t) for t in every)


@settings(deadline=None, derandomize=True, max_examples=100)
@given(normal=WHOLE, anomaly=WHOLE, seed=st.integers(0, 9))
def test_order_does_not_matter_and_shifting_shifts(normal: list[float], anomaly: list[float], seed: int) -> None:
    rng = np.random.default_rng(seed)
    found = fit_threshold(normal, anomaly)
    assert fit_threshold(rng.permutation(normal), rng.permutation(anomaly)) == found
    edges = {*normal, *anomaly}
    if min(edges) < found < max(edges):
        assert fit_threshold(np.array(normal) + 64, np.array(anomaly) + 64) == found + 64


def overlapping(seed: int, *, levels: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    normal, anomaly = rng.normal(size=120), rng.normal(1.2, 1.5, size=35)
    return np.round(normal * levels) / levels, np.round(anomaly * levels) / levels


@pytest.mark.parametrize("levels", [4, 1024])
@pytest.mark.parametrize("seed", range(4))
def test_against_scikit_learn(seed: int, levels: int) -> None:
    normal, anomaly = overlapping(seed, levels=levels)
    labels = np.repeat([0, 1], [normal.size, anomaly.size])
    scores = np.concatenate([normal, anomaly])
    best = max(f1_score(labels, scores >= t) for t in np.unique(scores))
    assert f1_score(labels, is_anomalous(scores, fit_threshold(normal, anomaly))) == pytest.approx(best, abs=1e-12)
    false_alarms, recall, _ = roc_curve(labels, scores, drop_intermediate=False)
    youden = fit_threshold(normal, anomaly, objective="youden")
    reached = is_anomalous(anomaly, youden).mean() - is_anomalous(normal, youden).mean()
    assert reached == pytest.approx(np.max(recall - false_alarms), abs=1e-12)


def test_dear_misses_lower_the_threshold() -> None:
    normal, anomaly = overlapping(0, levels=1024)
    thresholds = [fit_threshold(normal, anomaly, objective="cost", cost_miss=cost) for cost in (0.1, 1, 50)]
    assert thresholds == sorted(thresholds, reverse=True)
    assert len(set(thresholds)) == 3


def test_a_million_scores_take_one_sort() -> None:
    rng = np.random.default_rng(0)
    normal, anomaly = rng.normal(size=500_000), rng.normal(1, 1, size=500_000)
    # Two normal distributions of equal spread cross half-way between their means.
    assert fit_threshold(normal, anomaly, objective="youden") == pytest.approx(0.5, abs=0.05)


def test_a_threshold_is_no_minus_zero() -> None:
    assert math.copysign(1, fit_threshold([-0.0], [-0.0])) == 1


# ---- what is refused

REFUSED: list[tuple[Any, Any, dict[str, Any], str]] = [
    ([], [1], {}, "normal is empty; a threshold between two sides needs at least one image of each"),
    ([1], [], {}, "anomaly is empty; a threshold between two sides needs at least one image of each"),
    ([[1]], [1], {}, "normal has shape (1, 1); expected one score an image, (n,)"),
    ([1], 1, {}, "anomaly has shape (); expected one score an image, (n,)"),
    (["1"], [1], {}, "normal is of type <U1; expected numbers"),
    ([1, math.nan], [1], {}, "normal[1] is nan; expected finite numbers within float32"),
    ([1], [math.inf], {}, "anomaly[0] is inf; expected finite numbers within float32"),
    ([1], [2, -1e39], {}, "anomaly[1] is -1e+39; expected finite numbers within float32"),
    ([1], [2], {"objective": "f2"}, 'objective is "f2"; expected one of f1, youden, cost'),
    ([1], [2], {"objective": "cost", "cost_miss": -1}, "cost_miss is -1; expected a finite number, at least 0"),
    (
        [1],
        [2],
        {"objective": "cost", "cost_false_alarm": math.nan},
        "cost_false_alarm is nan; expected a finite number, at least 0",
    ),
    (
        [1],
        [2],
        {"objective": "cost", "cost_miss": 0, "cost_false_alarm": 0},
        "cost_miss and cost_false_alarm are both 0; every threshold would be as good as any other",
    ),
    ([1], [2], {"cost_miss": 50}, 'cost_miss is 50, but objective is "f1"; costs belong to objective "cost"'),
    (
        [1],
        [2],
        {"objective": "youden", "cost_false_alarm": 0.5},
        'cost_false_alarm is 0.5, but objective is "youden"; costs belong to objective "cost"',
    ),
]


@pytest.mark.parametrize("verb", [fit_threshold, describe_threshold])
@pytest.mark.parametrize(("normal", "anomaly", "asked", "message"), REFUSED)
def test_what_is_refused(verb: Any, normal: Any, anomaly: Any, asked: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        verb(normal, anomaly, **asked)


def test_above_the_largest_float32_there_is_no_threshold() -> None:
    largest = float(np.finfo(np.float32).max)
    assert fit_threshold([0], [largest]) == f32(largest / 2)
    with pytest.raises(ValueError, match=r"^the score 3\.4028234663852886e\+38 is beyond float32; no threshold lies"):
        fit_threshold([largest, largest], [largest], objective="cost")


# ---- what it rests on


def test_folds_are_dealt_evenly() -> None:
    strata = np.array([0] * 13 + [1] * 7)
    fold = folds_of(strata, 5, seed=0)
    assert np.bincount(fold).tolist() == [4] * 5
    assert sorted(np.bincount(fold[:13]).tolist()) == [2, 2, 3, 3, 3]
    assert sorted(np.bincount(fold[13:]).tolist()) == [1, 1, 1, 2, 2]
    np.testing.assert_array_equal(fold, folds_of(strata, 5, seed=0))
    assert (fold != folds_of(strata, 5, seed=1)).any()


def test_separable_sides_far_apart_have_no_errors() -> None:
    found = describe_threshold([0.1, 0.2, 0.3, 0.2, 0.1], np.linspace(0.8, 0.9, 9), objective="youden")
    assert found == Labelled(
        objective="youden", defects=9, separable=True, folds=5, miss_rate=0.0, false_alarm_rate=0.0
    )


def test_costs_stand_in_the_record_of_the_objective_cost_alone() -> None:
    found = describe_threshold([1, 2], [3, 4, 5], objective="cost", cost_miss=50)
    assert (found.cost_miss, found.cost_false_alarm, found.folds, found.defects) == (50.0, 1.0, 2, 3)
    found = describe_threshold([1, 2], [3, 4])
    assert (found.cost_miss, found.cost_false_alarm) == (None, None)


@pytest.mark.parametrize(("normal", "anomaly"), [([1, 2, 3], [9]), ([1], [7, 8, 9])])
def test_one_image_of_a_side_is_too_few_for_folds(normal: list[float], anomaly: list[float]) -> None:
    found = describe_threshold(normal, anomaly)
    assert (found.separable, found.folds, found.miss_rate, found.false_alarm_rate) == (True, 0, None, None)


def test_an_image_at_the_threshold_of_the_other_folds_is_anomalous() -> None:
    # 5 is the middle of 0 and 10.
    assert describe_threshold([0, 5], [10, 10]).false_alarm_rate == 0.5
    assert describe_threshold([0, 0], [5, 10]).miss_rate == 0.0


def test_the_rates_are_counted_on_images_outside_the_choice() -> None:
    # Two folds. 10 is missed by the threshold from 100 and either normal image, 50 or 52; the one from 10, 5 or 7, lets
    # both normal images pass.
    found = describe_threshold([0, 4], [10, 100])
    assert (found.separable, found.folds) == (True, 2)
    assert (found.miss_rate, found.false_alarm_rate) == (0.5, 0.0)
    # 30 is above 25, the middle of 0 and 50; 0 is not above 40.
    found = describe_threshold([0, 30], [50, 50])
    assert (found.miss_rate, found.false_alarm_rate) == (0.0, 0.5)


@pytest.mark.parametrize("asked", [{}, {"objective": "youden"}, {"objective": "cost", "cost_miss": 5}])
@pytest.mark.parametrize("seed", range(3))
def test_cross_validation_by_hand(seed: int, asked: dict[str, Any]) -> None:
    normal, anomaly = overlapping(seed, levels=1024)
    normal, anomaly = normal[:30], anomaly[:13]
    fold = folds_of(np.repeat([0, 1], [30, 13]), 5, seed=seed)
    false_alarms = misses = 0
    for k in range(5):
        threshold = fit_threshold(normal[fold[:30] != k], anomaly[fold[30:] != k], **asked)
        false_alarms += sum(s >= threshold for s in normal[fold[:30] == k])
        misses += sum(s < threshold for s in anomaly[fold[30:] == k])
    found = describe_threshold(normal, anomaly, **asked, seed=seed)
    assert (found.miss_rate, found.false_alarm_rate) == (misses / 13, false_alarms / 30)
    assert (found.folds, found.separable, found.data) == (5, False, None)


def test_cross_validated_rates_are_near_those_of_new_images_where_those_of_the_choice_are_too_good() -> None:
    rng = np.random.default_rng(0)
    own, held_out, new = [], [], []
    for seed in range(300):
        normal, anomaly = rng.normal(size=10), rng.normal(1, 1, size=10)
        threshold = fit_threshold(normal, anomaly, objective="youden")
        found = describe_threshold(normal, anomaly, objective="youden", seed=seed)
        assert found.miss_rate is not None
        assert found.false_alarm_rate is not None
        own.append(np.mean(anomaly < threshold) + np.mean(normal >= threshold))
        held_out.append(found.miss_rate + found.false_alarm_rate)
        new.append(np.mean(rng.normal(1, 1, 2000) < threshold) + np.mean(rng.normal(size=2000) >= threshold))
    # Both errors in sum: about 0.41 on the images of the choice, 0.69 on new ones.
    error = 3 * np.std(held_out) / math.sqrt(300)
    assert np.mean(own) < np.mean(new) - 0.2
    assert abs(np.mean(held_out) - np.mean(new)) < error + 0.03
