"""`bench` and `fit` give the same bytes wherever their units are worked on, and whatever becomes of the workers."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import importlib.util
import json
import os
import pickle
import shutil
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, ClassVar, Literal

import made_runs
import msgspec
import parts
import pytest
from jsonschema import Draft202012Validator

from uadctl.atomic import watched
from uadctl.bench import bench
from uadctl.cells import BenchJob
from uadctl.cli.bench import print_plan
from uadctl.engines import Here, Outcome, Unit, UnitLost
from uadctl.engines.carrying import Failure, Relay
from uadctl.errors import BackendMissing, DiskError, RunError
from uadctl.fit import fit, unit_of
from uadctl.plan import make_plan
from uadctl.progress import Progress, Silent
from uadctl.report.pairing import _settings
from uadctl.runs import sharing
from uadctl.runs.documents import document_schema
from uadctl.runs.driver import Attempt, Driver
from uadctl.runs.folder import RunFolder, UnitFolder
from uadctl.runs.sharing import Needed, Place, of_run
from uadctl.spec import Overrides, RunSpec, read_spec

SPEC = """\
[run]
name = "where"
seeds = [0, 1]
[dataset]
name = "mvtec"
root = "data"
on_error = "skip"
[preprocess]
size = 64
[metrics]
bootstrap = 20
[[model]]
name = "vision_patchcore"
[[model]]
name = "vision_padim"
params = { n_features = 20 }
"""
UNITS = [(c, m, s) for c in ("tile", "wood") for m in ("vision_patchcore", "vision_padim") for s in (0, 1)]
SCHEMA = Draft202012Validator(document_schema("run"))

needs_ray = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="needs ray: pip install 'uadctl[ray]'")
on_linux = pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="finds its child processes in /proc")
ENGINES = [
    pytest.param({"workers": 2}, id="processes"),
    pytest.param({"engine": "ray", "address": "local", "workers": 2}, id="ray", marks=needs_ray),
]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The working directory: data with broken images in them, and a spec that names them by a relative path."""
    folder = tmp_path_factory.mktemp("world")
    tile = parts.write_category(folder / "data", "tile")
    (tile / "train/good/002.png").write_bytes(b"no image")
    (tile / "test/scratch/001.png").write_bytes(b"nor this")
    wood = parts.write_category(folder / "data", "wood")
    for file in (wood / "train/good").iterdir():
        file.write_bytes(b"none of them")
    (folder / "spec.toml").write_text(SPEC, encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        yield folder


def the_spec(runs: str, **run: Any) -> RunSpec:
    """Its data are named as the user may name them in Python: relative to the working directory."""
    spec = read_spec("spec.toml", Overrides(run_dir=runs, **run)).spec
    return msgspec.structs.replace(
        spec,
        dataset=msgspec.structs.replace(spec.dataset, root="data"),
        run=msgspec.structs.replace(spec.run, dir=runs),
    )


@pytest.fixture(scope="module")
def undisturbed(world: Path) -> Path:
    """A run in this process."""
    result = bench(the_spec("here"))
    assert [(u.category, u.label, u.seed) for u in result.failed] == UNITS[4:]
    return result.run.path


@pytest.fixture
def again(world: Path, undisturbed: Path, tmp_path: Path) -> RunFolder:
    """A copy of it in which units 1, 2 and 5 are not done."""
    run = Path(shutil.copytree(undisturbed, Path("again") / tmp_path.name / undisturbed.name))
    for category, label, seed in (UNITS[1], UNITS[2], UNITS[5]):
        unit = run / "units" / category / label / str(seed)
        (unit / "status").write_text("started\n")
        (unit / "attempt-0123" / "maps").mkdir(parents=True)
        (unit / "attempt-0123" / "scores.csv").write_text("of a killed worker")
    record = document(run, "run") | {"status": "interrupted"}
    (run / "run.json").write_text(json.dumps(record), encoding="utf-8")
    return RunFolder(run)


def content(run: Path) -> dict[str, bytes]:
    """Every file that says what was found, not when or where."""
    left = ("run.json", "timing.json", "spec.toml", "error.txt")
    files = [p for p in sorted(run.rglob("*")) if p.is_file() and p.name not in left]
    assert len(files) > 40
    return {p.relative_to(run).as_posix(): p.read_bytes() for p in files}


def document(run: Path, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run / f"{name}.json").read_text(encoding="utf-8"))
    return found


