"""Per-region overlap: every defect region counts the same, however large it is."""

from __future__ import annotations

from decimal import Decimal

import numpy as np
from numpy.typing import NDArray

from uadctl.metrics.ranking import Ranking


def label_regions(defect: NDArray[np.bool_]) -> NDArray[np.int32]:
    """Number the connected defect regions of one mask; pixels that touch by a corner are connected (8-connectivity).

    defect: (H, W) bool, True on defect pixels; H, W >= 1.

    Returns (H, W) int32: 0 outside, 1, 2, … on the regions.
    """
    import cv2

    _, labels = cv2.connectedComponents(np.ascontiguousarray(defect).view(np.uint8), connectivity=8, ltype=cv2.CV_32S)
    return np.asarray(labels, dtype=np.int32)


def area_under_pro(ranking: Ranking, region_sizes: NDArray[np.int64], *, limit: float) -> float:
    """Area under the per-region-overlap curve for false-positive rates from 0 to `limit`, divided by `limit`.

    The curve has at each threshold the false-positive rate over all normal pixels of all images, and the share of
    a region at or above the threshold, averaged over all regions of all images. Between thresholds it is straight,
    also where it crosses `limit`.

    ranking:      of the defect pixels among the normal pixels, the defect pixels in the order of their regions.
    region_sizes: (R,) pixels of each region, each at least 1; their sum is the number of defect pixels.
    limit:        false-positive rate, above 0 and at most 1.

    Source: Bergmann et al., The MVTec Anomaly Detection Dataset, IJCV 129, 2021 (performance metrics).
    """
    area = area_up_to(ranking, limit=limit)
    # Summed region by region, not by adding up 1/size a score: equal addends drift when there are millions of them.
    starts = np.cumsum(region_sizes) - region_sizes
    overlap = np.add.reduceat(area[ranking.index], starts) / region_sizes
    return min(1.0, float(np.mean(overlap) / limit))  # rounding may pass 1 by an ulp


def area_up_to(ranking: Ranking, *, limit: float) -> NDArray[np.float64]:
    """(K,) how much area each distinct defect score adds under a curve over the false-positive rates 0 to `limit`.

    That of a score which lifts the curve by 1: while the false-positive rate goes from x0 to x1 (the normal scores
    that equal it) the curve rises in a straight line, and it stays up from there on.
    """
    x0 = ranking.above / ranking.n_normal
    x1 = (ranking.above + ranking.equal) / ranking.n_normal
    area = np.where(x1 <= limit, limit - (x0 + x1) / 2, 0.0)
    cut = (x0 < limit) & (limit < x1)
    area[cut] = (limit - x0[cut]) ** 2 / (2 * (x1[cut] - x0[cut]))
    return area


def aupro_name(limit: float) -> str:
    """The name of AU-PRO up to this false-positive rate: `aupro_` and the decimals of the limit, at least two of them.

    0.3 -> aupro_30, 0.05 -> aupro_05, 0.125 -> aupro_125, 0.001 -> aupro_001; 1 -> aupro_100. To read a name, put
    "0." before the digits; 100 alone stands for 1 (0.1 is aupro_10, so the name is free). No name needs quotes as a
    key in TOML. Raises ValueError unless 0 < limit <= 1.
    """
    limit = checked_limit(limit)
    if limit == 1:
        return "aupro_100"
    decimals = format(Decimal(repr(limit)), "f").partition(".")[2]
    return "aupro_" + decimals.ljust(2, "0")


def checked_limit(limit: float) -> float:
    """The limit as a float; ValueError unless 0 < limit <= 1."""
    if not 0 < limit <= 1:
        raise ValueError(f"limit is {limit}; expected a false-positive rate above 0 and at most 1")
    return float(limit)
