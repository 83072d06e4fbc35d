"""Real-IAD: what its JSON files say, parts seen from five sides, and what is said where something is wrong."""

from __future__ import annotations

import csv
import json
import os
import re
import shlex
import shutil
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import parts
import pytest
import trees_real_iad as trees
from parts import mask_sums, relatives
from parts import message as said

from uadctl import metrics as m
from uadctl.datasets import list_categories, load_dataset, load_mask, real_iad, recognise
from uadctl.datasets.base import LayoutError, NoLayout
from uadctl.errors import DataError
from uadctl.records import Sample
from uadctl.spec import DATASETS, PROTOCOLS
from uadctl.spec.values import shown

Value = dict[str, Any]
AS_PUBLISHED = "realiad_jsons.zip holds these files as they should be, and an archive for each category its images."
OF_JSONS = "It is part of realiad_jsons.zip, which comes with the images."
UNPACKED = "Give the folder that holds realiad_1024 (or realiad_512, realiad_256, realiad_raw) and realiad_jsons."


def fails(root: Path | str, category: str | None = None, **options: str) -> tuple[str, str | None]:
    """What is said of a data set that cannot be listed, or of a category that cannot be loaded."""
    asked: Callable[[], object] = partial(list_categories, "real_iad", str(root), **options)
    if category is not None:
        asked = partial(load_dataset, "real_iad", str(root), category=category, **options)
    with pytest.raises(DataError) as error:
        asked()
    return said(error)


def change(root: Path, how: Callable[[Value], object], category: str = "audiojack") -> Path:
    return trees.changed(root / f"realiad_jsons/{category}.json", how)


# --- what is read


def test_all_views_are_read_as_the_json_file_says(tmp_path: Path) -> None:
    root = trees.real_iad(tmp_path)
    home = root / "realiad_1024/audiojack"
    assert list_categories("real_iad", str(root)) == ["audiojack", "toy_brick"]
    dataset = load_dataset("real_iad", str(root), category="audiojack")
    assert (dataset.name, dataset.category, dataset.root) == ("real_iad", "audiojack", str(root))
    assert (dataset.validation, dataset.left_out, dataset.notes, dataset.problems()) == ((), (), (), [])
    assert relatives(dataset.train) == [
        f"OK/S{n:04}/audiojack__{n:04}_OK_C{view}_20231023{view:02}2610.jpg" for n in (1, 2, 3) for view in range(1, 6)
    ]
    assert {(s.split, s.label, s.defect, s.category, s.masks) for s in dataset.train} == {
        ("train", 0, "good", "audiojack", ())
    }
    assert [s.group for s in dataset.train] == [f"OK/S{n:04}" for n in (1, 2, 3) for _ in range(5)]
    assert [s.path for s in dataset.train] == [str(home / s.relative) for s in dataset.train]
    assert relatives(dataset.test) == sorted(relatives(dataset.test), key=os.fsencode)
    seen = [(s.group, s.defect, s.label, s.masks, s.expected_mask) for s in dataset.test[:5]]
    name = "NG/HS/S0064/audiojack__0064_NG_HS_C{0}_20231023{0:02}2610.png"
    assert seen == [
        ("NG/HS/S0064", "HS", 1, (f"{home}/{name.format(1)}",), None),
        ("NG/HS/S0064", "HS", 1, (f"{home}/{name.format(2)}",), None),
        ("NG/HS/S0064", "good", 0, (), None),
        ("NG/HS/S0064", "HS", 1, (f"{home}/{name.format(4)}",), None),
        ("NG/HS/S0064", "good", 0, (), None),
    ]
    assert {s.split for s in dataset.test} == {"test"}
    assert mask_sums(dataset) == [96, 96, 0, 96, 0] * 3 + [0] * 20
    _, labels, masks = dataset.get_test_paths()
    assert labels.tolist() == [1, 1, 0, 1, 0] * 3 + [0] * 20
    assert masks is not None
    assert {mask.shape for mask in masks if mask is not None} == {trees.SIZE}
    assert {s.group for s in dataset.test} == {
        "NG/HS/S0064", "NG/HS/S0071", "NG/QS/S0001", "OK/S0004", "OK/S0005", "OK/S0006", "OK/S0007"
    }  # fmt: skip


@pytest.mark.parametrize("jsons", ["", "realiad_jsons"])
def test_the_single_view_is_the_first_and_has_no_groups_wherever_its_file_lies(tmp_path: Path, jsons: str) -> None:
    root = trees.real_iad(tmp_path, layout="512", jsons=jsons)
    dataset = load_dataset("real_iad", str(root), category="toy_brick", split="single_view")
    assert relatives(dataset.train) == [f"OK/S{n:04}/toy_brick_{n:04}_OK_C1_20231023012610.jpg" for n in (1, 2, 3)]
    assert [(s.relative, s.defect) for s in dataset.test] == [
        ("NG/HS/S0064/toy_brick_0064_NG_HS_C1_20231023012610.jpg", "HS"),
        ("NG/HS/S0071/toy_brick_0071_NG_HS_C1_20231023012610.jpg", "HS"),
        ("NG/QS/S0001/toy_brick_0001_NG_QS_C1_20231023012610.jpg", "QS"),
        *((f"OK/S{n:04}/toy_brick_{n:04}_OK_C1_20231023012610.jpg", "good") for n in (4, 5, 6, 7)),
    ]
    assert {s.group for s in (*dataset.train, *dataset.test)} == {None}
    assert dataset.train[0].path.startswith(f"{root}/realiad_512/toy_brick/OK/")
    assert len(load_dataset("real_iad", str(root), category="toy_brick").train) == 15


