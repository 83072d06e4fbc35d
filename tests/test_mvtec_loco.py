"""MVTec LOCO AD: its images and their many masks, how much of a defect is enough, and how its folders are told apart
from those of MVTec AD and MVTec AD 2."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import trees_mvtec as trees
from parts import message

from uadctl.datasets import Dataset, Where, list_categories, load_dataset, load_mask, mvtec, mvtec_loco, recognise
from uadctl.datasets.defects import load_defects
from uadctl.errors import DataError
from uadctl.imaging.files import read_mask_values
from uadctl.records import DefectConfig, Sample, Size

LOGICAL = "logical_anomalies"
CONFIGS = (
    DefectConfig("missing_part", 255, 20, False),
    DefectConfig("swapped_part", 254, 0.5, True),
    DefectConfig("damaged_part", 253, 1, True),
)


def load(root: Path, category: str = "pushpins") -> Dataset:
    return load_dataset("mvtec_loco", str(root), category=category)


def one(root: Path) -> Path:
    """A tree of one category; its folder."""
    return trees.mvtec_loco(root, ["pushpins"]) / "pushpins"


def masks_below(home: Path, dataset: Dataset) -> dict[str, list[str]]:
    """For each bad test image its masks; both as paths below the category's folder."""
    return {s.relative: [os.path.relpath(m, home) for m in s.masks] for s in dataset.test if s.label}


# --- the layout as published


def test_the_five_categories_are_found_and_any_other_beside_them(tmp_path: Path) -> None:
    trees.mvtec_loco(tmp_path)
    assert list_categories("mvtec_loco", str(tmp_path)) == list(trees.LOCO_CATEGORIES)
    assert list_categories("loco", str(tmp_path)) == list(trees.LOCO_CATEGORIES)
    trees.image(tmp_path / "own_part/train/good/0.png")  # no validation, no configuration, no kind of defect
    trees.image(tmp_path / "own_part/test/good/0.png")
    (tmp_path / "notes").mkdir()
    found = ["breakfast_box", "juice_bottle", "own_part", "pushpins", "screw_bag", "splicing_connectors"]
    assert list_categories("mvtec_loco", str(tmp_path)) == found
    dataset = load(tmp_path, "own_part")
    assert (len(dataset.train), dataset.validation, len(dataset.test)) == (1, (), 1)
    assert dataset.defects is None


@pytest.mark.parametrize("category", trees.LOCO_CATEGORIES)
def test_a_category_becomes_sorted_samples(tmp_path: Path, category: str) -> None:
    home = trees.mvtec_loco(tmp_path, [category]) / category
    dataset = load(tmp_path, category)
    assert (dataset.name, dataset.category, dataset.root) == ("mvtec_loco", category, str(tmp_path))
    assert [s.relative for s in dataset.train] == [f"train/good/{i:03}.png" for i in range(4)]
    assert [(s.relative, s.split, s.label, s.defect) for s in dataset.validation] == [
        ("validation/good/000.png", "validation", 0, "good"),
        ("validation/good/001.png", "validation", 0, "good"),
    ]
    assert [(s.relative, s.split, s.label, s.defect, len(s.masks)) for s in dataset.test] == [
        ("test/good/000.png", "test", 0, "good", 0),
        ("test/good/001.png", "test", 0, "good", 0),
        ("test/logical_anomalies/000.png", "test", 1, "logical_anomalies", 1),
        ("test/logical_anomalies/001.png", "test", 1, "logical_anomalies", 2),
        ("test/logical_anomalies/002.png", "test", 1, "logical_anomalies", 3),
        ("test/structural_anomalies/000.png", "test", 1, "structural_anomalies", 1),
        ("test/structural_anomalies/001.png", "test", 1, "structural_anomalies", 1),
    ]
    assert [s.path for s in dataset.test] == [str(home / s.relative) for s in dataset.test]
    assert {s.category for s in dataset.train + dataset.validation + dataset.test} == {category}
    assert dataset.left_out == ()
    assert dataset.defects == CONFIGS
    assert dataset.missing_masks() == []


def test_every_image_keeps_all_its_own_masks_and_000_is_not_special(tmp_path: Path) -> None:
    home = one(tmp_path)
    assert masks_below(home, load(tmp_path)) == {
        f"test/{LOGICAL}/000.png": [f"ground_truth/{LOGICAL}/000/000.png"],
        f"test/{LOGICAL}/001.png": [f"ground_truth/{LOGICAL}/001/00{i}.png" for i in range(2)],
        f"test/{LOGICAL}/002.png": [f"ground_truth/{LOGICAL}/002/00{i}.png" for i in range(3)],
        "test/structural_anomalies/000.png": ["ground_truth/structural_anomalies/000/000.png"],
        "test/structural_anomalies/001.png": ["ground_truth/structural_anomalies/001/000.png"],
    }


