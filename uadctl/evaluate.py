"""From images at hand to numbers, without a spec and without a run folder: what a notebook asks."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias, TypedDict

import numpy as np

from uadctl.errors import DataError, SpecError
from uadctl.imaging.geometry import Geometry
from uadctl.inference import stream
from uadctl.intake import Intake, training_images
from uadctl.metrics import IMAGE_METRICS, Evaluation, PixelMetrics, evaluate_detector, evaluate_images
from uadctl.models.base import TrainedElsewhere
from uadctl.spec import MODELS, build_model_kwargs, create_model
from uadctl.spec.registry import find_model, resolve_model

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from uadctl.datasets import BenchmarkSplit
    from uadctl.models.base import Image
    from uadctl.spec import ModelEntry

    # (n, d) features, or images: paths and (H, W, 3) RGB uint8 arrays, or one (n, H, W, 3) array of them.
    Samples: TypeAlias = NDArray[Any] | Sequence[Image]


class SplitEvaluation(Evaluation):
    """What `evaluate_split` returns: `Evaluation`, and how many images the numbers rest on.

    counts: train_images (0 if the detector was fitted already, or comes trained), images, normal_images,
    defect_images; with pixel metrics pixel_images, regions and others of `PixelMetrics.result`; unknown_images were
    not scored, since nobody knows what they are, and unmasked_images are defect images without a mask, left out of the
    pixel metrics.
    """

    counts: dict[str, int]


class QuickResult(TypedDict):
    """One entry of `quick_benchmark`.

    metrics: image_auroc, image_ap, image_f1max; empty for an entry that failed. reasons: name -> why, for each metric
    that is None. error: why the entry failed, else None.
    """

    success: bool
    metrics: dict[str, float | int | None]
    reasons: dict[str, str]
    error: str | None


def evaluate_split(
    detector: Any,
    split: BenchmarkSplit,
    *,
    pixel: bool = True,
    threshold: float | None = None,
    size: int | None = None,
    threads: int = 2,
) -> SplitEvaluation:
    """Score the test images of a split and measure the detector: image metrics, and pixel metrics where there are maps.

    A detector that is not fitted is first fitted on the split's training images; one that comes trained, in a
    checkpoint, only reads that. Every image is decoded and predicted once; maps are not kept.

    detector: see `uadctl.models.base.Detector`; one without `is_fitted` counts as fitted, one without `stride` takes
           images of any size.
    split: of `load_benchmark_split`. Where its masks have another size than the maps, the maps are brought to it.
    pixel: False leaves out the pixel metrics. Where they are wanted and cannot be had, "pixel_metrics" is absent and
           stands in "reasons".
    threshold: of the image scores, anomalous iff score >= threshold; adds tp, fp, fn, tn and the rates to the image
           metrics. Never choose it from these images.
    size: images are brought to the area of a square of this side, as `[preprocess] size` does (256 in a spec that says
           nothing); None gives them to the detector as they are, as `fit` of a detector does.

    Raises DataError for an image or a mask that cannot be read, and where no test image has a label.
    """
    intake = Intake(geometry=Geometry(size=size, stride=getattr(detector, "stride", 1)))
    counts = {"train_images": 0}
    if isinstance(detector, TrainedElsewhere) and detector.comes_trained:
        detector.load()
    elif not getattr(detector, "is_fitted", True):
        detector.fit(training_images(split.train_paths, intake=intake, threads=threads))
        counts["train_images"] = len(split.train_paths)
    known = [i for i, label in enumerate(split.test_labels) if label >= 0]
    if not known:
        raise DataError(f"{split.dataset.root}: no test image of {split.dataset.category} has a label")
    masks = split.test_masks if pixel else None
    pixels, scores, unmasked, no_map = PixelMetrics(), [], 0, False
    found = stream(detector, [split.test_paths[i] for i in known], intake=intake, threads=threads)
    for i, item in zip(known, found, strict=True):
        if item.prediction is None:
            raise item.error or DataError(f"{split.test_paths[i]}: no prediction")
        scores.append(item.prediction.score)
        if masks is None or no_map:
            continue
        if item.prediction.map is None:
            no_map = True
            continue
        mask = masks[i]
        if mask is None:
            unmasked += 1
        else:
            pixels.add(mask, _aligned(np.asarray(item.prediction.map), mask.shape))
    labels = split.test_labels[known]
    result = _of_images(labels, scores, threshold)
    result["counts"] = {**counts, **result["counts"], "unknown_images": len(split.test_labels) - len(known)}
    if no_map:
        result["reasons"]["pixel_metrics"] = f"{type(detector).__name__} makes no anomaly maps"
    elif masks is not None:
        measured = pixels.result()
        result["pixel_metrics"] = measured.metrics
        result["reasons"].update(measured.reasons)
        result["counts"] |= {**measured.counts, "unmasked_images": unmasked}
    elif pixel:
        result["reasons"]["pixel_metrics"] = f"{split.dataset.name}, {split.dataset.category}: no test image has a mask"
    return result


def _of_images(labels: NDArray[np.int64], scores: Sequence[float], threshold: float | None) -> SplitEvaluation:
    reason = "no threshold was given" if threshold is None else None
    found = evaluate_images(labels, scores, threshold, threshold_reason=reason)
    shown = IMAGE_METRICS if threshold is None else tuple(found.metrics)
    return {
        "image_metrics": {name: found.metrics[name] for name in shown},
        "reasons": {name: why for name, why in found.reasons.items() if name in shown},
        "counts": found.counts,
    }


def _aligned(field: NDArray[np.float32], shape: tuple[int, ...]) -> NDArray[np.float32]:
    """A map in the size of its mask."""
    if field.shape == shape:
        return field
    import cv2

    # OpenCV takes (width, height).
    large = cv2.resize(field, (shape[1], shape[0]), interpolation=cv2.INTER_LINEAR)
    return np.asarray(large, dtype=np.float32)


def quick_benchmark(
    train: Samples,
    test: Samples,
    labels: ArrayLike,
    *,
    algorithms: Sequence[str] = ("ECOD", "COPOD"),
    device: str = "auto",
    pretrained: bool = True,
    seed: int = 0,
) -> dict[str, QuickResult]:
    """Compare detectors on data at hand, each with its default parameters.

    train: normal samples: an (n, d) matrix of features, for the classical detectors, or images, for all of them.
    test: samples of the same kind. labels: (n,) of `test`, 0 normal or 1 anomalous.
    algorithms: names of models, short or full, in any case: "ECOD", "ecod" and "vision_ecod" are one model.
    device, pretrained, seed: given to the detectors that take them.

    Returns a result for each name, as it was given. What fails in one of them, an unknown name included, stands in
    its result and ends no other.

    Raises ValueError where nothing can be compared: without samples, for labels that are neither 0 nor 1 or not as many
    as `test`, for matrices of different width, and for lists of numbers, which are no numpy arrays.
    """
    learn, ask, features = _samples(train, test)
    truth = np.asarray(labels)
    if truth.shape != (len(ask),) or not np.isin(truth, (0, 1)).all():
        raise ValueError(f"labels must be {len(ask)} numbers, 0 or 1, one for each of test; found shape {truth.shape}")
    auto = {"device": device, "pretrained": pretrained, "seed": seed}
    results: dict[str, QuickResult] = {}
    for name in algorithms:
        try:
            detector = _detector(name, auto, features)
            scores = detector.fit(learn).decision_function(ask)
            found = evaluate_detector(truth, scores)
        except Exception as error:  # noqa: BLE001 - whatever ends one detector must not end the others
            said = str(error) or type(error).__name__
            results[name] = {"success": False, "metrics": {}, "reasons": {}, "error": said}
        else:
            metrics, reasons = found["image_metrics"], found["reasons"]
            results[name] = {"success": True, "metrics": metrics, "reasons": reasons, "error": None}
    return results


def _detector(name: str, auto: dict[str, Any], features: Callable[..., object] | None) -> Any:
    entry = _resolve(name)
    kwargs = build_model_kwargs(entry.name, user_kwargs={}, auto_kwargs=auto)
    if features is None:
        return create_model(entry.name, **kwargs)
    if "feature_extractor" not in entry.not_settable:
        raise SpecError(f"{entry.name} looks at images, and train is a matrix of features")
    return create_model(entry.name, **kwargs, feature_extractor=features)


def _resolve(name: str) -> ModelEntry:
    """The model with this name in whatever case, with or without "vision_" and underscores: PyOD says AutoEncoder."""
    known = find_model(name)
    if known is not None:
        return known
    plain = {_plain(other): entry for entry in MODELS.values() for other in (*entry.aliases, entry.name)}
    return plain.get(_plain(name)) or resolve_model(name)


def _plain(name: str) -> str:
    return name.lower().removeprefix("vision_").replace("_", "").replace("-", "")


def _samples(
    train: Samples, test: Samples
) -> tuple[Sequence[Image], Sequence[Image], Callable[[Any], NDArray[np.float64]] | None]:
    """Images to learn from, images to score; and for matrices what gives the rows that the images stand for."""
    for name, samples in (("train", train), ("test", test)):
        if isinstance(samples, str | os.PathLike) or not len(samples):
            raise ValueError(f"{name} must be a matrix of features, or a sequence of at least one image")
        if not isinstance(samples, np.ndarray) and not all(map(_is_image, samples)):
            raise ValueError(f"{name} must be a numpy array where it is a matrix of features, found {_kind(samples)}")
    matrices = [samples for samples in (train, test) if isinstance(samples, np.ndarray) and samples.ndim == 2]
    if not matrices:
        return list(train), list(test), None
    if len(matrices) < 2 or matrices[0].shape[1] != matrices[1].shape[1]:
        shapes = [getattr(samples, "shape", "images") for samples in (train, test)]
        raise ValueError(f"train and test must be matrices of the same width, or both images; found {shapes}")
    rows = np.concatenate(matrices).astype(np.float64)
    if not np.isfinite(rows).all():
        raise ValueError("train or test holds NaN or infinity")
    tickets = [_ticket(i) for i in range(len(rows))]
    return tickets[: len(train)], tickets[len(train) :], _Rows(rows)


def _is_image(sample: object) -> bool:
    return isinstance(sample, str | os.PathLike) or (isinstance(sample, np.ndarray) and sample.ndim > 1)


def _kind(samples: Sequence[object]) -> str:
    """A list of numbers, a list of lists, a table of another library: in a word."""
    kind = type(samples).__name__
    if not isinstance(samples, list | tuple):
        return f"a {kind}"
    return f"a {kind} of {type(next(item for item in samples if not _is_image(item))).__name__}"


def _ticket(number: int) -> NDArray[np.uint8]:
    """A (1, 2, 3) picture of a number: detectors take images, and so can be handed the rows of a matrix."""
    return np.frombuffer(number.to_bytes(6, "little"), dtype=np.uint8).reshape(1, 2, 3)


class _Rows:
    """The feature extractor that knows, of each ticket, the row of the matrix."""

    def __init__(self, rows: NDArray[np.float64]) -> None:
        self._rows = rows

    def __call__(self, images: Sequence[NDArray[np.uint8]]) -> NDArray[np.float64]:
        """(n, d) features of n tickets."""
        return self._rows[[int.from_bytes(image.tobytes(), "little") for image in images]]