def test_what_is_good_is_said_by_the_entry_and_by_what_the_file_calls_good(tmp_path: Path) -> None:
    root = trees.real_iad(tmp_path)

    def rename(value: Value) -> None:
        value["meta"]["normal_class"] = "fine"
        for side in ("train", "test"):
            for one in value[side]:
                one["anomaly_class"] = {"OK": "fine"}.get(one["anomaly_class"], one["anomaly_class"])

    change(root, rename)
    dataset = load_dataset("real_iad", str(root), category="audiojack")
    assert [s.defect for s in dataset.test] == ["HS", "HS", "good", "HS", "good"] * 2 + [
        *("QS", "QS", "good", "QS", "good"), *["good"] * 20
    ]  # fmt: skip
    assert (len(dataset.train), {s.label for s in dataset.train}) == (15, {0})


def test_nothing_is_decoded_and_files_are_found_by_listing_folders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = trees.real_iad(tmp_path)
    for file in (root / "realiad_1024").rglob("*.*"):
        file.write_bytes(b"no image")
    looked_at = []
    stat = os.stat
    monkeypatch.setattr(os, "stat", lambda path, **more: (looked_at.append(path), stat(path, **more))[1])
    dataset = load_dataset("real_iad", str(root), category="audiojack")
    assert (len(dataset.train), len(dataset.test)) == (15, 35)
    assert len(looked_at) > 5
    assert not [path for path in looked_at if str(path).endswith((".jpg", ".png"))]


def test_no_json_file_is_read_to_list_the_categories(tmp_path: Path) -> None:
    root = trees.real_iad(tmp_path)
    for file in (root / "realiad_jsons").iterdir():
        file.write_text("{")
    (root / "realiad_1024/notes").mkdir()
    (root / "realiad_1024/tape/NG").mkdir(parents=True)
    (root / "realiad_jsons/.hidden.json").write_text("{")
    (root / "realiad_jsons/README.txt").write_text("")
    (root / "realiad_jsons/zipper.JSON").write_text("{")
    assert list_categories("real_iad", str(root)) == ["audiojack", "tape", "toy_brick", "zipper"]


def test_any_suffix_of_a_file_counts_in_any_case(tmp_path: Path) -> None:
    root = trees.real_iad(tmp_path)
    image = root / "realiad_1024/audiojack/NG/QS/S0001/audiojack__0001_NG_QS_C1_20231023012610.jpg"
    image.rename(image.with_suffix(".JPG"))
    image.with_suffix(".png").rename(image.with_suffix(".PNG"))
    dataset = load_dataset("real_iad", str(root), category="audiojack")
    sample = next(s for s in dataset.test if s.group == "NG/QS/S0001")
    assert sample.path == str(image.with_suffix(".JPG"))
    assert sample.relative == "NG/QS/S0001/audiojack__0001_NG_QS_C1_20231023012610.JPG"
    assert sample.masks == (str(image.with_suffix(".PNG")),)
    # Two files that differ by that alone are told apart by their names.
    trees.picture(image)
    dataset = load_dataset("real_iad", str(root), category="audiojack")
    assert next(s for s in dataset.test if s.group == "NG/QS/S0001").path == str(image)
    image.rename(image.with_suffix(".Jpg"))
    assert fails(root, "audiojack") == (f"{image}: no such file", AS_PUBLISHED)


# --- masks


def test_a_mask_is_the_file_that_the_entry_names(tmp_path: Path) -> None:
    root = trees.real_iad(tmp_path)
    image = root / "realiad_1024/audiojack/NG/QS/S0001/audiojack__0001_NG_QS_C1_20231023012610.jpg"
    named = trees.mask(image.with_name(f"{image.stem}_mask.png"), value=1)

    def rename(value: Value) -> None:
        one = next(one for one in value["test"] if one["image_path"].endswith(image.name))
        one["mask_path"] = f"./NG/QS//S0001/{named.name}"

    change(root, rename)
    dataset = load_dataset("real_iad", str(root), category="audiojack")
    sample = next(s for s in dataset.test if s.path == str(image))
    assert (sample.masks, sample.expected_mask) == ((str(named),), None)
    mask = load_mask(sample)
    assert mask is not None
    assert (mask.sum(), mask.max()) == (96, 1)
    named.unlink()
    sample = next(s for s in load_dataset("real_iad", str(root), category="audiojack").test if s.path == str(image))
    assert (sample.masks, sample.expected_mask, load_mask(sample)) == ((), str(named), None)


@pytest.mark.parametrize("named", [None, "", "left out"])
def test_a_defect_without_mask_is_never_taken_for_a_good_image(tmp_path: Path, named: str | None) -> None:
    root = trees.real_iad(tmp_path)
    image = root / "realiad_1024/audiojack/NG/QS/S0001/audiojack__0001_NG_QS_C1_20231023012610.jpg"

    def forget(value: Value) -> None:
        one = next(one for one in value["test"] if one["image_path"].endswith(image.name))
        one["mask_path"] = named
        if named == "left out":
            del one["mask_path"]

    change(root, forget)

    def sample() -> Sample:
        return next(s for s in load_dataset("real_iad", str(root), category="audiojack").test if s.path == str(image))

    # Where the data set keeps its masks there is one.
    assert (sample().label, sample().masks) == (1, (str(image.with_suffix(".png")),))
    image.with_suffix(".png").unlink()
    assert (sample().label, sample().defect, sample().masks) == (1, "QS", ())
    assert sample().expected_mask == str(image.with_suffix(".png"))
    assert load_mask(sample()) is None
    dataset = load_dataset("real_iad", str(root), category="audiojack")
    assert dataset.problems() == [f"{image}: no mask at {image.with_suffix('.png')}"]
    assert mask_sums(dataset) == [*[96, 96, 0, 96, 0] * 2, None, 96, 0, 96, 0, *[0] * 20]


