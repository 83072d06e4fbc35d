"""Whether another process, perhaps on another machine, sees what this one sees."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from uadctl.errors import RunError
from uadctl.runs.folder import RunFolder, appears

DATA = "What is read must have the same path on all nodes: put it on storage that they share. See docs/scaling.md."
OUTPUTS = "What is written must lie on storage that all nodes share, under the same path. See docs/scaling.md."


@dataclass(frozen=True, slots=True)
class Needed:
    """A file or folder that workers must find. path: as the user named it. help: what to do where they do not.

    sign: a file that shows whether it is the same one; None: that something has this path will do.
    """

    path: str
    help: str
    sign: str | None = None


@dataclass(frozen=True, slots=True)
class Place:
    """Where work is handed out from; travels to the workers, which find what it needs again.

    folder: the working directory, which relative paths are relative to. host, process: of the driver.
    """

    needed: tuple[Needed, ...]
    folder: str
    host: str
    process: int

    @classmethod
    def of(cls, needed: Iterable[Needed]) -> Place:
        """This process. What is not there is left out: a worker needs not have it either."""
        there = tuple(each for each in needed if Path(each.path).exists())
        return cls(there, os.getcwd(), socket.gethostname(), os.getpid())  # noqa: PTH109 - a text is what travels

    def enter(self) -> None:
        """In a worker: make the driver's working directory this one's, where there is one of that name, and look.

        So relative paths mean the same, and messages name files as the user did. Raises RunError for what is not there.
        """
        here = socket.gethostname()
        if (here, os.getpid()) == (self.host, self.process):
            return
        moved = True
        try:
            os.chdir(self.folder)
        except OSError:
            moved = False
        for each in self.needed:
            if not moved and not Path(each.path).is_absolute():
                raise RunError(
                    f"{each.path}: is relative to {self.folder}, which is not there on {here}",
                    help="Give absolute paths, on storage that all nodes share. See docs/scaling.md.",
                )
            if not appears(Path(each.sign or each.path)):
                raise RunError(f"{each.path}: is not there, or another one, on {here}", help=each.help)


def of_run(run: RunFolder, files: Iterable[str]) -> Place:
    """What workers need for units of a run: its folder, and these files."""
    folder = Needed(str(run.path), OUTPUTS, sign=str(run.path / "spec.toml"))
    return Place.of([folder, *(Needed(file, DATA) for file in files)])
