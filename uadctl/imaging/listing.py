"""Which images a folder holds: names only, nothing is opened."""

from __future__ import annotations

import os
import stat
from pathlib import PurePath

from uadctl.errors import DataError
from uadctl.imaging.formats import IMAGE_SUFFIXES


def list_images(folder: str | os.PathLike[str]) -> list[str]:
    """All image files below a folder, at any depth, sorted by their path in bytes.

    Known suffixes only (IMAGE_SUFFIXES, in any case); hidden files and folders are passed over; a folder that is
    reached twice, through links, is read once. A link to nothing and a pipe with an image's name are listed: reading
    them says what is wrong. Names that are not UTF-8 are kept as `os.fsdecode` gives them.

    Returns paths that start with `folder` as given. Raises DataError where it is missing, not a folder or not readable.
    """
    top = os.fspath(folder)
    return [joined(top, name) for name in relative_images(top)]


def relative_images(folder: str) -> list[str]:
    """The same files as `list_images`, as paths below the folder with forward slashes."""
    found: list[str] = []
    seen: set[tuple[int, int]] = set()
    waiting = [(folder, "")]
    while waiting:
        path, below = waiting.pop()
        facts = _folder_facts(path)
        if (facts.st_dev, facts.st_ino) in seen:
            continue
        seen.add((facts.st_dev, facts.st_ino))
        inner: list[tuple[str, str]] = []
        for entry in _entries(path):
            if _is_folder(entry):
                inner.append((entry.path, f"{below}{entry.name}/"))
            elif is_image_name(entry.name):
                found.append(f"{below}{entry.name}")
        # The last in is the next out: folders are read in the order of their names, which settles the name under which
        # one that is linked twice is listed.
        waiting.extend(reversed(inner))
    return sorted(found, key=os.fsencode)


def subfolders(folder: str) -> list[str]:
    """The names of the folders in a folder, sorted by bytes; no hidden ones. Raises DataError like list_images."""
    _folder_facts(folder)
    return [entry.name for entry in _entries(folder) if _is_folder(entry)]


def files_in(folder: str) -> list[str]:
    """The names of the files in a folder, sorted by bytes; no hidden ones. Raises DataError like list_images."""
    _folder_facts(folder)
    return [entry.name for entry in _entries(folder) if not _is_folder(entry)]


def is_image_name(name: str) -> bool:
    """Whether a file name ends like an image's and is not hidden."""
    return not name.startswith(".") and PurePath(name).suffix.lower() in IMAGE_SUFFIXES


def joined(folder: str, below: str) -> str:
    """`folder` as the user typed it, and a path below it."""
    return os.path.join(folder, *below.split("/"))  # noqa: PTH118 - Path would rewrite what the user typed


def is_folder(path: str) -> bool:
    """Whether there is a folder (or a link to one) at this path."""
    return os.path.isdir(path)  # noqa: PTH112 - as above; and a name with a null byte is simply no folder


def _folder_facts(path: str) -> os.stat_result:
    try:
        facts = os.stat(path)  # noqa: PTH116 - the path as the user typed it, bytes outside UTF-8 included
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such folder") from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"{path}: cannot be read ({reason})") from error
    if not stat.S_ISDIR(facts.st_mode):
        raise DataError(f"{path}: is a file, not a folder")
    return facts


def _is_folder(entry: os.DirEntry[str]) -> bool:
    # A link that leads to itself makes `entry.is_dir` raise; it is no folder.
    return is_folder(entry.path) if entry.is_symlink() else entry.is_dir()


def _entries(path: str) -> list[os.DirEntry[str]]:
    """What a folder holds, sorted by bytes, hidden names left out."""
    try:
        with os.scandir(path) as entries:
            listed = [entry for entry in entries if not entry.name.startswith(".")]
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error
    return sorted(listed, key=lambda entry: os.fsencode(entry.name))
