"""What an image file says of itself, read from its bytes without decoding a pixel.

Decoders are lenient: they fill what a cut-off file lacks with grey or with the rows above, and call that a picture.
An inspection must not score such a picture, so the container is walked to its end first. The walk also gives the
size before memory is spent on it, and the orientation, so that every format is turned upright by one rule.

Sources: PNG (ISO/IEC 15948:2004, §5, §11.2), JPEG (ITU-T T.81, Annex B), Exif 2.32 (§4.6.4, tag 0x0112),
WebP (RFC 9649, §2), BMP (BITMAPFILEHEADER, BITMAPINFOHEADER).
"""

from __future__ import annotations

import re
import struct
import zlib
from dataclasses import dataclass
from typing import Literal

from uadctl.records import Size

IMAGE_SUFFIXES = (".bmp", ".jpeg", ".jpg", ".npy", ".png", ".raw", ".tif", ".tiff", ".webp")
"""The file name endings of images, in lower case. Only for listing folders: what a file is, its content decides, except
that a file without header (.raw) is known by its name alone."""

Kind = Literal["PNG", "JPEG", "BMP", "TIFF", "WebP"]

NPY_SIGNATURE = b"\x93NUMPY"

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_TIFF_SIGNATURES = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
# What cameras, phones and shops also write: naming it saves the reader the search. Compare the media types of IANA.
_OTHERS = {
    "GIF": re.compile(rb"GIF8[79]a"),
    "JPEG XL": re.compile(rb"\xff\x0a|\0\0\0\x0cJXL "),
    "JPEG 2000": re.compile(rb"\xff\x4f\xff\x51|\0\0\0\x0cjP  "),
    "AVIF": re.compile(rb"....ftypavi[fs]", re.DOTALL),
    "HEIC": re.compile(rb"....ftyp(?:hei|hev|mif1|msf1)", re.DOTALL),
    "PDF": re.compile(rb"%PDF-"),
    "ZIP": re.compile(rb"PK\x03\x04"),
    "gzip": re.compile(rb"\x1f\x8b"),
    "Photoshop": re.compile(rb"8BPS"),
    "OpenEXR": re.compile(rb"v/1\x01"),
    "HTML": re.compile(rb"\s*<(?:!doctype html|html)", re.IGNORECASE),
}

# What a byte can unpack to at the most. Deflate: 258 bytes of two bits (RFC 1951, §3.2.5). Huffman's codes have one
# bit or more, and each block of 8x8 pixels has a code (T.81, F.1.2, G.1.2.1); an arithmetic coder has no such bound.
_DEFLATE = 1032
_HUFFMAN = 512
_ARITHMETIC = 0xC9
_PNG_SAMPLES = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}

# Inside a JPEG scan 0xFF is followed by 0 (stuffing), a restart marker or a fill byte; anything else ends the scan.
_END_OF_SCAN = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]", re.DOTALL)


class BrokenImage(ValueError):
    """The bytes are not a whole image. The text is the reason alone; the caller knows the file's name.

    help: the next step, where there is one.
    """

    def __init__(self, reason: str, *, help: str | None = None) -> None:
        self.help = help
        super().__init__(reason)


@dataclass(frozen=True, slots=True)
class Header:
    """What the container says, before decoding.

    kind:        the format, by content.
    stored:      the size as stored, before `orientation` is applied.
    orientation: Exif orientation 1 to 8 (1 = upright).
    channels:    of a pixel, as OpenCV decodes them when it keeps what is stored: a palette as its colours, with alpha.
    depth:       bytes of a channel.
    most:        pixels that the file's bytes can hold at the most, however well they are packed; None: any number.
    payload:     the bytes to give to the decoder: the file, without the parts that only make decoders chatter.
    """

    kind: Kind
    stored: Size
    orientation: int
    channels: int
    depth: int
    most: int | None
    payload: bytes

    @property
    def size(self) -> Size:
        """The size as displayed."""
        return Size(self.stored.width, self.stored.height) if self.orientation >= 5 else self.stored


