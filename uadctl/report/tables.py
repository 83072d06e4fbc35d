"""Every figure of one or several runs in long form, for a spreadsheet or a data frame."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from pathlib import Path

from uadctl.atomic import write_named
from uadctl.report.reading import Run, Unit

COLUMNS = ("run", "category", "label", "seed", "metric", "value", "low", "high", "reason")

_Cells = tuple[str, str, str, int, str, float | None, float | None, float | None, str | None]


def write_table(path: str | Path, runs: Sequence[Run]) -> Path:
    """Write the metrics of every unit as CSV (RFC 4180, UTF-8): a line a metric, in the order of the runs.

    run: the name of the run folder, or its path as given where two have the same name. value: a number with all its
    digits, empty where it is undefined; reason: why. low, high: its 95 % bootstrap interval, empty without one.
    A unit that failed, or is not finished, has one line without a metric, and its reason; so has one that was only
    fitted. A text that a spreadsheet would take for a formula has an apostrophe before it, as they write such texts
    themselves: names and messages may be anybody's.

    Returns the path. Raises RunError if it cannot be written.
    """
    text = io.StringIO()
    writer = csv.writer(text)  # CRLF, quotes where they are needed
    writer.writerow(COLUMNS)
    names = [run.folder.path.resolve().name for run in runs]
    for run, name in zip(runs, names, strict=True):
        said = name if names.count(name) == 1 else str(run.folder.path)
        for unit in run.units:
            writer.writerows([[_cell(cell) for cell in row] for row in _rows(said, unit)])
    file = Path(path)
    write_named(file, text.getvalue().encode("utf-8", "backslashreplace"))
    return file


def _cell(cell: str | float | None) -> str | float:
    """Numbers as they are; of texts, https://owasp.org/www-community/attacks/CSV_Injection lists what begins one."""
    if isinstance(cell, str) and cell.startswith(("=", "+", "-", "@", "\t", "\r")):
        return f"'{cell}"
    return "" if cell is None else cell


def _rows(run: str, unit: Unit) -> Iterator[_Cells]:
    folder, measured = unit.folder, unit.measured
    place = (run, folder.category, folder.label, folder.seed)
    if unit.status == "failed":
        yield *place, "", None, None, None, f"failed: {(measured.error if measured else None) or 'without a word'}"
    elif unit.status != "done":
        yield *place, "", None, None, None, "not finished"
    elif measured is None or not measured.success:
        yield *place, "", None, None, None, "not measured"
    else:
        for name, value in measured.metrics.items():
            low, high = measured.intervals.get(name) or (None, None)
            yield *place, name, value, low, high, measured.reasons.get(name)
