"""OpenCLIP's vision transformers (Ilharco et al., OpenCLIP, 2021, doi 10.5281/zenodo.5143773; Radford et al., Learning

Transferable Visual Models From Natural Language Supervision, ICML 2021) as backbones: "openclip:MODEL" and
"openclip:MODEL:TAG", by open_clip's own names of models and of their published weights.

open_clip defines the networks. Their weights come through `uadctl.features.weights`, never by its own downloads. Towers
that are not its VisionTransformer (its ResNets, those of timm, CoCa's pooling by attention) are not offered.
"""

from __future__ import annotations

import functools
import importlib.util
import json
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from uadctl.features.network import Trunk
from uadctl.records import Size
from uadctl.spec import require
from uadctl.spec.registry import BackboneEntry, Weights

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

PREFIX = "openclip:"
# The keys of open_clip's vision_cfg that `TowerConfig` understands, or that mean nothing once a network is trained.
_UNDERSTOOD = {
    *("image_size", "patch_size", "width", "layers", "head_width", "mlp_ratio", "ls_init_value"),
    *("no_ln_pre", "pool_type", "final_ln_after_pool", "patch_dropout", "output_tokens"),
}
# The weights of a model whose name is given without a tag: those learned from LAION-2B; else the last of open_clip.
_USUAL_TAG = {
    "ViT-B-32": "laion2b_s34b_b79k",
    "ViT-B-16": "laion2b_s34b_b88k",
    "ViT-L-14": "laion2b_s32b_b82k",
    "ViT-H-14": "laion2b_s32b_b79k",
    "ViT-g-14": "laion2b_s34b_b88k",
    "ViT-bigG-14": "laion2b_s39b_b160k",
    "ViT-B-16-quickgelu": "openai",
    "ViT-B-32-quickgelu": "openai",
    "ViT-L-14-quickgelu": "openai",
}
_PAPER = 'Radford et al., "Learning Transferable Visual Models From Natural Language Supervision", ICML 2021'


@dataclass(frozen=True, slots=True, kw_only=True)
class TowerConfig:
    """What an image tower is made of, and what it takes: JSON values, so that a run can rebuild it.

    image_size: height and width that it was trained at. head_width: numbers of an attention head.
    layer_scale: the blocks scale what they add, starting from this; None: they do not.
    pool: "tok", the class token is the image; "avg", the mean of the patches is.
    norm_after_pool: the last layer norm comes after that. embed_dim: numbers of an image's, and a text's, embedding.
    quick_gelu: the activation is x sigmoid(1.702 x), OpenAI's, in place of GELU.
    mean, std: the input is (x - mean) / std, x in 0..255, RGB.
    """

    image_size: tuple[int, int]
    patch_size: int
    width: int
    blocks: int
    head_width: int
    mlp_ratio: float
    layer_scale: float | None
    norm_before: bool
    pool: str
    norm_after_pool: bool
    embed_dim: int
    quick_gelu: bool
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def to_json(self) -> dict[str, Any]:
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}

    @classmethod
    def from_json(cls, facts: Mapping[str, Any]) -> TowerConfig:
        values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in facts.items()}
        return cls(**values)

    @property
    def channels(self) -> dict[str, int]:
        """Numbers of each layer: the blocks, "norm", the last one after the last layer norm, and "patches", that in

        the space of the embeddings.
        """
        inner = (*(f"blocks.{i}" for i in range(self.blocks)), "norm")
        return {**dict.fromkeys(inner, self.width), "patches": self.embed_dim}


# -- the door


def describe(name: str) -> BackboneEntry | None:
    """What "openclip:" + name is, name being "MODEL" or "MODEL:TAG"; None if open_clip has no such vision transformer.

    Raises BackendMissing without open_clip.
    """
    require("open_clip", "clip", needed_by=f"{PREFIX}{name}")
    model, _, tag = name.partition(":")
    tag = tag or usual_tag(model)
    config = tower_config(model, tag)
    if config is None:
        return None
    return BackboneEntry(
        name=f"{PREFIX}{model}" + (f":{tag}" if tag else ""),
        target="uadctl.features.openclip:build",
        summary=f"OpenCLIP's {model}" + (f", weights {tag}." if tag else ", of which no weights are published."),
        layers=("norm",),
        channels=config.channels,
        strides=dict.fromkeys(config.channels, config.patch_size),
        weights=_published(model, tag),
        mean=config.mean,
        std=config.std,
        paper=_PAPER,
    )


def tags_of(model: str) -> list[str]:
    """The names of the weights that open_clip knows of a model, in its order."""
    tags: list[str] = require("open_clip", "clip").list_pretrained_tags_by_model(model)
    return tags


def usual_tag(model: str) -> str:
    """The weights meant by a model's name alone; "" if none are published."""
    tags = tags_of(model)
    usual = _USUAL_TAG.get(model)
    return usual if usual in tags else (tags or [""])[-1]


