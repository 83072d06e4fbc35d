"""A folder layout to samples: paths and labels, nothing decoded.

Each data set is a module that offers `recognises(root)`, `list_categories(where)` and `load(where, category)`; the
registry says which. One that uadctl makes itself offers `prepare(root, *, progress)` as well, and takes None for
`where`; one whose test splits share no image offers `list_splits(where, category)`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from importlib import import_module
from typing import TYPE_CHECKING, Protocol, cast

from uadctl.datasets.base import BenchmarkSplit, Dataset, LayoutError, Masks, NoLayout, Where, choices, load_mask
from uadctl.errors import DataError, Problem
from uadctl.imaging.listing import is_folder, joined, list_images, subfolders
from uadctl.progress import Progress
from uadctl.records import Size

if TYPE_CHECKING:
    from uadctl.spec.data_sets import DatasetEntry

__all__ = [
    "BenchmarkSplit",
    "Dataset",
    "LayoutError",
    "Masks",
    "NoLayout",
    "Where",
    "list_categories",
    "list_images",
    "list_splits",
    "load_benchmark_split",
    "load_dataset",
    "load_mask",
    "prepare_dataset",
    "recognise",
]

_FOLDERS_LOOKED_INTO = 20  # below a root that is no data set: it may be the top of a disk


class _Loader(Protocol):
    def recognises(self, root: str) -> bool: ...

    def list_categories(self, where: Where | None) -> list[str]: ...

    def load(self, where: Where | None, category: str) -> Dataset: ...


class _OfSplits(Protocol):
    def list_splits(self, where: Where | None, category: str) -> list[str]: ...


class _Maker(Protocol):
    def prepare(self, root: str | None, *, progress: Progress) -> None: ...


def prepare_dataset(name: str, root: str | None, *, progress: Progress) -> None:
    """Write a data set that uadctl makes itself, if it is not there yet; nothing for those that users bring."""
    from uadctl.spec.registry import resolve_dataset

    entry = resolve_dataset(name)
    if not entry.needs_root:
        cast("_Maker", import_module(entry.target)).prepare(root, progress=progress)


def recognise(root: str) -> list[str]:
    """The names of the data sets whose layout a folder looks like, sorted; none for a folder of one's own.

    A layout on which another one that it looks like is built is left out.
    """
    from uadctl.spec.data_sets import DATASETS

    if not is_folder(root):
        return []
    found = []
    for name, entry in sorted(DATASETS.items()):
        try:
            if _module(entry).recognises(root):
                found.append(name)
        except DataError:  # what cannot be read is not recognised
            continue
    return [name for name in found if not any(DATASETS[other].built_on == name for other in found)]


def list_categories(
    name: str,
    root: str | None,
    files: object | None = None,
    *,
    split: str | None = None,
    layout: str | None = None,
) -> list[str]:
    """The categories that a data set has on disk, sorted by bytes.

    name:  of the data set, or an alias. root: its folder (None for a data set that brings its own).
    files: globs for each role, for the data set `folder` only; see `uadctl.datasets.folder`.
    split: the data set's own name for its test split, None for its default. layout: which of several ways to read the
           folder, None for the one found.

    Raises SpecError for an unknown name (listing the known ones), DataError for another split or layout, and where the
    folder is missing or holds none; the message names another data set whose layout it has.
    """
    loader, where = _find(name, root, split=split, layout=layout, files=files)
    with _naming_likely(name, where):
        found = loader.list_categories(where)
        _refuse_foreign(name, loader, where, found)
        return found


def list_splits(name: str, root: str | None, *, category: str, layout: str | None = None) -> list[str]:
    """The test splits of a category that share no image and are on disk, in the registry's order; else the default.

    Raises as `load_dataset` does where the category is not found.
    """
    from uadctl.spec.registry import resolve_dataset

    entry = resolve_dataset(name)
    if not entry.splits_are_disjoint:
        return [entry.splits[0]]
    loader, where = _find(name, root, split=None, layout=layout, files=None)
    with _naming_likely(name, where):
        return cast("_OfSplits", loader).list_splits(where, category)


def load_dataset(
    name: str,
    root: str | None,
    *,
    category: str | None = None,
    split: str | None = None,
    resize: Size | tuple[int, int] | None = None,
    layout: str | None = None,
    files: object | None = None,
) -> Dataset:
    """List one category of a data set: paths and labels; no image is decoded.

    category: may be left out where there is only one. resize: the height and width that masks are brought to, nearest
    neighbour; None for their images' size. The others: as for `list_categories`.

    Raises SpecError and DataError (both ValueErrors), as `list_categories` does and where the category is not found.
    """
    loader, where = _find(name, root, split=split, layout=layout, files=files)
    with _naming_likely(name, where):
        if category is None:
            found = loader.list_categories(where)
            if len(found) != 1:
                raise DataError(
                    f"{root} has {len(found)} categories; name one of them", help=f"It has: {', '.join(found)}"
                )
            category = found[0]
        dataset = loader.load(where, category)
        _refuse_foreign(name, loader, where, [category])
    if resize is None:
        return dataset
    size = Size(*resize)
    if min(size) < 1:
        raise ValueError(f"resize must be two positive numbers, height and width, found {tuple(size)}")
    return replace(dataset, resize=size)


def load_benchmark_split(
    name: str,
    root: str | None,
    *,
    category: str | None = None,
    split: str | None = None,
    resize: Size | tuple[int, int] | None = None,
    layout: str | None = None,
    files: object | None = None,
) -> BenchmarkSplit:
    """The images of one category, ready for `fit` and for scoring; arguments and errors as `load_dataset`."""
    dataset = load_dataset(name, root, category=category, split=split, resize=resize, layout=layout, files=files)
    paths, labels, masks = dataset.get_test_paths()
    return BenchmarkSplit(dataset.get_train_paths(), paths, labels, masks, dataset)


def _find(
    name: str, root: str | None, *, split: str | None, layout: str | None, files: object | None
) -> tuple[_Loader, Where | None]:
    """The loader, and where it shall look, as far as the registry can check it."""
    from uadctl.spec.registry import resolve_dataset

    entry = resolve_dataset(name)
    if root is None and entry.needs_root:
        raise DataError(f"{entry.name} needs a root, the folder that holds it", help="Give [dataset] root, or --root.")
    if split is not None and split not in entry.splits:
        raise DataError(f"{entry.name} has no split {split!r}{choices(split, entry.splits)}")
    if layout is not None and layout not in entry.layouts:
        has = choices(layout, entry.layouts) if entry.layouts else "; it has but one"
        raise DataError(f"{entry.name} has no layout {layout!r}{has}")
    if files is not None and not entry.takes_files:
        raise DataError(f"{entry.name} has a fixed layout and takes no files", help="Globs need the data set `folder`.")
    if root is not None:
        _refuse_list(entry, root)
    return _module(entry), None if root is None else Where(root, split=split, layout=layout, files=files)


def _refuse_list(entry: DatasetEntry, root: str) -> None:
    """Say of a file, where a folder is needed, that it may be a manifest."""
    from uadctl.datasets.manifest import manifest_kind

    if entry.name != "manifest" and manifest_kind(root) is not None and os.path.isfile(root):  # noqa: PTH113 - as typed
        raise DataError(
            f"{root}: is a file, not a folder",
            help=f"A list of images is the data set manifest: give that name in place of {entry.name}.",
        )


def _refuse_foreign(name: str, loader: _Loader, where: Where | None, found: list[str]) -> None:
    """NoLayout where a folder given as that of a data set which uadctl makes itself has none of its categories."""
    from uadctl.spec.registry import resolve_dataset

    if where is None or resolve_dataset(name).needs_root or set(found) & set(loader.list_categories(None)):
        return
    raise NoLayout(
        f"{where.root} is not the data set {name}: it has the categories {', '.join(found)}",
        help="Without a root, it is made in the cache folder.",
    )


def _module(entry: DatasetEntry) -> _Loader:
    return cast("_Loader", import_module(entry.target))


@contextmanager
def _naming_likely(name: str, where: Where | None) -> Iterator[None]:
    """Where a folder has another layout than that of the data set named, the error says which it looks like."""
    from uadctl.spec.registry import resolve_dataset

    try:
        yield
    except NoLayout as error:
        likely = _likely(resolve_dataset(name), name, where)
        if likely is None:
            raise
        raise NoLayout(error.message, help=likely) from error
    except LayoutError as error:
        # The rules of one's own folders are the only ones that another data set may seem to have broken.
        if where is None or where.files is not None or not resolve_dataset(name).takes_files:
            raise
        found = recognise(where.root)
        if not found:
            raise
        raise LayoutError(_or_another(error.problems, f"It looks like {_like(found, name)}")) from error


def _or_another(problems: Sequence[Problem], likely: str) -> list[Problem]:
    """Problems whose last one's help, said once, also tells which data set it may be."""
    *others, last = problems
    both = f"{last.help or ''} Or is it another data set? {likely}".strip()
    return [*(Problem(p.message, None if p.help == last.help else p.help) for p in others), Problem(last.message, both)]


def _like(found: Sequence[str], name: str) -> str:
    return f"{' or '.join(found)}: give that name in place of {name}."


def _likely(entry: DatasetEntry, name: str, where: Where | None) -> str | None:
    """The help that names the data sets which a folder looks like, or else one of the folders in it."""
    if where is None or not is_folder(where.root):
        return None
    found = [other for other in recognise(where.root) if other != entry.name]
    if found:
        return f"It looks like {_like(found, name)}"
    for below in subfolders(where.root)[:_FOLDERS_LOOKED_INTO]:
        folder = joined(where.root, below)
        found = recognise(folder)
        if found:
            instead = "" if entry.name in found else f", and that name in place of {name}"
            return f"{folder} looks like {' or '.join(found)}: give it as root{instead}."
    return None
