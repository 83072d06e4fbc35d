"""Pixels that lie in a file as they are, row after row: .npy, headerless line-scan files, the strips of some TIFFs.

Any part of them is read without the rest, so that memory is that of what is asked for, whatever the file's size.

Source: NumPy Enhancement Proposal 1, "A simple file format for NumPy arrays" (versions 1.0 to 3.0).
"""

from __future__ import annotations

import os
import re
import stat
import threading
import weakref
from dataclasses import dataclass
from pathlib import PurePath
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from uadctl.imaging.formats import NPY_SIGNATURE, BrokenImage
from uadctl.records import Box, Size
from uadctl.spec.areas import parse_raw

if TYPE_CHECKING:
    from types import TracebackType

    from numpy.typing import NDArray

_RAW_KINDS = {"uint8": "u1", "uint16": "<u2", "float32": "<f4"}

# What NumPy writes in front of an array, read by its own pattern: Python's parser of literals keeps its depth for all
# threads together in 3.11 and fails in several at once, and NumPy would warn of odd types on somebody's terminal. A
# type stands there by its code. No run is given back once it is taken: long ones would cost its square.
_NPY_ENTRY = re.compile(
    r"""(['"])(?P<name>descr|fortran_order|shape)\1\s*+:\s*+
    (?:(['"])(?P<type>[<>|=]?[biufcSUVOmM]\d{0,9}(?:\[\w{0,9}\])?)\3|(?P<order>True|False)|
    \((?P<shape>[\d,\x20]*+)\))\s*+""",
    re.VERBOSE | re.ASCII,
)
_NPY_SHAPE = re.compile(r"\x20*+(?:(?:0|[1-9]\d{0,29})\x20*+,\x20*+){1,64}+(?:(?:0|[1-9]\d{0,29})\x20*+)?", re.ASCII)

_BLANKS = re.compile(r"\s*+")

# As many bytes are fetched in one go to keep a part of them: cheaper than a call for each row.
_FETCHED = 1 << 16
_CHUNK = 1 << 23

# No system reads more than 2 GiB in one call.
_MOST = 1 << 30


@dataclass(frozen=True, slots=True)
class RawLayout:
    """How a file without header is laid out: rows one after the other, pixel by pixel, little-endian.

    height: None: as many rows as the file has. channels: 1 (grey) or 3 (RGB). dtype: "uint8", "uint16" or "float32".
    Raises ValueError for other numbers and types.
    """

    height: int | None
    width: int
    channels: int = 1
    dtype: str = "uint8"

    def __post_init__(self) -> None:
        if (self.height is not None and self.height < 1) or self.width < 1:
            raise ValueError(f"{self}: height and width must be positive")
        if self.channels not in (1, 3):
            raise ValueError(f"{self}: {self.channels} channels; 1 (grey) or 3 (RGB) are read")
        if self.dtype not in _RAW_KINDS:
            raise ValueError(f"{self}: {self.dtype} pixels; uint8, uint16 and float32 are read")

    @classmethod
    def parse(cls, text: str) -> RawLayout:
        """From "20000x25000:uint8", "*x25000x3:uint16". ValueError for other text."""
        return cls(*parse_raw(text))

    def __str__(self) -> str:
        rows = "*" if self.height is None else self.height
        return f"{rows}x{self.width}{'' if self.channels == 1 else f'x{self.channels}'}:{self.dtype}"


