"""KolektorSDD and KolektorSDD2: labels that are in the masks only, folds by rule, stray copies, and what may be wrong."""

from __future__ import annotations

import shutil
from pathlib import Path

import parts
import pytest
import trees_kolektor as trees
import trees_mvtec
import trees_others
from parts import mask_sums, relatives
from parts import message as said

from uadctl.datasets import (
    Dataset,
    LayoutError,
    NoLayout,
    by_mask,
    kolektorsdd,
    kolektorsdd2,
    list_categories,
    load_dataset,
)
from uadctl.datasets import recognise as names_of
from uadctl.errors import DataError, Problem

UNPACK = "Unpack the archive again, or remove the mask."
UNKNOWN = "Its mask alone says whether an image is good: unpack the archive again."


def fold(root: Path, number: int | None = None) -> Dataset:
    return load_dataset("kolektorsdd", str(root), split=None if number is None else f"fold_{number}")


def problems(name: str, root: Path) -> list[Problem]:
    with pytest.raises(LayoutError) as error:
        load_dataset(name, str(root))
    return list(error.value.problems)


# --- KolektorSDD


def test_a_fold_is_every_third_commutator_and_good_images_of_the_others_are_learned_from(tmp_path):
    root = trees.ksdd(tmp_path)
    assert list_categories("kolektorsdd", str(root)) == ["kolektorsdd"]
    dataset = fold(root)
    assert (dataset.name, dataset.category, dataset.root) == ("kolektorsdd", "kolektorsdd", str(root))
    assert [(s.relative, s.label, s.defect, s.masks) for s in dataset.test] == [
        ("kos01/Part0.jpg", 0, "good", ()),
        ("kos01/Part1.jpg", 1, "defect", (f"{root}/kos01/Part1_label.bmp",)),
        ("kos01/Part2.jpg", 0, "good", ()),
        ("kos01/Part3.jpg", 0, "good", ()),
        ("kos04/Part0.jpg", 1, "defect", (f"{root}/kos04/Part0_label.bmp",)),
        ("kos04/Part1.jpg", 0, "good", ()),
        ("kos04/Part2.jpg", 1, "defect", (f"{root}/kos04/Part2_label.bmp",)),
        ("kos04/Part3.jpg", 0, "good", ()),
    ]
    assert mask_sums(dataset) == [0, 2, 0, 0, 1, 0, 3, 0]
    assert relatives(dataset.train) == [
        *("kos02/Part1.jpg", "kos02/Part2.jpg", "kos02/Part3.jpg"),
        *("kos03/Part0.jpg", "kos03/Part1.jpg", "kos03/Part2.jpg"),
        *("kos05/Part0.jpg", "kos05/Part1.jpg"),
        *("kos06/Part0.jpg", "kos06/Part2.jpg", "kos06/Part3.jpg"),
    ]
    assert [(s.relative, s.split, s.label, s.masks) for s in dataset.left_out] == [
        (f"{name}.jpg", "train", 1, (f"{root}/{name}_label.bmp",))
        for name in ("kos02/Part0", "kos03/Part3", "kos05/Part2", "kos06/Part1")
    ]
    assert dataset.validation == ()
    assert {s.split for s in dataset.train} == {"train"}
    assert {s.split for s in dataset.test} == {"test"}
    assert dataset.problems() == []


def test_every_image_is_tested_in_one_fold_and_no_commutator_is_on_both_sides(tmp_path):
    root = trees.ksdd(tmp_path)
    tested: list[str] = []
    for number in range(3):
        dataset = fold(root, number)
        everything = (*dataset.train, *dataset.left_out, *dataset.test)
        assert len(everything) == 23
        assert {(s.group, s.category) for s in everything} == {(item, "kolektorsdd") for item in trees.DEFECTS}
        assert all(s.relative.startswith(f"{s.group}/") for s in everything)
        learned = {s.group for s in (*dataset.train, *dataset.left_out)}
        of_test = {s.group for s in dataset.test}
        assert of_test == {f"kos0{number + 1}", f"kos0{number + 4}"}
        assert not learned & of_test
        tested += relatives(dataset.test)
    assert len(tested) == len(set(tested)) == 23
    assert fold(root).test == fold(root, 0).test
    with pytest.raises(DataError) as error:
        fold(root, 3)
    assert said(error)[0].startswith("kolektorsdd has no split 'fold_3'")


