"""Files of anomalib for tests: made by uadctl alone in anomalib 2.7's form, or trained by anomalib itself."""

from __future__ import annotations

import contextlib
import enum
import logging
import sys
import types
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from parts import scratched, surface, write

SIZE = (64, 64)
"""Height and width of the images of the trained files' data, and what their models resize images to."""
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_EXTRACTOR = "model.feature_extractor.feature_extractor."
_KERNEL = "model.anomaly_map_generator.blur.kernel"


# --- without anomalib


class PrecisionType(enum.StrEnum):
    """anomalib's enumeration, which its checkpoints name."""

    FLOAT32 = "float32"
    FLOAT16 = "float16"


PrecisionType.__module__ = "anomalib"


@contextlib.contextmanager
def _named_as_anomalibs() -> Iterator[None]:
    """Pickles name the enumeration above as anomalib's, installed or not."""
    before = sys.modules.get("anomalib")
    stand_in = types.ModuleType("anomalib")
    stand_in.PrecisionType = PrecisionType  # type: ignore[attr-defined]
    sys.modules["anomalib"] = stand_in
    try:
        yield
    finally:
        del sys.modules["anomalib"]
        if before is not None:
            sys.modules["anomalib"] = before


def transform_tree(
    resize: Any = SIZE, *, crop: Sequence[int] | None = None, antialias: bool = True, interpolation: str = "bilinear"
) -> dict[str, Any]:
    """A pre-processor's transform as checkpoints of anomalib 2.7 describe it."""
    steps: list[dict[str, Any]] = [
        {
            "class_path": "torchvision.transforms.v2.Resize",
            "init_args": {
                "size": list(resize) if isinstance(resize, Sequence) else [resize],
                "interpolation": interpolation,
                "max_size": None,
                "antialias": antialias,
            },
        }
    ]
    if crop is not None:
        steps.append({"class_path": "torchvision.transforms.v2.CenterCrop", "init_args": {"size": list(crop)}})
    steps.append(
        {
            "class_path": "torchvision.transforms.v2.Normalize",
            "init_args": {"mean": list(MEAN), "std": list(STD), "inplace": False},
        }
    )
    return {"class_path": "torchvision.transforms.v2.Compose", "init_args": {"transforms": steps}}


def network_of(layers: Sequence[str], *, backbone: str = "resnet18", seed: int = 0) -> dict[str, torch.Tensor]:
    """Random tensors of a backbone, cut after the last of `layers`, by the names that checkpoints give them."""
    from uadctl.features.backbone import Backbone

    state = Backbone(backbone, layers=layers, pretrained=False, seed=seed).state()
    return {f"{_EXTRACTOR}{key}": value.clone() for key, value in state.items()}


def blur_kernel(sigma: float = 4.0) -> torch.Tensor:
    """(1, 1, k, k) the Gaussian that smooths maps, which checkpoints carry along."""
    reach = int(4 * sigma + 0.5)
    line = torch.exp(-(torch.arange(-reach, reach + 1) ** 2) / (2 * sigma**2))
    return (line[:, None] * line / line.sum() ** 2)[None, None]


def features_of(
    layers: Sequence[str], images: Sequence[np.ndarray], *, backbone: str = "resnet18", seed: int = 0
) -> list[torch.Tensor]:
    """(B, channels, h, w) features of the network that `network_of` gives, of images as they are."""
    from uadctl.features.backbone import Backbone

    network = Backbone(backbone, layers=layers, pretrained=False, seed=seed)
    return [m.clone() for m in network(np.stack(images))]