def test_labels_masks_and_sizes_belong_together(tmp_path: Path) -> None:
    one(tmp_path)
    paths, labels, masks = load(tmp_path).get_test_paths()
    assert masks is not None
    assert len(paths) == len(labels) == len(masks) == 7
    assert labels.tolist() == [0, 0, 1, 1, 1, 1, 1]
    # Two defects of 24 pixels, one row apart, cover 30; three cover 36.
    assert [int(mask.sum()) for mask in masks if mask is not None] == [0, 0, 24, 30, 36, 24, 24]
    assert {(mask.shape, mask.dtype.name) for mask in masks if mask is not None} == {((32, 40), "uint8")}
    resized = load_dataset("mvtec_loco", str(tmp_path), resize=(16, 10)).get_test_paths()[2]
    assert resized is not None
    found = [mask for mask in resized if mask is not None]
    assert [mask.shape for mask in found] == [(16, 10)] * 7
    assert [bool(mask.any()) for mask in found] == [False, False, True, True, True, True, True]


def test_the_union_of_several_masks_is_the_ground_truth(tmp_path: Path) -> None:
    one(tmp_path)
    sample = load(tmp_path).test[4]
    expected = np.zeros((32, 40), np.uint8)
    expected[4:10, 4:10] = 1
    found = load_mask(sample)
    assert found is not None
    assert np.array_equal(found, expected)


def test_the_root_may_be_the_category_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = one(tmp_path)
    assert list_categories("mvtec_loco", str(home)) == ["pushpins"]
    assert recognise(str(home)) == ["mvtec_loco"]
    monkeypatch.chdir(home)
    dataset = load_dataset("mvtec_loco", ".")
    assert dataset.category == "pushpins"
    assert dataset.test[4].masks[2] == "./ground_truth/logical_anomalies/002/002.png"


def test_suffixes_match_in_any_case(tmp_path: Path) -> None:
    home = one(tmp_path)
    (home / "test/good/001.png").rename(home / "test/good/001.PNG")
    (home / f"test/{LOGICAL}/001.png").rename(home / f"test/{LOGICAL}/001.Png")
    (home / f"ground_truth/{LOGICAL}/001/001.png").rename(home / f"ground_truth/{LOGICAL}/001/001.PNG")
    dataset = load(tmp_path)
    assert [s.relative for s in dataset.test][1:4] == [
        "test/good/001.PNG",
        f"test/{LOGICAL}/000.png",
        f"test/{LOGICAL}/001.Png",
    ]
    assert masks_below(home, dataset)[f"test/{LOGICAL}/001.Png"] == [
        f"ground_truth/{LOGICAL}/001/000.png",
        f"ground_truth/{LOGICAL}/001/001.PNG",
    ]


def test_names_are_sorted_by_their_bytes(tmp_path: Path) -> None:
    home = one(tmp_path)
    for name in ("10", "9", "B", "a", "ä"):
        trees.image(home / f"test/{LOGICAL}/{name}.png")
        trees.mask(home / f"ground_truth/{LOGICAL}/{name}/10.png")
        trees.mask(home / f"ground_truth/{LOGICAL}/{name}/9.png", value=254)
    names = ["000", "001", "002", "10", "9", "B", "a", "ä"]
    logical = [s for s in load(tmp_path).test if s.defect == LOGICAL]
    assert [s.relative for s in logical] == [f"test/{LOGICAL}/{name}.png" for name in names]
    assert [Path(mask).name for mask in logical[-1].masks] == ["10.png", "9.png"]


# --- where a mask may lie


def nested(root: Path) -> Path:
    home = one(root)
    shutil.rmtree(home / f"test/{LOGICAL}")
    shutil.rmtree(home / f"ground_truth/{LOGICAL}")
    for defect in ("missing", "swapped"):
        trees.image(home / f"test/{LOGICAL}/{defect}/000.png")
    return home


def test_a_kind_may_have_a_folder_for_each_defect(tmp_path: Path) -> None:
    home = nested(tmp_path)
    for defect in ("missing", "swapped"):  # the same file name in both: they must not be mixed up
        for number in range(2):
            trees.mask(home / f"ground_truth/{LOGICAL}/{defect}/000/00{number}.png")
    dataset = load(tmp_path)
    assert [s.defect for s in dataset.test if s.label] == [
        f"{LOGICAL}/missing",
        f"{LOGICAL}/swapped",
        "structural_anomalies",
        "structural_anomalies",
    ]
    found = masks_below(home, dataset)
    for defect in ("missing", "swapped"):
        folder = f"ground_truth/{LOGICAL}/{defect}/000"
        assert found[f"test/{LOGICAL}/{defect}/000.png"] == [f"{folder}/000.png", f"{folder}/001.png"]


