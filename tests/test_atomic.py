"""What `uadctl.atomic` promises of single files and folders, and run folders on it; tests/test_crash.py has commands."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import made_runs
import pytest

from uadctl.atomic import Step, flush_folders, name_folder, replacing, watched, write_bytes, write_json
from uadctl.cli.complete import complete_run
from uadctl.engines import Here
from uadctl.errors import DataError, DiskError, RunError
from uadctl.progress import Progress, Silent
from uadctl.report import save_run_report
from uadctl.report.html import write_page
from uadctl.report.junit import write_junit
from uadctl.report.markdown import write_markdown
from uadctl.report.reading import read_run
from uadctl.report.tables import write_table
from uadctl.runs.driver import Attempt, Driver
from uadctl.runs.folder import RunFolder, UnitFolder, find_runs
from uadctl.spec import Overrides, RunSpec, read_spec

FULL = "No space left on device"


def spec(folder: Path) -> RunSpec:
    (folder / "data").mkdir(exist_ok=True)
    overrides = Overrides(
        dataset="mvtec", root=str(folder / "data"), model="vision_padim", run_dir=str(folder / "runs")
    )
    return read_spec(None, overrides).spec


@contextmanager
def full_at(step: Step, name: str) -> Iterator[None]:
    """The disk is full when a file of that name comes to a step."""

    def watch(reached: Step, path: Path) -> None:
        if (reached, path.name) == (step, name):
            raise OSError(errno.ENOSPC, FULL)

    with watched(watch):
        yield


# ---- files


def test_every_step_of_a_file_is_told_with_the_name_it_will_have(tmp_path: Path) -> None:
    seen: list[tuple[str, str, bool]] = []
    path = tmp_path / "new" / "a.json"
    with watched(lambda step, path: seen.append((step, str(path.relative_to(tmp_path)), path.exists()))):
        write_json(path, {"a": 1})
    write_json(path, {"a": 2})  # nobody watches any more
    assert seen == [(step, "new/a.json", step == "replaced") for step in ("made", "written", "flushed", "replaced")]


class Theirs(Exception):
    """What another library raises."""


OURS: list[tuple[Exception, int]] = [
    (OSError(errno.ENOSPC, FULL), errno.ENOSPC),
    (OSError(errno.EDQUOT, "Disk quota exceeded"), errno.EDQUOT),
    (OSError(errno.EFBIG, "File too large"), errno.EFBIG),
    (OSError(errno.EROFS, "Read-only file system"), errno.EROFS),
    (OSError(errno.EIO, "Input/output error"), errno.EIO),
    (OSError("1000 requested and 20 written"), errno.EIO),
    (Theirs(f"I/O error: {FULL} (os error 28)"), errno.ENOSPC),
    (Theirs("writing failed: [Errno 27] File too large"), errno.EFBIG),
]


@pytest.mark.parametrize(("raised", "number"), OURS)
def test_an_error_of_the_disk_names_the_file_as_it_was_to_be_called(
    tmp_path: Path, raised: Exception, number: int
) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")

    def half() -> None:
        with replacing(path) as temporary:
            temporary.write_bytes(b"half")
            raise raised

    with pytest.raises(DiskError) as caught:
        half()
    error = caught.value
    assert str(error) == f"{path}: cannot be written: {os.strerror(number)}"
    assert (error.errno, error.strerror, error.filename) == (number, os.strerror(number), str(path))
    assert (error.exit_code, error.__cause__) == (1, raised)
    assert [(file.name, file.read_bytes()) for file in tmp_path.iterdir()] == [("a.bin", b"old")]


NOT_OURS: list[Exception] = [
    OSError(errno.ENOSPC, FULL, "elsewhere.png"),
    OSError(errno.EACCES, "Permission denied"),
    OSError("5 requested"),
    ValueError("28 is no size"),
    Theirs("page 28 (os error 2)"),
    DataError("a.png: cannot be read: [Errno 5] Input/output error"),
    DiskError("another.tiff", errno.ENOSPC),
]


@pytest.mark.parametrize("raised", NOT_OURS)
def test_other_errors_stay_what_they_are(tmp_path: Path, raised: Exception) -> None:
    with pytest.raises(type(raised)) as caught, replacing(tmp_path / "a.bin"):
        raise raised
    assert caught.value is raised
    assert list(tmp_path.iterdir()) == []


def test_a_copy_that_does_not_fit_is_the_copys_fault(tmp_path: Path) -> None:
    """shutil names both files, the source first."""
    with pytest.raises(DiskError, match=r"copy\.tiff: cannot be written"), replacing(tmp_path / "copy.tiff") as part:
        raise OSError(errno.ENOSPC, FULL, "source.tiff", None, str(part))


def test_a_disk_that_takes_no_new_file_names_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: Any, **more: Any) -> Any:
        raise OSError(errno.EROFS, "Read-only file system", str(tmp_path / ".a.json.x.part"))

    with monkeypatch.context() as patch:
        patch.setattr("tempfile.mkstemp", full)
        with pytest.raises(DiskError) as caught:
            write_bytes(tmp_path / "a.json", b"1")
    assert str(caught.value) == f"{tmp_path / 'a.json'}: cannot be written: Read-only file system"


def test_what_cannot_be_removed_does_not_hide_why_it_was_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: Path, missing_ok: bool = False) -> None:
        raise OSError(errno.EROFS, "Read-only file system", str(self))

    monkeypatch.setattr(Path, "unlink", refuse)
    with pytest.raises(DiskError, match=r"a\.json: cannot be written: No space left"), full_at("written", "a.json"):
        write_bytes(tmp_path / "a.json", b"1")


@pytest.mark.parametrize("links", [True, False])
def test_a_file_that_must_be_new_replaces_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool) -> None:
    def unknown(*args: Any) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    if not links:  # as on FAT
        monkeypatch.setattr(os, "link", unknown)
    path = tmp_path / "a.json"
    write_bytes(path, b"first", anew=True)
    with pytest.raises(FileExistsError):
        write_bytes(path, b"second", anew=True)
    assert [(file.name, file.read_bytes()) for file in tmp_path.iterdir()] == [("a.json", b"first")]
    assert path.stat().st_nlink == 1


def test_pages_and_tables_on_a_full_disk_are_no_mistake_of_the_user(tmp_path: Path) -> None:
    """Exit code 1: other reasons why they cannot be written, such as a folder in their place, are 2."""
    run = read_run(RunFolder.open(made_runs.make_run(tmp_path / "run")))
    writers: list[Callable[[Path], object]] = [
        lambda path: write_page(path, "page"),
        lambda path: save_run_report(path, {"a": 1}),
        lambda path: write_table(path, [run]),
        lambda path: write_markdown(path, run),
        lambda path: write_junit(path, {"results": {}, "means": {}}),
    ]
    for number, write in enumerate(writers):
        path = tmp_path / f"{number}"
        with full_at("flushed", path.name), pytest.raises(DiskError) as caught:
            write(path)
        assert caught.value.message == f"{path}: cannot be written: {FULL}"
    with pytest.raises(RunError, match="cannot be written"):
        write_page(tmp_path, "page")


# ---- run folders


@dataclass(frozen=True)
class Tried:
    """Units done by a function that is given the folder of an attempt."""

    units: list[UnitFolder]
    do: Callable[[UnitFolder], object]
    threads: int = 1

    def open(self) -> Callable[[int, Progress], Attempt]:
        def work(number: int, progress: Progress) -> Attempt:
            attempt = self.units[number].attempt()
            self.do(attempt)
            return Attempt(attempt.path.name, {})

        return work


def test_a_run_folder_appears_whole_and_keeps_its_lock(tmp_path: Path) -> None:
    run = RunFolder.create(spec(tmp_path))
    assert [path.name[0] for path in (tmp_path / "runs").iterdir()] == ["."]
    with run.locked():
        Driver(run, verb="bench", progress=Silent(), engine=Here())
        (seen,) = (tmp_path / "runs").iterdir()
        assert seen == run.path
        assert seen.name.endswith(run.spec.run.name + "-" + run.read("run")["hash"])
        assert sorted(path.name for path in seen.iterdir()) == ["run.json", "spec.toml"]
        assert RunFolder(seen).in_use()
        with pytest.raises(RunError, match="in use by another process"), RunFolder(seen).locked():
            pass
    assert not RunFolder(seen).in_use()


def test_two_runs_of_one_second_have_two_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import uadctl.runs.folder as module

    class Stopped(module.datetime):  # type: ignore[misc, name-defined]
        @classmethod
        def now(cls, tz: Any = None) -> Any:
            return cls(2026, 1, 1, tzinfo=tz)

    monkeypatch.setattr(module, "datetime", Stopped)
    names = []
    for _ in range(3):
        run = RunFolder.create(spec(tmp_path))
        Driver(run, verb="bench", progress=Silent(), engine=Here())
        names.append(run.path.name)
    assert names == [names[0], f"{names[0]}-2", f"{names[0]}-3"]


def test_a_name_is_given_to_one_folder_only(tmp_path: Path) -> None:
    (tmp_path / "hidden").mkdir()
    (tmp_path / "taken").mkdir()  # empty: a rename alone would replace it
    with pytest.raises(FileExistsError):
        name_folder(tmp_path / "hidden", tmp_path / "taken")
    assert (tmp_path / "hidden").is_dir()


def test_a_run_that_is_being_made_is_no_completion(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    made = [made_runs.make_run(tmp_path / "runs" / name).name for name in ("run", ".0123abcd.1.x.part")]
    assert complete_run("ru") == [f"runs/{made[0]}"]


def test_a_run_that_never_appeared_is_removed(tmp_path: Path) -> None:
    run = RunFolder.create(spec(tmp_path))
    with pytest.raises(DiskError) as caught, full_at("flushed", "run.json"), run.locked():
        Driver(run, verb="bench", progress=Silent(), engine=Here())
    assert list((tmp_path / "runs").iterdir()) == []
    assert "/." not in caught.value.message
    assert caught.value.message.endswith(f"/run.json: cannot be written: {FULL}")


@pytest.mark.parametrize("name", ["spec.toml", None])
def test_a_run_that_cannot_be_begun_leaves_nothing(tmp_path: Path, name: str | None) -> None:
    def watch(step: Step, path: Path) -> None:
        if step == "made" and (name is None or path.name == name):
            raise OSError(errno.ENOSPC, FULL)

    with watched(watch), pytest.raises(DiskError) as caught:
        RunFolder.create(spec(tmp_path))
    assert list((tmp_path / "runs").iterdir()) == []
    assert "/." not in caught.value.message


def test_a_run_folder_in_a_file_is_the_users_to_mend(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("")
    with pytest.raises(RunError, match=r"runs: the run folder cannot be made: (File exists|Not a directory)$"):
        RunFolder.create(spec(tmp_path))


def test_what_killed_processes_began_is_removed_and_what_living_ones_began_is_not(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    first = RunFolder.create(spec(tmp_path))  # of this process, which lives
    digest = first.path.name.split(".")[1]
    dead = os.fork()
    if dead == 0:
        os._exit(0)
    os.waitpid(dead, 0)
    names = [f".{digest}.{dead}.a.part", f".{digest}.{dead}.b.part", f".00000000.{dead}.a.part", f".{digest}.x.part"]
    for name in names:
        write_json(runs / name / "run.json", {"schema": 1})
    assert find_runs(spec(tmp_path)) == []  # hidden ones are none
    with RunFolder(runs / names[1]).locked():  # another machine's process may have this number
        second = RunFolder.create(spec(tmp_path))
    left = {path.name for path in runs.iterdir()}
    assert left == {first.path.name, second.path.name, *names[1:]}


def test_leftovers_of_a_run_are_removed_and_nothing_else(tmp_path: Path) -> None:
    kept = ("units/a/b/0/status", "a.part", ".a.json", "units/.part/x")
    for name in (*kept, ".a.json.x.part", "units/a/b/0/maps/.m.tiff.y.part"):
        write_bytes(tmp_path / name, b"1")
    RunFolder(tmp_path).remove_leftovers()
    found = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file())
    assert found == sorted(kept)


def test_a_unit_is_done_only_when_the_disk_knows_all_its_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = RunFolder.create(spec(tmp_path))
    driver = Driver(run, verb="bench", progress=Silent(), engine=Here())
    unit = run.unit("tile", "padim", 0)
    events: list[str] = []
    flush = os.fsync

    def recorded(handle: int) -> None:
        place = Path(f"/proc/self/fd/{handle}").readlink()
        if place.is_dir():
            events.append(place.relative_to(run.path).as_posix())
        flush(handle)

    monkeypatch.setattr(os, "fsync", recorded)
    with watched(lambda step, path: events.append(f"{path.name} {step}")):
        driver.work(
            [unit],
            Tried([unit], lambda unit: write_bytes(unit.map_path("good/0"), b"map")),
            titles=["it"],
            take=lambda number, attempt: None,
        )
    written = max(i for i, event in enumerate(events) if event == "run.json replaced")
    is_done = max(i for i, event in enumerate(events) if event == "status made")
    places = ["units/tile/padim/0", "maps", "maps/good", "units/tile/padim", "units/tile", "units", "."]
    expected = [place if place[0] in "u." else f"units/tile/padim/0/{place}" for place in places]
    assert sorted(events[written + 1 : is_done]) == sorted(expected)
    assert events.index("0.tiff replaced") < written


def test_a_folder_that_cannot_be_flushed_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some network disks know no such thing; a broken disk is another matter."""

    def refuse(number: int) -> Callable[[int], None]:
        def fsync(handle: int) -> None:
            raise OSError(number, os.strerror(number))

        return fsync

    monkeypatch.setattr(os, "fsync", refuse(errno.EINVAL))
    flush_folders(tmp_path)
    monkeypatch.setattr(os, "fsync", refuse(errno.EIO))
    with pytest.raises(DiskError, match="cannot be written: Input/output error"):
        flush_folders(tmp_path)


