"""Kaputt: lists in Parquet files, masks that are none of defects, and files that are not what they should be."""

from __future__ import annotations

import contextlib
import random
import shutil
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import parts
import pytest
import trees_listed as trees
from parts import message, relatives

from uadctl.datasets import kaputt, list_categories, load_dataset, recognise
from uadctl.datasets.base import Dataset, LayoutError, NoLayout
from uadctl.errors import BackendMissing, DataError

NO_PYARROW = "pyarrow is not installed: pip install 'uadctl[kaputt]'"
needs_pyarrow = pytest.mark.skipif(find_spec("pyarrow") is None, reason=NO_PYARROW)
INSTALL = "the data set kaputt needs pyarrow, which is not installed. Install it with: pip install 'uadctl[kaputt]'"


def without_pyarrow(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "pyarrow"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "pyarrow", None)


def rewrite(root: Path, split: str, *changes: tuple[int, dict[str, Any]]) -> Path:
    """The list of a split with cells of some rows (counted from 1) changed."""
    rows = [trees.row(split, *each) for each in trees.ROWS[split]]
    for number, cells in changes:
        rows[number - 1] |= cells
    return trees.write_list(root / f"datasets/query-{split}.parquet", rows)


def cardboard(root: Path, **options: str) -> Dataset:
    return load_dataset("kaputt", str(root), category="cardboard", **options)


@needs_pyarrow
def test_each_material_is_a_category_of_crops(tmp_path: Path) -> None:
    root = trees.kaputt(tmp_path)
    assert list_categories("kaputt", str(root)) == ["cardboard", "paper"]
    dataset = cardboard(root)
    top = "query-crop/data/{}/query-data/crop/{}.jpg"
    assert relatives(dataset.train) == [top.format("train", f"t{i}") for i in range(4)]
    assert relatives(dataset.validation) == [top.format("validation", f"v{i}") for i in range(2)]
    assert [(s.relative, s.split, s.label, s.defect) for s in dataset.left_out] == [
        (top.format("train", "t4"), "train", 1, "penetration"),
        (top.format("validation", "v2"), "validation", 1, "superficial"),
    ]
    assert [(s.path, s.split, s.label, s.defect, s.category, s.group) for s in dataset.test] == [
        (f"{root}/{top.format('test', 'q0')}", "test", 0, "good", "cardboard", None),
        (f"{root}/{top.format('test', 'q1')}", "test", 0, "good", "cardboard", None),
        (f"{root}/{top.format('test', 'q2')}", "test", 1, "deformation,deconstruction", "cardboard", None),
        (f"{root}/{top.format('test', 'q3')}", "test", 1, "spillage", "cardboard", None),
    ]
    assert dataset.notes == ()


@needs_pyarrow
def test_the_order_of_rows_decides_nothing(tmp_path: Path) -> None:
    root = trees.kaputt(tmp_path)
    before = cardboard(root)
    for split, listed in trees.ROWS.items():
        rows = [trees.row(split, *each) for each in reversed(listed)]
        trees.write_list(root / f"datasets/query-{split}.parquet", rows)
    assert cardboard(root) == before


@needs_pyarrow
def test_the_item_s_mask_is_never_taken_for_a_defect_s(tmp_path: Path) -> None:
    root = trees.kaputt(tmp_path)
    assert (root / "query-mask/data/test/query-data/mask/q2.png").is_file()
    dataset = cardboard(root)
    everything = (*dataset.train, *dataset.validation, *dataset.test, *dataset.left_out)
    assert {(sample.masks, sample.expected_mask) for sample in everything} == {((), None)}
    assert not dataset.has_masks
    assert dataset.get_test_paths()[2] is None


@needs_pyarrow
def test_references_are_not_used(tmp_path: Path) -> None:
    root = trees.kaputt(tmp_path)
    dataset = cardboard(root)
    everything = (*dataset.train, *dataset.validation, *dataset.test, *dataset.left_out)
    assert len(everything) == 12
    assert (root / "reference-image/data/train/reference-data/image/r.jpg").is_file()
    assert not any("reference" in sample.relative for sample in everything)


