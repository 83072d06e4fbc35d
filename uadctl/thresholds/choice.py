"""Which threshold is chosen from normal scores, what it promises, and what verdicts to expect of it."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from uadctl.thresholds.normal import (
    as_decimal,
    as_probability,
    as_share,
    checked,
    conformal_threshold,
    fewest,
    quantile_threshold,
    share_reaching,
)
from uadctl.thresholds.record import Method, Shares, Source, Threshold
from uadctl.thresholds.tails import FEWEST, evt_threshold

#: Of scores from here conformal promises nothing, since a new image is not scored in the same way.
_NOT_EXCHANGEABLE: Final[dict[str, str]] = {
    "leave-one-out": "each is of a model without its image, a new image is scored by the model with all of them",
    "training": "the model may have learned these images, and then scores them lower than new ones",
}


@dataclass(frozen=True, slots=True)
class Asked:
    """How a threshold is to be chosen from normal scores.

    alpha: the share of normal images that may lie at or above it, above 0 and below 1. delta: of "conformal" only,
        see `conformal_threshold`.
    """

    method: Method = "quantile"
    alpha: float = 0.01
    delta: float | None = None


def choose(scores: ArrayLike, asked: Asked, *, source: Source) -> Threshold:
    """The threshold that these normal scores give by the method asked for, with what it promises.

    scores: (n,). source: which normal images they are of; "conformal" promises nothing of "leave-one-out" and
        "training" scores, and refuses them.

    Only "conformal" has a guarantee: one sentence with the numbers and the conditions. "evt" has the tail, and draws
    the samples for its goodness of fit with seed 0: the same scores give the same threshold to the bit.

    Raises TooFew; ValueError for such a source, for a delta without "conformal", and as `quantile_threshold`,
    `conformal_threshold` and `evt_threshold`.
    """
    _check_delta(asked)
    n = checked(scores).size
    tail = guarantee = None
    if asked.method == "quantile":
        value = quantile_threshold(scores, alpha=asked.alpha)
    elif asked.method == "conformal":
        _check_exchangeable(source)
        value = conformal_threshold(scores, alpha=asked.alpha, delta=asked.delta)
        guarantee = _promise(asked.alpha, asked.delta, n)
    elif asked.method == "evt":
        value, tail = evt_threshold(scores, alpha=asked.alpha)
    else:
        raise ValueError(f'method is "{asked.method}"; expected "quantile", "conformal" or "evt"')
    return Threshold(
        value=value,
        method=asked.method,
        alpha=asked.alpha,
        delta=asked.delta,
        n=n,
        source=source,
        guarantee=guarantee,
        tail=tail,
    )


def images_needed(asked: Asked) -> int:
    """The fewest normal images for the method: "conformal" and "evt" refuse fewer. Of "quantile" the number from which
    a rate of alpha can be told: below, a further good image exceeds even the highest of n scores more often than that,
    once in n + 1.

    "quantile" and "conformal": the smallest n >= 1 / alpha - 1, with delta the smallest n >= ln delta / ln(1 - alpha).
    Raises ValueError for an alpha or a delta that is no share, and for a delta without "conformal".
    """
    _check_delta(asked)
    alpha = as_share(asked.alpha)
    if asked.method == "evt":
        return FEWEST
    return fewest(alpha, None if asked.delta is None else as_probability(asked.delta))


def expected_shares(scores: ArrayLike, threshold: Threshold, review: Threshold | None = None) -> Shares:
    """What shares of new normal images the verdicts are expected to get, by the scores of n that are like them.

    (1 + #{scores >= t}) / (n + 1) reach a threshold t that "quantile" or "conformal" has put just above the k-th score:
    for continuous scores exactly the expectation, with ties at most so many. Of a threshold of method "evt" it is the
    alpha of its tail, which is not counted but believed. Of "few-shot", where the defects had a say in which score it
    lies above, it is (1 + false alarms) / (n + 1) of its cross-validation. Between the two thresholds lies the
    difference, none where it is negative; good is the rest, so that the three sum to 1.

    scores: (n,), n >= 1. Raises ValueError if the threshold has no value, or is of "few-shot" and was not
    cross-validated; a review threshold without a value is none.
    """
    values = checked(scores)
    if threshold.value is None:
        raise ValueError(f"there is no threshold to expect anything of: {threshold.reason}")
    if threshold.method == "few-shot" and _cross_validated(threshold) is None:
        raise ValueError("the threshold was not cross-validated: there are too few images to expect anything of it")
    anomaly = _reaching(values, threshold)
    either = anomaly if review is None else max(anomaly, _reaching(values, review))
    return Shares(good=1 - either, review=either - anomaly, anomaly=anomaly)


def _reaching(values: NDArray[np.float64], threshold: Threshold) -> float:
    if threshold.value is None:
        return 0.0
    if threshold.method == "evt" and threshold.alpha is not None:
        return threshold.alpha
    if (rate := _cross_validated(threshold)) is not None:
        return rate
    return share_reaching(threshold.value, values)


def _cross_validated(threshold: Threshold) -> float | None:
    rate = None if threshold.labelled is None else threshold.labelled.false_alarm_rate
    # None of a few images does not say that none will come.
    return None if rate is None else (1 + rate * threshold.n) / (threshold.n + 1)


def _check_delta(asked: Asked) -> None:
    if asked.delta is not None and asked.method != "conformal":
        raise ValueError(
            f'delta is {asked.delta}, but has no effect with method "{asked.method}"; only "conformal" has one'
        )


def _check_exchangeable(source: Source) -> None:
    why = _NOT_EXCHANGEABLE.get(source)
    if why is not None:
        raise ValueError(
            f'method "conformal" promises nothing of {source} scores: {why}; '
            "give normal images that are not in the model (validation images, a holdout), or use another method"
        )


def _promise(alpha: float, delta: float | None, n: int) -> str:
    """What a conformal threshold promises, and on what condition, in words that somebody can sign."""
    reach = f"at most {_percent(as_share(alpha))} of new normal images reach this threshold"
    if delta is None:
        return (
            f"On average over calibrations like this one {reach}, provided that they are exchangeable with the {n} "
            "normal images it was chosen from (taken in the same way, in no order that matters) and that none of those "
            "is in the model."
        )
    return (
        f"With a probability of at least {_percent(1 - as_probability(delta))} {reach}, provided that they and the {n} "
        "normal images it was chosen from are drawn independently of each other in the same way, and that none of "
        "those is in the model."
    )


def _percent(share: Fraction) -> str:
    """1/100 as "1 %": a decimal number with all of its digits."""
    return f"{(as_decimal(share) * 100).normalize():f} %"
