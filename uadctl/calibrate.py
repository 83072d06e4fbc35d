"""The verb `calibrate`: set the image threshold of a fitted model anew, without fitting it again."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

from uadctl.errors import DataError, RunError, SpecError, with_help
from uadctl.models.base import TrainedElsewhere, known_by_heart
from uadctl.plan import draw_shots, limited, load_category
from uadctl.progress import Progress, Silent
from uadctl.runs.fitted import Calibration, PixelScale, read_calibration
from uadctl.spec import variants
from uadctl.thresholds import PixelCalibration, Threshold, quantile_threshold

if TYPE_CHECKING:
    from uadctl.records import Tiling
    from uadctl.runs.folder import RunFolder, UnitFolder


@dataclass(frozen=True, slots=True)
class Recalibrated:
    """What became of one unit's threshold.

    old, new: equal if nothing changed; then no file was touched.
    kept: the file that now holds the old thresholds, or None if nothing changed.
    """

    unit: UnitFolder
    old: Threshold
    new: Threshold
    kept: Path | None


def calibrate(
    run: RunFolder,
    *,
    alpha: float | None = None,
    category: str | None = None,
    label: str | None = None,
    seed: int | None = None,
    good: Sequence[str] = (),
    tiling: Tiling | None = None,
    device: str | None = None,
    progress: Progress | None = None,
) -> list[Recalibrated]:
    """Set the image thresholds of a run's finished units anew; in one file each, thresholds.json.

    The threshold is the (1 - alpha) quantile of normal scores, as `uadctl.thresholds.quantile_threshold` says. The
    scores are those that the unit was calibrated on before, or those of images given now: good images that the model
    has not learned, from the camera that it will judge, say. Given images set the pixel scale anew as well.

    alpha: share of good images that may be called anomalous; None: that of each unit's threshold in force.
    category, label, seed: which units; None: all that are finished.
    good: image files, and folders of them, of one category. A copy of a training image is refused if the data set is
        still where the run found it, and one of a test image warned about, as are scores near zero, which a memorised
        image would have. Copies count once.
    tiling: cuts the given images into tiles, another way than the unit was calibrated with; it then scores in this way.
        None: as before.
    device: where the network runs for the given images; None: as the spec says.

    What the run measured stays as it is: metrics.json, scores.csv and overlays belong to the threshold they were made
    with. The old thresholds are kept as thresholds.1.json, thresholds.2.json and so on, 1 being the oldest. All units
    are calibrated before the first file is replaced.

    Raises SpecError for another alpha, and for `good` with several categories; RunError if no unit fits or none of
    them has scores; DataError, which lists every problem, for images that cannot be read or were learned.
    """
    progress = progress or Silent()
    if tiling is not None and not good:
        raise SpecError(f"{tiling}: the scores at hand were made another way", help="Give good images: --good DIR")
    if alpha is not None and not 0 < alpha < 1:
        raise SpecError(f"alpha is {alpha}; expected a share of good images above 0 and below 1")
    units = run.finished(category=category, label=label, seed=seed)
    old = [read_calibration(unit) for unit in units]
    if good:
        new = _from_images(run, units, old, good, alpha=alpha, tiling=tiling, device=device, progress=progress)
    else:
        new = [_from_scores(before, alpha) for before in old]
        if not any(after.scores for after in new):
            raise RunError(
                with_help(
                    (f"{u}: there are no normal scores: {b.image.reason}" for u, b in zip(units, old, strict=True)),
                    "Give good images that the model has not learned: --good DIR",
                )
            )
    results = []
    for unit, before, after in zip(units, old, new, strict=True):
        kept = None if after == before else unit.replace_thresholds(after.document())
        results.append(Recalibrated(unit, before.image, after.image, kept))
        for warning in _warnings(unit, after):
            progress.warn(warning)
    return results


def images_needed(alpha: float) -> int:
    """The fewest normal images from which a rate of alpha can be told: below, a further good image exceeds even the
    highest of the n scores more often than that, once in n + 1."""
    return math.ceil(1 / Fraction(repr(float(alpha)))) - 1


def _from_scores(before: Calibration, alpha: float | None) -> Calibration:
    wanted = before.image.alpha if alpha is None else alpha
    if not before.scores or wanted is None:
        return before
    value = quantile_threshold(before.scores, alpha=wanted)
    image = Threshold(value=value, method="quantile", alpha=wanted, n=len(before.scores), source=before.image.source)
    return replace(before, image=image)


def _warnings(unit: UnitFolder, calibration: Calibration) -> Iterable[str]:
    image = calibration.image
    if image.value is None:
        yield f"{unit}: still without a threshold: {image.reason}"
    elif image.alpha is not None and image.n < images_needed(image.alpha):
        yield (
            f"{unit}: {image.n} normal images are too few to tell an alpha of {image.alpha:g}: a further good image "
            f"exceeds this threshold about once in {image.n + 1}; {images_needed(image.alpha)} would be enough"
        )


# ---- images given


def _from_images(
    run: RunFolder,
    units: Sequence[UnitFolder],
    old: Sequence[Calibration],
    good: Sequence[str],
    *,
    alpha: float | None,
    tiling: Tiling | None,
    device: str | None,
    progress: Progress,
) -> list[Calibration]:
    """Score the images with every unit's model."""
    from uadctl.inference import stream, use_threads
    from uadctl.runs.fitted import load, why_no_tiles

    categories = sorted({unit.category for unit in units})
    if len(categories) > 1:
        raise SpecError(
            f"{run.path}: good images belong to one category, and {len(categories)} are chosen",
            help="Choose one: " + ", ".join(f"--category {name}" for name in categories),
        )
    paths = _distinct(_files(good), progress)
    spec = run.spec
    _check_against_data(run, units, paths)
    use_threads(spec.run.threads)
    new = []
    for unit, before in zip(units, old, strict=True):
        fitted = load(unit, device=device or spec.run.device)
        if tiling is not None and (why := why_no_tiles(fitted)) is not None:
            raise SpecError(f"{unit}: {tiling}: {why}")
        fitted = fitted.tiled(before.tiling if tiling is None else tiling)
        scores: list[float] = []
        pixels = PixelCalibration()
        problems: list[str] = []
        found = stream(fitted.detector, paths, intake=fitted.intake, threads=spec.run.threads, progress=progress)
        seed = f" · seed {unit.seed}" if len(spec.run.all_seeds) > 1 else ""
        with progress.task(f"calibrate {unit.category} · {unit.label}{seed}", len(paths)) as task:
            for item in found:
                if item.prediction is None:
                    problems.append(str(item.error))
                else:
                    scores.append(item.prediction.score)
                    if item.prediction.map is not None:
                        pixels.add(item.prediction.map)
                task.advance()
        if problems:
            raise DataError(with_help(problems, "Remove them; nothing was changed."))
        if not (isinstance(fitted.detector, TrainedElsewhere) and fitted.detector.scores_are_cut):
            _warn_of_memorised(unit, paths, scores, before, progress)
        normalize = fitted.postprocess is not None and fitted.postprocess.normalize
        pixel = PixelScale.of(pixels, spec.calibration, normalize=normalize)
        new.append(_calibration(scores, pixel, before, alpha, fitted.calibration.tiling))
    return new


