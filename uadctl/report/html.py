"""A run folder as one static page: results first, then every unit with its curves and its most telling images.

Everything stands inside the page: no script, no network, nothing to install. A policy in its head forbids the browser
to load or run anything else, whatever the names of files and categories contain.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np

from uadctl import __version__
from uadctl.atomic import write_bytes
from uadctl.errors import DataError, RunError
from uadctl.metrics import COUNTED, RATE_COUNTS, threshold_counts
from uadctl.metrics.curves import image_curve
from uadctl.progress import Progress, Silent, Task
from uadctl.report import charts
from uadctl.report.reading import Figures, Limit, Measured, Robustness, Row, Run, Unit, read_run
from uadctl.report.thumbnails import PAGE_BYTES, thumbnail
from uadctl.runs.folder import RunFolder
from uadctl.spec import PROTOCOLS, ProtocolEntry

MAX_OVERLAYS = 60

# How a page of ours begins, so that no other file is ever overwritten.
_GENERATOR = '<meta name="generator" content="uadctl report">'

_HEADINGS = {
    "image_auroc": "image AUROC",
    "image_ap": "image AP",
    "image_f1max": "image F1-max",
    "pixel_auroc": "pixel AUROC",
    "pixel_ap": "pixel AP",
    "pixel_f1max": "pixel F1-max",
    "image_auroc_logical": "image AUROC, logical",
    "image_auroc_structural": "image AUROC, structural",
    "image_auroc_pooled": "image AUROC, all at once",
    "segf1": "SegF1",
    "classf1": "ClassF1",
    "group_auroc": "part AUROC",
    "group_ap": "part AP",
    "group_f1max": "part F1-max",
    "group_miss_rate": "parts missed",
    "group_false_alarm_rate": "parts, false alarms",
    "miss_rate": "missed",
    "false_alarm_rate": "false alarms",
    "flip_rate": "verdicts flipped",
    "good_shift": "shift of good scores",
}
# Each rate's count of images, beside the rate itself.
_PARTS = {"miss_rate": "fn", "false_alarm_rate": "fp", "precision": "tp"}
# What the rows of a unit tell of a kind of defect.
_TOLD = ("images", "missed", "miss_rate")


@dataclass(frozen=True, slots=True)
class _Cell:
    text: str
    notes: tuple[str, ...] = ()  # smaller, below: the images that a rate rests on, the interval


@dataclass(frozen=True, slots=True)
class _TableRow:
    name: str
    anchor: str
    cells: tuple[_Cell, ...]
    state: str = ""  # in place of the cells


@dataclass(frozen=True, slots=True)
class _Fact:
    name: str
    value: str


@dataclass(frozen=True, slots=True)
class _Chart:
    title: str
    svg: str
    absent: str = ""  # why there is none
    note: str = ""


@dataclass(frozen=True, slots=True)
class _Defect:
    kind: str
    images: int
    found: str
    missed: str
    lowest: str
    figures: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Changed:
    corruption: str
    severity: str
    cells: tuple[_Cell, ...]


@dataclass(frozen=True, slots=True)
class _Robustness:
    threshold: str
    charts: tuple[_Chart, ...]
    headings: tuple[str, ...]
    rows: tuple[_Changed, ...]
    reasons: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Picture:
    name: str
    truth: str
    score: str
    verdict: str
    alt: str
    src: str
    href: str
    absent: str


@dataclass(frozen=True, slots=True)
class _Pictures:
    title: str
    members: tuple[_Picture, ...]
    of: int


@dataclass(frozen=True, slots=True)
class _Section:
    title: str
    anchor: str
    error: str
    traceback: str
    state: str
    threshold: str
    since: str
    counts: tuple[str, ...]
    facts: tuple[_Fact, ...]
    charts: tuple[_Chart, ...]
    defects: tuple[_Defect, ...]
    defect_headings: tuple[str, ...]
    defect_reasons: tuple[str, ...]
    robustness: _Robustness | None
    pictures: tuple[_Pictures, ...]
    left_out: int
    broken: tuple[Row, ...]


def report(
    run: str | Path,
    *,
    out: str | Path | None = None,
    categories: Sequence[str] | None = None,
    max_overlays: int = MAX_OVERLAYS,
    progress: Progress | None = None,
) -> Path:
    """Write the page of a run folder: index.html in `out`, or in the run's own folder report/.

    Only the run folder is read; no model is loaded, no image scored. The same run gives the same bytes. A run that only
    fitted gives a page of its thresholds; of one that is not finished, what there is so far.

    out: a folder, made if need be. The page links to the full overlays by relative paths: the two are moved together.
    categories: names or globs; None shows all.
    max_overlays: pictures a unit, missed defects first, then false alarms, then the others by their distance to the
        threshold. Their number left out is said.

    Returns the path of the page. Raises RunError if there is no such run or category, if the run is damaged, or if
    something else than a report stands where the page would go; ValueError for a negative `max_overlays`.
    """
    if max_overlays < 0:
        raise ValueError(f"max_overlays is {max_overlays}; expected 0 or more")
    progress = progress or Silent()
    folder = RunFolder.open(Path(run))
    file = Path(out if out is not None else folder.path / "report") / "index.html"
    _refuse_foreign(file)
    found = read_run(folder, categories=categories)
    shown = [_most_telling(unit.rows)[:max_overlays] for unit in found.units]
    pictures = sum(row.overlay is not None for rows in shown for row in rows)
    share = PAGE_BYTES // max(1, pictures)
    common = _common_facts(found)
    with progress.task("report", pictures) as task:
        sections = [
            _section(unit, rows, f"unit-{i}", found, common, base=file.parent, most_bytes=share, task=task)
            for i, (unit, rows) in enumerate(zip(found.units, shown, strict=True), start=1)
        ]
    text = _render(found, sections, common)
    try:
        write_bytes(file, text.encode("utf-8", "backslashreplace"))
    except OSError as error:
        raise RunError(f"{file}: cannot be written: {error.strerror}") from error
    return file


def _refuse_foreign(file: Path) -> None:
    if not file.exists():
        return
    head = b""
    if file.is_file():
        with file.open("rb") as stream:
            head = stream.read(2048)
    if _GENERATOR.encode() not in head:
        raise RunError(
            f"{file}: exists and is not a report of uadctl; it was left as it is",
            help="Give another folder with --out.",
        )


def _render(run: Run, sections: Sequence[_Section], common: Mapping[str, Mapping[str, str]]) -> str:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("uadctl.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    protocol = PROTOCOLS[run.spec.metrics.protocol]
    columns = _columns((unit.measured for unit in run.units), protocol)
    return environment.get_template("report.html").render(
        facts=run.facts,
        version=__version__,
        notices=_notices(run),
        measured=any(unit.measured is not None and unit.measured.success for unit in run.units),
        headings=[_heading(name) for name in columns],
        at_pixels=" and ".join(_heading(name) for name in ("segf1", "classf1") if name in columns),
        of_parts=any(name.startswith("group_") for name in columns),
        intervals=any(unit.measured is not None and any(unit.measured.intervals.values()) for unit in run.units),
        protocol=protocol.summary,
        rows=[_table_row(unit, section, columns) for unit, section in zip(run.units, sections, strict=True)],
        means=_mean_rows(run, columns) if columns else [],
        seeds=len(run.facts.seeds) if run.by_category else 0,
        gate=run.gate,
        reasons=_reasons(run.units),
        run_facts=_run_facts(run, common),
        data=[(name, run.facts.data[name]) for name in sorted(run.facts.data)],
        sections=sections,
    )


def _notices(run: Run) -> list[str]:
    """What a reader must know before any number."""
    facts, name = run.facts, run.folder.path.resolve().name
    done = sum(unit.status == "done" for unit in run.units)
    so_far = f"Shown is what there is so far: {done} finished of {len(run.units)} units begun."
    notices = []
    if facts.status == "started":
        notices.append(f"This run is not finished: it is still at work, or it was ended. {so_far}")
    elif facts.status == "interrupted":
        further = f" Go on with: uadctl bench --resume {name}" if facts.verb == "bench" else ""
        notices.append(f"This run was interrupted. {so_far}{further}")
    failed = [unit for unit in run.units if unit.status == "failed"]
    if failed:
        names = ", ".join(_title(unit, run) for unit in failed[:10]) + (", …" if len(failed) > 10 else "")
        notices.append(f"{len(failed)} of {len(run.units)} units failed ({names}); each says why below.")
    if facts.verb == "fit":
        notices.append(
            "Nothing has been measured yet: this run learned the good images and set thresholds. "
            "uadctl bench measures them on test images."
        )
    if not run.units:
        notices.append("No unit of this run has been begun.")
    if run.left_out:
        notices.append(
            f"This page shows {run.categories - run.left_out} of the run's {run.categories} categories, "
            "and therefore no means."
        )
    return notices


def _common_facts(run: Run) -> dict[str, dict[str, str]]:
    """By label, what the model says of itself alike in every category and every variant."""
    found: dict[str, dict[str, str]] = {}
    for labels in run.families.values():
        said = [dict(_flat(f)) for label in labels for f in run.facts.models.get(label, {}).values()]
        found |= dict.fromkeys(labels, _common(said))
    return found


def _run_facts(run: Run, common: Mapping[str, Mapping[str, str]]) -> list[_Fact]:
    facts, spec = run.facts, run.spec
    git = facts.git or {}
    out = [
        _Fact("run folder", run.folder.path.resolve().name),
        _Fact("made by", f"uadctl {facts.verb}, {facts.status}"),
        _Fact("started", _moment(facts.started)),
        *(_Fact("resumed", _moment(moment)) for moment in facts.resumed),
        *([_Fact("finished", _moment(facts.finished))] if facts.finished else []),
        _Fact("spec hash", facts.hash),
        _Fact("seeds" if len(facts.seeds) > 1 else "seed", ", ".join(map(str, facts.seeds or (facts.seed,)))),
        _Fact("data set", spec.dataset.name),
        *([_Fact("shots", _listed(spec.dataset.shot_counts))] if spec.dataset.shots is not None else []),
    ]
    for model in spec.models:
        out.append(_Fact("model", model.name if model.name == model.label else f"{model.label}: {model.name}"))
        out += [_Fact("grid", f"{key} = {_listed(values)}") for key, values in (model.grid or {}).items()]
        # What differs between categories (the size of the memory bank) stands in each unit.
        out += [_Fact(name, value) for name, value in common[run.families[model.label][0]].items()]
    machine = facts.machine
    out += [
        _Fact("machine", ", ".join(str(machine[k]) for k in ("processor", "architecture", "system") if machine.get(k))),
        _Fact("versions", ", ".join(f"{name} {number}" for name, number in facts.versions.items() if number)),
    ]
    if git:
        out.append(_Fact("git commit", f"{git.get('commit')}{', with changes' if git.get('changed') else ''}"))
    out += [_Fact("note", note) for note in facts.notes]
    out += [_Fact("warning", warning) for warning in facts.warnings]
    return [fact for fact in out if fact.value]


def _listed(values: Iterable[object]) -> str:
    return ", ".join(str(list(value)) if isinstance(value, tuple) else str(value) for value in values)


def _several(run: Run) -> bool:
    """Whether categories are not told apart from each other alone."""
    return len(run.facts.models) > 1 or sum(map(len, run.families.values())) > 1


def _title(unit: Unit, run: Run) -> str:
    folder = unit.folder
    title = f"{folder.category} · {folder.label}" if _several(run) else folder.category
    seeds = len(run.facts.seeds) > 1
    return f"{title} · seed {folder.seed}" if seeds else title


def _section(
    unit: Unit,
    shown: Sequence[Row],
    anchor: str,
    run: Run,
    common: Mapping[str, Mapping[str, str]],
    *,
    base: Path,
    most_bytes: int,
    task: Task,
) -> _Section:
    folder = unit.folder
    title = _title(unit, run)
    error = traceback = state = threshold = since = ""
    counts: list[str] = []
    if unit.status == "failed":
        error = (unit.measured.error if unit.measured is not None else None) or "it failed without a word"
        file = folder.path / "error.txt"
        traceback = _href(file, base) if file.is_file() else ""
    elif unit.status != "done":
        state = "This unit was begun and is not finished; it has no results."
    limit = _limit_of(unit)
    if unit.calibrated is not None:
        image = unit.calibrated.image
        if unit.measured is None or image.value == limit:
            threshold = _origin(image)
        else:
            threshold = _without_origin(limit) if unit.measured_with is None else _origin(unit.measured_with.image)
            since = _since(unit, image)
    if unit.measured is not None and unit.measured.success:
        counts = _at_threshold(unit.measured)
    figures = _defect_figures(unit)
    return _Section(
        title=title,
        anchor=anchor,
        error=error,
        traceback=traceback,
        state=state,
        threshold=threshold,
        since=since,
        counts=tuple(counts),
        facts=tuple(_unit_facts(unit, run, common.get(folder.label, {}))),
        charts=tuple(_charts(unit, limit, anchor, title)),
        defects=tuple(_defects(unit, figures)),
        defect_headings=tuple(_heading(name) for name in figures),
        defect_reasons=tuple(_defect_reasons(unit)),
        robustness=None if unit.robustness is None else _robustness(unit.robustness, anchor, title),
        pictures=tuple(_pictures(unit.rows, shown, base=base, most_bytes=most_bytes, task=task)),
        left_out=sum(row.score is not None for row in unit.rows) - len(shown),
        broken=tuple(row for row in unit.rows if row.score is None),
    )


# The threshold


def _limit_of(unit: Unit) -> float | None:
    """The threshold that the unit's verdicts were made with; of a unit that was not scored, its threshold now."""
    if unit.measured is not None:
        return next((row.threshold for row in unit.rows if row.threshold is not None), None)
    return None if unit.calibrated is None else unit.calibrated.image.value


