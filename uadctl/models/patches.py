"""From the anomaly of patches to that of the image: scores and maps, for every detector that looks at patches."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Literal, get_args

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import ArrayLike, NDArray

    from uadctl.records import Size

Aggregation = Literal["topk_mean", "max", "mean"]


def aggregate_patch_scores(scores: ArrayLike, *, method: Aggregation = "topk_mean", topk: float = 0.01) -> float:
    """The score of an image out of those of its patches.

    "topk_mean" is the mean of the highest `topk` of them, at least one: of n patches max(1, ceil(topk n)), as
    AnomalyDINO takes it (Damm et al., WACV 2025, section 3, empirical tail value at risk).

    scores: of the patches, any shape, finite. topk: a share, in (0, 1].
    Raises ValueError without patches, for an unknown method and a topk out of range.
    """

    import numpy as np

    values = np.asarray(scores, dtype=np.float64).ravel()
    if not values.size:
        raise ValueError("there are no patch scores to aggregate")
    if method not in get_args(Aggregation):
        raise ValueError(f"method (={method!r}) must be one of {', '.join(get_args(Aggregation))}")
    if not 0 < topk <= 1:
        raise ValueError(f"topk (={topk}) must lie in (0, 1]")
    if method == "max":
        return float(values.max())
    if method == "mean":
        return float(values.mean())
    # 0.07 * 100 is 7.000000000000001: what is meant are 7 patches.
    k = max(1, math.ceil(round(topk * values.size, 9)))
    return float(np.partition(values, values.size - k)[values.size - k :].mean())


def reshape_patch_scores(scores: ArrayLike, grid_h: int, grid_w: int) -> NDArray[np.float32]:
    """Patch scores in row-major order as a (grid_h, grid_w) float32 array. ValueError if there are not so many."""

    import numpy as np

    values = np.asarray(scores, dtype=np.float32).ravel()
    if values.size != grid_h * grid_w:
        raise ValueError(f"{values.size} patch scores do not fill a grid of {grid_h}x{grid_w}")
    return values.reshape(grid_h, grid_w)


def enlarge(field: NDArray[np.float32], size: Size, *, sigma: float) -> NDArray[np.float32]:
    """The map of an image: patch scores interpolated to its size, then smoothed.

    field: (h, w) float32, one score a patch. size: of the image. sigma: standard deviation of the Gaussian, in pixels
        of the image; 0: none.
    """

    import cv2
    import numpy as np

    large: Any = cv2.resize(field, (size.width, size.height), interpolation=cv2.INTER_LINEAR)
    if sigma:
        large = cv2.GaussianBlur(large, (0, 0), sigma, borderType=cv2.BORDER_REFLECT)
    return np.asarray(large, dtype=np.float32)
