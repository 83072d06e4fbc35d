"""The service: one row a file, however files come and whatever happens meanwhile."""

from __future__ import annotations

import errno
import itertools
import json
import os
import signal
import subprocess
import sys
import time
import tracemalloc
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path

import msgspec
import numpy as np
import parts
import pytest
from jsonschema import Draft202012Validator

from uadctl import load_run, service
from uadctl.cli.schema import make_schema
from uadctl.errors import DataError, DiskError, RunError, SpecError
from uadctl.score import ImageSource, ScoreLine
from uadctl.service import Folder, Journal, Model, Paths, Tally, feeds, key_of, look, model_digest, serve, serving
from uadctl.service.journal import Keys, row_of

MODEL = "0123456789abcdef" * 4


class Clock:
    """Time that passes only in `sleep`, and what happens meanwhile: `at` this many seconds, once."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.plan: list[tuple[float, object]] = []

    def __call__(self) -> float:
        return self.now

    def at(self, seconds: float, happen) -> None:
        self.plan.append((1000.0 + seconds, happen))

    def sleep(self, seconds: float) -> None:
        end = self.now + max(seconds, 0.001)
        for when, happen in sorted((p for p in self.plan if p[0] <= end), key=lambda p: p[0]):
            self.plan.remove((when, happen))
            self.now = max(self.now, when)
            happen()
        self.now = max(self.now, end)


@dataclass
class Reader:
    """A judge: a file that begins with "ok" is good, one with "bad" an anomaly, any other broken."""

    together: int = 4
    chunks: list[list[str]] = field(default_factory=list)
    meanwhile: dict[str, object] = field(default_factory=dict)  # by name, once: after the file was read

    def lines(self, sources):
        self.chunks.append([source.stem for source in sources])
        return [self._line(source) for source in sources]

    def _line(self, source):
        try:
            text = Path(source.path).read_text()
        except OSError as error:
            line = ScoreLine(path=source.path, status="error", reason=str(error.strerror))
        else:
            if "raise" in text:
                raise RuntimeError(f"cannot {text}")
            good = text.startswith("ok")
            line = ScoreLine(
                path=source.path,
                status="ok" if good or text.startswith("bad") else "error",
                score=1.0 if good else 9.0 if text.startswith("bad") else None,
                verdict="good" if good else "anomaly" if text.startswith("bad") else None,
            )
        self.meanwhile.pop(source.stem, lambda: None)()
        return line

    def failed(self, source, error):
        return ScoreLine(path=source.path, status="error", reason=f"{type(error).__name__}: {error}")


def put(path: Path, text: str = "ok", *, age: float = 1000.0) -> Path:
    """A file, last written so many seconds ago."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    stamp = time.time_ns() - int(age * 1e9)
    os.utime(path, ns=(stamp, stamp))
    return path


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def incoming(tmp_path):
    (tmp_path / "in").mkdir()
    return tmp_path / "in"


@pytest.fixture
def watch(incoming, clock):
    """Judge what comes into the folder for so many seconds; returns the names and statuses, in order."""

    class Watch:
        def __init__(self) -> None:
            self.said: list[tuple[str, str]] = []
            self.judge = Reader()
            self.folder = self.new()

        def new(self, journal=None, **options):
            known = None if journal is None else journal.holding
            return Folder(
                str(incoming),
                known=known,
                say=lambda *said: self.said.append(said),
                clock=clock,
                sleep=clock.sleep,
                **options,
            )

        def __call__(self, seconds=0.0, *, folder=None, journal=None, max_errors=None):
            folder = folder or self.folder
            limited = Until(folder, clock, clock.now + seconds)
            tally = Tally(clock=clock)
            lines = serve(limited, self.judge, journal=journal, tally=tally, max_errors=max_errors)
            return [(os.path.relpath(line.path, incoming), line.status) for line in lines]

    return Watch()


class Until:
    """A feed that ends at some time."""

    def __init__(self, feed, clock, end) -> None:
        self.feed, self.clock, self.end = feed, clock, end

    def __getattr__(self, name):
        return getattr(self.feed, name)

    def take(self, most, seconds):
        found = self.feed.take(most, max(0.0, min(seconds, self.end - self.clock())))
        return found if found or self.clock() < self.end else None


# -- a folder


def test_files_are_taken_as_a_folder_lists_them_oldest_first(watch, incoming):
    put(incoming / "b.png", age=100)
    put(incoming / "a.png", age=100.5)
    put(incoming / "deep" / "er" / "c.JPG", age=300)
    put(incoming / ".hidden.png")
    put(incoming / ".d.png.part")
    put(incoming / ".cache" / "x.png")
    put(incoming / "notes.txt")
    put(incoming / "broken.png", "nothing", age=200)
    same = time.time_ns() - 90 * 10**9
    for name in ("z.png", "y.png"):
        os.utime(put(incoming / name), ns=(same, same))
    (incoming / "loop").symlink_to(incoming)
    assert watch() == [
        ("deep/er/c.JPG", "ok"),
        ("broken.png", "error"),
        ("a.png", "ok"),
        ("b.png", "ok"),
        ("y.png", "ok"),
        ("z.png", "ok"),
    ]
    assert watch(30) == []
    (incoming / ".d.png.part").rename(incoming / "d.png")
    assert watch(1) == [("d.png", "ok")]


def test_a_folder_that_is_linked_twice_has_one_name_whatever_the_order_of_the_disk(incoming, clock, monkeypatch):
    put(incoming / "b" / "x.png")
    (incoming / "a").symlink_to(incoming / "b")
    scandir = os.scandir
    for backwards in (False, True):

        class Entries(list):
            def __enter__(self):
                return self

            def __exit__(self, *exc):
                pass

        monkeypatch.setattr(
            os,
            "scandir",
            lambda path, b=backwards: Entries(sorted(scandir(path), key=lambda e: e.name, reverse=b)),
        )
        (item,) = Folder(str(incoming), clock=clock, sleep=clock.sleep).take(9, 0)
        assert item.source.stem == "a/x.png"


