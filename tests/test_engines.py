"""What engines share: handing units out, whatever becomes of workers, and carrying back what they say."""

from __future__ import annotations

import os
import pickle
import random
import re
import socket
import subprocess
import sys
import threading
from typing import Any

import pytest
from engine_jobs import ERRORS, FromElsewhere, Odd, Recorder, Work

from uadctl.engines import ATTEMPTS, Here, Unit, UnitLost
from uadctl.engines.carrying import Answer, Failure, Mirror, Relay
from uadctl.engines.scheduling import AHEAD, Done, Lost, Opened, Refused, Said, schedule
from uadctl.engines.shell import Shell, printing_into
from uadctl.errors import DataError, DiskError, RunError
from uadctl.progress import Silent


class Puppets:
    """A crew without processes: what happens next is drawn, or done in turn.

    losses: by payload how often its worker is lost. opening: how many workers are lost while they open, at first.
    """

    def __init__(self, workers: int, *, losses: dict[int, int] | None = None, opening: int = 0, seed: int = 0):
        self.workers = workers
        self.dice = random.Random(seed)
        self.losses = dict(losses or {})
        self.opening = opening
        self.employed = 0
        self.making_ready: list[int] = []
        self.idle: list[int] = []
        self.busy: dict[int, Unit[int]] = {}
        self.queued: list[Any] = []
        self.closed = False

    def employ(self, number: int) -> None:
        assert 1 <= number <= self.workers
        while len(self.making_ready) + len(self.idle) + len(self.busy) < number:
            self.employed += 1
            self.making_ready.append(self.employed)

    def hand(self, worker: int, unit: Unit[int]) -> None:
        self.idle.remove(worker)
        self.busy[worker] = unit

    def events(self) -> list[Any]:
        said, self.queued = self.queued, []
        for worker in list(self.making_ready):
            if self.dice.random() < 0.3:
                continue
            self.making_ready.remove(worker)
            if self.opening:
                self.opening -= 1
                said.append(Lost(worker, "was lost"))
            else:
                self.idle.append(worker)
                said.append(Opened(worker))
        for worker, unit in list(self.busy.items()):
            if self.dice.random() < 0.5:
                said.append(Said(worker, {1: ("bar", 9, "images", self.dice.randrange(9))}))
                continue
            del self.busy[worker]
            if self.losses.get(unit.payload, 0):
                self.losses[unit.payload] -= 1
                said.append(Lost(worker, "was lost"))
            else:
                self.idle.append(worker)
                said.append(Done(worker, Answer(unit.payload**2, None, (f"warning of {unit.payload}",))))
        return said

    def close(self) -> None:
        self.closed = True


def run(crew: Any, units: Any, *, progress: Any = None, ordered: bool = False, **more: Any) -> list[Any]:
    told = {"begun": None, "title": None, **more}
    return list(schedule(crew, units, progress=progress or Silent(), ordered=ordered, **told))


def titled(payloads: Any) -> list[Unit[int]]:
    return [Unit(payload, f"unit {payload}") for payload in payloads]


@pytest.mark.parametrize("ordered", [False, True])
def test_each_unit_comes_back_once_whatever_is_lost(ordered):
    lost_for_good = 0
    for seed in range(300):
        dice = random.Random(seed)
        many, workers = dice.randrange(1, 41), dice.randrange(1, 5)
        losses = {n: dice.choice([0, 0, 0, 1, 2, 3, 7]) for n in range(many)}
        crew = Puppets(workers, losses=losses, seed=seed)
        progress, begun, taken, back = Recorder(), [], [], []

        def source(many=many, taken=taken, back=back, workers=workers):
            for n in range(many):
                taken.append(n)
                assert len(taken) - len(back) <= (AHEAD if ordered else 4) * workers
                yield Unit(n, f"unit {n}")

        for outcome in schedule(
            crew, source(), progress=progress, begun=begun.append, ordered=ordered, title="all of them"
        ):
            back.append(outcome)
        indices = [outcome.index for outcome in back]
        assert sorted(indices) == list(range(many))
        assert indices == sorted(indices) or not ordered
        for outcome in back:
            n = outcome.index
            assert outcome.attempts == min(losses[n] + 1, ATTEMPTS) == begun.count(n)
            assert (outcome.result, outcome.error is None) == ((n * n, True) if losses[n] < ATTEMPTS else (None, False))
            lost_for_good += outcome.error is not None
        done = [n for n in range(many) if losses[n] < ATTEMPTS]
        assert sorted(w for w in progress.warnings if w.startswith("warning")) == sorted(
            f"warning of {n}" for n in done
        )
        begun_again = sum(min(n, ATTEMPTS - 1) for n in losses.values())
        assert len(progress.warnings) == len(done) + begun_again
        assert {bar[4] for bar in progress.bars} == {"closed"}
        assert progress.bars[0] == ["all of them", None, "units", many, "closed"]
        assert crew.closed
    assert lost_for_good > 100


