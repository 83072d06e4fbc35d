"""`uadctl bench`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from uadctl.cli import options as o
from uadctl.cli.console import print_lines, print_table, screen
from uadctl.errors import SpecError
from uadctl.spec import PROTOCOLS, Overrides

if TYPE_CHECKING:
    from uadctl.bench import BenchResult
    from uadctl.spec import RunSpec

# The columns for people and what stands above them, in their order; AUPRO follows, and then parts of several images.
# Everything else is in metrics.json only.
_HEADINGS = {
    "image_auroc": "image\nAUROC",
    "image_auroc_logical": "AUROC\nlogical",
    "image_auroc_structural": "AUROC\nstruct.",
    "spro_05": "sPRO\n@0.05",
    "spro_05_logical": "sPRO\nlogical",
    "spro_05_structural": "sPRO\nstruct.",
    "segf1": "SegF1",
    "classf1": "ClassF1",
    "image_ap": "image\nAP",
    "image_f1max": "image\nF1max",
    "pixel_auroc": "pixel\nAUROC",
    "pixel_ap": "pixel\nAP",
    "pixel_f1max": "pixel\nF1max",
}
_GROUPS = {"group_auroc": "part\nAUROC", "group_f1max": "part\nF1max"}
# More than these do not fit beside each other on 80 columns: the protocol's own then have a table for themselves.
_MOST_COLUMNS = 7


def bench(
    spec: o.SpecArgument = None,
    set_: o.Set = None,
    dataset: o.DatasetOption = None,
    root: o.Root = None,
    category: o.Category = None,
    split: o.Split = None,
    model: o.Model = None,
    model_kwargs: o.ModelKwargs = None,
    checkpoint_path: o.CheckpointPath = None,
    pretrained: o.Pretrained = None,
    pixel: o.Pixel = None,
    device: o.Device = None,
    seed: o.Seed = None,
    limit_train: o.LimitTrain = None,
    limit_test: o.LimitTest = None,
    run_dir: o.RunDir = None,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume", help="Go on with a RUN, or with the newest unfinished run of SPEC; finished cells are kept."
        ),
    ] = False,
    output: Annotated[
        str | None, typer.Option("--output", metavar="FILE", help="Write the JSON report to FILE.")
    ] = None,
    junit: Annotated[
        str | None,
        typer.Option("--junit", metavar="FILE", help="Write units and limits as JUnit XML, for CI systems."),
    ] = None,
    submission: Annotated[
        str | None,
        typer.Option(
            "--submission",
            metavar="DIR",
            help="Write what MVTec AD 2's evaluation server takes: maps of the private test images.",
        ),
    ] = None,
    json_: o.Json = False,
    dry_run: o.DryRun = False,
    quiet: o.Quiet = False,
    debug: o.Debug = False,
) -> None:
    """Fit, score and measure every category and model of a spec.

    Example: uadctl bench specs/demo.toml

    Without a spec: uadctl bench --dataset mvtec --root DIR --category bottle --model vision_patchcore

    Exit codes: 1 if a unit failed, 3 if a limit of [gate] is broken; 1 wins.
    """
    screen.configure(quiet=quiet, debug=debug)
    o.check_distinct(("SPEC", spec), ("--output", output), ("--junit", junit))
    if resume and spec is not None and Path(spec).is_dir() and run_dir is not None:
        raise SpecError("--run-dir has no effect on --resume RUN: the run goes on where it lies")
    if resume and spec is None and dataset is None:
        raise SpecError(
            "--resume: which run?", help="uadctl bench --resume RUN, or the bench's own command and --resume"
        )
    overrides = Overrides(
        set=tuple(set_ or ()),
        dataset=dataset,
        root=root,
        categories=tuple(category) if category else None,
        split=split,
        model=model,
        model_kwargs=model_kwargs,
        checkpoint_path=checkpoint_path,
        pretrained=pretrained,
        pixel=pixel,
        device=device,
        seed=seed,
        limit_train=limit_train,
        limit_test=limit_test,
        run_dir=run_dir,
    )
    reading = o.read(o.spec_file(spec), overrides)
    if submission == "":
        raise SpecError("--submission: expected the name of a folder")
    if dry_run:
        if submission is not None:
            raise SpecError("--submission has no effect on --dry-run: nothing is scored")
        print_plan(reading.spec, json_=json_)
        return
    o.check_outputs(files=[("--output", output), ("--junit", junit)], folders=[("--submission", submission)])
    from uadctl.bench import bench as run_bench
    from uadctl.runs.folder import RunFolder, newest

    unfinished = None
    if resume:
        folder = Path(spec) if spec is not None and Path(spec).is_dir() else None
        unfinished = (
            newest(reading.spec, finished=False)
            if folder is None
            else RunFolder.unfinished(folder, reading.spec, done_too=submission is not None)
        )
    screen.interrupted = "Go on where it stopped with the same command and --resume"
    with screen.progress(device=o.show_device(reading.spec.run.device)) as progress:
        result = run_bench(
            reading.spec, resume=unfinished, submission=submission, progress=progress, notes=reading.notes
        )
    document = {
        "schema": 1,
        "run": str(result.run.path),
        **_body(result.metrics),
        "gate": None if result.gate is None else result.gate.document(),
        "submission": None if submission is None else [asdict(part) for part in result.submission],
        "timing": _body(result.timing),
    }
    if output is not None:
        from uadctl.report import save_run_report

        save_run_report(output, document)
    if json_:
        print_lines(json.dumps(document, allow_nan=False))
    else:
        _print_results(result, reading.spec)
        if submission is not None:
            images = sum(part.images for part in result.submission)
            n = len(result.submission)
            print_lines(f"submission: {submission}: {n} {'object' if n == 1 else 'objects'}, {images} images")
    if junit is not None:
        from uadctl.report.junit import write_junit

        write_junit(junit, result.metrics, result.gate, timing=result.timing, name=result.run.path.name)
    if result.submission_error is not None:
        screen.error(result.submission_error)
    if result.gate is not None and not result.gate.passed:
        broken = result.gate.error()
        if not result.failed and result.submission_error is None:
            raise broken
        screen.error(broken)
    if result.failed or result.submission_error is not None:
        raise typer.Exit(1)


def _body(document: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in document.items() if key != "schema"}


def _print_results(result: BenchResult, spec: RunSpec) -> None:
    """A table of metrics and one of costs, a row a cell; what is undefined is a dash, and its reason follows below."""
    columns, several = _columns(result, spec), len(spec.models) > 1
    if len(columns) <= _MOST_COLUMNS:
        _print_metrics(result, columns, several=several, counts=True)
    else:
        official = PROTOCOLS[spec.metrics.protocol].metrics
        _print_metrics(result, [c for c in columns if c[1] in official], several=several, counts=True)
        _print_metrics(result, [c for c in columns if c[1] not in official], several=several, counts=False)
    reasons: dict[str, list[str]] = {}
    for name, cell in _cells(result, several=several):
        for metric, reason in cell.get("reasons", {}).items():
            reasons.setdefault(f"{name}: {reason}", []).append(metric)
    for reason, names in reasons.items():
        print_lines(f"{reason} ({', '.join(names)})")
    for name, cell in _cells(result, several=several):
        missed = [(k, d["missed"], d["images"]) for k, d in cell.get("by_defect", {}).items() if d["missed"]]
        if missed:
            print_lines(f"{name} missed: {', '.join(f'{kind} {n} of {of}' for kind, n, of in missed)}")
    _print_costs(result, several=several)
    if result.gate is not None:
        n = len(result.gate.limits)
        print_lines(f"gate: {n - len(result.gate.broken)} of {n} limits hold")
    print_lines(f"run: {result.run.path}")


def _print_metrics(result: BenchResult, columns: Sequence[tuple[str, str]], *, several: bool, counts: bool) -> None:
    """A table of some metrics, a row a cell and the means below.

    columns: heading and metric. several: whether there are several models. counts: missed and false alarms beside them.
    """
    rows: list[list[str]] = []
    for name, cell in _cells(result, several=several):
        if not cell["success"]:
            rows.append([name, "failed", *[""] * (len(columns) - 1)])
            continue
        m = cell["metrics"]
        at_threshold = [_share(m["fn"], m["tp"]), _share(m["fp"], m["tn"])] if counts else []
        rows.append([name, *(_number(m.get(k)) for _, k in columns), *at_threshold])
        if cell.get("intervals"):
            pairs = [cell["intervals"].get(k) for _, k in columns]
            for end, side in enumerate(("low", "high")):
                # Where all resamples agree they tell nothing.
                ends = [pair[end] if pair and pair[0] < pair[1] else None for pair in pairs]
                rows.append([f"  95 % {side}", *map(_number, ends)])
    if len(result.metrics["results"]) > 1:
        for label, means in result.metrics["means"].items():
            rows.append([f"mean · {label}" if several else "mean", *(_number(means.get(k)) for _, k in columns)])
    headings = ["category", *(heading for heading, _ in columns), *(["missed", "false\nalarms"] if counts else [])]
    padded = [[*row, *[""] * (len(headings) - len(row))] for row in rows]
    print_table(headings, padded, text_columns=1, wrap=False)


def _columns(result: BenchResult, spec: RunSpec) -> tuple[tuple[str, str], ...]:
    """Heading and metric of what was computed; where no unit was measured, of what would have been."""
    from uadctl.metrics import aupro_name

    limits = {aupro_name(limit): f"AUPRO\n@{limit:g}" for limit in spec.metrics.fpr_limits}
    computed = {name for _, cell in _cells(result, several=False) for name in cell.get("metrics", ())}
    if not computed:
        ours = PROTOCOLS[spec.metrics.protocol].own
        of_others = {name for protocol in PROTOCOLS.values() for name in protocol.own} - set(ours)
        computed = {name for name in _HEADINGS | limits if name not in of_others}
    return tuple((heading, name) for name, heading in (_HEADINGS | limits | _GROUPS).items() if name in computed)


def _cells(result: BenchResult, *, several: bool) -> Iterator[tuple[str, dict[str, Any]]]:
    for category, models in result.metrics["results"].items():
        for label, seeds in models.items():
            for cell in seeds.values():
                yield (f"{category} · {label}" if several else category), cell


def _print_costs(result: BenchResult, *, several: bool) -> None:
    rows = [
        [
            f"{t['category']} · {t['label']}" if several else t["category"],
            f"{t['fit_seconds']:.1f}",
            _number(t["ms_per_image_p50"], 1),
            _number(t["ms_per_image_p95"], 1),
            _number(t["images_per_second"], 1),
            _megabytes(t["model_bytes"]),
            _megabytes(t["peak_memory_bytes"]),
        ]
        for t in result.timing["units"]
    ]
    if rows:
        headings = ("category", "fit s", "ms/image\np50", "ms/image\np95", "images\n/s", "model\nMB", "peak\nMB")
        print_table(headings, rows, text_columns=1, wrap=False)


def _megabytes(size: int | None) -> str:
    return "-" if size is None else f"{size / 1e6:.0f}"


def _number(value: float | None, digits: int = 3) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _share(part: int | None, rest: int | None) -> str:
    return "-" if part is None or rest is None else f"{part}/{part + rest}"


def print_plan(spec: RunSpec, *, json_: bool, testing: bool = True) -> None:
    """What would be run, without opening an image."""
    from uadctl.plan import build_detector, make_plan
    from uadctl.runs.gate import check_categories

    plan = make_plan(spec)
    for m in spec.models:
        build_detector(spec, m).prepare(download=False)
    if testing:
        check_categories(spec.gate, list(dict.fromkeys(cell.category for cell in plan.cells)))
    models: dict[str, dict[str, Any]] = {
        m.label: {"name": m.name, "params": m.params, "weights": build_detector(spec, m).weights_state()}
        for m in spec.models
    }
    units = [
        {
            "category": cell.category,
            "label": cell.model.label,
            "seed": cell.seed,
            "train": len(cell.train),
            "validation": len(cell.dataset.validation),
            "test_good": sum(s.label == 0 for s in cell.test),
            "test_defect": sum(s.label == 1 for s in cell.test),
        }
        for cell in plan.cells
    ]
    if json_:
        print_lines(json.dumps({"schema": 1, "models": models, "units": units}, allow_nan=False))
        return
    headings = ("category", "label", "seed", "train", "validation", "test\ngood", "test\ndefect")
    print_table(headings, [[str(v) for v in u.values()] for u in units], text_columns=2, wrap=False)
    for label, model in models.items():
        params = ", ".join(f"{k} = {v}" for k, v in model["params"].items())
        name = label if label == model["name"] else f"{label}: {model['name']}"
        print_lines(f"{name}({params})\n  weights: {model['weights']}")
    print_lines(f"{len(units)} {'unit' if len(units) == 1 else 'units'}; nothing was run.")
