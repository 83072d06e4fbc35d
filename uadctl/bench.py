"""The verb `bench`: fit, score the test images and measure, for every category and model of a spec."""

from __future__ import annotations

import functools
import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from uadctl import heap
from uadctl.errors import DataError, RunError
from uadctl.fit import FitReport, RunResult, fit_cell, fit_timing
from uadctl.imaging.files import image_size, read_mask, write_map, write_png
from uadctl.imaging.overlay import overlay
from uadctl.inference import Scored, stream
from uadctl.metrics import (
    Metrics,
    PixelMetrics,
    StreamingPixelMetrics,
    evaluate_images,
    mean_metrics,
    merge,
    pixel_metric_names,
    undefined,
)
from uadctl.plan import Cell, Plan, build_detector, make_plan
from uadctl.progress import Progress, Silent
from uadctl.records import Sample, Size
from uadctl.runs import fitted as fitted_model
from uadctl.runs import provenance
from uadctl.runs.driver import Driver
from uadctl.runs.folder import RunFolder, UnitFolder, output_stems
from uadctl.runs.gate import Verdict, check_categories
from uadctl.runs.gate import evaluate as evaluate_gate
from uadctl.score import verdict
from uadctl.spec import Overrides, build_model_kwargs, create_model, read_spec

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from uadctl.features.cache import FeatureCache
    from uadctl.models.base import Detector
    from uadctl.runs.fitted import Fitted
    from uadctl.spec import RunSpec

# The colours of an overlay end where a pixel is this many standard deviations of normal pixels above their mean: the
# threshold of 3 lies in the middle.
_COLOUR_STD = 6.0


@dataclass(frozen=True, slots=True)
class BenchResult(RunResult):
    """A run folder and the documents that are its metrics.json and timing.json.

    gate: whether the limits of `[gate]` hold; None where the spec has none.
    """

    metrics: dict[str, Any]
    timing: dict[str, Any]
    gate: Verdict | None = None


def bench(
    spec: RunSpec, *, resume: RunFolder | None = None, progress: Progress | None = None, notes: Sequence[str] = ()
) -> BenchResult:
    """Run a spec from images to metrics, into a new run folder or on in an unfinished one.

    resume: a run folder of this spec; its finished cells are kept as they are.
    Raises SpecError, DataError, WeightsError, BackendMissing before any work is begun; later failures stay in their
    cell, are rows of metrics.json, and are listed in the result.
    """
    progress = progress or Silent()
    plan = make_plan(spec, progress=progress)
    check_categories(spec.gate, list(dict.fromkeys(cell.category for cell in plan.cells)))
    for model in spec.models:
        build_detector(spec, model).prepare()
    previous = resume.read("run") if resume is not None else None
    run = resume or RunFolder.create(spec)
    with run.locked():
        return _bench(plan, run, previous, notes, progress)


def _bench(
    plan: Plan, run: RunFolder, previous: dict[str, Any] | None, notes: Sequence[str], progress: Progress
) -> BenchResult:
    spec = plan.spec
    samples = {c.category: (*c.train, *c.dataset.validation, *c.test) for c in plan.cells}
    fingerprint = functools.cache(lambda category: provenance.fingerprint(samples[category]))
    cells = {run.unit(cell.category, cell.model.label, cell.seed).path: cell for cell in plan.cells}
    units = [run.unit(c.category, c.model.label, c.seed) for c in plan.cells]

    for category, known in (previous or {}).get("data", {}).items():
        if category in samples and fingerprint(category) != known:
            raise RunError(
                f"{run.path}: cannot be resumed: the images of {category} are not those that it began with",
                help="Start a new run.",
            )
    driver = Driver(run, verb="bench", progress=progress, notes=notes, previous=previous)
    shared = _SharedFeatures(spec)

    def work(unit: UnitFolder) -> None:
        facts = _bench_cell(spec, cells[unit.path], unit, driver, progress, shared.of(unit.category))
        driver.describe(unit, data=fingerprint(unit.category), model=facts)

    failed = driver.work(units, work)
    metrics = _collect(units)
    timing = {
        "units": [
            {"category": u.category, "label": u.label, "seed": u.seed, **_without_schema(u.read("timing"))}
            for u in units
            if u.status == "done"
        ],
        "peak_memory_bytes": provenance.peak_memory(),
    }
    run.write("metrics", metrics)
    run.write("timing", timing)
    gate = None if spec.gate is None else evaluate_gate(spec.gate, metrics)
    if gate is not None:
        run.write("gate", gate.document())
    driver.finish(failed)
    return BenchResult(run, tuple(failed), {"schema": 1, **metrics}, {"schema": 1, **timing}, gate)


