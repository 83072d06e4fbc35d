"""Choose a number from scores: thresholds that come from normal images which the model was not fitted on.

One rule makes a verdict of a threshold, here and everywhere: anomalous iff score >= threshold
(`uadctl.metrics.is_anomalous`). Test images never choose a threshold.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from copy import copy
from fractions import Fraction
from typing import Any, Literal

import msgspec
import numpy as np
from numpy.typing import ArrayLike, NDArray

from uadctl.imaging import raster
from uadctl.imaging.raster import StoredMap


class Threshold(msgspec.Struct, frozen=True, kw_only=True):
    """A threshold and where it comes from, as it stands in thresholds.json.

    value:  anomalous iff score >= value; None where none could be chosen.
    method: "quantile" (of image scores, `quantile_threshold`) or "mean+3std" (of pixel scores, `PixelCalibration`).
    alpha:  the share of normal images that the quantile leaves at or above it; None for another method.
    n:      how many scores it was chosen from: images, or pixels.
    source: which normal images: the data set's own "validation" images; training images, each scored without itself
            ("leave-one-out"); training images that the model never saw ("holdout"); "training" images, of which nobody
            here knows whether a checkpoint has learned them; or images "given" later, to `uadctl.calibrate`. None only
            without a value.
    reason: why there is no value; None if there is one.

    Raises ValueError if value is not finite, or if not exactly one of value and reason is given, or a value has no
    source.
    """

    value: float | None
    method: Literal["quantile", "mean+3std"] = "quantile"
    alpha: float | None = None
    n: int = 0
    source: Literal["validation", "leave-one-out", "holdout", "training", "given"] | None = None
    reason: str | None = None

    def __post_init__(self) -> None:
        if self.value is None:
            if not self.reason:
                raise ValueError("a threshold without a value needs a reason")
            return
        if not math.isfinite(self.value):
            raise ValueError(f"the threshold is {self.value}; expected a finite number")
        if self.reason is not None:
            raise ValueError(f"the threshold is {self.value}, and a reason says why there is none: give one of the two")
        if self.source is None:
            raise ValueError(f"the threshold is {self.value}, but its source is not given")


def quantile_threshold(scores: ArrayLike, *, alpha: float) -> float:
    """The lowest threshold that calls at most a share `alpha` of these normal images anomalous.

    With the scores in ascending order and k = ceil(n (1 - alpha)), computed exactly, it is the next float32 above the
    k-th score. Equality counts as anomalous, so the score itself would call the k-th image anomalous too. At most
    floor(n alpha) of the n scores lie at or above the threshold, fewer where the k-th score is tied.

    With n < 1 / alpha, for example 20 images and alpha 0.01, that is the next float32 above the largest score: no
    calibration image is called anomalous, and so few images cannot tell a rate of alpha from a higher one. A
    further normal image then exceeds it about once in n + 1.

    scores: (n,) scores of normal images on which the model was not fitted, n >= 1; higher is more anomalous.
    alpha:  above 0 and below 1, read as the decimal number that is printed for it (0.1 is one tenth).

    Returns the float64 of a float32, the precision of detectors' scores: printed and read back it is the same.
    Raises ValueError if there is no score, if one is not finite or beyond float32, or for another alpha.
    """
    if not 0 < alpha < 1:
        raise ValueError(f"alpha is {alpha}; expected a share of normal images above 0 and below 1")
    values = np.asarray(scores)
    if values.ndim != 1:
        raise ValueError(f"scores has shape {values.shape}; expected one number an image, (n,)")
    if not values.size:
        raise ValueError("there is no score; a threshold needs at least one normal image outside the model's training")
    if values.dtype.kind not in "biuf":
        raise ValueError(f"scores is of type {values.dtype}; expected numbers")
    values = values.astype(np.float64)
    unusable = np.flatnonzero(~np.isfinite(values))
    if unusable.size:
        at = int(unusable[0])
        raise ValueError(f"scores[{at}] is {values[at]}; expected finite numbers")
    # In floating point, 10 (1 - 0.7) is a little more than 3, and the ceiling would be 4.
    k = math.ceil(values.size * (1 - Fraction(repr(float(alpha)))))
    return _next_float32_above(float(np.partition(values, k - 1)[k - 1]))


class PixelCalibration:
    """Statistics of the pixels of normal anomaly maps that come one by one, in float64 and bounded memory.

    NaN pixels are left out. n, images, left_out are counts; mean, std (of the population), max and threshold raise
    ValueError while n is 0.
    """

    def __init__(self) -> None:
        self.images = 0
        self.n = 0
        self.left_out = 0
        self._mean = 0.0
        self._squares = 0.0  # sum of squared distances to the mean
        self._max = -math.inf

    def add(self, anomaly_map: ArrayLike | StoredMap) -> None:
        """Take in the (H, W) map of one normal image; nothing of it is kept.

        A map in a file is read once, in bands of whole rows, and gives the same numbers as in an array.

        Raises ValueError if it is not 2-D or holds an infinite value, DataError if its file cannot be read; the image
        is then not counted.
        """
        taken = copy(self)
        for block in _blocks(anomaly_map if isinstance(anomaly_map, StoredMap) else _checked(anomaly_map)):
            taken._add_block(block)
        taken.images += 1
        vars(self).update(vars(taken))

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
        return self.mean + sigmas * self.std if self.std > 0 else _next_float32_above(self.max)

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


def _next_float32_above(value: float) -> float:
    """The smallest float32 greater than `value`, as a float."""
    with np.errstate(over="ignore"):
        nearest = np.float32(value)
        if float(nearest) <= value:
            nearest = np.nextafter(nearest, np.float32(np.inf))
    if not np.isfinite(nearest):
        raise ValueError(f"the score {value} is beyond float32; no threshold lies above it")
    return float(nearest)
