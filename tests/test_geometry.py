"""The size a model sees, and the way back: what lines up, what is bounded, what is refused."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from uadctl.errors import DataError
from uadctl.imaging.geometry import Box, Geometry, View
from uadctl.records import Size

cv2 = pytest.importorskip("cv2", reason="resizing needs OpenCV")

SIZES = [
    # original, stride, size 256 becomes
    ((900, 900), 16, (256, 256)),
    ((500, 1250), 16, (160, 400)),
    ((1250, 500), 16, (400, 160)),
    ((500, 1250), 1, (162, 405)),
    ((1024, 1000), 16, (256, 256)),
    ((100, 100), 32, (256, 256)),
    ((1, 30000), 16, (16, 4096)),
    ((30000, 1), 16, (4096, 16)),
    ((1, 1), 8, (256, 256)),
]


@pytest.mark.parametrize(("original", "stride", "expected"), SIZES)
def test_size_keeps_the_aspect_and_the_area(original: tuple[int, int], stride: int, expected: tuple[int, int]) -> None:
    view = Geometry(size=256, stride=stride).plan(original)
    assert view.size == view.resized == expected
    assert view.box == Box(0, 0, *expected)
    assert not view.cropped


@given(st.integers(1, 10**6), st.integers(1, 10**6), st.integers(1, 600), st.sampled_from([1, 8, 14, 16, 32]))
def test_the_area_is_bounded_whatever_the_aspect(height: int, width: int, size: int, stride: int) -> None:
    resized = Geometry(size=size, stride=stride).plan((height, width)).resized
    assert resized.height % stride == resized.width % stride == 0
    assert min(resized) >= stride
    assert resized.height * resized.width <= 16 / 9 * max(size, stride) ** 2


def test_resize_and_crop_give_the_papers_view() -> None:
    view = Geometry(resize=(256, 256), crop=(224, 224)).plan((900, 700))
    assert view == View(Size(900, 700), Size(256, 256), Box(16, 16, 224, 224))
    assert view.size == Size(224, 224)
    assert view.cropped
    uneven = Geometry(size=None, crop=(3, 4)).plan((8, 9))
    assert uneven.box == Box(2, 2, 3, 4)


def test_without_settings_the_image_is_handed_on_itself() -> None:
    image = np.zeros((7, 9, 3), np.uint8)
    field = np.zeros((7, 9), np.float32)
    view = Geometry(size=None).plan((7, 9))
    assert view.apply(image) is image
    assert view.back(field) is field


def test_settings_that_exclude_each_other_or_are_not_positive_are_refused() -> None:
    with pytest.raises(ValueError, match=r"^size \(300\) and resize \(10, 20\) exclude each other$"):
        Geometry(size=300, resize=(10, 20))
    with pytest.raises(ValueError, match=r"^crop must be two positive numbers, height and width, found \(0, 20\)$"):
        Geometry(crop=(0, 20))
    with pytest.raises(ValueError, match=r"^size must be positive, found 0$"):
        Geometry(size=0)
    with pytest.raises(ValueError, match=r"^stride must be positive, found 0$"):
        Geometry(stride=0)
    with pytest.raises(ValueError, match=r"^an image of 0x5 \(height x width\) has no pixels$"):
        Geometry().plan((0, 5))
    assert Geometry(resize=(10, 20)) == Geometry(size=None, resize=Size(10, 20))


def test_a_crop_larger_than_the_image_is_refused_with_the_sizes() -> None:
    with pytest.raises(DataError) as caught:
        Geometry(size=256, crop=(224, 224), stride=16).plan((500, 1250))
    assert str(caught.value) == (
        "a crop of 224x224 does not fit into 160x400, the size of the preprocessed image "
        "(height x width; the file has 500x1250)"
    )


def test_an_image_of_another_size_than_planned_is_refused() -> None:
    view = Geometry().plan((10, 20))
    with pytest.raises(ValueError, match=r"^planned for 10x20 \(height x width\), found 20x10$"):
        view.apply(np.zeros((20, 10, 3), np.uint8))
    with pytest.raises(ValueError, match=r"^a map must be a non-empty \(h, w\) array, found \(3, 4, 1\)$"):
        view.back(np.zeros((3, 4, 1), np.float32))


def test_shrinking_averages_each_direction_by_itself() -> None:
    stripes = np.zeros((16, 6, 3), np.uint8)
    stripes[::4] = 200  # one row of four: only an average of areas gives 50
    both = Geometry(resize=(4, 3)).plan((16, 6)).apply(stripes)
    rows_only = Geometry(resize=(4, 12)).plan((16, 6)).apply(stripes)
    assert both.shape == (4, 3, 3)
    assert rows_only.shape == (4, 12, 3)
    assert (both == 50).all()
    assert (rows_only == 50).all()


def test_enlarging_interpolates_between_pixel_centres() -> None:
    image = np.array([[0, 100]], np.uint8)
    assert Geometry(resize=(1, 4)).plan((1, 2)).apply(image).tolist() == [[0, 25, 75, 100]]


GEOMETRIES = [
    Geometry(size=256, stride=16),
    Geometry(size=256, stride=16, crop=(112, 144)),
    Geometry(resize=(256, 256), crop=(224, 224)),
    Geometry(resize=(96, 300)),
    Geometry(size=None, crop=(211, 175)),
    Geometry(size=None),
    Geometry(size=600),
]
ORIGINALS = [(300, 300), (251, 397), (400, 233)]


def centroid(field: np.ndarray) -> np.ndarray:
    weights = np.nan_to_num(field.astype(np.float64))
    rows, columns = np.indices(field.shape)
    return np.array([(weights * rows).sum(), (weights * columns).sum()]) / weights.sum()


@pytest.mark.parametrize("geometry", GEOMETRIES)
@pytest.mark.parametrize("original", ORIGINALS)
@pytest.mark.parametrize("patch", [1, 8])
def test_a_bump_comes_back_to_where_it_was(geometry: Geometry, original: tuple[int, int], patch: int) -> None:
    view = geometry.plan(original)
    rows, columns = np.indices(original)
    for y, x in ((0.5, 0.5), (0.42, 0.61)):
        y0, x0 = y * original[0], x * original[1]
        bump = np.exp(-((rows - y0) ** 2 + (columns - x0) ** 2) / (2 * 12**2)) * 255
        seen = view.apply(np.rint(bump).astype(np.uint8)).astype(np.float32)
        if patch > 1:  # a patch grid that covers the same view
            grid = (max(1, view.size.height // patch), max(1, view.size.width // patch))
            seen = cv2.resize(seen, grid[::-1], interpolation=cv2.INTER_AREA)
        back = view.back(seen)
        assert back.shape == original
        assert back.dtype == np.float32
        expected = centroid(np.where(np.isnan(back), 0, bump))
        assert np.abs(centroid(back) - expected).max() < (0.1 if patch == 1 else 0.5)
        if patch == 1:
            assert np.nanmax(np.abs(back - bump)) < 12


@pytest.mark.parametrize("original", ORIGINALS)
def test_what_lies_outside_the_crop_has_no_score(original: tuple[int, int]) -> None:
    view = Geometry(resize=(256, 256), crop=(224, 200)).plan(original)
    back = view.back(np.ones(view.size, np.float32))
    rows = (np.arange(original[0]) + 0.5) * 256 / original[0]
    columns = (np.arange(original[1]) + 0.5) * 256 / original[1]
    inside = ((rows >= 16) & (rows < 240))[:, None] & ((columns >= 28) & (columns < 228))
    assert np.array_equal(~np.isnan(back), inside)
    assert 0 < inside.sum() < inside.size
    assert (back[inside] == 1).all()


def test_a_crop_and_its_whole_give_the_same_scores_inside() -> None:
    whole = Geometry(resize=(60, 80)).plan((211, 333))
    crop = Geometry(resize=(60, 80), crop=(40, 50)).plan((211, 333))
    field = np.random.default_rng(0).normal(size=(60, 80)).astype(np.float32)
    y0, x0, height, width = crop.box
    inner = crop.back(field[y0 : y0 + height, x0 : x0 + width])
    # Half a cell from the crop's edge on, both interpolate between the same cells.
    rows = (np.arange(211) + 0.5) * 60 / 211
    columns = (np.arange(333) + 0.5) * 80 / 333
    deep = ((rows > y0 + 0.5) & (rows < y0 + height - 0.5))[:, None] & (
        (columns > x0 + 0.5) & (columns < x0 + width - 0.5)
    )
    assert deep.sum() > 10000
    np.testing.assert_allclose(inner[deep], whole.back(field)[deep], atol=1e-4)


def test_a_gradient_comes_back_as_the_same_gradient() -> None:
    view = Geometry(resize=(64, 96), crop=(64, 80)).plan((128, 288))
    columns = (np.arange(80) + view.box.x0 + 0.5) * 3  # in pixels of the file
    back = view.back(np.broadcast_to(columns, (64, 80)).astype(np.float32))
    inside = np.flatnonzero(~np.isnan(back[0]))[2:-2]
    np.testing.assert_allclose(back[5, inside], inside + 0.5, atol=1e-3)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 60), st.integers(1, 60), st.integers(1, 40), st.integers(1, 40))
def test_any_size_comes_back_as_the_file_has_it(height: int, width: int, crop_height: int, crop_width: int) -> None:
    view = Geometry(resize=(40, 40), crop=(crop_height, crop_width)).plan((height, width))
    assert view.apply(np.zeros((height, width, 3), np.uint8)).shape == (crop_height, crop_width, 3)
    back = view.back(np.zeros(view.size, np.float32))
    assert back.shape == (height, width)
    assert np.isnan(back).all() or np.nanmax(np.abs(back)) == 0
