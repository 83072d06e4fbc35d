"""Compare scores with labels: arrays in, numbers out. Labels or masks come first, scores or maps second."""

from __future__ import annotations

from uadctl.metrics.evaluate import Evaluation, evaluate_detector, evaluate_images
from uadctl.metrics.image import (
    IMAGE_METRICS,
    RATE_COUNTS,
    THRESHOLD_METRICS,
    compute_image_ap,
    compute_image_auroc,
    compute_image_f1max,
    is_anomalous,
    threshold_counts,
)
from uadctl.metrics.pixel import (
    PixelMetrics,
    compute_aupro,
    compute_pixel_ap,
    compute_pixel_auroc,
    compute_pixel_f1max,
)
from uadctl.metrics.pooled import pixel_metric_names
from uadctl.metrics.record import COUNTED, Metrics, mean_metrics, merge, undefined
from uadctl.metrics.region import aupro_name
from uadctl.metrics.resampling import PixelStatistics, bootstrap_weights, resample_image_metrics
from uadctl.metrics.saturated import compute_spro
from uadctl.metrics.streaming import StreamingPixelMetrics

__all__ = [
    "compute_image_auroc",
    "compute_image_ap",
    "compute_image_f1max",
    "compute_pixel_auroc",
    "compute_pixel_ap",
    "compute_pixel_f1max",
    "compute_aupro",
    "compute_spro",
    "PixelMetrics",
    "StreamingPixelMetrics",
    "PixelStatistics",
    "bootstrap_weights",
    "resample_image_metrics",
    "is_anomalous",
    "threshold_counts",
    "evaluate_images",
    "evaluate_detector",
    "Evaluation",
    "Metrics",
    "undefined",
    "merge",
    "mean_metrics",
    "aupro_name",
    "pixel_metric_names",
    "IMAGE_METRICS",
    "THRESHOLD_METRICS",
    "RATE_COUNTS",
    "COUNTED",
]
