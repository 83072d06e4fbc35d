"""A list of images in one file, for any images however they lie: read, and written from any other data set.

`root` is a CSV file (RFC 4180, UTF-8, a header, columns in any order) or a JSON-lines file (an object a line), or a
folder that holds one called manifest.csv, manifest.jsonl or manifest.ndjson.

    path      the image; relative paths start at the manifest's folder (required)
    split     train, validation or test (required)
    label     0 or normal, 1 or anomaly, -1 or nothing where it is not known
    defect    the kind of defect; "good" for a normal image, "unknown" where it is not known. Where the label is
              left out, it tells
    mask      the mask of an anomalous image; several in CSV with ";" between them, in JSON as a list
    category  what a model of its own is made for; the manifest's name if left out
    group     the part that is seen, where several images show the same one

Images are named in results from the manifest's folder; where relative paths lead out of it, from the folder that holds
all the images that relative paths of the category lead to. So the manifest and they can move together.

An anomalous image of the training or validation split is never learned from. What a manifest cannot say: how much of a
defect is enough to have found it, as the defects_config.json of MVTec LOCO AD and of AutoVI does. A category of these
that was written to a manifest and read back is measured without sPRO.
"""

from __future__ import annotations

import codecs
import csv
import io
import json
import os
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, partial
from pathlib import Path, PurePath
from typing import Any, Literal, Protocol, get_args

from uadctl.atomic import write_bytes
from uadctl.datasets.base import (
    LIKE_GOOD,
    Dataset,
    LayoutError,
    NoLayout,
    Where,
    check_category,
    holds,
    relative_name,
    settled_stamp,
)
from uadctl.errors import DataError, Problem, SpecError
from uadctl.imaging.listing import files_in, is_folder, joined
from uadctl.records import Sample, Split
from uadctl.spec.grammar import is_name, name_from
from uadctl.spec.values import BAD, did_you_mean, kind, nearest, shown
from uadctl.untrusted import MAX_DEPTH, MAX_LINE_BYTES, MAX_TABLE_BYTES, Hostile, check_json, read_bounded

COLUMNS = ("path", "split", "label", "defect", "mask", "category", "group")
"""What a manifest may say of an image, in the order in which it is written."""

_NAMES = ("manifest.csv", "manifest.jsonl", "manifest.ndjson")
_JSON_SUFFIXES = (".jsonl", ".ndjson")
_REQUIRED = ("path", "split")
_SPLITS: tuple[Split, ...] = get_args(Split)
_LABELS = {"0": 0, "normal": 0, "good": 0, "1": 1, "anomaly": 1, "anomalous": 1, "defect": 1, "-1": -1}
_GOOD, _ANOMALY, _UNKNOWN = "good", "anomaly", "unknown"
_DEFAULT_DEFECT = {0: _GOOD, 1: _ANOMALY, -1: _UNKNOWN}
_MASK_SEPARATOR = ";"
# A manifest with a wrong column name has one problem a row: enough are shown to see what it is.
_MOST_PROBLEMS = 50

MAX_ROWS = 1_000_000
"""The longest manifest that is read."""

MAX_LINES = 2 * MAX_ROWS
"""So many lines it may have, blank ones as well."""

# Of a file that is no manifest at all the rest is not looked at.
_TOO_MANY_PROBLEMS = 100_000
# Of more columns than this, or keys in an object, not each is named: a few are known.
_MOST_COLUMNS = 1000
# Text is looked at in parts: of all of it at once, as text, there may be four times its bytes.
_CHUNK = 1 << 20
# Shorter lines cannot hold more values than are read.
_LONG_LINE = 100_000

# A path longer than this is cut in messages; those of real files are said whole.
_LONGEST_TOLD = 300

_NEEDS_LABEL = (
    'Write its label: 0 if it is normal, 1 if it is anomalous. A normal image has the defect "good", or none.'
)
_NEEDS_DEFECT = 'Write "good", or nothing, if the image is normal; the name of a defect if it is anomalous.'


def recognises(root: str) -> bool:
    """Whether a folder holds a manifest, or a file is called like one."""
    if is_folder(root):
        return bool(_in_folder(root))
    return manifest_kind(root) is not None and os.path.isfile(root)  # noqa: PTH113 - as the user typed it


def list_categories(where: Where) -> list[str]:
    """The categories that the manifest names, sorted by bytes. The image files are not looked for.

    Raises DataError where there is no manifest, LayoutError with every problem of the file (and then with those of the
    files that it names as well), each with its line.
    """
    manifest = _read(where.root)
    _raise_wrong_text(manifest)
    return list(manifest.by_category)


