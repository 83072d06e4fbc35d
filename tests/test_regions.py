"""The connected parts of maps: equal to a flood fill pixel by pixel, however the map is cut, in memory and in files."""

from __future__ import annotations

import itertools
import time

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import uadctl.imaging.regions as module
from uadctl.imaging.maps import regions
from uadctl.imaging.raster import StoredMap
from uadctl.imaging.regions import Parts
from uadctl.records import Box, Region, Size

NAN = np.nan
AROUND = [(dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1) if (dy, dx) != (0, 0)]


def flood_fill(mask: np.ndarray) -> list[list[tuple[int, int]]]:
    """The 8-connected parts of a mask, each as its pixels in reading order."""
    waiting = {(int(y), int(x)) for y, x in np.argwhere(mask)}
    found = []
    while waiting:
        todo = [waiting.pop()]
        part = []
        while todo:
            y, x = todo.pop()
            part.append((y, x))
            near = {(y + dy, x + dx) for dy, dx in AROUND} & waiting
            waiting -= near
            todo += near
        found.append(sorted(part))
    return found


def expected(field: np.ndarray, threshold: float) -> list[tuple]:
    """All of a region but its contour, pixel by pixel."""
    found = []
    for part in flood_fill(field >= np.float32(threshold)):
        ys, xs = zip(*part, strict=True)
        values = [float(field[p]) for p in part]
        box = (min(ys), min(xs), max(ys) + 1, max(xs) + 1)
        peak = part[values.index(max(values))]
        found.append((box, len(part), max(values), peak, (sum(ys) / len(ys), sum(xs) / len(xs))))
    return sorted(found, key=lambda r: (-r[2], r[0], r[3]))


def told(region: Region) -> tuple:
    return (region.box, region.area, region.score, region.peak, region.centroid)


def without_holes(mask: np.ndarray, region: Region) -> set[tuple[int, int]]:
    """The pixels of a region and of its holes: all but what one reaches from outside by sides, not crossing it."""
    (own,) = [part for part in flood_fill(mask) if region.peak in part]
    height, width = mask.shape
    todo, outside = [(-1, -1)], {(-1, -1)}
    while todo:
        y, x = todo.pop()
        for place in ((y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)):
            if place not in outside and place not in set(own) and -1 <= place[0] <= height and -1 <= place[1] <= width:
                outside.add(place)
                todo.append(place)
    return set(itertools.product(range(height), range(width))) - outside


def drawn(contour: tuple[tuple[int, int], ...], shape: tuple[int, int]) -> set[tuple[int, int]]:
    """The pixels that a contour goes through or around, as OpenCV fills a polygon."""
    canvas = np.zeros(shape, np.uint8)
    cv2.fillPoly(canvas, [np.array(contour)[:, ::-1].astype(np.int32)], 1)
    return {(int(y), int(x)) for y, x in np.argwhere(canvas)}


# ---- by hand

FIELD = np.array(
    [
        [9, 0, 0, 0, 0, 7],
        [0, 8, 0, NAN, 0, 0],
        [0, 0, 0, 0, 7, 7],
        [5, 5, 5, 0, 7, NAN],
        [5, 0, 5, 0, 0, 0],
        [5, 5, 5, 0, 4, 4.5],
    ],
    dtype=np.float32,
)


def test_regions_by_hand():
    found = regions(FIELD, threshold=4.5)
    assert found == [
        Region((0, 0, 2, 2), 2, 9.0, (0, 0), (0.5, 0.5), ((0, 0), (1, 1))),
        Region((0, 5, 1, 6), 1, 7.0, (0, 5), (0.0, 5.0), ((0, 5),)),
        Region((2, 4, 4, 6), 3, 7.0, (2, 4), (7 / 3, 13 / 3), ((2, 4), (2, 5), (3, 4))),
        Region((3, 0, 6, 3), 8, 5.0, (3, 0), (4.0, 1.0), ((3, 0), (3, 2), (5, 2), (5, 0))),
        Region((5, 5, 6, 6), 1, 4.5, (5, 5), (5.0, 5.0), ((5, 5),)),
    ]
    assert all(type(v) is int for r in found for v in (*r.box, r.area, *r.peak, *itertools.chain(*(r.contour or ()))))
    assert all(type(v) is float for r in found for v in (r.score, *r.centroid))
    assert all(type(v) is tuple for r in found for v in (r.box, r.peak, r.centroid, r.contour))


