"""PatchCore against its paper, against hand computation and against anomalib's implementation."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional

from uadctl.errors import DataError, ParamError, RunError, SpecError
from uadctl.models.patchcore import PatchCore, aggregate
from uadctl.records import Prediction, Size


def surface(seed: int, height: int = 96, width: int = 96) -> np.ndarray:
    """A striped, noisy (H, W, 3) uint8 image."""
    rng = np.random.default_rng(seed)
    stripes = 128 + 60 * np.sin(np.arange(width) / 5 + rng.uniform(0, 6))
    return np.clip(stripes[None, :, None] + rng.normal(0, 8, (height, width, 3)), 0, 255).astype(np.uint8)


def scratched(seed: int, height: int = 96, width: int = 96) -> np.ndarray:
    image = surface(seed, height, width)
    image[40:50, 30:60] = (200, 40, 40)
    return image


GOOD = [surface(i) for i in range(8)]


@pytest.fixture(scope="module")
def fitted() -> PatchCore:
    return PatchCore(device="cpu").fit(GOOD)


def test_finds_the_defect_where_it_is(fitted):
    bad, good = fitted.predict_batch([scratched(100), surface(101)])
    assert bad.score > 1.2 * good.score
    assert bad.map is not None
    assert bad.map.shape == (96, 96)
    assert bad.map.dtype == np.float32
    y, x = np.unravel_index(bad.map.argmax(), bad.map.shape)
    assert 34 <= y < 56
    assert 24 <= x < 66


def test_an_anomalous_score_is_above_the_scores_of_left_out_training_images(fitted):
    assert fitted.threshold_ is not None
    assert fitted.predict([scratched(100)]).tolist() == [1]
    assert fitted.decision_function([scratched(100)])[0] > fitted.threshold_


def test_scores_are_float32_values_and_one_forward_pass_gives_score_and_map(fitted, monkeypatch):
    calls = []
    embed = fitted._embed
    monkeypatch.setattr(fitted, "_embed", lambda images: calls.append(len(images)) or embed(images))
    images = [scratched(1), surface(2)]
    predictions = fitted.predict_batch(images)
    assert calls == [2]
    assert all(p.score == float(np.float32(p.score)) for p in predictions)
    np.testing.assert_array_equal(fitted.decision_function(images), [p.score for p in predictions])
    np.testing.assert_array_equal(fitted.predict_anomaly_map(images), np.stack([p.map for p in predictions]))


def test_any_shape_is_taken_and_shapes_may_be_mixed(fitted):
    shapes = [(64, 160), (96, 96), (200, 50), (1, 1), (3, 500)]
    images = [surface(i, *shape) for i, shape in enumerate(shapes)]
    together = fitted.predict_batch(images)
    for image, shape, prediction in zip(images, shapes, together, strict=True):
        assert prediction.map is not None
        assert prediction.map.shape == shape
        assert np.isfinite(prediction.map).all()
        alone = fitted.predict_batch([image])[0]
        assert prediction.score == pytest.approx(alone.score, rel=1e-5)
        np.testing.assert_allclose(prediction.map, alone.map, rtol=1e-4, atol=1e-4)
    with pytest.raises(ValueError, match=r"^images of 5 sizes .* cannot be stacked into one array$"):
        fitted.predict_anomaly_map(images)


def test_neighbourhood_pooling_counts_its_zero_padding():
    patches = aggregate([torch.ones(1, 2, 4, 5)], neighborhood=3)
    assert patches.shape == (1, 4, 5, 2)
    expected = torch.full((4, 5), 1.0)
    expected[[0, -1], :] = 6 / 9
    expected[:, [0, -1]] = 6 / 9
    expected[[0, 0, -1, -1], [0, -1, 0, -1]] = 4 / 9
    torch.testing.assert_close(patches[0, :, :, 0], expected)


def test_coarser_layers_are_brought_to_the_grid_of_the_finest_by_bilinear_interpolation():
    fine = torch.zeros(1, 1, 4, 4)
    coarse = torch.tensor([[[[0.0, 4.0], [0.0, 4.0]]]])
    patches = aggregate([fine, coarse], neighborhood=1)
    assert patches[0, 0, :, 1].tolist() == [0.0, 1.0, 3.0, 4.0]  # half-pixel centres


class Known(PatchCore):
    """PatchCore whose patch features are given: one row a patch of a (2, 2) grid."""

    def __init__(self, features: dict[int, list[list[float]]], **params) -> None:
        super().__init__(coreset_ratio=1.0, device="cpu", **params)
        self._features = features

    def _embed(self, images):
        return [(torch.tensor(self._features[int(i[0, 0, 0])]), Size(2, 2)) for i in images]


def image(key: int) -> np.ndarray:
    return np.full((8, 8, 3), key, np.uint8)


FEATURES = {
    0: [[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]],
    1: [[10.0, 10.0], [10.0, 10.0], [10.0, 10.0], [10.0, 10.0]],
    7: [[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [4.0, 5.0]],
}


def test_score_is_equation_7_by_hand():
    # The worst patch (4, 5) is 5 away from its nearest feature (1, 1). That one's three nearest are itself, (0, 1) and
    # (1, 0), each 1 away from it.
    model = Known(FEATURES, n_neighbors=3, sigma=0.0).fit([image(0)])
    nearest = np.hypot(3, 4)
    around = np.exp([nearest, np.hypot(4, 4), np.hypot(3, 5)])
    expected = (1 - around[0] / around.sum()) * nearest
    assert model.predict_batch([image(7)])[0].score == pytest.approx(expected, rel=1e-6)


def test_the_map_is_the_distance_to_the_nearest_feature():
    model = Known(FEATURES, sigma=0.0).fit([image(0)])
    field = model.predict_batch([image(7)])[0].map
    assert field is not None
    assert field[0, 0] == field[0, -1] == field[-1, 0] == 0
    assert field[-1, -1] == pytest.approx(5)


def test_a_neighbourhood_of_one_means_no_weight():
    assert Known(FEATURES, n_neighbors=1).fit([image(0)]).predict_batch([image(7)])[0].score == pytest.approx(5)


def test_more_neighbours_than_the_bank_holds_are_clamped():
    scores = [Known(FEATURES, n_neighbors=n).fit([image(0)]).predict_batch([image(7)])[0].score for n in (4, 9, 1000)]
    assert scores[0] == scores[1] == scores[2] > 0


def test_a_bank_of_one_feature_still_scores():
    model = Known({0: [[0.0, 0.0]] * 4, 7: [[3.0, 4.0]] * 4}, n_neighbors=9)
    model.coreset_ratio = 0.2
    assert model.fit([image(0)]).predict_batch([image(7)])[0].score == pytest.approx(5)


def test_left_out_predictions_do_not_know_the_image_itself():
    seen: list[Prediction] = []
    model = Known(FEATURES, n_neighbors=1, sigma=0.0).fit([image(0), image(1)], left_out=seen.append)
    assert [p.score for p in model.predict_batch([image(0), image(1)])] == [0, 0]
    # image 0 against image 1's patches: its farthest patch (0, 0) is 14.1 away; image 1's are all 12.7 from (1, 1)
    assert [p.score for p in seen] == pytest.approx([np.hypot(10, 10), np.hypot(9, 9)])
    assert model.threshold_ == pytest.approx(np.quantile([np.hypot(10, 10), np.hypot(9, 9)], 0.9))


def test_one_training_image_gives_scores_and_no_threshold():
    seen: list[Prediction] = []
    model = Known(FEATURES).fit([image(0)], left_out=seen.append)
    assert not seen
    assert model.threshold_ is None
    assert model.decision_function([image(7)])[0] > 0
    with pytest.raises(
        RuntimeError, match="^Known has no threshold_: it was fitted on one training image, or for a run"
    ):
        model.predict([image(7)])


def test_the_map_is_smoothed_with_the_gaussian_asked_for():
    sharp, smooth = (Known(FEATURES, sigma=s).fit([image(0)]).predict_batch([image(7)])[0].map for s in (0.0, 1.5))
    from scipy.ndimage import gaussian_filter

    np.testing.assert_allclose(smooth, gaussian_filter(sharp, 1.5, mode="reflect", truncate=4.0), rtol=1e-4, atol=1e-5)


def test_a_second_fit_forgets_the_first(fitted):
    model = PatchCore(device="cpu").fit([surface(50), surface(51)])
    model.fit(GOOD)
    np.testing.assert_array_equal(model.memory_bank_.numpy(), fitted.memory_bank_.numpy())
    assert model.threshold_ == fitted.threshold_


def test_state_restores_an_equal_model(fitted):
    tensors, facts = fitted.state()
    assert facts["weights"]["weights"] == "package"
    copy = PatchCore(device="cpu", pretrained=False).restore(tensors, facts)
    before, after = fitted.predict_batch([scratched(3)])[0], copy.predict_batch([scratched(3)])[0]
    assert before.score == after.score
    np.testing.assert_array_equal(before.map, after.map)
    assert copy.facts() == fitted.facts()


def test_the_coreset_has_the_size_asked_for(fitted):
    assert fitted.memory_bank_.shape == (round(0.1 * 8 * 12 * 12), 152)


def test_without_a_coreset_the_bank_is_every_patch_and_by_lot_it_is_as_large_as_the_greedy_one(fitted):
    every = PatchCore(device="cpu", coreset="none").fit(GOOD[:3])
    assert every.memory_bank_.shape == (3 * 12 * 12, 152)
    lot = PatchCore(device="cpu", coreset="random").fit(GOOD)
    assert lot.memory_bank_.shape == fitted.memory_bank_.shape
    assert not torch.equal(lot.memory_bank_, fitted.memory_bank_)
    bad, good = lot.predict_batch([scratched(100), surface(101)])
    assert bad.score > 1.2 * good.score


@pytest.mark.parametrize("coreset", ["greedy", "none"])
def test_features_on_disk_give_the_same_model(coreset):
    seen: dict[str, list[Prediction]] = {"0MB": [], "1GB": []}
    models = [
        PatchCore(device="cpu", coreset=coreset, feature_memory=memory).fit(GOOD, left_out=seen[memory].append)
        for memory in seen
    ]
    np.testing.assert_array_equal(*(m.memory_bank_.numpy() for m in models))
    assert [p.score for p in seen["0MB"]] == [p.score for p in seen["1GB"]]
    assert len(seen["0MB"]) == 8
    assert models[0].predict_batch([scratched(3)])[0].score == models[1].predict_batch([scratched(3)])[0].score


def test_left_out_scores_are_those_of_a_bank_without_the_image(fitted):
    seen: list[Prediction] = []
    model = PatchCore(device="cpu", coreset="none").fit(GOOD, left_out=seen.append)
    for i in (0, 3, 7):
        without = PatchCore(device="cpu", coreset="none").fit([g for j, g in enumerate(GOOD) if j != i])
        expected = without.predict_batch([GOOD[i]])[0]
        assert seen[i].score == pytest.approx(expected.score, rel=1e-5)
        np.testing.assert_allclose(seen[i].map, expected.map, rtol=1e-4, atol=1e-4)
    assert model.threshold_ == pytest.approx(np.quantile([p.score for p in seen], 0.9))


def test_no_threshold_is_computed_for_nobody(monkeypatch):
    def score(*arguments, **options):
        raise AssertionError("a training image was scored")

    monkeypatch.setattr(PatchCore, "_score", score)
    model = PatchCore(device="cpu").fit(GOOD, threshold=False)
    assert model.threshold_ is None


def test_an_automatic_batch_size_is_found_recorded_and_kept(monkeypatch):
    from uadctl.features.backbone import Backbone

    asked = []
    monkeypatch.setattr(Backbone, "best_batch_size", lambda self, size: asked.append(size) or 3)
    model = PatchCore(device="cpu", batch_size="auto")
    batches = []
    embed = model._embed
    monkeypatch.setattr(model, "_embed", lambda images: batches.append(len(images)) or embed(images))
    model.fit(GOOD)
    assert asked == [Size(96, 96)]
    assert batches == [3, 3, 2]
    assert model.images_per_batch == model.facts()["batch_size"] == 3
    assert PatchCore(device="cpu", pretrained=False, batch_size="auto").restore(*model.state()).images_per_batch == 3


def test_a_model_keeps_the_precision_that_it_was_fitted_in():
    model = PatchCore(device="cpu", precision="bf16").fit(GOOD)
    tensors, facts = model.state()
    assert facts["precision"] == model.facts()["precision"] == "bf16"
    copy = PatchCore(device="cpu", pretrained=False, precision="auto").restore(tensors, facts)
    assert copy.facts()["precision"] == "bf16"
    assert copy.predict_batch([scratched(3)])[0].score == model.predict_batch([scratched(3)])[0].score


def test_a_model_of_version_0_2_is_restored(fitted):
    tensors, facts = fitted.state()
    old = {key: value for key, value in facts.items() if key in ("threshold", "weights")}
    copy = PatchCore(device="cpu", pretrained=False).restore(tensors, old)
    assert copy.predict_batch([scratched(3)])[0].score == fitted.predict_batch([scratched(3)])[0].score


@pytest.mark.parametrize("coreset", ["greedy", "random", "none"])
def test_features_that_are_no_numbers_are_refused(coreset):
    broken = {0: [[0.0, 0.0], [0.0, float("nan")], [1.0, 0.0], [1.0, 1.0]], 7: [[float("inf"), 0.0]] * 4}
    with pytest.raises(RunError, match="^efficientnet_lite0: features contain NaN or infinity$") as caught:
        Known(broken, coreset=coreset).fit([image(0)])
    assert caught.value.help == 'In precision "fp16" numbers end at 65504: use "bf16" or "fp32".'
    model = Known(FEATURES | {7: broken[7]}).fit([image(0)])
    with pytest.raises(RunError, match="^efficientnet_lite0: features contain NaN or infinity$"):
        model.predict_batch([image(7)])


def test_a_model_whose_precision_is_not_to_be_had_says_so(fitted):
    tensors, facts = fitted.state()
    with pytest.raises(SpecError) as caught:
        PatchCore(device="cpu", pretrained=False).restore(tensors, facts | {"precision": "fp16"})
    assert caught.value.message == (
        'the model was fitted with precision fp16 and cannot be used here: precision "fp16": not on device "cpu"'
    )
    assert caught.value.help == 'Use it on a device that has this precision, or fit it with precision = "fp32".'


def test_the_bank_is_in_the_order_of_the_images_not_of_the_choice():
    model = Known(
        {0: [[0.0, 0.0], [5.0, 0.0], [1.0, 0.0], [4.0, 0.0]], 1: [[2.0, 0.0], [9.0, 0.0], [3.0, 0.0], [8.0, 0.0]]}
    )
    model.fit([image(0), image(1)])
    assert model.memory_bank_ is not None
    assert model.memory_bank_[:, 0].tolist() == [0, 5, 1, 4, 2, 9, 3, 8]


@pytest.mark.parametrize("backend", ["numpy", "sklearn", "faiss"])
def test_every_neighbour_backend_gives_the_same_predictions(fitted, backend):
    if backend != "numpy":
        pytest.importorskip(backend, reason=f"the backend {backend} needs {backend}")
    other = PatchCore(device="cpu", knn_backend=backend).restore(*fitted.state())
    for a, b in zip(fitted.predict_batch([scratched(5)]), other.predict_batch([scratched(5)]), strict=True):
        assert a.score == pytest.approx(b.score, rel=1e-4)
        np.testing.assert_allclose(a.map, b.map, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"coreset_ratio": 0.0}, r"coreset_ratio \(=0.0\) must lie in \(0, 1\]"),
        ({"neighborhood": 2}, r"neighborhood \(=2\) must be odd and positive"),
        ({"n_neighbors": 0}, r"n_neighbors \(=0\) must be at least 1"),
        ({"sigma": -1.0}, r"sigma \(=-1.0\) must be at least 0"),
        ({"contamination": 0.5}, r"contamination \(=0.5\) must lie in \(0, 0.5\)"),
        ({"knn_backend": "annoy"}, "knn_backend 'annoy' is unknown; choose one of: torch, numpy, sklearn, faiss"),
        ({"coreset": "all"}, r"coreset \(='all'\) must be one of greedy, random, none"),
        ({"feature_memory": "4TB"}, r"feature_memory \(='4TB'\) must be a size such as \"500MB\" or \"4GB\""),
        ({"batch_size": 0}, r"batch_size \(=0\) must be at least 1, or \"auto\""),
        ({"knn_backend": "faiss", "knn_verify": True}, "knn_verify is for knn_backend \"torch\", found 'faiss'"),
        ({"layers": ("blocks.3",)}, r"layers \(=\['blocks.3'\]\) must be distinct layers of efficientnet_lite0: .*"),
        ({"backbone": "resnet19"}, r'backbone \(="resnet19"\): no such backbone; did you mean resnet'),
    ],
)
def test_refuses_parameters_without_loading_torch_networks(params, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        PatchCore(**params)


def test_refuses_no_images_and_use_before_fit():
    with pytest.raises(ValueError, match="^PatchCore needs at least one training image, found none$"):
        PatchCore(device="cpu").fit([])
    with pytest.raises(RuntimeError, match=r"^PatchCore is not fitted; call fit\(images\) first$"):
        PatchCore(device="cpu").predict([GOOD[0]])
    with pytest.raises(ParamError):
        PatchCore(contamination=0.0)


def test_names_a_file_it_cannot_read(tmp_path):
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no image")
    with pytest.raises(DataError, match=r"broken\.png"):
        PatchCore(device="cpu").fit([str(broken)])


# anomalib's import leaves DeprecationWarnings of its own dependencies behind; they are not ours to mend.
@pytest.mark.filterwarnings("ignore")
@pytest.mark.slow
def test_equals_anomalib_on_the_same_features_and_coreset(fitted):
    pytest.importorskip("anomalib", reason="the reference implementation is anomalib's")
    from anomalib.models.image.patchcore.torch_model import PatchcoreModel

    reference = PatchcoreModel(
        layers=("layer2", "layer3"), backbone="resnet18", pre_trained=False, num_neighbors=9
    ).eval()
    images = np.stack([scratched(9), surface(10), scratched(11)])
    layers = fitted.network.backbone()(images)
    pooled = {name: reference.feature_pooler(m) for name, m in zip(reference.layers, layers, strict=True)}
    embedding = reference.reshape_embedding(reference.generate_embedding(pooled))
    ours = torch.cat([patches for patches, _ in fitted._embed(list(images))])
    torch.testing.assert_close(ours, embedding, rtol=1e-5, atol=1e-5)

    reference.memory_bank = fitted.memory_bank_
    distance, location = reference.nearest_neighbors(embedding=embedding, n_neighbors=1)
    mine, _ = fitted._index.kneighbors(ours, 1)
    torch.testing.assert_close(mine[:, 0], distance, rtol=1e-4, atol=0)

    grid = (len(images), -1)
    scores = reference.compute_anomaly_score(distance.reshape(grid), location.reshape(grid), embedding)
    predicted = fitted.predict_batch(list(images))
    torch.testing.assert_close(torch.tensor([p.score for p in predicted]), scores, rtol=1e-4, atol=0)

    # The raw field behind the map, before smoothing: the reference upsamples by nearest neighbour, we bilinearly.
    flat = PatchCore(device="cpu", sigma=0.0).restore(*fitted.state())
    expected = functional.interpolate(
        distance.reshape(3, 1, 12, 12), size=(96, 96), mode="bilinear", align_corners=False
    )
    got = np.stack([p.map for p in flat.predict_batch(list(images))])
    np.testing.assert_allclose(got, expected[:, 0].numpy(), rtol=1e-4, atol=1e-5)
