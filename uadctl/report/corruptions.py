"""What a unit's robustness.json says: figures and charts of what changes with the camera."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from uadctl.report import wording
from uadctl.report.charts import Chart, Course, severity_chart
from uadctl.report.reading import Figures, Robustness
from uadctl.report.results import Cell


@dataclass(frozen=True, slots=True)
class Changed:
    corruption: str
    severity: str
    cells: tuple[Cell, ...]


@dataclass(frozen=True, slots=True)
class Stressed:
    threshold: str
    charts: tuple[Chart, ...]
    headings: tuple[str, ...]
    rows: tuple[Changed, ...]
    reasons: tuple[str, ...]


def stressed(found: Robustness, anchor: str, title: str) -> Stressed:
    """What corruptions change: a table with a row for each at each severity, and a chart of what is compared."""
    told = [found.clean, *found.corruptions]
    names = list(dict.fromkeys(name for one in told for name in one.metrics))
    rows = [Changed("unchanged", "", tuple(_changed(name, found.clean, {}) for name in names))]
    rows += [
        Changed(one.corruption, str(one.severity), tuple(_changed(name, one, one.changes) for name in names))
        for one in found.corruptions
    ]
    reasons: dict[str, dict[str, None]] = {}
    for one in told:
        for name, reason in one.reasons.items():
            reasons.setdefault(reason, {})[wording.heading(name)] = None
    return Stressed(
        threshold="" if found.threshold is None else wording.exact(found.threshold),
        charts=(
            _severity_chart(found, _RANKING, "Ranking against severity", f"{anchor}-ranking", title),
            _severity_chart(found, _RATES, "Verdicts against severity", f"{anchor}-verdicts", title),
        ),
        headings=tuple(wording.heading(name) for name in names),
        rows=tuple(rows),
        reasons=tuple(f"{reason} ({', '.join(of)})" for reason, of in reasons.items()),
    )


def _changed(name: str, one: Figures, changes: Mapping[str, float | None]) -> Cell:
    """A figure, and below it by how much it is another than that of the unchanged images."""
    if name not in one.metrics:
        return Cell("")
    value, change = one.metrics[name], changes.get(name)
    if name == "good_shift":
        return Cell("–" if value is None else f"{value:+.2f}")
    if change is None or not round(change, 4):
        return Cell(wording.figure(name, value))
    sign = "+" if change > 0 else "\N{MINUS SIGN}"
    return Cell(wording.figure(name, value), (f"{sign}{wording.figure(name, abs(change))}",))


_RANKING = ("image_auroc", "aupro_")
_RATES = ("false_alarm_rate", "miss_rate")


def _severity_chart(found: Robustness, starts: Sequence[str], name: str, key: str, title: str) -> Chart:
    """The first figure that begins with each of `starts`, as far as it is defined anywhere, against severity."""
    firsts = [next((n for n in found.clean.metrics if n.startswith(start)), None) for start in starts]
    lines = [n for n in firsts if n is not None and any(one.metrics.get(n) is not None for one in found.corruptions)]
    if not lines:
        return Chart(name, "", absent=f"Undefined: {', '.join(wording.heading(n) for n in firsts if n is not None)}.")
    courses = []
    for corruption in dict.fromkeys(one.corruption for one in found.corruptions):
        of = sorted((one for one in found.corruptions if one.corruption == corruption), key=lambda one: one.severity)
        values = tuple(tuple(one.metrics.get(line) for one in of) for line in lines)
        courses.append(Course(corruption.replace("_", " "), tuple(one.severity for one in of), values))
    told = "; ".join(
        f"{course.title}: " + ", ".join(wording.figure(lines[0], value, digits=3) for value in course.values[0])
        for course in courses
    )
    alt = f"{title}: {wording.heading(lines[0])} with rising severity: {told}"
    clean = [found.clean.metrics.get(line) for line in lines]
    styles = ("dots", "dashed, squares")
    note = ", ".join(f"{wording.heading(line)}: {style}" for line, style in zip(lines, styles, strict=False))
    return Chart(name, severity_chart(courses, clean, key=key, alt=alt), note=note)
