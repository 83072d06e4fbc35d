"""OpenCLIP: its towers against open_clip itself, WinCLIP against hand computation and against anomalib's."""

from __future__ import annotations

import inspect
import json
import socket
import sys
import urllib.request
from pathlib import Path

import numpy as np
import parts
import pytest

from uadctl.errors import BackendMissing, DataError, ParamError, RunError, SpecError, WeightsError
from uadctl.features import openclip as door
from uadctl.models.openclip import PatchKNN, PromptScore, WinCLIP
from uadctl.models.prompts import ANOMALOUS_STATES, NORMAL_STATES, TEMPLATES, mean_direction, prompt_ensemble
from uadctl.models.prompts import prompt_scores as scores_of_prompts
from uadctl.models.references import Lot
from uadctl.models.windows import harmonic_mean, spread
from uadctl.records import Prediction, Size
from uadctl.spec import create_model, list_params, resolve_backbone
from uadctl.spec.reading import Overrides, read_spec

DETECTORS = (PromptScore, PatchKNN, WinCLIP)
NAMES = ("vision_openclip_promptscore", "vision_openclip_patchknn", "vision_winclip")
TINY = {
    "embed_dim": 24,
    "vision_cfg": {"image_size": 64, "layers": 2, "width": 64, "head_width": 32, "patch_size": 16},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
}
KINDS = {
    "tiny-clip": {},
    "tiny-clip-quickgelu": {"quick_gelu": True},
    "tiny-clip-wide": {"vision_cfg": {**TINY["vision_cfg"], "image_size": [96, 64]}},
    "tiny-clipa": {
        "vision_cfg": {**TINY["vision_cfg"], "no_ln_pre": True, "pool_type": "avg", "final_ln_after_pool": True}
    },
    "tiny-clip-foreign": {"text_cfg": {**TINY["text_cfg"], "hf_tokenizer_name": "bert-base-uncased"}},
    "tiny-clip-pooled": {"vision_cfg": {**TINY["vision_cfg"], "attentional_pool": True}},
}


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Networks of this size take longer to share than to compute."""
    torch = pytest.importorskip("torch")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def open_clip(tmp_path_factory):
    """open_clip with models of two small blocks beside its own."""
    module = pytest.importorskip("open_clip", reason="open_clip defines the networks")
    folder = tmp_path_factory.mktemp("configs")
    for name, changes in KINDS.items():
        (folder / f"{name}.json").write_text(json.dumps(TINY | changes), encoding="utf-8")
    module.add_model_config(folder)
    return module


@pytest.fixture(scope="module")
def clip(open_clip):
    """A small CLIP with random weights, in eval mode."""
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        return open_clip.CLIP(TINY["embed_dim"], TINY["vision_cfg"], TINY["text_cfg"]).eval()


@pytest.fixture(scope="module")
def checkpoint(clip, tmp_path_factory) -> str:
    import torch

    file = tmp_path_factory.mktemp("weights") / "tiny.pt"
    torch.save(clip.state_dict(), file)
    return str(file)


def embedder(checkpoint: str, model: str = "tiny-clip", **params):
    from uadctl.features.openclip_embedder import OpenCLIPEmbedder

    return OpenCLIPEmbedder(model, checkpoint, device="cpu", **params)


def small(detector, **params):
    return detector(model_name="tiny-clip", pretrained=False, device="cpu", **params)


def normalised(image: np.ndarray, mean=(0.48145466, 0.4578275, 0.40821073), std=(0.26862954, 0.26130258, 0.27577711)):
    """The (1, 3, H, W) tensor that open_clip's own transform makes of an image that needs no resizing."""
    import torch

    x = torch.from_numpy(image).permute(2, 0, 1)[None] / 255
    return (x - torch.tensor(mean)[None, :, None, None]) / torch.tensor(std)[None, :, None, None]


GOOD = [parts.surface(i) for i in range(5)]


# ---- the towers


def test_the_class_token_is_open_clips_own_embedding_of_the_image(clip, checkpoint):
    import torch

    with torch.inference_mode():
        expected = clip.encode_image(normalised(GOOD[0]))[0]
    whole, windows = embedder(checkpoint).embed_windows(GOOD[0], [4])
    np.testing.assert_allclose(whole, expected, atol=1e-5)
    # A window of the full grid leaves nothing out.
    assert [w.shape for w in windows] == [(1, 24)]
    np.testing.assert_allclose(windows[0][0], expected, atol=1e-5)


def test_patches_are_the_last_blocks_after_norm_and_projection(clip, checkpoint):
    import torch

    clip.visual.output_tokens = True
    try:
        with torch.inference_mode():
            _, tokens = clip.visual(normalised(GOOD[0]))
            inner = clip.visual.forward_intermediates(normalised(GOOD[0]), indices=[0], output_fmt="NLC")
    finally:
        clip.visual.output_tokens = False
    patches, grid, size = embedder(checkpoint).embed(GOOD[0])
    assert (patches.shape, patches.dtype, grid, size) == ((16, 24), np.float32, (4, 4), (64, 64))
    np.testing.assert_allclose(patches, tokens[0] @ clip.visual.proj.detach(), atol=1e-5)
    np.testing.assert_allclose(embedder(checkpoint, layer="norm").embed(GOOD[0])[0], tokens[0], atol=1e-5)
    np.testing.assert_allclose(
        embedder(checkpoint, layer="blocks.0").embed(GOOD[0])[0], inner["image_intermediates"][0][0], atol=1e-5
    )


def test_a_window_is_what_attention_sees_of_it_alone(clip, checkpoint):
    """The paper masks attention; leaving tokens out is the same, and cheaper."""
    import torch

    _, (windows,) = embedder(checkpoint).embed_windows(GOOD[1], [2])
    covered = door.windows_of(Size(4, 4), 2)
    assert windows.shape == (9, 24)
    visual = clip.visual
    with torch.inference_mode():
        start = visual._embeds(normalised(GOOD[1]))
        for i, window in enumerate(covered):
            mask = torch.full((17, 17), float("-inf"))
            mask[:, [0, *(1 + window)]] = 0
            x = start
            for block in visual.transformer.resblocks:
                x = block(x, attn_mask=mask)
            np.testing.assert_allclose(windows[i], (visual.ln_post(x[0, 0]) @ visual.proj), atol=1e-5)


def test_texts_are_read_as_open_clip_reads_them(open_clip, clip, checkpoint):
    import torch

    texts = ["a photo of a nut.", "a photo of a damaged nut."] * 40
    with torch.inference_mode():
        expected = clip.encode_text(open_clip.get_tokenizer("tiny-clip")(texts), normalize=True)
    np.testing.assert_allclose(embedder(checkpoint).text_features(texts), expected, atol=1e-5)