def load(where: Where, category: str) -> Dataset:
    """List one category. Nothing is decoded; each of its files is looked for.

    A mask that is named and not there is kept as `expected_mask`, as in other data sets. Of several masks each must be
    there, for without one of them the others would pass for the whole truth.

    Raises DataError where the category is missing, LayoutError with every problem of the manifest's text, and of the
    files of this category: those that are missing, images listed twice, by whatever path, masks of two images.
    """
    manifest = _read(where.root)
    _raise_wrong_text(manifest)
    check_category(where.root, category, list(manifest.by_category))
    samples, problems = _samples(manifest, category)
    if problems:
        raise _layout_error(manifest, problems)
    samples.sort(key=lambda sample: os.fsencode(sample.relative))

    def chosen(wanted: Callable[[Sample], bool]) -> tuple[Sample, ...]:
        return tuple(sample for sample in samples if wanted(sample))

    return Dataset(
        name="manifest",
        category=category,
        root=where.root,
        train=chosen(lambda sample: sample.split == "train" and sample.label == 0),
        validation=chosen(lambda sample: sample.split == "validation" and sample.label == 0),
        test=chosen(lambda sample: sample.split == "test"),
        left_out=chosen(lambda sample: sample.split != "test" and sample.label != 0),
    )


def labelled_images(file: str, category: str) -> tuple[Sample, ...]:
    """The images of a manifest that says nothing but what they are: normal, or anomalous with or without masks.

    category: whose images; a manifest of a single category is all of that one, whatever it is called there. The column
    split may be left out, and a category needs no training image: of the splits nothing is made here, and samples have
    the split validation.

    Raises DataError where the category is missing, LayoutError with every problem as `load` does, images of unknown
    label included.
    """
    manifest = _understood(manifest_file(file), _content(file), of_labels=True)
    _raise_wrong_text(manifest)
    found = list(manifest.by_category)
    if len(found) == 1:
        category = found[0]
    check_category(file, category, found)
    samples, problems = _samples(manifest, category)
    if problems:
        raise _layout_error(manifest, problems)
    return tuple(samples)


def manifest_kind(path: str | os.PathLike[str]) -> Literal["csv", "json"] | None:
    """How a file of this name is read and written, by its suffix in any case; None if it is no manifest's."""
    suffix = PurePath(path).suffix.lower()
    return "csv" if suffix == ".csv" else "json" if suffix in _JSON_SUFFIXES else None


def manifest_file(root: str) -> str:
    """The manifest that a root means: itself, or the one in the folder.

    Raises DataError where it has another suffix, NoLayout where a folder holds none, DataError where it holds several.
    """
    if not is_folder(root):
        if manifest_kind(root) is None:
            missing = not os.path.lexists(root)
            raise DataError(
                f"{root}: no such file or folder" if missing else f"{root}: is no manifest",
                help="A manifest's name ends with .csv, .jsonl or .ndjson.",
            )
        return root
    found = _in_folder(root)
    if not found:
        raise NoLayout(f"{root} holds no manifest: expected {' or '.join(_NAMES[:2])}, found {holds(root)}")
    if len(found) > 1:
        raise DataError(
            f"{root} holds {' and '.join(found)}",
            help=f"Say which one is meant: {joined(root, found[0])}, for example.",
        )
    return joined(root, found[0])


def _in_folder(root: str) -> list[str]:
    return [name for name in files_in(root) if name.lower() in _NAMES]


# --- what is kept of a manifest


@dataclass(frozen=True, slots=True)
class _Row:
    """What a manifest says of one image. masks: as they stand there.

    sound: whether nothing is wrong with it. Else what could not be understood is BAD, and has been said; the rest is
    checked all the same.
    """

    line: int
    path: str
    split: Split
    label: int
    defect: str
    masks: tuple[str, ...]
    category: str
    group: str | None
    sound: bool


@dataclass(slots=True)
class _Manifest:
    """A manifest as far as it could be understood.

    file:     as the user typed it. default_category: of rows that name none.
    of_labels: whether it is read for the labels alone, see `labelled_images`.
    rows:     all of them, sound or not.
    by_category: those whose category is known, by its name; sorted by the bytes of that.
    problems: line and what is wrong with it.
    """

    file: str
    default_category: str
    of_labels: bool = False
    rows: list[_Row] = field(default_factory=list)
    by_category: dict[str, list[_Row]] = field(default_factory=dict)
    problems: list[tuple[int, Problem]] = field(default_factory=list)

    def wrong(self, line: int, fact: str, help: str | None = None) -> None:
        self.problems.append((line, self.problem(line, fact, help)))

    def problem(self, line: int, fact: str, help: str | None = None) -> Problem:
        return Problem(f"{self.file}:{line}: {fact}", help)

    def path(self, below: str) -> str:
        """A path of the manifest as one that can be opened."""
        return os.path.join(os.path.dirname(self.file), below)  # noqa: PTH118, PTH120 - as the user typed it

    def told(self, below: str) -> str:
        """The same for a message: the middle is left out where it is long."""
        path = self.path(below)
        half = _LONGEST_TOLD // 2
        return path if len(path) <= _LONGEST_TOLD else f"{path[:half]}…{path[-half:]}"


def _raise_wrong_text(manifest: _Manifest) -> None:
    """LayoutError if the text alone has a problem; then with those of the files as well, so that all come at once."""
    if not manifest.problems:
        return
    problems = list(manifest.problems)
    for row in manifest.rows:
        if row.category is BAD and row.path is not BAD:
            problems += [(row.line, manifest.problem(row.line, *wrong)) for wrong in _no_image(manifest, row.path)]
    for category in manifest.by_category:
        problems += _samples(manifest, category)[1]
    raise _layout_error(manifest, problems)


