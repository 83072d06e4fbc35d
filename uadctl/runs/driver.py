"""Carry a run through its units: status files, failures that stay in their cell, and the record of it all."""

from __future__ import annotations

import contextlib
import traceback
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from uadctl.atomic import flush_folders
from uadctl.errors import DiskError, UadctlError
from uadctl.progress import Progress
from uadctl.runs import provenance
from uadctl.runs.determinism import determinism
from uadctl.runs.folder import RunFolder, RunStatus, UnitFolder
from uadctl.spec import spec_hash


class Driver:
    """Keeps run.json true while the units of a run are worked on. A new run folder appears with it.

    notes: what the user should know of how the spec was read; kept in the record.
    progress: where warnings and failures are said.
    """

    def __init__(
        self,
        run: RunFolder,
        *,
        verb: str,
        progress: Progress,
        notes: Sequence[str] = (),
        previous: dict[str, Any] | None = None,
    ) -> None:
        self._run = run
        self._progress = progress
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
        self._record["models"].setdefault(unit.label, {})[unit.category] = model

    def work(self, units: Sequence[UnitFolder], do: Callable[[UnitFolder], None]) -> list[UnitFolder]:
        """Call `do` for every unit that is not done yet. Returns those that failed.

        A failure is written as the unit's metrics.json and said; the others go on. Raises DiskError, which is none of a
        unit.
        """
        failed = []
        for unit in units:
            if unit.status == "done":
                continue
            unit.clear()
            unit.set_status("started")
            try:
                do(unit)
            except DiskError:
                raise
            except Exception as error:  # noqa: BLE001 - whatever ends a cell must not end the others
                self._fail(unit, error)
                failed.append(unit)
            else:
                # The record first: a unit that is done is never without what it was made of, power cuts included.
                self._write("started")
                flush_folders(unit.path, within=self._run.path)
                unit.set_status("done")
        return failed

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
        unit.write_error("".join(traceback.format_exception(error)))
        unit.write("metrics", {"success": False, "error": text})
        unit.set_status("failed")
        self._record["failed"].append(
            {"category": unit.category, "label": unit.label, "seed": unit.seed, "error": text}
        )
        self._write("started")
        seed = f" / seed {unit.seed}" if len(self._record["seeds"]) > 1 else ""
        self._progress.fail(f"{unit.category} / {unit.label}{seed}: {text}", error)

    def _write(self, status: RunStatus) -> None:
        told = determinism(self._run.spec, self._record["models"], self._record["warnings"])
        self._run.write("run", {**self._record, "determinism": told, "status": status})


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
