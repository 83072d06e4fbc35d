"""The size a model sees, and the way back from its map to the pixels of the file."""

from __future__ import annotations

from dataclasses import dataclass
from math import floor, sqrt
from typing import TYPE_CHECKING, Any

import numpy as np

from uadctl.errors import DataError
from uadctl.records import Box, Size

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Box", "Geometry", "View"]


@dataclass(frozen=True, slots=True)
class Geometry:
    """How images become the size a model sees. Settings only; `plan` applies them to one size of image.

    size:   keep the aspect ratio: the sides have the area of a size x size square, each rounded to a multiple of
            `stride`. Squashing a 500x1250 part into a square instead costs points of AUROC. None: see `resize`.
    resize: exactly this height and width; `size` must then be None or left at its default. With neither, images keep
            their own size.
    crop:   afterwards, a centre crop of this height and width. What lies outside gets no score.
    stride: the backbone's; each side made by `size` is at least one stride long.

    Raises ValueError for settings that are not positive or exclude each other.
    """

    size: int | None = 256
    resize: Size | tuple[int, int] | None = None
    crop: Size | tuple[int, int] | None = None
    stride: int = 1

    def __post_init__(self) -> None:
        if self.resize is not None and self.size is not None:
            if self.size != 256:
                raise ValueError(f"size ({self.size}) and resize {tuple(self.resize)} exclude each other")
            object.__setattr__(self, "size", None)
        for name in ("resize", "crop"):
            pair = getattr(self, name)
            if pair is not None:
                pair = Size(*pair)
                if min(pair) < 1:
                    raise ValueError(f"{name} must be two positive numbers, height and width, found {tuple(pair)}")
                object.__setattr__(self, name, pair)
        if self.size is not None and self.size < 1:
            raise ValueError(f"size must be positive, found {self.size}")
        if self.stride < 1:
            raise ValueError(f"stride must be positive, found {self.stride}")

    def plan(self, original: Size | tuple[int, int]) -> View:
        """Lay out images of one size.

        original: height and width of the file as displayed.

        However long and thin the image, the result stays bounded: a side that would be shorter than one stride becomes
        one stride, and the other takes the rest of the area. Raises DataError where the crop does not fit, ValueError
        where `original` is not positive.
        """
        original = Size(*original)
        if min(original) < 1:
            raise ValueError(f"an image of {original} (height x width) has no pixels")
        if self.resize is not None:
            resized = Size(*self.resize)
        elif self.size is not None:
            resized = _same_area(original, self.size, self.stride)
        else:
            resized = original
        crop = resized if self.crop is None else Size(*self.crop)
        if crop.height > resized.height or crop.width > resized.width:
            raise DataError(
                f"a crop of {crop} does not fit into {resized}, the size of the preprocessed image "
                f"(height x width; the file has {original})",
                help="Make [preprocess] crop smaller, or resize larger.",
            )
        y0, x0 = (resized.height - crop.height) // 2, (resized.width - crop.width) // 2
        return View(original=original, resized=resized, box=Box(y0, x0, crop.height, crop.width))


def _same_area(original: Size, size: int, stride: int) -> Size:
    ratio = sqrt(original.height / original.width)
    height, width = size * ratio, size / ratio
    if height < stride:
        height, width = float(stride), size * size / stride
    elif width < stride:
        height, width = size * size / stride, float(stride)
    return Size(_multiple(height, stride), _multiple(width, stride))


def _multiple(length: float, stride: int) -> int:
    return max(1, floor(length / stride + 0.5)) * stride