def test_the_folds_of_all_fifty_have_as_many_commutators_as_they_can(tmp_path):
    for n in range(1, 51):
        for part in range(2):
            parts.write(tmp_path / f"kos{n:02}/Part{part}.jpg", parts.surface(n, 24, 8))
            trees.mask(tmp_path / f"kos{n:02}/Part{part}_label.bmp", part, (24, 8))
    counted = []
    for number in range(3):
        dataset = fold(tmp_path, number)
        counted.append((len(dataset.train), len(dataset.left_out), len(dataset.test)))
        assert dataset.notes == ()
    assert counted == [(33, 33, 34), (33, 33, 34), (34, 34, 32)]


def test_a_part_of_the_commutators_is_told(tmp_path):
    root = trees.ksdd(tmp_path)
    shutil.rmtree(root / "kos02")
    dataset = fold(root)
    assert {s.group for s in dataset.test} == {"kos01", "kos05"}
    assert dataset.notes == (f"{root} holds 5 commutators, the whole data set 50: its folds are not those of all",)
    for item in ("kos03", "kos04", "kos05"):
        shutil.rmtree(root / item)
    with pytest.raises(DataError) as error:
        fold(root)
    assert said(error) == (
        f"{root} holds 2 commutators, and each of 3 folds needs one",
        "KolektorSDD has 50, in folders kos01 to kos50.",
    )


def test_the_folder_around_it_may_be_the_root(tmp_path):
    home = trees.ksdd(tmp_path / "KolektorSDD")
    (tmp_path / "KolektorSDD-boxes").mkdir()
    assert kolektorsdd.recognises(str(tmp_path))
    assert list_categories("ksdd", str(tmp_path)) == ["kolektorsdd"]
    dataset = fold(tmp_path)
    assert dataset.test[0].path == f"{home}/kos01/Part0.jpg"
    assert dataset.test[0].relative == "kos01/Part0.jpg"
    assert dataset.root == str(tmp_path)
    with pytest.raises(NoLayout) as error:
        fold(home / "kos01")
    assert said(error) == (
        f"{home}/kos01 holds no KolektorSDD: expected {home}/kos01/kos01/Part0.jpg and "
        f"{home}/kos01/kos01/Part0_label.bmp, found Part0.jpg, Part0_label.bmp, Part1.jpg, Part1_label.bmp, Part2.jpg, "
        "Part2_label.bmp, Part3.jpg, Part3_label.bmp",
        "Give the folder that holds kos01 to kos50, or the one that holds KolektorSDD.",
    )


def test_suffixes_and_endings_may_be_in_any_case_and_other_files_are_passed_over(tmp_path):
    root = trees.ksdd(tmp_path)
    before = fold(root)
    (root / "kos01/Part0.jpg").rename(root / "kos01/Part0.JPG")
    (root / "kos01/Part1_label.bmp").rename(root / "kos01/Part1_Label.BMP")
    for name in ("split.pyb", "kos01/Thumbs.db", "kos01/._Part0.jpg", "readme.txt"):
        (root / name).write_bytes(b"\x80\x04.")
    (root / "__MACOSX/kos01").mkdir(parents=True)
    dataset = fold(root)
    assert relatives(dataset.test)[:2] == ["kos01/Part0.JPG", "kos01/Part1.jpg"]
    assert dataset.test[1].masks == (f"{root}/kos01/Part1_Label.BMP",)
    assert [s.label for s in dataset.test] == [s.label for s in before.test]
    assert dataset.train == before.train


