"""The harness: what a piece of work costs in CPU time, wall time and memory, beside others that do the same.

Writing a benchmark
-------------------
A *contender* is a module-level function that gets ready (imports, data) and returns the work:

    def numpy_sort(*, n: int) -> Callable[[], Any]:
        import numpy as np

        x = np.random.default_rng(0).random(n)      # not measured
        return lambda: float(np.sort(x)[0])         # measured; its JSON value is kept, to compare results

A benchmark module, `benchmarks/<name>.py`, has one function that measures its contenders and says what came out:

    def sections(*, quick: bool) -> list[Section]:
        n = 1_000 if quick else 10_000_000
        measured = compare(
            [
                Contender("ours", "benchmarks.sorting:ours", {"n": n}),
                Contender("numpy", "benchmarks.sorting:numpy_sort", {"n": n}),
            ],
            repeats=1 if quick else 5,
        )
        ours, peer = measured
        return [
            Section(
                title="Sorting",
                text=f"{n:,} floats.",
                tables=(table(measured, ours=ours),),
                targets=(at_least("CPU of numpy / ours", peer, ours, 1.5),),
                measured=tuple(measured),
            )
        ]

`quick` is for the tests: the same code on sizes that take a second. A module is found by its being in this folder.

- A contender whose package is absent raises ModuleNotFoundError (or uadctl's BackendMissing) while it gets ready, by
  merely importing it; the page then says "not measured: needs X". For other reasons raise `Unavailable("needs AMX")`.
- Where only a share of the work can be run, run that share and give `scale=whole / share` and `share="150 of 21,401
  rounds"`: CPU and wall time are multiplied, memory is not, and the page says "extrapolated from …".
- Whole programs are contenders too: `Contender.command("uadctl --help", [PYTHON, "-m", "uadctl", "--help"])`.
- What contenders must agree on is their value: return the radius, the AUROC, a checksum; `Measured.value` has it. Large
  arrays go into a file whose name is among the arguments.
- Arguments and values travel as JSON.
- The first call of a library loads its code, which counts as memory and time. Where that is not what is compared, let
  the contender call it once on a tiny input while it gets ready.

What is measured
----------------
Every repetition runs in a fresh process, and the contenders take turns (A B C A B C …), so that what else the machine
does meets all of them. Of the work alone, not of getting ready:

- CPU: user + system time of all threads of the process, and of the child processes that the work waited for.
- wall: elapsed time.
- extra memory: the most that the process held during the work, less what it held before. On Linux the high-water mark
  of the process is set back before the work (5 written to /proc/self/clear_refs), after freed memory was given back
  (malloc_trim), and is read from VmHWM. Elsewhere it is the growth of `ru_maxrss`, which does not see work that stays
  below what getting ready took. Of child processes the largest one counts, in full; of a program that is measured with
  `tree=True` the sum over it and its descendants (Linux), pages that they share counted once, sampled while it runs.
- peak memory: the most that the process held, libraries and data of getting ready included. A whole program is never
  seen below what this harness holds itself, some 17 MB, since Linux counts the process that starts it.

BLAS, OpenMP, OpenCV and torch get `threads` threads, and no contender reaches for the network. Modules are compiled and
files are in memory as they are after a first run: run a program once before it is measured. Needs a POSIX system.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import math
import os
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from uadctl import heap
from uadctl.errors import BackendMissing

ROOT = Path(__file__).resolve().parents[1]
PYTHON = sys.executable

_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")
_PAUSE_S = 0.1  # between two looks at a program's processes
_PEAK_RSS = "5"  # what clear_refs calls the high-water mark

_THREADS = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "OPENCV_FOR_THREADS_NUM",
)
_OFFLINE = {"UADCTL_OFFLINE": "1", "HF_HUB_OFFLINE": "1"}


class Unavailable(Exception):
    """Raised by a contender that cannot run here; the text says what it needs, as in "needs a GPU"."""


@dataclass(frozen=True)
class Contender:
    """One way to do the work.

    title: its name on the page. function: "module:function", see the module's docstring. args: its JSON arguments.
    scale: CPU and wall time are multiplied by this, where only a share of the work is run. share: that share in words,
        for the page; needed if scale is not 1.
    env: environment variables of its process, beside ours. repeats: fewer repetitions than the others', for slow ones.
    """

    title: str
    function: str
    args: Mapping[str, Any] = field(default_factory=dict)
    scale: float = 1.0
    share: str = ""
    env: Mapping[str, str] = field(default_factory=dict)
    repeats: int | None = None

    def __post_init__(self) -> None:
        if self.scale != 1.0 and not self.share:
            raise ValueError(f"{self.title}: scale (={self.scale:g}) needs a share that says what was run")

    @classmethod
    def command(
        cls,
        title: str,
        argv: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
        codes: Sequence[int] = (0,),
        repeats: int | None = None,
        tree: bool = False,
    ) -> Contender:
        """A whole program, from its start to its end. codes: the exit codes that mean it went well.

        Its value is what it wrote to stdout; its memory, extra and peak, that of its largest process, or with `tree`
        of all its processes together.
        """
        args = {"argv": list(argv), "cwd": cwd, "codes": list(codes), "tree": tree}
        return cls(title, "benchmarks.measure:command", args, env=env or {}, repeats=repeats)


@dataclass(frozen=True)
class Run:
    """One repetition: seconds (scaled) and bytes as the module's docstring defines them, and the work's value."""

    cpu_s: float
    wall_s: float
    extra_bytes: int
    peak_bytes: int
    value: Any = None


@dataclass(frozen=True)
class Spread:
    """The median of some figures, the least and the greatest."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, figures: Sequence[float]) -> Spread:
        """Raises ValueError without figures."""
        if not figures:
            raise ValueError("no figures")
        return cls(statistics.median(figures), min(figures), max(figures))

    def text(self, unit: float = 1.0) -> str:
        """ "1.23 [1.20–1.31]", each divided by `unit`; the median alone where there is no spread to see."""
        median, low, high = (number(x / unit) for x in (self.median, self.low, self.high))
        return median if low == high else f"{median} [{low}–{high}]"


