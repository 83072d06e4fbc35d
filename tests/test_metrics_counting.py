"""Counting instead of sorting: keys keep the order of scores, and a pool stands for its scores exactly, however kept."""

from __future__ import annotations

import tracemalloc
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from uadctl import metrics as m
from uadctl.metrics.keys import WIDER, common_zeros, keys32, keys64, narrow_keys, needed_shift, scores32
from uadctl.metrics.pooled import Pool, _Table
from uadctl.metrics.region import label_regions

SPECIAL = [0.0, -0.0, 1e-45, -1e-45, 2.0**-126, -(2.0**-126), 1.0, -1.0, 1.5, 3.4e38, -3.4e38, np.inf, -np.inf]
LIMITS = (0.05, 0.3, 1.0)

narrow = st.lists(st.sampled_from(SPECIAL) | st.floats(width=32, allow_nan=False), min_size=1, max_size=30)


def pooled(scores: list[np.ndarray]) -> Pool:
    pool = Pool()
    for some in scores:
        pool.add(some)
    return pool


def naive(scores: np.ndarray, distinct: np.ndarray) -> tuple[list[int], list[int]]:
    scores = scores.astype(np.float64)
    return [int((scores > one).sum()) for one in distinct], [int((scores == one).sum()) for one in distinct]


@settings(max_examples=300, deadline=None, derandomize=True)
@given(scores=narrow)
def test_keys_are_ordered_and_equal_as_the_scores_are(scores: list[float]) -> None:
    values = np.array(scores, dtype=np.float32)
    assert np.array_equal(scores32(keys32(values)), values)
    for keys in (keys32(values).astype(np.int64), keys64(values)):
        assert np.array_equal(keys[:, None] < keys, values[:, None] < values)
        assert np.array_equal(keys[:, None] == keys, values[:, None] == values)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(scores=narrow)
def test_narrow_keys_are_the_wide_ones_without_bits_that_are_zero(scores: list[float]) -> None:
    values = np.array(scores, dtype=np.float32)
    keys, n_zero, rest = narrow_keys(values)
    smallest = np.finfo(np.float32).smallest_normal
    normal = np.isfinite(values) & (np.abs(values) >= smallest)
    assert np.array_equal(keys << WIDER, keys64(values[normal]))
    assert n_zero == np.count_nonzero(values == 0)
    assert np.array_equal(rest, values[~normal & (values != 0)])


def test_zeros_that_keys_share_and_bits_that_must_go() -> None:
    assert common_zeros(np.array([], dtype=np.int64)) == common_zeros(np.array([0])) == 63
    assert common_zeros(np.array([0, 8, -24])) == 3
    assert common_zeros(np.array([0, 8, -23])) == 0
    keys = np.array([-1, 0, 1, 2, 3])
    assert [needed_shift(keys, capacity, least=0) for capacity in (5, 4, 3, 2)] == [0, 1, 1, 2]
    assert needed_shift(keys, 5, least=7) == 7
    assert needed_shift(np.array([-(2**63), 2**63 - 1]), 2, least=0) == 0
    assert needed_shift(np.arange(-9, 9) * 2**58, 2, least=0) == 62


@settings(max_examples=120, deadline=None, derandomize=True)
@given(
    images=st.lists(st.tuples(st.booleans(), narrow), min_size=1, max_size=5),
    few=st.sampled_from([1, 8, 1000]),
    table=st.sampled_from([2**20, 2**23, 2**25]),
    chunk=st.sampled_from([1, 5, 2**17]),
    block=st.sampled_from([3 * 2**15, 2**17]),
)
def test_a_pool_stands_for_its_scores_exactly(images: Any, few: int, table: int, chunk: int, block: int) -> None:
    scores = [np.array(some, dtype=np.float64 if wide else np.float32) for wide, some in images]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Pool, "FEW", few)
        patch.setattr(Pool, "TABLE", table)
        patch.setattr(Pool, "CHUNK", chunk)
        patch.setattr(Pool, "SLAB", 16)
        patch.setattr(_Table, "BLOCK", block)
        pool = pooled(scores)
        every = np.concatenate([some.astype(np.float64) for some in scores])
        between = np.nextafter(every[np.isfinite(every)], 1e300)
        for asked in (every, np.array([1e300, -1e300, np.inf, -np.inf, 0.1, 1.0]), between):
            distinct = np.unique(asked)
            above, equal = pool.standing(distinct)
            assert (above.tolist(), equal.tolist()) == naive(every, distinct)
            apart = [pool.standing(distinct[i : i + 1]) for i in range(distinct.size)]
            assert [(int(a[0]), int(e[0])) for a, e in apart] == list(zip(above.tolist(), equal.tolist(), strict=True))


def random_maps(kind: str) -> list[tuple[np.ndarray, np.ndarray]]:
    rng = np.random.default_rng(3)
    pairs = []
    for i in range(5):
        scores = rng.gamma(4, 3, (40, 50)) + 20
        mask = np.zeros(scores.shape, np.uint8)
        mask[5:12, 5 + i : 20] = i % 3
        scores += 5 * mask
        scores = {
            "positive": scores,
            "negative": -np.flip(scores),
            "both signs": scores - 30,
            "clipped": np.maximum(scores - 32, 0),
            "many octaves": np.exp(scores - 40),
            "infinite": np.where(scores > 45, np.inf, scores),
            "left out": np.where(scores > 45, np.nan, scores),
        }[kind]
        pairs.append((mask, scores.astype(np.float32)))
    return pairs


