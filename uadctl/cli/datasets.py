"""`uadctl datasets`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from uadctl.cli import options as o
from uadctl.cli.complete import complete_dataset
from uadctl.cli.console import print_lines, print_table, screen
from uadctl.errors import SpecError
from uadctl.spec import Overrides
from uadctl.spec.grammar import FilesTable
from uadctl.spec.registry import DATASETS, DatasetEntry, Place, resolve_dataset
from uadctl.spec.values import printable

if TYPE_CHECKING:
    from uadctl.check import CategoryReport, Report
    from uadctl.errors import Problem

app = typer.Typer(help="The data sets that can be read.", rich_markup_mode=None)

Json = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]

# More sizes than these are told by their range.
_NAMED_SIZES = 4


@app.callback(invoke_without_command=True)
def datasets(context: typer.Context, json_: Json = False) -> None:
    """The data sets that can be read; alone: list."""
    if context.invoked_subcommand is None:
        list_(json_)
    elif json_:
        raise SpecError(
            f"uadctl datasets: options go behind the command: uadctl datasets {context.invoked_subcommand} …"
        )


@app.command("list")
def list_(json_: Json = False) -> None:
    """List the kinds of data set: name, layout, licence."""
    entries = [DATASETS[name] for name in sorted(DATASETS)]
    if json_:
        print_lines(json.dumps([_row(e) for e in entries], ensure_ascii=False))
        return
    print_table(
        ("name", "also", "summary", "layout"),
        [[e.name, ", ".join(e.aliases), e.summary, e.layout] for e in entries],
        text_columns=4,
    )


def _row(entry: DatasetEntry) -> dict[str, Any]:
    return {
        "name": entry.name,
        "aliases": list(entry.aliases),
        "summary": entry.summary,
        "layout": entry.layout,
        "licence": entry.licence,
        "paper": entry.paper,
        "splits": list(entry.splits),
    }


@app.command("show")
def show(
    name: Annotated[
        str,
        typer.Argument(metavar="NAME", help="A data set; see: uadctl datasets list", autocompletion=complete_dataset),
    ],
    json_: Json = False,
) -> None:
    """Show one kind of data set: layout, licence, paper, protocol, and how to use it.

    Example: uadctl datasets show mvtec
    """
    entry = resolve_dataset(name)
    commands, spec = _example_commands(entry), _example_spec(entry)
    if json_:
        document = {
            "schema": 1,
            **_row(entry),
            "places": [{"path": p.path, "meaning": p.meaning} for p in entry.places],
            "homepage": entry.homepage,
            "doi": entry.doi,
            "protocol": entry.protocol,
            "protocol_metrics": list(entry.protocol_metrics),
            "layouts": list(entry.layouts),
            "needs_root": entry.needs_root,
            "takes_files": entry.takes_files,
            "example": {"commands": commands, "spec": spec},
        }
        print_lines(json.dumps(document, ensure_ascii=False))
        return
    facts = [
        ("also", ", ".join(entry.aliases)),
        ("licence", entry.licence),
        ("paper", entry.paper),
        ("doi", entry.doi and f"https://doi.org/{entry.doi}"),
        ("homepage", entry.homepage),
        ("protocol", entry.protocol),
        ("metrics", ", ".join(entry.protocol_metrics)),
        ("splits", ", ".join(entry.splits)),
        ("layouts", ", ".join(entry.layouts)),
    ]
    print_lines(f"{entry.name}: {entry.summary}\n")
    print_lines("\n".join(f"{title}: {text}" for title, text in facts if text))
    print_lines("\n" + "\n".join(_tree(entry.places)))
    if entry.takes_files:
        roles = ", ".join(FilesTable.__struct_fields__)
        print_lines(f"\nOther folders: [dataset.files] {roles} (globs)")
    print_lines("\nexample:")
    print_lines("\n".join(f"  {line}".rstrip() for line in [*commands, "", *spec.splitlines()]))


def _example_commands(entry: DatasetEntry) -> list[str]:
    root = " --root DIR" if entry.needs_root else ""
    return [
        f"uadctl datasets check {entry.name}{root}",
        f"uadctl bench --dataset {entry.name}{root} --model vision_patchcore",
    ]


def _example_spec(entry: DatasetEntry) -> str:
    root = 'root = "DIR"\n' if entry.needs_root else ""
    return f'[dataset]\nname = "{entry.name}"\n{root}\n[model]\nname = "vision_patchcore"\n'


def _tree(places: Sequence[Place]) -> list[str]:
    """The folders of the places as a drawing, the meaning of each place beside it."""
    nodes: dict[str, Any] = {}
    for place in places:
        inner = nodes
        *folders, last = place.path.split("/")
        for folder in folders:
            inner = inner.setdefault(folder, {})
        inner[last] = place.meaning
    rows = [("ROOT", ""), *_branches(nodes, "")]
    width = max(len(drawn) for drawn, _ in rows)
    return [f"{drawn:<{width}}   {meaning}".rstrip() for drawn, meaning in rows]


def _branches(nodes: dict[str, Any], indent: str) -> list[tuple[str, str]]:
    rows = []
    for i, (name, below) in enumerate(nodes.items()):
        last = i == len(nodes) - 1
        leaf = isinstance(below, str)
        rows.append((f"{indent}{'└── ' if last else '├── '}{name}", below if leaf else ""))
        if not leaf:
            rows += _branches(below, indent + ("    " if last else "│   "))
    return rows


@app.command("check")
def check(
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME|SPEC",
            help="A data set; see: uadctl datasets list. Or a TOML spec.",
            autocompletion=complete_dataset,
        ),
    ],
    root: o.Root = None,
    category: o.Category = None,
    split: o.Split = None,
    json_: Json = False,
    quiet: o.Quiet = False,
    debug: o.Debug = False,
) -> None:
    """Read every image and mask: counts, sizes, and all that is wrong, at once.

    Example: uadctl datasets check mvtec --root DIR --category bottle

    Exit codes: 2 if a bench would fail or an image is both learned and tested on; 0 otherwise, warnings or not.
    """
    screen.configure(quiet=quiet, debug=debug)
    chosen = tuple(category) if category else None
    spec = None
    if name.endswith(".toml") or Path(name).is_file():
        spec = o.read(name, Overrides(root=root, categories=chosen, split=split)).spec
    else:
        entry = resolve_dataset(name)
        if root is None and entry.needs_root:
            raise SpecError(f"{entry.name} needs the folder it lies in", help="Give --root DIR.")
    from uadctl.check import check_dataset, check_spec

    with screen.progress() as progress:
        if spec is not None:
            report = check_spec(spec, progress=progress)
        else:
            report = check_dataset(name, root=root, categories=chosen, split=split, progress=progress)
    if json_:
        print_lines(json.dumps(_document(report), allow_nan=False))
    else:
        for found in report.categories:
            _print_category(found)
    _say("error", report.errors)
    if not quiet:
        _say("warning", report.warnings)
    if not json_:
        print_lines(_summary(report))
    if not report.ok:
        raise typer.Exit(2)


def _document(report: Report) -> dict[str, Any]:
    return {
        "schema": 1,
        "dataset": report.name,
        "root": report.root and _utf8(report.root),
        "ok": report.ok,
        "categories": [
            {
                "category": _utf8(c.category),
                "images": c.images,
                "counts": [
                    {"split": n.split, "defect": _utf8(n.defect), "images": n.images, "masks": n.masks}
                    for n in c.counts
                ],
                "sizes": [{"height": s.size.height, "width": s.size.width, "images": s.images} for s in c.sizes],
            }
            for c in report.categories
        ],
        "errors": [_problem(p) for p in report.errors],
        "warnings": [_problem(p) for p in report.warnings],
    }


def _problem(problem: Problem) -> dict[str, str | None]:
    return {"message": _utf8(problem.message), "help": problem.help and _utf8(problem.help)}


def _utf8(text: str) -> str:
    """A path's bytes outside of UTF-8 backslash-escaped, as strict JSON needs it."""
    return text.encode("utf-8", "backslashreplace").decode()