def test_a_full_disk_is_no_failure_of_a_cell(tmp_path: Path) -> None:
    run = RunFolder.create(spec(tmp_path))
    progress = Silent()
    driver = Driver(run, verb="bench", progress=progress, engine=Here())
    units = [run.unit("tile", "padim", seed) for seed in (0, 1)]
    begun: list[int] = []

    def work(unit: UnitFolder) -> None:
        begun.append(unit.seed)
        unit.write("timing", {})

    with (
        full_at("written", "timing.json"),
        pytest.raises(DiskError) as caught,
        driver.interruptible(again="the same again"),
    ):
        driver.work(units, Tried(units, work), titles=["one", "two"], take=lambda number, attempt: None)
    assert (begun, progress.failures) == ([0], [])
    assert caught.value.help == "When that is mended: the same again"
    assert units[0].status == "started"
    assert run.read("run")["status"] == "interrupted"


def test_a_record_that_cannot_be_written_does_not_hide_the_first_error(tmp_path: Path) -> None:
    run = RunFolder.create(spec(tmp_path))
    driver = Driver(run, verb="bench", progress=Silent(), engine=Here())
    with pytest.raises(ValueError, match="^first$"), full_at("made", "run.json"), driver.interruptible(again=""):
        raise ValueError("first")
    assert run.read("run")["status"] == "started"


