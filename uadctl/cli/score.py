"""`uadctl score`."""

from __future__ import annotations

import contextlib
import io
import math
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, TextIO

import typer

from uadctl.cli import options as o
from uadctl.cli.console import print_lines, screen
from uadctl.errors import DataError, RunError, SpecError, UadctlError
from uadctl.spec.values import printable
from uadctl.untrusted import csv_line

if TYPE_CHECKING:
    from uadctl.engines import Engine
    from uadctl.runs.fitted import Fitted
    from uadctl.score import ScoreLine
    from uadctl.service import Folder, Journal, Paths, Read

_CSV_COLUMNS = ("path", "status", "score", "threshold", "verdict", "map", "reason", "p_value", "review_threshold")
ANOMALY_FOUND = 4


def score(
    run: o.ScoringModel,
    images: Annotated[
        list[str] | None,
        typer.Argument(metavar="[IMAGE|FOLDER...]", help="Images, or folders of them.", show_default=False),
    ] = None,
    watch: Annotated[
        str | None,
        typer.Option("--watch", metavar="DIR", help="Instead: the images in a folder, and all that come, without end."),
    ] = None,
    stdin: Annotated[
        bool, typer.Option("--stdin", help="Instead: the paths that are written in, a line each.")
    ] = False,
    null: Annotated[bool, typer.Option("--null", help="With --stdin: paths end with NUL, not with the line.")] = False,
    settle: Annotated[
        float | None,
        typer.Option(
            "--settle",
            metavar="SECONDS",
            help="With --watch: a file is whole that has not changed for so long. Default: 1.",
        ),
    ] = None,
    journal: Annotated[
        str | None,
        typer.Option(
            "--journal",
            metavar="FILE",
            help="With --watch, --stdin: a record with one row a file, also across restarts.",
        ),
    ] = None,
    max_errors: Annotated[
        int | None,
        typer.Option(
            "--max-errors", metavar="N", help="End with 1, and without --output, after so many files with an error."
        ),
    ] = None,
    category: Annotated[
        str | None, typer.Option("--category", help="Which unit of the run, if it has several.")
    ] = None,
    label: Annotated[str | None, typer.Option("--label", help="Which model of the run, if it has several.")] = None,
    seed: Annotated[int | None, typer.Option("--seed", help="Which seed of the run, if it has several.")] = None,
    threshold: Annotated[
        float | None, typer.Option("--threshold", help="In place of the run's. Anomalous: score >= threshold.")
    ] = None,
    only_anomalies: Annotated[
        bool,
        typer.Option(
            "--only-anomalies",
            help="Leave out good images. Those to be reviewed, and files that could not be read, stay.",
        ),
    ] = False,
    fail_on_anomaly: Annotated[
        bool, typer.Option("--fail-on-anomaly", help="Exit with 4 if an image is anomalous.")
    ] = False,
    fail_on_review: Annotated[
        bool, typer.Option("--fail-on-review", help="Exit with 4 if an image is anomalous or to be reviewed.")
    ] = False,
    output: Annotated[
        str | None, typer.Option("--output", metavar="FILE.csv|.jsonl", help="Write the lines to a file as well.")
    ] = None,
    maps: Annotated[str | None, typer.Option("--maps", metavar="DIR", help="Write float anomaly maps (TIFF).")] = None,
    masks: Annotated[
        str | None,
        typer.Option("--masks", metavar="DIR", help="Write masks (PNG, 255 at or above the pixel threshold)."),
    ] = None,
    tile_size: o.TileSize = None,
    tile_stride: o.TileStride = None,
    tile_reduce: o.TileReduce = None,
    coco: Annotated[
        str | None,
        typer.Option("--coco", metavar="FILE.json", help="Write the regions of all images for annotation tools."),
    ] = None,
    device: o.Device = None,
    engine: o.Engine = None,
    address: o.Address = None,
    workers: o.Workers = None,
    run_dir: Annotated[
        str | None, typer.Option("--run-dir", metavar="DIR", help="Where a SPEC's runs are, if not where it says.")
    ] = None,
    json_: o.Json = False,
    log_file: o.LogFile = None,
    quiet: o.Quiet = False,
    debug: o.Debug = False,
) -> None:
    """Judge images never seen before: one line each, in order.

    Example: uadctl score runs/20260101T120000Z-demo-0123abcd new/ --json

    With --watch it goes on until it is interrupted; a line on stderr tells every minute how it goes.

    With --workers N or --engine ray images are judged by several workers, each with the model: what the spec's [run]
    says of its engine is for benches. Lines are the same, in the same order. A worker of Ray takes as many cores as the
    run has threads, and a GPU if its device, or --device, is cuda.

    Exit codes: 1 if a file could not be scored, 4 with --fail-on-anomaly if one is anomalous, with --fail-on-review
    also if one is to be reviewed; 1 wins.
    """
    o.check_distinct(
        ("the model", run),
        ("--output", output),
        ("--coco", coco),
        ("--journal", journal),
        ("--log-file", log_file),
    )
    if watch is not None:
        _check_inside(watch, ("--log-file", log_file))
    screen.configure(quiet=quiet, debug=debug, log_file=log_file)
    if output is not None and Path(output).suffix not in (".csv", ".jsonl"):
        raise SpecError(f"--output {output}: expected a name that ends with .csv or .jsonl")
    if coco is not None and Path(coco).suffix != ".json":
        raise SpecError(f"--coco {coco}: expected a name that ends with .json")
    if threshold is not None and not math.isfinite(threshold):
        raise SpecError(f"--threshold {threshold}: expected a finite number")
    fails = "--fail-on-anomaly" if fail_on_anomaly else "--fail-on-review" if fail_on_review else None
    _check_sources(images or [], watch=watch, stdin=stdin, null=null, settle=settle, journal=journal)
    _check_service(watch=watch, stdin=stdin, output=output, coco=coco, fails=fails, max_errors=max_errors)
    _check_engine(engine, address, workers, endless="--watch" if watch is not None else "--stdin" if stdin else None)
    o.check_outputs(
        files=[("--output", output), ("--coco", coco), ("--journal", journal)],
        folders=(("--maps", maps), ("--masks", masks)),
    )
    if watch is not None:
        _check_inside(watch, ("--maps", maps), ("--masks", masks), ("--journal", journal))
    # The cluster may have a device that this machine, which only hands out the work, has not.
    here = "cpu" if engine == "ray" and device is not None and not _is_here(device) else device
    judge = o.judge(run, category=category, label=label, seed=seed, run_dir=run_dir, device=here)
    wanted = device or judge.device
    chosen = _engine(engine, address, workers, device=wanted, threads=judge.threads)
    import msgspec

    from uadctl.score import check_options, describe
    from uadctl.score import score as score_images
    from uadctl.service import Model, serve

    fitted = judge.fitted
    tiling = o.tiling(tile_size, tile_stride, tile_reduce, like=fitted.calibration.tiling)
    if threshold is None and fitted.calibration.image.value is None:
        reason = fitted.calibration.image.reason
        if fails is not None:
            raise RunError(f"{fails} needs a threshold, and this run has none: {reason}", help="Give --threshold.")
        if not quiet:
            screen.message("warning", f"this run has no threshold, verdicts are null: {reason}")
    if fail_on_review and (threshold is not None or fitted.calibration.review is None):
        why = "--threshold stands alone" if threshold is not None else "this run has none"
        raise SpecError(
            f"--fail-on-review needs a review threshold, and {why}",
            help="Set one: uadctl calibrate RUN --review-alpha A; or give --fail-on-anomaly.",
        )
    used = describe(fitted.calibration) if threshold is None else []
    broken = anomalous = reviewed = 0
    with (
        screen.progress(device=None if engine == "ray" else o.show_device(judge.device)) as progress,
        _writing(output) as file,
        contextlib.ExitStack() as opened,
    ):
        if images:
            lines = score_images(
                fitted,
                images,
                threshold=threshold,
                maps=maps,
                masks=masks,
                coco=coco,
                threads=judge.threads,
                progress=progress,
                tiling=tiling,
                engine=chosen,
                # Ray shows a worker the GPUs that are its own, numbered from 0.
                device="cuda" if engine == "ray" and wanted.startswith("cuda") else wanted,
            )
        else:
            check_options(fitted, masks=masks, tiling=tiling)
            model = Model(fitted, threshold, maps, masks, judge.threads, progress)
            record = None if journal is None else opened.enter_context(_journal(journal, fitted))
            feed = _feed(
                watch, null=null, settle=settle, record=record, keep_out=(("--maps", maps), ("--masks", masks))
            )
            if record is not None:
                screen.interrupted = "The same command goes on where this one stopped."
            while used:
                screen.note(used.pop(0), kind="note")
            lines = serve(feed, model, journal=record, max_errors=max_errors, say=_say)
        for line in lines:
            while used:  # once it is clear that there is something to judge
                screen.note(used.pop(0), kind="note")
            broken += line.status == "error"
            anomalous += line.verdict == "anomaly"
            reviewed += line.verdict == "review"
            if line.status == "error":
                screen.log.write("error", line.reason or "", path=line.path)
            if not (only_anomalies and line.verdict == "good"):
                encoded = msgspec.json.encode(line).decode()
                if file is not None:
                    file.write(encoded + "\n" if Path(output or "").suffix == ".jsonl" else _csv_row(line))
                print_lines(encoded if json_ else _for_people(line))
            if max_errors is not None and broken >= max_errors:  # within, so that --output does not look whole
                raise UadctlError(f"{broken} files with an error: ended, as --max-errors {max_errors} wants")
    if broken:
        raise typer.Exit(1)
    if (anomalous and (fail_on_anomaly or fail_on_review)) or (reviewed and fail_on_review):
        raise typer.Exit(ANOMALY_FOUND)


