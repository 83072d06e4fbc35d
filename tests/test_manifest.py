"""Manifests: a list of images in a file, read into samples, and written from any data set so that it reads back."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import parts
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from uadctl.datasets import (
    Dataset,
    LayoutError,
    NoLayout,
    base,
    list_categories,
    load_dataset,
    load_mask,
    manifest,
    recognise,
)
from uadctl.datasets.base import Where
from uadctl.datasets.manifest import write_manifest
from uadctl.errors import DataError, SpecError
from uadctl.records import DefectConfig, Sample

DEFECT_HELP = 'Write "good", or nothing, if the image is normal; the name of a defect if it is anomalous.'
TESTED_HELP = "Keep all images of a part in one split: the model must not have seen it."
LABEL_HELP = 'Write its label: 0 if it is normal, 1 if it is anomalous. A normal image has the defect "good", or none.'
UNKNOWN_HELP = "Write its label: 0 if it is normal, 1 if it is anomalous. An image without can only be tested on."
COLUMNS_HELP = "There are: path, split, label, defect, mask, category, group"


def touch(folder: Path, *names: str) -> None:
    """Files that are there; a manifest is read without opening them."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def listed(folder: Path, *rows: str, name: str = "m.csv") -> str:
    """A manifest below `folder`, and every image and mask that its rows may name."""
    touch(folder, *"abcdef", *(f"{m}_mask" for m in "abcdef"))
    (folder / name).write_text("".join(f"{row}\n" for row in rows), encoding="utf-8", newline="")
    return str(folder / name)


def problems(root: str) -> list[tuple[str, str | None]]:
    """What is wrong with a manifest, the file's own path left out."""
    with pytest.raises(LayoutError) as error:
        load_dataset("manifest", root)
    folder = f"{Path(root).parent}/"
    return [
        (p.message.replace(folder, "") if Path(root).is_absolute() else p.message, p.help) for p in error.value.problems
    ]


def messages(root: str) -> list[str]:
    return [message for message, _ in problems(root)]


def facts(dataset: Dataset) -> dict[str, list[tuple[object, ...]]]:
    return {
        split: [(s.relative, s.split, s.label, s.defect, s.group) for s in getattr(dataset, split)]
        for split in ("train", "validation", "test", "left_out")
    }


# --- reading


CSV = """\
path,split,label,defect,mask,category,group
b/2.png,train,0,,,gear,
b/1.png,train,normal,good,,gear,p1
b/x.png,train,1,dent,,gear,
a.png,validation,GOOD,,,gear,
t/1.png,test,0,good,,gear,p2
t/2.png,test,Anomaly,"dent, deep",m/2.png;m/2b.png,gear,p2
t/3.png,test,defect,,m/3.png,gear,
t/4.png,test,-1,,,gear,
t/5.png,test,,,,gear,
t/6.png,test,,crack,,gear,
t/7.png,test,,good,,gear,
t/8.png,test,,unknown,,gear,
n.png,train,0,,,nut,
"""
IMAGES = ["a.png", *(f"b/{n}.png" for n in "12x"), *(f"t/{n}.png" for n in range(1, 9)), "n.png", "m/2.png", "m/2b.png"]


@pytest.fixture
def gear(tmp_path) -> Path:
    touch(tmp_path, *IMAGES)
    (tmp_path / "m.csv").write_text(CSV, encoding="utf-8")
    return tmp_path / "m.csv"


def test_rows_become_sorted_samples(gear):
    assert list_categories("manifest", str(gear)) == ["gear", "nut"]
    dataset = load_dataset("manifest", str(gear), category="gear")
    assert (dataset.name, dataset.category, dataset.root) == ("manifest", "gear", str(gear))
    assert facts(dataset) == {
        "train": [("b/1.png", "train", 0, "good", "p1"), ("b/2.png", "train", 0, "good", None)],
        "validation": [("a.png", "validation", 0, "good", None)],
        "test": [
            ("t/1.png", "test", 0, "good", "p2"),
            ("t/2.png", "test", 1, "dent, deep", "p2"),
            ("t/3.png", "test", 1, "anomaly", None),
            ("t/4.png", "test", -1, "unknown", None),
            ("t/5.png", "test", -1, "unknown", None),
            ("t/6.png", "test", 1, "crack", None),
            ("t/7.png", "test", 0, "good", None),
            ("t/8.png", "test", -1, "unknown", None),
        ],
        "left_out": [("b/x.png", "train", 1, "dent", None)],
    }
    assert {sample.category for sample in dataset.test} == {"gear"}
    assert [sample.path for sample in dataset.train] == [str(gear.parent / "b/1.png"), str(gear.parent / "b/2.png")]
    root = gear.parent
    assert [(s.masks, s.expected_mask) for s in dataset.test if s.label == 1] == [
        ((str(root / "m/2.png"), str(root / "m/2b.png")), None),
        ((), str(root / "m/3.png")),
        ((), None),
    ]
    assert dataset.problems() == [f"{root}/t/3.png: no mask at {root}/m/3.png"]
    assert load_dataset("manifest", str(gear), category="nut").get_train_paths() == [str(root / "n.png")]


def test_neither_the_order_of_rows_and_columns_nor_line_ends_matter(gear):
    expected = load_dataset("manifest", str(gear), category="gear")
    header, *rows = CSV.splitlines()
    others = {
        "bom": "\ufeff" + CSV,
        "crlf": CSV.replace("\n", "\r\n"),
        "cr": CSV.replace("\n", "\r"),
        "blank lines": CSV.replace("\n", "\n\n").replace("\n\n", "\n,,,,,,\n", 1),
        "reversed": "\n".join([header, *reversed(rows)]),
        "case": CSV.replace(header, " Path,SPLIT,label,Defect,MASK,Category,Group"),
        "spaces": CSV.replace("train", " Train ").replace(",-1,", ", -1 ,"),
    }
    for text in others.values():
        gear.write_bytes(text.encode())
        assert load_dataset("manifest", str(gear), category="gear") == expected
    turned = [["gear" if i else "category", *line.split(",")[:3]] for i, line in enumerate(CSV.splitlines()[:6])]
    gear.write_text("\n".join(",".join(line) for line in turned))
    assert [s.relative for s in load_dataset("manifest", str(gear)).train] == ["b/1.png", "b/2.png"]
    assert len(others) == 7


def test_json_lines_say_the_same(gear):
    expected = load_dataset("manifest", str(gear), category="gear")
    objects = [
        {"path": "b/2.png", "split": "train", "label": 0},
        {"path": "b/1.png", "split": "train", "label": "normal", "group": "p1", "mask": None, "defect": None},
        {"path": "b/x.png", "split": "train", "defect": "dent"},
        {"path": "a.png", "split": "validation", "label": 0, "mask": "", "group": ""},
        {"path": "t/1.png", "split": "test", "label": 0, "defect": "good", "group": "p2", "mask": []},
        {"path": "t/2.png", "split": "test", "defect": "dent, deep", "mask": ["m/2.png", "m/2b.png"], "group": "p2"},
        {"path": "t/3.png", "split": "test", "label": 1, "mask": "m/3.png"},
        {"path": "t/4.png", "split": "test", "label": -1},
        {"path": "t/5.png", "split": "test", "label": None},
        {"Path": "t/6.png", "SPLIT": "Test", "Defect": "crack"},
        {"path": "t/7.png", "split": "test", "label": "0"},
        {"path": "t/8.png", "split": "test", "label": "-1", "defect": "unknown"},
    ]
    for suffix in (".jsonl", ".ndjson", ".JSONL"):
        file = gear.parent / f"gear{suffix}"
        file.write_text("\ufeff" + "\r\n\r\n".join(json.dumps(o) for o in objects), encoding="utf-8")
        found = load_dataset("manifest", str(file))
        assert facts(found) == facts(expected)
        assert [s.masks for s in found.test] == [s.masks for s in expected.test]
        assert found.category == "gear"


