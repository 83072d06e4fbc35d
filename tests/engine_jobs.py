"""Jobs for tests of engines: workers import this module."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from uadctl.errors import DataError, DiskError, ImageError, Problem, RunError, SpecError
from uadctl.progress import Progress


class Recorder:
    """A Progress that keeps everything: bars as [title, total, unit, done, "open" or "closed"]."""

    def __init__(self) -> None:
        self.warnings: list[str] = []
        self.failures: list[tuple[str, Exception]] = []
        self.bars: list[list[Any]] = []

    def task(self, title: str, total: int | None, *, unit: str = "images") -> Any:
        bar = [title, total, unit, 0, "new"]
        self.bars.append(bar)
        return _Bar(bar)

    def warn(self, message: str) -> None:
        self.warnings.append(message)

    def fail(self, message: str, error: Exception) -> None:
        self.failures.append((message, error))


class _Bar:
    def __init__(self, bar: list[Any]) -> None:
        self._bar = bar

    def advance(self, n: int = 1) -> None:
        assert self._bar[4] == "open"
        self._bar[3] += n

    def __enter__(self) -> Any:
        assert self._bar[4] == "new"
        self._bar[4] = "open"
        return self

    def __exit__(self, *exc: object) -> None:
        assert self._bar[4] == "open"
        self._bar[4] = "closed"


class OtherError(KeyError):
    """One that uadctl does not know."""


class FromElsewhere(DataError):
    """One that derives from uadctl's."""


class Awkward(UnicodeError):
    """Its constructor wants more than a text."""

    def __init__(self, one: int, two: int) -> None:
        super().__init__(f"{one} and {two}")


ERRORS: dict[str, Callable[[], Exception]] = {
    "disk": lambda: DiskError("maps/1.tiff", 28, help="Make room."),
    "data": lambda: DataError([Problem("a.png: broken", "Mend it."), Problem("b.png: broken")]),
    "many": lambda: RunError([Problem("one"), Problem("two")], help="Read both."),
    "spec": lambda: SpecError("no such key", source="a.toml"),
    "image": lambda: ImageError("too large", large=True, number=4),
    "elsewhere": lambda: FromElsewhere("broken"),
    "value": lambda: ValueError("no value"),
    "runtime": lambda: RuntimeError("no run"),
    "key": lambda: KeyError("tile"),
    "other": lambda: OtherError("zinc"),
    "awkward": lambda: Awkward(1, 2),
    "unicode": lambda: "ä".encode("ascii"),  # type: ignore[dict-item, return-value]
    "file": lambda: open("nowhere/at_all"),  # type: ignore[dict-item, return-value]  # noqa: SIM115, PTH123
    "bytes": lambda: os.stat(b"nowhere/at_all"),  # type: ignore[dict-item, return-value]  # noqa: PTH116
    "group": lambda: ExceptionGroup("several", [ValueError("a")]),
    "memory": lambda: MemoryError("of the device"),
    "stop": lambda: StopIteration(3),
}


class Unpicklable:
    def __reduce__(self) -> Any:
        raise ValueError("it has a lock")


def _raise_in_driver(process: int) -> str:
    if os.getpid() != process:
        raise ValueError("not made for here")
    return "read"


class OnlyThere:
    """Can be pickled, but read in no other process."""

    def __reduce__(self) -> Any:
        return _raise_in_driver, (os.getpid(),)


@dataclass(frozen=True)
class Work:
    """A payload: what to do, with which number, and how often the worker is killed before."""

    what: str = "square"
    number: int = 0
    kills: int = 0


@dataclass(frozen=True)
class Odd:
    """A job with units of many kinds. folder: where it counts attempts, and leaves signs."""

    folder: Path
    threads: int = 1
    opening: str = ""
    more: Any = field(default=None)

    def open(self) -> Callable[[Work, Progress], Any]:
        if self.opening:
            self._open()
        return self._do

    def _open(self) -> None:
        (self.folder / f"opening-{os.getpid()}").touch()
        print("opened at last", flush=True)
        if self.opening in ERRORS:
            self._error(self.opening)
        elif self.opening == "exit":
            print("first line\n\nlast line", file=sys.stderr)
            os._exit(3)
        elif self.opening == "later":  # just when it is idle
            threading.Timer(0.0, os._exit, (4,)).start()
            threading.Event().wait(0.02)
        elif self.opening == "crash":
            os.kill(os.getpid(), signal.SIGSEGV)
        else:
            raise AssertionError(self.opening)

    def _error(self, name: str) -> None:
        made = ERRORS[name]()
        assert isinstance(made, Exception)
        raise made

    def begin(self, number: int) -> int:
        """The how many-eth time it is that a unit is begun, from 0."""
        for attempt in range(100):
            try:
                (self.folder / f"{number}-{attempt}").touch(exist_ok=False)
            except FileExistsError:
                continue
            return attempt
        raise AssertionError

    def _do(self, work: Work, progress: Progress) -> Any:
        attempt = self.begin(work.number)
        print(f"unit {work.number}, attempt {attempt}")
        progress.warn(f"warning of {work.number}")
        if attempt < work.kills:
            os.kill(os.getpid(), signal.SIGKILL)
        what = work.what
        if what == "square":
            progress.fail(f"failure of {work.number}", DataError(f"{work.number}.png: broken"))
            return work.number**2
        if what in ERRORS:
            self._error(what)
        if what == "threads":
            import torch

            before = torch.get_num_threads()
            torch.set_num_threads(3)
            return before
        if what == "pid":
            time.sleep(0.05)
            return os.getpid()
        if what == "sleep":
            (self.folder / f"asleep-{os.getpid()}").touch()
            time.sleep(100)
        if what == "sleeps in C":
            import hashlib

            (self.folder / f"asleep-{os.getpid()}").touch()
            hashlib.pbkdf2_hmac("sha256", b"", b"", 10**9)
        if what in ("child", "stray"):
            if (child := os.fork()) == 0:
                if what == "stray":  # it leaves the group of the worker
                    os.setsid()
                (self.folder / f"asleep-{os.getpid()}").touch()
                time.sleep(100)
                os._exit(0)
            while not (self.folder / f"asleep-{child}").exists():
                time.sleep(0.01)
            if attempt == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return what
        if what == "bars":
            with progress.task("maps", 5) as outer, progress.task("tiles", None, unit="tiles") as inner:
                outer.advance(2)
                inner.advance()
                time.sleep(0.8)
                outer.advance(3)
                time.sleep(0.8)
            return "drawn"
        if what == "exits":
            if attempt == 0:
                os._exit(6)
            if attempt == 1:
                sys.exit(5)
            os.kill(os.getpid(), signal.SIGTERM)
        if what == "sigint":
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.05)
            return "not interrupted"
        if what == "unpicklable":
            return Unpicklable()
        if what == "only there":
            return OnlyThere()
        if what == "large":
            return bytes(40_000_000)
        if what == "prints":
            print("ä to stdout")
            print("to stderr", file=sys.stderr)
            os.write(1, b"from C\n")
            subprocess.run(["/bin/echo", "from a child"], check=True)
            return sys.stdin.read()
        raise AssertionError(what)
