"""Tuned post-processing: where each setting wins by hand, against scikit-learn, and honest by cross-validation."""

from __future__ import annotations

import itertools
import json
import math
import re
from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from uadctl.imaging.maps import AnomalyMapPostprocess
from uadctl.metrics import compute_aupro, compute_pixel_ap, compute_pixel_auroc, compute_pixel_f1max
from uadctl.spec.grammar import PostprocessTable
from uadctl.thresholds import tune_postprocess
from uadctl.thresholds.labelled import folds_of
from uadctl.thresholds.postprocessing import DEFAULT_GRID, _simplest

Maps = list[np.ndarray]
FIELDS = "gaussian_sigma, opening, closing, min_area, threshold, hysteresis"


def block(shape: tuple[int, int] = (24, 20), *, at: int = 6, side: int = 8) -> np.ndarray:
    mask = np.zeros(shape, dtype=np.uint8)
    mask[at : at + side, at : at + side] = 255
    return mask


def as_zeros(mask: np.ndarray | None, scores: np.ndarray) -> np.ndarray:
    return np.zeros(scores.shape) if mask is None else mask


def noisy(seed: int = 0, *, defects: int = 3, good: int = 2, lift: float = 1.0) -> tuple[Maps, list[np.ndarray | None]]:
    """Images of several sizes with normal noise, the defects lifted by so much."""
    rng = np.random.default_rng(seed)
    masks: list[np.ndarray | None] = [block((24 + i, 20 + 2 * i), at=3 + i, side=5 + i) for i in range(defects)]
    masks += [None] * good
    maps = []
    for i, mask in enumerate(masks):
        noise = (
            rng.normal(size=(24 + i, 20 + 2 * i)) if mask is None else rng.normal(size=mask.shape) + lift * (mask > 0)
        )
        maps.append(noise.astype(np.float32))
    return maps, masks


# ---- where each setting wins, by hand


def test_smoothing_wins_where_the_noise_is_finer_than_the_defect() -> None:
    rows, columns = np.indices((24, 24))
    mask = block((24, 24))
    # 0 and 3 in turn, 1 higher on the defect: of the pairs 1 or 4 against 0 or 3, three of four are in order.
    scores = 3.0 * ((rows + columns) % 2) + (mask > 0)
    assert compute_pixel_auroc([mask], [scores]) == 0.75
    tuned = tune_postprocess({"gaussian_sigma": [0, 1], "closing": [0, 2]}, [scores], [mask], metric="pixel_auroc")
    assert tuned["params"] == {"gaussian_sigma": 1, "closing": 0}
    assert tuned["value"] > 0.99


def test_opening_wins_where_single_pixels_are_bright() -> None:
    mask = block((30, 30), at=15)
    scores = 5.0 * (mask > 0)
    scores[2:12:3, 1:28:3] = 9.0  # 4 x 9 of them, each alone
    n_normal = 30 * 30 - 64
    grid = {"gaussian_sigma": [0, 2], "opening": [0, 3]}
    tuned = tune_postprocess(grid, [scores], [mask], metric="pixel_auroc")
    assert compute_pixel_auroc([mask], [scores]) == pytest.approx(1 - 36 / n_normal, abs=1e-12)
    assert tuned == {"params": {"gaussian_sigma": 0, "opening": 3}, "value": 1.0}


def test_closing_wins_where_the_defect_has_gaps() -> None:
    mask = block((30, 30))
    scores = 5.0 * (mask > 0)
    scores[7:13:2, 7:13:2] = -1.0  # 3 x 3 of them, each alone
    tuned = tune_postprocess({"opening": [0, 3], "closing": [0, 2]}, [scores], [mask], metric="pixel_ap")
    assert tuned == {"params": {"opening": 0, "closing": 2}, "value": 1.0}


