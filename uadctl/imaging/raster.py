"""Images and maps of any size, read region by region.

What a file's format allows to be read in parts (TIFF and BigTIFF whose strips or tiles are uncompressed, Deflate or
PackBits; .npy; headerless line-scan files) is never read whole. Everything else is decoded whole, once.
"""

from __future__ import annotations

import contextlib
import math
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, Self, TypeAlias

import numpy as np

from uadctl.atomic import replacing
from uadctl.imaging.files import (
    check_band,
    check_float16,
    check_mask_size,
    check_type,
    checked_array,
    defect_pixels,
    file_named,
    read_image,
    stored_mask,
    stored_pixels,
    to_rgb8,
    upright,
)
from uadctl.imaging.formats import BrokenImage, kind_of
from uadctl.imaging.rows import PlainPixels, RawLayout, RegularFile, plain_pixels
from uadctl.records import Box, Size, row_boxes

if TYPE_CHECKING:
    from types import TracebackType

    from numpy.typing import NDArray

    from uadctl.imaging.tiff import TiffRegions

    # A map in memory, or in a file.
    Field: TypeAlias = "NDArray[np.float32] | StoredMap"

__all__ = [
    "LARGE",
    "Raster",
    "ArrayRaster",
    "FileRaster",
    "Window",
    "RawLayout",
    "StoredMap",
    "open_stored",
    "open_image",
    "open_mask",
    "defect_count",
    "row_bands",
    "bands",
    "write_tiled",
]

LARGE = 1 << 25
"""Images of more pixels than this, if they are cut into tiles, are never whole in memory, nor are their maps."""

MAP_TILE = 256
"""Side of the tiles of a map's file."""


class Raster(Protocol):
    """An image that is read region by region."""

    @property
    def size(self) -> Size:
        """Height and width as displayed."""
        ...

    def read(self, box: Box) -> NDArray[Any]:
        """(box.height, box.width[, channels]) pixels of a box inside the image. Raises DataError naming the file."""
        ...

    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Window:
    """The stored values that become 0 and 255; what lies beyond is cut. ValueError unless low < high, both finite."""

    low: float
    high: float

    def __post_init__(self) -> None:
        if not (self.low < self.high and math.isfinite(self.high - self.low)):
            raise ValueError(f"a window goes from a lower to a higher number, found {self.low:g} to {self.high:g}")


class ArrayRaster:
    """Pixels that are in memory."""

    def __init__(self, pixels: NDArray[Any]) -> None:
        self.pixels = pixels

    @property
    def size(self) -> Size:
        return Size(*self.pixels.shape[:2])

    def read(self, box: Box) -> NDArray[Any]:
        _check_inside(box, self.size)
        return self.pixels[box.rows, box.columns]

    def close(self) -> None:
        pass


