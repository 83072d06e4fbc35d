"""AU-sPRO against fractions worked out by hand and against the exhaustive curve in exact arithmetic."""

from __future__ import annotations

import re
from fractions import Fraction
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from uadctl import metrics as m


def exhaustive_spro(masks: Any, maps: Any, saturations: Any, limit: float) -> Fraction | None:
    """The curve over every distinct score of every pixel, defect by defect; None where it is undefined."""
    defects: list[tuple[list[float], int]] = []
    normal: list[float] = []
    for some, scores, enough in zip(masks, maps, saturations, strict=True):
        anywhere = np.zeros(scores.shape, bool)
        for mask, saturation in zip(some, enough, strict=True):
            seen = [float(s) for s in scores[mask > 0] if not np.isnan(s)]
            anywhere |= mask > 0
            if seen:
                defects.append((seen, min(saturation, len(seen))))
        normal += [float(s) for s in scores[~anywhere] if not np.isnan(s)]
    if not defects or not normal:
        return None
    every = {score for seen, _ in defects for score in seen} | set(normal)
    curve = [(Fraction(0), Fraction(0))]
    for threshold in sorted(every, reverse=True):
        overlaps = [
            min(Fraction(sum(s >= threshold for s in seen), saturation), Fraction(1)) for seen, saturation in defects
        ]
        false = Fraction(sum(s >= threshold for s in normal), len(normal))
        curve.append((false, sum(overlaps, Fraction(0)) / len(defects)))
    end = Fraction(limit)
    area = Fraction(0)
    for (x0, y0), (x1, y1) in pairwise(curve):
        if x0 >= end:
            break
        if x1 > end:
            x1, y1 = end, y0 + (y1 - y0) * (end - x0) / (x1 - x0)
        area += (x1 - x0) * (y0 + y1) / 2
    return area / end


MASK = np.array([[1, 1, 1, 1, 0, 0, 0, 0]])
SCORES = np.array([[0.9, 0.7, 0.5, 0.1, 0.8, 0.6, 0.4, 0.2]])


@pytest.mark.parametrize(
    ("saturation", "limit", "expected"),
    [
        # Half found at FPR 0, the defect saturated from FPR 1/4 on.
        (2, 0.5, (Fraction(1, 2) / 4 + Fraction(1, 4)) / Fraction(1, 2)),
        (2, 0.3, (Fraction(1, 2) / 4 + Fraction(1, 20)) / Fraction(3, 10)),
        (1, 0.5, Fraction(1)),
        # 1/3, then 2/3, then all of it at FPR 1/2.
        (3, 0.5, (Fraction(1, 3) + Fraction(2, 3)) / 4 / Fraction(1, 2)),
        (4, 1.0, Fraction(1 + 2 + 3 + 3, 4 * 4)),
    ],
)
def test_one_defect_by_hand(saturation: int, limit: float, expected: Fraction) -> None:
    value = m.compute_spro([[MASK]], [SCORES], [[saturation]], limit=limit)
    assert value == pytest.approx(float(expected), abs=1e-15)
    assert m.compute_spro([MASK], [SCORES], [[saturation]], limit=limit) == value


def test_equal_scores_at_the_saturation_fall_together() -> None:
    # At 0.5 three pixels of the defect, one of them more than enough, and two of four normal ones: from sPRO 1/2 at
    # FPR 0 straight to sPRO 1 at FPR 1/2.
    scores = np.array([[0.9, 0.5, 0.5, 0.5, 0.5, 0.5, 0.1, 0.1]])
    assert m.compute_spro([MASK], [scores], [[2]], limit=0.5) == pytest.approx(3 / 4, abs=1e-15)
    assert m.compute_spro([MASK], [scores], [[2]], limit=0.25) == pytest.approx(5 / 8, abs=1e-15)


def test_a_defect_in_two_pieces_is_one_defect() -> None:
    # Two of three pixels make it: the piece that scores 0 need not be found. As two defects it would be 1/2.
    mask = np.array([[1, 1, 0, 0, 1, 0]])
    scores = np.array([[0.9, 0.9, 0.5, 0.5, 0.0, 0.5]])
    assert m.compute_spro([[mask]], [scores], [[2]]) == 1.0
    assert m.compute_spro([[mask]], [scores], [[3]]) == pytest.approx(2 / 3, abs=1e-15)


def test_pixels_in_two_defects_count_for_both_and_defects_count_the_same() -> None:
    # The large defect is found but for one pixel, the small one by the pixel they share.
    large, small = np.array([[1, 1, 1, 1, 0, 0]]), np.array([[0, 0, 0, 1, 1, 0]])
    scores = np.array([[0.0, 0.9, 0.9, 0.9, 0.0, 0.5]])
    assert m.compute_spro([[large, small]], [scores], [[4, 2]]) == pytest.approx((3 / 4 + 1 / 2) / 2, abs=1e-15)
    assert m.compute_spro([[large, small]], [scores], [[3, 1]]) == 1.0


