"""TIFF files: a container for nearly anything, so what it holds is looked at before it is believed.

tifffile reads what it can read by itself (uncompressed, Deflate, PackBits), because it refuses a strip that decodes to
too few bytes, where OpenCV logs a line and hands out the picture. The rest (LZW, JPEG, fax) goes to OpenCV, except
for the combinations that OpenCV 5.0 was found to decode to wrong colours, which are refused.

`TiffRegions` reads a part of such a file: of tifffile it uses the tables only, and decodes the strips and tiles itself,
because what they decode to must be bounded before memory is spent on it.

Sources: TIFF 6.0 (§9 PackBits, §14 differencing predictor, §15 tiles), Adobe Photoshop TIFF Technical Notes (Deflate).
"""

from __future__ import annotations

import io
import logging
import os
import struct
import threading
import zlib
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import ceil, prod
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from uadctl.imaging.formats import BrokenImage, check_frames
from uadctl.records import Box, Size

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from uadctl.imaging.rows import RegularFile

# What parsing a damaged TIFF was seen to raise, in tifffile, struct, zlib and numpy.
_PARSING = (ValueError, LookupError, TypeError, ArithmeticError, AttributeError, RuntimeError, OSError, MemoryError)
_PLAIN_CODECS = (1, 8, 32773, 32946)  # none, Deflate, PackBits, old Deflate
_REDUCED, _MASK = 1, 4
_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB, _PALETTE, _YCBCR = 0, 1, 2, 3, 6

_TABLE_BYTES = 1 << 24
"""A longer table in a TIFF is not believed: the places of two million strips or more."""

_KEPT_BYTES = 1 << 26
"""Decoded strips and tiles are kept up to this size, or that of the strips that a region lies in ..."""

_MOST_KEPT_BYTES = 1 << 28
"""... but never more than this."""

_TILE_PIXELS = 1 << 22
"""Tiles of more pixels than this, and than four times the image, are not believed."""

_LOOKED_AT = 64
"""So many pages are asked whether they are another picture: more previews and masks has none."""

_NUMBERS = (
    "imagelength",
    "imagewidth",
    "imagedepth",
    "rowsperstrip",
    "tilelength",
    "tilewidth",
    "samplesperpixel",
    "bitspersample",
    "compression",
    "photometric",
    "predictor",
    "planarconfig",
    "fillorder",
)

_SEGMENT_BYTES = 1 << 26
"""A file with strips or tiles that decode to more than this is decoded whole: a region would cost as much."""


def tiff_size(file: RegularFile) -> tuple[Size, int]:
    """The stored size and the orientation (1 to 8) of a TIFF's first page. Raises BrokenImage."""
    with _first_page_of(file) as page:
        return Size(page.imagelength, page.imagewidth), _orientation(page)


def open_regions(file: RegularFile, *, whole: bool = False) -> TiffRegions | None:
    """The first page of a TIFF, to be read region by region; None where it must be decoded whole.

    whole: all of it will be read: then its strips and tiles may have any size.
    Raises BrokenImage where the file is damaged or of a kind that is not read.
    """
    with _first_page_of(file) as page:
        _check_pages(page)
        _check_kind(page)
        bits = int(page.bitspersample)
        decoded = page.compression != 1 or page.predictor != 1
        if (
            page.compression not in _PLAIN_CODECS
            or page.predictor not in (1, 2)
            or page.fillorder != 1
            or page.is_subsampled
            or page.planarconfig not in (1, 2)
            or not (bits in (8, 16, 32, 64) or (bits == 1 and page.samplesperpixel == 1 and page.predictor == 1))
        ):
            return None
        layout = _layout(page)
        if decoded and not whole and layout.segment_bytes > _SEGMENT_BYTES:
            return None
        if not decoded:
            # What is not packed shows its length before it is read: a size that is only stated is refused here.
            for index in np.flatnonzero(layout.counts < layout.rows * layout.stride):
                layout.width_of(int(index), int(layout.counts[index]))
        return TiffRegions(file, layout, _orientation(page))