@pytest.mark.parametrize(
    "places",
    [
        ["missing/000/000.png", "000/000.png", "missing/000.png", "missing/000_mask.png"],
        ["000/000.png", "missing/000.png", "missing/000_mask.png"],
        ["missing/000.png", "missing/000_mask.png"],
        ["missing/000_mask.png"],
    ],
    ids=lambda places: places[0],
)
def test_masks_of_nested_images_are_looked_for_in_this_order(tmp_path: Path, places: list[str]) -> None:
    home = nested(tmp_path)
    trees.mask(home / f"ground_truth/{LOGICAL}/swapped/000/000.png")
    for place in places:
        trees.mask(home / f"ground_truth/{LOGICAL}/{place}")
    found = masks_below(home, load(tmp_path))
    assert found[f"test/{LOGICAL}/missing/000.png"] == [f"ground_truth/{LOGICAL}/{places[0]}"]


@pytest.mark.parametrize(
    "places",
    [["000/000.png", "000.bmp", "000_mask.png"], ["000.bmp", "000_mask.png"], ["000_mask.png"]],
    ids=lambda places: places[0],
)
def test_masks_of_flat_images_are_looked_for_in_this_order(tmp_path: Path, places: list[str]) -> None:
    home = one(tmp_path)
    shutil.rmtree(home / f"ground_truth/{LOGICAL}/000")
    for place in places:
        trees.mask(home / f"ground_truth/{LOGICAL}/{place}")
    found = masks_below(home, load(tmp_path))
    assert found[f"test/{LOGICAL}/000.png"] == [f"ground_truth/{LOGICAL}/{places[0]}"]
    assert len(found[f"test/{LOGICAL}/001.png"]) == 2


def test_a_missing_mask_is_reported_and_the_others_keep_theirs(tmp_path: Path) -> None:
    home = one(tmp_path)
    shutil.rmtree(home / f"ground_truth/{LOGICAL}/000")
    for path in (home / f"ground_truth/{LOGICAL}/001").iterdir():
        path.unlink()  # an empty folder is no mask
    dataset = load(tmp_path)
    assert dataset.problems() == [
        f"{home}/test/{LOGICAL}/00{i}.png: no mask at {home}/ground_truth/{LOGICAL}/00{i}/000.png" for i in range(2)
    ]
    _, labels, masks = dataset.get_test_paths()
    assert masks is not None
    assert labels.tolist() == [0, 0, 1, 1, 1, 1, 1]
    assert [None if mask is None else int(mask.sum()) for mask in masks] == [0, 0, None, None, 36, 24, 24]


def test_without_ground_truth_every_defect_image_is_reported(tmp_path: Path) -> None:
    home = one(tmp_path)
    shutil.rmtree(home / "ground_truth")
    dataset = load(tmp_path)
    assert not dataset.has_masks
    assert len(dataset.missing_masks()) == 5
    assert dataset.get_test_paths()[2] is None


def test_a_mask_belongs_to_one_image(tmp_path: Path) -> None:
    home = one(tmp_path)
    trees.image(home / f"test/{LOGICAL}/001.jpg")
    with pytest.raises(DataError) as error:
        load(tmp_path)
    assert message(error) == (
        f"{home}/test/{LOGICAL}/001.jpg and {home}/test/{LOGICAL}/001.png share one mask, "
        f"{home}/ground_truth/{LOGICAL}/001/000.png",
        "Give the images names that differ by more than their suffix or their folder.",
    )


def test_masks_that_could_be_of_two_nested_images_are_refused(tmp_path: Path) -> None:
    home = nested(tmp_path)
    path = trees.mask(home / f"ground_truth/{LOGICAL}/000/000.png")
    with pytest.raises(DataError) as error:
        load(tmp_path)
    top = f"{home}/test/{LOGICAL}"
    assert error.value.message == f"{top}/missing/000.png and {top}/swapped/000.png share one mask, {path}"


# --- what is no normal image, and what is missing


def test_defects_among_the_training_images_are_left_out(tmp_path: Path) -> None:
    home = one(tmp_path)
    trees.image(home / f"train/{LOGICAL}/7.png")
    trees.image(home / "train/bad/7.png")
    trees.image(home / "train/bad-edge/7.png")  # "-" comes before "/"
    trees.image(home / "validation/structural_anomalies/7.PNG")
    dataset = load(tmp_path)
    assert (len(dataset.train), len(dataset.validation), len(dataset.test)) == (4, 2, 7)
    assert [(s.relative, s.split, s.label, s.defect, s.masks, s.expected_mask) for s in dataset.left_out] == [
        ("train/bad-edge/7.png", "train", 1, "bad-edge", (), None),
        ("train/bad/7.png", "train", 1, "bad", (), None),
        (f"train/{LOGICAL}/7.png", "train", 1, LOGICAL, (), None),
        ("validation/structural_anomalies/7.PNG", "validation", 1, "structural_anomalies", (), None),
    ]
    assert dataset.get_train_paths() == [f"{home}/train/good/00{i}.png" for i in range(4)]


