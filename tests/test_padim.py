"""PaDiM against its paper, against hand computation, float64 linear algebra and anomalib's implementation."""

from __future__ import annotations

import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

from uadctl.errors import DataError, ParamError, RunError
from uadctl.memory import gaussian
from uadctl.memory.gaussian import Gaussians, Moments, left_out_distances
from uadctl.models.padim import PaDiM, choose_channels, usual_layers
from uadctl.records import Prediction, Size
from uadctl.spec.registry import resolve_backbone


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
def fitted() -> PaDiM:
    return PaDiM(device="cpu").fit(GOOD)


class Known(PaDiM):
    """PaDiM whose features are given: for each image, by the value of its first pixel, two places of some channels."""

    def __init__(self, features: dict[int, list[list[float]]], **params) -> None:
        super().__init__(device="cpu", **params)
        self._features = features

    def _embed(self, images):
        self.grid_ = Size(1, 2)
        self.channels_ = np.arange(2)
        return torch.tensor([self._features[int(image[0, 0, 0])] for image in images])


def image(key: int, height: int = 8, width: int = 16) -> np.ndarray:
    return np.full((height, width, 3), key, np.uint8)


def features(n: int, places: int, dim: int, *, scale: float = 1.0, shift: float = 0.0, seed: int = 0) -> torch.Tensor:
    """(n, places, dim) correlated float32 features; the channels' variances differ a hundredfold."""
    rng = np.random.default_rng(seed)
    mix = rng.normal(0, 1, (places, dim, dim)) * np.logspace(-1, 0, dim) / dim**0.5
    x = np.einsum("npd,pde->npe", rng.normal(0, scale, (n, places, dim)), mix) + shift
    return torch.from_numpy(x.astype(np.float32))


def exact(train: np.ndarray, x: np.ndarray, eps: float) -> np.ndarray:
    """(m, places) distances of x to the Gaussians of `train`, by numpy's inverse in float64."""
    train, x = train.astype(np.float64), x.astype(np.float64)
    out = np.empty(x.shape[:2])
    for place in range(train.shape[1]):
        own = train[:, place]
        covariance = np.cov(own, rowvar=False).reshape((own.shape[1],) * 2) if len(own) > 1 else 0
        inverse = np.linalg.inv(covariance + eps * np.eye(own.shape[1]))
        away = x[:, place] - own.mean(axis=0)
        out[:, place] = np.sqrt(np.einsum("md,de,me->m", away, inverse, away))
    return out


def gaussians(x: torch.Tensor, *, eps: float, batch: int = 4) -> Gaussians:
    moments = Moments(x.shape[1], x.shape[2])
    for part in x.split(batch):
        moments.add(part)
    return moments.gaussians(eps=eps)


# -- the Gaussians


HAND = {
    # place 0: mean (1, 1), covariance [[1, 1/2], [1/2, 1]]; place 1: mean (2, 0), covariance [[4, 0], [0, 0]]
    0: [[0.0, 1.0], [0.0, 0.0]],
    1: [[1.0, 0.0], [2.0, 0.0]],
    2: [[2.0, 2.0], [4.0, 0.0]],
    7: [[3.0, 1.0], [2.0, 3.0]],
}


def by_hand(away: tuple[int, int], a: Fraction, b: Fraction, c: Fraction) -> float:
    """The distance (away, [[a, b], [b, c]]) in fractions, by the inverse of a 2x2 matrix."""
    x, y = map(Fraction, away)
    return float((c * x * x - 2 * b * x * y + a * y * y) / (a * c - b * b)) ** 0.5


def test_the_map_is_the_mahalanobis_distance_of_each_place_by_hand():
    eps = Fraction(1, 4)
    model = Known(HAND, eps=0.25, sigma=0.0).fit([image(0), image(1), image(2)])
    left = by_hand((2, 0), 1 + eps, Fraction(1, 2), 1 + eps)
    right = by_hand((0, 3), 4 + eps, Fraction(0), eps)
    (found,) = model.predict_batch([image(7)])
    assert found.map is not None
    assert (found.map[0, 0], found.map[-1, -1]) == pytest.approx((left, right), rel=1e-6)
    assert right == 6
    assert found.score == pytest.approx(right, rel=1e-6)


