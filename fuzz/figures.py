"""What a fuzzer counts: inputs that were accepted, that were refused and how, what broke, and the worst of time and
memory."""

from __future__ import annotations

import contextlib
import json
import math
import re
import signal
import sys
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from types import FrameType
from typing import Final, Protocol, TypeAlias

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import seed as seeded
from hypothesis import strategies as st

Case: TypeAlias = dict[str, bytes]
"""One input: the bytes of each of its parts (files, options), by name."""

ACCEPTED: Final = "accepted"

MOST_SECONDS: Final = 1.0
"""Processor time that an input may take. That of the clock would be the other programs' as well."""

MOST_BYTES: Final = 200 << 20
"""By how much an input may raise the peak of the process's resident memory."""

MOST_MESSAGES: Final = 100_000
"""Characters of messages that an error may have, all of its problems together."""

# An input that takes longer by the clock is given up, or a hang would end the run.
_PATIENCE: Final = 30.0
# Hypothesis remembers every input of a run, so as to repeat none.
_BATCH: Final = 1000


class Broken(Exception):
    """An input was accepted, or refused, otherwise than is promised; the message says how."""


class Stuck(BaseException):
    """An input was given up. No Exception, so that no code under test takes it for its own."""


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that is wrong. what: the error and where it was raised, or the broken promise. times: how often.

    case: the first input that did it.
    """

    what: str
    case: Case
    times: int = 1


@dataclass(frozen=True, slots=True)
class Figures:
    """What a run of a fuzzer has seen.

    refused: by kind of error, how many inputs. worst_seconds: of processor time, for one input.
    worst_bytes: by how much resident memory was above that at the start, at its peak: no single input took more.
    """

    inputs: int
    accepted: int
    refused: dict[str, int]
    worst_seconds: float
    worst_bytes: int
    findings: tuple[Finding, ...] = ()


class Target(Protocol):
    """Something that is given inputs. name: what it is called on the command line."""

    name: str

    def make(self, rng: Random) -> Case:
        """One input; equal for equal choices of `rng`."""
        ...

    def judge(self, case: Case) -> str:
        """Give it the input. Returns ACCEPTED or the name of the error that refused it.

        Raises Broken where that is not as promised, and whatever else comes out: that is a finding as well.
        """
        ...


@dataclass(slots=True)
class _Tally:
    inputs: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    worst_seconds: float = 0.0
    findings: dict[str, tuple[Case, int]] = field(default_factory=dict)

    def found(self, what: str, case: Case) -> None:
        first, times = self.findings.get(what, (case, 0))
        self.findings[what] = first, times + 1


def drive(target: Target, inputs: int, seed: int) -> Figures:
    """Give a target so many inputs, drawn by Hypothesis, the same for the same seed, and count what happens.

    Ctrl-C ends it early; the figures are of what was tried until then.
    """
    tally = _Tally()
    _forget_peak()
    before = _resident()
    with contextlib.suppress(KeyboardInterrupt):
        while tally.inputs < inputs:
            most = min(_BATCH, inputs - tally.inputs)
            _batch(target.make, most, f"{seed}:{tally.inputs}", lambda case: _try(target, case, tally))
    return Figures(
        inputs=tally.inputs,
        accepted=tally.outcomes.pop(ACCEPTED, 0),
        refused=dict(sorted(tally.outcomes.items())),
        worst_seconds=tally.worst_seconds,
        worst_bytes=max(0, _peak() - before),
        findings=tuple(Finding(what, case, times) for what, (case, times) in tally.findings.items()),
    )


def _batch(make: Callable[[Random], Case], inputs: int, seed: str, use: Callable[[Case], None]) -> None:
    """Draw inputs, each another, and hand each on.

    Hypothesis draws what seeds each input's generator, not each of the hundreds of choices that make one: that would
    take most of the time. Where an input is to be made smaller, as in tests, `st.randoms()` makes it choice by choice.
    """

    @seeded(seed)
    @settings(
        max_examples=inputs,
        database=None,
        deadline=None,
        phases=(Phase.generate,),
        suppress_health_check=list(HealthCheck),
    )
    @given(st.randoms(use_true_random=True))
    def one(rng: Random) -> None:
        use(make(rng))

    one()


def _try(target: Target, case: Case, tally: _Tally) -> None:
    tally.inputs += 1
    peak, start = _peak(), time.process_time()
    outcome, what = outcome_of(target, case)
    seconds, grown = time.process_time() - start, _peak() - peak
    tally.worst_seconds = max(tally.worst_seconds, seconds)
    tally.outcomes[outcome] += 1
    if what is not None:
        tally.found(what.splitlines()[0], case)
    if seconds > MOST_SECONDS:
        tally.found(f"takes more than {MOST_SECONDS:g} s of processor time", case)
    if grown > MOST_BYTES:
        tally.found(f"takes more than {MOST_BYTES >> 20} MB", case)


def outcome_of(target: Target, case: Case) -> tuple[str, str | None]:
    """What a target makes of an input, and what is wrong with that: a line, and perhaps a traceback below it."""
    try:
        with _patience():
            return target.judge(case), None
    except Broken as error:
        return "broken", str(error)
    except Stuck:
        return "stuck", f"is not done after {_PATIENCE:g} s"
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # noqa: BLE001 - whatever comes out is what is looked for; a panic is no Exception
        place = traceback.extract_tb(error.__traceback__)[-1]
        ours = [frame for frame in traceback.extract_tb(error.__traceback__) if "uadctl" in Path(frame.filename).parts]
        place = ours[-1] if ours else place
        said = " ".join(str(error).split())[:120]
        line = f"{type(error).__name__} in {Path(place.filename).name}:{place.name} ({place.line}): {said}"
        return "traceback", f"{line}\n{traceback.format_exc()}"


@contextlib.contextmanager
def _patience() -> Iterator[None]:
    """Raise Stuck after a while; not on Windows, and only in the main thread, which alone gets signals."""
    if sys.platform == "win32" or threading.current_thread() is not threading.main_thread():
        yield
        return

    def give_up(number: int, frame: FrameType | None) -> None:
        raise Stuck

    before = signal.signal(signal.SIGALRM, give_up)
    signal.setitimer(signal.ITIMER_REAL, _PATIENCE)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _forget_peak() -> None:
    """Have the peak of resident memory counted from now on, where the system can: Linux's proc(5), clear_refs."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", "ascii")


