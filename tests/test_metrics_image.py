"""Image metrics and what is counted at the threshold."""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys

import msgspec
import numpy as np
import pytest

from uadctl import metrics as m

RANKED = (m.compute_image_auroc, m.compute_image_ap, m.compute_image_f1max)


def test_four_images_by_hand() -> None:
    # Descending: 0.8 defect, 0.6 good, 0.4 defect, 0.2 good. Of the four pairs three are in order.
    labels, scores = [0, 1, 0, 1], [0.2, 0.4, 0.6, 0.8]
    assert m.compute_image_auroc(labels, scores) == 3 / 4
    # Precision 1/1 at the first defect, 2/3 at the second.
    assert m.compute_image_ap(labels, scores) == pytest.approx((1 + 2 / 3) / 2, abs=1e-15)
    # At 0.8: TP 1, FP 0, FN 1 -> 2/3. At 0.4: TP 2, FP 1, FN 0 -> 4/5.
    assert m.compute_image_f1max(labels, scores) == pytest.approx(4 / 5, abs=1e-15)


def test_tied_images_by_hand() -> None:
    # 0.8 defect; 0.5 one defect and one good, together; 0.1 good. Pairs: 1, 1, 1/2, 1.
    labels, scores = [1, 1, 0, 0], [0.8, 0.5, 0.5, 0.1]
    assert m.compute_image_auroc(labels, scores) == 7 / 8
    assert m.compute_image_ap(labels, scores) == pytest.approx((1 + 2 / 3) / 2, abs=1e-15)
    assert m.compute_image_f1max(labels, scores) == pytest.approx(4 / 5, abs=1e-15)


def test_the_extremes_are_exact() -> None:
    labels = [0] * 7 + [1] * 3
    rising = np.arange(10.0)
    assert [f(labels, rising) for f in RANKED] == [1.0, 1.0, 1.0]
    assert m.compute_image_auroc(labels, -rising) == 0.0
    assert m.compute_image_auroc(labels, np.ones(10)) == 0.5
    assert m.compute_image_ap(labels, np.ones(10)) == pytest.approx(0.3, abs=1e-15)


@pytest.mark.parametrize("decimals", [0, 1, 2, 8])
def test_agrees_with_scikit_learn(decimals: int) -> None:
    sklearn = pytest.importorskip("sklearn.metrics", reason="scikit-learn is the independent implementation")
    rng = np.random.default_rng(decimals)
    for n in (2, 5, 40, 400):
        labels = rng.integers(0, 2, n)
        labels[:2] = 0, 1
        scores = np.round(rng.normal(size=n) + labels, decimals)
        precision, recall, _ = sklearn.precision_recall_curve(labels, scores)
        total = precision + recall
        f1 = 2 * precision * recall / np.where(total > 0, total, 1)
        assert m.compute_image_auroc(labels, scores) == pytest.approx(sklearn.roc_auc_score(labels, scores), abs=1e-12)
        assert m.compute_image_ap(labels, scores) == pytest.approx(
            sklearn.average_precision_score(labels, scores), abs=1e-12
        )
        assert m.compute_image_f1max(labels, scores) == pytest.approx(f1.max(), abs=1e-12)


def test_scores_that_differ_only_in_float64_are_not_tied() -> None:
    assert m.compute_image_auroc([0, 1], [0.5, 0.5 + 1e-12]) == 1.0


def test_infinite_scores_and_both_zeros_rank() -> None:
    assert m.compute_image_auroc([0, 0, 1, 1], [-math.inf, 0.0, -0.0, math.inf]) == 7 / 8


UNDEFINED = [
    ([], "there are no images"),
    ([0] * 58, "there is no defect image (58 normal)"),
    ([1, 1, 1], "there is no normal image (3 defect)"),
]


@pytest.mark.parametrize(("labels", "reason"), UNDEFINED)
def test_undefined_is_an_error_that_says_why(labels: list[int], reason: str) -> None:
    for compute, title in zip(RANKED, ("image AUROC", "image AP", "image F1-max"), strict=True):
        with pytest.raises(ValueError, match=f"^{re.escape(f'{title} is undefined: {reason}')}$"):
            compute(labels, np.linspace(0, 1, len(labels)))


REFUSED = [
    (([0, 1, -1], [0, 1, 2]), "labels[2] is -1, unknown; leave such images out before anything is measured"),
    (([0, 1], [0.1]), "2 labels but 1 scores; expected one of each an image"),
    (([0, 1], [0.1, math.nan]), "scores[1] is NaN; an image without a score cannot be ranked"),
    (([0, 1], [[0.1], [0.2]]), "scores has shape (2, 1); expected one number an image, (n,)"),
    ((["good", "bad"], [0.1, 0.2]), "labels is of type <U4; expected numbers"),
    (
        ([0.1, 0.2], [0, 1]),
        "labels[0] is 0.1; expected 0 (normal) or 1 (anomalous), and labels before scores in the call",
    ),
]


