"""An anomaly map drawn over its image, with a legend that says what the colours mean."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

MAX_SIDE = 2048
"""Larger images are drawn reduced to this longer side: an overlay is for looking at; the map holds every pixel."""

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
    image: NDArray[np.uint8],
    anomaly_map: NDArray[np.float32],
    *,
    low: float,
    high: float,
    threshold: float | None = None,
    mask: NDArray[np.uint8] | None = None,
    caption: str = "",
) -> NDArray[np.uint8]:
    """Draw a map over its image; a legend stands below.

    Colours run from `low` to `high`, which must come from the maps of normal images: scaled by itself, every image
    would show a "defect". They cover the image the more, the higher the score; at `low` and below, the image is as it
    was. A white line runs around what reaches the threshold, a magenta one around the ground truth. Pixels without
    score (NaN) are grey and hatched. Images below 256 pixels are enlarged in whole steps, those above MAX_SIDE reduced.

    image:     (H, W, 3) uint8 RGB.
    anomaly_map: (H, W) floats; higher is more anomalous.
    threshold: the pixel threshold, in the unit of the map; None draws no line and no tick.
    mask:      (H, W), defect where above 0; None, or without defect, draws no line.
    caption:   text under the colour bar: name, score, verdict. Broken at spaces where it does not fit; a longer word
               is cut short. What is not ASCII is shown as "?": OpenCV's fonts before 5.0 have no more.

    Returns (h, w, 3) uint8 RGB, larger than the image by the legend. Raises ValueError where the sizes differ, or `low`
    and `high` are not finite numbers with low <= high.
    """
    size = image.shape[:2]
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or image.size == 0:
        raise ValueError(f"an overlay needs an (H, W, 3) uint8 image, found {image.shape} {image.dtype}")
    for name, field in (("map", anomaly_map), ("mask", mask)):
        if field is not None and field.shape != size:
            raise ValueError(f"the {name} is {field.shape}, its image is {size} (height, width)")
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


def _to_display(
    image: NDArray[np.uint8], field: NDArray[np.float32], threshold: float | None, mask: NDArray[np.uint8] | None
) -> tuple[NDArray[np.uint8], NDArray[np.float32], NDArray[np.uint8], NDArray[np.uint8], NDArray[np.bool_]]:
    """The image, the map without NaN, where it reaches the threshold, the ground truth, where it has a score."""
    import cv2

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
            block = -(-longer // MAX_SIDE)
            thick = cv2.dilate(plane, np.ones((block, block), np.uint8))
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
