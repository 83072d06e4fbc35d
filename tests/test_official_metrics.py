"""What the protocols of MVTec AD, LOCO, AD 2 and AutoVI measure: by hand in fractions, by brute force, and beside other tools."""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Sequence
from fractions import Fraction
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from uadctl import metrics as m
from uadctl.records import DefectConfig, Sample
from uadctl.spec.data_sets import PROTOCOLS

Defect = tuple[DefectConfig, np.ndarray]


def sample(label: int, defect: str = "good", *, group: str | None = None) -> Sample:
    return Sample("", f"test/{defect}/000.png", "test", label, defect, "tile", group=group)


def measure(images: Sequence[tuple[Any, ...]], **settings: Any) -> m.Measurement:
    """Of images given as the arguments of `add`, at no threshold unless one is given."""
    if "threshold" not in settings:
        settings |= {"threshold": None, "threshold_reason": "none was asked for"}
    taken = m.CategoryMetrics(**settings)
    for image in images:
        taken.add(*image)
    return taken.result()


def exact_area(regions: list[tuple[list[float], int]], normal: list[float], limit: Fraction) -> Fraction:
    """The area under the curve over every distinct score, each region saturated by a number of pixels, over the limit."""
    every = {score for scores, _ in regions for score in scores} | set(normal)
    curve = [(Fraction(0), Fraction(0))]
    for threshold in sorted(every, reverse=True):
        shares = [min(Fraction(sum(s >= threshold for s in scores), enough), Fraction(1)) for scores, enough in regions]
        false = Fraction(sum(s >= threshold for s in normal), len(normal))
        curve.append((false, sum(shares, Fraction(0)) / len(regions)))
    area = Fraction(0)
    for (x0, y0), (x1, y1) in pairwise(curve):
        if x0 >= limit:
            break
        if x1 > limit:
            x1, y1 = limit, y0 + (y1 - y0) * (limit - x0) / (x1 - x0)
        area += (x1 - x0) * (y0 + y1) / 2
    return area / limit


# -- MVTec AD