def test_positions_go_to_another_grid_as_open_clip_brings_them_there(open_clip, checkpoint):
    import torch

    wide = TINY | KINDS["tiny-clip-wide"]
    other = open_clip.CLIP(wide["embed_dim"], wide["vision_cfg"], wide["text_cfg"]).eval()
    open_clip.load_checkpoint(other, checkpoint)
    image = parts.surface(3, 96, 64)
    with torch.inference_mode():
        expected = other.encode_image(normalised(image))[0]
    whole, _ = embedder(checkpoint).embed_windows(image, [2])
    np.testing.assert_allclose(whole, expected, atol=1e-5)


@pytest.mark.parametrize(
    ("size", "grid"), [((64, 64), (4, 4)), ((100, 37), (6, 2)), ((1, 1), (1, 1)), ((3, 200), (1, 12))]
)
def test_images_of_any_size_get_the_nearest_grid(checkpoint, size, grid):
    seen = embedder(checkpoint).embed(parts.surface(0, *size))
    assert (seen[0].shape, seen[1], seen[2]) == ((grid[0] * grid[1], 24), grid, size)
    assert np.isfinite(seen[0]).all()


def test_quick_gelu_and_pooling_by_mean_are_open_clips(open_clip, checkpoint):
    import torch

    for name in ("tiny-clip-quickgelu", "tiny-clipa"):
        whole = open_clip.get_model_config(name)
        model = open_clip.CLIP(
            whole["embed_dim"], whole["vision_cfg"], whole["text_cfg"], quick_gelu=whole.get("quick_gelu", False)
        ).eval()
        tensors = torch.load(checkpoint, weights_only=True)
        model.load_state_dict({key: tensors[key] for key in model.state_dict()})
        with torch.inference_mode():
            expected = model.encode_image(normalised(GOOD[0]))[0]
        found, (window,) = embedder(checkpoint, name).embed_windows(GOOD[0], [4])
        np.testing.assert_allclose(found, expected, atol=1e-5)
        np.testing.assert_allclose(window[0], expected, atol=1e-5)
        plain, _ = embedder(checkpoint).embed_windows(GOOD[0], [4])
        assert np.abs(plain - found).max() > 1e-3


def test_a_path_is_the_image_in_it(tmp_path, checkpoint):
    file = parts.write(tmp_path / "part.png", GOOD[0])
    eyes = embedder(checkpoint)
    for one, other in zip(eyes.embed(str(file)), eyes.embed(GOOD[0]), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    ("image", "found"),
    [
        (np.zeros((4, 4), np.uint8), "shape (4, 4), uint8"),
        (np.zeros((4, 4, 1), np.uint8), "shape (4, 4, 1), uint8"),
        (np.zeros((4, 4, 3), np.float32), "shape (4, 4, 3), float32"),
    ],
)
def test_other_arrays_are_refused(image, found):
    from uadctl.features.openclip_embedder import OpenCLIPEmbedder

    with pytest.raises(ValueError, match=r"^an image must be") as error:
        OpenCLIPEmbedder().embed(image)
    assert str(error.value) == f"an image must be a path or an (H, W, 3) RGB uint8 array, found {found}"


def test_a_checkpoint_of_another_model_is_refused(open_clip, tmp_path, checkpoint):
    import torch

    file = tmp_path / "other.pt"
    torch.save({"module.visual.conv1.weight": torch.zeros(1)}, file)
    with pytest.raises(WeightsError) as error:
        embedder(str(file)).embed(GOOD[0])
    assert str(error.value) == (
        f"{file}: not a checkpoint of tiny-clip: 32 of 32 tensors are absent or of another shape, the first is "
        "visual.class_embedding"
    )
    tensors = torch.load(checkpoint, weights_only=True)
    torch.save({"state_dict": {f"module.{key}": value for key, value in tensors.items()}}, file)
    np.testing.assert_array_equal(embedder(str(file)).embed(GOOD[0])[0], embedder(checkpoint).embed(GOOD[0])[0])
    del tensors["token_embedding.weight"]
    torch.save(tensors, file)
    with pytest.raises(WeightsError, match=r"1 of \d+ tensors are absent .* the first is token_embedding.weight$"):
        embedder(str(file)).text_features(["a nut"])


# ---- the door


def test_a_backbone_of_open_clip_is_described_without_any_download(open_clip):
    entry = resolve_backbone("openclip:ViT-B-16")
    assert entry.name == "openclip:ViT-B-16:laion2b_s34b_b88k"
    assert list(entry.channels) == [*(f"blocks.{i}" for i in range(12)), "norm", "patches"]
    assert (entry.channels["blocks.0"], entry.channels["patches"], entry.strides["norm"]) == (768, 512, 16)
    assert entry.weights.url == (
        "https://huggingface.co/laion/CLIP-ViT-B-16-laion2B-s34B-b88K/resolve/main/open_clip_pytorch_model.bin"
    )
    assert (entry.weights.file, entry.weights.licence) == ("openclip-ViT-B-16-laion2b_s34b_b88k.bin", "MIT")
    assert entry.mean == tuple(255 * v for v in open_clip.OPENAI_DATASET_MEAN)
    assert door.describe("ViT-L-14:laion2b_s32b_b82k").mean == (127.5, 127.5, 127.5)
    for name in ("ViT-B-17", "ViT-B-16:nobody", "RN50", "ViT-B-16-SigLIP", "coca_ViT-B-32", "hf-hub:x", ""):
        assert door.describe(name) is None, name


def test_every_tag_of_every_vision_transformer_has_weights_of_its_own_name(open_clip):
    entries = [
        door.describe(f"{model}:{tag}")
        for model, tag in open_clip.list_pretrained()
        if door.tower_config(model, tag) is not None
    ]
    assert len(entries) > 60
    assert all(e.weights.url.startswith("https://huggingface.co/") for e in entries)
    assert len({e.weights.file for e in entries}) == len({e.name for e in entries}) == len(entries)


def test_openais_weights_bring_their_activation(open_clip):
    assert door.tower_config("ViT-B-16", "openai").quick_gelu
    assert door.tower_config("ViT-B-16-quickgelu", "").quick_gelu
    assert not door.tower_config("ViT-B-16", "laion2b_s34b_b88k").quick_gelu
    tower = door.make_tower(door.tower_config("tiny-clip-quickgelu", ""))
    assert type(tower.transformer.resblocks[0].mlp.gelu).__name__ == "QuickGELU"


def test_the_backbone_gives_the_same_features(open_clip, clip, checkpoint):
    from uadctl.features.backbone import Backbone

    layers = ("blocks.0", "norm", "patches")
    network = Backbone("openclip:tiny-clip", layers=layers, weights=checkpoint)
    image = parts.surface(4, 96, 64)
    for layer, field in zip(layers, network(image[None]), strict=True):
        patches, grid, _ = embedder(checkpoint, layer=layer).embed(image)
        assert field.shape == (1, patches.shape[1], *grid) == (1, patches.shape[1], 6, 4)
        np.testing.assert_allclose(field[0].permute(1, 2, 0).reshape(len(patches), -1), patches, atol=1e-5)