def test_mvtec_leaves_them_out_too_and_reads_good_whole(tmp_path: Path) -> None:
    home = trees.mvtec_ad(tmp_path, ["bottle"]) / "bottle"
    trees.image(home / "train/contamination/9.png")
    (home / "train/all").symlink_to(home / "train/good")  # before good/ in the listing
    dataset = load_dataset("mvtec", str(tmp_path))
    assert [s.relative for s in dataset.train] == [f"train/good/00{i}.png" for i in range(3)]
    assert Counter(s.defect for s in dataset.left_out) == {"all": 3, "contamination": 1}
    assert {s.label for s in dataset.left_out} == {1}
    trees.image(home / "train/loose.png")
    with pytest.raises(DataError) as error:
        load_dataset("mvtec", str(tmp_path))
    assert message(error) == (
        f"{home}/train/loose.png lies in no defect folder",
        f"Move it to {home}/train/good or to a folder named after its defect.",
    )


def test_an_absent_category_is_an_error_that_lists_those_found(tmp_path: Path) -> None:
    trees.mvtec_loco(tmp_path, ["breakfast_box", "screw_bag"])
    with pytest.raises(ValueError) as error:
        load(tmp_path, "screwbag")
    assert isinstance(error.value, DataError)
    assert message(error) == (
        f"{tmp_path} has no category 'screwbag'; did you mean screw_bag? It has: breakfast_box, screw_bag",
        None,
    )
    with pytest.raises(ValueError, match=r" has no category 'nope'; it has: breakfast_box, screw_bag$"):
        load(tmp_path, "nope")
    trees.mvtec_loco(tmp_path, [".hidden"])
    trees.mvtec_loco(tmp_path, ["screw_bag/nested"])
    for odd in ("screw_bag/nested", "..", "", ".", "screw_bag/.", "screw_bag/", ".hidden", "\0"):
        with pytest.raises(ValueError, match=" has no category "):
            load(tmp_path, odd)


def test_a_category_that_lacks_a_part_says_so(tmp_path: Path) -> None:
    trees.mvtec_loco(tmp_path, ["pushpins", "screw_bag", "juice_bottle"])
    shutil.rmtree(tmp_path / "pushpins/train")
    shutil.rmtree(tmp_path / "screw_bag/test")
    assert list_categories("mvtec_loco", str(tmp_path)) == ["juice_bottle", "pushpins", "screw_bag"]
    with pytest.raises(DataError) as error:
        load(tmp_path, "pushpins")
    assert message(error) == (
        f"{tmp_path}/pushpins/train/good: no such folder",
        "It must hold the good training images.",
    )
    parts = "It must hold good/, logical_anomalies/ and structural_anomalies/."
    with pytest.raises(DataError) as error:
        load(tmp_path, "screw_bag")
    assert message(error) == (f"{tmp_path}/screw_bag/test: no such folder", parts)
    (tmp_path / "screw_bag/test/good").mkdir(parents=True)
    with pytest.raises(DataError) as error:
        load(tmp_path, "screw_bag")
    assert message(error) == (f"{tmp_path}/screw_bag/test holds no image", parts)
    trees.image(tmp_path / "juice_bottle/test/loose.png")
    with pytest.raises(DataError) as error:
        load(tmp_path, "juice_bottle")
    assert message(error) == (
        f"{tmp_path}/juice_bottle/test/loose.png lies neither in good/ nor in logical_anomalies/ nor in "
        "structural_anomalies/",
        f"{tmp_path}/juice_bottle/test must hold good/, logical_anomalies/ and structural_anomalies/ only.",
    )


# --- which data set is which


def demo(root: Path) -> Path:
    """A tree with the folders and the marker of the demo data set."""
    for name in ("train/good/000.png", "test/good/000.png", "test/scratch/000.png"):
        trees.image(root / "brushed_metal" / name)
    trees.mask(root / "brushed_metal/ground_truth/scratch/000_mask.png")
    (root / "demo.json").write_text(json.dumps({"dataset": "uadctl demo", "version": 1, "seed": 0}))
    return root


TREES: tuple[tuple[str, Callable[[Path], Path]], ...] = (
    ("demo", demo),
    ("mvtec", trees.mvtec_ad),
    ("mvtec_ad2", trees.mvtec_ad2),
    ("mvtec_loco", trees.mvtec_loco),
)


@pytest.mark.parametrize(("name", "build"), TREES, ids=[name for name, _ in TREES])
def test_each_layout_is_recognised_as_one_data_set(tmp_path: Path, name: str, build: Callable[[Path], Path]) -> None:
    root = build(tmp_path / "root")
    assert recognise(str(root)) == [name]
    categories = [path for path in sorted(root.iterdir()) if path.is_dir()]
    assert len(categories) >= 1
    expected = "mvtec" if name == "demo" else name
    assert [recognise(str(home)) for home in categories] == [[expected]] * len(categories)