# --- parts on both sides, and defects that would be learned


def test_defects_among_the_training_images_are_left_out(tmp_path: Path) -> None:
    root = trees.real_iad(tmp_path)
    change(root, lambda value: value["train"].extend(trees.taken(value["test"], "NG/QS/S0001/", (1, 2, 3, 4, 5))))
    dataset = load_dataset("real_iad", str(root), category="audiojack")
    assert [(s.relative[:13], s.split, s.defect, len(s.masks)) for s in dataset.left_out] == [
        ("NG/QS/S0001/a", "train", "QS", 1)
    ] * 3
    assert [s.relative.rpartition("_")[0][-2:] for s in dataset.left_out] == ["C1", "C2", "C4"]
    assert [s.relative.rpartition("_")[0][-2:] for s in dataset.train[:2]] == ["C3", "C5"]
    assert {s.label for s in dataset.train} == {0}
    # The part is whole on one side.
    assert dataset.notes == ()


def test_parts_with_views_on_both_sides_are_told(tmp_path: Path) -> None:
    root = trees.real_iad(tmp_path)

    def told(part: str, *views: int) -> str | None:
        change(root, lambda value: value["train"].extend(trees.taken(value["test"], part, views)))
        return load_dataset("real_iad", str(root), category="audiojack").told_shared_parts()

    # A defect is not learned from.
    assert told("NG/HS/S0071/", 1) is None
    said = told("NG/QS/S0001/", 3)
    assert said is not None
    assert said.startswith("audiojack: 1 part is in two splits, the first is NG/QS/S0001: ")
    said = told("NG/HS/S0064/", 3, 5)
    assert said is not None
    assert said.startswith("audiojack: 2 parts are in two splits, the first is NG/HS/S0064: ")
    # In the single view no image has a group.
    single = root / "realiad_jsons_sv/audiojack.json"
    trees.changed(single, lambda value: value.update(json.loads((root / "realiad_jsons/audiojack.json").read_text())))
    dataset = load_dataset("real_iad", str(root), category="audiojack", split="single_view")
    assert dataset.told_shared_parts() is None


# --- where it lies


def test_of_several_layouts_one_is_to_be_named(tmp_path: Path) -> None:
    root = trees.real_iad(tmp_path, ("toy_brick",))
    for layout in ("256", "raw"):
        shutil.copytree(root / "realiad_1024", root / f"realiad_{layout}")
    (root / "realiad_2048").mkdir()
    assert fails(root) == (
        f"{root} holds Real-IAD in 3 layouts: 1024 in {root}/realiad_1024, 256 in {root}/realiad_256, "
        f"raw in {root}/realiad_raw",
        'Set [dataset] layout = "1024" or "256" or "raw"; without a spec: bench --set \'dataset.layout="1024"\', '
        "datasets check --layout 1024",
    )
    for layout in ("1024", "256", "raw"):
        dataset = load_dataset("real_iad", str(root), category="toy_brick", layout=layout)
        assert dataset.train[0].path.startswith(f"{root}/realiad_{layout}/toy_brick/OK/S0001/")
    assert fails(root, "toy_brick", layout="512") == (
        f"{root}/realiad_512: no such folder",
        "It has the layouts 1024, 256, raw.",
    )
    shutil.rmtree(root / "realiad_1024")
    shutil.rmtree(root / "realiad_raw")
    assert fails(root, layout="512")[1] == "It has the layout 256: leave [dataset] layout out."
    assert load_dataset("real_iad", str(root)).train[0].path.startswith(f"{root}/realiad_256/")
    assert fails(root, layout="2048")[0].startswith("real_iad has no layout '2048'")


def test_the_command_that_a_message_gives_names_the_layout(uadctl: Any, tmp_path: Path) -> None:
    root = trees.real_iad(tmp_path / "tree", ("toy_brick",))
    shutil.copytree(root / "realiad_1024", root / "realiad_512")
    words = ["--dataset", "real_iad", "--root", root, "--model", "patchcore", "--dry-run"]
    told = fails(root)[1]
    assert told is not None
    bench, check = told.partition("without a spec: ")[2].split(", ")
    # As a shell would take them.
    command, *options = shlex.split(bench)
    assert told in uadctl(command, *words, code=2).err
    assert uadctl(command, *words, *options).code == 0
    datasets, command, *options = shlex.split(check)
    words = ["real_iad", "--root", root]
    assert told in uadctl(datasets, command, *words, code=2).err
    assert uadctl(datasets, command, *words, *options).code == 0


@pytest.mark.parametrize(
    ("wrong", "place"),
    [
        ("Realiad_1024", "realiad_1024"),
        ("Realiad_Jsons", "realiad_jsons"),
        ("realiad_1024/Audiojack", "realiad_1024/audiojack"),
    ],
)
def test_a_folder_in_another_case_is_named(tmp_path: Path, wrong: str, place: str) -> None:
    root = trees.real_iad(tmp_path)
    (root / place).rename(root / wrong)
    name = place.rpartition("/")[2]
    assert fails(root, "audiojack") == (
        f"{root}/{place}: no such folder; there is {root}/{wrong}",
        f"Case counts in the names of folders: rename it to {name}.",
    )
    assert real_iad.recognises(str(root))


