"""Pixel metrics: how well anomaly maps find the defect pixels of all images together."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from uadctl.metrics.masked import Map, Mask, checked_pair
from uadctl.metrics.pooled import (
    POOLED,
    Parts,
    Pool,
    Stack,
    Tally,
    pixel_metric_names,
    rank_in_pool,
    take_apart,
)
from uadctl.metrics.ranking import RankingSums, Scores
from uadctl.metrics.record import Metrics, undefined
from uadctl.metrics.region import RegionOverlap, aupro_name, checked_limit, mean_area
from uadctl.metrics.resampling import PixelStatistics
from uadctl.metrics.streaming import StreamingPixelMetrics


@dataclass(frozen=True, slots=True)
class RegionResult:
    """The pixel metrics of some images, and what each of their regions adds to AU-PRO.

    areas: for each limit `aupro_name(limit)` -> (R,) float64, the AU-PRO of each region by itself, with the
           false-positive rate over all normal pixels; in the order in which the images and their regions were taken
           in. AU-PRO is their mean. Empty where the metrics are undefined.
    """

    metrics: Metrics
    areas: dict[str, NDArray[np.float64]]


class PixelMetrics:
    """Pixel AUROC, AP, F1-max and AU-PRO at any limits, all exact, from maps that come one by one.

    The pixels of all images are pooled. A pixel is a defect iff its mask is > 0; every other pixel of every image,
    good ones included, is normal. Images come in any order, which changes no number by more than rounding, and more may
    be added after a result. Infinite scores rank like any other.

    Up to four million scores are kept, and sorted when `result` is called. From there on float32 scores are counted,
    each distinct one by itself, in one or two tables of four octaves and at most 128 MB each; 4 bytes are kept for
    each score outside of them and for each defect pixel. A float64 score always takes 8 bytes. `result` needs 8 bytes
    more for each defect pixel (20 if any score is float64), and some tens of MB to work in.

    NaN in a map means "not looked at": such pixels are left out together with their mask pixels. Regions are those
    of the whole mask; a region counts with the pixels that are left, and not at all if none is.

    For maps beyond memory there is `StreamingPixelMetrics`.

    per_image: also given every image, taken apart only once, for metrics of resamples.
    regions: what the regions are called in a reason.
    """

    def __init__(self, *, per_image: PixelStatistics | None = None, regions: str = "regions") -> None:
        self._per_image = per_image
        self._regions = regions
        self._tally = Tally()
        self._pool = Pool()
        self._defect: list[Scores] = []
        self._region_sizes: list[NDArray[np.int64]] = []

    @staticmethod
    def memory_for(pixels: int) -> int:
        """About how many bytes so many float32 scores take.

        Few are kept, and a copy is sorted. Of many, two tables in full, and a tenth of the scores: those of defects,
        and those outside of the tables. Scores all over the range of float32 take more, up to 5 bytes each.
        """
        return 5 * pixels if pixels < Pool.FEW else 2 * 4 * Pool.TABLE + pixels // 2

    def add(self, mask: Mask, anomaly_map: Map) -> None:
        """Take in one image; nothing of the two arrays is kept.

        A map in a file is read in bands of whole rows, once to look at it and once for each engine that takes it in,
        and its mask with it: in memory are a band, and some 20 bytes for each defect pixel. The metrics are those of
        the same image in arrays, AU-PRO but for the order in which the regions are added up (rounding).

        mask:        (H, W) of any dtype, or (H, W, channels) where a defect may be in any colour channel (an alpha
                     channel, the second of two or the fourth of four, is not looked at). Zeros for a good image. Or a
                     `Raster` of such pixels.
        anomaly_map: (H, W), higher is more anomalous; as large as the mask. float16, float32 and small integers are
                     kept as float32, anything wider as float64, so that no two scores become equal. Or a `StoredMap`.

        Raises ValueError if the sizes differ, or if the mask is None or holds NaN, DataError where a file cannot be
        read; the image is then not counted, unless the file broke after it was looked at.
        """
        self.take(take_apart(checked_pair(mask, anomaly_map, mask_name="the mask", map_name="its map")))

    def take(self, parts: Parts) -> None:
        """Take in one image that was taken apart already; nothing of `parts.every` is kept."""
        self._tally.add(parts)
        if self._per_image is not None:
            self._per_image.take(parts)
        for scores in parts.every:
            self._pool.add(scores)
        if parts.defect.size:
            self._defect.append(parts.defect)
            self._region_sizes.append(parts.sizes)

    def result(self, *, fpr_limits: Iterable[float] = (0.3,)) -> Metrics:
        """All pixel metrics of the images so far.

        fpr_limits: false-positive rates up to which AU-PRO is integrated, each above 0 and at most 1.

        metrics: pixel_auroc, pixel_ap, pixel_f1max and for each limit `aupro_name(limit)`; all None, with the
                 reason, where there is no defect pixel or no normal one.
        counts:  pixel_images, pixels and defect_pixels (both without those left out), regions, pixels_left_out
                 (NaN in the map), regions_left_out (NaN on every pixel).
        """
        return self.result_by_region(fpr_limits=fpr_limits).metrics

    def result_by_region(self, *, fpr_limits: Iterable[float] = (0.3,)) -> RegionResult:
        """`result`, and region by region what AU-PRO is the mean of, from one ranking of the scores."""
        limits = [checked_limit(limit) for limit in fpr_limits]
        counts = self._tally.counts()
        if reason := self._tally.undefined(regions=self._regions):
            return RegionResult(undefined(pixel_metric_names(fpr_limits=limits), reason, counts=counts), {})
        n_normal = self._tally.pixels - self._tally.defect_pixels
        sizes = np.concatenate(self._region_sizes)
        sums, overlap = RankingSums(), RegionOverlap(sizes, n_normal=n_normal, limits=limits)
        for ranking, step in rank_in_pool(self._defect, sizes, self._pool, n_normal=n_normal, pooled=True):
            sums.add(ranking)
            overlap.add(ranking, step)
        found = overlap.areas()
        areas = {aupro_name(limit): found[limit] for limit in limits}
        metrics: dict[str, float | int | None] = {name: measure(sums) for name, (_, measure) in POOLED.items()}
        metrics.update({name: mean_area(area) for name, area in areas.items()})
        return RegionResult(Metrics(metrics, {}, counts), areas)


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


def compute_aupro(
    masks: Stack, maps: Stack, *, limit: float = 0.3, mode: Literal["exact", "streaming"] = "exact"
) -> float:
    """AU-PRO: area under the per-region-overlap curve for false-positive rates from 0 to `limit`, over `limit`.

    Regions are the 8-connected components of each mask, and each counts the same. The false-positive rate is over
    all pixels outside regions in all images, good ones included. Equal scores fall together, and the curve is
    straight between thresholds, also where it crosses the limit.

    limit: false-positive rate, above 0 and at most 1.
    mode:  "exact", the curve over every distinct score, which keeps every score until the end. "streaming", one pass
           in a fixed amount of memory: the curve of `StreamingPixelMetrics`, exact where the scores have no more
           than 65,536 values (float16 maps), else off by no more than its `bounds()` say.

    Other arguments and errors as `compute_pixel_auroc`; ValueError for another limit or mode.

    Source: Bergmann et al., The MVTec Anomaly Detection Dataset, IJCV 129, 2021 (performance metrics).
    """
    if mode not in ("exact", "streaming"):
        raise ValueError(f'mode is "{mode}"; expected "exact" or "streaming"')
    limit = checked_limit(limit)
    engine = PixelMetrics() if mode == "exact" else StreamingPixelMetrics()
    return _compute(aupro_name(limit), masks, maps, limit=limit, title=f"AU-PRO to {limit!r}", engine=engine)


def pooled_metrics(
    masks: Stack,
    maps: Stack,
    *,
    fpr_limits: Iterable[float] = (0.3,),
    engine: PixelMetrics | StreamingPixelMetrics | None = None,
) -> Metrics:
    """All pixel metrics of whole stacks, arguments as `compute_pixel_auroc`; undefined ones are None with a reason.

    engine: what measures, before its first image; None: `PixelMetrics`.
    """
    limits = [checked_limit(limit) for limit in fpr_limits]
    if len(masks) != len(maps):
        raise ValueError(f"{len(masks)} masks but {len(maps)} maps; expected one of each an image")
    pixels = engine or PixelMetrics()
    for i in range(len(maps)):
        pair = checked_pair(masks[i], maps[i], mask_name=f"masks[{i}]", map_name=f"maps[{i}]")
        pixels.take(take_apart(pair))
    return pixels.result(fpr_limits=limits)


def _compute(
    name: str,
    masks: Stack,
    maps: Stack,
    *,
    limit: float | None = None,
    title: str | None = None,
    engine: PixelMetrics | StreamingPixelMetrics | None = None,
) -> float:
    measured = pooled_metrics(masks, maps, fpr_limits=() if limit is None else (limit,), engine=engine)
    value = measured.metrics[name]
    if value is None:
        raise ValueError(f"{title or POOLED[name][0]} is undefined: {measured.reasons[name]}")
    return float(value)
