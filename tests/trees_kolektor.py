"""Small trees as KolektorSDD and KolektorSDD2 unpack, and what may be wrong with them."""

from __future__ import annotations

import shutil
import zlib
from pathlib import Path

import numpy as np
import parts
from layouts import Damage, Layout

SIZE = (80, 64)
# Which parts of each item have a defect: every commutator of the whole set has one, two of them two.
DEFECTS = {"kos01": (1,), "kos02": (0,), "kos03": (3,), "kos04": (0, 2), "kos05": (2,), "kos06": (1,)}
LOST = "kos05/Part3"
"""The one image that there is not."""


def mask(path: Path, pixels: int, size: tuple[int, int] = SIZE) -> Path:
    """A grey mask in which so many pixels of a row are white; black where none is."""
    image = np.zeros(size, np.uint8)
    image[20, :pixels] = 255
    return parts.write(path, image)


def ksdd(root: Path) -> Path:
    """KolektorSDD: six items of four parts in place of 50 of eight; grey JPEGs and masks in BMP."""
    for n, (item, defects) in enumerate(DEFECTS.items()):
        for part in range(4):
            if f"{item}/Part{part}" != LOST:
                size = (SIZE[0] + n, SIZE[1])
                parts.write(root / f"{item}/Part{part}.jpg", np.full(size, 60 + 5 * n + part, np.uint8))
                mask(root / f"{item}/Part{part}_label.bmp", 1 + part if part in defects else 0, size)
    return root


def ksdd2(root: Path) -> Path:
    """KolektorSDD2: colour PNGs of many sizes, and the two stray copies."""
    for part, names, defects in (
        ("train", (10000, 10001, 10002, 10003, 10301), (10001,)),
        ("test", (20000, 20001, 20002, 20003, 20004), (20001, 20003)),
    ):
        for n, name in enumerate(names):
            size = (SIZE[0] - n, SIZE[1] + n)
            # As `layouts.paint` paints it: copies stay copies.
            picture = parts.surface(zlib.crc32(f"{part}/{name}.png".encode()), *size)
            parts.write(root / f"{part}/{name}.png", picture)
            mask(root / f"{part}/{name}_GT.png", 1 + n if name in defects else 0, size)
    for name in ("10301", "10301_GT"):
        shutil.copy(root / f"train/{name}.png", root / f"train/{name} (copy).png")
    return root


def paint_all(root: Path) -> None:
    """Pictures of KolektorSDD's tree that all differ."""
    for n, path in enumerate(sorted(root.glob("kos*/*.jpg"))):
        parts.write(path, parts.surface(n, SIZE[0] + int(path.parent.name[3:]) - 1, SIZE[1]))


def _broken(path: str):
    return lambda root: (root / path).write_bytes(b"BM")


def _gone(path: str):
    return lambda root: (root / path).unlink()


def swapped(root: Path, source: str, target: str) -> None:
    """An image in place of another, whose mask, a black one, has its size now."""
    shutil.copy(root / source, root / target)
    mask(root / target.replace(".jpg", "_label.bmp"), 0, (SIZE[0] + int(source[3:5]) - 1, SIZE[1]))


def _renamed(path: str, to: str):
    return lambda root: (root / path).rename(root / to)


LAYOUTS = {
    "kolektorsdd": Layout("kolektorsdd", "kolektorsdd", ksdd, (11, 5, 3), ("defect",), left_out=4, groups=True),
    "kolektorsdd fold_1": Layout(
        "kolektorsdd", "kolektorsdd", ksdd, (11, 5, 2), ("defect",), ("--split", "fold_1"), left_out=5, groups=True
    ),
    "kolektorsdd2": Layout("kolektorsdd2", "kolektorsdd2", ksdd2, (4, 3, 2), ("defect",), left_out=1),
}

