"""Exports in Datumaro's own format, as CVAT, Geti and Datumaro write them: labels of whole images.

    ROOT/annotations/<subset>.json      labels and items of a subset
    ROOT/images/<subset>/<path>         its images; or ROOT/images/<path>

The layout is that of https://open-edge-platform.github.io/datumaro (formats, Datumaro) and of CVAT's manual. The root
is one category, under its own name.

An item is good if all of its annotations have the label for normal images, the one that is called normal, good, ok, no
anomaly, no defect, anomaly free or defect free, in any case and with _ or - for a blank. It is anomalous if any
annotation, a shape included, has another label. An item without a label was not looked at by anybody, as CVAT and Geti
mean it: it is left out, and said in a note. Kinds of defect are the labels' names, in their order, with "," between.

Subsets called train, validation (or val, valid) and test, in any case, are the splits; defects in the first two are
left out. An only subset of another name, "default" for most exports, is parted here: of its good images, in the order
of their paths, the first and then every fifth is tested on and the others are learned from; its defects are tested on.

Shapes (polygons, boxes, masks) are not drawn as masks: no image has one. Images that are in no annotations are left out
and counted in a note; a folder of them that is called like a split, images/test say, has lost its own: an error.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import PurePath
from typing import Any, NoReturn

from uadctl.datasets.base import (
    OTHER_LAYOUT,
    Dataset,
    LayoutError,
    NoLayout,
    Where,
    capped,
    check_category,
    check_root,
    holds,
    in_another_case,
    missing_folder,
    own_name,
    without_suffix,
)
from uadctl.datasets.sorted_folders import GOOD
from uadctl.errors import DataError, Problem
from uadctl.imaging.listing import files_in, is_folder, is_image_name, joined, relative_images
from uadctl.records import Sample, Split
from uadctl.spec.values import kind, shown
from uadctl.untrusted import Hostile, parse_json, read_bounded

_LISTS, _IMAGES = "annotations", "images"
_SPLITS: dict[str, Split] = {
    "train": "train",
    "training": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "test": "test",
    "testing": "test",
}
_NORMAL = ("normal", "good", "ok", "no anomaly", "no defect", "anomaly free", "defect free")
_TESTED = 5
# Of a whole image, or text about it; any other type is a shape.
_NO_SHAPES = ("label", "caption")
_MOST_LABELS = 20  # that a message lists


def recognises(root: str) -> bool:
    """Whether a folder holds annotations/<subset>.json with images/<subset>/ beside it. Nothing is opened.

    Where images/ has no folders, the subset must be called as they mostly are: COCO's are instances_<subset>.
    """
    home, images = joined(root, _LISTS), joined(root, _IMAGES)
    if not (is_folder(home) and is_folder(images)):
        return False
    subsets = _subsets(home)
    if any(is_folder(joined(images, subset)) for subset in subsets):
        return True
    usual = any(subset.casefold() in (*_SPLITS, "default") for subset in subsets)
    return usual and any(map(is_image_name, files_in(images)))


def list_categories(where: Where) -> list[str]:
    """The root's own name. Raises DataError where the root is missing, NoLayout where it is no such export."""
    _home(where.root)
    return [own_name(where.root)]


def load(where: Where, category: str) -> Dataset:
    """List the items of all subsets. The annotations are parsed; no image is decoded.

    Raises DataError where there is no good image to learn from or none to test on, LayoutError with every problem: of
    the files, of labels, images that are missing, listed twice or not below the root.
    """
    home = _home(where.root)
    check_category(where.root, category, [own_name(where.root)])
    export = _Export(where.root)
    for subset in _subsets(home):
        _read(export, subset)
    _check_splits(home, export)
    if export.problems:
        raise LayoutError(export.problems)
    normal = _normal_labels(export)
    splits = _splits(home, export)
    samples: list[Sample] = []
    for item in sorted(export.items, key=lambda item: os.fsencode(item.relative)):
        names = [label for label in item.labels if label not in normal]
        if names or item.is_good(normal):
            defect = ",".join(names) if names else GOOD
            path = joined(where.root, item.relative)
            split = splits[item.subset] or "test"
            samples.append(Sample(path, item.relative, split, 1 if names else 0, defect, category))
    only = next((subset for subset, split in splits.items() if split is None), None)
    notes = _notes(export, normal)
    if only is not None:
        samples = _parted(samples)
        notes.insert(
            0,
            f"{joined(home, f'{only}.json')}: is the only subset: of its good images the first and then every fifth "
            "are tested on, the others are learned from",
        )
    train = tuple(sample for sample in samples if sample.split == "train" and sample.label == 0)
    test = tuple(sample for sample in samples if sample.split == "test")
    for found, what in ((train, "good image to learn from"), (test, "image to test on")):
        if not found:
            listed = ", ".join(f"{subset}.json" for subset in splits)
            raise DataError(
                f"{home}: no {what} in {listed}",
                help="Subsets are called train, validation and test; an only one has another name, as default.",
            )
    return Dataset(
        name="datumaro",
        category=category,
        root=where.root,
        train=train,
        validation=tuple(sample for sample in samples if sample.split == "validation" and sample.label == 0),
        test=test,
        left_out=tuple(sample for sample in samples if sample.split != "test" and sample.label == 1),
        notes=tuple(notes),
    )


