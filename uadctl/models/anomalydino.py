"""AnomalyDINO:

Damm, Laszkiewicz, Lederer, Fischer, "AnomalyDINO: Boosting Patch-Based Few-Shot Anomaly Detection with DINOv2", WACV
2025.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from math import floor, sqrt
from typing import TYPE_CHECKING, Any, Literal, Protocol, Self, TypeVar, get_args

from uadctl import heap
from uadctl.errors import ImageError, ParamError, Problem
from uadctl.models import base
from uadctl.models.frozen import FrozenNetwork, wrong_network
from uadctl.models.patches import Aggregation, aggregate_patch_scores, enlarge, reshape_patch_scores
from uadctl.models.references import Lot
from uadctl.progress import Progress, Silent
from uadctl.records import Prediction, Size
from uadctl.spec.registry import find_backbone
from uadctl.spec.search import wrong_search
from uadctl.spec.values import shown

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

    from uadctl.features.cache import FeatureCache
    from uadctl.memory import CosineBank, FeatureStore
    from uadctl.spec.registry import BackboneEntry

Source = Literal["torchhub", "local", "timm", "checkpoint"]
Switch = Literal["auto", "on", "off"]

# timm's names of the sizes of DINOv2, by the letter in the published names.
_TIMM_SIZES = {"s": "small", "b": "base", "l": "large", "g": "giant"}
_TIMM = {
    f"dinov2_vit{letter}14{suffix}": f"timm:vit_{size}_patch14{registers}_dinov2.lvd142m"
    for letter, size in _TIMM_SIZES.items()
    for suffix, registers in (("", ""), ("_reg", "_reg4"))
}

# A longer side counts up to so many times the shorter one, so that a strip of pixels is not millions of patches.
_LONGEST = 4
# The most references that the authors turn: their few shots are 1 to 16.
_FEW = 16
# What patches of images that are not drawn may take in memory while fitting; more is kept in a temporary file.
_MEMORY = 4 * 10**9
# Degrees by which reference images are turned besides 0.
_ANGLES = (45, 90, 135, 180, 225, 270, 315)
# The mask of the foreground, with the numbers of the authors' code: the first principal component of a patch on it is
# above this; the middle is what a fifth of the grid's sides away from the border; a component is taken with the other
# sign where it keeps no more than this share of the middle.
_ABOVE, _BORDER, _MIDDLE = 10.0, 0.2, 0.35

_Any = TypeVar("_Any")


class Embedder(Protocol):
    """What may take the place of the network."""

    def embed(self, x: Any, /) -> tuple[Any, tuple[int, int], tuple[int, int]]:
        """Patch features (P, D), row-major, their grid (rows, columns) and the image's height and width in pixels.

        x: the image as the caller gave it.
        """
        ...


@dataclass(frozen=True, slots=True)
class _Patches:
    """An image's patches. vectors: (rows x columns, d) float32, row-major, as the network gives them. size: its own."""

    vectors: NDArray[np.float32]
    grid: Size
    size: Size


@dataclass(frozen=True, slots=True)
class _Reference:
    """A training image in the bank.

    count: how many rows it has there, those of the image as it is before those of its rotations.
    foreground: (rows x columns) bool, None where masking is off.
    """

    grid: Size
    size: Size
    count: int
    foreground: NDArray[np.bool_] | None


class _Waiting:
    """The patches of training images of which it is not known yet who is drawn, by the order of `add`.

    store: where their vectors are kept; None: in memory, without torch.
    """

    def __init__(self, store: FeatureStore | None) -> None:
        self._store = store
        self._vectors: list[NDArray[np.float32]] = []
        self._ends: list[int] = [0]
        self._sizes: list[tuple[Size, Size]] = []

    def __len__(self) -> int:
        return len(self._sizes)

    def add(self, patches: _Patches) -> None:
        if self._store is None:
            self._vectors.append(patches.vectors)
        else:
            import torch

            self._store.append(torch.from_numpy(patches.vectors))
            self._ends.append(len(self._store))
        self._sizes.append((patches.grid, patches.size))

    def patches(self, number: int) -> _Patches:
        if self._store is None:
            vectors = self._vectors[number]
        else:
            vectors = self._store[self._ends[number] : self._ends[number + 1]].numpy()
        return _Patches(vectors, *self._sizes[number])


