"""The script and the unit file of docs/inspection-server.md, run for real."""

from __future__ import annotations

import base64
import configparser
import fcntl
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import parts
import pytest
import typer
from typer.testing import CliRunner

from uadctl.cli.app import app
from uadctl.imaging.formats import IMAGE_SUFFIXES

ROOT = Path(__file__).parents[1]
SCRIPT, UNIT = ROOT / "examples" / "inspect.sh", ROOT / "examples" / "uadctl-watch.service"
PAGE = ROOT / "docs" / "inspection-server.md"

pytestmark = pytest.mark.skipif(
    shutil.which("bash") is None or shutil.which("flock") is None, reason="needs bash and flock (util-linux)"
)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    for i in range(6):
        parts.write(folder / "good" / f"{i}.png", parts.surface(i))
    options = ["--model", "patchcore", "--set", "preprocess.size=64"]
    where = ["--run-dir", str(folder / "runs"), "--bundle", str(folder / "part.uadctl")]
    result = CliRunner().invoke(app, ["fit", "--good", str(folder / "good"), *options, *where])
    assert result.exit_code == 0, result.stderr
    return folder / "part.uadctl"


@pytest.fixture
def place(tmp_path) -> Path:
    """A folder for a name with a space, with incoming/ in it."""
    (tmp_path / "the line" / "incoming").mkdir(parents=True)
    return tmp_path / "the line"


def program(folder: Path, text: str) -> str:
    """An executable Python program in place of uadctl."""
    file = folder / "uadctl"
    file.write_text(f"#!{sys.executable}\n{text}")
    file.chmod(0o755)
    return str(file)


def environment(folder: Path, text: str = "from uadctl.cli.entry import main\nmain()\n") -> dict[str, str]:
    return {
        **os.environ,
        "UADCTL": program(folder, text),
        "PYTHON": sys.executable,
        "DEVICE": "cpu",
        "PYTHONPATH": str(ROOT),
    }


def inspect(model: Path, place: Path, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", str(SCRIPT), str(model), str(place)], capture_output=True, text=True, env=env, check=False, timeout=120
    )


def names(place: Path) -> dict[str, list[bytes]]:
    """The files of each folder, but for the log, by their bytes."""
    folders = ("incoming", "good", "review", "anomaly", "broken")
    return {
        f: sorted(os.fsencode(p.relative_to(place / f)) for p in (place / f).rglob("*") if p.is_file()) for f in folders
    }


def log(place: Path) -> list[str]:
    return (place / "log" / "inspect.log").read_text().splitlines()


ODD = b"bad \xff\n\"'$(x) name.png"


def test_a_night(bundle, place, tmp_path):
    env = environment(tmp_path)
    incoming = place / "incoming"
    parts.write(incoming / "a good one.png", parts.surface(900))
    parts.write(incoming / "station 2" / "-rf.png", parts.surface(901))
    bad = parts.write(tmp_path / "bad.png", parts.scratched(902)[0])
    shutil.copy(bad, os.fsencode(incoming) + b"/" + ODD)
    (incoming / "broken.png").write_bytes(b"no image")
    (incoming / ".coming.png.part").write_bytes(b"half")
    (incoming / "notes.txt").write_text("left alone")
    (place / "anomaly").mkdir()
    (place / "broken").mkdir()
    (place / "broken" / "broken.png").write_text("of another night")

    ended = inspect(bundle, place, env)
    assert (ended.returncode, ended.stdout, ended.stderr) == (1, "", ""), log(place)
    found = names(place)
    stamped = found["broken"].pop(0)
    assert re.fullmatch(rb"\d{8}T\d{6}Z-\d+-1-broken\.png", stamped)
    assert found == {
        "incoming": [b".coming.png.part", b"notes.txt"],
        "good": [b"a good one.png", b"station 2/-rf.png"],
        "review": [],
        "anomaly": [ODD],
        "broken": [b"broken.png"],
    }
    assert (place / "broken" / "broken.png").read_text() == "of another night"
    assert (place / "broken" / os.fsdecode(stamped)).read_bytes() == b"no image"
    (rows,) = (place / "log").glob("*.jsonl")
    lines = [json.loads(line) for line in rows.read_text().splitlines()]
    assert sorted(str(x["verdict"]) for x in lines) == ["None", "anomaly", "good", "good"]
    (exact,) = [base64.b64decode(x["path_b64"]) for x in lines if "path_b64" in x]
    assert exact.endswith(b"/" + ODD)
    said = "\n".join(log(place))
    assert "moved: 1 anomaly, 1 broken, 2 good" in said
    assert re.search(r"broken: '.*/broken\.png': ", said)

    before, count = names(place), len(log(place))
    again = inspect(bundle, place, env)
    assert (again.returncode, again.stdout, again.stderr) == (0, "", "")
    assert names(place) == before
    assert [line.split(" ", 1)[1] for line in log(place)[count:]] == ["nothing to do"]
    assert len(list((place / "log").glob("*.jsonl"))) == 1

    shutil.copy(bad, incoming / "x.png")
    assert inspect(bundle, place, env).returncode == 4
    assert names(place)["anomaly"] == [ODD, b"x.png"]
    parts.write(incoming / "y.png", parts.surface(900))
    assert inspect(bundle, place, env).returncode == 0
    assert names(place)["good"] == [b"a good one.png", b"station 2/-rf.png", b"y.png"]