def test_a_folder_stands_for_the_manifest_in_it(gear):
    root = gear.parent
    with pytest.raises(NoLayout) as error:
        list_categories("manifest", str(root))
    assert error.value.message == (
        f"{root} holds no manifest: expected manifest.csv or manifest.jsonl, found b/, m/, t/, a.png, m.csv, n.png"
    )
    assert recognise(str(root)) == []
    gear.rename(root / "Manifest.CSV")
    assert list_categories("manifest", str(root)) == ["gear", "nut"]
    assert recognise(str(root)) == ["manifest"]
    (root / "manifest.jsonl").touch()
    with pytest.raises(DataError) as error:
        list_categories("manifest", str(root))
    assert (error.value.message, error.value.help) == (
        f"{root} holds Manifest.CSV and manifest.jsonl",
        f"Say which one is meant: {root}/Manifest.CSV, for example.",
    )
    assert [manifest.recognises(str(p)) for p in (root, gear, root / "b", root / "n.png")] == [
        True,
        False,
        False,
        False,
    ]
    assert manifest.recognises(str(root / "manifest.jsonl"))


@pytest.mark.parametrize(
    ("name", "message", "help"),
    [
        ("absent", "absent: no such file or folder", "A manifest's name ends with .csv, .jsonl or .ndjson."),
        ("m.txt", "m.txt: is no manifest", "A manifest's name ends with .csv, .jsonl or .ndjson."),
        ("absent.csv", "absent.csv: no such file", None),
        ("a/../m.csv/m.csv", "a/../m.csv/m.csv: cannot be read (Not a directory)", None),
    ],
)
def test_what_is_no_manifest_is_said(tmp_path, monkeypatch, name, message, help):
    monkeypatch.chdir(tmp_path)
    touch(tmp_path, "m.txt", "m.csv", "a/b")
    with pytest.raises(DataError) as error:
        load_dataset("manifest", name)
    assert (error.value.message, error.value.help) == (message, help)


def test_relative_manifests_keep_paths_as_they_were_typed(gear, monkeypatch):
    monkeypatch.chdir(gear.parent)
    for root, first in (("m.csv", "b/1.png"), ("./m.csv", "./b/1.png")):
        dataset = load_dataset("manifest", root, category="gear")
        assert next((s.path, s.relative) for s in dataset.train) == (first, "b/1.png")
    assert load_dataset("manifest", "m.csv", category="gear").missing_masks()[0].expected_mask == "m/3.png"


def names(dataset: Dataset) -> list[str]:
    return [s.relative for s in (*dataset.train, *dataset.validation, *dataset.test)]


def test_images_elsewhere_are_named_by_what_moves_with_the_manifest(tmp_path):
    home = tmp_path / "home"
    touch(home, "imgs/b/1.png", "imgs/a/2.png", "lists/in/3.png")
    listed(home / "lists", "path,split,label", "../imgs/b/1.png,train,0", "../imgs/a/2.png,test,0", name="one.csv")
    listed(home / "lists", "path,split,label", "../imgs/b/1.png,train,0", "./in/../in/3.png,test,0", name="two.csv")
    listed(home / "lists", "path,split,label", "../imgs/b/1.png,train,0", name="three.csv")
    listed(home / "lists", "path,split,label", "../lists/in/3.png,train,0", "b,test,0", name="four.csv")
    expected = {
        "one": ["b/1.png", "a/2.png"],
        "two": ["imgs/b/1.png", "lists/in/3.png"],
        "three": ["1.png"],
        "four": ["in/3.png", "b"],
    }
    for place in (home, tmp_path / "somewhere/else"):
        if place != home:
            place.parent.mkdir()
            home.rename(place)
        for name, found in expected.items():
            assert names(load_dataset("manifest", str(place / f"lists/{name}.csv"))) == found
    assert len(expected) == 4


def test_categories_are_named_each_for_itself(tmp_path):
    touch(tmp_path, "x/1.png", "lists/in/3.png")
    root = listed(tmp_path / "lists", "path,split,label,category", "../x/1.png,train,0,a", "in/3.png,train,0,b")
    assert [names(load_dataset("manifest", root, category=c)) for c in "ab"] == [["1.png"], ["in/3.png"]]


def test_absolute_paths_elsewhere_have_a_name_that_stays_below_the_run(tmp_path):
    touch(tmp_path, "x/1.png", "x/2.png", "lists/in/3.png")
    rows = [f"{tmp_path}/x/1.png,train,0", f"{tmp_path}/lists/in/3.png,test,0"]
    root = listed(tmp_path / "lists", "path,split,label", *rows)
    below = str(tmp_path)[1:]
    assert names(load_dataset("manifest", root)) == [f"{below}/x/1.png", "in/3.png"]
    root = listed(tmp_path / "lists", "path,split,label", *rows, "../x/2.png,test,0")
    assert names(load_dataset("manifest", root)) == ["1.png", "2.png", f"{below}/lists/in/3.png"]


def test_the_category_is_the_manifests_name_if_none_is_given(tmp_path):
    root = listed(tmp_path, "path,split,label", "a,train,0", name="Zahn rad..7.csv")
    assert list_categories("manifest", root) == ["Zahn rad-7"]
    root = listed(tmp_path, "path,split,label,category", "a,train,0,", "b,train,0,z", "c,train,0,ä", name="m.csv")
    assert list_categories("manifest", root) == ["m", "z", "ä"]
    with pytest.raises(DataError) as error:
        load_dataset("manifest", root)
    assert error.value.message == f"{root} has 3 categories; name one of them"
    with pytest.raises(DataError, match=r"m\.csv has no category 'Z'; did you mean z\? It has: m, z, ä$"):
        load_dataset("manifest", root, category="Z")


# --- what is wrong


