"""AnomalyDINO by hand with given patch features, on a small network, and from the command line."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import parts
import pytest
import torch

from uadctl import load_run
from uadctl.errors import DataError, ParamError, RunError, WeightsError
from uadctl.features.backbone import Backbone
from uadctl.models import anomalydino
from uadctl.models.anomalydino import AnomalyDINO, aggregate_patch_scores, reshape_patch_scores
from uadctl.records import Prediction, Size
from uadctl.spec.registry import BACKBONES

TINY = "dinov2_tiny"


@pytest.fixture
def tiny(tmp_path, monkeypatch) -> str:
    """A DINOv2 of two blocks, on a machine without network and without any weights."""
    layers = ("blocks.0", "blocks.1", "norm")
    original = BACKBONES["dinov2_vits14"]
    entry = dataclasses.replace(
        original, name=TINY, channels=dict.fromkeys(layers, 64), strides=dict.fromkeys(layers, 14)
    )
    monkeypatch.setitem(BACKBONES, TINY, entry)
    monkeypatch.setenv("UADCTL_OFFLINE", "1")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.delenv("UADCTL_WEIGHTS", raising=False)
    return TINY


def model(**params) -> AnomalyDINO:
    """On the small network with random weights, and few patches."""
    defaults = {"backbone": TINY, "pretrained": False, "device": "cpu", "image_size": 56, "rotation": "off"}
    return AnomalyDINO(**{**defaults, **params})


GOOD = [parts.surface(i) for i in range(6)]
BAD = parts.scratched(100)[0]


# -- by hand


class Given:
    """Patch features by the name of the image, on a (2, 2) grid of an image of 6x8 pixels."""

    def __init__(self, table: dict[str, list[list[float]]], size=(6, 8), grid=(2, 2)) -> None:
        self.table, self.size, self.grid = table, size, grid
        self.seen: list[object] = []

    def embed(self, x):
        self.seen.append(x)
        return np.array(self.table[x]), self.grid, self.size


X, Y, Z = [1.0, 0.0, 0.0], [0.0, 2.0, 0.0], [0.0, 0.0, 5.0]
TABLE = {
    "a": [X, X, X, Y],
    "b": [X, X, Y, Y],
    "c": [X, X, [3.0, 4.0, 0.0], Y],
    "bad": [X, [-7.0, 0.0, 0.0], [0.0, 4.0, 3.0], Z],
}


def given(**params) -> AnomalyDINO:
    return AnomalyDINO(embedder=Given(TABLE), **params)


def test_a_patch_is_as_anomalous_as_the_cosine_distance_to_its_nearest():
    fitted = given(sigma=0.0).fit(["a", "b"])
    (prediction,) = fitted._predictions(["bad"])
    # X is known; -X is at a right angle to Y; (0, 4, 3) has cosine 0.8 with Y; Z is at right angles to both.
    assert prediction.map is not None
    assert prediction.map.shape == (6, 8)
    assert prediction.map.dtype == np.float32
    corners = prediction.map[[0, 0, -1, -1], [0, -1, 0, -1]]
    assert corners.tolist() == pytest.approx([0.0, 1.0, 0.2, 1.0], abs=1e-6)
    assert prediction.score == pytest.approx(1.0)  # one per cent of four patches is one patch


def test_length_does_not_matter():
    assert given().fit(["a"]).decision_function(["b"]).tolist() == [0.0]


@pytest.mark.parametrize(
    ("params", "score"),
    [
        ({"aggregation": "mean"}, 2.2 / 4),
        ({"aggregation": "max"}, 1.0),
        ({"topk": 0.75}, 2.2 / 3),
        ({"topk": 1.0}, 2.2 / 4),
    ],
)
def test_the_score_is_the_aggregate_of_the_distances(params, score):
    assert given(**params).fit(["a", "b"]).decision_function(["bad"])[0] == pytest.approx(score, rel=1e-6)


def test_more_neighbours_give_the_mean_of_their_distances():
    # In the bank: X five times, Y three times. The patch (3, 4, 0) has cosine 0.8 with Y and 0.6 with X.
    scores = {k: given(n_neighbors=k).fit(["a", "b"]).decision_function(["c"])[0] for k in (1, 2, 3, 4, 8, 1000)}
    by_hand = {1: 0.2, 2: 0.2, 3: 0.2, 4: (3 * 0.2 + 0.4) / 4, 8: 5 / 8}
    assert scores[8] == scores[1000]  # clamped to the bank
    for k, expected in by_hand.items():
        if k < 8:
            assert scores[k] == pytest.approx(expected, rel=1e-6)
    # Of all eight, Y itself is 0 from three and 1 from five: the farthest patch.
    assert scores[8] == pytest.approx(by_hand[8], rel=1e-6)


def test_left_out_predictions_do_not_know_the_image_itself():
    seen: list[Prediction] = []
    fitted = given(contamination=0.25).fit(["a", "c", "bad"], left_out=seen.append)
    # a: X and Y are in c. c: (3, 4, 0) has cosine 0.64 with (0, 4, 3) and 0.8 with Y. bad: -X and Z are in neither.
    assert [p.score for p in seen] == pytest.approx([0.0, 0.2, 1.0], abs=1e-6)
    assert fitted.threshold_ == pytest.approx(np.quantile([0.0, 0.2, 1.0], 0.75))
    assert fitted.predict(["a", "c", "bad"]).tolist() == [0, 0, 0]  # known patches
    assert given().fit(["a", "b"]).predict(["a", "bad"]).tolist() == [1, 1]  # b knows all of a: the threshold is 0


def test_without_its_own_patches_means_without_all_of_them():
    seen: list[Prediction] = []
    given(n_neighbors=1).fit(["bad", "a"], left_out=seen.append)
    assert seen[0].score == pytest.approx(1.0)
    assert seen[1].score == pytest.approx(0.2)  # Y against (0, 4, 3)


def test_one_training_image_gives_scores_and_no_threshold():
    seen: list[Prediction] = []
    fitted = given().fit(["a"], left_out=seen.append)
    assert not seen
    assert fitted.decision_function(["bad"])[0] == pytest.approx(1.0)
    with pytest.raises(RuntimeError, match="^AnomalyDINO has no threshold_: it was fitted on one training image"):
        fitted.predict(["bad"])


def test_no_threshold_is_computed_for_nobody(monkeypatch):
    monkeypatch.setattr(AnomalyDINO, "_score", lambda *_, **__: pytest.fail("a training image was scored"))
    assert given().fit(["a", "b"], threshold=False).threshold_ is None


def test_the_map_is_smoothed_with_the_gaussian_asked_for():
    from scipy.ndimage import gaussian_filter

    sharp, smooth = (given(sigma=s).fit(["a"]).get_anomaly_map("bad") for s in (0.0, 1.5))
    np.testing.assert_allclose(smooth, gaussian_filter(sharp, 1.5, mode="reflect", truncate=4.0), rtol=1e-3, atol=1e-3)


def test_the_pieces_are_importable_from_here():
    assert aggregate_patch_scores(np.arange(10), method="topk_mean", topk=0.2) == 8.5
    assert reshape_patch_scores(np.arange(6), 2, 3).tolist() == [[0, 1, 2], [3, 4, 5]]


# -- embedders


def test_an_embedder_gets_what_the_caller_gave(tmp_path):
    embedder = Given({})
    embedder.embed = lambda x: embedder.seen.append(x) or (np.eye(4), (2, 2), (6, 8))
    fitted = AnomalyDINO(embedder=embedder)
    array, file = np.zeros((6, 8, 3), np.uint8), tmp_path / "not there.png"
    fitted.fit([str(file), file, array])
    fitted.decision_function([str(file)])
    fitted.predict_batch([array])
    assert [type(x) for x in embedder.seen] == [str, type(file), np.ndarray, str, np.ndarray]
    assert embedder.seen[2] is array
    assert embedder.seen[0] == str(file)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (
            (np.ones((5, 3)), (2, 2), (6, 8)),
            "the embedder gave patches of shape (5, 3) for a grid of 2x2; expected (4, d)",
        ),
        ((np.ones(4), (2, 2), (6, 8)), "the embedder gave patches of shape (4,) for a grid of 2x2; expected (4, d)"),
        ((np.full((4, 3), np.nan), (2, 2), (6, 8)), "features contain NaN or infinity"),
    ],
)
def test_an_embedder_that_contradicts_itself_is_refused(answer, message):
    embedder = Given(TABLE)
    fitted = AnomalyDINO(embedder=embedder).fit(["a", "b"])
    embedder.embed = lambda x: answer
    for use in (fitted.decision_function, AnomalyDINO(embedder=embedder).fit):
        with pytest.raises(ValueError) as caught:
            use(["a"])
        assert str(caught.value) == message


def test_features_of_another_length_than_the_banks_are_refused():
    embedder = Given(TABLE)
    fitted = AnomalyDINO(embedder=embedder).fit(["a"])
    embedder.table = {"a": np.eye(4)}
    with pytest.raises(ValueError, match="^the embedder gave features of 4 numbers; those in the bank have 3$"):
        fitted.decision_function(["a"])


def test_with_an_embedder_nothing_imports_torch():
    code = """
