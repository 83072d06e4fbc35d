"""`uadctl report`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from uadctl.cli import options as o
from uadctl.cli.complete import complete_run
from uadctl.cli.console import print_lines, print_table, print_told, screen
from uadctl.errors import RunError, SpecError

if TYPE_CHECKING:
    from uadctl.runs.folder import RunFolder
    from uadctl.runs.listing import Errors, Listed

_MAX_OVERLAYS = 200


def report(
    run: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[RUN|SPEC]...",
            help="Run folders, or specs for their newest finished runs. Several are held against the first.",
            show_default=False,
            autocompletion=complete_run,
        ),
    ] = None,
    listed: Annotated[
        str | None,
        typer.Option("--list", metavar="DIR", help="List the runs below DIR in place of a page, the newest first."),
    ] = None,
    out: Annotated[
        str | None,
        typer.Option(
            "--out", metavar="DIR", help="Where the page is written. Default: report/ in the last run folder."
        ),
    ] = None,
    category: Annotated[
        list[str] | None, typer.Option("--category", help="Category, or a glob. Repeatable. Default: all.")
    ] = None,
    max_overlays: Annotated[
        int,
        typer.Option(
            "--max-overlays",
            metavar="N",
            min=0,
            help="Pictures a unit: missed defects first, then false alarms. Of several runs: changed verdicts in all.",
        ),
    ] = _MAX_OVERLAYS,
    csv: Annotated[
        str | None, typer.Option("--csv", metavar="FILE", help="Write every metric of every unit to FILE, a line each.")
    ] = None,
    markdown: Annotated[
        str | None, typer.Option("--markdown", metavar="FILE", help="Write a summary for a job page to FILE.")
    ] = None,
    junit: Annotated[
        str | None, typer.Option("--junit", metavar="FILE", help="Write units and limits as JUnit XML to FILE.")
    ] = None,
    page: Annotated[bool, typer.Option("--page/--no-page", help="Make the page, or only the files asked for.")] = True,
    json_: Annotated[bool, typer.Option("--json", help="With --list: print JSON for programs.")] = False,
    log_file: o.LogFile = None,
    quiet: o.Quiet = False,
    debug: o.Debug = False,
) -> None:
    """Make one HTML page of a run, or of several side by side; or list the runs there are.

    Examples: uadctl report runs/20260101T120000Z-demo-0123abcd; uadctl report OLD NEW --csv figures.csv;
    uadctl report --list runs

    No model is loaded, no image scored: run folders are read, and of the data set the images that the page shows, with
    their masks. The page needs no network. It prints where the page is.
    """
    files = (("--csv", csv), ("--markdown", markdown), ("--junit", junit))
    for target in run or ():
        o.check_distinct(("RUN", target), *files, ("--log-file", log_file))
    o.check_distinct(*files, ("--log-file", log_file))
    screen.configure(quiet=quiet, debug=debug, log_file=log_file)
    if listed is not None:
        without_effect = [("RUN", bool(run)), ("--out", out is not None), ("--category", bool(category))]
        without_effect += [("--max-overlays", max_overlays != _MAX_OVERLAYS), ("--no-page", not page)]
        without_effect += [(option, name is not None) for option, name in files]
        _refuse([option for option, one in without_effect if one], "has no effect with --list")
        _list(listed, as_json=json_)
        return
    if not run:
        raise SpecError("no run named", help="Name a run folder, or see what there is with: uadctl report --list runs")
    _refuse(["--json"] if json_ else [], "has no effect without --list")
    if not page:
        given = {"--out": out is not None, "--max-overlays": max_overlays != _MAX_OVERLAYS}
        _refuse([option for option, one in given.items() if one], "has no effect with --no-page")
        if csv is None and markdown is None and junit is None:
            raise SpecError("--no-page: nothing is left to write", help="Add --csv, --markdown or --junit FILE.")
    if junit is not None and len(run) > 1:
        raise SpecError(
            f"--junit {junit}: takes one run, {len(run)} are named",
            help="A difference between runs is no test that passes or fails; a gate is: uadctl bench --gate FILE",
        )
    found = [o.finished_run(target) for target in run]
    made = Path(out) if out is not None else found[-1].path / "report"
    whole_page = made / ("index.html" if len(found) == 1 else "comparison.html")
    if out is None and made.is_symlink():
        raise RunError(f"{made}: is a link; it was left as it is", help="Give a folder with --out.")
    o.check_distinct(("the page", str(whole_page)), *files, ("--log-file", log_file))
    for option, name in files:
        if name is not None:
            _keep_runs_whole(option, name)
    if page:  # what would be refused after the files are written is refused before
        from uadctl.report.html import refuse_foreign

        refuse_foreign(whole_page)
    o.check_outputs(files=files)
    made_page = _page(found, out, category or None, max_overlays) if page else None
    _write(found, category or None, csv=csv, markdown=markdown, junit=junit)
    if made_page is not None:
        print_told(str(made_page))


def _refuse(options: Sequence[str], why: str) -> None:
    for option in options:
        raise SpecError(f"{option}: {why}", help="Leave it out.")


def _keep_runs_whole(option: str, name: str) -> None:
    """SpecError for a file that would lie among those of a run, of any run; its report/ holds what was made of it."""
    place = Path(name).parent.resolve() / Path(name).name  # writing replaces a link, not what it leads to
    for folder in place.parents:
        is_run = (folder / "run.json").is_file() and (folder / "spec.toml").is_file()
        if is_run and not place.is_relative_to(folder / "report"):
            typed = next(
                (str(parent) for parent in reversed(Path(name).parents) if parent.resolve() == folder), str(folder)
            )
            raise SpecError(
                f"{option} {name}: lies in the run folder {typed}, which holds only what the run wrote",
                help="Name a file elsewhere, or in its report/",
            )


def _write(
    runs: Sequence[RunFolder],
    categories: Sequence[str] | None,
    *,
    csv: str | None,
    markdown: str | None,
    junit: str | None,
) -> None:
    """The files beside the page. What they need is read once."""
    if csv is None and markdown is None and junit is None:
        return
    from uadctl.report.reading import read_run

    if len(runs) > 1:
        from uadctl.report.pairing import read_runs

        read = read_runs([run.path for run in runs], categories=categories)
    else:
        read = (read_run(runs[0], categories=categories),)
    if csv is not None:
        from uadctl.report.tables import write_table

        write_table(csv, read)
    if markdown is not None and len(read) > 1:
        from uadctl.report.comparison import write_comparison

        write_comparison(markdown, read)
    elif markdown is not None:
        from uadctl.report.markdown import write_markdown

        write_markdown(markdown, read[0])
    if junit is not None:
        from uadctl.report.junit import write_junit_of_run

        write_junit_of_run(junit, read[0])


def _page(runs: Sequence[RunFolder], out: str | None, categories: Sequence[str] | None, most: int) -> Path:
    with screen.progress() as progress:
        if len(runs) > 1:
            from uadctl.report.comparison import compare_runs

            paths = [run.path for run in runs]
            return compare_runs(paths, out=out, categories=categories, max_images=most, progress=progress)
        from uadctl.report.html import report as write_report

        return write_report(runs[0].path, out=out, categories=categories, max_overlays=most, progress=progress)


# --list


def _list(folder: str, *, as_json: bool) -> None:
    from uadctl.runs.listing import list_runs

    runs = list_runs(folder)
    if as_json:
        import json

        document = {"schema": 1, "runs": [run.document() for run in runs]}
        print_lines(json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False))
        return
    if not runs:
        screen.note(f"{folder}: no run folder in it or below it", kind="note")
        return
    headings = ("run", "status", "data", "model", "categories", "seeds", "image AUROC", "AUPRO", "pixel AP")
    rows = [row for run in runs for row in _rows(run)]
    print_table((*headings, "missed", "false alarms", "gate", "started"), rows, text_columns=4, wrap=False)
    for run in runs:
        if run.reason is not None:
            screen.note(run.reason)


def _rows(run: Listed) -> list[tuple[str, ...]]:
    """A row a model, the run's own facts in the first."""
    first = (str(run.path), _status(run), run.dataset or "–")
    last = ({None: "–", True: "held", False: "broken"}[run.gate], run.started[:16].replace("T", " ") or "–")
    rows: list[tuple[str, ...]] = []
    for i, label in enumerate(run.labels or (", ".join(run.models) or "–",)):
        means: dict[str, Any] = run.means.get(label, {})
        aupro = next((name for name in means if name.startswith("aupro_")), "aupro_30")
        region = _number(means.get(aupro)) + ("" if aupro == "aupro_30" else f" ({aupro})")
        missed, alarms = _counts(run.errors.get(label))
        rows.append(
            (
                *(first if i == 0 else ("", "", "")),
                label,
                str(len(run.categories)),
                str(len(run.seeds)),
                _number(means.get("image_auroc")),
                region,
                _number(means.get("pixel_ap")),
                missed,
                alarms,
                *(last if i == 0 else ("", "")),
            )
        )
    return rows


def _status(run: Listed) -> str:
    said = "damaged" if run.status is None else f"{run.verb} {run.status}"
    if run.failed_units:
        said += f", {run.failed_units} of {run.units} units failed"
    return f"{said}, in use" if run.in_use else said


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"


def _counts(errors: Errors | None) -> tuple[str, str]:
    if errors is None:
        return "–", "–"
    pairs = ((errors.missed, errors.defect_images), (errors.false_alarms, errors.normal_images))
    missed, alarms = ("–" if count is None else f"{count}/{of}" for count, of in pairs)
    return missed, alarms
