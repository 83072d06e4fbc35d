"""Several metrics in one call: what a verb writes of a category, and what a notebook asks of a detector."""

from __future__ import annotations

from typing import NotRequired, TypedDict

from numpy.typing import ArrayLike

from uadctl.metrics.image import THRESHOLD_METRICS, ranking_metrics, threshold_counts
from uadctl.metrics.pixel import pooled_metrics
from uadctl.metrics.pooled import Stack
from uadctl.metrics.record import Metrics, undefined


class Evaluation(TypedDict):
    """What `evaluate_detector` returns: name -> number or None, and name -> why for each None."""

    image_metrics: dict[str, float | int | None]
    pixel_metrics: NotRequired[dict[str, float | int | None]]
    reasons: dict[str, str]


def evaluate_images(
    labels: ArrayLike, scores: ArrayLike, threshold: float | None, *, threshold_reason: str | None = None
) -> Metrics:
    """The image metrics of one category: image_auroc, image_ap, image_f1max, and those at the threshold.

    labels, scores, errors: as `compute_image_auroc`; what is undefined is None with the reason.
    threshold: an image is anomalous iff its score >= threshold. None where the run has none: tp, fp, fn, tn,
               miss_rate, false_alarm_rate and precision are then None for `threshold_reason`.

    counts: images, normal_images, defect_images; with a threshold also alarms.

    Raises ValueError if neither a threshold nor a reason is given, or both.
    """
    ranked = ranking_metrics(labels, scores)
    if threshold is None:
        if not threshold_reason:
            raise ValueError("threshold is None; expected a number, or threshold_reason saying why there is none")
        at_threshold = undefined(THRESHOLD_METRICS, threshold_reason, counts=ranked.counts)
    else:
        if threshold_reason is not None:
            raise ValueError(f"threshold is {threshold}; threshold_reason says why there is none: give one of the two")
        at_threshold = threshold_counts(labels, scores, threshold)
    return Metrics(
        ranked.metrics | at_threshold.metrics,
        ranked.reasons | at_threshold.reasons,
        ranked.counts | at_threshold.counts,
    )


def evaluate_detector(
    y: ArrayLike, s: ArrayLike, *, pixel_labels: Stack | None = None, pixel_scores: Stack | None = None
) -> Evaluation:
    """All metrics that need no threshold, of labels and scores at hand.

    y: (n,) 0 normal or 1 anomalous.
    s: (n,) continuous scores (`decision_function`, never the 0 and 1 of `predict`), higher is more anomalous.
    pixel_labels: masks, pixel_scores: maps, as `compute_pixel_auroc` takes them, of these or fewer images.

    Returns a dict with "image_metrics" (image_auroc, image_ap, image_f1max), "pixel_metrics" (pixel_auroc, pixel_ap,
    pixel_f1max, aupro_30) only if both masks and maps are given, and "reasons": name -> why, for each metric that is
    undefined and therefore None, and under "pixel_metrics" if only one of masks and maps is given.

    Raises ValueError for labels, scores, masks or maps that `compute_*` refuse.
    """
    image = ranking_metrics(y, s)
    result: Evaluation = {"image_metrics": image.metrics, "reasons": dict(image.reasons)}
    if pixel_labels is not None and pixel_scores is not None:
        pixel = pooled_metrics(pixel_labels, pixel_scores)
        result["pixel_metrics"] = pixel.metrics
        result["reasons"].update(pixel.reasons)
    elif pixel_labels is not None:
        result["reasons"]["pixel_metrics"] = "there are pixel_labels but no pixel_scores"
    elif pixel_scores is not None:
        result["reasons"]["pixel_metrics"] = "there are pixel_scores but no pixel_labels"
    return result
