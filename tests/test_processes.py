"""Units in processes of this machine: real ones, that are killed, fail, print, and must be gone at the end."""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from engine_jobs import Odd, Recorder, Unpicklable, Work

from uadctl.engines import Here, Outcome, Unit, UnitLost
from uadctl.engines.processes import Processes
from uadctl.errors import DataError, DiskError, RunError
from uadctl.progress import Silent

ROOT = Path(__file__).parent.parent
KILLED = "was killed by signal 9 (SIGKILL), mostly a sign that memory ran out"
linux = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc, and sends signals")


@pytest.fixture(autouse=True)
def _no_workers_left(monkeypatch) -> Iterator[None]:
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)  # what is printed must reach the log all the same
    before = children()
    yield
    assert children() == before


def children() -> set[int]:
    """Processes that this one has started, zombies too."""
    if sys.platform != "linux":
        return set()
    found = set()
    for task in Path("/proc/self/task").iterdir():
        found |= {int(pid) for pid in (task / "children").read_text().split()}
    return found


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_for(true: Any, process: subprocess.Popen[Any] | None = None, *, seconds: float = 90) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert process is None or process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.02)


def units(folder: Path, works: list[Work]) -> list[Unit[Work]]:
    return [Unit(work, f"unit {work.number}", folder / f"log-{work.number}") for work in works]


def run(folder: Path, works: list[Work], *, workers: int = 2, progress: Any = None, **more: Any) -> list[Outcome[Any]]:
    """In the units' order."""
    job = Odd(folder, **{k: more.pop(k) for k in ("threads", "opening", "more") if k in more})
    outcomes = Processes(workers).map(job, units(folder, works), progress=progress or Silent(), **more)
    return sorted(outcomes, key=lambda outcome: outcome.index)


def signs(folder: Path, name: str) -> list[int]:
    """The processes that left a sign of this name."""
    return [int(path.name.rpartition("-")[2]) for path in folder.glob(f"{name}-*")]


def test_units_are_done_as_here(tmp_path):
    works = [Work("data" if n % 5 == 3 else "square", n) for n in range(12)]
    told = Recorder(), Recorder()
    (tmp_path / "here").mkdir()
    (tmp_path / "there").mkdir()
    begun: list[int] = []
    here = list(Here().map(Odd(tmp_path / "here"), units(tmp_path, works), progress=told[0]))
    there = list(
        Processes(2).map(
            Odd(tmp_path / "there"),
            iter(units(tmp_path / "there", works)),
            progress=told[1],
            begun=begun.append,
            ordered=True,
            title="units",
        )
    )
    assert [(o.index, o.attempts, o.result, str(o.error)) for o in there] == [
        (o.index, o.attempts, o.result, str(o.error)) for o in here
    ]
    assert sorted(told[1].warnings) == sorted(told[0].warnings)
    assert sorted(m for m, _ in told[1].failures) == sorted(m for m, _ in told[0].failures)
    assert {type(error) for _, error in told[1].failures} == {DataError}
    assert sorted(begun) == list(range(12))
    assert told[1].bars == [["units", None, "units", 12, "closed"]]
    assert sorted(p.name for p in (tmp_path / "there").iterdir()) == sorted(f"{n}-0" for n in range(12))


def test_several_processes_are_at_work(tmp_path):
    outcomes = run(tmp_path, [Work("pid", n) for n in range(60)])
    pids = [outcome.result for outcome in outcomes]
    assert len(set(pids)) == 2
    assert os.getpid() not in pids
    assert min(pids.count(pid) for pid in pids) >= 2


def test_errors_and_odd_results(tmp_path, monkeypatch):
    """Each fails for itself, and leaves the worker as it was."""
    monkeypatch.chdir(tmp_path)
    kinds = ["disk", "key", "unpicklable", "only there", "large", "file", "memory", "sigint"]
    payload = Unit(Work(Unpicklable(), 90), "a payload that cannot be sent")  # type: ignore[arg-type]
    progress = Recorder()
    source = [*units(tmp_path, [Work(kind, n) for n, kind in enumerate(kinds)]), payload]
    outcomes = list(Processes(1).map(Odd(tmp_path), source, progress=progress, ordered=True))
    disk, key, unpicklable, only_there, large, file, memory, sigint, unsent = outcomes
    assert [outcome.attempts for outcome in outcomes] == [1] * 9
    assert isinstance(disk.error, DiskError)
    assert (disk.error.errno, disk.error.filename, disk.error.help) == (28, "maps/1.tiff", "Make room.")
    assert isinstance(key.error, KeyError)
    assert str(key.error) == "'tile'"
    assert "engine_jobs.py" in key.error.__notes__[0]
    told = [str(o.error) for o in (unpicklable, only_there, unsent)]
    assert told == [
        "the result, Unpicklable, cannot be sent to the driver: it has a lock",
        "the result cannot be read in the driver: not made for here",
        "the unit cannot be sent to a worker process: it has a lock",
    ]
    assert {type(o.error) for o in (unpicklable, only_there, unsent)} == {TypeError}
    assert large.result == bytes(40_000_000)
    assert isinstance(file.error, FileNotFoundError)
    assert isinstance(memory.error, MemoryError)
    assert sigint.result == "not interrupted"
    # What was said beside a result that is lost is not.
    assert "warning of 2" in progress.warnings


