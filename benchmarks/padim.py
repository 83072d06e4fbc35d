"""PaDiM's Gaussians beside anomalib's on the same features, and a whole fit with the paper's largest setting."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from benchmarks.measure import Contender, Measured, Section, Table, Target, at_least, compare, number, table

if TYPE_CHECKING:
    import torch

_EPS = 0.01
_ANOMALIB_ADDS = 1e-5  # to the 0.01
_BATCH = 16
_LIMIT = 4_000_000_000  # bytes of the whole process, wide_resnet50_2 at 224x224 with 550 channels


def _features(n: int, side: int, dim: int) -> torch.Tensor:
    """(n, places, dim) correlated float32 features, the same for the same arguments."""
    import torch

    generator = torch.Generator().manual_seed(0)
    mix = torch.randn((dim, dim), generator=generator) / dim**0.5
    found: torch.Tensor = torch.randn((n, side * side, dim), generator=generator) @ mix + 1
    return found


def ours(*, n: int, side: int, dim: int) -> Callable[[], Any]:
    """Moments and factors; the distances of the first images."""
    from uadctl.memory.gaussian import Moments

    x = _features(n, side, dim)
    _gaussians(Moments(1, 8), x[:4, :1, :8])

    def work() -> float:
        return float(_gaussians(Moments(side * side, dim), x).distances(x[:_BATCH]).double().mean())

    return work


def _gaussians(moments: Any, x: torch.Tensor) -> Any:
    for start in range(0, len(x), _BATCH):
        moments.add(x[start : start + _BATCH])
    return moments.gaussians(eps=_EPS + _ANOMALIB_ADDS)


def anomalib(*, n: int, side: int, dim: int) -> Callable[[], Any]:
    """MultiVariateGaussian on all features at once, as PadimModel.fit calls it; the distances of the first images."""
    from anomalib.models.components import MultiVariateGaussian
    from anomalib.models.image.padim.anomaly_map import AnomalyMapGenerator

    def shaped(x: torch.Tensor, side: int) -> torch.Tensor:
        return x.transpose(1, 2).reshape(len(x), x.shape[2], side, side)

    x = shaped(_features(n, side, dim), side).contiguous()
    MultiVariateGaussian().fit(x[:4, :8, :1, :1].contiguous())

    def work() -> float:
        stats = MultiVariateGaussian().fit(x)
        return float(AnomalyMapGenerator.compute_distance(x[:_BATCH], stats).double().mean())

    return work


def our_scoring(*, n: int, side: int, dim: int, images: int) -> Callable[[], Any]:
    """Distances of so many images, one at a time."""
    from uadctl.memory.gaussian import Moments

    x = _features(n, side, dim)
    fitted = _gaussians(Moments(side * side, dim), x)
    fitted.distances(x[:1])

    def work() -> float:
        return sum(float(fitted.distances(x[i : i + 1]).double().mean()) for i in range(images))

    return work


def anomalib_scoring(*, n: int, side: int, dim: int, images: int) -> Callable[[], Any]:
    """The same with anomalib's matrices, inverted with numpy while it gets ready."""
    import numpy as np
    import torch
    from anomalib.models.image.padim.anomaly_map import AnomalyMapGenerator

    x = _features(n, side, dim)
    places = x.shape[1]
    inverse = torch.empty((places, dim, dim))
    eye = (_EPS + _ANOMALIB_ADDS) * np.eye(dim)
    for place in range(places):
        covariance = np.cov(x[:, place].double().numpy(), rowvar=False) + eye
        inverse[place] = torch.from_numpy(np.linalg.inv(covariance))
    stats = [x.mean(dim=0).T.contiguous(), inverse]
    shaped = x[:images].transpose(1, 2).reshape(images, dim, side, side).contiguous()

    def work() -> float:
        found = (AnomalyMapGenerator.compute_distance(shaped[i : i + 1], stats) for i in range(images))
        return sum(float(each.double().mean()) for each in found)

    return work


def whole(*, backbone: str, n: int, side: int, dim: int, left_out: bool = False) -> Callable[[], Any]:
    """PaDiM.fit on n random images, the backbone's weights random; the shape of what was learned."""
    import numpy as np

    from uadctl.models.padim import PaDiM

    model = PaDiM(backbone=backbone, pretrained=False, n_features=dim, device="cpu")
    rng = np.random.default_rng(0)

    def work() -> list[int]:
        images = (rng.integers(0, 256, (side, side, 3), dtype=np.uint8) for _ in range(n))
        model.fit(images, threshold=left_out)
        facts = model.facts()
        return [*facts["grid"], facts["n_features"]]

    return work


def whole_scoring(*, backbone: str, n: int, side: int, dim: int, images: int) -> Callable[[], Any]:
    """predict_batch of so many images, sixteen at a time, by the model of `whole`."""
    import numpy as np

    from uadctl.models.padim import PaDiM

    rng = np.random.default_rng(0)
    made = [rng.integers(0, 256, (side, side, 3), dtype=np.uint8) for _ in range(images)]
    model = PaDiM(backbone=backbone, pretrained=False, n_features=dim, device="cpu")
    model.fit(made[:n], threshold=False)

    def work() -> int:
        return len(model.decision_function(made))

    return work