def test_good_images_add_their_pixels_to_the_false_positive_rate() -> None:
    # One normal pixel of 4 beats the defect, one of 20 with a good image; an empty sequence or zeros say "good".
    scores = np.array([[0.5, 0.5, 0.5, 0.5, 0.9, 0.0, 0.0, 0.0]])
    assert m.compute_spro([MASK], [scores], [[2]], limit=0.25) == 0.0
    for good in ([], np.zeros((4, 4)), ()):
        value = m.compute_spro([MASK, good], [scores, np.zeros((4, 4))], [[2], []], limit=0.25)
        assert value == pytest.approx((0.25 - 1 / 20) / 0.25, abs=1e-15)


def separate_defects(seed: int, ties: bool) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    masks = np.zeros((3, 20, 20), np.uint8)
    masks[0, 2:7, 3:9] = masks[1, 10:12, 10:19] = masks[2, 0, 0] = 1
    maps = rng.random(masks.shape, dtype=np.float32) + np.float32(0.4) * masks
    return masks, np.round(maps * 8) / 8 if ties else maps


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("limit", [0.05, 0.3, 1.0])
def test_saturated_by_the_whole_area_it_is_aupro(ties: bool, limit: float) -> None:
    masks, maps = separate_defects(1, ties)
    areas = [[int(mask.sum())] for mask in masks]
    assert m.compute_spro(list(masks), maps, areas, limit=limit) == pytest.approx(
        m.compute_aupro(masks, maps, limit=limit), abs=1e-14, rel=0
    )
    half = [[max(1, area // 2)] for (area,) in areas]
    assert m.compute_spro(list(masks), maps, half, limit=limit) > m.compute_aupro(masks, maps, limit=limit)


@st.composite
def cases(draw: st.DrawFn) -> tuple[list[np.ndarray], np.ndarray, list[int]]:
    """Some defects that may overlap, a map with ties and a NaN now and then, and saturations up to the area."""
    shape = draw(hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=5))
    masks = draw(st.lists(hnp.arrays(np.uint8, shape, elements=st.sampled_from([0, 0, 1, 255])), max_size=3))
    masks = [mask for mask in masks if mask.any()]
    scores = draw(hnp.arrays(np.float32, shape, elements=st.sampled_from([0, 0.25, 0.5, 0.75, 1, np.inf, np.nan])))
    return masks, scores, [draw(st.integers(1, np.count_nonzero(mask))) for mask in masks]


@settings(max_examples=200, deadline=None, derandomize=True)
@given(images=st.lists(cases(), min_size=1, max_size=3), limit=st.sampled_from([0.01, 0.05, 0.3, 0.5, 1.0]))
def test_agrees_with_the_exhaustive_curve_on_anything(images: list[Any], limit: float) -> None:
    masks, maps, saturations = zip(*images, strict=True)
    expected = exhaustive_spro(masks, maps, saturations, limit)
    if expected is None:
        with pytest.raises(ValueError, match=rf"^AU-sPRO to {limit} is undefined: "):
            m.compute_spro(masks, maps, saturations, limit=limit)
    else:
        value = m.compute_spro(masks, maps, saturations, limit=limit)
        assert value == pytest.approx(float(expected), abs=1e-12, rel=0)


def test_agrees_with_the_exhaustive_curve_on_maps_without_ties() -> None:
    rng = np.random.default_rng(2)
    masks, maps = separate_defects(2, ties=False)
    several = [[mask, np.roll(mask, 3, axis=0)] for mask in masks]
    saturations = [[int(rng.integers(1, mask.sum(), endpoint=True)) for mask in some] for some in several]
    for limit in (0.02, 0.05, 0.3):
        expected = exhaustive_spro(several, maps, saturations, limit)
        assert expected is not None
        value = m.compute_spro(several, maps, saturations, limit=limit)
        assert value == pytest.approx(float(expected), abs=1e-12, rel=0)


def test_a_saturation_beyond_the_area_stands_for_the_area() -> None:
    for limit in (0.05, 0.5):
        whole = m.compute_spro([MASK], [SCORES], [[4]], limit=limit)
        assert m.compute_spro([MASK], [SCORES], [[5]], limit=limit) == whole
        assert m.compute_spro([MASK], [SCORES], [np.array([10**6])], limit=limit) == whole


def test_nan_pixels_are_left_out_and_saturations_stay_until_they_are_beyond_what_is_left() -> None:
    scores = SCORES.copy()
    scores[0, 3] = scores[0, 7] = np.nan  # three of four defect pixels, three of four normal ones are left
    for saturation, same in [(1, 1), (2, 2), (3, 3), (4, 3)]:
        value = m.compute_spro([MASK], [scores], [[saturation]], limit=0.5)
        assert value == m.compute_spro(
            [MASK[:, [0, 1, 2, 4, 5, 6]]], [scores[:, [0, 1, 2, 4, 5, 6]]], [[same]], limit=0.5
        )


def test_a_defect_that_was_not_looked_at_does_not_count() -> None:
    hidden = np.zeros((1, 10), np.uint8)
    hidden[0, 8:] = 1
    mask = np.pad(MASK, [(0, 0), (0, 2)])
    scores = np.pad(SCORES, [(0, 0), (0, 2)], constant_values=np.nan)
    value = m.compute_spro([[mask, hidden]], [scores], [[2, 2]], limit=0.5)
    assert value == m.compute_spro([MASK], [SCORES], [[2]], limit=0.5)


@pytest.mark.parametrize(
    "as_masks",
    [
        lambda masks: list(masks),
        lambda masks: masks[:, None],
        lambda masks: [mask.astype(bool) for mask in masks],
        lambda masks: [[mask * np.uint16(65535)] for mask in masks],
        lambda masks: [[np.stack([0 * mask, mask, 0 * mask], axis=-1)] for mask in masks],
        lambda masks: masks.tolist(),
        lambda masks: masks[:, None].tolist(),
    ],
)
def test_masks_of_any_kind(as_masks: Any) -> None:
    masks, maps = separate_defects(3, ties=False)
    expected = exhaustive_spro([[mask] for mask in masks], maps, [[9], [9], [1]], 0.05)
    assert expected is not None
    value = m.compute_spro(as_masks(masks), maps, [[9], (9,), np.array([1])])
    assert value == pytest.approx(float(expected), abs=1e-12, rel=0)


ZEROS = np.zeros((1, 8))
REFUSED: list[tuple[Any, Any, Any, str]] = [
    ([MASK], [SCORES], [], "1 masks, 1 maps and 0 saturations; expected one of each an image"),
    ([None], [SCORES], [[1]], "masks[0] is None; leave the image out, or give an empty sequence if it has no defect"),
    ([[MASK, None]], [SCORES], [[1, 1]], "masks[0][1] is None; leave the image out, or give zeros if it has no defect"),
    ([[MASK, MASK.T]], [SCORES], [[1, 1]], "masks[0][1] is 8x1, maps[0] is 1x8 (height x width)"),
    ([[], [MASK.T]], [SCORES, SCORES], [[], [1]], "masks[1][0] is 8x1, maps[1] is 1x8 (height x width)"),
    ([[MASK, ZEROS]], [SCORES], [[1, 1]], "masks[0][1] has no pixel above 0; expected the pixels of one defect"),
    ([MASK], [SCORES[0]], [[1]], "maps[0] has shape (8,); expected (height, width), not empty"),
    ([MASK], [SCORES], [[0]], "saturations[0][0] is 0; expected at least 1 pixel"),
    ([[MASK, MASK]], [SCORES], [[2, -3]], "saturations[0][1] is -3; expected at least 1 pixel"),
    ([MASK], [SCORES], [[1, 2]], "saturations[0] has 2 entries, masks[0] has 1 defects; expected one each"),
    ([ZEROS], [SCORES], [[1]], "saturations[0] has 1 entries, masks[0] has 0 defects; expected one each"),
    ([MASK], [SCORES], [2], "saturations[0] is 2; expected a sequence of whole numbers of pixels, one a defect"),
    (
        [MASK],
        [SCORES],
        [[0.5]],
        "saturations[0] is [0.5]; expected a sequence of whole numbers of pixels, one a defect",
    ),
    ([ZEROS], [SCORES], [[]], "AU-sPRO to 0.05 is undefined: the masks have no defect pixel (images: 1, pixels: 8)"),
    ([], [], [], "AU-sPRO to 0.05 is undefined: there are no maps"),
    (
        [1 + ZEROS],
        [SCORES],
        [[8]],
        "AU-sPRO to 0.05 is undefined: the masks have no normal pixel (images: 1, pixels: 8)",
    ),
    (
        [MASK],
        [np.where(MASK > 0, np.nan, SCORES)],
        [[2]],
        "AU-sPRO to 0.05 is undefined: the maps are NaN on every defect pixel "
        "(images: 1, pixels: 4, NaN pixels left out: 4, defects left out: 1)",
    ),
]


@pytest.mark.parametrize(("masks", "maps", "saturations", "message"), REFUSED)
def test_what_cannot_be_measured_is_refused(masks: Any, maps: Any, saturations: Any, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        m.compute_spro(masks, maps, saturations)


@pytest.mark.parametrize("limit", [0, 1.5, float("nan")])
def test_a_limit_outside_zero_to_one_is_refused(limit: float) -> None:
    message = f"^limit is {limit}; expected a false-positive rate above 0 and at most 1$"
    with pytest.raises(ValueError, match=message):
        m.compute_spro([MASK], [SCORES], [[1]], limit=limit)
