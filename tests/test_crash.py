"""kill -9 and a full disk at every step of every file: nothing half-written, nothing lost, and the same bytes after all.

A step is what `uadctl.atomic.watched` counts. Every command runs in a child of `crash_server.py`, which is ended there.
With UADCTL_UPDATE_TABLES=1 the numbers of steps in docs/reliability.md are written anew.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import parts
import pytest

import uadctl

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="each command is ended in a forked child")

ROOT = Path(uadctl.__file__).parent.parent
PAGE = ROOT / "docs" / "reliability.md"

SPEC = """\
[run]
name = "crash"
threads = 1
[dataset]
name = "mvtec"
root = "data"
[preprocess]
size = 32
[model]
name = "vision_padim"
[calibration]
holdout = 0.34
[metrics]
bootstrap = 10
[gate]
image_auroc = { min = 0.0 }
"""
BENCH = ("bench", "spec.toml", "--run-dir", "runs")
FIT = ("fit", "spec.toml", "--run-dir", "runs")
CALIBRATE = ("calibrate", "runs/one", "--alpha", "0.4")
REPORT = ("report", "runs/one")
OUTPUTS = ("out.csv", "coco.json", "maps", "masks")
SCORE = (
    *("score", "runs/one", "data/bolt/test", "--category", "bolt"),
    *("--output", "out.csv", "--coco", "coco.json", "--maps", "maps", "--masks", "masks"),
)
SIGKILL = -9
FULL = "No space left on device"

# Of run.json and timing.json: what the clock and the machine say.
CLOCKS = {
    "started",
    "finished",
    "resumed",
    "engines",
    "peak_memory_bytes",
    "fit_seconds",
    "score_seconds",
    "images_per_second",
}
CLOCKS |= {"ms_per_image_p50", "ms_per_image_p95"}


@dataclass(frozen=True)
class Ended:
    """How a command ended. points: the steps it came to, with the files' names in the place where it ran."""

    code: int
    out: str
    err: str
    points: list[str]


class Server:
    """Forks the commands, in a folder with a data set and a spec."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for number, name in enumerate(("bolt", "nut")):
            parts.write_category(folder / "data", name, train=6, good=1, bad=1, size=(32, 32 + 8 * number))
        (folder / "spec.toml").write_text(SPEC)
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("crash_server.py"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "COLUMNS": "200"},
        )

    def ask(self, *argv: str, **how: Any) -> Ended:
        """Run a command. how: `crash_server` says."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"argv": argv, "cwd": str(self.folder), **how}) + "\n")
        self._process.stdin.flush()
        said = json.loads(self._process.stdout.readline())
        ended = Ended(said["code"], said["out"], said["err"], [in_place(p, self.folder) for p in said["points"]])
        assert "Traceback" not in ended.err, ended.err
        return ended

    def clear(self) -> None:
        for name in ("runs", *OUTPUTS):
            path = self.folder / name
            if path.is_dir():
                shutil.rmtree(path)
            path.unlink(missing_ok=True)

    def place(self, run: Path) -> Path:
        """A copy of a run as runs/one, and nothing else of what commands write."""
        self.clear()
        return Path(shutil.copytree(run, self.folder / "runs" / "one"))

    @property
    def run(self) -> Path | None:
        """The one run folder; None before it has its name."""
        runs = self.folder / "runs"
        seen = [path for path in runs.iterdir() if not path.name.startswith(".")] if runs.is_dir() else []
        assert len(seen) < 2
        return seen[0] if seen else None

    def stop(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        assert self._process.wait() == 0
        self._process.stdout.close()


def in_place(point: str, folder: Path) -> str:
    """A step as every run of this test tells it, whenever it was begun and whether or not it has its name."""
    point = re.sub("attempt-[0-9a-f]{32}/", "", point.replace(f"{folder}/", ""))
    return re.sub(r"runs/(\.[0-9a-f]{8}\.\d+\.\w+\.part|\d{8}T\d{6}Z-crash-[0-9a-f]{8})", "runs/RUN", point)


@dataclass(frozen=True)
class Whole:
    """An undisturbed command: the folder that it made, and the steps that it took."""

    folder: Path
    points: list[str]

    @property
    def appears(self) -> int:
        """The step after which the run folder has its name."""
        return self.points.index("replaced runs/RUN") + 1


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("crash"))
    yield server
    server.stop()


