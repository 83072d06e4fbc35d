"""The steps of [preprocess] steps, and presets of them, as data."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from uadctl.records import Step
from uadctl.spec.operations import Operation, Parameter, read_step, unknown_step

_ENTRIES: Final = (
    Operation(
        name="gray_world",
        target="uadctl.imaging.camera:gray_world_white_balance",
        summary="Scales the channels to the same mean: takes out the colour of the lamp and of the sensor.",
    ),
    Operation(
        name="max_rgb",
        target="uadctl.imaging.camera:max_rgb_white_balance",
        summary="Scales the channels to the same brightest value: for scenes with something white or shiny in them.",
        parameters=(
            Parameter(
                "percentile",
                "float",
                100.0,
                50.0,
                100.0,
                "share of a channel's pixels, in percent, that its brightest value is not below; less than 100 leaves "
                "out saturated highlights",
            ),
        ),
    ),
    Operation(
        name="homomorphic",
        target="uadctl.imaging.camera:homomorphic_filter",
        summary="Evens out slow changes of brightness (illumination) and keeps fast ones (the surface).",
        parameters=(
            Parameter(
                "cutoff",
                "float",
                0.01,
                0.001,
                1.0,
                "changes slower than this are illumination: a spatial frequency, where 1 is the fastest that pixels "
                "can show, two pixels a cycle",
            ),
            Parameter("gain_low", "float", 0.5, 0.0, 1.0, "what is left of the illumination's contrast"),
            Parameter("gain_high", "float", 1.0, 1.0, 4.0, "by how much the contrast of the surface grows"),
        ),
    ),
    Operation(
        name="flat_field",
        target="uadctl.imaging.camera:flat_field_correction",
        summary="Divides by pictures of an even, bright surface: takes out vignetting and each pixel's sensitivity.",
        parameters=(
            Parameter(
                "reference", "path", None, meaning="a picture of an even surface, or a folder of them to average"
            ),
            Parameter(
                "dark", "path", "", meaning="a picture with the lens covered, or a folder of them; subtracted first"
            ),
        ),
    ),
    Operation(
        name="clahe",
        target="uadctl.imaging.camera:clahe",
        summary="Raises the local contrast of the lightness, with a limit (adaptive histogram equalisation).",
        parameters=(
            Parameter("clip_limit", "float", 2.0, 0.1, 100.0, "the most that contrast may grow, roughly as a factor"),
            Parameter("grid", "int", 8, 1, 64, "the image is cut into grid x grid cells, each with its own histogram"),
        ),
    ),
)

CAMERA_STEPS: dict[str, Operation] = {entry.name: entry for entry in _ENTRIES}

PRESETS: dict[str, tuple[str, ...]] = {
    "industrial-metal": ("gray_world", "clahe:clip_limit=2.0,grid=8"),
    "industrial-low-light": ("gray_world", "clahe:clip_limit=4.0,grid=4"),
    "industrial-colour-drift": ("gray_world",),
    "industrial-uneven-light": ("homomorphic:cutoff=0.004,gain_low=0.3,gain_high=1.0",),
}
"""Name -> steps as a spec would say them; in [preprocess] steps a preset's name stands for them."""

PRESET_REASONS: dict[str, str] = {
    "industrial-metal": (
        "Bare metal is nearly grey, so its mean shows the colour of the light, while its highlights are saturated and "
        "would mislead max_rgb; scratches are faint, and clahe raises them."
    ),
    "industrial-low-light": (
        "Dark pictures use few grey levels, which a high limit spreads; few, large cells keep their histograms from "
        "being mostly noise."
    ),
    "industrial-colour-drift": (
        "A lamp that ages or a camera that is swapped scales the channels; one gain a channel undoes it and leaves "
        "the contrast as it is."
    ),
    "industrial-uneven-light": (
        "Light that falls off to one side is slow compared with a defect; without a picture of an even surface for "
        "flat_field, filtering is the way to reduce it."
    ),
}
"""Why each preset is as it is."""


def read_steps(texts: Iterable[str]) -> tuple[Step, ...]:
    """The steps that a list in a spec means, in its order: presets are replaced by their steps.

    Raises ValueError as `read_step` does.
    """
    return tuple(step for text in texts for step in _read(text))


def _read(text: str) -> list[Step]:
    name = text.partition(":")[0].strip()
    if name in PRESETS:
        if text.strip() != name:
            raise ValueError(f"{name} is a preset and takes no parameters; it stands for: {' '.join(PRESETS[name])}")
        return [read_step(part, CAMERA_STEPS) for part in PRESETS[name]]
    if name not in CAMERA_STEPS:
        raise ValueError(unknown_step(name, {**CAMERA_STEPS, **PRESETS}))
    return [read_step(text, CAMERA_STEPS)]