def test_what_is_lost_is_told():
    progress = Recorder()
    (first, second) = sorted(run(Puppets(1, losses={0: 3}), titled([0, 1]), progress=progress), key=lambda o: o.index)
    assert progress.warnings == [
        "unit 0: its worker was lost; it is begun again (2 of 3)",
        "unit 0: its worker was lost; it is begun again (3 of 3)",
        "warning of 1",
    ]
    assert isinstance(first.error, UnitLost)
    assert str(first.error) == "given up, since its worker ended 3 times: was lost"
    assert second.result == 1


def test_of_units_in_number_the_bar_knows_how_many():
    progress = Recorder()
    run(Puppets(2), titled(range(7)), progress=progress, title="units")
    assert progress.bars[0] == ["units", 7, "units", 7, "closed"]
    run(Puppets(2), titled(range(3)), progress=(silent := Recorder()))
    assert "units" not in [bar[0] for bar in silent.bars]


def test_nothing_to_do_starts_nothing():
    crew = Puppets(2)
    assert run(crew, []) == []
    assert crew.employed == 0
    assert crew.closed


def test_no_more_workers_than_units():
    crew = Puppets(4)
    run(crew, titled([5]))
    assert crew.employed == 1


def test_where_there_is_no_room_yet_units_wait():
    class Late(Puppets):
        def events(self) -> list[Any]:
            said = super().events()
            self.room = True
            return said

        room = False

        @property
        def workers(self) -> int:
            return self.many if self.room else 0

        @workers.setter
        def workers(self, many: int) -> None:
            self.many = many

        def employ(self, number: int) -> None:
            if self.room:
                super().employ(number)

    assert [outcome.result for outcome in run(Late(2), titled([2, 3]), ordered=True)] == [4, 9]


def test_workers_that_never_make_ready_end_all():
    crew = Puppets(2, opening=3)
    told = r"^no worker can be started: 3 ended one after the other while they made ready, the last one was lost$"
    with pytest.raises(RunError, match=told) as caught:
        run(crew, titled(range(4)))
    assert caught.value.help == (
        "Too little memory for so many workers is the usual reason, and on Ray a cluster that is going away "
        "(`ray status`); see docs/scaling.md."
    )
    assert crew.closed


def test_workers_that_sometimes_do_not_make_ready_are_replaced():
    crew = Puppets(2, opening=2)
    assert sorted(o.result for o in run(crew, titled(range(4)))) == [0, 1, 4, 9]
    assert crew.employed == 4


def test_workers_that_end_before_they_can_be_given_a_unit_end_all():
    class Opens(Puppets):
        def events(self) -> list[Any]:
            workers, self.making_ready = self.making_ready, []
            return [event for w in workers for event in (Opened(w), Lost(w, "fell over"))]

    with pytest.raises(RunError, match=r"^no worker can be started: 3 ended .*, the last one fell over$"):
        run(Opens(2), titled(range(4)))


class Scripted(Puppets):
    """What happens is given, one batch of events after the other."""

    def __init__(self, workers: int, *script: list[Any]) -> None:
        super().__init__(workers)
        self.script = list(script)

        self.asked: list[int] = []

    def employ(self, number: int) -> None:
        self.asked.append(number)

    def hand(self, worker: int, unit: Unit[int]) -> None:
        pass

    def events(self) -> list[Any]:
        return self.script.pop(0)