def write_ckpt(
    path: Path,
    state: Mapping[str, torch.Tensor],
    hyper_parameters: Mapping[str, Any],
    *,
    transform: Mapping[str, Any] | None = None,
    buffers: Mapping[str, float] | None = None,
    postprocessor: Mapping[str, Any] | None = None,
) -> Path:
    """A Lightning .ckpt in anomalib 2.7's form.

    buffers: of the post-processor, by name: _image_threshold, _pixel_threshold, image_min … pixel_max; NaN where not
        given. postprocessor: its settings, where they differ from anomalib's defaults.
    """
    names = ("_image_threshold", "_pixel_threshold", "image_min", "image_max", "pixel_min", "pixel_max")
    after = {f"post_processor.{name}": torch.tensor((buffers or {}).get(name, float("nan"))) for name in names}
    blob = {
        "epoch": 0,
        "global_step": 1,
        "pytorch-lightning_version": "2.6.1",
        "state_dict": {**state, **after},
        "loops": {},
        "callbacks": {},
        "optimizer_states": [],
        "lr_schedulers": [],
        "hparams_name": "kwargs",
        "hyper_parameters": dict(hyper_parameters),
        "anomalib_components_enabled": dict.fromkeys(
            ("pre_processor", "post_processor", "evaluator", "visualizer"), True
        ),
        "anomalib_pre_processor_config": {"transform": transform_tree() if transform is None else dict(transform)},
        "anomalib_post_processor_config": {
            "enable_normalization": True,
            "enable_thresholding": True,
            "enable_threshold_matching": True,
            "image_sensitivity": 0.5,
            "pixel_sensitivity": 0.5,
            **(postprocessor or {}),
        },
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    with _named_as_anomalibs():
        torch.save(blob, path)
    return path


def write_patchcore_ckpt(
    path: Path,
    *,
    images: Sequence[np.ndarray] | None = None,
    layers: Sequence[str] = ("layer2", "layer3"),
    n_neighbors: int = 9,
    transform: Mapping[str, Any] | None = None,
    buffers: Mapping[str, float] | None = None,
    seed: int = 0,
) -> Path:
    """A PatchCore .ckpt as anomalib 2.7 writes it: resnet18 with random weights, every 4th patch of good images.

    images: of one size; given to the network as they are.
    """
    from torch.nn import functional

    good = [surface(i, *SIZE) for i in range(4)] if images is None else images
    maps = [functional.avg_pool2d(m, 3, 1, 1) for m in features_of(layers, good, seed=seed)]
    grid = maps[0].shape[-2:]
    joined = torch.cat([maps[0], *(functional.interpolate(m, size=grid, mode="bilinear") for m in maps[1:])], dim=1)
    bank = joined.permute(0, 2, 3, 1).reshape(-1, joined.shape[1])[::4].contiguous()
    return write_ckpt(
        path,
        {
            "_is_fitted": torch.tensor([True]),
            "model.memory_bank": bank,
            _KERNEL: blur_kernel(),
            **network_of(layers, seed=seed),
        },
        {
            "backbone": "resnet18",
            "layers": tuple(layers),
            "pre_trained": True,
            "coreset_sampling_ratio": 0.25,
            "num_neighbors": n_neighbors,
            "precision": PrecisionType.FLOAT32,
        },
        transform=transform,
        buffers=buffers,
    )


def write_padim_ckpt(
    path: Path,
    *,
    images: Sequence[np.ndarray] | None = None,
    layers: Sequence[str] = ("layer1", "layer2", "layer3"),
    n_features: int = 20,
    transform: Mapping[str, Any] | None = None,
    buffers: Mapping[str, float] | None = None,
    seed: int = 0,
) -> Path:
    """A PaDiM .ckpt as anomalib 2.7 writes it: resnet18 with random weights, Gaussians of good images.

    images: of one size; given to the network as they are, so its transform must resize to that size.
    """
    from torch.nn import functional

    good = [surface(i, *SIZE) for i in range(8)] if images is None else images
    maps = features_of(layers, good, seed=seed)
    grid = maps[0].shape[-2:]
    joined = torch.cat([maps[0], *(functional.interpolate(m, size=grid, mode="nearest") for m in maps[1:])], dim=1)
    chosen = torch.randperm(joined.shape[1], generator=torch.Generator().manual_seed(seed))[:n_features]
    features = joined[:, chosen].flatten(2)
    mean = features.mean(dim=0)
    away = (features - mean).permute(2, 1, 0)
    covariance = away @ away.transpose(1, 2) / (len(good) - 1)
    inverse = torch.linalg.inv(covariance + (0.01 + 1e-5) * torch.eye(n_features))
    return write_ckpt(
        path,
        {
            "_is_fitted": torch.tensor([True]),
            "model.idx": chosen,
            _KERNEL: blur_kernel(),
            "model.gaussian.mean": mean,
            "model.gaussian.inv_covariance": inverse,
            **network_of(layers, seed=seed),
        },
        {"backbone": "resnet18", "layers": list(layers), "pre_trained": True, "n_features": n_features},
        transform=transform,
        buffers=buffers,
    )


# --- with anomalib


@dataclass(frozen=True)
class Trained:
    """What a training by anomalib left.

    module: the live module, in eval mode on the processor. ckpt, pt: the Lightning checkpoint and the exported pickle;
    None where that was not asked for.
    """

    module: Any
    ckpt: Path
    pt: Path | None


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Nothing of anomalib, Lightning, torch's exporters on stderr, and their warnings are no errors."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import anomalib.engine  # noqa: F401 - importing Lightning sets the levels anew
    names = ("anomalib", "lightning.pytorch", "lightning.fabric", "lightning_fabric.utilities.rank_zero", "torch.onnx")
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def write_images(folder: Path, *, good: int = 6, bad: int = 3, size: tuple[int, int] = SIZE) -> Path:
    """A folder that anomalib's `Folder` reads: good, bad and mask."""
    for i in range(good):
        write(folder / "good" / f"{i:03}.png", surface(i, *size))
    for i in range(bad):
        image, mask = scratched(200 + i, *size)
        write(folder / "bad" / f"{i:03}.png", image)
        write(folder / "mask" / f"{i:03}.png", mask)
    return folder


def preprocessor(resize: Any = SIZE, *, crop: Sequence[int] | None = None) -> Any:
    """anomalib's usual pre-processor, at a size that trains fast."""
    from anomalib.pre_processing import PreProcessor
    from torchvision.transforms import v2

    steps = [v2.Resize(resize, antialias=True), v2.Normalize(mean=list(MEAN), std=list(STD))]
    if crop is not None:
        steps.insert(1, v2.CenterCrop(crop))
    return PreProcessor(transform=v2.Compose(steps))


def train_with_anomalib(
    cls: str,
    folder: Path,
    *,
    pt: bool = True,
    resize: Any = SIZE,
    crop: Sequence[int] | None = None,
    params: Mapping[str, Any] | None = None,
    max_epochs: int = 1,
    batch_size: int = 4,
    seed: int = 0,
    good: int = 6,
    bad: int = 3,
    size: tuple[int, int] = SIZE,
) -> Trained:
    """Train a class of anomalib with its Engine on small images, as its users do; weights are random.

    cls: its name, such as "Patchcore". params: of its constructor. resize, crop: of its pre-processor; resize=None
        leaves the class its own. good, bad, size: of the images that it learns and is validated on.
    """
    with quietly():
        from anomalib import models
        from anomalib.data import Folder
        from anomalib.engine import Engine
        from lightning.pytorch import seed_everything

        seed_everything(seed, verbose=False)
        data = Folder(
            name="small",
            root=write_images(folder / "data", good=good, bad=bad, size=size),
            normal_dir="good",
            abnormal_dir="bad",
            mask_dir="mask",
            train_batch_size=batch_size,
            eval_batch_size=batch_size,
            num_workers=0,
            val_split_mode="same_as_test",
            seed=seed,
        )
        given = dict(params or {})
        if resize is not None:
            given["pre_processor"] = preprocessor(resize, crop=crop)
        module = getattr(models, cls)(**given, visualizer=False)
        engine = Engine(
            accelerator="cpu",
            devices=1,
            logger=False,
            default_root_dir=folder / "results",
            max_epochs=max_epochs,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        engine.fit(module, datamodule=data)
        ckpt = folder / "model.ckpt"
        engine.trainer.save_checkpoint(ckpt)
        exported = module.eval().to_torch(folder) if pt else None
    return Trained(module.eval(), ckpt, None if exported is None else Path(exported))


def said_by_anomalib(module: Any, image: np.ndarray, *, inference: str = "training") -> tuple[float, np.ndarray]:
    """Raw score and (h, w) map of one (H, W, 3) uint8 image, by the live module itself."""
    x = torch.from_numpy(image.copy()).permute(2, 0, 1)[None].float() / 255
    before = module.pre_processor
    with torch.inference_mode():
        x = x if before is None else (before.transform if inference == "training" else before.export_transform)(x)
        said = module.model.eval()(x)
    field = said.anomaly_map
    return float(said.pred_score.reshape(-1)[0]), field.reshape(field.shape[-2:]).float().numpy()