class RegularFile:
    """A file that several threads read at any place at once. Closed with the object at the latest.

    Raises OSError where it cannot be opened, BrokenImage where it is no regular file.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        if "\0" in os.fspath(path):
            raise BrokenImage("a file name cannot hold a null byte")
        # Opened without waiting, so that a named pipe in an image folder is refused instead of stopping the run.
        self._descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
        self._closing = weakref.finalize(self, os.close, self._descriptor)
        self._lock = threading.Lock()
        facts = os.fstat(self._descriptor)
        self.length = facts.st_size
        if not stat.S_ISREG(facts.st_mode):
            self.close()
            if stat.S_ISDIR(facts.st_mode):
                raise IsADirectoryError(path)
            raise BrokenImage("is not a regular file")

    def read(self, offset: int, count: int) -> bytes:
        """So many bytes from there on. Raises BrokenImage where the file ends before."""
        self._check(offset, offset + count)
        parts = []
        while count:
            part = self._some(offset, min(count, _MOST))
            parts.append(part)
            offset, count = offset + len(part), count - len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def rows(self, offset: int, stride: int, count: int, skip: int, length: int) -> NDArray[np.uint8]:
        """(count, length) bytes: a part of each of some rows that start `stride` bytes apart, the first at `offset`.

        skip: the bytes of each row before that part. Raises BrokenImage where the file ends before.
        """
        if count < 1 or length < 1:
            return np.empty((count, length), np.uint8)
        start = offset + skip
        self._check(start, start + (count - 1) * stride + length)
        target = np.empty((count, length), np.uint8)
        if stride == length:
            self._fill(start, target.reshape(-1))
            return target
        at_once = max(1, min(count, _CHUNK // stride)) if stride <= max(2 * length, _FETCHED // count) else 1
        for first in range(0, count, at_once):
            part = target[first : first + at_once]
            if len(part) == 1:
                self._fill(start + first * stride, part[0])
                continue
            fetched = np.empty((len(part) - 1) * stride + length, np.uint8)
            self._fill(start + first * stride, fetched)
            part[:] = np.lib.stride_tricks.as_strided(fetched, part.shape, (stride, 1))
        return target

    def close(self) -> None:
        self._closing()

    def duplicate(self) -> int:
        """A second descriptor of the open file, which the caller closes."""
        return os.dup(self._descriptor)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def check_open(self) -> None:
        """ValueError where it is closed."""
        if not self._closing.alive:
            raise ValueError("the file is closed")

    def _check(self, start: int, end: int) -> None:
        self.check_open()
        if not 0 <= start <= end <= self.length:
            raise BrokenImage(f"truncated: bytes {start} to {end} are missing, the file has {self.length}")

    def _fill(self, offset: int, target: NDArray[np.uint8]) -> None:
        wanted = target.data
        while len(wanted):
            if hasattr(os, "preadv"):
                done = os.preadv(self._descriptor, [wanted[:_MOST]], offset)
                if not done:
                    raise BrokenImage(f"truncated: the file ends at byte {offset}")
            else:
                part = self._some(offset, min(len(wanted), _MOST))
                done = len(part)
                wanted[:done] = part
            wanted, offset = wanted[done:], offset + done

    def _some(self, offset: int, count: int) -> bytes:
        if hasattr(os, "pread"):
            part = os.pread(self._descriptor, count, offset)
        else:
            with self._lock:  # Windows cannot name the place in the call
                os.lseek(self._descriptor, offset, os.SEEK_SET)
                part = os.read(self._descriptor, count)
        if not part:
            raise BrokenImage(f"truncated: the file ends at byte {offset}")
        return part


class PlainPixels:
    """Rows of pixels in a file, one after the other without gaps, pixel by pixel.

    offset: of the first row in the file. channels: 1 or 3. stored: the type in the file, in its byte order; bool
    becomes 0 and 255.
    Raises BrokenImage where the file is too short for them.
    """

    orientation = 1

    def __init__(self, file: RegularFile, offset: int, size: Size, channels: int, stored: np.dtype[Any]) -> None:
        needed = offset + size.height * size.width * channels * stored.itemsize
        if needed > file.length:
            raise BrokenImage(
                f"truncated: {size} pixels (height x width) need {needed} bytes, the file has {file.length}"
            )
        self.size = size
        self.dtype = np.dtype(np.uint8) if stored.kind == "b" else stored.newbyteorder("=")
        self.channels = channels
        self._file, self._offset, self._stored = file, offset, stored

    def read(self, box: Box) -> NDArray[Any]:
        """(box.height, box.width) grey or (box.height, box.width, 3) RGB, in the machine's byte order."""
        cell = self.channels * self._stored.itemsize
        stride = self.size.width * cell
        rows = self._file.rows(self._offset + box.y0 * stride, stride, box.height, box.x0 * cell, box.width * cell)
        pixels = rows.view(self._stored).astype(self._stored.newbyteorder("="), copy=False)
        if pixels.dtype == np.bool_:
            # Anything but 0 is true, also where another program wrote it.
            pixels = (rows != 0) * np.uint8(255)
        return pixels if self.channels == 1 else pixels.reshape(box.height, box.width, self.channels)

    def close(self) -> None:
        self._file.close()


