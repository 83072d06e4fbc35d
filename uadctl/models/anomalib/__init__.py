"""Models of anomalib (Akcay et al., "Anomalib: A Deep Learning Library for Anomaly Detection", ICIP 2022).

Any file that anomalib 2.x writes can be used: a Lightning .ckpt, an exported .pt, ONNX, OpenVINO; and any of its models
can be trained. PatchCore and PaDiM checkpoints, ONNX and OpenVINO files need no anomalib. There is a class for each of
anomalib's, named as there; `AnomalibCheckpoint` takes a checkpoint of any.
"""

from __future__ import annotations

import functools
import inspect
import shutil
import tempfile
import textwrap
import warnings
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, Self, cast

from uadctl.atomic import replacing
from uadctl.errors import ImageError, ParamError, Problem, RunError
from uadctl.models import base
from uadctl.progress import Progress, Silent
from uadctl.records import Prediction, Size
from uadctl.spec.optional import optional_import, require
from uadctl.spec.signature import AUTO_PARAMS, CHECKPOINT, OF_CATEGORY, check_checkpoint, checked_trainer
from uadctl.spec.wrapped import AnomalibModel, anomalib_models

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from uadctl.models.anomalib.predictor import Predictor, Raw
    from uadctl.models.anomalib.preprocessing import Inference

__all__ = ["AnomalibCheckpoint", "Inferencer"]

# A calibration image whose score is this share of the largest one or less was probably learned.
_NEAR_ZERO = 1e-3
# Models all of whose networks start from random weights by design.
_NO_NETWORK = ("draem", "ganomaly")


@dataclass(frozen=True, slots=True)
class Trained:
    """What is known of a training by uadctl, beyond what anomalib's checkpoint holds.

    weights: as `weights_state` was. validation_images: how many good ones it was watched on; 0: none but its own.
    """

    weights: str
    validation_images: int


class Inferencer(Protocol):
    """What may be handed in in place of a file: an inferencer of anomalib is one."""

    def predict(self, image: Any, /) -> Any:
        """A mapping or an object with pred_score and anomaly_map, of a path or an (H, W, 3) RGB uint8 array."""
        ...


