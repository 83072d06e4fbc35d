"""A fitted model on disk: everything that scoring needs, in files that cannot run code."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from uadctl.atomic import replacing, write_bytes
from uadctl.errors import Problem, RunError, UadctlError
from uadctl.imaging.camera import Camera
from uadctl.imaging.geometry import Geometry
from uadctl.imaging.maps import AnomalyMapPostprocess
from uadctl.intake import Intake
from uadctl.models.base import TrainedElsewhere, knows_places
from uadctl.records import Size, Tiling
from uadctl.runs.folder import SCHEMA, UnitFolder, read_document
from uadctl.runs.sealed import MODEL_KEYS, seal
from uadctl.spec.grammar import PostprocessTable
from uadctl.spec.signature import rebuild_model
from uadctl.thresholds import Asked, Expected, Source, Threshold, choose, doubt_of_tail, expected_shares
from uadctl.untrusted import Hostile, check_safetensors

COLOUR_SIGMAS = 6.0
"""The colours of maps end where a pixel is this many standard deviations of normal pixels above their mean: the
threshold of 3 lies in the middle."""

# The threshold of maps lies so many standard deviations above the mean where nothing else can be chosen.
_SIGMAS = 3.0

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    import torch
    from numpy.typing import NDArray

    from uadctl.models.base import Detector
    from uadctl.spec.grammar import CalibrationTable, PreprocessTable
    from uadctl.thresholds import PixelCalibration


@dataclass(frozen=True, slots=True)
class PixelScale:
    """What the pixels of normal calibration maps look like: the scale of every overlay.

    mean, std, max: over all of their pixels (population). threshold: a pixel is anomalous iff its score is at or above
        it. n: the number of pixels.
    sigmas: the threshold is the mean and so many times std; None where the spec gave the threshold itself.
    normalize: mean and std of the maps before they are normalised, where they are: all other figures are of maps
        after that. None: maps are not normalised.
    chosen: how the threshold was chosen from the highest pixels of normal maps, or with labelled defects; None where it
        is so many standard deviations, or given.
    review: pixels at or above this lower threshold are worth a look; None where there is none.
    """

    mean: float
    std: float
    max: float
    threshold: float
    n: int
    sigmas: float | None = 3.0
    normalize: tuple[float, float] | None = None
    chosen: Threshold | None = None
    review: Threshold | None = None

    @classmethod
    def of(
        cls,
        pixels: PixelCalibration,
        table: CalibrationTable,
        *,
        normalize: bool = False,
        source: Source,
    ) -> PixelScale | None:
        """The scale of these pixels, its threshold as the spec's table wants it; None if there are none.

        pixels: of maps that are not normalised yet. normalize: whether they will be; a threshold that the spec gives
        is one of normalised maps then. source: of the maps, for a threshold that is chosen from their highest pixels;
        one that cannot be chosen has its reason in `chosen`, and 3 standard deviations take its place.
        """
        if not pixels.n:
            return None
        mean, std = (pixels.mean, pixels.std) if normalize and pixels.std > 0 else (0.0, 1.0)
        wanted = table.pixel_threshold
        if wanted is None:
            wanted = (pixels.threshold(_SIGMAS if table.pixel_sigmas is None else table.pixel_sigmas) - mean) / std
        # In the maps' own precision, so that "score >= threshold" is the same comparison wherever it is made.
        limit = float(np.float32(wanted))
        normalized = (mean, std) if normalize else None
        chosen = review = None
        if table.pixel_alpha is not None:
            maxima = normalized_maxima(pixels.maxima, normalized)
            chosen, review = chosen_pair(maxima, table, table.pixel_alpha, table.pixel_review_alpha, source=source)
            limit = limit if chosen.value is None else chosen.value
        return cls(
            (pixels.mean - mean) / std,
            pixels.std / std,
            (pixels.max - mean) / std,
            limit,
            pixels.n,
            table.pixel_sigmas if chosen is None or chosen.value is not None else _SIGMAS,
            normalized,
            chosen,
            review,
        )


def normalized_maxima(maxima: Sequence[float], normalize: tuple[float, float] | None) -> tuple[float, ...]:
    """The highest pixel of each map, ascending, as its map has it once it is normalised by mean and std."""
    if normalize is None:
        return tuple(sorted(maxima))
    scaled = AnomalyMapPostprocess(normalize=normalize)(np.array([maxima], dtype=np.float32))
    return tuple(sorted(scaled[0].tolist()))


def chosen_pair(
    scores: Sequence[float],
    table: CalibrationTable,
    alpha: float,
    review_alpha: float | None,
    *,
    source: Source,
) -> tuple[Threshold, Threshold | None]:
    """The threshold that normal scores give by the table's method, and the lower one of a review, if it is wanted.

    What cannot be chosen has no value and the reason, such as too few scores for the method; so has a review threshold
    that would not lie below the other.
    """
    chosen = _threshold_or_reason(scores, Asked(table.method, alpha, table.delta), source=source)
    if review_alpha is None or chosen.value is None:
        return chosen, None
    review = _threshold_or_reason(scores, Asked(table.method, review_alpha, table.delta), source=source)
    if review.value is not None and review.value >= chosen.value:
        reason = f"{len(scores)} normal images do not tell a share of {review_alpha:g} from one of {alpha:g}"
        review = Threshold(value=None, method=table.method, alpha=review_alpha, delta=table.delta, reason=reason)
    return chosen, review


def expected_of(scores: Sequence[float], image: Threshold, review: Threshold | None) -> Expected | None:
    """What shares of new good images each verdict is expected to get; None without a threshold, and where one with
    labelled defects was not cross-validated."""
    if image.value is None or not scores:
        return None
    if image.labelled is not None and image.labelled.false_alarm_rate is None:
        return None
    return Expected(normal=expected_shares(scores, image, review))


def _threshold_or_reason(scores: Sequence[float], asked: Asked, *, source: Source) -> Threshold:
    try:
        return choose(scores, asked, source=source)
    except ValueError as error:
        return Threshold(
            value=None, method=asked.method, alpha=asked.alpha, delta=asked.delta, source=source, reason=str(error)
        )


@dataclass(frozen=True, slots=True)
class Calibration:
    """A unit's thresholds.json. image: the threshold of image scores. scores: the normal scores it comes from,
    ascending.

    pixel: None where no calibration map was made.
    tiling: how the scored images were cut; a threshold holds for images that are cut the same way. None: not at all.
    review: a lower threshold of image scores: from here up to `image` one is worth a look. None: there is none.
    maxima: the highest pixel of each normal image's map, ascending; empty where there are no maps.
    expected: what shares of new images each verdict is expected to get; None without a threshold.
    data: SHA-256 over the bytes of the images that the scores are of; None in files of before 0.8.
    postprocess: of maps, where it was tuned for this calibration; None: as the model was fitted with.
    """

    image: Threshold
    pixel: PixelScale | None
    scores: tuple[float, ...]
    tiling: Tiling | None = None
    review: Threshold | None = None
    maxima: tuple[float, ...] = ()
    expected: Expected | None = None
    data: str | None = None
    postprocess: PostprocessTable | None = None

    def document(self) -> dict[str, Any]:
        return {
            "image": msgspec.to_builtins(self.image),
            "review": msgspec.to_builtins(self.review),
            "expected": msgspec.to_builtins(self.expected),
            "pixel": msgspec.to_builtins(self.pixel),
            "scores": list(self.scores),
            "maxima": list(self.maxima),
            "data": self.data,
            "tiling": msgspec.to_builtins(self.tiling),
            "postprocess": msgspec.to_builtins(self.postprocess),
        }

    def doubts(self) -> Iterator[str]:
        """Which thresholds are of a tail that the scores hardly have."""
        pixel = self.pixel
        named = {
            "": self.image,
            "review threshold: ": self.review,
            "threshold of maps: ": None if pixel is None else pixel.chosen,
            "review threshold of maps: ": None if pixel is None else pixel.review,
        }
        for what, threshold in named.items():
            if threshold is not None and (doubt := doubt_of_tail(threshold.tail)) is not None:
                yield f"{what}{doubt}"

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> Calibration:
        return cls(
            msgspec.convert(document["image"], Threshold),
            msgspec.convert(document["pixel"], PixelScale | None),
            msgspec.convert(document["scores"], tuple[float, ...]),
            msgspec.convert(document.get("tiling"), Tiling | None),
            msgspec.convert(document.get("review"), Threshold | None),
            msgspec.convert(document.get("maxima", ()), tuple[float, ...]),
            msgspec.convert(document.get("expected"), Expected | None),
            msgspec.convert(document.get("data"), str | None),
            msgspec.convert(document.get("postprocess"), PostprocessTable | None),
        )


@dataclass(frozen=True, slots=True)
class Fitted:
    """A detector that has learned, how images reach it, and where its normal scores lie.

    camera, geometry: of what it has learned. learned_tiles: the side of the tiles that this was; None: whole images.
    postprocess: what is done to its maps.
    """

    model: str
    params: dict[str, Any]
    detector: Detector
    geometry: Geometry
    calibration: Calibration
    camera: Camera = field(default_factory=Camera)
    learned_tiles: int | None = None
    postprocess: PostprocessTable | None = None

    @property
    def intake(self) -> Intake:
        """The way of an image that is scored now, and of its map."""
        tiling = self.calibration.tiling
        return Intake(
            self.camera,
            geometry_of_tiles(self.geometry, tiling, learned_tiles=self.learned_tiles),
            tiling,
            postprocess_of(self.calibration.postprocess or self.postprocess, self.calibration.pixel),
        )

    def tiled(self, tiling: Tiling | None) -> Fitted:
        """The same, not calibrated yet, with images cut another way: for new scores to calibrate on."""
        return replace(self, calibration=replace(self.calibration, tiling=tiling, pixel=None))


def geometry_of_tiles(geometry: Geometry, tiling: Tiling | None, *, learned_tiles: int | None) -> Geometry:
    """How what a detector is shown is resized.

    geometry: of what it has learned. learned_tiles: see `Fitted`. Tiles of another size have the magnification of those
    learned. Where whole images were learned, tiles keep their pixels.
    """
    if tiling is None or learned_tiles == tiling.size:
        return geometry
    if learned_tiles is None:
        return Geometry(size=tiling.size, stride=geometry.stride)
    share = tiling.size / learned_tiles
    if geometry.resize is not None:
        height, width = (max(1, round(side * share)) for side in geometry.resize)
        return replace(geometry, resize=Size(height, width))
    return replace(geometry, size=None if geometry.size is None else max(1, round(geometry.size * share)))


def why_no_tiles(fitted: Fitted) -> str | None:
    """Why a detector that was fitted without tiles, or with others, cannot be shown tiles now; None if it can."""
    if fitted.geometry.crop is not None:
        return "a crop of every tile would leave gaps between them; the run has [preprocess] crop"
    if fitted.learned_tiles is None and knows_places(fitted.detector):
        return f"{fitted.model} has learned what each place of the whole image looks like, and a tile is another place"
    return None


def postprocess_of(table: PostprocessTable | None, pixel: PixelScale | None) -> AnomalyMapPostprocess | None:
    """What the spec's table does to maps.

    pixel: the scale of normal maps; None while it is being found: then nothing is done that needs it.
    """
    if table is None:
        return None
    smoothing = AnomalyMapPostprocess(gaussian_sigma=table.gaussian_sigma, opening=table.opening, closing=table.closing)
    if pixel is None:
        return smoothing
    filters = table.min_area > 0 or table.hysteresis is not None
    strong = None if table.hysteresis is None else pixel.mean + table.hysteresis * pixel.std
    return replace(
        smoothing,
        normalize=pixel.normalize,
        min_area=table.min_area,
        threshold=pixel.threshold if filters else None,
        hysteresis=None if strong is None else max(strong, pixel.threshold),
    )


def camera_of(preprocess: PreprocessTable, *, training: Sequence[str] = ()) -> Camera:
    """The `[preprocess]` table as a camera. training: paths of the images that are learned, for percentiles.

    Raises DataError for a reference frame or a mask that cannot be used.
    """
    return Camera.of(
        intensity=preprocess.intensity,
        raw=preprocess.raw,
        steps=preprocess.steps,
        roi=preprocess.roi,
        ignore=preprocess.ignore,
        training=training,
    )


def geometry_for(preprocess: PreprocessTable, *, stride: int) -> Geometry:
    """The `[preprocess]` table as geometry, for a detector with this stride."""
    return Geometry(
        size=preprocess.size,
        resize=None if preprocess.resize is None else Size(*preprocess.resize),
        crop=None if preprocess.crop is None else Size(*preprocess.crop),
        stride=stride,
    )


def save(fitted: Fitted, unit: UnitFolder) -> int:
    """Write model/ and thresholds.json of a unit. Returns the bytes of what `load` reads from model/.

    What another library would want to have back lies beside it.
    """
    from safetensors.torch import save_file

    tensors, facts = fitted.detector.state()
    file = unit.model / "model.safetensors"
    with replacing(file) as temporary:
        save_file(tensors, temporary)
    camera = _save_camera(fitted.camera, unit.model / "camera.safetensors")
    write_bytes(unit.model / "model.json", seal(_document(fitted, facts, camera=camera, sha256=_sha256(file))))
    unit.write("thresholds", fitted.calibration.document())
    size = sum(f.stat().st_size for f in unit.model.iterdir())
    if isinstance(fitted.detector, TrainedElsewhere):
        fitted.detector.keep(unit.model)
    return size


def _document(fitted: Fitted, facts: dict[str, Any], *, camera: dict[str, Any], sha256: str | None) -> dict[str, Any]:
    """What model.json says, but for its checksum. camera, sha256: of the files beside it; None where there is none."""
    g = fitted.geometry
    return {
        "schema": SCHEMA,
        "model": fitted.model,
        "params": fitted.params,
        "preprocess": {
            "size": g.size,
            "resize": None if g.resize is None else list(g.resize),
            "crop": None if g.crop is None else list(g.crop),
            "stride": g.stride,
        },
        "learned_tiles": fitted.learned_tiles,
        "camera": camera,
        "postprocess": msgspec.to_builtins(fitted.postprocess),
        "facts": facts,
        "sha256": sha256,
    }


def load(unit: UnitFolder, *, device: str = "auto") -> Fitted:
    """Read back what `save` wrote. Raises RunError where a file is absent, damaged or of another version."""
    kept = Kept(
        document=read_model(unit),
        tensors=lambda sha256: _tensors(unit.model / "model.safetensors", sha256=sha256),
        arrays=lambda sha256: _arrays(unit.model / "camera.safetensors", sha256=sha256),
        calibration=lambda: read_calibration(unit),
    )
    return rebuild(kept, device=device, file=str(unit.model / "model.json"), where=str(unit.model))


def read_model(unit: UnitFolder) -> dict[str, Any]:
    """A unit's model.json. Raises RunError where it is absent, damaged or of another version."""
    return read_document(unit.model / "model.json", keys=MODEL_KEYS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """What `rebuild` makes a model of, wherever it is kept.

    document: of model.json.
    tensors, arrays: what the detector and the camera have learned, by their names, given the SHA-256 that the document
        says of them; each is called once at most.
    calibration: of thresholds.json.
    """

    document: dict[str, Any]
    tensors: Callable[[object], dict[str, Any]]
    arrays: Callable[[object], dict[str, Any]]
    calibration: Callable[[], Calibration]


def rebuild(kept: Kept, *, device: str, file: str, where: str) -> Fitted:
    """The model again. file, where: what messages name, of the document and of the tensors.

    Raises RunError for a damaged document and for tensors that do not fit it; and what a missing extra, or a device
    that is not here, raises.
    """
    document = kept.document
    try:
        params = document["params"]
        detector = rebuild_model(document["model"], params, device=device)
        p = document["preprocess"]
        geometry = Geometry(
            size=p["size"],
            resize=p["resize"] and Size(*p["resize"]),
            crop=p["crop"] and Size(*p["crop"]),
            stride=p["stride"],
        )
        facts, sha256 = document["facts"], document["sha256"]
        learned_tiles = msgspec.convert(document.get("learned_tiles"), int | None)
        postprocess = msgspec.convert(document.get("postprocess"), PostprocessTable | None)
        camera = _load_camera(document.get("camera"), kept.arrays)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise RunError(f"{file}: damaged: {type(error).__name__}: {error}") from error
    tensors = kept.tensors(sha256)
    detector.prepare(download=False)
    try:
        detector.restore(tensors, facts)
    except UadctlError as error:  # what the detector itself explains, such as another version of its library
        raise RunError([Problem(f"{where}: {p.message}", p.help) for p in error.problems]) from error
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise RunError(f"{where}: damaged: {type(error).__name__}: {error}") from error
    return Fitted(document["model"], params, detector, geometry, kept.calibration(), camera, learned_tiles, postprocess)


@dataclass(frozen=True, slots=True)
class Flat:
    """A tensor as bytes: numpy, which pickles them without a copy, has no bfloat16.

    dtype: torch's name. data: (n,) uint8, contiguous.
    """

    dtype: str
    shape: tuple[int, ...]
    data: NDArray[np.uint8]

    @classmethod
    def of(cls, tensor: torch.Tensor) -> Flat:
        """Without a copy where the tensor lies in the processor's memory."""
        import torch

        data = tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy()
        return cls(str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape), data)

    def tensor(self) -> torch.Tensor:
        """In memory of its own, which a detector may write to, aligned as torch does it.

        Where arrays come from a store that processes share they can only be read; and how an array is aligned may
        change the last bits of a product (oneMKL's documentation, "Run-to-run numerical reproducibility").
        """
        import torch

        made = torch.empty(self.data.size, dtype=torch.uint8)
        made.numpy()[:] = self.data
        return made.view(getattr(torch, self.dtype)).reshape(self.shape)


