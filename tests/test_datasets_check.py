"""`datasets check`: all that is wrong with a data set, at once; and exit 2 exactly when a bench would fail."""

from __future__ import annotations

import json
import os
import shutil
import weakref
from pathlib import Path

import numpy as np
import parts
import pytest

from uadctl.check import Count, SizeCount, check_dataset, check_spec
from uadctl.errors import DataError, SpecError
from uadctl.progress import Silent
from uadctl.records import Size
from uadctl.spec import Overrides, read_spec

EQUAL_HELP = "Keep one of them: each copy counts as an image of its own."
LEAK_HELP = "Keep one of them: an image that is learned, or sets the threshold, must not be in another split."
MASK_HELP = 'Add the masks, or leave these images out of the pixel metrics with: [dataset] on_error = "skip"'


@pytest.fixture
def home(one_category) -> Path:
    return one_category / "tile"


def check(root: Path, *categories: str):
    return check_dataset("mvtec", root=str(root), categories=categories or None)


def said(problems) -> list[str]:
    return [problem.message for problem in problems]


def spec_of(root: Path, *lines: str):
    text = f'[dataset]\nname = "mvtec"\nroot = {json.dumps(str(root))}\n'
    file = root.parent / "spec.toml"
    file.write_text(text + "\n".join(lines) + '\n[model]\nname = "patchcore"\n')
    return read_spec(str(file)).spec


def test_a_sound_data_set_is_counted_and_nothing_is_said(one_category):
    report = check(one_category)
    assert (report.ok, report.errors, report.warnings) == (True, (), ())
    (tile,) = report.categories
    assert (report.name, report.root, tile.category, tile.images) == ("mvtec", str(one_category), "tile", 11)
    assert tile.counts == (Count("train", "good", 6, 0), Count("test", "good", 2, 0), Count("test", "scratch", 3, 3))
    assert tile.sizes == (SizeCount(Size(64, 64), 11),)


def test_everything_wrong_is_said_at_once(one_category, home):
    (home / "ground_truth/scratch/000_mask.png").unlink()
    parts.write(home / "ground_truth/scratch/001_mask.png", np.full((32, 16), 255, np.uint8))
    parts.write(home / "ground_truth/scratch/002_mask.png", np.zeros((64, 64), np.uint8))
    (home / "train/good/000.png").write_bytes(b"no picture")
    (home / "test/scratch/003.png").write_bytes(b"no picture")
    (home / "ground_truth/scratch/003_mask.png").write_bytes(b"")
    shutil.copy(home / "train/good/001.png", home / "train/good/009.png")
    shutil.copy(home / "train/good/002.png", home / "test/good/009.png")
    (home.parent / "wall/train/good").mkdir(parents=True)
    report = check(one_category)
    assert [(p.message.replace(f"{home}/", ""), p.help) for p in report.errors[:-1]] == [
        (
            "test/scratch/000.png: no mask at ground_truth/scratch/000_mask.png",
            MASK_HELP,
        ),
        (
            "train/good/000.png: not a PNG, JPEG, BMP, TIFF or WebP file",
            'Replace the files, or leave them out with: [dataset] on_error = "skip"',
        ),
        (
            "ground_truth/scratch/001_mask.png is 32x16, its image is 64x64 (height x width)",
            "A mask must have the size of its image, as displayed.",
        ),
        (
            "test/scratch/003.png: not a PNG, JPEG, BMP, TIFF or WebP file",
            'Replace the files, or leave them out with: [dataset] on_error = "skip"',
        ),
        ("ground_truth/scratch/003_mask.png: the file is empty (0 bytes)", None),
        ("train/good/002.png and test/good/009.png are equal byte for byte", LEAK_HELP),
    ]
    assert report.errors[-1].message == f"{home.parent}/wall/train/good holds no image"
    assert [(p.message.replace(f"{home}/", ""), p.help) for p in report.warnings] == [
        (
            "ground_truth/scratch/002_mask.png: no pixel is above 0, though test/scratch/002.png is a defect image",
            "Its pixels count as good. Draw the defect, or move the image to the good ones.",
        ),
        ("train/good/001.png and train/good/009.png are equal byte for byte", EQUAL_HELP),
    ]
    assert [c.category for c in report.categories] == ["tile"]
    assert report.categories[0].counts[-1] == Count("test", "scratch", 4, 3)


