"""What makes two cameras agree, by hand and against other implementations; and that what does not count does nothing."""

from __future__ import annotations

import functools
import json
import re
import tracemalloc
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from uadctl.errors import DataError
from uadctl.imaging import camera as module
from uadctl.imaging import files as image_files
from uadctl.imaging.camera import (
    FILL,
    Area,
    Camera,
    clahe,
    flat_field_correction,
    gray_world_white_balance,
    homomorphic_filter,
    max_rgb_white_balance,
)
from uadctl.imaging.raster import ArrayRaster, RawLayout, Window, row_bands
from uadctl.records import Box, Size, Step
from uadctl.spec.camera_steps import CAMERA_STEPS, PRESETS
from uadctl.spec.operations import read_step

cv2 = pytest.importorskip("cv2", reason="filters need OpenCV")

BALANCED = ["uint8", "uint16", "float32"]


def noise(seed: int, *shape: int, low: int = 0, high: int = 256) -> np.ndarray:
    return np.random.default_rng(seed).integers(low, high, shape).astype(np.uint8)


# ---- white balance


@pytest.mark.parametrize("dtype", BALANCED)
def test_gray_world_by_hand(dtype):
    # Means 20, 40, 60; their mean is 40, so the gains are 2, 1 and 2/3.
    image = np.array([[[10, 40, 30], [30, 40, 90]]], dtype)
    balanced = gray_world_white_balance(image)
    assert balanced.dtype == image.dtype
    assert balanced.tolist() == [[[20, 40, 20], [60, 40, 60]]]


@pytest.mark.parametrize("dtype", BALANCED)
def test_max_rgb_by_hand(dtype):
    # Brightest 50, 100, 25: the gains are 2, 1 and 4.
    image = np.array([[[10, 100, 25], [50, 7, 5]]], dtype)
    balanced = max_rgb_white_balance(image)
    assert balanced.dtype == image.dtype
    assert balanced.tolist() == [[[20, 100, 100], [100, 7, 20]]]


@pytest.mark.parametrize("dtype", BALANCED)
def test_max_rgb_passes_over_the_highlights_beyond_its_percentile(dtype):
    image = np.empty((10, 100, 3), dtype)
    image[...] = (50, 100, 25)
    image[0, 0] = 255
    assert max_rgb_white_balance(image).tolist() == image.tolist()
    balanced = max_rgb_white_balance(image, percentile=99.9)
    assert balanced[5, 5].tolist() == [100, 100, 100]
    assert balanced[0, 0].tolist() == ([510, 255, 1020] if dtype != "uint8" else [255, 255, 255])
    image[0, 1] = 255
    assert max_rgb_white_balance(image, percentile=99.9).tolist() == image.tolist()


def test_a_share_of_pixels_is_reckoned_in_decimals():
    # 1000 * 64.4 / 100 is a little more than 644 in floating point: one rank too many.
    assert 1000 * 64.4 / 100 > 644
    image = np.zeros((1, 1000, 3), np.uint8)
    image[0, :, 0] = 100
    image[0, :644, 1:] = 50
    image[0, 644:, 1:] = 100
    assert max_rgb_white_balance(image, percentile=64.4)[0, 0].tolist() == [100, 100, 100]
    assert max_rgb_white_balance(image, percentile=64.4 + 0.1)[0, 0].tolist() == [100, 50, 50]


def test_white_balance_is_cut_at_the_end_of_an_integer_type_only():
    image = np.array([[[4, 100, 100], [96, 200, 200], [20, 60, 60]]])  # means 40, 120, 120; their mean is 280 / 3
    assert gray_world_white_balance(image.astype(np.uint8))[0, 1].tolist() == [224, 156, 156]
    wide = np.array([[[0, 60000, 60000], [30000, 60000, 60000]]])  # means 15000, 60000, 60000; their mean is 45000
    assert gray_world_white_balance(wide.astype(np.uint16))[0, 1].tolist() == [65535, 45000, 45000]
    assert gray_world_white_balance(wide.astype(np.float32))[0, 1].tolist() == [90000, 45000, 45000]
    bright = np.array([[[10, 100, 100], [200, 100, 100], [0, 100, 100]]])  # means 70, 100, 100; their mean is 90
    assert gray_world_white_balance(bright.astype(np.uint8))[0, 1].tolist() == [255, 90, 90]


def test_a_channel_of_zeros_stays_zero():
    image = np.zeros((2, 2, 3), np.uint8)
    assert not gray_world_white_balance(image).any()
    assert not max_rgb_white_balance(image).any()
    image[..., 1] = 90
    assert gray_world_white_balance(image)[0, 0].tolist() == [0, 30, 0]
    assert max_rgb_white_balance(image)[0, 0].tolist() == [0, 90, 0]


@pytest.mark.parametrize("balance", [gray_world_white_balance, max_rgb_white_balance])
@pytest.mark.parametrize("dtype", BALANCED)
def test_grey_is_returned_as_it_is_and_the_input_is_never_written(balance, dtype):
    grey = noise(1, 5, 7).astype(dtype)
    assert balance(grey) is grey
    image = noise(2, 6, 5, 3).astype(dtype)
    before = image.copy()
    balanced = balance(image)
    assert balanced.shape == image.shape
    assert balanced.dtype == image.dtype
    assert np.array_equal(image, before)
    again = balance(image[:, ::-1])
    assert np.array_equal(again, balanced[:, ::-1])


@pytest.mark.parametrize("balance", [gray_world_white_balance, max_rgb_white_balance])
def test_white_balance_undoes_the_gains_of_another_camera(balance):
    scene = np.random.default_rng(3).uniform(0.1, 0.4, (40, 50, 3)).astype(np.float32)
    other = scene * np.array([0.7, 1.0, 1.6], np.float32)
    one, two = balance(scene), balance(other)
    # Up to the exposure, which is not theirs to set.
    assert np.allclose(one / one.mean(), two / two.mean(), rtol=1e-5)


@pytest.mark.parametrize("balance", [gray_world_white_balance, max_rgb_white_balance])
@pytest.mark.parametrize("dtype", ["float64", "int16", "int32", "bool"])
def test_white_balance_refuses_other_types(balance, dtype):
    with pytest.raises(TypeError, match=f"^expected an image of uint8 or uint16 or float32, found {dtype}$"):
        balance(np.zeros((2, 2, 3), dtype))


