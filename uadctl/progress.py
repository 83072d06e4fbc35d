"""How a long step tells how far it is, without knowing whether anybody watches."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, Self


class Task(Protocol):
    """One bar. A context manager; `advance` after each item done."""

    def advance(self, n: int = 1) -> None: ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *exc: object) -> None: ...


class Progress(Protocol):
    """Where verbs report while they work.

    task: a bar. warn: something the user should know. fail: a part of the work has failed and the rest goes on.
    """

    def task(self, title: str, total: int | None, *, unit: str = "images") -> Task: ...

    def warn(self, message: str) -> None: ...

    def fail(self, message: str, error: Exception) -> None: ...


class _SilentTask:
    def advance(self, n: int = 1) -> None:
        pass

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        pass


class Silent:
    """A Progress that shows nothing and keeps what was said: the default of every verb."""

    def __init__(self) -> None:
        self.warnings: list[str] = []
        self.failures: list[str] = []

    def task(self, title: str, total: int | None, *, unit: str = "images") -> Task:
        return _SilentTask()

    def warn(self, message: str) -> None:
        self.warnings.append(message)

    def fail(self, message: str, error: Exception) -> None:
        self.failures.append(message)


class Relayed:
    """Another Progress, but warnings go elsewhere: to what says them and keeps them in a record."""

    def __init__(self, progress: Progress, *, warn: Callable[[str], None]) -> None:
        self._progress = progress
        self._warn = warn

    def task(self, title: str, total: int | None, *, unit: str = "images") -> Task:
        return self._progress.task(title, total, unit=unit)

    def warn(self, message: str) -> None:
        self._warn(message)

    def fail(self, message: str, error: Exception) -> None:
        self._progress.fail(message, error)
