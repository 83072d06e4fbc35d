"""The gallery of a unit: its images in layers, and what the script of the page sorts, filters and recounts them by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from uadctl.progress import Task
from uadctl.records import Sample
from uadctl.report import pictures, verdicts, wording
from uadctl.report.pictures import Layers
from uadctl.report.reading import Row, Unit


@dataclass(frozen=True, slots=True)
class Shot:
    """One image of a gallery. outcome: "missed", "false alarm", "review", "good", "anomaly" or "no verdict".

    index: its place among the unit's images in `data`.
    """

    index: int
    name: str
    truth: str
    score: str
    outcome: str
    alt: str
    layers: Layers


@dataclass(frozen=True, slots=True)
class Legend:
    """What the colours of the heat maps mean: the scores of the first and the last, and where the threshold of maps
    lies between them, 0 to 1."""

    low: str
    high: str
    threshold: str
    at: float
    colours: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Gallery:
    """A unit's images, the most telling first.

    order: in words. shots: those shown. left_out: how many more have a score. unlayered: how many are shown only as the
    run drew them. fixed: why no other threshold can be tried, "" where it can. data: for the script, of every image
    with a score.
    """

    order: str
    shots: tuple[Shot, ...]
    left_out: str
    unlayered: int
    legend: Legend | None
    fixed: str
    data: Mapping[str, Any]


def most_telling(rows: Sequence[Row]) -> list[Row]:
    """Images with a score: missed defects (the lowest score first), false alarms (the highest first), then the others
    by their distance to the threshold; without a threshold, the highest score first."""

    def order(row: Row) -> tuple[int, float, str]:
        score = row.score or 0.0
        if row.missed:
            return 0, score, row.path
        if row.false_alarm:
            return 1, -score, row.path
        return 2, verdicts.distance(row), row.path

    return sorted((row for row in rows if row.score is not None), key=order)


def gallery(
    unit: Unit,
    anchor: str,
    samples: Mapping[str, Sample],
    *,
    most: int,
    base: Path,
    most_bytes: int,
    task: Task,
) -> Gallery | None:
    """None of a unit without scored images.

    samples: the test images by name, as far as the data set is still there. most: how many are shown. base: the folder
    of the page. most_bytes: of each picture.
    """
    rows = most_telling(unit.rows)
    if not rows:
        return None
    shots = []
    for index, row in enumerate(rows[:most]):
        found = pictures.layers(unit, row, samples.get(row.path), base=base, most_bytes=most_bytes)
        shots.append(_shot(index, row, found))
        task.advance()
    layered = any(shot.layers.heat for shot in shots)
    return Gallery(
        _order(rows),
        tuple(shots),
        _left_out(rows[most:]),
        sum(bool(shot.layers.image) and not shot.layers.whole for shot in shots),
        _legend(unit) if layered else None,
        _fixed(unit),
        _data(unit, anchor, rows),
    )


def _order(rows: Sequence[Row]) -> str:
    """In what order they stand, and how many there are of each kind."""
    if all(row.threshold is None for row in rows):
        return f"All images, the highest score first ({len(rows)})."
    missed, alarms = sum(row.missed for row in rows), sum(row.false_alarm for row in rows)
    kinds = (
        ("missed defects, the lowest score first", missed),
        ("false alarms, the highest score first", alarms),
        ("all others, the closest to the threshold first", len(rows) - missed - alarms),
    )
    said = "; ".join(f"{text} ({n})" for text, n in kinds if n)
    return f"{said[:1].upper()}{said[1:]}."


def _left_out(rows: Sequence[Row]) -> str:
    if not rows:
        return ""
    missed, alarms = sum(row.missed for row in rows), sum(row.false_alarm for row in rows)
    alarmed = f"{alarms} false alarm" if alarms == 1 else f"{alarms} false alarms"
    named = " and ".join(text for n, text in ((missed, f"{missed} missed"), (alarms, alarmed)) if n)
    more = "1 more image is" if len(rows) == 1 else f"{len(rows)} more images are"
    return f"{more} left out of this page (--max-overlays){f', among them {named}' if named else ''}."


def _shot(index: int, row: Row, found: Layers) -> Shot:
    truth = {0: "normal", 1: f"defect: {row.defect}"}.get(row.label, "unknown")
    score = wording.score(row.score or 0.0, row.threshold)
    outcome = "missed" if row.missed else "false alarm" if row.false_alarm else row.verdict or "no verdict"
    if row.missed and row.verdict == "review":
        outcome = "missed, for review"
    alt = f"{row.path} with its anomaly map; {truth}; score {score}; {outcome}"
    return Shot(index, row.path, truth, score, outcome, alt, found)


def _legend(unit: Unit) -> Legend | None:
    scale = pictures.scale_of(unit)
    if scale is None:
        return None
    low, high = pictures.colour_range(scale)
    at = min(max((scale.threshold - low) / (high - low), 0.0), 1.0) if high > low else 0.5
    return Legend(f"{low:.4g}", f"{high:.4g}", f"{scale.threshold:.4g}", at, tuple(pictures.palette()))


def _fixed(unit: Unit) -> str:
    """Why no other threshold can be tried: a slider needs to know where it starts."""
    if unit.measured_with is not None or all(row.verdict != "review" for row in unit.rows):
        return ""
    return (
        "No other threshold can be tried here: the review threshold that these verdicts were made with was replaced, "
        "and is not among those kept."
    )


def _data(unit: Unit, anchor: str, rows: Sequence[Row]) -> dict[str, Any]:
    """Names, labels, kinds of defect, scores and verdicts, and the thresholds they were judged with.

    Scores and thresholds are Python's shortest texts of the float64 that is stored, so that the script compares the
    same numbers.
    """
    review = None if unit.measured_with is None else unit.measured_with.review_value
    return {
        "unit": anchor,
        "threshold": verdicts.limit_of(unit),
        "review": review,
        "fixed": bool(_fixed(unit)),
        "names": [row.path for row in rows],
        "labels": [row.label for row in rows],
        "defects": [row.defect for row in rows],
        "scores": [row.score for row in rows],
        "verdicts": [row.verdict for row in rows],
    }
