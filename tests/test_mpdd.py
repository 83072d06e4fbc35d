"""MPDD: the layout of MVTec AD, told from it by its categories."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
import trees_mvtec
import trees_mvtec_like as trees
from parts import mask_sums, message, relatives

from uadctl.datasets import list_categories, load_dataset, mpdd, recognise
from uadctl.datasets.base import NoLayout
from uadctl.errors import DataError

SIX = "bracket_black, bracket_brown, bracket_white, connector, metal_plate, tubes"


def test_a_category_is_read_as_mvtec_ads_are(tmp_path: Path) -> None:
    home = trees.mpdd(tmp_path) / "tubes"
    assert ", ".join(sorted(mpdd.CATEGORIES)) == SIX
    assert list_categories("mpdd", str(tmp_path)) == ["bracket_black", "tubes"]
    dataset = load_dataset("mpdd", str(tmp_path), category="tubes")
    assert (dataset.name, dataset.category, dataset.root) == ("mpdd", "tubes", str(tmp_path))
    assert relatives(dataset.train) == [f"train/good/00{n}.png" for n in range(3)]
    assert [(s.relative, s.label, s.defect, s.masks) for s in dataset.test] == [
        ("test/anomalous/000.png", 1, "anomalous", (f"{home}/ground_truth/anomalous/000_mask.png",)),
        ("test/anomalous/001.png", 1, "anomalous", (f"{home}/ground_truth/anomalous/001_mask.png",)),
        ("test/good/000.png", 0, "good", ()),
        ("test/good/001.png", 0, "good", ()),
    ]
    assert mask_sums(dataset) == [20, 40, 0, 0]
    assert (dataset.validation, dataset.left_out, dataset.problems()) == ((), (), [])


def test_mvtec_reads_it_as_before(tmp_path: Path) -> None:
    trees.mpdd(tmp_path)
    assert list_categories("mvtec", str(tmp_path)) == ["bracket_black", "tubes"]
    dataset = load_dataset("mvtec", str(tmp_path), category="tubes")
    assert (dataset.name, mask_sums(dataset)) == ("mvtec", [20, 40, 0, 0])
    assert dataset.test == load_dataset("mpdd", str(tmp_path), category="tubes").test


def test_it_is_told_from_mvtec_ad_by_its_categories(tmp_path: Path) -> None:
    root = trees.mpdd(tmp_path / "MPDD", ["connector"])
    assert recognise(str(root)) == recognise(str(root / "connector")) == ["mpdd"]
    trees.mpdd(root, ["panel"])
    assert recognise(str(root)) == ["mpdd"]
    shutil.copytree(root / "connector", root / "screw")
    assert recognise(str(root)) == ["mvtec"]
    assert list_categories("mpdd", str(root)) == ["connector", "panel", "screw"]  # who names it knows it
    shutil.rmtree(root / "screw")
    shutil.rmtree(root / "connector/test")  # no whole category of it is left
    assert recognise(str(root)) == ["mvtec"]


def test_other_categories_beside_its_own_are_read(tmp_path: Path) -> None:
    trees.mpdd(tmp_path, ["metal_plate", "panel"])
    assert list_categories("mpdd", str(tmp_path)) == ["metal_plate", "panel"]
    assert load_dataset("mpdd", str(tmp_path), category="panel").name == "mpdd"
    with pytest.raises(DataError) as error:
        load_dataset("mpdd", str(tmp_path), category="pannel")
    assert message(error) == (
        f"{tmp_path} has no category 'pannel'; did you mean panel? It has: metal_plate, panel",
        None,
    )
    assert list_categories("mpdd", str(tmp_path / "metal_plate")) == ["metal_plate"]
    assert load_dataset("mpdd", str(tmp_path / "metal_plate")).category == "metal_plate"


def test_a_folder_of_other_categories_is_no_mpdd(tmp_path: Path) -> None:
    root = trees_mvtec.mvtec_ad(tmp_path / "ad")
    for call in (
        lambda: list_categories("mpdd", str(root)),
        lambda: load_dataset("mpdd", str(root), category="bottle"),
        lambda: load_dataset("mpdd", str(root), category="tubes"),
    ):
        with pytest.raises(NoLayout) as error:
            call()
        assert message(error) == (
            f"{root} is not MPDD: it has none of {SIX}, but bottle, screw",
            "It looks like mvtec: give that name in place of mpdd.",
        )


def test_categories_in_another_case_are_told_what_to_rename(tmp_path: Path) -> None:
    trees.mpdd(tmp_path, ["Bracket_Black", "Tubes", "panel"])
    rename = "Case counts in the names of folders: rename it to"
    tubes = (f"{tmp_path}/Tubes is MPDD's tubes but for the case of its name", f"{rename} tubes.")
    for category in ("tubes", "Tubes", None):
        with pytest.raises(DataError) as error:
            load_dataset("mpdd", str(tmp_path), category=category)
        assert [(problem.message, problem.help) for problem in error.value.problems] == [
            (
                f"{tmp_path}/Bracket_Black is MPDD's bracket_black but for the case of its name",
                f"{rename} bracket_black.",
            ),
            tubes,
        ]
    with pytest.raises(DataError) as error:
        load_dataset("mpdd", str(tmp_path / "Tubes"))
    assert message(error) == tubes
    assert list_categories("mvtec", str(tmp_path)) == ["Bracket_Black", "Tubes", "panel"]


def test_one_category_that_is_none_of_its_own_is_refused(tmp_path: Path) -> None:
    root = trees.mpdd(tmp_path, ["panel"]) / "panel"
    with pytest.raises(NoLayout) as error:
        load_dataset("mpdd", str(root))
    assert message(error) == (
        f"{root} is not MPDD: it has none of {SIX}, but panel",
        "It looks like mvtec: give that name in place of mpdd.",
    )


def test_what_is_wrong_is_said_as_of_mvtec_ad(tmp_path: Path) -> None:
    home = trees.mpdd(tmp_path) / "bracket_black"
    (home / "ground_truth/hole/001_mask.png").unlink()
    dataset = load_dataset("mpdd", str(tmp_path), category="bracket_black")
    assert dataset.problems() == [f"{home}/test/hole/001.png: no mask at {home}/ground_truth/hole/001_mask.png"]
    assert mask_sums(dataset) == [0, 0, 20, None, 20, 40]
    (home / "test").rename(home / "TEST")
    with pytest.raises(DataError) as error:
        load_dataset("mpdd", str(tmp_path), category="bracket_black")
    assert message(error) == (
        f"{home}/test: no such folder; there is {home}/TEST",
        "Case counts in the names of folders: rename it to test.",
    )


def test_a_data_set_with_all_folders_in_the_wrong_case_is_told_what_to_rename(tmp_path: Path) -> None:
    trees.mpdd(tmp_path, ["tubes"])
    (tmp_path / "tubes/train").rename(tmp_path / "tubes/Train")
    with pytest.raises(NoLayout) as error:
        list_categories("mpdd", str(tmp_path))
    assert message(error) == (
        f"{tmp_path} holds no MPDD category: expected {tmp_path}/<category>/train/good, found tubes/",
        f"There is {tmp_path}/tubes/Train. Case counts in the names of folders: rename it to train.",
    )
    with pytest.raises(NoLayout) as error:
        list_categories("mpdd", str(tmp_path / "tubes"))
    assert error.value.help == (
        f"There is {tmp_path}/tubes/Train. Case counts in the names of folders: rename it to train."
    )


def test_a_folder_that_cannot_be_read_hides_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trees.mpdd(tmp_path, ["tubes"])
    (tmp_path / "tubes/train").rename(tmp_path / "tubes/Train")
    (tmp_path / "lost+found").mkdir()
    scandir = os.scandir

    def guarded(path: str) -> object:
        if path == f"{tmp_path}/lost+found":
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", guarded)
    with pytest.raises(NoLayout) as error:
        list_categories("mpdd", str(tmp_path))
    assert error.value.help == (
        f"There is {tmp_path}/tubes/Train. Case counts in the names of folders: rename it to train."
    )


def test_a_variation_of_the_layout_is_no_mpdd(tmp_path: Path) -> None:
    trees.mvtec_3d(tmp_path, ["tubes"])
    assert recognise(str(tmp_path)) == ["mvtec_3d"]
    for category in (None, "tubes"):
        with pytest.raises(NoLayout) as error:
            load_dataset("mpdd", str(tmp_path), category=category)
        assert error.value.help == "It looks like mvtec_3d: give that name in place of mpdd."
