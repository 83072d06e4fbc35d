"""Images in a folder of their own below that of their kind, and their masks in another one beside it.

    HOME/<split>/<good>/<images>/…
    HOME/<split>/<defect>/<images>/…
    HOME/<split>/<defect>/<masks>/…      named like the images

HOME is one category's folder. MVTec 3D-AD and BMAD are laid out so; read as MVTec AD, whose images may lie at any
depth, their masks would be images. What the folder of a kind holds is therefore known in full: an image anywhere else
in it is an error, never passed over. Nothing is decoded.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from uadctl.datasets.base import LayoutError, in_another_case, missing_folder
from uadctl.datasets.sorted_folders import GOOD, Folders, Truth, misnamed_validation
from uadctl.errors import Problem
from uadctl.imaging.listing import files_in, is_folder, is_image_name, joined, relative_images, subfolders
from uadctl.records import Sample

if TYPE_CHECKING:
    from uadctl.records import Split


@dataclass(frozen=True, slots=True)
class Inside:
    """What the folders in that of a kind are called.

    images:   that of its images. masks: those that its masks may lie in, one of them in each kind.
    unread:   those whose files are no pictures to be read.
    may_lack: images may lie in the kind's folder itself, where it has none for them.
    """

    images: str
    masks: tuple[str, ...]
    unread: tuple[str, ...] = ()
    may_lack: bool = False

    def known(self) -> tuple[str, ...]:
        """All of them."""
        return (self.images, *self.masks, *self.unread)

    def masks_in(self, top: str) -> str | None:
        """The folder that the masks lie in, of those in a kind's folder; None where it has none."""
        return next((name for name in self.masks if is_folder(joined(top, name))), None)


@dataclass(frozen=True, slots=True)
class SortedImages:
    """All images of a category, each part sorted by bytes; `left_out` are defects that are no test images."""

    train: tuple[Sample, ...]
    validation: tuple[Sample, ...]
    left_out: tuple[Sample, ...]
    test: tuple[Sample, ...]


def sorted_images(
    home: str, category: str, splits: Mapping[Split, str], *, folders: Folders, inside: Inside, has_masks: bool = True
) -> SortedImages:
    """List one category. Normal images are those in the good folder, others have the defect of their folder's name.

    splits:    the folder of each split in `home`. Those of train and test must be there.
    has_masks: a defect image without mask says where it was looked for.

    Raises LayoutError, which holds every problem, where there is no normal training image or no test image, or an image
    or a mask lies where it would be passed over, as in a validation split by another name; DataError where two images
    share a mask.
    """
    problems: list[Problem] = []
    found: list[Sample] = []
    for split, folder in splits.items():
        truth = Truth(home, folder, expected="{}.png" if has_masks else None)
        if split == "validation":
            problems += misnamed_validation(home, folder)
        if is_folder(joined(home, folder)):
            found += _of_split(home, category, split, folder, folders, inside, truth, problems)
        elif split != "validation":
            problems += missing_folder(home, folder, folders.expected()).problems
    train, test = _those(found, "train", label=0), _those(found, "test")
    if not problems and not train:
        good = joined(home, f"{splits['train']}/{folders.good}")
        problems.append(Problem(f"{good} holds no image", "It must hold the good training images."))
    if not problems and not test:
        problems.append(Problem(f"{joined(home, splits['test'])} holds no image", folders.expected()))
    if problems:
        raise LayoutError(problems)
    return SortedImages(
        train=train,
        validation=_those(found, "validation", label=0),
        left_out=tuple(sample for sample in found if sample.split != "test" and sample.label == 1),
        test=test,
    )


def has_mask_folder(home: str, splits: Mapping[Split, str], inside: Inside) -> bool:
    """Whether any kind of any split has a folder of masks."""
    tops = [joined(home, folder) for folder in splits.values()]
    kinds = [joined(top, kind) for top in tops if is_folder(top) for kind in subfolders(top)]
    return any(inside.masks_in(kind) is not None for kind in kinds)