@dataclass(frozen=True)
class Measured:
    """The repetitions of a contender, or the reason why there are none. failed: it ought to have run."""

    contender: Contender
    runs: tuple[Run, ...] = ()
    reason: str = ""
    failed: bool = False

    @property
    def title(self) -> str:
        share = self.contender.share
        return f"{self.contender.title} (extrapolated from {share})" if share else self.contender.title

    @property
    def cpu(self) -> Spread:
        """Seconds."""
        return Spread.of([run.cpu_s for run in self.runs])

    @property
    def wall(self) -> Spread:
        """Seconds."""
        return Spread.of([run.wall_s for run in self.runs])

    @property
    def extra(self) -> Spread:
        """Bytes."""
        return Spread.of([run.extra_bytes for run in self.runs])

    @property
    def peak(self) -> Spread:
        """Bytes."""
        return Spread.of([run.peak_bytes for run in self.runs])

    @property
    def value(self) -> Any:
        """What the work returned in its first repetition; None if it did not run."""
        return self.runs[0].value if self.runs else None

    def over(self, other: Measured, quantity: str = "cpu_s") -> Spread | None:
        """How many times the other's figure this one's is, repetition by repetition; None unless both ran.

        quantity: a numeric field of `Run`.
        """
        if not (self.runs and other.runs):
            return None
        pairs = zip(self.runs, other.runs, strict=False)  # a slow contender may have fewer
        return Spread.of([getattr(a, quantity) / max(getattr(b, quantity), 1e-9) for a, b in pairs])

    def document(self) -> dict[str, Any]:
        """For docs/performance.json: everything but the arguments and values, which hold paths and data."""
        return {
            "title": self.title,
            "function": self.contender.function,
            "scale": self.contender.scale,
            "reason": self.reason or None,
            "runs": [
                {
                    "cpu_s": round(r.cpu_s, 6),
                    "wall_s": round(r.wall_s, 6),
                    "extra_bytes": r.extra_bytes,
                    "peak_bytes": r.peak_bytes,
                }
                for r in self.runs
            ],
        }