HEADER = "path,split,label,defect,mask,category,group"
WRONG_ROWS = [
    ("a,tset,0,,,,", ['split "tset" is none of train, validation, test; did you mean test?'], None),
    ("a,,0,,,,", ["split is missing"], "One of: train, validation, test"),
    (",train,0,,,,", ["path is missing"], None),
    (
        "a,train,2,,,,",
        ['label "2" is none of 0, 1, -1'],
        "Or in words: normal, anomaly; nothing where it is not known.",
    ),
    ("a,test,1,good,,,", ['label 1 contradicts the defect "good"'], DEFECT_HELP),
    ("a,test,1,OK,,,", ['label 1 contradicts the defect "OK"'], DEFECT_HELP),
    ("a,test,normal,Normal,,,", ['label 0 contradicts the defect "Normal"'], DEFECT_HELP),
    ("a,test,0,Good,,,", ['label 0 contradicts the defect "Good"'], DEFECT_HELP),
    ("a,test,, Unknown,,,", ['defect " Unknown" has white space around it'], 'Write "Unknown".'),
    ("a,test, good,good ,,,", ['defect "good " has white space around it'], 'Write "good".'),
    ('a,test,0,,,"m\n",', ['category "m\\n" has white space around it'], 'Write "m".'),
    ("a,train,0,,,,\u00a0P", ['group "\\xa0P" has white space around it'], 'Write "P".'),
    ("a,train,0,,, ,", ['category " " is nothing but white space'], "Leave it empty if there is none."),
    ("a ,train,0,,,,", ["a : no such file"], "There is a: take away the white space around the name."),
    ("q ,train,0,,,,", ["q : no such file"], None),
    ("a,test,1,, a_mask,,", [" a_mask: no such file"], "There is a_mask: take away the white space around the name."),
    (
        "a,test,1,,a_mask; b_mask,,",
        [" b_mask: no such file"],
        "There is b_mask: take away the white space around the name.",
    ),
    ("a,test,0,dent,,,", ['label 0 contradicts the defect "dent"'], LABEL_HELP),
    ("a,test,-1,dent,,,", ['label -1 contradicts the defect "dent"'], LABEL_HELP),
    ("a,test,,Normal,,,", ['defect "Normal" sounds like a normal image'], DEFECT_HELP),
    ("a,test,0,,a_mask,,", ['a normal image has no mask, found "a_mask"'], "Only anomalous images have masks."),
    (
        "a,test,,,a_mask,,",
        ['an image of unknown label has no mask, found "a_mask"'],
        "Only anomalous images have masks.",
    ),
    ("a,train,,,,,", ["a training image of unknown label"], UNKNOWN_HELP),
    ("a,validation,-1,,,,", ["a validation image of unknown label"], UNKNOWN_HELP),
    (
        "a,train,0,,,a/b,",
        ['category "a/b" is no name'],
        "A name of a folder: without /, \\, .. and control characters.",
    ),
    (
        "a,train,0,,,",
        ["6 cells, the header has 7"],
        'A cell with a comma, a quote or a line end is written in quotes: "1,5 mm"',
    ),
    ("x.png,train,0,,,,", ["x.png: no such file"], None),
    ("i\\x.png,train,0,,,,", ["i\\x.png: no such file"], "Write paths with /, not \\."),
    (".,train,0,,,,", [".: is a folder, expected an image"], None),
    ("a/b,train,0,,,,", ["a/b: cannot be read (Not a directory)"], None),
    ("b,train,0,,,,", ["b is listed in line 2 already"], "Keep one of the rows."),
    ("./b,train,0,,,,", ["./b is listed in line 2 already (as b)"], "Keep one of the rows."),
    ("link,train,0,,,,", ["link is listed in line 2 already (as b)"], "Keep one of the rows."),
    (
        "link,test,1,,,,",
        ["link is an anomalous test image here, and a normal training image in line 2 (as b)"],
        "An image may have one role only.",
    ),
    (
        "b,test,,,,,",
        ["b is an unlabelled test image here, and a normal training image in line 2"],
        "An image may have one role only.",
    ),
    ("a,test,1,,c_mask,,", ["c_mask is the mask of c in line 3 already"], "Each image has masks of its own."),
    ("a,test,1,,d_mask;x,,", ["x: no such file"], "Of several masks of an image each must be there."),
    ("a,test,1,,.,,", [".: is a folder, expected a mask"], None),
    ("a,test,1,,b,,", ["a mask is the image of line 2, b"], None),
    (
        "a,test,0,,,,P",
        ['the group "P" is tested on here, and in the train split in line 2'],
        TESTED_HELP,
    ),
    (
        "a,validation,0,,,,P",
        ['the group "P" is in the validation split here, and in the train split in line 2'],
        "Keep all images of a part in one split: of parts that the model has seen the threshold is too low.",
    ),
    (
        "a,train,0,,,,V",
        ['the group "V" is in the validation split here, and in the train split in line 5'],
        "Keep all images of a part in one split: of parts that the model has seen the threshold is too low.",
    ),
    (
        "a,test,,,,,V",
        ['the group "V" is tested on here, and in the validation split in line 4'],
        TESTED_HELP,
    ),
    (
        "a,test,0,,,other,",
        ['category "other" has no normal training image'],
        "A category needs images of the split train, label 0.",
    ),
    (
        "a,train,1,,,other,",
        ['category "other" has no normal training image'],
        "A category needs images of the split train, label 0.",
    ),
    (
        'a,train,2,,"d,d",/,',
        [
            'label "2" is none of 0, 1, -1',
            'category "/" is no name',
        ],
        None,
    ),
]


@pytest.mark.parametrize(("row", "expected", "help"), WRONG_ROWS, ids=[row for row, _, _ in WRONG_ROWS])
def test_a_wrong_row_is_said_with_its_line(tmp_path, monkeypatch, row, expected, help):
    monkeypatch.chdir(tmp_path)
    listed(tmp_path, HEADER, "b,train,0,,,,P", "c,test,1,,c_mask,,", "d,validation,0,,,,V", row)
    (tmp_path / "link").symlink_to("b")
    (tmp_path / "other").mkdir()
    found = problems("m.csv")
    line = 4 if row == "a,train,0,,,,V" else 5  # of two rows, the one that should not know the part
    assert [message for message, _ in found] == [f"m.csv:{line}: {message}" for message in expected]
    if len(expected) == 1:
        assert found[0][1] == help


def test_there_are_rows_that_are_wrong():
    assert len(WRONG_ROWS) >= 44


def test_groups_and_images_of_two_categories_do_not_meet(tmp_path):
    rows = ["a,train,0,,,x,P", "b,test,0,,,x,Q", "a,test,0,,,y,P", "b,train,0,,,y,Q"]
    root = listed(tmp_path, HEADER, *rows)
    assert [len(load_dataset("manifest", root, category=c).test) for c in ("x", "y")] == [1, 1]


def test_what_is_left_out_is_no_leak(tmp_path):
    root = listed(tmp_path, HEADER, "a,train,0,,,,", "b,train,1,,,,P", "c,test,0,,,,P")
    assert [s.relative for s in load_dataset("manifest", root).left_out] == ["b"]
    root = listed(tmp_path, HEADER, "a,train,0,,,,P", "b,validation,1,,,,P")
    assert [s.relative for s in load_dataset("manifest", root).left_out] == ["b"]


def test_a_part_in_all_three_splits_is_said_twice(tmp_path):
    root = listed(tmp_path, HEADER, "a,test,,,,,P", "b,validation,0,,,,P", "c,train,0,,,,P", "d,test,0,,,,P")
    assert messages(root) == [
        'm.csv:2: the group "P" is tested on here, and in the train split in line 4',
        'm.csv:3: the group "P" is in the validation split here, and in the train split in line 4',
    ]


def test_all_problems_come_at_once_in_the_order_of_lines(tmp_path):
    rows = [
        "a,train,0,,,,P",
        "nowhere,tset,0,,,,",
        "b,test,1,good,,,",
        "a,test,0,,,,",
        "gone,test,,,,,P",
        "b,test,,,x_mask,,",
        "c,train,0,,,x ,P",
        "lost,train,0,,,/,P",
        "d,test,7,,,,P",
        ",test,0,,,,P",
        "e,trian,1,,c_mask,,",
        "f,test,1, dent,a_mask,,",
        "c,test,1,,c_mask,,",
    ]
    assert messages(listed(tmp_path, HEADER, *rows)) == [
        'm.csv:3: split "tset" is none of train, validation, test; did you mean test?',
        "m.csv:3: nowhere: no such file",
        'm.csv:4: label 1 contradicts the defect "good"',
        "m.csv:5: a is a normal test image here, and a normal training image in line 2",
        'm.csv:6: the group "P" is tested on here, and in the train split in line 2',
        "m.csv:6: gone: no such file",
        'm.csv:7: an image of unknown label has no mask, found "x_mask"',
        "m.csv:7: b is listed in line 4 already",
        'm.csv:8: category "x " has white space around it',
        'm.csv:9: category "/" is no name',
        "m.csv:9: lost: no such file",
        'm.csv:10: label "7" is none of 0, 1, -1',
        "m.csv:11: path is missing",
        'm.csv:12: split "trian" is none of train, validation, test; did you mean train?',
        'm.csv:13: defect " dent" has white space around it',
        "m.csv:14: c_mask is the mask of e in line 12 already",
    ]