def test_mvtec_refuses_loco_and_names_it(tmp_path: Path) -> None:
    trees.mvtec_loco(tmp_path)
    with pytest.raises(DataError) as error:
        list_categories("mvtec", str(tmp_path))
    holds = "breakfast_box/, juice_bottle/, pushpins/, screw_bag/, splicing_connectors/, license.txt, readme.txt"
    assert message(error) == (
        f"{tmp_path} is not laid out as MVTec AD is: it holds {holds}",
        "It looks like mvtec_loco: give that name in place of mvtec.",
    )
    with pytest.raises(DataError) as loading:
        load_dataset("mvtec", str(tmp_path), category="pushpins")
    assert message(loading) == message(error)


def test_loco_refuses_mvtec_and_ad2_and_names_them(tmp_path: Path) -> None:
    for name, build, holds in (
        ("mvtec", trees.mvtec_ad, "bottle/, screw/"),
        (
            "mvtec_ad2",
            trees.mvtec_ad2,
            "can/, fabric/, fruit_jelly/, rice/, sheet_metal/, vial/, wallplugs/, walnuts/ and 2 more",
        ),
    ):
        root = build(tmp_path / name)
        with pytest.raises(DataError) as error:
            list_categories("loco", str(root))
        assert message(error) == (
            f"{root} holds no MVTec LOCO category: expected {root}/<category>/train/good and "
            f"{root}/<category>/test/logical_anomalies, found {holds}",
            f"It looks like {name}: give that name in place of loco.",
        )


def test_what_is_no_known_layout_is_said(tmp_path: Path) -> None:
    (tmp_path / "some/thing").mkdir(parents=True)
    with pytest.raises(DataError) as error:
        list_categories("mvtec_loco", str(tmp_path))
    assert message(error) == (
        f"{tmp_path} holds no MVTec LOCO category: expected {tmp_path}/<category>/train/good and "
        f"{tmp_path}/<category>/test/logical_anomalies, found some/",
        "For another layout, use the data set `folder`, with [dataset.files] where its names differ.",
    )
    with pytest.raises(DataError) as error:
        list_categories("mvtec_loco", f"{tmp_path}/nowhere")
    assert message(error) == (f"{tmp_path}/nowhere: no such folder", None)


def test_one_kind_of_defect_or_the_configuration_is_sign_enough(tmp_path: Path) -> None:
    trees.mvtec_ad(tmp_path, ["bottle"])
    home = tmp_path / "bottle"
    (home / "test/structural_anomalies").mkdir()
    assert recognise(str(tmp_path)) == ["mvtec_loco"]
    (home / "test/structural_anomalies").rmdir()
    assert recognise(str(tmp_path)) == ["mvtec"]
    (home / "defects_config.json").write_text("[]")
    assert recognise(str(tmp_path)) == ["autovi"]  # which has the configuration too, and other kinds
    for kind in ("broken_small", "contamination"):
        shutil.rmtree(home / "test" / kind)
    for folder in ("test", "ground_truth"):
        (home / folder / "broken_large").rename(home / folder / "structural_anomalies")
    assert recognise(str(tmp_path)) == ["mvtec_loco"]
    # MVTec AD's masks are found by LOCO's rule as well.
    dataset = load(tmp_path, "bottle")
    assert dataset.defects == ()
    assert dataset.missing_masks() == []
    assert Counter(s.defect for s in dataset.test) == {"good": 2, "structural_anomalies": 2}


def test_a_third_kind_of_defect_is_an_error_that_names_it(tmp_path: Path) -> None:
    """The protocol's figures are of two kinds: images of another would be in none of them."""
    home = one(tmp_path)
    for name in ("scratch/1.png", "scratch/0.png", "Good/0.png", "Logical_anomalies/0.png"):
        trees.image(home / "test" / name)
    (home / "test/empty").mkdir()
    with pytest.raises(DataError) as error:
        load(tmp_path)
    nowhere = "lies neither in good/ nor in logical_anomalies/ nor in structural_anomalies/"
    case = "Case counts in the names of folders: move its images to"
    assert [(problem.message, problem.help) for problem in error.value.problems] == [
        (f"{home}/test/Good differs from good/ beside it in case alone", f"{case} {home}/test/good."),
        (
            f"{home}/test/Logical_anomalies differs from logical_anomalies/ beside it in case alone",
            f"{case} {home}/test/logical_anomalies.",
        ),
        (
            f"{home}/test/scratch/0.png {nowhere}",
            f"{home}/test must hold good/, logical_anomalies/ and structural_anomalies/ only.",
        ),
    ]
    for name in ("scratch", "Good", "Logical_anomalies"):
        shutil.rmtree(home / "test" / name)
    assert len(load(tmp_path).test) == 7


