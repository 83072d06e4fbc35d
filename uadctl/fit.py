"""The verb `fit`: learn each category's good images, calibrate, keep the model."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from uadctl import heap
from uadctl.errors import DataError
from uadctl.imaging.geometry import Geometry
from uadctl.inference import stream, training_images, use_threads
from uadctl.models.base import TrainedElsewhere, known_by_heart, memorised_words
from uadctl.plan import Cell, Plan, build_detector, distinct_models, hold_out, in_groups, make_plan, parts_of
from uadctl.progress import Progress, Silent
from uadctl.records import Prediction
from uadctl.runs import fitted as fitted_model
from uadctl.runs import provenance
from uadctl.runs.driver import Driver
from uadctl.runs.fitted import Calibration, Fitted, PixelScale, geometry_for
from uadctl.runs.folder import RunFolder, UnitFolder
from uadctl.spec.grammar import PreprocessTable
from uadctl.spec.signature import constructor_kwargs
from uadctl.thresholds import PixelCalibration, Threshold, quantile_threshold

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from uadctl.features.cache import FeatureCache
    from uadctl.models.base import Detector
    from uadctl.records import Sample
    from uadctl.spec import RunSpec

# Without another source of normal scores a share of the training images is held out, if there are so many of them.
_HOLDOUT = 0.2
_HOLDOUT_FROM = 20


@dataclass(slots=True)
class FitReport:
    """What fitting one cell took and met.

    seconds: wall time of learning and calibrating. images: those learned from; none by a model that comes trained.
    broken: those left out, with the reason.
    """

    seconds: float = 0.0
    images: int = 0
    broken: list[tuple[Sample, DataError]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class RunResult:
    """What a verb that fills a run folder returns."""

    run: RunFolder
    failed: tuple[UnitFolder, ...]


def fit(
    spec: RunSpec,
    *,
    trust_checkpoint: bool = False,
    progress: Progress | None = None,
    notes: Sequence[str] = (),
) -> RunResult:
    """Fit every category, model and seed of a spec and keep them in a new run folder, ready for `score`.

    trust_checkpoint: files of trained models may run code while they are loaded.
    Raises SpecError, DataError, WeightsError, BackendMissing before any work is begun; later failures stay in their
    cell and are listed in the result.
    """
    progress = progress or Silent()
    plan = make_plan(spec, trust_checkpoint=trust_checkpoint, progress=progress)
    for model in distinct_models(spec):
        build_detector(spec, model, trust_checkpoint=trust_checkpoint).prepare()
    run = RunFolder.create(spec)
    with run.locked():
        return _fit(plan, run, notes, progress)


def _fit(plan: Plan, run: RunFolder, notes: Sequence[str], progress: Progress) -> RunResult:
    spec = plan.spec
    driver = Driver(run, verb="fit", progress=progress, notes=notes)
    samples = {c.category: (*c.pool, *c.dataset.validation) for c in plan.cells}
    defects = {c.category: c.dataset.defects for c in plan.cells}
    fingerprint = functools.cache(lambda name: provenance.fingerprint(samples[name], defects=defects[name]))
    cells = {run.unit(cell.category, cell.model.label, cell.seed).path: cell for cell in plan.cells}
    timings: list[dict[str, Any]] = []

    def work(unit: UnitFolder) -> None:
        cell = cells[unit.path]
        trained, report = fit_cell(spec, cell, progress=progress, warn=driver.warn)
        size = fitted_model.save(trained, unit)
        driver.describe(unit, data=fingerprint(unit.category), model=trained.detector.facts())
        timings.append({"category": unit.category, "label": unit.label, "seed": unit.seed, **fit_timing(report, size)})

    failed = driver.work([run.unit(c.category, c.model.label, c.seed) for c in plan.cells], work)
    run.write("timing", {"units": timings, "peak_memory_bytes": provenance.peak_memory()})
    driver.finish(failed)
    return RunResult(run, tuple(failed))


def fit_timing(report: FitReport, model_bytes: int) -> dict[str, Any]:
    """The part of timing.json that fitting accounts for."""
    return {"fit_seconds": round(report.seconds, 3), "train_images": report.images, "model_bytes": model_bytes}


def fit_cell(
    spec: RunSpec,
    cell: Cell,
    *,
    progress: Progress,
    warn: Callable[[str], None],
    feature_cache: FeatureCache | None = None,
) -> tuple[Fitted, FitReport]:
    """Fit and calibrate one cell.

    feature_cache: shared by the cells of a bench.
    warn: is told of what the user should know and the run's record should keep.
    Raises DataError for a broken image unless `[dataset] on_error = "skip"`.
    """
    use_threads(spec.run.threads)
    detector = build_detector(
        spec,
        cell.model,
        seed=cell.seed,
        class_name=cell.class_name,
        feature_cache=feature_cache,
        trust_checkpoint=cell.trust_checkpoint,
    )
    geometry = geometry_for(spec.preprocess, stride=detector.stride)
    report = FitReport()
    title = cell.title
    if detector.own_resizing is not None and spec.preprocess == PreprocessTable():
        # Shrunk to the default first, images would come out of it blurred.
        geometry = Geometry(size=None, stride=detector.stride)
        if not isinstance(detector, TrainedElsewhere):  # of another library's model nobody would expect it
            warn(
                f"{cell.model.label}: [preprocess] size = {spec.preprocess.size} is the default and not applied: the "
                f"model itself {detector.own_resizing}"
            )

    doubts = detector.doubts()
    for doubt in doubts:
        warn(f"{cell.model.label}: {doubt}")

    def broken(sample: Sample, error: DataError) -> None:
        if spec.dataset.on_error == "fail":
            raise error
        report.broken.append((sample, error))
        warn(f"left out: {error}")

    def decoded(samples: Sequence[Sample]) -> Iterator[NDArray[np.uint8]]:
        def left_out(index: int, error: DataError) -> None:
            broken(samples[index], error)

        with progress.task(f"fit {title}", len(samples)) as task:
            for image in training_images(
                [s.path for s in samples], geometry=geometry, threads=spec.run.threads, on_error=left_out
            ):
                yield image
                task.advance()
                report.images += 1

    elsewhere = detector if isinstance(detector, TrainedElsewhere) else None
    comes_trained = elsewhere is not None and elsewhere.comes_trained
    source = _Calibrating(spec, cell, offers_left_out=detector.offers_left_out, comes_trained=comes_trained)
    start = time.perf_counter()
    for doubt in source.doubts:
        warn(f"{title}: {doubt}")
    left_out = source.take if source.kind == "leave-one-out" else None
    if left_out is not None and source.sees_other_views:
        warn(
            f"{title}: the threshold comes from images of parts that the model knows from other images, and is too "
            f"low: at least {_HOLDOUT_FROM} training images of several parts, or validation images, would mend that"
        )
    if elsewhere is None:
        detector.fit(decoded(source.train), left_out=left_out, threshold=False, progress=progress)
    elif comes_trained:
        elsewhere.load()
        for doubt in detector.doubts():
            if doubt not in doubts:  # what only the checkpoint could tell
                warn(f"{cell.model.label}: {doubt}")
    else:
        watched = _watched(source.normal, geometry, spec)
        trains: Any = elsewhere  # its `fit` takes two arguments more than that of others
        trains.fit(
            decoded(source.train),
            threshold=False,
            progress=progress,
            validation=watched,
            warn=lambda said: warn(f"{title}: {said}"),
        )
    heap.give_back()
    if source.kind in ("validation", "holdout", "training"):
        _score_normal(detector, source, geometry, spec.run.threads, progress, title, broken)
    if elsewhere is not None and comes_trained and not elsewhere.scores_are_cut and (memorised := source.memorised()):
        warn(f"{title}: {memorised}")
    calibration = source.result(images=report.images)
    report.seconds = time.perf_counter() - start
    if calibration.image.value is None:
        warn(f"{cell.category} / {cell.model.label}: no threshold, verdicts will be null: {calibration.image.reason}")
    params = constructor_kwargs(spec.run, cell.model, seed=cell.seed, class_name=cell.class_name)
    return Fitted(cell.model.name, params, detector, geometry, calibration), report


class _Calibrating:
    """Where a cell's normal scores come from, and what they add up to.

    In this order: `[calibration] holdout`, if given; the data set's own validation images; leave-one-image-out scores,
    where the detector offers them, since they cost no training image; a seeded fifth of the training images, if there
    are at least 20. Where images have groups the fifth comes before leave-one-out scores. Never images that the model
    has memorised, and never test images.

    A model that comes trained learns none of the training images here, so that none need be held out: without
    validation images they are all scored, though nobody here knows whether it has learned them before.

    doubts: what makes the threshold less than it seems, and what is not done as it was asked for.
    """

    def __init__(self, spec: RunSpec, cell: Cell, *, offers_left_out: bool, comes_trained: bool = False) -> None:
        self._wanted = spec.calibration
        self._seed = cell.seed
        self._scores: list[float] = []
        self._pixels = PixelCalibration()
        self.train: tuple[Sample, ...] = cell.train
        self.normal: tuple[Sample, ...] = ()
        self.kind: Literal["validation", "leave-one-out", "holdout", "training"] | None
        parts = len(parts_of(cell.train))
        many = len(cell.train) >= _HOLDOUT_FROM and parts > 1
        # Without one view of a part, the model still knows the part from its other views.
        self.sees_other_views = parts < len(cell.train)
        self._why_not = ""
        self.doubts: list[str] = []
        wanted = self._wanted
        if comes_trained and wanted.holdout is not None:
            self.doubts.append(
                f"[calibration] holdout = {wanted.holdout:g} has no effect: the checkpoint learns no training image"
            )
        if wanted.holdout is not None and not comes_trained:
            self.kind = "holdout"
            self._hold_out(wanted.holdout)
        elif cell.dataset.validation:
            self.kind, self.normal = "validation", cell.dataset.validation
        elif wanted.split == "validation":
            raise DataError(f'{cell.category}: [calibration] split = "validation", but it has no validation images')
        elif comes_trained:
            self.kind, self.normal = "training", cell.train
            self.doubts.append(
                f"the threshold comes from {len(cell.train)} training images, which the checkpoint may have learned: "
                "it is then too low. Good images that it has not seen mend that: uadctl calibrate RUN --good DIR"
            )
        elif offers_left_out and not (self.sees_other_views and many):
            self.kind = "leave-one-out"
        elif many:
            self.kind = "holdout"
            self._hold_out(_HOLDOUT)
        elif len(cell.train) >= _HOLDOUT_FROM:
            self.kind = None
            self._why_not = "the training images are of one group, and there are no validation images"
        else:
            self.kind = None
            self._why_not = (
                f"{len(cell.train)} training images are too few to hold some out (at least {_HOLDOUT_FROM}), "
                "and there are no validation images"
            )

    def _hold_out(self, share: float) -> None:
        kept, held = hold_out(self.train, share=share, seed=self._seed)
        if not kept:
            raise DataError(f"[calibration] holdout = {share} of {in_groups(self.train)} leaves none to learn from")
        self.train, self.normal = kept, held
        n = len(kept) + len(held)
        if len(held) > 2 * max(1, share * n):
            self.doubts.append(
                f"{len(held)} of {n} training images are held out for the threshold, though a share of {share:g} was "
                "meant: images of one group stay together, and the groups are few or of many sizes"
            )

    def take(self, prediction: Prediction) -> None:
        self._scores.append(prediction.score)
        if prediction.map is not None:
            self._pixels.add(prediction.map)

    def memorised(self) -> str | None:
        """That some of the images are known by heart, as their scores say; None where they do not."""
        number = len(known_by_heart(self._scores, self._scores))
        return memorised_words(number, len(self._scores)) if number else None

    def result(self, *, images: int) -> Calibration:
        """The thresholds. images: how many training images the model was fitted on in the end."""
        alpha, n = self._wanted.alpha, len(self._scores)
        if n and self.kind is not None:
            value = quantile_threshold(self._scores, alpha=alpha)
            image = Threshold(value=value, method="quantile", alpha=alpha, n=n, source=self.kind)
        else:
            reason = self._why_not or self._why_no_scores(images)
            image = Threshold(value=None, method="quantile", alpha=alpha, reason=reason)
        return Calibration(image, PixelScale.of(self._pixels, self._wanted), tuple(sorted(self._scores)))

    def _why_no_scores(self, images: int) -> str:
        if self.kind != "leave-one-out":
            return f"none of {len(self.normal)} calibration images could be scored"
        if images == 1:
            return "1 training image leaves no other to compare it with"
        return "no training image could be compared with another"


def _watched(samples: Sequence[Sample], geometry: Geometry, spec: RunSpec) -> Iterator[NDArray[np.uint8]]:
    """The images that training watches itself on. What is wrong with one is said when it is scored."""

    def left_out(index: int, error: DataError) -> None:
        if spec.dataset.on_error == "fail":
            raise error

    return training_images([s.path for s in samples], geometry=geometry, threads=spec.run.threads, on_error=left_out)


def _score_normal(
    detector: Detector,
    source: _Calibrating,
    geometry: Geometry,
    threads: int,
    progress: Progress,
    title: str,
    broken: Callable[[Sample, DataError], None],
) -> None:
    paths = [s.path for s in source.normal]
    with progress.task(f"calibrate {title}", len(paths)) as task:
        for item in stream(detector, paths, geometry=geometry, threads=threads):
            if item.prediction is not None:
                source.take(item.prediction)
            elif item.error is not None:
                broken(source.normal[item.index], item.error)
            task.advance()
