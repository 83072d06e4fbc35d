"""Magnetic tiles with five kinds of defect (Huang et al., The Visual Computer 2020), as their archive unpacks.

    ROOT/MT_Free/Imgs/*.jpg, *.png                                       good tiles, and their masks, all black
    ROOT/MT_{Blowhole,Break,Crack,Fray,Uneven}/Imgs/*.jpg, *.png         bad ones, and their masks

ROOT may also be the folder around these, which the archive is called after. A mask lies beside its image and has its
name, so that a PNG is never an image here. A further folder MT_<kind> is a kind of defect too, and noted; one that is
called like MT_Free, such as MT_Free_old, is refused.

The images are called exp<light>_num_<number>.jpg: shots of one number show one part, in different light. No split is
published, so it is made by a rule that needs no list and no dice. Of the numbers in MT_Free, in ascending order, every
fifth is tested on, and so is each that also occurs among the defects; all others are learned from. So no number is on
both sides. A name without such a number counts as a number of its own. Images of a number that occurs more than once
have it as their group, so that hold-outs for the threshold keep them together, and metrics of groups are reported.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import TypeAlias

from uadctl.datasets.base import (
    LIKE_GOOD,
    Dataset,
    LayoutError,
    NoLayout,
    Where,
    both_cases,
    capped,
    check_category,
    check_root,
    differ_in_case,
    holds,
    in_another_case,
    missing_folder,
    own_name,
    rename,
    without_suffix,
)
from uadctl.datasets.sorted_folders import GOOD
from uadctl.errors import Problem, with_help
from uadctl.imaging.listing import files_in, is_folder, is_image_name, joined, relative_images, subfolders
from uadctl.records import Sample, Split

_CATEGORY = "magnetic_tile"
_PREFIX = "MT_"
_FREE = "MT_Free"
_DEFECTS = ("MT_Blowhole", "MT_Break", "MT_Crack", "MT_Fray", "MT_Uneven")
_IMAGES = "Imgs"
_NUMBER = re.compile("_num_([0-9]+)", re.IGNORECASE)
_EVERY = 5  # numbers of good tiles, of which the last is tested on
_PAIRS = "An image and its mask have one name: <name>.jpg and <name>.png."

_Number: TypeAlias = tuple[int, int, bytes]
"""What shots of one part share, in the order of the split: numbers ascending, then names without one by bytes."""


def recognises(root: str) -> bool:
    """Whether a folder, or the only such one in it, has folders MT_<kind> with a folder Imgs."""
    return _home(root) is not None


def list_categories(where: Where) -> list[str]:
    """The one category, magnetic_tile. Raises DataError where the root is missing, NoLayout where it holds none."""
    _find(where.root)
    return [_CATEGORY]


def load(where: Where, category: str) -> Dataset:
    """List the images. Nothing is decoded.

    A defect image without mask keeps no mask and says where it was looked for. One of the five folders of defects that
    is not there is noted, and so is each further one.

    Raises LayoutError with every problem at once: a folder that is missing, called in another case or there in two
    cases, one that is called nearly like that of the good tiles, images beside Imgs, masks without image, images that
    share a mask, good tiles none of which is left to learn from.
    """
    home = _find(where.root)
    check_category(where.root, category, [_CATEGORY])
    found = _Found(home)
    kinds = found.folders()
    shots = {kind: found.shots(kind) for kind in kinds}
    defects = {shot.number for kind, those in shots.items() if kind != _FREE for shot in those}
    tested = _tested(shot.number for shot in shots.get(_FREE, ())) | defects
    counts = Counter(shot.number for those in shots.values() for shot in those)
    samples = [
        _sample(home, kind, shot, "test" if shot.number in tested else "train", _group(shot.number, counts))
        for kind, those in shots.items()
        for shot in those
    ]
    train = _sorted(sample for sample in samples if sample.split == "train")
    if not found.problems and not train:
        found.problem(f"{joined(home, f'{_FREE}/{_IMAGES}')} holds no image to learn from", _nothing_left(shots[_FREE]))
    if found.problems:
        raise LayoutError(found.problems)
    return Dataset(
        name="magnetic_tile",
        category=category,
        root=where.root,
        train=train,
        validation=(),
        test=_sorted(sample for sample in samples if sample.split == "test"),
        notes=(
            *(
                f"{joined(home, kind)}: no such folder, so that this kind of defect is not tested on"
                for kind in _DEFECTS
                if kind not in kinds
            ),
            *(
                f"{joined(home, kind)} is none of the {len(_DEFECTS)} published kinds of defect; its images are tested "
                f"on as {_defect(kind)}"
                for kind in kinds
                if kind not in (_FREE, *_DEFECTS)
            ),
        ),
    )


# --- where it is


def _find(root: str) -> str:
    check_root(root)
    home = _home(root)
    if home is None:
        expected = f"expected {joined(root, f'{_FREE}/{_IMAGES}')} and the same for each kind of defect"
        around = _around(root)
        raise NoLayout(
            f"{root} holds no magnetic tiles: {expected}, found {holds(root)}",
            help=None if around is None else f"{root} is a part of them: give {around} as root.",
        )
    return home


def _home(root: str) -> str | None:
    """The folder that has those of the kinds: the root, or the only sub-folder of it that has them."""
    if _has_kinds(root):
        return root
    inside = [folder for name in subfolders(root) if _has_kinds(folder := joined(root, name))]
    return inside[0] if len(inside) == 1 else None


def _around(root: str) -> str | None:
    """The folder to be given in place of that of a kind, or of its Imgs; None if the root is neither by its name."""
    kind = joined(root, "..") if own_name(root).casefold() == _IMAGES.casefold() else root
    if not _is_kind(own_name(kind)) or not _has_images(kind):
        return None
    return os.path.normpath(joined(kind, ".."))


def _has_kinds(folder: str) -> bool:
    """Whether it is meant to be the one: names in another case are told by `load`, as names to correct."""
    return any(_has_images(joined(folder, name)) for name in subfolders(folder) if _is_kind(name))


def _is_kind(name: str) -> bool:
    return name.casefold().startswith(_PREFIX.casefold())


def _is_like_good(name: str) -> bool:
    """Whether a folder of a kind is called nearly like that of the good tiles, as a copy of it would be."""
    kind = name[len(_PREFIX) :].casefold()
    free = _FREE[len(_PREFIX) :].casefold()
    return kind != free and (kind in ("", *LIKE_GOOD) or kind.startswith(free))


def _defect(kind: str) -> str:
    return kind[len(_PREFIX) :].lower()


def _has_images(folder: str) -> bool:
    return is_folder(joined(folder, _IMAGES)) or in_another_case(folder, _IMAGES) is not None


# --- what is in it


@dataclass(frozen=True, slots=True)
class _Shot:
    """One image: its path below its folder Imgs, what it shares with other shots of the part, and its mask."""

    name: str
    number: _Number
    mask: str | None


@dataclass(slots=True)
class _Found:
    """What is wrong with the folders below `home`, so far."""

    home: str
    problems: list[Problem] = field(default_factory=list)

    def problem(self, message: str, help: str | None = None) -> None:
        self.problems.append(Problem(message, help))

    def folders(self) -> list[str]:
        """The folders of good tiles and of each kind of defect, sorted by bytes, that are called as they should be."""
        there = [name for name in subfolders(self.home) if _is_kind(name)]
        known = {name.casefold(): name for name in (_FREE, *_DEFECTS)}
        for name in there:  # of a kind that is not published, the first is the one to keep
            if name.startswith(_PREFIX):
                known.setdefault(name.casefold(), name)
        fine = []
        for name in there:
            right = known.get(name.casefold(), _PREFIX + name[len(_PREFIX) :])
            if _is_like_good(name):
                good = joined(self.home, f"{_FREE}/{_IMAGES}")
                self.problem(
                    f"{joined(self.home, name)} would be a kind of defect; good tiles lie in {_FREE}",
                    f"Move its images to {good}, the folder away, or rename it after a defect.",
                )
            elif name == right:
                fine.append(name)
            elif right in there:
                self.problems.append(differ_in_case(self.home, right, name))
            else:
                self.problem(
                    f"{joined(self.home, name)}: no folder of this name is known; there should be {right}",
                    rename(right),
                )
        if _FREE not in fine and not any(name.casefold() == _FREE.casefold() for name in there):
            self.problem(f"{joined(self.home, _FREE)}: no such folder", f"{_IMAGES} in it holds the good tiles.")
        return fine

    def shots(self, kind: str) -> list[_Shot]:
        """The images of one folder with their masks, sorted by bytes."""
        top = joined(self.home, kind)
        self.problems += both_cases(top, _IMAGES)
        loose = [name for name in files_in(top) if is_image_name(name)]
        for below in subfolders(top):
            if below.casefold() != _IMAGES.casefold():  # in another case it is a problem of its own
                loose += [f"{below}/{name}" for name in relative_images(joined(top, below))]
        if loose:
            more = f" (so do {len(loose) - 1} more)" if len(loose) > 1 else ""
            self.problem(f"{joined(top, loose[0])} does not lie in {_IMAGES}{more}", f"Move it to {_IMAGES}, or away.")
        folder = joined(top, _IMAGES)
        if not is_folder(folder):
            self.problems += missing_folder(self.home, f"{kind}/{_IMAGES}", "It holds images and their masks.").problems
            return []
        images, masks = _by_name(relative_images(folder))
        self._check_pairs(folder, images, masks)
        if not images:
            self.problem(f"{folder} holds no image", _PAIRS)
        return [
            _Shot(names[0], _number(base), joined(folder, masks[base][0]) if base in masks else None)
            for base, names in images.items()
        ]

    def _check_pairs(self, folder: str, images: dict[str, list[str]], masks: dict[str, list[str]]) -> None:
        alone = [
            f"{joined(folder, name)}: a mask without image"
            for base, names in masks.items()
            for name in names
            if base not in images
        ]
        twice = [
            f"{joined(folder, names[0])} and {joined(folder, names[1])} have one name"
            for group in (images, masks)
            for names in group.values()
            if len(names) > 1
        ]
        for messages, what in ((alone, "masks without image"), (twice, "names that are given twice")):
            if messages:
                self.problems += with_help(capped(messages, folder, what), _PAIRS)


def _by_name(names: Iterable[str]) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    """Images and masks by their path without suffix: a PNG is a mask, whatever its case."""
    images: dict[str, list[str]] = {}
    masks: dict[str, list[str]] = {}
    for name in names:
        group = masks if PurePath(name).suffix.casefold() == ".png" else images
        group.setdefault(without_suffix(name), []).append(name)
    return images, masks


# --- what is learned from, and what is tested on


def _number(base: str) -> _Number:
    found = _NUMBER.search(PurePath(base).name)
    return (1, 0, os.fsencode(base)) if found is None else (0, int(found[1]), b"")


def _tested(numbers: Iterable[_Number]) -> set[_Number]:
    return set(sorted(set(numbers))[_EVERY - 1 :: _EVERY])


def _group(number: _Number, counts: Counter[_Number]) -> str | None:
    return f"num {number[1]}" if number[0] == 0 and counts[number] > 1 else None


def _nothing_left(good: Sequence[_Shot]) -> str:
    return f"The numbers of all its {len(good)} images also occur among the defects; those are tested on."


def _sample(home: str, kind: str, shot: _Shot, split: Split, group: str | None) -> Sample:
    relative = f"{kind}/{_IMAGES}/{shot.name}"
    good = kind == _FREE
    expected = None if good or shot.mask else joined(home, f"{without_suffix(relative)}.png")
    return Sample(
        path=joined(home, relative),
        relative=relative,
        split=split,
        label=0 if good else 1,
        defect=GOOD if good else _defect(kind),
        category=_CATEGORY,
        # That of a good tile is black; what it is worth nothing says, and nobody would look at it.
        masks=() if good or shot.mask is None else (shot.mask,),
        expected_mask=expected,
        group=group,
    )


def _sorted(samples: Iterable[Sample]) -> tuple[Sample, ...]:
    return tuple(sorted(samples, key=lambda sample: os.fsencode(sample.relative)))
