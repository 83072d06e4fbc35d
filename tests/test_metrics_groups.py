"""Parts in several views: a part is as anomalous as its worst view, and is counted once."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from uadctl import metrics as m
from uadctl.records import Sample

# label, group, score
View = tuple[int, str | None, float]


def measure(views: list[View], **settings: Any) -> m.Measurement:
    if "threshold" not in settings:
        settings |= {"threshold": None, "threshold_reason": "none was asked for"}
    taken = m.CategoryMetrics(pixel=False, **settings)
    for label, group, score in views:
        taken.add(Sample("", "a.png", "test", label, {1: "bad"}.get(label, "good"), "tile", group=group), score)
    return taken.result()


VIEWS: list[View] = [
    (0, "p1", 0.1),
    (1, "p2", 0.2),
    (0, "p1", 0.6),  # the good part's worst view
    (0, "p2", 0.7),  # shows no defect, but belongs to a part with one
    (1, None, 0.5),
    (0, None, 0.3),
    (0, "p3", 0.55),
]


def test_parts_by_hand() -> None:
    found = measure(VIEWS, threshold=0.55)
    values = found.metrics.metrics
    # Parts: p1 good 0.6, p2 bad 0.7, one bad 0.5, one good 0.3, p3 good 0.55.
    assert values["group_auroc"] == pytest.approx((3 + 1) / 6, abs=1e-15)
    assert values["group_ap"] == pytest.approx((1 + 2 / 4) / 2, abs=1e-15)
    assert values["group_f1max"] == pytest.approx(2 / 3, abs=1e-15)
    assert values["group_miss_rate"] == 1 / 2
    assert values["group_false_alarm_rate"] == pytest.approx(2 / 3, abs=1e-15)
    assert list(values)[-5:] == list(m.GROUP_METRICS)
    counts = found.metrics.counts
    assert (counts["groups"], counts["normal_groups"], counts["defect_groups"]) == (5, 3, 2)
    # The images are counted one by one all the same.
    assert (counts["images"], counts["defect_images"]) == (7, 2)
    assert values["miss_rate"] == 1.0


def test_agrees_with_scikit_learn_whatever_the_order() -> None:
    sklearn = pytest.importorskip("sklearn.metrics", reason="scikit-learn is the independent implementation")
    rng = np.random.default_rng(0)
    part = rng.integers(0, 25, 80)
    bad = rng.integers(0, 2, 25)
    views = [(int(bad[p] and rng.integers(0, 2)), f"part {p}", float(np.round(rng.normal() + bad[p], 1))) for p in part]
    labels = [max(v[0] for v in views if v[1] == name) for name in sorted({v[1] for v in views})]
    scores = [max(v[2] for v in views if v[1] == name) for name in sorted({v[1] for v in views})]
    assert 5 < sum(labels) < len(labels)
    for order in (views, views[::-1]):
        values = measure(order).metrics.metrics
        assert values["group_auroc"] == pytest.approx(sklearn.roc_auc_score(labels, scores), abs=1e-12)
        assert values["group_ap"] == pytest.approx(sklearn.average_precision_score(labels, scores), abs=1e-12)


def test_without_groups_there_is_no_word_of_them() -> None:
    found = measure([(0, None, 0.1), (1, None, 0.2), (-1, "p1", 0.3)], threshold=0.15)
    assert not [name for name in (*found.metrics.metrics, *found.metrics.counts) if "group" in name]


def test_a_part_with_an_unknown_view_is_known_only_by_a_defect() -> None:
    views: list[View] = [
        (0, "good", 0.1),
        (1, "bad", 0.4),
        (-1, "bad", 0.9),
        (0, "who knows", 0.8),
        (-1, "who knows", 0.0),
    ]
    found = measure([*views, (-1, None, 1.0), (-1, "nobody knows", 1.0)], threshold=0.5)
    counts = found.metrics.counts
    assert (counts["groups"], counts["normal_groups"], counts["defect_groups"]) == (2, 1, 1)
    # The unknown view of the bad part is its highest: it is not missed.
    assert found.metrics.metrics["group_miss_rate"] == 0.0
    assert found.metrics.metrics["group_false_alarm_rate"] == 0.0
    assert found.metrics.metrics["group_auroc"] == 1.0
    assert (counts["images"], found.metrics.metrics["image_auroc"]) == (3, 1 / 2)


def test_what_is_undefined_of_parts_says_part() -> None:
    found = measure([(0, "p1", 0.1), (0, "p1", 0.2), (0, "p2", 0.2)], threshold=0.5)
    why = "there is no defect part (2 normal)"
    assert found.metrics.reasons["group_auroc"] == found.metrics.reasons["group_miss_rate"] == why
    assert found.metrics.reasons["image_auroc"] == "there is no defect image (3 normal)"
    assert found.metrics.metrics["group_false_alarm_rate"] == 0.0
    none = measure([(1, "p1", 0.1)])
    assert none.metrics.reasons["group_ap"] == "there is no normal part (1 defect)"
    assert none.metrics.reasons["group_miss_rate"] == "none was asked for"
    assert none.metrics.reasons["group_false_alarm_rate"] == "none was asked for"
    nobody = measure([(0, "p1", 0.1), (-1, "p1", 0.1)], threshold=0.5)
    assert nobody.metrics.reasons["group_auroc"] == "there are no parts"
    assert nobody.metrics.reasons["group_miss_rate"] == "there are no parts"


def test_parts_of_labels_and_scores_at_hand() -> None:
    found = m.evaluate_groups([0, 1], [0.1, 0.9], 0.5)
    assert found.metrics == {
        "group_auroc": 1.0,
        "group_ap": 1.0,
        "group_f1max": 1.0,
        "group_miss_rate": 0.0,
        "group_false_alarm_rate": 0.0,
    }
    assert tuple(found.metrics) == m.GROUP_METRICS
    assert found.counts == {"groups": 2, "normal_groups": 1, "defect_groups": 1}
    with pytest.raises(ValueError, match=r"^group_miss_rate, group_false_alarm_rate: None without a reason$"):
        m.evaluate_groups([0, 1], [0.1, 0.9], None)


def test_parts_without_a_label_are_null_for_the_reason_of_the_images() -> None:
    unknown: list[View] = [(-1, "a", 0.5), (-1, "a", 0.7), (-1, "b", 0.1)]
    found = measure(unknown, threshold=0.4)
    assert set(m.GROUP_METRICS) < set(found.metrics.metrics)
    assert set(found.metrics.reasons.values()) == {"the split has no ground truth (3 images)"}