@needs_pyarrow
def test_whole_trays_are_measured_when_they_are_asked_for(tmp_path: Path) -> None:
    root = trees.kaputt(tmp_path)
    assert cardboard(root).train[0].relative == "query-crop/data/train/query-data/crop/t0.jpg"
    trays = cardboard(root, layout="image")
    assert trays.train[0].relative == "query-image/data/train/query-data/image/t0.jpg"
    assert trays.test[2].defect == "deformation,deconstruction"
    assert trays.notes == ()
    shutil.rmtree(root / "query-crop")
    assert cardboard(root, layout="image") == trays
    (root / "query-image").rename(root / "Query-image")
    with pytest.raises(DataError) as error:
        cardboard(root, layout="image")
    assert message(error) == (
        f"{root}/query-image: no such folder; there is {root}/Query-image",
        "Case counts in the names of folders: rename it to query-image.",
    )


@needs_pyarrow
@pytest.mark.parametrize("options", [{}, {"layout": "crop"}])
def test_crops_that_cannot_be_found_are_never_replaced_by_trays(tmp_path: Path, options: dict[str, str]) -> None:
    root = trees.kaputt(tmp_path)
    assert (root / "query-image/data/train/query-data/image/t0.jpg").is_file()
    (root / "query-crop").rename(root / "Query-crop")
    with pytest.raises(LayoutError) as error:
        cardboard(root, **options)
    assert [(problem.message, problem.help) for problem in error.value.problems] == [
        (
            f"{root}/query-crop: no such folder; there is {root}/Query-crop",
            f"Case counts in the names of folders: rename it to query-crop. {trees.TRAYS}",
        )
    ]
    shutil.rmtree(root / "Query-crop")
    first = "data/train/query-data/crop/t0.jpg"
    with pytest.raises(DataError) as error:
        cardboard(root, **options)
    assert message(error) == (
        f"{root}/datasets/query-train.parquet: the image of row 1 is not there, nor is any other of cardboard; looked "
        f"for {root}/query-crop/{first}, {root}/{first}",
        f"Unpack the archives of the images into the root. {trees.TRAYS}",
    )


@needs_pyarrow
def test_a_folder_of_one_split_in_another_case_is_said_once(tmp_path: Path) -> None:
    root = trees.kaputt(tmp_path)
    (root / "query-crop/data/test").rename(root / "query-crop/data/Test")
    with pytest.raises(LayoutError) as error:
        cardboard(root)
    assert [problem.message for problem in error.value.problems] == [
        f"{root}/query-crop/data/test: no such folder; there is {root}/query-crop/data/Test"
    ]


@needs_pyarrow
@pytest.mark.parametrize(
    ("cell", "told"),
    [(None, "names no file in query_crop"), ("../out.jpg", 'query_crop "../out.jpg" is no path below {root}')],
)
def test_a_bad_first_row_is_an_error_of_its_own_category_alone(tmp_path: Path, cell: str | None, told: str) -> None:
    root = trees.kaputt(tmp_path)
    paper = load_dataset("kaputt", str(root), category="paper")
    train = rewrite(root, "train", (1, {"query_crop": cell}))
    with pytest.raises(LayoutError) as error:
        cardboard(root)
    assert message(error) == (
        f"{train}: row 1: {told.format(root=root)}",
        f"Unpack all archives of the images, or fetch them anew. {trees.TRAYS}",
    )
    assert load_dataset("kaputt", str(root), category="paper") == paper


@needs_pyarrow
def test_where_paths_start_is_told_by_most_files_and_not_by_one_that_strayed(tmp_path: Path) -> None:
    root = trees.kaputt(tmp_path)
    stray = root / "data/train/query-data/crop/t0.jpg"
    (root / "query-crop/data/train/query-data/crop/t0.jpg").unlink()
    parts.write(stray, parts.surface(1))
    with pytest.raises(LayoutError) as error:
        cardboard(root)
    assert [problem.message for problem in error.value.problems] == [
        f"{root}/datasets/query-train.parquet: row 1: {root}/query-crop/data/train/query-data/crop/t0.jpg: no such file"
    ]


@needs_pyarrow
def test_lists_without_crops_are_of_trays_and_that_is_said(tmp_path: Path) -> None:
    root = trees.kaputt(tmp_path)
    lists = [f"{root}/datasets/query-{split}.parquet" for split in trees.ROWS]
    trees.without_column(root, "query_crop", *trees.ROWS)
    dataset = cardboard(root)
    assert dataset.train[0].relative == "query-image/data/train/query-data/image/t0.jpg"
    assert dataset.notes == (f"{lists[0]}: has no column query_crop: the whole trays are measured",)
    assert cardboard(root, layout="image").notes == ()
    with pytest.raises(LayoutError) as error:
        cardboard(root, layout="crop")
    assert [problem.message for problem in error.value.problems] == [f"{f}: has no column query_crop" for f in lists]
    assert error.value.help == f"Fetch the list anew. {trees.TRAYS}"


