"""Folders whose masks alone say which images are good, as NEU-Seg's: [dataset.files] by_mask."""

from __future__ import annotations

import json
import os
import random
import shutil
import tomllib
from glob import escape
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import trees_class_masks as trees
from parts import mask_sums, relatives, surface, write

from uadctl.datasets import Dataset, LayoutError, by_mask, folder, globs, list_categories, load_dataset
from uadctl.errors import SpecError
from uadctl.spec import FilesTable, read_spec

FILES: dict[str, Any] = {
    "by_mask": True,
    "train": "images/training",
    "test": "images/test",
    "mask": "annotations/{parent}/{stem}.png",
}
NAMED = FILES | {"classes": list(trees.CLASSES)}


def load(root: Path, files: object = NAMED) -> Dataset:
    return load_dataset("folder", str(root), files=files)


def problems(root: Path, files: object = NAMED) -> list[tuple[str, str | None]]:
    with pytest.raises(LayoutError) as error:
        load(root, files)
    return [(problem.message.replace(str(root), "ROOT"), problem.help) for problem in error.value.problems]


def kinds(dataset: Dataset) -> dict[str, str]:
    return {Path(sample.path).stem: sample.defect for sample in dataset.test}


def small(root: Path, masks: dict[str, np.ndarray]) -> Path:
    """A good training image, and a test image for each mask."""
    write(root / "images/training/0.jpg", surface(0, 8, 8))
    write(root / "annotations/training/0.png", np.zeros((8, 8), np.uint8))
    for n, (name, mask) in enumerate(masks.items()):
        write(root / f"images/test/{name}.jpg", surface(1 + n, 8, 8))
        write(root / f"annotations/test/{name}.png", mask)
    return root


def block(*values: int, dtype: type = np.uint8) -> np.ndarray:
    """A mask of 8x8 zeros but for these values in its first row."""
    mask = np.zeros((8, 8), dtype)
    mask[0, : len(values)] = values
    return mask


# --- what the masks say


def test_masks_say_which_images_are_good_and_what_is_on_the_others(tmp_path: Path) -> None:
    root = trees.neu_seg(tmp_path / "NEU_Seg")
    assert list_categories("folder", str(root), files=NAMED) == ["NEU_Seg"]
    dataset = load(root)
    assert (dataset.name, dataset.category, dataset.root) == ("folder", "NEU_Seg", str(root))
    assert [(s.relative, s.split, s.label, s.defect, s.masks) for s in dataset.train] == [
        (f"images/training/00000{n}.jpg", "train", 0, "good", ()) for n in (1, 2, 3)
    ]
    assert [(s.relative, s.split, s.label, s.defect, s.masks) for s in dataset.left_out] == [
        ("images/training/000004.jpg", "train", 1, "patches", (f"{root}/annotations/training/000004.png",))
    ]
    assert dataset.validation == ()
    assert [(s.relative, s.split, s.label, s.defect, s.masks, s.expected_mask) for s in dataset.test] == [
        ("images/test/000101.jpg", "test", 0, "good", (), None),
        ("images/test/000102.jpg", "test", 0, "good", (), None),
        ("images/test/000103.jpg", "test", 1, "inclusion", (f"{root}/annotations/test/000103.png",), None),
        ("images/test/000104.jpg", "test", 1, "scratches", (f"{root}/annotations/test/000104.png",), None),
        ("images/test/000105.jpg", "test", 1, "inclusion,scratches", (f"{root}/annotations/test/000105.png",), None),
    ]
    assert mask_sums(dataset) == [0, 0, 144, 144, 288]
    assert {sample.group for sample in (*dataset.train, *dataset.test)} == {None}


