"""The verb `check`: look at every file of a data set before work is spent on it, and say all that is wrong at once."""

from __future__ import annotations

import hashlib
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from uadctl.datasets import LayoutError, load_dataset
from uadctl.errors import DataError, Problem
from uadctl.imaging.files import read_image, read_mask
from uadctl.plan import build_detector, choose_categories, limited
from uadctl.progress import Progress, Silent
from uadctl.records import Sample, Size, Split
from uadctl.runs.fitted import geometry_for
from uadctl.spec import DatasetTable, resolve_dataset
from uadctl.spec.grammar import usable_cores

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from uadctl.datasets import Dataset
    from uadctl.imaging.geometry import Geometry
    from uadctl.spec import RunSpec

_SPLITS: tuple[Split, ...] = ("train", "validation", "test")

_ADD_MASKS = 'Add the masks, or leave these images out of the pixel metrics with: [dataset] on_error = "skip"'
_SKIP_BROKEN = 'Replace the files, or leave them out with: [dataset] on_error = "skip"'


@dataclass(frozen=True, slots=True)
class Count:
    """Images of one kind: their split, "good" or the kind of defect, how many, and how many of them have a mask."""

    split: Split
    defect: str
    images: int
    masks: int


@dataclass(frozen=True, slots=True)
class SizeCount:
    """How many images have a size, as displayed."""

    size: Size
    images: int


@dataclass(frozen=True, slots=True)
class CategoryReport:
    """What a category holds.

    counts: train before validation before test, good before the defects.
    sizes:  of the images that could be read, smallest first.
    """

    category: str
    counts: tuple[Count, ...]
    sizes: tuple[SizeCount, ...]

    @property
    def images(self) -> int:
        """All images, broken ones included."""
        return sum(count.images for count in self.counts)


@dataclass(frozen=True, slots=True)
class Report:
    """What a check has found.

    name, root: the data set. categories: those whose folders could be understood.
    errors:   what makes a bench fail, or its results untrue.
    warnings: what a bench gets over, at a price.
    """

    name: str
    root: str | None
    categories: tuple[CategoryReport, ...]
    errors: tuple[Problem, ...]
    warnings: tuple[Problem, ...]

    @property
    def ok(self) -> bool:
        """Whether there are no errors."""
        return not self.errors


def check_dataset(
    name: str,
    *,
    root: str | None = None,
    categories: Sequence[str] | None = None,
    split: str | None = None,
    progress: Progress | None = None,
) -> Report:
    """Read every image and mask of a data set and report everything that is wrong.

    name: of the data set, or an alias. root: its folder. categories: names and globs; None: all found.
    split: the data set's own name for its test split, None for its default.

    Errors are what would end a bench with default settings: folders that are not as they should be, images and masks
    that cannot be read, masks of another size than their image, a defect image without mask where others have one, no
    image to train or test on; and leaks: images that are both learned and tested on. Warnings: equal images within a
    split, masks without or full of defect pixels, metrics that will be null, a threshold that cannot be set.
    Images are equal if their pixels are, decoded to what a model sees.

    Time is linear in the images. Memory holds as many decoded images as threads, and a few hundred bytes of each other.

    Raises SpecError for an unknown name or category, DataError where the root is missing or holds no category.
    """
    table = DatasetTable(
        name=resolve_dataset(name).name,
        root=root,
        categories="all" if categories is None else tuple(categories),
        split=split,
    )
    return _check(table, _Use(), threads=usable_cores(), progress=progress or Silent())


def check_spec(spec: RunSpec, *, progress: Progress | None = None) -> Report:
    """`check_dataset` for the images that a bench of this spec would read, held against the spec's settings.

    `[dataset]` limits and `on_error`, `[metrics] pixel`, `[calibration] split` and a `[preprocess]` crop that does not
    fit are taken into account. Raises SpecError as well where a model does not take its parameters.
    """
    geometries = (geometry_for(spec.preprocess, stride=build_detector(spec, m).stride) for m in spec.models)
    use = _Use(
        pixel=spec.metrics.pixel,
        needs_validation=spec.calibration.split == "validation",
        holdout=spec.calibration.holdout,
        geometries=tuple(dict.fromkeys(geometries)),
    )
    return _check(spec.dataset, use, threads=spec.run.threads, progress=progress or Silent())


@dataclass(frozen=True, slots=True)
class _Use:
    """What a bench would do with the data, beyond what its `[dataset]` table says."""

    pixel: bool = True
    needs_validation: bool = False
    holdout: float | None = None
    geometries: tuple[Geometry, ...] = ()


@dataclass(slots=True)
class _Findings:
    errors: list[Problem] = field(default_factory=list)
    warnings: list[Problem] = field(default_factory=list)

    def error(self, message: str, help: str | None = None) -> None:
        self.errors.append(Problem(message, help))

    def warning(self, message: str, help: str | None = None) -> None:
        self.warnings.append(Problem(message, help))

    def unusable(self, message: str, *, skipped: bool, help: str | None = None) -> None:
        """What ends a unit of work, or is left out of it where the spec says so."""
        if skipped:
            self.warning(f"{message}; it will be left out")
        else:
            self.error(message, help)


