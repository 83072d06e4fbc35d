"""Cut an image into tiles and stitch the maps of its tiles, whatever its size."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np

from uadctl.records import Box, Size, Tiling

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Tiling", "extract_tile", "iter_tile_coords", "stitch_maps", "stitched_bands", "tile_boxes"]

Reduce: TypeAlias = Literal["max", "mean", "hann"]

_REDUCTIONS = ("max", "mean", "hann")
_PADDINGS = ("reflect", "edge")


def iter_tile_coords(h: int, w: int, tile: int, stride: int) -> Iterator[tuple[int, int]]:
    """The top left corner (y0, x0) of each tile of an (h, w) image, row by row.

    Every pixel is covered; the last tile of a row or column touches the image's edge, however the stride divides. Along
    a side that is not longer than a tile there is one, at 0.

    Raises ValueError at the call for what is not positive, and for a stride beyond the tile's size.
    """
    Tiling(tile, stride)
    if min(h, w) < 1:
        raise ValueError(f"an image of {h}x{w} (height x width) has no pixels")
    columns = _starts(w, tile, stride)
    return ((y0, x0) for y0 in _starts(h, tile, stride) for x0 in columns)


def _starts(length: int, tile: int, stride: int) -> list[int]:
    return [*range(0, length - tile, stride), max(0, length - tile)]


def extract_tile(
    image: NDArray[Any], y0: int, x0: int, tile_size: int, pad_mode: Literal["reflect", "edge"] = "reflect"
) -> NDArray[Any]:
    """The square of `tile_size` pixels whose top left corner is (y0, x0): (tile_size, tile_size[, C]), always.

    image: (H, W) or (H, W, C) of any type. y0, x0: a pixel of the image.
    pad_mode: what lies beyond the lower and the right edge: "reflect", the image mirrored at its last pixel, which is
        not repeated; "edge", that pixel over and over. A direction in which the image is too short to be mirrored once
        gets "edge".

    Inside the image it is a view, not a copy. Raises ValueError for other arguments.
    """
    if image.ndim not in (2, 3) or image.size == 0:
        raise ValueError(f"a tile is cut from a non-empty (H, W) or (H, W, C) array, found {image.shape}")
    if tile_size < 1:
        raise ValueError(f"the size of a tile must be positive, found {tile_size}")
    if pad_mode not in _PADDINGS:
        raise ValueError(f"pad_mode {pad_mode!r} is unknown; choose one of: {', '.join(_PADDINGS)}")
    height, width = image.shape[:2]
    if not (0 <= y0 < height and 0 <= x0 < width):
        raise ValueError(f"a tile cannot start at ({y0}, {x0}): the image is {height}x{width} (height x width)")
    inside = image[y0 : y0 + tile_size, x0 : x0 + tile_size]
    if inside.shape[:2] == (tile_size, tile_size):
        return inside
    rows, columns = (_padded(start, tile_size, length, pad_mode) for start, length in ((y0, height), (x0, width)))
    return image[rows[:, None], columns]


def _padded(start: int, tile: int, length: int, pad_mode: str) -> NDArray[np.intp]:
    """Which row (or column) of the image each one of the tile is."""
    index = np.arange(start, start + tile)
    mirrored = np.minimum(index, 2 * (length - 1) - index)
    if pad_mode == "reflect" and mirrored[-1] >= 0:
        return mirrored
    return np.minimum(index, length - 1)


def tile_boxes(size: Size, tiling: Tiling) -> list[Box]:
    """The tiles of an image of this size in the order of `iter_tile_coords`: the part of each inside the image.

    What a tile lacks of its full size (images smaller than a tile) is padded when it is cut. Raises ValueError for a
    size that is not positive.
    """
    height, width = (min(tiling.size, side) for side in size)
    return [Box(y0, x0, height, width) for y0, x0 in iter_tile_coords(*size, tiling.size, tiling.stride)]


def stitch_maps(
    tiles: Sequence[tuple[int, int]],
    maps: Sequence[NDArray[np.floating[Any]]],
    out_shape: Size | tuple[int, int],
    reduce: Reduce = "mean",
) -> NDArray[np.float32]:
    """Blend the maps of overlapping tiles into the map of their image.

    With "hann" a tile counts less towards its own border, where a detector sees only half of what is around, so that
    seams do not show: its weights are sin²(pi (i + 1/2) / n) along each side of n pixels, and never 0.

    tiles: top left corner (y0, x0) of each, as of `iter_tile_coords`; any order.
    maps: (h, w) floats each, all of one shape, in the same order. What lies beyond the image is cut off: padding.
        NaN: not looked at; the other tiles decide there, and where there is none, the result is NaN.
    out_shape: height and width of the image. reduce: "max", "mean" or "hann".

    Returns float32 of `out_shape`, higher is more anomalous, in the unit of the maps. Raises ValueError for another
    reduce, for maps that are not one for each tile or differ in shape, for a tile outside of the image, and where a
    pixel lies in no tile.
    """
    size = Size(*out_shape)
    _check_reduce(reduce)
    if len(tiles) != len(maps):
        raise ValueError(f"there are {len(tiles)} tiles and {len(maps)} maps")
    shapes = sorted({m.shape for m in maps})
    if len(shapes) > 1:
        raise ValueError(f"the maps of tiles must have one shape, found {len(shapes)}: {shapes[0]} to {shapes[-1]}")
    shape = shapes[0] if shapes else (1, 1)
    if len(shape) != 2 or min(shape) < 1:
        raise ValueError(f"the map of a tile must be a non-empty (h, w) array, found {shape}")
    _check_cover(tiles, Size(*shape), size)
    rows = _Rows(size, Size(*shape), reduce)
    result = np.empty(size, np.float32)
    top = 0
    for i in sorted(range(len(tiles)), key=lambda i: tiles[i]):
        y0, x0 = tiles[i]
        result[top:y0] = rows.take(y0)
        rows.add(x0, maps[i])
        top = y0
    result[top:] = rows.take(size.height)
    return result


def stitched_bands(
    size: Size, tiling: Tiling, maps: Iterable[NDArray[np.floating[Any]] | None]
) -> Iterator[NDArray[np.float32]]:
    """The map of an image from those of its tiles, in bands of whole rows from top to bottom as they become final.

    maps: (tile, tile) floats each, in the order of `tile_boxes`, taken one at a time, and blended as `stitch_maps`
        does; None: a tile that nobody looked at, NaN in the result where no other tile covers it.

    Memory is that of `tiling.size` rows of the image. Raises ValueError, while they are taken, for a map of another
    shape, and for more or fewer maps than tiles.
    """
    _check_reduce(tiling.reduce)
    boxes = tile_boxes(size, tiling)
    shape = Size(tiling.size, tiling.size)
    rows = _Rows(size, shape, tiling.reduce, tiling=tiling)
    taken = 0
    for field in maps:
        if taken == len(boxes):
            raise ValueError(f"there are more maps than the {len(boxes)} tiles of an image of {size}")
        if field is not None and field.shape != shape:
            raise ValueError(f"the map of tile {taken} is {field.shape}, expected {tuple(shape)}")
        y0, x0 = boxes[taken].y0, boxes[taken].x0
        if y0 > rows.top:
            yield rows.take(y0)
        rows.add(x0, field)
        taken += 1
    if taken < len(boxes):
        raise ValueError(f"there are {taken} maps for the {len(boxes)} tiles of an image of {size}")
    yield rows.take(size.height)


def _check_reduce(reduce: str) -> None:
    if reduce not in _REDUCTIONS:
        raise ValueError(f"reduce {reduce!r} is unknown; choose one of: {', '.join(_REDUCTIONS)}")


def _check_cover(tiles: Sequence[tuple[int, int]], tile: Size, size: Size) -> None:
    if min(size) < 1:
        raise ValueError(f"an image of {size} (height x width) has no pixels")
    covered = np.zeros(size, np.bool_)
    for y0, x0 in tiles:
        if not (0 <= y0 < size.height and 0 <= x0 < size.width):
            raise ValueError(f"a tile cannot start at ({y0}, {x0}): the image is {size} (height x width)")
        covered[y0 : y0 + tile.height, x0 : x0 + tile.width] = True
    if not covered.all():
        y, x = np.unravel_index(int(covered.argmin()), size)
        raise ValueError(f"no tile covers the pixel ({y}, {x})")


class _Rows:
    """The rows of a map that tiles still add to, from `top` on: as many as a tile has.

    size: of the image. tile: of a tile's map. tiling: where its tiles are all those of `tile_boxes`, in that order;
    sums of their weights are then products of a number for each row and one for each column, and need no array.
    """

    def __init__(self, size: Size, tile: Size, reduce: Reduce, *, tiling: Tiling | None = None) -> None:
        self.top = 0
        self._size = size
        self._max = reduce == "max"
        self._down, self._across = _weights(tile.height, reduce), _weights(tile.width, reduce)
        # "mean" has weights of 1, which need no product.
        self._weights = np.outer(self._down, self._across) if reduce == "hann" else np.ones((1, 1))
        held = (min(tile.height, size.height), size.width)
        self._values: NDArray[Any] = np.full(held, np.nan, np.float32) if self._max else np.zeros(held)
        # The weights of what was added, where the products will not do. The largest value needs none.
        self._sums = None if self._max or tiling is not None else np.zeros(held)
        self._added = 0
        if tiling is not None:
            self._starts_down = _starts(size.height, tiling.size, tiling.stride)
            self._starts_across = _starts(size.width, tiling.size, tiling.stride)
            self._sum_down = _summed(self._starts_down, self._down, size.height)
            self._sum_across = _summed(self._starts_across, self._across, size.width)

    def take(self, until: int) -> NDArray[np.float32]:
        """The rows from `top` to `until`, which no further tile adds to; `top` is then `until`."""
        count = until - self.top
        done = self._values[:count]
        if self._sums is not None:
            with np.errstate(invalid="ignore"):  # 0 / 0: nobody looked at it
                done /= self._sums[:count]
        elif not self._max:
            done /= self._sum_down[self.top : until, None]
            done /= self._sum_across
        result = done.astype(np.float32)
        _move_up(self._values, count, np.nan if self._max else 0.0)
        if self._sums is not None:
            _move_up(self._sums, count, 0.0)
        self.top = until
        return result

    def add(self, x0: int, field: NDArray[np.floating[Any]] | None) -> None:
        """Add the map of a tile whose first row is `top`; None: all NaN."""
        self._added += 1
        if self._max:
            if field is not None:
                into = self._values[:, x0 : x0 + len(self._across)]
                np.fmax(into, field[: into.shape[0], : into.shape[1]], out=into, casting="same_kind")
            return
        if field is None or np.isnan(field.min()):
            self._add_with_gaps(x0, field)
            return
        self._add(self._values, x0, field)
        if self._sums is not None:
            self._add(self._sums, x0, None)

    def _add_with_gaps(self, x0: int, field: NDArray[np.floating[Any]] | None) -> None:
        if self._sums is None:
            self._sums = self._sums_until_now()
        if field is not None:
            known = ~np.isnan(field)
            self._add(self._values, x0, np.where(known, field, 0))
            self._add(self._sums, x0, known)

    def _add(self, total: NDArray[np.float64], x0: int, field: NDArray[Any] | None) -> None:
        """Add a map times the tile's weights; None: the weights themselves."""
        into = total[:, x0 : x0 + len(self._across)]
        height, width = into.shape
        weights = self._weights[:height, :width]
        into += weights if field is None else weights * field[:height, :width]

    def _sums_until_now(self) -> NDArray[np.float64]:
        """The weights of all tiles before this one, each of which had a value everywhere."""
        row, column = divmod(self._added - 1, len(self._starts_across))
        held = slice(self.top, self.top + len(self._values))
        above, beside = (
            _summed(starts, self._down, self._size.height)[held]
            for starts in (self._starts_down[:row], self._starts_down[row : row + 1])
        )
        sums = np.outer(above, self._sum_across)
        sums += np.outer(beside, _summed(self._starts_across[:column], self._across, self._size.width))
        return sums


def _weights(length: int, reduce: Reduce) -> NDArray[np.float64]:
    """What each row (or column) of a tile counts."""
    if reduce == "hann":
        return np.asarray(np.sin(np.pi * (np.arange(length) + 0.5) / length) ** 2)
    return np.ones(length)


def _summed(starts: Sequence[int], weights: NDArray[np.float64], length: int) -> NDArray[np.float64]:
    """The weights of tiles that start there, added up for each row (or column) of the image."""
    total = np.zeros(length)
    for start in starts:
        into = total[start : start + len(weights)]
        into += weights[: len(into)]
    return total


def _move_up(rows: NDArray[Any], count: int, below: float) -> None:
    """Drop the first rows; as many of `below` come in at the end."""
    # In steps that do not overlap: NumPy would copy all of it first.
    for start in range(0, len(rows) - count, count) if count else ():
        part = rows[start + count : start + 2 * count]
        rows[start : start + len(part)] = part
    rows[len(rows) - count :] = below