def kind_of(data: bytes) -> Kind:
    """Name the format of a file from its first bytes. Raises BrokenImage where it is none that uadctl reads."""
    if not data:
        raise BrokenImage("the file is empty (0 bytes)")
    if data.startswith(_PNG_SIGNATURE):
        return "PNG"
    if data.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if data.startswith(b"BM"):
        return "BMP"
    if data[:4] in _TIFF_SIGNATURES:
        return "TIFF"
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return "WebP"
    for whole in (_PNG_SIGNATURE, b"\xff\xd8\xff"):
        if whole.startswith(data):
            raise BrokenImage(f"truncated: the file has only {len(data)} bytes")
    for kind, signature in _OTHERS.items():
        if signature.match(data):
            raise BrokenImage(f"the file is {kind}; PNG, JPEG, BMP, TIFF and WebP are read")
    raise BrokenImage("not a PNG, JPEG, BMP, TIFF or WebP file")


def read_header(data: bytes) -> Header:
    """Walk a PNG, JPEG, BMP or WebP file to its end.

    Raises BrokenImage where the file is cut off, contradicts itself or has no pixels. (A TIFF is walked by
    `uadctl.imaging.tiff`.) A JPEG is checked up to the end-of-image marker of its first picture, a PNG by the
    checksum of each chunk that carries pixels.
    """
    kind = kind_of(data)
    if kind == "PNG":
        return _png(data)
    if kind == "JPEG":
        return _jpeg(data)
    if kind == "WebP":
        return _webp(data)
    if kind == "BMP":
        return _bmp(data)
    raise ValueError(f"read_header does not walk {kind} files")


def exif_orientation(exif: bytes) -> int:
    """Orientation 1 to 8 from an Exif block (a small TIFF, with or without its "Exif" prefix); 1 if it says none."""
    exif = exif.removeprefix(b"Exif\0\0")
    order = {b"II": "<", b"MM": ">"}.get(exif[:2])
    if order is None or len(exif) < 8:
        return 1
    (start,) = struct.unpack_from(order + "I", exif, 4)
    if start + 2 > len(exif):
        return 1
    (count,) = struct.unpack_from(order + "H", exif, start)
    for entry in range(start + 2, min(start + 2 + 12 * count, len(exif) - 11), 12):
        tag, kind, _ = struct.unpack_from(order + "HHI", exif, entry)
        if tag == 0x0112 and kind == 3:
            (value,) = struct.unpack_from(order + "H", exif, entry + 8)
            return value if 1 <= value <= 8 else 1
    return 1


def _size(height: int, width: int) -> Size:
    if height < 1 or width < 1:
        raise BrokenImage(f"the image has no pixels ({height}x{width}, height x width)")
    return Size(height, width)


def check_frames(frames: int, kind: str) -> None:
    """BrokenImage for more than one: a defect on the second would never be looked at."""
    if frames > 1:
        raise BrokenImage(
            f"a {kind} of {frames} frames: one picture is looked at, and the others would not be",
            help="Save each frame to a file of its own.",
        )


