"""JUnit XML of a bench, the form in which CI systems list what passed and what did not."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

from uadctl.atomic import write_bytes
from uadctl.errors import RunError

if TYPE_CHECKING:
    from uadctl.runs.gate import Verdict

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
    """Write a bench as JUnit XML: a suite for each label, in it a test case for each unit and for each limit.

    A unit that failed is an error, a limit that is broken is a failure. What a unit measured is its output; its time is
    that of fitting and scoring.

    metrics, timing: the content of the run's metrics.json and timing.json. gate: its verdict, if it has a gate.
    name: of the whole, the run's for instance.
    Returns the path; its folders are made. Characters that XML cannot hold are written as \\xNN. Raises RunError if the
    file cannot be written.
    """
    file = Path(path)
    root = _tree(metrics, gate, timing or {}, name)
    ElementTree.indent(root)
    try:
        write_bytes(file, ElementTree.tostring(root, encoding="utf-8", xml_declaration=True) + b"\n")
    except OSError as error:
        raise RunError(f"{file}: cannot be written: {error.strerror}") from error
    return file


def _tree(
    metrics: Mapping[str, Any], gate: Verdict | None, timing: Mapping[str, Any], name: str
) -> ElementTree.Element:
    seconds = {
        (t["category"], t["label"], str(t["seed"])): t["fit_seconds"] + t["score_seconds"]
        for t in timing.get("units", ())
    }
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
        for limit in gate.limits if gate is not None else ():
            if limit.label == label:
                whose = "mean" if limit.category is None else f"{limit.category}, seed {limit.seed}"
                case = _case(suite, f"gate: {whose}: {limit.limit}", 0.0)
                if limit.reason is not None:
                    _wrong(case, "failure", limit.reason)
        _count(suite, [suite])
    _count(root, list(root))
    return root


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
