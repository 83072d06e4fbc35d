"""What a threshold is when it is handed on and written: a number, how it was chosen, and from what."""

from __future__ import annotations

import math
from typing import Literal

import msgspec

Method = Literal["quantile", "conformal", "evt"]
"""How a threshold is chosen from the scores of normal images alone."""

Objective = Literal["f1", "youden", "cost"]
"""What a threshold between normal images and labelled defects makes best."""

Source = Literal["validation", "leave-one-out", "holdout", "training", "given"]


class Tail(msgspec.Struct, frozen=True, kw_only=True):
    """A generalised Pareto distribution of the scores above a start, and how well it fits them.

    start:     the score above which the tail begins, below all of its scores. n: how many scores lie above it.
    shape, scale: xi and sigma of P(score - start > x) = (1 + xi x / sigma)^(-1 / xi); for xi = 0 exp(-x / sigma).
    statistic: Anderson-Darling's A^2 of the scores above the start.
    p_value:   the share of samples drawn from the fitted tail, and fitted anew, that fit no better, the scores
               themselves counted among them: below 0.05 they are hardly of such a tail, and the threshold is not to be
               trusted.
    """

    start: float
    n: int
    shape: float
    scale: float
    statistic: float
    p_value: float


_DOUBTED = 0.05


def doubt_of_tail(tail: Tail | None) -> str | None:
    """That the scores are hardly of such a tail; None where nothing speaks against it."""
    if tail is None or tail.p_value >= _DOUBTED:
        return None
    return (
        f"the {tail.n} highest scores are hardly of a generalised Pareto distribution (Anderson-Darling, p = "
        f"{tail.p_value:.3f}): the threshold may be far off"
    )


class Labelled(msgspec.Struct, frozen=True, kw_only=True):
    """What a threshold that was chosen with labelled defects rests on.

    objective:  what it makes best. cost_miss, cost_false_alarm: of one image each; None for other objectives.
    defects:    how many labelled defect images. separable: every one scores above every normal image, and the threshold
        is the middle of the gap.
    folds:      of the cross-validation, 0 where there are too few images for one.
    miss_rate, false_alarm_rate: of images in whose fold the threshold was not chosen; None without folds.
    data:       SHA-256 over the bytes of the labelled images and their masks.
    """

    objective: Objective
    cost_miss: float | None = None
    cost_false_alarm: float | None = None
    defects: int
    separable: bool
    folds: int
    miss_rate: float | None = None
    false_alarm_rate: float | None = None
    data: str | None = None


class Threshold(msgspec.Struct, frozen=True, kw_only=True):
    """A threshold and where it comes from, as it stands in thresholds.json.

    value:  anomalous iff score >= value; None where none could be chosen.
    method: "quantile", "conformal" or "evt", of normal scores alone; "few-shot": with labelled defects.
    alpha:  the share of normal images that may lie at or above it; None for few-shot.
    delta:  of the stricter conformal threshold: how probable it may be that their share is larger than alpha.
    n:      how many scores of normal images it was chosen from.
    source: which normal images: the data set's own "validation" images; training images, each scored without itself
            ("leave-one-out"); training images that the model never saw ("holdout"); "training" images, of which nobody
            here knows whether a checkpoint has learned them; or images "given" later, to `uadctl.calibrate`. None only
            without a value.
    reason: why there is no value; None if there is one.
    guarantee: what is promised of new normal images, and on what condition; None where nothing is.
    tail:   of an evt threshold. labelled: of a few-shot threshold.

    Raises ValueError if value is not finite, or if not exactly one of value and reason is given, or a value has no
    source.
    """

    value: float | None
    method: Literal["quantile", "conformal", "evt", "few-shot"] = "quantile"
    alpha: float | None = None
    delta: float | None = None
    n: int = 0
    source: Source | None = None
    reason: str | None = None
    guarantee: str | None = None
    tail: Tail | None = None
    labelled: Labelled | None = None

    def __post_init__(self) -> None:
        if self.value is None:
            if not self.reason:
                raise ValueError("a threshold without a value needs a reason")
            return
        if not math.isfinite(self.value):
            raise ValueError(f"the threshold is {self.value}; expected a finite number")
        if self.reason is not None:
            raise ValueError(f"the threshold is {self.value}, and a reason says why there is none: give one of the two")
        if self.source is None:
            raise ValueError(f"the threshold is {self.value}, but its source is not given")


Verdict = Literal["good", "review", "anomaly"]


def verdict(score: float, threshold: float | None, review: float | None = None) -> Verdict | None:
    """The one rule: anomalous iff score >= threshold; else to be reviewed iff score >= review. None without a
    threshold."""
    if threshold is None:
        return None
    if score >= threshold:
        return "anomaly"
    return "good" if review is None or score < review else "review"


class Shares(msgspec.Struct, frozen=True, kw_only=True):
    """What shares of images each verdict is expected to get; their sum is 1. review: 0 without a review threshold."""

    good: float
    review: float
    anomaly: float


class Expected(msgspec.Struct, frozen=True, kw_only=True):
    """The expected shares of new normal images, and of defects like those that were labelled; None without any."""

    normal: Shares
    defect: Shares | None = None