def test_validation_images_with_a_defect_are_left_out_too(tmp_path: Path) -> None:
    root = trees.neu_seg(tmp_path)
    files = NAMED | {
        "train": ["images/training/000001.jpg", "images/training/000004.jpg"],
        "test": "images/test/*1.jpg",
    }
    dataset = load(root, files | {"validation": ["images/training/000002.jpg", "images/test/000103.jpg"]})
    assert relatives(dataset.train) == ["images/training/000001.jpg"]
    assert relatives(dataset.validation) == ["images/training/000002.jpg"]
    assert [(s.relative, s.split, s.defect) for s in dataset.left_out] == [
        ("images/test/000103.jpg", "validation", "inclusion"),
        ("images/training/000004.jpg", "train", "patches"),
    ]


def test_kinds_are_named_after_classes_as_far_as_these_have_names(tmp_path: Path) -> None:
    colour = np.zeros((8, 8, 3), np.uint8)
    colour[0, 0] = (200, 0, 0)
    grey = np.zeros((8, 8, 3), np.uint8)
    grey[0, 0] = (2, 2, 2)
    root = small(
        tmp_path,
        {
            "black": block(),
            "one": block(1),
            "mixed": block(3, 1, 2, 1),
            "unnamed": block(4, 2),
            "white": block(255, 255),
            "colour": colour,
            "grey": grey,
            "deep": block(2, 300, dtype=np.uint16),
            "twenty": block(*range(1, 9)) + block(*range(9, 17))[::-1] + np.roll(block(17, 18, 19, 20), 2, 0),
            "shades": block(*range(1, 9)) + block(*range(9, 17))[::-1] + np.roll(block(17, 18, 19, 20, 21), 2, 0),
        },
    )
    twenty = [f"class {n}" for n in range(1, 21)]
    assert kinds(load(root, FILES)) == {
        "black": "good",
        "one": "class 1",
        "mixed": "class 1,class 2,class 3",
        "unnamed": "class 2,class 4",
        "white": "anomaly",
        "colour": "anomaly",
        "grey": "class 2",
        "deep": "class 2,class 300",
        "twenty": ",".join(twenty),
        "shades": "anomaly",
    }
    assert kinds(load(root, NAMED)) == {
        "black": "good",
        "one": "inclusion",
        "mixed": "inclusion,patches,scratches",
        "unnamed": "patches,class 4",
        "white": "class 255",
        "colour": "anomaly",
        "grey": "patches",
        "deep": "patches,class 300",
        "twenty": ",".join([*trees.CLASSES, *twenty[3:]]),
        "shades": "anomaly",
    }


