"""Features of the backbones: ours in every precision and runtime, beside the networks as their libraries give them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from benchmarks.measure import Contender, Measured, Section, Unavailable, at_least, compare, number, table

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

# Backbone, side of the images, images at once.
_LITE0 = ("efficientnet_lite0", 256, 16)
_WIDE = ("wide_resnet50_2", 224, 8)
_OURS = {
    "uadctl, fp32": {"precision": "fp32", "runtime": "torch"},
    "uadctl, bf16": {"precision": "bf16", "runtime": "torch"},
    "uadctl, OpenVINO fp32": {"precision": "fp32", "runtime": "openvino"},
    "uadctl, OpenVINO bf16": {"precision": "bf16", "runtime": "openvino"},
}
# Batches of a measurement: the first one after getting ready pays for memory that the others find.
_ROUNDS = 4


def sections(*, quick: bool) -> list[Section]:
    return [
        _section(
            "Features of EfficientNet-Lite0, the default backbone",
            _LITE0,
            Contender("timm, features_only", "benchmarks.backbones:by_timm", _arguments(_LITE0, quick)),
            "the published weights",
            quick,
        ),
        _section(
            "Features of WideResNet-50-2, the paper's backbone",
            _WIDE,
            Contender(
                "torchvision, feature extractor", "benchmarks.backbones:by_torchvision", _arguments(_WIDE, quick)
            ),
            "random weights",
            quick,
        ),
    ]


def _section(title: str, case: tuple[str, int, int], peer: Contender, weights: str, quick: bool) -> Section:
    arguments = _arguments(case, quick)
    name, size, number_of_images = arguments["name"], arguments["size"], arguments["batch"]
    measured = compare(
        [
            peer,
            *[Contender(title, "benchmarks.backbones:by_uadctl", {**arguments, **how}) for title, how in _OURS.items()],
            Contender("uadctl, fp32, one image at once", "benchmarks.backbones:by_uadctl", _single(arguments)),
        ],
        repeats=1 if quick else 5,
        threads=1,
    )
    images = arguments["batch"] * arguments["rounds"]
    return Section(
        title=title,
        text=(
            f"{name} with {weights}, cut after the last layer that PatchCore uses; {number_of_images} drawn parts of "
            f"{size}×{size} at once, one thread. The error is the largest of the layers' ‖f − g‖ / ‖g‖ against the "
            "library's own network in fp32."
        ),
        tables=(table(measured, ours=measured[1], per=images / 1000, unit="ms an image", columns={"error": _error}),),
        targets=(at_least(f"CPU of {peer.title} / ours, fp32", measured[0], measured[1], 1.0),),
        notes=(
            "Batch norms are folded into the convolutions; activations and sums happen while oneDNN's result is in "
            "registers; images are computed in groups whose activations the processor's cache and the allocator keep.",
        ),
        measured=tuple(measured),
    )


def _arguments(case: tuple[str, int, int], quick: bool) -> dict[str, Any]:
    name, size, batch = case
    if quick:
        return {"name": "resnet18" if name == _WIDE[0] else name, "size": 64, "batch": 2, "rounds": 1}
    return {"name": name, "size": size, "batch": batch, "rounds": _ROUNDS}


def _single(arguments: dict[str, Any]) -> dict[str, Any]:
    images = arguments["batch"] * arguments["rounds"]
    return {**arguments, "batch": 1, "rounds": images, "precision": "fp32", "runtime": "torch"}


def _error(measured: Measured) -> str:
    return number(measured.value)


# -- contenders: each returns its error, found while it gets ready


def by_uadctl(*, name: str, size: int, batch: int, rounds: int, precision: str, runtime: str) -> Callable[[], float]:
    """`uadctl.features.backbone.Backbone`."""
    from uadctl.errors import SpecError
    from uadctl.features.backbone import Backbone

    try:
        backbone = Backbone(name, pretrained=name == _LITE0[0], precision=precision, runtime=runtime)  # type: ignore[arg-type]
    except SpecError as error:
        raise Unavailable(error.message) from error
    images = parts(size, batch)
    theirs = (_timm if name == _LITE0[0] else _torchvision)(name)(images)
    return _work(lambda: backbone(images), rounds, _furthest(backbone(images), theirs))


def by_timm(*, name: str, size: int, batch: int, rounds: int) -> Callable[[], float]:
    """timm's network as its documentation shows it."""
    images, compute = parts(size, batch), _timm(name)
    return _work(lambda: compute(images), rounds, _furthest(compute(images), compute(images)))


def by_torchvision(*, name: str, size: int, batch: int, rounds: int) -> Callable[[], float]:
    """torchvision's network as its documentation shows it."""
    images, compute = parts(size, batch), _torchvision(name)
    return _work(lambda: compute(images), rounds, _furthest(compute(images), compute(images)))


def _work(compute: Callable[[], object], rounds: int, error: float) -> Callable[[], float]:
    def work() -> float:
        for _ in range(rounds):
            compute()
        return error

    return work


def _furthest(features: list[torch.Tensor], exact: list[torch.Tensor]) -> float:
    return max(float((f - g).norm() / g.norm()) for f, g in zip(features, exact, strict=True))


def parts(size: int, n: int) -> NDArray[np.uint8]:
    """(n, size, size, 3) RGB uint8: parts of the demo data set."""
    import cv2
    import numpy as np

    from uadctl.datasets.demo_scenes import SCENES, draw_specimen

    category = next(iter(SCENES))
    drawn = [draw_specimen(category, "train", "good", i, seed=0).image for i in range(n)]
    return np.stack([cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA) for image in drawn])


def _timm(name: str) -> Callable[[NDArray[np.uint8]], list[torch.Tensor]]:
    import timm

    from uadctl.features import lite0
    from uadctl.features.weights import find_weights, load_state
    from uadctl.spec import resolve_backbone

    entry = resolve_backbone(name)
    chosen = [list(entry.channels).index(layer) for layer in entry.layers]
    network = timm.create_model(f"tf_{name}", pretrained=False, features_only=True, out_indices=chosen).eval()
    tensors = lite0.convert(load_state(find_weights(entry).path))
    network.load_state_dict({key: tensors[key] for key in network.state_dict()})
    return _by_hand(network, entry.mean, entry.std)


def _torchvision(name: str) -> Callable[[NDArray[np.uint8]], list[torch.Tensor]]:
    import torch
    import torchvision
    from torchvision.models.feature_extraction import create_feature_extractor

    from uadctl.spec import resolve_backbone

    entry = resolve_backbone(name)
    torch.manual_seed(0)
    network = torchvision.models.get_model(name, weights=None).eval()
    extractor = create_feature_extractor(network, list(entry.layers))
    return _by_hand(lambda x: list(extractor(x).values()), entry.mean, entry.std)


def _by_hand(
    network: Callable[[torch.Tensor], list[torch.Tensor]], mean: tuple[float, ...], std: tuple[float, ...]
) -> Callable[[NDArray[np.uint8]], list[torch.Tensor]]:
    import torch

    def compute(images: NDArray[np.uint8]) -> list[torch.Tensor]:
        with torch.inference_mode():
            x = torch.from_numpy(images).permute(0, 3, 1, 2).float()
            x = (x - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]
            return list(network(x))

    return compute