def test_least_area_and_hysteresis_win_where_small_and_weak_spots_pass_a_threshold() -> None:
    mask = block((30, 30))
    scores = 3.0 * (mask > 0)
    scores[20:22, 20:22] = 9.0
    scores[7, 7] = 4.0
    for name, kept in (("min_area", 5), ("hysteresis", None)):
        grid = {"threshold": [2.0], name: [{"min_area": 0, "hysteresis": None}[name], 5]}
        tuned = tune_postprocess(grid, [scores], [mask], metric="pixel_auroc")
        assert tuned["params"] == {"threshold": 2.0, name: kept}
        assert tuned["value"] == pytest.approx(1 if kept else 1 - 4 / (900 - 64), abs=1e-12)


# ---- against others


def by_brute_force(grid: dict[str, Sequence[Any]], maps: Maps, masks: Sequence[np.ndarray]) -> dict[Any, float]:
    """Combination -> average precision over all pixels, by scikit-learn."""
    values = {}
    for combination in itertools.product(*grid.values()):
        clean = AnomalyMapPostprocess(**dict(zip(grid, combination, strict=True)))
        scores = np.concatenate([clean(scores).ravel() for scores in maps])
        labels = np.concatenate([(mask > 0).ravel() for mask in masks])
        values[combination] = average_precision_score(labels, scores) if labels.any() else math.nan
    return values


GRID: dict[str, Sequence[Any]] = {"gaussian_sigma": [0.0, 0.8, 2.5], "opening": [0, 3], "closing": [0, 3]}


@pytest.mark.parametrize("seed", range(3))
def test_every_combination_is_measured_as_scikit_learn_does(seed: int) -> None:
    maps, masks = noisy(seed)
    full = [as_zeros(mask, scores) for mask, scores in zip(masks, maps, strict=True)]
    values = by_brute_force(GRID, maps, full)
    best = max(values, key=lambda combination: values[combination])
    tuned = tune_postprocess(GRID, maps, masks, metric="pixel_ap")
    assert tuple(tuned["params"].values()) == best
    assert tuned["value"] == pytest.approx(values[best], abs=1e-12)
    assert tuned == tune_postprocess(GRID, maps, full, metric="pixel_ap")


@pytest.mark.parametrize(("seed", "folds"), [(0, 2), (1, 3), (2, 5)])
def test_cross_validation_as_written_out(seed: int, folds: int) -> None:
    maps, masks = noisy(seed, defects=5, good=4, lift=0.4)
    full = [as_zeros(mask, scores) for mask, scores in zip(masks, maps, strict=True)]
    fold = folds_of([True] * 5 + [False] * 4, folds, seed=seed)
    reached = []
    for k in range(folds):
        inside, outside = np.flatnonzero(fold == k), np.flatnonzero(fold != k)
        values = by_brute_force(GRID, [maps[i] for i in outside], [full[i] for i in outside])
        best = max(values, key=lambda combination: values[combination])
        reached.append(by_brute_force(GRID, [maps[i] for i in inside], [full[i] for i in inside])[best])
    tuned = tune_postprocess(GRID, maps, masks, metric="pixel_ap", folds=folds, seed=seed)
    assert tuned["cross_validated"] == pytest.approx(np.mean(reached), abs=1e-12)
    assert (tuned["folds"], tuned["reasons"]) == (folds, [])
    without = tune_postprocess(GRID, maps, masks, metric="pixel_ap")
    assert {name: tuned[name] for name in ("params", "value")} == without


@pytest.mark.parametrize(
    ("metric", "measure"),
    [
        ("pixel_auroc", compute_pixel_auroc),
        ("pixel_ap", compute_pixel_ap),
        ("pixel_f1max", compute_pixel_f1max),
        ("aupro_30", compute_aupro),
        ("aupro_05", lambda masks, maps: compute_aupro(masks, maps, limit=0.05)),
        ("aupro_100", lambda masks, maps: compute_aupro(masks, maps, limit=1)),
    ],
)
def test_the_value_is_that_of_the_metric(metric: str, measure: Any) -> None:
    maps, masks = noisy(defects=3, good=0)
    clean = AnomalyMapPostprocess(gaussian_sigma=1.5)
    tuned = tune_postprocess({"gaussian_sigma": [1.5]}, maps, masks, metric=metric)
    assert tuned["value"] == pytest.approx(measure(masks, [clean(scores) for scores in maps]), abs=1e-12)


