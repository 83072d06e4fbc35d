"""docs/performance.md and docs/performance.json: what was measured, for people and for programs.

The page is rendered from the JSON document alone, so that one benchmark can be measured anew while the others' figures
stay; each carries the commit, day, command and machine that it comes from.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.measure import Section, number
from uadctl.atomic import replacing

PAGE, DOCUMENT = "performance.md", "performance.json"

_INTRO = """\
# Performance

What uadctl's work costs beside the tools that do the same. Written by `python -m benchmarks`, whose `--help` says how
to repeat it; the raw figures are in [performance.json](performance.json).

CPU is user and system time of all threads; ratios are of CPU time, repetition by repetition. Every repetition runs in a
fresh process, contenders in turns, so that what else the machine does meets all of them. Figures are medians, with the
least and the greatest in brackets. Extra memory is the most that was held during the work less what was held before it,
so that libraries and input data do not count; peak memory counts everything.
"""

_MARKS = {True: "reached", False: "**not reached**", None: "–"}


def read(folder: Path) -> dict[str, Any]:
    """The document in `folder`, an empty one if there is none yet."""
    file = folder / DOCUMENT
    if not file.is_file():
        return {"schema": 1, "environments": [], "benchmarks": {}}
    document: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return document


def put(
    document: dict[str, Any],
    name: str,
    sections: Sequence[Section],
    *,
    environment: Mapping[str, Any],
    about: Mapping[str, Any],
) -> None:
    """Replace the sections of the benchmark `name` in the document, and keep the others'.

    about: "commit", "changed", "date", "command", "load" (the machine's load average before it) and "roofline" (see
    `benchmarks.machine`).
    """
    entry = {
        "environment": dict(environment),  # replaced by its number below
        **about,
        "sections": [_section(section) for section in sections],
    }
    document["benchmarks"][name] = json.loads(json.dumps(entry))  # as it will be read back
    # Environments are kept once each, and only while a benchmark still refers to them.
    old: list[dict[str, Any]] = document["environments"]
    kept: list[dict[str, Any]] = []
    for each in document["benchmarks"].values():
        own = each["environment"] if isinstance(each["environment"], dict) else old[each["environment"]]
        if own not in kept:
            kept.append(own)
        each["environment"] = kept.index(own)
    document["environments"] = kept


def _section(section: Section) -> dict[str, Any]:
    return {
        "title": section.title,
        "text": section.text,
        "tables": [dataclasses.asdict(t) for t in section.tables],
        "targets": [dataclasses.asdict(t) for t in section.targets],
        "notes": list(section.notes),
        "figures": [{"file": f.file, "description": f.description} for f in section.figures],
        "measured": [m.document() for m in section.measured],
    }


def write(folder: Path, document: Mapping[str, Any], sections: Sequence[Section] = ()) -> None:
    """Write the page, the document and the figures of `sections` into `folder`, each atomically."""
    folder.mkdir(parents=True, exist_ok=True)
    texts = {
        DOCUMENT: json.dumps(document, indent=1, ensure_ascii=False) + "\n",
        PAGE: render(document),
        **{figure.file: figure.svg for section in sections for figure in section.figures},
    }
    for name, text in texts.items():
        with replacing(folder / name) as temporary:
            temporary.write_text(text, encoding="utf-8")


def render(document: Mapping[str, Any]) -> str:
    """The page in Markdown."""
    environments, benchmarks = document["environments"], document["benchmarks"]
    parts = [_INTRO, _overview(benchmarks)]
    parts += [_machines(environments, benchmarks)] if environments else []
    for entry in benchmarks.values():
        where = f", machine {entry['environment'] + 1}" if len(environments) > 1 else ""
        for section in entry["sections"]:
            parts.append(_passage(section, f"{_origin(entry)}{where}"))
    return "\n".join(part for part in parts if part)


def _overview(benchmarks: Mapping[str, Any]) -> str:
    rows = [
        (section["title"], target["what"], target["wanted"], target["reached"], _MARKS[target["ok"]])
        for entry in benchmarks.values()
        for section in entry["sections"]
        for target in section["targets"]
    ]
    if not rows:
        return ""
    return "## Set out for, and reached\n\n" + _table(("", "", "target", "measured", ""), rows, figures=False)


def _machines(environments: Sequence[Mapping[str, Any]], benchmarks: Mapping[str, Any]) -> str:
    lines = []
    if len(environments) == 1:
        lines.append("## The machine\n")
    else:
        lines.append("## The machines\n")
        lines.append("Not all figures come from one machine, or from the same versions; each section names its own.\n")
    for i, facts in enumerate(environments):
        if len(environments) > 1:
            lines.append(f"### Machine {i + 1}\n")
        rows = [
            (
                "processor",
                f"{facts['processor']}, {facts['cores']} cores ({', '.join(facts['features']) or 'unknown'})",
            ),
            ("memory", f"{facts['memory_bytes'] / 2**30:.0f} GiB"),
            ("system", f"{facts['system']}, Python {facts['versions']['python']}"),
            ("packages", ", ".join(f"{k} {v or '–'}" for k, v in facts["versions"].items() if k != "python")),
        ]
        lines.append(_table(("", ""), rows, figures=False))
        lines.append(_roofs([(n, e["roofline"]) for n, e in benchmarks.items() if e["environment"] == i]))
    return "\n".join(lines)


def _roofs(measured: Sequence[tuple[str, Mapping[str, float]]]) -> str:
    """The machine's best rates, as each benchmark's own run found them."""
    rows = [
        (name, *(number(roof[key]) for key in ("gflops_1", "gflops_2", "gbytes_1", "gbytes_2")))
        for name, roof in measured
    ]
    head = ("in the run of", "GFLOP/s, 1 thread", "2 threads", "GB/s, 1 thread", "2 threads")
    text = (
        "The roof: the best rates found in the run that each benchmark belongs to, of an fp32 matrix product "
        "(2048×2048) and of a large copy.\n\n"
    )
    return text + _table(head, rows)


def _origin(entry: Mapping[str, Any]) -> str:
    changed = ", with uncommitted changes" if entry["changed"] else ""
    return f"`{entry['command']}`, {entry['date']}, commit {entry['commit']}{changed}, load average {entry['load']:.1f}"


def _passage(section: Mapping[str, Any], origin: str) -> str:
    parts = [f"## {section['title']}\n", f"{section['text'].strip()}\n" if section["text"] else ""]
    for each in section["tables"]:
        if each["caption"]:
            parts.append(f"{each['caption']}\n")
        parts.append(_table(each["columns"], each["rows"]))
    if section["targets"]:
        rows = [(t["what"], t["wanted"], t["reached"], _MARKS[t["ok"]]) for t in section["targets"]]
        parts.append(_table(("", "target", "measured", ""), rows, figures=False))
    parts += [f"![{figure['description']}]({figure['file']})\n" for figure in section["figures"]]
    parts += [f"{note.strip()}\n" for note in section["notes"]]
    parts.append(f"*{origin}*\n")
    return "\n".join(part for part in parts if part)


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]], *, figures: bool = True) -> str:
    rule = ["---"] + ["---:" if figures else "---"] * (len(columns) - 1)
    lines = [columns, rule, *rows]
    return "\n".join("| " + " | ".join(_cell(cell) for cell in line) + " |" for line in lines) + "\n"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
