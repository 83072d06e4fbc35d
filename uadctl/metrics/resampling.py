"""Metrics of many resamples of the images at once: what a bootstrap needs, without ranking the pixels anew each time.

A resample draws some images several times and others not at all. Every ranking metric of it needs, for each score,
how many normal and how many defect scores lie there: sums over the images, each weighed by how often it was drawn. So
these counts are taken once an image, and all resamples are a product of matrices, weights times counts. For images
the counts are exact, one a distinct score. For pixels they are kept in bins that all images share.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from uadctl.metrics.binned import ROUNDING, curve_of_bins
from uadctl.metrics.image import IMAGE_METRICS, checked_scores
from uadctl.metrics.keys import WIDER, common_zeros, keys64, narrow_keys, needed_shift, runs
from uadctl.metrics.masked import Map, Mask, checked_pair
from uadctl.metrics.pooled import Parts, pixel_metric_names, take_apart
from uadctl.metrics.ranking import Scores
from uadctl.metrics.region import area_below, checked_limit

#: Numbers in a matrix that is worked on at a time: 2 MB, to stay in the cache.
_CELLS = 2**18

_NONE = np.empty(0, dtype=np.int64)
_Number = TypeVar("_Number", np.int64, np.float64)


def bootstrap_weights(
    n: int, resamples: int, *, seed: int | np.random.Generator, strata: ArrayLike | None = None
) -> NDArray[np.int64]:
    """How often each of `n` images is drawn in each resample, if as many are drawn as there are, with replacement.

    seed:   a whole number, with which the same weights come again, or a generator to draw from.
    strata: (n,) labels; as many images of each label are drawn as there are, from that label alone. With the image
            labels no resample is without normal or without defect images, where no metric would be defined.

    Returns (resamples, n) int64, each row with the sum n. Raises ValueError unless n and resamples are at least 1, and
    for strata of another length.

    Source: Efron and Tibshirani, An Introduction to the Bootstrap, 1993, sections 6 and 8.
    """
    for name, value in (("n", n), ("resamples", resamples)):
        if value < 1:
            raise ValueError(f"{name} is {value}; expected at least 1")
    labels = np.zeros(n, dtype=np.int64) if strata is None else np.asarray(strata)
    if labels.shape != (n,):
        raise ValueError(f"strata has shape {labels.shape}; expected one label an image, ({n},)")
    rng = np.random.default_rng(seed)
    weights = np.zeros((resamples, n), dtype=np.int64)
    _, stratum = np.unique(labels, return_inverse=True)
    for number in range(int(stratum.max()) + 1):
        of_it = np.flatnonzero(stratum == number)
        weights[:, of_it] = rng.multinomial(of_it.size, np.full(of_it.size, 1 / of_it.size), size=resamples)
    return weights


def resample_image_metrics(labels: ArrayLike, scores: ArrayLike, weights: ArrayLike) -> dict[str, NDArray[np.float64]]:
    """image_auroc, image_ap and image_f1max of every resample, exact, from one sort.

    labels, scores: (n,) as `compute_image_auroc` takes them.
    weights:        (R, n) whole numbers, how often each image is in each resample, as of `bootstrap_weights`.

    Returns name -> (R,) float64: what the metric would be if each image were given that many times; NaN for a resample
    without normal or without defect images.

    Raises ValueError for weights of another shape, not whole or below 0, and as `compute_image_auroc` for the rest.
    """
    defect, values = checked_scores(labels, scores)
    times = _checked_weights(weights, values.size)
    if not values.size:
        return {name: np.full(len(times), np.nan) for name in IMAGE_METRICS}
    order = np.argsort(-values, kind="stable")
    values, is_defect = values[order], defect[order].astype(np.float64)
    starts = np.flatnonzero(np.append(True, values[1:] != values[:-1]))
    times = times[:, order]
    curves = _Curves(normal=times @ (1 - is_defect), defect=times @ is_defect)
    step = max(1, _CELLS // values.size)
    for start in range(0, len(times), step):
        rows = slice(start, start + step)
        some = times[rows].astype(np.float64)
        at = np.add.reduceat(some * is_defect, starts, axis=1)
        equal = np.add.reduceat(some, starts, axis=1) - at
        curves.add(rows, at=at, above=np.cumsum(equal, axis=1) - equal, equal=equal)
    return dict(zip(IMAGE_METRICS, curves.values(), strict=True))


class PixelStatistics:
    """What the pixel metrics of any resample of the images can be had from: counts of scores in bins, image by image.

    The interface and the rules of `PixelMetrics` for taking images in. All images share one set of bins, those of
    `StreamingPixelMetrics`: as narrow as they can be for at most `bins` of them to be filled, and scores in one bin
    count as tied. So the metrics are exact where all maps together have no more than `bins` distinct scores; else
    `bounds` says how far off they may be. Widening the bins as images come gives the same as if they had been so wide
    from the start, and the order of the images changes nothing but the order of the weights.

    An image takes 16 bytes for each bin that it fills, and 24 more where a defect does, at most.

    bins:   how many bins may be filled, at least 2. More bins, tighter bounds, more memory and time.
    memory: bytes that the counts of all images may take; the bins are widened until they do.

    Raises ValueError for fewer bins, or for a memory that is not above 0.
    """

    CHUNK = 2**17  # scores counted at a time: what is made of them stays in the cache
    SPAN = 2**18  # bins side by side up to which counting is faster than sorting

    def __init__(self, *, bins: int = 8192, memory: int = 2**28) -> None:
        if bins < 2:
            raise ValueError(f"bins is {bins}; expected at least 2")
        if memory < 1:
            raise ValueError(f"memory is {memory}; expected a number of bytes above 0")
        self._capacity = bins
        self._memory = memory
        self._shift = 0  # low bits dropped
        self._zeros = 63  # low bits that are 0 in all keys; not looked at any more once they are fewer than dropped
        self._filled = np.empty(0, dtype=np.int64)  # the bins that any image fills, ascending
        self._images: list[_Image] = []
        self._nbytes = 0

    @property
    def images(self) -> int:
        """How many images were taken in, in the order of which weights are given."""
        return len(self._images)

    @property
    def bins(self) -> int:
        """How many bins are filled."""
        return self._filled.size

    @property
    def nbytes(self) -> int:
        """The bytes that the counts take."""
        return self._nbytes

    @property
    def with_defect(self) -> NDArray[np.bool_]:
        """(n,) whether each image has a defect pixel that is not left out; strata for `bootstrap_weights`."""
        return np.array([image.regions > 0 for image in self._images], dtype=np.bool_)

    def add(self, mask: Mask, anomaly_map: Map) -> None:
        """Take in one image; arguments and errors as `PixelMetrics.add`."""
        self.take(take_apart(checked_pair(mask, anomaly_map, mask_name="the mask", map_name="its map")))

    def take(self, parts: Parts) -> None:
        """Take in one image that was taken apart already."""
        bins, every, shift = self._count(parts.every)
        defect_bins, defect, overlap = _count_defects(parts, shift)
        self._widen(shift - self._shift)
        self._images.append(_Image(bins, every, defect_bins, defect, overlap, parts.sizes.size))
        self._nbytes += self._images[-1].nbytes
        self._filled = np.union1d(self._filled, bins)
        self._widen(needed_shift(self._filled, self._capacity, least=0))
        while self.nbytes > self._memory and self._filled.size > 2:
            self._widen(1)

    def resample(self, weights: ArrayLike, *, fpr_limits: Iterable[float] = (0.3,)) -> dict[str, NDArray[np.float64]]:
        """All pixel metrics of every resample.

        weights:    (R, n) whole numbers, how often each image is in each resample, as of `bootstrap_weights`, the
                    images in the order in which they were taken in.
        fpr_limits: as `PixelMetrics.result`.

        Returns name -> (R,) float64, in the order of `PixelMetrics.result`: what the metric would be if each image had
        been taken in that many times; NaN for a resample without defect or without normal pixels.

        Raises ValueError for weights of another shape, not whole or below 0, or another limit.
        """
        limits = [checked_limit(limit) for limit in fpr_limits]
        names = pixel_metric_names(fpr_limits=limits)
        times = _checked_weights(weights, self.images).astype(np.float64)
        if not self._filled.size:
            return {name: np.full(len(times), np.nan) for name in names}
        n_defect = np.array([image.defect.sum() for image in self._images], dtype=np.float64)
        n_every = np.array([image.every.sum() for image in self._images], dtype=np.float64)
        regions = np.array([image.regions for image in self._images], dtype=np.float64)
        limits = list(dict.fromkeys(limits))
        curves = _Curves(
            normal=times @ (n_every - n_defect), defect=times @ n_defect, regions=times @ regions, limits=limits
        )
        width = min(1024, max(64, _CELLS // self.images))
        above = np.zeros(self.images)
        for every, defect, overlap in _Columns(self._images, self._filled).blocks(width):
            normal = every - defect
            up_to = above[:, None] + np.cumsum(normal, axis=1)
            above = up_to[:, -1].copy()
            found = defect.any(axis=0)
            if not found.any():
                continue
            normal, up_to, defect, overlap = (matrix[:, found] for matrix in (normal, up_to, defect, overlap))
            step = max(1, _CELLS // found.size)
            for start in range(0, len(times), step):
                rows = slice(start, start + step)
                equal = times[rows] @ normal
                curves.add(
                    rows,
                    at=times[rows] @ defect,
                    above=times[rows] @ up_to - equal,
                    equal=equal,
                    overlap=times[rows] @ overlap,
                )
        return dict(zip(names, curves.values(), strict=True))

    def bounds(
        self, weights: ArrayLike | None = None, *, fpr_limits: Iterable[float] = (0.3,)
    ) -> dict[str, float | None]:
        """How far each metric of one resample may be from its exact value, as `StreamingPixelMetrics.bounds`.

        weights: (n,) how often each image is in it; None: each once, the images as they are.

        Returns metric -> bound, 0 < bound <= 1, in the order of `resample`; None where the metric is undefined.
        """
        limits = [checked_limit(limit) for limit in fpr_limits]
        given = np.ones(self.images, dtype=np.int64) if weights is None else np.asarray(weights)
        times = _checked_weights(given[None] if given.ndim == 1 else given, self.images)
        if len(times) != 1:
            raise ValueError(f"weights has shape {given.shape}; expected one resample, ({self.images},)")
        every, defect = np.zeros(self._filled.size, dtype=np.int64), np.zeros(self._filled.size, dtype=np.int64)
        overlap = np.zeros(self._filled.size)
        regions = 0
        for image, drawn in zip(self._images, times[0].tolist(), strict=True):
            every[np.searchsorted(self._filled, image.bins)] += drawn * image.every
            at = np.searchsorted(self._filled, image.defect_bins)
            defect[at] += drawn * image.defect
            overlap[at] += drawn * image.overlap
            regions += drawn * image.regions
        normal = every - defect
        if not defect.any() or not normal.any():
            return dict.fromkeys(pixel_metric_names(fpr_limits=limits))
        # Whether a bin holds different scores is not known bin by bin, only that none can where all dropped bits are 0.
        mixed = np.full(every.size, self._shift > self._zeros)
        doubts = curve_of_bins(normal, defect, overlap, mixed, regions=regions).doubts(limits, tied=True)
        return {name: min(1.0, doubt + ROUNDING) for name, doubt in doubts.items()}

    def _count(self, every: Iterable[Scores]) -> tuple[NDArray[np.int64], NDArray[np.int64], int]:
        """The bins that scores fill, ascending, how many are in each, and how many bits are dropped for it."""
        shift = self._shift
        bins, counts = _NONE, _NONE
        for chunk in _chunks(every, self.CHUNK):
            found = [(bins, counts)]
            if chunk.dtype == np.float32:
                keys, n_zero, rest = narrow_keys(chunk)
                found += [self._count_keys(keys, WIDER, shift), self._count_keys(keys64(rest), 0, shift)]
                if n_zero:
                    found.append((np.zeros(1, dtype=np.int64), np.array([n_zero], dtype=np.int64)))
            else:
                found.append(self._count_keys(keys64(chunk), 0, shift))
            bins, counts = _grouped(*(np.concatenate(some) for some in zip(*found, strict=True)))
            wider = needed_shift(bins, self._capacity, least=0)
            if wider:
                shift += wider
                bins, counts = _grouped(bins >> wider, counts)
        return bins, counts, shift

    def _count_keys(
        self, keys: NDArray[np.int64], dropped: int, shift: int
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The bins that keys without their lowest `dropped` bits fill, ascending, and how many are in each."""
        if not keys.size:
            return _NONE, _NONE
        shared = max(shift, dropped)
        if self._zeros >= shift:
            zeros = dropped + common_zeros(keys)
            self._zeros = min(self._zeros, zeros)
            # Scores of few digits (float16, 8-bit images) share zeros at the end: bins without them lie side by side.
            shared = max(shift, zeros)
        bins = keys >> (shared - dropped)
        low, high = int(bins.min()), int(bins.max())
        if high - low < self.SPAN:
            bins -= low
            every = np.bincount(bins)
            found = np.flatnonzero(every)
            return (found + low) << (shared - shift), every[found]
        if low < 0 <= high:
            parts = [self._count_keys(some, dropped, shift) for some in (keys[keys < 0], keys[keys >= 0])]
            return np.concatenate([bins for bins, _ in parts]), np.concatenate([every for _, every in parts])
        distinct, count = np.unique(bins, return_counts=True)
        return distinct << (shared - shift), count.astype(np.int64)

    def _widen(self, by: int) -> None:
        """Drop so many more bits of all that was counted."""
        if by:
            self._shift += by
            self._filled = np.unique(self._filled >> by)
            self._images = [image.wider(by) for image in self._images]
            self._nbytes = sum(image.nbytes for image in self._images)


