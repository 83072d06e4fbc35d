"""The same spec on the same machine gives the same bytes; where that is not certain, run.json says why."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import parts
import pytest
import torch

from uadctl.features import backbone
from uadctl.runs.determinism import determinism
from uadctl.spec import RunSpec, read_spec

SPEC = """
[run]
name = "twice"
threads = 1
device = "cpu"

[dataset]
name = "mvtec"
root = "{root}"

[preprocess]
resize = [32, 32]

[metrics]
bootstrap = 20

[[model]]
name = "vision_patchcore"

[[model]]
name = "vision_padim"
params = {{ n_features = 8 }}

[[model]]
name = "vision_anomalydino"
params = {{ backbone = "efficientnet_lite0", masking = "off", image_size = "given", rotation = "on" }}

[[model]]
name = "vision_ecod"
params = {{ features = "histogram" }}
"""
MODELS = ("vision_anomalydino", "vision_ecod", "vision_padim", "vision_patchcore")


def bytes_of(run: Path) -> dict[str, bytes]:
    """Every file of a run that has no clock values in it."""
    clocks = ("run.json", "timing.json")
    return {
        p.relative_to(run).as_posix(): p.read_bytes() for p in run.rglob("*") if p.is_file() and p.name not in clocks
    }


def test_two_processes_write_the_same_bytes(tmp_path):
    pytest.importorskip("pyod", reason="PyOD is not installed: pip install 'uadctl[pyod]'")
    parts.write_category(tmp_path / "data", "tile", size=(32, 32))
    (tmp_path / "twice.toml").write_text(SPEC.format(root=tmp_path / "data"))
    runs = []
    for seed in ("1", "4711"):
        folder = tmp_path / seed
        folder.mkdir()
        done = subprocess.run(
            [sys.executable, "-m", "uadctl", "bench", str(tmp_path / "twice.toml"), "--set", f"run.dir={folder}"],
            cwd=tmp_path,
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        (run,) = folder.iterdir()
        runs.append(run)
    first, second = map(bytes_of, runs)
    for found in (first, second):
        del found["spec.toml"]  # names the folder of the run
    assert {
        f"units/tile/{m}/0/{f}" for m in MODELS for f in ("metrics.json", "scores.csv", "model/model.safetensors")
    } < set(first)
    assert sum(name.endswith(".tiff") for name in first) == 3 * 5
    assert sorted(first) == sorted(second)
    assert [name for name in first if first[name] != second[name]] == []
    for run in runs:
        assert json.loads((run / "run.json").read_text())["determinism"] == {"same_bytes": True, "exceptions": []}


def spec_of(tmp_path: Path, model: str, run: str = "threads = 1") -> RunSpec:
    file = tmp_path / "one.toml"
    file.write_text(f'[run]\n{run}\n[dataset]\nname = "folder"\nroot = "."\n[model]\n{model}\n')
    return read_spec(file).spec


PATCHCORE = 'name = "vision_patchcore"'
FROZEN = {"backbone": "efficientnet_lite0", "device": "cpu", "runtime": "torch"}
FAISS = f'{PATCHCORE}\nparams = {{ knn_backend = "faiss" }}'


@pytest.mark.parametrize(
    ("model", "run", "facts", "exceptions"),
    [
        (PATCHCORE, "threads = 2", FROZEN, []),
        ('name = "vision_ecod"', 'batch_size = "auto"', {"features": "histogram"}, []),
        (FAISS, "threads = 1", FROZEN, []),
        (
            FAISS,
            "threads = 2",
            FROZEN,
            ["neighbours are found by faiss, which with several threads does not promise equal bits"],
        ),
        (
            PATCHCORE,
            'batch_size = "auto"',
            FROZEN | {"device": "cuda:1"},
            [
                "computed on cuda, where not every operation of torch adds its numbers in a fixed order",
                'batch_size = "auto" is measured, and the last bits of an image may depend on how many are beside it',
            ],
        ),
        (
            PATCHCORE,
            "seed = 3",
            FROZEN | {"device": "mps"},
            ["computed on mps, where nothing makes sure that numbers are added in a fixed order"],
        ),
        (
            PATCHCORE,
            "seed = 3",
            FROZEN | {"runtime": "openvino"},
            ["computed by OpenVINO, which does not promise equal bits"],
        ),
        (
            PATCHCORE,
            "seed = 3",
            {"computed_by": "ONNX Runtime 1.20"},
            ["computed by ONNX Runtime 1.20, which does not promise equal bits"],
        ),
        (PATCHCORE, "seed = 3", {"computed_by": "anomalib 2.1", "device": "cpu"}, []),
    ],
)
def test_what_cannot_be_made_certain_is_said(tmp_path, model, run, facts, exceptions):
    spec = spec_of(tmp_path, model, run)
    label = spec.models[0].label
    found = determinism(spec, {label: {"a": facts, "b": facts}}, ["another warning"])
    assert found == {"same_bytes": not exceptions, "exceptions": [f"{label}: {why}" for why in exceptions]}


def test_on_cuda_and_only_there_torch_is_asked_for_a_fixed_order(monkeypatch):
    asked = []
    flags = SimpleNamespace(allow_tf32=True, benchmark=True, deterministic=False)
    monkeypatch.setattr(torch.backends, "cudnn", flags)
    monkeypatch.setattr(torch, "use_deterministic_algorithms", lambda on, warn_only: asked.append((on, warn_only)))
    monkeypatch.setattr(torch.utils, "deterministic", SimpleNamespace(fill_uninitialized_memory=True))
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "")
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG")
    for device in ("cpu", "mps"):
        backbone.settle(device)
    assert asked == []
    assert flags == SimpleNamespace(allow_tf32=True, benchmark=True, deterministic=False)
    assert "CUBLAS_WORKSPACE_CONFIG" not in os.environ
    backbone.settle("cuda:0")
    assert asked == [(True, True)]
    assert flags == SimpleNamespace(allow_tf32=False, benchmark=False, deterministic=True)
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    assert torch.utils.deterministic.fill_uninitialized_memory is False