def test_left_out_predictions_by_hand():
    # Without image 0, place 1 has mean (3, 0) and covariance [[2, 0], [0, 0]]; without image 1, (2, 0) and [[8, 0], …].
    eps = Fraction(1, 4)
    seen: list[Prediction] = []
    Known(HAND, eps=0.25, sigma=0.0).fit([image(0), image(1), image(2)], left_out=seen.append)
    expected = [by_hand((3, 0), 2 + eps, Fraction(0), eps), 0, by_hand((3, 0), 2 + eps, Fraction(0), eps)]
    assert [p.map[-1, -1] for p in seen if p.map is not None] == pytest.approx(expected, rel=1e-6)
    # and place 0: mean (3/2, 1), covariance [[1/2, 1], [1, 2]]
    place0 = by_hand((Fraction(-3, 2), 0), Fraction(1, 2) + eps, Fraction(1), 2 + eps)
    assert seen[0].map is not None
    assert seen[0].map[0, 0] == pytest.approx(place0, rel=1e-6)


@pytest.mark.parametrize("n", [1, 2, 3, 30, 300])
@pytest.mark.parametrize("dim", [1, 64, 65, 150])
def test_distances_are_those_of_float64_linear_algebra(n, dim):
    x, new = features(n, 5, dim), features(7, 5, dim, scale=2, seed=1)
    found = gaussians(x, eps=0.01).distances(new)
    assert found.shape == (7, 5)
    assert found.dtype == torch.float32
    # A covariance is rounded to float32: what its largest variance loses is measured by eps.
    variance = (x - x.mean(dim=0)).square().sum(dim=2).sum(dim=0).max() / max(1, n - 1)
    rtol = 1e-6 + 1e-7 * float(variance) / 0.01
    assert rtol < 1e-3
    np.testing.assert_allclose(found.numpy(), exact(x.numpy(), new.numpy(), 0.01), rtol=rtol)


def test_distances_are_scipys():
    from scipy.spatial.distance import mahalanobis

    x, new = features(40, 3, 12), features(2, 3, 12, seed=1)
    found = gaussians(x, eps=0.01).distances(new)
    for place in range(3):
        own = x[:, place].double().numpy()
        inverse = np.linalg.inv(np.cov(own, rowvar=False) + 0.01 * np.eye(12))
        for i in range(2):
            expected = mahalanobis(new[i, place].double().numpy(), own.mean(axis=0), inverse)
            assert float(found[i, place]) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("batch", [1, 7, 64])
def test_features_far_from_zero_do_not_cancel(batch):
    # Sums of squares would be 1e6 for variances of 1: with float32's 7 digits nothing would be left of these.
    x, new = features(64, 4, 20, shift=1000), features(3, 4, 20, shift=1000, seed=1)
    found = gaussians(x, eps=0.01, batch=batch).distances(new)
    np.testing.assert_allclose(found.numpy(), exact(x.numpy(), new.numpy(), 0.01), rtol=2e-3)


def test_moments_are_numpys_whatever_the_batches():
    x = features(50, 4, 70, shift=10)
    moments = Moments(4, 70)
    for part in x.split([1, 20, 3, 26]):
        moments.add(part)
    assert moments.count == 50
    exactly = x.double().numpy()
    np.testing.assert_allclose(moments.mean.numpy(), exactly.mean(axis=0), rtol=1e-12)
    for place in range(4):
        scatter = 49 * np.cov(exactly[:, place], rowvar=False)
        for columns, panel in zip(gaussian.panels(70), moments._scatter, strict=True):
            expected = scatter[columns.start :, columns]
            np.testing.assert_allclose(panel[place].numpy(), expected, rtol=0, atol=1e-5 * scatter.max())


def test_blocks_of_places_change_nothing(monkeypatch):
    x, new = features(10, 9, 70), features(3, 9, 70, seed=1)
    whole = gaussians(x, eps=0.01).distances(new)
    monkeypatch.setattr(gaussian, "_NUMBERS", 2 * 11 * 70)
    torch.testing.assert_close(gaussians(x, eps=0.01).distances(new), whole, rtol=1e-5, atol=0)


