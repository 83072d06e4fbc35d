"""`uadctl datasets`."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from uadctl.cli import options as o
from uadctl.cli.complete import complete_dataset
from uadctl.cli.console import print_lines, print_table, print_told, screen
from uadctl.datasets.manifest import check_manifest_name, compose_manifest, manifest_kind
from uadctl.errors import DataError, SpecError
from uadctl.spec import DatasetTable, Overrides
from uadctl.spec.data_sets import DATASETS, DatasetEntry, Place
from uadctl.spec.registry import resolve_dataset
from uadctl.spec.roles import FOLDER_ROLES, MASK_ROLES
from uadctl.spec.values import printable

if TYPE_CHECKING:
    from uadctl.check import CategoryReport, Report
    from uadctl.datasets import Dataset
    from uadctl.datasets.manifest import Written
    from uadctl.errors import Problem
    from uadctl.spec import RunSpec
    from uadctl.split import HeldOut
    from uadctl.submission import SubmissionReport

app = typer.Typer(help="The data sets that can be read.", rich_markup_mode=None)

Json = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
DatasetOrSpec = Annotated[
    str,
    typer.Argument(
        metavar="NAME|SPEC",
        help="A data set; see: uadctl datasets list. Or a TOML spec.",
        autocompletion=complete_dataset,
    ),
]
Layout = Annotated[
    str | None, typer.Option("--layout", help="Which layout to read, where several are found. Default: the one found.")
]

Force = Annotated[bool, typer.Option("--force", help="Replace a manifest that is there already.")]

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
    """List the kinds of data set: name, summary, layout. Licence and paper: uadctl datasets show NAME"""
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
        "extra": entry.extra,
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
        ("extra", entry.extra and f"{entry.extra}: pip install 'uadctl[{entry.extra}]'"),
    ]
    print_lines(f"{entry.name}: {entry.summary}\n")
    print_lines("\n".join(f"{title}: {text}" for title, text in facts if text))
    print_lines("\n" + "\n".join(_tree(entry.places)))
    if entry.takes_files:
        print_lines(f"\nOther folders: [dataset.files] {', '.join(FOLDER_ROLES)}, mask (globs)")
        print_lines(f"With by_mask = true: {', '.join(MASK_ROLES)} (globs), mask, classes")
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
    name: DatasetOrSpec,
    root: o.Root = None,
    category: o.Category = None,
    split: o.Split = None,
    layout: Layout = None,
    write_manifest: Annotated[
        str | None,
        typer.Option(
            "--write-manifest",
            metavar="FILE.csv|.jsonl",
            help="Unless there are errors, list every image in a manifest: a data set of its own, to edit.",
        ),
    ] = None,
    force: Force = False,
    submission: Annotated[
        str | None,
        typer.Option(
            "--submission",
            metavar="DIR",
            help="Check this submission to MVTec AD 2's server instead; with --root, held against the images.",
        ),
    ] = None,
    json_: Json = False,
    log_file: o.LogFile = None,
    quiet: o.Quiet = False,
    debug: o.Debug = False,
) -> None:
    """Read every image and mask: counts, sizes, and all that is wrong, at once.

    Example: uadctl datasets check mvtec --root DIR --category bottle

    Exit codes: 2 if a bench would fail; 0 otherwise, warnings or not.
    """
    _keep_log_apart(name, root, ("--write-manifest", write_manifest), ("--log-file", log_file))
    screen.configure(quiet=quiet, debug=debug, log_file=log_file)
    if force and write_manifest is None:
        raise SpecError("--force: has no effect without --write-manifest")
    if submission is not None:
        for option, given in (("--write-manifest", write_manifest), ("--split", split), ("--layout", layout)):
            if given is not None:
                raise SpecError(f"{option} {given}: has no effect on --submission, which is checked by itself")
        _check_submission(submission, name, root=root, category=category, json_=json_)
        return
    table, spec = _target(name, root=root, category=category, split=split, layout=layout)
    prepared = None
    if write_manifest is not None:
        _check_manifest("--write-manifest", write_manifest, table, force=force)
        prepared = _prepared(write_manifest, table)
    from uadctl.check import check_dataset, check_spec

    with screen.progress() as progress:
        if spec is not None:
            report = check_spec(spec, progress=progress)
        else:
            report = check_dataset(
                table.name,
                root=root,
                categories=category or None,
                split=split,
                layout=layout,
                progress=progress,
            )
    if write_manifest is not None and report.ok:
        prepared = prepared or compose_manifest(write_manifest, _load(table))
        prepared.save()
    if json_:
        print_lines(json.dumps(_document(report), allow_nan=False))
    else:
        for found in report.categories:
            _print_category(found)
    _say("error", report.errors)
    if not quiet:
        _say("warning", report.warnings)
        _say("note", report.notes)
    if not json_:
        print_lines(_summary(report))
        if prepared is not None and report.ok:
            print_told(f"manifest: {write_manifest}, {_plural(prepared.images, 'image')}")
    if not report.ok:
        if write_manifest is not None:
            screen.message("error", f"--write-manifest {write_manifest}: nothing was written, for there are errors")
        raise typer.Exit(2)


def _is_spec(name: str) -> bool:
    return name.endswith(".toml") or os.path.isfile(name)  # noqa: PTH113 - Path raises for a name that is too long


def _target(
    name: str,
    *,
    root: str | None,
    category: Sequence[str] | None,
    split: str | None,
    layout: str | None,
    seed: int | None = None,
) -> tuple[DatasetTable, RunSpec | None]:
    """The data set that is meant, and the spec that says so, if one does."""
    chosen = tuple(category) if category else None
    if _is_spec(name):
        if manifest_kind(name) is not None:
            raise SpecError(f"{name}: is no spec", help=f"A manifest is given as: manifest --root {name}")
        spec = _spec(name, Overrides(root=root, categories=chosen, split=split, seed=seed), layout=layout)
        return spec.dataset, spec
    entry = resolve_dataset(name)
    if root is None and entry.needs_root:
        raise SpecError(f"{entry.name} needs the folder it lies in", help="Give --root DIR.")
    categories: Any = "all" if chosen is None else chosen
    return DatasetTable(name=entry.name, root=root, categories=categories, split=split, layout=layout), None


def _spec(name: str, overrides: Overrides, *, layout: str | None) -> RunSpec:
    """A spec with another layout, and what is wrong with that under the name of the option that was typed."""
    if layout is None:
        return o.read(name, overrides).spec
    setting = f"dataset.layout={json.dumps(layout)}"
    try:
        return o.read(name, replace(overrides, set=(setting,))).spec
    except SpecError as error:
        typed = [
            replace(problem, message=problem.message.replace(f"--set {setting}", f"--layout {layout}", 1))
            for problem in error.problems
        ]
        raise SpecError(typed, source=error.source) from error


def _keep_log_apart(name: str, root: str | None, *files: tuple[str, str | None]) -> None:
    o.check_distinct(("SPEC", name if _is_spec(name) else None), ("the root of the data set", root), *files)


def _check_manifest(option: str, file: str, table: DatasetTable, *, force: bool) -> None:
    """SpecError where a manifest cannot be written to `file`: said before work is done for it."""
    check_manifest_name(file, option=option)
    o.check_distinct(("the root of the data set", table.root), (option, file))
    o.check_outputs(files=[(option, file)])
    path = Path(file)
    if not os.path.lexists(path):
        return
    # A link would be replaced, not the file that it leads to.
    if table.root is not None and (path.parent.resolve() / path.name).is_relative_to(Path(table.root).resolve()):
        raise SpecError(
            f"{option} {file}: exists, and lies below the root of the data set", help="Name another file, or remove it."
        )
    if not force:
        raise SpecError(f"{option} {file}: exists", help="Give --force to replace it.")


def _prepared(file: str, table: DatasetTable) -> Written | None:
    """The manifest, so that what keeps it from being written is said before the images are read.

    None if there is something wrong with the data set: the check says it, with all else.
    """
    try:
        datasets = _load(table)
    except DataError:
        return None
    written = compose_manifest(file, datasets)
    _say_what_is_lost(file, datasets)
    return written


def _load(table: DatasetTable) -> list[Dataset]:
    from uadctl.plan import choose_categories, load_category

    return [load_category(table, category) for category in choose_categories(table)]


def _say_what_is_lost(file: str, datasets: Iterable[Dataset]) -> None:
    if any(dataset.defects is not None for dataset in datasets):
        screen.note(f"{file}: sPRO cannot be measured from a manifest, which has no place for defects_config.json")


def _check_submission(folder: str, name: str, *, root: str | None, category: Sequence[str] | None, json_: bool) -> None:
    """`check --submission`: the root may be missing, the images are then not compared."""
    from uadctl.submission import check_submission

    categories = category or None
    if _is_spec(name):
        table, _ = _target(name, root=root, category=category, split=None, layout=None)
        dataset, root = table.name, table.root
        categories = None if table.categories == "all" else table.categories
    else:
        dataset = resolve_dataset(name).name
    if dataset != "mvtec_ad2":
        raise SpecError(f"--submission is for mvtec_ad2, which has an evaluation server; {dataset} has none")
    with screen.progress() as progress:
        report = check_submission(folder, root=root, categories=categories, progress=progress)
    if json_:
        print_lines(json.dumps(_submission_document(report), allow_nan=False))
    elif report.objects:
        rows = [
            [printable(found.category), split.split, str(split.images), str(split.called)]
            for found in report.objects
            for split in found.splits
        ]
        print_table(("object", "split", "maps", "called anomalous"), rows, text_columns=2)
    _say("error", report.errors)
    if not screen.quiet:
        _say("warning", report.warnings)
    if not json_:
        held = f"{_plural(len(report.objects), 'object')}, {_plural(report.images, 'map')}"
        print_told(f"{held}: {_plural(len(report.errors), 'error')}, {_plural(len(report.warnings), 'warning')}")
    if not report.ok:
        raise typer.Exit(2)


def _submission_document(report: SubmissionReport) -> dict[str, Any]:
    return {
        "schema": 1,
        "submission": _utf8(report.folder),
        "root": report.root and _utf8(report.root),
        "ok": report.ok,
        "categories": [
            {
                "category": _utf8(found.category),
                "maps": found.images,
                "splits": [{"split": s.split, "maps": s.images, "called_anomalous": s.called} for s in found.splits],
            }
            for found in report.objects
        ],
        "errors": [_problem(p) for p in report.errors],
        "warnings": [_problem(p) for p in report.warnings],
    }


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
        "notes": [_problem(p) for p in report.notes],
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


@app.command("split")
def split(
    name: DatasetOrSpec,
    out: Annotated[
        str, typer.Option("--out", metavar="FILE.csv|.jsonl", help="The manifest to write: every image and its split.")
    ],
    force: Force = False,
    root: o.Root = None,
    category: o.Category = None,
    split_: o.Split = None,
    layout: Layout = None,
    holdout: Annotated[
        float | None,
        typer.Option(
            help="Share of each category's training images. Default: the spec's [calibration] holdout, or 0.2."
        ),
    ] = None,
    seed: Annotated[
        int | None, typer.Option(min=0, help="Another seed draws other images. Default: the spec's, or 0.")
    ] = None,
    to: Annotated[Literal["validation", "test"], typer.Option(help="Where they go.")] = "validation",
    json_: Json = False,
    log_file: o.LogFile = None,
    quiet: o.Quiet = False,
    debug: o.Debug = False,
) -> None:
    """Hold out good training images, for the threshold or for testing; groups stay together.

    No image is moved or copied: a manifest says what is in which split.

    Example: uadctl datasets split mvtec --root DIR --category bottle --out bottle.csv

    Then: uadctl bench --dataset manifest --root bottle.csv --model vision_patchcore
    """
    _keep_log_apart(name, root, ("--out", out), ("--log-file", log_file))
    screen.configure(quiet=quiet, debug=debug, log_file=log_file)
    table, spec = _target(name, root=root, category=category, split=split_, layout=layout, seed=seed)
    _check_manifest("--out", out, table, force=force)
    from uadctl.split import split as split_data

    share = holdout if holdout is not None else (spec and spec.calibration.holdout) or 0.2
    if not 0 < share < 1:
        raise SpecError(f"--holdout {share:g}: expected a share above 0 and below 1")
    seeds = spec.run.all_seeds if spec is not None else (seed or 0,)
    if len(seeds) > 1:
        raise SpecError(f"{name}: has {len(seeds)} seeds, and a split is drawn with one", help="Give --seed N.")
    seed = seeds[0]
    results = split_data(table, out=out, holdout=share, seed=seed, to=to)
    _say_what_is_lost(out, [result.dataset for result in results])
    if json_:
        document = {
            "schema": 1,
            "dataset": table.name,
            "root": table.root and _utf8(table.root),
            "manifest": _utf8(out),
            "holdout": share,
            "seed": seed,
            "to": to,
            "categories": [_held_out(result) for result in results],
        }
        print_lines(json.dumps(document, allow_nan=False))
        return
    _print_split(results, to)
    print_told(f"manifest: {out}")


def _held_out(result: HeldOut) -> dict[str, Any]:
    data = result.dataset
    return {
        "category": _utf8(result.category),
        "held_out": [_utf8(sample.relative) for sample in result.images],
        "parts": result.parts,
        "train": len(data.train),
        "validation": len(data.validation),
        "test": len(data.test),
        "left_out": len(data.left_out),
    }


def _print_split(results: Sequence[HeldOut], to: str) -> None:
    """How many images were moved of each category; and of how many parts, where that is another number."""
    grouped = any(result.parts != len(result.images) for result in results)
    headings = ["category", f"to\n{to}", *(["of\nparts"] if grouped else []), "train", "validation", "test"]
    rows = []
    for result in results:
        data = result.dataset
        numbers = [len(data.train), len(data.validation), len(data.test)]
        moved = [len(result.images), *([result.parts] if grouped else [])]
        rows.append([printable(result.category), *(str(n) for n in moved + numbers)])
    print_table(headings, rows, text_columns=1)


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