def leftovers(run: Path) -> list[Path]:
    return [p for p in run.rglob("*") if p.name.startswith(("attempt-", ".")) or p.name == "log.txt"]


class Carried:
    """An engine whose job, units and results are pickled, and whose units end in reverse order.

    lose: how often a unit, by its number, is begun in vain: all its work is done, and then the result is lost. The
    worker of the last such try is believed dead, and goes on writing once the unit is over. give_up: units of which
    nothing comes at all.
    """

    name: ClassVar[Literal["local"]] = "local"
    workers: ClassVar[int] = 3

    def __init__(self, lose: dict[int, int] | None = None, give_up: tuple[int, ...] = ()) -> None:
        self.lose, self.give_up = lose or {}, give_up
        self.travelled = 0
        self.titles: list[str | None] = []
        self.ended = False
        self.late: list[Path] = []

    def facts(self) -> dict[str, Any]:
        return {"name": self.name, "workers": self.workers, "nodes": [socket.gethostname()]}

    def map(
        self,
        job: Any,
        units: Iterable[Unit[Any]],
        *,
        progress: Progress,
        begun: Callable[[int], None] | None = None,
        ordered: bool = False,
        title: str | None = None,
    ) -> Iterator[Outcome[Any]]:
        assert begun is not None
        self.titles.append(title)
        data = pickle.dumps(job)
        self.travelled = len(data)
        work = pickle.loads(data).open()
        try:
            for index, unit in reversed(list(enumerate(units))):
                assert unit.log is not None
                assert unit.log.is_absolute()
                if index in self.give_up:
                    begun(index)
                    (unit.log.parent / "attempt-of-a-dead-worker").mkdir()
                    lost = UnitLost("given up, since its worker ended 3 times: was killed", log="Killed")
                    lost.add_note("What its workers printed:\nKilled")
                    yield Outcome(index, 3, error=lost)
                    continue
                for _ in range(self.lose.get(index, 0)):
                    begun(index)
                    unit.log.write_text("printed", encoding="utf-8")
                    in_vain = work(unit.payload, Relay())
                    self.late.append(unit.log.parent / in_vain.folder / "maps")
                begun(index)
                assert unit.log.exists() == (index in self.lose)
                outcome = self._outcome(work, index, unit, progress)
                unit.log.unlink(missing_ok=True)
                yield outcome
            for folder in self.late:
                folder.mkdir(parents=True)
                (folder / "late.tiff").write_bytes(b"too late")
        finally:
            self.ended = True

    def _outcome(self, work: Any, index: int, unit: Unit[Any], progress: Progress) -> Outcome[Any]:
        relay = Relay()
        try:
            result = pickle.loads(pickle.dumps(work(pickle.loads(pickle.dumps(unit)).payload, relay)))
        except Exception as error:  # noqa: BLE001 - as engines do
            outcome: Outcome[Any] = Outcome(index, 1, error=pickle.loads(pickle.dumps(Failure.of(error))).error())
        else:
            outcome = Outcome(index, 1, result)
        for message in relay.warnings:
            progress.warn(message)
        return outcome


@pytest.fixture
def carried(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Carried]:
    def use(**how: Any) -> Carried:
        engine = Carried(**how)
        monkeypatch.setattr("uadctl.bench.choose_engine", lambda table: engine)
        monkeypatch.setattr("uadctl.fit.choose_engine", lambda table: engine)
        return engine

    return use