def test_a_palette_whose_first_colour_is_black_says_what_is_good(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    root = small(tmp_path, {"good": block(), "bad": block(1)})
    for name in ("good", "bad"):
        mask = image.fromarray(block() if name == "good" else block(1)).convert("P")
        mask.putpalette([0, 0, 0, 128, 0, 0])
        mask.save(root / f"annotations/test/{name}.png")
    dataset = load(root)
    assert kinds(dataset) == {"good": "good", "bad": "anomaly"}
    assert mask_sums(dataset) == [1, 0]


def test_several_masks_of_one_image_say_it_together(tmp_path: Path) -> None:
    root = small(tmp_path, {"good": block(), "bad": block(3)})
    root = small(root, {"half": block(), "tint": block(2)})
    colour = np.zeros((8, 8, 3), np.uint8)
    colour[0, 0] = (200, 0, 0)
    for name, second in (("good", block()), ("bad", block(1, 1)), ("half", block(2)), ("tint", colour)):
        write(root / f"annotations/test/{name}_b.png", second)
    dataset = load(root, NAMED | {"mask": "annotations/{parent}/{stem}*.png"})
    assert kinds(dataset) == {"bad": "inclusion,scratches", "good": "good", "half": "patches", "tint": "anomaly"}
    assert dataset.test[0].masks == (f"{root}/annotations/test/bad.png", f"{root}/annotations/test/bad_b.png")
    assert mask_sums(dataset) == [2, 0, 1, 1]


def test_good_images_from_elsewhere_need_no_mask(tmp_path: Path) -> None:
    root = trees.neu_seg(tmp_path / "NEU_Seg")
    write(tmp_path / "mill/a.jpg", surface(7))
    only_bad = NAMED | {"train": "images/training/000004.jpg"}
    assert problems(root, only_bad) == [
        (
            "ROOT: no training image is good: 1 of 1 show a defect in their masks",
            "Name images that are known to be good, which need no mask: good = GLOB. They may lie in another folder.",
        )
    ]
    for files in (
        only_bad | {"good": "../mill"},
        {k: v for k, v in (NAMED | {"good": "../mill"}).items() if k != "train"},
    ):
        dataset = load(root, files)
        assert [Path(sample.path).name for sample in dataset.train] == ["a.jpg"]
        assert dataset.train[0].label == 0
    assert len(load(root, NAMED | {"good": "../mill"}).train) == 4


def test_each_mask_is_read_once_as_long_as_it_stays_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = trees.neu_seg(tmp_path)
    assert kinds(load(root))["000101"] == "good"
    write(root / "annotations/test/000101.png", trees.square(64, 64, 2))
    assert kinds(load(root))["000101"] == "patches"
    before = by_mask._read_once.cache_info().misses
    load(root)
    assert by_mask._read_once.cache_info().misses == before


# --- what is wrong


def test_images_without_mask_are_all_said_at_once(tmp_path: Path) -> None:
    root = trees.neu_seg(tmp_path)
    (root / "annotations/training/000002.png").unlink()
    (root / "annotations/test/000101.png").unlink()
    assert problems(root) == [
        (
            "ROOT/images/training/000002.jpg: no mask at ROOT/annotations/training/000002.png, so that it is not known "
            "whether it is good",
            None,
        ),
        (
            "ROOT/images/test/000101.jpg: no mask at ROOT/annotations/test/000101.png, so that it is not known whether "
            "it is good",
            "Add the masks (all black for a good image); a good image to learn from needs none: good = GLOB.",
        ),
    ]
    for n in range(12):
        write(root / f"images/test/b{n:02}.jpg", surface(n, 8, 8))
    found = problems(root)
    assert len(found) == 11
    assert found[-1][0] == "ROOT: 4 more images have no mask"
    shutil.rmtree(root / "annotations")
    assert [message for message, _ in problems(root)] == [
        "[dataset.files] mask = 'annotations/{parent}/{stem}.png' finds no mask for any of 21 images; "
        "looked for ROOT/annotations/training/000001.png"
    ]


def test_masks_that_cannot_be_read_are_all_said_at_once(tmp_path: Path) -> None:
    root = trees.neu_seg(tmp_path)
    for name in ("training/000001", "test/000102"):
        (root / f"annotations/{name}.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    found = problems(root)
    assert [message.partition(".png: ")[0] for message, _ in found] == [
        "ROOT/annotations/training/000001",
        "ROOT/annotations/test/000102",
    ]
    assert found[0][1] is None
    assert found[1][1] == "Without its mask it is not known whether an image is good: replace the files."


def test_a_mask_that_two_images_share_or_that_is_taken_for_an_image_is_a_problem(tmp_path: Path) -> None:
    root = trees.neu_seg(tmp_path)
    write(root / "images/test/000001.jpg", surface(60))
    assert problems(root, NAMED | {"mask": "annotations/*/{stem}.png"}) == [
        (
            "ROOT/images/training/000001.jpg and ROOT/images/test/000001.jpg share one mask, "
            "ROOT/annotations/training/000001.png",
            "Give the pattern a {parent}, or the images names that differ by more than their suffix.",
        )
    ]
    beside = small(tmp_path / "beside", {"a": block(), "b": block(1)})
    for name in ("a", "b"):
        (beside / f"annotations/test/{name}.png").rename(beside / f"images/test/{name}_GT.png")
    (beside / "annotations/training/0.png").rename(beside / "images/training/0_GT.png")
    files = {**FILES, "mask": "images/{parent}/{stem}_GT.png"}
    assert problems(beside, files) == [
        ("ROOT/images/training/0_GT.png is an image, and the mask of ROOT/images/training/0.jpg", None),
        ("ROOT/images/test/a_GT.png is an image, and the mask of ROOT/images/test/a.jpg", None),
        (
            "ROOT/images/test/b_GT.png is an image, and the mask of ROOT/images/test/b.jpg",
            'Let the globs match images only, as in train = "train/*.jpg".',
        ),
    ]
    only_images = {**files, "train": "images/training/*.jpg", "test": "images/test/*.jpg"}
    assert problems(beside, only_images | {"good": "images/test/b_*.png"})[0][0] == (
        "ROOT/images/test/b_GT.png is an image, and the mask of ROOT/images/test/b.jpg"
    )
    assert kinds(load(beside, only_images)) == {
        "a": "good",
        "b": "class 1",
    }


def test_an_image_has_one_role(tmp_path: Path) -> None:
    root = trees.neu_seg(tmp_path)
    assert problems(root, NAMED | {"good": "images/training/000001.jpg", "validation": "images/test/000101.jpg"}) == [
        (
            "ROOT/images/training/000001.jpg is matched by good and by train",
            "An image may have one role only.",
        ),
        (
            "ROOT/images/test/000101.jpg is a normal test image and a validation image",
            "An image may have one role only.",
        ),
    ]
    (root / "annotations/test/000102.png").unlink()
    assert [
        message.partition(": ")[0] for message, _ in problems(root, NAMED | {"validation": "images/test/*1.jpg"})
    ] == [
        "ROOT/images/test/000102.jpg",
        "ROOT/images/test/000101.jpg is a normal test image and a validation image",
    ]
    write(root / "annotations/test/000102.png", block())
    # That an image is left out does not make it fit for testing.
    assert problems(root, NAMED | {"test": "images/training/000004.jpg"}) == [
        (
            "ROOT/images/training/000004.jpg is an anomalous test image and a training image",
            "An image may have one role only.",
        )
    ]


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (
            {"normal": "images/test", "anomaly": "x"},
            [
                "normal = 'images/test': not with by_mask = true, where masks say which images are good",
                "anomaly = 'x': not with by_mask = true, where masks say which images are good",
            ],
        ),
        (
            {"by_mask": False, "good": "images/training", "classes": ["a"]},
            [
                "good = 'images/training': only with by_mask = true, where masks say which images are good",
                "test = 'images/test': only with by_mask = true, where masks say which images are good",
                "classes = ['a']: only with by_mask = true, where masks say which images are good",
            ],
        ),
        (
            {"by_mask": 1},
            [
                "by_mask = 1: expected true or false",
                "test = 'images/test': only with by_mask = true, where masks say which images are good",
            ],
        ),
        ({"mask": None}, ["mask is missing: with by_mask, masks say which images are good"]),
        ({"train": None}, ["train is missing"]),
        ({"classes": "dent"}, ["classes = 'dent': expected a list of names"]),
        ({"classes": []}, ["classes = []: expected a list of names"]),
        (
            {"classes": ["a,b"]},
            ["classes = ['a,b']: \"a,b\" is no name of a class: expected a text without commas and control characters"],
        ),
        (
            {"classes": ["\x1b[2J"]},
            [
                "classes = ['\\x1b[2J']: \"\\x1b[2J\" is no name of a class: expected a text without commas and "
                "control characters"
            ],
        ),
        (
            {"classes": [""]},
            ["classes = ['']: \"\" is no name of a class: expected a text without commas and control characters"],
        ),
        ({"classes": ["Good"]}, ["classes = ['Good']: \"Good\" is what images without defect are called"]),
        ({"classes": ["a", "b", "a"]}, ["classes = ['a', 'b', 'a']: \"a\" is given twice"]),
        ({"good": "no/*"}, ["good = 'no/*' matches no image below ROOT"]),
        ({"tests": "images/test"}, ["tests: no such role; did you mean test?"]),
    ],
)
def test_what_a_caller_gives_that_cannot_be_is_a_problem(
    tmp_path: Path, files: dict[str, Any], expected: list[str]
) -> None:
    root = trees.neu_seg(tmp_path)
    assert [message for message, _ in problems(root, FILES | files)] == [f"[dataset.files] {line}" for line in expected]