def test_a_part_is_looked_for_in_rows_with_other_problems_too(tmp_path):
    rows = [
        "a,train,0,,,,P",
        ",train,0,,,,Q",
        "b,test,7, x,,,P",
        "c,test,0, x,,,Q",
        "d,test,0,,,y ,Q",
        "e,train,, x,,,R",
    ]
    assert messages(listed(tmp_path, HEADER, *rows)) == [
        "m.csv:3: path is missing",
        'm.csv:4: defect " x" has white space around it',
        'm.csv:4: label "7" is none of 0, 1, -1',
        'm.csv:4: the group "P" is tested on here, and in the train split in line 2',
        'm.csv:5: defect " x" has white space around it',
        'm.csv:5: the group "Q" is tested on here, and in the train split in line 3',
        'm.csv:6: category "y " has white space around it',
        'm.csv:7: defect " x" has white space around it',
    ]


def test_a_long_path_is_cut_in_the_middle(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    listed(tmp_path, "path,split,label,mask", f"{'x' * 300},train,0,", f"{'y' * 100_000}.png,train,0,")
    assert messages("m.csv") == [
        f"m.csv:2: {'x' * 300}: cannot be read (File name too long)",
        f"m.csv:3: {'y' * 150}…{'y' * 146}.png: cannot be read (File name too long)",
    ]
    listed(tmp_path, "path,split,label,mask", "a,train,0,", f"b,test,1,{'x' * 1000};{'y' * 1000}")
    assert messages("m.csv") == [f"m.csv:3: {c * 150}…{c * 150}: no such file" for c in "xy"]


def test_many_problems_end_with_their_number(tmp_path):
    for n, last in (
        (51, "m.csv: and 1 more problem"),
        (62, "m.csv: and 12 more problems"),
        (50, "m.csv:51: 49: no such file"),
    ):
        found = messages(listed(tmp_path, "path,split,label", *(f"{i},train,0" for i in range(n))))
        assert len(found) == min(n, 51)
        assert found[-1] == last
        assert found[49] == "m.csv:51: 49: no such file"


def test_only_the_files_of_the_category_are_looked_for(tmp_path):
    root = listed(tmp_path, HEADER, "a,train,0,,,x,", "gone,train,0,,,y,")
    assert list_categories("manifest", root) == ["x", "y"]
    assert len(load_dataset("manifest", root, category="x").train) == 1
    with pytest.raises(LayoutError) as error:
        load_dataset("manifest", root, category="y")
    assert [p.message for p in error.value.problems] == [f"{root}:3: {tmp_path}/gone: no such file"]


WRONG_HEADS = [
    ("path,split,lable", ['m.csv:1: there is no column "lable"; did you mean label?'], COLUMNS_HELP),
    ("path,split,label,note", ['m.csv:1: there is no column "note"'], COLUMNS_HELP),
    ("file,split,label", ['m.csv:1: there is no column "file"', "m.csv:1: the column path is missing"], None),
    (
        "paht,label",
        ['m.csv:1: there is no column "paht"; did you mean path?', "m.csv:1: the column split is missing"],
        None,
    ),
    ("path,split,label,Path", ["m.csv:1: the column path is there twice"], None),
    (
        "path;split;label",
        ['m.csv:1: one column, "path;split;label"'],
        "A comma parts two columns: save the table anew, as CSV.",
    ),
    ("path,split,label,", ['m.csv:1: there is no column ""'], COLUMNS_HELP),
]


@pytest.mark.parametrize(("head", "expected", "help"), WRONG_HEADS, ids=[head for head, _, _ in WRONG_HEADS])
def test_a_wrong_header_is_said(tmp_path, head, expected, help):
    cells = {"path": "a", "split": "train", "label": "0"}
    row = ",".join(cells.get(name.casefold(), "") for name in head.split(","))
    found = problems(listed(tmp_path, head, row))
    assert [message for message, _ in found] == expected
    if len(expected) == 1:
        assert found[0][1] == help


def test_rows_below_an_extra_column_are_read_all_the_same(tmp_path):
    root = listed(tmp_path, "path,note,split,label", "a,x,train,0", "b,x,trian,0")
    assert messages(root) == [
        'm.csv:1: there is no column "note"',
        'm.csv:3: split "trian" is none of train, validation, test; did you mean train?',
    ]


@pytest.mark.parametrize("text", ["", "\n\n", "\ufeff", f"{HEADER}\n", f"{HEADER}\n,,,,,,\n"])
def test_an_empty_manifest_lists_no_image(tmp_path, text):
    (tmp_path / "m.csv").write_text(text, encoding="utf-8")
    assert problems(str(tmp_path / "m.csv")) == [
        ("m.csv: lists no image", "Its columns: path, split, label, defect, mask, category, group")
    ]
    (tmp_path / "m.jsonl").write_text("\n \n")
    assert messages(str(tmp_path / "m.jsonl")) == ["m.jsonl: lists no image"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b'path,split,label\na,train,0\n"b"c,train,0\n', "m.csv:3: not valid CSV: ',' expected after '\"'"),
        (b'path,split,label\na,train,0\n"b,train,0\nc,train,0\n', "m.csv:3: not valid CSV: unexpected end of data"),
        (b"path,split,label\na,train,0\n\xe4,train,0\n", "m.csv:3: not UTF-8 text (byte 0xe4)"),
        (
            b"path,split,label\n" + b"a" * 200_000 + b",train,0\n",
            "m.csv:2: not valid CSV: field larger than field limit (131072)",
        ),
        (b"path,split,label\na\0b,train,0\n", 'm.csv:2: path "a\\x00b" holds what no path can hold'),
    ],
    ids=["quote", "open quote", "latin-1", "long", "null byte"],
)
def test_a_file_that_is_no_csv_is_said(tmp_path, text, message):
    (tmp_path / "m.csv").write_bytes(text)
    touch(tmp_path, "a", "b", "c")
    assert messages(str(tmp_path / "m.csv")) == [message]


def test_lines_are_those_at_which_rows_begin(tmp_path):
    root = listed(tmp_path, HEADER, 'a,train,0,,,,"two', 'lines"', 'b,trian,0,,,,"two', 'lines"', '"c",train,3,,,,')
    assert messages(root) == [
        'm.csv:4: split "trian" is none of train, validation, test; did you mean train?',
        'm.csv:6: label "3" is none of 0, 1, -1',
    ]


WRONG_LINES = [
    ('{"path": "a"', "not valid JSON: Expecting ',' delimiter (column 13)"),
    ('["a", "train"]', "expected an object, found a list"),
    ("7", "expected an object, found an integer"),
    ('{"path": "a", "split": "train", "lable": 0}', 'there is no key "lable"; did you mean label?'),
    ('{"path": "a", "split": "train", "label": 0, "Label": 1}', "the key label is there twice"),
    ('{"path": 1, "split": "train", "label": 0}', "path: expected a string, found an integer"),
    ('{"path": {"a": 1}, "split": "train", "label": 0}', "path: expected a string, found an object"),
    ('{"split": "train", "label": 0}', "path is missing"),
    ('{"path": "a", "split": 1, "label": 0}', "split 1 is none of train, validation, test"),
    ('{"path": "a", "split": "train", "label": true}', "label true is none of 0, 1, -1"),
    ('{"path": "a", "split": "train", "label": 0.0}', "label 0.0 is none of 0, 1, -1"),
    ('{"path": "a", "split": "train", "label": [0]}', "label [0] is none of 0, 1, -1"),
    ('{"path": "a", "split": "train", "label": NaN}', "not valid JSON: NaN is no JSON value"),
    ('{"path": "a", "split": "test", "label": 1, "mask": 3}', "mask: expected a string, found an integer"),
    ('{"path": "a", "split": "test", "label": 1, "mask": ["a_mask", 3]}', "mask: expected a string, found an integer"),
    ('{"path": "a", "split": "test", "label": 1, "mask": {"a": "b"}}', "mask: expected a string, found an object"),
    ('{"path": "a", "split": "test", "label": 1, "defect": 3}', "defect: expected a string, found an integer"),
    ('{"path": "a", "split": "train", "label": 0, "group": 3.0}', "group: expected a string, found a number"),
    (
        '{"path": "a", "split": "train", "label": 0, "category": true}',
        "category: expected a string, found true or false",
    ),
    ('{"path": "a", "split": "train", "label": 0, "category": [3]}', "category: expected a string, found a list"),
    ('{"path": "\\udcff", "split": "train", "label": 0}', 'path "\\udcff" holds what no path can hold'),
    ('{"path": "a", "split": "train", "label": 0, "group": "\\ud800"}', 'group "\\ud800" holds what no text can hold'),
]


