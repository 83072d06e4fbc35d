"""The verb `calibrate`: set the thresholds of a fitted model anew, without fitting it again."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from uadctl.errors import DataError, Problem, RunError, SpecError, with_help
from uadctl.models.base import TrainedElsewhere, known_by_heart
from uadctl.plan import draw_shots, limited, load_category
from uadctl.progress import Progress, Silent
from uadctl.records import Sample
from uadctl.runs.fitted import Calibration, PixelScale, expected_of, normalized_maxima, read_calibration
from uadctl.spec import variants
from uadctl.spec.grammar import PostprocessTable
from uadctl.thresholds import (
    Asked,
    Expected,
    Method,
    Objective,
    PixelCalibration,
    Shares,
    Source,
    Threshold,
    TooFew,
    choose,
    describe_threshold,
    fit_threshold,
    images_needed,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from uadctl.imaging.raster import RawLayout
    from uadctl.records import Size, Tiling
    from uadctl.runs.fitted import Fitted
    from uadctl.runs.folder import RunFolder, UnitFolder
    from uadctl.spec import RunSpec
    from uadctl.spec.grammar import MetricsTable

_TUNED_FOR = "aupro_30"
_TUNED_BYTES = 9  # of a pixel: its map as float32, the map of the settings that are tried, and its mask

_GIVE_GOOD = "Give good images that the model has not learned: --good DIR"
_NOTHING_CHANGED = "Remove them; nothing was changed."


@dataclass(frozen=True, slots=True)
class Tuned:
    """The settings of [postprocess] with which a unit's maps showed labelled defects best.

    params: those that were tuned. metric: what they made best. value: what it is for the images that chose them, too
        good for others. untuned: what it is for these images with the settings that were in force.
    cross_validated: its mean over the folds, of images that had no say in what it was measured
        with; None without folds.
    """

    params: dict[str, Any]
    metric: str
    value: float
    untuned: float
    cross_validated: float | None = None
    folds: int = 0


@dataclass(frozen=True, slots=True)
class Recalibrated:
    """What became of one unit's thresholds.

    old, new: those of image scores. calibration: everything that is in force now.
    kept: the file that now holds the old thresholds, or None if nothing changed; then no file was touched.
    tuned: None where maps were not tuned.
    """

    unit: UnitFolder
    old: Threshold
    new: Threshold
    calibration: Calibration
    kept: Path | None
    tuned: Tuned | None = None


def calibrate(
    run: RunFolder,
    *,
    method: Method | Literal["few-shot"] | None = None,
    alpha: float | None = None,
    delta: float | None = None,
    review_alpha: float | None = None,
    pixel_alpha: float | None = None,
    pixel_review_alpha: float | None = None,
    good: Sequence[str] = (),
    anomalies: Sequence[str] = (),
    objective: Objective | None = None,
    cost_miss: float | None = None,
    cost_false_alarm: float | None = None,
    tune: bool = False,
    category: str | None = None,
    label: str | None = None,
    seed: int | None = None,
    tiling: Tiling | None = None,
    device: str | None = None,
    progress: Progress | None = None,
) -> list[Recalibrated]:
    """Set the thresholds of a run's finished units anew; in one file each, thresholds.json.

    The threshold is chosen by `uadctl.thresholds.choose` from normal scores, or by `fit_threshold` between those and
    the scores of labelled defects. The normal scores are those that the unit was calibrated on before (of a run with
    `[calibration] holdout` the images held out), or those of images given now: good images that the model has not
    learned, from the camera that it will judge, say. Nothing is held out of a fitted model: it has learned its images.
    Given images set the pixel scale anew as well. What is not given stays as the thresholds in force have it.

    method: None: few-shot with `anomalies`, else that in force.
    alpha: share of good images that may be called anomalous; None: that in force.
    delta: of conformal; None: that in force, or none if `method` is given.
    review_alpha: share of good images that may reach the lower threshold, from which images are to be reviewed. By the
        same method, but by quantile with few-shot. None: it stays; with new normal scores it is chosen anew with its
        alpha.
    pixel_alpha, pixel_review_alpha: the same of maps, by their highest pixels: shares of good images with a pixel
        there. Never by labelled defects, of whose maps nobody says how much of a defect must be found.
    good: image files, and folders of them, of one category. A copy of a training image or of a test image is refused
        if the data set is still where the run found it, and scores near zero, which a memorised image would have, are
        warned about. Copies count once.
    anomalies: defects for few-shot: image files, folders of them, and manifests (.csv, .jsonl). Of a manifest, images
        with label 0 count as `good`, those with label 1 are defects, with masks if they are named; it needs no column
        split. Copies are treated as those of good images are.
    objective: what is made best; None: cost where a cost is given, else f1. cost_miss, cost_false_alarm: of one image.
    tune: choose the post-processing of maps as well, from masks of the defects and the maps of good images. All of them
        are kept in memory, at most `[metrics] memory`.
    category, label, seed: which units; None: all that are finished.
    tiling: cuts the given images into tiles, another way than the unit was calibrated with; it then scores in this way.
        None: as before.
    device: where the network runs for the given images; None: as the spec says.

    What the run measured stays as it is: metrics.json, scores.csv and overlays belong to the threshold they were made
    with. The old thresholds are kept as thresholds.1.json, thresholds.2.json and so on, 1 being the oldest. All units
    are calibrated before the first file is replaced.

    Raises SpecError for options that mean nothing together, for thresholds that the scores cannot give, such as of too
    few of them, and for images with several categories; RunError if no unit fits, none of them has scores, or another
    process works in the run folder; DataError, which lists every problem, for images that cannot be read, were learned
    or tested on.
    """
    progress = progress or Silent()
    if method is None and anomalies:
        method = "few-shot"
    if objective is None and anomalies:
        objective = "f1" if cost_miss is None and cost_false_alarm is None else "cost"
    wanted = _Wanted(
        method=method,
        alpha=alpha,
        delta=delta,
        review_alpha=review_alpha,
        pixel_alpha=pixel_alpha,
        pixel_review_alpha=pixel_review_alpha,
        objective=objective,
        cost_miss=cost_miss,
        cost_false_alarm=cost_false_alarm,
        tune=tune,
    )
    wanted.check(anomalies=bool(anomalies))
    if tiling is not None and not good and not anomalies:
        raise _made_otherwise(tiling)
    with run.locked():
        units = run.finished(category=category, label=label, seed=seed)
        old = [read_calibration(unit) for unit in units]
        if good or anomalies:
            evidence = _from_images(
                run, units, old, good, anomalies, wanted=wanted, tiling=tiling, device=device, progress=progress
            )
        else:
            evidence = [_Evidence.at_hand(before) for before in old]
        if not any(each.scores for each in evidence):
            raise RunError(
                with_help(
                    (f"{u}: there are no normal scores: {b.image.reason}" for u, b in zip(units, old, strict=True)),
                    _GIVE_GOOD,
                )
            )
        new = _decided(run.spec, units, old, evidence, wanted)
        results = []
        for unit, before, after, each in zip(units, old, new, evidence, strict=True):
            same = replace(after, expected=before.expected, data=before.data) == before
            kept = None if same else unit.replace_thresholds(after.document())
            results.append(Recalibrated(unit, before.image, after.image, before if same else after, kept, each.tuned))
            for warning in _warnings(unit, after):
                progress.warn(warning)
        return results


# ---- what is asked


@dataclass(frozen=True, slots=True, kw_only=True)
class _Wanted:
    """What `calibrate` is asked for; None where the threshold in force says it. See there."""

    method: Method | Literal["few-shot"] | None
    alpha: float | None
    delta: float | None
    review_alpha: float | None
    pixel_alpha: float | None
    pixel_review_alpha: float | None
    objective: Objective | None
    cost_miss: float | None
    cost_false_alarm: float | None
    tune: bool

    @property
    def few_shot(self) -> bool:
        return self.method == "few-shot"

    @property
    def of_image(self) -> bool:
        """Whether the threshold of image scores is asked for."""
        return not (self.method is None and self.alpha is None and self.delta is None)

    @property
    def costs(self) -> dict[str, float]:
        """Those that are given."""
        given = {"cost_miss": self.cost_miss, "cost_false_alarm": self.cost_false_alarm}
        return {name: value for name, value in given.items() if value is not None}

    def check(self, *, anomalies: bool) -> None:
        """SpecError for what means nothing, or nothing together."""
        for name in ("alpha", "delta", "review_alpha", "pixel_alpha", "pixel_review_alpha"):
            share = getattr(self, name)
            if share is not None and not 0 < share < 1:
                of = "a probability" if name == "delta" else "a share of good images"
                raise SpecError(f"{name} is {share}; expected {of} above 0 and below 1")
        for name, cost in self.costs.items():
            if not 0 <= cost < math.inf:
                raise SpecError(f"{name} is {cost}; expected a number of 0 or more")
        if self.method not in (None, "few-shot", "quantile", "conformal", "evt"):
            raise SpecError(f"method is {self.method!r}; expected quantile, conformal, evt or few-shot")
        if self.few_shot and not anomalies:
            raise SpecError("few-shot needs labelled defects", help="Give images of them: --anomalies DIR")
        if anomalies and not self.few_shot:
            raise SpecError(f"{self.method} has no use for labelled defects", help="Give --method few-shot.")
        for name in ("alpha", "delta") if self.few_shot else ("objective", *self.costs, "tune"):
            value = getattr(self, name)
            if value is not None and value is not False:
                what = "few-shot" if self.few_shot else "labelled defects: --anomalies DIR"
                raise SpecError(f"{name} has no effect {'with' if self.few_shot else 'without'} {what}")
        if self.costs and self.objective != "cost":
            raise SpecError(f"{next(iter(self.costs))} has no effect with the objective {self.objective}")
        if self.objective == "cost" and (self.cost_miss, self.cost_false_alarm) == (0, 0):
            raise SpecError("both costs are 0: every threshold is as good as any other")

    def asked(self, in_force: Threshold, alpha: float) -> Asked:
        """How a threshold that takes the place of one is chosen from normal scores."""
        method = self.method or in_force.method
        chosen: Method = "quantile" if method == "few-shot" else method
        if self.delta is not None and chosen != "conformal":
            raise SpecError(f"delta has no effect on a threshold by {chosen}", help="Give --method conformal as well.")
        keeps = self.method is None and in_force.method == "conformal"
        return Asked(chosen, alpha, in_force.delta if self.delta is None and keeps else self.delta)


def _made_otherwise(tiling: Tiling) -> SpecError:
    return SpecError(f"{tiling}: the scores at hand were made another way", help="Give good images: --good DIR")


# ---- the thresholds


@dataclass(frozen=True, slots=True)
class _Evidence:
    """What a unit's thresholds are chosen from.

    scores: of normal images, and their source. new: whether they were made now. maxima: the highest pixel of each of
    their maps, in the unit of `pixel`. pixel: the scale of these maps; of new ones its threshold is not chosen from the
    maxima yet. data: SHA-256 of the normal images. The rest: as of `Calibration`.
    defects: scores of labelled defects. labelled_data: SHA-256 of those and of their masks.
    """

    scores: tuple[float, ...]
    source: Source | None
    maxima: tuple[float, ...]
    pixel: PixelScale | None
    data: str | None
    tiling: Tiling | None
    postprocess: PostprocessTable | None
    new: bool = False
    defects: tuple[float, ...] = ()
    labelled_data: str | None = None
    tuned: Tuned | None = None

    @classmethod
    def at_hand(cls, before: Calibration) -> _Evidence:
        return cls(
            before.scores,
            before.image.source,
            before.maxima,
            before.pixel,
            before.data,
            before.tiling,
            before.postprocess,
        )


def _decided(
    spec: RunSpec,
    units: Sequence[UnitFolder],
    old: Sequence[Calibration],
    evidence: Sequence[_Evidence],
    wanted: _Wanted,
) -> list[Calibration]:
    """The new thresholds of every unit. Raises SpecError with the problems of all."""
    problems: list[Problem] = []
    new: list[Calibration] = []
    for unit, before, each in zip(units, old, evidence, strict=True):
        try:
            new.append(_Decision(spec, unit, before, each, wanted).calibration())
        except SpecError as error:
            problems += error.problems
    if problems:
        raise SpecError(problems)
    return new


@dataclass(frozen=True, slots=True)
class _Decision:
    """The thresholds of one unit: what was in force, what they are chosen from, and what is asked."""

    spec: RunSpec
    unit: UnitFolder
    before: Calibration
    evidence: _Evidence
    wanted: _Wanted

    def calibration(self) -> Calibration:
        evidence = self.evidence
        if not evidence.scores:
            if evidence.defects:
                raise SpecError(f"{self.unit}: there are no normal scores: {self.before.image.reason}", help=_GIVE_GOOD)
            return self.before
        image = self._image()
        review = self._review(image)
        return Calibration(
            image,
            self._pixel(image),
            tuple(sorted(evidence.scores)),
            evidence.tiling,
            review=review,
            maxima=evidence.maxima,
            expected=self._expected(image, review),
            data=evidence.data,
            postprocess=evidence.postprocess,
        )

    def _image(self) -> Threshold:
        if self.wanted.few_shot:
            return self._between()
        before = self.before.image
        if not self.evidence.new and not self.wanted.of_image:
            return before
        if before.method == "few-shot" and self.wanted.method is None:
            raise SpecError(
                f"{self.unit}: the threshold in force was chosen with labelled defects, whose scores are not kept",
                help="Give them again, --anomalies DIR, or another way: --method quantile --alpha A",
            )
        alpha = self.wanted.alpha or before.alpha or self.spec.calibration.alpha
        return self._chosen(self.evidence.scores, self.wanted.asked(before, alpha), "")

    def _between(self) -> Threshold:
        evidence, wanted = self.evidence, self.wanted
        objective = wanted.objective or "f1"
        costs = [1.0 if cost is None else cost for cost in (wanted.cost_miss, wanted.cost_false_alarm)]
        ways: dict[str, Any] = {"objective": objective, "cost_miss": costs[0], "cost_false_alarm": costs[1]}
        try:
            value = fit_threshold(evidence.scores, evidence.defects, **ways)
            labelled = describe_threshold(evidence.scores, evidence.defects, **ways)
        except ValueError as error:
            raise SpecError(f"{self.unit}: {error}") from error
        return Threshold(
            value=value,
            method="few-shot",
            n=len(evidence.scores),
            source=self._source(),
            labelled=msgspec.structs.replace(labelled, data=evidence.labelled_data),
        )

    def _review(self, image: Threshold) -> Threshold | None:
        in_force, alpha = self.before.review, self.wanted.review_alpha
        if alpha is None and self.before.image.value is None:
            alpha = self.spec.calibration.review_alpha  # a unit without thresholds so far gets what its spec asks for
        if alpha is None and self.evidence.new and in_force is not None:
            alpha = in_force.alpha
        review = in_force
        if alpha is not None:
            asked = self.wanted.asked(in_force or image, alpha)
            review = self._chosen(self.evidence.scores, asked, "review threshold: ")
        self._check_below(review, image.value, "")
        return review

    def _pixel(self, image: Threshold) -> PixelScale | None:
        """The scale of maps with the thresholds that are chosen from their highest pixels, as far as they are."""
        evidence, wanted, before, pixel = self.evidence, self.wanted, self.before.pixel, self.evidence.pixel
        alpha, review_alpha = wanted.pixel_alpha, wanted.pixel_review_alpha
        if pixel is None:
            if alpha is not None or review_alpha is not None:
                raise SpecError(f"{self.unit}: a threshold of maps needs maps of normal images, and there are none")
            return None
        chosen, review = (None, None) if before is None else (before.chosen, before.review)
        if evidence.new:
            table = self.spec.calibration
            alpha = alpha or (chosen.alpha if chosen else table.pixel_alpha if before is None else None)
            review_alpha = review_alpha or (
                review.alpha if review else table.pixel_review_alpha if before is None else None
            )
        if (alpha is not None or review_alpha is not None) and not evidence.maxima:
            raise SpecError(
                f"{self.unit}: the highest pixels of normal maps were not kept by the version that made this run",
                help=_GIVE_GOOD,
            )
        for share, in_force in ((alpha, chosen or image), (review_alpha, review or chosen or image)):
            if share is not None and wanted.asked(in_force, share).method == "conformal":
                self._check_untuned()
        if alpha is not None:
            chosen = self._chosen(evidence.maxima, wanted.asked(chosen or image, alpha), "threshold of maps: ")
            if chosen.value is not None:
                pixel = replace(pixel, threshold=chosen.value, sigmas=None, chosen=chosen)
        if review_alpha is not None:
            asked = wanted.asked(review or chosen or image, review_alpha)
            pixel = replace(pixel, review=self._chosen(evidence.maxima, asked, "review threshold of maps: "))
        self._check_below(pixel.review, pixel.threshold, " of maps")
        return pixel

    def _check_untuned(self) -> None:
        """SpecError if the maps that a promise would rest on have chosen how they are processed."""
        evidence, before = self.evidence, self.before
        again = before.postprocess is not None and evidence.data == before.data
        if evidence.tuned is not None or again:
            raise SpecError(
                f"{self.unit}: threshold of maps: conformal promises nothing here: the maps of these good images chose "
                "their own post-processing",
                help=_GIVE_GOOD,
            )

    def _expected(self, image: Threshold, review: Threshold | None) -> Expected | None:
        """The shares of new images; of defects as `_defect_shares` says, or as they were where nothing has changed."""
        expected, before = expected_of(self.evidence.scores, image, review), self.before
        if expected is None:
            return None
        if self.evidence.defects:
            defect = _defect_shares(image, review, self.evidence.defects)
        else:
            same = before.expected is not None and (image, review) == (before.image, before.review)
            defect = before.expected.defect if before.expected is not None and same else None
        return msgspec.structs.replace(expected, defect=defect)

    def _chosen(self, scores: Sequence[float], asked: Asked, what: str) -> Threshold:
        source = self._source()
        try:
            return choose(scores, asked, source=source)
        except TooFew as error:
            more = "Give more good images that the model has not learned (--good DIR), or allow more of them."
            raise SpecError(f"{self.unit}: {what}{error}", help=more) from error
        except ValueError as error:
            learned = asked.method == "conformal" and source in ("leave-one-out", "training")
            raise SpecError(f"{self.unit}: {what}{error}", help=_UNSEEN if learned else None) from error

    def _source(self) -> Source:
        if self.evidence.source is None:
            raise SpecError(f"{self.unit}: which images its normal scores are of is not known", help=_GIVE_GOOD)
        return self.evidence.source

    def _check_below(self, review: Threshold | None, limit: float | None, of: str) -> None:
        if review is None or review.value is None or limit is None or review.value < limit:
            return
        raise SpecError(
            f"{self.unit}: the review threshold{of}, {review.value:.9g}, is not below the threshold{of}, {limit:.9g}",
            help=f"Let more good images reach it: --{'pixel-' if of else ''}review-alpha, or give more good images.",
        )


_UNSEEN = (
    "Give good images that the model has not learned: --good DIR; or fit anew with [calibration] holdout, "
    "which keeps some out of the model."
)


def _defect_shares(image: Threshold, review: Threshold | None, defects: Sequence[float]) -> Shares | None:
    """What verdicts new defects like the labelled ones are expected to get; None where nothing was cross-validated.

    The share missed is (1 + misses) / (m + 1) of m labelled defects by cross-validation. Of those missed as many are
    called good as there are labelled defects below the review threshold, which no defect has chosen; all of them, if
    there are more of these.
    """
    if image.labelled is None or image.labelled.miss_rate is None:
        return None
    missed = (1 + image.labelled.miss_rate * len(defects)) / (len(defects) + 1)
    good = missed
    if review is not None and review.value is not None:
        good = min(missed, sum(score < review.value for score in defects) / len(defects))
    return Shares(good=good, review=missed - good, anomaly=1 - missed)


def _warnings(unit: UnitFolder, calibration: Calibration) -> Iterable[str]:
    image = calibration.image
    if image.value is None:
        yield f"{unit}: still without a threshold: {image.reason}"
    elif image.method == "quantile" and image.alpha is not None:
        needed = images_needed(Asked("quantile", image.alpha))
        if image.n < needed:
            yield (
                f"{unit}: {image.n} normal images are too few to tell an alpha of {image.alpha:g}: a further good "
                f"image exceeds this threshold about once in {image.n + 1}; {needed} would be enough"
            )
    for doubt in calibration.doubts():
        yield f"{unit}: {doubt}"


# ---- images given


@dataclass(frozen=True, slots=True)
class _Given:
    """Images to calibrate on, each of its content once. good: their paths."""

    good: tuple[str, ...]
    defects: tuple[Sample, ...] = ()

    @property
    def paths(self) -> list[str]:
        return [*self.good, *(sample.path for sample in self.defects)]


@dataclass(slots=True)
class _Found:
    """What a model says of the images given. maps: only if they are to be tuned, else their pixels are counted."""

    scores: list[float] = field(default_factory=list)
    defects: list[float] = field(default_factory=list)
    pixels: PixelCalibration = field(default_factory=PixelCalibration)
    maps: list[NDArray[Any]] = field(default_factory=list)


def _from_images(
    run: RunFolder,
    units: Sequence[UnitFolder],
    old: Sequence[Calibration],
    good: Sequence[str],
    anomalies: Sequence[str],
    *,
    wanted: _Wanted,
    tiling: Tiling | None,
    device: str | None,
    progress: Progress,
) -> list[_Evidence]:
    """Score the images with every unit's model."""
    from uadctl.inference import use_threads
    from uadctl.runs.fitted import load, why_no_tiles
    from uadctl.runs.provenance import content_hash

    categories = sorted({unit.category for unit in units})
    if len(categories) > 1:
        what = "good images" if good else "labelled images"
        raise SpecError(
            f"{run.path}: {what} belong to one category, and {len(categories)} are chosen",
            help="Choose one: " + ", ".join(f"--category {name}" for name in categories),
        )
    given = _read_given(good, anomalies, categories[0], progress)
    if tiling is not None and not given.good:
        raise _made_otherwise(tiling)
    if wanted.tune:
        _check_tunable(given)
    spec = run.spec
    _check_against_data(run, units, given.paths, progress)
    use_threads(spec.run.threads)
    data = content_hash(given.good) if given.good else None
    masks = [mask for sample in given.defects for mask in sample.masks]
    labelled_data = content_hash([*given.paths, *masks]) if given.defects else None
    evidence = []
    for unit, before in zip(units, old, strict=True):
        fitted = load(unit, device=device or spec.run.device)
        if tiling is not None and (why := why_no_tiles(fitted)) is not None:
            raise SpecError(f"{unit}: {tiling}: {why}")
        fitted = fitted.tiled(before.tiling if tiling is None else tiling)
        one = _score(spec, unit, before, fitted, given, wanted, progress)
        evidence.append(replace(one, data=data or one.data, labelled_data=labelled_data))
    return evidence


