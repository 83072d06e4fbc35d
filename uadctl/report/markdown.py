"""A run as a page of Markdown, for the job pages of CI systems: what is wrong first, then every number.

GitHub's dialect, which GitLab and Azure Pipelines read as well: tables, and a few tags of HTML. Metrics have the names
that they have in `[gate]` and in metrics.json; their values are said as on the pages. Whatever a name or a message
contains is shown as text: characters that could mean something are written as character references, which no dialect
takes for anything but the character.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from uadctl.atomic import write_named
from uadctl.metrics import COUNTED, RATE_COUNTS
from uadctl.report.reading import Calibrated, Gate, Limit, Measured, Run, Unit
from uadctl.report.results import mean_rows, title_of
from uadctl.report.wording import change, figure, interval, is_share
from uadctl.runs.gate import Compared
from uadctl.spec import PROTOCOLS
from uadctl.spec.values import printable

MOST_BYTES = 1_000_000
"""GitHub takes 1,048,576 bytes a step; some are left for what else the step says."""

# So many characters of one name or message; the run folder has all of it.
_MOST_TEXT = 300
# Mentions, links, emphasis, formulas, tags, tables, headings and emoji begin with one of these. An underscore between
# letters and a colon before a space or a digit are nothing of the kind.
_SPECIAL = re.compile(r"[\\`*\[\]<>#|~&$@]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])|:(?=[^\s\d])|(?<=www)\.", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class _Section:
    """A heading, what stands above the first line, and lines, of which as many are shown as there is room for.

    has_all: the file that has those left out.
    """

    heading: str
    lines: tuple[str, ...]
    head: tuple[str, ...] = ()
    has_all: str = "metrics.json"


def write_markdown(path: str | Path, run: Run) -> Path:
    """Write `markdown(run)` to a file. Returns its path; its folders are made. RunError if it cannot be written."""
    file = Path(path)
    write_named(file, markdown(run).encode("utf-8"))
    return file


def markdown(run: Run, *, most_bytes: int = MOST_BYTES) -> str:
    """The run in Markdown; the same run gives the same text.

    most_bytes: of the text in UTF-8. Where it does not hold everything, each section shows its first lines and says how
        many more there are.
    """
    sections = [section for section in _sections(run) if section.lines]
    opening = _opening(run)
    room = (most_bytes - len(opening.encode())) // max(1, len(sections))
    return opening + "".join(_within(section, room) for section in sections)


def _sections(run: Run) -> tuple[_Section, ...]:
    return (
        _Section("What is wrong", tuple(_wrong(run)), has_all="gate.json"),
        _metrics(run),
        _Section("Undefined", tuple(_reasons(run.units))),
        *(_compared(run.gate), _pairs(run.gate)),
        _thresholds(run),
        _Section("The run", tuple(_facts(run)), has_all="run.json"),
    )


def _within(section: _Section, room: int) -> str:
    """A section in so many bytes, as far as its heading lets it."""
    text = f"\n### {section.heading}\n\n" + "".join(f"{line}\n" for line in section.head)
    left = room - len(text.encode()) - 100  # for the last line
    for i, line in enumerate(section.lines):
        left -= len(line.encode()) + 1
        if left < 0:
            return f"{text}\nand {len(section.lines) - i} more; `{section.has_all}` has them all\n"
        text += f"{line}\n"
    return text


def _opening(run: Run) -> str:
    failed = sum(unit.status == "failed" for unit in run.units)
    state = [run.facts.status]
    if failed:
        state.append(f"{failed} of {len(run.units)} units failed")
    if run.gate is not None:
        state.append(f"gate {'passed' if run.gate.passed else 'failed'}")
    lines = [f"## uadctl {run.facts.verb}: {_code(run.facts.name)}: {', '.join(state)}", ""]
    if run.facts.status in ("started", "interrupted"):
        done = sum(unit.status == "done" for unit in run.units)
        lines += [f"This run is not finished: {done} of the {len(run.units)} units begun are.", ""]
    if run.left_out:
        lines += [f"Shown are {run.categories - run.left_out} of the run's {run.categories} categories, no means.", ""]
    if run.gate is not None:
        lines += [f"{_gate_line(run.gate)}.", ""]
    lines.append("An image is called anomalous if and only if its score ≥ the threshold.")
    return "\n".join(lines) + "\n"


def _gate_line(gate: Gate) -> str:
    """ "Gate: 5 of 5 limits hold; 11 of 12 metrics no worse than baseline.json"."""
    said = []
    if gate.limits:
        said.append(f"{gate.limits - len(gate.broken)} of {gate.limits} limits hold")
    if gate.regressions:
        n = len(gate.regressions)
        than = "the baseline" if gate.baseline is None else _code(gate.baseline)
        said.append(f"{n - len(gate.worse)} of {n} metrics no worse than {than}")
    if gate.accepted:
        said.append("this run was made the baseline")
    return f"Gate: {'; '.join(said) or 'nothing was checked'}"


def _wrong(run: Run) -> Iterator[str]:
    for unit in run.units:
        if unit.status == "failed":
            error = (unit.measured.error if unit.measured is not None else None) or "it failed without a word"
            yield f"- {_code(title_of(unit, run))} failed: {plain(error.partition(chr(10))[0])}"
    if run.gate is not None:
        for limit in run.gate.broken:
            seed = f" / seed {limit.seed}" if limit.seed is not None and len(run.facts.seeds) > 1 else ""
            yield f"- {_code(_where(limit.category, limit.label) + seed)}: {plain(limit.reason)}"
        for one in () if run.gate.accepted else run.gate.worse:
            yield f"- {_code(one.where)}: {plain(one.reason or '')}"


# The metrics


def _metrics(run: Run) -> _Section:
    """A row for each unit, then what seeds and categories add up to."""
    names = _columns(run)
    rows = [[_code(title_of(unit, run)), *_cells(unit, names)] for unit in run.units]
    rows += [[plain(row.name), *(cell.text for cell in row.cells), "", ""] for row in mean_rows(run, names)]
    head, lines = _table(["unit", *names, "missed", "false alarms"], rows, text_columns=1)
    intervals = any(unit.measured is not None and any(unit.measured.intervals.values()) for unit in run.units)
    note = ("In brackets: 95 % bootstrap intervals over the test images.", "") if intervals else ()
    return _Section("Metrics", lines, head=(*note, *head))


def _columns(run: Run) -> list[str]:
    """What the protocol reports, then the rest; no counts, and no rates but those of parts."""
    found = dict.fromkeys(
        name
        for unit in run.units
        if unit.measured is not None
        for name in unit.measured.metrics
        if name not in COUNTED and name not in RATE_COUNTS
    )
    first = [name for name in PROTOCOLS[run.spec.metrics.protocol].metrics if name in found]
    return [*first, *(name for name in found if name not in first)]


def _cells(unit: Unit, names: Sequence[str]) -> list[str]:
    measured = unit.measured
    if measured is None or not measured.success:
        state = "failed" if unit.status == "failed" else "not finished" if unit.status != "done" else "not measured"
        return [state, *[""] * (len(names) + 1)]
    cells = [_with_interval(name, measured.metrics.get(name), measured.intervals.get(name)) for name in names]
    return [*cells, _share(measured, "fn", "defect_images"), _share(measured, "fp", "normal_images")]


def _with_interval(metric: str, value: float | None, ends: tuple[float, float] | None) -> str:
    if ends is None or not ends[0] < ends[1]:  # where all resamples agree they tell nothing
        return figure(metric, value)
    low, high = (figure(metric, end, digits=3) for end in ends)
    return f"{figure(metric, value)} [{low},\N{NO-BREAK SPACE}{high}]"


def _share(measured: Measured, part: str, of: str) -> str:
    count, images = measured.metrics.get(part), measured.counts.get(of)
    return "–" if count is None or images is None else f"{int(count)} of {images}"


def _reasons(units: Iterable[Unit]) -> Iterator[str]:
    """Each reason for an undefined metric once, with the metrics it is for."""
    found: dict[tuple[str, str, str], dict[str, None]] = {}
    for unit in units:
        for name, reason in unit.measured.reasons.items() if unit.measured is not None else ():
            found.setdefault((unit.folder.category, unit.folder.label, reason), {})[name] = None
    for (category, label, reason), names in found.items():
        yield f"- {_code(_where(category, label))}: {plain(reason)} ({', '.join(map(plain, names))})"


# Against a baseline, and models against each other


def _compared(gate: Gate | None) -> _Section:
    heading = "Against the baseline"
    if gate is None:
        return _Section(heading, ())
    # What broke first; sorted keeps the order of the others.
    regressions = sorted(gate.regressions, key=lambda one: one.reason is None)
    ranked = any(one.p_value is not None for one in regressions)
    head, lines = _table(
        [
            "",
            "metric",
            "baseline",
            "now",
            "difference",
            "95 % of resamples",
            "tolerance",
            *["p"][: int(ranked)],
            "verdict",
        ],
        [_comparison(one, ranked=ranked) for one in regressions],
        text_columns=2,
    )
    return _Section(heading, lines, head=head, has_all="gate.json")


def _comparison(one: Compared, *, ranked: bool) -> list[str]:
    between = "–" if one.interval is None else interval(one.metric, one.interval)
    return [
        _code(one.where),
        plain(one.metric),
        figure(one.metric, one.baseline),
        figure(one.metric, one.value),
        _signed(one.metric, one.difference),
        between,
        _tolerance(one.metric, one.tolerance),
        *[_p(one.p_value)][: int(ranked)],
        "no worse" if one.reason is None else "**worse**",
    ]


def _pairs(gate: Gate | None) -> _Section:
    """Every two models; why they cannot be told apart stands in the place of the probabilities."""
    heading = "Models compared"
    rows = [
        [
            _code(pair.label),
            _code(pair.other),
            plain(pair.metric),
            _signed(pair.metric, pair.difference),
            f"{pair.better} / {pair.worse} / {pair.equal}",
            *([_p(pair.p_value), _p(pair.adjusted)] if pair.reason is None else [plain(pair.reason), "–"]),
        ]
        for pair in (gate.models if gate is not None else ())
    ]
    headings = ["model", "against", "metric", "difference", "better / worse / equal", "p (Wilcoxon)", "p (Holm)"]
    head, lines = _table(headings, rows, text_columns=3)
    note = "Over the categories; a difference is the first model minus the second."
    return _Section(heading, lines, head=(note, "", *head), has_all="gate.json")


# Thresholds and facts


def _thresholds(run: Run) -> _Section:
    """That of each unit's verdicts, how it was chosen, and what it promises."""
    rows = []
    for unit in run.units:
        used = unit.measured_with if unit.measured is not None and unit.status == "done" else unit.calibrated
        if used is None and unit.calibrated is not None:
            rows.append([_code(title_of(unit, run)), "replaced since, and not among those kept", *[""] * 4])
        elif used is not None:
            since = unit.calibrated is not None and unit.calibrated.image.value != used.image.value
            rows.append([_code(title_of(unit, run)), *_threshold(used, replaced=since)])
    headings = ["unit", "threshold", "review from", "method", "normal images", "promise"]
    head, lines = _table(headings, rows, text_columns=len(headings))
    return _Section("Thresholds", lines, head=head, has_all="the unit's thresholds.json")


