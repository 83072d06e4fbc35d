"""Real-IAD: thirty kinds of part, each part seen from five sides (Wang et al., CVPR 2024).

    ROOT/realiad_1024/<category>/OK/S0001/*.jpg             also realiad_512, realiad_256, realiad_raw
    ROOT/realiad_1024/<category>/NG/<defect>/S0001/*.jpg    with the masks, *.png, beside them
    ROOT/realiad_jsons/<category>.json                      the split multi_view, views C1 to C5
    ROOT/realiad_jsons_sv/<category>.json                   the split single_view, C1 alone

Both folders of JSON files may also lie in ROOT/realiad_jsons, as some unpack them. Any category name is accepted. A
file is {"meta": {"normal_class": "OK", "prefix": "<category>/", …}, "train": […], "test": […]}, its entries have
category, anomaly_class, image_path and mask_path, both paths below the category's folder; a mask_path of null or "" is
none. Names of files do not count: they need not be made of category, part and view.

Whether an image is good is said by its anomaly_class, not by its folder: of a part in NG, the views that show no defect
are OK. A part is a folder S0001, with all its views; its score is the highest of theirs, and one view with a defect
makes it a defect, as the authors measure it. Kinds of defect keep the code that the data set has for them.

realiad_jsons_fuiad_<rate> are splits with defects among the training images, for learning from images that nobody has
sorted. They are not offered: defects are never learned from, and without them these would be other splits.

Sources: https://github.com/Tencent/AnomalyDetection_Real-IAD (folders, splits, the measure of samples), anomalib
(realiad.py: JSON files that lie one folder deeper).
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import PurePath, PurePosixPath, PureWindowsPath
from typing import Any

from uadctl.datasets.base import (
    LIKE_GOOD,
    Dataset,
    LayoutError,
    NoLayout,
    Where,
    both_cases,
    capped,
    check_category,
    check_root,
    differ_in_case,
    holds,
    in_another_case,
    misnamed,
    missing_folder,
    own_name,
    read_document,
    rename,
    without_suffix,
)
from uadctl.errors import DataError, Problem, with_help
from uadctl.imaging.listing import files_in, is_folder, is_image_name, joined, relative_images, subfolders
from uadctl.records import Sample, Split
from uadctl.spec.grammar import is_name
from uadctl.spec.values import shown

SPLITS = ("multi_view", "single_view")
"""The first is the default."""

LAYOUTS = ("1024", "512", "256", "raw")
"""Sizes of the images, in pixels a side; raw: as they were taken."""

_GOOD = "good"
_IMAGES = "realiad_"
_JSONS = {"multi_view": "realiad_jsons", "single_view": "realiad_jsons_sv"}
_SIDES: tuple[Split, ...] = ("train", "test")

_UNPACKED = "Give the folder that holds realiad_1024 (or realiad_512, realiad_256, realiad_raw) and realiad_jsons."
_OF_JSONS = "It is part of realiad_jsons.zip, which comes with the images."
_AS_PUBLISHED = "realiad_jsons.zip holds these files as they should be, and an archive for each category its images."


def recognises(root: str) -> bool:
    """Whether a folder holds images of Real-IAD and JSON files, by the names of its folders, in any case."""
    names = [name.casefold() for name in subfolders(root)]
    return any(_IMAGES + layout in names for layout in LAYOUTS) and any(
        name.startswith(_JSONS["multi_view"]) for name in names
    )


def list_categories(where: Where) -> list[str]:
    """The categories below the root, sorted by bytes: those with images, and those with a JSON file of the split.

    Where one has but either, `load` says what it lacks; no file is read. Raises NoLayout where there is neither kind of
    folder, DataError where one is missing, in another case or there twice, be it in two cases.
    """
    return _find(where).categories


def load(where: Where, category: str) -> Dataset:
    """List one category. No image is decoded; which there are is seen by listing their folders.

    A defect image whose mask is not there keeps no mask and says where it was looked for. In the split single_view no
    image has a group. Raises LayoutError (a DataError) that holds every problem of the JSON file, DataError where the
    category or a part of it is missing, or it has no training or no test image.
    """
    home = _find(where)
    check_category(where.root, category, home.categories)
    folder = joined(home.images, category)
    _refuse_both(home.images, category)
    if category not in home.documents:
        raise _no_document(home, category, folder)
    document = home.documents[category]
    if not is_folder(folder):
        other = in_another_case(home.images, category)
        if other is not None and other == category.casefold():  # as all categories that are published
            raise _no_document(home, other, joined(home.images, other))
        raise missing_folder(home.images, category, f"{document} names its images: unpack those of {category} there.")
    split = where.split or SPLITS[0]
    reading = _Reading(document, folder, category, in_groups=split == "multi_view")
    reading.read()
    learned = [sample for sample in reading.given["train"] if sample.label == 0]
    tested = reading.given["test"]
    for samples, side, what in ((learned, "train", "normal training image"), (tested, "test", "test image")):
        if not samples:
            raise DataError(f"{document} names no {what}", help=f"They are the entries of {side}. {_OF_JSONS}")
    return Dataset(
        name="real_iad",
        category=category,
        root=where.root,
        train=_sorted(learned),
        validation=(),
        test=_sorted(tested),
        left_out=_sorted(sample for sample in reading.given["train"] if sample.label != 0),
    )


def _no_document(home: _Home, category: str, folder: str) -> DataError:
    """The error for a category without JSON file; it names one that differs in case alone."""
    name = f"{category}.json"
    message = f"{joined(home.jsons, name)}: no such file; "
    for other, file in home.documents.items():
        if other.casefold() == category.casefold():
            return DataError(f"{message}there is {file}", help=f"Case counts in names: rename it to {name}.")
    return DataError(f"{message}it says which images of {folder} to learn from and which to test on", help=_OF_JSONS)


def _sorted(samples: Iterable[Sample]) -> tuple[Sample, ...]:
    return tuple(sorted(samples, key=lambda sample: os.fsencode(sample.relative)))


# --- where the images and the JSON files are


@dataclass(frozen=True, slots=True)
class _Home:
    """Where the categories are.

    images: the folder that holds theirs. jsons: the one that holds the JSON files of the split. documents: these by the
    name of their category. categories: all names, sorted by bytes.
    """

    images: str
    jsons: str
    documents: Mapping[str, str]
    categories: list[str]


def _find(where: Where) -> _Home:
    check_root(where.root)
    images, jsons = _images(where), _jsons(where.root, where.split or SPLITS[0])
    documents = _documents(jsons)
    there = (name for name in subfolders(images) if any(is_folder(joined(images, f"{name}/{k}")) for k in ("OK", "NG")))
    return _Home(images, jsons, documents, sorted({*documents, *there}, key=os.fsencode))


def _images(where: Where) -> str:
    """The folder of the images in the layout asked for, or in the one there is."""
    root, names = where.root, subfolders(where.root)
    there = [layout for layout in LAYOUTS if _IMAGES + layout in names]
    if where.layout is None and len(there) > 1:
        listed = [f"{layout} in {joined(root, _IMAGES + layout)}" for layout in there]
        raise DataError(
            f"{root} holds Real-IAD in {len(there)} layouts: {', '.join(listed)}",
            help=f"Set [dataset] layout = {' or '.join(shown(layout) for layout in there)}; without a spec: "
            f"bench --set 'dataset.layout={shown(there[0])}', datasets check --layout {there[0]}",
        )
    layout = where.layout or (there[0] if there else _alike(root))
    if layout in there:
        _refuse_both(root, _IMAGES + layout)
        return joined(root, _IMAGES + layout)
    if layout is not None:
        leave = f"It has the layout {' and '.join(there)}: leave [dataset] layout out." if len(there) == 1 else None
        several = f"It has the layouts {', '.join(there)}." if there else None
        raise missing_folder(root, _IMAGES + layout, leave or several or _UNPACKED)
    expected = f"{joined(root, f'{_IMAGES}1024/<category>')} and {joined(root, 'realiad_jsons/<category>.json')}"
    message = f"{root} holds no Real-IAD: expected {expected}, found {holds(root)}"
    if any(name.startswith(_JSONS["multi_view"]) for name in names):
        raise DataError(message, help=_UNPACKED)
    part = own_name(root).casefold()
    inside = any(part == _IMAGES + layout for layout in LAYOUTS) or part.startswith(_JSONS["multi_view"])
    raise NoLayout(message, help=f"{root} is a part of it. {_UNPACKED}" if inside else _UNPACKED)


def _alike(root: str) -> str | None:
    """The layout that there would be, were its folder not called in another case."""
    return next((layout for layout in LAYOUTS if in_another_case(root, _IMAGES + layout)), None)


def _refuse_both(home: str, below: str) -> None:
    """Raise LayoutError where a folder on a path below `home` is there in two cases: one would be passed over."""
    problems = both_cases(home, below)
    if problems:
        raise LayoutError(problems)


def _jsons(root: str, split: str) -> str:
    """The folder of a split's JSON files: in the root, or one deeper. Raises DataError for none, and for both."""
    name = _JSONS[split]
    places = (name, f"{_JSONS['multi_view']}/{name}")
    found = [place for place in places if _documents(joined(root, place))]
    if len(found) > 1:
        listed = " and ".join(joined(root, place) for place in found)
        raise DataError(f"{root} holds the split {split} twice: {listed}", help="Keep one of them.")
    if found:
        _refuse_both(root, found[0])
        return joined(root, found[0])
    for place in places:
        if misnamed(root, place) is not None:
            raise missing_folder(root, place, _OF_JSONS)
    there = [joined(root, place) for place in places if is_folder(joined(root, place))]
    if there:
        raise DataError(f"{there[-1]} holds no JSON file", help=f"It must hold <category>.json. {_OF_JSONS}")
    raise missing_folder(root, name, _OF_JSONS)