def _score(
    spec: RunSpec,
    unit: UnitFolder,
    before: Calibration,
    fitted: Fitted,
    given: _Given,
    wanted: _Wanted,
    progress: Progress,
) -> _Evidence:
    from uadctl.runs.fitted import postprocess_of

    table = before.postprocess or fitted.postprocess
    masks = _masks(unit, given, fitted.camera.raw, spec.metrics) if wanted.tune else []
    # Maps are tuned as the model makes them; else done to them is what needs no scale, which is only found here.
    found = _stream(spec, unit, fitted, given, progress, None if wanted.tune else table, keep=wanted.tune)
    at_hand = replace(_Evidence.at_hand(before), defects=tuple(found.defects))
    if not given.good:
        return at_hand
    if not (isinstance(fitted.detector, TrainedElsewhere) and fitted.detector.scores_are_cut):
        _warn_of_memorised(unit, given.good, found.scores, before, progress)
    tuned, postprocess = None, before.postprocess
    if wanted.tune:
        tuned, postprocess = _tuned(unit, table or PostprocessTable(), found.maps, masks, progress)
        table, clean = postprocess, postprocess_of(postprocess, None)
        for anomaly_map in found.maps[: len(given.good)]:
            found.pixels.add(anomaly_map if clean is None else clean(anomaly_map))
    plain = msgspec.structs.replace(spec.calibration, pixel_alpha=None, pixel_review_alpha=None)
    normalize = table is not None and table.normalize
    pixel = PixelScale.of(found.pixels, plain, normalize=normalize, source="given")
    return replace(
        at_hand,
        scores=tuple(found.scores),
        source="given",
        maxima=normalized_maxima(found.pixels.maxima, None if pixel is None else pixel.normalize),
        pixel=pixel,
        tiling=fitted.calibration.tiling,
        postprocess=postprocess,
        new=True,
        tuned=tuned,
    )


