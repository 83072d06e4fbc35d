"""`uadctl score`."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TextIO

import typer

from uadctl.cli import options as o
from uadctl.cli.console import print_lines, screen
from uadctl.errors import RunError, SpecError

if TYPE_CHECKING:
    from uadctl.score import ScoreLine

_CSV_COLUMNS = ("path", "status", "score", "threshold", "verdict", "map", "reason", "p_value", "review_threshold")
ANOMALY_FOUND = 4


def score(
    run: o.FinishedRun,
    images: Annotated[list[str], typer.Argument(metavar="IMAGE|FOLDER...", help="Images, or folders of them.")],
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
    run_dir: Annotated[
        str | None, typer.Option("--run-dir", metavar="DIR", help="Where a SPEC's runs are, if not where it says.")
    ] = None,
    json_: o.Json = False,
    quiet: o.Quiet = False,
    debug: o.Debug = False,
) -> None:
    """Judge images never seen before: one line each, in order.

    Example: uadctl score runs/20260101T120000Z-demo-0123abcd new/ --json

    Exit codes: 1 if a file could not be scored, 4 with --fail-on-anomaly if one is anomalous, with --fail-on-review
    also if one is to be reviewed; 1 wins.
    """
    screen.configure(quiet=quiet, debug=debug)
    if output is not None and Path(output).suffix not in (".csv", ".jsonl"):
        raise SpecError(f"--output {output}: expected a name that ends with .csv or .jsonl")
    if coco is not None and Path(coco).suffix != ".json":
        raise SpecError(f"--coco {coco}: expected a name that ends with .json")
    if threshold is not None and not math.isfinite(threshold):
        raise SpecError(f"--threshold {threshold}: expected a finite number")
    o.check_outputs(files=[("--output", output), ("--coco", coco)], folders=(("--maps", maps), ("--masks", masks)))
    found = o.finished_run(run, run_dir=run_dir)
    unit = found.choose(category=category, label=label, seed=seed)
    spec = found.spec
    import msgspec

    from uadctl.runs.fitted import load
    from uadctl.score import describe
    from uadctl.score import score as score_images

    fitted = load(unit, device=device or spec.run.device)
    tiling = o.tiling(tile_size, tile_stride, tile_reduce, like=fitted.calibration.tiling)
    if threshold is None and fitted.calibration.image.value is None:
        reason = fitted.calibration.image.reason
        if fail_on_anomaly or fail_on_review:
            option = "--fail-on-anomaly" if fail_on_anomaly else "--fail-on-review"
            raise RunError(f"{option} needs a threshold, and this run has none: {reason}", help="Give --threshold.")
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
    with screen.progress(device=o.show_device(device or spec.run.device)) as progress, _writing(output) as file:
        lines = score_images(
            fitted,
            images,
            threshold=threshold,
            maps=maps,
            masks=masks,
            coco=coco,
            threads=spec.run.threads,
            progress=progress,
            tiling=tiling,
        )
        for line in lines:
            while used:  # once it is clear that there is something to judge
                screen.note(used.pop(0), kind="note")
            broken += line.status == "error"
            anomalous += line.verdict == "anomaly"
            reviewed += line.verdict == "review"
            if only_anomalies and line.verdict == "good":
                continue
            encoded = msgspec.json.encode(line).decode()
            if file is not None:
                file.write(encoded + "\n" if Path(output or "").suffix == ".jsonl" else _csv_row(line))
            print_lines(encoded if json_ else _for_people(line))
    if broken:
        raise typer.Exit(1)
    if (anomalous and (fail_on_anomaly or fail_on_review)) or (reviewed and fail_on_review):
        raise typer.Exit(ANOMALY_FOUND)


def _for_people(line: ScoreLine) -> str:
    path = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in line.path)
    if line.status == "error":
        return f"{'error':<8}{'-':>12}{'-':>10}  {path}  ({line.reason})"
    # Rounded down: a printed score given back as --threshold is anomalous.
    score = math.floor((line.score or 0.0) * 10_000) / 10_000
    rank = "-" if line.p_value is None else f"p={line.p_value:.2g}"
    return f"{line.verdict or '-':<8}{score:>12.4f}{rank:>10}  {path}"


def _csv_row(line: ScoreLine) -> str:
    text = io.StringIO()
    values = [getattr(line, name) for name in _CSV_COLUMNS]
    csv.writer(text, lineterminator="\n").writerow(["" if v is None else v for v in values])
    return text.getvalue()


@contextmanager
def _writing(output: str | None) -> Iterator[TextIO | None]:
    """The output file, under its final name only when it is whole."""
    if output is None:
        yield None
        return
    from uadctl.atomic import replacing

    with replacing(Path(output)) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        if Path(output).suffix == ".csv":
            csv.writer(file, lineterminator="\n").writerow(_CSV_COLUMNS)
        yield file
        file.flush()