def test_a_backbone_gives_the_layers_asked_for_and_no_other(open_clip):
    from uadctl.features.backbone import Backbone

    for layers in (("patches",), ("norm",), ("blocks.1", "patches")):
        maps = Backbone("openclip:tiny-clip", layers=layers, pretrained=False)(GOOD[0][None])
        assert [m.shape[1] for m in maps] == [24 if layer == "patches" else 64 for layer in layers]


def test_a_backbone_holds_no_more_than_its_layers_need(open_clip):
    from uadctl.features.backbone import Backbone

    first = Backbone("openclip:tiny-clip", layers=("blocks.0",), pretrained=False, seed=3)
    assert not [k for k in first.state() if "resblocks.1" in k or "ln_post" in k or k.endswith("proj")]
    last = Backbone("openclip:tiny-clip", layers=("norm",), pretrained=False, seed=3)
    assert "visual.proj" not in last.state()
    assert "visual.ln_post.weight" in last.state()


def test_stride_is_known_without_importing_open_clip(open_clip, monkeypatch):
    assert door.patch_size("tiny-clip") == 16
    monkeypatch.delitem(sys.modules, "open_clip")
    assert door.patch_size("ViT-L-14") == 14
    assert door.patch_size("nothing") == 1
    assert "open_clip" not in sys.modules
    monkeypatch.setitem(sys.modules, "open_clip", None)
    assert door.patch_size("ViT-L-14") == 1


# ---- words


def test_the_prompt_ensemble_is_the_papers():
    assert (len(NORMAL_STATES), len(ANOMALOUS_STATES), len(TEMPLATES), len(set(TEMPLATES))) == (7, 4, 22, 22)
    normal, anomalous = prompt_ensemble("metal nut")
    assert (len(normal), len(anomalous)) == (154, 88)
    assert "a photo of a metal nut." in normal
    assert "a jpeg corrupted photo of the unblemished metal nut." in normal
    assert "a photo of the large metal nut without flaw." in normal
    assert "a photo of a metal nut with damage for visual inspection." in anomalous
    assert "a cropped photo of the damaged metal nut." in anomalous


def test_text_features_are_averaged_as_directions():
    np.testing.assert_allclose(mean_direction([[2.0, 0.0], [0.0, 1.0]]), [0.5**0.5, 0.5**0.5], atol=1e-7)
    np.testing.assert_allclose(mean_direction([3.0, 4.0]), [0.6, 0.8], atol=1e-7)
    with pytest.raises(ValueError, match=r"^text features must be of shape \(D,\) or \(n, D\), found \(1, 1, 2\)$"):
        mean_direction([[[1.0, 0.0]]])
    with pytest.raises(ValueError, match=r"^text features must not be, or cancel to, a vector of zeros$"):
        mean_direction([[1.0, 0.0], [-1.0, 0.0]])
    with pytest.raises(ValueError, match=r"^features contain NaN or infinity$"):
        mean_direction([np.nan, 1.0])


def test_prompt_scores_by_hand():
    words = np.array([[1.0, 0.0], [0.0, 1.0]], np.float32)
    patches = np.array([[1, 0], [0, 5], [3, 4]], np.float32)
    np.testing.assert_allclose(scores_of_prompts(patches, words, mode="diff", temperature=1.0), [-1, 1, 0.2], atol=1e-6)
    soft = scores_of_prompts(patches, words, mode="softmax", temperature=0.1)
    np.testing.assert_allclose(soft, [1 / (1 + np.e**10), 1 / (1 + np.e**-10), 1 / (1 + np.e**-2)], rtol=1e-5)
    assert scores_of_prompts(patches[:1], words, mode="softmax", temperature=1e-6).tolist() == [0.0]
    message = "^image embeddings of 3 numbers cannot be compared with text features of 2$"
    with pytest.raises(ValueError, match=message):
        scores_of_prompts(np.ones((1, 3), np.float32), words, mode="diff", temperature=1.0)


# ---- windows


def test_windows_lie_at_every_place():
    assert door.windows_of(Size(3, 3), 2).tolist() == [[0, 1, 3, 4], [1, 2, 4, 5], [3, 4, 6, 7], [4, 5, 7, 8]]
    assert door.windows_of(Size(2, 4), 3).tolist() == [[0, 1, 2, 4, 5, 6], [1, 2, 3, 5, 6, 7]]
    assert door.windows_of(Size(1, 1), 3).tolist() == [[0]]


def test_harmonic_means_by_hand():
    # Patch 0 lies in window 0 only; patch 1 in 0 and 1: 2 / (1 / 1 + 1 / .5); patch 4 in all four.
    field = spread(np.array([1.0, 0.5, 0.25, 0.2]), Size(3, 3), 2)
    expected = [[1, 2 / 3, 0.5], [2 / 5, 4 / 12, 2 / 7], [0.25, 2 / 9, 0.2]]
    np.testing.assert_allclose(field, expected, rtol=1e-12)
    assert spread(np.array([0.0, 0.5, 0.25, 0.2]), Size(3, 3), 2)[:2, :2].tolist() == [[0, 0], [0, 0]]
    mean = harmonic_mean([np.array([1.0, 0.0]), np.array([0.5, 1.0]), np.array([0.25, 1.0])])
    np.testing.assert_allclose(mean, [3 / 7, 0.0], rtol=1e-12)


# ---- references


def test_a_lot_is_drawn_evenly_and_repeats():
    def drawn(seed: int) -> list[int]:
        lot = Lot(3, seed=seed)
        for i in range(10):
            lot.offer(i)
        return lot.kept

    assert drawn(1) == drawn(1)
    assert all(len(set(kept)) == 3 and kept == sorted(kept) for kept in map(drawn, range(50)))
    counts = np.bincount(np.concatenate([drawn(seed) for seed in range(2000)]), minlength=10)
    assert (np.abs(counts - 600) < 100).all()
    everything = Lot(None, seed=0)
    assert [everything.offer(i) for i in range(4)] == [True] * 4
    assert everything.kept == [0, 1, 2, 3]


# ---- detectors that are given known vectors


class Known:
    """An embedder whose images are numbers: image i has the patches PATCHES[i] on a (2, 2) grid."""

    def __init__(self, patches, whole=None, windows=None) -> None:
        self.patches, self.whole, self.windows = patches, whole, windows

    def embed(self, image):
        return np.array(self.patches[int(image[0, 0, 0])], np.float32), (2, 2), image.shape[:2]

    def embed_windows(self, image, sides):
        assert tuple(sides) == (2, 3)
        key = int(image[0, 0, 0])
        return np.array(self.whole[key], np.float32), tuple(np.array(w, np.float32) for w in self.windows[key])


