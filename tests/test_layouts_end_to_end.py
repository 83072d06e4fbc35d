"""Every layout, as its publisher ships it, from the command line to the numbers of its authors' protocol."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import parts
import pytest
import trees_autovi
import trees_class_masks
import trees_kolektor
import trees_listed
import trees_mvtec
import trees_mvtec_like
import trees_others
import trees_real_iad
from layouts import Damage, Layout, paint

from uadctl.datasets import list_categories, load_dataset, load_mask, recognise
from uadctl.errors import DataError
from uadctl.imaging.files import image_size
from uadctl.spec import DATASETS, PROTOCOLS

PIXEL = ("pixel_auroc", "pixel_ap", "pixel_f1max")


def own_folders(root: Path) -> Path:
    for i in range(4):
        parts.write(root / f"train/normal/{i}.png", parts.surface(i))
    for i in range(2):
        parts.write(root / f"test/normal/{i}.png", parts.surface(9 + i))
        image, mask = parts.scratched(20 + i)
        parts.write(root / f"test/anomaly/scratch/{i}.png", image)
        parts.write(root / f"ground_truth/anomaly/scratch/{i}_mask.png", mask)
    return root


def listed(root: Path) -> Path:
    home = own_folders(root / "images")
    rows = ["path,split,label,defect,mask,group"]
    rows += [f"images/train/normal/{i}.png,train,0,,," for i in range(4)]
    rows += [f"images/test/normal/{i}.png,test,0,,,good part" for i in range(2)]
    rows += [
        f"images/test/anomaly/scratch/{i}.png,test,1,scratch,images/ground_truth/anomaly/scratch/{i}_mask.png,bad part"
        for i in range(2)
    ]
    file = home.parent / "parts.csv"
    file.write_text("\n".join(rows) + "\n")
    return file


def prepared(root: Path) -> Path:
    trees_others.visa_prepared(root / "visa_pytorch" / "1cls")
    return root


LOCO_KINDS = ("logical_anomalies", "structural_anomalies")
VISA_KINDS = ("chunk of wax missing", "foreign particals on candle", "melded", "melded,weird candle wick")
LAYOUTS = {
    "mvtec": Layout("mvtec", "bottle", trees_mvtec.mvtec_ad, (3, 2, 6), trees_mvtec.AD_KINDS["bottle"]),
    "mvtec_loco": Layout("mvtec_loco", "pushpins", trees_mvtec.mvtec_loco, (4, 2, 5), LOCO_KINDS, validation=2),
    "mvtec_ad2": Layout("mvtec_ad2", "vial", trees_mvtec.mvtec_ad2, (3, 12, 12), ("bad",), validation=2),
    "visa": Layout("visa", "candle", trees_others.visa_original, (4, 2, 4), VISA_KINDS),
    "visa 2cls": Layout(
        "visa",
        "candle",
        trees_others.visa_original,
        (3, 3, 3),
        VISA_KINDS[:2] + VISA_KINDS[3:],
        ("--split", "2cls_fewshot"),
        left_out=1,
    ),
    "visa_pytorch": Layout("visa", "candle", prepared, (4, 2, 4), ("bad",)),
    "btad": Layout("btad", "03", trees_others.btad, (3, 2, 2), ("ko",)),
    "folder": Layout("folder", "parts", own_folders, (4, 2, 2), ("scratch",)),
    "manifest": Layout("manifest", "parts", listed, (4, 2, 2), ("scratch",), groups=True),
    "class masks": Layout(
        "folder",
        "parts",
        trees_class_masks.neu_seg,
        (3, 2, 3),
        ("inclusion", "inclusion,scratches", "scratches"),
        left_out=1,
        files={
            "by_mask": True,
            "train": "images/training/*.jpg",
            "test": "images/test/*.jpg",
            "mask": "annotations/{parent}/{stem}.png",
            "classes": list(trees_class_masks.CLASSES),
        },
    ),
}
NO_MASK = "{root}/%s: no mask at {root}/%s\n  Their pixels are left out of the pixel metrics and counted."
OTHER_CASE = "{root}/%s: no such folder; there is {root}/%s\n  Case counts in the names of folders: rename it to %s."


def gone(place: str) -> Callable[[Path], object]:
    """A folder or file that is not there."""
    return lambda root: shutil.rmtree(root / place) if (root / place).is_dir() else (root / place).unlink()


def called(place: str, other: str) -> Callable[[Path], object]:
    """A folder that is called otherwise."""
    return lambda root: (root / place).rename((root / place).with_name(other))


DAMAGES: dict[str, tuple[Damage, ...]] = {
    "mvtec": (
        Damage("missing folder", gone("bottle/train"), "{root}/bottle/train/good: no such folder\n"),
        Damage(
            "missing mask",
            gone("bottle/ground_truth/broken_large/000_mask.png"),
            NO_MASK % ("bottle/test/broken_large/000.png", "bottle/ground_truth/broken_large/000_mask.png"),
            ends=False,
        ),
        Damage("wrong case", called("bottle/test", "Test"), OTHER_CASE % ("bottle/test", "bottle/Test", "test")),
        Damage(
            "wrong case of the masks",
            called("bottle/ground_truth", "Ground_Truth"),
            OTHER_CASE % ("bottle/ground_truth/broken_large", "bottle/Ground_Truth", "ground_truth"),
        ),
    ),
    "mvtec_loco": (
        Damage(
            "wrong case of the validation images",
            called("pushpins/validation", "Validation"),
            OTHER_CASE % ("pushpins/validation", "pushpins/Validation", "validation"),
        ),
        Damage(
            "wrong case of the masks",
            called("pushpins/ground_truth", "Ground_truth"),
            OTHER_CASE % ("pushpins/ground_truth/logical_anomalies", "pushpins/Ground_truth", "ground_truth"),
        ),
        Damage("missing folder", gone("pushpins/test"), "{root}/pushpins/test: no such folder\n"),
        Damage(
            "missing masks",
            gone("pushpins/ground_truth/logical_anomalies/001"),
            NO_MASK
            % ("pushpins/test/logical_anomalies/001.png", "pushpins/ground_truth/logical_anomalies/001/000.png"),
            ends=False,
        ),
        Damage(
            "wrong case",
            called("pushpins/test/logical_anomalies", "Logical_Anomalies"),
            OTHER_CASE % ("pushpins/test/logical_anomalies", "pushpins/test/Logical_Anomalies", "logical_anomalies"),
        ),
    ),
    "mvtec_ad2": (
        Damage(
            "missing folder",
            gone("vial/test_public"),
            "{root}/vial/test_public: no such folder\n  vial has the splits: test_private, test_private_mixed\n",
        ),
        Damage(
            "missing mask",
            gone("vial/test_public/ground_truth/bad/000_regular_mask.png"),
            NO_MASK
            % ("vial/test_public/bad/000_regular.png", "vial/test_public/ground_truth/bad/000_regular_mask.png"),
            ends=False,
        ),
        Damage(
            "wrong case",
            called("vial/train/good", "Good"),
            "{root}/vial/train/Good would be a kind of defect; good images lie in good/\n  Rename it to good, or",
        ),
    ),
    "visa": (
        Damage(
            "missing folder",
            gone("candle/Data/Images/Normal"),
            "{root}/split_csv/1cls.csv:2: {root}/candle/Data/Images/Normal/0003.JPG: no such file\n",
        ),
        Damage(
            "missing mask",
            gone("candle/Data/Masks/Anomaly/001.png"),
            NO_MASK % ("candle/Data/Images/Anomaly/001.JPG", "candle/Data/Masks/Anomaly/001.png"),
            ends=False,
        ),
        Damage(
            "wrong case",
            called("candle/Data", "data"),
            OTHER_CASE % ("candle/Data/Images/Normal", "candle/data", "Data"),
        ),
    ),
    "visa_pytorch": (
        Damage(
            "missing folder",
            gone("visa_pytorch/1cls/candle/test"),
            "{root}/visa_pytorch/1cls/candle/test: no such folder\n  It must hold good/ and bad/.\n",
        ),
        Damage(
            "missing mask",
            gone("visa_pytorch/1cls/candle/ground_truth/bad/001.png"),
            NO_MASK
            % ("visa_pytorch/1cls/candle/test/bad/001.JPG", "visa_pytorch/1cls/candle/ground_truth/bad/001.png"),
            ends=False,
        ),
        Damage(
            "wrong case",
            called("visa_pytorch/1cls/candle/test", "Test"),
            OTHER_CASE % ("visa_pytorch/1cls/candle/test", "visa_pytorch/1cls/candle/Test", "test"),
        ),
    ),
    "btad": (
        Damage("missing folder", gone("03/train"), "{root}/03/train/ok: no such folder\n"),
        Damage(
            "missing mask",
            gone("03/ground_truth/ko/000.bmp"),
            NO_MASK % ("03/test/ko/000.bmp", "03/ground_truth/ko/000.png"),
            ends=False,
        ),
        Damage("wrong case", called("03/test/ko", "KO"), OTHER_CASE % ("03/test/ko", "03/test/KO", "ko")),
    ),
    "folder": (
        Damage(
            "missing folder",
            gone("train"),
            "{root} has no folder layout: expected {root}/train/normal, or the same in its sub-folders, found "
            "ground_truth/, test/\n",
        ),
        Damage(
            "missing mask",
            gone("ground_truth/anomaly/scratch/0_mask.png"),
            NO_MASK % ("test/anomaly/scratch/0.png", "ground_truth/anomaly/scratch/0_mask.png"),
            ends=False,
        ),
        Damage("another name", called("test", "tests"), "{root}/test: no such folder\n"),
    ),
    "manifest": (
        Damage(
            "missing folder",
            lambda file: shutil.rmtree(file.parent / "images/train"),
            "{root}:2: {around}/images/train/normal/0.png: no such file\n",
        ),
        Damage(
            "missing mask",
            lambda file: (file.parent / "images/ground_truth/anomaly/scratch/0_mask.png").unlink(),
            "{around}/images/test/anomaly/scratch/0.png: no mask at "
            "{around}/images/ground_truth/anomaly/scratch/0_mask.png\n",
            ends=False,
        ),
    ),
    "class masks": (
        Damage("missing folder", gone("images/training"), "train = 'images/training/*.jpg' matches no image below"),
        Damage(
            "missing mask",
            gone("annotations/test/000103.png"),
            "{root}/images/test/000103.jpg: no mask at {root}/annotations/test/000103.png",
        ),
        Damage("wrong case", called("images/test", "Test"), "test = 'images/test/*.jpg' matches no image below"),
    ),
}
for trees in (
    trees_class_masks,
    trees_kolektor,
    trees_autovi,
    trees_mvtec_like,
    trees_real_iad,
    trees_listed,
):
    LAYOUTS |= trees.LAYOUTS
    DAMAGES |= trees.DAMAGES
HURT = [(name, damage) for name, damages in DAMAGES.items() for damage in damages]


# What need not be there: sets without masks, rows that name every file, and layouts read by the same lines as one that
# has it all.
SPARED = {
    "missing folder": {
        *("visa 2cls", "autovi, one kind", "kolektorsdd fold_1", "magnetic_tile one shot", "datumaro subsets"),
    },
    "missing mask": {
        *("visa 2cls", "real_iad single_view", "magnetic_tile one shot", "bmad without masks", "vad"),
        *("kaputt", "kaputt of the first release", "datumaro", "datumaro subsets"),
    },
    "wrong case": {
        *("visa 2cls", "folder", "manifest", "autovi, one kind", "kolektorsdd fold_1"),
        *("magnetic_tile one shot", "kaputt of the first release", "datumaro subsets"),
    },
}


@pytest.mark.parametrize("what", SPARED)
def test_each_layout_is_damaged_in_each_way(what):
    damaged = {name for name, damages in DAMAGES.items() if any(damage.what.startswith(what) for damage in damages)}
    assert set(LAYOUTS) - damaged == SPARED[what]


def test_every_kind_of_data_set_is_here():
    assert {layout.name for layout in LAYOUTS.values()} == set(DATASETS) - {"demo"}


@pytest.mark.parametrize("name", LAYOUTS)
def test_counts_labels_and_masks_of_every_layout(tmp_path, name):
    layout = LAYOUTS[name]
    dataset = layout.load(layout.build(tmp_path / "parts"))
    labels = [sample.label for sample in dataset.test]
    assert (len(dataset.train), labels.count(0), labels.count(1)) == layout.counts
    assert len(labels) == sum(layout.counts[1:])
    assert (len(dataset.validation), len(dataset.left_out)) == (layout.validation, layout.left_out)
    assert {sample.label for sample in (*dataset.train, *dataset.validation)} == {0}
    assert {sample.defect for sample in dataset.test if sample.label == 1} == set(layout.kinds)
    assert dataset.has_masks == layout.masks
    assert not dataset.missing_masks()
    for sample in dataset.test:
        mask = load_mask(sample)
        if sample.label == 0:
            assert not mask.any()
            assert mask.shape == image_size(sample.path)
        elif layout.masks:
            assert 0 < mask.sum() < mask.size
            assert mask.shape == image_size(sample.path)
        else:
            assert mask is None
    everything = (*dataset.train, *dataset.validation, *dataset.test, *dataset.left_out)
    assert len({sample.path for sample in everything}) == len(everything)
    for part in (dataset.train, dataset.validation, dataset.test):
        assert [sample.relative for sample in part] == sorted(sample.relative for sample in part)


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_bench_of_every_layout(uadctl, tmp_path, name):
    layout = LAYOUTS[name]
    root = layout.build(tmp_path / "parts")
    paint(root, layout)
    ended = uadctl(*layout.bench(root), "--set", "metrics.bootstrap=50", "--json")
    cell = ended.json["results"][layout.category]["vision_patchcore"]["0"]
    counts = cell["counts"]
    assert (counts["train_images"], counts["normal_images"], counts["defect_images"]) == layout.counts
    assert tuple(cell["by_defect"]) == tuple(sorted(layout.kinds))
    protocol = PROTOCOLS[DATASETS[layout.name].measured_by]
    assert f'protocol = "{protocol.name}"\n' in (Path(ended.json["run"]) / "spec.toml").read_text()
    for metric in (*protocol.metrics, *protocol.own, *PIXEL, "image_auroc"):
        if metric.startswith("group_") and not layout.groups:
            assert (cell["metrics"][metric], cell["reasons"][metric]) == (None, "no image has a group")
        elif layout.masks or not metric.startswith(("pixel_", "aupro_", "spro_")):
            assert 0 <= cell["metrics"][metric] <= 1, metric
            low, high = cell["intervals"][metric]
            assert 0 <= low <= high <= 1, metric
        else:
            assert cell["metrics"][metric] is None, metric
            assert cell["reasons"][metric], metric
    assert ("group_auroc" in cell["metrics"]) == (layout.groups or "group_auroc" in protocol.metrics)
    assert ("group_f1max" in cell["metrics"]) == layout.groups
    assert counts["train_defects_left_out"] == layout.left_out


@pytest.mark.parametrize(("name", "damage"), HURT, ids=[f"{name}: {damage.what}" for name, damage in HURT])
def test_what_is_wrong_with_a_layout_is_said(uadctl, tmp_path, name, damage):
    layout = LAYOUTS[name]
    root = layout.build(tmp_path / "parts")
    paint(root, layout)
    damage.hurt(root)
    message = damage.message.format(root=root, around=root.parent)
    checked = uadctl(*layout.check(root), code=2 if damage.ends else 0)
    assert message in checked.err
    benched = uadctl(*layout.bench(root), code=None)
    if damage.ends:
        assert benched.code in (1, 2)
        assert message in benched.err
    else:
        assert benched.code == 0
        said = message.partition("\n")[0].removeprefix("warning: ").removeprefix("note: ")
        assert (said if damage.told is None else damage.told.format(root=root, around=root.parent)) in benched.err


def test_a_split_without_ground_truth_is_scored_and_its_metrics_are_null(uadctl, tmp_path):
    layout = LAYOUTS["mvtec_ad2"]
    root = layout.build(tmp_path / "parts")
    paint(root, layout)
    words = ["--dataset", "mvtec_ad2", "--root", root, "--category", "vial", "--split", "test_private"]
    ended = uadctl("bench", *words, "--model", "patchcore", "--set", "preprocess.size=64", "--json")
    cell = ended.json["results"]["vial"]["vision_patchcore"]["0"]
    assert cell["success"]
    assert set(cell["metrics"].values()) == {None}
    assert set(cell["reasons"].values()) == {"the split has no ground truth (3 images)"}
    assert cell["by_defect"] == {}
    maps = Path(ended.json["run"]) / "units/vial/vision_patchcore/0/maps/test_private"
    assert sorted(p.name for p in maps.iterdir()) == [f"{i:03}_regular.tiff" for i in range(3)]


# What is read as another data set as well, since nothing in its layout differs: MPDD is MVTec AD's with other categories.
READ_ALL_THE_SAME = {("mvtec", "mpdd")}


@pytest.fixture(scope="module")
def roots(tmp_path_factory):
    """The root of each layout. Read them, do not change them."""
    home = tmp_path_factory.mktemp("layouts")
    return {name: layout.build(home / name.replace(" ", "_") / "parts") for name, layout in LAYOUTS.items()}


def load_first(name, root):
    """A category that is there: nearly every folder has a layout of one's own folders, as far as categories go."""
    load_dataset(name, str(root), category=list_categories(name, str(root))[0])


