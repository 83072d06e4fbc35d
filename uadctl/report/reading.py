"""What a report needs of a run folder, read into frozen records. Every damage is a RunError that names the file."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

import msgspec

from uadctl.errors import RunError
from uadctl.runs.folder import SCORE_COLUMNS, RunFolder, Status, UnitFolder, read_document
from uadctl.spec import RunSpec, variants

_T = TypeVar("_T")


class RunFacts(msgspec.Struct, frozen=True):
    """run.json, as `uadctl.runs.driver` writes it. seeds: empty in runs of before there were several.

    data: category -> fingerprint. models: label -> category -> facts.
    """

    status: str
    verb: str
    name: str
    hash: str
    seed: int
    started: str
    seeds: tuple[int, ...] = ()
    finished: str | None = None
    resumed: tuple[str, ...] = ()
    versions: dict[str, str | None] = {}
    machine: dict[str, Any] = {}
    git: dict[str, Any] | None = None
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    data: dict[str, dict[str, Any]] = {}
    models: dict[str, dict[str, dict[str, Any]]] = {}


class Limit(msgspec.Struct, frozen=True):
    """The image threshold of thresholds.json; `uadctl.thresholds.Threshold` says what its fields mean.

    Read without its closed lists of methods and sources, so that a report can show a run whose threshold was chosen
    in a way that this version does not know.
    """

    value: float | None
    method: str
    alpha: float | None = None
    n: int = 0
    source: str | None = None
    reason: str | None = None


class Calibrated(msgspec.Struct, frozen=True):
    """thresholds.json: the image threshold and the normal scores that it comes from."""

    image: Limit
    scores: tuple[float, ...] = ()


class Measured(msgspec.Struct, frozen=True):
    """A unit's metrics.json. error: why it failed, where success is false.

    by_defect and intervals are empty, and pixel_threshold is None, in runs of before they were written.
    by_defect: kind of defect -> its figures by name, None where undefined, and "reasons" where any of them is.
    """

    success: bool
    metrics: dict[str, float | None] = {}
    reasons: dict[str, str] = {}
    counts: dict[str, int] = {}
    pixel_threshold: float | None = None
    by_defect: dict[str, dict[str, float | dict[str, str] | None]] = {}
    intervals: dict[str, tuple[float, float] | None] = {}
    error: str | None = None


class Figures(msgspec.Struct, frozen=True):
    """Metrics by name, None where undefined, and why."""

    metrics: dict[str, float | None]
    reasons: dict[str, str] = {}


class Corrupted(Figures, frozen=True, kw_only=True):
    """The same after one corruption; changes: what they are minus what they were, None where either is undefined."""

    corruption: str
    severity: int
    changes: dict[str, float | None] = {}


class Robustness(msgspec.Struct, frozen=True):
    """A unit's robustness.json. threshold: that its rates are at; another if it has been replaced since."""

    clean: Figures
    corruptions: tuple[Corrupted, ...] = ()
    threshold: float | None = None


class Costs(msgspec.Struct, frozen=True):
    """A unit's entry in timing.json; the last three only where test images were scored."""

    category: str
    label: str
    seed: int
    fit_seconds: float | None = None
    model_bytes: int | None = None
    images_per_second: float | None = None
    ms_per_image_p50: float | None = None
    ms_per_image_p95: float | None = None


class BrokenLimit(msgspec.Struct, frozen=True):
    """A limit of the gate that does not hold, and why; no category means the mean over all."""

    label: str
    reason: str
    category: str | None = None


class Gate(msgspec.Struct, frozen=True):
    """gate.json: how many limits were checked, and those that are broken."""

    passed: bool
    limits: int
    broken: tuple[BrokenLimit, ...] = ()


class OfSeeds(msgspec.Struct, frozen=True):
    """Mean and standard deviation over several seeds, by metric; None where undefined."""

    means: dict[str, float | None] = {}
    sds: dict[str, float | None] = {}


