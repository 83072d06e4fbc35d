"""VAD: bad training images left out, defects of two kinds, no masks."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import trees_mvtec
import trees_mvtec_like as trees
import trees_others
from parts import mask_sums, message, relatives

from uadctl.datasets import list_categories, load_dataset, mvtec, recognise, vad, visa
from uadctl.datasets.base import NoLayout
from uadctl.errors import DataError

ONLY = "It must hold good/, bad/ and bad_unseen_defects/."


def fails(root: Path) -> tuple[str, str | None]:
    with pytest.raises(DataError) as error:
        load_dataset("vad", str(root))
    return message(error)


def test_bad_training_images_are_left_out_and_no_mask_is_missed(tmp_path: Path) -> None:
    home = trees.vad(tmp_path) / "vad"
    assert list_categories("vad", str(tmp_path)) == ["vad"]
    dataset = load_dataset("vad", str(tmp_path))
    assert (dataset.name, dataset.category, dataset.root) == ("vad", "vad", str(tmp_path))
    assert relatives(dataset.train) == [f"train/good/000{n}.png" for n in range(4)]
    assert dataset.validation == ()
    assert [(s.relative, s.split, s.label, s.defect, s.masks, s.expected_mask) for s in dataset.left_out] == [
        (f"train/bad/000{n}.png", "train", 1, "bad", (), None) for n in range(2)
    ]
    assert [(s.relative, s.label, s.defect, s.masks, s.expected_mask) for s in dataset.test] == [
        ("test/bad/0000.png", 1, "bad", (), None),
        ("test/bad/0001.png", 1, "bad", (), None),
        ("test/bad_unseen_defects/0000.png", 1, "bad_unseen_defects", (), None),
        ("test/good/0000.png", 0, "good", (), None),
        ("test/good/0001.png", 0, "good", (), None),
    ]
    assert [s.path for s in dataset.test] == [f"{home}/{s.relative}" for s in dataset.test]
    assert dataset.get_test_paths()[2] is None
    assert dataset.problems() == []


def test_the_root_may_be_its_own_folder_under_any_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trees.vad(tmp_path)
    assert load_dataset("vad", str(tmp_path / "vad")).category == "vad"
    (tmp_path / "vad").rename(tmp_path / "valeo")
    assert list_categories("vad", str(tmp_path)) == list_categories("vad", str(tmp_path / "valeo")) == ["valeo"]
    monkeypatch.chdir(tmp_path / "valeo")
    dataset = load_dataset("vad", ".")
    assert (dataset.category, dataset.train[0].path) == ("valeo", "./train/good/0000.png")


def test_low_shot_train_is_not_read(tmp_path: Path) -> None:
    (trees.vad(tmp_path) / "vad/low_shot_train.json").write_bytes(b"\xff no JSON")
    assert len(load_dataset("vad", str(tmp_path)).left_out) == 2


def test_masks_of_ones_own_are_used_and_then_missed_where_there_are_none(tmp_path: Path) -> None:
    home = trees.vad(tmp_path) / "vad"
    trees.mask(home / "ground_truth/bad/0001_mask.png", defects=3)
    dataset = load_dataset("vad", str(tmp_path))
    assert mask_sums(dataset) == [None, 60, None, 0, 0]
    assert dataset.problems() == [
        f"{home}/test/bad/0000.png: no mask at {home}/ground_truth/bad/0000_mask.png",
        f"{home}/test/bad_unseen_defects/0000.png: no mask at {home}/ground_truth/bad_unseen_defects/0000_mask.png",
    ]


def test_it_is_told_from_visa_and_from_mvtec(tmp_path: Path) -> None:
    home = trees.vad(tmp_path) / "vad"
    for root in (tmp_path, home):
        assert recognise(str(root)) == ["vad"]
        assert not visa.recognises(str(root))
        assert not mvtec.recognises(str(root))
    shutil.rmtree(home / "test/bad_unseen_defects")  # its name is the sign then
    for root in (tmp_path, home):
        assert recognise(str(root)) == ["vad"]
        assert not visa.recognises(str(root))
        assert not mvtec.recognises(str(root))
    assert len(load_dataset("vad", str(tmp_path)).test) == 4
    home.rename(tmp_path / "VAD")
    assert recognise(str(tmp_path)) == ["vad"]
    (tmp_path / "VAD").rename(tmp_path / "parts")
    assert not vad.recognises(str(tmp_path))


@pytest.mark.parametrize("lost", ["train/bad", "test/bad"])
def test_the_name_alone_is_no_sign(tmp_path: Path, lost: str) -> None:
    home = trees.vad(tmp_path) / "vad"
    shutil.rmtree(home / "test/bad_unseen_defects")
    assert vad.recognises(str(tmp_path))
    shutil.rmtree(home / lost)
    assert not vad.recognises(str(tmp_path))


def test_a_folder_of_that_name_with_ground_truth_may_be_another_data_set(tmp_path: Path) -> None:
    home = trees.vad(tmp_path) / "vad"
    shutil.rmtree(home / "test/bad_unseen_defects")
    (home / "ground_truth").mkdir()
    assert not vad.recognises(str(tmp_path))
    split = trees_others.visa_prepared(tmp_path / "visa_pytorch/2cls_fewshot", split="2cls_fewshot")
    assert not vad.recognises(str(split))
    assert recognise(str(split)) == ["visa"]


@pytest.mark.parametrize(
    ("asked", "what"), [("mvtec", "is not laid out as MVTec AD is"), ("visa", "holds no VisA category")]
)
def test_other_data_sets_refuse_it(tmp_path: Path, asked: str, what: str) -> None:
    trees.vad(tmp_path)
    with pytest.raises(NoLayout) as error:
        list_categories(asked, str(tmp_path))
    assert what in error.value.message
    assert error.value.help == f"It looks like vad: give that name in place of {asked}."


def test_another_data_set_is_named(tmp_path: Path) -> None:
    root = trees_mvtec.mvtec_ad(tmp_path / "ad", ["bottle"])
    assert not vad.recognises(str(root))
    with pytest.raises(NoLayout) as error:
        list_categories("vad", str(root))
    assert message(error) == (
        f"{root} holds no VAD: expected {root}/<category>/train/good and {root}/<category>/test/bad_unseen_defects, "
        "found bottle/",
        "It looks like mvtec: give that name in place of vad.",
    )


def test_what_it_lacks_is_said(tmp_path: Path) -> None:
    home = trees.vad(tmp_path) / "vad"
    trees.picture(home / "test/scratch/1.png")
    assert fails(tmp_path) == (
        f"{home}/test/scratch/1.png lies neither in good/ nor in bad/ nor in bad_unseen_defects/",
        f"{home}/test must hold good/, bad/ and bad_unseen_defects/ only.",
    )
    shutil.rmtree(home / "test/scratch")
    shutil.rmtree(home / "train")
    assert list_categories("vad", str(tmp_path)) == ["vad"]
    assert fails(tmp_path) == (f"{home}/train/good: no such folder", "It must hold the good training images.")
    trees.picture(home / "train/Good/1.png")
    assert fails(tmp_path) == (
        f"{home}/train/good: no such folder; there is {home}/train/Good",
        "Case counts in the names of folders: rename it to good.",
    )


def test_folders_in_another_case_are_said(tmp_path: Path) -> None:
    home = trees.vad(tmp_path) / "vad"
    (home / "train").rename(home / "TRAIN")
    assert fails(tmp_path) == (
        f"{home}/train/good: no such folder; there is {home}/TRAIN",
        "Case counts in the names of folders: rename it to train.",
    )
    (home / "TRAIN").rename(home / "train")
    (home / "test").rename(home / "Test")
    assert fails(tmp_path) == (
        f"{tmp_path} holds no VAD: expected {tmp_path}/<category>/train/good and "
        f"{tmp_path}/<category>/test/bad_unseen_defects, found vad/",
        f"There is {home}/Test. Case counts in the names of folders: rename it to test.",
    )


@pytest.mark.parametrize(
    ("kind", "wrong"), [("bad", "Bad"), ("bad_unseen_defects", "Bad_Unseen_Defects"), ("good", "GOOD")]
)
@pytest.mark.parametrize("name", ["vad", "valeo"])
def test_a_kind_in_another_case_is_said(tmp_path: Path, kind: str, wrong: str, name: str) -> None:
    trees.vad(tmp_path)
    home = (tmp_path / "vad").rename(tmp_path / name)
    (home / "test" / kind).rename(home / "test" / wrong)
    assert recognise(str(tmp_path)) == ["vad"]
    assert fails(tmp_path) == (
        f"{home}/test/{kind}: no such folder; there is {home}/test/{wrong}",
        f"Case counts in the names of folders: rename it to {kind}.",
    )


def test_a_validation_split_of_ones_own_is_read_and_under_another_name_refused(tmp_path: Path) -> None:
    home = trees.vad(tmp_path) / "vad"
    trees.picture(home / "validation/good/1.png")
    trees.picture(home / "validation/bad/1.png")
    dataset = load_dataset("vad", str(tmp_path))
    assert relatives(dataset.validation) == ["validation/good/1.png"]
    assert relatives(dataset.left_out) == ["train/bad/0000.png", "train/bad/0001.png", "validation/bad/1.png"]
    assert dataset.problems() == []
    (home / "validation").rename(home / "valid")
    assert fails(tmp_path) == (
        f"{home}/valid holds images that would be passed over: the validation split is validation/",
        "Rename it to validation.",
    )
    (home / "valid").rename(home / "Validation")
    assert fails(tmp_path) == (
        f"{home}/validation: no such folder; there is {home}/Validation",
        "Case counts in the names of folders: rename it to validation.",
    )


def test_kinds_of_defect_of_other_data_sets_called_so_stay_theirs(tmp_path: Path) -> None:
    home = trees_mvtec.mvtec_ad(tmp_path, ["bottle"]) / "bottle"
    before = load_dataset("mvtec", str(tmp_path))
    for part in ("test", "ground_truth"):
        (home / part / "broken_large").rename(home / part / "bad_unseen_defects")
    dataset = load_dataset("mvtec", str(tmp_path))
    assert recognise(str(tmp_path)) == ["mvtec"]
    assert list_categories("mvtec", str(tmp_path)) == ["bottle"]
    assert (len(dataset.test), dataset.problems()) == (len(before.test), [])
    assert "bad_unseen_defects" in {sample.defect for sample in dataset.test}
    shutil.rmtree(home / "ground_truth")  # there are other kinds beside it, and VAD has no others
    assert recognise(str(tmp_path)) == ["mvtec"]
    for part in ("test/broken_small", "test/contamination"):
        shutil.rmtree(home / part)
    assert recognise(str(tmp_path)) == ["mvtec"]  # nor has it less
    trees.picture(home / "test/bad/1.png")
    assert recognise(str(tmp_path)) == ["vad"]
    trees.picture(home / "test/dent/1.png")
    assert recognise(str(tmp_path)) == ["mvtec"]
    shutil.rmtree(home / "test/dent")
    trees.mask(home / "ground_truth/bad/1_mask.png")
    assert recognise(str(tmp_path)) == ["mvtec"]


def test_an_empty_test_split_is_an_error(tmp_path: Path) -> None:
    home = trees.vad(tmp_path) / "vad"
    for path in (home / "test").rglob("*.png"):
        path.unlink()
    assert fails(tmp_path) == (f"{home}/test holds no image", ONLY)