def _threshold(used: Calibrated, *, replaced: bool) -> list[str]:
    image, review = used.image, used.review
    if image.value is None:
        return [f"none: {plain(image.reason or 'without a reason')}", *[""] * 4]
    return [
        repr(image.value) + (" (replaced since)" if replaced else ""),
        "–" if review is None or review.value is None else repr(review.value),
        _method(image),
        f"{image.n}" + (f" ({plain(image.source)})" if image.source else ""),
        plain(image.guarantee) if image.guarantee else "–",
    ]


def _method(limit: Limit) -> str:
    said = [plain(limit.method)]
    said += [
        f"{name} {value:g}" for name, value in (("alpha", limit.alpha), ("delta", limit.delta)) if value is not None
    ]
    return ", ".join(said)


def _facts(run: Run) -> Iterator[str]:
    facts, spec = run.facts, run.spec
    yield f"- run folder: {_code(run.folder.path.resolve().name)}"
    yield f"- spec hash: {_code(facts.hash)}"
    seeds = facts.seeds or (facts.seed,)
    yield f"- {'seed' if len(seeds) == 1 else 'seeds'}: {', '.join(map(str, seeds))}"
    yield f"- data set: {_code(spec.dataset.name)}"
    for model in spec.models:
        yield f"- model: {_code(model.name)}" + (f" as {_code(model.label)}" if model.label != model.name else "")
    yield f"- started: {plain(facts.started)}" + (f", finished: {plain(facts.finished)}" if facts.finished else "")
    versions = [f"{name} {number}" for name, number in facts.versions.items() if number]
    if versions:
        yield f"- versions: {plain(', '.join(versions))}"
    machine = [str(facts.machine[k]) for k in ("processor", "architecture", "system") if facts.machine.get(k)]
    if machine:
        yield f"- machine: {plain(', '.join(machine))}"
    if facts.git:
        yield f"- git commit: {_code(str(facts.git.get('commit')))}{_changed(facts.git)}"
    for kind, texts in (("note", facts.notes), ("warning", facts.warnings)):
        for text in texts:
            yield f"- {kind}: {plain(text)}"


