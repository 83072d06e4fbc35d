"""Ctrl-C and SIGTERM: the program ends within two seconds, whatever it is doing.

Python raises KeyboardInterrupt between two instructions of its own: not within a long call into torch, scikit-learn or
faiss, and at its exit it waits for threads that still work. So a thread watches from the first signal on, and ends the
process when its time is over. It can do so wherever the C code lets other threads run, as those libraries do.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import NoReturn

from uadctl.abrupt import end_abruptly

INTERRUPTED = 130
"""The exit code of a command that was interrupted."""

# So long may the program take to come to its end by itself, then what must be put in order, and the last word.
_GRACE_S = 1.3
_ORDER_S = 0.4
_FAREWELL_S = 0.2
# timeout(1) sends its signal to the process and to its group, which is no second wish.
_ONCE_S = 0.25
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


@dataclass(slots=True)
class _State:
    """Of this process; the handlers of signals are too.

    raised: the interruption was told to the main thread, or its work is over. held: how many blocks want to end first.
    pending: it came meanwhile. told: who says that the program was interrupted has begun to. code: the exit code.
    """

    installed: bool = False
    raised: bool = False
    held: int = 0
    pending: bool = False
    told: threading.Lock = field(default_factory=threading.Lock)
    code: int = INTERRUPTED


_state = _State()


def install(farewell: Callable[[], None]) -> None:
    """From now on SIGINT and SIGTERM raise KeyboardInterrupt in the main thread, once, and the program ends in time.

    A second signal ends it at once. Where SIGINT is ignored, as in a shell's background jobs, it stays so.

    farewell: says that the program was interrupted, where the main thread does not come to it; called in another
        thread.
    """
    _state.installed = True
    signal.signal(signal.SIGTERM, _interrupt)
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _interrupt)
    sys.unraisablehook = _unraisable
    if sys.platform == "win32":  # no select on pipes
        return
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    # The signals of a process that a library forks are not this one's, though it has the same pipe.
    os.register_at_fork(after_in_child=_forget)
    threading.Thread(target=_watch, args=(reading, farewell), name="interruption", daemon=True).start()


def tell() -> bool:
    """Whether the caller is the one to say that the program was interrupted: it is said once."""
    return not _state.installed or _state.told.acquire(blocking=False)


def finish(code: int) -> None:
    """The work is over, and ended with `code`. A signal that comes now has nothing to interrupt but the exit."""
    if not _state.installed:
        return
    _state.raised, _state.code = True, code
    if code == INTERRUPTED:  # Python puts the handlers back while it exits, and one more would end it by that signal
        for number in _SIGNALS:
            signal.signal(number, signal.SIG_IGN)


def leave() -> NoReturn:
    """End an interrupted program that has said so, without the rest of the exit: it takes a library seconds to unload,
    other threads are waited for, and while Python takes itself apart nobody watches the time.
    """
    finish(INTERRUPTED)
    with contextlib.suppress(Exception):
        atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):  # closed, or nobody reads
            stream.flush()
    os._exit(INTERRUPTED)


@contextlib.contextmanager
def deferred() -> Iterator[None]:
    """An interruption that comes within is raised at the end: a line of results is written whole."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    _state.held += 1
    try:
        yield
    finally:
        _state.held -= 1
        if _state.pending and not _state.held and not _state.raised:
            _state.raised = True
            raise KeyboardInterrupt


def _interrupt(signum: int, frame: object) -> None:
    if _state.raised:
        return
    if _state.held:
        _state.pending = True
        return
    _state.raised = True
    raise KeyboardInterrupt


def _unraisable(lost: sys.UnraisableHookArgs) -> None:
    """An interruption that hits a finalizer is lost, and Python would print that. The time runs all the same."""
    if lost.exc_type is not KeyboardInterrupt:
        sys.__unraisablehook__(lost)


def _forget() -> None:
    signal.set_wakeup_fd(-1)


def _watch(pipe: int, farewell: Callable[[], None]) -> None:
    """Wait for a signal, and then for the end of the process or of its time."""
    import select

    while not _signalled(pipe):
        pass
    first = time.monotonic()
    while (left := first + _GRACE_S - time.monotonic()) > 0:
        ready, _, _ = select.select([pipe], [], [], left)
        if ready and _signalled(pipe) and time.monotonic() > first + _ONCE_S:
            break
    _end(farewell)


def _signalled(pipe: int) -> bool:
    """Whether one of the signals that came is one of those; waits for some to come."""
    return any(number in _SIGNALS for number in os.read(pipe, 256))


def _end(farewell: Callable[[], None]) -> None:
    _within(_ORDER_S, end_abruptly)  # a disk that hangs must not hold the exit
    if _state.code == INTERRUPTED:
        if tell():
            _within(_FAREWELL_S, farewell)  # nor a pipe that nobody reads
        else:
            time.sleep(0.05)  # the main thread is about to
    os._exit(_state.code)


def _within(seconds: float, do: Callable[[], object]) -> None:
    """Do it, or at least not wait for it any longer."""

    def run() -> None:
        with contextlib.suppress(Exception):
            do()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
