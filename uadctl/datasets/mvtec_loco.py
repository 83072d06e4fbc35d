"""MVTec LOCO AD: logical and structural defects, each with masks of its own (Bergmann et al., IJCV 130, 2022).

    ROOT/<category>/train/good/*.png
    ROOT/<category>/validation/good/*.png
    ROOT/<category>/test/{good,logical_anomalies,structural_anomalies}/*.png
    ROOT/<category>/ground_truth/<kind>/<stem>/000.png, 001.png, …      one file a defect of the image
    ROOT/<category>/defects_config.json                                 how much of a defect is enough, by pixel value

The categories are breakfast_box, juice_bottle, pushpins, screw_bag and splicing_connectors; others beside them are
read as well, without validation/ or defects_config.json too, and ROOT may be one category's folder. A kind may have
a folder for each defect: test/<kind>/<defect>/*.png, with masks in ground_truth/<kind>/<defect>/<stem>/. An image
without a folder of masks may have one mask named like it, or <stem>_mask, as in MVTec AD. Images of train/ and
validation/ in other folders than good/ are left out.

The layout is that of the archive which MVTec publishes. What defects_config.json means is said where the paper defines
its metric, and in the evaluation code published with it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from uadctl.datasets.base import Dataset, Where
from uadctl.datasets.defects import has_config, read_defects, truth_by_defect
from uadctl.datasets.sorted_folders import (
    GOOD,
    Folders,
    category_folders,
    defect_kinds,
    find_category,
    given_images,
    homes_of,
    is_category,
    scored_images,
)
from uadctl.records import Sample

KINDS = ("logical_anomalies", "structural_anomalies")
"""The folders of bad test images."""

_FOLDERS = Folders(bad=KINDS)


def recognises(root: str) -> bool:
    """Whether a folder holds a category with a sign of this data set: one of `KINDS` in test/, or how
    much of a defect is enough and no defect to say otherwise."""
    return bool(category_folders(root, is_own))


def list_categories(where: Where) -> list[str]:
    """The categories below the root, sorted by bytes; if it is itself a category's folder, its name alone.

    Where one has a sign of this data set, the others beside it need none, and one that lacks train/good counts as well:
    `load` says so. Raises DataError where the root is missing, and NoLayout where no category has a sign.
    """
    return list(_homes(where.root))


def load(where: Where, category: str) -> Dataset:
    """List one category. No image is decoded; the defects' configuration is read.

    A defect is called "logical_anomalies" or "structural_anomalies", with "/" and its own folder where it lies in one.
    A test image without mask keeps none and says where it was looked for. Raises DataError where the category is
    missing, has no training or no test image, an image lies where it would be passed over, or in a third kind of test/,
    of which the protocol measures nothing, one mask belongs to two images, or the configuration is not as it should be.
    """
    home = find_category(where.root, category, is_own, _homes)
    given = given_images(home, category)
    test = scored_images(home, category, folders=_FOLDERS, truth=truth_by_defect(home, first="000.png"))
    return Dataset(
        name="mvtec_loco",
        category=category,
        root=where.root,
        train=given.train,
        validation=given.validation,
        test=tuple(replace(sample, defect=_defect_of(sample)) for sample in test),
        left_out=given.left_out,
        defects=read_defects(home),
    )


def is_own(folder: str) -> bool:
    """Whether a folder is a category with a sign of this data set."""
    return is_category(folder) and _has_sign(folder)


def has_own(kinds: Iterable[str]) -> bool:
    """Whether one of these kinds of defect is one of this data set, in any case: another data set has none of them."""
    return own_kind(kinds) is not None


def own_kind(kinds: Iterable[str]) -> str | None:
    """The first of these kinds of defect that is one of this data set, in any case; None where none is."""
    return next((kind for kind in kinds if kind.casefold() in KINDS), None)


def _has_sign(folder: str) -> bool:
    # AutoVI has a configuration too, and kinds of defect by other names; with good images alone it may be either.
    kinds = defect_kinds(folder)
    return has_own(kinds) or (not kinds and has_config(folder))


def _homes(root: str) -> dict[str, str]:
    return homes_of(root, is_own, "MVTec LOCO category", "train/good", f"test/{KINDS[0]}", has_sign=_has_sign)


def _defect_of(sample: Sample) -> str:
    """The kind of a test image, and its own folder in the kind's if it lies in one."""
    _, kind, *below = sample.relative.split("/")
    return f"{kind}/{below[0]}" if kind != GOOD and len(below) > 1 else kind
