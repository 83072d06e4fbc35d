"""torchvision's networks by name: the table is torchvision's, and what they compute is what torchvision computes."""

from __future__ import annotations

import json
import os
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from torchvision.models import get_model, get_model_weights, list_models
from torchvision.models.feature_extraction import create_feature_extractor

from uadctl.features import torchvision_models
from uadctl.features.backbone import Backbone
from uadctl.spec import registry
from uadctl.spec.registry import BACKBONES, load_target, resolve_backbone

TABLE = Path(registry.__file__).with_name("torchvision.json")
MODELS = json.loads(TABLE.read_text(encoding="utf-8"))["models"]
# Set to write the table anew from the installed torchvision, in place of comparing it.
UPDATE = bool(os.environ.get("UADCTL_UPDATE_TABLES"))

OWN = {"resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "wide_resnet50_2", "wide_resnet101_2"}
# Fixed sizes of images, cells in no regular distance, or weights under another licence only (SWAG).
LEFT_OUT = {"inception_v3", "maxvit_t", "regnet_y_128gf", "vit_b_16", "vit_b_32", "vit_h_14", "vit_l_16", "vit_l_32"}

# One small network a family.
SMALL = (
    "alexnet",
    "convnext_tiny",
    "densenet121",
    "efficientnet_b0",
    "efficientnet_v2_s",
    "googlenet",
    "mnasnet0_5",
    "mobilenet_v2",
    "mobilenet_v3_small",
    "regnet_y_400mf",
    "resnext50_32x4d",
    "shufflenet_v2_x0_5",
    "squeezenet1_1",
    "swin_t",
    "swin_v2_t",
    "vgg11",
)
FAST = ("alexnet", "shufflenet_v2_x0_5", "squeezenet1_1")


def slow_but(names, fast):
    return [name if name in fast else pytest.param(name, marks=pytest.mark.slow) for name in names]


def candidates(name: str, network: torch.nn.Module) -> list[str]:
    """The ends of the stages of a network, as its family has them."""
    if name.startswith("densenet"):
        return [f"features.denseblock{i}" for i in (1, 2, 3, 4)]
    if name.startswith(("vgg", "alexnet")):
        pools = [i for i, module in enumerate(network.features) if isinstance(module, torch.nn.MaxPool2d)]
        return [f"features.{i - 1}" for i in pools]
    if name.startswith("squeezenet"):
        return [f"features.{i}" for i, module in enumerate(network.features) if type(module).__name__ == "Fire"]
    if name.startswith(("efficientnet", "mobilenet")):
        return [f"features.{i}" for i in range(len(network.features) - 1)]
    if name.startswith("mnasnet"):
        return [f"layers.{i}" for i in range(8, 14)]
    stages = {
        "convnext": [f"features.{i}" for i in (1, 3, 5, 7)],
        "swin": [f"features.{i}" for i in (1, 3, 5, 7)],
        "googlenet": ["conv3", "inception3b", "inception4e", "inception5b"],
        "regnet": [f"trunk_output.block{i}" for i in (1, 2, 3, 4)],
        "resnext": [f"layer{i}" for i in (1, 2, 3, 4)],
        "shufflenet": ["stage2", "stage3", "stage4"],
    }
    return next(found for start, found in stages.items() if name.startswith(start))


def described(name: str) -> dict[str, object]:
    """The row of the table that torchvision makes: the last stage at each stride, and its weights."""
    weights = get_model_weights(name).IMAGENET1K_V1
    with nullcontext() if name.startswith("regnet") else torch.device("meta"):
        options = {"aux_logits": False, "init_weights": False} if name == "googlenet" else {}
        network = get_model(name, weights=None, **options).eval()
        cut = create_feature_extractor(network, candidates(name, network), suppress_diff_warning=True).eval()
        maps = cut(torch.zeros(1, 3, 256, 192))
    stages: dict[int, tuple[str, int]] = {}
    for layer, features in maps.items():
        rows, columns, channels = (
            (*features.shape[1:3], features.shape[3])
            if name.startswith("swin")
            else (*features.shape[2:], features.shape[1])
        )
        stride = min((1, 2, 4, 8, 16, 32), key=lambda s: abs(256 / s - rows))
        assert abs(256 / stride - rows) <= 2
        assert abs(192 / stride - columns) <= 2
        stages[stride] = layer, channels
    stages.pop(1, None)  # pixels, and no patches yet
    row: dict[str, object] = {
        "family": MODELS[name]["family"],
        "file": weights.url.rpartition("/")[2],
        "layers": {layer: [channels, stride] for stride, (layer, channels) in sorted(stages.items())},
    }
    preset = weights.transforms()
    # With these weights GoogLeNet brings its input from this mean and deviation to 0.5 and 0.5 by itself.
    mean, std = ([0.5] * 3, [0.5] * 3) if name == "googlenet" else (list(preset.mean), list(preset.std))
    if mean != [0.485, 0.456, 0.406]:
        row |= {"mean": mean, "std": std}
    return row


def test_the_table_holds_every_network_of_torchvision_but_those_left_out():
    names = set(list_models(module=torchvision.models))
    assert len(MODELS) == 65
    assert set(MODELS) == names - OWN - LEFT_OUT
    assert {row["family"] for row in MODELS.values()} == set(json.loads(TABLE.read_text())["families"])


@pytest.mark.parametrize("name", slow_but(sorted(MODELS), FAST))
def test_the_table_is_torchvisions(name):
    found = described(name)
    if UPDATE:
        document = json.loads(TABLE.read_text(encoding="utf-8"))
        document["models"][name] = found
        lines = {
            part: ",\n".join(f"    {json.dumps(key)}: {json.dumps(row)}" for key, row in document[part].items())
            for part in ("families", "models")
        }
        TABLE.write_text(
            f'{{\n  "families": {{\n{lines["families"]}\n  }},\n  "models": {{\n{lines["models"]}\n  }}\n}}\n'
        )
    assert MODELS[name] == found


def test_entries_are_the_rows():
    entry = BACKBONES["densenet121"]
    assert entry.layers == ("features.denseblock2", "features.denseblock3")
    assert entry.channels["features.denseblock2"] == 512
    assert entry.strides == {f"features.denseblock{i}": 2 ** (i + 1) for i in (1, 2, 3, 4)}
    assert entry.weights.url == "https://download.pytorch.org/models/densenet121-a639ec97.pth"
    assert (entry.weights.sha256, entry.weights.licence, entry.family) == ("a639ec97", "BSD-3-Clause", "DenseNet")
    assert (BACKBONES["swin_t"].mean, BACKBONES["swin_t"].std) == (
        BACKBONES["resnet18"].mean,
        BACKBONES["resnet18"].std,
    )
    assert BACKBONES["googlenet"].mean == (127.5, 127.5, 127.5)
    assert BACKBONES["mnasnet0_5"].weights.sha256 == "3ffadce67e"
    assert BACKBONES["efficientnet_b0"].weights.licence == "Apache-2.0"
    for row in MODELS:
        entry = BACKBONES[row]
        assert [entry.strides[layer] for layer in entry.layers] == [8, 16]
        assert len(entry.weights.sha256) >= 8
        assert set(entry.weights.sha256) <= set("0123456789abcdef")


@pytest.mark.parametrize("name", slow_but(SMALL, FAST))
def test_features_are_torchvisions(name):
    """Against hooks on the whole network: cutting and in-place operations change nothing."""
    entry = resolve_backbone(name)
    images = np.random.default_rng(0).integers(0, 256, (2, 96, 128, 3), dtype=np.uint8)
    layers = tuple(entry.channels)
    backbone = Backbone(name, layers=layers, pretrained=False, seed=3)
    ours = backbone(images)
    with torch.random.fork_rng():
        torch.manual_seed(3)
        options = {"aux_logits": False, "init_weights": False} if name == "googlenet" else {}
        network = get_model(name, weights=None, **options).eval()
    found = {}
    for layer in layers:
        network.get_submodule(layer).register_forward_hook(
            lambda module, args, out, layer=layer: found.__setitem__(layer, out.clone())
        )
    x = torch.from_numpy(images).permute(0, 3, 1, 2).float()
    with torch.inference_mode():
        network((x - torch.tensor(entry.mean)[:, None, None]) / torch.tensor(entry.std)[:, None, None])
    for mine, layer in zip(ours, layers, strict=True):
        theirs = found[layer].permute(0, 3, 1, 2) if name.startswith("swin") else found[layer]
        assert mine.shape[1] == entry.channels[layer]
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-5)


