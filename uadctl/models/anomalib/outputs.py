"""What inferencers give, in whatever form: a score and a map out of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

# In this order: anomalib's name, and those of its former versions and of others.
_SCORES = ("pred_score", "anomaly_score", "score")
_MAP = "anomaly_map"


def score_of(prediction: object) -> float:
    """The score of one image: a float32 value as a Python float.

    prediction: a mapping or an object with pred_score (else anomaly_score, else score): a number, or an array or tensor
        of one number in any shape. Raises ValueError where there is none, or not one.
    """
    import numpy as np

    name, value = next(((n, v) for n in _SCORES if (v := _get(prediction, n)) is not None), (None, None))
    if name is None:
        raise ValueError(f"the prediction has no {_SCORES[0]}, nor {' or '.join(_SCORES[1:])}")
    numbers = _array(value)
    if numbers.size != 1:
        raise ValueError(f"{name} has the shape {numbers.shape}, expected one number for one image")
    return float(np.float32(numbers.item()))


def map_of(prediction: object) -> NDArray[np.float32]:
    """The (H, W) float32 map of one image.

    prediction: a mapping or an object with anomaly_map: (H, W), (1, H, W), (H, W, 1) or (1, 1, H, W).
    Raises ValueError where there is none, or where it cannot be made 2-D.
    """
    value = _get(prediction, _MAP)
    if value is None:
        raise ValueError(f"the prediction has no {_MAP}")
    return as_map(value)


def as_map(value: Any) -> NDArray[np.float32]:
    """An array or tensor as an (H, W) float32 array. Raises ValueError, stating the shape, where it is not one map."""
    import numpy as np

    field = _array(value)
    shape = field.shape
    while field.ndim > 2 and field.shape[0] == 1:
        field = field[0]
    if field.ndim == 3 and field.shape[2] == 1:
        field = field[..., 0]
    if field.ndim != 2 or not field.size:
        raise ValueError(f"an anomaly map of shape {shape} is not one (H, W) map")
    return np.ascontiguousarray(field, dtype=np.float32)


def _get(prediction: object, name: str) -> Any:
    if isinstance(prediction, Mapping):
        return prediction.get(name)
    return getattr(prediction, name, None)


def _array(value: Any) -> NDArray[Any]:
    import numpy as np

    if hasattr(value, "detach"):  # a tensor, perhaps on another device, perhaps in bfloat16
        value = value.detach().cpu().float().numpy()
    return np.asarray(value)
