"""Cleaning anomaly maps: against SciPy and counting by hand, in memory and band by band from a file."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy import ndimage

import uadctl.imaging.maps as module
from uadctl.imaging.files import read_map
from uadctl.imaging.maps import AnomalyMapPostprocess
from uadctl.imaging.raster import StoredMap
from uadctl.records import Box, Size

NAN = np.float32(np.nan)
SHAPES = [(1, 1), (1, 9), (7, 1), (2, 3), (40, 31)]
EVERYTHING = AnomalyMapPostprocess(
    normalize=(0.5, 0.1), gaussian_sigma=1.2, opening=2, closing=3, min_area=8, threshold=0.8, hysteresis=1.5
)


def noise(shape: tuple[int, int], *, seed: int = 0, unseen: float = 0.0) -> np.ndarray:
    """(H, W) float32 in [0, 1), with a share of NaN."""
    rng = np.random.default_rng([seed, *shape])
    field = rng.random(shape).astype(np.float32)
    field[rng.random(shape) < unseen] = NAN
    return field


# ---- what may be asked


def test_a_default_one_returns_its_input():
    field = noise((5, 4), unseen=0.2)
    assert AnomalyMapPostprocess()(field) is field
    # A threshold alone says what would be pressed, and nothing is.
    assert AnomalyMapPostprocess(threshold=0.5, min_area=1, opening=1, closing=1, gaussian_sigma=0.1)(field) is field


@pytest.mark.parametrize("post", [AnomalyMapPostprocess(gaussian_sigma=1.0), EVERYTHING])
@pytest.mark.parametrize("shape", SHAPES)
def test_shape_is_kept_and_the_input_too(post, shape):
    field = noise(shape, unseen=0.1)
    before = field.copy()
    found = post(field)
    assert (found.shape, found.dtype) == (shape, np.float32)
    np.testing.assert_array_equal(field, before)
    np.testing.assert_array_equal(np.isnan(found), np.isnan(field))


def test_other_floats_become_float32():
    field = noise((6, 5)).astype(np.float64)
    for post in (AnomalyMapPostprocess(), AnomalyMapPostprocess(gaussian_sigma=1)):
        assert post(field).dtype == np.float32


@pytest.mark.parametrize("shape", [(4,), (2, 3, 1), (0, 4)])
def test_what_is_no_map_is_refused(shape):
    for post in (AnomalyMapPostprocess(), AnomalyMapPostprocess(gaussian_sigma=1)):
        with pytest.raises(ValueError, match=r"^a map must be a non-empty \(H, W\) array, found \("):
            post(np.zeros(shape, np.float32))


REFUSED = [
    ({"gaussian_sigma": -1.0}, "gaussian_sigma (=-1.0) must be 0 or a positive number"),
    ({"gaussian_sigma": float("nan")}, "gaussian_sigma (=nan) must be 0 or a positive number"),
    ({"opening": -1}, "opening (=-1) must be 0 or a positive number"),
    ({"closing": -2}, "closing (=-2) must be 0 or a positive number"),
    ({"min_area": -3, "threshold": 0.5}, "min_area (=-3) must be 0 or a positive number"),
    (
        {"normalize": (0.5, 0.0)},
        "normalize (mean=0.5, std=0.0) must be finite, the standard deviation positive",
    ),
    (
        {"normalize": (float("nan"), 1.0)},
        "normalize (mean=nan, std=1.0) must be finite, the standard deviation positive",
    ),
    ({"min_area": 5}, "min_area needs a threshold: it is about the pixels that reach it"),
    ({"hysteresis": 0.7}, "hysteresis needs a threshold: it is about the pixels that reach it"),
    ({"threshold": float("inf")}, "threshold (=inf) must be a finite number"),
    (
        {"threshold": 0.7, "hysteresis": 0.5},
        "hysteresis (=0.5) must be a finite number not below threshold (=0.7)",
    ),
    (
        {"threshold": 0.7, "hysteresis": float("inf")},
        "hysteresis (=inf) must be a finite number not below threshold (=0.7)",
    ),
]


@pytest.mark.parametrize(("settings", "message"), REFUSED)
def test_settings_that_cannot_be(settings, message):
    with pytest.raises(ValueError) as error:
        AnomalyMapPostprocess(**settings)
    assert str(error.value) == message


# ---- smoothing


@pytest.mark.parametrize("sigma", [0.3, 1.0, 2.5, 9.0])
@pytest.mark.parametrize("shape", SHAPES)
def test_smoothing_is_that_of_scipy(shape, sigma):
    field = noise(shape)
    expected = ndimage.gaussian_filter(field.astype(np.float64), sigma, mode="reflect", truncate=4.0)
    np.testing.assert_allclose(AnomalyMapPostprocess(gaussian_sigma=sigma)(field), expected, rtol=2e-6)


def test_pixels_that_nobody_looked_at_do_not_leak():
    field = noise((40, 31), unseen=0.2)
    field[10:20, 5:12] = NAN
    seen = ~np.isnan(field)
    smooth = {
        name: ndimage.gaussian_filter(values.astype(np.float64), 1.5, mode="reflect", truncate=4.0)
        for name, values in (("sum", np.where(seen, field, 0)), ("weight", seen))
    }
    found = AnomalyMapPostprocess(gaussian_sigma=1.5)(field)
    np.testing.assert_allclose(found[seen], (smooth["sum"] / smooth["weight"])[seen], rtol=5e-6)
    assert np.isnan(found[~seen]).all()
    # Whatever lies there.
    constant = np.where(seen, np.float32(3), NAN)
    np.testing.assert_allclose(AnomalyMapPostprocess(gaussian_sigma=1.5)(constant)[seen], 3, rtol=1e-6)


@pytest.mark.parametrize("sigma", [0.6, 0.9, 1.5, 2.2])  # the weights of some add up to 1 in float32, of others not
def test_beyond_the_reach_of_nan_all_is_exactly_as_without(sigma):
    field = noise((40, 31))
    post = AnomalyMapPostprocess(gaussian_sigma=sigma)
    without = post(field)
    field[20, 15] = NAN
    found = post(field)
    y, x = np.nonzero((found != without) | np.isnan(found))
    reach = round(4 * sigma)
    assert (y.min(), y.max(), x.min(), x.max()) == (20 - reach, 20 + reach, 15 - reach, 15 + reach)


# ---- opening and closing


@pytest.mark.parametrize("side", [2, 3, 4, 7, 50])
@pytest.mark.parametrize("shape", SHAPES)
def test_opening_and_closing_are_those_of_scipy(shape, side):
    field = noise(shape)
    opened, closed = AnomalyMapPostprocess(opening=side)(field), AnomalyMapPostprocess(closing=side)(field)
    np.testing.assert_array_equal(opened, ndimage.grey_opening(field, size=(side, side)))
    np.testing.assert_array_equal(closed, ndimage.grey_closing(field, size=(side, side)))
    assert (opened <= field).all()
    assert (closed >= field).all()
    np.testing.assert_array_equal(AnomalyMapPostprocess(opening=side)(opened), opened)


def test_a_spot_goes_where_the_square_does_not_fit():
    field = np.zeros((20, 20), np.float32)
    field[2:5, 2:5] = 1  # 3 x 3
    field[10:14, 10:14] = 1  # 4 x 4
    opened = AnomalyMapPostprocess(opening=4)(field)
    assert np.argwhere(opened).min() == 10
    assert opened.sum() == 16
    gap = 1 - field
    np.testing.assert_array_equal(AnomalyMapPostprocess(closing=4)(gap), 1 - opened)


@pytest.mark.parametrize("side", [2, 3, 5])
def test_morphology_passes_over_nan(side):
    field = noise((13, 11), unseen=0.3)
    before, after = side // 2, side - 1 - side // 2

    def extreme(values, pick, up, down):
        found = np.full_like(values, NAN)
        for y, x in itertools.product(*map(range, values.shape)):
            if not np.isnan(values[y, x]):
                window = values[max(0, y - up) : y + down + 1, max(0, x - up) : x + down + 1]
                found[y, x] = pick(window)
        return found

    opened = extreme(extreme(field, np.nanmin, before, after), np.nanmax, after, before)
    np.testing.assert_array_equal(AnomalyMapPostprocess(opening=side)(field), opened)
    closed = extreme(extreme(field, np.nanmax, after, before), np.nanmin, before, after)
    np.testing.assert_array_equal(AnomalyMapPostprocess(closing=side)(field), closed)


# ---- normalisation


def test_normalisation_is_by_the_numbers_given_and_not_by_the_map():
    field = noise((9, 8), unseen=0.1)
    post = AnomalyMapPostprocess(normalize=(2.0, 0.25))
    np.testing.assert_allclose(post(field), (field.astype(np.float64) - 2) / 0.25, rtol=1e-7)
    # What one image has more than another, it has more afterwards: what per-image scaling destroys.
    np.testing.assert_allclose(post(field + 1) - post(field), np.where(np.isnan(field), NAN, 4), rtol=1e-5)


def test_the_order_is_smooth_open_close_normalise_press():
    field = noise((40, 31), unseen=0.1)
    one_by_one = field
    for post in (
        AnomalyMapPostprocess(gaussian_sigma=1.2),
        AnomalyMapPostprocess(opening=2),
        AnomalyMapPostprocess(closing=3),
        AnomalyMapPostprocess(normalize=(0.5, 0.1)),
        AnomalyMapPostprocess(min_area=8, threshold=0.8, hysteresis=1.5),
    ):
        before, one_by_one = one_by_one, post(one_by_one)
        assert not np.array_equal(before, one_by_one, equal_nan=True)
    np.testing.assert_array_equal(EVERYTHING(field), one_by_one)


# ---- what is small or weak


def pressed(field: np.ndarray, *, threshold: float, min_area: int = 0, hysteresis: float = -np.inf) -> np.ndarray:
    """What pressing should do, with SciPy's components."""
    labels, n = ndimage.label(field >= np.float32(threshold), structure=np.ones((3, 3)))
    out = field.copy()
    for i in range(1, n + 1):
        own = labels == i
        if own.sum() < min_area or field[own].max() < np.float32(hysteresis):
            out[own] = np.nextafter(np.float32(threshold), np.float32(-np.inf))
    return out


