"""Whatever a tiled detector says is of tiled images: scores, maps, and the threshold that they are compared with."""

from __future__ import annotations

import gc
import subprocess
import sys
import weakref
from typing import Any

import numpy as np
import pytest
import torch
from test_examples import load

import uadctl
from uadctl.errors import DataError, ParamError
from uadctl.imaging.maps import AnomalyMapPostprocess
from uadctl.imaging.tiles import extract_tile, iter_tile_coords, stitch_maps
from uadctl.inference import infer
from uadctl.models.base import Detector
from uadctl.models.checks import CheckFailed, check_detector
from uadctl.models.patchcore import PatchCore
from uadctl.records import Prediction, Size, Tiling
from uadctl.tiling import TiledDetector


def surface(seed: int, height: int = 40, width: int = 56) -> np.ndarray:
    """A noisy grey (H, W, 3) uint8 image."""
    rng = np.random.default_rng(seed)
    return np.clip(rng.normal(120, 12, (height, width, 3)), 0, 255).astype(np.uint8)


def dented(seed: int, height: int = 40, width: int = 56) -> np.ndarray:
    image = surface(seed, height, width)
    image[20:24, 30:36] = 250
    return image


class Foreign:
    """Another library's detector: how far a pixel's grey value is from the mean of those it has seen."""

    def __init__(self) -> None:
        self.learned: list[np.ndarray] = []
        self.asked: list[int] = []

    def fit(self, images: list[np.ndarray], y: None = None) -> None:
        self.learned = list(images)
        self.mean_ = float(np.mean([image.mean() for image in images]))

    def _maps(self, images) -> list[np.ndarray]:
        return [np.abs(image.mean(axis=2) - self.mean_) for image in images]

    def decision_function(self, images) -> list[float]:
        self.asked.append(len(images))
        return [float(field.max()) for field in self._maps(images)]

    def predict_anomaly_map(self, images) -> list[np.ndarray]:
        return self._maps(images)


class OfArrays(Foreign):
    """One that takes arrays only."""

    def fit(self, images, y=None):
        assert images.ndim == 4
        super().fit(images)

    def decision_function(self, images):
        if images.ndim != 4:
            raise ValueError("expected 4 dimensions")
        return super().decision_function(images)

    def predict_anomaly_map(self, images):
        return np.stack(super().predict_anomaly_map(images)) if images.ndim == 4 else None


class Spread(Foreign):
    """Whose score is a mean, which varies more the smaller the image: of many tiles the largest is larger."""

    predict_anomaly_map = None

    def decision_function(self, images):
        return [abs(float(image.mean()) - self.mean_) for image in images]


class NoMaps(Foreign):
    predict_anomaly_map = property()


GOOD = [surface(i) for i in range(24)]


# -- scores and maps


