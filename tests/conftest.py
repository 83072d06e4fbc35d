from __future__ import annotations

import json
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import parts as made
import pytest
from typer.testing import CliRunner

# A shell's background jobs ignore Ctrl-C, and so would the programs that tests start and interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)


@dataclass(frozen=True)
class Ended:
    """How a command ended, and what it said."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out, parse_constant=_no_constant)

    @property
    def lines(self) -> list[Any]:
        return [json.loads(line, parse_constant=_no_constant) for line in self.out.splitlines()]


def _no_constant(text: str) -> None:
    raise AssertionError(f"{text} is no strict JSON")


@pytest.fixture
def uadctl(tmp_path, monkeypatch):
    """Run the program in this process, with run folders below tmp_path."""
    from uadctl.cli.app import app

    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("COLUMNS", raising=False)  # tables as in a pipe: workers of a parallel test run have it set
    for host in ("GITHUB_ACTIONS", "GITHUB_STEP_SUMMARY", "TF_BUILD"):  # what CI hosts are told is no part of a test
        monkeypatch.delenv(host, raising=False)

    def run(*args: object, code: int | None = 0) -> Ended:
        result = CliRunner().invoke(app, [str(a) for a in args])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        ended = Ended(result.exit_code, result.stdout, result.stderr)
        assert code is None or ended.code == code, f"exit {ended.code}\n{ended.err}\n{ended.out}"
        return ended

    return run


@pytest.fixture
def one_category(tmp_path) -> Path:
    """The root of a data set in MVTec AD's layout with the category tile."""
    made.write_category(tmp_path / "data", "tile")
    return tmp_path / "data"


@pytest.fixture
def small(one_category) -> list[str]:
    """Options of a bench that takes a second: the data set, and images brought to 64x64."""
    return ["--dataset", "mvtec", "--root", str(one_category), "--model", "patchcore", "--set", "preprocess.size=64"]


@pytest.fixture(scope="session")
def finished(tmp_path_factory) -> Path:
    """A finished run of the category tile. Read it, do not change it."""
    from uadctl import run_benchmark

    folder = tmp_path_factory.mktemp("finished")
    made.write_category(folder / "data", "tile")
    result = run_benchmark("mvtec", root=str(folder / "data"), run_dir=str(folder / "runs"))
    assert not result.failed
    return result.run.path
