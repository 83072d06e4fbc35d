"""A small tree as Real-IAD is published: images by part and view, masks beside them, and JSON files that say the split.

Each JSON file follows the form of the real ones; images and masks are flat pictures in their formats.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from layouts import Damage, Layout
from parts import write

SIZE = (64, 72)
VIEWS = 5
SHOWS_DEFECT = (1, 2, 4)
"""The views of a part in NG that show its defect; in the others it is not seen."""

GOOD_PARTS = 7
LEARNED = 3
"""So many of the good parts are learned from, the first ones: too few for a bench to hold any of them out."""

NG_PARTS = (("HS", 64), ("HS", 71), ("QS", 1))
"""Kind of defect and number of each bad part."""


def picture(path: Path, value: int = 90) -> Path:
    return write(path, np.full((*SIZE, 3), value, np.uint8))


def mask(path: Path, value: int = 255) -> Path:
    """A mask whose defect has 8 x 12 pixels."""
    pixels = np.zeros(SIZE, np.uint8)
    pixels[20:28, 30:42] = value
    return write(path, pixels)


def stem(category: str, number: int, kind: str, view: int) -> str:
    """As files are called; those of audiojack have two underscores."""
    between = "__" if category == "audiojack" else "_"
    return f"{category}{between}{number:04}_{kind if kind == 'OK' else f'NG_{kind}'}_C{view}_20231023{view:02}2610"


def entry(category: str, folder: str, name: str, kind: str) -> dict[str, Any]:
    """An image as the JSON files have it."""
    masked = f"{folder}/{name}.png" if kind != "OK" else None
    return {
        "category": category,
        "anomaly_class": kind,
        "image_path": f"{folder}/{name}.jpg",
        "mask_path": masked,
    }


def entries(
    category: str, views: Sequence[int] = range(1, VIEWS + 1), *, learned: int = LEARNED
) -> dict[str, list[dict[str, Any]]]:
    """Both sides of a split with these views, in no order, as the real ones are."""
    given: dict[str, list[dict[str, Any]]] = {"train": [], "test": []}
    for kind, number in reversed(NG_PARTS):
        for view in views:
            seen = kind if view in SHOWS_DEFECT else "OK"
            given["test"].append(entry(category, f"NG/{kind}/S{number:04}", stem(category, number, kind, view), seen))
    for number in (3, 1, 2, 5, 4, 7, 6):
        side = given["train" if number <= learned else "test"]
        side += [entry(category, f"OK/S{number:04}", stem(category, number, "OK", view), "OK") for view in views]
    return given


def document(category: str, given: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    return {"meta": {"normal_class": "OK", "prefix": f"{category}/", "pre_transform": None}, **given}


def write_json(path: Path, value: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=1))
    return path


def changed(path: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    """A JSON file after a change of what it says."""
    value = json.loads(path.read_text())
    change(value)
    return write_json(path, value)


def write_images(home: Path, category: str) -> None:
    """All views of all parts, and the masks of those that show a defect."""
    for side in entries(category).values():
        for n, one in enumerate(side):
            picture(home / one["image_path"], 80 + n)
            if one["mask_path"]:
                mask(home / one["mask_path"])


def real_iad(
    root: Path,
    categories: Sequence[str] = ("audiojack", "toy_brick"),
    *,
    layout: str = "1024",
    jsons: str = "",
    learned: int = LEARNED,
) -> Path:
    """Images of one layout, and both splits. jsons: the folder below the root that holds those of the JSON files."""
    for category in categories:
        write_images(root / f"realiad_{layout}" / category, category)
        write_json(
            root / jsons / f"realiad_jsons/{category}.json", document(category, entries(category, learned=learned))
        )
        sv = entries(category, views=(1,), learned=learned)
        write_json(root / jsons / f"realiad_jsons_sv/{category}.json", document(category, sv))
        for rate in ("0.0", "0.4"):
            noisy = entries(category)
            noisy["train"] += noisy["test"][-5:]
            write_json(root / jsons / f"realiad_jsons_fuiad_{rate}/{category}.json", document(category, noisy))
    return root


def unpacked(root: Path) -> Path:
    """With the JSON files one folder deeper, and the small images."""
    return real_iad(root, layout="256", jsons="realiad_jsons")


NOT_SEEN = len(NG_PARTS) * (VIEWS - len(SHOWS_DEFECT))
LAYOUTS: dict[str, Layout] = {
    "real_iad": Layout(
        "real_iad",
        "audiojack",
        real_iad,
        (LEARNED * VIEWS, (GOOD_PARTS - LEARNED) * VIEWS + NOT_SEEN, len(NG_PARTS) * len(SHOWS_DEFECT)),
        ("HS", "QS"),
        groups=True,
    ),
    "real_iad single_view": Layout(
        "real_iad",
        "toy_brick",
        unpacked,
        (LEARNED, GOOD_PARTS - LEARNED, len(NG_PARTS)),
        ("HS", "QS"),
        ("--split", "single_view"),
    ),
}


def _views_of_a_bad_part_are_learned(root: Path) -> None:
    """Views of S0064 that show no defect move to the training images; one that does as well."""
    path = root / "realiad_jsons/audiojack.json"
    changed(path, lambda value: value["train"].extend(taken(value["test"], "NG/HS/S0064/", (3, 4))))


def _one_folder_deeper(root: Path) -> None:
    """The category as it lies where its archive is unpacked in a folder made for it."""
    home = root / "realiad_1024/audiojack"
    home.rename(root / "audiojack")
    home.mkdir()
    (root / "audiojack").rename(home / "audiojack")


def taken(side: list[dict[str, Any]], folder: str, views: Sequence[int]) -> list[dict[str, Any]]:
    """The entries of these views of a part, taken out of one side."""
    found = [one for one in side if one["image_path"].startswith(folder) and _view(one) in views]
    side[:] = [one for one in side if one not in found]
    return found


def _view(one: dict[str, Any]) -> int:
    return int(one["image_path"].rpartition("_C")[2][0])


S64 = "NG/HS/S0064/" + stem("audiojack", 64, "HS", 1)
DAMAGES: dict[str, tuple[Damage, ...]] = {
    "real_iad": (
        Damage(
            "missing mask",
            lambda root: (root / f"realiad_1024/audiojack/{S64}.png").unlink(),
            "{root}/realiad_1024/audiojack/"
            + f"{S64}.jpg: no mask at "
            + "{root}/realiad_1024/audiojack/"
            + f"{S64}.png",
            ends=False,
        ),
        Damage(
            "missing image",
            lambda root: (root / f"realiad_1024/audiojack/{S64}.jpg").unlink(),
            "{root}/realiad_1024/audiojack/" + f"{S64}.jpg: no such file",
        ),
        Damage(
            "missing folder",
            lambda root: shutil.rmtree(root / "realiad_1024/audiojack"),
            "{root}/realiad_1024/audiojack: no such folder",
        ),
        Damage(
            "no JSON file",
            lambda root: (root / "realiad_jsons/audiojack.json").unlink(),
            "{root}/realiad_jsons/audiojack.json: no such file; it says which images of "
            "{root}/realiad_1024/audiojack to learn from and which to test on",
        ),
        Damage(
            "wrong case",
            lambda root: (root / "realiad_1024").rename(root / "Realiad_1024"),
            "{root}/realiad_1024: no such folder; there is {root}/Realiad_1024",
        ),
        Damage(
            "two cases",
            lambda root: shutil.copytree(root / "realiad_1024", root / "Realiad_1024"),
            "{root}/realiad_1024 and {root}/Realiad_1024 differ in case alone\n"
            "  Case counts in names: keep one of them, as realiad_1024.\n",
        ),
        Damage(
            "wrong case in a category",
            lambda root: (root / "realiad_1024/audiojack/NG").rename(root / "realiad_1024/audiojack/Ng"),
            "{root}/realiad_1024/audiojack/NG: no such folder; there is {root}/realiad_1024/audiojack/Ng\n"
            "  Case counts in the names of folders: rename it to NG.\n",
        ),
        Damage(
            "one folder deeper",
            _one_folder_deeper,
            "{root}/realiad_1024/audiojack/audiojack holds 50 images one folder too deep\n"
            "  Move what it holds to {root}/realiad_1024/audiojack.\n",
        ),
        Damage(
            "two layouts",
            lambda root: shutil.copytree(root / "realiad_1024", root / "realiad_raw"),
            "{root} holds Real-IAD in 2 layouts: 1024 in {root}/realiad_1024, raw in {root}/realiad_raw",
        ),
        Damage(
            "views on both sides",
            _views_of_a_bad_part_are_learned,
            "audiojack: 1 part is in two splits, the first is NG/HS/S0064: {root}/realiad_1024/audiojack/NG/HS/S0064/",
            ends=False,
        ),
        Damage(
            "a defect is learned",
            _views_of_a_bad_part_are_learned,
            "audiojack: 1 defect image",
            ends=False,
        ),
    ),
    "real_iad single_view": (
        Damage(
            "missing folder of the split",
            lambda root: shutil.rmtree(root / "realiad_jsons/realiad_jsons_sv"),
            "{root}/realiad_jsons_sv: no such folder",
        ),
        Damage(
            "wrong case",
            lambda root: (root / "realiad_jsons/realiad_jsons_sv").rename(root / "realiad_jsons/realiad_jsons_SV"),
            "{root}/realiad_jsons/realiad_jsons_sv: no such folder; there is {root}/realiad_jsons/realiad_jsons_SV",
        ),
    ),
}