@pytest.mark.parametrize(("line", "message"), WRONG_LINES, ids=[line for line, _ in WRONG_LINES])
def test_a_wrong_line_of_json_is_said(tmp_path, line, message):
    root = listed(tmp_path, '{"path": "b", "split": "train", "label": 0}', "", line, name="m.jsonl")
    assert messages(root) == [f"m.jsonl:3: {message}"]


def test_integers_may_name_categories_and_groups_in_json(tmp_path):
    rows = [{"path": "a", "split": "train", "label": 0, "category": 5, "group": 0}]
    rows.append({"path": "b", "split": "train", "label": 0, "category": "5", "group": "-1"})
    root = listed(tmp_path, *map(json.dumps, rows), name="m.jsonl")
    assert list_categories("manifest", root) == ["5"]
    assert [s.group for s in load_dataset("manifest", root).train] == ["0", "-1"]


@pytest.mark.parametrize("word", ["unknown", "UNKNOWN", "Unknown"])
def test_unknown_in_any_case_is_not_known(tmp_path, word):
    root = listed(tmp_path, HEADER, "a,train,0,,,,", f"b,test,,{word},,,", f"c,test,-1,{word},,,")
    assert [(s.label, s.defect) for s in load_dataset("manifest", root).test] == [(-1, "unknown")] * 2


def test_spaces_of_file_names_are_kept(tmp_path):
    touch(tmp_path, " x ", "x", " m;", " m")
    root = listed(tmp_path, HEADER, " x ,train,0,,,,", "b,test,1,, m,,", "x,test,0,,,,")
    dataset = load_dataset("manifest", root)
    assert [s.relative for s in (*dataset.train, *dataset.test)] == [" x ", "b", "x"]
    assert dataset.test[0].masks == (str(tmp_path / " m"),)


def test_the_name_of_a_manifest_with_spaces_around_it_is_a_category_without(tmp_path):
    assert list_categories("manifest", listed(tmp_path, "path,split,label", "a,train,0", name=" my parts .csv")) == [
        "my parts"
    ]


def test_a_semicolon_parts_masks_in_csv_only(tmp_path):
    touch(tmp_path, "x;y")
    rows = ['{"path": "a", "split": "train", "label": 0}', '{"path": "b", "split": "test", "label": 1, "mask": "x;y"}']
    assert load_dataset("manifest", listed(tmp_path, *rows, name="m.jsonl")).test[0].masks == (str(tmp_path / "x;y"),)


def test_two_images_of_one_name_in_results_are_refused(tmp_path):
    folder = tmp_path / "lists"
    below = str(tmp_path)[1:]
    touch(tmp_path, "x.png", f"lists/{below}/x.png")
    root = listed(folder, "path,split,label", f"{tmp_path}/x.png,train,0", f"{below}/x.png,train,0")
    assert problems(root) == [
        (
            f"m.csv:3: {below}/x.png would be called {below}/x.png in results, as is {tmp_path}/x.png of line 2",
            "Move one of them, or the manifest, so that both lie below the manifest's folder.",
        )
    ]


def test_a_changed_manifest_is_read_anew(tmp_path):
    root = listed(tmp_path, "path,split,label", "a,train,0")
    assert load_dataset("manifest", root).train[0].relative == "a"
    listed(tmp_path, "path,split,label", "b,train,0")
    assert load_dataset("manifest", root).train[0].relative == "b"
    (tmp_path / "b").unlink()
    assert messages(root) == ["m.csv:2: b: no such file"]


def test_a_manifest_that_stays_is_read_once(tmp_path, monkeypatch):
    root = listed(tmp_path, "path,split,label", "a,train,0")
    content, reads = manifest._content, []
    monkeypatch.setattr(manifest, "_content", lambda file: reads.append(file) or content(file))
    for settled, expected in ((10**18, 3), (-(10**18), 4)):
        monkeypatch.setattr(base, "SETTLED_NS", settled)
        for _ in range(3):
            assert names(load_dataset("manifest", root, category="m")) == ["a"]
        assert len(reads) == expected
    listed(tmp_path, "path,split,label", "a,train,0", "b,test,0")
    assert names(load_dataset("manifest", root, category="m")) == ["a", "b"]


def test_a_category_is_found_without_a_walk_over_all_rows(tmp_path):
    root = listed(tmp_path, HEADER, *(f"{name},train,0,,,{category}," for name, category in ("ax", "by", "cz")))
    parsed = manifest._read(root)
    assert list(parsed.by_category) == ["x", "y", "z"]
    parsed.rows.clear()
    assert names(load_dataset("manifest", root, category="y")) == ["b"]
    assert manifest._read(root) is parsed


# --- writing


def written(path: Path, datasets: list[Dataset], **options: bool) -> list[Dataset]:
    """What comes back of data sets that were written."""
    count = write_manifest(str(path), datasets, **options)
    found = [load_dataset("manifest", str(path), category=c) for c in list_categories("manifest", str(path))]
    assert count == sum(len(d.train) + len(d.validation) + len(d.test) + len(d.left_out) for d in found)
    return found


def essence(dataset: Dataset) -> list[tuple[object, ...]]:
    """All that a manifest must keep of a data set, files by what they are and not by what they are called."""

    def real(path: str | None) -> str | None:
        return None if path is None else os.path.realpath(path)

    return sorted(
        (
            kind,
            real(s.path),
            s.split,
            s.label,
            s.defect,
            s.category,
            tuple(map(real, s.masks)),
            real(s.expected_mask),
            s.group or "",
        )
        for kind in ("train", "validation", "test", "left_out")
        for s in getattr(dataset, kind)
    )


@pytest.fixture
def tile(tmp_path) -> Path:
    """A category in MVTec AD's layout with a missing mask."""
    home = parts.write_category(tmp_path / "data", "tile")
    (home / "ground_truth/scratch/001_mask.png").unlink()
    return tmp_path / "data"


@pytest.mark.parametrize("name", ["m.csv", "m.jsonl", "m.NDJSON", "deep/er/m.csv", "data/manifest.csv"])
@pytest.mark.parametrize("absolute", [False, True])
def test_a_data_set_comes_back_as_it_was(tile, tmp_path, name, absolute):
    dataset = load_dataset("mvtec", str(tile))
    (found,) = written(tmp_path / name, [dataset], absolute=absolute)
    assert essence(found) == essence(dataset)
    assert len(found.missing_masks()) == 1
    assert (load_mask(found.test[2]) == load_mask(dataset.test[2])).all()
    # What is put where it was missed is found.
    parts.write(tile / "tile/ground_truth/scratch/001_mask.png", parts.scratched(201)[1])
    assert load_dataset("manifest", str(tmp_path / name)).missing_masks() == []


def test_what_is_written(tile, tmp_path):
    dataset = load_dataset("mvtec", str(tile))
    assert write_manifest(str(tile / "m.csv"), [dataset]) == 11
    lines = (tile / "m.csv").read_bytes().split(b"\n")
    assert lines[0] == b"path,split,label,defect,mask,category,group"
    assert lines[1] == b"tile/train/good/000.png,train,0,good,,tile,"
    assert lines[-3] == b"tile/test/scratch/001.png,test,1,scratch,tile/ground_truth/scratch/001_mask.png,tile,"
    assert (len(lines), lines[-1]) == (13, b"")
    write_manifest(str(tmp_path / "m.jsonl"), [dataset], absolute=True)
    first, *_, last = (tmp_path / "m.jsonl").read_text().splitlines()
    assert json.loads(first) == {
        "path": f"{tile}/tile/train/good/000.png",
        "split": "train",
        "label": 0,
        "defect": "good",
        "category": "tile",
    }
    assert json.loads(last)["mask"] == f"{tile}/tile/ground_truth/scratch/002_mask.png"


