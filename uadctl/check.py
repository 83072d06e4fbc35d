"""The verb `check`: look at every file of a data set before work is spent on it, and say all that is wrong at once."""

from __future__ import annotations

import functools
import hashlib
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from msgspec.structs import replace

from uadctl.datasets import LayoutError, list_splits
from uadctl.datasets.defects import CONFIG, load_defects
from uadctl.errors import DataError, Problem
from uadctl.imaging.camera import Camera
from uadctl.imaging.files import check_whole
from uadctl.imaging.geometry import Geometry
from uadctl.imaging.raster import defect_count, open_mask
from uadctl.intake import ahead
from uadctl.metrics import check_saturations
from uadctl.metrics.official import sort_of
from uadctl.models.base import TrainedElsewhere
from uadctl.plan import (
    build_detector,
    choose_categories,
    distinct_models,
    in_groups,
    limited,
    load_category,
    parts_held_out,
    parts_of,
    too_few_for_shots,
)
from uadctl.progress import Progress, Silent
from uadctl.records import DefectConfig, Sample, Size, row_boxes
from uadctl.runs.fitted import camera_of, geometry_for
from uadctl.spec import PROTOCOLS, DatasetTable, resolve_dataset
from uadctl.spec.grammar import PreprocessTable, usable_cores

if TYPE_CHECKING:
    from uadctl.datasets import Dataset
    from uadctl.spec import RunSpec

_ADD_MASKS = "Their pixels are left out of the pixel metrics and counted. Add the masks to measure them."
# Pixels of an image that are looked at together.
_AT_ONCE = 1 << 24
_SKIP_BROKEN = 'Replace the files, or leave them out with: [dataset] on_error = "skip"'


@dataclass(frozen=True, slots=True)
class Count:
    """Images of one kind: "good" or the kind of defect, how many, and how many of them have a mask.

    split: "train", "validation" or "test"; where several test splits were looked at, their own names for "test".
    """

    split: str
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

    counts: train before validation before test, the test splits in the registry's order, good before the defects.
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
    errors:   what makes a bench fail.
    warnings: what a bench gets over, at a price; results that are untrue among them.
    notes:    what is no problem, but should be seen: files that lie elsewhere.
    """

    name: str
    root: str | None
    categories: tuple[CategoryReport, ...]
    errors: tuple[Problem, ...]
    warnings: tuple[Problem, ...]
    notes: tuple[Problem, ...] = ()

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
    layout: str | None = None,
    progress: Progress | None = None,
) -> Report:
    """Read every image and mask of a data set and report everything that is wrong.

    name: of the data set, or an alias. root: its folder. categories: names and globs; None: all found.
    split: the data set's own name for its test split; None for all that are on disk where they share no image (MVTec
    AD 2), else for its default. layout: which of several ways to read the folder, None for the one found.

    Errors are what would end a bench with default settings, of any split that is looked at: folders that are not as
    they should be, images and masks that cannot be read, masks of another size than their image, no image to train or
    test on. Warnings: leaks (images that are both learned and tested on), equal images among those learned or among
    those tested on, defect images without mask or among the training images, masks without or full of defect pixels,
    metrics that will be null, a threshold that cannot be set.
    Images are equal if their pixels are, decoded to what a model sees.

    Time is linear in the images. Memory holds as many decoded images as threads, and a few hundred bytes of each other.

    Raises SpecError for an unknown name or category, DataError where the root is missing or holds no category.
    """
    entry = resolve_dataset(name)
    table = DatasetTable(
        name=entry.name,
        root=root,
        categories="all" if categories is None else tuple(categories),
        split=split,
        layout=layout,
    )
    use = _Use(every_split=split is None, protocol=entry.measured_by)
    return _check(table, use, threads=usable_cores(), progress=progress or Silent())


def check_spec(spec: RunSpec, *, progress: Progress | None = None) -> Report:
    """`check_dataset` for the images that a bench of this spec would read, held against the spec's settings.

    `[dataset]` limits, shots and `on_error`, `[metrics] pixel`, `[calibration] split` and a `[preprocess]` crop that
    does not fit are taken into account. Raises SpecError as well where a model does not take its parameters.
    """
    detectors = [build_detector(spec, model) for model in distinct_models(spec)]
    # A tile is padded to its size, so that every resize of it fits.
    geometries = (
        geometry_for(spec.preprocess, stride=detector.stride) if spec.tiling is None else Geometry(size=None)
        for detector in detectors
    )
    learns = not all(isinstance(detector, TrainedElsewhere) and detector.comes_trained for detector in detectors)
    use = _Use(
        pixel=spec.metrics.pixel,
        protocol=spec.metrics.protocol,
        needs_validation=spec.calibration.split == "validation",
        holdout=spec.calibration.holdout if learns else None,
        learns=learns,
        geometries=tuple(dict.fromkeys(geometries)),
        preprocess=spec.preprocess,
        tiled=spec.tiling is not None,
    )
    return _check(spec.dataset, use, threads=spec.run.threads, progress=progress or Silent())


@dataclass(frozen=True, slots=True)
class _Use:
    """What a bench would do with the data, beyond what its `[dataset]` table says.

    every_split: all test splits on disk are looked at, where they share no image.
    learns: a model learns the training images; False where all of them come trained.
    preprocess: the spec's. tiled: images are cut into tiles.
    """

    protocol: str
    pixel: bool = True
    every_split: bool = False
    needs_validation: bool = False
    holdout: float | None = None
    learns: bool = True
    geometries: tuple[Geometry, ...] = ()
    preprocess: PreprocessTable = field(default_factory=PreprocessTable)
    tiled: bool = False

    def camera(self, train: Sequence[Sample], findings: _Findings) -> Camera:
        """How a category's images are seen. What cannot be used of it is found, and the rest is checked without."""
        try:
            return camera_of(self.preprocess, training=[sample.path for sample in train])
        except DataError as error:
            findings.error(error.message, error.help)
            return Camera()


