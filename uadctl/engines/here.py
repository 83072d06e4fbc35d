"""Units one after the other, in this process."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from uadctl.engines.base import Job, Outcome, R, U, Unit
from uadctl.progress import Progress


@dataclass(frozen=True, slots=True)
class Here:
    """`[run] engine = "local"` with one worker: nothing is started, nothing travels."""

    name: ClassVar[Literal["local"]] = "local"
    workers: ClassVar[int] = 1

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
        """See `Engine.map`. What the process cannot survive ends all units."""
        from uadctl.inference import use_threads

        use_threads(job.threads)
        work = job.open()
        for index, unit in enumerate(units):
            use_threads(job.threads)
            if begun is not None:
                begun(index)
            try:
                result = work(unit.payload, progress)
            except Exception as error:  # noqa: BLE001 - whatever ends a unit must not end the others
                yield Outcome(index, 1, error=error)
            else:
                yield Outcome(index, 1, result)

    def facts(self) -> dict[str, Any]:
        """See `Engine.facts`."""
        return {"name": self.name, "workers": self.workers, "nodes": [socket.gethostname()]}
