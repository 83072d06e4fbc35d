"""Jobs for the tests of engines on other processes: small work that can be watched, held up and killed."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from uadctl.errors import DataError


@dataclass(frozen=True)
class Square:
    """Squares a number; `slow` seconds each."""

    threads: int = 1
    slow: float = 0.0

    def open(self) -> Any:
        def work(number, progress):
            time.sleep(self.slow)
            return number * number

        return work


@dataclass(frozen=True)
class Marked:
    """Squares numbers, leaving a file `begun-<number>-<pid>` in `folder` each time one is begun.

    Those `held` wait while the file `hold` is there; or, if their `fate` is "die", kill their process.
    size: bytes of an array in the result.
    """

    folder: Path
    held: tuple[int, ...] = ()
    fate: str = "wait"
    threads: int = 1
    size: int = 0

    def open(self) -> Any:
        def work(number, progress):
            (self.folder / f"begun-{number}-{os.getpid()}").touch()
            if number in self.held:
                print(f"number {number} is held", flush=True)
                if self.fate == "die":
                    os.kill(os.getpid(), signal.SIGKILL)
                while (self.folder / "hold").exists():
                    time.sleep(0.02)
            return (number * number, np.full(self.size, number, np.uint8))

        return work


class Refusing:
    """Cannot be opened."""

    threads = 1

    def open(self) -> Any:
        raise DataError("data/screw: no such folder", help="Unpack it there.")


class Unreadable:
    """Travels, but cannot be read at the other end."""

    threads = 1

    def __reduce__(self) -> Any:
        return (_unreadable, ())

    def open(self) -> Any:
        raise AssertionError


def _unreadable() -> None:
    raise ModuleNotFoundError("No module named 'foreign'")


@dataclass(frozen=True)
class Failing:
    """Raises at odd numbers, and says things."""

    threads: int = 1

    def open(self) -> Any:
        def work(number, progress):
            with progress.task(f"number {number}", 2) as task:
                task.advance(2)
            progress.warn(f"{number} was seen")
            if number == 1:
                raise DataError("img/1.png: broken", help="Copy it again.")
            if number == 3:
                return lambda: number  # cannot be pickled
            return number

        return work


@dataclass(frozen=True)
class Surroundings:
    """Tells with how many threads the libraries compute, and what the processes are."""

    threads: int = 2

    def open(self) -> Any:
        def work(payload, progress):
            import torch
            from threadpoolctl import threadpool_info

            np.ones((2, 2)) @ np.ones((2, 2))
            pools = {p["prefix"]: p["num_threads"] for p in threadpool_info() if "numpy" in p["filepath"]}
            return {"torch": torch.get_num_threads(), "pools": pools, "pid": os.getpid()}

        return work


@dataclass(frozen=True)
class Bars:
    """Shows a bar until the file `hold` is gone."""

    folder: Path
    threads: int = 1

    def open(self) -> Any:
        def work(payload, progress):
            with progress.task("images", 10) as task:
                task.advance(4)
                while (self.folder / "hold").exists():
                    time.sleep(0.02)
            return payload

        return work
