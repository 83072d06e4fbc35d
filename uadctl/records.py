"""What the stages hand to each other: small, frozen, named."""

from __future__ import annotations

from collections.abc import Iterator
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


class Box(NamedTuple):
    """A rectangle of pixels: its top left corner, height and width."""

    y0: int
    x0: int
    height: int
    width: int

    @property
    def size(self) -> Size:
        return Size(self.height, self.width)

    @property
    def rows(self) -> slice:
        return slice(self.y0, self.y0 + self.height)

    @property
    def columns(self) -> slice:
        return slice(self.x0, self.x0 + self.width)

    @classmethod
    def whole(cls, size: Size) -> Box:
        """All pixels of an image of this size."""
        return cls(0, 0, size.height, size.width)


def row_boxes(size: Size, pixels: int, *, y0: int = 0, x0: int = 0, multiple: int = 1) -> Iterator[Box]:
    """An image cut into boxes of whole rows, top to bottom, of at most so many pixels, and at least one row.

    y0, x0: where its first pixel lies in a larger one, whose coordinates the boxes have. multiple: all boxes but the
    last have a multiple of so many rows, the next one up from `pixels`: that of a file's tiles, none read twice.
    """
    rows = -(-max(1, pixels // size.width) // multiple) * multiple
    for top in range(0, size.height, rows):
        yield Box(y0 + top, x0, min(rows, size.height - top), size.width)


@dataclass(frozen=True, slots=True)
class Step:
    """One operation on pixels with its parameters, as a spec names it: "clahe:clip_limit=3".

    params: every parameter of the operation, defaults filled in, in the operation's order.
    """

    name: str
    params: tuple[tuple[str, float | int | str], ...] = ()

    def __str__(self) -> str:
        listed = ",".join(f"{name}={value}" for name, value in self.params)
        return f"{self.name}:{listed}" if listed else self.name


@dataclass(frozen=True, slots=True)
class Tiling:
    """How an image is cut into tiles, and how what is said of them becomes what is said of the image.

    size: side of a square tile. stride: from one tile to the next, 1 to `size`.
    reduce: of maps where tiles overlap: "max", "mean", or "hann" (a tile counts less towards its own border).
    score: of the image, from the scores of its tiles: "max" or "mean".
    """

    size: int
    stride: int
    reduce: Literal["max", "mean", "hann"] = "mean"
    score: Literal["max", "mean"] = "max"

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ValueError(f"the size of a tile must be positive, found {self.size}")
        if not 1 <= self.stride <= self.size:
            raise ValueError(
                f"stride (={self.stride}) must be 1 to the tile's size (={self.size}): beyond it, pixels between two "
                "tiles would never be looked at"
            )

    def __str__(self) -> str:
        mean = ", score mean" if self.score == "mean" else ""
        return f"tiles of {self.size}, stride {self.stride}, {self.reduce}{mean}"


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
    """How much of one kind of defect is enough to have found it: an entry of a defects_config.json.

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

    All coordinates are of the file as displayed, y before x.

    box:  top, left, bottom, right; bottom and right are exclusive.
    area: its pixels. score: its highest map value.
    peak: the pixel with that value, the first of several in reading order.
    centroid: the mean of its pixels' coordinates.
    contour: its outer boundary, pixel by pixel where it turns, clockwise from its topmost, there leftmost pixel; holes
        are not told. None for a region whose box is too large to look at in one piece.
    verdict: "anomaly"; or "review" of a part at or above the review threshold of maps which nowhere reaches the other.
    """

    box: tuple[int, int, int, int]
    area: int
    score: float
    peak: tuple[int, int]
    centroid: tuple[float, float]
    contour: tuple[tuple[int, int], ...] | None = None
    verdict: Literal["anomaly", "review"] = "anomaly"
