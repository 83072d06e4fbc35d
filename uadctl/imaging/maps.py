"""From an anomaly map to regions."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from uadctl.records import Region

if TYPE_CHECKING:
    from numpy.typing import NDArray


def regions(anomaly_map: NDArray[np.float32], *, threshold: float) -> list[Region]:
    """The 8-connected parts of a map where it reaches `threshold`, the highest score first.

    anomaly_map: (H, W) float32; NaN pixels belong to no region.
    """
    import cv2

    above = (anomaly_map >= threshold).astype(np.uint8)
    n, labels, stats, _ = cv2.connectedComponentsWithStats(above, connectivity=8)
    highest = np.full(n, -np.inf)
    inside = labels > 0
    np.maximum.at(highest, labels[inside].astype(np.intp), anomaly_map[inside])
    found = []
    for i in range(1, n):
        left, top, width, height, area = (int(v) for v in stats[i])
        found.append(Region((top, left, top + height, left + width), area, float(highest[i])))
    return sorted(found, key=lambda r: (-r.score, r.box))
