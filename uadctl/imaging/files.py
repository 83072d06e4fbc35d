"""Image files to arrays and back: one decoder for every stage, which refuses what it cannot read whole.

Every problem is a DataError that starts with the path as given; nothing is printed, and no picture is made up.
"""

from __future__ import annotations

import io
import os
import stat
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np

from uadctl.atomic import write_bytes
from uadctl.errors import DataError
from uadctl.imaging.formats import IMAGE_SUFFIXES, BrokenImage, Header, kind_of, read_header
from uadctl.imaging.listing import list_images
from uadctl.records import Size

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = [
    "IMAGE_SUFFIXES",
    "MAX_PIXELS",
    "MAX_FILE_BYTES",
    "list_images",
    "read_image",
    "read_mask",
    "read_mask_values",
    "image_size",
    "read_map",
    "read_stored_map",
    "read_stored_png",
    "write_map",
    "write_png",
]

MAX_PIXELS = 1 << 28
"""Larger images are refused from their header, before memory is spent: 268 million pixels (16384x16384)."""

MAX_FILE_BYTES = (1 << 31) - 1
"""OpenCV addresses the bytes of a file with 32 bits."""

LARGEST_FLOAT16 = 65504.0
"""The largest finite number of 16 bits (IEEE 754-2019, binary16)."""

PathLike: TypeAlias = "str | os.PathLike[str]"