@pytest.mark.parametrize(
    "settings",
    [
        {"min_area": 5},
        {"hysteresis": 0.95},
        {"min_area": 3, "hysteresis": 0.9},
    ],
)
@pytest.mark.parametrize("shape", SHAPES)
def test_small_and_weak_parts_are_pressed(settings, shape):
    field = noise(shape, unseen=0.1)
    found = AnomalyMapPostprocess(threshold=0.75, **settings)(field)
    np.testing.assert_array_equal(found, pressed(field, threshold=0.75, **settings))


def test_pressed_pixels_lie_just_below_the_threshold_and_above_all_that_never_reached_it():
    field = np.array([[0.5, 0.9, 0.1], [0.1, 0.1, 0.1], [0.6, 0.7, 0.8]], np.float32)
    found = AnomalyMapPostprocess(threshold=0.6, min_area=2)(field)
    below = np.nextafter(np.float32(0.6), np.float32(0))
    assert found[0, 1] == below < np.float32(0.6)
    assert found[0, 1] > field[0, 0]
    np.testing.assert_array_equal(found[1:], field[1:])


def test_a_part_of_exactly_the_least_area_or_height_stays():
    field = np.zeros((5, 5), np.float32)
    field[1, 1] = field[2, 2] = 1  # corner to corner: one part of 2 pixels
    np.testing.assert_array_equal(AnomalyMapPostprocess(threshold=1, min_area=2)(field), field)
    np.testing.assert_array_equal(AnomalyMapPostprocess(threshold=0.5, hysteresis=1)(field), field)
    assert AnomalyMapPostprocess(threshold=1, min_area=3)(field).max() < 1
    assert AnomalyMapPostprocess(threshold=0.5, hysteresis=1.01)(field).max() < 0.5


