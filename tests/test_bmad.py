"""BMAD: sets with masks and without, in folders that differ from copy to copy."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import trees_mvtec
import trees_mvtec_like as trees
from parts import mask_sums, message, relatives

from uadctl.datasets import bmad, list_categories, load_dataset, recognise
from uadctl.datasets.base import LayoutError, NoLayout
from uadctl.errors import DataError

BOTH = "It must hold good/ and Ungood/."
ONLY = "It must hold the images; only img/, label/, anomaly_mask/ may be in"


def fails(root: Path, category: str = "Brain") -> list[tuple[str, str | None]]:
    with pytest.raises(LayoutError) as error:
        load_dataset("bmad", str(root), category=category)
    return [(problem.message, problem.help) for problem in error.value.problems]


def test_a_set_with_masks(tmp_path: Path) -> None:
    home = trees.bmad(tmp_path) / "Brain"
    assert list_categories("bmad", str(tmp_path)) == ["Brain", "Histopathology"]
    dataset = load_dataset("bmad", str(tmp_path), category="Brain")
    assert (dataset.name, dataset.category, dataset.root) == ("bmad", "Brain", str(tmp_path))
    assert relatives(dataset.train) == [f"train/good/img/0000{n}_60.png" for n in range(3)]
    assert [(s.relative, s.split, s.label, s.defect) for s in dataset.validation] == [
        (f"valid/good/img/0002{n}_96.png", "validation", 0, "good") for n in range(2)
    ]
    assert [(s.relative, s.split, s.label, s.defect, s.masks) for s in dataset.left_out] == [
        ("valid/Ungood/img/00124_60.png", "validation", 1, "Ungood", (f"{home}/valid/Ungood/label/00124_60.png",))
    ]
    assert [(s.relative, s.label, s.defect, s.masks) for s in dataset.test] == [
        *(
            (f"test/Ungood/img/0012{n}_70.png", 1, "Ungood", (f"{home}/test/Ungood/label/0012{n}_70.png",))
            for n in range(3)
        ),
        *((f"test/good/img/0002{n}_96.png", 0, "good", ()) for n in range(2)),
    ]
    assert [s.path for s in dataset.test] == [f"{home}/{s.relative}" for s in dataset.test]
    assert mask_sums(dataset) == [20, 40, 60, 0, 0]
    assert dataset.problems() == []


def test_a_set_without_masks_misses_none(tmp_path: Path) -> None:
    trees.bmad(tmp_path)
    dataset = load_dataset("bmad", str(tmp_path), category="Histopathology")
    assert relatives(dataset.train) == [f"train/good/100{n}.png" for n in range(3)]
    assert relatives(dataset.validation) == ["valid/good/1000.png", "valid/good/1001.png"]
    assert relatives(dataset.left_out) == ["valid/Ungood/1000.png"]
    assert [(s.relative, s.label, s.masks, s.expected_mask) for s in dataset.test] == [
        *((f"test/Ungood/10{n}.png", 1, (), None) for n in range(3)),
        *((f"test/good/100{n}.png", 0, (), None) for n in range(2)),
    ]
    assert dataset.get_test_paths()[2] is None
    assert dataset.problems() == []


def test_each_folder_may_have_img_or_none(tmp_path: Path) -> None:
    # anomalib's copy: no img/ in train/good, but in the others, those of sets without masks included.
    trees.bmad(tmp_path)
    good = tmp_path / "Brain/train/good"
    for path in (good / "img").iterdir():
        path.rename(good / path.name)
    (good / "img").rmdir()
    for kind in ("valid/good", "valid/Ungood", "test/good", "test/Ungood"):
        folder = tmp_path / "Histopathology" / kind
        files = list(folder.iterdir())
        (folder / "img").mkdir()
        for path in files:
            path.rename(folder / "img" / path.name)
    brain = load_dataset("bmad", str(tmp_path), category="Brain")
    assert relatives(brain.train) == [f"train/good/0000{n}_60.png" for n in range(3)]
    assert mask_sums(brain) == [20, 40, 60, 0, 0]
    tissue = load_dataset("bmad", str(tmp_path), category="Histopathology")
    assert relatives(tissue.test)[2:4] == ["test/Ungood/img/102.png", "test/good/img/1000.png"]
    assert (len(tissue.train), tissue.problems()) == (3, [])


def test_masks_lie_beside_images_without_img_too(tmp_path: Path) -> None:
    folder = trees.bmad(tmp_path) / "Brain/test/Ungood"
    for path in list((folder / "img").iterdir()):
        path.rename(folder / path.name)
    (folder / "img").rmdir()
    dataset = load_dataset("bmad", str(tmp_path), category="Brain")
    assert relatives(dataset.test)[:3] == [f"test/Ungood/0012{n}_70.png" for n in range(3)]
    assert mask_sums(dataset) == [20, 40, 60, 0, 0]


def test_label_in_good_is_neither_an_image_nor_a_mask(tmp_path: Path) -> None:
    home = trees.bmad(tmp_path) / "Brain"
    for n in range(2):
        trees.mask(home / f"test/good/label/0002{n}_96.png", defects=4)
        trees.mask(home / f"valid/good/label/0002{n}_96.png", defects=4)
    dataset = load_dataset("bmad", str(tmp_path), category="Brain")
    assert (len(dataset.test), len(dataset.validation)) == (5, 2)
    assert mask_sums(dataset) == [20, 40, 60, 0, 0]


def test_masks_may_lie_in_anomaly_mask(tmp_path: Path) -> None:
    folder = trees.bmad(tmp_path) / "Brain/test/Ungood"
    (folder / "label").rename(folder / "anomaly_mask")
    (folder / "anomaly_mask/00122_70.png").unlink()
    dataset = load_dataset("bmad", str(tmp_path), category="Brain")
    assert mask_sums(dataset) == [20, 40, None, 0, 0]
    assert dataset.problems() == [f"{folder}/img/00122_70.png: no mask at {folder}/anomaly_mask/00122_70.png"]


def test_a_set_with_any_mask_misses_the_others(tmp_path: Path) -> None:
    home = trees.bmad(tmp_path) / "Brain"
    shutil.rmtree(home / "test/Ungood/label")
    dataset = load_dataset("bmad", str(tmp_path), category="Brain")
    assert [s.expected_mask for s in dataset.missing_masks()] == [
        f"{home}/test/Ungood/label/0012{n}_70.png" for n in range(3)
    ]
    shutil.rmtree(home / "valid/Ungood/label")
    assert load_dataset("bmad", str(tmp_path), category="Brain").problems() == []


def test_bad_training_images_are_left_out(tmp_path: Path) -> None:
    home = trees.bmad(tmp_path) / "Brain"
    trees.picture(home / "train/Ungood/img/9.png")
    dataset = load_dataset("bmad", str(tmp_path), category="Brain")
    assert relatives(dataset.left_out) == ["train/Ungood/img/9.png", "valid/Ungood/img/00124_60.png"]
    assert (len(dataset.train), dataset.problems()) == (3, [])


def test_valid_need_not_be_there_but_is_not_called_otherwise(tmp_path: Path) -> None:
    home = trees.bmad(tmp_path) / "Brain"
    (home / "valid").rename(home / "Valid")
    assert fails(tmp_path) == [
        (
            f"{home}/valid: no such folder; there is {home}/Valid",
            "Case counts in the names of folders: rename it to valid.",
        )
    ]
    shutil.rmtree(home / "Valid")
    assert bmad.recognises(str(home))
    dataset = load_dataset("bmad", str(tmp_path), category="Brain")
    assert (dataset.validation, dataset.left_out, len(dataset.test)) == ((), (), 5)


def test_names_in_another_case_are_said(tmp_path: Path) -> None:
    home = trees.bmad(tmp_path) / "Brain"
    (home / "test/Ungood").rename(home / "test/UNGOOD")
    (home / "valid/Ungood").rename(home / "valid/ungood")
    (home / "train/good/img").rename(home / "train/good/IMG")
    rename = "Case counts in the names of folders: rename it to"
    assert bmad.recognises(str(home))
    assert fails(tmp_path) == [
        (f"{home}/train/good/img: no such folder; there is {home}/train/good/IMG", f"{rename} img."),
        (f"{home}/valid/Ungood: no such folder; there is {home}/valid/ungood", f"{rename} Ungood."),
        (f"{home}/test/Ungood: no such folder; there is {home}/test/UNGOOD", f"{rename} Ungood."),
    ]


def test_masks_in_another_case_are_no_images_and_not_missed_in_silence(tmp_path: Path) -> None:
    home = trees.bmad(tmp_path) / "Histopathology"
    trees.mask(home / "test/Ungood/Label/100.png")
    assert fails(tmp_path, "Histopathology") == [
        (
            f"{home}/test/Ungood/label: no such folder; there is {home}/test/Ungood/Label",
            "Case counts in the names of folders: rename it to label.",
        )
    ]


def test_images_that_would_be_passed_over_are_errors(tmp_path: Path) -> None:
    home = trees.bmad(tmp_path) / "Brain"
    trees.picture(home / "test/good/7.png")
    trees.picture(home / "test/Ungood/more/7.png")
    trees.picture(home / "test/tumour/7.png")
    trees.picture(home / "test/7.png")
    shutil.rmtree(home / "valid/Ungood/img")
    assert fails(tmp_path) == [
        (f"{home}/valid/Ungood/img: no such folder", f"{ONLY} {home}/valid/Ungood."),
        (f"{home}/test/Ungood/more holds images that would be passed over", f"{ONLY} {home}/test/Ungood."),
        (f"{home}/test/good/7.png does not lie in img/", f"Move it to {home}/test/good/img."),
        (f"{home}/test/7.png lies neither in good/ nor in Ungood/", None),
        (
            f"{home}/test/tumour/7.png lies neither in good/ nor in Ungood/",
            f"{home}/test must hold good/ and Ungood/ only.",
        ),
    ]


def test_empty_splits_are_errors(tmp_path: Path) -> None:
    home = trees.bmad(tmp_path) / "Histopathology"
    for kind in ("test/good", "test/Ungood"):
        for path in (home / kind).iterdir():
            path.unlink()
    assert fails(tmp_path, "Histopathology") == [(f"{home}/test holds no image", BOTH)]
    shutil.rmtree(home / "test")
    assert fails(tmp_path, "Histopathology") == [(f"{home}/test: no such folder", BOTH)]
    trees.picture(home / "test/good/1.png")
    shutil.rmtree(home / "train/good")
    assert fails(tmp_path, "Histopathology") == [
        (f"{home}/train/good holds no image", "It must hold the good training images.")
    ]
    shutil.rmtree(home / "train")
    assert fails(tmp_path, "Histopathology") == [(f"{home}/train: no such folder", BOTH)]


def test_a_set_that_is_not_whole_is_no_less_asked_for(tmp_path: Path) -> None:
    trees.bmad(tmp_path)
    shutil.rmtree(tmp_path / "Brain/test")
    shutil.rmtree(tmp_path / "Brain/valid")
    (tmp_path / "docs").mkdir()
    assert list_categories("bmad", str(tmp_path)) == ["Brain", "Histopathology"]
    assert fails(tmp_path) == [(f"{tmp_path}/Brain/test: no such folder", BOTH)]
    assert list_categories("bmad", str(tmp_path / "Histopathology")) == ["Histopathology"]
    with pytest.raises(DataError) as error:
        load_dataset("bmad", str(tmp_path), category="brain")
    assert message(error)[0] == f"{tmp_path} has no category 'brain'; did you mean Brain? It has: Brain, Histopathology"


def test_mvtec_refuses_it(tmp_path: Path) -> None:
    trees.bmad(tmp_path)
    assert recognise(str(tmp_path)) == recognise(str(tmp_path / "Histopathology")) == ["bmad"]
    for call in (
        lambda: list_categories("mvtec", str(tmp_path)),
        lambda: load_dataset("mvtec", str(tmp_path), category="Brain"),
    ):
        with pytest.raises(NoLayout) as error:
            call()
        assert message(error) == (
            f"{tmp_path} is not laid out as MVTec AD is: it holds Brain/, Histopathology/",
            "It looks like bmad: give that name in place of mvtec.",
        )


def test_another_data_set_is_named(tmp_path: Path) -> None:
    root = trees_mvtec.mvtec_ad(tmp_path / "ad", ["bottle"])
    assert not bmad.recognises(str(root))
    with pytest.raises(NoLayout) as error:
        list_categories("bmad", str(root))
    assert message(error) == (
        f"{root} holds no BMAD set: expected {root}/<category>/train/good and {root}/<category>/test/Ungood, found bottle/",
        "It looks like mvtec: give that name in place of bmad.",
    )


def test_a_kind_of_defect_of_mvtec_may_be_called_so(tmp_path: Path) -> None:
    home = trees_mvtec.mvtec_ad(tmp_path, ["bottle"]) / "bottle"
    before = load_dataset("mvtec", str(tmp_path))
    for name, other in (("broken_large", "ungood"), ("ungood", "Ungood")):
        for part in ("test", "ground_truth"):
            (home / part / name).rename(home / part / other)
        dataset = load_dataset("mvtec", str(tmp_path))
        assert recognise(str(tmp_path)) == ["mvtec"]
        assert list_categories("mvtec", str(tmp_path)) == ["bottle"]
        assert (len(dataset.test), dataset.problems()) == (len(before.test), [])
        assert other in {sample.defect for sample in dataset.test}
    (home / "ground_truth").rename(home / "Ground_Truth")  # which mvtec says to rename
    assert recognise(str(tmp_path)) == ["mvtec"]
    shutil.rmtree(home / "Ground_Truth")
    assert recognise(str(tmp_path)) == ["bmad"]
    (home / "test/Ungood").rename(home / "test/ungood")
    assert recognise(str(tmp_path)) == ["mvtec"]  # with other kinds beside it, its case counts
    for kind in ("broken_small", "contamination"):
        shutil.rmtree(home / "test" / kind)
    assert recognise(str(tmp_path)) == ["bmad"]
    trees.picture(home / "valid/dent/1.png")
    assert recognise(str(tmp_path)) == ["mvtec"]


@pytest.mark.parametrize("name", ["validation", "Validation", "val"])
def test_a_validation_split_by_another_name_is_not_passed_over(tmp_path: Path, name: str) -> None:
    home = trees.bmad(tmp_path) / "Brain"
    shutil.copytree(home / "valid", home / name)
    said = f"{home}/{name} holds images that would be passed over: the validation split is valid/"
    assert fails(tmp_path) == [(said, f"Move its images to {home}/valid, or take it away.")]
    shutil.copytree(home / "valid", home / "Valid")
    move = f"Move its images to {home}/valid, or take it away."
    assert set(fails(tmp_path)) == {(said, move), (said.replace(f"{home}/{name}", f"{home}/Valid"), move)}
    shutil.rmtree(home / "Valid")
    shutil.rmtree(home / "valid")
    assert fails(tmp_path) == [(said, "Rename it to valid.")]
    for path in (home / name).rglob("*.png"):
        path.unlink()
    assert load_dataset("bmad", str(tmp_path), category="Brain").validation == ()


def test_two_folders_of_masks_for_one_of_images_are_an_error(tmp_path: Path) -> None:
    home = trees.bmad(tmp_path) / "Brain"
    for kind in ("test/Ungood", "valid/Ungood", "test/good"):  # in good/ they say nothing
        trees.mask(home / kind / "anomaly_mask/00121_70.png")
    trees.mask(home / "test/good/label/1.png")
    remove = "Remove the one that is not meant."
    assert fails(tmp_path) == [
        (f"two folders of masks for one kind of defect: {top}/label and {top}/anomaly_mask", remove)
        for top in (home / "valid/Ungood", home / "test/Ungood")
    ]


def test_a_folder_in_another_case_beside_the_right_one_is_said(tmp_path: Path) -> None:
    home = trees.bmad(tmp_path) / "Brain"
    trees.picture(home / "test/ungood/img/1.png")
    assert fails(tmp_path) == [
        (
            f"{home}/test/ungood differs from Ungood/ beside it in case alone",
            f"Case counts in the names of folders: move its images to {home}/test/Ungood.",
        )
    ]


def test_nothing_is_decoded(tmp_path: Path) -> None:
    trees.bmad(tmp_path)
    files = list(tmp_path.rglob("*.png"))
    assert len(files) == 26
    for path in files:
        path.write_bytes(b"broken")
    assert len(load_dataset("bmad", str(tmp_path), category="Brain").test) == 5
