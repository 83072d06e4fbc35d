"""Cosine distances to reference patches: by hand, against plain numpy, without an image's own patches, without torch."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from uadctl.memory import CosineBank, unit_length

BACKENDS = ("torch", "numpy")


def test_vectors_are_brought_to_length_one_and_nothing_stays_nothing():
    long = np.array([[3, 4], [0, 0], [1e-20, 0], [3e30, 4e30]], np.float32)
    np.testing.assert_allclose(unit_length(long), [[0.6, 0.8], [0, 0], [1, 0], [0.6, 0.8]], rtol=1e-6)
    with pytest.raises(ValueError, match="^features contain NaN or infinity$"):
        unit_length(np.array([[np.nan, 1]], np.float32))


@pytest.mark.parametrize("backend", BACKENDS)
def test_distances_by_hand(backend):
    bank = CosineBank(backend=backend).fit([np.array([[2, 0]], np.float32), np.array([[0, 1], [-1, 0]], np.float32)])
    queries = np.array([[5, 0], [1, 1], [0, -3], [3, 4]], np.float32)
    # 1 - cos to the nearest of the directions right, up, left.
    np.testing.assert_allclose(bank.distances(queries), [0, 1 - 0.5**0.5, 1, 0.2], atol=1e-6)
    # Without the first image there is no direction right; without the second, only that.
    np.testing.assert_allclose(bank.distances(queries, without=0), [1, 1 - 0.5**0.5, 1, 0.2], atol=1e-6)
    np.testing.assert_allclose(bank.distances(queries, without=1), [0, 1 - 0.5**0.5, 1, 0.4], atol=1e-6)
    assert bank.counts == [1, 2]


@pytest.mark.parametrize("backend", BACKENDS)
def test_several_neighbours_are_averaged_and_clamped_to_the_bank(backend):
    images = [np.array([[1, 0]], np.float32), np.array([[0, 1]], np.float32), np.array([[-1, 0]], np.float32)]
    query = np.array([[1, 0]], np.float32)
    for k, expected in ((1, 0.0), (2, 0.5), (3, 1.0), (99, 1.0)):
        assert CosineBank(backend=backend, n_neighbors=k).fit(images).distances(query)[0] == pytest.approx(expected)


@pytest.mark.parametrize("backend", BACKENDS)
def test_distances_are_those_of_plain_cosines(backend):
    rng = np.random.default_rng(1)
    images = [rng.normal(size=(n, 24)).astype(np.float32) for n in (40, 1, 77)]
    queries = rng.normal(size=(50, 24)).astype(np.float32)
    bank = CosineBank(backend=backend, n_neighbors=4).fit(images)
    for without in (None, 0, 1, 2):
        kept = np.concatenate([x for i, x in enumerate(images) if i != without]).astype(np.float64)
        cos = (queries.astype(np.float64) @ kept.T) / np.linalg.norm(kept, axis=1)
        cos /= np.linalg.norm(queries.astype(np.float64), axis=1)[:, None]
        expected = np.sort(1 - cos, axis=1)[:, :4].mean(axis=1)
        np.testing.assert_allclose(bank.distances(queries, without=without), expected, rtol=1e-5, atol=1e-7)


def test_what_was_held_is_restored_to_the_bit():
    rng = np.random.default_rng(2)
    bank = CosineBank(backend="numpy").fit([rng.normal(size=(9, 5)).astype(np.float32) for _ in range(3)])
    again = CosineBank(backend="numpy")
    again.restore(bank.vectors, bank.counts)
    queries = rng.normal(size=(4, 5)).astype(np.float32)
    np.testing.assert_array_equal(again.distances(queries, without=1), bank.distances(queries, without=1))


def test_numpys_search_imports_no_torch():
    code = (
        "import sys; import numpy as np; from uadctl.memory.cosine import CosineBank;"
        "b = CosineBank(backend='numpy').fit([np.eye(3, dtype=np.float32)]); b.distances(np.ones((1, 3), np.float32));"
        "print([m for m in ('torch', 'sklearn', 'faiss') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