def _png(data: bytes) -> Header:
    position = len(_PNG_SIGNATURE)
    view = memoryview(data)
    size: Size | None = None
    orientation = 1
    pixels = False
    ended = False
    bits, colours, transparent, packed = 8, 2, False, 0
    kept: list[memoryview] = [view[:position]]
    while not ended:
        if position + 12 > len(data):
            raise BrokenImage(f"truncated: a PNG chunk is missing at byte {position}, the file ends at {len(data)}")
        (length,) = struct.unpack_from(">I", data, position)
        name = data[position + 4 : position + 8]
        end = position + 12 + length
        if end > len(data):
            raise BrokenImage(
                f"truncated: the PNG chunk at byte {position} ends at byte {end}, the file ends at {len(data)}"
            )
        if (size is None) != (name == b"IHDR"):
            raise BrokenImage("the PNG does not start with one IHDR chunk")
        # An upper-case first letter marks the chunks that make the picture. The others are left out of the payload:
        # a damaged comment or colour profile is no reason to refuse the picture, nor to print a decoder's warning.
        critical = not name[0] & 0x20
        if critical:
            (stated,) = struct.unpack_from(">I", data, end - 4)
            if zlib.crc32(view[position + 4 : end - 4]) != stated:
                raise BrokenImage(f"damaged: the checksum of the PNG chunk at byte {position} is wrong")
            kept.append(view[position:end])
        if name == b"IHDR":
            if length != 13:
                raise BrokenImage(f"the PNG's IHDR chunk has {length} bytes, expected 13")
            width, height, bits, colours = struct.unpack_from(">IIBB", data, position + 8)
            size = _size(height, width)
        elif name == b"IDAT":
            pixels = pixels or length > 0
            packed += length
        elif name == b"tRNS":
            transparent = True
        elif name == b"acTL" and length >= 4:
            check_frames(int.from_bytes(data[position + 8 : position + 12], "big"), "PNG")
        elif name == b"eXIf":
            orientation = exif_orientation(data[position + 8 : end - 4])
        ended = name == b"IEND"
        position = end
    if size is None or not pixels:
        raise BrokenImage("the PNG has no pixel data (no IDAT chunk)")
    most = _DEFLATE * packed * 8 // max(1, bits * _PNG_SAMPLES.get(colours, 1))
    payload = data if sum(map(len, kept)) == len(data) else b"".join(kept)
    # Of grey with alpha OpenCV makes four channels.
    channels = 4 if colours & 4 or transparent else 3 if colours & 2 else 1
    return Header("PNG", size, orientation, channels, 2 if bits == 16 else 1, most, payload)


def _jpeg(data: bytes) -> Header:
    position = 2
    size: Size | None = None
    components = 0
    frame = 0xC0
    orientation = 1
    adobe = False
    scans = 0
    while True:
        if position + 2 > len(data):
            raise BrokenImage(f"truncated: the JPEG has no end-of-image marker, the file ends at byte {len(data)}")
        if data[position] != 0xFF:
            raise BrokenImage(f"damaged: no JPEG marker at byte {position}")
        marker = data[position + 1]
        if marker == 0xFF:  # a fill byte
            position += 1
            continue
        if marker == 0xD9:
            break
        if marker == 0x01 or 0xD0 <= marker <= 0xD7:
            position += 2
            continue
        if position + 4 > len(data):
            raise BrokenImage(f"truncated: the JPEG ends inside the segment at byte {position}")
        (length,) = struct.unpack_from(">H", data, position + 2)
        end = position + 2 + length
        if length < 2:
            raise BrokenImage(f"damaged: the JPEG segment at byte {position} states a length of {length} bytes")
        if end > len(data):
            raise BrokenImage(
                f"truncated: the JPEG segment at byte {position} ends at byte {end}, the file ends at {len(data)}"
            )
        body = data[position + 4 : end]
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            if len(body) < 6:
                raise BrokenImage(f"damaged: the JPEG frame header at byte {position} is too short")
            if size is None:
                height, width = struct.unpack_from(">HH", body, 1)
                size = _size(height, width)
                components = body[5]
                frame = marker
        elif marker == 0xE1 and body.startswith(b"Exif\0\0"):
            orientation = exif_orientation(body)
        elif marker == 0xEE and body.startswith(b"Adobe"):
            adobe = True
        position = end
        if marker == 0xDA:
            if size is None:
                raise BrokenImage("damaged: the JPEG has pixel data before its frame header")
            scans += 1
            found = _END_OF_SCAN.search(data, end)
            if found is None:
                raise BrokenImage(f"truncated: the JPEG's pixel data do not end, the file ends at byte {len(data)}")
            position = found.start()
    if size is None or not scans:
        raise BrokenImage("the JPEG has no pixel data")
    if components == 4 and not adobe:
        # Without Adobe's marker nothing says whether 0 or 255 is full ink, and the decoder guesses.
        raise BrokenImage("a CMYK JPEG that does not say which way its inks run; save it as RGB")
    # Phones append further pictures after the first; only the first is handed on.
    end = position + 2
    most = _HUFFMAN * end if frame < _ARITHMETIC else None
    channels = 1 if components == 1 else 3
    return Header("JPEG", size, orientation, channels, 1, most, data if end == len(data) else data[:end])


