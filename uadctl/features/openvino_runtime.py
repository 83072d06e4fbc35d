"""A network executed by OpenVINO on a CPU: the extra `openvino`.

The graph is written down from the architecture, operation by operation: no converter has to guess it.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from uadctl.features.network import Activation, Architecture, Block, Conv, MaxPool, fold

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

_NEEDED_BY = 'runtime "openvino"'
_TELEMETRY = "openvino_telemetry"
_HINTS = {"fp32": "f32", "bf16": "bf16"}


def library() -> Any:
    """The package openvino. Raises BackendMissing, which says how to install it.

    Importing openvino sends a notice of it over the network, unless its package openvino_telemetry cannot be imported;
    so for the duration of the import it cannot.
    """
    from uadctl.spec import require

    if "openvino" in sys.modules:
        return require("openvino", "openvino", needed_by=_NEEDED_BY)
    before = sys.modules.get(_TELEMETRY)
    sys.modules[_TELEMETRY] = None  # type: ignore[assignment]  # Python's own mark of what must not be imported
    try:
        return require("openvino", "openvino", needed_by=_NEEDED_BY)
    finally:
        del sys.modules[_TELEMETRY]
        if before is not None:
            sys.modules[_TELEMETRY] = before


def offers_bf16() -> bool:
    """Whether OpenVINO computes in bf16 on this processor by instructions for it. Raises BackendMissing."""
    return "BF16" in library().Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


class OpenVINONetwork:
    """A cut trunk with its batch norms folded, for images of any size.

    state: the tensors of `architecture`. precision: "fp32" or "bf16", of the whole network: convolutions that ask to be
        exact are not heard. threads: the processor's cores it may use.
    Raises BackendMissing.
    """

    def __init__(
        self,
        architecture: Architecture,
        state: Mapping[str, torch.Tensor],
        *,
        mean: Sequence[float],
        std: Sequence[float],
        precision: str,
        threads: int,
    ) -> None:
        openvino = library()
        images = _operations().parameter([-1, -1, -1, 3], np.uint8, name="images")
        folded = {
            conv.name: tuple(t.numpy() for t in fold(conv, state, architecture.eps, precision=precision))
            for conv in architecture.convs()
        }
        results = _results(images, architecture, folded, mean, std)
        self._compiled: Any = openvino.Core().compile_model(
            openvino.Model(results, [images], "backbone"),
            "CPU",
            {
                "INFERENCE_PRECISION_HINT": _HINTS[precision],
                "INFERENCE_NUM_THREADS": threads,
                "NUM_STREAMS": 1,
                "PERFORMANCE_HINT": "LATENCY",
            },
        )
        self._outputs = len(results)

    def __call__(self, images: NDArray[np.uint8]) -> list[NDArray[np.float32]]:
        """images: (B, H, W, 3) uint8. One (B, h, w, C) float32 array an output."""
        request = self._compiled.create_infer_request()
        request.infer([np.ascontiguousarray(images)], share_inputs=True)
        # The tensors' memory is the request's, and both end here.
        return [np.array(request.get_output_tensor(i).data, dtype=np.float32) for i in range(self._outputs)]


def _operations() -> Any:
    from uadctl.spec import require

    return require("openvino.opset13", "openvino")


def _results(
    images: Any,
    architecture: Architecture,
    folded: Mapping[str, tuple[NDArray[np.float32], ...]],
    mean: Sequence[float],
    std: Sequence[float],
) -> list[Any]:
    op = _operations()
    x = op.convert(images, "f32")
    x = op.divide(op.subtract(x, np.asarray(mean, np.float32)), np.asarray(std, np.float32))
    x = op.transpose(x, np.array([0, 3, 1, 2]))
    results = []
    for step in architecture.steps:
        if isinstance(step, Block):
            y = x
            for conv in step.convs:
                y = _convolution(y, conv, *folded[conv.name])
            if step.shortcut == "identity":
                y = op.add(y, x)
            elif step.shortcut is not None:
                y = op.add(y, _convolution(x, step.shortcut, *folded[step.shortcut.name]))
            x = _activate(y, step.activation)
        elif isinstance(step, MaxPool):
            half = [step.kernel // 2] * 2
            x = op.max_pool(x, [step.stride] * 2, [1, 1], half, half, [step.kernel] * 2).output(0)
        else:
            results.append(op.result(op.transpose(op.convert(x, "f32"), np.array([0, 2, 3, 1]))))
    return results


def _convolution(x: Any, conv: Conv, weight: NDArray[np.float32], bias: NDArray[np.float32]) -> Any:
    op = _operations()
    strides, half = [conv.stride] * 2, [conv.kernel // 2] * 2
    # SAME_UPPER is TensorFlow's rule: the odd row or column goes to the end.
    padding = (half, half, [1, 1], "SAME_UPPER" if conv.same else "EXPLICIT")
    if conv.groups == 1:
        y = op.convolution(x, weight, strides, *padding)
    else:
        grouped = weight.reshape(conv.groups, conv.outputs // conv.groups, *weight.shape[1:])
        y = op.group_convolution(x, grouped, strides, *padding)
    return _activate(op.add(y, bias[None, :, None, None]), conv.activation)


def _activate(x: Any, activation: Activation) -> Any:
    op = _operations()
    if activation == "relu":
        return op.relu(x)
    return op.clamp(x, 0.0, 6.0) if activation == "relu6" else x
