"""The verb `fit`: learn each category's good images, calibrate, keep the model."""

from __future__ import annotations

import functools
import shlex
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np

from uadctl import heap
from uadctl.engines import Engine, choose_engine
from uadctl.errors import DataError, ImageError, SpecError
from uadctl.imaging.camera import Camera
from uadctl.imaging.geometry import Geometry
from uadctl.inference import Outcome, stitched, stream, unusable, use_threads
from uadctl.intake import Augmentation, Intake, Learned, training_images
from uadctl.models.base import TakesFewer, TrainedElsewhere, known_by_heart, knows_places, memorised_words
from uadctl.plan import (
    Cell,
    Plan,
    build_detector,
    distinct_models,
    hold_out,
    in_groups,
    make_plan,
    needed_files,
    parts_of,
    prepare_detector,
)
from uadctl.progress import Progress, Relayed, Silent
from uadctl.records import Prediction
from uadctl.runs import fitted as fitted_model
from uadctl.runs import provenance
from uadctl.runs.bundle import check_place, write_bundle
from uadctl.runs.driver import Attempt, Driver
from uadctl.runs.fitted import (
    Calibration,
    Fitted,
    PixelScale,
    camera_of,
    chosen_pair,
    expected_of,
    geometry_for,
    geometry_of_tiles,
    normalized_maxima,
    postprocess_of,
)
from uadctl.runs.folder import RunFolder, UnitFolder
from uadctl.runs.sharing import Place, of_run
from uadctl.spec.corruptions import AUGMENTATIONS
from uadctl.spec.operations import read_step
from uadctl.spec.registry import find_model
from uadctl.spec.signature import constructor_kwargs
from uadctl.thresholds import PixelCalibration, Threshold

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from uadctl.engines import Work
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
    bundle: str | None = None,
    progress: Progress | None = None,
    notes: Sequence[str] = (),
) -> RunResult:
    """Fit every category, model and seed of a spec and keep them in a new run folder, ready for `score`.

    trust_checkpoint: files of trained models may run code while they are loaded.
    bundle: a file for the model as well, of which there must be but one; see `uadctl.runs.bundle`.
    Raises SpecError, DataError, WeightsError, BackendMissing before any work is begun; later failures stay in their
    cell and are listed in the result.
    """
    progress = progress or Silent()
    plan = make_plan(spec, trust_checkpoint=trust_checkpoint, progress=progress)
    if bundle is not None:
        check_single(plan, bundle)
        check_place(bundle, spec.dataset.root)
    engine = choose_engine(spec.run)
    for model in distinct_models(spec):
        prepare_detector(spec, model, trust_checkpoint=trust_checkpoint)
    run = RunFolder.create(spec)
    with run.locked():
        result = _fit(plan, run, engine, notes, progress)
        if bundle is not None and not result.failed:
            write_bundle(run, bundle)
        return result


def check_single(plan: Plan, bundle: str) -> None:
    """SpecError where a plan has several units to fit: a bundle holds one."""
    if len(plan.cells) == 1:
        return
    categories = sorted({cell.category for cell in plan.cells})
    one = f"Choose a category, one model and one seed, such as: --category {shlex.quote(categories[0])}. "
    raise SpecError(
        f"--bundle {bundle}: holds one model, and this fit makes {len(plan.cells)} "
        f"(categories {len(categories)}, models {len({cell.model.label for cell in plan.cells})}, "
        f"seeds {len({cell.seed for cell in plan.cells})})",
        help=f"{one if len(categories) > 1 else ''}Or fit them all, and make a bundle of each: uadctl models bundle "
        "RUN FILE --category C --label L --seed S",
    )


def unit_of(run: RunFolder, cell: Cell) -> UnitFolder:
    """The folder of a cell in a run."""
    return run.unit(cell.category, cell.model.label, cell.seed)


@dataclass(frozen=True, slots=True)
class CellJob:
    """What workers do with the cells of a plan, each by its number: its results are attempts at the units of a run."""

    plan: Plan
    run: str
    place: Place

    @classmethod
    def of(cls, plan: Plan, run: RunFolder) -> Self:
        """To be handed out by this process."""
        return cls(plan, str(run.path), of_run(run, needed_files(plan)))

    @property
    def threads(self) -> int:
        return self.plan.spec.run.threads

    def enter(self) -> RunFolder:
        """The run folder, in a worker. RunError where it does not find that, or the data."""
        self.place.enter()
        return RunFolder(Path(self.run))


