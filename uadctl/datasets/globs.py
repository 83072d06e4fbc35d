"""Globs of image files: part by part, ** for any folders, and many that each match few files at the price of a sort."""

from __future__ import annotations

import os
import re
import sys
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from glob import has_magic
from pathlib import PurePath

from uadctl.imaging.listing import is_folder, is_image_name, joined, relative_images


class Listing:
    """The image files below a folder, for many globs that each match few of them.

    A part of a glob that is a known number of parts from the start or the end of a name, and that starts or ends
    without magic, is looked up among the sorted parts there: of the names that are left, each is matched as a whole.
    Whatever masks are called after their images, all of them are found in about the time of one sort.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self._names = names
        self._parts = [name.split("/") for name in names]
        self._sorted: dict[tuple[int, bool], tuple[list[str], list[int]]] = {}

    def matching(self, pattern: list[str]) -> list[str]:
        """The names that all parts of a pattern match, in their order."""
        return [self._names[n] for n in self._candidates(pattern) if _matches(pattern, self._parts[n])]

    def _candidates(self, pattern: list[str]) -> Iterable[int]:
        best: tuple[int, list[int], int, int] | None = None
        for place in _known_places(pattern):
            start, end, whole = _literal(pattern[place])
            for text, backwards in ((start, False), (end[::-1], True)):
                if text:
                    words, numbers = self._at(place, backwards)
                    first = bisect_left(words, text)
                    last = bisect_right(words, text if whole else text + _LAST, first)
                    if best is None or last - first < best[0]:
                        best = (last - first, numbers, first, last)
        return range(len(self._names)) if best is None else sorted(best[1][best[2] : best[3]])

    def _at(self, place: int, backwards: bool) -> tuple[list[str], list[int]]:
        """The parts at one place of all names that have it, sorted, and the numbers of these names."""
        if (place, backwards) not in self._sorted:
            step = -1 if backwards else 1
            deep = place + 1 if place >= 0 else -place
            pairs = sorted((parts[place][::step], n) for n, parts in enumerate(self._parts) if len(parts) >= deep)
            self._sorted[place, backwards] = [word for word, _ in pairs], [n for _, n in pairs]
        return self._sorted[place, backwards]


def _known_places(pattern: list[str]) -> list[int]:
    """The parts of a pattern of which it is known which part of a name they match: counted from its end if below 0."""
    if "**" not in pattern:
        return list(range(len(pattern)))
    before = pattern.index("**")
    after = pattern[::-1].index("**")
    return [*range(before), *range(-after, 0)]


_MAGIC = re.compile(r"[*?[]")
_MARKS = re.compile(r"[\0\1\2]")
_LAST = chr(sys.maxunicode) * 256  # comes after whatever a name may go on with: none is so long


def _literal(part: str) -> tuple[str, str, bool]:
    """What all names begin and end with that a part of a glob matches, as far as that is plain; whether it is all."""
    if _MARKS.search(part):
        return "", "", False
    texts = _MAGIC.split(_marked(part))
    brackets = any("[" in text for text in _MAGIC.findall(_marked(part)))
    return _unmarked(texts[0]), "" if brackets else _unmarked(texts[-1]), len(texts) == 1


def parts_of(glob: str) -> tuple[list[str], list[str]]:
    """The names that a glob starts with, and its other parts, from the first on that has magic."""
    parts = [part for part in glob.replace(os.sep, "/").split("/") if part not in ("", ".")]
    fixed = 0
    while fixed < len(parts) and _plain_name(parts[fixed]) is not None:
        fixed += 1
    return [_plain_name(part) or part for part in parts[:fixed]], parts[fixed:]


def split_glob(root: str, glob: str) -> tuple[str, list[str]]:
    """The path that a glob starts with, and its other parts."""
    names, pattern = parts_of(glob)
    return os.path.join(root, PurePath(glob).anchor, *names), pattern  # noqa: PTH118 - Path would rewrite what was typed


def expand(root: str, glob: str, listings: dict[str, Listing]) -> list[str]:
    """The image files that one glob matches, sorted. `listings` keeps what was listed for the next glob."""
    base, pattern = split_glob(root, glob)
    if not pattern:
        if not is_folder(base):
            exists = os.path.lexists(base) and is_image_name(os.path.basename(base))  # noqa: PTH119 - as typed
            return [base] if exists else []
        pattern = ["**"]
    if not is_folder(base):
        return []
    if base not in listings:
        listings[base] = Listing(relative_images(base))
    return [joined(base, name) for name in listings[base].matching(pattern)]


def _plain_name(part: str) -> str | None:
    """What a part of a glob names, if it can name one thing only: no magic, or magic that `glob.escape` has escaped."""
    marked = _marked(part)
    return None if has_magic(marked) else _unmarked(marked)


def _marked(part: str) -> str:
    """A part of a glob in which what `glob.escape` has escaped is no magic any more."""
    return part.replace("[[]", "\0").replace("[*]", "\1").replace("[?]", "\2")


def _unmarked(marked: str) -> str:
    return marked.replace("\0", "[").replace("\1", "*").replace("\2", "?")


def _matches(pattern: list[str], names: list[str]) -> bool:
    if not pattern:
        return not names
    if pattern[0] == "**":
        rest = pattern[1:]
        if not rest:
            return bool(names)
        return any(_matches(rest, names[start:]) for start in range(len(names)))
    return bool(names) and fnmatchcase(names[0], pattern[0]) and _matches(pattern[1:], names[1:])
