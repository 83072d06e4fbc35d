"""Your own folders: good images to learn from, good and bad ones to be tested on.

Without `files`:

    ROOT/train/normal/…                        (or train/good)
    ROOT/validation/normal/…                   (optional)
    ROOT/test/normal/…  ROOT/test/anomaly/…    (sub-folders of anomaly are kinds of defect)
    ROOT/ground_truth/anomaly/…/<stem>_mask.png (optional; or named like the image)

or the same below ROOT/<category>/. With `files`, a glob or a list of globs for each role, relative to ROOT:

    train = "ok/*.png"   normal = "check/ok/**"   anomaly = ["check/dent/*", "check/scratch/*"]
    mask = "masks/{parent}/{stem}.png"

A glob is matched part by part; ** stands for any folders; a folder's own name means all images below it. In `mask`,
{stem} is the image's file name without suffix, {name} the file name, {parent} the name of its folder; where the pattern
matches several files, their union is the mask.

Where every image has a mask, good ones too, and nothing else says which are good:

    by_mask = true   train = "images/training"   test = "images/test"   mask = "annotations/{parent}/{stem}.png"
    classes = ["inclusion", "patches", "scratches"]

An image whose mask has no pixel above 0 is good. The kind of a defect is the names of the classes that its mask has,
joined by commas; `classes` names the values 1, 2, 3 and so on. (NEU-Seg lies so: Dong et al., "PGA-Net: Pyramid Feature
Fusion and Global Context Attention Network for Automated Surface Defect Detection", IEEE Transactions on Industrial
Informatics 16, 2020.) `good` holds globs of further images to learn from, which need no mask; where the pattern finds
one that shows a defect, the image is left out.
"""

from __future__ import annotations

import os
import string
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from glob import escape
from pathlib import PurePath

from uadctl.datasets.base import (
    Dataset,
    LayoutError,
    MaskFolder,
    NoLayout,
    Where,
    capped,
    check_category,
    check_root,
    holds,
    misnamed,
    own_name,
    relative_name,
    rename,
    stem,
    without_suffix,
)
from uadctl.datasets.by_mask import MaskFacts, read_masks, unfit, unreadable
from uadctl.datasets.globs import Listing, expand, parts_of, split_glob
from uadctl.datasets.sorted_folders import all_categories, find_category
from uadctl.errors import DataError, Problem, with_help
from uadctl.imaging.listing import is_folder, joined, relative_images, subfolders
from uadctl.records import Sample, Split
from uadctl.spec.roles import BOUND, FOLDER_ROLES, MASK_HELP, MASK_ROLES, wrong_classes, wrong_role

_FOLDER_KEYS = (*FOLDER_ROLES, "mask")
_MASK_KEYS = (*MASK_ROLES, "mask", "by_mask", "classes")
_ALL_KEYS = tuple(dict.fromkeys((*_FOLDER_KEYS, *_MASK_KEYS)))
# Nobody tells so many classes apart on one image: these are shades, such as those of softened edges or of a JPEG.
_SHADES = 20

_REPLACE = "Without its mask it is not known whether an image is good: replace the files."
_ONE_ROLE = "An image may have one role only."
_LIST_OF_GLOBS = (
    ' A glob cannot leave images out: give anomaly a list without the good ones, as in anomaly = ["test/dent/*", '
    '"test/scratch/*"].'
)
_PLACEHOLDERS = ("stem", "name", "parent")
_PLACEHOLDERS_MEAN = (
    "{stem}, {name} and {parent} stand for the image's file name without and with suffix, and its folder."
)
_PARTS = ("train", "validation", "test", "ground_truth")
_NORMAL = ("normal", "good")
_ANOMALY = ("anomaly",)


def recognises(root: str) -> bool:
    """Never: nearly every data set has a folder called train, and this one is for those that are no other."""
    return False


def list_categories(where: Where) -> list[str]:
    """The category of a folder is its name; where a sub-folder has the layout, those with a part of it are categories.

    With `files` there is one category. Raises DataError where the root is missing, NoLayout where it has no such
    layout.
    """
    return list(_homes(where))


def _homes(where: Where) -> dict[str, str]:
    root = where.root
    check_root(root)
    found = {own_name(root): root} if where.files is not None else all_categories(root, _has_layout, _has_part)
    if not found:
        raise NoLayout(
            f"{root} has no folder layout: expected {joined(root, 'train/normal')}, or the same in its sub-folders, "
            f"found {holds(root)}",
            help="Or say where the images are: [dataset.files] train, normal, anomaly, mask.",
        )
    return found


