"""`uadctl models`."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from uadctl.cli.console import print_lines, print_table
from uadctl.spec.registry import list_models, model_info

app = typer.Typer(help="The models there are.", rich_markup_mode=None)

Tag = Annotated[list[str] | None, typer.Option("--tag", help="Only models with this tag. Repeatable: all of them.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]


@app.callback(invoke_without_command=True)
def models(context: typer.Context) -> None:
    """The models there are; alone: list."""
    if context.invoked_subcommand is None:
        list_()


@app.command("list")
def list_(tag: Tag = None, json_: Json = False) -> None:
    """List the models: name, aliases, what they do, the extra they need."""
    entries = [model_info(name) for name in list_models(tag)]
    if json_:
        rows = [
            {
                "name": e.name,
                "aliases": list(e.aliases),
                "summary": e.summary,
                "paper": e.paper,
                "tags": list(e.tags),
                "metadata": e.metadata,
            }
            for e in entries
        ]
        print_lines(json.dumps(rows, ensure_ascii=False))
        return
    print_table(
        ("name", "also", "extra", "summary"),
        [[e.name, ", ".join(e.aliases), e.extra or "", e.summary] for e in entries],
        text_columns=4,
    )