def test_the_rows_are_sorted_whatever_the_order_of_the_data_sets(tile, tmp_path):
    parts.write_category(tile, "nut", train=1, good=1, bad=1)
    both = [load_dataset("mvtec", str(tile), category=c) for c in ("tile", "nut")]
    assert len(written(tmp_path / "m.csv", both)) == 2
    write_manifest(str(tmp_path / "n.csv"), both[::-1])
    assert (tmp_path / "m.csv").read_bytes() == (tmp_path / "n.csv").read_bytes()
    paths = [line.split(",")[0] for line in (tmp_path / "m.csv").read_text().splitlines()[1:]]
    assert paths[:4] == [
        f"data/nut/{n}" for n in ("train/good/000.png", "test/good/000.png", "test/scratch/000.png")
    ] + ["data/tile/train/good/000.png"]


def test_a_manifest_may_move_with_its_images(tile, tmp_path):
    write_manifest(str(tile / "manifest.csv"), [load_dataset("mvtec", str(tile))])
    shutil.move(tile, tmp_path / "elsewhere")
    assert len(load_dataset("manifest", str(tmp_path / "elsewhere")).test) == 5


def test_links_lead_back_to_the_same_files(tile, tmp_path):
    (tmp_path / "far/away").mkdir(parents=True)
    (tmp_path / "link").symlink_to("far/away")
    (tmp_path / "way").symlink_to("far/away")
    dataset = load_dataset("mvtec", str(tile))
    (found,) = written(tmp_path / "link/m.csv", [dataset])
    assert essence(found) == essence(dataset)
    # A link to an image keeps its name, though the way to its folder does not.
    (tile / "tile/train/good/006.png").symlink_to(tmp_path / "far/seven.png")
    parts.write(tmp_path / "far/seven.png", parts.surface(7))
    dataset = load_dataset("mvtec", str(tile))
    roundabout = load_dataset("mvtec", f"{tmp_path}/way/../../data")
    for name in ("m.csv", "link/../m.csv"):
        (found,) = written(Path(f"{tmp_path}/{name}"), [roundabout])
        assert essence(found) == essence(dataset)
        assert [Path(s.path).name for s in found.train][-1] == "006.png"


texts = st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="\0"), min_size=1, max_size=8)
tricky = st.sampled_from(
    ['"', ",", '","', "\n", "\r", "\r\n", " ", " a ", "'", ";", "ä", "é\u0301", "日本", "=1", "-1", "\ufeff", "None"]
)
words = st.one_of(tricky, texts, st.lists(tricky, min_size=1, max_size=3).map("".join))
file_names = words.filter(lambda w: "/" not in w and w not in (".", "..")).map(lambda w: f"{w}.png")
bare = words.filter(lambda w: w == w.strip())
category_names = bare.filter(lambda w: manifest.is_name(w))
defects = bare.filter(lambda w: w.casefold() not in ("good", "normal", "ok"))


@st.composite
def datasets(draw, folder: Path) -> list[Dataset]:
    found = []
    for category in draw(st.lists(category_names, min_size=1, max_size=2, unique=True)):
        names = draw(st.lists(file_names, min_size=2, max_size=5, unique=True))
        made = []
        for i, name in enumerate(names):
            split = "train" if i == 0 else draw(st.sampled_from(["train", "validation", "test"]))
            label = 0 if i == 0 else draw(st.sampled_from([0, 1, -1] if split == "test" else [0, 1]))
            kinds = defects
            defect = {0: "good", -1: "unknown"}.get(label) or draw(kinds)
            group = draw(st.none() | bare)
            if group is not None:  # a part is in one split only
                group = f"{split if label == 0 else 'test'} {group}"
            masks: tuple[str, ...] = ()
            expected = None
            if label == 1:
                chosen = draw(st.lists(file_names, max_size=2, unique=True))
                masks = tuple(str(folder / f"{len(found)}/masks{i}/{mask}") for mask in chosen)
                if len(masks) == 1 and draw(st.booleans()):
                    masks, expected = (), masks[0]
            path = str(folder / f"{len(found)}/{name}")
            made.append(Sample(path, name, split, label, defect, category, masks, expected, group))
        pick = {
            s: tuple(x for x in made if x.split == s and (s == "test" or x.label == 0))
            for s in ("train", "validation", "test")
        }
        left = tuple(x for x in made if x.split != "test" and x.label == 1)
        found.append(Dataset("mvtec", category, str(folder), left_out=left, **pick))
    return found


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(data=st.data())
def test_names_labels_defects_and_groups_survive(tmp_path_factory, suffix, data):
    folder = tmp_path_factory.mktemp("written")
    given_sets = data.draw(datasets(folder))
    for sample in (s for d in given_sets for s in (*d.train, *d.validation, *d.test, *d.left_out)):
        touch(folder, *(os.path.relpath(f, folder) for f in (sample.path, *sample.masks)))
    for target in (folder / f"m{suffix}", folder / f"below/m{suffix}"):
        if suffix == ".csv" and any(
            ";" in os.path.relpath(m, target.parent)
            for d in given_sets
            for s in (*d.test, *d.left_out)
            for m in (*s.masks, s.expected_mask or "-")
        ):
            with pytest.raises(DataError, match="cannot hold ';', which parts masks"):
                write_manifest(str(target), given_sets)
            assert not target.exists()
            continue
        found = written(target, given_sets)
        assert [essence(d) for d in found] == [
            essence(d) for d in sorted(given_sets, key=lambda d: d.category.encode())
        ]


def test_a_name_that_the_format_cannot_hold_is_said(tmp_path):
    def dataset(**changes: object) -> Dataset:
        facts = {"path": "a.png", "relative": "a.png", "split": "train", "label": 0, "defect": "good", "category": "c"}
        return Dataset("mvtec", "c", ".", train=(Sample(**{**facts, **changes}),), validation=(), test=())

    target = str(tmp_path / "m.csv")
    with pytest.raises(DataError) as error:
        write_manifest(target, [dataset(path=f"{tmp_path}/caf\udce9.png")])
    assert (error.value.message, error.value.help) == (
        f'{tmp_path}/caf\udce9.png: "caf\\udce9.png" is not UTF-8, as a manifest must be',
        "Rename it, or its folder.",
    )
    with pytest.raises(DataError, match=r'^a\.png: "\\udce9" is not UTF-8, as a manifest must be$'):
        write_manifest(target, [dataset(label=1, defect="\udce9")])
    for changes, message, advice in (
        (
            {"label": 1, "defect": " x"},
            'a.png: defect " x" has white space around it, which no manifest may hold',
            "Rename it, or its folder.",
        ),
        (
            {"category": "c "},
            'a.png: category "c " has white space around it, which no manifest may hold',
            "Rename it, or its folder.",
        ),
        (
            {"group": "\tg"},
            'a.png: group "\\tg" has white space around it, which no manifest may hold',
            "Rename it, or its folder.",
        ),
        (
            {"label": 1, "defect": "Good"},
            'a.png: an anomalous image, and its defect "Good" sounds like a normal one',
            "Rename the folder: a manifest cannot say so.",
        ),
    ):
        with pytest.raises(DataError) as error:
            write_manifest(target, [dataset(**changes)])
        assert (error.value.message, error.value.help) == (message, advice)
    parted = dataset(label=1, defect="x", masks=(f"{tmp_path}/a;b.png",))
    with pytest.raises(DataError) as error:
        write_manifest(target, [parted])
    assert (error.value.message, error.value.help) == (
        "a;b.png: a mask's name in a CSV manifest cannot hold ';', which parts masks",
        "Write the manifest as JSON lines: a name that ends with .jsonl.",
    )
    assert not Path(target).exists()
    assert write_manifest(str(tmp_path / "m.jsonl"), [parted]) == 1


