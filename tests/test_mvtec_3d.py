"""MVTec 3D-AD: its colour images and their masks, and neither scans nor masks taken for images."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
import trees_mvtec
import trees_mvtec_like as trees
from parts import mask_sums, message, relatives

from uadctl.datasets import list_categories, load_dataset, mvtec_3d, recognise
from uadctl.datasets.base import LayoutError, NoLayout
from uadctl.errors import DataError

CATEGORIES = ("bagel", "cable_gland", "carrot", "cookie", "dowel", "foam", "peach", "potato", "rope", "tire")
ONLY = "It must hold the images; only rgb/, gt/, ground_truth/, xyz/ may be in"


def fails(root: Path, category: str = "bagel") -> list[tuple[str, str | None]]:
    with pytest.raises(LayoutError) as error:
        load_dataset("mvtec_3d", str(root), category=category)
    return [(problem.message, problem.help) for problem in error.value.problems]


def test_a_category_is_its_colour_images(tmp_path: Path) -> None:
    home = trees.mvtec_3d(tmp_path) / "tire"
    assert list_categories("mvtec_3d", str(tmp_path)) == ["bagel", "tire"]
    dataset = load_dataset("mvtec_3d_ad", str(tmp_path), category="tire")
    assert (dataset.name, dataset.category, dataset.root) == ("mvtec_3d", "tire", str(tmp_path))
    assert relatives(dataset.train) == [f"train/good/rgb/00{n}.png" for n in range(3)]
    assert {(s.split, s.label, s.defect, s.category, s.masks) for s in dataset.train} == {
        ("train", 0, "good", "tire", ())
    }
    assert [(s.relative, s.split, s.label, s.defect) for s in dataset.validation] == [
        (f"validation/good/rgb/00{n}.png", "validation", 0, "good") for n in range(2)
    ]
    assert dataset.left_out == ()
    kinds = ("combined", "cut", "good", "hole")
    assert [(s.relative, s.label, s.defect, s.masks) for s in dataset.test] == [
        (
            f"test/{kind}/rgb/00{n}.png",
            0 if kind == "good" else 1,
            kind,
            () if kind == "good" else (f"{home}/test/{kind}/gt/00{n}.png",),
        )
        for kind in kinds
        for n in range(2)
    ]
    assert [s.path for s in dataset.test] == [f"{home}/{s.relative}" for s in dataset.test]
    assert mask_sums(dataset) == [20, 40, 20, 40, 0, 0, 20, 40]
    assert dataset.problems() == []


def test_no_scan_and_no_mask_is_an_image(tmp_path: Path) -> None:
    trees.mvtec_3d(tmp_path)
    trees.mask(tmp_path / "bagel/train/good/gt/000.png")
    dataset = load_dataset("mvtec_3d", str(tmp_path), category="bagel")
    everything = (*dataset.train, *dataset.validation, *dataset.test, *dataset.left_out)
    assert len(everything) == 11
    assert {sample.relative.split("/")[2] for sample in everything} == {"rgb"}


def test_the_root_may_be_one_category_and_other_categories_are_read(tmp_path: Path) -> None:
    assert all(re.search(rf"\b{name}\b", mvtec_3d.__doc__ or "") for name in CATEGORIES)
    trees.mvtec_3d(tmp_path, CATEGORIES)
    shutil.copytree(tmp_path / "rope", tmp_path / "gear")
    (tmp_path / "calibration").mkdir()
    assert list_categories("mvtec_3d", str(tmp_path)) == sorted([*CATEGORIES, "gear"])
    assert list_categories("mvtec_3d", str(tmp_path / "gear")) == ["gear"]
    assert len(load_dataset("mvtec_3d", str(tmp_path / "gear")).test) == 4


def test_masks_of_3d_adam_lie_in_ground_truth(tmp_path: Path) -> None:
    home = trees.mvtec_3d(tmp_path, ["1m1"], truth="ground_truth") / "1m1"
    dataset = load_dataset("mvtec_3d", str(tmp_path))
    assert dataset.test[0].masks == (f"{home}/test/dent/ground_truth/000.png",)
    assert mask_sums(dataset) == [20, 40, 0, 0]
    (home / "test/dent/ground_truth/001.png").unlink()
    assert load_dataset("mvtec_3d", str(tmp_path)).problems() == [
        f"{home}/test/dent/rgb/001.png: no mask at {home}/test/dent/ground_truth/001.png"
    ]
    for scans in tmp_path.rglob("xyz"):
        shutil.rmtree(scans)
    assert mvtec_3d.recognises(str(tmp_path))  # known by its masks alone


def test_defects_among_training_images_are_left_out_with_their_masks(tmp_path: Path) -> None:
    home = trees.mvtec_3d(tmp_path) / "bagel"
    trees.picture(home / "train/crack/rgb/000.png")
    trees.picture(home / "validation/hole/rgb/000.png")
    trees.mask(home / "validation/hole/gt/000.png")
    dataset = load_dataset("mvtec_3d", str(tmp_path), category="bagel")
    assert [(s.relative, s.split, s.label, s.defect, s.masks) for s in dataset.left_out] == [
        ("train/crack/rgb/000.png", "train", 1, "crack", ()),
        ("validation/hole/rgb/000.png", "validation", 1, "hole", (f"{home}/validation/hole/gt/000.png",)),
    ]
    assert (len(dataset.train), len(dataset.validation), len(dataset.test)) == (3, 2, 6)
    assert dataset.problems() == []


def test_a_missing_mask_is_named_and_the_others_keep_theirs(tmp_path: Path) -> None:
    home = trees.mvtec_3d(tmp_path) / "bagel"
    (home / "test/combined/gt/000.png").unlink()
    dataset = load_dataset("mvtec_3d", str(tmp_path), category="bagel")
    assert dataset.problems() == [f"{home}/test/combined/rgb/000.png: no mask at {home}/test/combined/gt/000.png"]
    assert mask_sums(dataset) == [None, 40, 20, 40, 0, 0]
    shutil.rmtree(home / "test/crack/gt")
    dataset = load_dataset("mvtec_3d", str(tmp_path), category="bagel")
    assert mask_sums(dataset) == [None, 40, None, None, 0, 0]
    assert dataset.missing_masks()[-1].expected_mask == f"{home}/test/crack/gt/001.png"


def test_suffixes_match_in_any_case_and_two_images_share_no_mask(tmp_path: Path) -> None:
    home = trees.mvtec_3d(tmp_path) / "bagel"
    (home / "test/crack/rgb/000.png").rename(home / "test/crack/rgb/000.PNG")
    (home / "test/crack/gt/000.png").rename(home / "test/crack/gt/000.bmp")
    assert mask_sums(load_dataset("mvtec_3d", str(tmp_path), category="bagel"))[2:4] == [20, 40]
    trees.picture(home / "test/crack/rgb/000.jpg")
    with pytest.raises(DataError) as error:
        load_dataset("mvtec_3d", str(tmp_path), category="bagel")
    crack = f"{home}/test/crack"
    assert message(error)[0] == f"{crack}/rgb/000.PNG and {crack}/rgb/000.jpg share one mask, {crack}/gt/000.bmp"


def test_all_that_is_wrong_is_said_at_once(tmp_path: Path) -> None:
    home = trees.mvtec_3d(tmp_path) / "bagel"
    trees.picture(home / "train/loose.png")
    trees.picture(home / "train/good/loose.png")
    shutil.rmtree(home / "test/combined/rgb")
    (home / "test/crack/gt").rename(home / "test/crack/GT")
    trees.picture(home / "test/good/depth/000.png")
    trees.picture(home / "test/ok/rgb/000.png")
    (home / "validation").rename(home / "Validation")
    assert fails(tmp_path) == [
        (f"{home}/train/good/loose.png does not lie in rgb/", f"Move it to {home}/train/good/rgb."),
        (
            f"{home}/train/loose.png lies in no defect folder",
            f"Move it to {home}/train/good or to a folder named after its defect.",
        ),
        (
            f"{home}/validation: no such folder; there is {home}/Validation",
            "Case counts in the names of folders: rename it to validation.",
        ),
        (f"{home}/test/combined/rgb: no such folder", f"{ONLY} {home}/test/combined."),
        (
            f"{home}/test/crack/gt: no such folder; there is {home}/test/crack/GT",
            "Case counts in the names of folders: rename it to gt.",
        ),
        (f"{home}/test/good/depth holds images that would be passed over", f"{ONLY} {home}/test/good."),
        (
            f"{home}/test/ok would be a kind of defect; good images lie in good/",
            f"Rename it to good, or move its images to {home}/test/good.",
        ),
    ]


def test_a_kind_without_images_is_an_error(tmp_path: Path) -> None:
    home = trees.mvtec_3d(tmp_path) / "bagel"
    for path in (home / "test/crack/rgb").iterdir():
        path.unlink()
    (home / "test/scratch").mkdir()
    trees.picture(home / "test/hole/000.png")
    assert fails(tmp_path) == [
        (f"{home}/test/crack/rgb holds no image", f"{ONLY} {home}/test/crack."),
        (f"{home}/test/hole/000.png does not lie in rgb/", f"Move it to {home}/test/hole/rgb."),
        (f"{home}/test/scratch/rgb: no such folder", f"{ONLY} {home}/test/scratch."),
    ]


@pytest.mark.parametrize(("gone", "said"), [("train", "train: no such folder"), ("test", "test: no such folder")])
def test_what_a_category_lacks_is_said(tmp_path: Path, gone: str, said: str) -> None:
    home = trees.mvtec_3d(tmp_path) / "bagel"
    shutil.rmtree(home / gone)
    assert list_categories("mvtec_3d", str(tmp_path)) == ["bagel", "tire"]
    assert fails(tmp_path) == [(f"{home}/{said}", "It must hold good/ and a folder for each kind of defect.")]


def test_good_training_images_must_be_there(tmp_path: Path) -> None:
    home = trees.mvtec_3d(tmp_path) / "bagel"
    (home / "train/good").rename(home / "train/crack")
    assert fails(tmp_path) == [(f"{home}/train/good holds no image", "It must hold the good training images.")]


def test_scans_alone_are_a_sign_of_the_layout_in_whatever_part_is_there(tmp_path: Path) -> None:
    home = trees.mvtec_3d(tmp_path, ["bagel"]) / "bagel"
    for masks in list(tmp_path.rglob("gt")):
        shutil.rmtree(masks)
    assert recognise(str(tmp_path)) == ["mvtec_3d"]
    assert len(load_dataset("mvtec_3d", str(tmp_path)).missing_masks()) == 4
    shutil.rmtree(home / "test")
    assert mvtec_3d.recognises(str(tmp_path))
    assert fails(tmp_path)[0][0] == f"{home}/test: no such folder"


def test_a_category_without_any_sign_is_no_less_asked_for(tmp_path: Path) -> None:
    home = trees.mvtec_3d(tmp_path) / "bagel"
    shutil.rmtree(home / "test")
    shutil.rmtree(home / "train/good/xyz")
    assert list_categories("mvtec_3d", str(tmp_path)) == ["bagel", "tire"]
    assert fails(tmp_path)[0][0] == f"{home}/test: no such folder"


def test_the_order_is_that_of_bytes_and_scans_are_passed_over_in_any_case(tmp_path: Path) -> None:
    home = trees.mvtec_3d(tmp_path) / "bagel"
    trees.picture(home / "test/crack-2/rgb/0.png")
    trees.scan(home / "test/crack-2/XYZ/0.tiff")
    dataset = load_dataset("mvtec_3d", str(tmp_path), category="bagel")
    assert relatives(dataset.test)[2:5] == [
        "test/crack-2/rgb/0.png",
        "test/crack/rgb/000.png",
        "test/crack/rgb/001.png",
    ]


def test_mvtec_refuses_it_even_where_its_colour_images_are_called_otherwise(tmp_path: Path) -> None:
    trees.mvtec_3d(tmp_path)
    for call in (
        lambda: list_categories("mvtec", str(tmp_path)),
        lambda: load_dataset("mvtec", str(tmp_path), category="bagel"),
    ):
        with pytest.raises(NoLayout) as error:
            call()
        assert message(error) == (
            f"{tmp_path} is not laid out as MVTec AD is: it holds bagel/, tire/",
            "It looks like mvtec_3d: give that name in place of mvtec.",
        )
    assert recognise(str(tmp_path)) == recognise(str(tmp_path / "tire")) == ["mvtec_3d"]
    shutil.rmtree(tmp_path / "bagel")
    (tmp_path / "tire/train/good/rgb").rename(tmp_path / "tire/train/good/RGB")
    assert recognise(str(tmp_path)) == ["mvtec_3d"]
    assert fails(tmp_path, "tire") == [
        (
            f"{tmp_path}/tire/train/good/rgb: no such folder; there is {tmp_path}/tire/train/good/RGB",
            "Case counts in the names of folders: rename it to rgb.",
        )
    ]


def test_images_that_mvtec_keeps_in_a_folder_rgb_are_still_its_own(tmp_path: Path) -> None:
    home = tmp_path / "own"
    for place in ("train/good", "test/good", "test/dent"):
        trees.picture(home / place / "rgb/0.png")
    trees.mask(home / "ground_truth/dent/rgb/0_mask.png")
    assert not mvtec_3d.recognises(str(tmp_path))
    assert recognise(str(tmp_path)) == ["mvtec"]
    assert mask_sums(load_dataset("mvtec", str(tmp_path))) == [20, 0]


def test_another_data_set_is_named(tmp_path: Path) -> None:
    root = trees_mvtec.mvtec_ad(tmp_path / "mvtec_ad", ["bottle"])
    assert not mvtec_3d.recognises(str(root))
    with pytest.raises(NoLayout) as error:
        list_categories("mvtec_3d", str(root))
    assert message(error) == (
        f"{root} holds no MVTec 3D-AD category: expected {root}/<category>/train/good/rgb and "
        f"{root}/<category>/test/<defect>/gt, found bottle/",
        "It looks like mvtec: give that name in place of mvtec_3d.",
    )


def test_a_validation_split_by_another_name_is_not_passed_over(tmp_path: Path) -> None:
    home = trees.mvtec_3d(tmp_path) / "bagel"
    (home / "validation").rename(home / "valid")
    said = f"{home}/valid holds images that would be passed over: the validation split is validation/"
    assert fails(tmp_path) == [(said, "Rename it to validation.")]


def test_two_folders_of_masks_for_one_of_images_are_an_error(tmp_path: Path) -> None:
    home = trees.mvtec_3d(tmp_path) / "bagel"
    trees.mask(home / "test/crack/ground_truth/000.png")
    trees.mask(home / "test/good/ground_truth/000.png")  # which says nothing
    top = f"{home}/test/crack"
    assert fails(tmp_path) == [
        (
            f"two folders of masks for one kind of defect: {top}/gt and {top}/ground_truth",
            "Remove the one that is not meant.",
        )
    ]


def test_nothing_is_decoded(tmp_path: Path) -> None:
    trees.mvtec_3d(tmp_path)
    files = [path for path in tmp_path.rglob("*.*") if path.suffix in (".png", ".tiff")]
    assert len(files) == 62
    for path in files:
        path.write_bytes(b"broken")
    assert len(load_dataset("mvtec_3d", str(tmp_path), category="bagel").test) == 6


def test_the_layout_is_looked_for_without_listing_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trees.mvtec_3d(tmp_path)
    looks: list[str] = []
    scandir = mvtec_3d.subfolders
    monkeypatch.setattr(mvtec_3d, "subfolders", lambda path: looks.append(path) or scandir(path))
    assert mvtec_3d.recognises(str(tmp_path))
    assert {path.rpartition("/")[2] for path in looks} == {"test"}
