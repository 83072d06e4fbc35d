"""A run folder: created, written piece by piece, found again, read back.

    runs/<UTC stamp>-<name>-<hash8>/
      spec.toml  run.json  metrics.json  gate.json  timing.json
      units/<category>/<label>/<seed>/
        status  metrics.json  scores.csv  thresholds.json  timing.json  maps/  overlays/  model/
        thresholds.1.json  thresholds.2.json  ...  parity.json  anomalib.json
        robustness.json  replicates.json
        attempt-<hex>/  log.txt  (while it is worked on)

Nothing inside depends on where the folder lies.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shlex
import shutil
import sys
import time
import uuid
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence, Set
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from msgspec import Struct

from uadctl.abrupt import at_abrupt_end
from uadctl.atomic import (
    PART,
    flush_folders,
    hidden_folder,
    maker,
    move,
    name_folder,
    remove_leftovers,
    write_bytes,
    write_json,
)
from uadctl.errors import DiskError, RunError
from uadctl.locks import take_lock
from uadctl.runs.sealed import THRESHOLDS_KEYS, check_seal, seal
from uadctl.spec import RunSpec, read_spec, spec_hash, to_toml
from uadctl.untrusted import Hostile, csv_line, parse_json, read_bounded

Status = Literal["started", "done", "failed"]
RunStatus = Literal["started", "done", "failed", "interrupted"]
UnitDocument = Literal["metrics", "thresholds", "timing", "parity", "anomalib", "robustness", "replicates"]
SCHEMA = 1

# A process that only asks whether a folder is in use holds its lock for so long at most.
_GLANCE_S = 0.3

# How the names of folders begin that hold the results of one try at a unit.
_ATTEMPT = "attempt-"
# A worker that is believed dead may write into a folder while it is removed.
_TRIES = 5

# Network drives keep what they know of a folder for some seconds.
_SHARED_S = 10.0

# More units are not listed one by one where one is to be chosen.
_LISTED = 20

SCORE_COLUMNS = ("path", "split", "label", "defect", "score", "threshold", "verdict", "status", "reason", "map")


class Document(Struct, kw_only=True):
    """A JSON file of a run folder.

    schema: version of this form; another number is another form.
    """

    schema: Literal[1]


@dataclass(frozen=True, slots=True)
class UnitFolder:
    """One unit of work: a category, a model's label, a seed."""

    path: Path
    category: str
    label: str
    seed: int

    def __str__(self) -> str:
        return f"{self.category} / {self.label} / seed {self.seed}"

    @property
    def model(self) -> Path:
        return self.path / "model"

    @property
    def thresholds(self) -> Path:
        return self.path / "thresholds.json"

    @property
    def status(self) -> Status | None:
        """What the status file says; None before the unit was begun."""
        file = self.path / "status"
        try:
            text = read_bounded(file, most=64).decode("ascii").strip() if file.is_file() else None
        except ValueError:  # of nobody's making, or of more bytes than any of ours
            return None
        return text if text in ("started", "done", "failed") else None  # type: ignore[return-value]

    @property
    def log(self) -> Path:
        """What the unit's workers print; there only while it is worked on, in another process."""
        return self.path / "log.txt"

    def clear(self) -> None:
        """Forget an earlier try at this unit, so that nothing of it is taken for a result of the next."""
        for left in range(_TRIES, 0, -1):
            if not self.path.exists():
                return
            try:
                shutil.rmtree(self.path)
            except OSError as error:
                if left == 1 or error.errno not in (errno.ENOTEMPTY, errno.ENOENT):
                    raise
                time.sleep(0.05)

    def attempt(self) -> UnitFolder:
        """A place inside of this folder for the results of one try, until `adopt` makes them the unit's.

        Nobody else ever gets its name. So a worker that is believed dead and goes on writes nothing into another's
        results; and no node of a cluster can remember that a folder of that name was not there.
        """
        return replace(self, path=self.path / f"{_ATTEMPT}{uuid.uuid4().hex}")

    def adopt(self, attempt: str) -> None:
        """Make the results of one try those of the unit, and remove what others have left. The names are not flushed.

        attempt: the name of its folder. Raises DiskError; RunError if it is not there.
        """
        folder = self.path / attempt
        if not appears(folder):
            raise RunError(
                f"{folder}: not there, though a worker wrote its results into it",
                help="[run] dir must lie on storage that all nodes share; see docs/scaling.md.",
            )
        for entry in sorted(folder.iterdir()):
            move(entry, self.path / entry.name)
        self.remove_attempts()

    def remove_attempts(self) -> None:
        """Remove the results of tries that came to nothing, as far as that is possible while somebody still writes."""
        for folder in self.path.glob(f"{_ATTEMPT}*"):
            shutil.rmtree(folder, ignore_errors=True)

    def of_unit(self, filename: str) -> str:
        """The name that a file of an attempt is to have in the unit; of any other file its own."""
        path = Path(filename).absolute()
        if not path.is_relative_to(self.path.absolute()):
            return filename
        first, *rest = path.relative_to(self.path.absolute()).parts or ("",)
        return str(self.path.joinpath(*rest)) if first.startswith(_ATTEMPT) else filename

    def set_status(self, status: Status) -> None:
        write_bytes(self.path / "status", f"{status}\n".encode("ascii"))

    def map_path(self, stem: str) -> Path:
        """The float map of an image; `stem` from `output_stems`."""
        return self.path / "maps" / f"{stem}.tiff"

    def overlay_path(self, stem: str) -> Path:
        """The picture of an image with its map; `stem` from `output_stems`."""
        return self.path / "overlays" / f"{stem}.png"

    def write_scores(self, rows: Iterable[Sequence[object]]) -> None:
        """scores.csv: one row an image, in the order of `SCORE_COLUMNS`; None is an empty field."""
        text = "".join(csv_line(row) for row in (SCORE_COLUMNS, *rows))
        write_bytes(self.path / "scores.csv", text.encode("utf-8", "backslashreplace"))

    def has(self, name: UnitDocument) -> bool:
        """Whether the JSON document `name` was written."""
        return (self.path / f"{name}.json").is_file()

    def write(self, name: UnitDocument, value: dict[str, Any]) -> None:
        document = {"schema": SCHEMA, **value}
        if name == "thresholds":
            write_bytes(self.thresholds, seal(document))
        else:
            write_json(self.path / f"{name}.json", document)

    def read(self, name: UnitDocument) -> dict[str, Any]:
        """The JSON document `name`. Raises RunError if it is absent or damaged."""
        return read_document(self.path / f"{name}.json", keys=THRESHOLDS_KEYS if name == "thresholds" else None)

    def replace_thresholds(self, value: dict[str, Any]) -> Path:
        """A new thresholds.json; the old one is kept beside it, and its path returned.

        thresholds.1.json is the oldest, the one that came with the model; the numbers count up, and no file is ever
        overwritten. The new file takes the old one's place at once and only when the old one is safe: both names are
        never those of halves, whenever the process ends.
        """
        kept = self._keep_thresholds(self.thresholds.read_bytes())
        flush_folders(self.path)  # else a power cut could keep the second name only
        self.write("thresholds", value)
        return kept

    def _keep_thresholds(self, old: bytes) -> Path:
        """A copy of thresholds.json under the next number."""
        numbers = [path.name.split(".")[1] for path in self.path.glob("thresholds.*.json")]
        last = max((int(n) for n in numbers if n.isdecimal()), default=0)
        newest = self.path / f"thresholds.{last}.json"
        if last and newest.read_bytes() == old:  # a process that was killed before it could write the new ones
            return newest
        while True:
            last += 1
            kept = self.path / f"thresholds.{last}.json"
            try:
                write_bytes(kept, old, anew=True)
            except FileExistsError:
                continue
            return kept

    def write_error(self, text: str) -> None:
        """error.txt: the traceback of a unit that failed."""
        write_bytes(self.path / "error.txt", text.encode("utf-8", "backslashreplace"))