@dataclass(frozen=True, slots=True)
class Carried:
    """A fitted model as plain data, for another process or machine: what `save` writes, without files.

    document, thresholds: as in model.json and thresholds.json, JSON without checksums. tensors, arrays: what the
    detector and the camera have learned.
    """

    document: bytes
    thresholds: bytes
    tensors: dict[str, Flat]
    arrays: dict[str, NDArray[Any]]

    @classmethod
    def of(cls, fitted: Fitted) -> Carried:
        tensors, facts = fitted.detector.state()
        arrays, camera = fitted.camera.state()
        # There are no files to have a checksum; that of the camera says that there are arrays.
        said = {"facts": camera, "sha256": "" if arrays else None}
        document = _document(fitted, facts, camera=said, sha256=None)
        return cls(
            json.dumps(document, allow_nan=False).encode(),
            json.dumps(fitted.calibration.document(), allow_nan=False).encode(),
            {name: Flat.of(tensor) for name, tensor in tensors.items()},
            arrays,
        )

    def rebuild(self, *, device: str) -> Fitted:
        """The model again, which gives the same bits; no file is needed. Raises what `rebuild` does."""
        calibration = Calibration.from_document(json.loads(self.thresholds))
        kept = Kept(
            document=json.loads(self.document),
            tensors=lambda sha256: {name: flat.tensor() for name, flat in self.tensors.items()},
            arrays=lambda sha256: {name: array.copy() for name, array in self.arrays.items()},
            calibration=lambda: calibration,
        )
        return rebuild(kept, device=device, file="the model's description", where="the model")


