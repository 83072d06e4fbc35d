"""Resampled metrics: those of the images given as often as they were drawn, and the same intervals as by brute force."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from uadctl import metrics as m

LIMITS = (0.05, 0.3, 1.0)
ROUNDING = 1e-12

Images = list[tuple[np.ndarray, np.ndarray]]


def example(seed: int = 0, *, images: int = 7, size: int = 40, levels: int | None = None) -> Images:
    """Overlapping scores, regions that touch the border and each other by a corner; levels: so many distinct scores."""
    rng = np.random.default_rng(seed)
    pairs = []
    for i in range(images):
        mask = np.zeros((size, size + i), np.uint8)
        if i % 3:
            mask[2 : 6 + i, 3:9] = 1
            mask[6 + i : 8 + i, 9:11] = 1
            mask[size - 3 :, 20 : 22 + 2 * i] = 255
        scores = rng.gamma(4, 3, mask.shape) + 5 * (mask > 0) + i
        if levels:
            scores = np.round(np.clip(scores, 0, 40) / 40 * (levels - 1)) / 8
        pairs.append((mask, scores.astype(np.float32)))
    return pairs


def statistics(images: Images, **settings: Any) -> m.PixelStatistics:
    taken = m.PixelStatistics(**settings)
    for mask, scores in images:
        taken.add(mask, scores)
    return taken


def repeated(images: Images, times: Any) -> dict[str, Any]:
    """The exact metrics of the images, each given so many times; NaN for None."""
    engine = m.PixelMetrics()
    for (mask, scores), count in zip(images, times, strict=True):
        for _ in range(count):
            engine.add(mask, scores)
    result = engine.result(fpr_limits=LIMITS)
    return {name: np.nan if value is None else value for name, value in result.metrics.items()}


WEIGHTS = np.array([[1, 1, 1, 1, 1, 1, 1], [0, 3, 0, 1, 0, 2, 1], [2, 0, 5, 0, 1, 0, 0], [0, 0, 0, 0, 1, 0, 0]])


def test_whole_weights_are_images_given_again_exactly_where_scores_have_few_values() -> None:
    images = example(levels=200)
    taken = statistics(images)
    assert taken.bins == np.unique(np.concatenate([scores.ravel() for _, scores in images])).size
    resampled = taken.resample(WEIGHTS, fpr_limits=LIMITS)
    for row, times in enumerate(WEIGHTS):
        expected = repeated(images, times)
        assert list(resampled) == list(expected)
        assert {name: values[row] for name, values in resampled.items()} == pytest.approx(expected, abs=1e-12, rel=0)
        assert set(taken.bounds(times, fpr_limits=LIMITS).values()) == {ROUNDING}


@pytest.mark.parametrize("bins", [2, 16, 300, 8192])
def test_whole_weights_are_images_given_again_within_the_bound(bins: int) -> None:
    images = example(1)
    taken = statistics(images, bins=bins)
    assert 2 <= taken.bins <= bins
    resampled = taken.resample(WEIGHTS, fpr_limits=LIMITS)
    for row, times in enumerate(WEIGHTS):
        bounds = taken.bounds(times, fpr_limits=LIMITS)
        assert list(bounds) == list(resampled)
        assert 0 < max(bounds.values()) < (20 / bins if bins > 20 else 1.1)
        for name, exact in repeated(images, times).items():
            assert abs(resampled[name][row] - exact) <= bounds[name], name


@pytest.mark.parametrize("levels", [None, 50])
def test_ones_give_what_the_streaming_engine_gives_of_the_same_bins(levels: int | None) -> None:
    images = example(2, levels=levels)
    engine = m.StreamingPixelMetrics(bins=500)
    for mask, scores in images:
        engine.add(mask, scores)
    taken = statistics(images, bins=500)
    resampled = taken.resample(np.ones((1, 7), dtype=int), fpr_limits=LIMITS)
    expected = engine.result(fpr_limits=LIMITS).metrics
    if levels is None:  # scores that differ are tied here, and for AP evenly mixed there
        assert resampled.pop("pixel_ap")[0] == pytest.approx(expected.pop("pixel_ap"), abs=5e-3)
    assert {name: values[0] for name, values in resampled.items()} == pytest.approx(expected, abs=1e-14, rel=0)
    assert taken.bounds(fpr_limits=LIMITS) == taken.bounds(np.ones(7, dtype=int), fpr_limits=LIMITS)
    for name in expected:
        bound = engine.bounds(fpr_limits=LIMITS)[name]
        assert bound <= taken.bounds(fpr_limits=LIMITS)[name] + ROUNDING


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    data=st.lists(
        st.lists(
            st.tuples(
                st.booleans(),
                st.sampled_from([0.0, -0.0, 1.0, -1.0, 1.5, np.inf, -np.inf, np.nan, 1e-45]) | st.floats(width=32),
            ),
            min_size=1,
            max_size=8,
        ),
        min_size=1,
        max_size=4,
    ),
    bins=st.sampled_from([2, 4, 8192]),
    wide=st.booleans(),
    seed=st.integers(0, 99),
)
def test_resampled_metrics_lie_within_the_bounds_on_anything(data: Any, bins: int, wide: bool, seed: int) -> None:
    dtype = np.float64 if wide else np.float32
    images = [(np.array([[d for d, _ in row]]), np.array([[s for _, s in row]], dtype=dtype)) for row in data]
    taken = statistics(images, bins=bins)
    weights = np.random.default_rng(seed).integers(0, 3, (4, len(images)))
    resampled = taken.resample(weights, fpr_limits=LIMITS)
    for row, times in enumerate(weights):
        bounds = taken.bounds(times, fpr_limits=LIMITS)
        for name, exact in repeated(images, times).items():
            if np.isnan(exact):
                assert np.isnan(resampled[name][row])
                assert bounds[name] is None
            else:
                assert abs(resampled[name][row] - exact) <= bounds[name]
                assert bins < 8192 or bounds[name] == ROUNDING


def test_a_resample_without_one_kind_of_pixel_is_nan_and_disturbs_no_other() -> None:
    images = example(3, levels=30)
    weights = np.array([[1, 0, 0, 1, 0, 0, 2], [0] * 7, [1, 2, 0, 0, 1, 1, 0]])
    resampled = statistics(images).resample(weights)
    alone = statistics(images).resample(weights[2:])
    for name, values in resampled.items():
        assert np.isnan(values).tolist() == [True, True, False]
        assert values[2] == alone[name][0]
    only = statistics([(np.ones((2, 2)), np.ones((2, 2)))])
    assert np.isnan(only.resample([[1]])["pixel_ap"]).all()
    assert only.bounds() == dict.fromkeys(m.pixel_metric_names())
    none = m.PixelStatistics()
    for values in none.resample(np.zeros((2, 0), dtype=int)).values():
        assert np.isnan(values).tolist() == [True, True]


def test_pixels_left_out_count_in_no_resample() -> None:
    images = example(4, levels=60)
    for _, scores in images:
        scores[:, :6] = np.nan
    images[4][1][:] = np.nan
    resampled = statistics(images).resample(WEIGHTS[:3], fpr_limits=LIMITS)
    for row, times in enumerate(WEIGHTS[:3]):
        assert {name: values[row] for name, values in resampled.items()} == pytest.approx(
            repeated(images, times), abs=1e-12, rel=0
        )


def test_intervals_agree_with_those_of_a_bootstrap_that_gives_the_images_again() -> None:
    images = example(5, images=12, size=24)
    taken = statistics(images)
    drawn = m.bootstrap_weights(12, 150, seed=1, strata=taken.with_defect)
    resampled = taken.resample(drawn, fpr_limits=LIMITS)
    # The naive one draws for itself: with its own generator, image by image, defect and good ones apart.
    rng = np.random.default_rng(77)
    of_kind = [[i for i in range(12) if bool(images[i][0].any()) == kind] for kind in (False, True)]
    naive = [
        repeated(images, np.bincount(np.concatenate([rng.choice(some, len(some)) for some in of_kind]), minlength=12))
        for _ in range(150)
    ]
    same = [repeated(images, times) for times in drawn]
    for name, values in resampled.items():
        ours, ends = np.quantile(values, [0.025, 0.975]), np.quantile([some[name] for some in naive], [0.025, 0.975])
        again = np.quantile([some[name] for some in same], [0.025, 0.975])
        assert ours == pytest.approx(again, abs=1e-3, rel=0), name
        spread = ends[1] - ends[0]
        assert ours == pytest.approx(ends, abs=0.25 * spread, rel=0), name
        assert spread > 0.02


def test_blocks_of_bins_and_of_resamples_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    images = example(6)
    weights = m.bootstrap_weights(7, 50, seed=2)
    expected = statistics(images).resample(weights, fpr_limits=LIMITS)
    monkeypatch.setattr("uadctl.metrics.resampling._CELLS", 300)
    again = statistics(images).resample(weights, fpr_limits=LIMITS)
    for name, values in expected.items():
        assert again[name] == pytest.approx(values, abs=1e-13, rel=0, nan_ok=True)


@pytest.mark.parametrize(("chunk", "span"), [(1, 1), (97, 2**18), (2**17, 4)])
def test_how_scores_are_counted_changes_nothing(chunk: int, span: int, monkeypatch: pytest.MonkeyPatch) -> None:
    images = example(7, images=3, size=20)
    images.append((images[1][0], -images[1][1]))
    expected = statistics(images, bins=60).resample(np.eye(4, dtype=int) + 1, fpr_limits=LIMITS)
    monkeypatch.setattr("uadctl.metrics.resampling.PixelStatistics.CHUNK", chunk)
    monkeypatch.setattr("uadctl.metrics.resampling.PixelStatistics.SPAN", span)
    again = statistics(images, bins=60).resample(np.eye(4, dtype=int) + 1, fpr_limits=LIMITS)
    assert {name: values.tolist() for name, values in again.items()} == {
        name: values.tolist() for name, values in expected.items()
    }


def test_the_order_of_the_images_is_the_order_of_the_weights() -> None:
    images = example(8)
    order = [3, 1, 6, 0, 5, 2, 4]
    weights = m.bootstrap_weights(7, 20, seed=3)
    expected = statistics(images, bins=100).resample(weights)
    turned = statistics([images[i] for i in order], bins=100).resample(weights[:, order])
    for name, values in expected.items():
        assert turned[name] == pytest.approx(values, abs=1e-14, rel=0, nan_ok=True)


def test_counts_stay_within_the_memory_and_the_bounds_tell() -> None:
    images = example(9)
    free = statistics(images)
    tight = statistics(images, memory=20_000)
    assert tight.nbytes <= 20_000 < free.nbytes
    assert 2 < tight.bins < free.bins
    resampled, bounds = tight.resample(WEIGHTS), tight.bounds()
    for name, exact in repeated(images, WEIGHTS[0]).items():
        if name in resampled:
            assert abs(resampled[name][0] - exact) <= bounds[name] < 0.2
            assert bounds[name] > free.bounds()[name]


def test_images_are_taken_apart_once_for_the_engine_and_the_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    images = example(10)
    alone = statistics(images)
    for engine_of in (m.PixelMetrics, m.StreamingPixelMetrics):
        shared = m.PixelStatistics()
        engine = engine_of(per_image=shared)
        for mask, scores in images:
            engine.add(mask, scores)
        assert shared.images == 7
        assert shared.with_defect.tolist() == [bool(mask.any()) for mask, _ in images]
        for name, values in alone.resample(WEIGHTS).items():
            assert shared.resample(WEIGHTS)[name].tolist() == values.tolist()
        with pytest.raises(ValueError, match=r"^the mask is 2x3, its map is 3x3 \(height x width\)$"):
            engine.add(np.zeros((2, 3)), np.zeros((3, 3)))
        assert shared.images == engine.result().counts["pixel_images"] == 7


def test_an_image_in_no_buffer_that_is_used_again() -> None:
    images = example(11, levels=90)
    expected = statistics(images).resample(WEIGHTS)
    taken = m.PixelStatistics()
    for mask, scores in images:
        own, other = mask.copy(), scores.copy()
        taken.add(own, other)
        own[:], other[:] = 1, 5
    assert {name: list(values) for name, values in taken.resample(WEIGHTS).items()} == {
        name: list(values) for name, values in expected.items()
    }


@pytest.mark.parametrize("ties", [False, True])
def test_image_metrics_of_resamples_are_exact(ties: bool) -> None:
    rng = np.random.default_rng(12)
    labels = rng.integers(0, 2, 40)
    scores = rng.normal(size=40) + labels
    scores[3] = np.inf
    if ties:
        scores = np.round(scores)
    weights = np.concatenate([np.ones((1, 40), dtype=int), m.bootstrap_weights(40, 30, seed=4)])
    resampled = m.resample_image_metrics(labels, scores, weights)
    assert list(resampled) == list(m.IMAGE_METRICS)
    for row, times in enumerate(weights):
        given_again = np.repeat(labels, times), np.repeat(scores, times)
        expected = m.evaluate_detector(*given_again)["image_metrics"]
        assert {name: values[row] for name, values in resampled.items()} == pytest.approx(expected, abs=1e-12, rel=0)


def test_image_metrics_of_a_resample_of_one_kind_are_nan() -> None:
    resampled = m.resample_image_metrics([0, 1, 1], [0.1, 0.2, 0.0], [[1, 0, 0], [0, 1, 1], [1, 1, 1], [0, 0, 0]])
    for values in resampled.values():
        assert np.isnan(values).tolist() == [True, True, False, True]
    assert resampled["image_auroc"][2] == 0.5
    assert all(np.isnan(v).tolist() == [True] for v in m.resample_image_metrics([], [], np.zeros((1, 0), int)).values())


def test_weights_draw_as_many_images_as_there_are_from_each_stratum() -> None:
    labels = np.array([0, 1, 0, 0, 1, 0])
    weights = m.bootstrap_weights(6, 4000, seed=5, strata=labels)
    assert weights.shape == (4000, 6)
    assert weights.dtype == np.int64
    for label in (0, 1):
        assert set(weights[:, labels == label].sum(axis=1).tolist()) == {int((labels == label).sum())}
    assert weights.mean(axis=0) == pytest.approx(np.ones(6), abs=0.06)
    # The variance of one of n counts of a multinomial with n draws is 1 - 1/n.
    assert weights[:, labels == 0].var(axis=0) == pytest.approx(np.full(4, 3 / 4), abs=0.06)
    assert np.array_equal(weights, m.bootstrap_weights(6, 4000, seed=5, strata=labels))
    assert np.array_equal(weights, m.bootstrap_weights(6, 4000, seed=np.random.default_rng(5), strata=labels))
    assert not np.array_equal(weights, m.bootstrap_weights(6, 4000, seed=6, strata=labels))
    assert set(m.bootstrap_weights(6, 100, seed=5).sum(axis=1).tolist()) == {6}


REFUSED: list[tuple[Any, str]] = [
    ([1, 1, 1], "weights has shape (3,); expected one row a resample and one number an image, (R, 3)"),
    ([[1, 1]], "weights has shape (1, 2); expected one row a resample and one number an image, (R, 3)"),
    ([[1.0, 1.0, 0.5]], "weights is of type float64; expected whole numbers"),
    ([[1, 1, 1], [0, 1, -2]], "weights[1, 2] is -2; expected 0 or more"),
]


@pytest.mark.parametrize(("weights", "message"), REFUSED)
def test_weights_that_are_none_are_refused(weights: Any, message: str) -> None:
    taken = statistics(example(images=3))
    for ask in (taken.resample, lambda given: m.resample_image_metrics([0, 1, 1], [1, 2, 3], given)):
        with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
            ask(weights)


def test_what_cannot_be_is_refused() -> None:
    for call, message in [
        (lambda: m.PixelStatistics(bins=1), "bins is 1; expected at least 2"),
        (lambda: m.PixelStatistics(memory=0), "memory is 0; expected a number of bytes above 0"),
        (lambda: m.bootstrap_weights(0, 5, seed=0), "n is 0; expected at least 1"),
        (lambda: m.bootstrap_weights(5, 0, seed=0), "resamples is 0; expected at least 1"),
        (
            lambda: m.bootstrap_weights(3, 2, seed=0, strata=[0, 1]),
            "strata has shape (2,); expected one label an image, (3,)",
        ),
        (
            lambda: statistics(example(images=2)).bounds([[1, 1], [2, 0]]),
            "weights has shape (2, 2); expected one resample, (2,)",
        ),
        (
            lambda: statistics(example(images=2)).resample([[1, 1]], fpr_limits=[0]),
            "limit is 0; expected a false-positive rate above 0 and at most 1",
        ),
        (
            lambda: m.resample_image_metrics([0, 2], [1, 2], [[1, 1]]),
            "labels[1] is 2; expected 0 (normal) or 1 (anomalous), and labels before scores in the call",
        ),
    ]:
        with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
            call()


def test_strata_that_are_no_numbers_are_a_stratum():
    weights = m.bootstrap_weights(4, 50, seed=0, strata=[0.0, float("nan"), 0.0, float("nan")])
    assert (weights[:, [1, 3]].sum(axis=1) == 2).all()