class FitJob(CellJob):
    """Fit them."""

    __slots__ = ()

    def open(self) -> Work[int, Attempt]:
        """See `Job.open`, and `enter`."""
        run = self.enter()
        content = functools.cache(provenance.content_hash)
        at_once: dict[str, int] = {}

        def work(number: int, progress: Progress) -> Attempt:
            cell = self.plan.cells[number]
            attempt = unit_of(run, cell).attempt()
            trained, report = fit_cell(
                self.plan.spec, cell, progress=progress, warn=progress.warn, content=content, at_once=at_once
            )
            size = fitted_model.save(trained, attempt)
            return Attempt(attempt.path.name, trained.detector.facts(), fit_timing(report, size))

        return work


def _fit(plan: Plan, run: RunFolder, engine: Engine, notes: Sequence[str], progress: Progress) -> RunResult:
    spec = plan.spec
    driver = Driver(run, verb="fit", progress=progress, engine=engine, notes=notes)
    samples = {c.category: (*c.pool, *c.dataset.validation) for c in plan.cells}
    defects = {c.category: c.dataset.defects for c in plan.cells}
    camera = [path for _, path in spec.preprocess.files]
    fingerprint = functools.cache(
        lambda name: provenance.fingerprint(samples[name], defects=defects[name], camera=camera)
    )
    units = [unit_of(run, cell) for cell in plan.cells]
    timings: dict[int, dict[str, Any]] = {}

    def take(number: int, attempt: Attempt) -> None:
        unit = units[number]
        driver.describe(unit, data=fingerprint(unit.category), model=attempt.model)
        timings[number] = {"category": unit.category, "label": unit.label, "seed": unit.seed, **(attempt.timing or {})}

    with driver.interruptible(again=shlex.join(["uadctl", "fit", str(run.path)])):
        job = FitJob.of(plan, run)
        failed = driver.work(units, job, titles=[cell.title for cell in plan.cells], take=take)
        told = [timings[number] for number in sorted(timings)]
        run.write("timing", {"units": told, "peak_memory_bytes": provenance.peak_memory()})
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
    content: Callable[[tuple[str, ...]], str] = provenance.content_hash,
    at_once: dict[str, int] | None = None,
) -> tuple[Fitted, FitReport]:
    """Fit and calibrate one cell.

    feature_cache: shared by the cells of a bench. content: hashes the bytes of files, as `provenance.content_hash`; one
        that remembers, where many cells rest on the same images.
    warn: is told of what the user should know and the run's record should keep.
    at_once: by label how many images at a time memory was found to hold; this cell begins so, and says what it finds.
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
    report = FitReport()
    title = cell.title
    if at_once is not None and cell.model.label in at_once and isinstance(detector, TakesFewer):
        detector.take_at_once(at_once[cell.model.label])
    elsewhere = detector if isinstance(detector, TrainedElsewhere) else None
    comes_trained = elsewhere is not None and elsewhere.comes_trained
    ways = _Ways.of(spec, cell, detector, warn=warn)
    source = _Calibrating(
        spec,
        cell,
        offers_left_out=ways.leaves_out(detector),
        comes_trained=comes_trained,
    )
    camera = camera_of(spec.preprocess, training=[sample.path for sample in source.train])
    learning = ways.learning(camera)
    scoring = ways.scoring(camera)
    told = telling(progress, cell, detector, warn=warn, at_once=at_once)

    doubts = detector.doubts()
    for doubt in doubts:
        warn(f"{cell.model.label}: {doubt}")

    def broken(sample: Sample, error: DataError) -> None:
        if spec.dataset.on_error == "fail":
            raise error
        report.broken.append((sample, error))
        warn(f"left out: {error}")

    left_out = _LeftOut(source, scoring) if source.kind == "leave-one-out" else None
    learned: list[int] = []  # of each image given to the detector the number of its file

    def decoded(samples: Sequence[Sample]) -> Iterator[NDArray[np.uint8]]:
        def cannot_be_read(index: int, error: DataError) -> None:
            if left_out is not None:
                left_out.failed(index)
            broken(samples[index], error)

        def given(image: Learned) -> None:
            learned.append(image.source)
            if left_out is not None:
                left_out.learned(image)

        def done() -> None:
            task.advance()
            report.images += 1

        with progress.task(f"fit {title}", len(samples)) as task:
            yield from training_images(
                [s.path for s in samples],
                intake=learning,
                threads=spec.run.threads,
                on_error=cannot_be_read,
                on_source=done,
                augmentation=_augmentation(spec, cell),
                learned=given,
                progress=progress,
            )

    start = time.perf_counter()
    for doubt in source.doubts:
        warn(f"{title}: {doubt}")
    if left_out is not None and source.sees_other_views:
        warn(
            f"{title}: the threshold comes from images of parts that the model knows from other images, and is too "
            f"low: at least {_HOLDOUT_FROM} training images of several parts, or validation images, would mend that"
        )
    if elsewhere is None:
        learns: Any = detector  # `together` is an argument of those that take it
        samples = source.train
        while True:
            together = {"together": left_out.sources} if left_out is not None and _leaves_out_together(detector) else {}
            take = None if left_out is None else left_out.take
            try:
                learns.fit(decoded(samples), left_out=take, threshold=False, progress=told, **together)
            except ImageError as error:
                if error.number is None:
                    raise
                bad = samples[learned[error.number]]
                broken(bad, unusable(error, bad.path, tiled=learning.tiling is not None))
            else:
                break
            # Learned anew without it, and without those that could not be read, which have been told.
            out = {sample.path for sample, _ in report.broken}
            samples = tuple(sample for sample in samples if sample.path not in out)
            if not samples:
                raise DataError(f"{cell.category}: none of {len(source.train)} training images can be learned")
            source.forget()
            left_out = None if left_out is None else _LeftOut(source, scoring)
            learned.clear()
            report.images = 0
    elif comes_trained:
        elsewhere.load()
        for doubt in detector.doubts():
            if doubt not in doubts:  # what only the checkpoint could tell
                warn(f"{cell.model.label}: {doubt}")
    else:
        # What training watches itself on has a say in the model: a promise holds of images that have none.
        normal = () if spec.calibration.method == "conformal" else source.normal
        watched = _watched(normal, learning, spec)
        trains: Any = elsewhere  # its `fit` takes two arguments more than that of others
        trains.fit(
            decoded(source.train),
            threshold=False,
            progress=told,
            validation=watched,
            warn=lambda said: warn(f"{title}: {said}"),
        )
    if left_out is not None:
        left_out.finish()
    heap.give_back()
    if source.kind in ("validation", "holdout", "training"):
        _score_normal(detector, source, scoring, spec.run.threads, told, title, broken)
    if elsewhere is not None and comes_trained and not elsewhere.scores_are_cut and (memorised := source.memorised()):
        warn(f"{title}: {memorised}")
    calibration = source.result(images=report.images, content=content)
    report.seconds = time.perf_counter() - start
    if calibration.image.value is None:
        warn(f"{cell.category} / {cell.model.label}: no threshold, verdicts will be null: {calibration.image.reason}")
    pixel = calibration.pixel
    for what, chosen in (
        ("no review threshold", calibration.review),
        (
            "[calibration] pixel_alpha gives no threshold of maps, 3 standard deviations take its place",
            None if pixel is None else pixel.chosen,
        ),
        ("no review threshold of maps", None if pixel is None else pixel.review),
    ):
        if chosen is not None and chosen.value is None:
            warn(f"{title}: {what}: {chosen.reason}")
    for unfit in calibration.doubts():
        warn(f"{title}: {unfit}")
    if spec.postprocess is not None and pixel is None:
        entry = find_model(cell.model.name)
        if entry is None or entry.pixel_map:
            warn(f"{title}: of [postprocess] nothing is done but to smooth maps: no map of a normal image sets a scale")
        else:
            warn(f"{title}: [postprocess] has no effect: the model makes no maps")
    params = constructor_kwargs(spec.run, cell.model, seed=cell.seed, class_name=cell.class_name)
    fitted = Fitted(
        cell.model.name,
        params,
        detector,
        ways.geometry,
        calibration,
        camera=camera,
        learned_tiles=ways.learned_tiles,
        postprocess=spec.postprocess,
    )
    return fitted, report


def telling(
    progress: Progress,
    cell: Cell,
    detector: Detector,
    *,
    warn: Callable[[str], None],
    at_once: dict[str, int] | None,
) -> Progress:
    """Where a cell's detector says that memory has run out: it is kept in the record, and for the next cells."""

    def said(message: str) -> None:
        warn(f"{cell.model.label}: {message}")
        if at_once is not None:
            at_once[cell.model.label] = detector.images_per_batch

    return Relayed(progress, warn=said)