SHAPES = [(3,), (0, 3, 3), (2, 2, 1), (2, 2, 4), (1, 2, 2, 3)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(
    "function", [gray_world_white_balance, max_rgb_white_balance, homomorphic_filter, clahe, flat_field_correction]
)
def test_other_shapes_are_refused(function, shape):
    image = np.zeros(shape, np.uint8)
    message = re.escape(f"expected a non-empty (H, W) or (H, W, 3) image, found {shape}")
    with pytest.raises(ValueError, match=f"^{message}$"):
        function(*([image, image] if function is flat_field_correction else [image]))


def test_numbers_that_are_none_are_refused():
    image = np.zeros((2, 2, 3), np.float32)
    image[1, 1, 1] = np.nan
    for balance in (gray_world_white_balance, max_rgb_white_balance):
        with pytest.raises(ValueError, match=r"^the image has pixels that are NaN or infinite$"):
            balance(image)
    with pytest.raises(ValueError, match=r"^percentile must be 50 to 100, found 101$"):
        max_rgb_white_balance(np.zeros((2, 2, 3), np.uint8), percentile=101)


# ---- homomorphic


@pytest.mark.parametrize("dtype", ["uint8", "float32", "float64"])
@pytest.mark.parametrize("shape", [(50, 70), (50, 70, 3), (1, 1), (1, 9, 3), (300, 2)])
@pytest.mark.parametrize("value", [0, 77, 255])
def test_a_uniform_picture_is_unchanged(dtype, shape, value):
    image = np.full(shape, value, dtype)
    filtered = homomorphic_filter(image, gain_low=0.2, gain_high=2.0)
    assert filtered.dtype == image.dtype
    assert filtered.shape == shape
    assert np.abs(filtered.astype(float) - value).max() <= (0 if dtype == "uint8" else 1e-3)


def test_a_slow_gradient_shrinks_and_a_sharp_edge_stays():
    rows = np.linspace(40, 200, 400)[:, np.newaxis]
    slope = np.broadcast_to(rows, (400, 300)).astype(np.float32)
    filtered = homomorphic_filter(slope, cutoff=0.05, gain_low=0.3)
    log = np.log1p(filtered)
    # To gain_low of its range in the logarithm; the ends a little less, where the mirrored ramp turns.
    assert np.ptp(log) / np.ptp(np.log1p(slope)) == pytest.approx(0.3, abs=0.03)
    middle = (np.log1p(filtered[210]) - np.log1p(filtered[190])) / (np.log1p(slope[210]) - np.log1p(slope[190]))
    assert middle[0] == pytest.approx(0.3, abs=0.01)

    edges = slope.copy()
    edges[:, 150] *= 1.25  # a scratch, one pixel wide
    scratched = homomorphic_filter(edges, cutoff=0.05, gain_low=0.3)
    contrast = (scratched[:, 150] + 1) / (scratched[:, 140] + 1)
    assert np.abs(contrast - (edges[:, 150] + 1) / (edges[:, 140] + 1)).max() < 0.02
    raised = homomorphic_filter(edges, cutoff=0.05, gain_low=0.3, gain_high=2.0)
    assert float(((raised[:, 150] + 1) / (raised[:, 140] + 1)).mean()) == pytest.approx(1.25**2, abs=0.06)


@pytest.mark.parametrize(("length", "half_waves"), [(64, 8), (2000, 20)], ids=["fine", "shrunk"])
def test_the_cutoff_is_the_frequency_where_the_low_pass_is_exp_of_minus_half(length, half_waves):
    # A cosine that is mirrored into itself at the borders; half_waves / length of the highest frequency, by hand.
    wave = np.cos(np.pi * half_waves * (np.arange(length) + 0.5) / length) * 0.2
    image = np.broadcast_to(np.expm1(4 + wave)[:, np.newaxis], (length, 6)).astype(np.float32)
    filtered = homomorphic_filter(image, cutoff=half_waves / length, gain_low=0.0)
    left = np.log1p(filtered[:, 3]) - 4
    assert float(left @ wave / (wave @ wave)) == pytest.approx(1 - np.exp(-0.5), abs=0.01)


def test_the_low_pass_is_a_gaussian_of_the_mirrored_picture():
    image = noise(4, 60, 90).astype(np.float64)
    log = np.log1p(image)
    mirrored = np.block([[log, log[:, ::-1]], [log[::-1], log[::-1, ::-1]]])
    cutoff = 0.06
    sigma = 1 / (np.pi * cutoff)
    y, x = np.fft.fftfreq(120)[:, np.newaxis], np.fft.fftfreq(180)
    low = np.fft.ifft2(np.fft.fft2(mirrored) * np.exp(-2 * np.pi**2 * sigma**2 * (x**2 + y**2))).real[:60, :90]
    wanted = np.clip(np.expm1(log.mean() + 0.4 * (low - log.mean()) + 1.5 * (log - low)), 0, 255)
    found = homomorphic_filter(image, cutoff=cutoff, gain_low=0.4, gain_high=1.5)
    assert np.abs(found - wanted).max() < 0.1


def test_colours_keep_their_ratios_and_grey_of_three_channels_is_as_grey():
    grey = noise(5, 40, 60)
    three = homomorphic_filter(np.repeat(grey[..., np.newaxis], 3, axis=2), cutoff=0.2)
    assert np.abs(three.astype(int) - homomorphic_filter(grey, cutoff=0.2)[..., np.newaxis]).max() <= 1
    colours = np.random.default_rng(6).uniform(20, 120, (40, 60, 3))
    filtered = homomorphic_filter(colours, cutoff=0.2, gain_low=0.3)
    ratios = (filtered + 1) / (colours + 1)
    assert np.abs(ratios / ratios[..., :1] - 1).max() < 1e-5
    assert np.abs(ratios - 1).max() > 0.1


@pytest.mark.parametrize("cutoff", [0, -0.1, 1.01, float("nan")])
def test_a_cutoff_outside_is_refused(cutoff):
    with pytest.raises(ValueError, match=f"^cutoff must be above 0 and at most 1, found {cutoff:g}$"):
        homomorphic_filter(np.zeros((2, 2), np.uint8), cutoff=cutoff)


def test_the_filter_refuses_what_it_cannot_mean():
    image = np.zeros((4, 4), np.float32)
    with pytest.raises(ValueError, match=r"^gain_low must be 0 to 1, found 1.5$"):
        homomorphic_filter(image, gain_low=1.5)
    with pytest.raises(ValueError, match=r"^gain_high must be 1 to 4, found 0.5$"):
        homomorphic_filter(image, gain_high=0.5)
    with pytest.raises(TypeError, match=r"^expected an image of uint8 or float32 or float64, found uint16$"):
        homomorphic_filter(image.astype(np.uint16))
    with pytest.raises(ValueError, match=r"^expected values of 0 to 255, found -1 to 0$"):
        homomorphic_filter(image - np.eye(4, dtype=np.float32))
    with pytest.raises(ValueError, match=r"^expected values of 0 to 255, found 0 to 256$"):
        homomorphic_filter(image + 256 * np.eye(4, dtype=np.float32))


# ---- flat field


@pytest.mark.parametrize("dtype", BALANCED)
def test_flat_field_by_hand(dtype):
    # flat - dark = 1, 3: their mean is 2, so the gains are 2 and 2/3.
    image = np.array([[11, 31]], dtype)
    corrected = flat_field_correction(image, np.array([[2, 4]]), np.array([[1, 1]]))
    assert corrected.dtype == image.dtype
    assert corrected.tolist() == [[20, 20]]
    bare = flat_field_correction(image, np.array([[1, 3]]))
    assert bare.tolist() == [[22, pytest.approx(62 / 3) if dtype == "float32" else 21]]


def test_a_flat_field_undoes_vignetting_and_leaves_each_channel_its_mean():
    rng = np.random.default_rng(7)
    lens = rng.uniform(0.4, 1.0, (30, 40, 3))
    dark = rng.uniform(0, 5, (30, 40, 3))
    scene = rng.uniform(20, 100, (30, 40, 3))
    corrected = flat_field_correction((scene * lens + dark).astype(np.float32), 180 * lens + dark, dark)
    assert np.allclose(corrected, scene * lens.mean(axis=(0, 1)), rtol=1e-4)


def test_dead_pixels_stay_as_they_are_and_are_no_part_of_the_mean():
    flat, dark = np.array([[3.0, 9, 1, 5]]), np.array([[1.0, 1, 1, 6]])
    image = np.array([[21, 81, 7, 9]], np.float32)
    # Signals 2 and 8, mean 5; gains 2.5 and 0.625; the others only lose the dark.
    assert flat_field_correction(image, flat, dark).tolist() == [[50, 50, 6, 3]]
    assert flat_field_correction(image.astype(np.uint8), flat, dark).tolist() == [[50, 50, 6, 3]]
    assert flat_field_correction(np.array([[0, 0, 0, 0]], np.uint8), flat, dark).tolist() == [[0, 0, 0, 0]]
    with pytest.raises(
        ValueError, match=r"^a channel of the flat field is nowhere brighter than the dark frame \(0 without one\)$"
    ):
        flat_field_correction(np.zeros((1, 2, 3), np.uint8), np.dstack([np.ones((1, 2))] * 2 + [np.zeros((1, 2))]))


def test_a_frame_of_one_row_or_channel_is_for_all():
    image = noise(8, 5, 6, 3)
    row = np.random.default_rng(9).uniform(50, 200, (1, 6))
    full = np.broadcast_to(row[..., np.newaxis], (5, 6, 3))
    assert np.array_equal(flat_field_correction(image, row), flat_field_correction(image, full))
    dark = np.random.default_rng(10).uniform(0, 9, (5, 6, 3))
    assert np.array_equal(flat_field_correction(image, row, dark), flat_field_correction(image, full, dark))


@pytest.mark.parametrize("shape", [(4, 6), (5, 1), (2, 6), (5, 6, 3), (1, 5)])
def test_a_flat_field_of_another_shape_is_refused(shape):
    message = re.escape(f"a flat field of {shape} does not fit an image of (5, 6)")
    with pytest.raises(ValueError, match=f"^{message}$"):
        flat_field_correction(np.zeros((5, 6), np.uint8), np.ones(shape))


def test_frames_that_do_not_fit_each_other_are_refused():
    image = np.zeros((5, 6), np.uint8)
    for shape in ((4, 6), (5, 1)):
        message = re.escape(f"a flat field of (5, 6) and a dark frame of {shape} do not fit each other")
        with pytest.raises(ValueError, match=f"^{message}$"):
            flat_field_correction(image, np.ones((5, 6)), np.zeros(shape))
    with pytest.raises(ValueError, match=r"^a frame must be a non-empty \(H, W\) or \(H, W, 3\) array, found \(6,\)$"):
        flat_field_correction(image, np.ones(6))


# ---- clahe


def test_clahe_raises_local_contrast():
    rng = np.random.default_rng(11)
    faint = (np.linspace(40, 200, 128)[:, np.newaxis] + rng.normal(0, 2, (128, 128))).astype(np.uint8)
    raised = clahe(faint, clip_limit=4.0)
    fine = [float(np.diff(picture.astype(float), axis=1).std()) for picture in (faint, raised)]
    assert fine[1] > 1.8 * fine[0]
    assert np.array_equal(raised, cv2.createCLAHE(4.0, (8, 8)).apply(faint))
    assert not np.array_equal(raised, clahe(faint, clip_limit=4.0, grid=2))


def test_clahe_keeps_colours():
    # Soft colours, so that sRGB can show them at any lightness that comes out.
    image = cv2.GaussianBlur(noise(12, 64, 96, 3, low=100, high=156), (0, 0), 2)
    raised = clahe(image)
    before, after = (cv2.cvtColor(p.astype(np.float32) / 255, cv2.COLOR_RGB2LAB) for p in (image, raised))
    assert np.abs(before[..., 1:] - after[..., 1:]).max() < 0.8
    assert after[..., 0].std() > 1.5 * before[..., 0].std()
    light = np.rint(before[..., 0] * 2.55).astype(np.uint8)
    assert np.abs(after[..., 0] * 2.55 - cv2.createCLAHE(2.0, (8, 8)).apply(light)).max() < 2
    grey = np.repeat(noise(13, 64, 96, 1), 3, axis=2)
    assert np.ptp(clahe(grey).astype(int), axis=2).max() <= 1


def test_clahe_in_bands_gives_the_same_bytes(monkeypatch):
    image = noise(14, 50, 30, 3)
    whole = clahe(image, 3.0, 4)
    monkeypatch.setattr(module, "_BAND", 100)
    assert np.array_equal(clahe(image, 3.0, 4), whole)


@pytest.mark.parametrize("shape", [(1, 1), (1, 9, 3), (9, 1), (2, 3, 3)])
def test_clahe_takes_the_smallest_pictures(shape):
    assert clahe(np.full(shape, 9, np.uint8), grid=8).shape == shape


def test_clahe_refuses_what_it_cannot_mean():
    image = np.zeros((4, 4), np.uint8)
    for limit in (0.0, -1.0, float("inf"), float("nan")):
        with pytest.raises(ValueError, match=f"^clip_limit must be above 0, found {limit:g}$"):
            clahe(image, limit)
    with pytest.raises(ValueError, match=r"^grid must be at least 1, found 0$"):
        clahe(image, grid=0)
    with pytest.raises(TypeError, match=r"^expected an image of uint8, found uint16$"):
        clahe(image.astype(np.uint16))


# ---- areas


def drawn(text: str, height: int, width: int) -> list[str]:
    mask = Area.of(text).mask(Size(height, width), Box(0, 0, height, width))
    return ["".join("#" if inside else "." for inside in row) for row in mask]


def test_areas_by_hand():
    assert drawn("box:1,2,3,4", 4, 5) == [".....", "..##.", "..##.", "....."]
    assert drawn("polygon:1,2 1,3 2,3 2,2", 4, 5) == [".....", "..##.", "..##.", "....."]
    # A triangle: the pixels on its three edges belong to it.
    assert drawn("polygon:0,0 4,0 4,4", 5, 5) == ["#....", "##...", "###..", "####.", "#####"]
    # A slope of 2: at odd rows the boundary lies between two centres.
    assert drawn("polygon:0,0 4,0 4,2", 5, 3) == ["#..", "#..", "##.", "##.", "###"]
    # Concave, open at the top.
    assert drawn("polygon:0,0 4,0 4,4 0,4 3,2", 5, 5) == ["#...#", "#...#", "##.##", "#####", "#####"]


def test_a_polygon_that_crosses_itself():
    # A bow tie, open above and below.
    assert drawn("polygon:0,0 4,4 0,4 4,0", 5, 5) == ["#...#", "##.##", "#####", "##.##", "#...#"]
    assert drawn("polygon:0,0 0,4 4,0 4,4", 5, 5) == ["#####", ".###.", "..#..", ".###.", "#####"]
    # A square within a square, on one line: what is surrounded twice lies outside, but its boundary does not.
    twice = "polygon:0,0 0,6 6,6 6,0 0,0 2,2 2,4 4,4 4,2 2,2"
    assert drawn(twice, 7, 7)[3] == "###.###"
    assert drawn(twice, 7, 7)[2] == "#######"


def inside(points: list[tuple[int, int]], y: int, x: int) -> bool:
    """Even-odd, with the boundary, in fractions."""
    odd = False
    for (y1, x1), (y2, x2) in zip(points, [*points[1:], points[0]], strict=True):
        if (
            (y2 - y1) * (x - x1) == (x2 - x1) * (y - y1)
            and min(y1, y2) <= y <= max(y1, y2)
            and min(x1, x2) <= x <= max(x1, x2)
        ):
            return True
        if (y1 > y) != (y2 > y) and x < x1 + Fraction((y - y1) * (x2 - x1), y2 - y1):
            odd = not odd
    return odd


POINTS = st.lists(st.tuples(st.integers(0, 11), st.integers(0, 13)), min_size=3, max_size=7)


@given(POINTS, st.integers(0, 8), st.integers(0, 9), st.integers(1, 4), st.integers(1, 5))
@example([(0, 0), (0, 9), (9, 9), (9, 0)], 0, 0, 4, 5)
@settings(deadline=None)
def test_a_polygon_is_what_its_definition_says_in_any_box(points, y0, x0, height, width):
    text = "polygon:" + " ".join(f"{y},{x}" for y, x in points)
    try:
        area = Area.of(text)
    except ValueError:  # all on one line
        return
    found = area.mask(Size(12, 14), Box(y0, x0, height, width))
    wanted = [[inside(points, y, x) for x in range(x0, x0 + width)] for y in range(y0, y0 + height)]
    assert found.tolist() == wanted


@pytest.mark.parametrize("options", [{"tile": (16, 32)}, {"rowsperstrip": 7, "compression": "zlib"}], ids=str)
def test_a_mask_of_any_size_is_an_area_where_its_file_is_read_region_by_region(tmp_path, monkeypatch, options):
    marked = noise(16, 300, 40) > 128
    path = str(tmp_path / "mask.tiff")
    pytest.importorskip("tifffile").imwrite(path, marked * np.uint8(3), photometric="minisblack", **options)
    cv2.imwrite(str(tmp_path / "mask.png"), marked * np.uint8(3))
    whole = Area.of(str(tmp_path / "mask.png"))
    monkeypatch.setattr(image_files, "MAX_PIXELS", 300 * 40 - 1)
    monkeypatch.setattr(module, "row_bands", functools.partial(row_bands, pixels=1))  # of 256 and 44 rows
    area = Area.of(path)
    assert area.pixels.dtype == np.uint8
    assert np.array_equal(area.pixels, marked)
    assert np.array_equal(area.pixels, whole.pixels)
    with pytest.raises(DataError, match=r"mask\.png: 300x40 \(height x width\) is 12000 pixels, more than 11999$"):
        Area.of(str(tmp_path / "mask.png"))


def test_any_box_of_an_area_is_that_part_of_it(tmp_path):
    marked = (noise(15, 9, 8) > 128).astype(np.uint8) * 255
    cv2.imwrite(str(tmp_path / "mask.png"), marked)
    texts = ["box:2,1,7,6", "polygon:1,1 7,2 4,6", str(tmp_path / "mask.png")]
    tried = 0
    for text in texts:
        area = Area.of(text)
        whole = area.mask(Size(9, 8), Box(0, 0, 9, 8))
        assert 0 < whole.sum() < whole.size
        for y0 in range(9):
            for x0 in range(8):
                box = Box(y0, x0, min(3, 9 - y0), min(4, 8 - x0))
                assert np.array_equal(area.mask(Size(9, 8), box), whole[box.rows, box.columns])
                tried += 1
        bounds = area.bounds(Size(9, 8))
        outside = whole.copy()
        outside[bounds.rows, bounds.columns] = False
        assert not outside.any()
    assert tried == 3 * 72
    assert np.array_equal(whole, marked > 0)


@pytest.mark.parametrize(
    ("text", "needed"),
    [
        ("box:0,0,10,11", "10x11"),
        ("box:2,2,9,11", "9x11"),
        ("polygon:0,0 9,0 3,9", "10x10"),
        ("box:90,90,95,95", "95x95"),
    ],
)
def test_an_area_beyond_the_image_is_an_error_that_names_both_sizes(text, needed):
    message = re.escape(f"{text} needs an image of at least {needed}, this one is 9x10 (height x width)")
    for camera in (Camera.of(roi=text), Camera.of(ignore=[text])):
        with pytest.raises(DataError, match=f"^{message}$") as caught:
            camera.extent(Size(9, 10))
        assert caught.value.help == (
            "[preprocess] roi and ignore are in pixels of the file as displayed, before it is resized."
        )
        with pytest.raises(DataError, match=f"^{message}$"):
            camera.counts(Size(9, 10), Box(0, 0, 2, 2))
        with pytest.raises(DataError, match=f"^{message}$"):
            camera.see(ArrayRaster(noise(1, 9, 10, 3)))


def test_a_mask_of_another_size_is_an_error_that_names_both(tmp_path):
    path = tmp_path / "roi.png"
    cv2.imwrite(str(path), np.full((4, 6), 255, np.uint8))
    message = re.escape(f"{path} is 4x6, the image is 6x4 (height x width)")
    with pytest.raises(DataError, match=f"^{message}$") as caught:
        Camera.of(roi=str(path)).extent(Size(6, 4))
    assert caught.value.help == "A mask of [preprocess] roi or ignore must have the size of the images, as displayed."


def test_a_mask_that_is_none_is_told(tmp_path):
    missing = tmp_path / "missing.png"
    with pytest.raises(DataError, match=f"^{re.escape(str(missing))}: no such file$"):
        Camera.of(ignore=[str(missing)])
    with pytest.raises(ValueError, match=r'^expected "box:top,left,bottom,right" in whole pixels from 0$'):
        Camera.of(roi="box:1,2,3")


# ---- what counts


def test_the_extent_is_the_smallest_box_of_what_counts():
    size = Size(20, 30)
    assert Camera().extent(size) == Box(0, 0, 20, 30)
    assert Camera.of(roi="box:2,3,10,12").extent(size) == Box(2, 3, 8, 9)
    assert Camera.of(roi="polygon:2,5 9,1 9,8").extent(size) == Box(2, 1, 8, 8)
    # What is ignored makes it smaller: here the top rows and the left columns.
    assert Camera.of(ignore=["box:0,0,4,30", "box:0,0,20,7"]).extent(size) == Box(4, 7, 16, 23)
    assert Camera.of(roi="box:2,3,10,12", ignore=["box:0,0,20,5"]).extent(size) == Box(2, 5, 8, 7)
    assert Camera.of(ignore=["box:5,5,9,9"]).extent(size) == Box(0, 0, 20, 30)


def test_the_extent_does_not_depend_on_the_bands(monkeypatch):
    camera = Camera.of(roi="polygon:3,5 17,2 12,25", ignore=["box:0,0,5,30"])
    whole = camera.extent(Size(20, 30))
    monkeypatch.setattr(module, "_BAND", 35)
    assert Camera.of(roi="polygon:3,5 17,2 12,25", ignore=["box:0,0,5,30"]).extent(Size(20, 30)) == whole
    assert camera.extent(Size(21, 30)) == whole


def test_what_is_remembered_of_sizes_is_bounded():
    camera = Camera.of(roi="box:0,0,2,2")
    for height in range(2, 300):
        assert camera.extent(Size(height, 2)) == Box(0, 0, 2, 2)
    assert len(camera._extents) <= 64


def test_counts_says_none_where_all_do():
    size = Size(20, 30)
    camera = Camera.of(roi="box:2,3,10,12", ignore=["box:4,4,5,6"])
    assert Camera().counts(size, Box(0, 0, 20, 30)) is None
    assert camera.counts(size, Box(5, 3, 5, 9)) is None
    counts = camera.counts(size, Box(3, 2, 3, 5))
    assert counts.tolist() == [[False, True, True, True, True], [False, True, False, False, True], [False] + [True] * 4]


def test_nothing_that_counts_is_an_error():
    message = re.escape(
        "no pixel of an image of 9x9 (height x width) counts, with roi and ignore: box:1,1,3,3, box:0,0,9,3"
    )
    with pytest.raises(DataError, match=f"^{message}$") as caught:
        Camera.of(roi="box:1,1,3,3", ignore=["box:0,0,9,3"]).extent(Size(9, 9))
    assert caught.value.help == "Make [preprocess] roi larger, or take something out of ignore."


# ---- seeing


def test_a_plain_camera_hands_pixels_on_without_copying():
    raster = ArrayRaster(noise(16, 6, 7, 3))
    assert Camera().see(raster) is raster
    assert Camera.of(intensity="window:0,9").see(raster, tiled=True) is raster
    cut = Camera.of(roi="box:1,2,5,6").see(raster).read(Box(1, 2, 4, 4))
    assert np.shares_memory(cut, raster.pixels)
    assert Camera().is_plain
    assert not any(
        camera.is_plain
        for camera in (
            Camera(window=Window(0, 1)),
            Camera(raw=RawLayout(None, 4)),
            Camera(steps=(Step("gray_world"),)),
            Camera(roi=Area("box:0,0,1,1")),
            Camera(ignore=(Area("box:0,0,1,1"),)),
        )
    )


def flat_frames(folder: Path, height: int, width: int) -> str:
    """Reference frames for `flat_field`: two to average, and a dark one. Returns the step."""
    (folder / "white").mkdir(exist_ok=True)
    for index in range(2):
        cv2.imwrite(str(folder / "white" / f"{index}.png"), noise(20 + index, height, width, 3, low=90, high=200))
    cv2.imwrite(str(folder / "dark.png"), noise(22, height, width, 3, high=9))
    return f"flat_field:reference={folder / 'white'},dark={folder / 'dark.png'}"


EXACT = ["gray_world", "max_rgb", "max_rgb:percentile=90"]
SEEN = [*EXACT, "homomorphic:cutoff=0.1", "clahe:clip_limit=3,grid=3"]


@pytest.mark.parametrize("tiled", [False, True])
@pytest.mark.parametrize("step", [*SEEN, "flat_field"])
def test_what_does_not_count_changes_no_byte(step, tiled, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "LARGE", 1)
    text = flat_frames(tmp_path, 30, 40) if step == "flat_field" else step
    areas = {"roi": "polygon:3,4 25,2 20,36 6,30", "ignore": ["box:10,10,14,30"]}
    camera = Camera.of(steps=[text], **areas)
    size, image = Size(30, 40), (noise(30, 30, 40, 3) * np.array([0.7, 0.5, 0.4])).astype(np.uint8)
    counts = camera.counts(size, Box(0, 0, 30, 40))
    other = np.where(counts[..., np.newaxis], image, noise(31, 30, 40, 3, low=200))
    assert (image != other).any()
    extent = camera.extent(size)
    boxes = [extent, Box(extent.y0, extent.x0, 9, 11), Box(12, 8, 10, 12)]
    for box in boxes:
        one, two = (camera.see(ArrayRaster(pixels), tiled=tiled).read(box) for pixels in (image, other))
        assert one.dtype == np.uint8
        assert one.shape == (box.height, box.width, 3)
        assert np.array_equal(one, two)
        inside_box = counts[box.rows, box.columns]
        assert (one[~inside_box] == FILL).all()
        assert not np.array_equal(one[inside_box], image[box.rows, box.columns][inside_box])
    # And what does count, does.
    changed = image.copy()
    changed[15, 5] ^= 255
    assert not np.array_equal(
        camera.see(ArrayRaster(changed), tiled=tiled).read(extent),
        camera.see(ArrayRaster(image), tiled=tiled).read(extent),
    )


@pytest.mark.parametrize(
    "areas", [{}, {"roi": "polygon:3,4 25,2 20,36 6,30", "ignore": ["box:10,10,14,30"]}], ids=["all", "roi"]
)
def test_tiled_and_whole_agree_exactly_where_no_neighbourhood_is_looked_at(areas, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "LARGE", 1)
    image = noise(32, 30, 40, 3, low=10, high=180)
    flat = flat_frames(tmp_path, 30, 40)
    orders = [[step] for step in (*EXACT, flat)] + [[flat, "gray_world", "max_rgb:percentile=80"], ["max_rgb", flat]]
    for steps in orders:
        camera = Camera.of(steps=steps, **areas)
        extent = camera.extent(Size(30, 40))
        whole = camera.see(ArrayRaster(image))
        for band in (1 << 21, 100):
            monkeypatch.setattr(module, "_BAND", band)
            regions = camera.see(ArrayRaster(image), tiled=True)
            assert regions.size == whole.size == Size(30, 40)
            boxes = [extent, Box(extent.y0, extent.x0, 5, 7), Box(9, 8, 12, 20)]
            for box in boxes:
                assert np.array_equal(whole.read(box), regions.read(box))


def test_a_step_by_itself_is_its_function(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "LARGE", 1)
    image = noise(33, 30, 40, 3, low=10, high=180)
    flat = flat_frames(tmp_path, 30, 40)
    white = np.mean(
        [cv2.imread(str(tmp_path / "white" / f"{i}.png"))[..., ::-1].astype(float) for i in range(2)], axis=0
    )
    dark = cv2.imread(str(tmp_path / "dark.png"))[..., ::-1]
    wanted = {
        "gray_world": gray_world_white_balance(image),
        "max_rgb": max_rgb_white_balance(image),
        "max_rgb:percentile=90": max_rgb_white_balance(image, percentile=90.0),
        "homomorphic:cutoff=0.1": homomorphic_filter(image, cutoff=0.1),
        "clahe:clip_limit=3,grid=3": clahe(image, 3.0, 3),
        flat: flat_field_correction(image, white, dark),
    }
    assert len(wanted) == 6
    for step, pixels in wanted.items():
        for tiled in (False, True):
            raster = Camera.of(steps=[step]).see(ArrayRaster(image), tiled=tiled)
            assert np.array_equal(raster.read(Box(0, 0, 30, 40)), pixels), step


def test_steps_are_done_in_their_order(monkeypatch):
    monkeypatch.setattr(module, "LARGE", 1)
    image = noise(34, 20, 20, 3, low=10, high=180)
    for steps in (["gray_world", "clahe"], ["clahe", "gray_world"]):
        wanted = image
        for step in steps:
            wanted = {"gray_world": gray_world_white_balance, "clahe": clahe}[step](wanted)
        for tiled in (False, True):
            seen = Camera.of(steps=steps).see(ArrayRaster(image), tiled=tiled)
            assert np.array_equal(seen.read(Box(0, 0, 20, 20)), wanted)


def test_statistics_are_of_what_counts_by_hand(monkeypatch):
    image = np.zeros((4, 4, 3), np.uint8)
    image[...] = 250
    image[1:3, 1:3] = [[(10, 40, 30), (30, 40, 90)], [(20, 40, 60), (20, 40, 60)]]
    camera = Camera.of(steps=["gray_world"], roi="box:1,1,3,3")
    for tiled in (False, True):
        seen = camera.see(ArrayRaster(image), tiled=tiled).read(Box(1, 1, 2, 2))
        assert seen.tolist() == [[[20, 40, 20], [60, 40, 60]], [[40, 40, 40], [40, 40, 40]]]
    monkeypatch.setattr(module, "LARGE", 3)
    regions = camera.see(ArrayRaster(image), tiled=True)
    assert np.array_equal(regions.read(Box(1, 1, 2, 2)), seen)
    whole = regions.read(Box(0, 0, 4, 4))
    assert (whole[0] == FILL).all()
    assert (whole[:, 3] == FILL).all()


def test_up_to_large_it_does_not_matter_whether_an_image_is_tiled(tmp_path, monkeypatch):
    flat = flat_frames(tmp_path, 60, 50)
    named = [*SEEN, flat, *PRESETS]
    assert {read_step(step, CAMERA_STEPS).name for step in [*SEEN, flat]} == set(CAMERA_STEPS)
    assert len(named) >= 10
    monkeypatch.setattr(module, "LARGE", 60 * 50)
    monkeypatch.setattr(module, "_BAND", 130)
    image = noise(35, 60, 50, 3, low=10, high=200)
    for steps in [[step] for step in named] + [["homomorphic:cutoff=0.1", flat, "gray_world", "clahe", "max_rgb"]]:
        for roi, ignore in ((None, []), ("polygon:2,2 2,47 58,20", ["box:9,9,14,12"])):
            camera = Camera.of(steps=steps, roi=roi, ignore=ignore)
            extent = camera.extent(Size(60, 50))
            whole = camera.see(ArrayRaster(image)).read(extent)
            tiled = camera.see(ArrayRaster(image), tiled=True)
            assert np.array_equal(tiled.read(extent), whole), steps
            assert np.array_equal(tiled.read(Box(20, 20, 10, 4)), whole[20 - extent.y0 :, 20 - extent.x0 :][:10, :4])


def test_beyond_large_a_neighbourhood_is_of_each_region_where_it_is_tiled(monkeypatch):
    monkeypatch.setattr(module, "LARGE", 40 * 40 - 1)
    image = noise(35, 40, 40, 3)
    for step in ("homomorphic:cutoff=0.05", "clahe"):
        camera = Camera.of(steps=[step])
        whole = camera.see(ArrayRaster(image)).read(Box(0, 0, 20, 20))
        tiled = camera.see(ArrayRaster(image), tiled=True).read(Box(0, 0, 20, 20))
        alone = camera.see(ArrayRaster(image[:20, :20])).read(Box(0, 0, 20, 20))
        assert np.array_equal(tiled, alone)
        assert not np.array_equal(tiled, whole)


def test_a_large_image_of_which_little_counts_is_worked_on_whole(monkeypatch):
    monkeypatch.setattr(module, "LARGE", 400)
    raster = Watched(noise(41, 60, 50, 3))
    camera = Camera.of(steps=["clahe"], roi="box:10,10,30,30")
    tiled = camera.see(raster, tiled=True)
    assert raster.largest == 400
    assert np.array_equal(tiled.read(Box(12, 12, 5, 5)), camera.see(raster).read(Box(12, 12, 5, 5)))


def test_steps_take_few_bytes_a_pixel(tmp_path, monkeypatch):
    # 100 MB and more of floats an image, were they of all of it: of 33 megapixels, 1.6 GB.
    monkeypatch.setattr(module, "_BAND", 1 << 14)
    image = noise(40, 1500, 1000, 3)
    flat = flat_frames(tmp_path, 1, 1000)
    most = {}
    for step in (*SEEN, "homomorphic", flat):
        camera = Camera.of(steps=[step])
        tracemalloc.start()
        try:
            camera.see(ArrayRaster(image))
            most[step] = tracemalloc.get_traced_memory()[1] / (1500 * 1000)
        finally:
            tracemalloc.stop()
    assert max(most.values()) < 11, most


class Watched(ArrayRaster):
    """Notes the largest box that is read, and whether it was closed."""

    def __init__(self, pixels: np.ndarray) -> None:
        super().__init__(pixels)
        self.largest = 0
        self.closed = False

    def read(self, box: Box) -> np.ndarray:
        self.largest = max(self.largest, box.height * box.width)
        return super().read(box)

    def close(self) -> None:
        self.closed = True


def test_a_tiled_image_is_never_read_whole(monkeypatch):
    monkeypatch.setattr(module, "_BAND", 200)
    monkeypatch.setattr(module, "_WIDE_BAND", 400)
    monkeypatch.setattr(module, "LARGE", 400)
    raster = Watched(noise(36, 60, 50, 3))
    camera = Camera.of(steps=["max_rgb", "clahe", "gray_world"], roi="box:0,0,60,50", ignore=["box:3,3,4,4"])
    seen = camera.see(raster, tiled=True)
    assert 0 < raster.largest <= 400
    assert raster.largest > 200
    assert seen.read(Box(10, 10, 5, 5)).shape == (5, 5, 3)
    assert raster.largest <= 400
    seen.close()
    assert raster.closed


def test_white_balance_is_measured_in_bands_that_are_wider_after_a_neighbourhood(monkeypatch):
    monkeypatch.setattr(module, "_BAND", 200)
    monkeypatch.setattr(module, "_WIDE_BAND", 500)
    monkeypatch.setattr(module, "LARGE", 2999)
    image, whole = noise(38, 60, 50, 3, low=20, high=200), Box(0, 0, 60, 50)
    for first, largest in (("max_rgb", 200), ("clahe", 500), ("homomorphic", 500)):
        raster = Watched(image)
        seen = Camera.of(steps=[first, "gray_world"]).see(raster, tiled=True)
        assert raster.largest == largest
        before = Camera.of(steps=[first]).see(ArrayRaster(image), tiled=True)
        bands = [before.read(Box(y0, 0, 10, 50)) for y0 in range(0, 60, 10)] if largest == 500 else [before.read(whole)]
        means = np.concatenate(bands).mean(axis=(0, 1))
        wanted = module._scaled(before.read(whole), means.mean() / means)
        assert np.array_equal(seen.read(whole), wanted)


def test_a_part_in_memory_closes_its_raster_and_refuses_boxes_beyond_it():
    raster = Watched(noise(37, 9, 9, 3))
    seen = Camera.of(roi="box:2,2,6,6").see(raster)
    assert raster.largest == 16
    for box in (Box(1, 2, 2, 2), Box(2, 1, 2, 2), Box(2, 2, 5, 2), Box(2, 2, 2, 5)):
        with pytest.raises(
            ValueError,
            match=r"^Box\(.*\) lies not in Box\(y0=2, x0=2, height=4, width=4\), outside of which nothing counts$",
        ):
            seen.read(box)
    seen.close()
    assert raster.closed


def test_counting_is_exact_beyond_what_float32_holds():
    # 2^24 + 3 equal pixels: OpenCV's histogram, asked once, would say 2^24.
    image = np.full((4097, 4096, 3), 7, np.uint8)
    image[0, :5] = 9
    levels = module._histogram(image, None)
    assert levels[7].tolist() == [4097 * 4096 - 5] * 3
    assert levels[9].tolist() == [5] * 3
    assert levels.sum() == 3 * 4097 * 4096


# ---- from what a spec says


def test_intensity_is_full_or_a_window():
    assert Camera.of() == Camera()
    assert Camera.of(intensity="full").window is None
    assert Camera.of(intensity="window:16,4095").window == Window(16.0, 4095.0)
    with pytest.raises(ValueError, match=r'^expected "full", "window:LO,HI" or "percentile:A,B"$'):
        Camera.of(intensity="percentil:1,2")
    with pytest.raises(ValueError, match=r"^the lower end \(=9\) must be less than the upper end \(=3\)$"):
        Camera.of(intensity="window:9,3")
    with pytest.raises(ValueError, match=r'^no step is called "clhe"; did you mean clahe\?$'):
        Camera.of(steps=["clhe"])


def stored(folder: Path, name: str, pixels: np.ndarray) -> str:
    path = folder / name
    if name.endswith(".tiff"):
        pytest.importorskip("tifffile").imwrite(path, pixels)
    else:
        cv2.imwrite(str(path), pixels)
    return str(path)


def test_percentiles_are_of_all_training_images_together_by_hand(tmp_path):
    # 0..99 and 100..199 once each: the values that 1 %, 25 %, 99.5 % and 100 % of 200 do not exceed.
    paths = [stored(tmp_path, f"{i}.png", np.arange(100, dtype=np.uint8).reshape(10, 10) + 100 * i) for i in range(2)]
    for text, window in [("1,99.5", (1, 198)), ("25,100", (49, 199)), ("0,50", (0, 99)), ("0.4,0.6", (0, 1))]:
        assert Camera.of(intensity=f"percentile:{text}", training=paths).window == Window(*window)
    wide = [
        stored(tmp_path, f"w{i}.png", (np.arange(100, dtype=np.uint16).reshape(10, 10) + 100 * i) * 300)
        for i in range(2)
    ]
    assert Camera.of(intensity="percentile:1,99.5", training=wide).window == Window(300, 59400)


def test_percentiles_of_floats_are_within_a_bin(tmp_path, monkeypatch):
    values = np.random.default_rng(40).gamma(2.0, 30.0, (2, 50, 60)).astype(np.float32) - 20
    paths = [stored(tmp_path, f"{i}.tiff", values[i]) for i in range(2)]
    monkeypatch.setattr(module, "_BAND", 130)
    window = Camera.of(intensity="percentile:2,97", training=paths).window
    bin_width = float(np.ptp(values)) / 65536
    for found, percent, way in ((window.low, 2, -1), (window.high, 97, 1)):
        exact = float(np.quantile(values, percent / 100, method="inverted_cdf"))
        assert 0 <= way * (found - exact) <= bin_width * 1.001
    ends = Camera.of(intensity="percentile:0,100", training=paths).window
    assert (ends.low, ends.high) == (pytest.approx(float(values.min())), pytest.approx(float(values.max())))


def test_percentiles_count_all_channels_and_only_what_counts(tmp_path):
    image = np.full((10, 10, 3), 255, np.uint8)
    image[2:4, 2:4] = [[(1, 2, 3), (4, 5, 6)], [(7, 8, 9), (10, 11, 12)]]
    path = stored(tmp_path, "a.png", image[..., ::-1])
    camera = Camera.of(intensity="percentile:10,90", training=[path], roi="box:2,2,4,4")
    assert camera.window == Window(2, 11)
    ignoring = Camera.of(intensity="percentile:0,100", training=[path], roi="box:2,2,4,4", ignore=["box:3,2,4,4"])
    assert ignoring.window == Window(1, 6)
    # A triangle of three of the four pixels; the box around it has all of them.
    triangle = Camera.of(intensity="percentile:0,100", training=[path], roi="polygon:2,2 3,2 3,3")
    assert triangle.window == Window(1, 12)
    assert Camera.of(intensity="percentile:30,100", training=[path], roi="polygon:2,2 3,2 3,3").window == Window(3, 12)
    assert Camera.of(intensity="percentile:30,100", training=[path], roi="box:2,2,4,4").window == Window(4, 12)


def test_broken_training_images_are_passed_over_by_percentiles(tmp_path):
    good = stored(tmp_path, "good.png", np.arange(100, dtype=np.uint8).reshape(10, 10))
    broken = tmp_path / "broken.png"
    broken.write_bytes(Path(good).read_bytes()[:60])
    small = stored(tmp_path, "small.png", np.zeros((2, 2), np.uint8))
    holes = np.ones((10, 10), np.float32)
    holes[9, 9] = np.nan
    nan = stored(tmp_path, "nan.tiff", holes)
    spec = {"intensity": "percentile:0,100", "roi": "box:0,0,10,10"}
    assert Camera.of(**spec, training=[str(broken), small, nan, good]).window == Window(0, 99)
    with pytest.raises(DataError) as caught:
        Camera.of(**spec, training=[small, str(broken)])
    assert str(caught.value) == (
        "percentile:0,100: none of the 2 training images can be used. The first: "
        "box:0,0,10,10 needs an image of at least 10x10, this one is 2x2 (height x width)"
    )


def test_percentiles_that_give_no_range_are_errors(tmp_path):
    with pytest.raises(DataError, match=r"^percentile:1,99 needs training images, there are none$") as caught:
        Camera.of(intensity="percentile:1,99")
    assert caught.value.help == 'Give the values yourself: [preprocess] intensity = "window:LO,HI".'
    flat = stored(tmp_path, "flat.png", np.full((4, 4), 7, np.uint8))
    with pytest.raises(DataError, match=r"^percentile:1,99: both percentiles of the training images are 7$"):
        Camera.of(intensity="percentile:1,99", training=[flat])
    constant = stored(tmp_path, "constant.tiff", np.full((4, 4), 0.25, np.float32))
    with pytest.raises(DataError, match=r"^percentile:1,99: both percentiles of the training images are 0.25$"):
        Camera.of(intensity="percentile:1,99", training=[constant])
    deep = stored(tmp_path, "deep.png", np.full((4, 4), 7, np.uint16))
    message = re.escape(f"{deep} holds uint16 values, {flat} uint8: percentile:1,99 needs images of one type")
    with pytest.raises(DataError, match=f"^{message}$") as caught:
        Camera.of(intensity="percentile:1,99", training=[flat, deep])
    assert caught.value.help == 'Give the values yourself: [preprocess] intensity = "window:LO,HI".'


@pytest.mark.parametrize("ends", [(-1.7e308, 1.7e308), (0.0, 5e-324)], ids=["too far", "too near"])
def test_percentiles_at_the_limits_of_floats_are_errors(tmp_path, ends):
    values = np.linspace(0, 1, 16).reshape(4, 4)
    path = stored(tmp_path, "limits.tiff", np.where(values < 0.5, *ends))
    message = re.escape(
        f"percentile:1,99: the values of the training images go from {ends[0]:g} to {ends[1]:g}, "
        "a range that cannot be divided into 65536 parts"
    )
    with pytest.raises(DataError, match=f"^{message}$") as caught:
        Camera.of(intensity="percentile:1,99", training=[path])
    assert caught.value.help == 'Give the values yourself: [preprocess] intensity = "window:LO,HI".'


# ---- reference frames


def test_frames_are_seen_through_the_same_window_and_not_rounded(tmp_path):
    white = stored(tmp_path, "white.png", np.array([[1000, 2001]], np.uint16))
    camera = Camera.of(intensity="window:0,4000", steps=[f"flat_field:reference={white}"])
    gain = camera.arrays["flat_field.0.gain"]
    assert gain.dtype == np.float32
    assert np.allclose(gain[0, :, 0], [1500.5 / 1000, 1500.5 / 2001])
    assert np.allclose(camera.arrays["flat_field.0.dark"], 0)
    dark = stored(tmp_path, "dark.png", np.array([[400, 401]], np.uint16))
    covered = Camera.of(intensity="window:400,4480", steps=[f"flat_field:reference={white},dark={dark}"]).arrays
    assert np.allclose(covered["flat_field.0.dark"][0, :, 0], [0, 0.0625])
    assert np.allclose(covered["flat_field.0.gain"][0, :, 0], [1100 / 600, 1100 / 1600])
    pixels = np.full((1, 2, 3), 60, np.uint8)
    seen = camera.see(ArrayRaster(pixels)).read(Box(0, 0, 1, 2))
    assert seen.tolist() == [[[90] * 3, [45] * 3]]


def test_frames_of_one_row_hold_for_every_row(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "LARGE", 1)
    white = stored(tmp_path, "white.png", np.array([[50, 100, 150]], np.uint8))
    camera = Camera.of(steps=[f"flat_field:reference={white}"])
    for tiled in (False, True):
        seen = camera.see(ArrayRaster(np.full((5, 3, 3), 60, np.uint8)), tiled=tiled).read(Box(3, 1, 2, 2))
        assert seen.tolist() == [[[60] * 3, [40] * 3]] * 2
    message = re.escape(f"{white} is 1x3, the image is 5x4 (height x width)")
    with pytest.raises(DataError, match=f"^{message}$") as caught:
        camera.see(ArrayRaster(noise(1, 5, 4, 3)))
    assert caught.value.help == "Reference frames must have the size of the images, or one row of their width."


def test_grey_and_colour_frames_are_averaged(tmp_path):
    (tmp_path / "white").mkdir()
    stored(tmp_path, "white/1.tiff", np.array([[100, 50]], np.uint8))
    stored(tmp_path, "white/2.tiff", np.array([[[100, 150, 200], [150, 150, 150]]], np.uint8))
    gain = Camera.of(steps=[f"flat_field:reference={tmp_path / 'white'}"]).arrays["flat_field.0.gain"]
    # Means of the two: 100, 125, 150 and 100, 100, 100.
    assert np.allclose(gain, [[[1, 0.9, 125 / 150], [1, 1.125, 1.25]]])


def test_frames_that_cannot_be_used_are_told(tmp_path):
    white = stored(tmp_path, "white.png", np.full((4, 5), 100, np.uint8))
    black = stored(tmp_path, "black.png", np.zeros((4, 5), np.uint8))
    small = stored(tmp_path, "small.png", np.zeros((3, 5), np.uint8))
    (tmp_path / "empty").mkdir()
    (tmp_path / "mixed").mkdir()
    one = stored(tmp_path, "mixed/1.png", np.full((4, 5), 100, np.uint8))
    two = stored(tmp_path, "mixed/2.png", np.full((4, 6, 3), 100, np.uint8))
    cases = [
        (f"reference={tmp_path / 'none.png'}", f"{tmp_path / 'none.png'}: no such file"),
        (
            f"reference={tmp_path / 'empty'}",
            f"{tmp_path / 'empty'}: no image in this folder, expected reference frames",
        ),
        (
            f"reference={tmp_path / 'mixed'}",
            f"{two} is 4x6, {one} is 4x5 (height x width)",
        ),
        (
            f"reference={black}",
            f"{black}: a channel of the flat field is nowhere brighter than the dark frame (0 without one)",
        ),
        (
            f"reference={white},dark={white}",
            f"{white}: a channel of the flat field is nowhere brighter than the dark frame (0 without one)",
        ),
        (f"reference={white},dark={small}", f"{small} is 3x5, {white} is 4x5 (height x width)"),
    ]
    for params, message in cases:
        with pytest.raises(DataError) as caught:
            Camera.of(steps=[f"flat_field:{params}"])
        assert str(caught.value) == message


# ---- kept and restored


def test_a_restored_camera_sees_the_same_without_any_file(tmp_path):
    flat = flat_frames(tmp_path, 30, 40)
    mask = stored(tmp_path, "roi.png", (noise(50, 30, 40) > 60).astype(np.uint8))
    spots = stored(tmp_path, "spots.png", (noise(51, 30, 40) > 240).astype(np.uint8))
    camera = Camera.of(
        intensity="window:0.1,4095",
        steps=["gray_world", flat, "industrial-uneven-light"],
        roi=mask,
        ignore=["box:1,1,3,3", spots],
    )
    image = noise(52, 30, 40, 3)
    extent = camera.extent(Size(30, 40))
    before = camera.see(ArrayRaster(image)).read(extent)
    arrays, facts = camera.state()
    assert sorted(arrays) == ["flat_field.1.dark", "flat_field.1.gain", "ignore.1", "roi"]
    assert {array.dtype.name for array in arrays.values()} == {"float32", "uint8"}
    text = json.dumps(facts, allow_nan=False)
    for path in sorted(tmp_path.rglob("*.png")):
        path.unlink()
    restored = Camera.restore({name: array.copy() for name, array in arrays.items()}, json.loads(text))
    assert restored == camera
    assert restored.extent(Size(30, 40)) == extent
    assert np.array_equal(restored.see(ArrayRaster(image)).read(extent), before)
    again, same = Camera.restore({**arrays, "bank": np.zeros(3)}, facts).state()
    assert same == facts
    assert sorted(again) == sorted(arrays)


def test_a_state_is_small_where_there_is_nothing_and_holds_every_setting():
    assert Camera().state() == ({}, {"window": None, "raw": None, "steps": [], "roi": None, "ignore": []})
    camera = Camera(
        window=Window(0.1, 1 / 3),
        raw=RawLayout(None, 25000, 3, "uint16"),
        steps=(Step("max_rgb", (("percentile", 99.9),)), Step("gray_world")),
        roi=Area("box:0,0,5,5"),
    )
    arrays, facts = camera.state()
    assert arrays == {}
    assert Camera.restore({}, json.loads(json.dumps(facts))) == camera
    assert Camera.restore(*Camera().state()).is_plain


def test_the_arrays_of_a_state_lie_as_safetensors_writes_them():
    turned = np.asfortranarray(np.arange(12, dtype=np.float32).reshape(2, 2, 3))
    camera = Camera(
        steps=(Step("flat_field", (("reference", "x.png"), ("dark", ""))),),
        roi=Area("roi.png", np.asfortranarray(np.eye(2, dtype=np.uint8))),
        arrays={"flat_field.0.gain": turned, "flat_field.0.dark": turned},
    )
    arrays, _ = camera.state()
    assert len(arrays) == 3
    assert all(array.flags.c_contiguous for array in arrays.values())
    assert np.array_equal(arrays["flat_field.0.gain"], turned)


def test_a_state_without_an_array_that_it_needs_is_refused(tmp_path):
    mask = stored(tmp_path, "roi.png", np.ones((3, 3), np.uint8))
    arrays, facts = Camera.of(roi=mask, steps=[flat_frames(tmp_path, 3, 3)]).state()
    assert len(arrays) == 3
    for name in arrays:
        left = {key: array for key, array in arrays.items() if key != name}
        with pytest.raises(ValueError, match=f'needs the array "{re.escape(name)}"'):
            Camera.restore(left, facts)
    bare = Camera(steps=(Step("flat_field", (("reference", "x.png"), ("dark", ""))),))
    with pytest.raises(
        ValueError, match=r'^a camera with these steps needs the array "flat_field.0.gain": make it with Camera.of$'
    ):
        bare.see(ArrayRaster(noise(1, 3, 3, 3)))


# ---- opening


def test_a_camera_opens_images_through_its_window(tmp_path):
    path = stored(tmp_path, "deep.png", np.array([[0, 1000, 2000, 4000, 9000]], np.uint16))
    camera = Camera.of(intensity="window:1000,4000")
    raster = camera.open(path)
    assert raster.read(Box(0, 0, 1, 5))[0, :, 1].tolist() == [0, 0, 85, 255, 255]
    raster.close()
    full = Camera().open(path)
    assert full.read(Box(0, 0, 1, 5))[0, :, 0].tolist() == [0, 4, 8, 16, 35]
    full.close()


def test_a_camera_opens_raw_files_by_their_layout(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "LARGE", 1)
    pixels = noise(60, 6, 4, 3)
    (tmp_path / "line.raw").write_bytes(pixels.tobytes())
    camera = Camera.of(raw="*x4x3:uint8", steps=["gray_world"])
    assert camera.raw == RawLayout(None, 4, 3, "uint8")
    raster = camera.open(str(tmp_path / "line.raw"))
    assert raster.size == Size(6, 4)
    seen = camera.see(raster, tiled=True).read(Box(0, 0, 6, 4))
    assert np.array_equal(seen, gray_world_white_balance(pixels))
    raster.close()
