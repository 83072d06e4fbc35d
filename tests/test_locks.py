"""Two processes never work in one run folder; who only reads is not kept from it."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import parts
import pytest
from plugin_processes import Program

from uadctl.errors import RunError
from uadctl.runs.folder import RunFolder

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no flock")


def in_use(run: object, meanwhile: str = "What is finished in it can be scored with meanwhile.") -> str:
    return f"error: {run}: in use by another process\n  Wait for its end, or end it. {meanwhile}\n"


@pytest.fixture
def program(tmp_path) -> Program:
    return Program(tmp_path)


HOLDS = """
import sys
from pathlib import Path
from uadctl.runs.folder import RunFolder
with RunFolder(Path(sys.argv[1])).locked():
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_run_that_another_process_holds_is_read_and_not_changed(finished, uadctl, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)}
    with subprocess.Popen(
        [sys.executable, "-c", HOLDS, str(run)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment
    ) as holder:
        assert holder.stdin is not None
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        assert uadctl("calibrate", run, "--alpha", "0.1", code=2).err == in_use(run)
        assert uadctl("report", run, code=2).err == in_use(run, "Or have the page elsewhere: --out DIR")
        assert uadctl("bench", "--resume", run, "--robustness", code=2).err == in_use(run)
        parts.write(tmp_path / "new.png", parts.surface(1))
        assert uadctl("score", run, "new.png", "--json", "--quiet").lines[0]["status"] == "ok"
        assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before
    assert uadctl("report", run).out == f"{run}/report/index.html\n"


@pytest.mark.slow
def test_a_bench_has_its_folder_for_itself(program):
    """The first category is done, the second one blocks: a real process, beside which others are started."""
    words = ("bench", *Program.MODEL, "--run-dir", "runs")
    process = program.start(*words, blocks="fit:asleep", since=2)
    try:
        program.wait_there(process)
        (folder,) = program.folder.glob("runs/*")
        run = folder.relative_to(program.folder)
        before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        assert program.run("bench", "--resume", run, code=2) == ("", in_use(run))
        assert program.run("calibrate", run, "--alpha", "0.1", code=2) == ("", in_use(run))
        assert program.run("report", run, code=2) == ("", in_use(run, "Or have the page elsewhere: --out DIR"))
        out, err = program.run(*words, "--resume", code=2)  # a run that is worked on is passed over
        assert (out, err.partition(" (hash")[0]) == ("", "error: nothing to resume: no unfinished run of this spec")
        (listed,) = json.loads(program.run("report", "--list", "runs", "--json")[0])["runs"]
        assert (listed["in_use"], listed["status"]) == (True, "started")
        parts.write(program.folder / "new.png", parts.surface(1, 32, 32))
        (line,) = program.run("score", run, "new.png", "--json", "--quiet")[0].splitlines()
        assert json.loads(line)["status"] == "ok"
        assert program.run("report", run, "--out", "page")[0] == "page/index.html\n"
        assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    finally:
        process.kill()
        process.communicate()
    program.run("bench", "--resume", run)  # a lock ends with its process, even a killed one
    assert json.loads((folder / "run.json").read_text())["status"] == "done"


def test_what_is_resumed_is_read_when_the_lock_is_had(uadctl, small, tmp_path, monkeypatch):
    """Another process ends the run between the look at it and the lock: then nothing is left to do."""
    from uadctl import bench as module
    from uadctl.models.patchcore import PatchCore

    def interrupt(self, images, **kwargs):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(PatchCore, "fit", interrupt)
        uadctl("bench", *small, code=130)
    (run,) = (tmp_path / "runs").iterdir()
    begin = module.bench

    def late(spec, **options):
        monkeypatch.setattr(module, "bench", begin)
        begin(spec, resume=RunFolder.open(run))  # the other one
        kept.append((run / "run.json").read_bytes())
        return begin(spec, **options)

    kept: list[bytes] = []
    monkeypatch.setattr(module, "bench", late)
    ended = uadctl("bench", "--resume", run, code=2)
    assert ended.err == f"error: {run}: nothing to resume: this run is done\n"
    assert [(run / "run.json").read_bytes()] == kept


@pytest.fixture
def folder(tmp_path) -> RunFolder:
    (tmp_path / "run").mkdir()
    return RunFolder(tmp_path / "run")


def test_looking_whether_it_is_in_use_disturbs_nobody(folder):
    """Several may look at a time; who wants the lock waits for their glance."""
    with folder._lock(shared=True, wait=0) as free:
        assert free
        assert not folder.in_use()
        with pytest.raises(RunError, match=r": in use by another process$"), folder.locked():
            pass
    looking, done = threading.Event(), threading.Event()

    def look() -> None:
        with folder._lock(shared=True, wait=0):
            looking.set()
            time.sleep(0.1)
        done.set()

    thread = threading.Thread(target=look)
    thread.start()
    looking.wait()
    with folder.locked():
        assert done.is_set()
        assert folder.in_use()
    thread.join()


def test_a_file_system_without_locks_locks_nothing(folder, monkeypatch):
    import fcntl

    def no_locks(handle: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    with folder.locked(), folder.locked():
        assert not folder.in_use()

    def broken(handle: int, operation: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(fcntl, "flock", broken)
    with pytest.raises(OSError, match="Input/output"), folder.locked():
        pass


def test_a_page_elsewhere_needs_no_lock(folder, tmp_path):
    with folder.locked():
        with folder.locked_for(tmp_path / "page" / "index.html"):
            pass
        (tmp_path / "link").symlink_to(folder.path)
        for place in (folder.path / "report", tmp_path / "link" / "report", Path(folder.path, "..", "run")):
            with pytest.raises(RunError), folder.locked_for(place / "index.html"):
                pass