@dataclass(frozen=True, slots=True)
class _Ways:
    """How images reach a detector while it learns and while it scores, but for the camera.

    geometry: of what it learns. learned_tiles: the side of the tiles that it learns; None: it learns whole images.
    """

    spec: RunSpec
    geometry: Geometry
    learned_tiles: int | None

    @classmethod
    def of(cls, spec: RunSpec, cell: Cell, detector: Detector, *, warn: Callable[[str], None]) -> _Ways:
        geometry = geometry_for(spec.preprocess, stride=detector.stride)
        if detector.own_resizing is not None and spec.preprocess.says_no_size and spec.tiling is None:
            # Shrunk to the default first, images would come out of it blurred.
            geometry = Geometry(size=None, stride=detector.stride)
            if not isinstance(detector, TrainedElsewhere):  # of another library's model nobody would expect it
                warn(
                    f"{cell.model.label}: [preprocess] size = {spec.preprocess.size} is the default and not applied: "
                    f"the model itself {detector.own_resizing}"
                )
        tiles = spec.tiling.size if spec.tiling is not None and spec.tiling.fit == "tiles" else None
        if tiles is not None and knows_places(detector):
            warn(
                f"{cell.model.label}: compares each place of a tile with that place of those learned; where a tile may "
                "show any place of an image, a memory bank such as vision_patchcore is at an advantage"
            )
        if tiles is not None and spec.preprocess.size == tiles:
            shown = geometry.plan((tiles, tiles)).size
            if shown != (tiles, tiles):
                warn(
                    f"{cell.model.label}: tiles of {tiles} are shown at {shown}: the sides must be multiples of "
                    f"{detector.stride}, the backbone's stride; with such a tile, pixels are kept as they are"
                )
        return cls(spec, geometry, tiles)

    def leaves_out(self, detector: Detector) -> bool:
        """Whether the detector can score its own training images in the way that new ones are scored."""
        if self.spec.tiling is None and self.spec.augment is None:
            return detector.offers_left_out
        if self.spec.tiling is not None and self.learned_tiles is None:
            return False
        return detector.offers_left_out and _leaves_out_together(detector)

    def learning(self, camera: Camera) -> Intake:
        tiling = None if self.spec.tiling is None or self.learned_tiles is None else self.spec.tiling.tiling
        return Intake(camera, self.geometry, tiling)

    def scoring(self, camera: Camera) -> Intake:
        """As long as the scale of normal maps is not known."""
        tiling = None if self.spec.tiling is None else self.spec.tiling.tiling
        geometry = geometry_of_tiles(self.geometry, tiling, learned_tiles=self.learned_tiles)
        return Intake(camera, geometry, tiling, postprocess_of(self.spec.postprocess, None))


