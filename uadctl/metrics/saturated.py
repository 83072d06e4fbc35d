"""Saturated per-region overlap: a defect is found once enough of it is, where enough is said for each defect."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from uadctl.metrics.pooled import Pool, Tally, checked_pair, rank_in_pool
from uadctl.metrics.ranking import Scores
from uadctl.metrics.region import RegionOverlap, checked_limit


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
    tally, normal = Tally(), Pool()
    found: list[Scores] = []
    enough: list[int] = []
    for i in range(len(maps)):
        defects, scores = _defects(masks[i], maps[i], index=i)
        looked_at = ~np.isnan(scores)
        outside = looked_at.copy()
        for defect, saturation in zip(defects, _saturations(saturations[i], len(defects), index=i), strict=True):
            outside &= ~defect
            seen = scores[defect & looked_at]
            if not seen.size:
                tally.regions_left_out += 1
                continue
            # Detected pixels beyond the saturation change nothing, and the highest scores are the first detected:
            # a defect is its `saturation` highest pixels. Which of several equal ones are taken makes no difference.
            kept = min(saturation, seen.size)
            found.append(np.partition(seen, seen.size - kept)[seen.size - kept :])
            enough.append(kept)
        normal.add(scores[outside])
        n_seen, n_outside = int(np.count_nonzero(looked_at)), int(np.count_nonzero(outside))
        tally.images += 1
        tally.pixels += n_seen
        tally.defect_pixels += n_seen - n_outside
        tally.left_out += scores.size - n_seen
    if reason := tally.undefined(regions="defects"):
        raise ValueError(f"AU-sPRO to {limit!r} is undefined: {reason}")
    n_normal = tally.pixels - tally.defect_pixels
    sizes = np.array(enough, dtype=np.int64)
    overlap = RegionOverlap(sizes, n_normal=n_normal, limits=[limit])
    for ranking, step in rank_in_pool(found, sizes, normal, n_normal=n_normal, pooled=False):
        overlap.add(ranking, step)
    return overlap.areas()[limit]


def _defects(masks: Any, anomaly_map: ArrayLike, *, index: int) -> tuple[list[NDArray[np.bool_]], Scores]:
    """(H, W) bool arrays, one a defect, and (H, W) float scores; ValueError names what is wrong."""
    name, map_name = f"masks[{index}]", f"maps[{index}]"
    if masks is None:
        raise ValueError(f"{name} is None; leave the image out, or give an empty sequence if it has no defect")
    nothing = np.zeros(np.shape(anomaly_map), dtype=np.bool_)
    _, scores = checked_pair(nothing, anomaly_map, mask_name=name, map_name=map_name)
    if _is_single(masks):
        defect, _ = checked_pair(masks, scores, mask_name=name, map_name=map_name)
        return ([defect] if defect.any() else []), scores
    defects = []
    for k in range(len(masks)):
        defect, _ = checked_pair(masks[k], scores, mask_name=f"{name}[{k}]", map_name=map_name)
        if not defect.any():
            raise ValueError(f"{name}[{k}] has no pixel above 0; expected the pixels of one defect")
        defects.append(defect)
    return defects, scores


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
