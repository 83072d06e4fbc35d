"""Is one of two runs really better: differences over the same resamples, and rank tests over categories."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from uadctl.metrics.intervals import TAILS

#: Differences of metrics that are closer than this are equal: it is what rounding leaves of equal figures.
ROUNDING = 1e-12

#: Metrics of which less is better; of all others that are compared, more is.
LOWER_IS_BETTER = frozenset({"miss_rate", "false_alarm_rate", "group_miss_rate", "group_false_alarm_rate"})


def paired_interval(before: ArrayLike, after: ArrayLike) -> tuple[float, float] | None:
    """The 95 % percentile interval of after - before, from the values of both in the same resamples of the images.

    Row by row both were measured on the same images, so that what an image makes easy or hard for both cancels out:
    the interval is narrower than the intervals of the two would suggest, and of width 0 for equal runs.

    before, after: (R,), NaN where a resample leaves the metric undefined; a resample counts if it defines both. Where
        those are fewer than half there is no interval: None.

    The ends are the quantiles 0.025 and 0.975, straight between neighbouring values (NumPy's "linear" method).

    Source: Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13.
    """
    differences = np.asarray(after, np.float64) - np.asarray(before, np.float64)
    defined = differences[~np.isnan(differences)]
    if not defined.size or 2 * defined.size < differences.size:
        return None
    low, high = np.quantile(defined, TAILS, method="linear").tolist()
    return low, high


def mean_replicates(of_categories: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
    """The mean of a metric over categories in each resample, as if every category had been resampled by itself.

    of_categories: one (R,) a category, NaN where a resample leaves the metric undefined; at least one. Of two runs that
        are compared in pairs: the same categories in the same order, and as many resamples.

    The draws of every category begin with the same seed, so that two with as many good and as many defect images pick
    the same numbers out of theirs in resample r: what chance does to one it does to the other, and the mean would vary
    as much as each of them, or hardly at all. So category i gives its resample r - i, which is a draw of its own.

    Returns (R,), NaN where any category is undefined. Raises ValueError for other lengths, or none.
    """
    if len({len(one) for one in of_categories}) != 1:
        raise ValueError(f"as many resamples of each category are needed, not {[len(one) for one in of_categories]}")
    return np.asarray(np.mean([np.roll(one, i) for i, one in enumerate(of_categories)], axis=0), np.float64)


def wilcoxon_signed_rank(differences: ArrayLike) -> float:
    """The two-sided p-value of Wilcoxon's signed-rank test that differences lie symmetrically around 0.

    differences: (n,) finite, one a category. Those within `ROUNDING` of 0 are left out, as Wilcoxon did; sizes that
        agree so far share the mean of their ranks. Without any other difference the p-value is 1.

    The distribution of the rank sum is exact for any n, ties included: every one of the 2^n signs is counted, by
    adding one rank after the other to the distribution of twice the sum (mid-ranks are halves). The smallest p-value
    that n differences can have is 2 / 2^n, so fewer than six never reach 0.05.

    Sources: Wilcoxon, Individual Comparisons by Ranking Methods, Biometrics Bulletin 1, 1945; for metrics over data
    sets: Demšar, Statistical Comparisons of Classifiers over Multiple Data Sets, JMLR 7, 2006.
    """
    values = np.asarray(differences, np.float64)
    values = values[np.abs(values) > ROUNDING]
    if not values.size:
        return 1.0
    ranks = _doubled_ranks(np.abs(values))
    positive = int(ranks[values > 0].sum())
    total = int(ranks.sum())
    chances = np.zeros(total + 1)
    chances[0] = 1.0
    for rank in ranks.tolist():
        shifted = np.zeros_like(chances)
        shifted[rank:] = chances[:-rank]
        chances = (chances + shifted) / 2
    tail = min(chances[: positive + 1].sum(), chances[positive:].sum())
    return min(1.0, 2 * float(tail))


def _doubled_ranks(sizes: NDArray[np.float64]) -> NDArray[np.int64]:
    """(n,) twice the rank of each size, from 2 for the smallest; equal ones share the mean of theirs."""
    order = np.argsort(sizes, kind="stable")
    starts = np.flatnonzero(np.diff(sizes[order], prepend=-np.inf) > ROUNDING)
    ends = np.append(starts[1:], sizes.size)
    ranks = np.empty(sizes.size, np.int64)
    ranks[order] = np.repeat(starts + ends + 1, ends - starts)
    return ranks


def holm(p_values: Sequence[float]) -> NDArray[np.float64]:
    """p-values of several tests, each adjusted for the others by Holm's step-down procedure.

    p_values: (m,). Returns (m,) in the same order, at most 1: those below a level are significant at it, with at most
    that chance of a single false one among all m, whatever the tests have to do with each other.

    Source: Holm, A Simple Sequentially Rejective Multiple Test Procedure, Scandinavian Journal of Statistics 6, 1979.
    """
    values = np.asarray(p_values, np.float64)
    order = np.argsort(values, kind="stable")
    adjusted = np.empty(values.size)
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(values[order] * np.arange(values.size, 0, -1)))
    return adjusted
