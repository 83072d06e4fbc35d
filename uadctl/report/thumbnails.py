"""Pictures made small enough to travel inside a page."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from uadctl.imaging.files import read_image

if TYPE_CHECKING:
    from numpy.typing import NDArray

MOST_WIDTH = 960
MOST_HEIGHT = 1440

PAGE_BYTES = 9_000_000
"""What all pictures of a page of up to 200 images may take together before base64, which makes it 12 MB.

Contours and charts come on top."""

_BYTES_EACH = PAGE_BYTES // 200
_MOST_PAGE_BYTES = 26_000_000

# Width and JPEG quality, tried until a picture fits into its share of the page.
_STEPS = ((MOST_WIDTH, 85), (800, 82), (640, 80), (480, 78), (480, 68), (400, 68), (320, 66), (240, 60))

_HOPELESS = 1.8


def share_of(pictures: int) -> int:
    """The bytes that each of so many pictures of a page may take.

    Up to 200 they share PAGE_BYTES; more of them make the page larger, up to 26 MB before base64, then are smaller.
    """
    n = max(1, pictures)
    return max(PAGE_BYTES // n, min(_BYTES_EACH, _MOST_PAGE_BYTES // n))


def thumbnail(path: Path, *, most_bytes: int) -> str:
    """A picture as a `data:` address of a JPEG, reduced where it is larger than MOST_WIDTH x MOST_HEIGHT.

    most_bytes: as for `jpeg`. Raises DataError if the file cannot be read.
    """
    return jpeg(read_image(path), most_bytes=most_bytes)


def jpeg(pixels: NDArray[np.uint8], *, most_bytes: int) -> str:
    """(H, W, 3) RGB as a `data:` address of a JPEG.

    most_bytes: it is made smaller in steps until it takes no more; the last step is kept whatever it takes.
    """
    import cv2

    picture = np.ascontiguousarray(pixels[:, :, ::-1])  # OpenCV encodes BGR
    height, width = picture.shape[:2]
    data, pixels_before = b"", 0.0
    for step, (most_width, quality) in enumerate(_STEPS):
        scale = min(1.0, most_width / width, MOST_HEIGHT / height)
        # Bytes go about with pixels: what is far too large after the step before need not be tried.
        much = data and len(data) * scale**2 / pixels_before > _HOPELESS * most_bytes
        if much and step < len(_STEPS) - 1:
            continue
        reduced = picture
        if scale < 1:
            # OpenCV takes (width, height).
            wanted = (max(1, round(width * scale)), max(1, round(height * scale)))
            reduced = np.asarray(cv2.resize(picture, wanted, interpolation=cv2.INTER_AREA))
        data = cv2.imencode(".jpg", reduced, [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()
        pixels_before = scale**2
        if len(data) <= most_bytes:
            break
    return _address("jpeg", data)


def webp(pixels: NDArray[Any], *, most_bytes: int) -> str:
    """(H, W, 4) uint8 RGBA as a `data:` address of a WebP, which has transparency and is small.

    most_bytes: where it would take more, half the quality is taken.
    """
    import cv2

    data = b""
    for quality in (80, 30):
        data = cv2.imencode(".webp", cv2.cvtColor(pixels, cv2.COLOR_RGBA2BGRA), [cv2.IMWRITE_WEBP_QUALITY, quality])[
            1
        ].tobytes()
        if len(data) <= most_bytes:
            break
    return _address("webp", data)


def bytes_of(address: str) -> int:
    """How many bytes a `data:` address holds, about."""
    return len(address) * 3 // 4


def _address(kind: str, data: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode('ascii')}"
