"""What all pixel metrics share: masks and maps read, taken apart into normal and defect scores, pooled and counted."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from uadctl.metrics.ranking import Ranking, Scores, auroc, average_precision, f1_max
from uadctl.metrics.region import aupro_name, label_regions

#: (N, H, W) in one array, or one array an image, the images of any sizes.
Stack: TypeAlias = Sequence[ArrayLike] | NDArray[Any]

#: The metrics that know pixels only: name -> its words in a message, and what computes it.
POOLED: dict[str, tuple[str, Callable[[Ranking], float]]] = {
    "pixel_auroc": ("pixel AUROC", auroc),
    "pixel_ap": ("pixel AP", average_precision),
    "pixel_f1max": ("pixel F1-max", f1_max),
}


def pixel_metric_names(*, fpr_limits: Iterable[float] = (0.3,)) -> tuple[str, ...]:
    """The names of all pixel metrics, in the order in which they are reported."""
    return tuple(dict.fromkeys([*POOLED, *(aupro_name(limit) for limit in fpr_limits)]))


@dataclass(frozen=True, slots=True)
class Parts:
    """One image taken apart; NaN pixels are in none of the arrays.

    normal: (n,) scores outside defects. It may be a view of the map that was given: copy it to keep it.
    defect: (P,) scores on defects, region after region.
    region: (P,) integer, which of the R regions each of them is in, ascending.
    sizes:  (R,) int64, pixels of each region, each at least 1; their sum is P.
    left_out, regions_left_out: NaN pixels, and regions that are NaN on every pixel.
    """

    normal: Scores
    defect: Scores
    region: NDArray[np.intp]
    sizes: NDArray[np.int64]
    left_out: int
    regions_left_out: int


def take_apart(defect: NDArray[np.bool_], scores: Scores) -> Parts:
    """The normal and the defect scores of one image; regions are those of the whole mask, NaN pixels included.

    defect: (H, W) bool, True on defect pixels. scores: (H, W), NaN where the detector has not looked.
    """
    left_out = np.isnan(scores)
    n_left_out = int(np.count_nonzero(left_out))
    if not defect.any():
        normal = scores[~left_out] if n_left_out else scores.ravel()
        none = np.empty(0, dtype=np.int64)
        return Parts(normal, np.empty(0, dtype=scores.dtype), none.astype(np.intp), none, n_left_out, 0)
    regions = label_regions(defect)[defect]
    n_regions = int(regions.max())
    if n_left_out:
        regions = regions[~left_out[defect]]
    sizes = np.bincount(regions, minlength=n_regions + 1)[1:]
    found = scores[defect & ~left_out] if n_left_out else scores[defect]
    kept = sizes[sizes > 0].astype(np.int64)
    return Parts(
        normal=scores[~(defect | left_out)],
        defect=found[np.argsort(regions, kind="stable")],
        region=np.repeat(np.arange(kept.size), kept),
        sizes=kept,
        left_out=n_left_out,
        regions_left_out=n_regions - kept.size,
    )


@dataclass(slots=True)
class Tally:
    """How much was looked at so far; `pixels` and `defect_pixels` without those left out."""

    images: int = 0
    pixels: int = 0
    defect_pixels: int = 0
    regions: int = 0
    left_out: int = 0
    regions_left_out: int = 0

    def add(self, parts: Parts) -> None:
        """Count one image."""
        self.images += 1
        self.pixels += parts.normal.size + parts.defect.size
        self.defect_pixels += parts.defect.size
        self.regions += parts.sizes.size
        self.left_out += parts.left_out
        self.regions_left_out += parts.regions_left_out

    def counts(self) -> dict[str, int]:
        """The counts by the names under which they are reported."""
        return {
            "pixel_images": self.images,
            "pixels": self.pixels,
            "defect_pixels": self.defect_pixels,
            "regions": self.regions,
            "pixels_left_out": self.left_out,
            "regions_left_out": self.regions_left_out,
        }

    def undefined(self, *, regions: str = "regions") -> str | None:
        """Why the pixel metrics are undefined, or None if they are not. regions: what the regions are called."""
        looked_at = f"images: {self.images}, pixels: {self.pixels}"
        if self.left_out:
            looked_at += f", NaN pixels left out: {self.left_out}"
        if not self.images:
            return "there are no maps"
        if not self.pixels:
            return f"every pixel of the maps is NaN ({looked_at})"
        if not self.defect_pixels:
            if self.regions_left_out:
                looked_at += f", {regions} left out: {self.regions_left_out}"
                return f"the maps are NaN on every defect pixel ({looked_at})"
            return f"the masks have no defect pixel ({looked_at})"
        if self.defect_pixels == self.pixels:
            return f"the masks have no normal pixel ({looked_at})"
        return None


class Pool:
    """Scores from many images in little more than their own memory, sorted on demand.

    They are copied into slabs too large for malloc's heap (beyond 32 MiB it always maps them): pages are taken when
    first written to, and given back when a slab is dropped, so that pooling the slabs needs one copy of the scores
    and a slab, where chunks an image were measured to need nearly two copies.
    """

    SLAB = 2**24  # scores

    def __init__(self) -> None:
        self._full: list[Scores] = []
        self._slab: Scores = np.empty(0, dtype=np.float32)
        self._filled = 0
        self._sorted = True

    def add(self, scores: Scores) -> None:
        """Copy (n,) scores in."""
        if scores.dtype != self._slab.dtype:
            self._next_slab(scores.dtype, self.SLAB)
        while scores.size:
            if self._filled == self._slab.size:
                self._next_slab(scores.dtype, self.SLAB)
            fits = min(scores.size, self._slab.size - self._filled)
            self._slab[self._filled : self._filled + fits] = scores[:fits]
            self._filled += fits
            self._sorted = False
            scores = scores[fits:]

    def sorted(self) -> Scores:
        """All scores so far in ascending order; float64 if any of them is. Not to be written to."""
        if not self._sorted:
            self._next_slab(self._slab.dtype, 0)
            end = sum(slab.size for slab in self._full)
            pooled: Scores = np.empty(end, dtype=np.result_type(*{slab.dtype for slab in self._full}))
            while self._full:
                slab = self._full.pop()
                pooled[end - slab.size : end] = slab
                end -= slab.size
            pooled.sort()
            self._full = [pooled]
            self._sorted = True
        return self._full[0] if self._full else self._slab[:0]

    def _next_slab(self, dtype: np.dtype[np.floating[Any]], size: int) -> None:
        if self._filled:
            self._full.append(self._slab[: self._filled])
        self._slab = np.empty(size, dtype=dtype)
        self._filled = 0


def checked_pair(
    mask: ArrayLike | None, anomaly_map: ArrayLike, *, mask_name: str, map_name: str
) -> tuple[NDArray[np.bool_], Scores]:
    """(H, W) bool, True on defect pixels, and (H, W) float32 or float64 scores; ValueError names what is wrong."""
    if mask is None:
        raise ValueError(f"{mask_name} is None; leave the image out, or give zeros if it has no defect")
    scores = np.asarray(anomaly_map)
    if scores.ndim != 2 or not scores.size:
        raise ValueError(f"{map_name} has shape {scores.shape}; expected (height, width), not empty")
    if scores.dtype.kind not in "biuf":
        raise ValueError(f"{map_name} is of type {scores.dtype}; expected numbers")
    defect = defect_pixels(np.asarray(mask), mask_name)
    if defect.shape != scores.shape:
        sizes = ["{}x{}".format(*array.shape) for array in (defect, scores)]
        raise ValueError(f"{mask_name} is {sizes[0]}, {map_name} is {sizes[1]} (height x width)")
    dtype = np.float32 if np.can_cast(scores.dtype, np.float32) else np.float64
    return defect, scores.astype(dtype, copy=False)


def defect_pixels(mask: NDArray[Any], name: str) -> NDArray[np.bool_]:
    if mask.dtype.kind not in "biuf":
        raise ValueError(f"{name} is of type {mask.dtype}; expected numbers, a defect where they are > 0")
    if mask.dtype.kind == "f" and np.isnan(mask).any():
        raise ValueError(f"{name} holds NaN; to leave pixels out, put NaN in the map")
    if mask.ndim == 2:
        return np.asarray(mask > 0)
    if mask.ndim == 3 and 1 <= mask.shape[2] <= 4:
        colours = mask[:, :, :-1] if mask.shape[2] in (2, 4) else mask
        return np.asarray((colours > 0).any(axis=2))
    raise ValueError(f"{name} has shape {mask.shape}; expected (height, width) or (height, width, channels)")