def done(worker: int) -> Done[Any]:
    return Done(worker, Answer(worker))


def test_idle_workers_that_are_lost_are_no_matter():
    crew = Scripted(
        4,
        [Opened(n) for n in range(4)],
        [done(n) for n in range(3)],
        [Lost(n, "dozed off") for n in range(3)],
        [done(3)],
    )
    progress = Recorder()
    assert [outcome.result for outcome in run(crew, titled(range(4)), progress=progress)] == [0, 1, 2, 3]
    assert progress.warnings == []


def test_where_there_is_no_room_for_all_workers_it_goes_on_with_fewer():
    lost = [[Lost(n, "fell over")] for n in (2, 3, 4)]
    crew = Scripted(3, [Opened(1)], *lost, [done(1)], [done(1)], [done(1)], [done(1)])
    progress = Recorder()
    assert len(run(crew, titled(range(4)), progress=progress)) == 4
    assert crew.asked[:4] == [3, 3, 3, 3]
    assert set(crew.asked[7:]) == {1}
    assert progress.warnings == [
        "no more workers can be started: 3 ended one after the other while they made ready, the last one fell over; it "
        "goes on with those that are there: 1"
    ]
    crew = Scripted(3, [Opened(1)], *lost, [Lost(1, "was lost")], [Lost(5, "x")], [Lost(6, "x")], [Lost(7, "y")])
    with pytest.raises(RunError, match=r", the last one [xy]$"):
        run(crew, titled(range(4)))


def test_losses_while_workers_make_ready_count_only_in_succession():
    crew = Scripted(
        1,
        *([Lost(1, "fell over")], [Lost(2, "fell over")], [Opened(3)], [Lost(3, "was lost")]),
        *([Lost(4, "fell over")], [Opened(5)], [done(5)], [Lost(5, "was lost")]),
        *([Lost(6, "fell over")], [Lost(7, "fell over")], [Opened(8)], [done(8)]),
    )
    assert [(o.result, o.attempts) for o in run(crew, titled(range(2)))] == [(5, 2), (8, 2)]


@pytest.mark.parametrize("place", ["before", "after"])
def test_what_is_done_is_given_back_before_an_error_ends_all(place):
    class Refuses(Puppets):
        def events(self) -> list[Any]:
            said = list(super().events())
            if any(isinstance(event, Done) for event in said):
                refused = Refused(99, Failure.of(DataError("no data", help="Get some.")))
                said = [refused, *said] if place == "before" else [*said, refused]
            return said

    crew, found = Refuses(2), []
    with pytest.raises(DataError) as caught:
        found.extend(
            outcome.index
            for outcome in _each(
                schedule(crew, titled(range(9)), progress=Silent(), begun=None, ordered=False, title=None), found
            )
        )
    assert (str(caught.value), caught.value.help) == ("no data", "Get some.")
    assert len(found) >= 1
    assert crew.closed


def _each(outcomes: Any, found: list[int]) -> Any:
    for outcome in outcomes:
        found.append(outcome.index)
    return []


def test_idle_workers_get_their_next_unit_before_results_are_used():
    crew = Puppets(2, seed=1)
    outcomes = schedule(crew, titled(range(12)), progress=Silent(), begun=None, ordered=False, title=None)
    for count, _ in enumerate(outcomes):
        assert count >= 8 or not crew.idle


def test_closing_early_closes_the_crew_and_the_bars():
    crew, progress = Puppets(2, seed=3), Recorder()
    outcomes = schedule(crew, titled(range(50)), progress=progress, begun=None, ordered=False, title="units")
    for _ in range(5):
        next(outcomes)
    assert [bar[4] for bar in progress.bars].count("open") > 1
    outcomes.close()
    assert crew.closed
    assert {bar[4] for bar in progress.bars} == {"closed"}


@pytest.mark.parametrize("ordered", [False, True])
def test_units_are_taken_as_there_is_need(ordered):
    taken = []

    def endless():
        n = 0
        while True:
            taken.append(n)
            yield Unit(n, "one of many")
            n += 1

    outcomes = schedule(Puppets(3), endless(), progress=Silent(), begun=None, ordered=ordered, title=None)
    for _ in range(10):
        next(outcomes)
    outcomes.close()
    assert 10 <= len(taken) <= 10 + AHEAD * 3