def load(where: Where, category: str) -> Dataset:
    """List one category. Nothing is decoded but masks that say which images are good.

    `where.files` is a mapping, or an object with these attributes, of train, validation, normal, anomaly (a glob or a
    list of globs each) and mask (a pattern); absent and None mean the same. Without normal and anomaly the test part is
    empty, for a model that is only to be fitted. With by_mask (true), good and test take the place of normal and
    anomaly, classes (a list of names) may be given, and the masks of all images are read, once a process; those of good
    need none. Training and validation images with a defect are left out.

    Raises LayoutError (a DataError) that holds every problem found: nothing to train on, globs that match nothing,
    images in two roles, unknown folders and keys, a mask pattern that never matches, folders in another case; with
    by_mask also an image without mask, with one of another size or with one that cannot be read.
    """
    root, files = where.root, where.files
    found = _Found(root=root, category=category)
    if files is None:
        _by_layout(found, find_category(root, category, _has_layout, lambda _: _homes(where)))
    else:
        check_category(root, category, list_categories(where))
        _by_globs(found, files)
    _check_overlap(found, by_globs=files is not None)
    if found.problems:
        raise LayoutError(found.problems)
    samples = sorted(found.samples, key=lambda sample: os.fsencode(sample.relative))
    return Dataset(
        name="folder",
        category=category,
        root=root,
        train=tuple(sample for sample in samples if sample.split == "train" and sample.label == 0),
        validation=tuple(sample for sample in samples if sample.split == "validation" and sample.label == 0),
        test=tuple(sample for sample in samples if sample.split == "test"),
        left_out=tuple(sample for sample in samples if sample.split != "test" and sample.label == 1),
    )


@dataclass(slots=True)
class _Found:
    """What a search has brought so far."""

    root: str
    category: str
    samples: list[Sample] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)

    def problem(self, message: str, help: str | None = None) -> None:
        self.problems.append(Problem(message, help))

    def add(
        self,
        path: str,
        relative: str,
        split: Split,
        defect: str | None = None,
        masks: tuple[str, ...] = (),
        expected_mask: str | None = None,
    ) -> None:
        self.samples.append(
            Sample(
                path=path,
                relative=relative,
                split=split,
                label=0 if defect is None else 1,
                defect=defect or "good",
                category=self.category,
                masks=masks,
                expected_mask=expected_mask,
            )
        )


def _has_layout(folder: str) -> bool:
    return is_folder(folder) and any(name.casefold() == "train" for name in subfolders(folder))


def _has_part(folder: str) -> bool:
    return any(name.casefold() in _PARTS for name in subfolders(folder))


# --- the default layout


def _child(found: _Found, folder: str, names: tuple[str, ...]) -> str | None:
    """The sub-folder with one of these names, in any case. Two of them are a problem."""
    there = [name for name in subfolders(folder) if name.casefold() in names]
    if len(there) > 1:
        found.problem(
            f"{folder} has both {there[0]} and {there[1]}, which mean the same",
            "Keep one of them, or use [dataset.files].",
        )
    return joined(folder, there[0]) if there else None


def _by_layout(found: _Found, home: str) -> None:
    train = _child(found, home, ("train",))
    if train is None:
        found.problem(
            f"{joined(home, 'train')}: no such folder", "It must hold normal/, the good images to learn from."
        )
    else:
        _normal_images(found, home, train, "train")
    validation = _child(found, home, ("validation",))
    if validation is not None:
        _normal_images(found, home, validation, "validation")
    test = _child(found, home, ("test",))
    if test is None:
        found.problem(f"{joined(home, 'test')}: no such folder", "It must hold normal/, and anomaly/ if there are any.")
        return
    before = len(found.samples)
    _refuse_strays(found, test, (*_NORMAL, *_ANOMALY))
    normal = _child(found, test, _NORMAL)
    if normal is not None:
        _add_normal(found, home, normal, "test")
    anomaly = _child(found, test, _ANOMALY)
    if anomaly is not None:
        _add_anomalies(found, home, anomaly)
    if len(found.samples) == before:
        found.problem(
            f"{test} holds no image in normal/ or anomaly/", "It must hold normal/, and anomaly/ if there are any."
        )