@needs_pyarrow
def test_one_list_without_crops_is_an_error(tmp_path: Path) -> None:
    root = trees.kaputt(tmp_path)
    trees.without_column(root, "query_crop", "validation")
    with pytest.raises(LayoutError) as error:
        cardboard(root)
    assert message(error) == (
        f"{root}/datasets/query-validation.parquet: has no column query_crop",
        f"Fetch the list anew. {trees.TRAYS}",
    )
    trees.without_column(root, "query_image", "train")
    with pytest.raises(LayoutError) as error:
        cardboard(root)
    assert error.value.help == "Fetch the list anew."  # trays cannot be had either


@needs_pyarrow
def test_the_first_release_has_its_lists_and_its_paths_in_the_root(tmp_path: Path) -> None:
    root = trees.kaputt_earlier(tmp_path)
    assert kaputt.recognises(str(root))
    dataset = load_dataset("kaputt", str(root), category="paper")
    assert relatives(dataset.train) == [f"kaputt-release/data/train/query-data/crop/t{i}.jpg" for i in (5, 6)]
    assert Path(dataset.train[0].path).is_file()


@needs_pyarrow
@pytest.mark.parametrize(
    ("kinds", "expected"),
    [
        (None, "defect"),
        ("", "defect"),
        (" , ", "defect"),
        ("spillage", "spillage"),
        ("missing_unit ,spillage", "missing_unit,spillage"),
        ("missing unit ,hole", "missing unit,hole"),
        (" missing  unit,, hole,", "missing unit,hole"),
    ],
)
def test_kinds_are_as_written_without_blanks_around_them(tmp_path: Path, kinds: str | None, expected: str) -> None:
    root = trees.kaputt(tmp_path)
    rewrite(root, "test", (4, {"defect": True, "defect_types": kinds}))
    assert cardboard(root).test[3].label == 1
    assert cardboard(root).test[3].defect == expected


@needs_pyarrow
@pytest.mark.parametrize(
    "cells", [{"defect_types": "spillage"}, {"major_defect": True}, {"major_defect": True, "defect_types": "spillage"}]
)
def test_a_row_that_contradicts_itself_is_unknown_and_never_learned_from(tmp_path: Path, cells: dict[str, Any]) -> None:
    root = trees.kaputt(tmp_path)
    train = rewrite(root, "train", (1, cells), (3, cells), (6, cells))
    validation = rewrite(root, "validation", (2, cells))
    test = rewrite(root, "test", (1, cells), (5, cells))
    dataset = cardboard(root)
    assert [Path(sample.path).stem for sample in dataset.train] == ["t1", "t3"]
    assert [Path(sample.path).stem for sample in dataset.validation] == ["v0"]
    assert [Path(sample.path).stem for sample in dataset.left_out] == ["t4", "v2"]  # defects only
    assert [(Path(s.path).stem, s.label, s.defect) for s in dataset.test] == [
        ("q0", -1, "unknown"),
        ("q1", 0, "good"),
        ("q2", 1, "deformation,deconstruction"),
        ("q3", 1, "spillage"),
    ]
    why = "defect = false and yet kinds of defect or a major one"
    assert dataset.notes == (
        f"{train}: each of 2 rows of cardboard (the first is 1) has {why}, and is not learned from",
        f"{validation}: row 2 has {why}, and is not learned from",
        f"{test}: row 1 has {why}, and is tested on as unknown",
    )


@needs_pyarrow
def test_kinds_that_are_none_and_a_defect_that_is_major_contradict_nothing(tmp_path: Path) -> None:
    root = trees.kaputt(tmp_path)
    before = cardboard(root)
    rewrite(root, "train", (1, {"defect_types": " , "}), (2, {"major_defect": None}), (5, {"major_defect": True}))
    assert cardboard(root) == before
    trees.without_column(root, "major_defect", *trees.ROWS)
    assert cardboard(root) == before


@needs_pyarrow
@pytest.mark.parametrize("nothing", [None, "", "  "])
def test_a_row_without_material_is_in_no_category_and_said(tmp_path: Path, nothing: str | None) -> None:
    root = trees.kaputt(tmp_path)
    file = rewrite(root, "train", (2, {"item_material": nothing}))
    assert list_categories("kaputt", str(root)) == ["cardboard", "paper"]
    dataset = cardboard(root)
    assert len(dataset.train) == 3
    assert dataset.notes == (f"{file}: row 2 has no item_material, and is in no category",)


