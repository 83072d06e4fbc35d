"""A frozen backbone: RGB images in, the feature maps of chosen layers out."""

from __future__ import annotations

import functools
import hashlib
import os
import time
from typing import TYPE_CHECKING, Any, Literal, cast, get_args

import numpy as np

from uadctl.errors import SpecError, WeightsError
from uadctl.features.network import COUNTER, Architecture, Trunk
from uadctl.features.weights import find_weights, load_state
from uadctl.room import give_back, ran_out
from uadctl.spec.registry import load_target, resolve_backbone

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import torch
    from numpy.typing import NDArray

    from uadctl.features.cache import FeatureCache
    from uadctl.features.torch_runtime import TorchModule, TorchNetwork
    from uadctl.records import Size
    from uadctl.spec.registry import BackboneEntry

Precision = Literal["fp32", "bf16", "fp16", "auto"]
Runtime = Literal["torch", "openvino"]

# Pixels computed together on a processor: two images of 256x256, whose activations take 12 MiB at the widest of Lite0.
# Those of more neither stay in its cache nor in the allocator's hands: glibc gives every block of 32 MiB and more back
# to the system, and what is asked for anew is zeroed page by page. 1, 2 and 4 images at a time take equally long, 8 a
# third longer, 16 three times as long; the fewer, the less memory.
_TOGETHER = 1 << 17
# best_batch_size: how many are tried, how often, and by how much more images must be faster to be worth their memory.
_BATCHES = (1, 2, 4, 8, 16, 32, 64)
_REPEATS = 3
_GAIN = 0.03

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


def resolve_precision(precision: Precision, *, device: str, runtime: Runtime) -> str:
    """The precision in effect: "fp32", "bf16" or "fp16".

    "auto" is the fastest that the hardware has instructions for: on a processor bf16 with AMX or AVX512-BF16, on CUDA
    bf16 from compute capability 8.0 and fp16 before, else fp32.

    device: as `resolve_device` gives it. Raises SpecError for what the device or the runtime cannot do, BackendMissing.
    """
    if precision not in get_args(Precision):
        raise SpecError(f'precision "{precision}": no such precision', help="Expected: fp32, bf16, fp16 or auto.")
    if runtime not in get_args(Runtime):
        raise SpecError(f'runtime "{runtime}": no such runtime', help="Expected: torch or openvino.")
    if runtime == "openvino" and device != "cpu":
        raise SpecError(
            f'runtime "openvino" computes on the processor, not on device "{device}"',
            help='Use device "cpu", or runtime "torch".',
        )
    kind = device.partition(":")[0]
    if precision == "fp32":
        return precision
    if kind == "cpu":
        return _on_a_processor(precision, runtime)
    if kind == "cuda":
        return _on_cuda(precision, device)
    return _on_mps(precision)


def _on_a_processor(precision: Precision, runtime: Runtime) -> str:
    import torch

    if precision == "fp16":
        raise SpecError(
            'precision "fp16": not on device "cpu"', help='Use precision "bf16", which has the same size, or "fp32".'
        )
    if runtime == "openvino":
        from uadctl.features.openvino_runtime import offers_bf16

        fast = able = offers_bf16()
    else:
        onednn = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
        able = onednn and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
        fast = able and any(
            getattr(torch.cpu, name, bool)() for name in ("_is_amx_tile_supported", "_is_avx512_bf16_supported")
        )
    if precision == "auto":
        return "bf16" if fast else "fp32"
    if not able:
        raise SpecError(
            f'precision "bf16": runtime "{runtime}" cannot compute in it on this processor',
            help='Use precision "fp32".',
        )
    return precision


def _on_cuda(precision: Precision, device: str) -> str:
    import torch

    ampere = torch.cuda.get_device_capability(device) >= (8, 0)
    if precision == "auto":
        return "bf16" if ampere else "fp16"
    if precision == "bf16" and not ampere:
        raise SpecError(
            f'precision "bf16": device "{device}" has compute capability '
            f"{'.'.join(map(str, torch.cuda.get_device_capability(device)))}, bf16 needs 8.0",
            help='Use precision "fp16", or "fp32".',
        )
    return precision