def _origin(limit: Limit) -> str:
    """Where a threshold comes from, for somebody who did not choose it."""
    if limit.value is None:
        return f"There is no threshold, and therefore no verdict: {limit.reason}."
    images = f"{limit.n} normal images" if limit.n != 1 else "1 normal image"
    source = {
        "validation": f"{images} of the data set's validation split",
        "leave-one-out": f"{images} of the training split, each scored as if the model had not seen it",
        "holdout": f"{images} of the training split, held out from the model",
        "training": f"{images} of the training split, which the checkpoint may have learned; if so, it is too low",
        "given": f"{images} given to uadctl calibrate",
    }.get(limit.source or "", f"{images} (source: {limit.source})")
    if limit.method == "quantile" and limit.alpha is not None:
        how = f"It leaves at most {100 * limit.alpha:g}\N{NO-BREAK SPACE}% of them at or above it."
    else:
        how = f"Method: {limit.method}" + (f", alpha {limit.alpha:g}." if limit.alpha is not None else ".")
    return f"The threshold {_exact(limit.value)} comes from {source}. {how}"


def _without_origin(limit: float | None) -> str:
    if limit is None:
        return "There was no threshold when this unit was measured, and therefore no verdict."
    return f"The threshold was {_exact(limit)} when this unit was measured."


