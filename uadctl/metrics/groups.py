"""Parts that several images show from several sides: one score and one label a part, made of its views."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from uadctl.metrics.image import ranking_metrics, threshold_counts
from uadctl.metrics.record import Metrics

_OF_GROUPS = {
    "image_auroc": "group_auroc",
    "image_ap": "group_ap",
    "image_f1max": "group_f1max",
    "miss_rate": "group_miss_rate",
    "false_alarm_rate": "group_false_alarm_rate",
    "images": "groups",
    "normal_images": "normal_groups",
    "defect_images": "defect_groups",
}
_AT_THRESHOLD = ("group_miss_rate", "group_false_alarm_rate")

#: The metrics of parts, in the order in which they are reported.
GROUP_METRICS = (*list(_OF_GROUPS.values())[:3], *_AT_THRESHOLD)


def number_parts(groups: Sequence[str | None]) -> NDArray[np.int64]:
    """(n,) which part each image shows, numbered 0, 1, … as they first come; one without a group is its own part."""
    numbers: dict[str | tuple[int], int] = {}
    keys: list[str | tuple[int]] = [(i,) if group is None else group for i, group in enumerate(groups)]
    return np.array([numbers.setdefault(key, len(numbers)) for key in keys], dtype=np.int64)


def label_parts(labels: ArrayLike, part: NDArray[np.int64]) -> NDArray[np.int64]:
    """(G,) the label of each part: 1 if a view shows a defect, else -1 if a view is unknown, else 0.

    labels: (n,) of the images, 0, 1 or -1. part: (n,) which part each shows, as of `number_parts`.
    """
    given = np.asarray(labels, dtype=np.int64)
    found = np.zeros(int(part.max(initial=-1)) + 1, dtype=np.int64)
    found[part[given < 0]] = -1
    found[part[given == 1]] = 1
    return found


def score_parts(scores: ArrayLike, part: NDArray[np.int64]) -> NDArray[np.float64]:
    """(G,) the score of each part: the highest of its views, as one defect on one side is enough."""
    found = np.full(int(part.max(initial=-1)) + 1, -np.inf)
    np.maximum.at(found, part, np.asarray(scores, dtype=np.float64))
    return found


def evaluate_groups(
    labels: ArrayLike, scores: ArrayLike, threshold: float | None, *, threshold_reason: str | None = None
) -> Metrics:
    """The metrics of parts: group_auroc, group_ap, group_f1max, group_miss_rate, group_false_alarm_rate.

    labels, scores: (G,) of the parts, labels 0 or 1; otherwise as `evaluate_images`, errors as well.
    threshold, threshold_reason: a part is called anomalous iff its score >= threshold; None with the reason.

    counts: groups, normal_groups, defect_groups.
    """
    found = ranking_metrics(labels, scores, noun="part")
    metrics, reasons = dict(found.metrics), dict(found.reasons)
    if threshold is None:
        metrics |= dict.fromkeys(("miss_rate", "false_alarm_rate"))
        reasons |= dict.fromkeys(("miss_rate", "false_alarm_rate"), threshold_reason or "")
    else:
        at_threshold = threshold_counts(labels, scores, threshold, noun="part")
        metrics |= at_threshold.metrics
        reasons |= at_threshold.reasons
    return Metrics(
        {_OF_GROUPS[name]: value for name, value in metrics.items() if name in _OF_GROUPS},
        {_OF_GROUPS[name]: reason for name, reason in reasons.items() if name in _OF_GROUPS},
        {_OF_GROUPS[name]: count for name, count in found.counts.items()},
    )
