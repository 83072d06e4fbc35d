"""Image metrics: how well one score an image tells defect images from normal ones."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from uadctl.metrics.ranking import RankingSums, auroc, average_precision, f1_max, rank
from uadctl.metrics.record import Metrics, undefined

_RANKED: dict[str, tuple[str, Callable[[RankingSums], float]]] = {
    "image_auroc": ("image AUROC", auroc),
    "image_ap": ("image AP", average_precision),
    "image_f1max": ("image F1-max", f1_max),
}
IMAGE_METRICS = tuple(_RANKED)

#: Each rate at the threshold with the count that is its n, the denominator.
RATE_COUNTS = {"miss_rate": "defect_images", "false_alarm_rate": "normal_images", "precision": "alarms"}
THRESHOLD_METRICS = ("tp", "fp", "fn", "tn", *RATE_COUNTS)


def is_anomalous(scores: ArrayLike, threshold: float) -> NDArray[np.bool_]:
    """The one rule that makes a verdict of a score, for images and for pixels: anomalous iff score >= threshold.

    Compared as float64: NumPy would round a Python number to float32 beside float32 scores, and so move the line.
    A NaN score is not anomalous. Raises ValueError if the threshold is NaN.
    """
    if math.isnan(threshold):
        raise ValueError("the threshold is NaN")
    return np.asarray(np.asarray(scores, dtype=np.float64) >= threshold)


def compute_image_auroc(labels: ArrayLike, scores: ArrayLike) -> float:
    """Area under the ROC curve of the image scores: 1 if every defect image scores above every normal one.

    labels: (n,) 0 normal or 1 anomalous.
    scores: (n,) continuous, higher is more anomalous; infinite values rank like any other.

    Raises ValueError if there is no normal or no defect image, where it is undefined, and for a label that is
    neither 0 nor 1 (-1, unknown, included), a NaN score, or different lengths.
    """
    return _compute("image_auroc", labels, scores)


def compute_image_ap(labels: ArrayLike, scores: ArrayLike) -> float:
    """Average precision of the image scores, without interpolation: the mean over defect images of the precision there.

    Arguments and errors as `compute_image_auroc`. Without normal images it would be 1 whatever the scores, so that
    is an error as well.
    """
    return _compute("image_ap", labels, scores)


def compute_image_f1max(labels: ArrayLike, scores: ArrayLike) -> float:
    """The highest F1 over all thresholds: an upper bound found with the test labels, never the F1 of a verdict.

    Arguments and errors as `compute_image_auroc`. Without normal images it would be 1 whatever the scores, so that
    is an error as well.
    """
    return _compute("image_f1max", labels, scores)


def ranking_metrics(labels: ArrayLike, scores: ArrayLike, *, noun: str = "image") -> Metrics:
    """image_auroc, image_ap and image_f1max; all None with the reason where one kind of image is missing.

    noun: what a reason calls that which has a score.

    counts: images, normal_images, defect_images. Arguments and errors as `compute_image_auroc`, but for what is
    undefined.
    """
    defect, values = checked_scores(labels, scores)
    counts = _counts(defect)
    if reason := _undefined(counts, noun):
        return undefined(IMAGE_METRICS, reason, counts=counts)
    sums = RankingSums.of(rank(values[defect], np.sort(values[~defect])))
    return Metrics({name: measure(sums) for name, (_, measure) in _RANKED.items()}, {}, counts)


def threshold_counts(labels: ArrayLike, scores: ArrayLike, threshold: float, *, noun: str = "image") -> Metrics:
    """What the verdicts at one threshold get right and wrong; an image is called anomalous iff score >= threshold.

    metrics: tp, fp, fn, tn (images); miss_rate = fn / (tp + fn), the share of defect images that pass;
             false_alarm_rate = fp / (fp + tn), the share of normal images called anomalous;
             precision = tp / (tp + fp). A rate whose denominator is 0 is None with its reason.
    counts:  images, normal_images, defect_images, and alarms, the images called anomalous. `RATE_COUNTS` says
             which of them is the n of which rate.

    noun: what a reason calls that which has a score.

    Raises ValueError for a threshold that is NaN; labels, scores and other errors as `compute_image_auroc`.
    """
    defect, values = checked_scores(labels, scores)
    called = is_anomalous(values, threshold)
    tp, fp = int(np.sum(called & defect)), int(np.sum(called & ~defect))
    fn, tn = int(np.sum(~called & defect)), int(np.sum(~called & ~defect))
    counts = {**_counts(defect), "alarms": tp + fp}
    wrong = {"miss_rate": fn, "false_alarm_rate": fp, "precision": tp}
    why = {
        "miss_rate": f"there is no defect {noun} ({tn + fp} normal)",
        "false_alarm_rate": f"there is no normal {noun} ({tp + fn} defect)",
        "precision": f"none of {values.size} {noun}s scores at or above the threshold {float(threshold):.6g}",
    }
    metrics: dict[str, float | int | None] = {"tp": tp, "fp": fp, "fn": fn, "tn": tn}
    reasons = {}
    for name, n_from in RATE_COUNTS.items():
        n = counts[n_from]
        metrics[name] = wrong[name] / n if n else None
        if not n:
            reasons[name] = why[name] if values.size else f"there are no {noun}s"
    return Metrics(metrics, reasons, counts)


def _compute(name: str, labels: ArrayLike, scores: ArrayLike) -> float:
    title, measure = _RANKED[name]
    defect, values = checked_scores(labels, scores)
    if reason := _undefined(_counts(defect)):
        raise ValueError(f"{title} is undefined: {reason}")
    return measure(RankingSums.of(rank(values[defect], np.sort(values[~defect]))))


def _counts(defect: NDArray[np.bool_]) -> dict[str, int]:
    n_defect = int(np.sum(defect))
    return {"images": defect.size, "normal_images": defect.size - n_defect, "defect_images": n_defect}


def _undefined(counts: dict[str, int], noun: str = "image") -> str | None:
    """Why the ranking metrics are undefined, or None if they are not."""
    if not counts["images"]:
        return f"there are no {noun}s"
    if not counts["defect_images"]:
        return f"there is no defect {noun} ({counts['normal_images']} normal)"
    if not counts["normal_images"]:
        return f"there is no normal {noun} ({counts['defect_images']} defect)"
    return None


def checked_scores(labels: ArrayLike, scores: ArrayLike) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    """(n,) True for defect images, and (n,) their scores; ValueError says which entry is wrong."""
    label_array, score_array = np.asarray(labels), np.asarray(scores)
    for name, array in (("labels", label_array), ("scores", score_array)):
        if array.ndim != 1:
            raise ValueError(f"{name} has shape {array.shape}; expected one number an image, (n,)")
        if array.dtype.kind not in "biuf":
            raise ValueError(f"{name} is of type {array.dtype}; expected numbers")
    if label_array.size != score_array.size:
        raise ValueError(f"{label_array.size} labels but {score_array.size} scores; expected one of each an image")
    defect = np.asarray(label_array == 1)
    wrong = np.flatnonzero(~defect & (label_array != 0))
    if wrong.size:
        at = int(wrong[0])
        value = label_array[at].item()
        if value == -1:
            raise ValueError(f"labels[{at}] is -1, unknown; leave such images out before anything is measured")
        raise ValueError(
            f"labels[{at}] is {value}; expected 0 (normal) or 1 (anomalous), and labels before scores in the call"
        )
    values = score_array.astype(np.float64)
    nan = np.flatnonzero(np.isnan(values))
    if nan.size:
        raise ValueError(f"scores[{int(nan[0])}] is NaN; an image without a score cannot be ranked")
    return defect, values
