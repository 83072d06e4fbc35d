"""The table of results: a row for each unit and each mean, a column for each metric."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from uadctl.metrics import COUNTED, RATE_COUNTS
from uadctl.report import wording
from uadctl.report.reading import Measured, Run, Unit
from uadctl.spec import ProtocolEntry

# Each rate's count of images, beside the rate itself.
PARTS = {"miss_rate": "fn", "false_alarm_rate": "fp", "precision": "tp"}


@dataclass(frozen=True, slots=True)
class Cell:
    text: str
    notes: tuple[str, ...] = ()  # smaller, below: the images that a rate rests on, the interval


@dataclass(frozen=True, slots=True)
class TableRow:
    name: str
    anchor: str
    cells: tuple[Cell, ...]
    state: str = ""  # in place of the cells


def several(run: Run) -> bool:
    """Whether categories are not told apart from each other alone."""
    return len(run.facts.models) > 1 or sum(map(len, run.families.values())) > 1


def title_of(unit: Unit, run: Run) -> str:
    """What a unit is called where the run's other units are."""
    folder = unit.folder
    title = f"{folder.category} · {folder.label}" if several(run) else folder.category
    seeds = len(run.facts.seeds) > 1
    return f"{title} · seed {folder.seed}" if seeds else title


def columns(cells: Iterable[Measured | None], protocol: ProtocolEntry) -> list[str]:
    """What the protocol reports, then what the threshold lets through, then all the rest."""
    names = dict.fromkeys(name for cell in cells if cell is not None for name in cell.metrics if name not in COUNTED)
    first = [name for name in (*protocol.metrics, *PARTS) if name in names]
    return [*first, *(name for name in names if name not in first)]


def table_row(unit: Unit, title: str, anchor: str, names: Sequence[str]) -> TableRow:
    """A unit's figures, or why it has none; `names` from `columns`."""
    if unit.measured is None or not unit.measured.success:
        state = "failed" if unit.status == "failed" else "not finished" if unit.status != "done" else "not measured"
        return TableRow(title, anchor, (), state)
    m, counts = unit.measured.metrics, unit.measured.counts
    cells = []
    for name in names:
        part, n = m.get(PARTS.get(name, "")), counts.get(RATE_COUNTS.get(name, ""))
        notes = [f"{int(part)} of {n}"] if part is not None and n and m.get(name) is not None else []
        interval = unit.measured.intervals.get(name)
        if interval and interval[0] < interval[1]:  # where all resamples agree they tell nothing
            notes.append("\N{EN DASH}".join(wording.figure(name, end, digits=3) for end in interval))
        cells.append(Cell(wording.figure(name, m.get(name)), tuple(notes)))
    return TableRow(title, anchor, tuple(cells))


def mean_rows(run: Run, names: Sequence[str]) -> list[TableRow]:
    """What seeds and categories add up to: a row for each category and label with several seeds, then the means."""

    def row(title: str, means: Mapping[str, float | None], sds: Mapping[str, float | None]) -> TableRow:
        return TableRow(title, "", tuple(Cell(_spread(name, means.get(name), sds.get(name))) for name in names))

    apart = several(run)
    rows = [
        row(f"{category} · {label}, all seeds" if apart else f"{category}, all seeds", of.means, of.sds)
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
    text = wording.figure(name, mean)
    return text if sd is None else f"{text} ± {wording.figure(name, sd)}"


def reasons(units: Sequence[Unit]) -> list[str]:
    """Each reason for an undefined metric once, with the metrics it is for."""
    found: dict[str, dict[str, None]] = {}
    for unit in units:
        if unit.measured is not None:
            for name, reason in unit.measured.reasons.items():
                said = f"{unit.folder.category} · {unit.folder.label}: {reason}"
                found.setdefault(said, {})[wording.heading(name)] = None  # seeds say the same
    return [f"{reason} ({', '.join(names)})" for reason, names in found.items()]
