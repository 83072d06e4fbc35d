"""Thresholds from the scores of normal images alone, on which the model was not fitted."""

from __future__ import annotations

import math
from dataclasses import dataclass
from decimal import MAX_EMAX, MIN_EMIN, Context, Decimal, localcontext
from fractions import Fraction
from functools import lru_cache
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from uadctl.thresholds.record import Method, Shares, Source, Threshold

#: Digits that the binomial tail is added up in, and those of them that decide: a million terms cost fewer than ten.
_DIGITS: Final = 60
_DECIDING: Final = Decimal("1e-50")

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


class TooFew(ValueError):
    """There are fewer scores than the method needs; the message names the number needed.

    needed: that number.
    """

    def __init__(self, message: str, *, needed: int) -> None:
        super().__init__(message)
        self.needed = needed


def choose(scores: ArrayLike, asked: Asked, *, source: Source) -> Threshold:
    """The threshold that these normal scores give by the method asked for, with what it promises.

    scores: (n,). source: which normal images they are of; "conformal" promises nothing of "leave-one-out" and
        "training" scores, and refuses them.

    Only "conformal" has a guarantee: one sentence with the numbers and the conditions. "evt" has the tail, and draws
    the samples for its goodness of fit with seed 0: the same scores give the same threshold to the bit.

    Raises TooFew; ValueError for such a source, for a delta without "conformal", and as `quantile_threshold`,
    `conformal_threshold` and `evt_threshold`.
    """
    from uadctl.thresholds.tails import evt_threshold  # it builds on this module

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
    from uadctl.thresholds.tails import FEWEST

    _check_delta(asked)
    alpha = _share(asked.alpha)
    if asked.method == "evt":
        return FEWEST
    return math.ceil(1 / alpha - 1) if asked.delta is None else _needed_with_delta(alpha, _probability(asked.delta))


def quantile_threshold(scores: ArrayLike, *, alpha: float) -> float:
    """The lowest threshold that calls at most a share `alpha` of these normal images anomalous.

    With the scores in ascending order and k = ceil(n (1 - alpha)), computed exactly, it is the next float32 above the
    k-th score. Equality counts as anomalous, so the score itself would call the k-th image anomalous too. At most
    floor(n alpha) of the n scores lie at or above the threshold, fewer where the k-th score is tied.

    With n < 1 / alpha, for example 20 images and alpha 0.01, that is the next float32 above the largest score: no
    calibration image is called anomalous, and so few images cannot tell a rate of alpha from a higher one. A
    further normal image then exceeds it about once in n + 1.

    scores: (n,) scores of normal images on which the model was not fitted, n >= 1; higher is more anomalous.
    alpha:  above 0 and below 1, read as the decimal number that is printed for it (0.1 is one tenth).

    Returns the float64 of a float32, the precision of detectors' scores: printed and read back it is the same.
    Raises ValueError if there is no score, if one is not finite or beyond float32, or for another alpha.
    """
    share = _share(alpha)
    values = checked(scores)
    # In floating point, 10 (1 - 0.7) is a little more than 3, and the ceiling would be 4.
    return _just_above(values, math.ceil(values.size * (1 - share)))


def conformal_threshold(scores: ArrayLike, *, alpha: float, delta: float | None = None) -> float:
    """The lowest threshold that new normal images reach with probability at most alpha (split conformal).

    It is the next float32 above the k-th smallest of the n scores: equality counts as anomalous, so the score itself
    would not do. Whatever the distribution of the scores:

    - Without delta k = ceil((n + 1)(1 - alpha)), computed exactly. A new score that is exchangeable with the n is as
      likely to have any rank among the n + 1, so it exceeds the k-th with probability at most 1 - k / (n + 1) <= alpha:
      on average over draws of the calibration images. Of one draw the rate may well be higher.
    - With delta, of n scores drawn independently: the rate of the one threshold at hand is at most alpha with
      probability 1 - delta. Below the k-th smallest lies a share of the distribution that is Beta(k, n - k + 1) for
      continuous scores; it is under 1 - alpha exactly if at least k of n draws are, with probability
      P(Bin(n, 1 - alpha) >= k). k is the smallest for which that is at most delta. A delta above about one half asks
      for less than no delta does.

    Tied scores make both rates lower, never higher.

    scores: (n,) scores of normal images that are in no part of the model; higher is more anomalous.
    alpha, delta: above 0 and below 1, read as the decimal numbers that are printed for them (0.1 is one tenth).

    Returns the float64 of a float32. Raises TooFew with fewer than 1 / alpha - 1 scores, with delta fewer than
    ln delta / ln(1 - alpha); ValueError as `quantile_threshold`, and for another delta.

    Sources: Vovk, Gammerman and Shafer, Algorithmic Learning in a Random World, 2005; Lei et al., Distribution-Free
    Predictive Inference for Regression, 2018 (k); Vovk, Conditional Validity of Inductive Conformal Predictors, 2012,
    and Bates et al., Testing for Outliers with Conformal p-values, 2023 (delta).
    """
    share = _share(alpha)
    probability = None if delta is None else _probability(delta)
    values = checked(scores)
    needed = images_needed(Asked("conformal", alpha, delta))
    if values.size < needed:
        level = f"alpha {alpha}" if delta is None else f"alpha {alpha} and delta {delta}"
        raise TooFew(
            f'method "conformal" needs at least {needed} normal images for {level}, there are {values.size}',
            needed=needed,
        )
    if probability is None:
        k = math.ceil((values.size + 1) * (1 - share))
    else:
        k = values.size - _most_above(values.size, share, probability)
    return _just_above(values, k)