def test_kinds_in_another_case_are_told_what_to_rename(tmp_path: Path) -> None:
    home = one(tmp_path)
    (home / f"test/{LOGICAL}").rename(home / "test/Logical_Anomalies")
    (home / "test/good").rename(home / "test/GOOD")
    with pytest.raises(DataError) as error:
        load(tmp_path)
    rename = "Case counts in the names of folders: rename it to"
    assert [(problem.message, problem.help) for problem in error.value.problems] == [
        (f"{home}/test/good: no such folder; there is {home}/test/GOOD", f"{rename} good."),
        (f"{home}/test/{LOGICAL}: no such folder; there is {home}/test/Logical_Anomalies", f"{rename} {LOGICAL}."),
    ]


def test_a_configuration_in_the_root_makes_it_no_category(tmp_path: Path) -> None:
    one(tmp_path)
    (tmp_path / "defects_config.json").write_text("[]")
    assert list_categories("mvtec_loco", str(tmp_path)) == ["pushpins"]


# --- cost


def test_each_folder_is_listed_a_fixed_number_of_times(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = one(tmp_path)
    for number in range(3, 60):
        trees.image(home / f"test/{LOGICAL}/{number:03}.png")
        trees.mask(home / f"ground_truth/{LOGICAL}/{number:03}/000.png")
    listed: Counter[str] = Counter()
    scandir = os.scandir

    def counted(path: str) -> Any:
        listed[str(path)] += 1
        return scandir(path)

    monkeypatch.setattr(os, "scandir", counted)
    assert len(load(tmp_path).test) == 64
    # Each listed folder is a category's, a split's, a kind's or an image's folder of masks.
    assert sum(path.startswith(f"{home}/ground_truth/{LOGICAL}/") for path in listed) == 60
    assert {count for path, count in listed.items() if path.startswith(str(home))} <= {1, 2}


def test_listing_decodes_nothing(tmp_path: Path) -> None:
    home = one(tmp_path)
    for path in home.rglob("*.png"):
        path.write_bytes(b"broken")
    assert len(load(tmp_path).test) == 7
    with pytest.raises(DataError, match="not a PNG"):
        load_defects(load(tmp_path).test[2], CONFIGS)


# --- defects_config.json


def test_a_configuration_in_another_case_is_not_passed_over(tmp_path: Path) -> None:
    home = one(tmp_path)
    (home / "defects_config.json").rename(home / "Defects_Config.json")
    with pytest.raises(DataError) as error:
        load(tmp_path)
    assert message(error) == (
        f"{home}/defects_config.json: no such file; there is {home}/Defects_Config.json",
        "Case counts in the names of files: rename it to defects_config.json.",
    )
    (home / "defects_config.json").write_text("[]")
    assert load(tmp_path).defects == ()


ENTRY_HELP = (
    'An entry is {"defect_name": text, "pixel_value": 1 to 255, "saturation_threshold": pixels, or a share of the '
    'defect, "relative_saturation": true for a share}.'
)
GOOD_ENTRY = trees.LOCO_CONFIG[0]


def test_the_configuration_is_read_in_its_order(tmp_path: Path) -> None:
    home = one(tmp_path)
    assert load(tmp_path).defects == CONFIGS
    text = json.dumps([{**GOOD_ENTRY, "note": "more keys are passed over"}], indent=2)
    (home / "defects_config.json").write_bytes(b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode())
    assert load(tmp_path).defects == CONFIGS[:1]
    (home / "defects_config.json").unlink()
    assert load(tmp_path).defects is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b'[\n{"defect_name": }\n]', ":2: is not JSON (Expecting value)"),
        (b"", ":1: is not JSON (Expecting value)"),
        (b"[\xff]", ": is not JSON ('utf-8' codec can't decode byte 0xff in position 1: invalid start byte)"),
        (b'{"defect_name": "x"}', ': expected a list of defects, found {"defect_name": "x"}'),
        (b"null", ": expected a list of defects, found null"),
        (b'["missing_part"]', ': entry 1: expected an object, found "missing_part"'),
        (b"[{}]", f": entry 1: {', '.join(GOOD_ENTRY)} are missing"),
        (b"[" * 100_000, ": nested too deeply"),
        (b"[" + b"9" * 5_000 + b"]", ": a number of more than 4300 digits"),
        (b"[NaN]", ": is not JSON (NaN is no JSON number)"),
        (b"[1e999]", ": is not JSON (1e999 is too large a number)"),
    ],
    ids=lambda value: str(value)[:24],
)
def test_a_configuration_that_cannot_be_read_is_said(tmp_path: Path, text: bytes, expected: str) -> None:
    path = one(tmp_path) / "defects_config.json"
    path.write_bytes(text)
    with pytest.raises(DataError) as error:
        load(tmp_path)
    assert error.value.message == f"{path}{expected}"
    assert error.value.help == ENTRY_HELP


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"defect_name": 7}, ["defect_name = 7: expected text"]),
        ({"defect_name": ""}, ['defect_name = "": expected text']),
        ({"pixel_value": 0}, ["pixel_value = 0: expected a whole number from 1 to 255"]),
        ({"pixel_value": 256}, ["pixel_value = 256: expected a whole number from 1 to 255"]),
        ({"pixel_value": 255.0}, ["pixel_value = 255.0: expected a whole number from 1 to 255"]),
        ({"pixel_value": "255"}, ['pixel_value = "255": expected a whole number from 1 to 255']),
        ({"pixel_value": True}, ["pixel_value = true: expected a whole number from 1 to 255"]),
        ({"saturation_threshold": 0}, ["saturation_threshold = 0: expected a number above 0"]),
        ({"saturation_threshold": -1}, ["saturation_threshold = -1: expected a number above 0"]),
        ({"saturation_threshold": None}, ["saturation_threshold = null: expected a number above 0"]),
        ({"saturation_threshold": True}, ["saturation_threshold = true: expected a number above 0"]),
        ({"saturation_threshold": 0.5}, ["saturation_threshold = 0.5: expected at least 1 pixel"]),
        ({"relative_saturation": True}, ["saturation_threshold = 20: expected a share of at most 1"]),
        ({"relative_saturation": 1}, ["relative_saturation = 1: expected true or false"]),
        (
            {"pixel_value": 300, "relative_saturation": "yes"},
            [
                "pixel_value = 300: expected a whole number from 1 to 255",
                'relative_saturation = "yes": expected true or false',
            ],
        ),
    ],
    ids=lambda value: str(value)[:40],
)
def test_an_entry_that_is_wrong_is_named(tmp_path: Path, change: dict[str, object], expected: list[str]) -> None:
    path = one(tmp_path) / "defects_config.json"
    first = {**GOOD_ENTRY, "pixel_value": 1}
    path.write_text(json.dumps([first, {**GOOD_ENTRY, **change}]))
    with pytest.raises(DataError) as error:
        load(tmp_path)
    assert [problem.message for problem in error.value.problems] == [f"{path}: entry 2: {text}" for text in expected]
    assert error.value.help == ENTRY_HELP


