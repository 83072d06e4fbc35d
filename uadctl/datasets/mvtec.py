"""The layout of MVTec AD, which many data sets share (Bergmann et al., CVPR 2019; IJCV 2021).

    ROOT/<category>/train/good/*.png
    ROOT/<category>/validation/good/*.png            (optional)
    ROOT/<category>/test/{good,<defect>}/*.png
    ROOT/<category>/ground_truth/<defect>/<stem>_mask.png

ROOT may also be one category's folder. Any category name, image suffix and depth below the last folder is accepted,
and masks named like their image, without "_mask". Images of train/ and validation/ in other folders than good/ are
defects, named after their folder: they are listed as left out, and never learned from. No kind of defect is called
good, normal or ok, in any case: such a folder beside good/ is an error.

MVTec LOCO AD, MVTec AD 2, MVTec 3D-AD, AutoVI, BMAD and VAD are variations on it; what all such layouts share is in
`sorted_folders`.
"""

from __future__ import annotations

from uadctl.datasets.base import Dataset, NoLayout, Where, holds
from uadctl.datasets.sorted_folders import (
    Truth,
    category_folders,
    find_category,
    given_images,
    homes_of,
    is_category,
    scored_images,
)
from uadctl.imaging.listing import is_folder, joined


def recognises(root: str) -> bool:
    """Whether a folder looks like this layout, and not like a variation whose masks lie elsewhere."""
    return bool(whole_categories(root))


def whole_categories(root: str) -> dict[str, str]:
    """The folder of each whole category by its name; none where a variation is found, whose masks lie elsewhere."""
    found = category_folders(root, _is_whole)
    return {} if found and category_folders(root, _is_variation) else found


def list_categories(where: Where) -> list[str]:
    """The categories below the root, sorted by bytes; if it is itself a category's folder, its name alone.

    Beside a whole one, a folder with train/, test/ or ground_truth/ is one too, and `load` says what it lacks. Raises
    DataError where it is missing, and NoLayout where it holds none.
    """
    return list(homes(where.root))


def load(where: Where, category: str) -> Dataset:
    """List one category. Nothing is decoded.

    A test image of <defect> without mask keeps no mask and says where it was looked for. Raises DataError where the
    category is missing, has no training or no test image, or an image lies where it would be passed over.
    """
    return dataset_of(find_category(where.root, category, is_own, homes), category, root=where.root)


def dataset_of(home: str, category: str, *, root: str, name: str = "mvtec") -> Dataset:
    """List the category whose folder is `home`, for the data set of this name. Raises as `load` does."""
    given = given_images(home, category)
    return Dataset(
        name=name,
        category=category,
        root=root,
        train=given.train,
        validation=given.validation,
        test=scored_images(home, category, truth=Truth(home)),
        left_out=given.left_out,
    )


def _is_whole(folder: str) -> bool:
    return is_category(folder) and is_folder(joined(folder, "test"))


def is_own(folder: str) -> bool:
    """Whether a folder is a category, and of no variation."""
    return is_category(folder) and not _is_variation(folder)


def _is_variation(folder: str) -> bool:
    from uadctl.datasets import autovi, bmad, mvtec_3d, mvtec_ad2, mvtec_loco, vad

    return any(other.is_own(folder) for other in (mvtec_loco, mvtec_ad2, mvtec_3d, autovi, bmad, vad))


def homes(root: str, what: str = "MVTec category") -> dict[str, str]:
    """The folder of each category by its name; see `list_categories`. what: one is called in the error for none."""
    found = homes_of(root, is_category, what, "train/good")
    if any(map(_is_variation, found.values())):
        # Their masks lie elsewhere: read as MVTec AD, defects would be without ground truth.
        raise NoLayout(f"{root} is not laid out as MVTec AD is: it holds {holds(root)}")
    return found
