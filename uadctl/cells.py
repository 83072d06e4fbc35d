"""The cells of a bench: what is done for each, in whatever process, and what comes of it."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from uadctl import heap
from uadctl.datasets.defects import load_defects
from uadctl.errors import DataError
from uadctl.fit import CellJob, FitReport, fit_cell, fit_timing, telling, unit_of
from uadctl.imaging.files import image_size, read_mask, write_png
from uadctl.imaging.overlay import overlay
from uadctl.imaging.raster import defect_count, open_mask
from uadctl.inference import Scored, stream
from uadctl.metrics import CategoryMetrics, Measurement, check_saturations
from uadctl.plan import Cell, Plan
from uadctl.progress import Progress
from uadctl.records import DefectConfig, Sample, Size
from uadctl.runs import fitted as fitted_model
from uadctl.runs import provenance
from uadctl.runs.baseline import replicates_document
from uadctl.runs.driver import Attempt
from uadctl.runs.folder import UnitFolder, output_stems
from uadctl.spec import PROTOCOLS
from uadctl.thresholds import verdict

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from uadctl.engines import Work
    from uadctl.features.cache import FeatureCache
    from uadctl.imaging.raster import Field, Raster, RawLayout
    from uadctl.runs.fitted import Fitted
    from uadctl.spec import RunSpec

# So many of one kind of doubt are told one by one.
_SAID = 5


class _SharedFeatures:
    """The cache in which the cells of one category find each other's feature maps; one category at a time.

    It knows whole batches: cells that learn from different images, of different shots, share those of the test images.
    """

    def __init__(self, plan: Plan) -> None:
        self._category: str | None = None
        self._cache: FeatureCache | None = None
        memory = plan.spec.run.feature_cache_bytes
        if memory and len(plan.cells) > len({cell.category for cell in plan.cells}):
            from uadctl.features.cache import FeatureCache

            self._cache = FeatureCache(max_bytes=memory)

    def of(self, category: str) -> FeatureCache | None:
        """The cache for this category; None in a bench of one cell a category, and without memory for it."""
        if self._cache is not None and category != self._category:
            self._cache.clear()
        self._category = category
        return self._cache


class BenchJob(CellJob):
    """Fit, score and measure them."""

    __slots__ = ()

    def open(self) -> Work[int, Attempt]:
        """See `Job.open`, and `enter`."""
        run = self.enter()
        cells = self.plan.cells
        # What is said of the data is said once, not for every model and seed.
        tells = {cell.category: number for number, cell in reversed(list(enumerate(cells)))}
        shared = _SharedFeatures(self.plan)
        content = functools.cache(provenance.content_hash)
        at_once: dict[str, int] = {}

        def work(number: int, progress: Progress) -> Attempt:
            cell = cells[number]
            attempt = unit_of(run, cell).attempt()
            facts = _bench_cell(
                self.plan.spec,
                cell,
                attempt,
                progress,
                shared.of(cell.category),
                content,
                tells=tells[cell.category] == number,
                at_once=at_once,
            )
            return Attempt(attempt.path.name, facts)

        return work


def _bench_cell(
    spec: RunSpec,
    cell: Cell,
    unit: UnitFolder,
    progress: Progress,
    feature_cache: FeatureCache | None,
    content: Callable[[tuple[str, ...]], str],
    *,
    tells: bool,
    at_once: dict[str, int],
) -> dict[str, Any]:
    """Fit, score and measure one cell into a folder. Returns the facts of the fitted model.

    content, at_once: as `fit_cell`. tells: whether this cell says what there is to say of the category's data.
    """
    warn = progress.warn
    trained, fit_report = fit_cell(
        spec, cell, progress=progress, warn=warn, feature_cache=feature_cache, content=content, at_once=at_once
    )
    size = fitted_model.save(trained, unit)

    if tells:
        for message in _doubts(cell, pixel=spec.metrics.pixel):
            warn(message)
    tested = _Tested(spec, cell, unit, trained, fit_report)
    start = time.perf_counter()
    with progress.task(f"score {cell.title}", len(cell.test)) as task:
        found = stream(
            trained.detector,
            [s.path for s in cell.test],
            intake=trained.intake,
            threads=spec.run.threads,
            progress=telling(progress, cell, trained.detector, warn=warn, at_once=at_once),
        )
        for sample, item in zip(cell.test, found, strict=True):
            tested.take(sample, item, warn=warn)
            task.advance()
    seconds = time.perf_counter() - start
    with progress.task(f"metrics {cell.title}", 1, unit="categories") as task:
        measured = tested.measure()
        task.advance()
    counts = measured.metrics.counts
    if why := measured.metrics.reasons.get("image_auroc"):
        warn(f"{cell.category}: image AUROC is undefined, {_one_sided(counts) or why}. Written as null.")
    unit.write_scores(tested.rows)
    unit.write(
        "metrics",
        {
            "success": True,
            "metrics": measured.metrics.metrics,
            "reasons": measured.metrics.reasons,
            "counts": counts | tested.counts(),
            "pixel_mode": measured.pixel_mode,
            "pixel_threshold": None if trained.calibration.pixel is None else trained.calibration.pixel.threshold,
            "bounds": measured.bounds,
            "by_defect": measured.by_defect,
            "intervals": {name: None if pair is None else list(pair) for name, pair in measured.intervals.items()},
        },
    )
    if measured.images is not None:
        kept = replicates_document(measured.images, spec.metrics.bootstrap, measured.replicates)
        unit.write("replicates", kept)
    unit.write("timing", {**fit_timing(fit_report, size), **tested.timing(seconds)})
    return trained.detector.facts()


def _doubts(cell: Cell, *, pixel: bool) -> Iterator[str]:
    """What makes the numbers of a cell less than they seem: images left out, images that are learned and tested on.

    And what the data set's loader has to say.
    """
    dataset, category = cell.dataset, cell.category
    for note in dataset.notes:
        yield f"{category}: {note}"
    if dataset.left_out:
        n = len(dataset.left_out)
        how_many = "1 defect image" if n == 1 else f"{n} defect images"
        yield (
            f"{category}: {how_many} of the training and validation splits {'is' if n == 1 else 'are'} not learned "
            f"from, the first is {dataset.left_out[0].path}"
        )
    leaks = dataset.leaks()
    for learned, tested in leaks[:_SAID]:
        splits = f"in {learned.split} and {tested.split}"
        yield f"{category}: {learned.path} and {tested.path} are equal byte for byte, {splits}"
    if len(leaks) > _SAID:
        yield f"{category}: {len(leaks) - _SAID} more files are in two splits"
    if shared := dataset.told_shared_parts():
        yield shared
    if not pixel:
        return
    unmasked = [sample for sample in cell.test if sample.label == 1 and not sample.masks]
    missing = [sample for sample in unmasked if sample.expected_mask is not None]
    if not dataset.has_masks:
        if missing:
            yield (
                f"{category}: pixel metrics are null: none of {len(missing)} defect images has a mask, "
                f"the first was looked for at {missing[0].expected_mask}"
            )
        return
    for sample in missing[:_SAID]:
        yield f"{sample.path}: no mask at {sample.expected_mask}; left out of the pixel metrics"
    rest = len(unmasked) - len(missing[:_SAID])
    if rest:
        what = f"{rest}{' more' if missing else ''} defect image" + (" has" if rest == 1 else "s have")
        yield f"{category}: {what} no mask; left out of the pixel metrics"


def _one_sided(counts: Mapping[str, int]) -> str | None:
    """That there are images of one kind only, in the words of a test split; None if that is not so."""
    normal, defect = counts["normal_images"], counts["defect_images"]
    if normal and not defect:
        return f"the test split has no defect image ({normal} normal)"
    if defect and not normal:
        return f"the test split has no normal image ({defect} defect)"
    return None


def pixels_of(samples: Iterable[Sample], raw: RawLayout | None) -> int:
    """How many pixels these images have together, from the files' headers. raw: layout of files named *.raw.

    An image that cannot be read has none; the stage that decodes it says so.
    """
    pixels = 0
    for sample in samples:
        try:
            size = image_size(sample.path, raw=raw)
        except DataError:
            continue
        pixels += size.height * size.width
    return pixels


@dataclass(frozen=True, slots=True)
class _Truth:
    """Ground truth of one image: (H, W) 0 and 1, and its defects one by one where a protocol tells them apart.

    mask: of an image too large for memory read region by region.
    """

    mask: NDArray[np.uint8] | Raster | None = None
    defects: Sequence[tuple[DefectConfig, NDArray[np.bool_]]] | None = None

    def close(self) -> None:
        if self.mask is not None and not isinstance(self.mask, np.ndarray):
            self.mask.close()


def _marked(paths: Sequence[str], size: Size, *, whole: bool) -> tuple[_Truth, bool]:
    """The truth that mask files show, and whether it has a defect pixel. whole: in memory. Raises DataError."""
    if whole:
        mask = read_mask(paths, size=size)
        return _Truth(mask), bool(mask.any())
    raster = open_mask(paths, size=size)
    try:
        # All of it is read once: what is broken is told before anything of the image is counted.
        return _Truth(raster), defect_count(raster) > 0
    except BaseException:
        raster.close()
        raise


class _Tested:
    """What comes out of a cell's test images: rows, maps, overlays on disk, and the numbers' ingredients."""

    def __init__(self, spec: RunSpec, cell: Cell, unit: UnitFolder, trained: Fitted, fitting: FitReport) -> None:
        self._spec, self._cell, self._unit, self._trained = spec, cell, unit, trained
        self._stems = dict(
            zip((s.relative for s in cell.test), output_stems([s.relative for s in cell.test]), strict=True)
        )
        self._measures_pixels = spec.metrics.pixel and cell.dataset.has_masks
        self._defects = cell.dataset.defects if PROTOCOLS[spec.metrics.protocol].spro else None
        image, pixel = trained.calibration.image, trained.calibration.pixel
        self._metrics = CategoryMetrics(
            protocol=spec.metrics.protocol,
            fpr_limits=spec.metrics.fpr_limits,
            threshold=image.value,
            threshold_reason=image.reason,
            pixel=spec.metrics.pixel,
            has_masks=cell.dataset.has_masks,
            pixels=pixels_of(cell.test, trained.camera.raw) if self._measures_pixels else 0,
            memory=spec.metrics.memory_bytes,
            pixel_threshold=None if pixel is None else pixel.threshold,
            saturations=self._defects is not None,
            bootstrap=spec.metrics.bootstrap,
        )
        self._seconds: list[float] = []
        self._fitting = fitting
        self._broken = 0
        self.rows: list[tuple[object, ...]] = [
            (s.relative, s.split, s.label, s.defect, None, None, None, "error", str(e), None) for s, e in fitting.broken
        ]

    @property
    def _limits(self) -> tuple[float | None, float | None]:
        """The threshold of image scores, and that of a review."""
        calibration = self._trained.calibration
        return calibration.image.value, None if calibration.review is None else calibration.review.value

    def take(self, sample: Sample, item: Scored, *, warn: Callable[[str], None]) -> None:
        limit, review = self._limits
        if item.prediction is None or item.image is None or item.size is None:
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
        with closing(self._truth(sample, item.image, item.size, warn)) as truth:
            if field is not None:
                file = self._unit.map_path(self._stems[sample.relative])
                self._trained.intake.keep_map(file, field)
                map_name = file.relative_to(self._unit.path).as_posix()
                self._draw(sample, item.image, field, score, truth.mask)
            self._metrics.add(sample, score, field, truth.mask, truth.defects)
        self._seconds.append(item.seconds)
        self.rows.append(
            (
                sample.relative,
                sample.split,
                sample.label,
                sample.defect,
                repr(score),
                None if limit is None else repr(limit),
                verdict(score, limit, review),
                "ok",
                None,
                map_name,
            )
        )

    def _truth(
        self, sample: Sample, image: NDArray[np.uint8] | Raster, size: Size, warn: Callable[[str], None]
    ) -> _Truth:
        """The ground truth of an image: zeros for a good one, nothing where it is unknown or cannot be read.

        Of an image that is not whole in memory the masks are not either; but defects one by one are.
        """
        if not self._measures_pixels:
            return _Truth()
        if sample.label == 0:
            return _Truth(np.broadcast_to(np.uint8(0), size))  # takes no memory, whatever the size
        if sample.label == 1 and sample.masks:
            try:
                if self._defects is not None:
                    defects = load_defects(sample, self._defects)
                    check_saturations(sample, defects)
                    mask = np.any([pixels for _, pixels in defects], axis=0).astype(np.uint8)
                    return _Truth(mask, defects)
                truth, marked = _marked(sample.masks, size, whole=isinstance(image, np.ndarray))
                if not marked:
                    warn(
                        f"{', '.join(sample.masks)}: no pixel is above 0, so the pixels of {sample.path} count as good"
                    )
                return truth
            except DataError as error:
                if self._spec.dataset.on_error == "fail":
                    raise
                warn(f"left out of the pixel metrics: {error}")
        return _Truth()

    def _draw(
        self,
        sample: Sample,
        image: NDArray[np.uint8] | Raster,
        field: Field,
        score: float,
        mask: NDArray[np.uint8] | Raster | None,
    ) -> None:
        scale = self._trained.calibration.pixel
        if scale is None:
            return
        limit, review = self._limits
        said = verdict(score, limit, review)
        caption = f"{sample.relative}  score {score:.4g}"
        if limit is not None:
            caption += f" / threshold {limit:.4g}: {said}"
        picture = overlay(
            image,
            field,
            low=scale.mean,
            high=scale.mean + fitted_model.COLOUR_SIGMAS * scale.std,
            threshold=scale.threshold,
            mask=mask,
            caption=caption,
        )
        write_png(self._unit.overlay_path(self._stems[sample.relative]), picture)

    def measure(self) -> Measurement:
        """All numbers of the cell."""
        heap.give_back()
        return self._metrics.result()

    def counts(self) -> dict[str, int]:
        """What the metrics cannot know: how many images were learned from, and how many could not be used."""
        return {
            "train_images": self._fitting.images,
            "broken_images": self._broken + len(self._fitting.broken),
            "train_defects_left_out": len(self._cell.dataset.left_out),
        }

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