@linux
def test_a_unit_whose_worker_ends_is_done_by_another(tmp_path):
    progress = Recorder()
    works = [Work("square", 0, kills=1), Work("square", 1), Work("exits", 2), Work("square", 3)]
    outcomes = run(tmp_path, works, progress=progress)
    assert [(o.result, o.attempts) for o in outcomes] == [(0, 2), (1, 1), (None, 3), (9, 1)]
    assert str(outcomes[2].error) == (
        "given up, since its worker ended 3 times: ended with exit code 6; ended with exit code 5; was killed by "
        "signal 15 (SIGTERM)"
    )
    assert f"unit 0: its worker {KILLED}; it is begun again (2 of 3)" in progress.warnings
    # What a lost attempt had said is not said twice.
    assert sorted(w for w in progress.warnings if w.startswith("warning")) == [f"warning of {n}" for n in (0, 1, 3)]
    assert len(progress.warnings) == 3 + 1 + 2
    assert isinstance(outcomes[2].error, UnitLost)
    assert outcomes[2].error.log.splitlines() == [f"unit 2, attempt {n}" for n in range(3)]
    assert not list(tmp_path.glob("log-*"))


@linux
@pytest.mark.slow
def test_whatever_is_killed_each_unit_comes_back_once(tmp_path):
    dice = random.Random(3)
    works = [Work("square", n, kills=dice.choices([0, 1, 2, 3], [34, 3, 1, 1])[0]) for n in range(40)]
    assert sum(work.kills > 0 for work in works) >= 3
    progress, begun = Recorder(), []
    outcomes = run(tmp_path, works, workers=3, progress=progress, begun=begun.append, ordered=True)
    assert [o.index for o in outcomes] == list(range(40))
    for work, outcome in zip(works, outcomes, strict=True):
        assert outcome.attempts == min(work.kills + 1, 3) == begun.count(work.number)
        assert outcome.attempts == len(list(tmp_path.glob(f"{work.number}-*")))
        if work.kills < 3:
            assert (outcome.result, outcome.error) == (work.number**2, None)
        else:
            assert str(outcome.error) == f"given up, since its worker ended 3 times: {KILLED}"
    done = [work.number for work in works if work.kills < 3]
    assert sorted(w for w in progress.warnings if w.startswith("warn")) == sorted(f"warning of {n}" for n in done)
    assert sorted(m for m, _ in progress.failures) == sorted(f"failure of {n}" for n in done)


@linux
@pytest.mark.parametrize("what", ["child", pytest.param("stray", marks=pytest.mark.slow)])
def test_what_a_worker_forked_does_not_hold_the_driver(tmp_path, what):
    """It has the worker's pipes, which stay open; it ends with the worker unless it wants to stay."""
    outcomes = run(tmp_path, [Work(what, 0)], workers=1)
    assert (outcomes[0].result, outcomes[0].attempts) == (what, 2)
    pids = signs(tmp_path, "asleep")
    assert len(pids) == 2
    if what == "child":
        wait_for(lambda: not any(alive(pid) for pid in pids), seconds=10)
    else:
        (stray,) = (pid for pid in pids if alive(pid))
        os.kill(stray, signal.SIGKILL)


@pytest.mark.parametrize(
    ("opening", "error"),
    [
        ("data", DataError),
        ("many", RunError),
        ("key", KeyError),
    ],
)
def test_what_opening_raises_ends_all(tmp_path, opening, error):
    from engine_jobs import ERRORS

    meant: Any = ERRORS[opening]()
    with pytest.raises(error) as caught:
        run(tmp_path, [Work("square", 0)], workers=1, opening=opening)
    assert str(caught.value) == str(meant)
    for fact in ("help", "problems", "exit_code"):
        assert getattr(caught.value, fact, None) == getattr(meant, fact, None)
    assert list(tmp_path.glob("?-?")) == []