@dataclass(slots=True)
class _Findings:
    errors: list[Problem] = field(default_factory=list)
    warnings: list[Problem] = field(default_factory=list)
    notes: list[Problem] = field(default_factory=list)

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
        dataset = _load(table, category, findings)
        if dataset is not None:
            further = _further_splits(table, category, findings) if use.every_split else {}
            categories.append(
                _check_category(dataset, further, table, use, findings, threads=threads, progress=progress)
            )
    return Report(
        table.name,
        table.root,
        tuple(categories),
        tuple(findings.errors),
        tuple(findings.warnings),
        tuple(findings.notes),
    )


def _load(table: DatasetTable, category: str, findings: _Findings) -> Dataset | None:
    """The images of a category; None where its folders are not as they should be, which is then found."""
    try:
        return load_category(table, category)
    except LayoutError as error:
        findings.errors += error.problems
    except DataError as error:
        findings.error(error.message, error.help)
    return None


def _further_splits(table: DatasetTable, category: str, findings: _Findings) -> dict[str, Dataset]:
    """A category with each test split that is on disk beside the default one, by the split's name.

    Empty where splits share images, which would then be looked at more than once. One that is absent is no problem.
    """
    _, *others = resolve_dataset(table.name).splits
    there = list_splits(table.name, table.root, category=category, layout=table.layout)
    loaded = {split: _load(replace(table, split=split), category, findings) for split in others if split in there}
    return {split: dataset for split, dataset in loaded.items() if dataset is not None}