def build_default_detector(
    model: str = "vision_patchcore", *, device: str = "auto", pretrained: bool = True, seed: int = 0
) -> Detector:
    """A detector with its default parameters. model: its name, full or short. Raises SpecError for an unknown one."""
    auto = {"device": device, "pretrained": pretrained, "seed": seed}
    detector: Detector = create_model(model, **build_model_kwargs(model, user_kwargs={}, auto_kwargs=auto))
    return detector


def run_benchmark(
    dataset: str,
    *,
    root: str | None = None,
    categories: Sequence[str] | None = None,
    model: str = "vision_patchcore",
    model_kwargs: Mapping[str, Any] | None = None,
    pixel: bool = True,
    device: str = "auto",
    seed: int = 0,
    limit_train: int | None = None,
    limit_test: int | None = None,
    run_dir: str = "runs",
    progress: Progress | None = None,
) -> BenchResult:
    """`bench` without a spec file: one model on some categories of a data set (None: all found), with the mean over
    them.

    The arguments are the keys of the spec of the same names. Raises what `bench` raises.
    """
    reading = read_spec(
        None,
        Overrides(
            dataset=dataset,
            root=root,
            categories=None if categories is None else tuple(categories),
            model=model,
            model_kwargs=None if model_kwargs is None else json.dumps(dict(model_kwargs)),
            pixel=pixel,
            device=device,
            seed=seed,
            limit_train=limit_train,
            limit_test=limit_test,
            run_dir=run_dir,
        ),
    )
    return bench(reading.spec, progress=progress, notes=reading.notes)


def _collect(units: Sequence[UnitFolder]) -> dict[str, Any]:
    """The run's metrics.json out of those of its units. A failed cell voids its model's means."""
    results: dict[str, dict[str, dict[str, Any]]] = {}
    cells: dict[str, list[dict[str, Any]]] = {}
    for unit in units:
        cell = _without_schema(unit.read("metrics"))
        results.setdefault(unit.category, {}).setdefault(unit.label, {})[str(unit.seed)] = cell
        cells.setdefault(unit.label, []).append(cell.get("metrics", {}))
    return {"results": results, "means": {label: mean_metrics(members) for label, members in cells.items()}}


def _without_schema(document: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in document.items() if key != "schema"}


class _SharedFeatures:
    """The cache in which the models of one category find each other's feature maps; one category at a time."""

    def __init__(self, spec: RunSpec) -> None:
        self._category: str | None = None
        self._cache: FeatureCache | None = None
        if len(spec.models) > 1 and spec.run.feature_cache_bytes:
            from uadctl.features.cache import FeatureCache

            self._cache = FeatureCache(max_bytes=spec.run.feature_cache_bytes)

    def of(self, category: str) -> FeatureCache | None:
        """The cache for this category; None in a bench of one model, and without memory for it."""
        if self._cache is not None and category != self._category:
            self._cache.clear()
        self._category = category
        return self._cache


