"""Pixel metrics in one pass: within their bounds of the exact ones on anything, and exact where that is promised."""

from __future__ import annotations

import re
import tracemalloc
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from uadctl import metrics as m

LIMITS = (0.05, 0.3, 1.0)
ROUNDING = 1e-12

Images = list[tuple[np.ndarray, np.ndarray]]


def measured(engine: Any, images: Images) -> Any:
    for mask, scores in images:
        engine.add(mask, scores)
    return engine


def compare(images: Images, *, bins: int = 65_536) -> dict[str, float]:
    """Hold the streaming metrics to their bounds, and return the bounds."""
    exact = measured(m.PixelMetrics(), images).result(fpr_limits=LIMITS)
    streaming = measured(m.StreamingPixelMetrics(bins=bins), images)
    result, bounds = streaming.result(fpr_limits=LIMITS), streaming.bounds(fpr_limits=LIMITS)
    assert list(bounds) == list(result.metrics) == list(exact.metrics)
    assert (result.counts, result.reasons) == (exact.counts, exact.reasons)
    for name, value in exact.metrics.items():
        if value is None:
            assert result.metrics[name] is bounds[name] is None
        else:
            assert abs(result.metrics[name] - value) <= bounds[name] <= 1, name
            assert bounds[name] > 0
    return bounds