def _on_mps(precision: Precision) -> str:
    import torch

    if precision == "auto":
        return "fp32"
    if precision == "bf16" and not torch.backends.mps.is_macos_or_newer(14, 0):
        raise SpecError(
            'precision "bf16": device "mps" has it from macOS 14 on', help='Use precision "fp16", or "fp32".'
        )
    return precision


def settle(device: str) -> None:
    """Have torch compute exactly, and with sums in a fixed order where it can. Elsewhere than on CUDA, nothing.

    From then on for the whole process. To be called before the first product of matrices on the device: cuBLAS reads
    its setting then, and never again.
    """
    import torch

    if not device.startswith("cuda"):
        return
    # fp32 means fp32: convolutions would otherwise round their input to TF32's 10 bits.
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    # What has no such kernel is computed all the same: run.json says that of CUDA nothing is promised.
    torch.use_deterministic_algorithms(True, warn_only=True)
    # That would cost time, and nothing here is read before it is written.
    cast("Any", torch.utils.deterministic).fill_uninitialized_memory = False


def find_architecture(entry: BackboneEntry, *, layers: Sequence[str], runtime: Runtime) -> Architecture | Trunk:
    """The network of a registered backbone, cut after these layers; no tensor is made.

    Raises BackendMissing without the runtime's library, SpecError if the runtime does not compute this network.
    """
    if runtime == "openvino":
        from uadctl.features.openvino_runtime import library

        library()
    architecture: Architecture | Trunk = load_target(entry.target)(entry.name, layers)
    if isinstance(architecture, Trunk) and runtime not in architecture.only_on:
        raise SpecError(
            f'runtime "{runtime}" does not compute {entry.name}',
            help=f"Expected: {' or '.join(architecture.only_on)}.",
        )
    return architecture


