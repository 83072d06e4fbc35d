"""AU-PRO against fractions worked out by hand, against golden numbers and against the exhaustive curve."""

from __future__ import annotations

import re
from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from uadctl import metrics as m


def flood_fill(mask: np.ndarray) -> list[list[tuple[int, int]]]:
    """The 8-connected regions of a mask as lists of (row, column)."""
    left = {(int(y), int(x)) for y, x in zip(*np.nonzero(mask > 0), strict=True)}
    regions = []
    for start in sorted(left):
        if start not in left:
            continue
        left.remove(start)
        region = [start]
        for y, x in region:
            for near in [(y + dy, x + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)]:
                if near in left:
                    left.remove(near)
                    region.append(near)
        regions.append(region)
    return regions


def exhaustive_aupro(masks: list[np.ndarray], maps: list[np.ndarray], limit: float) -> Fraction | None:
    """The curve over every distinct score of every pixel, in exact arithmetic; None where it is undefined."""
    regions: list[list[float]] = []
    normal: list[float] = []
    for mask, scores in zip(masks, maps, strict=True):
        for region in flood_fill(mask):
            seen = [float(scores[at]) for at in region if not np.isnan(scores[at])]
            if seen:
                regions.append(seen)
        normal += [float(s) for s in scores[mask <= 0] if not np.isnan(s)]
    if not regions or not normal:
        return None
    curve = [(Fraction(0), Fraction(0))]
    for threshold in sorted({score for some in (*regions, normal) for score in some}, reverse=True):
        overlaps = [Fraction(sum(s >= threshold for s in region), len(region)) for region in regions]
        false = Fraction(sum(s >= threshold for s in normal), len(normal))
        curve.append((false, sum(overlaps, Fraction(0)) / len(regions)))
    end = Fraction(limit)
    area = Fraction(0)
    for (x0, y0), (x1, y1) in pairwise(curve):
        if x0 >= end:
            break
        if x1 > end:
            x1, y1 = end, y0 + (y1 - y0) * (end - x0) / (x1 - x0)
        area += (x1 - x0) * (y0 + y1) / 2
    return area / end


def golden_case(ties: bool) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    maps = rng.random((4, 32, 32), dtype=np.float32)
    masks = np.zeros((4, 32, 32), np.uint8)
    masks[0, 2:8, 3:9] = 1
    masks[0, 8:10, 9:11] = 1
    masks[1, 0:3, 0:5] = 1
    masks[1, 20:30, 20:22] = 1
    masks[2, 15, 15] = 1
    maps += 0.5 * masks
    return masks, np.round(maps * 8) / 8 if ties else maps


# From exact rational arithmetic, the corner-touching regions of masks[0] as one.
GOLDEN = {
    False: (0.8971032992930087, 0.608019833905342, 0.711864406779661, 0.5483658098396904, 0.4685634328358209),
    True: (0.8890465435978004, 0.5127430630902191, 0.6428571428571429, 0.5332904890993883, 0.41501358695652174),
}


@pytest.mark.parametrize("ties", [False, True])
def test_golden_numbers_from_one_pass(ties: bool) -> None:
    masks, maps = golden_case(ties)
    assert float(maps.sum(dtype=np.float64)) == (2103.25 if ties else 2101.3023574352264)
    pixels = m.PixelMetrics()
    for mask, scores in zip(masks, maps, strict=True):
        pixels.add(mask, scores)
    result = pixels.result(fpr_limits=(0.3, 0.05))
    assert list(result.metrics) == ["pixel_auroc", "pixel_ap", "pixel_f1max", "aupro_30", "aupro_05"]
    assert list(result.metrics.values()) == pytest.approx(GOLDEN[ties], abs=1e-12, rel=0)
    assert (result.counts["defect_pixels"], result.counts["pixels"], result.counts["regions"]) == (76, 4096, 4)
    single = (m.compute_pixel_auroc, m.compute_pixel_ap, m.compute_pixel_f1max, m.compute_aupro)
    assert [compute(masks, maps) for compute in single] == list(result.metrics.values())[:4]
    assert m.compute_aupro(masks, maps, limit=0.05) == result.metrics["aupro_05"]


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("limit", [0.05, 0.3, 1.0])
def test_agrees_with_the_exhaustive_curve_on_the_golden_case(ties: bool, limit: float) -> None:
    masks, maps = golden_case(ties)
    small = [slice(None), slice(0, 32), slice(0, 24)]
    masks, maps = masks[tuple(small)], maps[tuple(small)]
    expected = exhaustive_aupro(list(masks), list(maps), limit)
    assert expected is not None
    assert m.compute_aupro(masks, maps, limit=limit) == pytest.approx(float(expected), abs=1e-12, rel=0)


