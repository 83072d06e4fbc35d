"""What every worker of another process does around a unit of work."""

from __future__ import annotations

import contextlib
import faulthandler
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Generic

from uadctl.engines.base import Job, R, U, Unit, Work
from uadctl.engines.carrying import Answer, Failure, Relay


class Shell(Generic[U, R]):
    """A job opened in this process, which does unit after unit, one at a time."""

    def __init__(self, job: Job[U, R]) -> None:
        """Raises what `job.open` raises."""
        from uadctl.inference import use_threads

        self._threads = job.threads
        use_threads(self._threads)
        self._work: Work[U, R] = job.open()
        self._relay = Relay()

    def do(self, unit: Unit[U]) -> Answer[R]:
        """The result, or why there is none; whatever the work raises stays in the answer."""
        from uadctl.inference import use_threads

        relay = self._relay = Relay()
        use_threads(self._threads)  # OpenMP's number is that of a thread, and this may be another one than before
        result, failure = None, None
        with printing_into(unit.log):
            try:
                result = self._work(unit.payload, relay)
            except Exception as error:  # noqa: BLE001 - it is told where the unit was handed out
                failure = Failure.of(error)
        return Answer(result, failure, tuple(relay.warnings), tuple(relay.failures))

    def bars(self) -> dict[int, tuple[str, int | None, str, int]]:
        """The bars of the unit at work, as `Relay.bars`; from another thread."""
        return self._relay.bars()


@contextlib.contextmanager
def printing_into(file: Path | None) -> Iterator[None]:
    """What this process prints, C libraries' words and a crash's traceback included, goes to the end of a file.

    Where it cannot be written, nothing is changed: a log must not keep a unit from its work.
    """
    if file is None:
        yield
        return
    with contextlib.ExitStack() as opened:
        try:
            log = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
            opened.callback(os.close, log)
            for number in (1, 2):
                before = os.dup(number)
                opened.callback(os.close, before)
                opened.callback(os.dup2, before, number)
        except OSError:  # nor where one of the streams is closed
            opened.close()
            yield
            return
        opened.callback(_flush)
        # A crash's traceback goes to stderr by its number, which is the log for now.
        watched = faulthandler.is_enabled()
        faulthandler.enable(2)
        if not watched:
            opened.callback(faulthandler.disable)
        _flush()
        os.dup2(log, 1)
        os.dup2(log, 2)
        yield


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()
