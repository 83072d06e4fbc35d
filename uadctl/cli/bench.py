"""`uadctl bench`."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from uadctl.cli import options as o
from uadctl.cli.console import print_lines, print_table, print_told, screen
from uadctl.cli.parity import print_answers
from uadctl.cli.robustness import print_robustness
from uadctl.errors import SpecError
from uadctl.spec import PROTOCOLS, Overrides, Reading, variants
from uadctl.spec.values import shown

if TYPE_CHECKING:
    from uadctl.bench import BenchResult
    from uadctl.parity import Question
    from uadctl.runs.gate import Verdict
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
# "0.987 ± 0.004" takes the room of two.
_MOST_SPREADS = 4
# Rows of what a sweep would say of every cell.
_MOST_ROWS = 20


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
    trust_checkpoint: o.TrustCheckpoint = False,
    pretrained: o.Pretrained = None,
    pixel: o.Pixel = None,
    device: o.Device = None,
    seed: o.Seed = None,
    limit_train: o.LimitTrain = None,
    limit_test: o.LimitTest = None,
    run_dir: o.RunDir = None,
    engine: o.Engine = None,
    address: o.Address = None,
    workers: o.Workers = None,
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
    markdown: Annotated[
        str | None,
        typer.Option("--markdown", metavar="FILE", help="Write a summary in Markdown, for the pages of CI jobs."),
    ] = None,
    submission: Annotated[
        str | None,
        typer.Option(
            "--submission",
            metavar="DIR",
            help="Write what MVTec AD 2's evaluation server takes: maps of the private test images.",
        ),
    ] = None,
    parity: Annotated[
        bool,
        typer.Option("--parity", help="Of anomalib's models: how far its two ways for an image lie apart."),
    ] = False,
    protocol: Annotated[
        str | None,
        typer.Option(
            "--protocol",
            metavar="anomalib",
            help="Of anomalib's models: what anomalib itself would report, beside uadctl's numbers.",
        ),
    ] = None,
    robustness: Annotated[
        bool,
        typer.Option(
            "--robustness", help="Also measure the fitted models on changed test images: light, focus, JPEG, position."
        ),
    ] = False,
    gate: Annotated[
        str | None,
        typer.Option("--gate", metavar="FILE", help="Hold the metrics against a baseline: worse than it ends with 3."),
    ] = None,
    update_baseline: Annotated[
        bool,
        typer.Option("--update-baseline", help="Write FILE of --gate from this run, if its limits hold."),
    ] = False,
    json_: o.Json = False,
    dry_run: o.DryRun = False,
    log_file: o.LogFile = None,
    quiet: o.Quiet = False,
    debug: o.Debug = False,
) -> None:
    """Fit, score and measure every category and model of a spec, with every value of its grids and every seed.

    Example: uadctl bench specs/demo.toml

    Without a spec: uadctl bench --dataset mvtec --root DIR --category bottle --model vision_patchcore

    Exit codes: 1 if a unit failed, 3 if a limit of [gate] is broken or a metric is worse than the baseline; 1 wins.
    """
    o.check_distinct(
        ("SPEC", spec),
        ("--output", output),
        ("--junit", junit),
        ("--markdown", markdown),
        ("--gate", gate),
        ("--log-file", log_file),
    )
    screen.configure(quiet=quiet, debug=debug, log_file=log_file)
    if update_baseline and gate is None:
        raise SpecError("--update-baseline: which file?", help="Name it: --gate FILE")
    if gate == "":
        raise SpecError("--gate: expected the name of a file")
    if resume and spec is not None and Path(spec).is_dir() and run_dir is not None:
        raise SpecError("--run-dir has no effect on --resume RUN: the run goes on where it lies")
    if resume and spec is None and dataset is None:
        raise SpecError(
            "--resume: which run?", help="uadctl bench --resume RUN, or the bench's own command and --resume"
        )
    questions = _questions(parity=parity, protocol=protocol)
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
        engine=engine,
        address=address,
        workers=workers,
        trust_checkpoint=trust_checkpoint,
    )
    reading = o.read(o.spec_file(spec), overrides)
    o.check_address(address, reading.spec.run)
    reading = _for_gate(reading, gate, resume=spec if resume and spec is not None and Path(spec).is_dir() else None)
    if submission == "":
        raise SpecError("--submission: expected the name of a folder")
    if dry_run:
        if submission is not None:
            raise SpecError("--submission has no effect on --dry-run: nothing is scored")
        if questions or robustness:
            flag = "--parity" if parity else "--protocol" if questions else "--robustness"
            raise SpecError(f"{flag} has no effect on --dry-run: nothing is scored")
        print_plan(
            reading.spec,
            json_=json_,
            trust_checkpoint=trust_checkpoint,
            gate=gate,
            update_baseline=update_baseline,
        )
        return
    written = [
        ("--output", output),
        ("--junit", junit),
        ("--markdown", markdown),
        ("--gate", gate if update_baseline else None),
    ]
    from uadctl.bench import bench as run_bench
    from uadctl.runs.baseline import is_there

    if gate is not None:
        is_there(gate)  # of a name that is too long not even that can be asked
    o.check_outputs(files=written, folders=[("--submission", submission)])
    from uadctl.runs.folder import RunFolder, newest

    unfinished = None
    if resume:
        folder = Path(spec) if spec is not None and Path(spec).is_dir() else None
        unfinished = (
            newest(reading.spec, finished=False)
            if folder is None
            else RunFolder.unfinished(
                folder,
                reading.spec,
                done_too=submission is not None or bool(questions) or robustness or gate is not None,
            )
        )
    screen.interrupted = "Go on where it stopped with the same command and --resume"
    with screen.progress(device=o.bar_device(reading.spec.run)) as progress:
        result = run_bench(
            reading.spec,
            resume=unfinished,
            submission=submission,
            trust_checkpoint=trust_checkpoint,
            questions=questions,
            robustness=robustness,
            gate=gate,
            update_baseline=update_baseline,
            progress=progress,
            notes=reading.notes,
        )
    document = {
        "schema": 1,
        "run": str(result.run.path),
        **_body(result.metrics),
        "gate": None if result.gate is None else result.gate.document(),
        "submission": None if submission is None else [asdict(part) for part in result.submission],
        "parity": result.answers.get("parity"),
        "anomalib": result.answers.get("anomalib"),
        "robustness": result.robustness,
        "timing": _body(result.timing),
    }
    if output is not None:
        from uadctl.report import save_run_report

        save_run_report(output, document)
    if json_:
        print_lines(json.dumps(document, allow_nan=False))
    else:
        _print_results(result, reading.spec)
        print_answers(result.answers, several=_several_labels(result))
        print_robustness(result.robustness or {}, several=_several_labels(result))
        if submission is not None:
            images = sum(part.images for part in result.submission)
            n = len(result.submission)
            print_told(f"submission: {submission}: {n} {'object' if n == 1 else 'objects'}, {images} images")
    _hand_over(result, junit=junit, markdown=markdown)
    incomplete = [error for error in (result.answers_error, result.submission_error) if error is not None]
    for error in incomplete:
        screen.error(error)
    if result.gate is not None and not result.gate.passed:
        broken = result.gate.error()
        if not result.failed and not incomplete:
            raise broken
        screen.error(broken)
    if result.failed or incomplete:
        raise typer.Exit(1)


def _for_gate(reading: Reading, gate: str | None, *, resume: str | None) -> Reading:
    """The spec with the resamples that --gate needs, and a note that says so; a note where [gate.regression] is idle.

    resume: a run folder to go on in, whose spec cannot be changed any more. RunError where it has no resamples.
    """
    spec, note = reading.spec, None
    if gate is None:
        # A run that is gone on with may have been held against one already.
        if spec.gate is not None and spec.gate.regression is not None and resume is None:
            note = "[gate.regression] has no effect without --gate FILE, the baseline to compare with"
    elif spec.metrics.bootstrap == 0 and resume is not None:
        from uadctl.errors import RunError

        raise RunError(
            f"{resume}: was begun without resamples of its test images, which --gate compares",
            help="Start a new run with --gate, or with --set metrics.bootstrap=1000.",
        )
    else:
        from uadctl.bench import with_resamples

        spec = with_resamples(spec)
        if spec != reading.spec:
            note = f"--gate: [metrics] bootstrap = {spec.metrics.bootstrap}, since differences are judged by resamples"
    if note is None:
        return reading
    screen.note(note, kind="note")
    return replace(reading, spec=spec, notes=(*reading.notes, note))


def _questions(*, parity: bool, protocol: str | None) -> tuple[Question, ...]:
    """What to ask of anomalib's models. SpecError for another protocol than anomalib's."""
    if protocol not in (None, "anomalib"):
        data_sets = " Protocols of data sets are set in the spec: --set metrics.protocol=NAME"
        raise SpecError(
            f'--protocol "{protocol}": expected anomalib',
            help=f"It measures as anomalib itself does.{data_sets if protocol in PROTOCOLS else ''}",
        )
    asked: list[Question] = ["parity"] if parity else []
    return (*asked, "anomalib") if protocol is not None else tuple(asked)


def _hand_over(result: BenchResult, *, junit: str | None, markdown: str | None) -> None:
    """The files for CI systems, and what the one whose job this is shows beside it.

    Its lines are for a machine: they go to stderr with --quiet too.
    """
    from uadctl.report.annotations import annotate, append_summary, failed_units
    from uadctl.report.markdown import markdown as summary
    from uadctl.report.markdown import write_markdown
    from uadctl.report.reading import read_run

    if junit is not None:
        from uadctl.report.junit import write_junit

        write_junit(junit, result.metrics, result.gate, timing=result.timing, name=result.run.path.name)
    if markdown is not None:
        write_markdown(markdown, read_run(result.run))
    annotate(result.gate, failed_units(result.metrics), environ=os.environ, write=screen.write, markdown=markdown)
    append_summary(lambda: summary(read_run(result.run)), environ=os.environ, warn=screen.note)


def _body(document: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in document.items() if key != "schema"}


def _print_results(result: BenchResult, spec: RunSpec) -> None:
    """A table of metrics and one of costs; what is undefined is a dash, and its reason follows below.

    A row is a category and a label; of several seeds it tells mean and standard deviation, and all images together.
    """
    columns, several = _columns(result, spec), _several_labels(result)
    most = _MOST_COLUMNS if len(spec.run.all_seeds) == 1 else _MOST_SPREADS
    official = PROTOCOLS[spec.metrics.protocol].metrics
    groups = [list(columns)]
    if len(columns) > most:
        groups = [[c for c in columns if c[1] in official], [c for c in columns if c[1] not in official]]
    if len(spec.run.all_seeds) > 1:
        groups = [part for group in groups for part in _evenly(group, most)]
    for i, group in enumerate(groups):
        _print_metrics(result, group, several=several, first=i == 0)
    reasons: dict[str, dict[str, None]] = {}
    missed: dict[str, dict[str, tuple[int, int]]] = {}
    for name, seeds in _units(result, several=several):
        for cell in seeds.values():
            for metric, reason in cell.get("reasons", {}).items():
                reasons.setdefault(f"{name}: {reason}", {})[metric] = None
            for kind, d in cell.get("by_defect", {}).items():
                n, of = missed.setdefault(name, {}).get(kind, (0, 0))
                missed[name][kind] = (n + (d["missed"] or 0), of + d["images"])
    for reason, names in list(reasons.items())[:_MOST_ROWS]:
        print_told(f"{reason} ({', '.join(names)})")
    _print_left_out(len(reasons), file="metrics.json")
    for name, kinds in missed.items():
        told = [f"{kind} {n} of {of}" for kind, (n, of) in kinds.items() if n]
        if told:
            print_told(f"{name} missed: {', '.join(told)}")
    _print_costs(result, several=several)
    if result.gate is not None:
        print_told(f"gate: {_held(result.gate)}")
        if result.updated:
            print_told(f"gate: {result.gate.baseline} was written from this run")
    print_told(f"run: {result.run.path}")


def _held(gate: Verdict) -> str:
    """How much of a gate holds, in words."""
    limits, compared = len(gate.limits), len(gate.regressions)
    told = []
    if limits:
        told.append(f"{limits - len(gate.broken_limits)} of {limits} limits hold")
    if compared:
        told.append(f"{compared - len(gate.worse)} of {compared} metrics no worse than {gate.baseline}")
    return "; ".join(told) or "nothing to compare yet"


def _evenly(columns: Sequence[tuple[str, str]], most: int) -> Iterator[list[tuple[str, str]]]:
    """The columns in as few tables of at most `most` as will do, all of about one width."""
    tables = math.ceil(len(columns) / most)
    for i in range(tables):
        yield list(columns[i * len(columns) // tables : (i + 1) * len(columns) // tables])


def _print_metrics(result: BenchResult, columns: Sequence[tuple[str, str]], *, several: bool, first: bool) -> None:
    """A table of some metrics, a row a category and label, and the means below. Where one of several seeds failed, a
    row a seed.

    columns: heading and metric. several: whether there are several labels. first: of the tables; it tells missed
    defects and false alarms as well, and what failed.
    """
    rows: list[list[str]] = []
    metrics = result.metrics
    for category, labels in metrics["results"].items():
        for label, seeds in labels.items():
            name = _name(category, label, several=several)
            cells = list(seeds.values())
            if len(cells) > 1 and all(cell["success"] for cell in cells):
                found = metrics["by_category"][category][label]
                rows.append([name, *_spreads(found["means"], found["sds"], columns)])
                rows[-1] += _at_threshold(cells, told=first)
                continue
            for seed, cell in seeds.items():
                if not (cell["success"] or first):
                    continue  # the first table has said it
                rows += _cell_rows(f"{name} · seed {seed}" if len(cells) > 1 else name, cell, columns, counts=first)
    if len(metrics["results"]) > 1:
        for label, means in metrics["means"].items():
            name = f"mean · {label}" if several else "mean"
            rows.append([name, *_spreads(means, metrics["sds"][label], columns)])
    headings = ["category", *(heading for heading, _ in columns), *(["missed", "false\nalarms"] if first else [])]
    padded = [[*row, *[""] * (len(headings) - len(row))] for row in rows]
    if rows or first:
        print_table(headings, padded, text_columns=1, wrap=False)


def _cell_rows(
    name: str, cell: Mapping[str, Any], columns: Sequence[tuple[str, str]], *, counts: bool
) -> Iterator[list[str]]:
    """The row of one unit, and those of its intervals."""
    if not cell["success"]:
        yield [name, "failed", *[""] * (len(columns) - 1)]
        return
    yield [name, *(_number(cell["metrics"].get(k)) for _, k in columns), *_at_threshold([cell], told=counts)]
    if cell.get("intervals"):
        pairs = [cell["intervals"].get(k) for _, k in columns]
        for end, side in enumerate(("low", "high")):
            # Where all resamples agree they tell nothing.
            ends = [pair[end] if pair and pair[0] < pair[1] else None for pair in pairs]
            yield [f"  95 % {side}", *map(_number, ends)]


def _spreads(
    means: Mapping[str, float | None], sds: Mapping[str, float | None], columns: Sequence[tuple[str, str]]
) -> list[str]:
    """ "0.987 ± 0.004" for each column; the mean alone where there is no spread."""
    return [
        _number(means.get(k)) if sds.get(k) is None else f"{_number(means.get(k))} ± {_number(sds.get(k))}"
        for _, k in columns
    ]


def _at_threshold(cells: Sequence[Mapping[str, Any]], *, told: bool) -> list[str]:
    """Missed defects and false alarms, of all seeds together."""
    if not told:
        return []
    total = {k: _sum([cell["metrics"][k] for cell in cells]) for k in ("fn", "tp", "fp", "tn")}
    return [_share(total["fn"], total["tp"]), _share(total["fp"], total["tn"])]


def _sum(numbers: Sequence[int | None]) -> int | None:
    known = [number for number in numbers if number is not None]
    return sum(known) if len(known) == len(numbers) else None


def _columns(result: BenchResult, spec: RunSpec) -> tuple[tuple[str, str], ...]:
    """Heading and metric of what was computed; where no unit was measured, of what would have been."""
    from uadctl.metrics import aupro_name

    limits = {aupro_name(limit): f"AUPRO\n@{limit:g}" for limit in spec.metrics.fpr_limits}
    computed = {
        name
        for _, seeds in _units(result, several=False)
        for cell in seeds.values()
        for name in cell.get("metrics", ())
    }
    if not computed:
        ours = PROTOCOLS[spec.metrics.protocol].own
        of_others = {name for protocol in PROTOCOLS.values() for name in protocol.own} - set(ours)
        computed = {name for name in _HEADINGS | limits if name not in of_others}
    return tuple((heading, name) for name, heading in (_HEADINGS | limits | _GROUPS).items() if name in computed)


def _several_labels(result: BenchResult) -> bool:
    return len(result.metrics["means"]) > 1


def _units(result: BenchResult, *, several: bool) -> Iterator[tuple[str, dict[str, dict[str, Any]]]]:
    """Each category and label by its name for people, with its units by their seed."""
    for category, labels in result.metrics["results"].items():
        for label, seeds in labels.items():
            yield _name(category, label, several=several), seeds


def _name(category: str, label: str, *, several: bool) -> str:
    return f"{category} · {label}" if several else category


def _print_costs(result: BenchResult, *, several: bool) -> None:
    units = result.timing["units"]
    seeds = len({t["seed"] for t in units}) > 1
    rows = [
        [
            _name(t["category"], t["label"], several=several) + (f" · seed {t['seed']}" if seeds else ""),
            f"{t['fit_seconds']:.1f}",
            _number(t["ms_per_image_p50"], 1),
            _number(t["ms_per_image_p95"], 1),
            _number(t["images_per_second"], 1),
            _megabytes(t["model_bytes"]),
            _megabytes(t["peak_memory_bytes"]),
        ]
        for t in units
    ]
    if rows:
        headings = ("category", "fit s", "ms/image\np50", "ms/image\np95", "images\n/s", "model\nMB", "peak\nMB")
        print_table(headings, rows[:_MOST_ROWS], text_columns=1, wrap=False)
        _print_left_out(len(rows), file="timing.json")


def _print_left_out(rows: int, *, file: str) -> None:
    """How many of so many rows are not shown, and which file of the run has them."""
    if rows > _MOST_ROWS:
        print_told(f"and {rows - _MOST_ROWS} more; {file} has them all")


def _megabytes(size: int | None) -> str:
    return "-" if size is None else f"{size / 1e6:.0f}"


def _number(value: float | None, digits: int = 3) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _share(part: int | None, rest: int | None) -> str:
    return "-" if part is None or rest is None else f"{part}/{part + rest}"


def print_plan(
    spec: RunSpec,
    *,
    json_: bool,
    testing: bool = True,
    trust_checkpoint: bool = False,
    gate: str | None = None,
    update_baseline: bool = False,
) -> None:
    """What would be run, without decoding an image. gate: a baseline, checked against the bytes of the test images."""
    from uadctl.engines import choose_engine
    from uadctl.models.base import TrainedElsewhere
    from uadctl.plan import build_detector, distinct_models, make_plan
    from uadctl.runs.gate import check_categories

    plan = make_plan(spec)
    choose_engine(spec.run)  # says what is not installed
    for m in distinct_models(spec):
        detector = build_detector(spec, m, trust_checkpoint=trust_checkpoint)
        detector.prepare(download=False)
        if isinstance(detector, TrainedElsewhere) and detector.comes_trained:
            detector.load()
    if testing:
        check_categories(spec.gate, list(dict.fromkeys(cell.category for cell in plan.cells)))
    if gate is not None:
        from uadctl.bench import check_baseline

        check_baseline(plan, gate, update=update_baseline)
    models: dict[str, dict[str, Any]] = {
        v.model.label: {
            "name": v.model.name,
            "params": v.model.params,
            "weights": build_detector(spec, v.model).weights_state(),
            **({} if v.model.trainer is None else {"trainer": v.model.trainer.given()}),
        }
        for v in variants(spec)
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
    for table in spec.models:
        params = ", ".join(f"{k} = {v}" for k, v in table.params.items())
        name = table.name if table.label == table.name else f"{table.label}: {table.name}"
        print_told(f"{name}({params})")
        for key, values in (table.grid or {}).items():
            print_told(f"  grid: {key} = {shown(values)}")
        if table.trainer is not None:
            print_told(f"  trainer: {', '.join(f'{k} = {v}' for k, v in table.trainer.given().items())}")
        weights = dict.fromkeys(models[v.model.label]["weights"] for v in variants(spec) if v.of == table.label)
        print_told(f"  weights: {', '.join(weights)}")
    print_told(f"{len(units)} {'unit' if len(units) == 1 else 'units'}; nothing was run.")
