"""The layout of MVTec AD, which many data sets share (Bergmann et al., CVPR 2019; IJCV 2021).

    ROOT/<category>/train/good/*.png
    ROOT/<category>/validation/good/*.png            (optional)
    ROOT/<category>/test/{good,<defect>}/*.png
    ROOT/<category>/ground_truth/<defect>/<stem>_mask.png

ROOT may also be one category's folder. Any category name, image suffix and depth below the last folder is accepted,
and masks named like their image, without "_mask".
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from uadctl.datasets.base import (
    Dataset,
    MaskFolder,
    check_category,
    check_root,
    check_split,
    stem,
)
from uadctl.errors import DataError
from uadctl.imaging.listing import is_folder, joined, relative_images, subfolders
from uadctl.records import Sample

if TYPE_CHECKING:
    from uadctl.records import Split

_GOOD = "good"


def list_categories(root: str, *, files: object | None = None) -> list[str]:
    """The categories below `root`, sorted by bytes; if `root` is itself a category's folder, its name alone.

    Raises DataError where `root` is missing or holds none. `files` must be None: the layout is fixed.
    """
    _refuse_files(files)
    check_root(root)
    if _is_category(root):
        return [_own_name(root)]
    found = [name for name in subfolders(root) if _is_category(joined(root, name))]
    if not found:
        raise DataError(
            f"{root} holds no MVTec category: expected {joined(root, '<category>/train/good')}",
            help="For another layout, use the data set `folder`, with [dataset.files] where its names differ.",
        )
    return found


def load(root: str, category: str, *, split: str | None = None, files: object | None = None) -> Dataset:
    """List one category. Nothing is decoded.

    split: None or "test", the only one that MVTec's layout has. `files` must be None.

    A test image of <defect> without mask keeps no mask and says where it was looked for. Raises DataError where the
    category is missing, has no training or no test image, or an image lies where it would be passed over.
    """
    check_split("mvtec", split, ("test",))
    check_category(root, category, list_categories(root, files=files))
    home = root if _is_category(root) else joined(root, category)

    train = _good(home, "train", category)
    if not train:
        raise DataError(f"{joined(home, 'train/good')} holds no image", help="It must hold the good training images.")
    validation = _good(home, "validation", category) if is_folder(joined(home, "validation/good")) else ()
    return Dataset(
        name="mvtec", category=category, root=root, train=train, validation=validation, test=_test(home, category)
    )


def _refuse_files(files: object) -> None:
    if files is not None:
        raise DataError("mvtec has a fixed layout and takes no files", help="Globs need the data set `folder`.")


def _is_category(folder: str) -> bool:
    return is_folder(joined(folder, "train/good"))


def _own_name(root: str) -> str:
    return os.path.basename(os.path.abspath(root)) or "mvtec"  # noqa: PTH100, PTH119 - links keep their name


def _good(home: str, split: Split, category: str) -> tuple[Sample, ...]:
    folder = joined(home, f"{split}/{_GOOD}")
    return tuple(
        Sample(
            path=joined(folder, name),
            relative=f"{split}/{_GOOD}/{name}",
            split=split,
            label=0,
            defect=_GOOD,
            category=category,
        )
        for name in relative_images(folder)
    )


def _test(home: str, category: str) -> tuple[Sample, ...]:
    folder = joined(home, "test")
    if not is_folder(folder):
        raise DataError(f"{folder}: no such folder", help="It must hold good/ and a folder for each kind of defect.")
    samples: list[Sample] = []
    masks: dict[str, MaskFolder] = {}
    owners: dict[str, str] = {}
    for name in relative_images(folder):
        defect, slash, below = name.partition("/")
        if not slash:
            raise DataError(
                f"{joined(folder, name)} lies in no defect folder",
                help=f"Move it to {joined(folder, _GOOD)} or to a folder named after its defect.",
            )
        found: str | None = None
        expected: str | None = None
        if defect != _GOOD:
            truth = joined(home, f"ground_truth/{defect}")
            base = below[: len(below) - len(below.rpartition("/")[2])] + stem(below)
            if defect not in masks:
                masks[defect] = MaskFolder(truth)
            found = masks[defect].find((f"{base}_mask", base))
            if found is None:
                expected = joined(truth, f"{base}_mask.png")
            elif found in owners:
                raise DataError(
                    f"{owners[found]} and {joined(folder, name)} share one mask, {found}",
                    help="Give the images names that differ by more than their suffix.",
                )
            else:
                owners[found] = joined(folder, name)
        samples.append(
            Sample(
                path=joined(folder, name),
                relative=f"test/{name}",
                split="test",
                label=0 if defect == _GOOD else 1,
                defect=defect,
                category=category,
                masks=() if found is None else (found,),
                expected_mask=expected,
            )
        )
    if not samples:
        raise DataError(f"{folder} holds no image", help="It must hold good/ and a folder for each kind of defect.")
    return tuple(samples)
