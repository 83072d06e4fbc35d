"""Overlays made small enough to travel inside a page."""

from __future__ import annotations

import base64
from pathlib import Path

import numpy as np

from uadctl.imaging.files import read_image

MOST_WIDTH = 480
MOST_HEIGHT = 960

PAGE_BYTES = 26_000_000
"""What all pictures of a page may take together before base64, which makes it 35 MB."""

# Width and JPEG quality, tried until a picture fits into its share of the page.
_STEPS = ((MOST_WIDTH, 85), (MOST_WIDTH, 72), (400, 72), (320, 68), (240, 60))


def thumbnail(path: Path, *, most_bytes: int) -> str:
    """A picture as a `data:` address of a JPEG, reduced where it is larger than MOST_WIDTH x MOST_HEIGHT.

    most_bytes: it is made smaller in steps until it takes no more; the last step is kept whatever it takes.
    Raises DataError if the file cannot be read.
    """
    import cv2

    picture = np.ascontiguousarray(read_image(path)[:, :, ::-1])  # OpenCV encodes BGR
    height, width = picture.shape[:2]
    data = b""
    for most_width, quality in _STEPS:
        scale = min(1.0, most_width / width, MOST_HEIGHT / height)
        reduced = picture
        if scale < 1:
            # OpenCV takes (width, height).
            wanted = (max(1, round(width * scale)), max(1, round(height * scale)))
            reduced = np.asarray(cv2.resize(picture, wanted, interpolation=cv2.INTER_AREA))
        data = cv2.imencode(".jpg", reduced, [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()
        if len(data) <= most_bytes:
            break
    return f"data:image/jpeg;base64,{base64.b64encode(data).decode('ascii')}"
