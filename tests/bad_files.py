"""Files that an image folder may hold and that are no whole pictures, or odd ones; each with what must come of it."""

from __future__ import annotations

import io
import os
import re
import socket
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import parts
import tifffile


@dataclass(frozen=True)
class Bad:
    """One file.

    name: that it has. make: writes it (or makes what is there in its place). reason: the whole message after the path;
    None: it is a picture, odd but whole, and is scored.
    """

    name: str
    make: Callable[[Path], object]
    reason: str | None


PICTURE = parts.surface(900)


def encoded(suffix: str, pixels: np.ndarray = PICTURE, *options: int) -> bytes:
    done, data = cv2.imencode(suffix, pixels[..., ::-1] if pixels.ndim == 3 else pixels, list(options))
    assert done
    return data.tobytes()


def tiff(pixels: np.ndarray, **options: Any) -> bytes:
    target = io.BytesIO()
    tifffile.imwrite(target, pixels, **{"metadata": None, **options})
    return target.getvalue()


def npy(pixels: np.ndarray) -> bytes:
    target = io.BytesIO()
    np.save(target, pixels)
    return target.getvalue()


def chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def png(height: int, width: int, rows: bytes, *, bits: int = 8, colours: int = 2, extra: bytes = b"") -> bytes:
    """A PNG of these rows (each with its filter byte), whatever they are."""
    head = struct.pack(">IIBBBBB", width, height, bits, colours, 0, 0, 0)
    body = chunk(b"IDAT", zlib.compress(rows, 9))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + extra + body + chunk(b"IEND", b"")


def _written(data: bytes) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(data)


def _changed(data: bytes, at: int, piece: bytes) -> bytes:
    return data[:at] + piece + data[at + len(piece) :]


def _socket(path: Path) -> None:
    # The name of a socket may have a hundred bytes: from its own folder it is short enough.
    before = Path.cwd()
    os.chdir(path.parent)
    try:
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(path.name)
    finally:
        os.chdir(before)


