"""An image as one row of numbers: what each is, on images small enough to count by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from uadctl.features.pooled import histogram, pixels, pool


def test_pooling_takes_the_mean_of_each_channel_over_all_places():
    first = torch.tensor([[[[1.0, 2.0], [3.0, 6.0]], [[0.0, 0.0], [0.0, 1.0]]]])
    second = torch.tensor([[[[5.0]]]])
    rows = pool([first, second])
    assert rows.dtype == np.float64
    assert rows.tolist() == [[3.0, 0.25, 5.0]]


def test_a_row_is_as_long_whatever_the_size_of_the_maps():
    assert pool([torch.ones(2, 3, 4, 5), torch.ones(2, 7, 2, 2)]).shape == (2, 10)
    assert pool([torch.ones(1, 3, 9, 1), torch.ones(1, 7, 3, 1)]).shape == (1, 10)


def test_the_sum_of_a_large_map_does_not_lose_what_is_small():
    field = torch.full((1, 1, 512, 512), 0.1)
    assert pool([field])[0, 0] == float(np.float32(0.1))


def test_a_histogram_is_the_share_of_the_pixels_in_each_range_red_first():
    image = np.array([[[0, 8, 255], [7, 8, 255], [8, 8, 0], [255, 8, 0]]], np.uint8)
    row = histogram(image)
    assert row.shape == (96,)
    wanted = np.zeros(96)
    wanted[[0, 1, 31]] = 0.5, 0.25, 0.25
    wanted[32 + 1] = 1
    wanted[[64, 95]] = 0.5
    assert row.tolist() == wanted.tolist()


def test_pixels_are_means_of_blocks_row_by_row():
    image = np.zeros((4, 4, 3), np.uint8)
    image[:2, 2:, 0] = 255
    image[2:, :2, 2] = [[0, 51], [51, 102]]
    row = pixels(image, side=2)
    assert row.dtype == np.float64
    assert row.tolist() == [0, 0, 0, 1, 0, 0, 0, 0, 0.2, 0, 0, 0]


@pytest.mark.parametrize("shape", [(1, 1), (3, 50), (200, 7)])
def test_pixels_of_any_image_are_as_many(shape):
    row = pixels(np.full((*shape, 3), 51, np.uint8), side=8)
    assert row.shape == (192,)
    assert row == pytest.approx(0.2)