def test_without_a_metric_it_is_aupro_to_0_3() -> None:
    maps, masks = noisy()
    assert tune_postprocess(GRID, maps, masks) == tune_postprocess(GRID, maps, masks, metric="aupro_30")
    assert tune_postprocess(GRID, maps, masks) != tune_postprocess(GRID, maps, masks, metric="aupro_05")


def test_it_finds_what_generalises_and_does_not_flatter_itself() -> None:
    # In maps without any signal every setting has AUROC 0.5; the best of twelve on the same images seems better.
    values, held_out = [], []
    for seed in range(30):
        maps, masks = noisy(seed, defects=4, good=0, lift=0)
        tuned = tune_postprocess(GRID, maps, masks, metric="pixel_auroc", folds=4, seed=seed)
        values.append(tuned["value"])
        held_out.append(tuned["cross_validated"])
    error = np.std(held_out) / math.sqrt(30)
    assert np.mean(values) > 0.5 + 3 * error
    assert abs(np.mean(held_out) - 0.5) < 3 * error


# ---- which of equals


def test_of_equals_the_simplest_wins_wherever_it_stands() -> None:
    mask = block()
    scores = np.where(mask > 0, 1.0, 0.0)
    grid = {"opening": [3, 2, 0], "closing": [2, 0]}
    assert tune_postprocess(grid, [scores], [mask], metric="pixel_ap") == {
        "params": {"opening": 0, "closing": 0},
        "value": 1.0,
    }
    # One change each: the first, where the last field changes fastest.
    grid = {"opening": [3, 2], "closing": [2, 0]}
    assert tune_postprocess(grid, [scores], [mask], metric="pixel_ap")["params"] == {"opening": 3, "closing": 0}


def test_rounding_makes_no_winner() -> None:
    tried = [{"opening": 3}, {"opening": 0}, {"opening": 5}]
    assert _simplest(tried, [0.5 + 1e-14, 0.5, 0.5]) == 1
    assert _simplest(tried, [0.5 + 1e-9, 0.5, 0.5]) == 0
    assert _simplest(tried, [0.5, 0.4, 0.5]) == 0


# ---- what is given and returned


def test_nothing_given_is_changed_and_params_can_be_written() -> None:
    maps, masks = noisy()
    before = [scores.copy() for scores in maps]
    grid = {"gaussian_sigma": np.array([0.5, 1.0], np.float32), "opening": np.arange(0, 4, 3), "min_area": (0,)}
    tuned = tune_postprocess(grid, maps, masks)
    assert [type(value) for value in tuned["params"].values()] == [float, int, int]
    assert json.loads(json.dumps(tuned)) == tuned
    for scores, kept in zip(maps, before, strict=True):
        np.testing.assert_array_equal(scores, kept)


def test_masks_of_any_kind_mean_the_same() -> None:
    maps, masks = noisy(good=1)
    kinds = [
        [None if mask is None else mask > 0 for mask in masks],
        [None if mask is None else np.dstack([mask * 0, mask, mask * 0]) for mask in masks],
        [np.zeros(maps[i].shape) if mask is None else mask / 255 for i, mask in enumerate(masks)],
    ]
    for kind in kinds:
        assert tune_postprocess(GRID, maps, kind) == tune_postprocess(GRID, maps, masks)


def test_what_was_not_looked_at_is_left_out() -> None:
    maps, masks = noisy()
    part = [scores[:-4] for scores in maps]
    part_masks = [None if mask is None else mask[:-4] for mask in masks]
    unseen = [np.concatenate([scores, np.full((4, scores.shape[1]), np.nan, np.float32)]) for scores in part]
    # Below no image has a defect, and NaN has no weight: the metrics are those of the images cut there.
    assert all(mask is None or not mask[-4:].any() for mask in masks)
    grid = {"opening": [0, 3], "closing": [0, 3]}
    assert tune_postprocess(grid, unseen, masks) == tune_postprocess(grid, part, part_masks)