def test_all_that_is_wrong_with_its_files_is_said_at_once(tmp_path):
    root = trees.ksdd(tmp_path)
    (root / "kos01/Part0_label.bmp").unlink()
    (root / "kos06/Part3_label.bmp").unlink()
    (root / "kos02/Part0.jpg").unlink()
    for name in ("kos03/Part0_label.bmp", "kos04/Part1_label.bmp"):
        (root / name).write_bytes(b"")
    parts.write(root / "kos05/more/Part3.jpg", parts.surface(0))
    parts.write(root / "Part9.jpg", parts.surface(0))
    (root / "kos07").mkdir()
    (root / "kos01 (copy)").mkdir()
    (root / "KOS_08").mkdir()
    (root / "Kos09").mkdir()
    (root / "KOS01").mkdir()
    lies = "does not lie in the folder of its commutator"
    assert problems("kolektorsdd", root) == [
        Problem(f"two folders of one commutator: {root}/kos01 and {root}/KOS01", "Remove the one that is not meant."),
        Problem(
            f"{root}/kos09: no such folder; there is {root}/Kos09",
            "Case counts in the names of folders: rename it to kos09.",
        ),
        Problem(f"{root}/KOS_08 is no name of a commutator, but nearly one"),
        Problem(
            f"{root}/kos01 (copy) is no name of a commutator, but nearly one",
            "They are called kos01 to kos50: rename it, or move it away.",
        ),
        Problem(f"{root}/Part9.jpg {lies}"),
        Problem(
            f"{root}/kos05/more/Part3.jpg {lies}", "Images and their masks lie in kos01, kos02 and so on themselves."
        ),
        Problem(f"{root}/kos07 holds no image", "Unpack the archive again, or remove the folder."),
        Problem(f"{root}/kos01/Part0.jpg: no mask at {root}/kos01/Part0_label.bmp"),
        Problem(f"{root}/kos05/more/Part3.jpg: no mask at {root}/kos05/more/Part3_label.bmp"),
        Problem(f"{root}/kos06/Part3.jpg: no mask at {root}/kos06/Part3_label.bmp", UNKNOWN),
        Problem(f"{root}/kos02/Part0_label.bmp: the mask of no image; there is no {root}/kos02/Part0.jpg", UNPACK),
        Problem(f"{root}/kos03/Part0_label.bmp: the file is empty (0 bytes)"),
        Problem(f"{root}/kos04/Part1_label.bmp: the file is empty (0 bytes)", UNKNOWN),
    ]


def test_one_commutator_in_two_folders_is_no_second_one(tmp_path):
    """It would be on both sides, and move those after it to other folds."""
    root = trees.ksdd(tmp_path)
    for name in ("kos1", "Kos002", "kos0003"):
        shutil.copytree(root / "kos01", root / name)
    twice, one = "two folders of one commutator:", "Remove the one that is not meant."
    assert problems("kolektorsdd", root) == [
        Problem(f"{twice} {root}/kos0003 and {root}/kos03", one),
        Problem(f"{twice} {root}/kos01 and {root}/kos1", one),
        Problem(f"{twice} {root}/kos02 and {root}/Kos002", one),
    ]


def test_folders_beside_the_commutators_are_told_and_a_second_set_is_wrong(tmp_path):
    root = trees.ksdd(tmp_path)
    before = fold(root)
    shutil.copytree(root / "kos01", root / "extra/kos01")
    parts.write(root / "more/a.png", parts.surface(0))
    (root / "results").mkdir()
    (root / "results/report.html").write_text("")
    dataset = fold(root)
    why = "KolektorSDD has folders kos01, kos02 and so on only"
    assert dataset.notes == (
        f"{root}/extra is passed over, with 8 images: {why}",
        f"{root}/more is passed over, with 1 image: {why}",
        *before.notes,
    )
    assert (dataset.train, dataset.test, dataset.left_out) == (before.train, before.test, before.left_out)
    (root / "KolektorSDD").mkdir()
    assert fold(root).notes == dataset.notes
    (root / "kos06").rename(root / "KolektorSDD/kos06")
    assert problems("kolektorsdd", root) == [
        Problem(f"both {root} and {root}/KolektorSDD hold commutators", "Remove the one that is not meant.")
    ]


def test_folders_that_are_all_in_another_case_are_named(tmp_path):
    root = trees.ksdd(tmp_path)
    for item in trees.DEFECTS:
        (root / item).rename(root / item.title())
    assert problems("kolektorsdd", root) == [
        Problem(
            f"{root}/{item}: no such folder; there is {root}/{item.title()}",
            f"Case counts in the names of folders: rename it to {item}.",
        )
        for item in trees.DEFECTS
    ]


def test_without_a_good_image_there_is_nothing_to_learn_from(tmp_path):
    root = trees.ksdd(tmp_path)
    for n, item in enumerate(trees.DEFECTS):
        for mask in (root / item).glob("*.bmp"):
            trees.mask(mask, 1, (trees.SIZE[0] + n, trees.SIZE[1]))
    with pytest.raises(DataError) as error:
        fold(root, 1)
    assert said(error) == (
        f"{root}: no image of the other folds than fold_1 is good",
        "There is nothing to learn from.",
    )


