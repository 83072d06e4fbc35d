"""A fitted model on disk: everything that scoring needs, in files that cannot run code."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from uadctl.atomic import replacing, write_json
from uadctl.errors import Problem, RunError, UadctlError
from uadctl.imaging.geometry import Geometry
from uadctl.models.base import TrainedElsewhere
from uadctl.records import Size
from uadctl.runs.folder import SCHEMA, RunFolder, UnitFolder, read_document
from uadctl.spec.signature import rebuild_model
from uadctl.thresholds import Threshold

if TYPE_CHECKING:
    from collections.abc import Mapping

    from uadctl.models.base import Detector
    from uadctl.spec.grammar import CalibrationTable, PreprocessTable
    from uadctl.thresholds import PixelCalibration


@dataclass(frozen=True, slots=True)
class PixelScale:
    """What the pixels of normal calibration maps look like: the scale of every overlay.

    mean, std, max: over all of their pixels (population). threshold: a pixel is anomalous iff its score is at or above
        it. n: the number of pixels.
    sigmas: the threshold is the mean and so many times std; None where the spec gave the threshold itself.
    """

    mean: float
    std: float
    max: float
    threshold: float
    n: int
    sigmas: float | None = 3.0

    @classmethod
    def of(cls, pixels: PixelCalibration, table: CalibrationTable) -> PixelScale | None:
        """The scale of these pixels, its threshold as the spec's table wants it; None if there are none."""
        if not pixels.n:
            return None
        wanted = table.pixel_threshold
        if wanted is None:
            wanted = pixels.threshold(3.0 if table.pixel_sigmas is None else table.pixel_sigmas)
        # In the maps' own precision, so that "score >= threshold" is the same comparison wherever it is made.
        limit = float(np.float32(wanted))
        return cls(pixels.mean, pixels.std, pixels.max, limit, pixels.n, table.pixel_sigmas)


@dataclass(frozen=True, slots=True)
class Calibration:
    """A unit's thresholds.json. image: the threshold of image scores. scores: the normal scores it comes from,
    ascending.

    pixel: None where no calibration map was made.
    """

    image: Threshold
    pixel: PixelScale | None
    scores: tuple[float, ...]

    def document(self) -> dict[str, Any]:
        pixel = None if self.pixel is None else {f: getattr(self.pixel, f) for f in PixelScale.__slots__}
        return {"image": msgspec.to_builtins(self.image), "pixel": pixel, "scores": list(self.scores)}

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> Calibration:
        pixel = document["pixel"]
        return cls(
            msgspec.convert(document["image"], Threshold),
            None if pixel is None else msgspec.convert(pixel, PixelScale),
            msgspec.convert(document["scores"], tuple[float, ...]),
        )


@dataclass(frozen=True, slots=True)
class Fitted:
    """A detector that has learned, how images reach it, and where its normal scores lie."""

    model: str
    params: dict[str, Any]
    detector: Detector
    geometry: Geometry
    calibration: Calibration


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
    g = fitted.geometry
    write_json(
        unit.model / "model.json",
        {
            "schema": SCHEMA,
            "model": fitted.model,
            "params": fitted.params,
            "preprocess": {
                "size": g.size,
                "resize": None if g.resize is None else list(g.resize),
                "crop": None if g.crop is None else list(g.crop),
                "stride": g.stride,
            },
            "facts": facts,
            "sha256": _sha256(file),
        },
    )
    unit.write("thresholds", fitted.calibration.document())
    size = sum(f.stat().st_size for f in unit.model.iterdir())
    if isinstance(fitted.detector, TrainedElsewhere):
        fitted.detector.keep(unit.model)
    return size


def load(unit: UnitFolder, *, device: str = "auto") -> Fitted:
    """Read back what `save` wrote. Raises RunError where a file is absent, damaged or of another version."""
    file = unit.model / "model.json"
    document = read_document(file)
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
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise RunError(f"{file}: damaged: {type(error).__name__}: {error}") from error
    tensors = _tensors(unit.model / "model.safetensors", sha256=sha256)
    detector.prepare(download=False)
    try:
        detector.restore(tensors, facts)
    except UadctlError as error:  # what the detector itself explains, such as another version of its library
        raise RunError([Problem(f"{unit.model}: {p.message}", p.help) for p in error.problems]) from error
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise RunError(f"{unit.model}: damaged: {type(error).__name__}: {error}") from error
    return Fitted(document["model"], params, detector, geometry, read_calibration(unit))


def read_calibration(unit: UnitFolder) -> Calibration:
    """A unit's thresholds.json. RunError if it is absent, damaged or of another version."""
    try:
        return Calibration.from_document(unit.read("thresholds"))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        if isinstance(error, UadctlError):
            raise
        what = f"{error} is missing" if isinstance(error, KeyError) else str(error)
        raise RunError(f"{unit.thresholds}: damaged: {what}") from error


def load_run(
    path: str | Path,
    *,
    category: str | None = None,
    label: str | None = None,
    seed: int | None = None,
    device: str = "auto",
) -> Fitted:
    """The fitted model of a run folder; which one, if it has several.

    Raises RunError, listing them, if that is not clear.
    """
    return load(RunFolder.open(Path(path)).choose(category=category, label=label, seed=seed), device=device)


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _tensors(file: Path, *, sha256: object) -> dict[str, Any]:
    """The tensors of a file with this checksum: a bit that a disk has turned must not turn a verdict."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        if _sha256(file) != sha256:
            raise RunError(f"{file}: damaged: not the file that was written with model.json: its SHA-256 is another")
        return dict(load_file(file))
    except (OSError, SafetensorError) as error:
        raise RunError(f"{file}: damaged or absent: {error}") from error