KINDS = ["positive", "negative", "both signs", "clipped", "many octaves", "infinite", "left out"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("table", [2**20, 2**25])
def test_counted_and_sorted_give_the_same_metrics(kind: str, table: int, monkeypatch: pytest.MonkeyPatch) -> None:
    images = random_maps(kind)

    def result() -> m.Metrics:
        engine = m.PixelMetrics()
        for mask, scores in images:
            engine.add(mask, scores)
            engine.result()
        return engine.result(fpr_limits=LIMITS)

    expected = result()
    monkeypatch.setattr(Pool, "FEW", 1500)
    monkeypatch.setattr(Pool, "TABLE", table)
    monkeypatch.setattr(Pool, "CHUNK", 700)
    assert result() == expected
    assert None not in expected.metrics.values()


def test_float64_maps_among_counted_ones() -> None:
    images = random_maps("positive")
    images = [(mask, scores.astype([np.float32, np.float64][i % 2])) for i, (mask, scores) in enumerate(images)]
    expected = m.compute_pixel_ap(*zip(*images, strict=True))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Pool, "FEW", 1500)
        assert m.compute_pixel_ap(*zip(*images, strict=True)) == expected


def test_counts_beyond_32_bits_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Pool, "FEW", 2)
    monkeypatch.setattr(Pool, "TABLE", 2**22)
    pool = pooled([np.array([1.0, 1.0, 1.25], dtype=np.float32)])
    (table,) = pool._tables
    table._counted = 2**31 - 2
    table._counts[table._counts > 1] += 2**31 - 4
    pool.add(np.full(5, 1.0, dtype=np.float32))
    above, equal = pool.standing(np.array([0.5, 1.0, 1.25]))
    assert above.tolist() == [2**31 + 4, 1, 0]
    assert equal.tolist() == [0, 2**31 + 3, 1]


def test_a_pool_goes_on_counting_after_it_was_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Pool, "FEW", 2)
    monkeypatch.setattr(Pool, "TABLE", 2**24)
    pool = pooled([np.array([1.0, 1.5], dtype=np.float32)])
    lowest = np.array([0.9])
    for times in range(1, 4):
        assert pool.standing(lowest)[0].tolist() == [2 * times]
        pool.add(np.array([1.0, 1.5], dtype=np.float32))


def test_a_pool_that_counts_does_not_grow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Pool, "FEW", 2**17)
    monkeypatch.setattr(Pool, "TABLE", 2**20)
    monkeypatch.setattr(Pool, "SLAB", 2**18)
    rng = np.random.default_rng(1)
    pool = Pool()
    held = []
    tracemalloc.start()
    try:
        for i in range(1, 65):
            pool.add((rng.random(2**16, dtype=np.float32) / 16 + 1).astype(np.float32))
            if i in (8, 64):
                held.append(tracemalloc.get_traced_memory()[0])
    finally:
        tracemalloc.stop()
    assert held[1] < held[0] + 2**16 < 8 * 2**20


def test_regions_are_those_of_the_whole_mask_wherever_they_lie() -> None:
    import cv2

    rng = np.random.default_rng(5)
    for top, left, size, share in [(0, 0, 60, 0.3), (17, 3, 20, 0.5), (59, 59, 1, 1.0), (0, 30, 25, 0.1)]:
        mask = np.zeros((60, 60), dtype=np.bool_)
        mask[top : top + size, left : left + size] = rng.random((size, size))[: 60 - top, : 60 - left] < share
        (rows, columns), region = label_regions(mask)
        _, expected = cv2.connectedComponents(mask.view(np.uint8), connectivity=8)
        box = mask[rows, columns]
        assert np.count_nonzero(box) == np.count_nonzero(mask)
        assert all(edge.any() for edge in (box[0], box[-1], box[:, 0], box[:, -1]))
        pairs = set(zip(region.tolist(), expected[mask].tolist(), strict=True))
        assert len(pairs) == len({a for a, _ in pairs}) == len({b for _, b in pairs}) == expected.max()


@pytest.mark.parametrize("side", [509, 513])
def test_as_many_regions_as_there_can_be(side: int) -> None:
    # On one side of where numbers of 16 bits end, and on the other.
    mask = np.zeros((side, side), dtype=np.bool_)
    mask[::2, ::2] = True
    _, region = label_regions(mask)
    assert region.size == np.unique(region).size == region.max() == ((side + 1) // 2) ** 2


def test_no_region_at_all() -> None:
    mask = np.zeros((3, 4), dtype=np.bool_)
    box, region = label_regions(mask)
    assert mask[box].size == region.size == 0


def test_the_largest_float32_is_counted_without_a_warning(monkeypatch):
    monkeypatch.setattr(Pool, "FEW", 1)
    largest = float(np.finfo(np.float32).max)
    pool = Pool()
    pool.add(np.array([1.0, largest], np.float32))
    above, equal = pool.standing(np.array([1.0, largest]))
    assert (above.tolist(), equal.tolist()) == ([1, 0], [1, 1])
