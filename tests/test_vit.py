"""DINOv2's networks against the authors' code as kornia carries it, against timm's, and from a clone's torch hub."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from uadctl.errors import SpecError, WeightsError
from uadctl.features import vit
from uadctl.features.backbone import Backbone
from uadctl.spec.registry import BACKBONES

NAMES = sorted(name for name in BACKBONES if name.startswith("dinov2_"))
TIMM = {"s": "small", "b": "base", "l": "large", "g": "giant"}


def small(monkeypatch, name: str, *, width: int, blocks: int = 2) -> str:
    """Register a DINOv2 that takes no time: as `name` says with or without registers, gated or not."""
    layers = (*(f"blocks.{i}" for i in range(blocks)), "norm")
    entry = dataclasses.replace(
        BACKBONES["dinov2_vits14"],
        name=name,
        channels=dict.fromkeys(layers, width),
        strides=dict.fromkeys(layers, 14),
    )
    monkeypatch.setitem(BACKBONES, name, entry)
    return name


def stirred(module: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """The module with random numbers added to all its tensors: no scale is 1 and no bias is 0."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    return module.eval()


def ours(name: str, state: dict[str, torch.Tensor], layers: tuple[str, ...]) -> torch.nn.Module:
    network = vit.build(name, layers).make()
    network.load_state_dict(vit.convert(state), strict=True)
    return network.eval()


def images(height: int, width: int) -> torch.Tensor:
    return torch.randn(1, 3, height, width, generator=torch.Generator().manual_seed(7))


def shift(mine: torch.Tensor, other: torch.Tensor) -> float:
    return float((mine - other).norm() / other.norm())


def tokens(field: torch.Tensor) -> torch.Tensor:
    """(B, D, h, w) as (B, h w, D)."""
    return field.flatten(2).transpose(1, 2)


# -- the same numbers as other implementations


