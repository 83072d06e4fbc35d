"""Where a service gets its files from: a folder that is watched, or paths that are written in."""

from __future__ import annotations

import contextlib
import heapq
import os
import sys
import time
from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Protocol, TypeAlias

from uadctl.errors import DataError
from uadctl.imaging.listing import is_folder, is_image_name, joined
from uadctl.score import ImageSource, ScoreLine
from uadctl.service.arrivals import Arrived, Facts, Say, instead, key_of, look

_POLL_S = 0.2  # between two looks at a folder, and at least so many times what a look takes:
_REST = 4
_OLD_S = 60.0  # a file last written so long ago is complete; clocks of other machines may be that wrong
_SWEEP = 1000  # files with a row that a look visits once more: were they written over?
_BLOCK = 1 << 16
_LONGEST = 1 << 16  # bytes of a path; no system allows as many


class Feed(Protocol):
    """Where the files to judge come from.

    waiting: how many are known of. vanished: how many were gone before they could be read.
    """

    @property
    def waiting(self) -> int: ...

    @property
    def vanished(self) -> int: ...

    def take(self, most: int, seconds: float) -> list[Arrived] | None:
        """Up to `most` files, waiting up to so many seconds for the first. None: there will be no more."""
        ...

    def settle(self, item: Arrived, line: ScoreLine) -> ScoreLine | None:
        """What is to be said of a file after it was read; None: nothing, or nothing yet."""
        ...

    def done(self, item: Arrived) -> None:
        """The file has its row."""
        ...


