"""Thresholds beyond the scores at hand: peaks over a start follow a generalised Pareto distribution.

Sources: Coles, An Introduction to Statistical Modeling of Extreme Values, 2001, chapter 4 (the model, and the level
that a share alpha exceeds); Siffer et al., Anomaly Detection in Streams with Extreme Value Theory, 2017 (thresholds of
anomaly scores); Grimshaw, Computing Maximum Likelihood Estimates for the Generalized Pareto Distribution, 1993 (one
unknown instead of two); Smith, Maximum likelihood estimation in a class of nonregular cases, 1985 (shapes below -1/2);
Choulakian and Stephens, Goodness-of-Fit Tests for the Generalized Pareto Distribution, 2001 (Anderson-Darling).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from uadctl.thresholds.normal import TooFew, as_share, checked, next_float32_above
from uadctl.thresholds.record import Tail

#: Scores in a tail at least; two parameters from fewer say little. Of more scores the tail is a tenth.
_LEAST: Final = 30

#: Scores in all at least: a tail is at most half of them.
FEWEST: Final = 2 * _LEAST

#: Shapes that are fitted. Below, the likelihood has no regular maximum, below -1 none at all (Smith 1985). Above, the
#: scores span so many orders of magnitude that no level beyond them means anything.
_SHAPES: Final = (-0.5, 10.0)

#: Samples that the goodness of fit is held against, and scores in each at most: the distribution of A² hardly changes
#: beyond 25 scores (Choulakian and Stephens 2001), and 500 of them are drawn in a fraction of a second.
_SAMPLES: Final = 499
_SAMPLE_SIZE: Final = 500

_GRID: Final = 48
_STEPS: Final = 45  # of a golden section: two steps of the grid shrink to 4e-10 of them
_GOLDEN: Final = (math.sqrt(5) - 1) / 2


def fit_tail(scores: ArrayLike, *, seed: int = 0) -> Tail:
    """The tail of these normal scores, and how well it fits.

    The tail begins below the largest max(30, n / 10) scores, at the next lower one; scores tied with the lowest of the
    tail belong to it. Shape and scale are those of maximum likelihood, with the shape at least -1/2.

    scores: (n,) of normal images, n >= 60. seed: of the samples that the goodness of fit is held against.

    The fit is judged by Anderson-Darling's A², which weighs the far end, against 499 samples drawn from the fitted tail
    and fitted anew, of as many scores (500 at most): with b of them no better, p_value = (1 + b) / 500.

    Raises TooFew; ValueError if ties leave more than half of the scores in the tail or no score below it, if the scores
    lie orders of magnitude apart, or if they are none of `quantile_threshold`.
    """
    values = checked(scores)
    if values.size < FEWEST:
        raise TooFew(f'method "evt" needs at least {FEWEST} normal images, there are {values.size}', needed=FEWEST)
    start, excesses = _peaks(values)
    shapes, scales = _fit(excesses[None])
    shape, scale = float(shapes[0]), float(scales[0])
    if shape > _SHAPES[1]:
        raise ValueError(
            f"the scores of the tail lie orders of magnitude apart (shape {shape:.3g}); no level beyond them can be "
            'told: use method "quantile" or "conformal"'
        )
    statistic = _anderson_darling(excesses[None], shapes, scales)
    drawn = _draw(shape, (_SAMPLES, min(excesses.size, _SAMPLE_SIZE)), np.random.default_rng(seed))
    worse = int(np.count_nonzero(_anderson_darling(drawn, *_fit(drawn)) >= statistic))
    return Tail(
        start=start,
        n=excesses.size,
        shape=shape,
        scale=scale,
        statistic=float(statistic[0]),
        p_value=(1 + worse) / (1 + _SAMPLES),
    )


def evt_threshold(scores: ArrayLike, *, alpha: float, seed: int = 0) -> tuple[float, Tail]:
    """The threshold that a share alpha of normal images is expected to reach, by the fitted tail; and the tail.

    With m of n scores in the tail, it is where the tail leaves alpha n / m above: start + scale ((alpha n / m)^-shape -
    1) / shape, with shape 0 start - scale ln(alpha n / m). It may lie beyond all scores, which "quantile" and
    "conformal" cannot; for that nothing is promised, and the model is to be doubted where p_value is below 0.05.

    scores, seed: as `fit_tail`. alpha: above 0 and below m / n.

    Returns the float64 of the next float32 above. Raises ValueError for another alpha, TooFew and ValueError as
    `fit_tail`.
    """
    share = as_share(alpha)
    values = checked(scores)
    tail = fit_tail(values, seed=seed)
    left = share * values.size / tail.n
    if left >= 1:
        raise ValueError(
            f'alpha is {alpha}, but the tail holds {tail.n} of {values.size} scores; method "evt" needs an alpha below '
            f'{tail.n / values.size:.3g}: use method "quantile" or "conformal"'
        )
    return next_float32_above(_level(tail, float(left))), tail


def _level(tail: Tail, left: float) -> float:
    """What a share `left` of the scores above the start exceeds."""
    depth = -math.log(left)
    return tail.start + tail.scale * (math.expm1(tail.shape * depth) / tail.shape if tail.shape else depth)


def _peaks(values: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
    """Where the tail begins, and by how much its scores lie above, ascending, all above 0."""
    ordered = np.sort(values)
    lowest = ordered[-max(_LEAST, values.size // 10)]
    below = int(np.searchsorted(ordered, lowest))  # how many are lower; ties with it are in the tail
    tail = ordered[below:]
    if 2 * tail.size > values.size:
        raise ValueError(
            f"{tail.size} of {values.size} scores are {lowest} or higher, too many of them equal for a tail: "
            'use method "quantile" or "conformal"'
        )
    start = float(ordered[below - 1])
    return start, tail - start


def _fit(excesses: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Shape and scale of each row, (R,) and (R,), by maximum likelihood with a shape of at least -1/2.

    Of the two unknowns one is left (Grimshaw 1993): given theta = shape / scale, the best shape is the mean of
    ln(1 + theta x), or -1/2 where that is lower. theta lies above -1 / max x, and below 2 (mean x - min x) / (min x)².
    Searched is u = ln(1 + theta max x), which is 0 for an exponential tail: on a grid, since there may be more than one
    peak, and from its best point on by golden section.

    excesses: (R, m) above 0.
    """
    highest = excesses.max(axis=1)
    parts = excesses / highest[:, None]
    with np.errstate(divide="ignore"):  # all equal: the bound is 0
        bound = np.log(2 * (parts.mean(axis=1) - parts.min(axis=1))) - 2 * np.log(parts.min(axis=1))
    low = np.full(len(parts), -math.log(parts.shape[1]) - 5)  # below, the largest score alone counts against theta
    high = np.minimum(np.logaddexp(0, bound), 600) + 1
    u = _highest(lambda u: _profile(parts, u), low, high)
    _, shapes, scales = _best(parts, u)
    return shapes, scales * highest