# ---- maps in files

FILES = [
    EVERYTHING,
    AnomalyMapPostprocess(),
    AnomalyMapPostprocess(gaussian_sigma=3.0),
    AnomalyMapPostprocess(opening=4, closing=2),
    AnomalyMapPostprocess(threshold=0.6, min_area=30, hysteresis=0.9),
]


@pytest.mark.parametrize("post", FILES)
@pytest.mark.parametrize("rows", [1, 5, 64, 1000])
def test_a_map_in_a_file_becomes_the_same_bit_for_bit(monkeypatch, tmp_path, post, rows):
    field = noise((150, 43), unseen=0.02)
    field[60:80, 10:] = NAN
    in_one_piece = post(field)
    monkeypatch.setattr(module, "BAND", rows * 43)
    with StoredMap.write(tmp_path / "raw.tiff", Size(150, 43), [field]) as stored:
        with post.of_stored(stored, tmp_path / "clean.tiff") as clean:
            assert clean.path == tmp_path / "clean.tiff"
            found = clean.read(Box(0, 0, 150, 43))
        np.testing.assert_array_equal(stored.read(Box(0, 0, 150, 43)), field)
    np.testing.assert_array_equal(found.view(np.uint32), post(field).view(np.uint32))
    np.testing.assert_array_equal(found, in_one_piece)
    np.testing.assert_array_equal(read_map(tmp_path / "clean.tiff"), found)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["clean.tiff", "raw.tiff"]


class Watched:
    """A map that tells how much of it was read at a time."""

    def __init__(self, size: Size) -> None:
        self.size = size
        self.shape = tuple(size)
        self.most = 0
        self.read_in_all = 0

    def read(self, box: Box) -> np.ndarray:
        self.most = max(self.most, box.height * box.width)
        self.read_in_all += box.height * box.width
        y, x = np.ogrid[box.rows, box.columns]
        return ((y * 31 + x * 17) % 101 / 100).astype(np.float32)

    def close(self) -> None:
        pass


def test_no_more_is_read_at_a_time_than_a_band_and_what_the_filters_reach(monkeypatch, tmp_path):
    monkeypatch.setattr(module, "BAND", 100 * 60)
    stored = Watched(Size(3000, 60))
    post = AnomalyMapPostprocess(gaussian_sigma=2.0, opening=3, threshold=0.5, min_area=3)  # 8 and 2 rows each way
    with post.of_stored(stored, tmp_path / "clean.tiff") as clean:
        assert clean.size == (3000, 60)
        last = clean.read(Box(2990, 0, 10, 60))
    assert stored.most == (100 + 2 * 10) * 60
    assert stored.read_in_all == 2 * (3000 + 29 * 20) * 60
    np.testing.assert_array_equal(last, post(stored.read(Box(0, 0, 3000, 60)))[2990:])
