"""Carry a run through its units: status files, failures that stay in their cell, and the record of it all."""

from __future__ import annotations

import contextlib
import functools
import traceback
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from uadctl.atomic import flush_folders
from uadctl.engines.base import Unit
from uadctl.errors import DiskError, UadctlError
from uadctl.progress import Progress, Relayed
from uadctl.runs import provenance
from uadctl.runs.determinism import determinism
from uadctl.runs.folder import RunFolder, RunStatus, UnitFolder
from uadctl.spec import spec_hash

if TYPE_CHECKING:
    from uadctl.engines.base import Engine, Job, Outcome


@dataclass(frozen=True, slots=True)
class Attempt:
    """What a worker has made of a unit. It travels back: plain values only.

    folder: name of the folder inside of the unit's that holds the results. model: the fitted model's facts.
    timing: what it cost, where that is no file among the results.
    """

    folder: str
    model: dict[str, Any]
    timing: dict[str, Any] | None = None


class Driver:
    """Keeps run.json true while the units of a run are worked on. A new run folder appears with it.

    notes: what the user should know of how the spec was read; kept in the record.
    progress: where warnings and failures are said.
    engine: where the units are worked on.
    """

    def __init__(
        self,
        run: RunFolder,
        *,
        verb: str,
        progress: Progress,
        engine: Engine,
        notes: Sequence[str] = (),
        previous: dict[str, Any] | None = None,
    ) -> None:
        self._run = run
        self._progress = progress
        self._engine = engine
        self._engines = list((previous or {}).get("engines", []))
        self._order: dict[tuple[str, str, int], int] = {}
        self._labels: tuple[str, ...] = ()
        self._described: dict[tuple[str, str], int] = {}
        spec = run.spec
        now = _now()
        self._record: dict[str, Any] = {
            "status": "started",
            "verb": verb,
            "name": spec.run.name,
            "hash": spec_hash(spec),
            "seed": spec.run.all_seeds[0],
            "seeds": list(spec.run.all_seeds),
            "started": (previous or {}).get("started", now),
            "resumed": [*(previous or {}).get("resumed", []), now] if previous else [],
            "finished": None,
            "versions": provenance.versions(),
            "machine": provenance.machine(),
            "git": provenance.git_commit(Path.cwd()),
            "notes": list(dict.fromkeys([*(previous or {}).get("notes", []), *notes])),
            "warnings": list((previous or {}).get("warnings", [])),
            "data": (previous or {}).get("data", {}),
            "models": (previous or {}).get("models", {}),
            "failed": [],
        }
        self._write("started")
        run.appear()

    def warn(self, message: str) -> None:
        """Say a warning, and keep it in the record, once."""
        if message not in self._record["warnings"]:
            self._record["warnings"].append(message)
        self._progress.warn(message)

    def describe(self, unit: UnitFolder, *, data: dict[str, Any], model: dict[str, Any]) -> None:
        """Keep what a unit was made of: its data's fingerprint, its model's facts; of several seeds the last one's."""
        self._record["data"][unit.category] = data
        number = self._order.get((unit.category, unit.label, unit.seed), -1)
        if self._described.get((unit.category, unit.label), -1) <= number:
            self._described[unit.category, unit.label] = number
            self._record["models"].setdefault(unit.label, {})[unit.category] = model

    def work(
        self,
        units: Sequence[UnitFolder],
        job: Job[int, Attempt],
        *,
        titles: Sequence[str],
        take: Callable[[int, Attempt], None],
    ) -> list[UnitFolder]:
        """Have every unit done that is not done yet. Returns those that failed, in their order.

        job: is given a unit's number, and writes what comes of it into an attempt's folder. titles: of the units.
        take: is told of each that is done, once, when its results lie in the unit's folder.
        A failure is written as the unit's metrics.json and said; the others go on. Raises DiskError, which is none of a
        unit, and what keeps the engine from its work.
        """
        todo = [number for number, unit in enumerate(units) if unit.status != "done"]
        if not todo:
            return []
        self._order = {(unit.category, unit.label, unit.seed): number for number, unit in enumerate(units)}
        self._labels = tuple(dict.fromkeys(unit.label for unit in units))
        begun: set[int] = set()

        def begin(index: int) -> None:
            unit = units[todo[index]]
            if index in begun:
                unit.remove_attempts()  # its log stays: it may have to say why there are several
                return
            begun.add(index)
            unit.clear()
            unit.set_status("started")

        outcomes = self._engine.map(
            job,
            [Unit(number, titles[number], units[number].log.absolute()) for number in todo],
            progress=Relayed(self._progress, warn=self.warn),
            begun=begin,
            title=str(self._record["verb"]),
        )
        failed = set()
        try:
            # Closed at once where this ends early, and with it the workers: nobody may write into the run any more.
            with contextlib.closing(cast("Generator[Outcome[Attempt]]", outcomes)):
                for outcome in outcomes:
                    number = todo[outcome.index]
                    if not self._settle(units[number], outcome, functools.partial(take, number)):
                        failed.add(number)
        except Exception:  # not KeyboardInterrupt: whoever waits for the end then shall not wait for this
            _tidy(units)
            raise
        _tidy(units)
        return [units[number] for number in sorted(failed)]

    def _settle(self, unit: UnitFolder, outcome: Outcome[Attempt], take: Callable[[Attempt], None]) -> bool:
        """Whether a unit that was worked on is done. If not, it has failed."""
        error = outcome.error
        if error is None:
            attempt = cast("Attempt", outcome.result)
            try:
                unit.adopt(attempt.folder)
                take(attempt)
            except DiskError:
                raise
            except Exception as raised:  # noqa: BLE001 - whatever ends a cell must not end the others
                error = raised
        if isinstance(error, DiskError):
            raise error.told(unit.of_unit(str(error.filename))) from error
        if error is not None:
            self._fail(unit, error)
            return False
        # The record first: a unit that is done is never without what it was made of, power cuts included.
        self._write("started")
        flush_folders(unit.path, within=self._run.path)
        unit.set_status("done")
        return True

    @contextlib.contextmanager
    def interruptible(self, *, again: str) -> Iterator[None]:
        """Say in the record that the run was interrupted, and can be gone on with, if this part of it does not end.

        again: the command to be given then, said where the disk is the reason.
        """
        try:
            yield
        except BaseException as error:  # Ctrl-C and SIGTERM too
            with contextlib.suppress(OSError):  # where the disk is full; what stands there can be gone on with as well
                self.interrupt()
            if isinstance(error, DiskError):
                raise error.told(help=f"When that is mended: {again}") from error
            raise

    def interrupt(self) -> None:
        """Say in the record that the run has not come to its end, and can be gone on with."""
        self._write("interrupted")

    def finish(self, failed: Sequence[UnitFolder]) -> None:
        """The last word of run.json."""
        self._record["finished"] = _now()
        flush_folders(self._run.path)  # it names what is there
        self._write("failed" if failed else "done")

    def _fail(self, unit: UnitFolder, error: Exception) -> None:
        text = str(error) if isinstance(error, UadctlError) else f"{type(error).__name__}: {error}"
        unit.remove_attempts()
        unit.write_error("".join(traceback.format_exception(error)))
        unit.write("metrics", {"success": False, "error": text})
        unit.set_status("failed")
        self._record["failed"].append(
            {"category": unit.category, "label": unit.label, "seed": unit.seed, "error": text}
        )
        self._record["failed"].sort(key=lambda one: self._order[one["category"], one["label"], one["seed"]])
        self._write("started")
        seed = f" / seed {unit.seed}" if len(self._record["seeds"]) > 1 else ""
        self._progress.fail(f"{unit.category} / {unit.label}{seed}: {text}", error)

    def _write(self, status: RunStatus) -> None:
        engines = [*self._engines, self._engine.facts()]
        # In the plan's order, not in that of their ends, which depends on who works on what.
        models = self._record["models"]
        self._record["models"] = {
            label: models[label] for label in dict.fromkeys([*self._labels, *models]) if label in models
        }
        told = determinism(self._run.spec, self._record["models"], self._record["warnings"], engines)
        self._run.write("run", {**self._record, "engines": engines, "determinism": told, "status": status})


def _tidy(units: Sequence[UnitFolder]) -> None:
    """Remove what unfinished tries have left, also those of workers that were believed dead and went on."""
    for unit in units:
        unit.remove_attempts()


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
