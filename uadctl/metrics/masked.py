"""A map and the masks that it is judged by: checked, and handed on in one piece or in bands of whole rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeGuard

import numpy as np
from numpy.typing import ArrayLike, NDArray

from uadctl.imaging import raster
from uadctl.imaging.raster import Raster, StoredMap
from uadctl.metrics.ranking import Scores
from uadctl.records import Box, Size

#: A mask in memory, or in a file that is read region by region.
Mask: TypeAlias = ArrayLike | Raster
#: A map in memory, or in a file that is read region by region.
Map: TypeAlias = ArrayLike | StoredMap


@dataclass(frozen=True, slots=True)
class MaskedMap:
    """A map and masks of its size, walked in bands of whole rows from top to bottom, any number of times.

    Each band is a tuple of (h, W) bool arrays, one a mask, True on defect pixels, and (h, W) float32 or float64 scores,
    NaN where the detector has not looked. A map in memory is one band. Made by `masked_map`.

    masks: (H, W) bool arrays beside a map in memory; beside one in a file as they were given.
    """

    masks: tuple[NDArray[Any] | Raster, ...]
    scores: Scores | StoredMap
    mask_names: tuple[str, ...]

    @property
    def in_memory(self) -> bool:
        """Whether there is one band, and its arrays may be kept."""
        return not isinstance(self.scores, StoredMap)

    def __iter__(self) -> Iterator[tuple[tuple[NDArray[np.bool_], ...], Scores]]:
        """Raises ValueError for a mask that holds NaN or is none, DataError where a file cannot be read."""
        if not isinstance(self.scores, StoredMap):
            yield tuple(mask for mask in self.masks if isinstance(mask, np.ndarray)), self.scores
            return
        for top, scores in raster.bands(self.scores):
            box = Box(top, 0, *scores.shape)
            masks = zip(self.masks, self.mask_names, strict=True)
            yield tuple(defect_pixels(_part(mask, box), name) for mask, name in masks), scores


def masked_map(
    masks: Sequence[Mask | None], anomaly_map: Map, *, mask_names: Sequence[str], map_name: str
) -> MaskedMap:
    """A map and its masks, none or several; ValueError names what is wrong with one of them, or with their sizes."""
    for mask, name in zip(masks, mask_names, strict=True):
        if mask is None:
            raise ValueError(f"{name} is None; leave the image out, or give zeros if it has no defect")
    scores = anomaly_map if isinstance(anomaly_map, StoredMap) else _checked_scores(anomaly_map, map_name)
    checked: list[NDArray[Any] | Raster] = []
    for mask, name in zip(masks, mask_names, strict=True):
        given = mask if _is_raster(mask) else np.asarray(mask)
        if isinstance(given, np.ndarray):
            _check_kind(given, name)
            shape = given.shape[:2]
        else:
            shape = tuple(given.size)
        if shape != scores.shape:
            sizes = ["{}x{}".format(*size) for size in (shape, scores.shape)]
            raise ValueError(f"{name} is {sizes[0]}, {map_name} is {sizes[1]} (height x width)")
        whole = not isinstance(scores, StoredMap)
        checked.append(defect_pixels(_part(given, Box.whole(Size(*shape))), name) if whole else given)
    return MaskedMap(tuple(checked), scores, tuple(mask_names))


def checked_pair(mask: Mask | None, anomaly_map: Map, *, mask_name: str, map_name: str) -> MaskedMap:
    """A map with one mask; ValueError names what is wrong."""
    return masked_map((mask,), anomaly_map, mask_names=(mask_name,), map_name=map_name)


def defect_pixels(mask: NDArray[Any], name: str) -> NDArray[np.bool_]:
    """(H, W) bool, True where a mask of (H, W) or (H, W, channels) is above 0 in any channel but alpha.

    Raises ValueError, naming it, for what is no mask, and for NaN.
    """
    _check_kind(mask, name)
    if mask.dtype.kind == "f" and np.isnan(mask).any():
        raise ValueError(f"{name} holds NaN; to leave pixels out, put NaN in the map")
    if mask.ndim == 2:
        return np.asarray(mask > 0)
    colours = mask[:, :, :-1] if mask.shape[2] in (2, 4) else mask
    return np.asarray((colours > 0).any(axis=2))


def without_nan(scores: Scores) -> Scores:
    """(n,) the scores that are not NaN, row by row; a view of the array where all of them are."""
    every = scores.ravel()
    # A minimum takes half the time of isnan, and is NaN if any score is.
    return every[~np.isnan(every)] if np.isnan(np.min(scores)) else every


def _checked_scores(anomaly_map: ArrayLike, name: str) -> Scores:
    """(H, W) float32 or float64; ValueError says what is wrong."""
    scores = np.asarray(anomaly_map)
    if scores.ndim != 2 or not scores.size:
        raise ValueError(f"{name} has shape {scores.shape}; expected (height, width), not empty")
    if scores.dtype.kind not in "biuf":
        raise ValueError(f"{name} is of type {scores.dtype}; expected numbers")
    dtype = np.float32 if np.can_cast(scores.dtype, np.float32) else np.float64
    return scores.astype(dtype, copy=False)


def _check_kind(mask: NDArray[Any], name: str) -> None:
    if mask.dtype.kind not in "biuf":
        raise ValueError(f"{name} is of type {mask.dtype}; expected numbers, a defect where they are > 0")
    if mask.ndim != 2 and not (mask.ndim == 3 and 1 <= mask.shape[2] <= 4):
        raise ValueError(f"{name} has shape {mask.shape}; expected (height, width) or (height, width, channels)")


def _is_raster(mask: object) -> TypeGuard[Raster]:
    """Whether it is read region by region: no array has such a method."""
    return callable(getattr(mask, "read", None))


def _part(mask: NDArray[Any] | Raster, box: Box) -> NDArray[Any]:
    return mask[box.rows, box.columns] if isinstance(mask, np.ndarray) else mask.read(box)
