"""Statistics of the pixels of normal images' anomaly maps: the scale of every overlay, and a threshold of maps."""

from __future__ import annotations

import math
from collections.abc import Iterator
from copy import copy
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from uadctl.imaging import raster
from uadctl.imaging.raster import StoredMap
from uadctl.thresholds.normal import next_float32_above


class PixelCalibration:
    """Statistics of the pixels of normal anomaly maps that come one by one, in float64 and bounded memory.

    NaN pixels are left out. n, images, left_out are counts; mean, std (of the population), max and threshold raise
    ValueError while n is 0. maxima: the highest pixel of each map that has any, in the order in which they came.
    """

    def __init__(self) -> None:
        self.images = 0
        self.n = 0
        self.left_out = 0
        self._mean = 0.0
        self._squares = 0.0  # sum of squared distances to the mean
        self._maxima: list[float] = []
        self._max = -math.inf

    def add(self, anomaly_map: ArrayLike | StoredMap) -> None:
        """Take in the (H, W) map of one normal image; nothing of it is kept.

        A map in a file is read once, in bands of whole rows, and gives the same numbers as in an array.

        Raises ValueError if it is not 2-D or holds an infinite value, DataError if its file cannot be read; the image
        is then not counted.
        """
        taken = copy(self)
        taken._max = -math.inf
        for block in _blocks(anomaly_map if isinstance(anomaly_map, StoredMap) else _checked(anomaly_map)):
            taken._add_block(block)
        taken.images += 1
        if taken._max > -math.inf:
            self._maxima.append(taken._max)  # the same list in both
        taken._max = max(taken._max, self._max)
        vars(self).update(vars(taken))

    @property
    def maxima(self) -> tuple[float, ...]:
        return tuple(self._maxima)

    @property
    def mean(self) -> float:
        self._need_pixels()
        return self._mean

    @property
    def std(self) -> float:
        """Of the population: the squared distances are divided by n."""
        self._need_pixels()
        return math.sqrt(self._squares / self.n)

    @property
    def max(self) -> float:
        self._need_pixels()
        return self._max

    def threshold(self, sigmas: float = 3.0) -> float:
        """mean + sigmas * std: a pixel is anomalous iff its score is at or above it.

        Where all pixels are equal, as those of maps that were cut to 0..1 may be, the next float32 above them: pixels
        like those of the normal images are not anomalous.

        Source: Heckler-Kram et al., The MVTec AD 2 Dataset, 2025 (3 standard deviations: the threshold of its
        baselines).
        """
        return self.mean + sigmas * self.std if self.std > 0 else next_float32_above(self.max)

    def _add_block(self, block: np.ndarray) -> None:
        values = block[~np.isnan(block)].astype(np.float64)
        self.left_out += block.size - values.size
        if not values.size:
            return
        highest = float(values.max())
        if math.isinf(highest) or math.isinf(float(values.min())):
            raise ValueError(
                "the map holds an infinite value; expected finite scores, or NaN where nothing was looked at"
            )
        # Chan, Golub and LeVeque 1979: two groups are joined by their means and squared distances. The sum of squares
        # less the squared sum loses the digits that matter when the spread is small beside the mean.
        mean = float(values.mean())
        n = self.n + values.size
        step = mean - self._mean
        self._squares += float(np.square(values - mean).sum()) + step * step * self.n * values.size / n
        self._mean += step * values.size / n
        self._max = max(self._max, highest)
        self.n = n

    def _need_pixels(self) -> None:
        if not self.n:
            raise ValueError(
                f"there is no pixel to calibrate on (normal images: {self.images}, NaN pixels: {self.left_out})"
            )


def _checked(anomaly_map: ArrayLike) -> NDArray[Any]:
    scores = np.asarray(anomaly_map)
    if scores.ndim != 2:
        raise ValueError(f"the map has shape {scores.shape}; expected (height, width)")
    if scores.dtype.kind not in "biuf":
        raise ValueError(f"the map is of type {scores.dtype}; expected numbers")
    return scores


def _blocks(scores: NDArray[Any] | StoredMap) -> Iterator[NDArray[Any]]:
    """A map in blocks of whole rows, of a million pixels or one row: the same ones however it is stored."""
    rows = max(1, 2**20 // max(1, scores.shape[1]))
    rest: NDArray[Any] = np.empty((0, scores.shape[1]), dtype=np.float32)
    for band in [scores] if isinstance(scores, np.ndarray) else (band for _, band in raster.bands(scores)):
        band = np.concatenate([rest, band]) if rest.size else band
        whole = band.shape[0] // rows * rows
        for top in range(0, whole, rows):
            yield band[top : top + rows]
        rest = band[whole:]
    if rest.shape[0]:
        yield rest