def test_images_are_equal_if_their_pixels_are_whatever_the_file(one_category, home):
    parts.write(home / "train/good/009.bmp", parts.surface(1))
    parts.write(home / "test/scratch/009.bmp", parts.surface(100))
    shutil.copy(home / "ground_truth/scratch/000_mask.png", home / "ground_truth/scratch/009_mask.png")
    report = check(one_category)
    assert report.ok
    assert said(report.warnings) == [
        f"{home}/train/good/001.png and {home}/train/good/009.bmp are equal pixel for pixel",
        f"{home}/test/good/000.png and {home}/test/scratch/009.bmp are equal pixel for pixel, "
        "though they are called good and scratch",
    ]


def test_many_copies_are_one_line(one_category, home):
    for i in range(10, 15):
        shutil.copy(home / "train/good/001.png", home / f"train/good/0{i}.png")
    assert said(check(one_category).warnings) == [
        f"{home}/train/good/001.png and {home}/train/good/010.png (and 4 more) are equal byte for byte"
    ]
    shutil.copytree(home / "train/good", home / "validation/good")
    errors = said(check(one_category).errors)
    assert len(errors) == 6
    assert errors[1] == (
        f"{home}/train/good/001.png and {home}/validation/good/001.png (and 10 more) are equal byte for byte"
    )


def test_equal_pixels_of_another_shape_are_another_image(one_category, home):
    flat = np.full((8, 4, 3), 7, np.uint8)
    parts.write(home / "train/good/a.png", flat)
    parts.write(home / "train/good/b.png", flat.reshape(4, 8, 3))
    assert check(one_category).warnings == ()


def test_equal_images_of_two_categories_are_nobodys_matter(one_category):
    shutil.copytree(one_category / "tile", one_category / "wall")
    report = check(one_category)
    assert (report.errors, report.warnings) == ((), ())
    assert [c.category for c in report.categories] == ["tile", "wall"]


def test_an_inverted_mask_is_a_warning(one_category, home):
    parts.write(home / "ground_truth/scratch/001_mask.png", np.full((64, 64), 255, np.uint8))
    assert said(check(one_category).warnings) == [
        f"{home}/ground_truth/scratch/001_mask.png: every pixel of {home}/test/scratch/001.png is marked as a defect"
    ]


@pytest.mark.parametrize(
    ("remove", "warning"),
    [
        (
            ["test/scratch", "ground_truth"],
            "tile: the test split has no defect image (2 normal); image and pixel metrics will be null",
        ),
        (["test/good"], "tile: the test split has no normal image (3 defect); the image metrics will be null"),
        (["ground_truth"], "tile: none of 3 defect images has a mask; the pixel metrics will be null"),
        (
            [f"train/good/00{i}.png" for i in range(1, 6)],
            "tile: a single training image and no validation images; "
            "there will be no threshold, and the verdicts will be null",
        ),
    ],
)
def test_what_will_be_null_is_a_warning_and_the_bench_says_so_too(uadctl, one_category, small, remove, warning):
    for name in remove:
        path = one_category / "tile" / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    report = check(one_category)
    assert (said(report.errors), said(report.warnings)) == ([], [warning])
    (cell,) = uadctl("bench", *small, "--json").json["results"]["tile"]["vision_patchcore"].values()
    assert None in cell["metrics"].values()


def test_sizes_are_counted(one_category, home):
    parts.write(home / "train/good/a.png", parts.surface(50, 32, 48))
    parts.write(home / "train/good/b.png", parts.surface(51, 16, 96))
    assert check(one_category).categories[0].sizes == (
        SizeCount(Size(16, 96), 1),
        SizeCount(Size(32, 48), 1),
        SizeCount(Size(64, 64), 11),
    )


# --- as a bench would see it


def no_mask(home: Path) -> None:
    (home / "ground_truth/scratch/000_mask.png").unlink()


