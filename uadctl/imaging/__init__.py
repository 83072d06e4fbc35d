"""Pixels to pixels: reading and writing image files, the size a model sees, the way back, and pictures of maps.

(`overlay`, which draws a map over its image, is in `uadctl.imaging.overlay`, which bears its name.)
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from uadctl.imaging.formats import IMAGE_SUFFIXES
from uadctl.imaging.listing import list_images

if TYPE_CHECKING:
    from uadctl.imaging.files import image_size, read_image, read_map, read_mask, write_map, write_png
    from uadctl.imaging.geometry import Box, Geometry, View

__all__ = [
    "IMAGE_SUFFIXES",
    "list_images",
    "read_image",
    "read_mask",
    "image_size",
    "read_map",
    "write_map",
    "write_png",
    "Geometry",
    "View",
    "Box",
]

_HOMES = {
    "files": ("image_size", "read_image", "read_map", "read_mask", "write_map", "write_png"),
    "geometry": ("Box", "Geometry", "View"),
}


def __getattr__(name: str) -> object:
    # Resolved on first use: listing a folder needs the suffixes and neither numpy nor OpenCV.
    for home, names in _HOMES.items():
        if name in names:
            return getattr(import_module(f"uadctl.imaging.{home}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