def _bench_cell(
    spec: RunSpec, cell: Cell, unit: UnitFolder, driver: Driver, progress: Progress, feature_cache: FeatureCache | None
) -> dict[str, Any]:
    """Fit, score and measure one cell into its folder. Returns the facts of the fitted model."""
    trained, fit_report = fit_cell(spec, cell, progress=progress, warn=driver.warn, feature_cache=feature_cache)
    size = fitted_model.save(trained, unit)

    warn = driver.warn
    if spec.metrics.pixel and not cell.dataset.has_masks and (unmasked := cell.dataset.missing_masks()):
        warn(
            f"{cell.category}: pixel metrics are null: none of {len(unmasked)} defect images has a mask, "
            f"the first was looked for at {unmasked[0].expected_mask}"
        )
    tested = _Tested(spec, cell, unit, trained, fit_report)
    start = time.perf_counter()
    with progress.task(f"score {cell.category} · {cell.model.label}", len(cell.test)) as task:
        found = stream(
            trained.detector,
            [s.path for s in cell.test],
            geometry=trained.geometry,
            threads=spec.run.threads,
        )
        for sample, item in zip(cell.test, found, strict=True):
            tested.take(sample, item, warn=warn)
            task.advance()
    seconds = time.perf_counter() - start
    with progress.task(f"metrics {cell.category} · {cell.model.label}", 1, unit="categories") as task:
        measured = tested.metrics()
        task.advance()
    if measured.metrics["image_auroc"] is None:
        warn(f"{cell.category}: image AUROC is undefined, {_one_sided(measured.counts)}. Written as null.")
    unit.write_scores(tested.rows)
    unit.write(
        "metrics",
        {
            "success": True,
            "metrics": measured.metrics,
            "reasons": measured.reasons,
            "counts": measured.counts,
            "pixel_mode": tested.pixel_mode,
            "bounds": tested.bounds(),
        },
    )
    unit.write("timing", {**fit_timing(fit_report, size), **tested.timing(seconds)})
    return trained.detector.facts()


def _one_sided(counts: Mapping[str, int]) -> str:
    """Why image scores cannot be ranked: images of one kind only."""
    if counts["defect_images"]:
        return f"the test split has no normal image ({counts['defect_images']} defect)"
    return f"the test split has no defect image ({counts['normal_images']} normal)"


def _pixels(samples: Iterable[Sample]) -> int:
    """How many pixels these images have together, from the files' headers.

    An image that cannot be read has none; the stage that decodes it says so.
    """
    pixels = 0
    for sample in samples:
        try:
            size = image_size(sample.path)
        except DataError:
            continue
        pixels += size.height * size.width
    return pixels