import sys
import numpy as np
from uadctl.models.anomalydino import AnomalyDINO

class E:
    def embed(self, x):
        return x.reshape(-1, 3)[:4].astype(float) + 1, (2, 2), x.shape[:2]

images = [np.random.default_rng(i).integers(0, 256, (6, 8, 3), dtype=np.uint8) for i in range(5)]
assert AnomalyDINO(embedder=E(), shots=2).fit(images).threshold_ is not None
m = AnomalyDINO(embedder=E())
m.prepare()
m.fit(images)
m.decision_function(images), m.get_anomaly_map(images[0]), m.predict(images), m.predict_batch(images), m.facts(), m.doubts()
heavy = {"torch", "torchvision", "timm", "sklearn", "faiss"} & set(sys.modules)
assert not heavy, heavy
assert "cv2" in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_run_folder_cannot_hold_an_embedder():
    fitted = given().fit(["a"])
    assert fitted.weights_state() == "none"
    assert fitted.facts()["embedder"] == "Given"
    assert (fitted.own_resizing, fitted.stride, fitted.images_per_batch) == (None, 1, 1)
    for use in (fitted.state, lambda: fitted.restore({}, {})):
        with pytest.raises(RuntimeError, match="^AnomalyDINO has an embedder, which a run folder cannot hold$"):
            use()
    with pytest.raises(RuntimeError, match=r"^AnomalyDINO is not fitted; call fit\(images\) first$"):
        given().state()