def _normal_images(found: _Found, home: str, folder: str, split: Split) -> None:
    _refuse_strays(found, folder, _NORMAL)
    normal = _child(found, folder, _NORMAL)
    if normal is None:
        found.problem(f"{joined(folder, 'normal')}: no such folder", "It must hold good images only.")
        return
    if not _add_normal(found, home, normal, split):
        found.problem(f"{normal} holds no image", "It must hold good images only.")


def _refuse_strays(found: _Found, folder: str, known: tuple[str, ...]) -> None:
    """What nobody would look at is said, not passed over."""
    for name in subfolders(folder):
        if name.casefold() not in known and relative_images(joined(folder, name)):
            found.problem(
                f"{joined(folder, name)} is not one of {', '.join(known)}",
                "Rename it, move it into anomaly/ if it is a kind of defect, or use [dataset.files].",
            )
    loose = [name for name in relative_images(folder) if "/" not in name]
    if loose:
        found.problem(
            f"{joined(folder, loose[0])} lies in none of the folders {', '.join(known)}"
            + (f" (so do {len(loose) - 1} more)" if len(loose) > 1 else "")
        )


def _below(home: str, folder: str) -> str:
    return PurePath(folder).relative_to(PurePath(home)).as_posix()


def _add_normal(found: _Found, home: str, folder: str, split: Split) -> int:
    names = relative_images(folder)
    for name in names:
        found.add(joined(folder, name), f"{_below(home, folder)}/{name}", split)
    return len(names)


def _add_anomalies(found: _Found, home: str, folder: str) -> None:
    truth = _child(found, home, ("ground_truth",))
    masks_home = None if truth is None else _child(found, truth, _ANOMALY)
    expected_home = masks_home or joined(truth or joined(home, "ground_truth"), "anomaly")
    try:
        masks = MaskFolder(expected_home)
        owners: dict[str, str] = {}
        for name in relative_images(folder):
            base = without_suffix(name)
            mask = masks.find((f"{base}_mask", base))
            path = joined(folder, name)
            if mask is not None and mask in owners:
                found.problem(
                    f"{owners[mask]} and {path} share one mask, {mask}",
                    "Give the images names that differ by more than their suffix.",
                )
            elif mask is not None:
                owners[mask] = path
            found.add(
                path,
                f"{_below(home, folder)}/{name}",
                "test",
                defect=name.split("/")[0] if "/" in name else "anomaly",
                masks=() if mask is None else (mask,),
                expected_mask=joined(expected_home, f"{base}_mask.png") if mask is None else None,
            )
    except DataError as error:
        found.problem(error.message, error.help)


# --- globs for every role


def _by_globs(found: _Found, files: object) -> None:
    by_mask = _by_mask(found, files)
    roles = {role: _role(found, files, role) for role in (MASK_ROLES if by_mask else FOLDER_ROLES)}
    pattern = _get(files, "mask")
    _check_keys(found, files, by_mask=by_mask)
    classes = _classes(found, files) if by_mask else ()
    mask = _mask_pattern(found, pattern)
    if by_mask and pattern is None:
        found.problem("[dataset.files] mask is missing: with by_mask, masks say which images are good", MASK_HELP)
    if not roles["train"] and not roles.get("good"):
        found.problem("[dataset.files] train is missing", "It names the good images to learn from.")
    listings: dict[str, Listing] = {}
    if by_mask:
        _by_masks(found, roles, mask, classes, listings)
    else:
        _by_roles(found, roles, mask, listings)


def _by_mask(found: _Found, files: object) -> bool:
    value = _get(files, "by_mask")
    if value is not None and not isinstance(value, bool):
        found.problem(f"[dataset.files] by_mask = {value!r}: expected true or false")
    return value is True


def _check_keys(found: _Found, files: object, *, by_mask: bool) -> None:
    """Whether there is such a key at all, and whether it goes with by_mask, or without it."""
    if isinstance(files, Mapping):
        for key in files:
            if key not in _ALL_KEYS:
                near = get_close_matches(str(key), _ALL_KEYS, n=1)
                found.problem(
                    f"[dataset.files] {key}: no such role" + (f"; did you mean {near[0]}?" if near else ""),
                    f"There are: {', '.join(_MASK_KEYS if by_mask else _FOLDER_KEYS)}",
                )
    for key in BOUND:
        value = _get(files, key)
        wrong = None if value is None else wrong_role(key, by_mask)
        if wrong is not None:
            found.problem(f"[dataset.files] {key} = {value!r}: {wrong[0]}", wrong[1])