def other_size(home: Path) -> None:
    parts.write(home / "ground_truth/scratch/000_mask.png", np.full((32, 64), 255, np.uint8))


def broken_mask(home: Path) -> None:
    (home / "ground_truth/scratch/000_mask.png").write_bytes(b"x")


def broken_train(home: Path) -> None:
    (home / "train/good/000.png").write_bytes(b"x")


def broken_test(home: Path) -> None:
    (home / "test/good/000.png").write_bytes(b"x")


def all_train_broken(home: Path) -> None:
    for file in (home / "train/good").iterdir():
        file.write_bytes(b"x")


def no_train(home: Path) -> None:
    shutil.rmtree(home / "train/good")
    (home / "train/good").mkdir()


def no_test(home: Path) -> None:
    shutil.rmtree(home / "test")
    (home / "test").mkdir()


def small_image(home: Path) -> None:
    parts.write(home / "train/good/thin.png", parts.surface(70, 200, 4))


def harmless(home: Path) -> None:
    parts.write(home / "ground_truth/scratch/000_mask.png", np.zeros((64, 64), np.uint8))
    shutil.copy(home / "train/good/001.png", home / "train/good/009.png")


DAMAGES = (
    no_mask,
    other_size,
    broken_mask,
    broken_train,
    broken_test,
    all_train_broken,
    no_train,
    no_test,
    small_image,
    harmless,
)


SETTINGS = ('on_error = "skip"', "[metrics]\npixel = false", "limit_train = 2\nlimit_test = 2")
CASES = [
    *((damage, "") for damage in DAMAGES),
    *(pytest.param(damage, setting, marks=pytest.mark.slow) for damage in DAMAGES for setting in SETTINGS),
]


@pytest.mark.parametrize(("damage", "setting"), CASES)
def test_exit_2_exactly_when_a_bench_fails(uadctl, one_category, home, damage, setting):
    damage(home)
    crop = "[preprocess]\nsize = 64\ncrop = [24, 24]"
    spec_of(one_category, *([setting, crop] if setting[:1] != "[" else [crop, setting]))
    benched = uadctl("bench", "spec.toml", "--quiet", code=None)
    checked = uadctl("datasets", "check", "spec.toml", code=None)
    assert checked.code == (2 if benched.code else 0), f"{benched.err}\n{checked.err}"
    assert ("error: " in checked.err) == (checked.code == 2)


def test_skipped_images_are_warnings(one_category, home):
    broken_train(home)
    no_mask(home)
    report = check_spec(spec_of(one_category, 'on_error = "skip"'))
    assert report.ok
    assert [message.replace(f"{home}/", "") for message in said(report.warnings)] == [
        "test/scratch/000.png: no mask at ground_truth/scratch/000_mask.png; its pixels will be left out",
        "train/good/000.png: not a PNG, JPEG, BMP, TIFF or WebP file; it will be left out",
    ]


def test_skipping_every_training_image_leaves_nothing_to_learn_from(one_category, home):
    all_train_broken(home)
    report = check_spec(spec_of(one_category, 'on_error = "skip"'))
    assert said(report.errors) == ["tile: none of 6 training images can be read"]
    assert len(report.warnings) == 6


def test_limits_leave_out_what_a_bench_leaves_out(one_category, home):
    (home / "train/good/005.png").write_bytes(b"x")
    assert not check(one_category).ok
    report = check_spec(spec_of(one_category, "limit_train = 2"))
    assert report.ok
    assert report.categories[0].counts[0] == Count("train", "good", 2, 0)


def test_calibration_on_validation_images_needs_some(one_category):
    report = check_spec(spec_of(one_category, "[calibration]", 'split = "validation"'))
    assert said(report.errors) == ['tile: [calibration] split = "validation", but it has no validation images']


def test_a_crop_that_does_not_fit_is_said_once_a_size(one_category, home):
    for i in range(3):
        parts.write(home / f"train/good/thin{i}.png", parts.surface(70 + i, 200, 4))
    (problem,) = check_spec(spec_of(one_category, "[preprocess]", "size = 64", "crop = [24, 24]")).errors
    assert problem.message == (
        f"{home}/train/good/thin0.png (and 2 more images of this size): a crop of 24x24 does not fit into 256x16, "
        "the size of the preprocessed image (height x width; the file has 200x4)"
    )
    assert problem.help == "Make [preprocess] crop smaller, or resize larger."


