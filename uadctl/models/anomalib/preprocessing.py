"""What a model of anomalib does to an image before its network sees it, and to raw scores after, as data.

anomalib has two ways for an image. In "training", which its Engine uses to train, validate, test and predict, images
are resized with antialiasing. In "exported", which is what its exported files (torch, ONNX, OpenVINO) compute, they are
resized without, so the same weights give other scores.

One transform is at odds with the first way: anomalib's own data modules put the model's resize, and nothing else of its
transforms, in front of it, so images come resized to a square that should be padded to one (SquarePad, L2BT). Both ways
are followed here as the transforms themselves say: a padded image is padded.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from uadctl.errors import DataError
from uadctl.imaging.geometry import Box, View
from uadctl.records import Size

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

Inference = Literal["training", "exported"]
_INTERPOLATIONS = ("bilinear", "bicubic", "nearest", "nearest-exact")
# The transforms that can be followed, in the order that they must have.
_PLACES = {"SquarePad": 0, "Resize": 1, "CenterCrop": 2, "ExportableCenterCrop": 2, "Normalize": 3}
# The names that anomalib writes and reads them by, and those of the modules that they are defined in.
_CLASSES = {
    **{f"torchvision.transforms.v2.{name}": name for name in ("Compose", "Resize", "CenterCrop", "Normalize")},
    "torchvision.transforms.v2._container.Compose": "Compose",
    "torchvision.transforms.v2._geometry.Resize": "Resize",
    "torchvision.transforms.v2._geometry.CenterCrop": "CenterCrop",
    "torchvision.transforms.v2._misc.Normalize": "Normalize",
    "anomalib.data.transforms.SquarePad": "SquarePad",
    "anomalib.data.transforms.square_pad.SquarePad": "SquarePad",
    "anomalib.data.transforms.ExportableCenterCrop": "ExportableCenterCrop",
    "anomalib.data.transforms.center_crop.ExportableCenterCrop": "ExportableCenterCrop",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Preprocessing:
    """The transforms of a model: pad to a square, resize, crop, normalise, in this order, which is anomalib's.

    square: whether images are first padded to a square with the pixels of their edges, alike on both sides; of an odd
            number of rows or columns, the larger half comes after the image.
    resize: to this height and width; or, where it is a number, the shorter side to so many pixels.
    antialias: whether the training way smooths what it shrinks.
    crop:   a centre crop of this height and width.
    mean, std: the input is (x - mean) / std with x in 0..1, RGB; None: x itself.
    """

    square: bool = False
    resize: Size | int | None = None
    antialias: bool = True
    interpolation: Literal["bilinear", "bicubic", "nearest", "nearest-exact"] = "bilinear"
    crop: Size | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None

    @classmethod
    def of(cls, tree: Mapping[str, Any] | None) -> Preprocessing:
        """From the tree of class_path and init_args that a checkpoint holds; None is no transform at all.

        Raises DataError for transforms, or an order of them, that uadctl cannot follow back to the pixels of the file.
        """
        found: dict[str, Any] = {}
        done = -1
        for step in _steps(tree):
            name = _CLASSES.get(step["class_path"], "")
            place = _PLACES.get(name, -1)
            part = _fields(name, step["init_args"]) if place > done else None
            if part is None:
                raise _cannot_follow(step)
            found.update(part)
            done = place
        return cls(**found)

    def view(self, size: Size) -> View:
        """The way of images of this size to the model and back. DataError where the crop does not fit."""
        resized = self._resized(_square(size) if self.square else size)
        crop = self.crop or resized
        if crop.height > resized.height or crop.width > resized.width:
            raise DataError(
                f"a crop of {crop} does not fit into {resized}, the size that the model resizes an image of {size} to "
                "(height x width)"
            )
        # As torchvision's center_crop rounds it: half a pixel to the even side.
        y0, x0 = round((resized.height - crop.height) / 2), round((resized.width - crop.width) / 2)
        view = PaddedView if self.square else View
        return view(original=size, resized=resized, box=Box(y0, x0, crop.height, crop.width))

    def _resized(self, size: Size) -> Size:
        if not isinstance(self.resize, int):
            return self.resize or size
        short, long = min(size), max(size)
        # torchvision cuts the longer side to whole pixels.
        other = int(self.resize * long / short)
        return Size(self.resize, other) if size.height <= size.width else Size(other, self.resize)

    def apply(self, images: Sequence[NDArray[np.uint8]], *, inference: Inference, device: str = "cpu") -> torch.Tensor:
        """(B, 3, h, w) float32 input of the network for (H, W, 3) RGB uint8 images of one size."""
        import numpy as np
        import torch
        from torchvision.transforms.v2 import functional

        view = self.view(Size(*images[0].shape[:2]))
        x = torch.from_numpy(np.stack(images)).to(device).permute(0, 3, 1, 2)
        x = functional.to_dtype_image(x, torch.float32, scale=True)
        if self.square:
            (top, bottom), (left, right) = _margins(view.original)
            x = torch.nn.functional.pad(x, [left, right, top, bottom], mode="replicate")
        if view.resized != Size(*x.shape[-2:]):
            x = functional.resize_image(
                x,
                list(view.resized),
                interpolation=functional.InterpolationMode(self.interpolation),
                antialias=self.antialias and inference == "training",
            )
        y0, x0, height, width = view.box
        x = x[..., y0 : y0 + height, x0 : x0 + width]
        if self.mean is not None and self.std is not None:
            x = functional.normalize_image(x, list(self.mean), list(self.std))
        out: torch.Tensor = x.contiguous()
        return out


@dataclass(frozen=True, slots=True)
class PaddedView(View):
    """The way of images that are padded to a square before they are resized.

    original: the file as displayed. resized, box: of the padded image. The border is looked at, and its part of the map
    is dropped on the way back.
    """

    def apply(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """As `View.apply`, of the padded image."""
        import numpy as np

        if image.shape[:2] != self.original:
            raise ValueError(f"planned for {self.original} (height x width), found {Size(*image.shape[:2])}")
        margins = [*_margins(self.original), *[(0, 0)] * (image.ndim - 2)]
        return self._padded().apply(np.pad(image, margins, mode="edge"))

    def back(self, anomaly_map: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
        """As `View.back`, without the border."""
        import numpy as np

        (top, _), (left, _) = _margins(self.original)
        height, width = self.original
        whole = self._padded().back(anomaly_map)
        return np.ascontiguousarray(whole[top : top + height, left : left + width])

    def _padded(self) -> View:
        return View(original=_square(self.original), resized=self.resized, box=self.box)


def _square(size: Size) -> Size:
    side = max(size)
    return Size(side, side)


def _margins(size: Size) -> tuple[tuple[int, int], tuple[int, int]]:
    """The rows above and below, the columns left and right of an image that make a square of it."""
    rows, columns = max(size) - size.height, max(size) - size.width
    return (rows // 2, rows - rows // 2), (columns // 2, columns - columns // 2)


def _steps(tree: Mapping[str, Any] | None) -> list[Mapping[str, Any]]:
    if tree is None:
        return []
    if not (isinstance(tree, Mapping) and isinstance(tree.get("class_path"), str)) or not isinstance(
        tree.get("init_args"), Mapping
    ):
        raise DataError(f"the checkpoint's transform is no tree of class_path and init_args: {str(tree)[:80]}")
    if _CLASSES.get(tree["class_path"]) == "Compose":
        parts = tree["init_args"].get("transforms")
        if not isinstance(parts, list | tuple):
            raise DataError(f"the checkpoint's transform is a Compose without a list of transforms: {str(parts)[:80]}")
        return [step for part in parts for step in _steps(part)]
    return [tree]


def _fields(name: str, given: Mapping[str, Any]) -> dict[str, Any] | None:
    """What a transform means as fields of `Preprocessing`; None where that cannot be said."""
    if name == "SquarePad":
        return {"square": True}
    if name == "Normalize":
        mean, std = _three(given.get("mean")), _three(given.get("std"))
        if mean is None or std is None or 0 in std:
            return None
        return {"mean": mean, "std": std}
    size = _size(given.get("size"))
    if size is None:
        return None
    if name != "Resize":
        return {"crop": Size(size, size) if isinstance(size, int) else size}
    interpolation = given.get("interpolation", "bilinear")
    if given.get("max_size") is not None or interpolation not in _INTERPOLATIONS:
        return None
    return {"resize": size, "antialias": bool(given.get("antialias", True)), "interpolation": interpolation}


def _three(value: Any) -> tuple[float, ...] | None:
    """A finite number for each channel; None for something else."""
    if not isinstance(value, list | tuple) or len(value) != 3:
        return None
    if not all(isinstance(one, int | float) and math.isfinite(one) for one in value):
        return None
    return tuple(map(float, value))


def _size(value: Any) -> Size | int | None:
    """A size as torchvision takes it; None for something else."""
    numbers = [value] if isinstance(value, int) else list(value) if isinstance(value, list | tuple) else []
    if not numbers or len(numbers) > 2 or not all(isinstance(number, int) and number > 0 for number in numbers):
        return None
    return Size(*numbers) if len(numbers) == 2 else numbers[0]


def _cannot_follow(step: Mapping[str, Any]) -> DataError:
    return DataError(
        f"the checkpoint's pre-processor has {step['class_path']} {str(dict(step['init_args']))[:200]} at a place "
        "where uadctl cannot follow it: it knows a padding to a square, a resize, a centre crop and a normalisation, "
        "in this order"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Postprocessing:
    """What anomalib does to raw scores and maps: its thresholds and its normalisation, as a checkpoint holds them.

    A normalised score is (s - threshold) / (max - min) + 0.5, cut to 0..1, so that 0.5 is the threshold; those far from
    it are all 0 or 1. Its threshold is where F1 is highest on its validation set, which by default is its test set;
    of good images only, it is their largest score.

    image_threshold, pixel_threshold: of raw scores and of raw maps, None where it has none.
    image_min, image_max, pixel_min, pixel_max: the range of raw values on its validation set.
    normalises: whether outputs are normalised at all. thresholds: whether labels are given at all.
    image_sensitivity, pixel_sensitivity: a normalised value above 1 - sensitivity is anomalous.
    matches:    an image threshold stands in for one of pixels that is not there, and the other way round.
    """

    image_threshold: float | None = None
    pixel_threshold: float | None = None
    image_min: float | None = None
    image_max: float | None = None
    pixel_min: float | None = None
    pixel_max: float | None = None
    normalises: bool = True
    thresholds: bool = True
    matches: bool = True
    image_sensitivity: float = 0.5
    pixel_sensitivity: float = 0.5

    def normalised(self, values: NDArray[np.float32], *, of: Literal["image", "pixel"]) -> NDArray[np.float32]:
        """Raw scores ("image") or maps ("pixel") as anomalib would give them; themselves where it has no range."""
        import numpy as np

        low = self.image_min if of == "image" else self.pixel_min
        high = self.image_max if of == "image" else self.pixel_max
        if not self.normalises or low is None or high is None:
            return values
        limit = self.threshold(of)
        middle = np.float32((high + low) / 2 if limit is None else limit)
        if high == low:
            return np.asarray(np.sign(values - middle) / 2 + 0.5, dtype=np.float32)
        scaled = (values - middle) / (np.float32(high) - np.float32(low)) + np.float32(0.5)
        return np.asarray(np.clip(scaled, 0, 1), dtype=np.float32)

    def is_anomalous(self, values: NDArray[np.float32], *, of: Literal["image", "pixel"]) -> NDArray[np.bool_] | None:
        """anomalib's own verdict on raw values; None where it gives none."""
        if not self.thresholds:
            return None
        sensitivity = self.image_sensitivity if of == "image" else self.pixel_sensitivity
        return self.normalised(values, of=of) > 1 - sensitivity

    def threshold(self, of: Literal["image", "pixel"]) -> float | None:
        """The threshold of raw values, the other one's where it has none and they match."""
        own, other = self.image_threshold, self.pixel_threshold
        if of == "pixel":
            own, other = other, own
        return other if own is None and self.matches else own

    def facts(self) -> dict[str, Any]:
        """For the run's record: JSON values."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__}
