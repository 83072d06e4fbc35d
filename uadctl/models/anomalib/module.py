"""Models of anomalib run by anomalib's own classes, filled from a checkpoint: nothing is downloaded for that."""

from __future__ import annotations

import inspect
import math
import tempfile
import warnings
from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from uadctl.errors import DataError, RunError, UadctlError
from uadctl.models.anomalib.checkpoint import Checkpoint
from uadctl.models.anomalib.offline import stretch_in_use, stretched_by, without_downloads
from uadctl.models.anomalib.outputs import as_map
from uadctl.models.anomalib.predictor import Raw
from uadctl.models.anomalib.preprocessing import Inference, Postprocessing, Preprocessing
from uadctl.models.anomalib.traces import as_it_was, import_anomalib
from uadctl.spec.optional import require
from uadctl.spec.registry import load_target
from uadctl.spec.wrapped import AnomalibModel, anomalib_model, anomalib_models

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

    from uadctl.models.anomalib.predictor import Predictor

# Parts of a module that have no say in a raw prediction, nor in whether a checkpoint fits.
_COMPONENTS = ("pre_processor", "post_processor", "evaluator", "visualizer")
_NO_PART_OF_THE_MODEL = (
    *(f"{name}." for name in _COMPONENTS),
    *("image_metrics.", "pixel_metrics.", "normalization_metrics.", "image_threshold.", "pixel_threshold."),
)
# Arguments for training only, which name folders that may be gone: what is given in their place. "": an empty folder.
_FOR_TRAINING_ONLY = {"dtd_dir": "", "anomaly_source_path": None, "few_shot_source": None}
# What comes of arguments that a class cannot do anything with.
_FAILURES = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    ImportError,
    LookupError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
)
# anomalib's own post-processors that are no more than the plain one.
_PLAIN_POST_PROCESSORS = ("PostProcessor", "OneClassPostProcessor")


def open_module(checkpoint: Checkpoint, *, device: str) -> Predictor:
    """The model of a checkpoint, built of its class without pretrained weights and filled with its tensors.

    Raises BackendMissing without anomalib, DataError where the tensors or the arguments do not fit the class.
    """
    preprocessing = Preprocessing.of(checkpoint.transform)
    needed_by = f"a checkpoint of anomalib's {checkpoint.model}"
    require("anomalib", "anomalib", needed_by=needed_by)
    if checkpoint.model == "winclip":
        require("open_clip", "clip", needed_by=needed_by)
    with as_it_was(), without_downloads():
        module = _built(checkpoint)
        stretch = stretch_in_use()
        _fill(module, checkpoint)
    return _Network(checkpoint, preprocessing, module.model.to(device).eval(), device, stretch)


def checkpoint_of(module: Any, *, origin: Mapping[str, Any] | None = None) -> Checkpoint:
    """A live module of anomalib, trained or unpickled, as data.

    Of a post-processor that is more than anomalib's plain one, what is not thresholds and normalisation is lost, such
    as the masks of MEBin, which has a threshold for each image; origin["post_processor"] then names it.

    Raises DataError for a class that uadctl does not know, and for arguments and transforms that are no plain values.
    """
    import torch

    model = _model_of(module)
    state = {
        key: value.detach().cpu()
        for key, value in module.state_dict().items()
        if isinstance(value, torch.Tensor) and not key.startswith(_NO_PART_OF_THE_MODEL)
    }
    after = module.post_processor
    named = {} if after is None or type(after).__name__ in _PLAIN_POST_PROCESSORS else {"post_processor": _name(after)}
    return Checkpoint(
        model=model.name,
        state=state,
        hyper_parameters={
            name: _plain(value, f"{model.class_name}'s {name}")
            for name, value in dict(module.hparams).items()
            if name not in _COMPONENTS
        },
        transform=_transform_of(module.pre_processor),
        postprocessing=_postprocessing_of(after),
        origin={**(origin or {}), **named},
    )