def _check(table: DatasetTable, use: _Use, *, threads: int, progress: Progress) -> Report:
    findings = _Findings()
    categories = []
    for category in choose_categories(table):
        try:
            dataset = load_dataset(table.name, table.root, category=category, split=table.split, files=table.files)
        except LayoutError as error:
            findings.errors += error.problems
        except DataError as error:
            findings.error(error.message, error.help)
        else:
            categories.append(_check_category(dataset, table, use, findings, threads=threads, progress=progress))
    return Report(table.name, table.root, tuple(categories), tuple(findings.errors), tuple(findings.warnings))


def _check_category(
    dataset: Dataset, table: DatasetTable, use: _Use, findings: _Findings, *, threads: int, progress: Progress
) -> CategoryReport:
    train, test = limited(dataset.train, table.limit_train), limited(dataset.test, table.limit_test)
    samples = (*train, *dataset.validation, *test)
    skips = table.on_error == "skip"
    if use.pixel:
        _missing_masks(dataset, test, findings, skips=skips)
    sizes: Counter[Size] = Counter()
    first: dict[Size, Sample] = {}
    alike: dict[bytes, list[Sample]] = {}
    readable: Counter[tuple[Split, int]] = Counter()
    with progress.task(f"check {dataset.category}", len(samples)) as task:
        for sample, seen in _look_at_all(samples, threads=threads):
            if seen.error is not None:
                findings.unusable(str(seen.error), skipped=skips, help=seen.error.help or _SKIP_BROKEN)
            for broken in seen.broken_masks if use.pixel else ():
                findings.unusable(str(broken), skipped=skips, help=broken.help)
            _mask_content(sample, seen.defect_share, findings)
            if seen.size is not None:
                sizes[seen.size] += 1
                first.setdefault(seen.size, sample)
                alike.setdefault(seen.digest, []).append(sample)
                readable[sample.split, sample.label] += 1
            task.advance()
    for group in alike.values():
        if len(group) > 1:
            _duplicates(group, findings)
    _crops(first, sizes, use.geometries, findings, skips=skips)
    _enough(dataset, (len(train), len(test)), readable, use, findings, skips=skips)
    return CategoryReport(
        dataset.category, _counts(samples), tuple(SizeCount(size, n) for size, n in sorted(sizes.items()))
    )


def _counts(samples: Iterable[Sample]) -> tuple[Count, ...]:
    images: Counter[tuple[Split, str]] = Counter()
    masks: Counter[tuple[Split, str]] = Counter()
    for sample in samples:
        images[sample.split, sample.defect] += 1
        masks[sample.split, sample.defect] += bool(sample.masks)
    order = sorted(images, key=lambda kind: (_SPLITS.index(kind[0]), kind[1] != "good", kind[1]))
    return tuple(Count(split, defect, images[split, defect], masks[split, defect]) for split, defect in order)


# --- one file at a time


@dataclass(frozen=True, slots=True)
class _Seen:
    """What is kept of an image once its pixels are gone.

    size, digest: of the decoded pixels; absent, and `error` in their place, if the image cannot be read.
    defect_share: of the pixels of its masks together; None without masks, or if one of them is broken.
    """

    size: Size | None = None
    digest: bytes = b""
    error: DataError | None = None
    broken_masks: tuple[DataError, ...] = ()
    defect_share: float | None = None


def _look_at_all(samples: Sequence[Sample], *, threads: int) -> Iterator[tuple[Sample, _Seen]]:
    """Look at the images in threads; what comes out is in order, and only a window of them is on its way."""
    waiting: deque[tuple[Sample, Future[_Seen]]] = deque()
    pool = ThreadPoolExecutor(max(1, threads), thread_name_prefix="check")
    try:
        for sample in samples:
            waiting.append((sample, pool.submit(_look, sample)))
            if len(waiting) > 4 * threads:
                done, seen = waiting.popleft()
                yield done, seen.result()
        while waiting:
            done, seen = waiting.popleft()
            yield done, seen.result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _look(sample: Sample) -> _Seen:
    size, digest, error = None, b"", None
    try:
        size, digest = _pixels(sample.path)
    except DataError as wrong:
        error = wrong
    broken: list[DataError] = []
    union: NDArray[np.uint8] | None = None
    for path in sample.masks:
        try:
            # Without the image, nothing is known of the size that its masks should have.
            mask = read_mask([path], size=size)
        except DataError as wrong:
            broken.append(wrong)
            continue
        if size is not None:
            union = mask if union is None else union | mask
    share = None if broken or union is None else float(union.mean())
    return _Seen(size, digest, error, tuple(broken), share)


def _pixels(path: str) -> tuple[Size, bytes]:
    image = read_image(path)
    size = Size(*image.shape[:2])
    digest = hashlib.sha256(str(size).encode())
    digest.update(np.ascontiguousarray(image).data)
    return size, digest.digest()


# --- what is wrong