def tower_config(model: str, tag: str) -> TowerConfig | None:
    """The image tower of a model with these weights, "" for weights of one's own; None if there is no such.

    The tag may change the activation: open_clip lists OpenAI's weights under models with either one.
    """
    open_clip = require("open_clip", "clip")
    whole = open_clip.get_model_config(model) if ":" not in model else None
    if whole is None or (tag and tag not in tags_of(model)):
        return None
    vision = whole["vision_cfg"]
    if not set(vision) <= _UNDERSTOOD or not isinstance(vision["layers"], int):
        return None
    known = open_clip.get_pretrained_cfg(model, tag) if tag else {}
    size = vision.get("image_size", 224)
    return TowerConfig(
        image_size=(size, size) if isinstance(size, int) else (size[0], size[1]),
        patch_size=vision["patch_size"],
        width=vision["width"],
        blocks=vision["layers"],
        head_width=vision.get("head_width", 64),
        mlp_ratio=vision.get("mlp_ratio", 4.0),
        layer_scale=vision.get("ls_init_value"),
        norm_before=not vision.get("no_ln_pre", False),
        pool=vision.get("pool_type", "tok"),
        norm_after_pool=vision.get("final_ln_after_pool", False),
        embed_dim=whole["embed_dim"],
        quick_gelu=bool(whole.get("quick_gelu", False) or known.get("quick_gelu", False)),
        mean=_bytes(known.get("mean", open_clip.OPENAI_DATASET_MEAN)),
        std=_bytes(known.get("std", open_clip.OPENAI_DATASET_STD)),
    )


def _bytes(shares: tuple[float, ...]) -> tuple[float, float, float]:
    red, green, blue = (255 * share for share in shares)
    return red, green, blue


def _published(model: str, tag: str) -> Weights:
    """The file that open_clip itself would take: that of Hugging Face, which holds tensors only.

    (OpenAI's own files are TorchScript, code and all, and are refused.) Hugging Face publishes no checksum that is
    known before the download.
    """
    open_clip = require("open_clip", "clip")
    repo = open_clip.get_pretrained_cfg(model, tag).get("hf_hub", "").rstrip("/") if tag else ""
    return Weights(
        file=f"openclip-{model}-{tag or 'own'}.bin",
        sha256="",
        licence=_licence(tag, repo),
        url=f"https://huggingface.co/{repo}/resolve/main/open_clip_pytorch_model.bin" if repo else None,
    )


def _licence(tag: str, repo: str) -> str:
    if not repo:
        return "your own"
    if "metaclip" in tag:
        return "CC BY-NC 4.0"
    if repo.startswith("laion/") or tag == "openai" or tag.startswith("laion"):
        return "MIT"
    return f"see https://huggingface.co/{repo}"


def patch_size(model: str) -> int:
    """Sides of an image should be multiples of this; 1 where open_clip is absent or has no such model.

    Read from open_clip's file on the model: importing the package takes seconds, and this is asked of any detector.
    """
    loaded = sys.modules.get("open_clip")
    if loaded is not None:
        whole = loaded.get_model_config(model) if ":" not in model else None
    else:
        spec = importlib.util.find_spec("open_clip")
        folders = (spec.submodule_search_locations if spec else None) or []
        files = [Path(folder) / "model_configs" / f"{model}.json" for folder in folders]
        whole = next((json.loads(file.read_text(encoding="utf-8")) for file in files if file.is_file()), None)
    size = whole["vision_cfg"].get("patch_size", 1) if whole else 1
    return size if isinstance(size, int) else 1


# -- the network


def make_tower(config: TowerConfig) -> torch.nn.Module:
    """open_clip's VisionTransformer, drawn from torch's global generator."""
    from torch import nn

    parts = require("open_clip.transformer", "clip")
    tower: nn.Module = parts.VisionTransformer(
        image_size=config.image_size,
        patch_size=config.patch_size,
        width=config.width,
        layers=config.blocks,
        heads=config.width // config.head_width,
        mlp_ratio=config.mlp_ratio,
        ls_init_value=config.layer_scale,
        no_ln_pre=not config.norm_before,
        pool_type=config.pool,
        final_ln_after_pool=config.norm_after_pool,
        output_dim=config.embed_dim,
        act_layer=parts.QuickGELU if config.quick_gelu else nn.GELU,
    )
    return tower


def tokens(tower: Any, images: torch.Tensor) -> tuple[torch.Tensor, Size]:
    """What enters the first block, (B, 1 + h w, width), the class token first, and the grid (h, w) of the patches.

    images: (B, 3, H, W), normalised, of any size: sides that are no multiple of a patch are brought to the nearest one.
    """
    import torch
    from torch.nn import functional

    patch = tower.patch_size[0]
    size = [max(1, round(side / patch)) * patch for side in images.shape[-2:]]
    if size != list(images.shape[-2:]):
        images = functional.interpolate(images.float(), size, mode="bilinear", antialias=True)
    cells = tower.conv1(images.to(tower.conv1.weight.dtype))
    grid = Size(*cells.shape[-2:])
    rows = cells.flatten(2).transpose(1, 2)
    first = tower.class_embedding.expand(len(rows), 1, -1)
    return tower.ln_pre(torch.cat([first, rows], dim=1) + _positions(tower, grid)), grid


