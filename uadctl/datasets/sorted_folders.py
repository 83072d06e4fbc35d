"""Images that are sorted into folders by whether they are good: the layout that most data sets vary.

    HOME/{train,validation}/<good>/…                validation is optional
    HOME/{train,validation}/<defect>/…              left out: never learned from
    HOME/<test folder>/{<good>,<defect>}/…
    HOME/<truth>/<defect>/…                         masks, found by the names of their images

HOME is one category's folder. Images may lie at any depth below <good> and <defect>, in any format; an image beside
these folders is an error, never passed over, and so is a kind of defect that is called as good images are. Nothing is
decoded.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import TYPE_CHECKING, TypeAlias

from uadctl.datasets.base import (
    LIKE_GOOD,
    OTHER_LAYOUT,
    MaskFolder,
    NoLayout,
    check_category,
    holds,
    misnamed,
    missing_folder,
    own_name,
    refuse_other_case,
    rename,
    right_case,
    without_suffix,
)
from uadctl.errors import DataError, Problem, with_help
from uadctl.imaging.listing import files_in, is_folder, is_image_name, joined, relative_images, subfolders
from uadctl.records import Sample

if TYPE_CHECKING:
    from uadctl.records import Split

GOOD = "good"
"""What normal images are called in place of a kind of defect, and in most data sets their folder."""

_PARTS = ("train", "test", "ground_truth")
_GOOD_TO_LEARN = "It must hold the good training images."
_VALIDATION = ("val", "valid", "validation")  # what the layouts call the folder of that split
_LOOKED_INTO = 20  # folders of a root that is no data set: it may be the top of a disk

FindMasks: TypeAlias = Callable[[MaskFolder, str], Iterable[str]]
"""An image's mask files, of those that lie below the folder of its kind of defect.