@pytest.fixture(scope="module")
def benched(server: Server) -> Whole:
    return undisturbed(server, BENCH)


@pytest.fixture(scope="module")
def fitted(server: Server) -> Whole:
    return undisturbed(server, FIT)


def undisturbed(server: Server, command: Sequence[str]) -> Whole:
    server.clear()
    ended = server.ask(*command)
    assert (ended.code, ended.err) == (0, ""), ended.err
    assert server.run is not None
    return Whole(server.run.rename(server.folder / f"whole-{command[0]}"), ended.points)


# ---- what is compared


def contents(folder: Path) -> dict[str, Any]:
    """Every file below a folder: its bytes, or what it says without clock values."""
    found: dict[str, Any] = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            data = path.read_bytes()
            clock = path.name in ("run.json", "timing.json")
            found[path.relative_to(folder).as_posix()] = _without_clocks(json.loads(data)) if clock else data
    return found


def _without_clocks(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: None if key in CLOCKS else _without_clocks(inner) for key, inner in value.items()}
    return [_without_clocks(inner) for inner in value] if isinstance(value, list) else value


def assert_nothing_half(run: Path, whole: Whole) -> None:
    """Every file that has its final name is the one of the undisturbed run, or says that this one is not over."""
    expected = contents(whole.folder)
    for place, found in contents(run).items():
        name = re.sub("attempt-[0-9a-f]{32}/", "", place)
        if name.endswith(".part"):
            assert Path(name).name.startswith(".")
        elif name == "run.json":
            assert found["status"] in ("started", "interrupted", "done")
        elif name.endswith("/status"):
            assert found in (b"started\n", b"done\n")
        else:
            assert found == expected[name], name


def leftovers(folder: Path) -> list[str]:
    return [path.name for path in folder.rglob("*") if path.name.startswith(".") or path.name.endswith(".part")]


def done(run: Path) -> dict[str, tuple[int, int]]:
    """Each file of the finished units: which it is on the disk, and when it was written."""
    units = [status.parent for status in run.glob("units/*/*/*/status") if status.read_bytes() == b"done\n"]
    files = [path for unit in units for path in unit.rglob("*") if path.is_file()]
    return {str(path): (path.stat().st_ino, path.stat().st_mtime_ns) for path in files}


def gone_on_with(server: Server, whole: Whole) -> None:
    """Resume the bench that was ended, or begin anew where none had a name yet: the same bytes as undisturbed."""
    run, finished = server.run, {}
    over = run is not None and json.loads((run / "run.json").read_bytes())["status"] == "done"
    if run is not None:
        assert_nothing_half(run, whole)
        finished = done(run)
    again = server.ask(*BENCH, "--resume")
    if run is None or over:
        assert again.code == 2
        assert again.err.startswith("error: nothing to resume: no unfinished run of this spec (hash ")
    else:
        assert again.code == 0, again.err
    if run is None:
        assert server.ask(*BENCH).code == 0
        run = server.run
        assert run is not None
    assert contents(run) == contents(whole.folder)
    assert leftovers(server.folder / "runs") == []
    assert {name: found for name, found in done(run).items() if name in finished} == finished


def every(points: Sequence[str], step: int) -> range:
    """Numbers of steps: all with 1, else some of those of each kind. Never without the first and the last."""
    return range(1, len(points) + 1, step) if step == 1 else range(len(points), 0, -step)


# ---- kill -9


def killed(server: Server, whole: Whole, point: int) -> None:
    server.clear()
    ended = server.ask(*BENCH, kill=point)
    assert (ended.code, ended.points) == (SIGKILL, whole.points[:point])
    assert (server.run is not None) == (point >= whole.appears)
    gone_on_with(server, whole)