_KSDD_DAMAGES = (
    Damage(
        "missing mask",
        _gone("kos02/Part1_label.bmp"),
        "{root}/kos02/Part1.jpg: no mask at {root}/kos02/Part1_label.bmp\n",
    ),
    Damage(
        "missing image",
        _gone("kos02/Part1.jpg"),
        "{root}/kos02/Part1_label.bmp: the mask of no image; there is no {root}/kos02/Part1.jpg\n",
    ),
    Damage(
        "broken mask",
        _broken("kos06/Part0_label.bmp"),
        "{root}/kos06/Part0_label.bmp: truncated: the BMP header is cut off, the file has 2 bytes\n",
    ),
    Damage(
        "wrong case",
        _renamed("kos03", "Kos03"),
        "{root}/kos03: no such folder; there is {root}/Kos03\n  Case counts in the names of folders: "
        "rename it to kos03.\n",
    ),
    Damage(
        "missing folders",
        lambda root: [shutil.rmtree(root / f"kos0{n}") for n in range(2, 6)],
        "{root} holds 2 commutators, and each of 3 folds needs one\n",
    ),
    Damage(
        "a missing folder",
        lambda root: shutil.rmtree(root / "kos06"),
        "{root} holds 5 commutators, the whole data set 50: its folds are not those of all\n",
        ends=False,
    ),
    Damage(
        "an image of another item",
        lambda root: swapped(root, "kos01/Part0.jpg", "kos02/Part2.jpg"),
        "{root}/kos02/Part2.jpg and {root}/kos01/Part0.jpg are equal byte for byte",
        ends=False,
    ),
    Damage(
        "a mask of another size",
        lambda root: mask(root / "kos02/Part1_label.bmp", 0, (60, 64)),
        "{root}/kos02/Part1_label.bmp is 60x64, its image {root}/kos02/Part1.jpg is 81x64 (height x width)\n",
    ),
    Damage(
        "one item twice",
        lambda root: shutil.copytree(root / "kos01", root / "kos1"),
        "two folders of one commutator: {root}/kos01 and {root}/kos1\n",
    ),
    Damage(
        "another folder",
        lambda root: shutil.copytree(root / "kos01", root / "extra"),
        "{root}/extra is passed over, with 8 images: KolektorSDD has folders kos01, kos02 and so on only\n",
        ends=False,
    ),
)
DAMAGES: dict[str, tuple[Damage, ...]] = {
    "kolektorsdd": _KSDD_DAMAGES,
    "kolektorsdd fold_1": _KSDD_DAMAGES[:1],
    "kolektorsdd2": (
        Damage(
            "missing folder",
            lambda root: shutil.rmtree(root / "test"),
            "{root}/test: no such folder\n  Unpack the archive again: it holds train/ and test/.\n",
        ),
        Damage(
            "missing mask",
            _gone("test/20002_GT.png"),
            "{root}/test/20002.png: no mask at {root}/test/20002_GT.png\n",
        ),
        Damage(
            "missing image",
            _gone("train/10002.png"),
            "{root}/train/10002_GT.png: the mask of no image; there is no {root}/train/10002.png\n",
        ),
        Damage(
            "wrong case",
            _renamed("train", "Train"),
            "{root}/train: no such folder; there is {root}/Train\n  Case counts in the names of folders: "
            "rename it to train.\n",
        ),
        Damage(
            "broken mask",
            _broken("train/10000_GT.png"),
            "{root}/train/10000_GT.png: truncated: the BMP header is cut off, the file has 2 bytes\n",
        ),
        Damage(
            "a copy that is none",
            lambda root: mask(root / "train/10301_GT (copy).png", 7),
            "{root}/train/10301_GT (copy).png is no copy of {root}/train/10301_GT.png: they differ\n",
        ),
        Damage(
            "a mask of another size",
            lambda root: mask(root / "test/20002_GT.png", 0, (60, 64)),
            "{root}/test/20002_GT.png is 60x64, its image {root}/test/20002.png is 78x66 (height x width)\n",
        ),
        Damage(
            "both cases",
            lambda root: (root / "Test").mkdir(),
            "two folders of one part: {root}/test and {root}/Test\n",
        ),
        Damage(
            "another folder",
            lambda root: shutil.copytree(root / "test", root / "val"),
            "{root}/val is passed over, with 10 images: KolektorSDD2 has train/ and test/ only\n",
            ends=False,
        ),
        Damage(
            "the stray copies, as they are shipped",
            lambda root: None,
            "{root}/train/10301_GT (copy).png is passed over: a copy of {root}/train/10301_GT.png, equal byte for "
            "byte\n",
            ends=False,
        ),
    ),
}
