"""Settings of map post-processing chosen with labelled defects."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import product
from typing import Any, Final, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from uadctl.imaging.maps import AnomalyMapPostprocess
from uadctl.metrics import PixelMetrics, aupro_name, pixel_metric_names
from uadctl.metrics.masked import checked_pair
from uadctl.metrics.pooled import Parts, take_apart
from uadctl.thresholds.labelled import folds_of

#: What to try where nothing is known, 36 combinations, in pixels of the map. Sigmas double from a pixel to 16, which is
#: what the 4 of PatchCore's paper, for inputs of 224, come to in a photograph of a thousand pixels. The squares are
#: those of single pixels (3) and of one patch of a detector with a stride of 8 (9). min_area and hysteresis are not in
#: it: they need a threshold in the unit of one model's maps, and hardly change how pixels rank.
DEFAULT_GRID: Final[Mapping[str, tuple[float, ...]]] = {
    "gaussian_sigma": (0.0, 1.0, 2.0, 4.0, 8.0, 16.0),
    "opening": (0, 3, 9),
    "closing": (0, 9),
}

_DEFAULTS: Final[dict[str, Any]] = {f.name: f.default for f in fields(AnomalyMapPostprocess) if f.name != "normalize"}
_WHOLE: Final = ("opening", "closing", "min_area")
_OPTIONAL: Final = ("threshold", "hysteresis")
_DIGITS: Final = 12  # values that agree so far differ by rounding alone

_T = TypeVar("_T")


def tune_postprocess(
    params_grid: Mapping[str, Sequence[Any]],
    maps: Sequence[ArrayLike],
    masks: Sequence[ArrayLike | None],
    *,
    metric: str = "aupro_30",
    folds: int = 0,
    seed: int = 0,
) -> dict[str, Any]:
    """The settings of `AnomalyMapPostprocess` from a grid with which maps of labelled images score best.

    Every combination is applied to every map and measured over the pixels of all images together. Of combinations
    that are equal to 12 decimals it is the simplest, with the fewest settings that are not the default; of these the
    first, where the last field of the grid changes fastest.

    The best of many values on the images that it was picked with is too good. With folds, the images are dealt into so
    many, those with and those without a defect each evenly; the combination that is best on all folds but one is
    measured on that one; and the mean of what it reaches there says what to expect of new images.

    params_grid: field -> the values to try, at least one each. All fields but `normalize`, which moves and stretches
        all pixels alike and so changes no ranking.
    maps:  raw (H, W) maps, sizes may differ, higher is more anomalous, NaN where nothing was looked at; of labelled
        defects and, for their false positives, of normal images, none of which the model was fitted on or is reported
        on later. As float32, the type of post-processed maps.
    masks: one a map, of its size, as `compute_pixel_auroc` takes them; None or zeros for a normal image, and for no
        other.
    metric: pixel_auroc, pixel_ap, pixel_f1max, or AU-PRO to any limit, as `aupro_name` calls it.
    folds:  0: none, else at least 2. seed: of the folds.

    Returns {"params": field -> value, "value": number}. With folds also "cross_validated": the mean over the held-out
    folds where it is defined, None if it is nowhere; "folds": over how many; "reasons": a sentence for each fold left
    out, because it, or all others together, have no defect region or no normal pixel.

    In memory are the maps of one combination beside those given, and what `PixelMetrics` needs. Time grows with the
    combinations, and with the folds: each combination is measured once and again for each fold.

    Raises ValueError for a field that there is not, a list that is empty, settings that do not go together, another
    metric; numbers, sizes or values of maps and masks that are wrong; and if there is no defect or no normal pixel.
    """
    tried = _combinations(params_grid)
    ready = [_postprocess(params) for params in tried]
    measure = _measure_of(metric)
    images = _checked_images(maps, masks)
    fold = _folds(images, folds, seed)
    whole: list[float] = []
    outside: list[list[float | None]] = [[] for _ in range(folds)]
    for postprocess in ready:
        parts = [image.parts(postprocess) for image in images]
        value, reason = measure.of(parts)
        if value is None:
            raise ValueError(f"{metric} is undefined: {reason}")
        whole.append(value)
        for held_out, values in enumerate(outside):
            values.append(measure.of(_where(fold != held_out, parts))[0])
    best = _simplest(tried, whole)
    tuned = {"params": tried[best], "value": whole[best]}
    if not folds:
        return tuned
    # A subset is defined with all combinations or with none: none of them changes a mask, or where a map is NaN.
    winners = [
        None if None in values else ready[_simplest(tried, [value for value in values if value is not None])]
        for values in outside
    ]
    return tuned | _held_out(images, fold, winners, measure)


def _held_out(
    images: Sequence[_Image],
    fold: NDArray[np.int64],
    winners: Sequence[AnomalyMapPostprocess | None],
    measure: _Measure,
) -> dict[str, Any]:
    """What the winner of all other folds reaches on each. winners: None where nothing is defined on the others."""
    reached, reasons = [], []
    for held_out, winner in enumerate(winners):
        if winner is None:
            reasons.append(f"fold {held_out + 1} is left out: {measure.name} is undefined on all other folds together")
            continue
        value, reason = measure.of([image.parts(winner) for image in _where(fold == held_out, images)])
        if value is None:
            reasons.append(f"fold {held_out + 1} is left out: {measure.name} is undefined on it: {reason}")
        else:
            reached.append(value)
    mean = math.fsum(reached) / len(reached) if reached else None
    return {"cross_validated": mean, "folds": len(reached), "reasons": reasons}


@dataclass(frozen=True, slots=True)
class _Measure:
    """A pixel metric. limit: of AU-PRO, None for others."""

    name: str
    limit: float | None

    def of(self, images: Iterable[Parts]) -> tuple[float | None, str | None]:
        """Its value over the pixels of all images together, or why it is undefined."""
        pixels = PixelMetrics()
        for parts in images:
            pixels.take(parts)
        found = pixels.result(fpr_limits=() if self.limit is None else (self.limit,))
        return found.metrics[self.name], found.reasons.get(self.name)


@dataclass(frozen=True, slots=True)
class _Image:
    """mask: (H, W) bool. scores: (H, W) float32."""

    mask: NDArray[np.bool_]
    scores: NDArray[np.float32]

    @property
    def has_defect(self) -> bool:
        return bool((self.mask & ~np.isnan(self.scores)).any())

    def parts(self, postprocess: AnomalyMapPostprocess) -> Parts:
        clean = postprocess(self.scores)
        return take_apart(checked_pair(self.mask, clean, mask_name="the mask", map_name="its map"))


def _where(chosen: NDArray[np.bool_], items: Sequence[_T]) -> list[_T]:
    return [item for item, taken in zip(items, chosen, strict=True) if taken]


def _simplest(tried: Sequence[Mapping[str, Any]], values: Sequence[float]) -> int:
    """Which combination has the highest value, and of several with this value the fewest settings, the first."""
    changes = [sum(value != _DEFAULTS[name] for name, value in params.items()) for params in tried]
    return min(range(len(tried)), key=lambda i: (-round(values[i], _DIGITS), changes[i], i))


def _measure_of(metric: str) -> _Measure:
    if metric in pixel_metric_names(fpr_limits=()):
        return _Measure(metric, None)
    digits = metric.removeprefix("aupro_")
    if digits != metric and digits.isascii() and digits.isdigit():
        limit = 1.0 if digits == "100" else float(f"0.{digits}")
        if limit and aupro_name(limit) == metric:
            return _Measure(metric, limit)
    known = ", ".join(pixel_metric_names(fpr_limits=()))
    raise ValueError(f'metric is "{metric}"; expected one of {known}, or AU-PRO to a limit, such as aupro_30')


def _combinations(params_grid: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    """Every combination of the values; ValueError for fields and values that cannot be."""
    known = ", ".join(_DEFAULTS)
    if not params_grid:
        raise ValueError(f"params_grid is empty; expected values for some of {known}")
    lists = {}
    for name, given in params_grid.items():
        if name == "normalize":
            raise ValueError(
                "params_grid has normalize, which moves and stretches all pixels alike: no metric of rankings changes. "
                f"Fields: {known}"
            )
        if name not in _DEFAULTS:
            raise ValueError(f"params_grid has {name}, which is no field of AnomalyMapPostprocess. Fields: {known}")
        if isinstance(given, str) or not isinstance(given, Sequence | np.ndarray) or not len(given):
            raise ValueError(
                f"params_grid[{name!r}] is {given!r}; expected a list of at least one value. Fields: {known}"
            )
        lists[name] = [_checked_value(name, value) for value in given]
    return [dict(zip(lists, values, strict=True)) for values in product(*lists.values())]


def _checked_value(name: str, given: Any) -> Any:
    """A plain number of the field's type, or None where the field takes it."""
    value: Any = given.item() if isinstance(given, np.generic) else given
    if value is None and name in _OPTIONAL:
        return None
    kinds: tuple[type, ...] = (int,) if name in _WHOLE else (int, float)
    if isinstance(value, bool) or not isinstance(value, kinds):
        kind = "whole numbers" if name in _WHOLE else "numbers, or None" if name in _OPTIONAL else "numbers"
        raise ValueError(f"params_grid[{name!r}] holds {given!r}; expected {kind}")
    return value


