"""TIFF files: a container for nearly anything, so what it holds is looked at before it is believed.

tifffile reads what it can read by itself (uncompressed, Deflate, PackBits), because it refuses a strip that decodes to
too few bytes, where OpenCV logs a line and hands out the picture. The rest (LZW, JPEG, fax) goes to OpenCV, except
for the combinations that OpenCV 5.0 was found to decode to wrong colours, which are refused.
"""

from __future__ import annotations

import io
import logging
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from uadctl.imaging.formats import BrokenImage
from uadctl.records import Size

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

# What parsing a damaged TIFF was seen to raise, in tifffile, struct, zlib and numpy.
_PARSING = (ValueError, LookupError, TypeError, ArithmeticError, AttributeError, RuntimeError, OSError, MemoryError)
_PLAIN_CODECS = (1, 8, 32773, 32946)  # none, Deflate, PackBits, old Deflate
_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB, _PALETTE, _YCBCR = 0, 1, 2, 3, 6


def tiff_size(data: bytes) -> tuple[Size, int]:
    """The stored size and the orientation (1 to 8) of a TIFF's first page. Raises BrokenImage."""
    with _first_page(data) as page:
        return Size(page.imagelength, page.imagewidth), _orientation(page)


def read_tiff(
    data: bytes, *, check: Callable[[Size], None], opencv: Callable[[bytes], NDArray[Any] | None]
) -> tuple[NDArray[Any], int]:
    """Decode the first page of a TIFF in the depth it is stored in.

    check:  called with the stored size before memory is spent; raises to refuse it.
    opencv: decodes a file to BGR(A) or grey as stored, or None; used for the codecs that tifffile lacks.

    Returns the stored pixels, (H, W) grey or (H, W, 3) RGB with any alpha dropped, 1-bit as 0 and 255, a palette as
    its colours, "white is zero" inverted; and the orientation still to be applied. Raises BrokenImage.
    """
    with _first_page(data) as page:
        size = Size(page.imagelength, page.imagewidth)
        check(size)
        _check_kind(page)
        bits = int(page.bitspersample)
        if page.compression in _PLAIN_CODECS and page.predictor in (1, 2) and bits in (1, 8, 16, 32, 64):
            return _plain(page, size), _orientation(page)
        return _by_opencv(page, size, data, opencv), 1


def stored_page(data: bytes, *, check: Callable[[Size], None]) -> tuple[NDArray[Any], int]:
    """The first page of a TIFF exactly as it is stored, and the number of pages.

    check: called with the stored size before memory is spent; raises to refuse it. Raises BrokenImage.
    """
    with _first_page(data) as page:
        check(Size(page.imagelength, page.imagewidth))
        return np.asarray(page.asarray()), len(page.parent.pages)


@contextmanager
def _first_page(data: bytes) -> Iterator[Any]:
    import tifffile

    # tifffile logs what it finds odd; without a handler Python would print that on stderr.
    log = logging.getLogger("tifffile")
    if not any(isinstance(handler, logging.NullHandler) for handler in log.handlers):
        log.addHandler(logging.NullHandler())
    try:
        with tifffile.TiffFile(io.BytesIO(data)) as tiff:
            page = tiff.pages[0]
            _check_segments(page, len(data))
            yield page
    except BrokenImage:
        raise
    except (*_PARSING, struct.error, zlib.error) as error:
        raise BrokenImage(f"truncated or damaged TIFF ({_one_line(error)})") from error


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return text[:160] or type(error).__name__


def _orientation(page: Any) -> int:
    tag = page.tags.get(274)
    value = 1 if tag is None else tag.value
    return int(value) if isinstance(value, int) and 1 <= value <= 8 else 1


def _check_segments(page: Any, length: int) -> None:
    if page.imagelength < 1 or page.imagewidth < 1:
        raise BrokenImage(f"the image has no pixels ({page.imagelength}x{page.imagewidth}, height x width)")
    if page.imagedepth != 1:
        raise BrokenImage("a TIFF with depth (a volume) is no image")
    offsets, counts = page.dataoffsets, page.databytecounts
    expected = prod(page.chunked)
    if len(offsets) != expected or len(counts) != expected:
        raise BrokenImage(f"damaged: the TIFF has {min(len(offsets), len(counts))} strips or tiles of {expected}")
    for number, (offset, count) in enumerate(zip(offsets, counts, strict=True), start=1):
        if offset <= 0 or count <= 0 or offset + count > length:
            raise BrokenImage(
                f"truncated: strip or tile {number} of {expected} of the TIFF lies outside the file's {length} bytes"
            )