def test_a_folder_without_test_images_cannot_be_measured_on(tmp_path, uadctl):
    for i in range(3):
        parts.write(tmp_path / "good" / f"{i}.png", parts.surface(i))
    file = tmp_path / "own.toml"
    file.write_text('[dataset]\nname = "folder"\nroot = "good"\nfiles.train = "*"\n[model]\nname = "patchcore"\n')
    assert [(p.message, p.help) for p in check_spec(read_spec(str(file)).spec).errors] == [
        ("good: no test image", "A bench needs good and bad images to measure on.")
    ]


def test_every_problem_of_a_layout_is_listed(tmp_path):
    parts.write(tmp_path / "own/train/normal/0.png", parts.surface(0))
    parts.write(tmp_path / "own/train/spare/0.png", parts.surface(1))
    report = check_dataset("custom", root=str(tmp_path / "own"))
    assert report.name == "folder"
    assert said(report.errors) == [
        f"{tmp_path}/own/train/spare is not one of normal, good",
        f"{tmp_path}/own/test: no such folder",
    ]
    assert report.categories == ()


def test_several_masks_of_an_image_are_each_looked_at(tmp_path):
    for i in range(3):
        parts.write(tmp_path / "ok" / f"{i}.png", parts.surface(i))
    image, mask = parts.scratched(9)
    parts.write(tmp_path / "bad/7.png", image)
    parts.write(tmp_path / "masks/7_a.png", mask[:32])
    parts.write(tmp_path / "masks/7_b.png", mask[:16])
    parts.write(tmp_path / "masks/7_c.png", mask)
    file = tmp_path / "own.toml"
    file.write_text(
        '[dataset]\nname = "folder"\nroot = "."\nfiles = { train = "ok/*", normal = "ok/0.png", anomaly = "bad/*", '
        'mask = "masks/{stem}_*.png" }\n[model]\nname = "patchcore"\n'
    )
    file.write_text(file.read_text().replace('train = "ok/*"', 'train = ["ok/1.png", "ok/2.png"]'))
    assert [m.replace(f"{tmp_path}/", "") for m in said(check_spec(read_spec(str(file)).spec).errors)] == [
        "masks/7_a.png is 32x64, its image is 64x64 (height x width)",
        "masks/7_b.png is 16x64, its image is 64x64 (height x width)",
    ]


# --- choices


def test_categories_are_chosen_by_name_and_glob(one_category):
    for name in ("wall", "tiny"):
        parts.write_category(one_category, name, train=2, good=1, bad=1)
    assert [c.category for c in check(one_category, "ti*", "tile").categories] == ["tile", "tiny"]
    with pytest.raises(SpecError) as error:
        check(one_category, "wal", "wall", "x*")
    assert [(p.message, p.help) for p in error.value.problems] == [
        (f'{one_category} has no category "wal"; did you mean wall?', "Found: tile, tiny, wall"),
        (f'{one_category} has no category "x*"', "Found: tile, tiny, wall"),
    ]


def test_what_cannot_be_looked_for_is_raised(tmp_path):
    with pytest.raises(DataError, match=r"^nowhere: no such folder$"):
        check_dataset("mvtec", root="nowhere")
    with pytest.raises(DataError, match=r"^mvtec needs a root, the folder that holds it$"):
        check_dataset("mvtec")
    with pytest.raises(SpecError, match=r'^"mvtek": no such data set; did you mean mvtec\? Choose from: '):
        check_dataset("mvtek", root="nowhere")


# --- memory and time


