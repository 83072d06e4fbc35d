"""Kaputt, items in the trays of a warehouse (Höfer et al., "Kaputt: A Large-Scale Dataset for Visual Defect Detection",
ICCV 2025), as its archives unpack.

    ROOT/datasets/query-{train,validation,test}.parquet      or in ROOT itself: a row an image
    ROOT/query-crop/data/<split>/query-data/crop/*.jpg       the item alone: layout "crop"
    ROOT/query-image/data/<split>/query-data/image/*.jpg     the whole tray: layout "image"

Columns that are read: defect and, where it is there, major_defect (bool), defect_types (names, parted by commas),
item_material, query_crop, query_image. Paths in them start below ROOT/query-crop and ROOT/query-image, or in an earlier
release at ROOT: where more of a material's files lie tells. Each material is a category. Rows with a defect in the
training and validation splits are left out. A row without defect that has kinds of defect or a major defect contradicts
itself: it is not learned from, and unknown where it is tested.

Crops are measured wherever the lists name them; what hinders that is an error, for the figures of whole trays are
others. Trays are measured when they are asked for, and where no list has the column query_crop, which a note says.

query_mask shows where the item is, not where its defect is: it is never read, and no image has a mask. Nor are the
images of reference-*.parquet used, which their authors call primarily, thus not always, free of defects.

Reading needs pyarrow (the extra `kaputt`). Lists of 240,000 rows take a second or two and 170 MB, once a process, and
then each material another second.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from types import ModuleType
from typing import Any

from uadctl.datasets.base import (
    OTHER_LAYOUT,
    UNKNOWN,
    Dataset,
    LayoutError,
    NoLayout,
    Where,
    capped,
    check_category,
    check_root,
    choices,
    holds,
    in_another_case,
    misnamed,
    missing_folder,
    rename,
)
from uadctl.datasets.sorted_folders import GOOD
from uadctl.errors import DataError, Problem, with_help
from uadctl.imaging.listing import files_in, is_folder, joined
from uadctl.records import Sample, Split
from uadctl.spec.grammar import is_name
from uadctl.spec.optional import require
from uadctl.spec.values import shown
from uadctl.untrusted import MAX_TABLE_BYTES, Hostile, read_bounded

_EXTRA = "kaputt"
_SPLITS: tuple[Split, ...] = ("train", "validation", "test")
_LISTS = {f"query-{split}.parquet": split for split in _SPLITS}
_HOME = "datasets"
_LAYOUTS = ("crop", "image")
_NO_KIND = "defect"
_FLAGS = ("defect", "major_defect")
_MAX_ROWS = 1_000_000  # four times those that there are
_MAX_BYTES_OF_A_COLUMN = 256 << 20  # a small file can hold a text of gigabytes, being packed
_TRAYS = 'Or measure the whole trays: [dataset] layout = "image" (without a spec: --set \'dataset.layout="image"\').'


def recognises(root: str) -> bool:
    """Whether a folder holds one of the lists of queries, in datasets/ or itself. They are not opened."""
    return any(_LISTS.keys() & set(files_in(place)) for place in (joined(root, _HOME), root) if is_folder(place))


def list_categories(where: Where) -> list[str]:
    """The materials that the lists name, sorted by bytes. The image files are not looked for.

    Raises BackendMissing without pyarrow, NoLayout where there is no list, LayoutError where one is missing or is not
    as it should be.
    """
    return list(_tables(where.root).materials)


def load(where: Where, category: str) -> Dataset:
    """List the images of one material. Nothing is decoded; each file is looked for.

    Raises as `list_categories`, DataError where the category, its layout or all good training images are missing,
    LayoutError with every row whose image is not there, is listed twice or has a path that leads out of the root.
    """
    tables = _tables(where.root)
    check_category(where.root, category, tables.materials)
    layout = _layout(where, tables)
    rows = _rows(tables, category, _column(layout))
    samples = _samples(where.root, layout, category, rows, _way_out(layout, tables))
    train = _good(samples, "train")
    tested = tuple(sample for sample in samples if sample.split == "test")
    for split, found in (("train", train), ("test", tested)):
        if not found:
            what = "good training" if split == "train" else "test"
            raise DataError(f"{tables.of[split].file}: lists no {what} image of {category}")
    return Dataset(
        name="kaputt",
        category=category,
        root=where.root,
        train=train,
        validation=_good(samples, "validation"),
        test=tested,
        left_out=tuple(sample for sample in samples if sample.split != "test" and sample.label == 1),
        notes=_notes(where, layout, category, tables, rows),
    )


def _good(samples: Sequence[Sample], split: Split) -> tuple[Sample, ...]:
    return tuple(sample for sample in samples if sample.split == split and sample.label == 0)


# --- the lists


@dataclass(frozen=True, slots=True)
class _Table:
    """The rows of one list, as pyarrow keeps them, in a fraction of the memory that Python's own strings would take.

    rows: a pyarrow.Table of defect, item_material, defect_types, the columns of paths that there are, and unknown:
    whether a row says that it has no defect and yet names kinds of defect or a major one. Materials are trimmed.
    no_material: the numbers of the rows that name none; the first row is 1.
    """

    file: str
    rows: Any
    no_material: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class _Tables:
    """The lists of all splits, and the materials in any of them, sorted by bytes."""

    of: dict[str, _Table]
    materials: list[str]

    def without(self, column: str) -> list[str]:
        """The files of the lists that have no such column."""
        return [table.file for table in self.of.values() if column not in table.rows.column_names]


def _column(layout: str) -> str:
    return f"query_{layout}"


def _tables(root: str) -> _Tables:
    """What the lists say, each read once as long as it does not change."""
    home = _list_folder(root)
    missing = [joined(home, name) for name in _LISTS if not os.path.exists(joined(home, name))]  # noqa: PTH110
    if missing:
        raise LayoutError(with_help([f"{file}: no such file" for file in missing], "Each of the three splits has one."))
    arrow = _arrow()
    found: dict[str, _Table] = {}
    problems: list[Problem] = []
    for name, split in _LISTS.items():
        file = joined(home, name)
        try:
            found[split] = _read(arrow, file)
        except DataError as error:
            problems += error.problems
    if problems:
        raise LayoutError(problems)
    names = {text for table in found.values() for text in table.rows["item_material"].unique().to_pylist() if text}
    wrong = sorted((name for name in names if not is_name(name)), key=os.fsencode)
    if wrong:
        raise DataError(f"{home}: item_material {shown(wrong[0])} cannot be a category's name")
    return _Tables(found, sorted(names, key=os.fsencode))


def _arrow() -> ModuleType:
    """pyarrow, with the parts of it that are used here. Raises BackendMissing."""
    for name in ("pyarrow", "pyarrow.compute", "pyarrow.parquet"):
        require(name, _EXTRA, needed_by="the data set kaputt")
    return require("pyarrow", _EXTRA)


def _list_folder(root: str) -> str:
    """The folder that holds the lists. NoLayout where there is none."""
    check_root(root)
    inner = joined(root, _HOME)
    for place in (inner, root):
        if is_folder(place) and _LISTS.keys() & set(files_in(place)):
            return place
    other = in_another_case(root, _HOME)
    if other is not None and _LISTS.keys() & set(files_in(joined(root, other))):
        raise missing_folder(root, _HOME, OTHER_LAYOUT)
    raise NoLayout(
        f"{root} holds no Kaputt: expected {joined(inner, next(iter(_LISTS)))}, found {holds(root)}", help=OTHER_LAYOUT
    )


def _read(arrow: ModuleType, file: str) -> _Table:
    try:
        facts = os.stat(file)  # noqa: PTH116 - as the user typed it
        return _read_once(arrow, file, facts.st_dev, facts.st_ino, facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns)
    except (OSError, ValueError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{file}: cannot be read ({getattr(error, 'strerror', None) or error})") from error


# Three lists are one data set.
@lru_cache(maxsize=3)
def _read_once(arrow: ModuleType, file: str, *stamp: int) -> _Table:
    try:
        data = read_bounded(file, most=MAX_TABLE_BYTES)
    except Hostile as error:
        raise DataError(f"{file}: {error}") from error
    try:
        rows = _columns(arrow, file, arrow.BufferReader(data))
    except (arrow.ArrowException, OSError) as error:
        reason = " ".join(str(error).split())
        raise DataError(f"{file}: cannot be read as Parquet ({shown(reason)})", help="Fetch the file anew.") from error
    compute = arrow.compute
    materials = compute.utf8_trim_whitespace(rows["item_material"])
    named = compute.fill_null(compute.not_equal(materials, ""), False)
    # Commas and blanks alone name no kind.
    hurt = compute.fill_null(compute.match_substring_regex(rows["defect_types"], r"[^,\s]"), False)
    if "major_defect" in rows.column_names:
        hurt = compute.or_(hurt, compute.fill_null(rows["major_defect"], False))
        rows = rows.drop_columns(["major_defect"])
    rows = rows.set_column(rows.column_names.index("item_material"), "item_material", materials)
    rows = rows.append_column("unknown", compute.and_(hurt, compute.invert(rows["defect"])))
    return _Table(file, rows, no_material=_where(arrow, compute.invert(named)))


def _where(arrow: ModuleType, chosen: Any) -> tuple[int, ...]:
    """The numbers of the rows for which a column is true; the first row is 1."""
    return tuple(i + 1 for i in arrow.compute.indices_nonzero(chosen).to_pylist())


def _columns(arrow: ModuleType, file: str, stream: Any) -> Any:
    """The columns that are needed, texts as plain strings. LayoutError where one is missing or is something else.

    Texts are unpacked no sooner than it is known how long they are together: a short file may name a long text in each
    of its rows.
    """
    schema = arrow.parquet.read_schema(stream)
    problems = []
    for name in ("defect", "item_material", "defect_types"):
        if name not in schema.names:
            problems.append(Problem(f"{file}: has no column {name}{choices(name, schema.names)}"))
    if not {_column(layout) for layout in _LAYOUTS} & set(schema.names):
        problems.append(Problem(f"{file}: has neither of the columns query_crop and query_image"))
    texts = [name for name in ("item_material", "defect_types", *map(_column, _LAYOUTS)) if name in schema.names]
    flags = [name for name in _FLAGS if name in schema.names]
    for name in (*flags, *texts):
        found = [column.type for column in schema if column.name == name]
        if len(found) > 1:
            problems.append(Problem(f"{file}: has {len(found)} columns {name}"))
        elif name in flags and not arrow.types.is_boolean(found[0]):
            problems.append(Problem(f"{file}: column {name}: expected bool, found {found[0]}"))
        elif name in texts and not _is_text(arrow, found[0]):
            problems.append(Problem(f"{file}: column {name}: expected strings, found {found[0]}"))
    if problems:
        raise LayoutError(problems)
    stream.seek(0)
    parquet = arrow.parquet.ParquetFile(stream, read_dictionary=texts)
    if parquet.metadata.num_rows > _MAX_ROWS:
        raise DataError(f"{file}: lists more than {_MAX_ROWS} images")
    table = parquet.read(columns=[*flags, *texts])
    table.validate(full=True)
    if table["defect"].null_count:
        empty = _where(arrow, table["defect"].is_null())
        more = f", and {len(empty) - 1} more" if len(empty) > 1 else ""
        raise LayoutError([Problem(f"{file}: row {empty[0]}{more}: does not say whether it shows a defect")])
    plain = {name: table[name].combine_chunks() for name in flags}
    for name in texts:
        if sum(_length(arrow, chunk) for chunk in table[name].chunks) > _MAX_BYTES_OF_A_COLUMN:
            raise DataError(f"{file}: column {name}: its texts are longer than {_MAX_BYTES_OF_A_COLUMN} bytes together")
        plain[name] = table[name].cast(arrow.large_string())
    return arrow.table(plain)


def _is_text(arrow: ModuleType, kind: Any) -> bool:
    if arrow.types.is_dictionary(kind):
        kind = kind.value_type
    return bool(arrow.types.is_string(kind) or arrow.types.is_large_string(kind) or arrow.types.is_null(kind))


def _length(arrow: ModuleType, chunk: Any) -> int:
    """Bytes that a column's texts take unpacked."""
    if not arrow.types.is_dictionary(chunk.type):
        return int(chunk.nbytes)
    lengths = arrow.compute.binary_length(chunk.dictionary)
    return int(arrow.compute.sum(lengths.take(chunk.indices)).as_py() or 0)


