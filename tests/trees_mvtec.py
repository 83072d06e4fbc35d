"""Small trees with the folders and file names of MVTec's three data sets as they are published.

The images are 32x40, few and flat; the kinds of defect in LOCO's configuration are made up, in the form of the real
ones. Each builder returns its root.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

SIZE = (32, 40)

AD_KINDS = {"bottle": ("broken_large", "broken_small", "contamination"), "screw": ("manipulated_front", "thread_top")}

LOCO_CATEGORIES = ("breakfast_box", "juice_bottle", "pushpins", "screw_bag", "splicing_connectors")

LOCO_CONFIG = (
    {"defect_name": "missing_part", "pixel_value": 255, "saturation_threshold": 20, "relative_saturation": False},
    {"defect_name": "swapped_part", "pixel_value": 254, "saturation_threshold": 0.5, "relative_saturation": True},
    {"defect_name": "damaged_part", "pixel_value": 253, "saturation_threshold": 1, "relative_saturation": True},
)

AD2_CATEGORIES = ("can", "fabric", "fruit_jelly", "rice", "sheet_metal", "vial", "wallplugs", "walnuts")

AD2_LIGHTS = ("overexposed", "regular", "shift_1", "shift_2", "shift_3", "underexposed")


def image(path: Path, *, size: tuple[int, int] = SIZE, value: int = 120) -> Path:
    """A grey image, as a PNG whatever the suffix."""
    return _write(path, np.full(size, value, np.uint8))


def mask(
    path: Path,
    *,
    value: int = 255,
    rows: tuple[int, int] = (4, 8),
    columns: tuple[int, int] = (4, 10),
    size: tuple[int, int] = SIZE,
) -> Path:
    """A mask with a rectangle of one value, by default of 24 pixels."""
    pixels = np.zeros(size, np.uint8)
    pixels[slice(*rows), slice(*columns)] = value
    return _write(path, pixels)


def _write(path: Path, pixels: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    done, data = cv2.imencode(".png", pixels)
    assert done
    path.write_bytes(data.tobytes())
    return path


def mvtec_ad(root: Path, categories: Sequence[str] = ("bottle", "screw")) -> Path:
    """MVTec AD: each category has 3 training, 2 good test images, and 2 of each of its kinds of defect."""
    for category in categories:
        home = root / category
        for number in range(3):
            image(home / f"train/good/{number:03}.png")
        for number in range(2):
            image(home / f"test/good/{number:03}.png")
            for kind in AD_KINDS.get(category, ("defect",)):
                image(home / f"test/{kind}/{number:03}.png")
                mask(home / f"ground_truth/{kind}/{number:03}_mask.png")
        for name in ("license.txt", "readme.txt"):
            (home / name).write_text("…")
    return root


def mvtec_loco(root: Path, categories: Sequence[str] = LOCO_CATEGORIES) -> Path:
    """MVTec LOCO AD: each category has 4 training, 2 validation and 7 test images.

    Of those, 2 are good; 3 have logical defects, with 1, 2 and 3 masks (24 pixels each, overlapping in part), and 2
    structural ones, with 1 mask each.
    """
    for category in categories:
        home = root / category
        for number in range(4):
            image(home / f"train/good/{number:03}.png")
        for number in range(2):
            image(home / f"validation/good/{number:03}.png")
            image(home / f"test/good/{number:03}.png")
        for number in range(3):
            image(home / f"test/logical_anomalies/{number:03}.png")
            for defect in range(number + 1):
                # One row lower each: 18 of the 24 pixels are also in the defect before.
                mask(
                    home / f"ground_truth/logical_anomalies/{number:03}/{defect:03}.png",
                    value=(255, 254, 255)[defect],
                    rows=(4 + defect, 8 + defect),
                )
        for number in range(2):
            image(home / f"test/structural_anomalies/{number:03}.png")
            mask(home / f"ground_truth/structural_anomalies/{number:03}/000.png", value=253)
        (home / "defects_config.json").write_text(json.dumps(LOCO_CONFIG, indent=4))
    for name in ("license.txt", "readme.txt"):
        (root / name).write_text("…")
    return root


def mvtec_ad2(root: Path, categories: Sequence[str] = AD2_CATEGORIES) -> Path:
    """MVTec AD 2: each category has 3 training and 2 validation images, and three test splits.

    The public one holds 2 good and 2 bad scenes, each in six lights; the private ones 3 images each.
    """
    for category in categories:
        home = root / category
        for number in range(3):
            image(home / f"train/good/{number:03}_regular.png")
            image(home / f"test_private/{number:03}_regular.png")
            image(home / f"test_private_mixed/{number:03}_mixed.png")
        for number in range(2):
            image(home / f"validation/good/{number:03}_regular.png")
            for light in AD2_LIGHTS:
                image(home / f"test_public/good/{number:03}_{light}.png")
                image(home / f"test_public/bad/{number:03}_{light}.png")
                mask(home / f"test_public/ground_truth/bad/{number:03}_{light}_mask.png")
    for name in ("license.txt", "readme.txt"):
        (root / name).write_text("…")
    return root