def _layout_error(manifest: _Manifest, problems: Iterable[tuple[int, Problem]]) -> LayoutError:
    ordered = [problem for _, problem in sorted(problems, key=lambda item: item[0])]
    more = len(ordered) - _MOST_PROBLEMS
    if more > 0:
        ordered[_MOST_PROBLEMS:] = [
            Problem(f"{manifest.file}: and {more} more {'problem' if more == 1 else 'problems'}")
        ]
    return LayoutError(ordered)


# --- the text


def _read(root: str) -> _Manifest:
    file = manifest_file(root)
    stamp = _stamp(file)
    return _understood(file, _content(file)) if stamp is None else _understood_once(file, stamp)


def _stamp(file: str) -> tuple[int, ...] | None:
    """What is another as soon as a file's content is; None for one that was changed just now, or cannot be found."""
    try:
        return settled_stamp(file)
    except (OSError, ValueError):  # reading it says why
        return None


def _content(file: str) -> bytes:
    try:
        return read_bounded(file, most=MAX_TABLE_BYTES)
    except FileNotFoundError as error:
        raise DataError(f"{file}: no such file") from error
    except Hostile as error:
        raise DataError(f"{file}: {error}") from error
    except (OSError, ValueError) as error:
        raise DataError(f"{file}: cannot be read ({getattr(error, 'strerror', None) or error})") from error


# A data set is loaded category by category: of a large manifest even the reading, each time, would be felt.
@lru_cache(maxsize=1)
def _understood_once(file: str, stamp: tuple[int, ...]) -> _Manifest:
    return _understood(file, _content(file))


@lru_cache(maxsize=1)
def _understood(file: str, data: bytes, of_labels: bool = False) -> _Manifest:
    manifest = _Manifest(file, name_from(PurePath(file).stem.strip()).strip(), of_labels)
    is_csv = manifest_kind(file) == "csv"
    _check_text(file, data, ends=(b"\n", b"\r") if is_csv else (b"\n",))
    # In CSV a line may end with "\r" alone, and within a cell line ends are kept as they are.
    text = io.TextIOWrapper(io.BytesIO(data), encoding="utf-8-sig", newline="" if is_csv else "\n")
    rows = _csv_rows(manifest, text) if is_csv else _json_rows(manifest, text)
    for line, cells in rows:
        _add_row(manifest, line, cells)
        if len(manifest.rows) > MAX_ROWS:
            raise DataError(f"{file}: lists more than {MAX_ROWS} images", help="Part it into several manifests.")
        if len(manifest.problems) > _TOO_MANY_PROBLEMS:
            raise _layout_error(manifest, manifest.problems)
    if not manifest.rows and not manifest.problems:
        raise LayoutError([Problem(f"{file}: lists no image", f"Its columns: {', '.join(COLUMNS)}")])
    _sort_by_category(manifest)
    if not of_labels:
        _check_categories(manifest)
        _check_groups(manifest)
    return manifest


def _sort_by_category(manifest: _Manifest) -> None:
    for category in sorted({row.category for row in manifest.rows if row.category is not BAD}, key=os.fsencode):
        manifest.by_category[category] = []
    for row in manifest.rows:
        if row.category is not BAD:
            manifest.by_category[row.category].append(row)


def _check_text(file: str, data: bytes, *, ends: Sequence[bytes]) -> None:
    """DataError for too many lines, which end with any of these; LayoutError for what is no UTF-8."""
    if max(map(data.count, ends)) > MAX_LINES:
        raise DataError(f"{file}: has more than {MAX_LINES} lines", help="Part it into several manifests.")
    decoder = codecs.getincrementaldecoder("utf-8")()
    for end in range(_CHUNK, len(data) + _CHUNK, _CHUNK):
        try:
            decoder.decode(data[end - _CHUNK : end], final=end >= len(data))
        except UnicodeDecodeError as error:
            # What it had in hand begins with the rest of the part before.
            place = min(end, len(data)) - len(error.object) + error.start
            line = data.count(b"\n", 0, place) + 1
            raise LayoutError(
                [Problem(f"{file}:{line}: not UTF-8 text (byte 0x{data[place]:02x})", "Save the file as UTF-8.")]
            ) from error


def _too_long(manifest: _Manifest, line: int) -> LayoutError:
    return _layout_error(
        manifest,
        [*manifest.problems, (line, manifest.problem(line, f"longer than {MAX_LINE_BYTES} characters, as no row is"))],
    )


