"""torchvision's ResNets and Wide ResNets, cut after the last layer used (He et al. 2016;

Zagoruyko & Komodakis 2016).
"""

from __future__ import annotations

from collections.abc import Mapping

import torchvision
from torch import Tensor, nn

_LAYERS = ("layer1", "layer2", "layer3", "layer4")


class ResNetTrunk(nn.Module):
    """Stem and stages of a torchvision ResNet, with its module names, so that its checkpoints load as they are."""

    def __init__(self, network: nn.Module, last: str) -> None:
        super().__init__()
        for name in ("conv1", "bn1", "relu", "maxpool", *_LAYERS[: _LAYERS.index(last) + 1]):
            self.add_module(name, network.get_submodule(name))

    def forward(self, x: Tensor, layers: tuple[str, ...]) -> list[Tensor]:
        """The outputs of `layers` ("layer1" … "layer4"), in network order."""
        out = []
        for name, module in self.named_children():
            x = module(x)
            if name in layers:
                out.append(x)
        return out


def build(name: str, layers: tuple[str, ...]) -> ResNetTrunk:
    """The torchvision network `name` without weights, cut after the last of `layers`."""
    return ResNetTrunk(torchvision.models.get_model(name, weights=None), max(layers))


def convert(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A torchvision state dict without its classifier."""
    return {key: value for key, value in state.items() if not key.startswith("fc.")}