def test_a_bench_that_is_killed_goes_on_to_the_same_bytes(server: Server, benched: Whole) -> None:
    for point in (benched.appears - 1, 97, len(benched.points)):
        killed(server, benched, point)


@pytest.mark.slow
def test_a_bench_that_is_killed_at_any_step_goes_on_to_the_same_bytes(server: Server, benched: Whole) -> None:
    for point in range(1, len(benched.points) + 1):
        killed(server, benched, point)
    print(f"bench: killed at {len(benched.points)} steps, lost nothing")


@pytest.mark.slow
def test_a_run_that_is_killed_again_and_again_goes_on(server: Server, benched: Whole) -> None:
    server.clear()
    assert server.ask(*BENCH, kill=70).code == SIGKILL
    for point in (1, 30, 66):
        assert server.ask(*BENCH, "--resume", kill=point).code == SIGKILL
    gone_on_with(server, benched)


def test_what_is_no_run_yet_is_seen_by_nobody(server: Server, benched: Whole) -> None:
    server.clear()
    assert server.ask(*BENCH, kill=benched.appears - 1).code == SIGKILL
    hidden = leftovers(server.folder / "runs")
    assert len(hidden) == 1  # and it has all that a run has
    assert sorted(p.name for p in (server.folder / "runs" / hidden[0]).iterdir()) == ["run.json", "spec.toml"]
    assert json.loads(server.ask("report", "--list", "runs", "--json").out) == {"schema": 1, "runs": []}
    assert server.ask("score", "spec.toml", "data/bolt/test", "--run-dir", "runs").code == 2
    assert server.ask(*BENCH).code == 0
    assert leftovers(server.folder / "runs") == []  # its process lives no more


def fit_killed(server: Server, whole: Whole, point: int, scores: dict[str, str]) -> None:
    server.clear()
    ended = server.ask(*FIT, kill=point)
    assert (ended.code, ended.points) == (SIGKILL, whole.points[:point])
    assert (server.run is not None) == (point >= whole.appears)
    if server.run is None:
        return
    assert_nothing_half(server.run, whole)
    for name in sorted({Path(path).relative_to(server.run).parts[1] for path in done(server.run)}):
        assert scored(server, server.run, name) == scores[name]


def scored(server: Server, run: Path, category: str) -> str:
    ended = server.ask("score", str(run), f"data/{category}/test", "--category", category, "--json")
    assert ended.code == 0, ended.err
    return ended.out


def test_a_fit_that_is_killed_keeps_what_is_finished(server: Server, fitted: Whole) -> None:
    scores = {name: scored(server, fitted.folder, name) for name in ("bolt", "nut")}
    for point in (40, len(fitted.points)):
        fit_killed(server, fitted, point, scores)


@pytest.mark.slow
def test_a_fit_that_is_killed_at_any_step_keeps_what_is_finished(server: Server, fitted: Whole) -> None:
    scores = {name: scored(server, fitted.folder, name) for name in ("bolt", "nut")}
    for point in range(1, len(fitted.points) + 1):
        fit_killed(server, fitted, point, scores)
    print(f"fit: killed at {len(fitted.points)} steps, lost nothing")


@pytest.fixture(scope="module")
def calibrated(server: Server, benched: Whole) -> Whole:
    run = server.place(benched.folder)
    ended = server.ask(*CALIBRATE)
    assert (ended.code, ended.err) == (0, "")
    return Whole(run.rename(server.folder / "whole-calibrate"), ended.points)


def calibrate_killed(server: Server, before: Whole, after: Whole, point: int) -> None:
    run = server.place(before.folder)
    ended = server.ask(*CALIBRATE, kill=point)
    assert (ended.code, ended.points) == (SIGKILL, after.points[:point])
    old, new = contents(before.folder), contents(after.folder)
    found = {name: value for name, value in contents(run).items() if not name.endswith(".part")}
    for name, value in found.items():
        assert value in (old.get(name), new[name]), name
    for name in (name for name in found if name.endswith("/thresholds.json")):
        kept = name.replace("thresholds.json", "thresholds.1.json")
        assert found[name] == old[name] or found[kept] == old[name]
    assert server.ask(*CALIBRATE).code == 0
    assert {name: value for name, value in contents(run).items() if not name.endswith(".part")} == new


