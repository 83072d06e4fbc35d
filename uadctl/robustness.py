"""The verb `robustness`: what a fitted model makes of its test images if the camera had changed.

The model is not fitted again, and its threshold stays. Every corruption at every severity is done to all test images as
they are decoded, before anything else; what is measured then stands beside the same of the images as they are, measured
in the same way at the same time. The answer is robustness.json in the unit's folder.

Sources: the form, corruptions by severities against the clean images, is that of Hendrycks and Dietterich, Benchmarking
Neural Network Robustness to Common Corruptions and Perturbations, ICLR 2019. Kinds and amounts are our own
(`uadctl.spec.corruptions`), and no mean over corruptions is taken, since nobody's line has all of them alike.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from uadctl import heap
from uadctl.errors import DataError, RunError
from uadctl.imaging.augment import apply_steps, move_mask
from uadctl.imaging.files import read_mask
from uadctl.inference import stream, use_threads
from uadctl.metrics import CategoryMetrics, Metrics, aupro_name, is_anomalous, merge, undefined
from uadctl.progress import Progress, Silent, Task
from uadctl.records import Sample, Size, Step
from uadctl.spec.corruptions import AUGMENTATIONS, SEVERITIES
from uadctl.spec.operations import read_step

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from uadctl.metrics import Measurement
    from uadctl.plan import Cell
    from uadctl.runs.fitted import Calibration, Fitted
    from uadctl.spec import RunSpec

MOST_SEVERE: Final = 5

_RATES: Final = ("false_alarm_rate", "miss_rate")


@dataclass(frozen=True, slots=True)
class Corruption:
    """One change of the camera, at one severity: called with an image's number and its pixels, it gives the new pixels.

    name: a key of `SEVERITIES`. severity: 1 to 5. step: what that is. seed: of the run.

    What is drawn for an image depends on the seed, the corruption and the image's number alone: every model and every
    seed of a model sees the same pixels, and with rising severity the same image goes the same way.
    """

    name: str
    severity: int
    step: Step
    seed: int

    def __call__(self, index: int, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        return apply_steps(image, (self.step,), rng=self._generator(index), at_ends=True)[0]

    def moved(self, index: int, mask: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The (H, W) mask of that image where the image has its pixels now."""
        return move_mask(mask, (self.step,), rng=self._generator(index), at_ends=True)

    def _generator(self, index: int) -> np.random.Generator:
        name = int.from_bytes(hashlib.sha256(self.name.encode()).digest()[:8], "big")
        return np.random.default_rng([self.seed, index, name])


def find_corruptions(
    names: Sequence[str] | None = None, severities: Sequence[int] = (1, 3, 5), *, seed: int = 0
) -> list[Corruption]:
    """Each corruption at each severity, in the order of the arguments. names: None: all there are.

    Raises ValueError for an unknown name, or a severity other than 1 to 5.
    """
    found = []
    for name in SEVERITIES if names is None else names:
        if name not in SEVERITIES:
            raise ValueError(f"no such corruption: {name}; expected one of {', '.join(SEVERITIES)}")
        for severity in severities:
            if not 1 <= severity <= MOST_SEVERE:
                raise ValueError(f"severity must be 1 to {MOST_SEVERE}, found {severity}")
            found.append(Corruption(name, severity, read_step(SEVERITIES[name][severity - 1], AUGMENTATIONS), seed))
    return found


