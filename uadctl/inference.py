"""The one way of an image through a detector: `uadctl.intake`, predict, back to the pixels of the file.

Batches go through the detector; results come out in the order of the sources, one at a time. Nothing grows with their
number. With a tiling, the maps of tiles are stitched as they come, and those of images too large for memory into files.
"""

from __future__ import annotations

import functools
import math
import os
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import numpy as np

from uadctl import heap
from uadctl.errors import DataError, ImageError, UadctlError
from uadctl.imaging.geometry import Geometry
from uadctl.imaging.raster import StoredMap
from uadctl.imaging.tiles import stitched_bands, tile_boxes
from uadctl.intake import (
    Corrupt,
    Decoded,
    Intake,
    Opened,
    Way,
    bound,
    decode,
    joined,
    named,
    open_source,
    shown,
    tiles_of,
)
from uadctl.models.base import about, room_for
from uadctl.progress import Progress
from uadctl.records import Box, Prediction, Size, Tiling
from uadctl.room import Room, attempt, ran_out

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from uadctl.imaging.maps import AnomalyMapPostprocess
    from uadctl.imaging.raster import Field, Raster
    from uadctl.models.base import Detector, Image

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Outcome:
    """What comes out for one image.

    score: float32 value as a Python float; higher is more anomalous.
    map: (H, W) float32 of the file's image, NaN where nothing was looked at; of an image too large for memory a map in
        a file. None: the detector makes none.
    """

    score: float
    map: Field | None = None


@dataclass(frozen=True, slots=True)
class Scored:
    """One source after the detector.

    index: its place among the sources. size: of the file's image as displayed; None if it could not be read.
    image: its pixels, (H, W, 3) RGB uint8 as in the file; of one too large for memory a raster of them.
    prediction: its map has the size of the file's image, NaN where a crop cut and outside of the camera's region of
        interest. A map in a file, and a raster, are there until the next source is asked for.
    error: why there is no prediction.
    seconds: work for this image: its decoding, and its share of its batch.
    """

    index: int
    seconds: float
    image: NDArray[np.uint8] | Raster | None = None
    prediction: Outcome | None = None
    error: DataError | None = None

    @property
    def size(self) -> Size | None:
        if self.image is None:
            return None
        return self.image.size if not isinstance(self.image, np.ndarray) else Size(*self.image.shape[:2])


def use_threads(threads: int) -> None:
    """Let torch compute with so many threads. OpenCV gets one: decoding is parallel over images already."""
    import cv2
    import torch

    torch.set_num_threads(threads)
    cv2.setNumThreads(1)


def stream(
    detector: Detector,
    sources: Iterable[Image],
    *,
    intake: Intake,
    threads: int = 2,
    include_maps: bool = True,
    corrupt: Corrupt | None = None,
    in_memory: bool = False,
    progress: Progress | None = None,
    block: int | None = None,
) -> Iterator[Scored]:
    """Score each source, in order, as many images (or tiles) at a time as the detector likes.

    corrupt: is done to each picture before the camera's steps.
    block: no batch holds images from both sides of a multiple of so many sources, so that each block of them by itself
        gives the same bits: those of a score depend on what else is in its batch. Tiles never share one with another
        image's.
    in_memory: keeps even the maps of very large images as arrays.
    progress: shows the tiles of an image that has many.
    Where memory runs out, half as many at a time are tried, which stays so and is said once. Raises what else the
    detector raises. A source that cannot be read, that does not fit into memory by itself, or for which the detector
    has no finite numbers, is a `Scored` with its `error`, and never a score.
    """
    if intake.tiling is not None:
        yield from _stream_tiled(detector, sources, intake, threads, include_maps, corrupt, in_memory, progress)
        return
    room = room_for(detector, detector.images_per_batch, progress)
    predict = functools.partial(_predict, detector, room, include_maps=include_maps, postprocess=intake.postprocess)
    batch: list[Decoded] = []
    waiting = 0
    for item in decode(sources, intake=intake, threads=threads, corrupt=corrupt):
        if item.error is not None and not waiting:
            yield Scored(item.index, item.seconds, error=item.error)
            continue
        batch.append(item)
        waiting += item.error is None
        ends = block is not None and (item.index + 1) % block == 0
        # Broken sources keep their place among the others, but never let a batch grow.
        if ends or waiting >= room.images or len(batch) >= 2 * room.images:
            yield from predict(batch)
            batch, waiting = [], 0
            heap.give_back()
    yield from predict(batch)


