"""Every layout, as its publisher ships it, from the command line to the numbers of its authors' protocol."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import parts
import pytest
import trees_mvtec
import trees_others

from uadctl.datasets import load_dataset, load_mask
from uadctl.imaging.files import image_size
from uadctl.spec import DATASETS, PROTOCOLS

PIXEL = ("pixel_auroc", "pixel_ap", "pixel_f1max")


@dataclass(frozen=True)
class Layout:
    """A data set on disk. build: writes it below a folder and returns its root.

    counts: training, good test and defect test images. kinds: of defect. options: further words of the command.
    """

    name: str
    category: str
    build: Callable[[Path], Path]
    counts: tuple[int, int, int]
    kinds: tuple[str, ...]
    options: tuple[str, ...] = ()


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
    "mvtec_loco": Layout("mvtec_loco", "pushpins", trees_mvtec.mvtec_loco, (4, 2, 5), LOCO_KINDS),
    "mvtec_ad2": Layout("mvtec_ad2", "vial", trees_mvtec.mvtec_ad2, (3, 12, 12), ("bad",)),
    "visa": Layout("visa", "candle", trees_others.visa_original, (4, 2, 4), VISA_KINDS),
    "visa 2cls": Layout(
        "visa",
        "candle",
        trees_others.visa_original,
        (3, 3, 3),
        VISA_KINDS[:2] + VISA_KINDS[3:],
        ("--split", "2cls_fewshot"),
    ),
    "visa_pytorch": Layout("visa", "candle", prepared, (4, 2, 4), ("bad",)),
    "btad": Layout("btad", "03", trees_others.btad, (3, 2, 2), ("ko",)),
    "folder": Layout("folder", "parts", own_folders, (4, 2, 2), ("scratch",)),
    "manifest": Layout("manifest", "parts", listed, (4, 2, 2), ("scratch",)),
}


def paint(root: Path, layout: Layout) -> None:
    """Noise in place of the trees' flat pictures, each its own, and white where a mask shows a defect."""
    split = dict(zip(layout.options[::2], layout.options[1::2], strict=True)).get("--split")
    dataset = load_dataset(layout.name, str(root), category=layout.category, split=split)
    for sample in (*dataset.train, *dataset.validation, *dataset.test, *dataset.left_out):
        size = image_size(sample.path)
        image = parts.surface(zlib.crc32(sample.relative.encode()), *size)
        mask = load_mask(sample) if sample.label == 1 else None
        if mask is not None:
            image[mask > 0] = 255
        parts.write(Path(sample.path), image)


def test_every_kind_of_data_set_is_here():
    assert {layout.name for layout in LAYOUTS.values()} == set(DATASETS) - {"demo"}


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_bench_of_every_layout(uadctl, tmp_path, name):
    layout = LAYOUTS[name]
    root = layout.build(tmp_path / "parts")
    paint(root, layout)
    words = ["--dataset", layout.name, "--root", root, "--category", layout.category, *layout.options]
    ended = uadctl(
        "bench",
        *words,
        "--model",
        "patchcore",
        "--set",
        "preprocess.size=64",
        "--set",
        "metrics.bootstrap=50",
        "--json",
    )
    cell = ended.json["results"][layout.category]["vision_patchcore"]["0"]
    counts = cell["counts"]
    assert (counts["train_images"], counts["normal_images"], counts["defect_images"]) == layout.counts
    assert tuple(cell["by_defect"]) == tuple(sorted(layout.kinds))
    protocol = PROTOCOLS[DATASETS[layout.name].measured_by]
    assert f'protocol = "{protocol.name}"\n' in (Path(ended.json["run"]) / "spec.toml").read_text()
    for metric in (*protocol.metrics, *protocol.own, *PIXEL, "image_auroc"):
        assert 0 <= cell["metrics"][metric] <= 1, metric
        low, high = cell["intervals"][metric]
        assert 0 <= low <= high <= 1, metric
    assert ("group_auroc" in cell["metrics"]) == (name == "manifest")
    assert counts["train_defects_left_out"] == (1 if name == "visa 2cls" else 0)
    table = uadctl("bench", *words, "--model", "patchcore", "--set", "preprocess.size=64").out
    assert table.splitlines()[-1].startswith("run: ")


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


def test_a_data_set_that_is_another_one_is_named(uadctl, tmp_path):
    roots = {name: layout.build(tmp_path / name.replace(" ", "_") / "parts") for name, layout in LAYOUTS.items()}
    wrong = [
        ("mvtec", "mvtec_loco"),
        ("mvtec", "mvtec_ad2"),
        ("mvtec", "btad"),
        ("mvtec_loco", "mvtec"),
        ("mvtec_ad2", "visa"),
        ("btad", "visa_pytorch"),
        ("visa", "btad"),
    ]
    for asked, there in wrong:
        ended = uadctl("datasets", "check", asked, "--root", roots[there], code=2)
        name = LAYOUTS[there].name
        assert ended.err.endswith(f"\n  It looks like {name}: give that name in place of {asked}.\n"), ended.err


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
