"""timm's networks by name: described without weights, computing what timm computes, at any size they can take."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from test_layers import loaded_by

from uadctl.errors import BackendMissing, SpecError, WeightsError
from uadctl.features.backbone import Backbone
from uadctl.spec.registry import find_backbone, resolve_backbone

timm = pytest.importorskip("timm", reason="the extra timm is not installed")

IMAGES = np.random.default_rng(0).integers(0, 256, (2, 96, 128, 3), dtype=np.uint8)


def normalised(name: str, images: np.ndarray = IMAGES) -> torch.Tensor:
    entry = resolve_backbone(name)
    x = torch.from_numpy(images).permute(0, 3, 1, 2).float()
    return (x - torch.tensor(entry.mean)[:, None, None]) / torch.tensor(entry.std)[:, None, None]


def reference(name: str, seed: int, **options):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return timm.create_model(name.removeprefix("timm:"), pretrained=False, **options).eval()


def test_a_convolutional_network_is_described():
    entry = resolve_backbone("timm:test_resnet")
    assert entry.name == "timm:test_resnet.r160_in1k"
    assert entry.layers == ("layer2", "layer3")
    assert entry.channels == {"act1": 32, "layer1": 32, "layer2": 48, "layer3": 192, "layer4": 96}
    assert entry.strides == {"act1": 2, "layer1": 4, "layer2": 8, "layer3": 16, "layer4": 32}
    assert (entry.mean, entry.std) == ((127.5,) * 3, (127.5,) * 3)
    weights = entry.weights
    assert weights.file == "timm-test_resnet.r160_in1k.safetensors"
    assert weights.url == "https://huggingface.co/timm/test_resnet.r160_in1k/resolve/main/model.safetensors"
    assert (weights.sha256, weights.licence) == ("", "apache-2.0")
    # The name that goes into a record is found again.
    assert resolve_backbone(entry.name).name == entry.name


def test_a_transformer_is_described():
    entry = resolve_backbone("timm:vit_small_patch14_dinov2.lvd142m")
    assert entry.name == "timm:vit_small_patch14_dinov2.lvd142m"
    assert entry.layers == ("norm",)
    assert tuple(entry.channels) == (*(f"blocks.{i}" for i in range(12)), "norm")
    assert set(entry.channels.values()) == {384}
    assert set(entry.strides.values()) == {14}
    assert entry.weights.licence == "apache-2.0"
    # One whose norm comes after pooling has no norm of patches.
    assert resolve_backbone("timm:test_vit2").layers == ("blocks.7",)


@pytest.mark.parametrize(
    "name", ["nothing", "resnet18.nothing", "hf_hub:timm/test_vit.r160_in1k", "hf-hub:x", "a/b", ""]
)
def test_what_timm_has_not_is_none_and_asks_no_network(name, monkeypatch):
    import socket

    monkeypatch.setattr(socket, "getaddrinfo", None)
    assert find_backbone(f"timm:{name}") is None
    with pytest.raises(SpecError) as caught:
        resolve_backbone(f"timm:{name}")
    assert caught.value.message == f'"timm:{name}": no such model of timm'


def test_without_timm_the_command_is_said(monkeypatch):
    import sys

    from uadctl.features import timm_models

    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(
        BackendMissing, match=r"^timm:x needs timm, which is not installed\. Install it with: pip install"
    ):
        timm_models.describe("x")


def test_describing_makes_no_tensors():
    from uadctl.features import timm_models

    resolve_backbone("timm:test_convnext")
    assert {p.device.type for p in timm_models._empty("test_convnext.r160_in1k").parameters()} == {"meta"}


def test_a_name_without_prefix_imports_no_timm():
    lines = ("from uadctl.spec.registry import find_backbone", "assert find_backbone('resnet18')")
    assert not {"timm", "torch"} & loaded_by(*lines)


@pytest.mark.parametrize(
    "name",
    ["test_resnet", "test_efficientnet", "test_efficientnet_ln", "test_convnext", "test_byobnet", "test_nfnet", "test_mambaout"],
)  # fmt: skip
def test_features_of_stages_are_timms(name):
    entry = resolve_backbone(f"timm:{name}")
    layers = tuple(entry.channels)
    backbone = Backbone(f"timm:{name}", layers=layers, pretrained=False, seed=4)
    ours = backbone(IMAGES)
    network = reference(name, 4, num_classes=0, features_only=True)
    assert network.feature_info.module_name() == list(layers)
    # The same tensors under timm's own names, where its feature networks flatten them.
    state = {key.removeprefix("body."): value for key, value in backbone.state().items()}
    flat = {
        key: next(v for k, v in state.items() if k.replace(".", "_") == key.replace(".", "_"))
        for key in network.state_dict()
    }
    network.load_state_dict(flat)
    with torch.inference_mode():
        theirs = network(normalised(f"timm:{name}"))
    for layer, mine, other in zip(layers, ours, theirs, strict=True):
        assert mine.shape == (2, entry.channels[layer], 96 // entry.strides[layer], 128 // entry.strides[layer])
        if getattr(network, "output_fmt", "NCHW") == "NHWC":
            other = other.permute(0, 3, 1, 2)
        torch.testing.assert_close(mine, other, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["test_vit", "test_vit2", "test_vit3"])
def test_features_of_blocks_are_timms(name):
    entry = resolve_backbone(f"timm:{name}")
    layers = tuple(layer for layer in entry.channels if layer in ("blocks.1", "blocks.5", *entry.layers))
    backbone = Backbone(f"timm:{name}", layers=layers, pretrained=False, seed=4)
    ours = backbone(IMAGES)
    network = reference(name, 4, num_classes=0, dynamic_img_size=True)
    full = {key.removeprefix("body."): value for key, value in backbone.state().items()}
    network.load_state_dict(full, strict=False)
    blocks = [len(network.blocks) - 1 if layer == "norm" else int(layer.removeprefix("blocks.")) for layer in layers]
    with torch.inference_mode():
        for mine, layer, block in zip(ours, layers, blocks, strict=True):
            (other,) = network.forward_intermediates(
                normalised(f"timm:{name}"), indices=[block], norm=layer == "norm", intermediates_only=True
            )
            assert mine.shape == (2, entry.channels[layer], 6, 8)
            torch.testing.assert_close(mine, other, rtol=1e-5, atol=1e-5)


def test_the_network_is_cut_after_the_last_layer_used():
    cut = Backbone("timm:test_vit", layers=("blocks.1",), pretrained=False)
    blocks = {key.split(".")[2] for key in cut.state() if key.startswith("body.blocks.")}
    assert blocks == {"0", "1"}
    assert not any(key.startswith(("body.norm.", "body.head")) for key in cut.state())
    assert any(key.startswith("body.norm.") for key in Backbone("timm:test_vit", pretrained=False).state())
    stages = Backbone("timm:test_resnet", layers=("layer2",), pretrained=False).state()
    assert not any(key.startswith(("body.layer3", "body.fc")) for key in stages)


def test_sides_that_are_no_multiple_of_a_patch_are_brought_to_one():
    backbone = Backbone("timm:test_vit", pretrained=False)
    images = np.full((1, 70, 131, 3), 90, np.uint8)
    (features,) = backbone(images)
    assert features.shape == (1, 64, 4, 8)  # the nearest: 64 x 128
    # An even image stays even when it is resized.
    (exact,) = backbone(np.full((1, 64, 128, 3), 90, np.uint8))
    torch.testing.assert_close(features, exact, rtol=1e-4, atol=1e-4)
    assert backbone(np.zeros((1, 5, 5, 3), np.uint8))[0].shape == (1, 64, 1, 1)


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("test_vit_relpos", r"Input height \(96\) doesn't match model \(160\)\."),
        ("test_coatnet", r"The size of tensor a \(48\) must match .*"),
    ],
)
def test_networks_for_one_size_say_so(name, why):
    full = resolve_backbone(f"timm:{name}").name
    with pytest.raises(SpecError, match=rf"^{full} takes no images of 96x128 \(height x width\): {why}$"):
        Backbone(f"timm:{name}", pretrained=False)(IMAGES)


@pytest.mark.parametrize("name", ["test_vit", "test_convnext"])
def test_a_file_of_the_hub_loads_by_timms_own_reading(name, tmp_path, monkeypatch):
    """From $UADCTL_WEIGHTS, as the hub keeps it: a safetensors file of the whole network, classifier and all."""
    from safetensors.torch import save_file

    network = reference(name, 7)
    entry = resolve_backbone(f"timm:{name}")
    save_file(network.state_dict(), tmp_path / entry.weights.file)
    monkeypatch.setenv("UADCTL_WEIGHTS", str(tmp_path))
    monkeypatch.setenv("UADCTL_OFFLINE", "1")
    backbone = Backbone(f"timm:{name}")
    assert backbone.weights["weights"] == "UADCTL_WEIGHTS"
    state = backbone.state()
    assert len(state) > 20
    assert all(torch.equal(value, network.state_dict()[key.removeprefix("body.")]) for key, value in state.items())


def test_a_file_of_its_authors_is_read_by_timms_filter(tmp_path):
    """ConvNeXt's own files name their tensors otherwise; position codes of another size are resampled."""
    network = reference("test_vit", 7)
    state = network.state_dict()
    state["pos_embed"] = torch.nn.functional.interpolate(state["pos_embed"][:, 1:].reshape(1, 10, 10, 64).permute(0, 3, 1, 2), size=(5, 5)).permute(0, 2, 3, 1).reshape(1, 25, 64)  # fmt: skip
    torch.save({"model": state}, tmp_path / "authors.pth")
    with pytest.raises(WeightsError, match="holds no state dict"):
        Backbone("timm:test_vit", weights=str(tmp_path / "authors.pth"))
    state["pos_embed"] = torch.cat([network.state_dict()["pos_embed"][:, :1], state["pos_embed"]], dim=1)
    torch.save(state, tmp_path / "authors.pth")
    found = Backbone("timm:test_vit", weights=str(tmp_path / "authors.pth")).state()["body.pos_embed"]
    assert found.shape == network.state_dict()["pos_embed"].shape


