"""The runs below a folder: what each was, how it ended, and its headline figures. Nothing heavy is imported."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from uadctl.errors import RunError
from uadctl.runs.folder import RunFolder, read_document
from uadctl.untrusted import MAX_SPEC_BYTES, Hostile, parse_toml, read_bounded

#: How many folders below the one given are looked into: runs/ of a project, of a machine, of a month.
DEEPEST = 4

_STAMP = re.compile(r"(\d{4})(\d\d)(\d\d)T(\d\d)(\d\d)(\d\d)Z-")

_T = TypeVar("_T")
_Numbers = dict[str, float | None]


@dataclass(frozen=True, slots=True)
class Errors:
    """Wrong verdicts of one model over all categories and seeds; None where any unit does not know its number."""

    missed: int | None
    defect_images: int
    false_alarms: int | None
    normal_images: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Listed:
    """A run folder, as far as it can be read.

    path: as the folder asked for was typed, and on. status: as in run.json; None if that cannot be read, or was never
    written. in_use: a process works on it now.
    models: names; labels: what they are called in the run. means: label -> metric -> mean; errors: by label.
    gate: whether it held; None without one. Means, errors and gate are those of a run that is over: of one that goes
    on, or was interrupted, they are not known. reason: why a part of this is not known.
    started: in ISO 8601; of a run that cannot be read, from its folder's name; "" if that does not tell.
    """

    path: Path
    status: str | None = None
    in_use: bool = False
    verb: str | None = None
    name: str | None = None
    hash: str | None = None
    dataset: str | None = None
    models: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()
    seeds: tuple[int, ...] = ()
    units: int = 0
    failed_units: int = 0
    means: dict[str, _Numbers] = field(default_factory=dict)
    errors: dict[str, Errors] = field(default_factory=dict)
    gate: bool | None = None
    started: str = ""
    finished: str | None = None
    reason: str | None = None

    def document(self) -> dict[str, Any]:
        """For programs: every field by its name."""
        found: dict[str, Any] = msgspec.to_builtins(self, enc_hook=str)
        return found


class _Record(msgspec.Struct):
    status: str
    verb: str
    name: str
    hash: str
    started: str
    seed: int = 0
    seeds: tuple[int, ...] = ()
    finished: str | None = None


class _Cell(msgspec.Struct):
    success: bool
    metrics: _Numbers = {}
    counts: dict[str, int] = {}


class _Metrics(msgspec.Struct):
    means: dict[str, _Numbers]
    results: dict[str, dict[str, dict[str, _Cell]]] = {}


class _Gate(msgspec.Struct):
    passed: bool


class _Named(msgspec.Struct):
    name: str
    label: str | None = None


class _Spec(msgspec.Struct):
    dataset: _Named
    model: _Named | tuple[_Named, ...]


def list_runs(folder: str | Path) -> list[Listed]:
    """All runs in a folder and up to DEEPEST folders below it, the newest first; the folder itself may be one.

    A run that is damaged is listed with what is wrong. Links are followed, none in a circle; hidden folders, and those
    inside a run, are not looked into. Raises RunError if there is no such folder.
    """
    start = Path(folder)
    if not start.is_dir():
        found = "is no folder" if start.exists() else "no such folder"
        raise RunError(f"{folder}: {found}", help="Name the folder that run folders are made in, such as runs")
    runs = [_listed(path, problem) for path, problem in _below(start, DEEPEST, set())]
    return sorted(sorted(runs, key=lambda run: str(run.path)), key=_time, reverse=True)


def _time(run: Listed) -> tuple[float, str]:
    """When a run began; runs of unknown age come last."""
    try:
        began = datetime.fromisoformat(run.started).timestamp()
    except ValueError:
        began = 0.0
    return began, run.path.name


def _below(folder: Path, depth: int, seen: set[Path]) -> Iterator[tuple[Path, str | None]]:
    """Run folders, and folders that cannot be listed, each with why."""
    place = folder.resolve()
    if place in seen:
        return
    seen.add(place)
    try:
        names = sorted(os.listdir(folder))  # noqa: PTH208 - names are enough
        if "run.json" in names or ("spec.toml" in names and _STAMP.match(place.name)):
            yield folder, None
            return
        inner = [folder / name for name in names if not name.startswith(".") and (folder / name).is_dir()]
    except OSError as error:
        yield folder, f"{folder}: cannot be listed: {error.strerror}"
        return
    if depth:
        for path in inner:
            yield from _below(path, depth - 1, seen)


def _listed(path: Path, problem: str | None) -> Listed:
    """What can be read of a run. What cannot is said in the first reason; the rest is read all the same."""
    stamp = _STAMP.match(path.resolve().name)
    began = "{}-{}-{}T{}:{}:{}+00:00".format(*stamp.groups()) if stamp else ""
    if problem is not None:
        return Listed(path=path, started=began, reason=problem)
    facts: dict[str, Any] = {"started": began, "categories": tuple(_names(path / "units"))}
    reasons = []
    for read in (_record, _spec, _units, _figures, _gate):
        # A run that is begun again, and not yet over, still has the figures and the gate of before.
        if read in (_figures, _gate) and facts.get("status") not in ("done", "failed"):
            continue
        try:
            facts |= read(path)
        except (RunError, OSError) as error:
            reasons.append(str(error))
    return Listed(path=path, **facts, reason=reasons[0] if reasons else None)


def _record(path: Path) -> dict[str, Any]:
    record = _convert(read_document(path / "run.json"), _Record, path / "run.json")
    return {
        # A list must not take the lock of a run that is about to be used: only those not at their end are tried.
        "in_use": record.status in ("started", "interrupted") and _in_use(path),
        "status": record.status,
        "verb": record.verb,
        "name": record.name,
        "hash": record.hash,
        "seeds": record.seeds or (record.seed,),
        "started": record.started,
        "finished": record.finished,
    }


def _in_use(path: Path) -> bool:
    try:
        return RunFolder(path).in_use()
    except OSError:  # a folder of somebody else's, which may be listed and not opened
        return False


def _spec(path: Path) -> dict[str, Any]:
    """From the saved spec as TOML alone, so that one of another version, with other keys, is listed too."""
    file = path / "spec.toml"
    try:
        table = parse_toml(read_bounded(file, most=MAX_SPEC_BYTES).decode("utf-8"))
    except OSError as error:
        raise RunError(f"{file}: cannot be read: {error.strerror}") from error
    except Hostile as error:
        raise RunError(f"{file}: damaged: {error}") from error
    except ValueError as error:
        raise RunError(f"{file}: damaged: not TOML: {error}") from error
    spec = _convert(table, _Spec, file)
    models = spec.model if isinstance(spec.model, tuple) else (spec.model,)
    return {"dataset": spec.dataset.name, "models": tuple(dict.fromkeys(model.name for model in models))}


def _units(path: Path) -> dict[str, Any]:
    """Of the units on disk."""
    labels: dict[str, None] = {}
    units = failed = 0
    for unit in RunFolder(path).units():
        labels[unit.label] = None
        units += 1
        failed += unit.status == "failed"
    return {"labels": tuple(labels), "units": units, "failed_units": failed}


def _figures(path: Path) -> dict[str, Any]:
    """Of metrics.json, once there is one."""
    file = path / "metrics.json"
    if not file.is_file():
        return {}
    metrics = _convert(read_document(file), _Metrics, file)
    return {"means": metrics.means, "errors": {label: _errors(metrics, label) for label in metrics.means}}


def _errors(metrics: _Metrics, label: str) -> Errors:
    cells = [cell for labels in metrics.results.values() for cell in labels.get(label, {}).values()]

    def added(name: str) -> int | None:
        values = [cell.metrics.get(name) for cell in cells]
        known = [value for value in values if value is not None]
        return int(sum(known)) if known and len(known) == len(values) else None

    return Errors(
        added("fn"),
        sum(cell.counts.get("defect_images", 0) for cell in cells),
        added("fp"),
        sum(cell.counts.get("normal_images", 0) for cell in cells),
    )


def _gate(path: Path) -> dict[str, Any]:
    file = path / "gate.json"
    return {"gate": _convert(read_document(file), _Gate, file).passed} if file.is_file() else {}


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []


def _convert(document: dict[str, Any], kind: type[_T], file: Path) -> _T:
    try:
        return msgspec.convert(document, kind)
    except ValueError as error:  # ValidationError, or for a lone surrogate UnicodeEncodeError
        raise RunError(f"{file}: damaged: {error}") from error