class AnomalyDINO(base.FromPredictions):
    """A memory bank of all patches of some good images; a patch unlike all of them is anomalous.

    Patch tokens of a frozen DINOv2 are compared by cosine distance, each with its nearest in the bank (section 3.1).
    The score of an image is the mean of its highest distances, the map all of them. For a few shots, the reference
    images are rotated; on objects, patches of the background are told by the first principal component of the image's
    own tokens, and have distance 0 (section 3.2). As in the authors' code, patches of the background stay in the bank.

    backbone: a registered DINOv2, such as "dinov2_vits14"; or any other network that gives a map of features, also
        "timm:NAME".
    layer: the output of the network to use; none given: the last that the registry names for the backbone.
    source: where a DINOv2's tensors come from. "torchhub": its published file, looked for as all weights are and kept
        where torch hub keeps it; no code but uadctl's is run. "local": torch.hub.load from `repo`, whose tokens are
        compared with uadctl's. "timm": timm's network of the same name. "checkpoint": `weights`.
    repo: (source "local") a clone of the published repository; its code is run.
    weights: (source "checkpoint") a file of the network's tensors.
    image_size: the shorter side of an image is brought to this many pixels, its longer one by the same factor, both to
        a multiple of the network's patch; beyond 4:1 the area stays that of a 4:1 image. It takes the place of a
        `[preprocess]` that says nothing but the default. "given": images are taken as they come.
    n_neighbors: how many nearest patches the distance is the mean of.
    aggregation: the score of an image: "topk_mean", the mean of its highest distances; "max"; or "mean".
    topk: share of the patches that "topk_mean" takes, in (0, 1]; at least one patch.
    sigma: standard deviation of the Gaussian that smooths the map, in pixels of the image given; 0: none.
    masking: "on" leaves the background out, as the paper does for some objects, chosen by eye; "auto" does where it
        seems to work on most training images: they keep more than 0.35 of their middle, and of the rest less than half
        as much. It is for the layer "norm" of a DINOv2; with anything else "auto" is off. Where the mask takes part of
        the object for background, defects there are missed, so it is off unless asked for: look at maps.
    rotation: "on" adds the training images turned by 45, 90 … 315 degrees to the bank, mirrored at the border; "auto"
        does with `shots` up to 16, the most of the paper. It does not know `[dataset] shots`: how many images are to
        come is not known when the first ones are looked at. There it is said: "on" or "off".
    shots: keep so many training images, drawn with `seed`; fewer if fewer are given. The others are looked at for the
        threshold only. None: all.
    knn_backend: library that finds the nearest neighbours; with an embedder, "numpy" in place of "torch".
    precision: number format of the network: "fp32", "bf16", "fp16", or "auto", the fastest one the device is made for.
    pretrained: False leaves the network random; for trying the machinery only. Nothing is downloaded.
    contamination: in (0, 0.5); `threshold_` is the (1 - contamination) quantile of the scores of all training images,
        each by the bank without that image. Only `predict` uses it; runs have their own calibrated threshold.
    device: "auto", "cpu", "cuda", "cuda:N" or "mps".
    seed: of the shots, and of random weights.
    batch_size: images that pass through the network together; "auto": as many as turn out fastest, which gives up that
        a run repeats to the last bit.
    embedder: an object that takes the network's place: its `embed(x)` gives the (P, D) patch features of an image,
        their grid (rows, columns) and the image's height and width. x is what the caller gave, a path or an array.
        There is no masking, no rotation and no torch then, patches of images that are not drawn wait in memory and not
        in a file, the other parameters of the network mean nothing, and a run folder cannot hold the model.
    feature_cache: where feature maps of batches seen before are found, shared with other models; none: they are
        computed.

    Images are paths or (H, W, 3) RGB uint8 arrays of any size, also of different sizes; maps have the size of the
    image.
    Learned: `memory_bank_` (n, d) unit vectors, `masking_`, `rotation_`, `threshold_` (None after one training image,
    or with `threshold=False`).
    """

    offers_left_out = True

    def __init__(
        self,
        *,
        backbone: str = "dinov2_vits14",
        layer: str | None = None,
        source: Literal["torchhub", "local", "timm", "checkpoint"] = "torchhub",
        repo: str | None = None,
        weights: str | None = None,
        image_size: int | Literal["given"] = 448,
        n_neighbors: int = 1,
        aggregation: Literal["topk_mean", "max", "mean"] = "topk_mean",
        topk: float = 0.01,
        sigma: float = 4.0,
        masking: Literal["auto", "on", "off"] = "off",
        rotation: Literal["auto", "on", "off"] = "auto",
        shots: int | None = None,
        knn_backend: Literal["torch", "numpy", "sklearn", "faiss"] = "torch",
        precision: Literal["fp32", "bf16", "fp16", "auto"] = "fp32",
        pretrained: bool = True,
        contamination: float = 0.1,
        device: str = "auto",
        seed: int = 0,
        batch_size: int | Literal["auto"] = 16,
        embedder: Embedder | None = None,
        feature_cache: FeatureCache | None = None,
    ) -> None:
        wrong = _wrong_numbers(image_size, n_neighbors, topk, sigma, shots, contamination)
        wrong += [
            Problem(f"{name} (={value!r}) must be one of {', '.join(get_args(choices))}")
            for name, value, choices in (
                ("source", source, Source),
                ("aggregation", aggregation, Aggregation),
                ("masking", masking, Switch),
                ("rotation", rotation, Switch),
            )
            if value not in get_args(choices)
        ]
        search = wrong_search(backend=knn_backend, precision="fp32", verify=False, faiss_index="flat")
        wrong += [Problem(message) for message in search]
        name = _TIMM.get(backbone, backbone) if source == "timm" else backbone
        if embedder is None:
            wrong += [Problem(m) for m in wrong_network(backbone=name, layers=None, batch_size=batch_size)]
            wrong += _wrong_layer(name, layer, masking)
            wrong += _wrong_source(source, backbone=backbone, repo=repo, weights=weights, pretrained=pretrained)
        else:
            wrong += [
                Problem(f'{switch} (="on") must be "off" or "auto" with an embedder: it is not known what it gives')
                for switch, value in (("masking", masking), ("rotation", rotation))
                if value == "on"
            ]
        if wrong:
            raise ParamError(wrong)
        self.source: Source = source
        self.repo = repo
        self.image_size: int | Literal["given"] = image_size
        self.n_neighbors = n_neighbors
        self.aggregation: Aggregation = aggregation
        self.topk = topk
        self.sigma = sigma
        self.masking: Switch = masking
        self.shots = shots
        self.contamination = contamination
        self.pretrained = pretrained
        self.seed = seed
        self.knn_backend: Literal["torch", "numpy", "sklearn", "faiss"] = (
            "numpy" if embedder is not None and knn_backend == "torch" else knn_backend
        )
        self.rotation: Switch = rotation
        self._embedder = embedder
        self._network: FrozenNetwork | None = None
        if embedder is None:
            entry = find_backbone(name)
            self._network = FrozenNetwork(
                backbone=name,
                layers=(layer or (entry.layers[-1] if entry else ""),),
                precision=precision,
                # The tensors of a clone are handed over; none are to be looked for.
                pretrained=pretrained and source != "local",
                weights=weights,
                device=device,
                seed=seed,
                batch_size=batch_size,
                cache=feature_cache,
            )
        self._loaded = False
        self._bank: CosineBank | None = None
        self.masking_ = self.rotation_ = False
        self.threshold_: float | None = None

    @property
    def stride(self) -> int:
        """Pixels between neighbouring patches."""
        return self._network.stride if self._network else 1

    @property
    def own_resizing(self) -> str | None:
        """That the shorter side of images is brought to `image_size`, whatever it was; None where it is not."""
        if self._own_size is None:
            return None
        return (
            f"brings the shorter side of images to {self._own_size} pixels (beyond 4:1 the area stays that of a 4:1 "
            'image); model.params.image_size = "given" applies it'
        )

    @property
    def _own_size(self) -> int | None:
        return None if self._network is None or self.image_size == "given" else self.image_size

    @property
    def images_per_batch(self) -> int:
        """How many images `predict_batch` takes best: `batch_size`, or what "auto" has found while fitting."""
        return self._network.images_per_batch if self._network else 1

    def take_at_once(self, images: int) -> None:
        if self._network is not None:
            self._network.images_per_batch = images

    @property
    def is_fitted(self) -> bool:
        return self._bank is not None

    @property
    def memory_bank_(self) -> NDArray[np.float32] | None:
        return None if self._bank is None else self._bank.vectors

    def weights_state(self) -> str:
        """Where the weights would come from: "random", "local", "path", or a place of `uadctl.features.weights`.

        "none" with an embedder.
        """
        if self._network is None:
            return "none"
        return "local" if self.source == "local" and self.pretrained else self._network.weights_state()

    def weights_entry(self) -> BackboneEntry | None:
        """The network; None with an embedder."""
        return None if self._network is None else self._network.entry

    def prepare(self, *, download: bool = True) -> None:
        """Have everything ready that `fit` needs beside images; without `download`, only what this machine has.

        A clone of the repository is loaded and compared. Raises WeightsError, BackendMissing, SpecError for a device
        that this machine has not.
        """
        device = "cpu"
        if self._network is not None:
            device = self._network.prepare(download=download)
            if download:
                self._take_clone(self._network)
        self._new_bank(device).prepare()

    def _new_bank(self, device: str) -> CosineBank:
        from uadctl.memory import CosineBank

        return CosineBank(backend=self.knn_backend, n_neighbors=self.n_neighbors, device=device)

    def _take_clone(self, network: FrozenNetwork) -> None:
        """Have the tensors of source "local", once."""
        if self.source != "local" or self._loaded or self.repo is None:
            return
        from uadctl.features.vit import from_repository

        state = from_repository(self.repo, network.entry.name, pretrained=self.pretrained, seed=self.seed)
        origin = {"weights": "local" if self.pretrained else "random"}
        # As those of a run are taken, by the names that `FrozenNetwork.state` gives them.
        network.restore(
            {f"backbone.{key}": value for key, value in state.items()},
            {"weights": origin, "precision": network.precision, "batch_size": network.images_per_batch},
        )
        self._loaded = True

    # -- learning

    def fit(
        self,
        images: Iterable[base.Image],
        *,
        left_out: Callable[[Prediction], None] | None = None,
        threshold: bool = True,
        progress: Progress | None = None,
    ) -> Self:
        """Fill the memory bank from normal images.

        left_out: receives the prediction of each training image by the bank without that image's own patches and those
            of its rotations; not for the only image in the bank.
        threshold: False leaves `threshold_` unset, and saves scoring all training images if nobody else asks for it.
        Raises ValueError without images and for what an embedder gives wrongly, DataError naming a broken image,
        WeightsError, RunError.
        """

        from uadctl.memory import FeatureStore

        self._bank = self.threshold_ = None
        self.masking_ = self.rotation_ = False
        asked = threshold or left_out is not None
        held: dict[int, base.Image] = {}
        with nullcontext() if self._network is None else FeatureStore(memory=_MEMORY) as store:
            waiting = _Waiting(store)
            if self.shots is not None:
                stream = self._drawing(images, self.shots, held)
                for patches in self._plain(stream, progress) if asked else ():
                    waiting.add(patches)
                deque(stream, maxlen=0)
            bank, references = self._learn(images if self.shots is None else held.values(), list(held), progress)
            if asked:
                numbers = range(len(references)) if self.shots is None else list(held)
                scores = self._score_left_out(bank, references, numbers, waiting, left_out, progress or Silent())
                if threshold:
                    self.threshold_ = self.threshold_of(scores)
        return self

    def _drawing(self, images: Iterable[_Any], shots: int, held: dict[int, _Any]) -> Iterator[_Any]:
        """All of the images; once they are read, `shots` of them are in `held` by number, each as likely as any other.

        Never more of them are held.
        """
        lot = Lot(shots, seed=self.seed)
        for i, image in enumerate(images):
            if lot.offer(i):
                held[i] = image
                for number in [n for n in held if n not in lot.kept]:
                    del held[number]
            yield image

    def _learn(
        self, images: Iterable[base.Image], numbers: Sequence[int], progress: Progress | None
    ) -> tuple[CosineBank, list[_Reference]]:
        """Fill the bank with these images, all of them. numbers: theirs among all images, if these are not all."""
        import numpy as np

        vectors: list[NDArray[np.float32]] = []
        references: list[_Reference] = []
        try:
            for reference, rows in self._learned(images, progress):
                references.append(reference)
                vectors.append(rows)
        except ImageError as error:
            if numbers and error.number is not None:
                error.number = numbers[error.number]
            raise
        if not references:
            raise ValueError("AnomalyDINO needs at least one training image, found none")
        heap.give_back()
        seeming = sum(r.foreground is not None and _seems_to_work(r.foreground, r.grid) for r in references)
        self.masking_ = self.masking == "on" or (self.masking == "auto" and 2 * seeming > len(references))
        bank = self._new_bank(self._network.backbone().device if self._network else "cpu")
        bank.restore(np.concatenate(vectors), [reference.count for reference in references])
        self._bank = bank
        return bank, references

    def _learned(
        self, images: Iterable[base.Image], progress: Progress | None
    ) -> Iterator[tuple[_Reference, NDArray[np.float32]]]:
        """Each training image and its rows of the bank, brought to length 1."""
        import numpy as np

        from uadctl.memory import unit_length

        for patches, turned in self._seen(images, progress):
            rows = unit_length(np.concatenate([patches.vectors, *turned]))
            foreground = None
            if self._network is not None and self.masking != "off" and _can_mask(self._network):
                foreground = _foreground(patches.vectors, patches.grid)
            yield _Reference(patches.grid, patches.size, len(rows), foreground), rows

    def _seen(
        self, images: Iterable[base.Image], progress: Progress | None
    ) -> Iterator[tuple[_Patches, list[NDArray[np.float32]]]]:
        """The patches of each image, and the vectors of its rotations."""
        if self._network is None:
            for image in images:
                yield self._asked(image), []
            return
        self._take_clone(self._network)
        sizes: list[Size] = []
        few = self.shots is not None and self.shots <= _FEW
        self.rotation_ = self.rotation == "on" or (self.rotation == "auto" and few)
        angles = _ANGLES if self.rotation_ else ()

        def from_all_sides(batch: Sequence[NDArray[np.uint8]]) -> list[list[tuple[NDArray[np.float32], Size]]]:
            turned = ([_turn(image, angle) for image in batch] for angle in angles)
            return [self._looked_at(batch), *map(self._looked_at, turned)]

        batches = self._network.batches(self._resized(images, sizes))
        for _, (seen, *turned) in base.looked_at(batches, from_all_sides, of=self, progress=progress):
            for i, (vectors, grid) in enumerate(seen):
                yield _Patches(vectors, grid, sizes.pop(0)), [view[i][0] for view in turned]

    def _plain(self, images: Iterable[base.Image], progress: Progress | None) -> Iterator[_Patches]:
        """The patches of each image as it is."""
        if self._network is None:
            for image in images:
                yield self._asked(image)
            return
        self._take_clone(self._network)
        sizes: list[Size] = []
        batches = self._network.batches(self._resized(images, sizes))
        for _, found in base.looked_at(batches, self._looked_at, of=self, progress=progress):
            for vectors, grid in found:
                yield _Patches(vectors, grid, sizes.pop(0))

    def _score_left_out(
        self,
        bank: CosineBank,
        references: Sequence[_Reference],
        numbers: Sequence[int],
        waiting: _Waiting,
        left_out: Callable[[Prediction], None] | None,
        progress: Progress,
    ) -> list[float]:
        """Score every training image, in order, against the bank without its own rows; not the only one in the bank.

        numbers: which of the images each reference is. waiting: the patches of all, if there are others.
        """
        scores: list[float] = []
        places = {number: place for place, number in enumerate(numbers)}
        count = max(len(references), len(waiting))
        with progress.task("calibrating", count) as task:
            for number in range(count):
                place = places.get(number)
                if place is None or len(references) > 1:
                    prediction = self._left_out(bank, references, place, number, waiting)
                    scores.append(prediction.score)
                    if left_out is not None:
                        left_out(prediction)
                task.advance()
        return scores

    def _left_out(
        self,
        bank: CosineBank,
        references: Sequence[_Reference],
        place: int | None,
        number: int,
        waiting: _Waiting,
    ) -> Prediction:
        """The prediction for training image `number`. place: which reference it is, None if it is none."""
        if place is None:
            patches = waiting.patches(number)
            foreground = _foreground(patches.vectors, patches.grid) if self.masking_ else None
            return self._score(patches, foreground)
        reference, start = references[place], bank.ends[place]
        own = bank.vectors[start : start + reference.grid.height * reference.grid.width]
        patches = _Patches(own, reference.grid, reference.size)
        return self._score(patches, reference.foreground if self.masking_ else None, without=place)

    # -- predicting

    def predict_batch(self, images: Sequence[NDArray[np.uint8]]) -> list[Prediction]:
        """Score and (H, W) map of each image, higher is more anomalous. RuntimeError before `fit`."""
        self.require_fitted()
        if self._network is None:
            return [self._score(self._asked(image), None) for image in images]
        sizes: list[Size] = []
        resized = list(self._resized(images, sizes))
        predictions = []
        for (vectors, grid), size in zip(self._looked_at(resized), sizes, strict=True):
            foreground = _foreground(vectors, grid) if self.masking_ else None
            predictions.append(self._score(_Patches(vectors, grid, size), foreground))
        return predictions

    def _predictions(self, images: Iterable[base.Image]) -> Iterator[Prediction]:
        if self._network is not None:
            yield from super()._predictions(images)
            return
        self.require_fitted()
        for image in images:  # not decoded: an embedder gets what the caller gave
            yield self._score(self._asked(image), None)

    def _score(
        self, patches: _Patches, foreground: NDArray[np.bool_] | None, *, without: int | None = None
    ) -> Prediction:
        """What the bank says of an image. foreground: patches that count, None for all. without: an image left out."""
        import numpy as np

        if self._bank is None:
            raise RuntimeError("AnomalyDINO is not fitted; call fit(images) first")
        if foreground is None:
            distances = self._bank.distances(patches.vectors, without=without)
        else:
            distances = np.zeros(len(patches.vectors), np.float32)
            distances[foreground] = self._bank.distances(patches.vectors[foreground], without=without)
        score = aggregate_patch_scores(distances, method=self.aggregation, topk=self.topk)
        field = enlarge(reshape_patch_scores(distances, *patches.grid), patches.size, sigma=self.sigma)
        return Prediction(float(np.float32(score)), field)

    # -- features

    def _resized(self, images: Iterable[base.Image], sizes: list[Size]) -> Iterator[NDArray[np.uint8]]:
        """The images in the size that the network gets; their own sizes are appended to `sizes`."""
        from uadctl.imaging.files import read_image
        from uadctl.imaging.geometry import Geometry

        for image in images:
            pixels = read_image(image)
            size = Size(*pixels.shape[:2])
            sizes.append(size)
            if self.image_size == "given":
                height, width = (max(1, floor(side / self.stride + 0.5)) * self.stride for side in size)
                geometry = Geometry(resize=Size(height, width))
            else:
                # It keeps an area: that of the square whose side is the geometric mean of the two sides wanted.
                side = round(self.image_size * sqrt(min(_LONGEST, max(size) / min(size))))
                geometry = Geometry(size=side, stride=self.stride)
            yield geometry.plan(size).apply(pixels)

    def _looked_at(self, images: Sequence[NDArray[np.uint8]]) -> list[tuple[NDArray[np.float32], Size]]:
        """The (rows x columns, d) patch features of resized images, row-major, and their grids."""
        import numpy as np

        if self._network is None:
            raise RuntimeError("AnomalyDINO has an embedder and no network")
        self._take_clone(self._network)
        out: dict[int, tuple[NDArray[np.float32], Size]] = {}
        for members, (maps,) in self._network.maps(images):
            grid = Size(*maps.shape[2:])
            rows: NDArray[np.float32] = maps.permute(0, 2, 3, 1).flatten(1, 2).cpu().numpy()
            if not np.isfinite(rows).all():
                raise self._network.no_numbers()
            out.update({i: (vectors, grid) for i, vectors in zip(members, rows, strict=True)})
        return [out[i] for i in range(len(images))]

    def _asked(self, image: Any) -> _Patches:
        """What the embedder says of an image. ValueError if its answer contradicts itself."""
        import numpy as np

        if self._embedder is None:
            raise RuntimeError("AnomalyDINO has no embedder")
        vectors, grid, size = self._embedder.embed(image)
        rows = np.ascontiguousarray(vectors, dtype=np.float32)
        rows_, columns = (int(n) for n in grid)
        if rows.ndim != 2 or len(rows) != rows_ * columns:
            raise ValueError(
                f"the embedder gave patches of shape {rows.shape} for a grid of {rows_}x{columns}; expected "
                f"({rows_ * columns}, d)"
            )
        if self._bank is not None and rows.shape[1] != self._bank.vectors.shape[1]:
            raise ValueError(
                f"the embedder gave features of {rows.shape[1]} numbers; those in the bank have "
                f"{self._bank.vectors.shape[1]}"
            )
        return _Patches(rows, Size(rows_, columns), Size(*(int(n) for n in size)))

    # -- keeping

    def state(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """The memory bank and the cut network, and what is known of their origin. RuntimeError with an embedder."""
        import torch

        if self._bank is None:
            raise RuntimeError("AnomalyDINO is not fitted; call fit(images) first")
        if self._network is None:
            raise RuntimeError("AnomalyDINO has an embedder, which a run folder cannot hold")
        tensors, facts = self._network.state()
        bank = torch.from_numpy(self._bank.vectors)
        counts = self._bank.counts
        return {**tensors, "memory_bank": bank}, {
            "threshold": self.threshold_,
            "counts": counts,
            "masking": self.masking_,
            "rotation": self.rotation_,
            **facts,
        }

    def restore(self, tensors: dict[str, Any], facts: dict[str, Any]) -> Self:
        """Take over what `state` gave; needs no other file. RuntimeError with an embedder."""
        if self._network is None:
            raise RuntimeError("AnomalyDINO has an embedder, which a run folder cannot hold")
        network = self._network.restore(tensors, facts)
        self._loaded = True
        bank = self._new_bank(network.device)
        vectors: torch.Tensor = tensors["memory_bank"]
        bank.restore(vectors.cpu().numpy(), facts["counts"])
        self._bank = bank
        self.masking_ = facts["masking"]
        self.rotation_ = facts["rotation"]
        self.threshold_ = facts["threshold"]
        return self

    def facts(self) -> dict[str, Any]:
        """Network, its weights' origin and checksum, how images are prepared, size of the bank."""
        network = {"embedder": type(self._embedder).__name__} if self._network is None else self._network.facts()
        return {
            **network,
            "image_size": self._own_size,
            "masking": self.masking_,
            "rotation": self.rotation_,
            "references": None if self._bank is None else len(self._bank.counts),
            "memory_bank": None if self._bank is None else list(self._bank.vectors.shape),
        }


# -- what is wrong with parameters


def _wrong_numbers(
    image_size: int | str,
    n_neighbors: int,
    topk: float,
    sigma: float,
    shots: int | None,
    contamination: float,
) -> list[Problem]:
    return [
        Problem(message)
        for holds, message in (
            (
                image_size == "given" or (isinstance(image_size, int) and image_size >= 1),
                f'image_size (={image_size!r}) must be at least 1, or "given"',
            ),
            (n_neighbors >= 1, f"n_neighbors (={n_neighbors}) must be at least 1"),
            (0 < topk <= 1, f"topk (={topk}) must lie in (0, 1]"),
            (sigma >= 0, f"sigma (={sigma}) must be at least 0"),
            (shots is None or shots >= 1, f"shots (={shots}) must be at least 1"),
            (0 < contamination < 0.5, f"contamination (={contamination}) must lie in (0, 0.5)"),
        )
        if not holds
    ]


def _wrong_layer(backbone: str, layer: str | None, masking: str) -> list[Problem]:
    entry = find_backbone(backbone)
    if entry is None:
        return []
    if layer is not None and layer not in entry.channels:
        return [Problem(f"layer (={shown(layer)}) must be a layer of {entry.name}: {', '.join(entry.channels)}")]
    used = layer or entry.layers[-1]
    if masking == "on" and not _is_dinov2(entry.name, used):
        return [Problem(f'masking (="on") must be "off" or "auto" with the layer {used} of {entry.name}', _FOR_DINOV2)]
    return []


_FOR_DINOV2 = 'Its numbers are those of the layer "norm" of DINOv2.'


def _wrong_source(
    source: str, *, backbone: str, repo: str | None, weights: str | None, pretrained: bool
) -> list[Problem]:
    """What contradicts `source`."""
    wrong = []
    if repo is not None and source != "local":
        wrong.append(
            Problem(f'repo (={shown(repo)}) must not be given with source "{source}"', 'Add source = "local".')
        )
    if weights is not None and source != "checkpoint":
        fact = f'weights (={shown(weights)}) must not be given with source "{source}"'
        wrong.append(Problem(fact, 'Add source = "checkpoint".'))
    if source == "local" and repo is None:
        wrong.append(Problem('source (="local") must come with repo, the folder of a clone'))
    if source == "checkpoint" and weights is None and pretrained:
        wrong.append(Problem('source (="checkpoint") must come with weights, the file'))
    entry = find_backbone(backbone)
    if source == "local" and (entry is None or not entry.target.startswith("uadctl.features.vit:")):
        wrong.append(Problem(f'source (="local") must go with a dinov2 backbone, found "{backbone}"'))
    if source == "timm" and backbone not in _TIMM and not backbone.startswith("timm:"):
        wrong.append(Problem(f'source (="timm") must go with a dinov2 or timm backbone, found "{backbone}"'))
    return wrong


def _is_dinov2(name: str, layer: str) -> bool:
    return "dinov2" in name and layer == "norm"


def _can_mask(network: FrozenNetwork) -> bool:
    return _is_dinov2(network.entry.name, network.layers[0])


# -- images and masks


def _turn(image: NDArray[np.uint8], angle: int) -> NDArray[np.uint8]:
    """The image turned by so many degrees about its centre, in its own size; what is outside is mirrored into it.

    As the authors do it: what is mirrored looks like the object or its background, and makes no defect normal.
    """
    import cv2
    import numpy as np

    height, width = image.shape[:2]
    turning = cv2.getRotationMatrix2D((width / 2, height / 2), angle, 1.0)
    # OpenCV takes (width, height).
    turned = cv2.warpAffine(image, turning, (width, height), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)
    return np.asarray(turned, dtype=np.uint8)


def _foreground(vectors: NDArray[np.float32], grid: Size) -> NDArray[np.bool_]:
    """Which patches of an image show the object, (rows x columns) bool, row-major (section 3.2, and the authors' code).

    Those whose first principal component among the image's own tokens is high; with its sign turned where that keeps
    too little of the middle. The mask is then grown by a patch, and closed. Where it would hide the whole image, which
    makes every image good, nothing is hidden.
    """
    import cv2
    import numpy as np

    component = _first_component(vectors)
    mask = component > _ABOVE
    if _middle(mask, grid).mean() <= _MIDDLE:
        mask = -component > _ABOVE
    kernel = np.ones((3, 3), np.uint8)
    grown = cv2.dilate(mask.reshape(grid).astype(np.uint8), kernel)
    closed = np.asarray(cv2.morphologyEx(grown, cv2.MORPH_CLOSE, kernel), dtype=np.bool_).ravel()
    return closed if closed.any() else np.ones_like(closed)


def _first_component(vectors: NDArray[np.float32]) -> NDArray[np.float64]:
    """(n,) coordinates along the direction of greatest variance, its largest entry positive."""
    import numpy as np

    centred = vectors.astype(np.float64) - vectors.mean(axis=0, dtype=np.float64)
    n, d = centred.shape
    # The smaller of the two matrices of products has the same eigenvalues.
    direction = np.linalg.eigh(centred.T @ centred)[1][:, -1] if d <= n else None
    if direction is None:
        direction = centred.T @ np.linalg.eigh(centred @ centred.T)[1][:, -1]
        direction /= max(float(np.linalg.norm(direction)), np.finfo(np.float64).tiny)
    if direction[np.abs(direction).argmax()] < 0:
        direction = -direction
    out: NDArray[np.float64] = centred @ direction
    return out


def _middle(mask: NDArray[np.bool_], grid: Size) -> NDArray[np.bool_]:
    """The part of a mask that is away from the border; all of it where the grid is too small to have a middle."""
    rows, columns = (slice(int(n * _BORDER), int(n * (1 - _BORDER))) for n in grid)
    middle = mask.reshape(grid)[rows, columns]
    return middle if middle.size else mask.reshape(grid)


def _seems_to_work(foreground: NDArray[np.bool_], grid: Size) -> bool:
    """Whether a mask keeps the middle of a good image, and little of the rest."""
    middle = _middle(foreground, grid)
    rest = foreground.size - middle.size
    if not rest:
        return False
    kept = float(middle.mean())
    return kept > _MIDDLE and (int(foreground.sum()) - int(middle.sum())) / rest < kept / 2
