"""The cache of features: the same bits with and without it, within its limit, and never another network's features."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import torch

from uadctl.features.backbone import Backbone
from uadctl.features.cache import FeatureCache

IMAGES = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), dtype=np.uint8)


def features(value: float, n: int = 250) -> list[torch.Tensor]:
    """One layer of 4 * n bytes."""
    return [torch.full((1, n, 1, 1), value)]


def test_another_backbone_of_the_same_identity_finds_what_the_first_computed():
    cache = FeatureCache(max_bytes=1 << 24)
    without = Backbone("efficientnet_lite0")(IMAGES)
    first = Backbone("efficientnet_lite0", cache=cache)(IMAGES)
    assert (cache.hits, cache.misses) == (0, 1)
    second = Backbone("efficientnet_lite0", cache=cache)
    found = second(IMAGES.copy())
    assert (cache.hits, cache.misses) == (1, 1)
    assert "_run" not in vars(second)  # nothing was built for it
    for a, b, c in zip(without, first, found, strict=True):
        assert torch.equal(a, b)
        assert torch.equal(a, c)
        assert a.stride() == b.stride() == c.stride()
    assert cache.nbytes == sum(m.numel() * 4 for m in without)


def test_a_model_restored_from_its_tensors_is_the_same_backbone():
    cache = FeatureCache(max_bytes=1 << 24)
    first = Backbone("efficientnet_lite0", cache=cache)
    first(IMAGES)
    Backbone("efficientnet_lite0", state=first.state(), cache=cache)(IMAGES)
    assert cache.hits == 1


@pytest.mark.parametrize(
    "other",
    [
        {"seed": 1},
        {"layers": ("layer2",)},
        {"layers": ("layer1", "layer2", "layer3")},
        {"precision": "bf16"},
        {"runtime": "openvino"},
    ],
    ids=str,
)
def test_another_backbone_finds_nothing(other):
    if "precision" in other and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        pytest.skip("this processor cannot compute in bf16")
    if "runtime" in other:
        pytest.importorskip("openvino", reason="the extra openvino is not installed")
    cache = FeatureCache(max_bytes=1 << 24)
    Backbone("resnet18", pretrained=False, cache=cache)(IMAGES)
    Backbone("resnet18", pretrained=False, cache=cache, **other)(IMAGES)
    assert (cache.hits, cache.misses) == (0, 2)


def test_another_batch_finds_nothing():
    cache = FeatureCache(max_bytes=1 << 24)
    backbone = Backbone("efficientnet_lite0", cache=cache)
    changed = IMAGES.copy()
    changed[2, 63, 63, 2] ^= 1
    batches = [IMAGES, changed, IMAGES[:2], IMAGES[::-1], IMAGES.reshape(3, 32, 128, 3)]
    for batch in batches:
        backbone(batch)
    assert (cache.hits, cache.misses) == (0, 5)
    assert torch.equal(backbone(IMAGES[::-1])[0], Backbone("efficientnet_lite0")(IMAGES[::-1])[0])
    assert cache.hits == 1


def test_another_number_of_threads_finds_nothing():
    cache = FeatureCache(max_bytes=1 << 24)
    backbone = Backbone("efficientnet_lite0", cache=cache)
    threads = torch.get_num_threads()
    try:
        for n in (1, 2):
            torch.set_num_threads(n)
            backbone(IMAGES)
    finally:
        torch.set_num_threads(threads)
    assert (cache.hits, cache.misses) == (0, 2)


def test_what_a_caller_does_to_its_features_stays_with_it():
    cache = FeatureCache(max_bytes=1 << 24)
    backbone = Backbone("efficientnet_lite0", cache=cache)
    expected = Backbone("efficientnet_lite0")(IMAGES)
    with torch.inference_mode():
        for _ in range(2):
            for mine, right in zip(backbone(IMAGES), expected, strict=True):
                assert torch.equal(mine, right)
                mine.zero_()
    assert torch.equal(backbone(IMAGES)[0], expected[0])


def test_what_came_first_stays_and_the_limit_is_kept():
    cache = FeatureCache(max_bytes=3500)
    for name in (b"a", b"b", b"c", b"d"):
        cache.put(name, features(1.0))
    assert cache.nbytes == 3000
    assert [name for name in (b"a", b"b", b"c", b"d") if cache.get(name) is not None] == [b"a", b"b", b"c"]
    cache.put(b"large", features(2.0, n=126))
    cache.put(b"small", features(3.0, n=125))
    assert cache.get(b"large") is None
    assert cache.get(b"small") is not None
    assert cache.nbytes == 3500


def test_going_through_more_than_fits_again_finds_what_fits():
    cache = FeatureCache(max_bytes=3000)
    for _ in range(2):
        for name in (b"a", b"b", b"c", b"d", b"e"):
            if cache.get(name) is None:
                cache.put(name, features(1.0))
    assert (cache.hits, cache.misses) == (3, 7)


def test_a_cleared_cache_has_room_again():
    cache = FeatureCache(max_bytes=1000)
    cache.put(b"a", features(1.0))
    cache.clear()
    assert cache.nbytes == 0
    assert cache.get(b"a") is None
    cache.put(b"b", features(2.0))
    assert cache.get(b"b") is not None


def test_the_same_batch_twice_counts_once():
    cache = FeatureCache(max_bytes=5000)
    cache.put(b"a", features(1.0))
    cache.put(b"a", features(2.0))
    assert cache.nbytes == 1000
    kept = cache.get(b"a")
    assert kept is not None
    assert torch.equal(kept[0], features(1.0)[0])


def test_a_cache_without_room_keeps_nothing_and_harms_nothing():
    cache = FeatureCache(max_bytes=0)
    backbone = Backbone("efficientnet_lite0", cache=cache)
    assert torch.equal(backbone(IMAGES)[0], backbone(IMAGES)[0])
    assert (cache.hits, cache.misses, cache.nbytes) == (0, 2, 0)
    with pytest.raises(ValueError, match=r"^max_bytes \(=-1\) must be at least 0$"):
        FeatureCache(max_bytes=-1)


def test_threads_share_a_cache():
    cache = FeatureCache(max_bytes=8_000)

    def work(seed: int) -> None:
        rng = np.random.default_rng(seed)
        for _ in range(300):
            number = int(rng.integers(12))
            found = cache.get(bytes([number]))
            if found is None:
                cache.put(bytes([number]), features(float(number)))
            elif not torch.equal(found[0], features(float(number))[0]):
                wrong.append(number)

    wrong: list[int] = []
    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert cache.hits + cache.misses == 1200
    assert cache.nbytes == 8_000
