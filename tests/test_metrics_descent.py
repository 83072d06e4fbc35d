"""Defect scores from the highest down: in steps of any size every score comes once, with its region, ties together."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from uadctl.metrics.descent import descend

SCORES = [0.0, -0.0, 1.0, 1.0 + 2.0**-23, -1.0, 1e-45, -1e-45, 3e38, -3e38, np.inf, -np.inf]

narrow = st.sampled_from(SCORES) | st.floats(width=32, allow_nan=False)
regions_of_images = st.lists(
    st.tuples(st.booleans(), st.lists(st.lists(narrow, min_size=1, max_size=8), min_size=1, max_size=4)),
    min_size=1,
    max_size=4,
)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(images=regions_of_images, chunk=st.sampled_from([1, 2, 5, 1000]), widen=st.booleans())
def test_every_score_comes_once_with_its_region(
    images: list[tuple[bool, list[list[float]]]], chunk: int, widen: bool
) -> None:
    found = [np.concatenate(regions).astype(np.float64 if wide and widen else np.float32) for wide, regions in images]
    sizes = np.array([len(region) for _, regions in images for region in regions])
    every = np.concatenate(found, dtype=np.float64).tolist()
    expected = Counter(zip(every, np.repeat(np.arange(sizes.size), sizes).tolist(), strict=True))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("uadctl.metrics.descent.CHUNK", chunk)
        steps = list(descend(found, sizes))

    got: Counter[tuple[float, int]] = Counter()
    lowest = np.inf
    for i, step in enumerate(steps):
        assert (step.distinct[1:] > step.distinct[:-1]).all()
        assert i == 0 or step.distinct[-1] < lowest
        lowest = step.distinct[0]
        assert np.array_equal(step.at, np.bincount(step.entry, step.times))
        assert (np.diff(step.entry) >= 0).all()
        scores = step.distinct[step.entry].tolist()
        for score, region, times in zip(scores, step.region.tolist(), step.times.tolist(), strict=True):
            got[score, region] += times
    assert got == expected
    assert all(step.at.sum() >= min(chunk, sizes.sum()) for step in steps[:-1])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_equal_scores_of_a_region_are_one_entry(dtype: type) -> None:
    scores = np.repeat(np.array([0.5, 0.25, 0.5], dtype=dtype), [1000, 2000, 3000])
    (step,) = descend([scores], np.array([3000, 3000]))
    assert step.distinct.tolist() == [0.25, 0.5]
    assert step.at.tolist() == [2000, 4000]
    # Sorted scores alone do not part regions: entries may repeat, but their sums are right.
    assert np.bincount(step.region, step.times).tolist() == [3000, 3000]
    if dtype == np.float32:
        assert (step.entry.tolist(), step.region.tolist(), step.times.tolist()) == (
            [0, 1, 1],
            [0, 0, 1],
            [2000, 1000, 3000],
        )