def _csv_rows(manifest: _Manifest, text: io.TextIOWrapper) -> Iterator[tuple[int, dict[str, object]]]:
    """The cells of each row by the name of their column, and the line at which it begins."""
    header: list[str | None] | None = None
    line, taken = 1, 0

    def lines() -> Iterator[str]:
        nonlocal taken
        while one := text.readline(MAX_LINE_BYTES + 1):
            taken += len(one)
            if taken > MAX_LINE_BYTES:  # a row may have several lines
                raise _too_long(manifest, line)
            yield one

    reader = csv.reader(lines(), strict=True)
    try:
        for cells in reader:
            taken = 0
            start, line = line, reader.line_num + 1
            if not any(cell.strip() for cell in cells):  # blank; spreadsheets keep the commas of an empty row
                continue
            if header is None:
                header = _header(manifest, start, cells)
                if header is None:
                    return
            elif len(cells) != len(header):
                manifest.wrong(
                    start,
                    f"{len(cells)} {'cell' if len(cells) == 1 else 'cells'}, the header has {len(header)}",
                    'A cell with a comma, a quote or a line end is written in quotes: "1,5 mm"',
                )
            else:
                yield start, {name: cell for name, cell in zip(header, cells, strict=True) if name is not None}
    except csv.Error as error:
        manifest.wrong(
            line, f"not valid CSV: {error}", 'A quote within a cell is doubled, and the cell quoted: "5"" pipe"'
        )


def _header(manifest: _Manifest, line: int, cells: Sequence[str]) -> list[str | None] | None:
    """The columns by name, None for one that is unknown.

    None in all if the rows cannot be understood: a column is missing, or perhaps misspelt.
    """
    if len(cells) == 1 and any(separator in cells[0] for separator in ";\t"):
        manifest.wrong(
            line, f"one column, {shown(cells[0])}", "A comma parts two columns: save the table anew, as CSV."
        )
        return None
    if len(cells) > _MOST_COLUMNS:
        manifest.wrong(line, f"{len(cells)} columns, at most {_MOST_COLUMNS} are read")
        return None
    names: list[str | None] = []
    meant: set[str | None] = set()
    for cell in cells:
        name = cell.strip().casefold()
        if name in COLUMNS and name in names:
            manifest.wrong(line, f"the column {name} is there twice")
        elif name not in COLUMNS:
            manifest.wrong(line, *_unknown("column", cell.strip()))
            meant.add(nearest(name, COLUMNS))
        names.append(name if name in COLUMNS and name not in names else None)
    required = ("path",) if manifest.of_labels else _REQUIRED
    absent = [name for name in required if name not in names]
    for name in absent:
        if name not in meant:
            manifest.wrong(
                line, f"the column {name} is missing", f"The first line names the columns: {', '.join(COLUMNS)}"
            )
    return None if absent or meant - {None} else names


def _unknown(what: str, name: str) -> tuple[str, str]:
    return f"there is no {what} {shown(name)}{did_you_mean(name, COLUMNS)}", f"There are: {', '.join(COLUMNS)}"


def _json_rows(manifest: _Manifest, text: io.TextIOWrapper) -> Iterator[tuple[int, dict[str, object]]]:
    for number, whole in enumerate(iter(lambda: text.readline(MAX_LINE_BYTES + 1), ""), start=1):
        if len(whole) > MAX_LINE_BYTES:
            raise _too_long(manifest, number)
        line = whole.removesuffix("\n")
        if not line.strip():
            continue
        try:
            if len(line) > _LONG_LINE or line.count("[") + line.count("{") > MAX_DEPTH:
                check_json(line.encode("utf-8", "surrogatepass"))
            value = json.loads(line, object_pairs_hook=_Pairs, parse_constant=_no_constant)
        except json.JSONDecodeError as error:
            manifest.wrong(number, f"not valid JSON: {error.msg} (column {error.colno})", "One object a line.")
        except (ValueError, RecursionError) as error:
            manifest.wrong(number, f"not valid JSON: {error}")
        else:
            if isinstance(value, _Pairs):
                cells = _keys(manifest, number, value)
                if cells is not None:
                    yield number, cells
            else:
                manifest.wrong(
                    number, f"expected an object, found {kind(value)}", 'Such as {"path": "a.png", "split": "test"}'
                )


class _Pairs(list[tuple[str, object]]):
    """A JSON object with its keys as they were written, so that one that is there twice can be said."""


def _no_constant(text: str) -> None:
    raise ValueError(f"{text} is no JSON value")


def _keys(manifest: _Manifest, line: int, pairs: _Pairs) -> dict[str, object] | None:
    """An object's values by the name of their column; None if a key is wrong, for another is then missing."""
    before = len(manifest.problems)
    if len(pairs) > _MOST_COLUMNS:
        manifest.wrong(line, f"{len(pairs)} keys, at most {_MOST_COLUMNS} are read")
        return None
    cells: dict[str, object] = {}
    for key, value in pairs:
        name = key.strip().casefold()
        if name not in COLUMNS:
            manifest.wrong(line, *_unknown("key", key))
        elif name in cells:
            manifest.wrong(line, f"the key {name} is there twice")
        else:
            cells[name] = value
    return cells if len(manifest.problems) == before else None


# --- a row


