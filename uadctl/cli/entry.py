"""Where the program begins: ready for Ctrl-C before it imports what takes time."""

from __future__ import annotations

import os
import sys

from uadctl.cli import interruption


def main() -> None:
    """The console script."""
    try:
        interruption.install(_farewell)
        _replace_closed()
        from uadctl.cli.app import app

        app()
    except SystemExit as ended:
        if ended.code != interruption.INTERRUPTED:
            raise
    except KeyboardInterrupt:  # before the command began, or just when it had ended
        if interruption.tell():
            _farewell()
    interruption.leave()


def _farewell() -> None:
    """Say that the program was interrupted; while it is still being imported, nobody else can."""
    console = sys.modules.get("uadctl.cli.console")
    screen = getattr(console, "screen", None)  # the last thing that it makes
    if screen is None:
        os.write(2, b"error: interrupted\n")
    else:
        screen.farewell()


def _replace_closed() -> None:
    """Have streams that whoever started the program has closed lead nowhere.

    The next file that is opened would get the number of one, and what a library prints would be written into it.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115, PTH123 - lives as long as the process
