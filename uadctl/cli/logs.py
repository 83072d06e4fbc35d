"""The log of a command: `--log-file`, JSON lines, and where the warnings of other libraries go.

While a command runs, what other libraries say by `warnings` and `logging` goes to its log, and to stderr only with
--debug.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import stat
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, TypeAlias

import msgspec

from uadctl import __version__
from uadctl.chatter import collected
from uadctl.errors import SpecError

_GROUPS = ("datasets", "models")
Level: TypeAlias = Literal["debug", "info", "warning", "error"]

# Of one text of a line, so that nothing that a library says can fill a disk at once.
_TEXT_BYTES = 64_000
_HEAD = b'{"time":"'  # how a line begins
# What shows progress bars of its own would write them to stderr: both read this when they are imported.
_NO_BARS = {"TQDM_DISABLE": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}


class LogLine(msgspec.Struct, frozen=True, kw_only=True):
    """A line of the file of --log-file: something that happened while a command ran.

    time:       when, in UTC, with milliseconds.
    level:      how grave it is. "error": part of the work, or all of it, was not done.
    logger:     "uadctl", or the logger of another library; "warnings", or the library, for one by Python's `warnings`.
    message:    what stands on stderr, or would; of an image that could not be scored, why; "started" and "ended" for
                the command itself.
    command:    the command that ran, e.g. "datasets check". pid: its process, which tells several at a time apart.
    help:       what to do about it, if that was said.
    path:       the file that the message is of: an image that could not be scored, or what the system named; of
                warnings, the source file and its line.
    traceback:  of an error, where it happened.
    arguments:  with "started": the words of the command line after the command. version: with "started": of uadctl.
    exit_code:  with "ended". seconds: with "ended": since it was started.
    """

    time: str
    level: Level
    logger: str
    message: str
    command: str
    pid: int
    help: str | msgspec.UnsetType = msgspec.UNSET
    path: str | msgspec.UnsetType = msgspec.UNSET
    traceback: str | msgspec.UnsetType = msgspec.UNSET
    arguments: list[str] | msgspec.UnsetType = msgspec.UNSET
    version: str | msgspec.UnsetType = msgspec.UNSET
    exit_code: int | msgspec.UnsetType = msgspec.UNSET
    seconds: float | msgspec.UnsetType = msgspec.UNSET


class LogFile:
    """A file that lines are appended to, each by one write: several processes may share it.

    Opened anew where somebody has moved it away (logrotate). A line that cannot be written is lost, and that is told
    once; the next begins on a line of its own. A file that holds anything else is never appended to.
    """

    def __init__(self, path: str, *, told: Callable[[str], None]) -> None:
        """told: is given why lines are lost. Raises SpecError if the file cannot be opened, or is no log."""
        self.path = Path(path)
        self._told = told
        self._silent = False
        self._torn = False
        self._lock = threading.RLock()
        try:
            with contextlib.suppress(FileExistsError):  # a file, of which the next line says so
                self.path.parent.mkdir(parents=True, exist_ok=True)
            self._handle = self._open()
        except _NoLog as error:
            raise SpecError(
                f"--log-file {path}: {error.strerror}", help="Name another file: a log is appended to what is there."
            ) from error
        except OSError as error:
            raise SpecError(f"--log-file {path}: cannot be opened: {error.strerror}") from error

    def write(self, line: LogLine) -> None:
        data = msgspec.json.encode(line) + b"\n"
        # Who holds the lock may never let it go: the process is ended by another thread while it writes.
        if not self._lock.acquire(timeout=1):
            return
        try:
            self._follow()
            self._append(data)
        except OSError as error:
            if not self._silent:
                self._silent = True
                self._told(f"--log-file {self.path}: cannot be written: {error.strerror}; lines of it are lost")
        finally:
            self._lock.release()

    def close(self) -> None:
        os.close(self._handle)

    def _open(self) -> int:
        # A named pipe that nobody reads is refused, not waited for.
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | getattr(os, "O_NONBLOCK", 0)
        handle = os.open(self.path, flags, 0o666)
        try:
            _refuse_other(handle, self.path)
        except BaseException:
            os.close(handle)
            raise
        return handle

    def _follow(self) -> None:
        """Open the file anew if another one, or none, has its name."""
        try:
            if os.path.samestat(os.fstat(self._handle), self.path.stat()):
                return
        except FileNotFoundError:
            pass
        handle = self._open()
        os.close(self._handle)
        self._handle = handle

    def _append(self, data: bytes) -> None:
        if self._torn:
            data = b"\n" + data
        while data:
            written = os.write(self._handle, data)
            data = data[written:]
            self._torn = bool(data)


class _NoLog(OSError):
    """A file that holds something else, such as an image or a spec."""


def _refuse_other(handle: int, path: Path) -> None:
    """Raises _NoLog unless the file is empty, or begins as a log does; or is a pipe or a device."""
    facts = os.fstat(handle)
    if not stat.S_ISREG(facts.st_mode) or not facts.st_size:
        return
    with path.open("rb") as file:
        first = file.read(len(_HEAD)).partition(b"\n")[0]
    # A full disk may have left the beginning of a first line.
    if not first or not _HEAD.startswith(first):
        raise _NoLog(errno.EEXIST, "is no log of uadctl", str(path))


class Log:
    """What a command writes down, if it was asked to: a file or nothing."""

    def __init__(self, words: Sequence[str]) -> None:
        """words: of the command line."""
        self.words = tuple(words)
        self._command = _command(words)
        self._file: LogFile | None = None
        self._started = time.monotonic()
        self._lowered: int | None = None

    def open(self, path: str, *, told: Callable[[str], None]) -> None:
        """Begin to write. Raises SpecError if the file cannot be opened."""
        self._file = LogFile(path, told=told)
        self._lowered = logging.root.level
        logging.root.setLevel(min(logging.INFO, logging.root.level))
        words = self.words[len(self._command.split()) :]
        self.write("info", "started", arguments=[_text(word) for word in words], version=__version__)

    def write(
        self,
        level: Level,
        message: str,
        *,
        logger: str = "uadctl",
        help: str | None = None,
        path: str | None = None,
        error: BaseException | None = None,
        **known: Any,
    ) -> None:
        """Write a line. error: what it is about; its traceback is kept, and the file that it names."""
        if self._file is None:
            return
        if path is None and isinstance(error, OSError) and isinstance(error.filename, str):
            path = error.filename
        told = "".join(traceback.format_exception(error)) if error is not None else None
        texts = {"help": help, "path": path, "traceback": told}
        known |= {name: _text(text) for name, text in texts.items() if text is not None}
        self._file.write(
            LogLine(
                time=_now(),
                level=level,
                logger=logger,
                message=_text(message),
                command=self._command,
                pid=os.getpid(),
                **known,
            )
        )

    def end(self, code: int) -> None:
        """The last line, and the file is closed."""
        if self._file is None:
            return
        self.write("info", "ended", exit_code=code, seconds=round(time.monotonic() - self._started, 3))
        file, self._file = self._file, None
        file.close()
        if self._lowered is not None:
            logging.root.setLevel(self._lowered)


@contextlib.contextmanager
def keeping(log: Log, *, debug: Callable[[], bool]) -> Iterator[None]:
    """Write to the log what other libraries say within the block; on stderr it is seen only with --debug."""

    def record(said: logging.LogRecord) -> None:
        error = said.exc_info[1] if said.exc_info else None
        log.write(_level(said.levelno), _said(said), logger=said.name, error=error)

    def warning(message: Warning | str, category: type[Warning], place: str) -> None:
        name = getattr(category, "__module__", "builtins")
        logger = "warnings" if name == "builtins" else name.partition(".")[0]
        log.write("warning", f"{category.__name__}: {message}", logger=logger, path=place)

    bars = {} if "--debug" in log.words else {k: v for k, v in _NO_BARS.items() if k not in os.environ}
    os.environ.update(bars)
    try:
        with collected(record=record, warning=warning, printed=debug):
            yield
    finally:
        for name in bars:
            os.environ.pop(name, None)


def _level(number: int) -> Level:
    if number >= logging.ERROR:
        return "error"
    if number >= logging.WARNING:
        return "warning"
    return "info" if number >= logging.INFO else "debug"


def _said(record: logging.LogRecord) -> str:
    try:
        return record.getMessage()
    except Exception:  # noqa: BLE001 - arguments that do not fit the text, or that cannot be shown
        return str(record.msg)


def _command(words: Sequence[str]) -> str:
    """The command's name: of a group, with that of its part."""
    names = list(words[: 2 if words[:1] and words[0] in _GROUPS else 1])
    return " ".join(name for name in names if not name.startswith("-"))


def _text(text: str) -> str:
    """As UTF-8 and not too long."""
    encoded = text.encode("utf-8", "backslashreplace")
    return encoded.decode() if len(encoded) <= _TEXT_BYTES else encoded[:_TEXT_BYTES].decode("utf-8", "ignore") + "…"


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