def _documents(folder: str) -> dict[str, str]:
    """The JSON files in a folder by the category that each is of; none where there is no such folder.

    Raises LayoutError where two differ in case alone.
    """
    files = files_in(folder) if is_folder(folder) else []
    names = [name for name in files if PurePath(name).suffix.lower() == ".json"]
    first: dict[str, str] = {}
    for name in reversed(names):  # small letters, as all published names have, come last
        first.setdefault(name.casefold(), name)
    twice = [(first[name.casefold()], name) for name in names if first[name.casefold()] != name]
    if twice:
        raise LayoutError([differ_in_case(folder, right, other) for right, other in twice])
    return {without_suffix(name): joined(folder, name) for name in names}


# --- a JSON file


@dataclass(slots=True)
class _Reading:
    """What a category's JSON file has said so far, and what is wrong with it.

    document: the file. folder: the category's, from which its paths start. in_groups: whether the images of a folder
    show one part.
    given:    the images of both sides. places: of each image, by its path below the folder, the entry that named it.
    owners:   which image a mask belongs to. files: all images below the folder. problems: but for images that are
    missing, which may be thousands; they are paths below the folder.
    """

    document: str
    folder: str
    category: str
    in_groups: bool
    given: dict[str, list[Sample]] = field(default_factory=lambda: {side: [] for side in _SIDES})
    places: dict[str, str] = field(default_factory=dict)
    owners: dict[str, str] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    files: _Files = field(init=False)

    def __post_init__(self) -> None:
        self.files = _Files(self.folder)

    def read(self) -> None:
        """Take in the whole file. Raises LayoutError with all problems, DataError where it cannot be read as JSON."""
        value = read_document(self.document, help=_AS_PUBLISHED)
        if not isinstance(value, dict):
            raise LayoutError([Problem(f"{self.document}: expected an object, found {shown(value)}", _AS_PUBLISHED)])
        normal = self._normal_class(value)
        for side in _SIDES:
            entries = value.get(side)
            if not isinstance(entries, list):
                found = f"expected a list of images, found {shown(entries)}"
                self._wrong(side, found if side in value else "is missing")
                continue
            for number, entry in enumerate(entries, start=1):
                self._take(f"entry {number} of {side}", entry, side, normal)
        self.problems += [
            f"{self.document}: {self.places[image]}: the mask {joined(self.folder, mask)} is an image itself"
            for mask, image in self.owners.items()
            if mask in self.places
        ]
        if self.problems or self.missing:
            raise LayoutError(self._told())

    def _wrong(self, place: str, text: str) -> None:
        self.problems.append(f"{self.document}: {place}: {text}")

    def _told(self) -> list[Problem]:
        """The problems, those of one kind not so many that they hide the others."""
        explained, missing = self._explained()
        absent = [f"{joined(self.folder, image)}: no such file" for image in missing]
        told = capped(self.problems, self.document, "problems")
        told += capped(absent, self.document, "images that are not there")
        return [*explained, *(with_help(told, _AS_PUBLISHED) if told else [])]

    def _explained(self) -> tuple[list[Problem], list[str]]:
        """Why images are missing, as far as folders tell, and those of which they do not.

        They lie one folder deeper, or in a folder that has another case. Of the parts of one kind of defect the first
        is looked for: there may be thousands.
        """
        deeper = [image for image in self.missing if self.files.find(f"{self.category}/{image}") is not None]
        problems = []
        if deeper:
            message = f"{joined(self.folder, self.category)} holds {len(deeper)} images one folder too deep"
            problems.append(Problem(message, f"Move what it holds to {self.folder}."))
        elsewhere, left = set(deeper), []
        looked_for: set[str] = set()
        wrong: list[str] = []
        for image in self.missing:
            path = joined(self.folder, image)
            if image in elsewhere or path.startswith(tuple(wrong)):
                continue
            part = image.rpartition("/")[0]
            kind = part.rpartition("/")[0]
            found = None if kind in looked_for else misnamed(self.folder, part)
            looked_for.add(kind)
            if found is None:
                left.append(image)
                continue
            there, name = found
            place = joined(there.rpartition("/")[0], name)
            problems.append(Problem(f"{place}: no such folder; there is {there}", rename(name)))
            wrong.append(f"{place}/")
        return problems, left

    def _normal_class(self, value: dict[str, Any]) -> str | None:
        """What good images are called. None, and a problem, where the file does not say it."""
        meta = value.get("meta")
        if not isinstance(meta, dict):
            self._wrong("meta", f"expected an object, found {shown(meta)}" if "meta" in value else "is missing")
            return None
        for key in ("normal_class", "prefix"):
            if key not in meta:
                self._wrong("meta", f"{key} is missing")
            elif not isinstance(meta[key], str) or not meta[key]:
                self._wrong("meta", f"{key} = {shown(meta[key])}: expected text")
        prefix, normal = meta.get("prefix"), meta.get("normal_class")
        if isinstance(prefix, str) and prefix and prefix.rstrip("/") != self.category:
            self._wrong("meta", f"prefix = {shown(prefix)}: expected {shown(f'{self.category}/')}")
        return normal if isinstance(normal, str) and normal else None

    def _take(self, place: str, entry: object, side: Split, normal: str | None) -> None:
        """Take in one image, if its entry is sound."""
        if not isinstance(entry, dict):
            self._wrong(place, f"expected an object, found {shown(entry)}")
            return
        absent = [key for key in ("category", "anomaly_class", "image_path") if key not in entry]
        if absent:
            self._wrong(place, f"{', '.join(absent)} {'is' if len(absent) == 1 else 'are'} missing")
            return
        if entry["category"] != self.category:
            self._wrong(place, f"category = {shown(entry['category'])}: expected {shown(self.category)}")
        label = self._label(place, entry["anomaly_class"], normal)
        image = self._image(place, entry["image_path"])
        if image is None or self._is_there_before(place, image) or label is None:
            return
        mask, expected = self._mask(place, entry.get("mask_path"), image, label)
        self.given[side].append(
            Sample(
                path=joined(self.folder, image),
                relative=image,
                split=side,
                label=label,
                defect=entry["anomaly_class"] if label else _GOOD,
                category=self.category,
                masks=() if mask is None else (joined(self.folder, mask),),
                expected_mask=None if expected is None else joined(self.folder, expected),
                group=(image.rpartition("/")[0] or None) if self.in_groups else None,
            )
        )

    def _label(self, place: str, kind: object, normal: str | None) -> int | None:
        if not isinstance(kind, str) or not kind or not is_name(kind):
            self._wrong(place, f"anomaly_class = {shown(kind)}: expected a kind of defect, or what good images are")
            return None
        if normal is None:
            return None
        if kind != normal and kind.casefold() in (*LIKE_GOOD, normal.casefold()):
            self._wrong(place, f"anomaly_class = {shown(kind)}: good images are called {shown(normal)}")
            return None
        return int(kind != normal)

    def _path(self, place: str, key: str, value: object) -> str | None:
        """A path of the file in its plain form; None, and a problem, where it does not stay below the folder."""
        if not isinstance(value, str) or not value:
            self._wrong(place, f"{key} = {shown(value)}: expected a path")
            return None
        if value in self.files.names:  # as listed, which no other path is
            return value
        path = PurePosixPath(value)
        leaves = path.is_absolute() or ".." in path.parts or bool(PureWindowsPath(value).drive)
        if not path.parts or leaves or "\\" in value or "\0" in value:
            self._wrong(place, f"{key} = {shown(value)} is no path below {self.folder} with forward slashes")
            return None
        return path.as_posix()

    def _image(self, place: str, value: object) -> str | None:
        path = self._path(place, "image_path", value)
        if path is None:
            return None
        found = self.files.find(path)
        if found is None and is_image_name(PurePosixPath(path).name):
            self.missing.append(path)
        elif found is None:
            self._wrong(place, f"image_path = {shown(path)} has no suffix of an image")
        return found

    def _is_there_before(self, place: str, image: str) -> bool:
        first = self.places.setdefault(image, place)
        if first != place:
            self._wrong(place, f"{image} is {first} already")
        return first != place

    def _mask(self, place: str, value: object, image: str, label: int) -> tuple[str | None, str | None]:
        """The mask of an image, or where it was looked for: as the entry says, else beside the image."""
        if value is None or value == "":
            if label == 0:
                return None, None
            wanted: str | None = f"{without_suffix(image)}.png"
        elif label == 0:
            self._wrong(place, f"{image} is a good image, but mask_path = {shown(value)}")
            return None, None
        else:
            wanted = self._path(place, "mask_path", value)
        if wanted is None:
            return None, None
        mask = self.files.find(wanted)
        if mask is None:
            return None, wanted
        if self.owners.setdefault(mask, image) != image:
            self._wrong(place, f"{image} and {self.owners[mask]} share one mask, {mask}")
        return mask, None


class _Files:
    """The image files below a folder, masks among them, as paths below it; found with their suffix in any case."""

    def __init__(self, folder: str) -> None:
        listed = relative_images(folder)
        self.names = frozenset(listed)
        self._in_any_case: dict[str, list[str]] | None = None

    def find(self, name: str) -> str | None:
        """The file of this name as it is on disk, or None where there is none, or two but for the case."""
        if name in self.names:
            return name
        if self._in_any_case is None:  # seldom needed, and as much work as all the rest
            self._in_any_case = {}
            for other in sorted(self.names, key=os.fsencode):
                self._in_any_case.setdefault(_any_case(other), []).append(other)
        found = self._in_any_case.get(_any_case(name), [])
        return found[0] if len(found) == 1 else None


def _any_case(name: str) -> str:
    bare = without_suffix(name)
    return bare + name[len(bare) :].lower()
