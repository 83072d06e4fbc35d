"""The files that anomalib writes, read without running code that lies in them."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from uadctl.errors import DataError, SpecError, WeightsError
from uadctl.models.anomalib.traces import import_anomalib
from uadctl.spec.optional import require
from uadctl.spec.registry import load_target
from uadctl.spec.wrapped import anomalib_model, anomalib_models

if TYPE_CHECKING:
    import torch

    from uadctl.models.anomalib.preprocessing import Postprocessing

Format = Literal["ckpt", "torch", "onnx", "openvino"]
_SUFFIXES: dict[str, Format] = {
    ".ckpt": "ckpt",
    ".pt": "torch",
    ".pth": "torch",
    ".onnx": "onnx",
    ".xml": "openvino",
    ".bin": "openvino",
}
# Arguments of every class of anomalib that are objects, and none of the model.
_COMPONENTS = ("pre_processor", "post_processor", "evaluator", "visualizer")
_NO_PART_OF_THE_MODEL = tuple(f"{name}." for name in _COMPONENTS)
_BUFFERS = ("_image_threshold", "_pixel_threshold", "image_min", "image_max", "pixel_min", "pixel_max")
# Enumerations of anomalib that are arguments of its classes: in its checkpoints stand their names, and a word.
_ENUMERATIONS = (
    "anomalib.PrecisionType",
    "anomalib.models.components.classification.kde_classifier.FeatureScalingMethod",
    "anomalib.models.image.efficient_ad.torch_model.EfficientAdModelSize",
    "anomalib.models.image.reverse_distillation.anomaly_map.AnomalyMapGenerationMode",
)
# The names by which numpy's arrays and numbers, which schedulers of learning rates contain, have been pickled.
_NUMPY = ("numpy.core.multiarray", "numpy._core.multiarray")
# A table of names larger than this is no checkpoint's: those of anomalib's largest model take 200 kB.
_NAMES_AT_MOST = 64 * 2**20
# Of what `native` reads, what stands in the table of names and in that of no other model.
_NATIVE = (
    (b"model.memory_bank", b"coreset_sampling_ratio"),
    (b"model.gaussian.inv_covariance", b"n_features"),
)
# How alike the arguments of a model of another version must be: versions differ by one or two.
_ALIKE = 0.6
_WHERE = "anomalib leaves its checkpoints in results/MODEL/DATA/…/weights/lightning/model.ckpt."


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """A model of anomalib as data, of a Lightning .ckpt, of an exported .pt, or just trained.

    model:  its name in anomalib: "patchcore".
    state:  tensors by the names of the Lightning module, without those of its evaluator and post-processor.
    hyper_parameters: its constructor's arguments, JSON values.
    transform: tree of class_path and init_args of the pre-processor's transform; None where there is none.
    postprocessing: thresholds and normalisation.
    origin: for the run's record: {"file", "sha256", "format"}; {"trained_by"} of one that was trained just now. With
        "doubt", a sentence, where the file leaves open what was meant.
    """

    model: str
    state: Mapping[str, torch.Tensor]
    hyper_parameters: Mapping[str, Any]
    transform: Mapping[str, Any] | None
    postprocessing: Postprocessing
    origin: Mapping[str, Any] = field(default_factory=dict)

    def to_state(self) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        """Tensors and JSON facts from which `from_state` makes it again."""
        tensors = {key: value.detach().cpu().contiguous().clone() for key, value in self.state.items()}
        facts = {
            "kind": "checkpoint",
            "anomalib_model": self.model,
            "hyper_parameters": dict(self.hyper_parameters),
            "transform": None if self.transform is None else dict(self.transform),
            "postprocessing": self.postprocessing.facts(),
            "origin": dict(self.origin),
        }
        return tensors, facts

    @classmethod
    def from_state(cls, tensors: Mapping[str, torch.Tensor], facts: Mapping[str, Any]) -> Checkpoint:
        from uadctl.models.anomalib.preprocessing import Postprocessing

        return cls(
            model=facts["anomalib_model"],
            state=tensors,
            hyper_parameters=facts["hyper_parameters"],
            transform=facts["transform"],
            postprocessing=Postprocessing(**facts["postprocessing"]),
            origin=facts["origin"],
        )


def format_of(path: str | Path) -> Format:
    """What kind of file this is, by its name. Raises SpecError for another: it lists those that can be."""
    if Path(path).is_dir():
        raise SpecError(f"{path}: is a folder, expected a file", help="anomalib leaves weights/lightning/model.ckpt")
    suffix = Path(path).suffix.lower()
    if suffix not in _SUFFIXES:
        raise SpecError(
            f"{path}: not the name of a file that anomalib writes",
            help="Expected: a checkpoint (.ckpt), or an exported model (.pt, .onnx, .xml with its .bin).",
        )
    return _SUFFIXES[suffix]


def looks_native(path: str | Path) -> bool:
    """Whether a file may be a .ckpt of PatchCore or PaDiM: by the names of its tensors, without importing torch."""
    try:
        with zipfile.ZipFile(path) as archive:
            info = next((i for i in archive.infolist() if i.filename.endswith("/data.pkl")), None)
            names = b"" if info is None or info.file_size > _NAMES_AT_MOST else archive.read(info)
    except (OSError, zipfile.BadZipFile, zipfile.LargeZipFile, EOFError, ValueError, RuntimeError, NotImplementedError):
        return False
    return any(all(word in names for word in words) for words in _NATIVE)


def read_checkpoint(path: str | Path, *, trusted: bool = False) -> Checkpoint:
    """Read a .ckpt or .pt.

    A .ckpt of anomalib 2.7 or later is read with torch's restricted loader, which runs no code of the file; so is an
    older one of a model with anomalib's own pre- and post-processor. Others and every .pt are pickles, which run code
    when they are loaded: they are read only if `trusted`, and need anomalib.

    Raises DataError for a file that is absent, damaged or no checkpoint of anomalib; WeightsError for one that would
    have to be trusted; BackendMissing.
    """
    from uadctl.features.download import sha256_of

    file = _file(path)
    code = _code_in(file, path)
    if code and not any(name.partition(".")[0] == "anomalib" for name in code):
        raise _foreign(path, f"it contains {_listed(code)}")
    if code and not trusted:
        raise WeightsError(
            f"{path}: loading this file would run code that lies in it: it is a pickle of {_listed(code)}",
            help="If you trust whoever made it: --trust-checkpoint (in Python trust_checkpoint=True).\n"
            "Checkpoints (.ckpt) of anomalib 2.7 and later are read without running code.",
        )
    content = _run(file, path) if code else _read(file, path)
    origin = {"file": file.name, "sha256": sha256_of(file), "format": format_of(path)}
    module = content.get("model") if isinstance(content, Mapping) else None
    if code and module is not None and hasattr(module, "state_dict"):
        from uadctl.models.anomalib.module import checkpoint_of

        return checkpoint_of(module, origin=origin)
    return _from_lightning(_lightning(content, path), path, origin)


def identify(hyper_parameters: Mapping[str, Any]) -> str | None:
    """Which of anomalib's models a checkpoint is of: the one with these arguments, of which there are no two.

    Versions of anomalib have added arguments and renamed a few, so the one with nearly these is taken if no other is as
    near. Those that are not offered are not known. hyper_parameters: with or without those for pre-processor,
    post-processor, evaluator and visualizer.
    """
    given = set(hyper_parameters) - set(_COMPONENTS)
    near: dict[str, float] = {}
    for model in anomalib_models():
        if not model.offered:
            continue  # the table holds no arguments of these
        takes = {p.name for p in model.parameters} - set(_COMPONENTS)
        if takes == given:
            return model.name
        near[model.name] = len(takes & given) / max(1, len(takes | given))
    best = max(near.values())
    found = [name for name, share in near.items() if share == best]
    return found[0] if len(found) == 1 and best >= _ALIKE else None


# -- files


def _file(path: str | Path) -> Path:
    """The file, if there is one that torch has written. DataError else."""
    file = Path(path)
    if file.is_dir():
        raise DataError(f"{path}: a folder, expected a file that anomalib wrote", help=_WHERE)
    if not file.is_file():
        raise DataError(f"{path}: no such file", help=_WHERE)
    if not file.stat().st_size:
        raise DataError(f"{path}: the file is empty", help=_WHERE)
    if not zipfile.is_zipfile(file):
        raise _foreign(path, "it is no archive as torch writes it, or not all of one")
    return file


def _foreign(path: str | Path, why: str) -> DataError:
    return DataError(f"{path}: no checkpoint of anomalib 2: {why}", help=_WHERE)


def _listed(names: Sequence[str]) -> str:
    """The first of some names, which a stranger may have written, and how many more there are."""
    said = ", ".join(name[:80] if name.isprintable() else ascii(name[:80]) for name in names[:2])
    return said if len(names) < 3 else f"{said} and {len(names) - 2} more"


class _Word(str):
    """A member of one of anomalib's enumerations: its value."""

    __slots__ = ()


