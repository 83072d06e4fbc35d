"""BMAD, six medical sets brought into one layout (Bao et al., CVPR Workshops 2024).

    ROOT/<category>/train/good/[img/]*.png
    ROOT/<category>/valid/{good,Ungood}/[img/]*.png
    ROOT/<category>/test/{good,Ungood}/[img/]*.png
    ROOT/<category>/{valid,test}/Ungood/label/*.png     masks, named like the images

The sets with masks are Brain, Liver and Retina_RESC, those without Chest, Histopathology and Retina_OCT2017; any other
name is read as well, and ROOT may be one set's folder. Copies differ in where there is an img/: the images of a folder
lie in it or without it, not both. Some have a label/ in good/ as well, where it says nothing. The copy made for MVFA
(Huang et al., CVPR 2024) calls it anomaly_mask/. A set that has no such folder has no masks, and none are missed.

valid/good sets the threshold; valid/Ungood, and train/Ungood where there is one, are left out.

Source of the layout: https://github.com/DorisBao/BMAD (README), and anomalib's loader for its copy of the archive.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from uadctl.datasets.base import Dataset, Where, in_another_case
from uadctl.datasets.kind_folders import Inside, has_mask_folder, sorted_images
from uadctl.datasets.sorted_folders import Folders, category_folders, find_category, homes_of
from uadctl.imaging.listing import is_folder, joined, subfolders

if TYPE_CHECKING:
    from uadctl.records import Split

_BAD = "Ungood"
_TRUTH = "ground_truth"  # where MVTec AD's layout has its masks
_FOLDERS = Folders(bad=(_BAD,))
_SPLITS: dict[Split, str] = {"train": "train", "validation": "valid", "test": "test"}
_INSIDE = Inside("img", masks=("label", "anomaly_mask"), may_lack=True)


def recognises(root: str) -> bool:
    """Whether a folder holds a set with a folder Ungood in test/ or valid/; see `is_own`."""
    return bool(category_folders(root, is_own))


def list_categories(where: Where) -> list[str]:
    """The sets below the root, sorted by bytes; if it is itself a set's folder, its name alone.

    Beside one, a folder with any part of the layout is one too, and `load` says what it lacks. Raises DataError where
    the root is missing, and NoLayout where it holds none.
    """
    return list(_homes(where.root))


def load(where: Where, category: str) -> Dataset:
    """List one set. Nothing is decoded.

    In a set with masks, a test image of Ungood without one keeps none and says where it was looked for. Raises
    LayoutError, with every problem, where there is no training or no test image, masks without images, an image where
    it would be passed over, or two folders of masks for one of images; DataError where the set is missing.
    """
    home = find_category(where.root, category, is_own, _homes)
    has_masks = has_mask_folder(home, _SPLITS, _INSIDE)
    found = sorted_images(home, category, _SPLITS, folders=_FOLDERS, inside=_INSIDE, has_masks=has_masks)
    return Dataset(
        name="bmad",
        category=category,
        root=where.root,
        train=found.train,
        validation=found.validation,
        test=found.test,
        left_out=found.left_out,
    )


def is_own(folder: str) -> bool:
    """Whether a folder is a set of this layout: test/ or valid/ has a folder Ungood, and there is no ground_truth/.

    In another case it counts where there is nothing but good/ beside it: MVTec AD's layout may have any kind of defect.
    """
    if is_folder(joined(folder, _TRUTH)) or in_another_case(folder, _TRUTH) is not None:
        return False
    tops = [joined(folder, _SPLITS["test"]), joined(folder, _SPLITS["validation"])]
    kinds = [kind for top in tops if is_folder(top) for kind in subfolders(top)]
    folded = {kind.casefold() for kind in kinds}
    return _BAD in kinds or (_BAD.casefold() in folded and folded <= {_FOLDERS.good, _BAD.casefold()})


def _homes(root: str) -> dict[str, str]:
    return homes_of(root, is_own, "BMAD set", "train/good", f"test/{_BAD}")
