"""What can go wrong, as types. Each kind derives from the builtin that a library caller would expect as well."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong in something a user edits: `message` starts with where it is, `help` is the next step."""

    message: str
    help: str | None = None


def with_help(messages: Iterable[str], help: str) -> list[Problem]:
    """Problems that share their next step: it is said once, after the last of them."""
    *others, last = messages
    return [*(Problem(message) for message in others), Problem(last, help)]


class UadctlError(Exception):
    """Something uadctl can explain. `exit_code` is what the command line ends with.

    `problems` holds every one found, not only the first; `message` is all of them, `help` the next step of the first
    that has one.
    """

    exit_code = 1

    def __init__(self, problems: str | Sequence[Problem], *, help: str | None = None) -> None:
        self.problems: tuple[Problem, ...] = (
            (Problem(problems, help),) if isinstance(problems, str) else tuple(problems)
        )
        self.message = "\n".join(problem.message for problem in self.problems)
        self.help = help or next((problem.help for problem in self.problems if problem.help), None)
        super().__init__(self.message)

    def __str__(self) -> str:
        return self.message


class SpecError(UadctlError, ValueError):
    """A spec, or an option that overrides it, is wrong. `source` is the file, if it is one."""

    exit_code = 2

    def __init__(
        self, problems: str | Sequence[Problem], *, help: str | None = None, source: str | None = None
    ) -> None:
        super().__init__(problems, help=help)
        self.source = source


class ParamError(SpecError, TypeError):
    """A model does not take a parameter, or not with that value."""


class DataError(UadctlError, ValueError):
    """A data set, an image or a mask is missing, broken or contradicts itself. Names the file."""

    exit_code = 2


class WeightsError(UadctlError, RuntimeError):
    """Pretrained weights are absent, or are not the file they should be."""

    exit_code = 2


class BackendMissing(UadctlError, ImportError):
    """An optional package is not installed; the message says how to install it."""

    exit_code = 2


class RunError(UadctlError, RuntimeError):
    """A run folder is absent, ambiguous, incomplete or in use."""

    exit_code = 2


class ImageError(RunError):
    """A model cannot say anything of an image: no finite numbers come out, or it does not fit into memory.

    large: it does not fit into memory. number: its place among the images that were given to `fit`; None elsewhere.
    """

    def __init__(
        self,
        problems: str | Sequence[Problem],
        *,
        help: str | None = None,
        large: bool = False,
        number: int | None = None,
    ) -> None:
        super().__init__(problems, help=help)
        self.large = large
        self.number = number


class DiskError(UadctlError, OSError):
    """A file cannot be written, since the disk is full, read-only or broken; `filename` as it was to be called.

    errno, strerror: the system's. No matter of the work that was done: what comes after would not be written either.
    """

    def __init__(self, filename: str, errno: int, *, help: str | None = None) -> None:
        reason = os.strerror(errno)
        super().__init__(f"{filename}: cannot be written: {reason}", help=help)
        self.errno, self.strerror, self.filename = errno, reason, filename
        self._number = errno

    def told(self, filename: str | None = None, *, help: str | None = None) -> DiskError:
        """The same of a file by another name, and with a next step."""
        return DiskError(filename or str(self.filename), self._number, help=help or self.help)


class GateFailed(UadctlError):
    """A metric lies outside the limits of the spec."""

    exit_code = 3