The string is the image's path below its own such folder, without suffix.
"""


@dataclass(frozen=True, slots=True)
class Folders:
    """What the folders are called that the images of a split are sorted into.

    good: that of the normal ones. bad: the only others there may be; None where there is one for each kind of defect,
    under its name.
    """

    good: str = GOOD
    bad: tuple[str, ...] | None = None

    def allows(self, kind: str) -> bool:
        """Whether images may lie in a folder of this name."""
        if self.bad is None:
            return kind == self.good or kind.casefold() not in LIKE_GOOD
        return kind in (self.good, *self.bad)

    def expected(self) -> str:
        """What a split must hold, as a line of help."""
        return f"It must hold {self._listed()}."

    def misplaced(self, top: str, names: Iterable[str]) -> DataError:
        """The error for images, as paths below `top`, that lie in no such folder: the first of each folder is named,
        or the folder, where it is called as another one is but for its case.
        """
        first: dict[str, str] = {}
        for name in names:
            first.setdefault(name.rpartition("/")[0].partition("/")[0], name)
        if self.bad is None:
            return DataError([self._in_no_defect_folder(top, *found) for found in first.items()])
        known = (self.good, *self.bad)
        problems: list[Problem] = []
        messages: list[str] = []
        for kind, name in first.items():
            wanted = right_case(kind, known)
            if wanted is None:
                messages.append(f"{joined(top, name)} lies neither in {' nor in '.join(f'{one}/' for one in known)}")
            else:
                problems.append(_in_other_case(top, kind, wanted))
        if messages:
            problems += with_help(messages, f"{top} must hold {self._listed()} only.")
        return DataError(problems)

    def _in_no_defect_folder(self, top: str, kind: str, name: str) -> Problem:
        good = joined(top, self.good)
        if kind:
            return Problem(
                f"{joined(top, kind)} would be a kind of defect; good images lie in {self.good}/",
                f"Rename it to {self.good}, or move its images to {good}.",
            )
        return Problem(
            f"{joined(top, name)} lies in no defect folder", f"Move it to {good} or to a folder named after its defect."
        )

    def _listed(self) -> str:
        if self.bad is None:
            return f"{self.good}/ and a folder for each kind of defect"
        *others, last = (f"{kind}/" for kind in (self.good, *self.bad))
        return f"{', '.join(others)} and {last}"


def _in_other_case(top: str, kind: str, wanted: str) -> Problem:
    if not is_folder(joined(top, wanted)):
        return Problem(f"{joined(top, wanted)}: no such folder; there is {joined(top, kind)}", rename(wanted))
    return Problem(
        f"{joined(top, kind)} differs from {wanted}/ beside it in case alone",
        f"Case counts in the names of folders: move its images to {joined(top, wanted)}.",
    )


BY_DEFECT = Folders()
"""Those of MVTec AD."""


# --- where the categories are


def is_category(folder: str, folders: Folders = BY_DEFECT) -> bool:
    """Whether a folder holds what every category must: good images to learn from."""
    return is_folder(joined(folder, f"train/{folders.good}"))


def defect_kinds(home: str) -> list[str]:
    """The kinds of defect that test/ in a category's folder has folders for, by MVTec AD's rules, sorted by bytes."""
    top = joined(home, "test")
    return [kind for kind in subfolders(top) if kind != GOOD and BY_DEFECT.allows(kind)] if is_folder(top) else []


def category_folders(root: str, wanted: Callable[[str], bool]) -> dict[str, str]:
    """The folder of each category by its name, sorted by bytes: the root's sub-folders for which `wanted` holds.

    A root that is itself such a folder is the only one, under its own name. Raises DataError where it cannot be read.
    """
    if wanted(root):
        return {own_name(root): root}
    folders = {name: joined(root, name) for name in subfolders(root)}
    return {name: folder for name, folder in folders.items() if wanted(folder)}


def has_part(folder: str) -> bool:
    """Whether a folder holds train/, test/ or ground_truth/: beside categories it is one, if only half unpacked."""
    return any(is_folder(joined(folder, part)) for part in _PARTS)


def all_categories(
    root: str, wanted: Callable[[str], bool], is_part: Callable[[str], bool] = has_part
) -> dict[str, str]:
    """The folder of each category by its name, as `category_folders` gives them, and of those that lack something.

    is_part: whether a sub-folder is a category where another one is a whole one. What it lacks is said by
    `given_images` and `scored_images`; left out, its absence from the results would be seen by nobody. Empty where no
    folder is `wanted`.
    """
    found = category_folders(root, wanted)
    if not found or root in found.values():
        return found
    return category_folders(root, lambda folder: folder != root and is_part(folder))


def homes_of(
    root: str,
    is_own: Callable[[str], bool],
    what: str,
    *expected: str,
    has_sign: Callable[[str], bool] | None = None,
) -> dict[str, str]:
    """The folder of each category of a data set by its name, as `all_categories` gives them.

    is_own: whether a folder is a category. what, expected: as for `no_category`. has_sign: whether one that lacks
    something is known by what it has, as by a part of its folders; None to ask `is_own`.

    Raises DataError where the root cannot be read, and NoLayout where no folder is a category.
    """
    known = has_sign or is_own
    found = all_categories(root, is_own, lambda folder: has_part(folder) or known(folder))
    if not found:
        raise no_category(root, what, *expected)
    return found


def no_category(root: str, what: str, *expected: str) -> NoLayout:
    """The error for a root without a category of `what`, a data set: what of one was expected, and what it holds."""
    places = " and ".join(joined(root, f"<category>/{part}") for part in expected)
    message = f"{root} holds no {what}: expected {places}, found {holds(root)}"
    return NoLayout(message, help=_help_with_case(root, expected) or OTHER_LAYOUT)


def _help_with_case(root: str, expected: Sequence[str]) -> str | None:
    """What to rename where a category is one but for the case of a name; None where there is none."""
    for home in [root, *(joined(root, name) for name in subfolders(root)[:_LOOKED_INTO])]:
        try:
            found = next(filter(None, (misnamed(home, below) for below in expected)), None)
        except DataError:  # what cannot be read is no category
            continue
        if found is not None:
            wrong, name = found
            return f"There is {wrong}. {rename(name)}"
    return None


def find_category(
    root: str, category: str, wanted: Callable[[str], bool], homes: Callable[[str], Mapping[str, str]]
) -> str:
    """The folder of one category. The others are looked at only if it is not simply there.

    wanted: whether a folder is a whole category. homes: gives the folders of all that a root holds, by their names.

    Raises what `homes` raises, and DataError, naming what there is, where the category is missing.
    """
    if wanted(root):
        home = root if category == own_name(root) else None
    else:
        # A name such as "a/b", ".." or ".hidden" is in no listing.
        plain = PurePath(category).name == category and not category.startswith(".")
        home = joined(root, category) if plain and wanted(joined(root, category)) else None
    if home is None:
        found = homes(root)
        check_category(root, category, list(found))
        home = found[category]
    return home


# --- images


@dataclass(frozen=True, slots=True)
class GivenImages:
    """The images that are no test images: normal ones, and those that are left out, being defects."""

    train: tuple[Sample, ...]
    validation: tuple[Sample, ...]
    left_out: tuple[Sample, ...]


def given_images(
    home: str,
    category: str,
    *,
    folders: Folders = BY_DEFECT,
    splits: Sequence[Split] = ("train", "validation"),
    truth: Truth | None = None,
) -> GivenImages:
    """What train/ and validation/ (optional) in a category's folder hold, each part sorted by bytes.

    splits: those that the data set has. truth: where defects among these images have masks; None where they have none.

    Raises DataError where there is no normal training image, or one lies where it would be passed over.
    """
    found: list[Sample] = []
    for split in splits:
        top = joined(home, split)
        if split != "train":
            refuse_other_case(home, split)
        names = _names_by_folder(top) if is_folder(top) else []
        found += _samples(home, category, split, folder=split, names=names, folders=folders, truth=truth)
    normal = [sample for sample in found if sample.label == 0]
    train = tuple(sample for sample in normal if sample.split == "train")
    if not train:
        good = f"train/{folders.good}"
        if not is_folder(joined(home, good)):
            raise missing_folder(home, good, _GOOD_TO_LEARN)
        raise DataError(f"{joined(home, good)} holds no image", help=_GOOD_TO_LEARN)
    return GivenImages(
        train=train,
        validation=tuple(sample for sample in normal if sample.split == "validation"),
        left_out=tuple(sample for sample in found if sample.label == 1),
    )


def misnamed_validation(home: str, own: str) -> list[Problem]:
    """What is wrong where a category's folder has a validation split by another name than `own`, that of its layout.

    Passed over, nothing would say that the threshold was not set on it.
    """
    problems: list[Problem] = []
    for name in subfolders(home):
        if name == own or name.casefold() not in _VALIDATION:
            continue
        there = is_folder(joined(home, own))
        if not there and right_case(name, (own,)) is not None:
            problems.append(_in_other_case(home, name, own))
        elif relative_images(joined(home, name)):
            problems.append(
                Problem(
                    f"{joined(home, name)} holds images that would be passed over: the validation split is {own}/",
                    f"Move its images to {joined(home, own)}, or take it away." if there else f"Rename it to {own}.",
                )
            )
    return problems


def scored_images(
    home: str,
    category: str,
    *,
    truth: Truth,
    folder: str = "test",
    names: Iterable[str] | None = None,
    folders: Folders = BY_DEFECT,
) -> tuple[Sample, ...]:
    """Test images with their masks: those in the good folder are normal, others have the defect of their folder's name.

    folder: the test folder in `home`. names: its images, as paths below it; None for all that there are.

    A defect image without mask has none, and says where it was looked for. Raises DataError where the folder or any
    image is missing, an image lies where it would be passed over, or two share a mask.
    """
    top = joined(home, folder)
    if names is None:
        if not is_folder(top):
            raise missing_folder(home, folder, folders.expected())
        names = relative_images(top)
    samples = _samples(home, category, "test", folder=folder, names=names, folders=folders, truth=truth)
    if not samples:
        raise DataError(f"{top} holds no image", help=folders.expected())
    return tuple(samples)


def _names_by_folder(top: str) -> list[str]:
    """The images of a training split, as paths below its folder, sorted by bytes."""
    loose = [name for name in files_in(top) if is_image_name(name)]
    # One folder at a time: the good one is read whole, even where another one links to it.
    inside = [f"{kind}/{name}" for kind in subfolders(top) for name in relative_images(joined(top, kind))]
    return sorted([*loose, *inside], key=os.fsencode)


def _samples(
    home: str,
    category: str,
    split: Split,
    *,
    folder: str,
    names: Iterable[str],
    folders: Folders,
    truth: Truth | None,
) -> list[Sample]:
    """One for each image; `names` are paths below `folder` in `home`, and settle the order."""
    top = joined(home, folder)
    names = list(names)
    misplaced = [name for name in names if "/" not in name or not folders.allows(name.partition("/")[0])]
    if misplaced:
        raise folders.misplaced(top, misplaced)
    if truth is not None:
        for kind in sorted({name.partition("/")[0] for name in names} - {folders.good}):
            truth.check_case(kind)
    samples: list[Sample] = []
    for name in names:
        kind, _, below = name.partition("/")
        path, bad = joined(top, name), kind != folders.good
        masks: tuple[str, ...] = ()
        expected: str | None = None
        if bad and truth is not None:
            masks = truth.masks_of(path, kind, below)
            expected = None if masks else truth.expected_at(kind, below)
        samples.append(
            Sample(
                path=path,
                relative=f"{folder}/{name}",
                split=split,
                label=1 if bad else 0,
                defect=kind if bad else GOOD,
                category=category,
                masks=masks,
                expected_mask=expected,
            )
        )
    return samples


# --- masks


def find_mask(masks: MaskFolder, base: str) -> tuple[str, ...]:
    """The usual rule: <stem>_mask, or a mask named like its image."""
    found = masks.find((f"{base}_mask", base))
    return () if found is None else (found,)


class Truth:
    """The masks of one category's images: each goes to one image.

    home:     the category's folder. folder: the one in it that has a folder for each kind of defect.
    find:     how the masks of one image are found.
    expected: the file to name where there is none, {} standing for the image as `find` is given it; None where a mask
              need not be there.
    """

    def __init__(
        self,
        home: str,
        folder: str = "ground_truth",
        *,
        find: FindMasks = find_mask,
        expected: str | None = "{}_mask.png",
    ) -> None:
        self._home, self._below = home, folder
        self._folder = joined(home, folder)
        self._find = find
        self._expected = expected
        self._kinds: dict[str, MaskFolder] = {}
        self._owners: dict[str, str] = {}

    def masks_of(self, path: str, kind: str, below: str) -> tuple[str, ...]:
        """The masks of the defect image `path`, which is `below` the folder `kind`; none where none was found.

        Raises DataError where one belongs to another image already.
        """
        if kind not in self._kinds:
            self._kinds[kind] = MaskFolder(joined(self._folder, kind))
        found = tuple(self._find(self._kinds[kind], without_suffix(below)))
        for mask in found:
            if mask in self._owners:
                raise DataError(
                    f"{self._owners[mask]} and {path} share one mask, {mask}",
                    help="Give the images names that differ by more than their suffix or their folder.",
                )
            self._owners[mask] = path
        return found

    def check_case(self, kind: str) -> None:
        """Raise DataError where the masks of a kind of defect lie in a folder that is called so but for its case."""
        refuse_other_case(self._home, f"{self._below}/{kind}")

    def expected_at(self, kind: str, below: str) -> str | None:
        """Where a mask that was not found should have been."""
        if self._expected is None:
            return None
        return joined(self._folder, f"{kind}/{self._expected.format(without_suffix(below))}")