def _notes(where: Where, layout: str, category: str, tables: _Tables, rows: dict[Split, list[_Row]]) -> tuple[str, ...]:
    """What the lists say that cannot be used, or not be true, and which layout was taken because there is no other."""
    notes = []
    if layout != _LAYOUTS[0] and where.layout is None:
        notes.append(f"{tables.of['train'].file}: has no column {_column(_LAYOUTS[0])}: the whole trays are measured")
    for split in _SPLITS:
        table = tables.of[split]
        if table.no_material:
            notes.append(f"{table.file}: {_having(table.no_material)} no item_material, and is in no category")
        unknown = [row.number for row in rows[split] if row.label == -1]
        if unknown:
            then = "and is tested on as unknown" if split == "test" else "and is not learned from"
            notes.append(
                f"{table.file}: {_having(unknown, of=category)} defect = false and yet kinds of defect or a major "
                f"one, {then}"
            )
    return tuple(notes)


def _having(numbers: Sequence[int], *, of: str | None = None) -> str:
    if len(numbers) == 1:
        return f"row {numbers[0]} has"
    return f"each of {len(numbers)} rows{f' of {of}' if of else ''} (the first is {numbers[0]}) has"


# --- the images


@dataclass(frozen=True, slots=True)
class _Row:
    """A row of one material. below: its path as it is written; leads_out: whether that is none below the root."""

    file: str
    number: int
    below: str
    leads_out: bool
    label: int
    defect: str

    @property
    def place(self) -> str:
        """Where it stands, for messages."""
        return f"{self.file}: row {self.number}"


