"""A detector of your own: what a class needs so that every command and check of uadctl takes it.

    python examples/own_detector.py

examines it with uadctl's checks. In a package of your own, put the class and `ENTRY` into a module, and register the
entry where the package is imported: `MODELS[ENTRY.name] = ENTRY`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Self

import cv2
import numpy as np

from uadctl.errors import ParamError, Problem
from uadctl.models.base import FromPredictions, Image, batches
from uadctl.models.checks import check_model
from uadctl.models.patches import enlarge
from uadctl.progress import Progress
from uadctl.records import Prediction, Size
from uadctl.spec.registry import MODELS, ModelEntry

ENTRY = ModelEntry(
    name="vision_block_colours",
    target=f"{__name__}:BlockColours",
    summary="Distance of each block's mean colour to that of the same block in good images.",
    aliases=("block_colours",),
    tags=("vision", "example", "pixel_map"),
    backend="numpy",
)


class BlockColours(FromPredictions):
    """Compares the mean colour of each block of an image with those of good images at the same place.

    blocks: along each side of the image, whatever its size.
    n_neighbors: good images over which the distance is averaged, the nearest ones; at most as many as there are.
    contamination: in (0, 0.5); `threshold_` is the (1 - contamination) quantile of the leave-one-image-out scores.

    Learned: `bank_` (n, blocks, blocks, 3), `threshold_` (None after one image, or with `threshold=False`).
    """

    offers_left_out = True
    stride = 1
    images_per_batch = 4

    def __init__(self, *, blocks: int = 16, n_neighbors: int = 1, contamination: float = 0.1) -> None:
        wrong = [
            message
            for holds, message in (
                (blocks >= 1, f"blocks (={blocks}) must be at least 1"),
                (n_neighbors >= 1, f"n_neighbors (={n_neighbors}) must be at least 1"),
                (0 < contamination < 0.5, f"contamination (={contamination}) must lie in (0, 0.5)"),
            )
            if not holds
        ]
        if wrong:
            raise ParamError([Problem(message) for message in wrong])
        self.blocks, self.n_neighbors, self.contamination = blocks, n_neighbors, contamination
        self.bank_: np.ndarray | None = None

    @property
    def is_fitted(self) -> bool:
        return self.bank_ is not None

    def weights_state(self) -> str:
        return "none"

    def prepare(self, *, download: bool = True) -> None:
        """Needs nothing beside images."""

    def fit(
        self,
        images: Iterable[Image],
        *,
        left_out: Callable[[Prediction], None] | None = None,
        threshold: bool = True,
        progress: Progress | None = None,
    ) -> Self:
        self.bank_ = self.threshold_ = None
        learned = [
            (self._colours(i), Size(*i.shape[:2])) for batch in batches(images, self.images_per_batch) for i in batch
        ]
        if not learned:
            raise ValueError("BlockColours needs at least one training image, found none")
        bank = np.stack([colours for colours, _ in learned])
        if len(bank) > 1 and (threshold or left_out is not None):
            told = [
                self._predict(colours, np.delete(bank, i, axis=0), size) for i, (colours, size) in enumerate(learned)
            ]
            for prediction in told if left_out is not None else ():
                left_out(prediction)
            if threshold:
                self.threshold_ = float(np.quantile([p.score for p in told], 1 - self.contamination))
        self.bank_ = bank
        return self

    def predict_batch(self, images: Sequence[np.ndarray]) -> list[Prediction]:
        self.require_fitted()
        return [self._predict(self._colours(image), self.bank_, Size(*image.shape[:2])) for image in images]

    def _colours(self, image: np.ndarray) -> np.ndarray:
        """(blocks, blocks, 3) float32 mean colours."""
        pixels = np.ascontiguousarray(image, dtype=np.float32)
        return cv2.resize(pixels, (self.blocks, self.blocks), interpolation=cv2.INTER_AREA)

    def _predict(self, colours: np.ndarray, bank: np.ndarray, size: Size) -> Prediction:
        distances = np.sort(np.linalg.norm(bank - colours, axis=3), axis=0)
        field = distances[: self.n_neighbors].mean(axis=0)
        return Prediction(float(field.max()), enlarge(field, size, sigma=0))

    def state(self) -> tuple[dict[str, Any], dict[str, Any]]:
        import torch

        self.require_fitted()
        return {"bank": torch.from_numpy(self.bank_)}, {"threshold": self.threshold_}

    def restore(self, tensors: dict[str, Any], facts: dict[str, Any]) -> Self:
        self.bank_, self.threshold_ = tensors["bank"].numpy(), facts["threshold"]
        return self

    def facts(self) -> dict[str, Any]:
        return {"training_images": None if self.bank_ is None else len(self.bank_)}


if __name__ == "__main__":
    MODELS[ENTRY.name] = ENTRY
    check_model("block_colours")
    sys.stdout.write("all checks passed\n")
