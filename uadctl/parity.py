"""The verb `parity`: the model of a unit held against anomalib itself, on all test images.

Two questions, each with a file in the unit's folder:

    parity.json     anomalib has two ways for an image, its Engine's ("training") and its exported files' ("exported").
                    How far do they lie apart with this model?
    anomalib.json   What would anomalib itself report of this checkpoint, at its own resolution, with its normalised
                    scores and its thresholds, and where does the difference to uadctl's numbers come from?

Both are answered in one pass over the images, in memory that does not grow with their number but for a score each.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np

from uadctl import heap
from uadctl.errors import DataError, RunError
from uadctl.imaging.files import image_size, read_mask
from uadctl.imaging.geometry import Geometry
from uadctl.inference import use_threads
from uadctl.intake import Decoded, Intake, decode
from uadctl.metrics import Metrics, PixelMetrics, StreamingPixelMetrics, is_anomalous, merge, undefined
from uadctl.metrics.image import ranking_metrics
from uadctl.models.anomalib import AnomalibCheckpoint
from uadctl.progress import Progress, Silent
from uadctl.records import Sample, Size

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from uadctl.models.anomalib.predictor import Predictor, Raw
    from uadctl.models.anomalib.preprocessing import Inference, Postprocessing
    from uadctl.models.base import Detector
    from uadctl.plan import Cell
    from uadctl.runs.fitted import Fitted
    from uadctl.spec import RunSpec

Question = Literal["parity", "anomalib"]
"""What may be asked of a unit; each is the name of its answer's file without .json."""

WAYS: Final[tuple[Inference, Inference]] = ("training", "exported")

THEIR_METRICS: Final = ("image_AUROC", "image_F1Score", "pixel_AUROC", "pixel_F1Score")
"""What anomalib's Engine measures by default, by its own names."""

# So many of the images that differ most are named.
_MOST = 5
# A normalised value as close as this to the threshold lies on it: raw scores equal anomalib's to about 1e-5.
_LAST_BITS = 1e-5
_OF_MAPS: Final = ("map_difference_max", "map_difference_mean")
_OF_PIXELS: Final = ("pixel_auroc_training", "pixel_auroc_exported", "pixel_auroc_difference")

_INSIDE = "anomalib's thresholds and normalisation are inside the file, where they cannot be read"

_Engine = PixelMetrics | StreamingPixelMetrics


@dataclass(frozen=True, slots=True)
class Answer:
    """What is written of one question. Exactly one of both is None: the result, or the reason why there is none."""

    result: dict[str, Any] | None = None
    reason: str | None = None

    def document(self) -> dict[str, Any]:
        """JSON values."""
        return {"result": self.result, "reason": self.reason}


def why_never(detector: Detector, question: Question) -> str | None:
    """Why this detector cannot answer, as far as that shows by now; None if it can.

    detector: after its `prepare`, so that a checkpoint has been read. One that is yet to be trained can answer.
    """
    if not isinstance(detector, AnomalibCheckpoint):
        return "the model is not one of anomalib's"
    if detector.inferencer is not None:
        return "an inferencer was handed in, and no file of anomalib's"
    if not detector.is_fitted:
        return None
    predictor = detector.predictor
    if question == "parity":
        if len(predictor.inferences) < len(WAYS):
            return f"the file has one way for images only, the {predictor.inferences[0]} one"
        return None
    if predictor.postprocessing is None or predictor.preprocessing is None or not predictor.is_raw:
        return _INSIDE
    if "training" not in predictor.inferences:
        return "the file lacks the training way, which anomalib itself measures"
    return None