@pytest.mark.parametrize("kind", [Foreign, OfArrays])
@pytest.mark.parametrize("fit", ["untiled", "tiles"])
def test_another_librarys_detector_is_tiled(kind, fit):
    detector = kind()
    tiled = TiledDetector(detector, 16, 12, map_reduce="hann", fit=fit).fit(GOOD, threshold=False)
    shapes = {image.shape for image in detector.learned}
    tiles = len(list(iter_tile_coords(40, 56, 16, 12)))
    assert (shapes, len(detector.learned)) == (({(40, 56, 3)}, 24) if fit == "untiled" else ({(16, 16, 3)}, 24 * tiles))
    images = [dented(100), surface(101)]
    scores, maps = tiled.decision_function(images), tiled.predict_anomaly_map(images)
    whole = [np.abs(image.mean(axis=2) - detector.mean_) for image in images]
    assert (scores.shape, scores.dtype) == ((2,), np.float64)
    np.testing.assert_allclose(scores, [field.max() for field in whole], rtol=1e-6)
    assert (maps.shape, maps.dtype) == ((2, 40, 56), np.float32)
    np.testing.assert_allclose(maps, whole, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(tiled.get_anomaly_map(images[0]), maps[0])
    assert 20 <= np.unravel_index(maps[0].argmax(), (40, 56))[0] < 24


@pytest.fixture(scope="module")
def bank() -> PatchCore:
    return PatchCore(device="cpu", pretrained=False, batch_size=4).fit(GOOD[:2], threshold=False)


@pytest.mark.parametrize(("score_reduce", "map_reduce"), [("max", "mean"), ("mean", "hann"), ("max", "max")])
def test_a_score_and_a_map_are_made_of_those_of_the_tiles(bank, score_reduce, map_reduce):
    tiled = TiledDetector(bank, 32, 24, score_reduce=score_reduce, map_reduce=map_reduce)
    image = dented(7, 70, 50)
    coords = list(iter_tile_coords(70, 50, 32, 24))
    alone = bank.predict_batch([extract_tile(image, y0, x0, 32) for y0, x0 in coords])
    (found,) = tiled.predict_batch([image])
    scores = [p.score for p in alone]
    assert found.score == pytest.approx(max(scores) if score_reduce == "max" else np.mean(scores), rel=1e-5)
    assert found.score == float(np.float32(found.score))
    expected = stitch_maps(coords, [p.map for p in alone], (70, 50), map_reduce)
    np.testing.assert_allclose(found.map, expected, rtol=1e-4, atol=1e-4)


def test_tiles_overlap_by_a_quarter_where_nothing_is_said():
    tiled = TiledDetector(Foreign(), 16)
    assert tiled.tiling == Tiling(16, 12, "mean", "max")
    assert TiledDetector(Foreign(), 1).tiling.stride == 1
    assert TiledDetector(Foreign(), tile_size=16, stride=4, score_reduce="mean").tiling == Tiling(16, 4, "mean", "mean")


def test_images_smaller_than_a_tile_and_of_several_sizes():
    detector = Foreign()
    tiled = TiledDetector(detector, 32, 20).fit(GOOD, threshold=False)
    images = [surface(1, 5, 70), dented(2), surface(3, 1, 1), surface(4, 32, 32), surface(5, 33, 31)]
    found = tiled.predict_batch(images)
    assert len(found) == 5
    for image, prediction in zip(images, found, strict=True):
        expected = np.abs(image.mean(axis=2) - detector.mean_)
        np.testing.assert_allclose(prediction.map, expected, rtol=1e-5, atol=1e-5)
        assert prediction.score == pytest.approx(expected.max(), rel=1e-6)  # padding repeats what there is
    assert [p.score for p in infer(tiled, images)] == tiled.decision_function(images).tolist()
    assert tiled.decision_function([]).shape == (0,)


def test_tiles_of_an_image_share_a_batch():
    detector = Foreign()
    tiled = TiledDetector(detector, 32).fit(GOOD, threshold=False)  # 2 x 2 tiles each
    tiled.decision_function([surface(i) for i in range(9)])
    assert detector.asked == [4] * 9


def test_images_are_let_go():
    tiled = TiledDetector(Foreign(), 8).fit(GOOD, threshold=False)
    alive: list[weakref.ref[np.ndarray]] = []
    most = 0

    def images():
        nonlocal most
        for i in range(5):
            image = surface(i)
            alive.append(weakref.ref(image))
            yield image
            del image
            gc.collect()
            most = max(most, sum(r() is not None for r in alive))

    tiled.decision_function(images())
    assert len(alive) == 5
    assert most <= 2


def test_no_maps_are_made_where_there_are_none():
    tiled = TiledDetector(NoMaps(), 16).fit(GOOD, threshold=False)
    scores = tiled.decision_function(GOOD[:2])
    assert tiled.predict_batch(GOOD[:2]) == [Prediction(score) for score in scores]
    with pytest.raises(ValueError, match="^TiledDetector makes no anomaly maps$"):
        tiled.predict_anomaly_map(GOOD[:2])


def test_scores_alone_are_asked_for_once():
    class MapsRefused(Foreign):
        def predict_anomaly_map(self, images):
            raise AssertionError("a map was asked for")

    assert len(TiledDetector(MapsRefused(), 16).fit(GOOD, threshold=False).decision_function(GOOD)) == 24


def test_errors_of_the_detector_and_of_files_come_through(tmp_path):
    tiled = TiledDetector(Foreign(), 16).fit(GOOD, threshold=False)
    with pytest.raises(DataError, match="absent.png"):
        tiled.decision_function([str(tmp_path / "absent.png")])
    tiled.detector.mean_ = None
    with pytest.raises(TypeError, match="NoneType"):
        tiled.decision_function(GOOD[:1])


# -- the threshold


def test_a_threshold_is_of_tiled_scores_of_images_that_were_not_learned():
    detector = Foreign()
    tiled = TiledDetector(detector, 16, 12).fit(iter(GOOD))
    learned = [next(i for i, g in enumerate(GOOD) if g is image) for image in detector.learned]
    held = sorted(set(range(24)) - set(learned))
    # One of each five; of the last, incomplete five perhaps none.
    assert [i // 5 for i in held] in ([0, 1, 2, 3, 4], [0, 1, 2, 3])
    assert learned == sorted(learned)
    scores = tiled.decision_function([GOOD[i] for i in held])
    assert tiled.threshold_ == np.quantile(scores, 0.9)
    assert tiled.predict([dented(50), GOOD[held[int(scores.argmin())]]]).tolist() == [1, 0]
    again, other = (Foreign(), Foreign())
    TiledDetector(again, 16, 12).fit(GOOD)
    TiledDetector(other, 16, 12, seed=1).fit(GOOD)
    assert [len(image) for image in again.learned] == [len(image) for image in detector.learned]
    assert all(a is b for a, b in zip(again.learned, detector.learned, strict=True))
    assert not all(a is b for a, b in zip(other.learned, detector.learned, strict=False))


def test_good_images_are_not_flagged_for_being_tiled():
    detector = Spread()
    images = [surface(i, 96, 96) for i in range(60)]
    tiled = TiledDetector(detector, 8).fit(images)
    own = np.quantile(detector.decision_function(images), 0.9)
    new = [surface(1000 + i, 96, 96) for i in range(40)]
    assert (tiled.decision_function(new) > own).all()  # what the untiled threshold would say
    assert tiled.predict(new).mean() <= 0.35


def test_of_few_images_no_threshold_is_made_but_it_can_be_set():
    detector = Foreign()
    tiled = TiledDetector(detector, 16).fit(GOOD[:19])
    assert (len(detector.learned), tiled.threshold_) == (19, None)
    with pytest.raises(RuntimeError) as caught:
        tiled.predict(GOOD[:1])
    assert str(caught.value) == (
        "TiledDetector has no threshold_: it takes scores of tiled images that were not learned, and fit had fewer "
        "than 20 images, or was not to make one; set it from other good images with "
        "calibrate(images, contamination=0.1)"
    )
    others = [surface(100 + i) for i in range(10)]
    assert tiled.calibrate(others, contamination=0.2) is tiled
    assert tiled.threshold_ == np.quantile(tiled.decision_function(others), 0.8)
    assert tiled.predict(others).sum() == 2
    tiled.fit(GOOD[:19])
    assert tiled.threshold_ is None  # it was of another model
    with pytest.raises(ValueError, match="^calibrate needs at least one good image, found none$"):
        tiled.calibrate([])
    with pytest.raises(ValueError, match=r"^contamination \(=0.5\) must lie in \(0, 0.5\)$"):
        tiled.calibrate(others, contamination=0.5)


def test_without_a_threshold_all_images_are_learned():
    detector = Foreign()
    assert TiledDetector(detector, 16).fit(GOOD, threshold=False).threshold_ is None
    assert len(detector.learned) == 24


def test_contamination_is_the_detectors():
    assert TiledDetector(PatchCore(device="cpu", contamination=0.3), 16).contamination == 0.3
    assert TiledDetector(Foreign(), 16).contamination == 0.1


# -- one of ours


class Known(PatchCore):
    """PatchCore whose patch features are given: one row a patch, by the value of an image's first pixel."""

    def __init__(self, features: dict[int, list[list[float]]], **params: Any) -> None:
        super().__init__(**{"coreset": "none", "device": "cpu", "n_neighbors": 1, "sigma": 0.0, **params})
        self._features = features

    def _embed(self, images):
        rows = [self._features[int(i[0, 0, 0])] for i in images]
        return [(torch.tensor(row), Size(1, len(row))) for row in rows]


def tile(key: int) -> np.ndarray:
    return np.full((4, 4, 3), key, np.uint8)


FEATURES = {i: [[float(v), 0.0]] for i, v in enumerate((0, 1, 10, 11, 40))}


def test_images_of_one_part_are_left_out_together_by_hand():
    told: list[Prediction] = []
    model = Known(FEATURES).fit([tile(i) for i in range(5)], left_out=told.append, together=[0, 0, 3, 3, 7])
    # 0 and 1 are of one part: the nearest others are 10 and 10; 10 and 11 have 1 and 1; 40 has 11.
    assert [p.score for p in told] == [10, 9, 9, 10, 29]
    assert model.threshold_ == pytest.approx(np.quantile([10, 9, 9, 10, 29], 0.9))
    alone: list[Prediction] = []
    Known(FEATURES).fit([tile(i) for i in range(5)], left_out=alone.append)
    assert [p.score for p in alone] == [1, 1, 1, 1, 29]


def test_left_out_together_are_scores_of_a_bank_without_the_part():
    images = [surface(i, 32, 32) for i in range(4)]
    parts: list[int] = []

    def growing():
        for i, image in enumerate(images):
            parts.append(i // 2)
            yield image

    told: list[Prediction] = []
    make = lambda: PatchCore(device="cpu", coreset="none", pretrained=False)  # noqa: E731
    make().fit(growing(), left_out=told.append, together=parts)
    first, last = (make().fit(pair, threshold=False) for pair in (images[:2], images[2:]))
    expected = [*last.predict_batch(images[:2]), *first.predict_batch(images[2:])]
    for found, without in zip(told, expected, strict=True):
        assert found.score == pytest.approx(without.score, rel=1e-5)
        np.testing.assert_allclose(found.map, without.map, rtol=1e-4, atol=1e-5)


def test_left_out_together_from_a_coreset():
    """The bank that is left is that of the fit, filtered: not one that would have been chosen without the part."""
    images = [surface(i, 32, 32) for i in range(6)]
    parts, told = [0, 0, 1, 1, 1, 2], []
    fitted = PatchCore(device="cpu", coreset_ratio=0.3, pretrained=False).fit(
        images, left_out=told.append, together=parts
    )
    every = torch.cat([patches for patches, _ in fitted._embed(images)])
    owner = torch.tensor(parts).repeat_interleave(len(every) // 6)
    whose = owner[torch.cdist(fitted.memory_bank_, every).argmin(dim=1)]
    for part, image, prediction in zip(parts, images, told, strict=True):
        filtered = PatchCore(device="cpu", pretrained=False).fit(images, threshold=False)
        filtered._hold(fitted.memory_bank_[whose != part])
        assert prediction.score == pytest.approx(filtered.predict_batch([image])[0].score, rel=1e-5)


@pytest.mark.parametrize("together", [[0, 0, 0], [5, 5, 5]])
def test_of_a_part_without_which_nothing_is_left_there_is_nothing_to_tell(together):
    told: list[Prediction | None] = []
    model = Known(FEATURES).fit([tile(i) for i in range(3)], left_out=told.append, together=together)
    assert (told, model.threshold_) == ([None] * 3, None)


@pytest.mark.parametrize(
    ("together", "message"),
    [
        ([0, 1], "together has 2 numbers for 3 training images"),
        ([0, 1, 0], "together must be ascending: images of one part follow one another"),
    ],
)
def test_parts_that_cannot_be_are_refused(together, message):
    with pytest.raises(ValueError) as caught:
        Known(FEATURES).fit([tile(i) for i in range(3)], together=together)
    assert str(caught.value) == message


def test_who_leaves_out_together_says_so():
    from uadctl.models.padim import PaDiM

    assert PatchCore.leaves_out_together
    assert not PaDiM.leaves_out_together


def test_a_memory_bank_of_tiles_needs_no_image_held_out():
    images = [surface(i, 40, 24) for i in range(3)]
    make = lambda: TiledDetector(  # noqa: E731
        PatchCore(device="cpu", coreset="none", pretrained=False), 24, 16, score_reduce="mean", fit="tiles"
    )
    tiled = make().fit(images)
    assert len(tiled.detector.memory_bank_) == 3 * 2 * 3 * 3
    expected = []
    for i, image in enumerate(images):
        without = make().fit([other for j, other in enumerate(images) if j != i], threshold=False)
        expected += without.decision_function([image]).tolist()
    assert tiled.threshold_ == pytest.approx(np.quantile(expected, 0.9), rel=1e-4)
    assert make().fit(images[:1]).threshold_ is None


def test_a_memory_bank_that_holds_one_image_only_leaves_out_the_others():
    """Without that image there is no model, and it has no score; the model without any other image is the model."""

    class OfOne(Known):
        def _choose(self, features, progress):
            return np.array([0, 1])

    tiled = TiledDetector(OfOne(FEATURES), 4, fit="tiles")
    images = [np.concatenate([tile(0), tile(1)]), np.concatenate([tile(2), tile(3)]), tile(4)]
    tiled.fit(images)
    assert tiled.threshold_ == tiled.threshold_of(tiled.decision_function(images[1:]))


def test_a_tiled_detector_passes_the_checks_of_every_detector():
    blocks = load("own_detector").BlockColours

    class Small(blocks):
        images_per_batch = 2

    for fit in ("untiled", "tiles"):
        make = lambda fit=fit: TiledDetector(Small(blocks=4), 32, 24, map_reduce="hann", fit=fit)  # noqa: E731
        assert isinstance(make(), Detector)
        check_detector(make, train=20)
    with pytest.raises(CheckFailed, match="^1 of [0-9]+ checks failed\npredict_compares: threshold_ is None after 8"):
        check_detector(make, train=8)


def test_a_tiled_detector_is_not_fitted_before_its_detector():
    tiled = TiledDetector(PatchCore(device="cpu", pretrained=False), 16)
    for ask in (tiled.predict, tiled.decision_function, tiled.predict_batch, tiled.get_anomaly_map, tiled.calibrate):
        with pytest.raises(RuntimeError, match=r"^TiledDetector is not fitted; call fit\(images\) first$"):
            ask(GOOD[0] if ask == tiled.get_anomaly_map else GOOD[:1])
    with pytest.raises(ValueError, match="^PatchCore needs at least one training image, found none$"):
        tiled.fit([])


def test_what_cannot_be_tiled_is_refused():
    with pytest.raises(ParamError) as caught:
        TiledDetector(Foreign(), 16, score_reduce="sum", map_reduce="min", fit="both")
    assert str(caught.value).splitlines() == [
        "score_reduce (='sum') must be one of max, mean",
        "map_reduce (='min') must be one of max, mean, hann",
        "fit (='both') must be one of untiled, tiles",
    ]
    with pytest.raises(ValueError, match=r"^stride \(=17\) must be 1 to the tile's size \(=16\): beyond it, "):
        TiledDetector(Foreign(), 16, 17)


# -- end to end


def test_tiling_postprocessing_and_evaluation_together():
    tiled = TiledDetector(Foreign(), 16, 12, map_reduce="hann").fit(GOOD, threshold=False)
    images = [surface(200 + i) for i in range(4)] + [dented(300 + i) for i in range(4)]
    masks = [np.zeros((40, 56), np.uint8) for _ in images]
    for mask in masks[4:]:
        mask[20:24, 30:36] = 1
    predictions = infer(tiled, images, include_maps=True)
    smooth = AnomalyMapPostprocess(gaussian_sigma=1.0)
    maps = [smooth(p.map) for p in predictions]
    assert {(m.shape, m.dtype) for m in maps} == {((40, 56), np.dtype(np.float32))}
    found = uadctl.evaluate_detector(
        [0] * 4 + [1] * 4, [p.score for p in predictions], pixel_labels=masks, pixel_scores=maps
    )
    assert found["image_metrics"]["image_auroc"] == 1
    assert found["pixel_metrics"]["pixel_auroc"] > 0.99
    assert found["pixel_metrics"]["aupro_30"] > 0.9


def test_it_is_found_where_images_are_cut():
    from uadctl import imaging

    assert imaging.TiledDetector is TiledDetector
    assert imaging.stitch_maps is stitch_maps
    code = "import uadctl.imaging, sys; sys.exit(any(m in sys.modules for m in ('uadctl.tiling', 'uadctl.models')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
