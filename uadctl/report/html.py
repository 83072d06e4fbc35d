"""A run folder as one page: results first, then every unit with its curves and its images, the most telling first.

Everything stands inside the page: no network, nothing to install. It reads without script; the script that it has, and
no other, sorts, filters, zooms and recounts. A policy in its head forbids the browser to load or run anything else,
whatever the names of files and categories contain.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from uadctl import __version__
from uadctl.atomic import write_named
from uadctl.errors import RunError
from uadctl.progress import Progress, Silent
from uadctl.report import results, wording
from uadctl.report.pictures import originals
from uadctl.report.reading import Gate, Run, read_run
from uadctl.report.sections import Fact, Section, common_of, flat, section
from uadctl.report.thumbnails import share_of
from uadctl.runs.folder import RunFolder
from uadctl.runs.gate import Compared, Pair
from uadctl.spec import PROTOCOLS

if TYPE_CHECKING:
    from jinja2 import Environment

MAX_OVERLAYS = 200

# How a page of ours begins, so that no other file is ever overwritten.
GENERATOR = '<meta name="generator" content="uadctl report">'


def report(
    run: str | Path,
    *,
    out: str | Path | None = None,
    categories: Sequence[str] | None = None,
    max_overlays: int = MAX_OVERLAYS,
    progress: Progress | None = None,
) -> Path:
    """Write the page of a run folder: index.html in `out`, or in the run's own folder report/.

    The run folder is read, and of the data set, where it still is where the spec says, the images that are shown and
    their masks; no model is loaded, no image scored. The same run and data give the same bytes. A run that only fitted
    gives a page of its thresholds; of one that is not finished, what there is so far.

    out: a folder, made if need be. The page links to the full overlays by relative paths: the two are moved together.
    categories: names or globs; None shows all.
    max_overlays: images a unit, missed defects first, then false alarms, then the others by their distance to the
        threshold. Their number left out is said.

    Returns the path of the page. Raises RunError if there is no such run or category, if the run is damaged, if another
    process works in the folder that the page would go to, or if something else than a report stands there; ValueError
    for a negative `max_overlays`.
    """
    if max_overlays < 0:
        raise ValueError(f"max_overlays is {max_overlays}; expected 0 or more")
    progress = progress or Silent()
    folder = RunFolder.open(Path(run))
    file = Path(out if out is not None else folder.path / "report") / "index.html"
    refuse_foreign(file)
    with folder.locked_for(file):
        _write_report(folder, file, categories, max_overlays, progress)
    return file


def _write_report(
    folder: RunFolder, file: Path, categories: Sequence[str] | None, max_overlays: int, progress: Progress
) -> None:
    found = read_run(folder, categories=categories)
    shown = sum(min(max_overlays, sum(row.score is not None for row in unit.rows)) for unit in found.units)
    common = _common_facts(found)
    scored = dict.fromkeys(unit.folder.category for unit in found.units if unit.rows)
    samples = {category: originals(found.spec, category) for category in scored} if shown else {}
    with progress.task("report", shown) as task:
        sections = [
            section(
                unit,
                f"unit-{i}",
                found,
                common,
                samples.get(unit.folder.category, {}),
                most=max_overlays,
                base=file.parent,
                most_bytes=share_of(shown),
                task=task,
            )
            for i, unit in enumerate(found.units, start=1)
        ]
    write_page(file, _render(found, sections, common))


def write_page(file: Path, text: str) -> None:
    """Write a page; names that are not UTF-8 have their bytes escaped. Raises RunError where it cannot be written."""
    write_named(file, text.encode("utf-8", "backslashreplace"))


def refuse_foreign(file: Path) -> None:
    """RunError where something stands that is not a page of ours."""
    if not file.exists():
        return
    head = b""
    if file.is_file():
        with file.open("rb") as stream:
            head = stream.read(2048)
    if GENERATOR.encode() not in head:
        raise RunError(
            f"{file}: exists and is not a report of uadctl; it was left as it is",
            help="Give another folder with --out.",
        )


def page_environment() -> Environment:
    """jinja2 as every page of ours needs it: all that is put in is escaped, and what is not there is an error.

    script: the page's script. policy: what the browser may load and run, for a page with that script. as_data: a filter
    that makes JSON which no text can break out of.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("uadctl.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.globals |= {"script": _script(), "policy": _policy(), "version": __version__}
    environment.filters["as_data"] = as_data
    return environment


@cache
def _script() -> str:
    return files("uadctl.report").joinpath("templates/report.js").read_text(encoding="utf-8").strip()


def _policy() -> str:
    """Nothing from elsewhere; of scripts, the one with this checksum. Charts need style attributes."""
    digest = base64.b64encode(hashlib.sha256(_script().encode()).digest()).decode("ascii")
    return f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"


def as_data(value: Any) -> str:
    """JSON to stand in a <script type="application/json">: ASCII, and without what would end or comment it out.

    Numbers are the shortest text that is the same float64. Raises ValueError for NaN and infinity.
    """
    from markupsafe import Markup

    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    for sign in "<>&":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return Markup(text)


def _render(run: Run, sections: Sequence[Section], common: Mapping[str, Mapping[str, str]]) -> str:
    protocol = PROTOCOLS[run.spec.metrics.protocol]
    columns = results.columns((unit.measured for unit in run.units), protocol)
    galleries = [one.gallery for one in sections if one.gallery is not None]
    return (
        page_environment()
        .get_template("report.html")
        .render(
            facts=run.facts,
            notices=_notices(run),
            measured=any(unit.measured is not None and unit.measured.success for unit in run.units),
            headings=[wording.heading(name) for name in columns],
            at_pixels=" and ".join(wording.heading(name) for name in ("segf1", "classf1") if name in columns),
            of_parts="group_miss_rate" in columns,
            reviewed=any(
                unit.measured_with is not None and unit.measured_with.review_value is not None for unit in run.units
            ),
            intervals=any(unit.measured is not None and any(unit.measured.intervals.values()) for unit in run.units),
            protocol=protocol.summary,
            rows=[
                results.table_row(unit, one.title, one.anchor, columns)
                for unit, one in zip(run.units, sections, strict=True)
            ],
            means=results.mean_rows(run, columns) if columns else [],
            seeds=len(run.facts.seeds) if run.by_category else 0,
            gate=_gate(run),
            reasons=results.reasons(run.units),
            run_facts=_run_facts(run, common),
            data=[(name, run.facts.data[name]) for name in sorted(run.facts.data)],
            spec=(run.folder.path / "spec.toml").read_text(encoding="utf-8"),
            sections=sections,
            unlayered=sum(one.unlayered for one in galleries),
            pictures=sum(bool(shot.layers.image) for one in galleries for shot in one.shots),
            galleries=[one.data for one in galleries],
        )
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
        names = ", ".join(results.title_of(unit, run) for unit in failed[:10]) + (", …" if len(failed) > 10 else "")
        notices.append(f"{len(failed)} of {len(run.units)} units failed ({names}); each says why below.")
    if run.gate is not None and not run.gate.passed:
        notices.append(f"The gate failed: {_held(run.gate)}; see Gate below.")
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
        said = [dict(flat(f)) for label in labels for f in run.facts.models.get(label, {}).values()]
        found |= dict.fromkeys(labels, common_of(said))
    return found


def _run_facts(run: Run, common: Mapping[str, Mapping[str, str]]) -> list[Fact]:
    facts, spec = run.facts, run.spec
    git = facts.git or {}
    out = [
        Fact("run folder", run.folder.path.resolve().name),
        Fact("made by", f"uadctl {facts.verb}, {facts.status}"),
        Fact("started", _moment(facts.started)),
        *(Fact("resumed", _moment(moment)) for moment in facts.resumed),
        *([Fact("finished", _moment(facts.finished))] if facts.finished else []),
        Fact("spec hash", facts.hash),
        Fact("seeds" if len(facts.seeds) > 1 else "seed", ", ".join(map(str, facts.seeds or (facts.seed,)))),
        Fact("data set", spec.dataset.name),
        *([Fact("shots", _listed(spec.dataset.shot_counts))] if spec.dataset.shots is not None else []),
    ]
    for model in spec.models:
        out.append(Fact("model", model.name if model.name == model.label else f"{model.label}: {model.name}"))
        out += [Fact("grid", f"{key} = {_listed(values)}") for key, values in (model.grid or {}).items()]
        # What differs between categories (the size of the memory bank) stands in each unit.
        out += [Fact(name, value) for name, value in common[run.families[model.label][0]].items()]
    machine = facts.machine
    out += [
        Fact("machine", ", ".join(str(machine[k]) for k in ("processor", "architecture", "system") if machine.get(k))),
        Fact("versions", ", ".join(f"{name} {number}" for name, number in facts.versions.items() if number)),
    ]
    if git:
        out.append(Fact("git commit", f"{git.get('commit')}{', with changes' if git.get('changed') else ''}"))
    out += [Fact("note", note) for note in facts.notes]
    out += [Fact("warning", warning) for warning in facts.warnings]
    return [fact for fact in out if fact.value]


def _listed(values: Iterable[object]) -> str:
    return ", ".join(str(list(value)) if isinstance(value, tuple) else str(value) for value in values)


def _moment(text: str) -> str:
    return text.replace("T", " ").replace("+00:00", " UTC")


# The gate


@dataclass(frozen=True, slots=True)
class _Regression:
    where: str
    metric: str
    baseline: str
    value: str
    difference: str
    interval: str
    verdict: str
    broken: str  # "regression"; "accepted" if it is one that breaks nothing; "" if it is none


@dataclass(frozen=True, slots=True)
class _Pair:
    metric: str
    models: str
    difference: str
    counts: str
    p_value: str


@dataclass(frozen=True, slots=True)
class _Gate:
    """passed: its verdict. said: what it rests on, in words. broken: limits that do not hold, where and why.

    accepted: that the run was made the baseline; "" where it was not.
    """

    passed: bool
    said: str
    accepted: str
    broken: tuple[tuple[str, str], ...]
    baseline: str
    regressions: tuple[_Regression, ...]
    pairs: tuple[_Pair, ...]


def _gate(run: Run) -> _Gate | None:
    """What the gate says: limits, regressions against a baseline, models against each other."""
    if run.gate is None:
        return None
    gate = run.gate
    accepted = ""
    if gate.accepted:
        accepted = "This run was made the new baseline."
        if gate.worse:
            accepted += " What is worse than in the old one was accepted by that, and fails nothing."
    return _Gate(
        gate.passed,
        f"{_held(gate)}{':' if gate.broken else '.'}",
        accepted,
        tuple((f"{one.category or 'mean'} / {one.label}", one.reason) for one in gate.broken),
        gate.baseline or "",
        tuple(_regression(one, accepted=gate.accepted) for one in gate.regressions),
        tuple(_pair(one) for one in gate.models),
    )


def _held(gate: Gate) -> str:
    """How many of what was checked hold: "2 of 3 limits hold; 1 of 4 comparisons with the baseline is worse"."""
    said = []
    if gate.regressions:
        worse = len(gate.worse)
        verb = "is" if worse == 1 else "are"
        said.append(f"{worse} of {len(gate.regressions)} comparisons with the baseline {verb} worse")
    if gate.limits or not said:
        said.append(f"{gate.limits - len(gate.broken)} of {gate.limits} limits hold")
    return "; ".join(said)


def _regression(one: Compared, *, accepted: bool) -> _Regression:
    interval = ""
    if one.interval is not None:
        interval = " to ".join(_signed(one.metric, end) for end in one.interval)
    said = one.reason or f"no worse (tolerance {one.tolerance:g})"
    if one.p_value is not None:
        said += f"; signed-rank p = {one.p_value:.3g}"
    return _Regression(
        f"{one.category or 'mean'} / {one.label}",
        wording.heading(one.metric),
        wording.figure(one.metric, one.baseline),
        wording.figure(one.metric, one.value),
        _signed(one.metric, one.difference),
        interval or "–",
        said,
        "" if one.reason is None else "accepted" if accepted else "regression",
    )


def _pair(one: Pair) -> _Pair:
    if one.adjusted is None:
        p_value = one.reason or "–"
    else:
        p_value = f"p = {one.adjusted:.3g}"
    return _Pair(
        wording.heading(one.metric),
        f"{one.label} against {one.other}",
        _signed(one.metric, one.difference),
        f"{one.better} better, {one.worse} worse, {one.equal} equal",
        p_value,
    )


def _signed(name: str, value: float | None) -> str:
    return "–" if value is None else wording.change(name, value)
