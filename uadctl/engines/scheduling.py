"""Hand units to workers and give back one outcome for each, whatever becomes of the workers."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Sized
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeAlias

from uadctl.engines.base import ATTEMPTS, Outcome, R, U, Unit, UnitLost
from uadctl.engines.carrying import Answer, Failure, Mirror
from uadctl.errors import RunError
from uadctl.progress import Progress, Task

# With results in order, units are taken so far ahead of the first that is not done, for each worker: one that takes
# longer than others must not make them wait, nor their results fill the memory.
AHEAD = 4
# The end of a log is the part that says why.
_LOG_BYTES = 20_000


@dataclass(frozen=True, slots=True)
class Opened:
    """A worker is there and has opened the job."""

    worker: int


@dataclass(frozen=True, slots=True)
class Refused:
    """The job could not be opened in a worker: `Job.open` raised."""

    worker: int
    failure: Failure


@dataclass(frozen=True, slots=True)
class Done(Generic[R]):
    """A worker is done with its unit."""

    worker: int
    answer: Answer[R]


@dataclass(frozen=True, slots=True)
class Lost:
    """A worker is no more, or what it had to say is lost, and the worker is given up. reason: in words."""

    worker: int
    reason: str


@dataclass(frozen=True, slots=True)
class Said:
    """The bars that a worker has open, as `Relay.bars`."""

    worker: int
    bars: dict[int, tuple[str, int | None, str, int]]


Event: TypeAlias = Opened | Refused | Done[Any] | Lost | Said


class Crew(Protocol):
    """Workers of other processes, each of which opens the job and then does one unit at a time.

    Workers are numbered as they are started; a number is never given again. Of each, `Lost` or `Refused` is the last
    event.
    """

    @property
    def workers(self) -> int:
        """So many at most."""
        ...

    def employ(self, number: int) -> None:
        """Start workers until so many are there or about to be, in place of those that were lost."""
        ...

    def hand(self, worker: int, unit: Unit[Any]) -> None:
        """Give a unit to a worker that has none. What becomes of it comes as an event."""
        ...

    def events(self) -> Collection[Event]:
        """What has happened since; waits a while for something to happen, less than a second."""
        ...

    def close(self) -> None:
        """End all workers, at once."""
        ...


@dataclass(slots=True)
class _Given(Generic[U]):
    """A unit that is not done. attempts: how often it was begun. reasons: why it was lost, each time."""

    index: int
    unit: Unit[U]
    attempts: int
    reasons: list[str]


def schedule(
    crew: Crew,
    units: Iterable[Unit[U]],
    *,
    progress: Progress,
    begun: Callable[[int], None] | None,
    ordered: bool,
    title: str | None,
) -> Iterator[Outcome[R]]:
    """See `Engine.map`."""
    total = len(units) if isinstance(units, Sized) else None
    with (
        contextlib.closing(_Schedule[U, R](crew, units, progress, begun, ordered)) as plan,
        _bar(progress, title, total) as bar,
    ):
        for outcome in plan.outcomes():
            if bar is not None:
                bar.advance()
            yield outcome


def _bar(progress: Progress, title: str | None, total: int | None) -> contextlib.AbstractContextManager[Task | None]:
    return contextlib.nullcontext() if title is None else progress.task(title, total, unit="units")


class _Schedule(Generic[U, R]):
    """The state of one `schedule`: what waits, what is at work, what has come too early."""

    def __init__(
        self,
        crew: Crew,
        units: Iterable[Unit[U]],
        progress: Progress,
        begun: Callable[[int], None] | None,
        ordered: bool,
    ) -> None:
        self._crew = crew
        self._source = enumerate(units)
        self._progress = progress
        self._begun = begun
        self._ordered = ordered
        self._waiting: deque[_Given[U]] = deque()
        self._at_work: dict[int, _Given[U]] = {}
        self._idle: deque[int] = deque()
        self._mirrors: dict[int, Mirror] = {}
        self._early: dict[int, Outcome[R]] = {}
        self._next = 0
        self._lost_unused = 0
        self._most: int | None = None
        self._ended = False

    def outcomes(self) -> Iterator[Outcome[R]]:
        """As they come, or in order."""
        while self._hand_out():
            found: list[Outcome[R]] = []
            broken: Exception | None = None
            for event in self._crew.events():
                try:
                    outcome = self._take(event)
                except Exception as error:  # noqa: BLE001 - raised below, when what is done was given back
                    broken = broken or error
                    continue
                if outcome is None:
                    continue
                if self._ordered:
                    self._early[outcome.index] = outcome
                else:
                    found.append(outcome)
            if broken is None:
                try:
                    self._hand_out()  # while outcomes are used, nobody needs to be idle
                except Exception as error:  # noqa: BLE001 - as above
                    broken = error
            yield from found
            while self._next in self._early:
                self._next += 1
                yield self._early.pop(self._next - 1)
            if broken is not None:
                raise broken

    def _hand_out(self) -> bool:
        """Give units to those that have none. False where there is nothing more to wait for."""
        self._look_ahead()
        wanted = len(self._waiting) + len(self._at_work)
        if not wanted:
            return False
        most = max(1, self._crew.workers) if self._most is None else self._most
        self._crew.employ(min(most, wanted))
        while self._idle and self._waiting:
            self._hand(self._idle.popleft(), self._waiting.popleft())
        return True

    def close(self) -> None:
        self._crew.close()
        for mirror in self._mirrors.values():
            mirror.close()

    def _look_ahead(self) -> None:
        """Take as many units as there can be workers for; in order, no more than `AHEAD` lets."""
        workers = max(1, self._crew.workers)  # where there is no room now, there may be later
        while not self._ended and len(self._waiting) + len(self._at_work) < 2 * workers:
            if self._ordered and len(self._waiting) + len(self._at_work) + len(self._early) >= AHEAD * workers:
                return
            try:
                index, unit = next(self._source)
            except StopIteration:
                self._ended = True
                return
            self._waiting.append(_Given(index, unit, 0, []))

    def _hand(self, worker: int, given: _Given[U]) -> None:
        if self._begun is not None:
            self._begun(given.index)
        given.attempts += 1
        self._lost_unused = 0
        self._at_work[worker] = given
        self._mirrors[worker] = Mirror(self._progress)
        self._crew.hand(worker, given.unit)

    def _take(self, event: Event) -> Outcome[R] | None:
        """What an event means: an outcome, or a change of state. Raises what ends all."""
        match event:
            case Opened(worker):
                self._idle.append(worker)
            case Refused(_, failure):
                raise failure.error()
            case Said(worker, bars):
                if worker in self._mirrors:
                    self._mirrors[worker].show(bars)
            case Lost(worker, reason):
                return self._lose(worker, reason)
            case Done(worker, answer):
                given = self._released(worker)
                self._idle.append(worker)
                for message in answer.warnings:
                    self._progress.warn(message)
                for message, failure in answer.failures:
                    self._progress.fail(message, failure.error())
                self._drop_log(given)
                error = None if answer.failure is None else answer.failure.error()
                return Outcome(given.index, given.attempts, answer.result, error)
        return None

    def _released(self, worker: int) -> _Given[U]:
        self._mirrors.pop(worker).close()
        return self._at_work.pop(worker)

    def _lose(self, worker: int, reason: str) -> Outcome[R] | None:
        if worker not in self._at_work:
            if worker in self._idle:
                self._idle.remove(worker)
                if not self._waiting:
                    return None
            # It was still opening the job, or ended before it could be given a unit.
            self._lost_unused += 1
            if self._lost_unused >= ATTEMPTS and self._at_work:
                if self._most is None:
                    self._progress.warn(
                        f"no more workers can be started: {self._lost_unused} ended one after the other while they "
                        f"made ready, the last one {reason}; it goes on with those that are there: {len(self._at_work)}"
                    )
                self._most = len(self._at_work)
            elif self._lost_unused >= ATTEMPTS:
                raise RunError(
                    f"no worker can be started: {self._lost_unused} ended one after the other while they made ready, "
                    f"the last one {reason}",
                    help="Too little memory for so many workers is the usual reason, and on Ray a cluster that is "
                    "going away (`ray status`); see docs/scaling.md.",
                )
            return None
        given = self._released(worker)
        given.reasons.append(reason)
        if given.attempts < ATTEMPTS:
            self._progress.warn(
                f"{given.unit.title}: its worker {reason}; it is begun again ({given.attempts + 1} of {ATTEMPTS})"
            )
            self._waiting.appendleft(given)
            return None
        log = _end_of(given)
        self._drop_log(given)
        told = f"given up, since its worker ended {ATTEMPTS} times: {'; '.join(dict.fromkeys(given.reasons))}"
        error = UnitLost(told, log=log)
        if log:
            error.add_note(f"What its workers printed:\n{log}")
        return Outcome(given.index, given.attempts, error=error)

    def _drop_log(self, given: _Given[U]) -> None:
        if given.unit.log is not None:
            with contextlib.suppress(OSError):
                given.unit.log.unlink(missing_ok=True)


def _end_of(given: _Given[U]) -> str:
    """The end of the unit's log; empty where there is none."""
    if given.unit.log is None:
        return ""
    try:
        with given.unit.log.open("rb") as file:
            file.seek(0, 2)
            file.seek(max(0, file.tell() - _LOG_BYTES))
            return file.read().decode("utf-8", "replace").strip()
    except OSError:
        return ""