@pytest.mark.parametrize("step", [pytest.param(1, marks=pytest.mark.slow), 9])
def test_a_calibration_that_is_killed_leaves_old_or_new_thresholds(
    server: Server, benched: Whole, calibrated: Whole, step: int
) -> None:
    assert contents(calibrated.folder).keys() - contents(benched.folder).keys() == {
        f"units/{name}/vision_padim/0/thresholds.1.json" for name in ("bolt", "nut")
    }
    for point in every(calibrated.points, step):
        calibrate_killed(server, benched, calibrated, point)
    print(f"calibrate: killed at {len(every(calibrated.points, step))} steps, lost nothing")


@pytest.mark.slow
def test_a_report_that_is_killed_leaves_the_old_page_or_the_new(server: Server, benched: Whole) -> None:
    page = server.place(benched.folder) / "report" / "index.html"
    points = server.ask(*REPORT).points
    new = page.read_bytes()
    assert len(points) == 4
    for point in range(1, len(points) + 1):
        assert server.ask(*REPORT, "--max-overlays", "0").code == 0
        old = page.read_bytes()
        assert old != new
        assert server.ask(*REPORT, kill=point).code == SIGKILL
        assert page.read_bytes() == (new if points[point - 1].startswith("replaced") else old)
    print(f"report: killed at {len(points)} steps, lost nothing")


def outputs(server: Server) -> dict[str, bytes]:
    files = [path for name in OUTPUTS for path in (server.folder / name, *(server.folder / name).rglob("*"))]
    return {path.relative_to(server.folder).as_posix(): path.read_bytes() for path in files if path.is_file()}


@pytest.mark.parametrize("step", [pytest.param(1, marks=pytest.mark.slow), 13])
def test_a_scoring_that_is_killed_leaves_whole_files(server: Server, benched: Whole, step: int) -> None:
    server.place(benched.folder)
    whole = server.ask(*SCORE)
    expected = outputs(server)
    assert (whole.code, len(expected)) == (0, 6)
    for point in every(whole.points, step):
        server.place(benched.folder)
        assert server.ask(*SCORE, kill=point).code == SIGKILL
        found = {name: data for name, data in outputs(server).items() if not name.endswith(".part")}
        assert found.items() <= expected.items()
        assert server.ask(*SCORE).code == 0
        assert {name: data for name, data in outputs(server).items() if not name.endswith(".part")} == expected
    for left in server.folder.glob(".*.part"):
        left.unlink()
    print(f"score: killed at {len(every(whole.points, step))} steps, lost nothing")


# ---- a full disk


def found_full(server: Server, whole: Whole, point: int, *, ever: bool) -> None:
    server.clear()
    ended = server.ask(*BENCH, full=point, ever=ever)
    assert (ended.code, ended.out) == (1, ""), ended.err
    first, *rest = ended.err.splitlines()
    run = server.run
    named = in_place(first.removeprefix("error: ").removesuffix(f": cannot be written: {FULL}"), server.folder)
    assert named == whole.points[point - 1].split(" ", 1)[1]
    assert ".part" not in first
    assert rest == ([f"  When that is mended: uadctl bench --resume {run}"] if point > whole.appears else [])
    assert leftovers(server.folder / "runs") == []
    if run is not None and not ever and point > whole.appears:
        assert json.loads((run / "run.json").read_bytes())["status"] == "interrupted"
    gone_on_with(server, whole)


def test_a_bench_on_a_full_disk_ends_and_goes_on_when_there_is_room(server: Server, benched: Whole) -> None:
    for point, ever in ((4, True), (105, True), (len(benched.points) - 1, False)):
        found_full(server, benched, point, ever=ever)


