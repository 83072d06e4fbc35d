"""An anomaly map drawn over its image, with a legend that says what the colours mean."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from uadctl.imaging import raster
from uadctl.records import Box, Size, row_boxes

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from uadctl.imaging.raster import Field, Raster

MAX_SIDE = 2048
"""Larger images are drawn reduced to this longer side: an overlay is for looking at; the map holds every pixel."""

_BAND = 1 << 22  # pixels that are read at a time
_BAND_ROWS = 256  # in whole multiples of so many rows: files are tiled by 256 or less, or by multiples of it
_SMALL_SIDE = 256  # smaller images are enlarged, in whole steps, up to about this
_LEAST_WIDTH = 256  # the legend needs it
_MOST_ALPHA = 0.5
_LAST_COLOUR = 0.9  # Turbo's end is a dark red under which a defect cannot be seen

_PANEL = (24, 24, 28)
_TEXT = (235, 235, 235)
_OVER = (255, 255, 255)
_TRUTH = (255, 0, 255)
_DARK = (0, 0, 0)


def overlay(
    image: NDArray[np.uint8] | Raster,
    anomaly_map: Field,
    *,
    low: float,
    high: float,
    threshold: float | None = None,
    mask: NDArray[np.uint8] | Raster | None = None,
    caption: str = "",
) -> NDArray[np.uint8]:
    """Draw a map over its image; a legend stands below.

    Colours run from `low` to `high`, which must come from the maps of normal images: scaled by itself, every image
    would show a "defect". They cover the image the more, the higher the score; at `low` and below, the image is as it
    was. A white line runs around what reaches the threshold, a magenta one around the ground truth. Pixels without
    score (NaN) are grey and hatched. Images below 256 pixels are enlarged in whole steps, those above MAX_SIDE reduced.

    What is in files is read in bands, so that memory does not grow with it. Where it is reduced, each pixel of the
    picture shows the highest score of its block, of arrays the one in its middle; else both give the same but for
    rounding.

    image:     (H, W, 3) uint8 RGB, an array or read region by region.
    anomaly_map: (H, W) floats; higher is more anomalous. An array or in a file.
    threshold: the pixel threshold, in the unit of the map; None draws no line and no tick.
    mask:      (H, W), defect where above 0, an array or read region by region; None, or without defect, draws no line.
    caption:   text under the colour bar: name, score, verdict. Broken at spaces where it does not fit; a longer word
               is cut short. What is not ASCII is shown as "?": OpenCV's fonts before 5.0 have no more.

    Returns (h, w, 3) uint8 RGB, larger than the image by the legend. Raises ValueError where the sizes differ, or `low`
    and `high` are not finite numbers with low <= high.
    """
    if isinstance(image, np.ndarray):
        _check_picture(image)
    size = _shape(image)[:2]
    for name, field in (("map", anomaly_map), ("mask", mask)):
        if field is not None and _shape(field) != size:
            raise ValueError(f"the {name} is {_shape(field)}, its image is {size} (height, width)")
    if not (np.isfinite(low) and np.isfinite(high) and low <= high):
        raise ValueError(f"low ({low:g}) and high ({high:g}) must be finite and in this order")

    picture, seen, over, truth, covered = _to_display(image, anomaly_map, threshold, mask)
    unseen = ~covered
    drawn = _blend(picture, seen, low, high)
    _hatch(drawn, picture, unseen)
    line = max(1, round(max(drawn.shape[:2]) / 450))
    has_truth = _outline(drawn, truth, _TRUTH, line)
    has_over = _outline(drawn, over, _OVER, line)
    keys = [
        _Key(_OVER, f"score >= {_number(threshold)}" if threshold is not None else "", has_over),
        _Key(_TRUTH, "ground truth", has_truth),
        _Key(None, "not looked at", bool(unseen.any())),
    ]
    width = max(drawn.shape[1], _LEAST_WIDTH)
    legend = _legend(width, low, high, threshold, caption, [key for key in keys if key.shown])
    canvas = np.empty((drawn.shape[0] + legend.shape[0], width, 3), dtype=np.uint8)
    canvas[:] = _PANEL
    left = (width - drawn.shape[1]) // 2
    canvas[: drawn.shape[0], left : left + drawn.shape[1]] = drawn
    canvas[drawn.shape[0] :] = legend
    return canvas


@dataclass(frozen=True, slots=True)
class _Key:
    """One entry of the legend: a line's colour (None: the hatching), what it means, whether the picture has it."""

    colour: tuple[int, int, int] | None
    text: str
    shown: bool


