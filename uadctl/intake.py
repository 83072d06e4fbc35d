"""The way of an image to a detector: opened, seen by its camera, whole or in tiles, resized; and the way back of a map.

Decoding runs ahead in threads, in a bounded window. With a tiling, images too large for memory are never whole in it.
"""

from __future__ import annotations

import functools
import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from itertools import cycle, repeat
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar, cast

import numpy as np

from uadctl.errors import DataError
from uadctl.imaging.camera import Camera
from uadctl.imaging.files import check_whole, write_map
from uadctl.imaging.geometry import Geometry
from uadctl.imaging.maps import AnomalyMapPostprocess
from uadctl.imaging.raster import LARGE, ArrayRaster, StoredMap, bands
from uadctl.imaging.tiles import extract_tile, tile_boxes
from uadctl.progress import Progress, Silent
from uadctl.records import Box, Size, Step, Tiling
from uadctl.room import ran_out

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from uadctl.imaging.geometry import View
    from uadctl.imaging.raster import Field, Raster
    from uadctl.models.base import Image

T = TypeVar("T")

# Decoded images waiting, beyond the batch that is being filled: enough to keep the network busy, and no more.
_AHEAD = 4


@dataclass(frozen=True, slots=True)
class Intake:
    """What happens to an image on its way to a detector, and to the map on its way back.

    camera: from stored pixels to those that a model sees, and which of them count.
    geometry: then the size; of each tile, if there is a tiling. tiling: None: images are given whole.
    postprocess: of maps, in the file's pixels.
    """

    camera: Camera = field(default_factory=Camera)
    geometry: Geometry = field(default_factory=Geometry)
    tiling: Tiling | None = None
    postprocess: AnomalyMapPostprocess | None = None

    def keep_map(self, path: Path, anomaly_map: Field) -> None:
        """Write a map as files hold it: 0 where the camera does not look, NaN where a crop cut."""
        if not isinstance(anomaly_map, StoredMap):
            write_map(path, self.blanked(anomaly_map))
        elif self._has_areas:
            StoredMap.write(path, anomaly_map.size, self._blanked_rows(anomaly_map))
        else:
            write_map(path, anomaly_map)

    def blanked(self, anomaly_map: NDArray[np.float32]) -> NDArray[np.float32]:
        """A map with 0 where the camera does not look, as files hold it."""
        return joined(self._blanked_rows(anomaly_map)) if self._has_areas else anomaly_map

    @property
    def _has_areas(self) -> bool:
        return self.camera.roi is not None or bool(self.camera.ignore)

    def _blanked_rows(self, anomaly_map: Field) -> Iterator[NDArray[np.float32]]:
        size = Size(*anomaly_map.shape)
        extent = self.camera.extent(size)
        for y0, rows in bands(anomaly_map):
            counts = self._counts(size, extent, Box(y0, 0, *rows.shape))
            yield rows if counts is None else np.where(counts, rows, np.float32(0))

    def _counts(self, size: Size, extent: Box, box: Box) -> NDArray[np.bool_] | None:
        """Which pixels of a box of whole rows count; None: all. extent: the camera's."""
        counts = np.zeros(box.size, bool)
        inner = _overlap(extent, box)
        if inner is None:
            return counts
        inside = self.camera.counts(size, inner)
        counts[inner.y0 - box.y0 :, inner.x0 :][: inner.height, : inner.width] = True if inside is None else inside
        return None if counts.all() else counts