def _missing_masks(dataset: Dataset, test: Sequence[Sample], findings: _Findings, *, skips: bool) -> None:
    missing = [sample for sample in test if sample.expected_mask is not None]
    defects = sum(sample.label == 1 for sample in test)
    if not dataset.has_masks:
        if defects:
            findings.warning(
                f"{dataset.category}: none of {defects} defect images has a mask; the pixel metrics will be null",
                f"The first was looked for at {missing[0].expected_mask}" if missing else None,
            )
        return
    for sample in missing:
        message = f"{sample.path}: no mask at {sample.expected_mask}"
        if skips:
            findings.warning(f"{message}; its pixels will be left out")
        else:
            findings.error(message, _ADD_MASKS)


def _mask_content(sample: Sample, share: float | None, findings: _Findings) -> None:
    whose = ", ".join(sample.masks)
    if share == 0:
        findings.warning(
            f"{whose}: no pixel is above 0, though {sample.path} is a defect image",
            "Its pixels count as good. Draw the defect, or move the image to the good ones.",
        )
    elif share == 1:
        findings.warning(
            f"{whose}: every pixel of {sample.path} is marked as a defect",
            "A pixel above 0 is a defect: is the mask inverted, or 1 where it should be 0?",
        )


def _duplicates(group: Sequence[Sample], findings: _Findings) -> None:
    """Say of images with equal pixels that they are equal: across splits an error, within one a warning."""
    by_split: dict[Split, Sample] = {}
    for sample in group:
        by_split.setdefault(sample.split, sample)
    leak = len(by_split) > 1
    named = list(by_split.values()) if leak else group[:2]
    paths = [sample.path for sample in named]
    rest = f" (and {len(group) - len(named)} more)" if len(group) > len(named) else ""
    how = "byte for byte" if _equal_files(group) else "pixel for pixel"
    message = f"{', '.join(paths[:-1])} and {paths[-1]}{rest} are equal {how}"
    if leak:
        findings.error(
            message, "Keep one of them: an image that is learned, or sets the threshold, must not be in another split."
        )
        return
    kinds = sorted({sample.defect for sample in group})
    if len({sample.label for sample in group}) > 1:
        message += f", though they are called {', '.join(kinds[:-1])} and {kinds[-1]}"
    findings.warning(message, "Keep one of them: each copy counts as an image of its own.")


def _equal_files(group: Sequence[Sample]) -> bool:
    digests = set()
    for sample in group:
        try:
            with Path(sample.path).open("rb") as stream:
                digests.add(hashlib.file_digest(stream, "sha256").digest())
        except OSError:  # it was readable a moment ago, and its pixels are known to be equal
            return False
    return len(digests) == 1


def _crops(
    first: dict[Size, Sample],
    sizes: Counter[Size],
    geometries: Sequence[Geometry],
    findings: _Findings,
    *,
    skips: bool,
) -> None:
    for size in sorted(first):
        for geometry in geometries:
            try:
                geometry.plan(size)
            except DataError as error:
                others = f" (and {sizes[size] - 1} more images of this size)" if sizes[size] > 1 else ""
                findings.unusable(f"{first[size].path}{others}: {error}", skipped=skips, help=error.help)


def _enough(
    dataset: Dataset,
    used: tuple[int, int],
    readable: Counter[tuple[Split, int]],
    use: _Use,
    findings: _Findings,
    *,
    skips: bool,
) -> None:
    """Whether there is enough to learn from and to measure on. used: training and test images, broken ones included."""
    category, (train, test) = dataset.category, used
    good_train = readable["train", 0]
    if not train:
        findings.error(f"{category}: no training image", "A model needs good images to learn from.")
    elif not good_train and skips:
        findings.error(f"{category}: none of {train} training images can be read")
    elif use.holdout is not None and max(1, round(use.holdout * train)) >= train:
        findings.error(
            f"{category}: [calibration] holdout = {use.holdout} of {train} training images leaves none to learn from"
        )
    elif dataset.validation and not readable["validation", 0]:
        findings.warning(
            f"{category}: none of {len(dataset.validation)} validation images can be read; "
            "there will be no threshold, and the verdicts will be null"
        )
    elif good_train == 1 and not dataset.validation:
        findings.warning(
            f"{category}: a single training image and no validation images; "
            "there will be no threshold, and the verdicts will be null",
            "Add good images: at least two, better fifty.",
        )
    if use.needs_validation and not dataset.validation:
        findings.error(f'{category}: [calibration] split = "validation", but it has no validation images')
    normal, defects = readable["test", 0], readable["test", 1]
    if not test:
        findings.error(f"{category}: no test image", "A bench needs good and bad images to measure on.")
    elif not normal and not defects:
        findings.warning(f"{category}: no test image that can be read has a label; the metrics will be null")
    elif not defects:
        findings.warning(
            f"{category}: the test split has no defect image ({normal} normal); image and pixel metrics will be null"
        )
    elif not normal:
        findings.warning(
            f"{category}: the test split has no normal image ({defects} defect); the image metrics will be null"
        )