def _classes(found: _Found, files: object) -> tuple[str, ...]:
    value = _get(files, "classes")
    if value is None:
        return ()
    if not isinstance(value, (list, tuple)) or not value or not all(isinstance(name, str) for name in value):
        found.problem(f"[dataset.files] classes = {value!r}: expected a list of names")
        return ()
    wrong = wrong_classes(value)
    if wrong is not None:
        found.problem(f"[dataset.files] classes = {value!r}: {wrong}")
    return tuple(value)


def _by_roles(
    found: _Found, roles: Mapping[str, tuple[str, ...]], mask: str | None, listings: dict[str, Listing]
) -> None:
    """The globs say which images are good."""
    for role in ("train", "validation", "normal"):
        split: Split = "test" if role == "normal" else "train" if role == "train" else "validation"
        for path in _expand_all(found, role, roles[role], listings):
            found.add(path, relative_name(found.root, path), split)
    sought = []
    looked_for: str | None = None
    for path in _expand_all(found, "anomaly", roles["anomaly"], listings):
        masks: list[str] = []
        expected: str | None = None
        if mask is not None:
            masks, expected = _masks_of(found, path, mask, listings)
            looked_for = looked_for or expected
            sought.append(path)
        found.add(
            path,
            relative_name(found.root, path),
            "test",
            PurePath(path).parent.name or "anomaly",
            tuple(masks),
            expected,
        )
    if mask is not None and sought and not any(sample.masks for sample in found.samples):
        in_other_case = _in_other_case(found, mask, sought)
        if not in_other_case:
            found.problem(
                f"[dataset.files] mask = {mask!r} finds no mask for any of {len(sought)} anomaly images; "
                f"looked for {looked_for}",
                _PLACEHOLDERS_MEAN,
            )
    if not found.problems and not any(sample.split == "train" for sample in found.samples):
        found.problem("[dataset.files] train matches no image")


def _masks_of(found: _Found, path: str, pattern: str, listings: dict[str, Listing]) -> tuple[list[str], str | None]:
    """The files that the mask pattern matches for an image; where there is none, the path that was looked for."""
    masks = expand(found.root, _filled(pattern, path), listings)
    if masks:
        return masks, None
    name, parent = PurePath(path).name, PurePath(path).parent.name
    return [], joined(found.root, pattern.format(stem=stem(path), name=name, parent=parent))


def _filled(pattern: str, path: str) -> str:
    """A mask pattern as the glob that it is for one image."""
    name, parent = PurePath(path).name, PurePath(path).parent.name
    return pattern.format(stem=escape(stem(path)), name=escape(name), parent=escape(parent))


def _in_other_case(found: _Found, pattern: str, paths: Iterable[str]) -> set[str]:
    """Those of these images whose masks should lie in a folder that is there in another case only: problems."""
    wrong: dict[str, tuple[str, str] | None] = {}
    concerned = set()
    for path in paths:
        base, _ = split_glob(found.root, _filled(pattern, path).rpartition("/")[0])
        if base not in wrong:
            wrong[base] = _misnamed(found.root, _filled(pattern, path).rpartition("/")[0])
        if wrong[base] is not None:
            concerned.add(path)
    for other, name in dict.fromkeys(one for one in wrong.values() if one is not None):
        right = os.path.join(os.path.dirname(other), name)  # noqa: PTH118, PTH120 - as typed
        found.problem(f"{right}: no such folder; there is {other}", rename(name))
    return concerned


def _misnamed(root: str, glob: str) -> tuple[str, str] | None:
    """The folder at the start of a glob that is there in another case only, and the name it should have."""
    names, _ = parts_of(glob)
    return misnamed(os.path.join(root, PurePath(glob).anchor), "/".join(names)) if names else None  # noqa: PTH118


# --- masks that say which images are good


