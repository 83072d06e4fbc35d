"""Features are the same whether they fit into memory or not, and so is what is chosen from them."""

from __future__ import annotations

import tempfile

import numpy as np
import pytest
import torch

from uadctl.errors import RunError
from uadctl.memory import FeatureStore, greedy_coreset, random_coreset
from uadctl.memory import store as store_module

ROWS = np.random.default_rng(0).standard_normal((1000, 24)).astype(np.float32)


@pytest.fixture(params=[10**6, 0, 40_000], ids=["memory", "disk", "moves to disk on the way"])
def store(request, monkeypatch):
    monkeypatch.setattr(store_module, "_NUMBERS", 256 * 24)
    with FeatureStore(memory=request.param) as made:
        for start in range(0, 1000, 90):
            made.append(torch.from_numpy(ROWS[start : start + 90]))
        yield made


def test_gives_back_what_was_put_in(store):
    assert len(store) == 1000
    assert store.dim == 24
    for rows in (slice(None), slice(0, 1), slice(250, 260), slice(85, 700), slice(999, 1000)):
        np.testing.assert_array_equal(store[rows].numpy(), ROWS[rows])
    index = np.random.default_rng(1).permutation(1000)[:300]
    np.testing.assert_array_equal(store.rows(index).numpy(), ROWS[index])
    found = [(where, block.numpy().copy()) for where, block in store.blocks()]
    assert len(found) > 1
    np.testing.assert_array_equal(np.concatenate([block for _, block in found]), ROWS)
    assert [where.start for where, _ in found][1:] == [where.stop for where, _ in found][:-1]


def test_can_be_read_between_two_appends(store):
    assert store[990:].shape == (10, 24)
    store.append(torch.from_numpy(ROWS[:50]))
    np.testing.assert_array_equal(store[:].numpy(), np.concatenate([ROWS, ROWS[:50]]))


def test_the_coreset_does_not_depend_on_where_the_features_are(store):
    expected = greedy_coreset(ROWS, 100, projection_dim=8, seed=3)
    assert greedy_coreset(store, 100, projection_dim=8, seed=3).tolist() == expected.tolist()


def test_rows_beyond_the_limit_are_on_disk_and_not_in_memory(monkeypatch):
    monkeypatch.setattr(store_module, "_NUMBERS", 100 * 24)
    with FeatureStore(memory=4 * 24 * 500) as store:
        for start in range(0, 500, 100):
            store.append(torch.from_numpy(ROWS[start : start + 100]))
        assert not store.on_disk
        store.append(torch.from_numpy(ROWS[500:600]))
        assert store.on_disk
        assert not store._blocks
        assert not store._waiting


def test_what_was_handed_out_outlives_the_store():
    with FeatureStore(memory=0) as store:
        store.append(torch.from_numpy(ROWS))
        rows = store[:]
    np.testing.assert_array_equal(rows.numpy(), ROWS)


def test_a_full_disk_is_an_error_that_names_the_folder(monkeypatch):
    def full(**options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(store_module.tempfile, "TemporaryFile", full)
    store = FeatureStore(memory=0)
    store.append(torch.from_numpy(ROWS))
    with pytest.raises(RunError) as caught:
        store[:]
    folder = tempfile.gettempdir()
    assert caught.value.message == (
        f"{folder}: features beyond feature_memory cannot be kept there: [Errno 28] No space left on device"
    )
    assert caught.value.help == "Set TMPDIR to a folder with more room, or raise feature_memory."


def test_a_random_coreset_is_ascending_without_repetition_and_seeded():
    chosen = random_coreset(1000, 300, seed=1)
    assert chosen.dtype == np.int64
    assert len(set(chosen.tolist())) == 300
    assert (np.diff(chosen) > 0).all()
    assert chosen.tolist() == random_coreset(1000, 300, seed=1).tolist() != random_coreset(1000, 300, seed=2).tolist()
    # every row as likely: 300 of 1000 from both halves, within five standard deviations of 150
    assert abs(int((chosen < 500).sum()) - 150) < 5 * 8.7
    with pytest.raises(ValueError, match=r"^n_centers \(=1001\) must lie in 1..1000, the number of features$"):
        random_coreset(1000, 1001)
