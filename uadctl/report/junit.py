"""JUnit XML of a bench, the form in which CI systems list what passed and what did not."""

from __future__ import annotations

import re
from collections.abc import Mapping, Set
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

from uadctl.atomic import write_named
from uadctl.errors import RunError
from uadctl.runs.gate import Checked, Compared, Verdict, evaluate

if TYPE_CHECKING:
    from uadctl.report.reading import Gate, Run

# XML 1.0 has no way at all to hold these, not even as a character reference.
_NOT_IN_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def write_junit(
    path: str | Path,
    metrics: Mapping[str, Any],
    gate: Verdict | None = None,
    *,
    timing: Mapping[str, Any] | None = None,
    name: str = "uadctl",
) -> Path:
    """Write a bench as JUnit XML: a suite for each label, in it a test case for each unit, limit and comparison.

    A unit that failed is an error; a limit that is broken is a failure, and so is what is worse than the baseline. What
    a unit measured is its output; its time is that of fitting and scoring.

    metrics, timing: the content of the run's metrics.json and timing.json. gate: its verdict, if it has a gate.
    name: of the whole, the run's for instance.
    Returns the path; its folders are made. Characters that XML cannot hold are written as \\xNN. Raises RunError if the
    file cannot be written.
    """
    return _write(Path(path), _tree(metrics, gate, timing or {}, name))


def write_junit_of_run(path: str | Path, run: Run) -> Path:
    """Write `junit_of(run)` to a file. Returns its path; its folders are made. RunError if it cannot be written."""
    return _write(Path(path), junit_of(run))


def junit_of(run: Run) -> ElementTree.Element:
    """The tree of a run folder, as the bench that made it wrote or would have written it.

    The limits are held against metrics.json anew, and the comparisons with a baseline are those of gate.json: the run
    may have come here without its baseline. Of a run of which only some categories were read, theirs and no means.
    Raises RunError where nothing has been measured, the run is not over, or its documents are damaged.
    """
    file = run.folder.path / "metrics.json"
    if run.facts.status not in ("done", "failed") or not file.is_file():
        raise RunError(
            f"{run.folder.path}: is not measured to its end, so there is nothing to tell as JUnit XML",
            help="uadctl bench measures; a run that was interrupted goes on with: uadctl bench --resume RUN",
        )
    metrics = run.folder.read("metrics")
    timing = run.folder.read("timing") if (run.folder.path / "timing.json").is_file() else {}
    try:
        limits = evaluate(run.spec.gate, metrics).limits if run.spec.gate is not None else ()
        verdict = Verdict(limits, () if run.gate is None else _regressions(run.gate))
        if run.left_out:
            metrics, verdict = _part(metrics, verdict, {unit.folder.category for unit in run.units})
        return _tree(metrics, verdict, timing, run.folder.path.resolve().name)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise RunError(f"{file}: damaged: {type(error).__name__}: {error}") from error


def _regressions(gate: Gate) -> tuple[Compared, ...]:
    """The comparisons with the baseline. None is a failure where the run became the baseline itself."""
    return tuple(replace(one, reason=None) if gate.accepted else one for one in gate.regressions)


def _part(metrics: Mapping[str, Any], verdict: Verdict, categories: Set[str]) -> tuple[dict[str, Any], Verdict]:
    """What is about these categories only."""
    results = {name: labels for name, labels in metrics["results"].items() if name in categories}
    limits = tuple(limit for limit in verdict.limits if limit.category in categories)
    regressions = tuple(one for one in verdict.regressions if one.category in categories)
    return {**metrics, "results": results}, Verdict(limits, regressions)


def _write(file: Path, root: ElementTree.Element) -> Path:
    ElementTree.indent(root)
    write_named(file, ElementTree.tostring(root, encoding="utf-8", xml_declaration=True) + b"\n")
    return file


def _tree(
    metrics: Mapping[str, Any], gate: Verdict | None, timing: Mapping[str, Any], name: str
) -> ElementTree.Element:
    seconds = {
        (t["category"], t["label"], str(t["seed"])): t["fit_seconds"] + t["score_seconds"]
        for t in timing.get("units", ())
    }
    held: tuple[Checked | Compared, ...] = () if gate is None else (*gate.limits, *gate.regressions)
    broken = frozenset(gate.broken if gate is not None else ())
    root = ElementTree.Element("testsuites", name=_text(name))
    for label in metrics["means"]:
        suite = ElementTree.SubElement(root, "testsuite", name=_text(label))
        for category, labels in metrics["results"].items():
            for seed, cell in labels.get(label, {}).items():
                case = _case(suite, f"{category}, seed {seed}", seconds.get((category, label, seed), 0.0))
                if cell["success"]:
                    lines = [f"{metric} = {_number(value)}" for metric, value in cell["metrics"].items()]
                    ElementTree.SubElement(case, "system-out").text = _text("\n".join(lines))
                else:
                    _wrong(case, "error", cell["error"])
        for one in held:
            if one.label == label:
                case = _case(suite, _held(one), 0.0)
                if one in broken:
                    _wrong(case, "failure", one.reason or "")
        _count(suite, [suite])
    _count(root, list(root))
    return root


def _held(one: Checked | Compared) -> str:
    """ "gate: bottle, seed 0: fn <= 3", "regression: mean: aupro_30 no worse than the baseline (tolerance 0.002)"."""
    kind = "gate" if isinstance(one, Checked) else "regression"
    seed = "" if one.seed is None else f", seed {one.seed}"
    return f"{kind}: {one.category or 'mean'}{seed}: {one.limit}"


def _case(suite: ElementTree.Element, name: str, seconds: float) -> ElementTree.Element:
    # The label as class name: CI systems that flatten suites keep models apart by it.
    return ElementTree.SubElement(
        suite, "testcase", name=_text(name), classname=suite.attrib["name"], time=f"{seconds:.3f}"
    )


def _wrong(case: ElementTree.Element, kind: str, text: str) -> None:
    first = text.splitlines()[0] if text else ""
    ElementTree.SubElement(case, kind, message=_text(first), type=kind).text = _text(text)


def _count(element: ElementTree.Element, suites: list[ElementTree.Element]) -> None:
    cases = [case for suite in suites for case in suite.iter("testcase")]
    element.set("tests", str(len(cases)))
    element.set("failures", str(sum(case.find("failure") is not None for case in cases)))
    element.set("errors", str(sum(case.find("error") is not None for case in cases)))
    element.set("skipped", "0")
    element.set("time", f"{sum(float(case.attrib['time']) for case in cases):.3f}")


def _number(value: float | None) -> str:
    return "null" if value is None else repr(value)


def _text(text: str) -> str:
    return _NOT_IN_XML.sub(lambda found: found[0].encode("unicode_escape").decode("ascii"), text)
