"""Several runs side by side: one page for a browser, one text for a code host. Both say the same.

The page stands alone: no network, and it reads without its script, which shows pictures large. The first run is the
reference.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from uadctl.progress import Progress, Silent, Task
from uadctl.records import Sample
from uadctl.report.html import page_environment, refuse_foreign, write_page
from uadctl.report.markdown import plain
from uadctl.report.pairing import KINDS, Against, Block, Change, Comparison, Kind, Matched, Member, compare, read_runs
from uadctl.report.pictures import Layers, layers, originals, palette
from uadctl.report.reading import Row, Run, Unit
from uadctl.report.wording import change, exact, figure, heading, href, interval, moment, score

MAX_IMAGES = 200

# All pictures together before base64, which makes it 7 MB; with contours and text a page of 200 images in both runs
# stays below 10 MB, which can still be mailed.
_PICTURE_BYTES = 5_000_000
# A text of ours may name every category of a run.
_MOST_NOTICE = 5000
# So many images of a kind are named in the text form.
_NAMED = 50
_TITLES: dict[Kind, str] = {
    "newly missed": "Newly missed defects",
    "newly found": "Newly found defects",
    "new false alarm": "New false alarms",
    "false alarm no longer": "False alarms no longer",
    "other": "Other changes",
}


@dataclass(frozen=True, slots=True)
class _RunRow:
    letter: str
    name: str
    folder: str
    href: str  # its own page, where there is one
    hash: str
    status: str
    models: str
    seeds: str
    started: str


@dataclass(frozen=True, slots=True)
class _Cell:
    text: str
    notes: tuple[str, ...] = ()
    mark: str = ""  # "better" or "worse" where the interval says so


@dataclass(frozen=True, slots=True)
class _Line:
    name: str
    cells: tuple[_Cell, ...]


@dataclass(frozen=True, slots=True)
class _BlockRows:
    title: str
    note: str
    lines: tuple[_Line, ...]
    states: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Table:
    title: str
    blocks: tuple[_BlockRows, ...]


@dataclass(frozen=True, slots=True)
class _Counted:
    name: str
    letter: str
    both: int
    of_kinds: tuple[int, ...]
    alone: str


@dataclass(frozen=True, slots=True)
class _Side:
    """A run's picture of an image, and what it said of it. outcome: as the gallery of a run has it."""

    letter: str
    verdict: str
    outcome: str
    truth: str
    score: str
    threshold: str
    alt: str
    layers: Layers


@dataclass(frozen=True, slots=True)
class _Changed:
    path: str
    unit: str
    truth: str
    sides: tuple[_Side, ...]


@dataclass(frozen=True, slots=True)
class _Group:
    title: str
    members: tuple[_Changed, ...]
    of: int