class _Tested:
    """What comes out of a cell's test images: rows, maps, overlays on disk, and the numbers' ingredients."""

    def __init__(self, spec: RunSpec, cell: Cell, unit: UnitFolder, trained: Fitted, fitting: FitReport) -> None:
        self._spec, self._cell, self._unit, self._trained = spec, cell, unit, trained
        self._stems = dict(
            zip((s.relative for s in cell.test), output_stems([s.relative for s in cell.test]), strict=True)
        )
        self._measures_pixels = spec.metrics.pixel and cell.dataset.has_masks
        self.pixel_mode: Literal["exact", "streaming"] | None = None
        self._pixels: PixelMetrics | StreamingPixelMetrics = PixelMetrics()
        if self._measures_pixels:
            fits = PixelMetrics.memory_for(_pixels(cell.test)) <= spec.metrics.memory_bytes
            self.pixel_mode = "exact" if fits else "streaming"
        if self.pixel_mode == "streaming":
            self._pixels = StreamingPixelMetrics()
        self._labels: list[int] = []
        self._scores: list[float] = []
        self._seconds: list[float] = []
        self._unmasked = 0
        self._fitting = fitting
        self._broken = 0
        self.rows: list[tuple[object, ...]] = [
            (s.relative, s.split, s.label, s.defect, None, None, None, "error", str(e), None) for s, e in fitting.broken
        ]

    def take(self, sample: Sample, item: Scored, *, warn: Callable[[str], None]) -> None:
        limit = self._trained.calibration.image.value
        if item.prediction is None or item.image is None:
            error = item.error or DataError(f"{sample.path}: no prediction")
            if self._spec.dataset.on_error == "fail":
                raise error
            warn(f"left out of the results: {error}")
            self._broken += 1
            self.rows.append(
                (
                    sample.relative,
                    sample.split,
                    sample.label,
                    sample.defect,
                    None,
                    limit,
                    None,
                    "error",
                    str(error),
                    None,
                )
            )
            return
        score, field = item.prediction.score, item.prediction.map
        map_name = None
        mask = self._mask(sample, Size(*item.image.shape[:2]), warn) if self._measures_pixels else None
        if field is not None:
            file = self._unit.map_path(self._stems[sample.relative])
            write_map(file, field)
            map_name = file.relative_to(self._unit.path).as_posix()
            self._draw(sample, item.image, field, score, mask)
            if mask is not None:
                self._pixels.add(mask, field)
        if sample.label >= 0:
            self._labels.append(sample.label)
            self._scores.append(score)
        self._seconds.append(item.seconds)
        self.rows.append(
            (
                sample.relative,
                sample.split,
                sample.label,
                sample.defect,
                repr(score),
                None if limit is None else repr(limit),
                verdict(score, limit),
                "ok",
                None,
                map_name,
            )
        )

    def _mask(self, sample: Sample, size: Size, warn: Callable[[str], None]) -> NDArray[np.uint8] | None:
        """The ground truth of an image: zeros for a good one, None where it is unknown or cannot be read."""
        if sample.label == 0:
            return np.zeros(size, np.uint8)
        if sample.masks:
            try:
                return read_mask(sample.masks, size=size)
            except DataError as error:
                if self._spec.dataset.on_error == "fail":
                    raise
                warn(f"left out of the pixel metrics: {error}")
        self._unmasked += sample.label == 1
        return None

    def _draw(
        self,
        sample: Sample,
        image: NDArray[np.uint8],
        field: NDArray[np.float32],
        score: float,
        mask: NDArray[np.uint8] | None,
    ) -> None:
        scale = self._trained.calibration.pixel
        if scale is None:
            return
        limit = self._trained.calibration.image.value
        said = verdict(score, limit)
        caption = f"{sample.relative}  score {score:.4g}"
        if limit is not None:
            caption += f" / threshold {limit:.4g}: {said}"
        picture = overlay(
            image,
            field,
            low=scale.mean,
            high=scale.mean + _COLOUR_STD * scale.std,
            threshold=scale.threshold,
            mask=mask,
            caption=caption,
        )
        write_png(self._unit.overlay_path(self._stems[sample.relative]), picture)

    def metrics(self) -> Metrics:
        heap.give_back()
        image = self._trained.calibration.image
        at_images = evaluate_images(self._labels, self._scores, image.value, threshold_reason=image.reason)
        counts = {"train_images": self._fitting.images, "broken_images": self._broken + len(self._fitting.broken)}
        limits = self._spec.metrics.fpr_limits
        if not self._spec.metrics.pixel:
            at_pixels = Metrics({}, {}, {})
        elif not self._cell.dataset.has_masks:
            at_pixels = undefined(pixel_metric_names(fpr_limits=limits), "the data set has no masks")
        else:
            at_pixels = self._pixels.result(fpr_limits=limits)
            counts["defect_images_without_mask"] = self._unmasked
        return merge(at_images, at_pixels, Metrics({}, {}, counts))

    def bounds(self) -> dict[str, float]:
        """How far each pixel metric may be from its exact value, where it is not exact itself."""
        if not isinstance(self._pixels, StreamingPixelMetrics):
            return {}
        found = self._pixels.bounds(fpr_limits=self._spec.metrics.fpr_limits)
        return {name: bound for name, bound in found.items() if bound is not None}

    def timing(self, seconds: float) -> dict[str, Any]:
        """ms an image: decoding, network, search and map of one image; images/s: all stages, writing included."""
        ms = np.asarray(self._seconds) * 1000
        return {
            "score_seconds": round(seconds, 3),
            "test_images": len(ms),
            "images_per_second": round(len(ms) / seconds, 2) if len(ms) else None,
            "ms_per_image_p50": round(float(np.percentile(ms, 50)), 2) if len(ms) else None,
            "ms_per_image_p95": round(float(np.percentile(ms, 95)), 2) if len(ms) else None,
            "peak_memory_bytes": provenance.peak_memory(),
        }
