"""--log-file: a line of JSON for each thing that happens; and stderr, which other libraries have no part in."""

from __future__ import annotations

import errno
import json
import logging
import os
import re
import sys
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from plugin_processes import Program

from uadctl import __version__
from uadctl.chatter import collected, is_collected
from uadctl.cli.console import Screen
from uadctl.cli.logs import Log, LogFile, _command
from uadctl.cli.schema import make_schema
from uadctl.errors import SpecError

SCHEMA = make_schema("log")


def read(path: Path) -> list[dict[str, Any]]:
    """Its lines, each of which is valid by the schema."""
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    for line in lines:
        jsonschema.validate(line, SCHEMA)
    return lines


def told(lines: list[dict[str, Any]]) -> list[tuple[str, str, str]]:
    return [(line["level"], line["logger"], line["message"]) for line in lines]


def test_a_good_run_has_a_start_and_an_end(uadctl, small, tmp_path):
    for _ in range(2):
        assert uadctl("bench", *small, "--log-file", "logs/bench.jsonl").err == ""
    lines = read(tmp_path / "logs/bench.jsonl")
    assert told(lines) == [("info", "uadctl", word) for word in ("started", "ended")] * 2
    start, end = lines[:2]
    assert start["arguments"] == [*small, "--log-file", "logs/bench.jsonl"]
    assert (start["version"], start["command"], start["pid"]) == (__version__, "bench", os.getpid())
    assert end["exit_code"] == 0
    assert 0 < end["seconds"] < 60
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", end["time"])


def test_what_stands_on_stderr_stands_in_it_also_with_quiet(uadctl, small, one_category, tmp_path):
    (one_category / "tile/train/good/001.png").write_bytes(b"junk")
    loud = uadctl("bench", *small, "--set", "dataset.on_error=skip", "--log-file", "a.jsonl").err
    assert uadctl("bench", *small, "--set", "dataset.on_error=skip", "--log-file", "b.jsonl", "--quiet").err == ""
    first, second = (told(read(tmp_path / name)) for name in ("a.jsonl", "b.jsonl"))
    assert first == second
    warned = [message for level, _, message in first if level == "warning"]
    assert warned
    assert "".join(f"warning: {message}\n" for message in warned) == loud
    ended = uadctl("bench", *small, "--log-file", "c.jsonl", code=1)
    lines = read(tmp_path / "c.jsonl")
    (error,) = (line for line in lines if line["level"] == "error")
    assert ended.err == f"error: {error['message']}\n" + "".join(f"  {h}\n" for h in error.get("help", "").splitlines())
    assert "DataError" in error["traceback"]
    assert lines[-1]["exit_code"] == 1


def test_an_error_of_use_and_one_of_the_system(uadctl, small, tmp_path, monkeypatch):
    uadctl("bench", *small, "--category", "x", "--log-file", "log.jsonl", code=2)
    monkeypatch.setattr("uadctl.bench.make_plan", lambda *a, **k: open("/no/such/file"))  # noqa: SIM115, PTH123
    uadctl("bench", *small, "--log-file", "log.jsonl", code=1)
    with pytest.raises(FileNotFoundError):
        uadctl("bench", *small, "--log-file", "log.jsonl", "--debug")
    lines = read(tmp_path / "log.jsonl")
    assert [line["exit_code"] for line in lines if line["message"] == "ended"] == [2, 1, 1]
    _, usage, *_ = lines
    assert (usage["level"], "SpecError" in usage["traceback"] or "DataError" in usage["traceback"]) == ("error", True)
    system = [line for line in lines if line.get("path") == "/no/such/file"]
    assert told(system) == [("error", "uadctl", "/no/such/file: No such file or directory")] * 2


@pytest.mark.parametrize(
    ("name", "why"),
    [("folder", "Is a directory"), ("file/log.jsonl", "Not a directory"), ("x" * 300, "File name too long")],
)
def test_a_log_that_cannot_be_opened_is_said_before_any_work(uadctl, small, tmp_path, name, why):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    ended = uadctl("bench", *small, "--log-file", name, code=2)
    assert (ended.out, ended.err) == ("", f"error: --log-file {name}: cannot be opened: {why}\n")
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("held", [b"\x89PNG\r\n\x1a\n", b"[model]\n", b'{"journal":1,"model":"', b"\n"])
def test_a_file_that_is_no_log_is_left_alone(uadctl, small, tmp_path, held):
    (tmp_path / "x").write_bytes(held)
    ended = uadctl("bench", *small, "--log-file", "x", code=2)
    assert ended.err == (
        "error: --log-file x: is no log of uadctl\n  Name another file: a log is appended to what is there.\n"
    )
    assert (tmp_path / "x").read_bytes() == held


@pytest.mark.parametrize("held", [b"", b'{"ti\n', b'{"time":"2026-01-01T00:00:00.000Z"}\n'])
def test_a_log_is_appended_to_what_a_full_disk_left_of_it(tmp_path, held):
    (tmp_path / "x").write_bytes(held)
    log = Log(["score"])
    log.open(str(tmp_path / "x"), told=lambda text: None)
    log.end(0)
    assert (tmp_path / "x").read_bytes().startswith(held + b'{"time":"')