def _shape(pixels: NDArray[Any] | Field | Raster) -> tuple[int, ...]:
    """Of an array all of it, else height and width."""
    return pixels.shape if isinstance(pixels, np.ndarray) else tuple(pixels.size)


def _check_picture(image: NDArray[Any]) -> None:
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or image.size == 0:
        raise ValueError(f"an overlay needs an (H, W, 3) uint8 image, found {image.shape} {image.dtype}")


def _to_display(
    image: NDArray[np.uint8] | Raster,
    field: Field,
    threshold: float | None,
    mask: NDArray[np.uint8] | Raster | None,
) -> tuple[NDArray[np.uint8], NDArray[np.float32], NDArray[np.uint8], NDArray[np.uint8], NDArray[np.bool_]]:
    """The image, the map without NaN, where it reaches the threshold, the ground truth, where it has a score."""
    import cv2

    size = Size(*_shape(field))
    in_memory = all(isinstance(each, np.ndarray) for each in (image, field, mask) if each is not None)
    if max(size) > MAX_SIDE and not in_memory:
        return _reduced(image, field, threshold, mask)
    image, field, mask = _whole(image), _whole(field), None if mask is None else _whole(mask)
    _check_picture(image)
    height, width = field.shape
    covered = ~np.isnan(field)
    values = np.where(covered, field, -np.inf).astype(np.float32)
    over = np.zeros(field.shape, np.uint8) if threshold is None else (values >= threshold).astype(np.uint8)
    truth = np.zeros(field.shape, np.uint8) if mask is None else (mask > 0).astype(np.uint8)
    longer = max(height, width)
    if longer > MAX_SIDE:
        # OpenCV takes (width, height).
        wanted = (max(1, round(width * MAX_SIDE / longer)), max(1, round(height * MAX_SIDE / longer)))
        image = np.asarray(cv2.resize(image, wanted, interpolation=cv2.INTER_AREA), dtype=np.uint8)

        def reduced(plane: NDArray[np.uint8]) -> NDArray[np.uint8]:
            # The largest value of each block, so that a reduction never loses a one-pixel defect.
            block = (_block(height, wanted[1]), _block(width, wanted[0]))
            thick = cv2.dilate(plane, np.ones(block, np.uint8))
            return np.asarray(cv2.resize(thick, wanted, interpolation=cv2.INTER_NEAREST_EXACT), dtype=np.uint8)

        over, truth = reduced(over), reduced(truth)
        values = np.asarray(cv2.resize(values, wanted, interpolation=cv2.INTER_NEAREST_EXACT), dtype=np.float32)
        covered = ~np.isneginf(values)
    elif longer < _SMALL_SIDE:
        times = _SMALL_SIDE // longer
        image = image.repeat(times, axis=0).repeat(times, axis=1)
        over = over.repeat(times, axis=0).repeat(times, axis=1)
        truth = truth.repeat(times, axis=0).repeat(times, axis=1)
        values = values.repeat(times, axis=0).repeat(times, axis=1)
        covered = covered.repeat(times, axis=0).repeat(times, axis=1)
    return image, values, over, truth, covered


def _whole(pixels: NDArray[Any] | Field | Raster) -> NDArray[Any]:
    return pixels if isinstance(pixels, np.ndarray) else pixels.read(Box.whole(Size(*pixels.size)))