@dataclass(frozen=True, slots=True)
class View:
    """One image's way to the model and back.

    original: the file as displayed; resized: after resizing; box: the crop, in pixels of the resized image (all of it
    if there is no crop).
    """

    original: Size
    resized: Size
    box: Box

    @property
    def size(self) -> Size:
        """Height and width of the preprocessed image."""
        return Size(self.box.height, self.box.width)

    @property
    def cropped(self) -> bool:
        """Whether part of the image is not looked at."""
        return self.size != self.resized

    def apply(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Resize and crop an image of the size planned for.

        image: (H, W, 3) or (H, W) uint8. Shrinks by averaging areas, enlarges bilinearly, each direction by itself.

        Returns uint8 of `self.size`; without resize and crop, the image itself. Raises ValueError for another size.
        """
        if image.shape[:2] != self.original:
            raise ValueError(f"planned for {self.original} (height x width), found {Size(*image.shape[:2])}")
        resized = _resample(image, self.resized)
        if not self.cropped:
            return resized
        y0, x0, height, width = self.box
        return np.ascontiguousarray(resized[y0 : y0 + height, x0 : x0 + width])

    def back(self, anomaly_map: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
        """Lay a map of the preprocessed image over the file, pixel by pixel.

        anomaly_map: (h, w) floats that cover the preprocessed image, at its size or any other (a patch grid).

        Bilinear between pixel centres at half-integers, as `apply` resizes, so a map neither shifts nor needs corner
        alignment. Returns (H, W) float32 of `self.original`; NaN where the pixel's centre lies outside the crop.
        Raises ValueError unless the map is 2-D and not empty.
        """
        import cv2

        if anomaly_map.ndim != 2 or anomaly_map.size == 0:
            raise ValueError(f"a map must be a non-empty (h, w) array, found {anomaly_map.shape}")
        values = np.ascontiguousarray(anomaly_map, dtype=np.float32)
        if not self.cropped:
            if values.shape == self.original:
                return values
            # OpenCV takes (width, height).
            wanted = (self.original.width, self.original.height)
            return np.asarray(cv2.resize(values, wanted, interpolation=cv2.INTER_LINEAR), dtype=np.float32)
        result = np.full(self.original, np.nan, dtype=np.float32)
        y0, x0, height, width = self.box
        rows, row_a, row_b, row_weight = _along(self.original.height, self.resized.height, y0, height, values.shape[0])
        columns, column_a, column_b, column_weight = _along(
            self.original.width, self.resized.width, x0, width, values.shape[1]
        )
        tall = values[row_a] + (values[row_b] - values[row_a]) * row_weight[:, None]
        inside = tall[:, column_a] + (tall[:, column_b] - tall[:, column_a]) * column_weight
        result[rows, columns] = inside
        return result


def _resample(image: NDArray[np.uint8], size: Size) -> NDArray[np.uint8]:
    import cv2

    height, width = image.shape[:2]
    if (height, width) == size:
        return image
    # OpenCV averages areas only if no direction grows, so the shrinking one goes first. It takes (width, height).
    small = (min(width, size.width), min(height, size.height))
    if small != (width, height):
        image = np.asarray(cv2.resize(image, small, interpolation=cv2.INTER_AREA), dtype=np.uint8)
    if small != (size.width, size.height):
        wanted = (size.width, size.height)
        image = np.asarray(cv2.resize(image, wanted, interpolation=cv2.INTER_LINEAR), dtype=np.uint8)
    return image


def _along(
    original: int, resized: int, start: int, length: int, cells: int
) -> tuple[slice, NDArray[np.intp], NDArray[np.intp], NDArray[np.float32]]:
    """One direction of `back`: the file pixels inside the crop, the two map cells around each, the second's weight."""
    centres = (np.arange(original) + 0.5) * (resized / original)
    inside = np.flatnonzero((centres >= start) & (centres < start + length))
    if inside.size == 0:
        none = np.zeros(0, dtype=np.intp)
        return slice(0, 0), none, none, np.zeros(0, dtype=np.float32)
    position = np.clip((centres[inside] - start) * (cells / length) - 0.5, 0, cells - 1)
    first = np.floor(position).astype(np.intp)
    second = np.minimum(first + 1, cells - 1)
    return slice(int(inside[0]), int(inside[-1]) + 1), first, second, (position - first).astype(np.float32)
