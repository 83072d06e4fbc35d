"""PatchCore:

Roth, Pemula, Zepeda, Schölkopf, Brox, Gehler, "Towards Total Recall in Industrial Anomaly Detection", CVPR 2022.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Literal, Self

from uadctl import heap
from uadctl.errors import ParamError, Problem
from uadctl.models import base
from uadctl.models.frozen import FrozenNetwork, wrong_network
from uadctl.models.patches import enlarge
from uadctl.progress import Progress, Silent
from uadctl.records import Prediction, Size
from uadctl.spec.search import wrong_search
from uadctl.spec.values import bytes_in

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

    from uadctl.features.cache import FeatureCache
    from uadctl.memory import FeatureStore, KNNIndex

_CORESETS = ("greedy", "random", "none")


class PatchCore(base.ThroughNetwork):
    """A memory bank of patch features of good images; what lies far from all of them is anomalous.

    Patch features are the outputs of middle layers of a frozen backbone, each averaged over its neighbourhood and
    concatenated on the grid of the finest layer (section 3.1). A greedy coreset of them is kept (3.2). The map is the
    distance of each patch to the nearest kept feature; the score is the largest of them, re-weighted by how usual that
    kept feature's neighbourhood is (3.3, equations 6 and 7).

    backbone: a registered network, see `uadctl models show vision_patchcore`.
    layers: its stages to use; none given: those the registry names for the backbone.
    neighborhood: side of the square of patches averaged into one, odd; the border is padded with zeros, which count.
    coreset: which patches are kept: "greedy", the paper's; "random", as many by lot; "none", all of them.
    coreset_ratio: share of the training patches that greedy and random keep, in (0, 1].
    projection_dim: columns of the random projection in which the greedy coreset is chosen; 0: none.
    n_neighbors: b of equation 7: kept features around the nearest one that set the weight of the score; 1: no weight.
    sigma: standard deviation of the Gaussian that smooths the map, in pixels of the image given; 0: none.
    feature_memory: what the features of all training images may take in memory while fitting, and their projection
        again as much, such as "500MB" or "4GB"; more is kept in a temporary file.
    knn_backend: library that finds the nearest neighbours.
    knn_precision: of torch's search; the neighbours are the same. "bf16" is for processors with matrix units, "auto"
        takes it where there are some.
    knn_verify: compare every search of torch with an exhaustive one in float64, and fail where they differ; slow.
    faiss_index: "flat" is exact; "ivf" and "ivfpq" find most of the neighbours, in banks of millions.
    precision: number format of the backbone: "fp32", "bf16", "fp16", or "auto", the fastest one the device is made for.
    runtime: what computes the backbone: "torch", or "openvino" (on the processor only).
    pretrained: False leaves the backbone random; for trying the machinery only.
    weights: a checkpoint file of the backbone to use in place of the published weights.
    contamination: in (0, 0.5); `threshold_` is the (1 - contamination) quantile of the leave-one-image-out scores of
        the training images. Only `predict` uses it; runs have their own calibrated threshold.
    device: "auto", "cpu", "cuda", "cuda:N" or "mps".
    seed: of the coreset's projection and first pick, and of random weights.
    batch_size: images that pass through the backbone together; "auto": as many as turn out fastest, which gives up
        that a run repeats to the last bit.
    feature_cache: where feature maps of batches seen before are found, shared with other models; none: they are
        computed.

    Images are paths or (H, W, 3) RGB uint8 arrays of any size, also of different sizes; maps have the size of the
    image.
    Learned: `memory_bank_` (n, d), `threshold_` (None after one training image, or with `threshold=False`).
    """

    offers_left_out = True
    leaves_out_together = True
    network: FrozenNetwork

    def __init__(
        self,
        *,
        backbone: str = "efficientnet_lite0",
        layers: tuple[str, ...] | None = None,
        neighborhood: int = 3,
        coreset: Literal["greedy", "random", "none"] = "greedy",
        coreset_ratio: float = 0.1,
        projection_dim: int = 128,
        n_neighbors: int = 9,
        sigma: float = 4.0,
        feature_memory: str = "4GB",
        knn_backend: Literal["torch", "numpy", "sklearn", "faiss"] = "torch",
        knn_precision: Literal["fp32", "bf16", "auto"] = "fp32",
        knn_verify: bool = False,
        faiss_index: Literal["flat", "ivf", "ivfpq"] = "flat",
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
                (
                    neighborhood >= 1 and neighborhood % 2 == 1,
                    f"neighborhood (={neighborhood}) must be odd and positive",
                ),
                (coreset in _CORESETS, f"coreset (={coreset!r}) must be one of {', '.join(_CORESETS)}"),
                (0 < coreset_ratio <= 1, f"coreset_ratio (={coreset_ratio}) must lie in (0, 1]"),
                (projection_dim >= 0, f"projection_dim (={projection_dim}) must be at least 0"),
                (n_neighbors >= 1, f"n_neighbors (={n_neighbors}) must be at least 1"),
                (sigma >= 0, f"sigma (={sigma}) must be at least 0"),
                (0 < contamination < 0.5, f"contamination (={contamination}) must lie in (0, 0.5)"),
                (
                    memory is not None,
                    f'feature_memory (={feature_memory!r}) must be a size such as "500MB" or "4GB"',
                ),
            )
            if not holds
        ]
        wrong += wrong_search(backend=knn_backend, precision=knn_precision, verify=knn_verify, faiss_index=faiss_index)
        if wrong or memory is None:
            raise ParamError([Problem(message) for message in wrong])
        self.network = FrozenNetwork(
            backbone=backbone,
            layers=layers,
            precision=precision,
            runtime=runtime,
            pretrained=pretrained,
            weights=weights,
            device=device,
            seed=seed,
            batch_size=batch_size,
            cache=feature_cache,
        )
        self.neighborhood = neighborhood
        self.coreset: Literal["greedy", "random", "none"] = coreset
        self.coreset_ratio = coreset_ratio
        self.projection_dim = projection_dim
        self.n_neighbors = n_neighbors
        self.sigma = sigma
        self.feature_memory = feature_memory
        self.knn_backend: Literal["torch", "numpy", "sklearn", "faiss"] = knn_backend
        self.knn_precision: Literal["fp32", "bf16", "auto"] = knn_precision
        self.knn_verify = knn_verify
        self.faiss_index: Literal["flat", "ivf", "ivfpq"] = faiss_index
        self.contamination = contamination
        self.seed = seed
        self._memory = memory
        self._index: KNNIndex | None = None
        self.memory_bank_: torch.Tensor | None = None
        self.threshold_: float | None = None

    @property
    def is_fitted(self) -> bool:
        return self.memory_bank_ is not None

    def prepare(self, *, download: bool = True) -> None:
        """Have everything ready that `fit` needs beside images; without `download`, only what is not the network's.

        Raises WeightsError, BackendMissing, SpecError for a device that this machine has not.
        """
        self._make_index(self.network.prepare(download=download)).prepare()

    # -- learning

    def fit(
        self,
        images: Iterable[base.Image],
        *,
        left_out: Callable[..., None] | None = None,
        together: Sequence[int] | None = None,
        threshold: bool = True,
        progress: Progress | None = None,
    ) -> Self:
        """Fill the memory bank from normal images.

        left_out: receives each training image's prediction by the bank without that image's own patches.
        together: the number of the part that each image shows, ascending; filled, at the latest, while the images are
            iterated. Images of one part, such as its tiles, are left out together: each is scored by the bank without
            the patches of all of them, and where that leaves nothing, `left_out` receives None: whoever gives the parts
            can tell whose prediction each one is. None: each image shows a part of its own.
        threshold: False leaves `threshold_` unset, and saves scoring all training images if nobody else asks for it.
        Raises ValueError without images and where `together` is not ascending or not as long as the images, DataError
        naming a broken one, WeightsError, RunError without room on disk and for features that are no numbers.
        """
        import numpy as np

        from uadctl.memory import FeatureStore

        progress = progress or Silent()
        self._index = self.memory_bank_ = self.threshold_ = None
        grids: list[tuple[Size, Size]] = []
        with FeatureStore(memory=self._memory) as features:
            seen = base.looked_at(self.network.batches(images), self._learned, of=self, progress=progress)
            for batch, embedded in seen:
                for image, (patches, grid) in zip(batch, embedded, strict=True):
                    features.append(patches)
                    grids.append((grid, Size(*image.shape[:2])))
            if not grids:
                raise ValueError("PatchCore needs at least one training image, found none")
            parts = _parts(together, len(grids))
            heap.give_back()
            kept = self._choose(features, progress)
            self._hold(features[:] if kept is None else features.rows(kept))
            if threshold or left_out is not None:
                ends = np.cumsum([0, *(grid.height * grid.width for grid, _ in grids)])
                own = ends if kept is None else np.searchsorted(kept, ends)
                told = None if left_out is None else functools.partial(_tell, left_out, together is not None)
                scores = self._score_left_out(features, grids, parts, ends.tolist(), own.tolist(), told, progress)
                if threshold:
                    self.threshold_ = self.threshold_of(scores)
        return self

    def _choose(self, features: FeatureStore, progress: Progress) -> NDArray[np.int64] | None:
        """Which rows to keep, ascending; None for all of them."""
        from uadctl.memory import greedy_coreset, random_coreset

        if self.coreset == "none":
            return None
        n = len(features)
        size = max(1, round(self.coreset_ratio * n))
        if self.coreset == "random":
            return random_coreset(n, size, seed=self.seed)
        kept = greedy_coreset(features, size, projection_dim=self.projection_dim, seed=self.seed, progress=progress)
        # In the order of the images, not of the choice: equal banks then are equal files whatever the rounding of ties.
        kept.sort()
        return kept

    def _hold(self, bank: torch.Tensor) -> None:
        import torch

        if not bool(torch.isfinite(bank).all()):
            raise ValueError("features contain NaN or infinity")
        self.memory_bank_ = bank
        self._index = self._make_index(str(bank.device)).fit(bank)

    def _make_index(self, device: str) -> KNNIndex:
        from uadctl.memory import make_index

        return make_index(
            self.knn_backend,
            device=device,
            precision=self.knn_precision,
            verify=self.knn_verify,
            faiss_index=self.faiss_index,
        )

    def _score_left_out(
        self,
        features: FeatureStore,
        grids: Sequence[tuple[Size, Size]],
        parts: Sequence[slice],
        ends: Sequence[int],
        own: Sequence[int],
        left_out: Callable[[Prediction | None], None] | None,
        progress: Progress,
    ) -> list[float]:
        """Score every training image against the bank without the patches of its part.

        parts: the images left out with each. ends: where the features of image i lie, ends[i] to ends[i + 1]; own: the
        same of those in the bank.
        """
        scores: list[float] = []
        if len(grids) < 2:
            return scores
        with progress.task("calibrating", len(grids)) as task:
            for i, (grid, size) in enumerate(grids):
                exclude = slice(own[parts[i].start], own[parts[i].stop])
                if exclude.stop - exclude.start < own[-1]:
                    patches = features[ends[i] : ends[i + 1]]
                    (prediction,) = self._score([(patches, grid)], [size], exclude=exclude)
                    scores.append(prediction.score)
                    if left_out is not None:
                        left_out(prediction)
                elif left_out is not None:
                    left_out(None)
                task.advance()
        return scores

    # -- predicting

    def predict_batch(self, images: Sequence[NDArray[np.uint8]]) -> list[Prediction]:
        """Score and (H, W) map of each image, higher is more anomalous. RuntimeError before `fit`."""
        self.require_fitted()
        return self._score(self._embed(images), [Size(*image.shape[:2]) for image in images])

    def _score(
        self, embedded: Sequence[tuple[torch.Tensor, Size]], sizes: Sequence[Size], *, exclude: slice | None = None
    ) -> list[Prediction]:
        """Score and map of each image from its patch features, (grid.height * grid.width, d), row-major, and grid.

        sizes: of the maps. exclude: rows of the bank that do not count.
        """
        import numpy as np

        if self.memory_bank_ is None or self._index is None:
            raise RuntimeError("PatchCore is not fitted; call fit(images) first")
        fields, scores = compare(
            embedded, self.memory_bank_, self._index, n_neighbors=self.n_neighbors, exclude=exclude
        )
        if not all(bool(field.isfinite().all()) for field in fields):
            raise self.network.no_numbers()
        predictions = []
        for field, score, size in zip(fields, scores, sizes, strict=True):
            large = enlarge(field.cpu().numpy(), size, sigma=self.sigma)
            predictions.append(Prediction(float(np.float32(score)), large))
        return predictions

    # -- features

    def _learned(self, images: Sequence[NDArray[np.uint8]]) -> list[tuple[torch.Tensor, Size]]:
        """As `_embed`, of images to learn from: ImageError where there are features that are no numbers."""
        embedded = self._embed(images)
        if not all(bool(patches.isfinite().all()) for patches, _ in embedded):
            raise self.network.no_numbers()
        return embedded

    def _embed(self, images: Sequence[NDArray[np.uint8]]) -> list[tuple[torch.Tensor, Size]]:
        """Patch features (rows, d) and their grid for each image; images of one shape share a forward pass."""
        import torch

        out: dict[int, tuple[torch.Tensor, Size]] = {}
        for members, maps in self.network.maps(images):
            with torch.inference_mode():
                patches = aggregate(maps, neighborhood=self.neighborhood)
            grid = Size(*patches.shape[1:3])
            for row, i in enumerate(members):
                out[i] = (patches[row].reshape(-1, patches.shape[3]), grid)
        return [out[i] for i in range(len(images))]

    # -- keeping

    def state(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """The memory bank and the cut backbone, and what is known of their origin."""
        if self.memory_bank_ is None:
            raise RuntimeError("PatchCore is not fitted; call fit(images) first")
        tensors, facts = self.network.state()
        return {**tensors, "memory_bank": self.memory_bank_.cpu().contiguous()}, {"threshold": self.threshold_, **facts}

    def restore(self, tensors: dict[str, Any], facts: dict[str, Any]) -> Self:
        """Take over what `state` gave; needs no other file."""
        network = self.network.restore(tensors, facts)
        self._hold(tensors["memory_bank"].to(network.device))
        self.threshold_ = facts["threshold"]
        return self

    def facts(self) -> dict[str, Any]:
        """Backbone, its weights' origin and checksum, how it is computed, size of the bank."""
        bank = self.memory_bank_
        return {**self.network.facts(), "memory_bank": None if bank is None else list(bank.shape)}