def test_in_order_one_slow_unit_holds_back_only_so_many():
    class Slow(Puppets):
        """The first unit takes until nothing else can go on."""

        def hand(self, worker: int, unit: Unit[int]) -> None:
            super().hand(worker, unit)
            self.handed = unit.payload

        def events(self) -> list[Any]:
            first = next((w for w, unit in self.busy.items() if unit.payload == 0), None)
            if first is None or (len(self.busy) == 1 and self.idle and not self.making_ready):
                return super().events()
            unit = self.busy.pop(first)
            said = super().events()
            self.busy[first] = unit
            return said

    taken = []

    def source():
        for n in range(60):
            taken.append(n)
            yield Unit(n, "a unit")

    crew = Slow(3)
    outcomes = schedule(crew, source(), progress=Silent(), begun=None, ordered=True, title=None)
    assert next(outcomes).index == 0
    assert len(taken) <= AHEAD * 3 + 6  # what was held back, and what is handed out since
    assert [o.index for o in outcomes] == list(range(1, 60))


# ---- Here


def test_here_does_units_in_turn(tmp_path):
    progress, begun = Recorder(), []
    works = [Work("square", 2), Work("data", 3), Work("square", 4)]
    outcomes = list(
        Here().map(Odd(tmp_path), (Unit(w, "unit") for w in works), progress=progress, begun=begun.append, title="t")
    )
    assert [(o.index, o.attempts, o.result, type(o.error)) for o in outcomes] == [
        (0, 1, 4, type(None)),
        (1, 1, None, DataError),
        (2, 1, 16, type(None)),
    ]
    assert begun == [0, 1, 2]
    assert progress.warnings == ["warning of 2", "warning of 3", "warning of 4"]
    assert [told for told, _ in progress.failures] == ["failure of 2", "failure of 4"]
    assert (Here().name, Here().workers, Here().facts()) == (
        "local",
        1,
        {"name": "local", "workers": 1, "nodes": [socket.gethostname()]},
    )


def test_here_takes_units_one_by_one(tmp_path):
    taken = []

    def units():
        for n in range(9):
            taken.append(n)
            yield Unit(Work(number=n), "unit")

    outcomes = Here().map(Odd(tmp_path), units(), progress=Silent())
    next(outcomes)
    assert taken == [0]


def test_here_each_unit_computes_with_the_jobs_threads(tmp_path):
    import torch

    before = torch.get_num_threads()
    try:
        job = Odd(tmp_path, threads=2)  # the work itself leaves three behind
        outcomes = Here().map(job, [Unit(Work("threads", n), "unit") for n in range(3)], progress=Silent())
        assert [outcome.result for outcome in outcomes] == [2, 2, 2]
    finally:
        torch.set_num_threads(before)


# ---- errors


def carried(error: Exception) -> Exception:
    failure = pickle.loads(pickle.dumps(Failure.of(error)))
    found: Exception = failure.error()
    return found


def raised(name: str) -> Exception:
    try:
        raise ERRORS[name]()
    except Exception as error:  # noqa: BLE001 - whatever it is
        return error


@pytest.mark.parametrize("name", ERRORS)
def test_errors_are_carried(name):
    error = raised(name)
    found = carried(error)
    assert str(found) == str(error)
    assert (
        isinstance(found, DataError)
        if isinstance(error, FromElsewhere)
        else type(found).__name__ == type(error).__name__
    )
    facts = ("problems", "help", "source", "large", "number", "errno", "strerror", "filename", "exit_code")
    for fact in facts:
        assert getattr(found, fact, None) == getattr(error, fact, None), fact
    (note,) = found.__notes__
    assert re.match(r"In the worker:\n(  \+ Exception Group )?Traceback", note)
    assert str(error) in note or "group" in name