def test_nothing_that_was_read_is_written_over(tile, tmp_path):
    dataset = load_dataset("mvtec", str(tile))
    with pytest.raises(SpecError, match=r"^m\.txt: expected a name that ends with \.csv, \.jsonl or \.ndjson$"):
        write_manifest("m.txt", [dataset])
    write_manifest(str(tmp_path / "manifest.csv"), [dataset])
    before = (tmp_path / "manifest.csv").read_bytes()
    (tmp_path / "other.csv").symlink_to("manifest.csv")
    for root in (tmp_path, tmp_path / "manifest.csv"):
        again = load_dataset("manifest", str(root))
        for target in ("manifest.csv", "other.csv", "data/../manifest.csv"):
            with pytest.raises(DataError) as error:
                write_manifest(f"{tmp_path}/{target}", [again])
            assert error.value.message == f"{tmp_path}/{target}: is the manifest that was read"
    for kept in ("test/scratch/000.png", "ground_truth/scratch/000_mask.png"):
        link = tmp_path / f"{Path(kept).stem}.csv"
        link.symlink_to(tile / "tile" / kept)
        with pytest.raises(DataError) as error:
            write_manifest(str(link), [dataset])
        assert (error.value.message, error.value.help) == (
            f"{link}: is a file of the data set, {tile}/tile/{kept}",
            "Name another file.",
        )
    assert (tmp_path / "manifest.csv").read_bytes() == before
    write_manifest(str(tmp_path / "new.csv"), [dataset])
    write_manifest(str(tmp_path / "new.csv"), [dataset])
    assert sorted(p.name for p in tmp_path.iterdir() if p.name.startswith(".")) == []


def test_where_is_all_that_a_loader_needs(gear):
    assert manifest.load(Where(str(gear)), "nut").train[0].relative == "n.png"


# --- in the program


@pytest.fixture
def benched(uadctl, one_category, tmp_path) -> str:
    uadctl("datasets", "check", "mvtec", "--root", one_category, "--write-manifest", "lists/m.csv")
    return "lists/m.csv"


def test_check_writes_a_manifest(uadctl, one_category, tmp_path):
    ended = uadctl("datasets", "check", "mvtec", "--root", "data", "--write-manifest", "lists/m.csv")
    assert ended.out.splitlines()[-2:] == [
        "1 category, 11 images: 0 errors, 0 warnings",
        "manifest: lists/m.csv, 11 images",
    ]
    assert ended.err == ""
    found = load_dataset("manifest", "lists/m.csv", category="tile")
    assert essence(found) == essence(load_dataset("mvtec", "data"))
    ended = uadctl("datasets", "check", "mvtec", "--root", "data", "--write-manifest", "m.jsonl", "--json")
    assert ended.json["ok"] is True
    checked = uadctl("datasets", "check", "manifest", "--root", "m.jsonl", "--json").json
    assert (checked["dataset"], checked["root"]) == ("manifest", "m.jsonl")
    assert checked["categories"] == ended.json["categories"]


def test_check_writes_with_warnings_and_from_a_spec_and_not_with_errors(uadctl, one_category, tmp_path):
    parts.write_category(one_category, "nut", train=2, good=1, bad=1)
    shutil.copy(one_category / "nut/train/good/000.png", one_category / "nut/train/good/009.png")
    Path("s.toml").write_text(
        '[dataset]\nname = "mvtec"\nroot = "data"\ncategories = "nut"\nlimit_train = 1\n[model]\nname = "patchcore"\n'
    )
    ended = uadctl("datasets", "check", "s.toml", "--write-manifest", "m.csv")
    assert "warning: " in ended.err
    assert (list_categories("manifest", "m.csv"), len(load_dataset("manifest", "m.csv").train)) == (["nut"], 3)
    old = Path("m.csv").read_bytes()
    (one_category / "nut/ground_truth/scratch/000_mask.png").write_bytes(b"")
    words = ("datasets", "check", "mvtec", "--root", "data", "--write-manifest", "m.csv")
    ended = uadctl(*words, "--force", code=2)
    assert ended.err.splitlines()[-1] == "error: --write-manifest m.csv: nothing was written, for there are errors"
    assert Path("m.csv").read_bytes() == old
    assert not Path("data/m.csv").exists()
    assert uadctl(*words, code=2).err == "error: --write-manifest m.csv: exists\n  Give --force to replace it.\n"
    uadctl(*words, "--category", "tile", "--force")
    assert list_categories("manifest", "m.csv") == ["tile"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["mvtec", "--write-manifest", "m.txt"],
            "error: --write-manifest m.txt: expected a name that ends with .csv, .jsonl or .ndjson\n",
        ),
        (
            ["mvtec", "--write-manifest", "d.csv"],
            "error: --write-manifest d.csv: is a folder, expected a file to write\n",
        ),
        (["mvtec", "--layout", "flat"], "error: mvtec has no layout 'flat'; it has but one\n"),
        (["mvtec", "--force"], "error: --force: has no effect without --write-manifest\n"),
        (
            ["mvtec", "--write-manifest", "old.csv"],
            "error: --write-manifest old.csv: exists\n  Give --force to replace it.\n",
        ),
        (
            ["mvtec", "--write-manifest", "dangling.csv"],
            "error: --write-manifest dangling.csv: exists\n  Give --force to replace it.\n",
        ),
        (
            ["mvtec", "--write-manifest", "data/notes.csv", "--force"],
            "error: --write-manifest data/notes.csv: exists, and lies below the root of the data set\n"
            "  Name another file, or remove it.\n",
        ),
        (
            ["mvtec", "--write-manifest", "lists/manifest.jsonl", "--force"],
            "error: --write-manifest lists/manifest.jsonl: lists holds Manifest.CSV already, and could no longer be "
            "given as a root\n  Name another file, or remove the other manifest.\n",
        ),
        (
            ["mvtec", "--write-manifest", "m.csv"],
            "error: a;b.png: a mask's name in a CSV manifest cannot hold ';', which parts masks\n"
            "  Write the manifest as JSON lines: a name that ends with .jsonl.\n",
        ),
    ],
)
def test_what_cannot_be_written_or_read_is_said_before_images_are_read(
    uadctl, one_category, monkeypatch, words, message
):
    Path("d.csv").mkdir()
    Path("dangling.csv").symlink_to("nowhere")
    touch(Path(), "old.csv", "data/notes.csv", "lists/Manifest.CSV")
    monkeypatch.setattr("uadctl.check._look", None)
    if "m.csv" in words:
        found = load_dataset("mvtec", "data")
        parted = Sample("x", "x", "test", 1, "dent", "tile", masks=("a;b.png",))
        monkeypatch.setattr("uadctl.plan.load_category", lambda table, category: replace(found, test=(parted,)))
    assert uadctl("datasets", "check", *words, "--root", "data", code=2).err == message


def test_check_does_not_write_over_what_it_reads(uadctl, benched):
    words = ("datasets", "check", "manifest", "--root", benched, "--write-manifest", benched)
    assert uadctl(*words, code=2).err == (
        "error: --write-manifest lists/m.csv: is the same file as the root of the data set\n  Name another file.\n"
    )
    assert uadctl("datasets", "check", benched, code=2).err == (
        "error: lists/m.csv: is no spec\n  A manifest is given as: manifest --root lists/m.csv\n"
    )