@pytest.mark.parametrize("there", LAYOUTS)
def test_a_data_set_that_is_another_one_is_named(roots, there):
    name = LAYOUTS[there].name
    for asked in sorted({layout.name for layout in LAYOUTS.values()} - {name}):
        if (asked, name) in READ_ALL_THE_SAME:
            assert list_categories(asked, str(roots[there]))
            continue
        with pytest.raises(DataError) as error:
            load_first(asked, roots[there])
        if name in ("folder", "manifest"):  # what is one's own looks like no data set
            continue
        said = str([(problem.message, problem.help) for problem in error.value.problems])
        assert f"It looks like {name}: give that name in place of {asked}." in said, (asked, said)


@pytest.mark.parametrize("there", LAYOUTS)
def test_a_folder_is_recognised_as_one_data_set_only(roots, there):
    found = recognise(str(roots[there]))
    name = LAYOUTS[there].name
    assert found == ([] if name in ("folder", "manifest") else [name])


def test_the_message_of_another_data_set_is_that_of_the_command(uadctl, roots):
    ended = uadctl("datasets", "check", "btad", "--root", roots["visa"], code=2)
    assert ended.err.endswith("\n  It looks like visa: give that name in place of btad.\n"), ended.err


def test_the_metrics_of_every_protocol_are_in_the_schema_and_may_be_gated():
    specs = Path(__file__).parents[1] / "specs"
    gate = json.loads((specs / "spec.schema.json").read_text())["properties"]["gate"]["properties"]
    names = {name for protocol in PROTOCOLS.values() for name in (*protocol.metrics, *protocol.own)}
    assert len(names) >= 11
    assert {name for name in names if not name.startswith("aupro_")} <= set(gate)


