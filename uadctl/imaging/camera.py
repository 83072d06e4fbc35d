"""What makes the pictures of two cameras agree, and which part of them counts.

The functions on arrays can be used by themselves; a `Camera` does them in the order of a spec, on images of any size.
What a step may be given, with its bounds, stands as data in `uadctl.spec.camera_steps`.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import numpy as np

from uadctl.errors import DataError
from uadctl.imaging.listing import list_images
from uadctl.imaging.raster import LARGE, Raster, RawLayout, Window, open_image, open_mask, open_stored, row_bands
from uadctl.records import Box, Size, Step, row_boxes
from uadctl.spec.areas import parse_area, parse_intensity
from uadctl.spec.camera_steps import CAMERA_STEPS, read_steps
from uadctl.spec.operations import read_step

if TYPE_CHECKING:
    from numpy.typing import NDArray

    # A step that is ready to work: takes the pixels of a box and the box, gives as many pixels.
    Work: TypeAlias = Callable[[NDArray[np.uint8], Box], NDArray[np.uint8]]

FILL: Final = 128
"""The value of all channels where nothing counts: mid-grey, about where the backbones' normalisation has its zero."""

_BAND = 1 << 21  # Pixels that are worked on at a time; the largest temporary is three float32 channels of them.
_WIDE_BAND = 1 << 23  # The same where a neighbourhood is looked at, of which a band should show much.
_NEIGHBOURHOOD: Final = frozenset({"homomorphic", "clahe"})
_LUMA: Final = (0.299, 0.587, 0.114)  # of R, G and B; Rec. ITU-R BT.601
_COARSE = 8.0  # Wider blurs than this, in pixels, are done on a smaller picture.
_BINS = 1 << 16
_GIVE_VALUES = 'Give the values yourself: [preprocess] intensity = "window:LO,HI".'


# ---- white balance


def gray_world_white_balance(image: NDArray[Any]) -> NDArray[Any]:
    """Scale each channel so that all have the same mean, the mean of their means.

    Where a scene is grey on average, what is left of colour in its mean is the colour of the light (Buchsbaum, "A
    spatial processor model for object colour perception", J. Franklin Institute 310, 1980).

    image: (H, W, 3) or (H, W), uint8, uint16 or float32 in any range.

    Returns an array of that shape and dtype; integers are rounded and cut at the type's maximum, floats are not cut. A
    channel that is 0 everywhere stays so. (H, W) grey is returned as it is. Raises TypeError for another dtype,
    ValueError for another shape and for floats that are not finite.
    """
    _check(image, ("uint8", "uint16", "float32"))
    if image.ndim == 2:
        return image
    return _scaled(image, _gray_world_gains(image.mean(axis=(0, 1), dtype=np.float64)))


def max_rgb_white_balance(image: NDArray[Any], *, percentile: float = 100.0) -> NDArray[Any]:
    """Scale each channel so that all have the same brightest value, that of the brightest channel.

    The brightest patch of a scene is taken to be white (Land, "The retinex theory of color vision", Scientific American
    237(6), 1977). Where highlights are saturated all channels reach the maximum and nothing would change: then take a
    percentile below 100.

    image: as for `gray_world_white_balance`. percentile: 50 to 100; the smallest value of a channel that so many
    percent of its pixels do not exceed is its brightest.

    Returns and raises as `gray_world_white_balance`, and ValueError for another percentile.
    """
    _check(image, ("uint8", "uint16", "float32"))
    _check_range("percentile", percentile, 50, 100)
    if image.ndim == 2:
        return image
    place = _rank(image.shape[0] * image.shape[1], percentile) - 1
    tops = np.partition(image.reshape(-1, 3), place, axis=0)[place]
    return _scaled(image, _max_rgb_gains(tops.astype(np.float64)))