def _stream(
    spec: RunSpec,
    unit: UnitFolder,
    fitted: Fitted,
    given: _Given,
    progress: Progress,
    table: PostprocessTable | None,
    *,
    keep: bool,
) -> _Found:
    """What the unit's model says of the images. table: what is done to maps. keep: keep all maps, as arrays."""
    from uadctl.inference import stream
    from uadctl.runs.fitted import postprocess_of

    found, problems, paths = _Found(), [], given.paths
    seed = f" · seed {unit.seed}" if len(spec.run.all_seeds) > 1 else ""
    scored = stream(
        fitted.detector,
        paths,
        intake=replace(fitted.intake, postprocess=postprocess_of(table, None)),
        threads=spec.run.threads,
        include_maps=keep or bool(given.good),
        in_memory=keep,
        progress=progress,
    )
    with progress.task(f"calibrate {unit.category} · {unit.label}{seed}", len(paths)) as task:
        for item in scored:
            if item.prediction is None:
                problems.append(str(item.error))
            else:
                good = item.index < len(given.good)
                (found.scores if good else found.defects).append(item.prediction.score)
                anomaly_map: Any = item.prediction.map
                if keep and anomaly_map is None:
                    raise SpecError(f"{unit}: {fitted.model} makes no maps that could be tuned")
                if keep:
                    found.maps.append(anomaly_map)
                elif good and anomaly_map is not None:
                    found.pixels.add(anomaly_map)
            task.advance()
    if problems:
        raise DataError(with_help(problems, _NOTHING_CHANGED))
    return found


