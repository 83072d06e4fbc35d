"""Pixel metrics in one pass and in memory that does not grow, with bounds on what that costs in accuracy.

Scores are read as whole numbers that keep their order, and dropping the lowest bits of those numbers merges
neighbouring scores into bins of equal relative width. Bits are dropped only when the scores seen so far fill more bins
than there is room for. So up to that many distinct scores nothing is merged, whatever their range, and the width of
the bins depends on the scores alone, not on their order. Each bin also remembers whether it holds different scores at
all: zeros by the million are one score, and leave no doubt.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from uadctl.metrics.binned import ROUNDING, Curve, curve_of_bins
from uadctl.metrics.descent import descend
from uadctl.metrics.keys import WIDER, common_zeros, keys64, narrow_keys, needed_shift, runs
from uadctl.metrics.masked import Map, Mask, checked_pair
from uadctl.metrics.pooled import Parts, Tally, pixel_metric_names, take_apart
from uadctl.metrics.ranking import Scores
from uadctl.metrics.record import Metrics, undefined
from uadctl.metrics.region import checked_limit
from uadctl.metrics.resampling import PixelStatistics


class StreamingPixelMetrics:
    """Pixel AUROC, AP, F1-max and AU-PRO at any limits from maps that come one by one, in a fixed amount of memory.

    The interface and the rules of `PixelMetrics`, but of the scores only counts are kept: how many normal and how
    many defect scores fall into each of at most `bins` bins, and how much of the regions. Scores in one bin count as
    tied, for AP as evenly mixed if they differ. The metrics are exact where all maps together have no more than `bins`
    distinct scores: with the default for all maps of float16 values, 16-bit images and the like. Otherwise `bounds`
    says how far off they may be, from what is in the bins. Images come in any order, which changes no number by more
    than rounding.

    bins: how many bins may be filled, at least 2. More bins, tighter bounds. 65,536 take 2 MB, beside some tens of MB
          to work in and what taking one map apart needs.
    per_image: also given every image, taken apart only once, for metrics of resamples.
    regions: what the regions are called in a reason.

    Raises ValueError for fewer bins.
    """

    def __init__(
        self, *, bins: int = 65_536, per_image: PixelStatistics | None = None, regions: str = "regions"
    ) -> None:
        if bins < 2:
            raise ValueError(f"bins is {bins}; expected at least 2")
        self._tally = Tally()
        self._bins = _Bins(bins)
        self._per_image = per_image
        self._regions = regions

    def add(self, mask: Mask, anomaly_map: Map) -> None:
        """Take in one image; arguments and errors as `PixelMetrics.add`."""
        self.take(take_apart(checked_pair(mask, anomaly_map, mask_name="the mask", map_name="its map")))

    def take(self, parts: Parts) -> None:
        """Take in one image that was taken apart already; nothing of it is kept."""
        self._tally.add(parts)
        if self._per_image is not None:
            self._per_image.take(parts)
        for scores in parts.every:
            self._bins.add(scores)
        if parts.defect.size:
            self._bins.mark_defects(parts.defect, parts.sizes)

    def result(self, *, fpr_limits: Iterable[float] = (0.3,)) -> Metrics:
        """All pixel metrics of the images so far; arguments, metrics and counts as `PixelMetrics.result`."""
        limits = [checked_limit(limit) for limit in fpr_limits]
        counts = self._tally.counts()
        if reason := self._tally.undefined(regions=self._regions):
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

    def _curve(self) -> Curve:
        rows = self._bins.rows()
        normal = rows.every - rows.defect
        return curve_of_bins(normal, rows.defect, rows.overlap, rows.mixed, regions=self._tally.regions)


@dataclass(frozen=True, slots=True)
class _Rows:
    """Groups of scores, one a row.

    key:     (K,) int64, one of the scores of the group, as `keys64`.
    mixed:   (K,) bool, whether the group holds another score as well.
    every:   (K,) int64 scores, those on defects included. defect: (K,) int64 defect scores.
    overlap: (K,) float64, the sum of 1 / size of its region over the defect scores.
    """

    key: NDArray[np.int64]
    mixed: NDArray[np.bool_]
    every: NDArray[np.int64]
    defect: NDArray[np.int64]
    overlap: NDArray[np.float64]

    def where(self, which: NDArray[np.bool_]) -> _Rows:
        return _Rows(self.key[which], self.mixed[which], self.every[which], self.defect[which], self.overlap[which])


class _Window:
    """Bins side by side, empty ones included: scores are counted without being sorted."""

    def __init__(self, shift: int, lowest: int, size: int) -> None:
        self.shift = shift
        self._lowest = lowest
        self._from, self._to = size, 0  # what is filled: bins _from up to _to, exclusive
        self._every = np.zeros(size, dtype=np.int64)
        self._defect = np.zeros(size, dtype=np.int64)
        self._overlap = np.zeros(size)
        self._key = np.zeros(size, dtype=np.int64)
        self._single = np.ones(size, dtype=np.bool_)  # not mixed

    def places(self, keys: NDArray[np.int64], dropped: int = 0) -> NDArray[np.int64]:
        """(n,) the bins of keys whose lowest `dropped` bits are missing; below 0 or beyond the size: outside."""
        at = keys >> (self.shift - dropped) if self.shift >= dropped else keys << (dropped - self.shift)
        at -= self._lowest
        return at

    def holds(self, at: NDArray[np.int64]) -> bool:
        """Whether all of these places, n >= 1, are bins of the window."""
        return bool(at.min() >= 0 and at.max() < self._every.size)

    def inside(self, at: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which of these places are bins of the window."""
        return (at >= 0) & (at < self._every.size)

    def filled(self) -> int:
        """How many bins hold a score."""
        return int(np.count_nonzero(self._every[self._from : self._to]))

    def count(self, at: NDArray[np.int64], keys: NDArray[np.int64], dropped: int) -> None:
        """Count (n,) scores, n >= 1, at their places, which are written over."""
        low = int(at.min())
        at -= low
        counts = np.bincount(at)
        bins = self._reach(low, low + counts.size)
        single, key, every = self._single[bins], self._key[bins], self._every[bins]
        # Nearly all bins are soon known to be mixed, and there is nothing more to know about them.
        doubtful = np.flatnonzero(single[at])
        if doubtful.size:
            at, keys = at[doubtful], keys[doubtful] << dropped
            fresh = every[at] == 0
            key[at[fresh]] = keys[fresh]
            single[at[keys != key[at]]] = False
        every += counts

    def put(self, rows: _Rows) -> None:
        """Add rows that lie inside, each in its own bin."""
        if rows.key.size:
            at = self.places(rows.key)
            self._reach(int(at.min()), int(at.max()) + 1)
            fresh = at[self._every[at] == 0]
            self._key[fresh] = rows.key[self._every[at] == 0]
            self._single[at] &= ~rows.mixed
            self._every[at] += rows.every
            self._defect[at] += rows.defect
            self._overlap[at] += rows.overlap

    def rows(self) -> _Rows:
        """What is in the bins, in ascending order."""
        bins = slice(self._from, self._to)
        found = np.flatnonzero(self._every[bins] + self._defect[bins])
        return _Rows(
            key=self._key[bins][found],
            mixed=~self._single[bins][found],
            every=self._every[bins][found],
            defect=self._defect[bins][found],
            overlap=self._overlap[bins][found],
        )

    def _reach(self, start: int, end: int) -> slice:
        self._from, self._to = min(self._from, start), max(self._to, end)
        return slice(start, end)


