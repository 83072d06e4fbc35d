"""DINOv2's vision transformers (Oquab et al., TMLR 2024; registers: Darcet et al., ICLR 2024).

Written anew, and cut after the last layer used. Tensors have the names of the published checkpoints, which load as they
are. Patches have 14 pixels, attention heads 64 channels.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from uadctl.errors import SpecError, WeightsError
from uadctl.features.network import Architecture, Trunk
from uadctl.spec.registry import resolve_backbone

if TYPE_CHECKING:
    from torch import Tensor, nn

_PATCH = 14
# Rows and columns of patches that position embeddings were learned for: images of 518x518.
_SIDE = 37
_HEAD = 64
_EPS = 1e-6
_REGISTERS = 4
# How far the patch tokens of a network of somebody else's may be from ours, over their size: its attention may be
# computed by other kernels, which moves them by 1e-6 to 1e-5.
_SAME = 1e-3
_LINEAR_STD, _TOKEN_STD = 0.02, 1e-6


@dataclass(frozen=True, slots=True)
class _Plan:
    """One of the networks, cut. gated: the two halves of the MLP's hidden layer are multiplied (SwiGLU), as in g."""

    name: str
    width: int
    blocks: int
    registers: int
    gated: bool
    layers: tuple[str, ...]


def build(name: str, layers: tuple[str, ...]) -> Trunk:
    """The network `name`, cut after the last of `layers`.

    "blocks.0" … are what comes out of a block; "norm" is what comes out of the last one after the final layer norm.
    """
    entry = resolve_backbone(name)
    depth = len(entry.channels) - 1
    last = depth if "norm" in layers else 1 + max(int(layer.removeprefix("blocks.")) for layer in layers)
    plan = _Plan(
        name=entry.name,
        width=entry.channels["norm"],
        blocks=last,
        registers=_REGISTERS if entry.name.endswith("_reg") else 0,
        gated="vitg14" in entry.name,
        layers=tuple(layers),
    )
    return Trunk(functools.partial(_make, plan))


def _make(plan: _Plan) -> nn.Module:
    import torch
    from torch import nn

    class VisionTransformer(nn.Module):
        """Tensors by their published names; what is done with them is `_forward`."""

        def __init__(self) -> None:
            super().__init__()
            width = plan.width
            self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
            self.pos_embed = nn.Parameter(torch.zeros(1, 1 + _SIDE * _SIDE, width))
            if plan.registers:
                self.register_tokens = nn.Parameter(torch.zeros(1, plan.registers, width))
            self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(3, width, _PATCH, _PATCH)})
            self.blocks = nn.ModuleList([_block(width, gated=plan.gated) for _ in range(plan.blocks)])
            if "norm" in plan.layers:
                self.norm = nn.LayerNorm(width, eps=_EPS)
            # The position embeddings of the grid that came last: images of a run have one size, or few.
            self.placed: tuple[tuple[int, int], Tensor] | None = None

        def forward(self, images: Tensor) -> list[Tensor]:
            return _forward(self, plan, images)

    return VisionTransformer()


