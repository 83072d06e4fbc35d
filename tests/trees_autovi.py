"""A small tree with the folders and file names of AutoVI as its archives unpack, and what may be wrong with one.

The images are 64x64, few and flat; the names and values of the kinds of defect in the configuration are made up, in the
form of the real ones.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from layouts import Damage, Layout

SIZE = (64, 64)

CATEGORIES = ("engine_wiring", "pipe_clip", "pipe_staple", "tank_screw", "underbody_pipes", "underbody_screw")

KINDS = {
    "engine_wiring": ("blue_hoop", "fastening", "multiple"),
    "pipe_clip": ("operator", "unclipped"),
    "pipe_staple": ("missing",),
    "tank_screw": ("missing",),
    "underbody_pipes": ("deformation", "multiple", "obstruct"),
    "underbody_screw": ("missing",),
}

CONFIG = (
    {"defect_name": "missing", "pixel_value": 255, "saturation_threshold": 20, "relative_saturation": False},
    {"defect_name": "misplaced", "pixel_value": 254, "saturation_threshold": 0.5, "relative_saturation": True},
)

FIRST = 89
"""The number of the first defect image: they are numbered on from the good ones."""


def image(path: Path, *, value: int = 120, size: tuple[int, int] = SIZE) -> Path:
    """A picture in three channels, of one grey."""
    return _write(path, np.full((*size, 3), value, np.uint8))


def mask(path: Path, *, value: int = 255, top: int = 8, rows: int = 6, channels: int = 3) -> Path:
    """A mask as the authors store them, grey in so many channels, with `rows` times 8 pixels of one value."""
    pixels = np.zeros((*SIZE, channels), np.uint8)
    pixels[..., 3:] = 255  # alpha: nothing of it is transparent
    pixels[top : top + rows, 8:16, :3] = value
    return _write(path, pixels)


def _write(path: Path, pixels: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), pixels)
    return path


def autovi(root: Path, categories: Sequence[str] = CATEGORIES[:2]) -> Path:
    """AutoVI: each category has 4 training and 2 good test images, and 2 of each of its kinds of defect.

    The second image of a kind has two masks, which overlap by half and are of two values, the second with alpha.
    """
    for category in categories:
        home = root / category
        for number in range(4):
            image(home / f"train/good/{number:04}.png")
        for number in range(2):
            image(home / f"test/good/{number:04}.png")
            for kind in KINDS[category]:
                name = f"{FIRST + number:04}"
                image(home / f"test/{kind}/{name}.png")
                mask(home / f"ground_truth/{kind}/{name}/0000.png")
                if number:
                    mask(home / f"ground_truth/{kind}/{name}/0001.png", value=254, top=11, channels=4)
        (home / "defects_config.json").write_text(json.dumps(CONFIG, indent=4))
    return root


LAYOUTS = {
    "autovi": Layout("autovi", "engine_wiring", autovi, (4, 2, 6), KINDS["engine_wiring"]),
    "autovi, one kind": Layout("autovi", "pipe_staple", lambda root: autovi(root, CATEGORIES), (4, 2, 2), ("missing",)),
}
_HOME = "{root}/engine_wiring"
DAMAGES: dict[str, tuple[Damage, ...]] = {
    "autovi": (
        Damage(
            "missing folder of training images",
            lambda root: shutil.rmtree(root / "engine_wiring/train"),
            f"{_HOME}/train/good: no such folder",
        ),
        Damage(
            "missing folder of test images",
            lambda root: shutil.rmtree(root / "engine_wiring/test"),
            f"{_HOME}/test: no such folder",
        ),
        Damage(
            "missing masks of an image",
            lambda root: shutil.rmtree(root / "engine_wiring/ground_truth/fastening/0090"),
            f"{_HOME}/test/fastening/0090.png: no mask at {_HOME}/ground_truth/fastening/0090/0000.png",
            ends=False,
        ),
        Damage(
            "wrong case",
            lambda root: (root / "engine_wiring/test/good").rename(root / "engine_wiring/test/Good"),
            f"{_HOME}/test/Good would be a kind of defect; good images lie in good/",
        ),
        Damage(
            "no configuration",
            lambda root: (root / "engine_wiring/defects_config.json").unlink(),
            "engine_wiring: no defects_config.json; spro_05 will be null",
            ends=False,
            told="",  # the reason stands beside the metric
        ),
        Damage(
            "a configuration that is none",
            lambda root: (root / "engine_wiring/defects_config.json").write_text('{"missing": 255}'),
            f"{_HOME}/defects_config.json: expected a list of defects, found ",
        ),
        Damage(
            "a value that the configuration has not",
            lambda root: mask(root / "engine_wiring/ground_truth/multiple/0090/0001.png", value=7),
            f"{_HOME}/ground_truth/multiple/0090/0001.png has the value 7, defects_config.json has 254, 255",
        ),
        Damage(
            "a mask of another size",
            lambda root: image(root / "engine_wiring/ground_truth/multiple/0090/0001.png", size=(64, 60)),
            f"{_HOME}/ground_truth/multiple/0090/0001.png is 64x60, its image is 64x64 (height x width)",
        ),
    ),
    "autovi, one kind": (
        Damage(
            "missing masks of all images",
            lambda root: shutil.rmtree(root / "pipe_staple/ground_truth"),
            "pipe_staple: none of 2 defect images has a mask",
            ends=False,
            told="pipe_staple: pixel metrics are null: none of 2 defect images has a mask",
        ),
    ),
}
