"""Pixel metrics: how well anomaly maps find the defect pixels of all images together."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from uadctl.metrics.ranking import Ranking, Scores, auroc, average_precision, f1_max, rank
from uadctl.metrics.record import Metrics, undefined
from uadctl.metrics.region import area_under_pro, aupro_name, checked_limit, label_regions

#: (N, H, W) in one array, or one array an image, the images of any sizes.
Stack: TypeAlias = Sequence[ArrayLike] | NDArray[Any]

_POOLED: dict[str, tuple[str, Callable[[Ranking], float]]] = {
    "pixel_auroc": ("pixel AUROC", auroc),
    "pixel_ap": ("pixel AP", average_precision),
    "pixel_f1max": ("pixel F1-max", f1_max),
}


def pixel_metric_names(*, fpr_limits: Iterable[float] = (0.3,)) -> tuple[str, ...]:
    """The names of all pixel metrics, in the order in which they are reported."""
    return tuple(dict.fromkeys([*_POOLED, *(aupro_name(limit) for limit in fpr_limits)]))


class PixelMetrics:
    """Pixel AUROC, AP, F1-max and AU-PRO at any limits, all exact, from maps that come one by one.

    The pixels of all images are pooled. A pixel is a defect iff its mask is > 0; every other pixel of every image,
    good ones included, is normal. Only scores are kept, 4 bytes a pixel for float32 maps (8 for float64), and the
    normal ones are sorted in place once, when `result` is called. Images come in any order, which changes no number
    by more than rounding, and more may be added after a result. Infinite scores rank like any other.

    NaN in a map means "not looked at": such pixels are left out together with their mask pixels. Regions are those
    of the whole mask; a region counts with the pixels that are left, and not at all if none is.
    """

    def __init__(self) -> None:
        self._normal = _Pool()
        self._defect: list[Scores] = []
        self._region_sizes: list[NDArray[np.int64]] = []
        self._images = 0
        self._left_out = 0
        self._regions_left_out = 0

    def add(self, mask: ArrayLike, anomaly_map: ArrayLike) -> None:
        """Take in one image; nothing of the two arrays is kept.

        mask:        (H, W) of any dtype, or (H, W, channels) where a defect may be in any colour channel (an alpha
                     channel, the second of two or the fourth of four, is not looked at). Zeros for a good image.
        anomaly_map: (H, W), higher is more anomalous; as large as the mask. float16, float32 and small integers are
                     kept as float32, anything wider as float64, so that no two scores become equal.

        Raises ValueError if the sizes differ, or if the mask is None or holds NaN; the image is then not counted.
        """
        self._add(*_checked(mask, anomaly_map, mask_name="the mask", map_name="its map"))

    def result(self, *, fpr_limits: Iterable[float] = (0.3,)) -> Metrics:
        """All pixel metrics of the images so far.

        fpr_limits: false-positive rates up to which AU-PRO is integrated, each above 0 and at most 1.

        metrics: pixel_auroc, pixel_ap, pixel_f1max and for each limit `aupro_name(limit)`; all None, with the
                 reason, where there is no defect pixel or no normal one.
        counts:  pixel_images, pixels and defect_pixels (both without those left out), regions, pixels_left_out
                 (NaN in the map), regions_left_out (NaN on every pixel).
        """
        limits = [checked_limit(limit) for limit in fpr_limits]
        normal, defect, region_sizes = self._pooled()
        counts = {
            "pixel_images": self._images,
            "pixels": normal.size + defect.size,
            "defect_pixels": defect.size,
            "regions": region_sizes.size,
            "pixels_left_out": self._left_out,
            "regions_left_out": self._regions_left_out,
        }
        if reason := _undefined(counts):
            return undefined(pixel_metric_names(fpr_limits=limits), reason, counts=counts)
        ranking = rank(defect, normal)
        metrics: dict[str, float | int | None] = {name: measure(ranking) for name, (_, measure) in _POOLED.items()}
        for limit in limits:
            metrics[aupro_name(limit)] = area_under_pro(ranking, region_sizes, limit=limit)
        return Metrics(metrics, {}, counts)

    def _add(self, defect: NDArray[np.bool_], scores: Scores) -> None:
        left_out = np.isnan(scores)
        n_left_out = int(np.count_nonzero(left_out))
        if defect.any():
            regions = label_regions(defect)[defect]
            n_regions = int(regions.max())
            if n_left_out:
                regions = regions[~left_out[defect]]
            sizes = np.bincount(regions, minlength=n_regions + 1)[1:]
            found = scores[defect & ~left_out] if n_left_out else scores[defect]
            self._defect.append(found[np.argsort(regions, kind="stable")])
            self._region_sizes.append(sizes[sizes > 0].astype(np.int64))
            self._regions_left_out += int(np.count_nonzero(sizes == 0))
            self._normal.add(scores[~(defect | left_out)])
        else:
            self._normal.add(scores[~left_out] if n_left_out else scores.ravel())
        self._images += 1
        self._left_out += n_left_out

    def _pooled(self) -> tuple[Scores, Scores, NDArray[np.int64]]:
        """Normal scores in ascending order; defect scores region after region; the sizes of the regions."""
        normal = self._normal.sorted()
        defect = np.concatenate(self._defect) if self._defect else np.empty(0, dtype=np.float32)
        sizes = np.concatenate(self._region_sizes) if self._region_sizes else np.empty(0, dtype=np.int64)
        return normal, defect, sizes


class _Pool:
    """Scores from many images in little more than their own memory, sorted on demand.

    They are copied into slabs too large for malloc's heap (beyond 32 MiB it always maps them): pages are taken when
    first written to, and given back when a slab is dropped, so that pooling the slabs needs one copy of the scores
    and a slab, where chunks an image were measured to need nearly two copies.
    """

    SLAB = 2**24  # scores

    def __init__(self) -> None:
        self._full: list[Scores] = []
        self._slab: Scores = np.empty(0, dtype=np.float32)
        self._filled = 0
        self._sorted = True

    def add(self, scores: Scores) -> None:
        """Copy (n,) scores in."""
        if scores.dtype != self._slab.dtype:
            self._next_slab(scores.dtype, self.SLAB)
        while scores.size:
            if self._filled == self._slab.size:
                self._next_slab(scores.dtype, self.SLAB)
            fits = min(scores.size, self._slab.size - self._filled)
            self._slab[self._filled : self._filled + fits] = scores[:fits]
            self._filled += fits
            self._sorted = False
            scores = scores[fits:]

    def sorted(self) -> Scores:
        """All scores so far in ascending order; float64 if any of them is. Not to be written to."""
        if not self._sorted:
            self._next_slab(self._slab.dtype, 0)
            end = sum(slab.size for slab in self._full)
            pooled: Scores = np.empty(end, dtype=np.result_type(*{slab.dtype for slab in self._full}))
            while self._full:
                slab = self._full.pop()
                pooled[end - slab.size : end] = slab
                end -= slab.size
            pooled.sort()
            self._full = [pooled]
            self._sorted = True
        return self._full[0] if self._full else self._slab[:0]

    def _next_slab(self, dtype: np.dtype[np.floating[Any]], size: int) -> None:
        if self._filled:
            self._full.append(self._slab[: self._filled])
        self._slab = np.empty(size, dtype=dtype)
        self._filled = 0


def compute_pixel_auroc(masks: Stack, maps: Stack) -> float:
    """Area under the ROC curve over the pixels of all images together.

    masks: (N, H, W) array, or a sequence of (H, W) or (H, W, channels) arrays of any sizes; a pixel is a defect iff
           its value is > 0 at any dtype, with colours in any channel. Zeros for good images; None is not taken.
    maps:  (N, H, W) array or sequence of (H, W) arrays, each as large as its mask; higher is more anomalous. NaN
           pixels are left out together with their mask pixels; infinite ones rank like any other.

    Raises ValueError where it is undefined (no defect pixel, or no normal one), or if a mask and its map differ in
    size, naming the index and both sizes. For several metrics of the same maps use `PixelMetrics`: one sort for all.
    """
    return _compute("pixel_auroc", masks, maps)


def compute_pixel_ap(masks: Stack, maps: Stack) -> float:
    """Average precision over the pixels of all images together, without interpolation.

    Arguments and errors as `compute_pixel_auroc`. Without normal pixels it would be 1 whatever the maps, so that is
    an error as well.
    """
    return _compute("pixel_ap", masks, maps)


def compute_pixel_f1max(masks: Stack, maps: Stack) -> float:
    """The highest F1 over all thresholds, over the pixels of all images together: an upper bound found with the masks.

    Arguments and errors as `compute_pixel_auroc`. Without normal pixels it would be 1 whatever the maps, so that is
    an error as well.
    """
    return _compute("pixel_f1max", masks, maps)


def compute_aupro(masks: Stack, maps: Stack, *, limit: float = 0.3, mode: Literal["exact"] = "exact") -> float:
    """AU-PRO: area under the per-region-overlap curve for false-positive rates from 0 to `limit`, over `limit`.

    Regions are the 8-connected components of each mask, and each counts the same. The false-positive rate is over
    all pixels outside regions in all images, good ones included. Equal scores fall together, and the curve is
    straight between thresholds, also where it crosses the limit.

    limit: false-positive rate, above 0 and at most 1.
    mode:  "exact", the curve over every distinct score.

    Other arguments and errors as `compute_pixel_auroc`; ValueError for another limit or mode.

    Source: Bergmann et al., The MVTec Anomaly Detection Dataset, IJCV 129, 2021 (performance metrics).
    """
    if mode != "exact":
        raise ValueError(f'mode is "{mode}"; expected "exact"')
    limit = checked_limit(limit)
    return _compute(aupro_name(limit), masks, maps, limit=limit, title=f"AU-PRO to {limit!r}")


def pooled_metrics(masks: Stack, maps: Stack, *, fpr_limits: Iterable[float] = (0.3,)) -> Metrics:
    """`PixelMetrics` of whole stacks, arguments as `compute_pixel_auroc`; undefined metrics are None with a reason."""
    limits = [checked_limit(limit) for limit in fpr_limits]
    if len(masks) != len(maps):
        raise ValueError(f"{len(masks)} masks but {len(maps)} maps; expected one of each an image")
    pixels = PixelMetrics()
    for i in range(len(maps)):
        pixels._add(*_checked(masks[i], maps[i], mask_name=f"masks[{i}]", map_name=f"maps[{i}]"))
    return pixels.result(fpr_limits=limits)


def _compute(name: str, masks: Stack, maps: Stack, *, limit: float | None = None, title: str | None = None) -> float:
    measured = pooled_metrics(masks, maps, fpr_limits=() if limit is None else (limit,))
    value = measured.metrics[name]
    if value is None:
        raise ValueError(f"{title or _POOLED[name][0]} is undefined: {measured.reasons[name]}")
    return float(value)


def _undefined(counts: dict[str, int]) -> str | None:
    """Why the pixel metrics are undefined, or None if they are not."""
    looked_at = f"images: {counts['pixel_images']}, pixels: {counts['pixels']}"
    if counts["pixels_left_out"]:
        looked_at += f", NaN pixels left out: {counts['pixels_left_out']}"
    if not counts["pixel_images"]:
        return "there are no maps"
    if not counts["pixels"]:
        return f"every pixel of the maps is NaN ({looked_at})"
    if not counts["defect_pixels"]:
        if counts["regions_left_out"]:
            return (
                f"the maps are NaN on every defect pixel ({looked_at}, regions left out: {counts['regions_left_out']})"
            )
        return f"the masks have no defect pixel ({looked_at})"
    if counts["defect_pixels"] == counts["pixels"]:
        return f"the masks have no normal pixel ({looked_at})"
    return None


def _checked(
    mask: ArrayLike | None, anomaly_map: ArrayLike, *, mask_name: str, map_name: str
) -> tuple[NDArray[np.bool_], Scores]:
    """(H, W) bool, True on defect pixels, and (H, W) float32 or float64 scores; ValueError names what is wrong."""
    if mask is None:
        raise ValueError(f"{mask_name} is None; leave the image out, or give zeros if it has no defect")
    scores = np.asarray(anomaly_map)
    if scores.ndim != 2 or not scores.size:
        raise ValueError(f"{map_name} has shape {scores.shape}; expected (height, width), not empty")
    if scores.dtype.kind not in "biuf":
        raise ValueError(f"{map_name} is of type {scores.dtype}; expected numbers")
    defect = _defect_pixels(np.asarray(mask), mask_name)
    if defect.shape != scores.shape:
        sizes = ["{}x{}".format(*array.shape) for array in (defect, scores)]
        raise ValueError(f"{mask_name} is {sizes[0]}, {map_name} is {sizes[1]} (height x width)")
    dtype = np.float32 if np.can_cast(scores.dtype, np.float32) else np.float64
    return defect, scores.astype(dtype, copy=False)


def _defect_pixels(mask: NDArray[Any], name: str) -> NDArray[np.bool_]:
    if mask.dtype.kind not in "biuf":
        raise ValueError(f"{name} is of type {mask.dtype}; expected numbers, a defect where they are > 0")
    if mask.dtype.kind == "f" and np.isnan(mask).any():
        raise ValueError(f"{name} holds NaN; to leave pixels out, put NaN in the map")
    if mask.ndim == 2:
        return np.asarray(mask > 0)
    if mask.ndim == 3 and 1 <= mask.shape[2] <= 4:
        colours = mask[:, :, :-1] if mask.shape[2] in (2, 4) else mask
        return np.asarray((colours > 0).any(axis=2))
    raise ValueError(f"{name} has shape {mask.shape}; expected (height, width) or (height, width, channels)")
