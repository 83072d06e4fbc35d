"""What every data set loader hands out: paths and labels. Pixels are read when a mask is asked for, not before."""

from __future__ import annotations

import hashlib
import json
import os
import stat
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import TYPE_CHECKING, Any, overload

from uadctl.errors import DataError, Problem
from uadctl.imaging.listing import files_in, is_folder, joined, relative_images, subfolders
from uadctl.records import DefectConfig, Sample, Size
from uadctl.spec.values import nearest
from uadctl.untrusted import MAX_DOCUMENT_BYTES, Hostile, parse_json, read_bounded

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


OTHER_LAYOUT = "For another layout, use the data set `folder`, with [dataset.files] where its names differ."
"""What to do with a folder that no loader knows."""

UNKNOWN = "unknown"
"""What the defect of an image is called of which it is not known whether it has one."""

SETTLED_NS = 2_000_000_000
"""A file changed less long ago might be changed again and still bear the same time: a tick is up to 2 s (FAT)."""

LIKE_GOOD = ("good", "normal", "ok")
"""What no kind of defect is called, in any case: images called so are hardly meant to be anomalous."""

_SAID = 10  # of messages that are alike


class LayoutError(DataError):
    """A data set's folders are not as they should be. `problems` holds every one found, each a message of its own."""


class NoLayout(DataError):
    """A folder does not hold the layout that was looked for at all; it may hold another one."""


@dataclass(frozen=True, slots=True)
class Where:
    """Where a data set lies, and what was chosen of it.

    root:   its folder, or file, as the user typed it.
    split:  the data set's own name for its test split; None for its default.
    layout: where a folder may be read in several ways, which one; None for the one found.
    files:  which files are which, for the data set `folder`; see there.
    """

    root: str
    split: str | None = None
    layout: str | None = None
    files: object | None = None


@dataclass(frozen=True, slots=True)
class Dataset:
    """One category of a data set: its images as samples, sorted by their path in bytes.

    name:     of the data set, as in the registry.
    category: of the data set, for instance "bottle".
    root:     the folder given.
    train, validation: normal images.
    test:     normal and anomalous images, and those of which it is not known.
    resize:   height and width that masks are brought to (nearest neighbour), or None for the size of their images.
    left_out: images of the training and validation splits that are no normal ones: never learned from.
    defects:  how much of each kind of defect is enough, where the data set says so; None where it does not.
    notes:    what else was seen of it and a person should know, each a sentence that names a file: copies that its
              publisher left in the archive and that are passed over, for instance.
    """

    name: str
    category: str
    root: str
    train: tuple[Sample, ...]
    validation: tuple[Sample, ...]
    test: tuple[Sample, ...]
    resize: Size | None = None
    left_out: tuple[Sample, ...] = ()
    defects: tuple[DefectConfig, ...] | None = None
    notes: tuple[str, ...] = ()

    @property
    def has_masks(self) -> bool:
        """Whether at least one test image has a mask."""
        return any(sample.masks for sample in self.test)

    def get_train_paths(self) -> list[str]:
        """The files of the training images, all normal."""
        return [sample.path for sample in self.train]

    def get_test_paths(self) -> tuple[list[str], NDArray[np.int64], Masks | None]:
        """The files of the test images, their labels (0 normal, 1 anomalous, -1 unknown) and their masks.

        The three have equal lengths. The masks are read on indexing; None in their place if the data set has none.
        """
        import numpy as np

        labels = np.array([sample.label for sample in self.test], dtype=np.int64)
        masks = Masks(self.test, resize=self.resize) if self.has_masks else None
        return [sample.path for sample in self.test], labels, masks

    def missing_masks(self) -> list[Sample]:
        """The defect images whose mask was looked for and not found. They have no part in pixel metrics."""
        return [sample for sample in self.test if sample.expected_mask is not None]

    def leaks(self) -> list[tuple[Sample, Sample]]:
        """Images of two splits whose files are equal byte for byte, a pair for each copy, the earlier split first.

        A test image that is learned too, or that sets the threshold, makes every figure too good. Only files of equal
        length are read. One that cannot be read is no copy; the stage that needs it says what is wrong.
        """
        by_length: dict[int, list[Sample]] = {}
        for sample in (*self.train, *self.validation, *self.test):
            length = _length(sample.path)
            if length:
                by_length.setdefault(length, []).append(sample)
        found = []
        for alike in by_length.values():
            if len({sample.split for sample in alike}) > 1:
                first: dict[bytes, Sample] = {}
                for sample in alike:
                    other = first.setdefault(_digest(sample.path), sample)
                    if other.split != sample.split:
                        found.append((other, sample))
        return sorted(found, key=lambda pair: os.fsencode(pair[1].relative))

    def shared_parts(self) -> list[tuple[Sample, Sample]]:
        """Images of one part (`Sample.group`) in two splits: a pair for each such part, the earlier split first.

        Not the same image, but the same part from another side: what was learned of it is known when it is tested on.
        Images that are left out are in no split.
        """
        first: dict[str, Sample] = {}
        found: dict[str, tuple[Sample, Sample]] = {}
        for sample in (*self.train, *self.validation, *self.test):
            if sample.group is not None:
                other = first.setdefault(sample.group, sample)
                if other.split != sample.split:
                    found.setdefault(sample.group, (other, sample))
        return list(found.values())

    def told_shared_parts(self) -> str | None:
        """How many parts are in two splits, and the first of them, as a person should read it; None if none is."""
        shared = self.shared_parts()
        if not shared:
            return None
        first, second = shared[0]
        what = "1 part is" if len(shared) == 1 else f"{len(shared)} parts are"
        return (
            f"{self.category}: {what} in two splits, the first is {first.group}: {first.path} in {first.split} and "
            f"{second.path} in {second.split}"
        )

    def problems(self) -> list[str]:
        """One line for each missing mask, as a person should read it."""
        return [f"{sample.path}: no mask at {sample.expected_mask}" for sample in self.missing_masks()]