def _layout(where: Where, tables: _Tables) -> str:
    """The layout asked for, else crops where any list names them. DataError where some list has no such column.

    What lies on the disk decides nothing: else a figure would be of trays because a folder of crops is called wrong.
    """
    default = next(layout for layout in _LAYOUTS if len(tables.without(_column(layout))) < len(tables.of))
    layout = where.layout or default
    without = tables.without(_column(layout))
    if without:
        lacking = [f"{file}: has no column {_column(layout)}" for file in without]
        raise LayoutError(with_help(lacking, _helped("Fetch the list anew.", _way_out(layout, tables))))
    return layout


def _way_out(layout: str, tables: _Tables) -> str:
    """How to measure without crops, where that is possible; "" where it is not."""
    return _TRAYS if layout == _LAYOUTS[0] and not tables.without(_column("image")) else ""


def _helped(*sentences: str) -> str:
    return " ".join(filter(None, sentences))


def _rows(tables: _Tables, category: str, column: str) -> dict[Split, list[_Row]]:
    """The rows of a material in each split."""
    arrow = _arrow()
    return {split: list(_chosen(arrow, tables.of[split], category, column)) for split in _SPLITS}


def _chosen(arrow: ModuleType, table: _Table, category: str, column: str) -> Iterator[_Row]:
    chosen = arrow.compute.fill_null(arrow.compute.equal(table.rows["item_material"], category), False)
    rows = table.rows.filter(chosen)
    columns = (rows[name].to_pylist() for name in (column, "defect", "unknown", "defect_types"))
    for number, below, bad, unknown, kinds in zip(_where(arrow, chosen), *columns, strict=True):
        label = -1 if unknown else int(bad)
        defect = {0: GOOD, -1: UNKNOWN}.get(label) or _kind(kinds)
        yield _Row(table.file, number, below or "", _leads_out(below or ""), label, defect)


