"""The one way of an image through a detector: decode, preprocess, predict, back to the pixels of the file.

Decoding runs ahead in threads, in a bounded window; batches go through the detector; results come out in the order of
the sources, one at a time. Nothing grows with their number.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from uadctl import heap
from uadctl.errors import DataError, UadctlError
from uadctl.imaging.files import read_image
from uadctl.imaging.geometry import Geometry
from uadctl.records import Prediction, Size

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from uadctl.imaging.geometry import View
    from uadctl.models.base import Detector, Image

# Decoded images waiting, beyond the batch that is being filled: enough to keep the network busy, and no more.
_AHEAD = 4


@dataclass(frozen=True, slots=True)
class Decoded:
    """One source after decoding. Exactly one of `error` and the other fields is set.

    image: as in the file, (H, W, 3) RGB uint8. ready: preprocessed. view: the way between both.
    """

    index: int
    seconds: float
    image: NDArray[np.uint8] | None = None
    ready: NDArray[np.uint8] | None = None
    view: View | None = None
    error: DataError | None = None


@dataclass(frozen=True, slots=True)
class Scored:
    """One source after the detector.

    index: its place among the sources. image: (H, W, 3) RGB uint8 as in the file, None if it could not be read.
    prediction: its map has the size of the file's image, NaN where a crop cut. error: why there is no prediction.
    seconds: work for this image: its decoding, and its share of its batch.
    """

    index: int
    seconds: float
    image: NDArray[np.uint8] | None = None
    prediction: Prediction | None = None
    error: DataError | None = None


def use_threads(threads: int) -> None:
    """Let torch compute with so many threads. OpenCV gets one: decoding is parallel over images already."""
    import cv2
    import torch

    torch.set_num_threads(threads)
    cv2.setNumThreads(1)


def decode(sources: Iterable[Image], *, geometry: Geometry, threads: int = 2) -> Iterator[Decoded]:
    """Read and preprocess each source, in order; a broken one gives its error in place of an image."""

    def one(index: int, source: Image) -> Decoded:
        start = time.perf_counter()
        try:
            image = read_image(source)
            view = geometry.plan(Size(*image.shape[:2]))
            ready = view.apply(image)
        except DataError as error:
            return Decoded(index, time.perf_counter() - start, error=_named(error, source))
        return Decoded(index, time.perf_counter() - start, image, ready, view)

    waiting: deque[Future[Decoded]] = deque()
    pool = ThreadPoolExecutor(max(1, threads), thread_name_prefix="decode")
    try:
        for index, source in enumerate(sources):
            waiting.append(pool.submit(one, index, source))
            if len(waiting) > threads + _AHEAD:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _named(error: DataError, source: Image) -> DataError:
    """The error with its file's name in front; geometry, for one, does not know it."""
    if not isinstance(source, str | os.PathLike) or str(error).startswith(str(source)):
        return error
    return DataError(f"{source}: {error}", help=error.help)


def training_images(
    sources: Iterable[Image],
    *,
    geometry: Geometry,
    threads: int = 2,
    on_error: Callable[[int, DataError], None] | None = None,
) -> Iterator[NDArray[np.uint8]]:
    """Preprocessed training images, in order.

    on_error: called with the index and the error of each broken source, which is then left out; without it the first
    error is raised.
    """
    for item in decode(sources, geometry=geometry, threads=threads):
        if item.error is not None:
            if on_error is None:
                raise item.error
            on_error(item.index, item.error)
        elif item.ready is not None:
            yield item.ready


def stream(
    detector: Detector,
    sources: Iterable[Image],
    *,
    geometry: Geometry,
    threads: int = 2,
    include_maps: bool = True,
) -> Iterator[Scored]:
    """Score each source, in order, as many at a time as the detector likes.

    Raises what the detector raises; a source that cannot be read is a `Scored` with its `error`, and never a score.
    """
    batch_size = detector.images_per_batch
    batch: list[Decoded] = []
    waiting = 0
    for item in decode(sources, geometry=geometry, threads=threads):
        if item.error is not None and not waiting:
            yield Scored(item.index, item.seconds, error=item.error)
            continue
        batch.append(item)
        waiting += item.error is None
        # Broken sources keep their place among the others, but never let a batch grow.
        if waiting == batch_size or len(batch) >= 2 * batch_size:
            yield from _predict(detector, batch, include_maps)
            batch, waiting = [], 0
            heap.give_back()
    yield from _predict(detector, batch, include_maps)


def _predict(detector: Detector, batch: Sequence[Decoded], include_maps: bool) -> Iterator[Scored]:
    ready = [item.ready for item in batch if item.ready is not None]
    start = time.perf_counter()
    predictions = iter(detector.predict_batch(ready) if ready else [])
    share = (time.perf_counter() - start) / max(1, len(ready))
    for item in batch:
        if item.view is None:
            yield Scored(item.index, item.seconds, error=item.error)
            continue
        start = time.perf_counter()
        raw = next(predictions)
        field = item.view.back(raw.map) if include_maps and raw.map is not None else None
        seconds = item.seconds + share + time.perf_counter() - start
        yield Scored(item.index, seconds, item.image, Prediction(raw.score, field))


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
    for item in stream(asked, images, geometry=Geometry(size=None), include_maps=include_maps):
        if item.prediction is None:
            raise item.error or DataError(f"image {item.index} has no prediction")
        out.append(item.prediction)
    return out


class _Other:
    """As much of a detector as `stream` needs, made of another library's."""

    def __init__(self, detector: Any, include_maps: bool) -> None:
        self._detector = detector
        self._maps = include_maps and hasattr(detector, "predict_anomaly_map")
        self.images_per_batch = 16

    def predict_batch(self, images: Sequence[NDArray[np.uint8]]) -> list[Prediction]:
        """Score and map of each image; ValueError if there are not as many."""
        import numpy as np

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
    import numpy as np

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
