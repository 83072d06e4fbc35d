"""The pixel metrics of scores that were counted in bins, and how far they may be off for it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from uadctl.metrics.pooled import POOLED
from uadctl.metrics.ranking import Ranking, RankingSums, f1_max
from uadctl.metrics.region import area_up_to, aupro_name

#: What rounding in float64 may add to any of the bounds; the exact metrics are held to the same.
ROUNDING = 1e-12


@dataclass(frozen=True, slots=True)
class Curve:
    """The bins that hold defect scores, and which of them hold several scores.

    Scores of a bin count as tied, but for AP where they are known to differ: they then count as evenly mixed. For AUROC
    and AU-PRO both are the same. Of AP the tie would be the lower end of the curve in each bin, and the errors add up.

    ranking: one entry a bin. overlap: (K,) what the bin adds to the per-region overlap, 1 in sum.
    mixed:   (K,) bool, whether the bin holds different scores, normal ones included.
    """

    ranking: Ranking
    overlap: NDArray[np.float64]
    mixed: NDArray[np.bool_]

    def values(self, limits: list[float]) -> dict[str, float]:
        """The metrics."""
        sums = RankingSums.of(self.ranking)
        values = {name: measure(sums) for name, (_, measure) in POOLED.items()}
        if self.mixed.any():
            values["pixel_ap"] = min(1.0, float(np.sum(self._precision()) / self.ranking.n_positive))
        for limit in limits:
            area = area_up_to(self.ranking, limit=limit)
            values[aupro_name(limit)] = min(1.0, float(np.sum(self.overlap * area)) / limit)
        return values

    def doubts(self, limits: list[float], *, tied: bool = False) -> dict[str, float]:
        """How far the order inside the mixed bins can move each metric, but for rounding.

        tied: of an AP for which all scores of a bin count as tied, whether or not they differ.

        The counts at both ends of a bin are exact. A bin is at its best if its defect scores are equal and beat all
        its normal ones, at its worst if they are all different and below them; any other order lies between.
        """
        ranking = self.ranking
        above, equal = ranking.above[self.mixed], ranking.equal[self.mixed]
        up_to, at = above + equal, ranking.at[self.mixed]
        found = ranking.found()[self.mixed]
        before = found - at

        auroc = np.sum(at / ranking.n_positive * (equal / (2 * ranking.n_normal)))

        value = at * (found / (found + up_to)) if tied else self._precision()[self.mixed]
        best = at * (found / (found + above))
        # At worst the i-th defect score has precision (before + i) / (before + i + up_to). 1/x being convex, the sum
        # of 1/(a + i) over i = 1..n is at most the integral of 1/x from a + 1/2 to a + n + 1/2.
        worst = at - up_to * np.log1p(at / (before + up_to + 0.5))
        certain = (at == 1) & (equal == 0)
        ap_up = np.sum(np.where(certain, 0, best - value)) / ranking.n_positive
        ap_down = np.sum(np.where(certain, 0, value - worst)) / ranking.n_positive

        # The lower end of a bin is a threshold that can be chosen, so the value is a lower limit of the exact one.
        f1 = np.max(2 * found / (found + above + ranking.n_positive), initial=0) - f1_max(RankingSums.of(ranking))

        doubts = {"pixel_auroc": auroc, "pixel_ap": max(ap_up, ap_down), "pixel_f1max": max(f1, 0.0)}
        x0 = above / ranking.n_normal
        overlap = self.overlap[self.mixed]
        for limit in limits:
            # A tie has half of the way from worst to best, or less where the limit cuts it: the way up is the longer.
            area = area_up_to(ranking, limit=limit)[self.mixed]
            doubts[aupro_name(limit)] = np.sum(overlap * (np.maximum(limit - x0, 0) - area)) / limit
        return {name: float(doubt) for name, doubt in doubts.items()}

    def _precision(self) -> NDArray[np.float64]:
        """(K,) the sum of the precision over the defect scores of each bin, scores that differ being evenly mixed."""
        ranking = self.ranking
        found = ranking.found()
        sums = np.asarray(ranking.at * (found / (found + ranking.above + ranking.equal)), dtype=np.float64)
        at, above, equal, before = (
            some[self.mixed][:, None] for some in (ranking.at, ranking.above, ranking.equal, found - ranking.at)
        )
        # The i-th of n defect scores has i / (n + 1) of the normal ones above it. Up to three terms are added up; the
        # sum over more is taken as the integral from 1/2 to n + 1/2, by Gauss's rule with three points.
        nodes, weights = np.polynomial.legendre.leggauss(3)
        first = np.arange(1, 4)
        i = np.where(at <= 3, first, (at + 1) / 2 + at / 2 * nodes)
        share = np.where(at <= 3, first <= at, at * weights / 2)
        precision = (before + i) / (before + i + above + equal * i / (at + 1))
        sums[self.mixed] = np.sum(share * precision, axis=1)
        return sums


def curve_of_bins(
    normal: NDArray[np.int64],
    defect: NDArray[np.int64],
    overlap: NDArray[np.float64],
    mixed: NDArray[np.bool_],
    *,
    regions: int,
) -> Curve:
    """The curve of K bins in ascending order of their scores, with at least one normal and one defect score in all.

    normal, defect: (K,) scores of each kind in each bin. overlap: (K,) sums of 1 / size of its region over the defect
    scores of each bin, `regions` in all. mixed: (K,) whether a bin holds different scores.
    """
    found = np.flatnonzero(defect)
    n_normal = int(np.sum(normal))
    above = n_normal - np.cumsum(normal)
    ranking = Ranking(
        n_positive=int(np.sum(defect)),
        n_normal=n_normal,
        at=defect[found],
        above=above[found],
        equal=normal[found],
    )
    return Curve(ranking, overlap[found] / regions, mixed[found])