def _safe() -> list[Any]:
    """What the restricted loader may make besides tensors and plain values."""
    import numpy as np

    scalar, array = np.float64(0).__reduce__()[0], np.empty(0).__reduce__()[0]
    return [
        *((_Word, name) for name in _ENUMERATIONS),
        *((scalar, f"{module}.scalar") for module in _NUMPY),
        *((array, f"{module}._reconstruct") for module in _NUMPY),
        *(np.dtype, np.ndarray, np.dtypes.Float64DType),
    ]


def _code_in(file: Path, path: str | Path) -> list[str]:
    """Classes and functions that loading the file would call, anomalib's first; nothing is loaded."""
    import torch

    with torch.serialization.safe_globals(_safe()):
        try:
            found = torch.serialization.get_unsafe_globals_in_checkpoint(file)
        except Exception as error:  # a stranger's bytes are taken apart, which may raise anything
            raise _foreign(path, f"torch cannot read it ({_first_line(error)})") from error
    return sorted(found, key=lambda name: (not name.startswith("anomalib."), name))


def _read(file: Path, path: str | Path) -> Any:
    """What is in the file, by the restricted loader; tensors are not read yet, an optimiser's never will be."""
    import torch

    with torch.serialization.safe_globals(_safe()):
        try:
            return torch.load(file, map_location="cpu", weights_only=True, mmap=True)
        except Exception as error:
            raise DataError(f"{path}: damaged, torch cannot load it ({_first_line(error)})", help=_WHERE) from error