def compare(
    spec: RunSpec,
    cell: Cell,
    fitted: Fitted,
    questions: Sequence[Question],
    *,
    measured: Mapping[str, Any],
    progress: Progress | None = None,
) -> dict[Question, Answer]:
    """Answer the questions for one finished unit; each has its entry.

    fitted: the unit's model. measured: its metrics.json.

    Images that cannot be read, and masks, are left out: the unit's own measuring has said so, or failed over them.
    Raises RunError where the model gives a score that is no number, and what the model raises.
    """
    progress = progress or Silent()
    detector = fitted.detector
    answers: dict[Question, Answer] = {}
    for question in questions:
        reason = why_never(detector, question)
        if reason is None and (fitted.calibration.tiling is not None or fitted.postprocess is not None):
            reason = "[tiling] and [postprocess] change what comes of the model, and anomalib has neither"
        unchanged = fitted.geometry == Geometry(size=None) and fitted.camera.is_plain
        if reason is None and question == "anomalib" and not unchanged:
            reason = "[preprocess] changes the images before the model sees them, which anomalib itself would not do"
        if reason is not None:
            answers[question] = Answer(reason=reason)
    asked = [question for question in questions if question not in answers]
    if asked and isinstance(detector, AnomalibCheckpoint):
        use_threads(spec.run.threads)
        answers |= _answered(spec, cell, fitted, detector, asked, measured, progress)
    return {question: answers[question] for question in questions}


def _answered(
    spec: RunSpec,
    cell: Cell,
    fitted: Fitted,
    detector: AnomalibCheckpoint,
    asked: Sequence[Question],
    measured: Mapping[str, Any],
    progress: Progress,
) -> dict[Question, Answer]:
    engines = _Engines(spec, cell, detector.predictor, asked)
    parity = _Parity(fitted, detector, engines) if "parity" in asked else None
    theirs = _Theirs(detector, engines, measured) if "anomalib" in asked else None
    ways = WAYS if parity is not None else tuple(dict.fromkeys(("training", detector.used_inference)))
    with progress.task(f"compare {cell.title}", len(cell.test)) as task:
        for sample, item, raws in _both_ways(detector, cell.test, ways, fitted.intake, spec.run.threads):
            if item is not None:
                seen = _Seen(sample, item, raws, detector.predictor, _truth(sample, item, wanted=engines.wanted))
                if parity is not None:
                    parity.take(seen)
                if theirs is not None:
                    theirs.take(seen)
            task.advance()
    found: dict[Question, Answer] = {}
    if parity is not None:
        found["parity"] = Answer(parity.result(broken=len(cell.test) - parity.images))
    if theirs is not None:
        found["anomalib"] = Answer(theirs.result(broken=len(cell.test) - theirs.images))
    return found


class _Engines:
    """Where pixel metrics are counted: exact, if all that are needed fit into `[metrics] memory` together.

    wanted: whether pixels are measured at all; why_not: why, if they are not.
    """

    def __init__(self, spec: RunSpec, cell: Cell, predictor: Predictor, asked: Sequence[Question]) -> None:
        self.why_not: str | None = None
        if not spec.metrics.pixel:
            self.why_not = "[metrics] pixel = false"
        elif not cell.dataset.has_masks:
            self.why_not = "the data set has no masks"
        self.wanted = self.why_not is None
        sizes = list(_sizes(cell.test)) if self.wanted else []
        needed = 0
        if "parity" in asked:
            needed += len(WAYS) * PixelMetrics.memory_for(sum(map(math.prod, sizes)))
        if "anomalib" in asked and predictor.preprocessing is not None:
            needed += PixelMetrics.memory_for(sum(math.prod(predictor.preprocessing.view(s).size) for s in sizes))
        self.mode: Literal["exact", "streaming"] = "exact" if needed <= spec.metrics.memory_bytes else "streaming"

    def engine(self) -> _Engine:
        return PixelMetrics() if self.mode == "exact" else StreamingPixelMetrics()


def _sizes(samples: Sequence[Sample]) -> Iterator[Size]:
    """Of these images, from their headers; those that cannot be read are left out."""
    for sample in samples:
        try:
            yield image_size(sample.path)
        except DataError:
            continue


def _both_ways(
    detector: AnomalibCheckpoint,
    samples: Sequence[Sample],
    ways: Sequence[Inference],
    intake: Intake,
    threads: int,
) -> Iterator[tuple[Sample, Decoded | None, dict[Inference, Raw]]]:
    """Each sample, in order, with what the model says of it each way; None and nothing if it cannot be read."""
    batch: list[Decoded] = []
    found = decode([sample.path for sample in samples], intake=intake, threads=threads)
    for item in found:
        batch.append(item)
        if len(batch) == detector.images_per_batch:
            yield from _predicted(detector, samples, batch, ways)
            batch = []
            heap.give_back()
    yield from _predicted(detector, samples, batch, ways)


