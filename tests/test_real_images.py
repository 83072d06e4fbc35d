"""The default on real parts: what docs/results.md promises. Needs the folder of real images in $UADCTL_REALDATA."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from uadctl import run_benchmark

HOME = os.environ.get("UADCTL_REALDATA")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(HOME is None, reason="UADCTL_REALDATA is not set: no real images to measure on"),
]


def test_bottle_complete(tmp_path):
    result = run_benchmark(
        "mvtec", root=str(Path(HOME or "") / "mvtec_ad"), categories=["bottle"], run_dir=str(tmp_path)
    )
    cell = result.metrics["results"]["bottle"]["vision_patchcore"]["0"]
    assert cell["counts"]["images"] == 83
    assert cell["counts"]["pixels"] == 83 * 900 * 900
    metrics = cell["metrics"]
    assert metrics["image_auroc"] >= 0.98
    assert metrics["pixel_auroc"] >= 0.95
    assert metrics["aupro_30"] >= 0.90
    assert metrics["miss_rate"] <= 0.05
    assert metrics["false_alarm_rate"] <= 0.10


def test_reduced_categories_with_one_bit_masks(tmp_path):
    result = run_benchmark("mvtec", root=str(Path(HOME or "") / "mvtec_ad_reduced"), run_dir=str(tmp_path))
    assert sorted(result.metrics["results"]) == ["hazelnut_reduced", "transistor_reduced"]
    for category in result.metrics["results"].values():
        cell = category["vision_patchcore"]["0"]
        assert cell["counts"]["defect_images"] == 8
        assert cell["counts"]["regions"] >= 8
        assert cell["metrics"]["pixel_auroc"] >= 0.8


def test_one_data_set_by_three_loaders_gives_the_same_metrics_to_the_last_digit(uadctl, tmp_path):
    bottle = Path(HOME or "") / "mvtec_ad" / "bottle"
    defects = ("broken_large", "broken_small", "contamination")
    (tmp_path / "folder.toml").write_text(
        f"""
[dataset]
name = "folder"
root = "{bottle}"
[dataset.files]
train = "train/good/*.png"
normal = "test/good/*.png"
anomaly = ["{'", "'.join(f"test/{kind}/*.png" for kind in defects)}"]
mask = "ground_truth/{{parent}}/{{stem}}_mask.png"
"""
    )
    uadctl("datasets", "check", "mvtec", "--root", bottle, "--write-manifest", "bottle.csv")
    sources = {
        "mvtec": ["--dataset", "mvtec", "--root", bottle],
        "folder": ["folder.toml"],
        "manifest": ["--dataset", "manifest", "--root", "bottle.csv"],
    }
    fewer = ["--limit-train", "40", "--limit-test", "21", "--set", "metrics.bootstrap=200"]
    cells = {}
    for name, words in sources.items():
        found = uadctl("bench", *words, "--model", "patchcore", *fewer, "--json").json["results"]
        ((cell,),) = ([seeds["0"] for seeds in labels.values()] for labels in found.values())
        cells[name] = cell
    assert cells["mvtec"]["counts"]["defect_images"] >= 14
    assert sorted(cells["mvtec"]["by_defect"]) == list(defects)
    assert cells["folder"] == cells["mvtec"]
    assert cells["manifest"] == cells["mvtec"]