class _Summary(msgspec.Struct, frozen=True):
    means: dict[str, dict[str, float | None]]
    sds: dict[str, dict[str, float | None]] = {}
    by_category: dict[str, dict[str, OfSeeds]] = {}


class _Timing(msgspec.Struct, frozen=True):
    units: tuple[Costs, ...]


@dataclass(frozen=True, slots=True)
class Row:
    """One image of scores.csv. label: 0 normal, 1 anomalous, -1 unknown. reason: why it has no score.

    overlay: its picture with the map, or None where none was drawn.
    """

    path: str
    split: str
    label: int
    defect: str
    score: float | None
    threshold: float | None
    verdict: str | None
    reason: str | None
    overlay: Path | None


@dataclass(frozen=True, slots=True)
class Unit:
    """What is known of one unit of work.

    measured: None where nothing was measured (fit only) or the unit did not come to its end.
    calibrated: its thresholds now; None where the unit is not finished.
    measured_with: the thresholds that its verdicts were made with; other than `calibrated` if the threshold has been
        replaced since. None where nothing was measured, or they are not among those kept.
    rows: of scores.csv, in its order; empty where nothing was scored.
    robustness: None where it was not asked for.
    """

    folder: UnitFolder
    status: Status | None
    measured: Measured | None
    calibrated: Calibrated | None
    measured_with: Calibrated | None
    rows: tuple[Row, ...]
    costs: Costs | None
    robustness: Robustness | None = None


@dataclass(frozen=True, slots=True)
class Run:
    """A run and those of its units that were asked for.

    means: label -> metric -> mean over all categories and seeds of the run; empty where the run is not over or only a
        part of its categories is shown. sds: the same of the standard deviation over the seeds.
    by_category: category -> label -> what its seeds add up to; empty for one seed, and where the run is not over.
    families: label of a [model] -> the labels that it stands for, with a grid or several numbers of shots.
    categories: how many the run has. left_out: how many of them are not among `units`.
    gate: None where the spec has none, or the run is not over.
    """

    folder: RunFolder
    facts: RunFacts
    spec: RunSpec
    units: tuple[Unit, ...]
    means: dict[str, dict[str, float | None]]
    categories: int
    left_out: int
    families: dict[str, tuple[str, ...]]
    sds: dict[str, dict[str, float | None]] = field(default_factory=dict)
    by_category: dict[str, dict[str, OfSeeds]] = field(default_factory=dict)
    gate: Gate | None = None


def read_run(run: RunFolder, *, categories: Sequence[str] | None = None) -> Run:
    """All that a report shows of a run.

    categories: names or globs; None means all. Raises RunError for one that the run does not have, and where a document
    is damaged or of another version.
    """
    facts = _convert(run.read("run"), RunFacts, run.path / "run.json")
    folders = run.units()
    names = list(dict.fromkeys(unit.category for unit in folders))
    wanted = names
    if categories is not None:
        for pattern in categories:
            if not any(fnmatchcase(name, pattern) for name in names):
                raise RunError(
                    f"{run.path}: this run has no category {pattern}", help=f"It has: {', '.join(names) or 'none yet'}"
                )
        wanted = [name for name in names if any(fnmatchcase(name, pattern) for pattern in categories)]
    timing_file = run.path / "timing.json"
    costs: dict[tuple[str, str, int], Costs] = {}
    if timing_file.is_file():
        timing = _convert(run.read("timing"), _Timing, timing_file)
        costs = {(c.category, c.label, c.seed): c for c in timing.units}
    units = tuple(
        _read_unit(unit, costs.get((unit.category, unit.label, unit.seed)))
        for unit in folders
        if unit.category in wanted
    )
    summary = _Summary({})
    metrics_file = run.path / "metrics.json"
    # A run that was resumed and not yet finished again still has the means of before.
    if facts.status in ("done", "failed") and metrics_file.is_file():
        summary = _convert(run.read("metrics"), _Summary, metrics_file)
    whole = len(wanted) == len(names)
    gate = None
    gate_file = run.path / "gate.json"
    if facts.status in ("done", "failed") and gate_file.is_file():
        gate = _convert(run.read("gate"), Gate, gate_file)
    spec = run.spec
    families: dict[str, list[str]] = {}
    for variant in variants(spec):
        families.setdefault(variant.of, []).append(variant.model.label)
    return Run(
        run,
        facts,
        spec,
        units,
        summary.means if whole else {},
        len(names),
        len(names) - len(wanted),
        {of: tuple(labels) for of, labels in families.items()},
        sds=summary.sds if whole else {},
        by_category={name: summary.by_category[name] for name in wanted if name in summary.by_category},
        gate=gate,
    )