def _read_given(good: Sequence[str], anomalies: Sequence[str], category: str, progress: Progress) -> _Given:
    """The images that the user means. DataError for one that is given as a good image and as a defect."""
    from uadctl.datasets.manifest import labelled_images, manifest_kind
    from uadctl.imaging.listing import is_folder

    normal = _files(good)
    defects: list[Sample] = []
    for given in anomalies:
        if manifest_kind(given) is None or is_folder(given):
            defects += [Sample(path, path, "validation", 1, "anomaly", category) for path in _files([given])]
            continue
        rows = labelled_images(given, category)
        if missing := [row for row in rows if row.expected_mask is not None]:
            raise DataError(
                with_help((f"{row.path}: no mask at {row.expected_mask}" for row in missing), "Nothing was changed.")
            )
        normal += [row.path for row in rows if row.label == 0]
        defects += [row for row in rows if row.label == 1]
    if anomalies and not defects:
        raise DataError(f"{anomalies[0]}: no image of a defect, label 1, in this manifest")
    # A file that cannot be read is reported when it is decoded.
    digests = {path: _sha256(path) or path for path in [*normal, *(sample.path for sample in defects)]}
    contradictions = _both(normal, [sample.path for sample in defects], digests)
    if contradictions:
        raise DataError(
            with_help(
                (f"{bad}: is given as a defect, and as a good image: {path}" for bad, path in contradictions),
                "Give each image once; nothing was changed.",
            )
        )
    one_each = {digests[sample.path]: sample for sample in reversed(defects)}
    kept = _Given(
        tuple({digests[path]: path for path in reversed(normal)}.values())[::-1], tuple(one_each.values())[::-1]
    )
    total = len(normal) + len(defects)
    if copies := total - len(kept.paths):
        # An image counted twice would make a threshold look surer than it is.
        progress.warn(f"{copies} of {total} images given are copies of others among them and count once")
    return kept


