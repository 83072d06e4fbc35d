"""KolektorSDD2, surfaces with defects of many kinds (Božič et al., Computers in Industry 129, 2021).

    ROOT/train/10000.png, 10000_GT.png, …       2085 good images and 246 with a defect
    ROOT/test/20000.png, 20000_GT.png, …         894 good images and 110 with a defect

NNNNN_GT is the mask of NNNNN, of every image: black where it is good. ROOT may also be the folder that holds
KolektorSDD2. Whether an image is good is known from its mask only, so that all masks are read to list them. The authors
learn with supervision; here the defects of their training split are left out, and only good images learned from.

The archive holds two stray files, train/10301 (copy).png and train/10301_GT (copy).png: the second does not end like a
mask, and would be one image more. A copy beside what it is a copy of, byte for byte, is passed over and told. The
pickles that say which masks the authors learn from (split_weakly_*.pyb) are never read.
"""

from __future__ import annotations

from pathlib import PurePath

from uadctl.datasets.base import (
    Dataset,
    NoLayout,
    Where,
    capped,
    check_category,
    check_root,
    holds,
    in_another_case,
    missing_folder,
    without_suffix,
)
from uadctl.datasets.by_mask import labelled_images, labelled_sample, passed_over
from uadctl.errors import DataError, Problem, with_help
from uadctl.imaging.listing import files_in, is_folder, is_image_name, joined, relative_images, subfolders
from uadctl.records import Sample, Split

CATEGORY = "kolektorsdd2"
"""The name of its only category."""

_UNPACKED = "KolektorSDD2"
_ENDING = "_GT"
_COPY = " (copy)"
_PARTS: tuple[Split, ...] = ("train", "test")
_AT_ONCE = 1 << 20
_ONE = "Remove the one that is not meant."


def recognises(root: str) -> bool:
    """Whether a folder, or KolektorSDD2 in it, holds train/ or test/ with a mask NNNNN_GT beside its image."""
    check_root(root)
    return any(_has_layout(home) for home in _places(root))


def list_categories(where: Where) -> list[str]:
    """Its only category. Raises DataError where the root is missing, NoLayout where it holds neither train nor test."""
    _home(where.root)
    return [CATEGORY]


def load(where: Where, category: str) -> Dataset:
    """List both parts; every mask is read, to know which images are good.

    Raises LayoutError with every problem at once: images without mask, of which nothing says whether they are good,
    masks without image or of another size, masks that cannot be read, copies that are none, a part that is there twice.
    Raises DataError where a part is missing, or there is no good image to learn from or no image to test on.
    """
    home = _home(where.root)
    check_category(where.root, category, [CATEGORY])
    names: list[str] = []
    problems: list[Problem] = []
    notes: list[str] = []
    for part in _PARTS:
        folder = joined(home, part)
        if not is_folder(folder):
            raise missing_folder(home, part, help="Unpack the archive again: it holds train/ and test/.")
        found, wrong, passed = _sorted_out(folder)
        names += [f"{part}/{name}" for name in found]
        problems += wrong
        notes += passed
        other = in_another_case(home, part)
        if other is not None:
            problems.append(Problem(f"two folders of one part: {folder} and {joined(home, other)}", _ONE))
    inner = _places(home)[1:]
    if inner and _has_layout(inner[0]):
        problems.append(Problem(f"both {home} and {inner[0]} hold a KolektorSDD2", _ONE))
    notes += passed_over(home, _PARTS, f"{_UNPACKED} has train/ and test/ only")
    loose = [
        f"{joined(home, name)} lies neither in train/ nor in test/" for name in files_in(home) if is_image_name(name)
    ]
    if loose:
        problems += with_help(capped(loose, home, "files lie in neither"), "Move it there.")
    pairs = labelled_images(home, names, ending=_ENDING, image_suffix=".png", mask_suffix=".png", problems=problems)
    samples: dict[Split, list[Sample]] = {part: [] for part in _PARTS}
    for pair in pairs:
        split: Split = "train" if pair.image.startswith("train/") else "test"
        samples[split].append(labelled_sample(home, pair, category=CATEGORY, split=split))
    train = tuple(sample for sample in samples["train"] if sample.label == 0)
    if not train:
        raise DataError(f"{joined(home, 'train')} holds no good image", help="There is nothing to learn from.")
    if not samples["test"]:
        raise DataError(f"{joined(home, 'test')} holds no image", help="It must hold the images to test on.")
    return Dataset(
        name=CATEGORY,
        category=category,
        root=where.root,
        train=train,
        validation=(),
        test=tuple(samples["test"]),
        left_out=tuple(sample for sample in samples["train"] if sample.label == 1),
        notes=tuple(notes),
    )