def _predict(
    detector: Detector,
    room: Room,
    batch: Sequence[Decoded],
    *,
    include_maps: bool,
    postprocess: AnomalyMapPostprocess | None,
) -> Iterator[Scored]:
    ready = [item.ready for item in batch if item.ready is not None]
    start = time.perf_counter()
    predictions = iter(_answers(detector, room, ready))
    share = (time.perf_counter() - start) / max(1, len(ready))
    for item in batch:
        if item.view is None:
            yield Scored(item.index, item.seconds, error=item.error)
            continue
        start = time.perf_counter()
        raw = next(predictions)
        outcome = raw if isinstance(raw, ImageError) else _over_the_file(item.view, raw, include_maps, postprocess)
        seconds = item.seconds + share + time.perf_counter() - start
        if isinstance(outcome, ImageError):
            yield Scored(item.index, seconds, error=unusable(outcome, item.name, tiled=False))
        else:
            yield Scored(item.index, seconds, item.image, outcome)


def _answers(detector: Detector, room: Room, images: Sequence[NDArray[np.uint8]]) -> list[Prediction | ImageError]:
    """What the detector says of each image; why it says nothing, where it does not fit or no numbers come out."""
    # What resizes by itself may cut as well, and its maps then have NaN where it did not look.
    cuts = getattr(detector, "own_resizing", None) is not None
    found: list[Prediction | ImageError] = []
    for part, said in room.parts(detector.predict_batch, images):
        if isinstance(said, ImageError):
            found.append(about(said, part[0]))
        else:
            found += [_no_numbers(prediction, cuts=cuts) or prediction for prediction in said]
    return found


def _no_numbers(prediction: Prediction, *, cuts: bool) -> ImageError | None:
    """Why a prediction is none: its score, or its map, is no finite number. cuts: parts of a map may be NaN."""
    if not math.isfinite(prediction.score):
        return ImageError(f"the model gave the score {prediction.score}")
    field = prediction.map
    if field is None or bool(np.isfinite(field).all()):
        return None
    if cuts and not bool(np.isinf(field).any()) and not bool(np.isnan(field).all()):
        return None
    return ImageError("the model gave a map that contains NaN or infinity")


def _over_the_file(
    way: Way, raw: Prediction, include_maps: bool, postprocess: AnomalyMapPostprocess | None
) -> Outcome | ImageError:
    if not include_maps or raw.map is None:
        return Outcome(raw.score)

    def enlarged() -> Outcome:
        field = way.back(cast("Any", raw.map))
        return Outcome(raw.score, field if postprocess is None else postprocess(field))

    found = attempt(enlarged)
    if isinstance(found, ImageError) and found.large:
        return ImageError(f"its map of {way.size} (height x width) does not fit into memory", large=True)
    return found


def unusable(error: ImageError, source: Image | None, *, tiled: bool) -> DataError:
    """The error that a source has in place of a score. What would help is a part of it: a row shows nothing else.

    tiled: what does not fit is a tile.
    """
    told, mend = error.message, error.help
    if error.large:
        told, what = (f"a tile of {told}", "take smaller tiles") if tiled else (told, "cut it into tiles")
        mend = f"{what}: [tiling] size, or --tile-size"
    return named(DataError(told if mend is None else f"{told}; {mend[0].lower()}{mend[1:].removesuffix('.')}"), source)


