"""The frozen network of a detector: its parameters, where its weights come from, batches, and what a run keeps of it.

Detectors hold one; none inherits from it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any, Literal

from uadctl.errors import ImageError, SpecError
from uadctl.models import base
from uadctl.records import Size
from uadctl.spec.registry import BackboneEntry, find_backbone, no_such_backbone
from uadctl.spec.values import shown

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

    from uadctl.features.backbone import Backbone, Precision, Runtime
    from uadctl.features.cache import FeatureCache

_PREFIX = "backbone."


def wrong_network(*, backbone: str, layers: Sequence[str] | None, batch_size: int | str) -> list[str]:
    """What is wrong with these parameters of a detector, as its constructor says it."""
    entry = find_backbone(backbone)
    wrong = []
    if entry is None:
        wrong.append(f"backbone (={shown(backbone)}): {no_such_backbone(backbone)}")
    elif layers is not None and not (layers and set(layers) <= set(entry.channels) and len(set(layers)) == len(layers)):
        wrong.append(f"layers (={list(layers)}) must be distinct layers of {backbone}: {', '.join(entry.channels)}")
    if batch_size != "auto" and not (isinstance(batch_size, int) and batch_size >= 1):
        wrong.append(f'batch_size (={batch_size!r}) must be at least 1, or "auto"')
    return wrong


class FrozenNetwork:
    """A backbone that is loaded when the first image comes.

    The arguments are the parameters of the same names of the detectors; `wrong_network` has found nothing wrong with
    them. Learns nothing; `images_per_batch` is what "auto" has found out, 16 before.
    """

    def __init__(
        self,
        *,
        backbone: str,
        layers: Sequence[str] | None = None,
        precision: Precision = "fp32",
        runtime: Runtime = "torch",
        pretrained: bool = True,
        weights: str | None = None,
        device: str = "auto",
        seed: int = 0,
        batch_size: int | Literal["auto"] = 16,
        cache: FeatureCache | None = None,
    ) -> None:
        entry = find_backbone(backbone)
        if entry is None:
            raise SpecError(f"backbone {shown(backbone)}: {no_such_backbone(backbone)}")
        self.entry: BackboneEntry = entry
        self.layers = tuple(entry.layers if layers is None else layers)
        self.precision: Precision = precision
        self.runtime: Runtime = runtime
        self.pretrained = pretrained
        self.weights = weights
        self.device = device
        self.seed = seed
        self.batch_size = batch_size
        self.images_per_batch = 16 if batch_size == "auto" else batch_size
        self._cache = cache
        self._loaded: Backbone | None = None

    @property
    def stride(self) -> int:
        """Pixels between neighbouring features of the coarsest layer used."""
        return max(self.entry.strides[layer] for layer in self.layers)

    def weights_state(self) -> str:
        """Where the weights would come from: "random", "path", or a place of `uadctl.features.weights`."""
        from uadctl.features.weights import available

        if not self.pretrained:
            return "random"
        if self.weights is not None:
            return "path"
        return available(self.entry) or "network"

    def prepare(self, *, download: bool = True) -> str:
        """Have everything ready that the first image needs; without `download`, only what is not the network's.

        Returns the device. Raises WeightsError, BackendMissing, SpecError for a device that this machine has not.
        """
        from uadctl.features.backbone import Backbone, find_architecture, resolve_device, resolve_precision
        from uadctl.features.weights import absent, find_weights, offline

        # Before hundreds of megabytes are fetched for nothing.
        device = resolve_device(self.device)
        resolve_precision(self.precision, device=device, runtime=self.runtime)
        if self.runtime != "torch":
            used = [layer for layer in self.entry.channels if layer in self.layers]
            find_architecture(self.entry, layers=used, runtime=self.runtime)
        if self.pretrained:
            if self.weights is not None:
                Backbone(self.entry.name, layers=self.layers, weights=self.weights)  # raises if it does not fit
            elif download or self.weights_state() != "network":
                find_weights(self.entry)
            elif offline():
                raise absent(self.entry, "UADCTL_OFFLINE is set")
        return device

    # -- images

    def batches(self, images: Iterable[base.Image]) -> Iterator[list[NDArray[np.uint8]]]:
        """Decoded images in batches; "auto" tries out on the first of them how many are best."""
        if self.batch_size != "auto":
            yield from base.batches(images, self.images_per_batch)
            return
        stream = iter(images)
        first = next(base.batches(stream, 1), [])
        if first:
            self.images_per_batch = self.backbone().best_batch_size(Size(*first[0].shape[:2]))
        yield from base.batches(chain(first, stream), self.images_per_batch)

    def maps(self, images: Sequence[NDArray[np.uint8]]) -> Iterator[tuple[list[int], list[torch.Tensor]]]:
        """The feature maps of (H, W, 3) RGB uint8 images, those of one shape together from one forward pass.

        Gives the numbers of the images, and for each layer their (B, channels, h, w) float32 features, finest first.
        """
        import numpy as np

        groups: dict[tuple[int, ...], list[int]] = {}
        for i, image in enumerate(images):
            groups.setdefault(image.shape, []).append(i)
        for members in groups.values():
            yield members, self.backbone()(np.stack([images[i] for i in members]))

    def no_numbers(self) -> ImageError:
        """What to raise where its features contain NaN or infinity."""
        return ImageError(
            f"{self.entry.name}: features contain NaN or infinity",
            help='In precision "fp16" numbers end at 65504: use "bf16" or "fp32".',
        )

    def backbone(self) -> Backbone:
        """The network, loaded now if it is not yet."""
        return self._loaded or self._load(None, self.precision)

    def _load(self, state: dict[str, torch.Tensor] | None, precision: Precision) -> Backbone:
        from uadctl.features.backbone import Backbone, resolve_device

        self._loaded = Backbone(
            self.entry.name,
            layers=self.layers,
            pretrained=self.pretrained,
            weights=self.weights,
            state=state,
            device=resolve_device(self.device),
            seed=self.seed,
            precision=precision,
            runtime=self.runtime,
            cache=self._cache,
        )
        return self._loaded

    # -- keeping

    def state(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """The tensors of the cut network, their names marked as its own, and what is known of their origin."""
        network = self.backbone()
        return (
            {f"{_PREFIX}{key}": value for key, value in network.state().items()},
            {"weights": network.weights, "precision": network.precision, "batch_size": self.images_per_batch},
        )

    def restore(self, tensors: dict[str, Any], facts: dict[str, Any]) -> Backbone:
        """Take over what `state` gave, among other tensors and facts; needs no other file.

        Raises SpecError if this device has not the precision that the model was fitted in.
        """
        state = {k.removeprefix(_PREFIX): v for k, v in tensors.items() if k.startswith(_PREFIX)}
        # The precision that "auto" meant where the model was fitted: its threshold belongs to features in that one.
        precision = facts.get("precision", "fp32")  # 0.2 knew no other and did not say
        try:
            network = self._load(state, precision)
        except SpecError as error:
            raise SpecError(
                f"the model was fitted with precision {precision} and cannot be used here: {error}",
                help='Use it on a device that has this precision, or fit it with precision = "fp32".',
            ) from error
        self.images_per_batch = facts.get("batch_size", self.images_per_batch)
        network.weights = facts["weights"]
        return network

    def facts(self) -> dict[str, Any]:
        """Backbone, its weights' origin and checksum, how it is computed."""
        network = self.backbone()
        return {
            "backbone": network.entry.name,
            "layers": list(network.layers),
            **network.weights,
            "device": network.device,
            "precision": network.precision,
            "runtime": network.runtime,
            "batch_size": self.images_per_batch,
        }
