"""What a mask says of its image: whether it shows a defect, and of which classes. For sets that say it nowhere else.

These data sets give a mask for every image, good ones included, so that listing their images means reading the masks.
Each file is read once a process, as long as it does not change. Where a mask lies beside its image, under the same name
with an ending, `labelled_images` brings the two together.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from uadctl.datasets.base import LayoutError, capped, settled_stamp, stem
from uadctl.datasets.sorted_folders import GOOD
from uadctl.errors import DataError, Problem, with_help
from uadctl.imaging.listing import joined, relative_images, subfolders
from uadctl.records import Sample, Size
from uadctl.spec.grammar import usable_cores

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from uadctl.records import Split

DEFECT = "defect"
"""What the defect of an image is called where its mask says that there is one, and nothing says of which kind."""

UNFIT = "A mask must have the size of its image, as displayed."
"""What to do with a mask of another size."""

# More masks than the largest of these sets has; a few hundred bytes each.
_KEPT = 100_000
_THREADS = 8
# Black masks of one size are one file, many times over: of 2,979 in KolektorSDD2 a fifth differ. Decoding takes longer
# than comparing so few bytes.
_SHORT = 1 << 13
_SHORT_KEPT = 1 << 11
_PNG = b"\x89PNG\r\n\x1a\n"


@dataclass(frozen=True, slots=True)
class MaskFacts:
    """What is on one mask.

    defect:  whether any pixel is above 0 (the rule of `uadctl.imaging.files.read_mask`).
    classes: the values above 0 that its pixels have, ascending; empty where a pixel is coloured or no whole number, and
             its value no number of a class.
    size:    its height and width, as displayed.
    """

    defect: bool
    classes: tuple[int, ...]
    size: Size


def read_masks(paths: Sequence[str]) -> list[MaskFacts | DataError]:
    """What each of these files shows, or why it cannot be read, in their order."""
    with ThreadPoolExecutor(min(usable_cores(), _THREADS), thread_name_prefix="masks") as pool:
        return list(pool.map(_read, paths))


def _read(path: str) -> MaskFacts | DataError:
    try:
        stamp = _stamp(path)
        return _decoded(path) if stamp is None else _read_once(path, *stamp)
    except DataError as error:
        return error
    except ValueError as error:  # a name with a null byte
        return DataError(f"{path}: cannot be read ({error})")


def _stamp(path: str) -> tuple[int, ...] | None:
    """What differs once a file has changed; None where that is too short ago to tell."""
    from uadctl.imaging.files import file_named

    with file_named(path):
        return settled_stamp(path)


@lru_cache(maxsize=_KEPT)
def _read_once(path: str, *stamp: int) -> MaskFacts:
    return _decoded(path)


def _decoded(path: str) -> MaskFacts:
    from uadctl.imaging.files import file_named, stored_mask
    from uadctl.imaging.rows import RegularFile

    with file_named(path):
        with RegularFile(path) as file:
            short = file.read(0, file.length) if file.length <= _SHORT else b""
        # Of other formats the name may say what they are.
        if short.startswith(_PNG) and path.lower().endswith(".png"):
            return _of_short_png(short)
        return _facts(stored_mask(path))


@lru_cache(maxsize=_SHORT_KEPT)
def _of_short_png(data: bytes) -> MaskFacts:
    from uadctl.imaging.files import decoded_mask

    return _facts(decoded_mask(data))


def _facts(pixels: NDArray[Any]) -> MaskFacts:
    import numpy as np

    from uadctl.imaging.files import defect_pixels

    defect = bool(defect_pixels(pixels).any())
    grey = pixels if pixels.ndim == 2 else pixels[..., 0]
    coloured = pixels.ndim == 3 and not bool((pixels == grey[..., np.newaxis]).all())
    size = Size(*grey.shape)
    if not defect or coloured or pixels.dtype.kind not in "iu":
        return MaskFacts(defect, (), size)
    return MaskFacts(defect, tuple(int(value) for value in np.unique(grey) if value > 0), size)


def unreadable(errors: Iterable[DataError], where: str, help: str) -> list[Problem]:
    """Masks that cannot be read, the first ten of those with one next step; `help` for those without any."""
    alike: dict[str, list[str]] = {}
    for error in errors:
        alike.setdefault(error.help or help, []).append(error.message)
    found: list[Problem] = []
    for then, messages in alike.items():
        found += with_help(capped(messages, where, "masks cannot be read"), then)
    return found


def unfit(masks: Iterable[tuple[str, str, MaskFacts]], where: str) -> list[Problem]:
    """Masks of another size than their image, of those given as (image, mask, what is on the mask).

    A mask that is not this image's says nothing of it. Only the images' headers are looked at, once a process; one that
    cannot be read is not compared: reading it will say why.
    """
    wrong = []
    for image, mask, facts in masks:
        size = _image_size(image)
        if size is not None and size != facts.size:
            wrong.append(f"{mask} is {facts.size}, its image {image} is {size} (height x width)")
    return with_help(capped(wrong, where, "masks have another size than their image"), UNFIT) if wrong else []


def _image_size(path: str) -> Size | None:
    from uadctl.imaging.files import image_size

    try:
        stamp = _stamp(path)
        return image_size(path) if stamp is None else _image_size_once(path, *stamp)
    except DataError:
        return None


@lru_cache(maxsize=_KEPT)
def _image_size_once(path: str, *stamp: int) -> Size:
    from uadctl.imaging.files import image_size

    return image_size(path)


def passed_over(home: str, known: Sequence[str], why: str) -> list[str]:
    """A note for each folder with images in `home`, the data set's folder, but for those that the data set has.

    One that may not be read, such as what is lost and found on a disk, holds nothing for this user.
    """
    notes = []
    for name in subfolders(home):
        if name not in known:
            try:
                images = len(relative_images(joined(home, name)))
            except DataError:
                continue
            if images:
                what = "1 image" if images == 1 else f"{images} images"
                notes.append(f"{joined(home, name)} is passed over, with {what}: {why}")
    return notes


# --- masks beside their images

_ALONE = "Its mask alone says whether an image is good: unpack the archive again."


@dataclass(frozen=True, slots=True)
class Labelled:
    """An image and its mask, as paths below their data set's folder, and whether that mask shows a defect."""

    image: str
    mask: str
    defect: bool


