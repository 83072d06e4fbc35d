"""The runtime OpenVINO: the same features as torch, for every network and size, without a word to anybody."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from uadctl.errors import BackendMissing
from uadctl.features import openvino_runtime
from uadctl.features.backbone import Backbone, resolve_precision
from uadctl.spec.registry import BACKBONES

IMAGES = np.random.default_rng(0).integers(0, 256, (3, 70, 96, 3), dtype=np.uint8)


@pytest.fixture
def openvino():
    return pytest.importorskip("openvino", reason="the extra openvino is not installed")


def shift(mine: torch.Tensor, other: torch.Tensor) -> float:
    return float((mine - other).norm() / other.norm())


@pytest.mark.parametrize("name", ["efficientnet_lite0", "resnet18", "resnet50"])
def test_features_are_those_of_torch(name, openvino):
    layers = tuple(BACKBONES[name].channels)
    pretrained = name == "efficientnet_lite0"
    theirs = Backbone(name, layers=layers, pretrained=pretrained, runtime="openvino")
    ours = Backbone(name, layers=layers, pretrained=pretrained)
    assert (theirs.runtime, theirs.precision) == ("openvino", "fp32")
    found, expected = theirs(IMAGES), ours(IMAGES)
    assert len(found) == len(layers)
    for a, b in zip(found, expected, strict=True):
        assert a.shape == b.shape
        assert a.dtype == torch.float32
        assert a.is_contiguous(memory_format=torch.channels_last)
        assert shift(a, b) < 1e-4


def test_one_network_takes_every_size_and_number_of_images(openvino):
    theirs, ours = Backbone("efficientnet_lite0", runtime="openvino"), Backbone("efficientnet_lite0")
    for shape in ((1, 64, 64), (2, 65, 33), (5, 32, 97), (1, 64, 64)):
        images = np.random.default_rng(shape[0]).integers(0, 256, (*shape, 3), dtype=np.uint8)
        for a, b in zip(theirs(images), ours(images), strict=True):
            assert a.shape == b.shape
            assert shift(a, b) < 1e-4


def test_results_outlive_the_next_batch(openvino):
    backbone = Backbone("efficientnet_lite0", runtime="openvino")
    first = backbone(IMAGES)
    kept = [m.clone() for m in first]
    backbone(255 - IMAGES)
    assert all(torch.equal(a, b) for a, b in zip(first, kept, strict=True))


def test_bf16_gives_nearly_the_same_features(openvino):
    if not openvino_runtime.offers_bf16():
        pytest.skip("this processor has no bf16")
    exact = Backbone("resnet18", pretrained=False, runtime="openvino")(IMAGES)
    fast = Backbone("resnet18", pretrained=False, runtime="openvino", precision="bf16")
    assert fast.precision == resolve_precision("auto", device="cpu", runtime="openvino") == "bf16"
    for a, b in zip(fast(IMAGES), exact, strict=True):
        assert 1e-4 < shift(a, b) < 0.02


def test_auto_stays_exact_where_openvino_has_no_bf16(openvino, monkeypatch):
    monkeypatch.setattr(openvino_runtime, "offers_bf16", lambda: False)
    assert resolve_precision("auto", device="cpu", runtime="openvino") == "fp32"


def test_as_many_threads_as_torch_has(openvino):
    threads = torch.get_num_threads()
    try:
        for n in (1, 2):
            torch.set_num_threads(n)
            backbone = Backbone("efficientnet_lite0", runtime="openvino")
            backbone(IMAGES[:1])
            held = next(
                cell.cell_contents
                for cell in backbone._run.__closure__ or ()
                if isinstance(cell.cell_contents, openvino_runtime.OpenVINONetwork)
            )
            assert held._compiled.get_property("INFERENCE_NUM_THREADS") == n
    finally:
        torch.set_num_threads(threads)


def test_nothing_is_sent_to_anybody(openvino):
    """Importing openvino by itself starts a thread that reports it to its makers."""
    code = """
import socket, sys, threading

def refuse(*args, **kwargs):
    raise SystemExit("a connection was attempted")

socket.socket.connect = socket.create_connection = socket.getaddrinfo = refuse
import numpy as np
from uadctl.features.backbone import Backbone
Backbone("efficientnet_lite0", runtime="openvino")(np.zeros((1, 64, 64, 3), np.uint8))
assert "openvino" in sys.modules
assert not [name for name in sys.modules if name.startswith("openvino_telemetry")]
assert threading.active_count() == 1, threading.enumerate()
"""
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)


def test_without_the_package_the_message_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(BackendMissing) as caught:
        Backbone("efficientnet_lite0", runtime="openvino")
    assert caught.value.message == (
        "runtime \"openvino\" needs openvino, which is not installed. Install it with: pip install 'uadctl[openvino]'"
    )


@pytest.mark.parametrize("model", ["vision_patchcore", "vision_padim"])
@pytest.mark.parametrize("dry", [["--dry-run"], []])
def test_a_run_without_the_package_ends_before_any_work(small, uadctl, monkeypatch, model, dry):
    monkeypatch.setitem(sys.modules, "openvino", None)
    ended = uadctl("bench", *small, "--model", model, "--set", "model.params.runtime=openvino", *dry, code=2)
    assert ended.err == (
        'error: runtime "openvino" needs openvino, which is not installed. Install it with: '
        "pip install 'uadctl[openvino]'\n"
    )
    assert not Path("runs").exists()


@pytest.mark.parametrize("dry", [["--dry-run"], []])
def test_a_backbone_that_it_does_not_compute_is_said_before_any_work(openvino, small, uadctl, dry):
    words = [
        "--set",
        "model.params.runtime=openvino",
        "--set",
        "model.params.backbone=convnext_tiny",
        "--no-pretrained",
    ]
    ended = uadctl("bench", *small, *words, *dry, code=2)
    assert ended.err == 'error: runtime "openvino" does not compute convnext_tiny\n  Expected: torch.\n'
    assert not Path("runs").exists()