def test_folds_without_a_defect_are_left_out_and_said() -> None:
    maps, masks = noisy(defects=2, good=4)
    tuned = tune_postprocess(GRID, maps, masks, folds=3)
    fold = folds_of([True] * 2 + [False] * 4, 3, seed=0)
    [empty] = sorted({0, 1, 2} - set(fold[:2].tolist()))
    pixels = sum(maps[i].size for i in range(6) if fold[i] == empty)
    assert tuned["folds"] == 2
    assert tuned["reasons"] == [
        f"fold {empty + 1} is left out: aupro_30 is undefined on it: the masks have no defect pixel (images: 2, pixels: {pixels})"
    ]
    of_two = [
        compute_aupro([as_zeros(masks[i], maps[i]) for i in inside], [maps[i] for i in inside])
        for inside in (np.flatnonzero(fold == k) for k in range(3) if k != empty)
    ]
    untouched = tune_postprocess({"opening": [0]}, maps, masks, folds=3)
    assert untouched["cross_validated"] == pytest.approx(np.mean(of_two), abs=1e-12)


def test_with_one_defect_image_nothing_can_be_cross_validated() -> None:
    maps, masks = noisy(defects=1, good=1)
    tuned = tune_postprocess(GRID, maps, masks, folds=2)
    assert (tuned["cross_validated"], tuned["folds"]) == (None, 0)
    inside = int(folds_of([True, False], 2, seed=0)[0])
    assert len(tuned["reasons"]) == 2
    assert (
        tuned["reasons"][inside] == f"fold {inside + 1} is left out: aupro_30 is undefined on all other folds together"
    )
    assert tuned["reasons"][1 - inside].startswith(f"fold {2 - inside} is left out: aupro_30 is undefined on it: the ")
    assert 0 < tuned["value"] < 1


def test_a_defect_that_was_not_looked_at_is_dealt_as_none() -> None:
    maps, masks = noisy(defects=3, good=1)
    maps[0][masks[0] > 0] = np.nan
    tuned = tune_postprocess(GRID, maps, masks, folds=2)
    # The two others are in one fold each.
    assert (tuned["folds"], tuned["reasons"]) == (2, [])


# ---- the default grid


def test_the_default_grid_is_small_and_of_the_spec() -> None:
    combinations = [
        dict(zip(DEFAULT_GRID, values, strict=True)) for values in itertools.product(*DEFAULT_GRID.values())
    ]
    assert len(combinations) == 36
    assert combinations[0] == {"gaussian_sigma": 0.0, "opening": 0, "closing": 0}
    for params in combinations:
        assert msgspec.to_builtins(msgspec.convert(params, PostprocessTable)).items() >= params.items()
    maps, masks = noisy(defects=1, good=0)
    tuned = tune_postprocess(DEFAULT_GRID, maps, masks)
    assert tuned["params"] in combinations


# ---- what is refused