def scan_start(data: bytes) -> int:
    """Where the pixel data begin, in the payload of a JPEG that `read_header` has walked."""
    position = 2
    while data[position + 1] != 0xDA:
        marker = data[position + 1]
        if marker == 0xFF:
            position += 1
        elif marker == 0x01 or 0xD0 <= marker <= 0xD7:
            position += 2
        else:
            position += 2 + int.from_bytes(data[position + 2 : position + 4], "big")
    return position + 2 + int.from_bytes(data[position + 2 : position + 4], "big")


def _webp(data: bytes) -> Header:
    (stated,) = struct.unpack_from("<I", data, 4)
    total = stated + 8
    frames = 0
    if total > len(data):
        raise BrokenImage(f"truncated: the WebP states {total} bytes, the file has {len(data)}")
    size: Size | None = None
    orientation = 1
    pixels = False
    alpha = False
    position = 12
    while position + 8 <= total:
        name = data[position : position + 4]
        (length,) = struct.unpack_from("<I", data, position + 4)
        start, end = position + 8, position + 8 + length
        if end > total:
            raise BrokenImage(f"truncated: the WebP chunk at byte {position} ends at byte {end}, the file at {total}")
        if name == b"VP8X" and length >= 10:
            width = 1 + int.from_bytes(data[start + 4 : start + 7], "little")
            height = 1 + int.from_bytes(data[start + 7 : start + 10], "little")
            size = Size(height, width)
            alpha = alpha or bool(data[start] & 0x10)
        elif name == b"VP8 " and length >= 10:
            width, height = struct.unpack_from("<HH", data, start + 6)
            size = size or _size(height & 0x3FFF, width & 0x3FFF)
            pixels = True
        elif name == b"VP8L" and length >= 5:
            (bits,) = struct.unpack_from("<I", data, start + 1)
            size = size or Size(1 + (bits >> 14 & 0x3FFF), 1 + (bits & 0x3FFF))
            alpha = alpha or bool(bits >> 28 & 1)
            pixels = True
        elif name == b"ANMF":
            pixels = True
            frames += 1
        elif name == b"EXIF":
            orientation = exif_orientation(data[start:end])
        position = end + length % 2
    check_frames(frames, "WebP")
    if size is None or not pixels:
        raise BrokenImage("the WebP has no pixel data")
    return Header("WebP", size, orientation, 4 if alpha else 3, 1, None, data)


def _bmp(data: bytes) -> Header:
    if len(data) < 26:
        raise BrokenImage(f"truncated: the BMP header is cut off, the file has {len(data)} bytes")
    stated, _, start, header = struct.unpack_from("<IIII", data, 2)
    compression = 0
    if header == 12:
        width, height, _, bits = struct.unpack_from("<HHHH", data, 18)
    else:
        if header < 40 or len(data) < 54:
            raise BrokenImage(f"damaged: the BMP states a header of {header} bytes, the file has {len(data)}")
        width, height, _, bits, compression = struct.unpack_from("<iiHHI", data, 18)
    size = _size(abs(height), width)  # a negative height means that the top row comes first
    # Uncompressed rows are padded to four bytes; the run-length codings (1, 2) state their length in the header only.
    needed = stated if compression in (1, 2) else start + (size.width * bits + 31) // 32 * 4 * size.height
    if needed > len(data):
        raise BrokenImage(f"truncated: the BMP needs {needed} bytes, the file has {len(data)}")
    return Header("BMP", size, 1, 4 if bits == 32 else 3, 1, None, data)