def _both(normal: Sequence[str], defects: Sequence[str], digests: Mapping[str, str]) -> list[tuple[str, str]]:
    """Defects whose content is that of a good image, each with that one."""
    content = {digests[path]: path for path in reversed(normal)}
    return [(path, content[digests[path]]) for path in defects if digests[path] in content]


def _files(given: Sequence[str]) -> list[str]:
    from uadctl.imaging.listing import is_folder, list_images

    paths: list[str] = []
    for each in given:
        inside = list_images(each) if is_folder(each) else [each]
        if not inside:
            raise DataError(f"{each}: no images in this folder")
        paths += inside
    return paths


def _sha256(path: str) -> str | None:
    try:
        if not Path(path).is_file():  # opening a pipe would wait for a writer
            return None
        with Path(path).open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError:
        return None


def _check_against_data(run: RunFolder, units: Sequence[UnitFolder], paths: Sequence[str], progress: Progress) -> None:
    """DataError if an image is a copy of one that a unit trained or tested on; a warning where its data are not found.

    units: of one category.
    """
    from uadctl.datasets.demo import demo_root

    spec, category = run.spec, units[0].category
    table = spec.dataset
    where = demo_root() if table.root is None else Path(table.root)
    try:
        dataset = load_category(table, category) if where.exists() else None
    except DataError:  # what lies there now is another data set
        dataset = None
    if dataset is None:
        progress.warn(
            f"{category}: the run's data set is no longer at {where}: whether the images given are among those that "
            "were learned or tested on cannot be told, and a threshold from such images would be wrong"
        )
        return
    given = {digest: path for path in paths if (digest := _sha256(path)) is not None}
    pool, test = limited(dataset.train, table.limit_train), limited(dataset.test, table.limit_test)
    shots = {variant.model.label: variant.shots for variant in variants(spec)}
    learned = {
        sample
        for unit in units
        for sample in draw_shots(pool, shots.get(unit.label), category=category, seed=unit.seed)
    }
    train = [sample for sample in pool if sample in learned]
    for samples, what in ((train, "a training image"), (test, "a test image")):
        if copies := _copies(given, [sample.path for sample in samples]):
            raise DataError(
                with_help(
                    (f"{path}: is {what} of this run: {original}" for path, original in copies),
                    f"A threshold comes from images that were neither learned nor tested on. {_NOTHING_CHANGED}",
                )
            )


