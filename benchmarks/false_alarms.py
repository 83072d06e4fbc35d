"""How often good images are called anomalous at a threshold calibrated for 1 %, when images are cut into tiles."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from benchmarks.measure import Section, Table, Target

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from uadctl.intake import Intake
    from uadctl.models.base import Detector

ALPHA = 0.01
_CATEGORY = "woven_fabric"
_TILE, _STRIDE = 128, 96
_LEARNED, _CALIBRATING, _TESTED = 24, 500, 2000
_SEED = 8


@dataclass(frozen=True)
class Rates:
    """calibrating, tested: images. alarms: of the tested ones. untiled: alarms with the threshold of whole images."""

    calibrating: int
    tested: int
    alarms: int
    untiled: int

    def range(self, share: float = 0.95) -> tuple[int, int]:
        """The central binomial range of alarms at exactly ALPHA, both ends inclusive."""
        return _central([_binomial(k, self.tested, ALPHA) for k in range(self.tested + 1)], share)

    def range_of_quantile(self, share: float = 0.95) -> tuple[int, int]:
        """The same, with the chance that lies in the calibration images as well.

        Above the k-th of n scores a further score lies with a probability that is Beta(n - k + 1, k) distributed, so
        that of m scores the number above it is beta-binomial.
        """
        n = self.calibrating
        k = math.ceil(n * (1 - ALPHA) - 1e-9)
        a, b = n - k + 1, k
        return _central([_beta_binomial(i, self.tested, a, b) for i in range(self.tested + 1)], share)


def _central(chances: list[float], share: float) -> tuple[int, int]:
    tail, total, low, high = (1 - share) / 2, 0.0, 0, len(chances) - 1
    for i, chance in enumerate(chances):
        if total <= tail < total + chance:
            low = i
        total += chance
        if total >= 1 - tail:
            high = i
            break
    return low, high


def _choose(n: int, k: int) -> float:
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)


def _binomial(k: int, n: int, p: float) -> float:
    return math.exp(_choose(n, k) + k * math.log(p) + (n - k) * math.log1p(-p))


def _beta(a: float, b: float) -> float:
    return math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)


def _beta_binomial(k: int, n: int, a: float, b: float) -> float:
    return math.exp(_choose(n, k) + _beta(k + a, n - k + b) - _beta(a, b))


def measure(*, learned: int, calibrating: int, tested: int, seed: int = _SEED) -> Rates:
    """Fit PatchCore on tiles, set both thresholds on further good images, and count the alarms on others still.

    All images are drawn, good ones of the demo data set. Both thresholds come of scores made as they are used.
    """
    from uadctl import create_model
    from uadctl.imaging.geometry import Geometry
    from uadctl.intake import Intake, training_images
    from uadctl.records import Tiling
    from uadctl.thresholds import quantile_threshold

    tiled = Intake(geometry=Geometry(size=None), tiling=Tiling(_TILE, _STRIDE))
    whole = Intake(geometry=Geometry(size=None))
    alarms = {}
    for name, intake in (("tiled", tiled), ("whole", whole)):
        detector = create_model("vision_patchcore", device="cpu", seed=seed)
        detector.fit(training_images(_images("train", learned, seed), intake=intake), threshold=False)
        limit = quantile_threshold(_scores(detector, "calibration", calibrating, intake, seed), alpha=ALPHA)
        alarms[name] = sum(score >= limit for score in _scores(detector, "test", tested, intake, seed))
    return Rates(calibrating, tested, alarms["tiled"], alarms["whole"])


def _images(split: str, number: int, seed: int) -> Iterator[NDArray[np.uint8]]:
    from uadctl.datasets.demo_scenes import draw_specimen

    return (draw_specimen(_CATEGORY, split, "good", i, seed=seed).image for i in range(number))


def _scores(detector: Detector, split: str, number: int, intake: Intake, seed: int) -> list[float]:
    from uadctl.inference import stream

    found = []
    for item in stream(detector, _images(split, number, seed), intake=intake, include_maps=False):
        if item.prediction is None:
            raise item.error or ValueError(f"image {item.index} has no score")
        found.append(item.prediction.score)
    return found


def sections(*, quick: bool) -> list[Section]:
    sizes = (6, 40, 60) if quick else (_LEARNED, _CALIBRATING, _TESTED)
    found = measure(learned=sizes[0], calibrating=sizes[1], tested=sizes[2])
    low, high = found.range()
    wide = found.range_of_quantile()
    return [
        Section(
            title="False alarms with tiling",
            text=(
                f"PatchCore on {sizes[0]} good images of the demo's `{_CATEGORY}`, 256×256, in tiles of {_TILE} with "
                f"stride {_STRIDE}; threshold for {ALPHA:.0%} from {found.calibrating} others, alarms on "
                f"{found.tested} others still."
            ),
            tables=(
                Table(
                    ("images", "alarms", "share"),
                    (
                        ("cut into tiles", str(found.alarms), f"{found.alarms / found.tested:.2%}"),
                        ("whole", str(found.untiled), f"{found.untiled / found.tested:.2%}"),
                    ),
                ),
            ),
            targets=(
                Target(
                    f"alarms with tiling within the binomial 95 % range of {ALPHA:.0%}",
                    f"{low} to {high}",
                    str(found.alarms),
                    low <= found.alarms <= high,
                ),
                Target(
                    "the same, with the chance in the calibration images",
                    f"{wide[0]} to {wide[1]}",
                    str(found.alarms),
                    wide[0] <= found.alarms <= wide[1],
                ),
            ),
        )
    ]