class Blind:
    """One that sees no windows."""

    def embed(self, image):
        raise AssertionError


def image(key: int, height: int = 8, width: int = 8) -> np.ndarray:
    return np.full((height, width, 3), key, np.uint8)


RIGHT, UP, DIAGONAL, LEFT = [1.0, 0.0], [0.0, 1.0], [3.0, 4.0], [-1.0, 0.0]
PATCHES = {0: [RIGHT] * 4, 1: [RIGHT, UP, DIAGONAL, LEFT], 2: [UP] * 4, 3: [DIAGONAL] * 4}
# A grid of 2x2 is one window at either scale.
WHOLE = {0: RIGHT, 1: DIAGONAL, 2: UP, 3: DIAGONAL}
WINDOWS = {key: ([WHOLE[key]], [UP]) for key in WHOLE}
WORDS = {"normal_text_features": RIGHT, "anomaly_text_features": UP}


def test_promptscore_by_hand():
    model = PromptScore(embedder=Known(PATCHES), **WORDS, sigma=0).fit([image(0), image(3)])
    (prediction,) = model.predict_batch([image(1, 2, 2)])
    assert prediction.map is not None
    np.testing.assert_allclose(prediction.map, [[-1, 1], [0.2, 1]], atol=1e-6)  # cos up - cos right
    assert prediction.score == 1.0  # the top 1 % of four patches is one patch
    assert model.threshold_ == pytest.approx(np.quantile([-1, 0.2], 0.9))
    mean = PromptScore(embedder=Known(PATCHES), **WORDS, aggregation="mean").fit([image(0)])
    assert mean.predict_batch([image(1)])[0].score == pytest.approx(0.3)
    soft = PromptScore(embedder=Known(PATCHES), **WORDS, mode="softmax").fit([image(0)])
    assert soft.predict_batch([image(3)])[0].score == pytest.approx(1 / (1 + np.e**-20), rel=1e-6)


def test_what_is_not_given_is_winclips_with_windows():
    plain, windows = PromptScore(), PromptScore(mode="softmax", windows=True)
    assert (plain.temperature, plain.sigma) == (0.01, 4.0)
    assert (windows.temperature, windows.sigma) == (WinCLIP().temperature, WinCLIP().sigma) == (0.07, 0.0)
    own = PromptScore(mode="softmax", windows=True, temperature=0.01, sigma=4.0)
    assert (own.temperature, own.sigma) == (0.01, 4.0)
    given = {"embedder": Known(PATCHES, WHOLE, WINDOWS), **WORDS, "mode": "softmax", "windows": True}
    (prediction,) = PromptScore(**given).fit([image(0)]).predict_batch([image(1, 2, 2)])
    assert prediction.score == pytest.approx(1 / (1 + np.exp(-0.2 / 0.07)), rel=1e-6)


def test_promptscore_with_windows_by_hand():
    params = {"embedder": Known(PATCHES, WHOLE, WINDOWS), **WORDS, "mode": "softmax", "windows": True, "sigma": 0}
    model = PromptScore(**params, temperature=0.5).fit([image(0)])
    (prediction,) = model.predict_batch([image(1, 2, 2)])
    whole, up = 1 / (1 + np.e**-0.4), 1 / (1 + np.e**-2)
    assert prediction.score == pytest.approx(whole, rel=1e-6)
    np.testing.assert_allclose(prediction.map, np.full((2, 2), 3 / (1 / whole + 1 / whole + 1 / up)), rtol=1e-6)


def test_patchknn_by_hand():
    model = PatchKNN(embedder=Known(PATCHES), sigma=0).fit([image(0), image(2)])
    (prediction,) = model.predict_batch([image(1, 2, 2)])
    np.testing.assert_allclose(prediction.map, [[0, 0], [0.2, 1]], atol=1e-6)  # 1 - cos to the nearer of right and up
    assert prediction.score == pytest.approx(1.0)
    assert model.threshold_ == pytest.approx(1.0)  # each is at a right angle to the other
    two = PatchKNN(embedder=Known(PATCHES), sigma=0, n_neighbors=8).fit([image(0), image(2)])
    # Over all eight: four at angle 0, four at a right angle.
    np.testing.assert_allclose(two.predict_batch([image(0, 2, 2)])[0].map, np.full((2, 2), 0.5), atol=1e-6)
    more = PatchKNN(embedder=Known(PATCHES), sigma=0, n_neighbors=99).fit([image(0), image(2)])
    assert more.predict_batch([image(0)])[0].score == pytest.approx(0.5)


def test_winclip_by_hand():
    model = WinCLIP(embedder=Known(PATCHES, WHOLE, WINDOWS), **WORDS, temperature=0.5).fit([image(0), image(2)])
    (prediction,) = model.predict_batch([image(1, 2, 2)])
    whole, up = 1 / (1 + np.e**-0.4), 1 / (1 + np.e**-2)
    zero = 3 / (1 / whole + 1 / whole + 1 / up)
    # Patches: half of 0, 0, 0.2, 1; windows of two: diagonal, half of 0.2; windows of three: up, 0.
    few = (np.array([[0, 0], [0.1, 0.5]]) + 0.1 + 0) / 3
    np.testing.assert_allclose(prediction.map, (zero + few) / 2, atol=1e-6)
    assert prediction.score == pytest.approx((whole + 0.2) / 2, abs=1e-6)


@pytest.mark.parametrize("detector", [PatchKNN, WinCLIP])
def test_left_out_images_are_judged_by_the_others(detector):
    known = Known(PATCHES, WHOLE, WINDOWS)
    words = WORDS if detector is WinCLIP else {}
    got: list[Prediction] = []
    model = detector(embedder=known, **words).fit([image(0), image(0), image(3)], left_out=got.append)
    assert len(got) == 3
    alone = detector(embedder=known, **words).fit([image(0), image(0)]).predict_batch([image(3)])[0]
    assert got[2].score == pytest.approx(alone.score, rel=1e-6)
    np.testing.assert_allclose(got[2].map, alone.map, rtol=1e-6)
    assert got[2].score > model.predict_batch([image(3)])[0].score
    assert got[0].score == got[1].score == model.predict_batch([image(0)])[0].score  # the twin is still there
    assert model.threshold_ == pytest.approx(np.quantile([p.score for p in got], 0.9))
    single: list[Prediction] = []
    assert detector(embedder=known, **words).fit([image(0)], left_out=single.append).threshold_ is None
    assert single == []


