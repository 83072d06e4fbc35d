"""Intervals by bootstrap: those of a loop that measures the drawn images anew, by every protocol."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

import numpy as np
import pytest

from uadctl import metrics as m
from uadctl.metrics.intervals import draw_weights
from uadctl.records import DefectConfig, Sample
from uadctl.spec.data_sets import PROTOCOLS

KINDS = ("good", "logical_anomalies", "structural_anomalies", "good", "scratch")


def example(seed: int = 0, *, images: int = 15, side: int = 16, levels: int | None = 60, groups: int = 0) -> list[Any]:
    """The arguments of `add`; levels: so many distinct scores a unit; groups: how many parts the images show."""
    rng = np.random.default_rng(seed)
    found: list[Any] = []
    for i in range(images):
        kind = KINDS[i % 5]
        mask = np.zeros((side, side + i % 3), np.uint8)
        if kind != "good":
            mask[2 : 5 + i % 4, 3:9] = mask[side - 3 :, 10:12] = 1
        scores = rng.normal(0, 1, mask.shape) + mask * 1.5 + rng.normal(0, 0.6)
        if levels:
            scores = np.round(scores * levels) / levels
        group = f"part {i % groups}" if groups and i % 7 else None
        sample = Sample("", f"test/{kind}/{i:03}.png", "test", int(kind != "good"), kind, "tile", group=group)
        top = mask.copy()
        top[side // 2 :] = 0
        defects = [(DefectConfig("d", 255, 0.5, True), some > 0) for some in (top, mask - top) if some.any()]
        found.append((sample, round(float(scores.max()), 1), scores.astype(np.float32), mask, defects))
    return found


def measure(images: list[Any], **settings: Any) -> m.Measurement:
    settings = {"threshold": 3.2, "pixel_threshold": 1.5, "saturations": True} | settings
    taken = m.CategoryMetrics(**settings)
    for image in images:
        taken.add(*image)
    return taken.result()


def by_loop(images: list[Any], units: list[str], strata: list[str], resamples: int, **settings: Any) -> dict[str, Any]:
    """name -> the value in each resample, every one measured from the images that it gives again.

    units: the part of each image. strata: of each part, in the order in which they first come.
    """
    parts = list(dict.fromkeys(units))
    values: dict[str, list[float]] = {}
    for weights in np.concatenate(list(draw_weights(strata, resamples, seed=settings.pop("seed", 0)))):
        drawn = []
        for part, times in zip(parts, weights, strict=True):
            for copy in range(times):
                for image, unit in zip(images, units, strict=True):
                    if unit == part:
                        group = image[0].group and f"{image[0].group}, copy {copy}"
                        drawn.append((dataclasses.replace(image[0], group=group), *image[1:]))
        for name, value in measure(drawn, **settings).metrics.metrics.items():
            values.setdefault(name, []).append(np.nan if value is None else value)
    return {name: np.array(some) for name, some in values.items()}


def ends(values: np.ndarray) -> tuple[float, float]:
    return tuple(np.quantile(values[~np.isnan(values)], [0.025, 0.975]).tolist())


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_intervals_are_those_of_images_measured_again(protocol: str) -> None:
    images = example()
    images[6] = (*images[6][:3], None, None)  # a defect whose mask is not known
    images[8], images[12] = images[8][:2], images[12][:2]  # no map of a good image, and of a bad one
    found = measure(images, protocol=protocol, bootstrap=40, seed=5)
    strata = [
        image[0].defect if protocol == "mvtec_loco" else "good" if not image[0].label else "defect" for image in images
    ]
    named = [
        {"logical_anomalies": "logical", "structural_anomalies": "structural", "scratch": "defect"}.get(s, s)
        for s in strata
    ]
    values = by_loop(images, [str(i) for i in range(15)], named, 40, protocol=protocol, seed=5)
    named_metrics = found.metrics.metrics
    numbers = [name for name, value in named_metrics.items() if name not in m.COUNTED and value is not None]
    # No image of the example shows a part that others show as well.
    assert set(named_metrics) - set(numbers) - set(m.COUNTED) == ({"group_auroc"} if protocol == "real_iad" else set())
    assert list(found.intervals) == numbers
    assert set(PROTOCOLS[protocol].own) <= set(numbers)
    undefined = {
        name for name in numbers if np.isnan(values[name]).any()
    }  # by resamples without a defect that is known
    assert undefined == ({"spro_05", "spro_05_logical"} if protocol == "mvtec_loco" else set())
    for name in numbers:
        interval = found.intervals[name]
        assert interval is not None
        assert interval == pytest.approx(ends(values[name]), abs=1e-12, rel=0), name
        assert 0 <= interval[0] <= interval[1] <= 1
        assert [type(end) for end in interval] == [float, float]


@pytest.mark.parametrize("protocol", ["mvtec_ad", "mvtec_loco"])
def test_parts_are_drawn_with_all_their_views(protocol: str) -> None:
    images = example(1, groups=6)
    for group in ("part 3", "part 9", None):  # of a part with defects, of a good one, and of none
        unknown = Sample("", "test/who_knows/000.png", "test", -1, "who_knows", "tile", group=group)
        images.insert(0, (unknown, 9.0, *images[-1][2:]))
    images.append((dataclasses.replace(images[3][0], group="part 9"), 0.5, *images[3][2:]))
    found = measure(images, protocol=protocol, bootstrap=30, seed=2)
    units = [image[0].group or f"alone {i}" for i, image in enumerate(images)]
    strata = []
    for unit in dict.fromkeys(units):
        views = [image[0] for image, of in zip(images, units, strict=True) if of == unit]
        bad = [view.defect for view in views if view.label == 1]
        sorts = {"logical_anomalies": "logical", "structural_anomalies": "structural"}
        known = "good" if all(view.label == 0 for view in views) else "unknown"
        strata.append(("defect" if protocol == "mvtec_ad" else sorts.get(bad[0], "defect")) if bad else known)
    assert 1 < len(strata) < 15
    assert {"good", "defect", "unknown"} <= set(strata)
    values = by_loop(images, units, strata, 30, protocol=protocol, seed=2)
    assert {"group_auroc", "group_ap", "group_f1max", "group_miss_rate", "group_false_alarm_rate"} <= set(
        found.intervals
    )
    for name, interval in found.intervals.items():
        if interval is None:
            assert 2 * np.isnan(values[name]).sum() > 30
        else:
            assert interval == pytest.approx(ends(values[name]), abs=1e-12, rel=0), name


@pytest.mark.parametrize("mode", ["exact", "streaming"])
def test_scores_of_many_values_move_the_ends_by_little(mode: str) -> None:
    images = example(2, levels=None, side=40)
    assert sum(image[2].size for image in images) > 2 * 8192
    memory = 10**9 if mode == "exact" else 1
    found = measure(images, bootstrap=25, pixels=1, memory=memory)
    assert found.pixel_mode == mode
    strata = ["good" if not image[0].label else "defect" for image in images]
    values = by_loop(images, [str(i) for i in range(15)], strata, 25)
    for name in m.pixel_metric_names():
        low, high = ends(values[name])
        assert high - low > 0.02
        assert found.intervals[name] == pytest.approx((low, high), abs=0.01 * (high - low), rel=0), name
    for name in m.IMAGE_METRICS:
        assert found.intervals[name] == pytest.approx(ends(values[name]), abs=1e-12, rel=0)


def test_the_same_seed_gives_the_same_intervals_in_blocks_of_any_size(monkeypatch: pytest.MonkeyPatch) -> None:
    images = example(3)
    settings = {"protocol": "mvtec_loco", "bootstrap": 50}
    first = measure(images, **settings, seed=1)
    assert measure(images, **settings, seed=1) == first
    assert measure(images, **settings, seed=2).intervals != first.intervals
    assert measure(images, **settings, seed=2).metrics == first.metrics
    monkeypatch.setattr("uadctl.metrics.intervals._CELLS", 15 * 7)
    again = measure(images, **settings, seed=1)
    assert list(again.intervals) == list(first.intervals)
    for name, interval in first.intervals.items():
        assert again.intervals[name] == pytest.approx(interval, abs=1e-13, rel=0)


def test_weights_come_in_blocks_and_keep_the_strata(monkeypatch: pytest.MonkeyPatch) -> None:
    strata = ["good", "defect", "good", "good", "defect"]
    whole = np.concatenate(list(draw_weights(strata, 300, seed=4)))
    monkeypatch.setattr("uadctl.metrics.intervals._CELLS", 60)
    blocks = list(draw_weights(strata, 300, seed=4))
    assert [block.shape for block in blocks] == [(12, 5)] * 25
    assert np.array_equal(np.concatenate(blocks), whole)
    assert set(whole[:, [0, 2, 3]].sum(axis=1).tolist()) == {3}
    assert set(whole[:, [1, 4]].sum(axis=1).tolist()) == {2}
    assert len(np.unique(whole, axis=0)) > 20
    assert whole.mean(axis=0) == pytest.approx(np.ones(5), abs=0.15)
    assert list(draw_weights([], 10, seed=0)) == []


def test_without_a_bootstrap_there_are_no_intervals_and_with_it_no_other_number_changes() -> None:
    images = example(4)
    for protocol in PROTOCOLS:
        without = measure(images, protocol=protocol)
        assert without.intervals == {}
        with_it = measure(images, protocol=protocol, bootstrap=5)
        assert dataclasses.replace(with_it, intervals={}, images=None) == without
        assert (without.replicates, without.images) == ({}, None)
        assert list(with_it.replicates) == list(with_it.intervals)
        for name, values in with_it.replicates.items():
            assert values.shape == (5,)
            assert m.percentile_interval(values) == with_it.intervals[name]


def test_a_metric_that_is_none_has_no_interval_and_counts_have_none() -> None:
    images = example(5)
    found = measure(images, threshold=None, threshold_reason="none was asked for", has_masks=False, bootstrap=10)
    assert list(found.intervals) == list(m.IMAGE_METRICS)
    none = measure([], threshold=1.0, bootstrap=10)
    assert none.intervals == {}
    good = measure([image for image in images if not image[0].label], bootstrap=10, protocol="mvtec_ad2")
    assert good.intervals["false_alarm_rate"] is not None
    assert "image_auroc" not in good.intervals
    assert "tn" in good.metrics.metrics
    assert not set(good.intervals) & set(m.COUNTED)


def test_a_metric_that_most_resamples_leave_undefined_has_the_interval_none() -> None:
    # One of 60 images is called: it is in about 63 of 100 resamples, and only there precision is defined.
    views = [(Sample("", "a.png", "test", 0, "good", "tile"), 0.1)] * 30 + [
        (Sample("", "b.png", "test", 1, "bad", "tile"), 0.2)
    ] * 29
    images = [*views, (Sample("", "b.png", "test", 1, "bad", "tile"), 0.9)]
    found = measure(images, threshold=0.5, bootstrap=200, pixel=False)
    assert found.intervals["precision"] == (1.0, 1.0)
    values = np.array([0.25, 0.5, np.nan, np.nan])
    assert m.percentile_interval(values) == pytest.approx((0.25 + 0.025 * 0.25, 0.5 - 0.025 * 0.25), abs=1e-15)
    assert m.percentile_interval(np.array([0.25, np.nan, np.nan])) is None
    assert m.percentile_interval(np.array([np.nan])) is m.percentile_interval(np.array([])) is None
    assert m.percentile_interval(np.array([1 + 1e-16 * 3, -1e-17])) == pytest.approx((0.025, 0.975), abs=1e-15)
    assert m.percentile_interval(np.array([1.0000000000000002] * 3)) == (1.0, 1.0)


def test_a_hand_computed_interval() -> None:
    # Two good and one bad image: a resample's AUROC is the share of its good ones below 0.5: 1, 1/2 or 0.
    images = [
        (Sample("", "a.png", "test", 0, "good", "tile"), 0.1),
        (Sample("", "a.png", "test", 0, "good", "tile"), 0.9),
        (Sample("", "b.png", "test", 1, "bad", "tile"), 0.5),
    ]
    found = measure(images, threshold=0.7, bootstrap=400, pixel=False)
    assert found.metrics.metrics["image_auroc"] == 0.5
    assert found.intervals["image_auroc"] == (0.0, 1.0)
    assert found.intervals["false_alarm_rate"] == (0.0, 1.0)
    assert found.intervals["miss_rate"] == (1.0, 1.0)


@pytest.mark.slow
def test_intervals_cover_the_truth_about_as_often_as_they_say() -> None:
    # Normal scores N(0, 1), defect scores N(1, 1): the AUROC is the chance of N(1, 2) being above 0.
    truth = 0.7602499389065233
    rng = np.random.default_rng(0)
    covered = 0
    for seed in range(200):
        scores = np.concatenate([rng.normal(0, 1, 50), rng.normal(1, 1, 50)])
        images = [
            (Sample("", "a.png", "test", int(i >= 50), "bad" if i >= 50 else "good", "tile"), float(score))
            for i, score in enumerate(scores)
        ]
        low, high = measure(images, bootstrap=300, seed=seed, pixel=False).intervals["image_auroc"] or (0, 0)
        covered += low <= truth <= high
    assert 180 <= covered <= 198


def test_what_is_drawn_from_has_one_name_whatever_was_measured():
    images = example(5, images=6)
    name = measure(images, bootstrap=3).images
    assert name is not None
    assert re.fullmatch("[0-9a-f]{64}", name)
    others = [(sample, score + 1, *rest) for sample, score, *rest in images]
    assert measure(others, bootstrap=8, seed=4, threshold=1.0, pixel=False).images == name
    assert measure(images[::-1], bootstrap=3).images != name
    assert measure(images[:-1], bootstrap=3).images != name
    assert measure(images, bootstrap=3, protocol="mvtec_loco").images != name  # other strata
    together = [
        (dataclasses.replace(sample, group="a" if i in (0, 3) else None), *rest)
        for i, (sample, *rest) in enumerate(images)
    ]
    assert measure(together, bootstrap=3).images != name
    for change in ({"relative": "test/x.png"}, {"label": 1}):
        first = (dataclasses.replace(images[0][0], **change), *images[0][1:])
        assert measure([first, *images[1:]], bootstrap=3).images != name, change


def test_images_without_ground_truth_are_drawn_from_and_give_nothing():
    unknown = [(dataclasses.replace(sample, label=-1), *rest) for sample, *rest in example(6, images=4)]
    found = measure(unknown, bootstrap=3)
    assert (found.intervals, found.replicates) == ({}, {})
    assert found.images is not None
    assert measure(unknown).images is None