def appears(path: Path) -> bool:
    """Whether something is there, or is soon: what is new takes a while to be seen by other machines of its storage."""
    until = time.monotonic() + _SHARED_S
    while not path.exists():
        if time.monotonic() > until:
            return False
        time.sleep(0.1)
    return True


def output_stems(relatives: Sequence[str]) -> list[str]:
    """For each image, the path below maps/ and overlays/ without its suffix.

    It is the image's own path below the category; images that differ in their suffix only keep it, so that none
    overwrites another: a.png → a, but a.png and a.jpg → a.png, a.jpg.
    """
    bare = [str(PurePosixPath(relative).with_suffix("")) for relative in relatives]
    times = Counter(bare)
    wished = [stem if times[stem] == 1 else relative for stem, relative in zip(bare, relatives, strict=True)]
    taken: set[str] = set()
    stems = []
    for wish in wished:
        stem, number = wish, 1
        while stem in taken:
            number += 1
            stem = f"{wish}-{number}"
        taken.add(stem)
        stems.append(stem)
    return stems


class RunFolder:
    """A run on disk.

    path: where it is; of one that is being made, a hidden folder until it appears.
    """

    def __init__(self, path: Path, *, wanted: Path | None = None) -> None:
        self.path = path
        self._wanted = wanted

    @classmethod
    def create(cls, spec: RunSpec) -> RunFolder:
        """A new folder below `[run] dir` with the filled spec in it, hidden until it appears. To be locked.

        What processes that were killed here have left of runs of this spec is removed. Raises DiskError; RunError if
        it cannot be made for another reason.
        """
        stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
        digest = spec_hash(spec)
        parent = Path(spec.run.dir)
        wanted = parent / f"{stamp}-{spec.run.name}-{digest}"
        try:
            run = cls(hidden_folder(wanted, digest), wanted=wanted)
            try:
                _remove_abandoned(parent, digest)
                with run._by_its_name():
                    write_bytes(run.path / "spec.toml", to_toml(spec).encode())
            except BaseException:
                shutil.rmtree(run.path, ignore_errors=True)
                raise
        except DiskError:
            raise
        except OSError as error:
            raise RunError(f"{error.filename or parent}: the run folder cannot be made: {error.strerror}") from error
        return run

    def appear(self) -> None:
        """Give a folder that is being made, and has a run.json by now, its name: nobody sees a run that is not whole.

        Its lock stays. Nothing happens to one that has its name. Raises DiskError; RunError if it cannot have it.
        """
        if self._wanted is None:
            return
        path, again = self._wanted, 1
        while True:
            try:
                name_folder(self.path, path)
                break
            except FileExistsError:  # the same spec twice within a second
                again += 1
                path = self._wanted.with_name(f"{self._wanted.name}-{again}")
            except DiskError:
                raise
            except OSError as error:
                raise RunError(f"{path}: the run folder cannot be made: {error.strerror}") from error
        self.path, self._wanted = path, None

    @contextlib.contextmanager
    def _by_its_name(self) -> Iterator[None]:
        """What cannot be written into a folder that is being made is told of the folder that was to be."""
        try:
            yield
        except DiskError as error:
            if self._wanted is None:
                raise
            raise error.told(str(self._wanted / Path(error.filename).name)) from error

    @classmethod
    def open(cls, path: Path) -> RunFolder:
        """An existing run folder. RunError if `path` is none."""
        if not (path / "spec.toml").is_file() or not (path / "run.json").is_file():
            raise RunError(
                f"{path}: not a run folder: spec.toml and run.json are expected in it",
                help="uadctl fit and uadctl bench make run folders; they print where.",
            )
        return cls(path)

    @classmethod
    def unfinished(cls, path: Path, spec: RunSpec, *, done_too: bool = False) -> RunFolder:
        """The run folder `path` to go on with as `spec`. RunError if it is done, or if the spec is another by now.

        done_too: one that is done will do, for what comes after its units.
        """
        run = cls.open(path)
        record = run.read("run")
        if record.get("status") == "done" and not done_too:
            raise RunError(f"{path}: nothing to resume: this run is done")
        if record.get("verb") != "bench":
            raise RunError(f"{path}: not a bench, only those can be resumed", help=f"Fit again with: uadctl fit {path}")
        if record.get("hash") != spec_hash(run.spec):
            raise RunError(
                f"{path}: cannot be resumed: it was begun by another version of uadctl, whose specs had other keys "
                f"(hash {record.get('hash')}, now {spec_hash(run.spec)})",
                help="Start a new run; what this one has finished can still be scored with and reported.",
            )
        if spec_hash(run.spec) != spec_hash(spec):
            raise RunError(
                f"{path}: cannot be resumed with other settings: its hash is {spec_hash(run.spec)}, "
                f"that of the settings asked for is {spec_hash(spec)}",
                help="Resume without overriding the spec, or start a new run.",
            )
        return run

    @contextlib.contextmanager
    def locked(self, *, meanwhile: str = "What is finished in it can be scored with meanwhile.") -> Iterator[None]:
        """Keep other processes from working on this folder. RunError if one does already.

        meanwhile: what who is refused can do instead.
        A folder that has not appeared by the end is removed. The lock is the system's, on the folder itself: it ends
        with the process, however that ends. Where the system has none (Windows, some network drives), nothing is
        locked. If the process ends abruptly within, the record says that the run was interrupted.
        """
        with self._lock(shared=False, wait=_GLANCE_S) as free:
            if not free:
                raise RunError(
                    f"{self.path}: in use by another process",
                    help=f"Wait for its end, or end it. {meanwhile}",
                )
            try:
                with at_abrupt_end(self._note_interruption):
                    yield
            finally:
                if self._wanted is not None:
                    shutil.rmtree(self.path, ignore_errors=True)

    def locked_for(self, page: Path) -> contextlib.AbstractContextManager[None]:
        """`locked` where a page lies in this folder; elsewhere it disturbs nobody."""
        if not page.resolve().is_relative_to(self.path.resolve()):
            return contextlib.nullcontext()
        return self.locked(meanwhile="Or have the page elsewhere: --out DIR")

    def remove_leftovers(self) -> None:
        """Remove the temporary files of killed processes. Only while it is locked: others' are in use."""
        remove_leftovers(self.path)

    def in_use(self) -> bool:
        """Whether a process works on this folder now."""
        with self._lock(shared=True, wait=0) as free:
            return not free

    @contextlib.contextmanager
    def _lock(self, *, shared: bool, wait: float) -> Iterator[bool]:
        """shared: with others that only look. wait: so many seconds."""
        if sys.platform == "win32":  # no folder can be opened there
            yield True
            return
        handle = os.open(self.path, os.O_RDONLY)
        try:
            end = time.monotonic() + wait
            while not (free := take_lock(handle, shared=shared)) and time.monotonic() < end:
                time.sleep(0.02)
            yield free
        finally:
            os.close(handle)

    def _note_interruption(self) -> None:
        record = self.read("run")
        if record["status"] == "started":
            self.write("run", {**record, "status": "interrupted"})

    @property
    def spec(self) -> RunSpec:
        return read_spec(str(self.path / "spec.toml")).spec

    def unit(self, category: str, label: str, seed: int) -> UnitFolder:
        path = self.path / "units" / category / label / str(seed)
        # What a link leads to is never cleared for a new try, nor written to.
        for folder in (path.parents[2], path.parents[1], path.parent, path):
            if folder.is_symlink():
                raise RunError(
                    f"{folder}: is a link; the units of a run lie in its own folder", help="Remove the link."
                )
        return UnitFolder(path, category, label, seed)

    def units(self) -> list[UnitFolder]:
        """Every unit begun so far, sorted by category, label and seed."""
        found = [
            self.unit(folder.parts[-3], folder.parts[-2], int(folder.parts[-1]))
            for folder in self.path.glob("units/*/*/*/")
            if folder.parts[-1].isdecimal()
        ]
        return sorted(found, key=lambda u: (u.category, u.label, u.seed))

    def choose(self, *, category: str | None = None, label: str | None = None, seed: int | None = None) -> UnitFolder:
        """The one finished unit that fits. RunError, listing the units, if none or several do."""
        fitting = self.finished(category=category, label=label, seed=seed)
        if len(fitting) == 1:
            return fitting[0]
        raise RunError(f"{self.path}: this run has {len(fitting)} finished units; choose one", help=_listing(fitting))

    def finished(
        self, *, category: str | None = None, label: str | None = None, seed: int | None = None
    ) -> list[UnitFolder]:
        """The finished units that fit, at least one. RunError, listing those there are, if none does."""
        finished = [unit for unit in self.units() if unit.status == "done"]
        if not finished:
            raise RunError(f"{self.path}: no unit of this run is finished")
        fitting = [
            unit
            for unit in finished
            if (category is None or unit.category == category)
            and (label is None or unit.label == label)
            and (seed is None or unit.seed == seed)
        ]
        if not fitting:
            raise RunError(
                f"{self.path}: this run has {len(finished)} finished units; none of them is the one asked for",
                help=_listing(finished),
            )
        return fitting

    def write(self, name: Literal["run", "metrics", "gate", "timing"], value: dict[str, Any]) -> None:
        with self._by_its_name():
            write_json(self.path / f"{name}.json", {"schema": SCHEMA, **value})

    def read(self, name: Literal["run", "metrics", "gate", "timing"]) -> dict[str, Any]:
        """The JSON document `name`. Raises RunError if it is absent or damaged."""
        return read_document(self.path / f"{name}.json")


