"""What other libraries say by `warnings` and `logging`, collected in place of printed."""

from __future__ import annotations

import contextlib
import logging
import sys
import warnings
from collections.abc import Callable, Iterator
from typing import Any, TextIO

_collected = False


def is_collected() -> bool:
    """Whether somebody collects it now, so that nobody needs to be silenced."""
    return _collected


@contextlib.contextmanager
def collected(
    *,
    record: Callable[[logging.LogRecord], None],
    warning: Callable[[Warning | str, type[Warning], str], None],
    printed: Callable[[], bool],
) -> Iterator[None]:
    """Have what is said within the block given to somebody, and printed only where `printed` says so at that time.

    Levels of loggers and filters of warnings decide as before what is said at all; a filter that makes an error of a
    warning does. Handlers that write elsewhere than to the terminal work as before.

    record: is given what is logged. warning: is given a warning, its category, and where it arose as FILE:LINE.
    """
    global _collected
    show, call, before = warnings.showwarning, logging.Logger.callHandlers, _collected

    def show_collected(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        warning(message, category, f"{filename}:{lineno}")
        if file is not None or printed():
            show(message, category, filename, lineno, file, line)

    def call_collected(logger: logging.Logger, said: logging.LogRecord) -> None:
        record(said)
        if printed():
            call(logger, said)
        else:
            _call_others(logger, said)

    warnings.showwarning = show_collected
    logging.Logger.callHandlers = call_collected  # type: ignore[method-assign, assignment]
    _collected = True
    try:
        yield
    finally:
        warnings.showwarning = show
        logging.Logger.callHandlers = call  # type: ignore[method-assign]
        _collected = before


def _call_others(logger: logging.Logger, said: logging.LogRecord) -> None:
    """As `Logger.callHandlers`, but for handlers that write to the terminal."""
    each: logging.Logger | None = logger
    while each is not None:
        for handler in each.handlers:
            if said.levelno >= handler.level and not _prints(handler):
                handler.handle(said)
        each = each.parent if each.propagate else None


def _prints(handler: logging.Handler) -> bool:
    """Whether it writes to stdout or stderr, or by rich, whose handler has a console."""
    stream: Any = getattr(handler, "stream", None)
    if hasattr(handler, "console") or (stream is not None and stream in (sys.stdout, sys.stderr)):
        return True
    try:
        return stream is not None and stream.fileno() in (1, 2)
    except (OSError, ValueError, AttributeError):  # no file, or closed
        return False
