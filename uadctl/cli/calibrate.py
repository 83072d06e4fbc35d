"""`uadctl calibrate`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from uadctl.cli import options as o
from uadctl.cli.console import print_lines, print_table, print_told, screen
from uadctl.errors import SpecError

if TYPE_CHECKING:
    from uadctl.calibrate import Recalibrated
    from uadctl.thresholds import Labelled, Shares


def calibrate(
    run: o.FinishedRun,
    method: Annotated[
        Literal["quantile", "conformal", "evt", "few-shot"] | None,
        typer.Option(
            "--method",
            help="How the threshold is chosen. Default: as that in force was; few-shot with --anomalies.",
        ),
    ] = None,
    alpha: Annotated[
        float | None,
        typer.Option(
            "--alpha",
            help="Share of good images that may be called anomalous. Default: that of the threshold in force.",
        ),
    ] = None,
    delta: Annotated[
        float | None,
        typer.Option(
            "--delta",
            help="With conformal: alpha is kept with probability 1 - delta, not in expectation only.",
        ),
    ] = None,
    review_alpha: Annotated[
        float | None,
        typer.Option(
            "--review-alpha", help="Share of good images that may reach a second, lower threshold: to be reviewed."
        ),
    ] = None,
    pixel_alpha: Annotated[
        float | None,
        typer.Option("--pixel-alpha", help="Share of good images whose map may somewhere reach the threshold of maps."),
    ] = None,
    pixel_review_alpha: Annotated[
        float | None,
        typer.Option("--pixel-review-alpha", help="The same of a second, lower threshold of maps."),
    ] = None,
    good: Annotated[
        list[str] | None,
        typer.Option(
            "--good",
            metavar="DIR|IMAGE",
            help="Good images that the model has not learned, in place of the run's own normal scores. Repeatable.",
        ),
    ] = None,
    anomalies: Annotated[
        list[str] | None,
        typer.Option(
            "--anomalies",
            metavar="DIR|MANIFEST",
            help="Labelled defects for few-shot: images, or a manifest of defects and good images. Repeatable.",
        ),
    ] = None,
    objective: Annotated[
        Literal["f1", "youden", "cost"] | None,
        typer.Option("--objective", help="What few-shot makes best. Default: f1, or cost where one is given."),
    ] = None,
    cost_miss: Annotated[
        float | None, typer.Option("--cost-miss", help="Cost of a missed defect. Default, with cost: 1.")
    ] = None,
    cost_false_alarm: Annotated[
        float | None, typer.Option("--cost-false-alarm", help="Cost of a false alarm. Default, with cost: 1.")
    ] = None,
    tune_postprocess: Annotated[
        bool,
        typer.Option(
            "--tune-postprocess",
            help="Choose [postprocess] as well, from masks of the defects and maps of good images.",
        ),
    ] = False,
    category: Annotated[str | None, typer.Option("--category", help="Only units of this category.")] = None,
    label: Annotated[str | None, typer.Option("--label", help="Only units of this model.")] = None,
    seed: Annotated[int | None, typer.Option("--seed", help="Only units of this seed.")] = None,
    tile_size: o.TileSize = None,
    tile_stride: o.TileStride = None,
    tile_reduce: o.TileReduce = None,
    device: o.Device = None,
    json_: o.Json = False,
    log_file: o.LogFile = None,
    quiet: o.Quiet = False,
    debug: o.Debug = False,
) -> None:
    """Set the thresholds of a run anew, without fitting it again.

    Example: uadctl calibrate runs/20260101T120000Z-demo-0123abcd --method conformal --alpha 0.05 --good photos/good

    Example: uadctl calibrate specs/demo.toml --anomalies defects.csv --cost-miss 50 --cost-false-alarm 1

    The threshold comes from the run's own normal scores (those of the images held out, if it was fitted with
    [calibration] holdout), or from images given now. Images of a fitted model are never held out: it has learned them.
    Conformal promises a rate of false alarms, needs enough images for it, and refuses those that any part of the model
    has learned.

    `uadctl score` uses the new thresholds; the old ones are kept as thresholds.1.json and so on. What a bench measured
    stays as it is, and scores.csv names the threshold that it was measured with. With --tile-size they are of images
    cut into such tiles, as `uadctl score` cuts them from then on.
    """
    o.check_distinct(("SPEC", run), ("--log-file", log_file))
    screen.configure(quiet=quiet, debug=debug, log_file=log_file)
    for option, share in (
        ("--alpha", alpha),
        ("--delta", delta),
        ("--review-alpha", review_alpha),
        ("--pixel-alpha", pixel_alpha),
        ("--pixel-review-alpha", pixel_review_alpha),
    ):
        if share is not None and not 0 < share < 1:
            raise SpecError(f"{option} {share:g}: expected a number > 0 and < 1")
    for option, cost in (("--cost-miss", cost_miss), ("--cost-false-alarm", cost_false_alarm)):
        if cost is not None and not 0 <= cost < float("inf"):
            raise SpecError(f"{option} {cost:g}: expected a number >= 0")
    if device is not None and not good and not anomalies:
        raise SpecError("--device has no effect without --good or --anomalies: the scores are there already")
    if o.tiling(tile_size, tile_stride, tile_reduce, like=None) is not None and not good and not anomalies:
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
    works = good or anomalies
    with screen.progress(device=o.show_device(device or found.spec.run.device) if works else None) as progress:
        results = run_calibrate(
            found,
            method=method,
            alpha=alpha,
            delta=delta,
            review_alpha=review_alpha,
            pixel_alpha=pixel_alpha,
            pixel_review_alpha=pixel_review_alpha,
            good=tuple(good or ()),
            anomalies=tuple(anomalies or ()),
            objective=objective,
            cost_miss=cost_miss,
            cost_false_alarm=cost_false_alarm,
            tune=tune_postprocess,
            category=category,
            label=label,
            seed=seed,
            device=device,
            progress=progress,
            tiling=tiling,
        )
    if json_:
        units = [_document(r, None if r.kept is None else r.kept.relative_to(found.path).as_posix()) for r in results]
        print_lines(json.dumps({"schema": 1, "run": str(found.path), "units": units}, allow_nan=False))
        return
    print_table(
        (
            "category",
            "label",
            "old kept as",
            "method",
            "seed",
            "old\nthreshold",
            "new\nthreshold",
            "alpha",
            "review",
            "n",
            "source",
        ),
        [
            [
                r.unit.category,
                r.unit.label,
                "unchanged" if r.kept is None else r.kept.name,
                r.new.method,
                str(r.unit.seed),
                _number(r.old.value),
                _number(r.new.value),
                _number(r.new.alpha),
                _number(None if r.calibration.review is None else r.calibration.review.value),
                str(r.new.n),
                r.new.source or "-",
            ]
            for r in results
        ],
        text_columns=4,
    )
    for r in results:
        for line in _said(r):
            print_told(f"{r.unit}: {line}" if len(results) > 1 else line)
    print_told(f"run: {found.path}")


def _document(result: Recalibrated, kept: str | None) -> dict[str, Any]:
    import msgspec

    after = result.calibration
    document: dict[str, Any] = msgspec.to_builtins(
        {
            "category": result.unit.category,
            "label": result.unit.label,
            "seed": result.unit.seed,
            "old": result.old,
            "new": result.new,
            "review": after.review,
            "pixel": after.pixel,
            "expected": after.expected,
            "tuned": result.tuned,
            "kept": kept,
        }
    )
    return document


def _said(result: Recalibrated) -> Iterator[str]:
    """What there is to know of a unit's thresholds besides their numbers, each in one line."""
    after, tuned = result.calibration, result.tuned
    tail, labelled = after.image.tail, after.image.labelled
    if after.image.guarantee is not None:
        yield after.image.guarantee
    if tail is not None:
        yield (
            f"tail: {tail.n} scores above {tail.start:.6g}, shape {tail.shape:.3g}, scale {tail.scale:.3g}; "
            f"Anderson-Darling A^2 = {tail.statistic:.3g}, p = {tail.p_value:.3f}"
        )
    if labelled is not None:
        yield from _said_of_labelled(labelled, after.image.n)
    if after.expected is not None and (after.review is not None or after.expected.defect is not None):
        yield f"expected of good images: {_shares(after.expected.normal)}"
        if after.expected.defect is not None:
            yield f"expected of such defects: {_shares(after.expected.defect)}"
    if after.pixel is not None and (after.pixel.chosen is not None or after.pixel.review is not None):
        review = "" if after.pixel.review is None else f", review from {_number(after.pixel.review.value)}"
        yield f"threshold of maps: {after.pixel.threshold:.6g}{review}"
    if tuned is not None:
        settings = ", ".join(f"{name} = {value:g}" for name, value in tuned.params.items())
        honest = tuned.cross_validated
        checked = "not cross-validated" if honest is None else f"{honest:.4f} cross-validated"
        yield (
            f"tuned maps: {settings}; {tuned.metric} {tuned.value:.4f} of these images, {checked}; "
            f"{tuned.untuned:.4f} as it was before"
        )


def _said_of_labelled(labelled: Labelled, normal: int) -> Iterator[str]:
    if labelled.separable:
        yield f"all {labelled.defects} defects score above all {normal} good images: the middle of the gap"
    else:
        yield f"{labelled.defects} defects and {normal} good images overlap: the best by {labelled.objective}"
    if labelled.miss_rate is None or labelled.false_alarm_rate is None:
        yield "how often it errs is not known: there are too few images to cross-validate"
    else:
        yield (
            f"cross-validated in {labelled.folds} folds: {labelled.miss_rate:.1%} of defects missed, "
            f"{labelled.false_alarm_rate:.1%} of good images called anomalous"
        )


def _shares(shares: Shares) -> str:
    return f"{shares.good:.1%} good, {shares.review:.1%} review, {shares.anomaly:.1%} anomaly"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.6g}"
