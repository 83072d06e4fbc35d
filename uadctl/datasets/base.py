"""What every data set loader hands out: paths and labels. Pixels are read when a mask is asked for, not before."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import PurePath
from typing import TYPE_CHECKING, overload

from uadctl.errors import DataError
from uadctl.imaging.listing import is_folder, joined, relative_images, subfolders
from uadctl.records import Sample, Size

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class LayoutError(DataError):
    """A data set's folders are not as they should be. `problems` holds every one found, each a message of its own."""


@dataclass(frozen=True, slots=True)
class Dataset:
    """One category of a data set: its images as samples, sorted by their path in bytes.

    name:     of the data set, as in the registry.
    category: of the data set, for instance "bottle".
    root:     the folder given.
    train, validation: normal images.
    test:     normal and anomalous images.
    resize:   height and width that masks are brought to (nearest neighbour), or None for the size of their images.
    """

    name: str
    category: str
    root: str
    train: tuple[Sample, ...]
    validation: tuple[Sample, ...]
    test: tuple[Sample, ...]
    resize: Size | None = None

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

    def problems(self) -> list[str]:
        """One line for each missing mask, as a person should read it."""
        return [f"{sample.path}: no mask at {sample.expected_mask}" for sample in self.missing_masks()]


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


def stem(name: str) -> str:
    """The last part of a path without its suffix."""
    return PurePath(name).stem


def check_root(root: str) -> None:
    """Raise DataError unless `root` is a folder that can be read."""
    subfolders(root)


def check_split(name: str, split: str | None, choices: Sequence[str]) -> None:
    """Raise DataError unless `split` is None or one of a data set's splits."""
    if split is not None and split not in choices:
        raise DataError(f"{name} has no split {split!r}; it has: {', '.join(choices)}")


def check_category(root: str, category: str, found: Sequence[str]) -> None:
    """Raise DataError, naming what there is, unless `category` was found below `root`."""
    if category in found:
        return
    near = get_close_matches(category.casefold(), [name.casefold() for name in found], n=1)
    nearest = next((name for name in found if near and name.casefold() == near[0]), None)
    hint = f"; did you mean {nearest}?" if nearest else ""
    raise DataError(f"{root} has no category {category!r}{hint}", help=f"It has: {', '.join(found)}")


class MaskFolder:
    """The image files below a ground-truth folder, found by the name that a mask should have.

    A name is looked up without its suffix, and suffixes in any case match: images and masks need not agree in format.
    """

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self._by_name: dict[str, list[str]] = {}
        if is_folder(folder):
            for name in relative_images(folder):
                self._by_name.setdefault(name[: len(name) - len(PurePath(name).suffix)], []).append(name)

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