# -- shots and rotations


def drawn(detector: AnomalyDINO, images, shots: int) -> list:
    held: dict = {}
    stream = detector._drawing(iter(images), shots, held)
    assert all(len(held) <= shots for _ in stream)
    return list(held.values())


def test_shots_are_drawn_in_one_pass_and_keep_their_order():
    detector = AnomalyDINO(embedder=Given({str(i): [X] * 4 for i in range(50)}), shots=5)
    draws = []
    for seed in range(300):
        detector.seed = seed
        draw = drawn(detector, (str(i) for i in range(50)), 5)
        assert len(set(draw)) == 5
        assert [int(i) for i in draw] == sorted(int(i) for i in draw)
        draws.append(draw)
    ends = []
    for seed in range(300):
        detector.seed = seed
        ends += drawn(detector, ["first", "last"], 1)
    assert 110 < ends.count("last") < 190  # 150 on average, with a standard deviation of 9
    detector.seed = 3
    assert drawn(detector, [str(i) for i in range(50)], 5) == draws[3]
    counts = np.bincount([int(i) for draw in draws for i in draw], minlength=50)
    assert counts.min() >= 12  # each is drawn 30 times on average, with a standard deviation of 5
    assert counts.max() <= 48
    detector.seed = 3
    detector.fit((str(i) for i in range(50)), threshold=False)
    assert detector._embedder.seen == draws[3]  # nobody asks for scores: the others are not looked at
    assert detector.facts()["references"] == 5
    assert AnomalyDINO(embedder=Given(TABLE), shots=9).fit(["a", "b"]).facts()["references"] == 2


def test_shots_are_rotated_and_all_views_of_an_image_are_left_out(tiny, monkeypatch):
    seen: list[Prediction] = []
    fitted = model(shots=3, rotation="auto").fit(GOOD, left_out=seen.append)
    assert fitted.memory_bank_.shape == (3 * 8 * 16, 64)
    assert len(seen) == 6
    kept = drawn(fitted, range(6), 3)
    for number in range(6):
        alone = model(rotation="on").fit([GOOD[k] for k in kept if k != number])
        assert alone.memory_bank_.shape == ((3 - (number in kept)) * 8 * 16, 64)
        expected = alone.predict_batch([GOOD[number]])[0]
        assert seen[number].score == pytest.approx(expected.score, rel=1e-4)
        np.testing.assert_allclose(seen[number].map, expected.map, rtol=1e-3, atol=1e-5)
    assert fitted.threshold_ == pytest.approx(np.quantile([p.score for p in seen], 0.9))
    assert model(shots=3).fit(GOOD).memory_bank_.shape == (3 * 16, 64)


def test_one_shot_is_judged_by_the_images_that_were_not_drawn():
    for seed in range(5):
        seen: list[Prediction] = []
        fitted = given(shots=1, seed=seed).fit(["a", "c", "bad"], left_out=seen.append)
        (only,) = drawn(fitted, ["a", "c", "bad"], 1)
        others = [name for name in ("a", "c", "bad") if name != only]
        assert [p.score for p in seen] == fitted.decision_function(others).tolist()
        assert fitted.threshold_ == pytest.approx(np.quantile([p.score for p in seen], 0.9))
    assert given(shots=1).fit(["a"]).threshold_ is None


def test_images_that_are_not_drawn_leave_the_bank_as_it_is_and_are_read_once(tiny):
    stream = iter(GOOD)
    fitted = model(shots=2, masking="on", batch_size=4).fit(stream)
    assert next(stream, None) is None
    quiet = model(shots=2, masking="on", batch_size=4).fit(iter(GOOD), threshold=False)
    assert quiet.threshold_ is None
    np.testing.assert_array_equal(fitted.memory_bank_, quiet.memory_bank_)


