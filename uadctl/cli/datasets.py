"""`uadctl datasets`."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from uadctl.cli.console import print_lines, print_table, screen
from uadctl.spec.registry import DATASETS

app = typer.Typer(help="The data sets that can be read.", rich_markup_mode=None)

Json = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]


@app.callback(invoke_without_command=True)
def datasets(context: typer.Context) -> None:
    """The data sets that can be read; alone: list."""
    if context.invoked_subcommand is None:
        list_()


@app.command("list")
def list_(json_: Json = False) -> None:
    """List the kinds of data set: name, layout, licence."""
    entries = [DATASETS[name] for name in sorted(DATASETS)]
    if json_:
        rows = [
            {
                "name": e.name,
                "aliases": list(e.aliases),
                "summary": e.summary,
                "layout": e.layout,
                "licence": e.licence,
                "paper": e.paper,
                "splits": list(e.splits),
            }
            for e in entries
        ]
        print_lines(json.dumps(rows, ensure_ascii=False))
        return
    print_table(
        ("name", "also", "summary", "layout"),
        [[e.name, ", ".join(e.aliases), e.summary, e.layout] for e in entries],
        text_columns=4,
    )


@app.command("demo")
def demo(
    out: Annotated[str, typer.Option("--out", metavar="DIR", help="Where to write it; a new or empty folder.")],
    seed: Annotated[int, typer.Option("--seed", min=0, help="Another seed draws other images.")] = 0,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No bars.")] = False,
) -> None:
    """Write the demo data set: procedural surfaces and parts with defects and masks, in MVTec AD's layout."""
    screen.configure(quiet=quiet)
    from uadctl.datasets.demo import write_demo

    with screen.progress() as progress:
        print_lines(str(write_demo(out, seed=seed, progress=progress)))