def _gray_world_gains(means: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(np.divide(means.mean(), means, out=np.ones(3), where=means > 0))


def _max_rgb_gains(tops: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(np.divide(tops.max(), tops, out=np.ones(3), where=tops > 0))


def _tops(levels: NDArray[np.int64], rank: int) -> NDArray[np.float64]:
    """The value at a rank, from 1, of each channel of a histogram."""
    return np.asarray((levels.cumsum(axis=0) < rank).sum(axis=0), dtype=np.float64)


def _rank(count: int, percent: float) -> int:
    """Which of `count` values in order, from 1, is the smallest that `percent` % of them do not exceed."""
    # As a decimal fraction: in floating point, 99.9 % of 1000 may be 999.0000000000001, and so one too many.
    return max(1, math.ceil(Fraction(repr(float(percent))) * count / 100))


def _scaled(image: NDArray[Any], gains: NDArray[np.float64]) -> NDArray[Any]:
    if image.dtype == np.uint8:
        import cv2

        table = np.clip(np.rint(np.arange(256)[:, np.newaxis] * gains), 0, 255).astype(np.uint8)
        return np.asarray(cv2.LUT(np.ascontiguousarray(image), table[np.newaxis]), dtype=np.uint8)
    return _as_stored(image * gains, image.dtype)


# ---- illumination


def homomorphic_filter(
    image: NDArray[Any], *, cutoff: float = 0.01, gain_low: float = 0.5, gain_high: float = 1.0
) -> NDArray[Any]:
    """Even out slow changes of brightness, keep or raise fast ones.

    A picture is illumination times reflectance. In the logarithm they add, and are told apart by their frequency
    (Oppenheim, Schafer and Stockham, "Nonlinear filtering of multiplied and convolved signals", Proc. IEEE 56, 1968).
    Here log(1 + luminance) is split by a Gaussian low-pass; what it lets through, but for its mean, is multiplied by
    `gain_low`, the rest by `gain_high`. So a uniform picture is unchanged, and beyond the border the picture is
    mirrored.

    image: (H, W) or (H, W, 3) RGB, uint8 or float in 0 to 255. Of colours the luminance is filtered (BT.601), and what
        that multiplies it by multiplies 1 + each channel: hue and saturation stay.
    cutoff: above 0, at most 1; where the low-pass has fallen to exp(-1/2), as a share of the highest frequency that
        pixels can show, half a cycle a pixel. The low-pass is a blur of sigma = 1 / (pi * cutoff) pixels: 32 for 0.01.
    gain_low: 0 to 1. gain_high: 1 to 4.

    Returns that shape and dtype, 0 to 255; uint8 is rounded, float64 has the precision of float32. Raises TypeError for
    another dtype, ValueError for another shape, floats beyond 0 to 255 and parameters out of range.
    """
    _check(image, ("uint8", "float32", "float64"), high=255.0)
    if not 0 < cutoff <= 1:
        raise ValueError(f"cutoff must be above 0 and at most 1, found {cutoff:g}")
    _check_range("gain_low", gain_low, 0, 1)
    _check_range("gain_high", gain_high, 1, 4)
    # Floats of all of a large image would take many times its memory: of all of it there is one at a time.
    spans = [box.rows for box in row_boxes(Size(*image.shape[:2]), _BAND)]
    bright = np.empty(image.shape[:2], np.float32)
    for span in spans:
        bright[span] = _brightness(image[span])
    mean = np.float32(bright.mean(dtype=np.float64))
    bright -= mean
    slow = _low_pass(bright, 1 / (math.pi * cutoff))
    del bright
    result = np.empty(image.shape, image.dtype)
    for span in spans:
        fast = _brightness(image[span]) - mean - slow[span]
        change = np.exp((gain_low - 1) * slow[span] + (gain_high - 1) * fast)
        values = image[span].astype(np.float32) + 1
        values *= change if values.ndim == 2 else change[..., np.newaxis]
        values -= 1
        result[span] = _as_stored(np.clip(values, 0, 255, out=values), image.dtype)
    return result


def _brightness(image: NDArray[Any]) -> NDArray[np.float32]:
    """log(1 + luminance). Sums are written out, so that a pixel's does not depend on how many come with it."""
    values = image.astype(np.float32)
    if values.ndim == 3:
        red, green, blue = (values[..., channel] * np.float32(share) for channel, share in enumerate(_LUMA))
        values = red + green + blue
    return np.asarray(np.log1p(values, out=values))


def _low_pass(values: NDArray[np.float32], sigma: float) -> NDArray[np.float32]:
    import cv2

    height, width = values.shape
    # A blur so wide leaves nothing that a picture of a fraction of the pixels could not hold.
    shrink = max(1.0, sigma / _COARSE)
    rows, columns = max(1, round(height / shrink)), max(1, round(width / shrink))
    # OpenCV takes (width, height), and x before y.
    small = values if shrink == 1 else cv2.resize(values, (columns, rows), interpolation=cv2.INTER_AREA)
    blurred = cv2.GaussianBlur(
        small, (0, 0), sigmaX=sigma * columns / width, sigmaY=sigma * rows / height, borderType=cv2.BORDER_REFLECT
    )
    if shrink > 1:
        blurred = cv2.resize(blurred, (width, height), interpolation=cv2.INTER_LINEAR)
    return np.asarray(blurred, dtype=np.float32)


def flat_field_correction(image: NDArray[Any], flat: NDArray[Any], dark: NDArray[Any] | None = None) -> NDArray[Any]:
    """Take out what lens, light and sensor do to each place: (image - dark) * mean(f) / f, where f = flat - dark.

    As in Seibert, Boone and Lindfors, "Flat-field correction technique for digital detectors", Proc. SPIE 3336, 1998;
    f is the picture of the sensor's photo response non-uniformity that EMVA Standard 1288 measures. The mean is of each
    channel by itself, so that the colour of the even surface does not become a white balance.

    image: (H, W) or (H, W, 3), uint8, uint16 or float32. flat: the picture of an even, bright surface, best the mean of
    many, none of it saturated. dark: the picture with the lens covered; None: 0. Both in the image's unit, of its
    height and width or one row for all rows (line-scan cameras), with its channels or one for all.

    Pixels where the flat is not brighter than the dark are dead: they keep image - dark, and are no part of the mean.

    Returns the image's shape and dtype; integers are rounded and cut to the type's range, floats are not cut. Raises
    TypeError for another dtype of the image, ValueError where shapes do not fit or a channel has dead pixels only.
    """
    _check(image, ("uint8", "uint16", "float32"))
    gain, offset = flat_gain(flat, np.zeros_like(flat) if dark is None else dark)
    height, width = image.shape[:2]
    channels = 1 if image.ndim == 2 else 3
    if gain.shape[0] not in (1, height) or gain.shape[1] != width or gain.shape[2] not in (1, channels):
        raise ValueError(f"a flat field of {flat.shape} does not fit an image of {image.shape}")
    return _flattened(image, gain, offset)


def flat_gain(flat: NDArray[Any], dark: NDArray[Any]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """What `flat_field_correction` multiplies by, and what it subtracts first.

    Both (h, w, c) float32, h and c 1 where one row or channel is for all. Raises ValueError as it does.
    """
    bright, covered = (_planes(frame) for frame in (flat, dark))
    if bright.shape[1] != covered.shape[1] or not _broadcast(bright, covered):
        raise ValueError(f"a flat field of {flat.shape} and a dark frame of {dark.shape} do not fit each other")
    signal = bright - covered
    live = np.isfinite(signal) & (signal > 0)
    counts = live.sum(axis=(0, 1))
    if not bool(counts.all()):
        raise ValueError("a channel of the flat field is nowhere brighter than the dark frame (0 without one)")
    means = np.where(live, signal, 0).sum(axis=(0, 1), dtype=np.float64) / counts
    gain = np.divide(means, signal, out=np.ones_like(signal), where=live)
    return gain.astype(np.float32), covered.astype(np.float32)


def _planes(frame: NDArray[Any]) -> NDArray[np.float64]:
    if frame.size == 0 or not (frame.ndim == 2 or (frame.ndim == 3 and frame.shape[2] in (1, 3))):
        raise ValueError(f"a frame must be a non-empty (H, W) or (H, W, 3) array, found {frame.shape}")
    return (frame if frame.ndim == 3 else frame[..., np.newaxis]).astype(np.float64)


def _broadcast(one: NDArray[Any], other: NDArray[Any]) -> bool:
    return all(a == b or 1 in (a, b) for a, b in zip(one.shape, other.shape, strict=True))


def _flattened(image: NDArray[Any], gain: NDArray[np.float32], offset: NDArray[np.float32]) -> NDArray[Any]:
    result = np.empty(image.shape, image.dtype)
    for box in row_boxes(Size(*image.shape[:2]), _BAND):
        part = image[box.rows]
        # uint16 values times a gain fit a float32 to a part in 2^24.
        values = (part if part.ndim == 3 else part[..., np.newaxis]).astype(np.float32)
        values -= _cut(offset, box)
        values *= _cut(gain, box)
        result[box.rows] = _as_stored(values.reshape(part.shape), image.dtype)
    return result


def clahe(image: NDArray[np.uint8], clip_limit: float = 2.0, grid: int = 8) -> NDArray[np.uint8]:
    """Raise the local contrast of the lightness: contrast limited adaptive histogram equalisation.

    Zuiderveld, "Contrast limited adaptive histogram equalization", Graphics Gems IV, 1994; OpenCV computes it. Of
    colours, L of CIE L*a*b* changes, and a* and b* are kept as far as sRGB can show them.

    image: (H, W) or (H, W, 3) RGB uint8. clip_limit: above 0; the slope of a cell's grey level curve is about this at
    the most. grid: at least 1; the image is cut into grid x grid cells, after mirroring it up to a multiple of that.

    Returns the same shape, uint8. Raises TypeError for another dtype, ValueError for another shape or parameters out of
    range.
    """
    import cv2

    _check(image, ("uint8",))
    if not 0 < clip_limit < math.inf:
        raise ValueError(f"clip_limit must be above 0, found {clip_limit:g}")
    if grid < 1:
        raise ValueError(f"grid must be at least 1, found {grid}")
    equalise = cv2.createCLAHE(clip_limit, (grid, grid))
    if image.ndim == 2:
        return np.asarray(equalise.apply(np.ascontiguousarray(image)), dtype=np.uint8)
    height, width = image.shape[:2]
    # L*a*b* in 8 bits would change saturated colours by up to 24 levels: it is float, and in bands for its size.
    spans = [box.rows for box in row_boxes(Size(height, width), _BAND)]
    light = np.empty((height, width), np.uint8)
    for span in spans:
        light[span] = _lightness(_lab(image[span]))
    gained = np.asarray(equalise.apply(light), dtype=np.uint8)
    result = np.empty_like(image)
    for span in spans:
        lab = _lab(image[span])
        lab[..., 0] += (gained[span] - _lightness(lab)) * np.float32(100 / 255)
        np.clip(lab[..., 0], 0, 100, out=lab[..., 0])
        rgb = np.asarray(cv2.cvtColor(lab, cv2.COLOR_LAB2RGB)) * np.float32(255)
        result[span] = _as_stored(rgb, image.dtype)
    return result


def _lab(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    import cv2

    return np.asarray(cv2.cvtColor(pixels.astype(np.float32) / np.float32(255), cv2.COLOR_RGB2LAB))


def _lightness(lab: NDArray[np.float32]) -> NDArray[np.float32]:
    """L of 0 to 100 as whole numbers of 0 to 255, what CLAHE works on."""
    return np.asarray(np.clip(np.rint(lab[..., 0] * np.float32(255 / 100)), 0, 255))


def _as_stored(values: NDArray[Any], dtype: np.dtype[Any]) -> NDArray[Any]:
    if dtype.kind == "f":
        return values.astype(dtype, copy=False)
    return np.asarray(np.clip(np.rint(values), 0, np.iinfo(dtype).max), dtype=dtype)


def _check(image: NDArray[Any], types: Sequence[str], *, high: float | None = None) -> None:
    """Whether it is an image of one of these types; of floats, whether they are finite, and 0 to `high` if given."""
    if image.dtype.name not in types:
        raise TypeError(f"expected an image of {' or '.join(types)}, found {image.dtype}")
    if image.size == 0 or not (image.ndim == 2 or (image.ndim == 3 and image.shape[2] == 3)):
        raise ValueError(f"expected a non-empty (H, W) or (H, W, 3) image, found {image.shape}")
    if image.dtype.kind != "f":
        return
    if not bool(np.isfinite(image).all()):
        raise ValueError("the image has pixels that are NaN or infinite")
    if high is not None and not 0 <= float(image.min()) <= float(image.max()) <= high:
        raise ValueError(f"expected values of 0 to {high:g}, found {image.min():g} to {image.max():g}")


def _check_range(name: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise ValueError(f"{name} must be {low:g} to {high:g}, found {value:g}")


def _bands(box: Box, pixels: int) -> Iterator[Box]:
    return row_boxes(box.size, pixels, y0=box.y0, x0=box.x0)


# ---- what counts

_parsed = functools.lru_cache(maxsize=256)(parse_area)


@dataclass(frozen=True, slots=True)
class Area:
    """A part of the image plane: a box, a polygon or the pixels of a mask, in pixels of the file as displayed.

    text: as a spec says it: "box:top,left,bottom,right", "polygon:y,x y,x y,x", or a mask file's path. A box's bottom
        and right are exclusive. A polygon's points are pixels, and a pixel lies in it if its centre lies inside or on
        the boundary; where it crosses itself, what is surrounded twice lies outside (even-odd).
    pixels: of a mask, (H, W) uint8: not 0 inside. It is in memory, a byte a pixel, also for images that are not.
    """

    text: str
    pixels: NDArray[np.uint8] | None = field(default=None, compare=False, repr=False)

    @classmethod
    def of(cls, text: str) -> Area:
        """Reads a mask's file. Raises ValueError for text that is no area, DataError naming a file that is no mask."""
        kind, _ = _parsed(text)
        return cls(text, _mask_pixels(text) if kind == "mask" else None)

    def bounds(self, size: Size) -> Box:
        """A box that it lies in; of a mask, all of the image. DataError where it does not fit an image of this size."""
        area = _parsed(self.text)
        if area[0] == "mask":
            self._check_mask(size)
            return Box.whole(size)
        if area[0] == "box":
            top, left, bottom, right = area[1]
        else:
            rows, columns = zip(*area[1], strict=True)
            top, left, bottom, right = min(rows), min(columns), max(rows) + 1, max(columns) + 1
        if bottom > size.height or right > size.width:
            raise DataError(
                f"{self.text} needs an image of at least {Size(bottom, right)}, this one is {size} (height x width)",
                help="[preprocess] roi and ignore are in pixels of the file as displayed, before it is resized.",
            )
        return Box(top, left, bottom - top, right - left)

    def _check_mask(self, size: Size) -> None:
        if self.pixels is not None and self.pixels.shape != size:
            raise DataError(
                f"{self.text} is {Size(*self.pixels.shape)}, the image is {size} (height x width)",
                help="A mask of [preprocess] roi or ignore must have the size of the images, as displayed.",
            )

    def mask(self, size: Size, box: Box) -> NDArray[np.bool_]:
        """Which pixels of a box of an image of this size lie in it. DataError where it does not fit the image."""
        bounds = self.bounds(size)
        if self.pixels is not None:
            return np.asarray(self.pixels[box.rows, box.columns] > 0)
        area = _parsed(self.text)
        if area[0] == "polygon":
            return _polygon(area[1], box)
        inside = np.zeros(box.size, dtype=np.bool_)
        top, left = max(0, bounds.y0 - box.y0), max(0, bounds.x0 - box.x0)
        bottom, right = bounds.y0 + bounds.height - box.y0, bounds.x0 + bounds.width - box.x0
        inside[top : max(0, bottom), left : max(0, right)] = True
        return inside


def _mask_pixels(path: str) -> NDArray[np.uint8]:
    """All of a mask's file, (H, W) 0 and 1, of any size where its format is read region by region."""
    with closing(open_mask([path])) as mask:
        pixels = np.empty(mask.size, np.uint8)
        for box in row_bands(mask.size):
            pixels[box.rows] = mask.read(box)
    return pixels


def _polygon(points: Sequence[tuple[int, int]], box: Box) -> NDArray[np.bool_]:
    """Which pixels of a box have their centre inside the polygon or on its boundary; exact for whole coordinates."""
    rows = np.arange(box.y0, box.y0 + box.height)
    marks = np.zeros((box.height, box.width + 1), dtype=np.int32)
    crossings = []
    for (y1, x1), (y2, x2) in zip(points, [*points[1:], points[0]], strict=True):
        if y1 == y2:
            here = rows[rows == y1]
            _mark(marks, here, np.full(here.shape, min(x1, x2)), np.full(here.shape, max(x1, x2)), box)
            continue
        # Where the edge crosses each row's centre line, in units of 1 / (y2 - y1).
        over = x1 + (rows - y1) * (x2 - x1) / (y2 - y1)
        touched = (rows >= min(y1, y2)) & (rows <= max(y1, y2))
        # Its own pixels, too; it has some only where the quotient is whole, and a whole quotient is exact (IEEE 754).
        _mark(marks, rows[touched], np.ceil(over[touched]), np.floor(over[touched]), box)
        # The lower end belongs to the next edge, so that a corner counts once where the boundary passes through.
        crossings.append(np.where(touched & (rows < max(y1, y2)), over, np.inf))
    ordered = np.sort(np.stack(crossings), axis=0)
    for left, right in zip(ordered[0::2], ordered[1::2], strict=False):
        filled = np.isfinite(right)
        _mark(marks, rows[filled], np.ceil(left[filled]), np.floor(right[filled]), box)
    return np.cumsum(marks[:, :-1], axis=1, dtype=np.int32) > 0


def _mark(marks: NDArray[np.int32], rows: NDArray[Any], first: NDArray[Any], last: NDArray[Any], box: Box) -> None:
    """Note, for a running sum along each row, that columns first..last lie inside, as far as they are in the box."""
    start = np.clip(first - box.x0, 0, box.width).astype(np.intp)
    end = np.clip(last + 1 - box.x0, 0, box.width).astype(np.intp)
    some = start < end
    np.add.at(marks, (rows[some] - box.y0, start[some]), 1)
    np.add.at(marks, (rows[some] - box.y0, end[some]), -1)


# ---- the camera


@dataclass(frozen=True)
class Camera:
    """How stored pixels become those that a model sees, before they are resized, and which of them count.

    window: stored values that become 0 and 255; None: the full range of the type.
    raw: layout of files named *.raw. steps: in this order.
    roi: where something is learned, scored and measured; None: everywhere. ignore: where nothing is, inside the roi.
    arrays: what steps need beside their numbers, by name: "flat_field.N.gain" and ".dark" of the Nth step.

    Two are equal if they say the same; what the files that they name held is not compared.
    """

    window: Window | None = None
    raw: RawLayout | None = None
    steps: tuple[Step, ...] = ()
    roi: Area | None = None
    ignore: tuple[Area, ...] = ()
    arrays: Mapping[str, NDArray[Any]] | None = field(default=None, compare=False, repr=False)
    _extents: dict[Size, Box] = field(default_factory=dict, init=False, compare=False, repr=False)

    @classmethod
    def of(
        cls,
        *,
        intensity: str = "full",
        raw: str | None = None,
        steps: Iterable[str] = (),
        roi: str | None = None,
        ignore: Iterable[str] = (),
        training: Iterable[str] = (),
    ) -> Camera:
        """From what `[preprocess]` says; reads the files that it names, and for "percentile:a,b" the training images.

        training: paths of the images that are learned. Broken ones are passed over here; whoever learns them says so.
            The percentiles are of the values of all pixels that count, of all of them together and of all channels:
            exact for integers, to 1/65536 of their range for floats.
        Raises DataError naming a reference frame or a mask that cannot be used, and where there are no training images
        or they give no range; ValueError for other text.
        """
        kind, numbers = parse_intensity(intensity)
        window = Window(*numbers) if numbers is not None and kind == "window" else None
        layout = None if raw is None else RawLayout.parse(raw)
        camera = cls(
            window=window,
            raw=layout,
            steps=read_steps(steps),
            roi=None if roi is None else Area.of(roi),
            ignore=tuple(Area.of(text) for text in ignore),
        )
        if numbers is not None and kind == "percentile":
            window = _window_of(list(training), numbers, camera)
        return cls(window, layout, camera.steps, camera.roi, camera.ignore, _flats(camera.steps, window, layout))

    @property
    def is_plain(self) -> bool:
        """Whether it does nothing: the full range of each type, all of the image, no steps."""
        return self.window is None and self.raw is None and not self._works

    @property
    def _works(self) -> bool:
        return bool(self.steps or self.ignore) or self.roi is not None

    def open(self, source: Any) -> Raster:
        """The image as stored, made RGB uint8: before the steps. What overlays show."""
        return open_image(source, window=self.window, raw=self.raw)

    def extent(self, size: Size) -> Box:
        """The smallest box with everything that counts. DataError if nothing does, or an area lies outside."""
        if self.roi is None and not self.ignore:
            return Box.whole(size)
        found = self._extents.get(size)
        if found is None:
            found = self._find_extent(size)
            if len(self._extents) >= 64:
                self._extents.clear()
            self._extents[size] = found
        return found

    def _find_extent(self, size: Size) -> Box:
        start = Box.whole(size) if self.roi is None else self.roi.bounds(size)
        rows, columns = [], np.zeros(start.width, dtype=np.bool_)
        for band in _bands(start, _BAND):
            inside = self._inside(size, band)
            rows.append(inside.any(axis=1))
            columns |= inside.any(axis=0)
        down, across = np.flatnonzero(np.concatenate(rows)), np.flatnonzero(columns)
        if down.size == 0:
            texts = ", ".join(area.text for area in ([] if self.roi is None else [self.roi]) + list(self.ignore))
            raise DataError(
                f"no pixel of an image of {size} (height x width) counts, with roi and ignore: {texts}",
                help="Make [preprocess] roi larger, or take something out of ignore.",
            )
        top, left = int(down[0]), int(across[0])
        return Box(start.y0 + top, start.x0 + left, int(down[-1]) - top + 1, int(across[-1]) - left + 1)

    def counts(self, size: Size, box: Box) -> NDArray[np.bool_] | None:
        """Which pixels of a box count; None: all of them. DataError where an area does not fit the image."""
        if self.roi is None and not self.ignore:
            return None
        inside = self._inside(size, box)
        return None if bool(inside.all()) else inside

    def _inside(self, size: Size, box: Box) -> NDArray[np.bool_]:
        inside = np.ones(box.size, dtype=np.bool_) if self.roi is None else self.roi.mask(size, box)
        for area in self.ignore:
            inside &= ~area.mask(size, box)
        return inside

    def see(self, raster: Raster, *, tiled: bool = False) -> Raster:
        """The image after all steps, inside `extent`: a raster in the same coordinates, (h, w, 3) RGB uint8.

        What does not count has no influence on the result, and is a constant there (`FILL`, before the first step and
        after the last).

        The extent is read and worked on now, however it is read afterwards. tiled: unless it has more than `LARGE`
        pixels. Then it is read and worked on region by region: steps that look at a neighbourhood (homomorphic, clahe)
        look at each region by itself. Statistics (white balance) are of the whole image all the same, taken now, in
        bands; after such a step they are of its work on bands of about 2^23 pixels.

        Without steps and areas it is the raster itself. Closing it closes the raster. Raises DataError where a flat
        field or an area does not fit the image, and what reading raises.
        """
        if not self._works:
            return raster
        extent = self.extent(raster.size)
        self._check_flats(raster.size)
        if tiled and extent.height * extent.width > LARGE:
            return self._regions(raster, extent)
        counts = self.counts(raster.size, extent)
        pixels = _filled(raster.read(extent), counts)
        for place, step in enumerate(self.steps):
            pixels = self._work(place, step, functools.partial(_histogram, pixels, counts))(pixels, extent)
        return _Part(raster, extent, _filled(pixels, counts) if self.steps else pixels)

    def _regions(self, raster: Raster, extent: Box) -> _Regions:
        regions = _Regions(raster, self, ())
        seen: set[str] = set()
        for place, step in enumerate(self.steps):
            pixels = _WIDE_BAND if seen & _NEIGHBOURHOOD else _BAND
            measure = functools.partial(regions.histogram, _bands(extent, pixels))
            regions = _Regions(raster, self, (*regions.works, self._work(place, step, measure)))
            seen.add(step.name)
        return regions

    def _work(self, place: int, step: Step, measure: Callable[[], NDArray[np.int64]]) -> Work:
        """A step made ready. measure: gives the histogram, (256, 3), of what counts after the steps before it."""
        params: Mapping[str, Any] = dict(step.params)
        if step.name == "flat_field":
            gain, dark = (self._array(f"flat_field.{place}.{what}") for what in ("gain", "dark"))
            return lambda pixels, box: _flattened(pixels, _cut(gain, box), _cut(dark, box))
        if step.name == "homomorphic":
            return lambda pixels, _: homomorphic_filter(pixels, **params)
        if step.name == "clahe":
            return lambda pixels, _: clahe(pixels, **params)
        levels = measure()
        count = int(levels[:, 0].sum())
        if step.name == "gray_world":
            gains = _gray_world_gains(np.arange(256) @ levels / count)
        else:
            gains = _max_rgb_gains(_tops(levels, _rank(count, params["percentile"])))
        return lambda pixels, _: _scaled(pixels, gains)

    def _array(self, name: str) -> NDArray[Any]:
        if self.arrays is None or name not in self.arrays:
            raise ValueError(f'a camera with these steps needs the array "{name}": make it with Camera.of')
        return self.arrays[name]

    def _check_flats(self, size: Size) -> None:
        for place, step in enumerate(self.steps):
            if step.name != "flat_field":
                continue
            for what, file in (("gain", "reference"), ("dark", "dark")):
                height, width = self._array(f"flat_field.{place}.{what}").shape[:2]
                if height not in (1, size.height) or width != size.width:
                    raise DataError(
                        f"{dict(step.params)[file]} is {Size(height, width)}, the image is {size} (height x width)",
                        help="Reference frames must have the size of the images, or one row of their width.",
                    )

    def state(self) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        """Arrays by name, and JSON facts: everything, so that a run folder needs no other file."""
        # In C order: safetensors writes the memory as it lies.
        arrays = {name: np.ascontiguousarray(array) for name, array in (self.arrays or {}).items()}
        areas = {"roi": self.roi} | {f"ignore.{place}": area for place, area in enumerate(self.ignore)}
        for name, area in areas.items():
            if area is not None and area.pixels is not None:
                arrays[name] = np.ascontiguousarray(area.pixels)
        facts = {
            "window": None if self.window is None else [self.window.low, self.window.high],
            "raw": None if self.raw is None else asdict(self.raw),
            "steps": [str(step) for step in self.steps],
            "roi": None if self.roi is None else self.roi.text,
            "ignore": [area.text for area in self.ignore],
        }
        return arrays, facts

    @classmethod
    def restore(cls, arrays: Mapping[str, NDArray[Any]], facts: Mapping[str, Any]) -> Camera:
        """The camera whose `state` this is; opens no file. Raises ValueError where they do not belong together."""

        def area(name: str, text: str) -> Area:
            if _parsed(text)[0] == "mask" and name not in arrays:
                raise ValueError(f'a camera with the mask {text} needs the array "{name}"')
            return Area(text, arrays.get(name))

        camera = cls(
            window=None if facts["window"] is None else Window(*facts["window"]),
            raw=None if facts["raw"] is None else RawLayout(**facts["raw"]),
            steps=tuple(read_step(text, CAMERA_STEPS) for text in facts["steps"]),
            roi=None if facts["roi"] is None else area("roi", facts["roi"]),
            ignore=tuple(area(f"ignore.{place}", text) for place, text in enumerate(facts["ignore"])),
            arrays={name: array for name, array in arrays.items() if name.startswith("flat_field.")},
        )
        for place, step in enumerate(camera.steps):
            if step.name == "flat_field":
                camera._array(f"flat_field.{place}.gain")
                camera._array(f"flat_field.{place}.dark")
        return camera


@dataclass(frozen=True, slots=True)
class _Regions:
    """An image whose steps are done on each region when it is read."""

    raster: Raster
    camera: Camera
    works: tuple[Work, ...]

    @property
    def size(self) -> Size:
        return self.raster.size

    def read(self, box: Box) -> NDArray[np.uint8]:
        counts = self.camera.counts(self.size, box)
        return _filled(self._worked(box, counts), counts)

    def histogram(self, bands: Iterable[Box]) -> NDArray[np.int64]:
        """How many of the pixels that count have each value, (256, 3), in all bands together."""
        levels = np.zeros((256, 3), dtype=np.int64)
        for box in bands:
            counts = self.camera.counts(self.size, box)
            levels += _histogram(self._worked(box, counts), counts)
        return levels

    def _worked(self, box: Box, counts: NDArray[np.bool_] | None) -> NDArray[np.uint8]:
        pixels = _filled(self.raster.read(box), counts)
        for work in self.works:
            pixels = work(pixels, box)
        return pixels

    def close(self) -> None:
        self.raster.close()


@dataclass(frozen=True, slots=True)
class _Part:
    """An image of which one box is in memory."""

    raster: Raster
    box: Box
    pixels: NDArray[np.uint8]

    @property
    def size(self) -> Size:
        return self.raster.size

    def read(self, box: Box) -> NDArray[np.uint8]:
        inner = Box(box.y0 - self.box.y0, box.x0 - self.box.x0, box.height, box.width)
        if min(inner[:2]) < 0 or inner.y0 + inner.height > self.box.height or inner.x0 + inner.width > self.box.width:
            raise ValueError(f"{box} lies not in {self.box}, outside of which nothing counts")
        return self.pixels[inner.rows, inner.columns]

    def close(self) -> None:
        self.raster.close()


def _filled(pixels: NDArray[np.uint8], counts: NDArray[np.bool_] | None) -> NDArray[np.uint8]:
    if counts is None:
        return pixels
    return np.where(counts[..., np.newaxis], pixels, np.uint8(FILL))


def _cut(array: NDArray[np.float32], box: Box) -> NDArray[np.float32]:
    rows = slice(None) if array.shape[0] == 1 else box.rows
    return array[rows, box.columns]


def _histogram(pixels: NDArray[np.uint8], counts: NDArray[np.bool_] | None) -> NDArray[np.int64]:
    """How many of the pixels that count have each value: (256, 3)."""
    import cv2

    levels = np.zeros((256, 3), dtype=np.int64)
    # OpenCV counts in float32, exactly up to 2^24 pixels.
    for box in row_boxes(Size(*pixels.shape[:2]), _BAND):
        band = np.ascontiguousarray(pixels[box.rows])
        mask = None if counts is None else counts[box.rows].astype(np.uint8)
        for channel in range(3):
            found = cv2.calcHist([band], [channel], mask, [256], [0, 256])
            levels[:, channel] += found.reshape(256).astype(np.int64)  # (256, 1) in OpenCV 4
    return levels


# ---- reference frames


def _flats(steps: Sequence[Step], window: Window | None, raw: RawLayout | None) -> dict[str, NDArray[Any]]:
    arrays: dict[str, NDArray[Any]] = {}
    for place, step in enumerate(steps):
        if step.name != "flat_field":
            continue
        reference, covered = (str(path) for _, path in step.params)
        flat = _mean_frame(reference, window, raw)
        dark = _mean_frame(covered, window, raw) if covered else np.zeros((1, flat.shape[1]), np.float64)
        if dark.shape[1] != flat.shape[1] or (
            dark.shape[0] != flat.shape[0] and 1 not in (dark.shape[0], flat.shape[0])
        ):
            raise DataError(
                f"{covered} is {Size(*dark.shape[:2])}, {reference} is {Size(*flat.shape[:2])} (height x width)",
                help="Dark and reference frames must have the same size, or one row of the same width.",
            )
        try:
            gain, offset = flat_gain(flat, dark)
        except ValueError as error:
            raise DataError(f"{reference}: {error}") from error
        arrays |= {f"flat_field.{place}.gain": gain, f"flat_field.{place}.dark": offset}
    return arrays


def _mean_frame(path: str, window: Window | None, raw: RawLayout | None) -> NDArray[np.float64]:
    """The mean of one frame or of a folder of them, (h, w, 1 or 3), in 0 to 255 as images are, but not rounded."""
    files = list_images(path) if Path(path).is_dir() else [path]
    if not files:
        raise DataError(f"{path}: no image in this folder, expected reference frames")
    total: NDArray[np.float64] | None = None
    for file in files:
        with closing(open_stored(file, raw=raw)) as raster:
            frame = _planes(_in_range(raster.read(Box.whole(raster.size)), window))
        if total is not None and total.shape[:2] != frame.shape[:2]:
            raise DataError(
                f"{file} is {Size(*frame.shape[:2])}, {files[0]} is {Size(*total.shape[:2])} (height x width)",
                help="Frames that are averaged must have one size.",
            )
        total = frame if total is None else total + frame
    return np.asarray(total) / len(files)


def _in_range(stored: NDArray[Any], window: Window | None) -> NDArray[np.float64]:
    if window is None:
        window = Window(0, float(np.iinfo(stored.dtype).max) if stored.dtype.kind == "u" else 1.0)
    values = (stored.astype(np.float64) - window.low) * (255 / (window.high - window.low))
    return np.clip(values, 0, 255)


# ---- percentiles of the training images


@dataclass(frozen=True, slots=True)
class _Survey:
    """The stored values of images. levels: how many have each value, of integers; low, high: the range, of floats."""

    paths: tuple[str, ...]
    kind: str
    levels: NDArray[np.int64] | None
    low: float
    high: float

    def with_(self, other: _Survey) -> _Survey:
        """Both together; they are of one kind."""
        levels = None if self.levels is None or other.levels is None else self.levels + other.levels
        low, high = min(self.low, other.low), max(self.high, other.high)
        return _Survey(self.paths + other.paths, self.kind, levels, low, high)


def _window_of(paths: Sequence[str], percents: tuple[float, float], camera: Camera) -> Window:
    text = f"percentile:{percents[0]:g},{percents[1]:g}"
    if not paths:
        raise DataError(f"{text} needs training images, there are none", help=_GIVE_VALUES)
    pool = _pooled(paths, camera, text)
    if pool.levels is None:
        low, high = _float_percentiles(pool, percents, camera, text)
    else:
        low, high = (float(_place(pool.levels, percent)) for percent in percents)
    if low >= high:
        raise DataError(
            f"{text}: both percentiles of the training images are {low:g}",
            help=f"Take percentiles further apart. {_GIVE_VALUES}",
        )
    return Window(low, high)


def _pooled(paths: Sequence[str], camera: Camera, text: str) -> _Survey:
    pool: _Survey | None = None
    reason: DataError | None = None
    for path in paths:
        try:
            found = _survey(path, camera)
        except DataError as error:
            reason = reason or error
            continue
        if pool is not None and found.kind != pool.kind:
            raise DataError(
                f"{path} holds {found.kind} values, {pool.paths[0]} {pool.kind}: {text} needs images of one type",
                help=_GIVE_VALUES,
            )
        pool = found if pool is None else pool.with_(found)
    if pool is None:
        raise DataError(f"{text}: none of the {len(paths)} training images can be used. The first: {reason}")
    return pool


def _place(levels: NDArray[np.int64], percent: float) -> int:
    return int(np.searchsorted(levels.cumsum(), _rank(int(levels.sum()), percent)))


def _float_percentiles(pool: _Survey, percents: tuple[float, float], camera: Camera, text: str) -> tuple[float, float]:
    low, high = pool.low, pool.high
    if low == high:
        return low, high
    # Both ends of float64: beyond the largest number, and so near each other that there are no bins between.
    if not (math.isfinite(high - low) and math.isfinite(_BINS / (high - low))):
        raise DataError(
            f"{text}: the values of the training images go from {low:g} to {high:g}, "
            f"a range that cannot be divided into {_BINS} parts",
            help=_GIVE_VALUES,
        )
    levels = np.zeros(_BINS, dtype=np.int64)
    for path in pool.paths:
        for values in _stored(path, camera):
            bins = ((values.astype(np.float64) - low) * (_BINS / (high - low))).astype(np.int64)
            levels += np.bincount(np.clip(bins, 0, _BINS - 1), minlength=_BINS)
    width = (high - low) / _BINS
    # Outwards, to the ends of the bins: what lies between the percentiles lies in the window.
    return low + width * _place(levels, percents[0]), low + width * (_place(levels, percents[1]) + 1)


def _survey(path: str, camera: Camera) -> _Survey:
    """Raises DataError for an image that cannot be read, does not fit the areas or holds NaN."""
    levels: NDArray[np.int64] | None = None
    kind, low, high = "", math.inf, -math.inf
    for values in _stored(path, camera):
        if values.dtype.kind == "f":
            kind, low, high = "float", min(low, float(values.min())), max(high, float(values.max()))
            if not bool(np.isfinite(values).all()):
                raise DataError(f"{path}: float pixels that are NaN or infinite")
        else:
            kind = values.dtype.name
            found = np.bincount(values, minlength=int(np.iinfo(values.dtype).max) + 1)
            levels = found if levels is None else levels + found
    return _Survey((path,), kind, levels, low, high)


def _stored(path: str, camera: Camera) -> Iterator[NDArray[Any]]:
    """The values of an image that count, as stored, in (n,) arrays that are not empty, band by band."""
    with closing(open_stored(path, raw=camera.raw)) as raster:
        for band in _bands(camera.extent(raster.size), _BAND):
            values = raster.read(band)
            counts = camera.counts(raster.size, band)
            chosen = (values if counts is None else values[counts]).ravel()
            if chosen.size:
                yield chosen
