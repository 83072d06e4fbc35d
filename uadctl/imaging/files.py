"""Image files to arrays and back: one decoder for every stage, which refuses what it cannot read whole.

Every problem is a DataError that starts with the path as given; nothing is printed, and no picture is made up.
"""

from __future__ import annotations

import functools
import io
import os
import re
import shutil
import struct
import threading
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Literal, TypeAlias

import numpy as np

from uadctl.atomic import replacing, write_bytes
from uadctl.errors import DataError
from uadctl.imaging.formats import IMAGE_SUFFIXES, BrokenImage, Header, kind_of, read_header, scan_start
from uadctl.imaging.listing import list_images
from uadctl.imaging.overheard import listening
from uadctl.imaging.rows import RawLayout, RegularFile, plain_pixels
from uadctl.records import Box, Size

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from uadctl.imaging.raster import Field, StoredMap, Window

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
    "write_png_rows",
]

MAX_PIXELS = 1 << 28
"""Larger images are refused from their header, before memory is spent: 268 million pixels (16384x16384)."""

MAX_FILE_BYTES = (1 << 31) - 1
"""OpenCV addresses the bytes of a file with 32 bits."""

_ALWAYS_GRANTED = 3 * MAX_PIXELS
"""Any file may decode to so many bytes: an image of MAX_PIXELS, 8 bits a channel, blank or not. One of more (16 bits,
alpha) must be worth it: ..."""

_GRANTED_PER_BYTE = 256
"""... so many bytes for each byte of the file. Deflate packs nothing but zeros to a thousandth; a picture of anything,
with a camera's noise, to a fiftieth at the best."""

LARGEST_FLOAT16 = 65504.0
"""The largest finite number of 16 bits (IEEE 754-2019, binary16)."""

PathLike: TypeAlias = "str | os.PathLike[str]"

_WAY_OUT = (
    "A larger image is read region by region where it is cut into tiles ([tiling] size, or --tile-size) and its file "
    "is a TIFF of tiles or strips (uncompressed, Deflate or PackBits), .npy or .raw."
)
_MASK_WAY_OUT = "Save a larger mask as a TIFF of tiles (uncompressed or Deflate): it is read region by region."

# So many values are converted at a time, where that takes memory beside them.
_CONVERTED = 1 << 20


def read_image(
    source: PathLike | NDArray[np.uint8], *, window: Window | None = None, raw: RawLayout | None = None
) -> NDArray[np.uint8]:
    """Decode an image to RGB, upright, 8 bits a channel.

    source: a PNG, JPEG, BMP, TIFF, WebP or .npy file (by content, whatever its name), a headerless *.raw file, or an
            (H, W, 3) uint8 RGB array, which is returned as it is where no window is given.
    window: the stored values that become 0 and 255: what lies between is scaled and rounded, what lies beyond cut.
            None: the full range of the type.
    raw:    the layout of files named *.raw.

    Exif orientation is applied. Grey becomes three equal channels. Without a window 16 bits become 8 by the full range
    of the type (value / 257, rounded): 12-bit data in a 16-bit file stay dark; floats must lie in [0, 1]. With one,
    floats may be any but NaN and infinity. Alpha is dropped, the colours under it are kept as stored. A file with
    several frames, or pages of one size, is refused: the others would not be looked at. Of a TIFF with pages of other
    sizes, and of a JPEG with pictures after the first, the first is read. CMYK JPEGs are converted the way OpenCV does
    it, without colour profiles. Where the GNU C library is, a JPEG is refused whose decoder says that it had to make up
    a part: its data have no checksum, so that damage it does not notice stays unnoticed. Padding that it passes over is
    no damage.

    Returns an (H, W, 3) uint8 array. Raises DataError naming the file where it is missing, not an image, cut off,
    damaged, larger than MAX_PIXELS or of a kind that is not read; for arrays TypeError (not uint8) or ValueError
    (not (H, W, 3), or empty).
    """
    if isinstance(source, np.ndarray):
        pixels = checked_array(source)
        return pixels if window is None else to_rgb8(pixels, window)
    with file_named(source):
        return to_rgb8(stored_pixels(source, raw=raw), window)


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
    union: NDArray[np.uint8] | None = None
    for path in paths:
        with file_named(path):
            defect = defect_pixels(stored_mask(path))
        found = Size(*defect.shape)
        check_mask_size(path, found, expected, whose)
        if expected is None:
            expected, whose = found, f"{_name(path)}, a mask of the same image,"
        union = defect if union is None else union | defect
    return np.asarray(union, dtype=np.uint8)