def _tell(left_out: Callable[..., None], all_of_them: bool, prediction: Prediction | None) -> None:
    if prediction is not None or all_of_them:
        left_out(prediction)


def _parts(together: Sequence[int] | None, images: int) -> list[slice]:
    """For each image, those that show the same part."""
    import numpy as np

    numbers = np.arange(images) if together is None else np.asarray(together)
    if numbers.shape != (images,):
        raise ValueError(f"together has {len(numbers)} numbers for {images} training images")
    if (np.diff(numbers) < 0).any():
        raise ValueError("together must be ascending: images of one part follow one another")
    first, last = (np.searchsorted(numbers, numbers, side=side).tolist() for side in ("left", "right"))
    return [slice(start, stop) for start, stop in zip(first, last, strict=True)]


def aggregate(maps: Sequence[torch.Tensor], *, neighborhood: int) -> torch.Tensor:
    """(B, h, w, d) patch features on the finest grid (section 3.1).

    maps: a layer each, (B, channels, h, w), finest first. neighborhood: as PatchCore's.
    """
    import torch
    from torch.nn import functional

    k = neighborhood
    pooled = [functional.avg_pool2d(m, k, stride=1, padding=k // 2) for m in maps]
    finest = pooled[0].shape[-2:]
    aligned = [pooled[0]] + [
        functional.interpolate(m, size=finest, mode="bilinear", align_corners=False) for m in pooled[1:]
    ]
    return torch.cat(aligned, dim=1).permute(0, 2, 3, 1).contiguous()


def compare(
    embedded: Sequence[tuple[torch.Tensor, Size]],
    bank: torch.Tensor,
    index: KNNIndex,
    *,
    n_neighbors: int,
    exclude: slice | None = None,
) -> tuple[list[torch.Tensor], list[float]]:
    """The distances of images' patches to a memory bank, on the images' grids, and the images' scores (section 3.3).

    embedded: of each image its (grid.height * grid.width, d) patch features, row-major, and the grid.
    bank: (n, d), which `index` searches. n_neighbors: b of equation 7; 1: no weight.
    exclude: rows of the bank that do not count.
    """
    import torch

    distance, neighbor = index.kneighbors(torch.cat([patches for patches, _ in embedded]), 1, exclude=exclude)
    counts = [len(patches) for patches, _ in embedded]
    fields = [part.reshape(grid) for part, (_, grid) in zip(distance[:, 0].split(counts), embedded, strict=True)]
    worst = torch.tensor([int(field.argmax()) for field in fields])
    where = worst + torch.tensor([0, *counts[:-1]]).cumsum(dim=0)
    scores = distance[where.to(distance.device), 0].cpu().double()
    if n_neighbors > 1:
        # Equation 7: among the b features around the nearest one, the usual nearest one gets nearly all of the
        # softmax if it alone is close to the patch, and 1/b of it in a dense place.
        nearest = bank[neighbor[where.to(neighbor.device), 0].to(bank.device)]
        _, around = index.kneighbors(nearest, n_neighbors, exclude=exclude)
        if around.shape[1] > 1:  # a bank of one feature has no neighbourhood
            patch = torch.stack([patches[i] for (patches, _), i in zip(embedded, worst.tolist(), strict=True)])
            away = (bank[around.to(bank.device)] - patch[:, None, :]).cpu().double()
            scores *= 1 - torch.softmax(torch.linalg.vector_norm(away, dim=2), dim=1)[:, 0]
    return fields, scores.tolist()
