"""VisA, the Visual Anomaly data set of twelve objects (Zou et al., ECCV 2022).

Layout "original", as VisA_20220922.tar unpacks:

    ROOT/split_csv/{1cls,2cls_fewshot,2cls_highshot}.csv    columns object, split, label, image, mask
    ROOT/<category>/Data/Images/{Normal,Anomaly}/*.JPG
    ROOT/<category>/Data/Masks/Anomaly/<stem>.png           0, or the number of a kind of defect
    ROOT/<category>/image_anno.csv                          columns image, label, mask; the kinds of defect (optional)

Layout "visa_pytorch", as the authors' prepare_data.py and anomalib rearrange it:

    ROOT/<category>/train/good/*.JPG
    ROOT/<category>/test/{good,bad}/*.JPG
    ROOT/<category>/ground_truth/bad/<stem>.png

and for the splits 2cls_* train/{good,bad} and ground_truth/{train,test}/bad. ROOT may also be the folder that holds the
original one, or a folder visa_pytorch, or in it one named after the split; one without such a name is 1cls, unless its
folders are those of another split. Any category name is accepted. Defects that a 2cls split has in its training part
are never learned from.

Source of both: https://github.com/amazon-science/spot-diff (utils/prepare_data.py, split_csv/).
"""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath, PurePosixPath, PureWindowsPath

from uadctl.datasets.base import (
    Dataset,
    LayoutError,
    NoLayout,
    Where,
    check_category,
    check_root,
    holds,
    own_name,
    refuse_other_case,
    stem,
    without_suffix,
)
from uadctl.datasets.sorted_folders import Folders, Truth, given_images, has_part, is_category, scored_images
from uadctl.errors import DataError, Problem, with_help
from uadctl.imaging.listing import files_in, is_folder, joined, subfolders
from uadctl.records import Sample, Split
from uadctl.untrusted import MAX_TABLE_BYTES, Hostile, read_bounded

_OBJECTS = frozenset(
    {
        "candle",
        "capsules",
        "cashew",
        "chewinggum",
        "fryum",
        "macaroni1",
        "macaroni2",
        "pcb1",
        "pcb2",
        "pcb3",
        "pcb4",
        "pipe_fryum",
    }
)
_SPLITS = ("1cls", "2cls_fewshot", "2cls_highshot")
_PREPARED = "visa_pytorch"
_FOLDERS = Folders(bad=("bad",))
_PARTS: dict[str, Split] = {"train": "train", "test": "test"}
_LABELS = {"normal": 0, "anomaly": 1}
_COLUMNS = ("object", "split", "label", "image", "mask")
_SHOWN = 10
# In the CSV files, and where masks are that these do not name.
_FOLDERS_NAMED = ("Data/Images/Normal", "Data/Images/Anomaly", "Data/Masks/Anomaly")


def recognises(root: str) -> bool:
    """Whether a folder looks like VisA: the original layout, or visa_pytorch with a sign that it is no other data set.

    The sign is a folder named visa_pytorch or after a split, or that every category is one of VisA's. Without one,
    <category>/{train,test,ground_truth} is the layout of MVTec AD.
    """
    check_root(root)
    if _original_home(root) is not None:
        return True
    return any(
        own_name(home).casefold() in (_PREPARED, *_SPLITS) or _OBJECTS.issuperset(_train_categories(home))
        for home in _prepared_homes(root)
    )


def list_categories(where: Where) -> list[str]:
    """The categories below the root, sorted by bytes.

    Beside whole ones, a folder that holds a part of the layout is one too, and `load` says what it lacks. Raises
    NoLayout where it holds none, and DataError where it is missing, where its layout is not clear or where it lacks the
    split.
    """
    return _find(where).categories


def load(where: Where, category: str) -> Dataset:
    """List one category. Nothing is decoded.

    A defect image without mask keeps no mask and says where it was looked for. The kinds of defect come from
    image_anno.csv, joined by commas; without it a defect is "anomaly", in visa_pytorch "bad". Raises LayoutError (a
    DataError) that holds every problem of the CSV files, DataError where the category is missing, has no training or no
    test image, or an image lies where it would be passed over.
    """
    home = _find(where)
    check_category(where.root, category, home.categories)
    train, test = _original(home, category) if home.csv else _prepared(home, category)
    return Dataset(
        name="visa",
        category=category,
        root=where.root,
        train=tuple(sample for sample in train if sample.label == 0),
        validation=(),
        test=test,
        left_out=tuple(sample for sample in train if sample.label != 0),
    )