def _home(root: str) -> str:
    """The folder of the annotations. NoLayout where the root is no such export."""
    check_root(root)
    home = joined(root, _LISTS)
    if is_folder(home) and _subsets(home):
        if not is_folder(joined(root, _IMAGES)):
            raise missing_folder(root, _IMAGES, "Export it with its images, which lie in images/<subset>/.")
        return home
    if is_folder(joined(root, _IMAGES)) and not is_folder(home):
        error = missing_folder(root, _LISTS, OTHER_LAYOUT)
        if "; there is " in error.message:
            raise error
    raise NoLayout(
        f"{root} holds no export in Datumaro's format: expected {joined(home, '<subset>.json')}, found {holds(root)}",
        help=OTHER_LAYOUT,
    )


def _subsets(home: str) -> list[str]:
    return [PurePath(name).stem for name in files_in(home) if PurePath(name).suffix == ".json"]


# --- what is kept of an export


@dataclass(frozen=True, slots=True)
class _Item:
    """An image: its path below the root, the labels of its annotations in the labels' order, and what else they are.

    shapes: whether any annotation is one. unnamed: whether one of these has no label.
    """

    subset: str
    relative: str
    labels: tuple[str, ...]
    shapes: bool
    unnamed: bool

    def is_good(self, normal: frozenset[str]) -> bool:
        return bool(self.labels) and not self.unnamed and normal.issuperset(self.labels)


@dataclass(slots=True)
class _Export:
    """What all subsets say.

    labels:  every label's name once, in their order.
    seen:    the images that items are, below the root, and where each is listed.
    images:  those that lie below images/, sorted by bytes; by_stem: the same by their name without suffix.
    named:   folders in images/ that items lie in or should lie in.
    subsets: in the order of their files. unread: whether one could not be read, and what it lists is not known.
    """

    root: str
    labels: dict[str, None] = field(default_factory=dict)
    items: list[_Item] = field(default_factory=list)
    seen: dict[str, str] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    images: dict[str, None] = field(default_factory=dict)
    by_stem: dict[str, list[str]] = field(default_factory=dict)
    named: set[str] = field(default_factory=set)
    subsets: list[str] = field(default_factory=list)
    unread: bool = False

    def __post_init__(self) -> None:
        found = relative_images(joined(self.root, _IMAGES))
        self.images = dict.fromkeys(found)
        for name in found:
            self.by_stem.setdefault(without_suffix(name), []).append(name)


class _Wrong(ValueError):
    """What is wrong with a part of a document, said once of what it is a part of."""


class _Misnamed(_Wrong):
    """An image lies in its subset's folder, which is called alike but for its case: said once of the folder."""


# --- the documents


def _read(export: _Export, subset: str) -> None:
    """Take up one subset, or note what is wrong with it."""
    file = joined(export.root, f"{_LISTS}/{subset}.json")
    export.subsets.append(subset)
    export.named.add(subset)
    try:
        document = parse_json(read_bounded(file))
        labels = _labels(document)
        items = _member(document, "items", list)
    except (OSError, ValueError) as error:
        export.unread = True
        export.problems.append(_unreadable(file, error))
        return
    export.labels |= dict.fromkeys(labels)
    order: dict[str, int] = {}
    for i, label in enumerate(labels):
        order.setdefault(label, i)
    other = in_another_case(joined(export.root, _IMAGES), subset)
    if is_folder(joined(export.root, f"{_IMAGES}/{subset}")):
        other = None
    wrong, misnamed = [], False
    for number, item in enumerate(items):
        place = f"{file}: item {number + 1}"
        try:
            _add(export, _Subset(subset, other, labels, order), place, item)
        except _Misnamed:
            misnamed = True
        except _Wrong as error:
            called = item.get("id") if isinstance(item, dict) else None
            name = f" ({shown(called)})" if isinstance(called, str) else ""
            wrong.append(f"{place}{name}: {error}")
    if misnamed:
        export.problems += missing_folder(export.root, f"{_IMAGES}/{subset}", "").problems
    export.problems += map(Problem, capped(wrong, file, "items with something wrong"))