@dataclass(frozen=True)
class Table:
    """Cells as they stand on the page; the first column is text, the others figures."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    caption: str = ""


@dataclass(frozen=True)
class Target:
    """What was to be reached, and what was. ok: None where that cannot be said."""

    what: str
    wanted: str
    reached: str
    ok: bool | None


@dataclass(frozen=True)
class Figure:
    """A picture beside the page.

    file: its name in docs/. svg: its content. description: for those who cannot see it.
    """

    file: str
    svg: str
    description: str


@dataclass(frozen=True, kw_only=True)
class Section:
    """A passage of the page.

    text: what is compared, on what data, in Markdown. notes: paragraphs below the tables: what limits a figure, what
    was tried. measured: for the raw figures.
    """

    title: str
    text: str = ""
    tables: tuple[Table, ...] = ()
    targets: tuple[Target, ...] = ()
    notes: tuple[str, ...] = ()
    figures: tuple[Figure, ...] = ()
    measured: tuple[Measured, ...] = ()


def compare(
    contenders: Sequence[Contender], *, repeats: int, threads: int = 2, say: Callable[[str], None] | None = None
) -> list[Measured]:
    """Measure the contenders in turns, each repetition in a fresh process; in their order.

    threads: for each of them. say: is told how it goes, line by line; stderr if not given.
    A contender that cannot run, or ends with an error, has no runs but a reason; so has one whose later repetition
    fails.
    """
    say = say or _to_stderr
    runs: list[list[Run]] = [[] for _ in contenders]
    ended: dict[int, Measured] = {}
    for turn in range(repeats):
        for i, contender in enumerate(contenders):
            if i in ended or turn >= (contender.repeats or repeats):
                continue
            outcome = _fresh(contender, threads)
            if isinstance(outcome, Measured):
                ended[i] = outcome
                say(f"{contender.title}: {outcome.reason}")
            else:
                runs[i].append(outcome)
                say(f"{contender.title} {turn + 1}: {outcome.cpu_s:.3f} s CPU, {outcome.extra_bytes / 1e6:.0f} MB")
    return [ended.get(i) or Measured(c, tuple(runs[i])) for i, c in enumerate(contenders)]


def measure_command(
    argv: Sequence[str], *, env: Mapping[str, str] | None = None, cwd: str | None = None, threads: int = 2
) -> Run:
    """One run of a whole program. Raises RuntimeError with the end of its stderr if it does not exit with 0."""
    measured = compare([Contender.command(argv[0], argv, env=env, cwd=cwd)], repeats=1, threads=threads, say=_silent)[0]
    if not measured.runs:
        raise RuntimeError(measured.reason)
    return measured.runs[0]


def added(title: str, *parts: Measured) -> Measured:
    """One contender out of parts that were measured apart: times add up, memory is that of the largest part."""
    if reason := next((p.reason for p in parts if p.reason), ""):
        return Measured(Contender(title, "benchmarks.measure:added"), (), reason, any(p.failed for p in parts))
    runs = tuple(
        Run(
            sum(r.cpu_s for r in turn),
            sum(r.wall_s for r in turn),
            max(r.extra_bytes for r in turn),
            max(r.peak_bytes for r in turn),
            [r.value for r in turn],
        )
        for turn in zip(*(p.runs for p in parts), strict=False)
    )
    return Measured(Contender(title, "benchmarks.measure:added"), runs)


def table(
    measured: Sequence[Measured],
    *,
    ours: Measured,
    per: float = 1.0,
    unit: str = "s",
    columns: Mapping[str, Callable[[Measured], str]] | None = None,
    memory: str = "extra",
    times: str = "CPU, times ours",
    caption: str = "",
) -> Table:
    """Contenders as rows: CPU and wall time, memory, and how many times the CPU time of `ours` each takes.

    per: times are divided by this, and `unit` says what they then are: (784 / 1000, "ms a query") for 784 queries.
    columns: further ones, each a function of a contender that ran. memory: "extra" or "peak". times: the head of the
    column of ratios.
    """
    extra = columns or {}
    rows = []
    for m in measured:
        if not m.runs:
            rows.append((m.title, m.reason, *[""] * (3 + len(extra))))
            continue
        ratio = m.over(ours)
        held = m.extra if memory == "extra" else m.peak
        relative = "–" if ratio is None else "1" if m is ours else ratio.text()
        cells = [m.cpu.text(per), number(m.wall.median / per), number(held.median / 1e6), relative]
        rows.append((m.title, *cells, *[column(m) for column in extra.values()]))
    head = ("", f"CPU {unit} [min–max]", f"wall {unit}", f"{memory} MB", times, *extra)
    return Table(head, tuple(rows), caption)


def at_least(what: str, peer: Measured, ours: Measured, wanted: float, *, quantity: str = "cpu_s") -> Target:
    """The target that a peer's figure is at least `wanted` times ours. quantity: a numeric field of `Run`."""
    ratio = peer.over(ours, quantity)
    said = f"≥ {wanted:.3g}×"
    if ratio is None:
        return Target(what, said, peer.reason or ours.reason, None)
    return Target(what, said, f"{ratio.text()}×", ratio.median >= wanted)