REPLACES = """
import os, sys, pathlib
from uadctl.cli import score
plain = score._writing
inside = pathlib.Path(sys.argv[3])
import contextlib
@contextlib.contextmanager
def writing(output):
    with plain(output) as file:
        yield file
    (inside / "new.part").rename(inside / "a.png")
    (inside / "came.png").write_bytes(b"no image")
score._writing = writing
from uadctl.cli.entry import main
main()
"""


def test_what_is_replaced_while_the_batch_runs_stays(bundle, place, tmp_path):
    incoming = place / "incoming"
    for name, seed in (("a.png", 900), ("b.png", 901)):
        parts.write(incoming / name, parts.surface(seed))
    (incoming / "new.part").write_bytes(parts.write(tmp_path / "bad.png", parts.scratched(902)[0]).read_bytes())
    ended = inspect(bundle, place, environment(tmp_path, REPLACES))
    assert (ended.returncode, ended.stderr) == (0, ""), log(place)
    found = names(place)
    assert (found["incoming"], found["good"]) == ([b"a.png", b"came.png"], [b"b.png"])
    said = "\n".join(log(place))
    assert "moved: 1 good; 1 stay" in said
    assert re.search(r"stays, to be judged the next time: '.*/a\.png': came or changed while the batch ran", said)
    assert inspect(bundle, place, environment(tmp_path)).returncode == 1
    found = names(place)
    assert (found["incoming"], found["anomaly"], found["broken"]) == ([], [b"a.png"], [b"came.png"])
    assert sorted(p.suffix for p in (place / "log").iterdir()) == ["", ".jsonl", ".jsonl", ".log"]


def test_links_are_followed_and_a_circle_of_them_is_no_failure(bundle, place, tmp_path):
    parts.write(tmp_path / "elsewhere" / "a.png", parts.surface(900))
    incoming = place / "incoming"
    (incoming / "x.png").symlink_to(tmp_path / "elsewhere" / "a.png")
    ended = inspect(bundle, place, environment(tmp_path))
    assert (ended.returncode, ended.stderr) == (0, ""), log(place)
    assert (names(place)["incoming"], names(place)["good"]) == ([], [b"x.png"])
    assert (place / "good" / "x.png").is_symlink()
    (incoming / "station").symlink_to(tmp_path / "elsewhere")
    (incoming / "station 2").symlink_to(tmp_path / "elsewhere")
    (incoming / "circle").symlink_to(incoming)
    ended = inspect(bundle, place, environment(tmp_path))
    assert (ended.returncode, ended.stderr) == (0, ""), log(place)
    assert names(place)["good"] == [b"station/a.png"]  # and x.png, which leads to nothing now
    (incoming / "gone.png").symlink_to(tmp_path / "no.png")
    assert inspect(bundle, place, environment(tmp_path)).returncode == 1
    assert (place / "broken" / "gone.png").is_symlink()


