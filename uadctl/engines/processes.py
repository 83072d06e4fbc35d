"""Units in several processes of this machine.

Processes and not threads: Python's own lock lets one thread at a time compute outside of torch, OpenCV and the like; a
process that ends takes no other with it; and torch's number of threads, its random state and what libraries print are
a process's. They are started as new interpreters, and do not import the caller's main module, as `multiprocessing`
would: that needs a guard in scripts, and is not there in notebooks.
"""

from __future__ import annotations

import contextlib
import io
import os
import pickle
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, field
from multiprocessing import spawn
from queue import Empty, SimpleQueue
from typing import IO, Any, ClassVar, Literal

from uadctl.abrupt import at_abrupt_end
from uadctl.engines.base import Job, Outcome, R, U, Unit
from uadctl.engines.carrying import Answer, Failure
from uadctl.engines.scheduling import Done, Event, Lost, Refused, schedule
from uadctl.engines.worker import MARK, read_frame, write_frame
from uadctl.errors import RunError
from uadctl.progress import Progress

_WAIT_S = 0.5
# So long may an idle worker take to put its things in order: Ctrl-C leaves 1.3 s to the whole program.
_ORDER_S = 0.5
# After a kill, for the system to take the process away; longer only where a disk hangs.
_REAP_S = 5.0
# A worker that was killed, and whose output something else still holds open.
_HELD_S = 2.0
_TOLD_LINES = 3


@dataclass(frozen=True, slots=True)
class Processes:
    """`[run] engine = "local"` with several workers."""

    workers: int
    name: ClassVar[Literal["local"]] = "local"

    def map(
        self,
        job: Job[U, R],
        units: Iterable[Unit[U]],
        *,
        progress: Progress,
        begun: Callable[[int], None] | None = None,
        ordered: bool = False,
        title: str | None = None,
    ) -> Iterator[Outcome[R]]:
        """See `Engine.map`. TypeError for a job that cannot be pickled."""
        crew = _Crew(self.workers, job)
        with at_abrupt_end(crew.kill):
            yield from schedule(crew, units, progress=progress, begun=begun, ordered=ordered, title=title)

    def facts(self) -> dict[str, Any]:
        """See `Engine.facts`."""
        return {"name": self.name, "workers": self.workers, "nodes": [socket.gethostname()]}


@dataclass(eq=False, slots=True)
class _Member:
    """A worker, as the driver sees it.

    printed: what it prints outside of units. opened: it is through with the job's opening. busy: it has a unit.
    ended: when it was seen to be no more.
    """

    number: int
    process: subprocess.Popen[bytes]
    incoming: io.FileIO
    outgoing: io.FileIO
    printed: IO[bytes]
    opened: bool = False
    busy: bool = False
    ended: float | None = None
    listener: threading.Thread | None = None

    def kill(self) -> None:
        """With what it started. Not waited for."""
        with contextlib.suppress(OSError):
            if sys.platform == "win32":
                self.process.kill()
            else:
                os.killpg(self.process.pid, signal.SIGKILL)


@dataclass(frozen=True, slots=True)
class _Ended:
    """A worker says nothing any more. reason: if it is not its own."""

    member: _Member
    reason: str | None