def test_what_lies_in_a_hole_has_its_own_contour():
    field = np.ones((7, 7), np.float32)
    field[1:6, 1:6] = 0
    field[3, 3] = 2
    inner, outer = regions(field, threshold=1)
    assert inner.contour == ((3, 3),)
    assert outer.contour == ((0, 0), (0, 6), (6, 6), (6, 0))
    assert outer.area == 24


def test_no_pixel_reaches_the_threshold():
    assert regions(np.zeros((5, 4), np.float32), threshold=1) == []
    assert regions(np.full((5, 4), NAN, np.float32), threshold=-1) == []


def test_the_threshold_is_compared_in_the_maps_precision():
    # As `map >= threshold` is: 0.7 lies above the float32 that is nearest to it.
    field = np.full((1, 1), 0.7, np.float32)
    assert float(field[0, 0]) < 0.7
    assert [r.score for r in regions(field, threshold=0.7)] == [float(np.float32(0.7))]
    assert len(regions(field, threshold=np.float64(0.7))) == 1


@pytest.mark.parametrize("shape", [(4,), (2, 3, 1), (0, 4), (4, 0)])
def test_what_is_no_map_is_refused(shape):
    with pytest.raises(ValueError, match=r"^a map must be a non-empty \(H, W\) array, found \("):
        regions(np.zeros(shape, np.float32), threshold=1)


def test_a_threshold_that_is_no_number_is_refused():
    with pytest.raises(ValueError, match=r"^the threshold of regions must be a number, found nan$"):
        regions(np.zeros((2, 2), np.float32), threshold=NAN)


# ---- against a flood fill


@pytest.mark.parametrize("share", [0.05, 0.3, 0.45, 0.6, 0.95])
@pytest.mark.parametrize("shape", [(1, 1), (1, 30), (30, 1), (17, 23), (24, 24)])
def test_equal_to_a_flood_fill_however_the_map_is_cut(monkeypatch, shape, share):
    rng = np.random.default_rng([*shape, round(share * 100)])
    # Few values, so that there are several highest pixels.
    field = np.where(rng.random(shape) < share, rng.integers(1, 4, shape), 0).astype(np.float32)
    field[rng.random(shape) < 0.05] = NAN
    field.flat[0] = 1
    whole = regions(field, threshold=1)
    assert [told(r) for r in whole] == expected(field, 1)
    mask = field >= 1
    for region in whole[:20]:
        assert region.contour is not None
        assert drawn(region.contour, shape) == without_holes(mask, region)
        assert region.contour[0] == min(region.contour)
    for rows in (1, 2, 3, 7):
        monkeypatch.setattr(module, "PIECE", rows * shape[1])
        assert regions(field, threshold=1) == whole


@settings(max_examples=150, deadline=None)
@given(
    st.integers(1, 9).flatmap(
        lambda width: st.lists(st.lists(st.integers(0, 3), min_size=width, max_size=width), min_size=1, max_size=12)
    ),
    st.integers(1, 12),
)
def test_any_small_map_cut_anywhere(rows, height):
    field = np.array(rows, np.float32)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "PIECE", height * field.shape[1])
        cut = regions(field, threshold=1)
    assert cut == regions(field, threshold=1)
    assert [told(r) for r in cut] == expected(field, 1)


def test_contours_go_clockwise():
    seen = 0
    for seed in range(5):
        field = (np.random.default_rng(seed).random((20, 20)) < 0.4).astype(np.float32)
        for region in regions(field, threshold=1):
            points = np.array(region.contour)
            y, x = points.T
            # Twice the area by the shoelace formula: with y downwards positive means clockwise.
            twice = float((x * np.roll(y, -1) - np.roll(x, -1) * y).sum())
            assert twice >= 0
            seen += twice > 0
    assert seen > 20


def test_a_contour_turns_at_each_of_its_points():
    for seed in range(5):
        field = (np.random.default_rng(seed).random((20, 20)) < 0.5).astype(np.float32)
        for region in regions(field, threshold=1):
            points = np.array(region.contour)
            onward = np.sign(np.roll(points, -1, axis=0) - points)
            if len(points) > 1:
                assert (onward != np.roll(onward, 1, axis=0)).any(axis=1).all()


