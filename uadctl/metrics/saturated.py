"""Saturated per-region overlap: a defect is found once enough of it is, where enough is said for each defect."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from uadctl.errors import DataError
from uadctl.metrics.masked import MaskedMap, masked_map
from uadctl.metrics.pixel import PixelMetrics
from uadctl.metrics.pooled import Parts
from uadctl.metrics.ranking import Scores
from uadctl.metrics.region import aupro_name, checked_limit
from uadctl.records import DefectConfig, Sample


def compute_spro(
    masks: Sequence[ArrayLike | Sequence[ArrayLike]],
    maps: Sequence[ArrayLike],
    saturations: Sequence[ArrayLike],
    *,
    limit: float = 0.05,
) -> float:
    """AU-sPRO: area under the saturated per-region-overlap curve for false-positive rates 0 to `limit`, over `limit`.

    At a threshold the overlap of a defect is min(its pixels at or above the threshold / its saturation, 1), and each
    defect counts the same. With every saturation the whole area of its defect this is AU-PRO, save that a defect is
    what one mask shows, in one piece or several. The false-positive rate is over the pixels outside all defects, of
    all images, good ones included; a pixel in several defects counts for each of them. Equal scores fall together,
    and the curve is straight between thresholds, also where it crosses the limit.

    masks:       for each image its defects: a sequence of (H, W) or (H, W, channels) arrays, one a defect, a pixel
                 being in it iff its value is > 0; empty for a good image. Or one (H, W) array: a single defect, or a
                 good image if no value is > 0.
    maps:        (N, H, W) array or sequence of (H, W) arrays, each as large as its masks; higher is more anomalous.
                 NaN pixels are left out together with their mask pixels; infinite ones rank like any other.
    saturations: for each image a sequence of whole numbers, one a defect: how many of its pixels are enough, at least
                 1. One beyond the pixels of the defect stands for all of them, as in the benchmark's own rule (the
                 lesser of a threshold and the area); where NaN pixels shrink a defect, its saturation stays until it
                 is beyond the pixels left. A defect that is NaN on every pixel does not count.
    limit:       false-positive rate, above 0 and at most 1.

    Raises ValueError where it is undefined (no defect pixel, or no normal one), if masks and map differ in size, if a
    defect has no pixel, and for saturations below 1 or not one a defect, naming the index.

    Source: Bergmann et al., Beyond Dents and Scratches: Logical Constraints in Unsupervised Anomaly Detection and
    Localization, IJCV 130, 2022 (performance metric).
    """
    limit = checked_limit(limit)
    if not len(masks) == len(maps) == len(saturations):
        raise ValueError(
            f"{len(masks)} masks, {len(maps)} maps and {len(saturations)} saturations; expected one of each an image"
        )
    pixels = PixelMetrics(regions="defects")
    for i in range(len(maps)):
        image = _defects(masks[i], maps[i], index=i)
        pixels.take(saturated_parts(image, _saturations(saturations[i], len(image.masks), index=i)))
    measured = pixels.result(fpr_limits=(limit,))
    value = measured.metrics[aupro_name(limit)]
    if value is None:
        raise ValueError(f"AU-sPRO to {limit!r} is undefined: {measured.reasons[aupro_name(limit)]}")
    return float(value)


def saturated_parts(image: MaskedMap, saturations: Sequence[int]) -> Parts:
    """One image taken apart so that the AU-PRO of any engine is AU-sPRO: a region is a defect's highest scores.

    Detected pixels beyond the saturation change nothing, and the highest scores are the first detected: a defect is
    its `saturation` highest pixels, or all where there are fewer. Which of several equal ones are taken makes no
    difference. `every` holds the scores outside all defects and those kept, a pixel in two defects perhaps twice, so
    that what is left without those kept is what lies outside.

    image:       a map with one mask a defect; they may overlap. None for a good image. One in a file is read band by
                 band, and again whenever `every` is walked. A defect that is NaN on every pixel does not count.
    saturations: one a defect, each at least 1.
    """
    found: list[list[Scores]] = [[] for _ in saturations]
    outside: list[Scores] = []
    size, n_seen, n_outside = 0, 0, 0
    for defects, scores in image:
        looked_at = ~np.isnan(scores)
        beside = _outside(defects, looked_at)
        for defect, so_far in zip(defects, found, strict=True):
            so_far.append(scores[defect & looked_at])
        size += scores.size
        n_seen += int(np.count_nonzero(looked_at))
        n_outside += int(np.count_nonzero(beside))
        if image.in_memory:
            outside.append(scores[beside])
    kept = [_highest(np.concatenate(each), n) for each, n in zip(found, saturations, strict=True)]
    kept = [each for each in kept if each.size]
    on_defects: Scores = np.concatenate(kept) if kept else np.empty(0, dtype=np.float32)
    return Parts(
        every=[*outside, on_defects] if image.in_memory else _Beside(image, on_defects),
        defect=on_defects,
        sizes=np.array([each.size for each in kept], dtype=np.int64),
        pixels=n_seen,
        defect_pixels=n_seen - n_outside,
        left_out=size - n_seen,
        regions_left_out=len(image.masks) - len(kept),
    )


@dataclass(frozen=True, slots=True)
class _Beside:
    """The scores of a map in a file outside all defects, band by band, read anew each time, and then those kept."""

    image: MaskedMap
    kept: Scores

    def __iter__(self) -> Iterator[Scores]:
        for defects, scores in self.image:
            yield scores[_outside(defects, ~np.isnan(scores))]
        yield self.kept


def _outside(defects: Sequence[NDArray[np.bool_]], looked_at: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The pixels looked at that are in none of the defects."""
    outside = looked_at.copy()
    for defect in defects:
        outside &= ~defect
    return outside


