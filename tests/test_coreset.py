"""The coreset is the greedy k-center's, whatever the blocks."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from uadctl.memory import coreset as coreset_module
from uadctl.memory import greedy_coreset
from uadctl.memory.coreset import project


def plain_greedy(x: np.ndarray, n_centers: int, first: int) -> list[int]:
    """Farthest-point traversal as it is written in textbooks, in float64."""
    x = x.astype(np.float64)
    chosen = [first]
    nearest = np.linalg.norm(x - x[first], axis=1)
    while len(chosen) < n_centers:
        j = int(nearest.argmax())
        chosen.append(j)
        nearest = np.minimum(nearest, np.linalg.norm(x - x[j], axis=1))
    return chosen


def radius(x: np.ndarray, chosen: np.ndarray) -> float:
    distance = torch.cdist(torch.from_numpy(x).double(), torch.from_numpy(x[chosen]).double())
    return float(distance.min(dim=1).values.max())


def test_picks_the_hand_computed_sequence():
    # On a line: after 0 the farthest is 10, then 4 (4 away from 0), then 7 (3 away from both), then the ends of what
    # is left.
    x = np.array([[0.0], [1.0], [4.0], [7.0], [10.0]], np.float32)
    first = int(np.random.default_rng(0).integers(5))
    expected = plain_greedy(x, 5, first)
    assert greedy_coreset(x, 5, seed=0).tolist() == expected
    assert {tuple(plain_greedy(x, 4, 0))} == {(0, 4, 2, 3)}  # the reference itself, by hand


@pytest.mark.parametrize("pool", [2, 7, 64, 2048])
def test_equals_the_plain_loop_whatever_the_size_of_the_pool(monkeypatch, pool):
    monkeypatch.setattr(coreset_module, "_POOL", pool)
    x = np.random.default_rng(1).standard_normal((600, 12)).astype(np.float32)
    chosen = greedy_coreset(x, 120, projection_dim=0, seed=3)
    assert chosen.dtype == np.int64
    assert chosen.tolist() == plain_greedy(x, 120, int(np.random.default_rng(3).integers(600)))


def test_covers_as_well_as_the_plain_loop_where_rounding_decides_ties():
    x = np.round(np.random.default_rng(2).standard_normal((3000, 6)) * 2).astype(np.float32)
    chosen = greedy_coreset(x, 200, projection_dim=0, seed=0)
    reference = np.array(plain_greedy(x, 200, int(np.random.default_rng(0).integers(3000))))
    assert radius(x, chosen) <= radius(x, reference) * 1.001


def test_takes_no_row_twice_among_duplicates():
    x = np.repeat(np.arange(3, dtype=np.float32)[:, None], 40, axis=0)
    chosen = greedy_coreset(x, 120, seed=0)
    assert sorted(chosen.tolist()) == list(range(120))
    assert set(x[chosen[:3], 0].tolist()) == {0.0, 1.0, 2.0}


def test_far_offset_costs_no_precision():
    x = np.random.default_rng(4).standard_normal((500, 8)).astype(np.float32)
    near = greedy_coreset(x, 50, projection_dim=0, seed=0)
    far = greedy_coreset(x + np.float32(1000), 50, projection_dim=0, seed=0)
    assert len(set(near.tolist()) & set(far.tolist())) >= 45


def test_is_repeatable_and_seeded():
    x = np.random.default_rng(5).standard_normal((400, 200)).astype(np.float32)
    again = [greedy_coreset(x, 40, seed=s).tolist() for s in (0, 0, 1)]
    assert again[0] == again[1] != again[2]


def test_projection_keeps_distances_in_expectation():
    x = torch.from_numpy(np.random.default_rng(6).standard_normal((200, 600)).astype(np.float32))
    y = project(x, 128, seed=0)
    assert y.shape == (200, 128)
    ratio = torch.pdist(y) / torch.pdist(x)
    assert abs(float(ratio.mean()) - 1) < 0.02
    assert float(ratio.std()) < 0.1
    assert project(x, 600, seed=0) is x


@pytest.mark.parametrize(
    ("features", "n", "message"),
    [
        (np.zeros((3, 2), np.float32), 0, r"n_centers \(=0\) must lie in 1..3, the number of features"),
        (np.zeros((3, 2), np.float32), 4, r"n_centers \(=4\) must lie in 1..3, the number of features"),
        (np.zeros((0, 2), np.float32), 1, r"features must be a non-empty \(n, d\) array, found shape \(0, 2\)"),
        (np.full((3, 2), np.nan, np.float32), 1, "features contain NaN or infinity"),
    ],
)
def test_refuses(features, n, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        greedy_coreset(features, n)