def _by_masks(
    found: _Found,
    roles: Mapping[str, tuple[str, ...]],
    pattern: str | None,
    classes: tuple[str, ...],
    listings: dict[str, Listing],
) -> None:
    """The masks say which images are good, and of those of the role good, which need none, which are not."""
    known = _expand_all(found, "good", roles["good"], listings)
    splits: dict[str, Split] = {"train": "train", "validation": "validation", "test": "test"}
    images = [
        (path, split) for role, split in splits.items() for path in _expand_all(found, role, roles[role], listings)
    ]
    twice = sorted({path for path, split in images if split == "train"} & set(known), key=os.fsencode)
    if twice:
        messages = [f"{path} is matched by good and by train" for path in twice]
        found.problems += with_help(capped(messages, found.root, "images are matched by both"), _ONE_ROLE)
    if pattern is None:
        for path in known:
            found.add(path, relative_name(found.root, path), "train")
        return
    masks: dict[str, list[str]] = {}
    missing: list[tuple[str, str]] = []
    for path, _ in images:
        masks[path], expected = _masks_of(found, path, pattern, listings)
        if expected is not None:
            missing.append((path, expected))
    # A good image may have no mask: what is that of another image by its name, or the image itself, is none of its own.
    owned = {file for files in masks.values() for file in files}
    of_known = {
        path: [file for file in _masks_of(found, path, pattern, listings)[0] if file not in owned and file != path]
        for path in known
        if path not in masks
    }
    _check_masks(found, pattern, masks, missing, of_known)
    masks |= of_known
    facts = dict(zip(masks, _read_all(found, masks), strict=True))
    for path, split in [*((path, "train") for path in known), *images]:
        seen = facts[path]
        bad = any(one.defect for one in seen)
        found.add(
            path,
            relative_name(found.root, path),
            split,
            _kind(seen, classes) if bad else None,
            tuple(masks[path]) if bad else (),
        )
    training = [sample.label for sample in found.samples if sample.split == "train"]
    if not found.problems and 0 not in training:
        found.problem(
            f"{found.root}: no training image is good: {len(training)} of {len(training)} show a defect in their masks",
            "Name images that are known to be good, which need no mask: good = GLOB. They may lie in another folder.",
        )


def _check_masks(
    found: _Found,
    pattern: str,
    masks: Mapping[str, Sequence[str]],
    missing: Sequence[tuple[str, str]],
    of_known: Mapping[str, Sequence[str]],
) -> None:
    """That each image has a mask, no mask goes to two images, and none is taken for an image itself.

    masks, of_known: the masks of the images that need one, and of those that do not.
    """
    owners: dict[str, str] = {}
    shared: list[str] = []
    for path, files in (*masks.items(), *of_known.items()):
        for file in files:
            owner = owners.setdefault(file, path)
            if owner != path:
                shared.append(f"{owner} and {path} share one mask, {file}")
    both = [path for path in (*of_known, *masks) if path in owners]
    if both:
        messages = [f"{path} is an image, and the mask of {owners[path]}" for path in both]
        found.problems += with_help(
            capped(messages, found.root, "masks are matched as images"),
            'Let the globs match images only, as in train = "train/*.jpg".',
        )
        return  # what else is amiss follows from it
    if shared:
        found.problems += with_help(
            capped(shared, found.root, "images share a mask"),
            "Give the pattern a {parent}, or the images names that differ by more than their suffix.",
        )
    without = [path for path, _ in missing] + [path for path, files in of_known.items() if not files]
    in_other_case = _in_other_case(found, pattern, without)
    if missing and len(missing) == len(masks) and not any(path in in_other_case for path, _ in missing):
        found.problem(
            f"[dataset.files] mask = {pattern!r} finds no mask for any of {len(masks)} images; "
            f"looked for {missing[0][1]}",
            _PLACEHOLDERS_MEAN,
        )
    elif missing:
        messages = [
            f"{path}: no mask at {expected}, so that it is not known whether it is good"
            for path, expected in missing
            if path not in in_other_case
        ]
        if messages:
            found.problems += with_help(
                capped(messages, found.root, "images have no mask"),
                "Add the masks (all black for a good image); a good image to learn from needs none: good = GLOB.",
            )


def _read_all(found: _Found, masks: Mapping[str, Sequence[str]]) -> list[list[MaskFacts]]:
    """What the masks of each image show. Those that cannot be read are problems."""
    read = iter(read_masks([file for files in masks.values() for file in files]))
    facts: list[list[MaskFacts]] = []
    broken: list[DataError] = []
    everything: list[list[MaskFacts | DataError]] = []
    for files in masks.values():
        seen = [next(read) for _ in files]
        everything.append(seen)
        broken += [one for one in seen if isinstance(one, DataError)]
        facts.append([one for one in seen if not isinstance(one, DataError)])
    found.problems += unreadable(broken, found.root, _REPLACE)
    found.problems += unfit(
        (
            (path, file, one)
            for (path, files), seen in zip(masks.items(), everything, strict=True)
            for file, one in zip(files, seen, strict=True)
            if not isinstance(one, DataError)
        ),
        found.root,
    )
    return facts


