"""Small parts, good and bad, for tests that need a data set on disk."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest

from uadctl.datasets import Dataset
from uadctl.errors import DataError
from uadctl.records import Sample

DATA_SETS = (
    "autovi, bmad, btad, datumaro, demo, folder (also custom), kaputt, kolektorsdd (also ksdd), kolektorsdd2 (also ksdd2), "
    "magnetic_tile (also mtd), manifest, mpdd, mvtec, mvtec_3d (also mvtec_3d_ad), mvtec_ad2 (also ad2), "
    "mvtec_loco (also loco), real_iad (also realiad), vad, visa"
)
"""All kinds of data set, as a message lists them."""


def surface(seed: int, height: int = 64, width: int = 64) -> np.ndarray:
    """A striped, noisy (H, W, 3) uint8 image."""
    rng = np.random.default_rng(seed)
    stripes = 128 + 60 * np.sin(np.arange(width) / 5 + rng.uniform(0, 6))
    return np.clip(stripes[None, :, None] + rng.normal(0, 8, (height, width, 3)), 0, 255).astype(np.uint8)


def scratched(seed: int, height: int = 64, width: int = 64) -> tuple[np.ndarray, np.ndarray]:
    """A surface with a red bar, and its (H, W) uint8 mask of 0 and 255."""
    image, mask = surface(seed, height, width), np.zeros((height, width), np.uint8)
    image[20:32, 24:48] = (200, 30, 30)
    mask[20:32, 24:48] = 255
    return image, mask


def write(path: Path, image: np.ndarray) -> Path:
    """Write RGB or grey pixels in the format of the path's suffix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = image if image.ndim == 2 else np.ascontiguousarray(image[:, :, ::-1])
    assert cv2.imwrite(str(path), pixels)
    return path


def write_category(root: Path, name: str, *, train: int = 6, good: int = 2, bad: int = 3, size=(64, 64)) -> Path:
    """A category in MVTec AD's layout with one kind of defect, scratch."""
    for i in range(train):
        write(root / name / "train" / "good" / f"{i:03}.png", surface(i, *size))
    for i in range(good):
        write(root / name / "test" / "good" / f"{i:03}.png", surface(100 + i, *size))
    for i in range(bad):
        image, mask = scratched(200 + i, *size)
        write(root / name / "test" / "scratch" / f"{i:03}.png", image)
        write(root / name / "ground_truth" / "scratch" / f"{i:03}_mask.png", mask)
    return root / name


# --- what is asked of a data set and of its errors


def message(error: pytest.ExceptionInfo[DataError]) -> tuple[str, str | None]:
    """What was said, and its help."""
    return error.value.message, error.value.help


def relatives(samples: Sequence[Sample]) -> list[str]:
    """The names of images in results."""
    return [sample.relative for sample in samples]


def mask_sums(dataset: Dataset) -> list[int | None]:
    """How many defect pixels each test image has; None where that is not known."""
    masks = dataset.get_test_paths()[2]
    assert masks is not None
    return [None if mask is None else int(mask.sum()) for mask in masks]