def test_another_file_that_takes_the_name_of_a_log_is_left_alone(log, tmp_path, doubts):
    log.write("info", "one")
    (tmp_path / "log.jsonl").rename(tmp_path / "old")
    (tmp_path / "log.jsonl").write_bytes(b"an image")
    log.write("info", "two")
    assert (tmp_path / "log.jsonl").read_bytes() == b"an image"
    assert doubts == [f"--log-file {tmp_path}/log.jsonl: cannot be written: is no log of uadctl; lines of it are lost"]


def test_images_that_could_not_be_scored_are_lines_with_their_path(uadctl, finished, tmp_path):
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "a.png").write_bytes(b"")
    (tmp_path / "new" / "b.png").write_bytes(b"no image")
    ended = uadctl("score", finished, "new", "--json", "--quiet", "--log-file", "x", code=1)
    errors = [line for line in read(tmp_path / "x") if line["level"] == "error"]
    assert [(line["path"], line["message"]) for line in errors] == [(x["path"], x["reason"]) for x in ended.lines]
    assert [line["path"] for line in errors] == ["new/a.png", "new/b.png"]


@pytest.mark.parametrize(
    ("words", "command"),
    [
        (["fit", "--good", "x"], "fit"),
        (["datasets", "check", "mvtec"], "datasets check"),
        (["datasets", "--help"], "datasets"),
        (["--version"], ""),
        ([], ""),
    ],
)
def test_the_name_of_a_command(words, command):
    assert _command(words) == command


# -- the file


@pytest.fixture
def doubts() -> list[str]:
    return []


@pytest.fixture
def log(tmp_path, doubts) -> Iterator[Log]:
    log = Log(["score", "RUN", "caf\udce9"])
    level = logging.root.level
    log.open(str(tmp_path / "log.jsonl"), told=doubts.append)
    yield log
    log.end(0)
    assert logging.root.level == level


def test_a_log_that_is_moved_away_or_removed_is_begun_anew(log, tmp_path, doubts):
    file = tmp_path / "log.jsonl"
    log.write("info", "one")
    file.rename(tmp_path / "log.1.jsonl")
    log.write("info", "two")
    file.unlink()
    log.write("info", "three")
    log.write("info", "four")
    assert [line["message"] for line in read(tmp_path / "log.1.jsonl")] == ["started", "one"]
    assert [line["message"] for line in read(file)] == ["three", "four"]
    assert doubts == []


def test_a_full_disk_is_told_once_and_tears_one_line_only(log, tmp_path, doubts, monkeypatch):
    real = os.write
    room = [30]

    def write(handle: int, data: bytes) -> int:
        if room[0] == 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        taken = min(room[0], len(data))
        room[0] -= taken
        return real(handle, data[:taken])

    monkeypatch.setattr(os, "write", write)
    log.write("info", "lost")
    log.write("info", "lost too")
    room[0] = 10**6
    log.write("info", "kept")
    log.write("info", "kept too")
    file = tmp_path / "log.jsonl"
    assert doubts == [f"--log-file {file}: cannot be written: No space left on device; lines of it are lost"]
    lines = file.read_text().splitlines()
    assert len(lines[1]) == 30
    assert [json.loads(line)["message"] for line in lines[:1] + lines[2:]] == ["started", "kept", "kept too"]


def test_a_log_that_cannot_be_written_stops_no_work(uadctl, small, monkeypatch):
    def full(self, data: bytes) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(LogFile, "_append", full)
    assert uadctl("bench", *small, "--log-file", "log.jsonl").err == (
        "warning: --log-file log.jsonl: cannot be written: No space left on device; lines of it are lost\n"
    )


