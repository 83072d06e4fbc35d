"""Every backend finds the same neighbours."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from uadctl.errors import BackendMissing, RunError
from uadctl.memory import KNNIndex, make_index

BACKENDS = ("torch", "numpy", "sklearn", "faiss")


def index(backend: str, **options) -> KNNIndex:
    if backend in ("sklearn", "faiss"):
        pytest.importorskip(backend, reason=f"the backend {backend} needs {backend}")
    return make_index(backend, **options)


def patches(n: int, dim: int, *, axes: int = 6, seed: int = 0) -> np.ndarray:
    """Vectors like patch features: most of their variance on a few axes, far from the origin, many near copies."""
    rng = np.random.default_rng([seed, n])
    base = rng.standard_normal((n, axes)) @ np.random.default_rng(dim).standard_normal((axes, dim))
    base[n // 2 :] = base[: n - n // 2] + 0.01 * rng.standard_normal((n - n // 2, dim))
    return (base + 0.05 * rng.standard_normal((n, dim)) + 20).astype(np.float32)


def exhaustive(bank: np.ndarray, queries: np.ndarray, exclude: slice | None = None) -> np.ndarray:
    """All distances, in float64."""
    every = np.stack([np.linalg.norm(bank.astype(np.float64) - q.astype(np.float64), axis=1) for q in queries])
    if exclude is not None:
        every[:, exclude] = np.inf
    return every


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


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("dim", [5, 64, 300])
@pytest.mark.parametrize("n", [1, 63, 1500])
@pytest.mark.parametrize("k", [1, 4])
def test_filtering_never_loses_the_nearest(precision, dim, n, k):
    bank, queries = patches(n, dim), patches(700, dim, seed=1)
    queries[:40] = bank[np.arange(40) % n]
    queries[40:60] += 100  # far away, as defects are
    distance, neighbor = make_index("torch", precision=precision).fit(bank).kneighbors(queries, k)
    every = exhaustive(bank, queries)
    k = min(k, n)
    np.testing.assert_allclose(distance, np.sort(every, axis=1)[:, :k], rtol=1e-5, atol=1e-4)
    np.testing.assert_allclose(np.take_along_axis(every, neighbor, axis=1), distance, rtol=1e-5, atol=1e-4)


def test_patches_are_filtered_and_noise_is_not():
    noise = np.random.default_rng(0).standard_normal((2000, 64)).astype(np.float32)
    assert make_index().fit(patches(2000, 64))._search.width < 32
    assert make_index().fit(noise)._search.width == 64


def test_a_bound_is_never_above_the_distance():
    from uadctl.memory.filtered import _SLACK, FilteredSearch

    for precision in ("fp32", "bf16"):
        search = FilteredSearch(device="cpu", precision=precision)
        bank, queries = torch.from_numpy(patches(1600, 200)), torch.from_numpy(patches(100, 200, seed=1))
        search.fit(bank)
        p = search._filter.narrow(queries - search._origin)
        own = (p * p).sum(dim=1)
        least = search._block_minima(p, search._filter.norms).double() + own
        squared = torch.from_numpy(exhaustive(bank.numpy(), queries.numpy())).square()
        true = squared.T.reshape(100, 16, 100).amin(dim=1)
        slack = _SLACK[precision] * (own + true)
        assert bool((least <= true + slack).all())
        assert bool((least > true - 0.2 * own).any())  # and says something


@pytest.mark.parametrize("apart", [1, 40])
def test_the_nearest_is_found_behind_a_row_whose_bound_is_lower(apart):
    # The bound knows of what is off the leading axes only how long it is: a row that is as long there in the opposite
    # direction looks like the query itself. The true neighbour is near, but not so near. Both in one block, or not.
    rng = np.random.default_rng(0)
    n, leading = 8000, 6
    bank = np.zeros((n + apart, 64), np.float32)
    bank[:, :leading] = 10 * rng.standard_normal((n + apart, leading))
    bank[:, leading:] = 0.1 * rng.standard_normal((n + apart, 58))
    queries = bank[:n:500].copy()
    for i, query in zip(range(0, n, 500), queries, strict=True):
        bank[i, leading:] *= -1
        bank[i + apart] = query
        bank[i + apart, 0] += 1
    made = make_index().fit(bank)
    assert made._search.width < 64
    _, neighbor = made.kneighbors(queries, 1)
    assert neighbor[:, 0].tolist() == list(range(apart, n + apart, 500))


def test_a_bank_of_copies_is_searched_without_looking_at_each(monkeypatch):
    from uadctl.memory.filtered import FilteredSearch

    inner = FilteredSearch._inner
    bank = np.repeat(patches(4, 48), 800, axis=0)
    queries = patches(300, 48, seed=1)
    looked = []
    monkeypatch.setattr(
        FilteredSearch,
        "_inner",
        lambda self, blocks, p, norms: looked.append(len(blocks)) or inner(self, blocks, p, norms),
    )
    distance, neighbor = make_index().fit(bank).kneighbors(queries, 1)
    assert sum(looked) < 40 * len(queries)  # of 200 blocks
    every = exhaustive(bank, queries)
    np.testing.assert_allclose(distance[:, 0], every.min(axis=1), rtol=1e-5)
    assert (neighbor % 800 == 0).all()  # the first of the equally near


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("k", [1, 3])
def test_excluded_rows_are_never_found(backend, k):
    bank = patches(600, 40)
    queries = bank[100:200]
    for exclude in (slice(100, 200), slice(0, 590), slice(7, 7), None):
        distance, neighbor = index(backend).fit(bank).kneighbors(queries, k, exclude=exclude)
        np.testing.assert_allclose(
            distance, np.sort(exhaustive(bank, queries, exclude), axis=1)[:, :k], rtol=1e-4, atol=1e-4
        )
        if exclude is not None:
            assert not ((neighbor >= exclude.start) & (neighbor < exclude.stop)).any()


@pytest.mark.parametrize("backend", BACKENDS)
def test_k_is_clamped_to_what_is_not_excluded(backend):
    distance, neighbor = (
        index(backend).fit(np.eye(5, dtype=np.float32)).kneighbors(np.zeros((2, 5), np.float32), 9, exclude=slice(1, 4))
    )
    assert distance.shape == (2, 2)
    assert sorted(neighbor[0].tolist()) == [0, 4]
    with pytest.raises(ValueError, match=r"^exclude \(0:5\) leaves nothing of a bank of 5 rows$"):
        index(backend).fit(np.eye(5, dtype=np.float32)).kneighbors(np.zeros((1, 5), np.float32), exclude=slice(0, 9))


@pytest.mark.parametrize("kind", ["ivf", "ivfpq"])
def test_inverted_files_find_most_neighbours_and_say_their_true_distances(kind):
    bank, queries = patches(6000, 32), patches(400, 32, seed=1)
    made = index("faiss", faiss_index=kind).fit(bank)
    for k, exclude in ((1, None), (5, slice(1000, 3000))):
        distance, neighbor = made.kneighbors(queries, k, exclude=exclude)
        every = exhaustive(bank, queries, exclude)
        np.testing.assert_allclose(np.take_along_axis(every, neighbor, axis=1), distance, rtol=1e-4)
        assert (np.diff(distance, axis=1) >= 0).all()
        right = distance[:, -1] <= np.sort(every, axis=1)[:, k - 1] * (1 + 1e-5)
        assert right.mean() > 0.8


def test_a_memory_mapped_bank_is_not_copied_by_compressed_indexes(tmp_path):
    pytest.importorskip("faiss", reason="the backend faiss needs faiss")
    np.save(tmp_path / "bank.npy", patches(6000, 32))
    bank = np.load(tmp_path / "bank.npy", mmap_mode="c")
    made = make_index("faiss", faiss_index="ivfpq").fit(bank)
    assert np.shares_memory(made._search._bank, bank)


def test_verification_sees_a_wrong_neighbour(monkeypatch):
    from uadctl.memory.filtered import FilteredSearch

    bank, queries = patches(1500, 64), patches(200, 64, seed=1)
    made = make_index(verify=True).fit(bank)
    made.kneighbors(queries, 1)
    made.kneighbors(queries, 3, exclude=slice(100, 900))

    def wrong(self, q, norms):
        squared, row = right(self, q, norms)
        squared[5], row[5] = self._squared(q[5][None], torch.tensor([0])), 0
        return squared, row

    right = FilteredSearch._nearest
    monkeypatch.setattr(FilteredSearch, "_nearest", wrong)
    with pytest.raises(
        RunError, match=r"^nearest neighbours: 1 of 200 queries differ from an exhaustive search in float64$"
    ):
        made.kneighbors(queries, 1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"precision": "fp8"}, "knn_precision 'fp8' is unknown; choose one of: fp32, bf16, auto"),
        ({"backend": "faiss", "faiss_index": "hnsw"}, "faiss_index 'hnsw' is unknown; choose one of: flat, ivf, ivfpq"),
        ({"backend": "numpy", "verify": True}, "knn_verify is for knn_backend \"torch\", found 'numpy'"),
        ({"backend": "faiss", "precision": "auto"}, "knn_precision 'auto' is for knn_backend \"torch\", found 'faiss'"),
        ({"faiss_index": "ivf"}, "faiss_index 'ivf' is for knn_backend \"faiss\", found 'torch'"),
    ],
)
def test_refuses_what_a_backend_would_ignore(options, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        KNNIndex(**options)


def test_automatic_precision_is_bf16_only_where_there_are_matrix_units(monkeypatch):
    for units, expected in ((True, "bf16"), (False, "fp32")):
        monkeypatch.setattr("uadctl.memory.index.has_matrix_units", lambda device, units=units: units)
        assert make_index(precision="auto")._search._precision == expected


def test_axes_of_a_large_covariance_are_orthonormal_and_carry_its_variance():
    from uadctl.memory.filtered import _principal_axes

    rng = np.random.default_rng(0)
    x = torch.from_numpy(rng.standard_normal((900, 400)) * 0.9 ** np.arange(400))
    covariance = x.T @ x
    found = _principal_axes(covariance, 60)
    assert found.shape == (400, 60)
    torch.testing.assert_close(found.T @ found, torch.eye(60, dtype=torch.float64), atol=1e-12, rtol=0)
    best = torch.linalg.eigvalsh(covariance).flip(0)[:60].sum()
    assert float(torch.trace(found.T @ covariance @ found) / best) > 1 - 1e-6
    torch.testing.assert_close(_principal_axes(covariance, 300)[:, :3].abs(), found[:, :3].abs(), atol=1e-6, rtol=0)


def test_a_wide_bank_is_searched_exactly():
    bank, queries = patches(3000, 900, axes=10), patches(50, 900, axes=10, seed=1)
    made = make_index(verify=True).fit(bank)
    assert made._search.width < 100
    made.kneighbors(queries, 1)
    made.kneighbors(queries, 5)


def test_what_the_filter_gives_up_on_is_searched_without_the_excluded_rows(monkeypatch):
    from uadctl.memory import filtered

    bank, queries = patches(4000, 64), patches(60, 64, seed=1)
    made = make_index().fit(bank)
    assert made._search.width < 64
    monkeypatch.setattr(filtered, "_INNER", 10**9)  # looking into any block costs too much
    for exclude in (None, slice(500, 3900)):
        distance, neighbor = made.kneighbors(queries, 1, exclude=exclude)
        np.testing.assert_allclose(distance[:, 0], exhaustive(bank, queries, exclude).min(axis=1), rtol=1e-4)
        assert exclude is None or not ((neighbor >= 500) & (neighbor < 3900)).any()