def _calibration(
    scores: Sequence[float],
    pixel: PixelScale | None,
    before: Calibration,
    alpha: float | None,
    tiling: Tiling | None,
) -> Calibration:
    wanted = before.image.alpha if alpha is None else alpha
    if wanted is None:
        raise RunError("the threshold in force has no alpha", help="Give --alpha.")
    value = quantile_threshold(scores, alpha=wanted)
    image = Threshold(value=value, method="quantile", alpha=wanted, n=len(scores), source="given")
    return Calibration(image, pixel, tuple(sorted(scores)), tiling)


def _files(good: Sequence[str]) -> list[str]:
    from uadctl.imaging.listing import is_folder, list_images

    paths: list[str] = []
    for given in good:
        inside = list_images(given) if is_folder(given) else [given]
        if not inside:
            raise DataError(f"{given}: no images in this folder")
        paths += inside
    return paths


def _distinct(paths: Sequence[str], progress: Progress) -> list[str]:
    """The files without copies of others: an image counted twice would make a threshold look surer than it is."""
    first: dict[str, str] = {}
    for path in paths:
        # A file that cannot be read is reported when it is decoded.
        first.setdefault(_sha256(path) or path, path)
    copies = len(paths) - len(first)
    if copies:
        progress.warn(f"{copies} of {len(paths)} images given are copies of others among them and count once")
    return list(first.values())


def _sha256(path: str) -> str | None:
    try:
        with Path(path).open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError:
        return None


def _check_against_data(run: RunFolder, units: Sequence[UnitFolder], paths: Sequence[str]) -> None:
    """DataError if an image is a copy of one that a unit trained or tested on, as far as its data can be found.

    units: of one category.
    """
    spec, category = run.spec, units[0].category
    table = spec.dataset
    if table.root is None or not Path(table.root).exists():
        return
    try:
        dataset = load_category(table, category)
    except DataError:  # what lies there now is another data set
        return
    given = {digest: path for path in paths if (digest := _sha256(path)) is not None}
    pool, test = limited(dataset.train, table.limit_train), limited(dataset.test, table.limit_test)
    shots = {variant.model.label: variant.shots for variant in variants(spec)}
    learned = {
        sample
        for unit in units
        for sample in draw_shots(pool, shots.get(unit.label), category=category, seed=unit.seed)
    }
    train = [sample for sample in pool if sample in learned]
    for samples, what in ((train, "a training image"), (test, "a test image")):
        if copies := _copies(given, [sample.path for sample in samples]):
            raise DataError(
                with_help(
                    (f"{path}: is {what} of this run: {original}" for path, original in copies),
                    "A threshold comes from good images that were neither learned nor tested on. "
                    "Remove them; nothing was changed.",
                )
            )


def _copies(given: Mapping[str, str], originals: Iterable[str]) -> list[tuple[str, str]]:
    """Which files of `given`, by their SHA-256, equal which of the originals; only those of a fitting size are read."""
    sizes = {_size(path) for path in given.values()}
    found = [(_sha256(path), path) for path in originals if _size(path) in sizes]
    return [(given[digest], path) for digest, path in found if digest is not None and digest in given]


def _size(path: str) -> int | None:
    try:
        return Path(path).stat().st_size
    except OSError:
        return None


def _warn_of_memorised(
    unit: UnitFolder, paths: Sequence[str], scores: Sequence[float], before: Calibration, progress: Progress
) -> None:
    near_zero = [paths[i] for i in known_by_heart(scores, before.scores or scores)]
    if near_zero:
        more = f" and {len(near_zero) - 1} more" if len(near_zero) > 1 else ""
        progress.warn(
            f"{unit}: {near_zero[0]}{more}: the score is near zero, as if the model had learned this image; "
            "a threshold from such images is too low"
        )
