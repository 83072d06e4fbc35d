"""`fuzz.images`, in little: what it makes is what it says, and a door that lets something else out is noticed."""

from __future__ import annotations

import multiprocessing
from collections.abc import Generator
from pathlib import Path

import numpy as np
import pytest

from fuzz import __main__ as command
from fuzz import images
from fuzz.figures import saved
from uadctl.errors import DataError
from uadctl.imaging import files


def test_some_hundred_inputs_bring_nothing_but_pictures_and_data_errors(tmp_path: Path) -> None:
    refused = 0
    for number in range(400):
        kind, fault = images._judged(images.made(number, 7), tmp_path)
        assert (kind in ("", "DataError"), fault) == (True, ""), number
        refused += kind == "DataError"
    assert 250 < refused < 400


def test_the_seeds_are_whole_and_of_every_format(tmp_path: Path) -> None:
    assert len(images.seeds()) == 43
    for name, data in images.seeds():
        assert images._judged(data, tmp_path) == (("DataError" if name == "tiff pages" else ""), ""), name


def test_the_same_seed_gives_the_same_inputs() -> None:
    assert [images.made(n, 3) for n in range(50)] == [images.made(n, 3) for n in range(50)]
    assert images.made(5, 3) != images.made(5, 4)


def test_what_comes_out_of_a_broken_door_is_a_finding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = dict(images.seeds())["png 8 2"]

    def broken(path: str, **_: object) -> np.ndarray:
        raise ZeroDivisionError("division by zero")

    monkeypatch.setattr(files, "read_image", broken)
    kind, fault = images._judged(whole, tmp_path)
    assert (kind, fault.startswith("ZeroDivisionError in test_fuzz_images.py:broken")) == ("ZeroDivisionError", True)
    monkeypatch.setattr(files, "read_image", lambda path, **_: np.zeros((24, 33, 3), np.uint8))
    assert "AssertionError" in images._judged(whole, tmp_path)[0]

    def nameless(path: str, **_: object) -> np.ndarray:
        raise DataError("something is wrong")

    monkeypatch.setattr(files, "read_image", nameless)
    assert "an error does not name its file: something is wrong" in images._judged(whole, tmp_path)[1]


def test_a_process_that_dies_is_counted_and_the_rest_goes_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(images, "_work", _dies_at_the_second)
    found = list(images._outcomes(4, 0, tmp_path))
    assert [outcome.number for outcome in found] == [0, 1, 2, 3]
    assert [outcome.kind for outcome in found] == ["", "crash (SIGSEGV)", "", ""]
    figures = images.run(4, 0)
    assert (figures.inputs, figures.accepted, figures.refused) == (4, 3, {"crash (SIGSEGV)": 1})
    assert [(one.what, one.times) for one in figures.findings] == [("the process ended with SIGSEGV", 1)]
    assert figures.findings[0].case == {"image": images.made(1, 0)}


def test_a_hang_is_counted_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "_work", _hangs_at_the_second)
    monkeypatch.setattr(images, "PATIENCE", 8.0)
    figures = images.run(3, 0)
    assert (figures.accepted, figures.refused, figures.worst_seconds) == (2, {"hang": 1}, 8.0)
    assert [(one.what, one.times) for one in figures.findings] == [("no word for 8 s", 1)]


def test_ctrl_c_leaves_what_was_counted_and_no_process(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = images._outcomes
    children: list[int] = []

    def interrupted(inputs: int, seed: int, folder: Path) -> Generator[images.Outcome]:
        for outcome in whole(inputs, seed, folder):
            children[:] = [child.pid for child in multiprocessing.active_children() if child.pid is not None]
            if outcome.number == 2:
                raise KeyboardInterrupt
            yield outcome

    monkeypatch.setattr(images, "_outcomes", interrupted)
    assert command.main(["images", "--inputs", "1000"]) == 0
    assert capsys.readouterr().out.splitlines()[2].startswith("| images | 2 | ")
    assert len(children) == 1
    assert multiprocessing.active_children() == []


def test_what_was_found_is_kept_and_replayed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(images, "_work", _finds_something)
    assert command.main(["images", "--inputs", "2", "--keep", str(tmp_path)]) == 1
    kept = tmp_path / "images-1.json"
    assert f"error: images: KeyError in x (2 times; the first is kept as {kept})" in capsys.readouterr().err
    assert saved(kept) == ("images", {"image": images.made(0, 0)})
    assert command.main(["--replay", str(kept)]) == 0
    assert capsys.readouterr().out in ("images: accepted\n", "images: DataError\n")

    def broken(path: str, **_: object) -> np.ndarray:
        raise ZeroDivisionError("division by zero")

    monkeypatch.setattr(files, "read_image", broken)
    assert command.main(["--replay", str(kept)]) == 1
    out, err = capsys.readouterr()
    assert out == "images: broken\n"
    assert err.startswith("error: ZeroDivisionError in test_fuzz_images.py:broken: division by zero")


def _hangs_at_the_second(answers, first: int, inputs: int, seed: int, folder: str) -> None:
    import time

    for number in range(first, inputs):
        if number == 1:
            time.sleep(600)
        answers.send(images.Outcome(number, accepted=True))


def _finds_something(answers, first: int, inputs: int, seed: int, folder: str) -> None:
    for number in range(first, inputs):
        answers.send(images.Outcome(number, kind="KeyError", fault="KeyError in x"))


def _dies_at_the_second(answers, first: int, inputs: int, seed: int, folder: str) -> None:
    import os
    import signal

    for number in range(first, inputs):
        if number == 1:
            os.kill(os.getpid(), signal.SIGSEGV)
        answers.send(images.Outcome(number, accepted=True))
