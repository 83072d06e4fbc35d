"""What every detector offers, and what follows from it for all of them alike."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any, Protocol, Self, TypeAlias, TypeVar, cast, runtime_checkable

from uadctl.errors import ImageError
from uadctl.progress import Silent
from uadctl.records import Prediction, Size
from uadctl.room import Room

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from uadctl.progress import Progress
    from uadctl.spec.registry import BackboneEntry

R = TypeVar("R")

# Scores below this share of a usual one are next to nothing.
_MEMORISED = 0.01

# A path, or an (H, W, 3) RGB uint8 array.
Image: TypeAlias = "str | Path | NDArray[np.uint8]"


@runtime_checkable
class Detector(Protocol):
    """A model of normal images.

    stride: sides of the images it likes best are multiples of this.
    offers_left_out: whether `fit` can score each training image by a model that does not contain it.
    """

    offers_left_out: bool

    @property
    def stride(self) -> int: ...

    @property
    def images_per_batch(self) -> int:
        """How many images `predict_batch` takes best."""
        ...

    @property
    def own_resizing(self) -> str | None:
        """To what size the detector brings images by itself, as the end of a sentence about it; None if it does not.

        Where `[preprocess]` is left at its default, such a detector gets images as they are in the file.
        """
        ...

    def weights_state(self) -> str:
        """Where pretrained weights would come from, without fetching any: "random", "network", "package", …

        "none" where the detector uses no network.
        """
        ...

    def doubts(self) -> list[str]:
        """What makes the scores of this detector, as it was built, less than they seem: a sentence each."""
        ...

    def prepare(self, *, download: bool = True) -> None:
        """Have everything ready that `fit` needs beside images, before hours of work are spent in front of it.

        download: False checks only what is on this machine. Raises WeightsError, BackendMissing, SpecError.
        """
        ...

    def fit(
        self,
        images: Iterable[Image],
        *,
        left_out: Callable[[Prediction], None] | None = None,
        threshold: bool = True,
        progress: Progress | None = None,
    ) -> Self:
        """Learn from normal images, forgetting what was learned before.

        left_out: called for each training image, in order, with what a model without that image says of it
        (detectors with `offers_left_out`); not for an image without which nothing would be left of the model.
        threshold: whether somebody will ask for `threshold_`, the detector's own, or call `predict`.
        Raises ValueError without images.
        """
        ...

    def predict_batch(self, images: Sequence[NDArray[np.uint8]]) -> list[Prediction]:
        """Score and map of each (H, W, 3) RGB uint8 image, from one forward pass. RuntimeError before `fit`.

        ImageError where one of them has no finite score: each is then asked for by itself. Errors of memory that has
        run out are left alone: they are answered with fewer images.
        """
        ...

    def state(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Everything learned: tensors by name, and JSON facts.

        `restore` of a detector with equal parameters takes both.
        """
        ...

    def restore(self, tensors: dict[str, Any], facts: dict[str, Any]) -> Self: ...

    def facts(self) -> dict[str, Any]:
        """What a run's record should say of the fitted model: weights, device, sizes."""
        ...


@runtime_checkable
class NamesWeights(Protocol):
    """A detector that can say whose weights it wants, so that they can be fetched beforehand.

    `FromPredictions` has it. No part of `Detector`: a plug-in's that lacks it is one all the same.
    """

    def weights_entry(self) -> BackboneEntry | None:
        """The network whose weights it wants; None where it uses none.

        Raises BackendMissing without the library that would tell.
        """
        ...


@runtime_checkable
class TrainedElsewhere(Protocol):
    """A detector that another library trains, now in `fit` or before, in a checkpoint.

    No part of `Detector`. Verbs ask for it with isinstance.
    """

    @property
    def scores_are_cut(self) -> bool:
        """Whether small scores are all made equal, so that nothing can be told from them."""
        ...

    @property
    def comes_trained(self) -> bool:
        """Whether it has learned before: then good images are for its threshold only, and `load` is called, not `fit`.

        Otherwise `fit` takes two further arguments. validation: good images that training must not learn from, and that
        the other library may watch its progress on. warn: is told, a sentence each, what the record of a run should
        keep of the training.
        """
        ...

    def load(self) -> Self:
        """Read the checkpoint. Raises DataError, WeightsError, BackendMissing."""
        ...

    def keep(self, folder: Path) -> None:
        """Write what the other library would want to have back, such as its own checkpoint, into a run's folder."""
        ...