def _listing(units: Sequence[UnitFolder]) -> str:
    """The options that choose each unit, a line each; of many units, what there is to choose from."""
    if len(units) > _LISTED:
        of_each = {
            "--category": dict.fromkeys(shlex.quote(u.category) for u in units),
            "--label": dict.fromkeys(shlex.quote(u.label) for u in units),
            "--seed": dict.fromkeys(str(u.seed) for u in units),
        }
        return "\n".join(f"{option}, {_some(list(values))}" for option, values in of_each.items() if len(values) > 1)
    return "\n".join(
        f"--category {shlex.quote(u.category)} --label {shlex.quote(u.label)} --seed {u.seed}" for u in units
    )


def _some(values: Sequence[str]) -> str:
    more = f" and {len(values) - _LISTED} more" if len(values) > _LISTED else ""
    return f"one of {len(values)}: {', '.join(values[:_LISTED])}{more}"


def _remove_abandoned(parent: Path, digest: str) -> None:
    """Remove hidden folders whose processes were killed before the run appeared."""
    if sys.platform == "win32":  # no lock tells whether they are in use, and asking for a process there ends it
        return
    for hidden in sorted(parent.glob(f".*{PART}")):
        number = maker(hidden, digest)
        if number is None or _lives(number):
            continue
        with contextlib.suppress(OSError), RunFolder(hidden)._lock(shared=False, wait=0) as free:
            if free:
                shutil.rmtree(hidden, ignore_errors=True)


