"""Measuring without a spec: a split, data at hand, detectors of other libraries, and the page that tells of them."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path

import numpy as np
import parts
import pytest

from uadctl import create_model, evaluate_detector, evaluate_split, load_benchmark_split, quick_benchmark
from uadctl.errors import DataError
from uadctl.inference import infer
from uadctl.metrics import compute_aupro, compute_pixel_auroc
from uadctl.models.base import FromPredictions, batches
from uadctl.records import Prediction
from uadctl.spec import MODELS, ModelEntry

PAGE = Path(__file__).parents[1] / "docs" / "python.md"


class Redness(FromPredictions):
    """Scores by how much red an image has over its green; the map is that of each pixel, at half the size.

    maps: False for scores only. feature_extractor: gives rows, whose first number then is the score.
    """

    images_per_batch = 2
    stride = 1

    def __init__(self, *, maps: bool = True, pretrained: bool = True, feature_extractor=None) -> None:
        self.maps, self.pretrained, self.feature_extractor = maps, pretrained, feature_extractor
        self.learned: list[tuple[int, ...]] | None = None

    @property
    def is_fitted(self):
        return self.learned is not None

    def fit(self, images, **_):
        self.learned = [image.shape for batch in batches(images, 2) for image in batch]
        return self

    def predict_batch(self, images):
        self.require_fitted()
        if self.feature_extractor is not None:
            return [Prediction(float(row[0])) for row in self.feature_extractor(list(images))]
        fields = [image[..., 0].astype(np.float32) - image[..., 1] for image in images]
        return [Prediction(float(f.max()), f if self.maps else None) for f in fields]


@pytest.fixture
def split(one_category):
    return load_benchmark_split("mvtec", str(one_category))


@pytest.fixture
def redness(monkeypatch):
    """Two entries of the registry: a detector of images, and one that takes a feature_extractor."""
    target = f"{__name__}:Redness"
    for name, settable in (("vision_redness", ("feature_extractor",)), ("vision_auto_red", ())):
        entry = ModelEntry(
            name=name, target=target, summary="red", aliases=(name[7:],), tags=("classical",), not_settable=settable
        )
        monkeypatch.setitem(MODELS, name, entry)


# -- a split


def test_a_split_is_fitted_scored_and_measured(split):
    detector = Redness()
    found = evaluate_split(detector, split)
    assert len(detector.learned) == 6
    scores = detector.decision_function(split.test_paths)
    maps = [detector.get_anomaly_map(path) for path in split.test_paths]
    masks = list(split.test_masks)
    assert found["image_metrics"] == evaluate_detector(split.test_labels, scores)["image_metrics"]
    assert found["image_metrics"]["image_auroc"] == 1.0
    assert found["pixel_metrics"]["pixel_auroc"] == compute_pixel_auroc(masks, maps)
    assert found["pixel_metrics"]["aupro_30"] == compute_aupro(masks, maps)
    assert list(found["pixel_metrics"]) == ["pixel_auroc", "pixel_ap", "pixel_f1max", "aupro_30"]
    assert found["reasons"] == {}
    counts = found["counts"]
    assert (counts["train_images"], counts["images"], counts["pixel_images"], counts["unmasked_images"]) == (6, 5, 5, 0)
    json.dumps(found, allow_nan=False)


def test_a_detector_that_knows_of_no_stride_is_measured(split):
    class Foreign:
        images_per_batch = 2

        def predict_batch(self, images):
            return Redness().fit([]).predict_batch(images)

    found = evaluate_split(Foreign(), split, size=32)
    assert found["counts"]["train_images"] == 0
    assert found["image_metrics"]["image_auroc"] == 1.0


def test_a_fitted_detector_is_not_fitted_again(split):
    detector = Redness().fit([parts.surface(0)])
    found = evaluate_split(detector, split)
    assert detector.learned == [(64, 64, 3)]
    assert found["counts"]["train_images"] == 0


def test_a_real_detector_on_smaller_images_has_maps_at_the_size_of_the_masks(split):
    found = evaluate_split(create_model("patchcore", pretrained=False, device="cpu"), split, size=32)
    assert found["image_metrics"]["image_auroc"] == 1.0
    assert found["pixel_metrics"]["pixel_auroc"] > 0.9
    assert found["counts"]["pixels"] == 5 * 64 * 64


def test_maps_are_brought_to_the_size_of_resized_masks(one_category):
    split = load_benchmark_split("mvtec", str(one_category), resize=(32, 48))
    found = evaluate_split(Redness(), split)
    assert found["counts"]["pixels"] == 5 * 32 * 48
    assert found["pixel_metrics"]["pixel_auroc"] > 0.99


def test_a_threshold_adds_the_counts_of_its_verdicts(split):
    detector = Redness().fit(split.train_paths)
    scores = detector.decision_function(split.test_paths)
    found = evaluate_split(detector, split, threshold=float(scores.max()), pixel=False)
    assert "pixel_metrics" not in found
    assert found["reasons"] == {}
    metrics = found["image_metrics"]
    assert metrics["tp"] == int((scores == scores.max()).sum())  # score >= threshold
    assert metrics["tp"] + metrics["fn"] == 3
    assert (metrics["fp"], metrics["tn"], metrics["precision"]) == (0, 2, 1.0)


def test_missing_maps_and_masks_are_told(split, one_category):
    found = evaluate_split(Redness(maps=False), split)
    assert "pixel_metrics" not in found
    assert found["reasons"] == {"pixel_metrics": "Redness makes no anomaly maps"}

    masks = sorted((one_category / "tile" / "ground_truth" / "scratch").iterdir())
    masks[0].unlink()
    found = evaluate_split(Redness(), load_benchmark_split("mvtec", str(one_category)))
    assert found["counts"]["unmasked_images"] == 1
    assert found["counts"]["pixel_images"] == 4
    for mask in masks[1:]:
        mask.unlink()
    found = evaluate_split(Redness(), load_benchmark_split("mvtec", str(one_category)))
    assert found["reasons"] == {"pixel_metrics": "mvtec, tile: no test image has a mask"}


def test_images_of_one_kind_leave_metrics_undefined_with_the_reason(split, one_category):
    for path in sorted((one_category / "tile" / "test" / "scratch").iterdir()):
        path.unlink()
    found = evaluate_split(Redness(), load_benchmark_split("mvtec", str(one_category)), pixel=False)
    assert found["image_metrics"] == {"image_auroc": None, "image_ap": None, "image_f1max": None}
    assert found["reasons"]["image_auroc"] == "there is no defect image (2 normal)"


def test_unknown_images_are_not_scored(tmp_path):
    root = tmp_path / "ad2"
    for i in range(3):
        parts.write(root / "can" / "train" / "good" / f"{i}.png", parts.surface(i))
    parts.write(root / "can" / "test_private" / "0.png", parts.surface(9))
    split = load_benchmark_split("mvtec_ad2", str(root), split="test_private")
    with pytest.raises(DataError) as error:
        evaluate_split(Redness(), split)
    assert str(error.value) == f"{root}: no test image of can has a label"


def test_a_broken_image_is_an_error_that_names_it(split):
    broken = Path(split.test_paths[1])
    broken.write_bytes(b"no picture")
    with pytest.raises(DataError, match=f"^{re.escape(str(broken))}: "):
        evaluate_split(Redness(), split)


# -- data at hand


def blobs(n: int, *, shift: float, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(shift, 1, (n, 4))


@pytest.fixture(scope="module")
def matrices() -> tuple[np.ndarray, np.ndarray, list[int]]:
    return blobs(40, shift=0, seed=0), np.concatenate([blobs(10, shift=0, seed=1), blobs(10, shift=6, seed=2)]), [
        *[0] * 10,
        *[1] * 10,
    ]  # fmt: skip


def test_classical_detectors_are_compared_on_features(matrices):
    pytest.importorskip("pyod")
    results = quick_benchmark(*matrices, algorithms=["ECOD", "COPOD"])
    assert list(results) == ["ECOD", "COPOD"]
    for found in results.values():
        assert found["success"] is True
        assert found["metrics"]["image_auroc"] > 0.99
        assert found["error"] is None
    assert quick_benchmark(*matrices) == results


def test_names_are_taken_as_they_are_given(matrices, redness):
    names = ["redness", "REDNESS", "vision_redness", "Vision_Redness"]
    results = quick_benchmark(*matrices, algorithms=names)
    assert list(results) == names
    for found in results.values():
        assert found == {
            "success": True,
            "metrics": evaluate_detector(matrices[2], matrices[1][:, 0])["image_metrics"],
            "reasons": {},
            "error": None,
        }
    train, test = [parts.surface(0)], [parts.surface(1), parts.scratched(2)[0]]
    results = quick_benchmark(train, test, [0, 1], algorithms=["AutoRed", "auto-red"])
    assert [found["success"] for found in results.values()] == [True, True]


def test_what_fails_is_recorded_and_ends_nothing(matrices, redness, monkeypatch):
    def stumble(self, images, **_):
        raise ZeroDivisionError

    results = quick_benchmark(*matrices, algorithms=["no_such", "auto_red", "redness"])
    assert [found["success"] for found in results.values()] == [False, False, True]
    assert results["no_such"]["error"] == '"no_such": no such model. See: uadctl models list'
    assert results["auto_red"]["error"] == "vision_auto_red looks at images, and train is a matrix of features"
    assert results["auto_red"]["metrics"] == {}
    monkeypatch.setattr(Redness, "fit", stumble)
    assert quick_benchmark(*matrices, algorithms=["redness"])["redness"]["error"] == "ZeroDivisionError"


def test_images_are_compared_as_paths_as_arrays_and_as_one_array(tmp_path, redness):
    train, test = [parts.surface(i) for i in range(3)], [parts.surface(9), parts.scratched(8)[0]]
    paths = [str(parts.write(tmp_path / f"{i}.png", image)) for i, image in enumerate(test)]
    expected = quick_benchmark(train, test, [0, 1], algorithms=["redness"])
    assert expected["redness"]["metrics"]["image_auroc"] == 1.0
    assert quick_benchmark(np.stack(train), np.stack(test), [0, 1], algorithms=["redness"]) == expected
    assert quick_benchmark(train, paths, [0, 1], algorithms=["redness"]) == expected


def test_one_class_is_a_success_with_undefined_metrics(matrices, redness):
    found = quick_benchmark(matrices[0], matrices[0][:3], [0, 0, 0], algorithms=["redness"])["redness"]
    assert found["success"] is True
    assert found["metrics"]["image_auroc"] is None
    assert found["reasons"]["image_auroc"] == "there is no defect image (3 normal)"


@pytest.mark.parametrize(
    ("train", "test", "labels", "message"),
    [
        ([], [1], [0], "train must be a matrix of features, or a sequence of at least one image"),
        ("photos", [1], [0], "train must be a matrix of features, or a sequence of at least one image"),
        (
            np.ones((3, 2)),
            np.ones((0, 2)),
            [],
            "test must be a matrix of features, or a sequence of at least one image",
        ),
        (
            np.ones((3, 2)),
            np.ones((3, 3)),
            [0, 0, 1],
            "train and test must be matrices of the same width, or both images; found [(3, 2), (3, 3)]",
        ),
        (
            np.ones((3, 2)),
            ["a.png"],
            [0],
            "train and test must be matrices of the same width, or both images; found [(3, 2), 'images']",
        ),
        (np.full((3, 2), np.nan), np.ones((1, 2)), [0], "train or test holds NaN or infinity"),
        (
            [[1.0, 2.0], [2.0, 1.0]],
            [[1.0, 2.0]],
            [0],
            "train must be a numpy array where it is a matrix of features, found a list of list",
        ),
        (
            np.ones((3, 2)),
            [np.ones(2)],
            [0],
            "test must be a numpy array where it is a matrix of features, found a list of ndarray",
        ),
        (
            np.ones((3, 2)),
            memoryview(b"ab"),
            [0, 1],
            "test must be a numpy array where it is a matrix of features, found a memoryview",
        ),
        (
            np.ones((3, 2)),
            np.ones((2, 2)),
            [0],
            "labels must be 2 numbers, 0 or 1, one for each of test; found shape (1,)",
        ),
        (
            np.ones((3, 2)),
            np.ones((2, 2)),
            [0, -1],
            "labels must be 2 numbers, 0 or 1, one for each of test; found shape (2,)",
        ),
    ],
)
def test_nothing_to_compare_is_an_error(train, test, labels, message):
    with pytest.raises(ValueError) as error:
        quick_benchmark(train, test, labels)
    assert str(error.value) == message


# -- infer, and detectors of other libraries


IMAGES = [parts.surface(0), parts.scratched(1)[0], parts.surface(2)]


def test_infer_takes_lists_stacks_and_paths(tmp_path):
    detector = Redness().fit(IMAGES)
    expected = detector.predict_batch(IMAGES)
    paths = [parts.write(tmp_path / f"{i}.png", image) for i, image in enumerate(IMAGES)]
    for images in (IMAGES, np.stack(IMAGES), paths, iter(IMAGES)):
        found = infer(detector, images, include_maps=True)
        assert [p.score for p in found] == [p.score for p in expected]
        assert all(np.array_equal(a.map, b.map) for a, b in zip(found, expected, strict=True))
    assert [p.map for p in infer(detector, IMAGES)] == [None, None, None]
    assert infer(detector, []) == []


class ListsOnly:
    """Another library's: takes lists of arrays, of any sizes."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def decision_function(self, images):
        self.asked.append(type(images).__name__)
        return np.array([float(image[..., 0].max()) for image in images])

    def predict_anomaly_map(self, images):
        return [image[::2, ::2, 0].astype(np.float64) for image in images]