def labelled_images(
    home: str,
    names: Iterable[str],
    *,
    ending: str,
    image_suffix: str,
    mask_suffix: str,
    problems: Sequence[Problem] = (),
) -> list[Labelled]:
    """The images among these files, sorted by bytes, each with the mask that says whether it is good.

    names:    paths of image files below `home`, the data set's folder. In each folder every image has its mask.
    ending:   what the name of a mask has more than that of its image, before the suffix, in any case: "_label".
    image_suffix, mask_suffix: those of the data set, to name a file that is not there; any will do.
    problems: what is wrong with these files already.

    Raises LayoutError with all problems: an image without mask, of which nothing says whether it is good; a mask
    without image, which is lost then; a mask of two images, two of one, those of another size than their image, and
    those that cannot be read. Of each kind the first ten are named.
    """
    images: dict[str, list[str]] = {}
    masks: dict[str, list[str]] = {}
    for name in sorted(names, key=os.fsencode):
        folder = name[: name.rfind("/") + 1]
        own = stem(name)
        is_mask = len(own) > len(ending) and own[-len(ending) :].casefold() == ending.casefold()
        (masks if is_mask else images).setdefault(folder + (own[: -len(ending)] if is_mask else own), []).append(name)
    found = [*problems, *_unpaired(home, images, masks, f"{ending}{mask_suffix}", image_suffix)]
    pairs = [(files[0], masks[key][0]) for key, files in images.items() if key in masks]
    read = read_masks([joined(home, mask) for _, mask in pairs])
    shown = [
        (image, mask, facts)
        for (image, mask), facts in zip(pairs, read, strict=True)
        if not isinstance(facts, DataError)
    ]
    found += unreadable((facts for facts in read if isinstance(facts, DataError)), home, _ALONE)
    found += unfit(((joined(home, image), joined(home, mask), facts) for image, mask, facts in shown), home)
    if found:
        raise LayoutError(found)
    return [Labelled(image, mask, facts.defect) for image, mask, facts in shown]


def _unpaired(
    home: str, images: dict[str, list[str]], masks: dict[str, list[str]], masked: str, image_suffix: str
) -> list[Problem]:
    """What is wrong with files of which each image should have one mask, and the other way round; by their stems."""
    alone = [
        f"{joined(home, file)}: no mask at {joined(home, key + masked)}"
        for key, files in images.items()
        for file in files
        if key not in masks
    ]
    left = [
        f"{joined(home, file)}: the mask of no image; there is no {joined(home, key + image_suffix)}"
        for key, files in masks.items()
        for file in files
        if key not in images
    ]
    twice = [f"two images of one name: {_two(home, files)}" for files in images.values() if len(files) > 1]
    twice += [f"two masks for one image: {_two(home, files)}" for files in masks.values() if len(files) > 1]
    found: list[Problem] = []
    for wrong, what, then in (
        (alone, "images have no mask", _ALONE),
        (left, "masks are those of no image", "Unpack the archive again, or remove the mask."),
        (twice, "names are given twice", "Remove the one that is not meant."),
    ):
        found += with_help(capped(wrong, home, what), then) if wrong else []
    return found


def _two(home: str, files: Sequence[str]) -> str:
    return " and ".join(joined(home, file) for file in files[:2])


def labelled_sample(home: str, pair: Labelled, *, category: str, split: Split, group: str | None = None) -> Sample:
    """An image as a sample; only a defect image keeps its mask."""
    return Sample(
        path=joined(home, pair.image),
        relative=pair.image,
        split=split,
        label=int(pair.defect),
        defect=DEFECT if pair.defect else GOOD,
        category=category,
        masks=(joined(home, pair.mask),) if pair.defect else (),
        group=group,
    )