def test_a_file_that_grows_is_judged_once_and_whole(watch, incoming, clock):
    growing = put(incoming / "a.png", "half", age=0)
    for i in range(1, 8):
        clock.at(i * 0.7, lambda i=i: put(growing, "half" * i, age=0))
    clock.at(5.5, lambda: put(growing, "ok, all of it", age=0))
    start = clock.now
    assert watch(20) == [("a.png", "ok")]
    assert watch.judge.chunks == [["a.png"]]
    assert clock.now - start == pytest.approx(20)


def test_a_file_is_judged_when_it_has_not_changed_for_as_long_as_was_asked(watch, incoming, clock):
    put(incoming / "a.png", age=0)
    folder = watch.new(settle=3.0)
    assert watch(2.9, folder=folder) == []
    assert folder.waiting == 1
    assert watch(0.4, folder=folder) == [("a.png", "ok")]
    assert folder.waiting == 0


@pytest.mark.parametrize("age", [-1e6, 0.0, 30.0], ids=["in the future", "now", "half a minute old"])
def test_what_clocks_say_never_keeps_a_file_back(watch, incoming, age):
    put(incoming / "a.png", age=age)
    assert watch(0.9) == []  # another machine's clock may be wrong by as much
    assert watch(0.4) == [("a.png", "ok")]


def test_a_jump_of_the_wall_clock_changes_nothing_for_a_file_that_waits(incoming, clock):
    put(incoming / "a.png", age=0)
    wall = [time.time()]
    folder = Folder(str(incoming), clock=clock, wall=lambda: wall[0], sleep=clock.sleep)
    assert folder.take(9, 0.1) == []
    wall[0] += 1e6
    assert folder.take(9, 0.5) == []
    wall[0] -= 2e6
    assert len(folder.take(9, 1.0)) == 1


def test_a_file_that_changes_while_it_is_read_has_no_row_for_half_of_it(watch, incoming):
    half = put(incoming / "a.png", "hal")
    watch.judge.meanwhile["a.png"] = lambda: put(half, "ok, whole", age=0)
    assert watch(5) == [("a.png", "ok")]
    assert watch.judge.chunks == [["a.png"], ["a.png"]]


def test_a_file_that_is_renamed_over_another_while_that_is_read_is_judged_itself(watch, incoming, tmp_path):
    old = put(incoming / "a.png", "ok")
    facts = old.stat()
    other = put(tmp_path / "other", "no")
    os.utime(other, ns=(facts.st_atime_ns, facts.st_mtime_ns))  # of the same size and time
    watch.judge.meanwhile["a.png"] = lambda: other.rename(old)
    assert watch(5) == [("a.png", "error")]


def test_a_file_that_was_replaced_has_another_row(watch, incoming):
    put(incoming / "a.png")
    assert watch() == [("a.png", "ok")]
    put(incoming / "a.png", "nothing", age=500)
    assert watch(1) == [("a.png", "error")]
    put(incoming / "a.png", "nothing", age=400)  # the same size
    assert watch(1) == [("a.png", "error")]
    assert watch(9) == []


def test_a_file_that_was_taken_away_before_it_was_read_has_no_row(watch, incoming):
    put(incoming / "a.png")
    put(incoming / "b.png", age=900)
    put(incoming / "c.png", age=800)
    watch.judge.meanwhile["a.png"] = lambda: (incoming / "b.png").unlink()  # before b is read
    watch.judge.meanwhile["c.png"] = lambda: (incoming / "c.png").unlink()  # after it was read whole
    assert watch(2) == [("a.png", "ok"), ("c.png", "ok")]
    assert watch.folder.vanished == 1
    put(incoming / "b.png")
    assert watch(2) == [("b.png", "ok")]


def test_a_link_to_nothing_is_an_error_and_not_a_file_that_was_taken_away(watch, incoming):
    (incoming / "a.png").symlink_to(incoming / "nowhere")
    assert watch(2) == [("a.png", "error")]
    assert watch(5) == []
    put(incoming / "nowhere")
    assert watch(2) == [("a.png", "ok")]


def test_the_folder_may_vanish_and_come_back(watch, incoming, clock, tmp_path):
    put(incoming / "a.png")
    assert watch() == [("a.png", "ok")]
    clock.at(1, lambda: incoming.rename(tmp_path / "away"))
    clock.at(50, lambda: put(tmp_path / "away" / "b.png"))
    clock.at(60, lambda: (tmp_path / "away").rename(incoming))
    assert watch(100) == [("b.png", "ok")]
    assert watch.said == [
        ("warning", f"{incoming}: cannot be read (No such file or directory); waiting for it"),
        ("note", f"{incoming}: is back"),
    ]
    incoming.rename(tmp_path / "away")
    watch(3)
    (tmp_path / "away").rename(incoming)
    watch(3)
    assert len(watch.said) == 4  # again, as it happened again


def test_a_share_that_leaves_an_empty_folder_and_comes_back_is_not_scored_twice(watch, incoming, tmp_path):
    put(incoming / "a.png")
    put(incoming / "b.png", "nothing")
    with Journal(str(tmp_path / "j"), model=MODEL) as journal:
        folder = watch.new(journal)
        assert len(watch(1, folder=folder, journal=journal)) == 2
        incoming.rename(tmp_path / "away")
        incoming.mkdir()
        assert watch(5, folder=folder, journal=journal) == []
        incoming.rmdir()
        (tmp_path / "away").rename(incoming)
        assert watch(5, folder=folder, journal=journal) == []
    assert len(rows(tmp_path / "j")) == 2


def test_a_copy_that_gets_its_old_time_at_the_end_is_known(watch, incoming, tmp_path):
    original = put(incoming / "a.png").stat()
    with Journal(str(tmp_path / "j"), model=MODEL) as journal:
        folder = watch.new(journal)
        assert len(watch(1, folder=folder, journal=journal)) == 1
        (incoming / "a.png").unlink()
        watch(1, folder=folder, journal=journal)
        put(incoming / "a.png", "o", age=0)
        watch(0.5, folder=folder, journal=journal)
        put(incoming / "a.png")
        os.utime(incoming / "a.png", ns=(original.st_atime_ns, original.st_mtime_ns))
        assert watch(9, folder=folder, journal=journal) == []
        assert folder.waiting == 0