def test_absent_weights_name_the_command(monkeypatch, tmp_path):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.delenv("UADCTL_WEIGHTS", raising=False)
    monkeypatch.setenv("UADCTL_OFFLINE", "1")
    with pytest.raises(WeightsError) as caught:
        Backbone("timm:test_resnet")
    assert caught.value.message == (
        "timm:test_resnet.r160_in1k: the weights timm-test_resnet.r160_in1k.safetensors are not on this machine, "
        "and UADCTL_OFFLINE is set"
    )
    assert caught.value.help.startswith(
        "Get it with: uadctl models fetch timm:test_resnet.r160_in1k --to DIR, or from "
    )
    with pytest.raises(WeightsError, match="are not on this machine, and none are published$"):
        Backbone("timm:test_mambaout")


def test_a_bench_with_a_backbone_of_timm(uadctl):
    kwargs = json.dumps({"backbone": "timm:test_resnet", "coreset_ratio": 0.02})
    ended = uadctl(
        *("bench", "--dataset", "demo", "--category", "printed_part", "--model", "patchcore", "--no-pretrained"),
        *("--model-kwargs", kwargs, "--limit-train", 3, "--limit-test", 4, "--no-pixel", "--json"),
        *("--set", "preprocess.size=64"),
    )
    assert "weights are random" in ended.err
    (facts,) = Path("runs").glob("*/units/*/*/*/model/*.json")
    assert '"backbone": "timm:test_resnet"' in facts.read_text()