def _add_row(manifest: _Manifest, line: int, cells: Mapping[str, object]) -> None:
    """One row as a record, and all that is wrong with it."""
    before = len(manifest.problems)
    say = partial(manifest.wrong, line)
    path = _string(say, "path", cells.get("path"), is_path=True)
    split: Any = "validation" if manifest.of_labels else _split(say, cells.get("split"))
    defect = _word(say, "defect", cells.get("defect"))
    label = _label(say, cells.get("label"), defect)
    masks = _masks(say, cells.get("mask"), parted=manifest_kind(manifest.file) == "csv")
    category = _word(say, "category", _as_text(cells.get("category")))
    group = _word(say, "group", _as_text(cells.get("group")))
    if path is None:
        say("path is missing")
        path = BAD
    if isinstance(category, str) and not is_name(category):
        say(f"category {shown(category)} is no name", "A name of a folder: without /, \\, .. and control characters.")
        category = BAD
    if label in (0, -1) and masks:
        whose = "a normal image" if label == 0 else "an image of unknown label"
        say(f"{whose} has no mask, found {shown(masks[0])}", "Only anomalous images have masks.")
    if label == -1 and split in ("train", "validation"):
        which = "an" if manifest.of_labels else "a training" if split == "train" else "a validation"
        say(
            f"{which} image of unknown label",
            "Write its label: 0 if it is normal, 1 if it is anomalous."
            + ("" if manifest.of_labels else " An image without can only be tested on."),
        )
    manifest.rows.append(
        _Row(
            line=line,
            path=path,
            split=split,
            label=label,
            defect=defect if label == 1 and defect is not None else _DEFAULT_DEFECT.get(label, ""),
            masks=masks if label == 1 else (),
            category=manifest.default_category if category is None else category,
            group=group,
            sound=len(manifest.problems) == before,
        )
    )


class _Say(Protocol):
    def __call__(self, fact: str, help: str | None = None) -> None: ...


def _string(say: _Say, name: str, value: object, *, is_path: bool = False) -> Any:
    """The text of a cell, None where it is empty; BAD, and the reason said, where it is none."""
    if value is None or value == "":
        return None
    if not isinstance(value, str):
        say(f"{name}: expected a string, found {'an object' if isinstance(value, _Pairs) else kind(value)}")
        return BAD
    if any("\ud800" <= c <= "\udfff" for c in value) or (is_path and "\0" in value):
        say(f"{name} {shown(value)} holds what no {'path' if is_path else 'text'} can hold")
        return BAD
    return value


def _word(say: _Say, name: str, value: object) -> Any:
    """`_string` for what is compared with other rows. With white space around it, it would be another word unseen."""
    text = _string(say, name, value)
    if text is None or text is BAD or text == text.strip():
        return text
    bare = text.strip()
    if bare:
        say(f"{name} {shown(text)} has white space around it", f"Write {shown(bare)}.")
    else:
        say(f"{name} {shown(text)} is nothing but white space", "Leave it empty if there is none.")
    return BAD


def _as_text(value: object) -> object:
    """A number that stands for a name, as JSON may write it, as text."""
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _split(say: _Say, value: object) -> Any:
    if value is None or value == "":
        say("split is missing", f"One of: {', '.join(_SPLITS)}")
        return BAD
    found = value.strip().casefold() if isinstance(value, str) else None
    if found not in _SPLITS:
        hint = did_you_mean(value, _SPLITS) if isinstance(value, str) else ""
        say(f"split {shown(value)} is none of {', '.join(_SPLITS)}{hint}")
        return BAD
    return found


def _label(say: _Say, value: object, defect: Any) -> Any:
    """0, 1, -1, or BAD. Where the label is left out the defect tells, and where both are, nothing is known."""
    text = value.strip().casefold() if isinstance(value, str) else value
    called = defect.casefold() if isinstance(defect, str) else None
    if text is None or text == "":
        if defect is BAD:
            return BAD
        if called in LIKE_GOOD and defect != _GOOD:
            say(f"defect {shown(defect)} sounds like a normal image", _NEEDS_DEFECT)
            return BAD
        return {None: -1, _GOOD: 0, _UNKNOWN: -1}.get(called, 1)
    label = _LABELS.get(str(text))
    if label is None:
        say(f"label {shown(value)} is none of 0, 1, -1", "Or in words: normal, anomaly; nothing where it is not known.")
        return BAD
    fits = {0: defect == _GOOD, 1: called not in LIKE_GOOD, -1: called == _UNKNOWN}
    if defect is None or defect is BAD or fits[label]:
        return label
    say(f"label {label} contradicts the defect {shown(defect)}", _NEEDS_DEFECT if called in LIKE_GOOD else _NEEDS_LABEL)
    return BAD


def _masks(say: _Say, value: object, *, parted: bool) -> tuple[str, ...]:
    """The masks that a cell names. parted: several are parted by semicolons in one string, as in CSV."""
    if isinstance(value, str) and parted:
        value = value.split(_MASK_SEPARATOR)
    listed = value if isinstance(value, list) and not isinstance(value, _Pairs) else [value]
    masks = [_string(say, "mask", mask, is_path=True) for mask in listed]
    return tuple(mask for mask in masks if mask is not None and mask is not BAD)