def test_errors_can_be_caught_as_before():
    disk, file, named = (carried(raised(name)) for name in ("disk", "file", "bytes"))
    assert [type(carried(raised(name))) for name in ("value", "runtime", "memory")] == [
        ValueError,
        RuntimeError,
        MemoryError,
    ]
    assert isinstance(disk, DiskError)
    assert (disk.filename, disk.errno, disk.told("b.tiff").errno) == ("maps/1.tiff", 28, 28)
    assert str(disk) == "maps/1.tiff: cannot be written: No space left on device"
    assert isinstance(file, FileNotFoundError)
    assert (file.filename, file.errno, file.strerror) == ("nowhere/at_all", 2, "No such file or directory")
    assert isinstance(named, FileNotFoundError)
    assert named.filename == b"nowhere/at_all"
    for name, kind in (("other", KeyError), ("awkward", UnicodeError), ("memory", MemoryError), ("key", KeyError)):
        assert isinstance(carried(raised(name)), kind), name
    assert str(carried(raised("key"))) == "'tile'"


def test_a_carried_error_is_printed_as_it_was():
    import traceback

    for name in ("value", "key", "other", "awkward"):
        error, found = raised(name), carried(raised(name))
        assert traceback.format_exception_only(found)[0] == traceback.format_exception_only(error)[0]


def test_an_error_of_another_libraries_file_class_is_carried():
    class DriveError(OSError):
        pass

    found = carried(DriveError(5, "Input/output error", "a.png"))
    assert isinstance(found, OSError)
    assert type(found).__name__ == "DriveError"
    assert (found.errno, found.filename, str(found)) == (5, "a.png", "[Errno 5] Input/output error: 'a.png'")
    assert str(carried(OSError("no number"))) == "no number"


# ---- bars, warnings, logs


def test_bars_are_mirrored():
    relay, progress = Relay(), Recorder()
    mirror = Mirror(progress)
    mirror.show(relay.bars())
    with relay.task("maps", 5) as maps:
        maps.advance(2)
        mirror.show(pickle.loads(pickle.dumps(relay.bars())))
        with relay.task("tiles", None, unit="tiles") as tiles:
            tiles.advance()
            mirror.show(relay.bars())
            assert progress.bars == [["maps", 5, "images", 2, "open"], ["tiles", None, "tiles", 1, "open"]]
        maps.advance()
        mirror.show(relay.bars())
        mirror.show(relay.bars())
        assert progress.bars == [["maps", 5, "images", 3, "open"], ["tiles", None, "tiles", 1, "closed"]]
    mirror.close()
    mirror.close()
    assert [bar[4] for bar in progress.bars] == ["closed", "closed"]
    relay.advance(1, 1)  # one that is closed


def test_a_bar_with_the_number_of_another_is_another():
    progress = Recorder()
    mirror = Mirror(progress)
    mirror.show({1: ("fit", 9, "images", 5)})
    mirror.show({1: ("score", 9, "images", 6)})
    mirror.show({1: ("score", 9, "images", 2)})
    mirror.close()
    assert progress.bars == [
        ["fit", 9, "images", 5, "closed"],
        ["score", 9, "images", 6, "closed"],
        ["score", 9, "images", 2, "closed"],
    ]


def test_a_shell_answers_each_unit_for_itself(tmp_path):
    shell = Shell(Odd(tmp_path))
    first = shell.do(Unit(Work("square", 3), "unit"))
    second = shell.do(Unit(Work("data", 4), "unit"))
    assert (first.result, first.failure, first.warnings) == (9, None, ("warning of 3",))
    ((told, failure),) = first.failures
    assert (told, str(failure.error())) == ("failure of 3", "3.png: broken")
    assert (second.result, second.warnings, second.failures) == (None, ("warning of 4",), ())
    assert second.failure is not None
    assert str(second.failure.error()) == "a.png: broken\nb.png: broken"


def test_a_shell_does_every_unit_with_the_jobs_threads_in_whatever_thread(tmp_path):
    import torch

    before = torch.get_num_threads()
    try:
        shell = Shell(Odd(tmp_path, threads=2))
        found = []
        for n in range(2):
            found.append(shell.do(Unit(Work("threads", n), "unit")).result)
            thread = threading.Thread(
                target=lambda n=n: found.append(shell.do(Unit(Work("threads", n + 7), "u")).result)
            )
            thread.start()
            thread.join()
        assert found == [2, 2, 2, 2]
    finally:
        torch.set_num_threads(before)


