"""PaDiM:

Defard, Setkov, Loesch, Audigier, "PaDiM: a Patch Distribution Modeling Framework for Anomaly Detection and
Localization", ICPR Workshops 2021.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal, Self

from uadctl import heap
from uadctl.errors import DataError, ParamError, Problem
from uadctl.models import base
from uadctl.models.frozen import FrozenNetwork, wrong_network
from uadctl.models.patches import enlarge
from uadctl.progress import Progress, Silent
from uadctl.records import Prediction, Size
from uadctl.spec.registry import BackboneEntry, find_backbone
from uadctl.spec.values import bytes_in

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

    from uadctl.features.cache import FeatureCache
    from uadctl.memory import FeatureStore
    from uadctl.memory.gaussian import Gaussians, Moments

# Numbers that a step of the leave-one-image-out scores works on: features of all images, and matrices, of some places.
_NUMBERS = 2**21
_FACTOR = "factor."


class PaDiM(base.ThroughNetwork):
    """A Gaussian of the features of good images at every place; what is far from the one of its place is anomalous.

    Patch features are the outputs of middle layers of a frozen backbone, coarser ones repeated on the grid of the
    finest (section III-A), of which some channels are chosen by lot. Each place of the grid has its own mean and
    covariance (III-B). The map is the Mahalanobis distance of each patch (III-C), interpolated and smoothed; the score
    is the largest value of the map.

    Every place has its own model, so images must show the part in the same place. Training images must be of one size.
    Others to predict are brought to that size, whatever their shape, and their maps back: a part that is then distorted
    is as anomalous as it looks.

    backbone: a registered network, see `uadctl models show vision_padim`.
    layers: its stages to use; none given: the three finest of a stride of 4 pixels or more, as layer1 to layer3 of a
        ResNet are; those the registry names for a backbone that has not three such strides.
    n_features: channels that are chosen by lot from those of all layers; all of them where there are not so many. The
        paper takes 100 with resnet18 and 550 with wide_resnet50_2.
    eps: added to the variances, above 0: with fewer images than channels, what makes the covariance invertible.
    sigma: standard deviation of the Gaussian that smooths the map, in pixels of the preprocessed image; 0: none.
    feature_memory: what the features of all training images may take in memory while they are kept for the
        leave-one-image-out scores, such as "500MB" or "4GB"; more is kept in a temporary file.
    precision: number format of the backbone: "fp32", "bf16", "fp16", or "auto", the fastest one the device is made for.
    runtime: what computes the backbone: "torch", or "openvino" (on the processor only).
    pretrained: False leaves the backbone random; for trying the machinery only.
    weights: a checkpoint file of the backbone to use in place of the published weights.
    contamination: in (0, 0.5); `threshold_` is the (1 - contamination) quantile of the leave-one-image-out scores of
        the training images. Only `predict` uses it; runs have their own calibrated threshold.
    device: "auto", "cpu", "cuda", "cuda:N" or "mps".
    seed: of the choice of channels, and of random weights.
    batch_size: images that pass through the backbone together; "auto": as many as turn out fastest, which gives up
        that a run repeats to the last bit.
    feature_cache: where feature maps of batches seen before are found, shared with other models; none: they are
        computed.

    Images are paths or (H, W, 3) RGB uint8 arrays; maps have the size of the image. Memory while fitting is that of the
    fitted model, whatever the number of images, but for `feature_memory`.
    Learned: `gaussians_`, one for each place of `grid_`; `channels_` (n,) those chosen; `image_size_` of the training
    images; `threshold_` (None after one training image, or with `threshold=False`).
    """

    offers_left_out = True
    knows_places = True
    network: FrozenNetwork

    def __init__(
        self,
        *,
        backbone: str = "efficientnet_lite0",
        layers: tuple[str, ...] | None = None,
        n_features: int = 100,
        eps: float = 0.01,
        sigma: float = 4.0,
        feature_memory: str = "1GB",
        precision: Literal["fp32", "bf16", "fp16", "auto"] = "fp32",
        runtime: Literal["torch", "openvino"] = "torch",
        pretrained: bool = True,
        weights: str | None = None,
        contamination: float = 0.1,
        device: str = "auto",
        seed: int = 0,
        batch_size: int | Literal["auto"] = 16,
        feature_cache: FeatureCache | None = None,
    ) -> None:
        memory = bytes_in(feature_memory)
        wrong = wrong_network(backbone=backbone, layers=layers, batch_size=batch_size)
        wrong += [
            message
            for holds, message in (
                (n_features >= 1, f"n_features (={n_features}) must be at least 1"),
                (eps > 0, f"eps (={eps}) must be above 0"),
                (sigma >= 0, f"sigma (={sigma}) must be at least 0"),
                (0 < contamination < 0.5, f"contamination (={contamination}) must lie in (0, 0.5)"),
                (
                    memory is not None,
                    f'feature_memory (={feature_memory!r}) must be a size such as "500MB" or "4GB"',
                ),
            )
            if not holds
        ]
        if wrong or memory is None:
            raise ParamError([Problem(message) for message in wrong])
        entry = find_backbone(backbone)
        self.network = FrozenNetwork(
            backbone=backbone,
            layers=usual_layers(entry) if layers is None and entry is not None else layers,
            precision=precision,
            runtime=runtime,
            pretrained=pretrained,
            weights=weights,
            device=device,
            seed=seed,
            batch_size=batch_size,
            cache=feature_cache,
        )
        self.n_features = n_features
        self.eps = eps
        self.sigma = sigma
        self.feature_memory = feature_memory
        self.contamination = contamination
        self.seed = seed
        self._memory = memory
        self.gaussians_: Gaussians | None = None
        self.channels_: NDArray[np.int64] | None = None
        self.grid_: Size | None = None
        self.image_size_: Size | None = None
        self.threshold_: float | None = None

    @property
    def is_fitted(self) -> bool:
        return self.gaussians_ is not None

    def prepare(self, *, download: bool = True) -> None:
        """Have everything ready that `fit` needs beside images; without `download`, only what is not the network's.

        Raises WeightsError, BackendMissing, SpecError for a device that this machine has not.
        """
        self.network.prepare(download=download)

    # -- learning

    def fit(
        self,
        images: Iterable[base.Image],
        *,
        left_out: Callable[[Prediction], None] | None = None,
        threshold: bool = True,
        progress: Progress | None = None,
    ) -> Self:
        """Learn a Gaussian at each place from normal images of one size.

        left_out: receives each training image's prediction by the Gaussians of all others.
        threshold: False leaves `threshold_` unset, and saves keeping all features if nobody else asks for scores.
        Raises ValueError without images, DataError naming a broken one or for a second size, WeightsError, RunError
        without room on disk, where eps is too small, and for features that are no numbers.
        """

        from uadctl.memory import FeatureStore

        self.gaussians_ = self.channels_ = self.grid_ = self.image_size_ = self.threshold_ = None
        moments: Moments | None = None
        with FeatureStore(memory=self._memory) as kept:
            batches = map(self._of_one_size, self.network.batches(images))
            for _, features in base.looked_at(batches, self._learned, of=self, progress=progress):
                moments = moments or self._moments(features)
                moments.add(features)
                if threshold or left_out is not None:
                    kept.append(features.reshape(-1, features.shape[2]))
            if moments is None:
                raise ValueError("PaDiM needs at least one training image, found none")
            heap.give_back()
            scores = []
            if len(kept) and moments.count > 1:
                for prediction in self._score_left_out(kept, moments.count, progress or Silent()):
                    scores.append(prediction.score)
                    if left_out is not None:
                        left_out(prediction)
            self.gaussians_ = moments.gaussians(eps=self.eps)
            if threshold:
                self.threshold_ = self.threshold_of(scores)
        return self

    def _of_one_size(self, batch: Sequence[NDArray[np.uint8]]) -> Sequence[NDArray[np.uint8]]:
        """The batch, if all its images have the size of the first one that was ever seen; else DataError."""
        for image in batch:
            size = Size(*image.shape[:2])
            self.image_size_ = self.image_size_ or size
            if size != self.image_size_:
                raise DataError(
                    f"training images of {self.image_size_} and of {size} (height x width) have no places in common, "
                    "and PaDiM learns each place by itself",
                    help=f"Bring all of them to one size: [preprocess] resize = {list(self.image_size_)}",
                )
        return batch

    def _moments(self, features: torch.Tensor) -> Moments:
        from uadctl.memory.gaussian import Moments

        return Moments(*features.shape[1:], device=str(features.device))

    def _score_left_out(self, kept: FeatureStore, images: int, progress: Progress) -> Iterator[Prediction]:
        """What the Gaussians of all other images say of each training image.

        kept: the features of all images, image by image, (images * places, d).
        """
        import numpy as np

        from uadctl.memory.gaussian import left_out_distances

        if self.grid_ is None or self.image_size_ is None:
            raise RuntimeError("PaDiM has seen no image")
        places = self.grid_.height * self.grid_.width
        # 4 bytes a place and image: beside the features, which are hundreds of that, next to nothing.
        fields = np.empty((images, places), np.float32)
        step = max(1, _NUMBERS // (2 * kept.dim * max(images, kept.dim)))
        first_rows = places * np.arange(images)[:, None]
        with progress.task("calibrating", places, unit="places") as task:
            for start in range(0, places, step):
                block = np.arange(start, min(start + step, places))
                features = kept.rows((first_rows + block).ravel()).reshape(images, len(block), kept.dim)
                fields[:, block] = left_out_distances(features, eps=self.eps).cpu().numpy()
                task.advance(len(block))
        for field in fields:
            large = enlarge(field.reshape(self.grid_), self.image_size_, sigma=self.sigma)
            yield Prediction(float(large.max()), large)

    # -- predicting

    def predict_batch(self, images: Sequence[NDArray[np.uint8]]) -> list[Prediction]:
        """Score and (H, W) map of each image, higher is more anomalous. RuntimeError before `fit`."""
        from uadctl.imaging.geometry import Geometry

        if self.gaussians_ is None or self.grid_ is None or self.image_size_ is None:
            raise RuntimeError("PaDiM is not fitted; call fit(images) first")
        if not images:
            return []
        geometry = Geometry(size=None, resize=self.image_size_)
        views = [geometry.plan(Size(*image.shape[:2])) for image in images]
        features = self._embed([view.apply(image) for view, image in zip(views, images, strict=True)])
        fields = self.gaussians_.distances(features).cpu().numpy()
        if not bool((fields < float("inf")).all()):  # NaN is not less
            raise self.network.no_numbers()
        predictions = []
        for field, view in zip(fields, views, strict=True):
            large = enlarge(field.reshape(self.grid_), self.image_size_, sigma=self.sigma)
            predictions.append(Prediction(float(large.max()), view.back(large)))
        return predictions

    # -- features

    def _learned(self, images: Sequence[NDArray[np.uint8]]) -> torch.Tensor:
        """As `_embed`, of images to learn from: ImageError where there are features that are no numbers."""
        features = self._embed(images)
        if not bool(features.isfinite().all()):
            raise self.network.no_numbers()
        return features

    def _embed(self, images: Sequence[NDArray[np.uint8]]) -> torch.Tensor:
        """(b, places, d) float32 features of images of one size; places are row-major on the finest grid."""
        import torch

        ((_, maps),) = self.network.maps(images)
        with torch.inference_mode():
            features = self._on_one_grid(maps)
        self.grid_ = Size(*features.shape[1:3])
        features = features.flatten(1, 2)
        # Factors are computed in float64, which Apple's GPUs have not.
        return features.cpu() if features.device.type == "mps" else features

    def _on_one_grid(self, maps: Sequence[torch.Tensor]) -> torch.Tensor:
        """(b, h, w, d) the chosen channels on the finest grid."""
        import torch

        if self.channels_ is None:
            self.channels_ = choose_channels(sum(m.shape[1] for m in maps), self.n_features, seed=self.seed)
        return on_one_grid(maps, torch.from_numpy(self.channels_))

    # -- keeping

    def state(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """The Gaussians, the choice of channels and the cut backbone, and what is known of their origin."""
        import torch

        if self.gaussians_ is None or self.channels_ is None or self.grid_ is None or self.image_size_ is None:
            raise RuntimeError("PaDiM is not fitted; call fit(images) first")
        tensors, facts = self.network.state()
        own = {
            "mean": self.gaussians_.mean.cpu().contiguous(),
            "channels": torch.from_numpy(self.channels_),
            **{f"{_FACTOR}{i}": panel.cpu().contiguous() for i, panel in enumerate(self.gaussians_.factor)},
        }
        learned = {"threshold": self.threshold_, "grid": list(self.grid_), "image_size": list(self.image_size_)}
        return {**tensors, **own}, {**learned, **facts}

    def restore(self, tensors: dict[str, Any], facts: dict[str, Any]) -> Self:
        """Take over what `state` gave; needs no other file."""
        from uadctl.memory.gaussian import Gaussians

        network = self.network.restore(tensors, facts)
        device = "cpu" if network.device == "mps" else network.device
        numbers = range(sum(key.startswith(_FACTOR) for key in tensors))
        factor = [tensors[f"{_FACTOR}{i}"].to(device) for i in numbers]
        self.gaussians_ = Gaussians(tensors["mean"].to(device), factor)
        self.channels_ = tensors["channels"].cpu().numpy()
        self.grid_ = Size(*facts["grid"])
        self.image_size_ = Size(*facts["image_size"])
        self.threshold_ = facts["threshold"]
        return self

    def facts(self) -> dict[str, Any]:
        """Backbone, its weights' origin and checksum, how it is computed, size of the Gaussians."""
        return {
            **self.network.facts(),
            "n_features": None if self.channels_ is None else len(self.channels_),
            "grid": None if self.grid_ is None else list(self.grid_),
            "image_size": None if self.image_size_ is None else list(self.image_size_),
        }


