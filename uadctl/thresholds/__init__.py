"""Choose a number from scores: thresholds that come from images which the model was not fitted on.

One rule makes a verdict of a threshold, here and everywhere: anomalous iff score >= threshold
(`uadctl.metrics.is_anomalous`). Test images never choose a threshold.
"""

from __future__ import annotations

from uadctl.thresholds.choice import Asked, choose, expected_shares, images_needed
from uadctl.thresholds.labelled import describe_threshold, fit_threshold
from uadctl.thresholds.normal import TooFew, conformal_threshold, p_value, quantile_threshold
from uadctl.thresholds.pixels import PixelCalibration
from uadctl.thresholds.postprocessing import tune_postprocess
from uadctl.thresholds.record import (
    Expected,
    Labelled,
    Method,
    Objective,
    Shares,
    Source,
    Tail,
    Threshold,
    Verdict,
    doubt_of_tail,
    verdict,
)
from uadctl.thresholds.tails import evt_threshold, fit_tail

__all__ = [
    "Asked",
    "Expected",
    "Labelled",
    "Method",
    "Objective",
    "PixelCalibration",
    "Shares",
    "Source",
    "Tail",
    "Threshold",
    "TooFew",
    "Verdict",
    "choose",
    "conformal_threshold",
    "describe_threshold",
    "doubt_of_tail",
    "evt_threshold",
    "expected_shares",
    "fit_tail",
    "fit_threshold",
    "images_needed",
    "p_value",
    "quantile_threshold",
    "tune_postprocess",
    "verdict",
]
