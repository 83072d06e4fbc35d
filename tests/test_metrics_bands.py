"""Metrics of maps that are read in bands: the numbers of the same images in arrays, and never a whole image at once."""

from __future__ import annotations

import re
import tracemalloc
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from in_bands import Pixels, Stored, use_bands

from uadctl import metrics as m
from uadctl.errors import DataError
from uadctl.imaging.overlay import overlay
from uadctl.imaging.raster import ArrayRaster, StoredMap
from uadctl.metrics.pooled import Pool
from uadctl.metrics.region import RegionsInBands, label_regions
from uadctl.records import Box, DefectConfig, Sample, Size
from uadctl.thresholds import PixelCalibration

RANKED = ("pixel_auroc", "pixel_ap", "pixel_f1max")
LIMITS = (0.3, 0.05)
BANDS: tuple[Any, ...] = (1, 2, 5, 1000, lambda number: 1 + number % 4)


def images(seed: int, *, n: int = 6, levels: int | None = None) -> list[tuple[np.ndarray, np.ndarray]]:
    """Masks, good ones among them, whose regions reach over many rows, and maps with NaN."""
    rng = np.random.default_rng(seed)
    found = []
    for i in range(n):
        height, width = int(rng.integers(9, 40)), int(rng.integers(9, 40))
        mask = np.zeros((height, width), np.uint8)
        if i % 3 == 1:
            mask[rng.random(mask.shape) < 0.3] = 1
        if i % 3 == 2:
            mask[1:-1, 2] = mask[1:-1, 6] = 255  # a U: two regions until its last row
            mask[-2, 2:7] = 255
            mask[0, -1] = 1
        scores = rng.normal(0, 1, mask.shape) + (mask > 0)
        if levels:
            scores = np.round(scores * levels) / levels
        if i % 2:
            scores[: height // 3] = np.nan
            scores[rng.random(mask.shape) < 0.1] = np.nan
        found.append((mask, scores.astype(np.float32)))
    return found


def taken(engine: Any, pairs: Sequence[tuple[Any, Any]]) -> Any:
    for mask, anomaly_map in pairs:
        engine.add(mask, anomaly_map)
    return engine


def as_files(pairs: Sequence[tuple[np.ndarray, np.ndarray]]) -> list[tuple[Any, Any]]:
    """Every map in a file, and every second mask."""
    return [(Pixels(mask) if i % 2 else mask, Stored(field)) for i, (mask, field) in enumerate(pairs)]


# -- regions


def partition(box: tuple[slice, slice], inside: np.ndarray, labels: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """(H, W) the first pixel, in reading order, of the region that each defect pixel is in; -1 beside defects."""
    field = np.full(shape, -1)
    rows, columns = np.nonzero(inside)
    _, first, which = np.unique(labels, return_index=True, return_inverse=True)
    at = (rows + box[0].start) * shape[1] + columns + box[1].start
    field[rows + box[0].start, columns + box[1].start] = at[first][which]
    return field


@pytest.mark.parametrize("height", [1, 2, 3, 7])
@pytest.mark.parametrize("share", [0.05, 0.3, 0.5, 0.9])
def test_regions_of_bands_are_those_of_the_whole_mask(height: int, share: float) -> None:
    rng = np.random.default_rng(int(100 * share) + height)
    for _ in range(60):
        defect = rng.random((int(rng.integers(1, 25)), int(rng.integers(1, 25)))) < share
        regions = RegionsInBands()
        for top in range(0, len(defect), height):
            regions.add(defect[top : top + height])
        box, labels = label_regions(defect)
        joined = regions.joined()
        assert regions.count == labels.max(initial=0)
        assert sorted(set(joined.tolist())) == list(range(1, regions.count + 1))
        if labels.size:
            expected = partition(box, defect[box], labels, defect.shape)
            whole = (slice(0, None), slice(0, None))
            assert np.array_equal(partition(whole, defect, joined, defect.shape), expected)


def test_regions_that_meet_only_far_below_are_one() -> None:
    # A comb upside down: five teeth, joined in the last row; a corner touches across the bands; one pixel by itself.
    teeth = np.zeros((9, 13), np.bool_)
    teeth[:, 0:9:2] = True
    teeth[8, :9] = True
    teeth[4, 9] = True  # beside the fifth tooth
    teeth[5, 10] = True  # by its corner
    teeth[0, 12] = True
    regions = RegionsInBands()
    for row in teeth:
        regions.add(row[None])
    assert regions.count == 2
    assert np.bincount(regions.joined()).tolist() == [0, int(teeth.sum()) - 1, 1]


def test_a_mask_in_one_band_is_numbered_as_before() -> None:
    defect = np.random.default_rng(0).random((20, 30)) < 0.2
    regions = RegionsInBands()
    regions.add(defect)
    assert np.array_equal(regions.joined(), label_regions(defect)[1])


# -- pixel metrics


@pytest.mark.parametrize("rows", BANDS)
@pytest.mark.parametrize("levels", [None, 4])
def test_exact_metrics_are_those_of_arrays(monkeypatch: pytest.MonkeyPatch, rows: Any, levels: int | None) -> None:
    use_bands(monkeypatch, rows)
    for seed in range(4):
        pairs = images(seed, levels=levels)
        whole = taken(m.PixelMetrics(), pairs).result_by_region(fpr_limits=LIMITS)
        files = taken(m.PixelMetrics(), as_files(pairs)).result_by_region(fpr_limits=LIMITS)
        assert files.metrics.counts == whole.metrics.counts
        assert whole.metrics.counts["pixels_left_out"] > 0
        assert whole.metrics.counts["regions"] > 10
        for name in RANKED:
            assert files.metrics.metrics[name] == whole.metrics.metrics[name]
        assert set(whole.areas) == {"aupro_30", "aupro_05"}
        for name in whole.areas:
            # The regions themselves to the bit; in which order they are added up differs.
            assert sorted(files.areas[name].tolist()) == sorted(whole.areas[name].tolist())
            assert files.metrics.metrics[name] == pytest.approx(whole.metrics.metrics[name], abs=1e-15)


def test_many_scores_are_counted_as_those_of_arrays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Pool, "FEW", 500)
    monkeypatch.setattr(Pool, "CHUNK", 64)
    monkeypatch.setattr(Pool, "TABLE", 2**24)
    use_bands(monkeypatch, 3)
    pairs = images(9, n=9)
    whole, files = taken(m.PixelMetrics(), pairs), taken(m.PixelMetrics(), as_files(pairs))
    assert files._pool._tables
    expected, found = whole.result().metrics, files.result().metrics
    assert [found[name] for name in RANKED] == [expected[name] for name in RANKED]
    assert found["aupro_30"] == pytest.approx(expected["aupro_30"], abs=1e-15)


@pytest.mark.parametrize("rows", BANDS)
@pytest.mark.parametrize("bins", [16, 65_536])
def test_streaming_metrics_are_those_of_arrays(monkeypatch: pytest.MonkeyPatch, rows: Any, bins: int) -> None:
    use_bands(monkeypatch, rows)
    pairs = images(3)
    whole = taken(m.StreamingPixelMetrics(bins=bins), pairs)
    files = taken(m.StreamingPixelMetrics(bins=bins), as_files(pairs))
    expected, found = whole.result(fpr_limits=LIMITS), files.result(fpr_limits=LIMITS)
    assert found.counts == expected.counts
    assert found.metrics == pytest.approx(expected.metrics, abs=1e-12)
    assert files.bounds(fpr_limits=LIMITS) == pytest.approx(whole.bounds(fpr_limits=LIMITS), abs=1e-12)


@pytest.mark.parametrize("rows", BANDS)
@pytest.mark.parametrize("bins", [16, 8192])
def test_resamples_are_those_of_arrays(monkeypatch: pytest.MonkeyPatch, rows: Any, bins: int) -> None:
    use_bands(monkeypatch, rows)
    pairs = images(4)
    whole, files = taken(m.PixelStatistics(bins=bins), pairs), taken(m.PixelStatistics(bins=bins), as_files(pairs))
    weights = m.bootstrap_weights(len(pairs), 20, seed=0, strata=whole.with_defect)
    expected = whole.resample(weights, fpr_limits=LIMITS)
    assert len(expected) == 5
    for name, values in files.resample(weights, fpr_limits=LIMITS).items():
        np.testing.assert_allclose(values, expected[name], rtol=0, atol=1e-12)
    assert files.bounds() == pytest.approx(whole.bounds(), abs=1e-12)


def test_masks_in_files_go_with_maps_in_arrays() -> None:
    pairs = images(5)
    expected = taken(m.PixelMetrics(), pairs).result()
    assert taken(m.PixelMetrics(), [(Pixels(mask), field) for mask, field in pairs]).result() == expected


def test_colours_of_a_mask_count_in_bands_too(monkeypatch: pytest.MonkeyPatch) -> None:
    use_bands(monkeypatch, 2)
    (mask, field) = images(6)[2]
    coloured = np.zeros((*mask.shape, 4), np.uint8)
    coloured[..., 1] = mask
    coloured[..., 3] = 255  # alpha
    expected = taken(m.PixelMetrics(), [(mask, field)]).result()
    for given in (coloured, Pixels(coloured)):
        assert taken(m.PixelMetrics(), [(given, Stored(field))]).result().counts == expected.counts


def test_an_image_that_was_never_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    use_bands(monkeypatch, 2)
    mask, field = np.ones((5, 4), np.uint8), np.full((5, 4), np.nan, np.float32)
    for engine in (m.PixelMetrics, m.StreamingPixelMetrics):
        expected = taken(engine(), [(mask, field)]).result()
        assert taken(engine(), [(mask, Stored(field))]).result() == expected
        assert expected.counts["regions_left_out"] == 1


# -- what is refused, and what is not counted


class Broken(Stored):
    """Its last row cannot be read."""

    def read(self, box: Box) -> np.ndarray:
        if box.y0 + box.height == self.size.height:
            raise DataError("map.tiff is truncated")
        return super().read(box)


ZEROS = np.zeros((6, 5), np.uint8)
UNREADABLE = np.full((6, 5), np.nan)
REFUSED: list[tuple[Any, Any, type[Exception], str]] = [
    (np.zeros((5, 6)), Stored(ZEROS), ValueError, "the mask is 5x6, its map is 6x5 (height x width)"),
    (Pixels(np.zeros((5, 6))), Stored(ZEROS), ValueError, "the mask is 5x6, its map is 6x5 (height x width)"),
    (Pixels(np.zeros((5, 6))), ZEROS, ValueError, "the mask is 5x6, its map is 6x5 (height x width)"),
    (None, Stored(ZEROS), ValueError, "the mask is None; leave the image out, or give zeros if it has no defect"),
    (UNREADABLE, Stored(ZEROS), ValueError, "the mask holds NaN; to leave pixels out, put NaN in the map"),
    (Pixels(UNREADABLE), Stored(ZEROS), ValueError, "the mask holds NaN; to leave pixels out, put NaN in the map"),
    (
        Pixels(ZEROS.astype(str)),
        Stored(ZEROS),
        ValueError,
        "the mask is of type <U3; expected numbers, a defect where they are > 0",
    ),
    (
        np.zeros((6, 5, 5)),
        Stored(ZEROS),
        ValueError,
        "the mask has shape (6, 5, 5); expected (height, width) or (height, width, channels)",
    ),
    (ZEROS, Broken(ZEROS), DataError, "map.tiff is truncated"),
]


@pytest.mark.parametrize(("mask", "field", "kind", "message"), REFUSED)
@pytest.mark.parametrize("engine", [m.PixelMetrics, m.StreamingPixelMetrics, m.PixelStatistics])
def test_what_is_refused_is_not_counted(
    monkeypatch: pytest.MonkeyPatch, engine: Any, mask: Any, field: Any, kind: type[Exception], message: str
) -> None:
    use_bands(monkeypatch, 2)
    pairs = images(7)
    given = taken(engine(), pairs)
    with pytest.raises(kind, match=f"^{re.escape(message)}$"):
        given.add(mask, field)
    if engine is m.PixelStatistics:
        assert given.images == len(pairs)
    else:
        assert given.result() == taken(engine(), pairs).result()


# -- everything of a category


def sample(label: int, defect: str = "good") -> Sample:
    return Sample("", f"test/{defect}/000.png", "test", label, defect, "tile")


def measure(rows: Sequence[tuple[Any, ...]], **settings: Any) -> m.Measurement:
    found = m.CategoryMetrics(**({"threshold": 1.0, "bootstrap": 30} | settings))
    for row in rows:
        found.add(*row)
    return found.result()


def category(protocol: str, *, files: bool) -> list[tuple[Any, ...]]:
    """Rows for `CategoryMetrics.add`: by mvtec_loco with two defects that overlap in each defect image."""
    rows: list[tuple[Any, ...]] = []
    for i, (mask, field) in enumerate(images(11, n=12)):
        label = int(mask.any())
        kind = ("logical_a", "structural_b", "structural_c")[i // 2 % 3] if label else "good"
        defects: list[tuple[DefectConfig, Any]] | None = None
        if label and protocol == "mvtec_loco":
            other = np.zeros_like(mask)
            other[:, :3] = 1
            configs = [DefectConfig(kind, 1, 7, False), DefectConfig(kind, 2, 0.5, True)]
            defects = list(zip(configs, [mask > 0, other > 0], strict=True))
            mask = mask | other
        score = float(np.nanmax(field))
        if not files:
            rows.append((sample(label, kind), score, field, mask, defects))
            continue
        if defects is not None:
            defects = [(defects[0][0], Pixels(defects[0][1])), defects[1]]
        rows.append((sample(label, kind), score, Stored(field), Pixels(mask) if i % 2 else mask, defects))
    return rows


@pytest.mark.parametrize("rows", BANDS)
@pytest.mark.parametrize("memory", [10**9, 1])
@pytest.mark.parametrize("protocol", ["mvtec_ad", "mvtec_loco", "mvtec_ad2"])
def test_a_category_measures_the_same_of_files(
    monkeypatch: pytest.MonkeyPatch, protocol: str, memory: int, rows: Any
) -> None:
    use_bands(monkeypatch, rows)
    settings = {"protocol": protocol, "pixel_threshold": 0.7, "saturations": True, "memory": memory, "pixels": 10**4}
    whole = measure(category(protocol, files=False), **settings)
    files = measure(category(protocol, files=True), **settings)
    assert whole.pixel_mode == files.pixel_mode == ("exact" if memory > 1 else "streaming")
    assert files.metrics.counts == whole.metrics.counts
    assert files.metrics.reasons == whole.metrics.reasons
    assert files.metrics.metrics == pytest.approx(whole.metrics.metrics, abs=1e-12)
    assert files.bounds == pytest.approx(whole.bounds, abs=1e-12)
    own = {"mvtec_ad": "aupro_30", "mvtec_loco": "spro_05", "mvtec_ad2": "segf1"}[protocol]
    assert whole.metrics.metrics[own] is not None
    assert own in whole.intervals
    assert set(files.intervals) == set(whole.intervals)
    for name, interval in whole.intervals.items():
        assert files.intervals[name] == pytest.approx(interval, abs=1e-12)
    assert list(files.by_defect) == list(whole.by_defect) == sorted(whole.by_defect)
    for kind, figures in whole.by_defect.items():
        reasons = {"reasons": figures.pop("reasons", None)}
        assert {"reasons": files.by_defect[kind].pop("reasons", None)} == reasons
        assert files.by_defect[kind] == pytest.approx(figures, abs=1e-12)


def test_segf1_and_the_saturated_overlap_are_exact(monkeypatch: pytest.MonkeyPatch) -> None:
    use_bands(monkeypatch, 3)
    for protocol, names in (("mvtec_ad2", ("segf1", "classf1")), ("mvtec_loco", ("spro_05_logical",))):
        settings = {"protocol": protocol, "pixel_threshold": 0.7, "saturations": True, "bootstrap": 0}
        whole = measure(category(protocol, files=False), **settings).metrics.metrics
        files = measure(category(protocol, files=True), **settings).metrics.metrics
        assert [files[name] for name in names] == [whole[name] for name in names]
        assert None not in [whole[name] for name in names]


def test_a_defect_of_a_file_that_is_too_small_to_saturate_is_refused_and_not_counted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    use_bands(monkeypatch, 2)
    found = m.CategoryMetrics(protocol="mvtec_loco", threshold=1.0, saturations=True)
    one = np.zeros((6, 5), np.bool_)
    one[3, 3] = True
    defects = [(DefectConfig("dent", 1, 0.3, True), Pixels(one))]
    with pytest.raises(ValueError, match=r"^defect dent: a saturation of 0\.3 of its area is no whole pixel of its 1;"):
        found.add(sample(1, "logical_dent"), 1.0, Stored(ZEROS), one, defects)
    assert found.result().metrics.counts["images"] == 0


def test_classf1_needs_no_mask(monkeypatch: pytest.MonkeyPatch) -> None:
    use_bands(monkeypatch, 2)
    field = ZEROS.astype(np.float32)
    field[5, 4] = 1.0
    found = m.CategoryMetrics(protocol="mvtec_ad2", threshold=1.0, pixel_threshold=1.0)
    found.add(sample(1, "dent"), 1.0, Stored(field))
    found.add(sample(0), 0.0, Stored(ZEROS))
    assert found.result().metrics.metrics["classf1"] == 1.0


# -- memory


def test_no_more_than_a_band_is_read_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    use_bands(monkeypatch, 3)
    rows = category("mvtec_loco", files=True)
    measure(rows, protocol="mvtec_loco", pixel_threshold=0.7, saturations=True)
    measure(rows, protocol="mvtec_ad2", pixel_threshold=0.7)
    assert len(rows) == 12
    for _, _, field, mask, defects in rows:
        rasters = [field, mask, *(pixels for _, pixels in defects or [])]
        for given in rasters:
            if isinstance(given, Stored | Pixels):
                assert given.most == 3 * given.size.width


class Endless(Stored):
    """A map that is made as it is read."""

    def __init__(self, size: Size) -> None:
        self._size = size

    @property
    def size(self) -> Size:
        return self._size

    def read(self, box: Box) -> np.ndarray:
        return np.random.default_rng(box.y0).random(box.size, dtype=np.float32)


class Blank(Pixels):
    """A mask with one defect, made as it is read."""

    def __init__(self, size: Size) -> None:
        self._size = size

    @property
    def size(self) -> Size:
        return self._size

    def read(self, box: Box) -> np.ndarray:
        mask = np.zeros(box.size, np.uint8)
        mask[:, 100:103] = box.y0 < 2000
        return mask


ENGINES: tuple[Callable[[], Any], ...] = (m.StreamingPixelMetrics, m.PixelStatistics)


@pytest.mark.parametrize("engine", ENGINES)
def test_memory_is_that_of_bands_and_not_of_the_image(monkeypatch: pytest.MonkeyPatch, engine: Any) -> None:
    use_bands(monkeypatch, 125)  # 500,000 pixels, 2 MB
    given = engine()

    def held(size: Size) -> int:
        tracemalloc.reset_peak()
        given.add(Blank(size), Endless(size))
        return tracemalloc.get_traced_memory()[1]

    tracemalloc.start()
    try:
        held(Size(500, 4000))  # what is set up once
        small, large = held(Size(500, 4000)), held(Size(4000, 4000))  # 8 MB, 64 MB
    finally:
        tracemalloc.stop()
    assert large < small + 4_000_000


def test_a_map_in_a_real_file_is_measured_calibrated_and_drawn_as_in_an_array(tmp_path: Path) -> None:
    rng = np.random.default_rng(12)
    mask = np.zeros((1500, 3000), np.uint8)  # more than one band
    mask[10:1450, 20] = mask[10:1450, 40] = mask[1449, 20:40] = mask[700:720, 2000:2300] = 1
    scores = rng.normal(0, 1, mask.shape).astype(np.float32)
    scores += mask
    scores[200:300] = np.nan
    with StoredMap.write(tmp_path / "map.tiff", Size(*mask.shape), [scores[:1000], scores[1000:]]) as stored:
        for engine in (m.PixelMetrics, m.StreamingPixelMetrics):
            whole, files = taken(engine(), [(mask, scores)]).result(), taken(engine(), [(mask, stored)]).result()
            assert files.counts == whole.counts
            assert files.counts["regions"] == 2
            assert files.metrics == pytest.approx(whole.metrics, abs=1e-12)
        calibrations = PixelCalibration(), PixelCalibration()
        calibrations[0].add(scores)
        calibrations[1].add(stored)
        assert vars(calibrations[0]) == vars(calibrations[1])
        image = rng.integers(0, 256, (*mask.shape, 3), dtype=np.uint8)
        drawn = overlay(ArrayRaster(image), stored, low=-10.0, high=10.0, threshold=4.5, mask=mask)
        assert drawn.shape == overlay(image, scores, low=-10.0, high=10.0, threshold=4.5, mask=mask).shape