def test_all_that_is_wrong_comes_at_once_and_two_kinds_cannot_share_a_value(tmp_path: Path) -> None:
    path = one(tmp_path) / "defects_config.json"
    short = {key: value for key, value in GOOD_ENTRY.items() if key != "pixel_value"}
    path.write_text(json.dumps([GOOD_ENTRY, short, {**GOOD_ENTRY, "defect_name": "other"}]))
    with pytest.raises(DataError) as error:
        load(tmp_path)
    assert message(error) == (
        f"{path}: entry 2: pixel_value is missing\n{path}: entry 3: pixel_value = 255 is that of entry 1",
        ENTRY_HELP,
    )


def test_a_configuration_that_is_a_folder_is_said(tmp_path: Path) -> None:
    path = one(tmp_path) / "defects_config.json"
    path.unlink()
    path.mkdir()
    with pytest.raises(DataError) as error:
        load(tmp_path)
    assert message(error) == (f"{path}: cannot be read (Is a directory)", None)


# --- defects one by one


def test_the_defects_of_an_image_come_apart_in_the_order_of_their_files(tmp_path: Path) -> None:
    one(tmp_path)
    dataset = load(tmp_path)
    sample = dataset.test[4]
    found = load_defects(sample, CONFIGS)
    assert [config.name for config, _ in found] == ["missing_part", "swapped_part", "missing_part"]
    assert [(pixels.shape, pixels.dtype.name, int(pixels.sum())) for _, pixels in found] == [((32, 40), "bool", 24)] * 3
    assert [int(np.flatnonzero(pixels.any(axis=1))[0]) for _, pixels in found] == [4, 5, 6]
    union = load_mask(sample)
    assert union is not None
    assert np.array_equal(np.any([pixels for _, pixels in found], axis=0), union > 0)


def test_an_image_without_masks_has_no_defects_to_read(tmp_path: Path) -> None:
    home = one(tmp_path)
    shutil.rmtree(home / f"ground_truth/{LOGICAL}/000")
    dataset = load(tmp_path)
    assert load_defects(dataset.test[0], CONFIGS) == []
    assert load_defects(dataset.test[2], CONFIGS) == []


VALUE_HELP = "The value of a mask says which kind of defect it shows."
ONE_HELP = "A mask file shows one defect, in the value of its kind."