@dataclass(frozen=True, slots=True)
class _Home:
    """Where the categories are.

    folder: that holds them. categories: their names, sorted by bytes.
    csv:    in the original layout, the file that says which images are learned from; None in the other one.
    """

    folder: str
    categories: list[str]
    csv: str | None


# --- which layout, and where


def _find(where: Where) -> _Home:
    root = where.root
    check_root(root)
    original, prepared = _original_home(root), _prepared_homes(root)
    if original is not None and prepared and where.layout is None:
        raise DataError(
            f"{root} holds VisA in two layouts: original in {original}, visa_pytorch in {', '.join(prepared)}",
            help='Set [dataset] layout = "original" or "visa_pytorch"; without a spec: --set dataset.layout=original',
        )
    split = where.split or _SPLITS[0]
    if original is not None and where.layout != _PREPARED:
        categories = [name for name in subfolders(original) if _in_original(joined(original, name))]
        return _Home(original, categories, _csv(original, split))
    if prepared and where.layout != "original":
        home = _of_split(root, prepared, split)
        return _Home(home, [name for name in subfolders(home) if has_part(joined(home, name))], None)
    expected = {
        "original": f"{joined(root, 'split_csv')} and {joined(root, '<category>/Data/Images')}",
        _PREPARED: f"{joined(root, '<category>/train/good')} and {joined(root, '<category>/test/{good,bad}')}",
    }
    sought = expected[where.layout] if where.layout else ", or ".join(expected.values())
    message = f"{root} holds no VisA category: expected {sought}, found {holds(root)}"
    if original is not None or prepared:
        other = _PREPARED if prepared else "original"
        raise DataError(message, help=f"It has the layout {other}: leave [dataset] layout out.")
    raise NoLayout(
        message,
        help="Give the folder that VisA_20220922.tar unpacks to, or the folder visa_pytorch that was made from it.",
    )


def _original_home(root: str) -> str | None:
    """The root, or the one folder in it, that the original layout is in. Raises DataError where several are."""
    if _original_categories(root):
        return root
    children = [joined(root, name) for name in subfolders(root)]
    homes = [child for child in children if is_folder(joined(child, "split_csv")) and _original_categories(child)]
    if len(homes) > 1:
        raise DataError(f"{root} holds VisA {len(homes)} times: {', '.join(homes)}", help="Give one of them as root.")
    return homes[0] if homes else None


def _original_categories(home: str) -> list[str]:
    return [name for name in subfolders(home) if is_folder(joined(home, f"{name}/Data/Images"))]


def _in_original(folder: str) -> bool:
    """Whether a folder holds any part of a category, even if not all of it was unpacked."""
    return is_folder(joined(folder, "Data")) or Path(joined(folder, "image_anno.csv")).is_file()


def _csv(home: str, split: str) -> str:
    folder = joined(home, "split_csv")
    path = joined(folder, f"{split}.csv")
    if not is_folder(folder):
        raise DataError(
            f"{folder}: no such folder; it says which images to learn from and which to test on",
            help="It is part of VisA_20220922.tar and of https://github.com/amazon-science/spot-diff.",
        )
    if not Path(path).is_file():
        raise DataError(
            f"{path}: no such file; {folder} holds {holds(folder)}", help=f"VisA has the splits {', '.join(_SPLITS)}."
        )
    return path


def _prepared_homes(root: str) -> list[str]:
    tops = [root, *(joined(root, name) for name in subfolders(root) if name.casefold() == _PREPARED)]
    places = [place for top in tops for place in (top, *(joined(top, split) for split in _SPLITS))]
    return [place for place in places if is_folder(place) and _is_prepared(place)]


def _train_categories(home: str) -> list[str]:
    return [name for name in subfolders(home) if is_category(joined(home, name))]


def _is_prepared(home: str) -> bool:
    """Whether a category is laid out as VisA is: only good/ and bad/ in test/, which tells it from MVTec AD."""
    for name in _train_categories(home):
        test = joined(home, f"{name}/test")
        kinds = subfolders(test) if is_folder(test) else []
        if kinds and all(_FOLDERS.allows(kind) for kind in kinds):
            return True
    return False