def test_thresholds_are_kept_once_however_often_their_replacement_was_killed(tmp_path: Path) -> None:
    unit = UnitFolder(tmp_path / "unit", "tile", "padim", 0)
    unit.write("thresholds", {"image": 1})
    old = unit.thresholds.read_bytes()
    for _ in range(2):  # stopped between the two files
        with full_at("made", "thresholds.json"), pytest.raises(DiskError):
            unit.replace_thresholds({"image": 2})
        assert unit.thresholds.read_bytes() == old
    assert unit.replace_thresholds({"image": 2}).name == "thresholds.1.json"
    assert unit.replace_thresholds({"image": 1}).name == "thresholds.2.json"
    assert unit.replace_thresholds({"image": 3}).name == "thresholds.3.json"
    kept = {path.name: path.read_bytes() for path in unit.path.glob("thresholds.*.json")}
    assert kept["thresholds.1.json"] == kept["thresholds.3.json"] == old
    assert len(kept) == 3


def test_the_old_thresholds_are_on_the_disk_before_the_new_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unit = UnitFolder(tmp_path / "unit", "tile", "padim", 0)
    unit.write("thresholds", {"image": 1})
    events: list[str] = []
    flush = os.fsync

    def recorded(handle: int) -> None:
        events.append("flushed " + Path(f"/proc/self/fd/{handle}").readlink().name)
        flush(handle)

    monkeypatch.setattr(os, "fsync", recorded)
    with watched(lambda step, path: events.append(f"{step} {path.name}")):
        unit.replace_thresholds({"image": 2})
    kept, made = events.index("replaced thresholds.1.json"), events.index("made thresholds.json")
    assert events[kept + 1 : made] == ["flushed unit"]
