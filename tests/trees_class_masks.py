"""Small trees as the makers of the magnetic tiles and of NEU-Seg ship them, for tests."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from layouts import Damage, Layout
from parts import surface, write

# Height and width: like those of the real tiles, none of which has the next one's.
SIZES = ((64, 138), (138, 64), (64, 160), (64, 64), (90, 90))
FREE = (
    "exp1_num_2000",  # the fifth of the numbers below, so tested on; as text it would be the second
    "exp5_num_2000",  # the same tile in other light
    "exp1_num_30",  # also among the cracks, so tested on
    "exp1_num_4",
    "exp2_num_90",
    "exp3_num_90",
    "exp6_num_100",
    "exp4_num_5000",
)
DEFECTS = {
    "Blowhole": ("exp1_num_108719",),
    "Break": ("exp2_num_7",),
    "Crack": ("exp3_num_30", "exp6_num_31"),
    "Fray": ("exp4_num_8",),
    "Uneven": ("exp5_num_9",),
}


def square(height: int, width: int, value: int) -> np.ndarray:
    """A mask of zeros with a square of 12 pixels a side that have this value."""
    mask = np.zeros((height, width), np.uint8)
    mask[20:32, 24:36] = value
    return mask


ONCE = ("exp1_num_2000", "exp1_num_4", "exp2_num_90", "exp6_num_100", "exp4_num_5000")
"""Of the good tiles one shot each, of no number that is also among the defects: the last of them is tested on."""


def magnetic_tile(root: Path, free: Sequence[str] = FREE) -> Path:
    """As Magnetic-tile-defect-datasets.-master unpacks: every image has a mask beside it, that of a good one is black."""
    shots = [("Free", name, 0) for name in free]
    shots += [(kind, name, 255) for kind, names in DEFECTS.items() for name in names]
    for n, (kind, name, value) in enumerate(shots):
        size = SIZES[n % len(SIZES)]
        write(root / f"MT_{kind}/Imgs/{name}.jpg", surface(n, *size)[..., 0])
        write(root / f"MT_{kind}/Imgs/{name}.png", square(*size, value))
    (root / "README.md").write_text("# The dataset of magnetic tiles\n")
    write(root / "dataset.jpg", surface(99))
    return root


CLASSES = ("inclusion", "patches", "scratches")
TRAINING = {"000001": 0, "000002": 0, "000003": 0, "000004": 2}
TEST = {"000101": 0, "000102": 0, "000103": 1, "000104": 3, "000105": (1, 3)}


def neu_seg(root: Path) -> Path:
    """As NEU-Seg, but with good images: a mask's pixels are the numbers of classes, 0 is the background."""
    for split, images in (("training", TRAINING), ("test", TEST)):
        for name, values in images.items():
            image, mask = surface(int(name)), np.zeros((64, 64), np.uint8)
            for i, value in enumerate(values if isinstance(values, tuple) else (values,)):
                if value:
                    mask[20 + 16 * i : 32 + 16 * i, 24:36] = value
            image[mask > 0] = 255
            write(root / f"images/{split}/{name}.jpg", image)
            write(root / f"annotations/{split}/{name}.png", mask)
    return root


def _rename(old: str, new: str):
    return lambda root: (root / old).rename(root / new)


def one_shot_each(root: Path) -> Path:
    return magnetic_tile(root, ONCE)


KINDS = tuple(kind.lower() for kind in DEFECTS)
LAYOUTS = {
    "magnetic_tile": Layout("magnetic_tile", "magnetic_tile", magnetic_tile, (5, 3, 6), KINDS, groups=True),
    "magnetic_tile one shot": Layout("magnetic_tile", "magnetic_tile", one_shot_each, (4, 1, 6), KINDS),
}
DAMAGES: dict[str, tuple[Damage, ...]] = {
    "magnetic_tile": (
        Damage(
            "missing folder",
            _rename("MT_Free", "good tiles"),
            "error: {root}/MT_Free: no such folder\n",
        ),
        Damage(
            "missing folder of images",
            _rename("MT_Crack/Imgs", "MT_Crack/images"),
            "error: {root}/MT_Crack/Imgs: no such folder\n",
        ),
        Damage(
            "missing kind of defect",
            _rename("MT_Fray", "fray"),
            "magnetic_tile: {root}/MT_Fray: no such folder, so that this kind of defect is not tested on\n",
            ends=False,
        ),
        Damage(
            "missing mask",
            lambda root: (root / "MT_Crack/Imgs/exp6_num_31.png").unlink(),
            "warning: {root}/MT_Crack/Imgs/exp6_num_31.jpg: no mask at {root}/MT_Crack/Imgs/exp6_num_31.png\n",
            ends=False,
        ),
        Damage(
            "missing image",
            lambda root: (root / "MT_Crack/Imgs/exp6_num_31.jpg").unlink(),
            "error: {root}/MT_Crack/Imgs/exp6_num_31.png: a mask without image\n",
        ),
        Damage(
            "wrong case",
            _rename("MT_Free", "mt_free"),
            "error: {root}/mt_free: no folder of this name is known; there should be MT_Free\n"
            "  Case counts in the names of folders: rename it to MT_Free.\n",
        ),
        Damage(
            "wrong case of the folder of images",
            _rename("MT_Break/Imgs", "MT_Break/imgs"),
            "error: {root}/MT_Break/Imgs: no such folder; there is {root}/MT_Break/imgs\n"
            "  Case counts in the names of folders: rename it to Imgs.\n",
        ),
        Damage(
            "two cases",
            lambda root: shutil.copytree(root / "MT_Break/Imgs", root / "MT_Break/imgs"),
            "error: {root}/MT_Break/Imgs and {root}/MT_Break/imgs differ in case alone\n"
            "  Case counts in names: keep one of them, as Imgs.\n",
        ),
        Damage(
            "copy of the good tiles",
            lambda root: shutil.copytree(root / "MT_Free", root / "MT_Free_old"),
            "error: {root}/MT_Free_old would be a kind of defect; good tiles lie in MT_Free\n",
        ),
        Damage(
            "further kind of defect",
            lambda root: shutil.copytree(root / "MT_Break", root / "MT_Break (copy)"),
            "magnetic_tile: {root}/MT_Break (copy) is none of the 5 published kinds of defect; its images are tested on as "
            "break (copy)\n",
            ends=False,
        ),
        Damage(
            "image beside the folder",
            _rename("MT_Break/Imgs/exp2_num_7.jpg", "MT_Break/exp2_num_7.jpg"),
            "error: {root}/MT_Break/exp2_num_7.jpg does not lie in Imgs\n",
        ),
    ),
    "magnetic_tile one shot": (),
}