def _check_sources(
    images: Sequence[str], *, watch: str | None, stdin: bool, null: bool, settle: float | None, journal: str | None
) -> None:
    """SpecError unless it is clear where the images come from."""
    given = [n for n, g in (("IMAGE", bool(images)), ("--watch", watch is not None), ("--stdin", stdin)) if g]
    if not given:
        raise SpecError("nothing to score: expected IMAGE..., --watch DIR or --stdin", help="See: uadctl score --help")
    if len(given) > 1:
        raise SpecError(f"{given[0]} and {given[1]}: expected one of IMAGE..., --watch DIR and --stdin")
    if null and not stdin:
        raise SpecError("--null: has no effect without --stdin")
    if settle is not None and watch is None:
        raise SpecError(f"--settle {settle:g}: has no effect without --watch")
    if settle is not None and not 0 <= settle < math.inf:
        raise SpecError(f"--settle {settle:g}: expected a number of seconds >= 0")
    if journal is not None and images:
        raise SpecError(
            f"--journal {journal}: has no effect without --watch or --stdin",
            help="--output FILE.jsonl keeps the lines.",
        )
    if watch is not None and os.path.exists(watch) and not Path(watch).is_dir():  # noqa: PTH110 - false for all errors
        raise DataError(f"{watch}: is a file, not a folder")


