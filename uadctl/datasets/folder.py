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
"""

from __future__ import annotations

import os
import string
from collections.abc import Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from fnmatch import fnmatchcase
from glob import escape, has_magic
from pathlib import PurePath

from uadctl.datasets.base import (
    Dataset,
    LayoutError,
    MaskFolder,
    NoLayout,
    Where,
    check_category,
    check_root,
    holds,
    own_name,
    relative_name,
    stem,
    without_suffix,
)
from uadctl.datasets.sorted_folders import all_categories, find_category
from uadctl.errors import DataError, Problem, with_help
from uadctl.imaging.listing import is_folder, is_image_name, joined, relative_images, subfolders
from uadctl.records import Sample, Split

IMAGE_ROLES = ("train", "validation", "normal", "anomaly")
"""The keys of `files` that hold globs of images; `mask` is the other key."""

_ONE_ROLE = "An image may have one role only."
_LIST_OF_GLOBS = (
    ' A glob cannot leave images out: give anomaly a list without the good ones, as in anomaly = ["test/dent/*", '
    '"test/scratch/*"].'
)
_PLACEHOLDERS = ("stem", "name", "parent")
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
    """List one category. Nothing is decoded.

    `where.files` is a mapping, or an object with these attributes, of train, validation, normal, anomaly (a glob or a
    list of globs each) and mask (a pattern); absent and None mean the same. Without normal and anomaly the test part is
    empty, for a model that is only to be fitted.

    Raises LayoutError (a DataError) that holds every problem found: nothing to train on, globs that match nothing,
    images in two roles, unknown folders and keys, a mask pattern that never matches.
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
        train=tuple(sample for sample in samples if sample.split == "train"),
        validation=tuple(sample for sample in samples if sample.split == "validation"),
        test=tuple(sample for sample in samples if sample.split == "test"),
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
    roles = {role: _role(found, files, role) for role in IMAGE_ROLES}
    pattern = _get(files, "mask")
    if isinstance(files, Mapping):
        for key in files:
            if key not in (*IMAGE_ROLES, "mask"):
                near = get_close_matches(str(key), (*IMAGE_ROLES, "mask"), n=1)
                found.problem(
                    f"[dataset.files] {key}: no such role" + (f"; did you mean {near[0]}?" if near else ""),
                    f"There are: {', '.join((*IMAGE_ROLES, 'mask'))}",
                )
    mask = _mask_pattern(found, pattern)
    if not roles["train"]:
        found.problem("[dataset.files] train is missing", "It names the good images to learn from.")
    listings: dict[str, list[str]] = {}
    for role in ("train", "validation", "normal"):
        split: Split = "test" if role == "normal" else "train" if role == "train" else "validation"
        for path in _expand_all(found, role, roles[role], listings):
            found.add(path, relative_name(found.root, path), split)
    sought = 0
    looked_for: str | None = None
    for path in _expand_all(found, "anomaly", roles["anomaly"], listings):
        parent = PurePath(path).parent.name
        masks: list[str] = []
        expected: str | None = None
        if mask is not None:
            filled = mask.format(stem=escape(stem(path)), name=escape(PurePath(path).name), parent=escape(parent))
            masks = _expand(found.root, filled, listings)
            if not masks:
                expected = joined(found.root, mask.format(stem=stem(path), name=PurePath(path).name, parent=parent))
                looked_for = looked_for or expected
            sought += 1
        found.add(path, relative_name(found.root, path), "test", parent or "anomaly", tuple(masks), expected)
    if sought and not any(sample.masks for sample in found.samples):
        found.problem(
            f"[dataset.files] mask = {mask!r} finds no mask for any of {sought} anomaly images; "
            f"looked for {looked_for}",
            "{stem}, {name} and {parent} stand for the image's file name without and with suffix, and its folder.",
        )
    if not found.problems and not any(sample.split == "train" for sample in found.samples):
        found.problem("[dataset.files] train matches no image")


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


def _expand_all(found: _Found, role: str, globs: tuple[str, ...], listings: dict[str, list[str]]) -> list[str]:
    """The images that the globs of one role match, each once, in the order of their bytes."""
    paths: dict[str, None] = {}
    for glob in globs:
        matched = _expand(found.root, glob, listings)
        if not matched:
            found.problem(f"[dataset.files] {role} = {glob!r} matches no image below {found.root}")
        paths.update(dict.fromkeys(matched))
    return sorted(paths, key=os.fsencode)


def _expand(root: str, glob: str, listings: dict[str, list[str]]) -> list[str]:
    """The image files that one glob matches, sorted. `listings` keeps what was listed for the next glob."""
    parts = [part for part in glob.replace(os.sep, "/").split("/") if part not in ("", ".")]
    fixed = 0
    while fixed < len(parts) and _plain_name(parts[fixed]) is not None:
        fixed += 1
    names = [_plain_name(part) or part for part in parts[:fixed]]
    anchor = PurePath(glob).anchor
    base = os.path.join(root, anchor, *names)  # noqa: PTH118 - Path would rewrite what the user typed
    if fixed == len(parts):
        if is_folder(base):
            pattern = ["**"]
        else:
            exists = os.path.lexists(base) and is_image_name(names[-1] if names else "")
            return [base] if exists else []
    else:
        pattern = parts[fixed:]
    if not is_folder(base):
        return []
    if base not in listings:
        listings[base] = relative_images(base)
    return [joined(base, name) for name in listings[base] if _matches(pattern, name.split("/"))]


def _plain_name(part: str) -> str | None:
    """What a part of a glob names, if it can name one thing only: no magic, or magic that `glob.escape` has escaped."""
    plain = part.replace("[[]", "\0").replace("[*]", "\1").replace("[?]", "\2")
    if has_magic(plain):
        return None
    return plain.replace("\0", "[").replace("\1", "*").replace("\2", "?")


def _matches(pattern: list[str], names: list[str]) -> bool:
    if not pattern:
        return not names
    if pattern[0] == "**":
        rest = pattern[1:]
        if not rest:
            return bool(names)
        return any(_matches(rest, names[start:]) for start in range(len(names)))
    return bool(names) and fnmatchcase(names[0], pattern[0]) and _matches(pattern[1:], names[1:])


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
    messages = [
        f"{other.path} is {_role_of(other)} and {_role_of(one)}"
        + ("" if one.path == other.path else f" (as {one.path})")
        for one, other in shared[:10]
    ]
    if len(shared) > 10:
        messages.append(f"{found.root}: {len(shared) - 10} more images have two roles")
    both_tested = any({one.split, other.split} == {"test"} for one, other in shared)
    found.problems += with_help(messages, _ONE_ROLE + (_LIST_OF_GLOBS if by_globs and both_tested else ""))


def _role_of(sample: Sample) -> str:
    if sample.split == "test":
        return "a normal test image" if sample.label == 0 else "an anomalous test image"
    return f"a {'training' if sample.split == 'train' else sample.split} image"