def _check_kind(page: Any) -> None:
    photometric, samples = page.photometric, page.samplesperpixel
    if photometric not in (_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB, _PALETTE, _YCBCR):
        name = getattr(photometric, "name", photometric)
        raise BrokenImage(f"a TIFF with {name} colours is not read; save it as RGB or grey")
    most = 2 if photometric in (_WHITE_IS_ZERO, _BLACK_IS_ZERO) else 4
    least = 3 if photometric in (_RGB, _YCBCR) else 1
    if not least <= samples <= most:
        raise BrokenImage(f"a TIFF with {samples} samples a pixel is not read; save it as RGB or grey")
    if page.dtype is None:
        raise BrokenImage(f"a TIFF with {page.bitspersample} bits a sample is not read")


def _plain(page: Any, size: Size) -> NDArray[Any]:
    stored = np.asarray(page.asarray())
    if stored.dtype.byteorder == ">":
        stored = stored.astype(stored.dtype.newbyteorder("="))
    if page.samplesperpixel > 1 and page.planarconfig == 2:
        stored = np.moveaxis(stored, 0, -1)
    if stored.shape[:2] != size:
        raise BrokenImage(f"damaged: the TIFF states {size} pixels (height x width) and holds {stored.shape}")
    if page.photometric == _PALETTE:
        return _colours(page.colormap, stored if stored.ndim == 2 else stored[..., 0])
    white_is_zero = page.photometric == _WHITE_IS_ZERO
    if stored.dtype == np.bool_:
        stored = stored.astype(np.uint8) * np.uint8(255)
        # tifffile marks every bool array as "white is zero" without turning it round: there True is meant as stored.
        white_is_zero = white_is_zero and not str(page.software).startswith("tifffile")
    if white_is_zero:
        if stored.dtype.kind != "u":
            raise BrokenImage("a TIFF of signed or float pixels where white is zero is not read")
        stored = np.iinfo(stored.dtype).max - stored
    if stored.ndim == 3:
        stored = stored[..., :3] if page.photometric == _RGB else stored[..., 0]
    return np.ascontiguousarray(stored)


def _colours(table: NDArray[np.uint16] | None, indices: NDArray[Any]) -> NDArray[np.uint8]:
    if table is None:
        raise BrokenImage("damaged: the palette TIFF has no colours")
    # The standard's colours have 16 bits: some writers scale 8-bit values by 257, some by 256, some not at all. The
    # high byte is right for the first two.
    colours = (table if int(table.max(initial=0)) < 256 else table >> 8).astype(np.uint8).T
    return np.ascontiguousarray(colours[indices.astype(np.intp)])


def _by_opencv(page: Any, size: Size, data: bytes, opencv: Callable[[bytes], NDArray[Any] | None]) -> NDArray[Any]:
    codec = getattr(page.compression, "name", page.compression)
    advice = f"a TIFF with {codec} compression and {page.bitspersample} bits"
    if page.bitspersample > 8 and (
        (page.planarconfig == 2 and page.samplesperpixel > 1) or page.photometric in (_WHITE_IS_ZERO, _PALETTE)
    ):
        raise BrokenImage(f"{advice} in this arrangement is not read; save it uncompressed or as PNG")
    stored = opencv(data)
    displayed = Size(size.width, size.height) if _orientation(page) >= 5 else size
    if stored is None or stored.shape[:2] != displayed:
        raise BrokenImage(f"{advice} that OpenCV cannot decode; save it uncompressed or as PNG")
    if stored.ndim == 3 and stored.shape[2] == 4:
        # OpenCV has multiplied 8-bit colours by the alpha here: right only where all is opaque.
        if stored.dtype == np.uint8 and not bool((stored[..., 3] == 255).all()):
            raise BrokenImage(f"{advice} that is partly transparent is not read; save it uncompressed or as PNG")
        stored = stored[..., :3]
    if stored.ndim == 3 and stored.shape[2] == 3:
        stored = stored[..., ::-1]
    return np.ascontiguousarray(stored)