def test_the_keys_there_are_depend_on_by_mask(tmp_path: Path) -> None:
    root = trees.neu_seg(tmp_path)
    assert problems(root, FILES | {"by_maks": True})[0] == (
        "[dataset.files] by_maks: no such role; did you mean by_mask?",
        "There are: train, good, validation, test, mask, by_mask, classes",
    )


SPEC = """[dataset]
name = "folder"
root = "."
[dataset.files]
{}
[model]
name = "vision_patchcore"
"""


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (
            'by_mask = true\nmask = "m/{stem}.png"\nnormal = "a"\nanomaly = ["b"]',
            [
                's.toml:7: [dataset.files] normal = "a": not with by_mask = true, where masks say which images are good',
                's.toml:8: [dataset.files] anomaly = ["b"]: not with by_mask = true, where masks say which images are good',
            ],
        ),
        (
            'train = "a"\ngood = "g"\ntest = "b"\nclasses = ["c"]',
            [
                's.toml:6: [dataset.files] good = "g": only with by_mask = true, where masks say which images are good',
                's.toml:7: [dataset.files] test = "b": only with by_mask = true, where masks say which images are good',
                's.toml:8: [dataset.files] classes = ["c"]: only with by_mask = true, where masks say which images are '
                "good",
            ],
        ),
        (
            'by_mask = true\ntrain = "a"',
            ["s.toml:4: [dataset.files] mask is missing: with by_mask, masks say which images are good"],
        ),
        (
            'by_mask = true\nmask = "m/{stem}.png"\nclasses = ["a", "a"]',
            ['s.toml:7: [dataset.files] classes = ["a", "a"]: "a" is given twice'],
        ),
        (
            'by_mask = "yes"\ntest = "a"',
            ['s.toml:5: [dataset.files] by_mask = "yes": expected true or false, found a string'],
        ),
    ],
)
def test_a_spec_says_it_at_its_line(tmp_path: Path, lines: str, expected: list[str]) -> None:
    file = tmp_path / "s.toml"
    file.write_text(SPEC.format(lines))
    with pytest.raises(SpecError) as error:
        read_spec(str(file))
    assert [problem.message.replace(str(file), "s.toml") for problem in error.value.problems] == expected
    if 'by_mask = "yes"' not in lines and 'classes = ["a"' not in lines:
        assert all(problem.help for problem in error.value.problems)


