"""Pixel metrics: what counts as a defect pixel, what is left out, and the numbers themselves."""

from __future__ import annotations

import re
import tracemalloc
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from uadctl import metrics as m

COMPUTE: tuple[Callable[[Any, Any], float], ...] = (
    m.compute_pixel_auroc,
    m.compute_pixel_ap,
    m.compute_pixel_f1max,
    m.compute_aupro,
)


def example(ties: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """(4, 32, 32) uint8 masks with four regions, one made of two that touch by a corner, and float32 maps."""
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


def values(masks: Any, maps: Any) -> list[float]:
    return [compute(masks, maps) for compute in COMPUTE]


def test_four_pixels_by_hand() -> None:
    # Descending: 0.9 defect, 0.7 normal, 0.6 defect and normal together.
    masks, maps = [[[1, 0], [1, 0]]], [[[0.9, 0.7], [0.6, 0.6]]]
    assert m.compute_pixel_auroc(masks, maps) == pytest.approx((1 + 1 / 4) / 2, abs=1e-15)
    assert m.compute_pixel_ap(masks, maps) == pytest.approx((1 + 2 / 4) / 2, abs=1e-15)
    assert m.compute_pixel_f1max(masks, maps) == pytest.approx(2 / 3, abs=1e-15)
    # One region: overlap 1/2 from FPR 0 to 1/2, then straight to 1 at FPR 1.
    assert m.compute_aupro(masks, maps, limit=0.5) == pytest.approx(1 / 2, abs=1e-15)
    assert m.compute_aupro(masks, maps, limit=1.0) == pytest.approx(1 / 4 + 3 / 8, abs=1e-15)
    assert m.compute_aupro(masks, maps, limit=0.75) == pytest.approx(
        (1 / 4 + (1 / 2 + 3 / 4) / 2 / 4) / 0.75, abs=1e-15
    )


def test_a_perfect_map_gives_one_exactly_and_its_opposite_zero() -> None:
    masks, _ = example()
    assert values(masks, masks.astype(np.float32)) == [1.0, 1.0, 1.0, 1.0]
    assert m.compute_pixel_auroc(masks, 1 - masks) == 0.0
    assert m.compute_aupro(masks, 1 - masks) == 0.0


@pytest.mark.parametrize("ties", [False, True])
def test_agrees_with_scikit_learn(ties: bool) -> None:
    sklearn = pytest.importorskip("sklearn.metrics", reason="scikit-learn is the independent implementation")
    masks, maps = example(ties)
    y, s = masks.ravel(), maps.ravel()
    precision, recall, _ = sklearn.precision_recall_curve(y, s)
    f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-300)
    assert m.compute_pixel_auroc(masks, maps) == pytest.approx(sklearn.roc_auc_score(y, s), abs=1e-12)
    assert m.compute_pixel_ap(masks, maps) == pytest.approx(sklearn.average_precision_score(y, s), abs=1e-12)
    assert m.compute_pixel_f1max(masks, maps) == pytest.approx(f1.max(), abs=1e-12)


def rgb(masks: np.ndarray) -> np.ndarray:
    coloured = np.zeros((*masks.shape, 3), np.uint8)
    coloured[..., 2] = masks * 40
    return coloured


def rgba(masks: np.ndarray) -> np.ndarray:
    return np.concatenate([rgb(masks), np.full((*masks.shape, 1), 255, np.uint8)], axis=-1)


SAME_MASKS: dict[str, Callable[[np.ndarray], Any]] = {
    "bool": lambda masks: masks.astype(bool),
    "0 and 255": lambda masks: masks * np.uint8(255),
    "uint16": lambda masks: masks.astype(np.uint16) * 65535,
    "class ids": lambda masks: masks * (1 + np.arange(32, dtype=np.uint8) % 5),
    "negative background": lambda masks: masks.astype(np.int16) * 3 - 1,
    "small fractions": lambda masks: masks * 1e-9,
    "RGB, one channel": rgb,
    "RGBA, opaque": rgba,
    "one channel": lambda masks: masks[..., None],
    "a list": list,
    "nested lists": lambda masks: masks.tolist(),
    "in another memory order": lambda masks: [np.asfortranarray(mask) for mask in masks],
}