def _copies(given: Mapping[str, str], originals: Iterable[str]) -> list[tuple[str, str]]:
    """Which files of `given`, by their SHA-256, equal which of the originals; only those of a fitting size are read."""
    sizes = {_size(path) for path in given.values()}
    found = [(_sha256(path), path) for path in originals if _size(path) in sizes]
    return [(given[digest], path) for digest, path in found if digest is not None and digest in given]


def _size(path: str) -> int | None:
    try:
        return Path(path).stat().st_size
    except OSError:
        return None


def _warn_of_memorised(
    unit: UnitFolder, paths: Sequence[str], scores: Sequence[float], before: Calibration, progress: Progress
) -> None:
    near_zero = [paths[i] for i in known_by_heart(scores, before.scores or scores)]
    if near_zero:
        more = f" and {len(near_zero) - 1} more" if len(near_zero) > 1 else ""
        progress.warn(
            f"{unit}: {near_zero[0]}{more}: the score is near zero, as if the model had learned this image; "
            "a threshold from such images is too low"
        )


# ---- maps that are tuned


def _check_tunable(given: _Given) -> None:
    if not given.good:
        raise SpecError("maps cannot be tuned without those of good images", help=_GIVE_GOOD)
    if without := [sample.path for sample in given.defects if not sample.masks]:
        raise DataError(
            with_help(
                (f"{path}: has no mask, and maps cannot be tuned without" for path in without),
                "Name the masks of defects in a manifest: --anomalies FILE.csv",
            )
        )


