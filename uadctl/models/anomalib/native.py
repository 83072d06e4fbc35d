"""PatchCore and PaDiM of anomalib on uadctl's own network, search and Gaussians: anomalib need not be installed.

Akcay et al., "Anomalib: A Deep Learning Library for Anomaly Detection", ICIP 2022, whose two models differ from
uadctl's in the map: PatchCore's is repeated, not interpolated, PaDiM's interpolated, both smoothed with a border that
mirrors; and PaDiM's factors come as inverse covariances.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from uadctl.errors import DataError, ImageError, SpecError
from uadctl.models.anomalib.predictor import Raw
from uadctl.models.anomalib.preprocessing import Inference, Postprocessing, Preprocessing
from uadctl.models.padim import on_one_grid
from uadctl.models.patchcore import aggregate, compare
from uadctl.records import Size
from uadctl.spec.optional import optional_import
from uadctl.spec.registry import BackboneEntry, find_backbone

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

    from uadctl.models.anomalib.checkpoint import Checkpoint
    from uadctl.models.anomalib.predictor import Predictor

_EXTRACTOR = "model.feature_extractor.feature_extractor."
# What smooths the map: a Gaussian of a standard deviation of 4 pixels.
_KERNEL = "model.anomaly_map_generator.blur.kernel"
# What has been learned, by model.
_LEARNED = {
    "patchcore": ("model.memory_bank",),
    "padim": ("model.idx", "model.gaussian.mean", "model.gaussian.inv_covariance"),
}
_NEIGHBORHOOD = 3
_N_NEIGHBORS = 9
# timm's networks that uadctl describes itself, with the names of torchvision's tensors, which are timm's too.
_RESNETS = (
    "resnet18",
    "resnet34",
    "resnet50",
    "resnet101",
    "resnet152",
    "wide_resnet50_2",
    "wide_resnet101_2",
)


def reads(checkpoint: Checkpoint) -> bool:
    """Whether `open_native` can run this checkpoint: its model, its network and its precision are known here."""
    import torch

    learned = _LEARNED.get(checkpoint.model)
    if learned is None or not {*learned, _KERNEL} <= set(checkpoint.state):
        return False
    if any(t.is_floating_point() and t.dtype != torch.float32 for t in checkpoint.state.values()):
        return False
    return _network_of(checkpoint) is not None


def open_native(checkpoint: Checkpoint, *, device: str) -> Predictor:
    """The model of a checkpoint of PatchCore or PaDiM.

    Raises DataError for one that was not trained, or whose tensors do not fit each other.
    """
    return _Native(checkpoint, device)


class _Detector(Protocol):
    """What comes after the network."""

    def predict(self, maps: Sequence[torch.Tensor], size: Size) -> list[Raw]:
        """Of feature maps, finest first. size: of the maps to give, that of the network's input."""
        ...

    def facts(self) -> dict[str, Any]: ...


