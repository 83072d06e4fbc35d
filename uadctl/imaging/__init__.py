"""Pixels to pixels: reading and writing image files, the size a model sees, the way back, and pictures of maps.

(`overlay`, which draws a map over its image, and `regions` are in the modules that bear their names.)
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from uadctl.imaging.formats import IMAGE_SUFFIXES
from uadctl.imaging.listing import list_images

if TYPE_CHECKING:
    from uadctl.imaging.augment import (
        blur,
        exposure_drift,
        get_industrial_camera_robust_augmentation,
        jpeg_compress,
        motion_blur,
        noise,
        random_channel_gain,
        rotate_shift,
        vignette,
    )
    from uadctl.imaging.camera import (
        Camera,
        clahe,
        flat_field_correction,
        gray_world_white_balance,
        homomorphic_filter,
        max_rgb_white_balance,
    )
    from uadctl.imaging.files import image_size, read_image, read_map, read_mask, write_map, write_png
    from uadctl.imaging.geometry import Box, Geometry, View
    from uadctl.imaging.maps import AnomalyMapPostprocess
    from uadctl.imaging.raster import RawLayout, StoredMap, Window, open_image, open_mask
    from uadctl.imaging.tiles import Tiling, extract_tile, iter_tile_coords, stitch_maps
    from uadctl.tiling import TiledDetector

__all__ = [
    "IMAGE_SUFFIXES",
    "list_images",
    "blur",
    "exposure_drift",
    "get_industrial_camera_robust_augmentation",
    "jpeg_compress",
    "motion_blur",
    "noise",
    "random_channel_gain",
    "rotate_shift",
    "vignette",
    "Camera",
    "clahe",
    "flat_field_correction",
    "gray_world_white_balance",
    "homomorphic_filter",
    "max_rgb_white_balance",
    "image_size",
    "read_image",
    "read_map",
    "read_mask",
    "write_map",
    "write_png",
    "Box",
    "Geometry",
    "View",
    "AnomalyMapPostprocess",
    "RawLayout",
    "StoredMap",
    "Window",
    "open_image",
    "open_mask",
    "extract_tile",
    "iter_tile_coords",
    "stitch_maps",
    "Tiling",
    "TiledDetector",
]

_HOMES = {
    "uadctl.imaging.augment": (
        "blur",
        "exposure_drift",
        "get_industrial_camera_robust_augmentation",
        "jpeg_compress",
        "motion_blur",
        "noise",
        "random_channel_gain",
        "rotate_shift",
        "vignette",
    ),
    "uadctl.imaging.camera": (
        "Camera",
        "clahe",
        "flat_field_correction",
        "gray_world_white_balance",
        "homomorphic_filter",
        "max_rgb_white_balance",
    ),
    "uadctl.imaging.files": ("image_size", "read_image", "read_map", "read_mask", "write_map", "write_png"),
    "uadctl.imaging.geometry": ("Box", "Geometry", "View"),
    "uadctl.imaging.maps": ("AnomalyMapPostprocess",),
    "uadctl.imaging.raster": ("RawLayout", "StoredMap", "Window", "open_image", "open_mask"),
    "uadctl.imaging.tiles": ("extract_tile", "iter_tile_coords", "stitch_maps", "Tiling"),
    # A signpost: users look for it here. It wraps detectors, which lie above; nothing of this package needs it.
    "uadctl.tiling": ("TiledDetector",),
}


def __getattr__(name: str) -> object:
    # Resolved on first use: listing a folder needs the suffixes and neither numpy nor OpenCV.
    for home, names in _HOMES.items():
        if name in names:
            return getattr(import_module(home), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