def usual_layers(entry: BackboneEntry) -> tuple[str, ...]:
    """The layers that PaDiM uses of a backbone unless told otherwise: one for each of its three finest strides from 4.

    Where several layers have one stride, the last of them; where there are not three such strides, the registry's.
    """
    by_stride = {entry.strides[layer]: layer for layer in entry.channels if entry.strides[layer] >= 4}
    finest = tuple(by_stride[stride] for stride in sorted(by_stride)[:3])
    return finest if len(finest) == 3 else entry.layers


def choose_channels(total: int, wanted: int, *, seed: int) -> NDArray[np.int64]:
    """The channels kept of `total`, ascending: `wanted` different ones by lot, or all."""
    import numpy as np

    return np.sort(np.random.default_rng(seed).permutation(total)[:wanted]).astype(np.int64)


def on_one_grid(maps: Sequence[torch.Tensor], channels: torch.Tensor) -> torch.Tensor:
    """(b, h, w, d) the chosen channels, those of coarser layers repeated on the finest grid (section III-A).

    maps: a layer each, (b, channels, h, w). channels: (d,) int64, ascending, numbers into all layers' channels.
    """
    import torch
    from torch.nn import functional

    grid = max((m.shape[-2:] for m in maps), key=lambda shape: shape[0] * shape[1])
    parts, first = [], 0
    for m in maps:
        own = channels[(channels >= first) & (channels < first + m.shape[1])] - first
        first += m.shape[1]
        if len(own):  # each layer is cut before it is enlarged
            parts.append(functional.interpolate(m[:, own.to(m.device)], size=grid, mode="nearest"))
    return torch.cat(parts, dim=1).permute(0, 2, 3, 1).contiguous()
