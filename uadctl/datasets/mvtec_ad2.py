"""MVTec AD 2: a public test set with ground truth, and two without (Heckler-Kram et al., 2025, arXiv 2503.21622).

    ROOT/<category>/train/good/*.png                        000_regular.png, …
    ROOT/<category>/validation/good/*.png
    ROOT/<category>/test_public/{good,bad}/*.png            000_regular.png, 000_overexposed.png, 000_shift_1.png, …
    ROOT/<category>/test_public/ground_truth/bad/<stem>_mask.png
    ROOT/<category>/test_private/*.png                      000_regular.png, …
    ROOT/<category>/test_private_mixed/*.png                000_mixed.png, …

The categories are can, fabric, fruit_jelly, rice, sheet_metal, vial, wallplugs and walnuts; others are read as well,
and ROOT may be one category's folder. A mask may also be named like its image. The images of the private splits lie
flat in their folder, and whether they are good is known to MVTec's evaluation server alone; who knows it too may sort
them into good/ and bad/, with ground_truth/bad/ beside these or without. Images of train/ and validation/ in other
folders than good/ are left out.

The layout is that of the archive which MVTec publishes, and of the loader in the code published with it.
"""

from __future__ import annotations

import os

from uadctl.datasets.base import UNKNOWN, Dataset, Where
from uadctl.datasets.sorted_folders import (
    GOOD,
    Folders,
    Truth,
    category_folders,
    find_category,
    given_images,
    homes_of,
    is_category,
    scored_images,
)
from uadctl.errors import DataError
from uadctl.imaging.listing import is_folder, joined, relative_images
from uadctl.records import Sample

SPLITS = ("test_public", "test_private", "test_private_mixed")
"""The test splits, which are folders of a category; the first is the default, and the one with ground truth."""

PRIVATE_SPLITS = SPLITS[1:]
"""Those whose ground truth MVTec's evaluation server alone has."""

_BAD = "bad"
_FOLDERS = Folders(bad=(_BAD,))
_TRUTH = "ground_truth"


def recognises(root: str) -> bool:
    """Whether a folder holds a category with one of the test splits."""
    return bool(category_folders(root, is_own))


def list_categories(where: Where) -> list[str]:
    """The categories below the root, sorted by bytes; if it is itself a category's folder, its name alone.

    Beside a whole one, a folder with any part of the layout is one too, and `load` says what it lacks. Raises
    DataError where it is missing, and NoLayout where none has one of the test splits.
    """
    return list(_homes(where.root))


def list_splits(where: Where, category: str) -> list[str]:
    """The test splits that a category has on disk, in the order of `SPLITS`. Raises DataError as `load` does."""
    return _splits_in(find_category(where.root, category, is_own, _homes))


def load(where: Where, category: str) -> Dataset:
    """List one category, with the test images of the split asked for. Nothing is decoded.

    An image of which it is not known whether it is good has label -1 and no mask. A defect image of the public split
    without mask keeps none and says where it was looked for, and so does one of a private split that has ground truth
    at all. Raises DataError where the category or the split is missing, there is no training or no test image, or an
    image lies where it would be passed over.
    """
    home = find_category(where.root, category, is_own, _homes)
    given = given_images(home, category)
    return Dataset(
        name="mvtec_ad2",
        category=category,
        root=where.root,
        train=given.train,
        validation=given.validation,
        test=_test(home, category, where.split or SPLITS[0]),
        left_out=given.left_out,
    )


def _splits_in(folder: str) -> list[str]:
    return [split for split in SPLITS if is_folder(joined(folder, split))]


def is_own(folder: str) -> bool:
    """Whether a folder is a category with one of the test splits."""
    return is_category(folder) and _has_sign(folder)


def _has_sign(folder: str) -> bool:
    return bool(_splits_in(folder))


def _homes(root: str) -> dict[str, str]:
    return homes_of(root, is_own, "MVTec AD 2 category", "train/good", SPLITS[0], has_sign=_has_sign)


def _test(home: str, category: str, split: str) -> tuple[Sample, ...]:
    present = _splits_in(home)
    if split not in present:
        raise DataError(
            f"{joined(home, split)}: no such folder", help=f"{category} has the splits: {', '.join(present) or 'none'}"
        )
    # The masks lie below the split's own folder.
    names = [name for name in relative_images(joined(home, split)) if not name.startswith(f"{_TRUTH}/")]
    if split == SPLITS[0]:
        truth = Truth(home, f"{split}/{_TRUTH}")
        return scored_images(home, category, folder=split, names=names, folders=_FOLDERS, truth=truth)
    if not names:
        raise DataError(f"{joined(home, split)} holds no image", help="It must hold the images to be scored.")
    samples = [_unknown(home, category, split, name) for name in names if "/" not in name]
    sorted_out = [name for name in names if "/" in name]
    if sorted_out:
        _check_kinds(joined(home, split), sorted_out)
        has_truth = is_folder(joined(home, f"{split}/{_TRUTH}"))
        truth = Truth(home, f"{split}/{_TRUTH}", expected="{}_mask.png" if has_truth else None)
        samples += scored_images(home, category, folder=split, names=sorted_out, folders=_FOLDERS, truth=truth)
    return tuple(sorted(samples, key=lambda sample: os.fsencode(sample.relative)))


def _unknown(home: str, category: str, split: str, name: str) -> Sample:
    return Sample(
        path=joined(home, f"{split}/{name}"),
        relative=f"{split}/{name}",
        split="test",
        label=-1,
        defect=UNKNOWN,
        category=category,
    )


def _check_kinds(folder: str, names: list[str]) -> None:
    """In a split whose images are not known to be good or bad, only these two names say which they are."""
    for name in names:
        if name.partition("/")[0] not in (GOOD, _BAD):
            raise DataError(
                f"{joined(folder, name)} lies in a folder that is neither {GOOD}/ nor {_BAD}/",
                help=f"Whether the images of {folder} are good is not known: they lie in it itself, or in these two.",
            )
