"""A worker process of this machine, as `Processes` starts it: what it is to do comes on stdin, events go to stdout.

The main thread does the units. Another one listens, so that the process ends with its driver, whatever it is doing.
"""

from __future__ import annotations

import atexit
import contextlib
import faulthandler
import io
import os
import pickle
import signal
import sys
import threading
import time
import traceback
from queue import SimpleQueue
from typing import Any, NoReturn

from uadctl.engines.carrying import Answer, Failure
from uadctl.engines.scheduling import Done, Event, Opened, Refused, Said
from uadctl.engines.shell import Shell

# What comes before it on stdout was printed while Python began, as by a sitecustomize.
MARK = b"\0uadctl events\0"
_BARS_S = 0.3
# So long may an idle worker take to put its things in order when its driver is gone.
_ORDER_S = 2.0
# What is printed outside of units, or by those without a log, is of use only while it is the latest.
_PRINTED_BYTES = 1_000_000


def write_frame(file: io.FileIO, body: bytes) -> None:
    """Write bytes, and before them how many. OSError where the other end is gone."""
    for part in (len(body).to_bytes(8, "big"), body):
        rest = memoryview(part)
        while rest:
            rest = rest[file.write(rest) :]


def read_frame(file: io.FileIO) -> bytearray | None:
    """What `write_frame` wrote; None where the other end is gone."""
    size = _exactly(file, 8)
    return None if size is None else _exactly(file, int.from_bytes(size, "big"))


def _exactly(file: io.FileIO, size: int) -> bytearray | None:
    data = bytearray(size)
    rest = memoryview(data)
    while rest:
        count = file.readinto(rest)
        if not count:
            return None
        rest = rest[count:]
    return data


def serve(number: int, driver: int) -> NoReturn:
    """Open the job and do unit after unit, until the driver closes stdin or is no more.

    number: of this worker. driver: the process that started it.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # it is the driver who is interrupted, and who ends its workers
    incoming, outgoing = _take_streams()
    faulthandler.enable(all_threads=False)
    code = 1
    try:
        _Worker(number, driver, incoming, outgoing).run()
        code = 0
        # Not the rest of the exit: it waits for other threads, and takes a library seconds to unload.
        atexit._run_exitfuncs()
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except BaseException:  # noqa: BLE001 - the last word of this process
        traceback.print_exc()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()
    os._exit(code)


def _take_streams() -> tuple[io.FileIO, io.FileIO]:
    """The pipes of the driver. What this process prints goes to stderr from now on, and stdin is empty."""
    incoming, outgoing = io.FileIO(os.dup(0)), io.FileIO(os.dup(1), "w")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # logs are read as UTF-8; a character must never be an error
            stream.reconfigure(encoding="utf-8", errors="backslashreplace", line_buffering=True)
    return incoming, outgoing


class _Worker:
    """busy: the driver has given it something that it has not answered."""

    def __init__(self, number: int, driver: int, incoming: io.FileIO, outgoing: io.FileIO) -> None:
        self._number = number
        self._driver = driver
        self._incoming = incoming
        self._outgoing = outgoing
        self._inbox: SimpleQueue[bytearray | None] = SimpleQueue()
        self._shell: Shell[Any, Any] | None = None
        self._busy = False
        # What bars are told, and when: never after the unit that they belong to.
        self._telling = threading.Lock()

    def run(self) -> None:
        with self._telling:
            self._outgoing.write(MARK)
        for target in (self._listen, self._watch):
            threading.Thread(target=target, daemon=True).start()
        if (job := self._inbox.get()) is None or not self._open(job):
            return
        while (unit := self._inbox.get()) is not None:
            self._do(unit)

    def _open(self, pickled: bytearray) -> bool:
        event: Event
        try:
            self._shell = Shell(_unpickled(pickled, "the work"))
            event = Opened(self._number)
        except Exception as error:  # noqa: BLE001 - it is told in the driver
            event = Refused(self._number, Failure.of(error))
        self._answer(pickle.dumps(event, pickle.HIGHEST_PROTOCOL))
        return isinstance(event, Opened)

    def _do(self, pickled: bytearray) -> None:
        if self._shell is None:
            raise RuntimeError("a unit came before the job")
        answer: Answer[Any]
        try:
            unit = _unpickled(pickled, "a unit")
        except TypeError as error:
            answer = Answer(failure=Failure.of(error))
        else:
            answer = self._shell.do(unit)
        try:
            told = pickle.dumps(Done(self._number, answer), pickle.HIGHEST_PROTOCOL)
        except Exception as error:  # noqa: BLE001 - pickling runs code of the result, which may raise anything
            lost = TypeError(f"the result, {type(answer.result).__name__}, cannot be sent to the driver: {error}")
            lost.__cause__ = error
            answer = Answer(failure=Failure.of(lost), warnings=answer.warnings, failures=answer.failures)
            told = pickle.dumps(Done(self._number, answer), pickle.HIGHEST_PROTOCOL)
        self._answer(told)
        if os.fstat(2).st_size > _PRINTED_BYTES:
            os.ftruncate(2, 0)
            os.lseek(2, 0, os.SEEK_SET)

    def _answer(self, told: bytes) -> None:
        with self._telling:
            self._busy = False
            self._send(told)

    def _send(self, told: bytes) -> None:
        try:
            write_frame(self._outgoing, told)
        except OSError:  # nobody wants to know any more
            _end_at_once()

    def _listen(self) -> None:
        """Take what the driver sends. When it is gone: an idle worker ends in order, another one at once."""
        while True:
            try:
                frame = read_frame(self._incoming)
            except Exception:  # noqa: BLE001 - as without memory for what comes
                traceback.print_exc()
                _end_at_once()
            if frame is None:
                if self._busy:
                    _end_at_once()
                self._inbox.put(None)
                time.sleep(_ORDER_S)
                _end_at_once()
            self._busy = True  # before it is begun, so that there is no moment between
            self._inbox.put(frame)

    def _watch(self) -> None:
        """Tell how far the unit is, and see to it that the driver is there.

        The pipe alone does not say so where another process of the driver, forked by a library, holds it open.
        """
        shown: dict[int, tuple[str, int | None, str, int]] = {}
        while True:
            time.sleep(_BARS_S)
            if sys.platform != "win32" and os.getppid() != self._driver:
                _end_at_once()
            with self._telling:
                bars = self._shell.bars() if self._busy and self._shell is not None else {}
                if bars != shown and self._busy:
                    self._send(pickle.dumps(Said(self._number, bars), pickle.HIGHEST_PROTOCOL))
                shown = bars


def _unpickled(pickled: bytearray, what: str) -> Any:
    """TypeError where it cannot be: a module of it is not here, or it was made in a script or a notebook."""
    try:
        return pickle.loads(pickled)
    except Exception as error:
        raise TypeError(
            f"{what} cannot be read in a worker process: {error}; "
            "its classes and functions must lie in modules that can be imported there"
        ) from error


def _end_at_once() -> NoReturn:
    """With what this process started, as a loader's processes: they are of its group."""
    if sys.platform != "win32" and os.getpgrp() == os.getpid():
        os.killpg(0, signal.SIGKILL)
    os._exit(1)