def test_a_checkpoint_of_torchvision_loads_and_the_trunk_is_cut(tmp_path):
    network = get_model("shufflenet_v2_x0_5", weights=None)
    torch.save(network.state_dict(), tmp_path / "own.pth")
    cut = Backbone("shufflenet_v2_x0_5", layers=("stage2",), weights=str(tmp_path / "own.pth"))
    assert not any("stage3" in key or "fc" in key for key in cut.state())
    key = "body.stage2.0.branch1.0.weight"
    assert torch.equal(cut.state()[key], network.state_dict()[key.removeprefix("body.")])


def test_old_names_of_densenet_are_read():
    new = "body.features.denseblock1.denselayer12.norm2.running_mean"
    old = "features.denseblock1.denselayer12.norm.2.running_mean"
    tensor = torch.zeros(1)
    assert torchvision_models.convert({old: tensor}) == {new: tensor}
    assert torchvision_models.convert({new.removeprefix("body."): tensor}) == {new: tensor}
    shapes = load_target(BACKBONES["densenet121"].target)("densenet121", ("features.denseblock1",)).shapes()
    assert new.replace("12", "2") in shapes


def test_openvino_does_not_compute_them():
    pytest.importorskip("openvino", reason="the extra openvino is not installed")
    with pytest.raises(ValueError, match=r'^runtime "openvino" does not compute alexnet$'):
        Backbone("alexnet", pretrained=False, runtime="openvino")
