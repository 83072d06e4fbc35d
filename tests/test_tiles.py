"""Tiles: every pixel is in one, and maps cut and stitched are the maps of the whole."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from itertools import pairwise

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from uadctl.imaging.tiles import extract_tile, iter_tile_coords, stitch_maps, stitched_bands, tile_boxes
from uadctl.records import Box, Size, Tiling

REDUCTIONS = ("max", "mean", "hann")

# What is cut: an image's height and width, a tile's size and its stride; not into thousands of tiles.
cuts = (
    st.tuples(st.integers(1, 70), st.integers(1, 70), st.integers(1, 24))
    .flatmap(lambda c: st.tuples(*map(st.just, c), st.integers(1, c[2])))
    .filter(lambda c: c[0] * c[1] <= 400 * c[3] ** 2)
)


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def pixelwise(image: np.ndarray) -> np.ndarray:
    """What a detector that looks at one pixel at a time would say."""
    return np.abs(image.astype(np.float32) - 97).sum(axis=2, dtype=np.float32) / 255


def blurred(image: np.ndarray, k: int) -> np.ndarray:
    """What one says that looks at k x k pixels around each."""
    return cv2.blur(pixelwise(image), (k, k), borderType=cv2.BORDER_REFLECT_101)


def stitched(
    image: np.ndarray, tile: int, stride: int, reduce: str, look: Callable[[np.ndarray], np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """The map of a tiled image, of `stitch_maps` and of `stitched_bands`."""
    height, width = image.shape[:2]
    coords = list(iter_tile_coords(height, width, tile, stride))
    maps = [look(extract_tile(image, y0, x0, tile)) for y0, x0 in coords]
    bands = stitched_bands(Size(height, width), Tiling(tile, stride, reduce), iter(maps))
    return stitch_maps(coords, maps, (height, width), reduce), np.concatenate(list(bands))


def slow(coords, maps, size, reduce) -> np.ndarray:
    """Stitching, pixel by pixel."""
    weights = np.ones(maps[0].shape)
    if reduce == "hann":
        down, across = (np.sin(np.pi * (np.arange(n) + 0.5) / n) ** 2 for n in maps[0].shape)
        weights = down[:, None] * across
    result = np.full(size, np.nan)
    for y, x in np.ndindex(*size):
        told = [
            (m[y - y0, x - x0], weights[y - y0, x - x0])
            for (y0, x0), m in zip(coords, maps, strict=True)
            if 0 <= y - y0 < m.shape[0] and 0 <= x - x0 < m.shape[1] and not np.isnan(m[y - y0, x - x0])
        ]
        if told and reduce == "max":
            result[y, x] = max(value for value, _ in told)
        elif told:
            result[y, x] = sum(v * w for v, w in told) / sum(w for _, w in told)
    return result


# -- cutting


@given(cuts)
@settings(deadline=None)
def test_every_pixel_is_covered_and_the_last_tile_touches_the_edge(cut):
    h, w, tile, stride = cut
    coords = list(iter_tile_coords(h, w, tile, stride))
    assert coords == sorted(set(coords))
    covered = np.zeros((h, w), bool)
    for y0, x0 in coords:
        covered[y0 : y0 + tile, x0 : x0 + tile] = True
    assert covered.all()
    for side, starts in ((h, sorted({y for y, _ in coords})), (w, sorted({x for _, x in coords}))):
        assert starts[0] == 0
        assert starts[-1] == max(0, side - tile)
        assert all(0 < b - a <= stride for a, b in pairwise(starts))
        assert len(starts) == 1 + max(0, -(-(side - tile) // stride))  # no more than needed
    boxes = tile_boxes(Size(h, w), Tiling(tile, stride))
    assert boxes == [Box(y0, x0, min(h, tile), min(w, tile)) for y0, x0 in coords]


def test_tiles_by_hand():
    assert list(iter_tile_coords(5, 7, 4, 3)) == [(0, 0), (0, 3), (1, 0), (1, 3)]
    assert list(iter_tile_coords(4, 8, 4, 4)) == [(0, 0), (0, 4)]
    assert list(iter_tile_coords(3, 9, 4, 4)) == [(0, 0), (0, 4), (0, 5)]
    assert list(iter_tile_coords(4, 4, 4, 1)) == list(iter_tile_coords(1, 1, 4, 1)) == [(0, 0)]


@pytest.mark.parametrize(
    ("given_", "message"),
    [
        ((0, 5, 4, 4), "an image of 0x5 (height x width) has no pixels"),
        ((5, -1, 4, 4), "an image of 5x-1 (height x width) has no pixels"),
        ((5, 5, 0, 1), "the size of a tile must be positive, found 0"),
        (
            (5, 5, 4, 0),
            "stride (=0) must be 1 to the tile's size (=4): beyond it, pixels between two tiles would never be looked at",
        ),
        (
            (5, 5, 4, 5),
            "stride (=5) must be 1 to the tile's size (=4): beyond it, pixels between two tiles would never be looked at",
        ),
    ],
)
def test_what_cannot_be_cut_is_refused_at_the_call(given_, message):
    with pytest.raises(ValueError) as caught:
        iter_tile_coords(*given_)
    assert str(caught.value) == message


@given(cuts, st.sampled_from([(), (1,), (3,)]))
@settings(deadline=None)
def test_a_tile_is_always_whole_and_padded_as_numpy_pads(cut, channels):
    h, w, tile, stride = cut
    image = np.random.default_rng(0).integers(0, 256, (h, w, *channels), dtype=np.uint8)
    coords = list(iter_tile_coords(h, w, tile, stride))
    for y0, x0 in {coords[0], coords[len(coords) // 2], coords[-1]}:
        found = extract_tile(image, y0, x0, tile)
        assert found.shape == (tile, tile, *channels)
        assert found.dtype == np.uint8
        inside = image[y0 : y0 + tile, x0 : x0 + tile]
        expected = inside
        for axis, length in enumerate(inside.shape[:2]):
            pad = [(0, 0)] * image.ndim
            pad[axis] = (0, tile - length)
            mode = "reflect" if tile - length < length else "edge"
            expected = np.pad(expected, pad, mode=mode)
        np.testing.assert_array_equal(found, expected)
        edge = np.pad(inside, [(0, tile - n) for n in inside.shape[:2]] + [(0, 0)] * len(channels), mode="edge")
        np.testing.assert_array_equal(extract_tile(image, y0, x0, tile, "edge"), edge)


def test_padding_by_hand():
    row = np.array([[1, 2, 3, 4]])
    assert extract_tile(row, 0, 0, 7)[0].tolist() == [1, 2, 3, 4, 3, 2, 1]
    assert extract_tile(row, 0, 0, 8)[0].tolist() == [1, 2, 3, 4, 4, 4, 4, 4]  # too short to be mirrored once
    assert extract_tile(row, 0, 2, 4)[0].tolist() == [3, 4, 3, 2]  # mirrored at the image's edge, not at the tile's
    assert (extract_tile(row, 0, 0, 7) == extract_tile(row, 0, 0, 7)[0]).all()


def test_a_tile_inside_the_image_is_no_copy():
    image = picture(8, 8)
    assert np.shares_memory(extract_tile(image, 2, 3, 5), image)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((picture(4, 5), 4, 0, 2), "a tile cannot start at (4, 0): the image is 4x5 (height x width)"),
        ((picture(4, 5), 0, -1, 2), "a tile cannot start at (0, -1): the image is 4x5 (height x width)"),
        ((picture(4, 5), 0, 0, 0), "the size of a tile must be positive, found 0"),
        ((picture(4, 5), 0, 0, 2, "wrap"), "pad_mode 'wrap' is unknown; choose one of: reflect, edge"),
        ((np.zeros(4), 0, 0, 2), "a tile is cut from a non-empty (H, W) or (H, W, C) array, found (4,)"),
        ((np.zeros((0, 4)), 0, 0, 2), "a tile is cut from a non-empty (H, W) or (H, W, C) array, found (0, 4)"),
    ],
)
def test_what_is_no_tile_is_refused(arguments, message):
    with pytest.raises(ValueError) as caught:
        extract_tile(*arguments)
    assert str(caught.value) == message


# -- stitching


@pytest.mark.parametrize("reduce", REDUCTIONS)
@given(cut=cuts)
@settings(deadline=None)
def test_a_pixelwise_map_is_that_of_the_whole_image(reduce, cut):
    h, w, tile, stride = cut
    image = picture(h, w)
    expected = pixelwise(image)
    for found in stitched(image, tile, stride, reduce, pixelwise):
        assert (found.shape, found.dtype) == ((h, w), np.float32)
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("reduce", REDUCTIONS)
@given(cut=cuts, k=st.sampled_from([3, 5, 7]))
@settings(deadline=None)
def test_a_map_of_neighbourhoods_is_that_of_the_whole_image_away_from_seams(reduce, cut, k):
    h, w, tile, stride = cut
    image = picture(h, w)
    inside = np.ones((h, w), bool)  # k/2 or more inside every covering tile
    for y0, x0 in iter_tile_coords(h, w, tile, stride):
        covered = inside[y0 : y0 + tile, x0 : x0 + tile]
        within = np.zeros(covered.shape, bool)
        within[k // 2 : -(k // 2), k // 2 : -(k // 2)] = True
        covered &= within
    if stride == tile and min(h, w) > tile > k:
        assert inside.any()
    for found in stitched(image, tile, stride, reduce, lambda one: blurred(one, k)):
        np.testing.assert_allclose(found[inside], blurred(image, k)[inside], rtol=0, atol=1e-6)


@pytest.mark.parametrize("reduce", REDUCTIONS)
@given(
    cut=cuts, share=st.sampled_from([0.0, 0.1, 0.6]), empty=st.sampled_from([0.0, 0.4, 1.0]), seed=st.integers(0, 99)
)
@settings(deadline=None, max_examples=40)
def test_pixels_that_nobody_looked_at_do_not_count(reduce, cut, share, empty, seed):
    h, w, tile, stride = (min(c, 14) for c in cut)
    stride = min(tile, stride)
    rng = np.random.default_rng(seed)
    coords = list(iter_tile_coords(h, w, tile, stride))
    maps = [rng.normal(5, 2, (tile, tile)).astype(np.float32) for _ in coords]
    for field in maps:
        field[rng.random(field.shape) < share] = np.nan
        if rng.random() < empty:
            field[:] = np.nan
    expected = slow(coords, maps, (h, w), reduce)
    np.testing.assert_allclose(stitch_maps(coords, maps, (h, w), reduce), expected, rtol=1e-6)
    given_ = (None if np.isnan(m).all() else m for m in maps)
    bands = list(stitched_bands(Size(h, w), Tiling(tile, stride, reduce), given_))
    np.testing.assert_allclose(np.concatenate(bands), expected, rtol=1e-6)


def test_blending_by_hand():
    coords = [(0, 0), (0, 1)]
    maps = [np.array([[1.0, 2.0], [3.0, 4.0]]), np.array([[6.0, 5.0], [1.0, 0.0]])]
    assert stitch_maps(coords, maps, (2, 3), "max").tolist() == [[1, 6, 5], [3, 4, 0]]
    assert stitch_maps(coords, maps, (2, 3), "mean").tolist() == [[1, 4, 5], [3, 2.5, 0]]
    assert stitch_maps(coords, maps, (2, 3)).tolist() == [[1, 4, 5], [3, 2.5, 0]]
    # sin²(pi/8) and sin²(3 pi/8) of four pixels: a seam's two pixels count little of one tile and much of the other.
    low, high = np.sin(np.pi / 8) ** 2, np.sin(3 * np.pi / 8) ** 2
    row = [np.tile(np.float64(v), (4, 4)) for v in (0.0, 1.0)]
    found = stitch_maps([(0, 0), (0, 2)], row, (4, 6), "hann")
    np.testing.assert_allclose(found[0], [0, 0, low / (low + high), high / (low + high), 1, 1], rtol=1e-6)


def test_tiles_may_come_in_any_order_and_lie_anywhere():
    rng = np.random.default_rng(3)
    coords = [(4, 4), (0, 0), (2, 1), (0, 4), (4, 0), (0, 0), (3, 5)]
    maps = [rng.random((6, 5)).astype(np.float32) for _ in coords]
    for reduce in REDUCTIONS:
        found = stitch_maps(coords, maps, (9, 8), reduce)
        np.testing.assert_allclose(found, slow(coords, maps, (9, 8), reduce), rtol=1e-6)


def test_the_map_of_padding_is_cut_off():
    field = np.arange(16, dtype=np.float32).reshape(4, 4)
    for reduce in REDUCTIONS:
        np.testing.assert_allclose(stitch_maps([(0, 0)], [field], (2, 3), reduce), field[:2, :3])


@pytest.mark.parametrize(
    ("tiles", "maps", "options", "message"),
    [
        ([(0, 0)], [np.zeros((4, 4))], ("median",), "reduce 'median' is unknown; choose one of: max, mean, hann"),
        ([(0, 0), (0, 1)], [np.zeros((4, 4))], (), "there are 2 tiles and 1 maps"),
        (
            [(0, 0), (0, 1)],
            [np.zeros((4, 4)), np.zeros((4, 5))],
            (),
            "the maps of tiles must have one shape, found 2: (4, 4) to (4, 5)",
        ),
        ([(0, 0)], [np.zeros((4, 4, 1))], (), "the map of a tile must be a non-empty (h, w) array, found (4, 4, 1)"),
        ([(0, 0)], [np.zeros((0, 4))], (), "the map of a tile must be a non-empty (h, w) array, found (0, 4)"),
        ([(0, 0)], [np.zeros((4, 4))], (), "no tile covers the pixel (0, 4)"),
        ([], [], (), "no tile covers the pixel (0, 0)"),
        ([(0, -1)], [np.zeros((4, 4))], (), "a tile cannot start at (0, -1): the image is 4x5 (height x width)"),
        ([(0, 5)], [np.zeros((4, 4))], (), "a tile cannot start at (0, 5): the image is 4x5 (height x width)"),
    ],
)
def test_what_cannot_be_stitched_is_refused(tiles, maps, options, message):
    with pytest.raises(ValueError) as caught:
        stitch_maps(tiles, maps, (4, 5), *options)
    assert str(caught.value) == message
    with pytest.raises(ValueError, match=r"^an image of 0x5 \(height x width\) has no pixels$"):
        stitch_maps([], [], (0, 5))


@pytest.mark.parametrize(
    ("maps", "message"),
    [
        ([np.zeros((4, 4))], "there are 1 maps for the 2 tiles of an image of 4x6"),
        ([np.zeros((4, 4))] * 3, "there are more maps than the 2 tiles of an image of 4x6"),
        ([np.zeros((4, 4)), np.zeros((4, 2))], "the map of tile 1 is (4, 2), expected (4, 4)"),
    ],
)
def test_what_cannot_be_stitched_in_bands_is_refused(maps, message):
    with pytest.raises(ValueError) as caught:
        list(stitched_bands(Size(4, 6), Tiling(4, 4), maps))
    assert str(caught.value) == message


# -- memory


@pytest.mark.parametrize("reduce", REDUCTIONS)
def test_bands_come_as_soon_as_they_are_final(reduce):
    size, tiling = Size(23, 30), Tiling(8, 5, reduce)
    taken = []

    def maps():
        for i, box in enumerate(tile_boxes(size, tiling)):
            taken.append(box.y0)
            yield np.full((8, 8), float(i), np.float32)

    heights, seen = [], []
    for band in stitched_bands(size, tiling, maps()):
        heights.append(len(band))
        seen.append(taken[-1])
    assert heights == [5, 5, 5, 8]
    assert seen == [5, 10, 15, 15]  # the first tile of the next row has been taken, no more


@pytest.mark.parametrize("reduce", REDUCTIONS)
def test_memory_is_that_of_one_row_of_tiles(reduce):
    field = np.random.default_rng(0).random((128, 128), dtype=np.float32)

    def peak(height: int) -> int:
        size, tiling = Size(height, 8000), Tiling(128, 32, reduce)
        tracemalloc.start()
        for _ in stitched_bands(size, tiling, (field for _ in iter_tile_coords(*size, 128, 32))):
            pass
        used = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return used - 200 * len(tile_boxes(size, tiling))  # the list of tiles grows

    rows = 128 * 8000 * 8
    small, large = peak(256), peak(1024)
    # The rows, their result, the result before; no second array for the weights, and no copy of the rows.
    assert large < 1.7 * rows + 1e6
    assert abs(large - small) < 1e6
