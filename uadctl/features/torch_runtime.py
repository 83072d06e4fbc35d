"""A network executed by torch, on any device it knows."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from uadctl.features.network import DTYPES, Activation, Architecture, Block, Conv, MaxPool, Trunk, fold

if TYPE_CHECKING:
    import torch

# Rows or columns before and after: of the rows, then of the columns.
_Padding: TypeAlias = "tuple[tuple[int, int], tuple[int, int]]"

# torch's names for what oneDNN computes while a convolution's result is still in registers, and its arguments.
_FUSED: dict[Activation, tuple[str, list[float]]] = {
    "none": ("none", []),
    "relu": ("relu", []),
    "relu6": ("hardtanh", [0.0, 6.0]),
}

# The arguments of the operations, which torch may change without notice: with others they are not used.
_CONVOLUTION = ["padding", "stride", "dilation", "groups"]
_ARGUMENTS = {
    ("_convolution_pointwise", "default"): ["X", "W", "B", *_CONVOLUTION, "attr", "scalars", "algorithm"],
    ("_convolution_pointwise", "binary"): [
        *("X", "other", "W", "B", *_CONVOLUTION),
        *("binary_attr", "alpha", "unary_attr", "unary_scalars", "unary_algorithm"),
    ],
    ("_reorder_convolution_weight", "default"): ["self", *_CONVOLUTION, "input_size"],
}

# After so many images, or groups of them, of one size in a row the weights are packed for that size.
_STAYS = 8


def can_fuse() -> bool:
    """Whether this torch offers oneDNN's convolutions with fused activation and sum, on a processor they are made for.

    They are what torch.compile itself emits for a frozen network on a CPU; called directly they need no compiler.
    """
    import torch

    return (
        platform.machine().lower() in {"x86_64", "amd64"}
        and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
        and all(
            hasattr(torch.ops.mkldnn, name)
            and [a.name for a in getattr(getattr(torch.ops.mkldnn, name), overload)._schema.arguments] == arguments
            for (name, overload), arguments in _ARGUMENTS.items()
        )
    )


class TorchNetwork:
    """A cut trunk with its batch norms folded, in channels_last.

    state: the tensors of `architecture`. precision: "fp32", "bf16" or "fp16", of weights and activations, but for
        convolutions that ask to be exact.
    """

    def __init__(
        self,
        architecture: Architecture,
        state: Mapping[str, torch.Tensor],
        *,
        mean: Sequence[float],
        std: Sequence[float],
        device: str,
        precision: str,
    ) -> None:
        import torch

        self._steps = architecture.steps
        self._mean = torch.tensor(mean, dtype=torch.float32, device=device)
        self._std = torch.tensor(std, dtype=torch.float32, device=device)
        kind: type[_Filter] | type[_FusedFilter] = _FusedFilter if device == "cpu" and can_fuse() else _Filter
        self._filters: dict[str, _Filter | _FusedFilter] = {}
        with torch.inference_mode():
            for conv in architecture.convs():
                own = "fp32" if conv.exact else precision
                weight, bias = fold(conv, state, architecture.eps, precision=own)
                self._filters[conv.name] = kind(conv, weight, bias, device=device, dtype=getattr(torch, DTYPES[own]))

    def __call__(self, images: torch.Tensor) -> list[torch.Tensor]:
        """images: (B, H, W, 3) uint8, on `device`. One (B, C, h, w) float32 channels_last tensor an output."""
        return self.of_normalised(self._normalised(images))

    def of_normalised(self, x: torch.Tensor) -> list[torch.Tensor]:
        """The same of (B, 3, H, W) float32 images, on `device`, from which a mean was taken already."""
        import torch
        from torch.nn import functional

        x = x.contiguous(memory_format=torch.channels_last)
        out = []
        for step in self._steps:
            if isinstance(step, Block):
                x = self._block(step, x)
            elif isinstance(step, MaxPool):
                x = functional.max_pool2d(x, step.kernel, step.stride, step.kernel // 2)
            else:
                out.append(x.to(torch.float32, memory_format=torch.channels_last))
        return out

    def _normalised(self, images: torch.Tensor) -> torch.Tensor:
        n, height, width, channels = images.shape
        # A row of mean and std as long as the image's row: three channels alone would be loops of three.
        rows = images.reshape(n, height, width * channels).float()
        rows.sub_(self._mean.repeat(width)).div_(self._std.repeat(width))
        return rows.reshape(n, height, width, channels).permute(0, 3, 1, 2)

    def _block(self, block: Block, x: torch.Tensor) -> torch.Tensor:
        y = x
        for conv in block.convs[:-1]:
            y = self._filters[conv.name](y)
        last = self._filters[block.convs[-1].name]
        if block.shortcut is None:
            return last(y)
        return last.plus(
            y, x if block.shortcut == "identity" else self._filters[block.shortcut.name](x), block.activation
        )


class _Filter:
    """One convolution with bias and activation."""

    def __init__(
        self, conv: Conv, weight: torch.Tensor, bias: torch.Tensor, *, device: str, dtype: torch.dtype
    ) -> None:
        import torch

        self._conv = conv
        self._dtype = dtype
        self._weight = weight.to(device, dtype).contiguous(memory_format=torch.channels_last)
        self._bias = bias.to(device, dtype)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return _activate(self._convolve(x), self._conv.activation)

    def plus(self, x: torch.Tensor, other: torch.Tensor, activation: Activation) -> torch.Tensor:
        """`activation` of the sum of the convolution of x and `other`."""
        return _activate(self._convolve(x).add_(other.to(self._dtype)), activation)

    def _convolve(self, x: torch.Tensor) -> torch.Tensor:
        from torch.nn import functional

        conv = self._conv
        rows, columns = (conv.padding(size) for size in x.shape[-2:])
        padding = [rows[0], columns[0]]
        if rows[0] != rows[1] or columns[0] != columns[1]:
            x = functional.pad(x, [*columns, *rows])
            padding = [0, 0]
        return functional.conv2d(x.to(self._dtype), self._weight, self._bias, conv.stride, padding, 1, conv.groups)


def _activate(x: torch.Tensor, activation: Activation) -> torch.Tensor:
    from torch.nn import functional

    if activation == "relu":
        return functional.relu(x, inplace=True)
    return functional.relu6(x, inplace=True) if activation == "relu6" else x


class _FusedFilter:
    """The same by oneDNN: activation and sum while the result is in registers, weights in the kernel's own layout.

    The layout that is fastest depends on the size of x, results do not: where it is another, oneDNN repacks for the one
    call. Most sizes have the same one, and to pack for each new size would cost images of many sizes a quarter of their
    time; so weights are packed for a size that stays.
    oneDNN pads both sides alike through torch. Where "SAME" needs one more row or column at the end, a kernel that is
    one row or column of zeros taller or wider and padded alike does the same, and saves a padded copy of x.
    """

    def __init__(
        self, conv: Conv, weight: torch.Tensor, bias: torch.Tensor, *, device: str, dtype: torch.dtype
    ) -> None:
        self._conv = conv
        self._dtype = dtype
        self._bias = bias.to(dtype)
        self._stride = [conv.stride, conv.stride]
        self._attr, self._scalars = _FUSED[conv.activation]
        # What the weights are padded for (nothing yet), the size that they are packed for, and the weights.
        self._packed: tuple[_Padding | None, tuple[int, int], torch.Tensor] = None, (0, 0), weight.to(dtype)
        # The size of the last x, and of how many in a row.
        self._lately: tuple[tuple[int, int], int] = (0, 0), 0

    def _arguments(self, x: torch.Tensor) -> tuple[Any, ...]:
        conv = self._conv
        height, width = x.shape[-2:]
        size, padding = (height, width), (conv.padding(height), conv.padding(width))
        rows, columns = padding
        last, times = self._lately
        times = times + 1 if size == last else 1
        self._lately = size, times
        padded_for, packed_for, weight = self._packed
        if padding != padded_for or (size != packed_for and times >= _STAYS):
            weight = self._pack(weight, x.shape, rows, columns)
            self._packed = padding, size, weight
        return weight, self._bias, [rows[1], columns[1]], self._stride, [1, 1], conv.groups

    def _pack(
        self, weight: torch.Tensor, shape: torch.Size, rows: tuple[int, int], columns: tuple[int, int]
    ) -> torch.Tensor:
        import torch
        from torch.nn import functional

        kernel = self._conv.kernel
        dense = (weight.to_dense() if weight.is_mkldnn else weight)[..., -kernel:, -kernel:]
        dense = functional.pad(dense, [columns[1] - columns[0], 0, rows[1] - rows[0], 0])
        packed: torch.Tensor = torch.ops.mkldnn._reorder_convolution_weight(
            dense.contiguous(memory_format=torch.channels_last),
            [rows[1], columns[1]],
            self._stride,
            [1, 1],
            self._conv.groups,
            list(shape),
        )
        return packed

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        import torch

        out: torch.Tensor = torch.ops.mkldnn._convolution_pointwise(
            x.to(self._dtype), *self._arguments(x), self._attr, self._scalars, None
        )
        return out

    def plus(self, x: torch.Tensor, other: torch.Tensor, activation: Activation) -> torch.Tensor:
        """`activation` of the sum of the convolution of x and `other`."""
        import torch

        attr, scalars = _FUSED[activation]
        out: torch.Tensor = torch.ops.mkldnn._convolution_pointwise.binary(
            x.to(self._dtype),
            other.to(self._dtype),
            *self._arguments(x),
            "add",
            1.0,
            None if attr == "none" else attr,
            scalars,
            None,
        )
        return out


class TorchModule:
    """A `Trunk` with its tensors: images of bytes in, feature maps out.

    state: the tensors of the trunk. precision: of weights and activations.
    """

    def __init__(
        self,
        trunk: Trunk,
        state: Mapping[str, torch.Tensor],
        *,
        mean: Sequence[float],
        std: Sequence[float],
        device: str,
        precision: str,
    ) -> None:
        import torch

        self._dtype = getattr(torch, DTYPES[precision])
        # Built for real: buffers that are in no state dict hold what the module computes for them.
        with torch.random.fork_rng(devices=[]):
            module = trunk.make()
        module.load_state_dict(dict(state), strict=True)
        self._module = module.to(device, self._dtype).eval().requires_grad_(requires_grad=False)
        self._mean = torch.tensor(mean, device=device)[None, :, None, None]
        self._std = torch.tensor(std, device=device)[None, :, None, None]

    def __call__(self, images: torch.Tensor) -> list[torch.Tensor]:
        """(B, H, W, 3) uint8 on the device -> (B, channels, h, w) float32 features, channels_last, a layer each."""
        return self.of_normalised((images.permute(0, 3, 1, 2).float() - self._mean) / self._std)

    def of_normalised(self, x: torch.Tensor) -> list[torch.Tensor]:
        """The same of (B, 3, H, W) float32 images, on the device, from which a mean was taken already."""
        import torch

        maps = self._module(x.to(self._dtype))
        return [m.float().contiguous(memory_format=torch.channels_last) for m in maps]