@pytest.mark.parametrize(
    ("other", "splits"),
    [("kos01/Part0.jpg", ["train", "test"]), ("kos03/Part2.jpg", ["train"])],
    ids=["across the fold", "within a side"],
)
def test_equal_images_of_two_commutators_are_found(tmp_path, uadctl, other, splits):
    root = trees.ksdd(tmp_path / "ksdd")
    trees.paint_all(root)
    clean = uadctl("datasets", "check", "kolektorsdd", "--root", root)
    assert "byte for byte" not in clean.err
    trees.swapped(root, other, "kos02/Part2.jpg")
    pair = sorted([root / "kos02/Part2.jpg", root / other])
    dataset = fold(root)
    samples = {s.relative: s for s in (*dataset.train, *dataset.test)}
    assert {samples[name].split for name in (other, "kos02/Part2.jpg")} == set(splits)
    leaks = [sorted([Path(a.path), Path(b.path)]) for a, b in dataset.leaks()]
    assert leaks == ([pair] if len(splits) == 2 else [])
    checked = uadctl("datasets", "check", "kolektorsdd", "--root", root)
    (line,) = [line for line in checked.err.splitlines() if "equal byte for byte" in line]
    assert line.startswith("warning: ")
    assert str(pair[0]) in line
    assert str(pair[1]) in line
    assert ("in train and test" in line) == (len(splits) == 2)


def test_the_metrics_of_commutators_say_why_they_are_null(tmp_path, uadctl):
    """Every commutator of the data set has a defect."""
    root = trees.ksdd(tmp_path / "ksdd")
    words = ["--dataset", "ksdd", "--root", root, "--model", "patchcore", "--set", "preprocess.size=64", "--json"]

    def cell() -> dict:
        return uadctl("bench", *words).json["results"]["kolektorsdd"]["vision_patchcore"]["0"]

    found = cell()
    assert found["metrics"]["group_auroc"] is None
    assert found["reasons"]["group_auroc"] == "there is no normal part (2 defect)"
    trees.mask(root / "kos01/Part1_label.bmp", 0)
    found = cell()
    assert found["metrics"]["group_auroc"] in (0.0, 1.0)
    assert found["counts"]["defect_images"] == 2


# --- KolektorSDD2


def test_the_parts_are_those_of_the_authors_and_defects_are_not_learned_from(tmp_path):
    root = trees.ksdd2(tmp_path)
    assert list_categories("kolektorsdd2", str(root)) == ["kolektorsdd2"]
    dataset = load_dataset("ksdd2", str(root))
    assert (dataset.name, dataset.category, dataset.root) == ("kolektorsdd2", "kolektorsdd2", str(root))
    assert [(s.path, s.split, s.label, s.masks, s.group) for s in dataset.train] == [
        (f"{root}/train/{n}.png", "train", 0, (), None) for n in (10000, 10002, 10003, 10301)
    ]
    assert [(s.relative, s.split, s.label, s.defect, s.masks) for s in dataset.left_out] == [
        ("train/10001.png", "train", 1, "defect", (f"{root}/train/10001_GT.png",))
    ]
    assert [(s.relative, s.split, s.label, s.defect, s.masks) for s in dataset.test] == [
        ("test/20000.png", "test", 0, "good", ()),
        ("test/20001.png", "test", 1, "defect", (f"{root}/test/20001_GT.png",)),
        ("test/20002.png", "test", 0, "good", ()),
        ("test/20003.png", "test", 1, "defect", (f"{root}/test/20003_GT.png",)),
        ("test/20004.png", "test", 0, "good", ()),
    ]
    assert mask_sums(dataset) == [0, 2, 0, 4, 0]
    assert (dataset.validation, dataset.problems()) == ((), [])


def test_the_stray_copies_are_no_images_and_are_told(tmp_path):
    root = trees.ksdd2(tmp_path)
    one, two = root / "train/10301 (copy).png", root / "train/10301_GT (copy).png"
    assert load_dataset("kolektorsdd2", str(root)).notes == (
        f"{one} is passed over: a copy of {root}/train/10301.png, equal byte for byte",
        f"{two} is passed over: a copy of {root}/train/10301_GT.png, equal byte for byte",
    )
    two.rename(root / "train/10301_GT (Copy).png")
    assert load_dataset("kolektorsdd2", str(root)).notes[0].startswith(f"{root}/train/10301 (copy).png is passed over")
    assert len(load_dataset("kolektorsdd2", str(root)).notes) == 2
    one.unlink()
    (root / "train/10301_GT (Copy).png").unlink()
    dataset = load_dataset("kolektorsdd2", str(root))
    assert dataset.notes == ()
    assert len(dataset.train) == 4