def test_regions_of_any_size_count_the_same() -> None:
    # A region of 4 pixels is found at once, one of a single pixel last: half the regions at every FPR below 1.
    mask = np.zeros((4, 4), np.uint8)
    mask[:2, :2] = 1
    mask[3, 3] = 1
    scores = np.full((4, 4), 0.5)
    scores[:2, :2] = 1
    scores[3, 3] = 0
    assert m.compute_aupro([mask], [scores]) == 0.5


def test_pixels_that_touch_by_a_corner_are_one_region() -> None:
    # One region of two pixels, one found at once and one never below FPR 1; as two regions the ratio would be the
    # same, so a third pixel far off, found at once, tells them apart: (1/2 + 1) / 2, not (1 + 0 + 1) / 3.
    mask = np.zeros((1, 5, 5), np.uint8)
    mask[0, 0, 0] = mask[0, 1, 1] = mask[0, 4, 4] = 1
    scores = np.full((1, 5, 5), 0.5)
    scores[0, 0, 0] = scores[0, 4, 4] = 1
    scores[0, 1, 1] = 0
    assert m.compute_aupro(mask, scores) == pytest.approx(3 / 4, abs=1e-15)


def test_good_images_add_their_pixels_to_the_false_positive_rate() -> None:
    # Four normal pixels score above the defect: an FPR of 4/11 alone, beyond the limit; of 4/27 with a good image.
    mask = np.zeros((3, 4), np.uint8)
    mask[0, 0] = 1
    scores = np.zeros((3, 4))
    scores[0, 0], scores[1] = 0.5, 1.0
    assert m.compute_aupro([mask], [scores]) == 0.0
    with_good = m.compute_aupro([mask, np.zeros((4, 4))], [scores, np.zeros((4, 4))])
    assert with_good == pytest.approx((0.3 - 4 / 27) / 0.3, abs=1e-15)


@pytest.mark.parametrize(
    ("above", "equal", "expected"),
    [
        (0, 0, Fraction(1)),
        (2, 0, (Fraction(3, 10) - Fraction(2, 10)) / Fraction(3, 10)),  # a step inside the limit
        (3, 0, Fraction(0)),  # a step at the limit
        (0, 3, Fraction(1, 2)),  # a ramp that ends at the limit
        (1, 4, Fraction(1, 2) * Fraction(2, 10) * Fraction(2, 4) / Fraction(3, 10)),  # the limit cuts a ramp
        (0, 10, Fraction(1, 2) * Fraction(3, 10)),  # a constant map
    ],
)
def test_one_pixel_among_ten_by_hand(above: int, equal: int, expected: Fraction) -> None:
    mask = np.zeros((1, 11), np.uint8)
    mask[0, 0] = 1
    scores = np.zeros((1, 11))
    scores[0, 0] = 1
    scores[0, 1 : 1 + above] = 2
    scores[0, 1 + above : 1 + above + equal] = 1
    assert m.compute_aupro([mask], [scores]) == pytest.approx(float(expected), abs=1e-14)


def test_a_sparse_map_agrees_with_the_exhaustive_curve() -> None:
    rng = np.random.default_rng(3)
    masks = (rng.random((3, 17, 13)) < 0.08).astype(np.uint8)
    masks[2] = 0
    maps = np.where(rng.random(masks.shape) < 0.05 + 0.5 * masks, rng.random(masks.shape, dtype=np.float32), 0)
    for limit in (0.01, 0.05, 0.3, 1.0):
        expected = exhaustive_aupro(list(masks), list(maps), limit)
        assert expected is not None
        assert m.compute_aupro(masks, maps, limit=limit) == pytest.approx(float(expected), abs=1e-12, rel=0)