def _read_unit(folder: UnitFolder, costs: Costs | None) -> Unit:
    status = folder.status
    measured = calibrated = measured_with = None
    rows: tuple[Row, ...] = ()
    robustness = None
    if status in ("done", "failed") and (folder.path / "metrics.json").is_file():
        measured = _convert(folder.read("metrics"), Measured, folder.path / "metrics.json")
    if status == "done":
        calibrated = _convert(folder.read("thresholds"), Calibrated, folder.thresholds)
        if folder.has("robustness"):
            robustness = _convert(folder.read("robustness"), Robustness, folder.path / "robustness.json")
        if measured is not None:
            rows = tuple(_read_rows(folder, folder.path / "scores.csv"))
            limit = next((row.threshold for row in rows if row.threshold is not None), None)
            measured_with = calibrated if calibrated.image.value == limit else _kept(folder, limit)
    return Unit(folder, status, measured, calibrated, measured_with, rows, costs, robustness)


def _kept(folder: UnitFolder, limit: float | None) -> Calibrated | None:
    """Of the thresholds that were replaced, the oldest with this value."""
    numbered = {path.name.split(".")[1]: path for path in folder.path.glob("thresholds.*.json")}
    for number in sorted((n for n in numbered if n.isdecimal()), key=int):
        found = _convert(read_document(numbered[number]), Calibrated, numbered[number])
        if found.image.value == limit:
            return found
    return None


def _read_rows(folder: UnitFolder, file: Path) -> list[Row]:
    try:
        text = file.read_text(encoding="utf-8")
    except OSError as error:
        raise RunError(f"{file}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise RunError(f"{file}: damaged: not UTF-8: {error.reason} at byte {error.start}") from error
    reader = csv.reader(io.StringIO(text, newline=""))
    if tuple(next(reader, ())) != SCORE_COLUMNS:
        raise RunError(f"{file}: damaged: expected the columns {', '.join(SCORE_COLUMNS)}")
    rows = []
    for cells in reader:
        try:
            cell = dict(zip(SCORE_COLUMNS, cells, strict=True))
            rows.append(
                Row(
                    path=cell["path"],
                    split=cell["split"],
                    label=int(cell["label"]),
                    defect=cell["defect"],
                    score=float(cell["score"]) if cell["score"] else None,
                    threshold=float(cell["threshold"]) if cell["threshold"] else None,
                    verdict=cell["verdict"] or None,
                    reason=cell["reason"] or None,
                    overlay=_overlay(folder, cell["map"]),
                )
            )
        except ValueError as error:
            raise RunError(f"{file}: damaged: line {reader.line_num}: {error}") from error
    return rows


def _overlay(folder: UnitFolder, map_name: str) -> Path | None:
    """The overlay lies below overlays/ as its map lies below maps/."""
    place = PurePosixPath(map_name)
    if place.parts[:1] != ("maps",) or ".." in place.parts:
        return None
    file = folder.overlay_path(str(PurePosixPath(*place.parts[1:]).with_suffix("")))
    return file if file.is_file() else None


def _convert(document: dict[str, Any], kind: type[_T], file: Path) -> _T:
    try:
        return msgspec.convert(document, kind)
    except msgspec.ValidationError as error:
        raise RunError(f"{file}: damaged: {error}") from error
