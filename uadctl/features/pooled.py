"""A whole image as one row of numbers, for detectors that know rows and no images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

BINS = 32


def pool(maps: Sequence[torch.Tensor]) -> NDArray[np.float64]:
    """The mean of each channel over all places, one layer after the other.

    maps: (B, channels, h, w) features of each layer, as a backbone gives them. Returns (B, sum of channels) float64;
    images of any size give rows of the same length.
    """
    import torch

    out: NDArray[np.float64] = np.concatenate(
        [m.mean(dim=(2, 3), dtype=torch.float64).cpu().numpy() for m in maps], axis=1
    )
    return out


def histogram(image: NDArray[np.uint8]) -> NDArray[np.float64]:
    """The share of the pixels in each of 32 equal ranges of each colour: 96 numbers, red first.

    image: (H, W, 3) RGB uint8. Knows no network and no place: what remains where there are no pretrained weights.
    """
    counts = [np.bincount(image[:, :, c].ravel() // (256 // BINS), minlength=BINS) for c in range(3)]
    shares: NDArray[np.float64] = np.concatenate(counts) / (image.shape[0] * image.shape[1])
    return shares


def pixels(image: NDArray[np.uint8], *, side: int) -> NDArray[np.float64]:
    """The image brought to a square of `side` pixels, by their means, as side * side * 3 numbers in [0, 1], row-major.

    image: (H, W, 3) RGB uint8. Mostly for comparison: whatever moves the part by a pixel is larger than most defects.
    """
    import cv2

    height, width = image.shape[:2]
    shrinks = side <= height and side <= width
    small = cv2.resize(image, (side, side), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
    return np.asarray(small, np.float64).ravel() / 255
