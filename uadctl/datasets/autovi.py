"""AutoVI: six inspections on a car maker's lines (Carvalho et al., Computers in Industry 163, 2024; zenodo 10459003).

    ROOT/<category>/train/good/*.png
    ROOT/<category>/test/{good,<defect>}/*.png
    ROOT/<category>/ground_truth/<defect>/<stem>/0000.png, 0001.png, …   one file a defect of the image
    ROOT/<category>/defects_config.json                                  how much of a defect is enough, by pixel value

The categories are engine_wiring, pipe_clip, pipe_staple, tank_screw, underbody_pipes and underbody_screw, each an
archive of its own; others are read as well, and ROOT may be one category's folder. The kinds of defect go by any name
but those of MVTec LOCO AD, whose layout this is but for them and for a validation split, which is taken where there is
one. Masks are grey pictures with three or four channels. An image without a folder of masks may have one mask named
like it, or <stem>_mask, as in MVTec AD; both are an error. Images of train/ and validation/ in other folders than good/
are left out.

The layout is that of the archives which the authors publish, and of what their evaluation code reads, which they
adapted from that of MVTec LOCO AD.
"""

from __future__ import annotations

from uadctl.datasets import mvtec_loco
from uadctl.datasets.base import Dataset, NoLayout, Where, stem
from uadctl.datasets.defects import CONFIG, find_masks_in_one_place, has_config, read_defects, truth_by_defect
from uadctl.datasets.sorted_folders import (
    category_folders,
    defect_kinds,
    find_category,
    given_images,
    homes_of,
    is_category,
    scored_images,
)
from uadctl.errors import DataError
from uadctl.imaging.listing import files_in, is_folder, is_image_name, joined, subfolders


def recognises(root: str) -> bool:
    """Whether a folder holds a category with a sign of this data set; see `is_own`."""
    return bool(category_folders(root, is_own))


def list_categories(where: Where) -> list[str]:
    """The categories below the root, sorted by bytes; if it is itself a category's folder, its name alone.

    Beside one that can be of this data set, a folder with any part of the layout is one too, and `load` says what it
    lacks. Raises DataError where the root is missing, or a category beside those of this data set has a kind of defect
    of MVTec LOCO AD, and NoLayout where no category can be of this data set, or all that have defects are of that one.
    """
    return list(_homes(where.root))


def load(where: Where, category: str) -> Dataset:
    """List one category. No image is decoded; the defects' configuration is read, where there is one.

    A defect is called as its folder in test/. A test image without mask keeps none and says where it was looked for.
    Raises DataError where the category is missing, has no training or no test image, an image lies where it would be
    passed over, one mask belongs to two images, one image has masks in two places, or the configuration is not as it
    should be.
    """
    home = find_category(where.root, category, _may_be, _homes)
    given = given_images(home, category)
    return Dataset(
        name="autovi",
        category=category,
        root=where.root,
        train=given.train,
        validation=given.validation,
        test=scored_images(home, category, truth=truth_by_defect(home, first="0000.png", find=find_masks_in_one_place)),
        left_out=given.left_out,
        defects=read_defects(home),
    )


def is_own(folder: str) -> bool:
    """Whether a folder is a category with a sign of this data set: kinds of defect that MVTec LOCO AD has not, with the
    configuration or with a folder of masks for an image."""
    return _may_be(folder) and bool(defect_kinds(folder))


def _may_be(folder: str) -> bool:
    """Whether a folder can be read as a category, by whoever says that it is one.

    As `is_own`, or with the configuration and good images alone, which MVTec LOCO AD has as well.
    """
    if not is_category(folder):
        return False
    kinds = defect_kinds(folder)
    if mvtec_loco.has_own(kinds):
        return False
    return has_config(folder) or any(_has_masks_apart(folder, kind) for kind in kinds)


def _has_masks_apart(folder: str, kind: str) -> bool:
    """Whether an image of this kind of defect has a folder of masks: in MVTec AD such a folder is one of images."""
    masks = joined(folder, f"ground_truth/{kind}")
    folders = subfolders(masks) if is_folder(masks) else []
    if not folders:
        return False
    images = {stem(name) for name in files_in(joined(folder, f"test/{kind}")) if is_image_name(name)}
    return not images.isdisjoint(folders)


def _homes(root: str) -> dict[str, str]:
    found = homes_of(root, _may_be, "AutoVI category", "train/good", CONFIG)
    for home in found.values():
        kind = mvtec_loco.own_kind(defect_kinds(home))
        if kind is not None:
            # What is measured of those is measured of each kind apart.
            message = f"{root} is not laid out as AutoVI is: {joined(home, f'test/{kind}')} is a kind of MVTec LOCO AD"
            if any(map(is_own, found.values())):
                raise DataError(
                    message, help=f"Rename the kind, or move {home} elsewhere: the data set mvtec_loco reads it."
                )
            raise NoLayout(message)
    return found