def _leaves_out_together(detector: Detector) -> bool:
    """Whether its `fit` takes `together`: no part of `Detector`."""
    return bool(getattr(detector, "leaves_out_together", False))


def _augmentation(spec: RunSpec, cell: Cell) -> Augmentation | None:
    table = spec.augment
    if table is None:
        return None
    return Augmentation(tuple(read_step(text, AUGMENTATIONS) for text in table.steps), table.copies, cell.seed)


class _LeftOut:
    """Takes what a model says of each of its training images, left out, as it will be said of new ones.

    That is: of the file's pixels, from all tiles of an image, and not of augmented versions.

    sources: of each image learned so far the number of the file that it comes from.
    """

    def __init__(self, source: _Calibrating, scoring: Intake) -> None:
        self._source, self._scoring = source, scoring
        self._learned: list[Learned] = []
        self._said = 0
        self._tiles: list[tuple[Learned, Prediction]] = []
        self._failed: set[int] = set()
        self.sources: list[int] = []

    def learned(self, image: Learned) -> None:
        self._learned.append(image)
        self.sources.append(image.source)

    def failed(self, source: int) -> None:
        """This file could not be read to its end: what is said of its first tiles is not said of an image."""
        self._failed.add(source)

    def take(self, prediction: Prediction | None) -> None:
        """The next image's; None where nothing is left of the model without it."""
        image = self._learned[self._said]
        self._said += 1
        if self._tiles and self._tiles[0][0].source != image.source:
            self._of_tiles()
        if prediction is None or image.augmented or image.source in self._failed:
            return
        if image.tile is not None:
            self._tiles.append((image, prediction))
        else:
            self._source.take(self._of_image(image, prediction))

    def finish(self) -> None:
        """All predictions are there."""
        if self._tiles:
            self._of_tiles()

    def _of_image(self, image: Learned, prediction: Prediction) -> Prediction:
        field, way = prediction.map, self._scoring
        plain = way.postprocess is None and way.camera.roi is None and not way.camera.ignore
        if plain or not isinstance(field, np.ndarray):
            return prediction  # at the detector's resolution: the same figures, sooner
        field = image.way.back(field)
        return Prediction(prediction.score, field if way.postprocess is None else way.postprocess(field))

    def _of_tiles(self) -> None:
        tiles, self._tiles = self._tiles, []
        way = tiles[0][0].way
        said = {image.tile: prediction for image, prediction in tiles}
        with stitched(way, said, self._scoring) as prediction:
            self._source.take(prediction)