@pytest.mark.parametrize(("arguments", "message"), REFUSED)
def test_what_cannot_be_ranked_is_refused(arguments: tuple[list[float], list[float]], message: str) -> None:
    for compute in (*RANKED, lambda y, s: m.threshold_counts(y, s, 0.5), lambda y, s: m.evaluate_images(y, s, 0.5)):
        with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
            compute(*arguments)


def test_a_score_equal_to_the_threshold_is_anomalous() -> None:
    assert m.is_anomalous([0.4, 0.5, 0.6], 0.5).tolist() == [False, True, True]
    with pytest.raises(ValueError, match=r"^the threshold is NaN$"):
        m.is_anomalous([0.5], math.nan)


def test_a_threshold_is_not_rounded_to_the_precision_of_the_scores() -> None:
    score = np.float32(0.1)
    above = math.nextafter(float(score), 1.0)
    assert m.is_anomalous(np.array([score]), float(score)).tolist() == [True]
    assert m.is_anomalous(np.array([score]), above).tolist() == [False]


def test_counts_at_the_threshold_by_hand() -> None:
    result = m.threshold_counts([0, 0, 0, 0, 1, 1, 1], [0.1, 0.5, 0.6, 0.2, 0.5, 0.9, 0.3], 0.5)
    assert result.metrics == {
        "tp": 2,
        "fp": 2,
        "fn": 1,
        "tn": 2,
        "miss_rate": 1 / 3,
        "false_alarm_rate": 2 / 4,
        "precision": 2 / 4,
    }
    assert result.reasons == {}
    assert result.counts == {"images": 7, "normal_images": 4, "defect_images": 3, "alarms": 4}
    assert tuple(result.metrics) == m.THRESHOLD_METRICS
    assert {name: result.counts[n] for name, n in m.RATE_COUNTS.items()} == {
        "miss_rate": 3,
        "false_alarm_rate": 4,
        "precision": 4,
    }


@pytest.mark.parametrize(
    ("labels", "scores", "counts", "reasons"),
    [
        (
            [0, 0],
            [0.1, 0.2],
            (0, 0, 0, 2),
            {
                "miss_rate": "there is no defect image (2 normal)",
                "precision": "none of 2 images scores at or above the threshold 0.5",
            },
        ),
        ([1], [0.7], (1, 0, 0, 0), {"false_alarm_rate": "there is no normal image (1 defect)"}),
        ([], [], (0, 0, 0, 0), dict.fromkeys(m.RATE_COUNTS, "there are no images")),
    ],
)
def test_a_rate_of_nothing_is_none_with_its_reason(
    labels: list[int], scores: list[float], counts: tuple[int, ...], reasons: dict[str, str]
) -> None:
    result = m.threshold_counts(labels, scores, 0.5)
    assert tuple(result.metrics[name] for name in ("tp", "fp", "fn", "tn")) == counts
    assert result.reasons == reasons
    assert {name for name, value in result.metrics.items() if value is None} == set(reasons)


def test_all_image_metrics_of_a_category() -> None:
    result = m.evaluate_images([0, 1, 0, 1], [0.2, 0.4, 0.6, 0.8], 0.5)
    assert tuple(result.metrics) == m.IMAGE_METRICS + m.THRESHOLD_METRICS
    assert result.metrics["image_auroc"] == 3 / 4
    assert result.metrics["tp"] == 1
    assert result.reasons == {}


def test_without_a_threshold_the_counts_are_none_for_the_reason_given() -> None:
    why = "20 training images are needed for a holdout, there are 3"
    result = m.evaluate_images([0, 1], [0.2, 0.4], None, threshold_reason=why)
    assert result.metrics == {
        "image_auroc": 1.0,
        "image_ap": 1.0,
        "image_f1max": 1.0,
        **dict.fromkeys(m.THRESHOLD_METRICS),
    }
    assert result.reasons == dict.fromkeys(m.THRESHOLD_METRICS, why)
    assert result.counts == {"images": 2, "normal_images": 1, "defect_images": 1}


def test_a_threshold_and_a_reason_for_none_exclude_each_other() -> None:
    with pytest.raises(
        ValueError, match=r"^threshold is None; expected a number, or threshold_reason saying why there is none$"
    ):
        m.evaluate_images([0, 1], [0.2, 0.4], None)
    with pytest.raises(
        ValueError, match=r"^threshold is 0\.5; threshold_reason says why there is none: give one of the two$"
    ):
        m.evaluate_images([0, 1], [0.2, 0.4], 0.5, threshold_reason="none")