class _Bins:
    """Counts of scores in at most `capacity` bins; a bin holds the keys that agree in all but the lowest bits."""

    CHUNK = 2**17  # scores that are counted at a time: what is made of them stays in the cache
    WINDOW = 2**19  # bins that are counted side by side

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._shift = 0  # low bits dropped
        self._windows: dict[bool, _Window] = {}  # of scores below 0, and of the others
        self._merged = _NO_ROWS
        self._waiting: list[_Rows] = []
        self._zeros = 0

    def add(self, scores: Scores) -> None:
        """Count (n,) scores in any order."""
        for start in range(0, scores.size, self.CHUNK):
            chunk = scores[start : start + self.CHUNK]
            if chunk.dtype == np.float32:
                keys, n_zero, rest = narrow_keys(chunk)
                self._zeros += n_zero
                self._count_by_sign(keys, WIDER)
                if rest.size:
                    self._sort_in(keys64(rest))
            else:
                self._count_by_sign(keys64(chunk), 0)
            if self._full():
                self._merge()

    def mark_defects(self, scores: Scores, sizes: NDArray[np.int64]) -> None:
        """Mark the scores of one image that lie on defect regions, counted before; as `Parts`."""
        for step in descend([scores], sizes):
            keys = keys64(step.distinct)
            starts, ends = runs(keys >> self._shift)
            # Not added up one by one as bincount does: millions of nearly equal addends would drift.
            share = np.add.reduceat(step.times / sizes[step.region], np.searchsorted(step.entry, starts))
            rows = _Rows(
                key=keys[starts],
                mixed=keys[starts] != keys[ends - 1],
                every=np.zeros(starts.size, dtype=np.int64),
                defect=np.add.reduceat(step.at, starts),
                overlap=share,
            )
            self._waiting.append(self._put(rows))
        if self._full():
            self._merge()

    def rows(self) -> _Rows:
        """The bins that hold any score, in ascending order."""
        self._merge()
        return self._merged

    def _count_by_sign(self, keys: NDArray[np.int64], dropped: int) -> None:
        """Count scores given as keys without their lowest `dropped` bits."""
        if not keys.size:
            return
        if keys.min() < 0 <= keys.max():  # the numbers next to 0 are so many that no window reaches across
            negative = keys < 0
            self._count(keys[negative], dropped, negative=True)
            self._count(keys[~negative], dropped, negative=False)
        else:
            self._count(keys, dropped, negative=bool(keys[0] < 0))

    def _count(self, keys: NDArray[np.int64], dropped: int, *, negative: bool) -> None:
        """Count scores of one sign, at least one."""
        window = self._windows.get(negative)
        if window is not None and window.shift > self._shift and dropped + common_zeros(keys) < window.shift:
            window = None
        at = window.places(keys, dropped) if window is not None else _NONE
        if window is None or not window.holds(at):
            if window is None or 2 * np.count_nonzero(window.inside(at)) < at.size:
                window = self._open_window(keys, dropped, negative=negative)
                if window is None:
                    self._sort_in(keys << dropped)
                    return
                at = window.places(keys, dropped)
            inside = window.inside(at)
            if not inside.all():
                self._sort_in(keys[~inside] << dropped)
                keys, at = keys[inside], at[inside]
        if at.size:
            window.count(at, keys, dropped)

    def _open_window(self, keys: NDArray[np.int64], dropped: int, *, negative: bool) -> _Window | None:
        """A window about the middle one of these keys, in place of any; None if it would hold less than half."""
        if negative in self._windows:
            self._waiting.append(self._windows.pop(negative).rows())
        # Scores of few digits (float16, 8-bit images) share zeros at the end: bins without them lie side by side.
        shift = max(self._shift, dropped + common_zeros(keys))
        bins = np.sort(keys[:: -(-keys.size // 1024)]) >> (shift - dropped)
        middle = int(bins[bins.size // 2])
        if 2 * np.count_nonzero(np.abs(bins - middle) < self.WINDOW // 2) < bins.size:
            return None
        window = self._windows[negative] = _Window(shift, middle - self.WINDOW // 2, self.WINDOW)
        self._merged = self._put(self._merged)
        return window

    def _put(self, rows: _Rows) -> _Rows:
        """Add to the bins of the windows what belongs there, and return the rest."""
        for window in self._windows.values():
            inside = window.inside(window.places(rows.key))
            if window.shift > self._shift:  # then a bin of the window is for its lowest key alone
                inside &= ~rows.mixed & (rows.key & ((1 << window.shift) - 1) == 0)
            window.put(rows.where(inside))
            rows = rows.where(~inside)
        return rows

    def _sort_in(self, keys: NDArray[np.int64]) -> None:
        """Count scores that lie outside the window, given as whole keys."""
        if keys.size:
            keys = np.sort(keys)
            starts, ends = runs(keys >> self._shift)
            none = np.zeros(starts.size, dtype=np.int64)
            mixed = keys[starts] != keys[ends - 1]
            self._waiting.append(_Rows(keys[starts], mixed, ends - starts, none, none.astype(np.float64)))

    def _full(self) -> bool:
        """Whether there are more bins than there is room for, or as many rows that wait for being merged."""
        filled = self._merged.key.size + sum(window.filled() for window in self._windows.values())
        return max(filled, sum(rows.key.size for rows in self._waiting)) > self._capacity

    def _merge(self) -> None:
        """Bring everything into one list of bins, dropping more bits if they are too many; no window is left then."""
        every = [self._merged, *self._waiting, *(window.rows() for window in self._windows.values())]
        if self._zeros:
            every.append(_zero_row(self._zeros))
        self._windows, self._waiting, self._zeros = {}, [], 0
        if len(every) == 1 or not any(rows.key.size for rows in every):
            return
        key = np.concatenate([rows.key for rows in every])
        order = np.argsort(key, kind="stable")
        key = key[order]
        self._shift = needed_shift(key, self._capacity, least=self._shift)
        starts, ends = runs(key >> self._shift)
        mixed = np.concatenate([rows.mixed for rows in every])[order]
        self._merged = _Rows(
            key=key[starts],
            mixed=np.logical_or.reduceat(mixed, starts) | (key[starts] != key[ends - 1]),
            every=np.add.reduceat(np.concatenate([rows.every for rows in every])[order], starts),
            defect=np.add.reduceat(np.concatenate([rows.defect for rows in every])[order], starts),
            overlap=np.add.reduceat(np.concatenate([rows.overlap for rows in every])[order], starts),
        )


def _zero_row(count: int) -> _Rows:
    one = np.zeros(1, dtype=np.int64)
    return _Rows(one, one.astype(np.bool_), one + count, one, one.astype(np.float64))


_NONE = np.empty(0, dtype=np.int64)
_NO_ROWS = _Rows(_NONE, _NONE.astype(np.bool_), _NONE, _NONE, _NONE.astype(np.float64))
