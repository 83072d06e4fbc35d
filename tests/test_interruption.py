"""Ctrl-C and SIGTERM, sent to real processes at several moments: over within two seconds, 130, nothing half done."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import parts
import pytest
from plugin_processes import Program, wait_until

from uadctl.abrupt import at_abrupt_end, end_abruptly
from uadctl.cli import interruption

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc, and sends signals")

# What is promised, of a machine that has a core for each of its processes. Tests may have to share theirs.
SECONDS = 2.0 * max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))
RESUME = "error: interrupted\n  Go on where it stopped with the same command and --resume\n"


@pytest.fixture(scope="module")
def program(tmp_path_factory) -> Program:
    return Program(tmp_path_factory.mktemp("program"))


@pytest.fixture(scope="module")
def run(program) -> Path:
    """A finished run of the plug-in's model."""
    out, _ = program.run("fit", *Program.MODEL, "--category", "tile", "--run-dir", "fitted", "--json")
    return program.folder / json.loads(out)["run"]


def end(process: subprocess.Popen[str], number: int, *, again: float | None = None) -> tuple[str, str, float]:
    """Send a signal, and after some seconds another. stdout, stderr, and how long it took to end."""
    start = time.monotonic()
    process.send_signal(number)
    if again is not None:
        time.sleep(again)
        process.send_signal(number)
    out, err = process.communicate(timeout=60)
    return out, err, time.monotonic() - start


def status(program: Program, runs: str) -> str:
    (record,) = program.folder.glob(f"{runs}/*/run.json")
    return str(json.loads(record.read_text())["status"])


@pytest.mark.parametrize(
    ("how", "number"),
    [
        ("in_c", signal.SIGINT),
        pytest.param("in_c", signal.SIGTERM, marks=pytest.mark.slow),
        pytest.param("asleep", signal.SIGTERM, marks=pytest.mark.slow),
        pytest.param("in_pool", signal.SIGINT, marks=pytest.mark.slow),
        pytest.param("behind_exit", signal.SIGTERM, marks=pytest.mark.slow),
        pytest.param("deaf", signal.SIGINT, marks=pytest.mark.slow),
    ],
)
def test_a_bench_ends_in_time_and_goes_on_where_it_stopped(program, how, number):
    runs = f"runs-{how}-{int(number)}"
    words = ("bench", *Program.MODEL, "--run-dir", runs, "--json")
    process = program.start(*words, blocks=f"fit:{how}", since=2)
    program.wait_there(process)
    out, err, took = end(process, number)
    assert (process.returncode, out, err) == (130, "", RESUME)
    assert took < SECONDS
    assert status(program, runs) == "interrupted"
    assert [p.read_text() for p in sorted(program.folder.glob(f"{runs}/*/units/*/*/*/status"))] == [
        "done\n",
        "started\n",
    ]
    if (how, number) == ("in_c", signal.SIGTERM):
        resumed = json.loads(program.run(*words, "--resume")[0])
        assert [len(seeds) for cell in resumed["results"].values() for seeds in cell.values()] == [1, 1]
        assert status(program, runs) == "done"


@pytest.mark.slow
@pytest.mark.parametrize("place", ["prepare", "fit"])
def test_a_fit_ends_in_time(program, place):
    runs = f"fits-{place}"
    process = program.start("fit", *Program.MODEL, "--run-dir", runs, blocks=f"{place}:in_c")
    program.wait_there(process)
    out, err, took = end(process, signal.SIGTERM)
    assert (process.returncode, out, err) == (130, "", "error: interrupted\n")
    assert took < SECONDS
    if place == "fit":
        assert status(program, runs) == "interrupted"
    else:
        assert not (program.folder / runs).exists()


