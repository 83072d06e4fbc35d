"""From raw anomaly maps to clean ones, and to regions."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from math import isfinite
from typing import TYPE_CHECKING, Any

import numpy as np

from uadctl.imaging.raster import Raster, StoredMap
from uadctl.imaging.regions import Parts, raster_of, regions
from uadctl.records import Box, row_boxes

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

__all__ = ["AnomalyMapPostprocess", "regions"]

BAND = 1 << 22
"""About so many pixels of a map are filtered together; more where the filters reach farther than such a band."""

_REACH = 4.0  # standard deviations of the Gaussian that are computed; beyond lies 6e-5 of its weight


@dataclass(frozen=True, slots=True)
class AnomalyMapPostprocess:
    """Clean anomaly maps: smooth, open, close, normalise, and press what is too small or too weak below a threshold.

    In this order. All lengths and areas are in pixels of the map, that is of the image file. A default one changes
    nothing. Nothing is ever computed from the map at hand that would make it incomparable with others: mean and
    standard deviation are given.

    gaussian_sigma: standard deviation of the Gaussian, cut at 4 of them; 0: none. Beyond its border a map goes on as
        its mirror image (the border pixel twice). NaN pixels have no weight, and stay NaN; pixels that have none within
        reach are exactly what they would be without.
    opening: side of a square; bright spots into which it does not fit are levelled (grey opening: the erosion's
        dilation). 0 and 1: none. Neither NaN nor what is beyond the border counts.
    closing: the same of dark gaps (the dilation's erosion), after the opening.
    normalize: mean and standard deviation of the maps of normal calibration images, smoothed, opened and closed the
        same way: (map - mean) / std. None: the map's unit stays.
    threshold: in the unit of the result; compared as a float32. It alone changes nothing: it says what the next two are
        about, the 8-connected parts at or above it.
    min_area: parts of fewer pixels are pressed: their pixels get the largest float32 below the threshold, so that they
        no longer reach it, and still rank above whatever never did. 0 and 1: none.
    hysteresis: parts that nowhere reach this higher value are pressed too. None: none.

    Raises ValueError for negative and non-finite settings, a standard deviation of 0, min_area or hysteresis without
    threshold, a hysteresis below it.

    Sources: morphology of grey values: Serra, Image Analysis and Mathematical Morphology, 1982; weights for absent
    pixels: Knutsson & Westin, Normalized and Differential Convolution, CVPR 1993; two thresholds: Canny, A
    Computational Approach to Edge Detection, PAMI 8, 1986.
    """

    normalize: tuple[float, float] | None = None
    gaussian_sigma: float = 0.0
    opening: int = 0
    closing: int = 0
    min_area: int = 0
    threshold: float | None = None
    hysteresis: float | None = None

    def __post_init__(self) -> None:
        for name in ("gaussian_sigma", "opening", "closing", "min_area"):
            value = getattr(self, name)
            if not (isfinite(value) and value >= 0):
                raise ValueError(f"{name} (={value}) must be 0 or a positive number")
        if self.normalize is not None:
            mean, std = self.normalize
            if not (isfinite(mean) and isfinite(std) and std > 0):
                raise ValueError(f"normalize (mean={mean}, std={std}) must be finite, the standard deviation positive")
        if self.threshold is None:
            wanting = [
                n for n, given in (("min_area", self.min_area), ("hysteresis", self.hysteresis is not None)) if given
            ]
            if wanting:
                raise ValueError(f"{wanting[0]} needs a threshold: it is about the pixels that reach it")
        elif not isfinite(self.threshold):
            raise ValueError(f"threshold (={self.threshold}) must be a finite number")
        elif self.hysteresis is not None and not self.threshold <= self.hysteresis < float("inf"):
            raise ValueError(
                f"hysteresis (={self.hysteresis}) must be a finite number not below threshold (={self.threshold})"
            )

    def __call__(self, anomaly_map: NDArray[np.float32]) -> NDArray[np.float32]:
        """The clean map: (H, W) float32 of the same shape; NaN pixels stay NaN. The map given is not changed.

        If there is nothing to do, it is the array given. Raises ValueError for another shape.
        """
        given = np.asarray(anomaly_map, dtype=np.float32)
        raster = raster_of(given)
        if not (self._filters or self._presses):
            return given
        filtered = np.concatenate(list(self._filtered(raster)))
        if not self._presses:
            return filtered
        bands = [filtered[box.rows] for box in self._boxes(raster)]
        return np.concatenate(list(self._pressed(bands, self._weak(bands))))

    def of_stored(self, stored: StoredMap, path: Path) -> StoredMap:
        """The same, bit for bit, of a map in a file, into another file, whatever their size.

        Memory is that of some bands of BAND pixels; if parts are pressed, also of some numbers a part, and the filters
        are computed twice. Raises OSError where the file cannot be written.
        """
        bands = self._filtered(stored)
        if self._presses:
            bands = self._pressed(bands, self._weak(self._filtered(stored)))
        return StoredMap.write(path, stored.size, bands)

    @property
    def _filters(self) -> bool:
        return self.normalize is not None or self._halo > 0

    @property
    def _presses(self) -> bool:
        return self.min_area > 1 or self.hysteresis is not None

    @property
    def _radius(self) -> int:
        return int(_REACH * self.gaussian_sigma + 0.5)

    @property
    def _halo(self) -> int:
        """How many rows above and below a pixel have a say in its result."""
        return self._radius + max(0, self.opening - 1) + max(0, self.closing - 1)

    def _boxes(self, raster: Raster) -> Iterator[Box]:
        """The bands of a map. A map in memory and one in a file are cut alike, so that they round alike."""
        return row_boxes(raster.size, max(BAND, 2 * self._halo * raster.size.width))

    def _filtered(self, raster: Raster) -> Iterator[NDArray[np.float32]]:
        """The map in bands, after everything that comes before the threshold."""
        height, width = raster.size
        for box in self._boxes(raster):
            top = max(0, box.y0 - self._halo)
            bottom = min(height, box.y0 + box.height + self._halo)
            # What the filters make of a cut, as if it were the map's border, does not reach beyond the halo.
            block = np.ascontiguousarray(raster.read(Box(top, 0, bottom - top, width)), dtype=np.float32)
            if self._radius:
                block = _smoothed(block, self.gaussian_sigma, self._radius)
            if self.opening > 1:
                block = _dilated(_eroded(block, self.opening), self.opening)
            if self.closing > 1:
                block = _eroded(_dilated(block, self.closing), self.closing)
            block = block[box.y0 - top :][: box.height]
            if self.normalize is not None:
                mean, std = self.normalize
                block = ((block.astype(np.float64) - mean) / std).astype(np.float32)
            yield block

    def _weak(self, bands: Iterable[NDArray[np.float32]]) -> NDArray[np.bool_]:
        """Which parts, numbered through all bands, belong to a component that is too small or too weak."""
        parts = Parts()
        areas, tops = [np.empty(0, np.int64)], [np.empty(0, np.float32)]
        for band in bands:
            mask = band >= np.float32(self.threshold or 0)
            labels, described = parts.add(mask)
            highest = np.full(len(described), -np.inf, dtype=np.float32)
            np.maximum.at(highest, labels[mask] - 1, band[mask])
            areas.append(described[:, 4].astype(np.int64))
            tops.append(highest)
        component = parts.components()
        area = np.zeros(parts.count, dtype=np.int64)
        np.add.at(area, component, np.concatenate(areas))
        weak = area < self.min_area
        if self.hysteresis is not None:
            top = np.full(parts.count, -np.inf, dtype=np.float32)
            np.maximum.at(top, component, np.concatenate(tops))
            weak |= top < np.float32(self.hysteresis)
        return np.asarray(weak[component], dtype=np.bool_)

    def _pressed(self, bands: Iterable[NDArray[np.float32]], weak: NDArray[np.bool_]) -> Iterator[NDArray[np.float32]]:
        """The bands once more, now with the weak parts below the threshold."""
        limit = np.float32(self.threshold or 0)
        below = np.nextafter(limit, np.float32(-np.inf))
        parts = Parts()
        for band in bands:
            first = parts.count
            labels, described = parts.add(band >= limit)
            pressed = np.concatenate([[False], weak[first : first + len(described)]])
            yield np.where(pressed[labels], below, band)


def _smoothed(block: NDArray[np.float32], sigma: float, radius: int) -> NDArray[np.float32]:
    """Smooth what is not NaN. block: (h, W) float32."""
    import cv2

    kernel = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    kernel /= kernel.sum()

    def blur(values: NDArray[np.float32]) -> NDArray[np.float32]:
        blurred = cv2.sepFilter2D(values, cv2.CV_32F, kernel, kernel, borderType=cv2.BORDER_REFLECT)
        return np.asarray(blurred, dtype=np.float32)

    unseen = np.isnan(block)
    if not unseen.any():
        return blur(block)
    # The weights add up to 1 but for rounding: only pixels with NaN within reach are divided by their share of them.
    near = cv2.dilate(unseen.view(np.uint8), np.ones((2 * radius + 1,) * 2, np.uint8)) > 0
    share = np.where(near & ~unseen, blur((~unseen).astype(np.float32)), np.float32(1))
    smooth = blur(np.where(unseen, np.float32(0), block)) / share
    return np.where(unseen, np.float32(np.nan), smooth)


def _eroded(block: NDArray[np.float32], side: int) -> NDArray[np.float32]:
    """The least value in a square about each pixel, of those that are not NaN."""
    import cv2

    return _in_square(block, cv2.erode, side, side // 2, np.float32(np.inf))


def _dilated(block: NDArray[np.float32], side: int) -> NDArray[np.float32]:
    """The greatest value in the square of `_eroded` turned half round, so that the shift of even sides is undone."""
    import cv2

    return _in_square(block, cv2.dilate, side, side - 1 - side // 2, np.float32(-np.inf))


def _in_square(
    block: NDArray[np.float32], extreme: Callable[..., Any], side: int, before: int, unseen: np.float32
) -> NDArray[np.float32]:
    """before: rows and columns of the square above and left of its pixel. unseen: a value that is never the extreme."""
    absent = np.isnan(block)
    # OpenCV's own border is never the extreme either.
    found = extreme(np.where(absent, unseen, block), np.ones((side, side), np.uint8), anchor=(before, before))
    return np.where(absent, np.float32(np.nan), found)