def read_tiff(
    data: bytes,
    *,
    check: Callable[[Size], None],
    worth: Callable[[Size, int], None],
    opencv: Callable[[bytes], NDArray[Any] | None],
) -> tuple[NDArray[Any], int]:
    """Decode the first page of a TIFF in the depth it is stored in.

    check:  called with the stored size before memory is spent; raises to refuse it.
    worth:  called with the stored size and the bytes of a pixel, likewise.
    opencv: decodes a file to BGR(A) or grey as stored, or None; used for the codecs that tifffile lacks.

    Returns the stored pixels, (H, W) grey or (H, W, 3) RGB with any alpha dropped, 1-bit as 0 and 255, a palette as
    its colours, "white is zero" inverted; and the orientation still to be applied. Raises BrokenImage.
    """
    with _first_page(data) as page:
        size = Size(page.imagelength, page.imagewidth)
        check(size)
        _check_pages(page)
        _check_kind(page)
        worth(size, page.samplesperpixel * page.dtype.itemsize)
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
    with _damage_told(), _parsed(io.BytesIO(data), len(data)) as page:
        yield page


@contextmanager
def _first_page_of(file: RegularFile) -> Iterator[Any]:
    with _damage_told(), os.fdopen(file.duplicate(), "rb", buffering=0) as plain:
        plain.seek(0)
        with _Tables(plain) as stream, _parsed(stream, file.length) as page:
            yield page


class _Tables(io.BufferedReader):
    """What a TIFF says of its pixels is short; a table that states to be long would only cost memory."""

    def read(self, size: int | None = -1, /) -> bytes:
        if size is None or not 0 <= size <= _TABLE_BYTES:
            raise BrokenImage(f"damaged: the TIFF states a table of {size} bytes")
        return super().read(size)


@contextmanager
def _parsed(stream: BinaryIO | io.BufferedReader, length: int) -> Iterator[Any]:
    import tifffile

    # tifffile logs what it finds odd; without a handler Python would print that on stderr.
    log = logging.getLogger("tifffile")
    if not any(isinstance(handler, logging.NullHandler) for handler in log.handlers):
        log.addHandler(logging.NullHandler())
    with tifffile.TiffFile(stream, name="TIFF") as tiff:
        page = tiff.pages[0]
        _check_segments(page, length)
        yield page


@contextmanager
def _damage_told() -> Iterator[None]:
    try:
        yield
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
    for name in _NUMBERS:
        if not isinstance(getattr(page, name), int):  # a tag with several values
            raise BrokenImage(f"damaged: the TIFF states several numbers as its {name}")
    if page.imagelength < 1 or page.imagewidth < 1:
        raise BrokenImage(f"the image has no pixels ({page.imagelength}x{page.imagewidth}, height x width)")
    if page.imagedepth != 1:
        raise BrokenImage("a TIFF with depth (a volume) is no image")
    rows, columns = (page.tilelength, page.tilewidth) if page.is_tiled else (page.rowsperstrip, page.imagewidth)
    if rows < 1 or columns < 1:
        raise BrokenImage(f"damaged: the TIFF states strips or tiles of {rows}x{columns} (height x width)")
    if page.is_tiled and rows * columns > max(_TILE_PIXELS, 4 * page.imagelength * page.imagewidth):
        raise BrokenImage(
            f"damaged: the TIFF states tiles of {rows}x{columns} for {page.imagelength}x{page.imagewidth} pixels "
            "(height x width)"
        )
    offsets, counts = page.dataoffsets, page.databytecounts
    expected = prod(page.chunked)
    if len(offsets) != expected or len(counts) != expected:
        raise BrokenImage(f"damaged: the TIFF has {min(len(offsets), len(counts))} strips or tiles of {expected}")
    for number, (offset, count) in enumerate(zip(offsets, counts, strict=True), start=1):
        if offset <= 0 or count <= 0 or offset + count > length:
            raise BrokenImage(
                f"truncated: strip or tile {number} of {expected} of the TIFF lies outside the file's {length} bytes"
            )