def _lives(process: int) -> bool:
    try:
        os.kill(process, 0)
    except OSError as error:
        return error.errno != errno.ESRCH  # somebody else's lives too
    return True


def find_runs(spec: RunSpec) -> list[RunFolder]:
    """Runs of this very spec below its `[run] dir`, newest first."""
    parent, digest = Path(spec.run.dir), spec_hash(spec)
    found = [path for path in parent.glob("*/run.json") if f"-{digest}" in path.parent.name]
    return [RunFolder(path.parent) for path in sorted(found, key=lambda p: p.parent.name, reverse=True)]


def newest(spec: RunSpec, *, finished: bool) -> RunFolder:
    """The newest run of this spec that is done (`finished`) or that is not. RunError if there is none."""
    for run in find_runs(spec):
        record = run.read("run")
        done = record.get("status") == "done"
        if done if finished else not done and record.get("verb") == "bench" and not run.in_use():
            return run
    if finished:
        raise RunError(
            f"no finished run of this spec (hash {spec_hash(spec)}) in {spec.run.dir}",
            help="Make one with: uadctl fit SPEC",
        )
    raise RunError(f"nothing to resume: no unfinished run of this spec (hash {spec_hash(spec)}) in {spec.run.dir}")


def read_document(file: Path, *, keys: Set[str] | None = None) -> dict[str, Any]:
    """A JSON document with our schema number. RunError if it is absent, damaged or of another version.

    keys: all that a sealed document may hold; its seal is checked, and left out. None: it has no seal.
    """
    try:
        data = read_bounded(file)
        value = parse_json(data)
    except OSError as error:
        raise RunError(f"{file}: cannot be read: {error.strerror}") from error
    except Hostile as error:
        raise RunError(f"{file}: damaged: {error}") from error
    except ValueError as error:
        raise RunError(f"{file}: damaged: not JSON: {error}") from error
    if keys is not None and isinstance(value, dict):
        value = check_seal(file, data, value, keys)
    del data
    if not isinstance(value, dict) or value.get("schema") != SCHEMA:
        raise RunError(f"{file}: written by another version of uadctl: schema {SCHEMA} is expected")
    return value