def _check_category(
    dataset: Dataset,
    further: Mapping[str, Dataset],
    table: DatasetTable,
    use: _Use,
    findings: _Findings,
    *,
    threads: int,
    progress: Progress,
) -> CategoryReport:
    """Look at one category. further: with its other test splits, of which the test images are looked at as well."""
    train, test = limited(dataset.train, table.limit_train), limited(dataset.test, table.limit_test)
    measured = resolve_dataset(table.name).splits[0] if further else "test"
    parts = {"train": train, "validation": dataset.validation, measured: test}
    parts |= {split: other.test for split, other in further.items()}
    samples = [sample for part in parts.values() for sample in part]
    names = [name for name, part in parts.items() for _ in part]
    skips = table.on_error == "skip"
    _elsewhere(dataset, samples, table, findings)
    findings.notes += [Problem(f"{dataset.category}: {note}") for note in dataset.notes]
    if shared := dataset.told_shared_parts():
        findings.warning(shared, "What is learned of a part makes results too good on its other images.")
    if dataset.left_out:
        left_out = _counted(len(dataset.left_out), "defect image")
        findings.warning(
            f"{dataset.category}: {left_out} in the training and validation splits, the first is "
            f"{dataset.left_out[0].path}",
            "They are not learned from.",
        )
    if use.pixel:
        _missing_masks(dataset, test, findings)
        for other in further.values():
            _missing_masks(other, other.test, findings)
    camera = use.camera(train, findings)
    sizes: Counter[Size] = Counter()
    first: dict[Size, Sample] = {}
    alike: dict[bytes, list[tuple[str, Sample]]] = {}
    readable: Counter[tuple[str, int]] = Counter()
    with progress.task(f"check {dataset.category}", len(samples)) as task:
        jobs = (functools.partial(_look, sample, dataset.defects, camera, not use.tiled) for sample in samples)
        for name, sample, seen in zip(names, samples, ahead(jobs, threads), strict=True):
            if seen.error is not None:
                findings.unusable(str(seen.error), skipped=skips, help=seen.error.help or _SKIP_BROKEN)
            for broken in seen.broken_masks if use.pixel else ():
                findings.unusable(str(broken), skipped=skips, help=broken.help)
            _mask_content(sample, seen.defect_share, findings)
            if seen.size is not None:
                sizes[seen.size] += 1
                first.setdefault(seen.size, sample)
                alike.setdefault(seen.digest, []).append((name, sample))
                readable["test" if name == measured else name, sample.label] += 1
            task.advance()
    for group in alike.values():
        if len(group) > 1:
            _duplicates(group, findings)
    _learned_defects(dataset.left_out, alike, camera, findings, whole=not use.tiled, threads=threads)
    _crops(first, sizes, camera, use.geometries, findings, skips=skips)
    _enough(dataset, (train, test), readable, use, findings, skips=skips)
    _shots(dataset, train, table, use, findings)
    _enough_for_protocol(dataset, test, use, findings)
    return CategoryReport(
        dataset.category, _counts(parts), tuple(SizeCount(size, n) for size, n in sorted(sizes.items()))
    )


def _elsewhere(dataset: Dataset, samples: Sequence[Sample], table: DatasetTable, findings: _Findings) -> None:
    """Files that a manifest, or a link, names outside of the data set's folder: allowed, and said where they are."""
    if table.root is None:
        return
    root = Path(table.root)
    top = os.path.realpath(root if root.is_dir() else root.parent)
    files = dict.fromkeys(path for sample in samples for path in (sample.path, *sample.masks))
    real = ((path, Path(os.path.realpath(path))) for path in files)
    outside = [(path, target) for path, target in real if not target.is_relative_to(top)]
    if outside:
        path, target = outside[0]
        many = f"{len(outside)} files lie" if len(outside) > 1 else "1 file lies"
        where = f", which is {target}" if path != str(target) else ""
        findings.notes.append(Problem(f"{dataset.category}: {many} outside of {top}, the first is {path}{where}"))


def _counts(parts: Mapping[str, Sequence[Sample]]) -> tuple[Count, ...]:
    found = []
    for split, samples in parts.items():
        images = Counter(sample.defect for sample in samples)
        masks = Counter(sample.defect for sample in samples if sample.masks)
        for defect in sorted(images, key=lambda kind: (kind != "good", kind)):
            found.append(Count(split, defect, images[defect], masks[defect]))
    return tuple(found)


def _counted(n: int, noun: str) -> str:
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"


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


def _look(sample: Sample, defects: Sequence[DefectConfig] | None, camera: Camera, whole: bool) -> _Seen:
    size, digest, error = None, b"", None
    try:
        size, digest = _pixels(sample.path, camera, whole)
    except DataError as wrong:
        error = wrong
    if defects is not None and size is not None:
        share, broken = _defects(sample, defects, size)
    else:
        share, broken = _masks(sample, size)
    return _Seen(size, digest, error, tuple(broken), share)