def _of_split(root: str, homes: Sequence[str], split: str) -> str:
    """The one of these folders that holds a split: the names of folders say which; one without such a name is 1cls.

    Raises DataError where there is none, or more than one, and where one without name has folders that 1cls has not.
    """
    named: dict[str, list[str]] = {}
    for home in homes:
        name = own_name(home)
        named.setdefault(name if name in _SPLITS else "", []).append(home)
    found = named.get(split) or (named.get("", []) if split == _SPLITS[0] else [])
    if len(found) > 1:
        raise DataError(f"{root} holds the split {split} twice: {' and '.join(found)}", help="Give one as root.")
    if found:
        if split not in named:
            _refuse_defects_in_train(found[0])
        return found[0]
    there = [name for name in _SPLITS if name in named]
    if there:
        raise DataError(
            f"{root} has no split {split}; it has: {', '.join(there)}",
            help=f"prepare_data.py of VisA's authors makes it, with --split-type {split}.",
        )
    _refuse_defects_in_train(homes[0])
    raise DataError(
        f"{homes[0]} does not say which split it holds, so it is taken for {_SPLITS[0]}; {split} was asked for",
        help=f"If it is {split}, put its categories into a folder of that name.",
    )


def _refuse_defects_in_train(home: str) -> None:
    """Raise DataError where a folder without a split's name cannot be 1cls, of which train/ is all good."""
    for name in _train_categories(home):
        for sign in ("train/bad", "ground_truth/train"):
            if is_folder(joined(home, f"{name}/{sign}")):
                raise DataError(
                    f"{home} does not say which split it holds, and is not {_SPLITS[0]}: there is "
                    f"{joined(home, f'{name}/{sign}')}",
                    help=f"Put its categories into a folder named after the split: {' or '.join(_SPLITS[1:])}.",
                )


# --- visa_pytorch


def _prepared(home: _Home, category: str) -> tuple[tuple[Sample, ...], tuple[Sample, ...]]:
    """The training images, bad ones included, and the test images."""
    folder = joined(home.folder, category)
    of_train, of_test = "ground_truth/train", "ground_truth/test"
    if not is_folder(joined(folder, of_test)):
        of_test = "ground_truth"
    truth = Truth(folder, of_train, expected="{}.png")
    given = given_images(folder, category, folders=_FOLDERS, splits=("train",), truth=truth)
    truth = Truth(folder, of_test, expected="{}.png")
    return (*given.train, *given.left_out), scored_images(folder, category, folders=_FOLDERS, truth=truth)


# --- the original layout


def _original(home: _Home, category: str) -> tuple[tuple[Sample, ...], tuple[Sample, ...]]:
    """The training images, defects included, and the test images, as the split's CSV has them."""
    for part in _FOLDERS_NAMED:
        refuse_other_case(home.folder, f"{category}/{part}")
    reading = _Reading(home=home.folder, csv=str(home.csv), category=category)
    reading.read_kinds()
    reading.read_split()
    if reading.problems:
        raise LayoutError(_capped(reading.problems, reading.csv))
    samples = sorted(reading.samples.values(), key=lambda sample: os.fsencode(sample.relative))
    train = tuple(sample for sample in samples if sample.split == "train")
    test = tuple(sample for sample in samples if sample.split == "test")
    if not any(sample.label == 0 for sample in train):
        raise DataError(
            f"{reading.csv} names no normal training image of {category}",
            help="Its rows have split = train and label = normal.",
        )
    if not test:
        raise DataError(f"{reading.csv} names no test image of {category}", help="Its rows have split = test.")
    return train, test


def _capped(problems: Sequence[str], path: str) -> list[Problem]:
    shown = list(problems[:_SHOWN])
    if len(problems) > _SHOWN:
        shown.append(f"{path}: and {len(problems) - _SHOWN} more problems")
    return with_help(shown, "VisA_20220922.tar holds these files as they should be.")


