"""Thresholds between normal images and labelled defects."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from uadctl.metrics import is_anomalous
from uadctl.thresholds.normal import next_float32_above
from uadctl.thresholds.record import Labelled, Objective

MOST_FOLDS = 5


def fit_threshold(
    normal: ArrayLike,
    anomaly: ArrayLike,
    *,
    objective: Objective = "f1",
    cost_miss: float = 1.0,
    cost_false_alarm: float = 1.0,
) -> float:
    """The threshold between normal and anomalous scores that makes the objective best on them.

    Anomalous iff score >= threshold. All thresholds between two neighbouring scores decide alike, so there is one
    candidate for each decision: the middle between the two. Where every anomalous score is above every normal one, it
    is the middle of that gap, whatever the objective. Otherwise, of the decisions that make the objective best, it is
    the middle of the widest interval, so that a new image may score a little differently than those given; of equally
    wide ones that with the lowest scores, which misses fewer defects. The two decisions that tell nothing apart come
    last: all anomalous (the lowest score itself), then none (the next float32 above the highest).

    normal:    (n,) scores of normal images on which the model was not fitted, n >= 1; higher is more anomalous.
    anomaly:   (m,) scores of labelled defect images, m >= 1. None of either is an image that is reported on later.
    objective: "f1": the harmonic mean of precision and recall, which depends on how many of the images are defects.
        "youden": recall less false-alarm rate, which does not. "cost": misses times cost_miss and false alarms times
        cost_false_alarm, least in sum; counts of the images given, so their shares matter as with f1.
    cost_miss, cost_false_alarm: of one image each, at least 0 and not both 0, read as the decimal numbers that are
        printed for them. Only of "cost".

    Returns the float64 of a float32, the precision of detectors' scores: printed and read back it is the same. Scores
    between which there is no float32 are not told apart; between two neighbouring float32 it is the higher one.

    Raises ValueError if there is no score on a side, if one is not finite or beyond float32, for another objective, and
    for costs that cannot be, or with another objective.

    Source: Youden, Index for rating diagnostic tests, Cancer 3, 1950.
    """
    costs = _checked_costs(objective, cost_miss, cost_false_alarm)
    return _fitted(_floats(normal, "normal"), _floats(anomaly, "anomaly"), objective, costs)


def describe_threshold(
    normal: ArrayLike,
    anomaly: ArrayLike,
    *,
    objective: Objective = "f1",
    cost_miss: float = 1.0,
    cost_false_alarm: float = 1.0,
    seed: int = 0,
) -> Labelled:
    """What the threshold of `fit_threshold` rests on, with its error rates by cross-validation.

    On the images that a threshold was chosen from it errs less than on others. So the images of each side are dealt
    into folds at random, a threshold is chosen from all folds but one, and counted is what it gets wrong in that one.
    The rates are all such errors over all images of the side. They are of thresholds from fewer images than the one
    handed on, and as coarse as the images are few.

    Arguments and errors as `fit_threshold`. seed: of the folds; they depend on the order of the scores as well.

    Returns the record without `data`. There are five folds, or as many as the smaller side has images; where it has
    only one, none, and no rates.
    """
    costs = _checked_costs(objective, cost_miss, cost_false_alarm)
    sides = _floats(normal, "normal"), _floats(anomaly, "anomaly")
    fewest = min(side.size for side in sides)
    folds = min(MOST_FOLDS, fewest) if fewest > 1 else 0
    false_alarms, misses = _held_out_errors(*sides, objective, costs, folds=folds, seed=seed)
    of_cost = objective == "cost"
    return Labelled(
        objective=objective,
        cost_miss=float(cost_miss) if of_cost else None,
        cost_false_alarm=float(cost_false_alarm) if of_cost else None,
        defects=sides[1].size,
        separable=bool(sides[0].max() < sides[1].min()),
        folds=folds,
        miss_rate=misses / sides[1].size if folds else None,
        false_alarm_rate=false_alarms / sides[0].size if folds else None,
    )


def folds_of(strata: ArrayLike, folds: int, *, seed: int) -> NDArray[np.int64]:
    """Which fold each of n images is in, as equally many of each kind as can be.

    The images are dealt like cards, one kind after the other, each in random order: the sizes of folds, and their
    numbers of one kind, differ by one at most.

    strata: (n,) a label each. folds: at least 1.

    Returns (n,) int64, numbered from 0.
    """
    labels = np.asarray(strata)
    shuffled = np.random.default_rng(seed).permutation(labels.size)
    dealt = shuffled[np.argsort(labels[shuffled], kind="stable")]
    fold = np.empty(labels.size, dtype=np.int64)
    fold[dealt] = np.arange(labels.size) % folds
    return fold


def _held_out_errors(
    normal: NDArray[np.float32],
    anomaly: NDArray[np.float32],
    objective: Objective,
    costs: tuple[int, int],
    *,
    folds: int,
    seed: int,
) -> tuple[int, int]:
    """How many normal and anomalous scores are on the wrong side of thresholds that were chosen without them."""
    if not folds:
        return 0, 0
    fold = folds_of(np.repeat([0, 1], [normal.size, anomaly.size]), folds, seed=seed)
    normal_fold, anomaly_fold = fold[: normal.size], fold[normal.size :]
    false_alarms, misses = 0, 0
    for held_out in range(folds):
        threshold = _fitted(normal[normal_fold != held_out], anomaly[anomaly_fold != held_out], objective, costs)
        false_alarms += int(np.sum(is_anomalous(normal[normal_fold == held_out], threshold)))
        misses += int(np.sum(~is_anomalous(anomaly[anomaly_fold == held_out], threshold)))
    return false_alarms, misses


def _fitted(
    normal: NDArray[np.float32], anomaly: NDArray[np.float32], objective: Objective, costs: tuple[int, int]
) -> float:
    edges = np.unique(np.concatenate([normal, anomaly]))
    # Decision i calls anomalous what scores edges[i] or more; after the last edge there is one more, nothing.
    misses = np.append(np.searchsorted(np.sort(anomaly), edges), anomaly.size)
    false_alarms = normal.size - np.append(np.searchsorted(np.sort(normal), edges), normal.size)
    best = np.flatnonzero((misses == 0) & (false_alarms == 0))
    if not best.size:
        loss = _loss(objective, misses, false_alarms, costs, n_normal=normal.size, n_anomaly=anomaly.size)
        best = np.flatnonzero(loss == loss.min())
    width = np.concatenate([[-1.0], np.diff(edges.astype(np.float64)), [-1.0]])
    return _middle(edges, int(best[np.argmax(width[best])]))


def _loss(
    objective: Objective,
    misses: NDArray[np.int64],
    false_alarms: NDArray[np.int64],
    costs: tuple[int, int],
    *,
    n_normal: int,
    n_anomaly: int,
) -> NDArray[Any]:
    """For each decision a number that is less the better it is, and equal for equally good ones: no sum is rounded."""
    if objective == "f1":
        wrong = misses + false_alarms
        return np.asarray(wrong / (2 * (n_anomaly - misses) + wrong))  # 1 - F1
    # Recall less false-alarm rate, times n_normal n_anomaly: each side's errors weigh what the other side's number is.
    of_miss, of_false_alarm = (n_normal, n_anomaly) if objective == "youden" else costs
    return np.asarray(misses.astype(object) * of_miss + false_alarms.astype(object) * of_false_alarm)


def _middle(edges: NDArray[np.float32], decision: int) -> float:
    """The float32 in the middle between the scores on both sides of a decision, above the lower in any case."""
    if decision == 0:
        return float(edges[0])
    above = next_float32_above(float(edges[decision - 1]))
    if decision == edges.size:
        return above
    return max(above, float(np.float32((float(edges[decision - 1]) + float(edges[decision])) / 2)))


def _floats(scores: ArrayLike, name: str) -> NDArray[np.float32]:
    """(n,) for each score the largest float32 not above it, which is on the same side of every float32 threshold."""
    values = np.asarray(scores)
    if values.ndim != 1:
        raise ValueError(f"{name} has shape {values.shape}; expected one score an image, (n,)")
    if not values.size:
        raise ValueError(f"{name} is empty; a threshold between two sides needs at least one image of each")
    if values.dtype.kind not in "biuf":
        raise ValueError(f"{name} is of type {values.dtype}; expected numbers")
    values = values.astype(np.float64)
    unusable = np.flatnonzero(~(np.abs(values) <= np.finfo(np.float32).max))
    if unusable.size:
        at = int(unusable[0])
        raise ValueError(f"{name}[{at}] is {values[at]}; expected finite numbers within float32")
    nearest = values.astype(np.float32)
    below = np.where(nearest > values, np.nextafter(nearest, np.float32(-np.inf)), nearest)
    return np.asarray(below + np.float32(0))  # a zero loses its sign


def _checked_costs(objective: str, cost_miss: float, cost_false_alarm: float) -> tuple[int, int]:
    """Whole numbers in the ratio of the two costs; ValueError for an unknown objective, or costs that do not fit it."""
    objectives = get_args(Objective)
    if objective not in objectives:
        raise ValueError(f'objective is "{objective}"; expected one of {", ".join(objectives)}')
    costs = {"cost_miss": cost_miss, "cost_false_alarm": cost_false_alarm}
    for name, cost in costs.items():
        if not (math.isfinite(cost) and cost >= 0):
            raise ValueError(f"{name} is {cost}; expected a finite number, at least 0")
        if objective != "cost" and cost != 1:
            raise ValueError(f'{name} is {cost}, but objective is "{objective}"; costs belong to objective "cost"')
    if not any(costs.values()):
        raise ValueError("cost_miss and cost_false_alarm are both 0; every threshold would be as good as any other")
    # 0.1 + 0.2 is not 0.3 in floating point, and equally dear decisions would not be equal.
    miss, false_alarm = (Fraction(repr(float(cost))) for cost in costs.values())
    scale = math.lcm(miss.denominator, false_alarm.denominator)
    return int(miss * scale), int(false_alarm * scale)
