"""MVTec 3D-AD: its colour images (Bergmann et al., VISAPP 2022). The 3D scans beside them are not read.

    ROOT/<category>/{train,validation}/good/rgb/*.png
    ROOT/<category>/test/{good,<defect>}/rgb/*.png
    ROOT/<category>/test/{good,<defect>}/gt/*.png       masks, named like the images; those of good are black
    ROOT/<category>/<split>/<kind>/xyz/*.tiff           3D scans, three float coordinates a pixel

The categories are bagel, cable_gland, carrot, cookie, dowel, foam, peach, potato, rope and tire; others are read as
well, and ROOT may be one category's folder. 3D-ADAM, which has other categories, keeps its masks in ground_truth/ in
place of gt/, and is read too. What else lies in a category's folder, such as calibration/, is no part of a split.
Images of train/ and validation/ in other folders than good/ are left out. "combined" is a kind of defect as any other:
parts with several of them.

The layout is that of the archive which MVTec publishes; that of 3D-ADAM is known from anomalib's loader for it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from uadctl.datasets.base import Dataset, Where
from uadctl.datasets.kind_folders import Inside, sorted_images
from uadctl.datasets.sorted_folders import BY_DEFECT, category_folders, find_category, homes_of
from uadctl.imaging.listing import is_folder, joined, subfolders

if TYPE_CHECKING:
    from uadctl.records import Split

_SPLITS: dict[Split, str] = {"train": "train", "validation": "validation", "test": "test"}
_INSIDE = Inside("rgb", masks=("gt", "ground_truth"), unread=("xyz",))


def recognises(root: str) -> bool:
    """Whether a folder holds a category with scans or masks beside the images; see `is_own`."""
    return bool(category_folders(root, is_own))


def list_categories(where: Where) -> list[str]:
    """The categories below the root, sorted by bytes; if it is itself a category's folder, its name alone.

    Beside one, a folder with any part of the layout is one too, and `load` says what it lacks. Raises DataError where
    the root is missing, and NoLayout where it holds none.
    """
    return list(_homes(where.root))


def load(where: Where, category: str) -> Dataset:
    """List one category. Nothing is decoded.

    A test image of <defect> without mask keeps no mask and says where it was looked for. Raises LayoutError, with every
    problem, where a kind lacks rgb/ or has two folders of masks, there is no training or no test image, or an image
    lies where it would be passed over; DataError where the category is missing.
    """
    home = find_category(where.root, category, is_own, _homes)
    found = sorted_images(home, category, _SPLITS, folders=BY_DEFECT, inside=_INSIDE)
    return Dataset(
        name="mvtec_3d",
        category=category,
        root=where.root,
        train=found.train,
        validation=found.validation,
        test=found.test,
        left_out=found.left_out,
    )


def is_own(folder: str) -> bool:
    """Whether a folder is a category of this layout: good or test images have a folder of scans, or of masks, beside
    them. rgb/ itself may be missing, or be called otherwise: that is for `load` to say.
    """
    test = joined(folder, "test")
    kinds = [joined(test, kind) for kind in subfolders(test)] if is_folder(test) else []
    return any(map(_has_sign, (joined(folder, "train/good"), *kinds)))


def _has_sign(kind: str) -> bool:
    if is_folder(joined(kind, "xyz")) or is_folder(joined(kind, "gt")):
        return True
    return is_folder(joined(kind, "rgb")) and is_folder(joined(kind, "ground_truth"))


def _homes(root: str) -> dict[str, str]:
    return homes_of(root, is_own, "MVTec 3D-AD category", "train/good/rgb", "test/<defect>/gt")