@dataclass(slots=True)
class _Files:
    """Which files there are. Each folder is listed once."""

    home: str
    _listed: dict[str, dict[str, list[str]]] = field(default_factory=dict)

    def find(self, below: str) -> str | None:
        """The path of a file below the home as it is on disk, where its suffix may be in another case; or None."""
        folder, _, name = below.rpartition("/")
        if folder not in self._listed:
            listed: dict[str, list[str]] = {}
            place = joined(self.home, folder)
            for file in files_in(place) if is_folder(place) else ():
                listed.setdefault(_any_case(file), []).append(file)
            self._listed[folder] = listed
        found = self._listed[folder].get(_any_case(name), [])
        if name in found:
            return below
        return f"{folder}/{found[0]}" if len(found) == 1 else None


def _any_case(name: str) -> str:
    return without_suffix(name) + PurePath(name).suffix.casefold()


@dataclass(slots=True)
class _Reading:
    """What the CSV files have said so far of one category, and what is wrong with them.

    samples, lines, masks: by the path of the image below the home, as it is on disk; the line that named it first, and
    the mask that this line gave it.
    kinds:          the kinds of defect in image_anno.csv, likewise. owners: which image a mask belongs to.
    """

    home: str
    csv: str
    category: str
    problems: list[str] = field(default_factory=list)
    samples: dict[str, Sample] = field(default_factory=dict)
    lines: dict[str, int] = field(default_factory=dict)
    masks: dict[str, str] = field(default_factory=dict)
    kinds: dict[str, str] = field(default_factory=dict)
    owners: dict[str, str] = field(default_factory=dict)
    files: _Files = field(init=False)

    def __post_init__(self) -> None:
        self.files = _Files(self.home)

    @property
    def annotations(self) -> str:
        return joined(self.home, f"{self.category}/image_anno.csv")

    def read_kinds(self) -> None:
        if not Path(self.annotations).is_file():
            return
        table = _read_table(self.annotations, ("image", "label"))
        self.problems += table.problems
        for row in table.rows:
            image = self._path(f"{self.annotations}:{row.line}", "image", row.values["image"])
            found = image and self.files.find(image)
            if found:
                kinds = [kind.strip() for kind in row.values["label"].split(",")]
                self.kinds[found] = ",".join(kind for kind in kinds if kind)
        if table.rows and not self.kinds:
            named = table.rows[0].values["image"]
            self.problems.append(
                f"{self.annotations}: none of its {len(table.rows)} rows names an image that there is; "
                f"the first names {named!r}"
            )

    def read_split(self) -> None:
        table = _read_table(self.csv, _COLUMNS)
        self.problems += table.problems
        own = f"{self.category}/"
        for row in table.rows:
            if row.values["object"] == self.category or row.values["image"].startswith(own):
                self._add(f"{self.csv}:{row.line}", row)

    def _add(self, place: str, row: _Row) -> None:
        part, label = _PARTS.get(row.values["split"]), _LABELS.get(row.values["label"])
        if part is None:
            self.problems.append(f"{place}: split = {row.values['split']!r}, expected train or test")
        if label is None:
            self.problems.append(f"{place}: label = {row.values['label']!r}, expected normal or anomaly")
        image = self._image(place, row)
        if part is None or label is None or image is None or self._seen_before(place, row, image, part, label):
            return
        self._check_kind(place, image, label)
        mask, expected = self._mask(place, row, image, label)
        self.samples[image] = Sample(
            path=joined(self.home, image),
            relative=image.removeprefix(f"{self.category}/"),
            split=part,
            label=label,
            defect="good" if label == 0 else self.kinds.get(image) or "anomaly",
            category=self.category,
            masks=() if mask is None else (joined(self.home, mask),),
            expected_mask=None if expected is None else joined(self.home, expected),
        )

    def _path(self, place: str, column: str, value: str) -> str | None:
        """A path of a CSV in its plain form; None, and a problem, where it does not stay below the home."""
        path = PurePosixPath(value)
        leaves = path.is_absolute() or ".." in path.parts or bool(PureWindowsPath(value).drive)
        if not path.parts or leaves or "\\" in value:
            self.problems.append(f"{place}: {column} = {value!r} is no path below {self.home} with forward slashes")
            return None
        return path.as_posix()

    def _image(self, place: str, row: _Row) -> str | None:
        image = self._path(place, "image", row.values["image"])
        if image is None:
            return None
        owner = row.values["object"]
        if owner != self.category or not image.startswith(f"{owner}/"):
            self.problems.append(f"{place}: {image} does not lie in the folder of its object, {owner!r}")
            return None
        found = self.files.find(image)
        if found is None:
            self.problems.append(f"{place}: {joined(self.home, image)}: no such file")
        return found

    def _seen_before(self, place: str, row: _Row, image: str, part: Split, label: int) -> bool:
        """Whether a row before this one named the image. It is a problem if it said something else."""
        first = self.lines.setdefault(image, row.line)
        mask = row.values["mask"] or _own_mask(self.category, image, label)
        if first == row.line:
            self.masks[image] = mask
            return False
        before = self.samples[image]
        if (before.split, before.label) != (part, label):
            was = f"{before.split}, {'anomaly' if before.label else 'normal'}"
            self.problems.append(f"{place}: {image} is {part}, {row.values['label']}, but in line {first} it is {was}")
        elif mask != self.masks[image]:
            was = self.masks[image] or "none"
            self.problems.append(f"{place}: {image} has the mask {mask or 'none'}, but in line {first} {was}")
        return True

    def _check_kind(self, place: str, image: str, label: int) -> None:
        kind = self.kinds.get(image)
        if kind and (kind == "normal") != (label == 0):
            said = "normal" if label == 0 else "anomaly"
            self.problems.append(f"{place}: {image} is {said}, but {kind!r} in {self.annotations}")

    def _mask(self, place: str, row: _Row, image: str, label: int) -> tuple[str | None, str | None]:
        """The mask of an image, or where it was looked for: as the CSV says, else where VisA keeps its masks."""
        named = row.values["mask"]
        if label == 0:
            if named:
                self.problems.append(f"{place}: {image} is normal, but has the mask {named}")
            return None, None
        wanted = self._path(place, "mask", named) if named else _own_mask(self.category, image, label)
        if wanted is None:
            return None, None
        mask = self.files.find(wanted)
        if mask is None:
            return None, wanted
        if self.owners.setdefault(mask, image) != image:
            self.problems.append(f"{place}: {image} and {self.owners[mask]} share one mask, {mask}")
        return mask, None


