"""Detectors of other packages as data: what they are called, what they take, and which of them uadctl offers.

The table is a file of this package, so that a spec is checked without the other package and without its import time. A
test regenerates names and defaults from the installed package and compares.
"""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

Kept = Literal["ours", "silent", "object", "fixed", "checkpoint"]
Most = Literal["rows", "rows - 1", "rows - 2", "rank", "batch"]
Scored = Literal["alone", "among", "twice"]


@dataclass(frozen=True, slots=True, kw_only=True)
class WrappedParam:
    """One parameter of a wrapped constructor.

    default: the package's; None also where it has none, or where it is no TOML value.
    type:    as it would be annotated, of TOML values; None where `kept` is set.
    kept:    why it is no parameter of ours: "ours", we give it (what we know better, such as the device); "silent", we
             switch its printing off; "object", only Python objects fit; "fixed", another value than the default breaks
             what uadctl promises; "checkpoint", the model is not trained here, and its checkpoint has it.
    most:    what bounds it from above when there are few training images: their number, that less 1 or 2, the rank of
             their features, or "batch": their number, and none that leaves a last batch of one.
    doc:     what it means; None where nobody has written that down yet.
    path:    it is a path; in a spec it is relative to its file.
    """

    name: str
    default: Any
    type: str | None = None
    kept: Kept | None = None
    most: Most | None = None
    doc: str | None = None
    path: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Wrapped:
    """One model of another package.

    target:  "module:Class" in the other package.
    kind:    how it works, in a word: a tag.
    reason:  why it is not offered; None where it is.
    """

    name: str
    target: str
    kind: str = ""
    summary: str = ""
    paper: str | None = None
    parameters: tuple[WrappedParam, ...] = ()
    reason: str | None = None

    @property
    def offered(self) -> bool:
        return self.reason is None

    @property
    def class_name(self) -> str:
        return self.target.partition(":")[2]


@dataclass(frozen=True, slots=True, kw_only=True)
class WrappedDetector(Wrapped):
    """One detector of PyOD.

    name:    that of its module.
    scored:  "alone", row by row; "among", each row among the training rows, since it compares the rows of one set;
             "twice", the row and a copy, since it cannot take a single one.
    more_rows_than_features: with fewer, its scores mean nothing.
    """

    scored: Scored = "alone"
    more_rows_than_features: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class AnomalibModel(Wrapped):
    """One model class of anomalib.

    name:     that of its folder in anomalib.
    aliases:  further model names of uadctl that mean it.
    one_pass: it is learned in one pass over the images (MH-PatchCore in three): nobody need say how many epochs.
    pixel_map: it gives an anomaly map, not only a score.
    native:   its checkpoints are read without anomalib.
    batch_size: images a training step that it insists on; None where it takes any number.
    untrained: why it is not trained by uadctl; None where it is.
    """

    aliases: tuple[str, ...] = ()
    one_pass: bool = False
    pixel_map: bool = True
    native: bool = False
    batch_size: int | None = None
    untrained: str | None = None

    @property
    def trainable(self) -> bool:
        return self.offered and self.untrained is None


PYOD_FILE = Path(__file__).with_name("pyod.json")
ANOMALIB_FILE = Path(__file__).with_name("anomalib.json")

_Kind = TypeVar("_Kind", bound=Wrapped)


def _rows(file: Path, key: str, kind: type[_Kind]) -> tuple[_Kind, ...]:
    """The table of a file, in its order; what is a list there is a tuple here."""
    found = []
    for row in json.loads(file.read_text(encoding="utf-8"))[key]:
        parameters = tuple(WrappedParam(**param) for param in row.pop("parameters", ()))
        values: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in row.items()
        }
        found.append(kind(parameters=parameters, **values))
    return tuple(found)


@functools.cache
def pyod_detectors() -> tuple[WrappedDetector, ...]:
    """All detectors of PyOD, also those that uadctl does not offer, in the order of their names."""
    return _rows(PYOD_FILE, "detectors", WrappedDetector)


@functools.cache
def anomalib_models() -> tuple[AnomalibModel, ...]:
    """All model classes of anomalib, also those that uadctl does not offer, in the order of their names."""
    return _rows(ANOMALIB_FILE, "models", AnomalibModel)


def anomalib_model(name: str) -> AnomalibModel:
    """The model with this name of anomalib's folder. KeyError if there is none."""
    return {model.name: model for model in anomalib_models()}[name]
