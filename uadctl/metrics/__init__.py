"""Compare scores with labels: arrays in, numbers out. Labels or masks come first, scores or maps second."""

from __future__ import annotations

from uadctl.metrics.evaluate import Evaluation, evaluate_detector, evaluate_images
from uadctl.metrics.groups import GROUP_METRICS, evaluate_groups
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
from uadctl.metrics.intervals import percentile_interval
from uadctl.metrics.official import CategoryMetrics, Measurement
from uadctl.metrics.paired import LOWER_IS_BETTER, holm, mean_replicates, paired_interval, wilcoxon_signed_rank
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
from uadctl.metrics.saturated import check_saturations, compute_spro, saturation_of
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
    "check_saturations",
    "saturation_of",
    "PixelMetrics",
    "StreamingPixelMetrics",
    "PixelStatistics",
    "bootstrap_weights",
    "resample_image_metrics",
    "percentile_interval",
    "paired_interval",
    "mean_replicates",
    "wilcoxon_signed_rank",
    "holm",
    "CategoryMetrics",
    "Measurement",
    "is_anomalous",
    "threshold_counts",
    "evaluate_images",
    "evaluate_detector",
    "evaluate_groups",
    "Evaluation",
    "Metrics",
    "undefined",
    "merge",
    "mean_metrics",
    "aupro_name",
    "pixel_metric_names",
    "IMAGE_METRICS",
    "GROUP_METRICS",
    "THRESHOLD_METRICS",
    "RATE_COUNTS",
    "COUNTED",
    "LOWER_IS_BETTER",
]