def _those(found: list[Sample], split: Split, label: int | None = None) -> tuple[Sample, ...]:
    return tuple(sample for sample in found if sample.split == split and label in (None, sample.label))


def _of_split(
    home: str,
    category: str,
    split: Split,
    folder: str,
    folders: Folders,
    inside: Inside,
    truth: Truth,
    problems: list[Problem],
) -> list[Sample]:
    """The images of one split, sorted by bytes. What is wrong with it is added to `problems`."""
    top = joined(home, folder)
    misplaced = [name for name in files_in(top) if is_image_name(name)]
    samples: list[Sample] = []
    for kind in subfolders(top):
        if not folders.allows(kind):
            misplaced += [f"{kind}/{name}" for name in relative_images(joined(top, kind))]
            continue
        images, names = _inside(home, f"{folder}/{kind}", inside, problems)
        masks = inside.masks_in(joined(top, kind)) or inside.masks[0]
        bad = kind != folders.good
        if bad:
            problems += _masks_twice(joined(top, kind), inside)
        for name in names:
            path = joined(top, f"{kind}/{images}{name}")
            found = truth.masks_of(path, f"{kind}/{masks}", name) if bad else ()
            samples.append(
                Sample(
                    path=path,
                    relative=f"{folder}/{kind}/{images}{name}",
                    split=split,
                    label=1 if bad else 0,
                    defect=kind if bad else GOOD,
                    category=category,
                    masks=found,
                    expected_mask=truth.expected_at(f"{kind}/{masks}", name) if bad and not found else None,
                )
            )
    if misplaced:
        problems += folders.misplaced(top, misplaced).problems
    return sorted(samples, key=lambda sample: os.fsencode(sample.relative))


def _inside(home: str, below: str, inside: Inside, problems: list[Problem]) -> tuple[str, list[str]]:
    """Where in the folder of a kind, a path below `home`, the images lie, and their paths below that.

    The place is "" for the folder itself, and ends with "/" otherwise.
    """
    top = joined(home, below)
    must = f"It must hold the images; only {', '.join(f'{name}/' for name in inside.known())} may be in {top}."
    absent = [name for name in (inside.images, *inside.masks) if not is_folder(joined(top, name))]
    misnamed = {wanted: other for wanted in absent if (other := in_another_case(top, wanted)) is not None}
    for wanted in misnamed:
        problems += missing_folder(top, wanted, must).problems
    for name in subfolders(top):
        if name in inside.known() or name.casefold() in inside.unread or name in misnamed.values():
            continue
        if relative_images(joined(top, name)):
            problems.append(Problem(f"{joined(top, name)} holds images that would be passed over", must))
    loose = [name for name in files_in(top) if is_image_name(name)]
    if is_folder(joined(top, inside.images)):
        names = relative_images(joined(top, inside.images))
        if loose:
            problems.append(_beside(top, loose[0], inside))
        if not names:
            problems.append(Problem(f"{joined(top, inside.images)} holds no image", must))
        return f"{inside.images}/", names
    if inside.may_lack and (loose or inside.masks_in(top) is None):
        return "", loose
    if loose:
        problems.append(_beside(top, loose[0], inside))
    elif inside.images not in misnamed:
        problems += missing_folder(home, f"{below}/{inside.images}", must).problems
    return "", []


def _beside(top: str, name: str, inside: Inside) -> Problem:
    return Problem(f"{joined(top, name)} does not lie in {inside.images}/", f"Move it to {joined(top, inside.images)}.")


def _masks_twice(top: str, inside: Inside) -> list[Problem]:
    """What is wrong where a kind's folder has several for masks: those of all but one would be passed over."""
    there = [joined(top, name) for name in inside.masks if is_folder(joined(top, name))]
    if len(there) < 2:
        return []
    message = f"two folders of masks for one kind of defect: {' and '.join(there)}"
    return [Problem(message, "Remove the one that is not meant.")]