class _Calibrating:
    """Where a cell's normal scores come from, and what they add up to.

    In this order: `[calibration] holdout`, if given; the data set's own validation images; leave-one-image-out scores,
    where the detector offers them, since they cost no training image; a seeded fifth of the training images, if there
    are at least 20. Where images have groups the fifth comes before leave-one-out scores, and for a conformal
    threshold: each of those scores is of another model, and its promise would not hold. Never images that the model
    has memorised, and never test images.

    A model that comes trained learns none of the training images here, so that none need be held out: without
    validation images they are all scored, though nobody here knows whether it has learned them before.

    doubts: what makes the threshold less than it seems, and what is not done as it was asked for.
    """

    def __init__(self, spec: RunSpec, cell: Cell, *, offers_left_out: bool, comes_trained: bool = False) -> None:
        self._wanted = spec.calibration
        self._normalize = spec.postprocess is not None and spec.postprocess.normalize
        self._tiling = None if spec.tiling is None else spec.tiling.tiling
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
        if comes_trained and spec.augment is not None:
            self.doubts.append("[augment] has no effect: the checkpoint learns no training image")
        if comes_trained and spec.tiling is not None:
            self.doubts.append(
                "the checkpoint is shown tiles, whatever it has learned: where that was whole images, it has learned "
                "another magnification"
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
        elif offers_left_out and wanted.method != "conformal" and not (self.sees_other_views and many):
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

    def take(self, prediction: Prediction | Outcome) -> None:
        self._scores.append(prediction.score)
        if prediction.map is not None:
            self._pixels.add(prediction.map)

    def forget(self) -> None:
        """What was said so far was said by a model that is learned anew."""
        self._scores.clear()
        self._pixels = PixelCalibration()

    def memorised(self) -> str | None:
        """That some of the images are known by heart, as their scores say; None where they do not."""
        number = len(known_by_heart(self._scores, self._scores))
        return memorised_words(number, len(self._scores)) if number else None

    def result(self, *, images: int, content: Callable[[tuple[str, ...]], str]) -> Calibration:
        """The thresholds.

        images: how many training images the model was fitted on in the end. content: as `fit_cell`.
        """
        wanted, scores = self._wanted, tuple(sorted(self._scores))
        if not scores or self.kind is None:
            reason = self._why_not or self._why_no_scores(images)
            none = Threshold(value=None, method=wanted.method, alpha=wanted.alpha, delta=wanted.delta, reason=reason)
            return Calibration(none, None, (), self._tiling)
        image, review = chosen_pair(scores, wanted, wanted.alpha, wanted.review_alpha, source=self.kind)
        pixel = PixelScale.of(self._pixels, wanted, normalize=self._normalize, source=self.kind)
        return Calibration(
            image,
            pixel,
            scores,
            self._tiling,
            review=review,
            maxima=normalized_maxima(self._pixels.maxima, None if pixel is None else pixel.normalize),
            expected=expected_of(scores, image, review),
            data=content(tuple(sample.path for sample in self.normal or self.train)),
        )

    def _why_no_scores(self, images: int) -> str:
        if self.kind != "leave-one-out":
            return f"none of {len(self.normal)} calibration images could be scored"
        if images == 1:
            return "1 training image leaves no other to compare it with"
        return "no training image could be compared with another"


def _watched(samples: Sequence[Sample], intake: Intake, spec: RunSpec) -> Iterator[NDArray[np.uint8]]:
    """The images that training watches itself on. What is wrong with one is said when it is scored."""

    def left_out(index: int, error: DataError) -> None:
        if spec.dataset.on_error == "fail":
            raise error

    return training_images([s.path for s in samples], intake=intake, threads=spec.run.threads, on_error=left_out)


def _score_normal(
    detector: Detector,
    source: _Calibrating,
    intake: Intake,
    threads: int,
    progress: Progress,
    title: str,
    broken: Callable[[Sample, DataError], None],
) -> None:
    paths = [s.path for s in source.normal]
    with progress.task(f"calibrate {title}", len(paths)) as task:
        for item in stream(detector, paths, intake=intake, threads=threads, progress=progress):
            if item.prediction is not None:
                source.take(item.prediction)
            elif item.error is not None:
                broken(source.normal[item.index], item.error)
            task.advance()