def _highest(scores: Scores, n: int) -> Scores:
    """(min(n, size),) the highest of (size,) scores, in any order."""
    first = max(0, scores.size - n)
    return np.partition(scores, first)[first:] if scores.size else scores


def saturation_of(config: DefectConfig, area: int) -> int:
    """How many pixels of a defect of this kind are enough, `area` being all pixels of its mask.

    The lesser of the threshold and the area, or the threshold's share of the area where it is relative; in whole
    pixels, rounded down. Raises ValueError if that is none.

    Source: the entries of defects_config.json as MVTec LOCO AD's evaluation code reads them; Bergmann et al., 2022.
    """
    threshold = config.saturation_threshold
    enough = int(threshold * area) if config.relative_saturation else int(min(threshold, area))
    if enough < 1:
        unit = "of its area" if config.relative_saturation else "pixels"
        raise ValueError(
            f"defect {config.name}: a saturation of {threshold:g} {unit} is no whole pixel of its {area}; "
            "expected at least 1"
        )
    return enough


def check_saturations(sample: Sample, defects: Sequence[tuple[DefectConfig, NDArray[np.bool_]]]) -> None:
    """Raise DataError, naming the mask, where a defect of an image has so few pixels that none of them is enough.

    defects: one for each of the sample's mask files, in their order, with its pixels.
    """
    for path, (config, pixels) in zip(sample.masks, defects, strict=True):
        try:
            saturation_of(config, int(np.count_nonzero(pixels)))
        except ValueError as error:
            raise DataError(f"{path}: {error}") from error


def _defects(masks: Any, anomaly_map: ArrayLike, *, index: int) -> MaskedMap:
    """The map with one mask a defect; ValueError names what is wrong."""
    name, map_name = f"masks[{index}]", f"maps[{index}]"
    if masks is None:
        raise ValueError(f"{name} is None; leave the image out, or give an empty sequence if it has no defect")
    if _is_single(masks):
        single = masked_map((masks,), anomaly_map, mask_names=(name,), map_name=map_name)
        return single if any(defect.any() for (defect,), _ in single) else MaskedMap((), single.scores, ())
    names = [f"{name}[{k}]" for k in range(len(masks))]
    image = masked_map(masks, anomaly_map, mask_names=names, map_name=map_name)
    for defects, _ in image:
        for defect, of_it in zip(defects, names, strict=True):
            if not defect.any():
                raise ValueError(f"{of_it} has no pixel above 0; expected the pixels of one defect")
    return image


def _is_single(masks: Any) -> bool:
    """Whether this is one (H, W) mask, not a sequence of masks: its parts are rows, not arrays of two dimensions."""
    return np.ndim(masks) == 2 if isinstance(masks, np.ndarray) else len(masks) > 0 and np.ndim(masks[0]) == 1


def _saturations(given: ArrayLike, n_defects: int, *, index: int) -> list[int]:
    """One whole number a defect; ValueError names what is wrong."""
    name = f"saturations[{index}]"
    values = np.asarray(given)
    if values.ndim != 1 or (values.size and values.dtype.kind not in "iu"):
        raise ValueError(f"{name} is {given!r}; expected a sequence of whole numbers of pixels, one a defect")
    if values.size != n_defects:
        raise ValueError(f"{name} has {values.size} entries, masks[{index}] has {n_defects} defects; expected one each")
    for k, value in enumerate(values.tolist()):
        if value < 1:
            raise ValueError(f"{name}[{k}] is {value}; expected at least 1 pixel")
    return [int(value) for value in values.tolist()]
