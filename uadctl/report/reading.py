"""What a report needs of a run folder, read into frozen records. Every damage is a RunError that names the file."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

import msgspec

from uadctl.errors import RunError
from uadctl.runs.folder import SCORE_COLUMNS, RunFolder, Status, UnitFolder, read_document
from uadctl.runs.gate import Compared, Pair
from uadctl.runs.sealed import THRESHOLDS_KEYS
from uadctl.spec import RunSpec, variants
from uadctl.thresholds import verdict
from uadctl.thresholds.record import Expected, Tail
from uadctl.untrusted import MAX_TABLE_BYTES, Hostile, read_bounded

_T = TypeVar("_T")
# What is said of a cell that is wrong, in characters.
_TOLD = 200


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


class LabelledFacts(msgspec.Struct, frozen=True):
    """What a threshold that was chosen with labelled defects rests on; `uadctl.thresholds.record.Labelled` says what
    its fields mean."""

    objective: str
    defects: int
    separable: bool
    folds: int
    cost_miss: float | None = None
    cost_false_alarm: float | None = None
    miss_rate: float | None = None
    false_alarm_rate: float | None = None
    data: str | None = None


class Limit(msgspec.Struct, frozen=True):
    """A threshold of thresholds.json; `uadctl.thresholds.Threshold` says what its fields mean.

    Read without its closed lists of methods and sources, so that a report can show a run whose threshold was chosen
    in a way that this version does not know. In files of before 0.8 the last four are not there.
    """

    value: float | None
    method: str
    alpha: float | None = None
    n: int = 0
    source: str | None = None
    reason: str | None = None
    delta: float | None = None
    guarantee: str | None = None
    tail: Tail | None = None
    labelled: LabelledFacts | None = None


class Scale(msgspec.Struct, frozen=True):
    """What the pixels of normal maps look like, and the threshold of maps; `uadctl.runs.fitted.PixelScale` says what
    the fields mean."""

    mean: float
    std: float
    threshold: float
    sigmas: float | None = None
    chosen: Limit | None = None
    review: Limit | None = None


class Calibrated(msgspec.Struct, frozen=True):
    """thresholds.json: the image threshold and the normal scores that it comes from.

    pixel: None where there are no maps. review, expected, data: None in files of before 0.8.
    """

    image: Limit
    scores: tuple[float, ...] = ()
    pixel: Scale | None = None
    review: Limit | None = None
    expected: Expected | None = None
    data: str | None = None

    @property
    def review_value(self) -> float | None:
        """The second, lower threshold; None where there is none."""
        return None if self.review is None else self.review.value

    def judges(self, score: float) -> str | None:
        """The verdict on a score: "anomaly", "review" or "good"; None without a threshold."""
        return verdict(score, self.image.value, self.review_value)


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
    """A limit of the gate that does not hold, and why; no category means the mean over all, and then no seed."""

    label: str
    reason: str
    category: str | None = None
    seed: int | None = None


class Gate(msgspec.Struct, frozen=True):
    """gate.json: how many limits were checked, and those that are broken.

    baseline: the file that the run was held against, as it was named. accepted: the run was made the baseline.
    regressions: every comparison with it, whether it is worse or not; empty without one, and in runs of before 0.8.
    models: pairs of the run's own models.
    """

    passed: bool
    limits: int
    broken: tuple[BrokenLimit, ...] = ()
    regressions: tuple[Compared, ...] = ()
    baseline: str | None = None
    accepted: bool = False
    models: tuple[Pair, ...] = ()

    @property
    def worse(self) -> tuple[Compared, ...]:
        """The comparisons that are regressions, accepted or not."""
        return tuple(one for one in self.regressions if one.reason is not None)


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

    overlay: its picture with the map, or None where none was drawn. map: the map itself, or None where it is not kept.
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
    map: Path | None = None

    @property
    def missed(self) -> bool:
        """Whether it shows a defect and is not called anomalous; one that is to be looked at is missed as well."""
        return self.label == 1 and self.verdict is not None and self.verdict != "anomaly"

    @property
    def false_alarm(self) -> bool:
        """Whether it is normal and called anomalous."""
        return self.label == 0 and self.verdict == "anomaly"


@dataclass(frozen=True, slots=True)
class Unit:
    """What is known of one unit of work.

    measured: None where nothing was measured (fit only) or the unit did not come to its end.
    calibrated: its thresholds now; None where the unit is not finished.
    measured_with: the thresholds that its verdicts and its figures of pixels were made with; other than `calibrated` if
        any has been replaced since. None where nothing was measured, or they are not among those kept.
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
            measured_with = calibrated if _made_with(calibrated, rows, measured) else _kept(folder, rows, measured)
    return Unit(folder, status, measured, calibrated, measured_with, rows, costs, robustness)