@pytest.mark.parametrize("kind", SAME_MASKS)
def test_a_mask_pixel_is_a_defect_iff_it_is_above_zero(kind: str) -> None:
    masks, maps = example()
    assert values(SAME_MASKS[kind](masks), maps) == values(masks, maps)


@pytest.mark.parametrize("dtype", [np.float16, np.uint8, np.int32, np.float64, bool])
def test_scores_of_any_number_type(dtype: Any) -> None:
    masks, maps = example()
    scores = (maps * 100).astype(dtype)
    assert values(masks, scores) == values(masks, scores.astype(np.float64))


def test_scores_that_differ_only_in_float64_are_not_tied() -> None:
    masks = [[[1, 0]]]
    assert values(masks, [[[0.5 + 1e-12, 0.5]]]) == [1.0, 1.0, 1.0, 1.0]
    mixed = m.PixelMetrics()
    mixed.add([[0, 0]], np.zeros((1, 2), np.float32))
    mixed.add([[1, 0]], np.array([[0.5 + 1e-12, 0.5]]))
    assert mixed.result().metrics["pixel_auroc"] == 1.0


def test_infinite_scores_and_both_zeros_rank() -> None:
    assert m.compute_pixel_auroc([[[0, 0, 1, 1]]], [[[-np.inf, 0.0, -0.0, np.inf]]]) == 7 / 8


def test_images_of_different_sizes_pool_their_pixels() -> None:
    masks, maps = example()
    parts = [(masks[:2, :20], maps[:2, :20]), (masks[:2, 20:], maps[:2, 20:]), (masks[2:], maps[2:])]
    cut = [(mask, scores) for some in parts for mask, scores in zip(*some, strict=True)]
    pooled = [compute([mask for mask, _ in cut], [scores for _, scores in cut]) for compute in COMPUTE[:3]]
    assert pooled == values(masks, maps)[:3]


def test_an_accumulator_takes_images_in_any_order_and_goes_on_after_a_result() -> None:
    masks, maps = example(ties=True)
    pixels = m.PixelMetrics()
    for i in (2, 0):
        pixels.add(masks[i], maps[i])
    first = pixels.result()
    assert first == pixels.result()
    assert first.metrics["pixel_auroc"] == m.compute_pixel_auroc(masks[[0, 2]], maps[[0, 2]])
    for i in (3, 1):
        pixels.add(masks[i], maps[i])
    result = pixels.result(fpr_limits=[0.3])
    assert list(result.metrics) == ["pixel_auroc", "pixel_ap", "pixel_f1max", "aupro_30"]
    assert list(result.metrics.values()) == pytest.approx(values(masks, maps), abs=1e-15)
    assert result.reasons == {}
    assert result.counts == {
        "pixel_images": 4,
        "pixels": 4096,
        "defect_pixels": 76,
        "regions": 4,
        "pixels_left_out": 0,
        "regions_left_out": 0,
    }


def test_the_accumulator_keeps_no_view_of_a_buffer_that_is_used_again() -> None:
    masks, maps = example()
    pixels = m.PixelMetrics()
    buffer, mask = np.empty((32, 32), np.float32), np.empty((32, 32), np.uint8)
    for i in range(4):
        buffer[:], mask[:] = maps[i], masks[i]
        pixels.add(mask, buffer)
    buffer[:], mask[:] = -1, 0
    assert list(pixels.result().metrics.values()) == values(masks, maps)
    assert buffer.min() == buffer.max() == -1


@pytest.mark.parametrize("slab", [1, 7, 1000, 4096])
def test_how_scores_are_stored_changes_nothing(slab: int, monkeypatch: pytest.MonkeyPatch) -> None:
    masks, maps = example(ties=True)
    expected = values(masks, maps)
    monkeypatch.setattr("uadctl.metrics.pooled.Pool.SLAB", slab)
    assert values(masks, maps) == expected
    widths = (np.float32, np.float64, np.float16, np.float64)
    assert values(masks, [scores.astype(width) for scores, width in zip(maps, widths, strict=True)]) == expected