def _run(file: Path, path: str | Path) -> Any:
    """What is in a file that the user trusts."""
    import torch

    package = require("anomalib", "anomalib", needed_by=str(path))
    try:
        import_anomalib()  # the pickle would, and leave traces
        return torch.load(file, map_location="cpu", weights_only=False)
    except Exception as error:  # code of the file runs
        raise DataError(
            f"{path}: anomalib {package.__version__} cannot load it ({_first_line(error)})",
            help="A pickle can be loaded by the version of anomalib that wrote it; a .ckpt by later ones too.",
        ) from error


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0][:200]}"


# -- what is in them


class _Lightning(NamedTuple):
    """The parts of a Lightning checkpoint that matter here."""

    state: Mapping[str, torch.Tensor]
    arguments: Mapping[str, Any]
    content: Mapping[str, Any]

    def component(self, name: str) -> Any:
        """What stood for one of _COMPONENTS: True, anomalib's own; False or None, nothing; or the object itself."""
        if self.describes_itself:
            return bool(self.content["anomalib_components_enabled"].get(name, True))
        return self.arguments.get(name, True)

    @property
    def describes_itself(self) -> bool:
        """Whether anomalib 2.7 or later wrote it, which writes down its parts; before, they were arguments."""
        return "anomalib_components_enabled" in self.content