# --- what rows say together


def _check_categories(manifest: _Manifest) -> None:
    """Each category has something to learn from; not said where rows have problems, which may be why."""
    if manifest.problems:
        return
    for category, rows in manifest.by_category.items():
        if not any(row.split == "train" and row.label == 0 for row in rows):
            manifest.wrong(
                rows[0].line,
                f"category {shown(category)} has no normal training image",
                "A category needs images of the split train, label 0.",
            )


def _check_groups(manifest: _Manifest) -> None:
    """A part that is learned must neither set the threshold nor be tested on: from another side it is the same part."""
    parts: dict[tuple[str, str], dict[Split, _Row]] = {}
    for row in manifest.rows:
        if row.group is None or BAD in (row.group, row.category, row.split):
            continue
        if row.split == "test" or row.label == 0:
            parts.setdefault((row.category, row.group), {}).setdefault(row.split, row)
    for (_, group), rows in parts.items():
        first, *others = sorted(rows, key=_SPLITS.index)
        for split in others:
            here = "tested on" if split == "test" else f"in the {split} split"
            manifest.wrong(
                rows[split].line,
                f"the group {shown(group)} is {here} here, and in the {first} split in line {rows[first].line}",
                _NOT_TESTED if split == "test" else _NOT_THE_THRESHOLD,
            )


_NOT_TESTED = "Keep all images of a part in one split: the model must not have seen it."
_NOT_THE_THRESHOLD = (
    "Keep all images of a part in one split: of parts that the model has seen the threshold is too low."
)


# --- the files


_File = tuple[int, int]


def _samples(manifest: _Manifest, category: str) -> tuple[list[Sample], list[tuple[int, Problem]]]:
    """The images of a category, in the order of their rows, and what is wrong with their files."""
    problems: list[tuple[int, Problem]] = []
    samples: list[Sample] = []
    images: dict[_File, _Row] = {}
    names: dict[str, _Row] = {}
    masks: dict[_File, _Row] = {}
    rows = [row for row in manifest.by_category[category] if row.path is not BAD]
    top = _top(manifest, rows)
    for row in rows:
        path = manifest.path(row.path)
        relative = relative_name(top, path)
        wrong = _no_image(manifest, row.path)
        if not wrong:
            wrong = _seen_before(manifest, row, relative, images, names)
        found, expected, wrong_masks = _find_masks(manifest, row, masks)
        problems += [(row.line, manifest.problem(row.line, *each)) for each in (*wrong, *wrong_masks)]
        if row.sound:
            samples.append(
                Sample(
                    path=path,
                    relative=relative,
                    split=row.split,
                    label=row.label,
                    defect=row.defect,
                    category=category,
                    masks=found,
                    expected_mask=expected,
                    group=row.group,
                )
            )
    for file, row in masks.items():
        if file in images:
            fact = f"a mask is the image of line {images[file].line}, {manifest.told(images[file].path)}"
            problems.append((row.line, manifest.problem(row.line, fact)))
    return samples, problems


def _top(manifest: _Manifest, rows: Iterable[_Row]) -> str:
    """The folder from which the images of a category are named; see the module's docstring."""
    folder = os.path.dirname(manifest.file)  # noqa: PTH120 - as the user typed it
    home = os.path.abspath(folder)  # noqa: PTH100 - as relative_name does, links keep their name
    paths = [os.path.abspath(manifest.path(row.path)) for row in rows if not os.path.isabs(row.path)]  # noqa: PTH100, PTH117
    if all(PurePath(path).is_relative_to(home) for path in paths):
        return folder
    return os.path.commonpath([os.path.dirname(path) for path in paths])  # noqa: PTH120


def _no_image(manifest: _Manifest, below: str) -> list[tuple[str, str | None]]:
    """What keeps a path from being an image's, if anything does; the pixels are not looked at."""
    told = manifest.told(below)
    try:
        facts = os.stat(manifest.path(below))  # noqa: PTH116 - the path as the user typed it
    except FileNotFoundError:
        hint = "Write paths with /, not \\." if "\\" in below else _without_space(manifest, below)
        return [(f"{told}: no such file", hint)]
    except OSError as error:
        return [(f"{told}: cannot be read ({error.strerror or error})", None)]
    return _not_a_file(told, facts.st_mode, "an image")


def _not_a_file(told: str, mode: int, what: str) -> list[tuple[str, str | None]]:
    """What is wrong with a path that leads to something else than a file, of this mode. A device may have no end."""
    if stat.S_ISREG(mode):
        return []
    found = "a folder" if stat.S_ISDIR(mode) else "no regular file"
    return [(f"{told}: is {found}, expected {what}", None)]


def _without_space(manifest: _Manifest, below: str) -> str | None:
    """The help for a file that is not there, where it is if the white space around its name is no part of it."""
    bare = below.strip()
    if bare == below or not os.path.isfile(manifest.path(bare)):  # noqa: PTH113 - as above
        return None
    return f"There is {manifest.told(bare)}: take away the white space around the name."


