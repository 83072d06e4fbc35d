"""A unit of a run as a section of the page: what it found and missed, its curves, its facts, its images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from uadctl.metrics.curves import image_curve
from uadctl.progress import Task
from uadctl.records import Sample
from uadctl.report import charts, verdicts, wording
from uadctl.report.charts import Chart
from uadctl.report.corruptions import Stressed, stressed
from uadctl.report.gallery import Gallery, gallery
from uadctl.report.reading import Calibrated, Measured, Row, Run, Unit
from uadctl.report.results import title_of

# What the rows of a unit tell of a kind of defect.
_TOLD = ("images", "missed", "miss_rate")


@dataclass(frozen=True, slots=True)
class Fact:
    name: str
    value: str


@dataclass(frozen=True, slots=True)
class Defect:
    """What became of the images of one kind of defect."""

    kind: str
    images: int
    found: str
    missed: str
    lowest: str
    figures: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Section:
    """anchor: its id in the page. error, traceback: of a unit that failed. state: of one that is not finished.

    counts: what the threshold let through, in sentences. origins: where the thresholds come from. since: that they have
    been replaced.
    """

    title: str
    anchor: str
    error: str
    traceback: str
    state: str
    counts: tuple[str, ...]
    origins: tuple[str, ...]
    since: str
    facts: tuple[Fact, ...]
    charts: tuple[Chart, ...]
    defects: tuple[Defect, ...]
    defect_headings: tuple[str, ...]
    defect_reasons: tuple[str, ...]
    robustness: Stressed | None
    gallery: Gallery | None
    broken: tuple[Row, ...]


def section(
    unit: Unit,
    anchor: str,
    run: Run,
    common: Mapping[str, Mapping[str, str]],
    samples: Mapping[str, Sample],
    *,
    most: int,
    base: Path,
    most_bytes: int,
    task: Task,
) -> Section:
    """common: by label, what is said of the model once for the run. The others as for `gallery`."""
    folder = unit.folder
    title = title_of(unit, run)
    error = traceback = state = since = ""
    if unit.status == "failed":
        error = (unit.measured.error if unit.measured is not None else None) or "it failed without a word"
        file = folder.path / "error.txt"
        traceback = wording.href(file, base) if file.is_file() else ""
    elif unit.status != "done":
        state = "This unit was begun and is not finished; it has no results."
    limit = verdicts.limit_of(unit)
    origins: list[str] = []
    if unit.calibrated is not None:
        judged = unit.calibrated if unit.measured is None else unit.measured_with
        origins = [verdicts.without_origin(limit)] if judged is None else _origins(judged)
        if judged is not unit.calibrated:
            since = verdicts.since(unit, unit.calibrated)
    counts: list[str] = []
    if unit.measured is not None and unit.measured.success:
        counts = [*verdicts.at_threshold(unit.measured), *filter(None, [verdicts.in_review(unit)])]
    figures = _defect_figures(unit)
    return Section(
        title=title,
        anchor=anchor,
        error=error,
        traceback=traceback,
        state=state,
        counts=tuple(counts),
        origins=tuple(origins),
        since=since,
        facts=tuple(_unit_facts(unit, run, common.get(folder.label, {}))),
        charts=tuple(_charts(unit, limit, anchor, title)),
        defects=tuple(_defects(unit, figures)),
        defect_headings=tuple(wording.heading(name) for name in figures),
        defect_reasons=tuple(_defect_reasons(unit)),
        robustness=None if unit.robustness is None else stressed(unit.robustness, anchor, title),
        gallery=gallery(unit, anchor, samples, most=most, base=base, most_bytes=most_bytes, task=task),
        broken=tuple(row for row in unit.rows if row.score is None),
    )


def _origins(calibrated: Calibrated) -> list[str]:
    """Where the thresholds come from, and what they are expected to let through."""
    said = [
        verdicts.origin(calibrated.image),
        verdicts.review_of(calibrated),
        verdicts.expected_of(calibrated),
        *verdicts.pixel_of(calibrated),
    ]
    return [text for text in said if text]


def _charts(unit: Unit, limit: float | None, anchor: str, title: str) -> list[Chart]:
    known = [row for row in unit.rows if row.score is not None and row.label >= 0]
    labels = np.array([row.label for row in known], dtype=np.int64)
    scores = np.array([row.score for row in known], dtype=np.float64)
    out: list[Chart] = []
    if unit.measured is not None and unit.measured.success:
        out += _curves(unit.measured, labels, scores, anchor, title)
    calibrated = unit.measured_with or unit.calibrated
    calibration = np.array(calibrated.scores if calibrated is not None else (), dtype=np.float64)
    review = None if calibrated is None or calibrated.image.value != limit else calibrated.review_value
    groups = {"defect": scores[labels == 1], "normal": scores[labels == 0], "calibration": calibration}
    groups = {name: values[np.isfinite(values)] for name, values in groups.items()}
    if any(values.size for values in groups.values()):
        spread = "; ".join(
            f"{values.size} {name} images from {_short(values.min())} to {_short(values.max())}"
            for name, values in groups.items()
            if values.size
        )
        line = "" if limit is None else f"; threshold {wording.exact(limit)}"
        line += "" if review is None else f"; review threshold {wording.exact(review)}"
        alt = f"{title}: image scores: {spread}{line}"
        out.append(Chart("Scores", charts.score_chart(groups, limit, review=review, key=f"{anchor}-scores", alt=alt)))
    return out


def _curves(
    measured: Measured, labels: np.ndarray[Any, Any], scores: np.ndarray[Any, Any], anchor: str, title: str
) -> list[Chart]:
    names = ("ROC curve", "Precision-recall curve")
    if not (np.any(labels == 1) and np.any(labels == 0)):
        reason = measured.reasons.get("image_auroc", "images of both kinds, normal and with defects, are needed")
        return [Chart(name, "", f"Undefined: {reason}.") for name in names]
    curve = image_curve(labels, scores)
    m = measured.metrics
    at = None
    miss, alarms = m.get("miss_rate"), m.get("false_alarm_rate")
    said = ""
    if miss is not None and alarms is not None:
        at = charts.AtThreshold(1 - miss, alarms, m.get("precision"))
        said = (
            f"; at the threshold {wording.percent(1 - miss)} of defects found, {wording.percent(alarms)} false alarms"
        )
    roc = f"{title}: ROC curve, area {wording.figure('image_auroc', m.get('image_auroc'))}{said}"
    precision = (
        f"{title}: precision-recall curve, average precision {wording.figure('image_ap', m.get('image_ap'))}{said}"
    )
    ring = "ring: the threshold" if at is not None else ""
    ring_precision = ring if at is not None and at.precision is not None else ""
    return [
        Chart(names[0], charts.roc_chart(curve, at, key=f"{anchor}-roc", alt=roc), note=ring),
        Chart(
            names[1], charts.precision_recall_chart(curve, at, key=f"{anchor}-pr", alt=precision), note=ring_precision
        ),
    ]


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
                names.setdefault(reason, []).append(wording.heading(name))
        for reason, headings in names.items():
            found.setdefault((reason, tuple(headings)), []).append(kind)
    return [f"{', '.join(kinds)}: {reason} ({', '.join(names)})" for (reason, names), kinds in found.items()]


def _number(value: float | dict[str, str] | None) -> float | None:
    return None if isinstance(value, dict) else value


def _defects(unit: Unit, figures: Sequence[str]) -> list[Defect]:
    rows = unit.rows
    by_defect = {} if unit.measured is None else unit.measured.by_defect
    kinds = sorted({row.defect for row in rows if row.label == 1 and row.score is not None})
    out = []
    for kind in kinds:
        members = [row for row in rows if row.label == 1 and row.defect == kind and row.score is not None]
        missed = sum(row.missed for row in members)
        judged = all(row.verdict is not None for row in members)
        lowest = min(members, key=lambda row: row.score or 0.0)
        out.append(
            Defect(
                kind,
                len(members),
                str(len(members) - missed) if judged else "–",
                str(missed) if judged else "–",
                wording.score(lowest.score or 0.0, lowest.threshold),
                tuple(wording.figure(name, _number(by_defect.get(kind, {}).get(name))) for name in figures),
            )
        )
    return out


def _unit_facts(unit: Unit, run: Run, common: Mapping[str, str]) -> list[Fact]:
    facts = []
    counts = unit.measured.counts if unit.measured is not None else {}
    if counts:
        images = f"{counts.get('normal_images', 0)} normal, {counts.get('defect_images', 0)} with defects"
        facts.append(Fact("test images", images))
        facts.append(Fact("training images", str(counts.get("train_images", "–"))))
        if regions := counts.get("regions"):
            facts.append(Fact("defect regions", str(regions)))
        if unit.measured is not None and unit.measured.pixel_threshold is not None:
            facts.append(Fact("pixel threshold", wording.exact(unit.measured.pixel_threshold)))
        for name, title in (
            ("broken_images", "broken files left out"),
            ("defect_images_without_mask", "defect images without mask"),
        ):
            if counts.get(name):
                facts.append(Fact(title, str(counts[name])))
    of_label = run.facts.models.get(unit.folder.label, {})
    own = dict(flat(of_label.get(unit.folder.category, {})))
    facts += [Fact(name, value) for name, value in own.items() if name not in common and value]
    if unit.costs is not None:
        c = unit.costs
        if c.fit_seconds is not None:
            facts.append(Fact("fit", f"{c.fit_seconds:.1f} s"))
        if c.ms_per_image_p50 is not None and c.ms_per_image_p95 is not None:
            facts.append(Fact("an image", f"{c.ms_per_image_p50:.0f} ms (median), {c.ms_per_image_p95:.0f} ms (95 %)"))
        if c.model_bytes is not None:
            facts.append(Fact("model", f"{c.model_bytes / 1e6:.1f} MB"))
    return facts


def flat(facts: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Nested facts as names and texts: {"weights": {"file": "x"}} gives ("weights file", "x")."""
    out: list[tuple[str, str]] = []
    for key, value in facts.items():
        name = f"{prefix}{key}".replace("_", " ")
        if isinstance(value, Mapping):
            out += flat(value, f"{name} ")
        elif isinstance(value, list):
            out.append((name, ", ".join(str(v) for v in value)))
        elif value is not None:
            out.append((name, str(value)))
    return out


def common_of(dictionaries: Sequence[Mapping[str, str]]) -> dict[str, str]:
    """What all of them say alike, in the order of the first."""
    if not dictionaries:
        return {}
    return {k: v for k, v in dictionaries[0].items() if all(d.get(k) == v for d in dictionaries)}


def _short(value: float) -> str:
    return f"{value:.5g}"