def _lightning(content: Any, path: str | Path) -> _Lightning:
    if not isinstance(content, Mapping):
        raise _foreign(path, f"it contains {type(content).__name__}")
    state, arguments = content.get("state_dict"), content.get("hyper_parameters")
    if not isinstance(state, Mapping):
        raise _foreign(path, "it has no state_dict, which Lightning's have")
    ours = "anomalib_components_enabled" in content
    if ours and not isinstance(content["anomalib_components_enabled"], Mapping):
        raise DataError(f"{path}: damaged, its anomalib_components_enabled is no table")
    if not isinstance(arguments, Mapping) or not (ours or {"pre_processor", "post_processor"} <= set(arguments)):
        raise _foreign(path, "it is Lightning's, but of a model that is not anomalib's")
    return _Lightning(state, arguments, content)


def _from_lightning(found: _Lightning, path: str | Path, origin: Mapping[str, Any]) -> Checkpoint:
    import torch

    arguments = {str(name): value for name, value in found.arguments.items() if name not in _COMPONENTS}
    model = identify(arguments)
    if model is None:
        raise DataError(
            f"{path}: no model of anomalib that uadctl knows has its arguments: {_listed(sorted(arguments))}",
            help="A class of one's own on top of anomalib's cannot be told from its checkpoint.",
        )
    return Checkpoint(
        model=model,
        state={
            # Read now: who writes over a file that is mapped into memory ends the process that looks at it.
            str(key): value.clone(memory_format=torch.contiguous_format)
            for key, value in found.state.items()
            if isinstance(value, torch.Tensor) and not str(key).startswith(_NO_PART_OF_THE_MODEL)
        },
        hyper_parameters={name: _plain(value, f"{path}: its {name}") for name, value in arguments.items()},
        transform=_transform(found, model, path),
        postprocessing=_postprocessing(found, path),
        origin={**origin, **_doubt(found, model)},
    )


def _doubt(found: _Lightning, model: str) -> dict[str, str]:
    """What cannot be known of a file, for its origin."""
    if found.describes_itself or model != "patchcore" or found.component("pre_processor") is not True:
        return {}
    return {
        "doubt": "written by anomalib 2.0 to 2.6, which do not say how images are prepared: taken is a resize to "
        "256x256 as from 2.1 on; if 2.0 wrote it, a centre crop of 224x224 followed, and its scores and maps differ"
    }


def _transform(found: _Lightning, model: str, path: str | Path) -> Mapping[str, Any] | None:
    """The tree of the pre-processor's transform; None where it was switched off.

    BackendMissing where only anomalib knows it, DataError where the file does not say it.
    """
    given = found.component("pre_processor")
    if given is None or given is False:
        return None
    if found.describes_itself:
        return _described(found.content.get("anomalib_pre_processor_config"), path)
    if given is True and model in _USUAL:
        return _USUAL[model]
    # Before 2.7, an own transform was a live object, and the class's own was not written down at all.
    require("anomalib", "anomalib", needed_by=str(path))
    import_anomalib()
    from anomalib.pre_processing.utils.spec import transform_to_spec

    live = load_target(anomalib_model(model).target).configure_pre_processor() if given is True else given
    try:
        tree = transform_to_spec(live.transform)
    except (AttributeError, ValueError) as error:
        raise DataError(
            f"{path}: its pre-processor's transform cannot be written down ({_first_line(error)})", help=_WAY_OUT
        ) from error
    return None if tree is None else dict(tree)


_WAY_OUT = (
    "In anomalib, export the model as ONNX, where the transform is inside, or give its pre-processor a transform of "
    "torchvision's Resize, CenterCrop and Normalize and save it again."
)


