"""Data sets:

which files become which samples, which masks belong to them, and what is said where something is wrong.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from parts import message, relatives

from uadctl.datasets import Dataset, LayoutError, Masks, list_categories, list_images, load_dataset
from uadctl.datasets.base import own_name, stem, without_suffix
from uadctl.errors import DataError, SpecError
from uadctl.records import Sample, Size

cv2 = pytest.importorskip("cv2", reason="reading masks needs OpenCV")


def put(root: Path, *names: str, size: tuple[int, int] = (6, 8), value: int = 9) -> None:
    """Write small images; a name that holds "mask" or "truth" gets one defect pixel in its corner."""
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.full(size, 0 if "mask" in name or "truth" in name else value, np.uint8)
        if "mask" in name or "truth" in name:
            pixels[0, 0] = 255
        done, data = cv2.imencode(".png", pixels)
        assert done
        path.write_bytes(data.tobytes())


def mvtec_tree(root: Path) -> Path:
    put(root, "train/good/001.png", "train/good/000.png", "train/good/010.JPG", "test/good/000.png")
    put(root, "test/scratch/000.png", "test/scratch/001.png", "test/dent/000.PNG", "test/dent/b/000.png")
    put(root, "ground_truth/scratch/000_mask.png", "ground_truth/scratch/001.BMP")
    put(root, "ground_truth/dent/000_mask.png", "ground_truth/dent/b/000_mask.tif")
    return root


# --- MVTec's layout


def test_mvtec_becomes_sorted_samples_with_their_own_masks(tmp_path: Path) -> None:
    home = mvtec_tree(tmp_path / "bottle")
    dataset = load_dataset("mvtec", str(tmp_path), category="bottle")
    assert (dataset.name, dataset.category, dataset.root) == ("mvtec", "bottle", str(tmp_path))
    assert relatives(dataset.train) == ["train/good/000.png", "train/good/001.png", "train/good/010.JPG"]
    assert {(sample.label, sample.defect, sample.split) for sample in dataset.train} == {(0, "good", "train")}
    assert dataset.validation == ()
    found = [(s.relative, s.label, s.defect, [os.path.relpath(m, home) for m in s.masks]) for s in dataset.test]
    assert found == [
        ("test/dent/000.PNG", 1, "dent", ["ground_truth/dent/000_mask.png"]),
        ("test/dent/b/000.png", 1, "dent", ["ground_truth/dent/b/000_mask.tif"]),
        ("test/good/000.png", 0, "good", []),
        ("test/scratch/000.png", 1, "scratch", ["ground_truth/scratch/000_mask.png"]),
        ("test/scratch/001.png", 1, "scratch", ["ground_truth/scratch/001.BMP"]),
    ]
    assert [sample.path for sample in dataset.test] == [str(home / sample.relative) for sample in dataset.test]
    assert {sample.category for sample in dataset.test + dataset.train} == {"bottle"}
    assert dataset.missing_masks() == []


def test_the_three_test_lists_belong_together(tmp_path: Path) -> None:
    mvtec_tree(tmp_path / "bottle")
    dataset = load_dataset("mvtec", str(tmp_path), category="bottle")
    assert dataset.get_train_paths() == [sample.path for sample in dataset.train]
    paths, labels, masks = dataset.get_test_paths()
    assert paths == [sample.path for sample in dataset.test]
    assert labels.tolist() == [1, 1, 0, 1, 1]
    assert labels.dtype == np.int64
    assert masks is not None
    assert len(masks) == len(paths) == 5
    assert [int(mask.sum()) for mask in masks if mask is not None] == [1, 1, 0, 1, 1]
    assert {(mask.shape, mask.dtype.name) for mask in masks if mask is not None} == {((6, 8), "uint8")}
    part = masks[1:3]
    assert isinstance(part, Masks)
    assert len(part) == 2
    assert masks[-1] is not None
    with pytest.raises(IndexError):
        masks[5]


def test_a_missing_mask_is_none_and_named_and_the_others_keep_theirs(tmp_path: Path) -> None:
    home = mvtec_tree(tmp_path / "bottle")
    (home / "ground_truth/dent/000_mask.png").unlink()
    for folder_name in ("a_first", "zz_last"):  # no ground-truth folder at all
        put(home, f"test/{folder_name}/000.png")
    dataset = load_dataset("mvtec", str(tmp_path), category="bottle")
    _, labels, masks = dataset.get_test_paths()
    assert masks is not None
    assert labels.tolist() == [1, 1, 1, 0, 1, 1, 1]
    assert [None if mask is None else int(mask.sum()) for mask in masks] == [None, None, 1, 0, 1, 1, None]
    assert dataset.problems() == [
        f"{home}/test/a_first/000.png: no mask at {home}/ground_truth/a_first/000_mask.png",
        f"{home}/test/dent/000.PNG: no mask at {home}/ground_truth/dent/000_mask.png",
        f"{home}/test/zz_last/000.png: no mask at {home}/ground_truth/zz_last/000_mask.png",
    ]
    assert relatives(tuple(dataset.missing_masks())) == [
        "test/a_first/000.png",
        "test/dent/000.PNG",
        "test/zz_last/000.png",
    ]


def test_without_any_mask_there_are_none(tmp_path: Path) -> None:
    put(tmp_path / "c", "train/good/0.png", "test/good/0.png", "test/bad/0.png")
    dataset = load_dataset("mvtec", str(tmp_path), category="c")
    assert not dataset.has_masks
    assert dataset.get_test_paths()[2] is None
    assert len(dataset.missing_masks()) == 1


def test_masks_keep_mixed_sizes_or_are_brought_to_one(tmp_path: Path) -> None:
    home = tmp_path / "c"
    put(home, "train/good/0.png", "test/good/0.png")
    put(home, "test/bad/0.png", "ground_truth/bad/0_mask.png", size=(10, 4))
    dataset = load_dataset("mvtec", str(tmp_path))
    masks = dataset.get_test_paths()[2]
    assert masks is not None
    assert [mask.shape for mask in masks if mask is not None] == [(10, 4), (6, 8)]
    resized = load_dataset("mvtec", str(tmp_path), category="c", resize=(5, 2)).get_test_paths()[2]
    assert resized is not None
    assert [mask.shape for mask in resized if mask is not None] == [(5, 2), (5, 2)]
    assert set(np.unique(resized[0])) <= {0, 1}
    with pytest.raises(ValueError, match=r"^resize must be two positive numbers, height and width, found \(0, 2\)$"):
        load_dataset("mvtec", str(tmp_path), resize=(0, 2))


def test_a_mask_is_resized_to_its_nearest_pixels(tmp_path: Path) -> None:
    home = tmp_path / "c"
    put(home, "train/good/0.png", "test/bad/0.png", size=(4, 4))
    (home / "ground_truth/bad").mkdir(parents=True)
    mask = np.zeros((4, 4), np.uint8)
    mask[:2, 2:] = 7
    (home / "ground_truth/bad/0_mask.png").write_bytes(cv2.imencode(".png", mask)[1].tobytes())
    masks = load_dataset("mvtec", str(tmp_path), resize=Size(2, 8)).get_test_paths()[2]
    assert masks is not None
    first = masks[0]
    assert first is not None
    assert first.tolist() == [[0, 0, 0, 0, 1, 1, 1, 1], [0] * 8]


def test_a_mask_of_another_size_is_said_when_it_is_read(tmp_path: Path) -> None:
    home = tmp_path / "c"
    put(home, "train/good/0.png", "test/bad/0.png")
    put(home, "ground_truth/bad/0_mask.png", size=(3, 3))
    masks = load_dataset("mvtec", str(tmp_path), category="c").get_test_paths()[2]
    assert masks is not None
    with pytest.raises(DataError) as error:
        masks[0]
    assert str(error.value) == f"{home}/ground_truth/bad/0_mask.png is 3x3, its image is 6x8 (height x width)"


def test_listing_decodes_nothing(tmp_path: Path) -> None:
    home = mvtec_tree(tmp_path / "bottle")
    for path in home.rglob("*.*"):
        path.write_bytes(b"broken")
    dataset = load_dataset("mvtec", str(tmp_path), category="bottle")
    assert len(dataset.test) == 5
    paths, _, masks = dataset.get_test_paths()
    assert len(paths) == 5
    assert masks is not None
    with pytest.raises(DataError, match="not a PNG"):
        masks[0]


def test_what_is_no_image_is_passed_over(tmp_path: Path) -> None:
    home = mvtec_tree(tmp_path / "bottle")
    before = load_dataset("mvtec", str(tmp_path), category="bottle")
    for name in ("train/good/Thumbs.db", "train/good/.hidden.png", "test/dent/._000.png", "test/notes.txt"):
        (home / name).write_bytes(b"x")
    put(home, "test/.cache/000.png", ".trash/train/good/000.png")
    (tmp_path / "readme.txt").write_text("x")
    (tmp_path / "empty").mkdir()
    assert load_dataset("mvtec", str(tmp_path), category="bottle") == before
    assert list_categories("mvtec", str(tmp_path)) == ["bottle"]


def test_an_own_validation_split_is_read(tmp_path: Path) -> None:
    put(mvtec_tree(tmp_path / "bottle"), "validation/good/7.png")
    (sample,) = load_dataset("mvtec", str(tmp_path), category="bottle").validation
    assert (sample.relative, sample.split, sample.label) == ("validation/good/7.png", "validation", 0)


def test_the_root_may_be_the_category_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = mvtec_tree(tmp_path / "bottle")
    assert list_categories("mvtec", str(home)) == ["bottle"]
    assert relatives(load_dataset("mvtec", str(home), category="bottle").test) == relatives(
        load_dataset("mvtec", str(tmp_path), category="bottle").test
    )
    monkeypatch.chdir(home)
    dataset = load_dataset("mvtec", ".")
    assert dataset.category == "bottle"
    assert dataset.train[0].path == "./train/good/000.png"


def test_categories_are_sorted_by_bytes(tmp_path: Path) -> None:
    for name in ("b", "a", "B", "ä", "10", "9"):
        put(tmp_path / name, "train/good/0.png")
    assert list_categories("mvtec", str(tmp_path)) == ["10", "9", "B", "a", "b", "ä"]


def test_what_mvtec_lacks_is_said(tmp_path: Path) -> None:
    root = str(tmp_path)
    missing = str(tmp_path / "nowhere")
    with pytest.raises(DataError) as error:
        list_categories("mvtec", missing)
    assert message(error) == (f"{missing}: no such folder", None)

    with pytest.raises(DataError) as error:
        list_categories("mvtec", root)
    assert message(error) == (
        f"{root} holds no MVTec category: expected {root}/<category>/train/good, found nothing",
        "For another layout, use the data set `folder`, with [dataset.files] where its names differ.",
    )

    (tmp_path / "bottle/train/good").mkdir(parents=True)
    with pytest.raises(DataError) as error:
        load_dataset("mvtec", root, category="bottle")
    assert message(error) == (
        f"{root}/bottle/train/good holds no image",
        "It must hold the good training images.",
    )

    put(tmp_path / "bottle", "train/good/0.png")
    put(tmp_path / "cable", "train/good/0.png")
    with pytest.raises(DataError) as error:
        load_dataset("mvtec", root, category="botle")
    assert isinstance(error.value, ValueError)
    assert message(error) == (f"{root} has no category 'botle'; did you mean bottle? It has: bottle, cable", None)

    parts = "It must hold good/ and a folder for each kind of defect."
    with pytest.raises(DataError) as error:
        load_dataset("mvtec", root, category="bottle")
    assert message(error) == (f"{root}/bottle/test: no such folder", parts)
    (tmp_path / "bottle/test/good").mkdir(parents=True)
    with pytest.raises(DataError) as error:
        load_dataset("mvtec", root, category="bottle")
    assert message(error) == (f"{root}/bottle/test holds no image", parts)

    put(tmp_path / "bottle", "test/loose.png")
    with pytest.raises(DataError) as error:
        load_dataset("mvtec", root, category="bottle")
    assert message(error) == (
        f"{root}/bottle/test/loose.png lies in no defect folder",
        f"Move it to {root}/bottle/test/good or to a folder named after its defect.",
    )
    with pytest.raises(DataError) as error:
        load_dataset("mvtec", root, category="bottle", split="val")
    assert message(error) == ("mvtec has no split 'val'; it has: test", None)
    with pytest.raises(DataError) as error:
        list_categories("mvtec", root, files={"train": "*"})
    assert message(error)[0] == "mvtec has a fixed layout and takes no files"


@pytest.mark.parametrize("lost", [["train"], ["train/good"], ["train", "test"], ["train", "ground_truth"]])
def test_a_category_that_is_not_whole_is_no_less_asked_for(tmp_path: Path, lost: list[str]) -> None:
    """Passed over, it would be missing from the results, and nobody would know."""
    for name in ("bottle", "screw"):
        mvtec_tree(tmp_path / name)
    for part in lost:
        shutil.rmtree(tmp_path / "screw" / part)
    put(tmp_path, "notes/page.png", "figures/plots/1.png")
    assert list_categories("mvtec", str(tmp_path)) == ["bottle", "screw"]
    with pytest.raises(DataError) as error:
        load_dataset("mvtec", str(tmp_path), category="screw")
    assert message(error) == (
        f"{tmp_path}/screw/train/good: no such folder",
        "It must hold the good training images.",
    )
    with pytest.raises(DataError, match="holds no MVTec category"):
        list_categories("mvtec", str(tmp_path / "screw"))


@pytest.mark.parametrize("kind", ["Good", "ok", "OK", "normal", "Normal"])
@pytest.mark.parametrize("split", ["test", "train", "validation"])
def test_no_kind_of_defect_is_called_like_good_images(tmp_path: Path, split: str, kind: str) -> None:
    home = mvtec_tree(tmp_path / "bottle")
    (home / split / kind).mkdir(parents=True)
    assert len(load_dataset("mvtec", str(tmp_path)).test) == 5  # as long as it holds no image
    put(home, f"{split}/{kind}/7.png", f"{split}/{kind}/8.png")
    with pytest.raises(DataError) as error:
        load_dataset("mvtec", str(tmp_path))
    assert message(error) == (
        f"{home}/{split}/{kind} would be a kind of defect; good images lie in good/",
        f"Rename it to good, or move its images to {home}/{split}/good.",
    )


@pytest.mark.parametrize("name", ["mvtec", "mvtec_loco", "mvtec_ad2", "btad", "folder"])
def test_a_category_is_loaded_without_looking_at_all_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    files = {
        "mvtec": ("train/good/0.png", "test/good/0.png"),
        "mvtec_loco": ("train/good/0.png", "test/logical_anomalies/0.png"),
        "mvtec_ad2": ("train/good/0.png", "test_public/good/0.png"),
        "btad": ("train/ok/0.png", "test/ok/0.png"),
        "folder": ("train/normal/0.png", "test/normal/0.png"),
    }
    looks: list[str] = []
    isdir, scandir = os.path.isdir, os.scandir
    monkeypatch.setattr(os.path, "isdir", lambda path: looks.append(path) or isdir(path))
    monkeypatch.setattr(os, "scandir", lambda path: looks.append(path) or scandir(path))

    def counted(categories: int) -> tuple[int, int]:
        root = tmp_path / str(categories)
        for number in range(categories):
            put(root / f"c{number:02}", *files[name])
        looks.clear()
        assert len(list_categories(name, str(root))) == categories
        listing = len(looks)
        looks.clear()
        assert load_dataset(name, str(root), category="c03").category == "c03"
        return listing, len(looks)

    few, many = counted(5), counted(40)
    assert many[0] <= 8 * few[0]
    assert many[1] == few[1] > 0


def test_masks_that_could_belong_to_two_are_refused(tmp_path: Path) -> None:
    home = mvtec_tree(tmp_path / "bottle")
    put(home, "ground_truth/scratch/000_mask.bmp")
    with pytest.raises(DataError) as error:
        load_dataset("mvtec", str(tmp_path), category="bottle")
    truth = f"{home}/ground_truth/scratch"
    assert str(error.value) == f"two masks for one image: {truth}/000_mask.bmp and {truth}/000_mask.png"
    (home / "ground_truth/scratch/000_mask.bmp").unlink()
    put(home, "test/scratch/000.jpg")
    with pytest.raises(DataError) as error:
        load_dataset("mvtec", str(tmp_path), category="bottle")
    assert str(error.value) == (
        f"{home}/test/scratch/000.jpg and {home}/test/scratch/000.png share one mask, {truth}/000_mask.png"
    )


# --- names of files and folders


def test_a_folder_is_known_by_its_own_name_however_it_is_typed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "gear").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "gear", target_is_directory=True)
    monkeypatch.chdir(tmp_path / "gear")
    for typed in (".", "../gear", "../gear/", "../link/../gear", str(tmp_path / "gear")):
        assert own_name(typed) == "gear"
    assert own_name("../link") == "link"
    assert own_name("/") == "root"


@pytest.mark.parametrize(
    ("name", "whole", "last"),
    [
        ("a/007.png", "a/007", "007"),
        ("a.b/007", "a.b/007", "007"),
        ("a/007.tar.PNG", "a/007.tar", "007.tar"),
        ("007_mask.bmp", "007_mask", "007_mask"),
    ],
)
def test_only_the_last_suffix_of_the_last_part_is_one(name: str, whole: str, last: str) -> None:
    assert (without_suffix(name), stem(name)) == (whole, last)


# --- the registry's door


def test_an_unknown_data_set_lists_the_choices() -> None:
    with pytest.raises(SpecError) as error:
        load_dataset("mvtek", "x")
    assert isinstance(error.value, ValueError)
    assert "mvtec" in str(error.value)
    with pytest.raises(SpecError):
        list_categories("mvtek", "x")


def test_aliases_and_missing_arguments_are_understood(tmp_path: Path) -> None:
    put(tmp_path / "own", "train/normal/0.png", "test/normal/0.png")
    assert list_categories("custom", str(tmp_path / "own")) == ["own"]
    assert load_dataset("custom", str(tmp_path / "own")).name == "folder"
    with pytest.raises(DataError) as error:
        load_dataset("mvtec", None)
    assert message(error) == ("mvtec needs a root, the folder that holds it", "Give [dataset] root, or --root.")
    for name in ("a", "b"):
        put(tmp_path / "many" / name, "train/good/0.png", "test/good/0.png")
    with pytest.raises(DataError) as error:
        load_dataset("mvtec", str(tmp_path / "many"))
    assert message(error) == (f"{tmp_path}/many has 2 categories; name one of them", "It has: a, b")


def test_listing_a_data_set_imports_nothing_heavy(tmp_path: Path) -> None:
    mvtec_tree(tmp_path / "bottle")
    code = (
        "import sys; from uadctl.datasets import load_dataset\n"
        "assert len(load_dataset('mvtec', sys.argv[1]).test) == 5\n"
        "print(sorted({'numpy', 'cv2', 'torch', 'tifffile'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


# --- your own folders


def folder_tree(root: Path) -> Path:
    put(root, "train/normal/b.png", "train/normal/a.png", "test/normal/a.png")
    put(root, "test/anomaly/1.png", "test/anomaly/dent/1.png", "test/anomaly/dent/2.png")
    put(root, "ground_truth/anomaly/1_mask.png", "ground_truth/anomaly/dent/2.truth.png")
    put(root, "ground_truth/anomaly/dent/1_mask.png")
    return root


def test_the_default_folders_become_samples(tmp_path: Path) -> None:
    root = folder_tree(tmp_path / "gear")
    assert list_categories("folder", str(root)) == ["gear"]
    dataset = load_dataset("folder", str(root), category="gear")
    assert relatives(dataset.train) == ["train/normal/a.png", "train/normal/b.png"]
    assert [(s.relative, s.label, s.defect, s.masks, s.expected_mask) for s in dataset.test] == [
        ("test/anomaly/1.png", 1, "anomaly", (f"{root}/ground_truth/anomaly/1_mask.png",), None),
        ("test/anomaly/dent/1.png", 1, "dent", (f"{root}/ground_truth/anomaly/dent/1_mask.png",), None),
        ("test/anomaly/dent/2.png", 1, "dent", (), f"{root}/ground_truth/anomaly/dent/2_mask.png"),
        ("test/normal/a.png", 0, "good", (), None),
    ]


def test_folder_names_are_taken_in_any_case_and_good_means_normal(tmp_path: Path) -> None:
    root = tmp_path / "gear"
    put(root, "Train/Good/a.PNG", "Validation/normal/v.png", "TEST/good/b.png", "TEST/Anomaly/c.JPG")
    put(root, "Ground_Truth/ANOMALY/c_mask.png")
    dataset = load_dataset("folder", str(root))
    assert relatives(dataset.train + dataset.validation + dataset.test) == [
        "Train/Good/a.PNG",
        "Validation/normal/v.png",
        "TEST/Anomaly/c.JPG",
        "TEST/good/b.png",
    ]
    assert [sample.split for sample in dataset.validation] == ["validation"]
    assert dataset.test[0].masks == (f"{root}/Ground_Truth/ANOMALY/c_mask.png",)


def test_sub_folders_with_the_layout_are_categories(tmp_path: Path) -> None:
    folder_tree(tmp_path / "gear")
    folder_tree(tmp_path / "bolt")
    (tmp_path / "notes").mkdir()
    assert list_categories("folder", str(tmp_path)) == ["bolt", "gear"]
    dataset = load_dataset("folder", str(tmp_path), category="bolt")
    assert dataset.category == "bolt"
    assert dataset.train[0].path == f"{tmp_path}/bolt/train/normal/a.png"
    assert dataset.train[0].relative == "train/normal/a.png"
    with pytest.raises(DataError) as error:
        load_dataset("folder", str(tmp_path), category="gaer")
    assert message(error) == (f"{tmp_path} has no category 'gaer'; did you mean gear? It has: bolt, gear", None)


def test_a_sub_folder_that_is_not_whole_is_no_less_asked_for(tmp_path: Path) -> None:
    folder_tree(tmp_path / "gear")
    put(tmp_path / "bolt", "Test/normal/0.png", "Test/anomaly/0.png")
    (tmp_path / "notes/old").mkdir(parents=True)
    assert list_categories("folder", str(tmp_path)) == ["bolt", "gear"]
    with pytest.raises(LayoutError) as error:
        load_dataset("folder", str(tmp_path), category="bolt")
    assert message(error) == (
        f"{tmp_path}/bolt/train: no such folder",
        "It must hold normal/, the good images to learn from.",
    )


def test_a_folder_without_layout_says_what_is_expected(tmp_path: Path) -> None:
    with pytest.raises(DataError) as error:
        list_categories("folder", str(tmp_path))
    assert message(error) == (
        f"{tmp_path} has no folder layout: expected {tmp_path}/train/normal, or the same in its sub-folders, "
        "found nothing",
        "Or say where the images are: [dataset.files] train, normal, anomaly, mask.",
    )


def test_all_problems_of_a_layout_come_at_once(tmp_path: Path) -> None:
    root = tmp_path / "gear"
    (root / "train/normal").mkdir(parents=True)
    put(root, "train/spare/x.png", "train/loose.png", "validation/odd/x.png", "test/scratch/1.png")
    (root / "test/normal").mkdir()
    (root / "test/good").mkdir()
    with pytest.raises(LayoutError) as error:
        load_dataset("folder", str(root), category="gear")
    lines = [
        f"{root}/train/spare is not one of normal, good",
        f"{root}/train/loose.png lies in none of the folders normal, good",
        f"{root}/train/normal holds no image",
        f"{root}/validation/odd is not one of normal, good",
        f"{root}/validation/normal: no such folder",
        f"{root}/test/scratch is not one of normal, good, anomaly",
        f"{root}/test has both good and normal, which mean the same",
        f"{root}/test holds no image in normal/ or anomaly/",
    ]
    assert [problem.message for problem in error.value.problems] == lines
    assert str(error.value) == "\n".join(lines)
    assert error.value.exit_code == 2
    assert isinstance(error.value, ValueError)


def test_one_good_test_image_is_enough(tmp_path: Path) -> None:
    put(tmp_path / "gear", "train/normal/0.png", "test/normal/0.png", value=3)
    dataset = load_dataset("folder", str(tmp_path / "gear"), category="gear")
    assert (len(dataset.train), len(dataset.test)) == (1, 1)
    assert dataset.get_test_paths()[2] is None


def test_a_file_with_two_roles_is_a_problem_through_links_too(tmp_path: Path) -> None:
    root = folder_tree(tmp_path / "gear")
    (root / "test/normal/linked.png").symlink_to(root / "train/normal/a.png")
    (root / "test/normal/same.png").hardlink_to(root / "test/anomaly/1.png")
    with pytest.raises(LayoutError) as error:
        load_dataset("folder", str(root), category="gear")
    assert [(problem.message, problem.help) for problem in error.value.problems] == [
        (
            f"{root}/test/normal/linked.png is a normal test image and a training image (as {root}/train/normal/a.png)",
            None,
        ),
        (
            f"{root}/test/anomaly/1.png is an anomalous test image and a normal test image "
            f"(as {root}/test/normal/same.png)",
            "An image may have one role only.",
        ),
    ]


def test_a_glob_that_takes_good_images_for_bad_ones_is_said_with_a_way_out(tmp_path: Path) -> None:
    root = tmp_path / "gear"
    put(
        root, "train/good/0.png", "test/dent/0.png", "test/scratch/0.png", *(f"test/good/{n:02}.png" for n in range(12))
    )
    files = {"train": "train/good/*", "normal": "test/good/*", "anomaly": "test/*/*"}
    with pytest.raises(LayoutError) as error:
        load_dataset("folder", str(root), files=files)
    *others, last = error.value.problems
    assert [(p.message, p.help) for p in others] == [
        (f"{root}/test/good/{n:02}.png is an anomalous test image and a normal test image", None) for n in range(10)
    ]
    assert (last.message, last.help) == (
        f"{root}: 2 more images have two roles",
        "An image may have one role only. A glob cannot leave images out: give anomaly a list without the good ones, "
        'as in anomaly = ["test/dent/*", "test/scratch/*"].',
    )
    dataset = load_dataset("folder", str(root), files={**files, "anomaly": ["test/dent/*", "test/scratch/*"]})
    assert [s.label for s in dataset.test].count(1) == 2
    with pytest.raises(LayoutError) as learned:
        load_dataset("folder", str(root), files={**files, "anomaly": [], "train": "test/good/*"})
    assert learned.value.help == "An image may have one role only."


# --- another data set than the one named


def test_a_split_or_layout_that_there_is_not_is_said_with_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(DataError) as error:
        load_dataset("visa", str(tmp_path), split="2cls_fewshoot")
    assert message(error) == (
        "visa has no split '2cls_fewshoot'; did you mean 2cls_fewshot? It has: 1cls, 2cls_fewshot, 2cls_highshot",
        None,
    )
    with pytest.raises(DataError) as error:
        list_categories("visa", str(tmp_path), layout="orginal")
    assert message(error) == (
        "visa has no layout 'orginal'; did you mean original? It has: original, visa_pytorch",
        None,
    )
    with pytest.raises(DataError) as error:
        list_categories("mvtec", str(tmp_path), layout="flat")
    assert message(error) == ("mvtec has no layout 'flat'; it has but one", None)


def test_folder_names_the_data_set_whose_rules_were_meant(tmp_path: Path) -> None:
    home = mvtec_tree(tmp_path / "bottle")
    with pytest.raises(LayoutError) as error:
        load_dataset("custom", str(tmp_path))
    assert [(p.message, p.help) for p in error.value.problems] == [
        (f"{home}/test/dent is not one of normal, good, anomaly", None),
        (
            f"{home}/test/scratch is not one of normal, good, anomaly",
            "Rename it, move it into anomaly/ if it is a kind of defect, or use [dataset.files]. "
            "Or is it another data set? It looks like mvtec: give that name in place of custom.",
        ),
    ]
    put(tmp_path / "own/gear", "train/normal/0.png", "test/normal/0.png", "test/dent/0.png")
    with pytest.raises(LayoutError) as error:
        load_dataset("folder", str(tmp_path / "own"))
    assert message(error) == (
        f"{tmp_path}/own/gear/test/dent is not one of normal, good, anomaly",
        "Rename it, move it into anomaly/ if it is a kind of defect, or use [dataset.files].",
    )
    files = {"train": "bottle/train/good", "normal": "bottle/train/good/001.png"}
    with pytest.raises(LayoutError) as error:  # what the globs say is the user's own
        load_dataset("folder", str(tmp_path), files=files)
    assert error.value.help == "An image may have one role only."


def test_demo_names_the_data_set_that_a_folder_is(tmp_path: Path) -> None:
    mvtec_tree(tmp_path / "bottle")
    for call in (lambda: list_categories("demo", str(tmp_path)), lambda: load_dataset("demo", str(tmp_path))):
        with pytest.raises(DataError) as error:
            call()
        assert message(error) == (
            f"{tmp_path} is not the data set demo: it has the categories bottle",
            "It looks like mvtec: give that name in place of demo.",
        )
    put(tmp_path / "b/01", "train/ok/0.png", "test/ok/0.png")
    with pytest.raises(DataError) as error:
        list_categories("demo", str(tmp_path / "b"))
    assert error.value.help == "It looks like btad: give that name in place of demo."


def test_a_root_one_level_too_high_is_said_with_the_right_one(tmp_path: Path) -> None:
    home = tmp_path / "mvtec_anomaly_detection"
    mvtec_tree(home / "bottle")
    (tmp_path / "a").mkdir()
    with pytest.raises(DataError) as error:
        list_categories("mvtec", str(tmp_path))
    assert message(error) == (
        f"{tmp_path} holds no MVTec category: expected {tmp_path}/<category>/train/good, "
        "found a/, mvtec_anomaly_detection/",
        f"{home} looks like mvtec: give it as root.",
    )
    with pytest.raises(DataError) as error:
        load_dataset("btad", str(tmp_path), category="01")
    assert error.value.help == f"{home} looks like mvtec: give it as root, and that name in place of btad."


def test_a_list_of_images_given_as_a_folder_is_a_manifest(tmp_path: Path) -> None:
    file = tmp_path / "parts.CSV"
    file.write_text("path,split,label\n")
    for name in ("mvtec", "folder"):
        with pytest.raises(DataError) as error:
            list_categories(name, str(file))
        assert message(error) == (
            f"{file}: is a file, not a folder",
            f"A list of images is the data set manifest: give that name in place of {name}.",
        )
    other = tmp_path / "parts.zip"
    other.write_bytes(b"")
    with pytest.raises(DataError) as error:
        list_categories("mvtec", str(other))
    assert message(error) == (f"{other}: is a file, not a folder", None)


# --- globs


def glob_tree(root: Path) -> Path:
    put(root, "ok/a.png", "ok/b.png", "ok/deep/c.png", "check/ok/d.png")
    put(root, "check/dent/1.png", "check/dent/2.png", "check/scratch/1 [x].png")
    put(root, "masks/dent/1.png.truth.png", "masks/scratch/1 [x].png.truth.png")
    return root


def test_globs_give_every_role(tmp_path: Path) -> None:
    root = glob_tree(tmp_path / "gear")
    files = {
        "train": ["ok/*.png"],
        "validation": "ok/deep/**",
        "normal": "check/ok",
        "anomaly": ["check/dent/*", "check/scratch/*"],
        "mask": "masks/{parent}/{name}.truth.png",
    }
    assert list_categories("folder", str(root), files=files) == ["gear"]
    dataset = load_dataset("folder", str(root), category="gear", files=files)
    assert relatives(dataset.train) == ["ok/a.png", "ok/b.png"]
    assert relatives(dataset.validation) == ["ok/deep/c.png"]
    assert [(s.relative, s.label, s.defect, s.masks, s.expected_mask) for s in dataset.test] == [
        ("check/dent/1.png", 1, "dent", (f"{root}/masks/dent/1.png.truth.png",), None),
        ("check/dent/2.png", 1, "dent", (), f"{root}/masks/dent/2.png.truth.png"),
        ("check/ok/d.png", 0, "good", (), None),
        ("check/scratch/1 [x].png", 1, "scratch", (f"{root}/masks/scratch/1 [x].png.truth.png",), None),
    ]


def test_the_globs_of_the_documentation_do_what_it_says(tmp_path: Path) -> None:
    page = (Path(__file__).parents[1] / "docs/datasets.md").read_text(encoding="utf-8")
    section = page.partition("## Globs for your own folders")[2]
    table = tomllib.loads(section.partition("```toml")[2].partition("```")[0])["dataset"]
    root = tmp_path / table["root"]
    put(root, "good/2024-01/0.png", "good/2024-02/deep/1.png", "good/2023-12/2.png", "good/of_today/a/3.png")
    put(root, "check/ok/4.png", "check/ok/deep/5.png", "check/dent/6.bmp", "check/scratch/7.png", "check/scratch/8.bmp")
    put(root, "masks/dent/6_mask.png")
    dataset = load_dataset(table["name"], str(root), files=table["files"])
    assert relatives(dataset.train) == ["good/2024-01/0.png", "good/2024-02/deep/1.png"]
    assert relatives(dataset.validation) == ["good/of_today/a/3.png"]
    assert [(s.relative, s.defect, len(s.masks), s.expected_mask) for s in dataset.test] == [
        ("check/dent/6.bmp", "dent", 1, None),
        ("check/ok/4.png", "good", 0, None),
        ("check/scratch/7.png", "scratch", 0, f"{root}/masks/scratch/7_mask.png"),
    ]
    assert dataset.category == "parts"


@dataclass(frozen=True)
class Table:
    train: tuple[str, ...] = ("ok/**/*.png",)
    validation: None = None
    normal: None = None
    anomaly: None = None
    mask: None = None


def test_globs_may_be_attributes_and_training_images_alone_are_enough(tmp_path: Path) -> None:
    root = glob_tree(tmp_path / "gear")
    dataset = load_dataset("folder", str(root), files=Table())
    assert relatives(dataset.train) == ["ok/a.png", "ok/b.png", "ok/deep/c.png"]
    assert dataset.test == ()


@pytest.mark.parametrize(
    ("glob", "expected"),
    [
        ("**", ["check/ok/d.png", "ok/a.png", "ok/b.png", "ok/deep/c.png"]),
        ("ok", ["ok/a.png", "ok/b.png", "ok/deep/c.png"]),
        ("./ok/", ["ok/a.png", "ok/b.png", "ok/deep/c.png"]),
        ("ok/*", ["ok/a.png", "ok/b.png"]),
        ("ok/[!b].png", ["ok/a.png"]),
        ("ok/?.png", ["ok/a.png", "ok/b.png"]),
        ("*/*/*.png", ["check/ok/d.png", "ok/deep/c.png"]),
        ("**/deep/*.png", ["ok/deep/c.png"]),
        ("**/**/d.png", ["check/ok/d.png"]),
        ("ok/a.png", ["ok/a.png"]),
        ("../gear/ok/b.png", ["ok/b.png"]),
    ],
)
def test_a_glob_matches_part_by_part(tmp_path: Path, glob: str, expected: list[str]) -> None:
    root = tmp_path / "gear"
    put(root, "ok/a.png", "ok/b.png", "ok/deep/c.png", "check/ok/d.png")
    assert relatives(load_dataset("folder", str(root), category="gear", files={"train": glob}).train) == expected
    absolute = str(root / glob) if not glob.startswith((".", "*")) else f"{root}/{glob}"
    assert relatives(load_dataset("folder", str(root), category="gear", files={"train": absolute}).train) == expected


def test_images_from_elsewhere_have_a_name_that_stays_below_the_run(tmp_path: Path) -> None:
    put(tmp_path / "other", "x.png")
    (tmp_path / "gear").mkdir()
    (sample,) = load_dataset("folder", str(tmp_path / "gear"), category="gear", files={"train": "../other/*.png"}).train
    assert sample.relative == f"{tmp_path}/other/x.png".removeprefix("/")
    assert Path(sample.path).samefile(tmp_path / "other/x.png")


def test_a_mask_pattern_that_matches_several_files_unites_them(tmp_path: Path) -> None:
    root = tmp_path / "gear"
    put(root, "ok/0.png", "bad/1.png", "masks/1/a.png", "masks/1/b.png", "masks/11/a.png")
    files = {"train": "ok/*", "anomaly": "bad/*", "mask": "masks/{stem}/*.png"}
    (sample,) = load_dataset("folder", str(root), category="gear", files=files).test
    assert sample.masks == (f"{root}/masks/1/a.png", f"{root}/masks/1/b.png")


def test_all_problems_of_the_globs_come_at_once(tmp_path: Path) -> None:
    root = glob_tree(tmp_path / "gear")
    files: dict[str, object] = {
        "train": ["ok/*.png", "okay/*.png"],
        "normal": "ok/a.png",
        "anomaly": 5,
        "mask": "masks/{stam}.png",
        "anomly": "x",
    }
    with pytest.raises(LayoutError) as error:
        load_dataset("folder", str(root), category="gear", files=files)
    assert [problem.message for problem in error.value.problems] == [
        "[dataset.files] anomaly = 5: expected a glob or a list of globs",
        "[dataset.files] anomly: no such role; did you mean anomaly?",
        "[dataset.files] mask = 'masks/{stam}.png': {stam} is not a placeholder",
        f"[dataset.files] train = 'okay/*.png' matches no image below {root}",
        f"{root}/ok/a.png is a normal test image and a training image",
    ]
    assert [problem.help for problem in error.value.problems][1:3] == [
        "There are: train, validation, normal, anomaly, mask",
        "There are: {stem}, {name}, {parent}",
    ]


@pytest.mark.parametrize(
    ("mask", "expected"),
    [
        (
            "truth/{stem}.png",
            "[dataset.files] mask = 'truth/{stem}.png' finds no mask for any of 2 anomaly images; "
            "looked for ROOT/truth/1.png",
        ),
        ("truth/all.png", "[dataset.files] mask = 'truth/all.png' names the same file for every image"),
        ("truth/{parent}.png", "[dataset.files] mask = 'truth/{parent}.png' names the same file for every image"),
        ("truth/{stem!r}.png", "[dataset.files] mask = 'truth/{stem!r}.png': {stem} is not a placeholder"),
        ("truth/{stem", "[dataset.files] mask = 'truth/{stem': expected '}' before end of string"),
        (7, "[dataset.files] mask = 7: expected a pattern such as 'masks/{stem}_mask.png'"),
    ],
)
def test_a_mask_pattern_that_cannot_work_is_a_problem(tmp_path: Path, mask: object, expected: str) -> None:
    root = glob_tree(tmp_path / "gear")
    files = {"train": "ok/*", "anomaly": "check/dent", "mask": mask}
    with pytest.raises(LayoutError) as error:
        load_dataset("folder", str(root), category="gear", files=files)
    assert str(error.value) == expected.replace("ROOT", str(root))


def test_nothing_to_train_on_is_a_problem(tmp_path: Path) -> None:
    root = glob_tree(tmp_path / "gear")
    for files in ({}, {"train": []}, {"train": None, "normal": "ok/*"}):
        with pytest.raises(LayoutError) as error:
            load_dataset("folder", str(root), category="gear", files=files)
        assert str(error.value) == "[dataset.files] train is missing"


# --- folders of images


def test_a_folder_is_listed_recursively_sorted_and_once(tmp_path: Path) -> None:
    put(tmp_path, "b.png", "a/z.JPeG", "a/y.tif", "B.webp", "a.bmp", ".hidden/x.png", "a/.x.png")
    (tmp_path / "notes.txt").write_text("x")
    (tmp_path / "a/loop").symlink_to(tmp_path)
    (tmp_path / "again").symlink_to(tmp_path / "a")
    (tmp_path / "self.png").symlink_to(tmp_path / "self.png")
    (tmp_path / "dangling.png").symlink_to(tmp_path / "nothing.png")
    names = ["B.webp", "a.bmp", "a/y.tif", "a/z.JPeG", "b.png", "dangling.png", "self.png"]
    assert list_images(str(tmp_path)) == [f"{tmp_path}/{name}" for name in names]
    assert list_images(tmp_path / "a") == [
        f"{tmp_path}/a/{name}"
        for name in ("loop/B.webp", "loop/a.bmp", "loop/b.png", "loop/dangling.png", "loop/self.png", "y.tif", "z.JPeG")
    ]


@pytest.mark.skipif(sys.platform != "linux", reason="file names of any bytes are Linux's")
def test_names_of_any_bytes_are_kept(tmp_path: Path) -> None:
    for name in (b"\xff.png", b"\xc3\xa9.png", b"a\nb.png"):
        Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name)).write_bytes(b"x")
    listed = list_images(str(tmp_path))
    assert [os.fsencode(path).rpartition(b"/")[2] for path in listed] == [b"a\nb.png", b"\xc3\xa9.png", b"\xff.png"]


def test_what_is_no_folder_is_said(tmp_path: Path) -> None:
    put(tmp_path, "a.png")
    for path, reason in ((tmp_path / "a.png", "is a file, not a folder"), (tmp_path / "x", "no such folder")):
        with pytest.raises(DataError) as error:
            list_images(path)
        assert str(error.value) == f"{path}: {reason}"
    empty = tmp_path / "empty"
    empty.mkdir()
    assert list_images(empty) == []


def test_a_folder_nested_deeper_than_the_call_stack_is_listed(tmp_path: Path) -> None:
    depth = sys.getrecursionlimit() + 100
    below = ["/".join(["d"] * level) for level in range(1, depth + 1)]
    put(tmp_path, "a.png")
    try:
        for name in below:
            (tmp_path / name).mkdir()
        assert list_images(tmp_path) == [f"{tmp_path}/a.png"]
    finally:  # the clean-up of temporary folders is recursive
        for name in reversed(below):
            (tmp_path / name).rmdir()


def test_a_data_set_without_files_on_disk_knows_its_labels() -> None:
    samples = tuple(Sample(f"{n}.png", f"{n}.png", "test", label, "x", "c") for n, label in enumerate((-1, 0, 1)))
    dataset = Dataset("any", "c", "r", (), (), samples, resize=Size(2, 3))
    assert dataset.get_test_paths()[1].tolist() == [-1, 0, 1]
    masks = Masks(samples, resize=(2, 3))
    assert masks[0] is None
    assert masks[2] is None
    zeros = masks[1]
    assert zeros is not None
    assert zeros.shape == (2, 3)
    assert not zeros.any()


# --- real images, where they are at hand


def test_the_real_bottle_has_its_published_counts() -> None:
    home = os.environ.get("UADCTL_REALDATA")
    if not home:
        pytest.skip("UADCTL_REALDATA is not set: no real images to read")
    dataset = load_dataset("mvtec", str(Path(home) / "mvtec_ad"), category="bottle")
    assert (len(dataset.train), len(dataset.validation), len(dataset.test)) == (209, 0, 83)
    assert dataset.missing_masks() == []
    kinds = [sample.defect for sample in dataset.test]
    assert {kind: kinds.count(kind) for kind in sorted(set(kinds))} == {
        "broken_large": 20,
        "broken_small": 22,
        "contamination": 21,
        "good": 20,
    }
    masks = dataset.get_test_paths()[2]
    assert masks is not None
    first, good = masks[0], masks[kinds.index("good")]
    assert first is not None
    assert good is not None
    assert first.shape == good.shape == (900, 900)
    assert first.any()
    assert not good.any()


# --- parts that several images show


def seen(name: str, split: str, group: str | None) -> Sample:
    """A normal image of a part."""
    return Sample(path=f"/p/{name}", relative=name, split=split, label=0, defect="good", category="c", group=group)


def test_parts_in_two_splits_are_found_once_each_with_the_first_image_of_both() -> None:
    train = (seen("a1", "train", "a"), seen("b1", "train", "b"), seen("x", "train", None))
    validation = (seen("c1", "validation", "c"),)
    test = (seen("a2", "test", "a"), seen("a3", "test", "a"), seen("c2", "test", "c"), seen("y", "test", None))
    left_out = (seen("d1", "train", "d"),)
    dataset = Dataset("real_iad", "toy", "/p", train, validation, (*test, seen("d2", "test", "d")), left_out=left_out)
    assert dataset.shared_parts() == [(train[0], test[0]), (validation[0], test[2])]
    assert dataset.told_shared_parts() == (
        "toy: 2 parts are in two splits, the first is a: /p/a1 in train and /p/a2 in test"
    )
    one = Dataset("real_iad", "toy", "/p", train, (), test[:1])
    assert one.told_shared_parts() == "toy: 1 part is in two splits, the first is a: /p/a1 in train and /p/a2 in test"
    assert Dataset("real_iad", "toy", "/p", train[1:], (), test).told_shared_parts() is None