def test_a_long_spiral_is_one_region_in_pieces(monkeypatch):
    field = np.zeros((41, 41), np.float32)
    for i in range(0, 20, 2):  # rings, each joined to the next at one place
        field[i : 41 - i, i : 41 - i] = 1
        field[i + 1 : 40 - i, i + 1 : 40 - i] = 0
        field[i + 1, 20] = 1
    whole = regions(field, threshold=1)
    assert [r.area for r in whole] == [int(field.sum())]
    monkeypatch.setattr(module, "PIECE", 41)
    assert regions(field, threshold=1) == whole


def test_large_boxes_have_no_contour_in_pieces_or_not(monkeypatch):
    field = np.zeros((12, 12), np.float32)
    field[0:3, 0:3] = 2
    field[5:8, 5:9] = 1
    monkeypatch.setattr(module, "CONTOUR_PIXELS", 9)
    for rows in (1, 12):
        monkeypatch.setattr(module, "PIECE", rows * 12)
        small, large = regions(field, threshold=1)
        assert small.contour == ((0, 0), (0, 2), (2, 2), (2, 0))
        assert large.contour is None
        assert (large.box, large.area) == ((5, 5, 8, 9), 12)


def test_regions_of_the_same_box_and_score_come_by_peak():
    # Two interlocked angles, which have one box: corner to corner they may not touch.
    field = np.zeros((5, 5), np.float32)
    field[0, :4] = field[:4, 0] = 1
    field[4, 2:] = field[2:, 4] = 1
    first, second = regions(field, threshold=1)
    assert (first.peak, second.peak) == ((0, 0), (2, 4))


# ---- maps in files


def test_a_map_in_a_file_has_the_regions_of_the_same_map_in_memory(monkeypatch, tmp_path):
    field = np.random.default_rng(3).random((70, 50)).astype(np.float32)
    field[:, 20] = NAN
    with StoredMap.write(tmp_path / "m.tiff", Size(70, 50), [field]) as stored:
        whole = regions(field, threshold=0.6)
        assert len(whole) > 20
        assert regions(stored, threshold=0.6) == whole
        monkeypatch.setattr(module, "PIECE", 150)
        assert regions(stored, threshold=0.6) == whole


class Striped:
    """A map of any size that is nowhere: a bright bar that crosses many pieces, and a spot. Counts what is read."""

    def __init__(self, size: Size) -> None:
        self.size = size
        self.shape = tuple(size)
        self.most = 0

    def read(self, box: Box) -> np.ndarray:
        self.most = max(self.most, box.height * box.width)
        y, x = np.ogrid[box.rows, box.columns]
        bar = (x >= 100 + y // 4) & (x < 112 + y // 4) & (y >= 50) & (y < 4000)
        return np.where(bar, np.float32(2), np.float32(0)) + ((y == 9000) & (x == 7)) * np.float32(3)

    def close(self) -> None:
        pass


def test_no_more_is_read_at_a_time_than_a_piece_or_a_box():
    field = Striped(Size(10_000, 2_000))
    spot, bar = regions(field, threshold=1)
    assert (spot.box, spot.contour) == ((9000, 7, 9001, 8), ((9000, 7),))
    assert (bar.box, bar.area) == ((50, 112, 4000, 1111), 12 * 3950)
    assert bar.contour is not None
    assert bar.contour[0] == (50, 112)
    assert field.most == (4000 - 50) * (1111 - 112)


def test_hundreds_of_thousands_of_regions_take_seconds():
    field = np.random.default_rng(0).random((1500, 1500)).astype(np.float32)
    start = time.process_time()
    found = regions(field, threshold=0.95)
    taken = time.process_time() - start
    assert len(found) > 80_000
    assert sum(r.area for r in found) == np.count_nonzero(field >= np.float32(0.95))
    assert taken < 30  # about 1 s; a look at the whole map for each region would take a minute and more


# ---- the pieces


def test_parts_of_a_comb_join_at_its_last_row():
    # Teeth that know nothing of each other until the last row joins all.
    mask = np.zeros((5, 9), bool)
    mask[:, ::2] = True
    parts = Parts()
    for row in mask:
        parts.add(row[np.newaxis])
    assert parts.count == 25
    assert len(set(parts.components().tolist())) == 5
    parts.add(np.ones((1, 9), bool))
    assert set(parts.components().tolist()) == {0}


def test_parts_of_nothing():
    parts = Parts()
    assert parts.components().tolist() == []
    parts.add(np.zeros((2, 3), bool))
    assert parts.components().tolist() == []