def _described(config: Any, path: str | Path) -> Mapping[str, Any]:
    """The tree in what a file of anomalib 2.7 says of its pre-processor. DataError where it says none."""
    if not isinstance(config, Mapping):
        raise DataError(
            f"{path}: it has a pre-processor, but no anomalib_pre_processor_config, which says what that does",
            help=_WAY_OUT,
        )
    tree = config.get("transform")
    if tree is None:
        # anomalib writes nothing down for a transform that is not registered with it.
        raise DataError(
            f"{path}: it has a pre-processor whose transform anomalib did not write down: it may be one of one's own",
            help=_WAY_OUT,
        )
    if not isinstance(tree, Mapping):
        raise DataError(f"{path}: damaged, its pre-processor's transform is {type(tree).__name__}, expected a tree")
    return tree


def _postprocessing(found: _Lightning, path: str | Path) -> Postprocessing:
    from uadctl.models.anomalib.preprocessing import Postprocessing

    given = found.component("post_processor")
    values = [found.state.get(f"post_processor.{name}") for name in _BUFFERS]
    if given is None or given is False or all(value is None for value in values):
        return Postprocessing(normalises=False, thresholds=False)
    config = found.content.get("anomalib_post_processor_config")

    def setting(name: str, default: Any) -> Any:
        """Of the file, or of the live object that older files have."""
        value = config.get(name) if isinstance(config, Mapping) else getattr(given, name, None)
        return default if value is None else value

    def sensitivity(name: str) -> float:
        value = setting(name, 0.5)
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise DataError(f"{path}: its {name} is {str(value)[:80]!r}, expected a number")
        return float(value)

    image, pixel, image_min, image_max, pixel_min, pixel_max = (
        _number(value, f"{path}: its post_processor.{name}") for name, value in zip(_BUFFERS, values, strict=True)
    )
    return Postprocessing(
        image_threshold=image,
        pixel_threshold=pixel,
        image_min=image_min,
        image_max=image_max,
        pixel_min=pixel_min,
        pixel_max=pixel_max,
        normalises=bool(setting("enable_normalization", True)),
        thresholds=bool(setting("enable_thresholding", True)),
        matches=bool(setting("enable_threshold_matching", True)),
        image_sensitivity=sensitivity("image_sensitivity"),
        pixel_sensitivity=sensitivity("pixel_sensitivity"),
    )


def _number(value: Any, name: str) -> float | None:
    """A buffer of the post-processor; None for one that was never set, which is NaN. DataError, beginning with `name`,
    for what is no number."""
    import torch

    if value is not None and not (isinstance(value, torch.Tensor) and value.numel() == 1 and not value.is_complex()):
        found = f"of {tuple(value.shape)}" if isinstance(value, torch.Tensor) else type(value).__name__
        raise DataError(f"{name} is {found}, expected one number")
    number = math.nan if value is None else float(value)
    return None if math.isnan(number) else number


def _plain(value: Any, name: str) -> Any:
    """An argument as a JSON value. DataError, beginning with `name`, for one that is none."""
    if isinstance(value, Enum):
        return _plain(value.value, name)
    if hasattr(value, "tolist"):  # numpy's numbers, some of which are Python's as well, and tensors
        return value.tolist()
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, str | PurePath):
        return str(value)
    if isinstance(value, Mapping):
        return {str(key): _plain(one, name) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one, name) for one in value]
    raise DataError(f"{name} is an object of {type(value).__module__}.{type(value).__qualname__}, not a plain value")


def _usual_transform() -> dict[str, Any]:
    """What the classes read by `native` do to images unless told otherwise.

    Of anomalib 2.0.0's PatchCore that is not so: a centre crop of 224x224 came after this resize. Its files cannot be
    told from those of 2.1 to 2.6, see `_doubt`.
    """
    steps = [
        ("Resize", {"size": [256, 256], "interpolation": "bilinear", "max_size": None, "antialias": True}),
        ("Normalize", {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225], "inplace": False}),
    ]
    tree = [{"class_path": f"torchvision.transforms.v2.{name}", "init_args": given} for name, given in steps]
    return {"class_path": "torchvision.transforms.v2.Compose", "init_args": {"transforms": tree}}


# For files from before 2.7 only: later ones say themselves what is done.
_USUAL = {"patchcore": _usual_transform(), "padim": _usual_transform()}
