"""torchvision's ResNets and Wide ResNets, cut after the last layer used (He et al. 2016;

Zagoruyko & Komodakis 2016).

Described here rather than built by torchvision, whose import costs more than reading the weights; tensors have its
names, so its checkpoints load as they are.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from uadctl.features.network import Architecture, Block, Conv, MaxPool, Output

if TYPE_CHECKING:
    from torch import Tensor

# Blocks of layer1 … layer4; whether they are bottlenecks; width of a bottleneck's 3x3 convolution over the plain one.
_KINDS = {
    "resnet18": ((2, 2, 2, 2), False, 1),
    "resnet34": ((3, 4, 6, 3), False, 1),
    "resnet50": ((3, 4, 6, 3), True, 1),
    "resnet101": ((3, 4, 23, 3), True, 1),
    "resnet152": ((3, 8, 36, 3), True, 1),
    "wide_resnet50_2": ((3, 4, 6, 3), True, 2),
    "wide_resnet101_2": ((3, 4, 23, 3), True, 2),
}
_STEM_CHANNELS = 64
_EXPANSION = 4
_BN_EPS = 1e-5


def build(name: str, layers: tuple[str, ...]) -> Architecture:
    """The network `name`, cut after the last of `layers` ("layer1" … "layer4")."""
    repeats, bottleneck, widening = _KINDS[name]
    steps: list[Block | MaxPool | Output] = [
        Block((Conv("conv1", "bn1", 3, _STEM_CHANNELS, 7, 2, activation="relu"),)),
        MaxPool(3, 2),
    ]
    channels = _STEM_CHANNELS
    for stage in range(int(max(layers).removeprefix("layer"))):
        width = _STEM_CHANNELS * 2**stage
        outputs = width * (_EXPANSION if bottleneck else 1)
        for i in range(repeats[stage]):
            place, stride = f"layer{stage + 1}.{i}", 2 if stage and i == 0 else 1
            convs: tuple[Conv, ...]
            if bottleneck:
                inner = width * widening
                convs = (
                    Conv(f"{place}.conv1", f"{place}.bn1", channels, inner, 1, activation="relu"),
                    Conv(f"{place}.conv2", f"{place}.bn2", inner, inner, 3, stride, activation="relu"),
                    Conv(f"{place}.conv3", f"{place}.bn3", inner, outputs, 1),
                )
            else:
                convs = (
                    Conv(f"{place}.conv1", f"{place}.bn1", channels, outputs, 3, stride, activation="relu"),
                    Conv(f"{place}.conv2", f"{place}.bn2", outputs, outputs, 3),
                )
            projection = Conv(f"{place}.downsample.0", f"{place}.downsample.1", channels, outputs, 1, stride)
            changed = stride != 1 or channels != outputs
            steps.append(Block(convs, shortcut=projection if changed else "identity", activation="relu"))
            channels = outputs
        if f"layer{stage + 1}" in layers:
            steps.append(Output(f"layer{stage + 1}"))
    return Architecture(tuple(steps), _BN_EPS)


def draw(name: str, architecture: Architecture) -> dict[str, Tensor]:
    """Random tensors for `architecture` from torch's global generator: those that torchvision would start from."""
    import torchvision

    state = torchvision.models.get_model(name, weights=None).state_dict()
    return {key: state[key] for key in architecture.shapes()}


def convert(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A torchvision state dict without its classifier."""
    return {key: value for key, value in state.items() if not key.startswith("fc.")}
