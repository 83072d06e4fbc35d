"""A detector that looks at an image tile by tile."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain, groupby, islice
from typing import TYPE_CHECKING, Any, Literal, Self, cast

from uadctl.errors import DataError, ParamError, Problem
from uadctl.imaging.geometry import Geometry
from uadctl.inference import _ask, _Other, score_of_tiles, stream
from uadctl.intake import Intake, training_images
from uadctl.models.base import Detector, FromPredictions, Image
from uadctl.records import Prediction, Tiling
from uadctl.spec.grammar import default_stride

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from uadctl.progress import Progress

# From so many training images on, one of five is held out for the threshold: as a run does it.
_ENOUGH = 20
_BLOCK = 5


class TiledDetector(FromPredictions):
    """Shows a detector square tiles of each image, at full resolution, and makes one score and one map of its answers.

    Everything that it says is of tiled images: scores, maps, `predict` and `threshold_`. A threshold that the detector
    has by itself does not fit them: the largest of many tiles' scores is larger than the score of one image.

    detector: one of uadctl; or another library's, with `fit`, `decision_function` and for maps `predict_anomaly_map`,
        of a list of (H, W, 3) RGB uint8 arrays or of one (n, H, W, 3) array.
    tile_size: side of a tile in pixels. stride: from one to the next, at most `tile_size`; None: three quarters of it.
    score_reduce: of the tiles' scores to the image's: "max" or "mean".
    map_reduce: of maps where tiles overlap: "mean", "max", or "hann", in which a tile counts less towards its border.
    fit: what the detector learns from: "untiled", whole training images; "tiles", their tiles. Images are never resized
        here, so both have one magnification. A detector that resizes its input by itself, or was fitted on images that
        were resized, has learned them smaller than the tiles that it is then shown: what it knows fits worse, and all
        scores rise. It needs "tiles"; so does one that remembers places in an image, such as PaDiM, or takes images of
        one size only.
    seed: of the choice of images held out.

    Images are paths or (H, W, 3) RGB uint8 arrays of any size; one smaller than a tile is padded by reflection, and of
    what is said there only the score remains. Decoded images are whole in memory. After `fit`, `threshold_` is the
    (1 - `contamination`) quantile, the detector's, of the tiled scores of images that it has not learned:

    - with "tiles" and a detector with `leaves_out_together`, of all training images, each scored by a model without it;
    - else of a fifth of them, at least 4, that are held out and not learned;
    - of less than 20 images none are held out: `threshold_` is None, and `calibrate` sets it from others.
    """

    stride = 1

    def __init__(
        self,
        detector: Any,
        tile_size: int,
        stride: int | None = None,
        *,
        score_reduce: Literal["max", "mean"] = "max",
        map_reduce: Literal["max", "mean", "hann"] = "mean",
        fit: Literal["untiled", "tiles"] = "untiled",
        seed: int = 0,
    ) -> None:
        if not isinstance(tile_size, int) or not isinstance(stride, int | None):
            raise TypeError(f"tile_size (={tile_size!r}) and stride (={stride!r}) must be integers")
        if not hasattr(detector, "decision_function"):
            raise TypeError(f"a detector has decision_function(images), {type(detector).__name__} has not")
        wrong = [
            f"{name} (={value!r}) must be one of {', '.join(choices)}"
            for name, value, choices in (
                ("score_reduce", score_reduce, ("max", "mean")),
                ("map_reduce", map_reduce, ("max", "mean", "hann")),
                ("fit", fit, ("untiled", "tiles")),
            )
            if value not in choices
        ]
        if wrong:
            raise ParamError([Problem(message) for message in wrong])
        self.detector = detector
        step = default_stride(tile_size) if stride is None else stride
        self.tiling = Tiling(tile_size, step, map_reduce, score_reduce)
        self.learns: Literal["untiled", "tiles"] = fit
        self.seed = seed
        self.contamination = float(getattr(detector, "contamination", 0.1))
        self.threshold_: float | None = None

    @property
    def images_per_batch(self) -> int:
        """One: the tiles of an image fill the detector's batches."""
        return 1

    @property
    def is_fitted(self) -> bool:
        return bool(getattr(self.detector, "is_fitted", True))

    # -- learning

    def fit(
        self,
        images: Iterable[Image],
        *,
        left_out: Callable[[Prediction], None] | None = None,
        threshold: bool = True,
        progress: Progress | None = None,
    ) -> Self:
        """Fit the detector on normal images, forgetting what it learned before.

        images: read once; those that are held out are kept until the others are learned.
        left_out: is not called: it would be told of tiles. threshold: False learns from all images, and leaves
        `threshold_` None. Raises what the detector raises.
        """
        self.threshold_ = None
        if threshold and self.learns == "tiles" and getattr(self.detector, "leaves_out_together", False):
            self.threshold_ = self.threshold_of(self._learn_leaving_out(images, progress))
            return self
        held: list[Image] = []
        self._learn(_hold_out(images, held, self.seed) if threshold else images, progress)
        if held:
            self.threshold_ = self.threshold_of(self.decision_function(held))
        return self

    def _learn(self, images: Iterable[Image], progress: Progress | None) -> None:
        shown = images if self.learns == "untiled" else self._cut(images)
        if isinstance(self.detector, Detector):
            self.detector.fit(shown, threshold=False, progress=progress)
        else:
            _ask(self.detector.fit, list(_read(shown)))

    def _learn_leaving_out(self, images: Iterable[Image], progress: Progress | None) -> list[float]:
        """The tiled scores of the training images, each by a model without it."""
        parts: list[int] = []
        told: list[Prediction | None] = []
        self.detector.fit(
            self._cut(images, parts=parts), left_out=told.append, together=parts, threshold=False, progress=progress
        )
        scores = ((part, p.score) for part, p in zip(parts, told, strict=True) if p is not None)
        own = groupby(scores, key=lambda pair: pair[0])
        return [score_of_tiles([score for _, score in of_image], self.tiling) for _, of_image in own]

    def calibrate(self, images: Iterable[Image], *, contamination: float | None = None) -> Self:
        """Set `threshold_` from good images that the detector has not learned.

        contamination: share of such images that may be called anomalous, in (0, 0.5); None: the detector's own.
        Raises ValueError without images, RuntimeError before `fit`.
        """
        if contamination is not None:
            if not 0 < contamination < 0.5:
                raise ValueError(f"contamination (={contamination}) must lie in (0, 0.5)")
            self.contamination = contamination
        scores = self.decision_function(images)
        if not len(scores):
            raise ValueError("calibrate needs at least one good image, found none")
        self.threshold_ = self.threshold_of(scores)
        return self

    # -- predicting

    def predict_batch(self, images: Sequence[NDArray[np.uint8]]) -> list[Prediction]:
        """Score and (H, W) map of each image. RuntimeError before `fit`."""
        return list(self._predictions(images))

    def decision_function(self, images: Iterable[Image]) -> NDArray[np.float64]:
        """(n,) continuous scores; higher is more anomalous. RuntimeError before `fit`."""
        import numpy as np

        return np.array([p.score for p in self._predictions(images, include_maps=False)], dtype=np.float64)

    def predict(self, images: Iterable[Image]) -> NDArray[np.int64]:
        """(n,) labels: 1 where the tiled score reaches `threshold_`. RuntimeError before `fit` and without one."""
        if self.threshold_ is None:
            self.require_fitted()
            raise RuntimeError(
                "TiledDetector has no threshold_: it takes scores of tiled images that were not learned, and fit had "
                f"fewer than {_ENOUGH} images, or was not to make one; set it from other good images with "
                "calibrate(images, contamination=0.1)"
            )
        return super().predict(images)

    def _predictions(self, images: Iterable[Image], *, include_maps: bool = True) -> Iterator[Prediction]:
        self.require_fitted()
        # A detector of ours gives scores and maps from one forward pass; others are asked twice.
        asked = self.detector if hasattr(self.detector, "predict_batch") else _Other(self.detector, include_maps)
        for item in stream(
            cast("Detector", asked), images, intake=self._intake(), include_maps=include_maps, in_memory=True
        ):
            if item.prediction is None:
                raise item.error or DataError(f"image {item.index} has no prediction")
            yield Prediction(item.prediction.score, cast("NDArray[np.float32] | None", item.prediction.map))

    def _intake(self) -> Intake:
        return Intake(geometry=Geometry(size=None), tiling=self.tiling)

    def _cut(self, images: Iterable[Image], *, parts: list[int] | None = None) -> Iterator[NDArray[np.uint8]]:
        """The tiles of all images. parts: gets the image's number for each tile."""
        told = None if parts is None else lambda learned: parts.append(learned.source)
        return training_images(images, intake=self._intake(), learned=told)

    # -- what the detector answers for

    def weights_state(self) -> str:
        return cast("str", self.detector.weights_state())

    def doubts(self) -> list[str]:
        return cast("list[str]", self.detector.doubts())

    def prepare(self, *, download: bool = True) -> None:
        self.detector.prepare(download=download)

    def facts(self) -> dict[str, Any]:
        return {**self.detector.facts(), "tiling": str(self.tiling)}

    def state(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """The detector's, and `threshold_`."""
        tensors, facts = self.detector.state()
        return tensors, {"threshold": self.threshold_, "detector": facts}

    def restore(self, tensors: dict[str, Any], facts: dict[str, Any]) -> Self:
        self.detector.restore(tensors, facts["detector"])
        self.threshold_ = facts["threshold"]
        return self


def _read(images: Iterable[Image]) -> Iterator[NDArray[np.uint8]]:
    from uadctl.imaging.files import read_image

    return map(read_image, images)


def _hold_out(images: Iterable[Image], held: list[Image], seed: int) -> Iterator[Image]:
    """The images to learn from. held: gets the others, one of each five by lot; none if there are less than 20."""
    import numpy as np

    source = iter(images)
    first = list(islice(source, _ENOUGH))
    if len(first) < _ENOUGH:
        yield from first
        return
    rng = np.random.default_rng(seed)
    source = chain(first, source)
    while block := list(islice(source, _BLOCK)):
        chosen = int(rng.integers(_BLOCK))
        held += block[chosen : chosen + 1]
        yield from block[:chosen]
        yield from block[chosen + 1 :]
