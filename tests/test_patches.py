"""From patches to images: the mean of the highest patch scores, the grid, the map; by hand and against numpy's sort."""

from __future__ import annotations

import numpy as np
import pytest

from uadctl.models.patches import aggregate_patch_scores, enlarge, reshape_patch_scores
from uadctl.records import Size


@pytest.mark.parametrize(
    ("n", "method", "topk", "expected"),
    [
        (10, "topk_mean", 0.2, 8.5),  # 9 and 8
        (10, "topk_mean", 0.01, 9.0),  # at least one
        (10, "topk_mean", 0.11, 8.5),  # ceil(1.1)
        (10, "topk_mean", 1.0, 4.5),
        (10, "max", 0.01, 9.0),
        (10, "mean", 0.01, 4.5),
        (1, "topk_mean", 0.01, 0.0),
        (100, "topk_mean", 0.07, 96.0),  # 7 patches, though 0.07 * 100 is 7.000000000000001 in floats
    ],
)
def test_the_score_of_an_image_by_hand(n, method, topk, expected):
    assert aggregate_patch_scores(np.arange(n), method=method, topk=topk) == expected


def test_the_highest_share_is_that_of_a_sorted_list():
    rng = np.random.default_rng(0)
    for n in (1, 7, 99, 1024, 1369):
        scores = rng.random((n, 1)).astype(np.float32)
        highest = np.sort(scores.astype(np.float64).ravel())[::-1]
        for topk in (0.01, 0.05, 0.5):
            count = max(1, int(np.ceil(np.round(n * topk, 9))))
            assert aggregate_patch_scores(scores, topk=topk) == pytest.approx(highest[:count].mean(), rel=1e-12)


@pytest.mark.parametrize(
    ("scores", "settings", "message"),
    [
        ([], {}, "there are no patch scores to aggregate"),
        ([1.0], {"topk": 0.0}, r"topk (=0.0) must lie in (0, 1]"),
        ([1.0], {"topk": 1.5}, r"topk (=1.5) must lie in (0, 1]"),
        ([1.0], {"method": "median"}, "method (='median') must be one of topk_mean, max, mean"),
    ],
)
def test_what_cannot_be_aggregated_is_an_error(scores, settings, message):
    with pytest.raises(ValueError) as error:
        aggregate_patch_scores(scores, **settings)
    assert str(error.value) == message


def test_patch_scores_fill_the_grid_row_by_row():
    field = reshape_patch_scores(range(6), 2, 3)
    assert field.dtype == np.float32
    assert field.tolist() == [[0, 1, 2], [3, 4, 5]]
    with pytest.raises(ValueError, match="^6 patch scores do not fill a grid of 2x2$"):
        reshape_patch_scores(range(6), 2, 2)


def test_a_map_has_the_size_of_its_image_and_keeps_where_things_are():
    field = np.zeros((4, 6), np.float32)
    field[1, 4] = 1
    large = enlarge(field, Size(40, 90), sigma=2.0)
    assert large.shape == (40, 90)
    assert large.dtype == np.float32
    y, x = np.unravel_index(large.argmax(), large.shape)
    assert 10 <= y < 20
    assert 60 <= x < 75
    assert 0 < large.max() < 1
    # Without smoothing a patch's centre keeps its value; an even field stays even up to the border.
    assert enlarge(field, Size(12, 18), sigma=0)[4, 13] == 1
    np.testing.assert_allclose(enlarge(np.full((3, 3), 0.5, np.float32), Size(31, 17), sigma=4.0), 0.5, rtol=1e-6)
