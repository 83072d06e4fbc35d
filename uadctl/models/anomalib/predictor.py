"""What all ways to run a model of anomalib offer alike."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from uadctl.models.anomalib.preprocessing import Inference, Postprocessing, Preprocessing


class Raw(NamedTuple):
    """What a model says of one image.

    score: float32 value as a Python float, raw (not normalised) where the predictor `is_raw`.
    map:   (h, w) float32 at the resolution of the model's input, or None.
    """

    score: float
    map: NDArray[np.float32] | None


class Predictor(Protocol):
    """A model of anomalib that can be asked.

    model:          its name in anomalib, None where the file does not say.
    preprocessing:  what it does to images, which says where its maps lie; None where that is inside the file (ONNX,
                    OpenVINO) and no crop was found there: then maps cover the whole image.
    postprocessing: what anomalib would do to its scores; None where that is inside the file.
    inferences:     the ways of images that it can go.
    is_raw:         whether scores are raw; False: anomalib's normalisation is inside the file.
    """

    @property
    def model(self) -> str | None: ...

    @property
    def preprocessing(self) -> Preprocessing | None: ...

    @property
    def postprocessing(self) -> Postprocessing | None: ...

    @property
    def inferences(self) -> tuple[Inference, ...]: ...

    @property
    def is_raw(self) -> bool: ...

    def predict(self, images: Sequence[NDArray[np.uint8]], *, inference: Inference) -> list[Raw]:
        """Of (H, W, 3) RGB uint8 images, also of different sizes."""
        ...

    def state(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """All that `restore` of `uadctl.models.anomalib.opening` needs: tensors by name, and JSON facts."""
        ...

    def facts(self) -> dict[str, Any]:
        """For the run's record: how it is computed, sizes."""
        ...
