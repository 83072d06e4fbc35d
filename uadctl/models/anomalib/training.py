"""Training by anomalib's Engine, on images that uadctl read.

What a training draws, it draws from generators that are seeded just before the model is built, by Lightning's
`seed_everything(seed)`: the same calls of anomalib in the order seed, model, Engine, on the same images in the same
order, give the same model.
"""

from __future__ import annotations

import contextlib
import importlib
import math
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from uadctl.errors import RunError, SpecError, UadctlError, WeightsError
from uadctl.models.anomalib.traces import as_it_was
from uadctl.spec.optional import require

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

    from uadctl.models.anomalib.checkpoint import Checkpoint
    from uadctl.progress import Progress, Task
    from uadctl.spec.wrapped import AnomalibModel

CHECKPOINT = "model.ckpt"

# What numpy's seed can be.
_LARGEST_SEED = 2**32 - 1
# Models that cannot do without validation images, and why.
_NEED_VALIDATION = {"efficient_ad": "the quantiles that its maps are scaled by"}
# How anomalib's models say that parameters or images do not suit them.
_FAILURES = (ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The table [model.trainer], checked and filled by `uadctl.spec.signature`; `TrainerTable` says what keys mean."""

    batch_size: int
    max_epochs: int | None = None
    max_steps: int | None = None
    workers: int = 0
    patience: int | None = None


# -- the verbs


def prepare_training(model: AnomalibModel, params: Mapping[str, Any], *, download: bool = True) -> None:
    """Have everything ready that training needs beside images: anomalib, and the pretrained weights of its networks.

    params: of its constructor, and image_size. download: False looks for nothing that could be downloaded.
    Raises BackendMissing, WeightsError (which says which file goes where), SpecError.
    """
    from uadctl.models.anomalib.pretrained import at_hand, missing

    require("anomalib", "anomalib", needed_by=f"training vision_{model.name}_anomalib")
    problems = missing(model, params)
    if problems:
        raise WeightsError(problems)
    if download:
        with as_it_was(), at_hand(model, params):
            _build(model, params)


def train(
    model: AnomalibModel,
    params: Mapping[str, Any],
    trainer: Mapping[str, Any],
    images: Iterable[NDArray[np.uint8]],
    *,
    validation: Iterable[NDArray[np.uint8]] = (),
    folder: Path,
    device: str,
    seed: int,
    progress: Progress,
    warn: Callable[[str], None],
) -> Checkpoint:
    """Train a model class of anomalib.

    All of the process that anomalib and Lightning change on the way (generators, loggers, signal handlers, environment)
    is as before afterwards; nothing is written but in `folder`.

    anomalib takes its thresholds and its normalisation from validation images, and so does this: where they are all
    good, its thresholds are their largest scores; without any they are not set, and no validation is done. EfficientAd
    cannot do without any, and gets its training images then, which `warn` is told.

    params: of its constructor, and image_size. trainer: the [model.trainer] table, checked and filled.
    images: (H, W, 3) RGB uint8, good ones, also of different sizes. validation: likewise, not learned from.
    folder: where images are kept while training, and where anomalib's own model.ckpt is left.
    device: as `resolve_device` gives it.
    Raises ValueError without images, SpecError, WeightsError, RunError where the loss is no number, anomalib fails or
    the disk is full.
    """
    from uadctl.models.anomalib.module import checkpoint_of
    from uadctl.models.anomalib.pretrained import at_hand

    require("anomalib", "anomalib", needed_by=f"training vision_{model.name}_anomalib")
    settings = Settings(**trainer)
    if not 0 <= seed <= _LARGEST_SEED:
        raise SpecError(f"seed (={seed}) must lie in 0..{_LARGEST_SEED}: anomalib takes no other")
    scratch = folder / "training"
    try:
        learned = _written(images, scratch / "train")
        if not learned:
            raise ValueError(f"{model.class_name} needs at least one image, found none")
        held = _written(validation, scratch / "validation")
        if not held and model.name in _NEED_VALIDATION:
            warn(f"no validation images; {_NEED_VALIDATION[model.name]} come from the training images")
            held = learned
        with as_it_was(), at_hand(model, params), _bars(f"train {model.name}", progress):
            import anomalib
            import torch
            from lightning.pytorch import seed_everything

            seed_everything(seed, verbose=False)
            # Whoever calls may only want to predict. Lightning itself switches gradients on.
            with torch.inference_mode(False):
                module = _build(model, params)
                _fit(module, model, settings, learned, held, scratch, device=device, progress=progress)
            return checkpoint_of(module, origin={"trained_by": f"anomalib {anomalib.__version__}"})
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _build(model: AnomalibModel, params: Mapping[str, Any]) -> Any:
    """A module of anomalib, not trained. SpecError for arguments that it does not take."""
    where, _, name = model.target.partition(":")
    cls = getattr(importlib.import_module(where), name)
    given = dict(params)
    size = given.pop("image_size", None)
    label = f"vision_{model.name}_anomalib"
    try:
        if size is not None:
            given["pre_processor"] = cls.configure_pre_processor(image_size=tuple(size))
            _check_size(given["pre_processor"], size, label)
        return cls(**given, evaluator=False, visualizer=False)
    except UadctlError:
        raise
    except _FAILURES as error:
        raise SpecError(f"{label}: anomalib's {name} does not take these parameters: {error}") from error


def _check_size(pre_processor: Any, size: Iterable[int], label: str) -> None:
    """Raise SpecError where a class brings images to a size of its own, or crops more than there would be."""
    from anomalib.data.transforms.utils import extract_transforms_by_type
    from torchvision.transforms.v2 import CenterCrop, Resize

    said = f"{label}: image_size (={list(size)})"
    resized, cropped = (
        [list(step.size) for step in extract_transforms_by_type(pre_processor.transform, kind)]
        for kind in (Resize, CenterCrop)
    )
    if list(size) not in resized:
        raise SpecError(f"{said} must not be given: images are always brought to {resized[0]}")
    for crop in cropped:
        if any(wanted > there for wanted, there in zip(crop, size, strict=True)):
            raise SpecError(f"{said} must be at least {crop}, which the model crops from it")


def _fit(
    module: Any,
    model: AnomalibModel,
    settings: Settings,
    learned: list[Path],
    held: list[Path],
    scratch: Path,
    *,
    device: str,
    progress: Progress,
) -> None:
    """Train a module in place, and write its model.ckpt beside the scratch folder.

    Raises KeyboardInterrupt where Lightning was interrupted, which leaves the program then.
    """
    from anomalib.callbacks import ModelCheckpoint
    from anomalib.engine import Engine
    from lightning.pytorch.strategies import SingleDeviceStrategy

    steps = _steps(module, settings, len(learned))
    with progress.task(f"train {model.name}", steps, unit="steps") as task:
        engine = Engine(
            # Its own would write a checkpoint after each epoch.
            callbacks=[ModelCheckpoint(save_top_k=0), _watch(model, settings, task)],
            default_root_dir=scratch,
            accelerator=device.partition(":")[0],
            # Engine lets some classes overwrite `devices`, and "cuda:1" would become the first.
            strategy=SingleDeviceStrategy(device="cuda:0" if device == "cuda" else device),
            devices=1,
            max_epochs=settings.max_epochs,
            max_steps=settings.max_steps or -1,
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            **({} if held else {"limit_val_batches": 0}),
        )
        try:
            engine.fit(module, datamodule=_data(learned, held, settings))
        except SystemExit as left:  # how Lightning ends the program when it is interrupted
            raise KeyboardInterrupt from left
        except UadctlError:
            raise
        except _FAILURES as error:
            raise RunError(
                f"vision_{model.name}_anomalib: training by anomalib failed: {type(error).__name__}: {error}"
            ) from error
        with _room_in(scratch.parent):
            engine.trainer.save_checkpoint(scratch.parent / CHECKPOINT, weights_only=True)


def _steps(module: Any, settings: Settings, images: int) -> int | None:
    """Batches that training will go through; None where only the optimizers' steps are known: some take several."""
    epochs = module.trainer_arguments.get("max_epochs", settings.max_epochs)
    batches = math.ceil(images / settings.batch_size)
    if settings.max_steps is None:
        return int(epochs) * batches
    if not module.automatic_optimization:
        return None
    return settings.max_steps if epochs is None else min(settings.max_steps, int(epochs) * batches)


# -- images


def _written(images: Iterable[NDArray[np.uint8]], folder: Path) -> list[Path]:
    """Arrays as files, one by one: memory does not grow with their number. RunError where they cannot be written."""
    import numpy as np

    with _room_in(folder):
        folder.mkdir(parents=True)
    files = []
    for number, image in enumerate(images):
        files.append(folder / f"{number:06d}.npy")
        with _room_in(folder):
            np.save(files[-1], image)
    return files


@contextlib.contextmanager
def _room_in(folder: Path) -> Iterator[None]:
    """Say of a file that cannot be written where it was to be, and how another place is chosen."""
    try:
        yield
    except (OSError, RuntimeError) as error:  # torch's writer raises the latter
        why = error.strerror if isinstance(error, OSError) else None
        raise RunError(
            f"{folder}: cannot be written: {why or error}",
            help="Training keeps its images there, as they are in memory. For another place: TMPDIR=DIR",
        ) from error


class _Images:
    """Good images in files, as anomalib's Engine takes a data set. At module level, so that worker processes find it.

    augmentations: anomalib's data module puts the model's resizing here.
    """

    def __init__(self, files: list[Path]) -> None:
        self.files = files
        self.augmentations: Any = None
        self.name = "uadctl"
        self.category = ""

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Any:
        import numpy as np
        import torch
        from anomalib.data import ImageItem
        from torchvision.transforms.v2.functional import to_dtype, to_image

        image = to_dtype(to_image(np.load(self.files[index], allow_pickle=False)), torch.float32, scale=True)
        if self.augmentations:
            image = self.augmentations(image)
        return ImageItem(image=image, gt_label=torch.tensor(0), image_path=str(self.files[index]))

    @property
    def collate_fn(self) -> Any:
        from anomalib.data import ImageBatch

        return ImageBatch.collate


def _data(learned: list[Path], held: list[Path], settings: Settings) -> Any:
    """A data module: models ask their trainer for it."""
    from anomalib.data import AnomalibDataModule
    from torchvision.transforms.v2 import Compose

    class Data(AnomalibDataModule):
        def __init__(self) -> None:
            super().__init__(
                train_batch_size=settings.batch_size,
                eval_batch_size=settings.batch_size,
                num_workers=settings.workers,
            )
            self.train_data: Any = _Images(learned)
            if held:
                self.val_data: Any = _Images(held)

        def _setup(self, _stage: str | None = None) -> None:
            pass

        def setup(self, stage: str | None = None) -> None:
            """Nothing is split; the data sets learn how the model resizes.

            anomalib would take the bare resize out of the model's transforms. Where these pad images to squares first,
            that makes squares of them otherwise, and no padding is left to do: so images are padded before, and what is
            learned is what is scored.
            """
            self._update_augmentations()
            pad = _square_pad(getattr(getattr(self.trainer, "model", None), "pre_processor", None))
            if pad is not None:
                for images in (self.train_data, getattr(self, "val_data", None)):
                    if images is not None:
                        images.augmentations = Compose([pad, *filter(None, [images.augmentations])])

    return Data()


def _square_pad(pre_processor: Any) -> Any:
    """The padding to a square that a pre-processor's transforms begin with; None where they do not."""
    from anomalib.data.transforms import SquarePad
    from torchvision.transforms.v2 import Compose

    first = getattr(pre_processor, "transform", None)
    while isinstance(first, Compose) and first.transforms:
        first = first.transforms[0]
    return first if isinstance(first, SquarePad) else None


# -- watching


def _watch(model: AnomalibModel, settings: Settings, task: Task) -> Any:
    """A callback that moves the bar, ends a training whose loss falls no more, and one whose loss is no number."""
    import torch
    from lightning.pytorch import Callback

    class Watch(Callback):
        def __init__(self) -> None:
            self.losses: list[torch.Tensor] = []
            self.least = math.inf
            self.waited = 0

        def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
            loss = _loss(outputs)
            if loss is not None:
                if not bool(torch.isfinite(loss)):
                    raise RunError(
                        f"vision_{model.name}_anomalib: the loss of epoch {trainer.current_epoch + 1} is {loss.item()}",
                        help="Training came apart. Try smaller steps (the parameter lr, if it has one) or larger "
                        "batches (batch_size in [model.trainer]).",
                    )
                self.losses.append(loss)
            task.advance()

        def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
            if settings.patience is not None and self.losses:
                mean = float(torch.stack(self.losses).mean())
                self.waited = 0 if mean < self.least else self.waited + 1
                self.least = min(self.least, mean)
                trainer.should_stop = trainer.should_stop or self.waited >= settings.patience
            self.losses.clear()

    return Watch()


def _loss(outputs: Any) -> torch.Tensor | None:
    """The loss of a step, that of the first network where there are several; None where a model has none."""
    import torch

    if isinstance(outputs, Mapping):
        outputs = next((value for value in outputs.values() if isinstance(value, torch.Tensor)), None)
    return outputs.detach().mean() if isinstance(outputs, torch.Tensor) else None


# Where anomalib shows bars of its own: module, name there, whether that is the class or the module tqdm.
_THEIR_BARS = (
    ("anomalib.models.components.sampling.k_center_greedy", "tqdm", False),
    ("anomalib.models.image.cfa.torch_model", "tqdm", False),
    ("anomalib.models.image.efficient_ad.lightning_model", "tqdm", True),
    ("anomalib.models.image.super_add.torch_model", "tqdm", False),
)


@contextlib.contextmanager
def _bars(title: str, progress: Progress) -> Iterator[None]:
    """anomalib's own bars are ours in here."""

    def bar(items: Any, desc: str = "", position: int = 0, leave: bool = True) -> Iterator[Any]:
        with progress.task(f"{title}: {desc.strip('.').lower()}" if desc else title, len(items), unit="steps") as task:
            for item in items:
                yield item
                task.advance()

    found = [(importlib.import_module(module), name, inner) for module, name, inner in _THEIR_BARS]
    theirs = [getattr(module, name) for module, name, _ in found]
    try:
        for module, name, inner in found:
            setattr(module, name, SimpleNamespace(tqdm=bar) if inner else bar)
        yield
    finally:
        for (module, name, _), was in zip(found, theirs, strict=True):
            setattr(module, name, was)