class FileRaster:
    """Pixels in a file whose format is read region by region, upright. Several threads may read at once.

    convert: what becomes of the pixels of a region once they are read; may raise BrokenImage.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        stored: PlainPixels | TiffRegions,
        convert: Callable[[NDArray[Any]], NDArray[Any]] | None = None,
    ) -> None:
        self._path, self._stored, self._convert = path, stored, convert
        self._turned = stored.orientation >= 5
        self.size = Size(stored.size.width, stored.size.height) if self._turned else stored.size

    def read(self, box: Box) -> NDArray[Any]:
        _check_inside(box, self.size)
        with file_named(self._path):
            pixels = upright(self._stored.read(self._as_stored(box)), self._stored.orientation)
            return pixels if self._convert is None else self._convert(pixels)

    def close(self) -> None:
        self._stored.close()

    def _as_stored(self, box: Box) -> Box:
        """Where the file has the pixels of a box: what `upright` does, backwards."""
        y0, x0, orientation = box.y0, box.x0, self._stored.orientation
        if orientation in (3, 4, 7, 8):
            y0 = self.size.height - box.y0 - box.height
        if orientation in (2, 3, 6, 7):
            x0 = self.size.width - box.x0 - box.width
        return Box(x0, y0, box.width, box.height) if self._turned else Box(y0, x0, box.height, box.width)


def open_stored(source: str | os.PathLike[str], *, raw: RawLayout | None = None) -> Raster:
    """An image file as it is stored, upright: (h, w) grey or (h, w, 3) RGB of uint8, uint16 or float.

    raw: the layout of files named *.raw. Raises DataError as `uadctl.imaging.files.read_image` does.
    """
    with file_named(source):
        regions = _image_regions(source, raw)
        if regions is not None:
            return FileRaster(source, regions)
        pixels = stored_pixels(source, raw=raw)
        check_type(pixels.dtype)
        return ArrayRaster(pixels)


def open_image(
    source: str | os.PathLike[str] | NDArray[np.uint8], *, window: Window | None = None, raw: RawLayout | None = None
) -> Raster:
    """An image as (h, w, 3) RGB uint8, read region by region where its format allows, else decoded whole, now.

    window: None: the full range of the stored type, float in [0, 1], as `read_image`.
    Any region equals the same region of `read_image(source)` with the same window. An image that is read region by
    region may have any size: before all of one is read, look whether it is not larger than `MAX_PIXELS`.
    """
    if isinstance(source, np.ndarray):
        pixels = checked_array(source)
        return ArrayRaster(pixels if window is None else to_rgb8(pixels, window))
    with file_named(source):
        regions = _image_regions(source, raw)
    if regions is not None:
        return FileRaster(source, regions, lambda pixels: to_rgb8(pixels, window))
    return ArrayRaster(read_image(source, window=window, raw=raw))


def open_mask(paths: Sequence[str | os.PathLike[str]], *, size: Size | tuple[int, int] | None = None) -> Raster:
    """Ground truth as (h, w) uint8, 0 and 1, read region by region where its files allow it, else decoded whole, now.

    paths, size: as for `uadctl.imaging.files.read_mask`. So are the rule and what is raised, and any region equals the
    same region of what it gives. What is read region by region may have any size, and what is wrong with its pixels
    is told when they are read.
    """
    if not paths:
        raise ValueError("open_mask needs at least one mask file")
    whose = "its image" if size is not None else f"{os.fspath(paths[0])}, a mask of the same image,"
    opened: list[Raster] = []
    try:
        for path in paths:
            opened.append(_opened_mask(path))
            check_mask_size(path, opened[-1].size, opened[0].size if size is None else Size(*size), whose)
    except BaseException:
        for mask in opened:
            mask.close()
        raise
    return opened[0] if len(opened) == 1 else _Union(tuple(opened))


def _opened_mask(path: str | os.PathLike[str]) -> Raster:
    with file_named(path):
        regions = _regions(path, None)
        if regions is None:
            return ArrayRaster(defect_pixels(stored_mask(path)))
        return FileRaster(path, regions, defect_pixels)


@dataclass(frozen=True, slots=True)
class _Union:
    """Where any of some masks, all of one size, is not 0."""

    masks: tuple[Raster, ...]

    @property
    def size(self) -> Size:
        return self.masks[0].size

    def read(self, box: Box) -> NDArray[np.uint8]:
        union = self.masks[0].read(box)
        for mask in self.masks[1:]:
            union = union | mask.read(box)
        return union

    def close(self) -> None:
        for mask in self.masks:
            mask.close()


def defect_count(mask: Raster) -> int:
    """How many pixels of a mask are not 0. All of it is read, in bands: a file that is damaged anywhere is told."""
    return sum(int(np.count_nonzero(mask.read(box))) for box in row_bands(mask.size))


def row_bands(size: Size, *, pixels: int = 1 << 22) -> Iterator[Box]:
    """An image in bands of whole rows, about so many pixels each; no tile of a file of ours lies in two of them."""
    return row_boxes(size, pixels, multiple=MAP_TILE)


def _image_regions(path: str | os.PathLike[str], raw: RawLayout | None) -> PlainPixels | TiffRegions | None:
    """As `_regions`, of a type that an image may have."""
    stored = _regions(path, raw)
    if stored is not None:
        try:
            check_type(stored.dtype)
        except BrokenImage:
            stored.close()
            raise
    return stored


def _regions(path: str | os.PathLike[str], raw: RawLayout | None) -> PlainPixels | TiffRegions | None:
    """The stored pixels, of any type, of a file whose format is read region by region, else None."""
    file = RegularFile(path)
    try:
        stored = _regions_of(path, file, raw)
    except BaseException:
        file.close()
        raise
    if stored is None:
        file.close()
    return stored


def _regions_of(
    path: str | os.PathLike[str], file: RegularFile, raw: RawLayout | None
) -> PlainPixels | TiffRegions | None:
    plain = plain_pixels(path, file, raw)
    if plain is not None:
        return plain
    if kind_of(file.read(0, min(16, file.length))) != "TIFF":
        return None
    from uadctl.imaging.tiff import open_regions

    return open_regions(file)


def _check_inside(box: Box, size: Size) -> None:
    if not (0 <= box.y0 < box.y0 + box.height <= size.height and 0 <= box.x0 < box.x0 + box.width <= size.width):
        raise ValueError(
            f"the box {box.size} (height x width) at row {box.y0}, column {box.x0} is empty or lies outside of the "
            f"image of {size}"
        )


class StoredMap:
    """An anomaly map in a file: (H, W) float32, NaN where nothing was looked at.

    The file is a tiled, uncompressed BigTIFF that `read_map` and other programs read too. It is opened at the first
    look and read region by region, by several threads at once if need be. Raises DataError where it is no map.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._opened: FileRaster | None = None
        self._lock = threading.Lock()

    @classmethod
    def write(cls, path: Path, size: Size, bands: Iterable[NDArray[np.float32]]) -> StoredMap:
        """Write a map as it grows: bands of whole rows from top to bottom, of any heights that add up.

        Atomically. Memory is that of a band and of a row of the file's tiles. ValueError where the rows do not add up.
        The same map gives the same bytes, however it is cut into bands.
        """
        write_tiled(path, size, bands)
        return cls(path)

    @property
    def size(self) -> Size:
        return self._raster().size

    @property
    def shape(self) -> tuple[int, int]:
        return (self.size.height, self.size.width)

    def read(self, box: Box) -> NDArray[np.float32]:
        return self._raster().read(box)

    def close(self) -> None:
        """Close the file, which stays; the next look opens it again."""
        with self._lock:
            if self._opened is not None:
                self._opened.close()
            self._opened = None

    def delete(self) -> None:
        """Remove the file, if it is still there."""
        self.close()
        self.path.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _raster(self) -> FileRaster:
        with self._lock:
            if self._opened is None:
                with file_named(self.path):
                    stored = _image_regions(self.path, None)
                    if stored is None or stored.dtype != np.float32 or stored.channels != 1:
                        if stored is not None:
                            stored.close()
                        raise BrokenImage("not an anomaly map that is read region by region: float32, one channel")
                self._opened = FileRaster(self.path, stored)
            return self._opened