PRINTS = """
import os, subprocess, sys
from pathlib import Path
from uadctl.engines.shell import printing_into
def open_files():
    return len(os.listdir("/proc/self/fd")) if sys.platform == "linux" else 0
before = open_files()
print("at first")
for _ in range(3):
    with printing_into(Path(sys.argv[1])):
        print("by Python")
        print("to stderr", file=sys.stderr)
        os.write(1, b"from C\\n")
        subprocess.run([sys.executable, "-c", "print('by a child')"], check=True)
print(open_files() - before)
"""


def run_program(code: str, *words: object) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    env.pop("PYTHONUNBUFFERED", None)
    program = [sys.executable, "-c", code, *map(str, words)]
    return subprocess.run(program, capture_output=True, text=True, env=env, check=False)


def test_what_a_unit_prints_lands_in_its_log(tmp_path):
    log = tmp_path / "log"
    log.write_text("before\n")
    done = run_program(PRINTS, log)
    assert (done.stdout, done.stderr) == ("at first\n0\n", "")
    lines = log.read_text().splitlines()
    assert lines[0] == "before"
    assert sorted(lines[1:]) == sorted(3 * ["by Python", "to stderr", "from C", "by a child"])


@pytest.mark.parametrize("watched", [False, True])
def test_a_log_leaves_the_watch_for_crashes_as_it_was(tmp_path, watched):
    code = (
        "import faulthandler, os, sys\n"
        "from pathlib import Path\n"
        "from uadctl.engines.shell import printing_into\n"
        f"faulthandler.enable() if {watched} else faulthandler.disable()\n"
        "with printing_into(Path(sys.argv[1])):\n"
        "    assert faulthandler.is_enabled()\n"
        "    if sys.argv[2] == 'in': faulthandler._sigsegv()\n"
        f"assert faulthandler.is_enabled() is {watched}\n"
        "faulthandler._sigsegv()\n"
    )
    for place in ("in", "after"):
        log = tmp_path / place
        done = run_program(code, log, place)
        assert done.returncode == -11, done.stderr
        assert ("Segmentation fault" in log.read_text()) is (place == "in")
        assert ("Segmentation fault" in done.stderr) is (place == "after" and watched)


def test_a_log_that_cannot_be_written_changes_nothing(tmp_path, capfd):
    for file in (None, tmp_path / "nowhere" / "log"):
        with printing_into(file):
            print("seen", flush=True)
        assert capfd.readouterr().out == "seen\n"
    assert list(tmp_path.iterdir()) == []


def test_without_streams_there_is_no_log(tmp_path):
    code = (
        "import os, sys\nfrom pathlib import Path\nfrom uadctl.engines.shell import printing_into\n"
        "os.close(1)\nos.close(2)\n"
        "with printing_into(Path(sys.argv[1])): Path(sys.argv[2]).touch()\n"
    )
    run_program(code, tmp_path / "log", tmp_path / "there")
    assert (tmp_path / "there").exists()


def test_the_log_of_what_was_given_up_is_in_the_error(tmp_path):
    log = tmp_path / "log"

    class Prints(Puppets):
        def hand(self, worker: int, unit: Unit[int]) -> None:
            super().hand(worker, unit)
            if unit.payload == 0:
                with log.open("a") as file:
                    file.write("x" * 9000 + f"\nattempt of {worker}\n")

    units = [Unit(0, "first", log), Unit(1, "second", log.with_name("other"))]
    (outcome,) = (o for o in run(Prints(1, losses={0: 3, 1: 2}), units) if o.index == 0)
    assert isinstance(outcome.error, UnitLost)
    assert outcome.error.log.splitlines()[-1] == "attempt of 3"
    assert len(outcome.error.log) < 20_001
    assert outcome.error.__notes__ == [f"What its workers printed:\n{outcome.error.log}"]
    assert not log.exists()


def test_a_log_goes_when_its_unit_is_done(tmp_path):
    log = tmp_path / "log"
    log.touch()
    run(Puppets(1), [Unit(0, "first", log)])
    assert not log.exists()
