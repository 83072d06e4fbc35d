"""The connected parts of a map at or above a threshold, whatever the map's size."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from uadctl.imaging.raster import ArrayRaster, Raster
from uadctl.records import Box, Region, row_boxes

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from uadctl.imaging.raster import Field

PIECE = 1 << 20
"""About so many pixels of a map are looked at together; each takes some 60 bytes meanwhile."""

CONTOUR_PIXELS = 1 << 24
"""Regions whose box has more pixels than this have no contour."""


def regions(anomaly_map: Field, *, threshold: float) -> list[Region]:
    """The 8-connected parts of a map where it reaches `threshold`, the highest score first.

    The map is read in pieces of whole rows, and the result is the same however it is cut. Memory is that of a piece, of
    the regions, and of one box of at most CONTOUR_PIXELS at a time: a region that lies in several pieces is looked at
    once more for its contour. All regions are told, however many a low threshold finds: `AnomalyMapPostprocess` leaves
    out the small ones.

    anomaly_map: (H, W) float32; NaN pixels belong to no region.
    threshold: compared as a float32, as masks are.

    Regions of equal score come by box, then by peak. Raises ValueError for another shape and a threshold of NaN.
    """
    if np.isnan(threshold):
        raise ValueError("the threshold of regions must be a number, found nan")
    raster = raster_of(anomaly_map)
    limit = np.float32(threshold)
    parts = Parts()
    pieces = [_looked_at(raster.read(box), box, limit, parts) for box in row_boxes(raster.size, PIECE)]
    if parts.count == 0:
        return []
    component = parts.components()
    contours = _Contours(*(np.concatenate(column) for column in zip(*(c for _, c in pieces), strict=True)))
    return _in_order(_joined([sums for sums, _ in pieces], component), contours, component, raster, limit)


def raster_of(anomaly_map: Field) -> Raster:
    """A map to be read box by box, wherever it lies. Raises ValueError for what is no map."""
    if not isinstance(anomaly_map, np.ndarray):
        return anomaly_map
    if anomaly_map.ndim != 2 or anomaly_map.size == 0:
        raise ValueError(f"a map must be a non-empty (H, W) array, found {anomaly_map.shape}")
    return ArrayRaster(np.asarray(anomaly_map, dtype=np.float32))


class Seams:
    """What of a mask that is seen in pieces of whole rows, top to bottom, is 8-connected across them.

    What is connected within a piece is a part, numbered through all pieces from 0; `count` are there so far. Kept are
    the last row, and which parts touch one of the piece above.
    """

    def __init__(self) -> None:
        self.count = 0
        self._last: NDArray[np.int64] | None = None  # (W,) the part of each pixel of the last row, -1: none
        self._touching: list[NDArray[np.int64]] = []  # (n, 2) each: part above, part below

    def join(self, first: NDArray[np.integer[Any]], last: NDArray[np.integer[Any]], parts: int) -> None:
        """Take in the next piece: (W,) labels of its first and of its last row, 1 to `parts`, and 0 outside."""
        upper, lower = (np.where(row > 0, row + np.int64(self.count - 1), np.int64(-1)) for row in (first, last))
        if self._last is not None:
            self._touching.append(_touching(self._last, upper))
        self._last = lower
        self.count += parts

    def components(self) -> NDArray[np.int64]:
        """(count,) the component of each part, numbered from 0 in the order of their first parts."""
        root = np.arange(self.count)
        pairs = np.concatenate([np.empty((0, 2), np.int64), *self._touching])
        while pairs.size:
            # Each root that touches a lower one hangs itself below the lowest; then all point at their root again.
            pairs = root[pairs]
            pairs = pairs[pairs[:, 0] != pairs[:, 1]]
            np.minimum.at(root, pairs.max(axis=1), pairs.min(axis=1))
            while not np.array_equal(above := root[root], root):
                root = above
        number = np.cumsum(root == np.arange(self.count)) - 1
        return np.asarray(number[root], dtype=np.int64)


class Parts:
    """The 8-connected components of a mask that is seen in pieces of whole rows, top to bottom: see `Seams`."""

    def __init__(self) -> None:
        self._seams = Seams()

    @property
    def count(self) -> int:
        """How many parts there are so far."""
        return self._seams.count

    def add(self, mask: NDArray[np.bool_]) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """Take in the next (h, W) piece.

        Returns (h, W) labels, 0 outside the mask, and (n, 5) left, top, width, height and area within the piece. Label
        1 + i of this piece, described in row i, is the part `count` + i, with the `count` before the call.
        """
        import cv2

        _, labels, described, _ = cv2.connectedComponentsWithStats(
            np.ascontiguousarray(mask).view(np.uint8), connectivity=8, ltype=cv2.CV_32S
        )
        self._seams.join(labels[0], labels[-1], len(described) - 1)
        return np.asarray(labels, dtype=np.int32), np.asarray(described[1:], dtype=np.int32)

    def components(self) -> NDArray[np.int64]:
        """(count,) the component of each part, numbered from 0 in the order of their first parts."""
        return self._seams.components()


def _touching(above: NDArray[np.int64], below: NDArray[np.int64]) -> NDArray[np.int64]:
    """(n, 2) which parts of two neighbouring rows touch, by a side or a corner; runs of equal pairs said once."""
    width = len(above)
    pairs = []
    for shift in (-1, 0, 1):
        upper = above[max(0, shift) : width + min(0, shift)]
        lower = below[max(0, -shift) : width + min(0, -shift)]
        both = (upper >= 0) & (lower >= 0)
        pairs.append(np.stack([upper[both], lower[both]], axis=1))
    found = np.concatenate(pairs)
    fresh = np.ones(len(found), dtype=bool)
    fresh[1:] = (found[1:] != found[:-1]).any(axis=1)
    return np.asarray(found[fresh], dtype=np.int64)


class _Sums(NamedTuple):
    """What is known of n parts, or of n components. Sums are of whole numbers, so that any order adds up alike.

    box: (n, 4) top, left, bottom, right. area: (n,) pixels. centre: (n, 2) sums of their y and x.
    highest: (n,) value. peak: (n,) the first pixel with it, counted through the rows of the map.
    """

    box: NDArray[np.int64]
    area: NDArray[np.int64]
    centre: NDArray[np.float64]
    highest: NDArray[np.float32]
    peak: NDArray[np.int64]


class _Contours(NamedTuple):
    """The outer boundaries of n parts, one after the other: (m, 2) int32 points, y before x, and (n,) their numbers."""

    points: NDArray[np.int32]
    counts: NDArray[np.int64]


def _looked_at(piece: NDArray[np.float32], box: Box, limit: np.float32, parts: Parts) -> tuple[_Sums, _Contours]:
    """The parts of one piece, in coordinates of the map."""
    mask = piece >= limit
    labels, described = parts.add(mask)
    n = len(described)
    left, top, width, height, area = described.astype(np.int64).T
    flat = np.flatnonzero(mask)
    part = labels.ravel()[flat] - 1
    y, x = np.divmod(flat, box.width)
    highest, peak = _peaks(part, piece[mask], flat + box.y0 * box.width, n)
    sums = _Sums(
        box=np.stack([top + box.y0, left, top + height + box.y0, left + width], axis=1),
        area=area,
        centre=np.stack([np.bincount(part, y, n) + area * float(box.y0), np.bincount(part, x, n)], axis=1),
        highest=highest,
        peak=peak,
    )
    return sums, _contours(mask, labels, box.y0)


def _peaks(
    owner: NDArray[np.integer[Any]], values: NDArray[np.float32], places: NDArray[np.int64], n: int
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """(n,) the highest value of each owner, and the first of the places that have it."""
    highest = np.full(n, -np.inf, dtype=np.float32)
    np.maximum.at(highest, owner, values)
    peak = np.full(n, np.iinfo(np.int64).max)
    at = values == highest[owner]
    np.minimum.at(peak, owner[at], places[at])
    return highest, peak


def _contours(mask: NDArray[np.bool_], labels: NDArray[np.int32], y0: int) -> _Contours:
    """The contour of each label, from 1 on, as OpenCV walks it. y0: the first row's in the map."""
    import cv2

    # Two levels: outer boundaries have no parent, also of what lies in another's hole.
    found, hierarchy = cv2.findContours(
        np.ascontiguousarray(mask).view(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE, offset=(0, y0)
    )
    if not found:
        return _Contours(np.empty((0, 2), np.int32), np.empty(0, np.int64))
    outer = [found[i][:, 0] for i in np.flatnonzero(hierarchy[0, :, 3] < 0).tolist()]
    starts = np.stack([contour[0] for contour in outer])
    order = np.argsort(labels[starts[:, 1] - y0, starts[:, 0]])
    ordered = [outer[i] for i in order.tolist()]
    points = np.asarray(np.concatenate(ordered)[:, ::-1], dtype=np.int32)
    return _Contours(points, np.array([len(contour) for contour in ordered]))


def _joined(pieces: list[_Sums], component: NDArray[np.int64]) -> _Sums:
    """The sums of components from those of their parts."""
    box, area, centre, highest, peak = (np.concatenate(column) for column in zip(*pieces, strict=True))
    n = int(component.max()) + 1
    boxes = np.concatenate([np.full((n, 2), np.iinfo(np.int64).max), np.zeros((n, 2), np.int64)], axis=1)
    np.minimum.at(boxes[:, :2], component, box[:, :2])
    np.maximum.at(boxes[:, 2:], component, box[:, 2:])
    areas = np.zeros(n, dtype=np.int64)
    np.add.at(areas, component, area)
    centres = np.stack([np.bincount(component, column, n) for column in centre.T], axis=1)
    return _Sums(boxes, areas, np.asarray(centres, dtype=np.float64), *_peaks(component, highest, peak, n))


def _in_order(
    sums: _Sums, contours: _Contours, component: NDArray[np.int64], raster: Raster, limit: np.float32
) -> list[Region]:
    """Regions from what is known of components, and from the contours of parts."""
    n = len(sums.area)
    alone = np.bincount(component, minlength=n) == 1
    part = np.empty(n, dtype=np.int64)
    part[component] = np.arange(component.size)
    ends = np.cumsum(contours.counts)[part]
    order = np.lexsort((sums.peak, *sums.box.T[::-1], -sums.highest))
    columns = (
        sums.box,
        sums.area,
        sums.highest.astype(np.float64),
        np.stack(np.divmod(sums.peak, raster.size.width), axis=1),
        sums.centre / sums.area[:, np.newaxis],
        alone,
        ends - contours.counts[part],
        ends,
    )
    found = []
    for corners, area, score, peak, centroid, whole, start, end in zip(
        *(column[order].tolist() for column in columns), strict=True
    ):
        top, left, bottom, right = corners
        box = Box(top, left, bottom - top, right - left)
        contour = None
        if box.height * box.width <= CONTOUR_PIXELS:
            contour = _clockwise(contours.points[start:end] if whole else _contour_in(box, peak, raster, limit))
        found.append(Region((top, left, bottom, right), area, score, tuple(peak), tuple(centroid), contour))
    return found


def _contour_in(box: Box, peak: list[int], raster: Raster, limit: np.float32) -> NDArray[np.int32]:
    """The contour of the region with this box and peak, (m, 2) y, x: its box is looked at once more, in one piece."""
    import cv2

    mask: NDArray[Any] = np.ascontiguousarray(raster.read(box) >= limit).view(np.uint8)
    _, labels = cv2.connectedComponents(mask, connectivity=8, ltype=cv2.CV_32S)
    own = (labels == labels[peak[0] - box.y0, peak[1] - box.x0]).view(np.uint8)
    (contour, *_), _ = cv2.findContours(own, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE, offset=(box.x0, box.y0))
    return np.asarray(contour[:, 0, ::-1], dtype=np.int32)


def _clockwise(contour: NDArray[np.int32]) -> tuple[tuple[int, int], ...]:
    """OpenCV's boundary as a `Region` has it: from the same pixel, the topmost and there leftmost, the other way."""
    first, *others = map(tuple, contour.tolist())
    return (first, *reversed(others))