def _peak() -> int:
    """The most resident memory that this process had since `_forget_peak`, or ever, in bytes; 0 on Windows."""
    if sys.platform == "win32":
        return 0
    status = Path("/proc/self/status")
    if status.is_file() and (found := re.search(r"VmHWM:\s+(\d+) kB", status.read_text("ascii"))):
        return int(found[1]) * 1024
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _resident() -> int:
    """Resident memory now, in bytes; where the system does not say so, the peak."""
    from uadctl.service import resident

    return resident() or _peak()


# ---- inputs that are kept


def save(folder: Path, target: str, finding: Finding) -> Path:
    """Keep a finding's input as a file that `--replay` takes; returns where."""
    folder.mkdir(parents=True, exist_ok=True)
    number = 1 + len(list(folder.glob(f"{target}-*.json")))
    file = folder / f"{target}-{number}.json"
    # Latin-1 has a character for each byte: what is text can be read.
    parts = {name: data.decode("latin-1") for name, data in finding.case.items()}
    file.write_text(json.dumps({"target": target, "what": finding.what, "parts": parts}, indent=2), encoding="utf-8")
    return file


def saved(file: Path) -> tuple[str, Case]:
    """The target's name and the input of a file that `save` wrote."""
    document = json.loads(file.read_bytes())
    return document["target"], {name: text.encode("latin-1") for name, text in document["parts"].items()}


def table(all_figures: Mapping[str, Figures]) -> str:
    """The figures as a Markdown table, a line a target."""
    lines = [
        "| | inputs | accepted | refused | tracebacks and broken promises | worst time | memory |",
        "|---|---:|---:|---|---:|---:|---:|",
    ]
    for name, figures in all_figures.items():
        refused = ", ".join(f"{kind} {n:,}" for kind, n in figures.refused.items())
        wrong = sum(finding.times for finding in figures.findings)
        lines.append(
            f"| {name} | {figures.inputs:,} | {figures.accepted:,} | {refused} | {wrong:,} "
            f"| {math.ceil(figures.worst_seconds * 1000)} ms | {math.ceil(figures.worst_bytes / 1e6)} MB |"
        )
    return "\n".join(lines) + "\n"