def at_most(what: str, ours: Measured, peer: Measured, wanted: float, *, quantity: str = "cpu_s") -> Target:
    """The target that our figure is at most `wanted` times a peer's. quantity: a numeric field of `Run`."""
    ratio = ours.over(peer, quantity)
    said = f"≤ {wanted:.3g}×"
    if ratio is None:
        return Target(what, said, ours.reason or peer.reason, None)
    return Target(what, said, f"{ratio.text()}×", ratio.median <= wanted)


def number(x: float) -> str:
    """Three significant digits, without exponent down to a millionth: 12,300 · 1.23 · 0.00123."""
    if not math.isfinite(x) or x == 0:
        return f"{x:g}"
    if abs(x) < 1e-6:
        return f"{x:.2e}"
    digits = 2 - math.floor(math.log10(abs(x)))
    rounded = round(x, digits)
    return f"{rounded:,.{max(0, 2 - math.floor(math.log10(abs(rounded))))}f}"


# -- the parent's side of a fresh process


def _fresh(contender: Contender, threads: int) -> Run | Measured:
    env = {**os.environ, **_OFFLINE, **dict.fromkeys(_THREADS, str(threads)), **contender.env}
    env.pop("PYTHONDONTWRITEBYTECODE", None)  # an installed package is compiled: compiling is no part of its start
    env["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), env.get("PYTHONPATH", "")]))
    request = json.dumps({"function": contender.function, "args": dict(contender.args), "threads": threads})
    with tempfile.TemporaryFile() as errors:
        done = subprocess.run(
            [PYTHON, "-m", "benchmarks.measure"],
            input=request.encode(),
            stdout=subprocess.PIPE,
            stderr=errors,
            env=env,
            check=False,
        )
        errors.seek(0)
        said = errors.read().decode(errors="replace").strip()
    if done.returncode:
        sys.stderr.write(f"{said}\n")
        last = said.splitlines()[-1] if said else f"exit code {done.returncode}"
        return Measured(contender, (), f"failed: {last}", failed=True)
    answer = json.loads(done.stdout)
    if "reason" in answer:
        return Measured(contender, (), f"not measured: {answer['reason']}")
    run = Run(**answer)
    scale = contender.scale
    return Run(run.cpu_s * scale, run.wall_s * scale, run.extra_bytes, run.peak_bytes, run.value)


def _to_stderr(line: str) -> None:
    sys.stderr.write(f"  {line}\n")
    sys.stderr.flush()


def _silent(line: str) -> None:
    pass


# -- the fresh process


def command(*, argv: Sequence[str], cwd: str | None = None, codes: Sequence[int] = (0,), tree: bool = False) -> Program:
    """The contender behind `Contender.command`; the work of others that run a program."""
    return Program(argv, cwd=cwd, codes=codes, tree=tree)


class Program:
    """Runs a program when called, and returns what it wrote to stdout.

    tree_bytes: the most that it and its descendants were seen to hold together; 0 without `tree`.
    watching_cpu_s: what looking at them took, which is not the program's.
    """

    def __init__(self, argv: Sequence[str], *, cwd: str | None, codes: Sequence[int], tree: bool) -> None:
        self._argv, self._cwd, self._codes, self._tree = argv, cwd, codes, tree
        self.tree_bytes = 0
        self.watching_cpu_s = 0.0

    def __call__(self) -> str:
        with subprocess.Popen(
            self._argv,
            cwd=self._cwd,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            over = threading.Event()
            watcher = threading.Thread(target=self._watch, args=(process.pid, over))
            if self._tree:
                watcher.start()
            out, errors = process.communicate()
            over.set()
            if self._tree:
                watcher.join()
        if process.returncode not in self._codes:
            sys.stderr.write(errors)
            raise RuntimeError(f"{self._argv[0]} ended with exit code {process.returncode}")
        return out

    def _watch(self, pid: int, over: threading.Event) -> None:
        pause = _PAUSE_S
        while not over.wait(pause):
            start = time.perf_counter()
            self.tree_bytes = max(self.tree_bytes, sum(_share(each) for each in _descendants(pid)))
            pause = max(_PAUSE_S, 9 * (time.perf_counter() - start))  # a tenth of the time at most
        self.watching_cpu_s = time.thread_time()


def _descendants(pid: int) -> list[int]:
    """The process and all that descend from it; those that have just ended are left out."""
    found = [pid]
    for each in found:  # grows as it is walked
        for file in Path(f"/proc/{each}/task").glob("*/children"):
            with contextlib.suppress(OSError):
                found += [int(word) for word in file.read_text(encoding="ascii").split()]
    return found


def _share(pid: int) -> int:
    """Bytes a process holds, pages shared by n processes counted 1/n; 0 if it has ended or the system does not say."""
    with contextlib.suppress(OSError):
        found = re.search(r"^Pss:\s+(\d+) kB", Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii"), re.M)
        return int(found[1]) * 1024 if found else 0
    return 0


def _serve() -> None:
    """Run the contender that stdin names, and write its figures to stdout as JSON."""
    request = json.load(sys.stdin)
    answer_to = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what a library prints must not mix with the answer
    try:
        module, _, name = request["function"].partition(":")
        work = getattr(importlib.import_module(module), name)(**request["args"])
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package in ("", "benchmarks", "uadctl"):
            raise
        answer: dict[str, Any] = {"reason": f"needs {package}"}
    except (Unavailable, BackendMissing) as error:
        answer = {"reason": str(error)}
    else:
        if "torch" in sys.modules:
            sys.modules["torch"].set_num_threads(request["threads"])
        answer = _measure(work)
    with answer_to:
        json.dump(answer, answer_to)


def _measure(work: Callable[[], Any]) -> dict[str, Any]:
    gc.collect()
    heap.give_back()  # work that reuses freed memory would seem to need none
    before = _held()
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu, wall = time.process_time(), time.perf_counter()
    value = work()
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    peak = _peak()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu += after.ru_utime + after.ru_stime - children.ru_utime - children.ru_stime
    extra = max(0, peak - before)
    if after.ru_maxrss > children.ru_maxrss:
        extra, peak = max(extra, _bytes(after.ru_maxrss)), max(peak, _bytes(after.ru_maxrss))
    if isinstance(work, Program):
        extra, peak = max(extra, work.tree_bytes), max(peak, work.tree_bytes)
        cpu -= work.watching_cpu_s
    return {"cpu_s": cpu, "wall_s": wall, "extra_bytes": extra, "peak_bytes": peak, "value": value}


def _held() -> int:
    """Bytes this process holds; from here on `_peak` counts."""
    try:
        _CLEAR.write_text(_PEAK_RSS, encoding="ascii")
        return _status("VmRSS")
    except OSError:  # another system than Linux, or a container that does not allow it
        return _bytes(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)


def _peak() -> int:
    try:
        return _status("VmHWM")
    except OSError:
        return _bytes(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)


def _status(key: str) -> int:
    found = re.search(rf"^{key}:\s+(\d+) kB", _STATUS.read_text(encoding="ascii"), re.M)
    if found is None:
        raise OSError(f"{_STATUS} has no {key}")
    return int(found[1]) * 1024


def _bytes(maxrss: int) -> int:
    return maxrss if sys.platform == "darwin" else maxrss * 1024


if __name__ == "__main__":
    # Under its own name: an `Unavailable` raised by a contender must be the one that is caught here.
    from benchmarks.measure import _serve as serve

    serve()