# ---- the same bytes


def test_the_run_to_compare_with_has_broken_images_and_failed_units(undisturbed: Path) -> None:
    table = (undisturbed / "units/tile/vision_padim/1/scores.csv").read_text(encoding="utf-8")
    assert "data/tile/test/scratch/001.png" in table
    failed = document(undisturbed, "run")["failed"]
    assert [(f["category"], f["label"], f["seed"]) for f in failed] == UNITS[4:]
    assert "ValueError: PaDiM needs at least one training image, found none" in {f["error"] for f in failed}
    assert document(undisturbed, "run")["engines"] == [{"name": "local", "workers": 1, "nodes": [socket.gethostname()]}]
    assert leftovers(undisturbed) == []


@pytest.mark.parametrize("run", ENGINES)
def test_other_processes_give_the_same_bytes(undisturbed: Path, run: dict[str, Any]) -> None:
    result = bench(the_spec("-".join(map(str, run.values())), **run))
    assert content(result.run.path) == content(undisturbed)
    assert leftovers(result.run.path) == []
    record = document(result.run.path, "run")
    assert [error.message for error in SCHEMA.iter_errors(record)] == []
    before = document(undisturbed, "run")
    for key in ("status", "hash", "data", "failed", "determinism", "resumed"):
        assert record[key] == before[key], key
    assert set(record["warnings"]) == set(before["warnings"])
    assert record["models"] == before["models"]
    (engine,) = record["engines"]
    assert (engine["name"], engine["workers"]) == (run.get("engine", "local"), 2)
    assert [(u.category, u.label, u.seed) for u in result.failed] == UNITS[4:]
    told = [(u["category"], u["label"], u["seed"]) for u in document(result.run.path, "timing")["units"]]
    assert told == UNITS[:4]


def test_all_travels_by_pickle_and_ends_in_any_order(undisturbed: Path, carried: Callable[..., Carried]) -> None:
    engine = carried()
    said = Silent()
    result = bench(the_spec("carried"), progress=said)
    assert content(result.run.path) == content(undisturbed)
    assert engine.titles == ["bench"]
    record = document(result.run.path, "run")
    before = document(undisturbed, "run")
    assert record["failed"] == before["failed"]
    assert sorted(record["warnings"]) == sorted(before["warnings"])
    assert set(said.warnings) == set(record["warnings"])
    # The spec, 17 images of two categories, and eight cells: not the images of a category once for every cell.
    assert engine.travelled < 40_000


def test_a_unit_that_was_begun_again_has_one_result(undisturbed: Path, carried: Callable[..., Carried]) -> None:
    engine = carried(lose={0: 2, 3: 1})
    result = bench(the_spec("lost"))
    assert len(engine.late) == 3
    assert content(result.run.path) == content(undisturbed)
    assert leftovers(result.run.path) == []


def test_a_unit_that_was_given_up_says_why(undisturbed: Path, carried: Callable[..., Carried]) -> None:
    carried(give_up=(1, 2))
    result = bench(the_spec("given-up"))
    assert [(u.category, u.label, u.seed) for u in result.failed] == [*UNITS[1:3], *UNITS[4:]]
    text = "given up, since its worker ended 3 times: was killed"
    for unit in result.failed[:2]:
        assert unit.read("metrics") == {"schema": 1, "success": False, "error": text}
        error = (unit.path / "error.txt").read_text(encoding="utf-8")
        assert error.endswith(f"{text}\nWhat its workers printed:\nKilled\n")
        assert sorted(p.name for p in unit.path.iterdir()) == ["error.txt", "metrics.json", "status"]
    same = {name: data for name, data in content(undisturbed).items() if "tile/vision_patchcore/0" in name}
    assert {name: content(result.run.path)[name] for name in same} == same