def test_a_spec_without_by_mask_is_filled_in_as_it_was(tmp_path: Path) -> None:
    file = tmp_path / "s.toml"
    file.write_text(SPEC.format('train = "a"'))
    files = read_spec(str(file)).spec.dataset.files
    assert files == FilesTable(train=("a",))
    assert files is not None
    assert files.by_mask is None


def test_a_good_image_whose_mask_shows_a_defect_is_left_out(tmp_path: Path) -> None:
    root = trees.neu_seg(tmp_path)
    for name in ("a", "b", "c"):
        write(root / f"known/{name}.jpg", surface(70 + ord(name)))
    write(root / "annotations/known/a.png", trees.square(64, 64, 3))
    write(root / "annotations/known/b.png", trees.square(64, 64, 0))
    files = NAMED | {"good": "known"}
    dataset = load(root, files)
    assert [(s.relative, s.split, s.label, s.defect, s.masks) for s in dataset.left_out] == [
        ("images/training/000004.jpg", "train", 1, "patches", (f"{root}/annotations/training/000004.png",)),
        ("known/a.jpg", "train", 1, "scratches", (f"{root}/annotations/known/a.png",)),
    ]
    assert relatives(dataset.train)[-2:] == ["known/b.jpg", "known/c.jpg"]
    assert [s.label for s in dataset.train] == [0] * 5
    only = {key: value for key, value in files.items() if key != "train"} | {"good": "known/a.jpg"}
    assert problems(root, only)[0][0] == "ROOT: no training image is good: 1 of 1 show a defect in their masks"
    (root / "annotations/known/b.png").write_bytes(b"")
    write(root / "annotations/known/c.png", np.zeros((60, 64), np.uint8))
    assert [message for message, _ in problems(root, files)] == [
        "ROOT/annotations/known/b.png: the file is empty (0 bytes)",
        "ROOT/annotations/known/c.png is 60x64, its image ROOT/known/c.jpg is 64x64 (height x width)",
    ]