@pytest.mark.parametrize(
    ("name", "reference", "options"),
    [
        ("dinov2_tiny", "vit_small_patch14_dinov2", {"embed_dim": 128, "num_heads": 2}),
        ("dinov2_tiny_reg", "vit_small_patch14_reg4_dinov2", {"embed_dim": 128, "num_heads": 2}),
        ("dinov2_vitg14_tiny", "vit_giant_patch14_dinov2", {"embed_dim": 192, "num_heads": 3}),
        ("dinov2_vitg14_tiny_reg", "vit_giant_patch14_reg4_dinov2", {"embed_dim": 192, "num_heads": 3}),
    ],
)
def test_equals_timm_at_the_grid_it_was_trained_on(name, reference, options, monkeypatch):
    timm = pytest.importorskip("timm", reason="the reference network comes from timm")
    small(monkeypatch, name, width=options["embed_dim"])
    theirs = stirred(timm.create_model(reference, depth=2, dynamic_img_size=True, **options))
    mine = ours(name, theirs.state_dict(), ("blocks.0", "blocks.1", "norm"))
    sizes = [(518, 518)]
    if name.endswith("_reg"):  # timm interpolates position embeddings as DINOv2 does with registers, for all
        sizes += [(84, 126), (14, 700)]
    for height, width in sizes:
        x = images(height, width)
        with torch.inference_mode():
            found = mine(x)
            raw = theirs.forward_intermediates(x, norm=False, intermediates_only=True)
            last = theirs.forward_features(x)[:, theirs.num_prefix_tokens :]
        assert [tuple(m.shape) for m in found] == [(1, options["embed_dim"], height // 14, width // 14)] * 3
        for field, other in zip(found, raw, strict=False):
            assert shift(field, other) < 1e-5
        assert shift(tokens(found[2]), last) < 1e-5


# kornia's import leaves warnings of its own dependencies behind; they are not ours to mend.
@pytest.mark.filterwarnings("ignore")
def test_equals_the_authors_code_at_every_grid(monkeypatch):
    theirs_of = pytest.importorskip(
        "kornia.feature.dedode.transformer.dinov2", reason="kornia carries the authors' code, without registers"
    )
    name = small(monkeypatch, "dinov2_tiny", width=128)
    options = {"embed_dim": 128, "num_heads": 2, "depth": 2, "init_values": 1.0, "block_chunks": 0}
    theirs = stirred(theirs_of.DinoVisionTransformer(img_size=518, patch_size=14, **options))
    mine = ours(name, theirs.state_dict(), ("norm",))
    for height, width in ((518, 518), (448, 448), (84, 126), (14, 14), (700, 28), (1036, 518)):
        x = images(height, width)
        with torch.inference_mode():
            expected = theirs.forward_features(x)["x_norm_patchtokens"]
            (found,) = mine(x)
        assert shift(tokens(found), expected) < 1e-5


def test_position_embeddings_are_stretched_by_a_tenth_of_a_patch_more():
    # Along one side, by hand: bicubic with a = -0.75 at ((i + 0.5) 37 / (n + 0.1)) - 0.5, ends repeated.
    trunk = vit.build("dinov2_vits14", ("blocks.0",))
    network = trunk.make()
    line = torch.sin(torch.arange(37.0))
    with torch.no_grad():
        network.pos_embed[:, 1:] = line.repeat_interleave(37)[None, :, None]
    found = vit._positions(network, trunk.make.args[0], (5, 37))[0, 1:].reshape(5, 37, -1)[:, 3, 0]

    def weight(x: float) -> float:
        x, a = abs(x), -0.75
        if x <= 1:
            return (a + 2) * x**3 - (a + 3) * x**2 + 1
        return a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a if x < 2 else 0.0

    expected = []
    for i in range(5):
        at = (i + 0.5) * 37 / 5.1 - 0.5
        first = int(np.floor(at))
        expected.append(sum(weight(at - j) * float(line[min(max(j, 0), 36)]) for j in range(first - 1, first + 3)))
    assert found.tolist() == pytest.approx(expected, abs=1e-4)


# -- tensors


@pytest.mark.parametrize("name", NAMES)
def test_timms_checkpoints_have_our_tensors(name):
    timm = pytest.importorskip("timm", reason="the reference networks come from timm")
    assert len(NAMES) == 8
    registers = "_reg4" if name.endswith("_reg") else ""
    with torch.device("meta"):
        state = timm.create_model(f"vit_{TIMM[name[10]]}_patch14{registers}_dinov2").state_dict()
    layers = tuple(BACKBONES[name].channels)
    published = {key: tuple(value.shape) for key, value in vit.convert(state).items()}
    assert vit.build(name, layers).shapes() == published


def test_a_published_checkpoint_loads_as_it_is():
    shapes = vit.build("dinov2_vits14_reg", ("norm",)).shapes()
    assert list(shapes)[:5] == [
        "cls_token",
        "pos_embed",
        "register_tokens",
        "patch_embed.proj.weight",
        "patch_embed.proj.bias",
    ]
    assert [key for key in shapes if key.startswith("blocks.11.")] == [
        f"blocks.11.{part}"
        for part in (
            *("norm1.weight", "norm1.bias", "attn.qkv.weight", "attn.qkv.bias", "attn.proj.weight", "attn.proj.bias"),
            *("ls1.gamma", "norm2.weight", "norm2.bias"),
            *("mlp.fc1.weight", "mlp.fc1.bias", "mlp.fc2.weight", "mlp.fc2.bias", "ls2.gamma"),
        )
    ]
    assert list(shapes)[-2:] == ["norm.weight", "norm.bias"]
    state = {key: torch.zeros(1) for key in (*shapes, "mask_token")}
    assert list(vit.convert(state)) == list(shapes)


def test_the_network_is_cut_after_the_last_layer_used():
    shapes = vit.build("dinov2_vits14", ("blocks.3", "blocks.5")).shapes()
    assert {key.split(".")[1] for key in shapes if key.startswith("blocks.")} == {str(i) for i in range(6)}
    assert "norm.weight" not in shapes
    assert BACKBONES["dinov2_vits14"].layers == ("norm",)


def test_random_tensors_are_seeded_and_give_features_that_differ_from_place_to_place(monkeypatch):
    name = small(monkeypatch, "dinov2_tiny_reg", width=64)
    a, b, c = (Backbone(name, pretrained=False, seed=seed) for seed in (1, 1, 2))
    assert all(torch.equal(a.state()[key], value) for key, value in b.state().items())
    assert not torch.equal(a.state()["pos_embed"], c.state()["pos_embed"])
    assert {float(v.min()) for k, v in a.state().items() if k.endswith("gamma")} == {1.0}
    noise = np.random.default_rng(0).integers(0, 256, (2, 42, 56, 3), dtype=np.uint8)
    (field,) = a(noise)
    assert field.shape == (2, 64, 3, 4)
    assert float(field.std(dim=(2, 3)).min()) > 0.05
    torch.testing.assert_close(b(noise)[0], field)


def test_half_precision_stays_close(monkeypatch):
    name = small(monkeypatch, "dinov2_tiny", width=64)
    if not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        pytest.skip("this processor does not compute in bf16")
    noise = np.random.default_rng(0).integers(0, 256, (1, 42, 56, 3), dtype=np.uint8)
    exact, half = (Backbone(name, pretrained=False, precision=p)(noise)[0] for p in ("fp32", "bf16"))
    assert half.dtype == torch.float32
    assert 0 < shift(half, exact) < 0.05


def test_features_do_not_depend_on_the_sizes_that_came_before(monkeypatch):
    name = small(monkeypatch, "dinov2_tiny", width=64)
    noise = np.random.default_rng(0).integers(0, 256, (1, 42, 56, 3), dtype=np.uint8)
    fresh = Backbone(name, pretrained=False)(noise)[0]
    used = Backbone(name, pretrained=False)
    used(noise[:, :28])
    used(noise.transpose(0, 2, 1, 3))
    assert torch.equal(used(noise)[0], fresh)


@pytest.mark.parametrize(("height", "width"), [(97, 126), (14, 30), (13, 14)])
def test_sides_that_are_no_multiple_of_a_patch_are_refused(height, width, monkeypatch):
    name = small(monkeypatch, "dinov2_tiny", width=64)
    with pytest.raises(SpecError) as caught:
        Backbone(name, pretrained=False)(np.zeros((1, height, width, 3), np.uint8))
    assert caught.value.message == (
        f"dinov2_tiny takes images whose sides are multiples of 14, found {height}x{width} (height x width)"
    )
    assert caught.value.help == ("Let [preprocess] size make them so, or choose such sides for resize and crop.")


def test_openvino_is_refused(monkeypatch):
    pytest.importorskip("openvino", reason="without openvino the message is that it is not installed")
    name = small(monkeypatch, "dinov2_tiny", width=64)
    with pytest.raises(SpecError, match='^runtime "openvino" does not compute dinov2_tiny$'):
        Backbone(name, pretrained=False, runtime="openvino")


# -- a clone of the repository


CLONE = """
import torch
from uadctl.features import vit

class Theirs(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = vit.build("{name}", ("norm",)).make()
        self.inner.load_state_dict(vit.draw("{name}", vit.build("{name}", ("norm",))))

    def state_dict(self):
        return dict(self.inner.state_dict(), mask_token=torch.zeros(1, 64), **{{{more}}})

    def forward_features(self, x):
        return {{"x_norm_patchtokens": self.inner(x)[0].flatten(2).transpose(1, 2) {wrong}}}

def {name}(pretrained=True):
    with open({log!r}, "a") as file:
        file.write(f"{{pretrained}}\\n")
    return Theirs()
"""


@pytest.fixture
def clone(tmp_path, monkeypatch):
    """Write a clone whose network is ours, or nearly."""
    name = small(monkeypatch, "dinov2_tiny", width=64)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))

    def write(wrong: str = "", more: str = "") -> str:
        folder = tmp_path / "dinov2"
        folder.mkdir(exist_ok=True)
        text = CLONE.format(name=name, wrong=wrong, more=more, log=str(tmp_path / "called"))
        (folder / "hubconf.py").write_text(text)
        return str(folder)

    return write


