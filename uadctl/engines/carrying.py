"""What a worker sends back beside results: errors, and how far it is. Plain types only."""

from __future__ import annotations

import builtins
import os
import threading
import traceback
from dataclasses import dataclass, field
from typing import Any, Generic, Self

from uadctl import errors
from uadctl.engines.base import R
from uadctl.errors import DiskError, Problem, UadctlError
from uadctl.progress import Progress, Task


@dataclass(frozen=True, slots=True)
class Failure:
    """An exception, as far as others may want to know it.

    kind: the name of its class; of one of ours that other modules define, that of the class in `uadctl.errors`.
    module: where others than ours are defined. base: the builtin class that those are, or derive from.
    problems, help: of one of ours. more: what its class keeps beside them.
    system: errno, the system's words and the file's name, as far as they are known, of an OSError.
    """

    kind: str
    text: str
    traceback: str
    module: str = "builtins"
    base: str = "Exception"
    problems: tuple[Problem, ...] | None = None
    help: str | None = None
    more: dict[str, Any] = field(default_factory=dict)
    system: tuple[int | None, str | None, str | bytes | int | None] | None = None

    @classmethod
    def of(cls, error: Exception) -> Failure:
        told = "".join(traceback.format_exception(error))
        system = None
        if isinstance(error, OSError):
            name = error.filename  # as the call was given it: a number perhaps
            plain = name if name is None or isinstance(name, str | bytes | int) else os.fspath(name)
            system = (error.errno, error.strerror, plain)
        if isinstance(error, UadctlError):
            kind = next(c.__name__ for c in type(error).__mro__ if getattr(errors, c.__name__, None) is c)
            more = {name: getattr(error, name) for name in _MORE.get(kind, ())}
            return cls(kind, str(error), told, problems=error.problems, help=error.help, more=more, system=system)
        found = type(error)
        base = next(c.__name__ for c in found.__mro__ if getattr(builtins, c.__name__, None) is c)
        return cls(found.__name__, str(error), told, found.__module__, base, system=system)

    def error(self) -> Exception:
        """The exception again, with its traceback in the worker as a note."""
        found = self._made()
        found.add_note(f"In the worker:\n{self.traceback}")
        return found

    def _made(self) -> Exception:
        if self.problems is not None:
            kind: Any = getattr(errors, self.kind)
            if issubclass(kind, DiskError):
                number, _, name = self.system or (None, None, None)
                return kind(name, number, help=self.help)  # type: ignore[no-any-return]
            return kind(self.problems, help=self.help, **self.more)  # type: ignore[no-any-return]
        base: type[Exception] = getattr(builtins, self.base)
        if self.system is not None and self.system[0] is not None and self.module == "builtins":
            return OSError(*self.system)  # which chooses the class by the number
        if (self.module, self.kind) == ("builtins", self.base) and base.__str__ is BaseException.__str__:
            return base(self.text)
        return _named(self.kind, self.module, base, self.text, self.system)


# What classes of ours keep beside problems and help, as their constructors call it.
_MORE = {"SpecError": ("source",), "ParamError": ("source",), "ImageError": ("large", "number")}


def _named(kind: str, module: str, base: type[Exception], text: str, system: tuple[Any, ...] | None) -> Exception:
    """An exception of a class with this name, below `base`, that shows this text.

    Constructors of others want who knows what, and a KeyError shows its argument as Python would write it.
    """
    if issubclass(base, ExceptionGroup):  # which is made of exceptions
        base = Exception
    space = {"__module__": module, "__init__": lambda self, text: None, "__str__": lambda self: text}
    made: Exception = type(kind, (base,), space)(text)
    if isinstance(made, OSError) and system is not None:
        made.errno, made.strerror, made.filename = system
    return made


@dataclass(frozen=True, slots=True)
class Answer(Generic[R]):
    """What a worker says of a unit when it is done with it. warnings: what the user should know, in order."""

    result: R | None = None
    failure: Failure | None = None
    warnings: tuple[str, ...] = ()
    failures: tuple[tuple[str, Failure], ...] = ()


@dataclass(slots=True)
class Bar:
    """How far a task of a worker is."""

    title: str
    total: int | None
    unit: str
    done: int = 0


@dataclass
class Relay:
    """A worker's Progress: keeps what was said, for whoever asks; another thread may."""

    warnings: list[str] = field(default_factory=list)
    failures: list[tuple[str, Failure]] = field(default_factory=list)
    _bars: dict[int, Bar] = field(default_factory=dict)
    _number: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def task(self, title: str, total: int | None, *, unit: str = "images") -> Task:
        with self._lock:
            self._number += 1
            self._bars[self._number] = Bar(title, total, unit)
            return _RelayedTask(self, self._number)

    def warn(self, message: str) -> None:
        self.warnings.append(message)

    def fail(self, message: str, error: Exception) -> None:
        self.failures.append((message, Failure.of(error)))

    def advance(self, number: int, n: int) -> None:
        with self._lock:
            if number in self._bars:
                self._bars[number].done += n

    def end(self, number: int) -> None:
        with self._lock:
            self._bars.pop(number, None)

    def bars(self) -> dict[int, tuple[str, int | None, str, int]]:
        """The tasks that are open now, by number: title, total, unit, done."""
        with self._lock:
            return {number: (b.title, b.total, b.unit, b.done) for number, b in self._bars.items()}


@dataclass(frozen=True, slots=True)
class _RelayedTask:
    relay: Relay
    number: int

    def advance(self, n: int = 1) -> None:
        self.relay.advance(self.number, n)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.relay.end(self.number)


@dataclass(slots=True)
class _Drawn:
    title: str
    task: Task
    done: int = 0


class Mirror:
    """Draws here the bars that a worker has open."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._drawn: dict[int, _Drawn] = {}

    def show(self, bars: dict[int, tuple[str, int | None, str, int]]) -> None:
        for number, drawn in list(self._drawn.items()):
            # What is told late may be of the unit before, whose bars had the same numbers.
            if number not in bars or bars[number][0] != drawn.title or bars[number][3] < drawn.done:
                self._end(number)
        for number, (title, total, unit, done) in bars.items():
            if number not in self._drawn:
                self._drawn[number] = _Drawn(title, self._progress.task(title, total, unit=unit).__enter__())
            drawn = self._drawn[number]
            if done > drawn.done:
                drawn.task.advance(done - drawn.done)
                drawn.done = done

    def close(self) -> None:
        for number in list(self._drawn):
            self._end(number)

    def _end(self, number: int) -> None:
        self._drawn.pop(number).task.__exit__(None, None, None)
