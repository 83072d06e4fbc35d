"""How far a metric might have come out otherwise, had other images of the same kinds been tested: 95 % intervals."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from uadctl.metrics.image import is_anomalous
from uadctl.metrics.resampling import bootstrap_weights

#: How much of the resamples an interval leaves out, below and above it.
TAILS = (0.025, 0.975)

#: Numbers in a matrix of weights that is drawn at a time: 8 MB; what is made of them takes some tens.
_CELLS = 2**20


def draw_weights(strata: Sequence[str], resamples: int, *, seed: int) -> Iterator[NDArray[np.int64]]:
    """`bootstrap_weights` of many resamples in blocks of bounded size.

    strata: one name a unit (an image, or a part with all its views); of each as many are drawn as there are.
    seed:   0 or more. Each resample is drawn from this and its own number, so that blocks of any size give the same.

    Yields (r, n) int64 matrices, `resamples` rows in all; nothing where there are no units.
    """
    if not strata:
        return
    _, numbers = np.unique(np.asarray(strata), return_inverse=True)
    step = max(1, _CELLS // len(strata))
    for start in range(0, resamples, step):
        yield np.concatenate(
            [
                bootstrap_weights(len(strata), 1, seed=np.random.default_rng([seed, row]), strata=numbers)
                for row in range(start, min(start + step, resamples))
            ]
        )


def percentile_interval(values: NDArray[np.float64]) -> tuple[float, float] | None:
    """The 95 % percentile interval of a metric between 0 and 1 from its value in each resample.

    values: (R,), NaN where a resample leaves the metric undefined; those are dropped, and where they are more than
            half there is no interval: None.

    The ends are the quantiles 0.025 and 0.975, straight between neighbouring values (NumPy's "linear" method).

    Source: Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13.
    """
    defined = values[~np.isnan(values)]
    if not defined.size or 2 * defined.size < values.size:
        return None
    low, high = np.clip(np.quantile(defined, TAILS, method="linear"), 0, 1).tolist()  # rounding may pass by an ulp
    return low, high


def resample_threshold_rates(
    defect: NDArray[np.bool_], scores: NDArray[np.float64], threshold: float, weights: NDArray[np.int64]
) -> dict[str, NDArray[np.float64]]:
    """miss_rate, false_alarm_rate and precision of every resample, as `threshold_counts` gives them of one.

    defect: (n,) whether each image has a defect. scores: (n,). weights: (R, n) how often each is in each resample.

    Returns name -> (R,); NaN where a resample has no image that the rate is a share of.
    """
    called = is_anomalous(scores, threshold)
    tp, fp = _sums(weights, called & defect), _sums(weights, called & ~defect)
    fn, tn = _sums(weights, ~called & defect), _sums(weights, ~called & ~defect)
    return {"miss_rate": _share(fn, tp + fn), "false_alarm_rate": _share(fp, fp + tn), "precision": _share(tp, tp + fp)}


def resample_f1(hits: NDArray[np.int64], weights: NDArray[np.int64]) -> NDArray[np.float64]:
    """(R,) the F1 of every resample; NaN where there is neither a defect nor a call.

    hits: (n, 3) true positives, false positives and false negatives of each image. weights: (R, n).
    """
    tp, fp, fn = (_sums(weights, hits[:, column]) for column in range(3))
    return _share(2 * tp, 2 * tp + fp + fn)


def _sums(weights: NDArray[np.int64], counts: NDArray[np.int64] | NDArray[np.bool_]) -> NDArray[np.float64]:
    """(R,) counts of the images added up; whole numbers, so exact in any order up to 2**53."""
    return weights.astype(np.float64) @ counts.astype(np.float64)


def _share(some: NDArray[np.float64], of: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.where(of > 0, some / np.maximum(of, 1), np.nan)
