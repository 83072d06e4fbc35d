"""What makes one camera disagree with itself, as data: for [augment] steps and [robustness] corruptions."""

from __future__ import annotations

from typing import Final

from uadctl.spec.operations import Operation, Parameter


def _operation(name: str, summary: str, *parameters: Parameter) -> Operation:
    return Operation(name, f"uadctl.imaging.augment:{name}", summary, parameters)


_ALL = (
    _operation(
        "jpeg_compress",
        "Compress as a JPEG file and back.",
        Parameter("quality", "int", 75, 1, 95, "libjpeg's scale; less is coarser"),
    ),
    _operation(
        "vignette",
        "Darken towards the corners, as a lens does.",
        Parameter("strength", "float", 0.3, 0.0, 10.0, "the corners keep 1 / (1 + strength)^2 of their light"),
    ),
    _operation(
        "exposure_drift",
        "Brighten or darken all of the image.",
        Parameter("ev_range", "float", 0.5, 0.0, 8.0, "stops, drawn from -ev_range to ev_range"),
    ),
    _operation(
        "random_channel_gain",
        "Make red, green and blue brighter or darker, each by itself.",
        Parameter("gain_range", "float", 0.1, 0.0, 0.99, "factors drawn from 1 - gain_range to 1 + gain_range"),
    ),
    _operation(
        "blur",
        "Blur, as a lens out of focus does.",
        Parameter("sigma", "float", 1.0, 0.0, 100.0, "of a Gaussian, in pixels of the file"),
    ),
    _operation(
        "motion_blur",
        "Blur along a line, as a part does that moves while the shutter is open; the direction is drawn.",
        Parameter("length", "float", 5.0, 1.0, 200.0, "of the line, in pixels of the file"),
    ),
    _operation(
        "noise",
        "Add normal noise to each value.",
        Parameter("sigma", "float", 5.0, 0.0, 255.0, "in grey levels of 255"),
    ),
    _operation(
        "rotate_shift",
        "Turn about the centre and move, borders reflected; masks move as well.",
        Parameter("degrees", "float", 1.0, 0.0, 180.0, "angle drawn from -degrees to degrees"),
        Parameter("shift", "float", 0.01, 0.0, 0.5, "moved by up to this share of the shorter side"),
    ),
)

AUGMENTATIONS: Final[dict[str, Operation]] = {operation.name: operation for operation in _ALL}
"""By name."""

SEVERITIES: Final[dict[str, tuple[str, str, str, str, str]]] = {
    "jpeg_compress": (
        "jpeg_compress:quality=90",
        "jpeg_compress:quality=75",
        "jpeg_compress:quality=50",
        "jpeg_compress:quality=25",
        "jpeg_compress:quality=10",
    ),
    "vignette": (
        "vignette:strength=0.05",
        "vignette:strength=0.1",
        "vignette:strength=0.2",
        "vignette:strength=0.4",
        "vignette:strength=0.8",
    ),
    "exposure_drift": (
        "exposure_drift:ev_range=0.1",
        "exposure_drift:ev_range=0.2",
        "exposure_drift:ev_range=0.4",
        "exposure_drift:ev_range=0.7",
        "exposure_drift:ev_range=1",
    ),
    "random_channel_gain": (
        "random_channel_gain:gain_range=0.02",
        "random_channel_gain:gain_range=0.05",
        "random_channel_gain:gain_range=0.1",
        "random_channel_gain:gain_range=0.2",
        "random_channel_gain:gain_range=0.3",
    ),
    "blur": ("blur:sigma=0.5", "blur:sigma=1", "blur:sigma=2", "blur:sigma=3", "blur:sigma=5"),
    "motion_blur": (
        "motion_blur:length=3",
        "motion_blur:length=5",
        "motion_blur:length=9",
        "motion_blur:length=15",
        "motion_blur:length=25",
    ),
    "noise": ("noise:sigma=2", "noise:sigma=4", "noise:sigma=8", "noise:sigma=14", "noise:sigma=22"),
    "rotate_shift": (
        "rotate_shift:degrees=0.5,shift=0.002",
        "rotate_shift:degrees=1,shift=0.005",
        "rotate_shift:degrees=2,shift=0.01",
        "rotate_shift:degrees=4,shift=0.02",
        "rotate_shift:degrees=8,shift=0.04",
    ),
}
"""Corruption -> its five severities, from 1 (a camera that is well kept) to 5 (one that somebody would notice at once),
each as a spec would say it. What is drawn from a range is drawn from its two ends there.

Five steps of rising strength are the form of Hendrycks and Dietterich, ICLR 2019 (ImageNet-C); these amounts are our
own, smaller than theirs at the beginning, since an industrial camera is fixed and lit on purpose.
"""