def test_no_engine_is_started_where_nothing_is_left(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = RunFolder(Path(shutil.copytree(finished, tmp_path / finished.name)))
    (run.path / "run.json").write_text(json.dumps(document(run.path, "run") | {"status": "interrupted"}))
    chosen = []

    def none(table: object) -> Carried:
        chosen.append(table)
        raise RunError("no cluster")

    monkeypatch.setattr("uadctl.bench.choose_engine", none)
    assert bench(run.spec, resume=run).failed == ()
    assert chosen == []
    assert (
        document(run.path, "run")["engines"] == [{"name": "local", "workers": 1, "nodes": [socket.gethostname()]}] * 2
    )
    run.units()[0].set_status("started")
    (run.path / "run.json").write_text(json.dumps(document(run.path, "run") | {"status": "interrupted"}))
    with pytest.raises(RunError, match="^no cluster$"):
        bench(run.spec, resume=run)


# ---- on in another way


@pytest.mark.parametrize("run", ENGINES)
def test_a_run_begun_here_goes_on_elsewhere(undisturbed: Path, again: RunFolder, run: dict[str, Any]) -> None:
    kept = again.path / "units/tile/vision_patchcore/0/scores.csv"
    before = kept.stat().st_mtime_ns
    result = bench(the_spec(str(again.path.parent), **run), resume=again)
    assert result.run.path == again.path
    assert content(again.path) == content(undisturbed)
    assert leftovers(again.path) == []
    assert kept.stat().st_mtime_ns == before
    engines = document(again.path, "run")["engines"]
    assert [engine["workers"] for engine in engines] == [1, 2]


def test_a_run_begun_elsewhere_and_interrupted_goes_on_here(
    undisturbed: Path, carried: Callable[..., Carried], monkeypatch: pytest.MonkeyPatch
) -> None:
    from uadctl.runs.driver import Driver

    describe, seen = Driver.describe, []

    def interrupted(self: Driver, unit: UnitFolder, **facts: Any) -> None:
        seen.append(unit)
        if len(seen) == 2:
            raise KeyboardInterrupt
        describe(self, unit, **facts)

    with monkeypatch.context() as patch:
        patch.setattr(Driver, "describe", interrupted)
        engine = carried()
        with pytest.raises(KeyboardInterrupt):
            bench(the_spec("interrupted"))
        assert engine.ended
    (path,) = Path("interrupted").iterdir()
    assert document(path, "run")["status"] == "interrupted"
    assert [unit.status for unit in RunFolder(path).units()].count("done") == 1
    monkeypatch.setattr("uadctl.bench.choose_engine", lambda table: Here())
    bench(the_spec("interrupted"), resume=RunFolder(path))
    assert content(path) == content(undisturbed)
    engines = document(path, "run")["engines"]
    assert engines == [
        {"name": "local", "workers": 3, "nodes": [socket.gethostname()]},
        {"name": "local", "workers": 1, "nodes": [socket.gethostname()]},
    ]


def test_what_was_recorded_before_engines_were_goes_on(undisturbed: Path, again: RunFolder) -> None:
    record = document(again.path, "run")
    del record["engines"]
    (again.path / "run.json").write_text(json.dumps(record), encoding="utf-8")
    bench(the_spec(str(again.path.parent)), resume=again)
    record = document(again.path, "run")
    assert record["engines"] == [{"name": "local", "workers": 1, "nodes": [socket.gethostname()]}]
    assert [error.message for error in SCHEMA.iter_errors(record)] == []


# ---- what ends


def children(process: int) -> set[int]:
    """All that descend from a process."""
    above: dict[int, int] = {}
    for status in Path("/proc").glob("[0-9]*/status"):
        with contextlib.suppress(OSError):
            lines = dict(line.split(":", 1) for line in status.read_text(errors="replace").splitlines() if ":" in line)
            above[int(status.parent.name)] = int(lines["PPid"])
    found, todo = set[int](), {process}
    while todo:
        todo = {child for child, parent in above.items() if parent in todo} - found
        found |= todo
    return found


@on_linux
def test_workers_that_are_killed_in_mid_unit_change_nothing(undisturbed: Path) -> None:
    before = children(os.getpid())
    killed: list[int] = []
    over = threading.Event()

    def kill_all() -> None:
        while not over.is_set():
            if list(Path("killed").glob("*/units/*/*/*/attempt-*/model")):
                for worker in sorted(children(os.getpid()) - before):
                    os.kill(worker, signal.SIGKILL)
                    killed.append(worker)
                return
            time.sleep(0.001)

    killer = threading.Thread(target=kill_all)
    killer.start()
    said = Silent()
    try:
        result = bench(the_spec("killed", workers=2), progress=said)
    finally:
        over.set()
        killer.join()
    assert 1 <= len(killed) <= 2
    assert content(result.run.path) == content(undisturbed)
    assert leftovers(result.run.path) == []
    told = [message for message in said.warnings if message.endswith("; it is begun again (2 of 3)")]
    assert 1 <= len(told) <= len(killed)
    assert set(told) <= set(document(result.run.path, "run")["warnings"])


def test_a_full_disk_ends_all_and_is_told_by_the_final_name(undisturbed: Path, carried: Callable[..., Carried]) -> None:
    engine = carried(lose={3: 1})

    def full(step: str, path: Path) -> None:
        if step == "written" and path.name == "scores.csv" and "vision_padim/0/attempt-" in str(path):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with watched(full), pytest.raises(DiskError) as caught:
        bench(the_spec("full"))
    assert engine.ended
    (path,) = Path("full").iterdir()
    assert str(caught.value) == (
        f"{path}/units/tile/vision_padim/0/scores.csv: cannot be written: No space left on device"
    )
    assert caught.value.help == f"When that is mended: uadctl bench --resume {path}"
    assert document(path, "run")["status"] == "interrupted"
    assert leftovers(path) == []


def test_names_of_other_files_stay(tmp_path: Path) -> None:
    unit = UnitFolder(tmp_path / "u", "attempt-1", "m", 0)
    attempt = unit.attempt()
    assert attempt.path.parent == unit.path
    assert attempt.path != unit.attempt().path
    assert unit.of_unit(str(attempt.path / "maps/attempt-7/a.tiff")) == str(tmp_path / "u/maps/attempt-7/a.tiff")
    for name in (tmp_path / "attempt-1/u/x", tmp_path / "u/maps/a", tmp_path / "u", "other/attempt-1/x"):
        assert unit.of_unit(str(name)) == str(name)


def test_results_that_the_driver_does_not_see_are_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("uadctl.runs.folder._SHARED_S", 0.1)
    unit = UnitFolder(tmp_path / "u", "c", "m", 0)
    unit.set_status("started")
    with pytest.raises(RunError) as caught:
        unit.adopt("attempt-12")
    assert str(caught.value) == f"{unit.path}/attempt-12: not there, though a worker wrote its results into it"
    assert caught.value.help == "[run] dir must lie on storage that all nodes share; see docs/scaling.md."


# ---- what a worker must find


@pytest.fixture
def job(undisturbed: Path) -> BenchJob:
    plan = make_plan(the_spec("here"))
    return BenchJob.of(plan, RunFolder(undisturbed))


def elsewhere(job: BenchJob, **facts: Any) -> BenchJob:
    """The job as another process sees it."""
    return dataclasses.replace(job, place=dataclasses.replace(job.place, process=-1, **facts))


def test_a_worker_works_where_the_driver_does(
    job: BenchJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, world: Path
) -> None:
    assert not any(Path(each.path).is_absolute() for each in job.place.needed)
    monkeypatch.chdir(tmp_path)
    work = elsewhere(job).open()
    assert Path.cwd() == world
    assert callable(work)
    # Not in the driver's own process, whatever it did since.
    os.chdir(tmp_path)
    job.open()
    assert Path.cwd() == tmp_path


def test_a_worker_without_the_working_directory_needs_absolute_paths(
    job: BenchJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, world: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("socket.gethostname", lambda: "node7")
    with pytest.raises(RunError) as caught:
        elsewhere(job, folder="/no/such", host="head").open()
    assert str(caught.value) == f"{job.run}: is relative to /no/such, which is not there on node7"
    assert caught.value.help == "Give absolute paths, on storage that all nodes share. See docs/scaling.md."
    absolute = tuple(
        Needed(str(world / each.path), each.help, sign=each.sign and str(world / each.sign))
        for each in job.place.needed
    )
    there = dataclasses.replace(job, run=str(world / job.run))
    assert callable(elsewhere(there, folder="/no/such", needed=absolute).open())


def test_a_worker_that_does_not_see_the_run_says_so(job: BenchJob, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("socket.gethostname", lambda: "node7")
    monkeypatch.setattr("uadctl.runs.folder._SHARED_S", 0.1)
    (Path(job.run) / "spec.toml").rename("spec.kept")
    try:
        with pytest.raises(RunError) as caught:
            elsewhere(job).open()
    finally:
        Path("spec.kept").rename(Path(job.run) / "spec.toml")
    assert (str(caught.value), caught.value.help) == (
        f"{job.run}: is not there, or another one, on node7",
        sharing.OUTPUTS,
    )


def test_a_worker_waits_a_moment_for_what_is_new(job: BenchJob, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a network drive shows a folder that another machine has just made."""
    late = Path("late")
    monkeypatch.setattr("time.sleep", lambda seconds: late.touch())
    Place.of([Needed(".", "")]).enter()
    waiting = dataclasses.replace(job.place, process=-1, needed=(Needed("late", ""),))
    waiting.enter()
    late.unlink()


def test_only_what_the_driver_has_itself_is_asked_for(job: BenchJob, undisturbed: Path) -> None:
    assert [each.path for each in job.place.needed] == [
        job.run,
        "data/tile/train/good/000.png",
        "data/wood/train/good/000.png",
    ]
    assert [each.path for each in of_run(RunFolder(undisturbed), ["data", "data/none.png"]).needed] == [job.run, "data"]
    folder = unit_of(RunFolder(undisturbed), job.plan.cells[3]).path
    assert folder == undisturbed / "units/tile/vision_padim/1"


# ---- fit


def test_a_fit_gives_the_same_models(world: Path, carried: Callable[..., Carried]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("uadctl.fit.choose_engine", lambda table: Here())
        here = fit(the_spec("fitted"))
    engine = carried(lose={1: 1})
    there = fit(the_spec("fitted-there"))
    assert engine.titles == ["fit"]
    found = [
        {p.relative_to(r.run.path): p.read_bytes() for p in r.run.path.glob("units/*/*/*/**/*") if p.is_file()}
        for r in (here, there)
    ]
    for of in found:
        assert len([name for name in of if name.name == "model.safetensors"]) == 4
        for name in [name for name in of if name.name == "error.txt"]:
            del of[name]
    assert found[0] == found[1]
    assert [(u.category, u.label, u.seed) for u in there.failed] == UNITS[4:]
    timing = document(there.run.path, "timing")["units"]
    assert [(u["category"], u["label"], u["seed"]) for u in timing] == UNITS[:4]
    assert all(u["train_images"] == 5 for u in timing)
    record = document(there.run.path, "run")
    assert record["engines"] == [engine.facts()]
    assert [error.message for error in SCHEMA.iter_errors(record)] == []


# ---- the commands


def test_workers_on_the_command_line(uadctl, small, tmp_path: Path) -> None:
    bench_run = uadctl("bench", *small, "--workers", "2", "--engine", "local", "--json").json["run"]
    fitted = uadctl("fit", *small, "--workers", "2", "--json").json["run"]
    for run in (bench_run, fitted):
        assert document(Path(run), "run")["engines"] == [
            {"name": "local", "workers": 2, "nodes": [socket.gethostname()]}
        ]
    model = "units/tile/vision_patchcore/0/model/model.safetensors"
    assert (Path(bench_run) / model).read_bytes() == (Path(fitted) / model).read_bytes()


@pytest.mark.parametrize("command", ["bench", "fit"])
@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ("--address", "local"),
            "error: --address local: has no effect without --engine ray\n  Give --engine ray as well.\n",
        ),
        (
            ("--address", "auto", "--engine", "local"),
            "error: --address auto: has no effect without --engine ray\n  Give --engine ray as well.\n",
        ),
        (("--workers", "0"), "error: --workers 0: expected an integer >= 1\n"),
    ],
)
def test_options_without_a_meaning(uadctl, small, command: str, words: tuple[str, ...], said: str) -> None:
    assert uadctl(command, *small, *words, code=2).err == said
    assert not Path("runs").exists()


def test_keys_of_another_engine_are_no_matter(uadctl, small) -> None:
    words = ("--set", 'run.address="ray://head:10001"', "--set", "run.cpus=4", "--set", "run.gpus=1.0")
    assert uadctl("bench", *small, *words, "--dry-run").err == ""


def test_the_engine_is_no_difference_between_runs(tmp_path: Path) -> None:
    from uadctl.report.pairing import Member
    from uadctl.report.reading import read_run

    members = []
    for letter, lines in (("A", 'engine = "ray"\nworkers = 4\naddress = "auto"\ncpus = 2.0\ngpus = 1.0\n'), ("B", "")):
        run = made_runs.make_run(tmp_path / letter)
        made_runs.add_unit(run)
        spec = (run / "spec.toml").read_text(encoding="utf-8")
        seed = "seed = 1\n" if letter == "B" else ""
        (run / "spec.toml").write_text(spec.replace("[run]\n", f"[run]\n{seed}{lines}"), encoding="utf-8")
        members.append(Member(letter, read_run(RunFolder(run)), ("vision_patchcore",)))
    assert [setting.key for setting in _settings(members)] == ["run.seed"]


def test_a_dry_run_says_that_ray_is_not_installed(world: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(BackendMissing, match=r'^engine = "ray" needs ray'):
        print_plan(the_spec("dry", engine="ray"), json_=True)
    print_plan(the_spec("dry", workers=2), json_=True)
    assert json.loads(capsys.readouterr().out)


def test_the_record_is_in_the_plans_order_whatever_ends_first(world: Path) -> None:
    """By seeds too: of each model the facts are those of its last one."""
    spec = the_spec("ordered")
    run = RunFolder.create(spec)
    names = [("wood", "b", 0), ("wood", "b", 1), ("wood", "a", 0)]
    units = [run.unit(*name) for name in names]

    @dataclasses.dataclass(frozen=True)
    class Writing:
        threads: int = 1

        def open(self) -> Any:
            def work(number: int, progress: Progress) -> Attempt:
                attempt = units[number].attempt()
                attempt.write("metrics", {})
                return Attempt(attempt.path.name, {"number": number})

            return work

    class Backwards(Here):
        def map(self, job: Any, todo: Any, *, begun: Any, **more: Any) -> Any:
            work = job.open()
            for index in reversed(range(len(todo))):
                begun(index)
                yield Outcome(index, 1, work(todo[index].payload, Silent()))

    driver = Driver(run, verb="bench", progress=Silent(), engine=Backwards())

    def take(number: int, attempt: Attempt) -> None:
        driver.describe(units[number], data={}, model=attempt.model)

    assert driver.work(units, Writing(), titles=["x", "y", "z"], take=take) == []
    driver.finish([])
    models = run.read("run")["models"]
    assert list(models) == ["b", "a"]
    assert models["b"]["wood"] == {"number": 1}