def _made_with(found: Calibrated, rows: Sequence[Row], measured: Measured) -> bool:
    """Whether the verdicts and the figures of pixels are those of these thresholds."""
    return same_verdicts(found, rows) and same_pixels(found, measured)


def same_pixels(found: Calibrated, measured: Measured) -> bool:
    """Whether maps were measured at this pixel threshold; True where either is not known."""
    if found.pixel is None or measured.pixel_threshold is None:
        return True
    return found.pixel.threshold == measured.pixel_threshold


def same_verdicts(found: Calibrated, rows: Sequence[Row]) -> bool:
    """Whether the verdicts on images are those of these thresholds."""
    limit = next((row.threshold for row in rows if row.threshold is not None), None)
    return found.image.value == limit and all(
        row.score is None or row.verdict == found.judges(row.score) for row in rows
    )


def _kept(folder: UnitFolder, rows: Sequence[Row], measured: Measured) -> Calibrated | None:
    """Of the thresholds that were replaced, the oldest that the unit was measured with."""
    numbered = {path.name.split(".")[1]: path for path in folder.path.glob("thresholds.*.json")}
    for number in sorted((n for n in numbered if n.isdecimal()), key=int):
        found = _convert(read_document(numbered[number], keys=THRESHOLDS_KEYS), Calibrated, numbered[number])
        if _made_with(found, rows, measured):
            return found
    return None


def _read_rows(folder: UnitFolder, file: Path) -> list[Row]:
    try:
        text = read_bounded(file, most=MAX_TABLE_BYTES).decode("utf-8")
    except OSError as error:
        raise RunError(f"{file}: cannot be read: {error.strerror}") from error
    except Hostile as error:
        raise RunError(f"{file}: damaged: {error}") from error
    except UnicodeDecodeError as error:
        raise RunError(f"{file}: damaged: not UTF-8: {error.reason} at byte {error.start}") from error
    reader = csv.reader(io.StringIO(text, newline=""))
    try:
        if tuple(next(reader, ())) != SCORE_COLUMNS:
            raise RunError(f"{file}: damaged: expected the columns {', '.join(SCORE_COLUMNS)}")
        return [_row(folder, cells) for cells in reader]
    except (csv.Error, ValueError) as error:  # csv.Error: such as a quote that nothing closes
        said = str(error)  # with all of the cell that is wrong
        said = said if len(said) <= _TOLD else f"{said[:_TOLD]}…"
        raise RunError(f"{file}: damaged: line {reader.line_num}: {said}") from error


def _row(folder: UnitFolder, cells: Sequence[str]) -> Row:
    """ValueError for cells that are no row of scores.csv."""
    cell = dict(zip(SCORE_COLUMNS, cells, strict=True))
    return Row(
        path=cell["path"],
        split=cell["split"],
        label=int(cell["label"]),
        defect=cell["defect"],
        score=_finite(cell, "score"),
        threshold=_finite(cell, "threshold"),
        verdict=cell["verdict"] or None,
        reason=cell["reason"] or None,
        overlay=_overlay(folder, cell["map"]),
        map=_map(folder, cell["map"]),
    )


def _finite(cell: dict[str, str], column: str) -> float | None:
    """A number of a row, None where the cell is empty; ValueError for what is none, NaN and infinity too."""
    text = cell[column]
    if not text:
        return None
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{column} is {text}; expected a finite number")
    return value


def _map(folder: UnitFolder, map_name: str) -> Path | None:
    """Only what lies below maps/ of the unit."""
    return _file_below(folder, map_name)


def _overlay(folder: UnitFolder, map_name: str) -> Path | None:
    """The overlay lies below overlays/ as its map lies below maps/."""
    parts = PurePosixPath(map_name).parts
    return _file_below(folder, map_name, instead=("overlays", *parts[1:-1], f"{PurePosixPath(map_name).stem}.png"))


def _file_below(folder: UnitFolder, map_name: str, instead: tuple[str, ...] | None = None) -> Path | None:
    """A file of the unit that a row names, or the one that lies as `instead` says; None where there is none.

    Whoever made the run may have written any path there, or put a link in the way: none leads out of the unit.
    """
    place = PurePosixPath(map_name)
    if place.parts[:1] != ("maps",) or ".." in place.parts or "\0" in map_name:
        return None
    file = folder.path.joinpath(*(instead or place.parts))
    try:
        return file if file.is_file() and file.resolve().is_relative_to(folder.path.resolve()) else None
    except OSError:  # a name that no file can have
        return None


def _convert(document: dict[str, Any], kind: type[_T], file: Path) -> _T:
    try:
        return msgspec.convert(document, kind)
    except ValueError as error:  # ValidationError, or for a lone surrogate UnicodeEncodeError
        raise RunError(f"{file}: damaged: {error}") from error
