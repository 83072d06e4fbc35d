"""What every threshold on the image scores would give: the points of the ROC and precision-recall curves."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from uadctl.metrics.image import ranking_metrics


@dataclass(frozen=True, slots=True)
class ImageCurve:
    """One point for each distinct score, as a threshold (anomalous iff score >= threshold), from the highest down.

    thresholds: (K,) float64, descending.
    tp, fp:     (K,) int64, defect and normal images at or above each; they never fall.
    n_defect, n_normal: all defect and all normal images, both at least 1.
    """

    thresholds: NDArray[np.float64]
    tp: NDArray[np.int64]
    fp: NDArray[np.int64]
    n_defect: int
    n_normal: int

    @property
    def recall(self) -> NDArray[np.float64]:
        """(K,) the share of defect images found; the true-positive rate."""
        return np.asarray(self.tp / self.n_defect)

    @property
    def false_alarm_rate(self) -> NDArray[np.float64]:
        """(K,) the share of normal images called anomalous; the false-positive rate."""
        return np.asarray(self.fp / self.n_normal)

    @property
    def precision(self) -> NDArray[np.float64]:
        """(K,) the share of defect images among those called anomalous; each point has at least one."""
        return np.asarray(self.tp / (self.tp + self.fp))


def image_curve(labels: ArrayLike, scores: ArrayLike) -> ImageCurve:
    """The ROC and the precision-recall curve of the image scores, without leaving out or interpolating points.

    Equal scores are one point: they fall on the same side of every threshold. The ROC curve runs from (0, 0) straight
    from point to point, and the area under it is `compute_image_auroc`. The precision-recall curve is a stair, each
    precision holding from the recall before it, and the area under it is `compute_image_ap`.

    labels: (n,) 0 normal or 1 anomalous.
    scores: (n,) continuous, higher is more anomalous; infinite values rank like any other.

    Raises ValueError if there is no normal or no defect image, where the curves are undefined, and for labels and
    scores that `compute_image_auroc` refuses.
    """
    checked = ranking_metrics(labels, scores)
    if reason := checked.reasons.get("image_auroc"):
        raise ValueError(f"the curves are undefined: {reason}")
    distinct, index = np.unique(np.asarray(scores, dtype=np.float64), return_inverse=True)
    defect = np.asarray(labels) == 1

    def at_or_above(which: NDArray[np.bool_]) -> NDArray[np.int64]:
        return np.cumsum(np.bincount(index[which], minlength=distinct.size)[::-1]).astype(np.int64)

    return ImageCurve(
        thresholds=distinct[::-1],
        tp=at_or_above(defect),
        fp=at_or_above(~defect),
        n_defect=checked.counts["defect_images"],
        n_normal=checked.counts["normal_images"],
    )