def read_mask_values(path: PathLike, *, size: Size | tuple[int, int] | None = None) -> NDArray[Any]:
    """Read a mask whose values have a meaning, such as the number of a kind of defect.

    size: the height and width that it must have, as displayed; None accepts any.

    Returns an (H, W) array of the values as stored, upright, in the type they are stored in; of a palette or an RGB
    image the grey value. Raises DataError as `read_mask` does, and where a pixel is coloured.
    """
    with file_named(path):
        pixels = stored_mask(path, way_out=None)
        _check_finite(pixels)
    check_mask_size(path, Size(*pixels.shape[:2]), None if size is None else Size(*size), "its image")
    if pixels.ndim == 3:
        grey = pixels[..., 0]
        if not bool((pixels == grey[..., np.newaxis]).all()):
            raise DataError(f"{_name(path)} has coloured pixels, expected grey ones: their value has a meaning")
        pixels = grey
    return pixels


def defect_pixels(pixels: NDArray[Any]) -> NDArray[np.uint8]:
    """(h, w) 0 and 1 of a mask's stored pixels, grey or in channels without alpha: the rule of `read_mask`.

    Each pixel for itself, so that a region gives what the whole does. Raises BrokenImage for NaN and infinity.
    """
    _check_finite(pixels)
    if pixels.ndim == 2:
        return np.asarray(pixels > 0).view(np.uint8)
    defect = pixels[..., 0] > 0
    for channel in range(1, pixels.shape[2]):
        defect |= pixels[..., channel] > 0
    return np.asarray(defect).view(np.uint8)


def _check_finite(pixels: NDArray[Any]) -> None:
    if pixels.dtype.kind == "f" and not bool(np.isfinite(pixels).all()):
        raise BrokenImage("the mask has pixels that are NaN or infinite")


def check_mask_size(path: PathLike, found: Size, expected: Size | None, whose: str) -> None:
    """DataError naming a mask of another size than `whose`, which is the expected one; None: any will do."""
    if expected is not None and found != expected:
        raise DataError(
            f"{_name(path)} is {found}, {whose} is {expected} (height x width)",
            help="A mask must have the size of its image, as displayed.",
        )


def image_size(path: PathLike, *, raw: RawLayout | None = None) -> Size:
    """The height and width of an image as displayed (after Exif orientation), without decoding its pixels.

    raw: the layout of files named *.raw. Raises DataError as `read_image` does, as far as that shows before decoding.
    """
    with file_named(path), RegularFile(path) as file:
        plain = plain_pixels(path, file, raw)
        if plain is not None:
            return plain.size
        if kind_of(file.read(0, min(16, file.length))) == "TIFF":
            from uadctl.imaging.tiff import tiff_size

            size, orientation = tiff_size(file)
            return Size(size.width, size.height) if orientation >= 5 else size
        return read_header(_whole(file)).size