def sections(*, quick: bool) -> list[Section]:
    return [_beside_anomalib(quick=quick), _whole_fit(quick=quick)]


def _beside_anomalib(*, quick: bool) -> Section:
    # A quarter of the places of 224x224 at stride 4: anomalib holds three full matrices a place.
    n, side, dim, images = (16, 4, 40, 4) if quick else (64, 28, 550, 16)
    args = {"n": n, "side": side, "dim": dim}
    repeats = 1 if quick else 3
    mine, peer = compare(
        [
            Contender("uadctl", "benchmarks.padim:ours", args),
            Contender("anomalib MultiVariateGaussian", "benchmarks.padim:anomalib", args, repeats=1),
        ],
        repeats=repeats,
    )
    my_scoring, peer_scoring = compare(
        [
            Contender("uadctl", "benchmarks.padim:our_scoring", {**args, "images": images}),
            Contender("anomalib", "benchmarks.padim:anomalib_scoring", {**args, "images": images}),
        ],
        repeats=repeats,
    )
    return Section(
        title="PaDiM: a Gaussian at every place",
        text=f"Features of {n} images at {side}×{side} places, {dim} channels: mean, covariance, its factor (anomalib: "
        f"its inverse), and the distances of {_BATCH} images; then those of {images} images, one at a time. anomalib "
        "takes all features at once and says how many images that may be; uadctl takes them sixteen images at a time.",
        tables=(
            table([mine, peer], ours=mine, caption="learning"),
            table(
                [my_scoring, peer_scoring], ours=my_scoring, per=images / 1000, unit="ms an image", caption="scoring"
            ),
        ),
        targets=(
            at_least("extra memory of anomalib / uadctl, learning", peer, mine, 4, quantity="extra_bytes"),
            at_least("CPU of anomalib / uadctl, learning", peer, mine, 1),
            at_least("CPU of anomalib / uadctl, scoring", peer_scoring, my_scoring, 1),
            _same("mean distance after learning, uadctl / anomalib", mine, peer),
            _same("mean distance when scoring, uadctl / anomalib", my_scoring, peer_scoring),
        ),
        measured=(mine, peer, my_scoring, peer_scoring),
    )


def _same(what: str, mine: Measured, peer: Measured) -> Target:
    if not (mine.runs and peer.runs):
        return Target(what, "within 1e-4", mine.reason or peer.reason, None)
    ratio = mine.value / peer.value
    return Target(what, "within 1e-4", f"{ratio:.6f}", abs(ratio - 1) <= 1e-4)


def _whole_fit(*, quick: bool) -> Section:
    backbone, side, dim, few, many = (
        ("efficientnet_lite0", 64, 60, 4, 8) if quick else ("wide_resnet50_2", 224, 550, 8, 64)
    )
    args = {"backbone": backbone, "side": side, "dim": dim}
    little, much, kept, scoring = compare(
        [
            Contender(f"fit, {few} images", "benchmarks.padim:whole", {**args, "n": few}),
            Contender(f"fit, {many} images", "benchmarks.padim:whole", {**args, "n": many}),
            Contender(
                f"fit, {many} images, leave-one-image-out scores",
                "benchmarks.padim:whole",
                {**args, "n": many, "left_out": True},
            ),
            Contender(f"score {many} images", "benchmarks.padim:whole_scoring", {**args, "n": few, "images": many}),
        ],
        repeats=1,
    )
    places = (side // 4) ** 2
    full = 4 * places * dim * dim
    targets = []
    if little.runs and much.runs and kept.runs:
        for measured in (much, kept):
            held = measured.peak.median
            targets.append(
                Target(
                    f"peak memory, {measured.title}",
                    f"≤ {number(_LIMIT / 1e6)} MB",
                    f"{number(held / 1e6)} MB",
                    held <= _LIMIT,
                )
            )
        growth = much.peak.median - little.peak.median
        targets.append(
            Target(
                f"peak memory, {many} images less {few} images",
                "≤ 50 MB",
                f"{number(growth / 1e6)} MB",
                growth <= 50_000_000,
            )
        )
    return Section(
        title="PaDiM: a whole fit",
        text=f"{backbone} with random weights on random images of {side}×{side} pixels, {places:,} places of {dim} "
        f"channels. The covariances alone would be {number(full / 1e6)} MB as full matrices.",
        tables=(
            table([little, much, kept, scoring], ours=much, memory="peak", times="CPU, times that of the second row"),
            Table(
                ("", "s an image"),
                tuple(
                    (m.title, number(m.wall.median / count))
                    for m, count in ((much, many), (kept, many), (scoring, many))
                    if m.runs
                ),
                caption="wall time",
            ),
        ),
        targets=tuple(targets),
        measured=(little, much, kept, scoring),
    )