@needs_pyarrow
def test_blanks_around_a_material_are_no_part_of_it(tmp_path: Path) -> None:
    root = trees.kaputt(tmp_path)
    before = cardboard(root)
    rewrite(root, "train", (2, {"item_material": " cardboard "}))
    assert list_categories("kaputt", str(root)) == ["cardboard", "paper"]
    assert cardboard(root) == before


@needs_pyarrow
def test_a_row_that_does_not_say_whether_it_is_good_is_refused(tmp_path: Path) -> None:
    root = trees.kaputt(tmp_path)
    file = rewrite(root, "train", (2, {"defect": None}), (3, {"defect": None}))
    with pytest.raises(LayoutError) as error:
        list_categories("kaputt", str(root))
    assert message(error) == (f"{file}: row 2, and 1 more: does not say whether it shows a defect", None)


@needs_pyarrow
def test_all_rows_whose_image_cannot_be_had_are_said_at_once(tmp_path: Path) -> None:
    root = trees.kaputt(tmp_path)
    test, train = (
        rewrite(
            root,
            "test",
            (1, {"query_crop": "../../etc/passwd"}),
            (2, {"query_crop": None}),
            (3, {"query_crop": "data/train/query-data/crop/t0.jpg"}),
            (4, {"query_crop": "/etc/passwd"}),
            (5, {"query_crop": "data/nowhere.jpg"}),
        ),
        root / "datasets/query-train.parquet",
    )
    (root / "query-crop/data/train/query-data/crop/t2.jpg").unlink()
    with pytest.raises(LayoutError) as error:
        cardboard(root)
    crops = f"{root}/query-crop/data/train/query-data/crop"
    assert [problem.message for problem in error.value.problems] == [
        f"{train}: row 3: {crops}/t2.jpg: no such file",
        f'{test}: row 1: query_crop "../../etc/passwd" is no path below {root}',
        f"{test}: row 2: names no file in query_crop",
        f"{test}: row 3: {crops}/t0.jpg is listed already, in {train}: row 1",
        f'{test}: row 4: query_crop "/etc/passwd" is no path below {root}',
    ]
    assert error.value.help == f"Unpack all archives of the images, or fetch them anew. {trees.TRAYS}"
    # Of another material nothing is said.
    with pytest.raises(LayoutError) as error:
        load_dataset("kaputt", str(root), category="paper")
    assert [problem.message for problem in error.value.problems] == [
        f"{test}: row 5: {root}/query-crop/data/nowhere.jpg: no such file"
    ]


@needs_pyarrow
def test_of_very_many_problems_the_first_are_said(tmp_path: Path) -> None:
    root = trees.kaputt(tmp_path)
    rows = [trees.row("test", f"absent{i}", "cardboard", "") for i in range(60)]
    trees.write_list(root / "datasets/query-test.parquet", rows)
    with pytest.raises(LayoutError) as error:
        cardboard(root)
    assert len(error.value.problems) == 11
    assert error.value.problems[-1].message == f"{root}: 50 more rows of cardboard whose image cannot be had"


@needs_pyarrow
def test_a_missing_first_image_is_one_that_is_missing(tmp_path: Path) -> None:
    root = trees.kaputt(tmp_path)
    (root / "query-crop/data/train/query-data/crop/t0.jpg").unlink()
    with pytest.raises(LayoutError) as error:
        cardboard(root)
    assert error.value.message.endswith(
        "query-train.parquet: row 1: " + f"{root}/query-crop/data/train/query-data/crop/t0.jpg: no such file"
    )


@needs_pyarrow
def test_columns_are_checked_and_all_that_is_wrong_is_said(tmp_path: Path) -> None:
    root = trees.kaputt(tmp_path)
    rows = [trees.row("train", *each) for each in trees.ROWS["train"]]
    train = trees.write_list(
        root / "datasets/query-train.parquet",
        [{"defects": r["defect"], "item_material": 7, "defect_types": r["defect_types"]} for r in rows],
    )
    test = trees.write_list(
        root / "datasets/query-test.parquet", [r | {"defect": "no", "major_defect": 1} for r in rows]
    )
    with pytest.raises(LayoutError) as error:
        list_categories("kaputt", str(root))
    assert [problem.message for problem in error.value.problems] == [
        f"{train}: has no column defect; did you mean defects? It has: defects, item_material, defect_types",
        f"{train}: has neither of the columns query_crop and query_image",
        f"{train}: column item_material: expected strings, found int64",
        f"{test}: column defect: expected bool, found string",
        f"{test}: column major_defect: expected bool, found int64",
    ]


