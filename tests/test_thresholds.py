"""Thresholds from normal scores: the quantile of images, and mean + 3 std of pixels."""

from __future__ import annotations

import math
import re
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from in_bands import Stored, use_bands

from uadctl.errors import DataError
from uadctl.metrics import is_anomalous
from uadctl.records import Box
from uadctl.thresholds import PixelCalibration, Threshold, quantile_threshold


def float32_above(value: float) -> float:
    return float(np.nextafter(np.float32(value), np.float32(np.inf)))


def test_a_tenth_of_ten_images_is_one_image() -> None:
    scores = np.arange(10, dtype=np.float32)
    threshold = quantile_threshold(scores, alpha=0.1)
    assert threshold == float32_above(8)
    assert is_anomalous(scores, threshold).tolist() == [False] * 9 + [True]


def test_with_few_images_the_threshold_lies_just_above_the_largest_score() -> None:
    scores = np.linspace(0.1, 0.9, 20, dtype=np.float32)
    threshold = quantile_threshold(scores, alpha=0.01)
    assert threshold == float32_above(scores.max())
    assert not is_anomalous(scores, threshold).any()
    assert quantile_threshold([0.5], alpha=0.01) == float32_above(0.5)


# (n, alpha, k): ceil(n (1 - alpha)) in decimal arithmetic. In floating point, the first two come out as k + 1, as
# the third does from n - floor(n alpha); the fourth and fifth do where alpha is taken as the exact binary number.
ORDER = [(10, 0.7, 3), (20, 0.95, 1), (100, 0.29, 71), (20, 0.15, 17), (10, 0.3, 7), (100, 0.01, 99), (99, 0.01, 99)]


@pytest.mark.parametrize(("n", "alpha", "k"), ORDER)
def test_the_order_statistic_is_counted_without_rounding(n: int, alpha: float, k: int) -> None:
    scores = np.random.default_rng(0).permutation(np.arange(1, n + 1))
    assert quantile_threshold(scores, alpha=alpha) == float32_above(k)
    assert quantile_threshold(scores, alpha=np.float64(alpha)) == float32_above(k)


SCORES = st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=60)


@settings(deadline=None, derandomize=True)
@given(scores=SCORES, per_mille=st.integers(1, 999))
def test_no_lower_float32_keeps_the_share_of_false_alarms(scores: list[float], per_mille: int) -> None:
    threshold = quantile_threshold(scores, alpha=per_mille / 1000)
    allowed = len(scores) * per_mille // 1000
    assert is_anomalous(scores, threshold).sum() <= allowed
    lower = float(np.nextafter(np.float32(threshold), np.float32(-np.inf)))
    assert is_anomalous(scores, lower).sum() > allowed


def test_tied_scores_fall_on_one_side() -> None:
    scores = [1.0] * 5 + [2.0] * 5
    assert quantile_threshold(scores, alpha=0.5) == float32_above(1)
    assert quantile_threshold(scores, alpha=0.3) == float32_above(2)
    assert not is_anomalous(scores, quantile_threshold(scores, alpha=0.3)).any()


def test_the_threshold_is_a_float32_above_float64_scores_too() -> None:
    for score in (0.1, 1 / 3, -0.1, 0.0, 1e-60, -1e30):
        threshold = quantile_threshold([score], alpha=0.01)
        assert threshold > score
        assert float(np.float32(threshold)) == threshold
        assert float(np.nextafter(np.float32(threshold), np.float32(-np.inf))) <= score
        assert float(repr(threshold)) == threshold


REFUSED: list[tuple[Any, float, str]] = [
    ([], 0.01, "there is no score; a threshold needs at least one normal image outside the model's training"),
    ([0.1, math.nan], 0.01, "scores[1] is nan; expected finite numbers"),
    ([math.inf, 0.1], 0.01, "scores[0] is inf; expected finite numbers"),
    ([[0.1]], 0.01, "scores has shape (1, 1); expected one number an image, (n,)"),
    (["a"], 0.01, "scores is of type <U1; expected numbers"),
    ([1e39], 0.01, "the score 1e+39 is beyond float32; no threshold lies above it"),
    ([0.1], 0.0, "alpha is 0.0; expected a share of normal images above 0 and below 1"),
    ([0.1], 1.0, "alpha is 1.0; expected a share of normal images above 0 and below 1"),
    ([0.1], math.nan, "alpha is nan; expected a share of normal images above 0 and below 1"),
]