@pytest.mark.parametrize(
    ("pixels", "expected", "help"),
    [
        ([[0, 7, 7]], " has the value 7, defects_config.json has 253, 254, 255", VALUE_HELP),
        ([[0, 0, 0]], " has no value above 0, expected one", ONE_HELP),
        ([[255, 0, 254]], " has the values 254, 255 above 0, expected one", ONE_HELP),
        ([list(range(13))], " has the values 1, 2, 3, 4, 5, 6, 7, 8 and 4 more above 0, expected one", ONE_HELP),
    ],
    ids=["unknown", "empty", "two", "many"],
)
def test_a_mask_must_show_one_known_defect(tmp_path: Path, pixels: list[list[int]], expected: str, help: str) -> None:
    home = one(tmp_path)
    path = home / f"ground_truth/{LOGICAL}/001/001.png"
    whole = np.zeros(trees.SIZE, np.uint8)
    whole[: len(pixels), : len(pixels[0])] = pixels
    assert cv2.imwrite(str(path), whole)
    dataset = load(tmp_path)
    with pytest.raises(DataError) as error:
        load_defects(dataset.test[3], CONFIGS)
    assert message(error) == (f"{path}{expected}", help)


def test_without_entries_no_value_is_known(tmp_path: Path) -> None:
    one(tmp_path)
    sample = load(tmp_path).test[2]
    with pytest.raises(DataError) as error:
        load_defects(sample, ())
    assert message(error) == (f"{sample.masks[0]} has the value 255, defects_config.json has no value", VALUE_HELP)


def test_a_defect_must_have_the_size_of_its_image(tmp_path: Path) -> None:
    home = one(tmp_path)
    path = trees.mask(home / f"ground_truth/{LOGICAL}/000/000.png", size=(30, 40))
    with pytest.raises(DataError) as error:
        load_defects(load(tmp_path).test[2], CONFIGS)
    assert message(error) == (
        f"{path} is 30x40, its image is 32x40 (height x width)",
        "A mask must have the size of its image, as displayed.",
    )


def test_images_and_masks_are_compared_as_displayed(tmp_path: Path) -> None:
    Image = pytest.importorskip("PIL.Image", reason="writing a PNG with an orientation needs Pillow")
    turned = Image.Exif()
    turned[0x0112] = 6  # to be turned by 90 degrees
    picture, truth = tmp_path / "x.png", tmp_path / "x_mask.png"
    Image.fromarray(np.full((4, 6), 9, np.uint8)).save(picture, exif=turned)
    pixels = np.zeros((6, 4), np.uint8)
    pixels[0, 3] = 254
    Image.fromarray(pixels).save(truth)
    sample = Sample(str(picture), "x.png", "test", 1, LOGICAL, "c", masks=(str(truth),))
    ((config, found),) = load_defects(sample, CONFIGS)
    assert config.name == "swapped_part"
    assert np.argwhere(found).tolist() == [[0, 3]]
    # A mask that is stored turned itself is turned upright.
    Image.fromarray(np.rot90(pixels)).save(truth, exif=turned)
    assert np.argwhere(load_defects(sample, CONFIGS)[0][1]).tolist() == [[0, 3]]


def test_mask_values_are_read_as_stored(tmp_path: Path) -> None:
    values = np.array([[0, 200], [7, 255]], np.uint8)
    files = {
        "grey": values,
        "rgb": np.dstack([values] * 3),
        "rgba": np.dstack([values, values, values, np.full((2, 2), 30, np.uint8)]),
        "deep": values.astype(np.uint16) * 257,
    }
    for name, pixels in files.items():
        path = tmp_path / f"{name}.png"
        assert cv2.imwrite(str(path), pixels)
        expected = files["deep"] if name == "deep" else values
        found = read_mask_values(path, size=Size(2, 2))
        assert np.array_equal(found, expected), name
        assert found.dtype == expected.dtype
    coloured = tmp_path / "coloured.png"
    assert cv2.imwrite(str(coloured), np.dstack([values, values, np.flipud(values)]))
    with pytest.raises(DataError) as error:
        read_mask_values(coloured)
    assert message(error) == (
        f"{coloured} has coloured pixels, expected grey ones: their value has a meaning",
        None,
    )


def test_the_five_categories_are_those_of_the_documentation() -> None:
    """The loader takes any; its docstring must name the published ones."""
    text = mvtec_loco.__doc__ or ""
    assert len(trees.LOCO_CATEGORIES) == 5
    assert all(re.search(rf"\b{name}\b", text) for name in trees.LOCO_CATEGORIES)


def test_the_loader_itself_can_be_called_with_a_place(tmp_path: Path) -> None:
    one(tmp_path)
    where = Where(str(tmp_path))
    assert mvtec_loco.list_categories(where) == ["pushpins"]
    assert mvtec_loco.load(where, "pushpins") == load(tmp_path)
    assert mvtec_loco.recognises(str(tmp_path))
    assert not mvtec.recognises(str(tmp_path))