def _predicted(
    detector: AnomalibCheckpoint, samples: Sequence[Sample], batch: Sequence[Decoded], ways: Sequence[Inference]
) -> Iterator[tuple[Sample, Decoded | None, dict[Inference, Raw]]]:
    images = [item.ready for item in batch if item.ready is not None]
    said = {way: iter(detector.raw_predictions(images, inference=way) if images else ()) for way in ways}
    for item in batch:
        sample = samples[item.index]
        if item.ready is None:
            yield sample, None, {}
            continue
        raws = {way: next(said[way]) for way in ways}
        for way, raw in raws.items():
            if not math.isfinite(raw.score):
                raise RunError(f"{sample.path}: the model gave the score {raw.score} on the {way} way")
        yield sample, item, raws


def _truth(sample: Sample, item: Decoded, *, wanted: bool) -> NDArray[np.uint8] | None:
    """(H, W) 0 and 1 in the pixels of the file; None where it is unknown, cannot be read, or is not `wanted`."""
    size = _size(item)
    if not wanted or sample.label < 0:
        return None
    if sample.label == 0:
        return np.zeros(size, np.uint8)
    try:
        return read_mask(sample.masks, size=size) if sample.masks else None
    except DataError:
        return None


def _size(item: Decoded) -> Size:
    """Of the image in its file."""
    return Size(*item.image.shape[:2]) if item.image is not None else Size(0, 0)


@dataclass(frozen=True, slots=True)
class _Seen:
    """A test image and what the model says of it. mask: as `_truth`."""

    sample: Sample
    item: Decoded
    raws: Mapping[Inference, Raw]
    predictor: Predictor
    mask: NDArray[np.uint8] | None

    def map_of_file(self, way: Inference) -> NDArray[np.float32] | None:
        """The map in the pixels of the file, as the run has it: NaN where a crop cut."""
        field, item = self.raws[way].map, self.item
        if field is None or item.ready is None or item.view is None:
            return None
        given = Size(*item.ready.shape[:2])
        preprocessing = self.predictor.preprocessing
        view = Geometry(size=None).plan(given) if preprocessing is None else preprocessing.view(given)
        return item.view.back(view.back(field))


# -- parity