def _stream_tiled(
    detector: Detector,
    sources: Iterable[Image],
    intake: Intake,
    threads: int,
    include_maps: bool,
    corrupt: Corrupt | None,
    in_memory: bool,
    progress: Progress | None,
) -> Iterator[Scored]:
    room = room_for(detector, detector.images_per_batch, progress)
    for index, source in enumerate(sources):
        start = time.perf_counter()
        prediction: Outcome | None = None
        failed: DataError | None
        try:
            with closing(open_source(source, intake, corrupt=bound(corrupt, index))) as opened:
                way = opened.way
                on_disk = way.large and not in_memory
                bar = shown(progress, way)
                prediction = _of_tiles(detector, room, opened, intake, threads, include_maps, on_disk, bar)
                image = opened.picture if way.large else opened.picture.read(Box.whole(way.size))
                yield Scored(index, time.perf_counter() - start, image, prediction)
        except DataError as error:
            failed = named(error, source)
        except ImageError as error:
            failed = unusable(error, source, tiled=True)
        except Exception as error:
            if not ran_out(error):
                raise
            failed = named(DataError("the image, or the map of it, does not fit into memory"), source)
        else:
            failed = None
        finally:
            if prediction is not None and isinstance(prediction.map, StoredMap):
                prediction.map.delete()
            heap.give_back()
        if failed is not None:
            yield Scored(index, time.perf_counter() - start, error=failed)


def _of_tiles(
    detector: Detector,
    room: Room,
    opened: Opened,
    intake: Intake,
    threads: int,
    include_maps: bool,
    on_disk: bool,
    progress: Progress,
) -> Outcome:
    """Score and map of one image from its tiles."""
    tiling = cast("Tiling", intake.tiling)
    boxes = tile_boxes(opened.way.extent.size, tiling)

    def said() -> Iterator[Prediction | None]:
        """Of each tile, in order; None where nothing counts."""
        with progress.task("tiles", len(boxes), unit="tiles") as task:
            for batch in _batched(tiles_of(opened, boxes, intake, threads), room.images):
                predictions = iter(_answers(detector, room, [tile for tile in batch if tile is not None]))
                for tile in batch:
                    said = None if tile is None else next(predictions)
                    if isinstance(said, ImageError):
                        raise said
                    yield said
                    task.advance()

    return _stitched(opened.way, said(), intake, include_maps=include_maps, on_disk=on_disk)


@contextmanager
def stitched(way: Way, tiles: Mapping[Box | None, Prediction], intake: Intake) -> Iterator[Outcome]:
    """What is said of an image, from what is said of its tiles, by box. A map in a file ends with the context."""
    boxes = tile_boxes(way.extent.size, cast("Tiling", intake.tiling))
    prediction = _stitched(way, (tiles.get(box) for box in boxes), intake, include_maps=True, on_disk=way.large)
    try:
        yield prediction
    finally:
        if isinstance(prediction.map, StoredMap):
            prediction.map.delete()


def _stitched(
    way: Way, tiles: Iterator[Prediction | None], intake: Intake, *, include_maps: bool, on_disk: bool
) -> Outcome:
    tiling = cast("Tiling", intake.tiling)
    scores: list[float] = []

    def counted() -> Iterator[Prediction | None]:
        for prediction in tiles:
            if prediction is not None:
                scores.append(prediction.score)
            yield prediction

    predictions = counted()
    head: list[Prediction | None] = []
    for prediction in predictions:
        head.append(prediction)
        if prediction is not None:
            break
    has_maps = bool(head) and head[-1] is not None and head[-1].map is not None
    anomaly_map: Field | None = None
    if include_maps and has_maps:
        maps = (None if p is None else way.view.back(cast("Any", p.map)) for p in chain(head, predictions))
        rows = way.wide(stitched_bands(way.extent.size, tiling, maps))
        anomaly_map = _gathered(way.size, rows, intake.postprocess, on_disk=on_disk)
    deque(predictions, maxlen=0)
    return Outcome(score_of_tiles(scores, tiling), anomaly_map)


def score_of_tiles(scores: Sequence[float], tiling: Tiling) -> float:
    """The image's score: a float32 value, as those of its tiles are."""
    return max(scores) if tiling.score == "max" else float(np.float32(np.mean(scores, dtype=np.float64)))