def _unreadable(file: str, error: OSError | ValueError) -> Problem:
    if isinstance(error, Hostile):
        return Problem(f"{file}: {error}", "Export it in several subsets, or list the images in a manifest.")
    if isinstance(error, _Wrong):
        return Problem(f"{file}: {error}")
    if isinstance(error, OSError):
        return Problem(f"{file}: cannot be read ({error.strerror or error})")
    return Problem(f"{file}: is no JSON ({error})", "Export it anew.")


def _member(value: object, name: str, wanted: type, *, where: str = "") -> Any:
    """What an object has under a name, of the right kind."""
    if not isinstance(value, dict):
        raise _Wrong(f"{where and where + ': '}expected an object, found {kind(value)}")
    if name not in value:
        raise _Wrong(f"has no {where and where + '.'}{name}")
    if not isinstance(value[name], wanted):
        expected = "an object" if wanted is dict else "a list" if wanted is list else "a string"
        raise _Wrong(f"{where and where + '.'}{name}: expected {expected}, found {kind(value[name])}")
    return value[name]


def _labels(document: object) -> list[str]:
    """The names of the labels, by their number."""
    categories = _member(document, "categories", dict)
    labels = _member(_member(categories, "label", dict, where="categories"), "labels", list, where="categories.label")
    names = [_member(label, "name", str, where=f"categories.label.labels[{i}]") for i, label in enumerate(labels)]
    for i, name in enumerate(names):
        if not name.strip():
            raise _Wrong(f"categories.label.labels[{i}].name is empty")
    return names


@dataclass(frozen=True, slots=True)
class _Subset:
    """A subset whose items are taken up.

    other:  the folder in images/ that is called like it but for its case, where there is none called so.
    labels: names by their number. order: the first number of each name.
    """

    name: str
    other: str | None
    labels: Sequence[str]
    order: Mapping[str, int]


def _add(export: _Export, subset: _Subset, place: str, item: object) -> None:
    """Take up one item. _Wrong where something about it is."""
    annotations = _member(item, "annotations", list)
    found: set[str] = set()
    shapes = unnamed = False
    for i, annotation in enumerate(annotations):
        where = f"annotations[{i}]"
        form = _member(annotation, "type", str, where=where)
        number = annotation.get("label_id")
        is_shape = form not in _NO_SHAPES
        shapes = shapes or is_shape
        if number is None:
            unnamed = unnamed or is_shape
        elif type(number) is not int:
            raise _Wrong(f"{where}.label_id: expected an integer, found {kind(number)}")
        elif not 0 <= number < len(subset.labels):
            there = len(subset.labels)
            raise _Wrong(f"{where}.label_id: {shown(number)} is no label: there are {there}, counted from 0")
        else:
            found.add(subset.labels[number])
    relative = _image(export, subset, item)
    if relative in export.seen:
        raise _Wrong(f"{joined(export.root, relative)} is listed already, in {export.seen[relative]}")
    export.seen[relative] = place
    names = tuple(sorted(found, key=subset.order.__getitem__))
    export.items.append(_Item(subset.name, relative, names, shapes, unnamed))


def _image(export: _Export, subset: _Subset, item: object) -> str:
    """Where the image of an item lies, below the root. Where only its id is given, its file is called like that."""
    media: Any = next((item[name] for name in ("image", "media") if isinstance(item, dict) and name in item), {})
    if not isinstance(media, dict):
        raise _Wrong(f"image: expected an object, found {kind(media)}")
    below, suffixed = media.get("path"), True
    if below is None or below == "":
        below, suffixed = _member(item, "id", str), False
    if not isinstance(below, str):
        raise _Wrong(f"image.path: expected a string, found {kind(below)}")
    if "\\" in below or "\0" in below or not {"", ".", ".."}.isdisjoint(below.split("/")):
        raise _Wrong(f"{shown(below)} is no path below {joined(export.root, _IMAGES)}")
    names = (f"{subset.name}/{below}", below)
    export.named.update(name.partition("/")[0] for name in names if "/" in name)
    for name in names:
        files = _files(export, name, suffixed=suffixed)
        if len(files) > 1:
            raise _Wrong(f"two images of this name: {' and '.join(_in_images(export, file) for file in files[:2])}")
        if files:
            return f"{_IMAGES}/{files[0]}"
    if subset.other is not None and _files(export, f"{subset.other}/{below}", suffixed=suffixed):
        raise _Misnamed
    raise _Wrong(f"no image at {' nor at '.join(_in_images(export, name) for name in names)}")


def _files(export: _Export, name: str, *, suffixed: bool) -> Sequence[str]:
    if suffixed:
        return [name] if name in export.images else []
    return export.by_stem.get(name, [])