def _masks(sample: Sample, size: Size | None) -> tuple[float | None, list[DataError]]:
    """The share of an image's pixels on its masks together, None without masks; and what is wrong with each mask.

    size: None where the image cannot be read: nothing is known then of the size that its masks should have.
    """
    broken: list[DataError] = []
    share = None
    for path in sample.masks:
        try:
            share = _marked_share([path], size)
        except DataError as wrong:
            broken.append(wrong)
    if broken or size is None:
        return None, broken
    return (share if len(sample.masks) < 2 else _marked_share(sample.masks, size)), []


def _marked_share(paths: Sequence[str], size: Size | None) -> float:
    """The share of defect pixels on some masks together, which are read in bands. Raises DataError."""
    with closing(open_mask(paths, size=size)) as mask:
        return defect_count(mask) / (mask.size.height * mask.size.width)


def _defects(sample: Sample, defects: Sequence[DefectConfig], size: Size) -> tuple[float | None, list[DataError]]:
    """As `_masks`, where each mask shows one defect, in the value of its kind. They are read whole."""
    try:
        found = load_defects(sample, defects)
        check_saturations(sample, found)
    except DataError as wrong:
        return None, _masks(sample, size)[1] or [wrong]
    return (float(np.any([pixels for _, pixels in found], axis=0).mean()) if found else None), []


def _pixels(path: str, camera: Camera, whole: bool) -> tuple[Size, bytes]:
    """The size of an image, and a digest of its pixels as they are without the camera's steps."""
    picture = camera.open(path)
    if whole:
        try:
            check_whole(picture.size)
        except DataError as error:
            raise DataError(f"{path}: {error.message}", help=error.help) from None
    digest = hashlib.sha256(str(picture.size).encode())
    for box in row_boxes(picture.size, _AT_ONCE):
        digest.update(np.ascontiguousarray(picture.read(box)).data)
    picture.close()
    return picture.size, digest.digest()


# --- what is wrong


def _missing_masks(dataset: Dataset, test: Sequence[Sample], findings: _Findings) -> None:
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
        findings.warning(f"{sample.path}: no mask at {sample.expected_mask}", _ADD_MASKS)
    unnamed = sum(sample.label == 1 and not sample.masks for sample in test) - len(missing)
    if unnamed:
        findings.warning(f"{dataset.category}: {unnamed} of {defects} defect images have no mask", _ADD_MASKS)


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


def _duplicates(alike: Sequence[tuple[str, Sample]], findings: _Findings) -> None:
    """Say of images with equal pixels that they are equal, and in which splits, if one of these is not for testing.

    alike: the images, each with the name of its split, in the order in which splits are listed.
    """
    group = [sample for _, sample in alike]
    by_split: dict[str, Sample] = {}
    for split, sample in alike:
        by_split.setdefault(split, sample)
    leak = len({sample.split for sample in group}) > 1
    named = list(by_split.values()) if leak else group[:2]
    paths = [sample.path for sample in named]
    rest = f" (and {len(group) - len(named)} more)" if len(group) > len(named) else ""
    how = "byte for byte" if _equal_files(group) else "pixel for pixel"
    message = f"{_and(paths)}{rest} are equal {how}"
    shown = list(dict.fromkeys(sample.group for sample in group if sample.group is not None))
    parts = f", though the parts on them are called {_and(shown)}" if len(shown) > 1 else ""
    if leak:
        findings.warning(
            f"{message}, in {_and(list(by_split))}{parts}",
            "Keep one of them: an image that is learned, or sets the threshold, makes results too good if tested on.",
        )
        return
    kinds = sorted({sample.defect for sample in group if sample.label >= 0})
    if len({sample.label for sample in group if sample.label >= 0}) > 1:
        message += f", though they are called {_and(kinds)}"
    findings.warning(f"{message}{parts}", "Keep one of them: each copy counts as an image of its own.")


def _learned_defects(
    left_out: Sequence[Sample],
    alike: Mapping[bytes, Sequence[tuple[str, Sample]]],
    camera: Camera,
    findings: _Findings,
    *,
    whole: bool,
    threads: int,
) -> None:
    """Say of images that are learned as good that they are equal to a defect which is left out. alike: by digest."""
    jobs = (functools.partial(_look, sample, None, camera, whole) for sample in left_out)
    for sample, seen in zip(left_out, ahead(jobs, threads), strict=True):
        # One that cannot be read is learned by nobody.
        learned = [other for _, other in alike.get(seen.digest, ()) if other.split != "test"] if seen.size else []
        if learned:
            how = "byte for byte" if _equal_files([sample, learned[0]]) else "pixel for pixel"
            rest = f" (and {len(learned) - 1} more)" if len(learned) > 1 else ""
            findings.warning(
                f"{learned[0].path}{rest} and {sample.path} are equal {how}, though one is called good and is "
                f"in {learned[0].split}, the other {sample.defect}",
                "Find out which is right: a defect that is learned as good will not be found.",
            )


