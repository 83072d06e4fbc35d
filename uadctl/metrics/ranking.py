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

    It may be a part: the positive scores between two values alone, beside P, N and the counts of the whole.

    n_positive, n_normal: P and N, both at least 1.
    at:    (K,) int64, positives with exactly this score, scores ascending.
    above: (K,) int64, normal scores above it.
    equal: (K,) int64, normal scores equal to it.
    before: positives that score higher than all K, 0 for a whole ranking.
    """

    n_positive: int
    n_normal: int
    at: NDArray[np.int64]
    above: NDArray[np.int64]
    equal: NDArray[np.int64]
    before: int = 0

    def found(self) -> NDArray[np.int64]:
        """(K,) positives at or above each distinct positive score."""
        return np.asarray(self.before + np.sum(self.at) - np.cumsum(self.at) + self.at)


def rank(positive: Scores, normal: Scores) -> Ranking:
    """Count for each distinct positive score the normal scores above it and equal to it.

    positive: (P,) scores in any order, P >= 1.
    normal:   (N,) scores in ascending order, N >= 1.
    """
    distinct, at = np.unique(positive, return_counts=True)
    below = np.searchsorted(normal, distinct, side="left")
    up_to = np.searchsorted(normal, distinct, side="right")
    return Ranking(
        n_positive=positive.size,
        n_normal=normal.size,
        at=at.astype(np.int64),
        above=(normal.size - up_to).astype(np.int64),
        equal=(up_to - below).astype(np.int64),
    )


@dataclass(slots=True)
class RankingSums:
    """What the metrics need of a ranking that may come in parts, in any order; one part at least must have come.

    positives: in the whole ranking.
    beaten:    sum over the positives so far of the share of normal scores that each beats, a tie counting half.
    precision: sum over them of the precision at their score.
    best_f1:   the highest F1 that any of their scores gives as a threshold.
    """

    positives: int = 0
    beaten: float = 0.0
    precision: float = 0.0
    best_f1: float = 0.0

    @classmethod
    def of(cls, ranking: Ranking) -> RankingSums:
        """Those of a whole ranking."""
        sums = cls()
        sums.add(ranking)
        return sums

    def add(self, part: Ranking) -> None:
        """Take in a part."""
        self.positives = part.n_positive
        # Divided before it is summed: the plain sum of counts passes 2**63 on images of gigapixels.
        beaten = (2 * (part.n_normal - part.above) - part.equal) / (2 * part.n_normal)
        self.beaten += float(np.sum(part.at * beaten))
        found = part.found()
        called = found + part.above + part.equal
        self.precision += float(np.sum(part.at * (found / called)))
        # F1 = 2 TP / (TP + FP + P). Between two positive scores only FP changes, so the best lies at a positive score.
        self.best_f1 = max(self.best_f1, float(np.max(2 * found / (called + part.n_positive))))


def auroc(sums: RankingSums) -> float:
    """Area under the ROC curve: how often a random positive score beats a random normal one; a tie counts half.

    Source: Hanley and McNeil, The meaning and use of the area under a ROC curve, Radiology 143, 1982.
    """
    return sums.beaten / sums.positives


def average_precision(sums: RankingSums) -> float:
    """Mean over the positives of the precision at their score: the precision-recall curve without interpolation."""
    return sums.precision / sums.positives


def f1_max(sums: RankingSums) -> float:
    """The highest F1 that any threshold gives (score >= threshold is positive): an upper bound, found with labels."""
    return sums.best_f1
