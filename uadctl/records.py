"""What the stages hand to each other: small, frozen, named."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Split = Literal["train", "validation", "test"]


class Size(NamedTuple):
    """Height and width in pixels, always in this order."""

    height: int
    width: int

    def __str__(self) -> str:
        return f"{self.height}x{self.width}"


@dataclass(frozen=True, slots=True)
class Sample:
    """One image of a data set, known by its path only.

    path:     the file, as a string that can be opened.
    relative: its path below the category's folder, with forward slashes: the name used in results.
    split:    "train", "validation" or "test".
    label:    0 normal, 1 anomalous, -1 unknown.
    defect:   "good", or the kind of defect.
    masks:    mask files; their union is the ground truth. Empty for normal images and where no mask was found.
    expected_mask: where a mask was looked for and not found (defect images only), else None.
    group:    the part that is seen, where several images show the same one from several sides; else None.
    """

    path: str
    relative: str
    split: Split
    label: int
    defect: str
    category: str
    masks: tuple[str, ...] = ()
    expected_mask: str | None = None
    group: str | None = None


@dataclass(frozen=True, slots=True)
class DefectConfig:
    """How much of one kind of defect is enough to have found it: an entry of MVTec LOCO's defects_config.json.

    name:        of the kind of defect.
    pixel_value: by which a mask file says that it shows this kind, 1 to 255.
    saturation_threshold: a number of pixels, or if `relative_saturation` a share of the defect's area.
    """

    name: str
    pixel_value: int
    saturation_threshold: float
    relative_saturation: bool


@dataclass(frozen=True, slots=True)
class Prediction:
    """What a detector says of one image.

    score: float32 value as a Python float; higher is more anomalous.
    map:   (H, W) float32, one anomaly score a pixel of the image given, or None. NaN: not looked at.
    """

    score: float
    map: NDArray[np.float32] | None = None


@dataclass(frozen=True, slots=True)
class Region:
    """A connected part of a map at or above the pixel threshold.

    box:  top, left, bottom, right in pixels of the file; bottom and right are exclusive.
    area: its pixels. score: its highest map value.
    """

    box: tuple[int, int, int, int]
    area: int
    score: float