def _check_service(
    *, watch: str | None, stdin: bool, output: str | None, coco: str | None, fails: str | None, max_errors: int | None
) -> None:
    """SpecError for options that ask for what a service cannot give."""
    if max_errors is not None and max_errors < 1:
        raise SpecError(f"--max-errors {max_errors}: expected an integer >= 1")
    if watch is not None and output is not None:
        raise SpecError(
            f"--output {output}: appears when all is scored, and --watch does not end", help="Give --journal FILE."
        )
    if coco is not None and (watch is not None or stdin):
        option = "--stdin" if stdin else "--watch"
        raise SpecError(f"--coco {coco}: describes a set of images that is known; it goes without {option}")
    if watch is not None and fails is not None:
        raise SpecError(f"{fails}: is an exit code for when all is scored, and --watch does not end")


def _check_engine(engine: str | None, address: str | None, workers: int | None, *, endless: str | None) -> None:
    """SpecError for an engine that cannot be. endless: the option by which images come one by one."""
    given = [("--engine", engine), ("--address", address), ("--workers", workers)]
    for option, value in given:
        if value is not None and endless is not None:
            raise SpecError(
                f"{option} {value}: hands out images that are known beforehand, and with {endless} they come one by one"
            )
    if workers is not None and workers < 1:
        raise SpecError(f"--workers {workers}: expected an integer >= 1")
    if address is None:
        return
    if engine != "ray":
        raise SpecError(f"--address {address}: has no effect without --engine ray", help="Give --engine ray as well.")
    import msgspec

    from uadctl.spec.grammar import Address

    try:
        msgspec.convert(address, Address)
    except msgspec.ValidationError as error:
        raise SpecError(
            f'--address {address}: expected "auto", "local", "ray://HOST:PORT" or "HOST:PORT"',
            help="auto is the cluster of this machine, or that of $RAY_ADDRESS.",
        ) from error