def _leads_out(below: str) -> bool:
    return "\0" in below or "\\" in below or not {"", ".", ".."}.isdisjoint(below.split("/"))


def _kind(kinds: str | None) -> str:
    """The kinds of defect with one blank between their words, "," between them and nothing around them."""
    named = (" ".join(kind.split()) for kind in (kinds or "").split(","))
    return ",".join(filter(None, named)) or _NO_KIND


def _samples(root: str, layout: str, category: str, rows: dict[Split, list[_Row]], way_out: str) -> list[Sample]:
    """The images of a material, sorted by their names in bytes. way_out: what else can be done about a problem."""
    top, folders = _top(root, layout, category, rows, way_out)
    samples: list[Sample] = []
    wrong: list[str] = []
    elsewhere: dict[str, str] = {}
    seen: dict[str, str] = {}
    for split, row in ((one, row) for one in _SPLITS for row in rows[one]):
        if not row.below:
            wrong.append(f"{row.place}: names no file in {_column(layout)}")
            continue
        if row.leads_out:
            wrong.append(f"{row.place}: {_column(layout)} {shown(row.below)} is no path below {root}")
            continue
        relative = top + row.below
        path = joined(root, relative)
        other = folders.misnamed(relative)
        if other is not None:
            elsewhere.setdefault(*other)
        elif not folders.hold(relative):
            wrong.append(f"{row.place}: {path}: no such file")
        if relative in seen:
            wrong.append(f"{row.place}: {path} is listed already, in {seen[relative]}")
        seen[relative] = row.place
        samples.append(Sample(path, relative, split, row.label, row.defect, category))
    problems = [Problem(message, _helped(todo, way_out)) for message, todo in elsewhere.items()]
    if wrong:
        told = capped(wrong, root, f"rows of {category} whose image cannot be had")
        problems += with_help(told, _helped("Unpack all archives of the images, or fetch them anew.", way_out))
    if problems:
        raise LayoutError(problems)
    return sorted(samples, key=lambda sample: os.fsencode(sample.relative))


