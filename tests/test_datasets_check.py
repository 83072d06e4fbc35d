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
import trees_mvtec

from uadctl.check import Count, SizeCount, check_dataset, check_spec
from uadctl.errors import DataError, SpecError
from uadctl.imaging.camera import Camera
from uadctl.progress import Silent
from uadctl.records import Size
from uadctl.spec import Overrides, read_spec

BROKEN_HELP = 'Replace the files, or leave them out with: [dataset] on_error = "skip"'
EQUAL_HELP = "Keep one of them: each copy counts as an image of its own."
LEAK_HELP = "Keep one of them: an image that is learned, or sets the threshold, makes results too good if tested on."
MASK_HELP = "Their pixels are left out of the pixel metrics and counted. Add the masks to measure them."


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
            "train/good/000.png: not a PNG, JPEG, BMP, TIFF or WebP file",
            BROKEN_HELP,
        ),
        (
            "ground_truth/scratch/001_mask.png is 32x16, its image is 64x64 (height x width)",
            "A mask must have the size of its image, as displayed.",
        ),
        (
            "test/scratch/003.png: not a PNG, JPEG, BMP, TIFF or WebP file",
            BROKEN_HELP,
        ),
        ("ground_truth/scratch/003_mask.png: the file is empty (0 bytes)", None),
    ]
    assert report.errors[-1].message == f"{home.parent}/wall/train/good holds no image"
    assert [(p.message.replace(f"{home}/", ""), p.help) for p in report.warnings] == [
        ("test/scratch/000.png: no mask at ground_truth/scratch/000_mask.png", MASK_HELP),
        (
            "ground_truth/scratch/002_mask.png: no pixel is above 0, though test/scratch/002.png is a defect image",
            "Its pixels count as good. Draw the defect, or move the image to the good ones.",
        ),
        ("train/good/001.png and train/good/009.png are equal byte for byte", EQUAL_HELP),
        ("train/good/002.png and test/good/009.png are equal byte for byte, in train and test", LEAK_HELP),
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
    report = check(one_category)
    assert report.ok
    assert len(report.warnings) == 6
    assert said(report.warnings)[1] == (
        f"{home}/train/good/001.png and {home}/validation/good/001.png (and 10 more) are equal byte for byte, "
        "in train and validation"
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


@pytest.mark.parametrize(("images", "counted"), [(1, "1 defect image"), (2, "2 defect images")])
def test_defects_among_the_training_images_are_counted(one_category, home, images, counted):
    for i in range(images):
        parts.write(home / f"train/scratch/{i}.png", parts.surface(300 + i))
    report = check(one_category)
    assert report.errors == ()
    assert [(p.message, p.help) for p in report.warnings] == [
        (
            f"tile: {counted} in the training and validation splits, the first is {home}/train/scratch/0.png",
            "They are not learned from.",
        )
    ]


# --- what MVTec LOCO's protocol needs

LOGICAL, STRUCTURAL = "logical_anomalies", "structural_anomalies"
NO_CONFIG = "pushpins: no defects_config.json; spro_05, spro_05_logical and spro_05_structural will be null"


def loco(root: Path) -> Path:
    """One category of MVTec LOCO AD, of which no two images are equal."""
    home = trees_mvtec.mvtec_loco(root, ["pushpins"]) / "pushpins"
    for value, path in enumerate(sorted((*home.glob("train/good/*"), *home.glob("*/*/*.png")))):
        if "ground_truth" not in str(path):
            trees_mvtec.image(path, value=value)
    return home


def loco_warnings(root: Path) -> list[str]:
    report = check_dataset("mvtec_loco", root=str(root))
    assert report.errors == ()
    return said(report.warnings)


def test_loco_warns_of_each_figure_of_its_protocol_that_will_be_null(tmp_path, uadctl):
    home = loco(tmp_path / "loco")
    assert loco_warnings(tmp_path / "loco") == []
    shutil.rmtree(home / "test" / STRUCTURAL)
    assert loco_warnings(tmp_path / "loco") == [
        'pushpins: no kind of defect of the test split begins with "structural" (found: logical_anomalies); '
        "image_auroc_structural, image_auroc, spro_05_structural and spro_05 will be null"
    ]
    (home / "defects_config.json").unlink()
    warnings = [
        NO_CONFIG,
        'pushpins: no kind of defect of the test split begins with "structural" (found: logical_anomalies); '
        "image_auroc_structural and image_auroc will be null",
    ]
    assert loco_warnings(tmp_path / "loco") == warnings
    options = ["--dataset", "mvtec_loco", "--root", str(tmp_path / "loco"), "--model", "patchcore"]
    document = uadctl("bench", *options, "--set", "preprocess.size=32", "--json").json
    (cell,) = document["results"]["pushpins"]["vision_patchcore"].values()
    names = ["spro_05", "spro_05_logical", "spro_05_structural", "image_auroc_structural", "image_auroc"]
    null = {name for name, value in cell["metrics"].items() if value is None}
    assert {n for n in names if any(n in warning for warning in warnings)} == set(names) == null & set(names)
    assert cell["metrics"]["image_auroc_logical"] is not None


def test_what_the_protocol_of_the_spec_does_not_ask_for_is_not_missed(tmp_path):
    home = loco(tmp_path / "loco")
    (home / "defects_config.json").unlink()
    file = tmp_path / "s.toml"
    text = '[dataset]\nname = "mvtec_loco"\nroot = "loco"\n[model]\nname = "patchcore"\n[metrics]\n'

    def warnings(metrics: str) -> list[str]:
        file.write_text(text + metrics)
        return said(check_spec(read_spec(str(file)).spec).warnings)

    assert warnings("") == [NO_CONFIG]
    assert warnings('protocol = "mvtec_ad"') == warnings("pixel = false") == []
    shutil.rmtree(home / "test" / LOGICAL)
    assert warnings("pixel = false") == [
        'pushpins: no kind of defect of the test split begins with "logical" (found: structural_anomalies); '
        "image_auroc_logical and image_auroc will be null"
    ]
    shutil.rmtree(home / "test" / STRUCTURAL)
    (home / "test" / STRUCTURAL).mkdir()  # without any sign it would be no MVTec LOCO
    assert warnings("pixel = false") == [
        "pushpins: the test split has no defect image (2 normal); image and pixel metrics will be null"
    ]


# --- several test splits


def ad2(root: Path) -> Path:
    """One category of MVTec AD 2, of which no two images are equal."""
    home = root / "can"
    for value, name in enumerate(
        (
            *("train/good/0.png", "train/good/1.png", "validation/good/0.png", "validation/good/1.png"),
            *("test_public/good/0.png", "test_public/bad/0.png", "test_private/0.png", "test_private/1.png"),
            "test_private_mixed/0.png",
        )
    ):
        trees_mvtec.image(home / name, value=value)
    trees_mvtec.mask(home / "test_public/ground_truth/bad/0_mask.png")
    return home


def check_ad2(root: Path, split: str | None = None):
    return check_dataset("mvtec_ad2", root=str(root), split=split)


def test_every_test_split_of_ad2_is_looked_at_and_counted_under_its_name(tmp_path):
    home = ad2(tmp_path)
    report = check_ad2(tmp_path)
    assert (report.errors, report.warnings) == ((), ())
    given = (Count("train", "good", 2, 0), Count("validation", "good", 2, 0))
    assert report.categories[0].counts == (
        *given,
        Count("test_public", "good", 1, 0),
        Count("test_public", "bad", 1, 1),
        Count("test_private", "unknown", 2, 0),
        Count("test_private_mixed", "unknown", 1, 0),
    )
    assert report.categories[0].sizes == (SizeCount(Size(32, 40), 9),)
    shutil.rmtree(home / "test_private_mixed")
    assert (check_ad2(tmp_path).errors, check_ad2(tmp_path).categories[0].images) == ((), 8)
    private = check_ad2(tmp_path, "test_private").categories[0]
    assert private.counts == (*given, Count("test", "unknown", 2, 0))
    public = check_ad2(tmp_path, "test_public").categories[0]
    assert public.counts == (*given, Count("test", "good", 1, 0), Count("test", "bad", 1, 1))


def test_what_is_wrong_in_a_private_split_is_said_of_ad2(tmp_path):
    home = ad2(tmp_path)
    (home / "test_private/1.png").write_bytes(b"no picture")
    shutil.copy(home / "train/good/0.png", home / "test_private_mixed/0.png")
    shutil.copy(home / "test_public/bad/0.png", home / "test_private/0.png")
    trees_mvtec.image(home / "test_private_mixed/odd/0.png")
    report = check_ad2(tmp_path)
    assert said(report.errors) == [
        f"{home}/test_private_mixed/odd/0.png lies in a folder that is neither good/ nor bad/",
        f"{home}/test_private/1.png: not a PNG, JPEG, BMP, TIFF or WebP file",
    ]
    shutil.rmtree(home / "test_private_mixed/odd")
    assert [(p.message, p.help) for p in check_ad2(tmp_path).warnings] == [
        (
            f"{home}/train/good/0.png and {home}/test_private_mixed/0.png are equal byte for byte, in train and "
            "test_private_mixed",
            LEAK_HELP,
        ),
        (f"{home}/test_public/bad/0.png and {home}/test_private/0.png are equal byte for byte", EQUAL_HELP),
    ]
    assert check_ad2(tmp_path, "test_public").warnings == ()


def test_private_images_are_not_counted_as_images_to_measure_on(tmp_path):
    home = ad2(tmp_path)
    (home / "test_private/good").mkdir()
    (home / "test_private/0.png").rename(home / "test_private/good/0.png")
    (home / "test_public/good/0.png").unlink()
    assert said(check_ad2(tmp_path).warnings) == [
        "can: the test split has no normal image (1 defect); the image metrics will be null"
    ]
    shutil.rmtree(home / "test_public")
    report = check_ad2(tmp_path)
    assert [(p.message, p.help) for p in report.errors] == [
        (f"{home}/test_public: no such folder", "can has the splits: test_private, test_private_mixed")
    ]


def test_a_spec_is_checked_with_the_split_that_it_benches(tmp_path):
    home = ad2(tmp_path)
    (home / "test_private/1.png").write_bytes(b"no picture")
    file = tmp_path / "s.toml"
    file.write_text('[dataset]\nname = "ad2"\nroot = "."\n[model]\nname = "patchcore"\n')
    report = check_spec(read_spec(str(file)).spec)
    assert (report.errors, report.categories[0].counts[-1]) == ((), Count("test", "bad", 1, 1))


def test_splits_that_share_images_are_not_looked_at_together(tmp_path):
    import trees_others

    root = trees_others.visa_original(tmp_path / "VisA", ["candle"])
    report = check_dataset("visa", root=str(root))
    assert (report.errors, report.categories[0].images) == ((), 10)


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
        "test/scratch/000.png: no mask at ground_truth/scratch/000_mask.png",
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


@pytest.mark.parametrize("suffix", [".png", ".npy"])
def test_what_several_masks_mark_together_counts(tmp_path, suffix):
    for i in range(3):
        parts.write(tmp_path / "ok" / f"{i}.png", parts.surface(i))
    for seed, name in enumerate(("half", "full", "none")):
        parts.write(tmp_path / "bad" / f"{name}.png", parts.scratched(30 + seed)[0])
        for place, rows in {"a": slice(0, 40), "b": slice(24, 64)}.items():
            mask = np.zeros((64, 64), np.uint8)
            mask[rows] = {"half": 5 * (place == "a"), "full": 5, "none": 0}[name]
            file = tmp_path / "masks" / f"{name}_{place}{suffix}"
            file.parent.mkdir(exist_ok=True)
            if suffix == ".npy":
                np.save(file, mask)
            else:
                parts.write(file, mask)
    file = tmp_path / "own.toml"
    file.write_text(
        '[dataset]\nname = "folder"\nroot = "."\nfiles = { train = ["ok/1.png", "ok/2.png"], normal = "ok/0.png", '
        f'anomaly = "bad/*", mask = "masks/{{stem}}_*{suffix}" }}\n[model]\nname = "patchcore"\n'
    )
    report = check_spec(read_spec(str(file)).spec)
    assert report.errors == ()
    masks = {name: ", ".join(f"{tmp_path}/masks/{name}_{place}{suffix}" for place in "ab") for name in ("full", "none")}
    found = [message for message in said(report.warnings) if "masks/" in message]
    assert found == [
        f"{masks['full']}: every pixel of {tmp_path}/bad/full.png is marked as a defect",
        f"{masks['none']}: no pixel is above 0, though {tmp_path}/bad/none.png is a defect image",
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


def test_a_learned_image_that_equals_a_defect_left_out_is_told(one_category, home):
    image = parts.surface(1)
    for name in ("train/good/bad.png", "train/good/worse.bmp", "train/scratch/0.png"):
        parts.write(home / name, image)
    parts.write(home / "train/scratch/1.png", parts.surface(77))
    (home / "train/scratch/2.png").write_bytes(b"")
    first = home / "train/good/001.png"
    assert (home / "train/good/bad.png").read_bytes() == first.read_bytes()
    told = [one for one in said(check(one_category).warnings) if "the other scratch" in one]
    assert told == [
        f"{first} (and 2 more) and {home}/train/scratch/0.png are equal byte for byte, though one is called good and "
        "is in train, the other scratch"
    ]


def test_few_decoded_images_are_held(tmp_path, monkeypatch):
    parts.write_category(tmp_path, "tile", train=60, good=2, bad=2, size=(32, 32))
    import uadctl.check as module

    alive: set[int] = set()
    most = 0

    def counted(camera, path):
        nonlocal most
        image = opened(camera, path)
        alive.add(id(image))
        weakref.finalize(image, alive.discard, id(image))
        most = max(most, len(alive))
        return image

    opened = Camera.open
    monkeypatch.setattr(Camera, "open", counted)
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
    (home / "test/good/000.png").write_bytes(b"")
    ended = uadctl("datasets", "check", "mvtec", "--root", "data", code=2)
    assert ended.err == (
        "error: data/tile/test/good/000.png: the file is empty (0 bytes)\n"
        f"  {BROKEN_HELP}\n"
        "warning: data/tile/test/scratch/000.png: no mask at data/tile/ground_truth/scratch/000_mask.png\n"
        "warning: data/tile/test/scratch/001.png: no mask at data/tile/ground_truth/scratch/001_mask.png\n"
        f"  {MASK_HELP}\n"
        "warning: data/tile/train/good/001.png and data/tile/train/good/009.png are equal byte for byte\n"
        f"  {EQUAL_HELP}\n"
    )
    assert ended.out.splitlines()[-1] == "1 category, 12 images: 1 error, 3 warnings"
    quiet = uadctl("datasets", "check", "mvtec", "--root", "data", "--quiet", code=2)
    assert quiet.err == ended.err[: ended.err.index("warning: ")]


def test_json_is_one_strict_document(uadctl, one_category, home):
    no_mask(home)
    ended = uadctl("datasets", "check", "mvtec", "--root", "data", "--json")
    assert ended.json == {
        "schema": 1,
        "dataset": "mvtec",
        "root": "data",
        "ok": True,
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
        "errors": [],
        "notes": [],
        "warnings": [
            {
                "message": "data/tile/test/scratch/000.png: no mask at data/tile/ground_truth/scratch/000_mask.png",
                "help": MASK_HELP,
            }
        ],
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
            f'error: "mvtek": no such data set; did you mean mvtec? Choose from: {parts.DATA_SETS}\n',
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
    assert len(found.json["errors"]) == 1501
    assert len(found.json["warnings"]) == 1502
    assert found.json["warnings"][-1]["message"] == (
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
