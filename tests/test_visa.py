"""VisA: both layouts, its three splits, the quirks of its CSV files, and what is said where something is wrong."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import trees_mvtec
import trees_others as trees
from parts import mask_sums, relatives
from parts import message as said

from uadctl.datasets import Dataset, LayoutError, list_categories, load_dataset, visa
from uadctl.datasets.base import NoLayout
from uadctl.errors import DataError

OBJECTS = (
    "candle",
    "capsules",
    "cashew",
    "chewinggum",
    "fryum",
    "macaroni1",
    "macaroni2",
    "pcb1",
    "pcb2",
    "pcb3",
    "pcb4",
    "pipe_fryum",
)
NORMAL, ANOMALY = "Data/Images/Normal", "Data/Images/Anomaly"


def load(root: Path, category: str = "candle", split: str | None = None, layout: str | None = None) -> Dataset:
    return load_dataset("visa", str(root), category=category, split=split, layout=layout)


def edit(path: Path, change: Callable[[str], str]) -> None:
    text = path.read_text(encoding="utf-8")
    changed = change(text)
    assert changed != text
    path.write_text(changed, encoding="utf-8", newline="")


# --- the original layout


def test_the_original_layout_becomes_sorted_samples_with_their_own_masks(tmp_path: Path) -> None:
    root = trees.visa_original(tmp_path)
    home = root / "candle"
    assert list_categories("visa", str(root)) == ["candle", "pcb1"]
    dataset = load(root)
    assert (dataset.name, dataset.category, dataset.root) == ("visa", "candle", str(root))
    assert relatives(dataset.train) == [f"{NORMAL}/{n:04}.JPG" for n in range(4)]
    assert {(s.split, s.label, s.defect, s.category, s.masks) for s in dataset.train} == {
        ("train", 0, "good", "candle", ())
    }
    assert (dataset.validation, dataset.left_out) == ((), ())
    truth = f"{home}/Data/Masks/Anomaly"
    assert [(s.relative, s.split, s.label, s.defect, s.masks) for s in dataset.test] == [
        (f"{ANOMALY}/000.JPG", "test", 1, "melded", (f"{truth}/000.png",)),
        (f"{ANOMALY}/001.JPG", "test", 1, "melded,weird candle wick", (f"{truth}/001.png",)),
        (f"{ANOMALY}/002.JPG", "test", 1, "chunk of wax missing", (f"{truth}/002.png",)),
        (f"{ANOMALY}/003.JPG", "test", 1, "foreign particals on candle", (f"{truth}/003.png",)),
        (f"{NORMAL}/0004.JPG", "test", 0, "good", ()),
        (f"{NORMAL}/0005.JPG", "test", 0, "good", ()),
    ]
    paths, labels, masks = dataset.get_test_paths()
    assert paths == [str(home / sample.relative) for sample in dataset.test]
    assert labels.tolist() == [1, 1, 1, 1, 0, 0]
    assert masks is not None
    assert mask_sums(dataset) == [1, 2, 3, 4, 0, 0]  # class numbers 1 and 2 count alike
    assert {mask.shape for mask in masks if mask is not None} == {trees.SIZE}
    assert dataset.problems() == []


@pytest.mark.parametrize(
    ("split", "train", "left_out", "test"),
    [(None, 4, 0, 6), ("1cls", 4, 0, 6), ("2cls_fewshot", 3, 1, 6), ("2cls_highshot", 5, 2, 3)],
)
@pytest.mark.parametrize("layout", ["original", "visa_pytorch"])
def test_all_splits_are_read_and_defects_in_training_are_left_out(
    tmp_path: Path, layout: str, split: str | None, train: int, left_out: int, test: int
) -> None:
    if layout == "original":
        root = trees.visa_original(tmp_path)
    else:
        root = tmp_path
        for name in trees.LEARNED:
            trees.visa_prepared(root / "VisA_pytorch" / name, split=name)
    for category in ("candle", "pcb1"):
        dataset = load(root, category, split)
        assert (len(dataset.train), len(dataset.left_out), len(dataset.test)) == (train, left_out, test)
        assert {(s.split, s.label) for s in dataset.train} == {("train", 0)}
        assert {(s.split, s.label) for s in dataset.left_out} <= {("train", 1)}
        assert [sample.path[-7:-4] for sample in dataset.left_out] == [f"{n:03}" for n in range(left_out)]
        assert len({sample.path for sample in dataset.train + dataset.left_out + dataset.test}) == 10
        bad = range(left_out, 4)
        assert mask_sums(dataset) == [n + 1 for n in bad] + [0] * (6 - train)
        assert all(len(sample.masks) == 1 for sample in dataset.left_out)


@pytest.mark.parametrize("name", ["VisA", "VisA_20220922"])
def test_the_root_may_be_the_folder_around_it(tmp_path: Path, name: str) -> None:
    trees.visa_original(tmp_path / name)
    (tmp_path / "notes").mkdir()
    assert list_categories("visa", str(tmp_path)) == ["candle", "pcb1"]
    dataset = load(tmp_path)
    assert dataset.root == str(tmp_path)
    assert dataset.test[0].path == f"{tmp_path}/{name}/candle/{ANOMALY}/000.JPG"
    assert dataset.test[0].relative == f"{ANOMALY}/000.JPG"
    assert visa.recognises(str(tmp_path))
    trees.visa_original(tmp_path / "again")
    with pytest.raises(DataError) as error:
        list_categories("visa", str(tmp_path))
    assert said(error) == (
        f"{tmp_path} holds VisA 2 times: {tmp_path}/{name}, {tmp_path}/again",
        "Give one of them as root.",
    )


def test_other_objects_are_accepted_and_only_what_is_on_disk_is_listed(tmp_path: Path) -> None:
    root = trees.visa_original(tmp_path, ("candle", "my_gear", "pcb1"))
    shutil.rmtree(root / "pcb1")  # not everyone unpacks all twelve
    assert list_categories("visa", str(root)) == ["candle", "my_gear"]
    assert len(load(root, "my_gear").test) == 6
    with pytest.raises(DataError) as error:
        load(root, "candel")
    assert isinstance(error.value, ValueError)
    assert said(error) == (f"{root} has no category 'candel'; did you mean candle? It has: candle, my_gear", None)


def test_without_annotations_a_defect_is_an_anomaly(tmp_path: Path) -> None:
    root = trees.visa_original(tmp_path)
    edit(root / "pcb1/image_anno.csv", lambda text: text.replace(",chunk of wax missing,", ",,"))
    edit(root / "pcb1/image_anno.csv", lambda text: "".join(text.splitlines(keepends=True)[:-1]))
    assert [s.defect for s in load(root, "pcb1").test] == [
        "melded",
        "melded,weird candle wick",
        "anomaly",  # no label
        "anomaly",  # no row
        "good",
        "good",
    ]
    (root / "pcb1/image_anno.csv").unlink()
    assert {s.defect for s in load(root, "pcb1").test} == {"anomaly", "good"}


def test_the_quirks_of_csv_files_change_nothing(tmp_path: Path) -> None:
    plain = load(trees.visa_original(tmp_path / "plain"))
    root = trees.visa_original(tmp_path / "odd")
    for path in (root / "split_csv/1cls.csv", root / "candle/image_anno.csv"):
        header, *rows = path.read_text().splitlines()
        spaced = [", ".join(f"{cell} " for cell in row.split(",")) if '"' not in row else row for row in rows]
        spaced.insert(3, "")
        spaced.insert(5, " , , ")
        path.write_bytes(b"\xef\xbb\xbf" + "\r\n".join([header.title() + " ,Note", *spaced]).encode())
    edit(
        root / "candle/image_anno.csv",
        lambda text: text.replace('"melded,weird candle wick"', ' "melded,  weird candle wick, "'),
    )
    edit(
        root / "split_csv/1cls.csv",
        lambda text: text.replace("candle/Data/Images/Normal/0001.JPG", "./candle//Data/Images/Normal/0001.JPG"),
    )
    odd = load(root)
    assert [(s.relative, s.split, s.label, s.defect) for s in odd.train + odd.test] == [
        (s.relative, s.split, s.label, s.defect) for s in plain.train + plain.test
    ]
    assert mask_sums(odd) == [1, 2, 3, 4, 0, 0]


def test_the_columns_may_come_in_another_order(tmp_path: Path) -> None:
    root = trees.visa_original(tmp_path)
    path = root / "split_csv/1cls.csv"
    rows = [line.split(",") for line in path.read_text().splitlines()]
    path.write_text("\n".join(",".join(reversed(row)) for row in rows))
    assert mask_sums(load(root)) == [1, 2, 3, 4, 0, 0]


def test_rows_may_end_before_an_empty_mask(tmp_path: Path) -> None:
    root = trees.visa_original(tmp_path)
    edit(root / "split_csv/1cls.csv", lambda text: text.replace(".JPG,\n", ".JPG\n"))
    assert (len(load(root).train), len(load(root).test)) == (4, 6)


def test_suffixes_on_disk_may_be_in_another_case_than_in_the_csv(tmp_path: Path) -> None:
    root = trees.visa_original(tmp_path)
    home = root / "candle"
    (home / f"{NORMAL}/0000.JPG").rename(home / f"{NORMAL}/0000.jpg")
    (home / f"{ANOMALY}/000.JPG").rename(home / f"{ANOMALY}/000.Jpg")
    (home / "Data/Masks/Anomaly/000.png").rename(home / "Data/Masks/Anomaly/000.PNG")
    dataset = load(root)
    assert dataset.train[0].path == f"{home}/{NORMAL}/0000.jpg"
    assert (dataset.test[0].relative, dataset.test[0].defect) == (f"{ANOMALY}/000.Jpg", "melded")
    assert dataset.test[0].masks == (f"{home}/Data/Masks/Anomaly/000.PNG",)
    assert mask_sums(dataset) == [1, 2, 3, 4, 0, 0]


def test_of_two_files_that_differ_in_the_case_of_their_suffix_the_named_one_is_meant(tmp_path: Path) -> None:
    root = trees.visa_original(tmp_path)
    home = root / "candle"
    trees.picture(home / f"{NORMAL}/0000.jpg")
    assert load(root).train[0].path == f"{home}/{NORMAL}/0000.JPG"
    (home / f"{NORMAL}/0000.JPG").rename(home / f"{NORMAL}/0000.Jpg")
    assert broken(root) == [f"{root}/split_csv/1cls.csv:3: {home}/{NORMAL}/0000.JPG: no such file"]


def test_a_missing_mask_is_named_and_the_others_keep_theirs(tmp_path: Path) -> None:
    root = trees.visa_original(tmp_path)
    truth = root / "candle/Data/Masks/Anomaly"
    (truth / "001.png").unlink()
    edit(root / "split_csv/1cls.csv", lambda text: text.replace(",candle/Data/Masks/Anomaly/003.png", ","))
    dataset = load(root)
    assert mask_sums(dataset) == [1, None, 3, 4, 0, 0]  # 003: where VisA keeps its masks
    assert dataset.problems() == [f"{root}/candle/{ANOMALY}/001.JPG: no mask at {truth}/001.png"]
    (truth / "003.png").unlink()
    assert relatives(tuple(load(root).missing_masks())) == [f"{ANOMALY}/001.JPG", f"{ANOMALY}/003.JPG"]


def test_nothing_is_decoded(tmp_path: Path) -> None:
    root = trees.visa_original(tmp_path)
    images = [*root.rglob("*.JPG"), *root.rglob("*.png")]
    assert len(images) == 28
    for path in images:
        path.write_bytes(b"broken")
    assert len(load(root).test) == 6
    assert visa.recognises(str(root))


# --- damage to the CSV files


def broken(root: Path, split: str | None = None) -> list[str]:
    with pytest.raises(LayoutError) as error:
        load(root, split=split)
    assert isinstance(error.value, ValueError)
    return [problem.message for problem in error.value.problems]


def test_all_problems_of_a_split_come_at_once_with_their_lines(tmp_path: Path) -> None:
    root = trees.visa_original(tmp_path)
    path = root / "split_csv/1cls.csv"
    path.write_text(
        "object,split,label,image,mask\n"
        f"candle,train,normal,candle/{NORMAL}/0000.JPG,\n"
        f"candle,training,normal,candle/{NORMAL}/0001.JPG,\n"
        f"candle,test,bad,candle/{ANOMALY}/000.JPG,candle/Data/Masks/Anomaly/000.png\n"
        f"candle,test,normal,candle/{NORMAL}/9999.JPG,\n"
        f"candle,test,normal,candle/{NORMAL}/0000.JPG,\n"
        "candle,test,normal,../other/0.JPG,\n"
        f"candle,test,normal,candle/{NORMAL}/0002.JPG,x.png\n"
        f"candle,test,anomaly,candle/{ANOMALY}/001.JPG,/etc/mask.png\n"
        f"candel,test,normal,candle/{NORMAL}/0003.JPG,\n"
        f"candle,test,normal,candle/{NORMAL}/0004.JPG,,,\n"
    )
    assert broken(root) == [
        f"{path}:11: 7 values, but 5 columns",
        f"{path}:3: split = 'training', expected train or test",
        f"{path}:4: label = 'bad', expected normal or anomaly",
        f"{path}:5: {root}/candle/{NORMAL}/9999.JPG: no such file",
        f"{path}:6: candle/{NORMAL}/0000.JPG is test, normal, but in line 2 it is train, normal",
        f"{path}:7: image = '../other/0.JPG' is no path below {root} with forward slashes",
        f"{path}:8: candle/{NORMAL}/0002.JPG is normal, but has the mask x.png",
        f"{path}:9: mask = '/etc/mask.png' is no path below {root} with forward slashes",
        f"{path}:10: candle/{NORMAL}/0003.JPG does not lie in the folder of its object, 'candel'",
    ]
    with pytest.raises(LayoutError) as error:
        load(root)
    assert error.value.help == "VisA_20220922.tar holds these files as they should be."


@pytest.mark.parametrize(
    "value", ["", "/abs/0.JPG", "..", "candle/../../0.JPG", r"candle\Data\0.JPG", "C:/0.JPG", "C:0.JPG"]
)
def test_no_path_leaves_the_root(tmp_path: Path, value: str) -> None:
    root = trees.visa_original(tmp_path)
    path = root / "split_csv/1cls.csv"
    path.write_text(f"object,split,label,image,mask\ncandle,test,normal,{value},\n")
    assert broken(root) == [f"{path}:2: image = {value!r} is no path below {root} with forward slashes"]


def test_an_image_of_another_object_is_a_problem_and_so_is_one_named_twice_with_two_labels(tmp_path: Path) -> None:
    root = trees.visa_original(tmp_path)
    path = root / "split_csv/1cls.csv"
    last = len(path.read_text().splitlines())
    more = (
        f"candle,test,normal,pcb1/{NORMAL}/0005.JPG,\n"
        f"candle,test,normal,candle/{ANOMALY}/000.JPG,\n"
        f"candle,test,anomaly,candle/{ANOMALY}/001.jpg,candle/Data/Masks/Anomaly/001.png\n"  # the same again: no harm
        f"candle/Data,test,normal,candle/{NORMAL}/0005.JPG,\n"
    )
    edit(path, lambda text: text + more)
    assert broken(root) == [
        f"{path}:{last + 1}: pcb1/{NORMAL}/0005.JPG does not lie in the folder of its object, 'candle'",
        f"{path}:{last + 2}: candle/{ANOMALY}/000.JPG is test, normal, but in line 9 it is test, anomaly",
        f"{path}:{last + 4}: candle/{NORMAL}/0005.JPG does not lie in the folder of its object, 'candle/Data'",
    ]
    edit(path, lambda text: text.replace(more, more.splitlines(keepends=True)[2]))
    assert len(load(root).test) == 6


def test_two_images_do_not_share_a_mask(tmp_path: Path) -> None:
    root = trees.visa_original(tmp_path)
    path = root / "split_csv/1cls.csv"
    edit(path, lambda text: text.replace("candle/Data/Masks/Anomaly/001.png", "candle/Data/Masks/Anomaly/000.png"))
    assert broken(root) == [
        f"{path}:10: candle/{ANOMALY}/001.JPG and candle/{ANOMALY}/000.JPG share one mask, candle/Data/Masks/Anomaly/000.png"
    ]


def test_an_image_has_the_same_mask_in_every_row(tmp_path: Path) -> None:
    root = trees.visa_original(tmp_path)
    path = root / "split_csv/1cls.csv"
    own, other = (f"candle/Data/Masks/Anomaly/00{n}.png" for n in (0, 1))
    row = f"candle,test,anomaly,candle/{ANOMALY}/000.JPG,"
    edit(path, lambda text: text + f"{row}{own}\n{row}\n")  # without one, VisA's own place is meant
    assert len(load(root).test) == 6
    edit(path, lambda text: text + f"{row}{other}\ncandle,test,normal,candle/{NORMAL}/0005.JPG,{own}\n")
    first, normal = (
        next(n for n, line in enumerate(path.read_text().splitlines(), 1) if f"/{name}.JPG" in line)
        for name in ("Anomaly/000", "Normal/0005")
    )
    end = path.read_text().count("\n")
    assert broken(root) == [
        f"{path}:{end - 1}: candle/{ANOMALY}/000.JPG has the mask {other}, but in line {first} {own}",
        f"{path}:{end}: candle/{NORMAL}/0005.JPG has the mask {own}, but in line {normal} none",
    ]


def test_annotations_of_other_images_are_a_problem(tmp_path: Path) -> None:
    root = trees.visa_original(tmp_path)
    path = root / "candle/image_anno.csv"
    path.write_text("image,label,mask\n")
    assert {s.defect for s in load(root).test} == {"good", "anomaly"}  # no row says nothing
    path.write_text("image,label,mask\n000.JPG,melded,\n001.JPG,melded,\n")
    assert broken(root) == [
        f"{path}: none of its 2 rows names an image that there is; the first names '000.JPG'",
    ]
    path.write_text(f"image,label,mask\n000.JPG,melded,\ncandle/{ANOMALY}/001.JPG,melded,\n")
    assert [s.defect for s in load(root).test if s.label] == ["anomaly", "melded", "anomaly", "anomaly"]


def test_a_category_that_is_not_whole_is_no_less_asked_for(tmp_path: Path) -> None:
    root = trees.visa_original(tmp_path / "VisA")
    shutil.rmtree(root / "pcb1/Data/Images")
    (root / "notes").mkdir()
    assert list_categories("visa", str(root)) == ["candle", "pcb1"]
    with pytest.raises(LayoutError, match=r"pcb1/Data/Images/Normal/0003.JPG: no such file"):
        load(root, "pcb1")
    shutil.rmtree(root / "pcb1/Data")
    assert list_categories("visa", str(root)) == ["candle", "pcb1"]
    home = trees.visa_prepared(tmp_path / "visa_pytorch")
    shutil.rmtree(home / "pcb1/train")
    assert list_categories("visa", str(home)) == ["candle", "pcb1"]
    with pytest.raises(DataError) as error:
        load(home, "pcb1")
    assert said(error) == (f"{home}/pcb1/train/good: no such folder", "It must hold the good training images.")


def test_many_problems_are_counted(tmp_path: Path) -> None:
    root = trees.visa_original(tmp_path)
    path = root / "split_csv/1cls.csv"
    edit(path, lambda text: text.replace(",test,", ",tset,").replace(",train,", ",trian,") + "candle,x,normal,,\n")
    lines = broken(root)
    assert len(lines) == 11
    assert lines[9] == f"{path}:11: split = 'tset', expected train or test"
    assert lines[10] == f"{path}: and 2 more problems"


def test_problems_of_other_categories_are_not_in_the_way(tmp_path: Path) -> None:
    root = trees.visa_original(tmp_path)
    shutil.rmtree(root / f"pcb1/{NORMAL}")
    assert len(load(root).test) == 6
    with pytest.raises(LayoutError):
        load(root, "pcb1")


def test_missing_columns_are_named(tmp_path: Path) -> None:
    root = trees.visa_original(tmp_path)
    path = root / "split_csv/1cls.csv"
    edit(path, lambda text: text.replace("object,split,label", "object,set,kind", 1))
    assert broken(root) == [
        f"{path}: no column split; found object, set, kind, image, mask",
        f"{path}: no column label; found object, set, kind, image, mask",
    ]
    path.write_text("")
    assert broken(root)[0] == f"{path}: no column object; found nothing"
    trees.visa_original(tmp_path / "b")
    path = tmp_path / "b/candle/image_anno.csv"
    edit(path, lambda text: text.replace("label", "kind", 1))
    assert broken(tmp_path / "b") == [f"{path}: no column label; found image, kind, mask"]


def test_text_that_is_no_csv_is_said(tmp_path: Path) -> None:
    root = trees.visa_original(tmp_path)
    path = root / "split_csv/1cls.csv"
    whole = path.read_text()

    path.write_bytes(whole.encode() + b"\xff\xfe")
    with pytest.raises(DataError) as error:
        load(root)
    assert said(error)[0] == f"{path}: not UTF-8 text (byte {len(whole)})"

    path.write_text(whole.replace("candle/Data/Images/Normal/0005.JPG", '"candle/Data/Images/Normal/0005.JPG'))
    count = len(whole.splitlines())
    assert broken(root) == [f"{path}:{count}: a quotation mark is not closed before this line"]

    path.write_text(whole + '"' + "x" * 140_000)
    with pytest.raises(DataError) as error:
        load(root)
    assert said(error)[0] == f"{path}:{count + 1}: field larger than field limit (131072)"


def test_annotations_that_contradict_the_split_are_said(tmp_path: Path) -> None:
    root = trees.visa_original(tmp_path)
    path, annotations = root / "split_csv/1cls.csv", root / "candle/image_anno.csv"
    edit(
        annotations,
        lambda text: text.replace("0005.JPG,normal", "0005.JPG,melded").replace("000.JPG,melded", "000.JPG,normal"),
    )
    assert broken(root) == [
        f"{path}:4: candle/{NORMAL}/0005.JPG is normal, but 'melded' in {annotations}",
        f"{path}:9: candle/{ANOMALY}/000.JPG is anomaly, but 'normal' in {annotations}",
    ]
    edit(annotations, lambda text: text + "../x.JPG,melded,\na,b,c,d\n")
    assert broken(root)[:2] == [
        f"{annotations}:13: 4 values, but 3 columns",
        f"{annotations}:12: image = '../x.JPG' is no path below {root} with forward slashes",
    ]


def test_a_part_without_images_is_said(tmp_path: Path) -> None:
    root = trees.visa_original(tmp_path)
    path = root / "split_csv/1cls.csv"
    whole = path.read_text()
    for old, new, message in (
        (
            ",train,",
            ",test,",
            (f"{path} names no normal training image of candle", "Its rows have split = train and label = normal."),
        ),
        (",test,", ",train,", (f"{path} names no test image of candle", "Its rows have split = test.")),
        ("candle,", "pcb1,", None),
    ):
        path.write_text(whole.replace(old, new))
        with pytest.raises(DataError) as error:
            load(root)
        assert message is None or said(error) == message
    path.write_text("object,split,label,image,mask\n")
    with pytest.raises(DataError) as error:
        load(root)
    assert said(error)[0] == f"{path} names no normal training image of candle"


def test_a_split_that_is_not_there_is_said_with_what_is(tmp_path: Path) -> None:
    root = trees.visa_original(tmp_path)
    folder = root / "split_csv"
    (folder / "2cls_highshot.csv").unlink()
    for call in (
        lambda: list_categories("visa", str(root), split="2cls_highshot"),
        lambda: load(root, split="2cls_highshot"),
    ):
        with pytest.raises(DataError) as error:
            call()
        assert said(error) == (
            f"{folder}/2cls_highshot.csv: no such file; {folder} holds 1cls.csv, 2cls_fewshot.csv",
            "VisA has the splits 1cls, 2cls_fewshot, 2cls_highshot.",
        )
    shutil.rmtree(folder)
    with pytest.raises(DataError) as error:
        load(root)
    assert said(error) == (
        f"{folder}: no such folder; it says which images to learn from and which to test on",
        "It is part of VisA_20220922.tar and of https://github.com/amazon-science/spot-diff.",
    )
    with pytest.raises(DataError) as error:
        load(root, split="3cls")
    assert said(error)[0] == ("visa has no split '3cls'; did you mean 1cls? It has: 1cls, 2cls_fewshot, 2cls_highshot")


# --- visa_pytorch


@pytest.mark.parametrize("below", ["", "1cls", "visa_pytorch", "VisA_pytorch", "VisA_pytorch/1cls"])
def test_visa_pytorch_is_found_below_the_root(tmp_path: Path, below: str) -> None:
    root = tmp_path / "data"
    home = trees.visa_prepared(root / below)
    assert visa.recognises(str(root))
    assert list_categories("visa", str(root)) == ["candle", "pcb1"]
    for split in (None, "1cls"):
        dataset = load(root, split=split, layout="visa_pytorch")
        assert relatives(dataset.train) == [f"train/good/{n:04}.JPG" for n in range(4)]
        truth = f"{home}/candle/ground_truth/bad"
        assert [(s.relative, s.split, s.label, s.defect, s.masks) for s in dataset.test] == [
            *((f"test/bad/{n:03}.JPG", "test", 1, "bad", (f"{truth}/{n:03}.png",)) for n in range(4)),
            ("test/good/0004.JPG", "test", 0, "good", ()),
            ("test/good/0005.JPG", "test", 0, "good", ()),
        ]
        assert dataset.get_test_paths()[0] == [f"{home}/candle/{s.relative}" for s in dataset.test]
        assert mask_sums(dataset) == [1, 2, 3, 4, 0, 0]
        assert (dataset.left_out, dataset.root) == ((), str(root))


def test_the_folders_name_says_which_split_it_is(tmp_path: Path) -> None:
    home = trees.visa_prepared(tmp_path / "visa_pytorch/2cls_fewshot", split="2cls_fewshot")
    for root in (tmp_path, tmp_path / "visa_pytorch", home):
        dataset = load(root, split="2cls_fewshot")
        assert (len(dataset.train), relatives(dataset.left_out)) == (3, ["train/bad/000.JPG"])
        assert dataset.left_out[0].masks == (f"{home}/candle/ground_truth/train/bad/000.png",)
        assert mask_sums(dataset) == [2, 3, 4, 0, 0, 0]
        for split in (None, "1cls"):  # no split that nobody asked for
            with pytest.raises(DataError) as error:
                list_categories("visa", str(root), split=split)
            assert said(error) == (
                f"{root} has no split 1cls; it has: 2cls_fewshot",
                "prepare_data.py of VisA's authors makes it, with --split-type 1cls.",
            )
    trees.visa_prepared(tmp_path / "visa_pytorch/2cls_highshot", split="2cls_highshot")
    with pytest.raises(DataError) as error:
        load(tmp_path)
    assert said(error)[0] == f"{tmp_path} has no split 1cls; it has: 2cls_fewshot, 2cls_highshot"


def test_a_folder_without_a_splits_name_is_1cls_and_nothing_else(tmp_path: Path) -> None:
    home = trees.visa_prepared(tmp_path / "visa_pytorch")
    with pytest.raises(DataError) as error:
        load(tmp_path, split="2cls_fewshot")
    assert said(error) == (
        f"{home} does not say which split it holds, so it is taken for 1cls; 2cls_fewshot was asked for",
        "If it is 2cls_fewshot, put its categories into a folder of that name.",
    )
    trees.visa_prepared(tmp_path / "visa_pytorch/2cls_fewshot", split="2cls_fewshot")
    assert (len(load(tmp_path).train), len(load(tmp_path, split="2cls_fewshot").train)) == (4, 3)


@pytest.mark.parametrize(
    ("split", "sign"),
    [("2cls_fewshot", "candle/train/bad"), ("2cls_highshot", "candle/train/bad"), ("1cls", "pcb1/ground_truth/train")],
)
@pytest.mark.parametrize("asked", [None, "1cls", "2cls_highshot"])
def test_a_folder_without_a_splits_name_that_cannot_be_1cls_is_refused(
    tmp_path: Path, split: str, sign: str, asked: str | None
) -> None:
    home = trees.visa_prepared(tmp_path / "visa_pytorch", split=split)
    (home / sign).mkdir(parents=True, exist_ok=True)
    with pytest.raises(DataError) as error:
        load(tmp_path, split=asked)
    assert said(error) == (
        f"{home} does not say which split it holds, and is not 1cls: there is {home}/{sign}",
        "Put its categories into a folder named after the split: 2cls_fewshot or 2cls_highshot.",
    )


def test_one_split_twice_is_an_error(tmp_path: Path) -> None:
    first, second = trees.visa_prepared(tmp_path / "1cls"), trees.visa_prepared(tmp_path / "visa_pytorch/1cls")
    with pytest.raises(DataError) as error:
        load(tmp_path)
    assert said(error) == (f"{tmp_path} holds the split 1cls twice: {first} and {second}", "Give one as root.")


def test_defects_in_train_are_left_out_whatever_the_split(tmp_path: Path) -> None:
    home = trees.visa_prepared(tmp_path / "1cls")
    trees.picture(home / "candle/train/bad/000.JPG")
    for kind in ("good", "bad"):
        trees.picture(home / f"candle/validation/{kind}/000.JPG")  # no part of VisA
    assert load(tmp_path).validation == ()
    (sample,) = load(tmp_path).left_out
    assert (sample.relative, sample.split, sample.label, sample.defect) == ("train/bad/000.JPG", "train", 1, "bad")
    assert sample.masks == ()  # ground_truth/bad/000.png belongs to the test image of that name
    assert mask_sums(load(tmp_path)) == [1, 2, 3, 4, 0, 0]


def test_masks_of_visa_pytorch_that_are_missing_are_named(tmp_path: Path) -> None:
    home = trees.visa_prepared(tmp_path / "1cls") / "candle"
    (home / "ground_truth/bad/000.png").unlink()
    (home / "ground_truth/bad/001.png").rename(home / "ground_truth/bad/001_mask.PNG")
    dataset = load(tmp_path)
    assert mask_sums(dataset) == [None, 2, 3, 4, 0, 0]
    assert dataset.problems() == [f"{home}/test/bad/000.JPG: no mask at {home}/ground_truth/bad/000.png"]
    home = trees.visa_prepared(tmp_path / "2cls_fewshot", split="2cls_fewshot") / "candle"
    (home / "ground_truth/test/bad/001.png").unlink()
    assert load(tmp_path, split="2cls_fewshot").problems() == [
        f"{home}/test/bad/001.JPG: no mask at {home}/ground_truth/test/bad/001.png"
    ]


def test_one_good_test_image_is_enough(tmp_path: Path) -> None:
    trees.picture(tmp_path / "my_gear/train/good/0.JPG")
    with pytest.raises(NoLayout):
        load(tmp_path, "my_gear")
    trees.picture(tmp_path / "my_gear/test/good/0.JPG")
    dataset = load(tmp_path, "my_gear")
    assert (len(dataset.train), len(dataset.test), dataset.get_test_paths()[2]) == (1, 1, None)


def test_what_visa_pytorch_lacks_is_said(tmp_path: Path) -> None:
    root = trees.visa_prepared(tmp_path / "1cls")
    home = root / "candle"

    def fails() -> tuple[str, str | None]:
        with pytest.raises(DataError) as error:
            load(root)
        return said(error)

    trees.picture(home / "test/scratch/0.JPG")
    assert fails() == (
        f"{home}/test/scratch/0.JPG lies neither in good/ nor in bad/",
        f"{home}/test must hold good/ and bad/ only.",
    )
    shutil.rmtree(home / "test/scratch")
    trees.picture(home / "train/scratch/0.JPG")
    assert fails() == (
        f"{home}/train/scratch/0.JPG lies neither in good/ nor in bad/",
        f"{home}/train must hold good/ and bad/ only.",
    )
    shutil.rmtree(home / "train/scratch")
    shutil.rmtree(home / "test")
    assert fails() == (f"{home}/test: no such folder", "It must hold good/ and bad/.")
    for path in (home / "train/good").iterdir():
        path.unlink()
    assert fails() == (f"{home}/train/good holds no image", "It must hold the good training images.")
    trees.picture(home / "train/bad/0.JPG")
    assert fails() == (f"{home}/train/good holds no image", "It must hold the good training images.")


# --- which layout, and which data set


def test_two_layouts_need_a_choice(tmp_path: Path) -> None:
    root = trees.visa_original(tmp_path)  # anomalib leaves both
    home = trees.visa_prepared(root / "visa_pytorch")
    assert visa.recognises(str(root))
    for call in (lambda: list_categories("visa", str(root)), lambda: load(root)):
        with pytest.raises(DataError) as error:
            call()
        assert said(error) == (
            f"{root} holds VisA in two layouts: original in {root}, visa_pytorch in {home}",
            'Set [dataset] layout = "original" or "visa_pytorch"; without a spec: --set dataset.layout=original',
        )
    assert load(root, layout="original").test[0].relative == f"{ANOMALY}/000.JPG"
    assert load(root, layout="visa_pytorch").test[0].relative == "test/bad/000.JPG"
    assert list_categories("visa", str(root), layout="original") == ["candle", "pcb1"]
    with pytest.raises(DataError) as error:
        load(root, layout="pytorch")
    assert said(error)[0] == ("visa has no layout 'pytorch'; did you mean visa_pytorch? It has: original, visa_pytorch")


def test_a_layout_that_is_not_there_is_said(tmp_path: Path) -> None:
    root = trees.visa_original(tmp_path / "VisA")
    with pytest.raises(DataError) as error:
        load(root, layout="visa_pytorch")
    assert said(error) == (
        f"{root} holds no VisA category: expected {root}/<category>/train/good and {root}/<category>/test/{{good,bad}}, "
        "found candle/, pcb1/, split_csv/, LICENSE-DATASET",
        "It has the layout original: leave [dataset] layout out.",
    )
    root = trees.visa_prepared(tmp_path / "visa_pytorch")
    with pytest.raises(DataError) as error:
        load(root, layout="original")
    assert said(error) == (
        f"{root} holds no VisA category: expected {root}/split_csv and {root}/<category>/Data/Images, "
        "found candle/, pcb1/",
        "It has the layout visa_pytorch: leave [dataset] layout out.",
    )


def test_another_data_set_is_named(tmp_path: Path) -> None:
    def fails(root: Path) -> tuple[str, str | None]:
        with pytest.raises(NoLayout) as error:
            list_categories("visa", str(root))
        return said(error)

    def expected(root: Path) -> str:
        return (
            f"{root} holds no VisA category: expected {root}/split_csv and {root}/<category>/Data/Images, or "
            f"{root}/<category>/train/good and {root}/<category>/test/{{good,bad}}, found"
        )

    root = trees_mvtec.mvtec_ad(tmp_path / "mvtec_ad", ["bottle"])
    assert fails(root) == (f"{expected(root)} bottle/", "It looks like mvtec: give that name in place of visa.")
    root = trees.btad(tmp_path / "BTech_Dataset_transformed")
    assert fails(root) == (f"{expected(root)} 01/, 02/, 03/", "It looks like btad: give that name in place of visa.")
    root = tmp_path / "spot-diff"  # the authors' code without the images
    (root / "split_csv").mkdir(parents=True)
    assert fails(root) == (
        f"{expected(root)} split_csv/",
        "Give the folder that VisA_20220922.tar unpacks to, or the folder visa_pytorch that was made from it.",
    )
    with pytest.raises(DataError) as missing:
        list_categories("visa", str(tmp_path / "nowhere"))
    assert said(missing) == (f"{tmp_path}/nowhere: no such folder", None)


def test_without_a_sign_of_visa_a_tree_is_left_to_mvtec(tmp_path: Path) -> None:
    all_visa = trees.visa_prepared(tmp_path / "a", OBJECTS)
    assert len(list_categories("visa", str(all_visa))) == 12
    assert visa.recognises(str(all_visa))
    mixed = trees.visa_prepared(tmp_path / "b", ("candle", "bottle"))
    assert not visa.recognises(str(mixed))
    assert list_categories("visa", str(mixed)) == ["bottle", "candle"]  # a name that is given decides
    assert len(load(mixed, "bottle").test) == 6
    foreign = trees.visa_prepared(tmp_path / "c/visa_pytorch", ("bottle",))
    assert visa.recognises(str(foreign))
    assert visa.recognises(str(tmp_path / "c"))
    half = trees_mvtec.mvtec_ad(trees.visa_prepared(tmp_path / "d", ("candle",)))
    assert not visa.recognises(str(half))
    assert not visa.recognises(str(trees_mvtec.mvtec_ad(tmp_path / "e")))
    assert not visa.recognises(str(trees.btad(tmp_path / "f")))
    assert not visa.recognises(str(trees_mvtec.mvtec_ad(tmp_path / "g/visa_pytorch")))
    with pytest.raises(DataError):
        visa.recognises(str(tmp_path / "nowhere"))


def test_the_original_layout_without_its_csv_files_is_still_recognised(tmp_path: Path) -> None:
    root = trees.visa_original(tmp_path)
    shutil.rmtree(root / "split_csv")
    assert visa.recognises(str(root))