def test_shots_leave_the_other_images_to_calibrate_with():
    got: list[Prediction] = []
    model = PatchKNN(embedder=Known(PATCHES), shots=2, seed=4)
    model.fit([image(0), image(0), image(3), image(0), image(2)], left_out=got.append)
    assert model.references.facts() == {"references": 2, "memory_banks": [[8, 2]]}
    assert len(got) == 5
    seen: list[int] = []

    class Counting(Known):
        def embed(self, picture):
            seen.append(int(picture[0, 0, 0]))
            return super().embed(picture)

    few = PatchKNN(embedder=Counting(PATCHES), shots=1, batch_size=1).fit([image(0)] * 30, threshold=False)
    assert few.threshold_ is None
    assert len(seen) < 12  # what is not drawn is not looked at


def test_promptscore_says_of_a_training_image_what_it_says_of_any():
    got: list[Prediction] = []
    model = PromptScore(embedder=Known(PATCHES), **WORDS).fit([image(0), image(3)], left_out=got.append)
    assert [p.score for p in got] == model.decision_function([image(0), image(3)]).tolist()
    looked = PromptScore(embedder=Blind(), **WORDS).fit([image(0)], threshold=False)
    assert looked.threshold_ is None


class Contradicting(Known):
    def __init__(self, patches, grid, size) -> None:
        super().__init__({0: patches})
        self.grid, self.size = grid, size

    def embed(self, picture):
        return np.array(self.patches[0], np.float32), self.grid, self.size


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (([RIGHT] * 3, (2, 2), (8, 8)), "the embedder gives patches of shape (3, 2) for a grid of 2x2"),
        (([RIGHT] * 4, (2, 2), (8, 9)), "the embedder gives 8x9 as the size of an image of 8x8"),
        (([[np.nan, 1.0]] * 4, (2, 2), (8, 8)), "features contain NaN or infinity"),
    ],
)
def test_an_embedder_that_contradicts_itself_is_an_error_never_a_score(made, message):
    for model in (PromptScore(embedder=Contradicting(*made), **WORDS), PatchKNN(embedder=Contradicting(*made))):
        with pytest.raises(ValueError, match=r".") as error:
            model.fit([image(0)])
        assert str(error.value) == message
        assert not model.is_fitted


# ---- detectors on images


@pytest.mark.parametrize("detector", DETECTORS)
def test_paths_and_arrays_give_the_same(open_clip, tmp_path, detector):
    files = [str(parts.write(tmp_path / f"{i}.png", picture)) for i, picture in enumerate(GOOD[:3])]
    one, other = small(detector).fit(files), small(detector).fit(GOOD[:3])
    assert one.threshold_ == other.threshold_
    np.testing.assert_array_equal(one.decision_function(files), other.decision_function(GOOD[:3]))
    np.testing.assert_array_equal(one.get_anomaly_map(files[0]), other.get_anomaly_map(GOOD[0]))
    assert one.predict(files).dtype == np.int64