def _block(width: int, *, gated: bool) -> nn.ModuleDict:
    """One transformer block: attention and an MLP, each behind a layer norm and before a learned scale."""
    import torch
    from torch import nn

    hidden = 4 * width
    if gated:
        hidden = (hidden * 2 // 3 + 7) // 8 * 8
        mlp = {"w12": nn.Linear(width, 2 * hidden), "w3": nn.Linear(hidden, width)}
    else:
        mlp = {"fc1": nn.Linear(width, hidden), "fc2": nn.Linear(hidden, width)}
    return nn.ModuleDict(
        {
            "norm1": nn.LayerNorm(width, eps=_EPS),
            "attn": nn.ModuleDict({"qkv": nn.Linear(width, 3 * width), "proj": nn.Linear(width, width)}),
            "ls1": nn.ParameterDict({"gamma": torch.ones(width)}),
            "norm2": nn.LayerNorm(width, eps=_EPS),
            "mlp": nn.ModuleDict(mlp),
            "ls2": nn.ParameterDict({"gamma": torch.ones(width)}),
        }
    )


# -- computing


def _forward(network: Any, plan: _Plan, images: Tensor) -> list[Tensor]:
    """(B, 3, H, W) normalised images -> a (B, width, H / 14, W / 14) map of the patch tokens for each layer."""
    import torch

    height, width = images.shape[-2:]
    if height % _PATCH or width % _PATCH:
        raise SpecError(
            f"{plan.name} takes images whose sides are multiples of {_PATCH}, found {height}x{width} (height x width)",
            help="Let [preprocess] size make them so, or choose such sides for resize and crop.",
        )
    grid = (height // _PATCH, width // _PATCH)
    before, count = 1 + plan.registers, len(images)

    def as_map(x: Tensor) -> Tensor:
        return x[:, before:].transpose(1, 2).reshape(count, plan.width, *grid)

    patches = network.patch_embed["proj"](images).flatten(2).transpose(1, 2)
    x = torch.cat([network.cls_token.expand(count, -1, -1), patches], dim=1) + _positions(network, plan, grid)
    if plan.registers:  # they have no place
        x = torch.cat([x[:, :1], network.register_tokens.expand(count, -1, -1), x[:, 1:]], dim=1)
    maps = []
    for i, block in enumerate(network.blocks):
        x = x + block["ls1"]["gamma"] * _attention(block["attn"], block["norm1"](x))
        x = x + block["ls2"]["gamma"] * _mlp(block["mlp"], block["norm2"](x), gated=plan.gated)
        if f"blocks.{i}" in plan.layers:
            maps.append(as_map(x))
    if "norm" in plan.layers:
        maps.append(as_map(network.norm(x)))
    return maps


def _attention(attn: Any, x: Tensor) -> Tensor:
    from torch.nn import functional

    batch, tokens, width = x.shape
    q, k, v = attn["qkv"](x).reshape(batch, tokens, 3, width // _HEAD, _HEAD).permute(2, 0, 3, 1, 4)
    mixed = functional.scaled_dot_product_attention(q, k, v)
    out: Tensor = attn["proj"](mixed.transpose(1, 2).reshape(batch, tokens, width))
    return out


def _mlp(mlp: Any, x: Tensor, *, gated: bool) -> Tensor:
    from torch.nn import functional

    out: Tensor
    if gated:
        gate, value = mlp["w12"](x).chunk(2, dim=-1)
        out = mlp["w3"](functional.silu(gate) * value)
    else:
        out = mlp["fc2"](functional.gelu(mlp["fc1"](x)))
    return out


def _positions(network: Any, plan: _Plan, grid: tuple[int, int]) -> Tensor:
    """The (1, 1 + h w, width) position embeddings of a grid of patches: learned for one grid, interpolated for others.

    Bicubic, as the published networks were evaluated: those without registers with a tenth of a patch added to the
    size that the scale is computed from and without antialiasing, those with registers to the exact size and with it.
    """
    import torch
    from torch.nn import functional

    learned: Tensor = network.pos_embed
    if grid == (_SIDE, _SIDE):
        return learned
    if network.placed is None or network.placed[0] != grid:
        # Not every version of torch has all of this on Apple's GPUs.
        device = torch.device("cpu") if learned.device.type == "mps" else learned.device
        square = learned[:, 1:].to(device, torch.float32).transpose(1, 2).reshape(1, -1, _SIDE, _SIDE)
        if plan.registers:
            other = functional.interpolate(square, size=grid, mode="bicubic", antialias=True)
        else:
            scale = ((grid[0] + 0.1) / _SIDE, (grid[1] + 0.1) / _SIDE)
            other = functional.interpolate(square, scale_factor=scale, mode="bicubic")
        placed = torch.cat([learned[:, :1], other.flatten(2).transpose(1, 2).to(learned)], dim=1)
        network.placed = grid, placed
    found: Tensor = network.placed[1]
    return found


# -- tensors


def draw(name: str, architecture: Architecture | Trunk) -> dict[str, Tensor]:
    """Random tensors for `architecture` from torch's global generator: those that training starts from."""
    import torch
    from torch.nn import init

    out = {}
    for key, shape in architecture.shapes().items():
        tensor = torch.zeros(shape)
        if key in ("cls_token", "register_tokens"):
            init.normal_(tensor, std=_TOKEN_STD)
        elif key == "patch_embed.proj.weight":
            init.kaiming_uniform_(tensor, a=5**0.5)
        elif key == "pos_embed" or len(shape) == 2:
            init.trunc_normal_(tensor, std=_LINEAR_STD)
        elif key.endswith(("gamma", "norm.weight", "norm1.weight", "norm2.weight")):
            init.ones_(tensor)
        out[key] = tensor
    return out


def convert(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A published checkpoint, or one of the same network in timm's names, in ours and without what only training needs.

    timm adds the class token's position embedding to that token where there are registers, and has other names for
    these and for the gated MLP (`vit_*_patch14_dinov2`, `vit_*_patch14_reg4_dinov2`).
    """
    import torch

    out = {}
    for key, value in state.items():
        if key == "mask_token" or key.startswith("head."):
            continue
        if key == "reg_token":
            out["register_tokens"] = value
        elif key == "pos_embed" and value.ndim == 3 and "reg_token" in state:
            out[key] = torch.cat([torch.zeros_like(value[:, :1]), value], dim=1)
        elif key.startswith("blocks.") and ".mlp." in key and _is_gated(state, key):
            out[key.replace(".fc1.", ".w12.").replace(".fc2.", ".w3.")] = value
        else:
            out[key] = value
    return out


def _is_gated(state: Mapping[str, Tensor], key: str) -> bool:
    """Whether the MLP that this tensor is of multiplies the two halves of its hidden layer."""
    place = key[: key.index(".mlp.")]
    first, second = (state.get(f"{place}.mlp.{name}.weight") for name in ("fc1", "fc2"))
    return first is not None and second is not None and len(first) == 2 * second.shape[-1]


def from_repository(repo: str, name: str, *, pretrained: bool, seed: int) -> dict[str, Tensor]:
    """The tensors of the network `name` of a local clone of the published repository, in our names.

    `torch.hub.load` runs the clone's code, which builds the network, and if `pretrained` fetches its weights as it does
    (into torch hub's cache). Its patch tokens of a random image are compared with ours: features come from our network.

    seed: of random weights. Raises WeightsError if it cannot be built, is offline without its weights or differs.
    """
    import torch

    _check_clone(repo, name, pretrained=pretrained)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            theirs = torch.hub.load(repo, name, source="local", pretrained=pretrained)  # type: ignore[no-untyped-call]
        except (ImportError, RuntimeError, OSError) as error:
            raise WeightsError(f"{repo}: torch.hub.load cannot make {name} of it: {error}") from error
        image = torch.randn(1, 3, 4 * _PATCH, 5 * _PATCH)
        ours = build(name, ("norm",)).make()
    state = convert({key: value.detach().cpu() for key, value in theirs.state_dict().items()})
    try:
        ours.load_state_dict(state, strict=True)
    except RuntimeError as error:
        raise WeightsError(f"{repo}: its {name} has other tensors than the published one") from error
    with torch.inference_mode():
        expected = theirs.cpu().float().eval().forward_features(image)["x_norm_patchtokens"]
        (found,) = ours.eval()(image)
        away = float((found.flatten(2).transpose(1, 2) - expected).norm() / expected.norm())
    if not away <= _SAME:
        raise WeightsError(
            f"{repo}: its {name} does not compute what uadctl's does with the same tensors: patch tokens of a random "
            f"image are {away:.2g} of their size away",
            help="Expected: a clone of https://github.com/facebookresearch/dinov2",
        )
    return state


def _check_clone(repo: str, name: str, *, pretrained: bool) -> None:
    import torch

    from uadctl.features.weights import absent, offline

    if not (Path(repo) / "hubconf.py").is_file():
        raise WeightsError(
            f"{repo}: no clone of a torch hub repository: it has no hubconf.py",
            help="Make one with: git clone https://github.com/facebookresearch/dinov2",
        )
    entry = resolve_backbone(name)
    cached = Path(torch.hub.get_dir()) / "checkpoints" / entry.weights.file
    if pretrained and offline() and not cached.is_file():
        raise absent(entry, "UADCTL_OFFLINE is set")