def _profile(parts: NDArray[np.float64], u: NDArray[np.float64]) -> NDArray[np.float64]:
    """The log-likelihood of each row with the best shape for its u, over m."""
    mean_log, shapes, scales = _best(parts, u)
    # -ln scale - (1 + 1 / shape) mean ln(1 + theta x): the latter is 1 + shape, or with shape -1/2 minus the mean.
    return -np.log(scales) - np.where(mean_log < shapes, -mean_log, 1 + mean_log)


def _best(
    parts: NDArray[np.float64], u: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """The mean of ln(1 + theta x) of each row, and the best shape and scale, in the unit of `parts`."""
    theta = np.expm1(u)
    mean_log = np.log1p(theta[:, None] * parts).mean(axis=1)
    shapes = np.maximum(mean_log, _SHAPES[0])
    flat = theta == 0
    return mean_log, shapes, np.where(flat, parts.mean(axis=1), shapes / np.where(flat, 1, theta))


def _highest(
    height: Callable[[NDArray[np.float64]], NDArray[np.float64]], low: NDArray[np.float64], high: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Where each row's function is highest between low and high, all (R,)."""
    grid = np.linspace(low, high, _GRID)
    best = np.argmax([height(u) for u in grid], axis=0)
    rows = np.arange(low.size)
    low, high = grid[np.maximum(best - 1, 0), rows], grid[np.minimum(best + 1, _GRID - 1), rows]
    left, right = high - _GOLDEN * (high - low), low + _GOLDEN * (high - low)
    at_left, at_right = height(left), height(right)
    for _ in range(_STEPS):
        down = at_left > at_right  # the peak is left of `right`
        low, high = np.where(down, low, left), np.where(down, right, high)
        new = np.where(down, high - _GOLDEN * (high - low), low + _GOLDEN * (high - low))
        at_new = height(new)
        left, right = np.where(down, new, right), np.where(down, left, new)
        at_left, at_right = np.where(down, at_new, at_right), np.where(down, at_left, at_new)
    return (low + high) / 2


def _anderson_darling(
    excesses: NDArray[np.float64], shapes: NDArray[np.float64], scales: NDArray[np.float64]
) -> NDArray[np.float64]:
    """A² of each row: -m - sum((2 i - 1) (ln F(x_i) + ln(1 - F(x_(m + 1 - i))))) / m, with x ascending."""
    ordered = np.sort(excesses, axis=1)
    flat = (shapes == 0)[:, None]
    shape, scale = shapes[:, None], scales[:, None]
    survival = np.where(flat, -ordered / scale, -np.log1p(shape * ordered / scale) / np.where(flat, 1, shape))
    m = ordered.shape[1]
    both = np.log(-np.expm1(survival)) + survival[:, ::-1]
    return np.asarray(-m - (both * (2 * np.arange(1, m + 1) - 1)).sum(axis=1) / m)


def _draw(shape: float, size: tuple[int, int], rng: np.random.Generator) -> NDArray[np.float64]:
    """Independent excesses of scale 1."""
    depth = rng.standard_exponential(size)
    return np.expm1(shape * depth) / shape if shape else depth