def _postprocess(params: Mapping[str, Any]) -> AnomalyMapPostprocess:
    try:
        return AnomalyMapPostprocess(**params)
    except ValueError as error:
        shown = ", ".join(f"{name}={value}" for name, value in params.items())
        raise ValueError(f"params_grid has a combination that cannot be ({shown}): {error}") from error


def _checked_images(maps: Sequence[ArrayLike], masks: Sequence[ArrayLike | None]) -> list[_Image]:
    if len(masks) != len(maps):
        raise ValueError(f"{len(maps)} maps but {len(masks)} masks; expected one of each an image, None for a good one")
    images = []
    for i, (given, mask) in enumerate(zip(maps, masks, strict=True)):
        scores = np.asarray(given)
        zeros = np.zeros(scores.shape, dtype=np.uint8)
        pair = checked_pair(
            zeros if mask is None else np.asarray(mask), scores, mask_name=f"masks[{i}]", map_name=f"maps[{i}]"
        )
        with np.errstate(over="ignore"):
            scores = np.asarray(pair.scores, dtype=np.float32)
        if np.isinf(scores).any():
            raise ValueError(f"maps[{i}] holds a score that is infinite as float32; expected finite ones, or NaN")
        images.append(_Image(np.asarray(pair.masks[0]), scores))
    return images


def _folds(images: Sequence[_Image], folds: int, seed: int) -> NDArray[np.int64]:
    """(n,) the fold of each image; all 0 without folds."""
    if not folds:
        return np.zeros(len(images), dtype=np.int64)
    if not 2 <= folds <= len(images):
        raise ValueError(f"folds is {folds}; expected 0 for none, or from 2 to {len(images)}, the number of maps")
    return folds_of([image.has_defect for image in images], folds, seed=seed)
