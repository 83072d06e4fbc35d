"""torchvision's classification networks by name, cut after the last layer used.

What there is stands in uadctl/spec/torchvision.json: layers, channels, strides and weights files. The networks are
built by torchvision itself and cut by its feature extraction, so their tensors have the names of its checkpoints. Its
ResNets are described apart, in `uadctl.features.resnet`, where they need no torchvision and run faster.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

from uadctl.features.network import Trunk

if TYPE_CHECKING:
    import torch

# Set by builders for training only: auxiliary classifiers, and a slow way to draw weights that a checkpoint replaces.
_OPTIONS: dict[str, dict[str, Any]] = {"googlenet": {"aux_logits": False, "init_weights": False}}
# Networks whose stages give (B, h, w, channels).
_CHANNELS_LAST = ("swin_",)
# The densely connected networks' files are older than the names of their modules.
_OLD_NAME = re.compile(r"(\.denselayer\d+\.(?:norm|relu|conv))\.(\d)\.")
# Builders that compute with tensors how wide a block is: they need real ones even where only shapes are asked for.
_REAL = ("regnet_",)
# What the trunk calls the network that it cuts.
_BODY = "body."


def build(name: str, layers: tuple[str, ...]) -> Trunk:
    """The network `name`, cut after the last of `layers` (those of its entry, in their order)."""

    def make() -> torch.nn.Module:
        import torch
        import torchvision
        from torch import nn
        from torchvision.models.feature_extraction import create_feature_extractor

        device = torch.device("cpu") if name.startswith(_REAL) else nullcontext()

        class Cut(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                with device:
                    network = torchvision.models.get_model(name, weights=None, **_OPTIONS.get(name, {})).eval()
                # Where training takes another way than inference, torchvision warns; only inference is of interest.
                self.body = create_feature_extractor(network, list(layers), suppress_diff_warning=True).eval()

            def forward(self, images: torch.Tensor) -> list[torch.Tensor]:
                found = self.body(images)
                maps = [found[layer] for layer in layers]
                return [m.permute(0, 3, 1, 2) for m in maps] if name.startswith(_CHANNELS_LAST) else maps

        return Cut()

    return Trunk(make)


def convert(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A torchvision state dict in the trunk's names; those of the classifier are left over."""
    return {_BODY + _OLD_NAME.sub(r"\1\2.", key): value for key, value in state.items()}


def draw(name: str, architecture: Trunk) -> dict[str, torch.Tensor]:
    """Random tensors for `architecture` from torch's global generator, as torchvision's own start of training."""
    return dict(architecture.make().state_dict())