def plain_pixels(path: str | os.PathLike[str], file: RegularFile, raw: RawLayout | None) -> PlainPixels | None:
    """The pixels of a .npy file (by content) or of a *.raw file (by name); None for other files.

    Raises BrokenImage where the file is damaged, holds no image, or does not fit its layout.
    """
    if PurePath(path).suffix.lower() == ".raw":
        return _raw_pixels(file, raw)
    if file.read(0, min(len(NPY_SIGNATURE), file.length)) == NPY_SIGNATURE:
        return _npy_pixels(file)
    return None


def _raw_pixels(file: RegularFile, layout: RawLayout | None) -> PlainPixels:
    if layout is None:
        raise BrokenImage(
            "a .raw file has no header, and its layout is not given: [preprocess] raw",
            help='Give height, width and type of its pixels: raw = "20000x25000:uint8", "*x25000:uint16" (as many rows '
            'as there are), "20000x25000x3:float32" (RGB)',
        )
    if not file.length:
        raise BrokenImage("the file is empty (0 bytes)")
    stored = np.dtype(_RAW_KINDS[layout.dtype])
    stride = layout.width * layout.channels * stored.itemsize
    if layout.height is None and file.length % stride:
        raise BrokenImage(
            f"the file has {file.length} bytes, no whole number of rows of {stride} bytes ([preprocess] raw = "
            f'"{layout}")'
        )
    height = file.length // stride if layout.height is None else layout.height
    if height * stride != file.length:
        raise BrokenImage(
            f'the file has {file.length} bytes, its layout needs {height * stride} ([preprocess] raw = "{layout}")'
        )
    return PlainPixels(file, 0, Size(height, layout.width), layout.channels, stored)


def _npy_pixels(file: RegularFile) -> PlainPixels:
    if file.length < 12:
        raise BrokenImage(f"truncated: the file has only {file.length} bytes")
    start = file.read(0, 12)
    version = start[6]
    if version not in (1, 2, 3):
        raise BrokenImage(f"damaged: a .npy file of version {version}, expected 1 to 3")
    offset, width = (10, 2) if version == 1 else (12, 4)
    count = int.from_bytes(start[8 : 8 + width], "little")
    if count > 1 << 16:
        raise BrokenImage(f"damaged: the .npy file states a header of {count} bytes")
    facts = _npy_facts(file.read(offset, count).decode("utf-8" if version == 3 else "latin-1", "replace"))
    shape, stored = facts["shape"], facts["descr"]
    if (stored.kind, stored.itemsize) not in {("b", 1), ("u", 1), ("u", 2), ("f", 2), ("f", 4), ("f", 8)}:
        raise BrokenImage(f"{stored.newbyteorder('=')} pixels; uint8, uint16 and float in 0 to 1 are read")
    if facts["fortran_order"]:
        raise BrokenImage("the array is stored column by column; save it in C order (numpy.ascontiguousarray)")
    if len(shape) not in (2, 3) or (len(shape) == 3 and shape[2] not in (1, 3)):
        raise BrokenImage(f"an array of shape {shape}; expected (height, width), or with 1 or 3 channels last")
    if min(shape) < 1:
        raise BrokenImage(f"the image has no pixels ({shape[0]}x{shape[1]}, height x width)")
    return PlainPixels(file, offset + count, Size(*shape[:2]), shape[2] if len(shape) == 3 else 1, stored)


def _npy_facts(header: str) -> dict[str, Any]:
    """Its "descr", "fortran_order" and "shape". BrokenImage for a header that is not written as NumPy does."""
    unreadable = BrokenImage("damaged: the header of the .npy file cannot be read")
    text = header.strip()
    if not (text.startswith("{") and text.endswith("}")):
        raise unreadable
    found: dict[str, str] = {}
    at, end = 1, len(text) - 1
    while entry := _NPY_ENTRY.match(text, at + _blanks(text, at), end):
        found[entry["name"]] = next(v for v in entry.group("type", "order", "shape") if v is not None)
        at = entry.end()
        if text[at] != ",":
            break
        at += 1
    if at + _blanks(text, at) != end or not _NPY_SHAPE.fullmatch(found.get("shape", "")):
        raise unreadable
    try:
        stored = np.dtype(found["descr"])
        order = {"True": True, "False": False}[found["fortran_order"]]
    except (ValueError, TypeError, LookupError) as error:
        raise unreadable from error
    shape = tuple(int(side) for side in found["shape"].split(",") if side.strip())
    return {"descr": stored, "fortran_order": order, "shape": shape}


def _blanks(text: str, at: int) -> int:
    """How many blanks there are from this place on."""
    run = _BLANKS.match(text, at)
    return 0 if run is None else run.end() - at