def _since(unit: Unit, now: Limit) -> str:
    """That the threshold was replaced after the unit was measured, and what it would make of the same scores."""
    text = f"The threshold has been replaced since, and the verdicts here are those of before. {_origin(now)}"
    known = [row for row in unit.rows if row.score is not None and row.label >= 0]
    if now.value is None or not known:
        return text
    found = threshold_counts([row.label for row in known], [row.score or 0.0 for row in known], now.value)
    return f"{text} With it: {' '.join(_at_threshold(Measured(True, found.metrics, found.reasons, found.counts)))}"


def _at_threshold(measured: Measured) -> list[str]:
    """The counts at the threshold as sentences, each with its n, or why there are none."""
    m = measured.metrics
    sentences = []
    for rate, text in (
        ("miss_rate", "{part} of {n} defect images missed ({share})."),
        ("false_alarm_rate", "{part} of {n} normal images called anomalous ({share})."),
        ("precision", "{part} of {n} alarms true ({share})."),
    ):
        share, part = m.get(rate), m.get(_PARTS[rate])
        n = measured.counts.get(RATE_COUNTS[rate])
        if share is not None and part is not None and n is not None:
            sentences.append(text.format(part=int(part), n=n, share=_percent(share)))
        elif rate in measured.reasons:
            sentences.append(f"{_heading(rate).capitalize()}: undefined, {measured.reasons[rate]}.")
    return sentences