class AnomalibCheckpoint(base.FromPredictions):
    """A model that anomalib has trained. It does not learn any more: `fit` takes good images for its threshold only.

    checkpoint_path: file that anomalib wrote: model.ckpt, model.pt, model.onnx, model.xml (with its .bin).
    inference: which of anomalib's two ways images go. "training" is its Engine's, which resizes with antialiasing;
        "exported" that of its exported files, which resize without. ONNX and OpenVINO files have only the latter.
    contamination: in (0, 0.5); `threshold_` is the (1 - contamination) quantile of the scores that `fit` is given.
        Only `predict` uses it; runs have their own calibrated threshold.
    device: "auto", "cpu", "cuda", "cuda:N" or "mps".
    batch_size: images that pass through the model together; "auto" is 16.
    trust_checkpoint: read files that run code while they are loaded, such as every .pt.
    inferencer: an object with predict(image) in place of the file's model; anomalib is then never imported.

    Images are paths or (H, W, 3) RGB uint8 arrays of any size, also of different sizes; maps have the size of the
    image, NaN where the model's crop does not look; those of an inferencer come as it gives them. Scores are raw, not
    normalised, wherever the file offers them.
    """

    # The model that must be in the file; None: any.
    wrapped: AnomalibModel | None = None

    def __init__(
        self,
        *,
        checkpoint_path: str,
        inference: Literal["training", "exported"] = "training",
        contamination: float = 0.1,
        device: str = "cpu",
        batch_size: int | Literal["auto"] = 16,
        trust_checkpoint: bool = False,
        inferencer: Inferencer | None = None,
    ) -> None:
        wrong = [
            message
            for holds, message in (
                (inference in ("training", "exported"), f'inference (={inference!r}) must be "training" or "exported"'),
                (0 < contamination < 0.5, f"contamination (={contamination}) must lie in (0, 0.5)"),
                (
                    batch_size == "auto" or (isinstance(batch_size, int) and batch_size >= 1),
                    f'batch_size (={batch_size!r}) must be at least 1, or "auto"',
                ),
            )
            if not holds
        ]
        if wrong:
            raise ParamError([Problem(message) for message in wrong])
        self.checkpoint_path: str | None = checkpoint_path
        self.inference: Inference = inference
        self.contamination = contamination
        self.device = device
        self.batch_size = batch_size
        self._at_once = 16 if batch_size == "auto" else batch_size
        self.trust_checkpoint = trust_checkpoint
        self.inferencer = inferencer
        self.threshold_: float | None = None
        self.training_: Trained | None = None
        self._predictor: Predictor | None = None
        if inferencer is None and checkpoint_path:
            self._check_backend(checkpoint_path)

    def _check_backend(self, path: str) -> None:
        """Raise BackendMissing where this file cannot be read without anomalib, which is not there."""
        from uadctl.models.anomalib.checkpoint import format_of, looks_native

        if format_of(path) in ("onnx", "openvino") or optional_import("anomalib")[0] is not None:
            return
        if not looks_native(path):
            require("anomalib", "anomalib", needed_by=path)

    # -- what it is

    @property
    def comes_trained(self) -> bool:
        return True

    @property
    def scores_are_cut(self) -> bool:
        """Whether anomalib's normalisation, inside the file, has cut scores to 0..1. False before `load`."""
        return self._predictor is not None and not self._predictor.is_raw

    @property
    def stride(self) -> int:
        """1: images come as they are in the file."""
        return 1

    @property
    def images_per_batch(self) -> int:
        return self._at_once

    def take_at_once(self, images: int) -> None:
        self._at_once = images

    @property
    def own_resizing(self) -> str | None:
        """Images are given as they are in the file: the model's own pre-processor resizes them."""
        return "resizes images by its own pre-processor"

    @property
    def is_fitted(self) -> bool:
        return self.inferencer is not None or self._predictor is not None

    def weights_state(self) -> str:
        """ "path": the network comes with the checkpoint."""
        return "path"

    def doubts(self) -> list[str]:
        """What makes its scores less than they seem; of a file, once it has been read, what its version did wrong."""
        if self._predictor is None:
            return super().doubts()
        doubt = (self._predictor.facts().get("origin") or {}).get("doubt")
        cut = (
            "anomalib's normalisation, inside the file, cuts scores and maps to 0..1, so that many are equal: evaluate "
            "the .ckpt, or export without it (enable_normalization=False)"
        )
        return [*super().doubts(), *([doubt] if doubt else []), *([cut] if self.scores_are_cut else [])]

    def prepare(self, *, download: bool = True) -> None:
        """Read the checkpoint, before hours of work are spent in front of it; without `download`, look at the device.

        A model that a run keeps comes with everything: the file need not exist any more then.
        """
        from uadctl.features.backbone import resolve_device

        resolve_device(self.device)
        if download:
            self.load()

    def load(self) -> Self:
        """Read the checkpoint, if there is one and that has not been done."""
        if self.inferencer is None:
            self._loaded()
        return self

    def _loaded(self) -> Predictor:
        from uadctl.features.backbone import resolve_device
        from uadctl.models.anomalib.opening import open_file

        if self._predictor is None:
            if not self.checkpoint_path:
                raise RuntimeError(f"{type(self).__name__} is not fitted; call fit(images) first")
            self._hold(
                open_file(
                    self.checkpoint_path,
                    model=None if self.wrapped is None else self.wrapped.name,
                    trusted=self.trust_checkpoint,
                    device=resolve_device(self.device),
                )
            )
        return cast("Predictor", self._predictor)

    def _hold(self, predictor: Predictor) -> None:
        if self.inference not in predictor.inferences and self.inference != "training":
            raise ParamError(f'inference (="{self.inference}") is not what this file can do')
        self._predictor = predictor

    @property
    def predictor(self) -> Predictor:
        """The model itself: raw predictions at its own resolution, its pre- and post-processing."""
        return self._loaded()

    @property
    def used_inference(self) -> Inference:
        """The way images go: the one asked for, or the only one that the file has."""
        offered = self._loaded().inferences
        return self.inference if self.inference in offered else offered[0]

    # -- calibrating

    def fit(
        self,
        images: Iterable[base.Image],
        *,
        left_out: Callable[[Prediction], None] | None = None,
        threshold: bool = True,
        progress: Progress | None = None,
    ) -> Self:
        """Set `threshold_` from good images that the model has not learned; None if nobody will ask for it.

        Warns (UserWarning) where scores near 0 say that it has. Raises ValueError without images, DataError naming a
        broken one and what `load` raises.
        """
        del left_out, progress  # nothing is learned, so nothing can be left out
        self.threshold_ = None
        scores = self.decision_function(images)
        if not len(scores):
            raise ValueError(f"{type(self).__name__} needs at least one image for its threshold, found none")
        memorised = [] if self.scores_are_cut else base.known_by_heart(scores, scores.tolist())
        if memorised:
            warnings.warn(base.memorised_words(len(memorised), len(scores)), UserWarning, stacklevel=2)
        self.threshold_ = self.threshold_of(scores) if threshold else None
        return self

    # -- predicting

    def predict_batch(self, images: Sequence[NDArray[np.uint8]]) -> list[Prediction]:
        """Score and (H, W) map of each image, higher is more anomalous; NaN in the map where a crop cut."""
        from uadctl.imaging.geometry import Geometry
        from uadctl.models.anomalib.outputs import map_of, score_of

        out = []
        if self.inferencer is not None:
            for image in images:
                said = self.inferencer.predict(image)
                view = Geometry(size=None).plan(Size(*image.shape[:2]))
                out.append(Prediction(_finite(score_of(said)), view.back(map_of(said))))
            return out
        for image, raw in zip(images, self.raw_predictions(images), strict=True):
            size = Size(*image.shape[:2])
            preprocessing = self.predictor.preprocessing
            view = Geometry(size=None).plan(size) if preprocessing is None else preprocessing.view(size)
            out.append(Prediction(_finite(raw.score), None if raw.map is None else view.back(raw.map)))
        return out

    def raw_predictions(self, images: Sequence[NDArray[np.uint8]], *, inference: Inference | None = None) -> list[Raw]:
        """Scores and maps at the model's own resolution. inference: which way images go; None: `used_inference`."""
        return self._loaded().predict(images, inference=inference or self.used_inference)

    def decision_function(self, images: Iterable[base.Image]) -> NDArray[np.float64]:
        """(n,) continuous scores; higher is more anomalous."""
        import numpy as np

        from uadctl.models.anomalib.outputs import score_of

        if self.inferencer is None:
            self.load()
            return super().decision_function(images)
        return np.array([score_of(self.inferencer.predict(image)) for image in images], dtype=np.float64)

    def predict_anomaly_map(self, images: Iterable[base.Image]) -> NDArray[np.float32]:
        """(n, H, W) float32 maps of images of one size; ValueError if sizes differ, or where there are no maps."""
        from uadctl.models.anomalib.outputs import map_of

        if self.inferencer is None:
            self.load()
            return super().predict_anomaly_map(images)
        return base.stacked([map_of(self.inferencer.predict(image)) for image in images])

    def predict(self, images: Iterable[base.Image]) -> NDArray[np.int64]:
        """(n,) labels: 1 where the score reaches `threshold_`. RuntimeError before `fit`."""
        import numpy as np

        if self.threshold_ is None:
            raise RuntimeError(f"{type(self).__name__} is not fitted; call fit(images) first")
        return (self.decision_function(images) >= self.threshold_).astype(np.int64)

    # -- keeping

    def state(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """The whole model: tensors and JSON facts; `restore` needs no other file."""
        tensors, facts = self._loaded().state()
        training = None if self.training_ is None else asdict(self.training_)
        return tensors, {
            **facts,
            "inference": self.used_inference,
            "threshold": self.threshold_,
            "training": training,
        }

    def restore(self, tensors: dict[str, Any], facts: dict[str, Any]) -> Self:
        """Take over what `state` gave; needs no other file, and no trust."""
        from uadctl.features.backbone import resolve_device
        from uadctl.models.anomalib.opening import restore

        self._hold(restore(tensors, facts, device=resolve_device(self.device)))
        self.threshold_ = facts["threshold"]
        training = facts.get("training")
        self.training_ = None if training is None else Trained(**training)
        return self

    def facts(self) -> dict[str, Any]:
        """anomalib's model, its file, which way images go, its own thresholds and normalisation.

        Of one that was trained here also with what weights, and on how many validation images.
        """
        predictor = self._loaded()
        after = predictor.postprocessing
        return {
            "anomalib_model": predictor.model,
            "inference": self.used_inference,
            "scores": "raw" if predictor.is_raw else "normalised",
            "anomalib_postprocessing": None if after is None else after.facts(),
            **predictor.facts(),
            **({} if self.training_ is None else asdict(self.training_)),
        }

    def keep(self, folder: Path) -> None:
        """Nothing: the checkpoint is the user's file."""
        del folder


class _Model(AnomalibCheckpoint):
    """What the classes named as anomalib's have in common: a checkpoint of that class, or training.

    params: of anomalib's constructor.
    """

    wrapped: AnomalibModel

    def __init__(
        self,
        params: Mapping[str, Any],
        *,
        image_size: tuple[int, int] | None = None,
        checkpoint_path: str | None = None,
        inference: Literal["training", "exported"] = "training",
        contamination: float = 0.1,
        device: str = "cpu",
        seed: int = 0,
        batch_size: int | Literal["auto"] = 16,
        trust_checkpoint: bool = False,
        trainer: Mapping[str, Any] | None = None,
        inferencer: Inferencer | None = None,
    ) -> None:
        super().__init__(
            checkpoint_path=checkpoint_path or "",
            inference=inference,
            contamination=contamination,
            device=device,
            batch_size=batch_size,
            trust_checkpoint=trust_checkpoint,
            inferencer=inferencer,
        )
        self.params = dict(params)
        self.image_size = image_size
        self.seed = seed
        name = f"vision_{self.wrapped.name}_anomalib"
        if trainer is not None:
            check_checkpoint(name, {CHECKPOINT: checkpoint_path}, has_trainer=True)
        self.trainer = None if trainer is None else checked_trainer(name, trainer)
        self._folder: Path | None = None
        wrong = []
        if image_size is not None and min(image_size) < 1:
            wrong.append(f"image_size (={list(image_size)}) must be two positive numbers, height and width")
        if checkpoint_path:
            useless = {offered_name(p.name): params[p.name] for p in self.wrapped.parameters if p.name in params}
            useless |= {} if image_size is None else {"image_size": image_size}
            wrong += [
                f"{given} (={_said(value)}) must not be given: a checkpoint has its own"
                for given, value in useless.items()
            ]
        if wrong:
            raise ParamError([Problem(message) for message in wrong])
        if trainer is not None and inferencer is None:
            require("anomalib", "anomalib", needed_by=f"training {name}")

    @property
    def comes_trained(self) -> bool:
        return self.trainer is None

    def weights_state(self) -> str:
        """ "path" with a checkpoint. For training "random" if that is asked for, "none" if there is no network whose
        weights could be fetched, else "network".
        """
        if self.comes_trained:
            return "path"
        if self.params.get("pre_trained") is False:
            return "random"
        return "none" if self.wrapped.name in _NO_NETWORK else "network"

    def doubts(self) -> list[str]:
        """Also that weights are random, in terms of anomalib's parameter."""
        found = super().doubts()
        if self.weights_state() != "random":
            return found
        return ["pre_trained = false: the backbone's weights are random, the scores mean little", *found[1:]]

    def prepare(self, *, download: bool = True) -> None:
        """Have the checkpoint, or everything that training needs beside images; without `download` say what is missing
        of what anomalib alone offers, whose own weights and images are never downloaded.

        Raises WeightsError, which says which file goes where, BackendMissing, DataError, SpecError.
        """
        if self.comes_trained:
            super().prepare(download=download)
            return
        from uadctl.features.backbone import resolve_device
        from uadctl.models.anomalib.training import prepare_training

        resolve_device(self.device)
        prepare_training(self.wrapped, self._training_params(), download=download)

    def _training_params(self) -> dict[str, Any]:
        return {**self.params, "image_size": self.image_size}

    def fit(
        self,
        images: Iterable[base.Image],
        *,
        left_out: Callable[[Prediction], None] | None = None,
        threshold: bool = True,
        progress: Progress | None = None,
        validation: Iterable[base.Image] | None = None,
        warn: Callable[[str], None] | None = None,
    ) -> Self:
        """Train with anomalib's Engine, if there is a `trainer`; else as for any checkpoint.

        validation: good images that training watches its progress on and does not learn from. Then `threshold_` comes
            from them; without them from the training images, too low.
        warn: is told of what the user should know of the training; None: `progress` is.
        """
        if self.comes_trained:
            return super().fit(images, left_out=left_out, threshold=threshold, progress=progress)
        from uadctl.features.backbone import resolve_device
        from uadctl.imaging.files import read_image
        from uadctl.models.anomalib.opening import open_checkpoint
        from uadctl.models.anomalib.training import train

        progress = progress or Silent()
        self._predictor, self.threshold_, self.training_ = None, None, None
        device = resolve_device(self.device)
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
        self._folder = _folder_for_training()
        # It goes with the detector: `keep` may still want what lies there.
        weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)
        held = list(validation or ()) if threshold else validation or ()
        learned = list(images) if threshold and not held else images
        watched = 0

        def watching() -> Iterator[NDArray[np.uint8]]:
            nonlocal watched
            for image in held:
                yield read_image(image)
                watched += 1

        checkpoint = train(
            self.wrapped,
            self._training_params(),
            self.trainer or {},
            (read_image(image) for image in learned),
            validation=watching(),
            folder=self._folder,
            device=device,
            seed=self.seed,
            progress=progress,
            warn=warn or progress.warn,
        )
        self._hold(open_checkpoint(checkpoint, device=device))
        self.training_ = Trained(self.weights_state(), watched)
        if threshold:
            self.threshold_ = self.threshold_of(self.decision_function(held or learned))
        return self

    def keep(self, folder: Path) -> None:
        """Write the model.ckpt that anomalib itself would have left, for use with anomalib."""
        written = None if self._folder is None else self._folder / "model.ckpt"
        if written is not None and written.is_file():
            with replacing(folder / "model.ckpt") as temporary:
                shutil.copyfile(written, temporary)