def _seen_before(
    manifest: _Manifest, row: _Row, relative: str, images: dict[_File, _Row], names: dict[str, _Row]
) -> list[tuple[str, str | None]]:
    """Whether an earlier row has the same image, under this name or another, or the same name in results."""
    told = manifest.told(row.path)
    other = images.setdefault(_file(manifest.path(row.path)), row)
    if other is not row:
        known_as = "" if other.path == row.path else f" (as {manifest.told(other.path)})"
        roles = (row.split, row.label, other.split, other.label)
        if BAD in roles or roles[:2] == roles[2:]:
            return [(f"{told} is listed in line {other.line} already{known_as}", "Keep one of the rows.")]
        fact = f"{told} is {_role(manifest, row)} here, and {_role(manifest, other)} in line {other.line}{known_as}"
        return [(fact, "An image may have one role only.")]
    other = names.setdefault(relative, row)
    if other is not row:
        fact = f"{told} would be called {relative} in results, as is {manifest.told(other.path)} of line {other.line}"
        return [(fact, "Move one of them, or the manifest, so that both lie below the manifest's folder.")]
    return []


def _find_masks(
    manifest: _Manifest, row: _Row, owners: dict[_File, _Row]
) -> tuple[tuple[str, ...], str | None, list[tuple[str, str | None]]]:
    """The masks that are there; the one that should be and is not; and what is wrong with them."""
    found: list[str] = []
    missing: list[str] = []
    wrong: list[tuple[str, str | None]] = []
    for name in row.masks:
        mask = manifest.path(name)
        try:
            facts = os.stat(mask)  # noqa: PTH116 - as above
        except OSError:
            missing.append(name)
            continue
        found.append(mask)
        if no_file := _not_a_file(manifest.told(name), facts.st_mode, "a mask"):
            wrong += no_file
            continue
        other = owners.setdefault((facts.st_dev, facts.st_ino), row)
        if other is not row:
            wrong.append(
                (
                    f"{manifest.told(name)} is the mask of {manifest.told(other.path)} in line {other.line} already",
                    "Each image has masks of its own.",
                )
            )
    for name in missing:
        hint = _without_space(manifest, name)
        if hint is not None or len(row.masks) > 1:
            each = "Of several masks of an image each must be there."
            wrong.append((f"{manifest.told(name)}: no such file", hint or each))
    return (() if missing else tuple(found)), (manifest.path(missing[0]) if missing else None), wrong


def _file(path: str) -> _File:
    """The same for a file and every link to it. OSError if there is none."""
    facts = os.stat(path)  # noqa: PTH116 - as above
    return facts.st_dev, facts.st_ino


def _role(manifest: _Manifest, row: _Row) -> str:
    what = {0: "a normal", 1: "an anomalous"}.get(row.label, "an unlabelled")
    split = "" if manifest.of_labels else "training " if row.split == "train" else f"{row.split} "
    return f"{what} {split}image"


# --- writing


@dataclass(frozen=True, slots=True)
class Written:
    """A manifest that only needs to be put where it belongs. path: where that is. images: how many it lists."""

    path: str
    images: int
    text: bytes

    def save(self) -> None:
        """Write it: whole, or not at all."""
        write_bytes(Path(self.path), self.text)


def write_manifest(path: str | os.PathLike[str], datasets: Sequence[Dataset], *, absolute: bool = False) -> int:
    """Write the categories of any data set as a manifest that reads back as the same samples; returns how many.

    What `compose_manifest` gives, saved; a file that is there is replaced.
    """
    written = compose_manifest(path, datasets, absolute=absolute)
    written.save()
    return written.images


def compose_manifest(path: str | os.PathLike[str], datasets: Sequence[Dataset], *, absolute: bool = False) -> Written:
    """The manifest of some categories of any data set. No file is opened, and nothing written yet.

    path:     ends with .csv, .jsonl or .ndjson.
    absolute: absolute paths of images and masks; else relative to the manifest's folder, so that the two may be moved
              together (on another drive absolute all the same).

    Images that were left out of training are written in their split, and left out again. Where a mask is missing, its
    place is written: it will be missed again, and found if it is put there. `Dataset.defects`, `resize` and the data
    set's name have no place in a manifest. The rows are sorted by category, split and path.

    Raises SpecError as `check_manifest_name` does; DataError where `path` is the manifest that the data came from, or
    one of the images and masks, and for names that the format cannot hold.
    """
    target = os.fspath(path)
    form = check_manifest_name(target)
    samples = [s for d in datasets for s in (*d.train, *d.validation, *d.test, *d.left_out)]
    _check_not_read(target, datasets, samples)
    name = _namer(target, absolute=absolute)
    rows = [_written(sample, name) for sample in samples]
    rows.sort(key=lambda row: (row["category"].encode(), _SPLITS.index(row["split"]), row["path"].encode()))
    text = _as_csv(rows) if form == "csv" else "".join(f"{_as_json(row)}\n" for row in rows)
    return Written(target, len(rows), text.encode())