def test_few_decoded_images_are_held(tmp_path, monkeypatch):
    parts.write_category(tmp_path, "tile", train=60, good=2, bad=2, size=(32, 32))
    import uadctl.check as module

    alive: set[int] = set()
    most = 0

    def counted(path):
        nonlocal most
        image = read(path)
        alive.add(id(image))
        weakref.finalize(image, alive.discard, id(image))
        most = max(most, len(alive))
        return image

    read = module.read_image
    monkeypatch.setattr(module, "read_image", counted)
    monkeypatch.setattr(module, "usable_cores", lambda: 3)
    assert check(tmp_path).ok
    assert 1 <= most <= 3


def test_the_bar_counts_every_image(one_category):
    done = []

    class Counting(Silent):
        def task(self, title, total, *, unit="images"):
            done.append((title, total))
            return super().task(title, total, unit=unit)

    check_dataset("mvtec", root=str(one_category), progress=Counting())
    assert done == [("check tile", 11)]


# --- the command


def test_the_command_prints_a_table_a_category_and_a_last_line(uadctl, one_category, home):
    parts.write(home / "train/good/a.png", parts.surface(50, 32, 48))
    ended = uadctl("datasets", "check", "mvtec", "--root", one_category)
    lines = [line.strip() for line in ended.out.splitlines() if line.strip()]
    assert lines[0] == "tile: 12 images, 2 sizes: 32x48 (1), 64x64 (11) (height x width)"
    assert [line.split() for line in (lines[1], *lines[3:6])] == [
        ["split", "kind", "images", "masks"],
        ["train", "good", "7"],
        ["test", "good", "2"],
        ["test", "scratch", "3", "3"],
    ]
    assert lines[-1] == "1 category, 12 images: 0 errors, 0 warnings"
    assert ended.err == ""


def test_sizes_are_named_if_few(uadctl, one_category, home):
    words = ("datasets", "check", "mvtec", "--root", one_category)
    assert uadctl(*words).out.splitlines()[0] == "tile: 11 images, 64x64 (height x width)"
    for i in range(5):
        parts.write(home / f"train/good/a{i}.png", parts.surface(50 + i, 32 + i, 96 - i))
    assert uadctl(*words).out.splitlines()[0] == "tile: 16 images, 6 sizes: height 32 to 64, width 64 to 96"
    for file in home.glob("t*/*/*.png"):
        file.write_bytes(b"x")
    assert uadctl(*words, code=2).out.splitlines()[0] == "tile: 16 images, none can be read"


def test_problems_go_to_stderr_and_shared_help_is_said_once(uadctl, one_category, home):
    for i in (0, 1):
        (home / f"ground_truth/scratch/00{i}_mask.png").unlink()
    shutil.copy(home / "train/good/001.png", home / "train/good/009.png")
    ended = uadctl("datasets", "check", "mvtec", "--root", "data", code=2)
    assert ended.err == (
        "error: data/tile/test/scratch/000.png: no mask at data/tile/ground_truth/scratch/000_mask.png\n"
        "error: data/tile/test/scratch/001.png: no mask at data/tile/ground_truth/scratch/001_mask.png\n"
        f"  {MASK_HELP}\n"
        "warning: data/tile/train/good/001.png and data/tile/train/good/009.png are equal byte for byte\n"
        f"  {EQUAL_HELP}\n"
    )
    assert ended.out.splitlines()[-1] == "1 category, 12 images: 2 errors, 1 warning"
    quiet = uadctl("datasets", "check", "mvtec", "--root", "data", "--quiet", code=2)
    assert quiet.err == ended.err[: ended.err.index("warning: ")]


def test_json_is_one_strict_document(uadctl, one_category, home):
    no_mask(home)
    ended = uadctl("datasets", "check", "mvtec", "--root", "data", "--json", code=2)
    assert ended.json == {
        "schema": 1,
        "dataset": "mvtec",
        "root": "data",
        "ok": False,
        "categories": [
            {
                "category": "tile",
                "images": 11,
                "counts": [
                    {"split": "train", "defect": "good", "images": 6, "masks": 0},
                    {"split": "test", "defect": "good", "images": 2, "masks": 0},
                    {"split": "test", "defect": "scratch", "images": 3, "masks": 2},
                ],
                "sizes": [{"height": 64, "width": 64, "images": 11}],
            }
        ],
        "errors": [
            {
                "message": "data/tile/test/scratch/000.png: no mask at data/tile/ground_truth/scratch/000_mask.png",
                "help": MASK_HELP,
            }
        ],
        "warnings": [],
    }


