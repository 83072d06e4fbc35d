"""In place of a model of anomalib: one that looks for red, for tests of all that lies around a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from uadctl.errors import DataError, WeightsError
from uadctl.models.anomalib.predictor import Raw
from uadctl.models.anomalib.preprocessing import Inference, Postprocessing, Preprocessing
from uadctl.records import Size


class Reddest:
    """Its map is by how much red exceeds green, at 32x32; its score is the largest value of the map, times `gain`."""

    preprocessing = Preprocessing(resize=Size(32, 32))
    postprocessing = Postprocessing(image_threshold=0.25, image_min=0.0, image_max=1.0)
    inferences: tuple[Inference, ...] = ("training", "exported")
    is_raw = True

    def __init__(self, model: str | None = "patchcore", gain: float = 1.0, doubt: str | None = None) -> None:
        self.model = model
        self.gain = gain
        self.doubt = doubt

    def predict(self, images: Sequence[np.ndarray], *, inference: Inference) -> list[Raw]:
        found = []
        for image in images:
            red = (image[..., 0].astype(np.float32) - image[..., 1]) / 255
            map_ = cv2.resize(red, (32, 32), interpolation=cv2.INTER_AREA)
            factor = np.float32(self.gain * (2 if inference == "exported" else 1))
            found.append(Raw(float(map_.max() * factor), map_ * factor))
        return found

    def state(self) -> tuple[dict[str, Any], dict[str, Any]]:
        import torch

        return {"gain": torch.tensor([self.gain])}, {"kind": "double", "anomalib_model": self.model}

    def facts(self) -> dict[str, Any]:
        return {"computed_by": "a double", **({"origin": {"doubt": self.doubt}} if self.doubt else {})}


@dataclass
class Asked:
    """What was asked of the doubles.

    opened: (file name, alias' model or None, whether it is trusted). learned, watched: of each training, how many
    images. trainers: its [model.trainer]. restored: how many models came from a run. prepared: of each training that was
    prepared, the model and whether downloads were allowed.
    """

    opened: list[tuple[str, str | None, bool]] = field(default_factory=list)
    learned: list[int] = field(default_factory=list)
    watched: list[int] = field(default_factory=list)
    trainers: list[Mapping[str, Any]] = field(default_factory=list)
    restored: int = 0
    prepared: list[tuple[str, bool]] = field(default_factory=list)


def use(
    monkeypatch: pytest.MonkeyPatch, *, gain: float = 1.0, doubt: str | None = None, said: str | None = None
) -> Asked:
    """Let every file of anomalib be a `Reddest`; training gives one as well.

    doubt: what reading a file finds out against it. said: what training warns of.
    """
    import uadctl.models.anomalib as wrapper
    from uadctl.models.anomalib import opening, training

    asked = Asked()

    def open_file(path: str | Path, *, model: str | None, trusted: bool, device: str) -> Reddest:
        if not Path(path).is_file():
            raise DataError(f"{path}: there is no such file")
        if Path(path).suffix == ".pt" and not trusted:
            raise WeightsError(f"{path}: runs code", help="--trust-checkpoint")
        asked.opened.append((Path(path).name, model, trusted))
        return Reddest(model, gain, doubt)

    def restore(tensors: Mapping[str, Any], facts: Mapping[str, Any], *, device: str) -> Reddest:
        asked.restored += 1
        return Reddest(facts["anomalib_model"], tensors["gain"].item())

    def train(model: Any, params: Any, trainer: Mapping[str, Any], images: Any, **options: Any) -> Reddest:
        asked.learned.append(sum(1 for _ in images))
        asked.watched.append(sum(1 for _ in options["validation"]))
        asked.trainers.append(trainer)
        if said is not None:
            options["warn"](said)
        (options["folder"] / "model.ckpt").write_bytes(b"what anomalib would have left" * 1000)
        return Reddest(model.name, gain)

    monkeypatch.setattr(opening, "open_file", open_file)
    monkeypatch.setattr(opening, "restore", restore)
    monkeypatch.setattr(opening, "open_checkpoint", lambda checkpoint, *, device: checkpoint)
    monkeypatch.setattr(training, "train", train)

    def prepare_training(model: Any, params: Any, *, download: bool = True) -> None:
        asked.prepared.append((model.name, download))

    monkeypatch.setattr(training, "prepare_training", prepare_training)
    # As if anomalib were installed, be it or not.
    monkeypatch.setattr(wrapper, "require", lambda *_, **__: None)
    return asked


def block(monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on anomalib is not installed."""
    import sys

    for name in [name for name in sys.modules if name.partition(".")[0] == "anomalib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "anomalib", None)