@runtime_checkable
class TakesFewer(Protocol):
    """A detector that can be told how many images at a time memory holds.

    No part of `Detector`: to a plug-in's that lacks it a command gives fewer images at a time all the same, but forgets
    by the next category.
    """

    def take_at_once(self, images: int) -> None:
        """So many images at a time from now on: `images_per_batch` says so, and so does `facts`."""
        ...


class FromPredictions:
    """What callers ask of a detector, derived from its `predict_batch`: never a second forward pass.

    A detector inherits what is derived here and nothing else. While fitting it sets `threshold_`, what `predict`
    compares with: from the training images (leave-one-image-out scores where it `offers_left_out`, else in-sample), or
    None. No verb uses it: runs have their own calibrated threshold.
    """

    offers_left_out: bool = False
    leaves_out_together: bool = False
    knows_places: bool = False
    """Whether `fit` takes `together`: which training images show one part, to be left out together."""
    contamination: float
    threshold_: float | None = None

    def threshold_of(self, scores: Sequence[float] | NDArray[np.floating]) -> float | None:
        """The (1 - `contamination`) quantile of normal images' scores, for `threshold_`; None of no scores."""
        import numpy as np

        return float(np.quantile(scores, 1 - self.contamination)) if len(scores) else None

    @property
    def own_resizing(self) -> str | None:
        """None: images come in the size that `[preprocess]` gives them."""
        return None

    @property
    def images_per_batch(self) -> int:
        raise NotImplementedError

    @property
    def is_fitted(self) -> bool:
        raise NotImplementedError

    def weights_state(self) -> str:
        raise NotImplementedError

    def weights_entry(self) -> BackboneEntry | None:
        """The network whose weights it wants; None where it uses none."""
        return None

    def predict_batch(self, images: Sequence[NDArray[np.uint8]]) -> list[Prediction]:
        raise NotImplementedError

    def doubts(self) -> list[str]:
        """What makes the scores of this detector, as it was built, less than they seem: random weights do."""
        if self.weights_state() != "random":
            return []
        return ["pretrained = false: the backbone's weights are random, the scores mean little"]

    def decision_function(self, images: Iterable[Image]) -> NDArray[np.float64]:
        """(n,) continuous scores; higher is more anomalous. RuntimeError before `fit`."""
        import numpy as np

        return np.array([p.score for p in self._predictions(images)], dtype=np.float64)

    def predict_anomaly_map(self, images: Iterable[Image]) -> NDArray[np.float32]:
        """(n, H, W) float32 maps of images of one size; ValueError if sizes differ, or where there are no maps."""
        maps = [p.map for p in self._predictions(images)]
        # Detectors make arrays; maps in files are made of them, where images are larger than memory.
        stack = [m for m in maps if m is not None]
        if len(stack) != len(maps):
            raise ValueError(f"{type(self).__name__} makes no anomaly maps")
        return stacked(stack)

    def get_anomaly_map(self, image: Image) -> NDArray[np.float32]:
        """(H, W) float32 map of one image, in its own size. ValueError where there are no maps."""
        (field,) = self.predict_anomaly_map([image])
        return cast("NDArray[np.float32]", field)

    def predict(self, images: Iterable[Image]) -> NDArray[np.int64]:
        """(n,) labels: 1 where the score reaches `threshold_`.

        RuntimeError before `fit`, and where there is no `threshold_`: after a single image that nothing could be
        compared with, or in the model of a run, whose threshold is in the run.
        """
        import numpy as np

        if self.threshold_ is None:
            next(self._predictions([]), None)  # says so if it is not fitted
            raise RuntimeError(
                f"{type(self).__name__} has no threshold_: it was fitted on one training image, or for a run, which "
                "has its own"
            )
        return (self.decision_function(images) >= self.threshold_).astype(np.int64)

    def _predictions(self, images: Iterable[Image]) -> Iterator[Prediction]:
        self.require_fitted()
        for _, found in looked_at(batches(images, self.images_per_batch), self.predict_batch, of=self):
            yield from found

    def require_fitted(self) -> None:
        """Raise RuntimeError before `fit`."""
        if not self.is_fitted:
            raise RuntimeError(f"{type(self).__name__} is not fitted; call fit(images) first")


class Network(Protocol):
    """What a detector looks through, `uadctl.models.frozen.FrozenNetwork` for one."""

    images_per_batch: int

    @property
    def entry(self) -> BackboneEntry | None: ...

    @property
    def stride(self) -> int: ...

    def weights_state(self) -> str: ...