def mvtec_images(seed: int = 0, *, levels: int | None = 40) -> list[tuple[Any, ...]]:
    """Good images and three kinds of defect, one of them of one region, one of two an image, one of many."""
    rng = np.random.default_rng(seed)
    images: list[tuple[Any, ...]] = []
    for i in range(12):
        mask = np.zeros((24, 20), np.uint8)
        kind = ("good", "crack", "dent", "stain")[i % 4]
        if kind == "crack":
            mask[2 : 6 + i // 4, 3:9] = 1
        elif kind == "dent":
            mask[10:13, 2:6] = mask[15:19, 12:14] = 1
        elif kind == "stain":
            mask[::4, 1::5] = 1
        scores = rng.normal(0, 1, mask.shape) + mask * (0.5 + i % 4)
        if levels:
            scores = np.round(scores * levels / 8) / levels
        images.append((sample(int(kind != "good"), kind), float(scores.max()), scores.astype(np.float32), mask))
    return images


def test_mvtec_ad_is_the_image_and_the_pixel_metrics_and_nothing_more() -> None:
    images = mvtec_images()
    found = measure(images, threshold=0.4, fpr_limits=(0.3, 0.05))
    pixels = m.PixelMetrics()
    for _, _, scores, mask in images:
        pixels.add(mask, scores)
    of_images = m.evaluate_images([s.label for s, *_ in images], [score for _, score, *_ in images], 0.4)
    of_pixels = pixels.result(fpr_limits=(0.3, 0.05))
    assert found.metrics.metrics == of_images.metrics | of_pixels.metrics
    assert list(found.metrics.metrics) == [*of_images.metrics, *of_pixels.metrics]
    assert found.metrics.counts == of_images.counts | of_pixels.counts | {"defect_images_without_mask": 0}
    assert (found.metrics.reasons, found.pixel_mode, found.bounds, found.intervals) == ({}, "exact", {}, {})


def test_each_protocol_has_the_metrics_that_the_registry_says() -> None:
    assert len(PROTOCOLS) == 9
    for name, entry in PROTOCOLS.items():
        found = measure(
            mvtec_images(), protocol=name, saturations=True, pixel_threshold=0.2, fpr_limits=entry.fpr_limits
        )
        of_parts = [name for name in m.GROUP_METRICS if name in entry.metrics]
        names = [*m.IMAGE_METRICS, *m.THRESHOLD_METRICS, *m.pixel_metric_names(fpr_limits=entry.fpr_limits), *entry.own]
        names += of_parts
        assert sorted(found.metrics.metrics) == sorted(names)
        assert set(entry.metrics) <= {*names, *m.GROUP_METRICS}
        assert set(entry.of_pixels) <= set(entry.own)
        assert set(entry.spro) <= set(entry.of_pixels)
        assert bool(entry.spro) == (name in ("mvtec_loco", "autovi"))
        without = measure(mvtec_images(), protocol=name, saturations=True, pixel_threshold=0.2, pixel=False)
        own = [metric for metric in entry.own if metric not in entry.of_pixels]
        assert sorted(without.metrics.metrics) == sorted([*m.IMAGE_METRICS, *m.THRESHOLD_METRICS, *own, *of_parts])
        assert without.pixel_mode is None
        assert set(without.by_defect["dent"]) == {"images", "missed", "miss_rate", "image_auroc", "reasons"}
    message = 'protocol is "mvtec"; expected one of mvtec_ad, mvtec_loco, mvtec_ad2, real_iad, autovi, kolektor, mpdd, bmad, vad'
    with pytest.raises(ValueError, match=f"^{message}$"):
        measure([], protocol="mvtec")


def test_corner_to_corner_is_one_region_and_four_neighbours_would_give_another_figure() -> None:
    # Pixels a and b touch by a corner, c is far off. a and c are found at once, b only after all normal pixels.
    mask, scores = np.zeros((5, 5), np.uint8), np.full((5, 5), 0.5, np.float32)
    mask[0, 0] = mask[1, 1] = mask[4, 4] = 1
    scores[0, 0] = scores[4, 4] = 1
    scores[1, 1] = 0
    normal = [0.5] * 22
    eight = exact_area([([1.0, 0.0], 2), ([1.0], 1)], normal, Fraction(3, 10))
    four = exact_area([([1.0], 1), ([0.0], 1), ([1.0], 1)], normal, Fraction(3, 10))
    assert (eight, four) == (Fraction(3, 4), Fraction(2, 3))
    found = measure([(sample(1, "dots"), 1.0, scores, mask)])
    assert found.metrics.metrics["aupro_30"] == pytest.approx(float(eight), abs=1e-15)
    assert found.by_defect["dots"]["aupro_30"] == pytest.approx(float(eight), abs=1e-15)
    assert found.metrics.counts["regions"] == 2


@pytest.mark.parametrize("levels", [None, 40])
def test_the_aupro_of_a_category_is_that_of_its_kinds_weighed_by_their_regions(levels: int | None) -> None:
    images = mvtec_images(1, levels=levels)
    limits = (0.3, 0.05, 1.0)
    found = measure(images, fpr_limits=limits)
    regions = {"crack": 3 * 1, "dent": 3 * 2, "stain": 3 * 24}
    assert list(found.by_defect) == sorted(regions)
    assert found.metrics.counts["regions"] == sum(regions.values())
    for limit in limits:
        name = m.aupro_name(limit)
        mean = sum(n * found.by_defect[kind][name] for kind, n in regions.items()) / sum(regions.values())
        assert found.metrics.metrics[name] == pytest.approx(mean, abs=1e-12, rel=0)


def test_the_aupro_of_a_kind_is_that_of_its_regions_among_all_normal_pixels() -> None:
    images = mvtec_images(2)
    normal = [float(s) for _, _, scores, mask in images for s in scores[mask == 0]]
    found = measure(images, fpr_limits=(0.25,))
    for kind, boxes in {"crack": [np.s_[0:9, 0:11]], "dent": [np.s_[10:13, 2:6], np.s_[15:19, 12:14]]}.items():
        regions = []
        for taken, _, scores, mask in images:
            if taken.defect == kind:
                inside = [scores[box][mask[box] > 0].tolist() for box in boxes]
                regions += [(some, len(some)) for some in inside]
        assert len(regions) == 3 * len(boxes)
        expected = exact_area(regions, normal, Fraction(1, 4))
        assert found.by_defect[kind]["aupro_25"] == pytest.approx(float(expected), abs=1e-12, rel=0)


def test_the_figures_of_a_kind_by_hand() -> None:
    images = [(sample(0), 0.1), (sample(0), 0.5), (sample(1, "b"), 0.5), (sample(1, "b"), 0.9), (sample(1, "a"), 0.2)]
    found = measure(images, threshold=0.5, pixel=False)
    assert found.by_defect == {
        "a": {"images": 1, "missed": 1, "miss_rate": 1.0, "image_auroc": 1 / 2},
        "b": {"images": 2, "missed": 0, "miss_rate": 0.0, "image_auroc": (3 / 2 + 2) / 4},
    }
    assert list(found.by_defect) == ["a", "b"]
    none = measure(images[2:], pixel=False)
    assert none.by_defect["b"] == {
        "images": 2,
        "missed": None,
        "miss_rate": None,
        "image_auroc": None,
        "reasons": {
            "missed": "none was asked for",
            "miss_rate": "none was asked for",
            "image_auroc": "there is no normal image (2 defect)",
        },
    }


def test_every_figure_of_a_kind_that_is_none_has_its_reason_and_no_other_has_one() -> None:
    images = [image[:2] if image[0].defect == "dent" else image for image in mvtec_images()]
    images = [(*image[:3], None) if image[0].defect == "crack" else image for image in images]
    hidden = np.where(images[3][3] > 0, np.nan, images[3][2]).astype(np.float32)
    images.append((sample(1, "veiled"), 1.0, hidden, images[3][3]))
    images += [(sample(1, "mixed"), 1.0, images[0][2], None), (sample(1, "mixed"), 1.0, None, images[3][3])]
    images.append((sample(1, "plain"), 1.0, images[0][2], None))
    found = measure(images, threshold=0.4, fpr_limits=(0.3, 0.05)).by_defect
    assert {kind: figures.get("reasons") for kind, figures in found.items()} == {
        "crack": dict.fromkeys(("aupro_30", "aupro_05"), "none of its 3 images has a mask"),
        "dent": dict.fromkeys(("aupro_30", "aupro_05"), "none of its 3 images has a mask"),
        "mixed": dict.fromkeys(("aupro_30", "aupro_05"), "none of its 2 images has a map and a mask"),
        "plain": dict.fromkeys(("aupro_30", "aupro_05"), "its image has no mask"),
        "stain": None,
        "veiled": dict.fromkeys(("aupro_30", "aupro_05"), "no defect pixel of its masks was looked at"),
    }
    mapless = [*mvtec_images(), (sample(1, "dull"), 1.0, None, images[3][3])]
    assert measure(mapless, threshold=0.4).by_defect["dull"]["reasons"] == {"aupro_30": "its image has no map"}
    for protocol in PROTOCOLS:
        for settings in ({}, {"memory": 1, "pixels": 1}, {"has_masks": False}, {"saturations": True}):
            for some in (images, [image for image in images if image[0].label], random_loco(3), random_loco(3)[1:4]):
                found = measure(some, protocol=protocol, **settings).by_defect
                assert len(found) >= 3
                for kind, figures in found.items():
                    missing = [name for name, value in figures.items() if value is None]
                    assert sorted(figures.get("reasons", {})) == sorted(missing), kind
                    assert all(figures.get("reasons", {}).values())


def test_why_a_kind_has_no_spro() -> None:
    images = random_loco(6)
    left = [(*image[:4], None) if image[0].defect.endswith("cut") else image for image in images]
    odd = [(sample(1, "bent"), *images[1][1:])]

    def reasons(images: Sequence[tuple[Any, ...]], **settings: Any) -> dict[str, str]:
        found = measure(images, protocol="mvtec_loco", threshold=0.5, **settings).by_defect
        return {kind: figures["reasons"]["spro_05"] for kind, figures in found.items() if "reasons" in figures}

    assert reasons(left + odd, saturations=True) == {
        "bent": "its name begins with neither logical nor structural",
        "structural_anomalies/cut": "none of its 2 images has a mask whose saturation is known",
    }
    kinds = ("logical_anomalies", "structural_anomalies/cut", "structural_anomalies/dent")
    assert reasons(images) == dict.fromkeys(kinds, "the category has no defects_config.json")
    assert reasons(images, saturations=True, has_masks=False) == dict.fromkeys(kinds, "the data set has no masks")
    streamed = reasons(images, saturations=True, pixels=10**6, memory=m.PixelMetrics.memory_for(10**6))
    why = "streaming mode measures all kinds of defect together ([metrics] memory)"
    assert streamed == dict.fromkeys(kinds[1:], why)
    without = [(*image[:2], None, *image[3:]) for image in images]
    assert reasons(without, saturations=True) == dict.fromkeys(kinds, "there are no maps")


def test_the_views_are_not_walked_once_a_kind() -> None:
    class Counted(list[Any]):
        walks = 0

        def __iter__(self) -> Any:
            type(self).walks += 1
            return super().__iter__()

    walks = set()
    for kinds in (2, 30):
        taken = m.CategoryMetrics(protocol="mvtec_loco", threshold=0.5, saturations=True)
        for number in range(kinds):
            taken.add(sample(1, f"logical_{number}"), 0.7, *row([(ABSOLUTE_2, [0.9])], [0.1]))
        Counted.walks = 0
        taken._views = Counted(taken._views)
        assert len(taken.result().by_defect) == kinds
        walks.add(Counted.walks)
    assert len(walks) == 1
    assert walks.pop() > 3


def test_a_kind_without_maps_or_masks_has_no_aupro_and_is_counted() -> None:
    images = [image[:2] if image[0].defect == "dent" else image for image in mvtec_images()]
    images = [(*image[:3], None) if image[0].defect == "crack" else image for image in images]
    images.append((*images[0][:3], None))  # a good image without a mask is none of them
    found = measure(images)
    assert found.metrics.counts["defect_images_without_mask"] == 6
    assert found.metrics.counts["pixel_images"] == 6
    assert found.by_defect["dent"]["aupro_30"] is found.by_defect["crack"]["aupro_30"] is None
    assert found.by_defect["stain"]["aupro_30"] == found.metrics.metrics["aupro_30"]
    masked = measure(images, has_masks=False)
    assert masked.metrics.reasons["aupro_30"] == masked.metrics.reasons["pixel_ap"] == "the data set has no masks"
    assert "defect_images_without_mask" not in masked.metrics.counts
    assert (masked.pixel_mode, masked.by_defect["stain"]["aupro_30"]) == (None, None)


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("pixel", [True, False])
def test_without_ground_truth_every_metric_is_none_for_one_reason(protocol: str, pixel: bool) -> None:
    images = [(sample(-1, "unknown"), 0.5, np.ones((2, 2), np.float32), None)] * 3
    found = measure(images, protocol=protocol, pixel=pixel, has_masks=False, threshold=0.1, bootstrap=20)
    same = measure(mvtec_images(), protocol=protocol, pixel=pixel, has_masks=False, threshold=0.1)
    assert sorted(found.metrics.metrics) == sorted(same.metrics.metrics)
    assert set(found.metrics.reasons.values()) == {"the split has no ground truth (3 images)"}
    assert found.metrics.counts == {"images": 0, "normal_images": 0, "defect_images": 0}
    assert (found.by_defect, found.intervals, found.bounds) == ({}, {}, {})


def test_an_image_of_unknown_label_counts_nowhere() -> None:
    images = mvtec_images()
    unknown = (sample(-1, "crack"), 9.0, np.full((3, 3), 9, np.float32), np.ones((3, 3), np.uint8))
    for protocol in PROTOCOLS:
        settings = {"protocol": protocol, "threshold": 0.4, "pixel_threshold": 0.3, "saturations": True}
        assert measure([unknown, *images, unknown], **settings) == measure(images, **settings)


def test_what_is_undefined_of_no_images_and_of_no_maps_has_a_reason() -> None:
    for protocol in PROTOCOLS:
        none = measure([], protocol=protocol, saturations=True, pixel_threshold=1.0)
        assert none.metrics.reasons["image_auroc"] == "there are no images"
        assert none.metrics.reasons["aupro_30"] == "there are no maps"
        assert set(none.metrics.reasons) == set(none.metrics.metrics)
    images = [(sample(0), 0.1), (sample(1, "logical"), 0.2), (sample(1, "structural"), 0.3)]
    loco = measure(images, protocol="mvtec_loco", saturations=True)
    assert loco.metrics.reasons["spro_05_logical"] == "there are no maps"
    assert loco.metrics.reasons["spro_05"] == "there are no maps"
    assert loco.metrics.counts["defect_images_without_saturation"] == 2
    ad2 = measure(images, protocol="mvtec_ad2", pixel_threshold=1.0)
    assert ad2.metrics.reasons["segf1"] == ad2.metrics.reasons["classf1"] == "there are no maps"


def test_a_map_of_another_size_than_its_mask_is_refused() -> None:
    taken = m.CategoryMetrics(threshold=0.5)
    message = "the mask of test/crack/000.png is 3x2, its map is 2x3 (height x width)"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        taken.add(sample(1, "crack"), 0.5, np.zeros((2, 3), np.float32), np.zeros((3, 2), np.uint8))
    assert taken.result().metrics.counts["images"] == 0


# -- MVTec LOCO


ABSOLUTE_2 = DefectConfig("missing_screw", 255, 2, False)
RELATIVE = DefectConfig("wrong_colour", 254, 0.75, True)


def row(defects: list[tuple[DefectConfig, list[float]]], normal: list[float]) -> tuple[np.ndarray, Any, list[Defect]]:
    """The map, the mask and the defects of an image of one row: one defect after the other, then normal pixels."""
    scores = np.array([[s for _, some in defects for s in some] + normal], np.float32)
    mask, found, start = np.zeros(scores.shape, np.uint8), [], 0
    for config, some in defects:
        pixels = np.zeros(scores.shape, np.bool_)
        pixels[0, start : start + len(some)] = True
        mask[pixels] = 1
        found.append((config, pixels))
        start += len(some)
    return scores, mask, found


def loco(*, logical: Any, structural: Any, good: list[float], **settings: Any) -> m.Measurement:
    images = [
        (sample(0), 0.0, *row([], good)),
        (sample(1, "logical_anomalies"), 1.0, *logical),
        (sample(1, "structural_anomalies"), 1.0, *structural),
    ]
    return measure(images, protocol="mvtec_loco", saturations=True, **settings)


def test_spro_by_hand() -> None:
    # 20 normal pixels in each image, 40 for each sort of defect: the limit of 1/20 is reached with the second.
    # Logical, two defects: the first has enough with 2 of 4 pixels, at FPR 0; the second needs 3 of 4, has 1 at FPR 0,
    # 2 from 1/40 on, and its third at the limit.
    logical = row([(ABSOLUTE_2, [0.9, 0.7, 0.5, 0.1]), (RELATIVE, [0.8, 0.6, 0.2, 0.2])], [0.65, 0.55, *[0.0] * 18])
    of_logical = ((1 + Fraction(1, 3)) / 2 + (1 + Fraction(2, 3)) / 2) / 2
    # Structural: 2.9 pixels or all of 2; the second falls together with 4 normal ones, one of them on the good image:
    # from 1/2 at FPR 0 straight to 1 at FPR 4/40, and the limit is in the middle of it.
    structural = row([(DefectConfig("cut", 255, 2.9, False), [0.9, 0.5])], [0.5, 0.5, 0.5, *[0.0] * 17])
    of_structural = (Fraction(1, 2) + Fraction(3, 4)) / 2
    found = loco(logical=logical, structural=structural, good=[0.5, *[0.0] * 19])
    values = found.metrics.metrics
    assert values["spro_05_logical"] == pytest.approx(float(of_logical), abs=1e-15)
    assert values["spro_05_structural"] == pytest.approx(float(of_structural), abs=1e-15)
    assert values["spro_05"] == pytest.approx(float((of_logical + of_structural) / 2), abs=1e-15)
    assert found.by_defect["logical_anomalies"]["spro_05"] == values["spro_05_logical"]
    assert found.by_defect["structural_anomalies"]["spro_05"] == values["spro_05_structural"]
    assert found.metrics.counts["defect_images_without_saturation"] == 0
    assert (found.metrics.counts["logical_images"], found.metrics.counts["structural_images"]) == (1, 1)
    assert (found.metrics.counts["logical_defects"], found.metrics.counts["structural_defects"]) == (2, 1)


def test_false_positives_lie_outside_all_defects_of_an_image() -> None:
    # Pixels of one defect that another mask shows too count for both; no pixel of a defect is a false positive, not
    # even one beyond the saturation that scores above everything else.
    shared = np.array([[1, 1, 1, 0, *[0] * 20]], bool), np.array([[0, 0, 1, 1, *[0] * 20]], bool)
    scores = np.array([[0.9, 0.8, 0.7, -1.0, 0.75, *[0.0] * 19]], np.float32)
    mask = (shared[0] | shared[1]).astype(np.uint8)
    one = DefectConfig("one", 255, 1, False)
    whole = DefectConfig("whole", 254, 1.0, True)
    image = scores, mask, [(one, shared[0]), (whole, shared[1])]
    found = loco(logical=image, structural=row([(one, [1.0])], [0.0] * 20), good=[0.0] * 20)
    # The first is found at FPR 0, the second by half, from 1/40 on: (1 + 0) / 2, then (1 + 1/2) / 2.
    assert found.metrics.metrics["spro_05_logical"] == pytest.approx((1 / 2 + 3 / 4) / 2, abs=1e-15)
    assert found.metrics.metrics["spro_05_structural"] == 1.0


def random_loco(seed: int, *, levels: int = 12, images: int = 7, side: int = 9) -> list[tuple[Any, ...]]:
    rng = np.random.default_rng(seed)
    found: list[tuple[Any, ...]] = []
    for i in range(images):
        kind = ("good", "logical_anomalies", "structural_anomalies/cut", "structural_anomalies/dent")[i % 4]
        scores = (rng.integers(0, levels, (side, side)) / levels).astype(np.float32)
        if i % 5 == 4:
            scores[0, :3] = np.nan
        defects: list[Defect] = []
        for number in range(int(rng.integers(1, 4)) if kind != "good" else 0):
            pixels = np.zeros(scores.shape, bool)
            top, left = rng.integers(0, side - 3, 2)
            pixels[top : top + rng.integers(1, 4), left : left + rng.integers(1, 4)] = True
            pixels[rng.integers(0, side), rng.integers(0, side)] = True
            scores[pixels] += np.float32(rng.integers(0, 2) / 2)
            config = (
                DefectConfig("a", 255 - number, float(rng.integers(1, 12)), False),
                DefectConfig("b", 255 - number, 1 - rng.integers(0, 2) / 2, True),
            )[int(rng.integers(0, 2))]
            if int(config.saturation_threshold * pixels.sum()):
                defects.append((config, pixels))
        mask = np.zeros(scores.shape, np.uint8)
        for _, pixels in defects:
            mask[pixels] = 1
        found.append((sample(int(kind != "good"), kind), float(np.nanmax(scores)), scores, mask, defects))
    return found


def exact_spro(images: Sequence[tuple[Any, ...]], *, sort: str = "", kind: str | None = None) -> Fraction:
    """By brute force: of the good images and those of one sort, or all, the mean over the defects of one kind, or all."""
    regions: list[tuple[list[float], int]] = []
    normal: list[float] = []
    for taken, _, scores, _, defects in images:
        if taken.label and not taken.defect.startswith(sort):
            continue
        anywhere = np.zeros(scores.shape, bool)
        for config, pixels in defects:
            area, threshold = int(pixels.sum()), config.saturation_threshold
            enough = math.floor(threshold * area) if config.relative_saturation else math.floor(min(threshold, area))
            seen = [float(s) for s in scores[pixels] if not np.isnan(s)]
            anywhere |= pixels
            if seen and kind in (None, taken.defect):
                regions.append((seen, min(enough, len(seen))))
        normal += [float(s) for s in scores[~anywhere] if not np.isnan(s)]
    return exact_area(regions, normal, Fraction(0.05))


@pytest.mark.parametrize("seed", range(12))
def test_spro_agrees_with_brute_force(seed: int) -> None:
    images = random_loco(seed)
    found = measure(images, protocol="mvtec_loco", saturations=True)
    sorts = [exact_spro(images, sort=sort) for sort in ("logical", "structural")]
    expected = {"spro_05": sum(sorts) / 2, "spro_05_logical": sorts[0], "spro_05_structural": sorts[1]}
    for name, value in expected.items():
        assert found.metrics.metrics[name] == pytest.approx(float(value), abs=1e-12, rel=0)
    assert list(found.by_defect) == ["logical_anomalies", "structural_anomalies/cut", "structural_anomalies/dent"]
    for kind, figures in found.by_defect.items():
        value = exact_spro(images, sort=kind.partition("_")[0], kind=kind)
        assert figures["spro_05"] == pytest.approx(float(value), abs=1e-12, rel=0)


@pytest.mark.parametrize("levels", [12, 2**20])
def test_streaming_spro_lies_within_its_bounds(levels: int, monkeypatch: pytest.MonkeyPatch) -> None:
    images = random_loco(20, levels=levels, side=40)
    exact = measure(images, protocol="mvtec_loco", saturations=True, threshold=0.9)
    coarse = functools.partial(m.StreamingPixelMetrics, bins=200)
    monkeypatch.setattr("uadctl.metrics.official.StreamingPixelMetrics", coarse)
    found = measure(images, protocol="mvtec_loco", saturations=True, threshold=0.9, pixels=1, memory=1)
    assert (exact.pixel_mode, exact.bounds, found.pixel_mode) == ("exact", {}, "streaming")
    assert list(found.bounds) == [
        "pixel_auroc",
        "pixel_ap",
        "pixel_f1max",
        "aupro_30",
        "spro_05",
        "spro_05_logical",
        "spro_05_structural",
    ]
    for name, bound in found.bounds.items():
        assert abs(found.metrics.metrics[name] - exact.metrics.metrics[name]) <= bound
        assert bound == 1e-12 if levels == 12 else 1e-12 < bound < 0.1
    both = (found.bounds["spro_05_logical"] + found.bounds["spro_05_structural"]) / 2
    assert found.bounds["spro_05"] == pytest.approx(both, rel=1e-12)
    assert found.metrics.counts == exact.metrics.counts
    for kind, figures in found.by_defect.items():
        only = found.metrics.metrics["spro_05_logical"] if kind == "logical_anomalies" else None
        why = "streaming mode measures all kinds of defect together ([metrics] memory)"
        reasons = {"aupro_30": why} if only is not None else {"aupro_30": why, "spro_05": why}
        assert figures == exact.by_defect[kind] | {"aupro_30": None, "spro_05": only, "reasons": reasons}


def test_whether_it_fits_counts_every_engine() -> None:
    images = random_loco(5)
    one = m.PixelMetrics.memory_for(1000)
    of_spro = ["spro_05", "spro_05_logical", "spro_05_structural"]
    everything = [*m.pixel_metric_names(), *of_spro]
    for protocol, saturations, memory, mode, bounded in [
        ("mvtec_ad", True, one, "exact", []),
        ("mvtec_ad", True, one - 1, "streaming", everything[:4]),
        ("mvtec_loco", False, one, "exact", []),
        ("mvtec_loco", True, 3 * one, "exact", []),
        ("mvtec_loco", True, 3 * one - 1, "exact", of_spro),
        ("mvtec_loco", True, one, "exact", of_spro),
        ("mvtec_loco", True, one - 1, "streaming", everything),
        ("autovi", False, one, "exact", []),
        ("autovi", True, 2 * one, "exact", []),
        ("autovi", True, 2 * one - 1, "exact", of_spro[:1]),
        ("autovi", True, one - 1, "streaming", everything[:5]),
    ]:
        found = measure(images, protocol=protocol, saturations=saturations, pixels=1000, memory=memory)
        assert (found.pixel_mode, list(found.bounds)) == (mode, bounded)
        cut = found.by_defect["structural_anomalies/cut"]
        assert (cut["aupro_30"] is None) == (mode == "streaming")
        if saturations and protocol != "mvtec_ad":
            assert (cut["spro_05"] is None) == bool(bounded)
        if saturations and protocol == "mvtec_loco":
            only = found.by_defect["logical_anomalies"]["spro_05"]
            assert only == found.metrics.metrics["spro_05_logical"] is not None


def test_loco_tells_logical_and_structural_images_apart() -> None:
    sklearn = pytest.importorskip("sklearn.metrics", reason="scikit-learn is the independent implementation")
    rng = np.random.default_rng(3)
    kinds = np.array(["good", "logical_anomalies", "structural_anomalies"])[rng.integers(0, 3, 60)]
    scores = np.round(rng.normal(size=60) + (kinds == "structural_anomalies"), 1)
    images = [(sample(int(kind != "good"), kind), float(score)) for kind, score in zip(kinds, scores, strict=True)]
    values = measure(images, protocol="mvtec_loco", pixel=False).metrics.metrics
    of_sort = {}
    for sort in ("logical", "structural"):
        which = np.char.startswith(kinds, sort) | (kinds == "good")
        of_sort[sort] = sklearn.roc_auc_score(kinds[which] != "good", scores[which])
        assert values[f"image_auroc_{sort}"] == pytest.approx(of_sort[sort], abs=1e-12)
    assert of_sort["logical"] != of_sort["structural"]
    assert values["image_auroc"] == pytest.approx(sum(of_sort.values()) / 2, abs=1e-12)
    assert values["image_auroc_pooled"] == pytest.approx(sklearn.roc_auc_score(kinds != "good", scores), abs=1e-12)
    assert values["image_ap"] == pytest.approx(sklearn.average_precision_score(kinds != "good", scores), abs=1e-12)
    assert values["image_auroc"] != values["image_auroc_pooled"]


def test_a_sort_of_defect_that_is_missing_voids_the_means_and_says_why() -> None:
    images = [image for image in random_loco(5) if image[0].defect != "logical_anomalies"]
    found = measure(images, protocol="mvtec_loco", saturations=True)
    why = 'no kind of defect begins with "logical" (found: structural_anomalies/cut, structural_anomalies/dent)'
    assert {name: found.metrics.reasons[name] for name in found.metrics.reasons if name not in m.THRESHOLD_METRICS} == {
        "image_auroc": why,
        "image_auroc_logical": why,
        "spro_05": why,
        "spro_05_logical": why,
    }
    assert found.metrics.metrics["spro_05_structural"] is not None
    assert found.metrics.metrics["image_auroc_pooled"] is not None
    assert found.metrics.counts["logical_images"] == 0


def test_loco_of_a_data_set_without_either_sort_names_its_kinds() -> None:
    found = measure(mvtec_images(), protocol="mvtec_loco", saturations=True)
    why = 'no kind of defect begins with "logical" (found: crack, dent, stain)'
    assert found.metrics.reasons["image_auroc"] == found.metrics.reasons["spro_05"] == why
    why = 'no kind of defect begins with "structural" (found: crack, dent, stain)'
    assert found.metrics.reasons["image_auroc_structural"] == found.metrics.reasons["spro_05_structural"] == why
    assert found.by_defect["crack"]["spro_05"] is None
    assert found.by_defect["crack"]["aupro_30"] is not None
    good = measure(mvtec_images()[::4], protocol="mvtec_loco", saturations=True)
    assert good.metrics.reasons["image_auroc_logical"] == "there is no defect image (3 normal)"
    assert good.metrics.reasons["spro_05_logical"] == "there is no defect image (3 normal)"
    bad = measure(mvtec_images()[1::4], protocol="mvtec_loco")
    assert bad.metrics.reasons["image_auroc_pooled"] == "there is no normal image (3 defect)"


@pytest.mark.parametrize("memory", [10**9, 1])
def test_defects_that_were_not_looked_at_do_not_count(memory: int) -> None:
    images = random_loco(8)
    hidden = [
        (*image[:2], np.where(image[3] > 0, np.nan, image[2]).astype(np.float32), *image[3:])
        if image[0].label
        else image
        for image in images
    ]
    n = sum(len(image[4]) for image in images if image[0].defect == "logical_anomalies")
    found = measure(hidden, protocol="mvtec_loco", saturations=True, pixels=1, memory=memory)
    why = found.metrics.reasons["spro_05_logical"]
    assert n > 0
    assert why.startswith("the maps are NaN on every defect pixel (images: 4, pixels: ")
    assert why.endswith(f", defects left out: {n})")
    assert ", regions left out: " in found.metrics.reasons["aupro_30"]


def test_without_saturations_spro_is_none_and_an_image_without_is_counted() -> None:
    images = random_loco(6)
    names = ("spro_05", "spro_05_logical", "spro_05_structural")
    for settings, why in [
        ({"saturations": False}, "the category has no defects_config.json"),
        ({"saturations": True, "has_masks": False}, "the data set has no masks"),
    ]:
        found = measure(images, protocol="mvtec_loco", **settings)
        assert {found.metrics.reasons[name] for name in names} == {why}
        assert not {"defect_images_without_saturation", "logical_defects"} & set(found.metrics.counts)
        assert found.by_defect["logical_anomalies"]["spro_05"] is None
    left = [(*image[:4], None if i == 1 else () if i == 2 else image[4]) for i, image in enumerate(images)]
    found = measure(left, protocol="mvtec_loco", saturations=True)
    assert found.metrics.counts["defect_images_without_saturation"] == 2
    without = [image for i, image in enumerate(images) if i not in (1, 2)]
    same = measure(without, protocol="mvtec_loco", saturations=True)
    assert all(found.metrics.metrics[name] == same.metrics.metrics[name] for name in names)


# -- AutoVI


def autovi_images(seed: int, **settings: int) -> list[tuple[Any, ...]]:
    """As `random_loco`, with kinds that are of no sort."""
    names = {
        "logical_anomalies": "missing",
        "structural_anomalies/cut": "clip",
        "structural_anomalies/dent": "multiple",
    }
    return [
        (sample(image[0].label, names.get(image[0].defect, "good")), *image[1:])
        for image in random_loco(seed, **settings)
    ]


def test_autovi_is_one_curve_over_all_defects_and_all_images_by_hand() -> None:
    # 20 normal pixels in each of three images, 60 in all: the limit of 1/20 is reached with the third of them.
    # Two defects of one kind: the first has enough with 2 of 4 pixels, at FPR 0; the second needs 3 of 4, has 1 at
    # FPR 0, 2 from 1/60 on, and its third at 2/60. The only defect of the other kind has 1 of 2 pixels at FPR 0; the
    # second falls together with 4 normal ones, from 2/60 on, and the limit is at a quarter of the way to 6/60.
    missing = row([(ABSOLUTE_2, [0.9, 0.7, 0.5, 0.1]), (RELATIVE, [0.8, 0.6, 0.52, 0.2])], [0.65, 0.55, *[0.0] * 18])
    cut = row([(DefectConfig("cut", 255, 2.9, False), [0.9, 0.5])], [0.5, 0.5, 0.5, *[0.0] * 17])
    good = row([], [0.5, *[0.0] * 19])
    images = [(sample(0), 0.0, *good), (sample(1, "missing"), 1.0, *missing), (sample(1, "unclipped"), 0.4, *cut)]
    found = measure(images, protocol="autovi", saturations=True)
    kind = sum((1 + Fraction(n, 3)) / 2 for n in (1, 2, 3)) / 3  # constant from each false positive to the next
    at_limit = Fraction(1, 2) + Fraction(1, 2) * Fraction(1, 4)
    other = (Fraction(1, 2) + Fraction(1, 2) + (Fraction(1, 2) + at_limit) / 2) / 3
    assert (kind, other, (2 * kind + other) / 3) == (Fraction(5, 6), Fraction(25, 48), Fraction(35, 48))
    values = found.metrics.metrics
    # Three defects, each counting the same: not the mean of the two kinds, nor that of two false-positive rates.
    assert values["spro_05"] == pytest.approx(float((2 * kind + other) / 3), abs=1e-15)
    assert values["spro_05"] != pytest.approx(float((kind + other) / 2), abs=1e-3)
    assert found.by_defect["missing"]["spro_05"] == pytest.approx(float(kind), abs=1e-15)
    assert found.by_defect["unclipped"]["spro_05"] == pytest.approx(float(other), abs=1e-15)
    assert values["image_auroc"] == 1.0
    assert found.metrics.counts["spro_defects"] == 3
    assert found.metrics.counts["defect_images_without_saturation"] == 0
    assert not {"logical_images", "logical_defects", "image_auroc_pooled", "spro_05_logical"} & {
        *found.metrics.counts,
        *values,
    }


@pytest.mark.parametrize("seed", range(12))
def test_spro_of_all_defects_agrees_with_brute_force(seed: int) -> None:
    images = autovi_images(seed)
    found = measure(images, protocol="autovi", saturations=True)
    assert found.metrics.metrics["spro_05"] == pytest.approx(float(exact_spro(images)), abs=1e-12, rel=0)
    regions = dict.fromkeys(("clip", "missing", "multiple"), 0)
    for taken, _, scores, _, defects in images:
        for _, pixels in defects:
            regions[taken.defect] += not np.isnan(scores[pixels]).all()
    assert list(found.by_defect) == list(regions)
    for kind, figures in found.by_defect.items():
        value = exact_spro(images, kind=kind)
        assert figures["spro_05"] == pytest.approx(float(value), abs=1e-12, rel=0)
    assert found.metrics.counts["spro_defects"] == sum(regions.values())
    weighed = sum(n * found.by_defect[kind]["spro_05"] for kind, n in regions.items()) / sum(regions.values())
    assert found.metrics.metrics["spro_05"] == pytest.approx(weighed, abs=1e-12, rel=0)


def test_autovi_does_not_mind_what_the_kinds_are_called() -> None:
    named, other = random_loco(4), autovi_images(4)
    values = [measure(images, protocol="autovi", saturations=True).metrics for images in (named, other)]
    assert values[0] == values[1]
    loco = measure(named, protocol="mvtec_loco", saturations=True).metrics.metrics
    assert abs(loco["spro_05"] - values[0].metrics["spro_05"]) > 1e-4
    assert abs(loco["image_auroc"] - values[0].metrics["image_auroc"]) > 1e-3


@pytest.mark.parametrize("levels", [12, 2**20])
def test_streaming_spro_of_all_defects_lies_within_its_bound(levels: int, monkeypatch: pytest.MonkeyPatch) -> None:
    images = autovi_images(20, levels=levels, side=40)
    exact = measure(images, protocol="autovi", saturations=True, threshold=0.9)
    coarse = functools.partial(m.StreamingPixelMetrics, bins=200)
    monkeypatch.setattr("uadctl.metrics.official.StreamingPixelMetrics", coarse)
    found = measure(images, protocol="autovi", saturations=True, threshold=0.9, pixels=1, memory=1)
    assert (exact.pixel_mode, exact.bounds, found.pixel_mode) == ("exact", {}, "streaming")
    assert list(found.bounds) == [*m.pixel_metric_names(), "spro_05"]
    for name, bound in found.bounds.items():
        assert abs(found.metrics.metrics[name] - exact.metrics.metrics[name]) <= bound
        assert bound == 1e-12 if levels == 12 else 1e-12 < bound < 0.1
    assert found.metrics.counts == exact.metrics.counts
    why = "streaming mode measures all kinds of defect together ([metrics] memory)"
    for kind, figures in found.by_defect.items():
        nothing = {"aupro_30": None, "spro_05": None, "reasons": {"aupro_30": why, "spro_05": why}}
        assert figures == exact.by_defect[kind] | nothing
    only = [image for image in images if image[0].defect in ("good", "missing")]
    alone = measure(only, protocol="autovi", saturations=True, pixels=1, memory=1)
    assert alone.by_defect["missing"]["spro_05"] == alone.metrics.metrics["spro_05"] is not None


def test_why_autovi_has_no_spro() -> None:
    images = autovi_images(6)
    everything = {"saturations": True}
    cases: list[tuple[Sequence[tuple[Any, ...]], dict[str, Any], str]] = [
        (images, {}, "the category has no defects_config.json"),
        (images, everything | {"has_masks": False}, "the data set has no masks"),
        ([image for image in images if not image[0].label], everything, "there is no defect image (2 normal)"),
        ([], everything, "there are no images"),
        ([image[:2] for image in images], everything, "there are no maps"),
    ]
    for some, settings, why in cases:
        found = measure(some, protocol="autovi", **settings)
        assert found.metrics.metrics["spro_05"] is None
        assert found.metrics.reasons["spro_05"] == why
        assert all(figures["reasons"]["spro_05"] == why for figures in found.by_defect.values())
        assert ("spro_defects" in found.metrics.counts) == (settings == everything)
    left = [(*image[:4], None) if image[0].defect == "clip" else image for image in images]
    found = measure(left, protocol="autovi", saturations=True, threshold=0.5)
    assert found.metrics.counts["defect_images_without_saturation"] == 2
    assert found.by_defect["clip"]["reasons"] == {
        "spro_05": "none of its 2 images has a mask whose saturation is known"
    }
    assert found.metrics.metrics["spro_05"] == pytest.approx(
        float(exact_spro([image for image in images if image[0].defect != "clip"])), abs=1e-12, rel=0
    )


def test_defects_of_an_image_that_is_good_have_no_part_in_spro() -> None:
    images = autovi_images(2)
    stray = [(*image[:4], images[1][4]) if not image[0].label else image for image in images]
    assert measure(stray, protocol="autovi", saturations=True) == measure(images, protocol="autovi", saturations=True)


# -- how much of a defect is enough


SATURATIONS = [
    (DefectConfig("a", 255, 100, False), 250, 100),
    (DefectConfig("a", 255, 100, False), 40, 40),
    (DefectConfig("a", 255, 9.9, False), 40, 9),
    (DefectConfig("a", 255, 1.0, True), 40, 40),
    (DefectConfig("a", 255, 0.3, True), 11, 3),
    (DefectConfig("a", 255, 0.29, True), 100, 28),  # 0.29 * 100 is less than 29 in float64, as in the benchmark's code
]


@pytest.mark.parametrize(("config", "area", "enough"), SATURATIONS)
def test_how_much_of_a_defect_is_enough(config: DefectConfig, area: int, enough: int) -> None:
    assert m.saturation_of(config, area) == enough


def test_a_saturation_of_no_pixel_is_refused_by_the_name_of_its_config() -> None:
    for config, area, message in [
        (DefectConfig("bent", 255, 0.05, True), 19, "a saturation of 0.05 of its area is no whole pixel of its 19"),
        (DefectConfig("bent", 255, 0.5, False), 19, "a saturation of 0.5 pixels is no whole pixel of its 19"),
        (DefectConfig("bent", 255, 3, False), 0, "a saturation of 3 pixels is no whole pixel of its 0"),
    ]:
        with pytest.raises(ValueError, match=f"^defect bent: {re.escape(message)}; expected at least 1$"):
            m.saturation_of(config, area)
    taken = m.CategoryMetrics(protocol="mvtec_loco", saturations=True, threshold=0.5)
    image = row([(DefectConfig("bent", 255, 0.05, True), [1.0] * 19)], [0.0])
    before = taken.result()
    message = r"^defect bent: a saturation of 0\.05 of its area is no whole pixel of its 19; expected at least 1$"
    with pytest.raises(ValueError, match=message):
        taken.add(sample(1, "logical_anomalies"), 1.0, *image)
    message = r"^a mask of test/logical/000\.png is 1x3, its map is 1x20 \(height x width\)$"
    with pytest.raises(ValueError, match=message):
        taken.add(sample(1, "logical"), 1.0, *image[:2], [(ABSOLUTE_2, np.ones((1, 3), np.bool_))])
    assert taken.result() == before


# -- MVTec AD 2


def test_segf1_and_classf1_by_hand() -> None:
    # Pixels at or above 0.5: 2 true, 1 false on the bad image, 1 false on a good one; 1 missed; one NaN is left out.
    bad = (
        sample(1, "bad"),
        1.0,
        np.array([[0.5, 0.9, 0.4, 0.6, np.nan]], np.float32),
        np.array([[1, 1, 1, 0, 1]], np.uint8),
    )
    good = sample(0), 0.1, np.array([[0.49, 0.5]], np.float32), np.zeros((1, 2), np.uint8)
    quiet = sample(0), 0.1, np.array([[0.1, np.nan]], np.float32), np.zeros((1, 2), np.uint8)
    unmasked = sample(1, "bad"), 0.2, np.array([[0.2, 0.3]], np.float32), None
    mapless = sample(1, "bad"), 0.9, None, None
    found = measure([bad, good, quiet, unmasked, mapless], protocol="mvtec_ad2", pixel_threshold=0.5)
    assert found.metrics.metrics["segf1"] == pytest.approx(float(Fraction(2 * 2, 2 * 2 + 2 + 1)), abs=1e-15)
    # Images: one found, one called wrongly, one missed; the one without a map has no part.
    assert found.metrics.metrics["classf1"] == pytest.approx(float(Fraction(2, 2 + 1 + 1)), abs=1e-15)
    streamed = measure([bad, good, quiet], protocol="mvtec_ad2", pixel_threshold=0.5, pixels=1, memory=1)
    assert streamed.pixel_mode == "streaming"
    assert streamed.metrics.metrics["segf1"] == found.metrics.metrics["segf1"]
    assert not {"segf1", "classf1"} & set(streamed.bounds)


def test_a_pixel_is_compared_in_float64() -> None:
    # The float32 next to 0.1 is above it: as a Python number 0.1 would be rounded to it, and 0.1 + 1e-9 as well.
    image = sample(1, "bad"), 1.0, np.array([[0.1, 0.0]], np.float32), np.array([[1, 0]], np.uint8)
    at = {0.1: 1.0, float(np.float32(0.1)): 1.0, 0.1 + 3e-9: 0.0}
    for threshold, expected in at.items():
        found = measure([image], protocol="mvtec_ad2", pixel_threshold=threshold)
        assert found.metrics.metrics["segf1"] == found.metrics.metrics["classf1"] == expected


def test_segf1_agrees_with_scikit_learn() -> None:
    sklearn = pytest.importorskip("sklearn.metrics", reason="scikit-learn is the independent implementation")
    images = mvtec_images(7)
    found = measure(images, protocol="mvtec_ad2", pixel_threshold=0.3)
    truth = np.concatenate([mask.ravel() for *_, mask in images])
    called = np.concatenate([scores.ravel() for _, _, scores, _ in images]) >= 0.3
    assert found.metrics.metrics["segf1"] == pytest.approx(sklearn.f1_score(truth, called), abs=1e-12)
    labels = [taken.label for taken, *_ in images]
    assert found.metrics.metrics["classf1"] == pytest.approx(
        sklearn.f1_score(labels, [bool((scores >= 0.3).any()) for _, _, scores, _ in images]), abs=1e-12
    )


def test_why_segf1_and_classf1_are_undefined() -> None:
    good = sample(0), 0.1, np.zeros((2, 3), np.float32), np.zeros((2, 3), np.uint8)
    bad = sample(1, "bad"), 0.9, np.ones((2, 3), np.float32), None
    at = "at or above the pixel threshold 0.5"
    cases = [
        (
            [good],
            {"pixel_threshold": 0.5},
            f"there is no defect pixel, and none of 6 pixels is {at}",
            f"there is no defect image, and no pixel of 1 maps is {at}",
        ),
        ([good, bad], {}, "the run has no pixel threshold", "the run has no pixel threshold"),
        ([good, bad], {"has_masks": False}, "the data set has no masks", "the run has no pixel threshold"),
        ([good, bad], {"has_masks": False, "pixel_threshold": 0.5}, "the data set has no masks", None),
        ([bad], {"pixel_threshold": 0.5}, "there are no maps", None),
        ([good, bad], {"pixel_threshold": 0.5}, f"there is no defect pixel, and none of 6 pixels is {at}", None),
    ]
    for images, settings, of_pixels, of_images in cases:
        found = measure(images, protocol="mvtec_ad2", **settings)
        assert found.metrics.reasons.get("segf1") == of_pixels
        assert found.metrics.reasons.get("classf1") == of_images
        if of_images is None:
            assert found.metrics.metrics["classf1"] == 1.0


# -- beside other tools


def unit_images(seed: int, ties: bool) -> tuple[np.ndarray, np.ndarray]:
    """(5, 40, 48) masks, one without a defect, one with regions that touch by a corner, and maps within [0, 1]."""
    rng = np.random.default_rng(seed)
    masks = np.zeros((5, 40, 48), np.uint8)
    masks[0, 3:9, 4:20] = masks[1, 30:, 40:] = masks[1, 0:2, 0] = 1
    masks[2, 10:14, 10:14] = masks[2, 14:16, 14:20] = masks[3, 20:24, 0:3] = 1
    maps = np.clip(rng.beta(2, 6, masks.shape) + 0.25 * masks, 0, 1).astype(np.float32)
    return masks, np.round(maps * 50) / np.float32(50) if ties else maps


def our_aupro(masks: np.ndarray, maps: np.ndarray, limit: float) -> float:
    images = [
        (sample(int(mask.any()), "bad" if mask.any() else "good"), 0.5, scores, mask)
        for mask, scores in zip(masks, maps, strict=True)
    ]
    value = measure(images, fpr_limits=(limit,)).metrics.metrics[m.aupro_name(limit)]
    assert value is not None
    return value


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("limit", [0.3, 0.05])
def test_aupro_agrees_with_pyaupro(ties: bool, limit: float) -> None:
    pyaupro = pytest.importorskip("pyaupro", reason="it carries the curve of MVTec AD's own evaluation code")
    import torch

    masks, maps = unit_images(1, ties)
    curve = pyaupro.PerRegionOverlap(thresholds=None, reference_implementation=True)
    curve.update(torch.from_numpy(maps), torch.from_numpy(masks.astype(np.int64)))
    fprs, pros = (points.double().numpy() for points in curve.compute())
    inside = fprs <= limit
    x, y = np.append(fprs[inside], limit), np.append(pros[inside], np.interp(limit, fprs, pros))
    area = float(np.sum(np.diff(x) * (y[1:] + y[:-1]) / 2)) / limit
    assert our_aupro(masks, maps, limit) == pytest.approx(area, abs=1e-5)


# anomalib's import leaves DeprecationWarnings of its own dependencies behind; they are not ours to mend.
@pytest.mark.filterwarnings("ignore")
@pytest.mark.slow
def test_aupro_agrees_with_anomalib_on_scores_within_zero_to_one() -> None:
    pytest.importorskip("anomalib", reason="the reference implementation is anomalib's")
    import torch
    from anomalib.metrics.aupro import _AUPRO

    for ties in (False, True):
        masks, maps = unit_images(2, ties)
        for limit in (0.3, 0.05):
            reference = _AUPRO(fpr_limit=limit)
            reference.update(torch.from_numpy(maps), torch.from_numpy(masks.astype(np.int64)))
            assert our_aupro(masks, maps, limit) == pytest.approx(float(reference.compute()), abs=1e-5)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.slow
def test_anomalib_passes_raw_scores_through_a_sigmoid_batch_by_batch() -> None:
    """Why its AUROC is compared within [0, 1] only: a batch beyond that is squeezed, one within it is left as it is.

    The sigmoid keeps the order of the scores of one batch, save where it saturates: scores from 17 on are all 1 in
    float32, so ties. Scores of batches of which only some are squeezed are not comparable any more.
    """
    pytest.importorskip("anomalib", reason="the reference implementation is anomalib's")
    import torch
    from anomalib.metrics.auroc import _AUROC

    def theirs(*batches: tuple[list[float], list[int]]) -> float:
        reference = _AUROC()
        for scores, labels in batches:
            reference.update(torch.tensor(scores), torch.tensor(labels))
        return float(reference.compute())

    labels, scores = [0, 1, 0, 1], [0.2, 0.4, 1.5, 3.0]
    ours = m.compute_image_auroc(labels, scores)
    assert ours == theirs((scores, labels)) == 0.75
    # One batch in [0, 1], one beyond: 0.9, a defect, is left above sigmoid(1.5) = 0.82, a normal one that beats it.
    labels, scores = [0, 1, 0, 1], [0.2, 0.9, 1.5, 3.0]
    assert m.compute_image_auroc(labels, scores) == 0.75
    assert theirs((scores[:2], labels[:2]), (scores[2:], labels[2:])) == 1.0
    # Saturated: all ties.
    labels, scores = [0, 1, 0, 1], [20.0, 30.0, 40.0, 50.0]
    assert m.compute_image_auroc(labels, scores) == 0.75
    assert theirs((scores, labels)) == 0.5
