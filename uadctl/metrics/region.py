"""Per-region overlap: every defect region counts the same, however large it is."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from typing import Any

import numpy as np
from numpy.typing import NDArray

from uadctl.imaging.regions import Seams
from uadctl.metrics.descent import Step
from uadctl.metrics.ranking import Ranking


def label_regions(defect: NDArray[np.bool_]) -> tuple[tuple[slice, slice], NDArray[np.integer[Any]]]:
    """Number the connected defect regions of one mask; pixels that touch by a corner are connected (8-connectivity).

    defect: (H, W) bool, True on defect pixels; H, W >= 1.

    Returns the smallest box about all defect pixels, its rows and its columns, and (P,) the region of each defect
    pixel, row by row, numbered 1, 2, …
    """
    rows = np.flatnonzero(defect.any(axis=1))
    if not rows.size:
        return (slice(0), slice(0)), np.empty(0, dtype=np.uint16)
    import cv2

    of_rows = slice(int(rows[0]), int(rows[-1]) + 1)
    columns = np.flatnonzero(defect[of_rows].any(axis=0))
    box = of_rows, slice(int(columns[0]), int(columns[-1]) + 1)
    inside = np.ascontiguousarray(defect[box])
    # No two regions fit into 2 x 2 pixels. Half as wide numbers are written in half the time, and sorted in a tenth.
    most = ((inside.shape[0] + 1) // 2) * ((inside.shape[1] + 1) // 2)
    few = most < 2**16
    depth = cv2.CV_16U if few else cv2.CV_32S
    _, labels = cv2.connectedComponents(inside.view(np.uint8), connectivity=8, ltype=depth)
    return box, labels[inside].astype(np.uint16 if few else np.int32, copy=False)


class RegionsInBands:
    """The connected defect regions of one mask that comes in bands of whole rows, from top to bottom.

    In memory are 4 bytes for each defect pixel, and the last row. Of a mask in one band the regions are numbered as
    `label_regions` does; of several, in the order of the first band that each is in.
    """

    def __init__(self) -> None:
        self._labels: list[NDArray[np.integer[Any]]] = []  # of each band's defect pixels, row by row, from 1 on
        self._seams = Seams()

    @property
    def count(self) -> int:
        """How many regions there are, those of all bands joined."""
        return int(self._seams.components().max(initial=-1)) + 1

    def add(self, defect: NDArray[np.bool_]) -> tuple[slice, slice]:
        """Take in the next band, (h, W) bool. Returns the smallest box about its defect pixels."""
        box, labels = label_regions(defect)
        before = self._seams.count
        first, last = (np.zeros(defect.shape[1], dtype=np.int32) for _ in range(2))
        first[defect[0]] = labels[: np.count_nonzero(defect[0])]
        last[defect[-1]] = labels[labels.size - np.count_nonzero(defect[-1]) :]
        self._seams.join(first, last, int(labels.max(initial=0)))
        self._labels.append(labels.astype(np.int32) + np.int32(before) if before else labels)
        return box

    def joined(self) -> NDArray[np.integer[Any]]:
        """(P,) the region of each defect pixel, in the order of the bands and row by row, numbered 1, 2, …"""
        if len(self._labels) == 1:
            return self._labels[0]
        number = np.zeros(self._seams.count + 1, dtype=np.int32)
        number[1:] = self._seams.components() + 1
        return number[np.concatenate(self._labels)]


class RegionOverlap:
    """AU-PRO: the area under the per-region-overlap curve up to some false-positive rates, each divided by its rate.

    The curve has at each threshold the false-positive rate over all normal pixels of all images, and the share of
    a region at or above the threshold, averaged over all regions of all images. Between thresholds it is straight,
    also where it crosses a limit.

    region_sizes: (R,) pixels of each region, each at least 1; their sum is the number of defect pixels.
    n_normal:     normal pixels, at least 1.
    limits:       false-positive rates, each above 0 and at most 1.

    Source: Bergmann et al., The MVTec Anomaly Detection Dataset, IJCV 129, 2021 (performance metrics).
    """

    def __init__(self, region_sizes: NDArray[np.int64], *, n_normal: int, limits: Sequence[float]) -> None:
        self._sizes = region_sizes
        self._n_normal = n_normal
        self._limits = limits
        # While the false-positive rate goes from x0 to x1 at a score, the curve rises by the pixels with that score,
        # and it stays up: each adds the area limit - (x0 + x1) / 2, if x1 is within the limit. So two sums a region
        # are enough for all limits. They are sums of whole numbers: millions of equal addends don't drift.
        self._found = np.zeros(region_sizes.size)  # pixels so far
        self._passed = np.zeros(region_sizes.size)  # sum over them of N (x0 + x1)
        self._areas: dict[float, NDArray[np.float64]] = {}  # of the limits that x1 went beyond

    def add(self, ranking: Ranking, step: Step) -> None:
        """Take in the next lower defect scores, and where they stand among the normal ones."""
        x1 = (ranking.above + ranking.equal) / self._n_normal
        passed = (2 * ranking.above + ranking.equal)[step.entry] * step.times
        for limit in self._open():
            beyond = int(np.count_nonzero(x1 > limit))  # that many scores, the lowest
            if not beyond:
                continue
            within = int(np.searchsorted(step.entry, beyond))
            area = self._up_to(
                limit,
                self._found + self._by_region(step.region[within:], step.times[within:]),
                self._passed + self._by_region(step.region[within:], passed[within:]),
            )
            x0 = float(ranking.above[beyond - 1] / self._n_normal)
            if x0 < limit:  # the only score that the limit cuts: at the next lower one x0 is no less than x1 here
                cut = slice(int(np.searchsorted(step.entry, beyond - 1)), within)
                rise = (limit - x0) ** 2 / (2 * (float(x1[beyond - 1]) - x0) * limit)
                area += rise * self._by_region(step.region[cut], step.times[cut])
            self._areas[limit] = area / self._sizes
        if self._open():
            np.add.at(self._found, step.region, step.times.astype(np.float64))
            np.add.at(self._passed, step.region, passed.astype(np.float64))

    def areas(self) -> dict[float, NDArray[np.float64]]:
        """Limit -> (R,) the area of each region divided by the limit, once all scores were taken in.

        Each is that of the curve of the region alone, with the false-positive rate over all normal pixels. AU-PRO is
        their mean, `mean_area`: of all regions, or of some that are asked about.
        """
        within = {limit: self._up_to(limit, self._found, self._passed) / self._sizes for limit in self._open()}
        return self._areas | within

    def _open(self) -> list[float]:
        return [limit for limit in self._limits if limit not in self._areas]

    def _up_to(self, limit: float, found: NDArray[np.float64], passed: NDArray[np.float64]) -> NDArray[np.float64]:
        """(R,) the area of each region, divided by the limit, as a number of pixels."""
        return found - passed / (2 * self._n_normal * limit)

    def _by_region(self, region: NDArray[np.int64], weights: NDArray[np.int64]) -> NDArray[np.float64]:
        return np.bincount(region, weights, self._sizes.size).astype(np.float64, copy=False)


def mean_area(areas: NDArray[np.float64]) -> float:
    """AU-PRO of the regions that have these areas, (R,) as `RegionOverlap.areas` gives them, R >= 1."""
    return max(0.0, float(np.mean(areas)))  # rounding may pass 0 by an ulp


def area_up_to(ranking: Ranking, *, limit: float) -> NDArray[np.float64]:
    """(K,) how much area each distinct defect score adds under a curve over the false-positive rates 0 to `limit`.

    That of a score which lifts the curve by 1: while the false-positive rate goes from x0 to x1 (the normal scores
    that equal it) the curve rises in a straight line, and it stays up from there on.
    """
    x0 = ranking.above / ranking.n_normal
    x1 = (ranking.above + ranking.equal) / ranking.n_normal
    return area_below(x0, x1, limit=limit)


def area_below(x0: NDArray[np.float64], x1: NDArray[np.float64], *, limit: float) -> NDArray[np.float64]:
    """The area up to `limit` under curves that rise from 0 at x0 to 1 at x1 >= x0 and stay there; one shape for all."""
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
