"""Small trees of the data sets that vary the layout of MVTec AD, with the folders and file names they are shipped with.

The images are 64x72 and flat, but for the scans of MVTec 3D-AD, which are float TIFFs. Each builder returns its root.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import trees_mvtec
from layouts import Damage, Layout

SIZE = (64, 72)

THREE_D_KINDS = {"bagel": ("combined", "crack"), "tire": ("combined", "cut", "hole")}
MPDD_KINDS = {"bracket_black": ("hole", "scratches"), "tubes": ("anomalous",)}


def picture(path: Path, value: int = 120) -> Path:
    return trees_mvtec.image(path, size=SIZE, value=value)


def mask(path: Path, *, defects: int = 1) -> Path:
    """A mask with a rectangle of 20 pixels in each of the first `defects` of its rows from the fourth; black for 0."""
    return trees_mvtec.mask(path, size=SIZE, rows=(4, 4 + defects), columns=(10, 30))


def scan(path: Path) -> Path:
    """Three float coordinates a pixel, as MVTec 3D-AD keeps them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    done, data = cv2.imencode(".tiff", np.full((*SIZE, 3), 0.5, np.float32))
    assert done
    path.write_bytes(data.tobytes())
    return path


def mvtec_3d(root: Path, categories: Sequence[str] = ("bagel", "tire"), truth: str = "gt") -> Path:
    """MVTec 3D-AD: each category has 3 training, 2 validation, 2 good test images, and 2 of each of its defects.

    truth: the folder of masks, "ground_truth" in 3D-ADAM.
    """
    for category in categories:
        home = root / category
        places = [("train/good", 3), ("validation/good", 2), ("test/good", 2)]
        places += [(f"test/{kind}", 2) for kind in THREE_D_KINDS.get(category, ("dent",))]
        for place, count in places:
            for number in range(count):
                picture(home / place / f"rgb/{number:03}.png")
                scan(home / place / f"xyz/{number:03}.tiff")
                if place.startswith("test/"):
                    mask(home / place / truth / f"{number:03}.png", defects=0 if place == "test/good" else number + 1)
        (home / "calibration").mkdir()
        (home / "calibration/camera_parameters.json").write_text("{}")
        for name in ("license.txt", "readme.txt"):
            (home / name).write_text("…")
    return root


def mpdd(root: Path, categories: Sequence[str] = ("bracket_black", "tubes")) -> Path:
    """MPDD: each category has 3 training, 2 good test images, and 2 of each of its defects."""
    for category in categories:
        home = root / category
        for number in range(3):
            picture(home / f"train/good/{number:03}.png")
        for number in range(2):
            picture(home / f"test/good/{number:03}.png")
            for kind in MPDD_KINDS.get(category, ("defect",)):
                picture(home / f"test/{kind}/{number:03}.png")
                mask(home / f"ground_truth/{kind}/{number:03}_mask.png", defects=number + 1)
    return root


def bmad(root: Path) -> Path:
    """BMAD: Brain has masks, Histopathology has none; each has 3 training images, 2 good ones and a bad one to
    validate, and 2 good and 3 bad ones to test on.
    """
    brain, tissue = root / "Brain", root / "Histopathology"
    for number in range(3):
        picture(brain / f"train/good/img/0000{number}_60.png")
        picture(brain / f"test/Ungood/img/0012{number}_70.png")
        mask(brain / f"test/Ungood/label/0012{number}_70.png", defects=number + 1)
        picture(tissue / f"train/good/100{number}.png")
        picture(tissue / f"test/Ungood/10{number}.png")
    for number in range(2):
        for split in ("valid", "test"):
            picture(brain / f"{split}/good/img/0002{number}_96.png")
            picture(tissue / f"{split}/good/100{number}.png")
    picture(brain / "valid/Ungood/img/00124_60.png")
    mask(brain / "valid/Ungood/label/00124_60.png")
    picture(tissue / "valid/Ungood/1000.png")
    return root


def vad(root: Path) -> Path:
    """VAD: 4 good training images and 2 bad ones, 2 good test images, and 2 and 1 bad ones."""
    counts = {"train/good": 4, "train/bad": 2, "test/good": 2, "test/bad": 2, "test/bad_unseen_defects": 1}
    for place, count in counts.items():
        for number in range(count):
            picture(root / "vad" / place / f"{number:04}.png")
    (root / "vad/low_shot_train.json").write_text('{"bad": ["train/bad/0000.png"]}')
    return root