def measure_robustness(
    spec: RunSpec,
    cell: Cell,
    fitted: Fitted,
    corruptions: Sequence[Corruption],
    *,
    pixels: int = 0,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """What stands in robustness.json of one finished unit.

    fitted: the unit's model with its threshold. pixels: of the test images together, which decides whether pixel
        metrics fit into `[metrics] memory`.

    Test images that cannot be read are left out with `[dataset] on_error = "skip"`; masks that cannot be read are left
    out in any case: the unit's own measuring has said so. Raises DataError for such an image otherwise, RunError if an
    image can be scored as it is and not once it is changed, and what the model raises.
    """
    progress = progress or Silent()
    use_threads(spec.run.threads)
    unit = _Unit(spec, cell, fitted, pixels)
    with progress.task(f"robustness {cell.title}", (1 + len(corruptions)) * len(cell.test)) as task:
        clean = unit.run(None, task)
        entries = [unit.against(clean, corruption, unit.run(corruption, task)) for corruption in corruptions]
    told = unit.told(clean.measured)
    counts = clean.measured.metrics.counts
    return {
        "seed": spec.run.all_seeds[0],
        "threshold": fitted.calibration.image.value,
        "score_iqr": unit.spread.iqr,
        "clean": {"metrics": told.metrics, "reasons": told.reasons, "bounds": unit.bounds(clean.measured)},
        "corruptions": entries,
        "pixel_mode": clean.measured.pixel_mode,
        "counts": {
            "images": len(clean.scores),
            "normal_images": counts["normal_images"],
            "defect_images": counts["defect_images"],
            "broken_images": len(cell.test) - len(clean.scores),
        },
    }


@dataclass(frozen=True, slots=True)
class _Seen:
    """What one pass over the test images gave.

    scores: by the image's number, in order. broken: why the others have none.
    """

    scores: dict[int, float]
    broken: dict[int, DataError]
    measured: Measurement


@dataclass(frozen=True, slots=True)
class _Spread:
    """The interquartile range of the calibration scores; None for the reason."""

    iqr: float | None
    reason: str = ""

    @classmethod
    def of(cls, calibration: Calibration) -> _Spread:
        if not calibration.scores:
            return cls(None, "there are no calibration scores")
        low, high = np.percentile(calibration.scores, (25, 75))
        if not high > low:
            return cls(None, "half of the calibration scores are equal: they have no spread")
        return cls(float(high - low))


class _Unit:
    """A unit whose test images are looked at again and again."""

    def __init__(self, spec: RunSpec, cell: Cell, fitted: Fitted, pixels: int) -> None:
        self._spec, self._cell, self._fitted, self._pixels = spec, cell, fitted, pixels
        self._limit = fitted.calibration.image
        self.spread = _Spread.of(fitted.calibration)
        self._wanted = ["image_auroc"]
        if spec.metrics.pixel:
            self._wanted += ["pixel_auroc", *(aupro_name(limit) for limit in spec.metrics.fpr_limits)]
        self._wanted += _RATES

    def run(self, corruption: Corruption | None, task: Task) -> _Seen:
        """Score and measure all test images; None: as they are."""
        spec, cell, fitted = self._spec, self._cell, self._fitted
        metrics = CategoryMetrics(
            protocol=spec.metrics.protocol,
            fpr_limits=spec.metrics.fpr_limits,
            threshold=self._limit.value,
            threshold_reason=self._limit.reason,
            pixel=spec.metrics.pixel,
            has_masks=cell.dataset.has_masks,
            pixels=self._pixels,
            memory=spec.metrics.memory_bytes,
        )
        scores: dict[int, float] = {}
        broken: dict[int, DataError] = {}
        found = stream(
            fitted.detector,
            [sample.path for sample in cell.test],
            intake=fitted.intake,
            threads=spec.run.threads,
            include_maps=spec.metrics.pixel and cell.dataset.has_masks,
            # Clean images go the same way, whole in memory, so that nothing but the corruption differs.
            corrupt=_unchanged if corruption is None else corruption,
        )
        for index, (sample, item) in enumerate(zip(cell.test, found, strict=True)):
            task.advance()
            if item.prediction is None:
                broken[index] = item.error or DataError(f"{sample.path}: no prediction")
                if corruption is None and spec.dataset.on_error == "fail":
                    raise broken[index]
                continue
            scores[index] = item.prediction.score
            field = item.prediction.map
            mask = None if field is None else self._mask(index, sample, Size(*field.shape), corruption)
            metrics.add(sample, item.prediction.score, field, mask)
        measured = metrics.result()
        heap.give_back()
        return _Seen(scores, broken, measured)

    def _mask(self, index: int, sample: Sample, size: Size, corruption: Corruption | None) -> NDArray[np.uint8] | None:
        """(H, W) 0 and 1 where the image has its pixels now; None where it is unknown or cannot be read."""
        if sample.label == 0:
            return np.zeros(size, np.uint8)
        if sample.label != 1 or not sample.masks:
            return None
        try:
            mask = read_mask(sample.masks, size=size)
        except DataError:
            return None
        return mask if corruption is None else corruption.moved(index, mask)

    def told(self, measured: Measurement) -> Metrics:
        """Of all that was measured, what is compared."""
        found = measured.metrics
        return Metrics(
            {name: found.metrics[name] for name in self._wanted},
            {name: found.reasons[name] for name in self._wanted if name in found.reasons},
        )

    def bounds(self, measured: Measurement) -> dict[str, float]:
        """How far metrics may be off in streaming mode, of those that are compared."""
        return {name: bound for name, bound in measured.bounds.items() if name in self._wanted}

    def against(self, clean: _Seen, corruption: Corruption, seen: _Seen) -> dict[str, Any]:
        """What one corruption at one severity has changed, as it stands in the file."""
        self._check_same(clean, corruption, seen)
        before, after = self.told(clean.measured).metrics, self.told(seen.measured)
        both = merge(after, self._flipped(clean.scores, seen.scores), self._shifted(clean.scores, seen.scores))
        return {
            "corruption": corruption.name,
            "severity": corruption.severity,
            "step": str(corruption.step),
            "metrics": both.metrics,
            "changes": {name: _change(before[name], value) for name, value in after.metrics.items()},
            "reasons": both.reasons,
            "bounds": self.bounds(seen.measured),
        }

    def _check_same(self, clean: _Seen, corruption: Corruption, seen: _Seen) -> None:
        """Raise RunError unless the same images were scored: numbers of other images are no comparison."""
        for index in sorted(clean.broken.keys() ^ seen.broken.keys()):
            path = self._cell.test[index].path
            ends = {"as it is": clean.broken.get(index), f"after {corruption.step}": seen.broken.get(index)}
            bad, error = next((way, error) for way, error in ends.items() if error is not None)
            good = next(way for way, error in ends.items() if error is None)
            raise RunError(
                f"{path}: can be scored {good}, and not {bad}: {str(error).removeprefix(f'{path}: ')}",
                help="Has the file changed meanwhile? Ask again.",
            )

    def _flipped(self, clean: Mapping[int, float], seen: Mapping[int, float]) -> Metrics:
        limit = self._limit.value
        if limit is None:
            return undefined(["flip_rate"], self._limit.reason or "there is no threshold")
        if not clean:
            return undefined(["flip_rate"], "there are no images")
        before, after = (is_anomalous(list(scores.values()), limit) for scores in (clean, seen))
        return Metrics({"flip_rate": float(np.mean(before != after))})

    def _shifted(self, clean: Mapping[int, float], seen: Mapping[int, float]) -> Metrics:
        if self.spread.iqr is None:
            return undefined(["good_shift"], self.spread.reason)
        apart = [seen[i] - score for i, score in clean.items() if self._cell.test[i].label == 0]
        if not apart:
            return undefined(["good_shift"], f"there is no normal image ({len(clean)} others)")
        return Metrics({"good_shift": float(np.mean(apart)) / self.spread.iqr})


def _change(before: float | None, after: float | None) -> float | None:
    return None if before is None or after is None else after - before


def _unchanged(index: int, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return image