def test_a_score_leaves_whole_lines_and_no_file(program, run, tmp_path):
    for i in range(8):
        parts.write(tmp_path / "new" / f"{i}.png", parts.surface(i, 32, 32))
    words = ("score", run, tmp_path / "new", "--json", "--quiet", "--output", tmp_path / "out" / "lines.jsonl")
    process = program.start(*words, blocks="predict:in_c", since=3)
    program.wait_there(process)
    out, err, took = end(process, signal.SIGTERM)
    assert (process.returncode, err) == (130, "error: interrupted\n")
    assert took < SECONDS
    assert [json.loads(line)["status"] for line in out.splitlines()] == ["ok"] * 4
    assert out.endswith("\n")
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.slow
def test_a_calibration_that_is_interrupted_changes_nothing(program, run, tmp_path):
    for i in range(6):
        parts.write(tmp_path / "good" / f"{i}.png", parts.surface(50 + i, 32, 32))
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    process = program.start("calibrate", run, "--good", tmp_path / "good", blocks="predict:in_c")
    program.wait_there(process)
    _, err, took = end(process, signal.SIGINT)
    assert (process.returncode, err) == (130, "error: interrupted\n")
    assert took < SECONDS
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


@pytest.mark.slow
def test_a_second_signal_ends_it_at_once(program):
    process = program.start("bench", *Program.MODEL, "--run-dir", "twice", blocks="fit:in_c")
    program.wait_there(process)
    _, err, took = end(process, signal.SIGINT, again=0.4)
    assert (process.returncode, err) == (130, RESUME)
    assert took < min(SECONDS, 1.2) or SECONDS > 2, "without the second it takes 1.3 s"
    assert status(program, "twice") == "interrupted"


@pytest.mark.slow
def test_the_same_signal_twice_at_a_time_is_one(program):
    """timeout(1) sends it to the process and to its group: the code that can be unwound still is."""
    process = program.start("bench", *Program.MODEL, "--run-dir", "pair", blocks="fit:asleep")
    program.wait_there(process)
    _, err, took = end(process, signal.SIGTERM, again=0.05)
    assert (process.returncode, err) == (130, RESUME)
    assert took < SECONDS


@pytest.mark.slow
def test_imports_can_be_interrupted(program):
    """At several moments from when the handlers are there on, through the import of torch."""
    codes = []
    for delay in (0.1, 0.5, 1.0):
        process = program.start("bench", *Program.MODEL, "--run-dir", "early", blocks="prepare:in_c")
        wait_until(lambda process=process: _catches(process, signal.SIGTERM), process)
        time.sleep(delay)
        out, err, took = end(process, signal.SIGINT)
        codes.append(process.returncode)
        assert out == ""
        assert err in ("error: interrupted\n", RESUME)
        assert took < SECONDS
    assert codes == [130, 130, 130]


def test_the_programs_own_imports_can_be_interrupted(program):
    """While those run, nobody else can say it: so the handlers are there first."""
    code = (
        "import builtins, sys, time\n"
        "plain = builtins.__import__\n"
        "def slow(name, *rest):\n"
        "    if name == 'typer':\n"
        "        print('there', flush=True)\n"
        "        time.sleep(60)\n"
        "    return plain(name, *rest)\n"
        "builtins.__import__ = slow\n"
        "from uadctl.cli.entry import main\n"
        "main()\n"
    )
    for number in (signal.SIGINT, signal.SIGTERM):
        process = subprocess.Popen(
            [sys.executable, "-c", code],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )
        assert process.stdout.readline() == "there\n"
        out, err, took = end(process, number)
        assert (process.returncode, out, err) == (130, "", "error: interrupted\n")
        assert took < SECONDS