@pytest.mark.parametrize("detector", DETECTORS)
def test_any_shape_is_taken_and_shapes_may_be_mixed(open_clip, detector):
    model = small(detector).fit(GOOD)
    shapes = [(64, 160), (64, 64), (1, 1), (3, 200), (64, 64)]
    images = [parts.surface(i, *shape) for i, shape in enumerate(shapes)]
    for picture, prediction in zip(images, model.predict_batch(images), strict=True):
        assert prediction.map is not None
        assert prediction.map.shape == picture.shape[:2]
        assert prediction.map.dtype == np.float32
        assert np.isfinite(prediction.map).all()
        assert prediction.score == float(np.float32(prediction.score))
        (alone,) = model.predict_batch([picture])
        assert prediction.score == pytest.approx(alone.score, rel=1e-4, abs=1e-6)
        np.testing.assert_allclose(prediction.map, alone.map, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("detector", DETECTORS)
def test_a_restored_detector_is_the_same_and_reads_no_texts(open_clip, detector, checkpoint, monkeypatch):
    params = {"model_name": "tiny-clip", "device": "cpu"}
    if detector is PromptScore:
        params |= {"mode": "softmax", "windows": True}
    model = detector(**params, pretrained=checkpoint).fit(GOOD)
    tensors, facts = model.state()
    again = detector(**params, pretrained=False)
    again.prepare(download=False)
    monkeypatch.setattr(open_clip, "CLIP", None)
    again.restore({key: value.clone() for key, value in tensors.items()}, json.loads(json.dumps(facts)))
    bad, _ = parts.scratched(9)
    for one, other in zip(model.predict_batch([bad, GOOD[0]]), again.predict_batch([bad, GOOD[0]]), strict=True):
        assert one.score == other.score
        np.testing.assert_array_equal(one.map, other.map)
    assert again.threshold_ == model.threshold_
    assert again.facts()["weights"] == "path"
    assert again.facts()["weights_file"] == "tiny.pt"
    assert not any(key.startswith(("token_embedding", "transformer")) for key in tensors)
    # A second fit of the same words needs no text tower either.
    assert again.fit(GOOD).threshold_ == model.threshold_


def test_a_run_keeps_no_text_tower(open_clip, checkpoint):
    eyes, other = embedder(checkpoint), embedder("no file is read")
    other.restore(*eyes.state())
    np.testing.assert_array_equal(eyes.embed(GOOD[0])[0], other.embed(GOOD[0])[0])
    with pytest.raises(RuntimeError, match=r"^tiny-clip comes from a run, which keeps no text tower$"):
        other.text_features(["a nut"])


def test_weights_that_are_not_read_are_a_doubt(open_clip, checkpoint):
    random = "pretrained = false: the backbone's weights are random, the scores mean little"
    for detector in DETECTORS:
        assert small(detector, weights=checkpoint).doubts() == [
            random,
            f"weights = {checkpoint}: the file is not read, since pretrained = false asks for random weights",
        ]
        assert small(detector).doubts() == [random]
        assert detector(model_name="tiny-clip", weights=checkpoint).doubts() == []
    given = {"embedder": Known(PATCHES), "pretrained": False, "weights": "a.pt"}
    assert PatchKNN(**given).doubts() == []


def test_texts_may_be_asked_for_at_any_time(checkpoint):
    eyes = embedder(checkpoint)
    before = eyes.embed(GOOD[0])[0]
    eyes.text_features(["a nut"])
    np.testing.assert_array_equal(eyes.embed(GOOD[0])[0], before)
    assert eyes.facts()["device"] == "cpu"


def test_random_weights_are_seeded(open_clip):
    def scores(seed: int) -> list[float]:
        return small(WinCLIP, seed=seed).fit(GOOD[:2]).decision_function(GOOD[2:]).tolist()

    assert scores(1) == scores(1) != scores(2)


def test_bf16_is_close_and_recorded(open_clip, checkpoint):
    model = PatchKNN(model_name="tiny-clip", pretrained=checkpoint, device="cpu", precision="bf16").fit(GOOD)
    exact = PatchKNN(model_name="tiny-clip", pretrained=checkpoint, device="cpu").fit(GOOD)
    bad, _ = parts.scratched(9)
    assert model.facts()["precision"] == model.state()[1]["precision"] == "bf16"
    low, full = model.decision_function([bad])[0], exact.decision_function([bad])[0]
    assert low != full
    assert low == pytest.approx(full, rel=0.1)
    assert model.state()[0]["visual.conv1.weight"].dtype == exact.state()[0]["visual.conv1.weight"].dtype


@pytest.mark.parametrize("detector", DETECTORS)
def test_before_fit_and_without_images(open_clip, detector):
    name = detector.__name__
    with pytest.raises(RuntimeError, match=rf"^{name} is not fitted; call fit\(images\) first$"):
        small(detector).predict_batch(GOOD[:1])
    with pytest.raises(RuntimeError, match=rf"^{name} is not fitted; call fit\(images\) first$"):
        small(detector).state()
    with pytest.raises(ValueError, match=rf"^{name} needs at least one training image, found none$"):
        small(detector).fit([])
    model = small(detector).fit(GOOD[:2])
    with pytest.raises(ValueError, match=r"found none$"):
        model.fit(iter([]))
    assert not model.is_fitted
    with pytest.raises(DataError, match=r"nowhere\.png"):
        small(detector).fit(["nowhere.png"])


def test_features_that_are_no_numbers_are_an_error(open_clip, clip, tmp_path):
    import torch

    tensors = {key: value.clone() for key, value in clip.state_dict().items()}
    tensors["visual.ln_post.bias"][0] = float("nan")
    file = tmp_path / "broken.pt"
    torch.save(tensors, file)
    with pytest.raises(RunError, match=r"^tiny-clip: features contain NaN or infinity$"):
        PatchKNN(model_name="tiny-clip", pretrained=str(file), device="cpu").fit(GOOD[:1])


# ---- parameters


BAD = {
    "contamination": (0.5, "contamination (=0.5) must lie in (0, 0.5)"),
    "sigma": (-1.0, "sigma (=-1.0) must be at least 0"),
    "pretrained": ("", 'pretrained (="") must name weights of open_clip or a checkpoint file, or be true or false'),
    "batch_size": (0, 'batch_size (=0) must be at least 1, or "auto"'),
    "topk": (0.0, "topk (=0.0) must lie in (0, 1]"),
    "aggregation": ("median", "aggregation (='median') must be one of topk_mean, max, mean"),
    "class_name": (" ", "class_name (=' ') must name what is on the images"),
    "temperature": (0.0, "temperature (=0.0) must be above 0"),
    "mode": ("ratio", "mode (='ratio') must be one of diff, softmax"),
    "n_neighbors": (0, "n_neighbors (=0) must be at least 1"),
    "layer": ("blocks", 'layer (=\'blocks\') must be "norm", "patches" or "blocks.i"'),
}


@pytest.mark.parametrize(("name", "detector"), list(zip(NAMES, DETECTORS, strict=True)))
def test_all_parameters_out_of_range_are_named_at_once(name, detector):
    infos = {info.name: info for info in list_params(name)}
    assert all(info.doc for info in infos.values())
    wrong = {key: value for key, (value, _) in BAD.items() if key in infos}
    assert len(wrong) >= 6
    with pytest.raises(ParamError) as error:
        detector(**wrong)
    assert sorted(p.message for p in error.value.problems) == sorted(BAD[key][1] for key in wrong)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        (
            {"embedder": Blind()},
            "an embedder needs both normal_text_features and anomaly_text_features: it reads no texts",
        ),
        ({"normal_text_features": RIGHT}, "normal_text_features and anomaly_text_features must be given together"),
        ({"temperature": 0.07}, 'temperature (=0.07) must go with mode "softmax"'),
        ({"windows": True}, 'windows (=True) must go with mode "softmax": a harmonic mean is of positives'),
        (
            {"windows": True, "mode": "softmax", "topk": 0.5},
            "topk (=0.5) must be left out with windows: the score is the whole image's",
        ),
        (
            {"windows": True, "mode": "softmax", "aggregation": "max"},
            "aggregation (='max') must be left out with windows: the score is the whole image's",
        ),
        (
            {"windows": True, "mode": "softmax", "embedder": Blind(), **WORDS},
            "windows need an embedder with a method embed_windows(image, sides) -> (image, windows)",
        ),
        (
            {"embedder": object(), **WORDS},
            "embedder must have a method embed(image) -> (patches, grid, size)",
        ),
    ],
)
def test_parameters_that_do_not_go_together(params, message):
    with pytest.raises(ParamError) as error:
        PromptScore(**params)
    assert str(error.value) == message
    assert isinstance(error.value, ValueError)


def test_shots_out_of_range():
    for detector in (PatchKNN, WinCLIP):
        with pytest.raises(ParamError, match=r"^shots \(=0\) must be at least 1$"):
            detector(shots=0)


def test_what_open_clip_has_not_is_said_before_work(open_clip):
    def said(kind, **params) -> tuple[str, str | None]:
        with pytest.raises((SpecError, WeightsError)) as error:
            PromptScore(device="cpu", **params).prepare(download=False)
        assert isinstance(error.value, kind)
        return str(error.value), error.value.help

    message, _ = said(SpecError, model_name="ViT-B-17")
    assert message == 'model_name (="ViT-B-17"): open_clip has no such model with a vision transformer of its own'
    with pytest.raises(SpecError, match=r"^model_name \(=\"hf-hub:some/one\"\): open_clip has no such model"):
        PromptScore(model_name="hf-hub:some/one", pretrained=False).fit(GOOD[:1])
    message, next_step = said(SpecError, pretrained="laion3b")
    assert message == 'pretrained (="laion3b"): open_clip has no such weights of ViT-B-16, and there is no such file'
    assert next_step is not None
    assert next_step.startswith("Its weights: openai, laion400m_e31,")
    assert next_step.endswith(". Or pretrained = true for its usual ones, false for random ones.")
    message, _ = said(SpecError, model_name="ViT-L-14", pretrained="laion2b_s34b_b79k")
    assert message.startswith('pretrained (="laion2b_s34b_b79k"): open_clip has no such weights of ViT-L-14')
    message, _ = said(WeightsError, model_name="tiny-clip")
    assert message == "tiny-clip: open_clip publishes no weights of it"
    message, _ = said(WeightsError, model_name="tiny-clip", pretrained=True)
    assert message == "tiny-clip: open_clip publishes no weights of it"
    message, _ = said(SpecError, model_name="tiny-clip-foreign", pretrained=False)
    assert message == (
        'model_name (="tiny-clip-foreign"): its texts are read by bert-base-uncased of Hugging Face, which uadctl does '
        "not fetch"
    )
    message, _ = said(SpecError, model_name="tiny-clip-pooled", pretrained=False)
    assert message.startswith('model_name (="tiny-clip-pooled"): open_clip has no such model')
    with pytest.raises(SpecError, match=r"^layer \(='blocks\.2'\) must be a layer of tiny-clip: blocks\.0, blocks\.1,"):
        small(PatchKNN, layer="blocks.2").prepare()
    small(PatchKNN, layer="blocks.1").prepare()
    PatchKNN(model_name="tiny-clip-foreign", pretrained=False).prepare()