class Backbone:
    """One of the registry's networks in eval mode, cut after the last layer used.

    Batch norms are folded into the convolutions, which moves features by the rounding of float32 (about 1e-6 of their
    size). Images of one batch are computed in groups that fit a processor's cache; group by group, a library may choose
    another kernel, so the last bits of an image's features can depend on the number of images beside it and on the
    number of threads. The same batch gives the same bits.

    name:    a registered backbone, e.g. "efficientnet_lite0".
    layers:  names of its stages; None takes the registry's default.
    pretrained: False leaves the weights random (seeded), which learns nothing useful but needs no file.
    weights: a checkpoint file to use in place of the published one.
    state:   tensors of an already fitted model, in place of any file.
    device:  as `resolve_device` gives it.
    precision: of weights and activations; features come out as float32. See `resolve_precision`.
    runtime: "torch", or "openvino" (an extra; processors only; as many threads as torch has at the first batch).
    cache:   where batches that were computed before are looked up.

    On CUDA the whole process computes as `settle` says from the first batch on.

    Attributes: `entry`, `layers` (in network order), `weights` (facts for the run's record), `device`, `precision` (the
    one in effect), `runtime`.
    Raises SpecError for an unknown name or what the device cannot do, ValueError for layers, WeightsError,
    BackendMissing.
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
        precision: Precision = "fp32",
        runtime: Runtime = "torch",
        cache: FeatureCache | None = None,
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
        self.device = device
        self.precision = resolve_precision(precision, device=device, runtime=runtime)
        self.runtime = runtime
        self._cache = cache
        module = self.entry.target.partition(":")[0]
        self._architecture = find_architecture(self.entry, layers=self.layers, runtime=runtime)
        self.weights: dict[str, str]
        if state is not None:
            self._state = self._checked(state, "the tensors of the model")
            self.weights = {"weights": "model"}
        elif pretrained:
            found = find_weights(self.entry, path=weights)
            own = self._architecture.convert if isinstance(self._architecture, Trunk) else None
            convert = own or load_target(f"{module}:convert")
            self._state = self._checked(convert(load_state(found.path)), str(found.path))
            self.weights = {"weights": found.source, "weights_file": found.path.name, "weights_sha256": found.sha256}
        else:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                drawn = load_target(f"{module}:draw")(self.entry.name, self._architecture)
            self._state = self._checked(drawn, "the random tensors")
            self.weights = {"weights": "random"}

    def _checked(self, tensors: Mapping[str, torch.Tensor], source: str) -> dict[str, torch.Tensor]:
        """Those of `tensors` that the cut network has, on the CPU in float32."""
        import torch

        own = {key: shape for key, shape in self._architecture.shapes().items() if not key.endswith(COUNTER)}
        wrong = [key for key, shape in own.items() if key not in tensors or tensors[key].shape != shape]
        if wrong:
            raise WeightsError(
                f"{source}: not a checkpoint of {self.entry.name}: {len(wrong)} of {len(own)} tensors are absent or of "
                f"another shape, the first is {min(wrong)}"
            )
        state = {}
        for key in self._architecture.shapes():
            if key in own:
                tensor = tensors[key].detach().cpu().contiguous()
                state[key] = tensor.float() if tensor.is_floating_point() else tensor
            else:
                state[key] = tensors.get(key, torch.tensor(0)).detach().to("cpu", torch.int64)
        return state

    def state(self) -> dict[str, torch.Tensor]:
        """The tensors of the cut network as they were loaded, on the CPU: what `state=` takes. Read them only."""
        return dict(self._state)

    @functools.cached_property
    def identity(self) -> str:
        """Who computes: equal for backbones whose features of a batch have the same bits, in this process."""
        digest = hashlib.sha256()
        for key, tensor in self._state.items():
            if not key.endswith(COUNTER):
                digest.update(tensor.numpy().data)
        return " ".join(
            (
                self.entry.name,
                ",".join(self.layers),
                self.runtime,
                self.precision,
                self.device,
                digest.hexdigest(),
            )
        )

    def __call__(self, images: NDArray[np.uint8]) -> list[torch.Tensor]:
        """Feature maps of `layers` for a batch.

        images: (B, H, W, 3) RGB uint8. Returns one (B, channels, h, w) float32 tensor a layer, on `device`, with the
        channels of a pixel side by side in memory (channels_last). Raises ValueError for other images.
        """
        import torch

        if images.ndim != 4 or images.shape[3] != 3 or images.dtype != np.uint8 or not images.size:
            raise ValueError(
                f"images must be a non-empty (B, H, W, 3) uint8 array, found shape {images.shape}, {images.dtype}"
            )
        if self._cache is None:
            return self._compute(images)
        key = self._cache.key(f"{self.identity} {torch.get_num_threads()}", images)
        features = self._cache.get(key)
        if features is None:
            features = self._compute(images)
            self._cache.put(key, features)
        return features

    def of_normalised(self, images: torch.Tensor) -> list[torch.Tensor]:
        """Feature maps of `layers`, as of a call, for images that another program's way has resized and normalised.

        images: (B, 3, H, W) float32, on `device`. Nothing is looked up in the cache. Raises ValueError for other
        images, SpecError for a runtime that takes bytes only.
        """
        import torch

        if images.ndim != 4 or images.shape[1] != 3 or images.dtype != torch.float32 or not images.numel():
            raise ValueError(
                "images must be a non-empty (B, 3, H, W) float32 tensor, found shape "
                f"{tuple(images.shape)}, {images.dtype}"
            )
        if self.runtime != "torch":
            raise SpecError(f'runtime "{self.runtime}" takes no normalised images', help="Expected: torch.")
        height, width = images.shape[2:]
        return self._in_groups(images, height * width, self._network.of_normalised)

    def best_batch_size(self, size: Size) -> int:
        """The number of images at once that this device computes fastest, measured now: 1, 2, 4 … 64.

        More are tried as long as they cut the time an image by more than 3 % and fit into the device's memory. The
        answer depends on the machine and on what else it does, and an image's last bits may depend on the answer: who
        uses it gives up that two runs have the same bytes. Takes seconds on a processor.

        size: height and width of the images. Raises torch.OutOfMemoryError if not even one fits.
        """
        noise = np.random.default_rng(0).integers(0, 256, (1, *size, 3), dtype=np.uint8)
        best, least = _BATCHES[0], self._seconds(noise)
        for number in _BATCHES[1:]:
            try:
                seconds = self._seconds(np.repeat(noise, number, axis=0))
            except Exception as error:
                if not ran_out(error):
                    raise
                seconds = float("inf")
            if seconds == float("inf"):
                give_back()
                break
            if seconds > (1 - _GAIN) * least:
                break
            best, least = number, seconds
        return best

    def _seconds(self, images: NDArray[np.uint8]) -> float:
        """Wall-clock seconds an image, the least of some tries after one that warms up."""
        import torch

        times = []
        for _ in range(1 + _REPEATS):
            start = time.perf_counter()
            self._compute(images)
            if self.device.startswith("cuda"):
                torch.cuda.synchronize(self.device)
            elif self.device == "mps":
                torch.mps.synchronize()
            times.append(time.perf_counter() - start)
        return min(times[1:]) / len(images)

    # -- computing

    def _compute(self, images: NDArray[np.uint8]) -> list[torch.Tensor]:
        images = np.require(images, requirements=("C", "W"))  # torch warns of arrays that it may not write to
        return self._in_groups(images, images.shape[1] * images.shape[2], self._run)

    def _in_groups(self, images: Any, pixels: int, run: Callable[[Any], list[torch.Tensor]]) -> list[torch.Tensor]:
        """What `run` gives for images of so many pixels each, on a processor as many at once as fit its cache."""
        import torch

        together = max(1, _TOGETHER // pixels) if self.device == "cpu" else len(images)
        with torch.inference_mode():
            if len(images) <= together:
                return run(images)
            out: list[torch.Tensor] = []
            for start in range(0, len(images), together):
                part = run(images[start : start + together])
                if not out:
                    out = [
                        torch.empty((len(images), *m.shape[1:]), device=m.device, memory_format=torch.channels_last)
                        for m in part
                    ]
                for whole, features in zip(out, part, strict=True):
                    whole[start : start + together] = features
            return out

    @functools.cached_property
    def _run(self) -> Callable[[NDArray[np.uint8]], list[torch.Tensor]]:
        """What computes a group of images, made at the first batch: with all features in the cache, nothing does."""
        import torch

        if self.runtime == "openvino" and not isinstance(self._architecture, Trunk):
            from uadctl.features.openvino_runtime import OpenVINONetwork

            openvino = OpenVINONetwork(
                self._architecture,
                self._state,
                mean=self.entry.mean,
                std=self.entry.std,
                precision=self.precision,
                threads=torch.get_num_threads(),
            )
            return lambda images: [torch.from_numpy(m).permute(0, 3, 1, 2) for m in openvino(images)]
        network = self._network
        return lambda images: network(self._to_device(torch.from_numpy(images)))

    @functools.cached_property
    def _network(self) -> TorchModule | TorchNetwork:
        """The network as torch computes it."""

        from uadctl.features.torch_runtime import TorchModule, TorchNetwork

        settle(self.device)
        mean, std, precision = self.entry.mean, self.entry.std, self.precision
        if isinstance(self._architecture, Trunk):
            return TorchModule(
                self._architecture, self._state, mean=mean, std=std, device=self.device, precision=precision
            )
        return TorchNetwork(
            self._architecture, self._state, mean=mean, std=std, device=self.device, precision=precision
        )

    def _to_device(self, images: Any) -> Any:
        if self.device.startswith("cuda"):
            # From pinned memory the copy runs beside what the GPU still computes.
            return images.pin_memory().to(self.device, non_blocking=True)
        return images.to(self.device)