@pytest.mark.parametrize(
    ("right", "other"),
    [
        ("realiad_1024", "Realiad_1024"),
        ("realiad_jsons", "Realiad_jsons"),
        ("realiad_1024/audiojack", "realiad_1024/Audiojack"),
        ("realiad_jsons/audiojack.json", "realiad_jsons/audiojack.JSON"),
        ("realiad_jsons/audiojack.json", "realiad_jsons/Audiojack.json"),
    ],
)
def test_a_folder_or_file_in_two_cases_is_refused(tmp_path: Path, right: str, other: str) -> None:
    root = trees.real_iad(tmp_path)
    (shutil.copytree if (root / right).is_dir() else shutil.copy)(root / right, root / other)
    told = (
        f"{root}/{right} and {root}/{other} differ in case alone",
        f"Case counts in names: keep one of them, as {right.rpartition('/')[2]}.",
    )
    assert fails(root, "audiojack") == told
    if other.endswith("Audiojack"):  # but the other category can be read
        assert len(load_dataset("real_iad", str(root), category="toy_brick").train) == 15
    else:
        assert fails(root) == told


@pytest.mark.parametrize("other", ["Realiad_jsons", "realiad_jsons/Realiad_jsons_sv"])
def test_a_deeper_folder_in_two_cases_is_refused(tmp_path: Path, other: str) -> None:
    root = trees.unpacked(tmp_path)
    shutil.copytree(root / "realiad_jsons/realiad_jsons_sv", root / other)
    right = other.replace("R", "r")
    assert fails(root, split="single_view")[0] == f"{root}/{right} and {root}/{other} differ in case alone"


@pytest.mark.parametrize(
    ("place", "other"),
    [("OK", "ok"), ("NG", "Ng"), ("NG/HS", "hs"), ("OK/S0003", "s0003")],
)
def test_a_folder_of_a_category_in_another_case_is_named_once(tmp_path: Path, place: str, other: str) -> None:
    root = trees.real_iad(tmp_path)
    home = root / "realiad_1024/audiojack"
    (home / place).rename((home / place).with_name(other))
    assert fails(root, "audiojack") == (
        f"{home / place}: no such folder; there is {(home / place).with_name(other)}",
        f"Case counts in the names of folders: rename it to {place.rpartition('/')[2]}.",
    )


def test_all_folders_of_a_category_in_another_case_are_named_beside_images_that_are_not_there(tmp_path: Path) -> None:
    root = trees.real_iad(tmp_path)
    home = root / "realiad_1024/audiojack"
    (home / "OK").rename(home / "Ok")
    (home / "NG/HS").rename(home / "NG/Hs")
    shutil.rmtree(home / "NG/QS/S0001")
    with pytest.raises(LayoutError) as error:
        load_dataset("real_iad", str(root), category="audiojack")
    assert [(problem.message, problem.help) for problem in error.value.problems][:2] == [
        (f"{home}/OK: no such folder; there is {home}/Ok", "Case counts in the names of folders: rename it to OK."),
        (
            f"{home}/NG/HS: no such folder; there is {home}/NG/Hs",
            "Case counts in the names of folders: rename it to HS.",
        ),
    ]
    name = "NG/QS/S0001/audiojack__0001_NG_QS_C{0}_20231023{0:02}2610.jpg"
    assert [(problem.message, problem.help) for problem in error.value.problems][2:] == [
        (f"{home}/{name.format(n)}: no such file", AS_PUBLISHED if n == 5 else None) for n in range(1, 6)
    ]


@pytest.mark.parametrize("category", ["audiojack", "Audiojack"])
def test_a_json_file_in_another_case_than_its_images_is_named(tmp_path: Path, category: str) -> None:
    root = trees.real_iad(tmp_path)
    (root / "realiad_jsons/audiojack.json").rename(root / "realiad_jsons/Audiojack.json")
    assert list_categories("real_iad", str(root)) == ["Audiojack", "audiojack", "toy_brick"]
    assert fails(root, category) == (
        f"{root}/realiad_jsons/audiojack.json: no such file; there is {root}/realiad_jsons/Audiojack.json",
        "Case counts in names: rename it to audiojack.json.",
    )


def test_a_category_that_is_unpacked_one_folder_deeper_is_said(tmp_path: Path) -> None:
    root = trees.real_iad(tmp_path)
    home = root / "realiad_1024/audiojack"
    home.rename(root / "deeper")
    home.mkdir()
    (root / "deeper").rename(home / "audiojack")
    told = f"{home}/audiojack holds 50 images one folder too deep", f"Move what it holds to {home}."
    assert fails(root, "audiojack") == told
    # An image that is not there in either place is told as well.
    image = home / "audiojack" / f"{trees.S64}.jpg"
    image.unlink()
    message, _ = fails(root, "audiojack")
    assert message.splitlines() == [told[0].replace("50", "49"), f"{home / trees.S64}.jpg: no such file"]


@pytest.mark.parametrize("wrong", ["Realiad_jsons/realiad_jsons_sv", "realiad_jsons/Realiad_jsons_sv"])
def test_a_deeper_folder_in_another_case_is_named(tmp_path: Path, wrong: str) -> None:
    root = trees.unpacked(tmp_path)
    (root / "realiad_jsons/realiad_jsons_sv").rename(root / "sv")
    (root / "realiad_jsons").rename(root / wrong.partition("/")[0])
    (root / "sv").rename(root / wrong)
    there = wrong if wrong.endswith("Realiad_jsons_sv") else "Realiad_jsons"
    assert fails(root, split="single_view")[0] == (
        f"{root}/realiad_jsons/realiad_jsons_sv: no such folder; there is {root}/{there}"
    )