@needs_pyarrow
def test_a_column_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    import pyarrow as arrow
    import pyarrow.parquet as parquet

    root = trees.kaputt(tmp_path)
    file = root / "datasets/query-train.parquet"
    table = parquet.read_table(file)
    parquet.write_table(table.append_column("defect", arrow.array([True] * len(table))), file)
    with pytest.raises(LayoutError) as error:
        list_categories("kaputt", str(root))
    assert message(error) == (f"{file}: has 2 columns defect", None)


@needs_pyarrow
def test_a_list_is_read_anew_when_it_changes(tmp_path: Path) -> None:
    root = trees.kaputt(tmp_path)
    assert list_categories("kaputt", str(root)) == ["cardboard", "paper"]
    rewrite(root, "train", (1, {"item_material": "book_paper"}))
    assert list_categories("kaputt", str(root)) == ["book_paper", "cardboard", "paper"]


@needs_pyarrow
def test_a_list_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = trees.kaputt(tmp_path)
    read: list[str] = []

    def counted(path: str, **options: int) -> bytes:
        read.append(Path(path).name)
        return Path(path).read_bytes()

    monkeypatch.setattr(kaputt, "read_bounded", counted)
    for category in list_categories("kaputt", str(root)):
        load_dataset("kaputt", str(root), category=category)
    assert read == ["query-train.parquet", "query-validation.parquet", "query-test.parquet"]


@needs_pyarrow
@pytest.mark.parametrize("name", ["a/b", "..", "tab\tbed"])
def test_a_material_that_can_be_no_category_is_refused(tmp_path: Path, name: str) -> None:
    root = trees.kaputt(tmp_path)
    rewrite(root, "train", (1, {"item_material": name}))
    with pytest.raises(DataError, match="cannot be a category's name"):
        list_categories("kaputt", str(root))


@needs_pyarrow
def test_material_and_splits_that_are_missing_are_said(tmp_path: Path) -> None:
    root = trees.kaputt(tmp_path)
    with pytest.raises(DataError) as error:
        load_dataset("kaputt", str(root), category="papers")
    assert message(error)[0] == f"{root} has no category 'papers'; did you mean paper? It has: cardboard, paper"
    train = rewrite(root, "train", *((n, {"defect": True}) for n in (6, 7)))
    with pytest.raises(DataError) as error:
        load_dataset("kaputt", str(root), category="paper")
    assert message(error)[0] == f"{train}: lists no good training image of paper"
    rewrite(root, "train")
    test = rewrite(root, "test", *((n, {"item_material": "cardboard"}) for n in (5, 6)))
    with pytest.raises(DataError) as error:
        load_dataset("kaputt", str(root), category="paper")
    assert message(error)[0] == f"{test}: lists no test image of paper"
    (root / "datasets/query-validation.parquet").unlink()
    test.unlink()
    with pytest.raises(LayoutError) as error:
        list_categories("kaputt", str(root))
    assert [problem.message for problem in error.value.problems] == [
        f"{root}/datasets/query-{split}.parquet: no such file" for split in ("validation", "test")
    ]


@needs_pyarrow
def test_a_text_that_a_short_file_repeats_for_gigabytes_is_refused(tmp_path: Path) -> None:
    import pyarrow as arrow
    import pyarrow.parquet as parquet

    root = trees.kaputt(tmp_path)
    n = 300_000
    long = arrow.DictionaryArray.from_arrays(arrow.array([0] * n, arrow.int32()), ["x" * 1000])
    rows = {"defect": [False] * n, "item_material": long, "defect_types": [None] * n, "query_crop": long}
    file = root / "datasets/query-train.parquet"
    parquet.write_table(arrow.table(rows), file)
    assert file.stat().st_size < 100_000
    with pytest.raises(DataError) as error:
        list_categories("kaputt", str(root))
    assert message(error)[0] == f"{file}: column item_material: its texts are longer than 268435456 bytes together"


@needs_pyarrow
def test_too_many_rows_and_too_long_files_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = trees.kaputt(tmp_path)
    file = root / "datasets/query-train.parquet"
    monkeypatch.setattr(kaputt, "_MAX_ROWS", 6)
    with pytest.raises(LayoutError) as error:
        list_categories("kaputt", str(root))
    assert message(error)[0] == f"{file}: lists more than 6 images"
    monkeypatch.setattr(kaputt, "MAX_TABLE_BYTES", 10)
    with pytest.raises(LayoutError) as error:
        list_categories("kaputt", str(root))
    assert error.value.problems[0].message == f"{file}: longer than 10 bytes"