@dataclass(frozen=True, slots=True)
class BenchmarkSplit:
    """What a detector is fitted and measured on: the paths of one category and what is known of them.

    train_paths: normal images. test_paths: images to score, test_labels: (n,) int64, 0 normal, 1 anomalous, -1
    unknown; test_masks: their masks, read on indexing, or None where the data set has none. dataset: all of it.
    """

    train_paths: list[str]
    test_paths: list[str]
    test_labels: NDArray[np.int64]
    test_masks: Masks | None
    dataset: Dataset


class Masks(Sequence["NDArray[np.uint8] | None"]):
    """The ground truth of samples, decoded on indexing and not kept.

    Item i is an (H, W) uint8 array of 0 and 1 (1 = defect): zeros for a normal image, None where an anomalous image has
    no mask or the label is unknown. H and W are the image's as displayed, or `resize`. Reading raises DataError for a
    mask that is broken or has another size than its image. A slice gives Masks.
    """

    def __init__(self, samples: Sequence[Sample], *, resize: Size | tuple[int, int] | None = None) -> None:
        self._samples = tuple(samples)
        self._resize = None if resize is None else Size(*resize)

    def __len__(self) -> int:
        return len(self._samples)

    @overload
    def __getitem__(self, index: int) -> NDArray[np.uint8] | None: ...

    @overload
    def __getitem__(self, index: slice) -> Masks: ...

    def __getitem__(self, index: int | slice) -> NDArray[np.uint8] | Masks | None:
        if isinstance(index, slice):
            return Masks(self._samples[index], resize=self._resize)
        return load_mask(self._samples[index], resize=self._resize)