def _check_pages(page: Any) -> None:
    """BrokenImage for a second picture of the size of the first; another size is a preview or a step of a pyramid.

    What a page says that it is (NewSubfileType, TIFF 6.0 §8) is believed: one of less resolution and a mask are none.
    """
    pages = page.parent.pages
    for index in range(1, _LOOKED_AT):
        try:
            other = pages[index]
        except IndexError:
            return
        if other.subfiletype & (_REDUCED | _MASK):
            continue
        if (other.imagelength, other.imagewidth) == (page.imagelength, page.imagewidth):
            check_frames(len(pages), "TIFF")
        return


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
    return _Meaning.of(page).applied(stored)


@dataclass(frozen=True, slots=True)
class _Meaning:
    """What the samples of a pixel stand for.

    table: the colours of a palette. by_tifffile: the file was written by tifffile.
    """

    photometric: int
    table: NDArray[np.uint16] | None
    by_tifffile: bool

    @classmethod
    def of(cls, page: Any) -> _Meaning:
        table = page.colormap if page.photometric == _PALETTE else None
        return cls(int(page.photometric), table, str(page.software).startswith("tifffile"))

    def applied(self, stored: NDArray[Any]) -> NDArray[Any]:
        """(h, w) grey or (h, w, 3) RGB of (h, w) or (h, w, samples) as stored, alpha dropped. Raises BrokenImage."""
        if self.photometric == _PALETTE:
            return _colours(self.table, stored if stored.ndim == 2 else stored[..., 0])
        white_is_zero = self.photometric == _WHITE_IS_ZERO
        if stored.dtype == np.bool_:
            stored = stored.astype(np.uint8) * np.uint8(255)
            # tifffile marks every bool array as "white is zero" without turning it round: there True is meant as
            # stored.
            white_is_zero = white_is_zero and not self.by_tifffile
        if white_is_zero:
            if stored.dtype.kind != "u":
                raise BrokenImage("a TIFF of signed or float pixels where white is zero is not read")
            stored = np.iinfo(stored.dtype).max - stored
        if stored.ndim == 3:
            stored = stored[..., :3] if self.photometric == _RGB else stored[..., 0]
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


@dataclass(frozen=True, slots=True)
class _Layout:
    """Where the pixels of a page are: in segments (strips or tiles) of `rows` x `columns` pixels, row by row.

    size:     of the image. samples: of a pixel. planes: 1, or `samples` if each has segments of its own, one after
              the other.
    stored:   the type in the file, in its byte order; bool: 8 pixels a byte.
    packing:  "none", "deflate" or "packbits". differences: each sample is stored as the difference to its left one.
    offsets, counts: (segments,) int64 bytes.
    """

    size: Size
    samples: int
    planes: int
    rows: int
    columns: int
    stored: np.dtype[Any]
    packing: str
    differences: bool
    offsets: NDArray[np.int64]
    counts: NDArray[np.int64]
    meaning: _Meaning

    @property
    def across(self) -> int:
        return ceil(self.size.width / self.columns)

    @property
    def down(self) -> int:
        return ceil(self.size.height / self.rows)

    @property
    def contained(self) -> int:
        """Samples of a pixel that lie side by side."""
        return self.samples // self.planes

    @property
    def stride(self) -> int:
        """Bytes of a row of a segment, as it is when decoded."""
        return self.bytes_of(self.columns)

    @property
    def segment_bytes(self) -> int:
        """Memory of a decoded segment."""
        return self.rows * self.columns * self.contained * self.stored.itemsize

    def bytes_of(self, pixels: int) -> int:
        return (pixels + 7) // 8 if self.stored == np.bool_ else pixels * self.contained * self.stored.itemsize

    def extent(self, index: int) -> Size:
        """The pixels of the image in a segment."""
        y, x = divmod(index % (self.across * self.down), self.across)
        return Size(
            min(self.rows, self.size.height - y * self.rows), min(self.columns, self.size.width - x * self.columns)
        )

    def width_of(self, index: int, count: int) -> int:
        """The pixels in a row of a segment of so many decoded bytes. BrokenImage where they are too few.

        A tile at the edge may be stored without what would lie outside of the image.
        """
        extent = self.extent(index)
        if count >= extent.height * self.stride:
            return self.columns
        if count == extent.height * self.bytes_of(extent.width):
            return extent.width
        raise BrokenImage(
            f"truncated: strip or tile {index + 1} of {len(self.offsets)} of the TIFF has {count} bytes, expected "
            f"{extent.height * self.stride}"
        )