def realistic(seed: int, *, images: int = 6, size: int = 96, floor: float | None = None) -> Images:
    """Smooth maps of overlapping normal and defect scores between about 20 and 60; floor: nothing below it."""
    rng = np.random.default_rng(seed)
    pairs = []
    for i in range(images):
        coarse = rng.gamma(4, 3, (size // 8 + 1, size // 8 + 1)) + 20
        at = np.linspace(0, size // 8 - 1e-6, size)
        y, x = at.astype(int)[:, None], at.astype(int)[None, :]
        wy, wx = (at % 1)[:, None], (at % 1)[None, :]
        near = coarse[y, x] * (1 - wx) + coarse[y, x + 1] * wx
        far = coarse[y + 1, x] * (1 - wx) + coarse[y + 1, x + 1] * wx
        scores = near * (1 - wy) + far * wy
        mask = np.zeros((size, size), np.uint8)
        if i % 2:
            mask[10:30, 10 : 20 + 3 * i] = 1
            mask[60 : 62 + i, 40:44] = 1
            scores = scores + 8 * mask
        if floor is not None:
            scores = np.maximum(scores - floor, 0)
        pairs.append((mask, scores.astype(np.float32)))
    return pairs


# Scores that share a bin by the slimmest margins, at all magnitudes, of both signs, and ties.
NEAR = [1.0 + k * 2.0**-23 for k in range(12)] + [-1.0 - k * 2.0**-22 for k in range(4)]
FAR = [0.0, -0.0, 1e-45, -1e-45, 2.0**-126, 0.5, 3.0, 7.5, 3e38, -3e38, np.inf, -np.inf, np.nan]


@st.composite
def pairs(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    shape = draw(hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=6))
    mask = draw(hnp.arrays(np.uint8, shape, elements=st.integers(0, 1)))
    width = draw(st.sampled_from([32, 64]))
    number: st.SearchStrategy[float] = st.sampled_from(NEAR) | st.sampled_from(FAR) | st.floats(width=width)  # type: ignore[arg-type]
    return mask, draw(hnp.arrays(np.dtype(f"f{width // 8}"), shape, elements=number))


@settings(max_examples=250, deadline=None, derandomize=True)
@given(images=st.lists(pairs(), min_size=1, max_size=3), bins=st.sampled_from([2, 3, 5, 9, 65_536]))
def test_the_exact_value_lies_within_the_bound_on_anything(images: Images, bins: int) -> None:
    bounds = compare(images, bins=bins)
    if bins == 65_536:
        assert set(bounds.values()) <= {ROUNDING, None}


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    defect=st.lists(st.sampled_from(NEAR[:12]), min_size=1, max_size=8),
    normal=st.lists(st.sampled_from(NEAR[:12]), min_size=1, max_size=8),
    outside=st.lists(st.sampled_from([-1.0, 64.0]), max_size=6),
)
def test_every_order_inside_one_bin_lies_within_the_bound(
    defect: list[float], normal: list[float], outside: list[float]
) -> None:
    scores = np.array([defect + normal + outside])
    mask = np.zeros(scores.shape, np.uint8)
    mask[0, : len(defect)] = 1
    compare([(mask, scores)], bins=3)


@pytest.mark.parametrize("bins", [7, 64, 1024, 65_536])
@pytest.mark.parametrize("floor", [None, 30.0])
def test_realistic_maps_lie_within_bounds_that_shrink_with_the_bins(bins: int, floor: float | None) -> None:
    images = realistic(bins, floor=floor)
    distinct = np.unique(np.concatenate([scores.ravel() for _, scores in images])).size
    bounds = compare(images, bins=bins)
    if bins >= distinct:
        assert set(bounds.values()) == {ROUNDING}
    else:
        assert ROUNDING < max(bounds.values()) < 20 / bins


def test_default_bins_are_good_to_four_decimals_and_better() -> None:
    images = realistic(5, images=4, size=400)
    assert sum(scores.size for _, scores in images) > 9 * 65_536
    bounds = compare(images)
    assert ROUNDING < max(bounds.values()) < 1e-4


def test_bounds_by_hand_and_both_ends_reached() -> None:
    # Two bins: [1, 2) and [2, 4). In the lower one two defect scores and a normal one, in the upper a normal one.
    mask = np.array([[1, 1, 0, 0]])
    worst, best = np.array([[1.0, 1.25, 1.5, 3.0]]), np.array([[1.5, 1.5, 1.0, 3.0]])
    tied = {"pixel_auroc": 1 / 4, "pixel_ap": 1 / 2, "pixel_f1max": 2 / 3, "aupro_100": 1 / 4}
    at_best = {"pixel_auroc": 1 / 2, "pixel_ap": 2 / 3, "pixel_f1max": 4 / 5, "aupro_100": 1 / 2}
    at_worst = {"pixel_auroc": 0, "pixel_ap": (1 / 3 + 1 / 2) / 2, "pixel_f1max": 2 / 3, "aupro_100": 0}
    for scores, expected in [(worst, at_worst), (best, at_best)]:
        exact = measured(m.PixelMetrics(), [(mask, scores)]).result(fpr_limits=[1.0])
        assert exact.metrics == pytest.approx(expected, abs=1e-15)
    # Evenly mixed, the first of the two defect scores has a third of the normal one above it, the second two thirds.
    tied["pixel_ap"] = (1 / (1 + 1 + 1 / 3) + 2 / (2 + 1 + 2 / 3)) / 2
    streaming = measured(m.StreamingPixelMetrics(bins=2), [(mask, worst)])
    assert streaming.result(fpr_limits=[1.0]).metrics == pytest.approx(tied, abs=1e-15)
    assert streaming.bounds(fpr_limits=[1.0]) == pytest.approx(
        {name: at_best[name] - tied[name] + ROUNDING for name in tied}, abs=1e-15, rel=0
    )


def test_the_way_down_may_be_the_longer_one() -> None:
    # Twenty different defect scores below a normal one of their bin: tied, all have precision 20/21, at best 1.
    scores = np.array([[*np.linspace(1, 1.4, 20), 1.5, 0.5]])
    mask = (np.arange(22) < 20)[None, :]
    exact = measured(m.PixelMetrics(), [(mask, scores)]).result().metrics["pixel_ap"]
    assert exact == pytest.approx(sum(i / (i + 1) for i in range(1, 21)) / 20)
    streaming = measured(m.StreamingPixelMetrics(bins=2), [(mask, scores)])
    value = streaming.result().metrics["pixel_ap"]
    assert value == pytest.approx(sum(i / (i + i / 21) for i in range(1, 21)) / 20)
    assert 1 / 21 < value - exact <= streaming.bounds()["pixel_ap"] < value - exact + 0.01


def test_evenly_mixed_scores_leave_ap_almost_unmoved() -> None:
    # As many bins as would be off by 1e-3 if all scores of a bin were tied.
    rng = np.random.default_rng(12)
    mask = (rng.random((300, 300)) < 0.02).astype(np.uint8)
    scores = rng.normal(10, 1, mask.shape) + 1.5 * mask
    exact = m.compute_pixel_ap([mask], [scores])
    value = measured(m.StreamingPixelMetrics(bins=256), [(mask, scores)]).result().metrics["pixel_ap"]
    tied = m.PixelStatistics(bins=256)
    tied.add(mask, scores)
    assert abs(value - exact) < 3e-4 < 1e-3 < abs(tied.resample([[1]])["pixel_ap"][0] - exact)


@pytest.mark.parametrize("dtype", [np.float16, np.uint8, np.int16, bool])
def test_maps_of_few_values_are_exact(dtype: Any) -> None:
    images = [(mask, (scores * 4).astype(dtype)) for mask, scores in realistic(1)]
    assert set(compare(images).values()) == {ROUNDING}
    for limit in LIMITS:
        both = [m.compute_aupro(*zip(*images, strict=True), limit=limit, mode=mode) for mode in ("exact", "streaming")]
        assert both[0] == pytest.approx(both[1], abs=1e-12, rel=0)


def test_every_float16_value_at_once_is_exact() -> None:
    every = np.arange(2**16, dtype=np.uint16).view(np.float16).astype(np.float32)
    scores = np.concatenate([every, np.random.default_rng(2).permutation(every)]).reshape(256, 512)
    mask = np.zeros(scores.shape, np.uint8)
    mask[200:, ::3] = 1
    assert set(compare([(mask, scores), (0 * mask, scores)]).values()) == {ROUNDING}


def test_a_score_shared_by_many_pixels_leaves_no_doubt() -> None:
    # Sixteen bins for thousands of scores, and yet certain: the defects score 0 like half of the normal pixels, and
    # only normal scores share a bin with others.
    rng = np.random.default_rng(4)
    mask = np.zeros((64, 64), np.uint8)
    mask[:8, :8] = 1
    scores = np.where(rng.random(mask.shape) < 0.5, 0, rng.random(mask.shape)) * (1 - mask)
    assert set(compare([(mask, scores)], bins=16).values()) == {ROUNDING}


@pytest.mark.parametrize("bins", [16, 1000])
def test_the_order_of_the_images_changes_nothing(bins: int) -> None:
    images = realistic(6)
    engines = [measured(m.StreamingPixelMetrics(bins=bins), some) for some in (images, images[::-1])]
    first, second = (engine.result().metrics for engine in engines)
    assert first == pytest.approx(second, abs=1e-14, rel=0)
    assert engines[0].bounds() == pytest.approx(engines[1].bounds(), abs=1e-14, rel=0)


@pytest.mark.parametrize(("chunk", "window"), [(1, 1), (7, 3), (1000, 64), (2**19, 1)])
@pytest.mark.parametrize("floor", [None, 30.0])
def test_how_scores_are_counted_changes_nothing(
    chunk: int, window: int, floor: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = realistic(7, images=2, size=40, floor=floor)
    images.append((images[1][0], -images[1][1]))
    expected = measured(m.StreamingPixelMetrics(bins=100), images)
    values, bounds = expected.result(fpr_limits=LIMITS), expected.bounds(fpr_limits=LIMITS)
    monkeypatch.setattr("uadctl.metrics.streaming._Bins.CHUNK", chunk)
    monkeypatch.setattr("uadctl.metrics.streaming._Bins.WINDOW", window)
    engine = measured(m.StreamingPixelMetrics(bins=100), images)
    assert engine.result(fpr_limits=LIMITS) == values
    assert engine.bounds(fpr_limits=LIMITS) == bounds


def test_more_images_may_follow_a_result_and_no_view_is_kept() -> None:
    images = realistic(8)
    engine = m.StreamingPixelMetrics(bins=500)
    buffer = np.empty_like(images[0][1])
    for mask, scores in images:
        buffer[:] = scores
        engine.add(mask, buffer)
        before = engine.result()
        buffer[:] = -1
        assert engine.result() == before
    whole = measured(m.StreamingPixelMetrics(bins=500), images)
    assert engine.result().metrics == pytest.approx(whole.result().metrics, abs=1e-14, rel=0)
    assert engine.bounds() == pytest.approx(whole.bounds(), abs=1e-14, rel=0)


def test_memory_does_not_grow_with_the_pixels() -> None:
    rng = np.random.default_rng(9)
    mask = np.zeros((256, 512), np.uint8)
    mask[:64, :64] = 1
    tracemalloc.start()
    try:
        engine = m.StreamingPixelMetrics()
        held = []
        for i in range(1, 33):
            engine.add(mask, rng.random(mask.shape, dtype=np.float32))
            if i % 16 == 0:
                engine.result()
                held.append(tracemalloc.get_traced_memory()[0])
    finally:
        tracemalloc.stop()
    assert held[1] < held[0] + 2**20 < 10 * 2**20


def test_millions_of_equal_pixels_do_not_drift() -> None:
    mask = np.ones((1000, 1000), np.uint8)
    mask[0, 0] = 0
    scores = np.zeros((1000, 1000), np.float32)
    assert m.compute_aupro([mask], [scores], mode="streaming") == pytest.approx(0.15, abs=1e-14, rel=0)


def test_streaming_aupro_is_that_of_the_engine() -> None:
    images = realistic(10, images=3, size=400)
    masks, maps = zip(*images, strict=True)
    engine = measured(m.StreamingPixelMetrics(), images)
    bound = engine.bounds(fpr_limits=[0.05])["aupro_05"]
    value = m.compute_aupro(masks, maps, limit=0.05, mode="streaming")
    assert value == engine.result(fpr_limits=[0.05]).metrics["aupro_05"]
    exact = m.compute_aupro(masks, maps, limit=0.05)
    assert value != exact
    assert abs(value - exact) <= bound < 1e-3


def test_undefined_is_null_with_the_reason_and_without_a_bound() -> None:
    engine = m.StreamingPixelMetrics()
    assert engine.bounds() == dict.fromkeys(m.pixel_metric_names())
    engine.add(np.zeros((3, 3)), np.ones((3, 3)))
    result = engine.result()
    assert result.reasons == dict.fromkeys(
        m.pixel_metric_names(), "the masks have no defect pixel (images: 1, pixels: 9)"
    )
    assert engine.bounds() == result.metrics == dict.fromkeys(m.pixel_metric_names())
    with pytest.raises(ValueError, match=r"^AU-PRO to 0\.3 is undefined: there are no maps$"):
        m.compute_aupro([], [], mode="streaming")


def test_what_cannot_be_compared_is_refused_and_not_counted() -> None:
    engine = m.StreamingPixelMetrics()
    engine.add(np.eye(3), np.eye(3))
    before = engine.result()
    with pytest.raises(ValueError, match=r"^the mask is 3x3, its map is 2x3 \(height x width\)$"):
        engine.add(np.eye(3), np.eye(3)[1:])
    assert engine.result() == before
    for ask in (engine.result, engine.bounds):
        with pytest.raises(ValueError, match=r"^limit is 0; expected a false-positive rate above 0 and at most 1$"):
            ask(fpr_limits=[0])


@pytest.mark.parametrize("bins", [1, 0, -5])
def test_too_few_bins_are_refused(bins: int) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(f'bins is {bins}; expected at least 2')}$"):
        m.StreamingPixelMetrics(bins=bins)


@pytest.mark.parametrize("bins", [50, 2000, 65_536])
def test_scores_of_both_signs_and_of_any_width_lie_within_the_bounds(bins: int) -> None:
    # Standardised maps, their mirror image, maps of few digits and of float64, one after the other: windows of either
    # sign, moved and opened anew as bits are dropped.
    images = []
    for i, (mask, scores) in enumerate(realistic(11, images=8, size=64)):
        centred = (scores - 30) * (-1) ** i
        images.append(
            (mask, [centred, centred.astype(np.float16), np.exp(centred.astype(np.float64)), 1e6 * centred][i % 4])
        )
    for order in (images, images[::-1], images[1::2]):
        compare(order, bins=bins)


def test_few_digits_after_many_and_many_after_few() -> None:
    # The bins of few digits are wide, and hold one score each; scores with more digits must not fall in with them.
    few = np.arange(1, 65, dtype=np.float32).reshape(8, 8)
    many = few + np.float32(2.0**-10)
    mask = (few % 3 == 0).astype(np.uint8)
    for images in (
        [few, many, few],
        [many, few, many],
        [-few, few, -many, many],
        [few, -many.astype(np.float64), -few],
    ):
        assert set(compare([(mask, scores) for scores in images]).values()) == {ROUNDING}
        compare([(mask, scores) for scores in images], bins=40)
