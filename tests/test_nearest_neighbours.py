"""Every backend finds the same neighbours."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from uadctl.errors import BackendMissing
from uadctl.memory import KNNIndex, make_index

BACKENDS = ("torch", "numpy", "sklearn", "faiss")


def index(backend: str) -> KNNIndex:
    if backend in ("sklearn", "faiss"):
        pytest.importorskip(backend, reason=f"the backend {backend} needs {backend}")
    return make_index(backend)


@pytest.mark.parametrize("backend", BACKENDS)
def test_finds_the_hand_computed_neighbours(backend):
    bank = np.array([[0, 0], [3, 4], [6, 8]], np.float32)
    distance, neighbor = index(backend).fit(bank).kneighbors(np.array([[0, 0], [3, 5]], np.float32), 2)
    np.testing.assert_allclose(distance, [[0, 5], [1, np.sqrt(18)]], rtol=1e-6)
    assert neighbor.tolist() == [[0, 1], [1, 2]]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("k", [1, 9])
def test_equals_all_pairs_in_float64(backend, k):
    rng = np.random.default_rng(0)
    bank = (rng.standard_normal((700, 24)) + 50).astype(np.float32)  # norms large against distances
    queries = (rng.standard_normal((1500, 24)) + 50).astype(np.float32)
    every = np.linalg.norm(queries[:, None].astype(np.float64) - bank[None], axis=2)
    distance, neighbor = index(backend).fit(bank).kneighbors(queries, k)
    np.testing.assert_allclose(distance, np.sort(every, axis=1)[:, :k], rtol=1e-5)
    np.testing.assert_allclose(np.take_along_axis(every, neighbor, axis=1), distance, rtol=1e-5)


def test_distance_to_itself_is_zero_not_a_rounding_error():
    bank = (np.random.default_rng(1).standard_normal((50, 64)) * 10).astype(np.float32)
    distance, neighbor = make_index("torch").fit(bank).kneighbors(bank, 1)
    assert distance.max() == 0
    assert neighbor[:, 0].tolist() == list(range(50))


@pytest.mark.parametrize("backend", BACKENDS)
def test_clamps_k_to_the_bank(backend):
    distance, neighbor = index(backend).fit(np.eye(3, dtype=np.float32)).kneighbors(np.zeros((1, 3), np.float32), 9)
    assert distance.shape == neighbor.shape == (1, 3)
    assert sorted(neighbor[0].tolist()) == [0, 1, 2]


@pytest.mark.parametrize("backend", BACKENDS)
def test_answers_tensors_with_tensors(backend):
    distance, neighbor = index(backend).fit(torch.eye(3)).kneighbors(torch.eye(3), 1)
    assert isinstance(distance, torch.Tensor)
    assert neighbor[:, 0].tolist() == [0, 1, 2]


def test_refuses_an_unknown_backend():
    with pytest.raises(
        ValueError, match=r"^knn_backend 'annoy' is unknown; choose one of: torch, numpy, sklearn, faiss$"
    ):
        make_index("annoy")  # type: ignore[arg-type]


def test_names_the_extra_of_a_missing_library(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "faiss", None)
    with pytest.raises(BackendMissing, match=r"pip install 'uadctl\[faiss\]'"):
        make_index("faiss").fit(np.eye(3, dtype=np.float32))


def test_refuses_to_search_before_fit_an_empty_bank_and_k_of_zero():
    with pytest.raises(RuntimeError, match=r"^KNNIndex is not fitted; call fit\(bank\) first$"):
        make_index().kneighbors(np.eye(3, dtype=np.float32), 1)
    with pytest.raises(ValueError, match=r"^the bank must be a non-empty \(n, d\) array, found shape \(0, 3\)$"):
        make_index().fit(np.empty((0, 3), np.float32))
    with pytest.raises(ValueError, match=r"^k \(=0\) must be at least 1$"):
        make_index().fit(np.eye(3, dtype=np.float32)).kneighbors(np.eye(3, dtype=np.float32), 0)
