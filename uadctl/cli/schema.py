"""`uadctl schema`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from uadctl.cli import options as o
from uadctl.cli.console import print_lines, screen
from uadctl.errors import SpecError
from uadctl.spec.values import did_you_mean, shown

# name, file: spec.schema.json is the one that the specs refer to by their first line.
FILES: Final = {
    "spec": "spec.schema.json",
    "run": "run.schema.json",
    "metrics": "metrics.schema.json",
    "gate": "gate.schema.json",
    "thresholds": "thresholds.schema.json",
    "timing": "timing.schema.json",
    "parity": "parity.schema.json",
    "anomalib": "anomalib.schema.json",
    "robustness": "robustness.schema.json",
    "replicates": "replicates.schema.json",
    "baseline": "baseline.schema.json",
    "score": "score-line.schema.json",
    "log": "log-line.schema.json",
    "journal": "journal-line.schema.json",
}


def complete_schema(incomplete: str) -> list[str]:
    """The names of the schemas that start with `incomplete`."""
    return [name for name in FILES if name.startswith(incomplete)]


def schema(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="[NAME]",
            help="spec (the default), run, metrics, gate, thresholds, timing, parity, anomalib, robustness, "
            "replicates, baseline, score, log or journal.",
            show_default=False,
            autocompletion=complete_schema,
        ),
    ] = None,
    write: Annotated[
        str | None, typer.Option("--write", metavar="DIR", help="Write all schemas to files in a folder.")
    ] = None,
    debug: o.Debug = False,
) -> None:
    """Print the JSON Schema of a spec, of a JSON file of a run folder, or of a line of `score --json`, of its journal
    or of --log-file.

    Example: uadctl schema metrics

    An editor that knows TOML schemas completes and checks a spec that starts with: #:schema PATH/spec.schema.json
    """
    screen.configure(debug=debug)
    if write is None:
        print_lines(_text(name or "spec"))
        return
    if name is not None:
        raise SpecError(f"--write {write} writes all schemas; it goes without the name {name}")
    from uadctl.atomic import write_bytes

    for each, file in FILES.items():
        path = Path(write) / file
        write_bytes(path, f"{_text(each)}\n".encode())
        print_lines(str(path))


def _text(name: str) -> str:
    return json.dumps(make_schema(name), indent=2, ensure_ascii=False, allow_nan=False)


def make_schema(name: str) -> dict[str, Any]:
    """The schema with this name, as JSON values. Raises SpecError, listing the names, if there is none."""
    if name not in FILES:
        raise SpecError(
            f"{shown(name)}: no such schema{did_you_mean(name, FILES)}", help=f"Choose from: {', '.join(FILES)}"
        )
    if name == "spec":
        from uadctl.spec.schema import spec_schema

        return spec_schema()
    from uadctl.runs.documents import document_schema, records_schema

    if name == "score":
        from uadctl.score import ScoreLine

        return records_schema("A line of uadctl score --json", (ScoreLine,))
    if name == "log":
        from uadctl.cli.logs import LogLine

        return records_schema("A line of uadctl --log-file", (LogLine,))
    if name == "journal":
        from uadctl.service import JournalHead, JournalRow

        return records_schema("A line of uadctl score --journal FILE", (JournalHead, JournalRow))
    return document_schema(name)