@linux
def test_workers_that_end_while_they_open_end_all(tmp_path):
    with pytest.raises(RunError) as caught:
        run(tmp_path, [Work("square", n) for n in range(3)], opening="exit")
    assert str(caught.value) == (
        "no worker can be started: 3 ended one after the other while they made ready, the last one ended with exit "
        "code 3; it said: opened at last | first line | last line"
    )
    assert 3 <= len(signs(tmp_path, "opening")) <= 4


@linux
@pytest.mark.slow
def test_a_crash_while_a_worker_opens_is_told(tmp_path):
    with pytest.raises(
        RunError, match=r"the last one was killed by signal 11 \(SIGSEGV\); it said: Fatal Python error.*engine_jobs.py"
    ):
        run(tmp_path, [Work("square", 0)], workers=1, opening="crash")


def test_a_job_that_cannot_be_sent_is_an_error(tmp_path):
    with pytest.raises(TypeError, match=r"^the work, Odd, cannot be sent to worker processes: it has a lock$"):
        run(tmp_path, [Work("square", 0)], more=Unpicklable())


def test_a_job_that_cannot_be_read_there_is_an_error(tmp_path):
    from engine_jobs import OnlyThere

    with pytest.raises(TypeError) as caught:
        run(tmp_path, [Work("square", 0)], workers=1, more=OnlyThere())
    assert str(caught.value) == (
        "the work cannot be read in a worker process: not made for here; its classes and functions must lie in modules "
        "that can be imported there"
    )


def test_more_workers_than_can_be_started(tmp_path, monkeypatch):
    import multiprocessing.spawn as spawn

    monkeypatch.setattr(spawn, "get_executable", lambda: str(tmp_path / "nothing"))
    with pytest.raises(RunError, match=r"^a worker process cannot be started: No such file or directory$"):
        run(tmp_path, [Work("square", 0)])


def test_each_unit_computes_with_the_jobs_threads(tmp_path):
    outcomes = run(tmp_path, [Work("threads", n) for n in range(4)], threads=2)
    assert [outcome.result for outcome in outcomes] == [2, 2, 2, 2]


def test_bars_are_drawn_here_and_output_is_not(tmp_path, capfd):
    progress = Recorder()
    # A log that stays: what is printed can be looked at.
    log = tmp_path / "log"
    kept = tmp_path / "kept"
    log.touch()
    kept.hardlink_to(log)
    source = [Unit(Work("bars", 0), "a"), Unit(Work("prints", 1), "b", log), Unit(Work("prints", 2), "no log")]
    outcomes = list(Processes(1).map(Odd(tmp_path), source, progress=progress, ordered=True, title="units"))
    assert [o.result for o in outcomes] == ["drawn", "", ""]
    whole, maps, tiles = progress.bars
    assert whole == ["units", 3, "units", 3, "closed"]
    assert (maps[:3], maps[4], tiles) == (["maps", 5, "images"], "closed", ["tiles", None, "tiles", 1, "closed"])
    assert maps[3] in (2, 5)  # as far as it was when it was last asked
    assert capfd.readouterr() == ("", "")
    assert sorted(kept.read_text("utf-8").splitlines()) == sorted(
        ["unit 1, attempt 0", "ä to stdout", "to stderr", "from C", "from a child"]
    )


def test_units_are_taken_as_workers_need_them(tmp_path):
    taken: list[int] = []

    def endless() -> Iterator[Unit[Work]]:
        while True:
            taken.append(len(taken))
            yield Unit(Work("square", taken[-1]), "one of many")

    outcomes = Processes(2).map(Odd(tmp_path), endless(), progress=Silent(), ordered=True)
    assert [next(outcomes).result for _ in range(30)] == [n * n for n in range(30)]
    assert len(children()) >= 2 or sys.platform != "linux"
    outcomes.close()  # type: ignore[attr-defined]
    assert 30 <= len(taken) <= 38


@linux
def test_closing_ends_workers_in_mid_unit(tmp_path):
    source = units(tmp_path, [Work("square", 0), Work("sleeps in C", 1)])
    outcomes = Processes(1).map(Odd(tmp_path), source, progress=Silent())
    assert next(outcomes).index == 0
    wait_for(lambda: signs(tmp_path, "asleep"))
    (pid,) = signs(tmp_path, "asleep")
    assert alive(pid)
    outcomes.close()  # type: ignore[attr-defined]
    assert not alive(pid)


def test_an_engine_says_what_it_is():
    assert (Processes(3).name, Processes(3).workers, Processes(3).facts()) == (
        "local",
        3,
        {"name": "local", "workers": 3, "nodes": [socket.gethostname()]},
    )