@dataclass(eq=False, slots=True)
class _Crew:
    """See `Crew`. A thread for each worker takes what it says."""

    workers: int
    job: Job[Any, Any]
    _pickled: bytes | None = None
    _members: dict[int, _Member] = field(default_factory=dict)
    _number: int = 0
    _heard: SimpleQueue[Event | _Ended] = field(default_factory=SimpleQueue)

    def employ(self, number: int) -> None:
        if self._pickled is None:
            try:
                self._pickled = pickle.dumps(self.job, pickle.HIGHEST_PROTOCOL)
            except Exception as error:  # pickling runs code of the job, which may raise anything
                name = type(self.job).__name__
                raise TypeError(f"the work, {name}, cannot be sent to worker processes: {error}") from error
        while len(self._members) < number:
            self._start(self._pickled)

    def hand(self, worker: int, unit: Unit[Any]) -> None:
        member = self._members[worker]
        try:
            told = pickle.dumps(unit, pickle.HIGHEST_PROTOCOL)
        except Exception as error:  # noqa: BLE001 - it fails this unit, and no other
            lost = TypeError(f"the unit cannot be sent to a worker process: {error}")
            self._heard.put(Done(worker, Answer(failure=Failure.of(lost))))
            return
        member.busy = True
        with contextlib.suppress(OSError):  # it is no more, which comes as an event
            write_frame(member.incoming, told)

    def events(self) -> Collection[Event]:
        self._look_after()
        heard: list[Event | _Ended] = []
        with contextlib.suppress(Empty):
            heard.append(self._heard.get(timeout=_WAIT_S))
            while True:
                heard.append(self._heard.get_nowait())
        return [event for said in heard if (event := self._event(said)) is not None]

    def close(self) -> None:
        members = list(self._members.values())
        self._members.clear()
        idle = [member for member in members if member.opened and not member.busy]
        for member in members:
            if member in idle:
                member.incoming.close()  # the sign to end
            else:
                member.kill()
        until = time.monotonic() + _ORDER_S
        for member in idle:
            with contextlib.suppress(subprocess.TimeoutExpired):
                member.process.wait(max(0.0, until - time.monotonic()))
        for member in members:
            self._bury(member)

    def kill(self) -> None:
        """End all workers in this moment, from whatever thread; nothing is put in order."""
        for member in list(self._members.values()):
            member.kill()

    def _start(self, job: bytes) -> None:
        self._number += 1
        path = [str(place) for place in sys.path]
        code = (
            f"import sys; sys.path[:] = {path!a}; "
            f"from uadctl.engines.worker import serve; serve({self._number}, {os.getpid()})"
        )
        flags: list[str] = subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined]
        printed = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the worker
        # A group of its own: Ctrl-C in a terminal reaches the driver alone, and what a worker starts ends with it.
        group: dict[str, Any] = {"process_group": 0}
        if sys.platform == "win32":
            group = {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP}
        try:
            process = subprocess.Popen(
                [os.fsdecode(spawn.get_executable()), *flags, "-c", code],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=printed,
                bufsize=0,
                **group,
            )
        except OSError as error:
            printed.close()
            raise RunError(
                f"a worker process cannot be started: {error.strerror or error}",
                help="Fewer workers need fewer processes and less memory: --workers",
            ) from error
        incoming, outgoing = process.stdin, process.stdout
        if not isinstance(incoming, io.FileIO) or not isinstance(outgoing, io.FileIO):
            raise TypeError("the pipes of a worker are no raw files")
        member = _Member(self._number, process, incoming, outgoing, printed)
        self._members[self._number] = member
        member.listener = threading.Thread(target=self._listen, args=(member, job), daemon=True)
        member.listener.start()

    def _listen(self, member: _Member, job: bytes) -> None:
        """Send the job, and take what the worker says, until it is no more."""
        reason = None
        try:
            with contextlib.suppress(OSError):  # it is no more already
                write_frame(member.incoming, job)
            if _after_mark(member.outgoing):
                while (frame := read_frame(member.outgoing)) is not None:
                    self._heard.put(_read(member.number, frame))
        except Exception as error:  # noqa: BLE001 - as without memory for what it says
            reason = f"was given up, since what it said cannot be taken: {type(error).__name__}: {error}"
            member.kill()
        finally:
            member.outgoing.close()
            self._heard.put(_Ended(member, reason))

    def _event(self, said: Event | _Ended) -> Event | None:
        if isinstance(said, _Ended):
            return self._lose(said.member, said.reason) if said.member.number in self._members else None
        member = self._members.get(said.worker)
        if member is None:
            return None
        member.opened = True
        if isinstance(said, Done):
            member.busy = False
        elif isinstance(said, Refused):
            self._bury(self._members.pop(said.worker))
        return said

    def _look_after(self) -> None:
        """See to workers that are no more though their pipe is open: something that they started holds it."""
        for member in self._members.values():
            if member.process.poll() is None:
                continue
            if member.ended is None:
                member.ended = time.monotonic()
                member.kill()
            elif time.monotonic() - member.ended > _HELD_S:
                self._heard.put(_Ended(member, None))

    def _lose(self, member: _Member, reason: str | None) -> Lost:
        del self._members[member.number]
        if reason is None:
            try:
                reason = _why(member.process.wait(1.0))
            except subprocess.TimeoutExpired:
                reason = "closed its connection"
        if not member.opened and (last := _last_lines(member.printed)):
            reason = f"{reason}; it said: {last}"
        self._bury(member)
        return Lost(member.number, reason)

    def _bury(self, member: _Member) -> None:
        """Nothing is left of it: no process, no file."""
        member.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):
            member.process.wait(_REAP_S)
        if member.listener is not None:
            member.listener.join(1.0)
        with contextlib.suppress(OSError):
            member.incoming.close()
        member.printed.close()


def _after_mark(file: io.FileIO) -> bool:
    """Skip what was printed before the worker took its streams over; False where it never did."""
    seen = b""
    while not seen.endswith(MARK):
        byte = file.read(1)
        if not byte:
            return False
        seen = (seen + byte)[-len(MARK) :]
    return True


def _read(worker: int, frame: bytearray) -> Event:
    """What a worker said. All of it but results is of types that are known here."""
    try:
        event: Event = pickle.loads(frame)
    except Exception as error:  # noqa: BLE001 - unpickling runs code of the result, which may raise anything
        lost = TypeError(f"the result cannot be read in the driver: {error}")
        lost.__cause__ = error
        return Done(worker, Answer(failure=Failure.of(lost)))
    return event


def _why(code: int) -> str:
    """How a process ended, by its exit code as `subprocess` has it."""
    if code >= 0:
        return f"ended with exit code {code}"
    try:
        name = f" ({signal.Signals(-code).name})"
    except ValueError:  # a real-time signal
        name = ""
    # Nobody else sends this one: the driver does only when it wants nothing any more.
    memory = ", mostly a sign that memory ran out" if name == " (SIGKILL)" else ""
    return f"was killed by signal {-code}{name}{memory}"


def _last_lines(file: IO[bytes]) -> str:
    """The last lines that are not empty, as one; of a crash what it was and where, which come first."""
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - 4000))
    lines = [line.strip() for line in file.read().decode("utf-8", "replace").splitlines()]
    lines = [line for line in lines if line]
    crash = next((i for i, line in enumerate(lines) if line.startswith("Fatal Python error")), None)
    told = lines[-_TOLD_LINES:] if crash is None else lines[crash : crash + _TOLD_LINES]
    return " | ".join(told)