def test_a_good_image_takes_no_mask_of_another_image_nor_itself_for_its_own(tmp_path: Path) -> None:
    root = small(tmp_path, {"a": block(1), "b": block()})
    for name in ("a.jpg", "x.jpg", "x.png"):
        write(root / f"known/{name}", surface(len(name), 8, 8))
    files = FILES | {"good": "known/*", "mask": "annotations/*/{stem}.png"}
    dataset = load(root, files)
    assert relatives(dataset.train) == ["images/training/0.jpg", "known/a.jpg", "known/x.jpg", "known/x.png"]
    assert kinds(dataset) == {"a": "class 1", "b": "good"}
    itself = small(tmp_path / "two", {"a": block(1)})
    write(itself / "annotations/known/x.png", surface(9, 8, 8))
    dataset = load(itself, FILES | {"good": "annotations/known", "mask": "annotations/{parent}/{stem}.png"})
    assert relatives(dataset.train) == ["annotations/known/x.png", "images/training/0.jpg"]
    write(root / "annotations/test/x.png", block())
    assert problems(root, files)[0][0] == (
        "ROOT/known/x.jpg and ROOT/known/x.png share one mask, ROOT/annotations/test/x.png"
    )


def test_a_mask_of_another_size_than_its_image_is_a_problem(tmp_path: Path) -> None:
    root = trees.neu_seg(tmp_path)
    write(root / "annotations/test/000101.png", np.zeros((64, 63), np.uint8))
    write(root / "annotations/training/000001.png", np.zeros((32, 32), np.uint8))
    assert problems(root) == [
        (
            "ROOT/annotations/training/000001.png is 32x32, its image ROOT/images/training/000001.jpg is 64x64 "
            "(height x width)",
            None,
        ),
        (
            "ROOT/annotations/test/000101.png is 64x63, its image ROOT/images/test/000101.jpg is 64x64 "
            "(height x width)",
            "A mask must have the size of its image, as displayed.",
        ),
    ]


def test_folders_of_globs_that_are_there_in_another_case_are_named(tmp_path: Path) -> None:
    root = trees.neu_seg(tmp_path)
    (root / "annotations").rename(root / "Annotations")
    rule = "Case counts in the names of folders: rename it to annotations."
    lost = [("ROOT/annotations: no such folder; there is ROOT/Annotations", rule)]
    assert problems(root) == lost
    assert problems(root, NAMED | {"mask": "annotations/**/{stem}.png"}) == lost
    assert problems(root, NAMED | {"mask": f"{root}/annotations/{{parent}}/{{stem}}.png"}) == lost
    (root / "Annotations").rename(root / "annotations")
    (root / "annotations/test").rename(root / "annotations/Test")
    (root / "annotations/training/000002.png").unlink()
    found = problems(root)
    assert found[0] == (
        "ROOT/annotations/test: no such folder; there is ROOT/annotations/Test",
        "Case counts in the names of folders: rename it to test.",
    )
    assert [message.partition(":")[0] for message, _ in found[1:]] == ["ROOT/images/training/000002.jpg"]
    (root / "annotations/Test").rename(root / "annotations/test")
    write(root / "annotations/training/000002.png", trees.square(64, 64, 0))
    write(root / "known/a.jpg", surface(7))
    write(root / "annotations/Known/a.png", trees.square(64, 64, 1))
    assert [message for message, _ in problems(root, NAMED | {"good": "known"})] == [
        "ROOT/annotations/known: no such folder; there is ROOT/annotations/Known"
    ]
    for glob in ("Images/test", "Images/test/*.jpg", "Images/**"):
        assert problems(root, NAMED | {"test": glob}) == [
            (
                f"[dataset.files] test = '{glob}' matches no image below ROOT; there is ROOT/images",
                "Case counts in the names of folders: rename it to Images.",
            )
        ]
    by_roles = {"train": "images/training", "anomaly": "images/test", "mask": "Annotations/{parent}/{stem}.png"}
    assert problems(root, by_roles) == [
        (
            "ROOT/Annotations: no such folder; there is ROOT/annotations",
            "Case counts in the names of folders: rename it to Annotations.",
        )
    ]