class _Parity:
    """The training way against the exported way."""

    def __init__(self, fitted: Fitted, detector: AnomalibCheckpoint, engines: _Engines) -> None:
        self._threshold = fitted.calibration.image
        self._used = detector.used_inference
        self._after = detector.predictor.postprocessing
        self._engines = engines
        self._pixels: dict[Inference, _Engine] = {way: engines.engine() for way in WAYS}
        self._samples: list[Sample] = []
        self._scores: dict[Inference, list[float]] = {way: [] for way in WAYS}
        self._largest, self._sum, self._compared, self._maps = 0.0, 0.0, 0, 0

    @property
    def images(self) -> int:
        return len(self._samples)

    def take(self, seen: _Seen) -> None:
        self._samples.append(seen.sample)
        for way in WAYS:
            self._scores[way].append(seen.raws[way].score)
        a, b = (seen.raws[way].map for way in WAYS)
        if a is None or b is None:
            return
        apart = np.abs(a.astype(np.float64) - b)
        self._largest = max(self._largest, float(apart.max()))
        self._sum += float(apart.sum())
        self._compared += apart.size
        self._maps += 1
        if seen.mask is None:
            return
        for way in WAYS:
            field = seen.map_of_file(way)
            if field is not None:
                self._pixels[way].add(seen.mask, field)

    def result(self, *, broken: int) -> dict[str, Any]:
        scores = {way: np.array(self._scores[way], dtype=np.float64) for way in WAYS}
        metrics = merge(
            self._of_scores(scores),
            self._of_maps(),
            self._flipped(scores),
            self._image_auroc(scores),
            self._pixel_auroc(),
        )
        return {
            "inference": self._used,
            "threshold": self._threshold.value,
            "anomalib_threshold": None if self._after is None else label_threshold(self._after, "image"),
            "metrics": metrics.metrics,
            "reasons": metrics.reasons,
            "counts": {"images": self.images, "broken_images": broken, "maps": self._maps},
            "pixel_mode": self._engines.mode if metrics.metrics["pixel_auroc_difference"] is not None else None,
            "bounds": self._bounds(metrics),
            "most_different": self._most(scores),
        }

    def _of_scores(self, scores: Mapping[Inference, NDArray[np.float64]]) -> Metrics:
        """How far scores lie apart, also as a share of their spread: the interquartile range of the training way's."""
        names = ("score_difference_max", "score_difference_mean", "score_iqr")
        shares = ("score_difference_max_share", "score_difference_mean_share")
        if not self.images:
            return undefined((*names, *shares), "there are no images")
        apart = np.abs(scores["exported"] - scores["training"])
        low, high = np.percentile(scores["training"], (25, 75))
        largest, mean, spread = float(apart.max()), float(apart.mean()), float(high - low)
        absolute = Metrics(dict(zip(names, (largest, mean, spread), strict=True)))
        if spread == 0:
            return merge(absolute, undefined(shares, "half of the scores are equal: they have no spread"))
        return merge(absolute, Metrics(dict(zip(shares, (largest / spread, mean / spread), strict=True))))

    def _of_maps(self) -> Metrics:
        if not self._compared:
            return undefined(_OF_MAPS, "the model makes no maps" if self.images else "there are no images")
        return Metrics(dict(zip(_OF_MAPS, (self._largest, self._sum / self._compared), strict=True)))

    def _flipped(self, scores: Mapping[Inference, NDArray[np.float64]]) -> Metrics:
        """Images that are anomalous on one way only, by our threshold and by anomalib's own."""
        limit = self._threshold.value
        if limit is None:
            ours = undefined(_flips(""), self._threshold.reason or "there is no threshold")
        else:
            ours = _flip_counts("", *(is_anomalous(scores[way], limit) for way in WAYS))
        after = self._after
        reason = _INSIDE if after is None else why_no_labels(after, "image")
        if after is None or reason:
            return merge(ours, undefined(_flips("anomalib_"), reason or _INSIDE))
        called = (called_anomalous(after, scores[way].astype(np.float32), "image") for way in WAYS)
        return merge(ours, _flip_counts("anomalib_", *called))

    def _image_auroc(self, scores: Mapping[Inference, NDArray[np.float64]]) -> Metrics:
        labels = np.array([sample.label for sample in self._samples], dtype=np.int64)
        known = labels >= 0
        found = {way: ranking_metrics(labels[known], scores[way][known]) for way in WAYS}
        return _difference("image_auroc", found)

    def _pixel_auroc(self) -> Metrics:
        if reason := self._engines.why_not:
            return undefined(_OF_PIXELS, reason)
        return _difference("pixel_auroc", {way: engine.result(fpr_limits=()) for way, engine in self._pixels.items()})

    def _bounds(self, metrics: Metrics) -> dict[str, float]:
        """How far the pixel metrics may be off, where they are not exact."""
        if self._engines.mode == "exact" or metrics.metrics["pixel_auroc_difference"] is None:
            return {}
        bounds = {f"pixel_auroc_{way}": _bound(engine) for way, engine in self._pixels.items()}
        return {**bounds, "pixel_auroc_difference": sum(bounds.values())}

    def _most(self, scores: Mapping[Inference, NDArray[np.float64]]) -> list[dict[str, Any]]:
        apart = np.abs(scores["exported"] - scores["training"])
        order = np.argsort(-apart, kind="stable")[:_MOST].tolist()
        return [{"path": self._samples[i].relative, **{way: float(scores[way][i]) for way in WAYS}} for i in order]


def _flips(prefix: str) -> tuple[str, str, str]:
    return f"{prefix}flipped", f"{prefix}flipped_to_anomaly", f"{prefix}flipped_to_good"


def _flip_counts(prefix: str, training: NDArray[np.bool_], exported: NDArray[np.bool_]) -> Metrics:
    to_anomaly, to_good = int(np.sum(~training & exported)), int(np.sum(training & ~exported))
    return Metrics(dict(zip(_flips(prefix), (to_anomaly + to_good, to_anomaly, to_good), strict=True)))