def test_a_figure_that_is_undefined_for_one_kind_says_why(uadctl, tmp_path):
    layout = LAYOUTS["mvtec_loco"]
    root = layout.build(tmp_path / "parts")
    paint(root, layout)
    (root / "pushpins/defects_config.json").unlink()
    words = ["--dataset", "loco", "--root", root, "--category", "pushpins", "--model", "patchcore"]
    cell = uadctl("bench", *words, "--set", "preprocess.size=64", "--json").json
    cell = cell["results"]["pushpins"]["vision_patchcore"]["0"]
    spro = ("spro_05", "spro_05_logical", "spro_05_structural")
    assert [cell["metrics"][name] for name in spro] == [None] * 3
    assert {cell["reasons"][name] for name in spro} == {"the category has no defects_config.json"}
    assert cell["metrics"]["image_auroc"] == np.mean(
        [cell["metrics"]["image_auroc_logical"], cell["metrics"]["image_auroc_structural"]]
    )


def test_a_mask_that_no_entry_of_the_configuration_names_is_found_before_and_during_a_bench(uadctl, tmp_path):
    layout = LAYOUTS["mvtec_loco"]
    root = layout.build(tmp_path / "parts")
    paint(root, layout)
    mask = trees_mvtec.mask(root / "pushpins/ground_truth/logical_anomalies/001/000.png", value=7)
    words = ["--root", root, "--category", "pushpins"]
    message = f"{mask} has the value 7, defects_config.json has 253, 254, 255\n"
    assert message in uadctl("datasets", "check", "mvtec_loco", *words, code=2).err
    words += ["--dataset", "mvtec_loco", "--model", "patchcore", "--set", "preprocess.size=64"]
    assert message in uadctl("bench", *words, code=1).err
    skipped = uadctl("bench", *words, "--set", "dataset.on_error=skip", "--json")
    counts = skipped.json["results"]["pushpins"]["vision_patchcore"]["0"]["counts"]
    assert (counts["defect_images"], counts["defect_images_without_mask"]) == (5, 1)
