"""Patch features to measure on: of a real network on the demo set's images, since noise has no neighbours to find."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

# What the text of a section says of them.
WIDE = (
    "of wide_resnet50_2 (layer2 and layer3, random weights) on the images of the demo set at 224×224, "
    "its 1,536 channels averaged to 1,024 as PatchCore's authors do"
)
LITE = (
    "of efficientnet_lite0 (blocks.2 and blocks.4, ImageNet weights) on the images of the demo set at 256×256, "
    "152 channels"
)


def write_patches(folder: Path, *, backbone: str, points: int, queries: int, dim: int, side: int) -> tuple[str, str]:
    """Files with (points, dim) and (queries, dim) float32 features, of good images and of all test images."""
    train, test = _images(side)
    kinds = {"points": (train, points), "queries": (test, queries)}
    names = []
    for name, (images, n) in kinds.items():
        file = folder / f"{backbone}-{name}.npy"
        np.save(file, _features(images, backbone=backbone, n=n, dim=dim))
        names.append(str(file))
    return names[0], names[1]


def _images(side: int) -> tuple[list[NDArray[np.uint8]], list[NDArray[np.uint8]]]:
    """The demo set at side x side: good images, also mirrored, and test images."""
    from uadctl.datasets import list_categories, load_dataset, prepare_dataset
    from uadctl.imaging.files import read_image
    from uadctl.imaging.geometry import Geometry
    from uadctl.progress import Silent
    from uadctl.records import Size

    prepare_dataset("demo", None, progress=Silent())
    geometry = Geometry(size=None, resize=Size(side, side))
    train: list[NDArray[np.uint8]] = []
    test: list[NDArray[np.uint8]] = []
    for category in list_categories("demo", None):
        dataset = load_dataset("demo", None, category=category)
        for samples, images in ((dataset.train, train), (dataset.test, test)):
            for sample in samples:
                image = read_image(sample.path)
                images.append(geometry.plan(Size(*image.shape[:2])).apply(image))
    return [*train, *(np.ascontiguousarray(image[:, ::-1]) for image in train)], test


def _features(images: list[NDArray[np.uint8]], *, backbone: str, n: int, dim: int) -> NDArray[np.float32]:
    """(n, dim) patch features of as many images, evenly spaced over the list, as it takes."""
    import torch
    from torch.nn import functional

    from uadctl.models.patchcore import PatchCore

    model = PatchCore(backbone=backbone, pretrained=backbone == "efficientnet_lite0", device="cpu")
    first = model._embed(images[:1])[0][0]
    many = -(-n // len(first))
    if many > len(images):
        raise ValueError(f"{n} patches need {many} images, the demo set has {len(images)}")
    chosen = [images[i * len(images) // many] for i in range(many)]
    out = torch.empty((many * len(first), dim))
    for i, image in enumerate(chosen):
        patches = model._embed([image])[0][0]
        if patches.shape[1] != dim:
            patches = functional.adaptive_avg_pool1d(patches[:, None, :], dim)[:, 0]
        out[i * len(first) : (i + 1) * len(first)] = patches
    return out[:n].numpy()