# The table of results


def _columns(cells: Iterable[Measured | None], protocol: ProtocolEntry) -> list[str]:
    """What the protocol reports, then what the threshold lets through, then all the rest."""
    names = dict.fromkeys(name for cell in cells if cell is not None for name in cell.metrics if name not in COUNTED)
    first = [name for name in (*protocol.metrics, *_PARTS) if name in names]
    return [*first, *(name for name in names if name not in first)]


def _heading(name: str) -> str:
    kind, _, limit = name.partition("_")
    digits, _, of = limit.partition("_")
    if kind in ("aupro", "spro") and digits.isdecimal():
        rate = "1" if digits == "100" else f"0.{digits}"
        return f"{'AUPRO' if kind == 'aupro' else 'sPRO'} to FPR {rate}" + (f", {of}" if of else "")
    return _HEADINGS.get(name, name)


def _table_row(unit: Unit, section: _Section, columns: Sequence[str]) -> _TableRow:
    if unit.measured is None or not unit.measured.success:
        state = "failed" if unit.status == "failed" else "not finished" if unit.status != "done" else "not measured"
        return _TableRow(section.title, section.anchor, (), state)
    m, counts = unit.measured.metrics, unit.measured.counts
    cells = []
    for name in columns:
        part, n = m.get(_PARTS.get(name, "")), counts.get(RATE_COUNTS.get(name, ""))
        notes = [f"{int(part)} of {n}"] if part is not None and n and m.get(name) is not None else []
        interval = unit.measured.intervals.get(name)
        if interval and interval[0] < interval[1]:  # where all resamples agree they tell nothing
            notes.append("\N{EN DASH}".join(_metric(name, end, digits=3) for end in interval))
        cells.append(_Cell(_metric(name, m.get(name)), tuple(notes)))
    return _TableRow(section.title, section.anchor, tuple(cells))