def p_value(score: float, scores: ArrayLike) -> float:
    """The conformal rank of a score among those of n normal images: (1 + #{scores >= score}) / (n + 1).

    The share of normal images that score as high or higher, the image itself counted among them: the chance that a
    normal image looks at least as anomalous, if it is exchangeable with the n. It is never 0: n images cannot tell
    what is rarer than one in n + 1. A score reaches the conformal threshold of the same scores iff this is at most
    alpha, both being float32.

    score: as it is stored. scores: (n,), n >= 1. Raises ValueError if one is not finite.

    Source: Vovk, Gammerman and Shafer, 2005 (as `conformal_threshold`).
    """
    if not math.isfinite(score):
        raise ValueError(f"the score is {score}; expected a finite number")
    return _share_reaching(score, checked(scores))


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
    return _share_reaching(threshold.value, values)


def _cross_validated(threshold: Threshold) -> float | None:
    rate = None if threshold.labelled is None else threshold.labelled.false_alarm_rate
    # None of a few images does not say that none will come.
    return None if rate is None else (1 + rate * threshold.n) / (threshold.n + 1)


def _share_reaching(value: float, values: NDArray[np.float64]) -> float:
    return (1 + int(np.count_nonzero(values >= value))) / (values.size + 1)


def _just_above(values: NDArray[np.float64], k: int) -> float:
    """The next float32 above the k-th smallest value, k from 1."""
    return next_float32_above(float(np.partition(values, k - 1)[k - 1]))


@lru_cache(maxsize=64)  # every unit of a bench asks for the same, each for its images and its pixels
def _most_above(n: int, alpha: Fraction, delta: Fraction) -> int:
    """The largest j with P(Bin(n, alpha) <= j) <= delta: so many of n scores may lie above a threshold that at most a
    share alpha of all do, but for probability delta; -1 where it is true of none.

    P(Bin(n, 1 - alpha) >= k) is the same for k = n - j. A sum of positive terms loses nothing to cancellation: with 60
    digits a million of them are right to more than 50. What agrees with delta in those counts as equal to it, as with
    n = 2, alpha 0.1 and delta 0.81; if it were not, the promise would be off by one part in 10^50.
    """
    with localcontext(_precise(alpha)):
        rare = _decimal(alpha)
        odds = rare / (1 - rare)
        limit = _decimal(delta) * (1 + _DECIDING)
        term = total = (1 - rare) ** n
        j = -1
        while total <= limit:
            j += 1
            term = term * (n - j) * odds / (j + 1)
            total += term
    return j


@lru_cache(maxsize=64)
def _needed_with_delta(alpha: Fraction, delta: Fraction) -> int:
    """The smallest n with (1 - alpha)^n <= delta: from there on even the highest score can be the k-th."""
    with localcontext(_precise(alpha)):
        common, limit = 1 - _decimal(alpha), _decimal(delta)
        n = max(1, int(limit.ln() / common.ln()))
        while common**n > limit * (1 + _DECIDING):
            n += 1
    return n


def _precise(alpha: Fraction) -> Context:
    """Arithmetic in which 1 - alpha has 60 digits beyond alpha's first, and (1 - alpha)^n is no underflow."""
    return Context(prec=_DIGITS + len(str(alpha.denominator)), Emin=MIN_EMIN, Emax=MAX_EMAX)


def _decimal(value: Fraction) -> Decimal:
    return Decimal(value.numerator) / value.denominator


def _share(alpha: float) -> Fraction:
    """The decimal number that is printed for alpha, exactly."""
    if not 0 < alpha < 1:
        raise ValueError(f"alpha is {alpha}; expected a share of normal images above 0 and below 1")
    return Fraction(repr(float(alpha)))


def _probability(delta: float) -> Fraction:
    if not 0 < delta < 1:
        raise ValueError(f"delta is {delta}; expected a probability above 0 and below 1")
    return Fraction(repr(float(delta)))


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
    reach = f"at most {_percent(_share(alpha))} of new normal images reach this threshold"
    if delta is None:
        return (
            f"On average over calibrations like this one {reach}, provided that they are exchangeable with the {n} "
            "normal images it was chosen from (taken in the same way, in no order that matters) and that none of those "
            "is in the model."
        )
    return (
        f"With a probability of at least {_percent(1 - _probability(delta))} {reach}, provided that they and the {n} "
        "normal images it was chosen from are drawn independently of each other in the same way, and that none of "
        "those is in the model."
    )


def _percent(share: Fraction) -> str:
    """1/100 as "1 %": a decimal number with all of its digits."""
    return f"{(_decimal(share) * 100).normalize():f} %"


def checked(scores: ArrayLike) -> NDArray[np.float64]:
    """(n,) float64 finite scores, n >= 1. Raises ValueError that says what is wrong."""
    values = np.asarray(scores)
    if values.ndim != 1:
        raise ValueError(f"scores has shape {values.shape}; expected one number an image, (n,)")
    if not values.size:
        raise ValueError("there is no score; a threshold needs at least one normal image outside the model's training")
    if values.dtype.kind not in "biuf":
        raise ValueError(f"scores is of type {values.dtype}; expected numbers")
    values = values.astype(np.float64)
    unusable = np.flatnonzero(~np.isfinite(values))
    if unusable.size:
        at = int(unusable[0])
        raise ValueError(f"scores[{at}] is {values[at]}; expected finite numbers")
    return values


def next_float32_above(value: float) -> float:
    """The smallest float32 greater than `value`, as a float."""
    with np.errstate(over="ignore"):
        nearest = np.float32(value)
        if float(nearest) <= value:
            nearest = np.nextafter(nearest, np.float32(np.inf))
    if not np.isfinite(nearest):
        raise ValueError(f"the score {value} is beyond float32; no threshold lies above it")
    return float(nearest)