def _own_mask(category: str, image: str, label: int) -> str:
    """Where VisA keeps the mask of an image, below its home; "" for a normal one, which has none."""
    return f"{category}/Data/Masks/Anomaly/{stem(image)}.png" if label else ""


# --- CSV files


@dataclass(frozen=True, slots=True)
class _Row:
    """One row of a CSV file: the number of its (last) line, and its values by column, without spaces around them."""

    line: int
    values: dict[str, str]


@dataclass(frozen=True, slots=True)
class _Table:
    """A CSV file's rows, and what is wrong with those that are left out."""

    rows: list[_Row]
    problems: list[str]


def _read_table(path: str, columns: Sequence[str]) -> _Table:
    """Read a CSV file that has these columns and maybe others. A byte-order mark and empty lines are passed over.

    Values that a row lacks at its end are empty. Raises DataError where the file cannot be read as text, LayoutError
    with every column that is missing.
    """
    try:
        text = read_bounded(path, most=MAX_TABLE_BYTES).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 text (byte {error.start})") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error
    except Hostile as error:
        raise DataError(f"{path}: {error}") from error
    reader = csv.reader(io.StringIO(text, newline=""), skipinitialspace=True)
    rows: list[_Row] = []
    problems: list[str] = []
    header: list[str] | None = None
    try:
        for cells in reader:
            values = [cell.strip() for cell in cells]
            if not any(values):
                continue
            if header is None:
                header = [value.casefold() for value in values]
            elif any("\n" in value or "\r" in value for value in values):
                problems.append(f"{path}:{reader.line_num}: a quotation mark is not closed before this line")
            elif len(values) > len(header):
                problems.append(f"{path}:{reader.line_num}: {len(values)} values, but {len(header)} columns")
            else:
                values += [""] * (len(header) - len(values))
                rows.append(_Row(reader.line_num, dict(zip(header, values, strict=True))))
    except csv.Error as error:
        raise DataError(f"{path}:{reader.line_num}: {error}") from error
    missing = [column for column in columns if column not in (header or ())]
    if missing:
        found = ", ".join(header) if header else "nothing"
        raise LayoutError([Problem(f"{path}: no column {column}; found {found}") for column in missing])
    return _Table(rows, problems)