def _positions(tower: Any, grid: Size) -> torch.Tensor:
    """(1 + h w, width) positions on a grid: those learned, or interpolated as open_clip does for another image size."""
    import torch
    from torch.nn import functional

    learned: torch.Tensor = tower.positional_embedding
    if tuple(tower.grid_size) == grid:
        return learned
    field = learned[1:].float().reshape(1, *tower.grid_size, -1).permute(0, 3, 1, 2)
    field = functional.interpolate(field, size=list(grid), mode="bicubic", antialias=True, align_corners=False)
    return torch.cat([learned[:1], field.flatten(2)[0].T.to(learned.dtype)])


def pooled(tower: Any, x: torch.Tensor) -> torch.Tensor:
    """(B, embed_dim) embeddings of sequences of tokens that have passed all blocks, as open_clip's encode_image."""
    if tower.pool_type == "avg":
        x = tower.ln_post(x[:, 1:].mean(dim=1)) if tower.final_ln_after_pool else tower.ln_post(x[:, 1:]).mean(dim=1)
    else:
        x = tower.ln_post(x[:, 0])
    projected: torch.Tensor = x @ tower.proj
    return projected


def layer_outputs(tower: Any, x: torch.Tensor, layers: tuple[str, ...]) -> dict[str, torch.Tensor]:
    """The (B, h w, channels) patch tokens of some layers; computes no block beyond the last one needed.

    x: from `tokens`.
    """
    last = max(int(layer[7:]) if layer.startswith("blocks.") else len(tower.transformer.resblocks) for layer in layers)
    out = {}
    for i, block in enumerate(tower.transformer.resblocks):
        if i > last:
            break
        x = block(x)
        if f"blocks.{i}" in layers:
            out[f"blocks.{i}"] = x[:, 1:]
    if "norm" in layers or "patches" in layers:
        out["norm"] = tower.ln_post(x[:, 1:])
    if "patches" in layers:
        out["patches"] = out["norm"] @ tower.proj
    return {layer: out[layer] for layer in layers}


@functools.cache
def windows_of(grid: Size, side: int) -> NDArray[np.int64]:
    """(n, k) the numbers of the patches that each window covers, windows and patches row by row.

    Windows are side x side patches, at every place of the grid (stride 1; section 4.3 of WinCLIP); where the grid is
    smaller than that, as large as it.
    """
    height, width = min(side, grid.height), min(side, grid.width)
    numbers = np.arange(grid.height * grid.width).reshape(grid)
    views = np.lib.stride_tricks.sliding_window_view(numbers, (height, width))
    out = np.ascontiguousarray(views.reshape(-1, height * width))
    out.flags.writeable = False  # everybody is given the same array
    return out


# -- as a backbone


def build(name: str, layers: tuple[str, ...]) -> Trunk:
    """The image tower `name`, cut after the last of `layers`."""
    model, _, tag = name.removeprefix(PREFIX).partition(":")
    config = tower_config(model, tag)
    if config is None:
        raise ValueError(f"{name}: open_clip has no such vision transformer")
    return Trunk(functools.partial(_cut, config, layers))


def _cut(config: TowerConfig, layers: tuple[str, ...]) -> torch.nn.Module:
    from torch import nn

    class Cut(nn.Module):
        """The tower up to its last layer used; tensors have the names of open_clip's checkpoints."""

        def __init__(self) -> None:
            super().__init__()
            tower: Any = make_tower(config)
            if "patches" not in layers:
                tower.proj = None
                if "norm" not in layers:
                    tower.ln_post = nn.Identity()
                    last = max(int(layer.removeprefix("blocks.")) for layer in layers)
                    tower.transformer.resblocks = tower.transformer.resblocks[: last + 1]
            self.visual = tower

        def forward(self, images: torch.Tensor) -> list[torch.Tensor]:
            x, grid = tokens(self.visual, images)
            maps = layer_outputs(self.visual, x, layers).values()
            return [m.transpose(1, 2).reshape(len(m), -1, *grid) for m in maps]

    return Cut()


def convert(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """An open_clip checkpoint of image and text tower, as it is, or saved from a wrapped model ("module.")."""
    return {key.removeprefix("module."): value for key, value in state.items()}


def draw(name: str, architecture: Trunk) -> dict[str, torch.Tensor]:
    """Random tensors for `architecture` from torch's global generator: those that open_clip would start from."""
    return dict(architecture.make().state_dict())