def write_tiled(
    path: Path,
    size: Size,
    bands: Iterable[NDArray[np.floating[Any]]],
    *,
    precision: Literal["float32", "float16"] = "float32",
    note: str | None = None,
) -> None:
    """Write a map as it grows, as a tiled, uncompressed BigTIFF: what `StoredMap.write` does, see there.

    precision, note: as `uadctl.imaging.files.write_map`. Raises OSError naming `path` where the disk is full.
    """
    import tifffile

    height, width = size
    if height < 1 or width < 1:
        raise ValueError(f"a map must have pixels, found {height}x{width} (height x width)")
    tiles = _tiles(Size(height, width), bands, np.dtype(precision).newbyteorder("<"))
    with (
        _naming(path),
        replacing(path) as temporary,
        tifffile.TiffWriter(temporary, bigtiff=True, byteorder="<") as writer,
    ):
        writer.write(
            tiles,
            shape=(height, width),
            dtype=precision,
            tile=(MAP_TILE, MAP_TILE),
            photometric="minisblack",
            metadata=None,
            software="uadctl",
            description=note,
        )


@contextlib.contextmanager
def _naming(path: Path) -> Iterator[None]:
    """What the system says while a file is written, such as that the disk is full, with the file's name."""
    try:
        yield
    except OSError as error:
        if error.errno is None or error.filename is not None:
            raise
        raise OSError(error.errno, os.strerror(error.errno), str(path)) from error


def _tiles(size: Size, bands: Iterable[NDArray[Any]], dtype: np.dtype[Any]) -> Iterator[bytes]:
    """The bytes of whole tiles of a map from bands of its rows, row by row; what lies outside of the map is 0.

    As bytes, since of an array that does not fit on the disk numpy does not say what the system said.
    """
    columns = range(0, size.width, MAP_TILE)
    waiting = np.zeros((MAP_TILE, columns[-1] + MAP_TILE), dtype)
    filled = done = 0
    for band in bands:
        done += check_band(band, size, done)
        if dtype.itemsize == 2:  # float16, in whatever byte order
            check_float16(band)
        rest = band
        while len(rest):
            part = rest[: MAP_TILE - filled]
            waiting[filled : filled + len(part), : size.width] = part
            filled, rest = filled + len(part), rest[len(part) :]
            if filled == MAP_TILE:
                for x in columns:
                    yield waiting[:, x : x + MAP_TILE].tobytes()
                filled = 0
    if done != size.height:
        raise ValueError(f"{done} rows of {size.height} were given")
    if filled:
        waiting[filled:] = 0
        for x in columns:
            yield waiting[:, x : x + MAP_TILE].tobytes()


def bands(field: Field, *, pixels: int = 1 << 22) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """A map in bands of whole rows, top to bottom, each with its first row: about so many pixels at a time.

    A map in memory comes in one piece if it is not larger than `LARGE`.
    """
    size = Size(*field.shape)
    if isinstance(field, StoredMap):
        for box in row_bands(size, pixels=pixels):
            yield box.y0, field.read(box)
        return
    for box in row_boxes(size, field.size if field.size <= LARGE else pixels):
        yield box.y0, field[box.rows]