def _folder_for_training() -> Path:
    """Where images are while training, as many as there are. RunError where there cannot be one."""
    try:
        return Path(tempfile.mkdtemp(prefix="uadctl-"))
    except OSError as error:
        raise RunError(
            f"there is no folder for the images of a training: {error.strerror or error}",
            help="Name one with room for them: TMPDIR=DIR",
        ) from error


def _finite(score: float) -> float:
    """The score. ImageError for one that is no number."""
    if score != score or score in (float("inf"), float("-inf")):
        raise ImageError(f"the model gave the score {score}")
    return score


# -- a class for each of anomalib's


def _default(param: Any) -> Any:
    return tuple(param.default) if isinstance(param.default, list) else param.default


def _said(value: Any) -> str:
    return repr(list(value) if isinstance(value, tuple) else value)


def _own_parameters() -> dict[str, inspect.Parameter]:
    every = inspect.signature(_Model.__init__).parameters.values()
    return {p.name: p for p in every if p.kind is inspect.Parameter.KEYWORD_ONLY}


def __getattr__(name: str) -> type[_Model]:
    """The detector with this class name in anomalib."""
    found = _class_of(name)
    if found is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return found


@functools.cache
def _class_of(class_name: str) -> type[_Model] | None:
    model = next((m for m in anomalib_models() if m.class_name == class_name), None)
    if model is None:
        return None
    own = _own_parameters()
    theirs = {offered_name(p.name): p for p in model.parameters if p.kept is None}
    signature = inspect.Signature(
        [
            *(
                inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=_default(p), annotation=p.type)
                for name, p in theirs.items()
            ),
            *own.values(),
        ]
    )

    def construct(self: _Model, **given: Any) -> None:
        signature.bind(**given)
        params = {theirs[name].name: value for name, value in given.items() if name in theirs}
        _Model.__init__(self, params, **{name: value for name, value in given.items() if name in own})

    return type(
        class_name,
        (_Model,),
        {
            "__init__": construct,
            "__signature__": signature,
            "__doc__": _documentation(model, theirs),
            "__module__": __name__,
            "__qualname__": class_name,
            "wrapped": model,
        },
    )