def _in_images(export: _Export, name: str) -> str:
    return joined(export.root, f"{_IMAGES}/{name}")


# --- what they say together


def _plain(label: str) -> str:
    return " ".join(label.casefold().replace("_", " ").replace("-", " ").split())


def _normal_labels(export: _Export) -> frozenset[str]:
    """The name of the label for normal images, in each spelling that it has. DataError unless there is just one."""
    found = [label for label in export.labels if _plain(label) in _NORMAL]
    if len({_plain(label) for label in found}) == 1:
        return frozenset(found)
    listed = ", ".join(map(shown, islice(export.labels, _MOST_LABELS))) or "none"
    if len(export.labels) > _MOST_LABELS:
        listed += f" and {len(export.labels) - _MOST_LABELS} more"
    what = "none of the labels is" if not found else f"{' and '.join(map(shown, found))} are both"
    raise DataError(
        f"{joined(export.root, _LISTS)}: {what} called as normal images are; the labels: {listed}",
        help=f"Call one label so, as one of: {', '.join(_NORMAL)}. Or list the images in a manifest.",
    )


def _splits(home: str, export: _Export) -> dict[str, Split | None]:
    """The split that each subset is; None for an only one of another name, which is parted."""
    splits = {subset: _SPLITS.get(subset.casefold()) for subset in export.subsets}
    if len(splits) > 1 and None in splits.values():
        _refuse(home, [subset for subset, split in splits.items() if split is None])
    return splits


def _check_splits(home: str, export: _Export) -> None:
    """Note as a problem each folder of images that is called like a split and has lost its annotations."""
    if export.unread:
        return
    known = {subset.casefold() for subset in export.subsets}
    for name in dict.fromkeys(image.partition("/")[0] for image in export.images if "/" in image):
        if name not in export.named and name.casefold() in _SPLITS and name.casefold() not in known:
            export.problems.append(
                Problem(
                    f"{joined(home, f'{name}.json')}: no such file; there are images in {_in_images(export, name)}",
                    "Export it together with the others, or take its images away.",
                )
            )


def _refuse(home: str, subsets: Iterable[str]) -> NoReturn:
    raise LayoutError(
        [
            Problem(
                f"{joined(home, f'{subset}.json')}: which split it is, is not known",
                "Call it train, validation or test, or take it away.",
            )
            for subset in subsets
        ]
    )


def _parted(samples: Sequence[Sample]) -> list[Sample]:
    """Those of an only subset: every fifth good image stays a test image, the others are learned from."""
    parted, good = [], 0
    for sample in samples:
        if sample.label == 0:
            split: Split = "train" if good % _TESTED else "test"
            good += 1
            sample = Sample(sample.path, sample.relative, split, 0, sample.defect, sample.category)
        parted.append(sample)
    return parted


def _notes(export: _Export, normal: frozenset[str]) -> list[str]:
    """What is passed over: items that nobody labelled, shapes, and images that are no items."""
    notes = []
    unlabelled = [i.relative for i in export.items if not i.is_good(normal) and normal.issuperset(i.labels)]
    if unlabelled:
        notes.append(f"{_count(export.root, unlabelled)} without a label, and left out")
    shaped = [i.relative for i in export.items if i.shapes and not normal.issuperset(i.labels)]
    if shaped:
        notes.append(
            f"{_count(export.root, shaped)} marked with shapes, which are not drawn as masks: with masks in PNG files, "
            "the data sets folder and manifest bring pixel metrics"
        )
    return notes + _unlisted(export)


def _unlisted(export: _Export) -> list[str]:
    """The images that no annotations list: by their folder where that has none, and the others together."""
    folders: dict[str, int] = {}
    others = []
    for image in export.images:
        top, inside, _ = image.partition("/")
        if inside and top not in export.named:
            folders[top] = folders.get(top, 0) + 1
        elif f"{_IMAGES}/{image}" not in export.seen:
            others.append(f"{_IMAGES}/{image}")
    notes = [
        f"{_in_images(export, name)}: holds {count} {'image' if count == 1 else 'images'} and has no annotations in "
        f"{joined(export.root, f'{_LISTS}/{name}.json')}: left out"
        for name, count in folders.items()
    ]
    notes = capped(notes, joined(export.root, _IMAGES), "folders without annotations")
    if others:
        notes.append(f"{_count(export.root, others)} listed in no annotations, and left out")
    return notes


def _count(root: str, relatives: Sequence[str]) -> str:
    first = joined(root, min(relatives, key=os.fsencode))
    if len(relatives) == 1:
        return f"{first}: is"
    return f"{first}: is the first of {len(relatives)} images that are"