@pytest.mark.slow
def test_a_bench_on_a_disk_that_is_full_at_any_step_goes_on(server: Server, benched: Whole) -> None:
    """From there to its end; where a file had its name already, also at this step alone."""
    for point in range(1, len(benched.points) + 1):
        found_full(server, benched, point, ever=True)
    once = [point for point, step in enumerate(benched.points, start=1) if step.startswith("replaced")]
    for point in once:
        found_full(server, benched, point, ever=False)
    print(f"bench: disk full from {len(benched.points)} steps on, and at {len(once)} once; lost nothing")


@pytest.mark.parametrize(
    ("limits", "files"),
    [
        ((100_000,), {"model.safetensors"}),
        pytest.param((600, 1500, 4000), {"spec.toml", "model.safetensors"}, marks=pytest.mark.slow),
    ],
)
def test_a_file_that_may_not_grow_is_named_whoever_writes_it(
    server: Server, benched: Whole, limits: Sequence[int], files: set[str]
) -> None:
    """By the system's own limit: what safetensors, OpenCV, tifffile and Python make of a disk that takes no more."""
    sizes = {name: (benched.folder / name).stat().st_size for name in contents(benched.folder)}
    too_large = set()
    for limit in limits:
        server.clear()
        ended = server.ask(*BENCH, limit=limit)
        assert ended.code == 1
        assert "cannot be written: File too large\n" in ended.err
        path = in_place(ended.err.split("error: ")[1].split(": cannot be")[0], server.folder).removeprefix("runs/RUN/")
        assert sizes[path] > limit, (path, limit)
        too_large.add(Path(path).name)
        assert len(ended.err.splitlines()) <= 2
        assert leftovers(server.folder / "runs") == []
        gone_on_with(server, benched)
    assert too_large == files


def test_a_fit_on_a_full_disk_names_the_file_and_the_way_on(server: Server, fitted: Whole) -> None:
    server.clear()
    point = fitted.points.index("flushed runs/RUN/units/bolt/vision_padim/0/model/model.json") + 1
    ended = server.ask(*FIT, full=point, ever=True)
    assert (ended.code, ended.out) == (1, "")
    model = "units/bolt/vision_padim/0/model/model.json"
    assert server.run is not None
    assert ended.err == (
        f"error: {server.run}/{model}: cannot be written: {FULL}\n  When that is mended: uadctl fit {server.run}\n"
    )
    assert_nothing_half(server.run, fitted)


@pytest.mark.parametrize(
    ("command", "point"), [(SCORE, 6), (CALIBRATE, 6), pytest.param(REPORT, 2, marks=pytest.mark.slow)]
)
def test_other_commands_on_a_full_disk_leave_what_was_there(
    server: Server, benched: Whole, command: Sequence[str], point: int
) -> None:
    run = server.place(benched.folder)
    before = contents(run)
    ended = server.ask(*command, full=point, ever=True)
    assert ended.code == 1
    assert re.fullmatch(rf"error: [^\n]+: cannot be written: {FULL}\n", ended.err)
    assert ".part" not in ended.err
    found = contents(run)
    kept = {name: value for name, value in found.items() if not name.endswith("/thresholds.1.json")}
    assert kept == before
    assert leftovers(server.folder) == []


# ---- the page


def test_the_page_says_at_how_many_steps(server: Server, benched: Whole, fitted: Whole, calibrated: Whole) -> None:
    server.place(benched.folder)
    counted = {
        "bench": len(benched.points),
        "fit": len(fitted.points),
        "calibrate": len(calibrated.points),
        "report": len(server.ask(*REPORT).points),
        "score": len(server.ask(*SCORE).points),
    }
    text = PAGE.read_text(encoding="utf-8")
    row = re.compile(r"^\| `(\w+)[^|]*\| *(\d+) \|", re.MULTILINE)
    if os.environ.get("UADCTL_UPDATE_TABLES"):
        text = row.sub(lambda m: m[0].replace(f" {m[2]} |", f" {counted[m[1]]} |"), text)
        PAGE.write_text(text, encoding="utf-8")
    assert {name: int(number) for name, number in row.findall(text)} == counted