def _save_camera(camera: Camera, file: Path) -> dict[str, Any]:
    """What model.json says of the camera; pictures that it needs go into a file beside it."""
    from safetensors.numpy import save_file

    arrays, facts = camera.state()
    if not arrays:
        return {"facts": facts, "sha256": None}
    with replacing(file) as temporary:
        save_file(arrays, temporary)
    return {"facts": facts, "sha256": _sha256(file)}


def _load_camera(said: Mapping[str, Any] | None, arrays: Callable[[object], dict[str, Any]]) -> Camera:
    """said: None in runs of versions that knew no camera. arrays: see `Kept`."""
    if said is None:
        return Camera()
    return Camera.restore({} if said["sha256"] is None else arrays(said["sha256"]), said["facts"])


def read_calibration(unit: UnitFolder) -> Calibration:
    """A unit's thresholds.json. RunError if it is absent, damaged or of another version."""
    try:
        return Calibration.from_document(unit.read("thresholds"))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        if isinstance(error, UadctlError):
            raise
        what = f"{error} is missing" if isinstance(error, KeyError) else str(error)
        raise RunError(f"{unit.thresholds}: damaged: {what}") from error


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def other_bytes(file: Path) -> RunError:
    """What to say of a file whose SHA-256 is not the one in model.json."""
    return RunError(f"{file}: damaged: not the file that was written with model.json: its SHA-256 is another")


def _tensors(file: Path, *, sha256: object) -> dict[str, Any]:
    from safetensors.torch import load_file

    return _checked(file, load_file, sha256)


def _arrays(file: Path, *, sha256: object) -> dict[str, Any]:
    from safetensors.numpy import load_file

    return _checked(file, load_file, sha256)


def _checked(file: Path, load_file: Callable[[Path], dict[str, Any]], sha256: object) -> dict[str, Any]:
    """The contents of a file with this checksum: a bit that a disk has turned must not turn a verdict."""
    from safetensors import SafetensorError

    try:
        check_safetensors(file)  # a pipe, or a device without an end, has no checksum
        if _sha256(file) != sha256:
            raise other_bytes(file)
        return dict(load_file(file))
    except Hostile as error:
        raise RunError(f"{file}: damaged: {error}") from error
    except (OSError, SafetensorError) as error:
        raise RunError(f"{file}: damaged or absent: {error}") from error