@needs_pyarrow
def test_texts_that_are_no_utf_8_are_refused(tmp_path: Path) -> None:
    import pyarrow as arrow
    import pyarrow.parquet as parquet

    root = trees.kaputt(tmp_path)
    rows = [trees.row("train", *each) for each in trees.ROWS["train"]]
    table = arrow.Table.from_pylist(rows)
    broken = arrow.array([b"\xff\xfe"] * len(rows)).view(arrow.string())
    table = table.set_column(table.column_names.index("item_material"), "item_material", broken)
    file = root / "datasets/query-train.parquet"
    parquet.write_table(table, file)
    with pytest.raises(DataError) as error:
        list_categories("kaputt", str(root))
    assert message(error)[0].startswith(f"{file}: cannot be read as Parquet (")


@needs_pyarrow
def test_a_damaged_list_is_refused_and_never_a_crash(tmp_path: Path) -> None:
    root = trees.kaputt(tmp_path)
    file = root / "datasets/query-train.parquet"
    whole = file.read_bytes()
    rng = random.Random(3)
    taken = 0
    for _ in range(150):
        data = bytearray(whole)
        if rng.random() < 0.3:
            del data[rng.randrange(len(data)) :]
        for _ in range(rng.randint(1, 4)):
            if data:
                data[rng.randrange(len(data))] = rng.randrange(256)
        file.write_bytes(data)
        with contextlib.suppress(DataError):
            for category in list_categories("kaputt", str(root)):
                load_dataset("kaputt", str(root), category=category)
            taken += 1
    assert 0 < taken < 120


@needs_pyarrow
def test_texts_may_be_large_or_dictionaries(tmp_path: Path) -> None:
    import pyarrow as arrow
    import pyarrow.parquet as parquet

    root = trees.kaputt(tmp_path)
    before = cardboard(root)
    for split in trees.ROWS:
        file = root / f"datasets/query-{split}.parquet"
        table = parquet.read_table(file)
        for i, name in enumerate(table.column_names):
            if table[name].type == arrow.string():
                kind = arrow.large_string() if i % 2 else arrow.dictionary(arrow.int32(), arrow.string())
                table = table.set_column(i, name, table[name].cast(kind))
        parquet.write_table(table, file, row_group_size=3)
    assert cardboard(root) == before


def test_a_folder_is_recognised_by_its_lists_without_pyarrow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, uadctl: Any
) -> None:
    without_pyarrow(monkeypatch)
    assert not kaputt.recognises(str(tmp_path))
    for split in ("train", "validation", "test"):
        parts_list = tmp_path / f"datasets/query-{split}.parquet"
        parts_list.parent.mkdir(exist_ok=True)
        parts_list.write_bytes(b"PAR1")
    assert kaputt.recognises(str(tmp_path))
    assert recognise(str(tmp_path)) == ["kaputt"]
    with pytest.raises(BackendMissing) as error:
        list_categories("kaputt", str(tmp_path))
    assert str(error.value) == INSTALL
    for words in (("datasets", "check", "kaputt"), ("bench", "--model", "patchcore", "--dataset", "kaputt")):
        ended = uadctl(*words, "--root", tmp_path, code=2)
        assert ended.err == f"error: {INSTALL}\n"
        assert ended.out == ""


def test_another_folder_is_said_to_be_none(tmp_path: Path) -> None:
    parts.write_category(tmp_path, "tile", train=1, good=1, bad=1)
    assert not kaputt.recognises(str(tmp_path))
    with pytest.raises(NoLayout) as error:
        list_categories("kaputt", str(tmp_path))
    assert message(error) == (
        f"{tmp_path} holds no Kaputt: expected {tmp_path}/datasets/query-train.parquet, found tile/",
        "It looks like mvtec: give that name in place of kaputt.",
    )


def test_the_extra_is_shown(uadctl: Any) -> None:
    assert "\nextra: kaputt: pip install 'uadctl[kaputt]'\n" in uadctl("datasets", "show", "kaputt").out
    assert "\nextra: " not in uadctl("datasets", "show", "mvtec").out
    assert uadctl("datasets", "show", "kaputt", "--json").json["extra"] == "kaputt"
    extras = {row["name"]: row["extra"] for row in uadctl("datasets", "list", "--json").json}
    assert {name for name, extra in extras.items() if extra} == {"kaputt"}