def load_mask(sample: Sample, *, resize: Size | tuple[int, int] | None = None) -> NDArray[np.uint8] | None:
    """Read the ground truth of one sample; see `Masks` for what it gives and raises."""
    import numpy as np

    from uadctl.imaging.files import image_size, read_mask

    if sample.label == 0:
        return np.zeros(image_size(sample.path) if resize is None else Size(*resize), dtype=np.uint8)
    if not sample.masks:
        return None
    mask = read_mask(sample.masks, size=image_size(sample.path))
    if resize is None or mask.shape == tuple(resize):
        return mask
    import cv2

    # OpenCV takes (width, height); only its exact nearest neighbour samples at pixel centres.
    return np.asarray(cv2.resize(mask, (resize[1], resize[0]), interpolation=cv2.INTER_NEAREST_EXACT), dtype=np.uint8)


def _length(path: str) -> int | None:
    try:
        facts = os.stat(path)  # noqa: PTH116 - as listed
    except OSError:
        return None
    return facts.st_size if stat.S_ISREG(facts.st_mode) else None


def _digest(path: str) -> bytes:
    try:
        with open(path, "rb") as stream:  # noqa: PTH123 - as listed
            return hashlib.file_digest(stream, "sha256").digest()
    except OSError:
        return os.fsencode(path)


def settled_stamp(path: str) -> tuple[int, ...] | None:
    """What is another as soon as a file's content is; None for one that was changed just now. Raises as `os.stat`."""
    facts = os.stat(path)  # noqa: PTH116 - as the user typed it
    if time.time_ns() - max(facts.st_mtime_ns, facts.st_ctime_ns) < SETTLED_NS:
        return None
    return facts.st_dev, facts.st_ino, facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns


def read_document(path: str, *, most: int = MAX_DOCUMENT_BYTES, help: str) -> Any:
    """What a JSON file holds. Raises DataError, with this help, for what cannot be read, is larger or is no JSON."""
    try:
        return parse_json(read_bounded(path, most=most))
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error
    except json.JSONDecodeError as error:
        raise DataError(f"{path}:{error.lineno}: is not JSON ({error.msg})", help=help) from error
    except Hostile as error:
        raise DataError(f"{path}: {error}", help=help) from error
    except ValueError as error:  # not UTF-8, or not strict
        raise DataError(f"{path}: is not JSON ({error})", help=help) from error


def stem(name: str) -> str:
    """The last part of a path without its suffix."""
    return PurePath(name).stem


def without_suffix(name: str) -> str:
    """A path without the suffix of its last part."""
    return name[: len(name) - len(PurePath(name).suffix)]


def relative_name(root: str, path: str) -> str:
    """The name of an image in results: below the root; for one from elsewhere, its absolute path without "/"."""
    whole, top = PurePath(os.path.abspath(path)), PurePath(os.path.abspath(root))  # noqa: PTH100 - links keep their name
    if whole.is_relative_to(top):
        return whole.relative_to(top).as_posix()
    return PurePath(*whole.parts[1:]).as_posix()


def own_name(folder: str) -> str:
    """The name of a folder, however it was typed: of the working directory if that is "."; "root" for the topmost."""
    return os.path.basename(os.path.abspath(folder)) or "root"  # noqa: PTH100, PTH119 - links keep their name


def check_root(root: str) -> None:
    """Raise DataError unless `root` is a folder that can be read."""
    subfolders(root)


def holds(root: str) -> str:
    """What a folder holds, in a few words, for a message."""
    names = [*(f"{name}/" for name in subfolders(root)), *files_in(root)]
    if not names:
        return "nothing"
    more = f" and {len(names) - 8} more" if len(names) > 8 else ""
    return ", ".join(names[:8]) + more


def in_another_case(folder: str, name: str) -> str | None:
    """The folder that there is in place of `name` in a folder, called alike but for its case; None if there is none."""
    if not is_folder(folder):
        return None
    return next((other for other in subfolders(folder) if right_case(other, (name,)) is not None), None)


def right_case(name: str, known: Iterable[str]) -> str | None:
    """The one of these names that another is in all but its case; None if it is none of them."""
    return next((other for other in known if name != other and name.casefold() == other.casefold()), None)