@cache
def png_of_zeros(side: int, bits: int, colours: int) -> bytes:
    """A PNG of zeros: a thousandth of what it unpacks to."""
    samples = {0: 1, 2: 3, 6: 4}[colours]
    whole = (1 + side * samples * bits // 8) * side
    pieces, rest = divmod(whole, 1 << 24)
    packer = zlib.compressobj(6, zlib.DEFLATED, -15)
    piece = packer.compress(bytes(1 << 24)) + packer.flush(zlib.Z_FULL_FLUSH)  # equal pieces are packed once
    body = b"\x78\x9c" + piece * pieces + packer.compress(bytes(rest)) + packer.flush()
    body += struct.pack(">HH", whole % 65521, 1)  # the Adler-32 of zeros
    head = struct.pack(">IIBBBBB", side, side, bits, colours, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def _png_stating(side: int) -> bytes:
    """The PNG with another size in its header."""
    head = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return _PNG[:8] + chunk(b"IHDR", head) + _PNG[33:]


def _jpeg_stating(side: int) -> bytes:
    at = _JPEG.index(b"\xff\xc0") + 5
    return _changed(_JPEG, at, struct.pack(">HH", side, side))


def _stated(data: bytes, side: int) -> bytes:
    """A TIFF of `tifffile` whose size is another."""
    with tifffile.TiffFile(io.BytesIO(data)) as found:
        places = [found.pages[0].tags[tag].valueoffset for tag in (256, 257)]
    whole = bytearray(data)
    for place in places:
        struct.pack_into("<H", whole, place, side)
    return bytes(whole)


def _npy_stating(height: int, width: int) -> bytes:
    text = f"{{'descr': '|u1', 'fortran_order': False, 'shape': ({height}, {width}), }}\n".encode()
    return b"\x93NUMPY\1\0" + struct.pack("<H", len(text)) + text + bytes(64)


def _jpeg_with(marker: int) -> bytes:
    """The JPEG with the start of its frame renamed: C1 extended, C9 arithmetic."""
    data = encoded(".jpg")
    at = data.index(b"\xff\xc0")
    return _changed(data, at + 1, bytes([marker]))


def jpeg_with_garbage() -> bytes:
    data = encoded(".jpg")
    half = data.index(b"\xff\xda") + 400
    return _changed(data, half, b"\xaa" * 600)


def jpeg_padded(data: bytes, padding: bytes, *, every: int = 1) -> bytes:
    """A JPEG with these bytes before its restart markers, or before every second one and so on."""
    start = data.index(b"\xff\xda") + 14
    pieces = re.split(rb"(\xff[\xd0-\xd7])", data[start:])
    assert len(pieces) > 4
    for i in range(1, len(pieces), 2 * every):
        pieces[i] = padding + pieces[i]
    return data[:start] + b"".join(pieces)


def _zeroed_to_its_end() -> bytes:
    data = encoded(".jpg")
    half = data.index(b"\xff\xda") + 1400
    return data[:half] + bytes(len(data) - half - 2) + data[-2:]


def _without_spectral_bounds() -> bytes:
    """What the header of a scan says of them has no meaning in a sequential JPEG."""
    data = encoded(".jpg")
    return _changed(data, data.index(b"\xff\xda") + 11, bytes(3))


def tiff_with(second: np.ndarray, subfiletype: int, *more: np.ndarray) -> bytes:
    """A TIFF of the picture, another page, which says what it is, and more that do not."""
    target = io.BytesIO()
    with tifffile.TiffWriter(target) as writer:
        writer.write(PICTURE, metadata=None)
        writer.write(second, metadata=None, subfiletype=1)
        for page in more:
            writer.write(page, metadata=None)
    data = target.getvalue()
    with tifffile.TiffFile(io.BytesIO(data)) as found:
        return _changed(data, found.pages[1].tags[254].valueoffset, bytes([subfiletype]))


def _npy_of_blanks() -> bytes:
    text = b"{'shape': ()" + b" " * 60_000 + b"x"
    return b"\x93NUMPY\1\0" + struct.pack("<H", len(text)) + text


def _npy_of_sides(sides: str) -> bytes:
    text = f"{{'descr': '|u1', 'fortran_order': False, 'shape': ({sides}), }}\n".encode()
    return b"\x93NUMPY\1\0" + struct.pack("<H", len(text)) + text + bytes(64)


def _twelve_bits() -> bytes:
    data = _jpeg_with(0xC1)
    return _changed(data, data.index(b"\xff\xc1") + 4, b"\x0c")


def _animated_webp() -> bytes:
    frame = encoded(".webp", PICTURE, cv2.IMWRITE_WEBP_QUALITY, 90)[12:]
    width, height = (63).to_bytes(3, "little"), (63).to_bytes(3, "little")
    shown = bytes(6) + width + height + (40).to_bytes(3, "little") + b"\0" + frame
    piece = b"ANMF" + struct.pack("<I", len(shown)) + shown + b"\0" * (len(shown) % 2)
    body = b"WEBP" + b"VP8X" + struct.pack("<I", 10) + b"\x02\0\0\0" + width + height
    body += b"ANIM" + struct.pack("<I", 6) + bytes(6) + piece + piece
    return b"RIFF" + struct.pack("<I", len(body)) + body


def _exif_turned(data: bytes) -> bytes:
    block = b"Exif\0\0II*\0\x08\0\0\0\x01\0" + struct.pack("<HHII", 0x0112, 3, 1, 6) + bytes(4)
    return data[:2] + b"\xff\xe1" + struct.pack(">H", len(block) + 2) + block + data[2:]


def _cut(suffix: str, data: bytes, reason: str, share: float = 0.6) -> Bad:
    return Bad(f"cut_{suffix[1:]}{int(share * 100)}{suffix}", _written(data[: int(len(data) * share)]), reason)


NOT_READ = "not a PNG, JPEG, BMP, TIFF or WebP file"
ELSE_READ = "PNG, JPEG, BMP, TIFF and WebP are read"
ONE_PICTURE = "one picture is looked at, and the others would not be"
_PNG, _JPEG, _BMP, _WEBP = (encoded(suffix) for suffix in (".png", ".jpg", ".bmp", ".webp"))
_TIFF = tiff(PICTURE, compression="zlib", rowsperstrip=16)
_GREY = PICTURE[..., 0].copy()
_SIDE = 10_048
RESTARTS = encoded(".jpg", PICTURE, cv2.IMWRITE_JPEG_RST_INTERVAL, 2)
# Its pixel data end in a zero before many of the markers.
FLAT_RESTARTS = encoded(".jpg", np.full((64, 64, 3), 90, np.uint8), cv2.IMWRITE_JPEG_RST_INTERVAL, 4, cv2.IMWRITE_JPEG_OPTIMIZE, 1)  # fmt: skip

ODD: tuple[Bad, ...] = (
    Bad("jpeg_named.png", _written(_JPEG), None),
    Bad("png_named.tiff", _written(_PNG), None),
    Bad("1x1.png", _written(encoded(".png", PICTURE[:1, :1])), None),
    Bad("1x30000.png", _written(encoded(".png", np.resize(PICTURE, (1, 30_000, 3)))), None),
    Bad("30000x1.png", _written(encoded(".png", np.resize(PICTURE, (30_000, 1, 3)))), None),
    Bad("16bit.png", _written(encoded(".png", _GREY.astype(np.uint16) * 257)), None),
    Bad("16bit.tiff", _written(tiff(_GREY.astype(np.uint16) * 257)), None),
    Bad("float.tiff", _written(tiff(_GREY.astype(np.float32) / 255)), None),
    Bad(
        "palette.png",
        _written(png(8, 8, (b"\0" + bytes(range(8))) * 8, colours=3, extra=chunk(b"PLTE", bytes(24)))),
        None,
    ),
    Bad("alpha.png", _written(encoded(".png", np.dstack([PICTURE, _GREY]))), None),
    Bad("1bit.png", _written(png(8, 16, b"\0\xa5\x5a" * 8, bits=1, colours=0)), None),
    Bad("transparent.png", _written(png(2, 2, b"\0\1\2" * 2, colours=0, extra=chunk(b"tRNS", b"\0\1"))), None),
    Bad("turned.jpg", _written(_exif_turned(_JPEG)), None),
    Bad("progressive.jpg", _written(encoded(".jpg", PICTURE, cv2.IMWRITE_JPEG_PROGRESSIVE, 1)), None),
    Bad("padded.jpg", _written(_JPEG[:-2] + bytes(3) + _JPEG[-2:]), None),
    Bad("padded_end.jpg", _written(_JPEG[:-2] + bytes(300) + _JPEG[-2:]), None),
    Bad("padded_restarts.jpg", _written(jpeg_padded(RESTARTS, bytes(3))), None),
    Bad("padded_some.jpg", _written(jpeg_padded(RESTARTS, bytes(9), every=2)), None),
    Bad("padded_flat.jpg", _written(jpeg_padded(FLAT_RESTARTS, bytes(4))), None),
    Bad("filled.jpg", _written(jpeg_padded(RESTARTS, b"\xff" * 40)), None),
    Bad("no_bounds.jpg", _written(_without_spectral_bounds()), None),
    Bad("mask_page.tiff", _written(tiff_with(_GREY, 4)), None),
    Bad("reduced_page.tiff", _written(tiff_with(PICTURE, 1)), None),
    Bad("planar.tiff", _written(tiff(np.moveaxis(PICTURE, 2, 0).copy(), photometric="rgb", planarconfig=2)), None),
    Bad("big.tiff", _written(tiff(PICTURE, bigtiff=True)), None),
    Bad("lzw.tiff", _written(encoded(".tiff", PICTURE, cv2.IMWRITE_TIFF_COMPRESSION, 5)), None),
    Bad("array.npy", _written(npy(PICTURE)), None),
    Bad("with space '\"; &.png", _written(_PNG), None),
    Bad("-dash.png", _written(_PNG), None),
    Bad("line\nbreak \x1b[31m.png", _written(_PNG), None),
    Bad("caf\udce9.png", _written(_PNG), None),
    Bad("x" * 251 + ".png", _written(_PNG), None),
)
"""Pictures that are odd, but whole."""

BAD: tuple[Bad, ...] = (
    _cut(".png", _PNG, f"truncated: the PNG chunk at byte 33 ends at byte {45 + int.from_bytes(_PNG[33:37], 'big')}, the file ends at {int(len(_PNG) * 0.6)}"),
    _cut(".png", _PNG, "truncated: a PNG chunk is missing at byte 8, the file ends at 12", 12.5 / len(_PNG)),
    _cut(".jpg", _JPEG, f"truncated: the JPEG's pixel data do not end, the file ends at byte {int(len(_JPEG) * 0.7)}", 0.7),
    _cut(".bmp", _BMP, f"truncated: the BMP needs {len(_BMP)} bytes, the file has {int(len(_BMP) * 0.6)}"),
    _cut(".webp", _WEBP, f"truncated: the WebP states {len(_WEBP)} bytes, the file has {int(len(_WEBP) * 0.6)}"),
    _cut(".tiff", _TIFF, f"truncated: strip or tile 3 of 4 of the TIFF lies outside the file's {int(len(_TIFF) * 0.6)} bytes"),
    _cut(".npy", npy(PICTURE), "truncated: 64x64 pixels (height x width) need 12416 bytes, the file has 7449"),
    Bad("closed.jpg", _written(_JPEG[: len(_JPEG) // 2] + b"\xff\xd9"), "truncated: the JPEG's pixel data end before its last row"),
    Bad("empty.png", _written(b""), "the file is empty (0 bytes)"),
    Bad("text.png", _written(b"I am no picture.\n"), NOT_READ),
    Bad("page.jpg", _written(b"<!DOCTYPE html><title>404</title>"), f"the file is HTML; {ELSE_READ}"),
    Bad("gif.png", _written(b"GIF89a" + bytes(60)), f"the file is GIF; {ELSE_READ}"),
    Bad("jxl.jpg", _written(b"\xff\x0a" + bytes(60)), f"the file is JPEG XL; {ELSE_READ}"),
    Bad("avif.jpg", _written(b"\0\0\0\x1cftypavif" + bytes(60)), f"the file is AVIF; {ELSE_READ}"),
    Bad("heic.jpg", _written(b"\0\0\0\x18ftypheic" + bytes(60)), f"the file is HEIC; {ELSE_READ}"),
    Bad("0x0.png", _written(png(0, 0, b"")), "the image has no pixels (0x0, height x width)"),
    Bad("0x0.npy", _written(npy(np.zeros((0, 0), np.uint8))), "the image has no pixels (0x0, height x width)"),
    Bad("beyond.tiff", _written(tiff(_GREY.astype(np.float32))), f"float pixels from {_GREY.min()} to {_GREY.max()}, expected 0 to 1"),
    Bad("nan.tiff", _written(tiff(np.full((8, 8), np.nan, np.float32))), "float pixels that are NaN or infinite"),
    Bad("inf.npy", _written(npy(np.full((8, 8), np.inf, np.float32))), "float pixels that are NaN or infinite"),
    Bad("objects.npy", _written(npy(np.array([{"a": 1}]))), "object pixels; uint8, uint16 and float in 0 to 1 are read"),
    Bad("inks.jpg", _written(_JPEG.replace(b"\xff\xc0\0\x11\x08\0\x40\0\x40\3", b"\xff\xc0\0\x11\x08\0\x40\0\x40\4")), "a CMYK JPEG that does not say which way its inks run; save it as RGB"),
    Bad("lab.tiff", _written(tiff(PICTURE, photometric="cielab")), "a TIFF with CIELAB colours is not read; save it as RGB or grey"),
    Bad("pages.tiff", _written(tiff(np.stack([_GREY] * 3), photometric="minisblack")), f"a TIFF of 3 frames: {ONE_PICTURE}"),
    Bad("frames.png", _written(png(1, 1, b"\0\1", colours=0, extra=chunk(b"acTL", struct.pack(">II", 2, 0)))), f"a PNG of 2 frames: {ONE_PICTURE}"),
    Bad("frames.webp", _written(_animated_webp()), f"a WebP of 2 frames: {ONE_PICTURE}"),
    Bad("bit_rot.png", _written(_changed(_PNG, 4000, bytes([_PNG[4000] ^ 1]))), "damaged: the checksum of the PNG chunk at byte 33 is wrong"),
    Bad("garbage.jpg", _written(jpeg_with_garbage()), "damaged: the decoder says: Corrupt JPEG data: 251 extraneous bytes before marker 0xd9"),
    Bad("12bit.jpg", _written(_twelve_bits()), "damaged, or a kind of JPEG that OpenCV cannot decode"),
    Bad("too_large.png", _written(png(1 << 30, 1 << 30, b"\0")), f"{1 << 30}x{1 << 30} (height x width) is {1 << 60} pixels, more than 268435456"),
    Bad("too_large.tiff", _written(_stated(tiff(_GREY), 60_000)), "damaged: the TIFF has 1 strips or tiles of 938"),
    Bad("too_large.npy", _written(_npy_stating(1 << 20, 1 << 22)), f"truncated: 1048576x4194304 pixels (height x width) need {82 + (1 << 42)} bytes, the file has 146"),
    Bad("bomb.png", lambda path: path.write_bytes(png_of_zeros(_SIDE, 16, 6)), f"10048x10048 pixels (height x width) of 8 bytes decode to 807698432 bytes, more than 805306368, and the file has only {len(png_of_zeros(_SIDE, 16, 6))}"),
    Bad("stated.png", _written(_png_stating(16_384)), f"truncated: 16384x16384 pixels (height x width) cannot be packed into {len(_PNG)} bytes of PNG"),
    Bad("stated.jpg", _written(_jpeg_stating(16_384)), f"truncated: 16384x16384 pixels (height x width) cannot be packed into {len(_JPEG)} bytes of JPEG"),
    Bad("zeroed.jpg", _written(_zeroed_to_its_end()), "damaged: the decoder says: Corrupt JPEG data: 166 extraneous bytes before marker 0xd9"),
    Bad("blanks.npy", _written(_npy_of_blanks()), "damaged: the header of the .npy file cannot be read"),
    Bad("sides.npy", _written(_npy_of_sides("0, " * 20_000)), "damaged: the header of the .npy file cannot be read"),
    Bad("digits.npy", _written(_npy_of_sides(f"{'9' * 4000}, {'9' * 4000}")), "damaged: the header of the .npy file cannot be read"),
    Bad("folder.png", lambda path: (path / "inside").mkdir(parents=True), "is a folder, not an image file"),
    Bad("dangling.png", lambda path: path.symlink_to("nowhere.png"), "no such file"),
    Bad("circle.png", lambda path: path.symlink_to(path.name), "cannot be read (Too many levels of symbolic links)"),
    Bad("pipe.png", lambda path: os.mkfifo(path), "is not a regular file"),
    Bad("socket.png", _socket, "cannot be read (No such device or address)"),
    Bad("device.png", lambda path: path.symlink_to("/dev/zero"), "is not a regular file"),
)  # fmt: skip
"""What is no whole picture."""
