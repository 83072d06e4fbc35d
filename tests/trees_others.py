"""Small trees as the makers of VisA and BTAD ship them, for tests."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from parts import write

SIZE = (6, 8)
KINDS = ("melded", '"melded,weird candle wick"', "chunk of wax missing", "foreign particals on candle")
"""The label of each of a category's four defect images in image_anno.csv, as it stands there."""

# How many of the first normal and of the first defect images are learned from; all others are tested on.
LEARNED = {"1cls": (4, 0), "2cls_fewshot": (3, 1), "2cls_highshot": (5, 2)}


def picture(path: Path, value: int = 90) -> None:
    write(path, np.full((*SIZE, 3), value, np.uint8))


def mask(path: Path, defects: int, value: int = 255) -> None:
    """A mask in which the first `defects` pixels of a row have this value, and the others 0."""
    pixels = np.zeros(SIZE, np.uint8)
    pixels[2, :defects] = value
    write(path, pixels)


def visa_rows(category: str, split: str) -> list[str]:
    """The rows of one category in split_csv: six normal images, 0000 to 0005, and four with defects, 000 to 003."""
    normal, bad = LEARNED[split]
    images = f"{category}/Data/Images"
    rows = [
        f"{category},{'train' if n < normal else 'test'},normal,{images}/Normal/{n:04}.JPG,"
        for n in (3, 0, 5, 1, 2, 4)  # the authors' rows are in no order
    ]
    return rows + [
        f"{category},{'train' if n < bad else 'test'},anomaly,{images}/Anomaly/{n:03}.JPG,{category}/Data/Masks/Anomaly/{n:03}.png"
        for n in (2, 0, 1, 3)
    ]


def visa_original(root: Path, categories: Sequence[str] = ("candle", "pcb1")) -> Path:
    """As VisA_20220922.tar unpacks; mask n has n + 1 defect pixels, of the values 1 and 2."""
    for category in categories:
        home = root / category
        rows = ["image,label,mask"]
        for n in range(6):
            picture(home / f"Data/Images/Normal/{n:04}.JPG", 90 + n)
            rows.append(f"{category}/Data/Images/Normal/{n:04}.JPG,normal,")
        for n in range(4):
            picture(home / f"Data/Images/Anomaly/{n:03}.JPG", 120 + n)
            mask(home / f"Data/Masks/Anomaly/{n:03}.png", n + 1, value=1 + n % 2)
            rows.append(
                f"{category}/Data/Images/Anomaly/{n:03}.JPG,{KINDS[n]},{category}/Data/Masks/Anomaly/{n:03}.png"
            )
        (home / "image_anno.csv").write_text("\n".join(rows) + "\n")
    (root / "split_csv").mkdir()
    for split in LEARNED:
        lines = ["object,split,label,image,mask", *(row for name in categories for row in visa_rows(name, split))]
        (root / f"split_csv/{split}.csv").write_text("\n".join(lines) + "\n")
    (root / "LICENSE-DATASET").write_text("https://creativecommons.org/licenses/by/4.0/\n")
    return root


def visa_prepared(home: Path, categories: Sequence[str] = ("candle", "pcb1"), split: str = "1cls") -> Path:
    """As prepare_data.py of VisA's authors writes one split: masks are 0 and 255; mask n has n + 1 defect pixels."""
    normal, bad = LEARNED[split]
    for category in categories:
        for n in range(6):
            picture(home / category / ("train" if n < normal else "test") / f"good/{n:04}.JPG", 90 + n)
        for n in range(4):
            part = "train" if n < bad else "test"
            picture(home / category / part / f"bad/{n:03}.JPG", 120 + n)
            truth = "ground_truth/bad" if split == "1cls" else f"ground_truth/{part}/bad"
            mask(home / category / truth / f"{n:03}.png", n + 1)
    return home


def btad(root: Path) -> Path:
    """As BTech_Dataset_transformed: 01 has BMP images and PNG masks, 02 only PNG, 03 only BMP."""
    for category, image, truth in (("01", "bmp", "png"), ("02", "png", "png"), ("03", "bmp", "bmp")):
        for n in range(3):
            picture(root / category / f"train/ok/{n:03}.{image}", 80 + n)
        for n in range(2):
            picture(root / category / f"test/ok/{n:03}.{image}", 90 + n)
            picture(root / category / f"test/ko/{n:03}.{image}", 100 + n)
            mask(root / category / f"ground_truth/ko/{n:03}.{truth}", n + 1)
    return root