def test_images_that_are_not_drawn_are_masked_too(tiny, monkeypatch):
    half = np.zeros((4, 4), bool)
    half[:, 2:] = True
    monkeypatch.setattr(anomalydino, "_foreground", lambda vectors, grid: half.ravel())
    seen: list[Prediction] = []
    model(shots=1, masking="on", sigma=0.0).fit(GOOD, left_out=seen.append)
    assert len(seen) == 5
    assert all((p.map[:, : p.map.shape[1] // 4] == 0).all() and p.score > 0 for p in seen)


def test_what_waits_beyond_the_memory_is_kept_in_a_file(tiny, monkeypatch):
    from uadctl.memory import store

    plain, on_disk = [], []
    model(shots=2).fit(GOOD, left_out=plain.append)
    monkeypatch.setattr(anomalydino, "_MEMORY", 0)
    monkeypatch.setattr(store, "_NUMBERS", 1)
    write = store.FeatureStore._write
    written = []
    monkeypatch.setattr(store.FeatureStore, "_write", lambda self, rows: written.append(1) or write(self, rows))
    model(shots=2).fit(GOOD, left_out=on_disk.append)
    assert len(written) == 6
    assert [p.score for p in plain] == [p.score for p in on_disk]


def test_auto_turns_up_to_sixteen_shots(tiny):
    fitted = model(rotation="auto", shots=16).fit(GOOD[:2], threshold=False)
    assert fitted.memory_bank_.shape == (2 * 8 * 16, 64)
    assert fitted.facts()["rotation"] is fitted.rotation_ is True
    assert model().restore(*fitted.state()).facts()["rotation"] is True
    for params in ({"shots": 17}, {}, {"shots": 16, "rotation": "off"}):
        plain = model(**{"rotation": "auto", **params}).fit(GOOD[:2], threshold=False)
        assert plain.memory_bank_.shape == (2 * 16, 64)
        assert plain.facts()["rotation"] is False
    assert given(shots=1).fit(["a"]).rotation_ is False


def test_a_rotated_image_has_its_size_and_is_mirrored_at_the_border():
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (40, 60, 3), dtype=np.uint8)
    for angle in anomalydino._ANGLES:
        assert anomalydino._turn(image, angle).shape == (40, 60, 3)
    # About the corner of the pixels in the middle, as the authors turn: half a turn leaves row and column 0 outside.
    half = anomalydino._turn(image, 180)
    np.testing.assert_array_equal(half[1:, 1:], image[:0:-1, :0:-1])
    np.testing.assert_array_equal(half[0, 1:], image[-2, :0:-1])
    assert anomalydino._turn(np.full((40, 60, 3), 200, np.uint8), 45).min() == 200
    square = rng.integers(0, 256, (30, 30, 3), dtype=np.uint8)
    np.testing.assert_array_equal(anomalydino._turn(square, 90)[1:], np.rot90(square)[:-1])
    assert len({anomalydino._turn(square, a).tobytes() for a in anomalydino._ANGLES}) == 7


# -- the foreground


def scene(*, sign: float, seed: int = 0, side: int = 20) -> tuple[np.ndarray, np.ndarray, Size]:
    """Patch features of a thing in the middle of a ground, and where the thing is."""
    rng = np.random.default_rng(seed)
    there = np.zeros((side, side), bool)
    there[5:15, 4:16] = True
    direction = np.zeros(32)
    direction[3] = sign
    features = rng.normal(0, 0.3, (side * side, 32)) + np.where(there.reshape(-1, 1), 30.0 * direction, 0.0)
    return features.astype(np.float32), there, Size(side, side)


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_the_foreground_is_the_thing_in_the_middle_and_a_patch_around_it(sign):
    features, there, grid = scene(sign=sign)
    found = anomalydino._foreground(features, grid)
    np.testing.assert_array_equal(found.reshape(grid), cv2.dilate(there.astype(np.uint8), np.ones((3, 3))) > 0)
    assert anomalydino._seems_to_work(found, grid)


def test_holes_are_closed():
    features, there, grid = scene(sign=1.0)
    holes = there.copy()
    holes[8:12, 8:12] = False
    holed = np.where(holes.reshape(-1, 1), features, features[:1])
    found = anomalydino._foreground(holed, grid)
    np.testing.assert_array_equal(found.reshape(grid), cv2.dilate(there.astype(np.uint8), np.ones((3, 3))) > 0)


def test_the_component_is_that_of_scikit_learn():
    decomposition = pytest.importorskip("sklearn.decomposition", reason="the reference comes from scikit-learn")
    for shape in ((50, 8), (8, 50), (1, 8)):
        features = np.random.default_rng(1).normal(size=shape).astype(np.float32) + 3
        mine = anomalydino._first_component(features)
        if shape[0] == 1:
            assert mine.tolist() == [0.0]
            continue
        reference = decomposition.PCA(n_components=1, svd_solver="full").fit(features.astype(np.float64))
        theirs = reference.transform(features.astype(np.float64))[:, 0]
        largest = reference.components_[0][np.abs(reference.components_[0]).argmax()]
        np.testing.assert_allclose(mine, theirs * np.sign(largest), atol=1e-6)


def test_a_mask_that_would_hide_everything_hides_nothing():
    flat = np.random.default_rng(0).normal(0, 0.1, (100, 16)).astype(np.float32)
    assert anomalydino._foreground(flat, Size(10, 10)).all()
    assert anomalydino._foreground(flat[:1], Size(1, 1)).all()


def test_a_mask_over_a_texture_does_not_seem_to_work():
    assert not anomalydino._seems_to_work(np.ones(400, bool), Size(20, 20))
    assert not anomalydino._seems_to_work(np.zeros(400, bool), Size(20, 20))
    assert not anomalydino._seems_to_work(np.random.default_rng(0).random(400) < 0.5, Size(20, 20))
    assert not anomalydino._seems_to_work(np.ones(1, bool), Size(1, 1))


def test_the_background_has_no_distance_and_stays_in_the_bank(tiny, monkeypatch):
    half = np.zeros((4, 4), bool)
    half[:, 2:] = True
    monkeypatch.setattr(anomalydino, "_foreground", lambda vectors, grid: half.ravel())
    plain, masked = (model(masking=m, sigma=0.0, aggregation="mean").fit(GOOD) for m in ("off", "on"))
    assert (plain.masking_, masked.masking_) == (False, True)
    assert masked.memory_bank_.shape == plain.memory_bank_.shape == (6 * 16, 64)
    a, b = (m.predict_batch([cv2.resize(BAD, (56, 56))])[0] for m in (plain, masked))
    assert (b.map[:, :14] == 0).all()
    np.testing.assert_allclose(b.map[:, 35:], a.map[:, 35:], rtol=1e-5)
    columns = a.map[7::14, 7::14]
    assert columns.shape == (4, 4)
    assert 0 < b.score < a.score
    assert masked.threshold_ < plain.threshold_


@pytest.mark.parametrize(("works", "expected"), [(4, True), (3, False), (0, False)])
def test_auto_masks_where_it_seems_to_work_on_most_training_images(works, expected, tiny, monkeypatch):
    answers = [True] * works + [False] * (6 - works)
    monkeypatch.setattr(anomalydino, "_seems_to_work", lambda foreground, grid: answers.pop())
    fitted = model(masking="auto").fit(GOOD)
    assert not answers
    assert fitted.masking_ is expected
    assert fitted.facts()["masking"] is expected
    assert model(masking="off").restore(*fitted.state()).masking_ is expected


def test_auto_is_off_for_what_the_numbers_are_not_made_for(tiny, monkeypatch):
    monkeypatch.setattr(anomalydino, "_foreground", lambda *_: pytest.fail("a mask was made"))
    assert model(layer="blocks.0", masking="auto").fit(GOOD).masking_ is False
    assert model(backbone="efficientnet_lite0", masking="auto").fit(GOOD).masking_ is False
    assert model().fit(GOOD).masking_ is False


# -- on a network


def test_finds_the_defect_where_it_is_with_a_network_of_random_weights(tiny):
    fitted = model(image_size=112, masking="off").fit(GOOD)
    bad, good = fitted.predict_batch([BAD, parts.surface(101)])
    assert bad.score > 1.2 * good.score
    assert bad.map.shape == (64, 64)
    assert bad.map.dtype == np.float32
    y, x = np.unravel_index(bad.map.argmax(), bad.map.shape)
    assert 14 <= y < 38
    assert 18 <= x < 54
    assert fitted.predict([BAD]).tolist() == [1]
    assert bad.score == float(np.float32(bad.score))


def test_score_and_map_are_those_of_the_tokens(tiny):
    images = [cv2.resize(image, (56, 56), interpolation=cv2.INTER_AREA) for image in (*GOOD[:2], BAD)]
    fitted = model(sigma=0.0, masking="off").fit(images[:2])
    maps = Backbone(TINY, pretrained=False)(np.stack(images))[0].double()
    rows = maps.permute(0, 2, 3, 1).reshape(3, 16, 64)
    rows = rows / rows.norm(dim=2, keepdim=True)
    distance = 1 - (rows[2] @ rows[:2].reshape(32, 64).T).max(dim=1).values
    prediction = fitted.predict_batch([images[2]])[0]
    assert prediction.score == pytest.approx(float(distance.max()), rel=1e-4)
    expected = cv2.resize(distance.reshape(4, 4).float().numpy(), (56, 56), interpolation=cv2.INTER_LINEAR)
    np.testing.assert_allclose(prediction.map, expected, atol=1e-5)


def test_any_shape_is_taken_and_shapes_may_be_mixed(tiny):
    fitted = model().fit(GOOD)
    images = [parts.surface(i, *shape) for i, shape in enumerate([(64, 160), (64, 64), (200, 50), (1, 1), (3, 500)])]
    together = fitted.predict_batch(images)
    for image, prediction in zip(images, together, strict=True):
        assert prediction.map.shape == image.shape[:2]
        assert np.isfinite(prediction.map).all()
        alone = fitted.predict_batch([image])[0]
        assert prediction.score == pytest.approx(alone.score, rel=1e-4)


@pytest.mark.parametrize(
    ("image_size", "original", "seen"),
    [
        (56, (100, 100), (56, 56)),
        (56, (100, 200), (56, 112)),
        (56, (300, 400), (56, 70)),  # 74.7, rounded
        (60, (100, 100), (56, 56)),
        (56, (20, 80), (56, 224)),
        (56, (2, 800), (14, 896)),  # the area of 56x224, and no more
        (56, (10, 10), (56, 56)),
        ("given", (56, 70), (56, 70)),
        ("given", (64, 100), (70, 98)),
        ("given", (3, 5), (14, 14)),
    ],
)
def test_the_shorter_side_is_brought_to_image_size(image_size, original, seen, tiny):
    detector = model(image_size=image_size)
    sizes: list[Size] = []
    (ready,) = detector._resized([np.zeros((*original, 3), np.uint8)], sizes)
    assert ready.shape == (*seen, 3)
    assert sizes == [original]
    if image_size == "given":
        assert detector.own_resizing is None
    else:
        assert str(detector.own_resizing).startswith(f"brings the shorter side of images to {image_size} pixels (")
    assert detector.stride == 14


def test_training_images_are_read_once_and_in_batches(tiny, monkeypatch):
    detector = model(batch_size=2)
    asked = []
    look = detector._looked_at
    monkeypatch.setattr(detector, "_looked_at", lambda images: asked.append(len(images)) or look(images))
    stream = iter(GOOD[:5])
    detector.fit(stream)
    assert next(stream, None) is None
    assert asked == [2, 2, 1]
    asked.clear()
    detector.predict_batch([BAD, GOOD[0]])
    assert asked == [2]


def test_the_batch_size_is_tried_out_in_the_size_that_the_network_gets(tiny, monkeypatch):
    tried = []
    monkeypatch.setattr(Backbone, "best_batch_size", lambda self, size: tried.append(size) or 4)
    fitted = model(batch_size="auto").fit([parts.surface(i, 100, 200) for i in range(5)])
    assert tried == [Size(56, 112)]
    assert fitted.images_per_batch == 4
    assert [r.shape for r in (fitted.memory_bank_,)] == [(5 * 32, 64)]


def test_a_second_fit_forgets_the_first(tiny):
    first = model().fit(GOOD)
    again = model().fit([BAD, GOOD[1]])
    again.fit(GOOD)
    np.testing.assert_array_equal(again.memory_bank_, first.memory_bank_)
    assert again.threshold_ == first.threshold_


def test_state_restores_an_equal_model_that_needs_no_weights(tiny, tmp_path):
    file = tmp_path / "own.pth"
    torch.save(Backbone(TINY, pretrained=False, seed=4).state(), file)
    fitted = model(pretrained=True, source="checkpoint", weights=str(file), masking="on").fit(GOOD)
    assert fitted.weights_state() == "path"
    assert fitted.doubts() == []
    tensors, facts = fitted.state()
    file.unlink()
    facts = json.loads(json.dumps(facts))
    copy = model(source="checkpoint")
    copy.prepare(download=False)
    copy.restore({key: value.clone() for key, value in tensors.items()}, facts)
    before, after = fitted.predict_batch([BAD, GOOD[0]]), copy.predict_batch([BAD, GOOD[0]])
    assert [p.score for p in before] == [p.score for p in after]
    np.testing.assert_array_equal(before[0].map, after[0].map)
    assert copy.facts() == fitted.facts()
    assert copy.facts()["weights_file"] == "own.pth"
    assert copy.threshold_ == fitted.threshold_
    assert copy.masking_ is True


def test_features_that_are_no_numbers_are_refused(tiny, monkeypatch):
    fitted = model().fit(GOOD)

    def broken(self, images):
        return [torch.full((len(images), 64, 4, 4), float("nan"))]

    monkeypatch.setattr(Backbone, "__call__", broken)
    for use in (fitted.predict_batch, model().fit):
        with pytest.raises(RunError) as caught:
            use(GOOD[:1])
        assert caught.value.message == "dinov2_tiny: features contain NaN or infinity"
        assert caught.value.help == 'In precision "fp16" numbers end at 65504: use "bf16" or "fp32".'


def test_names_a_file_it_cannot_read(tiny, tmp_path):
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no image")
    with pytest.raises(DataError, match=r"broken\.png"):
        model().fit([str(broken)])
    with pytest.raises(DataError, match=r"broken\.png"):
        model().fit(GOOD[:1]).decision_function([str(broken)])


@pytest.mark.parametrize("backend", ["numpy", "sklearn", "faiss"])
def test_every_neighbour_backend_gives_the_same_predictions(backend, tiny):
    if backend != "numpy":
        pytest.importorskip(backend, reason=f"the backend {backend} needs {backend}")
    fitted = model(n_neighbors=3).fit(GOOD)
    other = model(n_neighbors=3, knn_backend=backend).restore(*fitted.state())
    for a, b in zip(fitted.predict_batch([BAD]), other.predict_batch([BAD]), strict=True):
        assert a.score == pytest.approx(b.score, rel=1e-4)
        np.testing.assert_allclose(a.map, b.map, rtol=1e-3, atol=1e-4)


# -- weights


def test_nothing_is_loaded_before_the_first_image(tiny, monkeypatch):
    loaded = []
    start = Backbone.__init__
    monkeypatch.setattr(Backbone, "__init__", lambda self, *a, **k: loaded.append(1) or start(self, *a, **k))
    detector = model()
    detector.prepare()
    assert detector.doubts() == ["pretrained = false: the backbone's weights are random, the scores mean little"]
    assert not loaded
    detector.fit(GOOD[:1])
    assert len(loaded) == 1


def test_random_weights_are_never_downloaded_and_absent_ones_are_asked_for_in_time(tiny, monkeypatch):
    monkeypatch.setenv("UADCTL_OFFLINE", "0")
    monkeypatch.setattr("urllib.request.urlopen", lambda *_, **__: pytest.fail("asked the network"))
    model().fit(GOOD[:2])
    monkeypatch.setenv("UADCTL_OFFLINE", "1")
    for use in (lambda m: m.prepare(), lambda m: m.fit(GOOD[:1])):
        with pytest.raises(WeightsError, match="^dinov2_tiny: the weights dinov2_vits14_pretrain.pth are not on this"):
            use(model(pretrained=True))


def test_the_published_file_is_taken_from_torch_hubs_cache(tiny, tmp_path, monkeypatch):
    import hashlib

    file = tmp_path / "torch" / "hub" / "checkpoints" / "dinov2_vits14_pretrain.pth"
    file.parent.mkdir(parents=True)
    state = Backbone(TINY, pretrained=False, seed=9).state()
    torch.save({**state, "mask_token": torch.zeros(1, 64)}, file)
    entry = BACKBONES[TINY]
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    monkeypatch.setitem(
        BACKBONES, TINY, dataclasses.replace(entry, weights=dataclasses.replace(entry.weights, sha256=digest))
    )
    detector = model(pretrained=True)
    detector.prepare()
    assert detector.weights_state() == "cache"
    detector.fit(GOOD)
    assert detector.facts()["weights"] == "cache"
    assert detector.decision_function([BAD])[0] == model(seed=9).fit(GOOD).decision_function([BAD])[0]


def test_tensors_of_a_clone_are_compared_and_kept(tiny, tmp_path, monkeypatch):
    from uadctl.features import vit

    state = Backbone(TINY, pretrained=False, seed=9).state()
    asked = []

    def load(repo, name, *, pretrained, seed):
        asked.append((repo, name, pretrained, seed))
        return state

    monkeypatch.setattr(vit, "from_repository", load)
    detector = model(source="local", repo="clones/dinov2", pretrained=True, seed=2)
    assert detector.weights_state() == "local"
    assert detector.doubts() == []
    detector.prepare(download=False)
    assert not asked
    detector.prepare()
    detector.fit(GOOD)
    assert asked == [("clones/dinov2", TINY, True, 2)]
    assert detector.facts()["weights"] == "local"
    assert detector.decision_function([BAD])[0] == model(seed=9).fit(GOOD).decision_function([BAD])[0]
    copy = model(source="local", repo="clones/dinov2")
    copy.prepare(download=False)
    copy.restore(*detector.state())
    assert copy.decision_function([BAD])[0] == detector.decision_function([BAD])[0]
    assert len(asked) == 1
    assert model(source="local", repo="clones/dinov2").weights_state() == "random"
    model(source="local", repo="clones/dinov2").fit(GOOD[:1])
    assert asked[1] == ("clones/dinov2", TINY, False, 0)


def test_timms_network_of_the_same_name_is_asked_for(tiny, monkeypatch):
    assert len(anomalydino._TIMM) == 8
    assert set(anomalydino._TIMM) == {name for name in BACKBONES if name.startswith("dinov2_")} - {TINY}
    assert anomalydino._TIMM["dinov2_vitg14_reg"] == "timm:vit_giant_patch14_reg4_dinov2.lvd142m"
    name = anomalydino._TIMM["dinov2_vits14"]
    monkeypatch.setitem(BACKBONES, name, dataclasses.replace(BACKBONES[TINY], name=name))
    for params in (
        {"backbone": "dinov2_vits14", "source": "timm"},
        {"backbone": name},
        {"backbone": name, "source": "timm"},
    ):
        assert model(**params).fit(GOOD[:1]).facts()["backbone"] == "timm:vit_small_patch14_dinov2.lvd142m"


def test_timms_names_are_timms():
    timm = pytest.importorskip("timm", reason="the names are timm's")
    known = set(timm.list_pretrained("*dinov2*"))
    assert {name.removeprefix("timm:") for name in anomalydino._TIMM.values()} <= known


# -- what it refuses


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"image_size": 0}, 'image_size (=0) must be at least 1, or "given"'),
        ({"n_neighbors": 0}, "n_neighbors (=0) must be at least 1"),
        ({"topk": 0.0}, "topk (=0.0) must lie in (0, 1]"),
        ({"topk": 1.1}, "topk (=1.1) must lie in (0, 1]"),
        ({"sigma": -1.0}, "sigma (=-1.0) must be at least 0"),
        ({"shots": 0}, "shots (=0) must be at least 1"),
        ({"contamination": 0.0}, "contamination (=0.0) must lie in (0, 0.5)"),
        ({"contamination": 0.5}, "contamination (=0.5) must lie in (0, 0.5)"),
        ({"batch_size": 0}, 'batch_size (=0) must be at least 1, or "auto"'),
        ({"aggregation": "median"}, "aggregation (='median') must be one of topk_mean, max, mean"),
        ({"masking": "yes"}, "masking (='yes') must be one of auto, on, off"),
        ({"rotation": "yes"}, "rotation (='yes') must be one of auto, on, off"),
        ({"source": "web"}, "source (='web') must be one of torchhub, local, timm, checkpoint"),
        ({"knn_backend": "annoy"}, "knn_backend 'annoy' is unknown; choose one of: torch, numpy, sklearn, faiss"),
        ({"layer": "blocks.2"}, 'layer (="blocks.2") must be a layer of dinov2_tiny: blocks.0, blocks.1, norm'),
        (
            {"layer": "blocks.1", "masking": "on"},
            'masking (="on") must be "off" or "auto" with the layer blocks.1 of dinov2_tiny',
        ),
        (
            {"backbone": "resnet18", "masking": "on"},
            'masking (="on") must be "off" or "auto" with the layer layer3 of resnet18',
        ),
        ({"repo": "clone"}, 'repo (="clone") must not be given with source "torchhub"'),
        ({"weights": "a.pth"}, 'weights (="a.pth") must not be given with source "torchhub"'),
        ({"source": "local"}, 'source (="local") must come with repo, the folder of a clone'),
        ({"source": "checkpoint", "pretrained": True}, 'source (="checkpoint") must come with weights, the file'),
        (
            {"source": "local", "repo": "clone", "backbone": "resnet18"},
            'source (="local") must go with a dinov2 backbone, found "resnet18"',
        ),
        (
            {"source": "timm", "backbone": "resnet18"},
            'source (="timm") must go with a dinov2 or timm backbone, found "resnet18"',
        ),
        (
            {"embedder": Given(TABLE), "masking": "on"},
            'masking (="on") must be "off" or "auto" with an embedder: it is not known what it gives',
        ),
        (
            {"embedder": Given(TABLE), "rotation": "on"},
            'rotation (="on") must be "off" or "auto" with an embedder: it is not known what it gives',
        ),
    ],
)
def test_refuses_parameters(params, message, tiny):
    with pytest.raises(ParamError) as caught:
        model(**params)
    assert caught.value.message == message


