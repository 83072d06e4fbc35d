"""Which file, in which state: what one row is about."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias

from uadctl.score import ImageSource, ScoreLine

Say: TypeAlias = Callable[[Literal["note", "warning"], str], None]
"""Where the service tells how it goes."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What tells one state of a file from another: bytes, nanoseconds since 1970, and the file's number on its disk."""

    size: int
    mtime_ns: int
    inode: int


@dataclass(frozen=True, slots=True)
class Arrived:
    """A file to judge. facts: None where the system tells none. key: of this file in this state, see `key_of`."""

    source: ImageSource
    facts: Facts | None
    key: bytes


def key_of(path: str, facts: Facts | None) -> bytes:
    """16 bytes that stand for a file's absolute path, size and time of change. path: absolute."""
    state = "-" if facts is None else f"{facts.size} {facts.mtime_ns}"
    return hashlib.blake2b(os.fsencode(path) + b"\0" + state.encode(), digest_size=16).digest()


def look(path: str) -> Facts | None:
    """The file's state; of a link to nothing the link's. None where the system does not tell.

    Raises FileNotFoundError if there is nothing with this name.
    """
    try:
        try:
            found = os.stat(path)  # noqa: PTH116 - the path as it is, bytes outside UTF-8 included
        except OSError:
            found = os.lstat(path)
    except FileNotFoundError:
        raise
    except (OSError, ValueError):
        return None
    return Facts(found.st_size, found.st_mtime_ns, found.st_ino)


def instead(line: ScoreLine, reason: str) -> ScoreLine:
    """An error in place of a line."""
    return ScoreLine(
        path=line.path,
        path_b64=line.path_b64,
        status="error",
        threshold=line.threshold,
        review_threshold=line.review_threshold,
        reason=reason,
    )
