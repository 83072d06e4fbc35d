"""The programs of examples/ do what they show."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import pytest

from uadctl.datasets import demo
from uadctl.imaging import read_image, read_mask

EXAMPLES = Path(__file__).parent.parent / "examples"


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def offline(tmp_path, monkeypatch) -> None:
    """A machine without network, with a demo set of few images."""
    monkeypatch.setenv("UADCTL_OFFLINE", "1")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.delenv("UADCTL_WEIGHTS", raising=False)
    monkeypatch.setenv("UADCTL_CACHE", str(tmp_path / "cache"))
    for name in ("TRAIN_GOOD", "TEST_GOOD", "TEST_PER_DEFECT"):
        monkeypatch.setattr(demo, name, 2)


def test_anomalydino(offline, capsys):
    arguments = ["--no-pretrained", "--image-size", "56", "--limit", "4", "--device", "cpu"]
    assert load("anomalydino").main(arguments) == 0
    found = json.loads(capsys.readouterr().out)
    assert {"image_auroc", "image_ap", "image_f1max"} <= set(found["image_metrics"])
    assert {"pixel_auroc", "pixel_ap", "aupro_30"} <= set(found["pixel_metrics"])
    assert all(0 <= value <= 1 for value in (*found["image_metrics"].values(), *found["pixel_metrics"].values()))
    assert found["model"]["backbone"] == "dinov2_vits14"
    assert found["model"]["weights"] == "random"
    assert found["model"]["references"] == 2
    assert found["threshold"] > 0


def test_anomalydino_says_what_it_lacks(offline, capsys):
    assert load("anomalydino").main(["--limit", "1", "--device", "cpu"]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    first, *help_ = said.err.splitlines()
    assert first == (
        "error: dinov2_vits14: the weights dinov2_vits14_pretrain.pth are not on this machine, and UADCTL_OFFLINE is set"
    )
    assert help_[0].startswith("Get it with: uadctl models fetch dinov2_vits14 --to DIR")


def test_tiling(offline, capsys, tmp_path):
    out = tmp_path / "new" / "picture.png"
    arguments = ["--category", "woven_fabric", "--tile", "96", "--stride", "80", "--device", "cpu", "--out", str(out)]
    assert load("tiling").main(arguments) == 0
    said = capsys.readouterr()
    found = json.loads(said.out)
    assert said.err == ""
    assert found["score"] > found["threshold"] > 0
    mask = read_mask([found["image"].replace("/test/", "/ground_truth/").replace(".png", "_mask.png")])
    y, x = found["peak"]
    assert mask[max(0, y - 8) : y + 9, max(0, x - 8) : x + 9].any()
    assert found["tiling"] == "tiles of 96, stride 80, hann"
    assert read_image(out).shape[1] >= mask.shape[1]


def test_tiling_says_what_it_lacks(offline, capsys, tmp_path):
    assert load("tiling").main(["--category", "screws", "--device", "cpu", "--out", str(tmp_path / "x.png")]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("error: ")


def test_no_example_is_forgotten():
    # own_detector is run by test_every_detector.py.
    assert sorted(p.stem for p in EXAMPLES.glob("*.py")) == ["anomalydino", "own_detector", "tiling"]
