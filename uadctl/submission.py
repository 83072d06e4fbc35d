"""The verb `submission`: maps of MVTec AD 2's private images, in the files that its evaluation server takes.

    DIR/anomaly_images/<object>/<split>/<stem>.tiff                float16 maps of the image's size, higher = anomalous
    DIR/anomaly_images_thresholded/<object>/<split>/<stem>.png     8-bit, one channel: 255 = anomalous, 0 = not

for the splits test_private and test_private_mixed, and nothing else beside them. Source: the program that checks a
submission before its upload in MVTec's public code utilities for AD 2 (2025), of which copies lie in public
repositories. The server itself (benchmark.mvtec.com) was not asked.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any, TypeVar, cast

import numpy as np

from uadctl.datasets.mvtec_ad2 import PRIVATE_SPLITS
from uadctl.datasets.sorted_folders import category_folders
from uadctl.errors import DataError, Problem, RunError, SpecError, with_help
from uadctl.imaging.files import (
    LARGEST_FLOAT16,
    image_size,
    read_stored_map,
    read_stored_png,
    write_map,
    write_png,
)
from uadctl.imaging.listing import files_in, is_folder, is_image_name, joined
from uadctl.inference import Outcome, stream, use_threads
from uadctl.progress import Progress, Silent
from uadctl.records import Size
from uadctl.spec.grammar import usable_cores
from uadctl.spec.values import nearest, shown

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from uadctl.runs.fitted import Fitted, PixelScale

_T = TypeVar("_T")

OBJECTS = {
    "can": 321,
    "fabric": 314,
    "fruit_jelly": 255,
    "rice": 277,
    "sheet_metal": 142,
    "vial": 276,
    "wallplugs": 232,
    "walnuts": 228,
}
"""The objects of MVTec AD 2, and how many images each of their two private splits has."""

SPLITS = PRIVATE_SPLITS

# What images are called: 000_regular.png, 001_regular.png, … in the first split, 000_mixed.png, … in the other.
_LIGHT = {"test_private": "regular", "test_private_mixed": "mixed"}

_MAPS, _THRESHOLDED = "anomaly_images", "anomaly_images_thresholded"
_SUFFIX = {_MAPS: ".tiff", _THRESHOLDED: ".png"}

# Maps are written as they are while the scores of normal pixels are of this order. The upper end leaves a factor of
# 500 to the largest float16, the lower one a factor of 250 to the smallest that has all 11 bits.
_COMFORTABLE = (2.0**-6, 2.0**7)
# With fewer float16 values than these to a standard deviation of normal pixels, rounding makes ties that metrics feel.
_FEW_LEVELS = 16

_WRITE_AGAIN = "Write it again: uadctl bench SPEC --submission DIR"
_REFUSED = "Remove it: MVTec's check before the upload refuses whatever is not part of a submission."


@dataclass(frozen=True, slots=True)
class PrivateImage:
    """An image whose ground truth only the server has. stem: what its files in a submission are called."""

    path: str
    split: str
    stem: str


@dataclass(frozen=True, slots=True)
class SubmissionPart:
    """What was written for one object.

    images: how many have a map and a thresholded map. called: how many of them have a pixel at or above `threshold`.
    exponent: the maps are the scores times 2**exponent; 0 unless float16 would not hold the scores as they are.
    """

    category: str
    images: int
    called: int
    threshold: float
    exponent: int


def private_images(root: str, category: str) -> list[PrivateImage]:
    """The images of both private splits of an object, sorted by bytes within each split.

    root: the folder of the data set. Raises DataError where a split is missing or empty, or two images have one stem.
    """
    found = []
    home = category_folders(root, _has_private).get(category) or joined(root, category)
    for split in SPLITS:
        folder = joined(home, split)
        by_stem: dict[str, str] = {}
        for name in filter(is_image_name, files_in(folder)):
            stem = PurePath(name).stem
            if stem in by_stem:
                raise DataError(
                    f"{joined(folder, by_stem[stem])} and {joined(folder, name)}: both would be {stem}.tiff",
                    help="Remove the one that is not of the data set.",
                )
            by_stem[stem] = name
        if not by_stem:
            raise DataError(
                f"{folder} holds no image", help=f"A submission needs the images of {' and '.join(SPLITS)}."
            )
        found += [PrivateImage(joined(folder, name), split, stem) for stem, name in by_stem.items()]
    return found


def private_categories(root: str) -> list[str]:
    """The folders of a data set that have a private split, sorted by bytes. DataError if there is none."""
    found = list(category_folders(root, _has_private))
    if not found:
        raise DataError(f"{root} holds no private images: expected {root}/<object>/{SPLITS[0]}")
    return found


def _has_private(home: str) -> bool:
    return any(is_folder(joined(home, split)) for split in SPLITS)


def write_submission(
    folder: str,
    *,
    root: str,
    category: str,
    fitted: Fitted,
    threads: int = 2,
    progress: Progress | None = None,
    warn: Callable[[str], None] | None = None,
) -> SubmissionPart:
    """Score both private splits of one object and write the two files of each image.

    warn: is told of what a run's record should keep; None: `progress` is.
    folder: of the submission; made if absent. Files of the same names are replaced, others left alone.
    root: the folder of the data set. category: the object. fitted: a model of it that has a pixel threshold.

    A pixel is called anomalous iff its float32 score is at or above the run's pixel threshold, before the map is
    rounded to float16. Where float16 would not hold the scores, all maps of the object are multiplied by one power of
    two, which keeps their order, and which stands in the files' ImageDescription; if a score turns out to be larger
    than normal pixels let expect, the object is scored a second time for it. A file beside the folders would be
    refused by the server's check, so there is none.

    Raises RunError for a model without maps or pixel threshold; DataError for maps that leave out pixels, and at the
    end for images that cannot be read, all of them: the others' files are written then.
    """
    progress = progress or Silent()
    warn = warn or progress.warn
    images = private_images(root, category)
    pixel = fitted.calibration.pixel
    if pixel is None:
        raise RunError(
            f"{category}: the model has no pixel threshold, and a submission needs one",
            help="It comes from the maps of normal images; thresholds.json says why there is none.",
        )
    use_threads(threads)
    writing = _Writing(folder, category, images, fitted, pixel.threshold, threads, progress)
    exponent = _exponent(pixel)
    written = writing.write(exponent)
    if not _fits(written.largest, exponent):
        exponent = 15 - math.frexp(written.largest)[1]
        warn(
            f"{category}: a score of {written.largest:g} is far above those of normal images; "
            f"all are scored again, to be written times 2**{exponent}"
        )
        writing.remove_maps()
        written = writing.write(exponent)
    _warn_of_ties(category, pixel, exponent, warn)
    return SubmissionPart(category, len(images), written.called, pixel.threshold, exponent)


def _exponent(pixel: PixelScale) -> int:
    """By which power of two maps become fit for float16: 0, or what brings normal pixels between 1 and 2."""
    # Not the threshold, which the user may have set to anything.
    normal = abs(pixel.mean) + 3 * pixel.std
    if normal == 0 or _COMFORTABLE[0] <= normal < _COMFORTABLE[1]:
        return 0
    return 1 - math.frexp(normal)[1]


def _fits(largest: float, exponent: int) -> bool:
    return math.ldexp(largest, exponent) <= LARGEST_FLOAT16


def _warn_of_ties(category: str, pixel: PixelScale, exponent: int, warn: Callable[[str], None]) -> None:
    step = float(np.spacing(np.float16(math.ldexp(abs(pixel.mean), exponent))))
    levels = math.ldexp(pixel.std, exponent) / step
    if 0 < levels < _FEW_LEVELS:
        warn(
            f"{category}: the scores of normal pixels, {pixel.mean:g} ± {pixel.std:g}, have {levels:.2g} float16 "
            "values to a standard deviation: many will tie in the submission that do not tie in the run"
        )


@dataclass(frozen=True, slots=True)
class _Written:
    """called: images with an anomalous pixel. largest: the greatest magnitude of a score."""

    called: int
    largest: float


@dataclass(frozen=True, slots=True)
class _Writing:
    """What does not change when an object is scored a second time."""

    folder: str
    category: str
    images: Sequence[PrivateImage]
    fitted: Fitted
    threshold: float
    threads: int
    progress: Progress

    def write(self, exponent: int) -> _Written:
        """Score the images and write their files; not those maps that float16 does not hold times 2**exponent."""
        called, largest = 0, 0.0
        problems: list[str] = []
        paths = [image.path for image in self.images]
        found = stream(self.fitted.detector, paths, intake=self.fitted.intake, threads=self.threads, in_memory=True)
        with self.progress.task(f"submission {self.category}", len(paths)) as task:
            for image, item in zip(self.images, found, strict=True):
                if item.prediction is None:
                    problems.append(str(item.error))
                else:
                    scores = _whole_map(image, item.prediction, self.fitted)
                    # By the map with NaN: where the camera does not look nothing is anomalous, whatever the threshold.
                    anomalous = np.asarray(item.prediction.map) >= self.threshold
                    magnitude = float(np.abs(scores).max())
                    self._write_files(image, scores if _fits(magnitude, exponent) else None, anomalous, exponent)
                    called += bool(anomalous.any())
                    largest = max(largest, magnitude)
                task.advance()
        if problems:
            raise DataError(
                with_help(
                    problems, f"Replace them and write it again: {self.folder} is not complete without their maps."
                )
            )
        return _Written(called, largest)

    def remove_maps(self) -> None:
        """So that an interruption leaves maps that are missing, which a check sees, and not some of another scale."""
        for image in self.images:
            Path(_file(self.folder, _MAPS, self.category, image.split, image.stem)).unlink(missing_ok=True)

    def _write_files(
        self, image: PrivateImage, scores: NDArray[np.float32] | None, anomalous: NDArray[np.bool_], exponent: int
    ) -> None:
        maps, thresholded = (_file(self.folder, kind, self.category, image.split, image.stem) for kind in _SUFFIX)
        if scores is not None:
            note = f"scores times 2**{exponent}" if exponent else None
            write_map(maps, np.ldexp(scores, exponent), precision="float16", note=note)
        write_png(thresholded, anomalous.astype(np.uint8) * np.uint8(255))


def _whole_map(image: PrivateImage, prediction: Outcome, fitted: Fitted) -> NDArray[np.float32]:
    """The map, if it has a finite score for every pixel: a server can do nothing with another."""
    said = cast("NDArray[np.float32] | None", prediction.map)  # of images that the server has, none too large
    if said is None:
        raise RunError(f"{image.path}: {fitted.model} makes no map, and a submission needs one of each image")
    scores = fitted.intake.blanked(said)
    wrong = int(np.count_nonzero(~np.isfinite(scores)))
    if wrong:
        raise DataError(
            f"{image.path}: {wrong} of {scores.size} pixels have no finite score, and a submission covers every pixel",
            help=None if fitted.geometry.crop is None else "Leave out [preprocess] crop.",
        )
    return scores


def _file(folder: str, kind: str, category: str, split: str, stem: str) -> str:
    return joined(folder, f"{kind}/{category}/{split}/{stem}{_SUFFIX[kind]}")


# --- the check


@dataclass(frozen=True, slots=True)
class SplitReport:
    """One split of an object in a submission. images: its maps. called: how many images have an anomalous pixel."""

    split: str
    images: int
    called: int


@dataclass(frozen=True, slots=True)
class ObjectReport:
    """One object of a submission."""

    category: str
    splits: tuple[SplitReport, ...]

    @property
    def images(self) -> int:
        return sum(split.images for split in self.splits)


@dataclass(frozen=True, slots=True)
class SubmissionReport:
    """What a check has found.

    folder: the submission. root: the data set it was held against, or None.
    errors:   what the server, or MVTec's check before the upload, refuses, and what does not belong to the data set.
    warnings: what is allowed and hardly meant; and what an upload lacks that a part of the data set cannot have.
    """

    folder: str
    root: str | None
    objects: tuple[ObjectReport, ...]
    errors: tuple[Problem, ...]
    warnings: tuple[Problem, ...]

    @property
    def ok(self) -> bool:
        """Whether there are no errors."""
        return not self.errors

    @property
    def images(self) -> int:
        """The maps of all objects, broken ones included."""
        return sum(found.images for found in self.objects)


def check_submission(
    folder: str,
    *,
    root: str | None = None,
    categories: Sequence[str] | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
) -> SubmissionReport:
    """Read every file of a submission and report everything that is wrong.

    folder: of the submission. root: the folder of the data set, if it is at hand: then every private image must have
    its two files, of its size, and there must be no others. categories: names and globs; None: with `root` all objects
    there, without it those in the submission. threads: None for all cores.

    Always checked: nothing but the two folders of maps, the objects in them and their splits, hidden files included;
    each map a TIFF of one page of finite float16, each thresholded map a one-channel 8-bit PNG of 0 and 255, of equal
    names and sizes. Warned about: objects and images that MVTec's check would miss, and files that hold one value only.

    Time is linear in the images. Memory holds as many images as threads, and a few hundred bytes of each other.
    Raises DataError where the submission or the root is missing, SpecError for a category that is not there.
    """
    if not is_folder(folder):
        raise DataError(f"{folder}: no such folder", help="Make one with: uadctl bench SPEC --submission DIR")
    check = _Check(folder, root, threads or usable_cores(), progress or Silent())
    known = list(OBJECTS) if root is None else private_categories(root)
    there = {kind: check.top(kind, known) for kind in _SUFFIX}
    check.surplus(folder, keep=tuple(_SUFFIX))
    present = sorted({name for names in there.values() if names for name in names})
    chosen = (known if root is not None else present) if categories is None else _chosen(categories, known, root)
    objects = tuple(check.object(name, there) for name in chosen)
    if categories is None:
        _missing_objects(folder, sorted({*known, *present} if root is not None else present), check)
    return SubmissionReport(folder, root, objects, tuple(check.errors), tuple(check.warnings))


def _chosen(patterns: Iterable[str], known: Sequence[str], root: str | None) -> list[str]:
    chosen: dict[str, None] = {}
    absent = []
    for pattern in patterns:
        fitting = [name for name in known if fnmatchcase(name, pattern)]
        chosen.update(dict.fromkeys(fitting))
        if not fitting:
            close = nearest(pattern, known)
            hint = f"; did you mean {close}?" if close else ""
            where = root or "MVTec AD 2"
            absent.append(Problem(f"{where} has no object {shown(pattern)}{hint}", f"Found: {', '.join(known)}"))
    if absent:
        raise SpecError(absent)
    return list(chosen)


def _missing_objects(folder: str, known: Sequence[str], check: _Check) -> None:
    missing = [name for name in OBJECTS if name not in known]
    if missing:
        check.warnings.append(
            Problem(
                f"{folder}: {len(missing)} of {len(OBJECTS)} objects are missing: {', '.join(missing)}",
                "MVTec's check before the upload takes only all of them.",
            )
        )


@dataclass(frozen=True, slots=True)
class _Pair:
    """The files of one image, those that are there. image: of the data set, if it is at hand."""

    map: str | None
    thresholded: str | None
    image: str | None


@dataclass(frozen=True, slots=True)
class _Seen:
    """What is kept of a pair. share: of pixels that are 255. low, high: of the map. None where it cannot be said."""

    errors: tuple[Problem, ...]
    share: float | None
    low: float | None
    high: float | None


@dataclass(slots=True)
class _Check:
    """A check on its way, with what it has found so far."""

    folder: str
    root: str | None
    threads: int
    progress: Progress
    errors: list[Problem] = field(default_factory=list)
    warnings: list[Problem] = field(default_factory=list)

    def error(self, message: str, help: str | None = None) -> None:
        self.errors.append(Problem(message, help))

    def surplus(self, folder: str, *, keep: Container[str]) -> None:
        """Say of everything in a folder but these names that it must go."""
        for name in _names(folder):
            if name not in keep:
                self.error(f"{joined(folder, name)}: not part of a submission", _REFUSED)

    def top(self, kind: str, known: Sequence[str]) -> list[str] | None:
        """The objects in one of the two folders; None if it is missing."""
        folder = joined(self.folder, kind)
        if not is_folder(folder):
            self.error(f"{folder}: no such folder", _WRITE_AGAIN)
            return None
        self.surplus(folder, keep={*known, *OBJECTS})
        for name in _names(folder):
            if name in OBJECTS and name not in known:
                self.error(f"{joined(folder, name)}: {self.root} has no such object", "Give the root it was made from.")
        return [name for name in _names(folder) if name in known and is_folder(joined(folder, name))]

    def object(self, category: str, there: Mapping[str, list[str] | None]) -> ObjectReport:
        """Everything about one object. there: the objects in each of the two folders."""
        kinds = []
        for kind, names in there.items():
            folder = joined(self.folder, f"{kind}/{category}")
            if names is not None and category not in names:
                self.error(f"{folder}: no such folder", _WRITE_AGAIN)
            elif names is not None:
                self.surplus(folder, keep=SPLITS)
                kinds.append(kind)
        images = self._images(category)
        pairs = {split: self._pairs(category, split, kinds, images) for split in SPLITS}
        seen = {split: list(self._look(category, pairs[split])) for split in SPLITS}
        self._say_odd(category, [pair for split in SPLITS for pair in seen[split]])
        return ObjectReport(
            category,
            tuple(
                SplitReport(
                    split,
                    sum(pair.map is not None for pair in pairs[split]),
                    sum(bool(found.share) for found in seen[split]),
                )
                for split in SPLITS
            ),
        )

    def _images(self, category: str) -> dict[str, dict[str, str]] | None:
        """The private images of an object as split -> stem -> path, or None if the data set is not at hand."""
        if self.root is None:
            return None
        images: dict[str, dict[str, str]] = {split: {} for split in SPLITS}
        try:
            for image in private_images(self.root, category):
                images[image.split][image.stem] = image.path
        except DataError as error:
            self.error(error.message, error.help)
            return None
        return images

    def _pairs(
        self, category: str, split: str, kinds: Sequence[str], images: dict[str, dict[str, str]] | None
    ) -> list[_Pair]:
        """The files of a split, matched by name, with what is missing or too much said."""
        files = {kind: self._files(kind, category, split) for kind in kinds}
        listed = {kind: stems for kind, stems in files.items() if stems is not None}
        wanted = images[split] if images is not None else {stem: "" for stems in listed.values() for stem in stems}
        before = len(self.errors)
        for kind, stems in listed.items():
            other = next((k for k in listed if k != kind), None)
            for stem in sorted(wanted, key=os.fsencode):
                if stem not in stems:
                    of = wanted[stem] or (other and _file(self.folder, other, category, split, stem))
                    self.error(f"{_file(self.folder, kind, category, split, stem)}: missing, for {of}", _WRITE_AGAIN)
            for stem in stems:
                if stem not in wanted:
                    self.error(f"{stems[stem]}: {self.root} has no such image", _REFUSED)
        if len(listed) == len(_SUFFIX) and len(self.errors) == before:
            self._say_unofficial(category, split, wanted)
        maps, thresholded = (listed.get(kind, {}) for kind in _SUFFIX)
        return [
            _Pair(maps.get(stem), thresholded.get(stem), wanted.get(stem) or None)
            for stem in sorted({*maps, *thresholded}, key=os.fsencode)
        ]

    def _files(self, kind: str, category: str, split: str) -> dict[str, str] | None:
        """The files of one kind in a split as stem -> path; None if the folder is missing."""
        folder = joined(self.folder, f"{kind}/{category}/{split}")
        if not is_folder(folder):
            self.error(f"{folder}: no such folder", _WRITE_AGAIN)
            return None
        suffix = _SUFFIX[kind]
        names = [name for name in _names(folder) if name.endswith(suffix) and not name.startswith(".")]
        self.surplus(folder, keep=set(names))
        return {name.removesuffix(suffix): joined(folder, name) for name in names}

    def _say_unofficial(self, category: str, split: str, stems: Iterable[str]) -> None:
        n = OBJECTS.get(category)
        if n is None:
            return
        official = [f"{i:03}_{_LIGHT[split]}" for i in range(n)]
        found = sorted(stems)
        if found != official:
            self.warnings.append(
                Problem(
                    f"{joined(self.folder, f'{_MAPS}/{category}/{split}')}: maps of {len(found)} images; "
                    f"the server expects {n}, {official[0]} to {official[-1]}",
                    "A part of the data set can be checked here; the server takes only the whole.",
                )
            )

    def _look(self, category: str, pairs: Sequence[_Pair]) -> Iterator[_Seen]:
        pool = ThreadPoolExecutor(max(1, self.threads), thread_name_prefix="check")
        try:
            with self.progress.task(f"check {category}", len(pairs)) as task:
                for seen in pool.map(_look_at, pairs):
                    self.errors += seen.errors
                    task.advance()
                    yield seen
        finally:
            pool.shutdown(wait=False, cancel_futures=True)

    def _say_odd(self, category: str, seen: Sequence[_Seen]) -> None:
        """What is allowed and hardly meant, of all images of an object together."""
        shares = [found.share for found in seen if found.share is not None]
        what = {0.0: "0 everywhere", 1.0: "255 everywhere"}
        if shares and all(share in what for share in shares):
            kinds = " or ".join(what[share] for share in sorted(set(shares)))
            self.warnings.append(
                Problem(
                    f"{category}: each of {len(shares)} thresholded maps is {kinds}",
                    "Is that the threshold that was meant? It is the run's pixel threshold.",
                )
            )
        ranges = [(found.low, found.high) for found in seen if found.low is not None and found.high is not None]
        if ranges and min(low for low, _ in ranges) == max(high for _, high in ranges):
            self.warnings.append(Problem(f"{category}: every pixel of {len(ranges)} maps is {ranges[0][0]:g}"))


def _names(folder: str) -> list[str]:
    """Everything in a folder, hidden names too, sorted by bytes."""
    try:
        return sorted(os.listdir(folder), key=os.fsencode)  # noqa: PTH208 - names as bytes have them
    except OSError as error:
        raise DataError(f"{folder}: cannot be read ({error.strerror or error})") from error


def _look_at(pair: _Pair) -> _Seen:
    errors: list[DataError] = []
    size = _tried(image_size, pair.image, errors)
    scores = _tried(_read_map, pair.map, errors)
    verdicts = _tried(_read_thresholded, pair.thresholded, errors)
    whose = "image"
    if size is None and scores is not None:
        size, whose = Size(*scores.shape), "map"
    for path, pixels in ((pair.map, scores), (pair.thresholded, verdicts)):
        if size is not None and pixels is not None and pixels.shape != size:
            found = Size(*pixels.shape)
            errors.append(DataError(f"{path} is {found}, its {whose} is {size} (height x width)", help=_WRITE_AGAIN))
    return _Seen(
        tuple(problem for error in errors for problem in error.problems),
        share=None if verdicts is None else np.count_nonzero(verdicts) / verdicts.size,
        low=None if scores is None else float(scores.min()),
        high=None if scores is None else float(scores.max()),
    )


def _tried(read: Callable[[str], _T], path: str | None, errors: list[DataError]) -> _T | None:
    """What is read of a file; None if there is none, or it is broken, which is noted."""
    if path is None:
        return None
    try:
        return read(path)
    except DataError as error:
        errors.append(error)
        return None


def _read_map(path: str) -> NDArray[Any]:
    scores, pages = read_stored_map(path)
    wrong = []
    if pages != 1:
        wrong.append(f"{path}: {pages} pages, expected one")
    if scores.dtype != np.float16:
        wrong.append(f"{path}: {scores.dtype} values, expected float16")
    if scores.ndim != 2:
        wrong.append(f"{path}: the shape is {scores.shape}, expected (height, width)")
    if scores.dtype.kind == "f" and (n := int(np.count_nonzero(~np.isfinite(scores)))):
        wrong.append(f"{path}: {n} of {scores.size} values are NaN or infinite")
    if wrong:
        raise DataError(with_help(wrong, _WRITE_AGAIN))
    return scores


def _read_thresholded(path: str) -> NDArray[np.uint8]:
    pixels = read_stored_png(path)
    wrong = int(np.count_nonzero((pixels != 0) & (pixels != 255)))
    if wrong:
        raise DataError(
            f"{path}: {wrong} of {pixels.size} pixels are neither 0 nor 255", help="255 is anomalous, 0 is not."
        )
    return pixels