def _mean_rows(run: Run, columns: Sequence[str]) -> list[_TableRow]:
    """What seeds and categories add up to: a row for each category and label with several seeds, then the means."""

    def row(title: str, means: Mapping[str, float | None], sds: Mapping[str, float | None]) -> _TableRow:
        return _TableRow(title, "", tuple(_Cell(_spread(name, means.get(name), sds.get(name))) for name in columns))

    several = _several(run)
    rows = [
        row(f"{category} · {label}, all seeds" if several else f"{category}, all seeds", of.means, of.sds)
        for category, labels in run.by_category.items()
        for label, of in labels.items()
    ]
    if run.categories > 1:
        rows += [
            row(f"mean · {label}" if len(run.means) > 1 else "mean", means, run.sds.get(label, {}))
            for label, means in run.means.items()
        ]
    return rows


def _spread(name: str, mean: float | None, sd: float | None) -> str:
    """ "0.9871 ± 0.0043", or the mean alone where there is no spread."""
    text = _metric(name, mean)
    return text if sd is None else f"{text} ± {_metric(name, sd)}"


def _metric(name: str, value: float | None, *, digits: int = 4) -> str:
    if value is None:
        return "–"
    return _percent(value) if name in _PARTS or name.endswith("_rate") else f"{value:.{digits}f}"


def _reasons(units: Sequence[Unit]) -> list[str]:
    """Each reason for an undefined metric once, with the metrics it is for."""
    found: dict[str, dict[str, None]] = {}
    for unit in units:
        if unit.measured is not None:
            for name, reason in unit.measured.reasons.items():
                said = f"{unit.folder.category} · {unit.folder.label}: {reason}"
                found.setdefault(said, {})[_heading(name)] = None  # seeds say the same
    return [f"{reason} ({', '.join(names)})" for reason, names in found.items()]


# Facts


def _unit_facts(unit: Unit, run: Run, common: Mapping[str, str]) -> list[_Fact]:
    facts = []
    counts = unit.measured.counts if unit.measured is not None else {}
    if counts:
        images = f"{counts.get('normal_images', 0)} normal, {counts.get('defect_images', 0)} with defects"
        facts.append(_Fact("test images", images))
        facts.append(_Fact("training images", str(counts.get("train_images", "–"))))
        if regions := counts.get("regions"):
            facts.append(_Fact("defect regions", str(regions)))
        if unit.measured is not None and unit.measured.pixel_threshold is not None:
            facts.append(_Fact("pixel threshold", _exact(unit.measured.pixel_threshold)))
        for name, title in (
            ("broken_images", "broken files left out"),
            ("defect_images_without_mask", "defect images without mask"),
        ):
            if counts.get(name):
                facts.append(_Fact(title, str(counts[name])))
    of_label = run.facts.models.get(unit.folder.label, {})
    own = dict(_flat(of_label.get(unit.folder.category, {})))
    facts += [_Fact(name, value) for name, value in own.items() if name not in common and value]
    if unit.costs is not None:
        c = unit.costs
        if c.fit_seconds is not None:
            facts.append(_Fact("fit", f"{c.fit_seconds:.1f} s"))
        if c.ms_per_image_p50 is not None and c.ms_per_image_p95 is not None:
            facts.append(_Fact("an image", f"{c.ms_per_image_p50:.0f} ms (median), {c.ms_per_image_p95:.0f} ms (95 %)"))
        if c.model_bytes is not None:
            facts.append(_Fact("model", f"{c.model_bytes / 1e6:.1f} MB"))
    return facts