LAYOUTS: dict[str, Layout] = {
    "mvtec_3d": Layout("mvtec_3d", "bagel", mvtec_3d, (3, 2, 4), THREE_D_KINDS["bagel"], validation=2),
    "mpdd": Layout("mpdd", "bracket_black", mpdd, (3, 2, 4), MPDD_KINDS["bracket_black"]),
    "bmad": Layout("bmad", "Brain", bmad, (3, 2, 3), ("Ungood",), validation=2, left_out=1),
    "bmad without masks": Layout(
        "bmad", "Histopathology", bmad, (3, 2, 3), ("Ungood",), masks=False, validation=2, left_out=1
    ),
    "vad": Layout("vad", "vad", vad, (4, 2, 3), ("bad", "bad_unseen_defects"), masks=False, left_out=2),
}

DAMAGES: dict[str, tuple[Damage, ...]] = {
    "mvtec_3d": (
        Damage(
            "missing folder",
            lambda root: shutil.rmtree(root / "bagel/test/crack/rgb"),
            "{root}/bagel/test/crack/rgb: no such folder",
        ),
        Damage(
            "missing mask",
            lambda root: (root / "bagel/test/crack/gt/001.png").unlink(),
            "{root}/bagel/test/crack/rgb/001.png: no mask at {root}/bagel/test/crack/gt/001.png",
            ends=False,
        ),
        Damage(
            "wrong case",
            lambda root: (root / "bagel/train/good/rgb").rename(root / "bagel/train/good/RGB"),
            "{root}/bagel/train/good/rgb: no such folder; there is {root}/bagel/train/good/RGB",
        ),
        Damage(
            "image beside its folder",
            lambda root: picture(root / "bagel/test/crack/007.png"),
            "{root}/bagel/test/crack/007.png does not lie in rgb/",
        ),
    ),
    "mpdd": (
        Damage(
            "missing folder",
            lambda root: shutil.rmtree(root / "bracket_black/train/good"),
            "{root}/bracket_black/train/good: no such folder",
        ),
        Damage(
            "missing mask",
            lambda root: (root / "bracket_black/ground_truth/hole/000_mask.png").unlink(),
            "{root}/bracket_black/test/hole/000.png: no mask at {root}/bracket_black/ground_truth/hole/000_mask.png",
            ends=False,
        ),
        Damage(
            "wrong case",
            lambda root: (root / "bracket_black/train").rename(root / "bracket_black/Train"),
            "{root}/bracket_black/train/good: no such folder; there is {root}/bracket_black/Train",
        ),
    ),
    "bmad": (
        Damage(
            "missing folder",
            lambda root: shutil.rmtree(root / "Brain/test/Ungood/img"),
            "{root}/Brain/test/Ungood/img: no such folder",
        ),
        Damage(
            "missing mask",
            lambda root: (root / "Brain/test/Ungood/label/00121_70.png").unlink(),
            "{root}/Brain/test/Ungood/img/00121_70.png: no mask at {root}/Brain/test/Ungood/label/00121_70.png",
            ends=False,
        ),
        Damage(
            "wrong case",
            lambda root: (root / "Brain/test/Ungood").rename(root / "Brain/test/ungood"),
            "{root}/Brain/test/Ungood: no such folder; there is {root}/Brain/test/ungood",
        ),
        Damage(
            "validation split by another name",
            lambda root: (root / "Brain/valid").rename(root / "Brain/validation"),
            "{root}/Brain/validation holds images that would be passed over: the validation split is valid/\n"
            "  Rename it to valid.\n",
        ),
    ),
    "bmad without masks": (
        Damage(
            "missing folder",
            lambda root: shutil.rmtree(root / "Histopathology/train/good"),
            "{root}/Histopathology/train/good holds no image",
        ),
        Damage(
            "wrong case",
            lambda root: (root / "Histopathology/valid").rename(root / "Histopathology/Valid"),
            "{root}/Histopathology/valid: no such folder; there is {root}/Histopathology/Valid",
        ),
    ),
    "vad": (
        Damage(
            "missing folder",
            lambda root: shutil.rmtree(root / "vad/train/good"),
            "{root}/vad/train/good: no such folder",
        ),
        Damage(
            "wrong case",
            lambda root: (root / "vad/train").rename(root / "vad/Train"),
            "{root}/vad/train/good: no such folder; there is {root}/vad/Train",
        ),
        Damage(
            "wrong case of a kind",
            lambda root: (root / "vad/test/bad").rename(root / "vad/test/Bad"),
            "{root}/vad/test/bad: no such folder; there is {root}/vad/test/Bad",
        ),
    ),
}
