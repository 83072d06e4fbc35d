"""Thresholds from the scores of normal images alone, on which the model was not fitted."""

from __future__ import annotations

import math
from decimal import MAX_EMAX, MIN_EMIN, Context, Decimal, localcontext
from fractions import Fraction
from functools import lru_cache
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

#: Digits that the binomial tail is added up in, and those of them that decide: a million terms cost fewer than ten.
_DIGITS: Final = 60
_DECIDING: Final = Decimal("1e-50")


class TooFew(ValueError):
    """There are fewer scores than the method needs; the message names the number needed.

    needed: that number.
    """

    def __init__(self, message: str, *, needed: int) -> None:
        super().__init__(message)
        self.needed = needed


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
    share = as_share(alpha)
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
    share = as_share(alpha)
    probability = None if delta is None else as_probability(delta)
    values = checked(scores)
    needed = fewest(share, probability)
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


def fewest(alpha: Fraction, delta: Fraction | None) -> int:
    """How many scores a conformal threshold takes: the smallest n >= 1 / alpha - 1, with delta the smallest
    n >= ln delta / ln(1 - alpha)."""
    return math.ceil(1 / alpha - 1) if delta is None else _needed_with_delta(alpha, delta)


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
    return share_reaching(score, checked(scores))


def share_reaching(value: float, values: NDArray[np.float64]) -> float:
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
        rare = as_decimal(alpha)
        odds = rare / (1 - rare)
        limit = as_decimal(delta) * (1 + _DECIDING)
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
        common, limit = 1 - as_decimal(alpha), as_decimal(delta)
        n = max(1, int(limit.ln() / common.ln()))
        while common**n > limit * (1 + _DECIDING):
            n += 1
    return n


def _precise(alpha: Fraction) -> Context:
    """Arithmetic in which 1 - alpha has 60 digits beyond alpha's first, and (1 - alpha)^n is no underflow."""
    return Context(prec=_DIGITS + len(str(alpha.denominator)), Emin=MIN_EMIN, Emax=MAX_EMAX)


def as_decimal(value: Fraction) -> Decimal:
    return Decimal(value.numerator) / value.denominator


def as_share(alpha: float) -> Fraction:
    """The decimal number that is printed for alpha, exactly."""
    if not 0 < alpha < 1:
        raise ValueError(f"alpha is {alpha}; expected a share of normal images above 0 and below 1")
    return Fraction(repr(float(alpha)))


def as_probability(delta: float) -> Fraction:
    if not 0 < delta < 1:
        raise ValueError(f"delta is {delta}; expected a probability above 0 and below 1")
    return Fraction(repr(float(delta)))


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
