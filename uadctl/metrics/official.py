"""What the authors of a data set measure, by the name of their protocol: everything a bench says of one category.

Every protocol has the image metrics, the pixel metrics and AU-PRO. `mvtec_loco` adds image AUROC and sPRO for logical
and for structural defects apart, `autovi` sPRO of all defects together, `mvtec_ad2` SegF1 and ClassF1 at one threshold
of the maps. Beside the figures of a category stand those of each kind of defect, those of parts that several images
show, and 95 % intervals.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from uadctl.metrics.evaluate import evaluate_images
from uadctl.metrics.groups import GROUP_METRICS, evaluate_groups, label_parts, number_parts, score_parts
from uadctl.metrics.image import IMAGE_METRICS, THRESHOLD_METRICS, is_anomalous, ranking_metrics
from uadctl.metrics.intervals import draw_weights, percentile_interval, resample_f1, resample_threshold_rates
from uadctl.metrics.masked import Map, Mask, MaskedMap, checked_pair, masked_map
from uadctl.metrics.pixel import PixelMetrics
from uadctl.metrics.pooled import Parts, pixel_metric_names, take_apart
from uadctl.metrics.record import Metrics, merge, undefined
from uadctl.metrics.region import aupro_name, checked_limit, mean_area
from uadctl.metrics.resampling import PixelStatistics, resample_image_metrics
from uadctl.metrics.saturated import saturated_parts, saturation_of
from uadctl.metrics.streaming import StreamingPixelMetrics
from uadctl.records import DefectConfig, Sample
from uadctl.spec.data_sets import PROTOCOLS

PixelMode = Literal["exact", "streaming"]

#: The false-positive rate up to which MVTec LOCO and AutoVI integrate sPRO.
SPRO_LIMIT = 0.05
_SPRO = "spro_05"

#: Bytes that the counts of all images for resamples of the pixel metrics may take.
_STATISTICS = 2**28

#: Why a kind of defect has no AU-PRO of its own in streaming mode: its bins hold the regions of all kinds together.
_STREAMED = "streaming mode measures all kinds of defect together ([metrics] memory)"

#: What is known of one kind of defect: figures by name, None where undefined, and "reasons" where any of them is.
KindFigures = dict[str, float | int | dict[str, str] | None]


@dataclass(frozen=True, slots=True)
class Measurement:
    """What was measured of one category.

    metrics:    of images, of pixels, of the protocol and of parts, with reasons and counts.
    pixel_mode: how the pixel metrics and AU-PRO were computed; None where they were not.
    bounds:     pixel metric -> how far it may be from its exact value, for those that are not exact: all of them and
                sPRO in streaming mode; in exact mode none, or sPRO alone, where its engines do not fit. SegF1 and
                ClassF1 are exact in any case and have none.
    by_defect:  kind of defect -> its figures, sorted by kind: images; missed, miss_rate (None without a threshold);
                image_auroc against all good images; and where pixels are measured AU-PRO to each limit and, by the
                protocols mvtec_loco and autovi, spro_05: the mean over the regions (the defects) of that kind alone,
                the false-positive rate being that of the category (for sPRO by mvtec_loco that of the good images and
                those of its sort), so that the category's figure is the mean of its kinds weighed by their regions.
                None where there is no region, and in streaming mode; but sPRO of a kind that no other is measured
                together with, as in MVTec LOCO itself. Where a figure is None the entry has one key more, reasons:
                name -> why, for exactly the names that are None.
    intervals:  metric -> its 95 % interval, for every metric that is a number but tp, fp, fn and tn; None where most
                resamples leave it undefined. {} without a bootstrap.
    replicates: the same metrics -> (R,) float64, their values in each resample, NaN where it leaves them undefined.
                {} without a bootstrap.
    images:     SHA-256, in hex, over what the resamples are drawn from: the images' names, labels, groups and strata
                in their order. Where it and the seed are equal, so are the draws: two runs can be compared resample by
                resample. None without a bootstrap.
    """

    metrics: Metrics
    pixel_mode: PixelMode | None
    bounds: dict[str, float]
    by_defect: dict[str, KindFigures]
    intervals: dict[str, tuple[float, float] | None]
    replicates: dict[str, NDArray[np.float64]] = field(default_factory=dict, compare=False)  # arrays have no one ==
    images: str | None = None


class CategoryMetrics:
    """Everything that is measured of one category by one protocol, from test images that come one by one.

    protocol:   a name in `PROTOCOLS`. Every protocol can be asked of every data set.
    fpr_limits: false-positive rates up to which AU-PRO is integrated, each above 0 and at most 1.
    threshold:  an image, or a part, is anomalous iff its score >= threshold; None with the reason why there is none.
    pixel:      False: no metric of maps, the names are absent.
    has_masks:  False: metrics that need masks are None.
    pixels:     of the test images together, and
    memory:     bytes: whether pixel metrics are exact or in streaming mode. For sPRO one more engine runs beside the
                one for the other pixel metrics, by mvtec_loco two; they are exact if all fit. A bootstrap keeps 256 MiB
                more at most, and some tens of MB to work in.
    pixel_threshold: of maps, for SegF1 and ClassF1: a pixel is anomalous iff its score >= pixel_threshold.
    saturations: for sPRO: whether the category says how much of each defect is enough.
    bootstrap:  resamples for the intervals; 0: none.
    seed:       of the resamples, 0 or more; the same seed and images give the same resamples. The verbs leave it at 0,
                whatever the seed of the run: then all runs on these images draw alike, and compare in pairs.

    Intervals are percentile intervals over resamples of the images, or where images have groups of the parts with all
    their views (a cluster bootstrap). As many good and as many defect ones are drawn as there are; by the protocol
    mvtec_loco as many logical and as many structural. The same resamples serve all metrics. Image metrics of a resample
    are exact. Its pixel metrics come of scores counted in at most 8192 bins (`PixelStatistics`), which moves the ends
    by far less than the draw of the resamples does; nothing is recentred for it.

    Raises ValueError for another protocol or limit.

    Sources: Bergmann et al., The MVTec Anomaly Detection Dataset, IJCV 129, 2021; Bergmann et al., Beyond Dents and
    Scratches, IJCV 130, 2022; Carvalho et al., Detecting Visual Anomalies in an Industrial Environment, Computers in
    Industry 163, 2024, and the evaluation code of AutoVI; Heckler-Kram et al., The MVTec AD 2 Dataset, 2025; Efron and
    Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13.
    """

    def __init__(
        self,
        *,
        protocol: str = "mvtec_ad",
        fpr_limits: Sequence[float] = (0.3,),
        threshold: float | None,
        threshold_reason: str | None = None,
        pixel: bool = True,
        has_masks: bool = True,
        pixels: int = 0,
        memory: int = 10**9,
        pixel_threshold: float | None = None,
        saturations: bool = False,
        bootstrap: int = 0,
        seed: int = 0,
    ) -> None:
        if protocol not in PROTOCOLS:
            raise ValueError(f'protocol is "{protocol}"; expected one of {", ".join(PROTOCOLS)}')
        self._protocol = PROTOCOLS[protocol]
        self._limits = tuple(checked_limit(limit) for limit in fpr_limits)
        self._threshold, self._threshold_reason = threshold, threshold_reason
        self._pixel, self._has_masks = pixel, has_masks
        self._bootstrap, self._seed = bootstrap, seed
        self._views: list[_View] = []
        self._unmasked = 0
        self._unsaturated = 0

        self._sorts = self._protocol.sorts
        self._saturations = saturations
        self._mode: PixelMode | None = None
        self._maps: _Maps | None = None
        self._spro: dict[str, _Maps] = {}
        if pixel and has_masks:
            of_defects = self._engines_of_spro() if saturations else ()
            engines = 1 + len(of_defects)
            needed = PixelMetrics.memory_for(pixels)
            self._mode = "exact" if needed <= memory else "streaming"
            of_spro: PixelMode = "exact" if engines * needed <= memory else "streaming"
            statistics = _STATISTICS // engines if bootstrap else None
            self._maps = _Maps(self._mode, statistics=statistics)
            self._spro = {name: _Maps(of_spro, statistics=statistics, regions="defects") for name in of_defects}
        self._verdicts = _PixelVerdicts(pixel_threshold) if pixel and protocol == "mvtec_ad2" else None

    def add(
        self,
        sample: Sample,
        score: float,
        anomaly_map: Map | None = None,
        mask: Mask | None = None,
        defects: Sequence[tuple[DefectConfig, Mask]] | None = None,
    ) -> None:
        """Take in one test image; nothing of the arrays is kept.

        sample:      its label, its kind of defect and its group count. With the label -1 it counts nowhere but as a
                     view of its group.
        score:       of the image, higher is more anomalous.
        anomaly_map: (H, W), NaN where the detector has not looked; None: it has no part in any metric of maps. One in
                     a file (`StoredMap`) is read in bands, as `PixelMetrics.add` says, and so are masks that are a
                     `Raster`.
        mask:        (H, W), above 0 on defects, zeros for a good image; None where it is unknown: then the image has
                     no part in the pixel metrics, and a defect image is counted as one without mask.
        defects:     for sPRO, one entry a mask file: how much of it is enough, and its pixels, (H, W). None or empty
                     where that is unknown: then a defect image has no part in sPRO, and is counted.

        Raises ValueError if map and mask differ in size, or if a saturation is less than a pixel, DataError where a
        file cannot be read; the image is then not counted, unless the file broke after it was looked at.
        """
        has_map = anomaly_map is not None
        seen = _View(
            relative=sample.relative,
            label=sample.label,
            kind=sample.defect,
            group=sample.group,
            score=score,
            has_map=has_map,
            has_mask=mask is not None,
            has_saturations=bool(defects),
        )
        called, parts, saturated = None, None, None
        if seen.label >= 0 and anomaly_map is not None:
            pair = None
            if mask is not None and self._maps is not None:
                pair = checked_pair(mask, anomaly_map, mask_name=f"the mask of {sample.relative}", map_name="its map")
                parts = take_apart(pair)
            if defects and seen.label == 1 and self._engine_of(seen.kind) in self._spro:
                saturated = _saturated(sample, anomaly_map, defects)
            if self._verdicts is not None:
                judged = pair or masked_map((), anomaly_map, mask_names=(), map_name=f"the map of {sample.relative}")
                called = self._verdicts.call(judged)
        view = len(self._views)
        self._views.append(seen)
        if seen.label < 0:
            return
        if self._verdicts is not None and called is not None:
            self._verdicts.take(called, seen.label == 1, view=view)
        if self._maps is None:
            return
        self._unmasked += seen.label == 1 and mask is None
        self._unsaturated += seen.label == 1 and not defects
        if parts is not None:
            self._maps.take(parts, view=view, kind=seen.kind)
            for maps in self._spro.values() if seen.label == 0 else ():
                maps.take(parts, view=view, kind=seen.kind)
        if saturated is not None:
            self._spro[self._engine_of(seen.kind)].take(saturated, view=view, kind=seen.kind)

    def result(self) -> Measurement:
        """All metrics of the images so far; more may follow."""
        if self._views and all(view.label < 0 for view in self._views):
            return self._without_ground_truth()
        pixels = self._maps.measure(self._limits) if self._maps is not None else None
        spro = {name: maps.measure((SPRO_LIMIT,)) for name, maps in self._spro.items()}
        metrics = merge(
            self._of_images(),
            self._of_pixels(pixels),
            self._of_defects(spro),
            self._verdicts.metrics(has_masks=self._has_masks) if self._verdicts is not None else Metrics({}),
            self._of_groups(),
        )
        replicates = self._replicates(metrics.metrics)
        return Measurement(
            metrics=metrics,
            pixel_mode=self._mode,
            bounds=self._bounds(pixels, spro),
            by_defect=self._by_defect(pixels, spro),
            intervals={name: percentile_interval(values) for name, values in replicates.items()},
            replicates=replicates,
            images=self._drawn_from() if self._bootstrap else None,
        )

    # -- the defects that are measured together for sPRO, by the name of their figure

    def _engines_of_spro(self) -> tuple[str, ...]:
        """All defects, or those of each sort; none by a protocol without sPRO."""
        if not self._protocol.spro:
            return ()
        return tuple(f"{_SPRO}_{sort}" for sort in self._sorts) or (_SPRO,)

    def _engine_of(self, kind: str) -> str:
        """That of a kind of defect; "" for one of no sort."""
        if not self._sorts:
            return _SPRO
        sort = self._sort_of(kind)
        return "" if sort is None else f"{_SPRO}_{sort}"

    def _sort_of(self, kind: str) -> str | None:
        """Of the protocol's sorts that of a kind of defect."""
        return sort_of(kind, self._sorts)

    # -- the figures of the category

    def _labelled(self) -> NDArray[np.int64]:
        """The views that have a label."""
        return np.array([i for i, view in enumerate(self._views) if view.label >= 0], dtype=np.int64)

    def _of_sort(self, sort: str) -> NDArray[np.int64]:
        """The good views, and those with a defect of that sort."""
        return np.array([i for i, v in enumerate(self._views) if not v.label or self._is_of(v, sort)], np.int64)

    def _is_of(self, view: _View, sort: str) -> bool:
        """Whether a view shows a defect of that sort."""
        return view.label == 1 and self._sort_of(view.kind) == sort

    def _scored(self, which: Iterable[int]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """The labels and the scores of these views."""
        views = [self._views[i] for i in which]
        return np.array([v.label for v in views], np.int64), np.array([v.score for v in views], np.float64)

    def _of_images(self) -> Metrics:
        labels, scores = self._scored(self._labelled())
        found = evaluate_images(labels, scores, self._threshold, threshold_reason=self._threshold_reason)
        if not self._sorts:
            return found
        metrics, reasons, counts = dict(found.metrics), dict(found.reasons), dict(found.counts)
        own = {f"image_auroc_{sort}": self._auroc_of(sort) for sort in self._sorts}
        own["image_auroc_pooled"] = found.metrics["image_auroc"], found.reasons.get("image_auroc", "")
        metrics["image_auroc"], why = self._mean_of_sorts("image_auroc", own)
        reasons |= {"image_auroc": why} | {name: reason for name, (_, reason) in own.items()}
        metrics |= {name: value for name, (value, _) in own.items()}
        counts |= {f"{sort}_images": sum(self._is_of(view, sort) for view in self._views) for sort in self._sorts}
        return Metrics(metrics, {name: why for name, why in reasons.items() if metrics[name] is None}, counts)

    def _mean_of_sorts(self, name: str, figures: Mapping[str, _Figure]) -> _Figure:
        """The mean over the sorts of defect, each counting the same; none where one of them is none, for its reason."""
        total = 0.0
        for sort in self._sorts:
            value, why = figures[f"{name}_{sort}"]
            if value is None:
                return None, why
            total += value
        return total / len(self._sorts), ""

    def _auroc_of(self, sort: str) -> _Figure:
        """The image AUROC of one sort of defect with all good images."""
        if why := self._lacks(sort):
            return None, why
        found = ranking_metrics(*self._scored(self._of_sort(sort)))
        return found.metrics["image_auroc"], found.reasons.get("image_auroc", "")

    def _lacks(self, sort: str | None) -> str | None:
        """Why nothing can be said of a sort of defect, None: of all; None where there are such images."""
        kinds = sorted({view.kind for view in self._views if view.label == 1})
        if kinds and (sort is None or any(self._is_of(view, sort) for view in self._views)):
            return None
        if not kinds:
            good = sum(view.label == 0 for view in self._views)
            return f"there is no defect image ({good} normal)" if self._views else "there are no images"
        return f'no kind of defect begins with "{sort}" (found: {", ".join(kinds)})'

    def _of_pixels(self, pixels: _Measured | None) -> Metrics:
        if pixels is not None:
            return merge(pixels.metrics, Metrics({}, {}, {"defect_images_without_mask": self._unmasked}))
        if not self._pixel:
            return Metrics({})
        return undefined(pixel_metric_names(fpr_limits=self._limits), "the data set has no masks")

    def _of_defects(self, spro: Mapping[str, _Measured]) -> Metrics:
        """sPRO of all defects together, or of each sort with its mean."""
        if not self._protocol.spro or not self._pixel:
            return Metrics({})
        if not self._has_masks or not self._saturations:
            return undefined(self._protocol.spro, self._why_no_spro())
        figures = {name: self._spro_of_engine(name, measured) for name, measured in spro.items()}
        if self._sorts:
            figures = {_SPRO: self._mean_of_sorts(_SPRO, figures), **figures}
        found = _metrics(**figures)
        counts = {_count_of(name): measured.metrics.counts["regions"] for name, measured in spro.items()}
        return Metrics(found.metrics, found.reasons, counts | {"defect_images_without_saturation": self._unsaturated})

    def _spro_of_engine(self, name: str, measured: _Measured) -> _Figure:
        """sPRO of defects that are measured together. name: of the figure."""
        sort = name.removeprefix(f"{_SPRO}_") if self._sorts else None
        why = self._lacks(sort) or measured.metrics.reasons.get(aupro_name(SPRO_LIMIT), "")
        return None if why else measured.metrics.metrics[aupro_name(SPRO_LIMIT)], why

    def _of_groups(self) -> Metrics:
        if not self._in_groups():
            return undefined(self._asked_of_groups(), "no image has a group")
        labels, scores = self._parts()
        known = labels >= 0
        return evaluate_groups(labels[known], scores[known], self._threshold, threshold_reason=self._threshold_reason)

    def _asked_of_groups(self) -> list[str]:
        """The metrics of parts that the protocol reports: there also where no image has a group, as None."""
        return [name for name in GROUP_METRICS if name in self._protocol.metrics]

    def _in_groups(self) -> bool:
        return any(view.group is not None and view.label >= 0 for view in self._views)

    def _units(self) -> NDArray[np.int64]:
        """(n,) which part each view shows; without groups each its own."""
        return number_parts([view.group for view in self._views] if self._in_groups() else [None] * len(self._views))

    def _parts(self) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """(G,) the labels and the scores of the parts."""
        part = self._units()
        labels, scores = self._scored(range(len(self._views)))
        return label_parts(labels, part), score_parts(scores, part)

    def _without_ground_truth(self) -> Measurement:
        """What there is to say of images that all have an unknown label."""
        names = [*IMAGE_METRICS, *THRESHOLD_METRICS]
        names += pixel_metric_names(fpr_limits=self._limits) if self._pixel else ()
        names += [name for name in self._protocol.own if self._pixel or name not in self._protocol.of_pixels]
        names += GROUP_METRICS if any(view.group is not None for view in self._views) else self._asked_of_groups()
        counts = {"images": 0, "normal_images": 0, "defect_images": 0}
        reason = f"the split has no ground truth ({len(self._views)} images)"
        images = self._drawn_from() if self._bootstrap else None
        return Measurement(undefined(names, reason, counts=counts), self._mode, {}, {}, {}, images=images)

    # -- kind by kind

    def _by_defect(self, pixels: _Measured | None, spro: Mapping[str, _Measured]) -> dict[str, KindFigures]:
        good = np.array([view.score for view in self._views if view.label == 0], dtype=np.float64)
        views: dict[str, list[_View]] = {}
        for view in self._views:
            if view.label == 1:
                views.setdefault(view.kind, []).append(view)
        together = Counter(self._engine_of(kind) for kind in views)
        found: dict[str, KindFigures] = {}
        for kind in sorted(views):
            figures = self._of_images_of(views[kind], good)
            if self._pixel:
                figures |= self._aupro_of(kind, views[kind], pixels)
                if self._protocol.spro:
                    alone = together[self._engine_of(kind)] == 1
                    figures[_SPRO] = self._spro_of(kind, views[kind], spro, alone=alone)
            found[kind] = _with_reasons(figures)
        return found

    def _of_images_of(self, views: Sequence[_View], good: NDArray[np.float64]) -> dict[str, _Figure]:
        """The figures of one kind of defect that need no map. views: of this kind. good: scores of all good ones."""
        images = len(views)
        scores = np.array([view.score for view in views], dtype=np.float64)
        ranked = ranking_metrics(np.repeat([0, 1], [good.size, images]), np.concatenate([good, scores]))
        missed = None
        if self._threshold is not None:
            missed = images - int(np.count_nonzero(is_anomalous(scores, self._threshold)))
        why = self._threshold_reason or ""
        return {
            "images": (images, ""),
            "missed": (missed, why),
            "miss_rate": (None if missed is None else missed / images, why),
            "image_auroc": (ranked.metrics["image_auroc"], ranked.reasons.get("image_auroc", "")),
        }

    def _aupro_of(self, kind: str, views: Sequence[_View], pixels: _Measured | None) -> dict[str, _Figure]:
        """AU-PRO of one kind of defect to each limit. views: of this kind."""
        names = dict.fromkeys(aupro_name(limit) for limit in self._limits)
        if pixels is None:
            return dict.fromkeys(names, (None, "the data set has no masks"))
        why = _why_no_region([view.has_map for view in views], [view.has_mask for view in views], "mask")
        return {name: pixels.area_of(kind, name, otherwise=why) for name in names}

    def _spro_of(self, kind: str, views: Sequence[_View], spro: Mapping[str, _Measured], *, alone: bool) -> _Figure:
        """sPRO of one kind of defect. views: of this kind. alone: no other kind is measured together with it."""
        engine, name = self._engine_of(kind), aupro_name(SPRO_LIMIT)
        if not self._has_masks or not self._saturations:
            return None, self._why_no_spro()
        if engine not in spro:
            return None, f"its name begins with neither {' nor '.join(self._sorts)}"
        if alone:
            found = spro[engine].metrics
            return found.metrics[name], found.reasons.get(name, "")
        known = [view.has_saturations for view in views]
        why = _why_no_region([view.has_map for view in views], known, "mask whose saturation is known")
        return spro[engine].area_of(kind, name, otherwise=why)

    def _why_no_spro(self) -> str:
        """Why no defect has an sPRO, where either is missing."""
        return "the category has no defects_config.json" if self._has_masks else "the data set has no masks"

    # -- resamples

    def _replicates(self, metrics: Mapping[str, float | int | None]) -> dict[str, NDArray[np.float64]]:
        """Every metric that is a number, in each resample; in the order of the metrics."""
        if not self._bootstrap:
            return {}
        found: dict[str, list[NDArray[np.float64]]] = {}
        unit = self._units()
        for weights in draw_weights(self._strata(unit), self._bootstrap, seed=self._seed):
            for name, values in self._resampled(weights, unit).items():
                found.setdefault(name, []).append(values)
        return {
            name: np.concatenate(found[name]) for name, value in metrics.items() if value is not None and name in found
        }

    def _drawn_from(self) -> str:
        """SHA-256 over the images, each with the part that it shows and what that part is drawn with."""
        unit = self._units()
        strata = self._strata(unit)
        digest = hashlib.sha256()
        for part, view in zip(unit.tolist(), self._views, strict=True):
            facts = f"{view.relative}\0{view.label}\0{part}\0{strata[part]}\0"
            digest.update(facts.encode(errors="surrogateescape"))
        return digest.hexdigest()

    def _strata(self, unit: NDArray[np.int64]) -> list[str]:
        """What each part, or image, is drawn with: its label, and the sort of its defect where the protocol has any."""
        labels, _ = self._parts()
        strata = [{0: "good", 1: "defect"}.get(label, "unknown") for label in labels.tolist()]
        if self._sorts:
            for part, view in reversed(list(zip(unit.tolist(), self._views, strict=True))):
                if view.label == 1:
                    strata[part] = self._sort_of(view.kind) or "defect"
        return strata

    def _resampled(self, units: NDArray[np.int64], unit: NDArray[np.int64]) -> dict[str, NDArray[np.float64]]:
        """Each metric in each of some resamples.

        units: (R, G) how often each part is drawn. unit: (n,) which part each view shows.
        """
        weights = units[:, unit]
        found = self._images_resampled(weights)
        if self._maps is not None:
            found |= self._maps.resample(weights, self._limits)
        for name, maps in self._spro.items():
            found[name] = maps.resample(weights, (SPRO_LIMIT,))[aupro_name(SPRO_LIMIT)]
        if self._spro:  # of one engine the mean is its own
            found[_SPRO] = _mean([found[name] for name in self._spro])
        if self._verdicts is not None:
            found |= self._verdicts.resample(weights)
        if self._in_groups():
            found |= self._groups_resampled(units)
        return found

    def _images_resampled(self, weights: NDArray[np.int64]) -> dict[str, NDArray[np.float64]]:
        labelled = self._labelled()
        labels, scores = self._scored(labelled)
        found = resample_image_metrics(labels, scores, weights[:, labelled])
        if self._threshold is not None:
            found |= resample_threshold_rates(labels == 1, scores, self._threshold, weights[:, labelled])
        if self._sorts:
            found["image_auroc_pooled"] = found["image_auroc"]
            for sort in self._sorts:
                which = self._of_sort(sort)
                of_sort = resample_image_metrics(*self._scored(which), weights[:, which])
                found[f"image_auroc_{sort}"] = of_sort["image_auroc"]
            found["image_auroc"] = _mean([found[f"image_auroc_{sort}"] for sort in self._sorts])
        return found

    def _groups_resampled(self, units: NDArray[np.int64]) -> dict[str, NDArray[np.float64]]:
        labels, scores = self._parts()
        known = labels >= 0
        of_known = units[:, known]
        found = resample_image_metrics(labels[known], scores[known], of_known)
        if self._threshold is not None:
            rates = resample_threshold_rates(labels[known] == 1, scores[known], self._threshold, of_known)
            found |= {name: rates[name] for name in ("miss_rate", "false_alarm_rate")}
        return {f"group_{name.removeprefix('image_')}": values for name, values in found.items()}

    # -- how far off they may be

    def _bounds(self, pixels: _Measured | None, spro: Mapping[str, _Measured]) -> dict[str, float]:
        """The bounds of all pixel metrics; that of a mean is the mean of the bounds, as errors may have one sign."""
        found = dict(pixels.bounds) if pixels is not None else {}
        name = aupro_name(SPRO_LIMIT)
        of_spro = {engine: measured.bounds[name] for engine, measured in spro.items() if name in measured.bounds}
        if of_spro and len(of_spro) == len(spro):
            found[_SPRO] = sum(of_spro.values()) / len(spro)
        return found | of_spro


#: A metric and why it is none; the reason of a number counts for nothing.
_Figure = tuple[float | int | None, str]


def sort_of(kind: str, sorts: Sequence[str]) -> str | None:
    """Which of some sorts a kind of defect is of, by the beginning of its name; None: of none."""
    return next((sort for sort in sorts if kind.startswith(sort)), None)


def _count_of(name: str) -> str:
    """What the number of defects is called that a figure of sPRO rests on."""
    return f"{name.removeprefix(f'{_SPRO}_')}_defects" if name != _SPRO else "spro_defects"


@dataclass(frozen=True, slots=True)
class _View:
    """What is kept of an image: `Sample`'s name, label, kind of defect, group; its score, and what `add` was given."""

    relative: str
    label: int
    kind: str
    group: str | None
    score: float
    has_map: bool
    has_mask: bool
    has_saturations: bool


def _saturated(sample: Sample, anomaly_map: Map, defects: Sequence[tuple[DefectConfig, Mask]]) -> Parts:
    """A defect image taken apart for sPRO; arguments and errors as `CategoryMetrics.add`, at least one defect."""
    names = [f"a mask of {sample.relative}"] * len(defects)
    image = masked_map([pixels for _, pixels in defects], anomaly_map, mask_names=names, map_name="its map")
    areas = np.zeros(len(defects), dtype=np.int64)
    for masks, _ in image:
        areas += [np.count_nonzero(pixels) for pixels in masks]
    enough = [saturation_of(config, area) for (config, _), area in zip(defects, areas.tolist(), strict=True)]
    return saturated_parts(image, enough)


@dataclass(frozen=True, slots=True)
class _Measured:
    """The pixel metrics of some images, and whose they are.

    areas:  name -> (R,) the AU-PRO of each region; {} in streaming mode, and where the metrics are undefined.
    kinds:  kind of defect -> the numbers of its regions; {} in streaming mode.
    bounds: name -> how far a metric may be off; {} in exact mode.
    """

    metrics: Metrics
    areas: dict[str, NDArray[np.float64]]
    kinds: dict[str, list[int]]
    bounds: dict[str, float]

    def area_of(self, kind: str, name: str, *, otherwise: str) -> _Figure:
        """AU-PRO of the regions of one kind of defect. otherwise: why there may be no region of it."""
        if why := self.metrics.reasons.get(name):
            return None, why
        if name not in self.areas:
            return None, _STREAMED
        if kind not in self.kinds:
            return None, otherwise
        return min(1.0, mean_area(self.areas[name][self.kinds[kind]])), ""


class _Maps:
    """An engine of pixel metrics, and whose maps it was given.

    statistics: bytes for what resamples need; None where there will be none.
    """

    def __init__(self, mode: PixelMode, *, statistics: int | None, regions: str = "regions") -> None:
        self._statistics = None if statistics is None else PixelStatistics(memory=statistics)
        self._engine: PixelMetrics | StreamingPixelMetrics = (
            PixelMetrics(per_image=self._statistics, regions=regions)
            if mode == "exact"
            else StreamingPixelMetrics(per_image=self._statistics, regions=regions)
        )
        self._views: list[int] = []
        self._regions = 0  # so far, in exact mode
        self._kinds: dict[str, list[int]] = {}  # the numbers of each kind's regions, in exact mode

    def take(self, parts: Parts, *, view: int, kind: str) -> None:
        """Take in one image. view: its number. kind: of all its defects."""
        self._engine.take(parts)
        self._views.append(view)
        if isinstance(self._engine, PixelMetrics):
            self._kinds.setdefault(kind, []).extend(range(self._regions, self._regions + parts.sizes.size))
            self._regions += parts.sizes.size

    def measure(self, limits: Sequence[float]) -> _Measured:
        """All pixel metrics of the images so far."""
        if isinstance(self._engine, PixelMetrics):
            found = self._engine.result_by_region(fpr_limits=limits)
            kinds = {kind: numbers for kind, numbers in self._kinds.items() if numbers}
            return _Measured(found.metrics, found.areas, kinds, {})
        bounds = self._engine.bounds(fpr_limits=limits)
        defined = {name: bound for name, bound in bounds.items() if bound is not None}
        return _Measured(self._engine.result(fpr_limits=limits), {}, {}, defined)

    def resample(self, weights: NDArray[np.int64], limits: Sequence[float]) -> dict[str, NDArray[np.float64]]:
        """All pixel metrics of resamples; weights: (R, n) of all views, those of other images included."""
        if self._statistics is None:
            return {}
        return self._statistics.resample(weights[:, self._views], fpr_limits=limits)


@dataclass(frozen=True, slots=True)
class _Called:
    """Pixels of one image: at or above the threshold, those of them on defects, all on defects, and all, without NaN.

    has_mask: whether it is known which are on defects.
    """

    called: int
    hit: int
    defects: int
    looked_at: int
    has_mask: bool


class _PixelVerdicts:
    """SegF1 and ClassF1: what the verdicts of the maps at one threshold get right, pixel by pixel and image by image.

    SegF1 is 2 TP / (2 TP + FP + FN) over the pixels of all images whose mask is known, good ones included, without
    pixels that are NaN. ClassF1 is that over the images, one being called anomalous iff any of its pixels is.
    """

    def __init__(self, threshold: float | None) -> None:
        self._threshold = threshold
        self._pixels = _Hits()
        self._images = _Hits()
        self._looked_at = 0

    def call(self, image: MaskedMap) -> _Called | None:
        """What the verdicts say of one image: a map, with its mask where that is known. None without a threshold."""
        if self._threshold is None:
            return None
        called, hit, defects, looked_at = 0, 0, 0, 0
        for masks, scores in image:
            here, seen = is_anomalous(scores, self._threshold), ~np.isnan(scores)
            called += int(np.count_nonzero(here))
            looked_at += int(np.count_nonzero(seen))
            for defect in masks:
                hit += int(np.count_nonzero(here & defect))
                defects += int(np.count_nonzero(defect & seen))
        return _Called(called, hit, defects, looked_at, has_mask=bool(image.masks))

    def take(self, said: _Called, defect_image: bool, *, view: int) -> None:
        """Take in what was said of one image, and whether it has a defect."""
        any_called = said.called > 0
        self._images.take(
            view, any_called and defect_image, any_called and not defect_image, defect_image and not any_called
        )
        if said.has_mask:
            self._pixels.take(view, said.hit, said.called - said.hit, said.defects - said.hit)
            self._looked_at += said.looked_at

    def metrics(self, *, has_masks: bool) -> Metrics:
        """segf1 and classf1. ClassF1 needs no mask, only labels and maps."""
        if self._threshold is None:
            why = "the run has no pixel threshold"
            return _metrics(segf1=(None, why if has_masks else "the data set has no masks"), classf1=(None, why))
        at = f"at or above the pixel threshold {self._threshold:.6g}"
        n = len(self._images.views)
        seg = f"there is no defect pixel, and none of {self._looked_at} pixels is {at}"
        if not self._pixels.views:
            seg = "there are no maps" if has_masks else "the data set has no masks"
        cls = f"there is no defect image, and no pixel of {n} maps is {at}" if n else "there are no maps"
        return _metrics(segf1=(self._pixels.f1(), seg), classf1=(self._images.f1(), cls))

    def resample(self, weights: NDArray[np.int64]) -> dict[str, NDArray[np.float64]]:
        """Both of resamples; weights: (R, n) of all views."""
        return {
            name: resample_f1(hits.counts(), weights[:, hits.views])
            for name, hits in (("segf1", self._pixels), ("classf1", self._images))
        }


class _Hits:
    """True positives, false positives and false negatives of each image; views: the images' numbers."""

    def __init__(self) -> None:
        self.views: list[int] = []
        self._counts: list[tuple[int, int, int]] = []

    def take(self, view: int, tp: int, fp: int, fn: int) -> None:
        """Take in one image."""
        self.views.append(view)
        self._counts.append((tp, fp, fn))

    def counts(self) -> NDArray[np.int64]:
        """(n, 3) those of each image."""
        return np.array(self._counts, dtype=np.int64).reshape(-1, 3)

    def f1(self) -> float | None:
        """That of all images together; None where there is neither a defect nor a call."""
        tp, fp, fn = self.counts().sum(axis=0).tolist()
        return 2 * tp / (2 * tp + fp + fn) if tp + fp + fn else None


def _metrics(**figures: _Figure) -> Metrics:
    return Metrics(
        {name: value for name, (value, _) in figures.items()},
        {name: why for name, (value, why) in figures.items() if value is None},
    )


def _with_reasons(figures: Mapping[str, _Figure]) -> KindFigures:
    """A kind's entry in `Measurement.by_defect`."""
    entry: KindFigures = {name: value for name, (value, _) in figures.items()}
    reasons = {name: why for name, (value, why) in figures.items() if value is None}
    return entry | {"reasons": reasons} if reasons else entry


def _why_no_region(maps: Sequence[bool], masks: Sequence[bool], mask: str) -> str:
    """Why a kind of defect has no region. maps, masks: which of its images have one. mask: what it is called."""
    both = [a and b for a, b in zip(maps, masks, strict=True)]
    for there, what in ((masks, mask), (maps, "map"), (both, f"map and a {mask}")):
        if not any(there):
            return f"none of its {len(there)} images has a {what}" if len(there) > 1 else f"its image has no {what}"
    return "no defect pixel of its masks was looked at"


def _mean(values: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
    return np.asarray(np.mean(values, axis=0), dtype=np.float64)
