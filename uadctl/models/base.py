"""What every detector offers, and what follows from it for all of them alike."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any, Protocol, Self, TypeAlias, runtime_checkable

from uadctl.records import Prediction

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from uadctl.progress import Progress

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

    def weights_state(self) -> str:
        """Where pretrained weights would come from, without fetching any: "random", "network", "package", …"""
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
        """Score and map of each (H, W, 3) RGB uint8 image, from one forward pass. RuntimeError before `fit`."""
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


def batches(images: Iterable[Image], size: int) -> Iterator[list[NDArray[np.uint8]]]:
    """Decoded images in lists of at most `size`, in order. Paths are read; DataError names a broken one."""
    from uadctl.imaging.files import read_image

    stream = iter(images)
    while batch := [read_image(image) for image in islice(stream, size)]:
        yield batch


def predictions(detector: Detector, images: Iterable[Image], *, batch_size: int) -> Iterator[Prediction]:
    """The detector's verdict on each image, in order; memory for one batch."""
    for batch in batches(images, batch_size):
        yield from detector.predict_batch(batch)


def decision_function(detector: Detector, images: Iterable[Image], *, batch_size: int) -> NDArray[np.float64]:
    """(n,) continuous scores; higher is more anomalous."""
    import numpy as np

    return np.array([p.score for p in predictions(detector, images, batch_size=batch_size)], dtype=np.float64)


def anomaly_maps(detector: Detector, images: Iterable[Image], *, batch_size: int) -> NDArray[np.float32]:
    """(n, H, W) float32 maps of images of one size. ValueError if sizes differ: use `uadctl.inference.infer` then."""
    import numpy as np

    maps = [p.map for p in predictions(detector, images, batch_size=batch_size)]
    stack = [m for m in maps if m is not None]
    if len(stack) != len(maps):
        raise ValueError(f"{type(detector).__name__} makes no anomaly maps")
    shapes = sorted({m.shape for m in stack})
    if len(shapes) > 1:
        raise ValueError(
            f"images of {len(shapes)} sizes ({shapes[0]} to {shapes[-1]}) cannot be stacked into one array"
        )
    return np.stack(stack) if stack else np.empty((0, 0, 0), np.float32)