def _difference(name: str, found: Mapping[Inference, Metrics]) -> Metrics:
    """One metric of both ways, and exported minus training."""
    values = {way: found[way].metrics[name] for way in WAYS}
    reasons = {way: found[way].reasons.get(name) for way in WAYS}
    a, b = values["training"], values["exported"]
    metrics: dict[str, float | int | None] = {f"{name}_{way}": values[way] for way in WAYS}
    metrics[f"{name}_difference"] = None if a is None or b is None else b - a
    why = {f"{name}_{way}": reason for way, reason in reasons.items() if reason is not None}
    if why:
        why[f"{name}_difference"] = next(iter(why.values()))
    return Metrics(metrics, why)


def _bound(engine: _Engine) -> float:
    found = engine.bounds(fpr_limits=())["pixel_auroc"] if isinstance(engine, StreamingPixelMetrics) else None
    return found or 0.0


# -- anomalib's own numbers


def why_no_labels(after: Postprocessing, of: Literal["image", "pixel"]) -> str | None:
    """Why anomalib has no labels, or none that mean anything; None if it has."""
    if not after.thresholds:
        return "the checkpoint's post-processor gives no labels"
    if after.threshold(of) is None and not _has_range(after, of):
        return (
            f"the checkpoint has no {of} threshold, which anomalib finds while validating: its labels are raw values "
            f"above {_limit(after, of):g}, which mean nothing"
        )
    return None


def label_threshold(after: Postprocessing, of: Literal["image", "pixel"]) -> float | None:
    """The raw value above which anomalib's labels say anomalous; None where there are none, or all are the same.

    Normalised values are cut to 0..1 and compared with 1 - sensitivity. Without a range raw values are compared with
    it, whatever the threshold. Source: `PostProcessor` of anomalib 2.7.
    """
    if not after.thresholds:
        return None
    limit = _limit(after, of)
    if not _has_range(after, of):
        return limit
    if not 0 <= limit < 1:
        return None
    low, high = _range_of(after, of)
    threshold = after.threshold(of)
    middle = (low + high) / 2 if threshold is None else threshold
    return middle + (limit - 0.5) * (high - low)


def _has_range(after: Postprocessing, of: Literal["image", "pixel"]) -> bool:
    """Whether values are normalised: there is a range, and it is used."""
    low, high = (after.image_min, after.image_max) if of == "image" else (after.pixel_min, after.pixel_max)
    return after.normalises and low is not None and high is not None


def _range_of(after: Postprocessing, of: Literal["image", "pixel"]) -> tuple[float, float]:
    """Least and largest raw value, where there `_has_range`."""
    low, high = (after.image_min, after.image_max) if of == "image" else (after.pixel_min, after.pixel_max)
    return low or 0.0, high or 0.0


def called_anomalous(
    after: Postprocessing, values: NDArray[np.float32], of: Literal["image", "pixel"]
) -> NDArray[np.bool_]:
    """anomalib's verdict on raw values, where `why_no_labels` has nothing to say.

    It asks for more than the threshold. A threshold that was found on these very images is the score of one of them,
    which it therefore calls normal; here that score may differ in its last bits, and is called normal all the same.
    """
    normalised = after.normalised(values, of=of)
    return np.asarray(normalised > _limit(after, of) + (_LAST_BITS if _has_range(after, of) else 0))


def _limit(after: Postprocessing, of: Literal["image", "pixel"]) -> float:
    """Above it a normalised value is anomalous."""
    return 1 - (after.image_sensitivity if of == "image" else after.pixel_sensitivity)


@dataclass(slots=True)
class _Confusion:
    """Counts of verdicts on pixels, or images."""

    tp: int = 0
    fp: int = 0
    fn: int = 0

    def add(self, defect: NDArray[np.bool_], called: NDArray[np.bool_]) -> None:
        both = int(np.count_nonzero(defect & called))
        self.tp += both
        self.fp += int(np.count_nonzero(called)) - both
        self.fn += int(np.count_nonzero(defect)) - both

    @property
    def f1(self) -> float:
        """2 tp / (2 tp + fp + fn); 0 where that is 0 / 0, as torchmetrics has it."""
        below = 2 * self.tp + self.fp + self.fn
        return 2 * self.tp / below if below else 0.0