def _places(root: str) -> list[str]:
    """The root, or the folder in it that the archive was unpacked into."""
    unpacked = [joined(root, name) for name in subfolders(root) if name.casefold() == _UNPACKED.casefold()]
    return [root, *unpacked] if len(unpacked) == 1 else [root]


def _has_layout(home: str) -> bool:
    return any(_has_masks(joined(home, part)) for part in _PARTS)


def _has_masks(folder: str) -> bool:
    """Whether a folder itself holds an image with its mask beside it."""
    if not is_folder(folder):
        return False
    stems = {without_suffix(name) for name in files_in(folder) if is_image_name(name)}
    return any(own[-len(_ENDING) :].casefold() == _ENDING.casefold() and own[: -len(_ENDING)] in stems for own in stems)


def _home(root: str) -> str:
    check_root(root)
    places = _places(root)
    for home in places:
        if _has_layout(home):
            return home
    for home in places:
        for part in _PARTS:
            other = in_another_case(home, part)
            if other is not None and _has_masks(joined(home, other)):
                return home
    for home in places:
        for part in _PARTS:
            folder = joined(home, part)
            images = [name for name in files_in(folder) if is_image_name(name)] if is_folder(folder) else []
            if images:
                raise NoLayout(
                    f"{root} holds no KolektorSDD2: {folder} has images such as {images[0]}, but no mask such as "
                    f"{without_suffix(images[0])}{_ENDING}.png",
                    help="Masks alone say which images are good: unpack the archive again.",
                )
    raise NoLayout(
        f"{root} holds no KolektorSDD2: expected {joined(root, 'train/10000.png')} and "
        f"{joined(root, 'train/10000_GT.png')}, found {holds(root)}",
        help=f"Give the folder that holds train/ and test/, or the one that holds {_UNPACKED}.",
    )


# --- copies


def _sorted_out(folder: str) -> tuple[list[str], list[Problem], list[str]]:
    """The image files of a part, as paths below it, without copies; what is wrong with others; what is passed over."""
    names = relative_images(folder)
    there = {_key(name): name for name in reversed(names)}
    deep = [f"{joined(folder, name)} does not lie in {folder} itself" for name in names if "/" in name]
    kept: list[str] = []
    problems = with_help(capped(deep, folder, "lie deeper"), "Move it there, or away.") if deep else []
    notes: list[str] = []
    for name in names:
        if "/" in name:
            continue
        first = _copied(name)
        if first is None:
            kept.append(name)
            continue
        found = there.get(_key(first))
        copy, original = joined(folder, name), joined(folder, found or first)
        wrong = _no_copy(copy, original, found is not None)
        if wrong is None:
            notes.append(f"{copy} is passed over: a copy of {original}, equal byte for byte")
        else:
            problems.append(wrong)
    return kept, problems, notes


def _copied(name: str) -> str | None:
    """The name of what a file is called a copy of; None where it is called none. A mask's ending may be last."""
    own, suffix = without_suffix(name), PurePath(name).suffix
    mask = own[-len(_ENDING) :] if own.casefold().endswith((_COPY + _ENDING).casefold()) else ""
    own = own[: len(own) - len(mask)]
    return own[: -len(_COPY)] + mask + suffix if own.casefold().endswith(_COPY) else None


def _key(name: str) -> str:
    """A name with its suffix and the ending of masks in one case: both may be in any."""
    own, suffix = without_suffix(name), PurePath(name).suffix
    if own.casefold().endswith(_ENDING.casefold()):
        own = own[: -len(_ENDING)] + _ENDING
    return own + suffix.casefold()


def _no_copy(copy: str, original: str, there: bool) -> Problem | None:
    """What is wrong with a file that is called a copy of another; None where it is one."""
    if not there:
        return Problem(f"{copy}: there is no {original} that it is a copy of", "Rename it, or remove it.")
    try:
        if _equal(copy, original):
            return None
    except DataError as error:
        return Problem(error.message, error.help)
    return Problem(
        f"{copy} is no copy of {original}: they differ", "Rename the one that is meant, or remove the other."
    )


def _equal(one: str, other: str) -> bool:
    """Whether two files are equal byte for byte. Raises DataError naming one that cannot be read."""
    return _digest(one) == _digest(other)


def _digest(path: str) -> bytes:
    import hashlib

    from uadctl.imaging.files import file_named
    from uadctl.imaging.rows import RegularFile

    digest = hashlib.sha256()
    with file_named(path), RegularFile(path) as file:
        for start in range(0, file.length, _AT_ONCE):
            digest.update(file.read(start, min(_AT_ONCE, file.length - start)))
    return digest.digest()