def _reduced(
    image: NDArray[np.uint8] | Raster,
    field: Field,
    threshold: float | None,
    mask: NDArray[np.uint8] | Raster | None,
) -> tuple[NDArray[np.uint8], NDArray[np.float32], NDArray[np.uint8], NDArray[np.uint8], NDArray[np.bool_]]:
    """As `_to_display`, of what is too large for the picture and not all in memory."""
    height, width = _shape(field)
    longer = max(height, width)
    wanted = Size(max(1, round(height * MAX_SIDE / longer)), max(1, round(width * MAX_SIDE / longer)))
    values = _highest(field, wanted, nothing=-np.inf)
    over = np.zeros(wanted, np.uint8) if threshold is None else (values >= threshold).astype(np.uint8)
    truth = np.zeros(wanted, np.uint8)
    if mask is not None:
        truth[_highest(mask, wanted, nothing=0) > 0] = 1
    return _averaged(image, wanted), values, over, truth, ~np.isneginf(values)


def _in_bands(pixels: NDArray[Any] | Field | Raster) -> Iterator[tuple[int, NDArray[Any]]]:
    """Bands of whole rows from top to bottom, each with its first row."""
    if isinstance(pixels, raster.StoredMap):
        yield from raster.bands(pixels, pixels=_BAND)
        return
    for box in row_boxes(Size(*_shape(pixels)[:2]), _BAND, multiple=_BAND_ROWS):
        yield box.y0, pixels[box.rows] if isinstance(pixels, np.ndarray) else pixels.read(box)