def test_a_split_that_is_not_there_or_there_twice(tmp_path: Path) -> None:
    root = trees.real_iad(tmp_path)
    shutil.rmtree(root / "realiad_jsons_sv")
    assert len(list_categories("real_iad", str(root))) == 2
    assert fails(root, split="single_view") == (f"{root}/realiad_jsons_sv: no such folder", OF_JSONS)
    (root / "realiad_jsons_sv").mkdir()
    assert fails(root, split="single_view") == (
        f"{root}/realiad_jsons_sv holds no JSON file",
        f"It must hold <category>.json. {OF_JSONS}",
    )
    shutil.copytree(root / "realiad_jsons", root / "again")
    (root / "again").rename(root / "realiad_jsons/realiad_jsons")
    assert fails(root) == (
        f"{root} holds the split multi_view twice: {root}/realiad_jsons and {root}/realiad_jsons/realiad_jsons",
        "Keep one of them.",
    )
    for file in (root / "realiad_jsons").rglob("*.json"):
        file.unlink()
    assert fails(root)[0] == f"{root}/realiad_jsons/realiad_jsons holds no JSON file"
    shutil.rmtree(root / "realiad_jsons")
    assert fails(root) == (f"{root}/realiad_jsons: no such folder", OF_JSONS)
    assert fails(root, split="fuiad_0.4") == (
        "real_iad has no split 'fuiad_0.4'; it has: multi_view, single_view",
        None,
    )


def test_a_category_with_images_or_a_json_file_alone_says_what_is_missing(tmp_path: Path) -> None:
    root = trees.real_iad(tmp_path)
    (root / "realiad_jsons/audiojack.json").unlink()
    shutil.rmtree(root / "realiad_1024/toy_brick")
    assert list_categories("real_iad", str(root)) == ["audiojack", "toy_brick"]
    assert fails(root, "audiojack") == (
        f"{root}/realiad_jsons/audiojack.json: no such file; it says which images of {root}/realiad_1024/audiojack to "
        "learn from and which to test on",
        OF_JSONS,
    )
    assert fails(root, "toy_brick") == (
        f"{root}/realiad_1024/toy_brick: no such folder",
        f"{root}/realiad_jsons/toy_brick.json names its images: unpack those of toy_brick there.",
    )
    assert fails(root, "toy_bricks") == (
        f"{root} has no category 'toy_bricks'; did you mean toy_brick? It has: audiojack, toy_brick",
        None,
    )
    assert fails(root, "../realiad_1024/audiojack")[0].startswith(f"{root} has no category '../realiad_1024/audiojack'")