def _flat(facts: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Nested facts as names and texts: {"weights": {"file": "x"}} gives ("weights file", "x")."""
    out: list[tuple[str, str]] = []
    for key, value in facts.items():
        name = f"{prefix}{key}".replace("_", " ")
        if isinstance(value, Mapping):
            out += _flat(value, f"{name} ")
        elif isinstance(value, list):
            out.append((name, ", ".join(str(v) for v in value)))
        elif value is not None:
            out.append((name, str(value)))
    return out


def _common(dictionaries: Sequence[Mapping[str, str]]) -> dict[str, str]:
    """What all of them say alike, in the order of the first."""
    if not dictionaries:
        return {}
    return {k: v for k, v in dictionaries[0].items() if all(d.get(k) == v for d in dictionaries)}


# Charts


def _charts(unit: Unit, limit: float | None, anchor: str, title: str) -> list[_Chart]:
    known = [row for row in unit.rows if row.score is not None and row.label >= 0]
    labels = np.array([row.label for row in known], dtype=np.int64)
    scores = np.array([row.score for row in known], dtype=np.float64)
    out: list[_Chart] = []
    if unit.measured is not None and unit.measured.success:
        out += _curves(unit.measured, labels, scores, anchor, title)
    calibrated = unit.measured_with or unit.calibrated
    calibration = np.array(calibrated.scores if calibrated is not None else (), dtype=np.float64)
    groups = {"defect": scores[labels == 1], "normal": scores[labels == 0], "calibration": calibration}
    groups = {name: values[np.isfinite(values)] for name, values in groups.items()}
    if any(values.size for values in groups.values()):
        spread = "; ".join(
            f"{values.size} {name} images from {_short(values.min())} to {_short(values.max())}"
            for name, values in groups.items()
            if values.size
        )
        line = "" if limit is None else f"; threshold {_exact(limit)}"
        alt = f"{title}: image scores: {spread}{line}"
        out.append(_Chart("Scores", charts.score_chart(groups, limit, key=f"{anchor}-scores", alt=alt)))
    return out


def _curves(
    measured: Measured, labels: np.ndarray[Any, Any], scores: np.ndarray[Any, Any], anchor: str, title: str
) -> list[_Chart]:
    names = ("ROC curve", "Precision-recall curve")
    if not (np.any(labels == 1) and np.any(labels == 0)):
        reason = measured.reasons.get("image_auroc", "images of both kinds, normal and with defects, are needed")
        return [_Chart(name, "", f"Undefined: {reason}.") for name in names]
    curve = image_curve(labels, scores)
    m = measured.metrics
    at = None
    miss, alarms = m.get("miss_rate"), m.get("false_alarm_rate")
    said = ""
    if miss is not None and alarms is not None:
        at = charts.AtThreshold(1 - miss, alarms, m.get("precision"))
        said = f"; at the threshold {_percent(1 - miss)} of defects found, {_percent(alarms)} false alarms"
    roc = f"{title}: ROC curve, area {_metric('image_auroc', m.get('image_auroc'))}{said}"
    precision = f"{title}: precision-recall curve, average precision {_metric('image_ap', m.get('image_ap'))}{said}"
    ring = "ring: the threshold" if at is not None else ""
    ring_precision = ring if at is not None and at.precision is not None else ""
    return [
        _Chart(names[0], charts.roc_chart(curve, at, key=f"{anchor}-roc", alt=roc), note=ring),
        _Chart(
            names[1], charts.precision_recall_chart(curve, at, key=f"{anchor}-pr", alt=precision), note=ring_precision
        ),
    ]


# Robustness


def _robustness(found: Robustness, anchor: str, title: str) -> _Robustness:
    """What corruptions change: a table with a row for each at each severity, and a chart of what is compared."""
    told = [found.clean, *found.corruptions]
    names = list(dict.fromkeys(name for one in told for name in one.metrics))
    rows = [_Changed("unchanged", "", tuple(_changed(name, found.clean, {}) for name in names))]
    rows += [
        _Changed(one.corruption, str(one.severity), tuple(_changed(name, one, one.changes) for name in names))
        for one in found.corruptions
    ]
    reasons: dict[str, dict[str, None]] = {}
    for one in told:
        for name, reason in one.reasons.items():
            reasons.setdefault(reason, {})[_heading(name)] = None
    return _Robustness(
        threshold="" if found.threshold is None else _exact(found.threshold),
        charts=(
            _severity_chart(found, _RANKING, "Ranking against severity", f"{anchor}-ranking", title),
            _severity_chart(found, _RATES, "Verdicts against severity", f"{anchor}-verdicts", title),
        ),
        headings=tuple(_heading(name) for name in names),
        rows=tuple(rows),
        reasons=tuple(f"{reason} ({', '.join(of)})" for reason, of in reasons.items()),
    )


def _changed(name: str, one: Figures, changes: Mapping[str, float | None]) -> _Cell:
    """A figure, and below it by how much it is another than that of the unchanged images."""
    if name not in one.metrics:
        return _Cell("")
    value, change = one.metrics[name], changes.get(name)
    if name == "good_shift":
        return _Cell("–" if value is None else f"{value:+.2f}")
    if change is None or not round(change, 4):
        return _Cell(_metric(name, value))
    sign = "+" if change > 0 else "\N{MINUS SIGN}"
    return _Cell(_metric(name, value), (f"{sign}{_metric(name, abs(change))}",))


_RANKING = ("image_auroc", "aupro_")
_RATES = ("false_alarm_rate", "miss_rate")


def _severity_chart(found: Robustness, starts: Sequence[str], name: str, key: str, title: str) -> _Chart:
    """The first figure that begins with each of `starts`, as far as it is defined anywhere, against severity."""
    firsts = [next((n for n in found.clean.metrics if n.startswith(start)), None) for start in starts]
    lines = [n for n in firsts if n is not None and any(one.metrics.get(n) is not None for one in found.corruptions)]
    if not lines:
        return _Chart(name, "", absent=f"Undefined: {', '.join(_heading(n) for n in firsts if n is not None)}.")
    courses = []
    for corruption in dict.fromkeys(one.corruption for one in found.corruptions):
        of = sorted((one for one in found.corruptions if one.corruption == corruption), key=lambda one: one.severity)
        values = tuple(tuple(one.metrics.get(line) for one in of) for line in lines)
        courses.append(charts.Course(corruption.replace("_", " "), tuple(one.severity for one in of), values))
    told = "; ".join(
        f"{course.title}: " + ", ".join(_metric(lines[0], value, digits=3) for value in course.values[0])
        for course in courses
    )
    alt = f"{title}: {_heading(lines[0])} with rising severity: {told}"
    clean = [found.clean.metrics.get(line) for line in lines]
    styles = ("dots", "dashed, squares")
    note = ", ".join(f"{_heading(line)}: {style}" for line, style in zip(lines, styles, strict=False))
    return _Chart(name, charts.severity_chart(courses, clean, key=key, alt=alt), note=note)


# Images


def _missed(row: Row) -> bool:
    return row.label == 1 and row.verdict is not None and row.verdict != "anomaly"


def _false_alarm(row: Row) -> bool:
    return row.label == 0 and row.verdict == "anomaly"


def _most_telling(rows: Sequence[Row]) -> list[Row]:
    """Images with a score: missed defects (the lowest score first), false alarms (the highest first), then the others
    by their distance to the threshold; without a threshold, the highest score first."""

    def order(row: Row) -> tuple[int, float, str]:
        score = row.score or 0.0
        if _missed(row):
            return 0, score, row.path
        if _false_alarm(row):
            return 1, -score, row.path
        return 2, -score if row.threshold is None else abs(score - row.threshold), row.path

    return sorted((row for row in rows if row.score is not None), key=order)


def _defect_figures(unit: Unit) -> list[str]:
    """The metrics that are known of any kind of defect, beside the images missed, which the rows tell."""
    by_defect = {} if unit.measured is None else unit.measured.by_defect
    names = dict.fromkeys(
        name for figures in by_defect.values() for name, value in figures.items() if value is not None
    )
    return [name for name in names if name not in (*_TOLD, "reasons")]


def _defect_reasons(unit: Unit) -> list[str]:
    """Each reason for an undefined figure of a kind of defect once, with the metrics and the kinds that it is for.

    Not of those at the threshold: the unit says beforehand why it has none.
    """
    by_defect = {} if unit.measured is None else unit.measured.by_defect
    found: dict[tuple[str, tuple[str, ...]], list[str]] = {}
    for kind, figures in by_defect.items():
        reasons = figures.get("reasons")
        names: dict[str, list[str]] = {}
        for name, reason in reasons.items() if isinstance(reasons, dict) else ():
            if name not in _TOLD:
                names.setdefault(reason, []).append(_heading(name))
        for reason, headings in names.items():
            found.setdefault((reason, tuple(headings)), []).append(kind)
    return [f"{', '.join(kinds)}: {reason} ({', '.join(names)})" for (reason, names), kinds in found.items()]


def _number(value: float | dict[str, str] | None) -> float | None:
    return None if isinstance(value, dict) else value


def _defects(unit: Unit, figures: Sequence[str]) -> list[_Defect]:
    rows = unit.rows
    by_defect = {} if unit.measured is None else unit.measured.by_defect
    kinds = sorted({row.defect for row in rows if row.label == 1 and row.score is not None})
    out = []
    for kind in kinds:
        members = [row for row in rows if row.label == 1 and row.defect == kind and row.score is not None]
        missed = sum(_missed(row) for row in members)
        judged = all(row.verdict is not None for row in members)
        lowest = min(members, key=lambda row: row.score or 0.0)
        out.append(
            _Defect(
                kind,
                len(members),
                str(len(members) - missed) if judged else "–",
                str(missed) if judged else "–",
                _score(lowest.score or 0.0, lowest.threshold),
                tuple(_metric(name, _number(by_defect.get(kind, {}).get(name))) for name in figures),
            )
        )
    return out


def _pictures(rows: Sequence[Row], shown: Sequence[Row], *, base: Path, most_bytes: int, task: Task) -> list[_Pictures]:
    groups = (
        ("Missed defects, the lowest score first", _missed),
        ("False alarms, the highest score first", _false_alarm),
        (_rest_title(rows), lambda row: not _missed(row) and not _false_alarm(row)),
    )
    out = []
    for title, belongs in groups:
        of = sum(row.score is not None and belongs(row) for row in rows)
        members = tuple(_picture(row, base, most_bytes, task) for row in shown if belongs(row))
        if of:
            out.append(_Pictures(title, members, of))
    return out


def _rest_title(rows: Sequence[Row]) -> str:
    if all(row.threshold is None for row in rows):
        return "All images, the highest score first"
    return "All others, the closest to the threshold first"


def _picture(row: Row, base: Path, most_bytes: int, task: Task) -> _Picture:
    truth = {0: "normal", 1: f"defect: {row.defect}"}.get(row.label, "unknown")
    score = _score(row.score or 0.0, row.threshold)
    verdict = "missed" if _missed(row) else "false alarm" if _false_alarm(row) else row.verdict or "no verdict"
    src = href = absent = ""
    if row.overlay is None:
        absent = "no overlay was drawn"
    else:
        try:
            src = thumbnail(row.overlay, most_bytes=most_bytes)
        except DataError as error:
            absent = f"the overlay is damaged: {str(error).removeprefix(f'{row.overlay}: ')}"
        href = _href(row.overlay, base)
        task.advance()
    alt = f"{row.path} with its anomaly map; {truth}; score {score}; {verdict}"
    return _Picture(row.path, truth, score, verdict, alt, src, href, absent)


def _href(file: Path, base: Path) -> str:
    """A link from a page in `base`: relative, so that the folder can be moved; absolute between Windows drives."""
    target, start = file.resolve(), base.resolve()
    if target.anchor != start.anchor:
        return target.as_uri()
    return quote(Path(os.path.relpath(target, start)).as_posix())


# Numbers as text


def _score(score: float, threshold: float | None) -> str:
    """A score with as many digits as it takes to lie on its side of the threshold; 9 tell any two float32 apart."""
    texts = [f"{score:.{digits}g}" for digits in range(5, 10)]
    if threshold is None:
        return texts[0]
    return next((text for text in texts if (float(text) >= threshold) == (score >= threshold)), texts[-1])


def _exact(threshold: float) -> str:
    return f"{threshold:.9g}"


def _short(value: float) -> str:
    return f"{value:.5g}"


def _percent(share: float) -> str:
    """Never rounded to 0 or to everything: one in 3000 missed is not none."""
    text = f"{100 * share:.1f}"
    if (text == "0.0" and share > 0) or (text == "100.0" and share < 1):
        digits = -math.floor(math.log10(100 * min(share, 1 - share)))
        text = f"{100 * share:.{digits}f}"
    return f"{text}\N{NO-BREAK SPACE}%"


def _moment(text: str) -> str:
    return text.replace("T", " ").replace("+00:00", " UTC")