class _Network:
    """A torch model of anomalib that can be asked."""

    inferences: tuple[Inference, ...] = ("training", "exported")
    is_raw = True

    def __init__(
        self,
        checkpoint: Checkpoint,
        preprocessing: Preprocessing,
        network: torch.nn.Module,
        device: str,
        stretch: Callable[..., Any],
    ) -> None:
        """stretch: what vision transformers of timm stretch position embeddings with, as building left it."""
        self._stretch = stretch
        self._checkpoint = checkpoint
        self._network = network
        self._device = device
        self.model: str | None = checkpoint.model
        self.preprocessing = preprocessing
        self.postprocessing: Postprocessing | None = checkpoint.postprocessing

    def predict(self, images: Sequence[NDArray[np.uint8]], *, inference: Inference) -> list[Raw]:
        """Of (H, W, 3) RGB uint8 images; those of one size pass through the network together."""
        found: dict[int, Raw] = {}
        for numbers in alike(images):
            said = self._predict_alike([images[number] for number in numbers], inference)
            found.update(zip(numbers, said, strict=True))
        return [found[number] for number in range(len(images))]

    def _predict_alike(self, images: Sequence[NDArray[np.uint8]], inference: Inference) -> list[Raw]:
        import torch

        with torch.inference_mode(), warnings.catch_warnings():
            # AnomalyVFM asks for a precision that needs no casting.
            warnings.filterwarnings("ignore", "In CPU autocast, but the target dtype is not supported", UserWarning)
            x = self.preprocessing.apply(images, inference=inference, device=self._device)
            with stretched_by(self._stretch):
                said = self._network(x)
        # AnomalyVFM's network gives a plain pair, all others name what they give.
        score, field = (said.pred_score, said.anomaly_map) if hasattr(said, "pred_score") else said
        if score is None:
            score = field.amax(dim=(-2, -1))
        scores = score.float().cpu().numpy()
        if scores.size != len(images):
            raise RunError(f"{self.model}: scores of shape {scores.shape} for {len(images)} images, expected one each")
        maps = [None] * len(images) if field is None else [as_map(one) for one in field]
        return [Raw(float(s), m) for s, m in zip(scores.reshape(-1), maps, strict=True)]

    def state(self) -> tuple[dict[str, Any], dict[str, Any]]:
        return self._checkpoint.to_state()

    def facts(self) -> dict[str, Any]:
        import anomalib

        return {
            "computed_by": f"anomalib {anomalib.__version__}",
            "device": self._device,
            "origin": dict(self._checkpoint.origin),
        }


def class_of(model: AnomalibModel) -> Any:
    """anomalib's own class of this model. It takes seconds to import, whichever it is."""
    import_anomalib()
    return load_target(model.target)


def alike(images: Sequence[NDArray[Any]]) -> list[list[int]]:
    """The numbers of images of one size, for each size, in the order of their first ones."""
    groups: dict[tuple[int, ...], list[int]] = {}
    for number, image in enumerate(images):
        groups.setdefault(image.shape, []).append(number)
    return list(groups.values())


# -- from a checkpoint to a module


def _built(checkpoint: Checkpoint) -> Any:
    """A module of the checkpoint's class, with its arguments and random weights."""
    model = anomalib_model(checkpoint.model)
    made = class_of(model)
    with tempfile.TemporaryDirectory(prefix="uadctl-") as empty:
        try:
            return made(**_arguments(made, checkpoint, empty))
        except UadctlError:
            raise
        except _FAILURES as error:
            raise DataError(
                f"anomalib cannot build its {model.class_name} as the checkpoint's arguments say "
                f"({_first_line(error)}): {str(dict(checkpoint.hyper_parameters))[:300]}"
            ) from error


def _arguments(made: Any, checkpoint: Checkpoint, empty: str) -> dict[str, Any]:
    """What the class is to be built with. empty: a folder without files."""
    import anomalib
    from anomalib.pre_processing import PreProcessor
    from anomalib.pre_processing.utils.spec import spec_to_transform

    takes = inspect.signature(made).parameters
    unknown = sorted(set(checkpoint.hyper_parameters) - set(takes))
    if unknown:
        raise DataError(
            f"the checkpoint has arguments that {made.__name__} of anomalib {anomalib.__version__} does not take: "
            f"{', '.join(unknown)}",
            help="Install the version of anomalib that wrote it.",
        )
    given = {
        name: _as_default(value, takes[name].default)
        for name, value in checkpoint.hyper_parameters.items()
        if name not in _COMPONENTS
    }
    for name, instead in _FOR_TRAINING_ONLY.items():
        if name in takes:
            given[name] = empty if instead == "" else instead
    if "pre_trained" in takes:
        given["pre_trained"] = False
    given.update({name: False for name in _COMPONENTS if name in takes})
    # Images come transformed; but some networks take their size from the size that the transforms give.
    if checkpoint.transform is not None:
        tree: Any = dict(checkpoint.transform)
        given["pre_processor"] = PreProcessor(spec_to_transform(tree))
    return given


