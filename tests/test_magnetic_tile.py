"""Magnetic tiles: what is learned from, where the masks are, and what is said where something is wrong."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
import trees_class_masks as trees
from parts import mask_sums, relatives, surface, write
from parts import message as said

from uadctl.check import check_dataset
from uadctl.datasets import Dataset, LayoutError, list_categories, load_dataset, magnetic_tile, recognise
from uadctl.datasets.base import NoLayout
from uadctl.errors import DataError
from uadctl.plan import hold_out


def load(root: Path) -> Dataset:
    return load_dataset("magnetic_tile", str(root))


def problems(root: Path) -> list[tuple[str, str | None]]:
    with pytest.raises(LayoutError) as error:
        load(root)
    return [(problem.message.replace(str(root), "ROOT"), problem.help) for problem in error.value.problems]


def free(root: Path, *names: str) -> Path:
    """Good tiles of these names, and one with a blowhole."""
    for n, name in enumerate(names):
        write(root / f"MT_Free/Imgs/{name}.jpg", surface(n, 8, 8))
    write(root / "MT_Blowhole/Imgs/exp1_num_77.jpg", surface(50, 8, 8))
    return root


def test_the_tiles_are_read_as_they_are_unpacked(tmp_path: Path) -> None:
    root = trees.magnetic_tile(tmp_path / "tiles")
    assert list_categories("mtd", str(root)) == ["magnetic_tile"]
    dataset = load(root)
    assert (dataset.name, dataset.category, dataset.root) == ("magnetic_tile", "magnetic_tile", str(root))
    assert relatives(dataset.train) == [
        "MT_Free/Imgs/exp1_num_4.jpg",
        "MT_Free/Imgs/exp2_num_90.jpg",
        "MT_Free/Imgs/exp3_num_90.jpg",
        "MT_Free/Imgs/exp4_num_5000.jpg",
        "MT_Free/Imgs/exp6_num_100.jpg",
    ]
    assert {(s.split, s.label, s.defect, s.category, s.masks) for s in dataset.train} == {
        ("train", 0, "good", "magnetic_tile", ())
    }
    assert [s.group for s in dataset.train] == [None, "num 90", "num 90", None, None]
    assert (dataset.validation, dataset.left_out, dataset.notes) == ((), (), ())
    assert [(s.relative, s.split, s.label, s.defect, s.masks, s.expected_mask) for s in dataset.test] == [
        (
            f"MT_{kind}/Imgs/{name}.jpg",
            "test",
            int(kind != "Free"),
            "good" if kind == "Free" else kind.lower(),
            () if kind == "Free" else (f"{root}/MT_{kind}/Imgs/{name}.png",),
            None,
        )
        for kind, name in (
            ("Blowhole", "exp1_num_108719"),
            ("Break", "exp2_num_7"),
            ("Crack", "exp3_num_30"),
            ("Crack", "exp6_num_31"),
            ("Fray", "exp4_num_8"),
            ("Free", "exp1_num_2000"),
            ("Free", "exp1_num_30"),
            ("Free", "exp5_num_2000"),
            ("Uneven", "exp5_num_9"),
        )
    ]
    assert mask_sums(dataset) == [144, 144, 144, 144, 144, 0, 0, 0, 144]
    # 30 is seen among the cracks and among the good tiles.
    assert {s.relative: s.group for s in dataset.test if s.group is not None} == {
        "MT_Crack/Imgs/exp3_num_30.jpg": "num 30",
        "MT_Free/Imgs/exp1_num_30.jpg": "num 30",
        "MT_Free/Imgs/exp1_num_2000.jpg": "num 2000",
        "MT_Free/Imgs/exp5_num_2000.jpg": "num 2000",
    }
    assert dataset.told_shared_parts() is None


@pytest.mark.parametrize("seed", range(5))
def test_shots_of_one_number_are_held_out_together(tmp_path: Path, seed: int) -> None:
    names = [f"exp{light}_num_{n}" for n in range(1, 13) for light in (1, 2, 3)]
    dataset = load(free(tmp_path, *names, "a", "exp1_num_13"))
    learned, held = hold_out(dataset.train, share=0.3, seed=seed)
    sides = [{re.sub(".*/exp._", "", s.relative) for s in side} for side in (learned, held)]
    assert sides[0] & sides[1] == set()
    assert len(held) in (8, 10, 12)  # 4 of 12 parts, two of which have but one shot
    assert {s.group for s in (*learned, *held)} == {None, *(f"num {n}" for n in (1, 2, 3, 4, 6, 7, 8, 9, 11, 12))}


def test_a_number_has_one_group_however_it_is_written_and_a_name_without_has_none(tmp_path: Path) -> None:
    dataset = load(free(tmp_path, "exp1_num_0077", "EXP2_NUM_9", "exp1_num_9", "exp1_num_8", "a"))
    write(tmp_path / "MT_Blowhole/Imgs/a.jpg", surface(51, 8, 8))
    groups = {s.relative: s.group for s in (*dataset.train, *load(tmp_path).test)}
    assert groups == {
        "MT_Blowhole/Imgs/a.jpg": None,
        "MT_Blowhole/Imgs/exp1_num_77.jpg": "num 77",
        "MT_Free/Imgs/EXP2_NUM_9.jpg": "num 9",
        "MT_Free/Imgs/a.jpg": None,
        "MT_Free/Imgs/exp1_num_0077.jpg": "num 77",
        "MT_Free/Imgs/exp1_num_8.jpg": None,
        "MT_Free/Imgs/exp1_num_9.jpg": "num 9",
    }


def test_every_fifth_number_is_tested_on_in_the_order_of_numbers(tmp_path: Path) -> None:
    names = [f"exp{1 + n % 6}_num_{n}" for n in (1, 2, 3, 10, 20, 100, 200, 1000, 2000, 3000, 4000)]
    dataset = load(free(tmp_path, *names))
    assert relatives(s for s in dataset.test if s.label == 0) == [
        "MT_Free/Imgs/exp1_num_3000.jpg",
        "MT_Free/Imgs/exp3_num_20.jpg",
    ]
    assert len(dataset.train) == 9


def test_names_without_a_number_are_numbers_of_their_own_after_all_others(tmp_path: Path) -> None:
    dataset = load(free(tmp_path, "b", "a", "exp1_num_0007", "EXP2_NUM_7", "exp3_num_9 (2)", "exp3_num_9", "c"))
    # 7, 9, a, b, c: leading zeros, case and what follows do not make another number.
    assert relatives(s for s in dataset.test if s.label == 0) == ["MT_Free/Imgs/c.jpg"]
    assert len(dataset.train) == 6


def test_no_number_is_learned_from_that_is_tested_on(tmp_path: Path) -> None:
    root = trees.magnetic_tile(tmp_path)
    write(root / "MT_Fray/Imgs/exp6_num_90.jpg", surface(1))
    dataset = load(root)
    numbers = [
        {s.relative.rpartition("_")[2].removesuffix(".jpg") for s in part} for part in (dataset.train, dataset.test)
    ]
    assert numbers[0] == {"4", "5000", "100"}
    assert numbers[0] & numbers[1] == set()
    assert numbers[1] >= {"90", "2000", "30"}


def test_a_png_is_a_mask_in_any_case_and_no_other_file_is_one(tmp_path: Path) -> None:
    root = trees.magnetic_tile(tmp_path)
    crack = root / "MT_Crack/Imgs"
    (crack / "exp3_num_30.png").rename(crack / "exp3_num_30.PNG")
    (crack / "exp3_num_30.jpg").rename(crack / "exp3_num_30.JPG")
    (crack / "exp6_num_31.png").unlink()
    (crack / ".hidden.png").write_bytes(b"")
    (crack / "Thumbs.db").write_bytes(b"")
    dataset = load(root)
    assert [(s.relative, s.masks, s.expected_mask) for s in dataset.test if s.defect == "crack"] == [
        ("MT_Crack/Imgs/exp3_num_30.JPG", (f"{crack}/exp3_num_30.PNG",), None),
        ("MT_Crack/Imgs/exp6_num_31.jpg", (), f"{crack}/exp6_num_31.png"),
    ]
    assert not any(s.path.lower().endswith(".png") for s in (*dataset.train, *dataset.test))
    assert dataset.problems() == [f"{crack}/exp6_num_31.jpg: no mask at {crack}/exp6_num_31.png"]


def test_a_further_kind_of_defect_and_a_missing_one_are_noted(tmp_path: Path) -> None:
    root = trees.magnetic_tile(tmp_path)
    (root / "MT_Uneven").rename(root / "MT_Stain")
    (root / "notes/Imgs").mkdir(parents=True)
    dataset = load(root)
    assert sorted({s.defect for s in dataset.test}) == ["blowhole", "break", "crack", "fray", "good", "stain"]
    notes = (
        f"{root}/MT_Uneven: no such folder, so that this kind of defect is not tested on",
        f"{root}/MT_Stain is none of the 5 published kinds of defect; its images are tested on as stain",
    )
    assert dataset.notes == notes
    checked = check_dataset("magnetic_tile", root=str(root)).notes
    assert [p.message for p in checked] == [f"magnetic_tile: {note}" for note in notes]


@pytest.mark.parametrize(
    "name", ["MT_Free_old", "MT_Free2", "MT_Free (copy)", "MT_free-old", "mt_Free_old", "MT_good", "MT_Normal", "MT_"]
)
@pytest.mark.parametrize("beside", [True, False])
def test_a_copy_of_the_good_tiles_is_no_kind_of_defect(tmp_path: Path, name: str, beside: bool) -> None:
    root = trees.magnetic_tile(tmp_path / "tiles")
    shutil.copytree(root / "MT_Free", root / name)
    if not beside:
        shutil.rmtree(root / "MT_Free")
    missing = [] if beside else [("ROOT/MT_Free: no such folder", "Imgs in it holds the good tiles.")]
    assert problems(root) == [
        (
            f"ROOT/{name} would be a kind of defect; good tiles lie in MT_Free",
            f"Move its images to {root}/MT_Free/Imgs, the folder away, or rename it after a defect.",
        ),
        *missing,
    ]


@pytest.mark.parametrize(
    ("right", "other"),
    [
        ("MT_Crack/Imgs", "MT_Crack/imgs"),
        ("MT_Free/Imgs", "MT_Free/IMGS"),
        ("MT_Crack", "MT_crack"),
        ("MT_Free", "mt_free"),
        ("MT_Stain", "mt_Stain"),
        ("MT_Stain", "MT_stain"),
    ],
)
def test_a_folder_in_two_cases_is_refused(tmp_path: Path, right: str, other: str) -> None:
    root = trees.magnetic_tile(tmp_path / "tiles")
    write(root / "MT_Stain/Imgs/exp1_num_2.jpg", surface(0))
    name = other.rpartition("/")[2]
    write(root / other / ("a.jpg" if name.casefold() == "imgs" else "Imgs/a.jpg"), surface(1))
    assert problems(root) == [
        (
            f"ROOT/{right} and ROOT/{other} differ in case alone",
            f"Case counts in names: keep one of them, as {right.rpartition('/')[2]}.",
        )
    ]


def test_images_in_other_folders_beside_imgs_are_refused(tmp_path: Path) -> None:
    root = trees.magnetic_tile(tmp_path)
    (root / "MT_Crack/empty/more").mkdir(parents=True)
    (root / "MT_Crack/notes.txt").write_text("")
    assert load(root).notes == ()
    write(root / "MT_Crack/more/a/b.jpg", surface(0))
    write(root / "MT_Crack/more/c.png", surface(0))
    assert problems(root) == [
        ("ROOT/MT_Crack/more/a/b.jpg does not lie in Imgs (so do 1 more)", "Move it to Imgs, or away.")
    ]


def test_the_root_may_be_the_folder_around_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = trees.magnetic_tile(tmp_path / "Magnetic-tile-defect-datasets.-master")
    (tmp_path / "other").mkdir()
    dataset = load(tmp_path)
    assert dataset.root == str(tmp_path)
    assert dataset.train[0].path == f"{home}/MT_Free/Imgs/exp1_num_4.jpg"
    assert dataset.train[0].relative == "MT_Free/Imgs/exp1_num_4.jpg"
    assert recognise(str(tmp_path)) == recognise(str(home)) == ["magnetic_tile"]
    monkeypatch.chdir(home)
    assert load(Path()).train[0].path == "./MT_Free/Imgs/exp1_num_4.jpg"

    shutil.copytree(home, tmp_path / "copy")
    with pytest.raises(NoLayout) as error:
        load(tmp_path)
    assert said(error) == (
        f"{tmp_path} holds no magnetic tiles: expected {tmp_path}/MT_Free/Imgs and the same for each kind of defect, "
        "found Magnetic-tile-defect-datasets.-master/, copy/, other/",
        f"{home} looks like magnetic_tile: give it as root.",
    )


def test_a_part_of_it_as_the_root_names_the_folder_around(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = trees.magnetic_tile(tmp_path / "tiles")

    def told(part: Path | str) -> tuple[str, str | None]:
        with pytest.raises(NoLayout) as error:
            load_dataset("magnetic_tile", str(part))
        return said(error)

    free = root / "MT_Free"
    message = "holds no magnetic tiles: expected {0}/MT_Free/Imgs and the same for each kind of defect, found "
    assert told(free) == (
        f"{free} {message.format(free)}Imgs/", f"{free} is a part of them: give {root} as root."
    )  # fmt: skip
    assert told(f"{root}/MT_Crack/Imgs/")[1] == f"{root}/MT_Crack/Imgs/ is a part of them: give {root} as root."
    monkeypatch.chdir(free)
    assert told(".")[1] == ". is a part of them: give .. as root."
    assert told("Imgs")[1] == "Imgs is a part of them: give .. as root."
    monkeypatch.chdir(free / "Imgs")
    assert told(".")[1] == ". is a part of them: give ../.. as root."
    monkeypatch.chdir(root)
    assert told("./MT_Break")[1] == "./MT_Break is a part of them: give . as root."
    # Neither are folders that are only called so.
    for other in ("Imgs/Imgs", "MT_Free/images", "a/MT_Free/more/Imgs"):
        write(tmp_path / "b" / other / "c.jpg", surface(0))
        assert told(tmp_path / "b" / other)[1] is None
    assert told(tmp_path / "b/MT_Free")[1] is None


def test_other_folders_are_not_taken_for_it(tmp_path: Path) -> None:
    (tmp_path / "MT_Free").mkdir()
    (tmp_path / "Imgs").mkdir()
    write(tmp_path / "train/good/0.png", surface(0))
    assert not magnetic_tile.recognises(str(tmp_path))
    with pytest.raises(NoLayout) as error:
        list_categories("magnetic_tile", str(tmp_path))
    assert said(error)[0].endswith("found Imgs/, MT_Free/, train/")
    with pytest.raises(DataError) as missing:
        list_categories("magnetic_tile", str(tmp_path / "no"))
    assert said(missing) == (f"{tmp_path}/no: no such folder", None)
    tiles = trees.magnetic_tile(tmp_path / "tiles")
    with pytest.raises(NoLayout) as other:
        load_dataset("mvtec", str(tiles))
    assert other.value.help == "It looks like magnetic_tile: give that name in place of mvtec."
    with pytest.raises(DataError) as category:
        load_dataset("magnetic_tile", str(tiles), category="tiles")
    assert said(category) == (f"{tiles} has no category 'tiles'; it has: magnetic_tile", None)


def test_all_that_is_wrong_is_said_at_once(tmp_path: Path) -> None:
    root = trees.magnetic_tile(tmp_path)
    (root / "MT_Free").rename(root / "MT_free")
    (root / "MT_Break/Imgs").rename(root / "MT_Break/imgs")
    (root / "MT_Crack/Imgs/exp6_num_31.jpg").unlink()
    write(root / "MT_Crack/loose.jpg", surface(0))
    write(root / "MT_Crack/looser.png", surface(0))
    write(root / "MT_Fray/Imgs/exp4_num_8.bmp", surface(0))
    write(root / "MT_Uneven/Imgs/exp5_num_9.PNG", surface(0))
    write(root / "MT_OK/Imgs/exp1_num_1.jpg", surface(0))
    write(root / "mt_Stain/Imgs/exp1_num_2.jpg", surface(0))
    (root / "MT_Blowhole/Imgs/exp1_num_108719.jpg").unlink()
    (root / "MT_Blowhole/Imgs/exp1_num_108719.png").unlink()
    pairs = "An image and its mask have one name: <name>.jpg and <name>.png."
    case = "Case counts in the names of folders: rename it to {}."
    assert problems(root) == [
        (
            "ROOT/MT_OK would be a kind of defect; good tiles lie in MT_Free",
            f"Move its images to {root}/MT_Free/Imgs, the folder away, or rename it after a defect.",
        ),
        ("ROOT/MT_free: no folder of this name is known; there should be MT_Free", case.format("MT_Free")),
        ("ROOT/mt_Stain: no folder of this name is known; there should be MT_Stain", case.format("MT_Stain")),
        ("ROOT/MT_Blowhole/Imgs holds no image", pairs),
        ("ROOT/MT_Break/Imgs: no such folder; there is ROOT/MT_Break/imgs", case.format("Imgs")),
        ("ROOT/MT_Crack/loose.jpg does not lie in Imgs (so do 1 more)", "Move it to Imgs, or away."),
        ("ROOT/MT_Crack/Imgs/exp6_num_31.png: a mask without image", pairs),
        ("ROOT/MT_Fray/Imgs/exp4_num_8.bmp and ROOT/MT_Fray/Imgs/exp4_num_8.jpg have one name", pairs),
        ("ROOT/MT_Uneven/Imgs/exp5_num_9.PNG and ROOT/MT_Uneven/Imgs/exp5_num_9.png have one name", pairs),
    ]


def test_a_long_list_ends_with_how_many_more_there_are(tmp_path: Path) -> None:
    root = free(tmp_path / "a {} b", "exp1_num_1")
    for n in range(12):
        write(root / f"MT_Free/Imgs/{n:02}.png", surface(0, 8, 8))
    found = problems(root)
    assert [message for message, _ in found] == [
        *(f"ROOT/MT_Free/Imgs/{n:02}.png: a mask without image" for n in range(10)),
        "ROOT/MT_Free/Imgs: 2 more masks without image",
    ]
    assert [problem[1] is None for problem in found] == [True] * 10 + [False]


def test_without_good_tiles_to_learn_from_it_ends(tmp_path: Path) -> None:
    root = trees.magnetic_tile(tmp_path / "tiles")
    shutil.rmtree(root / "MT_Free")
    assert problems(root) == [("ROOT/MT_Free: no such folder", "Imgs in it holds the good tiles.")]
    assert problems(free(tmp_path / "all", "exp1_num_77", "exp2_num_77")) == [
        (
            "ROOT/MT_Free/Imgs holds no image to learn from",
            "The numbers of all its 2 images also occur among the defects; those are tested on.",
        )
    ]