def test_what_is_called_a_copy_and_is_none_is_wrong(tmp_path):
    root = trees.ksdd2(tmp_path)
    home = root / "train"
    data = bytearray((home / "10301 (copy).png").read_bytes())
    data[-1] ^= 1  # as long as before
    (home / "10301 (copy).png").write_bytes(data)
    shutil.copy(home / "10000.png", home / "10999 (copy).png")
    (home / "10301_GT.png").unlink()
    (home / "10301_GT.png").mkdir()
    assert problems("kolektorsdd2", root) == [
        Problem(
            f"{home}/10301 (copy).png is no copy of {home}/10301.png: they differ",
            "Rename the one that is meant, or remove the other.",
        ),
        Problem(
            f"{home}/10301_GT (copy).png: there is no {home}/10301_GT.png that it is a copy of",
            "Rename it, or remove it.",
        ),
        Problem(
            f"{home}/10999 (copy).png: there is no {home}/10999.png that it is a copy of", "Rename it, or remove it."
        ),
        Problem(f"{home}/10301.png: no mask at {home}/10301_GT.png", UNKNOWN),
    ]


def test_all_that_is_wrong_with_both_parts_is_said_at_once(tmp_path):
    root = trees.ksdd2(tmp_path)
    (root / "train/10000_GT.png").unlink()
    (root / "test/20000_GT.png").unlink()
    (root / "test/20001.png").unlink()
    (root / "test/20002_GT.png").write_bytes(b"")
    parts.write(root / "test/more/20009.png", parts.surface(0))
    parts.write(root / "20010.png", parts.surface(0))
    assert problems("kolektorsdd2", root) == [
        Problem(f"{root}/test/more/20009.png does not lie in {root}/test itself", "Move it there, or away."),
        Problem(f"{root}/20010.png lies neither in train/ nor in test/", "Move it there."),
        Problem(f"{root}/test/20000.png: no mask at {root}/test/20000_GT.png"),
        Problem(f"{root}/train/10000.png: no mask at {root}/train/10000_GT.png", UNKNOWN),
        Problem(f"{root}/test/20001_GT.png: the mask of no image; there is no {root}/test/20001.png", UNPACK),
        Problem(f"{root}/test/20002_GT.png: the file is empty (0 bytes)", UNKNOWN),
    ]


def test_masks_in_colour_endings_in_any_case_and_pickles_beside(tmp_path):
    root = trees.ksdd2(tmp_path / "KolektorSDD2")
    (root / "split_weakly_16.pyb").write_bytes(b"\x80\x04.")
    (root / "test/20002_GT.png").rename(root / "test/20002_gt.PNG")
    mask = parts.surface(0, 76, 68) * 0
    mask[5, :9] = (0, 0, 200)
    parts.write(root / "test/20004_GT.png", mask)
    dataset = load_dataset("kolektorsdd2", str(tmp_path))
    assert [s.label for s in dataset.test] == [0, 1, 0, 1, 1]
    assert mask_sums(dataset) == [0, 2, 0, 4, 9]
    assert dataset.test[0].relative == "test/20000.png"


@pytest.mark.parametrize("lost", ["train", "test"])
def test_a_missing_part_is_named_and_one_in_another_case_too(tmp_path, lost):
    root = trees.ksdd2(tmp_path)
    (root / lost).rename(root / lost.upper())
    for other in ("left", "right"):
        with pytest.raises(DataError) as error:
            load_dataset("kolektorsdd2", str(root))
        assert said(error) == (
            f"{root}/{lost}: no such folder; there is {root}/{lost.upper()}",
            f"Case counts in the names of folders: rename it to {lost}.",
        ), other
    both = {"train": "test", "test": "train"}[lost]
    (root / both).rename(root / both.title())
    with pytest.raises(DataError) as error:
        load_dataset("kolektorsdd2", str(root))
    assert said(error)[0] in {f"{root}/train: no such folder; there is {root}/{name}" for name in ("Train", "TRAIN")}
    shutil.rmtree(root / lost.upper())
    (root / both.title()).rename(root / both)
    with pytest.raises(DataError) as error:
        load_dataset("kolektorsdd2", str(root))
    assert said(error) == (
        f"{root}/{lost}: no such folder",
        "Unpack the archive again: it holds train/ and test/.",
    )