def test_a_triangle_takes_little_more_than_half_of_a_matrix():
    factor = gaussians(features(3, 2, 550), eps=0.01).factor
    assert len(factor) == 9
    half = 2 * 550 * 551 // 2
    assert half <= sum(panel.numel() for panel in factor) <= 1.12 * half


@pytest.mark.parametrize("n", [2, 3, 4, 20, 200])
@pytest.mark.parametrize("scale", [1.0, 100.0])
def test_left_out_distances_are_those_of_a_fit_without_the_image(n, scale):
    x = features(n, 3, 80, scale=scale, shift=scale).numpy()
    found = left_out_distances(torch.from_numpy(x), eps=0.01)
    assert found.dtype == torch.float64
    for i in {0, 1, n // 2, n - 1}:
        expected = exact(np.delete(x, i, axis=0), x[i : i + 1], 0.01)[0]
        # The more an image lies outside of what the others span, the less is exact; measured: 1e-15 to 5e-9.
        np.testing.assert_allclose(found[i].numpy(), expected, rtol=1e-7)


def test_one_image_leaves_no_other():
    with pytest.raises(ValueError, match="^1 image leaves no other to compare it with$"):
        left_out_distances(torch.zeros(1, 2, 3), eps=0.01)


def test_an_eps_that_rounding_eats_up_is_an_error_and_no_score():
    x = torch.ones(4, 2, 3)
    x[1:] += torch.tensor([1e6, 2e6, 5e6])[:, None, None]
    with pytest.raises(RunError) as caught:
        gaussians(x, eps=1e-7)
    assert caught.value.message == (
        "eps (=1e-07) is too small for features that vary so much: a covariance is not positive definite"
    )
    assert caught.value.help == "Raise eps, to about a millionth of the variance of the features."


# -- the detector


def test_finds_the_defect_where_it_is(fitted):
    bad, good = fitted.predict_batch([scratched(100), surface(101)])
    assert bad.score > 2 * good.score
    assert bad.map is not None
    assert bad.map.shape == (96, 96)
    assert bad.map.dtype == np.float32
    y, x = np.unravel_index(bad.map.argmax(), bad.map.shape)
    assert 34 <= y < 56
    assert 24 <= x < 66
    assert fitted.predict([scratched(100)]).tolist() == [1]


def test_the_score_is_the_largest_value_of_the_map_and_a_float32(fitted):
    predictions = fitted.predict_batch([scratched(1), surface(2)])
    for p in predictions:
        assert p.map is not None
        assert p.score == float(p.map.max()) == float(np.float32(p.score))
    np.testing.assert_array_equal(fitted.decision_function([scratched(1), surface(2)]), [p.score for p in predictions])


def test_the_map_is_smoothed_with_the_gaussian_asked_for():
    from scipy.ndimage import gaussian_filter

    train = [image(0), image(1), image(2)]
    sharp, smooth = (Known(HAND, sigma=s).fit(train).predict_batch([image(7)])[0].map for s in (0.0, 1.5))
    np.testing.assert_allclose(smooth, gaussian_filter(sharp, 1.5, mode="reflect", truncate=4.0), rtol=1e-4, atol=1e-5)


def test_the_default_layers_are_the_three_finest_strides_from_four():
    assert usual_layers(resolve_backbone("efficientnet_lite0")) == ("blocks.1", "blocks.2", "blocks.4")
    assert usual_layers(resolve_backbone("wide_resnet50_2")) == ("layer1", "layer2", "layer3")
    assert usual_layers(resolve_backbone("dinov2_vits14")) == ("norm",)
    assert PaDiM().network.layers == ("blocks.1", "blocks.2", "blocks.4")
    assert PaDiM().stride == 16
    assert PaDiM(layers=("blocks.2",)).network.layers == ("blocks.2",)


def test_channels_are_chosen_by_lot_in_order_and_not_twice():
    chosen = choose_channels(176, 100, seed=0)
    assert len(chosen) == len(set(chosen.tolist())) == 100
    assert (np.diff(chosen) > 0).all()
    assert 0 <= chosen.min() < chosen.max() < 176
    assert (choose_channels(176, 100, seed=0) == chosen).all()
    assert (choose_channels(176, 100, seed=1) != chosen).any()
    assert choose_channels(5, 100, seed=0).tolist() == [0, 1, 2, 3, 4]
    counts = np.bincount(np.concatenate([choose_channels(10, 3, seed=s) for s in range(1000)]), minlength=10)
    assert counts.min() > 250  # of 300 expected


def test_coarser_layers_are_repeated_on_the_finest_grid_and_only_chosen_channels_are_kept():
    model = PaDiM(n_features=3, device="cpu")
    model.channels_ = np.array([1, 2, 4])
    fine = torch.arange(2 * 16.0).reshape(1, 2, 4, 4)
    coarse = 100 + torch.arange(3 * 4.0).reshape(1, 3, 2, 2)
    grid = model._on_one_grid([fine, coarse])[0]
    assert grid.shape == (4, 4, 3)
    assert grid[:, :, 0].tolist() == fine[0, 1].tolist()
    assert grid[:, :, 1].tolist() == [[100, 100, 101, 101]] * 2 + [[102, 102, 103, 103]] * 2
    assert grid[:, :, 2].tolist() == [[108, 108, 109, 109]] * 2 + [[110, 110, 111, 111]] * 2


def test_a_layer_of_which_no_channel_was_chosen_still_gives_the_grid():
    model = PaDiM(n_features=1, device="cpu")
    model.channels_ = np.array([3])
    grid = model._on_one_grid([torch.zeros(1, 2, 4, 6), torch.ones(1, 3, 2, 3)])
    assert grid.shape == (1, 4, 6, 1)
    assert bool((grid == 1).all())


def test_the_choice_of_channels_follows_the_seed(fitted):
    assert fitted.channels_ is not None
    np.testing.assert_array_equal(fitted.channels_, choose_channels(24 + 40 + 112, 100, seed=0))
    other = PaDiM(device="cpu", seed=1).fit(GOOD[:2], threshold=False)
    assert other.channels_ is not None
    assert (other.channels_ != fitted.channels_).any()


def test_images_of_other_sizes_are_brought_to_the_size_of_the_training(fitted):
    shapes = [(64, 160), (96, 96), (200, 50), (1, 1), (3, 500), (192, 192)]
    images = [surface(i, *shape) for i, shape in enumerate(shapes)]
    together = fitted.predict_batch(images)
    assert len(together) == 6
    for given, shape, prediction in zip(images, shapes, together, strict=True):
        assert prediction.map is not None
        assert prediction.map.shape == shape
        assert prediction.map.dtype == np.float32
        assert np.isfinite(prediction.map).all()
        (alone,) = fitted.predict_batch([given])
        assert prediction.score == pytest.approx(alone.score, rel=1e-5)
        np.testing.assert_allclose(prediction.map, alone.map, rtol=1e-4, atol=1e-3)


def test_an_enlarged_image_is_what_it_was(fitted):
    twice = np.repeat(np.repeat(scratched(5), 2, axis=0), 2, axis=1)
    (large,), (small,) = fitted.predict_batch([twice]), fitted.predict_batch([scratched(5)])
    assert large.score == small.score
    assert large.map is not None
    assert small.map is not None
    np.testing.assert_allclose(large.map[96:100, 96:100].mean(), small.map[48:50, 48:50].mean(), rtol=1e-3)


@pytest.mark.parametrize("batch_size", [1, 16])
def test_training_images_of_two_sizes_are_refused(batch_size):
    with pytest.raises(DataError) as caught:
        PaDiM(device="cpu", batch_size=batch_size).fit([surface(0), surface(1), surface(2, 64, 128)])
    assert caught.value.message == (
        "training images of 96x96 and of 64x128 (height x width) have no places in common, and PaDiM learns each place "
        "by itself"
    )
    assert caught.value.help == "Bring all of them to one size: [preprocess] resize = [96, 96]"


def test_left_out_scores_are_those_of_a_model_without_the_image():
    seen: list[Prediction] = []
    model = PaDiM(device="cpu").fit(GOOD, left_out=seen.append)
    assert len(seen) == 8
    for i in (0, 3, 7):
        without = PaDiM(device="cpu").fit([g for j, g in enumerate(GOOD) if j != i])
        (expected,) = without.predict_batch([GOOD[i]])
        assert seen[i].score == pytest.approx(expected.score, rel=1e-4)
        np.testing.assert_allclose(seen[i].map, expected.map, rtol=1e-3)
    assert model.threshold_ == pytest.approx(np.quantile([p.score for p in seen], 0.9))
    assert max(p.score for p in model.predict_batch(GOOD)) < min(p.score for p in seen)


def test_two_training_images_are_each_compared_with_the_other():
    seen: list[Prediction] = []
    model = Known(HAND, eps=0.25, sigma=0.0).fit([image(0), image(2)], left_out=seen.append)
    # (2, 1) and (4, 0) apart, in the unit of the root of eps
    assert [p.map[0, 0] for p in seen if p.map is not None] == pytest.approx([2 * 5**0.5] * 2, rel=1e-6)
    assert [p.score for p in seen] == pytest.approx([8.0, 8.0], rel=1e-6)
    assert model.threshold_ == pytest.approx(8.0)


def test_one_training_image_gives_scores_and_no_threshold():
    seen: list[Prediction] = []
    model = Known(HAND, eps=0.25, sigma=0.0).fit([image(0)], left_out=seen.append)
    assert not seen
    assert model.threshold_ is None
    assert model.decision_function([image(7)]) == pytest.approx([2 * 13**0.5], rel=1e-6)
    with pytest.raises(RuntimeError, match="^Known has no threshold_: it was fitted on one training image"):
        model.predict([image(7)])


def test_features_on_disk_give_the_same_scores():
    seen: dict[str, list[Prediction]] = {"0MB": [], "1GB": []}
    for memory, predictions in seen.items():
        PaDiM(device="cpu", feature_memory=memory, batch_size=3).fit(GOOD, left_out=predictions.append)
    assert [p.score for p in seen["0MB"]] == [p.score for p in seen["1GB"]]
    assert len(seen["0MB"]) == 8


def test_left_out_scores_go_over_the_places_in_steps(monkeypatch):
    from uadctl.models import padim

    whole: list[Prediction] = []
    steps: list[Prediction] = []
    PaDiM(device="cpu").fit(GOOD, left_out=whole.append)
    monkeypatch.setattr(padim, "_NUMBERS", 2 * 100 * 100 * 50)
    PaDiM(device="cpu").fit(GOOD, left_out=steps.append)
    assert len(steps) == 8
    for a, b in zip(whole, steps, strict=True):
        np.testing.assert_allclose(a.map, b.map, rtol=1e-6)


def test_no_features_are_kept_for_nobody(monkeypatch):
    from uadctl.memory import FeatureStore

    def append(*arguments):
        raise AssertionError("features were kept")

    monkeypatch.setattr(FeatureStore, "append", append)
    assert PaDiM(device="cpu").fit(GOOD[:2], threshold=False).threshold_ is None


def test_images_are_read_once_and_no_more_than_a_batch_is_held():
    import weakref

    alive: list[weakref.ref[np.ndarray]] = []
    most = 0

    def stream():
        nonlocal most
        for i in range(12):
            made = surface(i)
            alive.append(weakref.ref(made))
            yield made
            del made
            most = max(most, sum(ref() is not None for ref in alive))

    PaDiM(device="cpu", batch_size=2).fit(stream(), threshold=False)
    assert len(alive) == 12
    assert most <= 4  # the batch that is computed, and the next one


def test_a_second_fit_forgets_the_first(fitted):
    model = PaDiM(device="cpu").fit([surface(50, 64, 64), surface(51, 64, 64)])
    model.fit(GOOD)
    assert model.threshold_ == fitted.threshold_
    for mine, other in zip(model.gaussians_.factor, fitted.gaussians_.factor, strict=True):
        assert torch.equal(mine, other)
    assert model.image_size_ == Size(96, 96)


def test_state_restores_an_equal_model(fitted, tmp_path):
    from safetensors.torch import load_file, save_file

    tensors, facts = fitted.state()
    assert facts["weights"]["weights"] == "package"
    save_file(tensors, tmp_path / "model.safetensors")
    copy = PaDiM(device="cpu", pretrained=False).restore(load_file(tmp_path / "model.safetensors"), facts)
    for images in ([scratched(3)], [surface(4, 50, 70), scratched(3)]):
        for before, after in zip(fitted.predict_batch(images), copy.predict_batch(images), strict=True):
            assert before.score == after.score
            np.testing.assert_array_equal(before.map, after.map)
    assert copy.facts() == fitted.facts()
    assert copy.threshold_ == fitted.threshold_
    again, _ = copy.state()
    assert sorted(again) == sorted(tensors)
    assert all(torch.equal(again[key], tensors[key]) for key in tensors)


def test_facts_say_how_large_the_gaussians_are(fitted):
    facts = fitted.facts()
    assert {key: facts[key] for key in ("layers", "n_features", "grid", "image_size")} == {
        "layers": ["blocks.1", "blocks.2", "blocks.4"],
        "n_features": 100,
        "grid": [24, 24],
        "image_size": [96, 96],
    }


def test_features_that_are_no_numbers_are_refused():
    broken = HAND | {1: [[1.0, float("nan")], [0.0, 0.0]], 7: [[float("inf"), 0.0], [0.0, 0.0]]}
    with pytest.raises(RunError, match="^efficientnet_lite0: features contain NaN or infinity$") as caught:
        Known(broken).fit([image(0), image(1)])
    assert caught.value.help == 'In precision "fp16" numbers end at 65504: use "bf16" or "fp32".'
    for bad in (float("inf"), float("nan")):
        model = Known(HAND | {7: [[bad, 0.0], [0.0, 0.0]]}).fit([image(0), image(1)])
        with pytest.raises(RunError, match="^efficientnet_lite0: features contain NaN or infinity$"):
            model.predict_batch([image(7)])


def test_a_fit_that_failed_leaves_no_model(fitted):
    model = PaDiM(device="cpu").restore(*fitted.state())
    with pytest.raises(DataError):
        model.fit([surface(0), surface(1, 64, 64)])
    assert not model.is_fitted
    with pytest.raises(RuntimeError, match=r"^PaDiM is not fitted; call fit\(images\) first$"):
        model.predict_batch([GOOD[0]])
    with pytest.raises(RuntimeError, match=r"^PaDiM is not fitted; call fit\(images\) first$"):
        model.state()


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"n_features": 0}, r"n_features \(=0\) must be at least 1"),
        ({"eps": 0.0}, r"eps \(=0.0\) must be above 0"),
        ({"sigma": -1.0}, r"sigma \(=-1.0\) must be at least 0"),
        ({"contamination": 0.5}, r"contamination \(=0.5\) must lie in \(0, 0.5\)"),
        ({"feature_memory": "4TB"}, r"feature_memory \(='4TB'\) must be a size such as \"500MB\" or \"4GB\""),
        ({"batch_size": 0}, r"batch_size \(=0\) must be at least 1, or \"auto\""),
        ({"layers": ("blocks.3",)}, r"layers \(=\['blocks.3'\]\) must be distinct layers of efficientnet_lite0: .*"),
        ({"backbone": "resnet19"}, r'backbone \(="resnet19"\): no such backbone; did you mean resnet'),
        ({"eps": 0.0, "sigma": -1.0}, r"eps \(=0.0\) must be above 0\nsigma \(=-1.0\) must be at least 0$"),
    ],
)
def test_refuses_parameters(params, message):
    with pytest.raises(ParamError, match=f"^{message}"):
        PaDiM(**params)