def write_map(
    path: PathLike,
    anomaly_map: NDArray[np.floating[Any]] | Field,
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

    anomaly_map: (H, W) floats, or a map in a file, which is copied and stays: that file is a tiled BigTIFF.
    precision: of the file; float16 rounds to 11 significant bits, fewer below 6.1e-5.
    note: ASCII text kept in the file, as its ImageDescription.

    Raises ValueError for another shape and for scores beyond float16, OSError where the file cannot be written.
    """
    import tifffile

    from uadctl.imaging.raster import StoredMap

    if isinstance(anomaly_map, StoredMap):
        _write_stored(Path(path), anomaly_map, precision, note)
        return
    values = np.asarray(anomaly_map)
    if values.ndim != 2 or values.size == 0 or values.dtype.kind != "f":
        raise ValueError(f"a map must be a non-empty (H, W) float array, found {values.shape} {values.dtype}")
    if precision == "float16":
        check_float16(values)
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


def check_float16(scores: NDArray[np.floating[Any]]) -> None:
    """ValueError for scores that 16 bits cannot hold."""
    # Comparisons with NaN are false: what was not looked at has no size.
    if bool((np.abs(scores) > LARGEST_FLOAT16).any()):
        raise ValueError(f"a map of float16 holds scores from {-LARGEST_FLOAT16} to {LARGEST_FLOAT16}; found beyond")


def _write_stored(path: Path, stored: StoredMap, precision: Literal["float32", "float16"], note: str | None) -> None:
    from uadctl.imaging.raster import bands, write_tiled

    if precision == "float32" and note is None:
        with replacing(path) as temporary:
            shutil.copyfile(stored.path, temporary)
        return
    write_tiled(path, stored.size, (band for _, band in bands(stored)), precision=precision, note=note)


def read_map(path: PathLike) -> NDArray[np.float32]:
    """Read an anomaly map written by `write_map` (or any one-channel float TIFF).

    Returns (H, W) float32; NaN where the model did not look. Raises DataError naming the file.
    """
    with file_named(path):
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
    with file_named(path):
        data = _read_bytes(path)
        if kind_of(data) != "TIFF":
            raise BrokenImage("not a TIFF file, so no anomaly map")
        from uadctl.imaging.tiff import stored_page

        return stored_page(data, check=_check_pixels)


def read_stored_png(path: PathLike) -> NDArray[np.uint8]:
    """The (H, W) values of a PNG of one channel of 8 bits, as they are stored.

    Raises DataError naming a file that is damaged, no PNG, or a PNG of another kind.
    """
    with file_named(path):
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


def write_png_rows(path: PathLike, size: Size | tuple[int, int], rows: Iterable[NDArray[np.uint8]]) -> None:
    """Write a grey PNG as it grows, atomically: bands of whole rows from top to bottom, of any heights that add up.

    size: height and width. rows: (n, width) uint8 each. Memory is that of a band.

    Raises ValueError where the bands have another width or do not add up, TypeError for another dtype, OSError where
    the file cannot be written.
    """
    height, width = size
    if not (0 < height < 1 << 31 and 0 < width < 1 << 31):
        raise ValueError(f"a PNG of {height}x{width} pixels (height x width) cannot be written")
    with replacing(Path(path)) as temporary, temporary.open("wb") as stream:
        stream.write(b"\x89PNG\r\n\x1a\n")
        # One channel of 8 bits, not interlaced: ISO/IEC 15948:2004, §11.2.2.
        stream.write(_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)))
        packer = zlib.compressobj(1)
        done = 0
        for band in rows:
            if band.dtype != np.uint8:
                raise TypeError(f"a PNG is written from uint8 pixels, found {band.dtype}")
            done += check_band(band, Size(height, width), done)
            # Each row starts with the number of its filter; 0: none.
            unfiltered = np.zeros((len(band), width + 1), np.uint8)
            unfiltered[:, 1:] = band
            _write_pixels(stream, packer.compress(unfiltered.data))
        if done != height:
            raise ValueError(f"{done} rows of {height} were given")
        _write_pixels(stream, packer.flush())
        stream.write(_chunk(b"IEND", b""))


def check_band(band: NDArray[Any], size: Size, done: int) -> int:
    """The rows of a band, of which `done` came before. ValueError where it does not fit an image of this size."""
    if band.ndim != 2 or band.shape[1] != size.width or done + band.shape[0] > size.height:
        raise ValueError(
            f"a band of shape {band.shape} after {done} rows does not fit an image of {size} (height x width)"
        )
    return int(band.shape[0])


def _write_pixels(stream: BinaryIO, packed: bytes) -> None:
    if packed:
        stream.write(_chunk(b"IDAT", packed))


def _chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def _name(path: PathLike) -> str:
    return os.fspath(path)


@contextmanager
def file_named(path: PathLike) -> Iterator[None]:
    """Turn what goes wrong inside into a DataError that starts with the path as given."""
    try:
        yield
    except BrokenImage as error:
        raise DataError(f"{_name(path)}: {error}", help=error.help) from error
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


def stored_pixels(path: PathLike, *, raw: RawLayout | None = None) -> NDArray[Any]:
    """A whole file in the depth it is stored in, upright: (H, W) or (H, W, 3) RGB.

    raw: the layout of files named *.raw. Raises BrokenImage and OSError: see `file_named`.
    """
    return _stored(path, raw, mask=False, way_out=_WAY_OUT)


def stored_mask(path: PathLike, *, way_out: str | None = _MASK_WAY_OUT) -> NDArray[Any]:
    """As `stored_pixels`, but the channels in any order. way_out: the help where the mask is too large."""
    return _stored(path, None, mask=True, way_out=way_out)


def decoded_mask(data: bytes) -> NDArray[Any]:
    """As `stored_mask`, of a file's bytes: a PNG, JPEG, BMP, TIFF or WebP."""
    return _decode(data, mask=True, way_out=_MASK_WAY_OUT)


def _stored(path: PathLike, raw: RawLayout | None, *, mask: bool, way_out: str | None) -> NDArray[Any]:
    with RegularFile(path) as file:
        plain = plain_pixels(path, file, raw)
        if plain is not None:
            _check_pixels(plain.size, way_out)
            return plain.read(Box.whole(plain.size))
        if kind_of(file.read(0, min(16, file.length))) == "TIFF":
            from uadctl.imaging.tiff import open_regions

            regions = open_regions(file, whole=True)
            if regions is not None:
                _check_pixels(regions.size, way_out)
                _check_worth(regions.size, regions.pixel_bytes, file.length)
                return upright(regions.read(Box.whole(regions.size)), regions.orientation)
        data = _whole(file, way_out)
    return _decode(data, mask=mask, way_out=way_out)


def _read_bytes(path: PathLike) -> bytes:
    with RegularFile(path) as file:
        return _whole(file)


def _whole(file: RegularFile, way_out: str | None = _WAY_OUT) -> bytes:
    if file.length > MAX_FILE_BYTES:
        raise BrokenImage(
            f"the file has {file.length} bytes, more than the {MAX_FILE_BYTES} that can be decoded", help=way_out
        )
    return file.read(0, file.length)


def check_whole(size: Size) -> None:
    """Raise DataError for an image that is too large to be whole in memory, though it could be read in parts."""
    try:
        _check_pixels(size)
    except BrokenImage as error:
        raise DataError(str(error), help=error.help) from None


def _check_pixels(size: Size, way_out: str | None = _WAY_OUT) -> None:
    if size.height * size.width > MAX_PIXELS:
        raise BrokenImage(
            f"{size} (height x width) is {size.height * size.width} pixels, more than {MAX_PIXELS}", help=way_out
        )


def _check_worth(size: Size, pixel_bytes: int, length: int) -> None:
    """BrokenImage for a small file that decodes to more than any 8-bit image would: memory that no picture needs.

    pixel_bytes: of a decoded pixel. length: of the file.
    """
    needed = size.height * size.width * pixel_bytes
    if needed > max(_ALWAYS_GRANTED, _GRANTED_PER_BYTE * length):
        raise BrokenImage(
            f"{size} pixels (height x width) of {pixel_bytes} bytes decode to {needed} bytes, more than "
            f"{_ALWAYS_GRANTED}, and the file has only {length}",
            help="Save it with 8 bits and without alpha; or, where it is what it seems, uncompressed.",
        )


def _decode(data: bytes, *, mask: bool = False, way_out: str | None = _WAY_OUT) -> NDArray[Any]:
    """Decode to the stored depth, upright: (H, W) or (H, W, 3) RGB (for a mask: the channels in any order)."""
    if kind_of(data) == "TIFF":
        from uadctl.imaging.tiff import read_tiff

        check = functools.partial(_check_pixels, way_out=way_out)
        worth = functools.partial(_check_worth, length=len(data))
        pixels, orientation = read_tiff(data, check=check, worth=worth, opencv=_opencv_as_stored)
        return upright(pixels, orientation)
    header = read_header(data)
    _check_pixels(header.stored, way_out)
    if header.most is not None and header.stored.height * header.stored.width > header.most:
        raise BrokenImage(
            f"truncated: {header.stored} pixels (height x width) cannot be packed into {len(data)} bytes of "
            f"{header.kind}"
        )
    # An image is decoded to three channels whatever it has; a PNG of four is unpacked whole on the way.
    channels = header.channels if mask else max(3, header.channels)
    _check_worth(header.stored, channels * header.depth, len(data))
    if mask:
        stored = _opencv_as_stored(header.payload)
        stored = None if stored is None else (stored if stored.ndim == 2 else stored[..., :3])
    else:
        stored = _opencv_rgb(header.payload)
    if stored is None or stored.shape[:2] != header.stored:
        raise BrokenImage(f"damaged, or a kind of {header.kind} that OpenCV cannot decode")
    if header.kind == "JPEG" and _ends_early(header, stored, mask=mask):
        raise BrokenImage("truncated: the JPEG's pixel data end before its last row")
    return upright(stored, header.orientation)


def _ends_early(header: Header, stored: NDArray[Any], *, mask: bool) -> bool:
    # Pixel data that stop early, but with an end marker after them, are filled up with the mid-grey of zero
    # coefficients. Where the last pixel has that grey, further data before the end marker tell: a whole picture ignores
    # them, one that ends early decodes them.
    if not bool((stored[-1, -1] == 128).all()):
        return False
    longer = header.payload[:-2] + b"\x5a\xa5" * 64 + b"\xff\xd9"
    # Of these the decoder rightly says that they are too many.
    again = _opencv_as_stored(longer, believed=True) if mask else _opencv_rgb(longer, believed=True)
    return again is None or not np.array_equal(again, stored)


def _opencv_rgb(data: bytes, *, believed: bool = False) -> NDArray[Any] | None:
    import cv2

    # The orientation is applied by `_upright`: which formats OpenCV turns differs between its versions.
    pixels = _imdecode(data, cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH | cv2.IMREAD_IGNORE_ORIENTATION, believed=believed)
    if pixels is not None:
        # In place OpenCV turns a copy: of a band of rows that is little.
        at_once = max(1, _CONVERTED // pixels.shape[1])
        for first in range(0, len(pixels), at_once):
            band = pixels[first : first + at_once]
            cv2.cvtColor(band, cv2.COLOR_BGR2RGB, dst=band)
    return pixels


def _opencv_as_stored(data: bytes, *, believed: bool = False) -> NDArray[Any] | None:
    import cv2

    return _imdecode(data, cv2.IMREAD_UNCHANGED, believed=believed)


def _imdecode(data: bytes, flags: int, *, believed: bool) -> NDArray[Any] | None:
    """None where it cannot be decoded. BrokenImage where the decoder has doubts, unless the file is believed."""
    pixels, said = _heard(data, flags)
    if pixels is not None and not believed and not _only_padded(said, data, pixels, flags):
        _check_said(said)
    return pixels


def _heard(data: bytes, flags: int) -> tuple[NDArray[Any] | None, str]:
    """The pixels, None where it cannot be decoded; and what the decoder said."""
    import cv2

    def decoded() -> NDArray[Any] | None:
        try:
            pixels: NDArray[Any] | None = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
        except cv2.error:
            return None
        return pixels

    with _quiet_opencv():
        return listening(decoded)


def _check_said(said: str) -> None:
    """BrokenImage where libjpeg has made up a part of a picture, and has only said so (its jerror.h, 3.1.2)."""
    for line in said.splitlines():
        if line in _TOO_SHORT:
            raise BrokenImage("truncated: the JPEG's pixel data end before its last row")
        if line.startswith(_MADE_UP):
            raise BrokenImage(f"damaged: the decoder says: {line}")


def _only_padded(said: str, data: bytes, pixels: NDArray[Any], flags: int) -> bool:
    """Whether a JPEG's decoder complains of padding between its pixel data and a marker, and of nothing else."""
    found = [line for line in said.splitlines() if line.startswith(_MADE_UP)]
    surplus = _SURPLUS.fullmatch(found[0]) if found else None
    if surplus is None:
        return False
    if surplus[2] == "d9" and int(surplus[1]) <= _PADDING and len(set(data[-2 - int(surplus[1]) : -2])) == 1:
        return True  # some cameras fill up the last bytes, always with the same one
    # libjpeg speaks once only: what is wrong further on, it says of the file without the padding. Where the data
    # themselves end in a zero, it misses that zero and puts one in its place.
    again, then = _heard(_without_zeros(data), flags)
    told = {line for line in then.splitlines() if line.startswith(_MADE_UP)}
    return again is not None and np.array_equal(again, pixels) and told <= {_MISSED}


def _without_zeros(data: bytes) -> bytes:
    """A JPEG without the zeros before the markers of its pixel data."""
    start = scan_start(data)
    kept = [data[:start]]
    for found in _IN_SCAN.finditer(data, start):
        piece = data[start : found.start()]
        bare = piece.rstrip(b"\0")
        # A zero after 0xFF belongs to it.
        kept += [bare, b"\0" if bare.endswith(b"\xff") and len(bare) < len(piece) else b"", found[0]]
        start = found.end()
    return b"".join(kept)


# "Invalid SOS parameters" is not among them: what a sequential JPEG states there has no meaning (T.81, B.2.3).
_MADE_UP = ("Corrupt JPEG data", "Inconsistent progression", "Premature end of JPEG file")
_MISSED = "Corrupt JPEG data: premature end of data segment"
_TOO_SHORT = (_MISSED, "Premature end of JPEG file")
_SURPLUS = re.compile(r"Corrupt JPEG data: (\d+) extraneous bytes before marker 0x(\w\w)")
_PADDING = 16
_IN_SCAN = re.compile(rb"\xff++[\xd0-\xd7\xd9]")

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


def upright(pixels: NDArray[Any], orientation: int) -> NDArray[Any]:
    """Turn stored pixels as Exif orientation 1 to 8 says."""
    if orientation == 1:
        return pixels
    turned = np.swapaxes(pixels, 0, 1) if orientation >= 5 else pixels
    # Exif 2.32, §4.6.4: where the stored row 0 and column 0 belong in the displayed image.
    if orientation in (3, 4, 7, 8):
        turned = turned[::-1]
    if orientation in (2, 3, 6, 7):
        turned = turned[:, ::-1]
    return np.ascontiguousarray(turned)


def to_rgb8(pixels: NDArray[Any], window: Window | None = None) -> NDArray[np.uint8]:
    """(h, w, 3) RGB uint8 of stored pixels, grey or RGB: each for itself, so that a region is converted as the whole.

    window: None: the full range of the type. Raises BrokenImage for types and values that are not read.
    """
    import cv2

    check_type(pixels.dtype)
    if pixels.dtype.kind == "f" and not bool(np.isfinite(pixels).all()):
        raise BrokenImage("float pixels that are NaN or infinite")
    if window is not None:
        pixels = _windowed(pixels, window)
    elif pixels.dtype == np.uint16:
        pixels = cv2.convertScaleAbs(pixels, alpha=1 / 257)
    elif pixels.dtype.kind == "f":
        low, high = float(pixels.min()), float(pixels.max())
        if low < 0 or high > 1:
            raise BrokenImage(f"float pixels from {low:g} to {high:g}, expected 0 to 1")
        pixels = np.rint(pixels * 255).astype(np.uint8)
    return np.asarray(pixels if pixels.ndim == 3 else cv2.cvtColor(pixels, cv2.COLOR_GRAY2RGB), dtype=np.uint8)


def check_type(dtype: np.dtype[Any]) -> None:
    """BrokenImage where pixels of this type are not read as an image."""
    if dtype not in (np.uint8, np.uint16) and dtype.kind != "f":
        raise BrokenImage(f"{dtype} pixels; uint8, uint16 and float in 0 to 1 are read")


def _windowed(pixels: NDArray[Any], window: Window) -> NDArray[np.uint8]:
    target = np.empty(pixels.shape, np.uint8)
    # Of few values each is computed once.
    table = None if pixels.dtype.kind == "f" else _scaled(np.arange(np.iinfo(pixels.dtype).max + 1), window)
    at_once = max(1, _CONVERTED // max(1, pixels[0].size))
    for first in range(0, len(pixels), at_once):
        part = pixels[first : first + at_once]
        target[first : first + at_once] = _scaled(part, window) if table is None else table[part]
    return target


def _scaled(values: NDArray[Any], window: Window) -> NDArray[np.uint8]:
    share = (values.astype(np.float64) - window.low) / (window.high - window.low)
    return np.rint(np.clip(share, 0, 1) * 255).astype(np.uint8)


def checked_array(pixels: NDArray[Any]) -> NDArray[np.uint8]:
    """The array itself. TypeError or ValueError where it is not a non-empty (H, W, 3) uint8 one."""
    if pixels.dtype != np.uint8:
        raise TypeError(f"an image array must be uint8 RGB, found {pixels.dtype} of shape {pixels.shape}")
    if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.size == 0:
        raise ValueError(f"an image array must be (H, W, 3) RGB and not empty, found {pixels.shape}")
    return pixels