def test_a_pipe_that_nobody_reads_does_not_hold_the_exit(program):
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(writing, b"x" * 4096)
    os.set_blocking(writing, True)
    code = (
        "import hashlib, os\n"
        "from uadctl.cli import interruption\n"
        "interruption.install(lambda: os.write(2, b'x' * 4096))\n"
        "print('there', flush=True)\n"
        "hashlib.pbkdf2_hmac('sha256', b'', b'', 10**9)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        stderr=writing,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    try:
        assert process.stdout.readline() == "there\n"
        _, _, took = end(process, signal.SIGTERM)
    finally:
        process.kill()
        os.close(reading)
        os.close(writing)
    assert process.returncode == 130
    assert took < SECONDS


@pytest.mark.parametrize(("closed", "kept"), [("2>&-", True), (">&-", False), ("<&- >&- 2>&-", False)])
def test_streams_that_are_closed_lead_nowhere(program, tmp_path, closed, kept):
    """Neither does a message land among the results, nor the one or the other in a file that was opened since."""
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    words = f"{sys.executable} -m uadctl models show nonsense --json {closed}"
    done = subprocess.run(["bash", "-c", words], capture_output=True, text=True, env=env, cwd=tmp_path, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert ("nonsense" in done.stderr, "bug" in done.stderr) == (closed == ">&-", False)
    words = f"{sys.executable} -m uadctl models list --json {closed}"
    done = subprocess.run(["bash", "-c", words], capture_output=True, text=True, env=env, cwd=tmp_path, check=False)
    assert (done.returncode, bool(done.stdout), done.stderr) == (0, kept, "")


def _catches(process: subprocess.Popen[str], number: int) -> bool:
    facts = Path(f"/proc/{process.pid}/status").read_text()
    (mask,) = (int(line.split()[1], 16) for line in facts.splitlines() if line.startswith("SigCgt"))
    return bool(mask & 1 << number - 1)


READS_SLOWLY = 400


@pytest.mark.slow
def test_a_long_line_is_written_whole(program, run, tmp_path):
    """stdout is a full pipe when the signal comes; the reader goes on a moment later."""
    names = [tmp_path / f"{i:04}{'x' * 200}.png" for i in range(READS_SLOWLY)]
    process = program.start("score", run, *names, "--json", "--quiet")
    wait_until(lambda: _full(process), process)
    process.send_signal(signal.SIGINT)
    time.sleep(0.3)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err == "error: interrupted\n"
    lines = out.splitlines()
    assert 10 < len(lines) < READS_SLOWLY
    assert {json.loads(line)["status"] for line in lines} == {"error"}
    assert out.endswith("\n")


def _full(process: subprocess.Popen[str]) -> bool:
    """Whether the process waits for somebody to read its stdout."""
    import fcntl
    import struct
    import termios

    assert process.stdout is not None
    handle = process.stdout.fileno()

    def waiting() -> int:
        return int(struct.unpack("i", fcntl.ioctl(handle, termios.FIONREAD, b"\0\0\0\0"))[0])

    # How many lines a pipe of 64 kB takes depends on their length: those that do not fit into the rest of a page begin
    # a new one.
    before = waiting()
    time.sleep(0.1)
    return before > 40_000 and waiting() == before


FORKS = """
import multiprocessing, time, sys
from uadctl.cli import interruption
interruption.install(lambda: print("farewell", flush=True))
worker = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,))
worker.start()
time.sleep(0.3)
worker.terminate()
worker.join()
time.sleep(1.8)
print("alive", flush=True)
"""


def test_a_signal_of_a_worker_is_not_the_programs_own():
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)}
    done = subprocess.run([sys.executable, "-c", FORKS], capture_output=True, text=True, check=False, env=environment)
    assert (done.stdout, done.returncode) == ("alive\n", 0)


LATE = """
import hashlib, signal, sys, os, time
from concurrent.futures import ThreadPoolExecutor
from uadctl.cli import interruption
interruption.install(lambda: print("farewell", flush=True))
ThreadPoolExecutor(1).submit(hashlib.pbkdf2_hmac, "sha256", b"", b"", 10**9)
interruption.finish(3)
os.kill(os.getpid(), signal.SIGINT)
sys.exit(3)
"""


def test_a_signal_after_the_work_keeps_its_exit_code():
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)}
    start = time.monotonic()
    done = subprocess.run([sys.executable, "-c", LATE], capture_output=True, text=True, check=False, env=environment)
    assert (done.stdout, done.stderr, done.returncode) == ("", "", 3)
    assert time.monotonic() - start < SECONDS + 1


def test_what_is_deferred_is_raised_at_its_end(monkeypatch):
    monkeypatch.setattr(interruption, "_state", interruption._State())
    done = []

    def print_lines() -> None:
        with interruption.deferred():
            with interruption.deferred():
                interruption._interrupt(signal.SIGINT, None)
                done.append("inner")
            done.append("outer")

    with pytest.raises(KeyboardInterrupt):
        print_lines()
    assert done == ["inner", "outer"]
    interruption._interrupt(signal.SIGINT, None)  # once


def test_what_is_left_to_do_is_done_once_in_order_and_whatever_fails():
    did: list[int] = []

    def fails() -> None:
        did.append(2)
        raise OSError("no disk")

    with at_abrupt_end(lambda: did.append(1)), at_abrupt_end(fails), at_abrupt_end(lambda: did.append(3)):
        end_abruptly()
    end_abruptly()
    assert did == [1, 2, 3]