def test_a_broken_model_moves_nothing(bundle, place, tmp_path):
    parts.write(place / "incoming" / "a.png", parts.surface(900))
    broken = tmp_path / "part.uadctl"
    broken.write_bytes(bundle.read_bytes()[:-1])
    ended = inspect(broken, place, environment(tmp_path))
    assert ended.returncode == 2
    assert ended.stderr == f"inspect.sh: uadctl ended with exit code 2, see {place}/log/inspect.log\n"
    assert names(place)["incoming"] == [b"a.png"]
    assert sum(len(found) for found in names(place).values()) == 1
    assert any("damaged" in line for line in log(place))
    assert log(place)[-1].endswith("failed with exit code 2: nothing was moved")
    ended = inspect(tmp_path / "absent", place, environment(tmp_path))
    assert (ended.returncode, ended.stderr) == (2, f"inspect.sh: {tmp_path}/absent: no such model\n")


@pytest.mark.parametrize(
    ("text", "code", "said"),
    [
        ("import sys\nsys.exit(130)\n", 130, "interrupted: nothing was moved"),
        ("import sys\nsys.exit(1)\n", 2, "failed with exit code 1 and without rows: nothing was moved"),
        ("import os\nos.kill(os.getpid(), 9)\n", 137, "failed with exit code 137: nothing was moved"),
    ],
    ids=["interrupted", "no rows", "killed"],
)
def test_however_uadctl_ends(bundle, place, tmp_path, text, code, said):
    parts.write(place / "incoming" / "a.png", parts.surface(900))
    assert inspect(bundle, place, environment(tmp_path, text)).returncode == code
    assert names(place)["incoming"] == [b"a.png"]
    assert log(place)[-1].endswith(said)


def test_what_cannot_be_moved_stays_and_is_said(bundle, place, tmp_path):
    incoming = place / "incoming"
    parts.write(incoming / "a.png", parts.surface(900))
    gone = 'import json, sys\nrows = sys.argv[sys.argv.index("--output") + 1]\nnames = ("a.png", "gone.png")\n'
    gone += 'row = {"status": "ok", "verdict": None, "reason": None}\nfolder = sys.argv[3]\n'
    gone += 'text = "".join(json.dumps({**row, "path": f"{folder}/{n}"}) + "\\n" for n in names)\n'
    gone += 'open(rows, "w").write(text)\n'
    ended = inspect(bundle, place, environment(tmp_path, gone))
    assert ended.returncode == 1
    assert ended.stderr == f"inspect.sh: some files could not be moved, see {place}/log/inspect.log\n"
    assert names(place)["review"] == [b"a.png"]  # without a verdict somebody has to look
    assert any(line.endswith("gone.png': No such file or directory") for line in log(place))


def test_one_at_a_time(bundle, place, tmp_path):
    parts.write(place / "incoming" / "a.png", parts.surface(900))
    (place / "log").mkdir()
    with (place / "log" / "lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        ended = inspect(bundle, place, environment(tmp_path))
        assert (ended.returncode, ended.stderr) == (75, f"inspect.sh: {place}: another inspect.sh is at work\n")
    assert names(place)["incoming"] == [b"a.png"]
    free = inspect(bundle, place, environment(tmp_path, "import sys\nsys.exit(130)\n"))
    assert free.returncode == 130


def test_sigterm_reaches_uadctl_and_nothing_is_moved(bundle, place, tmp_path):
    parts.write(place / "incoming" / "a.png", parts.surface(900))
    text = "import signal, sys, time\nsignal.signal(15, lambda *_: sys.exit(130))\n"
    text += f"open({str(tmp_path / 'begun')!r}, 'w').close()\ntime.sleep(60)\n"
    env = environment(tmp_path, text)
    with subprocess.Popen(["bash", str(SCRIPT), str(bundle), str(place)], env=env) as process:
        while not (tmp_path / "begun").exists():
            assert process.poll() is None
            time.sleep(0.02)
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 130
    assert names(place)["incoming"] == [b"a.png"]
    assert log(place)[-1].endswith("interrupted: nothing was moved")


def test_usage(place, bundle, tmp_path):
    for words, said in (
        ([], "usage: inspect.sh MODEL FOLDER\n"),
        ([str(bundle), str(tmp_path)], f"inspect.sh: {tmp_path}/incoming: no such folder\n"),
    ):
        ended = subprocess.run(["bash", str(SCRIPT), *words], capture_output=True, text=True, check=False)
        assert (ended.returncode, ended.stderr) == (2, said)


def test_the_script_knows_what_images_are_called():
    (found,) = re.findall(r"^for suffix in (.*); do$", SCRIPT.read_text(), re.M)
    assert tuple(f".{name}" for name in found.split()) == IMAGE_SUFFIXES


def test_the_script_can_be_run():
    assert os.access(SCRIPT, os.X_OK)
    assert SCRIPT.read_text().startswith("#!/usr/bin/env bash\n")


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="shellcheck is not installed")
def test_shellcheck_finds_nothing():
    ended = subprocess.run(["shellcheck", str(SCRIPT)], capture_output=True, text=True, check=False)
    assert ended.stdout == ""


