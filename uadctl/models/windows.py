"""From the scores of overlapping windows to those of patches, as WinCLIP does it (Jeong et al., CVPR 2023, 4.3)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from uadctl.records import Size

# Sides of the windows in patches: the small and the middle scale of the paper. The third is the whole image.
SIDES = (2, 3)


def harmonic_mean(fields: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
    """The harmonic mean of arrays of one shape, element by element: 0 where one of them is 0. Nothing is negative."""

    import numpy as np

    stack = np.stack(fields)
    with np.errstate(divide="ignore"):
        return np.asarray(len(stack) / (1 / stack).sum(axis=0))


def spread(scores: NDArray[np.float64], grid: Size, side: int) -> NDArray[np.float64]:
    """(h, w) for each patch the harmonic mean of the scores of all windows that cover it.

    scores: (n,) of the windows of `windows_of(grid, side)`, none negative; a window of score 0 makes its patches 0.
    """

    import numpy as np

    from uadctl.features.openclip import windows_of

    windows = windows_of(grid, side)
    with np.errstate(divide="ignore"):
        inverse = np.repeat(1 / np.asarray(scores, dtype=np.float64), windows.shape[1])
    total = np.bincount(windows.ravel(), weights=inverse, minlength=grid.height * grid.width)
    count = np.bincount(windows.ravel(), minlength=grid.height * grid.width)
    return (count / total).reshape(grid)