def _top(root: str, layout: str, category: str, rows: dict[Split, list[_Row]], way_out: str) -> tuple[str, _Folders]:
    """Where a material's paths start, below the root with "/" ("" for the root itself), and the folders looked into.

    That is where more of the files are. Raises DataError, saying where the first was looked for, where none is there
    and no folder that a row names is called alike.
    """
    folders = _Folders(root)
    tops = (f"query-{layout}/", "")
    named = [row for split in _SPLITS for row in rows[split] if row.below and not row.leads_out]
    there = {top: sum(folders.hold(top + row.below) for row in named) for top in tops}
    best = max(tops, key=lambda top: there[top])  # the first of them if they are alike
    if there[best] or not named:
        return best, folders
    for top in tops:
        if any(folders.misnamed(top + row.below) for row in named):
            return top, folders
    first = named[0]
    looked = ", ".join(joined(root, top + first.below) for top in tops)
    raise DataError(
        f"{first.file}: the image of row {first.number} is not there, nor is any other of "
        f"{category}; looked for {looked}",
        help=_helped("Unpack the archives of the images into the root.", way_out),
    )


class _Folders:
    """What the folders below a root hold. One listing is faster than to ask for 100,000 files one by one."""

    def __init__(self, root: str) -> None:
        self._root = root
        self._names: dict[str, frozenset[str] | None] = {}
        self._other: dict[str, tuple[str, str] | None] = {}

    def hold(self, relative: str) -> bool:
        """Whether there is something of this name, which is a path below the root."""
        folder, _, name = relative.rpartition("/")
        return name in (self._listed(folder) or ())

    def misnamed(self, relative: str) -> tuple[str, str] | None:
        """What is wrong and what to do, if a file's folder is not there, but one called alike but for its case."""
        folder = relative.rpartition("/")[0]
        if self._listed(folder) is not None:
            return None
        if folder not in self._other:
            self._other[folder] = misnamed(self._root, folder)
        found = self._other[folder]
        if found is None:
            return None
        other, name = found
        wanted = joined(os.path.dirname(other), name)  # noqa: PTH120 - as the user typed it
        return f"{wanted}: no such folder; there is {other}", rename(name)

    def _listed(self, folder: str) -> frozenset[str] | None:
        if folder not in self._names:
            try:
                self._names[folder] = frozenset(os.listdir(joined(self._root, folder)))  # noqa: PTH208 - names only
            except OSError:
                self._names[folder] = None
        return self._names[folder]