class Folder:
    """The image files of a folder, at any depth, each when it is complete; the oldest first.

    Names are taken as by `list_images`. A file is complete when its size and time have not changed for `settle`
    seconds, or the time is a minute old at first sight, and it is the same after it was read. One that is written over
    comes again. What is kept in memory is of the files that are in the folder now.

    The folder may come later, vanish and come back. Files that are there again are new, if nobody knows better.
    """

    def __init__(
        self,
        path: str,
        *,
        settle: float = 1.0,
        known: Callable[[Collection[bytes]], set[bytes]] | None = None,
        say: Say | None = None,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """known: of some files, those that have their row, such as `Journal.holding`. DataError if it is a file."""
        if os.path.exists(path) and not is_folder(path):  # noqa: PTH110 - as it was typed
            raise DataError(f"{path}: is a file, not a folder")
        self.path = path
        self.vanished = 0
        self._top = Path(os.path.abspath(path))  # noqa: PTH100 - links stay as they are
        self._settle = settle
        self._known = known or (lambda keys: set())
        self._say = say or (lambda kind, text: None)
        self._clock, self._wall, self._sleep = clock, wall, sleep
        self._done: dict[str, bytes] = {}
        self._growing: dict[str, tuple[Facts | None, float]] = {}
        self._out: dict[str, Arrived] = {}  # in the heap, or being judged
        self._ready: list[tuple[int, bytes, str]] = []
        self._swept = 0
        self._next = clock()
        self._gone = False
        self._unreadable: set[str] = set()

    @property
    def waiting(self) -> int:
        return len(self._ready) + len(self._growing)

    def take(self, most: int, seconds: float) -> list[Arrived] | None:
        end = self._clock() + seconds
        while True:
            if self._clock() >= self._next:
                start = self._clock()
                self._poll()
                now = self._clock()
                self._next = now + max(_POLL_S, _REST * (now - start))
            if self._ready:
                names = [heapq.heappop(self._ready)[2] for _ in range(min(most, len(self._ready)))]
                return [self._out[name] for name in names]
            left = min(end, self._next) - self._clock()
            if self._clock() >= end:
                return []
            self._sleep(max(0.0, left))

    def settle(self, item: Arrived, line: ScoreLine) -> ScoreLine | None:
        name = item.source.stem
        try:
            facts = look(item.source.path)
        except FileNotFoundError:
            if line.status == "ok":  # it was read whole, and taken away since
                return line
            self.vanished += not self._gone
            del self._out[name]
            return None
        if facts == item.facts:
            return line
        del self._out[name]
        self._growing[name] = facts, self._clock()
        return None

    def done(self, item: Arrived) -> None:
        name = item.source.stem
        del self._out[name]
        self._done[name] = item.key

    def _poll(self) -> None:
        """Look at the folder once: list it, and visit the files without a row and some of the others."""
        kept: set[str] = set()  # folders that cannot be read now
        try:
            names = list(self._names(kept))
        except OSError as error:
            if not self._gone:
                self._gone = True
                self._say("warning", f"{self.path}: cannot be read ({error.strerror or error}); waiting for it")
            return
        if self._gone:
            self._gone = False
            self._say("note", f"{self.path}: is back")
        first, self._swept = self._swept, self._swept + _SWEEP
        if self._swept >= len(names):
            self._swept = 0
        seen: dict[str, Arrived] = {}
        for i, name in enumerate(names):
            if name in self._out or (name in self._done and not first <= i < first + _SWEEP):
                continue
            if (item := self._visit(name)) is not None:
                seen[name] = item
        self._forget(names, kept)
        # Of those in a state not seen before: a copy that keeps its time may become one that has its row.
        new = [item.key for name, item in seen.items() if self._growing.get(name, (None,))[0] != item.facts]
        known = self._known(new) if new else set()
        for name, item in seen.items():
            self._consider(name, item, known)

    def _names(self, kept: set[str]) -> Iterator[str]:
        """The image files, as paths below the folder with forward slashes. kept: gets the folders it cannot look into.

        Raises OSError where that is the folder itself.
        """
        visited: set[tuple[int, int]] = set()
        waiting = [""]
        while waiting:
            below = waiting.pop()
            folder = joined(self.path, below.removesuffix("/")) if below else self.path
            try:
                facts = os.stat(folder)  # noqa: PTH116 - as above
                if (facts.st_dev, facts.st_ino) in visited:
                    continue
                visited.add((facts.st_dev, facts.st_ino))
                inner: list[str] = []
                with os.scandir(folder) as entries:
                    for entry in entries:
                        if entry.name.startswith("."):
                            continue
                        if is_folder(entry.path) if entry.is_symlink() else entry.is_dir():
                            inner.append(f"{below}{entry.name}/")
                        elif is_image_name(entry.name):
                            yield f"{below}{entry.name}"
                # In the order of `list_images`: it settles the name of a folder that is linked twice.
                waiting += sorted(inner, key=os.fsencode, reverse=True)
            except OSError as error:
                if not below:
                    raise
                if isinstance(error, FileNotFoundError):
                    continue
                kept.add(below)
                if below not in self._unreadable:
                    self._say("warning", f"{folder}: cannot be read ({error.strerror or error})")
        self._unreadable = kept

    def _visit(self, name: str) -> Arrived | None:
        """The file as it is now; None if it has its row or is not there."""
        path = joined(self.path, name)
        try:
            facts = look(path)
        except FileNotFoundError:
            return None
        key = key_of(joined(str(self._top), name), facts)
        return None if self._done.get(name) == key else Arrived(ImageSource(path, name), facts, key)

    def _consider(self, name: str, item: Arrived, known: Collection[bytes]) -> None:
        """Have a file judged, wait for it to be complete, or know that it has its row."""
        now = self._clock()
        fresh = name not in self._growing
        before, since = self._growing.pop(name, (item.facts, now))
        if item.key in known:
            self._done[name] = item.key
            return
        same = before == item.facts
        age = 0.0 if item.facts is None else self._wall() - item.facts.mtime_ns / 1e9
        if (same and now - since >= self._settle) or (fresh and age >= max(self._settle, _OLD_S)):
            self._done.pop(name, None)
            self._out[name] = item
            mtime = 0 if item.facts is None else item.facts.mtime_ns
            heapq.heappush(self._ready, (mtime, os.fsencode(name), name))
        else:
            self._growing[name] = item.facts, since if same else now

    def _forget(self, names: Sequence[str], kept: Collection[str]) -> None:
        """Drop what is known of files that are not there any more."""
        there = set(names)
        for facts in (self._done, self._growing):
            for name in [n for n in facts if n not in there and not any(n.startswith(folder) for folder in kept)]:
                del facts[name]


Read: TypeAlias = Callable[[float], bytes | None]
"""Some bytes, waiting up to so many seconds for them: None if none came by then, empty where no more will."""


def reading(handle: int) -> Read:
    """Read from a descriptor, such as that of stdin, whatever it has."""
    import select

    def read(seconds: float) -> bytes | None:
        if sys.platform != "win32" and not select.select([handle], [], [], seconds)[0]:  # there: of sockets only
            return None
        return os.read(handle, _BLOCK)

    return read


class Paths:
    """Files whose paths are written in, each ended by a line end, in order. Empty lines are passed over.

    A file that changes while it is read is an error: half of it must not have a score.
    """

    vanished: int = 0

    def __init__(
        self,
        read: Read,
        *,
        null: bool = False,
        known: Callable[[Collection[bytes]], set[bytes]] | None = None,
        keep_out: Sequence[tuple[str, str]] = (),
    ) -> None:
        """null: paths end with NUL instead, and so may hold line ends.

        known: of some files, those that have their row and are passed over. Without it every path gets its line.
        keep_out: options and their folders, which results are written to: images in them are errors.
        """
        self._read = read
        self._end = b"\0" if null else b"\n"
        self._known = known
        self._keep_out = [(option, folder, os.path.realpath(folder)) for option, folder in keep_out]
        self._rest = b""
        self._too_long = False
        self._lines: deque[bytes] = deque()
        self._ended = False
        self._judged: set[bytes] = set()
        self._had: set[bytes] = set()

    @property
    def waiting(self) -> int:
        return len(self._lines)

    def take(self, most: int, seconds: float) -> list[Arrived] | None:
        if not self._lines and not self._ended:
            self._fill(seconds)
        if not self._lines:
            return None if self._ended else []
        found: list[Arrived] = []
        while self._lines and len(found) < most:
            item = _named(self._lines.popleft())
            if self._known is not None:
                if item.key in self._had or item.key in self._judged:
                    continue
                self._judged.add(item.key)
            found.append(item)
        return found

    def settle(self, item: Arrived, line: ScoreLine) -> ScoreLine:
        path = item.source.path
        real = Path(os.path.realpath(path)) if self._keep_out and "\0" not in path else None
        for option, folder, target in self._keep_out:
            if real is not None and real.is_relative_to(target):
                return instead(line, f"lies inside {option} {folder}, which results are written to")
        with contextlib.suppress(FileNotFoundError):
            if line.status == "ok" and look(path) != item.facts:
                return instead(line, "changed while it was being read")
        return line

    def done(self, item: Arrived) -> None:
        pass

    def _fill(self, seconds: float) -> None:
        data = self._read(seconds)
        if data is None:
            return
        self._ended = not data
        *whole, self._rest = (self._rest + data).split(self._end)
        if self._ended and self._rest:
            whole, self._rest = [*whole, self._rest], b""
        if whole and self._too_long:  # the end of one whose beginning is known to be no path
            del whole[0]
            self._too_long = False
        if len(self._rest) > _LONGEST:
            if not self._too_long:
                whole.append(self._rest[:_LONGEST])
            self._rest, self._too_long = b"", True
        if self._end == b"\n":
            whole = [line.removesuffix(b"\r") for line in whole]
        self._lines.extend(line for line in whole if line)
        if self._known is not None:
            self._judged.clear()  # they have their rows by now
            self._had = self._known([_named(line).key for line in self._lines])


def _named(line: bytes) -> Arrived:
    path = os.fsdecode(line)
    try:
        facts = look(path)
    except FileNotFoundError:
        facts = None
    whole = os.path.abspath(path)  # noqa: PTH100 - links stay as they are
    # Results are named after the whole path: names that depend on what else came would be written over.
    stem = "/".join(part for part in Path(whole).parts[1:] if part)
    return Arrived(ImageSource(path, stem or "_"), facts, key_of(whole, facts))