class ThroughNetwork(FromPredictions):
    """A detector that looks at images through a frozen `network`, which answers for it where it is asked of that."""

    network: Network

    def take_at_once(self, images: int) -> None:
        self.network.images_per_batch = images

    @property
    def stride(self) -> int:
        """Sides of images are best multiples of this many pixels: of a patch, or of a cell of the coarsest layer."""
        return self.network.stride

    @property
    def images_per_batch(self) -> int:
        """How many images `predict_batch` takes best: `batch_size`, or what "auto" has found while fitting."""
        return self.network.images_per_batch

    def weights_state(self) -> str:
        """Where the weights would come from: "random", "path", a place of `uadctl.features.weights`, or "none".

        Raises BackendMissing without the library that would tell.
        """
        return self.network.weights_state()

    def weights_entry(self) -> BackboneEntry | None:
        """The network; None where a caller's embedder is used. BackendMissing without the library that would tell."""
        return self.network.entry


def known_by_heart(scores: Sequence[float] | NDArray[np.floating[Any]], normal: Sequence[float]) -> list[int]:
    """Which of these scores, by their numbers, are those of images that the model has memorised: next to nothing.

    An image that a model has memorised is at a distance of nothing but rounding from it. Good images that it has not
    seen differ by a factor of two or three, never of a hundred. normal: scores of good images, whose middle one is what
    the others are held against.
    """
    import numpy as np

    if not len(normal):
        return []
    limit = _MEMORISED * abs(sorted(normal)[len(normal) // 2])
    return [int(i) for i in np.flatnonzero(np.abs(np.asarray(scores, dtype=np.float64)) <= limit)]


def memorised_words(number: int, of: int) -> str:
    """What to say of so many images `known_by_heart` among those for the threshold."""
    return (
        f"{number} of {of} images for the threshold have scores near 0: the model has probably learned them, and the "
        "threshold is then too low"
    )


def knows_places(detector: object) -> bool:
    """Whether a detector compares each place of an image with that place of those it has learned.

    It says so by an attribute of this name. No part of `Detector`: a plug-in's that lacks it does not.
    """
    return bool(getattr(detector, "knows_places", False))


def stacked(maps: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
    """Maps of one size as (n, H, W). ValueError if sizes differ."""
    import numpy as np

    shapes = sorted({m.shape for m in maps})
    if len(shapes) > 1:
        raise ValueError(
            f"images of {len(shapes)} sizes ({shapes[0]} to {shapes[-1]}) cannot be stacked into one array"
        )
    return np.stack(maps) if maps else np.empty((0, 0, 0), np.float32)


def looked_at(
    batches: Iterable[Sequence[NDArray[np.uint8]]],
    look: Callable[[Sequence[NDArray[np.uint8]]], R],
    *,
    of: object,
    progress: Progress | None = None,
) -> Iterator[tuple[Sequence[NDArray[np.uint8]], R]]:
    """Images in batches, or in parts of them where memory runs out, and what `look` makes of each.

    of: the detector; it is told how many images at a time memory holds, if it can be (`TakesFewer`).
    Raises what `look` raises; ImageError with the number of the image that has no answer, or that does not fit.
    """
    room: Room | None = None
    count = 0
    for batch in batches:
        room = room or room_for(of, min(len(batch), getattr(of, "images_per_batch", len(batch))), progress)
        for part, said in room.parts(look, batch):
            if isinstance(said, ImageError):
                raise about(said, part[0], number=count)
            yield part, said
            count += len(part)


def room_for(detector: object, images: int, progress: Progress | None) -> Room:
    """How many images at a time memory holds, of at most so many; the detector is told, if it can be."""
    settled = detector.take_at_once if isinstance(detector, TakesFewer) else None
    return Room(images, progress=progress or Silent(), settled=settled)


def about(error: ImageError, image: NDArray[np.uint8], *, number: int | None = None) -> ImageError:
    """The error of this image, as the detector gets it. number: its place among those that were given to `fit`."""
    if not error.large:
        return ImageError(error.problems, help=error.help, number=number)
    size = Size(*image.shape[:2])
    what = f"{size} (height x width), as the model gets it, does not fit into memory"
    return ImageError(what, large=True, number=number)


def batches(images: Iterable[Image], size: int) -> Iterator[list[NDArray[np.uint8]]]:
    """Decoded images in lists of at most `size`, in order. Paths are read; DataError names a broken one."""
    from uadctl.imaging.files import read_image

    stream = iter(images)
    while batch := [read_image(image) for image in islice(stream, size)]:
        yield batch