# ---- the driver is a process of its own

DRIVER = """
import os
import sys
import time
from pathlib import Path
from uadctl.cli import interruption
from uadctl.engines import Unit
from uadctl.engines.processes import Processes
from uadctl.progress import Silent
from engine_jobs import Odd, Work

folder = Path(sys.argv[1])
if sys.argv[2] == "interruptible":
    interruption.install(lambda: print("farewell", flush=True))
works = [Work(what, n) for n, what in enumerate(sys.argv[3:])]
try:
    for outcome in Processes(2).map(Odd(folder), [Unit(w, "unit") for w in works], progress=Silent()):
        print(outcome.result, flush=True)
        if sys.argv[2] == "forks" and os.fork() == 0:
            os.closerange(0, 3)
            (folder / f"forked-{os.getpid()}").touch()
            time.sleep(100)
except KeyboardInterrupt:
    print("interrupted", flush=True)
    interruption.leave()
"""


def start_driver(folder: Path, *words: str, code: str = DRIVER) -> subprocess.Popen[str]:
    """In a group of its own, as a shell starts it."""
    return subprocess.Popen(
        [sys.executable, "-c", code, str(folder), *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])},
        process_group=0,
    )


@linux
def test_workers_end_with_a_driver_that_is_killed(tmp_path):
    driver = start_driver(tmp_path, "plain", "sleep", "sleeps in C")
    wait_for(lambda: len(signs(tmp_path, "asleep")) == 2, driver)
    driver.kill()
    out, err = driver.communicate(timeout=60)
    assert (out, err) == ("", "")
    wait_for(lambda: not any(alive(pid) for pid in signs(tmp_path, "asleep")), seconds=10)


@linux
@pytest.mark.slow
def test_workers_end_with_a_driver_whose_pipes_another_process_holds(tmp_path):
    """A library has forked it: the pipes stay open when the driver is gone."""
    driver = start_driver(tmp_path, "forks", "square", "sleep")
    wait_for(lambda: signs(tmp_path, "forked") and signs(tmp_path, "asleep"), driver)
    driver.kill()
    driver.communicate(timeout=60)
    (worker,), (holder,) = signs(tmp_path, "asleep"), signs(tmp_path, "forked")
    try:
        wait_for(lambda: not alive(worker), seconds=10)
        assert alive(holder)
    finally:
        os.kill(holder, signal.SIGKILL)


@linux
@pytest.mark.parametrize(
    ("number", "group"), [(signal.SIGINT, True), pytest.param(signal.SIGTERM, False, marks=pytest.mark.slow)]
)
def test_an_interrupted_program_ends_its_workers_in_time(tmp_path, number, group):
    """Ctrl-C in a terminal reaches the whole group; kill(1) one process."""
    driver = start_driver(tmp_path, "interruptible", "square", "sleeps in C", "sleep")
    wait_for(lambda: len(signs(tmp_path, "asleep")) == 2, driver)
    start = time.monotonic()
    if group:
        os.killpg(driver.pid, number)
    else:
        driver.send_signal(number)
    out, err = driver.communicate(timeout=60)
    took = time.monotonic() - start
    assert (driver.returncode, out, err) == (130, "0\ninterrupted\n", "")
    assert took < 2.0 * max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))
    assert not any(alive(pid) for pid in signs(tmp_path, "asleep"))


SCRIPT = """
import sys
from pathlib import Path
from uadctl.engines import Unit
from uadctl.engines.processes import Processes
from uadctl.progress import Silent
from engine_jobs import Odd, Work

print("once")
class Mine(Odd):
    pass
job = Odd if sys.argv[2] == "theirs" else Mine
try:
    units = [Unit(Work("square", n), "unit") for n in range(3)]
    print(sorted(o.result for o in Processes(1).map(job(Path(sys.argv[1])), units, progress=Silent())))
except TypeError as error:
    print(error)
"""


@pytest.mark.parametrize("whose", ["theirs", pytest.param("mine", marks=pytest.mark.slow)])
def test_a_script_needs_no_guard(tmp_path, whose):
    """It is not imported by workers; which is why they cannot know a class of it."""
    file = tmp_path / "script.py"
    file.write_text(SCRIPT)
    driver = start_driver(tmp_path, whose, code=f"import runpy; runpy.run_path({str(file)!r}, run_name='__main__')")
    out, err = driver.communicate(timeout=120)
    assert (driver.returncode, err) == (0, "")
    first, last = out.splitlines()
    assert first == "once"
    if whose == "theirs":
        assert last == "[0, 1, 4]"
    else:
        assert "cannot be" in last
