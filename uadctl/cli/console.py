"""What people see: messages and bars on stderr, tables on stdout.

The only module that imports rich, and only when used.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Self

from uadctl.cli import interruption
from uadctl.cli.logs import Level, Log
from uadctl.errors import SpecError, UadctlError
from uadctl.progress import Silent, Task
from uadctl.spec.values import printable

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress

_LEVELS: dict[str, Level] = {"error": "error", "warning": "warning"}
_INTERRUPTED = "interrupted"
# A folder with 100,000 broken files must not fill a log.
_MESSAGE_BYTES = 64_000
# Nor one with a name of a megabyte.
_LINE_BYTES = 16_000
# So many messages are said once only.
_REMEMBERED = 10_000


class Screen:
    """How this process talks: set once by the command that runs."""

    def __init__(self) -> None:
        self.log = Log(())
        self.configure()

    def configure(self, *, quiet: bool = False, debug: bool = False, log_file: str | None = None) -> None:
        """Begin anew, for one command. SpecError if its log cannot be opened."""
        self.quiet = quiet
        self.debug = debug
        self.interrupted: str | None = None  # the next step after Ctrl-C
        self._said: set[str] = set()
        self._spent = 0
        self._left_out = 0
        self._erred = False
        self._bars: Bars | None = None
        self.printed = False  # whether stdout has had a line
        if log_file is not None:
            self.log.open(log_file, told=lambda text: self.message("warning", text))

    def message(
        self,
        kind: str,
        text: str,
        help: str | None = None,
        *,
        error: BaseException | None = None,
        shown: bool = True,
    ) -> None:
        """One line `kind: text` on stderr, the help indented below; what could move a cursor is escaped.

        Very long lines are cut, and very many kept back; never the first error, which says why the command failed. The
        log gets all of them.

        error: what it is about, for the log. shown: False writes it only there.
        """
        lines = [f"{kind}: {printable(text)}"]
        lines += [f"  {printable(line)}" for line in (help or "").splitlines()]
        block = "\n".join(lines)
        if block in self._said:
            return
        if len(self._said) >= _REMEMBERED:  # a service has months to fill it
            self._said.clear()
        self._said.add(block)
        self.log.write(_LEVELS.get(kind, "info"), text, help=help, error=error)
        if not shown:
            return
        kept = []
        for i, line in enumerate(map(_cut, lines)):
            needed = kind == "error" and i == 0 and not self._erred
            self._erred |= needed
            self._spent += len(line.encode("utf-8", "backslashreplace")) + 1
            if self._spent > _MESSAGE_BYTES and not needed:
                self._left_out += 1
            else:
                kept.append(line)
        if kept:
            self.write("\n".join(kept))

    def note(self, text: str, *, kind: str = "warning") -> None:
        """How the command was understood, where that may surprise."""
        self.message(kind, text, shown=not self.quiet)

    def status(self, text: str, *, kind: str = "note") -> None:
        """How a command goes that goes on for months: said each time, outside of what a command may say in all."""
        self.log.write(_LEVELS.get(kind, "info"), text)
        if not self.quiet:
            self.write(_cut(f"{kind}: {printable(text)}"))

    def close(self) -> None:
        """Say how much was kept back."""
        if self._left_out:
            self.write(f"and {self._left_out} more lines")
            self._left_out = 0

    def error(self, error: UadctlError) -> None:
        """Every problem of an error, each with its help."""
        for i, problem in enumerate(error.problems):
            self.message("error", problem.message, problem.help, error=None if i else error)
        if isinstance(error, SpecError) and error.source is not None and len(error.problems) > 1:
            self.write(f"{error.source}: {len(error.problems)} problems (listed above); nothing was run.")

    def write(self, text: str) -> None:
        """A line on stderr, above a running bar."""
        text = text.encode("utf-8", "backslashreplace").decode()
        if self._bars is not None and self._bars.live is not None:
            self._bars.live.console.print(text, markup=False, highlight=False, soft_wrap=True)
        else:
            print(text, file=sys.stderr, flush=True)  # noqa: T201

    def farewell(self) -> None:
        """Say that the command was interrupted, in place of a main thread that does not come to it.

        It may hold any lock, those of stderr and of a bar too: so this goes past them.
        """
        bar = "\r\x1b[2K\x1b[?25h" if self._bars is not None and self._bars.live is not None else ""
        lines = [f"error: {_INTERRUPTED}", *(f"  {printable(line)}" for line in (self.interrupted or "").splitlines())]
        said = (bar + "\n".join(lines) + "\n").encode("utf-8", "backslashreplace")
        os.write(sys.__stderr__.fileno() if sys.__stderr__ is not None else 2, said)
        self.log.write("error", _INTERRUPTED, help=self.interrupted)
        self.log.end(interruption.INTERRUPTED)

    def say_interrupted(self) -> None:
        """Say so where the main thread has come to it."""
        if interruption.tell():
            self.message("error", _INTERRUPTED, self.interrupted)

    @contextmanager
    def progress(self, *, device: str | None = None) -> Iterator[Bars]:
        """Bars on a terminal; otherwise only warnings and failures are shown, and with --quiet only failures.

        device: what the network runs on, named by the bars.
        """
        self._bars = Bars(self, device=device, visible=not self.quiet and sys.stderr.isatty())
        try:
            yield self._bars
        finally:
            self._bars.stop()
            self._bars = None


def _cut(line: str) -> str:
    encoded = line.encode("utf-8", "backslashreplace")
    return line if len(encoded) <= _LINE_BYTES else encoded[:_LINE_BYTES].decode("utf-8", "ignore") + "…"


class Bars(Silent):
    """A Progress for people."""

    def __init__(self, screen: Screen, *, device: str | None, visible: bool) -> None:
        super().__init__()
        self._screen = screen
        self._device = device
        self._visible = visible
        self.live: RichProgress | None = None

    def task(self, title: str, total: int | None, *, unit: str = "images") -> Task:
        if not self._visible:
            return super().task(title, total, unit=unit)
        if self.live is None:
            self.live = _bars(self._device)
            self.live.start()
        return _Bar(self, self.live, self.live.add_task(title, total=total, unit=unit))

    def stop(self) -> None:
        if self.live is not None:
            self.live.stop()
            self.live = None

    def warn(self, message: str) -> None:
        super().warn(message)
        self._screen.note(message)

    def fail(self, message: str, error: Exception) -> None:
        super().fail(message, error)
        help_ = error.help if isinstance(error, UadctlError) else None
        self._screen.message("error", message, help_, error=error)
        if self._screen.debug:
            import traceback

            self._screen.write("".join(traceback.format_exception(error)).rstrip())


class _Bar:
    """A bar that goes away when its task is over."""

    def __init__(self, bars: Bars, live: RichProgress, task: Any) -> None:
        self._bars, self._live, self._task = bars, live, task

    def advance(self, n: int = 1) -> None:
        self._live.advance(self._task, n)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._live.remove_task(self._task)
        if not self._live.tasks:
            self._bars.stop()


def _bars(device: str | None) -> RichProgress:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, TextColumn, TimeRemainingColumn
    from rich.text import Text

    class Rate(ProgressColumn):
        def render(self, task: Any) -> Text:
            speed = task.finished_speed or task.speed
            return Text("" if speed is None else f"{speed:.1f} {task.fields['unit']}/s")

    class Device(ProgressColumn):
        def render(self, task: Any) -> Text:
            return Text(_device_text(device), style="dim")

    columns: list[ProgressColumn] = [
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=16),
        MofNCompleteColumn(),
        Rate(),
        TimeRemainingColumn(),
    ]
    if device is not None:
        columns.append(Device())
    # Lines that go to the same terminal appear above the bar; results in a pipe must stay in the pipe.
    return Progress(*columns, console=Console(stderr=True), transient=True, redirect_stdout=sys.stdout.isatty())


def _device_text(device: str | None) -> str:
    if device is None or not device.startswith("cuda"):
        return device or ""
    import torch

    return f"{device} {torch.cuda.memory_allocated(device) / 2**30:.1f} GiB"


def print_table(
    headings: Sequence[str], rows: Iterable[Sequence[str]], *, text_columns: int, wrap: bool = True
) -> None:
    """A table on stdout. The first `text_columns` columns hold words, the others numbers, which are never broken.

    wrap: whether words may be, so that the table fits the terminal; names that somebody will copy should not.
    """
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    for i, heading in enumerate(headings):
        words = i < text_columns
        broken = words and wrap
        table.add_column(
            Text(_cell(heading)),
            justify="left" if words else "right",
            no_wrap=not broken,
            overflow="fold",
            vertical="top",
        )
    for row in rows:
        table.add_row(*(Text(_cell(cell)) for cell in row))
    # rich knows the terminal's width, and $COLUMNS; in a pipe without either nothing needs to fit.
    width = Console().width if sys.stdout.isatty() or "COLUMNS" in os.environ else 200
    if not wrap:
        width = max(width, Console(width=1000).measure(table).maximum)
    console = Console(width=width, color_system=None)
    with _to_stdout(), console.capture() as captured:
        console.print(table)
    if screen.printed:
        print_lines("")
    print_lines("\n".join(line.rstrip() for line in captured.get().strip("\n").splitlines() if line.strip()))


def _cell(text: str) -> str:
    """A cell may have several lines; what else could move a cursor is escaped."""
    return "\n".join(printable(line) for line in text.split("\n"))


def print_told(text: str) -> None:
    """One line for people on stdout; names in it may be anybody's, and what could move a cursor is escaped."""
    print_lines(printable(text))


def print_lines(text: str) -> None:
    """Plain text on stdout, as it is."""
    screen.printed = True
    with interruption.deferred(), _to_stdout():
        sys.stdout.write(text.encode("utf-8", "backslashreplace").decode() + "\n")
        sys.stdout.flush()


@contextmanager
def _to_stdout() -> Iterator[None]:
    """Name what cannot be written to: a full disk, say."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            error.filename = "standard output"
        raise


screen = Screen()