def misnamed(home: str, below: str) -> tuple[str, str] | None:
    """The folder on a path below `home` that is there in another case only, and the name it should have."""
    place = home
    for part in below.split("/"):
        if not is_folder(joined(place, part)):
            other = in_another_case(place, part)
            return None if other is None else (joined(place, other), part)
        place = joined(place, part)
    return None


def rename(name: str) -> str:
    """What to do with a folder that should have this name and has it in another case."""
    return f"Case counts in the names of folders: rename it to {name}."


def missing_folder(home: str, below: str, help: str) -> DataError:
    """The error for a folder that a layout needs, as a path below `home`; it names one that differs in case alone."""
    found = misnamed(home, below)
    if found is None:
        return DataError(f"{joined(home, below)}: no such folder", help=help)
    other, name = found
    return DataError(f"{joined(home, below)}: no such folder; there is {other}", help=rename(name))


def refuse_other_case(home: str, below: str) -> None:
    """Raise DataError where a folder that a layout may have, as a path below `home`, is there in another case only.

    Passed over, what lies in it would be missing from the results.
    """
    if misnamed(home, below) is not None:
        raise missing_folder(home, below, "")


def differ_in_case(folder: str, name: str, other: str) -> Problem:
    """What is wrong with two folders or files in a folder that are called alike but for case: one would be passed over.

    name: what the right one is called.
    """
    return Problem(
        f"{joined(folder, name)} and {joined(folder, other)} differ in case alone",
        f"Case counts in names: keep one of them, as {name}.",
    )


def both_cases(home: str, below: str) -> list[Problem]:
    """A problem for each folder on a path below `home` that is there, and in another case as well."""
    place, problems = home, []
    for name in below.split("/"):
        other = in_another_case(place, name)
        if other is not None and is_folder(joined(place, name)):
            problems.append(differ_in_case(place, name, other))
        place = joined(place, name)
    return problems


def capped(messages: Sequence[str], where: str, what: str) -> list[str]:
    """The first ten of many messages that are alike, and how many more there are: of what, and where."""
    rest = len(messages) - _SAID
    return [*messages[:_SAID], *([f"{where}: {rest} more {what}"] if rest > 0 else [])]


def check_category(root: str, category: str, found: Sequence[str]) -> None:
    """Raise DataError, naming what there is, unless `category` was found below `root`."""
    if category not in found:
        raise DataError(f"{root} has no category {category!r}{choices(category, found)}")


def choices(word: str, found: Sequence[str]) -> str:
    """What there is in place of `word`, and which of it was probably meant, as the end of a message."""
    close = nearest(word, found)
    return (f"; did you mean {close}? It has: " if close else "; it has: ") + ", ".join(found)


class MaskFolder:
    """The image files below a ground-truth folder, found by the name that a mask should have.

    A name is looked up without its suffix, and suffixes in any case match: images and masks need not agree in format.
    """

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self._by_name: dict[str, list[str]] = {}
        self._by_folder: dict[str, list[str]] = {}
        if is_folder(folder):
            for name in relative_images(folder):
                self._by_name.setdefault(without_suffix(name), []).append(name)
                self._by_folder.setdefault(name.rpartition("/")[0], []).append(name)

    def find(self, names: Iterable[str]) -> str | None:
        """The file of the first of these names (below the folder, without suffix) that there is.

        Raises DataError where a name has two files, such as 007_mask.png and 007_mask.bmp.
        """
        for name in names:
            files = self._by_name.get(name, [])
            if len(files) > 1:
                listed = " and ".join(joined(self.folder, file) for file in files[:2])
                raise DataError(f"two masks for one image: {listed}", help="Remove the one that is not meant.")
            if files:
                return joined(self.folder, files[0])
        return None

    def inside(self, folders: Iterable[str]) -> list[str]:
        """All files, sorted by bytes, that lie directly in the first of these folders (below this one) that has any."""
        for folder in folders:
            if folder in self._by_folder:
                return [joined(self.folder, file) for file in self._by_folder[folder]]
        return []