def _as_default(value: Any, default: Any) -> Any:
    """A JSON value as the type of the default that the constructor has."""
    if isinstance(default, Enum) and not isinstance(value, Enum):
        return type(default)(value)
    return tuple(value) if isinstance(default, tuple) and isinstance(value, list) else value


def _fill(module: Any, checkpoint: Checkpoint) -> None:
    """Put the checkpoint's tensors into the module: all of the model's, and in the precision of the file."""
    tensors = {key: value for key, value in checkpoint.state.items() if not key.startswith(_NO_PART_OF_THE_MODEL)}
    try:
        # Buffers whose size comes with training, such as a memory bank, take the size of the tensor: anomalib's
        # DynamicBufferMixin resizes them. Cloned, since what a network does to its tensors must not reach the file's.
        module.load_state_dict({key: value.clone() for key, value in tensors.items()}, strict=True, assign=True)
        if checkpoint.model == "winclip":
            _set_up_winclip(module)
    except UadctlError:
        raise
    except _FAILURES as error:
        first = next((line.strip() for line in str(error).splitlines()[1:] if line.strip()), str(error))
        raise DataError(
            f"the checkpoint's tensors do not fit anomalib's {type(module).__name__} as its arguments make it: "
            f"{first[:300]}"
        ) from error


def _set_up_winclip(module: Any) -> None:
    """What anomalib's hooks do when an Engine begins: the words, where the file was written before that."""
    network, kept = module.model, dict(module.model.named_buffers())
    if not kept["_text_embeddings"].numel():
        network.setup(module.class_name or "object")
    # That there were reference images says nothing but their embeddings.
    network.k_shot = module.k_shot if kept["_patch_embeddings"].numel() else 0


# -- from a module to a checkpoint


def _model_of(module: Any) -> AnomalibModel:
    known = {model.class_name: model for model in anomalib_models()}
    for kind in type(module).__mro__:
        if kind.__name__ in known and kind.__module__.partition(".")[0] == "anomalib":
            return known[kind.__name__]
    raise DataError(f"{_name(module)} is no model of anomalib's that uadctl knows")


def _transform_of(pre_processor: Any) -> dict[str, Any] | None:
    from anomalib.pre_processing.utils.spec import transform_to_spec

    if pre_processor is None:
        return None
    if not hasattr(pre_processor, "transform"):
        raise DataError(f"the model's pre-processor is {_name(pre_processor)}, whose transforms uadctl cannot see")
    try:
        tree = transform_to_spec(pre_processor.transform)
    except ValueError as error:
        raise DataError(f"the model's pre-processor cannot be written down: {error}") from error
    return None if tree is None else dict(tree)


def _postprocessing_of(post_processor: Any) -> Postprocessing:
    if post_processor is None or not hasattr(post_processor, "image_min"):
        return Postprocessing(normalises=False, thresholds=False)

    def number(name: str) -> float | None:
        value = float(getattr(post_processor, name))
        return None if math.isnan(value) else value

    return Postprocessing(
        image_threshold=number("_image_threshold"),
        pixel_threshold=number("_pixel_threshold"),
        image_min=number("image_min"),
        image_max=number("image_max"),
        pixel_min=number("pixel_min"),
        pixel_max=number("pixel_max"),
        normalises=bool(post_processor.enable_normalization),
        thresholds=bool(post_processor.enable_thresholding),
        matches=bool(post_processor.enable_threshold_matching),
        image_sensitivity=float(post_processor.image_sensitivity),
        pixel_sensitivity=float(post_processor.pixel_sensitivity),
    )


def _plain(value: Any, name: str) -> Any:
    """A constructor's argument as a JSON value. DataError for one that is none."""
    if isinstance(value, Enum):
        return _plain(value.value, name)
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, list | tuple):
        return [_plain(one, name) for one in value]
    if isinstance(value, Mapping):
        return {str(key): _plain(one, name) for key, one in value.items()}
    raise DataError(f"{name} is {_name(value)}, which cannot be written down: only plain values can")


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0][:200]}"


def _name(thing: object) -> str:
    return f"{type(thing).__module__}.{type(thing).__qualname__}"
