"""Bundles: `uadctl models bundle`, and what `uadctl models show` says of one."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer

from uadctl.cli.console import print_lines, print_table
from uadctl.cli.options import FinishedRun, check_distinct, check_outputs, finished_run
from uadctl.spec.values import printable

if TYPE_CHECKING:
    from uadctl.runs.bundle import Bundle


def bundle(
    run: FinishedRun,
    file: Annotated[str, typer.Argument(metavar="FILE", help="Where to write it; by habit NAME.uadctl.")],
    category: Annotated[
        str | None, typer.Option("--category", help="Which unit of the run, if it has several.")
    ] = None,
    label: Annotated[str | None, typer.Option("--label", help="Which model of the run, if it has several.")] = None,
    seed: Annotated[int | None, typer.Option("--seed", help="Which seed of the run, if it has several.")] = None,
    json_: Annotated[bool, typer.Option("--json", help="Print JSON for programs.")] = False,
) -> None:
    """Write the fitted model of a finished run to one file that uadctl score takes on any machine.

    Example: uadctl models bundle runs/20260101T120000Z-demo-0123abcd part.uadctl
    """
    check_outputs(files=[("FILE", file)])
    check_distinct(("SPEC", run), ("FILE", file))
    found = finished_run(run)
    from uadctl.runs.bundle import write_bundle

    made = write_bundle(found, file, category=category, label=label, seed=seed)
    if json_:
        print_lines(_json(made))
        return
    print_lines(f"bundle: {file} ({made.size / 1e6:.1f} MB)")
    print_lines(f"next: uadctl score {shlex.quote(file)} IMAGE…")


def show(path: str, *, json_: bool) -> None:
    """What a bundle holds, every byte of it checked. RunError where it is damaged."""
    from uadctl.runs.bundle import read_bundle

    found = read_bundle(path)
    if json_:
        print_lines(_json(found))
        return
    origin, run = found.origin, found.run
    facts = [
        ("model", found.model["model"]),
        ("learned from", f"{origin.category} · {origin.label} · seed {origin.seed}, spec {origin.hash}"),
        *((f"{name} threshold", f"{value:.9g}") for name, value in _thresholds(found).items() if value is not None),
        ("run", f"device {run.device}, precision {run.precision}, threads {run.threads}"),
        ("fitted with", ", ".join(f"{name} {v}" for name, v in origin.versions.items() if v is not None)),
        ("bundle", f"version {found.version}, written by uadctl {found.uadctl}"),
        ("size", f"{found.size / 1e6:.1f} MB, {len(found.tensors)} tensors"),
        ("sha256", f"{found.sha256}, as it should be"),
    ]
    print_lines(printable(f"{Path(path).name}: {found.model['model']} of {origin.category}") + "\n")
    print_lines("\n".join(f"{title}: {printable(text)}" for title, text in facts))
    print_table(
        ("part", "licence", "from"),
        [[printable(text or "") for text in (each.part, each.licence, each.source)] for each in found.licences],
        text_columns=3,
    )


def _thresholds(found: Bundle) -> dict[str, float | None]:
    """What images and maps are held against; None where the model has none."""
    said = found.calibration
    return {
        "image": said.image.value,
        "review": None if said.review is None else said.review.value,
        "pixel": None if said.pixel is None else said.pixel.threshold,
    }


def _json(found: Bundle) -> str:
    document: dict[str, Any] = {
        "schema": 1,
        "bundle": str(found.path),
        "version": found.version,
        "uadctl": found.uadctl,
        "sha256": found.sha256,
        "bytes": found.size,
        "model": found.model["model"],
        "params": found.model["params"],
        **msgspec.to_builtins(found.origin),
        "run": msgspec.to_builtins(found.run),
        "thresholds": _thresholds(found),
        "tensors": len(found.tensors),
        "licences": msgspec.to_builtins(found.licences),
    }
    return json.dumps(document, ensure_ascii=False, allow_nan=False)