def offered_name(name: str) -> str:
    """A parameter's name here: anomalib's, behind "model_" where uadctl's detectors mean something else by it.

    That is so of what a run or a category gives to every detector which takes it, too.
    """
    return f"model_{name}" if name in {*_own_parameters(), *AUTO_PARAMS, *OF_CATEGORY} else name


def _documentation(model: AnomalibModel, theirs: Mapping[str, Any]) -> str:
    said = [f"{name}: {p.doc or 'anomalib' + chr(39) + 's parameter of this name'}." for name, p in theirs.items()]
    wrapped = [textwrap.fill(line, 120, subsequent_indent="    ") for line in said]
    return "\n".join([model.summary, "", f"{model.paper}.", "", *wrapped, _DOC])


_DOC = """\
image_size: for training: height and width to which images are brought; none given: the model's own.
checkpoint_path: file of this model that anomalib wrote: model.ckpt, model.pt, model.onnx, model.xml (with its .bin);
    none for training.
inference: which of anomalib's two ways images go: "training", with antialiasing, or "exported", without.
contamination: in (0, 0.5); `threshold_` is the (1 - contamination) quantile of good images' scores. Only `predict` uses
    it; runs have their own calibrated threshold.
device: "auto", "cpu", "cuda", "cuda:N" or "mps".
seed: of training.
batch_size: images that are scored together; "auto" is 16. Training has its own, in [model.trainer].
trust_checkpoint: read files that run code while they are loaded, such as every .pt.
trainer: the table [model.trainer]: how to train; none given: a checkpoint is used.
inferencer: an object with predict(image) in place of the file's model.

See `AnomalibCheckpoint`. Parameters of the model are for training only: a checkpoint has its own."""