class ArraysOnly(ListsOnly):
    """Another library's: takes one (n, H, W, 3) array."""

    def decision_function(self, images):
        self.asked.append(type(images).__name__)
        return images.reshape(len(images), -1).max(axis=1)

    def predict_anomaly_map(self, images):
        return images[..., 0].astype(np.float32)


class WrongType(ArraysOnly):
    def decision_function(self, images):
        self.asked.append(type(images).__name__)
        if not isinstance(images, np.ndarray):
            raise TypeError("expected an array")
        return images.max(axis=(1, 2, 3))


class WrongShape(ArraysOnly):
    def decision_function(self, images):
        self.asked.append(type(images).__name__)
        if not isinstance(images, np.ndarray):
            raise ValueError("Found array with dimension 3, expected 4")
        return images.max(axis=(1, 2, 3))


def test_another_librarys_detector_is_asked_with_a_list():
    detector = ListsOnly()
    found = infer(detector, [*IMAGES, parts.surface(3, 40, 72)], include_maps=True)
    assert detector.asked == ["list"]
    assert [p.map.shape for p in found] == [(64, 64)] * 3 + [(40, 72)]
    assert {p.map.dtype for p in found} == {np.dtype(np.float32)}
    assert found[1].score == float(IMAGES[1][..., 0].max())


