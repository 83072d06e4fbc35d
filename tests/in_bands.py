"""Maps, masks and pictures that are read region by region, and note how much of them at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from uadctl.imaging import raster
from uadctl.imaging.raster import ArrayRaster, StoredMap
from uadctl.records import Box, Size


class Stored(StoredMap):
    """A map that is given as if it lay in a file. most: the pixels of the largest region read so far."""

    def __init__(self, pixels: Any) -> None:
        self.pixels = np.asarray(pixels, dtype=np.float32)
        self.most = 0

    @property
    def size(self) -> Size:
        return Size(*self.pixels.shape)

    def read(self, box: Box) -> np.ndarray:
        self.most = max(self.most, box.height * box.width)
        found = self.pixels[box.rows, box.columns]
        assert found.shape == box.size
        return found.copy()

    def close(self) -> None:
        pass


class Pixels(ArrayRaster):
    """Pixels that are given as if they lay in a file. most: as `Stored`."""

    def __init__(self, pixels: Any) -> None:
        super().__init__(np.asarray(pixels))
        self.most = 0

    def read(self, box: Box) -> np.ndarray:
        self.most = max(self.most, box.height * box.width)
        found = super().read(box)
        assert found.shape[:2] == box.size
        return found


def use_bands(monkeypatch: pytest.MonkeyPatch, rows: int | Callable[[int], int]) -> None:
    """Let maps come in bands of so many rows, or as many as a function of the band's number says."""

    def bands(field: StoredMap, *, pixels: int = 1 << 22) -> Iterator[tuple[int, np.ndarray]]:
        top = number = 0
        while top < field.size.height:
            height = min(rows(number) if callable(rows) else rows, field.size.height - top)
            yield top, field.read(Box(top, 0, height, field.size.width))
            top, number = top + height, number + 1

    monkeypatch.setattr(raster, "bands", bands)