def test_the_root_is_the_folder_that_holds_both(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = trees.real_iad(tmp_path / "data/Real-IAD", ("toy_brick",))
    expected = "holds no Real-IAD: expected {0}/realiad_1024/<category> and {0}/realiad_jsons/<category>.json, found "
    around, images, jsons = root.parent, root / "realiad_1024", root / "realiad_jsons"
    assert fails(around) == (
        f"{around} {expected.format(around)}Real-IAD/",
        f"{root} looks like real_iad: give it as root.",
    )
    assert fails(images) == (
        f"{images} {expected.format(images)}toy_brick/",
        f"{images} is a part of it. {UNPACKED}",
    )
    assert fails(jsons) == (
        f"{jsons} {expected.format(jsons)}toy_brick.json",
        f"{jsons} is a part of it. {UNPACKED}",
    )
    with pytest.raises(NoLayout):
        list_categories("real_iad", str(tmp_path))
    assert fails(tmp_path)[1] == UNPACKED
    assert fails(tmp_path / "nowhere") == (f"{tmp_path}/nowhere: no such folder", None)
    shutil.rmtree(images)
    assert fails(root)[1] == UNPACKED
    assert fails(root)[0].startswith(f"{root} {expected.format(root)}realiad_jsons/, ")
    trees.write_images(root / "realiad_raw/toy_brick", "toy_brick")
    monkeypatch.chdir(root)
    dataset = load_dataset("real_iad", ".")
    assert dataset.train[0].path == "./realiad_raw/toy_brick/OK/S0001/toy_brick_0001_OK_C1_20231023012610.jpg"


def test_a_folder_is_recognised_by_both_kinds_of_folder(tmp_path: Path) -> None:
    root = trees.real_iad(tmp_path / "a")
    assert recognise(str(root)) == ["real_iad"]
    assert recognise(str(root / "realiad_1024")) == []
    assert recognise(str(root / "realiad_1024/audiojack")) == []
    shutil.rmtree(root / "realiad_jsons")
    shutil.rmtree(root / "realiad_jsons_sv")
    assert real_iad.recognises(str(root))  # the splits for fully unsupervised learning are left
    for rate in ("0.0", "0.4"):
        shutil.rmtree(root / f"realiad_jsons_fuiad_{rate}")
    assert not real_iad.recognises(str(root))
    assert recognise(str(trees.unpacked(tmp_path / "b"))) == ["real_iad"]
    shutil.rmtree(tmp_path / "b/realiad_256")
    assert not real_iad.recognises(str(tmp_path / "b"))
    with pytest.raises(DataError):
        real_iad.recognises(str(tmp_path / "nowhere"))


# --- what is wrong with a JSON file


def first(value: Value, **changes: object) -> None:
    value["test"][0].update(changes)


def called_fine(value: Value) -> None:
    """A file in which good images are "fine", but the first is "Fine"."""
    value["meta"]["normal_class"] = "fine"
    for one in (*value["train"], *value["test"]):
        one["anomaly_class"] = {"OK": "fine"}.get(one["anomaly_class"], one["anomaly_class"])
    first(value, anomaly_class="Fine")


def without(value: Value, *keys: str) -> None:
    for key in keys:
        del value["test"][0][key]


# The first entry of test: view 1 of NG/QS/S0001, a defect.
IMAGE = "NG/QS/S0001/audiojack__0001_NG_QS_C1_20231023012610.jpg"
WRONG: dict[str, tuple[Callable[[Value], object], str]] = {
    "no object": (lambda v: v["test"].append("OK"), 'entry 36 of test: expected an object, found "OK"'),
    "one key": (lambda v: without(v, "image_path"), "entry 1 of test: image_path is missing"),
    "keys": (lambda v: without(v, "category", "anomaly_class"), "entry 1 of test: category, anomaly_class are missing"),
    "category": (lambda v: first(v, category="tape"), 'entry 1 of test: category = "tape": expected "audiojack"'),
    "list": (lambda v: v.update(train={}), "train: expected a list of images, found {}"),
    "no list": (lambda v: v.pop("test"), "test: is missing"),
    "no meta": (lambda v: v.pop("meta"), "meta: is missing"),
    "meta": (lambda v: v.update(meta=[]), "meta: expected an object, found []"),
    "no normal class": (lambda v: v["meta"].pop("normal_class"), "meta: normal_class is missing"),
    "normal class": (lambda v: v["meta"].update(normal_class=0), "meta: normal_class = 0: expected text"),
    "no prefix": (lambda v: v["meta"].pop("prefix"), "meta: prefix is missing"),
    "prefix": (lambda v: v["meta"].update(prefix="../x/"), 'meta: prefix = "../x/": expected "audiojack/"'),
    "kind": (
        lambda v: first(v, anomaly_class=None),
        "entry 1 of test: anomaly_class = null: expected a kind of defect, or what good images are",
    ),
    "kind with line end": (
        lambda v: first(v, anomaly_class="H\nS"),
        'entry 1 of test: anomaly_class = "H\\nS": expected a kind of defect, or what good images are',
    ),
    "ok": (
        lambda v: first(v, anomaly_class="ok"),
        'entry 1 of test: anomaly_class = "ok": good images are called "OK"',
    ),
    "good": (
        lambda v: first(v, anomaly_class="Good"),
        'entry 1 of test: anomaly_class = "Good": good images are called "OK"',
    ),
    "fine": (called_fine, 'entry 1 of test: anomaly_class = "Fine": good images are called "fine"'),
    "no path": (lambda v: first(v, image_path=7), "entry 1 of test: image_path = 7: expected a path"),
    "no image": (lambda v: first(v, image_path="a/b.txt"), 'entry 1 of test: image_path = "a/b.txt" has no suffix of an image'),
    "a good image with mask": (
        lambda v: v["train"][0].update(mask_path="a.png"),
        'entry 1 of train: OK/S0003/audiojack__0003_OK_C1_20231023012610.jpg is a good image, but mask_path = "a.png"',
    ),
    "mask is a number": (lambda v: first(v, mask_path=1), "entry 1 of test: mask_path = 1: expected a path"),
    "mask is the image": (
        lambda v: first(v, mask_path=IMAGE),
        "entry 1 of test: the mask {home}/" + f"{IMAGE} is an image itself",
    ),
    "one mask for two": (
        lambda v: first(v, mask_path=v["test"][1]["mask_path"]),
        f"entry 2 of test: {IMAGE.replace('C1_2023102301', 'C2_2023102302')} and {IMAGE} share one mask, "
        + IMAGE.replace("C1_2023102301", "C2_2023102302").replace(".jpg", ".png"),
    ),
    "twice": (lambda v: v["test"].append(v["test"][0]), f"entry 36 of test: {IMAGE} is entry 1 of test already"),
    "twice by another path": (
        lambda v: v["test"].append(v["test"][0] | {"image_path": f"./{IMAGE}"}),
        f"entry 36 of test: {IMAGE} is entry 1 of test already",
    ),
    "on both sides": (
        lambda v: v["train"].append(v["test"][0]),
        f"entry 1 of test: {IMAGE} is entry 16 of train already",
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", WRONG)
def test_what_is_wrong_with_a_file_is_said(tmp_path: Path, what: str) -> None:
    root = trees.real_iad(tmp_path, ("audiojack",))
    how, message = WRONG[what]
    file = change(root, how)
    message = message.replace("{home}", f"{root}/realiad_1024/audiojack")
    with pytest.raises(LayoutError) as error:
        load_dataset("real_iad", str(root), category="audiojack")
    assert said(error) == (f"{file}: {message}", AS_PUBLISHED)


@pytest.mark.parametrize(
    "path",
    [
        "../toy_brick/OK/S0001/a.jpg",
        "OK/../../toy_brick/a.jpg",
        "/etc/a.jpg",
        "C:/a.jpg",
        "C:a.jpg",
        "OK\\S0001\\a.jpg",
        "OK/a\0.jpg",
        ".",
        "{home}/NG/QS/S0001/audiojack__0001_NG_QS_C1_20231023012610.jpg",
    ],
)
@pytest.mark.parametrize("key", ["image_path", "mask_path"])
def test_paths_stay_below_the_folder_of_the_category(tmp_path: Path, path: str, key: str) -> None:
    root = trees.real_iad(tmp_path)
    home = root / "realiad_1024/audiojack"
    path = path.replace("{home}", str(home))
    file = change(root, lambda value: first(value, **{key: path}))
    message, _ = fails(root, "audiojack")
    assert message == f"{file}: entry 1 of test: {key} = {shown(path)} is no path below {home} with forward slashes"


def test_all_problems_are_told_at_once_and_none_hides_the_others(tmp_path: Path) -> None:
    root = trees.real_iad(tmp_path)
    home = root / "realiad_1024/audiojack"
    for image in home.glob("OK/S000[1-5]/*.jpg"):
        image.unlink()

    def spoil(value: Value) -> None:
        for one in value["test"][:12]:
            one["category"] = "tape"
        value["meta"]["prefix"] = "tape/"

    file = change(root, spoil)
    with pytest.raises(LayoutError) as error:
        load_dataset("real_iad", str(root), category="audiojack")
    told = [problem.message for problem in error.value.problems]
    assert told == [
        f'{file}: meta: prefix = "tape/": expected "audiojack/"',
        *(f'{file}: entry {n} of test: category = "tape": expected "audiojack"' for n in range(1, 10)),
        f"{file}: 3 more problems",
        *(
            f"{home}/OK/S{part:04}/audiojack__{part:04}_OK_C{n}_20231023{n:02}2610.jpg: no such file"
            for part in (3, 1)
            for n in range(1, 6)
        ),
        f"{file}: 15 more images that are not there",
    ]
    assert [problem.help for problem in error.value.problems] == [*[None] * 21, AS_PUBLISHED]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"[]", ": expected an object, found []"),
        (b'"audiojack"', ': expected an object, found "audiojack"'),
        (b'{"meta": {},\n]', ":2: is not JSON (Expecting property name enclosed in double quotes)"),
        (b"", ":1: is not JSON (Expecting value)"),
        (b'{"a": NaN}', ": is not JSON (NaN is no JSON number)"),
        (b'{"a": 1, "a": 2}', ': is not JSON ("a" is given twice)'),
        (b"[" * 500 + b"]" * 500, ": nested too deeply"),
        (b"[]," * 5_000_000, ": more values than are read: 5000000 commas and colons in 15000000 bytes"),
    ],
)
def test_a_file_that_is_no_such_json_is_refused(tmp_path: Path, text: bytes, message: str) -> None:
    root = trees.real_iad(tmp_path)
    file = root / "realiad_jsons/audiojack.json"
    file.write_bytes(text)
    assert fails(root, "audiojack") == (f"{file}{message}", AS_PUBLISHED)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    root = trees.real_iad(tmp_path)
    file = root / "realiad_jsons/audiojack.json"
    file.write_bytes(b'{"meta": "\xff"}')
    assert fails(root, "audiojack")[0].startswith(f"{file}: is not JSON (")
    file.unlink()
    file.symlink_to("nowhere")
    assert fails(root, "audiojack") == (f"{file}: cannot be read (No such file or directory)", None)
    file.unlink()
    os.mkfifo(file)
    assert fails(root, "audiojack") == (f"{file}: no regular file", AS_PUBLISHED)