# --- how masks are found


def test_a_listing_finds_what_matching_every_name_finds(tmp_path: Path) -> None:
    """Of the names that start or end alike; and with brackets, as `glob.escape` writes them and as a person does."""
    chance = random.Random(5)
    letters = ["a", "b", "ab", "[", "]", "*", "?", "!", "-", "é", "\x01", "\udc80", "."]
    magic = ["*", "?", "[ab]", "[!a]", "[a-", "[]", "[[]", "[*]", "[?]", "[[a]", "[]a]", "**"]
    some = 0
    for _ in range(300):
        words = ["".join(chance.choices(letters, k=chance.randint(1, 4))) for _ in range(6)]
        names = sorted({"/".join(chance.choices(words, k=chance.randint(1, 4))) for _ in range(40)}, key=os.fsencode)
        listing = globs.Listing(names)
        for _ in range(30):
            pattern = []
            for _ in range(chance.randint(1, 4)):
                mixed = chance.choices([*letters, *magic, *map(escape, words)], k=chance.randint(1, 3))
                pattern.append(
                    chance.choice(
                        [
                            "**",
                            "*",
                            chance.choice(words),
                            escape(chance.choice(words)),
                            "".join(mixed),
                            escape(chance.choice(words)) + "*",
                            "*" + escape(chance.choice(words)),
                        ]
                    )
                )
            expected = [name for name in names if globs._matches(pattern, name.split("/"))]
            assert listing.matching(pattern) == expected, (pattern, names)
            some += bool(expected) and pattern != ["**"]
    assert some > 900


@pytest.mark.parametrize(
    "pattern",
    [
        "masks/{parent}/{stem}*.png",
        "masks/**/{stem}.png",
        "masks/**/{stem}*.png",
        "masks/*/*_{stem}.png",
        "masks/**/{stem}/*.png",
        "{parent}*/{stem}_x/**",
    ],
)
def test_looking_masks_up_takes_a_few_comparisons_an_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pattern: str
) -> None:
    asked = []
    real = globs._matches
    monkeypatch.setattr(globs, "_matches", lambda *words: asked.append(words) or real(*words))
    stems = [f"{n:04} [{n}]" for n in range(400)]
    names = [pattern.format(parent="good", stem=name).replace("**", "deep").replace("*", "t") for name in stems]
    names = [name if name.endswith(".png") else f"{name}/0.png" for name in names]
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    found = folder._Found(root=str(tmp_path), category="c")
    listings: dict[str, globs.Listing] = {}
    for name, expected in zip(stems, names, strict=True):
        masks, _ = folder._masks_of(found, f"images/good/{name}.jpg", pattern, listings)
        assert masks == [f"{tmp_path}/{expected}"]
    assert len(asked) <= 12 * len(stems)  # with the parts of each name; 400 times 400 would be all


# --- from the command line


@pytest.fixture
def spec(tmp_path: Path) -> Path:
    root = trees.neu_seg(tmp_path / "strip")
    file = tmp_path / "strip.toml"
    lines = Path(__file__).parents[1].joinpath("specs/neu_seg_patchcore.toml").read_text(encoding="utf-8")
    lines = lines.replace('"${NEU_SEG_ROOT}"', json.dumps(str(root))).replace('good = "good"\n', "")
    file.write_text(f"{lines}\n[preprocess]\nsize = 64\n")
    return file