@pytest.mark.parametrize(("scores", "alpha", "message"), REFUSED)
def test_what_gives_no_threshold_is_refused(scores: Any, alpha: float, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        quantile_threshold(scores, alpha=alpha)


def test_the_largest_float32_has_no_threshold_above_it() -> None:
    with pytest.raises(ValueError, match=r"^the score .* is beyond float32; no threshold lies above it$"):
        quantile_threshold([float(np.finfo(np.float32).max)], alpha=0.5)


def test_pixel_statistics_by_hand() -> None:
    calibration = PixelCalibration()
    calibration.add([[1.0, 2.0]])
    calibration.add(np.array([[3.0, math.nan], [6.0, 8.0]], dtype=np.float32))
    # 1, 2, 3, 6, 8: mean 4, squared distances 9 + 4 + 1 + 4 + 16 = 34 over 5.
    assert (calibration.images, calibration.n, calibration.left_out) == (2, 5, 1)
    assert calibration.mean == pytest.approx(4, abs=1e-15)
    assert calibration.std == pytest.approx(math.sqrt(34 / 5), abs=1e-15)
    assert calibration.max == 8
    assert calibration.threshold() == pytest.approx(4 + 3 * math.sqrt(34 / 5), abs=1e-14)


def test_a_threshold_of_equal_pixels_lies_above_them() -> None:
    for value in (0.0, 1.5):
        calibration = PixelCalibration()
        calibration.add(np.full((2, 2), value, np.float32))
        assert calibration.threshold() == float(np.nextafter(np.float32(value), np.float32(np.inf))) > value


def test_streamed_pixel_statistics_equal_those_of_all_pixels() -> None:
    # A spread of 1e-3 beside a mean of 1000: E[x²] - E[x]² would be wrong in the first digits.
    rng = np.random.default_rng(1)
    maps = [rng.normal(1000, 1e-3, size=shape) for shape in [(7, 5), (1, 1), (1200, 1000), (3, 400)]]
    calibration = PixelCalibration()
    for scores in maps:
        calibration.add(scores)
    pixels = np.concatenate([scores.ravel() for scores in maps])
    assert calibration.n == pixels.size
    assert calibration.mean == pytest.approx(pixels.mean(), rel=1e-14)
    assert calibration.std == pytest.approx(pixels.std(), rel=1e-9)
    assert calibration.max == pixels.max()


def statistics(calibration: PixelCalibration) -> tuple[float, ...]:
    return (*(getattr(calibration, name) for name in ("images", "n", "left_out", "mean", "std", "max")),)


@pytest.mark.parametrize("rows", [1, 7, 300, 5000])
def test_maps_in_files_give_the_numbers_of_arrays(monkeypatch: pytest.MonkeyPatch, rows: int) -> None:
    use_bands(monkeypatch, rows)
    rng = np.random.default_rng(2)
    maps = [rng.normal(3, 1, size=shape).astype(np.float32) for shape in [(1400, 900), (1, 1), (9, 400), (2, 2**21)]]
    maps[0][1000:1200] = np.nan
    whole, files = PixelCalibration(), PixelCalibration()
    stored = [Stored(scores) for scores in maps]
    for scores, file in zip(maps, stored, strict=True):
        whole.add(scores)
        files.add(file)
    assert statistics(files) == statistics(whole)  # to the bit: added up in the same blocks
    assert files.threshold() == whole.threshold()
    assert stored[0].most == min(rows, 1400) * 900


class Broken(Stored):
    """Its last row cannot be read."""

    def read(self, box: Box) -> np.ndarray:
        if box.y0 + box.height == self.size.height:
            raise DataError("map.tiff is truncated")
        return super().read(box)


def test_a_map_in_a_file_that_is_refused_late_is_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    use_bands(monkeypatch, 600)
    scores = np.ones((3000, 900), np.float32)
    calibration = PixelCalibration()
    calibration.add([[0.5, 1.5]])
    before = statistics(calibration)
    with pytest.raises(DataError, match=r"^map\.tiff is truncated$"):
        calibration.add(Broken(scores))
    scores[-1, -1] = math.inf
    for given_map in (scores, Stored(scores)):
        with pytest.raises(
            ValueError, match=r"^the map holds an infinite value; expected finite scores, or NaN where "
        ):
            calibration.add(given_map)
    assert statistics(calibration) == before


def test_maps_that_calibrate_nothing() -> None:
    calibration = PixelCalibration()
    calibration.add(np.full((2, 3), np.nan))
    for read in (lambda c: c.mean, lambda c: c.std, lambda c: c.max, lambda c: c.threshold()):
        with pytest.raises(
            ValueError, match=r"^there is no pixel to calibrate on \(normal images: 1, NaN pixels: 6\)$"
        ):
            read(calibration)
    for scores, message in [
        (
            [[1.0, math.inf]],
            "the map holds an infinite value; expected finite scores, or NaN where nothing was looked at",
        ),
        ([1.0, 2.0], "the map has shape (2,); expected (height, width)"),
        ([["a"]], "the map is of type <U1; expected numbers"),
    ]:
        with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
            calibration.add(scores)
    assert (calibration.images, calibration.n) == (1, 0)


def test_a_threshold_is_written_and_read_back() -> None:
    chosen = Threshold(value=quantile_threshold([0.1, 0.2], alpha=0.01), alpha=0.01, n=2, source="leave-one-out")
    assert msgspec.json.decode(msgspec.json.encode(chosen), type=Threshold) == chosen
    none = Threshold(value=None, alpha=0.01, reason="20 training images are needed for a holdout, there are 3")
    assert msgspec.json.decode(msgspec.json.encode(none), type=Threshold) == none


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"value": None}, "a threshold without a value needs a reason"),
        ({"value": math.nan, "source": "holdout"}, "the threshold is nan; expected a finite number"),
        (
            {"value": 0.5, "source": "holdout", "reason": "why"},
            "the threshold is 0.5, and a reason says why there is none: give one of the two",
        ),
        ({"value": 0.5}, "the threshold is 0.5, but its source is not given"),
    ],
)
def test_a_threshold_has_a_value_and_its_source_or_a_reason(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        Threshold(**fields)