def _print_category(found: CategoryReport) -> None:
    print_lines(printable(f"{found.category}: {_plural(found.images, 'image')}, {_sizes(found)}"))
    rows = [
        [n.split, printable(n.defect), str(n.images), "" if n.defect == "good" else str(n.masks)] for n in found.counts
    ]
    print_table(("split", "kind", "images", "masks"), rows, text_columns=2)


def _sizes(found: CategoryReport) -> str:
    sizes = found.sizes
    if not sizes:
        return "none can be read"
    if len(sizes) == 1:
        return f"{sizes[0].size} (height x width)"
    if len(sizes) <= _NAMED_SIZES:
        return f"{len(sizes)} sizes: {', '.join(f'{s.size} ({s.images})' for s in sizes)} (height x width)"
    heights, widths = [s.size.height for s in sizes], [s.size.width for s in sizes]
    return f"{len(sizes)} sizes: height {min(heights)} to {max(heights)}, width {min(widths)} to {max(widths)}"


def _say(kind: str, problems: Sequence[Problem]) -> None:
    """A line for each problem; a help that several share follows the last of them."""
    for help_, group in groupby(problems, key=lambda problem: problem.help):
        *others, last = group
        for problem in others:
            screen.message(kind, problem.message)
        screen.message(kind, last.message, help_)


def _summary(report: Report) -> str:
    held = f"{_count(len(report.categories), 'category', 'categories')}, "
    held += _plural(sum(c.images for c in report.categories), "image")
    return f"{held}: {_plural(len(report.errors), 'error')}, {_plural(len(report.warnings), 'warning')}"


def _plural(n: int, noun: str) -> str:
    return _count(n, noun, f"{noun}s")


def _count(n: int, one: str, many: str) -> str:
    return f"{n} {one if n == 1 else many}"


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