def test_refuses_no_images_and_use_before_fit():
    with pytest.raises(ValueError, match="^PaDiM needs at least one training image, found none$"):
        PaDiM(device="cpu").fit([])
    with pytest.raises(RuntimeError, match=r"^PaDiM is not fitted; call fit\(images\) first$"):
        PaDiM(device="cpu").predict([GOOD[0]])


def test_names_a_file_it_cannot_read(tmp_path):
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no image")
    with pytest.raises(DataError, match=r"broken\.png"):
        PaDiM(device="cpu").fit([str(broken)])


def test_building_one_imports_no_torch():
    code = "import sys; from uadctl.models.padim import PaDiM; PaDiM(); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


# -- memory


PEAK = """
import numpy as np, sys
from pathlib import Path
from uadctl.models.padim import PaDiM

n, dim, left_out = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3] == "left_out"
import torch
torch.set_num_threads(1)

class Drawn(PaDiM):
    def _on_one_grid(self, maps):
        self.channels_ = np.arange(dim)
        return torch.randn((len(maps[0]), 32, 32, dim))

def images(n):
    rng = np.random.default_rng(0)
    return (rng.integers(0, 256, (64, 64, 3), dtype=np.uint8) for _ in range(n))

def fit(n):
    return Drawn(device="cpu", batch_size=4, feature_memory="20MB").fit(
        images(n), threshold=False, left_out=(lambda p: None) if left_out else None
    )

def status(key):
    return int(Path("/proc/self/status").read_text().split(key + ":")[1].split()[0]) * 1024

torch.linalg.cholesky_ex(torch.eye(8, dtype=torch.float64)[None])
Drawn(device="cpu").network.backbone()(np.zeros((4, 64, 64, 3), np.uint8))
Path("/proc/self/clear_refs").write_text("5")
before = status("VmRSS")
model = fit(n)
print(status("VmHWM") - before)
"""


