"""Words for a flawed and for a flawless object, and what is closer to which: the prompt scores of WinCLIP.

Jeong, Zou, Kim, Zhang, Ravichandran, Dabeer, "WinCLIP: Zero-/Few-Shot Anomaly Classification and Segmentation",
CVPR 2023: the compositional prompt ensemble of section 4.1, with the lists of its appendix.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import ArrayLike, NDArray

Mode = Literal["diff", "softmax"]

NORMAL_STATES = (
    "{}",
    "flawless {}",
    "perfect {}",
    "unblemished {}",
    "{} without flaw",
    "{} without defect",
    "{} without damage",
)
ANOMALOUS_STATES = ("damaged {}", "{} with flaw", "{} with defect", "{} with damage")
_PHOTOS = (
    *("cropped photo of {}.", "close-up photo of {}.", "bright photo of {}.", "dark photo of {}."),
    *("jpeg corrupted photo of {}.", "blurry photo of {}.", "photo of {}."),
    *("photo of {} for visual inspection.", "photo of {} for anomaly detection."),
)
# Each with "a" and with "the" object, and as well a small and a large one.
TEMPLATES = (
    *(f"a {photo.format(f'{article} {{}}')}" for photo in _PHOTOS for article in ("a", "the")),
    *(f"a photo of {article} {size} {{}}." for size in ("small", "large") for article in ("a", "the")),
)


def prompt_ensemble(class_name: str) -> tuple[list[str], list[str]]:
    """Every state of an object in every template: the texts for a flawless one, 154, and for a flawed one, 88.

    class_name: what it is, such as "metal nut".
    """
    normal, anomalous = (
        [template.format(state.format(class_name)) for state in states for template in TEMPLATES]
        for states in (NORMAL_STATES, ANOMALOUS_STATES)
    )
    return normal, anomalous


def mean_direction(features: ArrayLike) -> NDArray[np.float32]:
    """(D,) the mean of text embeddings, each brought to length 1 before and it after.

    features: (n, D), or (D,), one of them. Raises ValueError for another shape, NaN, and where nothing is left.
    """

    import numpy as np

    from uadctl.memory import unit_length

    rows = np.atleast_2d(np.asarray(features, dtype=np.float32))
    if rows.ndim != 2 or not rows.size:
        raise ValueError(f"text features must be of shape (D,) or (n, D), found {np.shape(features)}")
    mean = unit_length(unit_length(rows).mean(axis=0, keepdims=True))[0]
    if not mean.any():
        raise ValueError("text features must not be, or cancel to, a vector of zeros")
    return np.asarray(mean, dtype=np.float32)


def prompt_scores(
    embeddings: NDArray[np.float32], words: NDArray[np.float32], *, mode: Mode, temperature: float
) -> NDArray[np.float64]:
    """(n,) how much more like the flawed than like the flawless object; higher is more anomalous.

    "diff": the difference of the two cosines, in [-2, 2]. "softmax": the probability of the flawed one, in (0, 1), if
    the logits are the cosines divided by `temperature` (equation 1).

    embeddings: (n, D), of any length but zero. words: (2, D) of length 1, the flawless object's first.
    """

    import numpy as np

    if embeddings.shape[1] != words.shape[1]:
        raise ValueError(
            f"image embeddings of {embeddings.shape[1]} numbers cannot be compared with text features of "
            f"{words.shape[1]}"
        )
    from uadctl.memory import unit_length

    cosines = unit_length(embeddings).astype(np.float64) @ words.astype(np.float64).T
    difference = cosines[:, 1] - cosines[:, 0]
    if mode == "diff":
        return difference
    return np.exp(-np.logaddexp(0, -difference / temperature))  # 1 / (1 + exp(-d / t)) that does not overflow