def _masks(unit: UnitFolder, given: _Given, raw: RawLayout | None, metrics: MetricsTable) -> list[NDArray[Any] | None]:
    """The truth of each image, None of a good one. SpecError if maps and masks would take too much memory."""
    from uadctl.imaging.files import image_size, read_mask

    sizes: dict[str, Size] = {}
    problems: list[Problem] = []
    for path in given.paths:
        try:
            sizes[path] = image_size(path, raw=raw)
        except DataError as error:
            problems += error.problems
    needed = _TUNED_BYTES * sum(size.height * size.width for size in sizes.values())
    if needed > metrics.memory_bytes:
        raise SpecError(
            f"{unit}: to tune maps, those of {len(sizes)} images are kept in memory: {needed / 1e6:.3g} MB, more than "
            f"[metrics] memory = {metrics.memory}",
            help="Give fewer or smaller images.",
        )
    masks: list[NDArray[Any] | None] = [None] * len(given.good)
    for sample in given.defects:
        try:
            masks.append(read_mask(sample.masks, size=sizes[sample.path]) if sample.path in sizes else None)
        except DataError as error:
            problems += error.problems
    if problems:
        raise DataError(with_help((problem.message for problem in problems), _NOTHING_CHANGED))
    return masks


def _tuned(
    unit: UnitFolder,
    own: PostprocessTable,
    maps: Sequence[NDArray[Any]],
    masks: Sequence[NDArray[Any] | None],
    progress: Progress,
) -> tuple[Tuned, PostprocessTable]:
    """The settings that serve the masks best, of a grid that has the unit's own."""
    from uadctl.thresholds.labelled import MOST_FOLDS
    from uadctl.thresholds.postprocessing import DEFAULT_GRID, tune_postprocess

    grid = {name: sorted({*values, getattr(own, name)}) for name, values in DEFAULT_GRID.items()}
    as_it_is = {name: [getattr(own, name)] for name in DEFAULT_GRID}
    defects = sum(mask is not None for mask in masks)
    folds = min(MOST_FOLDS, defects, len(masks) - defects)
    try:
        untuned = tune_postprocess(as_it_is, maps, masks, metric=_TUNED_FOR)["value"]
        found = tune_postprocess(grid, maps, masks, metric=_TUNED_FOR, folds=folds if folds > 1 else 0)
    except ValueError as error:
        raise SpecError(f"{unit}: {error}") from error
    for reason in found.get("reasons", ()):
        progress.warn(f"{unit}: of the cross-validation of tuned maps {reason}")
    params = dict(found["params"])
    tuned = Tuned(params, _TUNED_FOR, found["value"], untuned, found.get("cross_validated"), found.get("folds", 0))
    return tuned, msgspec.structs.replace(own, **params)