@dataclass(frozen=True, slots=True)
class Way:
    """One image's way to a detector and back, without its pixels.

    size: of the file as displayed. extent: the part that the camera looks at. view: of the extent, or of a tile.
    """

    size: Size
    extent: Box
    view: View
    camera: Camera

    @property
    def large(self) -> bool:
        """Whether the image, if it is cut into tiles, is never whole in memory."""
        return self.size.height * self.size.width > LARGE

    def back(self, anomaly_map: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
        """A map of the whole extent, as the detector got it, over the file: (H, W), NaN where nothing is looked at."""
        inside = self.view.back(anomaly_map)
        (rows,) = self._within([inside]) if self.extent.size == self.size else [joined(self.wide([inside]))]
        return rows

    def wide(self, rows: Iterable[NDArray[np.float32]]) -> Iterator[NDArray[np.float32]]:
        """Bands of the extent's map as bands of the file's: NaN outside of the extent and where nothing counts."""
        size, extent = self.size, self.extent
        nothing = np.full((1, size.width), np.nan, np.float32)
        yield from repeat(nothing, extent.y0)
        for band in self._within(rows):
            if extent.width == size.width:
                yield band
            else:
                wide = np.full((len(band), size.width), np.nan, np.float32)
                wide[:, extent.columns] = band
                yield wide
        yield from repeat(nothing, size.height - extent.y0 - extent.height)

    def _within(self, rows: Iterable[NDArray[np.float32]]) -> Iterator[NDArray[np.float32]]:
        y0 = self.extent.y0
        for band in rows:
            counts = self.camera.counts(self.size, Box(y0, self.extent.x0, len(band), self.extent.width))
            yield band if counts is None else np.where(counts, band, np.float32(np.nan))
            y0 += len(band)


@dataclass(frozen=True, slots=True)
class Opened:
    """One image, opened.

    picture: as in the file, RGB uint8. seen: after the camera's steps, in the same coordinates.
    """

    picture: Raster
    seen: Raster
    way: Way

    def ready(self) -> NDArray[np.uint8]:
        """The extent as the detector gets it."""
        return self.way.view.apply(self.seen.read(self.way.extent))

    def close(self) -> None:
        self.picture.close()


@dataclass(frozen=True, slots=True)
class Decoded:
    """One source after decoding. Exactly one of `error` and the other fields but `name` is set.

    image: as in the file, (H, W, 3) RGB uint8. ready: preprocessed. view: the way back from a map of `ready`.
    name: of the file, if it is one.
    """

    index: int
    seconds: float
    image: NDArray[np.uint8] | None = None
    ready: NDArray[np.uint8] | None = None
    view: Way | None = None
    error: DataError | None = None
    name: str | None = None


@dataclass(frozen=True, slots=True)
class Augmentation:
    """Further versions of each training image.

    steps: done to each, in order. copies: how many versions beside the image itself. seed: of what is drawn.
    """

    steps: tuple[Step, ...]
    copies: int
    seed: int


@dataclass(frozen=True, slots=True)
class Learned:
    """What one training image is. source: its place among the sources. augmented: whether it is a changed version.

    way: back from a map of it. tile: its box inside the extent; None for a whole image.
    """

    source: int
    augmented: bool
    way: Way
    tile: Box | None = None


# A picture as it is decoded -> the picture of a camera that has changed. The number is the source's.
Corrupt: TypeAlias = "Callable[[int, NDArray[np.uint8]], NDArray[np.uint8]]"


def open_source(source: Image, intake: Intake, *, corrupt: Callable[[Any], Any] | None = None) -> Opened:
    """Open one image for a detector. Without a tiling it is decoded whole; so it is where something is done to it.

    Raises DataError naming the file.
    """
    picture: Raster | None = None
    try:
        picture = intake.camera.open(source)
        return _opened(picture, source, intake, corrupt)
    except BaseException as error:
        if picture is not None:
            picture.close()
        if isinstance(error, DataError):
            raise named(error, source) from error
        raise


def _opened(picture: Raster, source: Image, intake: Intake, corrupt: Callable[[Any], Any] | None) -> Opened:
    camera, tiling = intake.camera, intake.tiling
    size = picture.size
    large = size.height * size.width > LARGE
    if tiling is None or corrupt is not None or not large:
        if tiling is not None and large:
            raise _too_large_to_change(size)
        if not isinstance(source, np.ndarray):
            check_whole(size)
        pixels = picture.read(Box.whole(size))
        picture.close()
        picture = ArrayRaster(pixels if corrupt is None else corrupt(pixels))
    seen = camera.see(picture, tiled=tiling is not None)
    extent = camera.extent(size)
    shown = extent.size if tiling is None else Size(tiling.size, tiling.size)
    return Opened(picture, seen, Way(size, extent, intake.geometry.plan(shown), camera))


def _too_large_to_change(size: Size) -> DataError:
    return DataError(
        f"{size} (height x width) is too large to be changed as a whole, as [augment] and [robustness] do",
        help="Leave out [augment], --robustness and [robustness], or take smaller images.",
    )


def decode(
    sources: Iterable[Image], *, intake: Intake, threads: int = 2, corrupt: Corrupt | None = None
) -> Iterator[Decoded]:
    """Read and preprocess each source whole, in order; a broken one gives its error in place of an image."""
    jobs = (
        functools.partial(_decode_one, index, source, intake, bound(corrupt, index))
        for index, source in enumerate(sources)
    )
    return ahead(jobs, threads)


def bound(corrupt: Corrupt | None, index: int) -> Callable[[Any], Any] | None:
    return None if corrupt is None else functools.partial(corrupt, index)


def _decode_one(index: int, source: Image, intake: Intake, change: Callable[[Any], Any] | None) -> Decoded:
    start = time.perf_counter()
    try:
        with closing(open_source(source, intake, corrupt=change)) as opened:
            image, ready = opened.picture.read(Box.whole(opened.way.size)), opened.ready()
    except DataError as error:
        return Decoded(index, time.perf_counter() - start, error=named(error, source))
    except Exception as error:
        if not ran_out(error):
            raise
        too_large = named(DataError("the image does not fit into memory"), source)
        return Decoded(index, time.perf_counter() - start, error=too_large)
    name = None if isinstance(source, np.ndarray) else str(source)
    return Decoded(index, time.perf_counter() - start, image, ready, opened.way, name=name)


def ahead(jobs: Iterable[Callable[[], T]], threads: int) -> Iterator[T]:
    """What the jobs return, in order; a bounded number of them is done ahead, in threads."""
    waiting: deque[Future[T]] = deque()
    pool = ThreadPoolExecutor(max(1, threads), thread_name_prefix="ahead")
    try:
        for job in jobs:
            waiting.append(pool.submit(job))
            if len(waiting) > threads + _AHEAD:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def named(error: DataError, source: Image | None) -> DataError:
    """The error with its file's name in front; geometry, for one, does not know it."""
    if not isinstance(source, str | os.PathLike) or str(error).startswith(str(source)):
        return error
    return DataError(f"{source}: {error}", help=error.help)


def training_images(
    sources: Iterable[Image],
    *,
    intake: Intake,
    threads: int = 2,
    on_error: Callable[[int, DataError], None] | None = None,
    on_source: Callable[[], None] | None = None,
    augmentation: Augmentation | None = None,
    learned: Callable[[Learned], None] | None = None,
    progress: Progress | None = None,
) -> Iterator[NDArray[np.uint8]]:
    """Preprocessed training images, in order: each source, or its tiles, and then its augmented versions.

    on_error: called with the index and the error of each broken source, which is then left out; without it the first
    error is raised. Of a source cut into tiles, those before the one that cannot be read have been given by then.
    on_source: called after each source that could be read. learned: is told of each image before it is given.
    progress: shows the tiles of a source too large for memory.
    """
    given = _in_tiles if intake.tiling is not None else _whole
    for index, piece in given(sources, intake, threads, augmentation, progress):
        if isinstance(piece, DataError):
            if on_error is None:
                raise piece
            on_error(index, piece)
        elif piece is None:
            if on_source is not None:
                on_source()
        else:
            ready, told = piece
            if learned is not None:
                learned(told)
            yield ready


# An image to learn and what it is, the error that ends a source, or None: it has been read to its end.
_Piece: TypeAlias = "tuple[NDArray[np.uint8], Learned] | DataError | None"


def _whole(
    sources: Iterable[Image], intake: Intake, threads: int, augmentation: Augmentation | None, _: Progress | None
) -> Iterator[tuple[int, _Piece]]:
    """What there is to learn of each source, by its number, without a tiling."""
    versions = _versions(augmentation)
    jobs = (
        functools.partial(_decode_one, index, source, intake, _change(augmentation, index, version))
        for index, source in enumerate(sources)
        for version in versions
    )
    failed = -1
    for version, item in zip(cycle(versions), ahead(jobs, threads), strict=False):
        if item.index == failed:
            continue
        if item.error is not None or item.ready is None or item.view is None:
            failed = item.index
            yield failed, item.error or DataError(f"image {failed} has no pixels")
            continue
        yield item.index, (item.ready, Learned(item.index, version > 0, item.view))
        if version == versions[-1]:
            yield item.index, None


def _in_tiles(
    sources: Iterable[Image],
    intake: Intake,
    threads: int,
    augmentation: Augmentation | None,
    progress: Progress | None,
) -> Iterator[tuple[int, _Piece]]:
    """As `_whole`, of the tiles in which something counts."""
    for index, source in enumerate(sources):
        try:
            for version in _versions(augmentation):
                change = _change(augmentation, index, version)
                with closing(open_source(source, intake, corrupt=change)) as opened:
                    if augmentation is not None and opened.way.large:
                        raise _too_large_to_change(opened.way.size)
                    boxes = tile_boxes(opened.way.extent.size, cast("Tiling", intake.tiling))
                    with shown(progress, opened.way).task("tiles", len(boxes), unit="tiles") as task:
                        for box, ready in zip(boxes, tiles_of(opened, boxes, intake, threads), strict=True):
                            if ready is not None:
                                yield index, (ready, Learned(index, version > 0, opened.way, box))
                            task.advance()
        except DataError as error:
            yield index, named(error, source)
        else:
            yield index, None


def _versions(augmentation: Augmentation | None) -> range:
    """0: the image as it is; from 1 on, changed."""
    return range(1 if augmentation is None else 1 + augmentation.copies)


def shown(progress: Progress | None, way: Way) -> Progress:
    """Where the tiles of an image are shown: only those of a very large one are worth a bar."""
    return progress if progress is not None and way.large else Silent()


def _change(augmentation: Augmentation | None, index: int, version: int) -> Callable[[Any], Any] | None:
    if augmentation is None or version == 0:
        return None
    from uadctl.imaging.augment import apply_steps

    rng = np.random.default_rng([augmentation.seed, index, version])
    steps = augmentation.steps
    return lambda pixels: apply_steps(pixels, steps, rng=rng)[0]


def tiles_of(opened: Opened, boxes: Sequence[Box], intake: Intake, threads: int) -> Iterator[NDArray[np.uint8] | None]:
    """The tiles as a detector gets them, read ahead; None where nothing counts. boxes: inside the extent."""
    tiling, way = cast("Tiling", intake.tiling), opened.way

    def one(box: Box) -> NDArray[np.uint8] | None:
        there = Box(box.y0 + way.extent.y0, box.x0 + way.extent.x0, box.height, box.width)
        counts = way.camera.counts(way.size, there)
        if counts is not None and not counts.any():
            return None
        tile = extract_tile(opened.seen.read(there), 0, 0, tiling.size)
        return way.view.apply(cast("NDArray[np.uint8]", tile))

    return ahead((functools.partial(one, box) for box in boxes), threads)


def joined(rows: Iterable[NDArray[np.float32]]) -> NDArray[np.float32]:
    return np.concatenate(list(rows))


def _overlap(one: Box, other: Box) -> Box | None:
    """What two boxes have in common; None if nothing."""
    top, left = max(one.y0, other.y0), max(one.x0, other.x0)
    bottom = min(one.y0 + one.height, other.y0 + other.height)
    right = min(one.x0 + one.width, other.x0 + other.width)
    return Box(top, left, bottom - top, right - left) if bottom > top and right > left else None