def _layout(page: Any) -> _Layout:
    size = Size(page.imagelength, page.imagewidth)
    samples = int(page.samplesperpixel)
    rows, columns = (page.tilelength, page.tilewidth) if page.is_tiled else (page.rowsperstrip, page.imagewidth)
    bits = int(page.bitspersample)
    stored = np.dtype(np.bool_) if bits == 1 else np.dtype(page.parent.byteorder + page.dtype.char)
    return _Layout(
        size=size,
        samples=samples,
        planes=samples if page.planarconfig == 2 else 1,
        rows=int(rows),
        columns=int(columns),
        stored=stored,
        packing={1: "none", 32773: "packbits"}.get(page.compression, "deflate"),
        differences=page.predictor == 2,
        offsets=np.asarray(page.dataoffsets, np.int64),
        counts=np.asarray(page.databytecounts, np.int64),
        meaning=_Meaning.of(page),
    )


@dataclass(slots=True)
class _Kept:
    """A decoded segment, or the promise that one thread decodes it while the others wait."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    pixels: NDArray[Any] | None = None


class TiffRegions:
    """The first page of a TIFF, read region by region: only the strips and tiles in which a region lies.

    size: as stored; orientation: 1 to 8, still to be applied. dtype, channels: of what is read. pixel_bytes: of a pixel
    as stored.
    """

    def __init__(self, file: RegularFile, layout: _Layout, orientation: int) -> None:
        self.size = layout.size
        self.orientation = orientation
        samples = () if layout.samples == 1 else (layout.samples,)
        example = layout.meaning.applied(np.zeros((1, 1, *samples), layout.stored.newbyteorder("=")))
        self.dtype = example.dtype
        self.channels = 1 if example.ndim == 2 else 3
        self.pixel_bytes = layout.samples * layout.stored.itemsize
        self._file, self._layout = file, layout
        self._kept: OrderedDict[int, _Kept] = OrderedDict()
        self._lock = threading.Lock()

    def read(self, box: Box) -> NDArray[Any]:
        """(box.height, box.width) grey or (box.height, box.width, 3) RGB, not yet upright. Raises BrokenImage."""
        self._file.check_open()
        layout = self._layout
        target = np.empty((box.height, box.width, layout.samples), layout.stored.newbyteorder("="))
        rows = range(box.y0 // layout.rows, ceil((box.y0 + box.height) / layout.rows))
        columns = range(box.x0 // layout.columns, ceil((box.x0 + box.width) / layout.columns))
        # The region to the right of this one lies in the same strips: those are worth keeping whatever their size.
        strips = layout.planes * len(rows) if layout.across == 1 and box.width < self.size.width else 0
        with _damage_told():
            for plane in range(layout.planes):
                samples = slice(plane, plane + 1) if layout.planes > 1 else slice(None)
                for y in rows:
                    for x in columns:
                        index = (plane * layout.down + y) * layout.across + x
                        self._copy(
                            index,
                            Box(y * layout.rows, x * layout.columns, *layout.extent(index)),
                            box,
                            target[..., samples],
                            strips,
                        )
            return layout.meaning.applied(target if layout.samples > 1 else target[..., 0])

    def close(self) -> None:
        self._kept.clear()
        self._file.close()

    def _copy(self, index: int, segment: Box, box: Box, target: NDArray[Any], strips: int) -> None:
        """Put what a segment and a box of the image have in common into the array of the box."""
        top, left = max(segment.y0, box.y0), max(segment.x0, box.x0)
        height = min(segment.y0 + segment.height, box.y0 + box.height) - top
        width = min(segment.x0 + segment.width, box.x0 + box.width) - left
        part = Box(top - segment.y0, left - segment.x0, height, width)
        plain = self._layout.packing == "none" and not self._layout.differences
        pixels = self._plain(index, part) if plain else self._decoded(index, strips)[part.rows, part.columns]
        target[top - box.y0 : top - box.y0 + height, left - box.x0 : left - box.x0 + width] = pixels

    def _plain(self, index: int, part: Box) -> NDArray[Any]:
        layout = self._layout
        offset, count = int(layout.offsets[index]), int(layout.counts[index])
        stride = layout.bytes_of(layout.width_of(index, count))
        if layout.stored == np.bool_:
            skip, end = part.x0 // 8, (part.x0 + part.width + 7) // 8
            rows = self._file.rows(offset + part.y0 * stride, stride, part.height, skip, end - skip)
            first = part.x0 - skip * 8
            return np.unpackbits(rows, axis=1)[:, first : first + part.width, np.newaxis].view(np.bool_)
        rows = self._file.rows(
            offset + part.y0 * stride, stride, part.height, layout.bytes_of(part.x0), layout.bytes_of(part.width)
        )
        return rows.view(layout.stored).reshape(part.height, part.width, layout.contained)

    def _decoded(self, index: int, strips: int) -> NDArray[Any]:
        """(rows, columns, samples) of a segment: kept from before, or decoded now by the first that asks for it."""
        with self._lock:
            kept = self._kept.setdefault(index, _Kept())
            self._kept.move_to_end(index)
            size = self._layout.segment_bytes
            most = max(1, _KEPT_BYTES // size, min(strips, _MOST_KEPT_BYTES // size))
            while len(self._kept) > most:
                self._kept.popitem(last=False)
        with kept.lock:
            if kept.pixels is None:
                kept.pixels = self._decode(index)
            return kept.pixels

    def _decode(self, index: int) -> NDArray[Any]:
        layout = self._layout
        rows = layout.extent(index).height
        most = layout.rows * layout.stride
        # What is packed is hardly ever longer than what it unpacks to; what follows is not looked at.
        packed = self._file.read(int(layout.offsets[index]), min(int(layout.counts[index]), 2 * most + 4096))
        unpacked = _UNPACK[layout.packing](packed, most)
        columns = layout.width_of(index, len(unpacked))
        block = np.frombuffer(unpacked, np.uint8, rows * layout.bytes_of(columns)).reshape(rows, -1)
        if layout.stored == np.bool_:
            return np.unpackbits(block, axis=1)[:, :columns, np.newaxis].view(np.bool_)
        native = layout.stored.newbyteorder("=")
        pixels = block.view(layout.stored).astype(native, copy=False).reshape(rows, columns, layout.contained)
        if not layout.differences:
            return pixels
        # Differences are of the bit patterns, also of floats.
        bits = pixels.view(np.dtype(f"u{native.itemsize}"))
        return np.cumsum(bits, axis=1, dtype=bits.dtype).view(native)


def _inflated(packed: bytes, most: int) -> bytes:
    """At most so many bytes of a zlib stream. Raises zlib.error, BrokenImage where it does not end soon after them."""
    stream = zlib.decompressobj()
    unpacked = stream.decompress(packed, most)
    if not stream.eof:
        # The checksum stands at the end, and some writers pad what they pack.
        stream.decompress(stream.unconsumed_tail, most)
    if not stream.eof:
        raise BrokenImage(f"damaged: a Deflate stream of the TIFF does not end after {most} bytes, or is cut off")
    return unpacked


def _unpacked_bits(packed: bytes, most: int) -> bytes:
    """At most so many bytes of a PackBits stream."""
    unpacked = bytearray()
    position = 0
    while position < len(packed) and len(unpacked) < most:
        head = packed[position]
        if head < 128:
            unpacked += packed[position + 1 : position + 2 + head]
            position += 2 + head
        elif head > 128:
            unpacked += packed[position + 1 : position + 2] * (257 - head)
            position += 2
        else:
            position += 1
    return bytes(unpacked[:most])


_UNPACK: dict[str, Callable[[bytes, int], bytes]] = {
    "none": lambda packed, most: packed[:most],
    "deflate": _inflated,
    "packbits": _unpacked_bits,
}