# --- the unit file


def unit() -> configparser.ConfigParser:
    found = configparser.ConfigParser(interpolation=None, strict=False)
    found.optionxform = str  # type: ignore[assignment,method-assign]
    found.read(UNIT)
    return found


def test_the_service_calls_the_program_as_it_is():
    words = shlex.split(unit()["Service"]["ExecStart"])
    assert Path(words[0]).name == "uadctl"
    command = typer.main.get_command(app).commands[words[1]]  # type: ignore[attr-defined]
    context = command.make_context("score", words[2:])
    given = context.params
    assert given["run"] == "/srv/inspection/part.uadctl"
    assert given["json_"] is True
    assert given["log_file"] == "/srv/inspection/log/uadctl.log"
    assert (given["watch"], given["journal"]) == ("/srv/inspection/incoming", "/srv/inspection/journal.jsonl")
    assert given["max_errors"] == 1000


def test_the_service_may_write_where_it_writes_and_nowhere_else():
    service = unit()["Service"]
    words = shlex.split(service["ExecStart"])
    writable = service["ReadWritePaths"].split()
    assert writable == ["/srv/inspection"]
    for option in ("--journal", "--log-file", "--watch"):
        assert any(words[words.index(option) + 1].startswith(f"{folder}/") for folder in writable), option
    for key in ("NoNewPrivileges", "ProtectHome", "PrivateTmp", "RestrictSUIDSGID", "LockPersonality"):
        assert service[key] == "yes"
    assert service["ProtectSystem"] == "strict"
    assert service["MemoryMax"]
    assert (service["User"], service["Group"]) == ("uadctl", "uadctl")
    # torch's CPU kernels are made while it runs.
    assert "MemoryDenyWriteExecute" not in service


def test_the_service_ends_and_begins_again_as_the_exit_codes_say():
    from uadctl.cli.app import INTERRUPTED
    from uadctl.errors import RunError

    service = unit()["Service"]
    assert service["Restart"] == "on-failure"
    assert service["SuccessExitStatus"] == str(INTERRUPTED)
    assert service["RestartPreventExitStatus"] == str(RunError.exit_code)
    assert service["KillSignal"] == "SIGTERM"


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")
def test_systemd_understands_the_unit(tmp_path):
    text = UNIT.read_text()
    assert text.count("/opt/uadctl/bin/uadctl") == 1
    (tmp_path / UNIT.name).write_text(text.replace("/opt/uadctl/bin/uadctl", "/bin/true"))
    ended = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(tmp_path / UNIT.name)],
        capture_output=True,
        text=True,
        check=False,
    )
    said = [line for line in ended.stderr.splitlines() if UNIT.name in line]
    assert (ended.returncode, said) == (0, [])


def test_the_page_names_what_there_is():
    text = PAGE.read_text(encoding="utf-8")
    assert "examples/inspect.sh" in text
    assert "examples/uadctl-watch.service" in text
    for code in ("0", "1", "2", "4", "75", "130"):
        assert re.search(rf"^\| {code} \|", text, re.M), code