@pytest.mark.parametrize("chunk", [1, 2, 7, 50])
@pytest.mark.parametrize("ties", [False, True])
def test_how_many_defect_scores_are_looked_at_together_changes_nothing(
    chunk: int, ties: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    masks, maps = example(ties)
    limits = (0.001, 0.05, 0.3, 0.3, 1.0)

    def result(stack: Any) -> dict[str, Any]:
        return dict(m.evaluate_detector([0, 1], [0, 1], pixel_labels=masks, pixel_scores=stack)) | {
            m.aupro_name(limit): m.compute_aupro(masks, stack, limit=limit) for limit in limits
        }

    wide = maps.astype(np.float64)
    expected = result(maps)["pixel_metrics"]
    areas = {name: value for name, value in result(maps).items() if name.startswith("aupro")}
    monkeypatch.setattr("uadctl.metrics.descent.CHUNK", chunk)
    for stack in (maps, wide, [maps[0], wide[1], maps[2], wide[3]]):
        found = result(stack)
        assert found["pixel_metrics"] == pytest.approx(expected, abs=1e-14, rel=0)
        assert {name: found[name] for name in areas} == pytest.approx(areas, abs=1e-14, rel=0)


def test_a_perfect_map_gives_one_exactly_however_many_scores_it_has(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("uadctl.metrics.descent.CHUNK", 11)
    masks, maps = example()
    pixels = m.PixelMetrics()
    for mask, scores in zip(masks, maps + 7 * masks, strict=True):
        pixels.add(mask, scores)
    assert set(pixels.result(fpr_limits=(0.05, 0.3, 0.7, 1)).metrics.values()) == {1.0}


@pytest.mark.parametrize("kind", ["all differ", "all equal"])
def test_a_result_needs_little_more_than_one_number_a_defect_pixel(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("uadctl.metrics.descent.CHUNK", 2**10)
    rng = np.random.default_rng(0)
    pixels = m.PixelMetrics()
    mask = np.zeros((500, 500), np.uint8)
    mask[:400] = 1
    for _ in range(2):
        scores = rng.random(mask.shape, dtype=np.float32) if kind == "all differ" else np.zeros(mask.shape, np.float32)
        pixels.add(mask, scores)
    pixels.result()  # sorts what is kept
    tracemalloc.start()
    try:
        pixels.result(fpr_limits=(0.3, 0.05))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 12 * 2 * np.count_nonzero(mask)


def test_nan_pixels_are_left_out_with_their_mask_pixels() -> None:
    masks, maps = example()
    cropped = maps.copy()
    cropped[:, :4] = np.nan
    inside_masks, inside_maps = masks[:, 4:], maps[:, 4:]
    assert values(masks, cropped)[:3] == values(inside_masks, inside_maps)[:3]
    pixels = m.PixelMetrics()
    for mask, scores in zip(masks, cropped, strict=True):
        pixels.add(mask, scores)
    result = pixels.result()
    # The region of masks[1, 0:3] lies in the rows left out.
    assert result.counts == {
        "pixel_images": 4,
        "pixels": 4 * 28 * 32,
        "defect_pixels": int(inside_masks.sum()),
        "regions": 3,
        "pixels_left_out": 4 * 4 * 32,
        "regions_left_out": 1,
    }
    assert result.metrics["aupro_30"] == pytest.approx(m.compute_aupro(inside_masks, inside_maps), abs=1e-15)


def test_a_region_split_by_nan_pixels_stays_one_region() -> None:
    masks, maps = np.ones((1, 3, 3), np.uint8), np.arange(9.0).reshape(1, 3, 3)
    masks[0, 2] = 0
    maps[0, :, 1] = np.nan
    pixels = m.PixelMetrics()
    pixels.add(masks[0], maps[0])
    assert pixels.result().counts["regions"] == 1
    assert pixels.result().counts["defect_pixels"] == 4


def ones(*shape: int) -> np.ndarray:
    return np.ones(shape)


def zeros(*shape: int) -> np.ndarray:
    return np.zeros(shape)


LEFT_OUT = np.array([[np.nan, 1.0]])
UNDEFINED: list[tuple[Any, Any, str]] = [
    ([], [], "there are no maps"),
    (zeros(2, 3, 3), ones(2, 3, 3), "the masks have no defect pixel (images: 2, pixels: 18)"),
    (ones(2, 3, 3), ones(2, 3, 3), "the masks have no normal pixel (images: 2, pixels: 18)"),
    (
        zeros(1, 3, 3),
        ones(1, 3, 3) * np.nan,
        "every pixel of the maps is NaN (images: 1, pixels: 0, NaN pixels left out: 9)",
    ),
    (
        [[[1, 0]]],
        [LEFT_OUT],
        "the maps are NaN on every defect pixel (images: 1, pixels: 1, NaN pixels left out: 1, regions left out: 1)",
    ),
    ([[[0, 1]]], [LEFT_OUT], "the masks have no normal pixel (images: 1, pixels: 1, NaN pixels left out: 1)"),
]


@pytest.mark.parametrize(("masks", "maps", "reason"), UNDEFINED)
def test_undefined_is_an_error_that_says_why(masks: Any, maps: Any, reason: str) -> None:
    titles = ("pixel AUROC", "pixel AP", "pixel F1-max", "AU-PRO to 0.3")
    for compute, title in zip(COMPUTE, titles, strict=True):
        with pytest.raises(ValueError, match=f"^{re.escape(f'{title} is undefined: {reason}')}$"):
            compute(masks, maps)
    pixels = m.PixelMetrics()
    for mask, scores in zip(masks, maps, strict=True):
        pixels.add(mask, scores)
    result = pixels.result(fpr_limits=(0.3, 0.05))
    assert result.metrics == dict.fromkeys(m.pixel_metric_names(fpr_limits=(0.3, 0.05)))
    assert result.reasons == dict.fromkeys(result.metrics, reason)


REFUSED: list[tuple[Any, Any, str]] = [
    (zeros(2, 3, 3), ones(1, 3, 3), "2 masks but 1 maps; expected one of each an image"),
    (
        [zeros(3, 3), zeros(30, 20)],
        [ones(3, 3), ones(20, 30)],
        "masks[1] is 30x20, maps[1] is 20x30 (height x width)",
    ),
    ([None], [ones(3, 3)], "masks[0] is None; leave the image out, or give zeros if it has no defect"),
    (zeros(3, 3), ones(3, 3), "maps[0] has shape (3,); expected (height, width), not empty"),
    (zeros(1, 0, 3), ones(1, 0, 3), "maps[0] has shape (0, 3); expected (height, width), not empty"),
    (
        zeros(1, 3, 3, 7),
        ones(1, 3, 3),
        "masks[0] has shape (3, 3, 7); expected (height, width) or (height, width, channels)",
    ),
    (zeros(1, 3, 3) * np.nan, ones(1, 3, 3), "masks[0] holds NaN; to leave pixels out, put NaN in the map"),
    (zeros(1, 3, 3), ones(1, 3, 3) * 1j, "maps[0] is of type complex128; expected numbers"),
    ([[["x", ""]]], [[[1, 0]]], "masks[0] is of type <U1; expected numbers, a defect where they are > 0"),
]


@pytest.mark.parametrize(("masks", "maps", "message"), REFUSED)
def test_what_cannot_be_compared_is_refused(masks: Any, maps: Any, message: str) -> None:
    for compute in COMPUTE:
        with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
            compute(masks, maps)


def test_a_refused_image_is_not_counted() -> None:
    masks, maps = example()
    pixels = m.PixelMetrics()
    pixels.add(masks[0], maps[0])
    before = pixels.result()
    with pytest.raises(ValueError, match=r"^the mask is 32x32, its map is 31x32 \(height x width\)$"):
        pixels.add(masks[1], maps[1][1:])
    assert pixels.result() == before


def test_masks_are_read_one_at_a_time_from_a_lazy_sequence() -> None:
    masks, maps = example()

    class Lazy(Sequence[np.ndarray]):
        def __len__(self) -> int:
            return len(masks)

        def __getitem__(self, index: Any) -> Any:
            return masks[index]

    assert values(Lazy(), maps) == values(masks, maps)
