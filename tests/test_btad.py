"""BTAD: three products in three formats, and what is said where something is wrong."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
import trees_mvtec
import trees_others as trees
from parts import mask_sums, relatives
from parts import message as said

from uadctl.datasets import btad, list_categories, load_dataset
from uadctl.datasets.base import NoLayout, right_case
from uadctl.errors import DataError


@pytest.mark.parametrize(
    ("category", "image", "truth"), [("01", "bmp", "png"), ("02", "png", "png"), ("03", "bmp", "bmp")]
)
def test_each_product_is_read_in_its_formats(tmp_path: Path, category: str, image: str, truth: str) -> None:
    home = trees.btad(tmp_path) / category
    assert list_categories("btad", str(tmp_path)) == ["01", "02", "03"]
    dataset = load_dataset("btad", str(tmp_path), category=category)
    assert (dataset.name, dataset.category, dataset.root) == ("btad", category, str(tmp_path))
    assert relatives(dataset.train) == [f"train/ok/{n:03}.{image}" for n in range(3)]
    assert {(s.split, s.label, s.defect, s.category, s.masks) for s in dataset.train} == {
        ("train", 0, "good", category, ())
    }
    assert (dataset.validation, dataset.left_out) == ((), ())
    assert [(s.relative, s.split, s.label, s.defect, s.masks) for s in dataset.test] == [
        (f"test/ko/000.{image}", "test", 1, "ko", (f"{home}/ground_truth/ko/000.{truth}",)),
        (f"test/ko/001.{image}", "test", 1, "ko", (f"{home}/ground_truth/ko/001.{truth}",)),
        (f"test/ok/000.{image}", "test", 0, "good", ()),
        (f"test/ok/001.{image}", "test", 0, "good", ()),
    ]
    paths, labels, masks = dataset.get_test_paths()
    assert paths == [str(home / sample.relative) for sample in dataset.test]
    assert labels.tolist() == [1, 1, 0, 0]
    assert masks is not None
    assert mask_sums(dataset) == [1, 2, 0, 0]
    assert [mask.shape for mask in masks if mask is not None] == [trees.SIZE] * 4
    assert dataset.problems() == []


def test_the_root_may_be_the_folder_around_it_or_one_product(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    unpacked = trees.btad(tmp_path / "BTech_Dataset_transformed")
    (tmp_path / "notes").mkdir()
    assert list_categories("btad", str(tmp_path)) == ["01", "02", "03"]
    dataset = load_dataset("btad", str(tmp_path), category="03")
    assert dataset.test[0].path == f"{unpacked}/03/test/ko/000.bmp"
    assert dataset.test[0].relative == "test/ko/000.bmp"
    assert dataset.root == str(tmp_path)
    assert btad.recognises(str(tmp_path))

    assert list_categories("btad", str(unpacked / "02")) == ["02"]
    assert btad.recognises(str(unpacked / "02"))
    monkeypatch.chdir(unpacked / "02")
    dataset = load_dataset("btad", ".")
    assert dataset.category == "02"
    assert dataset.train[0].path == "./train/ok/000.png"


def test_other_categories_are_accepted_and_other_folders_are_not(tmp_path: Path) -> None:
    trees.btad(tmp_path)
    shutil.copytree(tmp_path / "01", tmp_path / "panel")
    (tmp_path / "docs").mkdir()
    assert list_categories("btad", str(tmp_path)) == ["01", "02", "03", "panel"]
    assert len(load_dataset("btad", str(tmp_path), category="panel").test) == 4
    with pytest.raises(DataError) as error:
        load_dataset("btad", str(tmp_path), category="panels")
    assert isinstance(error.value, ValueError)
    assert said(error) == (
        f"{tmp_path} has no category 'panels'; did you mean panel? It has: 01, 02, 03, panel",
        None,
    )


def test_suffixes_in_any_case_and_masks_named_with_mask_are_found(tmp_path: Path) -> None:
    home = trees.btad(tmp_path) / "01"
    (home / "train/ok/000.bmp").rename(home / "train/ok/000.BMP")
    (home / "test/ko/000.bmp").rename(home / "test/ko/000.JPEG")
    (home / "ground_truth/ko/000.png").rename(home / "ground_truth/ko/000_mask.PNG")
    dataset = load_dataset("btad", str(tmp_path), category="01")
    assert len(dataset.train) == 3
    assert dataset.test[0].masks == (f"{home}/ground_truth/ko/000_mask.PNG",)
    assert mask_sums(dataset) == [1, 2, 0, 0]
    trees.mask(home / "ground_truth/ko/000.png", 5)  # where there are both, the name that says what it is
    dataset = load_dataset("btad", str(tmp_path), category="01")
    assert dataset.test[0].masks == (f"{home}/ground_truth/ko/000_mask.PNG",)


def test_a_missing_mask_is_named_and_the_others_keep_theirs(tmp_path: Path) -> None:
    home = trees.btad(tmp_path) / "03"
    (home / "ground_truth/ko/000.bmp").unlink()
    dataset = load_dataset("btad", str(tmp_path), category="03")
    assert mask_sums(dataset) == [None, 2, 0, 0]
    assert dataset.problems() == [f"{home}/test/ko/000.bmp: no mask at {home}/ground_truth/ko/000.png"]
    shutil.rmtree(home / "ground_truth")
    dataset = load_dataset("btad", str(tmp_path), category="03")
    assert len(dataset.missing_masks()) == 2
    assert dataset.get_test_paths()[2] is None


def test_defects_among_the_training_images_are_left_out(tmp_path: Path) -> None:
    home = trees.btad(tmp_path) / "02"
    trees.picture(home / "train/ko/000.png")
    for kind in ("ok", "ko"):
        trees.picture(home / f"validation/{kind}/000.png")  # no part of BTAD
    dataset = load_dataset("btad", str(tmp_path), category="02")
    assert (len(dataset.train), dataset.validation) == (3, ())
    assert [(s.relative, s.split, s.label, s.defect) for s in dataset.left_out] == [
        ("train/ko/000.png", "train", 1, "ko")
    ]
    # ground_truth/ko/000.png belongs to the test image of that name
    assert (dataset.left_out[0].masks, dataset.left_out[0].expected_mask) == ((), None)
    assert mask_sums(dataset) == [1, 2, 0, 0]


def test_nothing_is_decoded(tmp_path: Path) -> None:
    trees.btad(tmp_path)
    files = [path for path in tmp_path.rglob("*.*") if path.is_file()]
    assert len(files) == 27
    for path in files:
        path.write_bytes(b"broken")
    assert len(load_dataset("btad", str(tmp_path), category="01").test) == 4
    assert btad.recognises(str(tmp_path))


def test_what_a_product_lacks_is_said(tmp_path: Path) -> None:
    root = trees.btad(tmp_path)
    home = root / "01"

    def fails() -> tuple[str, str | None]:
        with pytest.raises(DataError) as error:
            load_dataset("btad", str(root), category="01")
        return said(error)

    trees.picture(home / "test/scratch/0.png")
    assert fails() == (
        f"{home}/test/scratch/0.png lies neither in ok/ nor in ko/",
        f"{home}/test must hold ok/ and ko/ only.",
    )
    shutil.rmtree(home / "test/scratch")
    trees.picture(home / "train/loose.png")
    assert fails()[0] == f"{home}/train/loose.png lies neither in ok/ nor in ko/"
    (home / "train/loose.png").unlink()

    truth = home / "ground_truth/ko"
    trees.mask(truth / "000.bmp", 1)
    assert fails()[0] == f"two masks for one image: {truth}/000.bmp and {truth}/000.png"
    (truth / "000.bmp").unlink()
    trees.picture(home / "test/ko/000.png")
    assert fails()[0] == f"{home}/test/ko/000.bmp and {home}/test/ko/000.png share one mask, {truth}/000.png"

    shutil.rmtree(home / "test")
    (home / "test").mkdir()
    assert fails() == (f"{home}/test holds no image", "It must hold ok/ and ko/.")
    (home / "test").rmdir()
    assert fails() == (f"{home}/test: no such folder", "It must hold ok/ and ko/.")
    for path in (home / "train/ok").iterdir():
        path.unlink()
    assert fails() == (f"{home}/train/ok holds no image", "It must hold the good training images.")
    trees.picture(home / "train/ko/000.png")
    assert fails() == (f"{home}/train/ok holds no image", "It must hold the good training images.")


def test_folders_in_another_case_are_told_what_to_rename(tmp_path: Path) -> None:
    home = trees.btad(tmp_path) / "01"
    (home / "test/ko").rename(home / "test/KO")
    with pytest.raises(DataError) as error:
        load_dataset("btad", str(tmp_path), category="01")
    assert said(error) == (
        f"{home}/test/ko: no such folder; there is {home}/test/KO",
        "Case counts in the names of folders: rename it to ko.",
    )


def test_a_name_is_in_another_case_only_where_it_differs() -> None:
    assert [right_case(name, ("ok", "ko")) for name in ("KO", "Ok", "ko", "scratch")] == ["ko", "ok", None, None]


@pytest.mark.parametrize("lost", [["train"], ["train/ok"], ["train", "test"]])
def test_a_product_that_is_not_whole_is_no_less_asked_for(tmp_path: Path, lost: list[str]) -> None:
    root = trees.btad(tmp_path)
    for name in lost:
        shutil.rmtree(root / "02" / name)
    (root / "04").mkdir()
    assert list_categories("btad", str(root)) == ["01", "02", "03"]
    with pytest.raises(DataError) as error:
        load_dataset("btad", str(root), category="02")
    assert said(error) == (f"{root}/02/train/ok: no such folder", "It must hold the good training images.")


def test_another_data_set_is_named(tmp_path: Path) -> None:
    def fails(root: Path) -> tuple[str, str | None]:
        with pytest.raises(NoLayout) as error:
            list_categories("btad", str(root))
        return said(error)

    expected = "holds no BTAD product: expected"
    root = trees_mvtec.mvtec_ad(tmp_path / "mvtec_ad", ["bottle"])
    assert fails(root) == (
        f"{root} {expected} {root}/<category>/train/ok, found bottle/",
        "It looks like mvtec: give that name in place of btad.",
    )
    root = trees.visa_original(tmp_path / "VisA")
    assert fails(root) == (
        f"{root} {expected} {root}/<category>/train/ok, found candle/, pcb1/, split_csv/, LICENSE-DATASET",
        "It looks like visa: give that name in place of btad.",
    )
    (tmp_path / "empty").mkdir()
    root = tmp_path / "empty"
    assert fails(root) == (
        f"{root} {expected} {root}/<category>/train/ok, found nothing",
        "For another layout, use the data set `folder`, with [dataset.files] where its names differ.",
    )
    with pytest.raises(DataError) as missing:
        list_categories("btad", str(tmp_path / "nowhere"))
    assert said(missing) == (f"{tmp_path}/nowhere: no such folder", None)


def test_only_ok_and_ko_are_recognised(tmp_path: Path) -> None:
    assert not btad.recognises(str(trees_mvtec.mvtec_ad(tmp_path / "mvtec_ad")))
    assert not btad.recognises(str(trees.visa_original(tmp_path / "VisA")))
    trees.picture(tmp_path / "half/01/train/ok/0.png")
    assert not btad.recognises(str(tmp_path / "half"))
    (tmp_path / "half/01/test/ko").mkdir(parents=True)
    assert btad.recognises(str(tmp_path / "half"))
    with pytest.raises(DataError):
        btad.recognises(str(tmp_path / "nowhere"))


def test_the_order_is_that_of_bytes(tmp_path: Path) -> None:
    home = trees.btad(tmp_path) / "02"
    for name in ("10.png", "9.png", "B.png", "a.png", "sub/0.png"):
        trees.picture(home / "test/ok" / name)
    names = relatives(load_dataset("btad", str(tmp_path), category="02").test)
    assert names == sorted(names, key=os.fsencode)
    assert names[2:] == [
        "test/ok/000.png",
        "test/ok/001.png",
        "test/ok/10.png",
        "test/ok/9.png",
        "test/ok/B.png",
        "test/ok/a.png",
        "test/ok/sub/0.png",
    ]