def test_a_part_without_images_says_so(tmp_path):
    root = trees.ksdd2(tmp_path)
    shutil.rmtree(root / "test")
    (root / "test").mkdir()
    with pytest.raises(DataError) as error:
        load_dataset("kolektorsdd2", str(root))
    assert said(error) == (f"{root}/test holds no image", "It must hold the images to test on.")
    for file in (root / "train").glob("*0*.png"):
        if file.name != "10001.png" and file.name != "10001_GT.png":
            file.unlink()
    with pytest.raises(DataError) as error:
        load_dataset("kolektorsdd2", str(root))
    assert said(error) == (f"{root}/train holds no good image", "There is nothing to learn from.")


def test_a_mask_whose_ending_follows_copy_is_a_copy_and_suffixes_are_in_any_case(tmp_path):
    root = trees.ksdd2(tmp_path)
    home = root / "train"
    before = load_dataset("kolektorsdd2", str(root))
    shutil.copy(home / "10000.png", home / "10000 (copy).png")
    shutil.copy(home / "10000_GT.png", home / "10000 (copy)_GT.png")
    (home / "10301 (copy).png").rename(home / "10301 (copy).PNG")
    (home / "10301_GT.png").rename(home / "10301_gt.Png")
    dataset = load_dataset("kolektorsdd2", str(root))
    assert dataset.notes == tuple(
        f"{home}/{copy} is passed over: a copy of {home}/{first}, equal byte for byte"
        for copy, first in (
            ("10000 (copy).png", "10000.png"),
            ("10000 (copy)_GT.png", "10000_GT.png"),
            ("10301 (copy).PNG", "10301.png"),
            ("10301_GT (copy).png", "10301_gt.Png"),
        )
    )
    assert (dataset.train, dataset.test) == (before.train, before.test)
    trees.mask(home / "10000 (copy)_gt.png", 3)
    (home / "10000 (copy)_GT.png").unlink()
    assert problems("kolektorsdd2", root) == [
        Problem(
            f"{home}/10000 (copy)_gt.png is no copy of {home}/10000_GT.png: they differ",
            "Rename the one that is meant, or remove the other.",
        )
    ]


def test_images_without_any_mask_are_said_to_have_none(tmp_path):
    root = trees.ksdd2(tmp_path)
    for mask in root.glob("*/*_GT*.png"):
        mask.unlink()
    for wanted in (root, root / "train"):
        with pytest.raises(NoLayout) as error:
            load_dataset("kolektorsdd2", str(wanted))
        if wanted == root:
            assert said(error) == (
                f"{root} holds no KolektorSDD2: {root}/train has images such as 10000.png, but no mask such as "
                "10000_GT.png",
                "Masks alone say which images are good: unpack the archive again.",
            )
        else:
            assert said(error)[0].startswith(f"{root}/train holds no KolektorSDD2: expected {root}/train/train/10000")


def test_a_part_in_two_cases_and_a_second_set_are_wrong_and_other_folders_are_told(tmp_path):
    root = trees.ksdd2(tmp_path)
    before = load_dataset("kolektorsdd2", str(root))
    shutil.copytree(root / "test", root / "val")
    (root / "empty").mkdir()
    (root / "KolektorSDD2").mkdir()
    dataset = load_dataset("kolektorsdd2", str(root))
    assert dataset.notes == (
        *before.notes,
        f"{root}/val is passed over, with 10 images: KolektorSDD2 has train/ and test/ only",
    )
    assert (dataset.train, dataset.test) == (before.train, before.test)
    (root / "Test").mkdir()
    (root / "val").rename(root / "KolektorSDD2/test")
    one = "Remove the one that is not meant."
    assert problems("kolektorsdd2", root) == [
        Problem(f"two folders of one part: {root}/test and {root}/Test", one),
        Problem(f"both {root} and {root}/KolektorSDD2 hold a KolektorSDD2", one),
    ]


