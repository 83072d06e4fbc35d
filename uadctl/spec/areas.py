"""The texts of [preprocess] that say which pixels count and what stored values mean, taken apart.

They are checked here when a spec is read, and here again when the images are opened: one grammar for both.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Final, Literal

Area = (
    tuple[Literal["box"], tuple[int, int, int, int]]
    | tuple[Literal["polygon"], tuple[tuple[int, int], ...]]
    | tuple[Literal["mask"], str]
)
"""Kind and content: a box's top, left, bottom and right, a polygon's (y, x) points, or the path of a mask file."""

Intensity = tuple[Literal["full"], None] | tuple[Literal["window", "percentile"], tuple[float, float]]
"""What becomes 0 and 255: the range of the type, two stored values, or two percentiles of the training images."""

Raw = tuple[int | None, int, int, str]
"""Height (None: as many rows as the file has), width, channels and dtype of a file without header."""

RAW_TYPES: Final = ("uint8", "uint16", "float32")

_PIXELS: Final = re.compile(r"[0-9]{1,9}")
_NUMBER: Final = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
_RAW: Final = re.compile(r"(\*|[0-9]{1,9})x([0-9]{1,9})(?:x([0-9]{1,9}))?:(\w+)")
# A word and numbers are a shape with a wrong name and not a file, as C:\mask.png is.
_SHAPE: Final = re.compile(r"\s*(\w{2,})\s*:[0-9\s,.;+-]*")
_LEAST_POINTS: Final = 3


def parse_area(text: str) -> Area:
    """A part of the image plane from "box:top,left,bottom,right", "polygon:y,x y,x y,x" or a mask file's path.

    Coordinates are whole pixels of the file as displayed, from 0; bottom and right are exclusive. Raises ValueError
    that says what was expected.
    """
    kind, colon, rest = text.strip().partition(":")
    if colon and kind == "box":
        return "box", _box(rest)
    if colon and kind == "polygon":
        return "polygon", _polygon(rest)
    unknown = _SHAPE.fullmatch(text)
    if not text.strip() or "\0" in text or unknown:
        raise ValueError(
            'expected "box:top,left,bottom,right", "polygon:y,x y,x y,x" or the path of a mask file'
            + (f", found no shape called {unknown[1]}" if unknown else "")
        )
    return "mask", text


def _box(text: str) -> tuple[int, int, int, int]:
    numbers = _all_pixels(text.split(","))
    if numbers is None or len(numbers) != 4:
        raise ValueError('expected "box:top,left,bottom,right" in whole pixels from 0')
    top, left, bottom, right = numbers
    if top >= bottom:
        raise ValueError(f"a box's top (={top}) must be less than its bottom (={bottom})")
    if left >= right:
        raise ValueError(f"a box's left (={left}) must be less than its right (={right})")
    return top, left, bottom, right


def _polygon(text: str) -> tuple[tuple[int, int], ...]:
    points: list[tuple[int, int]] = []
    for point in text.split():
        numbers = _all_pixels(point.split(","))
        if numbers is None or len(numbers) != 2:
            raise ValueError(f'expected "polygon:y,x y,x y,x" in whole pixels from 0, found the point "{point}"')
        points.append((numbers[0], numbers[1]))
    if len(points) < _LEAST_POINTS:
        raise ValueError(f"expected a polygon of at least {_LEAST_POINTS} points, found {len(points)}")
    (y0, x0), *others = points
    y1, x1 = max(others, key=lambda p: abs(p[0] - y0) + abs(p[1] - x0))
    if all((y - y0) * (x1 - x0) == (x - x0) * (y1 - y0) for y, x in others):
        raise ValueError("all points of the polygon lie on one line")
    return tuple(points)


def _all_pixels(texts: Sequence[str]) -> list[int] | None:
    stripped = [text.strip() for text in texts]
    return [int(text) for text in stripped] if all(_PIXELS.fullmatch(text) for text in stripped) else None


def parse_intensity(text: str) -> Intensity:
    """What becomes 0 and 255, from "full", "window:LO,HI" (stored values) or "percentile:A,B" (in percent).

    Raises ValueError that says what was expected.
    """
    if text.strip() == "full":
        return "full", None
    kind, _, rest = text.strip().partition(":")
    numbers = [part.strip() for part in rest.split(",")]
    if kind not in ("window", "percentile") or len(numbers) != 2 or not all(map(_NUMBER.fullmatch, numbers)):
        raise ValueError('expected "full", "window:LO,HI" or "percentile:A,B"')
    low, high = map(float, numbers)
    if not math.isfinite(low) or not math.isfinite(high):
        raise ValueError("expected finite numbers")
    if low >= high:
        raise ValueError(f"the lower end (={low:g}) must be less than the upper end (={high:g})")
    if kind == "window":
        return "window", (low, high)
    if low < 0 or high > 100:
        raise ValueError(f"percentiles must be 0 to 100, found {low:g} and {high:g}")
    return "percentile", (low, high)


def parse_raw(text: str) -> Raw:
    """The layout of a file without header, from "HEIGHTxWIDTH[xCHANNELS]:TYPE", with * for as many rows as it has.

    "20000x25000:uint8", "*x25000x3:uint16". Raises ValueError that says what was expected.
    """
    found = _RAW.fullmatch(text.strip())
    if found is None:
        raise ValueError('expected "HEIGHTxWIDTH:TYPE" or "HEIGHTxWIDTHxCHANNELS:TYPE", as "*x25000x3:uint16"')
    height, width = None if found[1] == "*" else int(found[1]), int(found[2])
    channels = int(found[3] or 1)
    if height == 0 or width == 0:
        raise ValueError("height and width must be positive")
    if channels not in (1, 3):
        raise ValueError(f"expected 1 channel (grey) or 3 (RGB), found {channels}")
    if found[4] not in RAW_TYPES:
        raise ValueError(f"expected one of the types {', '.join(RAW_TYPES)}, found {found[4]}")
    return height, width, channels, found[4]
