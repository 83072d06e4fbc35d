"""A frozen backbone: RGB images in, the feature maps of chosen layers out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from uadctl.errors import SpecError, WeightsError
from uadctl.features.weights import find_weights, load_state
from uadctl.spec.registry import load_target, resolve_backbone

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import torch
    from numpy.typing import NDArray

_DEVICES = "Expected: auto (the best there is), cpu, cuda, cuda:N or mps."


def resolve_device(device: str) -> str:
    """ "auto" as "cuda", "mps" or "cpu", the first that this machine offers; a device it has, unchanged.

    Raises SpecError for a device that this machine has not, or that there is not.
    """
    import torch

    if device == "auto":
        if torch.cuda.is_available():
            return "cuda"
        return "mps" if torch.backends.mps.is_available() else "cpu"
    kind, _, number = device.partition(":")
    if kind == "cuda" and (not number or number.isdecimal()):
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if int(number or 0) >= count:
            raise SpecError(f'device "{device}": this machine has {count} CUDA devices', help=_DEVICES)
    elif device == "mps":
        if not torch.backends.mps.is_available():
            raise SpecError('device "mps": this machine has none', help=_DEVICES)
    elif device != "cpu":
        raise SpecError(f'device "{device}": no such device', help=_DEVICES)
    return device


class Backbone:
    """One of the registry's networks in eval mode, cut after the last layer used.

    name:    a registered backbone, e.g. "efficientnet_lite0".
    layers:  names of its stages; None takes the registry's default.
    pretrained: False leaves the weights random (seeded), which learns nothing useful but needs no file.
    weights: a checkpoint file to use in place of the published one.
    state:   tensors of an already fitted model, in place of any file.

    Attributes: `entry`, `layers` (in network order), `weights` (facts for the run's record).
    Raises SpecError for an unknown name, ValueError for layers, WeightsError.
    """

    def __init__(
        self,
        name: str,
        *,
        layers: Sequence[str] | None = None,
        pretrained: bool = True,
        weights: str | None = None,
        state: Mapping[str, torch.Tensor] | None = None,
        device: str = "cpu",
        seed: int = 0,
    ) -> None:
        import torch

        self.entry = resolve_backbone(name)
        wanted = tuple(layers) if layers is not None else self.entry.layers
        unknown = [layer for layer in wanted if layer not in self.entry.channels]
        if unknown or not wanted or len(set(wanted)) != len(wanted):
            raise ValueError(
                f"layers (={list(wanted)}) must be distinct layers of {self.entry.name}: "
                f"{', '.join(self.entry.channels)}"
            )
        self.layers = tuple(layer for layer in self.entry.channels if layer in wanted)
        module, _, _ = self.entry.target.partition(":")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self._network: Any = load_target(self.entry.target)(self.entry.name, self.layers)
        self.weights: dict[str, str]
        if state is not None:
            self._network.load_state_dict(state)
            self.weights = {"weights": "model"}
        elif pretrained:
            found = find_weights(self.entry, path=weights)
            tensors = load_target(f"{module}:convert")(load_state(found.path))
            self._load(tensors, str(found.path))
            self.weights = {"weights": found.source, "weights_file": found.path.name, "weights_sha256": found.sha256}
        else:
            self.weights = {"weights": "random"}
        self.device = device
        if device.startswith("cuda"):
            # fp32 means fp32: convolutions would otherwise round their input to TF32's 10 bits.
            torch.backends.cudnn.allow_tf32 = False
        self._network.eval().requires_grad_(False)
        self._network.to(device=device, memory_format=torch.channels_last)
        mean, std = self.entry.mean, self.entry.std
        self._mean = torch.tensor(mean, device=device)[None, :, None, None]
        self._std = torch.tensor(std, device=device)[None, :, None, None]

    def _load(self, tensors: Mapping[str, torch.Tensor], path: str) -> None:
        own = self._network.state_dict()
        missing = sorted(own.keys() - tensors.keys())
        if not missing:
            missing = sorted(k for k in own if own[k].shape != tensors[k].shape)
        if missing:
            raise WeightsError(
                f"{path}: not a checkpoint of {self.entry.name}: {len(missing)} of {len(own)} tensors are absent or of "
                f"another shape, the first is {missing[0]}"
            )
        self._network.load_state_dict({key: tensors[key] for key in own})

    def state(self) -> dict[str, torch.Tensor]:
        """The tensors of the cut network, on the CPU: what `state=` takes."""
        return {key: value.cpu().contiguous() for key, value in self._network.state_dict().items()}

    def __call__(self, images: NDArray[np.uint8]) -> list[torch.Tensor]:
        """Feature maps of `layers` for a batch.

        images: (B, H, W, 3) RGB uint8. Returns one (B, channels, h, w) float32 tensor a layer, on `device`.
        """
        import torch

        with torch.inference_mode():
            x = torch.from_numpy(np.ascontiguousarray(images)).to(self.device).permute(0, 3, 1, 2)
            x = ((x.float() - self._mean) / self._std).contiguous(memory_format=torch.channels_last)
            return [out.contiguous() for out in self._network(x, self.layers)]