def compare_runs(
    runs: Sequence[str | Path],
    *,
    out: str | Path | None = None,
    categories: Sequence[str] | None = None,
    max_images: int = MAX_IMAGES,
    progress: Progress | None = None,
) -> Path:
    """Write the page that holds runs against the first of them: comparison.html in `out`, or in the last one's report/.

    The run folders are read, and of their data sets, where they still are where the specs say, the images that are
    shown and their masks; no model is loaded, no image scored. The same runs and data give the same bytes.

    runs: two run folders or more. out: a folder, made if need be. categories: names or globs; None shows all.
    max_images: so many images whose verdict changed are shown, by kind: newly missed defects first. How many are left
        out is said.

    Returns the path of the page. Raises RunError if there are not two runs, if one is named twice, is none or is
    damaged, if none has a category, or if something else than a report stands where the page would go; ValueError for a
    negative `max_images`.
    """
    if max_images < 0:
        raise ValueError(f"max_images is {max_images}; expected 0 or more")
    found = read_runs(runs, categories=categories)
    file = Path(out if out is not None else found[-1].folder.path / "report") / "comparison.html"
    refuse_foreign(file)
    with found[-1].folder.locked_for(file):
        compared = compare(found)
        shown = compared.changes[:max_images]
        pictures = 2 * len(shown)
        gallery = _Pictures(_samples(compared, shown), file.parent, _PICTURE_BYTES // max(1, pictures))
        with (progress or Silent()).task("comparison", pictures) as task:
            groups = _groups(compared, shown, gallery, task)
        text = _render(compared, groups, base=file.parent, left_out=len(compared.changes) - len(shown))
        write_page(file, text)
    return file


def _render(compared: Comparison, groups: Sequence[_Group], *, base: Path, left_out: int) -> str:
    lines = [line for block in compared.blocks for line in block.lines]
    sides = [side for group in groups for one in group.members for side in one.sides]
    return (
        page_environment()
        .get_template("comparison.html")
        .render(
            title=" and ".join(dict.fromkeys(member.run.facts.name for member in compared.members)),
            runs=[_run_row(member, base) for member in compared.members],
            notices=compared.notices,
            settings=compared.settings,
            tables=_tables(compared),
            several_seeds=any(len(member.run.facts.seeds) > 1 for member in compared.members),
            intervals=any(against.interval for line in lines for against in line.against),
            of_intervals=compared.intervals,
            kinds=KINDS,
            counted=[_counted(compared, row) for row in compared.matched],
            groups=groups,
            left_out=left_out,
            pictures=sum(bool(side.layers.image) for side in sides),
            unlayered=sum(bool(side.layers.image) and not side.layers.whole for side in sides),
            colours=palette() if any(side.layers.heat for side in sides) else [],
        )
    )


# Runs and figures


def _run_row(member: Member, base: Path) -> _RunRow:
    run = member.run
    page = run.folder.path / "report" / "index.html"
    return _RunRow(
        letter=member.letter,
        name=run.facts.name,
        folder=run.folder.path.resolve().name,
        href=href(page, base) if page.is_file() else "",
        hash=run.facts.hash,
        status=f"{run.facts.verb}, {run.facts.status}",
        models=", ".join(
            model.name if model.name == model.label else f"{model.label}: {model.name}" for model in run.spec.models
        ),
        seeds=", ".join(map(str, run.facts.seeds or (run.facts.seed,))),
        started=moment(run.facts.started),
    )


def _tables(compared: Comparison) -> list[_Table]:
    """A table for each model, or one without a title where there is but one model."""
    labels = dict.fromkeys(block.label for block in compared.blocks)
    return [
        _Table(
            label if len(labels) > 1 else "",
            tuple(_block_rows(compared, block) for block in compared.blocks if block.label == label),
        )
        for label in labels
    ]


def _block_rows(compared: Comparison, block: Block) -> _BlockRows:
    states = [
        f"{member.letter}: {state}" for member, state in zip(compared.members, block.states, strict=True) if state
    ]
    lines = []
    for line in block.lines:
        cells = [_Cell(figure(line.metric, line.values[0]))]
        for value, against in zip(line.values[1:], line.against, strict=True):
            cells += [_Cell(figure(line.metric, value)), _difference(line.metric, against)]
        lines.append(_Line(heading(line.metric), tuple(cells)))
    for member, reasons in zip(compared.members, block.reasons, strict=True):
        states += [f"{member.letter}: {', '.join(map(heading, names))} undefined, {why}" for why, names in reasons]
    title = block.category or "mean"
    note = "" if block.category else f"over the {len(block.over)} categories that all have measured"
    return _BlockRows(title, note, tuple(lines), tuple(states))


def _difference(metric: str, against: Against) -> _Cell:
    if against.difference is None:
        return _Cell("–")
    text = change(metric, against.difference)
    return _Cell(text, (interval(metric, against.interval),) if against.interval else (), against.clear or "")


# Verdicts


def _unit_name(category: str, label: str, compared: Comparison) -> str:
    several = len({row.label for row in compared.matched}) > 1
    return f"{category} · {label}" if several else category


def _counted(compared: Comparison, row: Matched) -> _Counted:
    of_unit = [
        c.kind for c in compared.changes if (c.other, c.category, c.label) == (row.other, row.category, row.label)
    ]
    first, letter = compared.members[0].letter, compared.members[row.other].letter
    alone = [f"{n} in {of}" for n, of in ((row.only_before, first), (row.only_after, letter)) if n]
    return _Counted(
        _unit_name(row.category, row.label, compared),
        letter,
        row.both,
        tuple(of_unit.count(kind) for kind in KINDS),
        ", ".join(alone) or "0",
    )


@dataclass(frozen=True, slots=True)
class _Pictures:
    """samples: of each run, by category, its test images by name, as far as its data set is still there. base: the
    folder of the page. most_bytes: of each picture."""

    samples: dict[tuple[int, str], dict[str, Sample]]
    base: Path
    most_bytes: int

    def of(self, run: int, unit: Unit, row: Row) -> Layers:
        sample = self.samples[run, unit.folder.category].get(row.path)
        return layers(unit, row, sample, base=self.base, most_bytes=self.most_bytes)


def _samples(compared: Comparison, shown: Sequence[Change]) -> dict[tuple[int, str], dict[str, Sample]]:
    """For `_Pictures`. A data set that runs share is listed once."""
    found: dict[tuple[int, str], dict[str, Sample]] = {}
    specs = [member.run.spec for member in compared.members]
    for run, category in dict.fromkeys((run, one.category) for one in shown for run in (0, one.other)):
        same = next((i for i, of in found if of == category and specs[i].dataset == specs[run].dataset), None)
        found[run, category] = originals(specs[run], category) if same is None else found[same, category]
    return found


def _groups(compared: Comparison, shown: Sequence[Change], pictures: _Pictures, task: Task) -> list[_Group]:
    out = []
    for kind in KINDS:
        of = sum(one.kind == kind for one in compared.changes)
        members = tuple(_changed(compared, one, pictures, task) for one in shown if one.kind == kind)
        if of:
            out.append(_Group(_TITLES[kind], members, of))
    return out


def _changed(compared: Comparison, one: Change, pictures: _Pictures, task: Task) -> _Changed:
    first, other = compared.members[0], compared.members[one.other]
    sides = []
    for run, unit, row in zip((0, one.other), one.units, (one.before, one.after), strict=True):
        sides.append(_side(compared.members[run].letter, row, pictures.of(run, unit, row)))
        task.advance()
    truth = _truth(one.before)
    if one.before.label != one.after.label:
        truth = f"{truth} in {first.letter}, {_truth(one.after)} in {other.letter}"
    return _Changed(one.before.path, _unit_name(one.category, one.label, compared), truth, tuple(sides))


def _truth(row: Row) -> str:
    return {0: "normal", 1: f"defect: {row.defect}"}.get(row.label, "unknown")


def _error(row: Row) -> str:
    return "missed" if row.missed else "false alarm" if row.false_alarm else ""


def _said(row: Row) -> str:
    """The verdict, and whether it is an error."""
    error = _error(row)
    return f"{row.verdict} ({error})" if error else str(row.verdict)


def _side(letter: str, row: Row, found: Layers) -> _Side:
    value = score(row.score or 0.0, row.threshold)
    outcome = _error(row) or str(row.verdict)
    if row.missed and row.verdict == "review":
        outcome = "missed, for review"
    alt = f"{row.path} with the anomaly map of {letter}; {_truth(row)}; score {value}; {_said(row)}"
    return _Side(letter, _said(row), outcome, _truth(row), value, _limit(row), alt, found)


def _limit(row: Row) -> str:
    return "–" if row.threshold is None else exact(row.threshold)


# As text


def write_comparison(path: str | Path, runs: Sequence[Run]) -> Path:
    """The comparison as Markdown, without pictures. Returns the path; raises RunError if it cannot be written."""
    write_page(Path(path), markdown_of(compare(runs)))
    return Path(path)


def markdown_of(compared: Comparison) -> str:
    """A comparison as GitHub-flavoured Markdown: runs, what differs, figures, and images whose verdict changed."""
    first = compared.members[0].letter
    out = [f"# {len(compared.members)} runs compared", ""]
    out += [f"> {plain(notice, most=_MOST_NOTICE)}\n" for notice in compared.notices]
    rows = [_run_row(member, Path()) for member in compared.members]
    out += _markdown_table(
        ["", "name", "run folder", "spec", "status", "models", "seeds"],
        [[r.letter, *map(plain, (r.name, r.folder, r.hash, r.status, r.models, r.seeds))] for r in rows],
    )
    out += ["## What differs in their specs", ""]
    if compared.settings:
        out += _markdown_table(
            ["key", *(r.letter for r in rows)],
            [[plain(s.key), *("absent" if v is None else plain(v) for v in s.values)] for s in compared.settings],
        )
    else:
        out += ["Nothing: the filled specs are the same.", ""]
    out += ["## Results", ""]
    columns = [first] + [title for r in rows[1:] for title in (r.letter, f"{r.letter} − {first}")]
    for table in _tables(compared):
        if table.title:
            out += [f"### {plain(table.title)}", ""]
        lines = [
            [plain(block.title), plain(line.name), *(_markdown_cell(cell) for cell in line.cells)]
            for block in table.blocks
            for line in block.lines
        ]
        out += _markdown_table(["category", "metric", *columns], lines)
        out += [f"- {plain(block.title)}: {plain(state)}" for block in table.blocks for state in block.states]
        out += [""]
    out += [f"- {plain(said, most=_MOST_NOTICE)}" for said in compared.intervals]
    out += [""] if compared.intervals else []
    if not compared.blocks:
        out += ["None of these runs has measured anything.", ""]
    out += ["## Verdicts that changed", ""]
    if compared.matched:
        counted = [_counted(compared, row) for row in compared.matched]
        out += _markdown_table(
            ["unit", f"against {first}", "judged in both", *KINDS, "in one run only"],
            [[plain(c.name), c.letter, str(c.both), *map(str, c.of_kinds), c.alone] for c in counted],
        )
    else:
        out += ["No image was judged in two of these runs.", ""]
    for kind in KINDS:
        out += _markdown_changes(compared, kind)
    return "\n".join(out).rstrip("\n") + "\n"


def _markdown_changes(compared: Comparison, kind: Kind) -> list[str]:
    of_kind = [one for one in compared.changes if one.kind == kind]
    if not of_kind:
        return []
    out = [f"### {_TITLES[kind]} ({len(of_kind)})", ""]
    for one in of_kind[:_NAMED]:
        told = [
            f"{compared.members[i].letter} {plain(_said(row))}, score {score(row.score or 0.0, row.threshold)} "
            f"at threshold {_limit(row)}"
            for i, row in ((0, one.before), (one.other, one.after))
        ]
        out.append(
            f"- {plain(_unit_name(one.category, one.label, compared))}: {plain(one.before.path)}: {'; '.join(told)}"
        )
    if len(of_kind) > _NAMED:
        out.append(f"- and {len(of_kind) - _NAMED} more")
    return [*out, ""]


def _markdown_cell(cell: _Cell) -> str:
    mark = {"better": " ▲ better", "worse": " ▼ worse"}.get(cell.mark, "")
    return cell.text + "".join(f" ({note})" for note in cell.notes) + mark


def _markdown_table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    if not rows:
        return []
    """What the cells hold must have been made `plain`, where it is not ours."""
    lines = [headings, ["---"] * len(headings), *rows]
    return [*(f"| {' | '.join(line)} |" for line in lines), ""]