@pytest.mark.parametrize("kind", [ArraysOnly, WrongType, WrongShape])
def test_and_with_one_array_where_it_takes_no_list(kind):
    detector = kind()
    found = infer(detector, IMAGES, include_maps=True)
    assert detector.asked == ["list", "ndarray"]
    assert [p.score for p in found] == [float(image.max()) for image in IMAGES]
    assert np.array_equal(found[1].map, IMAGES[1][..., 0])


@pytest.mark.parametrize(
    "error",
    [
        ValueError("weights are absent"),
        KeyError("layer4"),
        RuntimeError("out of memory"),
        AttributeError("model"),
        DataError("a.png: shape of a broken file"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_real_error_surfaces_at_once(error):
    class Broken(ListsOnly):
        def decision_function(self, images):
            super().decision_function(images)
            raise error

    detector = Broken()
    with pytest.raises(type(error)) as found:
        infer(detector, IMAGES)
    assert found.value is error
    assert detector.asked == ["list"]


def test_images_of_several_sizes_are_never_stacked():
    detector = ArraysOnly()
    with pytest.raises(AttributeError, match=r"^'list' object has no attribute 'reshape'$"):
        infer(detector, [parts.surface(0), parts.surface(1, 40, 72)])
    assert detector.asked == ["list"]


def test_too_few_scores_are_an_error():
    class Short(ListsOnly):
        def decision_function(self, images):
            return [1.0]

    with pytest.raises(ValueError, match=r"^Short gave scores \(1,\) and 3 maps for 3 images$"):
        infer(Short(), IMAGES, include_maps=True)


def test_an_error_of_our_own_detector_is_not_tried_again():
    calls = []

    class Stumbles(Redness):
        def predict_batch(self, images):
            calls.append(len(images))
            raise TypeError("a bug")

    with pytest.raises(TypeError, match="^a bug$"):
        infer(Stumbles().fit(IMAGES), IMAGES)
    assert calls == [2]


# -- the page


def blocks() -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.M | re.S)


@pytest.mark.slow
def test_the_page_on_python_does_what_it_says(tmp_path, monkeypatch, one_category):
    """Its blocks run one after the other, beside a data set in MVTec AD's layout."""
    monkeypatch.chdir(tmp_path)
    parts.write(tmp_path / "photos" / "007.png", parts.scratched(7)[0])
    code = blocks()
    assert len(code) >= 7
    names: dict[str, object] = {}
    for block in code:
        if "ECOD" in block and importlib.util.find_spec("pyod") is None:
            continue
        exec(compile(block, str(PAGE), "exec"), names)
    assert names["found"]["image_metrics"]["image_auroc"] == 1.0


def test_the_page_names_every_public_name():
    import uadctl

    text = PAGE.read_text(encoding="utf-8")
    assert [name for name in uadctl.__all__ if f"`{name}" not in text] == []
