"""PatchCore:

Roth, Pemula, Zepeda, Schölkopf, Brox, Gehler, "Towards Total Recall in Industrial Anomaly Detection", CVPR 2022.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Literal, Self

from uadctl.errors import ParamError, Problem
from uadctl.models import base
from uadctl.progress import Progress, Silent
from uadctl.records import Prediction, Size
from uadctl.spec.registry import find_backbone, no_such_backbone, resolve_backbone

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

    from uadctl.features.backbone import Backbone
    from uadctl.memory import KNNIndex


class PatchCore:
    """A memory bank of patch features of good images; what lies far from all of them is anomalous.

    Patch features are the outputs of middle layers of a frozen backbone, each averaged over its neighbourhood and
    concatenated on the grid of the finest layer (section 3.1). A greedy coreset of them is kept (3.2). The map is the
    distance of each patch to the nearest kept feature; the score is the largest of them, re-weighted by how usual that
    kept feature's neighbourhood is (3.3, equations 6 and 7).

    backbone: a registered network, see `uadctl models show vision_patchcore`.
    layers: its stages to use; none given: those the registry names for the backbone.
    neighborhood: side of the square of patches averaged into one, odd; the border is padded with zeros, which count.
    coreset_ratio: share of the training patches kept, in (0, 1].
    projection_dim: columns of the random projection in which the coreset is chosen; 0: none.
    n_neighbors: b of equation 7: kept features around the nearest one that set the weight of the score; 1: no weight.
    sigma: standard deviation of the Gaussian that smooths the map, in pixels of the image given; 0: none.
    knn_backend: library that finds the nearest neighbours; all are exact.
    pretrained: False leaves the backbone random; for trying the machinery only.
    weights: a checkpoint file of the backbone to use in place of the published weights.
    contamination: in (0, 0.5); `threshold_` is the (1 - contamination) quantile of the leave-one-image-out scores of
        the training images. Only `predict` uses it; runs have their own calibrated threshold.
    device: "auto", "cpu", "cuda", "cuda:N" or "mps".
    seed: of the coreset's projection and first pick, and of random weights.
    batch_size: images that pass through the backbone together.

    Images are paths or (H, W, 3) RGB uint8 arrays of any size, also of different sizes; maps have the size of the
    image.
    Learned: `memory_bank_` (n, d), `threshold_` (None after one training image).
    """

    offers_left_out = True

    def __init__(
        self,
        *,
        backbone: str = "efficientnet_lite0",
        layers: tuple[str, ...] | None = None,
        neighborhood: int = 3,
        coreset_ratio: float = 0.1,
        projection_dim: int = 128,
        n_neighbors: int = 9,
        sigma: float = 4.0,
        knn_backend: Literal["torch", "numpy", "sklearn", "faiss"] = "torch",
        pretrained: bool = True,
        weights: str | None = None,
        contamination: float = 0.1,
        device: str = "auto",
        seed: int = 0,
        batch_size: int = 16,
    ) -> None:
        entry = find_backbone(backbone)
        channels = () if entry is None else tuple(entry.channels)
        used = layers if layers is not None else () if entry is None else entry.layers
        wrong = [
            message
            for holds, message in (
                (entry is not None, f'backbone (="{backbone}"): {no_such_backbone(backbone)}'),
                (
                    entry is None or (bool(used) and set(used) <= set(channels) and len(set(used)) == len(used)),
                    f"layers (={list(used)}) must be distinct layers of {backbone}: {', '.join(channels)}",
                ),
                (
                    neighborhood >= 1 and neighborhood % 2 == 1,
                    f"neighborhood (={neighborhood}) must be odd and positive",
                ),
                (0 < coreset_ratio <= 1, f"coreset_ratio (={coreset_ratio}) must lie in (0, 1]"),
                (projection_dim >= 0, f"projection_dim (={projection_dim}) must be at least 0"),
                (n_neighbors >= 1, f"n_neighbors (={n_neighbors}) must be at least 1"),
                (sigma >= 0, f"sigma (={sigma}) must be at least 0"),
                (0 < contamination < 0.5, f"contamination (={contamination}) must lie in (0, 0.5)"),
                (batch_size >= 1, f"batch_size (={batch_size}) must be at least 1"),
                (
                    knn_backend in ("torch", "numpy", "sklearn", "faiss"),
                    f"knn_backend (={knn_backend!r}) must be one of torch, numpy, sklearn, faiss",
                ),
            )
            if not holds
        ]
        if wrong or entry is None:
            raise ParamError([Problem(message) for message in wrong])
        self.backbone = entry.name
        self.layers = tuple(used)
        self.neighborhood = neighborhood
        self.coreset_ratio = coreset_ratio
        self.projection_dim = projection_dim
        self.n_neighbors = n_neighbors
        self.sigma = sigma
        self.knn_backend: Literal["torch", "numpy", "sklearn", "faiss"] = knn_backend
        self.pretrained = pretrained
        self.weights = weights
        self.contamination = contamination
        self.device = device
        self.seed = seed
        self.batch_size = batch_size
        self._stride = max(entry.strides[layer] for layer in used)
        self._network: Backbone | None = None
        self._index: KNNIndex | None = None
        self.memory_bank_: torch.Tensor | None = None
        self.threshold_: float | None = None

    @property
    def stride(self) -> int:
        """Pixels between neighbouring features of the coarsest layer used."""
        return self._stride

    def weights_state(self) -> str:
        """Where the backbone's weights would come from: "random", "path", or a place of `uadctl.features.weights`."""
        from uadctl.features.weights import available

        if not self.pretrained:
            return "random"
        if self.weights is not None:
            return "path"
        return available(resolve_backbone(self.backbone)) or "network"

    def prepare(self, *, download: bool = True) -> None:
        """Have everything ready that `fit` needs beside images; without `download`, only what is not the network's.

        Raises WeightsError, BackendMissing, SpecError for a device that this machine has not.
        """
        from uadctl.features.backbone import Backbone, resolve_device
        from uadctl.features.weights import absent, find_weights, offline
        from uadctl.memory import make_index

        if self.pretrained:
            entry = resolve_backbone(self.backbone)
            if self.weights is not None:
                Backbone(entry.name, layers=self.layers, weights=self.weights)  # raises if it does not fit
            elif download or self.weights_state() != "network":
                find_weights(entry)
            elif offline():
                raise absent(entry, "UADCTL_OFFLINE is set")
        make_index(self.knn_backend).prepare()
        resolve_device(self.device)

    # -- learning

    def fit(
        self,
        images: Iterable[base.Image],
        *,
        left_out: Callable[[Prediction], None] | None = None,
        progress: Progress | None = None,
    ) -> Self:
        """Fill the memory bank from normal images.

        left_out: receives each training image's prediction by the bank without that image's own patches.
        Raises ValueError without images, DataError naming a broken one, WeightsError.
        """
        import numpy as np

        from uadctl.memory import greedy_coreset

        progress = progress or Silent()
        self._index = self.memory_bank_ = self.threshold_ = None
        features: list[torch.Tensor] = []
        grids: list[tuple[Size, Size]] = []
        for batch in base.batches(images, self.batch_size):
            for image, (patches, grid) in zip(batch, self._embed(batch), strict=True):
                features.append(patches)
                grids.append((grid, Size(*image.shape[:2])))
        if not features:
            raise ValueError("PatchCore needs at least one training image, found none")
        owner = np.repeat(np.arange(len(features)), [len(f) for f in features])
        every = _stack(features)
        kept = greedy_coreset(
            every,
            max(1, round(self.coreset_ratio * len(every))),
            projection_dim=self.projection_dim,
            seed=self.seed,
            progress=progress,
        )
        # In the order of the images, not of the choice: equal banks then are equal files whatever the rounding of ties.
        kept.sort()
        self._hold(every[kept])
        self._calibrate(every, owner, owner[kept], grids, left_out, progress)
        return self

    def _hold(self, bank: torch.Tensor) -> None:
        self.memory_bank_ = bank
        self._index = self._indexed(bank)

    def _indexed(self, bank: torch.Tensor) -> KNNIndex:
        from uadctl.memory import make_index

        return make_index(self.knn_backend, device=str(bank.device)).fit(bank)

    def _calibrate(
        self,
        every: torch.Tensor,
        owner: NDArray[np.int64],
        bank_owner: NDArray[np.int64],
        grids: Sequence[tuple[Size, Size]],
        left_out: Callable[[Prediction], None] | None,
        progress: Progress,
    ) -> None:
        """Score every training image against the bank without its own patches."""
        import numpy as np

        if len(grids) < 2 or self.memory_bank_ is None:
            return
        scores = []
        ends = np.searchsorted(owner, np.arange(len(grids) + 1))
        with progress.task("calibrating", len(grids)) as task:
            for i, (grid, size) in enumerate(grids):
                others = np.flatnonzero(bank_owner != i)
                if len(others):
                    bank = self.memory_bank_[others]
                    prediction = self._score(every[ends[i] : ends[i + 1]], grid, size, bank, self._indexed(bank))
                    scores.append(prediction.score)
                    if left_out is not None:
                        left_out(prediction)
                task.advance()
        if scores:
            self.threshold_ = float(np.quantile(scores, 1 - self.contamination))

    # -- predicting

    def predict_batch(self, images: Sequence[NDArray[np.uint8]]) -> list[Prediction]:
        """Score and (H, W) map of each image, higher is more anomalous. RuntimeError before `fit`."""
        if self.memory_bank_ is None or self._index is None:
            raise RuntimeError("PatchCore is not fitted; call fit(images) first")
        return [
            self._score(patches, grid, Size(*image.shape[:2]), self.memory_bank_, self._index)
            for image, (patches, grid) in zip(images, self._embed(images), strict=True)
        ]

    def decision_function(self, images: Iterable[base.Image]) -> NDArray[np.float64]:
        """(n,) continuous scores; higher is more anomalous."""
        return base.decision_function(self, images, batch_size=self.batch_size)

    def predict_anomaly_map(self, images: Iterable[base.Image]) -> NDArray[np.float32]:
        """(n, H, W) float32 maps of images of one size; ValueError if sizes differ."""
        return base.anomaly_maps(self, images, batch_size=self.batch_size)

    def predict(self, images: Iterable[base.Image]) -> NDArray[np.int64]:
        """(n,) labels: 1 where the score reaches `threshold_`.

        RuntimeError before `fit` and after a single-image fit.
        """
        import numpy as np

        if self.memory_bank_ is None:
            raise RuntimeError("PatchCore is not fitted; call fit(images) first")
        if self.threshold_ is None:
            raise RuntimeError("PatchCore has no threshold_: one training image leaves no other to compare it with")
        return (self.decision_function(images) >= self.threshold_).astype(np.int64)

    def _score(self, patches: torch.Tensor, grid: Size, size: Size, bank: torch.Tensor, index: KNNIndex) -> Prediction:
        """patches: (grid.height * grid.width, d), row-major. The map has `size`."""
        import cv2
        import numpy as np
        import torch

        distance, neighbor = index.kneighbors(patches, 1)
        worst = int(distance[:, 0].argmax())
        score = float(distance[worst, 0])
        b = min(self.n_neighbors, len(bank))
        if b > 1:
            # Equation 7: among the b features around the nearest one, the usual nearest one gets nearly all of the
            # softmax if it alone is close to the patch, and 1/b of it in a dense place.
            nearest = bank[neighbor[worst]]
            _, around = index.kneighbors(nearest, b)
            support = torch.linalg.vector_norm((bank[around[0]] - patches[worst]).cpu().double(), dim=1)
            score *= float(1 - torch.softmax(support, dim=0)[0])
        field = distance[:, 0].reshape(grid).cpu().numpy()
        field = cv2.resize(field, (size.width, size.height), interpolation=cv2.INTER_LINEAR)
        if self.sigma:
            field = cv2.GaussianBlur(field, (0, 0), self.sigma, borderType=cv2.BORDER_REFLECT)
        return Prediction(float(np.float32(score)), field)

    # -- features

    def _embed(self, images: Sequence[NDArray[np.uint8]]) -> list[tuple[torch.Tensor, Size]]:
        """Patch features (rows, d) and their grid for each image; images of one shape share a forward pass."""
        import numpy as np
        import torch

        groups: dict[tuple[int, ...], list[int]] = {}
        for i, image in enumerate(images):
            groups.setdefault(image.shape, []).append(i)
        out: dict[int, tuple[torch.Tensor, Size]] = {}
        for members in groups.values():
            maps = self._backbone()(np.stack([images[i] for i in members]))
            with torch.inference_mode():
                patches = self._aggregate(maps)
            grid = Size(*patches.shape[1:3])
            for row, i in enumerate(members):
                out[i] = (patches[row].reshape(-1, patches.shape[3]), grid)
        return [out[i] for i in range(len(images))]

    def _aggregate(self, maps: Sequence[torch.Tensor]) -> torch.Tensor:
        """(B, h, w, d) patch features on the finest grid (section 3.1)."""
        import torch
        from torch.nn import functional

        k = self.neighborhood
        pooled = [functional.avg_pool2d(m, k, stride=1, padding=k // 2) for m in maps]
        finest = pooled[0].shape[-2:]
        aligned = [pooled[0]] + [
            functional.interpolate(m, size=finest, mode="bilinear", align_corners=False) for m in pooled[1:]
        ]
        return torch.cat(aligned, dim=1).permute(0, 2, 3, 1).contiguous()

    def _backbone(self, state: dict[str, torch.Tensor] | None = None) -> Backbone:
        from uadctl.features.backbone import Backbone, resolve_device

        if self._network is None or state is not None:
            self._network = Backbone(
                self.backbone,
                layers=self.layers,
                pretrained=self.pretrained,
                weights=self.weights,
                state=state,
                device=resolve_device(self.device),
                seed=self.seed,
            )
        return self._network

    # -- keeping

    def state(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """The memory bank and the cut backbone, and what is known of their origin."""
        if self.memory_bank_ is None:
            raise RuntimeError("PatchCore is not fitted; call fit(images) first")
        tensors = {f"backbone.{key}": value for key, value in self._backbone().state().items()}
        tensors["memory_bank"] = self.memory_bank_.cpu().contiguous()
        return tensors, {"threshold": self.threshold_, "weights": self._backbone().weights}

    def restore(self, tensors: dict[str, Any], facts: dict[str, Any]) -> Self:
        """Take over what `state` gave; needs no other file."""
        prefix = "backbone."
        network = self._backbone({k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)})
        network.weights = facts["weights"]
        self._hold(tensors["memory_bank"].to(network.device))
        self.threshold_ = facts["threshold"]
        return self

    def facts(self) -> dict[str, Any]:
        """Backbone, its weights' origin and checksum, device, size of the bank."""
        network = self._backbone()
        return {
            "backbone": network.entry.name,
            "layers": list(network.layers),
            **network.weights,
            "device": network.device,
            "memory_bank": list(self.memory_bank_.shape) if self.memory_bank_ is not None else None,
        }


def _stack(parts: list[torch.Tensor]) -> torch.Tensor:
    """One (n, d) tensor of all rows; `parts` become views of it, so that the rows are never held twice for long."""
    import torch

    out = torch.empty((sum(len(p) for p in parts), parts[0].shape[1]), device=parts[0].device)
    row = 0
    for i, part in enumerate(parts):
        end = row + len(part)
        out[row:end] = part
        parts[i] = out[row:end]
        row = end
    return out