def test_weights_are_looked_for_offline_first(open_clip, tmp_path, checkpoint, monkeypatch):
    monkeypatch.setenv("UADCTL_OFFLINE", "1")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.delenv("UADCTL_WEIGHTS", raising=False)
    model = PatchKNN()
    assert model.weights_state() == "network"
    with pytest.raises(WeightsError, match=r"^openclip:ViT-B-16:laion2b_s34b_b88k: the weights openclip-ViT-B-16-"):
        model.prepare(download=False)
    with pytest.raises(WeightsError, match=r"are not on this machine, and UADCTL_OFFLINE is set$"):
        model.prepare()
    (tmp_path / "openclip-ViT-B-16-laion2b_s34b_b88k.bin").write_bytes(Path(checkpoint).read_bytes())
    monkeypatch.setenv("UADCTL_WEIGHTS", str(tmp_path))
    assert model.weights_state() == "UADCTL_WEIGHTS"
    model.prepare()
    with pytest.raises(WeightsError, match=r"not a checkpoint of ViT-B-16: "):
        model.fit(GOOD[:1])
    assert PatchKNN(weights=checkpoint).weights_state() == "path"
    assert PatchKNN(pretrained=checkpoint, model_name="tiny-clip").weights_state() == "path"
    assert PatchKNN(pretrained=True).weights_state() == "UADCTL_WEIGHTS"
    assert PatchKNN(embedder=Known(PATCHES)).weights_state() == "none"


def test_the_default_stands_for_the_usual_weights_of_other_models(open_clip, clip, monkeypatch, tmp_path):
    import torch

    from uadctl.features import openclip_embedder

    for detector in DETECTORS:
        assert inspect.signature(detector).parameters["pretrained"].default == openclip_embedder._DEFAULT
        large = detector(model_name="ViT-L-14").network.own
        assert large.entry.name == "openclip:ViT-L-14:laion2b_s32b_b82k"
        assert large._wanted().mean == (127.5, 127.5, 127.5)
        assert detector().network.own.entry.name == "openclip:ViT-B-16:laion2b_s34b_b88k"
    monkeypatch.setattr(door, "tags_of", lambda model: ["own_e1"] if model == "tiny-clip" else [])
    monkeypatch.setattr(open_clip, "get_pretrained_cfg", lambda model, tag: {"hf_hub": "some/one/"} if tag else {})
    monkeypatch.setenv("UADCTL_OFFLINE", "1")
    monkeypatch.setenv("UADCTL_WEIGHTS", str(tmp_path))
    torch.save(clip.state_dict(), tmp_path / "openclip-tiny-clip-own_e1.bin")
    model = PatchKNN(model_name="tiny-clip", device="cpu").fit(GOOD[:2])
    assert model.facts()["weights_tag"] == "own_e1"
    again = PatchKNN(model_name="tiny-clip", device="cpu").restore(*model.state())
    assert again.facts() == model.facts()


def test_with_a_file_the_name_of_published_weights_is_not_looked_at(open_clip, checkpoint):
    for pretrained in ({}, {"pretrained": "laion3b"}, {"pretrained": True}):
        model = PatchKNN(model_name="tiny-clip", weights=checkpoint, device="cpu", **pretrained)
        model.prepare()
        assert model.weights_state() == "path"
        assert model.fit(GOOD[:1]).facts()["weights_file"] == "tiny.pt"
        assert "weights_tag" not in model.facts()
    # Whose activation the file goes with, where that is told.
    assert not PatchKNN(weights=checkpoint).network.own._wanted().quick_gelu
    assert PatchKNN(weights=checkpoint, pretrained="openai").network.own._wanted().quick_gelu


def test_without_pretrained_nothing_is_ever_downloaded(open_clip, monkeypatch):
    def forbidden(*_, **__):
        raise AssertionError("a download")

    import huggingface_hub
    import open_clip.factory
    import open_clip.pretrained

    monkeypatch.setattr(urllib.request, "urlopen", forbidden)
    monkeypatch.setattr(socket.socket, "connect", forbidden)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", forbidden)
    for module in (open_clip.pretrained, open_clip.factory):
        for name in [n for n in vars(module) if "download" in n]:
            monkeypatch.setattr(module, name, forbidden)
    for detector in DETECTORS:
        model = small(detector)
        assert model.doubts() == [
            "pretrained = false: the backbone's weights are random, the scores mean little",
        ]
        model.prepare()
        model.fit(GOOD[:2])
        assert model.facts()["weights"] == "random"


@pytest.mark.parametrize(("name", "detector"), list(zip(NAMES, DETECTORS, strict=True)))
def test_without_open_clip_it_is_said_when_it_is_needed(name, detector, monkeypatch):
    monkeypatch.setitem(sys.modules, "open_clip", None)
    model = create_model(name)
    assert isinstance(model, detector)
    assert model.stride in (1, 16)
    for work in (model.prepare, lambda: model.fit(GOOD[:1])):
        with pytest.raises(BackendMissing) as error:
            work()
        assert str(error.value) == (
            f"{name} needs open_clip, which is not installed. Install it with: pip install 'uadctl[clip]'"
        )
    with pytest.raises(BackendMissing, match=r"^openclip:ViT-B-16 needs open_clip, which is not installed\."):
        door.describe("ViT-B-16")


def test_an_embedder_of_ones_own_needs_no_open_clip(monkeypatch):
    monkeypatch.setitem(sys.modules, "open_clip", None)
    for model in (
        PromptScore(embedder=Known(PATCHES), **WORDS),
        PatchKNN(embedder=Known(PATCHES)),
        WinCLIP(embedder=Known(PATCHES, WHOLE, WINDOWS), **WORDS),
    ):
        model.prepare()
        again = type(model)(embedder=model.network.brought, **({} if type(model) is PatchKNN else WORDS))
        again.restore(*model.fit([image(0), image(2)]).state())
        assert again.decision_function([image(1)]) == model.decision_function([image(1)])
        assert again.doubts() == []


# ---- specs and the command line


def test_pretrained_may_be_a_name_or_false_in_a_spec():
    def params(**overrides) -> dict[str, object]:
        read = read_spec(None, Overrides(dataset="demo", model="winclip", **overrides))
        return dict(read.spec.models[0].params)

    assert params()["pretrained"] == "laion2b_s34b_b88k"
    assert params(pretrained=False)["pretrained"] is False
    assert params(pretrained=True)["pretrained"] is True
    assert params(model_kwargs='{"pretrained": "openai"}')["pretrained"] == "openai"
    with pytest.raises(SpecError):
        params(model_kwargs='{"pretrained": 3}')