def test_what_a_manifest_loses_is_said(uadctl, one_category, monkeypatch):
    found = replace(load_dataset("mvtec", "data"), defects=(DefectConfig("scratch", 255, 1.0, True),))
    monkeypatch.setattr("uadctl.plan.load_category", lambda table, category: found)
    monkeypatch.setattr("uadctl.split.load_category", lambda table, category: found)
    said = "warning: m.csv: sPRO cannot be measured from a manifest, which has no place for defects_config.json\n"
    for words in (("check", "mvtec", "--write-manifest"), ("split", "mvtec", "--out")):
        for quiet in ([], ["--quiet"]):
            ended = uadctl("datasets", *words, "m.csv", "--root", "data", "--force", *quiet)
            assert ended.err == ("" if quiet else said)


def test_what_is_mended_while_the_images_are_read_is_written(uadctl, one_category, monkeypatch):
    def broken_once(table, category):
        monkeypatch.undo()
        monkeypatch.chdir(one_category.parent)
        raise DataError("a folder is gone")

    monkeypatch.setattr("uadctl.plan.load_category", broken_once)
    uadctl("datasets", "check", "mvtec", "--root", "data", "--write-manifest", "m.csv")
    assert len(load_dataset("manifest", "m.csv").test) == 5


def test_another_layout_of_a_spec_is_called_by_its_option(uadctl, one_category):
    Path("s.toml").write_text('[dataset]\nname = "visa"\nroot = "data"\n[model]\nname = "patchcore"\n')
    ended = uadctl("datasets", "check", "s.toml", "--layout", "flat", code=2)
    assert ended.err.startswith("error: --layout flat: visa has no such layout, expected ")
    assert "--set" not in ended.err
    assert "data holds no " in uadctl("datasets", "check", "s.toml", "--layout", "original", code=2).err


def test_every_problem_of_a_manifest_is_said_once(uadctl, one_category, tmp_path):
    rows = [f"data/tile/train/good/00{i}.png,train,0,{'xy'[i % 2]}" for i in range(4)]
    Path("m.csv").write_text("\n".join(["path,split,label,category", *rows, "gone,test,0,x", "lost,test,0,y"]))
    ended = uadctl("datasets", "check", "manifest", "--root", "m.csv", code=2)
    assert ended.err == "error: m.csv:6: gone: no such file\nerror: m.csv:7: lost: no such file\n"
    Path("m.csv").write_text("\n".join(["path,split,label,category", *rows, "gone,tset,0,x", "lost,test,0,y"]))
    ended = uadctl("datasets", "check", "manifest", "--root", "m.csv", code=2)
    assert len(ended.err.splitlines()) == 3


def test_a_bench_of_a_manifest_is_the_bench_of_its_images(uadctl, one_category, small, benched):
    by_layout = uadctl("bench", *small, "--json").json
    words = ["--dataset", "manifest", "--root", benched, "--model", "vision_patchcore", "--set", "preprocess.size=64"]
    by_list = uadctl("bench", *words, "--json").json
    assert by_list["results"] == by_layout["results"]
    plan = uadctl("bench", *words, "--dry-run", "--json").json
    assert (plan["units"][0]["train"], plan["units"][0]["test_defect"]) == (6, 3)
    resumed = uadctl("bench", *words, "--resume", code=2)
    assert "no unfinished run" in resumed.err or "nothing to resume" in resumed.err
    # Images that were learned are refused for calibration, though the root is no folder.
    learned = one_category / "tile/train/good/000.png"
    ended = uadctl("calibrate", by_list["run"], "--good", learned, code=2)
    assert f"{learned}: is a training image of this run" in ended.err


def test_a_spec_takes_a_manifest_beside_it(uadctl, benched):
    Path("lists/s.toml").write_text(
        '[dataset]\nname = "manifest"\nroot = "m.csv"\n[preprocess]\nsize = 64\n[model]\nname = "patchcore"\n'
    )
    assert uadctl("datasets", "check", "lists/s.toml", "--json").json["ok"] is True
    found = uadctl("fit", "lists/s.toml", "--json").json
    assert [(u["category"], u["status"]) for u in found["units"]] == [("tile", "done")]


# --- groups set the threshold with care


def views_of_parts(folder: Path, n_parts: int) -> Path:
    rows = ["path,split,defect,group"]
    for i in range(2 * n_parts):
        parts.write(folder / f"{i:02}.png", parts.surface(i))
        rows.append(f"{i:02}.png,train,good,part {i // 2}")
    parts.write(folder / "ok.png", parts.surface(900))
    parts.write(folder / "bad.png", parts.scratched(901)[0])
    rows += ["ok.png,test,good,part a", "bad.png,test,scratch,part b"]
    return put_manifest(folder / "views.csv", rows)


def put_manifest(file: Path, rows: list[str]) -> Path:
    file.write_text("\n".join(rows) + "\n", encoding="utf-8")
    return file


SMALL = ("--model", "patchcore", "--set", "preprocess.size=64", "--json")


def thresholds_of(run: str) -> dict:
    return json.loads(Path(run, "units/views/vision_patchcore/0/thresholds.json").read_text())


def test_the_threshold_of_grouped_images_comes_from_parts_that_the_model_has_not_seen(uadctl, tmp_path):
    file = views_of_parts(tmp_path, 10)
    ended = uadctl("bench", "--dataset", "manifest", "--root", file, *SMALL)
    image = thresholds_of(ended.json["run"])["image"]
    assert (image["source"], image["n"]) == ("holdout", 4)
    cell = ended.json["results"]["views"]["vision_patchcore"]["0"]
    assert cell["counts"]["train_images"] == 16
    assert cell["counts"]["groups"] == 2
    assert "too low" not in ended.err


def test_a_threshold_from_parts_that_the_model_knows_is_said_to_be_too_low(uadctl, tmp_path):
    file = views_of_parts(tmp_path, 3)
    ended = uadctl("bench", "--dataset", "manifest", "--root", file, *SMALL)
    image = thresholds_of(ended.json["run"])["image"]
    assert (image["source"], image["n"]) == ("leave-one-out", 6)
    assert ended.err == (
        "warning: views · vision_patchcore: the threshold comes from images of parts that the model knows from other "
        "images, and is too low: at least 20 training images of several parts, or validation images, would mend that\n"
    )


def test_a_holdout_that_would_take_every_part_is_found_before_a_bench(uadctl, tmp_path):
    file = views_of_parts(tmp_path, 1)
    (tmp_path / "s.toml").write_text(
        f'[dataset]\nname = "manifest"\nroot = "{file}"\n[model]\nname = "patchcore"\n[calibration]\nholdout = 0.5\n'
    )
    said = "[calibration] holdout = 0.5 of 2 training images in 1 group leaves none to learn from"
    assert f"error: views: {said}\n" in uadctl("datasets", "check", "s.toml", code=2).err
    assert said in uadctl("bench", "s.toml", code=1).err


def test_files_that_lie_elsewhere_are_told_where_they_are(uadctl, tmp_path):
    photos, lists = tmp_path / "photos", tmp_path / "lists"
    lists.mkdir()
    parts.write_category(photos, "bolt", train=3, good=1, bad=1)
    rows = [f"../photos/bolt/train/good/{i:03}.png,train,0" for i in range(3)]
    (lists / "m.csv").write_text("\n".join(["path,split,label", *rows, "../photos/bolt/test/good/000.png,test,0", ""]))
    ended = uadctl("datasets", "check", "manifest", "--root", str(lists / "m.csv"), "--json")
    first = photos / "bolt" / "train" / "good" / "000.png"
    assert [note["help"] for note in ended.json["notes"]] == [None]
    said = ended.json["notes"][0]["message"]
    assert ": 4 files lie outside of " in said
    assert said.endswith(str(first))
    assert f"note: {said}\n" in ended.err
    inside = uadctl("datasets", "check", "mvtec", "--root", str(photos), "--json")
    assert inside.json["notes"] == []
