"""MVTec AD 2: its three test splits, two of them without ground truth."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import trees_mvtec as trees
from parts import message

from uadctl.datasets import Dataset, Where, list_categories, list_splits, load_dataset, mvtec_ad2, recognise
from uadctl.errors import DataError
from uadctl.spec.data_sets import DATASETS

PRIVATE = ("test_private", "test_private_mixed")


def load(root: Path, split: str | None = None, category: str = "can") -> Dataset:
    return load_dataset("mvtec_ad2", str(root), category=category, split=split)


def one(root: Path) -> Path:
    """A tree of one category; its folder."""
    return trees.mvtec_ad2(root, ["can"]) / "can"


def relatives(dataset: Dataset) -> list[str]:
    return [sample.relative for sample in dataset.test]


# --- the layout as published


def test_the_eight_objects_are_found_and_any_other_beside_them(tmp_path: Path) -> None:
    trees.mvtec_ad2(tmp_path)
    assert len(trees.AD2_CATEGORIES) == 8
    assert list_categories("mvtec_ad2", str(tmp_path)) == list(trees.AD2_CATEGORIES)
    assert all(re.search(rf"\b{name}\b", mvtec_ad2.__doc__ or "") for name in trees.AD2_CATEGORIES)
    shutil.copytree(tmp_path / "rice", tmp_path / "beans")
    assert list_categories("ad2", str(tmp_path), split="test_private") == ["beans", *trees.AD2_CATEGORIES]
    assert len(load(tmp_path, category="beans").test) == 24


def test_the_splits_are_those_of_the_registry() -> None:
    assert DATASETS["mvtec_ad2"].splits == mvtec_ad2.SPLITS == ("test_public", *PRIVATE)


@pytest.mark.parametrize("category", trees.AD2_CATEGORIES)
def test_the_public_split_is_the_default(tmp_path: Path, category: str) -> None:
    home = trees.mvtec_ad2(tmp_path, [category]) / category
    dataset = load(tmp_path, category=category)
    assert dataset == load(tmp_path, "test_public", category)
    assert (dataset.name, dataset.category, dataset.root) == ("mvtec_ad2", category, str(tmp_path))
    assert [s.relative for s in dataset.train] == [f"train/good/00{i}_regular.png" for i in range(3)]
    assert [(s.relative, s.split, s.label, s.defect) for s in dataset.validation] == [
        ("validation/good/000_regular.png", "validation", 0, "good"),
        ("validation/good/001_regular.png", "validation", 0, "good"),
    ]
    names = [f"00{i}_{light}" for i in range(2) for light in trees.AD2_LIGHTS]
    bad = [f"test_public/bad/{name}.png" for name in names]
    assert relatives(dataset) == bad + [f"test_public/good/{name}.png" for name in names]
    assert [(s.label, s.defect) for s in dataset.test] == [(1, "bad")] * 12 + [(0, "good")] * 12
    assert [s.path for s in dataset.test] == [str(home / s.relative) for s in dataset.test]
    truth = "test_public/ground_truth/bad"
    assert [[os.path.relpath(mask, home) for mask in s.masks] for s in dataset.test] == [
        *([f"{truth}/{name}_mask.png"] for name in names),
        *([] for _ in names),
    ]
    assert {s.category for s in dataset.train + dataset.validation + dataset.test} == {category}
    assert {s.split for s in dataset.test} == {"test"}
    assert dataset.missing_masks() == []
    assert (dataset.left_out, dataset.defects) == ((), None)


def test_labels_masks_and_sizes_belong_together(tmp_path: Path) -> None:
    one(tmp_path)
    paths, labels, masks = load(tmp_path).get_test_paths()
    assert masks is not None
    assert len(paths) == len(labels) == len(masks) == 24
    assert labels.tolist() == [1] * 12 + [0] * 12
    found = [mask for mask in masks if mask is not None]
    assert [int(mask.sum()) for mask in found] == [24] * 12 + [0] * 12
    assert {(mask.shape, mask.dtype.name) for mask in found} == {((32, 40), "uint8")}
    resized = load_dataset("mvtec_ad2", str(tmp_path), resize=(64, 20)).get_test_paths()[2]
    assert resized is not None
    assert [(mask.shape, bool(mask.any())) for mask in resized if mask is not None] == [
        *[((64, 20), True)] * 12,
        *[((64, 20), False)] * 12,
    ]


@pytest.mark.parametrize("split", PRIVATE)
def test_of_a_private_split_nothing_is_known(tmp_path: Path, split: str) -> None:
    one(tmp_path)
    dataset = load(tmp_path, split)
    light = {"test_private": "regular", "test_private_mixed": "mixed"}[split]
    assert [(s.relative, s.split, s.label, s.defect, s.masks, s.expected_mask) for s in dataset.test] == [
        (f"{split}/00{i}_{light}.png", "test", -1, "unknown", (), None) for i in range(3)
    ]
    assert (len(dataset.train), len(dataset.validation)) == (3, 2)
    assert dataset.missing_masks() == []
    paths, labels, masks = dataset.get_test_paths()
    assert len(paths) == 3
    assert labels.tolist() == [-1, -1, -1]
    assert labels.dtype == np.int64
    assert masks is None


def test_the_root_may_be_the_category_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = one(tmp_path)
    assert list_categories("mvtec_ad2", str(home)) == ["can"]
    assert relatives(load(home)) == relatives(load(tmp_path))
    monkeypatch.chdir(home)
    dataset = load_dataset("mvtec_ad2", ".", split="test_private")
    assert dataset.category == "can"
    assert dataset.test[0].path == "./test_private/000_regular.png"


def test_suffixes_match_in_any_case_and_masks_may_be_named_like_their_image(tmp_path: Path) -> None:
    home = one(tmp_path)
    public = home / "test_public"
    (public / "bad/000_regular.png").rename(public / "bad/000_regular.PNG")
    (public / "good/000_regular.png").rename(public / "good/000_regular.Png")
    (home / "test_private/001_regular.png").rename(home / "test_private/001_regular.JPG")
    truth = public / "ground_truth/bad"
    (truth / "000_regular_mask.png").rename(truth / "000_regular_mask.PNG")
    (truth / "000_overexposed_mask.png").rename(truth / "000_overexposed.png")
    dataset = load(tmp_path)
    assert dataset.missing_masks() == []
    assert [(Path(s.path).name, Path(s.masks[0]).name) for s in dataset.test[:2]] == [
        ("000_overexposed.png", "000_overexposed.png"),
        ("000_regular.PNG", "000_regular_mask.PNG"),
    ]
    assert "test_public/good/000_regular.Png" in relatives(dataset)
    assert "test_private/001_regular.JPG" in relatives(load(tmp_path, "test_private"))


def test_names_are_sorted_by_their_bytes(tmp_path: Path) -> None:
    home = one(tmp_path)
    shutil.rmtree(home / "test_private")
    for name in ("10", "9", "b", "B", "ä"):
        trees.image(home / f"test_private/{name}.png")
    trees.image(home / "test_private/good/0.png")
    names = ["10.png", "9.png", "B.png", "b.png", "good/0.png", "ä.png"]
    assert relatives(load(tmp_path, "test_private")) == [f"test_private/{name}" for name in names]


# --- masks that are not there


def test_a_missing_mask_is_reported_and_the_others_keep_theirs(tmp_path: Path) -> None:
    home = one(tmp_path)
    truth = home / "test_public/ground_truth/bad"
    (truth / "000_overexposed_mask.png").unlink()
    dataset = load(tmp_path)
    assert dataset.problems() == [
        f"{home}/test_public/bad/000_overexposed.png: no mask at {truth}/000_overexposed_mask.png"
    ]
    masks = dataset.get_test_paths()[2]
    assert masks is not None
    assert [None if mask is None else int(mask.sum()) for mask in masks] == [None] + [24] * 11 + [0] * 12
    shutil.rmtree(home / "test_public/ground_truth")
    assert len(load(tmp_path).missing_masks()) == 12


# --- who knows the private labels


@pytest.mark.parametrize("split", PRIVATE)
def test_a_private_split_may_be_sorted_into_good_and_bad(tmp_path: Path, split: str) -> None:
    home = one(tmp_path)
    shutil.rmtree(home / split)
    for name in ("bad/000_regular.png", "bad/001_regular.png", "good/002_regular.png", "003_regular.png"):
        trees.image(home / split / name)
    dataset = load(tmp_path, split)
    assert [(s.relative, s.label, s.defect, s.masks, s.expected_mask) for s in dataset.test] == [
        (f"{split}/003_regular.png", -1, "unknown", (), None),
        (f"{split}/bad/000_regular.png", 1, "bad", (), None),
        (f"{split}/bad/001_regular.png", 1, "bad", (), None),
        (f"{split}/good/002_regular.png", 0, "good", (), None),
    ]
    assert dataset.get_test_paths()[2] is None
    # Where there is ground truth, all of it must be there.
    path = trees.mask(home / split / "ground_truth/bad/000_regular_mask.png")
    dataset = load(tmp_path, split)
    assert [s.masks for s in dataset.test] == [(), (str(path),), (), ()]
    assert dataset.problems() == [
        f"{home}/{split}/bad/001_regular.png: no mask at {home}/{split}/ground_truth/bad/001_regular_mask.png"
    ]
    masks = dataset.get_test_paths()[2]
    assert masks is not None
    assert [None if mask is None else int(mask.sum()) for mask in masks] == [None, 24, None, 0]


def test_other_folders_say_nothing_of_private_images(tmp_path: Path) -> None:
    home = one(tmp_path)
    trees.image(home / "test_private/regular/000.png")
    with pytest.raises(DataError) as error:
        load(tmp_path, "test_private")
    folder = f"{home}/test_private"
    assert message(error) == (
        f"{folder}/regular/000.png lies in a folder that is neither good/ nor bad/",
        f"Whether the images of {folder} are good is not known: they lie in it itself, or in these two.",
    )


# --- what is no normal image, and what is missing


def test_defects_among_the_training_images_are_left_out(tmp_path: Path) -> None:
    home = one(tmp_path)
    trees.image(home / "train/bad/000_regular.png")
    trees.image(home / "validation/bad/000_regular.png")
    dataset = load(tmp_path)
    assert (len(dataset.train), len(dataset.validation), len(dataset.test)) == (3, 2, 24)
    assert [(s.relative, s.split, s.label, s.defect) for s in dataset.left_out] == [
        ("train/bad/000_regular.png", "train", 1, "bad"),
        ("validation/bad/000_regular.png", "validation", 1, "bad"),
    ]


def test_the_splits_on_disk_are_listed(tmp_path: Path) -> None:
    home = one(tmp_path)
    assert list_splits("ad2", str(tmp_path), category="can") == list(mvtec_ad2.SPLITS)
    shutil.rmtree(home / "test_private")
    assert list_splits("ad2", str(tmp_path), category="can") == ["test_public", "test_private_mixed"]
    assert list_splits("mvtec", "nowhere", category="can") == ["test"]
    with pytest.raises(DataError, match=r" has no category 'cam'; did you mean can\? It has: can$"):
        list_splits("ad2", str(tmp_path), category="cam")
    trees.mvtec_ad(tmp_path / "mvtec")
    with pytest.raises(DataError) as error:
        list_splits("ad2", str(tmp_path / "mvtec"), category="bottle")
    assert error.value.help == "It looks like mvtec: give that name in place of ad2."


def test_good_images_of_the_public_split_do_not_become_defects_by_another_name(tmp_path: Path) -> None:
    home = one(tmp_path)
    (home / "test_public/good").rename(home / "test_public/ok")
    with pytest.raises(DataError) as error:
        load(tmp_path)
    assert message(error) == (
        f"{home}/test_public/ok/000_overexposed.png lies neither in good/ nor in bad/",
        f"{home}/test_public must hold good/ and bad/ only.",
    )
    (home / "test_public/ok").rename(home / "test_public/Good")
    with pytest.raises(DataError) as error:
        load(tmp_path)
    assert message(error) == (
        f"{home}/test_public/good: no such folder; there is {home}/test_public/Good",
        "Case counts in the names of folders: rename it to good.",
    )


def test_an_absent_split_is_an_error_that_lists_those_there_are(tmp_path: Path) -> None:
    home = one(tmp_path)
    shutil.rmtree(home / "test_private_mixed")
    with pytest.raises(DataError) as error:
        load(tmp_path, "test_private_mixed")
    assert message(error) == (
        f"{home}/test_private_mixed: no such folder",
        "can has the splits: test_public, test_private",
    )
    with pytest.raises(ValueError) as unknown:
        load(tmp_path, "test")
    assert str(unknown.value) == (
        "mvtec_ad2 has no split 'test'; it has: test_public, test_private, test_private_mixed"
    )


def test_what_a_category_lacks_is_said(tmp_path: Path) -> None:
    home = one(tmp_path)
    shutil.copytree(home, tmp_path / "vial")
    shutil.rmtree(tmp_path / "vial/train")
    for split in mvtec_ad2.SPLITS:
        shutil.rmtree(home / split)
    with pytest.raises(DataError) as error:
        load(tmp_path)
    assert error.value.message.startswith(f"{tmp_path} holds no MVTec AD 2 category")
    trees.mvtec_ad2(tmp_path, ["rice"])
    assert list_categories("mvtec_ad2", str(tmp_path)) == ["can", "rice", "vial"]
    with pytest.raises(DataError) as error:
        load(tmp_path)
    assert message(error) == (f"{home}/test_public: no such folder", "can has the splits: none")
    with pytest.raises(DataError) as error:
        load(tmp_path, category="vial")
    assert message(error) == (
        f"{tmp_path}/vial/train/good: no such folder",
        "It must hold the good training images.",
    )
    for split in ("test_public", "test_private"):
        (home / split / "good").mkdir(parents=True)
    with pytest.raises(DataError) as error:
        load(tmp_path)
    assert message(error) == (
        f"{home}/test_public holds no image",
        "It must hold good/ and bad/.",
    )
    with pytest.raises(DataError) as error:
        load(tmp_path, "test_private")
    assert message(error) == (f"{home}/test_private holds no image", "It must hold the images to be scored.")
    trees.image(home / "test_public/loose.png")
    with pytest.raises(DataError) as error:
        load(tmp_path)
    assert message(error) == (
        f"{home}/test_public/loose.png lies neither in good/ nor in bad/",
        f"{home}/test_public must hold good/ and bad/ only.",
    )
    with pytest.raises(DataError) as error:
        load(tmp_path, category="rise")
    assert message(error) == (
        f"{tmp_path} has no category 'rise'; did you mean rice? It has: can, rice, vial",
        None,
    )


# --- which data set is which


def test_mvtec_and_loco_refuse_ad2_and_name_it(tmp_path: Path) -> None:
    trees.mvtec_ad2(tmp_path)
    holds = "can/, fabric/, fruit_jelly/, rice/, sheet_metal/, vial/, wallplugs/, walnuts/ and 2 more"
    with pytest.raises(DataError) as error:
        list_categories("mvtec", str(tmp_path))
    assert message(error) == (
        f"{tmp_path} is not laid out as MVTec AD is: it holds {holds}",
        "It looks like mvtec_ad2: give that name in place of mvtec.",
    )
    with pytest.raises(DataError) as error:
        load_dataset("mvtec_loco", str(tmp_path), category="can")
    assert message(error) == (
        f"{tmp_path} holds no MVTec LOCO category: expected {tmp_path}/<category>/train/good and "
        f"{tmp_path}/<category>/test/logical_anomalies, found {holds}",
        "It looks like mvtec_ad2: give that name in place of mvtec_loco.",
    )


def test_ad2_refuses_mvtec_and_loco_and_names_them(tmp_path: Path) -> None:
    loco = "breakfast_box/, juice_bottle/, pushpins/, screw_bag/, splicing_connectors/, license.txt, readme.txt"
    for name, build, holds in (("mvtec", trees.mvtec_ad, "bottle/, screw/"), ("mvtec_loco", trees.mvtec_loco, loco)):
        root = build(tmp_path / name)
        with pytest.raises(DataError) as error:
            list_categories("mvtec_ad2", str(root))
        assert message(error) == (
            f"{root} holds no MVTec AD 2 category: expected {root}/<category>/train/good and "
            f"{root}/<category>/test_public, found {holds}",
            f"It looks like {name}: give that name in place of mvtec_ad2.",
        )


def test_one_split_is_sign_enough(tmp_path: Path) -> None:
    home = one(tmp_path)
    for split in ("test_public", "test_private"):
        assert recognise(str(tmp_path)) == ["mvtec_ad2"]
        shutil.rmtree(home / split)
    assert recognise(str(tmp_path)) == ["mvtec_ad2"]
    assert len(load(tmp_path, "test_private_mixed").test) == 3
    shutil.rmtree(home / "test_private_mixed")
    assert recognise(str(tmp_path)) == []


def test_the_loader_itself_can_be_called_with_a_place(tmp_path: Path) -> None:
    one(tmp_path)
    assert mvtec_ad2.list_categories(Where(str(tmp_path))) == ["can"]
    assert mvtec_ad2.load(Where(str(tmp_path)), "can") == load(tmp_path)
    assert len(mvtec_ad2.load(Where(str(tmp_path), split="test_private"), "can").test) == 3


def test_listing_decodes_nothing(tmp_path: Path) -> None:
    home = one(tmp_path)
    for path in home.rglob("*.png"):
        path.write_bytes(b"broken")
    dataset = load(tmp_path)
    assert len(dataset.test) == 24
    masks = dataset.get_test_paths()[2]
    assert masks is not None
    with pytest.raises(DataError, match="not a PNG"):
        masks[0]


def test_a_benchmark_split_has_the_split_that_was_asked_for(tmp_path: Path) -> None:
    from uadctl import load_benchmark_split

    root = str(trees.mvtec_ad2(tmp_path, ("can",)))
    public = load_benchmark_split("mvtec_ad2", root, category="can", resize=(8, 10))
    assert (len(public.train_paths), len(public.test_paths)) == (3, 24)
    assert public.test_labels.tolist() == [1] * 12 + [0] * 12
    assert public.test_masks is not None
    assert [(mask.shape, bool(mask.any())) for mask in public.test_masks] == [((8, 10), True)] * 12 + [
        ((8, 10), False)
    ] * 12
    private = load_benchmark_split("mvtec_ad2", root, category="can", split="test_private_mixed")
    assert [Path(path).name for path in private.test_paths] == [f"{i:03}_mixed.png" for i in range(3)]
    assert (private.test_labels.tolist(), private.test_masks) == ([-1] * 3, None)
