"""BTAD, the BeanTech data set of three products (Mishra et al., ISIE 2021), as its archive unpacks.

    ROOT/{01,02,03}/train/ok/*
    ROOT/{01,02,03}/test/{ok,ko}/*
    ROOT/{01,02,03}/ground_truth/ko/<stem>.png or .bmp

ROOT may also be the folder that holds BTech_Dataset_transformed, or one product's folder. The products differ in format
(01 has BMP images with PNG masks, 02 only PNG, 03 only BMP), so images and masks are matched without their suffix, and
a mask may be called <stem>_mask. Any category name is accepted. Images in train/ko are never learned from.
"""

from __future__ import annotations

from uadctl.datasets.base import Dataset, Where
from uadctl.datasets.sorted_folders import (
    Folders,
    Truth,
    all_categories,
    find_category,
    given_images,
    is_category,
    no_category,
    scored_images,
)
from uadctl.imaging.listing import is_folder, joined, subfolders

_FOLDERS = Folders(good="ok", bad=("ko",))
_UNPACKED = "BTech_Dataset_transformed"


def recognises(root: str) -> bool:
    """Whether a folder looks like BTAD: train/ok and test/ok or test/ko, in itself or in its sub-folders."""
    return any(is_folder(joined(home, f"test/{kind}")) for home in _products(root).values() for kind in ("ok", "ko"))


def list_categories(where: Where) -> list[str]:
    """The products below the root, sorted by bytes; if it is itself a product's folder, its name alone.

    Beside a whole one, a folder with train/, test/ or ground_truth/ is one too, and `load` says what it lacks. Raises
    DataError where the root is missing, and NoLayout where it holds none.
    """
    return list(_homes(where.root))


def load(where: Where, category: str) -> Dataset:
    """List one product. Nothing is decoded.

    A test image in ko without mask keeps no mask and says where it was looked for. Raises DataError where the category
    is missing, has no training or no test image, or an image lies where it would be passed over.
    """
    home = find_category(where.root, category, _is_product, _homes)
    given = given_images(home, category, folders=_FOLDERS, splits=("train",))
    return Dataset(
        name="btad",
        category=category,
        root=where.root,
        train=given.train,
        validation=given.validation,
        test=scored_images(home, category, folders=_FOLDERS, truth=Truth(home, expected="{}.png")),
        left_out=given.left_out,
    )


def _is_product(folder: str) -> bool:
    return is_category(folder, _FOLDERS)


def _homes(root: str) -> dict[str, str]:
    found = _products(root)
    if not found:
        raise no_category(root, "BTAD product", "train/ok")
    return found


def _products(root: str) -> dict[str, str]:
    """The folder of each product by its name, in the root or in the folder that the archive unpacks to."""
    unpacked = [joined(root, name) for name in subfolders(root) if name.casefold() == _UNPACKED.casefold()]
    places = [root, *unpacked] if len(unpacked) == 1 else [root]
    found = (all_categories(place, _is_product) for place in places)
    return next((products for products in found if products), {})