@pytest.mark.parametrize("name", NAMES)
def test_bench_runs_offline_with_random_weights(open_clip, uadctl, name):
    kwargs = json.dumps({"model_name": "tiny-clip"})
    ended = uadctl(
        *(
            "bench",
            "--dataset",
            "demo",
            "--model",
            name,
            "--model-kwargs",
            kwargs,
            "--no-pretrained",
            "--device",
            "cpu",
        ),
        *(
            "--category",
            "woven_fabric",
            "--set",
            "run.threads=1",
            "--limit-train",
            3,
            "--limit-test",
            6,
            "--json",
            "--set",
            "preprocess.size=64",
        ),
    )
    (category,) = ended.json["results"].values()
    (label,) = category.values()
    (cell,) = label.values()
    assert cell["success"] is True
    assert 0 <= cell["metrics"]["image_auroc"] <= 1
    assert 0 <= cell["metrics"]["pixel_auroc"] <= 1
    assert "the scores mean little" in ended.err
    (run,) = Path("runs").iterdir()
    facts = json.loads((run / "run.json").read_text(encoding="utf-8"))
    assert '"weights": "random"' in json.dumps(facts)


def test_score_needs_no_weights(open_clip, uadctl, checkpoint, one_category, monkeypatch):
    kwargs = json.dumps({"model_name": "tiny-clip", "weights": checkpoint, "pretrained": True, "mode": "softmax"})
    uadctl(
        *("fit", "--dataset", "mvtec", "--root", one_category, "--model", "openclip_promptscore"),
        *("--model-kwargs", kwargs, "--device", "cpu", "--set", "preprocess.size=64"),
    )
    monkeypatch.setattr(door, "convert", None)  # nobody reads a checkpoint now
    (run,) = Path("runs").iterdir()
    ended = uadctl("score", run, one_category / "tile" / "test" / "scratch", "--json", "--device", "cpu")
    assert [line["status"] for line in ended.lines] == ["ok"] * 3


def words_of(run: Path) -> dict[str, object]:
    """The class names that the models of a run were built with, by category; None where the model's own was left."""
    files = sorted(run.glob("units/*/*/0/model/model.json"))
    return {f.parts[-5]: json.loads(f.read_text(encoding="utf-8"))["params"].get("class_name") for f in files}


def test_the_category_is_the_class_name_of_a_run(open_clip, uadctl, tmp_path):
    root = tmp_path / "data"
    parts.write_category(root, "metal_nut", train=2, good=1, bad=1)
    options = ("--no-pretrained", "--device", "cpu", "--set", "preprocess.size=32", "--set", "run.threads=1", "--json")

    def bench(*data, **params) -> Path:
        kwargs = json.dumps({"model_name": "tiny-clip", **params})
        ended = uadctl("bench", *data, "--model", "openclip_promptscore", "--model-kwargs", kwargs, *options)
        return Path(ended.json["run"])

    run = bench("--dataset", "mvtec", "--root", root)
    assert words_of(run) == {"metal_nut": "metal nut"}
    assert "class_name" not in (run / "spec.toml").read_text(encoding="utf-8")
    again = Path(uadctl("bench", run / "spec.toml", "--json").json["run"])
    assert again != run
    assert words_of(again) == {"metal_nut": "metal nut"}
    own = bench("--dataset", "mvtec", "--root", root, class_name="hex nut")
    assert words_of(own) == {"metal_nut": "hex nut"}
    assert 'class_name = "hex nut"' in (own / "spec.toml").read_text(encoding="utf-8")
    demo = bench("--dataset", "demo", "--category", "woven_fabric", "--limit-train", 2, "--limit-test", 2)
    assert words_of(demo) == {"woven_fabric": None}
    folder = Path(
        uadctl(
            *("fit", "--good", root / "metal_nut" / "train" / "good", "--model", "openclip_promptscore"),
            *("--model-kwargs", json.dumps({"model_name": "tiny-clip"}), *options),
        ).json["run"]
    )
    assert words_of(folder) == {"good": None}


# ---- anomalib's WinCLIP


# anomalib's import leaves DeprecationWarnings of its own dependencies behind; they are not ours to mend.
@pytest.mark.filterwarnings("ignore")
@pytest.mark.slow
def test_equals_anomalibs_winclip(open_clip, clip, checkpoint, monkeypatch):
    pytest.importorskip("anomalib", reason="the reference implementation is anomalib's")
    import torch
    from anomalib.models.image.winclip import prompting, torch_model

    monkeypatch.setattr(open_clip, "create_model_and_transforms", lambda *_, **__: (clip, None, None))
    apart = torch_model.WinClipModel._get_window_embeddings

    def window_embeddings(self, *args):
        # anomalib 2.7 hands the transformer (length, windows, width), but open_clip's takes the batch first by now:
        # tokens of different windows would attend to each other, and each window to none of its own patches.
        monkeypatch.setattr(self.clip.visual.transformer, "batch_first", False)
        try:
            return apart(self, *args)
        finally:
            monkeypatch.setattr(self.clip.visual.transformer, "batch_first", True)

    monkeypatch.setattr(torch_model.WinClipModel, "_get_window_embeddings", window_embeddings)
    reference = torch_model.WinClipModel(
        class_name="metal nut", reference_images=torch.cat([normalised(g) for g in GOOD[:3]])
    ).eval()
    images = [parts.scratched(9)[0], parts.surface(20)]
    try:
        with torch.inference_mode():
            few = reference(torch.cat([normalised(i) for i in images]))
            reference.k_shot = 0
            zero = reference(torch.cat([normalised(i) for i in images]))
    finally:
        clip.visual.output_tokens = False
    normal, anomaly = reference.text_embeddings.numpy()
    params = {
        "model_name": "tiny-clip",
        "pretrained": checkpoint,
        "device": "cpu",
        "normal_text_features": normal,
        "anomaly_text_features": anomaly,
        "sigma": 0,
    }
    words = PromptScore(**params, mode="softmax", windows=True, temperature=0.07).fit(GOOD[:1])
    both = WinCLIP(**params).fit(GOOD[:3])
    for model, expected in ((words, zero), (both, few)):
        for i, prediction in enumerate(model.predict_batch(images)):
            assert prediction.score == pytest.approx(float(expected.pred_score[i]), abs=2e-6)
            np.testing.assert_allclose(prediction.map, expected.anomaly_map[i], atol=2e-6)
    # Its list of templates lacks one of the paper's, and has another twice.
    for ours, theirs in zip(prompt_ensemble("nut"), prompting.create_prompt_ensemble("nut"), strict=True):
        assert set(theirs) < set(ours)
        assert len(ours) - len(set(theirs)) == len(ours) // 22 * 2