def check_manifest_name(path: str, *, option: str = "") -> Literal["csv", "json"]:
    """How a manifest of this name is written.

    SpecError, which names the option it came from, for another suffix, and where the folder would then hold two files
    that are called like its manifest, so that nobody could say which one it means.
    """
    form = manifest_kind(path)
    said = f"{option} {path}".lstrip()
    if form is None:
        raise SpecError(f"{said}: expected a name that ends with .csv, .jsonl or .ndjson")
    folder, name = os.path.split(path)
    if name.lower() in _NAMES and is_folder(folder or os.curdir):
        others = [found for found in _in_folder(folder or os.curdir) if found != name]
        if others:
            raise SpecError(
                f"{said}: {folder or os.curdir} holds {others[0]} already, and could no longer be given as a root",
                help="Name another file, or remove the other manifest.",
            )
    return form


def _check_not_read(target: str, datasets: Sequence[Dataset], samples: Sequence[Sample]) -> None:
    """DataError if `target` is a file that the data consist of."""
    try:
        facts = os.stat(target)  # noqa: PTH116 - as the user typed it
    except OSError:
        return
    for dataset in datasets:
        if dataset.name == "manifest" and os.path.samestat(os.stat(manifest_file(dataset.root)), facts):  # noqa: PTH116
            raise DataError(f"{target}: is the manifest that was read", help="Name another file.")
    for sample in samples:
        for file in (sample.path, *sample.masks):
            try:
                same = os.path.samestat(os.stat(file), facts)  # noqa: PTH116 - as above
            except OSError:
                continue
            if same:
                raise DataError(f"{target}: is a file of the data set, {file}", help="Name another file.")


def _namer(target: str, *, absolute: bool) -> Callable[[str], str]:
    """From a path that can be opened to the one that stands in the manifest `target`, with forward slashes."""
    folder = os.path.dirname(_whole(target))  # noqa: PTH120 - a string, as all paths here
    # ".." leads from where a folder really is, whatever link it was reached by.
    real = os.path.realpath(folder)

    def name(path: str) -> str:
        whole = _whole(path)
        if absolute:
            return PurePath(whole).as_posix()
        try:
            below = os.path.relpath(whole, folder)
            if PurePath(below).parts[:1] == (os.pardir,):
                below = os.path.relpath(whole, real)
        except ValueError:  # another drive
            below = whole
        return PurePath(below).as_posix()

    return name


def _whole(path: str) -> str:
    """The absolute path, links left as they are unless a ".." leads back from one."""
    folder, name = os.path.split(path)
    steps_back = os.pardir in PurePath(folder).parts
    return os.path.join(os.path.realpath(folder) if steps_back else os.path.abspath(folder), name)  # noqa: PTH100, PTH118


def _written(sample: Sample, name: Callable[[str], str]) -> dict[str, Any]:
    masks = sample.masks or ((sample.expected_mask,) if sample.expected_mask is not None else ())
    row: dict[str, Any] = {
        "path": name(sample.path),
        "split": sample.split,
        "label": sample.label,
        "defect": sample.defect,
        "mask": [name(mask) for mask in masks],
        "category": sample.category,
        "group": sample.group,
    }
    for what in ("defect", "category", "group"):
        word = row[what] or ""
        if word != word.strip():
            raise DataError(
                f"{sample.path}: {what} {shown(word)} has white space around it, which no manifest may hold",
                help="Rename it, or its folder.",
            )
    if sample.label == 1 and sample.defect.casefold() in LIKE_GOOD:
        raise DataError(
            f"{sample.path}: an anomalous image, and its defect {shown(sample.defect)} sounds like a normal one",
            help="Rename the folder: a manifest cannot say so.",
        )
    for text in (row["path"], row["defect"], row["category"], row["group"] or "", *row["mask"]):
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise DataError(
                f"{sample.path}: {shown(text)} is not UTF-8, as a manifest must be", help="Rename it, or its folder."
            ) from error
    return row


def _as_json(row: Mapping[str, Any]) -> str:
    masks = row["mask"]
    told = {**row, "mask": masks[0] if len(masks) == 1 else masks}
    return json.dumps({key: value for key, value in told.items() if value not in (None, [])}, ensure_ascii=False)


def _as_csv(rows: Iterable[Mapping[str, Any]]) -> str:
    lines = [",".join(COLUMNS)]
    for row in rows:
        for mask in row["mask"]:
            if _MASK_SEPARATOR in mask:
                raise DataError(
                    f"{mask}: a mask's name in a CSV manifest cannot hold {_MASK_SEPARATOR!r}, which parts masks",
                    help="Write the manifest as JSON lines: a name that ends with .jsonl.",
                )
        told = {**row, "mask": _MASK_SEPARATOR.join(row["mask"])}
        lines.append(",".join(_quoted("" if told[name] is None else str(told[name])) for name in COLUMNS))
    return "".join(f"{line}\n" for line in lines)


def _quoted(cell: str) -> str:
    # csv.writer of Python 3.11 leaves a bare "\r" without quotes where lines end with "\n".
    return f'"{cell.replace(chr(34), chr(34) * 2)}"' if any(c in cell for c in ',"\r\n') else cell
