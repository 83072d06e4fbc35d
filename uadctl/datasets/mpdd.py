"""MPDD, painted metal parts in changing poses (Jezek et al., ICUMT 2021), in the layout of MVTec AD.

    ROOT/<category>/train/good/*.png
    ROOT/<category>/test/{good,<defect>}/*.png
    ROOT/<category>/ground_truth/<defect>/<stem>_mask.png

The categories are bracket_black, bracket_brown, bracket_white, connector, metal_plate and tubes. They alone tell it
from MVTec AD: `mvtec` reads it as well, but here it is measured as its authors do. At least one of them must be there;
others beside it are read too, and ROOT may be one category's folder. What is said of `mvtec` is true here.

Source of the layout: https://github.com/stepanje/MPDD, and anomalib's loader for it.
"""

from __future__ import annotations

from uadctl.datasets import mvtec
from uadctl.datasets.base import Dataset, NoLayout, Where, own_name, rename, right_case
from uadctl.datasets.sorted_folders import find_category
from uadctl.errors import DataError, Problem

CATEGORIES = frozenset({"bracket_black", "bracket_brown", "bracket_white", "connector", "metal_plate", "tubes"})
"""Those of the data set as published."""

_OF_MVTEC = frozenset(
    {
        "bottle",
        "cable",
        "capsule",
        "carpet",
        "grid",
        "hazelnut",
        "leather",
        "metal_nut",
        "pill",
        "screw",
        "tile",
        "toothbrush",
        "transistor",
        "wood",
        "zipper",
    }
)


def recognises(root: str) -> bool:
    """Whether a folder looks like MVTec AD's layout with a category of this data set, and none of MVTec AD's own."""
    found = mvtec.whole_categories(root)
    return not CATEGORIES.isdisjoint(found) and _OF_MVTEC.isdisjoint(found)


def list_categories(where: Where) -> list[str]:
    """The categories below the root, sorted by bytes; if it is itself a category's folder, its name alone.

    Beside a whole one, a folder with train/, test/ or ground_truth/ is one too, and `load` says what it lacks. Raises
    DataError where the root is missing, or its categories are the data set's own but for their case, and NoLayout where
    it holds none of them.
    """
    return list(_homes(where.root))


def load(where: Where, category: str) -> Dataset:
    """List one category. Nothing is decoded. Raises as `uadctl.datasets.mvtec.load` does."""
    home = find_category(where.root, category, _is_own, _homes)
    return mvtec.dataset_of(home, category, root=where.root, name="mpdd")


def _is_own(folder: str) -> bool:
    return own_name(folder) in CATEGORIES and mvtec.is_own(folder)


def _homes(root: str) -> dict[str, str]:
    found = mvtec.homes(root, "MPDD category")
    if CATEGORIES.isdisjoint(found):
        cased = {name: right for name in found if (right := right_case(name, CATEGORIES)) is not None}
        if cased:
            raise DataError(
                [
                    Problem(f"{found[name]} is MPDD's {right} but for the case of its name", rename(right))
                    for name, right in cased.items()
                ]
            )
        raise NoLayout(
            f"{root} is not MPDD: it has none of {', '.join(sorted(CATEGORIES))}, but {', '.join(found)}",
            help="Parts of your own in this layout are the data set mvtec.",
        )
    return found