def _kind(seen: Sequence[MaskFacts], classes: tuple[str, ...]) -> str:
    """The names of the classes on the masks of one defect image, in the order of their numbers."""
    bad = [one for one in seen if one.defect]
    values = sorted({value for one in bad for value in one.classes})
    plain = values == [255] and not classes  # black and white: no number of a class
    if plain or len(values) > _SHADES or not all(one.classes for one in bad):
        return "anomaly"
    return ",".join(classes[value - 1] if value <= len(classes) else f"class {value}" for value in values)


# --- what is said of globs


def _get(files: object, key: str) -> object:
    return files.get(key) if isinstance(files, Mapping) else getattr(files, key, None)


def _role(found: _Found, files: object, role: str) -> tuple[str, ...]:
    value = _get(files, role)
    if value is None:
        return ()
    globs = (value,) if isinstance(value, str) else value
    if not isinstance(globs, (list, tuple)) or not all(isinstance(glob, str) and glob for glob in globs):
        found.problem(f"[dataset.files] {role} = {value!r}: expected a glob or a list of globs")
        return ()
    return tuple(globs)


def _mask_pattern(found: _Found, pattern: object) -> str | None:
    if pattern is None:
        return None
    if not isinstance(pattern, str) or not pattern:
        found.problem(f"[dataset.files] mask = {pattern!r}: expected a pattern such as 'masks/{{stem}}_mask.png'")
        return None
    try:
        parts = list(string.Formatter().parse(pattern))
    except ValueError as error:
        found.problem(f"[dataset.files] mask = {pattern!r}: {error}")
        return None
    names = [name for _, name, _, _ in parts if name is not None]
    plain = all(not spec and not conversion for _, _, spec, conversion in parts)
    unknown = [name for name in names if name not in _PLACEHOLDERS]
    if unknown or not plain:
        shown = unknown[0] if unknown else names[0]
        found.problem(
            f"[dataset.files] mask = {pattern!r}: {{{shown}}} is not a placeholder",
            "There are: {stem}, {name}, {parent}",
        )
        return None
    if not {"stem", "name"} & set(names):
        found.problem(
            f"[dataset.files] mask = {pattern!r} names the same file for every image",
            "{stem} stands for the image's file name without suffix.",
        )
        return None
    return pattern


def _expand_all(found: _Found, role: str, globs: tuple[str, ...], listings: dict[str, Listing]) -> list[str]:
    """The images that the globs of one role match, each once, in the order of their bytes."""
    paths: dict[str, None] = {}
    for glob in globs:
        matched = expand(found.root, glob, listings)
        if not matched:
            other = _misnamed(found.root, glob)
            found.problem(
                f"[dataset.files] {role} = {glob!r} matches no image below {found.root}"
                + (f"; there is {other[0]}" if other else ""),
                rename(other[1]) if other else None,
            )
        paths.update(dict.fromkeys(matched))
    return sorted(paths, key=os.fsencode)


# --- what holds for both


def _check_overlap(found: _Found, *, by_globs: bool) -> None:
    """One image in two roles makes every figure worthless; links to the same file count."""
    owners: dict[tuple[int, int], Sample] = {}
    shared: list[tuple[Sample, Sample]] = []
    for sample in found.samples:
        try:
            facts = os.stat(sample.path)  # noqa: PTH116 - as listed
        except OSError:
            continue  # a link to nothing: reading it will say so
        other = owners.setdefault((facts.st_dev, facts.st_ino), sample)
        if other is not sample and (other.split, other.label) != (sample.split, sample.label):
            shared.append((other, sample))
    if not shared:
        return
    messages = capped(
        [
            f"{other.path} is {_role_of(other)} and {_role_of(one)}"
            + ("" if one.path == other.path else f" (as {one.path})")
            for one, other in shared
        ],
        found.root,
        "images have two roles",
    )
    both_tested = any({one.split, other.split} == {"test"} for one, other in shared)
    found.problems += with_help(messages, _ONE_ROLE + (_LIST_OF_GLOBS if by_globs and both_tested else ""))


def _role_of(sample: Sample) -> str:
    if sample.split == "test":
        return "a normal test image" if sample.label == 0 else "an anomalous test image"
    return f"a {'training' if sample.split == 'train' else sample.split} image"