def test_the_command_takes_a_spec(uadctl, one_category, tmp_path):
    spec_of(one_category)
    found = uadctl("datasets", "check", "spec.toml", "--json").json
    assert [c["category"] for c in found["categories"]] == ["tile"]
    (tmp_path / "bare").write_text((tmp_path / "spec.toml").read_text())
    assert uadctl("datasets", "check", "bare", "--json").json == found
    ended = uadctl("datasets", "check", "spec.toml", "--category", "til", code=2)
    assert ended.err == f'error: {one_category} has no category "til"; did you mean tile?\n  Found: tile\n'
    assert uadctl("datasets", "check", "spec.toml", "--root", tmp_path / "x", code=2).err == (
        f"error: {tmp_path}/x: no such folder\n"
    )
    (tmp_path / "bad.toml").write_text('[dataset]\nname = "mvtek"\n')
    assert "did you mean mvtec" in uadctl("datasets", "check", "bad.toml", code=2).err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["mvtec"], "error: mvtec needs the folder it lies in\n  Give --root DIR.\n"),
        (["absent.toml"], "error: absent.toml: there is no such spec file\n"),
        (
            ["mvtek", "--root", "."],
            'error: "mvtek": no such data set; did you mean mvtec? Choose from: demo, folder (also custom), mvtec\n',
        ),
        (["mvtec", "--root", "data", "--split", "private"], "error: mvtec has no split 'private'; it has: test\n"),
    ],
)
def test_what_a_user_can_fix_is_said(uadctl, one_category, words, message):
    ended = uadctl("datasets", "check", *words, code=2)
    assert ended.err.startswith(message)


def test_hostile_names_and_many_problems_do_not_flood_or_paint(uadctl, one_category, home):
    for i in range(1500):
        (home / f"test/scratch/{'x' * 100}{i}.png").touch()
    (home / "test/scratch/\x1b[31mred\nline.png").touch()
    os.link(home / "train/good/001.png", os.fsencode(home) + b"/train/good/\xff.png")
    ended = uadctl("datasets", "check", "mvtec", "--root", "data", code=2)
    assert len(ended.err.encode()) < 66_000
    assert "\x1b" not in ended.err
    assert all(line.startswith(("error: ", "warning: ", "  ", "and ")) for line in ended.err.splitlines())
    found = uadctl("datasets", "check", "mvtec", "--root", "data", "--json", code=2)
    assert len(found.json["errors"]) == 3002
    assert found.json["warnings"][0]["message"] == (
        "data/tile/train/good/001.png and data/tile/train/good/\\udcff.png are equal byte for byte"
    )


def test_overrides_of_a_spec_are_the_same_check(one_category):
    spec = read_spec(None, Overrides(dataset="mvtec", root=str(one_category), model="patchcore")).spec
    assert check_spec(spec) == check(one_category)


def test_a_holdout_that_leaves_nothing_is_an_error_and_broken_validation_images_are_said(
    uadctl, one_category, tmp_path
):
    head = f'[dataset]\nname = "mvtec"\nroot = "{one_category}"\non_error = "skip"\nlimit_train = 1\n'
    model = '[model]\nname = "patchcore"\n'
    (tmp_path / "s.toml").write_text(head + model + "[calibration]\nholdout = 0.5\n")
    said = "tile: [calibration] holdout = 0.5 of 1 training images leaves none to learn from"
    assert f"error: {said}\n" in uadctl("datasets", "check", "s.toml", code=2).err
    assert "holdout = 0.5 of 1 training images leaves none" in uadctl("bench", "s.toml", code=1).err
    broken = one_category / "tile/validation/good/0.png"
    broken.parent.mkdir(parents=True)
    broken.write_bytes(b"junk")
    (tmp_path / "v.toml").write_text(head + model)
    assert "none of 1 validation images can be read" in uadctl("datasets", "check", "v.toml").err
    assert "no threshold, verdicts will be null" in uadctl("bench", "v.toml").err