def test_says_all_that_is_wrong_at_once_and_the_next_step(tiny):
    with pytest.raises(ParamError) as caught:
        AnomalyDINO(backbone="dinov2_vits15", sigma=-1.0, weights="a.pth", repo="clone")
    assert [p.message.split(" ")[0] for p in caught.value.problems] == ["sigma", "backbone", "repo", "weights"]
    assert 'backbone (="dinov2_vits15"): no such backbone; did you mean dinov2_vit' in caught.value.message
    assert [p.help for p in caught.value.problems] == [
        None,
        None,
        'Add source = "local".',
        'Add source = "checkpoint".',
    ]


def test_refuses_no_images_and_use_before_fit(tiny):
    for detector in (model(), given(), model(shots=2)):
        with pytest.raises(ValueError, match="^AnomalyDINO needs at least one training image, found none$"):
            detector.fit([])
    for use in (model().predict, model().predict_batch, given().decision_function, given().predict_batch):
        with pytest.raises(RuntimeError, match=r"^AnomalyDINO is not fitted; call fit\(images\) first$"):
            use([GOOD[0]])


# -- from the command line


def test_bench_and_score_on_images_of_their_own_size(uadctl, tiny, tmp_path):
    root = tmp_path / "data"
    parts.write_category(root, "tile", size=(96, 128))
    kwargs = json.dumps({"backbone": TINY, "image_size": 56, "shots": 4})
    ended = uadctl(
        *("bench", "--dataset", "mvtec", "--root", root, "--model", "anomalydino"),
        *("--no-pretrained", "--model-kwargs", kwargs, "--json"),
    )
    results = ended.json["results"]["tile"]["vision_anomalydino"]["0"]
    assert results["success"] is True
    assert results["metrics"]["image_auroc"] == 1.0
    assert results["metrics"]["aupro_30"] is not None
    assert (
        "warning: vision_anomalydino: [preprocess] size = 256 is the default and not applied: the model itself brings "
        "the shorter side of images to 56 pixels (beyond 4:1 the area stays that of a 4:1 image); "
        'model.params.image_size = "given" applies it\n'
    ) in ended.err
    assert "pretrained = false" in ended.err
    run = Path(ended.json["run"])
    facts = json.loads((run / "units/tile/vision_anomalydino/0/model/model.json").read_text())
    assert facts["preprocess"] == {"size": None, "resize": None, "crop": None, "stride": 14}
    (row,) = uadctl("score", run, root / "tile/test/scratch/000.png", "--json").lines
    assert row["status"] == "ok"
    fitted = load_run(run, device="cpu").detector
    assert fitted.facts()["references"] == 4
    assert fitted.facts()["rotation"] is True
    assert fitted.threshold_ is None


@pytest.mark.parametrize(
    ("image_size", "options", "size"),
    [
        (56, ("--set", "preprocess.size=128"), 128),
        ("given", ("--set", "preprocess.size=56"), 56),
        ("given", (), 256),  # where images are taken as given, so is the default
    ],
)
def test_a_preprocess_table_that_says_something_is_followed(image_size, options, size, uadctl, tiny, one_category):
    ended = uadctl(
        *("fit", "--dataset", "mvtec", "--root", one_category, "--model", "anomalydino", "--no-pretrained"),
        *("--model-kwargs", json.dumps({"backbone": TINY, "image_size": image_size}), "--limit-train", "2", "--json"),
        *options,
    )
    assert "not applied" not in ended.err
    unit = Path(ended.json["run"]) / "units/tile/vision_anomalydino/0"
    assert json.loads((unit / "model/model.json").read_text())["preprocess"]["size"] == size