def _gathered(
    size: Size, rows: Iterable[NDArray[np.float32]], postprocess: AnomalyMapPostprocess | None, *, on_disk: bool
) -> Field:
    """A whole map of its bands, postprocessed; in a temporary file if it is too large for memory."""
    if not on_disk:
        whole = joined(rows)
        return whole if postprocess is None else postprocess(whole)
    with _scratch_file() as raw:
        stored = StoredMap.write(raw, size, rows)
        if postprocess is None:
            return stored
    with _scratch_file() as file:
        try:
            return postprocess.of_stored(stored, file)
        finally:
            stored.delete()


@contextmanager
def _scratch_file() -> Iterator[Path]:
    """A file for a map that is needed for a while, in $TMPDIR or the system's folder; removed if it is not made."""
    handle, name = tempfile.mkstemp(prefix="uadctl-map-", suffix=".tiff")
    os.close(handle)
    try:
        yield Path(name)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def _batched(items: Iterable[T], size: int) -> Iterator[list[T]]:
    several = iter(items)
    while batch := list(islice(several, size)):
        yield batch


def infer(detector: Detector | object, images: Iterable[Image], include_maps: bool = False) -> list[Prediction]:
    """Scores, and maps at each image's own size, of paths or (H, W, 3) RGB uint8 arrays of any sizes.

    Images are given to the detector as they are, without preprocessing.

    detector: one of uadctl; or another library's, with `decision_function` and for maps `predict_anomaly_map`. These
        are given a list of arrays, and one (n, H, W, 3) array where they turn out to take no list.
    images: one (n, H, W, 3) array is n of them.

    Raises DataError for the first broken image, and what the detector raises; ValueError where another library's
    detector gives not one score, or not one map, for each image.
    """
    # A detector of ours gives scores and maps from one forward pass; others are asked twice.
    asked = cast("Detector", detector if hasattr(detector, "predict_batch") else _Other(detector, include_maps))
    out = []
    for item in stream(asked, images, intake=Intake(geometry=Geometry(size=None)), include_maps=include_maps):
        if item.prediction is None:
            raise item.error or DataError(f"image {item.index} has no prediction")
        out.append(Prediction(item.prediction.score, cast("NDArray[np.float32] | None", item.prediction.map)))
    return out


class _Other:
    """As much of a detector as `stream` needs, made of another library's."""

    def __init__(self, detector: Any, include_maps: bool) -> None:
        self._detector = detector
        self._maps = include_maps and hasattr(detector, "predict_anomaly_map")
        self.images_per_batch = 16

    def predict_batch(self, images: Sequence[NDArray[np.uint8]]) -> list[Prediction]:
        """Score and map of each image; ValueError if there are not as many."""
        scores = np.asarray(_ask(self._detector.decision_function, images), dtype=np.float32)
        maps = _ask(self._detector.predict_anomaly_map, images) if self._maps else [None] * len(images)
        name = type(self._detector).__name__
        if scores.shape != (len(images),) or len(maps) != len(images):
            raise ValueError(f"{name} gave scores {scores.shape} and {len(maps)} maps for {len(images)} images")
        return [
            Prediction(score, None if field is None else np.asarray(field, dtype=np.float32))
            for score, field in zip(scores.tolist(), maps, strict=True)
        ]


def _ask(method: Callable[[Any], Any], images: Sequence[NDArray[np.uint8]]) -> Any:
    """What the method says of a list of images or, if it wants an array and they have one size, of (n, H, W, 3)."""

    try:
        return method(images)
    except (TypeError, AttributeError, ValueError, IndexError, RuntimeError) as error:
        if not _wants_an_array(error, images) or len({image.shape for image in images}) > 1:
            raise
        return method(np.stack(images))


def _wants_an_array(error: Exception, images: Sequence[NDArray[np.uint8]]) -> bool:
    """Whether a list of images was the wrong thing to give; any other error is the detector's own."""
    if isinstance(error, UadctlError):
        return False
    if isinstance(error, AttributeError):
        return error.obj is images  # 'list' object has no attribute 'shape'
    return isinstance(error, TypeError) or any(word in str(error).lower() for word in ("shape", "dimension"))
