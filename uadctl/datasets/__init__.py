"""A folder layout to samples: paths and labels, nothing decoded.

Each data set is a module that offers `list_categories(root, *, files)` and `load(root, category, *, split, files)`; the
registry says which. One that uadctl makes itself offers `prepare(root, *, progress)` as well.
"""

from __future__ import annotations

from dataclasses import replace
from importlib import import_module
from typing import Protocol, cast

from uadctl.datasets.base import Dataset, LayoutError, Masks, load_mask
from uadctl.errors import DataError
from uadctl.imaging.listing import list_images
from uadctl.progress import Progress
from uadctl.records import Size

__all__ = [
    "Dataset",
    "LayoutError",
    "Masks",
    "list_categories",
    "list_images",
    "load_dataset",
    "load_mask",
    "prepare_dataset",
]


class _Loader(Protocol):
    def list_categories(self, root: str | None, *, files: object | None) -> list[str]: ...

    def load(self, root: str | None, category: str, *, split: str | None, files: object | None) -> Dataset: ...


class _Maker(Protocol):
    def prepare(self, root: str | None, *, progress: Progress) -> None: ...


def prepare_dataset(name: str, root: str | None, *, progress: Progress) -> None:
    """Write a data set that uadctl makes itself, if it is not there yet; nothing for those that users bring."""
    from uadctl.spec.registry import resolve_dataset

    entry = resolve_dataset(name)
    if not entry.needs_root:
        cast("_Maker", import_module(entry.target)).prepare(root, progress=progress)


def list_categories(name: str, root: str | None, files: object | None = None) -> list[str]:
    """The categories that a data set has on disk, sorted by bytes.

    name:  of the data set, or an alias. root: its folder (None for a data set that brings its own).
    files: globs for each role, for the data set `folder` only; see `uadctl.datasets.folder`.

    Raises SpecError for an unknown name (listing the known ones), DataError where the folder is missing or holds none.
    """
    return _loader(name, root).list_categories(root, files=files)


def load_dataset(
    name: str,
    root: str | None,
    *,
    category: str | None = None,
    split: str | None = None,
    resize: Size | tuple[int, int] | None = None,
    files: object | None = None,
) -> Dataset:
    """List one category of a data set: paths and labels; no image is decoded.

    category: may be left out where there is only one. split: the data set's own name for its test split, None for its
    default. resize: the height and width that masks are brought to, nearest neighbour; None for their images' size.
    name, root, files: as for `list_categories`.

    Raises SpecError and DataError (both ValueErrors), as `list_categories` does and where the category is not found.
    """
    loader = _loader(name, root)
    if category is None:
        found = loader.list_categories(root, files=files)
        if len(found) != 1:
            raise DataError(f"{root} has {len(found)} categories; name one of them", help=f"It has: {', '.join(found)}")
        category = found[0]
    dataset = loader.load(root, category, split=split, files=files)
    if resize is None:
        return dataset
    size = Size(*resize)
    if min(size) < 1:
        raise ValueError(f"resize must be two positive numbers, height and width, found {tuple(size)}")
    return replace(dataset, resize=size)


def _loader(name: str, root: str | None) -> _Loader:
    from uadctl.spec.registry import resolve_dataset

    entry = resolve_dataset(name)
    if root is None and entry.needs_root:
        raise DataError(f"{entry.name} needs a root, the folder that holds it", help="Give [dataset] root, or --root.")
    return cast("_Loader", import_module(entry.target))