def test_both_sides_must_hold_images(tmp_path: Path) -> None:
    root = trees.real_iad(tmp_path)
    file = change(root, lambda value: value.update(test=[]))
    assert fails(root, "audiojack") == (
        f"{file} names no test image",
        f"They are the entries of test. {OF_JSONS}",
    )
    # Defects alone are nothing to learn from.
    change(root, lambda value: value.update(trees.entries("audiojack", views=(1,))))
    change(root, lambda value: value.update(train=trees.taken(value["test"], "NG/", (1,))))
    assert fails(root, "audiojack") == (
        f"{file} names no normal training image",
        f"They are the entries of train. {OF_JSONS}",
    )


# --- what is measured


def view(label: int, group: str | None) -> Sample:
    return Sample("", f"{group}/a.jpg", "test", label, "HS" if label else "good", "tape", group=group)


def test_the_auroc_of_samples_is_that_of_their_highest_views_by_hand() -> None:
    """Four parts: A good (0.1, 0.5), B good (0.3, 0.2), C with a defect (0.05, 0.4), D with one (0.6).

    Of the four pairs of a bad and a good part, C beats B (0.4 > 0.3) but not A (0.5), D beats both: 3 of 4.
    Of the images, 0.4 (the view of C that shows the defect) beats 0.1, 0.3, 0.2 and 0.05 but not 0.5, and 0.6 all: 9/10.
    """
    found = m.CategoryMetrics(protocol="real_iad", threshold=0.45, pixel=False)
    for score, label, group in (
        (0.1, 0, "A"), (0.3, 0, "B"), (0.05, 0, "C"), (0.6, 1, "D"), (0.5, 0, "A"), (0.4, 1, "C"), (0.2, 0, "B")
    ):  # fmt: skip
        found.add(view(label, group), score)
    metrics = found.result().metrics
    assert metrics.metrics["group_auroc"] == 3 / 4
    assert metrics.metrics["image_auroc"] == 9 / 10
    assert (metrics.metrics["group_miss_rate"], metrics.metrics["group_false_alarm_rate"]) == (1 / 2, 1 / 2)
    assert (metrics.counts["groups"], metrics.counts["normal_groups"], metrics.counts["defect_groups"]) == (4, 2, 2)
    assert DATASETS["real_iad"].measured_by == "real_iad"
    assert PROTOCOLS["real_iad"].metrics == ("image_auroc", "group_auroc", "aupro_30")