def read_image(source: PathLike | NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Decode an image to RGB, upright, 8 bits a channel.

    source: a PNG, JPEG, BMP, TIFF or WebP file (by content, whatever its name), or an (H, W, 3) uint8 RGB array, which
    is returned as it is.

    Exif orientation is applied. Grey becomes three equal channels. 16 bits become 8 by the full range of the type
    (value / 257, rounded): 12-bit data in a 16-bit file stay dark. Float TIFFs must lie in [0, 1]. Alpha is dropped,
    the colours under it are kept as stored. Of files with several pages or frames, the first is read. CMYK JPEGs are
    converted the way OpenCV does it, without colour profiles.

    Returns an (H, W, 3) uint8 array. Raises DataError naming the file where it is missing, not an image, cut off,
    damaged, larger than MAX_PIXELS or of a kind that is not read; for arrays TypeError (not uint8) or ValueError
    (not (H, W, 3), or empty).
    """
    if isinstance(source, np.ndarray):
        return _checked_array(source)
    with _named(source):
        return _to_rgb8(_decode(_read_bytes(source)))


def read_mask(paths: Sequence[PathLike], *, size: Size | tuple[int, int] | None = None) -> NDArray[np.uint8]:
    """Read ground truth: a pixel is a defect iff its value is above 0 in any of the files.

    The rule is the same at any bit depth; a palette pixel counts by its colour, an RGB pixel by any channel, and alpha
    never counts. (So 0/255, 0/1 and class-number masks mean the same. A mask saved as JPEG has compression noise
    around its defects, which counts too.)

    paths: one file or more of one defect image; the union is returned.
    size:  the height and width that the mask must have, as displayed; None accepts any.

    Returns an (H, W) uint8 array of 0 and 1. Raises DataError naming the file that cannot be read or has another size,
    ValueError where `paths` is empty.
    """
    if not paths:
        raise ValueError("read_mask needs at least one mask file")
    expected = None if size is None else Size(*size)
    whose = "its image"
    union: NDArray[Any] | None = None
    for path in paths:
        pixels = _mask_pixels(path)
        _check_mask_size(path, pixels, expected, whose)
        if expected is None:
            expected, whose = Size(*pixels.shape[:2]), f"{_name(path)}, a mask of the same image,"
        defect: NDArray[Any] = np.asarray(pixels > 0)
        if defect.ndim == 3:
            defect = np.asarray(defect.any(axis=2))
        union = defect if union is None else union | defect
    return np.asarray(union, dtype=np.uint8)


def read_mask_values(path: PathLike, *, size: Size | tuple[int, int] | None = None) -> NDArray[Any]:
    """Read a mask whose values have a meaning, such as the number of a kind of defect.

    size: the height and width that it must have, as displayed; None accepts any.

    Returns an (H, W) array of the values as stored, upright, in the type they are stored in; of a palette or an RGB
    image the grey value. Raises DataError as `read_mask` does, and where a pixel is coloured.
    """
    pixels = _mask_pixels(path)
    _check_mask_size(path, pixels, None if size is None else Size(*size), "its image")
    if pixels.ndim == 3:
        grey = pixels[..., 0]
        if not bool((pixels == grey[..., np.newaxis]).all()):
            raise DataError(f"{_name(path)} has coloured pixels, expected grey ones: their value has a meaning")
        pixels = grey
    return pixels


def _mask_pixels(path: PathLike) -> NDArray[Any]:
    with _named(path):
        pixels = _decode(_read_bytes(path), mask=True)
        if pixels.dtype.kind == "f" and not bool(np.isfinite(pixels).all()):
            raise BrokenImage("the mask has pixels that are NaN or infinite")
        return pixels


def _check_mask_size(path: PathLike, pixels: NDArray[Any], expected: Size | None, whose: str) -> None:
    found = Size(*pixels.shape[:2])
    if expected is not None and found != expected:
        raise DataError(
            f"{_name(path)} is {found}, {whose} is {expected} (height x width)",
            help="A mask must have the size of its image, as displayed.",
        )


def image_size(path: PathLike) -> Size:
    """The height and width of an image as displayed (after Exif orientation), without decoding its pixels.

    Raises DataError as `read_image` does, as far as that shows before decoding.
    """
    with _named(path):
        data = _read_bytes(path)
        if kind_of(data) == "TIFF":
            from uadctl.imaging.tiff import tiff_size

            size, orientation = tiff_size(data)
            return Size(size.width, size.height) if orientation >= 5 else size
        return read_header(data).size


def write_map(
    path: PathLike,
    anomaly_map: NDArray[np.floating[Any]],
    *,
    precision: Literal["float32", "float16"] = "float32",
    note: str | None = None,
) -> None:
    """Write an anomaly map as a float TIFF, atomically; NaN pixels are kept. Missing folders are made.

    Uncompressed on purpose. A smooth 900x900 map, upsampled from 32x32 (CPU time of one thread, tifffile 2026.3.3 and
    OpenCV 5.0): uncompressed 1 ms and 3.24 MB; zlib level 1 25 ms and 2.8 MB; zlib 1 with the float predictor 20 ms and
    1.1 to 2.0 MB; OpenCV's Deflate with that predictor 60 to 70 ms and 1.1 to 2.1 MB. Zlib alone saves an eighth at 25
    times the time, and the float predictor cannot be read by tifffile alone (it needs imagecodecs). The file holds no
    date: the same map gives the same bytes. tifffile, OpenCV and ImageJ read it.

    anomaly_map: (H, W) floats. precision: of the file; float16 rounds to 11 significant bits, fewer below 6.1e-5.
    note: ASCII text kept in the file, as its ImageDescription.

    Raises ValueError for another shape and for scores beyond float16, OSError where the file cannot be written.
    """
    import tifffile

    values = np.asarray(anomaly_map)
    if values.ndim != 2 or values.size == 0 or values.dtype.kind != "f":
        raise ValueError(f"a map must be a non-empty (H, W) float array, found {values.shape} {values.dtype}")
    # Comparisons with NaN are false: what was not looked at has no size.
    if precision == "float16" and bool((np.abs(values) > LARGEST_FLOAT16).any()):
        raise ValueError(f"a map of float16 holds scores from {-LARGEST_FLOAT16} to {LARGEST_FLOAT16}; found beyond")
    target = io.BytesIO()
    tifffile.imwrite(
        target,
        np.ascontiguousarray(values, dtype=np.dtype(precision)),
        photometric="minisblack",
        metadata=None,
        software="uadctl",
        description=note,
    )
    write_bytes(Path(path), target.getbuffer())


def read_map(path: PathLike) -> NDArray[np.float32]:
    """Read an anomaly map written by `write_map` (or any one-channel float TIFF).

    Returns (H, W) float32; NaN where the model did not look. Raises DataError naming the file.
    """
    with _named(path):
        data = _read_bytes(path)
        if kind_of(data) != "TIFF":
            raise BrokenImage("not a TIFF file, so no anomaly map")
        pixels = _decode(data)
        if pixels.ndim != 2 or pixels.dtype.kind != "f":
            raise BrokenImage(f"not an anomaly map: {pixels.shape} {pixels.dtype}, expected (H, W) float32")
        return pixels.astype(np.float32, copy=False)


def read_stored_map(path: PathLike) -> tuple[NDArray[Any], int]:
    """What a TIFF holds, as it is stored: its first page in whatever shape and type, and how many pages it has.

    For maps that other programs shall read: nothing is converted, turned upright or left out. Raises DataError naming
    a file that is no TIFF, or damaged.
    """
    with _named(path):
        data = _read_bytes(path)
        if kind_of(data) != "TIFF":
            raise BrokenImage("not a TIFF file, so no anomaly map")
        from uadctl.imaging.tiff import stored_page

        return stored_page(data, check=_check_pixels)


def read_stored_png(path: PathLike) -> NDArray[np.uint8]:
    """The (H, W) values of a PNG of one channel of 8 bits, as they are stored.

    Raises DataError naming a file that is damaged, no PNG, or a PNG of another kind.
    """
    with _named(path):
        data = _read_bytes(path)
        if kind_of(data) != "PNG":
            raise BrokenImage("not a PNG file")
        header = read_header(data)
        _check_pixels(header.stored)
        # The bytes after the size in the header, ISO/IEC 15948:2004, §11.2.2; OpenCV would hide the difference.
        bits, colours = data[24], data[25]
        if (bits, colours) != (8, 0):
            kind = {0: "one channel", 2: "RGB", 3: "a palette", 4: "one channel and alpha", 6: "RGB and alpha"}
            raise BrokenImage(
                f"a PNG with {kind.get(colours, 'unknown colours')} and {bits} bits; expected one channel and 8 bits"
            )
        pixels = _opencv_as_stored(header.payload)
        if pixels is None or pixels.shape != header.stored:
            raise BrokenImage("damaged, or a kind of PNG that OpenCV cannot decode")
        return np.asarray(pixels, dtype=np.uint8)


def write_png(path: PathLike, pixels: NDArray[np.uint8]) -> None:
    """Write an (H, W, 3) RGB or (H, W) grey uint8 array as PNG, atomically. Missing folders are made.

    Raises TypeError for another dtype, ValueError for another shape, OSError where the file cannot be written.
    """
    import cv2

    if pixels.dtype != np.uint8:
        raise TypeError(f"a PNG is written from uint8 pixels, found {pixels.dtype}")
    if pixels.size == 0 or not (pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[2] == 3)):
        raise ValueError(f"a PNG is written from an (H, W, 3) or (H, W) array, found {pixels.shape}")
    stored = pixels if pixels.ndim == 2 else cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR)
    done, encoded = cv2.imencode(".png", stored)
    if not done:
        raise ValueError(f"OpenCV cannot encode a {pixels.shape} array as PNG")
    write_bytes(Path(path), encoded.data)


def _name(path: PathLike) -> str:
    return os.fspath(path)


@contextmanager
def _named(path: PathLike) -> Iterator[None]:
    """Turn what goes wrong inside into a DataError that starts with the path as given."""
    try:
        yield
    except BrokenImage as error:
        raise DataError(f"{_name(path)}: {error}") from error
    except FileNotFoundError as error:
        raise DataError(f"{_name(path)}: no such file") from error
    except IsADirectoryError as error:
        raise DataError(f"{_name(path)}: is a folder, not an image file") from error
    except PermissionError as error:
        raise DataError(f"{_name(path)}: permission denied") from error
    except UnicodeEncodeError as error:
        raise DataError(f"{_name(path)!a}: no file can have this name") from error
    except OSError as error:
        raise DataError(f"{_name(path)}: cannot be read ({error.strerror or error})") from error
    except MemoryError as error:
        raise DataError(f"{_name(path)}: not enough memory to decode it") from error


def _read_bytes(path: PathLike) -> bytes:
    # Opened without waiting, so that a named pipe in an image folder is refused instead of stopping the run.
    def open_at_once(name: str, flags: int) -> int:
        return os.open(name, flags | getattr(os, "O_NONBLOCK", 0))

    if "\0" in os.fspath(path):
        raise BrokenImage("a file name cannot hold a null byte")
    with open(path, "rb", opener=open_at_once) as file:
        facts = os.fstat(file.fileno())
        if not stat.S_ISREG(facts.st_mode):
            raise BrokenImage("is not a regular file")
        if facts.st_size > MAX_FILE_BYTES:
            raise BrokenImage(f"the file has {facts.st_size} bytes, more than the {MAX_FILE_BYTES} that can be decoded")
        return file.read()


def _check_pixels(size: Size) -> None:
    if size.height * size.width > MAX_PIXELS:
        raise BrokenImage(f"{size} (height x width) is {size.height * size.width} pixels, more than {MAX_PIXELS}")


def _decode(data: bytes, *, mask: bool = False) -> NDArray[Any]:
    """Decode to the stored depth, upright: (H, W) or (H, W, 3) RGB (for a mask: the channels in any order)."""
    if kind_of(data) == "TIFF":
        from uadctl.imaging.tiff import read_tiff

        pixels, orientation = read_tiff(data, check=_check_pixels, opencv=_opencv_as_stored)
        return _upright(pixels, orientation)
    header = read_header(data)
    _check_pixels(header.stored)
    if mask:
        stored = _opencv_as_stored(header.payload)
        stored = None if stored is None else (stored if stored.ndim == 2 else stored[..., :3])
    else:
        stored = _opencv_rgb(header.payload)
    if stored is None or stored.shape[:2] != header.stored:
        raise BrokenImage(f"damaged, or a kind of {header.kind} that OpenCV cannot decode")
    if header.kind == "JPEG" and _ends_early(header, stored, mask=mask):
        raise BrokenImage("truncated: the JPEG's pixel data end before its last row")
    return _upright(stored, header.orientation)


def _ends_early(header: Header, stored: NDArray[Any], *, mask: bool) -> bool:
    # Pixel data that stop early, but with an end marker after them, are filled up with the mid-grey of zero
    # coefficients. Where the last pixel has that grey, further data before the end marker tell: a whole picture ignores
    # them, one that ends early decodes them.
    if not bool((stored[-1, -1] == 128).all()):
        return False
    longer = header.payload[:-2] + b"\x5a\xa5" * 64 + b"\xff\xd9"
    again = _opencv_as_stored(longer) if mask else _opencv_rgb(longer)
    return again is None or not np.array_equal(again, stored)


def _opencv_rgb(data: bytes) -> NDArray[Any] | None:
    import cv2

    # The orientation is applied by `_upright`: which formats OpenCV turns differs between its versions.
    pixels = _imdecode(data, cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH | cv2.IMREAD_IGNORE_ORIENTATION)
    return None if pixels is None else cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB, dst=pixels)


def _opencv_as_stored(data: bytes) -> NDArray[Any] | None:
    import cv2

    return _imdecode(data, cv2.IMREAD_UNCHANGED)


def _imdecode(data: bytes, flags: int) -> NDArray[Any] | None:
    import cv2

    with _quiet_opencv():
        try:
            pixels: NDArray[Any] | None = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
        except cv2.error:
            return None
    return pixels


_quiet_lock = threading.Lock()
_quiet_depth = 0
_quiet_before = 0


@contextmanager
def _quiet_opencv() -> Iterator[None]:
    """Hold back OpenCV's log while any thread decodes; the level is the process's, so the last one out restores it."""
    from cv2.utils import logging as opencv_log

    global _quiet_depth, _quiet_before
    with _quiet_lock:
        if _quiet_depth == 0:
            _quiet_before = opencv_log.getLogLevel()
            opencv_log.setLogLevel(opencv_log.LOG_LEVEL_SILENT)
        _quiet_depth += 1
    try:
        yield
    finally:
        with _quiet_lock:
            _quiet_depth -= 1
            if _quiet_depth == 0:
                opencv_log.setLogLevel(_quiet_before)


def _upright(pixels: NDArray[Any], orientation: int) -> NDArray[Any]:
    if orientation == 1:
        return pixels
    turned = np.swapaxes(pixels, 0, 1) if orientation >= 5 else pixels
    # Exif 2.32, §4.6.4: where the stored row 0 and column 0 belong in the displayed image.
    if orientation in (3, 4, 7, 8):
        turned = turned[::-1]
    if orientation in (2, 3, 6, 7):
        turned = turned[:, ::-1]
    return np.ascontiguousarray(turned)


def _to_rgb8(pixels: NDArray[Any]) -> NDArray[np.uint8]:
    import cv2

    if pixels.dtype == np.uint16:
        pixels = cv2.convertScaleAbs(pixels, alpha=1 / 257)
    elif pixels.dtype.kind == "f":
        if not bool(np.isfinite(pixels).all()):
            raise BrokenImage("float pixels that are NaN or infinite")
        low, high = float(pixels.min()), float(pixels.max())
        if low < 0 or high > 1:
            raise BrokenImage(f"float pixels from {low:g} to {high:g}, expected 0 to 1")
        pixels = np.rint(pixels * 255).astype(np.uint8)
    elif pixels.dtype != np.uint8:
        raise BrokenImage(f"{pixels.dtype} pixels; uint8, uint16 and float in 0 to 1 are read")
    return np.asarray(pixels if pixels.ndim == 3 else cv2.cvtColor(pixels, cv2.COLOR_GRAY2RGB), dtype=np.uint8)


def _checked_array(pixels: NDArray[Any]) -> NDArray[np.uint8]:
    if pixels.dtype != np.uint8:
        raise TypeError(f"an image array must be uint8 RGB, found {pixels.dtype} of shape {pixels.shape}")
    if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.size == 0:
        raise ValueError(f"an image array must be (H, W, 3) RGB and not empty, found {pixels.shape}")
    return pixels