@dataclass(frozen=True, slots=True)
class _Image:
    """What one image has in the bins.

    bins:    (k,) int64, the bins that it fills, ascending. every: (k,) int64 scores in each, those on defects included.
    defect_bins: (d,) int64, those of them that hold a defect score. defect: (d,) int64 defect scores in each.
    overlap: (d,) float64, the sum of 1 / size of its region over the defect scores in each.
    regions: how many regions it has.
    """

    bins: NDArray[np.int64]
    every: NDArray[np.int64]
    defect_bins: NDArray[np.int64]
    defect: NDArray[np.int64]
    overlap: NDArray[np.float64]
    regions: int

    @property
    def nbytes(self) -> int:
        return self.bins.nbytes + self.every.nbytes + self.defect_bins.nbytes + self.defect.nbytes + self.overlap.nbytes

    def wider(self, by: int) -> _Image:
        """The same with so many more bits dropped."""
        bins, every = _grouped(self.bins >> by, self.every)
        _, overlap = _grouped(self.defect_bins >> by, self.overlap)
        defect_bins, defect = _grouped(self.defect_bins >> by, self.defect)
        return _Image(bins, every, defect_bins, defect, overlap, self.regions)


class _Columns:
    """The counts of all images as matrices, a row an image and a column a bin, in blocks from the highest bin down."""

    def __init__(self, images: list[_Image], filled: NDArray[np.int64]) -> None:
        self._shape = (len(images), filled.size)
        # Entries lie row after row, and in a row from the highest bin down: `_at` is ascending.
        self._every_at = self._entries([image.bins for image in images], filled)
        self._defect_at = self._entries([image.defect_bins for image in images], filled)
        self._every = np.concatenate([image.every[::-1] for image in images])
        self._defect = np.concatenate([image.defect[::-1] for image in images])
        self._overlap = np.concatenate([image.overlap[::-1] for image in images])

    def blocks(self, width: int) -> Iterator[tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]]:
        """(n, up to `width`) float64 matrices of all scores, of defect scores, and of overlap."""
        for start in range(0, self._shape[1], width):
            end = min(start + width, self._shape[1])
            every, at = self._within(self._every_at, start, end)
            defect, defect_at = self._within(self._defect_at, start, end)
            matrices = np.zeros((3, self._shape[0] * (end - start)))
            matrices[0, at] = self._every[every]
            matrices[1, defect_at] = self._defect[defect]
            matrices[2, defect_at] = self._overlap[defect]
            first, second, third = matrices.reshape(3, self._shape[0], end - start)
            yield first, second, third

    def _entries(self, bins: list[NDArray[np.int64]], filled: NDArray[np.int64]) -> NDArray[np.int64]:
        row = np.repeat(np.arange(len(bins)), [some.size for some in bins])
        column = filled.size - 1 - np.searchsorted(filled, np.concatenate([some[::-1] for some in bins]))
        return row * filled.size + column

    def _within(self, at: NDArray[np.int64], start: int, end: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Which entries lie in the columns from start to end, and where in a matrix of these columns alone."""
        rows = np.arange(self._shape[0]) * self._shape[1]
        first, last = np.searchsorted(at, rows + start), np.searchsorted(at, rows + end)
        length = last - first
        entry = np.arange(length.sum()) + np.repeat(first - (np.cumsum(length) - length), length)
        row, column = np.divmod(at[entry], self._shape[1])
        return entry, row * (end - start) + column - start


class _Curves:
    """The ranking metrics of R resamples, from columns of equal scores that come in blocks, the highest scores first.

    normal, defect: (R,) how many scores of each kind a resample has. regions: (R,) how many regions.
    limits: false-positive rates up to which AU-PRO is integrated.
    """

    def __init__(
        self,
        *,
        normal: NDArray[np.float64],
        defect: NDArray[np.float64],
        regions: NDArray[np.float64] | None = None,
        limits: Sequence[float] = (),
    ) -> None:
        self._undefined = (normal == 0) | (defect == 0)
        self._normal, self._defect, self._regions = (
            np.where(self._undefined, 1.0, total)[:, None]
            for total in (normal, defect, defect if regions is None else regions)
        )
        self._limits = limits
        self._found = np.zeros((normal.size, 1))  # defect scores in the columns so far
        self._auroc, self._ap, self._f1 = (np.zeros(normal.size) for _ in range(3))
        self._pro = np.zeros((len(limits), normal.size))

    def add(
        self,
        rows: slice,
        *,
        at: NDArray[np.float64],
        above: NDArray[np.float64],
        equal: NDArray[np.float64],
        overlap: NDArray[np.float64] | None = None,
    ) -> None:
        """Take in the next columns of some resamples.

        at, equal: (r, c) defect and normal scores in each. above: (r, c) normal scores in all columns before.
        overlap:   (r, c) what each adds to the per-region overlap, `regions` in sum.
        """
        normal, defect = self._normal[rows], self._defect[rows]
        found = self._found[rows] + np.cumsum(at, axis=1)
        self._found[rows] = found[:, -1:]
        up_to = above + equal
        self._auroc[rows] += np.einsum("rc,rc->r", at, (normal - (above + up_to) / 2) / normal)
        called = found + up_to
        self._f1[rows] = np.maximum(self._f1[rows], np.max(2 * found / (called + defect), axis=1))
        self._ap[rows] += np.einsum("rc,rc->r", at, found / np.maximum(called, 1))
        if overlap is not None:
            x0, x1 = above / normal, up_to / normal
            for pro, limit in zip(self._pro, self._limits, strict=True):
                pro[rows] += np.einsum("rc,rc->r", overlap, area_below(x0, x1, limit=limit))

    def values(self) -> list[NDArray[np.float64]]:
        """AUROC, AP, F1-max and AU-PRO to each limit, (R,) each; NaN where there are no scores of one kind."""
        defect = self._defect[:, 0]
        found = [self._auroc / defect, self._ap / defect, self._f1]
        # Rounding may pass 1 by an ulp.
        found += [
            np.minimum(1.0, pro / self._regions[:, 0] / limit)
            for pro, limit in zip(self._pro, self._limits, strict=True)
        ]
        return [np.where(self._undefined, np.nan, value) for value in found]


def _chunks(every: Iterable[Scores], size: int) -> Iterator[Scores]:
    """Scores of one array or several, at most `size` at a time."""
    for scores in every:
        for start in range(0, scores.size, size):
            yield scores[start : start + size]


def _count_defects(parts: Parts, shift: int) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """The bins that hold defect scores, ascending, how many each, and the sum of 1 / size of their regions."""
    bins, bin_of = np.unique(keys64(parts.defect) >> shift, return_inverse=True)
    # Counted for each bin and region before 1/size is added up: millions of equal addends would drift.
    regions = max(1, parts.sizes.size)
    pair, count = np.unique(bin_of * regions + parts.region, return_counts=True)
    share = count / parts.sizes[pair % regions]
    defect = np.bincount(bin_of, minlength=bins.size).astype(np.int64)
    return bins, defect, np.bincount(pair // regions, share, bins.size).astype(np.float64, copy=False)


def _grouped(bins: NDArray[np.int64], counts: NDArray[_Number]) -> tuple[NDArray[np.int64], NDArray[_Number]]:
    """Each bin once, ascending, with the sum of its counts."""
    if not bins.size:
        return bins, counts
    order = np.argsort(bins, kind="stable")
    bins = bins[order]
    starts, _ = runs(bins)
    return bins[starts], np.add.reduceat(counts[order], starts)


def _checked_weights(weights: ArrayLike, n: int) -> NDArray[np.int64]:
    """(R, n) int64; ValueError says what is wrong."""
    given = np.asarray(weights)
    if given.ndim != 2 or given.shape[1] != n:
        raise ValueError(
            f"weights has shape {given.shape}; expected one row a resample and one number an image, (R, {n})"
        )
    if given.dtype.kind not in "biu":
        raise ValueError(f"weights is of type {given.dtype}; expected whole numbers")
    if given.size and given.min() < 0:
        row, column = np.argwhere(given < 0)[0].tolist()
        raise ValueError(f"weights[{row}, {column}] is {given[row, column]}; expected 0 or more")
    return given.astype(np.int64)
