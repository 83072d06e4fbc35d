"""`uadctl report`."""

from __future__ import annotations

from typing import Annotated

import typer

from uadctl.cli import options as o
from uadctl.cli.console import print_lines, screen


def report(
    run: o.FinishedRun,
    out: Annotated[
        str | None,
        typer.Option("--out", metavar="DIR", help="Where index.html is written. Default: report/ in the run folder."),
    ] = None,
    category: Annotated[
        list[str] | None, typer.Option("--category", help="Category, or a glob. Repeatable. Default: all.")
    ] = None,
    max_overlays: Annotated[
        int,
        typer.Option(
            "--max-overlays", metavar="N", min=0, help="Pictures a unit: missed defects first, then false alarms."
        ),
    ] = 60,
    quiet: o.Quiet = False,
    debug: o.Debug = False,
) -> None:
    """Make one HTML page of a run: results, curves, and the images that matter most.

    Example: uadctl report runs/20260101T120000Z-demo-0123abcd

    The page needs no network and no script; only the run folder is read. It prints where the page is.
    """
    screen.configure(quiet=quiet, debug=debug)
    found = o.finished_run(run)
    from uadctl.report.html import report as write_report

    with screen.progress() as progress:
        page = write_report(
            found.path, out=out, categories=category or None, max_overlays=max_overlays, progress=progress
        )
    print_lines(str(page))