def test_a_good_image_whose_black_mask_has_another_size_is_wrong(tmp_path):
    one, two = trees.ksdd(tmp_path / "one"), trees.ksdd2(tmp_path / "two")
    trees.mask(one / "kos01/Part0_label.bmp", 0, (64, 80))
    trees.mask(two / "train/10000_GT.png", 0, (64, 80))
    fits = "A mask must have the size of its image, as displayed."
    assert problems("kolektorsdd", one) == [
        Problem(
            f"{one}/kos01/Part0_label.bmp is 64x80, its image {one}/kos01/Part0.jpg is 80x64 (height x width)", fits
        )
    ]
    assert problems("kolektorsdd2", two) == [
        Problem(f"{two}/train/10000_GT.png is 64x80, its image {two}/train/10000.png is 80x64 (height x width)", fits)
    ]


def test_a_folder_beside_that_may_not_be_read_is_no_matter(tmp_path, monkeypatch):
    root = trees.ksdd2(tmp_path)
    parts.write(root / "lost+found/a.png", parts.surface(0))
    assert len(load_dataset("kolektorsdd2", str(root)).notes) == 3

    def refused(folder: str) -> list[str]:
        raise DataError(f"{folder}: cannot be read (Permission denied)")

    monkeypatch.setattr(by_mask, "relative_images", refused)
    assert len(load_dataset("kolektorsdd2", str(root)).notes) == 2


# --- which is which


def test_each_is_recognised_and_no_other(tmp_path):
    one, two = trees.ksdd(tmp_path / "a/KolektorSDD"), trees.ksdd2(tmp_path / "b/KolektorSDD2")
    for root in (one, tmp_path / "a"):
        assert names_of(str(root)) == ["kolektorsdd"]
    for root in (two, tmp_path / "b"):
        assert names_of(str(root)) == ["kolektorsdd2"]
    others = [trees_mvtec.mvtec_ad(tmp_path / "ad"), trees_others.visa_original(tmp_path / "visa")]
    others += [trees_others.btad(tmp_path / "btad"), one / "kos01", two / "train"]
    (tmp_path / "empty/kos01").mkdir(parents=True)
    parts.write(tmp_path / "bare/kos01/Part0.jpg", parts.surface(0))
    parts.write(tmp_path / "flat/train/a.png", parts.surface(0))
    trees.mask(tmp_path / "flat/train/b_GT.png", 0)
    for root in (*others, tmp_path / "empty", tmp_path / "bare", tmp_path / "flat"):
        assert not kolektorsdd.recognises(str(root)), root
        assert not kolektorsdd2.recognises(str(root)), root
    with pytest.raises(NoLayout) as error:
        list_categories("kolektorsdd", str(two))
    assert said(error) == (
        f"{two} holds no KolektorSDD: expected {two}/kos01/Part0.jpg and {two}/kos01/Part0_label.bmp, found test/, "
        "train/",
        "It looks like kolektorsdd2: give that name in place of kolektorsdd.",
    )
    with pytest.raises(NoLayout) as error:
        load_dataset("kolektorsdd2", str(one))
    assert said(error)[1] == "It looks like kolektorsdd: give that name in place of kolektorsdd2."
    for name in ("kolektorsdd", "kolektorsdd2"):
        with pytest.raises(DataError) as missing:
            list_categories(name, str(tmp_path / "nowhere"))
        assert said(missing) == (f"{tmp_path}/nowhere: no such folder", None)
        with pytest.raises(DataError) as missing:
            load_dataset(name, str(tmp_path / {"kolektorsdd": "a", "kolektorsdd2": "b"}[name]), category="x")
        assert said(missing)[0].endswith(f"has no category 'x'; it has: {name}")


@pytest.mark.parametrize("name", ["kolektorsdd", "kolektorsdd2"])
def test_it_is_said_that_a_black_mask_and_not_a_missing_one_means_good(uadctl, name):
    shown = uadctl("datasets", "show", name).out
    assert "its mask: above 0 is a defect; all black: good\n" in shown
    assert "none: good" not in shown


def test_their_pickles_are_never_read(tmp_path, monkeypatch):
    import pickle

    def refuse(*args: object, **options: object) -> None:
        raise AssertionError("a pickle was read")

    for name in ("load", "loads", "Unpickler"):
        monkeypatch.setattr(pickle, name, refuse)
    one, two = trees.ksdd(tmp_path / "one"), trees.ksdd2(tmp_path / "two")
    (one / "split.pyb").write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    (two / "split_weakly_0.pyb").write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    assert len(fold(one).test) == 8
    assert len(load_dataset("kolektorsdd2", str(two)).test) == 5