SHAPES = hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=6)


@st.composite
def pairs(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """A mask and a map of one size; few distinct scores, so that ties are the rule, and a NaN now and then."""
    shape = draw(SHAPES)
    mask = draw(hnp.arrays(np.uint8, shape, elements=st.integers(0, 2)))
    scores = draw(hnp.arrays(np.float32, shape, elements=st.sampled_from([0, 0.25, 0.5, 0.75, 1, np.nan])))
    return mask, scores


@settings(max_examples=150, deadline=None, derandomize=True)
@given(images=st.lists(pairs(), min_size=1, max_size=3), limit=st.sampled_from([0.01, 0.3, 0.5, 1.0]))
def test_agrees_with_the_exhaustive_curve_on_anything(
    images: list[tuple[np.ndarray, np.ndarray]], limit: float
) -> None:
    masks, maps = [mask for mask, _ in images], [scores for _, scores in images]
    expected = exhaustive_aupro(masks, maps, limit)
    pixels = m.PixelMetrics()
    for mask, scores in images:
        pixels.add(mask, scores)
    value = pixels.result(fpr_limits=[limit]).metrics[m.aupro_name(limit)]
    if expected is None:
        assert value is None
    else:
        assert value == pytest.approx(float(expected), abs=1e-12, rel=0)


def test_millions_of_equal_pixels_do_not_drift() -> None:
    # Every pixel adds 1/999,999 to one tied score: added up one by one this is off by more than 1e-12.
    mask = np.ones((1000, 1000), np.uint8)
    mask[0, 0] = 0
    scores = np.zeros((1000, 1000), np.float32)
    assert m.compute_aupro([mask], [scores]) == pytest.approx(0.15, abs=1e-14, rel=0)


NAMES = {0.3: "aupro_30", 0.05: "aupro_05", 0.125: "aupro_125", 0.001: "aupro_001", 0.1: "aupro_10", 1: "aupro_100"}


@pytest.mark.parametrize(("limit", "name"), NAMES.items())
def test_the_name_of_a_limit(limit: float, name: str) -> None:
    assert m.aupro_name(limit) == name


@settings(derandomize=True)
@given(limit=st.floats(1e-9, 1.0))
def test_the_limit_can_be_read_back_from_its_name(limit: float) -> None:
    name = m.aupro_name(limit)
    digits = name.removeprefix("aupro_")
    assert re.fullmatch(r"aupro_[0-9]{2,}", name)
    assert (1.0 if digits == "100" else float("0." + digits)) == limit


@pytest.mark.parametrize("limit", [0, -0.1, 1.5, float("nan"), 30])
def test_a_limit_outside_zero_to_one_is_refused(limit: float) -> None:
    masks, maps = golden_case(ties=False)
    message = f"^limit is {re.escape(str(limit))}; expected a false-positive rate above 0 and at most 1$"
    with pytest.raises(ValueError, match=message):
        m.compute_aupro(masks, maps, limit=limit)
    with pytest.raises(ValueError, match=message):
        m.PixelMetrics().result(fpr_limits=[limit])
    with pytest.raises(ValueError, match=message):
        m.aupro_name(limit)


def test_a_mode_that_does_not_exist_is_refused() -> None:
    masks, maps = golden_case(ties=False)
    with pytest.raises(ValueError, match=r'^mode is "fast"; expected "exact" or "streaming"$'):
        m.compute_aupro(masks, maps, mode="fast")  # type: ignore[arg-type]  # the point of the test
    assert m.compute_aupro(masks, maps, mode="exact") == m.compute_aupro(masks, maps)


def test_regions_agree_with_flood_fill_on_crowded_masks() -> None:
    rng = np.random.default_rng(5)
    for shape in [(1, 97), (97, 1), (64, 65), (120, 31)]:
        mask = rng.random(shape) < 0.35
        pixels = m.PixelMetrics()
        pixels.add(mask, np.zeros(shape))
        regions = flood_fill(mask)
        assert len(regions) > 5
        assert pixels.result().counts["regions"] == len(regions)