def _is_here(device: str) -> bool:
    try:
        o.show_device(device)
    except SpecError:
        return False
    return True


def _engine(engine: str | None, address: str | None, workers: int | None, *, device: str, threads: int) -> Engine:
    """What --engine, --address and --workers ask for: by default the work is done in this process."""
    from uadctl.engines import choose_engine
    from uadctl.spec.grammar import RunTable

    return choose_engine(
        RunTable(
            name="score",
            engine="ray" if engine == "ray" else "local",
            workers=workers,
            address=address,
            threads=threads,
            device=device,
        )
    )


def _check_inside(watch: str, *outputs: tuple[str, str | None]) -> None:
    """SpecError for an output in the folder that is watched: it would be judged, or vanish together with it."""
    folder = Path(watch).resolve()
    for option, name in outputs:
        if name is not None and Path(name).resolve().is_relative_to(folder):
            raise SpecError(f"{option} {name}: lies inside {watch}, which is watched", help="Name another place.")


def _journal(path: str, fitted: Fitted) -> Journal:
    from uadctl.service import Journal, model_digest

    found = Journal(path, model=model_digest(fitted), say=_say)
    if found.cut:
        screen.note(f"{path}: the last row was cut short by a crash ({found.cut} bytes); its file is judged again")
    return found


def _feed(
    watch: str | None,
    *,
    null: bool,
    settle: float | None,
    record: Journal | None,
    keep_out: Sequence[tuple[str, str | None]],
) -> Folder | Paths:
    from uadctl.service import Folder, Paths

    known = None if record is None else record.holding
    if watch is not None:
        return Folder(watch, settle=1.0 if settle is None else settle, known=known, say=_say)
    folders = [(option, folder) for option, folder in keep_out if folder is not None]
    return Paths(_stdin(), null=null, known=known, keep_out=folders)


def _stdin() -> Read:
    from uadctl.service import reading

    try:
        return reading(sys.stdin.fileno())
    except AttributeError as error:  # there is none
        raise SpecError("--stdin: is closed") from error
    except io.UnsupportedOperation:  # it is no file, but what a test or a notebook has put in its place
        stream = sys.stdin.buffer
        return lambda seconds: stream.read(1 << 16)


def _say(kind: Literal["note", "warning"], text: str) -> None:
    screen.status(text, kind=kind)


def _for_people(line: ScoreLine) -> str:
    path = printable(line.path)
    if line.status == "error":
        return f"{'error':<8}{'-':>12}{'-':>10}  {path}  ({printable(str(line.reason))})"
    # Rounded down: a printed score given back as --threshold is anomalous.
    score = math.floor((line.score or 0.0) * 10_000) / 10_000
    rank = "-" if line.p_value is None else f"p={line.p_value:.2g}"
    return f"{line.verdict or '-':<8}{score:>12.4f}{rank:>10}  {path}"


def _csv_row(line: ScoreLine) -> str:
    return csv_line(getattr(line, name) for name in _CSV_COLUMNS)


@contextmanager
def _writing(output: str | None) -> Iterator[TextIO | None]:
    """The output file, under its final name only when it is whole."""
    if output is None:
        yield None
        return
    from uadctl.atomic import replacing

    with replacing(Path(output)) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        if Path(output).suffix == ".csv":
            file.write(csv_line(_CSV_COLUMNS))
        yield file
        file.flush()
