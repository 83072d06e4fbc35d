"""`uadctl calibrate`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer

from uadctl.cli import options as o
from uadctl.cli.console import print_lines, print_table, screen
from uadctl.errors import SpecError

if TYPE_CHECKING:
    from uadctl.thresholds import Threshold


def calibrate(
    run: o.FinishedRun,
    alpha: Annotated[
        float | None,
        typer.Option(
            "--alpha",
            help="Share of good images that may be called anomalous. Default: that of the threshold in force.",
        ),
    ] = None,
    good: Annotated[
        list[str] | None,
        typer.Option(
            "--good",
            metavar="DIR|IMAGE",
            help="Good images that the model has not learned, in place of the run's own normal scores. Repeatable.",
        ),
    ] = None,
    category: Annotated[str | None, typer.Option("--category", help="Only units of this category.")] = None,
    label: Annotated[str | None, typer.Option("--label", help="Only units of this model.")] = None,
    seed: Annotated[int | None, typer.Option("--seed", help="Only units of this seed.")] = None,
    tile_size: o.TileSize = None,
    tile_stride: o.TileStride = None,
    tile_reduce: o.TileReduce = None,
    device: o.Device = None,
    json_: o.Json = False,
    quiet: o.Quiet = False,
    debug: o.Debug = False,
) -> None:
    """Set the thresholds of a run anew, without fitting it again.

    Example: uadctl calibrate runs/20260101T120000Z-demo-0123abcd --alpha 0.05

    `uadctl score` uses the new thresholds; the old ones are kept as thresholds.1.json and so on. What a bench measured
    stays as it is, and scores.csv names the threshold that it was measured with. With --tile-size they are of images
    cut into such tiles, as `uadctl score` cuts them from then on.
    """
    screen.configure(quiet=quiet, debug=debug)
    if alpha is not None and not 0 < alpha < 1:
        raise SpecError(f"--alpha {alpha:g}: expected a number > 0 and < 1")
    if device is not None and not good:
        raise SpecError("--device has no effect without --good: the scores are there already")
    if o.tiling(tile_size, tile_stride, tile_reduce, like=None) is not None and not good:
        raise SpecError(
            f"--tile-size {tile_size}: needs --good: the run's own normal scores were not made of such tiles",
            help="Give good images that the model has not learned: --good DIR",
        )
    found = o.finished_run(run)
    from uadctl.calibrate import calibrate as run_calibrate
    from uadctl.runs.fitted import read_calibration

    chosen = found.finished(category=category, label=label, seed=seed)
    so_far = {read_calibration(unit).tiling for unit in chosen} if tile_size is not None else {None}
    tiling = o.tiling(tile_size, tile_stride, tile_reduce, like=so_far.pop() if len(so_far) == 1 else None)
    with screen.progress(device=o.show_device(device or found.spec.run.device) if good else None) as progress:
        results = run_calibrate(
            found,
            alpha=alpha,
            category=category,
            label=label,
            seed=seed,
            good=tuple(good or ()),
            device=device,
            progress=progress,
            tiling=tiling,
        )
    if json_:
        units = [
            {
                "category": r.unit.category,
                "label": r.unit.label,
                "seed": r.unit.seed,
                "old": _document(r.old),
                "new": _document(r.new),
                "kept": None if r.kept is None else r.kept.relative_to(found.path).as_posix(),
            }
            for r in results
        ]
        print_lines(json.dumps({"schema": 1, "run": str(found.path), "units": units}, allow_nan=False))
        return
    print_table(
        ("category", "label", "old kept as", "seed", "old\nthreshold", "new\nthreshold", "alpha", "n", "source"),
        [
            [
                r.unit.category,
                r.unit.label,
                "unchanged" if r.kept is None else r.kept.name,
                str(r.unit.seed),
                _number(r.old.value),
                _number(r.new.value),
                _number(r.new.alpha),
                str(r.new.n),
                r.new.source or "-",
            ]
            for r in results
        ],
        text_columns=3,
    )
    print_lines(f"run: {found.path}")


def _document(threshold: Threshold) -> dict[str, object]:
    import msgspec

    document: dict[str, object] = msgspec.to_builtins(threshold)
    return document


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.6g}"
