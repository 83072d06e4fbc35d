"""Pixel metrics in one pass and in memory that does not grow, with bounds on what that costs in accuracy.

Doubles keep their order when their bits are read as whole numbers (sign turned), and dropping the lowest bits of
those numbers merges neighbouring scores into bins of equal relative width. Bits are dropped only when the scores
seen so far fill more bins than there is room for. So up to that many distinct scores nothing is merged, whatever
their range, and the width of the bins depends on the scores alone, not on their order. Each bin also remembers
whether it holds different scores at all: zeros by the million are one score, and leave no doubt.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from uadctl.metrics.pooled import POOLED, Tally, checked_pair, pixel_metric_names, take_apart
from uadctl.metrics.ranking import Ranking, Scores
from uadctl.metrics.record import Metrics, undefined
from uadctl.metrics.region import area_up_to, aupro_name, checked_limit

#: What rounding in float64 may add to any of the bounds; the exact metrics are held to the same.
ROUNDING = 1e-12


class StreamingPixelMetrics:
    """Pixel AUROC, AP, F1-max and AU-PRO at any limits from maps that come one by one, in a fixed amount of memory.

    The interface and the rules of `PixelMetrics`, but of the scores only counts are kept: how many normal and how
    many defect scores fall into each of at most `bins` bins, and how much of the regions. Scores in one bin count as
    tied. The metrics are exact where all maps together have no more than `bins` distinct scores: with the default
    for all maps of float16 values, 16-bit images and the like. Otherwise `bounds` says how far off they may be, from
    what is in the bins. Images come in any order, which changes no number by more than rounding.

    bins: how many bins may be filled, at least 2. More bins, tighter bounds. 65,536 take 2 MB, beside some tens of MB
          to work in and what taking one map apart needs.

    Raises ValueError for fewer bins.
    """

    def __init__(self, *, bins: int = 65_536) -> None:
        if bins < 2:
            raise ValueError(f"bins is {bins}; expected at least 2")
        self._tally = Tally()
        self._bins = _Bins(bins)
        self._buffer = np.empty(0, dtype=np.float64)
        self._filled = 0

    def add(self, mask: ArrayLike, anomaly_map: ArrayLike) -> None:
        """Take in one image; arguments and errors as `PixelMetrics.add`."""
        self._add(*checked_pair(mask, anomaly_map, mask_name="the mask", map_name="its map"))

    def result(self, *, fpr_limits: Iterable[float] = (0.3,)) -> Metrics:
        """All pixel metrics of the images so far; arguments, metrics and counts as `PixelMetrics.result`."""
        limits = [checked_limit(limit) for limit in fpr_limits]
        counts = self._tally.counts()
        if reason := self._tally.undefined():
            return undefined(pixel_metric_names(fpr_limits=limits), reason, counts=counts)
        return Metrics(dict(self._curve().values(limits)), {}, counts)

    def bounds(self, *, fpr_limits: Iterable[float] = (0.3,)) -> dict[str, float | None]:
        """How far each metric of `result` may be from its exact value, which `PixelMetrics` would give.

        The exact value lies within value ± bound, whatever the order of the scores inside the bins: a bound is the
        larger of the ways to the best and to the worst order, each metric for itself. It includes 1e-12 for rounding
        in float64; where it is no more than that, the metric is exact.

        Returns metric -> bound, 0 < bound <= 1, in the order of `result`; None where the metric is undefined.
        """
        limits = [checked_limit(limit) for limit in fpr_limits]
        if self._tally.undefined():
            return dict.fromkeys(pixel_metric_names(fpr_limits=limits))
        return {name: min(1.0, doubt + ROUNDING) for name, doubt in self._curve().doubts(limits).items()}

    def _add(self, defect: NDArray[np.bool_], scores: Scores) -> None:
        parts = take_apart(defect, scores)
        self._tally.add(parts)
        if parts.defect.size:
            self._bins.add_defects(_keys(parts.defect), parts.region, parts.sizes)
        normal = parts.normal
        if not self._buffer.size:
            self._buffer = np.empty(_Bins.CHUNK, dtype=np.float64)
        while normal.size:
            fits = min(normal.size, self._buffer.size - self._filled)
            self._buffer[self._filled : self._filled + fits] = normal[:fits]
            self._filled += fits
            normal = normal[fits:]
            if self._filled == self._buffer.size:
                self._empty_buffer()

    def _empty_buffer(self) -> None:
        self._bins.add_normal(_keys(self._buffer[: self._filled]))
        self._filled = 0

    def _curve(self) -> _Curve:
        if self._filled:
            self._empty_buffer()
        rows = self._bins.rows()
        found = np.flatnonzero(rows.defect)
        above = np.sum(rows.normal) - np.cumsum(rows.normal)
        ranking = Ranking(
            n_positive=self._tally.defect_pixels,
            n_normal=self._tally.pixels - self._tally.defect_pixels,
            at=rows.defect[found],
            above=above[found],
            equal=rows.normal[found],
            index=np.arange(found.size),
        )
        return _Curve(ranking, rows.overlap[found] / self._tally.regions, rows.mixed[found])


@dataclass(frozen=True, slots=True)
class _Curve:
    """The bins that hold defect scores, as if all scores of a bin were tied, and which of them hold several scores.

    ranking: one entry a bin. overlap: (K,) what the bin adds to the per-region overlap, 1 in sum.
    mixed:   (K,) bool, whether the bin holds different scores, normal ones included.
    """

    ranking: Ranking
    overlap: NDArray[np.float64]
    mixed: NDArray[np.bool_]

    def values(self, limits: list[float]) -> dict[str, float]:
        """The metrics."""
        values = {name: measure(self.ranking) for name, (_, measure) in POOLED.items()}
        for limit in limits:
            area = area_up_to(self.ranking, limit=limit)
            values[aupro_name(limit)] = min(1.0, float(np.sum(self.overlap * area)) / limit)
        return values

    def doubts(self, limits: list[float]) -> dict[str, float]:
        """How far the order inside the mixed bins can move each metric, but for rounding.

        The counts at both ends of a bin are exact. A bin is at its best if its defect scores are equal and beat all
        its normal ones, at its worst if they are all different and below them; any other order lies between.
        """
        ranking = self.ranking
        above, equal = ranking.above[self.mixed], ranking.equal[self.mixed]
        up_to, at = above + equal, ranking.at[self.mixed]
        found = (ranking.n_positive - np.cumsum(ranking.at) + ranking.at)[self.mixed]
        before = found - at

        auroc = np.sum(at / ranking.n_positive * (equal / (2 * ranking.n_normal)))

        tied = at * (found / (found + up_to))
        best = at * (found / (found + above))
        # At worst the i-th defect score has precision (before + i) / (before + i + up_to). 1/x being convex, the sum
        # of 1/(a + i) over i = 1..n is at most the integral of 1/x from a + 1/2 to a + n + 1/2.
        worst = at - up_to * np.log1p(at / (before + up_to + 0.5))
        certain = (at == 1) & (equal == 0)
        ap_up = np.sum(np.where(certain, 0, best - tied)) / ranking.n_positive
        ap_down = np.sum(np.where(certain, 0, tied - worst)) / ranking.n_positive

        # The lower end of a bin is a threshold that can be chosen, so the value is a lower limit of the exact one.
        f1 = np.max(2 * found / (found + above + ranking.n_positive), initial=0) - POOLED["pixel_f1max"][1](ranking)

        doubts = {"pixel_auroc": auroc, "pixel_ap": max(ap_up, ap_down), "pixel_f1max": max(f1, 0.0)}
        x0 = above / ranking.n_normal
        overlap = self.overlap[self.mixed]
        for limit in limits:
            # A tie has half of the way from worst to best, or less where the limit cuts it: the way up is the longer.
            area = area_up_to(ranking, limit=limit)[self.mixed]
            doubts[aupro_name(limit)] = np.sum(overlap * (np.maximum(limit - x0, 0) - area)) / limit
        return {name: float(doubt) for name, doubt in doubts.items()}


@dataclass(frozen=True, slots=True)
class _Rows:
    """Groups of scores, one a row.

    key:     (K,) uint64, one of the scores of the group, as `_keys`.
    mixed:   (K,) bool, whether the group holds another score as well.
    normal:  (K,) int64 normal scores. defect: (K,) int64 defect scores.
    overlap: (K,) float64, the sum of 1 / size of its region over the defect scores.
    """

    key: NDArray[np.uint64]
    mixed: NDArray[np.bool_]
    normal: NDArray[np.int64]
    defect: NDArray[np.int64]
    overlap: NDArray[np.float64]


class _Bins:
    """Counts of scores in at most `capacity` bins; a bin holds the keys that agree in all but the lowest bits."""

    CHUNK = 2**19  # normal scores that are counted at a time
    WINDOW = 2**19  # bins that are counted side by side, empty ones included

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._shift = 0  # low bits dropped
        none = np.empty(0, dtype=np.int64)
        self._rows = _Rows(none.astype(np.uint64), none.astype(np.bool_), none, none, none.astype(np.float64))
        self._waiting: list[_Rows] = []

    def add_normal(self, keys: NDArray[np.uint64]) -> None:
        """Count normal scores, given as keys in any order."""
        # Scores of few digits (float16, 8-bit images) share zeros at the end: bins without them lie side by side.
        shift = np.uint64(max(self._shift, _common_zeros(keys)))
        # Counting, faster than sorting, needs bins that are not far apart. With 2**16 bins between a score and its
        # double, a window spans a factor of 2**8; four of them, from the highest score down, hold nearly all scores.
        # What is left, and scores all over the place, are sorted.
        for _ in range(4):
            if not keys.size:
                return
            bins = keys >> shift
            lowest = max(int(bins.min()), int(bins.max()) - self.WINDOW + 1)
            inside = bins >= np.uint64(lowest)
            if inside.all():
                self._count(keys, bins, lowest)
                return
            if 8 * np.count_nonzero(inside) < keys.size:
                break
            self._count(keys[inside], bins[inside], lowest)
            keys = keys[~inside]
        keys = np.sort(keys)
        starts, ends = _runs(keys >> shift)
        self._wait(
            _Rows(
                key=keys[starts],
                mixed=keys[starts] != keys[ends - 1],
                normal=ends - starts,
                defect=np.zeros(starts.size, dtype=np.int64),
                overlap=np.zeros(starts.size),
            )
        )

    def add_defects(self, keys: NDArray[np.uint64], region: NDArray[np.intp], sizes: NDArray[np.int64]) -> None:
        """Count the (P,) defect scores of one image, each in one of R regions of these sizes; as `Parts`."""
        order = np.argsort(keys)
        keys = keys[order]
        starts, ends = _runs(keys >> np.uint64(self._shift))
        # Counted for each bin and region before 1/size is added up: millions of equal addends would drift.
        bin_of = np.repeat(np.arange(starts.size), ends - starts)
        pair, count = np.unique(bin_of * sizes.size + region[order], return_counts=True)
        share = count / sizes[pair % sizes.size]
        self._wait(
            _Rows(
                key=keys[starts],
                mixed=keys[starts] != keys[ends - 1],
                normal=np.zeros(starts.size, dtype=np.int64),
                defect=ends - starts,
                overlap=np.bincount(pair // sizes.size, share, starts.size).astype(np.float64, copy=False),
            )
        )

    def rows(self) -> _Rows:
        """The bins that hold any score, in ascending order."""
        self._merge()
        return self._rows

    def _count(self, keys: NDArray[np.uint64], bins: NDArray[np.uint64], lowest: int) -> None:
        """Count normal scores whose bins lie within a window that starts at bin `lowest`."""
        at = (bins - np.uint64(lowest)).astype(np.intp)
        counts = np.bincount(at)
        one_of = np.zeros(counts.size, dtype=np.uint64)
        one_of[at] = keys
        mixed = np.zeros(counts.size, dtype=np.bool_)
        mixed[at[keys != one_of[at]]] = True
        filled = np.flatnonzero(counts)
        self._wait(
            _Rows(
                key=one_of[filled],
                mixed=mixed[filled],
                normal=counts[filled].astype(np.int64),
                defect=np.zeros(filled.size, dtype=np.int64),
                overlap=np.zeros(filled.size),
            )
        )

    def _wait(self, rows: _Rows) -> None:
        self._waiting.append(rows)
        if sum(waiting.key.size for waiting in self._waiting) > self._capacity:
            self._merge()

    def _merge(self) -> None:
        if not self._waiting:
            return
        every = [self._rows, *self._waiting]
        self._waiting = []
        key = np.concatenate([rows.key for rows in every])
        order = np.argsort(key, kind="stable")
        key = key[order]
        self._shift = self._needed_shift(key)
        starts, ends = _runs(key >> np.uint64(self._shift))
        mixed = np.concatenate([rows.mixed for rows in every])[order]
        self._rows = _Rows(
            key=key[starts],
            mixed=np.logical_or.reduceat(mixed, starts) | (key[starts] != key[ends - 1]),
            normal=np.add.reduceat(np.concatenate([rows.normal for rows in every])[order], starts),
            defect=np.add.reduceat(np.concatenate([rows.defect for rows in every])[order], starts),
            overlap=np.add.reduceat(np.concatenate([rows.overlap for rows in every])[order], starts),
        )

    def _needed_shift(self, keys: NDArray[np.uint64]) -> int:
        """The fewest low bits to drop, and no fewer than now, for the bins to find room. keys: ascending."""
        low, high = self._shift, 63  # with 63 bits dropped two bins are left
        while low < high:
            middle = (low + high) // 2
            bins = keys >> np.uint64(middle)
            if 1 + np.count_nonzero(bins[1:] != bins[:-1]) <= self._capacity:
                high = middle
            else:
                low = middle + 1
        return low


def _keys(scores: Scores) -> NDArray[np.uint64]:
    """(n,) scores without NaN as uint64 that are ordered and equal as the scores are; both zeros are one."""
    values = scores.astype(np.float64)
    values += 0.0  # turns -0.0 into 0.0
    bits = values.view(np.int64)
    flip = bits >> 63
    flip |= np.int64(-(2**63))
    bits ^= flip
    return bits.view(np.uint64)


def _common_zeros(keys: NDArray[np.uint64]) -> int:
    """How many of the lowest bits are 0 in every key; 63 at most."""
    seen = int(np.bitwise_or.reduce(keys))
    return min(63, (seen & -seen).bit_length() - 1) if seen else 63


def _runs(values: NDArray[np.uint64]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Where each run of equal values starts and ends (exclusive). values: (n,) ascending, n >= 1."""
    changes = np.flatnonzero(values[1:] != values[:-1]) + 1
    return np.append(0, changes), np.append(changes, values.size)