def held(n: int, dim: int, left_out: str) -> int:
    """Bytes that a process holds at most while fitting n images at 32x32 places, beyond what it held before."""
    done = subprocess.run(
        [sys.executable, "-c", PEAK, str(n), str(dim), left_out], capture_output=True, text=True, check=True
    )
    return int(done.stdout)


@pytest.mark.slow
@pytest.mark.parametrize("left_out", ["no", "left_out"])
def test_memory_is_that_of_the_triangles_and_does_not_grow_with_the_images(left_out):
    if not Path("/proc/self/clear_refs").exists():
        pytest.skip("this system cannot set back the high-water mark of a process")
    dim, places = 400, 32 * 32
    few, many = held(8, dim, left_out), held(64, dim, left_out)
    full = 4 * places * dim * dim
    # Half of full covariances, a tenth of that for the panels' width, and the room that steps are given.
    bound = 0.6 * full + 200_000_000
    assert few < bound
    assert many < bound
    assert bound < full
    if left_out == "no":
        assert many < few + 40_000_000


# -- anomalib


# anomalib's import leaves DeprecationWarnings of its own dependencies behind; they are not ours to mend.
@pytest.mark.filterwarnings("ignore")
@pytest.mark.slow
def test_equals_anomalib_on_the_same_features_and_channels():
    pytest.importorskip("anomalib", reason="the reference implementation is anomalib's")
    from anomalib.models.image.padim.torch_model import PadimModel

    # anomalib adds 1e-5 to the 0.01.
    model = PaDiM(device="cpu", backbone="resnet18", pretrained=False, eps=0.01001, sigma=0.0)
    train = np.stack([surface(i) for i in range(12)])
    model.fit(list(train))
    reference = PadimModel(backbone="resnet18", pre_trained=False, n_features=100).eval()
    reference.idx = torch.from_numpy(model.channels_)

    def embedded(images):
        maps = model.network.backbone()(images)
        return reference.generate_embedding(dict(zip(reference.layers, maps, strict=True)))

    reference.gaussian.fit(embedded(train))
    images = np.stack([scratched(9), surface(10), surface(20)])
    embedding = embedded(images)
    torch.testing.assert_close(model._embed(list(images)), embedding.flatten(2).transpose(1, 2), rtol=0, atol=0)
    stats = [reference.gaussian.mean, reference.gaussian.inv_covariance]
    distance = reference.anomaly_map_generator.compute_distance(embedding, stats)
    expected = functional.interpolate(distance, size=(96, 96), mode="bilinear", align_corners=False)[:, 0]
    got = np.stack([p.map for p in model.predict_batch(list(images))])
    np.testing.assert_allclose(got, expected.numpy(), rtol=1e-4)

    # The reference blurs the border without repeating its last pixel; farther inside than the kernel both are the same.
    smooth = PaDiM(device="cpu", backbone="resnet18", pretrained=False).restore(*model.state())
    blurred = reference.anomaly_map_generator.compute_anomaly_map(embedding, *stats, image_size=(96, 96))[:, 0]
    got = np.stack([p.map for p in smooth.predict_batch(list(images))])
    np.testing.assert_allclose(got[:, 17:-17, 17:-17], blurred[:, 17:-17, 17:-17].numpy(), rtol=2e-4)