@pytest.mark.parametrize("bootstrap", [0, 20])
def test_without_groups_the_auroc_of_samples_is_null_for_a_reason(bootstrap: int) -> None:
    def measured(protocol: str, label: int = 1, group: str | None = None) -> m.Measurement:
        found = m.CategoryMetrics(protocol=protocol, threshold=0.5, pixel=False, bootstrap=bootstrap)
        for score in (0.1, 0.7):
            found.add(view(label if score > 0.5 else min(0, label), group), score)
        return found.result()

    found = measured("real_iad")
    assert found.metrics.metrics["group_auroc"] is None
    assert found.metrics.reasons == {"group_auroc": "no image has a group"}
    assert found.metrics.metrics["image_auroc"] == 1.0
    assert [name for name in found.metrics.metrics if name.startswith("group_")] == ["group_auroc"]
    assert "group_auroc" not in {*found.intervals, *found.replicates}
    assert not [name for name in measured("mvtec_ad").metrics.metrics if name.startswith("group_")]
    # Without ground truth that is the reason, with groups or without.
    for group, names in ((None, ["group_auroc"]), ("A", list(m.GROUP_METRICS))):
        found = measured("real_iad", label=-1, group=group)
        assert [name for name in found.metrics.metrics if name.startswith("group_")] == names
        assert {found.metrics.reasons[name] for name in names} == {"the split has no ground truth (2 images)"}


def faint(root: Path, category: str) -> None:
    """Noise on all images, with a defect that is hard to see: scores overlap."""
    for file in sorted((root / "realiad_1024" / category).rglob("*.jpg")):
        image = parts.surface(zlib.crc32(file.name.encode()), *trees.SIZE)
        if file.with_suffix(".png").exists():
            image[20:28, 30:42] = image[20:28, 30:42] // 8 * 7
        parts.write(file, image)


def test_a_bench_measures_samples_as_adeval_does_and_holds_out_whole_parts(uadctl: Any, tmp_path: Path) -> None:
    """Against scikit-learn, over scores.csv, with the authors' own rule for what a sample is: a pattern of file names."""
    sklearn = pytest.importorskip("sklearn.metrics", reason="scikit-learn is the independent implementation")
    root = trees.real_iad(tmp_path / "tree", learned=5)
    faint(root, "toy_brick")
    words = ["bench", "--dataset", "real_iad", "--root", root, "--category", "toy_brick", "--model", "patchcore"]
    ended = uadctl(*words, "--set", "preprocess.size=64", "--json")
    cell = ended.json["results"]["toy_brick"]["vision_patchcore"]["0"]
    unit = Path(ended.json["run"]) / "units/toy_brick/vision_patchcore/0"
    with (unit / "scores.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    samples: dict[str, list[tuple[int, float]]] = {}
    for row in rows:
        found = re.search("([a-zA-Z][a-zA-Z0-9_]*_[0-9]{4}_[A-Z][A-Z_]*[A-Z])_C[0-9]_", row["path"])
        assert found is not None
        samples.setdefault(found[1], []).append((int(row["label"]), float(row["score"])))
    assert (len(rows), {len(views) for views in samples.values()}, len(samples)) == (25, {5}, 5)
    labels = [max(label for label, _ in views) for views in samples.values()]
    scores = [max(score for _, score in views) for views in samples.values()]
    assert sum(labels) == 3
    assert cell["metrics"]["group_auroc"] == pytest.approx(sklearn.roc_auc_score(labels, scores), abs=1e-12)
    by_image = sklearn.roc_auc_score([int(r["label"]) for r in rows], [float(r["score"]) for r in rows])
    assert cell["metrics"]["image_auroc"] == pytest.approx(by_image, abs=1e-12)
    assert 0 < by_image < 1
    # 25 training images are enough to hold some out: a fifth of the parts, with all their views.
    image = json.loads((unit / "thresholds.json").read_text())["image"]
    assert (image["source"], image["n"]) == ("holdout", 5)
    assert cell["counts"]["train_images"] == 20
    assert {row["threshold"] for row in rows} == {str(image["value"])}
    flagged = [score >= image["value"] for score in scores]
    rates = [
        sum(flag != bool(label) for flag, label in zip(flagged, labels, strict=True) if label == which)
        / labels.count(which)
        for which in (1, 0)
    ]
    assert [cell["metrics"]["group_miss_rate"], cell["metrics"]["group_false_alarm_rate"]] == rates


def test_the_protocol_of_another_data_set_has_null_for_samples_and_a_report(uadctl: Any, tmp_path: Path) -> None:
    parts.write_category(tmp_path / "tree", "tile")
    words = ["bench", "--dataset", "mvtec", "--root", tmp_path / "tree", "--model", "patchcore"]
    words += ["--set", "preprocess.size=64", "--set", "metrics.protocol=real_iad"]
    ended = uadctl(*words, "--json")
    cell = ended.json["results"]["tile"]["vision_patchcore"]["0"]
    assert (cell["metrics"]["group_auroc"], cell["reasons"]["group_auroc"]) == (None, "no image has a group")
    assert cell["metrics"]["image_auroc"] is not None
    told = uadctl(*words)
    assert "\ntile: no image has a group (group_auroc)\n" in told.out
    uadctl("report", ended.json["run"], "--out", tmp_path / "page", "--markdown", tmp_path / "summary.md")
    page = (tmp_path / "page/index.html").read_text()
    assert "no image has a group" in page
    assert "part AUROC" in page
    assert "Parts missed" not in page
    assert "no image has a group (group_auroc)\n" in (tmp_path / "summary.md").read_text()