def test_a_part_of_the_folder_that_cannot_be_read_is_said_once_and_forgets_nothing(watch, incoming, monkeypatch):
    put(incoming / "sub" / "a.png")
    put(incoming / "b.png")
    assert len(watch(1)) == 2
    scandir = os.scandir

    def denied(path):
        if Path(path).name == "sub":
            raise PermissionError(errno.EACCES, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", denied)
    assert watch(5) == []
    assert watch.said == [("warning", f"{incoming}/sub: cannot be read (Permission denied)")]
    monkeypatch.undo()
    assert watch(5) == []


def test_a_folder_that_is_none(tmp_path):
    put(tmp_path / "a.png")
    with pytest.raises(DataError) as error:
        Folder(str(tmp_path / "a.png"))
    assert parts.message(error) == (f"{tmp_path}/a.png: is a file, not a folder", None)


def test_a_folder_that_is_not_there_yet_is_waited_for(watch, incoming, clock):
    incoming.rmdir()
    watch.folder = watch.new()
    clock.at(3, lambda: put(incoming / "a.png"))
    assert watch(2) == []
    assert watch.said == [("warning", f"{incoming}: cannot be read (No such file or directory); waiting for it")]
    assert watch(4) == [("a.png", "ok")]
    assert watch.said[1:] == [("note", f"{incoming}: is back")]


def test_a_look_at_many_files_visits_few_and_in_the_end_all(watch, incoming, monkeypatch):
    monkeypatch.setattr(feeds, "_SWEEP", 10)
    for i in range(95):
        put(incoming / f"{i:03}.png", age=1000 - i)
    assert len(watch(1)) == 95
    visited = []
    plain = look
    monkeypatch.setattr(feeds, "look", lambda path: visited.append(path) or plain(path))
    watch(0.1)  # one look, or none
    visited.clear()
    watch(2.05)
    assert len(visited) in (95, 96, 97, 98, 99, 100, 105)  # ten looks
    assert len(set(visited)) == 95
    put(incoming / "050.png", "ok, anew", age=77)
    assert watch(5) == [("050.png", "ok")]


def test_a_slow_look_is_followed_by_a_longer_rest(incoming, clock, monkeypatch):
    folder = Folder(str(incoming), clock=clock, sleep=clock.sleep)
    looks = []
    monkeypatch.setattr(folder, "_poll", lambda: (looks.append(clock.now), clock.sleep(2.0)))
    folder.take(1, 60)
    assert [b - a for a, b in itertools.pairwise(looks)] == [pytest.approx(10.0)] * (len(looks) - 1)
    assert len(looks) >= 5


def test_memory_is_of_the_files_that_are_there(watch, incoming):
    for turn in range(5):
        for i in range(20):
            put(incoming / f"{turn}-{i}.png")
        assert len(watch(0.5)) == 20
        assert len(watch.folder._done) == 20
        for file in incoming.iterdir():
            file.unlink()
    watch(0.5)
    assert (watch.folder._done, watch.folder._growing, watch.folder._out) == ({}, {}, {})


# -- paths that are written in


def feed(*blocks, **options):
    """Paths from these blocks, and then no more."""
    waiting = list(blocks)
    return Paths(lambda seconds: waiting.pop(0) if waiting else b"", **options)


def answers(paths, judge=None, **options):
    return [(line.path, line.status) for line in serve(paths, judge or Reader(), **options)]


def test_a_line_for_each_path_in_order(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a.png", "b c.png", "ü.png"):
        put(Path(name))
    put(Path("x.png"), "nothing")
    text = "a.png\nb c.png\r\n\n\nno.png\nx.png\nü.png\na.png"
    wanted = [
        ("a.png", "ok"),
        ("b c.png", "ok"),
        ("no.png", "error"),
        ("x.png", "error"),
        ("ü.png", "ok"),
        ("a.png", "ok"),
    ]
    data = text.encode()
    assert answers(feed(data)) == wanted
    assert answers(feed(*[data[i : i + 1] for i in range(len(data))])) == wanted
    assert answers(feed(data[:9], None, None, data[9:], None)) == wanted


def test_paths_with_line_ends_in_them_end_with_null(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = ["a\nb.png", "c\r.png", " d.png"]
    for name in names:
        put(Path(name))
    assert answers(feed("\0".join(names).encode(), null=True)) == [(name, "ok") for name in names]


def test_names_that_are_not_utf_8_reach_the_disk_as_they_are(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    put(Path(os.fsdecode(b"caf\xe9.png")))
    (item,) = feed(b"caf\xe9.png\n").take(9, 0)
    assert item.facts == look(os.fsdecode(b"caf\xe9.png"))
    assert item.source.stem == str(tmp_path)[1:] + "/" + os.fsdecode(b"caf\xe9.png")


def test_a_line_without_end_fills_no_memory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    put(Path("a.png"))
    blocks = [b"x" * 60_000] * 50 + [b"tail\na.png\n"]
    found = answers(feed(*blocks))
    assert [(len(path), status) for path, status in found] == [(65536, "error"), (5, "ok")]
    assert answers(feed(b"a\0b.png\na.png\n"), Nulls()) == [("a\0b.png", "error"), ("a.png", "ok")]


class Nulls(Reader):
    def lines(self, sources):
        if any("\0" in source.path for source in sources):
            raise ValueError("embedded null byte")
        return super().lines(sources)


def test_a_path_that_changes_while_it_is_read_is_an_error(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    put(Path("a.png"))
    judge = Reader(meanwhile={"a.png": None})
    judge.meanwhile = {str(tmp_path)[1:] + "/a.png": lambda: put(Path("a.png"), "ok, more")}
    (line,) = serve(feed(b"a.png\n"), judge)
    assert (line.status, line.reason, line.score) == ("error", "changed while it was being read", None)


def test_what_results_are_written_to_is_not_judged(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    put(Path("masks/a.png"))
    put(Path("a.png"))
    out, there = serve(feed(b"masks/../masks/a.png\na.png\n", keep_out=[("--masks", "masks")]), Reader())
    assert (out.status, out.reason) == ("error", "lies inside --masks masks, which results are written to")
    assert there.status == "ok"


def test_with_a_journal_a_path_that_comes_again_is_passed_over(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in "abc":
        put(Path(f"{name}.png"))
    text = b"a.png\nb.png\n./a.png\nno.png\nno.png\n"

    def run(*blocks):
        with Journal("j", model=MODEL) as journal:
            return answers(feed(*blocks, known=journal.holding), journal=journal)

    assert run(text, b"a.png\n") == [("a.png", "ok"), ("b.png", "ok"), ("no.png", "error")]
    assert run(text, b"c.png\n") == [("c.png", "ok")]
    put(Path("no.png"))
    put(Path("b.png"), "nothing")
    assert run(text) == [("b.png", "error"), ("no.png", "ok")]
    assert Counter(row["key"] for row in rows(Path("j"))).most_common(1)[0][1] == 1


# -- the journal


def rows(path: Path) -> list[dict]:
    head, *found = [json.loads(line) for line in path.read_bytes().splitlines()]
    assert head == {"journal": 1, "model": MODEL}
    return found


def test_a_journal_has_a_row_for_each_file_and_its_schema(watch, incoming, tmp_path):
    put(incoming / "a.png")
    put(incoming / "b.png", "nothing")
    with Journal(str(tmp_path / "j"), model=MODEL) as journal:
        watch(1, folder=watch.new(journal), journal=journal)
        assert journal.rows == 2
    a, _ = sorted(rows(tmp_path / "j"), key=lambda row: row["path"])
    facts = look(str(incoming / "a.png"))
    assert (a["path"], a["size"], a["mtime_ns"]) == (str(incoming / "a.png"), 2, facts.mtime_ns)
    assert a["key"] == key_of(str(incoming / "a.png"), facts).hex()
    validator = Draft202012Validator(make_schema("journal"))
    lines = [json.loads(line) for line in (tmp_path / "j").read_text().splitlines()]
    assert [list(validator.iter_errors(line)) for line in lines] == [[], [], []]
    assert list(validator.iter_errors({**a, "banana": 1})) != []


def test_a_row_is_on_the_disk_before_it_is_given(watch, incoming, tmp_path, monkeypatch):
    put(incoming / "a.png")
    synced = []
    plain = os.fsync
    monkeypatch.setattr(os, "fsync", lambda handle: (plain(handle), synced.append(os.fstat(handle).st_size)))
    with Journal(str(tmp_path / "j"), model=MODEL) as journal:
        for line in serve(watch.new(journal), watch.judge, journal=journal, tally=Tally()):
            assert json.loads((tmp_path / "j").read_bytes().splitlines()[-1])["path"] == line.path
            assert synced[-1] == (tmp_path / "j").stat().st_size
            break


def test_what_a_crash_left_of_the_last_row_is_cut_off_whatever_its_length(incoming, watch, tmp_path):
    put(incoming / "a.png", age=900)
    put(incoming / "b.png")
    file = tmp_path / "j"
    with Journal(str(file), model=MODEL) as journal:
        watch(1, folder=watch.new(journal), journal=journal)
    whole = file.read_bytes()
    ends = [i + 1 for i, byte in enumerate(whole) if byte == 10]
    assert len(ends) == 3
    for length in range(len(whole)):
        file.write_bytes(whole[:length])
        with Journal(str(file), model=MODEL) as journal:
            assert journal.cut == length - max([e for e in ends if e <= length], default=0)
            missing = 2 - journal.rows
            assert len(watch(1, folder=watch.new(journal), journal=journal)) == missing
        assert sorted(file.read_bytes().splitlines()) == sorted(whole.splitlines())


def test_a_damaged_line_is_named_and_nothing_is_touched(tmp_path, incoming, watch):
    for i in range(3):
        put(incoming / f"{i}.png")
    file = tmp_path / "j"
    with Journal(str(file), model=MODEL) as journal:
        watch(1, folder=watch.new(journal), journal=journal)
    lines = file.read_bytes().splitlines(keepends=True)
    for damage in (
        b"{}\n",
        b"\n",
        lines[2][:40] + b"\n",
        lines[2].replace(b'"key":"', b'"key":"x'),
        b"\x00" * 9 + b"\n",
    ):
        file.write_bytes(b"".join([lines[0], lines[1], damage, lines[3][:-9]]))
        before = file.read_bytes()
        with pytest.raises(RunError) as error:
            Journal(str(file), model=MODEL)
        assert str(error.value).startswith(f"{file}:3: damaged: ")
        assert error.value.help == "Mend or delete this line, or name another journal. Nothing was scored."
        assert file.read_bytes() == before


@pytest.mark.parametrize("text", [b"dear diary", b"dear diary\n", b"{}", b'{"path": "a"}\n', b"\x89PNG\r\n\x1a\n..."])
def test_a_file_that_is_no_journal_is_left_alone(tmp_path, text):
    (tmp_path / "j").write_bytes(text)
    with pytest.raises(RunError) as error:
        Journal(str(tmp_path / "j"), model=MODEL)
    assert parts.message(error) == (
        f"{tmp_path}/j: is no journal of uadctl",
        "Name another file. This one was left alone.",
    )
    assert (tmp_path / "j").read_bytes() == text


def test_a_journal_is_of_one_model(tmp_path):
    Journal(str(tmp_path / "j"), model=MODEL).__exit__(None, None, None)
    with pytest.raises(RunError) as error:
        Journal(str(tmp_path / "j"), model="f" * 64)
    assert str(error.value) == (
        f"{tmp_path}/j: its rows are of another model (0123456789ab) than this one (ffffffffffff)"
    )
    assert error.value.help == "Name another journal: one record never mixes the scores of two models."


def test_a_journal_is_one_process_s_alone(tmp_path):
    with Journal(str(tmp_path / "j"), model=MODEL):
        with pytest.raises(RunError) as error:
            Journal(str(tmp_path / "j"), model=MODEL)
        assert str(error.value) == f"{tmp_path}/j: in use by another process"
        assert error.value.exit_code == 2
    Journal(str(tmp_path / "j"), model=MODEL).__exit__(None, None, None)


def test_keys_are_known_exactly():
    numbers = np.random.default_rng(0)
    keys = [numbers.bytes(16) for _ in range(20_000)]
    # The end of one and the beginning of the next are no key, though they stand in the same bucket.
    pair = [b"\x12\x34" + b"a" * 6 + b"\x12\x35" + b"b" * 6, b"\x12\x36" + b"c" * 6 + b"\x12\x37" + b"d" * 6]
    found = Keys()
    for key in keys[:10_000] + pair:
        found.add(key)
    assert [key in found for key in keys] == [True] * 10_000 + [False] * 10_000
    assert [key in found for key in (*pair, pair[0][8:] + pair[1][:8])] == [True, True, False]


def filled(path: Path, rows: int) -> list[bytes]:
    """A journal with rows, whose keys are returned."""
    keys = [i.to_bytes(16, "big") for i in range(rows)]
    line = ScoreLine(path="x", status="ok", score=1.0)
    with Journal(str(path), model=MODEL) as journal:
        journal.append([row_of(service.Arrived(ImageSource("x", "x"), None, key), line) for key in keys])
    return keys


def test_a_journal_knows_its_rows_without_reading_them_again(tmp_path, monkeypatch):
    keys = filled(tmp_path / "j", 200)
    with Journal(str(tmp_path / "j"), model=MODEL) as journal:
        monkeypatch.setattr(journal, "_lines", None)
        assert journal.holding([*keys[:7], b"x" * 16]) == set(keys[:7])


def test_a_journal_that_takes_long_to_read_says_so(tmp_path):
    filled(tmp_path / "j", 5000)
    said, seconds = [], itertools.count(0, 3)
    Journal(
        str(tmp_path / "j"), model=MODEL, say=lambda *words: said.append(words), clock=lambda: next(seconds)
    ).__exit__(None, None, None)
    assert said == [("note", f"{tmp_path}/j: reading it, {rows} rows so far") for rows in (2047, 4095)]


def test_what_is_no_regular_file_holds_no_journal(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in ("/dev/null", str(tmp_path / "pipe")):
        with pytest.raises(SpecError) as error:
            Journal(path, model=MODEL)
        assert parts.message(error) == (f"{path}: is no regular file, and cannot hold a journal", "Name another file.")


def test_lines_are_read_up_to_a_bound_and_foreign_ones_hardly(tmp_path, monkeypatch):
    from uadctl.service import journal

    (tmp_path / "foreign").write_bytes(b"x" * 1_000_000)
    (tmp_path / "long head").write_bytes(b'{"journal":1,"model":"' + b"0" * 1_000_000)
    filled(tmp_path / "long row", 1)
    with (tmp_path / "long row").open("ab") as file:
        file.write(b'{"path":"' + b"x" * 10_000_000)
    monkeypatch.setattr(journal, "_LONGEST", 10_000)
    tracemalloc.start()
    for name, why in (
        ("foreign", ": is no journal of uadctl"),
        ("long head", ":1: damaged: more than 4096 bytes"),
        ("long row", ":3: damaged: more than 10000 bytes"),
    ):
        size = (tmp_path / name).stat().st_size
        with pytest.raises(RunError) as error:
            Journal(str(tmp_path / name), model=MODEL)
        assert str(error.value) == f"{tmp_path / name}{why}"
        assert (tmp_path / name).stat().st_size == size
    assert tracemalloc.get_traced_memory()[1] < 5_000_000  # of the buffer of the file, mostly
    tracemalloc.stop()


def test_an_image_with_a_row_too_long_for_a_journal_is_an_error(watch, incoming, tmp_path, monkeypatch):
    from uadctl.service import journal

    monkeypatch.setattr(journal, "_LONGEST", 1 << 20)
    put(incoming / "a.png")
    long = ScoreLine(path="a.png", status="ok", score=1.0, map="x" * (3 << 20))
    watch.judge.lines = lambda sources: [long]
    with Journal(str(tmp_path / "j"), model=MODEL) as record:
        (line,) = serve(Until(watch.new(record), watch.folder._clock, 0), watch.judge, journal=record)
        assert (line.status, line.score) == ("error", None)
        assert line.reason == "a row of 3 MiB, and a journal takes 1: too many regions"
        assert record.rows == 1
    Journal(str(tmp_path / "j"), model=MODEL).__exit__(None, None, None)


class Killed(BaseException):
    """Nothing runs after it, not even what tidies up."""


class Disk:
    """Counts the points at which the journal reaches the disk, and fails at one of them."""

    def __init__(self, monkeypatch, *, at: int, error: BaseException, share: float = 0.0) -> None:
        self.at, self.error, self.share, self.points = at, error, share, 0
        self.dead = False
        for name in ("write", "fsync", "ftruncate"):
            monkeypatch.setattr(os, name, self._failing(name, getattr(os, name)))

    def _failing(self, name, plain):
        def call(handle, *args):
            if self.dead:
                raise Killed
            if name != "ftruncate":
                self.points += 1
                if self.points == self.at:
                    if name == "write":
                        plain(handle, args[0][: int(len(args[0]) * self.share)])
                    self.dead = isinstance(self.error, Killed)
                    raise self.error
            return plain(handle, *args)

        return call


@pytest.mark.parametrize("share", [0.0, 0.4, 1.0])
@pytest.mark.parametrize(
    "error",
    [Killed(), OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()],
    ids=["kill", "full", "stop"],
)
def test_one_row_a_file_whenever_it_ends(incoming, clock, tmp_path, monkeypatch, error, share):
    for i in range(7):
        put(incoming / f"{i}.png", "nothing" if i == 3 else "ok", age=1000 - i)

    def run(file, at):
        with monkeypatch.context() as patch:
            disk = Disk(patch, at=at, error=error, share=share)
            ended, given = None, []
            try:
                with Journal(str(file), model=MODEL) as journal:
                    folder = Folder(str(incoming), known=journal.holding, clock=clock, sleep=clock.sleep)
                    feed = Until(folder, clock, clock.now + 0.1)
                    given += serve(feed, Reader(together=2), journal=journal, tally=Tally(clock=clock))
            except type(error) as raised:
                ended = raised
            return disk.points, ended

    points, ended = run(tmp_path / "all", 0)
    assert (points, ended) == (2 + 1 + 4 * 2, None)  # the head, its folder, and four batches
    for at in range(1, points + 1):
        file = tmp_path / f"{at}"
        _, ended = run(file, at)
        assert type(ended) is type(error)
        if isinstance(error, OSError):
            assert not file.exists() or file.read_bytes() == b"" or file.read_bytes().endswith(b"\n")
        _, ended = run(file, 0)
        assert ended is None
        names = Counter(Path(row["path"]).name for row in rows(file))
        assert names == {f"{i}.png": 1 for i in range(7)}


def test_a_full_disk_names_the_journal(watch, incoming, tmp_path, monkeypatch):
    put(incoming / "a.png")
    with Journal(str(tmp_path / "j"), model=MODEL) as journal:
        before = (tmp_path / "j").read_bytes()
        Disk(monkeypatch, at=1, error=OSError(errno.ENOSPC, "No space left on device"), share=0.5)
        with pytest.raises(OSError, match="No space left") as error:
            watch(1, folder=watch.new(journal), journal=journal)
        assert error.value.filename == str(tmp_path / "j")
        assert (tmp_path / "j").read_bytes() == before


SCRIPT = """
import sys
sys.path.insert(0, sys.argv[3])
from test_service import MODEL, Reader
from uadctl.service import Folder, Journal, serve
with Journal(sys.argv[2], model=MODEL) as journal:
    print("begun", flush=True)
    for line in serve(Folder(sys.argv[1], known=journal.holding), Reader(together=3), journal=journal):
        print(line.path, flush=True)
"""


def test_one_row_a_file_after_kill_9_at_any_moment(incoming, tmp_path):
    number, counts = 200, []
    for i in range(number):
        put(incoming / f"{i:04}.png", "nothing" if i % 50 == 0 else "ok")
    file = tmp_path / "j"
    rng = np.random.default_rng(7)
    command = [sys.executable, "-W", "ignore", "-c", SCRIPT, str(incoming), str(file), str(Path(__file__).parent)]
    # Each is killed when it has written so many rows more, and goes on writing until it is.
    for more in (*rng.integers(1, 30, size=5).tolist(), number):
        enough = min((counts or [1])[-1] + more, number + 1)
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            process.stdout.readline()  # it has begun
            while file.read_bytes().count(b"\n") < enough:
                time.sleep(0.0005)
            process.kill()
        counts.append(file.read_bytes().count(b"\n"))
    assert counts == sorted(counts)
    assert counts[0] < counts[-1]
    with Journal(str(file), model=MODEL) as journal:
        assert journal.rows == number
    assert Counter(row["path"] for row in rows(file)) == {str(p): 1 for p in incoming.iterdir()}


# -- judging


def test_what_is_there_is_judged_together_and_nothing_waits_for_more(watch, incoming, clock):
    for i in range(6):
        put(incoming / f"{i}.png", age=1000 - i)
    clock.at(2, lambda: put(incoming / "6.png"))
    assert len(watch(5)) == 7
    assert watch.judge.chunks == [["0.png", "1.png", "2.png", "3.png"], ["4.png", "5.png"], ["6.png"]]


def test_a_detector_that_fails_makes_an_error_of_one_image(watch, incoming):
    for i in range(4):
        put(incoming / f"{i}.png", "raise a hand" if i == 2 else "ok", age=1000 - i)
    lines = list(serve(Until(watch.folder, watch.folder._clock, 0), watch.judge))
    assert [(line.status, line.reason) for line in lines] == [
        ("ok", None),
        ("ok", None),
        ("error", "RuntimeError: cannot raise a hand"),
        ("ok", None),
    ]


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(errno.ENOSPC, "full")])
def test_what_is_no_fault_of_an_image_ends_the_service(watch, incoming, error):
    put(incoming / "a.png")

    def fail(sources):
        raise error

    watch.judge.lines = fail
    with pytest.raises(type(error)):
        watch(1)


def test_a_name_that_no_file_can_have_is_no_fault_of_the_disk(watch, incoming):
    put(incoming / "a.png")

    def fail(sources):
        raise OSError(errno.ENAMETOOLONG, "File name too long", "x.tiff")

    watch.judge.lines = fail
    assert watch(1) == [("a.png", "error")]


def test_it_ends_after_so_many_errors_and_says_no_more(watch, incoming, tmp_path):
    for i in range(8):
        put(incoming / f"{i}.png", "nothing" if i in (1, 4, 5) else "ok", age=1000 - i)
    with Journal(str(tmp_path / "j"), model=MODEL) as journal:
        found = watch(5, folder=watch.new(journal), journal=journal, max_errors=2)
        assert found == [(f"{i}.png", "error" if i in (1, 4) else "ok") for i in range(5)]
    assert [Path(row["path"]).name for row in rows(tmp_path / "j")] == [f"{i}.png" for i in range(5)]


def test_every_minute_it_tells_how_it_goes(watch, incoming, clock, monkeypatch):
    monkeypatch.setattr(serving, "resident", lambda: 123_456_789)
    put(incoming / "a.png")
    put(incoming / "b.png", "bad")
    put(incoming / "c.png", "nothing")
    clock.at(59, lambda: put(incoming / "d.png", age=-9))
    clock.at(70, lambda: [put(incoming / f"e{i}.png") for i in range(6)])
    said = []
    tally = Tally(clock=clock)
    feed = Until(watch.folder, clock, clock.now + 179)
    list(serve(feed, watch.judge, tally=tally, say=lambda kind, text: said.append((kind, text.partition(" ")[2]))))
    assert said == [
        (
            "note",
            "scored 2, anomalies 1, to review 0, errors 1, 0.1 images/s, waiting 1, memory 123 MB",
        ),
        ("note", "scored 9, anomalies 1, to review 0, errors 1, 0.1 images/s, waiting 0, memory 123 MB"),
    ]


def test_memory_is_what_the_system_says():
    if not Path("/proc/self/statm").exists():
        pytest.skip("the system has no /proc")
    assert 10e6 < service.resident() < 100e9
    assert service.resident(2**30) is None


# -- with a model, and from the command line


def test_a_journal_knows_a_model_by_what_it_has_learned(finished, tmp_path):
    fitted = load_run(finished, device="cpu")
    digest = model_digest(fitted)
    assert digest == model_digest(load_run(finished, device="cpu"))
    assert len(digest) == 64
    tensors, _ = fitted.detector.state()
    name = sorted(tensors)[0]
    changed = {**tensors, name: tensors[name].clone()}
    changed[name].reshape(-1)[0] += 1

    class Other:
        def state(self):
            return changed, {}

    assert model_digest(replace(fitted, detector=Other())) != digest
    assert model_digest(replace(fitted, model="other")) != digest
    assert model_digest(replace(fitted, calibration=replace(fitted.calibration, scores=()))) == digest


def test_a_model_as_a_judge(finished, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    parts.write(Path("in/a.png"), parts.surface(900))
    parts.write(Path("in/a.jpg"), parts.surface(900))
    Path("in/b.png").write_bytes(b"")
    model = Model(load_run(finished, device="cpu"), maps="maps", masks="masks")
    found = {line.path: line for line in serve(feed(b"in/a.png\nin/a.jpg\nin/b.png\n"), model)}
    assert [line.status for line in found.values()] == ["ok", "ok", "error"]
    here = str(tmp_path)[1:]
    assert found["in/a.png"].map == f"maps/{here}/in/a.png.tiff"
    assert sorted(str(p) for p in Path("masks").rglob("*.png")) == [
        f"masks/{here}/in/a.{s}.png" for s in ("jpg", "png")
    ]
    line = model.failed(ImageSource(os.fsdecode(b"\xe9.png"), "x"), ValueError("no \udce9"))
    assert (line.path, line.reason, line.threshold) == (
        "\\xe9.png",
        "ValueError: no \\udce9",
        model.fitted.calibration.image.value,
    )
    assert msgspec.json.encode(line)


def test_a_map_that_cannot_be_written_is_an_error_of_its_image(uadctl, finished, piped, tmp_path, monkeypatch):
    for name in ("a.png", "b.png", f"{'x' * 251}.png"):
        parts.write(tmp_path / "in" / name, parts.surface(900))
    (tmp_path / "maps" / "a.tiff").mkdir(parents=True)
    (tmp_path / "masks" / "b.png").mkdir(parents=True)
    ended = uadctl("score", finished, "in", "--json", "--maps", "maps", "--masks", "masks", code=1)
    first, second, third = ended.lines
    assert [(x["status"], x["map"], x["reason"]) for x in (first, second)] == [
        ("error", None, "maps/a.tiff: cannot be written: Is a directory"),
        ("error", None, "masks/b.png: cannot be written: Is a directory"),
    ]
    assert third["reason"] == f"maps/{'x' * 251}.tiff: cannot be written: File name too long"
    assert not (tmp_path / "maps" / "b.tiff").exists()
    piped(b"in/b.png\n")
    (tmp_path / "maps2").mkdir()
    (tmp_path / "maps2" / str(tmp_path).split("/")[1]).write_text("a file")
    ended = uadctl("score", finished, "--stdin", "--journal", "j", "--json", "--maps", "maps2", code=1)
    assert [(x["status"], x["reason"].partition(": ")[2]) for x in ended.lines] == [
        ("error", "cannot be written: Not a directory")
    ]

    def full(path, field):
        raise DiskError(str(path), errno.ENOSPC)

    monkeypatch.setattr("uadctl.intake.Intake.keep_map", lambda self, path, field: full(path, field))
    ended = uadctl("score", finished, "in/b.png", "--maps", "maps", code=1)
    assert (ended.out, ended.err.splitlines()[-1]) == (
        "",
        "error: maps/b.tiff: cannot be written: No space left on device",
    )


def test_outputs_are_files_of_their_own(uadctl, finished, tmp_path):
    for option, other in (("--output", "x.jsonl"), ("--coco", "x.json")):
        ended = uadctl("score", finished, "a.png", option, other, "--log-file", other, code=2)
        assert ended.err.splitlines()[0] == f"error: --log-file {other}: is the same file as {option}"
    (tmp_path / "in").mkdir()
    ended = uadctl("score", finished, "--watch", "in", "--journal", "j", "--log-file", "./j", code=2)
    assert ended.err.splitlines()[0] == "error: --log-file ./j: is the same file as --journal"
    ended = uadctl("score", finished, "--watch", "in", "--log-file", "in/l", code=2)
    assert ended.err.splitlines()[0] == "error: --log-file in/l: lies inside in, which is watched"
    (tmp_path / "spec.toml").write_text("[model]\n")
    for command in (("score", "spec.toml", "a.png"), ("bench", "spec.toml"), ("fit", "spec.toml")):
        ended = uadctl(*command, "--log-file", "spec.toml", code=2)
        name = "the model" if command[0] == "score" else "SPEC"
        assert ended.err.splitlines()[0] == f"error: --log-file spec.toml: is the same file as {name}"
    assert (tmp_path / "spec.toml").read_text() == "[model]\n"
    assert sorted(p.name for p in tmp_path.iterdir() if p.name in ("j", "x.json", "x.jsonl")) == []


USAGE = {
    (): "nothing to score: expected IMAGE..., --watch DIR or --stdin",
    ("a.png", "--stdin"): "IMAGE and --stdin: expected one of IMAGE..., --watch DIR and --stdin",
    ("--watch", "in", "--stdin"): "--watch and --stdin: expected one of IMAGE..., --watch DIR and --stdin",
    ("a.png", "--null"): "--null: has no effect without --stdin",
    ("--stdin", "--settle", "2"): "--settle 2: has no effect without --watch",
    ("--watch", "in", "--settle", "-1"): "--settle -1: expected a number of seconds >= 0",
    ("--watch", "in", "--settle", "nan"): "--settle nan: expected a number of seconds >= 0",
    ("a.png", "--journal", "j"): "--journal j: has no effect without --watch or --stdin",
    ("--watch", "a.png"): "a.png: is a file, not a folder",
    ("a.png", "--max-errors", "0"): "--max-errors 0: expected an integer >= 1",
    ("--watch", "in", "--output", "x.csv"): "--output x.csv: appears when all is scored, and --watch does not end",
    ("--stdin", "--coco", "x.json"): "--coco x.json: describes a set of images that is known; it goes without --stdin",
    ("--watch", "in", "--coco", "x.json"): (
        "--coco x.json: describes a set of images that is known; it goes without --watch"
    ),
    ("--watch", "in", "--fail-on-anomaly"): (
        "--fail-on-anomaly: is an exit code for when all is scored, and --watch does not end"
    ),
    ("--watch", "in", "--maps", "in/maps"): "--maps in/maps: lies inside in, which is watched",
    ("--watch", "in", "--journal", "in/j"): "--journal in/j: lies inside in, which is watched",
    ("--stdin", "--journal", "in"): "--journal in: is a folder, expected a file to write",
}


@pytest.mark.parametrize(
    ("options", "wanted"), USAGE.items(), ids=lambda x: " ".join(x) if isinstance(x, tuple) else ""
)
def test_what_does_not_go_together(uadctl, finished, incoming, options, wanted):
    parts.write(Path("a.png"), parts.surface(1))
    ended = uadctl("score", finished, *options, code=2)
    assert (ended.out, ended.err.splitlines()[0]) == ("", f"error: {wanted}")


@pytest.fixture
def piped(monkeypatch):
    """Have the command read this from its stdin."""
    from uadctl.cli import score

    def pipe(data: bytes) -> None:
        waiting = [data]
        monkeypatch.setattr(score, "_stdin", lambda: lambda seconds: waiting.pop() if waiting else b"")

    return pipe


def test_paths_from_stdin(uadctl, finished, piped, tmp_path):
    parts.write(tmp_path / "a.png", parts.surface(900))
    parts.write(tmp_path / "b.png", parts.scratched(901)[0])
    piped(b"a.png\nb.png\n")
    ended = uadctl("score", finished, "--stdin", "--json", "--fail-on-anomaly", "--output", "x.jsonl", code=4)
    assert [(x["path"], x["verdict"]) for x in ended.lines] == [("a.png", "good"), ("b.png", "anomaly")]
    assert (tmp_path / "x.jsonl").read_text() == ended.out
    plain = uadctl("score", finished, "a.png", "b.png", "--json")
    assert plain.out == ended.out
    piped(b"b.png\nno.png\na.png\n")
    ended = uadctl("score", finished, "--stdin", "--only-anomalies", "--journal", "j", "-q", code=1)
    assert [line.split()[0] for line in ended.out.splitlines()] == ["anomaly", "error"]
    assert len((tmp_path / "j").read_bytes().splitlines()) == 4
    assert ended.err == ""
    (tmp_path / "j").write_bytes((tmp_path / "j").read_bytes()[:-30])
    piped(b"b.png\nno.png\na.png\n")
    ended = uadctl("score", finished, "--stdin", "--journal", "j")
    assert [line.split()[-1] for line in ended.out.splitlines()] == ["a.png"]
    assert "warning: j: the last row was cut short by a crash (" in ended.err


def test_so_many_errors_end_it(uadctl, finished, piped, tmp_path):
    parts.write(tmp_path / "a.png", parts.surface(900))
    piped(b"no1.png\na.png\nno2.png\nno3.png\na.png\n")
    message = "error: 2 files with an error: ended, as --max-errors 2 wants\n"
    ended = uadctl("score", finished, "--stdin", "--json", "--max-errors", 2, code=1)
    assert [x["path"] for x in ended.lines] == ["no1.png", "a.png", "no2.png"]
    assert ended.err.endswith(message)
    ended = uadctl(
        "score", finished, "no1", "a.png", "no2", "no3", "--json", "--max-errors", 2, "--output", "x.csv", code=1
    )
    assert [x["path"] for x in ended.lines] == ["no1", "a.png", "no2"]
    assert ended.err.endswith(message)
    piped(b"no1.png\na.png\nno2.png\n")
    uadctl("score", finished, "--stdin", "--max-errors", 2, "--output", "x.csv", code=1)
    assert [p.name for p in tmp_path.iterdir() if p.name.endswith((".csv", ".part"))] == []


def test_the_program_watches_until_it_is_ended_and_goes_on_where_it_stopped(finished, incoming, tmp_path):
    command = [sys.executable, "-m", "uadctl", "score", str(finished), "--watch", "in", "--journal", "j", "--json"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}

    def start():
        return subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path, env=environment
        )

    with start() as first:
        parts.write(incoming / "a.png", parts.surface(900))
        (incoming / "b.png").write_bytes(b"")
        found = [json.loads(first.stdout.readline()) for _ in range(2)]
        assert sorted((x["path"], x["status"]) for x in found) == [("in/a.png", "ok"), ("in/b.png", "error")]
        with start() as second:
            _, err = second.communicate(timeout=60)
            assert (second.returncode, "error: j: in use by another process" in err) == (2, True)
        first.send_signal(signal.SIGTERM)
        assert first.wait(30) == 130
        assert "error: interrupted\n  The same command goes on where this one stopped.\n" in first.stderr.read()
    with start() as third:
        parts.write(incoming / "c.png", parts.surface(901))
        assert json.loads(third.stdout.readline())["path"] == "in/c.png"
        third.send_signal(signal.SIGINT)
        assert third.wait(30) == 130
    assert len((tmp_path / "j").read_bytes().splitlines()) == 4
