"""What makes one camera disagree with itself: compression, vignette, exposure, colour, blur, noise, small movements.

Every function takes (H, W) grey or (H, W, 3) RGB uint8 and returns a new array of that shape and type. What draws,
draws from the generator or seed that it is given: the same seed gives the same bytes. Values are taken as proportional
to light, as an industrial camera gives them with its gamma at 1.

The kinds of change are among those of Hendrycks and Dietterich, Benchmarking Neural Network Robustness to Common
Corruptions and Perturbations, ICLR 2019; how they are made, and how strong they are, is our own choice for machines.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from uadctl.errors import DataError
from uadctl.records import Size, Step, row_boxes

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Pixels = NDArray[np.uint8]

__all__ = [
    "apply_steps",
    "blur",
    "exposure_drift",
    "get_industrial_camera_robust_augmentation",
    "jpeg_compress",
    "motion_blur",
    "move_mask",
    "noise",
    "random_channel_gain",
    "rotate_shift",
    "vignette",
]

# OpenCV warps images of fewer pixels a side than this; JPEG holds a few more.
_MOST_WARPED: Final = 32_767
_MOST_OF_JPEG: Final = 65_500
_MOST_STOPS: Final = 64
# Arrays of floats are made of about so many pixels at a time.
_BAND: Final = 1 << 20


def jpeg_compress(image: Pixels, quality: int = 75) -> Pixels:
    """The image after a JPEG file of this quality, with colours at half the resolution, as cameras write it.

    quality: 1 to 95, libjpeg's scale. Raises ValueError for another, DataError for an image of more than 65500 pixels a
        side: JPEG holds no more.
    """
    import cv2

    _check(image)
    if isinstance(quality, bool) or not isinstance(quality, int | np.integer) or not 1 <= quality <= 95:
        raise ValueError(f"quality must be a whole number from 1 to 95, found {quality!r}")
    _check_sides(image, "jpeg_compress", _MOST_OF_JPEG)
    # OpenCV takes blue, green, red: handed red first, it would keep blue at full resolution in red's place.
    given = image if image.ndim == 2 else image[..., ::-1]
    _, data = cv2.imencode(".jpg", np.ascontiguousarray(given), [cv2.IMWRITE_JPEG_QUALITY, int(quality)])
    back = np.asarray(cv2.imdecode(data, cv2.IMREAD_GRAYSCALE if image.ndim == 2 else cv2.IMREAD_COLOR), np.uint8)
    return np.ascontiguousarray(back if image.ndim == 2 else back[..., ::-1])


def vignette(image: NDArray[Any], strength: float = 0.3) -> NDArray[Any]:
    """Darker towards the corners, as a lens makes it: the light falls by cos⁴ of the angle it comes from.

    image: uint16 and float32 are taken as well, and keep their type.
    strength: tan² of that angle in the corners, 0 or more: they keep 1 / (1 + strength)² of their light; 0.3 leaves
        59 %. The centre, one pixel or the two or four around it, is unchanged.

    Raises ValueError for another strength, TypeError for another type.
    """
    _check(image, types=("uint8", "uint16", "float32"))
    _check_amount("strength", strength, least=0.0)
    height, width = image.shape[:2]
    y, x = _from_centre(height), _from_centre(width)
    corner = float(y[0] ** 2 + x[0] ** 2) or 1.0
    result = np.empty_like(image)
    for rows in (box.rows for box in row_boxes(Size(height, width), _BAND)):
        far = (y[rows, None] ** 2 + x**2) * (strength / corner)
        gain = (1.0 / (1.0 + far) ** 2).astype(np.float32)
        light = image[rows] * (gain if image.ndim == 2 else gain[..., None])
        result[rows] = light if image.dtype == np.float32 else np.rint(light)
    return result


def exposure_drift(
    image: Pixels,
    ev_range: float | tuple[float, float] = 0.5,
    *,
    rng: np.random.Generator | int,
    at_ends: bool = False,
) -> Pixels:
    """More or less light: all values times 2 to the power of a drawn number of stops; what exceeds 255 is cut.

    ev_range: stops, from -ev_range to ev_range, or a pair (lowest, highest). at_ends: draw one of the two ends, not
        a value between them.

    Raises ValueError for a negative number, a pair that is not in order, and for more than 64 stops.
    """
    low, high = _range("ev_range", ev_range, around=0.0)
    if max(-low, high) > _MOST_STOPS:
        raise ValueError(f"ev_range must lie within {_MOST_STOPS} stops, found {ev_range!r}")
    _check(image)
    stops = _drawn(_generator(rng), low, high, at_ends=at_ends)
    return _looked_up(image, [2.0**stops])


def random_channel_gain(
    image: Pixels,
    gain_range: float | tuple[float, float] = 0.1,
    *,
    rng: np.random.Generator | int,
    at_ends: bool = False,
) -> Pixels:
    """Another white balance: each of red, green and blue times a factor of its own. Grey images are unchanged.

    gain_range: factors from 1 - gain_range to 1 + gain_range, or a pair (lowest, highest) above 0. at_ends: each factor
        is one of the two ends, and not all three the same.

    Raises ValueError for a number outside 0 to below 1, a pair that is not in order, or not above 0.
    """
    low, high = _range("gain_range", gain_range, around=1.0)
    if not (low > 0 and math.isfinite(high)):
        raise ValueError(f"gain_range must be from 0 to below 1, or two numbers above 0, found {gain_range!r}")
    _check(image)
    generator = _generator(rng)
    if image.ndim == 2:
        return image.copy()
    if at_ends:
        chosen = int(generator.integers(1, 7))  # one bit a channel, neither none nor all of them
        gains = [high if chosen >> channel & 1 else low for channel in range(3)]
    else:
        gains = generator.uniform(low, high, 3).tolist()
    return _looked_up(image, gains)


def blur(image: Pixels, sigma: float = 1.0) -> Pixels:
    """Out of focus: a Gaussian of this standard deviation, in pixels of the image, 0 or more. Borders are reflected.

    Raises ValueError for another sigma.
    """
    import cv2

    _check(image)
    _check_amount("sigma", sigma, least=0.0)
    if sigma == 0:
        return image.copy()
    given = np.ascontiguousarray(image)
    blurred = cv2.GaussianBlur(given, (0, 0), float(sigma), borderType=cv2.BORDER_REFLECT_101)
    return np.asarray(blurred, dtype=np.uint8)


def motion_blur(image: Pixels, length: float = 5.0, *, rng: np.random.Generator | int) -> Pixels:
    """A part that moves while the shutter is open: the mean along a line, in a drawn direction. Borders are reflected.

    length: of the line, in pixels, 1 (unchanged) or more. Raises ValueError for another.
    """
    import cv2

    _check(image)
    _check_amount("length", length, least=1.0)
    direction = float(_generator(rng).uniform(0.0, math.pi))
    given = np.ascontiguousarray(image)
    moved = cv2.filter2D(given, -1, _line(length, direction), borderType=cv2.BORDER_REFLECT_101)
    return np.asarray(moved, dtype=np.uint8)


def noise(image: Pixels, sigma: float = 5.0, *, rng: np.random.Generator | int) -> Pixels:
    """Noise of the sensor: each value plus a normal number of this standard deviation, in grey levels of 255.

    sigma: 0 or more. Raises ValueError for another.
    """
    _check(image)
    _check_amount("sigma", sigma, least=0.0)
    generator = _generator(rng)
    result = np.empty_like(image)
    for rows in (box.rows for box in row_boxes(Size(*image.shape[:2]), _BAND)):
        values = generator.standard_normal(image[rows].shape, dtype=np.float32) * np.float32(sigma) + image[rows]
        result[rows] = np.clip(np.rint(values), 0, 255)
    return result


def rotate_shift(
    image: Pixels,
    degrees: float = 1.0,
    shift: float = 0.01,
    *,
    rng: np.random.Generator | int,
    at_ends: bool = False,
    is_mask: bool = False,
) -> Pixels:
    """A part that lies a little otherwise: turned about the centre and moved. Borders are reflected.

    degrees: turned by -degrees to degrees, at most 180. shift: moved by up to this share of the shorter side, at most
        0.5, in a drawn direction. at_ends: by exactly that angle, to either side, and exactly that far.
    is_mask: each pixel gets the value of its nearest, none between two: the mask of an image that is given the same
        seed and amounts moves with it. An image is interpolated linearly.

    Raises ValueError for other amounts, DataError for an image of more than 32767 pixels a side: OpenCV turns no more.
    """
    import cv2

    _check(image)
    _check_amount("degrees", degrees, least=0.0, most=180.0)
    _check_amount("shift", shift, least=0.0, most=0.5)
    _check_sides(image, "rotate_shift", _MOST_WARPED)
    generator = _generator(rng)
    angle = _drawn(generator, -degrees, degrees, at_ends=at_ends)
    direction = float(generator.uniform(0.0, 2 * math.pi))
    height, width = image.shape[:2]
    far = (shift if at_ends else float(generator.uniform(0.0, shift))) * min(height, width)
    # OpenCV takes (x, y) and (width, height).
    matrix = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), angle, 1.0)
    matrix[:, 2] += (far * math.cos(direction), far * math.sin(direction))
    flags = cv2.INTER_NEAREST if is_mask else cv2.INTER_LINEAR
    given = np.ascontiguousarray(image)
    moved = cv2.warpAffine(given, matrix, (width, height), flags=flags, borderMode=cv2.BORDER_REFLECT_101)
    return np.asarray(moved, dtype=np.uint8)


# The functions of `uadctl.spec.corruptions.AUGMENTATIONS`: those that draw nothing, those that draw, those whose drawn
# amount has ends, and those that move pixels, and masks with them.
_FIXED: Final[dict[str, Callable[..., Pixels]]] = {"jpeg_compress": jpeg_compress, "vignette": vignette, "blur": blur}
_DRAWING: Final[dict[str, Callable[..., Pixels]]] = {"motion_blur": motion_blur, "noise": noise}
_RANGED: Final[dict[str, Callable[..., Pixels]]] = {
    "exposure_drift": exposure_drift,
    "random_channel_gain": random_channel_gain,
    "rotate_shift": rotate_shift,
}
_MOVING: Final = {"rotate_shift": rotate_shift}


def apply_steps(
    image: Pixels,
    steps: Sequence[Step],
    *,
    rng: np.random.Generator | int,
    mask: Pixels | None = None,
    at_ends: bool = False,
) -> tuple[Pixels, Pixels | None]:
    """Do steps of `uadctl.spec.corruptions.AUGMENTATIONS` in order. The same seed gives the same bytes.

    mask: (H, W) uint8; it moves with its image (`move_mask`). at_ends: amounts that are drawn from a range are drawn
        from its two ends: as strong as the step says, in a drawn direction.

    Each step draws from a seed of its own, so that what one of them draws does not depend on the others' sizes.
    Returns the image and the mask, new arrays. Raises ValueError for an unknown step, and where the mask has another
    size, DataError for an image that is too large for a step.
    """
    _check(image)
    if mask is not None and mask.shape != image.shape[:2]:
        raise ValueError(f"the mask is {mask.shape}, its image is {image.shape[:2]} (height, width)")
    seeded = _seeded(steps, rng)
    result = image.copy()
    for step, seed in seeded:
        result = _applied(result, step, seed, at_ends=at_ends)
    return result, None if mask is None else _moved(mask, seeded, at_ends=at_ends)


def move_mask(mask: Pixels, steps: Sequence[Step], *, rng: np.random.Generator | int, at_ends: bool = False) -> Pixels:
    """A mask where its image has its pixels after `apply_steps` with the same steps, seed and `at_ends`.

    mask: (H, W) uint8. Returns a new array. Raises ValueError as `apply_steps`.
    """
    _check(mask)
    return _moved(mask, _seeded(steps, rng), at_ends=at_ends)


# What `get_industrial_camera_robust_augmentation` draws from: step, parameter, least and most. In the order in which
# light comes: the part, the lens, the shutter, the sensor, the file.
_ROBUST: Final[tuple[tuple[str, tuple[tuple[str, float, float], ...]], ...]] = (
    ("rotate_shift", (("degrees", 0.0, 1.0), ("shift", 0.0, 0.01))),
    ("vignette", (("strength", 0.0, 0.3),)),
    ("exposure_drift", (("ev_range", 0.0, 0.3),)),
    ("random_channel_gain", (("gain_range", 0.0, 0.08),)),
    ("blur", (("sigma", 0.0, 1.0),)),
    ("noise", (("sigma", 0.0, 4.0),)),
    ("jpeg_compress", (("quality", 60, 95),)),
)


def get_industrial_camera_robust_augmentation(
    seed: int | np.random.Generator = 0,
) -> Callable[[Pixels], Pixels]:
    """What a camera on a line does to itself within months, as a function of an image that draws anew at each call.

    Each of movement, vignette, exposure, channel gain, blur, noise and JPEG is done with probability 1/2, in this
    order and with an amount drawn for the call: an image in 128 stays as it is. Amounts are small: a good part stays a
    good part.

    seed: the calls of two functions made with the same one give the same bytes, in the same order. Not for several
        threads at once.

    Returns a function of (H, W) or (H, W, 3) uint8 to a new array of the same shape.
    """
    generator = _generator(seed)

    def augment(image: Pixels) -> Pixels:
        return apply_steps(image, _drawn_steps(generator), rng=generator)[0]

    return augment


def _drawn_steps(generator: np.random.Generator) -> list[Step]:
    steps = []
    for name, parameters in _ROBUST:
        drawn = bool(generator.integers(2))
        params: list[tuple[str, float | int | str]] = []
        for parameter, low, high in parameters:
            if isinstance(low, int):
                params.append((parameter, int(generator.integers(low, int(high) + 1))))
            else:
                params.append((parameter, float(generator.uniform(low, high))))
        if drawn:
            steps.append(Step(name, tuple(params)))
    return steps


# -- steps


def _seeded(steps: Sequence[Step], rng: np.random.Generator | int) -> list[tuple[Step, int]]:
    seeds = _generator(rng).integers(2**63, size=len(steps)).tolist()
    return list(zip(steps, seeds, strict=True))


def _applied(image: Pixels, step: Step, seed: int, *, at_ends: bool) -> Pixels:
    params: dict[str, Any] = dict(step.params)
    if step.name in _FIXED:
        return _FIXED[step.name](image, **params)
    if step.name in _DRAWING:
        return _DRAWING[step.name](image, **params, rng=seed)
    if step.name in _RANGED:
        return _RANGED[step.name](image, **params, rng=seed, at_ends=at_ends)
    raise ValueError(f"no such step: {step.name}; expected one of {', '.join(sorted(_FIXED | _DRAWING | _RANGED))}")


def _moved(mask: Pixels, seeded: Sequence[tuple[Step, int]], *, at_ends: bool) -> Pixels:
    result = mask.copy()
    for step, seed in seeded:
        if step.name in _MOVING:
            params: dict[str, Any] = dict(step.params)
            result = _MOVING[step.name](result, **params, rng=seed, at_ends=at_ends, is_mask=True)
    return result


# -- parts of the operations


def _from_centre(length: int) -> NDArray[np.float64]:
    """(length,) how far each pixel is from the middle one, or from the nearer of the two middle ones."""
    centre = 0.5 if length % 2 == 0 else 0.0
    return np.asarray(np.abs(np.arange(length) - (length - 1) / 2) - centre, dtype=np.float64)


def _looked_up(image: Pixels, gains: Sequence[float]) -> Pixels:
    """Values times a gain, rounded and cut at 255. gains: one for all, or one a channel."""
    values = np.arange(256)
    tables = [np.clip(np.rint(values * gain), 0, 255).astype(np.uint8) for gain in gains]
    if len(tables) == 1:
        return np.asarray(tables[0][image], dtype=np.uint8)
    return np.stack([table[image[..., channel]] for channel, table in enumerate(tables)], axis=-1)


def _line(length: float, direction: float) -> NDArray[np.float32]:
    """(n, n) weights of sum 1: a line of this length through the middle, its points shared among the pixels around."""
    reach = math.ceil((length - 1) / 2)
    points = np.linspace(-(length - 1) / 2, (length - 1) / 2, 16 * reach + 1)
    side = 2 * reach + 3  # a pixel more than it reaches: points lie between pixels
    kernel = np.zeros((side, side))
    y, x = points * math.sin(direction) + reach + 1, points * math.cos(direction) + reach + 1
    top, left = np.floor(y).astype(int), np.floor(x).astype(int)
    for dy, along_y in ((0, 1 - (y - top)), (1, y - top)):
        for dx, along_x in ((0, 1 - (x - left)), (1, x - left)):
            np.add.at(kernel, (np.minimum(top + dy, side - 1), np.minimum(left + dx, side - 1)), along_y * along_x)
    return np.asarray(kernel / kernel.sum(), dtype=np.float32)


def _drawn(generator: np.random.Generator, low: float, high: float, *, at_ends: bool) -> float:
    if at_ends:
        return high if generator.integers(2) else low
    return float(generator.uniform(low, high))


def _generator(rng: np.random.Generator | int) -> np.random.Generator:
    """TypeError for anything else: of None numpy would make another seed each time."""
    if isinstance(rng, bool) or not isinstance(rng, np.random.Generator | int | np.integer):
        raise TypeError(f"rng must be a numpy Generator or an int, found {type(rng).__name__}")
    return np.random.default_rng(rng)


# -- checks


def _check(image: NDArray[Any], *, types: Sequence[str] = ("uint8",)) -> None:
    if image.dtype.name not in types:
        raise TypeError(f"an image must be {' or '.join(types)}, found {image.dtype}")
    if not (image.ndim == 2 or (image.ndim == 3 and image.shape[2] == 3)) or image.size == 0:
        raise ValueError(f"an image must be a non-empty (H, W) or (H, W, 3) array, found {image.shape}")


def _check_sides(image: NDArray[Any], step: str, most: int) -> None:
    if max(image.shape[:2]) > most:
        size = Size(*image.shape[:2])
        raise DataError(
            f"{size} (height x width) is too large for {step}, which takes at most {most} pixels a side",
            help=f"Leave {step} out of [augment] and [robustness], or take smaller images.",
        )


def _check_amount(name: str, value: float, *, least: float, most: float = math.inf) -> None:
    if not (least <= value <= most and math.isfinite(value)):
        wanted = f"{least:g} or more" if most == math.inf else f"from {least:g} to {most:g}"
        raise ValueError(f"{name} must be {wanted}, found {value!r}")


def _range(name: str, given: float | tuple[float, float], *, around: float) -> tuple[float, float]:
    """Both ends: of a pair, or as far on either side of `around` as a number says."""
    if isinstance(given, int | float | np.number):
        amount = float(given)
        if not (amount >= 0 and math.isfinite(amount)):
            raise ValueError(f"{name} must be 0 or more, or a pair (lowest, highest), found {given!r}")
        return around - amount, around + amount
    if len(given) != 2:
        raise ValueError(f"{name} must be 0 or more, or a pair (lowest, highest), found {given!r}")
    low, high = (float(end) for end in given)
    if not (low <= high and math.isfinite(low) and math.isfinite(high)):
        raise ValueError(f"{name} must be a pair (lowest, highest) of finite numbers, found {given!r}")
    return low, high