def test_lines_of_several_writers_stay_whole(tmp_path):
    files = [LogFile(str(tmp_path / "log.jsonl"), told=pytest.fail) for _ in range(4)]
    logs = []
    for file in files:
        log = Log(["score"])
        log._file = file
        logs.append(log)

    def write(log: Log) -> None:
        for i in range(50):
            log.write("info", f"{i} {'é' * 5000}")

    threads = [threading.Thread(target=write, args=(log,)) for log in logs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for file in files:
        file.close()
    assert len(read(tmp_path / "log.jsonl")) == 200


def test_hostile_text_is_one_line_of_bounded_length(log, tmp_path):
    log.write("error", "a\nb\x1b[2J\udcff", help="x" * 100_000, error=OSError(2, "no", "caf\udce9"))
    start, line = read(tmp_path / "log.jsonl")
    assert start["arguments"] == ["RUN", "caf\\udce9"]
    assert line["message"] == "a\nb\x1b[2J\\udcff"
    assert line["path"] == "caf\\udce9"
    assert len(line["help"]) == 64_001
    assert b"\x1b" not in (tmp_path / "log.jsonl").read_bytes()


def test_a_message_that_is_kept_back_on_stderr_is_in_the_log(log, tmp_path, capsys):
    screen = Screen()
    screen.log = log
    for i in range(100):
        screen.message("warning", f"{i} {'z' * 1000}")
    screen.message("warning", f"{1} {'z' * 1000}")
    assert len(capsys.readouterr().err.splitlines()) < 70
    assert len(read(tmp_path / "log.jsonl")) == 101


# -- other libraries


@pytest.mark.slow
def test_other_libraries_are_heard_in_the_log_and_with_debug_only(tmp_path):
    program = Program(tmp_path)
    words = ("fit", *Program.MODEL, "--category", "tile", "--run-dir", "runs", "--quiet")
    _, err = program.run(*words, "--log-file", "log.jsonl", blocks="fit:talk")
    assert err == ""
    assert program.run(*words, blocks="fit:talk")[1] == ""
    lines = [line for line in read(tmp_path / "log.jsonl") if line["logger"] != "uadctl"]
    assert told(lines) == [
        ("info", "lightning.pytorch", "GPU available: False"),
        ("warning", "matplotlib.font_manager", "findfont: Font family 'Ariel' not found."),
        ("error", "torch.nonsense", "no rank"),
        ("warning", "root", "by the root logger"),
        ("warning", "timm", "%d and %d"),
        ("warning", "warnings", "FutureWarning: the transform is deprecated"),
    ]
    assert lines[2]["traceback"].endswith("KeyError: 'rank'\n")
    assert re.fullmatch(r".*uadctl_blocking_plugin\.py:\d+", lines[5]["path"])
    _, shown = program.run(*words, "--debug", blocks="fit:talk")
    for text in ("no rank", "findfont", "FutureWarning: the transform is deprecated", "3/3"):
        assert text in shown


def test_filters_and_handlers_work_as_before(tmp_path):
    records: list[str] = []
    found: list[str] = []
    kept = tmp_path / "kept.log"
    handler = logging.FileHandler(kept)
    logger = logging.getLogger("others.of.this.test")
    logger.addHandler(handler)
    before = (warnings.showwarning, logging.Logger.callHandlers)
    try:
        with collected(
            record=lambda said: records.append(said.getMessage()),
            warning=lambda message, category, place: found.append(str(message)),
            printed=lambda: False,
        ):
            assert is_collected()
            logger.warning("heard")
            logger.info("below its level")
            with pytest.raises(UserWarning, match="is an error"):
                warnings.warn("is an error in tests", UserWarning, stacklevel=1)
            with pytest.warns(UserWarning, match="is recorded"):
                warnings.warn("is recorded", UserWarning, stacklevel=1)
            with warnings.catch_warnings():
                warnings.simplefilter("always")
                warnings.warn("is collected", UserWarning, stacklevel=1)
    finally:
        logger.removeHandler(handler)
        handler.close()
    assert (warnings.showwarning, logging.Logger.callHandlers) == before
    assert not is_collected()
    assert (records, found, kept.read_text()) == (["heard"], ["is collected"], "heard\n")


def test_handlers_that_print_are_left_out_and_put_back(capsys):
    logger = logging.getLogger("printing.in.this.test")
    handler = logging.StreamHandler(sys.stderr)
    logger.addHandler(handler)
    shown = False
    try:
        with collected(record=lambda said: None, warning=lambda *said: None, printed=lambda: shown):
            logger.warning("one")
            shown = True
            logger.warning("two")
        logger.warning("three")
    finally:
        logger.removeHandler(handler)
    assert capsys.readouterr() == ("", "two\nthree\n")


def test_every_property_of_the_schema_is_written(log, tmp_path):
    log.write("warning", "a", help="b", path="c", error=ValueError("d"))
    log.end(3)
    seen = {key for line in read(tmp_path / "log.jsonl") for key in line}
    assert set(SCHEMA["$defs"]["LogLine"]["properties"]) == seen


def test_a_pipe_that_nobody_reads_is_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(SpecError, match=r"pipe: cannot be opened: No such device or address$"):
        Log([]).open(str(tmp_path / "pipe"), told=pytest.fail)


def test_a_farewell_is_escaped_and_in_the_log_whatever_the_names(tmp_path, capfd, monkeypatch):
    """It is said by another thread, past everything: an error in it would leave the log without its end."""
    monkeypatch.setattr(sys, "__stderr__", None)
    screen = Screen()
    screen.configure(log_file=str(tmp_path / "log.jsonl"))
    screen.interrupted = "Go on: uadctl bench --resume runs/a\udcff\x1b[2J"
    screen.farewell()
    said = "error: interrupted\n  Go on: uadctl bench --resume runs/a\\udcff\\x1b[2J\n"
    assert capfd.readouterr().err == said
    lines = read(tmp_path / "log.jsonl")
    assert [line["message"] for line in lines][-2:] == ["interrupted", "ended"]