def _and(words: Sequence[str]) -> str:
    *others, last = words
    return f"{', '.join(others)} and {last}" if others else last


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
    camera: Camera,
    geometries: Sequence[Geometry],
    findings: _Findings,
    *,
    skips: bool,
) -> None:
    """That a crop, or an area of the camera, does not fit images of a size."""
    for size in sorted(first):
        for geometry in geometries:
            try:
                geometry.plan(camera.extent(size).size)
            except DataError as error:
                others = f" (and {sizes[size] - 1} more images of this size)" if sizes[size] > 1 else ""
                findings.unusable(f"{first[size].path}{others}: {error}", skipped=skips, help=error.help)


def _enough(
    dataset: Dataset,
    used: tuple[Sequence[Sample], Sequence[Sample]],
    readable: Counter[tuple[str, int]],
    use: _Use,
    findings: _Findings,
    *,
    skips: bool,
) -> None:
    """Whether there is enough to learn from and to measure on. used: training and test images, broken ones included."""
    category, train, test, parts = dataset.category, len(used[0]), len(used[1]), len(parts_of(used[0]))
    good_train = readable["train", 0]
    if not train:
        findings.error(f"{category}: no training image", "A model needs good images to learn from.")
    elif not good_train and skips:
        findings.error(f"{category}: none of {train} training images can be read")
    elif use.holdout is not None and parts_held_out(parts, use.holdout) >= parts:
        findings.error(
            f"{category}: [calibration] holdout = {use.holdout} of {in_groups(used[0])} leaves none to learn from"
        )
    elif dataset.validation and not readable["validation", 0]:
        findings.warning(
            f"{category}: none of {len(dataset.validation)} validation images can be read; "
            "there will be no threshold, and the verdicts will be null"
        )
    elif good_train == 1 and not dataset.validation and use.learns:
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


def _shots(dataset: Dataset, train: Sequence[Sample], table: DatasetTable, use: _Use, findings: _Findings) -> None:
    """Whether there are as many training images as shots, and whether a hold-out leaves any of them."""
    few = too_few_for_shots(table, dataset.category, len(train))
    if few is not None:
        findings.errors.append(few)
    if use.holdout is None:
        return
    for shots in table.shot_counts:
        # They show at most so many parts; fewer would leave none the more.
        if shots is not None and parts_held_out(shots, use.holdout) >= shots:
            findings.error(
                f"{dataset.category}: [calibration] holdout = {use.holdout} of {_counted(shots, 'shot')} leaves none "
                "to learn from"
            )


def _enough_for_protocol(dataset: Dataset, test: Sequence[Sample], use: _Use, findings: _Findings) -> None:
    """Whether a protocol has what it needs: for sPRO how much of each defect is enough, and all sorts of defect that it
    measures apart."""
    protocol = PROTOCOLS[use.protocol]
    category, defects = dataset.category, sorted({sample.defect for sample in test if sample.label == 1})
    if not defects:
        return  # that is a finding already
    spro = protocol.spro if use.pixel and dataset.has_masks else ()
    if spro and not dataset.defects:
        findings.warning(
            f"{category}: no {CONFIG}; {_and(spro)} will be null",
            "It says how much of each kind of defect is enough, and is part of MVTec LOCO AD and of AutoVI.",
        )
    for sort in protocol.sorts:
        if not any(sort_of(kind, protocol.sorts) == sort for kind in defects):
            names = [f"image_auroc_{sort}", "image_auroc"]
            names += [f"spro_05_{sort}", "spro_05"] if spro and dataset.defects else []
            findings.warning(
                f'{category}: no kind of defect of the test split begins with "{sort}" (found: {", ".join(defects)}); '
                f"{_and(names)} will be null"
            )
