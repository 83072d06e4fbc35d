"""VAD, the Valeo Anomaly Dataset: one part of a production line, without masks (Baitieva et al., CVPR 2024).

    ROOT/vad/train/{good,bad}/*.png
    ROOT/vad/validation/good/*.png                       (optional: one's own)
    ROOT/vad/test/{good,bad,bad_unseen_defects}/*.png
    ROOT/vad/low_shot_train.json                         a choice of train/bad for supervised methods: not read

ROOT may also be vad/ itself; the category is called as its folder. The data set is made for supervised detection:
train/bad is left out here, never learned from. bad_unseen_defects holds kinds that train/bad has not; to a method that
learns from good images alone, all are unseen. Who has set good images apart to set the threshold may keep them as
MVTec AD does, in validation/good. Who has drawn masks may, too, in ground_truth/<kind>/<stem>_mask.png, if the folder
is called vad; without ground_truth/, none are missed.

Source of the layout: https://github.com/abc-125/vad (README).
"""

from __future__ import annotations

from uadctl.datasets.base import Dataset, Where, own_name
from uadctl.datasets.sorted_folders import (
    GOOD,
    Folders,
    Truth,
    category_folders,
    find_category,
    given_images,
    homes_of,
    misnamed_validation,
    scored_images,
)
from uadctl.errors import DataError
from uadctl.imaging.listing import is_folder, joined, subfolders

_UNSEEN = "bad_unseen_defects"
_KINDS = ("bad", _UNSEEN)
_FOLDERS = Folders(bad=_KINDS)
_NAME = "vad"
_TRUTH = "ground_truth"


def recognises(root: str) -> bool:
    """Whether a folder is this data set, or holds it; see `is_own`."""
    return bool(category_folders(root, is_own))


def list_categories(where: Where) -> list[str]:
    """The name of the data set's folder, which the root is or holds.

    Beside one, a folder with any part of the layout is listed too, and `load` says what it lacks. Raises DataError
    where the root is missing, and NoLayout where it holds none.
    """
    return list(_homes(where.root))


def load(where: Where, category: str) -> Dataset:
    """List it. Nothing is decoded.

    Raises DataError where the category is missing, has no training or no test image, or an image lies where it would be
    passed over, as in a validation split by another name.
    """
    home = find_category(where.root, category, is_own, _homes)
    misnamed = misnamed_validation(home, "validation")
    if misnamed:
        raise DataError(misnamed)
    given = given_images(home, category, folders=_FOLDERS)
    truth = Truth(home, expected="{}_mask.png" if is_folder(joined(home, _TRUTH)) else None)
    return Dataset(
        name="vad",
        category=category,
        root=where.root,
        train=given.train,
        validation=given.validation,
        test=scored_images(home, category, folders=_FOLDERS, truth=truth),
        left_out=given.left_out,
    )


def is_own(folder: str) -> bool:
    """Whether a folder is this data set, in whatever case.

    Called vad, it has test/bad_unseen_defects; or bad images in both train/ and test/, as VisA's visa_pytorch may have
    too, and no ground_truth/. By another name, its test/ holds good, bad and bad_unseen_defects and nothing else, and
    there is no ground_truth/: a category of MVTec AD's layout may have these among its kinds of defect.
    """
    test, has_truth = joined(folder, "test"), is_folder(joined(folder, _TRUTH))
    kinds = {kind.casefold() for kind in subfolders(test)} if is_folder(test) else set()
    if own_name(folder).casefold() != _NAME:
        return kinds == {GOOD, *_KINDS} and not has_truth
    if _UNSEEN in kinds:
        return True
    return not has_truth and all(is_folder(joined(folder, f"{part}/bad")) for part in ("train", "test"))


def _homes(root: str) -> dict[str, str]:
    return homes_of(root, is_own, "VAD", "train/good", f"test/{_UNSEEN}")
