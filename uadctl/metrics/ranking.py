"""Every ranking metric from one sort.

A curve over all thresholds changes its true positives only at the scores that positives have. So the normal
scores enter AUROC, AP, F1-max and AU-PRO through two whole numbers for each distinct positive score: how many
normal scores lie above it, and how many equal it. One sort of the normal scores gives both. Ties count as ties:
scores that are equal fall on the same side of every threshold, and the curve is straight between two thresholds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

#: Scores, float32 or float64; higher is more anomalous; infinite values rank like any other, NaN is not allowed.
Scores: TypeAlias = NDArray[np.floating[Any]]


@dataclass(frozen=True, slots=True)
class Ranking:
    """Where P positive scores stand among N normal ones. Arrays of length K have one entry a distinct positive score.

    n_positive, n_normal: P and N, both at least 1.
    at:    (K,) int64, positives with exactly this score, scores ascending.
    above: (K,) int64, normal scores above it.
    equal: (K,) int64, normal scores equal to it.
    index: (P,) integer, for each positive score, in the order given, which of the K it is.
    """

    n_positive: int
    n_normal: int
    at: NDArray[np.int64]
    above: NDArray[np.int64]
    equal: NDArray[np.int64]
    index: NDArray[np.intp]


def rank(positive: Scores, normal: Scores) -> Ranking:
    """Count for each distinct positive score the normal scores above it and equal to it.

    positive: (P,) scores in any order, P >= 1.
    normal:   (N,) scores in ascending order, N >= 1.
    """
    distinct, index, at = np.unique(positive, return_inverse=True, return_counts=True)
    below = np.searchsorted(normal, distinct, side="left")
    up_to = np.searchsorted(normal, distinct, side="right")
    return Ranking(
        n_positive=positive.size,
        n_normal=normal.size,
        at=at.astype(np.int64),
        above=(normal.size - up_to).astype(np.int64),
        equal=(up_to - below).astype(np.int64),
        index=index,
    )


def auroc(ranking: Ranking) -> float:
    """Area under the ROC curve: how often a random positive score beats a random normal one; a tie counts half.

    Source: Hanley and McNeil, The meaning and use of the area under a ROC curve, Radiology 143, 1982.
    """
    # Divided before it is summed: the plain sum of counts passes 2**63 on images of gigapixels.
    beaten = (2 * (ranking.n_normal - ranking.above) - ranking.equal) / (2 * ranking.n_normal)
    return float(np.sum(ranking.at * beaten) / ranking.n_positive)


def average_precision(ranking: Ranking) -> float:
    """Mean over the positives of the precision at their score: the precision-recall curve without interpolation."""
    found = _found(ranking)
    precision = found / (found + ranking.above + ranking.equal)
    return float(np.sum(ranking.at * precision) / ranking.n_positive)


def f1_max(ranking: Ranking) -> float:
    """The highest F1 that any threshold gives (score >= threshold is positive): an upper bound, found with labels."""
    found = _found(ranking)
    # F1 = 2 TP / (TP + FP + P). Between two positive scores only FP changes, so the best lies at a positive score.
    return float(np.max(2 * found / (found + ranking.above + ranking.equal + ranking.n_positive)))


def _found(ranking: Ranking) -> NDArray[np.int64]:
    """(K,) positives at or above each distinct positive score."""
    return ranking.n_positive - np.cumsum(ranking.at) + ranking.at