def _averaged(image: NDArray[np.uint8] | Raster, wanted: Size) -> NDArray[np.uint8]:
    """(h, w, 3) the mean colour of the part of the image that each pixel of the picture covers."""
    import cv2

    height = _shape(image)[0]
    scale = height / wanted.height
    sums = np.zeros((wanted.height, wanted.width * 3), dtype=np.float32)
    for first, band in _in_bands(image):
        _check_picture(band)
        # As floats a band takes four times as much, so some of its rows at a time.
        step = max(1, _BAND // 4 // band.shape[1])
        for start in range(0, band.shape[0], step):
            some = band[start : start + step].astype(np.float32)
            top, bottom = first + start, first + start + some.shape[0]
            # OpenCV takes (width, height).
            narrow = cv2.resize(some, (wanted.width, some.shape[0]), interpolation=cv2.INTER_AREA)
            low, high = int(top / scale), min(wanted.height, int(np.ceil(bottom / scale)) + 1)
            upper, lower = np.arange(low, high)[:, None] * scale, np.arange(top, bottom)[None]
            shared = np.minimum(upper + scale, lower + 1) - np.maximum(upper, lower)
            weights = (np.maximum(shared, 0) / scale).astype(np.float32)
            # Few rows at a time: BLAS with its threads takes longer.
            sums[low:high] += np.einsum("or,rc->oc", weights, np.asarray(narrow).reshape(some.shape[0], -1))
    return np.clip(np.rint(sums), 0, 255).astype(np.uint8).reshape(*wanted, 3)


def _highest(plane: NDArray[Any] | Field | Raster, wanted: Size, *, nothing: float) -> NDArray[np.float32]:
    """(h, w) the highest value of the block about the middle of each pixel; `nothing` where all of it is NaN.

    The blocks are as large as the picture is reduced in their direction, or a part of a pixel larger: between them, and
    at the edges, lies nothing.
    """
    import cv2

    height, width = _shape(plane)
    high, wide = _block(height, wanted.height), _block(width, wanted.width)
    rows, columns = _middles(height, wanted.height), _middles(width, wanted.width)
    # As `cv2.dilate` lays its kernel, so that lines run where they do around arrays.
    tops = np.maximum(rows - high // 2, 0)
    ends = np.minimum(rows - high // 2 + high, height)
    highest = np.full(wanted, nothing, dtype=np.float32)
    for top, band in _in_bands(plane):
        values = np.where(np.isnan(band), nothing, band).astype(np.float32)
        # Beyond the edge OpenCV would see its lowest finite number.
        across = cv2.dilate(values, np.ones((1, wide), np.uint8), borderType=cv2.BORDER_REPLICATE)[:, columns]
        first, last = np.searchsorted(ends, top, side="right"), np.searchsorted(tops, top + band.shape[0])
        for row in range(int(first), int(last)):
            part = across[max(0, tops[row] - top) : ends[row] - top]
            highest[row] = np.maximum(highest[row], part.max(axis=0))
    return highest


def _block(length: int, wanted: int) -> int:
    """How many pixels about the middle of each of `wanted` ones leave out none. Rounding has made it `wanted`: of the
    two directions, one may be reduced a little more than the other."""
    return -(-length // wanted)


def _middles(length: int, wanted: int) -> NDArray[np.int32]:
    """(wanted,) the pixels in the middle of those of a picture so much smaller."""
    import cv2

    places = np.arange(length, dtype=np.int32)[None]
    found = cv2.resize(places, (wanted, 1), interpolation=cv2.INTER_NEAREST_EXACT)  # OpenCV takes (width, height)
    return np.asarray(found, dtype=np.int32).reshape(wanted)


def _colours(positions: NDArray[Any]) -> NDArray[np.uint8]:
    """Turbo's RGB colours (Mikhailov, 2019) for (H, W) positions of 0 to 1."""
    import cv2

    steps = np.rint(positions * (255 * _LAST_COLOUR)).astype(np.uint8)
    return np.asarray(cv2.cvtColor(cv2.applyColorMap(steps, cv2.COLORMAP_TURBO), cv2.COLOR_BGR2RGB), dtype=np.uint8)


def _positions(values: NDArray[np.float32], low: float, high: float) -> NDArray[np.float32]:
    """Where values lie between `low` (0) and `high` (1)."""
    if low == high:
        return (values > high).astype(np.float32)
    return np.asarray(np.clip((values - np.float32(low)) / np.float32(high - low), 0, 1), dtype=np.float32)


def _blend(picture: NDArray[np.uint8], values: NDArray[np.float32], low: float, high: float) -> NDArray[np.uint8]:
    at = _positions(values, low, high)
    alpha = (np.float32(_MOST_ALPHA) * at)[..., None]
    mixed: NDArray[np.float32] = picture * (1 - alpha) + _colours(at) * alpha
    return np.rint(mixed).astype(np.uint8)


def _hatch(drawn: NDArray[np.uint8], picture: NDArray[np.uint8], unseen: NDArray[np.bool_]) -> None:
    if not unseen.any():
        return
    grey = (picture[unseen].mean(axis=1, keepdims=True) * 0.5 + 40).astype(np.uint8)
    rows, columns = np.nonzero(unseen)
    step = max(6, round(max(unseen.shape) / 60))
    stripe = (rows + columns) % step < max(1, step // 6)
    drawn[unseen] = np.where(stripe[:, None], 150, grey)


def _outline(drawn: NDArray[np.uint8], region: NDArray[np.uint8], colour: tuple[int, int, int], line: int) -> bool:
    """Draw the edge of a region, with a dark seam so that it shows on any surface. Says whether there was one."""
    import cv2

    contours, _ = cv2.findContours(region, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    if contours:
        cv2.drawContours(drawn, contours, -1, _DARK, line + 2, cv2.LINE_8)
        cv2.drawContours(drawn, contours, -1, colour, line, cv2.LINE_8)
    return bool(contours)


def _legend(
    width: int, low: float, high: float, threshold: float | None, caption: str, keys: list[_Key]
) -> NDArray[np.uint8]:
    """Colour bar with its numbers, the threshold's tick, the lines' meaning, the caption. (rows, width, 3) RGB."""
    import cv2

    unit = min(max(round(width / 40), 9), 30)  # the height of a capital letter, in pixels
    edge, row = unit, round(unit * 1.9)
    captions = _wrapped(caption, unit, width - 2 * edge)
    tick_rows = 0 if threshold is None else row
    height = edge + tick_rows + round(unit * 1.2) + row + row * (bool(keys) + len(captions)) + edge // 2
    panel = np.empty((height, width, 3), dtype=np.uint8)
    panel[:] = _PANEL
    first, last = edge, width - edge - 1

    top = edge // 2 + tick_rows
    bottom = top + round(unit * 1.2)
    positions = np.linspace(0, 1, last - first + 1, dtype=np.float32)[None, :]
    panel[top:bottom, first : last + 1] = _colours(positions)
    if threshold is not None:
        share = 0.5 if low == high else min(max((threshold - low) / (high - low), 0.0), 1.0)
        at = first + round(share * (last - first))
        tick = max(1, unit // 6)
        cv2.line(panel, (at, top - unit // 3), (at, bottom), _DARK, tick + 2)
        cv2.line(panel, (at, top - unit // 3), (at, bottom), _OVER, tick)
        beyond = "<< " if threshold < low else ">> " if threshold > high else ""
        _write(panel, f"{beyond}pixel threshold {_number(threshold)}", at, top - unit // 2, unit, align=0.5)
    base = bottom + round(unit * 1.4)
    _write(panel, _number(low), first, base, unit)
    _write(panel, _number(high), last, base, unit, align=1.0)

    if keys:
        base += row
        room = (last - first) // len(keys)
        for index, key in enumerate(keys):
            left = first + index * room
            swatch = round(unit * 1.3)
            if key.colour is None:
                for x in range(left, left + swatch, max(3, unit // 3)):
                    cv2.line(panel, (x, base), (min(x + unit // 2, left + swatch), base - unit), (150, 150, 150), 1)
            else:
                cv2.line(
                    panel, (left, base - unit // 2), (left + swatch, base - unit // 2), key.colour, max(2, unit // 5)
                )
            _write(panel, key.text, left + swatch + unit // 2, base, unit, room=room - swatch - unit)
    for text in captions:
        base += row
        _write(panel, text, first, base, unit, room=last - first)
    return panel


def _wrapped(caption: str, unit: int, room: int) -> list[str]:
    """The lines of a caption, broken at spaces to fit into `room` pixels."""
    lines: list[str] = []
    for text in caption.splitlines():
        line = ""
        for word in text.split(" "):
            longer = f"{line} {word}" if line else word
            if line and _length(_ascii(longer), unit) > room:
                lines.append(line.rstrip())
                longer = word
            line = longer
        if line.strip():
            lines.append(line.rstrip())
    return lines


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


def _ascii(text: str) -> str:
    return "".join(letter if " " <= letter <= "~" else "?" for letter in text)


def _length(text: str, unit: int) -> int:
    """How many pixels wide a text is with capitals `unit` pixels high."""
    import cv2

    return int(cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, _scale(unit), _thickness(unit))[0][0])


def _scale(unit: int) -> float:
    import cv2

    (_, capital), _ = cv2.getTextSize("X", cv2.FONT_HERSHEY_SIMPLEX, 1.0, 1)
    return float(unit / capital)


def _thickness(unit: int) -> int:
    return max(1, unit // 10)


def _write(
    panel: NDArray[np.uint8], text: str, x: int, base: int, unit: int, *, align: float = 0.0, room: int | None = None
) -> None:
    """Write one line with capitals `unit` pixels high, cut to `room` pixels. align: 0 starts at x, 1 ends there."""
    import cv2

    text = _ascii(text)
    room = panel.shape[1] - 2 if room is None else room
    if _length(text, unit) > room:
        while len(text) > 1 and _length(f"{text}...", unit) > room:
            text = text[:-1].rstrip()
        text = f"{text}..."
    width = _length(text, unit)
    left = min(max(round(x - align * width), 1), max(1, panel.shape[1] - width - 1))
    font = cv2.FONT_HERSHEY_SIMPLEX
    cv2.putText(panel, text, (left, base), font, _scale(unit), _TEXT, _thickness(unit), cv2.LINE_AA)