def _changed(git: dict[str, Any]) -> str:
    return ", with changes that are not committed" if git.get("changed") else ""


# Words


def _where(category: str | None, label: str) -> str:
    return f"{category or 'mean'} / {label}"


def _signed(metric: str, value: float | None) -> str:
    return "–" if value is None else change(metric, value)


def _tolerance(metric: str, value: float) -> str:
    """In the unit of the difference that it is for."""
    return f"{100 * value:g} points" if is_share(metric) else f"{value:g}"


def _p(value: float | None) -> str:
    return "–" if value is None else f"{value:.2g}"


def _table(
    headings: Sequence[str], rows: Sequence[Sequence[str]], *, text_columns: int
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The two lines that make a table, and its rows. The columns after the first `text_columns` are set right."""
    ruler = ["---" if i < text_columns else "---:" for i in range(len(headings))]
    return (_line(headings), _line(ruler)), tuple(_line(row) for row in rows)


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _code(text: str) -> str:
    """A name. A tag, as backticks cannot hold every name inside of a table."""
    return f"<code>{plain(text)}</code>"


def plain(text: str, *, most: int = _MOST_TEXT) -> str:
    """Text that means nothing but itself, on one line; what could move a cursor is escaped, what is long is cut.

    most: so many characters of it are kept.
    """
    short = text if len(text) <= most else text[: most - 1] + "…"
    return _SPECIAL.sub(lambda found: f"&#{ord(found[0])};", printable(short))