def test_check_counts_what_the_masks_say_and_writes_a_manifest_that_measures_the_same(uadctl, tmp_path, spec) -> None:
    listed = tmp_path / "strip.csv"
    ended = uadctl("datasets", "check", spec, "--write-manifest", listed)
    assert (
        f"warning: strip: 1 defect image in the training and validation splits, the first is "
        f"{tmp_path}/strip/images/training/000004.jpg\n  They are not learned from.\n"
    ) in ended.err
    for kind in ("good", "inclusion", "scratches", "inclusion,scratches"):
        assert kind in ended.out
    first = load(tmp_path / "strip")
    again = load_dataset("manifest", str(listed), category="strip")
    for part in ("train", "validation", "test", "left_out"):
        assert [
            (Path(s.path).resolve(), s.label, s.defect, [Path(m).resolve() for m in s.masks])
            for s in getattr(again, part)
        ] == [
            (Path(s.path).resolve(), s.label, s.defect, [Path(m).resolve() for m in s.masks])
            for s in getattr(first, part)
        ]
    by_masks = uadctl("bench", spec, "--json").json["results"]["strip"]["vision_patchcore"]["0"]
    words = ["--dataset", "manifest", "--root", listed, "--model", "patchcore", "--set", "preprocess.size=64"]
    by_list = uadctl("bench", *words, "--json").json["results"]["strip"]["vision_patchcore"]["0"]
    assert by_list["metrics"] == by_masks["metrics"]
    assert by_list["by_defect"] == by_masks["by_defect"]
    assert list(by_masks["by_defect"]) == ["inclusion", "inclusion,scratches", "scratches"]
    assert by_list["counts"] == by_masks["counts"]
    counts = by_masks["counts"]
    assert (counts["train_images"], counts["normal_images"], counts["defect_images"]) == (3, 2, 3)
    assert counts["train_defects_left_out"] == 1
    assert 0 <= by_masks["metrics"]["pixel_auroc"] <= 1


def test_good_images_are_held_out_of_it(uadctl, tmp_path, spec) -> None:
    out = tmp_path / "held.csv"
    found = uadctl("datasets", "split", spec, "--holdout", "0.34", "--out", out, "--json").json["categories"][0]
    assert (found["train"], found["validation"], found["test"], found["left_out"]) == (2, 1, 5, 1)
    dataset = load_dataset("manifest", str(out))
    assert (len(dataset.train), len(dataset.validation), len(dataset.test), len(dataset.left_out)) == (2, 1, 5, 1)
    assert {s.label for s in (*dataset.train, *dataset.validation)} == {0}


def test_a_missing_mask_ends_a_check_and_a_bench(uadctl, tmp_path, spec) -> None:
    (tmp_path / "strip/annotations/test/000101.png").unlink()
    line = (
        f"{tmp_path}/strip/images/test/000101.jpg: no mask at {tmp_path}/strip/annotations/test/000101.png, so that it "
        "is not known whether it is good\n"
    )
    assert line in uadctl("datasets", "check", spec, code=2).err
    ended = uadctl("bench", spec, code=None)
    assert ended.code != 0
    assert line in ended.err


def test_the_table_of_the_documentation_reads_neu_seg(tmp_path: Path) -> None:
    page = (Path(__file__).parents[1] / "docs/datasets.md").read_text(encoding="utf-8")
    section = page.partition("## Where masks alone say which images are good")[2]
    table = tomllib.loads(section.partition("```toml")[2].partition("```")[0])["dataset"]
    root = trees.neu_seg(tmp_path / table["root"])
    write(root / "good/0.jpg", surface(80))
    dataset = load_dataset(table["name"], str(root), files=table["files"])
    assert len(dataset.train) == 4
    assert sorted({sample.defect for sample in dataset.test}) == [
        "good",
        "inclusion",
        "inclusion,scratches",
        "scratches",
    ]


def test_masks_of_the_tree_hold_the_numbers_of_classes(tmp_path: Path) -> None:
    root = trees.neu_seg(tmp_path)
    mask = cv2.imread(str(root / "annotations/test/000105.png"), cv2.IMREAD_UNCHANGED)
    assert mask.dtype == np.uint8
    assert np.unique(mask).tolist() == [0, 1, 3]