class _Native:
    """A model of anomalib on uadctl's code."""

    inferences: tuple[Inference, ...] = ("training", "exported")
    is_raw = True

    def __init__(self, checkpoint: Checkpoint, device: str) -> None:
        from uadctl.features.backbone import Backbone

        found = _network_of(checkpoint)
        if found is None:
            raise ValueError(f"no network of uadctl's is that of this checkpoint of {checkpoint.model}")
        empty = [name for name in _LEARNED[checkpoint.model] if not checkpoint.state[name].numel()]
        if empty:
            raise DataError(f"the checkpoint was not trained: its {empty[0]} is empty")
        entry, layers, state = found
        _check(checkpoint, channels=sum(entry.channels[layer] for layer in layers))
        self._checkpoint = checkpoint
        self._backbone = Backbone(entry.name, layers=layers, state=state, device=device)
        self._device = device
        self._detector: _Detector = (_PatchCore if checkpoint.model == "patchcore" else _PaDiM)(checkpoint, device)
        self.model: str | None = checkpoint.model
        self.preprocessing = Preprocessing.of(checkpoint.transform)
        self.postprocessing: Postprocessing | None = checkpoint.postprocessing

    def predict(self, images: Sequence[NDArray[np.uint8]], *, inference: Inference) -> list[Raw]:
        """Of (H, W, 3) RGB uint8 images; those whose inputs are of one size pass through the network together."""
        import torch

        inputs = [self.preprocessing.apply([image], inference=inference, device=self._device) for image in images]
        groups: dict[torch.Size, list[int]] = {}
        for number, x in enumerate(inputs):
            groups.setdefault(x.shape, []).append(number)
        out: dict[int, Raw] = {}
        for shape, members in groups.items():
            with torch.inference_mode():
                maps = self._backbone.of_normalised(torch.cat([inputs[number] for number in members]))
                found = self._detector.predict(maps, Size(*shape[-2:]))
            out.update(zip(members, found, strict=True))
        return [out[number] for number in range(len(images))]

    def state(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """The checkpoint: tensors, and JSON facts."""
        return self._checkpoint.to_state()

    def facts(self) -> dict[str, Any]:
        """That anomalib does not compute, the backbone, sizes of what was learned, the file."""
        return {
            "computed_by": "uadctl",
            "device": self._device,
            "backbone": self._backbone.entry.name,
            "layers": list(self._backbone.layers),
            **self._detector.facts(),
            "origin": dict(self._checkpoint.origin),
        }


def _check(checkpoint: Checkpoint, *, channels: int) -> None:
    """DataError where what was learned does not fit itself or the network. channels: of all layers used."""
    state = checkpoint.state
    kernel = state[_KERNEL]
    square = kernel.ndim == 4 and kernel.shape[:2] == (1, 1) and kernel.shape[2] == kernel.shape[3]
    # The blur takes it apart by its sums; its middle must be a pixel.
    if not square or kernel.shape[2] % 2 == 0 or not bool(kernel.isfinite().all()) or not bool(kernel.sum() > 0):
        raise DataError(f"the checkpoint's {_KERNEL} of {tuple(kernel.shape)} is no Gaussian that smooths a map")
    (_check_bank if checkpoint.model == "patchcore" else _check_gaussians)(checkpoint, channels)


def _check_bank(checkpoint: Checkpoint, channels: int) -> None:
    bank = checkpoint.state["model.memory_bank"]
    if bank.ndim != 2 or bank.shape[1] != channels or not bank.is_floating_point():
        raise DataError(
            f"the checkpoint contradicts itself: a memory bank of {tuple(bank.shape)}, and "
            f"layers of {channels} channels"
        )
    count = checkpoint.hyper_parameters.get("num_neighbors", _N_NEIGHBORS)
    if not isinstance(count, int) or isinstance(count, bool) or count < 1:
        raise DataError(f"the checkpoint's num_neighbors (={str(count)[:80]}) must be a whole number, at least 1")


def _check_gaussians(checkpoint: Checkpoint, channels: int) -> None:
    chosen, mean, inverse = (checkpoint.state[name] for name in _LEARNED["padim"])
    dim, places = mean.shape if mean.ndim == 2 else (0, 0)
    if tuple(chosen.shape) != (dim,) or inverse.shape != (places, dim, dim):
        raise DataError(
            f"the checkpoint contradicts itself: channels of {tuple(chosen.shape)}, a mean of {tuple(mean.shape)} and "
            f"inverse covariances of {tuple(inverse.shape)}"
        )
    whole = not chosen.is_floating_point() and not chosen.is_complex()
    if not whole or int(chosen.min()) < 0 or int(chosen.max()) >= channels:
        raise DataError(
            f"the checkpoint contradicts itself: its {_LEARNED['padim'][0]} are no numbers of its {channels} channels"
        )
    if not mean.is_floating_point() or not inverse.is_floating_point():
        raise DataError(f"the checkpoint's Gaussians are of {mean.dtype} and {inverse.dtype}, expected torch.float32")


class _PatchCore:
    """anomalib's PatchCore, which differs in two cases.

    Distances are exact here. anomalib's formula, |a|² + |b|² - 2ab, cancels where they are next to nothing beside the
    features: of patches that lie in the bank itself its map shows some ten-thousandths in place of 0. A bank of one
    feature, whose neighbourhood says nothing, has unweighted scores here, and scores of 0 in anomalib.
    """

    def __init__(self, checkpoint: Checkpoint, device: str) -> None:
        from uadctl.memory import make_index

        self._bank = checkpoint.state["model.memory_bank"].to(device).contiguous()
        self._index = make_index(device=device).fit(self._bank)
        self._n_neighbors = checkpoint.hyper_parameters.get("num_neighbors", _N_NEIGHBORS)
        self._blur = _Blur(checkpoint)

    def predict(self, maps: Sequence[torch.Tensor], size: Size) -> list[Raw]:
        import numpy as np
        from torch.nn import functional

        patches = aggregate(maps, neighborhood=_NEIGHBORHOOD)
        grid = Size(*patches.shape[1:3])
        embedded = [(one, grid) for one in patches.flatten(1, 2)]
        fields, scores = compare(embedded, self._bank, self._index, n_neighbors=self._n_neighbors)
        out = []
        for field, score in zip(fields, scores, strict=True):
            large = functional.interpolate(field[None, None], size=list(size), mode="nearest")
            out.append(Raw(float(np.float32(score)), self._blur(_finite(large[0, 0]))))
        return out

    def facts(self) -> dict[str, Any]:
        return {"memory_bank": list(self._bank.shape)}


class _PaDiM:
    """anomalib's PaDiM."""

    def __init__(self, checkpoint: Checkpoint, device: str) -> None:
        import torch

        from uadctl.memory.gaussian import InverseGaussians

        state = checkpoint.state
        chosen, mean, inverse = (state[name] for name in _LEARNED["padim"])
        # Channels are taken in ascending order, layer by layer: what was learned of them comes in theirs by lot.
        self._channels, self._order = (t.to(device) for t in torch.sort(chosen))
        # As a run keeps them: products of matrices that lie otherwise differ in the last bits.
        self._gaussians = InverseGaussians(mean.T.contiguous().to(device), inverse.to(device).contiguous())
        self._blur = _Blur(checkpoint)

    def predict(self, maps: Sequence[torch.Tensor], size: Size) -> list[Raw]:
        import torch
        from torch.nn import functional

        features = on_one_grid(maps, self._channels)
        grid, places = Size(*features.shape[1:3]), len(self._gaussians.mean)
        if grid.height * grid.width != places:
            raise DataError(
                f"an input of {size} (height x width) has {grid} places, and the checkpoint's PaDiM knows {places}: "
                "it takes images of one size only"
            )
        by_lot = torch.empty_like(features)
        by_lot[..., self._order] = features
        fields = self._gaussians.distances(by_lot.flatten(1, 2)).reshape(-1, 1, *grid)
        large = functional.interpolate(fields, size=list(size), mode="bilinear", align_corners=False)
        smooth = [self._blur(_finite(one[0])) for one in large]
        return [Raw(float(one.max()), one) for one in smooth]

    def facts(self) -> dict[str, Any]:
        places, dim = self._gaussians.mean.shape
        return {"n_features": dim, "places": places}


class _Blur:
    """The smoothing of a map by the checkpoint's Gaussian, whose border is the map mirrored at its last pixels."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        kernel = checkpoint.state[_KERNEL][0, 0].double().numpy()
        # A Gaussian is a column times a row.
        self._column, self._row = kernel.sum(axis=1), kernel.sum(axis=0) / kernel.sum()

    def __call__(self, field: NDArray[np.float32]) -> NDArray[np.float32]:
        """(h, w) float32."""
        import cv2
        import numpy as np

        smooth = cv2.sepFilter2D(field, cv2.CV_32F, self._row, self._column, borderType=cv2.BORDER_REFLECT_101)
        return np.asarray(smooth, dtype=np.float32)


def _finite(field: torch.Tensor) -> NDArray[np.float32]:
    """A map as an array. ImageError where it contains no numbers."""
    if not bool(field.isfinite().all()):
        raise ImageError("the checkpoint's model gives distances that are NaN or infinite")
    return field.cpu().numpy()


# -- networks


def _network_of(checkpoint: Checkpoint) -> tuple[BackboneEntry, tuple[str, ...], dict[str, torch.Tensor]] | None:
    """The backbone of a checkpoint in uadctl's words: its entry, its layers and its tensors. None: not known here."""
    name, layers = (checkpoint.hyper_parameters.get(key) for key in ("backbone", "layers"))
    if not isinstance(name, str) or not isinstance(layers, list | tuple) or not layers:
        return None
    tensors = {k.removeprefix(_EXTRACTOR): t for k, t in checkpoint.state.items() if k.startswith(_EXTRACTOR)}
    plain = name.partition(".")[0]  # what follows names the weights that training began with
    entry = find_backbone(plain) if plain in _RESNETS else _from_timm(name)
    if entry is None:
        return None
    if plain not in _RESNETS:
        tensors = {f"body.{key}": value for key, value in tensors.items()}
    stages = list(entry.channels)
    # timm counts a ResNet's first convolution as its stage 0.
    numbered = [None, *stages] if plain in _RESNETS else stages
    wanted = [_stage(layer, numbered) for layer in layers]
    if not set(wanted) <= set(stages) or len(set(wanted)) != len(wanted) or not _fits(entry, wanted, tensors):
        return None
    # Whatever the order of the argument, anomalib's extractor gives the stages in the network's, as `Backbone` does.
    return entry, tuple(wanted), tensors


def _stage(layer: Any, stages: Sequence[str | None]) -> Any:
    """A stage by the name or the number that anomalib takes."""
    numbered = isinstance(layer, int) and 0 <= layer < len(stages)
    return stages[layer] if numbered else layer


def _from_timm(name: str) -> BackboneEntry | None:
    """A convolutional network of timm's. None without timm, and for others, whose layers anomalib means differently."""
    if optional_import("timm")[0] is None or "vit" in name.lower():
        return None
    try:
        entry = find_backbone(f"timm:{name}")
    except SpecError:
        return None
    return entry if entry is not None and len(set(entry.strides.values())) == len(entry.strides) else None


def _fits(entry: BackboneEntry, layers: Sequence[Any], tensors: Mapping[str, torch.Tensor]) -> bool:
    """Whether the tensors are those of the network, cut after its last layer used, by the same names."""
    from uadctl.features.backbone import find_architecture
    from uadctl.features.network import COUNTER

    used = tuple(stage for stage in entry.channels if stage in layers)
    shapes = find_architecture(entry, layers=used, runtime="torch").shapes()
    return all(
        name in tensors and tensors[name].shape == shape for name, shape in shapes.items() if not name.endswith(COUNTER)
    )