def test_a_single_normal_image_is_strict_json() -> None:
    result = m.evaluate_images([0], [0.2], 0.5)
    text = msgspec.json.encode(result).decode()
    read = json.loads(text, parse_constant=lambda constant: pytest.fail(f"{constant} is not JSON"))
    assert read["metrics"]["image_auroc"] is None
    assert read["reasons"]["image_auroc"] == "there is no defect image (1 normal)"
    assert read["metrics"]["tn"] == 1
    assert msgspec.json.decode(text, type=m.Metrics) == result


@pytest.mark.parametrize(
    ("metrics", "reasons", "message"),
    [
        ({"a": math.nan}, {}, "a is nan; a metric is a finite number, or None with a reason"),
        ({"a": math.inf}, {}, "a is inf; a metric is a finite number, or None with a reason"),
        ({"a": None, "b": None}, {"b": "why"}, "a: None without a reason"),
        ({"a": 1.0}, {"a": "why"}, "a: a reason, but the metric is not None"),
        ({"a": 1.0}, {"b": "why"}, "b: a reason, but the metric is not None"),
    ],
)
def test_a_record_of_metrics_holds_a_number_or_a_reason(
    metrics: dict[str, float | int | None], reasons: dict[str, str], message: str
) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        m.Metrics(metrics, reasons)


def test_merging_keeps_order_and_refuses_to_hide_a_number() -> None:
    image = m.Metrics({"a": 1.0}, {}, {"images": 2})
    pixel = m.undefined(["b", "c"], "the data set has no masks")
    both = m.merge(image, pixel)
    assert list(both.metrics.items()) == [("a", 1.0), ("b", None), ("c", None)]
    assert both.reasons == {"b": "the data set has no masks", "c": "the data set has no masks"}
    assert both.counts == {"images": 2}
    with pytest.raises(ValueError, match=r"^a, images: in more than one of the records to merge$"):
        m.merge(image, image)


def test_a_mean_needs_the_metric_in_every_cell() -> None:
    cells = [{"a": 0.5, "b": 1.0, "tp": 3}, {"a": 0.75, "b": None, "tp": 5, "c": 1.0}]
    assert m.mean_metrics(cells) == {"a": 0.625, "b": None, "c": None}
    assert m.mean_metrics([*cells, {}]) == {"a": None, "b": None, "c": None}
    assert m.mean_metrics([]) == {}


def test_a_detector_is_evaluated_on_pixels_only_with_masks_and_maps() -> None:
    y, s = [0, 1], [0.1, 0.9]
    masks = np.zeros((2, 4, 4), np.uint8)
    masks[1, :2, :2] = 255
    maps = masks / 255 + np.linspace(0, 0.1, 16).reshape(4, 4)
    image = {"image_auroc": 1.0, "image_ap": 1.0, "image_f1max": 1.0}
    assert m.evaluate_detector(y, s) == {"image_metrics": image, "reasons": {}}
    assert m.evaluate_detector(y, s, pixel_labels=masks, pixel_scores=maps) == {
        "image_metrics": image,
        "pixel_metrics": {"pixel_auroc": 1.0, "pixel_ap": 1.0, "pixel_f1max": 1.0, "aupro_30": 1.0},
        "reasons": {},
    }
    assert m.evaluate_detector(y, s, pixel_labels=masks) == {
        "image_metrics": image,
        "reasons": {"pixel_metrics": "there are pixel_labels but no pixel_scores"},
    }
    assert m.evaluate_detector(y, s, pixel_scores=maps) == {
        "image_metrics": image,
        "reasons": {"pixel_metrics": "there are pixel_scores but no pixel_labels"},
    }


def test_a_detector_evaluated_on_one_kind_of_image_has_none_and_reasons() -> None:
    result = m.evaluate_detector([0], [0.1], pixel_labels=np.zeros((1, 2, 2)), pixel_scores=np.ones((1, 2, 2)))
    assert result["image_metrics"] == dict.fromkeys(m.IMAGE_METRICS)
    assert result["pixel_metrics"] == dict.fromkeys(m.pixel_metric_names())
    assert result["reasons"] == {
        **dict.fromkeys(m.IMAGE_METRICS, "there is no defect image (1 normal)"),
        **dict.fromkeys(m.pixel_metric_names(), "the masks have no defect pixel (images: 1, pixels: 4)"),
    }


def test_image_metrics_and_thresholds_load_no_heavy_package() -> None:
    heavy = ("cv2", "torch", "sklearn", "scipy", "matplotlib")
    script = (
        "import sys, uadctl.thresholds, uadctl.metrics as m; m.compute_image_auroc([0, 1], [0, 1]); "
        f"print(sorted(set({heavy}) & set(sys.modules)))"
    )
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert loaded.stdout.strip() == "[]"