def test_a_clones_tensors_are_taken_when_its_tokens_are_ours(clone, tmp_path):
    torch.manual_seed(3)
    before = torch.get_rng_state()
    states = [vit.from_repository(clone(), "dinov2_tiny", pretrained=False, seed=s) for s in (5, 5, 6)]
    assert torch.equal(torch.get_rng_state(), before)
    assert set(states[0]) == set(vit.build("dinov2_tiny", ("norm",)).shapes())
    assert torch.equal(states[0]["pos_embed"], states[1]["pos_embed"])
    assert not torch.equal(states[0]["pos_embed"], states[2]["pos_embed"])
    assert (tmp_path / "called").read_text() == "False\n" * 3


def test_a_clone_that_computes_something_else_is_refused(clone):
    repo = clone(wrong="* 1.01")
    with pytest.raises(WeightsError) as caught:
        vit.from_repository(repo, "dinov2_tiny", pretrained=False, seed=0)
    assert caught.value.message == (
        f"{repo}: its dinov2_tiny does not compute what uadctl's does with the same tensors: patch tokens of a random "
        "image are 0.0099 of their size away"
    )
    with pytest.raises(WeightsError, match="are nan of their size away$"):
        vit.from_repository(clone(wrong="* float('nan')"), "dinov2_tiny", pretrained=False, seed=0)
    with pytest.raises(WeightsError, match="its dinov2_tiny has other tensors than the published one$"):
        vit.from_repository(clone(more="'extra': torch.zeros(1)"), "dinov2_tiny", pretrained=False, seed=0)


def test_what_is_no_clone_is_refused(clone, tmp_path, monkeypatch):
    with pytest.raises(WeightsError) as caught:
        vit.from_repository(str(tmp_path), "dinov2_tiny", pretrained=False, seed=0)
    assert caught.value.message == f"{tmp_path}: no clone of a torch hub repository: it has no hubconf.py"
    assert caught.value.help == "Make one with: git clone https://github.com/facebookresearch/dinov2"
    repo = clone()
    with pytest.raises(WeightsError, match="torch.hub.load cannot make dinov2_vits14 of it: Cannot find callable"):
        vit.from_repository(repo, "dinov2_vits14", pretrained=False, seed=0)


def test_offline_a_clone_is_not_asked_for_weights_that_it_would_download(clone, tmp_path, monkeypatch):
    repo = clone()
    monkeypatch.setenv("UADCTL_OFFLINE", "1")
    with pytest.raises(
        WeightsError, match="^dinov2_tiny: the weights .* not on this machine, and UADCTL_OFFLINE is set$"
    ):
        vit.from_repository(repo, "dinov2_tiny", pretrained=True, seed=0)
    assert not (tmp_path / "called").exists()
    file = tmp_path / "torch" / "hub" / "checkpoints" / BACKBONES["dinov2_tiny"].weights.file
    file.parent.mkdir(parents=True)
    file.touch()
    vit.from_repository(repo, "dinov2_tiny", pretrained=True, seed=0)
    assert (tmp_path / "called").read_text() == "True\n"