MAP, MASK = np.zeros((3, 4), np.float32), np.eye(3, 4)
REFUSED: list[tuple[Any, Any, Any, dict[str, Any], str]] = [
    ({}, [MAP], [MASK], {}, f"params_grid is empty; expected values for some of {FIELDS}"),
    (
        {"sigma": [1]},
        [MAP],
        [MASK],
        {},
        f"params_grid has sigma, which is no field of AnomalyMapPostprocess. Fields: {FIELDS}",
    ),
    (
        {"normalize": [None]},
        [MAP],
        [MASK],
        {},
        f"params_grid has normalize, which moves and stretches all pixels alike: no metric of rankings changes. Fields: {FIELDS}",
    ),
    (
        {"opening": []},
        [MAP],
        [MASK],
        {},
        f"params_grid['opening'] is []; expected a list of at least one value. Fields: {FIELDS}",
    ),
    (
        {"opening": 3},
        [MAP],
        [MASK],
        {},
        f"params_grid['opening'] is 3; expected a list of at least one value. Fields: {FIELDS}",
    ),
    (
        {"opening": "3"},
        [MAP],
        [MASK],
        {},
        f"params_grid['opening'] is '3'; expected a list of at least one value. Fields: {FIELDS}",
    ),
    ({"opening": [0, 2.5]}, [MAP], [MASK], {}, "params_grid['opening'] holds 2.5; expected whole numbers"),
    ({"opening": [True]}, [MAP], [MASK], {}, "params_grid['opening'] holds True; expected whole numbers"),
    ({"gaussian_sigma": [None]}, [MAP], [MASK], {}, "params_grid['gaussian_sigma'] holds None; expected numbers"),
    ({"threshold": ["1"]}, [MAP], [MASK], {}, "params_grid['threshold'] holds '1'; expected numbers, or None"),
    (
        {"opening": [0, -1]},
        [MAP],
        [MASK],
        {},
        "params_grid has a combination that cannot be (opening=-1): opening (=-1) must be 0 or a positive number",
    ),
    (
        {"threshold": [None, 0.5], "min_area": [0, 4]},
        [MAP],
        [MASK],
        {},
        "params_grid has a combination that cannot be (threshold=None, min_area=4): min_area needs a threshold: it is about the pixels that reach it",
    ),
    (
        {"opening": [0]},
        [MAP],
        [MASK],
        {"metric": "image_auroc"},
        'metric is "image_auroc"; expected one of pixel_auroc, pixel_ap, pixel_f1max, or AU-PRO to a limit, such as aupro_30',
    ),
    (
        {"opening": [0]},
        [MAP],
        [MASK],
        {"folds": 1},
        "folds is 1; expected 0 for none, or from 2 to 1, the number of maps",
    ),
    (
        {"opening": [0]},
        [MAP, MAP],
        [MASK, None],
        {"folds": 3},
        "folds is 3; expected 0 for none, or from 2 to 2, the number of maps",
    ),
    ({"opening": [0]}, [MAP], [], {}, "1 maps but 0 masks; expected one of each an image, None for a good one"),
    ({"opening": [0]}, [], [], {}, "aupro_30 is undefined: there are no maps"),
    (
        {"opening": [0]},
        [MAP, MAP],
        [None, MASK[:2]],
        {},
        "masks[1] is 2x4, maps[1] is 3x4 (height x width)",
    ),
    ({"opening": [0]}, [MAP[0]], [None], {}, "maps[0] has shape (4,); expected (height, width), not empty"),
    (
        {"opening": [0]},
        [MAP + np.float32(np.inf)],
        [MASK],
        {},
        "maps[0] holds a score that is infinite as float32; expected finite ones, or NaN",
    ),
    (
        {"opening": [0]},
        [np.full((3, 4), 1e39)],
        [MASK],
        {},
        "maps[0] holds a score that is infinite as float32; expected finite ones, or NaN",
    ),
    (
        {"opening": [0]},
        [MAP, MAP],
        [None, np.zeros((3, 4))],
        {},
        "aupro_30 is undefined: the masks have no defect pixel (images: 2, pixels: 24)",
    ),
    (
        {"opening": [0]},
        [MAP],
        [np.ones((3, 4))],
        {"metric": "pixel_ap"},
        "pixel_ap is undefined: the masks have no normal pixel (images: 1, pixels: 12)",
    ),
]


@pytest.mark.parametrize(("grid", "maps", "masks", "asked", "message"), REFUSED)
def test_what_is_refused(grid: Any, maps: Any, masks: Any, asked: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        tune_postprocess(grid, maps, masks, **asked)


@pytest.mark.parametrize(
    "metric", ["aupro_3", "aupro_300", "aupro_", "aupro_00", "aupro_0.3", "aupro_²", "30", "pixel"]
)
def test_other_names_of_metrics_are_refused(metric: str) -> None:
    with pytest.raises(ValueError, match=f'^metric is "{re.escape(metric)}"; expected one of pixel_auroc, pixel_ap, '):
        tune_postprocess({"opening": [0]}, [MAP], [MASK], metric=metric)