@dataclass(slots=True)
class _Range:
    """Values as anomalib hands them to its metrics.

    zeros, ones: how many normalisation has cut to 0 and to 1. beyond: any lies outside of 0 to 1, not being normalised.
    at_threshold: those that equal the normalised threshold but for rounding, at least one where the threshold was found
        on these very images.
    """

    number: int = 0
    zeros: int = 0
    ones: int = 0
    beyond: bool = False
    at_threshold: int = 0

    @property
    def cut(self) -> int:
        return self.zeros + self.ones

    def add(self, values: NDArray[np.float32], *, normalised: bool, threshold: float) -> None:
        self.number += values.size
        if normalised:
            self.zeros += int(np.count_nonzero(values == 0))
            self.ones += int(np.count_nonzero(values == 1))
        else:
            self.beyond = self.beyond or bool(np.any((values < 0) | (values > 1)))
        self.at_threshold += int(np.count_nonzero(np.abs(values - np.float32(threshold)) <= _LAST_BITS))


class _Theirs:
    """What anomalib's Engine would report with its default metrics, and the same of ours.

    Of images, on the training way: AUROC of the normalised, cut scores, F1 of the labels. Of pixels the same, of maps
    as the model gives them, against masks that went through the same resize (nearest) and crop. Masks are 1 where they
    are above 0; a value is anomalous where it is above (not at) 1 - sensitivity.

    Source: `AnomalibModule.configure_evaluator`, `PostProcessor`, `PreProcessor` of anomalib 2.7; the AUROC is
    torchmetrics' binary one, exact, ties counting half.
    """

    def __init__(self, detector: AnomalibCheckpoint, engines: _Engines, measured: Mapping[str, Any]) -> None:
        from uadctl.models.anomalib.preprocessing import Postprocessing, Preprocessing

        predictor = detector.predictor
        self._before = predictor.preprocessing or Preprocessing()
        self._after = predictor.postprocessing or Postprocessing()
        self._used = detector.used_inference
        self._watched = None if detector.training_ is None else detector.training_.validation_images
        self._measured = measured
        self._limit: float | None = measured.get("pixel_threshold")
        self._engines = engines
        self._pixels = engines.engine()
        self._labels: list[int] = []
        self._scores: list[float] = []
        self._of_scores, self._of_maps = _Range(), _Range()
        self._their_pixels, self._our_pixels = _Confusion(), _Confusion()
        self._sizes: dict[tuple[Size, Size, Size], None] = {}
        self._maps, self._unmasked = 0, 0
        self._odd: str | None = None
        self.images = 0

    def take(self, seen: _Seen) -> None:
        self.images += 1
        if seen.sample.label < 0:
            return
        raw = seen.raws["training"]
        self._labels.append(seen.sample.label)
        self._scores.append(raw.score)
        if raw.map is None or not self._engines.wanted:
            return
        if seen.mask is None:
            self._unmasked += 1
            return
        self._maps += 1
        self._take_map(raw.map, seen.mask)
        field = seen.map_of_file(self._used)
        if self._limit is not None and field is not None:
            looked_at = ~np.isnan(field)
            self._our_pixels.add((seen.mask > 0) & looked_at, is_anomalous(field, self._limit))

    def _take_map(self, raw: NDArray[np.float32], mask: NDArray[np.uint8]) -> None:
        view = self._before.view(Size(*mask.shape))
        if raw.shape != view.size:
            self._odd = (
                f"the model's map is {Size(*raw.shape)}, its input {view.size} (height x width): anomalib cannot lay "
                "it over the mask"
            )
            return
        self._sizes[(view.original, view.resized, view.size)] = None
        defect = _mask_of_model(mask, view.resized, view.box) > 0
        values = self._after.normalised(raw, of="pixel")
        self._of_maps.add(values, normalised=_has_range(self._after, "pixel"), threshold=_limit(self._after, "pixel"))
        self._pixels.add(defect, values)
        if why_no_labels(self._after, "pixel") is None:
            self._their_pixels.add(defect, called_anomalous(self._after, raw, "pixel"))

    def result(self, *, broken: int) -> dict[str, Any]:
        theirs, ours = self._their_metrics(), self._our_metrics()
        exact = self._engines.mode == "exact"
        has_pixels = theirs.metrics["pixel_AUROC"] is not None
        return {
            "anomalib": {"metrics": theirs.metrics, "reasons": theirs.reasons},
            "uadctl": {"metrics": ours.metrics, "reasons": ours.reasons},
            "differences": {
                name: None if a is None or b is None else b - a
                for name, a, b in ((n, theirs.metrics[n], ours.metrics[n]) for n in THEIR_METRICS)
            },
            "causes": self._causes(),
            "postprocessing": self._after.facts(),
            "normalised_image_threshold": _limit(self._after, "image"),
            "normalised_pixel_threshold": _limit(self._after, "pixel"),
            "inference": self._used,
            "counts": {
                "images": len(self._labels),
                "broken_images": broken,
                "images_cut": self._of_scores.cut,
                "images_at_threshold": self._of_scores.at_threshold,
                "maps": self._maps,
                "maps_without_mask": self._unmasked,
                "pixels": self._of_maps.number,
                "pixels_cut": self._of_maps.cut,
                "pixels_at_threshold": self._of_maps.at_threshold,
            },
            "pixel_mode": self._engines.mode if has_pixels else None,
            "bounds": {} if exact or not has_pixels else {"pixel_AUROC": _bound(self._pixels)},
        }

    def _their_metrics(self) -> Metrics:
        labels = np.array(self._labels, dtype=np.int64)
        raw = np.array(self._scores, dtype=np.float32)
        scores = self._after.normalised(raw, of="image")
        self._of_scores = _Range()
        self._of_scores.add(scores, normalised=_has_range(self._after, "image"), threshold=_limit(self._after, "image"))
        found = ranking_metrics(labels, scores)
        image = _Confusion()
        if why_no_labels(self._after, "image") is None:
            image.add(labels == 1, called_anomalous(self._after, raw, "image"))
        no_defect = None if np.any(labels == 1) else "there is no defect image"
        return merge(
            _or("image_AUROC", found.metrics["image_auroc"], found.reasons.get("image_auroc"), self._squeezed("image")),
            _or("image_F1Score", image.f1, why_no_labels(self._after, "image"), no_defect),
            self._their_pixel_metrics(),
        )

    def _their_pixel_metrics(self) -> Metrics:
        if why_not := self._odd or self._why_no_pixels():
            return undefined(THEIR_METRICS[2:], why_not)
        found = self._pixels.result(fpr_limits=())
        reason = found.reasons.get("pixel_auroc")
        return merge(
            _or("pixel_AUROC", found.metrics["pixel_auroc"], reason, self._squeezed("pixel")),
            _or("pixel_F1Score", self._their_pixels.f1, why_no_labels(self._after, "pixel"), reason),
        )

    def _why_no_pixels(self) -> str | None:
        if self._engines.why_not or self._maps:
            return self._engines.why_not
        return "no image has a map and a mask"

    def _squeezed(self, of: Literal["image", "pixel"]) -> str | None:
        """Why an AUROC of values that are not normalised has no one value in anomalib; None if it has."""
        seen = self._of_scores if of == "image" else self._of_maps
        if not seen.beyond:
            return None
        return (
            "the checkpoint does not normalise, and torchmetrics puts those batches that have values outside of 0 to 1 "
            "through a sigmoid: anomalib's number depends on the batches"
        )

    def _our_metrics(self) -> Metrics:
        metrics: Mapping[str, Any] = self._measured["metrics"]
        reasons: Mapping[str, str] = self._measured["reasons"]
        not_measured = self._engines.why_not or "not measured"
        if metrics.get("tp") is None:
            image_f1 = _or("image_F1Score", None, reasons.get("tp") or "there is no threshold")
        elif not metrics["tp"] + metrics["fn"]:
            image_f1 = _or("image_F1Score", None, "there is no defect image")
        else:
            image_f1 = _or("image_F1Score", _Confusion(metrics["tp"], metrics["fp"], metrics["fn"]).f1)
        auroc = metrics.get("pixel_auroc")
        no_auroc = None if auroc is not None else reasons.get("pixel_auroc") or not_measured
        no_limit = "the run has no pixel threshold" if self._limit is None else None
        return merge(
            _or("image_AUROC", metrics["image_auroc"], reasons.get("image_auroc")),
            image_f1,
            _or("pixel_AUROC", auroc, no_auroc),
            _or("pixel_F1Score", self._our_pixels.f1, self._why_no_pixels(), no_auroc, no_limit),
        )

    def _causes(self) -> dict[str, list[str]]:
        """For each metric, what there is that can make anomalib's number another than ours."""
        way = ["uadctl went the exported way, anomalib the training way"] if self._used != "training" else []
        measured = self._resolutions() if self._maps else []
        return {
            "image_AUROC": [*_cut("scores", self._of_scores), *way],
            "image_F1Score": [*self._limits("image"), *way],
            "pixel_AUROC": [*_cut("pixels", self._of_maps), *measured, *way] if self._maps else [],
            "pixel_F1Score": [*self._limits("pixel"), *measured, *way] if self._maps else [],
        }

    def _resolutions(self) -> list[str]:
        causes = []
        for original, resized, size in self._sizes:
            crop = "" if size == resized else f", of which a crop leaves {size}"
            if original != resized or crop:
                causes.append(
                    f"resolution: anomalib measures at {resized}{crop}, with masks resized likewise; "
                    f"uadctl in the file's {original} pixels"
                )
        return causes

    def _limits(self, of: Literal["image", "pixel"]) -> list[str]:
        if why_no_labels(self._after, of):
            return []
        seen = self._of_scores if of == "image" else self._of_maps
        causes = []
        if not _has_range(self._after, of):
            causes.append(
                f"threshold: anomalib compares raw values with {_limit(self._after, of):g}, since it does not normalise"
            )
        elif (limit := self._after.threshold(of)) is None:
            causes.append("threshold: anomalib's is the middle of its range, having none")
        else:
            causes.append(f"threshold: anomalib's {limit:.6g} {self._whence()}")
        if _has_range(self._after, of) and (moved := _limit(self._after, of)) != 0.5:
            causes.append(
                f"sensitivity: anomalib calls anomalous what lies above {moved:g} once normalised, not above 0.5"
            )
        if seen.at_threshold:
            noun = "images" if of == "image" else "pixels"
            causes.append(
                f"on the line: {seen.at_threshold} of {seen.number} {noun} at anomalib's threshold but for rounding, "
                "which it calls normal"
            )
        return causes

    def _whence(self) -> str:
        """Where anomalib's threshold comes from, as far as is known: a checkpoint does not say."""
        watched = self._watched
        if watched is None:
            return (
                "is from the validation set of its training, which by default is the test set; uadctl's comes from "
                "good images alone"
            )
        if not watched:
            return "comes from its training images, there being no validation images"
        images = "1 good validation image" if watched == 1 else f"{watched} good validation images"
        return (
            f"comes from {images}: uadctl shows anomalib no test images, so these are not the numbers of a published "
            "protocol"
        )


def _or(name: str, value: float | None, *reasons: str | None) -> Metrics:
    """One metric; None where there is a reason, of which the first counts."""
    reason = next((reason for reason in reasons if reason), None)
    return Metrics({name: value}) if reason is None else undefined([name], reason)


def _cut(noun: str, seen: _Range) -> list[str]:
    if max(seen.zeros, seen.ones) < 2:
        return []
    return [f"ties: anomalib's normalisation cuts {seen.cut} of {seen.number} {noun} to 0 or 1; uadctl ranks raw ones"]


def _mask_of_model(mask: NDArray[np.uint8], resized: Size, box: Any) -> NDArray[np.uint8]:
    """A mask of the file where the model's input has its pixels: by nearest neighbour, as torchvision resizes masks."""
    import torch
    from torchvision.transforms.v2 import functional

    y0, x0, height, width = box
    if mask.shape != resized:
        mask = functional.resize_mask(torch.from_numpy(mask)[None], list(resized))[0].numpy()
    return np.asarray(mask[y0 : y0 + height, x0 : x0 + width])
