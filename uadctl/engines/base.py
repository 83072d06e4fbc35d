"""What is handed out, what comes back, and what an engine promises."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Literal, Protocol, TypeAlias, TypeVar

from uadctl.errors import UadctlError
from uadctl.progress import Progress

U = TypeVar("U")
R = TypeVar("R")
U_contra = TypeVar("U_contra", contravariant=True)
R_co = TypeVar("R_co", covariant=True)

ATTEMPTS = 3
"""So often a unit is begun whose worker ended, or whose result was lost, before it is given up."""

Work: TypeAlias = Callable[[U, Progress], R]
"""Does one unit: given its payload, and where to tell how far it is and what the user should know."""


class UnitLost(UadctlError):
    """The workers that did a unit ended each time before it was done. log: what they wrote meanwhile."""

    def __init__(self, message: str, *, help: str | None = None, log: str = "") -> None:
        super().__init__(message, help=help)
        self.log = log


@dataclass(frozen=True, slots=True)
class Unit(Generic[U]):
    """A piece of work.

    payload: small, and of plain types: it may travel to another machine. title: what to call it.
    log: file for what its worker, and the libraries in it, print meanwhile; there only until the unit is done, or
        given up. None, or where it cannot be written: that is not kept. In this process nothing is caught.
    """

    payload: U
    title: str
    log: Path | None = None


@dataclass(frozen=True, slots=True)
class Outcome(Generic[R]):
    """What came of a unit: a result, or why there is none.

    index: its place among the units. attempts: how often it was begun.
    error: what the work raised, which is not tried again: it would be raised again; or UnitLost.
    """

    index: int
    attempts: int
    result: R | None = None
    error: Exception | None = None


class Job(Protocol[U_contra, R_co]):
    """What is done with each unit. It is pickled and travels to each worker once.

    threads: torch computes with so many in each worker.
    """

    @property
    def threads(self) -> int: ...

    def open(self) -> Work[U_contra, R_co]:
        """What does a unit, made once in each worker: it keeps what units have in common, such as a model.

        Raises UadctlError where the work cannot be done there at all; that ends all of it.
        """
        ...


class Engine(Protocol):
    """Where units of work run.

    name: as in `[run] engine`. workers: so many units at a time at most.
    """

    @property
    def name(self) -> Literal["local", "ray"]: ...

    @property
    def workers(self) -> int: ...

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
        """One outcome for each unit, exactly once; as they come, or in the units' order.

        units: taken one by one as there are workers for them, and if `ordered` not far ahead of what is given back.
        begun: called here, with the unit's number, each time before it is handed out.
        title: of a bar over all units; where they are done in this process, one by one, there is none.
        A unit whose worker ends is begun again, `ATTEMPTS` times in all. Closing the iterator ends all workers.
        Raises what `job.open` raises in a worker, and RunError where there can be no workers.
        """
        ...

    def facts(self) -> dict[str, Any]:
        """For the record of a run: the engine, its workers, and the nodes they ran on."""
        ...
